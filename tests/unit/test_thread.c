/* What a thread asks of the scheduler, as the kernel tells it back. */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/thread.h"

enum { NOBODY = 65534 };

struct nices {
    int begun, given, given_twice, hurried, hurried_twice;
};

static int nice_now(void)
{
    return getpriority(PRIO_PROCESS, 0);
}

static void *give_way_and_hurry(void *data)
{
    struct nices *nices = data;
    thread_begin("test");
    nices->begun = nice_now();
    thread_give_way();
    nices->given = nice_now();
    thread_give_way();
    nices->given_twice = nice_now();
    thread_hurry();
    nices->hurried = nice_now();
    thread_hurry();
    nices->hurried_twice = nice_now();
    return NULL;
}

/* Without the right to come back a step of 1 may stay, and no more. */
static bool may_come_back(int nice)
{
    return setpriority(PRIO_PROCESS, 0, nice + 1) == 0 && setpriority(PRIO_PROCESS, 0, nice) == 0;
}

static void *look_whether_it_may(void *data)
{
    bool *may = data;
    *may = may_come_back(nice_now());
    return NULL;
}

static void in_thread(void *(*run)(void *data), void *data)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run, data), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void who_gives_way_comes_back_when_it_hurries(void **state)
{
    (void)state;
    struct nices nices = {0};
    bool may = false;
    int before = nice_now();
    if (before > 14)
        skip(); /* there is no room to give way in */
    in_thread(look_whether_it_may, &may);
    in_thread(give_way_and_hurry, &nices);
    assert_int_equal(nices.begun, before);
    assert_int_equal(nices.given_twice, nices.given);
    assert_int_equal(nices.hurried_twice, nices.hurried);
    if (may) {
        assert_int_equal(nices.given, before + 5);
        assert_int_equal(nices.hurried, before);
    } else {
        assert_in_range(nices.given, before, before + 1);
        assert_int_equal(nices.hurried, nices.given);
    }
}

static void its_neighbours_are_as_important_as_before(void **state)
{
    (void)state;
    struct nices nices = {0};
    int before = nice_now();
    in_thread(give_way_and_hurry, &nices);
    assert_int_equal(nice_now(), before);
}

struct policies {
    int begun, urged, still_urged, child, relaxed, nice;
};

static void *tell_policy(void *data)
{
    *(int *)data = sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;
    return NULL;
}

static void *urge_and_relax(void *data)
{
    struct policies *policies = data;
    thread_begin("test");
    (void)tell_policy(&policies->begun);
    thread_give_way();
    thread_urge();
    thread_urge();
    (void)tell_policy(&policies->urged);
    in_thread(tell_policy, &policies->child);
    thread_urge_ends(UINT64_MAX);
    (void)tell_policy(&policies->still_urged);
    thread_urge_ends(0);
    (void)tell_policy(&policies->relaxed);
    policies->nice = nice_now();
    thread_relax();
    return NULL;
}

static void *look_whether_it_may_be_urged(void *data)
{
    const struct sched_param least = {.sched_priority = 1};
    *(bool *)data = sched_setscheduler(0, SCHED_RR, &least) == 0;
    return NULL;
}

static void who_is_urged_comes_first_until_it_relaxes(void **state)
{
    (void)state;
    struct policies policies = {0};
    bool may = false, may_return = false;
    int before = nice_now();
    in_thread(look_whether_it_may_be_urged, &may);
    in_thread(look_whether_it_may, &may_return);
    in_thread(urge_and_relax, &policies);
    assert_int_equal(policies.begun, SCHED_OTHER);
    assert_int_equal(policies.urged, may ? SCHED_RR : SCHED_OTHER);
    assert_int_equal(policies.still_urged, policies.urged);
    assert_int_equal(policies.child, SCHED_OTHER);
    assert_int_equal(policies.relaxed, SCHED_OTHER);
    if (may_return)
        assert_int_equal(policies.nice, before);
}

/* A process that may urge by RLIMIT_RTPRIO alone: what a thread has taken it must be able to give.
 */
static int relax_unprivileged(void)
{
    int urged = 0, relaxed = 0;
    thread_urge();
    (void)tell_policy(&urged);
    if (setresuid(NOBODY, NOBODY, NOBODY) < 0)
        return 2;
    thread_relax();
    (void)tell_policy(&relaxed);
    return urged != SCHED_RR ? 2 : relaxed != SCHED_OTHER;
}

static void who_may_be_urged_by_a_limit_only_relaxes_too(void **state)
{
    (void)state;
    int status = 0;
    if (getuid() != 0)
        skip();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(relax_unprivileged());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 2)
        skip(); /* this kernel or this container gives it to nobody */
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_gives_way_comes_back_when_it_hurries),
        cmocka_unit_test(who_is_urged_comes_first_until_it_relaxes),
        cmocka_unit_test(who_may_be_urged_by_a_limit_only_relaxes_too),
        cmocka_unit_test(its_neighbours_are_as_important_as_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
