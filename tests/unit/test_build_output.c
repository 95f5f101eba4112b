#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/build_output.h"

static void expect_clean(const char *text, const char *clean)
{
    char found[64];
    build_output_clean(text, found, sizeof found);
    assert_string_equal(found, clean);
}

static void what_a_guest_says_moves_no_cursor(void **state)
{
    (void)state;
    expect_clean("plain\ttext", "plain\ttext");
    expect_clean("gr\xc3\xbc\xc3\x9f, \xe2\x9c\x94 \xf0\x9f\x90\xa6",
                 "gr\xc3\xbc\xc3\x9f, \xe2\x9c\x94 \xf0\x9f\x90\xa6");
    expect_clean("\033[2J\033]0;title\a", "?[2J?]0;title?");
    expect_clean("a\rb\bc\x7f", "a?b?c?");
    expect_clean("\xc2\x9b"
                 "2J",
                 "?2J"); /* CSI as one letter of UTF-8 */
    expect_clean("\x9b"
                 "2J",
                 "?2J"); /* and of eight bits */
    expect_clean("\xe2\x80\xae"
                 "txt",
                 "?txt");                          /* writes backwards */
    expect_clean("\xc0\x9b\xed\xa0\x80", "?????"); /* longer than it may be; half of a pair */
    expect_clean("end \xe2\x9c", "end ??");        /* cut off */
    expect_clean("\xf5\x80\x80\x80", "????");
}

static void it_is_cut_between_letters(void **state)
{
    (void)state;
    char found[6];
    build_output_clean("abc\xe2\x9c\x94", found, sizeof found);
    assert_string_equal(found, "abc");
    build_output_clean("abcdefgh", found, sizeof found);
    assert_string_equal(found, "abcde");
    build_output_clean("x", found, 1);
    assert_string_equal(found, "");
}

static void the_last_lines_of_a_step_are_kept(void **state)
{
    (void)state;
    struct build_output output = {0};
    char *lines[BUILD_TAIL_LINES], text[16], long_line[2 * BUILD_TAIL_LINE_SIZE];
    build_output_line(&output, "of the step before", 0);
    build_output_begin(&output);
    assert_int_equal(build_output_tail(&output, lines), 0);
    build_output_line(&output, "one\033", 0);
    assert_int_equal(build_output_tail(&output, lines), 1);
    assert_string_equal(lines[0], "one?");
    for (int i = 2; i <= BUILD_TAIL_LINES + 3; i++) {
        (void)snprintf(text, sizeof text, "%d", i);
        build_output_line(&output, text, 0);
    }
    assert_int_equal(build_output_tail(&output, lines), BUILD_TAIL_LINES);
    assert_string_equal(lines[0], "4");
    assert_string_equal(lines[BUILD_TAIL_LINES - 1], "23");
    memset(long_line, 'x', sizeof long_line);
    long_line[sizeof long_line - 1] = '\0';
    build_output_line(&output, long_line, 0);
    (void)build_output_tail(&output, lines);
    assert_int_equal(strlen(lines[BUILD_TAIL_LINES - 1]), BUILD_TAIL_LINE_SIZE - 1);
}

static void lines_are_shown_as_they_come_and_those_that_lack_are_told(void **state)
{
    (void)state;
    char *said = NULL;
    size_t count = 0;
    struct build_output output = {.out = open_memstream(&said, &count)};
    assert_non_null(output.out);
    build_output_line(&output, "Setting up", 0);
    build_output_line(&output, "done", 7);
    (void)fclose(output.out);
    assert_string_equal(said, "    Setting up\n    [7 lines did not come]\n    done\n");
    free(said);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_guest_says_moves_no_cursor),
        cmocka_unit_test(it_is_cut_between_letters),
        cmocka_unit_test(the_last_lines_of_a_step_are_kept),
        cmocka_unit_test(lines_are_shown_as_they_come_and_those_that_lack_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
