/* A guest at rest in a file: the pages that have memory, its machine's state, digests over every byte.
 *
 * Flow:   agent/vm -> [guest_file] -> page_codec -> file;  file -> page_place -> [guest_file] -> agent/vm
 * Thread: any; blocking. The guest stands still.
 *
 *      0  whose it is, and in the next sector who went on from it (storage/guest_label.h)
 *   1024  its shape: machine, CPU baseline, vCPUs, regions, with their own digest
 *   4096  page frames of one lane, round 1, as they travel (proto/page_frame.h), and their last fence
 *         u64 bytes of machine state, the state
 *         an index of the frames (guest_index.h); files from before it have none
 *         tail: magic, pages, sum of the page digests, XXH3-64 of label, shape and all bytes up to here
 *
 * Zero pages and pages that never had memory are not in it. A file is believed only when its tail
 * fits: until then nothing is loaded and the memory it filled is nobody's. Whoever then lets the guest run marks
 * the file before (guest_label_consume).
 */
#ifndef GODWIT_MIGRATE_GUEST_FILE_H
#define GODWIT_MIGRATE_GUEST_FILE_H

#include <stdbool.h>
#include <stdint.h>

struct fault;
struct guest;
struct guest_label;

struct guest_file_counts {
    uint64_t pages, bytes; /* stored; of the file */
    uint64_t ns;
};

/* Write all of it and make it durable; `fd` is empty. A full disk (ERR_LIMIT) and the like leave a torso that no
 * reader takes. `is_stopped` (may be NULL) is looked at between blocks: ERR_CANCELED. */
int guest_file_write(struct guest *guest, const struct guest_label *label, int fd,
                     const bool *is_stopped, struct guest_file_counts *ret_counts,
                     struct fault *fault);
/* Fill the empty guest's memory, judge every byte, then load its machine. It is not resumed. Refuses by
 * name: another VM's, another nonce, consumed, another machine, damage. */
int guest_file_read(struct guest *guest, const struct guest_label *expected, int fd,
                    struct guest_file_counts *ret_counts, struct fault *fault);

#endif
