#include "coordinator/dr_tell.h"

#include <stdio.h>
#include <string.h>

#include "base/world.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_peer_tell.h"
#include "coordinator/dr_test.h"
#include "coordinator/words.h"

enum { FRESH_MS = 3000, LATE_MS = 5000 };

/* protobuf-c knows no const; nobody writes through these. */
static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

static bool is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

bool dr_rpo_now(const struct cluster *cluster, const struct cluster_dr *dr, struct cluster_now now,
                uint64_t *ret_ms)
{
    const Godwit__ProtectStatus *out = dr->out;
    bool is_up = dr_peer_holds(dr) ? dr->peer_is_up : dr_host_is_up(cluster, dr->info->source, now);
    bool is_fresh = out && !out->ended && now.ns - dr->out_ns < FRESH_MS * NS_PER_MS && is_up;
    if (dr_step_is(dr, "away") || !dr->info->has_held)
        return false;
    if (is_fresh && out->has_rpo_ms) {
        *ret_ms = out->rpo_ms;
        return true;
    }
    if (!dr->in || !dr->in->held_unix_ms)
        return false;
    *ret_ms = now.unix_ms > dr->in->held_unix_ms ? now.unix_ms - dr->in->held_unix_ms : 0;
    return true;
}

/* Gives the state; its reason is the three after each other. */
static const char *say(char *ret_reason, const char *state, const char *first, const char *second,
                       const char *third)
{
    (void)snprintf(ret_reason, CLUSTER_REASON_SIZE, "%.60s%.150s%s%.40s", first, second,
                   third[0] ? " " : "", third);
    return state;
}

/* While it waits, or runs at its source. */
static const char *state_of_pair(const struct cluster *cluster, const struct cluster_dr *dr,
                                 struct cluster_now now, char *ret_reason)
{
    const struct cluster_vm *vm = dr->vm;
    const Godwit__DrRecord *info = dr->info;
    const Godwit__ProtectStatus *out = dr->out;
    const char *trouble = out && out->trouble && out->trouble[0] ? out->trouble : dr->trouble;
    bool was_lost = vm->crashed || !dr_host_is_up(cluster, vm->own.owner, now);
    if (own_is_lost(&vm->own) ||
        (vm->own.phase == OWN_STOPPED && vm->want == WANT_RUNNING && !vm->suspended[0] && was_lost))
        return info->has_held ? say(ret_reason, "lost", "its replica waits on ", info->target,
                                    "for: godwit dr failover")
                              : say(ret_reason, "waiting", "it does not run", "", "");
    if (vm->own.phase != OWN_RUN)
        return say(ret_reason, "waiting", "it does not run", "", "");
    if (is_same(vm->own.owner, info->target))
        return say(ret_reason, "waiting", "it runs where its replica would be", "", "");
    if (vm->job)
        return say(ret_reason, "waiting", "it moves", "", "");
    if (!dr_host_is_up(cluster, info->target, now))
        return say(ret_reason, "late", "", info->target, "does not answer");
    if (!dr_host_is_up(cluster, info->source, now))
        return say(ret_reason, "late", "", info->source, "does not answer");
    if (!info->has_held)
        return say(ret_reason, "syncing", "", trouble, "");
    if (!out || out->ended || !dr->out_ready)
        return say(ret_reason, "late", trouble[0] ? "" : "its ends are asked", trouble, "");
    if (out->is_missed || !out->is_linked)
        return say(ret_reason, "late",
                   trouble[0]       ? ""
                   : out->is_linked ? "its goal is missed"
                                    : "no link",
                   trouble, "");
    return say(ret_reason, "protected", "", "", "");
}

void dr_tell_ending(const struct cluster *cluster, const struct cluster_dr *dr,
                    struct cluster_now now, char ret_reason[static CLUSTER_REASON_SIZE])
{
    const Godwit__DrRecord *info = dr->info;
    if (dr_test_is_open(dr)) {
        bool is_up = dr_host_is_up(cluster, info->test->host, now);
        (void)snprintf(ret_reason, CLUSTER_REASON_SIZE, "its test copy %.60s goes first%s%.60s%s",
                       info->test->copy, is_up ? "" : ", once ", is_up ? "" : info->test->host,
                       is_up ? "" : " answers");
    } else if (!info->out_ended) {
        bool is_up = dr_host_is_up(cluster, info->source, now);
        (void)snprintf(ret_reason, CLUSTER_REASON_SIZE, "%.60s stops replicating it%s", info->source,
                       is_up ? "" : " once it answers");
    } else if (!info->in_ended && dr_peer_is_source(dr)) {
        dr_peer_tell_ending(dr, ret_reason);
    } else if (!info->in_ended) {
        bool is_up = dr_host_is_up(cluster, info->target, now);
        (void)snprintf(ret_reason, CLUSTER_REASON_SIZE, "%.60s drops its replica%s", info->target,
                       is_up ? "" : " once it answers");
    } else if (info->split_host[0]) {
        (void)snprintf(ret_reason, CLUSTER_REASON_SIZE, "once %.60s is back, or fenced",
                       info->split_host);
    } else {
        (void)snprintf(ret_reason, CLUSTER_REASON_SIZE, "both ends know");
    }
}

const char *dr_state(const struct cluster *cluster, const struct cluster_dr *dr,
                     struct cluster_now now, char ret_reason[static CLUSTER_REASON_SIZE])
{
    const Godwit__DrRecord *info = dr->info;
    bool is_back = dr_op_is(dr, "failback");
    ret_reason[0] = '\0';
    if (dr_peer_is(dr))
        return dr_peer_tell_state(cluster, dr, now, ret_reason);
    if (dr_step_is(dr, "away"))
        return say(ret_reason, "away", "files of it are kept on ", info->home, "for a failback");
    if (dr_step_is(dr, "end")) {
        dr_tell_ending(cluster, dr, now, ret_reason);
        return "ending";
    }
    if (dr_step_is(dr, "queued"))
        return say(ret_reason, "queued", "", "", "");
    if (dr_is_acting(dr->vm))
        return say(ret_reason, is_back ? "failing-back" : "failing-over", "step ", info->step, "");
    const char *state = state_of_pair(cluster, dr, now, ret_reason);
    return is_back ? "failing-back" : state;
}

static void tell_ends(const struct cluster_dr *dr, Godwit__DrInfo *info)
{
    const Godwit__ProtectStatus *out = dr->out;
    const Godwit__ReplicaStatus *in = dr->in;
    if (out) {
        info->has_rpo_worst_ms = info->has_pause_us = info->has_pause_all_ms = true;
        info->has_checkpoints = info->has_bytes_out = info->has_is_linked = true;
        info->has_missed_count = true;
        info->rpo_worst_ms = out->rpo_worst_ms;
        info->pause_us = out->pause_us;
        info->pause_all_ms = out->pause_all_ms;
        info->checkpoints = out->checkpoints;
        info->bytes_out = out->bytes_out;
        info->is_linked = out->is_linked && !out->ended;
        info->missed_count = out->missed_count;
    }
    if (in) {
        info->has_held_unix_ms = in->held_unix_ms > 0;
        info->held_unix_ms = in->held_unix_ms;
        info->has_bytes_kept = true;
        info->bytes_kept = in->bytes_kept;
    }
}

static void tell_last(const Godwit__DrRecord *from, Godwit__DrInfo *info)
{
    const struct gw_code_row *row = gw_code_row((int)from->last_code);
    if (!from->last_op[0])
        return;
    info->last_op = from->last_op;
    info->last_state = from->last_state;
    info->last_error = from->last_error;
    info->last_code = row ? text_of(row->label) : NULL;
    info->has_began_unix_ms = true;
    info->began_unix_ms = from->began_unix_ms;
    info->has_ended_unix_ms = info->has_last_rto_ms = from->has_ended_unix_ms;
    info->ended_unix_ms = from->ended_unix_ms;
    info->last_rto_ms =
        from->ended_unix_ms > from->began_unix_ms ? from->ended_unix_ms - from->began_unix_ms : 0;
    info->has_last_rpo_ms = from->has_last_rpo_ms;
    info->last_rpo_ms = from->last_rpo_ms;
    info->has_last_bytes = from->has_last_bytes;
    info->last_bytes = from->last_bytes;
    info->has_last_bytes_kept = from->has_last_bytes_kept;
    info->last_bytes_kept = from->last_bytes_kept;
}

void dr_tell(const struct cluster *cluster, const struct cluster_dr *dr, struct cluster_now now,
             struct dr_message *ret_message)
{
    const Godwit__DrRecord *from = dr->info;
    Godwit__DrInfo *info = &ret_message->info;
    godwit__dr_info__init(info);
    WORDS_COPY(ret_message->state, dr_state(cluster, dr, now, ret_message->reason));
    cluster_vm_place(cluster, dr->vm, now.ns, ret_message->vm_state, sizeof ret_message->vm_state);
    info->vm = from->vm;
    info->state = ret_message->state;
    info->reason = ret_message->reason;
    info->vm_state = ret_message->vm_state;
    info->source = from->source;
    info->target = from->target;
    info->home = from->home;
    info->step = from->step;
    info->group = from->group;
    info->has_rpo_goal_ms = info->has_order = info->has_delay_ms = true;
    info->rpo_goal_ms = from->rpo_ms;
    info->order = from->order;
    info->delay_ms = from->delay_ms;
    info->has_disks_only = info->has_auto_take = info->has_bandwidth_bytes_per_s = true;
    info->disks_only = from->disks_only;
    info->auto_take = from->auto_take;
    info->bandwidth_bytes_per_s = from->bandwidth_bytes_per_s;
    info->has_rpo_ms = dr_rpo_now(cluster, dr, now, &info->rpo_ms);
    info->test = from->test;
    info->has_drill_every_ms = from->drill_every_ms > 0;
    info->drill_every_ms = from->drill_every_ms;
    info->has_drilled_unix_ms = from->has_drilled_unix_ms;
    info->drilled_unix_ms = from->drilled_unix_ms;
    if (dr_peer_is(dr)) {
        info->peer_pool_id = from->peer_pool_id;
        info->peer_host = from->peer_host;
        info->has_peer_holds = true;
        info->peer_holds = from->peer_holds;
    }
    tell_ends(dr, info);
    tell_last(from, info);
}

/* ---- alarms -----------------------------------------------------------------------------------
 */

static bool is_bad(const char *state)
{
    return is_same(state, "late") || is_same(state, "lost") || is_same(state, "conflict");
}

void dr_tell_alarms(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo)
{
    char reason[CLUSTER_REASON_SIZE];
    for (size_t i = 0; i < cluster->dr_count; i++) {
        struct cluster_dr *dr = cluster->drs[i];
        const char *state = dr_state(cluster, dr, now, reason);
        if (!is_bad(state)) {
            if (dr->is_alarm && is_same(state, "protected"))
                cluster_todo_event(todo, dr->info->vm_id, "%s is protected as promised again",
                                   dr->info->vm);
            dr->is_alarm = dr->is_alarm && !is_same(state, "protected") && !is_same(state, "away");
            dr->late_ns = 0;
            continue;
        }
        if (!dr->late_ns)
            dr->late_ns = now.ns;
        if (dr->is_alarm || now.ns - dr->late_ns < LATE_MS * NS_PER_MS)
            continue;
        dr->is_alarm = true;
        cluster_todo_event(todo, dr->info->vm_id,
                           is_same(state, "lost")
                               ? "alert: %s was lost; %.160s"
                               : "alert: %s is not protected as promised: %.160s",
                           dr->info->vm, reason);
    }
}

bool dr_warning(const struct cluster *cluster, struct cluster_now now,
                char ret_text[static CLUSTER_REASON_SIZE])
{
    char reason[CLUSTER_REASON_SIZE], first_reason[CLUSTER_REASON_SIZE] = "";
    const struct cluster_dr *first = NULL;
    unsigned count = 0, lost = 0;
    for (size_t i = 0; i < cluster->dr_count; i++) {
        const struct cluster_dr *dr = cluster->drs[i];
        const char *state = dr_state(cluster, dr, now, reason);
        if (!is_bad(state) || !dr->is_alarm)
            continue;
        count++;
        lost += is_same(state, "lost");
        if (!first || (is_same(state, "lost") && lost == 1)) {
            first = dr;
            WORDS_COPY(first_reason, reason);
        }
    }
    if (count == 1)
        (void)snprintf(ret_text, CLUSTER_REASON_SIZE,
                       lost ? "%s was lost; %.120s %s" : "%s is not protected as promised: %.120s",
                       first->info->vm, first_reason, lost ? first->info->vm : "");
    else if (count > 1)
        (void)snprintf(ret_text, CLUSTER_REASON_SIZE,
                       "%u VMs are not protected as promised, %u of them lost: godwit dr status",
                       count, lost);
    return count > 0;
}
