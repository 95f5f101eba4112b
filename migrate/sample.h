/* What a guest writes, and what its memory is made of, seen from a few pages for about a second.
 *
 * Flow:   region -> [sample] -> agent/vm/sampler -> forecast
 * Thread: its owner's; the guest runs on meanwhile.
 *
 * A few thousand pages, spread evenly over all that are populated, are hashed at the beginning and
 * again after 1/16, 1/8 ... of the time: the share of those that changed by then, of all that is
 * populated, is how many distinct bytes the guest wrote within so much time. Nothing is protected
 * and no vCPU is stopped: the guest pays for the memory reads of another core, 16 MiB a look.
 * Rejected: the dirty log, which takes a write fault for every page it is asked about, breaks
 * huge pages into small ones and takes KVM milliseconds to switch off. A page that is written with
 * what it held does not show here; in a move it would be sent again.
 */
#ifndef GODWIT_MIGRATE_SAMPLE_H
#define GODWIT_MIGRATE_SAMPLE_H

#include <stdint.h>

struct fault;
struct region;
struct sample;

enum { SAMPLE_LOOKS = 5, SAMPLE_PAGES_MAX = 4096, SAMPLE_SHIFT = 4 /* the first look: 1/16 */ };

struct sample_result {
    uint64_t populated_bytes;
    unsigned pages;           /* that were looked at */
    unsigned zero_permille;   /* of what is populated */
    unsigned packed_permille; /* size of what is not zero, as LZ4 would have it */
    unsigned zstd_permille;   /* the same, as zstd would */
    unsigned looks;           /* points that follow */
    uint64_t at_ns[SAMPLE_LOOKS], written_bytes[SAMPLE_LOOKS];
    uint64_t cpu_ns; /* that the looks took of their thread */
};

/* The first look, now. The region is borrowed and must outlive the sample. `seed`: of which pages.
 */
int sample_new(struct sample **ret_sample, struct region *region, uint64_t duration_ns,
               uint64_t seed, struct fault *fault);
struct sample *sample_free(struct sample *sample);

/* When the next look is due; 0: none is left. */
uint64_t sample_next_ns(const struct sample *sample);
void sample_look(struct sample *sample);
void sample_tell(const struct sample *sample, struct sample_result *ret_result);

#endif
