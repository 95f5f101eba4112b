#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/world.h"
#include "migrate/pacer.h"

static void holds_the_rate_over_a_second(void **state)
{
    (void)state;
    struct pacer_core core;
    uint64_t now_ns = NS_PER_S, sent = 0;
    pacer_core_init(&core, 100 << 20, now_ns);
    while (now_ns < 2 * NS_PER_S) {
        now_ns += pacer_core_take(&core, 256 << 10, now_ns);
        sent += 256 << 10;
    }
    assert_in_range(sent, 100 << 20, 104 << 20);
}

static void a_rest_saves_no_more_than_the_burst(void **state)
{
    (void)state;
    struct pacer_core core;
    pacer_core_init(&core, 100 << 20, 0);
    assert_int_equal(pacer_core_take(&core, core.burst_bytes, 100 * NS_PER_S), 0);
    assert_true(pacer_core_take(&core, 1 << 20, 100 * NS_PER_S) > 9 * NS_PER_MS);
}

static void without_a_limit_nobody_waits(void **state)
{
    (void)state;
    struct pacer_core core;
    pacer_core_init(&core, 0, 0);
    assert_int_equal(pacer_core_take(&core, UINT64_MAX, 1), 0);
}

static void a_new_limit_counts_from_now_on(void **state)
{
    (void)state;
    struct pacer_core core;
    pacer_core_init(&core, 1 << 20, 0);
    assert_true(pacer_core_take(&core, 100 << 20, 0) > 99 * NS_PER_S);
    pacer_core_set(&core, 100 << 20, NS_PER_S); /* 1 MiB was paid */
    assert_in_range(pacer_core_debt_ns(&core, NS_PER_S), 980 * NS_PER_MS, 990 * NS_PER_MS);
    assert_in_range(pacer_core_debt_ns(&core, NS_PER_S + 500 * NS_PER_MS), 480 * NS_PER_MS,
                    490 * NS_PER_MS);
    assert_int_equal(pacer_core_debt_ns(&core, 3 * NS_PER_S), 0);
    pacer_core_set(&core, 0, 3 * NS_PER_S);
    assert_int_equal(pacer_core_take(&core, UINT64_MAX, 3 * NS_PER_S), 0);
    pacer_core_set(&core, 1 << 20, 4 * NS_PER_S); /* no debt comes out of freedom */
    assert_int_equal(pacer_core_take(&core, core.burst_bytes, 4 * NS_PER_S), 0);
}

static void what_was_sent_without_waiting_is_paid_by_who_waits(void **state)
{
    (void)state;
    struct pacer *pacer = NULL;
    uint64_t waited_ns = 0;
    assert_int_equal(pacer_new(&pacer, 100 << 20), 0);
    pacer_charge(pacer, 10 << 20); /* a tenth of a second, less what a burst may hold */
    assert_int_equal(pacer_wait(pacer, 1, &waited_ns), 0);
    assert_true(waited_ns > 0);
    pacer_set(pacer, 0);
    pacer_charge(pacer, UINT64_MAX);
    assert_int_equal(pacer_wait(pacer, 1 << 30, &waited_ns), 0);
    assert_int_equal(waited_ns, 0);
    pacer_free(pacer);
}

static void a_closed_pacer_frees_whoever_waits(void **state)
{
    (void)state;
    struct pacer *pacer = NULL;
    uint64_t waited_ns = 0;
    assert_int_equal(pacer_new(&pacer, 1), 0);
    pacer_close(pacer);
    assert_int_equal(pacer_wait(pacer, 1 << 30, &waited_ns), PACER_E_CLOSED);
    pacer_free(pacer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds_the_rate_over_a_second),
        cmocka_unit_test(a_rest_saves_no_more_than_the_burst),
        cmocka_unit_test(without_a_limit_nobody_waits),
        cmocka_unit_test(a_new_limit_counts_from_now_on),
        cmocka_unit_test(what_was_sent_without_waiting_is_paid_by_who_waits),
        cmocka_unit_test(a_closed_pacer_frees_whoever_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
