/* The first virtio disk: numbered, checksummed blocks go out, and all that were acknowledged must
 * come back as they were.
 *
 * Flow:   vcpu loop, command -> [disk] -> virtio
 * Thread: vCPU 0.
 *
 * Block n is bytes [n * 4096, (n + 1) * 4096): u64 magic, number, counter, seed, then words made of
 * these, then a sum over all before it; so a block read from outside can be judged too.
 */
#ifndef GUEST_DISK_H
#define GUEST_DISK_H

#include <stdbool.h>
#include <stdint.h>

struct latency;
struct options;

enum { DISK_BLOCK_BYTES = 4096, DISK_BLOCKS_MAX = 16384, DISK_WORDS = DISK_BLOCK_BYTES / 8 };

#define DISK_MAGIC UINT64_C(0x6b636f6c62207767) /* "gw block" */

struct disk_numbers {
    uint64_t written; /* blocks acknowledged */
    uint64_t flushes; /* acknowledged */
    uint64_t read, errors, interrupts;
    uint32_t blocks; /* in use */
    uint32_t on_their_way;
    bool is_well;
};

struct disk_verdict {
    uint64_t blocks, bad;
    uint64_t first; /* bad one */
    uint64_t want, found;
    const char *why; /* of the first: 0 when none is bad */
};

/* Nothing without `disk=` on the command line. Reports what it finds wrong. */
void disk_init(const struct options *options);
bool disk_is_there(void);
void disk_step(uint64_t now_tsc);
void disk_set_on(bool now_on);
void disk_set_rate(uint64_t blocks_per_s);
/* One block after the other, else any. */
void disk_set_in_order(bool in_order);
/* A flush goes out after so many writes; at least 1. */
void disk_set_flush_every(uint64_t writes);
/* Forget how long requests took; and how long they did, from their offer to their end. */
void disk_mark(void);
const struct latency *disk_writes(void);
const struct latency *disk_flushes(void);
/* Ends what is on its way. False when the device does not answer in time. */
bool disk_flush(void);
/* Reads every block that was ever acknowledged. False as above. */
bool disk_verify(struct disk_verdict *ret_verdict);
void disk_numbers(struct disk_numbers *ret_numbers);

#endif
