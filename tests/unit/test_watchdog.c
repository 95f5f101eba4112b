/* When a host's watchdog is patted, let go and put to sleep; and that its device hears just that.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/watchdog.h"
#include "agent/watchdog_core.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/world.h"

static uint64_t now_ns;

static unsigned step(struct watchdog_core *core, enum watchdog_event_type type)
{
    const struct watchdog_event event = {.now_ns = now_ns, .type = type};
    return watchdog_core_step(core, &event);
}

static unsigned tick_after(struct watchdog_core *core, uint64_t ms)
{
    now_ns += ms * NS_PER_MS;
    return step(core, WATCHDOG_EVENT_TICK);
}

static void it_sleeps_while_nobody_must_end(void **state)
{
    (void)state;
    struct watchdog_core core = {0};
    now_ns = NS_PER_S;
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(tick_after(&core, 500), 0);
    assert_int_equal(step(&core, WATCHDOG_EVENT_ISOLATED), 0);
}

static void it_is_patted_while_kills_have_their_time_and_then_no_more(void **state)
{
    (void)state;
    struct watchdog_core core = {0};
    unsigned pats = 0, todo = 0;
    now_ns = NS_PER_S;
    assert_int_equal(step(&core, WATCHDOG_EVENT_ISOLATE), WATCHDOG_TODO_WAKE | WATCHDOG_TODO_PAT);
    while (!((todo = tick_after(&core, 500)) & WATCHDOG_TODO_LET_GO)) {
        pats += todo == WATCHDOG_TODO_PAT;
        assert_true(now_ns - core.patted_ns < WATCHDOG_TIMEOUT_S * NS_PER_S / 2);
    }
    assert_int_equal(todo, WATCHDOG_TODO_LET_GO);
    assert_int_equal(now_ns, NS_PER_S + WATCHDOG_KILL_MS * NS_PER_MS);
    assert_int_equal(pats, WATCHDOG_KILL_MS / WATCHDOG_PAT_MS - 1);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(tick_after(&core, 500), 0);
}

static void more_to_end_gives_no_more_time(void **state)
{
    (void)state;
    struct watchdog_core core = {0};
    now_ns = NS_PER_S;
    (void)step(&core, WATCHDOG_EVENT_ISOLATE);
    uint64_t end_ns = now_ns + WATCHDOG_KILL_MS * NS_PER_MS;
    while (now_ns < end_ns) {
        assert_int_equal(step(&core, WATCHDOG_EVENT_ISOLATE), 0);
        (void)tick_after(&core, 500);
    }
    assert_int_equal(core.phase, WATCHDOG_GONE);
    assert_int_equal(step(&core, WATCHDOG_EVENT_ISOLATE), 0);
}

static void one_that_could_not_be_opened_is_tried_again(void **state)
{
    (void)state;
    struct watchdog_core core = {0};
    now_ns = NS_PER_S;
    (void)step(&core, WATCHDOG_EVENT_ISOLATE);
    assert_int_equal(step(&core, WATCHDOG_EVENT_UNOPENED), 0);
    assert_int_equal(step(&core, WATCHDOG_EVENT_ISOLATE), 0);
    now_ns += WATCHDOG_RETRY_MS * NS_PER_MS;
    assert_int_equal(step(&core, WATCHDOG_EVENT_ISOLATE), WATCHDOG_TODO_WAKE | WATCHDOG_TODO_PAT);
    assert_int_equal(core.since_ns, now_ns);
}

static void vms_that_end_put_it_to_sleep_even_when_it_was_let_go(void **state)
{
    (void)state;
    struct watchdog_core core = {0};
    now_ns = NS_PER_S;
    (void)step(&core, WATCHDOG_EVENT_ISOLATE);
    assert_int_equal(step(&core, WATCHDOG_EVENT_ISOLATED), WATCHDOG_TODO_SLEEP);
    assert_int_equal(tick_after(&core, 60000), 0);

    (void)step(&core, WATCHDOG_EVENT_ISOLATE);
    assert_int_equal(tick_after(&core, WATCHDOG_KILL_MS), WATCHDOG_TODO_LET_GO);
    assert_int_equal(step(&core, WATCHDOG_EVENT_ISOLATED), WATCHDOG_TODO_SLEEP);
    assert_int_equal(step(&core, WATCHDOG_EVENT_ISOLATE), WATCHDOG_TODO_WAKE | WATCHDOG_TODO_PAT);
}

/* ---- over a pipe ---- */
static char folder[64], device[96];

static int open_device(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/godwit-watchdog-XXXXXX");
    assert_non_null(mkdtemp(folder));
    (void)snprintf(device, sizeof device, "%s/watchdog", folder);
    assert_int_equal(mkfifo(device, 0600), 0);
    int fd = open(device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void expect_heard(int fd, const char *words)
{
    char heard[64] = "";
    ssize_t got = read(fd, heard, sizeof heard - 1);
    assert_int_equal(got, (ssize_t)strlen(words));
    assert_string_equal(heard, words);
}

static void its_device_hears_pats_and_the_word_before_the_close(void **state)
{
    (void)state;
    struct loop *loop = NULL;
    struct watchdog *watchdog = NULL;
    struct fault fault = {0};
    int fd = open_device();
    assert_int_equal(loop_new(&loop, &fault), 0);
    assert_int_equal(watchdog_new(&watchdog, loop, device, &fault), 0);
    expect_heard(fd, ""); /* nobody has it open */

    watchdog_isolate(watchdog);
    expect_heard(fd, "p");
    watchdog_isolated(watchdog);
    expect_heard(fd, "V");
    expect_heard(fd, "");

    watchdog_isolate(watchdog);
    watchdog = watchdog_free(watchdog); /* the agent ends, and nothing is proven */
    expect_heard(fd, "p");
    (void)loop_free(loop);
    (void)close(fd);
    (void)unlink(device);
    (void)rmdir(folder);
}

static void a_device_that_cannot_be_had_is_told_at_the_start_and_harms_nothing_later(void **state)
{
    (void)state;
    struct loop *loop = NULL;
    struct watchdog *watchdog = NULL;
    struct fault fault = {0};
    assert_int_equal(loop_new(&loop, &fault), 0);
    assert_int_equal(watchdog_new(&watchdog, loop, "/dev/no-watchdog", &fault), ERR_INVALID);
    assert_non_null(strstr(fault.text, "/dev/no-watchdog"));

    (void)close(open_device()); /* nobody reads any more */
    assert_int_equal(watchdog_new(&watchdog, loop, device, &fault), 0);
    watchdog_isolate(watchdog);
    watchdog_isolated(watchdog);
    watchdog = watchdog_free(watchdog);
    watchdog_isolate(NULL);
    watchdog_isolated(NULL);
    (void)loop_free(loop);
    (void)unlink(device);
    (void)rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_sleeps_while_nobody_must_end),
        cmocka_unit_test(it_is_patted_while_kills_have_their_time_and_then_no_more),
        cmocka_unit_test(more_to_end_gives_no_more_time),
        cmocka_unit_test(one_that_could_not_be_opened_is_tried_again),
        cmocka_unit_test(vms_that_end_put_it_to_sleep_even_when_it_was_let_go),
        cmocka_unit_test(its_device_hears_pats_and_the_word_before_the_close),
        cmocka_unit_test(a_device_that_cannot_be_had_is_told_at_the_start_and_harms_nothing_later),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
