#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "coordinator/planner.h"

static Godwit__BaselineFact v1, v2, v3;
static Godwit__BaselineFact *three[] = {&v1, &v2, &v3};
static Godwit__HostFacts strong, weak, without_kvm;
static Godwit__BaselineFact weak_v3;
static Godwit__BaselineFact *weak_three[] = {&v1, &v2, &weak_v3};
static struct planner_host hosts[4];

static void fill_baseline(Godwit__BaselineFact *fact, const char *name, bool given)
{
    godwit__baseline_fact__init(fact);
    fact->name = (char *)(uintptr_t)name;
    fact->has_given = true;
    fact->given = given;
    fact->missing = (char *)(uintptr_t)(given ? NULL : "avx2 bmi2");
}

static void fill_facts(Godwit__HostFacts *facts, Godwit__BaselineFact **baselines, bool kvm)
{
    godwit__host_facts__init(facts);
    facts->has_kvm = true;
    facts->kvm = kvm;
    facts->baselines = baselines;
    facts->n_baselines = 3;
}

static int set_up(void **state)
{
    (void)state;
    fill_baseline(&v1, "x86-64-v1", true);
    fill_baseline(&v2, "x86-64-v2", true);
    fill_baseline(&v3, "x86-64-v3", true);
    fill_baseline(&weak_v3, "x86-64-v3", false);
    fill_facts(&strong, three, true);
    fill_facts(&weak, weak_three, true);
    fill_facts(&without_kvm, three, false);
    hosts[0] = (struct planner_host){"node1", true, &strong, GIB(8), 0};
    hosts[1] = (struct planner_host){"node2", true, &weak, GIB(16), 0};
    hosts[2] = (struct planner_host){"node3", true, &strong, GIB(12), 0};
    hosts[3] = (struct planner_host){"node4", false, &strong, GIB(99), 0};
    return 0;
}

static struct planner_ask ask_for(const char *baseline)
{
    return (struct planner_ask){.vm_name = "web", .baseline = baseline, .memory_bytes = GIB(4)};
}

static void takes_the_host_with_most_free_memory_that_fits(void **state)
{
    (void)state;
    struct planner_ask any = ask_for("x86-64-v2"), v3_only = ask_for("x86-64-v3");

    assert_int_equal(planner_choose(hosts, 4, &any, NULL), 1);
    assert_int_equal(planner_choose(hosts, 4, &v3_only, NULL), 2);
}

static void counts_what_is_promised_already(void **state)
{
    (void)state;
    struct planner_ask ask = ask_for("x86-64-v3");
    hosts[2].memory_promised_bytes = GIB(9);

    assert_int_equal(planner_choose(hosts, 4, &ask, NULL), 0);
}

static void breaks_a_tie_by_name(void **state)
{
    (void)state;
    struct planner_ask ask = ask_for("x86-64-v3");
    hosts[2].memory_free_bytes = GIB(8);

    assert_int_equal(planner_choose(hosts, 4, &ask, NULL), 0);
}

static void a_guest_stays_with_the_vendor_of_its_cpu(void **state)
{
    (void)state;
    struct planner_ask ask = ask_for("x86-64-v3");
    struct problem problem;
    ask.cpu_vendor = "GenuineIntel";
    ask.only_on = "node3";
    strong.cpu_vendor = (char *)(uintptr_t) "AuthenticAMD";

    assert_int_equal(planner_choose(hosts, 4, &ask, &problem), -1);
    assert_int_equal(problem.code, GW_CPU_COMPAT);
    assert_non_null(strstr(problem.text, "AuthenticAMD"));

    strong.cpu_vendor = (char *)(uintptr_t) "GenuineIntel";
    assert_int_equal(planner_choose(hosts, 4, &ask, NULL), 2);
}

static void a_host_without_the_bridge_of_a_nic_falls_out(void **state)
{
    (void)state;
    static char *bridges[] = {(char *)(uintptr_t) "br0"};
    struct planner_ask ask = ask_for("x86-64-v3");
    struct problem problem;
    Godwit__NicSpec nic = GODWIT__NIC_SPEC__INIT;
    Godwit__NicSpec *nics[] = {&nic};
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    nic.bridge = (char *)(uintptr_t) "br1";
    spec.nics = nics;
    spec.n_nics = 1;
    ask.spec = &spec;
    ask.only_on = "node3";
    strong.cpu_vendor = (char *)(uintptr_t) "GenuineIntel";
    strong.bridges = bridges;
    strong.n_bridges = 1;

    assert_int_equal(planner_choose(hosts, 4, &ask, &problem), -1);
    assert_int_equal(problem.code, GW_NO_BRIDGE);

    nic.bridge = (char *)(uintptr_t) "br0";
    assert_int_equal(planner_choose(hosts, 4, &ask, NULL), 2);
}

static void tells_the_reason_of_every_host_when_none_fits(void **state)
{
    (void)state;
    struct planner_ask ask = ask_for("x86-64-v3");
    struct problem problem;
    ask.not_on = "node3";
    ask.memory_bytes = GIB(9);

    assert_int_equal(planner_choose(hosts, 4, &ask, &problem), -1);

    assert_int_equal(problem.code, GW_NO_HOST_FITS);
    assert_int_equal(problem.detail_count, 4);
    assert_non_null(strstr(problem.details[0], "8192 MiB of memory free"));
    assert_non_null(strstr(problem.details[1], "lacks CPU features"));
    assert_non_null(strstr(problem.details[1], "avx2 bmi2"));
    assert_non_null(strstr(problem.details[2], "already runs"));
    assert_non_null(strstr(problem.details[3], "does not answer"));
}

static void tells_the_reason_of_the_host_that_was_asked_for_and_who_fits(void **state)
{
    (void)state;
    struct planner_ask ask = ask_for("x86-64-v3");
    struct problem problem;
    ask.only_on = "node2";

    assert_int_equal(planner_choose(hosts, 4, &ask, &problem), -1);

    assert_int_equal(problem.code, GW_CPU_COMPAT);
    assert_non_null(strstr(problem.hint, "node1, node3"));
}

static void refuses_a_host_without_kvm(void **state)
{
    (void)state;
    struct planner_ask ask = ask_for("");
    hosts[0].facts = &without_kvm;

    assert_int_equal(planner_judge(&hosts[0], &ask, NULL, 0), GW_HOST_KVM);
}

static void the_pools_baseline_is_the_best_that_all_that_are_up_give(void **state)
{
    (void)state;
    assert_string_equal(planner_baseline(hosts, 4), "x86-64-v2");
    hosts[1].up = false;
    assert_string_equal(planner_baseline(hosts, 4), "x86-64-v3");
    assert_null(planner_baseline(hosts, 0));
}

#define TEST(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(takes_the_host_with_most_free_memory_that_fits),
        TEST(counts_what_is_promised_already),
        TEST(breaks_a_tie_by_name),
        TEST(tells_the_reason_of_every_host_when_none_fits),
        TEST(tells_the_reason_of_the_host_that_was_asked_for_and_who_fits),
        TEST(refuses_a_host_without_kvm),
        TEST(a_guest_stays_with_the_vendor_of_its_cpu),
        TEST(a_host_without_the_bridge_of_a_nic_falls_out),
        TEST(the_pools_baseline_is_the_best_that_all_that_are_up_give),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
