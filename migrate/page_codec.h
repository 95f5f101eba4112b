/* Pages to frames and back: raw, LZ4 or zstd groups of 16 pages, patches of pages that the target has,
 * zero pages as bare entries.
 *
 * Flow:   lane_source -> [page_codec] -> page_frame -> stream; page_place <- [page_codec]
 * Thread: one lane's.
 */
#ifndef GODWIT_MIGRATE_PAGE_CODEC_H
#define GODWIT_MIGRATE_PAGE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/page_tuner.h"
#include "proto/page_frame.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;
struct fault;
struct pacer;
struct stream;

struct page_codec {
    struct page_tuner tuner;
    uint8_t *staging; /* owned: room for a head, then raw pages; 64-byte aligned data */
    uint8_t *packed;  /* owned: room for a head, then sizes and groups */
    uint8_t *patches; /* owned: those of the frame being filled */
    void *lz4_state;  /* owned */
    struct ZSTD_CCtx_s *zstd; /* owned; NULL: the peer takes none */

    struct page_frame frame; /* being filled */
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    unsigned skip_groups, skip_next; /* incompressible lately: store so many without trying */

    /* since the owner last reset them */
    uint64_t raw_pages, lz4_pages, lz4_bytes, zstd_pages, zstd_bytes, patch_pages, patch_bytes;
};

int page_codec_init(struct page_codec *codec, enum page_tuner_policy policy, bool takes_zstd,
                    struct fault *fault);
void page_codec_deinit(struct page_codec *codec);

/* Begin a frame of the block at first_page. */
void page_codec_begin(struct page_codec *codec, uint32_t region, uint64_t first_page,
                      uint32_t round);
/* Where the next page may be copied to; it counts only once it is added. */
uint8_t *page_codec_slot(struct page_codec *codec);
void page_codec_add_data(struct page_codec *codec, unsigned page_in_block);
void page_codec_add_zero(struct page_codec *codec, unsigned page_in_block);
/* Only these lines of the page that was copied to the slot. */
void page_codec_add_patch(struct page_codec *codec, unsigned page_in_block, uint64_t lines);
/* What lies before the next frame: on `stream`, and by a limit. False: nobody knows, or nothing would be packed
 * anyway. */
bool page_codec_look_ahead(const struct page_codec *codec, struct stream *stream, struct pacer *pacer,
                           struct page_mix_road *ret_road);
/* Give the frame's bytes (borrowed until the next begin); 0 when it has no entries. `road`: what lies before them,
 * NULL where nobody knows. */
size_t page_codec_encode(struct page_codec *codec, const struct page_mix_road *road,
                         const uint8_t **ret_bytes);

/* The frame that was encoded last went out on `stream`: what it took is what the next ones are packed by.
 * `held_back_ns`: all waits so far for something else than the stream that stands for a slow wire. */
void page_codec_sent(struct page_codec *codec, struct stream *stream, uint64_t held_back_ns);

/* Undo one group of a frame of this codec: exactly `raw_bytes` from `packed_bytes`, or ERR_CORRUPT; never writes
 * beyond. `zstd`: a lane's own room for it. */
int page_codec_decode_group(enum page_frame_codec codec, struct ZSTD_DCtx_s *zstd,
                            const uint8_t *packed, uint32_t packed_bytes, uint8_t *ret_raw,
                            uint32_t raw_bytes, struct fault *fault);
/* Undo the body of a packed frame without patches: all of its data pages, one after the other, to `ret_pages`. */
int page_codec_decode_pages(struct page_frame *frame, struct ZSTD_DCtx_s *zstd, const uint8_t *body,
                            uint8_t *ret_pages, struct fault *fault);

#endif
