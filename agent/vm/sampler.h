/* Looks at the guest of this process for about a second, on request.
 *
 * Flow:   control -> machine -> [sampler] -> migrate/sample -> control
 * Thread: the loop's; a look takes it a few milliseconds, the guest's vCPUs run on.
 */
#ifndef GODWIT_AGENT_VM_SAMPLER_H
#define GODWIT_AGENT_VM_SAMPLER_H

#include <stdbool.h>

struct fault;
struct loop;
struct region;
struct sample_result;
struct sampler;

enum { SAMPLER_MS = 1000 };

/* Comes exactly once, never from inside new: with a result, or with why there is none. */
typedef void sampler_done_fn(void *data, const struct sample_result *result,
                             const struct fault *fault);

/* The region is borrowed and must outlive the sampler. */
int sampler_new(struct sampler **ret_sampler, struct loop *loop, struct region *region,
                sampler_done_fn *done, void *data, struct fault *fault);
/* One more who waits for the same looks. ERR_BUSY: too many do. */
int sampler_join(struct sampler *sampler, sampler_done_fn *done, void *data, struct fault *fault);
bool sampler_is_over(const struct sampler *sampler);
/* Whoever still waits is told that the VM is not there any more. */
struct sampler *sampler_free(struct sampler *sampler);

#endif
