#include "coordinator/dr.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_test.h"
#include "coordinator/words.h"
#include "proto/limits.h"

enum {
    AGAIN_MS = 1000,
    REPEAT_MS = 5000,
    BEAT_SLACK_MS = HEARTBEAT_MS,
    SETTLE_MS = 10000,
    COLD_MS = 60000
};

static bool is_given(const char *text)
{
    return text && text[0];
}

static bool is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

void dr_set_text(char **field, const char *text)
{
    char *copy = strdup(text);
    assert(copy); /* control memory is small; without it there is no deciding */
    if (*field && *field != (char *)protobuf_c_empty_string)
        free(*field);
    *field = copy;
}

bool dr_step_is(const struct cluster_dr *dr, const char *step)
{
    return is_same(dr->info->step, step);
}

bool dr_op_is(const struct cluster_dr *dr, const char *op)
{
    return is_same(dr->info->op, op);
}

bool dr_returns(const struct cluster_dr *dr)
{
    return is_given(dr->info->home) && is_same(dr->info->home, dr->info->target);
}

bool dr_is_down(const struct cluster_vm *vm)
{
    return vm->own.phase == OWN_STOPPED || own_is_lost(&vm->own);
}

static bool is_fenced(const struct cluster_host *host)
{
    return host && (host->ha.phase == HA_FENCED || host->ha.phase == HA_QUARANTINE);
}

bool dr_host_is_gone(const struct cluster *cluster, const char *name)
{
    const struct cluster_host *host = cluster_host(cluster, name);
    return !host || is_fenced(host);
}

bool dr_will_be_lost(const struct cluster *cluster, const struct cluster_vm *vm)
{
    bool may_run = vm->own.phase == OWN_RUN || vm->own.phase == OWN_STARTING;
    return may_run && !vm->job && is_fenced(cluster_host(cluster, vm->own.owner));
}

bool dr_host_is_up(const struct cluster *cluster, const char *name, struct cluster_now now)
{
    const struct cluster_host *host = cluster_host(cluster, name);
    return host && host->link_up && host->facts && ha_core_may_run(&host->ha) &&
           cluster_host_state(host, now.ns) != HOST_DOWN;
}

/* The replica's end: the host that has it, or the line to the pool that does. */
static bool target_is_up(const struct cluster *cluster, const struct cluster_dr *dr,
                         struct cluster_now now)
{
    return dr_peer_is_source(dr) ? dr->peer_is_up : dr_host_is_up(cluster, dr->info->target, now);
}

bool dr_is_settling(const struct cluster *cluster, struct cluster_now now)
{
    return now.ns - cluster->began_ns < SETTLE_MS * NS_PER_MS;
}

bool dr_takes(const struct cluster_vm *vm)
{
    return vm->dr && dr_step_is(vm->dr, "take");
}

bool dr_is_acting(const struct cluster_vm *vm)
{
    static const char *const steps[] = {"finish", "undo", "stop",  "take", "back",
                                        "handed", "hold", "alone", "ask"};
    for (size_t i = 0; vm->dr && i < ARRAY_COUNT(steps); i++) {
        if (dr_step_is(vm->dr, steps[i]))
            return true;
    }
    return vm->dr && dr_step_is(vm->dr, "queued");
}

bool dr_lets_start(const struct cluster_vm *vm, const char *host)
{
    const struct cluster_dr *dr = vm->dr;
    if (!dr || dr_step_is(dr, "away") || dr_step_is(dr, "end"))
        return !dr || !dr_peer_is_source(dr) || dr_step_is(dr, "end");
    if (dr_is_acting(vm))
        return false;
    return !is_given(dr->info->split_host) &&
           (!dr->info->has_held || is_same(host, dr->info->source));
}

void dr_put(struct cluster_dr *dr, struct cluster_todo *todo)
{
    struct cluster_put *put = cluster_todo_put(todo, PUT_DR);
    put->object = dr;
    put->revision = dr->revision++;
}

void dr_set_step(struct cluster_dr *dr, const char *step, struct cluster_todo *todo)
{
    dr_set_text(&dr->info->step, step);
    dr->next_ns = 0;
    dr_put(dr, todo);
}

static void forget_ends(struct cluster_dr *dr)
{
    if (dr->out)
        godwit__protect_status__free_unpacked(dr->out, NULL);
    if (dr->in)
        godwit__replica_status__free_unpacked(dr->in, NULL);
    dr->out = NULL;
    dr->in = NULL;
    dr->in_ready = dr->out_ready = false;
}

void dr_new_pair(struct cluster *cluster, struct cluster_dr *dr, const char *source,
                 const char *target, bool keep_disks)
{
    Godwit__DrRecord *info = dr->info;
    char id[ID_TEXT_SIZE], from[OWN_HOST_SIZE], to[OWN_HOST_SIZE];
    WORDS_COPY(from, source); /* they may lie in the record itself */
    WORDS_COPY(to, target);
    cluster_draw_id(cluster, id);
    dr_set_text(&info->protection_id, id);
    dr_set_text(&info->source, from);
    dr_set_text(&info->target, to);
    info->has_keep_disks = info->has_has_held = info->has_generation = true;
    info->keep_disks = keep_disks;
    info->has_held = false;
    info->generation = dr->vm->own.gen;
    dr->is_asked = false; /* what is out was asked of another pair */
    forget_ends(dr);
}

/* ---- operations -------------------------------------------------------------------------------
 */

void dr_begin_op(struct cluster_dr *dr, const char *op, struct cluster_now now,
                 struct cluster_todo *todo)
{
    Godwit__DrRecord *info = dr->info;
    dr_set_text(&info->op, op);
    dr_set_text(&info->last_op, op);
    dr_set_text(&info->last_state, "running");
    dr_set_text(&info->last_error, "");
    info->has_last_code = info->has_last_rpo_ms = info->has_ended_unix_ms = false;
    info->has_last_bytes = info->has_last_bytes_kept = false;
    info->last_code = 0;
    info->has_began_unix_ms = true;
    info->began_unix_ms = now.unix_ms;
    dr_set_step(dr, "queued", todo);
}

void dr_end_op(struct cluster_dr *dr, const char *state, struct cluster_now now)
{
    Godwit__DrRecord *info = dr->info;
    dr_set_text(&info->op, "");
    dr_set_text(&info->last_state, state);
    info->has_ended_unix_ms = true;
    info->ended_unix_ms = now.unix_ms;
}

void dr_give_up_op(struct cluster_dr *dr, const char *why, struct cluster_now now,
                   struct cluster_todo *todo)
{
    cluster_todo_event(todo, dr->info->vm_id, "alert: %s of %s failed: %.180s", dr->info->last_op,
                       dr->info->vm, why);
    dr_set_text(&dr->info->last_error, why);
    dr->info->has_last_code = true;
    dr->info->last_code = GW_DR_FAILED;
    dr_end_op(dr, "failed", now);
}

/* It did not come through; the saga goes on with `step`. */
static void fail_op(struct cluster_dr *dr, const char *step, struct cluster_now now,
                    struct cluster_todo *todo, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
static void fail_op(struct cluster_dr *dr, const char *step, struct cluster_now now,
                    struct cluster_todo *todo, const char *format, ...)
{
    char text[CLUSTER_REASON_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    bool is_given_up = dr_is_down(dr->vm) || !is_same(dr->info->split_host, dr->vm->own.owner);
    if (dr_step_is(dr, "queued") && !is_given_up) /* else an earlier one is still to be ended */
        dr_set_text(&dr->info->split_host, "");
    dr_give_up_op(dr, text, now, todo);
    dr->in_ready = dr->out_ready = false;
    bool is_away = is_same(dr->info->source, dr->info->target);
    dr_set_step(dr, is_away ? "away" : step, todo);
}

/* A key serves once: whoever is to be asked again needs another, and the other end with it. */
void dr_ask_anew(struct cluster_dr *dr)
{
    dr->in_ready = dr->out_ready = false;
}

void dr_order(struct cluster_dr *dr, const char *host, enum cluster_order_kind kind,
                  struct cluster_now now, struct cluster_todo *todo)
{
    struct cluster_order *sent = cluster_order_vm(dr->vm, host, kind, now, todo);
    WORDS_COPY(sent->move_id, dr->info->protection_id);
    if (kind == ORDER_REPLICA_IN || kind == ORDER_PROTECT)
        sent->generation = dr->info->generation;
    dr->is_asked = true;
}

/* ---- protect ----------------------------------------------------------------------------------
 */

/* Where it runs now is its source, as what it runs as. Returns whether that is news. */
static bool follow(struct cluster_dr *dr, struct cluster_todo *todo)
{
    const struct own *own = &dr->vm->own;
    Godwit__DrRecord *info = dr->info;
    if (is_same(info->source, own->owner) && info->generation == own->gen)
        return false;
    if (!is_same(info->source, own->owner))
        cluster_todo_event(todo, dr->vm->id, "the protection of %s follows it from %s to %s",
                           info->vm, info->source, own->owner);
    dr_set_text(&info->source, own->owner);
    info->has_generation = true;
    info->generation = own->gen;
    dr_ask_anew(dr);
    dr_put(dr, todo);
    return true;
}

/* A target was told to take it and did not, and it ran on: what is held is older than that, and may
 * not be taken later as this one. It is dropped, and another pair begins with what lies there. */
static bool renew(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                  struct cluster_todo *todo)
{
    Godwit__DrRecord *info = dr->info;
    if (info->take_generation <= info->generation)
        return false;
    if (dr->is_asked || now.ns < dr->next_ns || !dr_host_is_up(cluster, info->target, now))
        return true;
    if (!info->keep_disks) {
        info->has_keep_disks = info->keep_disks = true;
        dr_put(dr, todo);
    }
    dr_order(dr, info->target, ORDER_REPLICA_DROP, now, todo);
    return true;
}

static bool disks_are_measured(const struct cluster_vm *vm)
{
    for (size_t i = 0; i < vm->spec->n_disks; i++) {
        if (!vm->disk_bytes[i])
            return false;
    }
    return true;
}

bool dr_is_held(const struct cluster *cluster, const struct cluster_dr *dr, struct cluster_now now)
{
    const Godwit__ProtectStatus *out = dr->out;
    return dr->info->has_held && dr->out_ready && out && out->held && out->held->seq > 0 &&
           out->is_linked && !out->ended && out->generation == dr->vm->own.gen &&
           dr_host_is_up(cluster, dr->info->source, now) && target_is_up(cluster, dr, now);
}

bool dr_runs_at_source(const struct cluster_dr *dr)
{
    const struct own *own = &dr->vm->own;
    return own->phase == OWN_RUN && own->gen == dr->info->generation &&
           is_same(own->owner, dr->info->source);
}

/* A guest that stands still for a last checkpoint that nobody waits for any more: it runs on. */
static bool is_forgotten(const struct cluster_dr *dr)
{
    return dr->out && dr->out->finished && !dr->out->ended &&
           dr->out->generation == dr->info->generation && dr_runs_at_source(dr);
}

/* The VM is down or its host away, and the target was booted: disks that lie there whole are taken
 * only once it has been told whose they are. */
static void ask_for_disks(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                          struct cluster_todo *todo)
{
    const struct cluster_vm *vm = dr->vm;
    const Godwit__DrRecord *info = dr->info;
    bool is_away = dr_is_down(vm) || !dr_host_is_up(cluster, vm->own.owner, now);
    if (info->disks_only && !info->has_held && !dr->in_ready && is_away && !vm->job &&
        !vm->ticket && !dr->is_asked && now.ns >= dr->next_ns && disks_are_measured(vm) &&
        !is_same(vm->own.owner, info->target) && !is_same(info->split_host, info->target) &&
        dr_host_is_up(cluster, info->target, now))
        dr_order(dr, info->target, ORDER_REPLICA_IN, now, todo);
}

static void step_protect(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                         struct cluster_todo *todo)
{
    const struct cluster_vm *vm = dr->vm;
    const Godwit__DrRecord *info = dr->info;
    if (vm->job)
        dr_ask_anew(dr); /* a move ends it with its process, or may have */
    ask_for_disks(cluster, dr, now, todo);
    if (dr_op_is(dr, "failback") && vm->own.phase == OWN_RUN && !vm->job &&
        is_same(vm->own.owner, info->target)) { /* HA started it there, or it was moved */
        fail_op(dr, "protect", now, todo, "%s runs on %s already", info->vm, info->target);
        return;
    }
    if (vm->own.phase != OWN_RUN || vm->job || vm->ticket || vm->want != WANT_RUNNING ||
        vm->state == GODWIT__VM_STATE__VM_STATE_HELD || is_same(vm->own.owner, info->target) ||
        is_same(info->split_host, info->target) || renew(cluster, dr, now, todo) ||
        follow(dr, todo))
        return;
    if (dr_op_is(dr, "failback") && !is_forgotten(dr) && dr_is_held(cluster, dr, now)) {
        dr_set_step(dr, "finish", todo);
        return;
    }
    if (dr->is_asked || now.ns < dr->next_ns || !disks_are_measured(vm) ||
        !dr_host_is_up(cluster, info->source, now))
        return;
    if (is_forgotten(dr))
        dr_order(dr, info->source, ORDER_PROTECT_END, now, todo);
    else if (!target_is_up(cluster, dr, now))
        return;
    else if (!dr->in_ready && dr_peer_is_source(dr))
        dr_peer_want_hold(dr, now);
    else if (!dr->in_ready)
        dr_order(dr, info->target, ORDER_REPLICA_IN, now, todo);
    else if (!dr->out_ready)
        dr_order(dr, info->source, ORDER_PROTECT, now, todo);
}

/* ---- what was lost ----------------------------------------------------------------------------
 */

/* At most: from what is held until its host cannot have been alive any more. A checkpoint that was cut
 * after the last beat says that it lived on until then, and with its next beat missing not much longer. */
static void note_loss(const struct cluster *cluster, struct cluster_dr *dr)
{
    const struct cluster_host *source = cluster_host(cluster, dr->info->source);
    Godwit__DrRecord *info = dr->info;
    uint64_t held = dr->in ? dr->in->held_unix_ms : 0;
    uint64_t died = source ? source->seen_unix_ms + BEAT_SLACK_MS : 0;
    if (dr->lost_unix_ms >= held && dr->lost_unix_ms < died)
        died = dr->lost_unix_ms;
    info->has_last_rpo_ms = held > 0 && source && source->seen_unix_ms > 0 && died >= held;
    info->last_rpo_ms = info->has_last_rpo_ms ? died - held : 0;
}

/* Only out of what is proven: STOPPED, or lost. */
void dr_take(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                 struct cluster_todo *todo)
{
    struct cluster_vm *vm = dr->vm;
    Godwit__DrRecord *info = dr->info;
    const struct cluster_host *host = cluster_host(cluster, info->target);
    const char *life = host->facts && host->facts->incarnation ? host->facts->incarnation : "";
    assert(dr_is_down(vm));
    if (own_is_lost(&vm->own))
        own_restart(&vm->own, info->target, life);
    else
        own_start(&vm->own, info->target, life);
    vm->want = WANT_RUNNING;
    vm->crashed = vm->ha_starts = false;
    vm->reason[0] = '\0';
    vm->state = GODWIT__VM_STATE__VM_STATE_NONE;
    vm->pid = 0;
    vm->start_ns = now.ns;
    cluster_put_own(vm, now, todo);
    info->has_take_generation = true;
    info->take_generation = vm->own.gen;
    dr_set_step(dr, "take", todo);
    cluster_todo_event(todo, vm->id, "%s of %s: its replica is taken on %s as generation %llu",
                       info->last_op, info->vm, info->target, (unsigned long long)vm->own.gen);
    log_info("dr", "taking vm=%s host=%s generation=%llu", info->vm, info->target,
             (unsigned long long)vm->own.gen);
    dr_order(dr, info->target, ORDER_REPLICA_TAKE, now, todo);
    dr->next_ns = now.ns + REPEAT_MS * NS_PER_MS;
}

/* ---- queued -----------------------------------------------------------------------------------
 */

/* Those of its group that come before it, and its delay after them. */
static bool is_its_turn(const struct cluster *cluster, const struct cluster_dr *dr,
                        struct cluster_now now)
{
    const Godwit__DrRecord *info = dr->info;
    uint64_t since = 0;
    for (size_t i = 0; is_given(info->group) && i < cluster->dr_count; i++) {
        const Godwit__DrRecord *other = cluster->drs[i]->info;
        bool will_begin =
            other->auto_take && other->has_held && dr_will_be_lost(cluster, cluster->drs[i]->vm);
        if (other == info || !is_same(other->group, info->group) || other->order >= info->order)
            continue;
        if (is_given(other->op) || will_begin)
            return false;
        if (other->ended_unix_ms >= info->began_unix_ms && other->ended_unix_ms > since)
            since = other->ended_unix_ms;
    }
    return !since || now.unix_ms >= since + info->delay_ms;
}

static void begin_return(struct cluster *cluster, struct cluster_dr *dr, struct cluster_todo *todo)
{
    if (!dr_returns(dr)) /* else it goes on with what it has */
        dr_new_pair(cluster, dr, dr->vm->own.owner, dr->info->home, true);
    cluster_todo_event(todo, dr->vm->id, "failback of %s to %s: what differs is copied",
                       dr->info->vm, dr->info->target);
    dr_set_step(dr, "protect", todo);
}

/* Its old host was sworn to be gone: what it has of this VM counts no more. */
static bool split(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                  struct cluster_todo *todo)
{
    struct cluster_vm *vm = dr->vm;
    const char *gone = dr->info->split_host;
    const struct cluster_host *host = cluster_host(cluster, gone);
    bool is_there = host && host->link_up;
    if (is_there || vm->job || (vm->own.phase != OWN_RUN && vm->own.phase != OWN_STARTING)) {
        fail_op(dr, "protect", now, todo, "%s is back, or %s is not there any more", gone,
                dr->info->vm);
        return false;
    }
    cluster_todo_event(todo, vm->id,
                       "alert: %s is given up on %s by an operator's word: it may still run there",
                       dr->info->vm, gone);
    own_lose(&vm->own);
    return true;
}

static void step_queued(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                        struct cluster_todo *todo)
{
    const Godwit__DrRecord *info = dr->info;
    struct cluster_vm *vm = dr->vm;
    if (!is_its_turn(cluster, dr, now))
        return;
    if (dr_op_is(dr, "failback")) {
        begin_return(cluster, dr, todo);
    } else if (!dr_host_is_up(cluster, info->target, now)) {
        if (!dr_is_settling(cluster, now))
            fail_op(dr, "protect", now, todo, "%s does not answer", info->target);
    } else if (dr_op_is(dr, "planned")) {
        if (vm->own.phase != OWN_RUN || vm->job)
            fail_op(dr, "protect", now, todo, "%s does not run any more", info->vm);
        else
            dr_set_step(dr, "finish", todo);
    } else if (dr_will_be_lost(cluster, vm)) {
        return;
    } else if (dr_is_down(vm) ||
               (is_same(info->split_host, vm->own.owner) && split(cluster, dr, now, todo))) {
        note_loss(cluster, dr);
        dr_take(cluster, dr, now, todo);
    } else if (dr_step_is(dr, "queued")) {
        fail_op(dr, "protect", now, todo, "%s may run on %s again", info->vm, vm->own.owner);
    }
}

/* ---- finish, undo, stop -----------------------------------------------------------------------
 */

static void step_finish(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                        struct cluster_todo *todo)
{
    if (!dr_runs_at_source(dr))
        fail_op(dr, "protect", now, todo,
                "%s was lost before its last checkpoint was held: godwit dr failover %s",
                dr->info->vm, dr->info->vm);
    else if (!dr->is_asked && now.ns >= dr->next_ns &&
             dr_host_is_up(cluster, dr->info->source, now))
        dr_order(dr, dr->info->source, ORDER_PROTECT_FINISH, now, todo);
}

static void step_undo(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                      struct cluster_todo *todo)
{
    if (!dr_runs_at_source(dr))
        fail_op(dr, "protect", now, todo, "%s was lost meanwhile", dr->info->vm);
    else if (!dr->is_asked && now.ns >= dr->next_ns &&
             dr_host_is_up(cluster, dr->info->source, now))
        dr_order(dr, dr->info->source, ORDER_PROTECT_END, now, todo);
}

static void order_stop(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo)
{
    struct cluster_vm *vm = dr->vm;
    if (vm->want != WANT_STOPPED) {
        vm->want = WANT_STOPPED;
        cluster_put_own(vm, now, todo);
    }
    (void)cluster_order_vm(vm, vm->own.owner, ORDER_STOP, now, todo);
    dr->next_ns = now.ns + REPEAT_MS * NS_PER_MS;
}

static void step_stop(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                      struct cluster_todo *todo)
{
    struct cluster_vm *vm = dr->vm;
    if (own_is_lost(&vm->own)) {
        own_stop(&vm->own);
        cluster_put_own(vm, now, todo);
    }
    if (vm->own.phase == OWN_STOPPED && dr_peer_is_source(dr))
        dr_peer_hand_over(dr, true, now, todo);
    else if (vm->own.phase == OWN_STOPPED && dr_host_is_up(cluster, dr->info->target, now))
        dr_take(cluster, dr, now, todo);
    else if (vm->own.phase == OWN_STOPPED && now.ns >= dr->next_ns && !dr_is_settling(cluster, now))
        fail_op(dr, "back", now, todo, "%s went away; %s starts cold on %s", dr->info->target,
                dr->info->vm, dr->info->source);
    else if (vm->own.phase == OWN_RUN && now.ns >= dr->next_ns &&
             dr_host_is_up(cluster, dr->info->source, now))
        order_stop(dr, now, todo);
}

/* ---- take, back -------------------------------------------------------------------------------
 */

static void taken(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                  struct cluster_todo *todo)
{
    Godwit__DrRecord *info = dr->info;
    bool is_return = dr_op_is(dr, "failback"), was_planned = dr_op_is(dr, "planned");
    char before[OWN_HOST_SIZE];
    WORDS_COPY(before, info->source);
    if (is_return || was_planned) { /* the guest stood still when the last one was cut */
        info->has_last_rpo_ms = true;
        info->last_rpo_ms = 0;
    }
    if (dr->in) {
        info->has_last_bytes = info->has_last_bytes_kept = true;
        info->last_bytes = dr->in->bytes_in;
        info->last_bytes_kept = dr->in->bytes_kept;
    }
    dr_end_op(dr, "done", now);
    cluster_todo_event(todo, dr->vm->id, "%s of %s is done: it runs on %s%s", info->last_op,
                       info->vm, info->target,
                       is_return ? " again, and is protected as before" : "");
    if (is_return) {
        dr_set_text(&info->home, "");
        dr_new_pair(cluster, dr, info->target, before, true);
        dr_set_step(dr, "protect", todo);
        return;
    }
    dr_set_text(&info->home, before);
    dr_set_text(&info->source, info->target);
    info->has_has_held = true;
    info->has_held = false;
    forget_ends(dr);
    dr_set_step(dr, "away", todo);
}

static void not_taken(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo)
{
    struct cluster_vm *vm = dr->vm;
    const Godwit__DrRecord *info = dr->info;
    bool was_planned = dr_op_is(dr, "planned") || dr_op_is(dr, "failback");
    char why[CLUSTER_REASON_SIZE];
    WORDS_COPY(why, vm->reason[0] ? vm->reason : "its host was lost");
    if (dr_peer_holds(dr)) {
        dr_peer_not_taken(dr, why, now, todo);
        return;
    }
    if (dr_is_down(vm)) {
        own_return(&vm->own,
                   info->source); /* it never ran there: what lies there is no disk to start from */
        cluster_put_own(vm, now, todo);
    }
    if (was_planned)
        fail_op(dr, "back", now, todo, "%s did not take it: %.120s; it starts cold on %s",
                info->target, why, info->source);
    else
        fail_op(dr, "protect", now, todo, "%s did not take it: %.160s", info->target, why);
}

static void step_take(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                      struct cluster_todo *todo)
{
    const struct own *own = &dr->vm->own;
    bool is_ours = own->gen == dr->info->take_generation;
    if (own->phase == OWN_RUN && is_same(own->owner, dr->info->target)) {
        taken(cluster, dr, now, todo);
    } else if (own->phase != OWN_STARTING || !is_ours) {
        not_taken(dr, now, todo);
    } else if (!dr->is_asked && now.ns >= dr->next_ns &&
               dr_host_is_up(cluster, dr->info->target, now)) {
        dr_order(dr, dr->info->target, ORDER_REPLICA_TAKE, now, todo);
        dr->next_ns = now.ns + REPEAT_MS * NS_PER_MS;
    }
}

/* The disks there are what the last checkpoint was; should their host go, so is what is held. */
static void step_back(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                      struct cluster_todo *todo)
{
    struct cluster_vm *vm = dr->vm;
    const struct cluster_host *host = cluster_host(cluster, dr->info->source);
    struct problem problem;
    if (own_is_lost(&vm->own)) {
        own_stop(&vm->own);
        cluster_put_own(vm, now, todo);
    }
    bool is_gone = !host || !ha_core_may_run(&host->ha) ||
                   (cluster_host_state(host, now.ns) == HOST_DOWN && !dr_is_settling(cluster, now));
    if (vm->own.phase != OWN_STOPPED || is_gone) {
        dr_set_step(dr, "protect", todo);
    } else if (now.ns >= dr->next_ns) {
        dr->next_ns = now.ns + AGAIN_MS * NS_PER_MS;
        if (cluster_start_on(cluster, vm, host, now, &problem, todo) == 0) {
            cluster_todo_event(todo, vm->id, "VM %s starts cold on %s from its disks",
                               vm->spec->name, host->name);
        } else if (now.unix_ms >= dr->info->ended_unix_ms + COLD_MS) { /* since it failed */
            cluster_todo_event(todo, vm->id, "alert: VM %s does not start on %s: %.180s",
                               vm->spec->name, host->name, problem.text);
            dr_set_step(dr, "protect", todo); /* who may say what becomes of it is its operator */
        }
    }
}

/* ---- end --------------------------------------------------------------------------------------
 */

static void step_end(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                     struct cluster_todo *todo)
{
    Godwit__DrRecord *info = dr->info;
    if (dr->is_asked || now.ns < dr->next_ns ||
        (dr_peer_holds(dr) && !dr_peer_may_drop(dr, todo)))
        return;
    if (!dr_runs_at_source(dr) || dr->vm->job)
        info->has_out_ended = info->out_ended = true; /* no process there that would replicate */
    if (!info->out_ended && dr_host_is_up(cluster, info->source, now)) {
        dr_order(dr, info->source, ORDER_PROTECT_END, now, todo);
    } else if (!info->in_ended && dr_host_is_up(cluster, info->target, now)) {
        dr_order(dr, info->target, ORDER_REPLICA_DROP, now, todo);
    } else if (info->out_ended && info->in_ended && !is_given(info->split_host) &&
               !dr_test_is_open(dr)) {
        struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_DR);
        put->revision = dr->revision;
        WORDS_COPY(put->key, info->vm_id);
        cluster_todo_event(todo, info->vm_id, "%s has no replica any more", info->vm);
        struct cluster_vm *held = dr_peer_holds(dr) ? dr->vm : NULL;
        cluster_drop_dr(cluster, dr);
        if (held)
            dr_peer_drop_vm(cluster, held, todo);
    }
}

/* ---- the tick ---------------------------------------------------------------------------------
 */

/* Nothing is left of what was given up: its host went out of the pool or its life is fenced, which
 * ends what it still runs, or the VM runs there again, as the one that counts. */
static bool split_is_over(const struct cluster *cluster, const struct cluster_dr *dr)
{
    const struct own *own = &dr->vm->own;
    bool runs_there = own->phase == OWN_RUN && is_same(own->owner, dr->info->split_host);
    return runs_there || dr_host_is_gone(cluster, dr->info->split_host);
}

/* Given up by an operator's word: once its host is back it ends there, its files stay. Returns
 * whether the record was put. */
static bool end_split(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                      struct cluster_todo *todo)
{
    const char *gone = dr->info->split_host;
    bool is_its_owner = is_same(gone, dr->vm->own.owner) && !dr_is_down(dr->vm);
    if (!is_given(gone) || (dr_step_is(dr, "queued") && is_same(gone, dr->vm->own.owner)))
        return false;
    if (split_is_over(cluster, dr)) {
        cluster_todo_event(todo, dr->info->vm_id, "what %s may have had of %s counts no more", gone,
                           dr->info->vm);
        dr_set_text(&dr->info->split_host, "");
        dr_put(dr, todo);
        return true;
    }
    if (is_its_owner || dr->is_stopping || now.ns < dr->stop_ns ||
        !dr_host_is_up(cluster, gone, now))
        return false;
    struct cluster_order *sent = cluster_order_vm(dr->vm, gone, ORDER_SPLIT_STOP, now, todo);
    WORDS_COPY(sent->move_id, dr->info->protection_id);
    dr->is_stopping = true;
    dr->stop_ns = now.ns + AGAIN_MS * NS_PER_MS;
    return false;
}

/* Nobody is asked: its host is fenced, and the replica was kept for this. */
static void take_by_itself(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                           struct cluster_todo *todo)
{
    const struct cluster_host *source = cluster_host(cluster, dr->info->source);
    if (!dr->info->auto_take || !dr->info->has_held || !is_fenced(source) || !dr_is_down(dr->vm) ||
        dr->vm->want != WANT_RUNNING || dr->vm->job || dr->vm->ticket || dr->vm->suspended[0] ||
        now.ns < dr->auto_ns || !cluster_ha_is_armed(cluster, now.unix_ms) ||
        !dr_host_is_up(cluster, dr->info->target, now))
        return;
    dr->auto_ns = now.ns + 10 * NS_PER_S; /* a refusal is no reason to hammer */
    dr_begin_op(dr, "failover", now, todo);
}

/* R10: what was under way when the backup was taken is over, one way or the other. */
static void settle_restored(struct cluster_dr *dr, struct cluster_now now,
                            struct cluster_todo *todo)
{
    bool is_undone = dr_step_is(dr, "finish") || dr_step_is(dr, "undo") || dr_step_is(dr, "stop");
    if (dr_peer_is(dr) && !is_undone)
        return; /* what the other pool was told holds */
    if (dr_peer_is(dr) && dr->vm->want == WANT_STOPPED) { /* of the hand-over, which goes no further */
        dr->vm->want = WANT_RUNNING;
        cluster_put_own(dr->vm, now, todo);
    }
    if (is_given(dr->info->op) || dr_is_acting(dr->vm))
        fail_op(dr, "protect", now, todo, "the pool's state was restored from a backup");
}

static void step(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                 struct cluster_todo *todo)
{
    if (end_split(cluster, dr, now, todo))
        return; /* the next tick goes on */
    if (dr_step_is(dr, "protect"))
        step_protect(cluster, dr, now, todo);
    else if (dr_step_is(dr, "queued"))
        step_queued(cluster, dr, now, todo);
    else if (dr_step_is(dr, "finish"))
        step_finish(cluster, dr, now, todo);
    else if (dr_step_is(dr, "undo"))
        step_undo(cluster, dr, now, todo);
    else if (dr_step_is(dr, "stop"))
        step_stop(cluster, dr, now, todo);
    else if (dr_step_is(dr, "take"))
        step_take(cluster, dr, now, todo);
    else if (dr_step_is(dr, "back"))
        step_back(cluster, dr, now, todo);
    else if (dr_step_is(dr, "end"))
        step_end(cluster, dr, now, todo);
    else if (dr_step_is(dr, "away"))
        dr_peer_step_away(dr, now, todo);
    else
        dr_peer_step(cluster, dr, now, todo);
}

void dr_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo)
{
    bool is_restored = cluster_is_restored(cluster, NULL, 0);
    for (size_t i = 0; !is_restored && i < cluster->dr_count; i++) {
        if (dr_step_is(cluster->drs[i], "protect")) /* all of a group, before one has its turn */
            take_by_itself(cluster, cluster->drs[i], now, todo);
    }
    for (size_t i = cluster->dr_count; i-- > 0;) { /* backwards: one that ends drops out */
        if (is_restored)
            settle_restored(cluster->drs[i], now, todo);
        else if (dr_peer_is_source(cluster->drs[i]) || /* which has nothing to test */
                 !dr_test_tick(cluster, cluster->drs[i], now, todo))
            step(cluster, cluster->drs[i], now, todo);
    }
}

void dr_link_changed(struct cluster *cluster, const struct cluster_host *host, bool up,
                     struct cluster_now now)
{
    for (size_t i = 0; i < cluster->dr_count; i++) {
        struct cluster_dr *dr = cluster->drs[i];
        bool is_source = is_same(dr->info->source, host->name);
        if (is_source || is_same(dr->info->target, host->name))
            dr_ask_anew(dr);
        if (is_source)
            dr->lost_unix_ms = up ? 0 : now.unix_ms;
    }
}

/* ---- what agents tell -------------------------------------------------------------------------
 */

static void set_held(struct cluster_dr *dr, bool held, struct cluster_todo *todo)
{
    if (dr->info->has_held == held)
        return;
    dr->info->has_has_held = true;
    dr->info->has_held = held;
    cluster_todo_event(todo, dr->info->vm_id,
                       held ? "the replica of %s on %s holds a whole checkpoint"
                            : "alert: the replica of %s on %s holds nothing whole any more",
                       dr->info->vm, dr->info->target);
    dr_put(dr, todo);
}

void dr_keep_out(struct cluster_dr *dr, const Godwit__ProtectStatus *status,
                     struct cluster_now now)
{
    Godwit__ProtectStatus *copy = cluster_message_copy(&status->base);
    if (!copy)
        return; /* the next one comes */
    if (dr->out)
        godwit__protect_status__free_unpacked(dr->out, NULL);
    words_plain(copy->trouble); /* an agent's, or a peer pool's */
    dr->out = copy;
    dr->out_ns = now.ns;
    if (copy->ended)
        dr_ask_anew(dr);
}

void dr_keep_in(struct cluster_dr *dr, const Godwit__ReplicaStatus *status,
                    struct cluster_todo *todo)
{
    const char *state = status && status->state ? status->state : "";
    Godwit__ReplicaStatus *copy = status ? cluster_message_copy(&status->base) : NULL;
    if (dr->in)
        godwit__replica_status__free_unpacked(dr->in, NULL);
    if (copy)
        words_plain(copy->state);
    dr->in = copy;
    if (is_same(state, "holding") && !dr_peer_is_stale(dr))
        set_held(dr, true, todo);
    else if (!is_same(state, "taken") && !dr_step_is(dr, "take"))
        set_held(dr, false, todo);
}

static bool is_pair(const struct cluster_dr *dr, const char *protection_id)
{
    return protection_id && is_same(dr->info->protection_id, protection_id);
}

void dr_protect_told(struct cluster *cluster, const struct cluster_host *host,
                     const Godwit__ProtectStatus *status, struct cluster_now now,
                     struct cluster_todo *todo)
{
    struct cluster_vm *vm = status->vm_id ? cluster_vm(cluster, status->vm_id) : NULL;
    (void)todo;
    if (vm && vm->dr && is_pair(vm->dr, status->protection_id) &&
        is_same(vm->dr->info->source, host->name))
        dr_keep_out(vm->dr, status, now);
}

void dr_replicas_told(struct cluster *cluster, const struct cluster_host *host,
                      const Godwit__AgentReplicas *told, struct cluster_now now,
                      struct cluster_todo *todo)
{
    for (size_t i = 0; i < cluster->dr_count; i++) {
        struct cluster_dr *dr = cluster->drs[i];
        const Godwit__ReplicaStatus *found = NULL;
        bool ends_there = is_same(dr->info->target, host->name) && !dr_step_is(dr, "away") &&
                          !dr_step_is(dr, "end");
        for (size_t n = 0; ends_there && n < told->n_replicas; n++) {
            if (is_pair(dr, told->replicas[n]->protection_id))
                found = told->replicas[n];
        }
        if (!ends_there || (!found && !dr->in_ready && !dr->info->has_held) ||
            (!found && dr_step_is(dr, "take"))) /* it is a VM now, or about to be */
            continue;
        if (!found && dr->in_ready) {
            dr_ask_anew(dr);
            dr->next_ns = now.ns + AGAIN_MS * NS_PER_MS;
        }
        dr_keep_in(dr, found, todo);
    }
}

/* ---- answers ----------------------------------------------------------------------------------
 */

bool dr_is_order(enum cluster_order_kind kind)
{
    return kind == ORDER_REPLICA_IN || kind == ORDER_PROTECT || kind == ORDER_PROTECT_FINISH ||
           kind == ORDER_PROTECT_END || kind == ORDER_REPLICA_TAKE || kind == ORDER_REPLICA_DROP ||
           kind == ORDER_REPLICA_COPY || kind == ORDER_SPLIT_STOP;
}

static void note_trouble(struct cluster_dr *dr, const struct cluster_result *result)
{
    WORDS_COPY(dr->trouble, result->fault ? result->fault->text : "");
}

static void on_ready(struct cluster_dr *dr, const struct cluster_order *order,
                     const struct cluster_result *result, struct cluster_now now,
                     struct cluster_todo *todo)
{
    bool is_current = order->generation == dr->info->generation &&
                      (dr_step_is(dr, "protect") || dr_step_is(dr, "hold"));
    note_trouble(dr, result);
    if (result->fault && order->kind == ORDER_PROTECT)
        dr_ask_anew(dr);
    if (result->fault || !is_current)
        return;
    if (order->kind == ORDER_REPLICA_IN) {
        dr->in_ready = true;
        if (result->replica)
            dr_keep_in(dr, result->replica, todo);
    } else {
        dr->out_ready = dr->in_ready; /* else the other end went meanwhile, and its key with it */
        if (result->protect)
            dr_keep_out(dr, result->protect, now);
    }
    dr->next_ns = 0;
}

static void on_finished(struct cluster *cluster, struct cluster_dr *dr,
                        const struct cluster_result *result, struct cluster_now now,
                        struct cluster_todo *todo)
{
    const char *why = result->fault ? result->fault->text : "its process ended";
    if (!dr_step_is(dr, "finish") || !dr_runs_at_source(dr))
        return;
    if (result->protect)
        dr_keep_out(dr, result->protect, now);
    if (!result->fault && result->protect && result->protect->finished) {
        if (!target_is_up(cluster, dr, now)) {
            dr->next_ns = now.ns + AGAIN_MS * NS_PER_MS;
            if (!dr_is_settling(cluster, now))
                dr_set_step(dr, "undo", todo);
            return;
        }
        dr_set_step(dr, "stop", todo);
        order_stop(dr, now, todo);
    } else if (result->definite && !result->never_left) {
        fail_op(dr, "protect", now, todo, "%s runs on: %.180s", dr->info->vm, why);
    }
}

/* Kept: who was asked may be lost for good by the time that a new coordinator would ask again. */
static void end_reached(struct cluster_dr *dr, bool is_out, struct cluster_todo *todo)
{
    Godwit__DrRecord *info = dr->info;
    bool was_reached = is_out ? info->out_ended : info->in_ended;
    if (is_out)
        info->has_out_ended = info->out_ended = true;
    else
        info->has_in_ended = info->in_ended = true;
    if (!was_reached)
        dr_put(dr, todo);
}

static void on_end(struct cluster *cluster, struct cluster_dr *dr,
                   const struct cluster_order *order, const struct cluster_result *result,
                   struct cluster_now now, struct cluster_todo *todo)
{
    bool is_over = !result->fault || (result->definite && result->fault->code == ERR_NOT_FOUND);
    if (!is_over)
        return;
    dr->next_ns = 0;
    if (dr_step_is(dr, "protect") && order->kind == ORDER_REPLICA_DROP) {
        dr_new_pair(cluster, dr, dr->vm->own.owner, dr->info->target, true);
        dr_put(dr, todo);
    } else if (dr_step_is(dr, "protect"))
        forget_ends(dr);
    else if (dr_step_is(dr, "undo"))
        fail_op(dr, "protect", now, todo, "%s went away; %s runs on", dr->info->target,
                dr->info->vm);
    else if (dr_step_is(dr, "end") || dr_peer_is_stale(dr))
        end_reached(dr, order->kind == ORDER_PROTECT_END, todo);
}

static void on_split_stopped(struct cluster_dr *dr, const struct cluster_order *order,
                             const struct cluster_result *result, struct cluster_todo *todo)
{
    bool is_over = !result->fault || (result->definite && result->fault->code == ERR_NOT_FOUND);
    dr->is_stopping = false;
    if (!is_over || !is_same(dr->info->split_host, order->host))
        return;
    cluster_todo_event(todo, dr->info->vm_id, "what %s still had of %s has ended; its files stay",
                       order->host, dr->info->vm);
    dr_set_text(&dr->info->split_host, "");
    dr_put(dr, todo);
}

void dr_order_done(struct cluster *cluster, const struct cluster_order *order,
                   const struct cluster_result *result, struct cluster_now now,
                   struct cluster_todo *todo)
{
    const struct cluster_vm *vm = cluster_vm(cluster, order->vm_id);
    struct cluster_dr *dr = vm ? vm->dr : NULL;
    if (!dr)
        return;
    if (order->kind == ORDER_SPLIT_STOP) {
        on_split_stopped(dr, order, result, todo);
        return;
    }
    if (order->kind == ORDER_REPLICA_COPY) {
        dr_test_copied(cluster, dr, order, result, now, todo);
        return;
    }
    if (!is_pair(dr, order->move_id))
        return;
    dr->is_asked = false;
    if (result->fault && now.ns + AGAIN_MS * NS_PER_MS > dr->next_ns &&
        order->kind != ORDER_REPLICA_TAKE)
        dr->next_ns = now.ns + AGAIN_MS * NS_PER_MS;
    switch (order->kind) {
    case ORDER_REPLICA_IN:
    case ORDER_PROTECT:
        on_ready(dr, order, result, now, todo);
        break;
    case ORDER_PROTECT_FINISH:
        on_finished(cluster, dr, result, now, todo);
        break;
    case ORDER_PROTECT_END:
    case ORDER_REPLICA_DROP:
        on_end(cluster, dr, order, result, now, todo);
        break;
    default:
        break; /* a take: the record tells */
    }
}

/* ---- loading ----------------------------------------------------------------------------------
 */

struct cluster_dr *dr_load(struct cluster *cluster, Godwit__DrRecord *info)
{
    static const char *const steps[] = {"protect", "queued", "finish", "undo", "stop", "take", "back",
                                        "away",    "end",    "handed", "hold", "ask",  "alone"};
    struct cluster_vm *vm = info->vm_id ? cluster_vm(cluster, info->vm_id) : NULL;
    bool known = false;
    for (size_t i = 0; info->step && i < ARRAY_COUNT(steps); i++)
        known = known || is_same(info->step, steps[i]);
    if (!known || !vm || vm->dr || !is_given(info->protection_id) || !is_given(info->source) ||
        !is_given(info->target) || !info->vm ||
        (!cluster_host(cluster, info->target) && !is_given(info->peer_pool_id)))
        return NULL;
    char **texts[] = {&info->group,   &info->op,         &info->home,      &info->split_host,
                      &info->last_op, &info->last_state, &info->last_error,
                      &info->peer_pool_id, &info->peer_host};
    struct cluster_dr *dr = cluster_add_dr(cluster, vm);
    if (!dr)
        return NULL;
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        if (!*texts[i])
            dr_set_text(texts[i], "");
    }
    dr_test_load(info);
    dr->info = info;
    dr_peer_load(dr);
    return dr;
}
