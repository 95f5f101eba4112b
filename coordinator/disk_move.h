/* The saga of a disk that goes to another store of its host: what is asked next, what an answer means.
 *
 * Flow:   disk_move_run -> [disk_move] -> cluster's todo -> store
 * Thread: the loop's; pure.
 *
 *   copy --equal--> promise --named--> [the VM's record says the copy: the commit point] settle --> done
 *      \---------------\--failed, canceled--> undo --> rolled-back, canceled
 *
 * Before the commit point only undo is possible, behind it only settle; both repeat until the agent has
 * said that they are done with. Each step is durable before its order leaves (INV-7).
 */
#ifndef GODWIT_COORDINATOR_DISK_MOVE_H
#define GODWIT_COORDINATOR_DISK_MOVE_H

#include "coordinator/cluster.h"

struct disk_move_ask {
    const char *vm, *disk, *to; /* to: STORE[:FILE] */
    uint64_t bandwidth_bytes_per_s;
    const char *id, *move_id;
};

/* Judged whole, then begun. `ret_move` of a dry run is in no cluster: disk_move_drop it. */
int disk_move_begin(struct cluster *cluster, const struct disk_move_ask *ask, bool dry_run,
                    struct cluster_now now, struct cluster_disk_move **ret_move,
                    struct problem *problem, struct cluster_todo *todo);
void disk_move_drop(struct cluster_disk_move *move);

struct cluster_disk_move *disk_move_find(const struct cluster *cluster, const char *word);
bool disk_move_is_active(const struct cluster_disk_move *move);
int disk_move_cancel(struct cluster *cluster, struct cluster_disk_move *move,
                     struct cluster_now now, struct problem *problem, struct cluster_todo *todo);

/* The verb that its step asks for. */
Godwit__DiskMoveVerb disk_move_verb(const struct cluster_disk_move *move);
struct disk_move_answer {
    Godwit__DiskMoveVerb verb;          /* that was asked */
    const Godwit__DiskMoveStatus *said; /* NULL: with a fault */
    const struct fault *fault;
    bool definite; /* the agent said so */
};
void disk_move_answered(struct cluster *cluster, struct cluster_disk_move *move,
                        const struct disk_move_answer *answer, struct cluster_now now,
                        struct cluster_todo *todo);

/* While loading: takes the record; NULL: no memory, or it does not make sense. */
struct cluster_disk_move *disk_move_load(struct cluster *cluster, Godwit__DiskMove *info);

/* As a job. Borrows from the cluster until the next step. */
struct disk_move_message {
    Godwit__JobInfo info;
    Godwit__OperatorError error;
    char source[CLUSTER_REASON_SIZE], target[CLUSTER_REASON_SIZE], vm_state[CLUSTER_REASON_SIZE];
};
void disk_move_tell(const struct cluster *cluster, const struct cluster_disk_move *move,
                    uint64_t now_ns, struct disk_move_message *ret_message);

#endif
