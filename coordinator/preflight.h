/* What both hosts say of a VM's disks and nics before a move is ordered, and what stands beside its
 * disks before a start.
 *
 * Flow:   agent_link (orders), api (dry run) -> [preflight] -> both agents -> back
 * Thread: the loop's.
 *
 * A shared folder is proven, not believed: the source writes a word into every shared store, the
 * target has to read it, the source wipes it. The target also looks at every disk, its size, every
 * bridge, and at the stamp. Nothing is opened for writing and nothing is changed.
 */
#ifndef GODWIT_COORDINATOR_PREFLIGHT_H
#define GODWIT_COORDINATOR_PREFLIGHT_H

#include <stdbool.h>

#include "coordinator/agent_link.h"
#include "proto/vm.pb-c.h"

struct cluster_job;
struct cluster_vm;

/* `fault` NULL: it fits, and `note` says what was found. Comes once, never from inside the call. */
typedef void preflight_done_fn(void *data, const struct fault *fault, enum agent_link_fate fate,
                               const char *note);

/* Has the VM anything that a host could lack? */
bool preflight_is_needed(const struct cluster_vm *vm);
void preflight_move(struct coordinator *coordinator, const struct cluster_vm *vm,
                    const struct cluster_job *job, preflight_done_fn *done, void *data);

/* May a start as `generation`, recorded already, take the disks from `found`? Every generation
 * below it is known to have ended, or the record would not say so; one above it is news to the
 * record, and the disks are right (R5 of SWITCHOVER). Pure. */
int preflight_judge_stamp(const struct cluster_vm *vm, uint64_t generation,
                          const Godwit__Stamp *found, struct fault *fault);

#endif
