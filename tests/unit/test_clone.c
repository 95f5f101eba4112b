#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/sparse.h"
#include "storage/clone.h"

static int new_file(void)
{
    int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    return fd;
}

static void a_copy_has_the_content_the_size_and_the_holes(void **state)
{
    (void)state;
    AUTO_FD int from = new_file();
    AUTO_FD int to = new_file();
    uint8_t block[4096], found[4096];
    struct stat info;
    struct fault fault = {0};
    atomic_ullong done = 0;
    memset(block, 7, sizeof block);
    assert_int_equal(ftruncate(from, (off_t)MIB(16)), 0);
    assert_int_equal(sparse_write(from, MIB(9), block, sizeof block, &fault), 0);
    struct clone clone = {.from = from, .from_bytes = MIB(16), .bytes = MIB(20), .done = &done};

    assert_int_equal(clone_fill(&clone, to, &fault), 0);

    assert_int_equal(fstat(to, &info), 0);
    assert_int_equal(info.st_size, MIB(20));
    assert_true((uint64_t)info.st_blocks * 512 < MIB(4));
    assert_int_equal(pread(to, found, sizeof found, (off_t)MIB(9)), sizeof found);
    assert_memory_equal(found, block, sizeof block);
    assert_int_equal(atomic_load(&done), MIB(16));
    if (!clone.is_reflink)
        assert_true(clone.copied_bytes >= sizeof block && clone.copied_bytes <= MIB(2));
}

static void a_copy_that_is_given_up_says_so(void **state)
{
    (void)state;
    AUTO_FD int from = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); /* no reflink from there */
    AUTO_FD int to = new_file();
    atomic_bool canceled = true;
    struct fault fault = {0};
    if (from < 0)
        skip();
    assert_int_equal(ftruncate(from, (off_t)MIB(2)), 0);
    struct clone clone = {
        .from = from, .from_bytes = MIB(2), .bytes = MIB(2), .canceled = &canceled};

    assert_int_equal(clone_fill(&clone, to, &fault), ERR_CANCELED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_has_the_content_the_size_and_the_holes),
        cmocka_unit_test(a_copy_that_is_given_up_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
