#include "migrate/guest_file.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/file_stream.h"
#include "migrate/guest.h"
#include "migrate/guest_file_writer.h"
#include "migrate/guest_index.h"
#include "migrate/guest_shape.h"
#include "migrate/page_digest.h"
#include "migrate/page_place.h"
#include "migrate/region.h"
#include "proto/limits.h"
#include "proto/page_frame.h"
#include "storage/guest_label.h"

/* ---- writing ---- */
static int write_all(struct guest_file_writer *writer, struct guest_file_counts *ret_counts,
                     struct fault *fault)
{
    struct guest *guest = writer->guest;
    AUTO_FREE uint8_t *machine = NULL;
    size_t count = 0;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < guest->region_count; i++)
        r = guest_file_writer_region(writer, i, fault);
    for (unsigned i = 0; i < guest->region_count; i++)
        guest->regions[i].ops->track_stop(&guest->regions[i], true); /* what was read for it goes */
    if (r < 0)
        return r;
    r = guest->ops->save(guest->owner, &machine, &count, fault);
    if (r < 0)
        return fault_wrap(fault, r, "saving the machine");
    return guest_file_writer_finish(writer, machine, count, ret_counts, fault);
}

int guest_file_write(struct guest *guest, const struct guest_label *label, int fd,
                     const bool *is_stopped, struct guest_file_counts *ret_counts,
                     struct fault *fault)
{
    struct guest_file_writer writer;

    int r = guest_file_writer_init(&writer, guest, label, fd, is_stopped, fault);
    if (r == 0)
        r = write_all(&writer, ret_counts, fault);
    guest_file_writer_deinit(&writer);
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
        if (frame.round != GUEST_FILE_ROUND ||
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
    uint8_t tail[GUEST_FILE_TAIL_BYTES];
    struct stat status;

    int r = stream_read(reader->stream, tail, 8, fault);
    if (r == 0 && bytes_get_u64(tail) == GUEST_INDEX_MAGIC) {
        r = guest_index_skip(reader->guest, reader->stream, fault);
        if (r == 0)
            r = stream_read(reader->stream, tail, 8, fault);
    }
    if (r == 0)
        r = stream_read(reader->stream, tail + 8, 16, fault);
    if (r < 0)
        return r;
    uint64_t digest = file_stream_digest(reader->stream);
    r = stream_read(reader->stream, tail + 24, 8, fault);
    if (r < 0)
        return r;
    if (fstat(fd, &status) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "looking at the guest's file");
    if (bytes_get_u64(tail) != GUEST_FILE_TAIL_MAGIC || bytes_get_u64(tail + 16) != reader->place.sum ||
        bytes_get_u64(tail + 24) != digest ||
        (uint64_t)status.st_size != file_stream_offset(reader->stream))
        return fault_set(fault, ERR_CORRUPT,
                         "the guest's file is damaged: its digest is not that of its bytes");
    return 0;
}

static int read_all(struct reader *reader, const uint8_t *head, int fd, struct fault *fault)
{
    struct guest *guest = reader->guest;

    guest_file_seed(reader->stream, head);
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
    return r < 0 ? r : file_stream_new(&reader->stream, fd, GUEST_FILE_HEAD_BYTES, fault);
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

int guest_file_read(struct guest *guest, const struct guest_label *expected, int fd,
                    struct guest_file_counts *ret_counts, struct fault *fault)
{
    uint8_t head[GUEST_FILE_HEAD_BYTES];
    struct guest_label label;
    struct reader reader;
    uint64_t consumed_by = 0, begun_ns = world_now_ns();

    int r = guest_label_read(fd, &label, &consumed_by, fault);
    if (r == 0)
        r = guest_label_judge(&label, consumed_by, expected, fault);
    if (r == 0 && pread(fd, head, GUEST_FILE_HEAD_BYTES, 0) != GUEST_FILE_HEAD_BYTES)
        r = fault_set(fault, ERR_CORRUPT, "the guest's file ends in its head");
    if (r == 0)
        r = guest_shape_judge(head + GUEST_FILE_SHAPE_AT, guest, fault);
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
