/* What a guest is told and how long it is listened to, whatever it does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "agent/vm/notice_core.h"
#include "base/world.h"

enum { WAIT_MS = 1000 };

static uint64_t now_ns;

static unsigned step(struct notice_core *core, enum notice_event_type type)
{
    const struct notice_event event = {.now_ns = now_ns,
                                       .type = type,
                                       .id = "m-1",
                                       .wait_ms = WAIT_MS,
                                       .has_pause = true,
                                       .pause_ms = 37,
                                       .host = "host2"};
    return notice_core_step(core, &event);
}

static unsigned says(struct notice_core *core, const char *text)
{
    const struct notice_event event = {.now_ns = now_ns,
                                       .type = NOTICE_EVENT_BYTES,
                                       .bytes = (const uint8_t *)text,
                                       .count = strlen(text)};
    return notice_core_step(core, &event);
}

static unsigned tick_after(struct notice_core *core, uint64_t ms)
{
    now_ns += ms * NS_PER_MS;
    return step(core, NOTICE_EVENT_TICK);
}

static void begin(struct notice_core *core)
{
    *core = (struct notice_core){0};
    now_ns = NS_PER_S;
    assert_int_equal(notice_core_next_ns(core), 0);
    assert_int_equal(step(core, NOTICE_EVENT_PREPARE), NOTICE_TODO_CONNECT);
    assert_int_equal(notice_core_next_ns(core), now_ns + WAIT_MS * NS_PER_MS);
}

static void begin_told(struct notice_core *core)
{
    begin(core);
    assert_int_equal(says(core, "OK 1073741824\n"), NOTICE_TODO_WRITE);
    assert_string_equal(core->line, "prepare kind=move id=m-1 deadline_ms=1000\n");
}

static void a_guest_that_is_ready_is_waited_for_no_longer(void **state)
{
    (void)state;
    struct notice_core core;
    begin_told(&core);
    assert_int_equal(says(&core, "rea"), 0);
    assert_int_equal(says(&core, "dy\r\n"), NOTICE_TODO_GO);
    assert_int_equal(says(&core, "ready\n"), 0);
    assert_int_equal(notice_core_next_ns(&core), 0);
    assert_int_equal(tick_after(&core, 3600 * 1000), 0);
}

static void where_nobody_listens_nobody_is_waited_for(void **state)
{
    (void)state;
    struct notice_core core;
    begin(&core);
    assert_int_equal(step(&core, NOTICE_EVENT_CLOSED), NOTICE_TODO_GO);
    assert_int_equal(notice_core_next_ns(&core), 0);
    assert_int_equal(step(&core, NOTICE_EVENT_CANCELLED), 0); /* it never heard of the move */
}

static void a_guest_that_does_not_take_the_connection_has_its_time(void **state)
{
    (void)state;
    struct notice_core core;
    begin(&core);
    assert_int_equal(tick_after(&core, WAIT_MS - 1), 0);
    assert_int_equal(tick_after(&core, 1), NOTICE_TODO_GO | NOTICE_TODO_CLOSE);
    assert_int_equal(says(&core, "OK 1\n"), 0);
}

static void a_guest_that_never_answers_has_its_time_and_hears_of_a_cancel(void **state)
{
    (void)state;
    struct notice_core core;
    begin_told(&core);
    assert_int_equal(says(&core, "wait, please\n"), 0);
    assert_int_equal(tick_after(&core, WAIT_MS), NOTICE_TODO_GO);
    assert_int_equal(says(&core, "ready\n"), 0); /* too late */

    assert_int_equal(step(&core, NOTICE_EVENT_CANCELLED), NOTICE_TODO_WRITE);

    assert_string_equal(core.line, "cancelled kind=move id=m-1\n");
    assert_int_equal(step(&core, NOTICE_EVENT_CANCELLED), 0); /* once is enough */
    for (unsigned i = 1; i < NOTICE_TRIES; i++) {
        assert_int_equal(tick_after(&core, NOTICE_LINGER_MS), NOTICE_TODO_CLOSE);
        assert_int_equal(tick_after(&core, NOTICE_RETRY_MS), NOTICE_TODO_CONNECT);
        assert_int_equal(says(&core, "OK 2\n"), NOTICE_TODO_WRITE);
    }
    assert_int_equal(tick_after(&core, NOTICE_LINGER_MS), NOTICE_TODO_CLOSE);
    assert_int_equal(notice_core_next_ns(&core), 0);
}

static void a_cancel_while_it_is_waited_for_lets_go_and_tells(void **state)
{
    (void)state;
    struct notice_core core;
    begin_told(&core);
    assert_int_equal(step(&core, NOTICE_EVENT_CANCELLED), NOTICE_TODO_GO | NOTICE_TODO_WRITE);
    assert_int_equal(says(&core, "ok\n"), NOTICE_TODO_CLOSE);

    begin(&core); /* not told yet: then of nothing */
    assert_int_equal(step(&core, NOTICE_EVENT_CANCELLED), NOTICE_TODO_GO | NOTICE_TODO_CLOSE);
}

static void a_guest_that_hung_up_after_its_answer_is_told_anew(void **state)
{
    (void)state;
    struct notice_core core;
    begin_told(&core);
    assert_int_equal(says(&core, "ready\n"), NOTICE_TODO_GO);
    assert_int_equal(step(&core, NOTICE_EVENT_CLOSED), 0);
    assert_int_equal(step(&core, NOTICE_EVENT_CANCELLED), NOTICE_TODO_CONNECT);
    assert_int_equal(says(&core, "OK 2\n"), NOTICE_TODO_WRITE);
    assert_string_equal(core.line, "cancelled kind=move id=m-1\n");
}

static void a_guest_that_hangs_up_is_not_waited_for(void **state)
{
    (void)state;
    struct notice_core core;
    begin_told(&core);
    assert_int_equal(step(&core, NOTICE_EVENT_CLOSED), NOTICE_TODO_GO);
}

static void a_flood_ends_the_connection_and_the_wait(void **state)
{
    (void)state;
    struct notice_core core;
    char noise[NOTICE_ANSWER_MAX + 2];
    memset(noise, 'x', sizeof noise - 1);
    noise[sizeof noise - 1] = 0;
    begin_told(&core);
    assert_int_equal(says(&core, noise), NOTICE_TODO_CLOSE | NOTICE_TODO_GO);

    begin_told(&core);
    unsigned lines = 0, todo = 0;
    while (!todo && ++lines < NOTICE_ANSWERS_BYTES_MAX)
        todo = says(&core, "no\n");
    assert_int_equal(todo, NOTICE_TODO_CLOSE | NOTICE_TODO_GO);
    assert_true(lines <= NOTICE_ANSWERS_BYTES_MAX / 3);
    assert_int_equal(core.phase, NOTICE_IDLE);
}

static void after_the_move_it_hears_where_it_is_and_how_long_it_stood(void **state)
{
    (void)state;
    struct notice_core core = {0};
    now_ns = NS_PER_S;
    assert_int_equal(step(&core, NOTICE_EVENT_RESUMED), NOTICE_TODO_CONNECT);
    assert_int_equal(says(&core, "OK 9\n"), NOTICE_TODO_WRITE);
    assert_string_equal(core.line, "resumed kind=move id=m-1 pause_ms=37 host=host2\n");
    assert_int_equal(says(&core, "ok\n"), NOTICE_TODO_CLOSE);
    assert_int_equal(notice_core_next_ns(&core), 0);
}

/* The guest may take the new stream for one of those that are gone since the move. */
static void what_a_reset_swallowed_is_said_again_and_not_for_ever(void **state)
{
    (void)state;
    struct notice_core core = {0};
    now_ns = NS_PER_S;
    assert_int_equal(step(&core, NOTICE_EVENT_RESUMED), NOTICE_TODO_CONNECT);
    for (unsigned i = 1; i < NOTICE_TRIES; i++) {
        assert_int_equal(says(&core, "OK 9\n"), NOTICE_TODO_WRITE);
        assert_int_equal(step(&core, NOTICE_EVENT_CLOSED), 0);
        assert_int_equal(tick_after(&core, NOTICE_RETRY_MS - 1), 0);
        assert_int_equal(tick_after(&core, 1), NOTICE_TODO_CONNECT);
    }
    assert_int_equal(step(&core, NOTICE_EVENT_CLOSED), 0);
    assert_int_equal(notice_core_next_ns(&core), 0);
}

/* A guest's driver may drop the line with the stream, and tell nobody. */
static void what_is_not_answered_is_said_again_and_not_for_ever(void **state)
{
    (void)state;
    struct notice_core core = {0};
    now_ns = NS_PER_S;
    assert_int_equal(step(&core, NOTICE_EVENT_RESUMED), NOTICE_TODO_CONNECT);
    for (unsigned i = 1; i < NOTICE_TRIES; i++) {
        assert_int_equal(says(&core, "OK 9\n"), NOTICE_TODO_WRITE);
        assert_int_equal(tick_after(&core, NOTICE_LINGER_MS - 1), 0);
        assert_int_equal(tick_after(&core, 1), NOTICE_TODO_CLOSE);
        assert_int_equal(tick_after(&core, NOTICE_RETRY_MS), NOTICE_TODO_CONNECT);
    }
    assert_int_equal(says(&core, "OK 9\n"), NOTICE_TODO_WRITE);
    assert_string_equal(core.line, "resumed kind=move id=m-1 pause_ms=37 host=host2\n");
    assert_int_equal(says(&core, "ready\n"), NOTICE_TODO_CLOSE);
    assert_int_equal(notice_core_next_ns(&core), 0);
}

static void a_pause_that_is_near_comes_before_what_is_still_said(void **state)
{
    (void)state;
    struct notice_core core = {0};
    now_ns = NS_PER_S;
    (void)step(&core, NOTICE_EVENT_RESUMED);
    (void)says(&core, "OK 9\n");
    assert_int_equal(step(&core, NOTICE_EVENT_PREPARE), NOTICE_TODO_CLOSE | NOTICE_TODO_CONNECT);
    assert_int_equal(step(&core, NOTICE_EVENT_PREPARE), 0); /* told twice */
    assert_int_equal(step(&core, NOTICE_EVENT_STOP), NOTICE_TODO_CLOSE | NOTICE_TODO_GO);
    assert_int_equal(notice_core_next_ns(&core), 0);
}

static void a_long_name_leaves_the_line_whole(void **state)
{
    (void)state;
    struct notice_core core = {0};
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    const struct notice_event event = {.type = NOTICE_EVENT_RESUMED,
                                       .id = name,
                                       .host = name,
                                       .has_pause = true,
                                       .pause_ms = UINT64_MAX};
    (void)notice_core_step(&core, &event);
    assert_true(strlen(core.line) < NOTICE_LINE_SIZE - 1);
    assert_int_equal(core.line[strlen(core.line) - 1], '\n');
}

/* Whatever comes in whatever order: GO is said once for each wait that began, and never later than
 * its time. */
static void every_wait_ends_once_and_in_time(void **state)
{
    (void)state;
    static const char *const words[] = {"OK 1\n", "ready\n", "ok\n", "junk\n", "x"};
    uint32_t seed = 1;
    for (unsigned run = 0; run < 20000; run++) {
        struct notice_core core = {0};
        bool waits = false;
        uint64_t until_ns = 0;
        now_ns = NS_PER_S;
        for (unsigned i = 0; i < 30; i++) {
            seed = seed * 1664525 + 1013904223;
            unsigned choice = (seed >> 16) % 8;
            unsigned todo;
            now_ns += (seed >> 8) % 300 * NS_PER_MS;
            if (waits && now_ns > until_ns)
                now_ns = until_ns;
            bool begins = choice == NOTICE_EVENT_PREPARE && !waits;
            if (choice == NOTICE_EVENT_BYTES)
                todo = says(&core, words[(seed >> 24) % 5]);
            else if (choice < NOTICE_EVENT_COUNT)
                todo = step(&core, (enum notice_event_type)choice);
            else
                todo = step(&core, NOTICE_EVENT_TICK);
            if (begins) {
                waits = true;
                until_ns = now_ns + WAIT_MS * NS_PER_MS;
            }
            if (todo & NOTICE_TODO_GO)
                assert_true(waits);
            waits = waits && !(todo & NOTICE_TODO_GO);
            if (waits) {
                assert_true(notice_core_next_ns(&core) && notice_core_next_ns(&core) <= until_ns);
                if (now_ns == until_ns) {
                    assert_true(step(&core, NOTICE_EVENT_TICK) & NOTICE_TODO_GO);
                    waits = false;
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_guest_that_is_ready_is_waited_for_no_longer),
        cmocka_unit_test(where_nobody_listens_nobody_is_waited_for),
        cmocka_unit_test(a_guest_that_does_not_take_the_connection_has_its_time),
        cmocka_unit_test(a_guest_that_never_answers_has_its_time_and_hears_of_a_cancel),
        cmocka_unit_test(a_cancel_while_it_is_waited_for_lets_go_and_tells),
        cmocka_unit_test(a_guest_that_hung_up_after_its_answer_is_told_anew),
        cmocka_unit_test(a_guest_that_hangs_up_is_not_waited_for),
        cmocka_unit_test(a_flood_ends_the_connection_and_the_wait),
        cmocka_unit_test(after_the_move_it_hears_where_it_is_and_how_long_it_stood),
        cmocka_unit_test(what_a_reset_swallowed_is_said_again_and_not_for_ever),
        cmocka_unit_test(what_is_not_answered_is_said_again_and_not_for_ever),
        cmocka_unit_test(a_pause_that_is_near_comes_before_what_is_still_said),
        cmocka_unit_test(a_long_name_leaves_the_line_whole),
        cmocka_unit_test(every_wait_ends_once_and_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
