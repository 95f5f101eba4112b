/* A frame is built backwards from its data: pages are copied to a fixed place in `staging`, and
 * when their number is known the head is laid directly in front of them, so that head and pages
 * leave in one write and fill whole TLS records.
 *
 *      staging  | ......... head | page | page | page | ...
 *      packed   | ... head | sizes | group | group ...      (only when that gained something)
 *
 * Patches gather in their own room and are laid behind the pages or groups at the end.
 */
#include "migrate/page_codec.h"

#include <assert.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/err.h"
#include "base/world.h"
#include "migrate/pacer.h"
#include "net/stream.h"

enum {
    ROOM_FOR_HEAD = 320, /* a multiple of 64, so that pages are aligned for the copy */
    ROOM_FOR_SIZES = PAGE_FRAME_GROUPS_MAX * 4,
    GROUP_BYTES = PAGE_FRAME_GROUP_PAGES * PAGE_BYTES,
    STAGING_BYTES = ROOM_FOR_HEAD + PAGE_FRAME_PAGES_MAX * PAGE_BYTES,
    PACKED_BYTES = ROOM_FOR_HEAD + ROOM_FOR_SIZES + PAGE_FRAME_PAGES_MAX * PAGE_BYTES,
    PATCHES_BYTES = PAGE_FRAME_PAGES_MAX * PAGE_PATCH_BYTES_MAX,
    SKIP_GROUPS_MAX = 64,
    ZSTD_LEVEL = 1, /* faster ones gain less and are no faster on guests' pages */
};

static_assert((int)ROOM_FOR_HEAD >= (int)PAGE_FRAME_HEAD_MAX && ROOM_FOR_HEAD % 64 == 0,
              "head before aligned pages");

static uint8_t *room_new(size_t count)
{
    return aligned_alloc(64, (count + 63) / 64 * 64);
}

int page_codec_init(struct page_codec *codec, enum page_tuner_policy policy, bool takes_zstd,
                    struct fault *fault)
{
    *codec = (struct page_codec){0};
    page_tuner_init(&codec->tuner, policy, takes_zstd);
    codec->staging = room_new(STAGING_BYTES);
    codec->packed = room_new(PACKED_BYTES);
    codec->patches = room_new(PATCHES_BYTES);
    codec->lz4_state = malloc((size_t)LZ4_sizeofState());
    codec->zstd = takes_zstd ? ZSTD_createCCtx() : NULL;
    if (!codec->staging || !codec->packed || !codec->patches || !codec->lz4_state ||
        (takes_zstd && !codec->zstd)) {
        page_codec_deinit(codec);
        return fault_set(fault, ERR_NOMEM, "no memory for a lane's frames");
    }
    return 0;
}

void page_codec_deinit(struct page_codec *codec)
{
    (void)ZSTD_freeCCtx(codec->zstd);
    codec->zstd = NULL;
    free(codec->lz4_state);
    free(codec->patches);
    free(codec->packed);
    free(codec->staging);
    codec->lz4_state = NULL;
    codec->packed = codec->staging = codec->patches = NULL;
}

void page_codec_begin(struct page_codec *codec, uint32_t region, uint64_t first_page,
                      uint32_t round)
{
    assert(first_page % BLOCK_PAGES == 0);
    codec->frame = (struct page_frame){
        .type = PAGE_FRAME_PAGES,
        .codec = PAGE_FRAME_RAW,
        .region = region,
        .first_page = first_page,
        .round = round,
    };
}

uint8_t *page_codec_slot(struct page_codec *codec)
{
    assert(codec->frame.count < PAGE_FRAME_PAGES_MAX);
    return codec->staging + ROOM_FOR_HEAD + (size_t)codec->frame.data_count * PAGE_BYTES;
}

static void add_entry(struct page_codec *codec, unsigned page_in_block, bool has_data,
                      bool is_patch)
{
    struct page_frame *frame = &codec->frame;
    assert(frame->count < PAGE_FRAME_PAGES_MAX);
    assert(page_in_block < BLOCK_PAGES);
    codec->entries[frame->count++] =
        (struct page_frame_entry){(uint16_t)page_in_block, has_data, is_patch};
    frame->data_count += has_data;
    frame->patch_count += is_patch;
}

void page_codec_add_data(struct page_codec *codec, unsigned page_in_block)
{
    add_entry(codec, page_in_block, true, false);
}

void page_codec_add_zero(struct page_codec *codec, unsigned page_in_block)
{
    add_entry(codec, page_in_block, false, false);
}

void page_codec_add_patch(struct page_codec *codec, unsigned page_in_block, uint64_t lines)
{
    struct page_frame *frame = &codec->frame;
    frame->patch_bytes +=
        page_frame_put_patch(page_codec_slot(codec), lines, codec->patches + frame->patch_bytes);
    add_entry(codec, page_in_block, false, true);
}

/* 0: less than a tenth was gained, and the peer has to undo it. Both give up once they are over. */
static uint32_t squeeze(struct page_codec *codec, const uint8_t *raw, uint32_t raw_bytes, uint8_t *to,
                        int acceleration)
{
    uint32_t bytes_max = raw_bytes - raw_bytes / 10;
    if (acceleration == 0) {
        size_t packed = ZSTD_compressCCtx(codec->zstd, to, bytes_max, raw, raw_bytes, ZSTD_LEVEL);
        return ZSTD_isError(packed) ? 0 : (uint32_t)packed;
    }
    return (uint32_t)LZ4_compress_fast_extState(codec->lz4_state, (const char *)raw, (char *)to,
                                                (int)raw_bytes, (int)bytes_max, acceleration);
}

/* Bytes that the group takes behind `to`; its raw size when it was stored as it is. */
static uint32_t pack_group(struct page_codec *codec, const uint8_t *raw, uint32_t raw_bytes,
                           uint8_t *to, int acceleration)
{
    if (codec->skip_groups > 0) {
        codec->skip_groups--;
    } else {
        uint32_t packed = squeeze(codec, raw, raw_bytes, to, acceleration);
        if (packed > 0) {
            codec->skip_next = 0;
            return packed;
        }
        codec->skip_next = codec->skip_next ? codec->skip_next * 2 : 1;
        if (codec->skip_next > SKIP_GROUPS_MAX)
            codec->skip_next = SKIP_GROUPS_MAX;
        codec->skip_groups = codec->skip_next;
    }
    memcpy(to, raw, raw_bytes);
    return raw_bytes;
}

/* acceleration 0: zstd. */
static bool pack(struct page_codec *codec, int acceleration)
{
    struct page_frame *frame = &codec->frame;
    unsigned groups = page_frame_groups(frame->data_count);
    if (codec->skip_groups >= groups) { /* nothing would even be tried */
        codec->skip_groups -= groups;
        return false;
    }
    const uint8_t *raw = codec->staging + ROOM_FOR_HEAD;
    uint8_t *body = codec->packed + ROOM_FOR_HEAD;
    uint32_t sizes[PAGE_FRAME_GROUPS_MAX];
    uint32_t at = groups * 4;
    uint64_t pages = 0, bytes = 0;

    for (unsigned i = 0; i < groups; i++) {
        uint32_t raw_bytes = page_frame_group_pages(frame->data_count, i) * PAGE_BYTES;
        sizes[i] = pack_group(codec, raw, raw_bytes, body + at, acceleration);
        if (sizes[i] < raw_bytes) {
            pages += raw_bytes / PAGE_BYTES;
            bytes += sizes[i];
        }
        at += sizes[i];
        raw += raw_bytes;
    }
    if (pages == 0)
        return false;
    page_frame_put_sizes(sizes, groups, body);
    bool is_zstd = acceleration == 0;
    frame->codec = is_zstd ? PAGE_FRAME_ZSTD : PAGE_FRAME_LZ4;
    frame->body_bytes = at;
    *(is_zstd ? &codec->zstd_pages : &codec->lz4_pages) += pages;
    *(is_zstd ? &codec->zstd_bytes : &codec->lz4_bytes) += bytes;
    codec->raw_pages += frame->data_count - pages;
    return true;
}

/* The clock is asked only where something may be packed. */
static bool pack_by(struct page_codec *codec, enum page_mix_arm arm)
{
    uint64_t pages = codec->frame.data_count;
    if (arm == PAGE_MIX_RAW || pages == 0)
        return false;
    uint64_t begun_ns = world_now_ns();
    bool is_packed = pack(codec, page_mix_acceleration(arm));
    uint64_t bytes = is_packed ? codec->frame.body_bytes : pages * PAGE_BYTES;
    page_mix_note(&codec->tuner.mix, arm, pages * PAGE_BYTES, bytes, world_now_ns() - begun_ns);
    return is_packed;
}

bool page_codec_look_ahead(const struct page_codec *codec, struct stream *stream, struct pacer *pacer,
                           struct page_mix_road *ret_road)
{
    if (codec->tuner.arm == PAGE_MIX_RAW || !codec->tuner.mixes)
        return false;
    *ret_road = (struct page_mix_road){
        .now_ns = world_now_ns(),
        .queued_bytes = stream_queued(stream),
        .round_trip_ns = stream_round_trip_ns(stream),
        .allowed_ns = pacer_room_ns(pacer),
    };
    return true;
}

size_t page_codec_encode(struct page_codec *codec, const struct page_mix_road *road,
                         const uint8_t **ret_bytes)
{
    struct page_frame *frame = &codec->frame;
    if (frame->count == 0)
        return 0;

    enum page_mix_arm arm =
        page_tuner_choose(&codec->tuner, (uint64_t)frame->data_count * PAGE_BYTES, road);
    uint8_t *body = codec->packed + ROOM_FOR_HEAD;
    if (!pack_by(codec, arm)) {
        frame->body_bytes = frame->data_count * PAGE_BYTES;
        codec->raw_pages += frame->data_count;
        body = codec->staging + ROOM_FOR_HEAD;
    }
    /* Together no more than as many whole pages would take, so there is room. */
    memcpy(body + frame->body_bytes, codec->patches, frame->patch_bytes);
    frame->body_bytes += frame->patch_bytes;
    codec->patch_pages += frame->patch_count;
    codec->patch_bytes += frame->patch_bytes;
    uint8_t head[PAGE_FRAME_HEAD_MAX];
    unsigned head_bytes = page_frame_put(frame, codec->entries, head);
    memcpy(body - head_bytes, head, head_bytes);
    *ret_bytes = body - head_bytes;
    return head_bytes + frame->body_bytes;
}

void page_codec_sent(struct page_codec *codec, struct stream *stream, uint64_t held_back_ns)
{
    const struct page_mix_look look = {.now_ns = world_now_ns(),
                                         .waited_ns = stream->wait_out_ns + held_back_ns,
                                         .blocked_ns = stream->wait_out_ns,
                                         .wire_bytes = stream->wire_bytes_out,
                                         .queued_bytes = stream_queued(stream)};
    page_tuner_step(&codec->tuner, (uint64_t)codec->frame.data_count * PAGE_BYTES, &look);
}

int page_codec_decode_group(enum page_frame_codec codec, struct ZSTD_DCtx_s *zstd,
                            const uint8_t *packed, uint32_t packed_bytes, uint8_t *ret_raw,
                            uint32_t raw_bytes, struct fault *fault)
{
    assert(raw_bytes <= GROUP_BYTES);
    if (packed_bytes == raw_bytes) {
        memcpy(ret_raw, packed, raw_bytes);
        return 0;
    }
    size_t got = 0;
    if (codec == PAGE_FRAME_ZSTD) {
        got = ZSTD_decompressDCtx(zstd, ret_raw, raw_bytes, packed, packed_bytes);
    } else {
        int r = LZ4_decompress_safe((const char *)packed, (char *)ret_raw, (int)packed_bytes,
                                    (int)raw_bytes);
        got = r < 0 ? 0 : (size_t)r;
    }
    if (got != raw_bytes) /* zstd's errors are larger than any group */
        return fault_set(fault, ERR_CORRUPT,
                         "page frame: a compressed group does not give its %u bytes", raw_bytes);
    return 0;
}

int page_codec_decode_pages(struct page_frame *frame, struct ZSTD_DCtx_s *zstd, const uint8_t *body,
                            uint8_t *ret_pages, struct fault *fault)
{
    assert(frame->patch_count == 0);
    uint32_t sizes[PAGE_FRAME_GROUPS_MAX];
    int r = page_frame_get_sizes(frame, body, sizes, fault);
    unsigned groups = page_frame_groups(frame->data_count);
    body += (size_t)groups * 4;
    for (unsigned i = 0; i < groups && r == 0; i++) {
        uint32_t raw_bytes = page_frame_group_pages(frame->data_count, i) * PAGE_BYTES;
        r = page_codec_decode_group(frame->codec, zstd, body, sizes[i], ret_pages, raw_bytes, fault);
        body += sizes[i];
        ret_pages += raw_bytes;
    }
    return r;
}
