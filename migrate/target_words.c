/* The target's words on the control lane: its messages are built, the source's judged.
 *
 * Every word of the source is hostile until it is judged against our own guest. A write is watched:
 * the peer that does not take it cannot hold the move's thread beyond the phase's deadline.
 */
#include "migrate/target_inside.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/control_lane.h"
#include "migrate/guest.h"
#include "migrate/lane_opener.h"
#include "migrate/watch.h"
#include "proto/limits.h"
#include "proto/move_frame.h"

enum { ABANDONED_MS_MAX = 500 };

/* ---- what we say ---------------------------------------------------------------------------- */

static void fail(struct target *target, int code, const char *words, const char *detail)
{
    struct fault fault = {0};
    (void)fault_set(&fault, code, "%s%s", words, detail);
    target_feed_fault(target, TARGET_EVENT_FAILED, &fault);
}

static int watched_send(struct target *target, const Godwit__MoveMessage *message,
                        struct fault *fault)
{
    uint64_t deadline_ns = target_current_deadline(target);
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
        target_feed_fault(target, TARGET_EVENT_LINK_LOST, &fault);
}

void target_words_send_welcome(struct target *target)
{
    Godwit__MoveWelcome welcome = GODWIT__MOVE_WELCOME__INIT;
    welcome.has_version = welcome.has_takes_patches = welcome.has_takes_counters = 1;
    welcome.version = PROTOCOL_VERSION;
    welcome.takes_patches = welcome.takes_counters = 1;
    welcome.has_takes_zstd = welcome.takes_zstd = 1;
    welcome.has_takes_postcopy = welcome.takes_postcopy = target->post_wanted > 0;
    welcome.has_takes_packed_postcopy = welcome.takes_packed_postcopy = 1;
    welcome.postcopy_refused = target->post_refused[0] ? target->post_refused : NULL;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_WELCOME,
                                   .welcome = &welcome};
    send_message(target, &message);
    lane_opener_go_on(target->opener, target->lanes_wanted + target->post_wanted);
}

void target_words_send_prepared(struct target *target)
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

void target_words_send_ready(struct target *target)
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

static uint64_t cpu_ns(const struct target *target)
{
    uint64_t ns = target->populate_cpu_ns + world_thread_cpu_ns() + target->before_cpu_ns;
    if (target->control)
        ns += control_lane_cpu_ns(target->control);
    for (unsigned i = 0; i < LANES_MAX; i++)
        ns += target->lane_cpu_ns[i];
    return ns;
}

void target_words_send_started(struct target *target)
{
    Godwit__MoveStarted started = GODWIT__MOVE_STARTED__INIT;
    started.has_resume_ns = started.has_cpu_ns = 1;
    started.resume_ns = target->resume_ns;
    started.cpu_ns = cpu_ns(target);
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_STARTED,
                                   .started = &started};
    struct fault fault = {0};
    if (!target->control)
        return; /* post-copy, and its lanes are lost */
    if (watched_send(target, &message, &fault) < 0) /* it learns of it by its agent */
        log_debug("target", "%s vm=%s move=%s", fault.text, target->config.guest->vm_id,
                  target->move_id);
}

/* All that region i lacks, in as many messages as it takes. */
static void send_missing(struct target *target, unsigned i)
{
    const struct bitmap *missing = page_fetch_missing(target->fetch, i);
    size_t words = bitmap_words(missing), most = MOVE_FRAME_MISSING_MAX / 8;
    AUTO_FREE uint8_t *bytes = malloc(MOVE_FRAME_MISSING_MAX);
    if (!bytes) {
        fail(target, ERR_NOMEM, "no memory to tell which pages are missing", "");
        return;
    }
    for (size_t at = 0; at < words; at += most) {
        size_t count = words - at < most ? words - at : most;
        for (size_t j = 0; j < count; j++)
            bytes_put_u64(bytes + j * 8, missing->words[at + j]);
        Godwit__MoveMissing body = GODWIT__MOVE_MISSING__INIT;
        body.has_region = body.has_first_page = body.has_bits = 1;
        body.region = target->config.guest->regions[i].id;
        body.first_page = at * 64;
        body.bits = (ProtobufCBinaryData){.len = count * 8, .data = bytes};
        Godwit__MoveMessage message = {
            .base = PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
            .body_case = GODWIT__MOVE_MESSAGE__BODY_MISSING,
            .missing = &body};
        send_message(target, &message);
    }
}

static void send_resumed_in_postcopy(struct target *target)
{
    Godwit__MoveResumed resumed = GODWIT__MOVE_RESUMED__INIT;
    for (unsigned i = 0; i < target->config.guest->region_count; i++) {
        if (!page_fetch_missing(target->fetch, i)->words)
            continue;
        resumed.missing_pages += bitmap_count(page_fetch_missing(target->fetch, i));
        send_missing(target, i);
    }
    resumed.has_epoch = resumed.has_postcopy = resumed.has_missing_pages = 1;
    resumed.epoch = target->epoch;
    resumed.postcopy = 1;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_RESUMED,
                                   .resumed = &resumed};
    send_message(target, &message);
}

void target_words_send_fetched(struct target *target)
{
    struct page_fetch_facts facts;
    page_fetch_facts(target->fetch, &facts);
    Godwit__MoveFetched fetched = GODWIT__MOVE_FETCHED__INIT;
    fetched.has_memory_digest = fetched.has_pages = fetched.has_faults = fetched.has_fault_p50_ns =
        fetched.has_fault_p99_ns = fetched.has_cpu_ns = 1;
    fetched.memory_digest = target->memory_digest + facts.digest;
    fetched.pages = facts.pages;
    fetched.faults = facts.faults;
    fetched.fault_p50_ns = facts.fault_p50_ns;
    fetched.fault_p99_ns = facts.fault_p99_ns;
    fetched.cpu_ns = cpu_ns(target) + facts.cpu_ns;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_FETCHED,
                                   .fetched = &fetched};
    send_message(target, &message);
}

void target_words_send_resumed(struct target *target)
{
    if (target_post_is_on(target)) {
        send_resumed_in_postcopy(target);
        return;
    }
    Godwit__MoveMark marks[LANES_MAX], *pointers[LANES_MAX];
    for (unsigned i = 0; i < target->lanes_wanted; i++) {
        godwit__move_mark__init(&marks[i]);
        marks[i].has_epoch = marks[i].has_round = marks[i].has_frames = marks[i].has_running = 1;
        marks[i].epoch = target->mark_epochs[i];
        marks[i].round = target->marks[i].round;
        marks[i].frames = target->marks[i].frames;
        marks[i].running = target->marks[i].running;
        pointers[i] = &marks[i];
    }
    Godwit__MoveResumed resumed = GODWIT__MOVE_RESUMED__INIT;
    resumed.has_epoch = 1;
    resumed.epoch = target->epoch;
    resumed.marks = pointers;
    resumed.n_marks = target->lanes_wanted;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_RESUMED,
                                   .resumed = &resumed};
    send_message(target, &message);
}

void target_words_send_abandoned(struct target *target)
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

/* ---- what the source says ------------------------------------------------------------------- */

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
        if (theirs->shared_id != ours->shared_id)
            return fault_set(fault, ERR_REFUSED,
                             "region '%s' of the source and of the target are not the same memory",
                             ours->name);
    }
    return 0;
}

static void take_hello(struct target *target, const Godwit__MoveHello *hello)
{
    struct fault fault = {0};
    int r = judge_names(target, hello, &fault);
    if (r == 0)
        r = judge_regions(target, hello, &fault);
    bool greets = target_current_phase(target) == PHASE_GREET;
    if (r == 0 && greets)
        r = target_post_take_hello(target, hello, &fault);
    if (r < 0) {
        target_feed_fault(target, TARGET_EVENT_FAILED, &fault);
        return;
    }
    if (greets)
        target->lanes_wanted = hello->lanes; /* judged by move_frame: 1 to LANES_MAX */
    struct target_event event = {.type = TARGET_EVENT_HELLO,
                                 .away_ms_max = hello->away_ms_max,
                                 .postcopy = target->post_wanted > 0,
                                 .postcopy_away_ms_max = hello->postcopy_away_ms_max};
    target_feed(target, &event);
}

static void take_extents(struct target *target, const Godwit__MoveExtents *extents)
{
    const struct guest *guest = target->config.guest;
    unsigned region = 0;
    while (region < guest->region_count && guest->regions[region].id != extents->region)
        region++;
    if (target_current_phase(target) != PHASE_PREPARE || target->populate) {
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
    target_feed(target, &event);
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
        .type = TARGET_EVENT_STATE, .state_digest = state->state_digest, .reread = state->reread,
        .postcopy = state->postcopy};
    if (!target->state)
        target->state = TAKE(mail->message);
    target_feed(target, &event);
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
    target_feed(target, &event);
}

static void take_abort(struct target *target, const Godwit__MoveAbort *message)
{
    struct fault fault = {0};
    const Godwit__Fault *words = message->fault;
    int code = words ? err_from_number(words->number) : ERR_ROLLED_BACK;
    (void)fault_set(&fault, code, "the source called the move off: %.400s",
                    words && words->text ? words->text : err_name(code));
    target_feed_fault(target, TARGET_EVENT_ABORT, &fault);
}

static void take_served(struct target *target, const Godwit__MoveServed *message)
{
    struct fault fault = {0};
    if (message->fault)
        (void)fault_set(&fault, ERR_ATTENTION, "the source says: %.400s",
                        message->fault->text ? message->fault->text : "it is not as it was");
    target_feed_fault(target, TARGET_EVENT_SERVED, message->fault ? &fault : NULL);
}

void target_words_take(struct target *target, struct target_mail *mail)
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
    case GODWIT__MOVE_MESSAGE__BODY_RESUME:
        target_reconnect_take_resume(target, message->resume);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_MISSING:
        target_post_take_missing(target, message->missing);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_SERVED:
        take_served(target, message->served);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_RESUMED:
    case GODWIT__MOVE_MESSAGE__BODY_WELCOME:
    case GODWIT__MOVE_MESSAGE__BODY_PREPARED:
    case GODWIT__MOVE_MESSAGE__BODY_READY:
    case GODWIT__MOVE_MESSAGE__BODY_STARTED:
    case GODWIT__MOVE_MESSAGE__BODY_ABANDONED:
    case GODWIT__MOVE_MESSAGE__BODY_FETCHED:
    case GODWIT__MOVE_MESSAGE__BODY__NOT_SET:
    case _GODWIT__MOVE_MESSAGE__BODY__CASE_IS_INT_SIZE:
        break;
    }
    fail(target, ERR_CORRUPT, "the source sent a target's message: ", move_frame_name(message));
}
