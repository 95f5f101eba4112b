#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/backend_libvirt/qemu_watch.h"
#include "base/err.h"
#include "base/loop.h"

static bool has_ended;

static void ended(void *data)
{
    (void)data;
    has_ended = true;
}

static pid_t child(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        for (;;)
            (void)pause();
    }
    return pid;
}

static void reads_flags_behind_any_name(void **state)
{
    (void)state;
    unsigned long flags = 0;
    assert_true(qemu_watch_parse_flags("7 (CPU 0/KVM) R 1 2 3 4 5 4194308 0 0", &flags));
    assert_int_equal(flags & 4, 4);
    assert_true(qemu_watch_parse_flags("7 (a) b) c) S 1 2 3 4 5 64 0", &flags));
    assert_int_equal(flags, 64);
    assert_false(qemu_watch_parse_flags("7 (cut) S 1 2", &flags));
    assert_false(qemu_watch_parse_flags("", &flags));
}

static void tells_the_end_of_a_process_and_not_before(void **state)
{
    (void)state;
    struct loop *loop;
    struct qemu_watch *watch;
    assert_int_equal(loop_new(&loop, NULL), 0);
    pid_t pid = child();
    assert_false(qemu_watch_is_ending(pid));
    has_ended = false;
    assert_int_equal(qemu_watch_new(&watch, loop, pid, ended, NULL, NULL), 0);

    assert_int_equal(kill(pid, SIGKILL), 0);
    while (!has_ended)
        loop_turn(loop, true);

    assert_true(qemu_watch_is_ending(pid));
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    watch = qemu_watch_free(watch);
    (void)loop_free(loop);
}

static void may_be_freed_while_it_watches(void **state)
{
    (void)state;
    struct loop *loop;
    struct qemu_watch *watch;
    assert_int_equal(loop_new(&loop, NULL), 0);
    pid_t pid = child();
    has_ended = false;
    assert_int_equal(qemu_watch_new(&watch, loop, pid, ended, NULL, NULL), 0);

    watch = qemu_watch_free(watch);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_false(has_ended);
    assert_int_not_equal(qemu_watch_new(&watch, loop, pid, ended, NULL, NULL), 0);
    (void)loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_flags_behind_any_name),
        cmocka_unit_test(tells_the_end_of_a_process_and_not_before),
        cmocka_unit_test(may_be_freed_while_it_watches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
