#include "agent/host_facts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/id.h"

static char run_dir[64];

static struct host_facts *facts_new(void)
{
    struct host_facts *facts = NULL;
    struct fault fault = {0};
    assert_int_equal(host_facts_new(&facts, "node1", "127.0.0.1", run_dir, &fault), 0);
    return facts;
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(run_dir, sizeof run_dir, "/tmp/godwit-facts.XXXXXX");
    return mkdtemp(run_dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char path[128];
    (void)snprintf(path, sizeof path, "%s/incarnation", run_dir);
    (void)unlink(path);
    return rmdir(run_dir);
}

static void the_incarnation_survives_the_agent_but_not_its_run_folder(void **state)
{
    (void)state;
    char first[ID_TEXT_SIZE], path[128];
    struct host_facts *facts = facts_new();
    (void)snprintf(first, sizeof first, "%s", host_facts_incarnation(facts));
    (void)host_facts_free(facts);

    facts = facts_new();
    assert_string_equal(first, host_facts_incarnation(facts));
    (void)host_facts_free(facts);

    (void)snprintf(path, sizeof path, "%s/incarnation", run_dir);
    assert_int_equal(unlink(path), 0); /* as a boot does */
    facts = facts_new();
    assert_string_not_equal(first, host_facts_incarnation(facts));
    (void)host_facts_free(facts);
}

static void tells_what_the_host_has(void **state)
{
    (void)state;
    struct host_facts *facts = facts_new();

    const Godwit__HostFacts *message = host_facts_read(facts);

    assert_string_equal(message->name, "node1");
    assert_true(message->cpus >= 1);
    assert_true(message->memory_bytes > message->memory_free_bytes);
    assert_true(message->memory_free_bytes > 0);
    assert_true(message->n_baselines >= 1);
    assert_true(message->kvm || message->kvm_missing);
    (void)host_facts_free(facts);
}

static void refuses_a_vm_that_does_not_fit_with_numbers(void **state)
{
    (void)state;
    struct host_facts *facts = facts_new();
    struct fault fault = {0};
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__CpuSpec cpu = GODWIT__CPU_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    int kvm_fd = -1;
    spec.name = (char *)"big";
    spec.cpu = &cpu;
    spec.memory = &memory;
    cpu.baseline = (char *)"no-such-cpu";
    memory.size = UINT64_C(1) << 50;

    assert_int_equal(host_facts_check(facts, &spec, &kvm_fd, &fault), ERR_UNSUPPORTED);
    assert_non_null(strstr(fault.text, "no-such-cpu"));
    assert_int_equal(kvm_fd, -1);
    cpu.baseline = (char *)"x86-64-v1";
    if (host_facts_read(facts)->kvm) {
        assert_int_equal(host_facts_check(facts, &spec, &kvm_fd, &fault), ERR_LIMIT);
        assert_non_null(strstr(fault.text, "big needs 1073741824 MiB"));
    }
    assert_int_equal(kvm_fd, -1);
    (void)host_facts_free(facts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_incarnation_survives_the_agent_but_not_its_run_folder,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(tells_what_the_host_has, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_a_vm_that_does_not_fit_with_numbers, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
