#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "vmm-core/guest_memory.h"

static struct guest_memory *memory_of(uint64_t bytes)
{
    struct guest_memory *memory = NULL;
    struct fault fault = {0};
    if (guest_memory_new(&memory, bytes, false, &fault) < 0)
        fail_msg("%s", fault.text);
    return memory;
}

static void refuses_sizes_that_no_guest_has(void **state)
{
    (void)state;
    const uint64_t sizes[] = {0, MIB(15), MIB(16) + 4096, MIB(17), GIB(64) + MIB(2), UINT64_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct guest_memory *memory = NULL;
        struct fault fault = {0};

        int r = guest_memory_new(&memory, sizes[i], false, &fault);

        assert_int_equal(r, ERR_INVALID);
        assert_null(memory);
        assert_non_null(strstr(fault.text, "multiple of 2 MiB"));
    }
}

static void a_small_guest_has_one_part(void **state)
{
    (void)state;
    struct guest_memory *memory = memory_of(MIB(32));
    struct guest_memory_part parts[GUEST_MEMORY_PARTS_MAX];

    assert_int_equal(guest_memory_parts(memory, parts), 1);
    assert_int_equal(parts[0].guest_address, 0);
    assert_int_equal(parts[0].first_page, 0);
    assert_int_equal(parts[0].pages, 8192);
    assert_int_equal((uintptr_t)guest_memory_base(memory) % MIB(2), 0);
    memory = guest_memory_free(memory);
}

static void a_large_guest_lies_on_both_sides_of_the_hole(void **state)
{
    (void)state;
    struct guest_memory *memory = memory_of(GIB(5));
    struct guest_memory_part parts[GUEST_MEMORY_PARTS_MAX];
    uint8_t *base = guest_memory_base(memory);

    assert_int_equal(guest_memory_parts(memory, parts), 2);
    assert_int_equal(parts[0].pages, GIB(3) >> PAGE_SHIFT);
    assert_int_equal(parts[1].guest_address, GIB(4));
    assert_int_equal(parts[1].first_page, GIB(3) >> PAGE_SHIFT);
    assert_int_equal(parts[1].pages, GIB(2) >> PAGE_SHIFT);
    assert_ptr_equal(guest_memory_at(memory, GIB(4), 1), base + GIB(3));
    assert_ptr_equal(guest_memory_at(memory, GIB(6) - 1, 1), base + GIB(5) - 1);
    assert_null(guest_memory_at(memory, GIB(3), 1));
    assert_null(guest_memory_at(memory, GIB(4) - 1, 1));
    assert_null(guest_memory_at(memory, GIB(6), 1));
    memory = guest_memory_free(memory);
}

static void an_address_range_must_lie_in_one_part(void **state)
{
    (void)state;
    struct guest_memory *memory = memory_of(MIB(16));

    assert_non_null(guest_memory_at(memory, 0, MIB(16)));
    assert_non_null(guest_memory_at(memory, MIB(16) - 1, 1));
    assert_null(guest_memory_at(memory, 1, MIB(16)));
    assert_null(guest_memory_at(memory, MIB(16), 0));
    assert_null(guest_memory_at(memory, UINT64_MAX, 1));
    assert_null(guest_memory_at(memory, 1, UINT64_MAX));
    memory = guest_memory_free(memory);
}

static void marks_are_taken_once_and_cover_every_page_touched(void **state)
{
    (void)state;
    struct guest_memory *memory = memory_of(GIB(4));
    struct bitmap dirty;
    assert_int_equal(bitmap_init(&dirty, guest_memory_pages(memory)), 0);

    guest_memory_mark_written(memory, 4095, 2);
    guest_memory_mark_written(memory, GIB(4), 1);
    guest_memory_mark_written(memory, 0x5000, 0);
    guest_memory_take_written(memory, &dirty);

    assert_int_equal(bitmap_count(&dirty), 3);
    assert_true(bitmap_test(&dirty, 0));
    assert_true(bitmap_test(&dirty, 1));
    assert_true(bitmap_test(&dirty, GIB(3) >> PAGE_SHIFT));
    bitmap_clear_all(&dirty);
    guest_memory_take_written(memory, &dirty);
    assert_int_equal(bitmap_count(&dirty), 0);
    bitmap_deinit(&dirty);
    memory = guest_memory_free(memory);
}

/* A huge page that somebody holds cannot be split: its kernel clears the part and keeps it. */
static void pages_that_stay_behind_are_not_told_as_given_back(void **state)
{
    (void)state;
    struct guest_memory *memory = memory_of(MIB(32));
    uint8_t *base = guest_memory_base(memory);
    int pipe_fds[2];
    assert_int_equal(guest_memory_populate(memory, 0, MIB(2) / PAGE_BYTES, NULL), 0);
    assert_int_equal(pipe(pipe_fds), 0);
    const struct iovec held = {.iov_base = base + 5 * PAGE_BYTES, .iov_len = PAGE_BYTES};
    assert_int_equal(vmsplice(pipe_fds[1], &held, 1, 0), PAGE_BYTES);
    struct bitmap populated = {0};
    assert_int_equal(bitmap_init(&populated, MIB(32) / PAGE_BYTES), 0);

    uint64_t given_back = guest_memory_discard(memory, 100 * PAGE_BYTES, 3 * PAGE_BYTES);

    assert_int_equal(guest_memory_populated(memory, &populated, NULL), 0);
    assert_int_equal(given_back, bitmap_test(&populated, 101) ? 0 : 3);
    assert_true(base[101 * PAGE_BYTES] == 0);
    bitmap_deinit(&populated);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    memory = guest_memory_free(memory);
}

static void discarded_pages_are_gone_zero_and_marked(void **state)
{
    (void)state;
    struct guest_memory *memory = memory_of(GIB(4));
    struct bitmap pages;
    struct fault fault = {0};
    uint8_t *base = guest_memory_base(memory);
    assert_int_equal(bitmap_init(&pages, guest_memory_pages(memory)), 0);
    memset(base + MIB(32), 0x5a, 8 * PAGE_BYTES);
    memset(base + GIB(3), 0x5a, PAGE_BYTES);

    assert_int_equal(guest_memory_discard(memory, MIB(32) + 1, 3 * PAGE_BYTES), 2);
    assert_int_equal(guest_memory_discard(memory, GIB(4), PAGE_BYTES), 1);
    assert_int_equal(guest_memory_discard(memory, MIB(32) + 1, PAGE_BYTES), 0);
    assert_int_equal(guest_memory_discard(memory, MIB(32), 0), 0);
    assert_int_equal(guest_memory_discard(memory, GIB(3) - PAGE_BYTES, 2 * PAGE_BYTES), 0);
    assert_int_equal(guest_memory_discard(memory, UINT64_MAX - PAGE_BYTES, PAGE_BYTES), 0);

    guest_memory_take_written(memory, &pages);
    assert_int_equal(bitmap_count(&pages), 3);
    assert_int_equal(guest_memory_populated(memory, &pages, &fault), 0);
    assert_int_equal(bitmap_count(&pages), 6);
    assert_int_equal(base[MIB(32) + PAGE_BYTES - 1], 0x5a);
    assert_int_equal(base[MIB(32) + PAGE_BYTES], 0);
    assert_int_equal(base[MIB(32) + 3 * PAGE_BYTES], 0x5a);
    assert_int_equal(base[GIB(3)], 0);
    bitmap_deinit(&pages);
    memory = guest_memory_free(memory);
}

static void tells_exactly_which_pages_exist(void **state)
{
    (void)state;
    struct guest_memory *memory = memory_of(MIB(32));
    struct bitmap populated;
    struct fault fault = {0};
    assert_int_equal(bitmap_init(&populated, guest_memory_pages(memory)), 0);
    bitmap_set_all(&populated);

    assert_int_equal(guest_memory_populated(memory, &populated, &fault), 0);
    assert_int_equal(bitmap_count(&populated), 0);
    guest_memory_base(memory)[PAGE_BYTES * 7] = 1;
    guest_memory_base(memory)[MIB(32) - 1] = 1;
    assert_int_equal(guest_memory_populate(memory, 100, 3, &fault), 0);
    assert_int_equal(guest_memory_populated(memory, &populated, &fault), 0);

    assert_int_equal(bitmap_count(&populated), 5);
    assert_true(bitmap_test(&populated, 7));
    assert_true(bitmap_test(&populated, 100) && bitmap_test(&populated, 102));
    assert_true(bitmap_test(&populated, 8191));
    bitmap_deinit(&populated);
    memory = guest_memory_free(memory);
}

static void nobody_can_shrink_it(void **state)
{
    (void)state;
    struct guest_memory *memory = memory_of(MIB(16));

    assert_int_equal(ftruncate(guest_memory_fd(memory), 0), -1);
    assert_int_equal(ftruncate(guest_memory_fd(memory), (off_t)MIB(32)), -1);
    memory = guest_memory_free(memory);
}

static void huge_pages_fail_by_name_where_there_are_none(void **state)
{
    (void)state;
    struct guest_memory *memory = NULL;
    struct fault fault = {0};

    int r = guest_memory_new(&memory, GIB(64), true, &fault);

    assert_true(r < 0); /* no machine of ours sets 64 GiB of them aside */
    assert_non_null(strstr(fault.text, "huge page"));
    assert_null(guest_memory_free(NULL));
}

static void another_process_has_the_same_memory_and_populates_nothing(void **state)
{
    (void)state;
    struct guest_memory *memory = memory_of(MIB(32)), *next = NULL;
    struct fault fault = {0};
    struct bitmap before, after;
    assert_int_equal(bitmap_init(&before, guest_memory_pages(memory)), 0);
    assert_int_equal(bitmap_init(&after, guest_memory_pages(memory)), 0);
    memset(guest_memory_page(guest_memory_base(memory), 700), 0x5a, PAGE_BYTES);
    assert_int_equal(guest_memory_populated(memory, &before, &fault), 0);

    assert_int_equal(
        guest_memory_adopt(&next, guest_memory_fd(memory), MIB(32), false, &fault), 0);

    assert_true(guest_memory_id(next) == guest_memory_id(memory) && guest_memory_id(next) != 0);
    assert_int_equal(guest_memory_populate(next, 700, 1, &fault), 0);
    assert_int_equal(guest_memory_populated(next, &after, &fault), 0);
    assert_memory_equal(before.words, after.words, bitmap_words(&before) * sizeof *before.words);
    assert_int_equal(guest_memory_page(guest_memory_base(next), 700)[4095], 0x5a);
    guest_memory_page(guest_memory_base(next), 900)[0] = 7;
    memory = guest_memory_free(memory); /* the first one ends */
    assert_int_equal(guest_memory_page(guest_memory_base(next), 700)[0], 0x5a);
    assert_int_equal(guest_memory_page(guest_memory_base(next), 900)[0], 7);
    next = guest_memory_free(next);
    bitmap_deinit(&before);
    bitmap_deinit(&after);
}

static void memory_that_may_shrink_or_has_another_size_is_not_adopted(void **state)
{
    (void)state;
    struct guest_memory *memory = memory_of(MIB(32)), *next = NULL;
    struct fault fault = {0};

    assert_int_equal(guest_memory_adopt(&next, guest_memory_fd(memory), MIB(64), false, &fault),
                     ERR_INVALID);
    assert_non_null(strstr(fault.text, "32 MiB"));
    assert_int_equal(guest_memory_adopt(&next, guest_memory_fd(memory), MIB(32), true, &fault),
                     ERR_INVALID);
    int fd = memfd_create("unsealed", MFD_CLOEXEC);
    assert_true(fd >= 0 && ftruncate(fd, MIB(32)) == 0);
    assert_int_equal(guest_memory_adopt(&next, fd, MIB(32), false, &fault), ERR_INVALID);
    assert_non_null(strstr(fault.text, "seal"));
    (void)close(fd);
    fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(guest_memory_adopt(&next, fd, MIB(32), false, &fault), ERR_INVALID);
    (void)close(fd);
    assert_null(next);
    memory = guest_memory_free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_sizes_that_no_guest_has),
        cmocka_unit_test(a_small_guest_has_one_part),
        cmocka_unit_test(a_large_guest_lies_on_both_sides_of_the_hole),
        cmocka_unit_test(an_address_range_must_lie_in_one_part),
        cmocka_unit_test(marks_are_taken_once_and_cover_every_page_touched),
        cmocka_unit_test(discarded_pages_are_gone_zero_and_marked),
        cmocka_unit_test(pages_that_stay_behind_are_not_told_as_given_back),
        cmocka_unit_test(tells_exactly_which_pages_exist),
        cmocka_unit_test(nobody_can_shrink_it),
        cmocka_unit_test(huge_pages_fail_by_name_where_there_are_none),
        cmocka_unit_test(another_process_has_the_same_memory_and_populates_nothing),
        cmocka_unit_test(memory_that_may_shrink_or_has_another_size_is_not_adopted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
