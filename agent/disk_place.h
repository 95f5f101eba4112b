/* The two files of a disk that goes to another store of this host: the copy lands, gets its name, stays
 * or goes; what was the disk goes only when the copy is named and proven.
 *
 * Flow:   disk_order -> [disk_place] -> storage/share, storage/stamp
 * Thread: any; blocking, for a worker. Everything it needs is in the ask. Each step may come again.
 *
 *   land    made/<disk>.landing in the other store: nobody takes it for a disk
 *   name    the same file under its own name, and a stamp beside it where the VM is to have one
 *   leave   after the record says so: what was the disk is deleted if it was made for this VM, else put
 *           aside; refused unless the named copy is there, is the VM's, and is whole
 *   undo    before it: only what landed here goes
 */
#ifndef GODWIT_AGENT_DISK_PLACE_H
#define GODWIT_AGENT_DISK_PLACE_H

#include <stdint.h>

#include "proto/vm_spec.pb-c.h"
#include "storage/stamp.h"

struct fault;

struct disk_place_ask {
    const char *vm_id;
    const Godwit__VmSpec *before, *after; /* judged; alike but for this disk's place */
    unsigned disk;
    uint64_t bytes, generation;
    struct stamp wanted;    /* of the VM on this host, as it runs */
    uint64_t device, inode; /* of the copy, as the VM's process has it; 0: it is gone */
};

int disk_place_land(const struct disk_place_ask *ask, int *ret_fd, struct fault *fault);
int disk_place_name(const struct disk_place_ask *ask, struct fault *fault);
int disk_place_leave(const struct disk_place_ask *ask, struct fault *fault);
int disk_place_undo(const struct disk_place_ask *ask, struct fault *fault);

#endif
