#include "coordinator/dr_peer.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/words.h"

enum { SILENT_MS = 5000 };

#define POOL_MARK "pool:"

static bool is_given(const char *text)
{
    return text && text[0];
}

bool dr_peer_is(const struct cluster_dr *dr)
{
    return is_given(dr->info->peer_pool_id);
}

bool dr_peer_holds(const struct cluster_dr *dr)
{
    return dr_peer_is(dr) && dr->info->peer_holds;
}

bool dr_peer_is_source(const struct cluster_dr *dr)
{
    return dr_peer_is(dr) && !dr->info->peer_holds;
}

const char *dr_peer_name(const struct cluster_dr *dr)
{
    /* Once taken the record's source is a host, and the pool its home. */
    const char *texts[] = {dr->info->target, dr->info->source, dr->info->home};
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        if (strncmp(texts[i], POOL_MARK, sizeof POOL_MARK - 1) == 0)
            return texts[i] + sizeof POOL_MARK - 1;
    }
    return "another pool";
}

bool dr_peer_is_conflict(const struct cluster_dr *dr)
{
    return dr_peer_is_source(dr) && dr_step_is(dr, "away") && !dr_is_down(dr->vm);
}

/* ---- the record -------------------------------------------------------------------------------
 */

void dr_peer_load(struct cluster_dr *dr)
{
    const Godwit__DrRecord *info = dr->info;
    dr->cross = (struct dr_cross){.step = dr_cross_step_from_name(info->step),
                                  .generation = info->peer_generation,
                                  .hand_no = info->hand_no,
                                  .returned_no = info->returned_no,
                                  .is_alone = info->is_alone,
                                  .is_heard = info->is_heard};
}

struct dr_cross *dr_peer_cross(struct cluster_dr *dr)
{
    dr->cross.step = dr_cross_step_from_name(dr->info->step);
    assert(dr->cross.step < DR_CROSS_STEP_COUNT);
    return &dr->cross;
}

void dr_peer_keep(struct cluster_dr *dr, struct cluster_todo *todo)
{
    Godwit__DrRecord *info = dr->info;
    const struct dr_cross *cross = &dr->cross;
    info->has_peer_generation = info->has_hand_no = info->has_returned_no = true;
    info->has_is_alone = info->has_is_heard = true;
    info->peer_generation = cross->generation;
    info->hand_no = cross->hand_no;
    info->returned_no = cross->returned_no;
    info->is_alone = cross->is_alone;
    info->is_heard = cross->is_heard;
    dr_set_text(&info->step, dr_cross_step_name(cross->step));
    dr->next_ns = 0;
    dr_put(dr, todo);
}

static void note_trouble(struct cluster_dr *dr, const char *why)
{
    WORDS_COPY(dr->trouble, why);
    words_plain(dr->trouble);
}

/* ---- starting ---------------------------------------------------------------------------------
 */

static uint64_t next_generation(const struct own *own)
{
    return own->phase == OWN_STARTING ? own->gen : own->hiwater + 1;
}

bool dr_peer_may_start(const struct cluster_vm *vm, struct cluster_now now)
{
    struct cluster_dr *dr = vm->dr;
    bool is_free = dr && dr_step_is(dr, "end") && dr->info->in_ended;
    if (dr && dr_peer_holds(dr))
        return dr_step_is(dr, "away");
    return !dr || !dr_peer_is_source(dr) || is_free ||
           dr_cross_may_start(dr_peer_cross(dr), next_generation(&vm->own), now.ns);
}

int dr_peer_judge_start(const struct cluster_vm *vm, struct cluster_now now,
                        struct problem *problem)
{
    struct problem other; /* somebody who only wants to know whether */
    struct problem *said = problem ? problem : &other;
    const struct cluster_dr *dr = vm->dr;
    if (dr_peer_may_start(vm, now))
        return 0;
    if (dr_peer_holds(dr))
        (void)problem_set(said, GW_VM_BUSY, "%s is a replica that is held for pool %s",
                          vm->spec->name, dr_peer_name(dr));
    else if (dr_step_is(dr, "end"))
        (void)problem_set(said, GW_VM_BUSY, "pool %s has not dropped the replica of %s yet",
                          dr_peer_name(dr), vm->spec->name);
    else if (dr_step_is(dr, "away") || dr->peer_step == DR_CROSS_TAKE)
        (void)problem_set(said, GW_DR_STATE, "%s was taken over by pool %s", vm->spec->name,
                          dr_peer_name(dr));
    else if (dr->peer_is_up && dr->peer_ns && dr->peer_step == DR_CROSS_NONE)
        (void)problem_set(said, GW_DR_STATE, "pool %s knows nothing of the replica of %s any more",
                          dr_peer_name(dr), vm->spec->name);
    else if (dr->peer_is_up)
        (void)problem_set(said, GW_VM_BUSY, "pool %s is being asked whether it has taken %s",
                          dr_peer_name(dr), vm->spec->name);
    else
        (void)problem_set(said, GW_DR_STATE,
                          "pool %s, which has the replica of %s, does not answer: it may have "
                          "taken it",
                          dr_peer_name(dr), vm->spec->name);
    if (!dr_peer_holds(dr) && !dr->peer_is_up && !dr_step_is(dr, "away") && dr->peer_step != DR_CROSS_TAKE)
        problem_detail(said, "it has not, for certain   godwit dr unprotect %.60s --force, then godwit vm start %.60s",
                       vm->spec->name, vm->spec->name);
    problem_hint(said, "godwit dr status %s", vm->spec->name);
    return -1;
}

/* ---- the source -------------------------------------------------------------------------------
 */

void dr_peer_want_hold(struct cluster_dr *dr, struct cluster_now now)
{
    if (dr->wants_hold || dr->peer_step == DR_CROSS_TAKE || dr->peer_step == DR_CROSS_ALONE)
        return;
    dr->link_no = dr->link_no < now.unix_ms ? now.unix_ms : dr->link_no + 1;
    dr->wants_hold = true;
}

void dr_peer_held(struct cluster_dr *dr, const Godwit__PeerDrHeld *told, const char *why,
                  struct cluster_now now, struct cluster_todo *todo)
{
    Godwit__DrRecord *info = dr->info;
    if (!told) {
        note_trouble(dr, why);
        return;
    }
    if (is_given(told->host) && id_name_is_valid(told->host) &&
        strcmp(info->peer_host, told->host) != 0) {
        dr_set_text(&info->peer_host, told->host);
        dr_put(dr, todo);
    }
    bool is_whole = told->is_ready && told->psk.len == sizeof dr->psk && is_given(told->address) &&
                    strlen(told->address) < sizeof dr->address;
    if (!is_whole || !dr->wants_hold || !dr_step_is(dr, "protect"))
        return;
    memcpy(dr->psk, told->psk.data, sizeof dr->psk);
    WORDS_COPY(dr->address, told->address);
    words_plain(dr->address);
    note_trouble(dr, "");
    dr->wants_hold = false;
    dr->in_ready = true;
    dr->next_ns = now.ns;
}

void dr_peer_hand_over(struct cluster_dr *dr, bool is_whole, struct cluster_now now,
                       struct cluster_todo *todo)
{
    struct cluster_vm *vm = dr->vm;
    struct dr_cross *cross = dr_peer_cross(dr);
    if (own_is_lost(&vm->own))
        own_stop(&vm->own);
    assert(vm->own.phase == OWN_STOPPED);
    vm->want = WANT_STOPPED;
    cluster_put_own(vm, now, todo);
    dr->info->has_is_whole = true;
    dr->info->is_whole = is_whole;
    cross->step = DR_CROSS_HANDED;
    dr_peer_keep(dr, todo);
    cluster_todo_event(todo, vm->id, "%s is handed over to pool %s: nothing starts it here",
                       dr->info->vm, dr_peer_name(dr));
    log_info("dr_peer", "handed over vm=%s to=%s number=%llu", dr->info->vm, dr_peer_name(dr),
             (unsigned long long)cross->hand_no);
}

static enum dr_cross_guest guest_of(const struct cluster *cluster, const struct cluster_dr *dr,
                                    struct cluster_now now)
{
    const struct cluster_vm *vm = dr->vm;
    if (vm->job || vm->ticket || vm->disk_move || vm->suspended[0] || vm->want != WANT_RUNNING ||
        cluster_is_restored(cluster, NULL, 0))
        return DR_CROSS_GUEST_UNSURE;
    bool is_away = !dr_host_is_up(cluster, vm->own.owner, now) && !dr_is_settling(cluster, now);
    bool is_out_of_reach = vm->crashed || is_away;
    if (own_is_lost(&vm->own) || (vm->own.phase == OWN_STOPPED && is_out_of_reach))
        return DR_CROSS_GUEST_LOST;
    bool runs = dr_runs_at_source(dr) && vm->state != GODWIT__VM_STATE__VM_STATE_HELD;
    return runs && dr_is_held(cluster, dr, now) ? DR_CROSS_GUEST_RUNS : DR_CROSS_GUEST_UNSURE;
}

static const char *why_not(const struct cluster *cluster, const struct cluster_dr *dr,
                           struct cluster_now now)
{
    const struct cluster_vm *vm = dr->vm;
    return vm->job || vm->disk_move || vm->ticket ? "something else is done to it there"
           : vm->want != WANT_RUNNING || vm->suspended[0]
               ? "it was stopped there, and its disks are newer than its replica"
           : !dr_host_is_up(cluster, vm->own.owner, now)
               ? "its host there does not answer, and is not fenced"
               : "its replica does not hold all but the newest just now";
}

static void on_finish(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo)
{
    cluster_todo_event(todo, dr->info->vm_id, "pool %s takes %s over: its last checkpoint is cut",
                       dr_peer_name(dr), dr->info->vm);
    dr_begin_op(dr, "handover", now, todo);
    dr_peer_keep(dr, todo);
}

/* It is down here, and nobody is to wait for it. */
static void rest(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo)
{
    struct cluster_vm *vm = dr->vm;
    own_stop(&vm->own);
    vm->want = WANT_STOPPED;
    vm->ha_starts = false;
    cluster_put_own(vm, now, todo);
    cluster_todo_event(todo, vm->id, "%s runs in pool %s now; what is here of it stays down",
                       dr->info->vm, dr_peer_name(dr));
}

static void on_away(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo)
{
    struct cluster_vm *vm = dr->vm;
    if (is_given(dr->info->op))
        dr_end_op(dr, "done", now);
    dr_ask_anew(dr);
    dr_peer_keep(dr, todo);
    if (dr_is_down(vm)) {
        rest(dr, now, todo);
        return;
    }
    cluster_todo_event(
        todo, vm->id,
        "alert: %s was taken over by pool %s and may run here too: end one of the two",
        dr->info->vm, dr_peer_name(dr));
    log_warn("dr_peer", "may run twice vm=%s here=%s there=%s", dr->info->vm, vm->own.owner,
             dr_peer_name(dr));
}

static void on_back(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo)
{
    if (is_given(dr->info->op))
        dr_give_up_op(dr, "the other pool gave it back", now, todo);
    dr->info->has_ended_unix_ms = true;
    dr->info->ended_unix_ms = now.unix_ms; /* since when a cold start is tried */
    dr->vm->want = WANT_RUNNING;
    cluster_put_own(dr->vm, now, todo);
    dr_peer_keep(dr, todo);
    cluster_todo_event(todo, dr->info->vm_id,
                       "alert: pool %s did not take %s: it starts here again, from its disks",
                       dr_peer_name(dr), dr->info->vm);
}

static void keep_answer(struct cluster_dr *dr, const Godwit__PeerDrWord *word,
                        struct cluster_now now, struct cluster_todo *todo)
{
    dr->peer_step = dr_cross_step_from_name(word->step);
    dr->peer_ns = now.ns;
    if (dr->peer_step == DR_CROSS_NONE || dr->peer_step == DR_CROSS_STEP_COUNT)
        return;
    if (word->in && word->in->state)
        dr_keep_in(dr, word->in, todo);
    if (dr->in_ready && word->link_no != dr->link_no)
        dr_ask_anew(dr); /* it listens for nobody, or for another key */
}

/* That the other pool knows nothing of it is no word that it does not run there: whoever took it may have lost the record.
 * What runs here, or was never held there, is free by it; what is down, by an operator's word. */
static bool is_free_of_unknown(const struct cluster_dr *dr)
{
    return !is_given(dr->info->peer_host) ||
           (!dr_is_down(dr->vm) && dr->vm->own.phase != OWN_STARTING);
}

void dr_peer_answered(struct cluster *cluster, struct cluster_dr *dr,
                      const Godwit__PeerDrWord *word, uint64_t asked_ns, struct cluster_now now,
                      struct cluster_todo *todo)
{
    if (dr_step_is(dr, "end") && dr->info->in_ended)
        return; /* it binds nobody any more */
    keep_answer(dr, word, now, todo);
    const struct dr_cross_word heard = {.step = dr->peer_step,
                                        .hand_no = word->hand_no,
                                        .returned_no = word->returned_no,
                                        .permit = word->permit};
    if (heard.step == DR_CROSS_STEP_COUNT)
        return; /* of a later version: it permits nothing that we know */
    enum dr_cross_guest guest = guest_of(cluster, dr, now);
    switch (dr_cross_source_hear(dr_peer_cross(dr), &heard, guest, asked_ns)) {
    case DR_CROSS_NEWS_FINISH:
        on_finish(dr, now, todo);
        break;
    case DR_CROSS_NEWS_HANDED:
        dr_set_text(&dr->info->step, "handed");
        dr_peer_hand_over(dr, false, now, todo);
        break;
    case DR_CROSS_NEWS_REFUSED:
        dr_set_text(&dr->info->last_error, why_not(cluster, dr, now));
        dr_peer_keep(dr, todo);
        break;
    case DR_CROSS_NEWS_BACK:
        on_back(dr, now, todo);
        break;
    case DR_CROSS_NEWS_AWAY:
        on_away(dr, now, todo);
        break;
    case DR_CROSS_NEWS_END:
        if (!dr->info->in_ended && (heard.step == DR_CROSS_END || is_free_of_unknown(dr))) {
            dr->info->has_in_ended = dr->info->in_ended = true;
            dr_put(dr, todo);
        }
        break;
    case DR_CROSS_NO_NEWS:
    case DR_CROSS_NEWS_TAKE:
        break;
    }
}

/* ---- both: what is said -----------------------------------------------------------------------
 */

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text; /* protobuf-c knows no const; nobody writes through these */
}

static void fill(struct cluster_dr *dr, Godwit__PeerDrWord *ret_word)
{
    godwit__peer_dr_word__init(ret_word);
    ret_word->vm_id = dr->info->vm_id;
    ret_word->protection_id = dr->info->protection_id;
    ret_word->has_generation = ret_word->has_hand_no = ret_word->has_returned_no = true;
    ret_word->has_permit = true;
}

void dr_peer_say(struct cluster_dr *dr, struct cluster_now now, Godwit__PeerDrWord *ret_word)
{
    const struct dr_cross *cross = dr_peer_cross(dr);
    const struct own *own = &dr->vm->own;
    bool is_down = own->phase == OWN_STARTING || dr_is_down(dr->vm);
    fill(dr, ret_word);
    ret_word->step = text_of(dr_cross_step_name(cross->step));
    ret_word->generation = own->hiwater;
    ret_word->hand_no = cross->hand_no;
    if (is_down && (cross->step == DR_CROSS_PROTECT || cross->step == DR_CROSS_BACK))
        ret_word->permit = next_generation(own);
    ret_word->reason = dr->info->last_error;
    ret_word->has_is_whole = true;
    ret_word->is_whole = dr->info->is_whole;
    if (dr->out && !dr->out->ended && now.ns - dr->out_ns < SILENT_MS * NS_PER_MS)
        ret_word->out = dr->out;
}

/* ---- the holder -------------------------------------------------------------------------------
 */

struct cluster_dr *dr_peer_find(const struct cluster *cluster, const char *peer_pool_id,
                                const Godwit__PeerDrWord *word)
{
    const struct cluster_vm *vm = is_given(word->vm_id) ? cluster_vm(cluster, word->vm_id) : NULL;
    struct cluster_dr *dr = vm ? vm->dr : NULL;
    bool is_it = dr && dr_peer_holds(dr) && strcmp(dr->info->peer_pool_id, peer_pool_id) == 0 &&
                 word->protection_id && strcmp(dr->info->protection_id, word->protection_id) == 0;
    return is_it ? dr : NULL;
}

static void give_up(struct cluster_dr *dr, const char *why, struct cluster_now now,
                    struct cluster_todo *todo)
{
    dr_give_up_op(dr, why, now, todo);
    dr_ask_anew(dr);
    dr_peer_keep(dr, todo);
}

/* The host that has it is away: then it is not taken, and given back. */
static void take_it(struct cluster *cluster, struct cluster_dr *dr, uint64_t handed,
                    struct cluster_now now, struct cluster_todo *todo)
{
    Godwit__DrRecord *info = dr->info;
    struct own *own = &dr->vm->own;
    char why[CLUSTER_REASON_SIZE];
    if (!dr_host_is_up(cluster, info->target, now) || !dr_is_down(dr->vm)) {
        (void)snprintf(why, sizeof why, "%.60s, which has the replica, does not answer",
                       info->target);
        dr_cross_return(&dr->cross);
        give_up(dr, why, now, todo);
        return;
    }
    if (dr->info->generation < handed)
        dr->info->generation = handed; /* what is held is of that one, until it runs as a newer one */
    if (own->hiwater < dr->cross.generation)
        own->hiwater = dr->cross.generation; /* above all that the other pool may have given out */
    dr_peer_keep(dr, todo);
    dr_take(cluster, dr, now, todo);
}

static void note_rpo(struct cluster_dr *dr, const Godwit__PeerDrWord *word)
{
    Godwit__DrRecord *info = dr->info;
    info->has_last_rpo_ms = word->is_whole;
    info->last_rpo_ms = 0;
}

/* A take came to nothing, and the source goes on as a newer generation, or tried to: what is held may be older than what
 * runs by any time, and nothing replicates to it any more. It is dropped. */
static bool is_of_before(const struct cluster_dr *dr, uint64_t generation)
{
    return dr->info->take_generation && generation > dr->info->generation;
}

static void judge_stale(struct cluster_dr *dr, uint64_t generation, struct cluster_todo *todo)
{
    Godwit__DrRecord *info = dr->info;
    if (!dr_step_is(dr, "hold") || info->is_stale || !is_of_before(dr, generation))
        return;
    info->has_is_stale = info->is_stale = info->has_has_held = true;
    info->has_held = false;
    info->has_in_ended = true;
    info->in_ended = false;
    dr_ask_anew(dr);
    cluster_todo_event(todo, info->vm_id,
                       "alert: %s runs on in pool %s, and its replica here is of before: protect it "
                       "anew there",
                       info->vm, dr_peer_name(dr));
    dr_peer_keep(dr, todo);
}

bool dr_peer_is_stale(const struct cluster_dr *dr)
{
    return dr_peer_holds(dr) && dr->info->is_stale;
}

void dr_peer_hear(struct cluster *cluster, struct cluster_dr *dr, const Godwit__PeerDrWord *word,
                  struct cluster_now now, Godwit__PeerDrWord *ret_answer, struct cluster_todo *todo)
{
    struct dr_cross_word heard = {.step = dr_cross_step_from_name(word->step),
                                  .generation = word->generation,
                                  .hand_no = word->hand_no,
                                  .permit = word->permit};
    struct dr_cross_word answer;
    bool is_changed = false;
    char why[CLUSTER_REASON_SIZE];
    WORDS_COPY(why, is_given(word->reason) ? word->reason : "it was refused there");
    words_plain(why); /* another pool's: for an event, a record, a terminal */
    if (heard.generation > DR_PEER_NUMBER_MAX || heard.hand_no > DR_PEER_NUMBER_MAX ||
        heard.permit > DR_PEER_NUMBER_MAX)
        heard = (struct dr_cross_word){.step = DR_CROSS_NONE}; /* no pool counts so far */
    if (heard.step == DR_CROSS_STEP_COUNT)
        heard.step = DR_CROSS_NONE; /* of a later version: nothing that we know */
    enum dr_cross_news news =
        dr_cross_holder_hear(dr_peer_cross(dr), &heard, now.ns, &answer, &is_changed);
    dr->peer_ns = now.ns;
    dr->peer_step = heard.step;
    if (word->out)
        dr_keep_out(dr, word->out, now);
    if (news == DR_CROSS_NEWS_TAKE && is_of_before(dr, heard.generation)) {
        dr_cross_return(&dr->cross);
        give_up(dr, "it ran on there since a take that came to nothing: what is held is older", now,
                todo);
    } else if (news == DR_CROSS_NEWS_TAKE) {
        note_rpo(dr, word);
        take_it(cluster, dr, word->generation, now, todo);
    } else if (news == DR_CROSS_NEWS_REFUSED) {
        give_up(dr,
                answer.returned_no > heard.hand_no ? "the other pool answers: it is asked first"
                                                   : why,
                now, todo);
    } else if (news == DR_CROSS_NEWS_END) {
        dr->info->has_out_ended = dr->info->out_ended = true;
        dr->info->has_in_ended = true;
        dr->info->in_ended = false;
        dr_peer_keep(dr, todo);
    } else if (is_changed) {
        dr_peer_keep(dr, todo);
    }
    judge_stale(dr, heard.generation, todo);
    fill(dr, ret_answer);
    ret_answer->step = text_of(dr_cross_step_name(dr_peer_cross(dr)->step));
    ret_answer->generation = dr->cross.generation;
    ret_answer->hand_no = dr->cross.hand_no;
    ret_answer->returned_no = dr->cross.returned_no;
    ret_answer->permit = answer.permit;
    ret_answer->has_link_no = ret_answer->has_has_held = true;
    ret_answer->link_no = dr->in_ready ? dr->link_no : 0;
    ret_answer->has_held = dr->info->has_held;
    ret_answer->host = dr->info->target;
    ret_answer->in = dr->in;
}

void dr_peer_not_taken(struct cluster_dr *dr, const char *why, struct cluster_now now,
                       struct cluster_todo *todo)
{
    struct own *own = &dr->vm->own;
    char text[CLUSTER_REASON_SIZE];
    (void)snprintf(text, sizeof text, "%.60s did not take it: %.120s", dr->info->target, why);
    if (own_is_lost(own))
        own_stop(own);
    dr->vm->want = WANT_STOPPED;
    cluster_put_own(dr->vm, now, todo);
    dr_cross_return(dr_peer_cross(dr));
    give_up(dr, text, now, todo);
}

/* By a pool that forgot that it took it: a running VM is none to be dropped. */
static void keep_running(struct cluster_dr *dr, struct cluster_todo *todo)
{
    dr->cross.step = DR_CROSS_AWAY;
    dr_peer_keep(dr, todo);
}

bool dr_peer_may_drop(struct cluster_dr *dr, struct cluster_todo *todo)
{
    const struct cluster_vm *vm = dr->vm;
    if (vm->job || vm->ticket || vm->own.phase == OWN_STARTING)
        return false;
    if (vm->own.phase != OWN_STOPPED)
        keep_running(dr, todo);
    return vm->own.phase == OWN_STOPPED;
}

void dr_peer_drop_vm(struct cluster *cluster, struct cluster_vm *vm, struct cluster_todo *todo)
{
    struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_VM);
    put->revision = vm->revision;
    put->own_revision = vm->own_revision;
    WORDS_COPY(put->key, vm->id);
    cluster_drop_vm(cluster, vm);
}

static void step_hold(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                      struct cluster_todo *todo)
{
    if (dr->vm->own.phase != OWN_STOPPED) {
        keep_running(dr, todo);
    } else if (dr->info->is_stale) {
        if (!dr->info->in_ended && !dr->is_asked && now.ns >= dr->next_ns &&
            dr_host_is_up(cluster, dr->info->target, now))
            dr_order(dr, dr->info->target, ORDER_REPLICA_DROP, now, todo);
    } else if (dr->link_no && !dr->in_ready && !dr->is_asked && now.ns >= dr->next_ns &&
               dr_host_is_up(cluster, dr->info->target, now)) {
        dr_order(dr, dr->info->target, ORDER_REPLICA_IN, now, todo);
    }
}

void dr_peer_step_away(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo)
{
    if (dr_peer_is_source(dr) && dr_is_down(dr->vm) &&
        (own_is_lost(&dr->vm->own) || dr->vm->want == WANT_RUNNING))
        rest(dr, now, todo); /* it ended since it was heard of, or is found to have */
}

void dr_peer_step(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                  struct cluster_todo *todo)
{
    struct dr_cross *cross = dr_peer_cross(dr);
    if (!dr_peer_holds(dr))
        return; /* handed: what the other pool says goes on */
    if (cross->step == DR_CROSS_HOLD) {
        step_hold(cluster, dr, now, todo);
    } else if (dr_cross_is_overdue(cross, cluster->began_ns, now.ns)) {
        dr_cross_return(cross);
        give_up(dr, "the other pool did not hand it over in time", now, todo);
    } else if (dr_cross_may_take(cross, cluster->began_ns, now.ns)) {
        cross->step = DR_CROSS_TAKE;
        take_it(cluster, dr, 0, now, todo);
    }
}
