/* Tests of replicas: a copy of what is held, started beside it as a VM of its own, cut off from every
 * network, and taken away again. The replication knows nothing of it, nor does another pool whose VM it is.
 *
 * Flow:   dr_ask -> [dr_test] -> dr's tick, answers -> todo
 * Thread: the loop's; pure.
 *
 *   copy --its host copied--> start --it runs--> runs --dr test --end, or vm rm--> end --it is gone--> over
 *     \--------- refused ---------\--refused-----------------------------------------^
 *                          start --it runs--> watch (a drill) --it ran for a while----^
 *
 * Each step is in the record before its order leaves. A copy that was ordered by another life of the
 * coordinator is not waited for: it ends. The copy is recorded as a VM that rests suspended on the replica's
 * host, so that nothing but its start there goes on from its memory; of disks alone as one that was never started.
 */
#ifndef GODWIT_COORDINATOR_DR_TEST_H
#define GODWIT_COORDINATOR_DR_TEST_H

#include "coordinator/cluster.h"

enum {
    DR_TEST_GENERATION = 1, /* that a copy's file says: it never ran as that */
    DR_DRILL_WATCH_MS = 10000,
    DR_DRILL_EVERY_MS_MIN = 60000,
};

/* ---- what operators ask: 0, or -1 with `problem` set ---- */
int dr_test_begin(struct cluster *cluster, const Godwit__DrRequest *request,
                  struct cluster_now now, struct problem *problem, struct cluster_todo *todo);
/* `word`: the VM, or its copy. */
int dr_test_end(struct cluster *cluster, const char *word, struct cluster_now now,
                struct problem *problem, struct cluster_todo *todo);
int dr_test_set_drill(struct cluster *cluster, const Godwit__DrRequest *request,
                      struct cluster_now now, struct problem *problem, struct cluster_todo *todo);

/* ---- from dr ---- */
/* True: the record was put, so nothing may drop it before that is carried out. */
bool dr_test_tick(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                  struct cluster_todo *todo);
void dr_test_copied(struct cluster *cluster, struct cluster_dr *dr,
                    const struct cluster_order *order, const struct cluster_result *result,
                    struct cluster_now now, struct cluster_todo *todo);
/* Is a drill of any of them due by then? Whoever looks at stores looks at their room before that. */
bool dr_test_is_due_within(const struct cluster *cluster, struct cluster_now now, uint64_t ms);
/* One is under way, or its copy is still there. */
bool dr_test_is_open(const struct cluster_dr *dr);
/* Its copy goes, as soon as it can. */
void dr_test_stop(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo);
/* While loading: what a record says makes sense, or is forgotten. */
void dr_test_load(Godwit__DrRecord *info);

/* How large a disk of what is held is; 0: nobody has told. */
uint64_t dr_test_disk_bytes(const struct cluster_dr *dr, size_t disk);

bool dr_test_is_copy(const struct cluster_vm *vm);

#endif
