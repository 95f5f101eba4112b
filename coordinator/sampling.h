/* Has a running guest looked at for a second by its host, and keeps what was seen at its VM.
 *
 * Flow:   api -> [sampling] -> agent_link -> agent -> godwit-vm -> back -> cluster_forecast
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_SAMPLING_H
#define GODWIT_COORDINATOR_SAMPLING_H

#include "coordinator/coordinator.h"

/* Comes once, never from inside the call; one of the two is NULL. */
typedef void sampling_done_fn(void *data, const Godwit__VmSample *sample,
                              const struct fault *fault);

void sampling_start(struct coordinator *coordinator, const struct cluster_vm *vm,
                    sampling_done_fn *done, void *data);

#endif
