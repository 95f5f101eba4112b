/* What the files of the target share: its struct, and what they ask of each other.
 *
 * Flow:   target.h -> [target_inside] -> target, target_mail, target_words, target_reconnect,
 * target_post
 * Thread: the move's own, but for what a section of the struct says.
 */
#ifndef GODWIT_MIGRATE_TARGET_INSIDE_H
#define GODWIT_MIGRATE_TARGET_INSIDE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migrate/lane_source.h"
#include "migrate/lane_target.h"
#include "migrate/page_fetch.h"
#include "migrate/progress.h"
#include "migrate/target.h"
#include "migrate/target_core.h"
#include "proto/limits.h"
#include "proto/migration.pb-c.h"
#include "proto/page_frame.h"
#include "proto/phase.h"

struct bitmap;
struct control_lane;
struct lane_opener;
struct lane_target;
struct mailbox;
struct page_digest;
struct populate;
struct stream;
struct watch;

enum target_mail_type {
    MAIL_STREAM,
    MAIL_OPENER_ENDED,
    MAIL_MESSAGE,
    MAIL_HOT,
    MAIL_LINK_LOST,
    MAIL_LANE,
    MAIL_POPULATED,
    MAIL_FETCH_ENDED,
    MAIL_FETCH_FAILED,
    MAIL_FETCH_ALL,
    MAIL_GUEST,
};

struct target_mail {
    enum target_mail_type type;
    unsigned lane, epoch;
    struct stream *stream;        /* given */
    Godwit__MoveMessage *message; /* given */
    uint64_t populate_ns, cpu_ns;
    struct fault fault;
    struct lane_report report;
};

struct target {
    /* set before start, read by all */
    struct target_config config;
    char *move_id, *incarnation;
    struct page_frame_plan plan;
    struct mailbox *mailbox;
    struct watch *watch;
    pthread_t thread;
    bool started;

    bool frames_allowed; /* atomic; INV-4 */

    pthread_mutex_t mutex; /* guards core and todo */
    struct target_core core;
    unsigned todo;

    /* the move's own thread's */
    struct lane_opener *opener;
    struct control_lane *control;
    struct lane_target *lanes[LANES_MAX];
    struct populate *populate;
    struct page_digest *digests;
    struct bitmap *wanted; /* pages to populate, one bitmap a region */
    struct progress progress;
    unsigned lanes_wanted, lanes_open, lanes_last;
    uint64_t digest_sums[LANES_MAX], lane_cpu_ns[LANES_MAX];
    uint64_t activity;
    bool hot_answered;

    /* lost lanes: what the broken ones had brought, and the control lane that waits for their end
     */
    unsigned epoch, next_epoch;
    struct stream *next_control; /* owned */
    unsigned lanes_ended;
    bool control_ended, hanging_up, resume_awaited;
    struct lane_mark marks[LANES_MAX];
    unsigned mark_epochs[LANES_MAX];
    uint64_t before_cpu_ns;

    /* post-copy */
    struct page_fetch *fetch; /* NULL: the source does not speak of it */
    struct stream *post_streams[PAGE_FETCH_LANES];
    unsigned post_open, post_wanted, fetch_ended;
    char post_refused[FAULT_TEXT_MAX]; /* why there is none, where it need not be; "" */
    uint64_t post_sum; /* what giving pages up took from the digest */
    bool fetched_told;
    pthread_t guest_thread; /* loads or resumes the guest, while guest_steps */
    bool guest_steps, guest_resumes;

    Godwit__MoveMessage *state; /* owned */
    uint64_t populate_ns, populate_cpu_ns, load_ns, resume_ns, memory_digest;
    enum phase told_phase;
    uint64_t hot_until_ns, next_progress_ns;
    bool finished;
};

/* ---- target.c ------------------------------------------------------------------------------- */

/* Step the core with what happened now, and keep what it wants done. */
void target_feed(struct target *target, struct target_event *event);

/* An event that has nothing to say but its type. */
void target_feed_type(struct target *target, enum target_event_type type);

/* An event with a fault, borrowed for the call. */
void target_feed_fault(struct target *target, enum target_event_type type,
                       const struct fault *fault);

/* The core's phase, read under the lock. */
enum phase target_current_phase(struct target *target);

/* The end of the core's phase, 0 for none; read under the lock. */
uint64_t target_current_deadline(struct target *target);

/* ---- target_mail.c -------------------------------------------------------------------------- */

/* Begin to await streams, the control lane first. */
int target_mail_accept_lanes(struct target *target, struct fault *fault);

/* Read what the source says on this stream; takes it when it returns 0. */
int target_mail_use_control(struct target *target, struct stream *stream, struct fault *fault);

/* Begin to give memory to the pages that the extents named. */
int target_mail_populate(struct target *target, struct fault *fault);

/* Free what the mail still holds. */
void target_mail_discard(struct target_mail *mail);

/* Act on one piece of mail; takes what it holds. */
void target_mail_take(struct target *target, struct target_mail *mail);

/* ---- target_words.c ------------------------------------------------------------------------- */

/* Answer the greeting, and let the lanes come. */
void target_words_send_welcome(struct target *target);

/* Memory is there: allow page frames, and say so. */
void target_words_send_prepared(struct target *target);

/* All is loaded and compared. */
void target_words_send_ready(struct target *target);

/* The guest runs here. */
void target_words_send_started(struct target *target);

/* The move is off, when there is somebody to tell. */
void target_words_send_abandoned(struct target *target);

/* On a new control lane: no old lane is left, and how far they had come. */
void target_words_send_resumed(struct target *target);

/* In post-copy: every page is here. */
void target_words_send_fetched(struct target *target);

/* Judge the source's message and feed it; a STATE is kept, taken out of the mail. */
void target_words_take(struct target *target, struct target_mail *mail);

/* ---- target_reconnect.c --------------------------------------------------------------------- */

/* End all lanes; what they brought stays. The control lane may still bring the source's last word.
 */
void target_reconnect_hang_up(struct target *target);

/* A lane or the control lane has given its last word: true when that was asked for. */
bool target_reconnect_took_end(struct target *target);

/* A stream of a later epoch; takes it. */
void target_reconnect_take_stream(struct target *target, struct target_mail *mail);

/* The source's first word on a new control lane. */
void target_reconnect_take_resume(struct target *target, const Godwit__MoveResume *resume);

/* Does the move wait for its source to come back? */
bool target_reconnect_is_away(struct target *target);

/* ---- target_post.c -------------------------------------------------------------------------- */

/* The source may leave pages behind: can this host let a guest wait for them? */
int target_post_take_hello(struct target *target, const Godwit__MoveHello *hello,
                           struct fault *fault);

/* Were pages left behind? Read under the lock. */
bool target_post_is_on(struct target *target);

/* These come later: give up what is here of them. */
void target_post_take_missing(struct target *target, const Godwit__MoveMissing *missing);

/* One of the two lanes; takes *stream when it returns 0. */
int target_post_take_lane(struct target *target, unsigned index, struct stream **stream,
                          struct fault *fault);

/* Both are open again. */
int target_post_rejoin(struct target *target, struct fault *fault);

/* Make its lanes end; have they; and then free them. */
void target_post_interrupt(struct target *target);
bool target_post_has_ended(const struct target *target);
bool target_post_has_lanes(const struct target *target);
void target_post_hang_up(struct target *target);

/* A lane of it has ended, or it cannot go on. */
void target_post_take_mail(struct target *target, const struct target_mail *mail);

/* Is every page here by now? Then the core is told, once. */
void target_post_look(struct target *target);

/* Load the guest, or let it run, on a thread of its own. */
int target_post_step_guest(struct target *target, bool resumes, struct fault *fault);
void target_post_take_step(struct target *target, const struct target_mail *mail);

/* The core has ended; and: nobody will ever look at the guest again. */
void target_post_stop(struct target *target);
void target_post_free(struct target *target);

#endif
