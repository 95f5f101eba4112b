#include "migrate/guest_file.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/file_stream.h"
#include "migrate/guest.h"
#include "migrate/page_batch.h"
#include "migrate/page_codec.h"
#include "migrate/page_copy.h"
#include "migrate/page_digest.h"
#include "migrate/page_place.h"
#include "migrate/page_scan.h"
#include "migrate/region.h"
#include "proto/limits.h"
#include "proto/page_frame.h"
#include "storage/guest_label.h"

#define SHAPE_MAGIC UINT64_C(0x3145504148535747) /* "GWSHAPE1" */
#define TAIL_MAGIC UINT64_C(0x3144454c41455347)  /* "GSEALED1" */

enum {
    HEAD_BYTES = 4096,
    SHAPE_AT = 1024, /* in the file; what follows is from there */
    SHAPE_BYTES = 512,
    SHAPE_AT_REGIONS = 8,
    SHAPE_AT_VCPUS = 12,
    SHAPE_AT_MACHINE = 16,
    SHAPE_AT_BASELINE = 48,
    SHAPE_AT_REGION = 80,
    SHAPE_WORD = 32,
    REGION_BYTES = 32, /* u32 id, u32 zero, u64 pages, name [16] */
    REGION_NAME = 16,
    SHAPE_AT_DIGEST = SHAPE_BYTES - 8,
    SHAPE_REGIONS_MAX = (SHAPE_AT_DIGEST - SHAPE_AT_REGION) / REGION_BYTES,
    TAIL_BYTES = 32,
    ROUND = 1,
};

static_assert(SHAPE_REGIONS_MAX >= 4, "RAM, boot files, and room");
static_assert(SHAPE_AT >= 2 * GUEST_LABEL_BYTES, "behind the label and its mark");

/* ---- the shape: encode and judge ---- */
static int put_word(uint8_t *at, size_t size, const char *word, const char *what,
                    struct fault *fault)
{
    size_t count = strlen(word);
    if (count == 0 || count >= size)
        return fault_set(fault, ERR_INVALID, "a guest's file cannot name its %s '%.80s'", what,
                         word);
    memcpy(at, word, count);
    return 0;
}

static int shape_encode(const struct guest *guest, uint8_t shape[static SHAPE_BYTES],
                        struct fault *fault)
{
    memset(shape, 0, SHAPE_BYTES);
    if (guest->region_count < 1 || guest->region_count > SHAPE_REGIONS_MAX)
        return fault_set(fault, ERR_INVALID, "%u regions, a file holds 1 to %d",
                         guest->region_count, SHAPE_REGIONS_MAX);
    bytes_put_u64(shape, SHAPE_MAGIC);
    bytes_put_u32(shape + SHAPE_AT_REGIONS, guest->region_count);
    bytes_put_u32(shape + SHAPE_AT_VCPUS, guest->vcpus);
    int r = put_word(shape + SHAPE_AT_MACHINE, SHAPE_WORD, guest->machine, "machine", fault);
    if (r == 0)
        r = put_word(shape + SHAPE_AT_BASELINE, SHAPE_WORD, guest->baseline, "baseline", fault);
    for (unsigned i = 0; r == 0 && i < guest->region_count; i++) {
        uint8_t *at = shape + SHAPE_AT_REGION + i * REGION_BYTES;
        bytes_put_u32(at, guest->regions[i].id);
        bytes_put_u64(at + 8, guest->regions[i].pages);
        r = put_word(at + 16, REGION_NAME, guest->regions[i].name, "region", fault);
    }
    bytes_put_u64(shape + SHAPE_AT_DIGEST, XXH3_64bits(shape, SHAPE_AT_DIGEST));
    return r;
}

/* One shape has one encoding: what is there must be ours, to the byte. */
static int shape_judge(const uint8_t shape[static SHAPE_BYTES], const struct guest *guest,
                       struct fault *fault)
{
    uint8_t ours[SHAPE_BYTES];

    int r = shape_encode(guest, ours, fault);
    if (r < 0)
        return r;
    if (bytes_get_u64(shape + SHAPE_AT_DIGEST) != XXH3_64bits(shape, SHAPE_AT_DIGEST))
        return fault_set(fault, ERR_CORRUPT, "the head of the guest's file is damaged");
    if (memcmp(shape, ours, SHAPE_BYTES) != 0)
        return fault_set(fault, ERR_REFUSED,
                         "the guest's file is of another machine than this one: %s, %u vCPUs, %s",
                         guest->machine, guest->vcpus, guest->baseline);
    return 0;
}

/* The mark between them changes later. */
static void seed(struct stream *stream, const uint8_t *head)
{
    file_stream_seed(stream, head, GUEST_LABEL_BYTES);
    file_stream_seed(stream, head + SHAPE_AT, SHAPE_BYTES);
}

/* ---- writing ---- */
struct writer {
    struct guest *guest;
    struct stream *stream;
    struct page_codec codec;
    const bool *is_stopped;
    uint64_t sum, running, pages;
};

static int write_frame(struct writer *writer, struct fault *fault)
{
    const uint8_t *bytes = NULL;
    size_t count = page_codec_encode(&writer->codec, &bytes);
    if (count == 0)
        return 0;
    int r = stream_write(writer->stream, bytes, count, fault);
    page_tuner_step(&writer->codec.tuner, world_now_ns(),
                    (uint64_t)writer->codec.frame.data_count * PAGE_BYTES,
                    writer->stream->wait_out_ns);
    return r;
}

static void take_page(struct writer *writer, const struct region *region, uint64_t page)
{
    uint8_t *slot = page_codec_slot(&writer->codec);
    if (!page_copy(slot, region->base + page * PAGE_BYTES))
        return; /* zero: as it will be in fresh memory */
    uint64_t hash = page_digest_hash(slot);
    page_codec_add_data(&writer->codec, (unsigned)(page % BLOCK_PAGES));
    writer->sum += page_digest_term(region->id, page, hash);
    writer->running = page_digest_fold(writer->running, page, hash);
    writer->pages++;
}

static int write_block(struct writer *writer, const struct page_batch *batch, struct fault *fault)
{
    const struct region *region = &writer->guest->regions[batch->region];
    int r = 0;

    page_codec_begin(&writer->codec, region->id, batch->first_page, ROUND);
    for (unsigned i = 0; r == 0 && i < PAGE_BATCH_WORDS; i++) {
        for (uint64_t word = batch->mask[i]; r == 0 && word; word &= word - 1) {
            take_page(writer, region,
                      batch->first_page + i * 64 + (unsigned)__builtin_ctzll(word));
            if (writer->codec.frame.count < PAGE_FRAME_PAGES_MAX)
                continue;
            r = write_frame(writer, fault);
            page_codec_begin(&writer->codec, region->id, batch->first_page, ROUND);
        }
    }
    return r < 0 ? r : write_frame(writer, fault);
}

static int write_region(struct writer *writer, unsigned index, struct fault *fault)
{
    struct region *region = &writer->guest->regions[index];
    struct bitmap populated = {0};
    struct page_scan scan;
    struct page_batch batch;

    int r = bitmap_init(&populated, region->pages) < 0
                ? fault_set(fault, ERR_NOMEM, "no memory for the pages of '%s'", region->name)
                : region->ops->populated(region, &populated, fault);
    page_scan_init(&scan, &populated, index);
    while (r == 0 && page_scan_next(&scan, &batch)) {
        if (writer->is_stopped && __atomic_load_n(writer->is_stopped, __ATOMIC_RELAXED))
            r = fault_set(fault, ERR_CANCELED, "writing the guest's file was stopped");
        else
            r = write_block(writer, &batch, fault);
    }
    bitmap_deinit(&populated);
    return r;
}

static int write_fence(struct writer *writer, struct fault *fault)
{
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    const struct page_frame fence = {
        .type = PAGE_FRAME_FENCE_LAST, .round = ROUND, .digest = writer->running};
    return stream_write(writer->stream, bytes, page_frame_put(&fence, NULL, bytes), fault);
}

static int write_machine(struct writer *writer, struct fault *fault)
{
    struct guest *guest = writer->guest;
    AUTO_FREE uint8_t *machine = NULL;
    uint8_t count_bytes[8];
    size_t count = 0;

    int r = guest->ops->save(guest->owner, &machine, &count, fault);
    if (r < 0)
        return fault_wrap(fault, r, "saving the machine");
    if (count > MACHINE_STATE_MAX)
        return fault_set(fault, ERR_LIMIT, "a machine state of %zu bytes, at most %d may be", count,
                         MACHINE_STATE_MAX);
    bytes_put_u64(count_bytes, count);
    r = stream_write(writer->stream, count_bytes, sizeof count_bytes, fault);
    return r < 0 ? r : stream_write(writer->stream, machine, count, fault);
}

static int write_tail(struct writer *writer, struct fault *fault)
{
    uint8_t tail[TAIL_BYTES];
    bytes_put_u64(tail, TAIL_MAGIC);
    bytes_put_u64(tail + 8, writer->pages);
    bytes_put_u64(tail + 16, writer->sum);
    int r = stream_write(writer->stream, tail, 24, fault);
    if (r < 0)
        return r;
    bytes_put_u64(tail + 24, file_stream_digest(writer->stream));
    r = stream_write(writer->stream, tail + 24, 8, fault);
    return r < 0 ? r : stream_flush(writer->stream, fault);
}

static int write_all(struct writer *writer, const uint8_t *head, int fd, struct fault *fault)
{
    struct guest *guest = writer->guest;
    int r = 0;

    if (pwrite(fd, head, HEAD_BYTES, 0) != HEAD_BYTES)
        return fault_set_errno(fault, errno == ENOSPC ? ERR_LIMIT : ERR_IO, errno,
                               "writing the guest's file");
    seed(writer->stream, head);
    for (unsigned i = 0; r == 0 && i < guest->region_count; i++)
        r = write_region(writer, i, fault);
    for (unsigned i = 0; i < guest->region_count; i++)
        guest->regions[i].ops->track_stop(&guest->regions[i], true); /* what was read for it goes */
    if (r == 0)
        r = write_fence(writer, fault);
    if (r == 0)
        r = write_machine(writer, fault);
    if (r == 0)
        r = write_tail(writer, fault);
    if (r == 0 && fsync(fd) < 0)
        r = fault_set_errno(fault, errno == ENOSPC || errno == EDQUOT ? ERR_LIMIT : ERR_IO, errno,
                            "making the guest's file durable");
    return r;
}

int guest_file_write(struct guest *guest, const struct guest_label *label, int fd,
                     const bool *is_stopped, struct guest_file_counts *ret_counts,
                     struct fault *fault)
{
    struct writer writer = {.guest = guest, .is_stopped = is_stopped};
    uint8_t head[HEAD_BYTES] = {0};
    uint64_t begun_ns = world_now_ns();

    int r = guest_label_encode(label, head, fault);
    if (r == 0)
        r = shape_encode(guest, head + SHAPE_AT, fault);
    if (r == 0)
        r = file_stream_new(&writer.stream, fd, HEAD_BYTES, fault);
    if (r == 0)
        r = page_codec_init(&writer.codec, PAGE_TUNER_AUTO, fault);
    if (r == 0) {
        r = write_all(&writer, head, fd, fault);
        page_codec_deinit(&writer.codec);
    }
    if (r == 0)
        *ret_counts = (struct guest_file_counts){.pages = writer.pages,
                                                 .bytes = file_stream_offset(writer.stream),
                                                 .ns = world_now_ns() - begun_ns};
    writer.stream = stream_free(writer.stream);
    return r;
}

/* ---- reading ---- */
struct reader {
    struct guest *guest;
    struct stream *stream;
    struct page_frame_plan plan;
    struct page_digest *digests;
    struct page_place place;
    uint8_t *machine; /* owned */
    size_t machine_bytes;
};

/* Give the frame's pages memory first: where the host has none it says so instead of dying of it. */
static int populate_frame(struct reader *reader, const struct page_frame *frame,
                          const struct page_frame_entry *entries, struct fault *fault)
{
    unsigned index = 0;
    while (reader->guest->regions[index].id != frame->region)
        index++; /* judged: it is there */
    struct region *region = &reader->guest->regions[index];
    for (unsigned i = 0, run; i < frame->count; i += run) {
        for (run = 1; i + run < frame->count && entries[i + run].page == entries[i].page + run;)
            run++;
        int r = region->ops->populate(region, frame->first_page + entries[i].page, run, fault);
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_pages(struct reader *reader, struct page_frame *frame, uint8_t *head,
                      struct fault *fault)
{
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    int r = stream_read(reader->stream, head + PAGE_FRAME_HEADER_BYTES,
                        (size_t)frame->count * PAGE_ENTRY_BYTES, fault);
    if (r == 0)
        r = page_frame_get_entries(&reader->plan, head, frame, entries, fault);
    if (r == 0)
        r = populate_frame(reader, frame, entries, fault);
    return r < 0 ? r : page_place_frame(&reader->place, frame, entries, reader->stream, fault);
}

/* Frames up to the last fence. */
static int read_frames(struct reader *reader, struct fault *fault)
{
    for (;;) {
        uint8_t head[PAGE_FRAME_HEAD_MAX];
        struct page_frame frame;
        int r = stream_read(reader->stream, head, PAGE_FRAME_HEADER_BYTES, fault);
        if (r == 0)
            r = page_frame_get(head, &frame, fault);
        if (r < 0)
            return r;
        if (frame.round != ROUND ||
            (frame.type != PAGE_FRAME_PAGES && frame.type != PAGE_FRAME_FENCE_LAST))
            return fault_set(fault, ERR_CORRUPT, "a frame in the guest's file that has no place");
        if (frame.type == PAGE_FRAME_FENCE_LAST)
            return frame.digest == reader->place.running
                       ? 0
                       : fault_set(fault, ERR_CORRUPT,
                                   "the pages of the guest's file are not those that were written");
        r = read_pages(reader, &frame, head, fault);
        if (r < 0)
            return r;
    }
}

static int read_machine(struct reader *reader, struct fault *fault)
{
    uint8_t bytes[8];
    int r = stream_read(reader->stream, bytes, sizeof bytes, fault);
    if (r < 0)
        return r;
    uint64_t count = bytes_get_u64(bytes);
    if (count == 0 || count > MACHINE_STATE_MAX)
        return fault_set(fault, ERR_CORRUPT, "a machine state of %llu bytes in the guest's file",
                         (unsigned long long)count);
    reader->machine = malloc(count);
    if (!reader->machine)
        return fault_set(fault, ERR_NOMEM, "no memory for the machine's state");
    reader->machine_bytes = count;
    return stream_read(reader->stream, reader->machine, count, fault);
}

static int read_tail(struct reader *reader, int fd, struct fault *fault)
{
    uint8_t tail[TAIL_BYTES];
    struct stat status;

    int r = stream_read(reader->stream, tail, 24, fault);
    if (r < 0)
        return r;
    uint64_t digest = file_stream_digest(reader->stream);
    r = stream_read(reader->stream, tail + 24, 8, fault);
    if (r < 0)
        return r;
    if (fstat(fd, &status) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "looking at the guest's file");
    if (bytes_get_u64(tail) != TAIL_MAGIC || bytes_get_u64(tail + 16) != reader->place.sum ||
        bytes_get_u64(tail + 24) != digest ||
        (uint64_t)status.st_size != file_stream_offset(reader->stream))
        return fault_set(fault, ERR_CORRUPT,
                         "the guest's file is damaged: its digest is not that of its bytes");
    return 0;
}

static int read_all(struct reader *reader, const uint8_t *head, int fd, struct fault *fault)
{
    struct guest *guest = reader->guest;

    seed(reader->stream, head);
    int r = read_frames(reader, fault);
    if (r == 0)
        r = read_machine(reader, fault);
    if (r == 0)
        r = read_tail(reader, fd, fault);
    /* Only now is anything of it believed. The guest's clocks stood still meanwhile. */
    if (r == 0)
        r = guest->ops->load(guest->owner, reader->machine, reader->machine_bytes, 0, fault);
    return r;
}

static int reader_init(struct reader *reader, struct guest *guest, int fd, struct fault *fault)
{
    *reader = (struct reader){.guest = guest};
    reader->digests = calloc(guest->region_count, sizeof *reader->digests);
    if (!reader->digests)
        return fault_set(fault, ERR_NOMEM, "no memory to read a guest's file");
    reader->plan.region_count = guest->region_count;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < guest->region_count; i++) {
        reader->plan.regions[i].id = guest->regions[i].id;
        reader->plan.regions[i].pages = guest->regions[i].pages;
        r = page_digest_init(&reader->digests[i], &guest->regions[i], fault);
    }
    if (r == 0)
        r = page_place_init(&reader->place, guest->regions, reader->digests, guest->region_count,
                            fault);
    return r < 0 ? r : file_stream_new(&reader->stream, fd, HEAD_BYTES, fault);
}

static void reader_deinit(struct reader *reader)
{
    reader->stream = stream_free(reader->stream);
    page_place_deinit(&reader->place);
    for (unsigned i = 0; reader->digests && i < reader->guest->region_count; i++)
        page_digest_deinit(&reader->digests[i]);
    free(reader->digests);
    free(reader->machine);
}

static int judge_label(const struct guest_label *label, uint64_t consumed_by,
                       const struct guest_label *expected, struct fault *fault)
{
    if (strcmp(label->vm_id, expected->vm_id) != 0)
        return fault_set(fault, ERR_REFUSED, "the guest's file is of VM %s, not of %s",
                         label->vm_id, expected->vm_id);
    if (strcmp(label->nonce, expected->nonce) != 0 || label->generation != expected->generation)
        return fault_set(fault, ERR_REFUSED,
                         "the guest's file is another one than was asked for: it is stale");
    if (consumed_by)
        return fault_set(fault, ERR_REFUSED, "the guest's file was consumed by generation %llu",
                         (unsigned long long)consumed_by);
    return 0;
}

int guest_file_read(struct guest *guest, const struct guest_label *expected, int fd,
                    struct guest_file_counts *ret_counts, struct fault *fault)
{
    uint8_t head[HEAD_BYTES];
    struct guest_label label;
    struct reader reader;
    uint64_t consumed_by = 0, begun_ns = world_now_ns();

    int r = guest_label_read(fd, &label, &consumed_by, fault);
    if (r == 0)
        r = judge_label(&label, consumed_by, expected, fault);
    if (r == 0 && pread(fd, head, HEAD_BYTES, 0) != HEAD_BYTES)
        r = fault_set(fault, ERR_CORRUPT, "the guest's file ends in its head");
    if (r == 0)
        r = shape_judge(head + SHAPE_AT, guest, fault);
    if (r < 0)
        return r;
    r = reader_init(&reader, guest, fd, fault);
    if (r == 0)
        r = read_all(&reader, head, fd, fault);
    if (r == 0)
        *ret_counts = (struct guest_file_counts){.pages = reader.place.pages,
                                                 .bytes = file_stream_offset(reader.stream),
                                                 .ns = world_now_ns() - begun_ns};
    reader_deinit(&reader);
    return r;
}
