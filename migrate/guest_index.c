#include "migrate/guest_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "migrate/file_stream.h"
#include "migrate/guest.h"
#include "net/stream.h"
#include "proto/page_frame.h"
#include "storage/guest_label.h"
#include "storage/guest_seal.h"

enum {
    AT_BYTES = 8, /* of a frame */
    AT_REGION = 12,
    AT_FIRST_PAGE = 16,
    AT_DIGEST = 24,
    AT_MASK = 32,

    END_AT_MACHINE = 8,
    END_AT_MACHINE_BYTES = 16,
    END_AT_MACHINE_DIGEST = 24,
    END_AT_SUM = 32,
    END_AT_ZERO = 40,
    END_AT_CHECK = 48,
    END_AT_MAGIC = 56,

    CHUNK_FRAMES = 512,
    FRAMES_AT_ONCE = 1024, /* the room grows by */
    FRAME_BYTES_MAX = PAGE_FRAME_HEAD_MAX + PAGE_FRAME_BODY_MAX,
    FRAME_BYTES_MIN = PAGE_FRAME_HEADER_BYTES + PAGE_ENTRY_BYTES + 1,
    BEHIND_FRAMES_BYTES = PAGE_FRAME_HEADER_BYTES + 8, /* a fence, the machine's count */
};

static_assert(AT_MASK + GUEST_INDEX_WORDS * 8 == GUEST_INDEX_FRAME_BYTES, "a frame of the index");
static_assert(END_AT_MAGIC + 8 == GUEST_INDEX_END_BYTES, "the end of the index");

uint64_t guest_index_digest_begin(uint32_t region)
{
    return (uint64_t)region + 1;
}

void guest_index_deinit(struct guest_index *index)
{
    free(index->frames);
    *index = (struct guest_index){0};
}

static void frame_encode(const struct guest_index_frame *frame,
                         uint8_t ret_bytes[static GUEST_INDEX_FRAME_BYTES])
{
    bytes_put_u64(ret_bytes, frame->offset);
    bytes_put_u32(ret_bytes + AT_BYTES, frame->bytes);
    bytes_put_u32(ret_bytes + AT_REGION, frame->region);
    bytes_put_u64(ret_bytes + AT_FIRST_PAGE, frame->first_page);
    bytes_put_u64(ret_bytes + AT_DIGEST, frame->digest);
    for (unsigned i = 0; i < GUEST_INDEX_WORDS; i++)
        bytes_put_u64(ret_bytes + AT_MASK + (size_t)i * 8, frame->mask[i]);
}

static void frame_decode(const uint8_t bytes[static GUEST_INDEX_FRAME_BYTES],
                         struct guest_index_frame *ret_frame)
{
    ret_frame->offset = bytes_get_u64(bytes);
    ret_frame->bytes = bytes_get_u32(bytes + AT_BYTES);
    ret_frame->region = bytes_get_u32(bytes + AT_REGION);
    ret_frame->first_page = bytes_get_u64(bytes + AT_FIRST_PAGE);
    ret_frame->digest = bytes_get_u64(bytes + AT_DIGEST);
    for (unsigned i = 0; i < GUEST_INDEX_WORDS; i++)
        ret_frame->mask[i] = bytes_get_u64(bytes + AT_MASK + (size_t)i * 8);
}

/* What ties it to the one file that it is in. */
static void check_begin(XXH3_state_t *check, const uint8_t *head)
{
    (void)XXH3_64bits_reset(check);
    (void)XXH3_64bits_update(check, head, GUEST_LABEL_BYTES);
    (void)XXH3_64bits_update(check, head + GUEST_SEAL_SHAPE_AT, GUEST_SEAL_SHAPE_BYTES);
}

static void check_freep(XXH3_state_t **check)
{
    (void)XXH3_freeState(*check);
}

/* ---- writing ---- */
int guest_index_add(struct guest_index *index, const struct guest_index_frame *frame,
                    struct fault *fault)
{
    if (index->count == index->room) {
        uint64_t room = index->room + index->room / 2 + FRAMES_AT_ONCE;
        struct guest_index_frame *frames = reallocarray(index->frames, room, sizeof *frames);
        if (!frames)
            return fault_set(fault, ERR_NOMEM, "no memory for the index of a guest's file");
        index->frames = frames;
        index->room = room;
    }
    index->frames[index->count++] = *frame;
    return 0;
}

static int put(XXH3_state_t *check, struct stream *stream, const uint8_t *bytes, size_t count,
               struct fault *fault)
{
    (void)XXH3_64bits_update(check, bytes, count);
    return stream_write(stream, bytes, count, fault);
}

int guest_index_write(const struct guest_index *index, const uint8_t *head, struct stream *stream,
                      struct fault *fault)
{
    AUTO(check_freep) XXH3_state_t *check = XXH3_createState();
    uint8_t bytes[GUEST_INDEX_FRAME_BYTES], end[GUEST_INDEX_END_BYTES] = {0};
    uint64_t at = file_stream_offset(stream);

    if (!check)
        return fault_set(fault, ERR_NOMEM, "no memory for the index of a guest's file");
    check_begin(check, head);
    bytes_put_u64(bytes, GUEST_INDEX_MAGIC);
    bytes_put_u64(bytes + 8, index->count);
    int r = put(check, stream, bytes, GUEST_INDEX_HEAD_BYTES, fault);
    for (uint64_t i = 0; r == 0 && i < index->count; i++) {
        frame_encode(&index->frames[i], bytes);
        r = put(check, stream, bytes, sizeof bytes, fault);
    }
    if (r < 0)
        return r;
    bytes_put_u64(end, at);
    bytes_put_u64(end + END_AT_MACHINE, index->machine_at);
    bytes_put_u64(end + END_AT_MACHINE_BYTES, index->machine_bytes);
    bytes_put_u64(end + END_AT_MACHINE_DIGEST, index->machine_digest);
    bytes_put_u64(end + END_AT_SUM, index->sum);
    (void)XXH3_64bits_update(check, end, END_AT_CHECK);
    bytes_put_u64(end + END_AT_CHECK, XXH3_64bits_digest(check));
    bytes_put_u64(end + END_AT_MAGIC, GUEST_INDEX_END_MAGIC);
    return stream_write(stream, end, sizeof end, fault);
}

/* ---- reading ---- */
static int damaged(struct fault *fault, const char *what)
{
    return fault_set(fault, ERR_CORRUPT, "the index of the guest's file is damaged: %s", what);
}

/* No page is in two frames, so there are at most as many as pages. */
static uint64_t frames_max(const struct guest *guest)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < guest->region_count; i++)
        pages += guest->regions[i].pages;
    return pages;
}

int guest_index_skip(const struct guest *guest, struct stream *stream, struct fault *fault)
{
    uint8_t bytes[GUEST_INDEX_FRAME_BYTES];

    int r = stream_read(stream, bytes, 8, fault);
    if (r < 0)
        return r;
    uint64_t count = bytes_get_u64(bytes);
    if (count > frames_max(guest))
        return damaged(fault, "it has more frames than the guest has pages");
    for (uint64_t i = 0; r == 0 && i < count; i++)
        r = stream_read(stream, bytes, sizeof bytes, fault);
    return r < 0 ? r : stream_read(stream, bytes, GUEST_INDEX_END_BYTES, fault);
}

static int read_at(int fd, uint64_t at, uint8_t *ret_bytes, size_t count, struct fault *fault)
{
    while (count > 0) {
        ssize_t got = pread(fd, ret_bytes, count, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fault_set_errno(fault, ERR_IO, errno, "reading the guest's file");
        if (got == 0)
            return fault_set(fault, ERR_CORRUPT, "the guest's file ends at %llu bytes, too early",
                             (unsigned long long)at);
        ret_bytes += got;
        at += (uint64_t)got;
        count -= (size_t)got;
    }
    return 0;
}

static int judge_frame(const struct guest_index_frame *frame, const struct guest *guest,
                       struct fault *fault)
{
    const struct region *region = NULL;
    unsigned pages = 0, last = 0;

    for (unsigned i = 0; !region && i < guest->region_count; i++)
        region = guest->regions[i].id == frame->region ? &guest->regions[i] : NULL;
    if (!region)
        return damaged(fault, "a frame of a region that the guest has not");
    for (unsigned i = 0; i < GUEST_INDEX_WORDS; i++) {
        pages += (unsigned)__builtin_popcountll(frame->mask[i]);
        if (frame->mask[i])
            last = i * 64 + 63 - (unsigned)__builtin_clzll(frame->mask[i]);
    }
    if (pages < 1 || pages > PAGE_FRAME_PAGES_MAX)
        return damaged(fault, "a frame of no pages, or of more than one holds");
    if (frame->first_page % BLOCK_PAGES || frame->first_page >= region->pages ||
        last >= region->pages - frame->first_page)
        return damaged(fault, "a frame leaves its region");
    if (frame->bytes < FRAME_BYTES_MIN || frame->bytes > FRAME_BYTES_MAX)
        return damaged(fault, "a frame of a size that none has");
    return 0;
}

static int judge_frames(const struct guest_index *index, const struct guest *guest,
                        struct fault *fault)
{
    uint64_t at = GUEST_SEAL_HEAD_BYTES;

    for (uint64_t i = 0; i < index->count; i++) {
        const struct guest_index_frame *frame = &index->frames[i];
        int r = judge_frame(frame, guest, fault);
        if (r < 0)
            return r;
        if (frame->offset != at)
            return damaged(fault, "its frames do not stand one behind the other");
        at += frame->bytes; /* less than 300 KiB each: no sum of these wraps */
    }
    return at + BEHIND_FRAMES_BYTES == index->machine_at
               ? 0
               : damaged(fault, "the machine does not stand behind the frames");
}

static int read_frames(struct guest_index *index, int fd, uint64_t at, XXH3_state_t *check,
                       struct fault *fault)
{
    AUTO_FREE uint8_t *bytes = malloc((size_t)CHUNK_FRAMES * GUEST_INDEX_FRAME_BYTES);

    index->frames = calloc(index->room ? index->room : 1, sizeof *index->frames);
    if (!bytes || !index->frames)
        return fault_set(fault, ERR_NOMEM, "no memory for the index of a guest's file");
    while (index->count < index->room) {
        uint64_t left = index->room - index->count;
        size_t here = left < CHUNK_FRAMES ? (size_t)left : CHUNK_FRAMES;
        int r = read_at(fd, at, bytes, here * GUEST_INDEX_FRAME_BYTES, fault);
        if (r < 0)
            return r;
        (void)XXH3_64bits_update(check, bytes, here * GUEST_INDEX_FRAME_BYTES);
        for (size_t i = 0; i < here; i++)
            frame_decode(bytes + i * GUEST_INDEX_FRAME_BYTES, &index->frames[index->count++]);
        at += here * GUEST_INDEX_FRAME_BYTES;
    }
    return 0;
}

/* The file's last bytes say where it begins: exactly so many frames fit before them. */
static int read_index(struct guest_index *index, int fd, uint64_t end_at, const uint8_t *end,
                      const uint8_t *head, const struct guest *guest, struct fault *fault)
{
    AUTO(check_freep) XXH3_state_t *check = XXH3_createState();
    uint8_t begin[GUEST_INDEX_HEAD_BYTES];
    uint64_t at = bytes_get_u64(end);

    if (!check)
        return fault_set(fault, ERR_NOMEM, "no memory for the index of a guest's file");
    if (at < GUEST_SEAL_HEAD_BYTES || at > end_at || end_at - at < GUEST_INDEX_HEAD_BYTES)
        return damaged(fault, "it begins nowhere in the file");
    int r = read_at(fd, at, begin, sizeof begin, fault);
    if (r < 0)
        return r;
    uint64_t count = bytes_get_u64(begin + 8);
    if (bytes_get_u64(begin) != GUEST_INDEX_MAGIC || count > frames_max(guest) ||
        count * GUEST_INDEX_FRAME_BYTES != end_at - at - GUEST_INDEX_HEAD_BYTES)
        return damaged(fault, "its frames do not fill it");
    index->room = count;
    check_begin(check, head);
    (void)XXH3_64bits_update(check, begin, sizeof begin);
    r = read_frames(index, fd, at + GUEST_INDEX_HEAD_BYTES, check, fault);
    if (r < 0)
        return r;
    (void)XXH3_64bits_update(check, end, END_AT_CHECK);
    if (bytes_get_u64(end + END_AT_CHECK) != XXH3_64bits_digest(check) ||
        bytes_get_u64(end + END_AT_ZERO) != 0)
        return damaged(fault, "its digest is not that of its bytes");
    index->machine_at = bytes_get_u64(end + END_AT_MACHINE);
    index->machine_bytes = bytes_get_u64(end + END_AT_MACHINE_BYTES);
    index->machine_digest = bytes_get_u64(end + END_AT_MACHINE_DIGEST);
    index->sum = bytes_get_u64(end + END_AT_SUM);
    if (index->machine_bytes == 0 || index->machine_bytes > MACHINE_STATE_MAX ||
        index->machine_at > at || at - index->machine_at != index->machine_bytes)
        return damaged(fault, "the machine's state does not stand before it");
    return judge_frames(index, guest, fault);
}

int guest_index_read(struct guest_index *ret_index, int fd, const uint8_t *head,
                     const struct guest *guest, struct fault *fault)
{
    enum { LAST_BYTES = GUEST_INDEX_END_BYTES + GUEST_SEAL_TAIL_BYTES };
    struct guest_index index = {0};
    uint8_t last[LAST_BYTES];
    struct stat status;

    if (fstat(fd, &status) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "looking at the guest's file");
    if (status.st_size < GUEST_SEAL_HEAD_BYTES + LAST_BYTES)
        return fault_set(fault, ERR_CORRUPT, "the guest's file has no tail");
    uint64_t end_at = (uint64_t)status.st_size - LAST_BYTES;
    int r = read_at(fd, end_at, last, sizeof last, fault);
    if (r < 0)
        return r;
    if (bytes_get_u64(last + GUEST_INDEX_END_BYTES) != GUEST_SEAL_MAGIC)
        return fault_set(fault, ERR_CORRUPT, "the guest's file has no tail");
    if (bytes_get_u64(last + END_AT_MAGIC) != GUEST_INDEX_END_MAGIC)
        return GUEST_INDEX_E_NONE;
    r = read_index(&index, fd, end_at, last, head, guest, fault);
    if (r < 0)
        guest_index_deinit(&index);
    else
        *ret_index = index;
    return r;
}
