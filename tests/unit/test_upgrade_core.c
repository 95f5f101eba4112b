/* Every state that two processes, their latch files and an agent's ignorance can be in: what is decided
 * never makes two owners and never leaves none. */
#include "agent/upgrade_core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const Godwit__Latch old_latches[] = {
    GODWIT__LATCH__LATCH_NONE, GODWIT__LATCH__LATCH_OUT, GODWIT__LATCH__LATCH_GAVE,
    GODWIT__LATCH__LATCH_ABORTED, GODWIT__LATCH__LATCH_RELEASED};
static const Godwit__Latch next_latches[] = {
    GODWIT__LATCH__LATCH_NONE, GODWIT__LATCH__LATCH_IN, GODWIT__LATCH__LATCH_READY,
    GODWIT__LATCH__LATCH_TOOK, GODWIT__LATCH__LATCH_ABANDONED};

static void for_all(void (*check)(const struct upgrade_facts *facts))
{
    for (unsigned bits = 0; bits < 16; bits++) {
        for (size_t i = 0; i < 5; i++) {
            for (size_t j = 0; j < 5; j++) {
                const struct upgrade_facts facts = {
                    .old = {.is_alive = bits & 1, .latch = old_latches[i]},
                    .next = {.is_alive = bits & 2, .latch = next_latches[j]},
                    .is_called_off = bits & 4,
                    .is_overdue = bits & 8,
                };
                check(&facts);
            }
        }
    }
}

/* It has the right to run, or may still get it by a word that is on its way. */
static bool next_may_run(const struct upgrade_facts *facts)
{
    bool given = facts->old.latch == GODWIT__LATCH__LATCH_GAVE ||
                 (facts->old.latch == GODWIT__LATCH__LATCH_OUT && facts->old.is_alive);
    return facts->next.latch == GODWIT__LATCH__LATCH_TOOK ||
           (given && facts->next.is_alive && facts->next.latch != GODWIT__LATCH__LATCH_ABANDONED);
}

static void check_switch(const struct upgrade_facts *facts)
{
    bool switches = upgrade_core_judge(facts) == UPGRADE_SWITCH;
    assert_int_equal(switches, facts->next.latch == GODWIT__LATCH__LATCH_TOOK);
}

static void the_next_process_has_the_vm_exactly_when_it_took_it(void **state)
{
    (void)state;
    for_all(check_switch);
}

static void check_resume(const struct upgrade_facts *facts)
{
    if (upgrade_core_judge(facts) != UPGRADE_RESUME_OLD)
        return;
    assert_false(next_may_run(facts));
    assert_true(facts->old.is_alive);
    assert_int_equal(facts->old.latch, GODWIT__LATCH__LATCH_GAVE);
}

static void the_old_process_goes_on_only_when_the_next_never_will(void **state)
{
    (void)state;
    for_all(check_resume);
}

static void check_end(const struct upgrade_facts *facts)
{
    enum upgrade_answer answer = upgrade_core_judge(facts);
    if (answer == UPGRADE_KILL_NEXT || answer == UPGRADE_DROP_NEXT)
        assert_false(next_may_run(facts));
    if (answer == UPGRADE_DROP_NEXT) {
        assert_false(facts->next.is_alive);
        /* what is forgotten here nobody would resume later */
        assert_false(facts->old.is_alive && facts->old.latch == GODWIT__LATCH__LATCH_GAVE);
    }
}

static void nothing_that_may_run_is_killed_or_forgotten(void **state)
{
    (void)state;
    for_all(check_end);
}

static void check_take(const struct upgrade_facts *facts)
{
    if (upgrade_core_judge(facts) != UPGRADE_TAKE)
        return;
    assert_int_equal(facts->old.latch, GODWIT__LATCH__LATCH_GAVE);
    assert_int_equal(facts->next.latch, GODWIT__LATCH__LATCH_READY);
    assert_true(facts->next.is_alive);
}

static void only_a_guest_that_was_given_is_taken(void **state)
{
    (void)state;
    for_all(check_take);
}

/* Two processes that are no more change nothing any more: waiting would be for ever. */
static void check_dead(const struct upgrade_facts *facts)
{
    if (!facts->old.is_alive && !facts->next.is_alive)
        assert_int_not_equal(upgrade_core_judge(facts), UPGRADE_WAIT);
}

static void nobody_is_waited_for_when_both_have_ended(void **state)
{
    (void)state;
    for_all(check_dead);
}

static void a_next_process_that_dies_while_ready_is_told_of_waits_for_the_old_ones_latch(void **state)
{
    (void)state;
    struct upgrade_facts facts = {.old = {true, GODWIT__LATCH__LATCH_OUT},
                                  .next = {false, GODWIT__LATCH__LATCH_READY}};

    assert_int_equal(upgrade_core_judge(&facts), UPGRADE_WAIT);
    facts.old.latch = GODWIT__LATCH__LATCH_GAVE; /* the READY had been on its way */
    assert_int_equal(upgrade_core_judge(&facts), UPGRADE_RESUME_OLD);
    facts.old.latch = GODWIT__LATCH__LATCH_ABORTED;
    assert_int_equal(upgrade_core_judge(&facts), UPGRADE_DROP_NEXT);
}

static void an_upgrade_that_was_called_off_before_it_began_ends_the_next_process(void **state)
{
    (void)state;
    struct upgrade_facts facts = {.old = {true, GODWIT__LATCH__LATCH_NONE},
                                  .next = {true, GODWIT__LATCH__LATCH_IN}};

    assert_int_equal(upgrade_core_judge(&facts), UPGRADE_WAIT); /* the order may be on its way */
    facts.is_called_off = true;
    assert_int_equal(upgrade_core_judge(&facts), UPGRADE_KILL_NEXT);
    facts.next.is_alive = false;
    assert_int_equal(upgrade_core_judge(&facts), UPGRADE_DROP_NEXT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_process_has_the_vm_exactly_when_it_took_it),
        cmocka_unit_test(the_old_process_goes_on_only_when_the_next_never_will),
        cmocka_unit_test(nothing_that_may_run_is_killed_or_forgotten),
        cmocka_unit_test(only_a_guest_that_was_given_is_taken),
        cmocka_unit_test(nobody_is_waited_for_when_both_have_ended),
        cmocka_unit_test(
            a_next_process_that_dies_while_ready_is_told_of_waits_for_the_old_ones_latch),
        cmocka_unit_test(an_upgrade_that_was_called_off_before_it_began_ends_the_next_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
