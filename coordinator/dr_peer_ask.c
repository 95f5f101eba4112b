#include "coordinator/dr_peer_ask.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_ask.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_test.h"
#include "coordinator/words.h"

static const char *word(const char *text)
{
    return text ? text : "";
}

static int refuse(const struct cluster *cluster, const struct cluster_dr *dr,
                  struct cluster_now now, struct problem *problem)
{
    cluster_vm_place(cluster, dr->vm, now.ns, problem->vm_state, sizeof problem->vm_state);
    if (!problem->hint[0])
        problem_hint(problem, "godwit dr status %s", dr->info->vm);
    return -1;
}

/* ---- failover: at the holder ------------------------------------------------------------------
 */

static int judge_held(const struct cluster *cluster, const struct cluster_dr *dr,
                      struct cluster_now now, struct problem *problem)
{
    const Godwit__DrRecord *info = dr->info;
    bool is_asked =
        dr_step_is(dr, "ask") && !dr->peer_is_up; /* which may not be answered any more */
    if (dr_step_is(dr, "away"))
        (void)problem_set(problem, GW_DR_STATE, "%s was taken over from pool %s already: it runs here",
                          info->vm, dr_peer_name(dr));
    else if (!dr_step_is(dr, "hold") && !is_asked)
        (void)problem_set(problem, GW_VM_BUSY, "%s is just being taken over, or let go", info->vm);
    else if (!info->has_held)
        (void)problem_set(problem, GW_DR_STATE, "nothing whole of %s is held yet", info->vm);
    else if (!dr_host_is_up(cluster, info->target, now))
        (void)problem_set(problem, GW_HOST_DOWN, "%s, which has the replica of %s, does not answer",
                          info->target, info->vm);
    else
        return 0;
    return refuse(cluster, dr, now, problem);
}

static int take_alone(const struct cluster *cluster, struct cluster_dr *dr,
                      const Godwit__DrRequest *request, struct cluster_now now,
                      struct problem *problem, struct cluster_todo *todo)
{
    const char *peer = dr_peer_name(dr), *said = word(request->confirm);
    if (dr->peer_is_up) {
        (void)problem_set(problem, GW_HOST_ALIVE,
                          "pool %s answers: it is asked, and nothing is lost", peer);
        problem_hint(problem, "godwit dr failover %s", dr->info->vm);
        return refuse(cluster, dr, now, problem);
    }
    if (strcmp(said, peer) != 0)
        return problem_set(problem, GW_USAGE,
                           "%s must name pool %s in full: should %s still run there, it runs twice "
                           "from now on",
                           request->accept_split ? "--yes-the-old-host-is-gone" : "--confirm-down",
                           peer, dr->info->vm);
    dr_cross_go_alone(dr_peer_cross(dr));
    dr_begin_op(dr, "failover", now, todo);
    dr->info->has_last_rpo_ms = false;
    dr_peer_keep(dr, todo);
    cluster_todo_event(
        todo, dr->info->vm_id,
        request->accept_split
            ? "alert: %s is taken though pool %s may run it still: an operator's word"
            : "alert: %s is taken: by an operator's word pool %s is down",
        dr->info->vm, peer);
    log_warn("dr_peer_ask", "taken alone vm=%s from=%s split=%d", dr->info->vm, peer,
             request->accept_split);
    return 0;
}

static int failover(const struct cluster *cluster, struct cluster_dr *dr,
                    const Godwit__DrRequest *request, struct cluster_now now,
                    struct problem *problem, struct cluster_todo *todo)
{
    const char *peer = dr_peer_name(dr), *name = dr->info->vm;
    bool is_sworn = request->accept_split || word(request->confirm)[0];
    if (!dr_peer_holds(dr) && dr_step_is(dr, "away")) {
        (void)problem_set(problem, GW_DR_STATE, "%s was taken over by pool %s: it runs there", name, peer);
        problem_hint(problem, "godwit dr failback %s says how it comes back", name);
        return refuse(cluster, dr, now, problem);
    }
    if (!dr_peer_holds(dr)) {
        (void)problem_set(problem, GW_DR_STATE,
                          "the replica of %s is in pool %s: it is taken over there", name, peer);
        problem_hint(problem, "in pool %s: godwit dr failover %s", peer, name);
        return refuse(cluster, dr, now, problem);
    }
    if (judge_held(cluster, dr, now, problem) != 0)
        return -1;
    if (is_sworn)
        return take_alone(cluster, dr, request, now, problem, todo);
    if (!dr->peer_is_up) {
        (void)problem_set(problem, GW_DR_NOT_FENCED, "%s may run in pool %s, which does not answer",
                          name, peer);
        problem_detail(problem, "that site is down for certain   --confirm-down %s", peer);
        problem_detail(problem,
                       "nobody can tell                 --accept-split "
                       "--yes-the-old-host-is-gone %s",
                       peer);
        return refuse(cluster, dr, now, problem);
    }
    dr_cross_ask(dr_peer_cross(dr), now.ns);
    dr_begin_op(dr, request->planned ? "planned" : "failover", now, todo);
    dr_peer_keep(dr, todo);
    cluster_todo_event(todo, dr->info->vm_id, "pool %s is asked to hand %s over", peer, name);
    return 0;
}

/* ---- unprotect --------------------------------------------------------------------------------
 */

static void end(struct cluster_dr *dr, bool out_ended, bool in_ended, struct cluster_todo *todo)
{
    Godwit__DrRecord *info = dr->info;
    info->has_out_ended = info->has_in_ended = true;
    info->out_ended = out_ended;
    info->in_ended = in_ended;
    dr->wants_hold = false;
    dr_set_step(dr, "end", todo);
}

static int unprotect_source(const struct cluster *cluster, struct cluster_dr *dr, bool force,
                            struct cluster_now now, struct problem *problem,
                            struct cluster_todo *todo)
{
    const char *peer = dr_peer_name(dr), *name = dr->info->vm;
    bool is_simple = dr_step_is(dr, "protect") || dr_step_is(dr, "end");
    if (!is_simple && !force) {
        (void)problem_set(problem, GW_DR_STATE,
                          dr_step_is(dr, "away")
                              ? "%s runs in pool %s: what is here could be started beside it then"
                              : "%s is handed over to pool %s just now",
                          name, peer);
        problem_hint(problem, "godwit dr unprotect %s --force", name);
        return refuse(cluster, dr, now, problem);
    }
    if (force)
        cluster_todo_event(
            todo, dr->info->vm_id,
            "alert: the protection of %s ends without pool %s, which may take it, or "
            "has: an operator's word",
            name, peer);
    else
        cluster_todo_event(todo, dr->info->vm_id, "the protection of %s by pool %s ends", name,
                           peer);
    if (dr->info->op[0])
        dr_give_up_op(dr, "dr unprotect ended its protection", now, todo);
    if (force || !dr_step_is(dr, "end"))
        end(dr, false, force, todo);
    return 0;
}

static int unprotect_holder(const struct cluster *cluster, struct cluster_dr *dr, bool force,
                            struct cluster_now now, struct problem *problem,
                            struct cluster_todo *todo)
{
    const char *peer = dr_peer_name(dr), *name = dr->info->vm;
    bool is_away = dr_step_is(dr, "away"), is_known = is_away && dr->info->is_heard;
    if (dr_step_is(dr, "end") && !force)
        return 0;
    if (!is_away && !dr_step_is(dr, "hold") && !dr_step_is(dr, "end")) {
        (void)problem_set(problem, GW_VM_BUSY, "%s is just being taken over", name);
        return refuse(cluster, dr, now, problem);
    }
    if (is_away && !is_known && !(force && dr->peer_is_gone)) { /* it would start it once told so */
        (void)problem_set(problem, GW_DR_STATE,
                          "pool %s has not heard yet that %s runs here, and would start it too", peer,
                          name);
        problem_detail(problem, "that pool never comes back   godwit pool peer rm %s --force, then "
                                "dr unprotect --force", peer);
        return refuse(cluster, dr, now, problem);
    }
    if (!force && !is_known) {
        (void)problem_set(problem, GW_DR_STATE,
                          "it is pool %s that has %s protected: godwit dr unprotect there", peer,
                          name);
        problem_hint(problem, "godwit dr unprotect %s --force", name);
        return refuse(cluster, dr, now, problem);
    }
    cluster_todo_event(todo, dr->info->vm_id,
                       is_away ? "%s is this pool's own now, and nothing binds it to pool %s"
                               : "alert: the replica of %s is dropped without pool %s: an "
                                 "operator's word",
                       name, peer);
    if (is_away) { /* a VM as any other: nothing of it goes */
        dr_set_text(&dr->info->peer_pool_id, "");
        end(dr, true, true, todo);
    } else {
        end(dr, true, dr_host_is_gone(cluster, dr->info->target), todo);
    }
    return 0;
}

/* ---- tests and drills: at the holder ----------------------------------------------------------
 */

static int test(struct cluster *cluster, const struct cluster_dr *dr,
                const Godwit__DrRequest *request, struct cluster_now now, struct problem *problem,
                struct cluster_todo *todo)
{
    bool is_drill = request->verb != GODWIT__DR_VERB__DR_VERB_TEST;
    const char *peer = dr_peer_name(dr), *name = dr->info->vm;
    if (!dr_peer_holds(dr) && dr_step_is(dr, "away")) {
        (void)problem_set(problem, GW_DR_STATE, "%s runs in pool %s: it has no replica to test", name, peer);
        return refuse(cluster, dr, now, problem);
    }
    if (!dr_peer_holds(dr)) {
        (void)problem_set(problem, GW_DR_STATE,
                          "the replica of %s is in pool %s: it is tested there", name, peer);
        problem_hint(problem, "in pool %s: godwit dr %s %s", peer, is_drill ? "drill" : "test", name);
        return refuse(cluster, dr, now, problem);
    }
    return request->verb == GODWIT__DR_VERB__DR_VERB_DRILL
               ? dr_test_set_drill(cluster, request, now, problem, todo)
               : dr_test_begin(cluster, request, now, problem, todo);
}

/* ---- protect, failback: what to do instead ----------------------------------------------------
 */

int dr_peer_ask_refuse_protect(const struct cluster *cluster, const struct cluster_dr *dr,
                               struct cluster_now now, struct problem *problem)
{
    const char *peer = dr_peer_name(dr), *name = dr->info->vm;
    bool holds = dr_peer_holds(dr);
    if (dr_step_is(dr, "end"))
        return dr_ask_refuse_ending(cluster, dr, now, problem);
    if (dr_step_is(dr, "away") && holds) {
        (void)problem_set(problem, GW_DR_STATE,
                          "%s was taken over from pool %s, and is bound to it until dr unprotect", name, peer);
        problem_hint(problem, "godwit dr unprotect %s", name);
    } else if (dr_step_is(dr, "away")) {
        (void)problem_set(problem, GW_DR_STATE, "%s runs in pool %s: it is protected there", name, peer);
        problem_hint(problem, "godwit dr failback %s says how it comes back", name);
    } else if (dr_step_is(dr, "hold")) {
        (void)problem_set(problem, GW_DR_STATE, "what is here of %s is a replica that is held for pool %s",
                          name, peer);
        problem_hint(problem, "in pool %s: godwit dr status %s", peer, name);
    } else if (dr_step_is(dr, "protect")) {
        (void)problem_set(problem, GW_DR_STATE, "%s has a replica in pool %s already", name, peer);
        problem_hint(problem, "godwit dr unprotect %s", name);
    } else {
        return dr_ask_refuse_acting(cluster, dr, now, problem);
    }
    return refuse(cluster, dr, now, problem);
}

/* It goes back by a protection in the other direction: `here` and `there` of whoever runs it now. */
static void detail_way_back(const struct cluster_dr *dr, const char *here, const char *there,
                            const char *old_pool, struct problem *problem)
{
    const char *name = dr->info->vm;
    problem_detail(problem, "1. %s: godwit dr unprotect %s", here, name);
    problem_detail(problem, "2. %s: godwit dr unprotect %s --force, then godwit vm rm %s", there, name, name);
    problem_detail(problem, "3. %s: godwit dr protect %s --to %s", here, name, old_pool);
    problem_detail(problem, "4. %s, once it is held: godwit dr failover %s", there, name);
}

static int failback(const struct cluster *cluster, const struct cluster_dr *dr,
                    struct cluster_now now, struct problem *problem)
{
    const char *peer = dr_peer_name(dr), *name = dr->info->vm;
    char other[DR_PEER_NAME_SIZE + 8];
    (void)snprintf(other, sizeof other, "in pool %.63s", peer);
    if (!dr_step_is(dr, "away")) {
        (void)problem_set(problem, GW_DR_STATE, "%s was not taken over: there is nothing to bring back",
                          name);
    } else if (dr_peer_holds(dr)) {
        (void)problem_set(problem, GW_DR_STATE,
                          "%s was taken over from pool %s: failback is within one pool; between two it goes "
                          "back by a protection in the other direction",
                          name, peer);
        if (!dr->info->is_heard)
            problem_detail(problem, "0. pool %s has not heard yet that it runs here: the rest once it has", peer);
        else
            problem_hint(problem, "godwit dr unprotect %s", name);
        detail_way_back(dr, "here", other, peer, problem);
    } else {
        (void)problem_set(problem, GW_DR_STATE,
                          "%s runs in pool %s: failback is within one pool; between two it comes back by a "
                          "protection in the other direction",
                          name, peer);
        detail_way_back(dr, other, "here", "POOL", problem);
        problem_detail(problem, "   POOL is this one, as godwit pool peer ls names it there");
    }
    return refuse(cluster, dr, now, problem);
}

/* ---- all --------------------------------------------------------------------------------------
 */

int dr_peer_ask(struct cluster *cluster, struct cluster_dr *dr, const Godwit__DrRequest *request,
                struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    switch (request->verb) {
    case GODWIT__DR_VERB__DR_VERB_FAILOVER:
        return failover(cluster, dr, request, now, problem, todo);
    case GODWIT__DR_VERB__DR_VERB_UNPROTECT:
        return dr_peer_holds(dr)
                   ? unprotect_holder(cluster, dr, request->force, now, problem, todo)
                   : unprotect_source(cluster, dr, request->force, now, problem, todo);
    case GODWIT__DR_VERB__DR_VERB_TEST:
    case GODWIT__DR_VERB__DR_VERB_DRILL:
    case GODWIT__DR_VERB__DR_VERB_DRILL_NOW:
        return test(cluster, dr, request, now, problem, todo);
    case GODWIT__DR_VERB__DR_VERB_TEST_END:
        return dr_test_end(cluster, dr->info->vm_id, now, problem, todo);
    case GODWIT__DR_VERB__DR_VERB_FAILBACK:
        return failback(cluster, dr, now, problem);
    default: /* numbers from the wire */
        return problem_set(problem, GW_USAGE,
                           "nothing known can be asked of disaster recovery by verb %d",
                           (int)request->verb);
    }
}
