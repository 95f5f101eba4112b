#include "proto/move_frame.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/err.h"

static_assert(MOVE_FRAME_EXTENTS_MAX * 20 + 64 <= MOVE_MESSAGE_MAX,
              "a full message of extents fits, each number at its longest");
static_assert(MOVE_FRAME_MISSING_MAX % 8 == 0 && MOVE_FRAME_MISSING_MAX + 64 <= MOVE_MESSAGE_MAX,
              "a full message of missing pages fits");

static uint32_t body_check(const uint8_t *bytes, size_t count)
{
    return count ? (uint32_t)XXH3_64bits(bytes, count) : 0;
}

static void put_header(uint8_t *header, uint32_t count, enum move_frame_type type, uint32_t check)
{
    bytes_put_u32(header, count);
    bytes_put_u16(header + 4, (uint16_t)type);
    bytes_put_u16(header + 6, (uint16_t)XXH3_64bits(header, 6));
    bytes_put_u32(header + 8, check);
}

int move_frame_encode(const Godwit__MoveMessage *message, uint8_t **ret_bytes, size_t *ret_count,
                      struct fault *fault)
{
    size_t count = godwit__move_message__get_packed_size(message);
    if (count > MOVE_MESSAGE_MAX)
        return fault_set(fault, ERR_LIMIT, "a %s message of %zu bytes, at most %d may be",
                         move_frame_name(message), count, MOVE_MESSAGE_MAX);
    uint8_t *bytes = malloc(MOVE_FRAME_HEADER_BYTES + count);
    if (!bytes)
        return fault_set(fault, ERR_NOMEM, "no memory for a %s message of %zu bytes",
                         move_frame_name(message), count);

    size_t packed = godwit__move_message__pack(message, bytes + MOVE_FRAME_HEADER_BYTES);
    assert(packed == count);
    put_header(bytes, (uint32_t)count, MOVE_FRAME_MESSAGE,
               body_check(bytes + MOVE_FRAME_HEADER_BYTES, count));
    *ret_bytes = bytes;
    *ret_count = MOVE_FRAME_HEADER_BYTES + count;
    return 0;
}

void move_frame_put_empty(enum move_frame_type type,
                          uint8_t ret_bytes[static MOVE_FRAME_HEADER_BYTES])
{
    assert(type != MOVE_FRAME_MESSAGE);
    put_header(ret_bytes, 0, type, 0);
}

int move_frame_get(const uint8_t bytes[static MOVE_FRAME_HEADER_BYTES],
                   enum move_frame_type *ret_type, size_t *ret_count, struct fault *fault)
{
    uint32_t count = bytes_get_u32(bytes);
    unsigned type = bytes_get_u16(bytes + 4);

    if (bytes_get_u16(bytes + 6) != (uint16_t)XXH3_64bits(bytes, 6))
        return fault_set(fault, ERR_CORRUPT, "control lane: a frame was changed on the way");
    if (type > MOVE_FRAME_HOT)
        return fault_set(fault, ERR_CORRUPT, "control lane: frame type %u is unknown", type);
    if (type == MOVE_FRAME_MESSAGE && (count == 0 || count > MOVE_MESSAGE_MAX))
        return fault_set(fault, ERR_CORRUPT, "control lane: a message of %u bytes, 1 to %d may be",
                         count, MOVE_MESSAGE_MAX);
    if (type != MOVE_FRAME_MESSAGE && count != 0)
        return fault_set(fault, ERR_CORRUPT, "control lane: frame type %u with %u bytes", type,
                         count);
    *ret_type = (enum move_frame_type)type;
    *ret_count = count;
    return 0;
}

int move_frame_check(const uint8_t header[static MOVE_FRAME_HEADER_BYTES], const uint8_t *bytes,
                     size_t count, struct fault *fault)
{
    if (bytes_get_u32(header + 8) != body_check(bytes, count))
        return fault_set(fault, ERR_CORRUPT, "control lane: a message was changed on the way");
    return 0;
}

static int judge_text(const char *text, const char *what, struct fault *fault)
{
    if (!text)
        return fault_set(fault, ERR_CORRUPT, "control lane: a message without %s", what);
    if (strnlen(text, MOVE_FRAME_TEXT_MAX + 1) > MOVE_FRAME_TEXT_MAX)
        return fault_set(fault, ERR_CORRUPT, "control lane: %s is longer than %d", what,
                         MOVE_FRAME_TEXT_MAX);
    return 0;
}

static int judge_regions(const Godwit__MoveHello *hello, struct fault *fault)
{
    if (hello->n_regions < 1 || hello->n_regions > REGIONS_MAX)
        return fault_set(fault, ERR_CORRUPT, "control lane: %zu regions, 1 to %d may be",
                         hello->n_regions, REGIONS_MAX);
    for (size_t i = 0; i < hello->n_regions; i++) {
        const Godwit__MoveRegion *region = hello->regions[i];
        int r = judge_text(region->name, "the name of a region", fault);
        if (r < 0)
            return r;
        if (!region->has_id || !region->has_pages || region->pages == 0)
            return fault_set(fault, ERR_CORRUPT, "control lane: region '%s' without id or pages",
                             region->name);
    }
    return 0;
}

static int judge_hello(const Godwit__MoveHello *hello, struct fault *fault)
{
    int r = judge_text(hello->move_id, "the move's id", fault);
    if (r == 0)
        r = judge_text(hello->vm_id, "the VM's id", fault);
    if (r == 0)
        r = judge_text(hello->vm_name, "the VM's name", fault);
    if (r == 0)
        r = judge_text(hello->machine, "the machine version", fault);
    if (r == 0)
        r = judge_text(hello->baseline, "the CPU baseline", fault);
    if (r == 0)
        r = judge_regions(hello, fault);
    if (r < 0)
        return r;
    if (!hello->has_version_min || !hello->has_version_max || !hello->has_generation ||
        !hello->has_lanes || !hello->has_vcpus)
        return fault_set(fault, ERR_CORRUPT, "control lane: a greeting with fields missing");
    if (hello->lanes < 1 || hello->lanes > LANES_MAX)
        return fault_set(fault, ERR_CORRUPT, "control lane: %u lanes, 1 to %d may be", hello->lanes,
                         LANES_MAX);
    return 0;
}

static int judge_extents(const Godwit__MoveExtents *extents, struct fault *fault)
{
    if (!extents->has_region || extents->n_first_page != extents->n_pages ||
        extents->n_pages > MOVE_FRAME_EXTENTS_MAX)
        return fault_set(fault, ERR_CORRUPT, "control lane: %zu extents with %zu lengths",
                         extents->n_first_page, extents->n_pages);
    return 0;
}

static int judge_state(const Godwit__MoveState *state, struct fault *fault)
{
    if (!state->has_machine || !state->has_memory_digest || !state->has_pages ||
        !state->has_state_digest || !state->has_paused_ns)
        return fault_set(fault, ERR_CORRUPT, "control lane: a machine state with fields missing");
    if (state->machine.len > MACHINE_STATE_MAX)
        return fault_set(fault, ERR_CORRUPT,
                         "control lane: a machine state of %zu bytes, at most %d may be",
                         state->machine.len, MACHINE_STATE_MAX);
    return 0;
}

static int judge_transfer(const Godwit__MoveTransfer *transfer, struct fault *fault)
{
    int r = judge_text(transfer->vm_id, "the VM's id", fault);
    if (r == 0)
        r = judge_text(transfer->move_id, "the move's id", fault);
    if (r == 0)
        r = judge_text(transfer->target_incarnation, "the target's incarnation", fault);
    if (r < 0)
        return r;
    if (!transfer->has_generation || !transfer->has_state_digest)
        return fault_set(fault, ERR_CORRUPT, "control lane: a transfer with fields missing");
    return 0;
}

static int judge_resume(const Godwit__MoveResume *resume, struct fault *fault)
{
    int r = judge_text(resume->move_id, "the move's id", fault);
    if (r < 0)
        return r;
    if (!resume->has_generation || resume->epoch < 1 || resume->epoch > LANE_EPOCH_MAX)
        return fault_set(fault, ERR_CORRUPT, "control lane: epoch %u, 1 to %d may be",
                         resume->epoch, LANE_EPOCH_MAX);
    return 0;
}

static int judge_missing(const Godwit__MoveMissing *missing, struct fault *fault)
{
    if (!missing->has_region || !missing->has_first_page || missing->first_page % 64 ||
        missing->bits.len == 0 || missing->bits.len % 8 ||
        missing->bits.len > MOVE_FRAME_MISSING_MAX)
        return fault_set(fault, ERR_CORRUPT, "control lane: missing pages in %zu bytes from page %llu",
                         missing->bits.len, (unsigned long long)missing->first_page);
    return 0;
}

static int judge_resumed(const Godwit__MoveResumed *resumed, struct fault *fault)
{
    if (resumed->postcopy && resumed->n_marks == 0)
        return 0;
    if (resumed->n_marks < 1 || resumed->n_marks > LANES_MAX)
        return fault_set(fault, ERR_CORRUPT, "control lane: marks of %zu lanes, 1 to %d may be",
                         resumed->n_marks, LANES_MAX);
    for (size_t i = 0; i < resumed->n_marks; i++) {
        const Godwit__MoveMark *mark = resumed->marks[i];
        if (!mark->has_epoch || !mark->has_round || !mark->has_frames || !mark->has_running)
            return fault_set(fault, ERR_CORRUPT, "control lane: a mark with fields missing");
    }
    return 0;
}

static int judge(const Godwit__MoveMessage *message, struct fault *fault)
{
    switch (message->body_case) {
    case GODWIT__MOVE_MESSAGE__BODY_HELLO:
        return judge_hello(message->hello, fault);
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS:
        return judge_extents(message->extents, fault);
    case GODWIT__MOVE_MESSAGE__BODY_STATE:
        return judge_state(message->state, fault);
    case GODWIT__MOVE_MESSAGE__BODY_TRANSFER:
        return judge_transfer(message->transfer, fault);
    case GODWIT__MOVE_MESSAGE__BODY_READY:
        if (!message->ready->has_memory_digest)
            return fault_set(fault, ERR_CORRUPT, "control lane: ready without its digest");
        return 0;
    case GODWIT__MOVE_MESSAGE__BODY_WELCOME:
        if (!message->welcome->has_version)
            return fault_set(fault, ERR_CORRUPT, "control lane: a welcome without a version");
        return 0;
    case GODWIT__MOVE_MESSAGE__BODY_RESUME:
        return judge_resume(message->resume, fault);
    case GODWIT__MOVE_MESSAGE__BODY_RESUMED:
        return judge_resumed(message->resumed, fault);
    case GODWIT__MOVE_MESSAGE__BODY_MISSING:
        return judge_missing(message->missing, fault);
    case GODWIT__MOVE_MESSAGE__BODY_FETCHED:
        if (!message->fetched->has_memory_digest || !message->fetched->has_pages)
            return fault_set(fault, ERR_CORRUPT, "control lane: fetched without its digest");
        return 0;
    case GODWIT__MOVE_MESSAGE__BODY_SERVED:
        return 0;
    case GODWIT__MOVE_MESSAGE__BODY_PREPARED:
    case GODWIT__MOVE_MESSAGE__BODY_STARTED:
    case GODWIT__MOVE_MESSAGE__BODY_ABORT:
    case GODWIT__MOVE_MESSAGE__BODY_ABANDONED:
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS_END:
        return 0;
    case GODWIT__MOVE_MESSAGE__BODY__NOT_SET:
    case _GODWIT__MOVE_MESSAGE__BODY__CASE_IS_INT_SIZE:
        break;
    }
    return fault_set(fault, ERR_CORRUPT, "control lane: a message of an unknown kind");
}

int move_frame_decode(const uint8_t *bytes, size_t count, Godwit__MoveMessage **ret_message,
                      struct fault *fault)
{
    assert(count <= MOVE_MESSAGE_MAX);
    Godwit__MoveMessage *message = godwit__move_message__unpack(NULL, count, bytes);
    if (!message)
        return fault_set(fault, ERR_CORRUPT, "control lane: %zu bytes that are no message", count);
    int r = judge(message, fault);
    if (r < 0) {
        godwit__move_message__free_unpacked(message, NULL);
        return r;
    }
    *ret_message = message;
    return 0;
}

const char *move_frame_name(const Godwit__MoveMessage *message)
{
    switch (message->body_case) {
    case GODWIT__MOVE_MESSAGE__BODY_HELLO:
        return "hello";
    case GODWIT__MOVE_MESSAGE__BODY_WELCOME:
        return "welcome";
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS:
        return "extents";
    case GODWIT__MOVE_MESSAGE__BODY_PREPARED:
        return "prepared";
    case GODWIT__MOVE_MESSAGE__BODY_STATE:
        return "state";
    case GODWIT__MOVE_MESSAGE__BODY_READY:
        return "ready";
    case GODWIT__MOVE_MESSAGE__BODY_TRANSFER:
        return "transfer";
    case GODWIT__MOVE_MESSAGE__BODY_STARTED:
        return "started";
    case GODWIT__MOVE_MESSAGE__BODY_ABORT:
        return "abort";
    case GODWIT__MOVE_MESSAGE__BODY_ABANDONED:
        return "abandoned";
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS_END:
        return "extents-end";
    case GODWIT__MOVE_MESSAGE__BODY_RESUME:
        return "resume";
    case GODWIT__MOVE_MESSAGE__BODY_RESUMED:
        return "resumed";
    case GODWIT__MOVE_MESSAGE__BODY_MISSING:
        return "missing";
    case GODWIT__MOVE_MESSAGE__BODY_FETCHED:
        return "fetched";
    case GODWIT__MOVE_MESSAGE__BODY_SERVED:
        return "served";
    case GODWIT__MOVE_MESSAGE__BODY__NOT_SET:
    case _GODWIT__MOVE_MESSAGE__BODY__CASE_IS_INT_SIZE:
        break;
    }
    return "unknown";
}
