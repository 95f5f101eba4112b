/* The shell around target_core: turns what happens into events and carries the todo out.
 *
 *      opener ----- streams ----+
 *      control lane - messages -+-> mailbox -> the move's thread -> core -> todo -> guest
 *      lanes ------ reports ----+
 *      populate --- done -------+
 *      verdicts --> core, under the lock
 */
#include "migrate/target.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
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
#include "migrate/watch.h"
#include "net/stream.h"
#include "net/tls_lane.h"
#include "proto/limits.h"
#include "proto/move_frame.h"

enum { MAIL_SLOTS = 64, ABANDONED_MS_MAX = 500 };

enum target_mail_type {
    MAIL_STREAM,
    MAIL_OPEN_FAILED,
    MAIL_MESSAGE,
    MAIL_HOT,
    MAIL_LINK_LOST,
    MAIL_LANE,
    MAIL_POPULATED,
};

struct target_mail {
    enum target_mail_type type;
    unsigned lane;
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
    Godwit__MoveMessage *state; /* owned */
    uint64_t populate_ns, populate_cpu_ns, load_ns, resume_ns, memory_digest;
    enum phase told_phase;
    uint64_t hot_until_ns, next_progress_ns;
    bool finished;
};

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

static void feed(struct target *target, struct target_event *event)
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

static void feed_type(struct target *target, enum target_event_type type)
{
    struct target_event event = {.type = type};
    feed(target, &event);
}

static void feed_fault(struct target *target, enum target_event_type type,
                       const struct fault *fault)
{
    struct target_event event = {.type = type, .fault = fault};
    feed(target, &event);
}

static enum phase current_phase(struct target *target)
{
    pthread_mutex_lock(&target->mutex);
    enum phase phase = target->core.phase;
    pthread_mutex_unlock(&target->mutex);
    return phase;
}

static uint64_t current_deadline(struct target *target)
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

/* ---- mail from other threads ---------------------------------------------------------------- */

static int accept_lane(void *data, unsigned wanted, struct stream **ret_stream, unsigned *ret_lane,
                       struct fault *fault)
{
    struct target *target = data;
    uint64_t ms = wanted == TLS_LANE_CONTROL ? CONNECT_MS_MAX + GREET_MS_MAX : PREPARE_MS_MAX;
    return target->config.accept_lane(target->config.data, ms, ret_stream, ret_lane, fault);
}

static void on_stream(void *data, unsigned lane, struct stream *stream)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_STREAM, .lane = lane, .stream = stream};
    if (mailbox_put(target->mailbox, &mail) == MAILBOX_E_CLOSED)
        stream_free(stream);
}

static void on_open_failed(void *data, const struct fault *fault)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_OPEN_FAILED, .fault = *fault};
    (void)mailbox_put(target->mailbox, &mail); /* closed: the move is over anyway */
}

static void on_message(void *data, Godwit__MoveMessage *message)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_MESSAGE, .message = message};
    if (mailbox_put(target->mailbox, &mail) == MAILBOX_E_CLOSED)
        godwit__move_message__free_unpacked(message, NULL);
}

static void on_hot(void *data)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_HOT};
    (void)mailbox_put(target->mailbox, &mail);
}

static bool may_spin(void *data)
{
    (void)data;
    return hot_streams();
}

static void on_lost(void *data, const struct fault *fault)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_LINK_LOST, .fault = *fault};
    (void)mailbox_put(target->mailbox, &mail);
}

static void on_report(void *data, const struct lane_report *report)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_LANE, .report = *report};
    (void)mailbox_put(target->mailbox, &mail);
}

static void on_populated(void *data, const struct fault *fault, uint64_t duration_ns,
                         uint64_t cpu_ns)
{
    struct target *target = data;
    struct target_mail mail = {
        .type = MAIL_POPULATED, .populate_ns = duration_ns, .cpu_ns = cpu_ns};
    if (fault)
        mail.fault = *fault;
    (void)mailbox_put(target->mailbox, &mail);
}

static void on_watch_expired(void *data)
{
    struct target *target = data;
    control_lane_interrupt(target->control); /* armed only while there is one */
}

/* ---- the control lane ----------------------------------------------------------------------- */

static int watched_send(struct target *target, const Godwit__MoveMessage *message,
                        struct fault *fault)
{
    uint64_t deadline_ns = current_deadline(target);
    watch_arm(target->watch,
              deadline_ns ? deadline_ns : world_now_ns() + ABANDONED_MS_MAX * NS_PER_MS);
    int r = control_lane_send(target->control, message, fault);
    watch_disarm(target->watch);
    return r;
}

static void send_message(struct target *target, const Godwit__MoveMessage *message)
{
    struct fault fault = {0};
    if (watched_send(target, message, &fault) < 0)
        feed_fault(target, TARGET_EVENT_LINK_LOST, &fault);
}

static void send_welcome(struct target *target)
{
    Godwit__MoveWelcome welcome = GODWIT__MOVE_WELCOME__INIT;
    welcome.has_version = 1;
    welcome.version = PROTOCOL_VERSION;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_WELCOME,
                                   .welcome = &welcome};
    send_message(target, &message);
    lane_opener_go_on(target->opener, target->lanes_wanted);
}

static void send_prepared(struct target *target)
{
    __atomic_store_n(&target->frames_allowed, true, __ATOMIC_RELEASE);
    Godwit__MovePrepared prepared = GODWIT__MOVE_PREPARED__INIT;
    prepared.has_populate_ns = 1;
    prepared.populate_ns = target->populate_ns;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_PREPARED,
                                   .prepared = &prepared};
    send_message(target, &message);
}

static void send_ready(struct target *target)
{
    Godwit__MoveReady ready = GODWIT__MOVE_READY__INIT;
    ready.has_memory_digest = ready.has_load_ns = 1;
    ready.memory_digest = target->memory_digest;
    ready.load_ns = target->load_ns;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_READY,
                                   .ready = &ready};
    send_message(target, &message);
}

static void send_started(struct target *target)
{
    uint64_t cpu_ns = target->populate_cpu_ns + world_thread_cpu_ns();
    if (target->control)
        cpu_ns += control_lane_cpu_ns(target->control);
    for (unsigned i = 0; i < LANES_MAX; i++)
        cpu_ns += target->lane_cpu_ns[i];
    Godwit__MoveStarted started = GODWIT__MOVE_STARTED__INIT;
    started.has_resume_ns = started.has_cpu_ns = 1;
    started.resume_ns = target->resume_ns;
    started.cpu_ns = cpu_ns;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_STARTED,
                                   .started = &started};
    struct fault fault = {0};
    if (watched_send(target, &message, &fault) < 0) /* it learns of it by its agent */
        log_debug("target", "%s vm=%s move=%s", fault.text, target->config.guest->vm_id,
                  target->move_id);
}

static void send_abandoned(struct target *target)
{
    if (!target->control)
        return;
    pthread_mutex_lock(&target->mutex);
    struct fault fault = target->core.fault;
    pthread_mutex_unlock(&target->mutex);

    Godwit__Fault words = GODWIT__FAULT__INIT;
    words.has_number = 1;
    words.number = -fault.code;
    words.text = fault.text;
    words.hint = fault.hint;
    Godwit__MoveAbandoned abandoned = GODWIT__MOVE_ABANDONED__INIT;
    abandoned.fault = &words;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_ABANDONED,
                                   .abandoned = &abandoned};
    send_message(target, &message);
}

/* ---- todo ----------------------------------------------------------------------------------- */

static void latch(struct target *target, Godwit__Latch latch)
{
    target->config.on_latch(target->config.data, latch);
}

static int accept_lanes(struct target *target, struct fault *fault)
{
    const struct lane_opener_config config = {
        .open = accept_lane, .on_stream = on_stream, .on_failed = on_open_failed, .data = target};
    return lane_opener_new(&target->opener, &config, fault);
}

static int populate(struct target *target, struct fault *fault)
{
    const struct populate_config config = {
        .regions = target->config.guest->regions,
        .wanted = target->wanted,
        .region_count = target->config.guest->region_count,
        .done = on_populated,
        .data = target,
    };
    return populate_new(&target->populate, &config, fault);
}

static int check_digest(struct target *target, const Godwit__MoveState *state, struct fault *fault)
{
    const struct guest *guest = target->config.guest;
    uint64_t sum = 0;
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
    r = guest->ops->load(guest->owner, state->machine.data, state->machine.len, state->paused_ns,
                         fault);
    if (r < 0)
        return fault_wrap(fault, r, "loading the machine");
    target->load_ns = world_now_ns() - begun_ns;
    feed_type(target, TARGET_EVENT_LOADED);
    return 0;
}

static int resume_guest(struct target *target, struct fault *fault)
{
    const struct guest *guest = target->config.guest;
    uint64_t begun_ns = world_now_ns();
    int r = guest->ops->resume(guest->owner, fault);
    if (r < 0)
        return r;
    target->resume_ns = world_now_ns() - begun_ns;
    feed_type(target, TARGET_EVENT_RESUMED);
    return 0;
}

static int carry_out(struct target *target, enum target_todo bit, struct fault *fault)
{
    switch (bit) {
    case TARGET_TODO_LATCH_IN:
        latch(target, GODWIT__LATCH__LATCH_IN);
        return 0;
    case TARGET_TODO_ACCEPT:
        return accept_lanes(target, fault);
    case TARGET_TODO_SEND_WELCOME:
        send_welcome(target);
        return 0;
    case TARGET_TODO_POPULATE:
        return populate(target, fault);
    case TARGET_TODO_SEND_PREPARED:
        send_prepared(target);
        return 0;
    case TARGET_TODO_LOAD:
        return load(target, fault);
    case TARGET_TODO_LATCH_READY:
        latch(target, GODWIT__LATCH__LATCH_READY);
        return 0;
    case TARGET_TODO_SEND_READY:
        send_ready(target);
        return 0;
    case TARGET_TODO_LATCH_TOOK:
        latch(target, GODWIT__LATCH__LATCH_TOOK);
        return 0;
    case TARGET_TODO_RESUME:
        return resume_guest(target, fault);
    case TARGET_TODO_SEND_STARTED:
        send_started(target);
        return 0;
    case TARGET_TODO_LATCH_ABANDONED:
        latch(target, GODWIT__LATCH__LATCH_ABANDONED);
        return 0;
    case TARGET_TODO_SEND_ABANDONED:
        send_abandoned(target);
        return 0;
    case TARGET_TODO_END:
        target->finished = true;
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
            feed_fault(target, TARGET_EVENT_FAILED, &fault);
        }
    }
}

/* ---- what the mail says --------------------------------------------------------------------- */

static void fail(struct target *target, int code, const char *words, const char *detail)
{
    struct fault fault = {0};
    (void)fault_set(&fault, code, "%s%s", words, detail);
    feed_fault(target, TARGET_EVENT_FAILED, &fault);
}

static int take_control(struct target *target, struct target_mail *mail, struct fault *fault)
{
    if (target->control)
        return fault_set(fault, ERR_CORRUPT, "a second control lane arrived");
    const struct control_lane_config config = {

        .on_message = on_message,
        .on_hot = on_hot,
        .on_lost = on_lost,
        .may_spin = may_spin,
        .data = target,
    };
    int r = control_lane_new(&target->control, &config, mail->stream, fault);
    if (r < 0)
        return r;
    mail->stream = NULL;
    return 0;
}

static int take_lane(struct target *target, struct target_mail *mail, struct fault *fault)
{
    if (mail->lane >= target->lanes_wanted || target->lanes[mail->lane])
        return fault_set(fault, ERR_CORRUPT, "lane %u arrived, and there are %u", mail->lane,
                         target->lanes_wanted);
    const struct lane_target_config config = {
        .lane = mail->lane,
        .regions = target->config.guest->regions,
        .digests = target->digests,
        .region_count = target->config.guest->region_count,
        .plan = &target->plan,
        .frames_allowed = &target->frames_allowed,
        .may_spin = hot_streams(),
        .progress = &target->progress,
        .report = on_report,
        .data = target,
    };
    int r = lane_target_new(&target->lanes[mail->lane], &config, mail->stream, fault);
    if (r < 0)
        return r;
    mail->stream = NULL;
    if (++target->lanes_open == target->lanes_wanted && current_phase(target) == PHASE_PREPARE)
        feed_type(target, TARGET_EVENT_LANES_OPEN);
    return 0;
}

static void take_stream(struct target *target, struct target_mail *mail)
{
    struct fault fault = {0};
    int r = mail->lane == TLS_LANE_CONTROL ? take_control(target, mail, &fault)
                                           : take_lane(target, mail, &fault);
    if (r < 0)
        feed_fault(target, TARGET_EVENT_FAILED, &fault);
}

static int judge_names(const struct target *target, const Godwit__MoveHello *hello,
                       struct fault *fault)
{
    const struct guest *guest = target->config.guest;
    if (hello->version_min > PROTOCOL_VERSION || hello->version_max < PROTOCOL_VERSION_MIN)
        return fault_set(
            fault, ERR_UNSUPPORTED, "the source speaks versions %u to %u, the target %d to %d",
            hello->version_min, hello->version_max, PROTOCOL_VERSION_MIN, PROTOCOL_VERSION);
    if (strcmp(hello->move_id, target->move_id) || strcmp(hello->vm_id, guest->vm_id))
        return fault_set(fault, ERR_REFUSED, "move '%s' of VM '%s' is not the one awaited",
                         hello->move_id, hello->vm_id);
    if (hello->generation != target->config.generation)
        return fault_set(fault, ERR_REFUSED, "generation %llu offered, %llu granted",
                         (unsigned long long)hello->generation,
                         (unsigned long long)target->config.generation);
    if (strcmp(hello->machine, guest->machine))
        return fault_set(fault, ERR_UNSUPPORTED, "machine '%s' at the source, '%s' at the target",
                         hello->machine, guest->machine);
    if (strcmp(hello->baseline, guest->baseline))
        return fault_set(fault, ERR_CPU_COMPAT,
                         "CPU baseline '%s' at the source, '%s' at the target", hello->baseline,
                         guest->baseline);
    if (hello->vcpus != guest->vcpus)
        return fault_set(fault, ERR_REFUSED, "%u vCPUs at the source, %u at the target",
                         hello->vcpus, guest->vcpus);
    return 0;
}

static int judge_regions(const struct target *target, const Godwit__MoveHello *hello,
                         struct fault *fault)
{
    const struct guest *guest = target->config.guest;
    if (hello->n_regions != guest->region_count)
        return fault_set(fault, ERR_REFUSED, "%zu regions at the source, %u at the target",
                         hello->n_regions, guest->region_count);
    for (unsigned i = 0; i < guest->region_count; i++) {
        const Godwit__MoveRegion *theirs = hello->regions[i];
        const struct region *ours = &guest->regions[i];
        if (theirs->id != ours->id || theirs->pages != ours->pages ||
            strcmp(theirs->name, ours->name))
            return fault_set(fault, ERR_REFUSED,
                             "region '%s' of %llu pages at the source, '%s' of %llu at the target",
                             theirs->name, (unsigned long long)theirs->pages, ours->name,
                             (unsigned long long)ours->pages);
    }
    return 0;
}

static void take_hello(struct target *target, const Godwit__MoveHello *hello)
{
    struct fault fault = {0};
    int r = judge_names(target, hello, &fault);
    if (r == 0)
        r = judge_regions(target, hello, &fault);
    if (r < 0) {
        feed_fault(target, TARGET_EVENT_FAILED, &fault);
        return;
    }
    if (current_phase(target) == PHASE_GREET)
        target->lanes_wanted = hello->lanes; /* judged by move_frame: 1 to LANES_MAX */
    feed_type(target, TARGET_EVENT_HELLO);
}

static void take_extents(struct target *target, const Godwit__MoveExtents *extents)
{
    const struct guest *guest = target->config.guest;
    unsigned region = 0;
    while (region < guest->region_count && guest->regions[region].id != extents->region)
        region++;
    if (current_phase(target) != PHASE_PREPARE || target->populate) {
        fail(target, ERR_CORRUPT, "extents came out of turn", "");
        return;
    }
    if (region == guest->region_count) {
        fail(target, ERR_CORRUPT, "extents of a region that is not in the plan", "");
        return;
    }
    for (size_t i = 0; i < extents->n_first_page; i++) {
        if (!range_fits(extents->first_page[i], extents->pages[i], guest->regions[region].pages)) {
            fail(target, ERR_CORRUPT, "an extent leaves region ", guest->regions[region].name);
            return;
        }
        bitmap_set_range(&target->wanted[region], extents->first_page[i], extents->pages[i]);
    }
}

static void take_extents_end(struct target *target)
{
    struct target_event event = {.type = TARGET_EVENT_EXTENTS_END};
    for (unsigned i = 0; i < target->config.guest->region_count; i++)
        event.pages += bitmap_count(&target->wanted[i]);
    feed(target, &event);
}

/* Keeps the message when it is whole: LOAD reads it. */
static void take_state(struct target *target, struct target_mail *mail)
{
    const Godwit__MoveState *state = mail->message->state;
    if (XXH3_64bits(state->machine.data, state->machine.len) != state->state_digest) {
        fail(target, ERR_CORRUPT, "the machine state does not have its digest", "");
        return;
    }
    struct target_event event = {
        .type = TARGET_EVENT_STATE, .state_digest = state->state_digest, .reread = state->reread};
    if (!target->state)
        target->state = TAKE(mail->message);
    feed(target, &event);
}

static void take_transfer(struct target *target, const Godwit__MoveTransfer *transfer)
{
    struct target_event event = {
        .type = TARGET_EVENT_TRANSFER,
        .transfer = {.vm_id = transfer->vm_id,
                     .move_id = transfer->move_id,
                     .incarnation = transfer->target_incarnation,
                     .generation = transfer->generation,
                     .state_digest = transfer->state_digest},
    };
    feed(target, &event);
}

static void take_abort(struct target *target, const Godwit__MoveAbort *message)
{
    struct fault fault = {0};
    const Godwit__Fault *words = message->fault;
    int code = words ? err_from_number(words->number) : ERR_ROLLED_BACK;
    (void)fault_set(&fault, code, "the source called the move off: %.400s",
                    words && words->text ? words->text : err_name(code));
    feed_fault(target, TARGET_EVENT_ABORT, &fault);
}

static void take_message(struct target *target, struct target_mail *mail)
{
    const Godwit__MoveMessage *message = mail->message;
    target->activity++;
    switch (message->body_case) {
    case GODWIT__MOVE_MESSAGE__BODY_HELLO:
        take_hello(target, message->hello);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS:
        take_extents(target, message->extents);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS_END:
        take_extents_end(target);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_STATE:
        take_state(target, mail);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_TRANSFER:
        take_transfer(target, message->transfer);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_ABORT:
        take_abort(target, message->abort);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_WELCOME:
    case GODWIT__MOVE_MESSAGE__BODY_PREPARED:
    case GODWIT__MOVE_MESSAGE__BODY_READY:
    case GODWIT__MOVE_MESSAGE__BODY_STARTED:
    case GODWIT__MOVE_MESSAGE__BODY_ABANDONED:
    case GODWIT__MOVE_MESSAGE__BODY__NOT_SET:
    case _GODWIT__MOVE_MESSAGE__BODY__CASE_IS_INT_SIZE:
        break;
    }
    fail(target, ERR_CORRUPT, "the source sent a target's message: ", move_frame_name(message));
}

static void take_report(struct target *target, const struct lane_report *report)
{
    target->activity++;
    target->digest_sums[report->lane] = report->digest_sum;
    target->lane_cpu_ns[report->lane] = report->cpu_ns;
    if (report->type == LANE_REPORT_FAILED) {
        feed_fault(target, TARGET_EVENT_FAILED, &report->fault);
    } else if (report->type == LANE_REPORT_HOT) {
        target->hot_until_ns = world_now_ns() + LANE_HOT_NS;
    } else if (report->type == LANE_REPORT_LAST && ++target->lanes_last == target->lanes_wanted) {
        enum phase phase = current_phase(target);
        if (phase == PHASE_PRECOPY || phase == PHASE_DRAIN)
            feed_type(target, TARGET_EVENT_DRAINED);
    }
}

static void take_populated(struct target *target, const struct target_mail *mail)
{
    target->populate_ns = mail->populate_ns;
    target->populate_cpu_ns = mail->cpu_ns;
    struct fault fault = mail->fault;
    if (fault.code) {
        (void)fault_wrap(&fault, fault.code, "giving the guest its memory");
        feed_fault(target, TARGET_EVENT_FAILED, &fault);
    } else if (current_phase(target) == PHASE_PREPARE) {
        feed_type(target, TARGET_EVENT_POPULATED);
    }
}

static void take_hot(struct target *target)
{
    target->hot_until_ns = world_now_ns() + LANE_HOT_NS;
    if (target->hot_answered) /* one answer is owed, whatever a peer sends */
        return;
    target->hot_answered = true;
    struct fault fault = {0};
    watch_arm(target->watch, current_deadline(target));
    int r = control_lane_send_hot(target->control, &fault);
    watch_disarm(target->watch);
    if (r < 0)
        feed_fault(target, TARGET_EVENT_LINK_LOST, &fault);
}

static void discard_mail(struct target_mail *mail)
{
    stream_free(mail->stream);
    if (mail->message)
        godwit__move_message__free_unpacked(mail->message, NULL);
}

static void take_mail(struct target *target, struct target_mail *mail)
{
    switch (mail->type) {
    case MAIL_STREAM:
        take_stream(target, mail);
        break;
    case MAIL_OPEN_FAILED:
        feed_fault(target, TARGET_EVENT_FAILED, &mail->fault);
        break;
    case MAIL_MESSAGE:
        take_message(target, mail);
        break;
    case MAIL_HOT:
        take_hot(target);
        break;
    case MAIL_LINK_LOST:
        /* What came was wrong, but our words may still get through. At READY the right to run may
         * yet come by relay. */
        feed_fault(target,
                   mail->fault.code == ERR_CORRUPT && current_phase(target) != PHASE_HANDOVER
                       ? TARGET_EVENT_FAILED
                       : TARGET_EVENT_LINK_LOST,
                   &mail->fault);
        break;
    case MAIL_LANE:
        take_report(target, &mail->report);
        break;
    case MAIL_POPULATED:
        take_populated(target, mail);
        break;
    }
    discard_mail(mail);
}

/* ---- telling -------------------------------------------------------------------------------- */

static void tell_progress(struct target *target, uint64_t now_ns)
{
    pthread_mutex_lock(&target->mutex);
    enum phase phase = target->core.phase;
    uint64_t started_ns = target->core.started_ns, pages = target->core.populate_pages;
    pthread_mutex_unlock(&target->mutex);

    const struct progress_facts facts = {
        .now_ns = now_ns,
        .started_ns = started_ns,
        .phase = (Godwit__MovePhase)phase,
        .lanes = target->lanes_open,
        .memory_pages = pages,
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
    enum phase phase = current_phase(target);
    bool quiet = phase >= PHASE_PRECOPY && phase <= PHASE_HANDOVER && now_ns < target->hot_until_ns;
    if (!quiet && (phase != target->told_phase || now_ns >= target->next_progress_ns))
        tell_progress(target, now_ns);

    uint64_t until_ns = quiet ? target->hot_until_ns : target->next_progress_ns;
    uint64_t deadline_ns = current_deadline(target);
    if (deadline_ns && deadline_ns < until_ns)
        until_ns = deadline_ns;
    if (mailbox_take(target->mailbox, &mail, until_ns, quiet ? now_ns + LANE_SPIN_NS : 0)) {
        take_mail(target, &mail);
        return;
    }
    struct target_event event = {
        .type = TARGET_EVENT_TICK,
        .activity = target->activity + progress_wire_bytes(&target->progress),
    };
    feed(target, &event);
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
    target->opener = lane_opener_free(target->opener);
    target->populate = populate_free(target->populate);
    target->watch = watch_free(target->watch);
    for (unsigned i = 0; i < LANES_MAX; i++)
        target->lanes[i] = lane_target_free(target->lanes[i]);
    target->control = control_lane_free(target->control);

    struct target_mail mail;
    while (mailbox_try_take(target->mailbox, &mail))
        discard_mail(&mail);
}

static void *target_run(void *data)
{
    struct target *target = data;
    thread_take_short_turns();
    do_todo(target);
    while (!target->finished) {
        turn(target);
        do_todo(target);
    }
    stop_threads(target);
    tell_progress(target, world_now_ns());
    /* No step can change the core any more: it has ended. */
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
        target->plan.regions[i].pages = region->pages;
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
    feed_type(target, TARGET_EVENT_START); /* now, so that a verdict can be given at once */
    int error = pthread_create(&target->thread, NULL, target_run, target);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a move");
    target->started = true;
    return 0;
}

struct target *target_free(struct target *target)
{
    if (!target)
        return NULL;
    if (target->started) {
        (void)target_verdict(target, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON, 0,
                             "the process ends", NULL); /* refused: it has ended or will at once */
        pthread_join(target->thread, NULL);
    }
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
