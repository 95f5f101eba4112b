#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/phase.h"

static void only_one_way_leads_forward(void **state)
{
    (void)state;
    for (int from = PHASE_NONE; from < PHASE_COUNT; from++) {
        unsigned ways = 0;
        for (int to = PHASE_NONE; to < PHASE_COUNT; to++)
            ways += to != PHASE_ROLLED_BACK && phase_may_follow((enum phase)from, (enum phase)to);
        bool final = phase_is_final((enum phase)from);
        unsigned expected = from == PHASE_HANDOVER ? 3 : from == PHASE_PARKED ? 2 : 1;
        assert_int_equal(ways, final ? 0 : expected);
        /* In post-copy the guest has run at the target: there is no way back any more. */
        assert_int_equal(phase_may_follow((enum phase)from, PHASE_ROLLED_BACK),
                         !final && from != PHASE_POSTCOPY);
    }
}

static void every_phase_has_its_word(void **state)
{
    (void)state;
    for (int phase = PHASE_NONE; phase < PHASE_COUNT; phase++)
        assert_non_null(phase_name((enum phase)phase));
    assert_string_equal(phase_name(PHASE_ROLLED_BACK), "rolled-back");
    assert_string_equal(phase_name(PHASE_COUNT), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_one_way_leads_forward),
        cmocka_unit_test(every_phase_has_its_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
