#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/sparse.h"

static int new_file(void)
{
    int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    return fd;
}

static void gives_holes_and_zeros_as_runs_and_the_rest_as_bytes(void **state)
{
    (void)state;
    AUTO_FD int fd = new_file();
    uint8_t buffer[8192], ones[4096];
    struct sparse_piece piece;
    struct fault fault = {0};
    memset(ones, 1, sizeof ones);
    assert_int_equal(ftruncate(fd, (off_t)MIB(3)), 0);
    assert_int_equal(sparse_write(fd, MIB(2), ones, sizeof ones, &fault), 0);

    assert_int_equal(sparse_read(fd, 0, MIB(3), buffer, sizeof buffer, &piece, &fault), 0);
    uint64_t hole = piece.zeros;
    assert_int_equal(piece.count, 0);
    while (hole < MIB(2)) { /* a file system without holes gives its zeros a buffer at a time */
        assert_int_equal(sparse_read(fd, hole, MIB(3), buffer, sizeof buffer, &piece, &fault), 0);
        assert_true(piece.zeros > 0);
        hole += piece.zeros;
    }
    assert_int_equal(hole, MIB(2));
    assert_int_equal(sparse_read(fd, MIB(2), MIB(3), buffer, sizeof buffer, &piece, &fault), 0);
    assert_int_equal(piece.count, sizeof buffer);
    assert_memory_equal(buffer, ones, sizeof ones);
    assert_int_equal(sparse_read(fd, MIB(2) + 4096, MIB(2) + 8192, buffer, sizeof buffer, &piece, &fault),
                     0);
    assert_int_equal(piece.zeros, 4096);
}

static void a_file_that_has_become_shorter_is_no_hole(void **state)
{
    (void)state;
    AUTO_FD int fd = new_file();
    uint8_t buffer[4096];
    struct sparse_piece piece;
    struct fault fault = {0};
    assert_int_equal(ftruncate(fd, 8192), 0);

    assert_int_equal(sparse_read(fd, 0, 12288, buffer, sizeof buffer, &piece, &fault), ERR_CORRUPT);
}

static void a_hole_of_any_length_comes_in_pieces_that_end(void **state)
{
    (void)state;
    AUTO_FD int fd = new_file();
    uint8_t buffer[4096];
    struct sparse_piece piece;
    struct fault fault = {0};
    assert_int_equal(ftruncate(fd, (off_t)GIB(1)), 0);

    assert_int_equal(sparse_read(fd, 0, GIB(1), buffer, sizeof buffer, &piece, &fault), 0);
    assert_true(piece.zeros > 0 && piece.zeros <= SPARSE_ZEROS_MAX);
    assert_int_equal(sparse_read(fd, GIB(1) - 4096, GIB(1), buffer, sizeof buffer, &piece, &fault), 0);
    assert_int_equal(piece.zeros, 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_holes_and_zeros_as_runs_and_the_rest_as_bytes),
        cmocka_unit_test(a_file_that_has_become_shorter_is_no_hole),
        cmocka_unit_test(a_hole_of_any_length_comes_in_pieces_that_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
