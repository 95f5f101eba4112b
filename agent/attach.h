/* Disks and nics for a VM that has taken its guest: the stamp first, then the descriptors.
 *
 * Flow:   vm_table (a status that wants them) -> [attach] -> backends -> VM_ATTACH -> godwit-vm
 * Thread: the loop's; files and stamps on a worker.
 *
 *      TOOK --> L: (g, source) -> (m, here) --won--> open disks, make taps --> VM_ATTACH --> announce
 *                     | lost: somebody else may write the disks; the VM is killed at once
 *                     ` nobody knows (the store does not answer): again, every ATTACH_AGAIN_MS
 *
 * Until VM_ATTACH the guest runs and its requests wait in their queues, so no byte is written before
 * L says so. It is level-triggered: whatever shows a process that wants its backends (an event, an
 * agent's restart) begins it.
 */
#ifndef GODWIT_AGENT_ATTACH_H
#define GODWIT_AGENT_ATTACH_H

#include <stddef.h>

#include "proto/vm.pb-c.h"
#include "storage/stamp.h"

struct backends;
struct fault;
struct host_facts;
struct loop;
struct vm_entry;
struct vm_table;

enum { ATTACH_AGAIN_MS = 500 };

struct attach;

/* All borrowed; the table and what is in it must live until attach_stop. */
int attach_new(struct attach **ret_attach, struct loop *loop, struct vm_table *table,
               struct host_facts *facts, struct fault *fault);
/* No more callbacks of workers: before the table is freed. */
void attach_stop(struct attach *attach);
/* After the table, so that no call of a process is under way any more. */
struct attach *attach_free(struct attach *attach);

/* Begin, unless it is under way. */
void attach_begin(struct attach *attach, struct vm_entry *entry);

/* The message's list for what `backends` holds, whose first descriptor is number `first` of the
 * message. `ret_backends` and `ret_list` have ATTACH_BACKENDS_MAX places. Returns how many. */
enum { ATTACH_BACKENDS_MAX = 24 };
size_t attach_list(const Godwit__VmSpec *spec, const struct backends *backends, unsigned first,
                   Godwit__VmBackend *ret_backends, Godwit__VmBackend **ret_list);

/* Between the message and the stamp itself; NULL is a zeroed one. */
int attach_stamp_read(const Godwit__Stamp *message, struct stamp *ret_stamp, struct fault *fault);
void attach_stamp_write(const struct stamp *stamp, Godwit__Stamp *ret_message);

#endif
