#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "agent/vm/disk_region.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "migrate/region.h"

enum { PAGES = 600, ODD_BYTES = 512 };

struct scene {
    int fd; /* a second one on the same file */
    struct disk_region *disk;
    struct region region;
    struct fault fault;
};

static int set_up(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    char path[] = "/var/tmp/godwit-region-XXXXXX";
    assert_non_null(scene);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)unlink(path);
    assert_int_equal(ftruncate(fd, (off_t)PAGES * PAGE_BYTES + ODD_BYTES), 0);
    scene->fd = dup(fd);
    assert_int_equal(disk_region_new(&scene->disk, NULL, 0, "root", fd,
                                     (uint64_t)PAGES * PAGE_BYTES + ODD_BYTES, &scene->fault),
                     0);
    disk_region_fill(scene->disk, 2, &scene->region);
    *state = scene;
    return 0;
}

static int tear_down(void **state)
{
    struct scene *scene = *state;
    scene->disk = disk_region_free(scene->disk);
    (void)close(scene->fd);
    free(scene);
    return 0;
}

static void what_is_placed_is_in_the_file_once_it_is_settled(void **state)
{
    struct scene *scene = *state;
    char text[6] = "";
    assert_int_equal(scene->region.pages, PAGES + 1); /* the last one is a part of a page */
    assert_int_equal(scene->region.ops->populate(&scene->region, 0, PAGES + 1, &scene->fault), 0);
    memcpy(scene->region.base + 7 * PAGE_BYTES, "seven", 5);
    memcpy(scene->region.base + (uint64_t)PAGES * PAGE_BYTES, "last", 4);

    scene->region.ops->placed(&scene->region, 0, (const uint64_t[8]){1 << 7});
    scene->region.ops->placed(&scene->region, 512, (const uint64_t[8]){[(PAGES - 512) / 64] = UINT64_C(1) << PAGES % 64});
    assert_int_equal(disk_region_settle(scene->disk, &scene->fault), 0);

    assert_int_equal(pread(scene->fd, text, 5, 7 * PAGE_BYTES), 5);
    assert_string_equal(text, "seven");
    assert_int_equal(pread(scene->fd, text, 5, (off_t)PAGES * PAGE_BYTES), 5);
    assert_memory_equal(text, "last", 4);
    assert_int_equal(lseek(scene->fd, 0, SEEK_END), (off_t)PAGES * PAGE_BYTES + ODD_BYTES);
}

static void what_is_written_lies_in_the_file_up_to_its_odd_end(void **state)
{
    struct scene *scene = *state;
    static uint8_t bytes[3 * PAGE_BYTES + 1];
    char text[8] = {0};
    memset(bytes, 'w', sizeof bytes);

    scene->region.ops->write(&scene->region, PAGES - 1, 2, bytes);
    (void)fcntl(scene->fd, F_SETFL, O_RDWR | O_DIRECT); /* a disk that is open for its guest already */
    scene->region.ops->write(&scene->region, 9, 2, bytes + 1); /* fits no direct write */
    (void)fcntl(scene->fd, F_SETFL, O_RDWR);

    assert_int_equal(disk_region_check(scene->disk, &scene->fault), 0);
    assert_int_equal(pread(scene->fd, text, 3, (off_t)PAGES * PAGE_BYTES - 1), 3);
    assert_string_equal(text, "www");
    assert_int_equal(pread(scene->fd, text, 3, 11 * PAGE_BYTES - 3), 3);
    assert_string_equal(text, "www");
    assert_memory_equal(scene->region.base + 10 * PAGE_BYTES, bytes, PAGE_BYTES);
    assert_int_equal(lseek(scene->fd, 0, SEEK_END), (off_t)PAGES * PAGE_BYTES + ODD_BYTES);
}

static void a_write_that_fails_is_told_and_ends_nobody(void **state)
{
    struct scene *scene = *state;
    static const uint8_t bytes[PAGE_BYTES] = {1};
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    const struct rlimit small = {.rlim_cur = 8 * PAGE_BYTES, .rlim_max = before.rlim_max};
    (void)signal(SIGXFSZ, SIG_IGN);

    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    scene->region.ops->write(&scene->region, 300, 1, bytes);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, SIG_DFL);

    assert_int_equal(disk_region_check(scene->disk, &scene->fault), ERR_IO);
    assert_non_null(strstr(scene->fault.text, "a block of it cannot be written"));
}

static void holes_are_no_pages(void **state)
{
    struct scene *scene = *state;
    struct bitmap pages;
    assert_int_equal(bitmap_init(&pages, PAGES + 1), 0);
    assert_int_equal(pwrite(scene->fd, "x", 1, 100 * PAGE_BYTES), 1);

    assert_int_equal(scene->region.ops->populated(&scene->region, &pages, &scene->fault), 0);

    assert_true(bitmap_test(&pages, 100));
    assert_true(bitmap_count(&pages) < PAGES); /* a file system may round to its own blocks */
    assert_false(bitmap_test(&pages, PAGES));
    bitmap_deinit(&pages);
}

static void a_file_that_is_cut_short_is_told_and_ends_nobody(void **state)
{
    struct scene *scene = *state;
    struct disk_region *disk = NULL; /* made here: the test's runner has its own signal handlers */
    struct region region;
    assert_int_equal(disk_region_new(&disk, NULL, 1, "data", dup(scene->fd),
                                     (uint64_t)PAGES * PAGE_BYTES, &scene->fault),
                     0);
    disk_region_fill(disk, 3, &region);
    const uint64_t mask[8] = {UINT64_MAX};
    assert_int_equal(disk_region_check(disk, &scene->fault), 0);
    assert_int_equal(region.ops->clear(&region, 0, mask, &scene->fault), 0);
    assert_int_equal(ftruncate(scene->fd, 8 * PAGE_BYTES), 0);

    volatile uint8_t *byte = region.base + (uint64_t)300 * PAGE_BYTES;
    assert_int_equal(*byte, 0); /* would be a SIGBUS */
    *byte = 1;

    assert_int_equal(disk_region_check(disk, &scene->fault), ERR_IO);
    assert_non_null(strstr(scene->fault.text, "disk data: a block of it cannot be written"));
    assert_int_equal(region.ops->clear(&region, 0, mask, &scene->fault), ERR_IO); /* at once */
    assert_int_equal(disk_region_settle(disk, &scene->fault), ERR_IO);
    assert_int_equal(disk_region_check(scene->disk, &scene->fault), 0); /* it is not the other's */
    disk = disk_region_free(disk);
}

static void what_is_no_whole_file_is_refused(void **state)
{
    struct scene *scene = *state;
    struct disk_region *disk = NULL;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(disk_region_new(&disk, NULL, 0, "pipe", ends[0], 4096, &scene->fault),
                     ERR_INVALID);
    assert_int_equal(disk_region_new(&disk, NULL, 0, "short", scene->fd, 1 << 30, &scene->fault),
                     ERR_INVALID);
    assert_null(disk);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_placed_is_in_the_file_once_it_is_settled, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_written_lies_in_the_file_up_to_its_odd_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_write_that_fails_is_told_and_ends_nobody, set_up, tear_down),
        cmocka_unit_test_setup_teardown(holes_are_no_pages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_is_cut_short_is_told_and_ends_nobody, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_no_whole_file_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
