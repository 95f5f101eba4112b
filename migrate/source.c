/* The shell around source_core: turns what happens into events and carries the todo out.
 *
 *      opener ----- streams ----+
 *      control lane - messages -+-> mailbox -> the move's thread -> core -> todo
 *      lanes ------ reports ----+                    |
 *      verdicts --> core, under the lock             +--> batches -> lanes
 *
 * The move's thread never waits without a deadline: what a lane does it hears of by mail, queues to
 * lanes have room for a whole round, and its own writes on the control lane are watched.
 *
 * This file holds the door, the move's thread and what both need of the core; source_mail hears,
 * source_words speaks, source_rounds sends memory, source_reconnect replaces lost lanes,
 * source_post gives what was left behind, source_end ends.
 */
#include "migrate/source.h"

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
#include "migrate/lane_source.h"
#include "migrate/mailbox.h"
#include "migrate/pacer.h"
#include "migrate/page_batch.h"
#include "migrate/page_digest.h"
#include "migrate/progress.h"
#include "migrate/receipt.h"
#include "migrate/source_core.h"
#include "migrate/source_inside.h"
#include "migrate/watch.h"
#include "proto/limits.h"

enum { MAIL_SLOTS = 64, LANES_DEFAULT_MAX = 8 };
#define DOWNTIME_NS_DEFAULT (100 * NS_PER_MS)

uint64_t source_total_pages(const struct guest *guest)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < guest->region_count; i++)
        pages += guest->regions[i].pages;
    return pages;
}

/* ---- events in, todo out ------------------------------------------------------------------- */

static void merge_todo(struct source *source, unsigned todo)
{
    /* Once it rolls back, nothing that leads forward may still happen; a GAVE that was decided is
     * latched whatever follows. */
    if (todo & (SOURCE_TODO_LATCH_ABORTED | SOURCE_TODO_LATCH_RELEASED))
        source->todo &= ~(unsigned)SOURCE_TODO_FORWARD;
    source->todo |= todo;
}

void source_feed(struct source *source, struct source_event *event)
{
    unsigned todo = 0;
    struct fault fault = {0};

    event->now_ns = world_now_ns();
    pthread_mutex_lock(&source->mutex);
    int r = source_core_step(&source->core, event, &todo, &fault);
    assert(r == 0); /* our own shell never says what may not be */
    merge_todo(source, todo);
    pthread_mutex_unlock(&source->mutex);
}

void source_feed_type(struct source *source, enum source_event_type type)
{
    struct source_event event = {.type = type};
    source_feed(source, &event);
}

void source_feed_fault(struct source *source, enum source_event_type type,
                       const struct fault *fault)
{
    struct source_event event = {.type = type, .fault = fault};
    source_feed(source, &event);
}

void source_tick(struct source *source)
{
    struct source_event event = {
        .type = SOURCE_EVENT_TICK,
        .activity = progress_wire_bytes(&source->progress) + progress_pages(&source->progress),
    };
    source_feed(source, &event);
}

enum phase source_current_phase(struct source *source)
{
    pthread_mutex_lock(&source->mutex);
    enum phase phase = source->core.phase;
    pthread_mutex_unlock(&source->mutex);
    return phase;
}

uint64_t source_current_deadline(struct source *source)
{
    pthread_mutex_lock(&source->mutex);
    uint64_t deadline_ns = source_core_deadline_ns(&source->core);
    pthread_mutex_unlock(&source->mutex);
    return deadline_ns;
}

static unsigned take_todo(struct source *source)
{
    pthread_mutex_lock(&source->mutex);
    unsigned bit = source->todo & -source->todo; /* one at a time: the next may be void by then */
    source->todo &= ~bit;
    pthread_mutex_unlock(&source->mutex);
    return bit;
}

static void trace(void *data, const char *line)
{
    struct source *source = data;
    log_debug("source", "%s vm=%s move=%s", line, source->config.guest->vm_id, source->move_id);
}

/* ---- the watch ------------------------------------------------------------------------------ */

static void on_watch_expired(void *data)
{
    struct source *source = data;
    control_lane_interrupt(source->control); /* armed only while there is one */
}

/* ---- todo ----------------------------------------------------------------------------------- */

static void latch(struct source *source, Godwit__Latch latch)
{
    if (latch == GODWIT__LATCH__LATCH_GAVE)
        (void)failpoint(FAILPOINT_SOURCE_BEFORE_GAVE);
    else if (latch == GODWIT__LATCH__LATCH_RELEASED)
        (void)failpoint(FAILPOINT_SOURCE_BEFORE_RELEASED);
    else if (latch == GODWIT__LATCH__LATCH_ABORTED)
        (void)failpoint(FAILPOINT_SOURCE_BEFORE_ABORTED);
    source->config.on_latch(source->config.data, latch);
    if (latch == GODWIT__LATCH__LATCH_GAVE)
        (void)failpoint(FAILPOINT_SOURCE_AFTER_GAVE);
}

static void resume_guest(struct source *source)
{
    const struct guest *guest = source->config.guest;
    if (!guest->was_running)
        return;
    struct fault fault = {0};
    (void)failpoint(FAILPOINT_SOURCE_RESUME);
    int r = guest->ops->resume(guest->owner, &fault);
    if (r == 0)
        return;
    pthread_mutex_lock(&source->mutex);
    (void)fault_wrap(&fault, ERR_ATTENTION, "the move was rolled back, but resuming failed");
    source->core.fault = fault;
    pthread_mutex_unlock(&source->mutex);
}

void source_throttle(struct source *source, unsigned permille)
{
    const struct guest *guest = source->config.guest;
    if (!guest->ops->throttle || permille == source->throttle_permille)
        return;
    /* Refused for want of memory: the guest runs free, and the next round asks again. */
    struct fault fault = {0};
    uint64_t held_ns = 0;
    if (guest->ops->throttle(guest->owner, permille, &held_ns, &fault) == 0) {
        if (!source->has_throttled)
            source->throttled_before_ns = held_ns;
        source->has_throttled = true;
        source->throttled_ns = held_ns - source->throttled_before_ns;
        source->throttle_permille = permille;
    } else {
        log_warn("source", "the guest is not slowed: %s vm=%s move=%s", fault.text, guest->vm_id,
                 source->move_id);
    }
}

static unsigned wanted_throttle(struct source *source)
{
    pthread_mutex_lock(&source->mutex);
    unsigned permille = source_core_throttle(&source->core);
    pthread_mutex_unlock(&source->mutex);
    return permille;
}

/* In post-copy what this host lacks for it now it may have a moment later: at the next progress. */
static int dial(struct source *source, struct fault *fault)
{
    int r = source_mail_dial(source, fault);
    source->dial_owed = r < 0 && source_current_phase(source) == PHASE_POSTCOPY;
    return source->dial_owed ? 0 : r;
}

static void dial_if_owed(struct source *source)
{
    struct fault fault = {0};
    if (source->dial_owed && source_reconnect_is_away(source))
        (void)dial(source, &fault); /* how long it is away has an end of its own */
}

static int carry_out(struct source *source, enum source_todo bit, struct fault *fault)
{
    switch (bit) {
    case SOURCE_TODO_LATCH_OUT:
        latch(source, GODWIT__LATCH__LATCH_OUT);
        return 0;
    case SOURCE_TODO_OPEN_CONTROL:
        return source_mail_open_control(source, fault);
    case SOURCE_TODO_SEND_HELLO:
        source_words_send_hello(source);
        return 0;
    case SOURCE_TODO_PREPARE:
        return source_words_prepare(source, fault);
    case SOURCE_TODO_FIRST_ROUND:
        return source_rounds_first_round(source, fault);
    case SOURCE_TODO_ROUND:
        source_rounds_next(source);
        return 0;
    case SOURCE_TODO_STAND_BY:
        return source_rounds_stand_by(source, fault);
    case SOURCE_TODO_PAUSE:
        return source_rounds_pause_guest(source, fault);
    case SOURCE_TODO_DRAIN:
        return source_rounds_drain(source, fault);
    case SOURCE_TODO_SEND_STATE:
        source_words_send_state(source);
        return 0;
    case SOURCE_TODO_LATCH_GAVE:
        latch(source, GODWIT__LATCH__LATCH_GAVE);
        return 0;
    case SOURCE_TODO_SEND_TRANSFER:
        source_words_send_transfer(source);
        if (source_post_is_on(source))
            source_post_go(source);
        return 0;
    case SOURCE_TODO_LATCH_RELEASED:
        latch(source, GODWIT__LATCH__LATCH_RELEASED);
        return 0;
    case SOURCE_TODO_LATCH_ABORTED:
        source_throttle(source, 0);
        latch(source, GODWIT__LATCH__LATCH_ABORTED);
        return 0;
    case SOURCE_TODO_RESUME:
        resume_guest(source);
        return 0;
    case SOURCE_TODO_SEND_ABORT:
        source_words_send_abort(source);
        return 0;
    case SOURCE_TODO_END:
        source->finished = true;
        return 0;
    case SOURCE_TODO_THROTTLE:
        source_throttle(source, wanted_throttle(source));
        return 0;
    case SOURCE_TODO_HANG_UP:
        source_reconnect_hang_up(source);
        return 0;
    case SOURCE_TODO_DIAL:
        source_post_forget(source);
        return dial(source, fault);
    case SOURCE_TODO_SEND_SERVED:
        source_words_send_served(source);
        return 0;
    case SOURCE_TODO_NOTICE:
        source->config.on_notice(source->config.data);
        return 0;
    }
    assert(false);
    return 0;
}

static void do_todo(struct source *source)
{
    unsigned bit;
    while ((bit = take_todo(source))) {
        struct fault fault = {0};
        if (carry_out(source, (enum source_todo)bit, &fault) < 0)
            source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
    }
}

/* ---- telling -------------------------------------------------------------------------------- */

/* Until the bulk round has run for a moment, its cost is a guess: refine the forecast once. */
static void refine_forecast(struct source *source, uint64_t now_ns)
{
    if (source->forecast_refined || source->round != 1 || source->populated_pages == 0)
        return;
    uint64_t done = progress_pages(&source->progress), ran_ns = now_ns - source->round_begun_ns;
    if (done < 1024 || ran_ns < PROGRESS_MS * NS_PER_MS / 2)
        return;
    source->forecast_refined = true;
    uint64_t left = source->populated_pages > done ? source->populated_pages - done : 0;
    pthread_mutex_lock(&source->mutex);
    source->predicted_total_ns = now_ns - source->core.started_ns +
                                 (uint64_t)((double)ran_ns / (double)done * (double)left) +
                                 converge_predict_ns(&source->core.converge, 0);
    pthread_mutex_unlock(&source->mutex);
}

void source_tell_progress(struct source *source, uint64_t now_ns)
{
    pthread_mutex_lock(&source->mutex);
    struct converge converge = source->core.converge;
    enum phase phase = source->core.phase;
    uint64_t started_ns = source->core.started_ns;
    uint64_t bandwidth_bytes_per_s = source->core.config.bandwidth_bytes_per_s;
    bool away = source->core.away != SOURCE_AWAY_NO;
    unsigned reconnects = source->core.reconnects;
    Godwit__MovePostcopyReason postcopy_reason = source->core.postcopy_reason;
    pthread_mutex_unlock(&source->mutex);

    const struct progress_facts facts = {
        .now_ns = now_ns,
        .started_ns = started_ns,
        .phase = (Godwit__MovePhase)phase,
        .round = source->round,
        .lanes = source->lanes_open,
        .memory_pages = source->populated_pages,
        .converge = &converge,
        .bandwidth_bytes_per_s = bandwidth_bytes_per_s,
        .throttle_permille = source->throttle_permille,
        .away = away,
        .reconnects = reconnects,
        .postcopy_reason = postcopy_reason,
    };
    Godwit__MoveProgress message;
    progress_fill(&source->progress, &facts, &message);
    source->told_phase = phase;
    source->next_progress_ns = now_ns + PROGRESS_MS * NS_PER_MS;
    source->config.on_progress(source->config.data, &message);
}

/* Inside the pause nothing is told: it would cost the guest, and there is more to say after it. */
static bool is_quiet(const struct source *source, enum phase phase, uint64_t now_ns)
{
    return phase >= PHASE_PAUSE && phase <= PHASE_HANDOVER && now_ns < source->hot_until_ns;
}

static void turn(struct source *source)
{
    struct source_mail mail;
    uint64_t now_ns = world_now_ns();
    enum phase phase = source_current_phase(source);
    bool quiet = is_quiet(source, phase, now_ns);
    if (!quiet && (phase != source->told_phase || now_ns >= source->next_progress_ns)) {
        refine_forecast(source, now_ns);
        source_tell_progress(source, now_ns);
        dial_if_owed(source);
    }

    uint64_t until_ns = quiet ? source->hot_until_ns : source->next_progress_ns;
    uint64_t deadline_ns = source_current_deadline(source);
    if (deadline_ns && deadline_ns < until_ns)
        until_ns = deadline_ns;
    bool hot = quiet || (source->standing_by && phase == PHASE_PRECOPY);
    uint64_t spin_until_ns = hot && hot_streams() ? now_ns + LANE_SPIN_NS : 0;
    if (mailbox_take(source->mailbox, &mail, until_ns, spin_until_ns))
        source_mail_take(source, &mail);
    else
        source_tick(source);
    if (deadline_ns && world_now_ns() >= deadline_ns) /* mail that never ends is no excuse */
        source_tick(source);
}

/* ---- the end -------------------------------------------------------------------------------- */

static void *source_run(void *data)
{
    struct source *source = data;
    thread_begin("move out");
    do_todo(source);
    while (!source->finished) {
        turn(source);
        do_todo(source);
    }
    source_end_finish(source);
    return NULL;
}

/* ---- the door ------------------------------------------------------------------------------- */

/* Half the cores, since the guest and the other end need some too; beyond 8 a lane adds little: one
 * carries 1 GB/s and more. With two cores one lane is best (measured: two cost 5 to 10 %). */
static unsigned default_lanes(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned lanes = cores < 2 ? 1 : (unsigned)cores / 2;
    return lanes < LANES_DEFAULT_MAX ? lanes : LANES_DEFAULT_MAX;
}

static int resolve_compress(const char *word, enum page_tuner_policy *ret_policy,
                            struct fault *fault)
{
    if (!word || !word[0] || strcmp(word, "auto") == 0)
        *ret_policy = PAGE_TUNER_AUTO;
    else if (strcmp(word, "off") == 0)
        *ret_policy = PAGE_TUNER_OFF;
    else if (strcmp(word, "lz4") == 0)
        *ret_policy = PAGE_TUNER_ALWAYS;
    else if (strcmp(word, "zstd") == 0)
        *ret_policy = PAGE_TUNER_ALWAYS_ZSTD;
    else
        return fault_set(fault, ERR_INVALID, "compress '%s': auto, off, lz4 or zstd", word);
    return 0;
}

static int resolve_delta(const char *word, enum page_delta_policy *ret_policy, struct fault *fault)
{
    if (!word || !word[0] || strcmp(word, "auto") == 0)
        *ret_policy = PAGE_DELTA_AUTO;
    else if (strcmp(word, "off") == 0)
        *ret_policy = PAGE_DELTA_OFF;
    else if (strcmp(word, "always") == 0)
        *ret_policy = PAGE_DELTA_ALWAYS;
    else
        return fault_set(fault, ERR_INVALID, "delta '%s': auto, off or always", word);
    return 0;
}

static int resolve_mode(const char *word, bool *ret_streams, struct fault *fault)
{
    if (!word || !word[0] || strcmp(word, "auto") == 0 || strcmp(word, "rounds") == 0)
        *ret_streams = false;
    else if (strcmp(word, "stream") == 0)
        *ret_streams = true;
    else
        return fault_set(fault, ERR_INVALID, "mode '%s': auto, rounds or stream", word);
    return 0;
}

static int resolve_policy(const char *word, enum source_policy *ret_policy, struct fault *fault)
{
    if (!word || !word[0] || strcmp(word, "balanced") == 0)
        *ret_policy = SOURCE_POLICY_BALANCED;
    else if (strcmp(word, "gentle") == 0)
        *ret_policy = SOURCE_POLICY_GENTLE;
    else if (strcmp(word, "finish") == 0)
        *ret_policy = SOURCE_POLICY_FINISH;
    else
        return fault_set(fault, ERR_INVALID, "policy '%s': gentle, balanced or finish", word);
    return 0;
}

/* A goal that is short turns a pre-copy back soon. In post-copy there is no way back: it may only
 * make it longer. */
static uint64_t postcopy_away_ms_max(const struct source *source, const Godwit__MoveGoals *goals)
{
    uint64_t ms = source->config.postcopy_away_ms_max;
    if (!ms)
        ms = POSTCOPY_AWAY_MS_MAX;
    return goals->away_ms_max > ms ? goals->away_ms_max : ms;
}

/* What its switchover cannot do anyway is not asked of the target. */
static bool may_be_late(const Godwit__MoveGoals *goals)
{
    return goals->postcopy_late && !goals->postcopy && !goals->no_postcopy &&
           !goals->verify_reread && !goals->with_local_disks;
}

static int resolve_goals(struct source *source, const Godwit__MoveGoals *goals, struct fault *fault)
{
    const Godwit__MoveGoals none = GODWIT__MOVE_GOALS__INIT;
    if (!goals)
        goals = &none;
    struct source_core_config core = {
        .generation = source->config.generation,
        .downtime_ns_max = goals->downtime_ns_max ? goals->downtime_ns_max : DOWNTIME_NS_DEFAULT,
        .deadline_ms = goals->deadline_ms,
        .vcpus = source->config.guest->vcpus,
        .memory_pages = source_total_pages(source->config.guest),
        .bandwidth_bytes_per_s = goals->bandwidth_bytes_per_s,
        .away_ms_max = goals->away_ms_max ? goals->away_ms_max : AWAY_MS_MAX,
        .reread = goals->verify_reread,
        .notice_ms_max = source->config.guest->was_running ? source->config.notice_ms_max : 0,
        .postcopy = goals->postcopy,
        .postcopy_late = may_be_late(goals),
        .postcopy_away_ms_max = postcopy_away_ms_max(source, goals),
        .trace = trace,
        .trace_data = source,
    };
    if (goals->postcopy && (goals->verify_reread || goals->with_local_disks))
        return fault_set(fault, ERR_UNSUPPORTED, "a post-copy goes without %s",
                         goals->verify_reread ? "reading all memory again in the pause"
                                              : "local disks");
    int r = resolve_policy(goals->policy, &core.policy, fault);
    if (r == 0)
        r = resolve_compress(goals->compress, &source->compress, fault);
    if (r == 0)
        r = resolve_delta(goals->delta, &source->delta, fault);
    if (r == 0)
        r = resolve_mode(goals->mode, &source->streams, fault);
    if (r < 0)
        return r;
    source->reread = core.reread;
    unsigned lanes = goals->lanes ? goals->lanes : default_lanes(), room = source->config.lanes;
    if (room <= PAGE_SERVER_LANES)
        core.postcopy_late = false; /* its agent is older */
    source->post_wanted = goals->postcopy || core.postcopy_late ? PAGE_SERVER_LANES : 0;
    if (room <= source->post_wanted)
        return fault_set(fault, ERR_INVALID, "%u lanes, a post-copy needs %u", room,
                         source->post_wanted + 1);
    room -= source->post_wanted;
    if (lanes > room)
        lanes = room;
    if (lanes < 1 || lanes > LANES_MAX)
        return fault_set(fault, ERR_INVALID, "%u lanes, 1 to %d may be", lanes, LANES_MAX);
    source->lanes_wanted = lanes;
    source_core_init(&source->core, &core);
    return 0;
}

static int alloc_regions(struct source *source, struct fault *fault)
{
    const struct guest *guest = source->config.guest;
    if (guest->region_count < 1 || guest->region_count > REGIONS_MAX)
        return fault_set(fault, ERR_INVALID, "%u regions, 1 to %d may be", guest->region_count,
                         REGIONS_MAX);
    source->regions = calloc(guest->region_count, sizeof *source->regions);
    source->digests = calloc(guest->region_count, sizeof *source->digests);
    source->deltas = calloc(guest->region_count, sizeof *source->deltas);
    source->delta_room = PAGE_DELTA_BYTES_MAX / (PAGE_LINES * sizeof(uint64_t));
    if (!source->regions || !source->digests || !source->deltas)
        return fault_set(fault, ERR_NOMEM, "no memory for %u regions", guest->region_count);
    for (unsigned i = 0; i < guest->region_count; i++) {
        const struct region *region = &guest->regions[i];
        struct source_region *own = &source->regions[i];
        if (bitmap_init(&own->dirty, region->pages) < 0 ||
            bitmap_init(&own->populated, region->pages) < 0 ||
            bitmap_init(&own->scratch, region->pages) < 0)
            return fault_set(fault, ERR_NOMEM, "no memory for the bitmaps of region '%s'",
                             region->name);
        int r = page_digest_init(&source->digests[i], region, fault);
        if (r == 0)
            r = page_delta_init(&source->deltas[i], region, &source->delta_room, fault);
        if (r < 0)
            return r;
        source->batches_max += (region->pages + BLOCK_PAGES - 1) / BLOCK_PAGES;
    }
    int r = source->post_wanted ? source_post_init(source, fault) : 0;
    if (r < 0)
        return r;
    source->batches = calloc(source->batches_max, sizeof *source->batches);
    if (!source->batches)
        return fault_set(fault, ERR_NOMEM, "no memory for the batches of a round");
    return source_stream_init(source, fault);
}

static void source_freep(struct source **source)
{
    *source = source_free(*source);
}

int source_new(struct source **ret_source, const struct source_config *config, struct fault *fault)
{
    struct source *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return fault_set(fault, ERR_NOMEM, "no memory for a move");
    pthread_mutex_init(&fresh->mutex, NULL);
    receipt_init(&fresh->receipt);
    AUTO(source_freep) struct source *source = fresh;

    source->config = *config;
    source->config.goals = NULL;
    int r = resolve_goals(source, config->goals, fault);
    if (r == 0)
        r = alloc_regions(source, fault);
    if (r < 0)
        return r;
    source->move_id = strdup(config->move_id);
    source->target_incarnation = strdup(config->target_incarnation);
    source->config.move_id = source->move_id;
    source->config.target_incarnation = source->target_incarnation;
    if (!source->move_id || !source->target_incarnation ||
        pacer_new(&source->pacer, source->core.config.bandwidth_bytes_per_s) < 0 ||
        mailbox_new(&source->mailbox, MAIL_SLOTS, sizeof(struct source_mail)) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for a move");
    *ret_source = TAKE(source);
    return 0;
}

int source_start(struct source *source, struct fault *fault)
{
    assert(!source->started);
    int r = watch_new(&source->watch, on_watch_expired, source, fault);
    if (r < 0)
        return r;
    source_feed_type(source, SOURCE_EVENT_START); /* now, so that a verdict can be given at once */
    int error = pthread_create(&source->thread, NULL, source_run, source);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a move");
    source->started = true;
    return 0;
}

struct source *source_free(struct source *source)
{
    if (!source)
        return NULL;
    if (source->started) {
        /* A move that gave its guest away and is freed all the same may not resume it: its memory
         * is dropped, and the latch says so. */
        if (source_verdict(source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL, 0,
                           "the process ends", NULL) < 0)
            (void)source_verdict(source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP, 0, NULL,
                                 NULL);
        pthread_join(source->thread, NULL);
    }
    source->watch = watch_free(source->watch);
    source->mailbox = mailbox_free(source->mailbox);
    source->pacer = pacer_free(source->pacer);
    for (unsigned i = 0; source->regions && i < source->config.guest->region_count; i++) {
        bitmap_deinit(&source->regions[i].dirty);
        bitmap_deinit(&source->regions[i].populated);
        bitmap_deinit(&source->regions[i].scratch);
    }
    for (unsigned i = 0; source->digests && i < source->config.guest->region_count; i++)
        page_digest_deinit(&source->digests[i]);
    for (unsigned i = 0; source->deltas && i < source->config.guest->region_count; i++)
        page_delta_deinit(&source->deltas[i]);
    receipt_deinit(&source->receipt);
    pthread_mutex_destroy(&source->mutex);
    source_stream_deinit(source);
    source_post_deinit(source);
    free(source->batches);
    free(source->regions);
    free(source->digests);
    free(source->deltas);
    free(source->machine);
    free(source->post_refused);
    free(source->target_incarnation);
    free(source->move_id);
    free(source);
    return NULL;
}

static int verdict_event(Godwit__MoveVerdictKind kind, enum source_event_type *ret_type)
{
    switch (kind) {
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL:
        *ret_type = SOURCE_EVENT_VERDICT_CANCEL;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED:
        *ret_type = SOURCE_EVENT_VERDICT_STARTED;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON:
        *ret_type = SOURCE_EVENT_VERDICT_ABANDONED;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME:
        *ret_type = SOURCE_EVENT_VERDICT_RESUME;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP:
        *ret_type = SOURCE_EVENT_VERDICT_DROP;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE:
    case _GODWIT__MOVE_VERDICT_KIND_IS_INT_SIZE:
        break;
    }
    return ERR_STATE;
}

int source_tune(struct source *source, const Godwit__MoveGoals *goals, struct fault *fault)
{
    struct source_event event = {.now_ns = world_now_ns(), .type = SOURCE_EVENT_GOALS};
    event.goals = (struct source_goals){
        .downtime_ns_max = goals->downtime_ns_max ? goals->downtime_ns_max : DOWNTIME_NS_DEFAULT,
        .deadline_ms = goals->deadline_ms,
        .bandwidth_bytes_per_s = goals->bandwidth_bytes_per_s,
    };
    int r = resolve_policy(goals->policy, &event.goals.policy, fault);
    if (r < 0)
        return r;
    unsigned todo = 0;
    pthread_mutex_lock(&source->mutex);
    r = source_core_step(&source->core, &event, &todo, fault);
    merge_todo(source, todo);
    if (r == 0)
        pacer_set(source->pacer, event.goals.bandwidth_bytes_per_s);
    pthread_mutex_unlock(&source->mutex);
    if (r == 0)
        mailbox_poke(source->mailbox); /* it looks at its deadline anew */
    return r;
}

void source_noticed(struct source *source)
{
    source_feed_type(source, SOURCE_EVENT_NOTICED);
    mailbox_poke(source->mailbox);
}

int source_verdict(struct source *source, Godwit__MoveVerdictKind kind, uint64_t generation,
                   const char *reason, struct fault *fault)
{
    struct source_event event = {.now_ns = world_now_ns(), .generation = generation};
    if (verdict_event(kind, &event.type) < 0)
        return fault_set(fault, ERR_STATE, "this verdict is not for a source");
    struct fault words = {0};
    if (kind == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL) {
        (void)fault_set(&words, ERR_CANCELED, "cancelled%s%s", reason && reason[0] ? ": " : "",
                        reason ? reason : "");
        event.fault = &words;
    }

    unsigned todo = 0;
    pthread_mutex_lock(&source->mutex);
    int r = source_core_step(&source->core, &event, &todo, fault);
    merge_todo(source, todo);
    if (r == 0 && todo)
        watch_hurry(source->watch); /* lives as long as the core has not ended */
    pthread_mutex_unlock(&source->mutex);
    if (r == 0)
        mailbox_poke(source->mailbox);
    return r;
}
