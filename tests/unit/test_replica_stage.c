/* A first image goes straight to the disks: what could not be written there is not taken for
 * written. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migrate/page_codec.h"
#include "migrate/replica.h"
#include "migrate/replica_journal.h"
#include "migrate/replica_stage.h"
#include "net/stream.h"
#include "tests/support/pipe_stream.h"

enum { PAGES = 64, DISK_ID = 9, PAGE = 3 };

struct medium {
    uint8_t disk[PAGES * PAGE_BYTES] __attribute__((aligned(64)));
    uint8_t journal[64 << 10];
    bool fails;
};

static uint8_t *place_of(struct medium *medium, unsigned file, size_t count, uint64_t offset)
{
    size_t size = file ? sizeof medium->disk : sizeof medium->journal;
    assert_true(range_fits(offset, count, size));
    return (file ? medium->disk : medium->journal) + offset;
}

static int medium_read(void *owner, unsigned file, void *ret_bytes, size_t count, uint64_t offset)
{
    memcpy(ret_bytes, place_of(owner, file, count, offset), count);
    return 0;
}

static int medium_write(void *owner, unsigned file, const void *bytes, size_t count,
                        uint64_t offset)
{
    struct medium *medium = owner;
    if (file && medium->fails)
        return EIO;
    memcpy(place_of(medium, file, count, offset), bytes, count);
    return 0;
}

static int medium_sync(void *owner, unsigned file)
{
    (void)owner;
    (void)file;
    return 0;
}

static const struct replica_journal_io medium_io = {
    .read = medium_read, .write = medium_write, .sync = medium_sync};

/* One page, which is zero, as a source sends it. */
static int send_zero(struct replica_stage *stage, struct fault *fault)
{
    struct page_codec codec = {0};
    const struct pipe_stream_config config = {0};
    struct stream *near = NULL, *far = NULL;
    const uint8_t *bytes = NULL;

    assert_int_equal(page_codec_init(&codec, PAGE_TUNER_AUTO, false, fault), 0);
    pipe_stream_new(&near, &far, &config);
    page_codec_begin(&codec, DISK_ID, 0, 1);
    page_codec_add_zero(&codec, PAGE);
    size_t count = page_codec_encode(&codec, NULL, &bytes);
    assert_int_equal(stream_write(near, bytes, count, fault), 0);
    assert_int_equal(stream_flush(near, fault), 0);
    int r = replica_stage_frame(stage, (uint32_t)count, far, fault);
    (void)stream_free(near);
    (void)stream_free(far);
    page_codec_deinit(&codec);
    return r;
}

static void a_write_that_failed_in_a_first_image_is_made_up_for_by_the_next(void **state)
{
    (void)state;
    struct medium *medium = aligned_alloc(64, sizeof *medium);
    const uint64_t bytes = PAGES * PAGE_BYTES;
    const struct replica_disk disk = {.region_id = DISK_ID, .bytes = bytes, .fd = -1};
    const struct replica_id first = {1, 2, 3}, second = {1, 2, 4};
    const struct replica_commit nothing = {.is_whole = true}; /* every page is zero */
    struct replica_journal_held held = {0};
    struct replica_journal *journal = NULL;
    struct replica_stage *stage = NULL;
    struct fault fault = {0};
    assert_non_null(medium);
    memset(medium, 0, sizeof *medium);
    memset(medium->disk + PAGE * PAGE_BYTES, 0xAA, PAGE_BYTES); /* of before */
    assert_int_equal(replica_journal_new(&journal, &medium_io, medium, &bytes, 1, &fault), 0);
    const struct replica_stage_config config = {
        .disks = &disk, .disk_count = 1, .journal = journal};
    assert_int_equal(replica_stage_new(&stage, &config, &fault), 0);
    replica_stage_known(stage, 0, PAGE, medium->disk + PAGE * PAGE_BYTES);

    assert_int_equal(replica_stage_begin(stage, &first, false, &fault), 0);
    medium->fails = true;
    assert_int_equal(send_zero(stage, &fault), ERR_IO);
    medium->fails = false;
    assert_int_equal(replica_stage_begin(stage, &second, false, &fault), 0);
    assert_int_equal(replica_stage_judge(stage, &nothing, &held, &fault), 0);

    static const uint8_t zero[PAGE_BYTES];
    assert_memory_equal(medium->disk + PAGE * PAGE_BYTES, zero, PAGE_BYTES);
    (void)replica_stage_free(stage);
    (void)replica_journal_free(journal);
    free(medium);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_write_that_failed_in_a_first_image_is_made_up_for_by_the_next),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
