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
    [REPLICA_FRAME_ASK] = {"ask", true, false, 0, 0},
    [REPLICA_FRAME_HAVE] = {"have", false, false, REPLICA_HAVE_HEAD_BYTES,
                            REPLICA_HAVE_HEAD_BYTES +
                                REPLICA_HAVE_BLOCKS_MAX *REPLICA_BLOCK_DIGEST_BYTES},
    [REPLICA_FRAME_KEPT] = {"kept", true, true, REPLICA_KEPT_BYTES, REPLICA_KEPT_BYTES},
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
    assert(frame->type >= REPLICA_FRAME_HELLO && frame->type <= REPLICA_FRAME_KEPT);
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
    if (type < REPLICA_FRAME_HELLO || type > REPLICA_FRAME_KEPT || bytes_get_u16(bytes + 6))
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

void replica_welcome_put(const struct replica_welcome *welcome,
                         uint8_t ret_bytes[static REPLICA_WELCOME_BYTES])
{
    bytes_put_u64(ret_bytes, welcome->held.id.generation);
    bytes_put_u64(ret_bytes + 8, welcome->held.id.session);
    bytes_put_u64(ret_bytes + 16, welcome->held.id.seq);
    bytes_put_u64(ret_bytes + 24, welcome->held.sum);
    bytes_put_u64(ret_bytes + 32, welcome->tells_blocks ? 1 : 0);
}

int replica_welcome_get(const uint8_t bytes[static REPLICA_WELCOME_BYTES],
                        struct replica_welcome *ret_welcome, struct fault *fault)
{
    uint64_t flags = bytes_get_u64(bytes + 32);
    const struct replica_held held = {
        .id = {.generation = bytes_get_u64(bytes),
               .session = bytes_get_u64(bytes + 8),
               .seq = bytes_get_u64(bytes + 16)},
        .sum = bytes_get_u64(bytes + 24),
    };
    if (held.id.seq == 0 && (held.id.generation || held.id.session || held.sum))
        return fault_set(fault, ERR_CORRUPT, "a replica that holds a checkpoint without a number");
    if (flags > 1)
        return fault_set(fault, ERR_UNSUPPORTED, "a replica that greets with flags %#llx",
                         (unsigned long long)flags);
    *ret_welcome = (struct replica_welcome){.held = held, .tells_blocks = flags == 1};
    return 0;
}

void replica_have_put(const struct replica_blocks *blocks,
                      uint8_t ret_bytes[static REPLICA_HAVE_HEAD_BYTES])
{
    bytes_put_u32(ret_bytes, blocks->region);
    bytes_put_u32(ret_bytes + 4, blocks->count);
    bytes_put_u64(ret_bytes + 8, blocks->first);
}

int replica_have_get(const uint8_t bytes[static REPLICA_HAVE_HEAD_BYTES], size_t count,
                     struct replica_blocks *ret_blocks, struct fault *fault)
{
    const struct replica_blocks blocks = {.region = bytes_get_u32(bytes),
                                          .count = bytes_get_u32(bytes + 4),
                                          .first = bytes_get_u64(bytes + 8)};
    if (blocks.count > REPLICA_HAVE_BLOCKS_MAX ||
        count != REPLICA_HAVE_HEAD_BYTES + (size_t)blocks.count * REPLICA_BLOCK_DIGEST_BYTES)
        return fault_set(fault, ERR_CORRUPT, "digests of %u blocks in %zu bytes", blocks.count,
                         count);
    *ret_blocks = blocks;
    return 0;
}

void replica_kept_put(const struct replica_blocks *blocks,
                      uint8_t ret_bytes[static REPLICA_KEPT_BYTES])
{
    memset(ret_bytes, 0, REPLICA_KEPT_BYTES);
    replica_have_put(blocks, ret_bytes);
}

int replica_kept_get(const uint8_t bytes[static REPLICA_KEPT_BYTES],
                     struct replica_blocks *ret_blocks, struct fault *fault)
{
    const struct replica_blocks blocks = {.region = bytes_get_u32(bytes),
                                          .count = bytes_get_u32(bytes + 4),
                                          .first = bytes_get_u64(bytes + 8)};
    if (blocks.count == 0 || bytes_get_u64(bytes + REPLICA_HAVE_HEAD_BYTES))
        return fault_set(fault, ERR_CORRUPT, "%u blocks that are kept", blocks.count);
    *ret_blocks = blocks;
    return 0;
}

void replica_block_digest(const uint8_t *bytes, size_t count,
                          uint8_t ret_digest[static REPLICA_BLOCK_DIGEST_BYTES])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, count));
    static_assert(sizeof canonical.digest == REPLICA_BLOCK_DIGEST_BYTES, "its own form");
    memcpy(ret_digest, canonical.digest, REPLICA_BLOCK_DIGEST_BYTES);
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
