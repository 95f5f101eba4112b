/* One segment of a replication: 48 bytes of head, then its body. All of one link is one stream.
 *
 * Flow:   replicator -> [replica_frame] -> stream -> [replica_frame] -> replica, and back
 * Thread: any; pure.
 *
 * Little-endian:
 *      0  u32  magic "GWR1"
 *      4  u16  type
 *      6  u16  zero
 *      8  u64  generation that the guest runs as at the source
 *     16  u64  session: drawn anew whenever a source begins to protect a guest
 *     24  u64  seq of the checkpoint that the segment is of, from 1; HELLO, REFUSE: 0
 *     32  u32  bytes of body
 *     36  u32  check of the body (low half of XXH3-64); PAGES: 0, a page frame has its own
 *     40  u64  XXH3-64 of the bytes before
 *
 * HELLO begins a link: the version of all this and the shape of the guest, as text. WELCOME: which
 * checkpoint the replica holds (seq 0 in the body: none), and whether it can tell what its disks are. A
 * source that owes everything may then ASK: HAVE, HAVE, ... answer, digests of blocks of disks, the last
 * one with none; and of each block that is equal the source says KEPT instead of sending it. Whether the
 * digests were true shows as everything does: by the sum in COMMIT. PAGES: one page frame (proto/page_frame.h), any number of a seq, the
 * newest of a page counts. STATE: the machine's state. COMMIT: what all of it has to come to; HELD:
 * it has, and is kept.
 */
#ifndef GODWIT_PROTO_REPLICA_FRAME_H
#define GODWIT_PROTO_REPLICA_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/page_frame.h"

struct fault;

enum {
    REPLICA_FRAME_HEAD_BYTES = 48,
    REPLICA_SHAPE_MAX = 2048,
    REPLICA_TEXT_MAX = 300,
    REPLICA_WELCOME_BYTES = 40,
    REPLICA_KEPT_BYTES = 24,
    REPLICA_BLOCK_PAGES = 16, /* of a disk: what has one digest */
    REPLICA_BLOCK_DIGEST_BYTES = 16,
    REPLICA_HAVE_HEAD_BYTES = 16,
    REPLICA_HAVE_BLOCKS_MAX = 2048, /* in one segment */
    REPLICA_COMMIT_BYTES = 48,
    REPLICA_PAGES_BYTES_MAX = PAGE_FRAME_HEAD_MAX + PAGE_FRAME_BODY_MAX,
};

/* Wire numbers: append only. */
enum replica_frame_type {
    REPLICA_FRAME_HELLO = 1,   /* source */
    REPLICA_FRAME_WELCOME = 2, /* replica */
    REPLICA_FRAME_PAGES = 3,   /* source */
    REPLICA_FRAME_STATE = 4,   /* source */
    REPLICA_FRAME_COMMIT = 5,  /* source */
    REPLICA_FRAME_HELD = 6,    /* replica */
    REPLICA_FRAME_REFUSE = 7,  /* either: why it goes away, as text; the last of a link */
    REPLICA_FRAME_ASK = 8,     /* source: what are your disks? Once a link, before its first checkpoint */
    REPLICA_FRAME_HAVE = 9,    /* replica */
    REPLICA_FRAME_KEPT = 10,   /* source */
};

/* Names one checkpoint of one guest for good. All zero: none. */
struct replica_id {
    uint64_t generation, session, seq;
};

struct replica_frame {
    enum replica_frame_type type;
    struct replica_id id;
    uint32_t body_bytes, body_check;
};

/* What a replica holds. */
struct replica_held {
    struct replica_id id;
    uint64_t sum; /* of its pages' digests */
};

/* Body of WELCOME. */
struct replica_welcome {
    struct replica_held held;
    bool tells_blocks; /* it answers ASK */
};

/* Blocks of a disk, one after the other: the head of HAVE's body, whose digests follow, and KEPT's body.
 * HAVE's are in ascending order of (region, first). */
struct replica_blocks {
    uint32_t region, count; /* HAVE: 0: that is all */
    uint64_t first;
};

/* What a checkpoint must come to: body of COMMIT. */
struct replica_commit {
    uint64_t pages;   /* entries in all its page frames */
    uint64_t running; /* fold over them, in order (migrate/page_digest.h) */
    uint64_t sum;     /* over every page of the whole image */
    uint64_t state;   /* XXH3-64 of the machine's state; 0: none goes with it */
    uint64_t wall_ms; /* when the guest stood still for it, the source's clock; for people */
    bool is_whole;    /* pages that it does not name are zero, whatever the replica held */
};

void replica_frame_put(const struct replica_frame *frame,
                       uint8_t ret_bytes[static REPLICA_FRAME_HEAD_BYTES]);
/* Judge a head: known type, sound body length for it. `from_source`: which end's it must be. */
int replica_frame_get(const uint8_t bytes[static REPLICA_FRAME_HEAD_BYTES], bool from_source,
                      struct replica_frame *ret_frame, struct fault *fault);
uint64_t replica_frame_digest(const void *bytes, size_t count);
uint32_t replica_frame_check(const void *bytes, size_t count);
/* Is this the head's body? PAGES are judged by their own check. */
int replica_frame_judge(const struct replica_frame *frame, const uint8_t *body,
                        struct fault *fault);

void replica_welcome_put(const struct replica_welcome *welcome,
                         uint8_t ret_bytes[static REPLICA_WELCOME_BYTES]);
int replica_welcome_get(const uint8_t bytes[static REPLICA_WELCOME_BYTES],
                        struct replica_welcome *ret_welcome, struct fault *fault);
void replica_have_put(const struct replica_blocks *blocks,
                      uint8_t ret_bytes[static REPLICA_HAVE_HEAD_BYTES]);
/* `count`: of the whole body. */
int replica_have_get(const uint8_t bytes[static REPLICA_HAVE_HEAD_BYTES], size_t count,
                     struct replica_blocks *ret_blocks, struct fault *fault);
void replica_kept_put(const struct replica_blocks *blocks,
                      uint8_t ret_bytes[static REPLICA_KEPT_BYTES]);
int replica_kept_get(const uint8_t bytes[static REPLICA_KEPT_BYTES],
                     struct replica_blocks *ret_blocks, struct fault *fault);
/* XXH3-128 of a block; all zero means: not known. */
void replica_block_digest(const uint8_t *bytes, size_t count,
                          uint8_t ret_digest[static REPLICA_BLOCK_DIGEST_BYTES]);
void replica_commit_put(const struct replica_commit *commit,
                        uint8_t ret_bytes[static REPLICA_COMMIT_BYTES]);
int replica_commit_get(const uint8_t bytes[static REPLICA_COMMIT_BYTES],
                       struct replica_commit *ret_commit, struct fault *fault);

static inline bool replica_id_equal(const struct replica_id *one, const struct replica_id *other)
{
    return one->generation == other->generation && one->session == other->session &&
           one->seq == other->seq;
}

#endif
