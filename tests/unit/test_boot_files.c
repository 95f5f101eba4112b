#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/vm/boot_files.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "migrate/region.h"
#include "proto/limits.h"

enum { KERNEL_BYTES = 3 * PAGE_BYTES + 5, INITRD_BYTES = 2 * PAGE_BYTES };

static int file_of(size_t count, uint8_t seed)
{
    int fd = memfd_create("file", MFD_CLOEXEC);
    assert_true(fd >= 0);
    for (size_t i = 0; i < count; i++) {
        uint8_t byte = (uint8_t)(seed + i * 13 + i / 251);
        assert_int_equal(write(fd, &byte, 1), 1);
    }
    return fd;
}

static void expect_file(int fd, size_t count, uint8_t seed)
{
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    assert_int_equal(status.st_size, count);
    for (size_t i = 0; i < count; i++) {
        uint8_t byte = 0;
        assert_int_equal(pread(fd, &byte, 1, (off_t)i), 1);
        assert_int_equal(byte, (uint8_t)(seed + i * 13 + i / 251));
    }
}

static struct boot_files *files_of(int kernel_fd, int initrd_fd)
{
    struct boot_files *files = NULL;
    assert_int_equal(boot_files_new(&files, kernel_fd, initrd_fd, NULL), 0);
    return files;
}

/* What a move does: pages that exist, told, populated, collected, cleared, copied. */
static void move(struct boot_files *from, struct boot_files *to)
{
    struct region source, target;
    struct bitmap populated, dirty;
    boot_files_region(from, 1, &source);
    boot_files_region(to, 1, &target);
    assert_int_equal(source.pages, target.pages);
    assert_int_equal(bitmap_init(&populated, source.pages), 0);
    assert_int_equal(bitmap_init(&dirty, source.pages), 0);

    assert_int_equal(source.ops->populated(&source, &populated, NULL), 0);
    assert_int_equal(source.ops->track_start(&source, NULL), 0);
    assert_int_equal(source.ops->collect(&source, &dirty, NULL), 0);
    for (uint64_t page = 0; page < source.pages; page++) {
        assert_true(bitmap_test(&dirty, page));
        if (!bitmap_test(&populated, page))
            continue;
        uint64_t mask[8] = {0};
        mask[page % 512 / 64] = UINT64_C(1) << page % 64;
        assert_int_equal(source.ops->clear(&source, page / 512 * 512, mask, NULL), 0);
        assert_int_equal(target.ops->populate(&target, page, 1, NULL), 0);
        memcpy(target.base + page * PAGE_BYTES, source.base + page * PAGE_BYTES, PAGE_BYTES);
    }
    bitmap_clear_all(&dirty);
    assert_int_equal(source.ops->collect(&source, &dirty, NULL), 0);
    for (uint64_t page = 0; page < source.pages; page++)
        assert_int_equal(bitmap_test(&dirty, page), !bitmap_test(&populated, page));
    assert_int_equal(source.ops->clear_many(&source, &dirty, NULL), 0);
    bitmap_clear_all(&dirty);
    assert_int_equal(source.ops->collect(&source, &dirty, NULL), 0);
    assert_int_equal(bitmap_count(&dirty), 0);
    source.ops->track_stop(&source, false);
    bitmap_deinit(&populated);
    bitmap_deinit(&dirty);
}

static void lends_the_files_it_was_given(void **state)
{
    (void)state;
    struct boot_files *files = files_of(file_of(KERNEL_BYTES, 1), -1);
    int kernel_fd = -1, initrd_fd = 7;

    assert_int_equal(boot_files_get(files, &kernel_fd, &initrd_fd, NULL), 0);

    expect_file(kernel_fd, KERNEL_BYTES, 1);
    assert_int_equal(initrd_fd, -1);
    (void)boot_files_free(files);
}

static void files_travel_from_host_to_host_to_host(void **state)
{
    (void)state;
    struct boot_files *first = files_of(file_of(KERNEL_BYTES, 1), file_of(INITRD_BYTES, 2));
    struct boot_files *second = files_of(-1, -1);
    struct boot_files *third = files_of(-1, -1);
    struct boot_files *fourth = files_of(-1, -1);
    int kernel_fd = -1, initrd_fd = -1;

    move(first, second);
    move(second, third);
    assert_int_equal(boot_files_get(third, &kernel_fd, &initrd_fd, NULL), 0);
    expect_file(kernel_fd, KERNEL_BYTES, 1);
    expect_file(initrd_fd, INITRD_BYTES, 2);
    move(third, fourth); /* after it was booted from */
    assert_int_equal(boot_files_get(fourth, &kernel_fd, &initrd_fd, NULL), 0);

    expect_file(kernel_fd, KERNEL_BYTES, 1);
    expect_file(initrd_fd, INITRD_BYTES, 2);
    (void)boot_files_free(first);
    (void)boot_files_free(second);
    (void)boot_files_free(third);
    (void)boot_files_free(fourth);
}

static void a_move_after_a_failed_one_brings_them_too(void **state)
{
    (void)state;
    struct boot_files *first = files_of(file_of(KERNEL_BYTES, 1), -1);
    struct boot_files *gone = files_of(-1, -1);
    struct boot_files *second = files_of(-1, -1);
    int kernel_fd = -1, initrd_fd = -1;

    move(first, gone);
    (void)boot_files_free(gone);
    move(first, second);

    assert_int_equal(boot_files_get(second, &kernel_fd, &initrd_fd, NULL), 0);
    expect_file(kernel_fd, KERNEL_BYTES, 1);
    assert_int_equal(initrd_fd, -1);
    (void)boot_files_free(first);
    (void)boot_files_free(second);
}

static void files_too_large_to_travel_leave_the_target_without(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    int kernel_fd = memfd_create("kernel", MFD_CLOEXEC), initrd_fd = -1;
    assert_int_equal(ftruncate(kernel_fd, BOOT_FILES_BYTES_MAX), 0);
    struct boot_files *first = files_of(kernel_fd, -1);
    struct boot_files *second = files_of(-1, -1);
    struct fault fault = {0};

    move(first, second);

    assert_int_equal(boot_files_get(second, &kernel_fd, &initrd_fd, &fault), ERR_NOT_FOUND);
    (void)boot_files_free(first);
    (void)boot_files_free(second);
}

static void refuses_damaged_files(void **state)
{
    (void)state;
    static const struct {
        uint64_t kernel, initrd;
        uint32_t magic, version;
    } rows[] = {
        {100, 0, 0x46425747, 2},
        {100, 0, 0x46425746, 1},
        {0, 100, 0x46425747, 1},
        {UINT64_MAX, 0, 0x46425747, 1},
        {100, UINT64_MAX, 0x46425747, 1},
        {BOOT_FILES_BYTES_MAX, 0, 0x46425747, 1},
        {BOOT_FILES_BYTES_MAX - PAGE_BYTES, 1, 0x46425747, 1},
        {PAGE_BYTES + 1, BOOT_FILES_BYTES_MAX - 3 * PAGE_BYTES + 1, 0x46425747, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct boot_files *files = files_of(-1, -1);
        struct region region;
        struct fault fault = {0};
        int kernel_fd = -1, initrd_fd = -1;
        boot_files_region(files, 1, &region);
        assert_int_equal(region.ops->populate(&region, 0, 1, NULL), 0);
        bytes_put_u32(region.base, rows[i].magic);
        bytes_put_u32(region.base + 4, rows[i].version);
        bytes_put_u64(region.base + 8, rows[i].kernel);
        bytes_put_u64(region.base + 16, rows[i].initrd);

        assert_int_equal(boot_files_get(files, &kernel_fd, &initrd_fd, &fault), ERR_CORRUPT);

        (void)boot_files_free(files);
    }
}

static void a_guest_that_came_without_has_none(void **state)
{
    (void)state;
    struct boot_files *files = files_of(-1, -1);
    struct fault fault = {0};
    int kernel_fd = -1, initrd_fd = -1;

    assert_int_equal(boot_files_get(files, &kernel_fd, &initrd_fd, &fault), ERR_NOT_FOUND);

    (void)boot_files_free(files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lends_the_files_it_was_given),
        cmocka_unit_test(files_travel_from_host_to_host_to_host),
        cmocka_unit_test(a_move_after_a_failed_one_brings_them_too),
        cmocka_unit_test(files_too_large_to_travel_leave_the_target_without),
        cmocka_unit_test(refuses_damaged_files),
        cmocka_unit_test(a_guest_that_came_without_has_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
