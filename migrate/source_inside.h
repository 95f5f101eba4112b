/* What the files of the source share: its struct, and what they ask of each other.
 *
 * Flow:   source.h -> [source_inside] -> source, source_mail, source_words, source_rounds,
 * source_reconnect, source_post, source_end
 * Thread: the move's own, but for what a section of the struct says.
 */
#ifndef GODWIT_MIGRATE_SOURCE_INSIDE_H
#define GODWIT_MIGRATE_SOURCE_INSIDE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "migrate/lane_source.h"
#include "migrate/page_batch.h"
#include "migrate/page_delta.h"
#include "migrate/page_order.h"
#include "migrate/page_server.h"
#include "migrate/page_tuner.h"
#include "migrate/progress.h"
#include "migrate/receipt.h"
#include "migrate/source.h"
#include "migrate/source_core.h"
#include "proto/limits.h"
#include "proto/migration.pb-c.h"
#include "proto/phase.h"

struct control_lane;
struct guest;
struct lane_opener;
struct lane_source;
struct mailbox;
struct pacer;
struct page_digest;
struct stream;
struct watch;

enum source_mail_type {
    MAIL_STREAM,
    MAIL_OPENER_ENDED,
    MAIL_MESSAGE,
    MAIL_HOT,
    MAIL_LINK_LOST,
    MAIL_LANE,
    MAIL_SERVER,
};

struct source_mail {
    enum source_mail_type type;
    unsigned lane;
    struct stream *stream;        /* given */
    Godwit__MoveMessage *message; /* given */
    struct fault fault;
    struct lane_report report;
};

/* The scan thread's view of one region. */
struct source_region {
    struct bitmap dirty;     /* to be sent next */
    struct bitmap populated; /* seen to have memory at any time */
    struct bitmap scratch;
    bool tracking;
    uint64_t learn_ns; /* what it took to ask for populated */
    bool exact; /* the log holds only pages that were written: no need to ask for populated */
};

/* Streaming pre-copy: what the windows of this round are part of. */
struct source_stream {
    struct page_order order;
    bool bulk, whole, even_hot;
    uint64_t before_pages, sent_pages, window_pages, window_begun_ns, held_back_ns;
};

struct source {
    /* set before start, read by all */
    struct source_config config;
    char *move_id, *target_incarnation;
    enum page_tuner_policy compress;
    enum page_delta_policy delta;
    bool streams; /* else rounds */
    bool reread;
    unsigned lanes_wanted;
    pthread_t thread;
    bool started;
    struct mailbox *mailbox;
    struct watch *watch;

    pthread_mutex_t mutex; /* guards core and todo */
    struct source_core core;
    unsigned todo;

    /* the move's own thread's */
    struct lane_opener *opener;
    struct control_lane *control;
    struct stream *lane_streams[LANES_MAX];
    struct lane_source *lanes[LANES_MAX];
    struct pacer *pacer;
    unsigned lanes_open, lanes_ended;
    bool opener_ended, control_ended;
    struct source_region *regions;
    struct page_digest *digests;
    struct page_delta *deltas;
    uint64_t delta_room; /* atomic: pages that the lanes may still remember */
    bool takes_patches;  /* the target said so */
    bool takes_zstd;     /* the same */
    bool takes_packed_postcopy; /* the same */
    struct page_batch *batches;
    uint64_t batches_max, batches_used; /* used: of the round that is under way */
    struct source_stream stream;
    struct page_batch fences[LANES_MAX];
    struct progress progress;
    struct receipt receipt;

    unsigned round;
    uint64_t round_begun_ns, round_pages;
    unsigned lanes_reported;
    struct lane_report sum; /* of this round's reports */
    uint64_t digest_sums[LANES_MAX];
    uint64_t lane_wire_bytes[LANES_MAX]; /* before this round */
    uint64_t lane_cpu_ns[LANES_MAX];
    bool standing_by, control_hot, saved, drained_told;

    /* lost lanes: what the broken ones said last, and what all earlier ones had used */
    unsigned epoch, batches_epoch;
    bool hanging_up, resume_sent;
    struct lane_report lane_ends[LANES_MAX];
    uint64_t before_cpu_ns, before_wire_bytes, resent_pages;

    /* post-copy */
    char *post_refused; /* owned: why the target cannot, where it need not; NULL */
    struct stream *post_streams[PAGE_SERVER_LANES];
    unsigned post_open, post_wanted; /* 0: the operator does not allow it */
    struct page_server *server;
    unsigned server_ended;
    struct bitmap *unsent; /* left behind and not given yet, one a region */
    uint64_t post_sum;     /* what leaving them behind took from the digest */
    bool dial_owed;        /* this host had not the means */
    uint64_t served_sum;   /* what giving them by earlier lanes added to it again */
    uint64_t post_pages, fetched_ns, faults, fault_p50_ns, fault_p99_ns;

    enum phase told_phase;
    uint64_t hot_until_ns, next_progress_ns;

    uint8_t *machine; /* owned, packed */
    size_t machine_bytes;
    uint64_t state_digest, memory_digest;
    uint64_t paused_at_ns;
    uint64_t populated_pages;
    unsigned throttle_permille;                 /* as the guest was told last */
    uint64_t throttled_ns, throttled_before_ns; /* by this move, and before it */
    bool has_throttled;
    uint64_t predicted_total_ns, populate_ns, target_cpu_ns;
    bool target_has_started; /* by its own word */
    bool forecast_refined;
    bool finished;
};

/* ---- source.c ------------------------------------------------------------------------------- */

/* Of all regions, populated or not. */
uint64_t source_total_pages(const struct guest *guest);

/* Step the core with what happened now, and keep what it wants done. */
void source_feed(struct source *source, struct source_event *event);

/* An event that has nothing to say but its type. */
void source_feed_type(struct source *source, enum source_event_type type);

/* An event with a fault, borrowed for the call. */
void source_feed_fault(struct source *source, enum source_event_type type,
                       const struct fault *fault);

/* Tell the core what time it is and how much has moved. */
void source_tick(struct source *source);

/* The core's phase, read under the lock. */
enum phase source_current_phase(struct source *source);

/* The end of the core's phase, 0 for none; read under the lock. */
uint64_t source_current_deadline(struct source *source);

/* Hold the guest's writers back for so many thousandths of the time. */
void source_throttle(struct source *source, unsigned permille);

/* Tell the owner how far the move is. */
void source_tell_progress(struct source *source, uint64_t now_ns);

/* ---- source_mail.c -------------------------------------------------------------------------- */

/* Begin to open streams, the control lane first. */
int source_mail_open_control(struct source *source, struct fault *fault);

/* One thread a stream; takes the streams as far as it gets. */
int source_mail_start_lanes(struct source *source, struct fault *fault);

/* Begin to open streams anew, in the next epoch. */
int source_mail_dial(struct source *source, struct fault *fault);

/* Free what the mail still holds. */
void source_mail_discard(struct source_mail *mail);

/* Act on one piece of mail; takes what it holds. */
void source_mail_take(struct source *source, struct source_mail *mail);

/* ---- source_words.c ------------------------------------------------------------------------- */

/* Greet: which move, which guest, which regions. */
void source_words_send_hello(struct source *source);

/* The packed machine and the digests. */
void source_words_send_state(struct source *source);

/* On a new control lane: which move, and the how manieth attempt. */
void source_words_send_resume(struct source *source);

/* Give the right to run. */
void source_words_send_transfer(struct source *source);

/* Call the move off, when there is somebody to tell. */
void source_words_send_abort(struct source *source);

/* Pages of region i that come only after the switchover. */
void source_words_send_missing(struct source *source, unsigned i, const struct bitmap *pages);

/* It is known that the target has every page. */
void source_words_send_served(struct source *source);

/* Let the lanes be opened, and name the populated extents. */
int source_words_prepare(struct source *source, struct fault *fault);

/* Judge the target's message and feed it. */
void source_words_take(struct source *source, const Godwit__MoveMessage *message);

/* ---- source_rounds.c ------------------------------------------------------------------------ */

/* Learn which pages of region i have memory by now; what once had stays known. */
int source_rounds_learn_populated(struct source *source, unsigned i, struct fault *fault);

/* A round begins that will carry so many pages, as far as one knows. */
void source_rounds_begin(struct source *source, uint64_t pages);

/* So many batches are out; a fence behind them on every lane. */
void source_rounds_fence(struct source *source, uint64_t batches, enum page_batch_type fence);

/* Begin a round: hand all dirty pages to the lanes, and a fence behind them. */
void source_rounds_dispatch(struct source *source, uint64_t pages, enum page_batch_type fence);

/* The next round, as rounds or as windows. */
void source_rounds_next(struct source *source);

/* Start the lanes and the tracking, then send all that is populated. */
int source_rounds_first_round(struct source *source, struct fault *fault);

/* Pages that are collected and not yet handed out. */
uint64_t source_rounds_dirty_count(const struct source *source);

/* The pause is near: wake every thread of both ends. */
int source_rounds_stand_by(struct source *source, struct fault *fault);

/* Pause the guest and collect what it wrote last. */
int source_rounds_pause_guest(struct source *source, struct fault *fault);

/* Send the last pages, and save the machine while the lanes work. */
int source_rounds_drain(struct source *source, struct fault *fault);

/* Every lane and the control lane may be awake: tell the core when all are. */
void source_rounds_stood_by(struct source *source);

/* A lane reached a fence or failed. */
void source_rounds_take_report(struct source *source, const struct lane_report *report);

/* The round was broken off: what of it was done goes into the receipt. */
void source_rounds_break_off(struct source *source);

/* ---- source_reconnect.c --------------------------------------------------------------------- */

/* End the control lane, all lanes and the opener; HUNG_UP follows when no thread is left. */
void source_reconnect_hang_up(struct source *source);

/* One of them has ended: true when that was asked for, so that nobody else need care. */
bool source_reconnect_took_end(struct source *source);

/* The target's marks: what they do not cover is dirty again; then the lanes may come. */
void source_reconnect_take_resumed(struct source *source, const Godwit__MoveResumed *resumed);

/* All lanes of the new epoch are open: start them and go on. */
void source_reconnect_rejoin(struct source *source);

/* Does the move wait for its lanes to come back? */
bool source_reconnect_is_away(struct source *source);

/* ---- source_stream.c ------------------------------------------------------------------------ */

int source_stream_init(struct source *source, struct fault *fault);
void source_stream_deinit(struct source *source);

/* Begin a round of windows; `pages` are dirty. */
void source_stream_round(struct source *source, uint64_t pages);

/* A window was answered and what is dirty collected: send the next one, or true: the round is over.
 */
bool source_stream_window_done(struct source *source, uint64_t dirty_pages);

/* ---- source_post.c -------------------------------------------------------------------------- */

int source_post_init(struct source *source, struct fault *fault);
void source_post_deinit(struct source *source);

/* What the target said of it: refused where it was ordered, else kept for the receipt. */
int source_post_take_welcome(struct source *source, const Godwit__MoveWelcome *welcome,
                             struct fault *fault);

/* Does this switchover leave pages behind? Read under the lock. */
bool source_post_is_on(struct source *source);

/* Before the pause: what is dirty by now is left behind. */
int source_post_stand_by(struct source *source, struct fault *fault);

/* In the pause: what became dirty since, too. Asks are answered from now on. */
int source_post_pause(struct source *source, struct fault *fault);

/* The guest is given: push the rest. */
void source_post_go(struct source *source);

/* Make its lanes end; have they; and then free them. */
void source_post_interrupt(struct source *source);
bool source_post_has_ended(const struct source *source);
void source_post_free(struct source *source);

/* A lane of it has ended. */
void source_post_take_report(struct source *source, const struct source_mail *mail);

/* What the target lacks is told anew. */
void source_post_forget(struct source *source);
uint64_t source_post_unsent(const struct source *source); /* pages; while nothing is served */
int source_post_take_missing(struct source *source, const Godwit__MoveMissing *missing,
                             struct fault *fault);

/* Both lanes of the new epoch are open. */
int source_post_rejoin(struct source *source, struct fault *fault);

/* Over all pages, those that were given later too. */
uint64_t source_post_digest(const struct source *source);

/* Judge that the target has every page, and keep what it says of it. */
int source_post_take_fetched(struct source *source, const Godwit__MoveFetched *fetched,
                             struct fault *fault);

/* ---- source_end.c --------------------------------------------------------------------------- */

/* Stop every thread, fill the receipt, tell the owner. The core has ended. */
void source_end_finish(struct source *source);

#endif
