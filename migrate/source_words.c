/* The source's words on the control lane: its messages are built, the target's judged.
 *
 * A write is watched: the peer that does not take it cannot hold the move's thread beyond the
 * phase's deadline.
 */
#include "migrate/source_inside.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/control_lane.h"
#include "migrate/guest.h"
#include "migrate/lane_opener.h"
#include "migrate/watch.h"
#include "proto/limits.h"
#include "proto/move_frame.h"

enum { ABORT_MS_MAX = 500 }; /* to tell the target of a roll-back; it finds out without, too */

/* ---- what we say ---------------------------------------------------------------------------- */

static void send_message(struct source *source, const Godwit__MoveMessage *message)
{
    struct fault fault = {0};
    uint64_t deadline_ns = source_current_deadline(source);
    watch_arm(source->watch, deadline_ns ? deadline_ns : world_now_ns() + ABORT_MS_MAX * NS_PER_MS);
    int r = control_lane_send(source->control, message, &fault);
    watch_disarm(source->watch);
    if (r < 0) {
        source_tick(source); /* a write that the watch broke off failed for the deadline's sake */
        source_feed_fault(source, SOURCE_EVENT_LINK_LOST, &fault);
    }
}

void source_words_send_hello(struct source *source)
{
    const struct guest *guest = source->config.guest;
    Godwit__MoveRegion regions[REGIONS_MAX], *pointers[REGIONS_MAX];
    for (unsigned i = 0; i < guest->region_count; i++) {
        godwit__move_region__init(&regions[i]);
        regions[i].has_id = regions[i].has_pages = 1;
        regions[i].id = guest->regions[i].id;
        regions[i].pages = guest->regions[i].pages;
        regions[i].name = (char *)guest->regions[i].name;
        regions[i].has_shared_id = guest->regions[i].shared_id != 0;
        regions[i].shared_id = guest->regions[i].shared_id;
        pointers[i] = &regions[i];
    }
    Godwit__MoveHello hello = GODWIT__MOVE_HELLO__INIT;
    hello.has_version_min = hello.has_version_max = hello.has_generation = hello.has_lanes =
        hello.has_vcpus = 1;
    hello.version_min = PROTOCOL_VERSION_MIN;
    hello.version_max = PROTOCOL_VERSION;
    hello.move_id = source->move_id;
    hello.vm_id = (char *)guest->vm_id;
    hello.vm_name = (char *)guest->name;
    hello.generation = source->config.generation;
    hello.lanes = source->lanes_wanted;
    hello.regions = pointers;
    hello.n_regions = guest->region_count;
    hello.machine = (char *)guest->machine;
    hello.baseline = (char *)guest->baseline;
    hello.vcpus = guest->vcpus;
    hello.has_away_ms_max = 1;
    hello.away_ms_max = source->core.config.away_ms_max; /* never changes */
    if (source->post_wanted) {
        hello.has_postcopy = hello.has_postcopy_late = hello.has_postcopy_away_ms_max = 1;
        hello.postcopy = source->core.config.postcopy; /* never change */
        hello.postcopy_late = source->core.config.postcopy_late;
        hello.postcopy_away_ms_max = source->core.config.postcopy_away_ms_max; /* the same */
    }
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_HELLO,
                                   .hello = &hello};
    send_message(source, &message);
}

struct extents {
    uint64_t *first, *pages; /* owned */
    size_t count;
};

static void send_extents_part(struct source *source, unsigned region, struct extents *extents)
{
    Godwit__MoveExtents body = GODWIT__MOVE_EXTENTS__INIT;
    body.has_region = 1;
    body.region = source->config.guest->regions[region].id;
    body.first_page = extents->first;
    body.n_first_page = extents->count;
    body.pages = extents->pages;
    body.n_pages = extents->count;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_EXTENTS,
                                   .extents = &body};
    send_message(source, &message);
    extents->count = 0;
}

static void send_extents(struct source *source, struct extents *extents)
{
    for (unsigned i = 0; i < source->config.guest->region_count; i++) {
        const struct bitmap *populated = &source->regions[i].populated;
        uint64_t page = bitmap_next_set(populated, 0);
        while (page != BITMAP_NONE && source_current_phase(source) == PHASE_PREPARE) {
            uint64_t end = bitmap_next_clear(populated, page);
            if (end == BITMAP_NONE)
                end = populated->bits;
            extents->first[extents->count] = page;
            extents->pages[extents->count++] = end - page;
            page = bitmap_next_set(populated, end);
            if (extents->count == MOVE_FRAME_EXTENTS_MAX || page == BITMAP_NONE)
                send_extents_part(source, i, extents);
        }
    }
    Godwit__Empty empty = GODWIT__EMPTY__INIT;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_EXTENTS_END,
                                   .extents_end = &empty};
    if (source_current_phase(source) == PHASE_PREPARE)
        send_message(source, &message);
}

void source_words_send_state(struct source *source)
{
    Godwit__MoveState state = GODWIT__MOVE_STATE__INIT;
    state.has_machine = state.has_paused_ns = state.has_memory_digest = state.has_pages =
        state.has_state_digest = state.has_rounds = state.has_reread = 1;
    state.machine.data = source->machine;
    state.machine.len = source->machine_bytes;
    state.memory_digest = source->memory_digest;
    state.pages = source_total_pages(source->config.guest);
    state.state_digest = source->state_digest;
    state.rounds = source->round;
    state.reread = source->reread;
    state.has_postcopy = 1;
    state.postcopy = source_post_is_on(source);
    state.paused_ns = world_now_ns() - source->paused_at_ns;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_STATE,
                                   .state = &state};
    send_message(source, &message);
}

void source_words_send_resume(struct source *source)
{
    Godwit__MoveResume resume = GODWIT__MOVE_RESUME__INIT;
    resume.has_generation = resume.has_epoch = 1;
    resume.move_id = source->move_id;
    resume.generation = source->config.generation;
    resume.epoch = source->epoch;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_RESUME,
                                   .resume = &resume};
    source->resume_sent = true;
    send_message(source, &message);
}

void source_words_send_transfer(struct source *source)
{
    Godwit__MoveTransfer transfer = GODWIT__MOVE_TRANSFER__INIT;
    transfer.has_generation = transfer.has_state_digest = 1;
    transfer.vm_id = (char *)source->config.guest->vm_id;
    transfer.move_id = source->move_id;
    transfer.generation = source->config.generation;
    transfer.target_incarnation = source->target_incarnation;
    transfer.state_digest = source->state_digest;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_TRANSFER,
                                   .transfer = &transfer};
    send_message(source, &message);
}

void source_words_send_abort(struct source *source)
{
    if (!source->control)
        return;
    pthread_mutex_lock(&source->mutex);
    struct fault fault = source->core.fault;
    pthread_mutex_unlock(&source->mutex);

    Godwit__Fault words = GODWIT__FAULT__INIT;
    words.has_number = 1;
    words.number = -fault.code;
    words.text = fault.text;
    words.hint = fault.hint;
    Godwit__MoveAbort abort_body = GODWIT__MOVE_ABORT__INIT;
    abort_body.fault = &words;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_ABORT,
                                   .abort = &abort_body};
    send_message(source, &message);
}

/* Only the words between the first and the last page, in as many messages as it takes. */
void source_words_send_missing(struct source *source, unsigned i, const struct bitmap *pages)
{
    size_t first = 0, end = bitmap_words(pages), most = MOVE_FRAME_MISSING_MAX / 8;
    while (first + 1 < end && !pages->words[first])
        first++;
    while (end > first + 1 && !pages->words[end - 1])
        end--;
    AUTO_FREE uint8_t *bytes = malloc(MOVE_FRAME_MISSING_MAX);
    if (!bytes) {
        struct fault fault = {0};
        (void)fault_set(&fault, ERR_NOMEM, "no memory to tell which pages are left behind");
        source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
        return;
    }
    for (size_t at = first; at < end; at += most) {
        size_t words = end - at < most ? end - at : most;
        for (size_t j = 0; j < words; j++)
            bytes_put_u64(bytes + j * 8, pages->words[at + j]);
        Godwit__MoveMissing missing = GODWIT__MOVE_MISSING__INIT;
        missing.has_region = missing.has_first_page = missing.has_bits = 1;
        missing.region = source->config.guest->regions[i].id;
        missing.first_page = at * 64;
        missing.bits = (ProtobufCBinaryData){.len = words * 8, .data = bytes};
        Godwit__MoveMessage message = {
            .base = PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
            .body_case = GODWIT__MOVE_MESSAGE__BODY_MISSING,
            .missing = &missing};
        send_message(source, &message);
    }
}

void source_words_send_served(struct source *source)
{
    pthread_mutex_lock(&source->mutex);
    struct fault fault = source->core.fault;
    pthread_mutex_unlock(&source->mutex);

    Godwit__Fault words = GODWIT__FAULT__INIT;
    words.has_number = 1;
    words.number = -fault.code;
    words.text = fault.text;
    words.hint = fault.hint;
    Godwit__MoveServed served = GODWIT__MOVE_SERVED__INIT;
    served.fault = fault.code ? &words : NULL;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_SERVED,
                                   .served = &served};
    if (source->control)
        send_message(source, &message);
}

int source_words_prepare(struct source *source, struct fault *fault)
{
    lane_opener_go_on(source->opener, source->lanes_wanted + source->post_wanted);

    struct extents extents = {0};
    AUTO_FREE uint64_t *first = reallocarray(NULL, MOVE_FRAME_EXTENTS_MAX, sizeof *first);
    AUTO_FREE uint64_t *pages = reallocarray(NULL, MOVE_FRAME_EXTENTS_MAX, sizeof *pages);
    if (!first || !pages)
        return fault_set(fault, ERR_NOMEM, "no memory for the extents");
    extents.first = first;
    extents.pages = pages;
    send_extents(source, &extents);
    return 0;
}

/* ---- what the target says ------------------------------------------------------------------- */

static void copy_fault(const Godwit__Fault *from, struct fault *to)
{
    if (!from) {
        (void)fault_set(to, ERR_ROLLED_BACK, "the target abandoned the move");
        return;
    }
    int code = err_from_number(from->number);
    (void)fault_set(to, code, "the target: %.400s", from->text ? from->text : err_name(code));
    if (from->hint)
        fault_hint(to, "%.150s", from->hint);
}

static void learn_extents_populated(struct source *source, struct source_event *event)
{
    struct fault fault = {0};
    for (unsigned i = 0; i < source->config.guest->region_count; i++) {
        if (source_rounds_learn_populated(source, i, &fault) < 0) {
            event->type = SOURCE_EVENT_FAILED;
            break;
        }
        event->populated_pages += bitmap_count(&source->regions[i].populated);
    }
    event->fault = &fault;
    source_feed(source, event);
}

void source_words_take(struct source *source, const Godwit__MoveMessage *message)
{
    struct source_event event = {0};
    struct fault fault = {0};

    switch (message->body_case) {
    case GODWIT__MOVE_MESSAGE__BODY_WELCOME:
        event.type = SOURCE_EVENT_WELCOME;
        if (message->welcome->version < PROTOCOL_VERSION_MIN ||
            message->welcome->version > PROTOCOL_VERSION) {
            (void)fault_set(&fault, ERR_UNSUPPORTED,
                            "the target speaks version %u, we speak %d to %d",
                            message->welcome->version, PROTOCOL_VERSION_MIN, PROTOCOL_VERSION);
            source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
            return;
        }
        source->takes_patches = message->welcome->takes_patches;
        source->takes_zstd = message->welcome->takes_zstd;
        source->takes_packed_postcopy = message->welcome->takes_packed_postcopy;
        source->config.guest->takes_counters = message->welcome->takes_counters;
        if (source_post_take_welcome(source, message->welcome, &fault) < 0) {
            source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
            return;
        }
        event.takes_postcopy = message->welcome->takes_postcopy;
        learn_extents_populated(source, &event);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_PREPARED:
        source->populate_ns = message->prepared->populate_ns;
        event.type = SOURCE_EVENT_PREPARED;
        break;
    case GODWIT__MOVE_MESSAGE__BODY_READY:
        event.type = SOURCE_EVENT_READY;
        if (source_current_phase(source) == PHASE_STATE &&
            message->ready->memory_digest != source->memory_digest) {
            (void)fault_set(&fault, ERR_CORRUPT, "the target's memory digest is another");
            source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
            return;
        }
        break;
    case GODWIT__MOVE_MESSAGE__BODY_STARTED:
        source->target_cpu_ns = message->started->cpu_ns;
        source->target_has_started = true;
        event.type = SOURCE_EVENT_STARTED;
        break;
    case GODWIT__MOVE_MESSAGE__BODY_ABANDONED:
        copy_fault(message->abandoned->fault, &fault);
        event.type = SOURCE_EVENT_ABANDONED;
        event.fault = &fault;
        break;
    case GODWIT__MOVE_MESSAGE__BODY_RESUMED:
        source_reconnect_take_resumed(source, message->resumed);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_MISSING:
        if (!source->resume_sent || source_current_phase(source) != PHASE_POSTCOPY)
            (void)fault_set(&fault, ERR_CORRUPT, "the target said 'missing' out of turn");
        else
            (void)source_post_take_missing(source, message->missing, &fault);
        if (fault.code)
            source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_FETCHED:
        event.type = SOURCE_EVENT_FETCHED;
        if (source_post_take_fetched(source, message->fetched, &fault) < 0)
            event.fault = &fault;
        break;
    case GODWIT__MOVE_MESSAGE__BODY_RESUME:
    case GODWIT__MOVE_MESSAGE__BODY_HELLO:
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS:
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS_END:
    case GODWIT__MOVE_MESSAGE__BODY_STATE:
    case GODWIT__MOVE_MESSAGE__BODY_TRANSFER:
    case GODWIT__MOVE_MESSAGE__BODY_ABORT:
    case GODWIT__MOVE_MESSAGE__BODY_SERVED:
    case GODWIT__MOVE_MESSAGE__BODY__NOT_SET:
    case _GODWIT__MOVE_MESSAGE__BODY__CASE_IS_INT_SIZE:
        (void)fault_set(&fault, ERR_CORRUPT, "the target sent a source's message: %s",
                        move_frame_name(message));
        source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
        return;
    }
    source_feed(source, &event);
}
