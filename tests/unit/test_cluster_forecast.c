#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_forecast.h"
#include "coordinator/words.h"

static struct cluster cluster;
static struct cluster_vm *vm;
static Godwit__CpuSpec cpu;
static Godwit__MemorySpec memory;
static Godwit__VmSpec spec;

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    cluster = (struct cluster){0};
    vm = cluster_add_vm(&cluster, "vm-1");
    assert_non_null(vm);
    godwit__cpu_spec__init(&cpu);
    godwit__memory_spec__init(&memory);
    godwit__vm_spec__init(&spec);
    cpu.vcpus = 2;
    memory.size = GIB(1);
    spec.cpu = &cpu;
    spec.memory = &memory;
    spec.name = (char *)(uintptr_t) "db";
    vm->spec = cluster_message_copy(&spec.base);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_deinit(&cluster);
    return 0;
}

static uint64_t at_ns[] = {62500000, 125000000, 250000000, 500000000, 1000000000};
static uint64_t written[] = {MIB(2), MIB(4), MIB(8), MIB(16), MIB(30)};

static Godwit__VmSample sample_of(void)
{
    Godwit__VmSample sample = GODWIT__VM_SAMPLE__INIT;
    sample.populated_bytes = MIB(600);
    sample.zero_permille = 200;
    sample.at_ns = at_ns;
    sample.written_bytes = written;
    sample.n_at_ns = sample.n_written_bytes = 5;
    return sample;
}

static void a_sample_is_judged_before_it_is_believed(void **state)
{
    (void)state;
    uint64_t twice[] = {1, 1, 2, 3, 4}, falling[] = {5, 4, 3, 2, 1},
             beyond[] = {1, 2, 3, 4, GIB(1)};
    Godwit__VmSample none = sample_of(), early = sample_of(), falls = sample_of(),
                     much = sample_of(), uneven = sample_of(), zero = sample_of();
    none.n_at_ns = none.n_written_bytes = 0;
    early.at_ns = twice;
    falls.written_bytes = falling;
    much.written_bytes = beyond;
    uneven.n_at_ns = 4;
    zero.zero_permille = 1001;
    const Godwit__VmSample *bad[] = {&none, &early, &falls, &much, &uneven, &zero};
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(cluster_forecast_sample(vm, bad[i], NULL), ERR_CORRUPT);
    assert_false(vm->is_sampled);

    Godwit__VmSample good = sample_of();
    assert_int_equal(cluster_forecast_sample(vm, &good, NULL), 0);
    assert_true(vm->is_sampled);
    assert_true(vm->dirty_bytes_per_s > (double)MIB(29) && vm->dirty_bytes_per_s < (double)MIB(31));
}

/* A move from node1 to node2 that took so long, as its coordinator keeps it. */
static struct cluster_job *add_move(const char *id, uint64_t total_ms, uint64_t pause_us)
{
    struct cluster_job *job = cluster_add_job(&cluster, id);
    assert_non_null(job);
    WORDS_COPY(job->core.vm_id, "vm-1");
    WORDS_COPY(job->core.source_host, "node1");
    WORDS_COPY(job->core.target_host, "node2");
    job->core.step = JOB_ENDED;
    job->core.state = JOB_DONE;
    cluster_forecast_job(&cluster, vm, job);
    assert_non_null(job->forecast);

    Godwit__MoveReceipt receipt = GODWIT__MOVE_RECEIPT__INIT;
    Godwit__MoveRound bulk = GODWIT__MOVE_ROUND__INIT, last = GODWIT__MOVE_ROUND__INIT;
    Godwit__MoveRound *rounds[] = {&bulk, &last};
    bulk.has_pages = bulk.has_zero_pages = bulk.has_duration_ns = true;
    bulk.pages = MIB(600) / PAGE_BYTES;
    bulk.zero_pages = bulk.pages / 5;
    bulk.duration_ns = total_ms * NS_PER_MS / 2;
    receipt.rounds = rounds;
    receipt.n_rounds = 2;
    receipt.has_moved = receipt.moved = true;
    receipt.has_total_ns = receipt.has_downtime_ns = receipt.has_populated_bytes = true;
    receipt.total_ns = total_ms * NS_PER_MS;
    receipt.downtime_ns = pause_us * NS_PER_US;
    receipt.populated_bytes = MIB(600);
    job->receipt = cluster_message_copy(&receipt.base);
    return job;
}

static bool is_near(double seconds, double wanted, double share)
{
    return seconds > wanted * (1 - share) && seconds < wanted * (1 + share);
}

static void
what_moves_took_is_learned_per_vm_and_per_link_and_again_by_the_next_coordinator(void **state)
{
    (void)state;
    Godwit__VmSample sample = sample_of();
    struct cluster_todo todo = {0};
    char id[16];
    assert_int_equal(cluster_forecast_sample(vm, &sample, NULL), 0);
    struct forecast before = cluster_forecast(&cluster, vm, "node1", "node2", NULL);
    for (unsigned i = 0; i < 8; i++) {
        (void)snprintf(id, sizeof id, "J%06u", i);
        cluster_forecast_learn(&cluster, add_move(id, 2000, 2100));
    }

    struct forecast after = cluster_forecast(&cluster, vm, "node1", "node2", NULL);
    assert_false(is_near(before.seconds, 2.0, 0.2));
    assert_true(is_near(after.seconds, 2.0, 0.08));
    assert_true(is_near(after.pause_s, 0.0021, 0.25));
    assert_true(after.seconds_high > after.seconds && after.seconds_high < 1.6 * after.seconds);
    assert_int_equal(vm->record.moves, 8);

    /* another VM knows the link, not itself */
    struct cluster_vm other = {.spec = vm->spec, .seen = vm->seen, .is_sampled = true};
    assert_true(
        is_near(cluster_forecast(&cluster, &other, "node1", "node2", NULL).seconds, 2.0, 0.15));

    /* a coordinator that starts anew has the jobs, nothing else */
    free(cluster.links);
    cluster.links = NULL;
    cluster.link_count = 0;
    cluster.link = (struct forecast_link){0};
    vm->record = (struct forecast_record){0};
    vm->is_sampled = false;
    cluster_restart(&cluster, (struct cluster_now){.ns = NS_PER_S, .unix_ms = 1}, &todo);
    assert_int_equal(vm->record.moves, 8);
    assert_true(is_near(cluster_forecast(&cluster, vm, "node1", "node2", NULL).seconds, 2.0, 0.1));
    cluster_todo_deinit(&todo);
}

static void goals_and_policies_are_reckoned_with(void **state)
{
    (void)state;
    uint64_t wild[] = {MIB(60), MIB(110), MIB(200), MIB(350), MIB(500)};
    Godwit__VmSample sample = sample_of();
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    sample.written_bytes = wild;
    assert_int_equal(cluster_forecast_sample(vm, &sample, NULL), 0);

    goals.policy = (char *)(uintptr_t) "gentle";
    assert_false(cluster_forecast(&cluster, vm, "node1", "node2", &goals).converges);
    goals.policy = (char *)(uintptr_t) "finish";
    struct forecast held = cluster_forecast(&cluster, vm, "node1", "node2", &goals);
    assert_true(held.converges && held.throttle_permille > 0);
    goals.deadline_ms = 500;
    assert_false(cluster_forecast(&cluster, vm, "node1", "node2", &goals).converges);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_sample_is_judged_before_it_is_believed),
        TEST(what_moves_took_is_learned_per_vm_and_per_link_and_again_by_the_next_coordinator),
        TEST(goals_and_policies_are_reckoned_with),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
