/* What operators may ask of the pool: create, start, stop, pause, resume, remove, migrate, cancel.
 *
 * Flow:   api -> [cluster_ask] -> cluster, planner, job_core -> todo
 * Thread: the loop's; pure.
 *
 * A request is judged whole before anything is changed: every function returns 0, or -1 with
 * `problem` set and nothing changed. With a ticket, the answer comes in a later todo (or this one).
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_ASK_H
#define GODWIT_COORDINATOR_CLUSTER_ASK_H

#include "coordinator/cluster_core.h"

int cluster_create_vm(struct cluster *cluster, const Godwit__VmSpec *spec, const char *vm_id,
                      bool no_start, struct cluster_now now, uint64_t *ret_ticket,
                      struct problem *problem, struct cluster_todo *todo);
int cluster_act(struct cluster *cluster, const char *word, Godwit__VmVerb verb, bool and_stop,
                struct cluster_now now, uint64_t *ret_ticket, struct problem *problem,
                struct cluster_todo *todo);

/* What was created for nothing goes again, with what was made of its disks (`has_disks`: there may be some). 0: as
 * cluster_act's rm. CLUSTER_REMOVED_LATER: its host does not answer; it stays recorded, stopped, and is removed
 * by the tick once that is back. An operator's own rm forgets it at once. */
enum { CLUSTER_REMOVED_LATER = 1 };
int cluster_remove_made(struct cluster *cluster, struct cluster_vm *vm, bool has_disks,
                        struct cluster_now now, uint64_t *ret_ticket, struct problem *problem,
                        struct cluster_todo *todo);
/* Removals that were recorded, whose hosts are back. */
void cluster_ask_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo);

/* Has no job and no other order the VM? */
int cluster_judge_free(const struct cluster *cluster, const struct cluster_vm *vm,
                       struct cluster_now now, struct problem *problem);

/* Where a VM that runs nowhere would be started now; `not_on` may be NULL. 0, or -1. */
int cluster_choose_host(struct cluster *cluster, const struct cluster_vm *vm,
                        const char *not_on, struct cluster_now now, struct cluster_host **ret_host,
                        struct problem *problem);

struct cluster_move_ask {
    const char *vm, *to; /* to: "" or "auto": choose */
    const Godwit__MoveGoals *goals;
    bool dry_run; /* checks and choice only: *ret_job is a job that nobody keeps (free it) */
    const char *job_id, *move_id; /* chance, from the shell */
    const char *plan_id, *reason; /* of a plan's step; NULL: none */
    char *const *avoid;           /* hosts that failed before; only read */
    size_t avoid_count;
};
int cluster_migrate(struct cluster *cluster, const struct cluster_move_ask *ask,
                    struct cluster_now now, struct cluster_job **ret_job, struct problem *problem,
                    struct cluster_todo *todo);
/* May it be moved now, wherever to? 0, or -1 with `problem` set (may be NULL). */
int cluster_may_move(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                     struct problem *problem);
/* Has another VM one of its disks or hardware addresses? */
int cluster_judge_alone(const struct cluster *cluster, const Godwit__VmSpec *spec,
                        struct problem *problem);

struct cluster_start_ask {
    const char *not_on, *only_on; /* NULL: anywhere */
    char *const *avoid;           /* hosts that failed before; only read */
    size_t avoid_count;
    bool makes_disks; /* they are still to be made there: is there room for them? */
    const uint64_t *landing_bytes; /* the same, of so large ones as no description says; NULL: none */
};
/* Where a VM that is stopped, or about to be, could be started now. 0, or -1. */
int cluster_choose_start(struct cluster *cluster, const struct cluster_vm *vm,
                         const struct cluster_start_ask *ask, struct cluster_now now,
                         struct cluster_host **ret_host, struct problem *problem);
/* Start a stopped VM on just this host; nobody waits for the answer. */
int cluster_start_on(struct cluster *cluster, struct cluster_vm *vm,
                     const struct cluster_host *host, struct cluster_now now,
                     struct problem *problem, struct cluster_todo *todo);
/* Start a stopped VM on the host that has it, and nowhere else. Its answer has the VM's ticket. */
int cluster_start_home(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                       struct problem *problem, struct cluster_todo *todo);
/* Change goals of a move that is under way: what `goals` has counts, all else stays. */
int cluster_set_goals(struct cluster *cluster, const char *word, const Godwit__MoveGoals *goals,
                      struct cluster_now now, struct cluster_job **ret_job,
                      struct problem *problem, struct cluster_todo *todo);
int cluster_cancel(struct cluster *cluster, const char *word, struct cluster_now now,
                   struct cluster_job **ret_job, struct problem *problem,
                   struct cluster_todo *todo);

#endif
