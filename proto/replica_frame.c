#include "proto/replica_frame.h"

#include <assert.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"

enum { MAGIC = 0x31525747 /* "GWR1" */, CHECK_AT = 40 };

/* What each type may be; a row a type. */
struct rule {
    const char *name;
    bool from_source, has_seq;
    uint32_t bytes_min, bytes_max;
};

static const struct rule rules[] = {
    [REPLICA_FRAME_HELLO] = {"hello", true, false, 1, REPLICA_SHAPE_MAX},
    [REPLICA_FRAME_WELCOME] = {"welcome", false, false, REPLICA_WELCOME_BYTES,
                               REPLICA_WELCOME_BYTES},
    [REPLICA_FRAME_PAGES] = {"pages", true, true, PAGE_FRAME_HEADER_BYTES + PAGE_ENTRY_BYTES,
                             REPLICA_PAGES_BYTES_MAX},
    [REPLICA_FRAME_STATE] = {"state", true, true, 1, MACHINE_STATE_MAX},
    [REPLICA_FRAME_COMMIT] = {"commit", true, true, REPLICA_COMMIT_BYTES, REPLICA_COMMIT_BYTES},
    [REPLICA_FRAME_HELD] = {"held", false, true, 0, 0},
    [REPLICA_FRAME_REFUSE] = {"refuse", true, false, 1, REPLICA_TEXT_MAX},
};

uint64_t replica_frame_digest(const void *bytes, size_t count)
{
    return XXH3_64bits(bytes, count);
}

uint32_t replica_frame_check(const void *bytes, size_t count)
{
    return (uint32_t)XXH3_64bits(bytes, count);
}

void replica_frame_put(const struct replica_frame *frame,
                       uint8_t ret_bytes[static REPLICA_FRAME_HEAD_BYTES])
{
    assert(frame->type >= REPLICA_FRAME_HELLO && frame->type <= REPLICA_FRAME_REFUSE);
    memset(ret_bytes, 0, REPLICA_FRAME_HEAD_BYTES);
    bytes_put_u32(ret_bytes, MAGIC);
    bytes_put_u16(ret_bytes + 4, (uint16_t)frame->type);
    bytes_put_u64(ret_bytes + 8, frame->id.generation);
    bytes_put_u64(ret_bytes + 16, frame->id.session);
    bytes_put_u64(ret_bytes + 24, frame->id.seq);
    bytes_put_u32(ret_bytes + 32, frame->body_bytes);
    bytes_put_u32(ret_bytes + 36, frame->body_check);
    bytes_put_u64(ret_bytes + CHECK_AT, replica_frame_digest(ret_bytes, CHECK_AT));
}

int replica_frame_get(const uint8_t bytes[static REPLICA_FRAME_HEAD_BYTES], bool from_source,
                      struct replica_frame *ret_frame, struct fault *fault)
{
    if (bytes_get_u32(bytes) != MAGIC ||
        bytes_get_u64(bytes + CHECK_AT) != replica_frame_digest(bytes, CHECK_AT))
        return fault_set(fault, ERR_CORRUPT, "what arrived is no segment of a replication");
    unsigned type = bytes_get_u16(bytes + 4);
    if (type < REPLICA_FRAME_HELLO || type > REPLICA_FRAME_REFUSE || bytes_get_u16(bytes + 6))
        return fault_set(fault, ERR_CORRUPT, "a replication segment of unknown type %u", type);
    const struct rule *rule = &rules[type];
    if (type != REPLICA_FRAME_REFUSE && rule->from_source != from_source)
        return fault_set(fault, ERR_CORRUPT, "a '%s' that only the other end may send", rule->name);
    const struct replica_frame frame = {
        .type = (enum replica_frame_type)type,
        .id = {.generation = bytes_get_u64(bytes + 8),
               .session = bytes_get_u64(bytes + 16),
               .seq = bytes_get_u64(bytes + 24)},
        .body_bytes = bytes_get_u32(bytes + 32),
        .body_check = bytes_get_u32(bytes + 36),
    };
    if (frame.body_bytes < rule->bytes_min || frame.body_bytes > rule->bytes_max)
        return fault_set(fault, ERR_CORRUPT, "a '%s' of %u bytes", rule->name, frame.body_bytes);
    if ((frame.id.seq != 0) != rule->has_seq)
        return fault_set(fault, ERR_CORRUPT, "a '%s' of checkpoint %llu", rule->name,
                         (unsigned long long)frame.id.seq);
    *ret_frame = frame;
    return 0;
}

int replica_frame_judge(const struct replica_frame *frame, const uint8_t *body, struct fault *fault)
{
    assert(frame->type != REPLICA_FRAME_PAGES);
    if (frame->body_check != replica_frame_check(body, frame->body_bytes))
        return fault_set(fault, ERR_CORRUPT, "a '%s' whose bytes are damaged",
                         rules[frame->type].name);
    return 0;
}

void replica_held_put(const struct replica_held *held,
                      uint8_t ret_bytes[static REPLICA_WELCOME_BYTES])
{
    bytes_put_u64(ret_bytes, held->id.generation);
    bytes_put_u64(ret_bytes + 8, held->id.session);
    bytes_put_u64(ret_bytes + 16, held->id.seq);
    bytes_put_u64(ret_bytes + 24, held->sum);
}

int replica_held_get(const uint8_t bytes[static REPLICA_WELCOME_BYTES],
                     struct replica_held *ret_held, struct fault *fault)
{
    const struct replica_held held = {
        .id = {.generation = bytes_get_u64(bytes),
               .session = bytes_get_u64(bytes + 8),
               .seq = bytes_get_u64(bytes + 16)},
        .sum = bytes_get_u64(bytes + 24),
    };
    if (held.id.seq == 0 && (held.id.generation || held.id.session || held.sum))
        return fault_set(fault, ERR_CORRUPT, "a replica that holds a checkpoint without a number");
    *ret_held = held;
    return 0;
}

void replica_commit_put(const struct replica_commit *commit,
                        uint8_t ret_bytes[static REPLICA_COMMIT_BYTES])
{
    bytes_put_u64(ret_bytes, commit->pages);
    bytes_put_u64(ret_bytes + 8, commit->running);
    bytes_put_u64(ret_bytes + 16, commit->sum);
    bytes_put_u64(ret_bytes + 24, commit->state);
    bytes_put_u64(ret_bytes + 32, commit->wall_ms);
    bytes_put_u64(ret_bytes + 40, commit->is_whole ? 1 : 0);
}

int replica_commit_get(const uint8_t bytes[static REPLICA_COMMIT_BYTES],
                       struct replica_commit *ret_commit, struct fault *fault)
{
    uint64_t flags = bytes_get_u64(bytes + 40);
    if (flags > 1)
        return fault_set(fault, ERR_UNSUPPORTED, "a checkpoint with flags %#llx",
                         (unsigned long long)flags);
    *ret_commit = (struct replica_commit){
        .pages = bytes_get_u64(bytes),
        .running = bytes_get_u64(bytes + 8),
        .sum = bytes_get_u64(bytes + 16),
        .state = bytes_get_u64(bytes + 24),
        .wall_ms = bytes_get_u64(bytes + 32),
        .is_whole = flags == 1,
    };
    return 0;
}
