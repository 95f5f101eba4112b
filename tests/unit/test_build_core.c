#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cli/build_core.h"

static struct build_core core;
static struct build_todo todo;

static int set_up(void **state)
{
    (void)state;
    build_core_init(&core, "t0ken", 2, 1000, 60000);
    return 0;
}

/* Takes all of it; gives the last news. */
static enum build_news say(const char *words)
{
    size_t count = strlen(words);
    enum build_news last = BUILD_NEWS_NONE;
    for (size_t at = 0; at < count;) {
        at += build_core_take(&core, (const uint8_t *)words + at, count - at, &todo);
        if (todo.news != BUILD_NEWS_NONE)
            last = todo.news;
    }
    return last;
}

static void a_build_goes_its_way(void **state)
{
    (void)state;
    assert_int_equal(say("Linux version 6.1\r\n[ 0.0] @gw other hello\r\n"), BUILD_NEWS_NONE);
    assert_int_equal(say("\r\n@gw t0ken hello\r\n"), BUILD_NEWS_HELLO);
    assert_int_equal(say("@gw t0ken begin 1\n"), BUILD_NEWS_BEGIN);
    assert_int_equal(todo.step, 1);
    assert_int_equal(say("[ 3.1] noise @gw t0ken o 1 1 Setting up  nginx\n"), BUILD_NEWS_OUTPUT);
    assert_string_equal(todo.text, "Setting up  nginx");
    assert_int_equal(say("@gw t0ken o 1 2\n"), BUILD_NEWS_OUTPUT);
    assert_string_equal(todo.text, "");
    assert_int_equal(say("@gw t0ken end 1 0\n"), BUILD_NEWS_END);
    assert_int_equal(say("@gw t0ken begin 2\n@gw t0ken end 2 0\n"), BUILD_NEWS_END);
    assert_int_equal(say("@gw t0ken sealed\n"), BUILD_NEWS_NONE);
    assert_int_equal(say("@gw t0ken done\n"), BUILD_NEWS_DONE);
    build_core_ended(&core, false, "the guest switched itself off", &todo);
    assert_int_equal(todo.news, BUILD_NEWS_OVER);
    assert_int_equal(core.state, BUILD_OVER);
}

static void bytes_come_in_any_pieces(void **state)
{
    (void)state;
    static const char words[] = "@gw t0ken hello\n@gw t0ken begin 1\n@gw t0ken o 1 1 a\n";
    unsigned news[4] = {0}, count = 0;
    for (size_t i = 0; i + 1 < sizeof words; i++) {
        assert_int_equal(build_core_take(&core, (const uint8_t *)words + i, 1, &todo), 1);
        if (todo.news != BUILD_NEWS_NONE)
            news[count++] = todo.news;
    }
    assert_int_equal(count, 3);
    assert_true(news[0] == BUILD_NEWS_HELLO && news[1] == BUILD_NEWS_BEGIN &&
                news[2] == BUILD_NEWS_OUTPUT);
}

static void what_was_said_before_is_passed_over_and_what_lacks_is_told(void **state)
{
    (void)state;
    (void)say("@gw t0ken hello\n@gw t0ken begin 1\n@gw t0ken o 1 1 a\n@gw t0ken o 1 2 b\n");
    assert_int_equal(
        say("@gw t0ken hello\n@gw t0ken begin 1\n@gw t0ken o 1 1 a\n@gw t0ken o 1 2 b\n"),
        BUILD_NEWS_NONE);
    assert_int_equal(say("@gw t0ken o 1 5 e\n"), BUILD_NEWS_OUTPUT);
    assert_int_equal(todo.lost, 2);
    assert_int_equal(say("@gw t0ken end 1 0\n@gw t0ken begin 2\n"), BUILD_NEWS_BEGIN);
    assert_int_equal(say("@gw t0ken begin 1\n@gw t0ken o 1 5 e\n@gw t0ken end 1 0\n"),
                     BUILD_NEWS_NONE);
    assert_int_equal(core.state, BUILD_STEPS);
}

static void a_step_that_fails_ends_it_with_its_code(void **state)
{
    (void)state;
    (void)say("@gw t0ken hello\n@gw t0ken begin 1\n");
    assert_int_equal(say("@gw t0ken end 1 100\n"), BUILD_NEWS_FAILED);
    assert_string_equal(core.fault.text, "step 1 of 2 ended with exit code 100");
    assert_int_equal(say("@gw t0ken begin 2\n"), BUILD_NEWS_NONE); /* nothing after that counts */
    build_core_ended(&core, false, "", &todo);
    assert_int_equal(todo.news, BUILD_NEWS_NONE);
    assert_int_equal(core.state, BUILD_FAILED);
}

static void a_later_word_tells_what_the_missing_ones_were(void **state)
{
    (void)state;
    assert_int_equal(say("@gw t0ken begin 1\n"), BUILD_NEWS_BEGIN); /* without hello */
    assert_int_equal(say("@gw t0ken begin 2\n"), BUILD_NEWS_BEGIN); /* so 1 went well */
    set_up(state);
    assert_int_equal(say("@gw t0ken o 2 9 late\n"), BUILD_NEWS_OUTPUT);
    assert_int_equal(todo.lost, 8);
    assert_int_equal(core.step, 2);
    set_up(state);
    assert_int_equal(say("@gw t0ken end 2 0\n"), BUILD_NEWS_END);
    assert_int_equal(say("@gw t0ken o 2 10 after its end\n"), BUILD_NEWS_NONE);
    assert_int_equal(say("@gw t0ken done\n"), BUILD_NEWS_DONE);
    set_up(state);
    assert_int_equal(say("@gw t0ken end 2 3\n"), BUILD_NEWS_FAILED);
    assert_string_equal(core.fault.text, "step 2 of 2 ended with exit code 3");
}

static void torn_words_are_none_and_steps_that_there_are_not_a_failure(void **state)
{
    static const char *const torn[] = {
        "@gw t0ken begin\n",     "@gw t0ken begin x\n",  "@gw t0ken begin 99999999999999999999\n",
        "@gw t0ken begin 1 x\n", "@gw t0ken end 1\n",    "@gw t0ken end 1 \n",
        "@gw t0ken end 1 0x\n",  "@gw t0ken o 1\n",      "@gw t0ken o 1 1x\n",
        "@gw t0ken what\n",      "@gw t0ken  begin 1\n", "@gw t0ke begin 1\n",
        "@gw t0kenbegin 1\n",    "gw t0ken begin 1\n",   "@gw t0ken",
        "@gw t0ken \n",
    };
    static const char *const wrong[] = {"@gw t0ken begin 3\n", "@gw t0ken o 3 1 x\n",
                                        "@gw t0ken end 3 0\n"};
    for (size_t i = 0; i < sizeof torn / sizeof torn[0]; i++) {
        set_up(state);
        (void)say("@gw t0ken hello\n");
        if (say(torn[i]) != BUILD_NEWS_NONE || core.step != 0)
            fail_msg("taken: %s", torn[i]);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        set_up(state);
        if (say(wrong[i]) != BUILD_NEWS_FAILED)
            fail_msg("taken: %s", wrong[i]);
    }
    set_up(state);
    assert_int_equal(say("@gw t0ken hello\n@gw t0ken begin 0\n@gw t0ken end 0 1\n"),
                     BUILD_NEWS_HELLO);
}

static void a_console_that_is_attached_again_begins_a_line(void **state)
{
    (void)state;
    (void)say("@gw t0ken hello\n@gw t0ken begin 1\n@gw t0ken end 1 ");
    build_core_attached(&core);
    assert_int_equal(say("0 of a line's rest\n@gw t0ken begin 1\n"), BUILD_NEWS_NONE);
    assert_int_equal(say("@gw t0ken end 1 0\n"), BUILD_NEWS_END);
}

static void a_guest_that_ends_too_soon_and_time_that_is_up_are_failures(void **state)
{
    (void)state;
    build_core_ended(&core, true, "triple fault", &todo);
    assert_int_equal(todo.news, BUILD_NEWS_FAILED);
    assert_string_equal(core.fault.text, "the guest ended before it was done: triple fault");
    set_up(state);
    build_core_tick(&core, 60999, &todo);
    assert_int_equal(todo.news, BUILD_NEWS_NONE);
    build_core_tick(&core, 61000, &todo);
    assert_int_equal(todo.news, BUILD_NEWS_FAILED);
    assert_non_null(strstr(core.fault.text, "neither cloud-init nor"));
    set_up(state);
    (void)say("@gw t0ken hello\n@gw t0ken begin 1\n");
    build_core_tick(&core, 61000, &todo);
    assert_string_equal(core.fault.text, "step 1 of 2 was not done in time");
}

static void a_guest_that_crashes_after_it_was_done_is_no_image(void **state)
{
    (void)state;
    assert_int_equal(say("@gw t0ken begin 2\n@gw t0ken end 2 0\n@gw t0ken done\n"),
                     BUILD_NEWS_DONE);
    build_core_ended(&core, true, "its process was killed", &todo);
    assert_int_equal(todo.news, BUILD_NEWS_FAILED);
    assert_string_equal(core.fault.text, "the guest was done but did not switch itself off: its "
                                         "process was killed");
    assert_int_equal(core.state, BUILD_FAILED);
}

static void that_free_blocks_were_not_given_back_is_told_once(void **state)
{
    (void)state;
    (void)say("@gw t0ken hello\n@gw t0ken begin 2\n@gw t0ken end 2 0\n");
    assert_int_equal(say("@gw t0ken untrimmed\n"), BUILD_NEWS_UNTRIMMED);
    assert_int_equal(say("@gw t0ken untrimmed\n"), BUILD_NEWS_NONE); /* a console's repetition */
    assert_int_equal(say("@gw t0ken done\n"), BUILD_NEWS_DONE);
    assert_int_equal(core.state, BUILD_ENDS);
}

static void lines_without_end_are_cut_and_harm_nobody(void **state)
{
    (void)state;
    char line[3 * BUILD_LINE_MAX];
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    assert_int_equal(say(line), BUILD_NEWS_NONE);
    assert_int_equal(say("\n@gw t0ken hello\n"), BUILD_NEWS_HELLO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_build_goes_its_way, set_up),
        cmocka_unit_test_setup(bytes_come_in_any_pieces, set_up),
        cmocka_unit_test_setup(what_was_said_before_is_passed_over_and_what_lacks_is_told, set_up),
        cmocka_unit_test_setup(a_step_that_fails_ends_it_with_its_code, set_up),
        cmocka_unit_test_setup(a_later_word_tells_what_the_missing_ones_were, set_up),
        cmocka_unit_test_setup(torn_words_are_none_and_steps_that_there_are_not_a_failure, set_up),
        cmocka_unit_test_setup(a_console_that_is_attached_again_begins_a_line, set_up),
        cmocka_unit_test_setup(a_guest_that_ends_too_soon_and_time_that_is_up_are_failures, set_up),
        cmocka_unit_test_setup(a_guest_that_crashes_after_it_was_done_is_no_image, set_up),
        cmocka_unit_test_setup(that_free_blocks_were_not_given_back_is_told_once, set_up),
        cmocka_unit_test_setup(lines_without_end_are_cut_and_harm_nobody, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
