/* The dirty tracker against a guest that writes exactly the pages it is told to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "test_vm_support.h"
#include "vmm-core/dirty_tracker.h"
#include "vmm-core/guest_memory.h"

/* Waits for a byte n, writes to page 512 + n, answers with a dot. No stack, no other writes. */
__asm__(".pushsection .rodata\n.code32\n"
        "code_writer:\n"
        "1: mov $0x3fd, %dx; in %dx, %al; test $1, %al; jz 1b\n"
        "mov $0x3f8, %dx; in %dx, %al; movzbl %al, %eax; shl $12, %eax\n"
        "incl 0x200000(%eax)\n"
        "mov $'.', %al; out %al, %dx; jmp 1b\n"
        "code_writer_end:\n.code64\n.popsection\n");
extern const uint8_t code_writer[], code_writer_end[];

enum { FIRST_PAGE = 512 };

static struct test_vm *test;
static struct dirty_tracker *tracker;
static struct bitmap dirty;

static int set_up(void **state)
{
    (void)state;
    struct fault fault = {0};
    test = test_vm_boot_code(1, 16, code_writer, (size_t)(code_writer_end - code_writer));
    if (dirty_tracker_new(&tracker, test->vm, &fault) < 0)
        fail_msg("%s", fault.text);
    return bitmap_init(&dirty, guest_memory_pages(vm_memory(test->vm)));
}

static int tear_down(void **state)
{
    (void)state;
    tracker = dirty_tracker_free(tracker);
    bitmap_deinit(&dirty);
    test = test_vm_free(test);
    return 0;
}

static void write_page(uint8_t number)
{
    assert_int_equal(vm_serial_input(test->vm, &number, 1), 1);
    test_vm_expect_text(test, ".");
}

static void collect(void)
{
    struct fault fault = {0};
    bitmap_clear_all(&dirty);
    if (dirty_tracker_collect(tracker, &dirty, &fault) < 0)
        fail_msg("%s", fault.text);
}

static void clear_collected(void)
{
    struct fault fault = {0};
    for (uint64_t page = 0; page < dirty.bits; page += DIRTY_TRACKER_BLOCK_PAGES) {
        if (dirty_tracker_clear(tracker, page, &dirty.words[page / 64], &fault) < 0)
            fail_msg("%s", fault.text);
    }
}

static void the_first_collect_reports_everything(void **state)
{
    (void)state;
    collect();
    assert_int_equal(bitmap_count(&dirty), dirty.bits);
    collect(); /* collecting does not clear */
    assert_int_equal(bitmap_count(&dirty), dirty.bits);
}

static void a_cleared_page_shows_when_it_is_written_again(void **state)
{
    (void)state;
    write_page(3);
    collect();
    clear_collected();
    collect();
    assert_int_equal(bitmap_count(&dirty), 0);

    write_page(3);
    write_page(200);
    collect();

    assert_int_equal(bitmap_count(&dirty), 2);
    assert_true(bitmap_test(&dirty, FIRST_PAGE + 3));
    assert_true(bitmap_test(&dirty, FIRST_PAGE + 200));
}

static void a_clear_touches_only_the_pages_of_its_mask(void **state)
{
    (void)state;
    struct fault fault = {0};
    collect();
    clear_collected();
    write_page(1);
    write_page(2);
    uint64_t mask[8] = {1 << 1};
    assert_int_equal(dirty_tracker_clear(tracker, FIRST_PAGE, mask, &fault), 0);

    collect();
    assert_int_equal(bitmap_count(&dirty), 1);
    assert_true(bitmap_test(&dirty, FIRST_PAGE + 2));
    write_page(1);
    collect();
    assert_int_equal(bitmap_count(&dirty), 2);
}

static void what_the_vmm_writes_shows_once(void **state)
{
    (void)state;
    collect();
    clear_collected();

    guest_memory_mark_written(vm_memory(test->vm), MIB(8) + 5, 4096);
    collect();

    assert_int_equal(bitmap_count(&dirty), 2);
    assert_true(bitmap_test(&dirty, 2048) && bitmap_test(&dirty, 2049));
    collect();
    assert_int_equal(bitmap_count(&dirty), 0);
}

static void tracking_can_begin_again(void **state)
{
    (void)state;
    struct fault fault = {0};
    collect();
    clear_collected();
    tracker = dirty_tracker_free(tracker);
    write_page(9);

    assert_int_equal(dirty_tracker_new(&tracker, test->vm, &fault), 0);

    collect();
    assert_int_equal(bitmap_count(&dirty), dirty.bits);
    clear_collected();
    write_page(9);
    collect();
    assert_int_equal(bitmap_count(&dirty), 1);
}

/* 3 GiB and 16 MiB: the last blocks are behind the hole, in the second slot. */
static void both_sides_of_the_hole_are_tracked(void **state)
{
    (void)state;
    struct test_vm *large = test_vm_new(1, 3 * 1024 + 16);
    struct dirty_tracker *both = NULL;
    struct bitmap pages;
    struct fault fault = {0};
    assert_int_equal(bitmap_init(&pages, guest_memory_pages(vm_memory(large->vm))), 0);
    assert_int_equal(dirty_tracker_new(&both, large->vm, &fault), 0);
    assert_int_equal(dirty_tracker_collect(both, &pages, &fault), 0);
    assert_int_equal(bitmap_count(&pages), pages.bits);

    uint64_t first = GIB(3) >> PAGE_SHIFT;
    const uint64_t all[8] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX,
                             UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    assert_int_equal(dirty_tracker_clear(both, first, all, &fault), 0);
    assert_int_equal(dirty_tracker_clear(both, first - 512, all, &fault), 0);
    assert_int_equal(dirty_tracker_clear(both, pages.bits - 512, all, &fault), 0);
    bitmap_clear_all(&pages);
    assert_int_equal(dirty_tracker_collect(both, &pages, &fault), 0);

    assert_int_equal(bitmap_count(&pages), pages.bits - 3 * 512);
    assert_false(bitmap_test(&pages, first));
    assert_false(bitmap_test(&pages, first - 1));
    assert_false(bitmap_test(&pages, pages.bits - 1));
    both = dirty_tracker_free(both);
    bitmap_deinit(&pages);
    large = test_vm_free(large);
}

int main(void)
{
    (void)close(test_vm_kvm());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_first_collect_reports_everything, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_cleared_page_shows_when_it_is_written_again, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_clear_touches_only_the_pages_of_its_mask, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_the_vmm_writes_shows_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(tracking_can_begin_again, set_up, tear_down),
        cmocka_unit_test(both_sides_of_the_hole_are_tracked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
