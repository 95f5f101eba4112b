#include "agent/journal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/loop.h"

static char path[64];
static struct loop *loop;
static unsigned seen;
static struct journal_entry last;

static void on_entry(void *data, const struct journal_entry *entry)
{
    (void)data;
    seen++;
    last = *entry;
}

static struct journal *open_journal(void)
{
    struct journal *journal = NULL;
    struct fault fault = {0};

    seen = 0;
    assert_int_equal(journal_new(&journal, loop, path, on_entry, NULL, &fault), 0);
    return journal;
}

static void close_journal(struct journal *journal)
{
    (void)journal_free(journal);
    loop = loop_free(loop); /* waits for its worker */
    struct fault fault = {0};
    assert_int_equal(loop_new(&loop, &fault), 0);
}

static const struct journal_entry gave = {.event = "latch",
                                          .vm_id = "v1",
                                          .generation = 7,
                                          .move_id = "m1",
                                          .latch = "GAVE",
                                          .incarnation = "abc"};

static void write_two(void)
{
    struct journal *journal = open_journal();
    struct journal_entry start = {.event = "start", .vm_id = "v1", .generation = 6};
    journal_put(journal, &start);
    journal_put(journal, &gave);
    close_journal(journal);
}

static int set_up(void **state)
{
    (void)state;
    struct fault fault = {0};
    (void)snprintf(path, sizeof path, "/tmp/godwit-journal-%d", (int)getpid());
    (void)unlink(path);
    return loop_new(&loop, &fault);
}

static int tear_down(void **state)
{
    (void)state;
    loop = loop_free(loop);
    (void)unlink(path);
    return 0;
}

static void reads_back_what_was_put(void **state)
{
    (void)state;
    write_two();

    struct journal *journal = open_journal();

    assert_int_equal(seen, 2);
    assert_string_equal(last.event, "latch");
    assert_string_equal(last.latch, "GAVE");
    assert_string_equal(last.move_id, "m1");
    assert_int_equal(last.generation, 7);
    close_journal(journal);
}

static void cuts_a_torn_tail_and_goes_on_behind_it(void **state)
{
    (void)state;
    write_two();
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(truncate(path, status.st_size - 10), 0);

    struct journal *journal = open_journal();
    unsigned lines;
    size_t tail_bytes;
    journal_damage(journal, &lines, &tail_bytes);
    assert_int_equal(seen, 1);
    assert_int_equal(lines, 0);
    assert_true(tail_bytes > 0);
    journal_put(journal, &gave);
    close_journal(journal);

    journal = open_journal();
    assert_int_equal(seen, 2);
    close_journal(journal);
}

static void skips_a_damaged_line_in_the_middle(void **state)
{
    (void)state;
    write_two();
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "X", 1, 30), 1);
    (void)close(fd);

    struct journal *journal = open_journal();
    unsigned lines;
    size_t tail_bytes;
    journal_damage(journal, &lines, &tail_bytes);

    assert_int_equal(seen, 1);
    assert_int_equal(lines, 1);
    assert_string_equal(last.latch, "GAVE");
    close_journal(journal);
}

static void refuses_a_line_whose_sum_does_not_fit(void **state)
{
    (void)state;
    char line[JOURNAL_LINE_MAX];
    struct journal_entry entry;
    int count = journal_entry_encode(&gave, line);

    assert_int_equal(journal_entry_decode(line, (size_t)count, &entry), 0);
    line[count - 1] ^= 1;
    assert_int_equal(journal_entry_decode(line, (size_t)count, &entry), ERR_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_back_what_was_put, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cuts_a_torn_tail_and_goes_on_behind_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(skips_a_damaged_line_in_the_middle, set_up, tear_down),
        cmocka_unit_test(refuses_a_line_whose_sum_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
