/* Changes pages of the working set at a set pace.
 *
 * Flow:   vcpu loop -> [writer] -> test_memory
 * Thread: each writer stays on one vCPU; commands change the settings from vCPU 0.
 */
#ifndef GUEST_WRITER_H
#define GUEST_WRITER_H

#include <stdbool.h>
#include <stdint.h>

enum { WRITER_MAX = 64 };

enum writer_pattern { WRITER_RANDOM, WRITER_SEQ, WRITER_HOTCOLD, WRITER_SPARSE };

struct options;
struct vcpu;

void writer_init(const struct options *options);
uint32_t writer_count(void);
bool writer_are_on(void);
void writer_set_on(bool on);
void writer_set_rate(uint64_t mib_per_s); /* 0: as fast as they can */
void writer_set_pattern(enum writer_pattern pattern);
void writer_set_working_set(uint64_t mib); /* only while no writer runs */

/* Let each writer of this vCPU write at most one page. Returns how many did. */
uint32_t writer_step_all(struct vcpu *vcpu, uint32_t vcpus, uint64_t now_tsc);

#endif
