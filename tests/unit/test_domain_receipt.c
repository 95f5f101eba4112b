#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/backend_libvirt/domain_receipt.h"
#include "base/world.h"

#define PHASE(name) GODWIT__MOVE_PHASE__MOVE_PHASE_##name

static struct domain_receipt whole(void)
{
    return (struct domain_receipt){
        .order_ns = NS_PER_S,
        .greeted_ns = NS_PER_S + 2 * NS_PER_MS,
        .stopped_ns = NS_PER_S + 900 * NS_PER_MS,
        .off_ns = NS_PER_S + 950 * NS_PER_MS,
        .taken_ns = NS_PER_S + 1000 * NS_PER_MS,
        .resume_ns = 3 * NS_PER_MS,
        .memory_bytes = 1 << 20,
        .plan = {.downtime_ms = 100, .connections = 2},
        .job = {.setup_ms = 10,
                .iteration = 3,
                .normal_pages = 7,
                .zero_pages = 5,
                .data_total = 4096,
                .data_processed = 2048},
    };
}

static void a_whole_move_tells_its_phases_in_order_and_its_pause(void **state)
{
    (void)state;
    static const Godwit__MovePhase wanted[] = {PHASE(GREET), PHASE(PREPARE), PHASE(PRECOPY),
                                               PHASE(STATE), PHASE(HANDOVER)};
    static struct domain_receipt_told told;
    struct domain_receipt receipt = whole();

    domain_receipt_fill(&receipt, true, PHASE(HANDOVER), 2 * NS_PER_S + 5, &told);

    assert_int_equal(told.message.n_phases, 5);
    uint64_t at_ns = 0;
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(told.message.phases[i]->phase, wanted[i]);
        assert_int_equal(told.message.phases[i]->start_ns, at_ns); /* without a gap */
        at_ns += told.message.phases[i]->duration_ns;
    }
    assert_int_equal(told.message.ended_in, PHASE(DONE));
    assert_int_equal(told.message.downtime_ns, 100 * NS_PER_MS);
    assert_int_equal(told.message.state_ns, 50 * NS_PER_MS);
    assert_int_equal(told.message.total_ns, NS_PER_S + 5);
    assert_int_equal(told.message.n_rounds, 3);
    assert_int_equal(told.message.rounds[0]->pages, 12);
    assert_int_equal(told.message.wire_bytes, 2048);
    assert_int_equal(told.message.lanes, 2);
}

static void a_move_that_broke_off_tells_no_pause_and_where_it_ended(void **state)
{
    (void)state;
    static struct domain_receipt_told told;
    struct domain_receipt receipt = {.order_ns = NS_PER_S};

    domain_receipt_fill(&receipt, false, PHASE(ROLLED_BACK), 3 * NS_PER_S, &told);

    assert_int_equal(told.message.n_phases, 1);
    assert_int_equal(told.message.phases[0]->phase, PHASE(GREET));
    assert_int_equal(told.message.phases[0]->duration_ns, 2 * NS_PER_S);
    assert_int_equal(told.message.ended_in, PHASE(ROLLED_BACK));
    assert_false(told.message.has_downtime_ns);
    assert_false(told.message.has_wire_bytes); /* none was told: that is not zero */
    assert_int_equal(told.message.n_rounds, 0);
}

static void more_rounds_than_there_is_room_for_are_cut(void **state)
{
    (void)state;
    static struct domain_receipt_told told;
    struct domain_receipt receipt = whole();
    receipt.job.iteration = UINT64_MAX;

    domain_receipt_fill(&receipt, true, PHASE(DONE), 2 * NS_PER_S, &told);

    assert_int_equal(told.message.n_rounds, DOMAIN_RECEIPT_ROUNDS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_move_tells_its_phases_in_order_and_its_pause),
        cmocka_unit_test(a_move_that_broke_off_tells_no_pause_and_where_it_ended),
        cmocka_unit_test(more_rounds_than_there_is_room_for_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
