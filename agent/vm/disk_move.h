/* One disk of this process's VM on its way to another file (storage/disk_mirror).
 *
 * Flow:   control -> machine -> [disk_move] -> vm, backend_set, disk_mirror
 * Thread: the loop's.
 *
 *   BEGIN -> copying -> closing -> equal --PROMISE--> promised --SETTLE--> settling -> settled
 *                \---------\---------\------UNDO---------\--> off             failed, by itself
 *
 * From SETTLE on everything that opens this VM's disk anew in this process (a reset) takes the copy: it
 * was recorded, and it is alike. Until then it takes the old file, and mirrors on.
 */
#ifndef GODWIT_AGENT_VM_DISK_MOVE_H
#define GODWIT_AGENT_VM_DISK_MOVE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/disk_move.pb-c.h"

struct backend_set;
struct disk_move;
struct fault;
struct vm;

enum { DISK_MOVE_ID_SIZE = 64, DISK_MOVE_REASON_SIZE = 320 };

struct disk_move_message { /* a message and what it points into */
    Godwit__DiskMoveStatus status;
    char state[16];
    char reason[DISK_MOVE_REASON_SIZE];
};

/* Takes `fd` when it returns 0. `vm` and `set` are borrowed for each call only. */
int disk_move_new(struct disk_move **ret_move, const Godwit__VmDiskMove *order,
                  const struct backend_set *set, struct vm *vm, bool cached, int fd,
                  struct fault *fault);
/* `vm` NULL: the machine is not there any more. */
struct disk_move *disk_move_free(struct disk_move *move, struct vm *vm);

bool disk_move_is(const struct disk_move *move, const char *move_id);
/* Nothing of it is under way, and another may begin. */
bool disk_move_is_over(struct disk_move *move);
unsigned disk_move_disk(const struct disk_move *move);
/* Where the disk lies from SETTLE on: gives it, once (then NULL); and takes it back. */
Godwit__DiskSpec *disk_move_take_after(struct disk_move *move);
void disk_move_give_after(struct disk_move *move, Godwit__DiskSpec *after);

int disk_move_promise(struct disk_move *move, struct fault *fault);
int disk_move_settle(struct disk_move *move, struct backend_set *set, struct vm *vm,
                     struct fault *fault);
int disk_move_undo(struct disk_move *move, struct vm *vm, struct fault *fault);
/* The machine was built anew around the set's files, and does not run yet. */
int disk_move_rebuilt(struct disk_move *move, struct vm *vm, struct fault *fault);

void disk_move_tell(struct disk_move *move, struct vm *vm, struct disk_move_message *ret_message);
/* What is told of a move that is not known here. */
void disk_move_tell_none(struct disk_move_message *ret_message);

#endif
