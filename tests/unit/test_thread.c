/* What a thread asks of the scheduler, as the kernel tells it back. */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sys/resource.h>

#include "base/thread.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_gives_way_comes_back_when_it_hurries),
        cmocka_unit_test(its_neighbours_are_as_important_as_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
