#include "tests/support/fake_move.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/world.h"
#include "net/stream.h"
#include "net/tls_lane.h"

static const struct pipe_stream_config *pipe_of(const struct fake_move *move, unsigned lane,
                                                bool serves)
{
    const struct fake_move_config *config = &move->config;
    bool postcopy = config->goals && (config->goals->postcopy || config->goals->postcopy_late);
    unsigned first_post = serves ? 0 : config->lanes - 2;
    if (lane == TLS_LANE_CONTROL)
        return &config->control;
    if (postcopy && lane >= first_post)
        return lane == first_post ? &config->post_asks : &config->post_pushes;
    return lane == 0 ? &config->lane : &config->other_lanes;
}

static int open_lane(void *data, unsigned lane, unsigned epoch, struct stream **ret_stream,
                     struct fault *fault)
{
    static const struct pipe_stream_config plain;
    struct fake_move *move = data;
    pthread_mutex_lock(&move->mutex);
    bool serves = move->at_source.last_phase == PHASE_POSTCOPY;
    bool fails = epoch > 0 && move->config.fail_dial &&
                 (!move->config.fail_dials || move->failed_dials < move->config.fail_dials);
    move->failed_dials += fails;
    pthread_mutex_unlock(&move->mutex);
    if (fails)
        return fault_set(fault, move->config.fail_dial, "nothing can be reached");
    if (move->config.fail_open && lane == 0)
        return fault_set(fault, ERR_UNREACHABLE, "lane 0 cannot be reached");
    struct stream *ours = NULL, *theirs = NULL;
    if (move->config.streams) {
        int r = move->config.streams(lane, &ours, &theirs);
        if (r < 0)
            return fault_set(fault, r, "no stream for lane %u", lane);
    } else {
        pipe_stream_new(&ours, &theirs,
                        epoch > move->config.epochs_with_faults ? &plain
                                                                : pipe_of(move, lane, serves));
    }
    pthread_mutex_lock(&move->mutex);
    unsigned slot = (move->waiting_first + move->waiting_count++) % FAKE_MOVE_STREAMS;
    move->waiting[slot] = theirs;
    move->waiting_name[slot] = (struct tls_lane_name){.lane = lane, .epoch = epoch};
    pthread_cond_broadcast(&move->changed);
    pthread_mutex_unlock(&move->mutex);
    *ret_stream = ours;
    return 0;
}

static int accept_lane(void *data, uint64_t timeout_ms, struct stream **ret_stream,
                       struct tls_lane_name *ret_name, struct fault *fault)
{
    struct fake_move *move = data;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)(timeout_ms / 1000 + 1);
    int r = 0, timed_out = 0;

    pthread_mutex_lock(&move->mutex);
    while (move->waiting_count == 0 && !move->accept_interrupted && !timed_out)
        timed_out = pthread_cond_timedwait(&move->changed, &move->mutex, &until);
    if (move->accept_interrupted) {
        r = fault_set(fault, ERR_CANCELED, "interrupted");
    } else if (move->waiting_count == 0) {
        r = fault_set(fault, ERR_TIMEOUT, "no lane came");
    } else if (move->waiting_name[move->waiting_first].epoch > 0 &&
               move->failed_accepts < move->config.fail_accepts) {
        move->failed_accepts++;
        r = fault_set(fault, ERR_NOMEM, "too many open files");
    } else {
        *ret_stream = move->waiting[move->waiting_first];
        *ret_name = move->waiting_name[move->waiting_first];
        move->waiting_first = (move->waiting_first + 1) % FAKE_MOVE_STREAMS;
        move->waiting_count--;
    }
    pthread_mutex_unlock(&move->mutex);
    return r;
}

static void interrupt_accept(void *data)
{
    struct fake_move *move = data;
    pthread_mutex_lock(&move->mutex);
    move->accept_interrupted = true;
    pthread_cond_broadcast(&move->changed);
    pthread_mutex_unlock(&move->mutex);
}

static void note_latch(struct fake_move *move, struct fake_side *side, Godwit__Latch latch)
{
    pthread_mutex_lock(&move->mutex);
    assert(side->latch_count < FAKE_MOVE_LATCHES);
    side->latches[side->latch_count++] = latch;
    pthread_cond_broadcast(&move->changed);
    pthread_mutex_unlock(&move->mutex);
}

static void note_progress(struct fake_move *move, struct fake_side *side,
                          const Godwit__MoveProgress *progress)
{
    pthread_mutex_lock(&move->mutex);
    side->last_phase = (enum phase)progress->phase;
    side->parked |= side->last_phase == PHASE_PARKED;
    side->waited_for_goal |= progress->waiting_for_goal;
    side->away = progress->away;
    pthread_cond_broadcast(&move->changed);
    pthread_mutex_unlock(&move->mutex);
}

static void note_end(struct fake_move *move, struct fake_side *side, enum phase phase,
                     const struct fault *fault)
{
    pthread_mutex_lock(&move->mutex);
    assert(!side->ended);
    side->ended = true;
    side->phase = phase;
    if (fault)
        side->fault = *fault;
    pthread_cond_broadcast(&move->changed);
    pthread_mutex_unlock(&move->mutex);
}

static void source_notice(void *data)
{
    struct fake_move *move = data;
    if (move->config.on_notice)
        move->config.on_notice(move, move->config.data);
}

static void source_latch(void *data, Godwit__Latch latch)
{
    struct fake_move *move = data;
    note_latch(move, &move->at_source, latch);
    if (move->config.on_source)
        move->config.on_source(move, PHASE_NONE, latch, move->config.data);
}

static void source_progress(void *data, const Godwit__MoveProgress *progress)
{
    struct fake_move *move = data;
    note_progress(move, &move->at_source, progress);
    if (move->config.on_source)
        move->config.on_source(move, (enum phase)progress->phase, GODWIT__LATCH__LATCH_NONE,
                               move->config.data);
}

static void source_ended(void *data, enum phase phase, const Godwit__MoveReceipt *receipt,
                         const struct fault *fault)
{
    struct fake_move *move = data;
    pthread_mutex_lock(&move->mutex);
    move->moved = receipt->moved;
    move->reread_verified = receipt->reread_verified;
    move->downtime_ns = receipt->downtime_ns;
    move->throttled_ns = receipt->throttled_ns;
    move->total_ns = receipt->total_ns;
    move->wire_bytes = receipt->wire_bytes;
    for (size_t i = 0; i < receipt->n_rounds; i++)
        move->rounds_wire_bytes += receipt->rounds[i]->wire_bytes;
    move->predicted_ns = receipt->predicted_downtime_ns;
    move->predicted_total_ns = receipt->predicted_total_ns;
    move->source_cpu_ns = receipt->source_cpu_ns;
    move->target_cpu_ns = receipt->target_cpu_ns;
    move->pause_ns = receipt->pause_ns;
    move->drain_ns = receipt->drain_ns;
    move->state_ns = receipt->state_ns;
    move->resume_ns = receipt->resume_ns;
    move->rounds = (unsigned)receipt->n_rounds;
    move->lanes = receipt->lanes;
    move->reconnects = receipt->reconnects;
    move->resent_pages = receipt->resent_pages;
    move->away_ns = receipt->away_ns;
    move->postcopy_pages = receipt->postcopy_pages;
    move->postcopy_reason = receipt->postcopy_reason;
    move->throttle_permille_peak = receipt->throttle_permille_peak;
    (void)snprintf(move->postcopy_refused, sizeof move->postcopy_refused, "%s",
                   receipt->postcopy_refused ? receipt->postcopy_refused : "");
    move->postcopy_ns = receipt->postcopy_ns;
    move->faults = receipt->faults;
    move->fault_p50_ns = receipt->fault_p50_ns;
    move->fault_p99_ns = receipt->fault_p99_ns;
    move->digest_pages = receipt->digest_pages;
    for (size_t i = 0; i < receipt->n_rounds; i++) {
        move->round_pages[i] = receipt->rounds[i]->pages;
        move->round_ns[i] = receipt->rounds[i]->duration_ns;
        move->zero_pages += receipt->rounds[i]->zero_pages;
        move->raw_pages += receipt->rounds[i]->raw_pages;
        move->lz4_pages += receipt->rounds[i]->lz4_pages;
        move->lz4_bytes += receipt->rounds[i]->lz4_bytes;
        move->zstd_pages += receipt->rounds[i]->zstd_pages;
        move->patch_pages += receipt->rounds[i]->patch_pages;
        move->patch_bytes += receipt->rounds[i]->patch_bytes;
        move->same_pages += receipt->rounds[i]->same_pages;
    }
    pthread_mutex_unlock(&move->mutex);
    note_end(move, &move->at_source, phase, fault);
}

static void target_latch(void *data, Godwit__Latch latch)
{
    struct fake_move *move = data;
    note_latch(move, &move->at_target, latch);
    if (move->config.on_target)
        move->config.on_target(move, PHASE_NONE, latch, move->config.data);
}

static void target_progress(void *data, const Godwit__MoveProgress *progress)
{
    struct fake_move *move = data;
    note_progress(move, &move->at_target, progress);
    if (move->config.on_target)
        move->config.on_target(move, (enum phase)progress->phase, GODWIT__LATCH__LATCH_NONE,
                               move->config.data);
}

static void target_lost(void *data, const struct fault *fault)
{
    struct fake_move *move = data;
    assert(fault->code == ERR_CORRUPT && !move->at_target.ended);
    pthread_mutex_lock(&move->mutex);
    move->at_target.lost = true;
    pthread_mutex_unlock(&move->mutex);
}

static void target_ended(void *data, enum phase phase, const struct fault *fault)
{
    struct fake_move *move = data;
    note_end(move, &move->at_target, phase, fault);
}

void fake_move_init(struct fake_move *move, const struct fake_move_config *config)
{
    memset(move, 0, sizeof *move);
    move->config = *config;
    pthread_mutex_init(&move->mutex, NULL);
    pthread_cond_init(&move->changed, NULL);
    struct fault fault = {0};

    const struct target_config target = {
        .guest = config->target_guest,
        .move_id = "move-1",
        .generation = config->target_generation ? config->target_generation : 7,
        .incarnation = "inc-b",
        .accept_lane = accept_lane,
        .interrupt_accept = interrupt_accept,
        .on_latch = target_latch,
        .on_progress = target_progress,
        .on_lost = target_lost,
        .on_ended = target_ended,
        .data = move,
    };
    int r = target_new(&move->target, &target, &fault);
    assert(r == 0);

    const struct source_config source = {
        .guest = config->source_guest,
        .move_id = "move-1",
        .generation = config->source_generation ? config->source_generation : 7,
        .target_incarnation =
            config->source_names_incarnation ? config->source_names_incarnation : "inc-b",
        .goals = config->goals,
        .lanes = config->lanes,
        .postcopy_away_ms_max = config->postcopy_away_ms_max,
        .notice_ms_max = config->notice_ms_max,
        .on_notice = source_notice,
        .open_lane = open_lane,
        .on_latch = source_latch,
        .on_progress = source_progress,
        .on_ended = source_ended,
        .data = move,
    };
    r = source_new(&move->source, &source, &fault);
    assert(r == 0);
}

void fake_move_start(struct fake_move *move)
{
    struct fault fault = {0};
    int r = target_start(move->target, &fault);
    assert(r == 0);
    r = source_start(move->source, &fault);
    assert(r == 0);
}

void fake_move_await_end(struct fake_move *move)
{
    pthread_mutex_lock(&move->mutex);
    while (!move->at_source.ended || !move->at_target.ended)
        pthread_cond_wait(&move->changed, &move->mutex);
    pthread_mutex_unlock(&move->mutex);
}

void fake_move_await_source_latch(struct fake_move *move, Godwit__Latch latch)
{
    const struct fake_side *side = &move->at_source;
    pthread_mutex_lock(&move->mutex);
    while (!side->ended && (!side->latch_count || side->latches[side->latch_count - 1] != latch))
        pthread_cond_wait(&move->changed, &move->mutex);
    pthread_mutex_unlock(&move->mutex);
}

void fake_move_await_source_end(struct fake_move *move)
{
    pthread_mutex_lock(&move->mutex);
    while (!move->at_source.ended)
        pthread_cond_wait(&move->changed, &move->mutex);
    pthread_mutex_unlock(&move->mutex);
}

void fake_move_await_source_away(struct fake_move *move)
{
    pthread_mutex_lock(&move->mutex);
    while (!move->at_source.ended && !move->at_source.away)
        pthread_cond_wait(&move->changed, &move->mutex);
    pthread_mutex_unlock(&move->mutex);
}

void fake_move_await_source_phase(struct fake_move *move, enum phase phase)
{
    pthread_mutex_lock(&move->mutex);
    while (!move->at_source.ended && move->at_source.last_phase != phase)
        pthread_cond_wait(&move->changed, &move->mutex);
    pthread_mutex_unlock(&move->mutex);
}

void fake_move_deinit(struct fake_move *move)
{
    move->source = source_free(move->source);
    move->target = target_free(move->target);
    while (move->waiting_count > 0) {
        stream_free(move->waiting[move->waiting_first]);
        move->waiting_first = (move->waiting_first + 1) % FAKE_MOVE_STREAMS;
        move->waiting_count--;
    }
    pthread_cond_destroy(&move->changed);
    pthread_mutex_destroy(&move->mutex);
}
