/* Where in a guest's file each page lies: so that one of them can be read without all that stands before it.
 *
 * Flow:   guest_file_writer -> [guest_index] -> file;  file -> [guest_index] -> guest_pager
 * Thread: its owner's; reading blocks.
 *
 * Between the machine and the tail of the file (guest_file.h), little-endian:
 *
 *      u64 magic, u64 frames
 *      a frame, 96 bytes: u64 where it begins, u32 bytes of it, u32 region, u64 first page of its block, u64
 *                         digest of its pages as they were in the guest, 512 bits: which of the block
 *      64 bytes: u64 where the index begins, u64 where the machine does, u64 its bytes, u64 XXH3-64 of them, u64
 *                sum of all page digests, u64 zero, u64 XXH3-64 of label, shape and index so far, u64 magic
 *
 * Files from before it have none. Everything in it is judged before it is given: frames stand one behind the
 * other, each inside its region.
 */
#ifndef GODWIT_MIGRATE_GUEST_INDEX_H
#define GODWIT_MIGRATE_GUEST_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"

struct fault;
struct guest;
struct stream;

enum {
    GUEST_INDEX_FRAME_BYTES = 96,
    GUEST_INDEX_HEAD_BYTES = 16,
    GUEST_INDEX_END_BYTES = 64,
    GUEST_INDEX_WORDS = BLOCK_PAGES / 64,
};

#define GUEST_INDEX_MAGIC UINT64_C(0x3158444e49574721)     /* "!GWINDX1" */
#define GUEST_INDEX_END_MAGIC UINT64_C(0x31444e4549574721) /* "!GWIEND1" */

enum { GUEST_INDEX_E_NONE = 1 }; /* a file without an index: it can be read as a whole only */

struct guest_index_frame {
    uint64_t offset, first_page, digest;
    uint32_t bytes, region; /* region: its id */
    uint64_t mask[GUEST_INDEX_WORDS];
};

struct guest_index {
    struct guest_index_frame *frames; /* owned */
    uint64_t count, room;
    uint64_t machine_at, machine_bytes, machine_digest;
    uint64_t sum;
};

void guest_index_deinit(struct guest_index *index);

/* ---- writing ---- */
int guest_index_add(struct guest_index *index, const struct guest_index_frame *frame,
                    struct fault *fault);
/* `head` is the file's; the machine's facts and the sum are set. */
int guest_index_write(const struct guest_index *index, const uint8_t *head, struct stream *stream,
                      struct fault *fault);

/* ---- reading ---- */
/* Reading the file from its begin to its end: pass over an index whose magic has just been read. */
int guest_index_skip(const struct guest *guest, struct stream *stream, struct fault *fault);
/* Find, read and judge it. 0, GUEST_INDEX_E_NONE or a negative ERR_*. */
int guest_index_read(struct guest_index *ret_index, int fd, const uint8_t *head,
                     const struct guest *guest, struct fault *fault);

/* What the digest of a frame begins with, and how each of its pages goes in, in their order. */
uint64_t guest_index_digest_begin(uint32_t region);

#endif
