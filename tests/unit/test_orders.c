/* What the table decides without a process; the orders themselves run in
 * tests/host/test_godwit_vm.c. */
#include "agent/orders.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "agent/move_sockets.h"
#include "agent/order_verdict.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "net/rpc.h"
#include "proto/method.h"

static int judge(bool known, uint64_t held, uint64_t hiwater, bool alive, uint64_t generation,
                 struct fault *fault)
{
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    struct vm_entry entry = {.status = &status, .hiwater = hiwater, .unreachable = alive};

    status.has_state = known;
    status.generation = held;
    return orders_judge_start(&entry, hiwater, generation, fault);
}

static void a_start_of_the_present_generation_answers_its_status(void **state)
{
    (void)state;
    struct fault fault = {0};

    assert_int_equal(judge(true, 5, 5, true, 5, &fault), ORDERS_SAME);
    assert_int_equal(judge(true, 5, 5, false, 5, &fault), ORDERS_SAME);
}

static void an_older_generation_is_refused_by_name(void **state)
{
    (void)state;
    struct fault fault = {0};

    assert_int_equal(judge(true, 5, 7, false, 4, &fault), ERR_REFUSED);
    assert_non_null(strstr(fault.text, "generation 4 is too old: this host has seen 7"));
    assert_int_equal(judge(true, 5, 7, false, 7, &fault), ERR_REFUSED); /* of an aborted move */
}

static void a_newer_start_waits_for_the_end_of_what_runs(void **state)
{
    (void)state;
    struct fault fault = {0};

    assert_int_equal(judge(true, 5, 5, true, 6, &fault), ERR_STATE);
    assert_int_equal(judge(true, 5, 5, false, 6, &fault), ORDERS_START);
    assert_int_equal(judge(false, 0, 0, false, 1, &fault), ORDERS_START);
    assert_int_equal(orders_judge_start(NULL, 0, 1, &fault), ORDERS_START);
    assert_int_equal(orders_judge_start(NULL, 0, 0, &fault), ERR_INVALID);
    assert_int_equal(orders_judge_start(NULL, 7, 7, &fault), ERR_REFUSED); /* of one that is gone */
}

static void every_order_has_one_row(void **state)
{
    (void)state;
    size_t count;
    const struct rpc_method *methods = orders_methods(&count);

    /* and of HA, SAMPLE, COUNTERS, libvirt, UPGRADE, STORE_LOOK, images and their sealing, DISK_MOVE, REBOOT, RESET,
     * snapshots and their clones, disaster recovery, AUTOSTART_OFF */
    assert_int_equal(count, METHOD_ORDER_MOVE_TUNE - METHOD_ORDER_VM_START + 32);
    for (unsigned method = METHOD_ORDER_VM_START; method <= METHOD_ORDER_MOVE_TUNE; method++) {
        unsigned rows = 0;
        for (size_t i = 0; i < count; i++)
            rows += methods[i].method == method;
        assert_int_equal(rows, 1);
    }
}

static void only_a_source_that_gave_and_resumes_anew_takes_its_disks_back_first(void **state)
{
    (void)state;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT;
    Godwit__DiskSpec *disks[] = {&disk};
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MoveLatch latch = GODWIT__MOVE_LATCH__INIT;
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    Godwit__MoveVerdict verdict = GODWIT__MOVE_VERDICT__INIT;
    struct vm_entry entry = {.status = &status};
    disk.store = (char *)"/srv/shared";
    disk.shared = true;
    spec.disks = disks;
    spec.n_disks = 1;
    latch.latch = GODWIT__LATCH__LATCH_GAVE;
    latch.generation = 6;
    status.latch = &latch;
    status.spec = &spec;
    status.generation = 5;
    verdict.kind = GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME;
    verdict.generation = 7;

    assert_true(order_verdict_restamps(&entry, &verdict));
    verdict.generation = 6; /* refused by the process */
    assert_false(order_verdict_restamps(&entry, &verdict));
    verdict.generation = 7;
    verdict.kind = GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP;
    assert_false(order_verdict_restamps(&entry, &verdict));
    verdict.kind = GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON;
    assert_true(order_verdict_restamps(&entry, &verdict));
    latch.latch = GODWIT__LATCH__LATCH_OUT; /* it runs on as what it was */
    assert_false(order_verdict_restamps(&entry, &verdict));
    latch.latch = GODWIT__LATCH__LATCH_GAVE;
    disk.read_only = true;
    assert_false(order_verdict_restamps(&entry, &verdict));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_start_of_the_present_generation_answers_its_status),
        cmocka_unit_test(an_older_generation_is_refused_by_name),
        cmocka_unit_test(a_newer_start_waits_for_the_end_of_what_runs),
        cmocka_unit_test(every_order_has_one_row),
        cmocka_unit_test(only_a_source_that_gave_and_resumes_anew_takes_its_disks_back_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
