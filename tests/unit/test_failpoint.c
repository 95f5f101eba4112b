#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"

static void expect_refused(const char *spec, const char *words)
{
    struct fault fault = {0};

    assert_int_equal(failpoint_arm("source.hello=drop", NULL), 0);
    int r = failpoint_arm(spec, &fault);

    assert_true(r < 0);
    if (!strstr(fault.text, words))
        print_message("%s\n", fault.text);
    assert_non_null(strstr(fault.text, words));
    assert_int_equal(failpoint(FAILPOINT_SOURCE_HELLO), FAILPOINT_DROP); /* as it was before */
}

static void nothing_happens_unless_it_is_armed(void **state)
{
    (void)state;
    assert_int_equal(failpoint_arm("", NULL), 0);

    assert_false(failpoint_is_armed);
    for (unsigned i = 0; i < FAILPOINT_COUNT; i++)
        assert_int_equal(failpoint((enum failpoint_id)i), FAILPOINT_NONE);
}

static void a_point_fires_once_where_and_when_it_was_told(void **state)
{
    (void)state;
    unsigned before = failpoint_hits(FAILPOINT_SOURCE_COLLECT);
    assert_int_equal(failpoint_arm("source.collect=error@3\nsource.hello=duplicate\n", NULL), 0);
    struct fault fault = {0};

    assert_int_equal(failpoint_check(FAILPOINT_SOURCE_COLLECT, &fault), 0);
    assert_int_equal(failpoint_check(FAILPOINT_SOURCE_TRACK, &fault), 0);
    assert_int_equal(failpoint_check(FAILPOINT_SOURCE_COLLECT, &fault), 0);
    assert_int_equal(failpoint_check(FAILPOINT_SOURCE_COLLECT, &fault), ERR_IO);
    assert_string_equal(fault.text, "failpoint source.collect");
    assert_int_equal(failpoint_check(FAILPOINT_SOURCE_COLLECT, &fault), 0);
    assert_int_equal(failpoint(FAILPOINT_SOURCE_HELLO), FAILPOINT_DUPLICATE);
    assert_int_equal(failpoint_hits(FAILPOINT_SOURCE_COLLECT), before + 1);
}

static void a_spec_that_asks_for_what_may_not_be_is_refused_whole(void **state)
{
    (void)state;
    expect_refused("source.helo=drop", "there is no failpoint 'source.helo'");
    expect_refused("source.hello", "is no failpoint: NAME=ACTION");
    expect_refused("source.hello=explode", "has no action 'explode'");
    expect_refused("target.resume=error", "failpoint 'target.resume' has no action 'error'");
    expect_refused("source.hello=delay:0", "failpoint spec");
    expect_refused("source.hello=delay:60000", "failpoint spec");
    expect_refused("source.hello=drop@x", "failpoint spec");
    expect_refused("source.state=drop\nsource.hello=kil", "has no action 'kil'");
    expect_refused("source.hello=drop\nsource.hello=drop\nsource.hello=drop\nsource.hello=drop\n"
                   "source.hello=drop\nsource.hello=drop\nsource.hello=drop\nsource.hello=drop\n"
                   "source.hello=drop\nsource.hello=drop\nsource.hello=drop\nsource.hello=drop\n"
                   "source.hello=drop\nsource.hello=drop\nsource.hello=drop\nsource.hello=drop\n"
                   "source.hello=drop\n",
                   "more than 16 failpoints");
}

static void a_hit_stands_in_the_file_and_is_not_repeated_by_who_reads_it_next(void **state)
{
    (void)state;
    char path[] = "/tmp/godwit-failpoint-XXXXXX", text[200] = {0};
    int fd = mkostemp(path, O_APPEND);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "target.load=error\n", 18), 18);
    failpoint_set_file(fd);

    assert_int_equal(failpoint_reload(NULL), 0);
    assert_int_equal(failpoint(FAILPOINT_TARGET_LOAD), FAILPOINT_ERROR);
    assert_int_equal(failpoint_reload(NULL), 0); /* the next move, or another process */
    assert_int_equal(failpoint(FAILPOINT_TARGET_LOAD), FAILPOINT_NONE);

    assert_true(pread(fd, text, sizeof text - 1, 0) > 0);
    assert_string_equal(text, "target.load=error\nhit target.load error\n");
    failpoint_set_file(-1);
    assert_int_equal(failpoint_arm("", NULL), 0);
    close(fd);
    unlink(path);
}

static void the_table_has_thirty_points_each_with_a_name_and_something_to_do(void **state)
{
    (void)state;
    assert_true(FAILPOINT_COUNT >= 30);
    for (unsigned i = 0; i < FAILPOINT_COUNT; i++) {
        assert_non_null(strchr(failpoint_name((enum failpoint_id)i), '.'));
        assert_true(failpoint_actions((enum failpoint_id)i) != 0);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(failpoint_name((enum failpoint_id)i),
                                    failpoint_name((enum failpoint_id)j));
    }
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_happens_unless_it_is_armed),
        cmocka_unit_test(a_point_fires_once_where_and_when_it_was_told),
        cmocka_unit_test(a_spec_that_asks_for_what_may_not_be_is_refused_whole),
        cmocka_unit_test(a_hit_stands_in_the_file_and_is_not_repeated_by_who_reads_it_next),
        cmocka_unit_test(the_table_has_thirty_points_each_with_a_name_and_something_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
