#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/share.h"
#include "storage/share_space.h"

static char path[64];
static int share_fd;
static struct fault fault;

static int set_up(void **state)
{
    (void)state;
    fault = (struct fault){0};
    (void)snprintf(path, sizeof path, "/var/tmp/godwit-space-XXXXXX");
    assert_non_null(mkdtemp(path));
    return share_open(path, &share_fd, &fault);
}

static int tear_down(void **state)
{
    (void)state;
    (void)unlinkat(share_fd, "disk.raw", 0);
    (void)close(share_fd);
    return rmdir(path); /* fails when a proof was left */
}

static void tells_how_full_it_is(void **state)
{
    (void)state;
    struct share_space space;

    assert_int_equal(share_space_read(share_fd, &space, &fault), 0);

    assert_true(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
    assert_true(space.file_system[0] != '\0');
    assert_false(space.read_only);
}

static void a_sparse_file_takes_what_is_written_of_it(void **state)
{
    (void)state;
    uint64_t bytes, used;
    uint8_t block[8192] = {1};
    AUTO_FD int fd = openat(share_fd, "disk.raw", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, MIB(64)), 0);
    assert_int_equal(pwrite(fd, block, sizeof block, MIB(1)), (ssize_t)sizeof block);
    assert_int_equal(fsync(fd), 0);

    assert_int_equal(share_space_measure(share_fd, "disk.raw", &bytes, &used, &fault), 0);

    assert_int_equal(bytes, MIB(64));
    assert_in_range(used, sizeof block, MIB(1));
}

static void a_file_that_is_not_there_takes_nothing(void **state)
{
    (void)state;
    uint64_t bytes = 1, used = 1;

    assert_int_equal(share_space_measure(share_fd, "none.raw", &bytes, &used, &fault), 0);
    assert_int_equal(bytes, 0);
    assert_int_equal(used, 0);
    assert_true(share_space_measure(share_fd, "../etc/passwd", &bytes, &used, &fault) < 0);
    assert_int_equal(bytes, 0);
}

static void what_is_proven_leaves_nothing(void **state)
{
    (void)state;

    assert_int_equal(share_space_prove(share_fd, &fault), 0);

    unsigned files = 0;
    DIR *folder = opendir(path);
    assert_non_null(folder);
    while (readdir(folder))
        files++;
    (void)closedir(folder);
    assert_int_equal(files, 2); /* "." and ".." */
}

static void a_folder_that_takes_no_file_is_no_store(void **state)
{
    (void)state;
    struct fault why = {0};
    AUTO_FD int proc = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_true(share_space_prove(proc, &why) < 0);
    assert_non_null(strstr(why.text, "making a file in the store"));
    int fd;
    assert_int_equal(share_open("fast", &fd, &why), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tells_how_full_it_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_sparse_file_takes_what_is_written_of_it, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_is_not_there_takes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_proven_leaves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_folder_that_takes_no_file_is_no_store, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
