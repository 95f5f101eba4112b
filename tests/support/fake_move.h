/* Source and target of one move in one process, over pipe streams, with everything they say noted.
 *
 * Flow:   flow tests, bench_flow -> [fake_move] -> source, target
 * Thread: the test's own; callbacks come from the moves' threads and are noted under a mutex.
 */
#ifndef GODWIT_TESTS_SUPPORT_FAKE_MOVE_H
#define GODWIT_TESTS_SUPPORT_FAKE_MOVE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migrate/source.h"
#include "migrate/target.h"
#include "net/tls_lane.h"
#include "proto/limits.h"
#include "tests/support/fake_guest.h"
#include "tests/support/pipe_stream.h"

enum { FAKE_MOVE_STREAMS = 4 * (LANES_MAX + 1), FAKE_MOVE_LATCHES = 8 };

struct fake_move;

struct fake_move_config {
    struct guest *source_guest, *target_guest;
    Godwit__MoveGoals *goals; /* borrowed */
    unsigned lanes;
    uint64_t postcopy_away_ms_max; /* 0: the default */
    uint64_t source_generation, target_generation; /* 0: 7 */
    const char *source_names_incarnation;          /* NULL: the right one */
    struct pipe_stream_config control, lane;       /* lane: of lane 0; the others are plain */
    struct pipe_stream_config other_lanes;
    struct pipe_stream_config post_asks, post_pushes; /* the last two, of a post-copy */
    bool fail_open; /* open_lane of lane 0 fails */
    /* The pipes' faults are of epoch 0, and of as many after it. */
    unsigned epochs_with_faults;
    int fail_dial; /* what open_lane gives in a later epoch: 0, ERR_UNREACHABLE, ERR_REFUSED */
    unsigned fail_dials;   /* and how often; 0: always */
    unsigned fail_accepts; /* so often accept_lane has no means to take a lane of a later epoch */
    /* Runs on the source's move thread at every progress and latch; may give verdicts. */
    void (*on_source)(struct fake_move *move, enum phase phase, Godwit__Latch latch, void *data);
    void (*on_target)(struct fake_move *move, enum phase phase, Godwit__Latch latch, void *data);
    void *data;
    /* The source's guest is told of its pause: runs on the source's move thread, and says
     * source_noticed then or later, or never. */
    uint64_t notice_ms_max;
    void (*on_notice)(struct fake_move *move, void *data);
    /* Other streams than pipes, for the bench. */
    int (*streams)(unsigned lane, struct stream **ret_source, struct stream **ret_target);
};

struct fake_side {
    Godwit__Latch latches[FAKE_MOVE_LATCHES];
    unsigned latch_count;
    bool ended, parked;
    bool lost; /* a target that lost its guest in post-copy said so, before it ended */
    enum phase phase;      /* as ended */
    enum phase last_phase; /* as last told */
    bool waited_for_goal;
    bool away; /* as last told */
    struct fault fault;
};

struct fake_move {
    struct fake_move_config config;
    struct source *source;
    struct target *target;

    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t changed;
    struct stream *waiting[FAKE_MOVE_STREAMS];
    struct tls_lane_name waiting_name[FAKE_MOVE_STREAMS];
    unsigned waiting_first, waiting_count;
    bool accept_interrupted;
    unsigned failed_dials, failed_accepts;
    struct fake_side at_source, at_target;
    bool moved, reread_verified;
    uint64_t throttled_ns;
    uint64_t downtime_ns, total_ns, wire_bytes, rounds_wire_bytes, predicted_ns, source_cpu_ns, target_cpu_ns;
    uint64_t pause_ns, drain_ns, state_ns, resume_ns, predicted_total_ns;
    unsigned rounds, lanes, reconnects;
    uint64_t resent_pages, away_ns;
    Godwit__MovePostcopyReason postcopy_reason;
    unsigned throttle_permille_peak;
    char postcopy_refused[FAULT_TEXT_MAX];
    uint64_t postcopy_pages, postcopy_ns, faults, fault_p50_ns, fault_p99_ns, digest_pages;
    uint64_t round_pages[ROUNDS_MAX], round_ns[ROUNDS_MAX], zero_pages, raw_pages, lz4_pages,
        lz4_bytes, zstd_pages, patch_pages, patch_bytes, same_pages;
};

void fake_move_init(struct fake_move *move, const struct fake_move_config *config);
void fake_move_start(struct fake_move *move);
void fake_move_await_end(struct fake_move *move); /* of both sides */
void fake_move_await_source_latch(struct fake_move *move, Godwit__Latch latch);
void fake_move_await_source_end(struct fake_move *move);
void fake_move_await_source_away(struct fake_move *move); /* its lanes were lost */
void fake_move_await_source_phase(struct fake_move *move, enum phase phase);
void fake_move_deinit(struct fake_move *move); /* frees both ends */

#endif
