#include "migrate/guest_file_writer.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/world.h"
#include "migrate/file_stream.h"
#include "migrate/guest.h"
#include "migrate/guest_file.h"
#include "migrate/guest_shape.h"
#include "migrate/page_batch.h"
#include "migrate/page_copy.h"
#include "migrate/page_digest.h"
#include "migrate/page_scan.h"
#include "migrate/region.h"
#include "proto/limits.h"
#include "proto/page_frame.h"
#include "storage/guest_label.h"

static_assert((int)GUEST_FILE_SHAPE_AT >= 2 * GUEST_LABEL_BYTES, "behind the label and its mark");
static_assert((int)GUEST_SHAPE_BYTES == GUEST_SEAL_SHAPE_BYTES, "what the seal covers of the head");
static_assert((int)GUEST_FILE_SHAPE_AT + GUEST_SHAPE_BYTES <= GUEST_FILE_HEAD_BYTES, "in the head");

void guest_file_seed(struct stream *stream, const uint8_t head[static GUEST_FILE_HEAD_BYTES])
{
    file_stream_seed(stream, head, GUEST_LABEL_BYTES);
    file_stream_seed(stream, head + GUEST_FILE_SHAPE_AT, GUEST_SHAPE_BYTES);
}

int guest_file_writer_init(struct guest_file_writer *writer, struct guest *guest,
                           const struct guest_label *label, int fd, const bool *is_stopped,
                           struct fault *fault)
{
    *writer = (struct guest_file_writer){
        .guest = guest, .is_stopped = is_stopped, .fd = fd, .begun_ns = world_now_ns()};
    int r = guest_label_encode(label, writer->head, fault);
    if (r == 0)
        r = guest_shape_encode(guest, writer->head + GUEST_FILE_SHAPE_AT, fault);
    if (r == 0)
        r = file_stream_new(&writer->stream, fd, GUEST_FILE_HEAD_BYTES, fault);
    if (r == 0)
        r = page_codec_init(&writer->codec, PAGE_TUNER_AUTO, false, fault);
    if (r < 0)
        return r;
    if (pwrite(fd, writer->head, sizeof writer->head, 0) != (ssize_t)sizeof writer->head)
        return fault_set_errno(fault, errno == ENOSPC || errno == EDQUOT ? ERR_LIMIT : ERR_IO,
                               errno, "writing the guest's file");
    guest_file_seed(writer->stream, writer->head);
    return 0;
}

void guest_file_writer_deinit(struct guest_file_writer *writer)
{
    page_codec_deinit(&writer->codec);
    guest_index_deinit(&writer->index);
    writer->stream = stream_free(writer->stream);
}

int guest_file_writer_check(const struct guest_file_writer *writer, struct fault *fault)
{
    if (writer->is_stopped && __atomic_load_n(writer->is_stopped, __ATOMIC_RELAXED))
        return fault_set(fault, ERR_CANCELED, "writing the guest's file was stopped");
    return 0;
}

void guest_file_writer_begin(struct guest_file_writer *writer, unsigned region, uint64_t block)
{
    writer->region = region;
    writer->block = block;
    uint32_t id = writer->guest->regions[region].id;
    page_codec_begin(&writer->codec, id, block, GUEST_FILE_ROUND);
    writer->frame = (struct guest_index_frame){
        .region = id, .first_page = block, .digest = guest_index_digest_begin(id)};
}

void guest_file_writer_take(struct guest_file_writer *writer, unsigned page_in_block,
                            const uint8_t *bytes)
{
    assert(page_in_block < BLOCK_PAGES && !guest_file_writer_is_full(writer));
    const struct region *region = &writer->guest->regions[writer->region];
    uint64_t page = writer->block + page_in_block;
    uint8_t *slot = page_codec_slot(&writer->codec);
    if (!page_copy(slot, bytes))
        return; /* zero: as it will be in fresh memory */
    uint64_t hash = page_digest_hash(slot);
    page_codec_add_data(&writer->codec, page_in_block);
    writer->sum += page_digest_term(region->id, page, hash);
    writer->running = page_digest_fold(writer->running, page, hash);
    writer->frame.digest = page_digest_fold(writer->frame.digest, page, hash);
    writer->frame.mask[page_in_block / 64] |= UINT64_C(1) << (page_in_block % 64);
    writer->pages++;
}

bool guest_file_writer_is_full(const struct guest_file_writer *writer)
{
    return writer->codec.frame.count >= PAGE_FRAME_PAGES_MAX;
}

/* The block stays begun. */
int guest_file_writer_flush(struct guest_file_writer *writer, struct fault *fault)
{
    const uint8_t *bytes = NULL;
    size_t count = page_codec_encode(&writer->codec, NULL, &bytes);
    writer->frame.offset = file_stream_offset(writer->stream);
    writer->frame.bytes = (uint32_t)count;
    int r = count ? guest_index_add(&writer->index, &writer->frame, fault) : 0;
    if (r == 0 && count)
        r = stream_write(writer->stream, bytes, count, fault);
    if (count)
        page_codec_sent(&writer->codec, writer->stream, 0);
    guest_file_writer_begin(writer, writer->region, writer->block);
    return r;
}

static int write_block(struct guest_file_writer *writer, const struct page_batch *batch,
                       struct fault *fault)
{
    const struct region *region = &writer->guest->regions[batch->region];
    int r = 0;

    guest_file_writer_begin(writer, batch->region, batch->first_page);
    for (unsigned i = 0; r == 0 && i < PAGE_BATCH_WORDS; i++) {
        for (uint64_t word = batch->mask[i]; r == 0 && word; word &= word - 1) {
            unsigned page = i * 64 + (unsigned)__builtin_ctzll(word);
            guest_file_writer_take(writer, page,
                                   region->base + (batch->first_page + page) * PAGE_BYTES);
            if (guest_file_writer_is_full(writer))
                r = guest_file_writer_flush(writer, fault);
        }
    }
    return r < 0 ? r : guest_file_writer_flush(writer, fault);
}

int guest_file_writer_region(struct guest_file_writer *writer, unsigned index, struct fault *fault)
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
        r = guest_file_writer_check(writer, fault);
        if (r == 0)
            r = write_block(writer, &batch, fault);
    }
    bitmap_deinit(&populated);
    return r;
}

static int write_fence(struct guest_file_writer *writer, struct fault *fault)
{
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    const struct page_frame fence = {
        .type = PAGE_FRAME_FENCE_LAST, .round = GUEST_FILE_ROUND, .digest = writer->running};
    return stream_write(writer->stream, bytes, page_frame_put(&fence, NULL, bytes), fault);
}

static int write_machine(struct guest_file_writer *writer, const uint8_t *machine, size_t count,
                         struct fault *fault)
{
    uint8_t count_bytes[8];

    if (count > MACHINE_STATE_MAX)
        return fault_set(fault, ERR_LIMIT, "a machine state of %zu bytes, at most %d may be", count,
                         MACHINE_STATE_MAX);
    bytes_put_u64(count_bytes, count);
    int r = stream_write(writer->stream, count_bytes, sizeof count_bytes, fault);
    writer->index.machine_at = file_stream_offset(writer->stream);
    writer->index.machine_bytes = count;
    writer->index.machine_digest = XXH3_64bits(machine, count);
    writer->index.sum = writer->sum;
    return r < 0 ? r : stream_write(writer->stream, machine, count, fault);
}

static int write_tail(struct guest_file_writer *writer, struct fault *fault)
{
    uint8_t tail[GUEST_FILE_TAIL_BYTES];
    bytes_put_u64(tail, GUEST_FILE_TAIL_MAGIC);
    bytes_put_u64(tail + 8, writer->pages);
    bytes_put_u64(tail + 16, writer->sum);
    int r = stream_write(writer->stream, tail, 24, fault);
    if (r < 0)
        return r;
    bytes_put_u64(tail + 24, file_stream_digest(writer->stream));
    r = stream_write(writer->stream, tail + 24, 8, fault);
    return r < 0 ? r : stream_flush(writer->stream, fault);
}

int guest_file_writer_finish(struct guest_file_writer *writer, const uint8_t *machine, size_t count,
                             struct guest_file_counts *ret_counts, struct fault *fault)
{
    int r = write_fence(writer, fault);
    if (r == 0)
        r = write_machine(writer, machine, count, fault);
    if (r == 0)
        r = guest_index_write(&writer->index, writer->head, writer->stream, fault);
    if (r == 0)
        r = write_tail(writer, fault);
    if (r == 0 && fsync(writer->fd) < 0)
        r = fault_set_errno(fault, errno == ENOSPC || errno == EDQUOT ? ERR_LIMIT : ERR_IO, errno,
                            "making the guest's file durable");
    if (r == 0)
        *ret_counts = (struct guest_file_counts){.pages = writer->pages,
                                                 .bytes = file_stream_offset(writer->stream),
                                                 .ns = world_now_ns() - writer->begun_ns};
    return r;
}
