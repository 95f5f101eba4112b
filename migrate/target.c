/* The shell around target_core: turns what happens into events and carries the todo out.
 *
 *      opener ----- streams ----+
 *      control lane - messages -+-> mailbox -> the move's thread -> core -> todo -> guest
 *      lanes ------ reports ----+
 *      populate --- done -------+
 *      verdicts --> core, under the lock
 *
 * This file holds the door, the move's thread and the todo; target_mail hears, target_words speaks
 * and judges, target_reconnect replaces lost lanes, target_post fetches what was left behind.
 */
#include "migrate/target.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/control_lane.h"
#include "migrate/guest.h"
#include "migrate/hot.h"
#include "migrate/lane_opener.h"
#include "migrate/lane_target.h"
#include "migrate/mailbox.h"
#include "migrate/page_digest.h"
#include "migrate/populate.h"
#include "migrate/progress.h"
#include "migrate/target_core.h"
#include "migrate/target_inside.h"
#include "migrate/watch.h"
#include "net/stream.h"
#include "proto/limits.h"

enum { MAIL_SLOTS = 64, LAST_WORD_MS = 200 };

static uint64_t total_pages(const struct guest *guest)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < guest->region_count; i++)
        pages += guest->regions[i].pages;
    return pages;
}

/* ---- events in, todo out ------------------------------------------------------------------- */

static void merge_todo(struct target *target, unsigned todo)
{
    if (todo & TARGET_TODO_LATCH_ABANDONED) /* nothing that leads forward may still happen */
        target->todo &= ~(unsigned)TARGET_TODO_FORWARD;
    target->todo |= todo;
}

void target_feed(struct target *target, struct target_event *event)
{
    unsigned todo = 0;
    struct fault fault = {0};

    event->now_ns = world_now_ns();
    pthread_mutex_lock(&target->mutex);
    int r = target_core_step(&target->core, event, &todo, &fault);
    assert(r == 0); /* our own shell never says what may not be */
    merge_todo(target, todo);
    pthread_mutex_unlock(&target->mutex);
}

void target_feed_type(struct target *target, enum target_event_type type)
{
    struct target_event event = {.type = type};
    target_feed(target, &event);
}

void target_feed_fault(struct target *target, enum target_event_type type,
                       const struct fault *fault)
{
    struct target_event event = {.type = type, .fault = fault};
    target_feed(target, &event);
}

enum phase target_current_phase(struct target *target)
{
    pthread_mutex_lock(&target->mutex);
    enum phase phase = target->core.phase;
    pthread_mutex_unlock(&target->mutex);
    return phase;
}

uint64_t target_current_deadline(struct target *target)
{
    pthread_mutex_lock(&target->mutex);
    uint64_t deadline_ns = target->core.phase_deadline_ns;
    pthread_mutex_unlock(&target->mutex);
    return deadline_ns;
}

static unsigned take_todo(struct target *target)
{
    pthread_mutex_lock(&target->mutex);
    unsigned bit = target->todo & -target->todo; /* one at a time: the next may be void by then */
    target->todo &= ~bit;
    pthread_mutex_unlock(&target->mutex);
    return bit;
}

static void trace(void *data, const char *line)
{
    struct target *target = data;
    log_debug("target", "%s vm=%s move=%s", line, target->config.guest->vm_id, target->move_id);
}

/* ---- the watch ------------------------------------------------------------------------------ */

static void on_watch_expired(void *data)
{
    struct target *target = data;
    control_lane_interrupt(target->control); /* armed only while there is one */
}

/* ---- todo ----------------------------------------------------------------------------------- */

static void latch(struct target *target, Godwit__Latch latch)
{
    if (latch == GODWIT__LATCH__LATCH_READY)
        (void)failpoint(FAILPOINT_TARGET_BEFORE_READY);
    else if (latch == GODWIT__LATCH__LATCH_TOOK)
        (void)failpoint(FAILPOINT_TARGET_BEFORE_TOOK);
    else if (latch == GODWIT__LATCH__LATCH_ABANDONED)
        (void)failpoint(FAILPOINT_TARGET_BEFORE_ABANDONED);
    target->config.on_latch(target->config.data, latch);
    if (latch == GODWIT__LATCH__LATCH_TOOK)
        (void)failpoint(FAILPOINT_TARGET_AFTER_TOOK);
}

static int check_digest(struct target *target, const Godwit__MoveState *state, struct fault *fault)
{
    const struct guest *guest = target->config.guest;
    uint64_t sum = target->post_sum;
    for (unsigned i = 0; i < target->lanes_wanted; i++)
        sum += target->digest_sums[i];
    target->memory_digest = sum;
    if (state->pages != total_pages(guest) || state->memory_digest != sum)
        return fault_set(fault, ERR_CORRUPT,
                         "memory digest %016llx over %llu pages, the source has %016llx over %llu",
                         (unsigned long long)sum, (unsigned long long)total_pages(guest),
                         (unsigned long long)state->memory_digest,
                         (unsigned long long)state->pages);
    if (!state->reread)
        return 0;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int r = page_digest_reread(target->digests, guest->regions, guest->region_count,
                               cores > 0 ? (unsigned)cores : 1, &sum, fault);
    if (r < 0)
        return fault_wrap(fault, r, "reading all memory again at the target");
    assert(sum == target->memory_digest); /* every term was equal */
    return 0;
}

static int load(struct target *target, struct fault *fault)
{
    const struct guest *guest = target->config.guest;
    const Godwit__MoveState *state = target->state->state;
    uint64_t begun_ns = world_now_ns();
    int r = check_digest(target, state, fault);
    if (r < 0)
        return r;
    r = failpoint_check(FAILPOINT_TARGET_LOAD, fault);
    if (r == 0 && target_post_is_on(target))
        return target_post_step_guest(target, false, fault);
    if (r == 0)
        r = guest->ops->load(guest->owner, state->machine.data, state->machine.len,
                             state->paused_ns, fault);
    if (r < 0)
        return fault_wrap(fault, r, "loading the machine");
    target->load_ns = world_now_ns() - begun_ns;
    target_feed_type(target, TARGET_EVENT_LOADED);
    return 0;
}

static int resume_guest(struct target *target, struct fault *fault)
{
    const struct guest *guest = target->config.guest;
    uint64_t begun_ns = world_now_ns();
    (void)failpoint(FAILPOINT_TARGET_RESUME);
    if (target_post_is_on(target))
        return target_post_step_guest(target, true, fault);
    int r = guest->ops->resume(guest->owner, fault);
    if (r < 0)
        return r;
    target->resume_ns = world_now_ns() - begun_ns;
    target_feed_type(target, TARGET_EVENT_RESUMED);
    return 0;
}

static int carry_out(struct target *target, enum target_todo bit, struct fault *fault)
{
    switch (bit) {
    case TARGET_TODO_LATCH_IN:
        latch(target, GODWIT__LATCH__LATCH_IN);
        return 0;
    case TARGET_TODO_ACCEPT:
        return target_mail_accept_lanes(target, fault);
    case TARGET_TODO_SEND_WELCOME:
        target_words_send_welcome(target);
        return 0;
    case TARGET_TODO_POPULATE:
        return target_mail_populate(target, fault);
    case TARGET_TODO_SEND_PREPARED:
        target_words_send_prepared(target);
        return 0;
    case TARGET_TODO_LOAD:
        return load(target, fault);
    case TARGET_TODO_LATCH_READY:
        latch(target, GODWIT__LATCH__LATCH_READY);
        return 0;
    case TARGET_TODO_SEND_READY:
        target_words_send_ready(target);
        return 0;
    case TARGET_TODO_LATCH_TOOK:
        latch(target, GODWIT__LATCH__LATCH_TOOK);
        return 0;
    case TARGET_TODO_RESUME:
        return resume_guest(target, fault);
    case TARGET_TODO_SEND_STARTED:
        target_words_send_started(target);
        return 0;
    case TARGET_TODO_LATCH_ABANDONED:
        latch(target, GODWIT__LATCH__LATCH_ABANDONED);
        return 0;
    case TARGET_TODO_SEND_ABANDONED:
        target_words_send_abandoned(target);
        return 0;
    case TARGET_TODO_END:
        target->finished = true;
        return 0;
    case TARGET_TODO_HANG_UP:
        target_reconnect_hang_up(target);
        return 0;
    case TARGET_TODO_SEND_FETCHED:
        target_words_send_fetched(target);
        return 0;
    }
    assert(false);
    return 0;
}

static void do_todo(struct target *target)
{
    unsigned bit;
    while ((bit = take_todo(target))) {
        struct fault fault = {0};
        int r = carry_out(target, (enum target_todo)bit, &fault);
        if (r < 0) {
            if (!fault.code)
                (void)fault_set(&fault, r, "%s", err_name(r));
            target_feed_fault(
                target, bit == TARGET_TODO_RESUME ? TARGET_EVENT_GUEST_LOST : TARGET_EVENT_FAILED,
                &fault);
        }
    }
}

/* ---- telling -------------------------------------------------------------------------------- */

static void tell_progress(struct target *target, uint64_t now_ns)
{
    pthread_mutex_lock(&target->mutex);
    enum phase phase = target->core.phase;
    uint64_t started_ns = target->core.started_ns, pages = target->core.populate_pages;
    bool away = target->core.away && !target->core.ended;
    pthread_mutex_unlock(&target->mutex);

    const struct progress_facts facts = {
        .now_ns = now_ns,
        .started_ns = started_ns,
        .phase = (Godwit__MovePhase)phase,
        .lanes = target->lanes_open,
        .memory_pages = pages,
        .away = away,
    };
    Godwit__MoveProgress message;
    progress_fill(&target->progress, &facts, &message);
    target->told_phase = phase;
    target->next_progress_ns = now_ns + PROGRESS_MS * NS_PER_MS;
    target->config.on_progress(target->config.data, &message);
}

static void turn(struct target *target)
{
    struct target_mail mail;
    uint64_t now_ns = world_now_ns();
    enum phase phase = target_current_phase(target);
    bool quiet = phase >= PHASE_PRECOPY && phase <= PHASE_HANDOVER && now_ns < target->hot_until_ns;
    if (!quiet && (phase != target->told_phase || now_ns >= target->next_progress_ns))
        tell_progress(target, now_ns);

    uint64_t until_ns = quiet ? target->hot_until_ns : target->next_progress_ns;
    uint64_t deadline_ns = target_current_deadline(target);
    if (deadline_ns && deadline_ns < until_ns)
        until_ns = deadline_ns;
    uint64_t spin_until_ns = quiet && hot_streams() ? now_ns + LANE_SPIN_NS : 0;
    if (mailbox_take(target->mailbox, &mail, until_ns, spin_until_ns)) {
        target_mail_take(target, &mail);
        return;
    }
    struct target_event event = {
        .type = TARGET_EVENT_TICK,
        .activity = target->activity + progress_wire_bytes(&target->progress),
    };
    target_feed(target, &event);
}

/* ---- the end -------------------------------------------------------------------------------- */

static void stop_threads(struct target *target)
{
    mailbox_close(target->mailbox);
    target->config.interrupt_accept(target->config.data);
    for (unsigned i = 0; i < LANES_MAX; i++) {
        if (target->lanes[i])
            lane_target_interrupt(target->lanes[i]);
    }
    target_post_interrupt(target);
    target->opener = lane_opener_free(target->opener);
    target->populate = populate_free(target->populate);
    target->watch = watch_free(target->watch);
    for (unsigned i = 0; i < LANES_MAX; i++)
        target->lanes[i] = lane_target_free(target->lanes[i]);
    target->control = control_lane_free(target->control);
    target->next_control = stream_free(target->next_control);
    target_post_stop(target);

    struct target_mail mail;
    while (mailbox_try_take(target->mailbox, &mail))
        target_mail_discard(&mail);
}

/* ABANDONED says why; a lane that closes says nothing. So the lanes stay until the source has heard
 * it and hung up, or LAST_WORD_MS have passed. */
static void let_the_last_word_arrive(struct target *target)
{
    if (target->core.phase != PHASE_ROLLED_BACK || target->core.link_lost || !target->control)
        return;
    uint64_t until_ns = world_now_ns() + LAST_WORD_MS * NS_PER_MS;
    struct target_mail mail;
    bool hung_up = false;
    while (!hung_up && world_now_ns() < until_ns) {
        if (!mailbox_take(target->mailbox, &mail, until_ns, 0))
            continue;
        hung_up = mail.type == MAIL_LINK_LOST;
        target_mail_discard(&mail);
    }
}

static void *target_run(void *data)
{
    struct target *target = data;
    thread_begin("move in");
    do_todo(target);
    while (!target->finished) {
        turn(target);
        target_post_look(target);
        do_todo(target);
    }
    let_the_last_word_arrive(target);
    /* No step can change the core any more: it has ended. */
    bool is_lost = target->core.ended_in == PHASE_POSTCOPY && target->core.fault.code;
    if (is_lost && target->config.on_lost)
        target->config.on_lost(target->config.data, &target->core.fault);
    stop_threads(target);
    tell_progress(target, world_now_ns());
    target->config.on_ended(target->config.data, target->core.phase,
                            target->core.fault.code ? &target->core.fault : NULL);
    return NULL;
}

/* ---- the door ------------------------------------------------------------------------------- */

static int alloc_regions(struct target *target, struct fault *fault)
{
    const struct guest *guest = target->config.guest;
    if (guest->region_count < 1 || guest->region_count > REGIONS_MAX)
        return fault_set(fault, ERR_INVALID, "%u regions, 1 to %d may be", guest->region_count,
                         REGIONS_MAX);
    target->wanted = calloc(guest->region_count, sizeof *target->wanted);
    target->digests = calloc(guest->region_count, sizeof *target->digests);
    if (!target->wanted || !target->digests)
        return fault_set(fault, ERR_NOMEM, "no memory for %u regions", guest->region_count);
    for (unsigned i = 0; i < guest->region_count; i++) {
        const struct region *region = &guest->regions[i];
        if (bitmap_init(&target->wanted[i], region->pages) < 0)
            return fault_set(fault, ERR_NOMEM, "no memory for the extents of region '%s'",
                             region->name);
        int r = page_digest_init(&target->digests[i], region, fault);
        if (r < 0)
            return r;
        target->plan.regions[i].id = region->id;
        target->plan.regions[i].pages = region->shared_id ? 0 : region->pages;
    }
    target->plan.region_count = guest->region_count;
    return 0;
}

static void target_freep(struct target **target)
{
    *target = target_free(*target);
}

int target_new(struct target **ret_target, const struct target_config *config, struct fault *fault)
{
    struct target *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return fault_set(fault, ERR_NOMEM, "no memory for a move");
    pthread_mutex_init(&fresh->mutex, NULL);
    AUTO(target_freep) struct target *target = fresh;

    target->config = *config;
    target->move_id = strdup(config->move_id);
    target->incarnation = strdup(config->incarnation);
    target->config.move_id = target->move_id;
    target->config.incarnation = target->incarnation;
    if (!target->move_id || !target->incarnation ||
        mailbox_new(&target->mailbox, MAIL_SLOTS, sizeof(struct target_mail)) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for a move");
    int r = alloc_regions(target, fault);
    if (r < 0)
        return r;
    const struct target_core_config core = {
        .vm_id = config->guest->vm_id,
        .move_id = target->move_id,
        .incarnation = target->incarnation,
        .generation = config->generation,
        .memory_pages = total_pages(config->guest),
        .trace = trace,
        .trace_data = target,
    };
    target_core_init(&target->core, &core);
    *ret_target = TAKE(target);
    return 0;
}

int target_start(struct target *target, struct fault *fault)
{
    assert(!target->started);
    int r = watch_new(&target->watch, on_watch_expired, target, fault);
    if (r < 0)
        return r;
    target_feed_type(target, TARGET_EVENT_START); /* now, so that a verdict can be given at once */
    int error = pthread_create(&target->thread, NULL, target_run, target);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a move");
    target->started = true;
    return 0;
}

/* In post-copy a guest that was taken may still wait for pages, for as long as it takes. */
static void drop(struct target *target)
{
    struct target_event event = {.now_ns = world_now_ns(), .type = TARGET_EVENT_DROPPED};
    unsigned todo = 0;
    pthread_mutex_lock(&target->mutex);
    (void)target_core_step(&target->core, &event, &todo, NULL); /* refused: in any other phase */
    merge_todo(target, todo);
    pthread_mutex_unlock(&target->mutex);
    mailbox_poke(target->mailbox);
}

struct target *target_free(struct target *target)
{
    if (!target)
        return NULL;
    if (target->started) {
        (void)target_verdict(target, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON, 0,
                             "the process ends", NULL); /* refused: it has ended or will at once */
        drop(target);
        pthread_join(target->thread, NULL);
    }
    target_post_free(target);
    target->watch = watch_free(target->watch);
    target->mailbox = mailbox_free(target->mailbox);
    for (unsigned i = 0; target->wanted && i < target->config.guest->region_count; i++)
        bitmap_deinit(&target->wanted[i]);
    for (unsigned i = 0; target->digests && i < target->config.guest->region_count; i++)
        page_digest_deinit(&target->digests[i]);
    if (target->state)
        godwit__move_message__free_unpacked(target->state, NULL);
    pthread_mutex_destroy(&target->mutex);
    free(target->wanted);
    free(target->digests);
    free(target->incarnation);
    free(target->move_id);
    free(target);
    return NULL;
}

int target_verdict(struct target *target, Godwit__MoveVerdictKind kind, uint64_t generation,
                   const char *reason, struct fault *fault)
{
    struct target_event event = {.now_ns = world_now_ns(), .generation = generation};
    struct fault words = {0};
    if (kind == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE) {
        event.type = TARGET_EVENT_VERDICT_TAKE;
    } else if (kind == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON) {
        event.type = TARGET_EVENT_VERDICT_ABANDON;
        (void)fault_set(&words, ERR_CANCELED, "the target was told to abandon the move%s%s",
                        reason && reason[0] ? ": " : "", reason ? reason : "");
        event.fault = &words;
    } else {
        return fault_set(fault, ERR_STATE, "this verdict is not for a target");
    }

    unsigned todo = 0;
    pthread_mutex_lock(&target->mutex);
    int r = target_core_step(&target->core, &event, &todo, fault);
    merge_todo(target, todo);
    if (r == 0 && todo)
        watch_hurry(target->watch); /* lives as long as the core has not ended */
    pthread_mutex_unlock(&target->mutex);
    if (r == 0)
        mailbox_poke(target->mailbox);
    return r;
}
