#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/world.h"
#include "vmm-core/brake.h"

static void a_period_holds_its_share(void **state)
{
    (void)state;
    for (unsigned permille = 1; permille <= BRAKE_PERMILLE_MAX; permille++) {
        struct brake_period period = brake_plan(permille);
        assert_in_range(period.held_ns * 1000 / period.period_ns, permille - 1, permille);
        assert_true(period.period_ns >= 4 * NS_PER_MS && period.period_ns <= 40 * NS_PER_MS);
        assert_true(period.period_ns - period.held_ns >= 390 * NS_PER_US);
    }
}

static void only_those_who_fault_are_held(void **state)
{
    (void)state;
    const uint64_t one[] = {3, 1000, 0, 124, 125};
    assert_int_equal(brake_pick(one, 5), 1 << 1 | 1 << 4);
    const uint64_t all[] = {10, 10, 9};
    assert_int_equal(brake_pick(all, 3), 7);
}

static void all_are_held_where_nobody_is_counted(void **state)
{
    (void)state;
    const uint64_t none[16] = {0};
    assert_int_equal(brake_pick(none, 16), 0xffff);
    const uint64_t few[] = {0, 1};
    assert_int_equal(brake_pick(few, 2), 1 << 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_period_holds_its_share),
        cmocka_unit_test(only_those_who_fault_are_held),
        cmocka_unit_test(all_are_held_where_nobody_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
