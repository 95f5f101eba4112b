#include "agent/vm/latch_file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "proto/migration.pb-c.h"

static char path[64];

static struct latch_file *new_file(void)
{
    struct fault fault = {0};
    struct latch_file *file = NULL;
    int fd;

    (void)snprintf(path, sizeof path, "/tmp/godwit-latch-%d", (int)getpid());
    assert_int_equal(latch_file_create(path, &fd, &fault), 0);
    assert_int_equal(latch_file_open(&file, fd, &fault), 0);
    return file;
}

static void put(struct latch_file *file, unsigned latch, uint64_t move_generation)
{
    struct latch_record record = {.generation = 3,
                                  .move_generation = move_generation,
                                  .move_id = "m1",
                                  .latch = (uint8_t)latch};
    latch_file_put(file, &record);
}

static void spoil(off_t at, uint8_t byte)
{
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    (void)close(fd);
}

static void gives_back_the_last_record(void **state)
{
    (void)state;
    struct latch_file *file = new_file();
    struct latch_record record = {0};
    struct fault fault = {0};

    put(file, GODWIT__LATCH__LATCH_OUT, 4);
    put(file, GODWIT__LATCH__LATCH_GAVE, 4);

    assert_int_equal(latch_file_read(path, &record, &fault), 0);
    assert_int_equal(record.latch, GODWIT__LATCH__LATCH_GAVE);
    assert_int_equal(record.generation, 3);
    assert_int_equal(record.move_generation, 4);
    assert_string_equal(record.move_id, "m1");
    assert_int_equal(record.sequence, 2);
    (void)latch_file_free(file);
    (void)unlink(path);
}

static void a_torn_record_leaves_the_one_before_it(void **state)
{
    (void)state;
    struct latch_file *file = new_file();
    struct latch_record record = {0};
    struct fault fault = {0};

    put(file, GODWIT__LATCH__LATCH_OUT, 4);
    put(file, GODWIT__LATCH__LATCH_ABORTED, 4);
    spoil(LATCH_FILE_SLOT_BYTES + 72, GODWIT__LATCH__LATCH_GAVE); /* the second, half written */

    assert_int_equal(latch_file_read(path, &record, &fault), 0);
    assert_int_equal(record.latch, GODWIT__LATCH__LATCH_OUT);
    (void)latch_file_free(file);
    (void)unlink(path);
}

static void says_when_nothing_is_whole(void **state)
{
    (void)state;
    struct latch_file *file = new_file();
    struct latch_record record = {0};
    struct fault fault = {0};

    put(file, GODWIT__LATCH__LATCH_OUT, 4);
    spoil(9, 77);

    assert_int_equal(latch_file_read(path, &record, &fault), ERR_CORRUPT);
    (void)latch_file_free(file);
    (void)unlink(path);
}

static void tells_an_empty_file_from_none(void **state)
{
    (void)state;
    struct latch_file *file = new_file();
    struct latch_record record = {0};
    struct fault fault = {0};

    assert_int_equal(latch_file_read(path, &record, &fault), ERR_NOT_FOUND);
    (void)latch_file_free(file);
    (void)unlink(path);
    assert_int_equal(latch_file_read(path, &record, &fault), ERR_NOT_FOUND);
}

static void goes_on_counting_when_opened_again(void **state)
{
    (void)state;
    struct latch_file *file = new_file();
    struct latch_record record = {0};
    struct fault fault = {0};

    put(file, GODWIT__LATCH__LATCH_IN, 9);
    (void)latch_file_free(file);
    int fd = open(path, O_RDWR);
    assert_int_equal(latch_file_open(&file, fd, &fault), 0);
    put(file, GODWIT__LATCH__LATCH_ABANDONED, 9);

    assert_int_equal(latch_file_read(path, &record, &fault), 0);
    assert_int_equal(record.sequence, 2);
    assert_int_equal(record.latch, GODWIT__LATCH__LATCH_ABANDONED);
    (void)latch_file_free(file);
    (void)unlink(path);
}

static void refuses_a_file_of_another_size(void **state)
{
    (void)state;
    struct latch_file *file = new_file();
    struct fault fault = {0};
    (void)latch_file_free(file);
    assert_int_equal(truncate(path, 100), 0);
    int fd = open(path, O_RDWR);

    assert_int_equal(latch_file_open(&file, fd, &fault), ERR_INVALID);

    (void)close(fd);
    (void)unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_back_the_last_record),
        cmocka_unit_test(a_torn_record_leaves_the_one_before_it),
        cmocka_unit_test(says_when_nothing_is_whole),
        cmocka_unit_test(tells_an_empty_file_from_none),
        cmocka_unit_test(goes_on_counting_when_opened_again),
        cmocka_unit_test(refuses_a_file_of_another_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
