/* The index of a guest's file: what was put in comes out, and nothing that a hostile disk makes of it is believed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "migrate/file_stream.h"
#include "migrate/guest.h"
#include "migrate/guest_index.h"
#include "net/stream.h"
#include "proto/page_frame.h"
#include "storage/guest_seal.h"

enum { HEAD = 4096, PAGES = 1300, MACHINE = 100, FRAMES = 3, FRAME = 1000, BEHIND = 40 };

static uint8_t head[HEAD];

static struct region regions[2] = {{.name = "ram", .id = 0, .pages = PAGES},
                                   {.name = "files", .id = 1, .pages = 700}};
static const struct guest guest = {.regions = regions, .region_count = 2};

static struct guest_index_frame frame_of(unsigned number)
{
    static const uint32_t region[FRAMES] = {0, 0, 1};
    static const uint64_t block[FRAMES] = {0, 1024, 512};
    struct guest_index_frame frame = {.offset = HEAD + (uint64_t)number * FRAME,
                                      .bytes = FRAME,
                                      .region = region[number],
                                      .first_page = block[number],
                                      .digest = 77 + number};
    frame.mask[0] = 0xf0 + number;
    frame.mask[2] = 1;
    return frame;
}

/* A whole file as far as an index's reader looks; `change` is given the index before it is written. */
static int file_with(void (*change)(struct guest_index *index))
{
    static const uint8_t filler[FRAMES * FRAME + BEHIND + MACHINE];
    uint8_t tail[GUEST_SEAL_TAIL_BYTES] = {0};
    struct guest_index index = {.machine_at = HEAD + FRAMES * FRAME + BEHIND,
                                .machine_bytes = MACHINE,
                                .machine_digest = 5,
                                .sum = 6};
    struct stream *stream = NULL;
    struct fault fault = {0};
    int fd = memfd_create("index", MFD_CLOEXEC);

    assert_true(fd >= 0);
    for (unsigned i = 0; i < HEAD; i++)
        head[i] = (uint8_t)(i * 7);
    assert_int_equal(pwrite(fd, head, HEAD, 0), HEAD);
    assert_int_equal(file_stream_new(&stream, fd, HEAD, &fault), 0);
    assert_int_equal(stream_write(stream, filler, sizeof filler, &fault), 0);
    for (unsigned i = 0; i < FRAMES; i++) {
        struct guest_index_frame frame = frame_of(i);
        assert_int_equal(guest_index_add(&index, &frame, &fault), 0);
    }
    if (change)
        change(&index);
    assert_int_equal(guest_index_write(&index, head, stream, &fault), 0);
    bytes_put_u64(tail, GUEST_SEAL_MAGIC);
    assert_int_equal(stream_write(stream, tail, sizeof tail, &fault), 0);
    assert_int_equal(stream_flush(stream, &fault), 0);
    stream = stream_free(stream);
    guest_index_deinit(&index);
    return fd;
}

static int read_from(int fd, struct fault *fault)
{
    struct guest_index index = {0};

    *fault = (struct fault){0};
    int r = guest_index_read(&index, fd, head, &guest, fault);
    if (r == 0)
        assert_true(index.frames != NULL);
    guest_index_deinit(&index);
    return r;
}

static void what_was_put_in_comes_out(void **state)
{
    (void)state;
    int fd = file_with(NULL);
    struct guest_index index = {0};
    struct fault fault = {0};

    assert_int_equal(guest_index_read(&index, fd, head, &guest, &fault), 0);

    assert_int_equal(index.count, FRAMES);
    assert_true(index.machine_at == HEAD + FRAMES * FRAME + BEHIND && index.machine_bytes == MACHINE &&
                index.machine_digest == 5 && index.sum == 6);
    for (unsigned i = 0; i < FRAMES; i++) {
        struct guest_index_frame frame = frame_of(i);
        assert_memory_equal(&index.frames[i], &frame, sizeof frame);
    }
    guest_index_deinit(&index);
    (void)close(fd);
}

static void a_file_from_before_has_none(void **state)
{
    (void)state;
    uint8_t bytes[HEAD + 200] = {0};
    struct fault fault;
    int fd = memfd_create("index", MFD_CLOEXEC);
    bytes_put_u64(bytes + sizeof bytes - GUEST_SEAL_TAIL_BYTES, GUEST_SEAL_MAGIC);
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, 0), sizeof bytes);

    assert_int_equal(read_from(fd, &fault), GUEST_INDEX_E_NONE);

    (void)close(fd);
}

static void every_flipped_bit_and_every_cut_is_found(void **state)
{
    (void)state;
    int fd = file_with(NULL);
    const uint64_t from = HEAD + FRAMES * FRAME + BEHIND + MACHINE;
    const uint64_t size = (uint64_t)lseek(fd, 0, SEEK_END);
    struct fault fault;

    for (uint64_t at = from; at < size - GUEST_SEAL_TAIL_BYTES + 8; at++) {
        uint8_t byte, flipped;
        assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
        flipped = byte ^ (uint8_t)(1u << (at % 8));
        assert_int_equal(pwrite(fd, &flipped, 1, (off_t)at), 1);
        int r = read_from(fd, &fault);
        /* Its last mark gone it is a file without one, which is read as a whole and found damaged. */
        bool is_mark = at >= size - GUEST_SEAL_TAIL_BYTES - 8 && at < size - GUEST_SEAL_TAIL_BYTES;
        if (r != (is_mark ? GUEST_INDEX_E_NONE : ERR_CORRUPT))
            fail_msg("a flipped bit at %llu of %llu: %d", (unsigned long long)at,
                     (unsigned long long)size, r);
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    }
    assert_int_equal(read_from(fd, &fault), 0);
    for (uint64_t cut = 1; cut < size; cut += 13) {
        assert_int_equal(ftruncate(fd, (off_t)(size - cut)), 0);
        assert_true(read_from(fd, &fault) != 0);
    }
    (void)close(fd);
}

static void another_files_index_is_refused(void **state)
{
    (void)state;
    int fd = file_with(NULL);
    struct fault fault;
    head[40] ^= 1; /* of its label */

    assert_int_equal(read_from(fd, &fault), ERR_CORRUPT);

    assert_non_null(strstr(fault.text, "digest"));
    (void)close(fd);
}

/* What an attacker makes who knows how to make the digest. */
static void unknown_region(struct guest_index *index)
{
    index->frames[1].region = 9;
}

static void leaves_its_region(struct guest_index *index)
{
    index->frames[1].mask[7] = UINT64_C(1) << 63; /* page 1024 + 511 of 1300 */
}

static void begins_behind_its_region(struct guest_index *index)
{
    index->frames[1].first_page = 1536;
}

static void begins_far_away(struct guest_index *index)
{
    index->frames[1].first_page = UINT64_MAX - 511;
}

static void begins_inside_a_block(struct guest_index *index)
{
    index->frames[1].first_page = 3;
}

static void is_empty(struct guest_index *index)
{
    memset(index->frames[1].mask, 0, sizeof index->frames[1].mask);
}

static void holds_too_much(struct guest_index *index)
{
    index->frames[0].mask[0] = UINT64_MAX;
}

static void is_too_large(struct guest_index *index)
{
    index->frames[2].bytes = UINT32_MAX;
}

static void is_too_small(struct guest_index *index)
{
    index->frames[2].bytes = 3;
}

static void has_a_gap(struct guest_index *index)
{
    index->frames[1].offset++;
}

static void lies_before_the_head(struct guest_index *index)
{
    index->frames[0].offset = 0;
}

static void is_one_less(struct guest_index *index)
{
    index->count--;
}

static void machine_elsewhere(struct guest_index *index)
{
    index->machine_at = UINT64_MAX - 20;
}

static void machine_is_empty(struct guest_index *index)
{
    index->machine_bytes = 0;
}

static void machine_is_huge(struct guest_index *index)
{
    index->machine_bytes = UINT64_MAX;
}

static void a_hostile_index_is_refused(void **state)
{
    (void)state;
    void (*const changes[])(struct guest_index *index) = {
        unknown_region, leaves_its_region, begins_behind_its_region, begins_far_away,
        begins_inside_a_block, is_empty, holds_too_much, is_too_large, is_too_small, has_a_gap,
        lies_before_the_head, is_one_less, machine_elsewhere, machine_is_empty, machine_is_huge};
    struct fault fault;

    for (size_t i = 0; i < ARRAY_COUNT(changes); i++) {
        int fd = file_with(changes[i]);
        if (read_from(fd, &fault) != ERR_CORRUPT)
            fail_msg("change %zu was believed", i);
        assert_non_null(strstr(fault.text, "the index of the guest's file is damaged"));
        (void)close(fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_put_in_comes_out),
        cmocka_unit_test(a_file_from_before_has_none),
        cmocka_unit_test(every_flipped_bit_and_every_cut_is_found),
        cmocka_unit_test(another_files_index_is_refused),
        cmocka_unit_test(a_hostile_index_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
