#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_view.h"
#include "coordinator/preflight.h"
#include "proto/limits.h"

#define VM_STATE(name) GODWIT__VM_STATE__VM_STATE_##name
#define VERB(name) GODWIT__VM_VERB__VM_VERB_##name

static struct cluster cluster;
static struct cluster_todo todo; /* of the last step */
static struct problem problem;
static uint64_t now_ns, ticket;

static struct cluster_now later(void)
{
    now_ns += 10 * NS_PER_MS;
    cluster_todo_deinit(&todo);
    return (struct cluster_now){.ns = now_ns, .unix_ms = 1};
}

static bool is_old; /* the agent that says hello: it does not know of stops that end starts */

static void hello(const char *name, const char *incarnation, Godwit__VmStatus *status)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT, v2 = GODWIT__BASELINE_FACT__INIT;
    Godwit__BaselineFact *baselines[] = {&v1, &v2};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello message = GODWIT__AGENT_HELLO__INIT;
    v1.name = (char *)(uintptr_t) "x86-64-v1";
    v2.name = (char *)(uintptr_t) "x86-64-v2";
    v1.has_given = v1.given = v2.has_given = true;
    v2.given = strcmp(name, "node3") != 0;
    facts.name = (char *)(uintptr_t)name;
    facts.incarnation = (char *)(uintptr_t)incarnation;
    facts.has_kvm = facts.kvm = true;
    facts.has_memory_free_bytes = true;
    facts.memory_free_bytes = GIB(4);
    facts.baselines = baselines;
    facts.n_baselines = 2;
    message.facts = &facts;
    message.has_ends_starts = message.ends_starts = !is_old;
    if (status) {
        message.vms = &status;
        message.n_vms = 1;
    }
    cluster_hello(&cluster, cluster_host(&cluster, name), &message, later(), &todo);
}

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    cluster = (struct cluster){0};
    is_old = false;
    now_ns = NS_PER_S;
    static const char *const names[] = {"node1", "node2", "node3"};
    for (int i = 0; i < 3; i++) {
        assert_non_null(cluster_host_joined(&cluster, names[i], later(), &todo));
        hello(names[i], "boot-1", NULL);
    }
    cluster.warning_count = 0; /* node3 is weaker, which it has said */
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_todo_deinit(&todo);
    cluster_deinit(&cluster);
    return 0;
}

static int create(const char *name, uint64_t memory, const char *baseline, const char *host)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec size = GODWIT__MEMORY_SPEC__INIT;
    Godwit__CpuSpec cpu = GODWIT__CPU_SPEC__INIT;
    char id[ID_TEXT_SIZE];
    (void)snprintf(id, sizeof id, "id-%.20s", name);
    size.has_size = true;
    size.size = memory;
    cpu.baseline = (char *)(uintptr_t)baseline;
    spec.name = (char *)(uintptr_t)name;
    spec.memory = &size;
    spec.cpu = &cpu;
    spec.kernel = (char *)(uintptr_t) "/kernel";
    spec.host = (char *)(uintptr_t)host;
    return cluster_create_vm(&cluster, &spec, id, false, later(), &ticket, &problem, &todo);
}

static struct cluster_vm *vm_named(const char *name)
{
    struct cluster_vm *vm = cluster_find_vm(&cluster, name, NULL);
    assert_non_null(vm);
    return vm;
}

/* The last order goes well. */
static void order_succeeds(Godwit__VmState state, uint64_t generation)
{
    assert_int_equal(todo.order_count, 1);
    struct cluster_order order = todo.orders[0];
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    struct cluster_result result = {.definite = true, .status = &status};
    status.vm_id = order.vm_id;
    status.has_state = status.has_generation = true;
    status.state = state;
    status.generation = generation;
    cluster_order_done(&cluster, &order, &result, later(), &todo);
}

static void order_fails(int err, bool definite)
{
    assert_int_equal(todo.order_count, 1);
    struct cluster_order order = todo.orders[0];
    struct fault fault = {0};
    struct cluster_result result = {.fault = &fault, .definite = definite};
    fault_set(&fault, err, "no");
    cluster_order_done(&cluster, &order, &result, later(), &todo);
}

static void create_running(const char *name, const char *host)
{
    assert_int_equal(create(name, MIB(64), "x86-64-v1", host), 0);
    order_succeeds(VM_STATE(RUNNING), 1);
    assert_int_equal(vm_named(name)->own.phase, OWN_RUN);
}

static int migrate(const char *vm, const char *to, struct cluster_job **ret_job)
{
    struct cluster_move_ask ask = {.vm = vm, .to = to, .job_id = "J000001", .move_id = "move-1"};
    return cluster_migrate(&cluster, &ask, later(), ret_job, &problem, &todo);
}

static void report(const char *host, const char *vm, Godwit__VmState state, uint64_t generation,
                   Godwit__Latch latch, uint64_t latch_generation)
{
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    Godwit__MoveLatch message = GODWIT__MOVE_LATCH__INIT;
    status.vm_id = vm_named(vm)->id;
    status.has_state = status.has_generation = true;
    status.state = state;
    status.generation = generation;
    message.move_id = (char *)(uintptr_t) "move-0";
    message.has_latch = message.has_generation = true;
    message.latch = latch;
    message.generation = latch_generation;
    status.latch = latch ? &message : NULL;
    hello(host, "boot-1", &status);
}

static void goals_of_a_move_change_until_it_no_longer_reads_them(void **state)
{
    (void)state;
    struct cluster_job *job = NULL, *set = NULL;
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    create_running("web", "node1");
    assert_int_equal(migrate("web", "node2", &job), 0);

    goals.has_bandwidth_bytes_per_s = true;
    goals.bandwidth_bytes_per_s = MIB(5);
    goals.policy = (char *)(uintptr_t) "finish";
    assert_int_equal(cluster_set_goals(&cluster, "J000001", &goals, later(), &set, &problem, &todo),
                     0);
    assert_ptr_equal(set, job);
    assert_string_equal(job->goals->policy, "finish");
    assert_int_equal(job->goals->bandwidth_bytes_per_s, MIB(5));
    bool has_job = false;
    for (size_t i = 0; i < todo.put_count; i++)
        has_job |= todo.puts[i].kind == PUT_JOB;
    assert_true(has_job);
    assert_int_equal(todo.order_count, 0); /* MOVE_OUT will carry them */

    Godwit__MoveGoals other = GODWIT__MOVE_GOALS__INIT;
    other.has_downtime_ns_max = true;
    other.downtime_ns_max = NS_PER_MS;
    job->core.step = JOB_MOVE;
    assert_int_equal(cluster_set_goals(&cluster, "J000001", &other, later(), &set, &problem, &todo),
                     0);
    assert_string_equal(job->goals->policy, "finish"); /* what is not named stays */
    assert_int_equal(job->goals->downtime_ns_max, NS_PER_MS);
    assert_int_equal(todo.order_count, 1);
    assert_int_equal(todo.orders[0].kind, ORDER_TUNE);
    assert_string_equal(todo.orders[0].host, "node1");

    other.policy = (char *)(uintptr_t) "soon";
    assert_int_equal(cluster_set_goals(&cluster, "J000001", &other, later(), &set, &problem, &todo),
                     -1);
    assert_int_equal(problem.code, GW_USAGE);
    other.policy = NULL;
    job->core.step = JOB_FORWARD;
    assert_int_equal(cluster_set_goals(&cluster, "J000001", &other, later(), &set, &problem, &todo),
                     -1);
    assert_int_equal(problem.code, GW_JOB_TOO_LATE);
}

static void goals_that_nobody_can_keep_are_refused_by_name(void **state)
{
    (void)state;
    struct cluster_job *job = NULL;
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    struct cluster_move_ask ask = {
        .vm = "web", .to = "node2", .job_id = "J000001", .move_id = "move-1", .goals = &goals};
    create_running("web", "node1");

    goals.postcopy = goals.verify_reread = true;
    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &job, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_USAGE);
    assert_non_null(strstr(problem.text, "--postcopy goes without --verify"));
    assert_non_null(strstr(problem.hint, "--policy finish"));
    goals.verify_reread = false;
    goals.lanes = LANES_MAX - 1;
    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &job, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_USAGE);
    goals.lanes = 0;
    goals.no_postcopy = true;
    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &job, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_USAGE);
    goals.postcopy = goals.no_postcopy = false;
    goals.away_ms_max = AWAY_MS_LONGEST + 1;
    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &job, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_USAGE);
    goals.away_ms_max = AWAY_MS_LONGEST;
    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &job, &problem, &todo), 0);
}

/* ---- post-copy by policy ----------------------------------------------------------------------
 */

/* Owned by the caller. */
static struct cluster_job *dry_run_of_web(Godwit__MoveGoals *goals)
{
    struct cluster_job *job = NULL;
    struct cluster_move_ask ask = {.vm = "web",
                                   .to = "node2",
                                   .job_id = "J000001",
                                   .move_id = "move-1",
                                   .goals = goals,
                                   .dry_run = true};
    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &job, &problem, &todo), 0);
    return job;
}

static bool has_note(const struct cluster_job *job, const char *words)
{
    bool found = false;
    for (unsigned i = 0; i < job->note_count; i++)
        found |= strstr(job->notes[i], words) != NULL;
    return found;
}

static void finish_may_leave_pages_behind_and_says_so_and_no_other_policy_may(void **state)
{
    (void)state;
    static const char *const words[] = {"gentle", "balanced", "finish", ""};
    create_running("web", "node1");
    for (unsigned i = 0; i < 4; i++) {
        Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
        goals.policy = (char *)(uintptr_t)words[i];
        goals.has_postcopy_late = goals.postcopy_late = true; /* not the operator's to say */
        struct cluster_job *job = dry_run_of_web(&goals);
        bool finish = i == 2;
        assert_int_equal(job->goals->postcopy_late, finish);
        assert_int_equal(job->core.may_postcopy, finish);
        assert_int_equal(has_note(job, "--no-postcopy forbids it"), finish);
        (void)cluster_job_free(job);
    }
}

static void expect_no_postcopy(Godwit__MoveGoals *goals, const char *words)
{
    struct cluster_job *job = dry_run_of_web(goals);
    assert_false(job->core.may_postcopy);
    assert_true(has_note(job, words));
    (void)cluster_job_free(job);
}

static void what_forbids_a_post_copy_by_policy_is_told(void **state)
{
    (void)state;
    create_running("web", "node1");
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    goals.policy = (char *)(uintptr_t) "finish";
    goals.has_no_postcopy = goals.no_postcopy = true;
    expect_no_postcopy(&goals, "without post-copy: --no-postcopy");
    goals.no_postcopy = false;
    goals.has_verify_reread = goals.verify_reread = true;
    expect_no_postcopy(&goals, "without post-copy: --verify");
    goals.verify_reread = false;

    Godwit__MigrationSpec migration = GODWIT__MIGRATION_SPEC__INIT;
    migration.postcopy = (char *)(uintptr_t) "never";
    Godwit__VmSpec *spec = vm_named("web")->spec;
    Godwit__MigrationSpec *before = spec->migration;
    spec->migration = &migration;
    expect_no_postcopy(&goals, "postcopy: never");
    spec->migration = before;

    spec->memory->hugepages = true;
    expect_no_postcopy(&goals, "2 MiB page pool");
    struct cluster_job *none = NULL;
    struct cluster_move_ask ask = {
        .vm = "web", .to = "node2", .job_id = "J000002", .move_id = "move-2", .goals = &goals};
    goals.postcopy = true;
    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &none, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_NO_POSTCOPY);
    assert_non_null(strstr(problem.hint, "without --postcopy"));
}

static void a_host_that_cannot_let_guests_wait_takes_no_ordered_post_copy(void **state)
{
    (void)state;
    create_running("web", "node1");
    struct cluster_host *host = cluster_host(&cluster, "node2");
    char *before = host->facts->postcopy_refused;
    host->facts->postcopy_refused = (char *)(uintptr_t) "no userfaultfd";
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    goals.policy = (char *)(uintptr_t) "finish";
    struct cluster_job *job = dry_run_of_web(&goals);
    assert_true(has_note(job, "without post-copy: node2: no userfaultfd"));
    (void)cluster_job_free(job);

    struct cluster_move_ask ask = {
        .vm = "web", .to = "node2", .job_id = "J000001", .move_id = "move-1", .goals = &goals};
    goals.postcopy = true;
    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &job, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_NO_POSTCOPY);
    assert_non_null(strstr(problem.text, "no userfaultfd"));
    host->facts->postcopy_refused = before;
}

/* ---- create, start ----------------------------------------------------------------------------
 */

static void a_start_is_recorded_before_it_is_ordered(void **state)
{
    (void)state;

    assert_int_equal(create("web", MIB(64), "", NULL), 0);

    const struct cluster_vm *vm = vm_named("web");
    assert_int_equal(vm->own.phase, OWN_STARTING);
    assert_int_equal(vm->own.gen, 1);
    assert_string_equal(vm->spec->cpu->baseline, "x86-64-v1"); /* node3 gives no more */
    assert_int_equal(todo.orders[0].kind, ORDER_START);
    bool has_own = false;
    for (size_t i = 0; i < todo.put_count; i++)
        has_own |= todo.puts[i].kind == PUT_OWN;
    assert_true(has_own);
}

static void a_start_that_was_refused_leaves_the_vm_stopped(void **state)
{
    (void)state;
    assert_int_equal(create("web", MIB(64), "", NULL), 0);

    order_fails(ERR_IO, true);

    assert_int_equal(vm_named("web")->own.phase, OWN_STOPPED);
    assert_int_equal(todo.answers[0].problem->code, GW_START_FAILED);
    assert_string_equal(todo.answers[0].problem->vm_state, "stopped");
}

/* Its file is used up: it is crashed, and not suspended any more. */
static void a_resume_that_is_told_as_ended_has_crashed(void **state)
{
    (void)state;
    create_running("web", "node1");
    struct cluster_vm *vm = vm_named("web");
    own_stop(&vm->own);
    (void)snprintf(vm->suspended, sizeof vm->suspended, "nonce");
    assert_int_equal(cluster_act(&cluster, "web", VERB(RESUME), false, later(), &ticket, &problem, &todo), 0);
    assert_int_equal(vm->own.phase, OWN_STARTING);

    order_succeeds(VM_STATE(CRASHED), 2);

    assert_int_equal(vm->own.phase, OWN_STOPPED);
    assert_true(vm->crashed);
    assert_string_equal(vm->suspended, "");
    assert_int_equal(todo.answers[0].problem->code, GW_START_FAILED);
    assert_non_null(strstr(todo.answers[0].problem->text, "was started on node1 and has crashed"));
}

static struct cluster_order order_of_kind(enum cluster_order_kind kind)
{
    assert_int_equal(todo.order_count, 1);
    assert_int_equal(todo.orders[0].kind, kind);
    return todo.orders[0];
}

/* What hangs has an operator's order under way, and is ended all the same. */
static void a_start_that_hangs_is_ended_and_what_it_was_before_is_kept(void **state)
{
    (void)state;
    create_running("web", "node1");
    struct cluster_vm *vm = vm_named("web");
    own_stop(&vm->own);
    (void)snprintf(vm->suspended, sizeof vm->suspended, "nonce");
    assert_int_equal(cluster_act(&cluster, "web", VERB(RESUME), false, later(), &ticket, &problem, &todo), 0);
    struct cluster_order start = order_of_kind(ORDER_START);
    uint64_t stop_ticket = 0;
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &stop_ticket, &problem, &todo), 0);
    assert_true(stop_ticket && stop_ticket != start.ticket);
    assert_int_equal(vm->ticket, start.ticket);
    struct cluster_order stop = order_of_kind(ORDER_STOP);
    assert_false(stop.remove);

    struct fault fault = {0};
    const struct cluster_result refused = {.definite = true, .fault = &fault};
    (void)fault_set(&fault, ERR_REFUSED, "it was stopped while it was being started");
    cluster_order_done(&cluster, &start, &refused, later(), &todo);
    assert_int_equal(todo.answers[0].ticket, start.ticket);
    assert_int_equal(todo.answers[0].problem->code, GW_START_FAILED);
    Godwit__VmStatus gone = GODWIT__VM_STATUS__INIT;
    const struct cluster_result done = {.definite = true, .status = &gone};
    gone.vm_id = stop.vm_id;
    gone.has_state = gone.has_generation = true;
    gone.state = VM_STATE(GONE);
    gone.generation = stop.generation;
    cluster_order_done(&cluster, &stop, &done, later(), &todo);

    assert_int_equal(todo.answers[0].ticket, stop_ticket);
    assert_null(todo.answers[0].problem);
    assert_int_equal(vm->own.phase, OWN_STOPPED);
    assert_string_equal(vm->suspended, "nonce"); /* it can be resumed */
    assert_int_equal(cluster_act(&cluster, "web", VERB(RESUME), false, later(), &ticket, &problem, &todo), 0);
    assert_int_equal(vm->want, WANT_RUNNING);
}

/* Its start has no answer, and never will: the host's word on the end is enough. */
static void an_end_of_a_start_that_is_unheard_of_is_final(void **state)
{
    (void)state;
    assert_int_equal(create("web", MIB(64), "", "node1"), 0);
    order_fails(ERR_TIMEOUT, false);
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    struct cluster_order stop = order_of_kind(ORDER_STOP);
    order_succeeds(VM_STATE(STOPPED), 0); /* of an earlier life: says nothing of this one */
    assert_int_equal(vm_named("web")->own.phase, OWN_STARTING);
    todo.order_count = 0;
    Godwit__VmStatus gone = GODWIT__VM_STATUS__INIT;
    const struct cluster_result done = {.definite = true, .status = &gone};
    gone.vm_id = stop.vm_id;
    gone.has_state = gone.has_generation = true;
    gone.state = VM_STATE(GONE);
    gone.generation = 1;
    cluster_order_done(&cluster, &stop, &done, later(), &todo);
    assert_int_equal(vm_named("web")->own.phase, OWN_STOPPED);
    assert_null(todo.answers[0].problem);
}

/* Both answers are read at once, and that of the stop is heard first. */
static void a_start_whose_end_is_heard_first_is_told_as_one_that_failed(void **state)
{
    (void)state;
    assert_int_equal(create("web", MIB(64), "", "node1"), 0);
    struct cluster_order start = order_of_kind(ORDER_START);
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    order_succeeds(VM_STATE(GONE), 1);
    assert_int_equal(vm_named("web")->own.phase, OWN_STOPPED);
    struct fault fault = {0};
    const struct cluster_result refused = {.definite = true, .fault = &fault};
    (void)fault_set(&fault, ERR_REFUSED, "it was stopped while it was being started");
    cluster_order_done(&cluster, &start, &refused, later(), &todo);
    assert_int_equal(todo.answers[0].ticket, start.ticket);
    assert_int_equal(todo.answers[0].problem->code, GW_START_FAILED);
    assert_non_null(strstr(todo.answers[0].problem->text, "stopped while it was being started"));
}

/* What was to end on the way ended with its host: the file may be unused, and is what the VM rests in. */
static void a_resume_that_was_to_end_and_whose_host_is_booted_is_suspended_still(void **state)
{
    (void)state;
    create_running("web", "node1");
    struct cluster_vm *vm = vm_named("web");
    own_stop(&vm->own);
    (void)snprintf(vm->suspended, sizeof vm->suspended, "nonce");
    assert_int_equal(cluster_act(&cluster, "web", VERB(RESUME), false, later(), &ticket, &problem, &todo), 0);
    order_fails(ERR_CLOSED, false);
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    order_fails(ERR_CLOSED, false);
    hello("node1", "boot-2", NULL);
    assert_int_equal(vm->own.phase, OWN_STOPPED);
    assert_string_equal(vm->suspended, "nonce");
}

/* Its end came too late: it was stopped as any other that runs. */
static void a_start_that_was_done_before_its_end_is_stopped(void **state)
{
    (void)state;
    assert_int_equal(create("web", MIB(64), "", "node1"), 0);
    struct cluster_order start = order_of_kind(ORDER_START);
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    struct cluster_order stop = order_of_kind(ORDER_STOP);
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    const struct cluster_result result = {.definite = true, .status = &status};
    status.vm_id = start.vm_id;
    status.has_state = status.has_generation = true;
    status.generation = 1;
    status.state = VM_STATE(RUNNING);
    cluster_order_done(&cluster, &start, &result, later(), &todo);
    assert_int_equal(vm_named("web")->own.phase, OWN_RUN);
    status.state = VM_STATE(STOPPED);
    cluster_order_done(&cluster, &stop, &result, later(), &todo);
    assert_int_equal(vm_named("web")->own.phase, OWN_STOPPED);
    assert_null(todo.answers[0].problem);
}

static void a_start_of_unknown_fate_is_neither_stopped_nor_started_elsewhere(void **state)
{
    (void)state;
    assert_int_equal(create("web", MIB(64), "", "node1"), 0);

    order_fails(ERR_TIMEOUT, false);

    assert_int_equal(vm_named("web")->own.phase, OWN_STARTING);
    assert_int_equal(
        cluster_act(&cluster, "web", VERB(START), false, later(), &ticket, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_VM_STATE);
    assert_int_equal(
        cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    order_fails(ERR_NOT_FOUND, true); /* no evidence: the start may still be on its way */
    assert_int_equal(vm_named("web")->own.phase, OWN_STARTING);
    assert_int_equal(todo.answers[0].problem->code, GW_VM_BUSY);
    vm_named("web")->want = WANT_RUNNING;
    hello("node1", "boot-1", NULL);
    assert_int_equal(todo.orders[0].kind, ORDER_START); /* said again, same generation */
    assert_int_equal(todo.orders[0].generation, 1);
    vm_named("web")->want = WANT_STOPPED;
    hello("node1", "boot-1", NULL);
    assert_int_equal(todo.orders[0].kind, ORDER_STOP); /* and where it is to end, that is */
    assert_int_equal(todo.orders[0].generation, 1);
    hello("node1", "boot-2", NULL); /* a boot voids the grant */
    assert_int_equal(vm_named("web")->own.phase, OWN_STOPPED);
}

static void pass_ms(uint64_t ms)
{
    Godwit__AgentHeartbeat heartbeat = GODWIT__AGENT_HEARTBEAT__INIT;
    now_ns += ms * NS_PER_MS;
    for (size_t i = 0; i < cluster.host_count; i++)
        cluster_heartbeat(&cluster, cluster.hosts[i], &heartbeat, later());
    cluster_tick(&cluster, later(), &todo);
}

static unsigned starts(void)
{
    unsigned count = 0;
    for (size_t i = 0; i < todo.order_count; i++)
        count += todo.orders[i].kind == ORDER_START;
    return count;
}

/* Its host is at it, and answers each when it is through. */
static void a_start_that_takes_long_is_said_again_once_and_not_without_end(void **state)
{
    (void)state;
    assert_int_equal(create("web", MIB(64), "", "node1"), 0);
    order_fails(ERR_TIMEOUT, false);
    unsigned said = 0;
    struct cluster_order again = {0};
    for (int i = 0; i < 20; i++) {
        pass_ms(6000);
        said += starts();
        if (starts())
            again = todo.orders[0];
    }
    assert_int_equal(said, 1);
    struct fault fault = {0};
    const struct cluster_result lost = {.fault = &fault};
    (void)fault_set(&fault, ERR_CLOSED, "the line broke");
    cluster_order_done(&cluster, &again, &lost, later(), &todo);
    assert_int_equal(vm_named("web")->own.phase, OWN_STARTING);
    pass_ms(6000);
    assert_int_equal(starts(), 1);
}

/* Else the start is said again, and runs what is to stay down. */
static void a_stop_of_a_start_is_said_again_in_its_place(void **state)
{
    (void)state;
    assert_int_equal(create("web", MIB(64), "", "node1"), 0);
    order_fails(ERR_TIMEOUT, false);
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    order_fails(ERR_CLOSED, false); /* the line broke, or the coordinator was started anew */
    assert_int_equal(vm_named("web")->want, WANT_STOPPED);
    hello("node1", "boot-1", NULL);
    struct cluster_order stop = order_of_kind(ORDER_STOP);
    assert_true(stop.ends_start && !stop.ticket && !stop.remove);
    assert_int_equal(stop.generation, 1);
    struct fault fault = {0};
    const struct cluster_result busy = {.definite = true, .fault = &fault};
    (void)fault_set(&fault, ERR_BUSY, "it cannot be stopped just now");
    cluster_order_done(&cluster, &stop, &busy, later(), &todo);
    assert_int_equal(vm_named("web")->want, WANT_STOPPED);

    pass_ms(6000);
    stop = order_of_kind(ORDER_STOP);
    assert_true(stop.ends_start);
    pass_ms(6000);
    assert_int_equal(todo.order_count, 0); /* that one is out */
    cluster_order_done(&cluster, &stop, &busy, later(), &todo);
    pass_ms(6000);
    stop = order_of_kind(ORDER_STOP);
    Godwit__VmStatus gone = GODWIT__VM_STATUS__INIT;
    const struct cluster_result done = {.definite = true, .status = &gone};
    gone.vm_id = stop.vm_id;
    gone.has_state = gone.has_generation = true;
    gone.state = VM_STATE(GONE);
    gone.generation = 1;
    cluster_order_done(&cluster, &stop, &done, later(), &todo);
    assert_int_equal(vm_named("web")->own.phase, OWN_STOPPED);
}

/* The stop was lost with its line while the start went on: what runs now is stopped. */
static void a_start_that_is_done_though_its_stop_was_lost_is_stopped(void **state)
{
    (void)state;
    assert_int_equal(create("web", MIB(64), "", "node1"), 0);
    struct cluster_order start = order_of_kind(ORDER_START);
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    order_fails(ERR_CLOSED, false);
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    const struct cluster_result result = {.definite = true, .status = &status};
    status.vm_id = start.vm_id;
    status.has_state = status.has_generation = true;
    status.generation = 1;
    status.state = VM_STATE(RUNNING);
    cluster_order_done(&cluster, &start, &result, later(), &todo);
    assert_int_equal(vm_named("web")->own.phase, OWN_RUN);
    struct cluster_order stop = order_of_kind(ORDER_STOP);
    assert_false(stop.remove);
    status.state = VM_STATE(STOPPED);
    cluster_order_done(&cluster, &stop, &result, later(), &todo);
    assert_int_equal(vm_named("web")->own.phase, OWN_STOPPED);
}

/* The host has too many of these, or does not know yet what it holds: that is no refusal. */
static void a_stop_of_a_start_that_meets_a_busy_host_stays_wanted(void **state)
{
    (void)state;
    assert_int_equal(create("web", MIB(64), "", "node1"), 0);
    order_fails(ERR_TIMEOUT, false);
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    order_fails(ERR_BUSY, true);
    assert_int_equal(vm_named("web")->want, WANT_STOPPED);
    assert_int_equal(todo.answers[0].problem->code, GW_VM_BUSY);
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    order_fails(ERR_STATE, true); /* that is */
    assert_int_equal(vm_named("web")->want, WANT_RUNNING);
}

/* Of the version before: it would stop what runs, or find nothing and start it later. */
static void an_agent_that_cannot_end_a_start_is_not_asked_to(void **state)
{
    (void)state;
    is_old = true;
    hello("node1", "boot-1", NULL);
    assert_int_equal(create("web", MIB(64), "", "node1"), 0);
    order_fails(ERR_TIMEOUT, false);

    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_VM_BUSY);
    assert_non_null(strstr(problem.text, "node1, whose agent is of a version that cannot end a start"));
    assert_int_equal(todo.order_count, 0);
    assert_int_equal(vm_named("web")->want, WANT_RUNNING);
    is_old = false;
    hello("node1", "boot-1", NULL); /* upgraded */
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    assert_true(order_of_kind(ORDER_STOP).ends_start);
}

/* It was asked, and goes back to the version before: its "not found" would be no evidence. */
static void a_start_that_was_to_end_on_an_older_agent_is_said_again_and_then_stopped(void **state)
{
    (void)state;
    assert_int_equal(create("web", MIB(64), "", "node1"), 0);
    order_fails(ERR_TIMEOUT, false);
    assert_int_equal(cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), 0);
    order_fails(ERR_CLOSED, false);
    is_old = true;
    hello("node1", "boot-1", NULL);
    struct cluster_order start = order_of_kind(ORDER_START);
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    const struct cluster_result result = {.definite = true, .status = &status};
    status.vm_id = start.vm_id;
    status.has_state = status.has_generation = true;
    status.generation = 1;
    status.state = VM_STATE(RUNNING);
    cluster_order_done(&cluster, &start, &result, later(), &todo);
    struct cluster_order stop = order_of_kind(ORDER_STOP);
    assert_false(stop.ends_start);
    status.state = VM_STATE(STOPPED);
    cluster_order_done(&cluster, &stop, &result, later(), &todo);
    assert_int_equal(vm_named("web")->own.phase, OWN_STOPPED);
}

static void bad_specs_are_refused_and_change_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint64_t memory;
        const char *baseline, *host;
        enum gw_code code;
    } cases[] = {
        {"", MIB(64), "", NULL, GW_SPEC_INVALID},
        {"a/b", MIB(64), "", NULL, GW_SPEC_INVALID},
        {"web", MIB(8), "", NULL, GW_SPEC_INVALID},
        {"web", MIB(64) + 4096, "", NULL, GW_SPEC_INVALID},
        {"web", GIB(128), "", NULL, GW_SPEC_INVALID},
        {"web", MIB(64), "z80", NULL, GW_SPEC_INVALID},
        {"web", MIB(64), "", "node9", GW_HOST_UNKNOWN},
        {"web", MIB(64), "x86-64-v2", "node3", GW_CPU_COMPAT},
        {"web", GIB(5), "", "node1", GW_NO_MEMORY},
        {"web", GIB(5), "", NULL, GW_NO_HOST_FITS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(create(cases[i].name, cases[i].memory, cases[i].baseline, cases[i].host),
                         -1);
        assert_int_equal(problem.code, cases[i].code);
        assert_int_equal(cluster.vm_count, 0);
        assert_int_equal(todo.put_count + todo.order_count, 0);
    }
}

static void a_name_is_given_once(void **state)
{
    (void)state;
    create_running("web", "node1");

    assert_int_equal(create("web", MIB(64), "", NULL), -1);

    assert_int_equal(problem.code, GW_NAME_TAKEN);
    assert_string_equal(problem.vm_state, "running on node1");
}

/* ---- words ------------------------------------------------------------------------------------
 */

static int create_with(const char *name, Godwit__DiskSpec *disk, Godwit__NicSpec *nic)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec size = GODWIT__MEMORY_SPEC__INIT;
    char id[ID_TEXT_SIZE];
    (void)snprintf(id, sizeof id, "id-%.20s", name);
    size.has_size = true;
    size.size = MIB(64);
    spec.name = (char *)(uintptr_t)name;
    spec.memory = &size;
    spec.kernel = (char *)(uintptr_t) "/kernel";
    spec.disks = &disk;
    spec.n_disks = disk ? 1 : 0;
    spec.nics = &nic;
    spec.n_nics = nic ? 1 : 0;
    return cluster_create_vm(&cluster, &spec, id, false, later(), &ticket, &problem, &todo);
}

static void an_address_that_was_not_given_is_made_and_kept(void **state)
{
    (void)state;
    Godwit__NicSpec nic = GODWIT__NIC_SPEC__INIT;
    nic.bridge = (char *)(uintptr_t) "br0";

    assert_int_equal(create_with("web", NULL, &nic), 0);

    const char *mac = vm_named("web")->spec->nics[0]->mac;
    assert_int_equal(strlen(mac), 17);
    nic.mac = (char *)(uintptr_t)mac;
    assert_int_equal(create_with("db", NULL, &nic), -1);
    assert_non_null(strstr(problem.text, "web has a nic with"));
}

static void a_shared_disk_that_is_written_is_one_vms(void **state)
{
    (void)state;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT;
    disk.name = (char *)(uintptr_t) "root";
    disk.store = (char *)(uintptr_t) "/srv/shared";
    disk.file = (char *)(uintptr_t) "root.raw";
    disk.has_shared = disk.shared = true;

    assert_int_equal(create_with("web", &disk, NULL), 0);
    assert_int_equal(create_with("db", &disk, NULL), -1);
    assert_int_equal(problem.code, GW_SPEC_INVALID);
    assert_non_null(strstr(problem.text, "is disk root of web already"));

    disk.file = (char *)(uintptr_t) "other.raw";
    assert_int_equal(create_with("db", &disk, NULL), 0);
}

static void a_disk_that_only_its_host_has_ties_the_vm_to_it(void **state)
{
    (void)state;
    struct cluster_job *job = NULL;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT;
    disk.name = (char *)(uintptr_t) "data";
    disk.path = (char *)(uintptr_t) "/dev/vg/data";
    assert_int_equal(create_with("web", &disk, NULL), 0);
    order_succeeds(VM_STATE(RUNNING), 1);

    assert_int_equal(migrate("web", "auto", &job), -1);

    assert_int_equal(problem.code, GW_DISK_NOT_SHARED);
    assert_non_null(strstr(problem.text, "disk data"));
    assert_non_null(strstr(problem.vm_state, "running on"));
}

static int judge_stamp(uint64_t generation, uint64_t found, const char *owner)
{
    Godwit__Stamp stamp = GODWIT__STAMP__INIT;
    struct fault fault = {0};
    stamp.generation = found;
    stamp.owner = (char *)(uintptr_t)owner;
    return preflight_judge_stamp(vm_named("web"), generation, &stamp, &fault);
}

static void a_start_takes_disks_only_from_a_stamp_that_the_record_has_outlived(void **state)
{
    (void)state;
    create_running("web", "node1");
    vm_named("web")->own.gen = vm_named("web")->own.hiwater = 7;

    assert_int_equal(judge_stamp(7, 0, NULL), 0);    /* nobody has ever held them */
    assert_int_equal(judge_stamp(7, 6, "node2"), 0); /* an earlier life, known to be over */
    assert_int_equal(judge_stamp(7, 7, "node1"), 0); /* this start, said again */
    assert_int_equal(judge_stamp(7, 7, "node2"), ERR_REFUSED);
    assert_int_equal(judge_stamp(7, 8, "node1"), ERR_REFUSED); /* the record is older: a backup */
}

static void words_are_names_ids_and_unique_prefixes(void **state)
{
    (void)state;
    create_running("web", "node1");
    create_running("web-2", "node1");

    assert_string_equal(cluster_find_vm(&cluster, "web", &problem)->spec->name, "web");
    assert_string_equal(cluster_find_vm(&cluster, "web-", &problem)->spec->name, "web-2");
    assert_string_equal(cluster_find_vm(&cluster, "id-web-2", &problem)->spec->name, "web-2");
    assert_null(cluster_find_vm(&cluster, "we", &problem));
    assert_int_equal(problem.code, GW_AMBIGUOUS);
    assert_int_equal(problem.detail_count, 2);
    assert_null(cluster_find_vm(&cluster, "wbe", &problem));
    assert_int_equal(problem.code, GW_VM_UNKNOWN);
    assert_string_equal(problem.hint, "did you mean 'web'?");
    assert_null(cluster_find_host(&cluster, "nod3", &problem));
    assert_string_equal(problem.hint, "did you mean 'node3'?");
}

static void a_host_that_is_silent_is_suspect_then_down_and_its_vms_unknown(void **state)
{
    (void)state;
    create_running("web", "node1");
    const struct cluster_host *host = cluster_host(&cluster, "node1");
    uint64_t seen_ns = host->seen_ns;

    assert_int_equal(cluster_host_state(host, seen_ns + NS_PER_S), HOST_UP);
    assert_int_equal(cluster_host_state(host, seen_ns + 3 * NS_PER_S), HOST_SUSPECT);
    assert_int_equal(cluster_host_state(host, seen_ns + 5 * NS_PER_S), HOST_DOWN);
    assert_string_equal(cluster_vm_word(&cluster, vm_named("web"), seen_ns + 5 * NS_PER_S),
                        "unknown");
    assert_string_equal(cluster_vm_word(&cluster, vm_named("web"), seen_ns + NS_PER_S), "running");
}

/* ---- moves ------------------------------------------------------------------------------------
 */

static void a_move_is_recorded_with_its_job_before_the_target_is_ordered(void **state)
{
    (void)state;
    struct cluster_job *job = NULL;
    create_running("web", "node1");

    assert_int_equal(migrate("web", "node2", &job), 0);

    const struct own *own = &vm_named("web")->own;
    assert_int_equal(own->phase, OWN_HANDOVER);
    assert_int_equal(own->gen, 1);
    assert_int_equal(own->hiwater, 2);
    assert_int_equal(job->core.generation, 2);
    assert_string_equal(own->target, "node2");
    assert_int_equal(todo.order_count, 1);
    assert_int_equal(todo.orders[0].kind, ORDER_MOVE_IN);
    bool has_own = false, has_job = false;
    for (size_t i = 0; i < todo.put_count; i++) {
        has_own |= todo.puts[i].kind == PUT_OWN;
        has_job |= todo.puts[i].kind == PUT_JOB;
    }
    assert_true(has_own && has_job);
}

static void a_move_is_refused_with_its_reason(void **state)
{
    (void)state;
    struct cluster_job *job = NULL;
    create_running("web", "node1");

    assert_int_equal(migrate("nobody", "node2", &job), -1);
    assert_int_equal(problem.code, GW_VM_UNKNOWN);
    assert_int_equal(migrate("web", "node1", &job), -1);
    assert_int_equal(problem.code, GW_SAME_HOST);
    assert_int_equal(migrate("web", "node9", &job), -1);
    assert_int_equal(problem.code, GW_HOST_UNKNOWN);
    cluster_host(&cluster, "node2")->memory_free_bytes = MIB(10);
    assert_int_equal(migrate("web", "node2", &job), -1);
    assert_int_equal(problem.code, GW_NO_MEMORY);
    assert_string_equal(problem.vm_state, "running on node1");
    cluster_link_lost(&cluster, cluster_host(&cluster, "node3"), later(), &todo);
    assert_int_equal(migrate("web", "node3", &job), -1);
    assert_int_equal(problem.code, GW_HOST_DOWN);
    assert_int_equal(migrate("web", "", &job), -1);
    assert_int_equal(problem.code, GW_NO_HOST_FITS);
    assert_int_equal(problem.detail_count, 4); /* three hosts and what the guest uses */
    assert_int_equal(vm_named("web")->own.phase, OWN_RUN);
    assert_int_equal(vm_named("web")->own.hiwater, 1);
}

static void a_pressed_power_button_leaves_what_is_wanted_as_it_is(void **state)
{
    (void)state;
    create_running("web", "node1");

    assert_int_equal(
        cluster_act(&cluster, "web", VERB(POWER_BUTTON), false, later(), &ticket, &problem, &todo),
        0);
    assert_int_equal(todo.orders[0].kind, ORDER_POWER_BUTTON);
    order_succeeds(VM_STATE(RUNNING), 1);
    assert_int_equal(vm_named("web")->want, WANT_RUNNING);
    assert_int_equal(vm_named("web")->ticket, 0);

    report("node1", "web", VM_STATE(STOPPED), 1, GODWIT__LATCH__LATCH_NONE, 0);
    assert_int_equal(vm_named("web")->own.phase, OWN_STOPPED);
    assert_int_equal(
        cluster_act(&cluster, "web", VERB(POWER_BUTTON), false, later(), &ticket, &problem, &todo),
        -1);
    assert_int_equal(problem.code, GW_VM_STATE);
}

static void a_vm_of_the_embedded_vmm_is_not_rebooted_from_outside(void **state)
{
    (void)state;
    create_running("web", "node1");

    assert_int_equal(
        cluster_act(&cluster, "web", VERB(REBOOT), false, later(), &ticket, &problem, &todo), -1);

    assert_int_equal(problem.code, GW_VM_STATE);
    assert_int_equal(todo.order_count, 0);
    assert_int_equal(vm_named("web")->own.phase, OWN_RUN);
}

static void a_guest_without_an_ear_for_its_button_is_told_by_name(void **state)
{
    (void)state;
    create_running("web", "node1");
    assert_int_equal(
        cluster_act(&cluster, "web", VERB(POWER_BUTTON), false, later(), &ticket, &problem, &todo),
        0);

    order_fails(ERR_UNSUPPORTED, true);

    assert_int_equal(todo.answer_count, 1);
    assert_int_equal(todo.answers[0].problem->code, GW_GUEST_DEAF);
    assert_int_equal(vm_named("web")->own.phase, OWN_RUN);
}

static void a_vm_with_a_job_is_busy(void **state)
{
    (void)state;
    struct cluster_job *job = NULL;
    create_running("web", "node1");
    assert_int_equal(migrate("web", "node2", &job), 0);

    assert_int_equal(migrate("web", "node3", &job), -1);
    assert_int_equal(problem.code, GW_VM_BUSY);
    assert_string_equal(problem.vm_state, "running on node1");
    assert_int_equal(
        cluster_act(&cluster, "web", VERB(STOP), false, later(), &ticket, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_VM_BUSY);
}

static void a_dry_run_changes_nothing(void **state)
{
    (void)state;
    struct cluster_job *job = NULL;
    create_running("web", "node1");
    struct cluster_move_ask ask = {
        .vm = "web", .to = "auto", .dry_run = true, .job_id = "J000001", .move_id = "m"};

    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &job, &problem, &todo), 0);

    assert_string_equal(job->core.target_host, "node2");
    assert_int_equal(todo.put_count + todo.order_count, 0);
    assert_int_equal(cluster.job_count, 0);
    assert_int_equal(vm_named("web")->own.phase, OWN_RUN);
    (void)cluster_job_free(job);
}

static void a_move_event_of_a_host_that_has_no_part_in_it_is_ignored(void **state)
{
    (void)state;
    struct cluster_job *job = NULL;
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    create_running("web", "node1");
    assert_int_equal(migrate("web", "node2", &job), 0);
    order_succeeds(VM_STATE(NONE), 0);
    event.move_id = job->core.move_id;
    event.has_at_target = event.at_target = true;
    event.has_latch = true;
    event.latch = GODWIT__LATCH__LATCH_TOOK;

    cluster_move_event(&cluster, cluster_host(&cluster, "node3"), &event, later(), &todo);

    assert_int_equal(job->core.step, JOB_MOVE);
    assert_int_equal(job->core.target.latch, GODWIT__LATCH__LATCH_NONE);
}

/* ---- reconciliation ---------------------------------------------------------------------------
 */

static void a_vm_that_its_host_does_not_have_any_more_has_crashed(void **state)
{
    (void)state;
    create_running("web", "node1");

    hello("node1", "boot-2", NULL);

    assert_int_equal(vm_named("web")->own.phase, OWN_STOPPED);
    assert_string_equal(cluster_vm_word(&cluster, vm_named("web"), now_ns), "crashed");
    assert_string_equal(vm_named("web")->reason, "node1 was booted anew");
}

static void a_vm_that_is_where_it_should_be_is_left_alone(void **state)
{
    (void)state;
    create_running("web", "node1");

    report("node1", "web", VM_STATE(RUNNING), 1, GODWIT__LATCH__LATCH_NONE, 0);

    assert_int_equal(vm_named("web")->own.phase, OWN_RUN);
    assert_int_equal(todo.order_count, 0);
}

static unsigned events_with(const char *words)
{
    unsigned count = 0;
    for (size_t i = 0; i < todo.put_count; i++)
        count += todo.puts[i].kind == PUT_EVENT && strstr(todo.puts[i].text, words) != NULL;
    return count;
}

static void a_vm_that_stands_still_by_itself_is_told_once_with_its_reason(void **state)
{
    (void)state;
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    char reason[1000];
    create_running("web", "node1");
    memset(reason, 'x', sizeof reason);
    memcpy(reason, "disk root failed it ", 20);
    reason[sizeof reason - 1] = '\0'; /* longer than what is kept of it */
    status.vm_id = vm_named("web")->id;
    status.has_state = status.has_generation = true;
    status.state = VM_STATE(PAUSED);
    status.generation = 1;
    status.reason = reason;

    hello("node1", "boot-1", &status);
    assert_memory_equal(vm_named("web")->reason, reason, 20);
    assert_int_equal(events_with("is paused on node1: disk root failed it"), 1);
    assert_string_equal(cluster_vm_word(&cluster, vm_named("web"), now_ns), "paused");

    hello("node1", "boot-1", &status);
    assert_int_equal(events_with("is paused"), 0);

    status.state = VM_STATE(RUNNING);
    status.reason = NULL;
    hello("node1", "boot-1", &status);
    assert_string_equal(vm_named("web")->reason, "");
    assert_int_equal(todo.order_count, 0);
}

static void an_unknown_or_superseded_vm_is_warned_of_and_never_killed(void **state)
{
    (void)state;
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    create_running("web", "node1");
    status.vm_id = (char *)(uintptr_t) "stranger";
    status.has_state = true;
    status.state = VM_STATE(RUNNING);

    hello("node2", "boot-1", &status);
    assert_int_equal(cluster.warning_count, 1);
    assert_int_equal(todo.order_count, 0);
    report("node3", "web", VM_STATE(RUNNING), 1, GODWIT__LATCH__LATCH_NONE, 0);
    assert_int_equal(cluster.warning_count, 3); /* node3 is weaker, too */
    assert_int_equal(todo.order_count, 0);
    hello("node2", "boot-1", NULL); /* gone: no more to warn of */
    hello("node3", "boot-1", NULL);
    assert_int_equal(cluster.warning_count, 1);
}

static void what_a_move_left_over_is_cleared_away(void **state)
{
    (void)state;
    create_running("web", "node1");

    report("node2", "web", VM_STATE(INCOMING), 0, GODWIT__LATCH__LATCH_READY, 1);
    assert_int_equal(todo.orders[0].kind, ORDER_VERDICT);
    assert_int_equal(todo.orders[0].verdict, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON);
    report("node2", "web", VM_STATE(HELD), 0, GODWIT__LATCH__LATCH_GAVE, 1);
    assert_int_equal(todo.orders[0].verdict, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP);
    report("node2", "web", VM_STATE(HELD), 0, GODWIT__LATCH__LATCH_GAVE, 9); /* newer: never */
    assert_int_equal(todo.order_count, 0);
}

static Godwit__VmStatus status_of(const char *vm, Godwit__VmState state, uint64_t generation,
                                  Godwit__MoveLatch *latch)
{
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    status.vm_id = vm_named(vm)->id;
    status.has_state = status.has_generation = true;
    status.state = state;
    status.generation = generation;
    status.latch = latch;
    return status;
}

static Godwit__MoveLatch latch_of(const char *move_id, Godwit__Latch latch, uint64_t generation)
{
    Godwit__MoveLatch message = GODWIT__MOVE_LATCH__INIT;
    message.move_id = (char *)(uintptr_t)move_id;
    message.has_latch = message.has_generation = true;
    message.latch = latch;
    message.generation = generation;
    return message;
}

static bool orders(Godwit__MoveVerdictKind verdict)
{
    for (size_t i = 0; i < todo.order_count; i++) {
        if (todo.orders[i].kind == ORDER_VERDICT && todo.orders[i].verdict == verdict)
            return true;
    }
    return false;
}

static void a_source_is_not_dropped_while_its_target_may_lack_pages(void **state)
{
    (void)state;
    create_running("web", "node1");
    Godwit__MoveLatch took = latch_of("move-0", GODWIT__LATCH__LATCH_TOOK, 1);
    Godwit__VmStatus target = status_of("web", VM_STATE(RUNNING), 1, &took);
    target.has_in_postcopy = target.in_postcopy = true;
    hello("node1", "boot-1", &target);

    report("node2", "web", VM_STATE(HELD), 0, GODWIT__LATCH__LATCH_GAVE, 1);
    assert_false(orders(GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP));
    target.in_postcopy = false;
    hello("node1", "boot-1", &target);
    report("node2", "web", VM_STATE(HELD), 0, GODWIT__LATCH__LATCH_GAVE, 1);

    assert_true(orders(GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP));
}

/* web moves from node1 to node2 and runs there, with pages that only node1 has. */
static struct cluster_job *post_copy_of_web(Godwit__VmStatus *ret_source, Godwit__MoveLatch *gave)
{
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    struct cluster_job *job = NULL;
    goals.has_postcopy = goals.postcopy = true;
    create_running("web", "node1");
    struct cluster_move_ask ask = {
        .vm = "web", .to = "node2", .job_id = "J000001", .move_id = "move-1", .goals = &goals};
    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &job, &problem, &todo), 0);
    order_succeeds(VM_STATE(NONE), 0);
    assert_int_equal(job->core.step, JOB_MOVE);
    *gave = latch_of("move-1", GODWIT__LATCH__LATCH_GAVE, 2);
    *ret_source = status_of("web", VM_STATE(HELD), 1, gave);
    hello("node1", "boot-1", ret_source);
    Godwit__MoveLatch took = latch_of("move-1", GODWIT__LATCH__LATCH_TOOK, 2);
    Godwit__VmStatus target = status_of("web", VM_STATE(RUNNING), 2, &took);
    target.has_in_postcopy = target.in_postcopy = true;
    hello("node2", "boot-1", &target);
    assert_int_equal(job->core.step, JOB_FORWARD);
    return job;
}

static void a_restart_in_post_copy_waits_for_both_sides_and_drops_nobody(void **state)
{
    (void)state;
    Godwit__MoveLatch gave;
    Godwit__VmStatus source;
    struct cluster_job *job = post_copy_of_web(&source, &gave);
    job->core.postcopy = job->core.target_ended = false; /* what is not stored */
    vm_named("web")->in_postcopy = false;
    cluster_restart(&cluster, later(), &todo);

    now_ns += 30 * NS_PER_S; /* neither agent is back yet */
    cluster_tick(&cluster, later(), &todo);
    assert_true(job_core_is_active(&job->core));
    hello("node1", "boot-1", &source);
    assert_false(orders(GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP));

    Godwit__MoveLatch took = latch_of("move-1", GODWIT__LATCH__LATCH_TOOK, 2);
    Godwit__VmStatus target = status_of("web", VM_STATE(RUNNING), 2, &took);
    target.has_in_postcopy = true;
    hello("node2", "boot-1", &target); /* it has all */
    source.state = VM_STATE(GONE);
    gave.latch = GODWIT__LATCH__LATCH_RELEASED;
    hello("node1", "boot-1", &source);
    now_ns += 30 * NS_PER_S;
    cluster_tick(&cluster, later(), &todo);
    assert_int_equal(job->core.state, JOB_DONE);
}

static void a_host_that_was_fenced_by_mistake_keeps_what_serves_a_post_copy(void **state)
{
    (void)state;
    Godwit__MoveLatch gave;
    Godwit__VmStatus source;
    struct cluster_job *job = post_copy_of_web(&source, &gave);
    const struct cluster_host *host = cluster_host(&cluster, "node1");

    assert_false(cluster_ha_superseded(&cluster, host, &source));
    job->core.target_ended = true; /* it needs it no more */
    assert_true(cluster_ha_superseded(&cluster, host, &source));
}

static void a_late_answer_of_an_earlier_life_is_no_evidence(void **state)
{
    (void)state;
    create_running("web", "node1");
    report("node1", "web", VM_STATE(RUNNING), 1, GODWIT__LATCH__LATCH_NONE, 0);
    struct cluster_order question = {.kind = ORDER_STATUS, .host = "node1", .asked_ns = 1};
    struct fault fault = {0};
    struct cluster_result result = {.fault = &fault, .definite = true};
    fault_set(&fault, ERR_NOT_FOUND, "no such VM");
    (void)snprintf(question.vm_id, sizeof question.vm_id, "%s", vm_named("web")->id);

    cluster_order_done(&cluster, &question, &result, later(), &todo);

    assert_int_equal(vm_named("web")->own.phase, OWN_RUN);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static void a_weaker_host_tells_what_it_costs_when_it_comes(void **state)
{
    (void)state;
    /* node3 gives x86-64-v1 only; the others x86-64-v2 */
    assert_int_equal(create("web", MIB(64), "x86-64-v2", "node1"), 0);
    order_succeeds(VM_STATE(RUNNING), 1);
    cluster_link_lost(&cluster, cluster_host(&cluster, "node3"), later(), &todo);
    cluster.warning_count = 0;

    hello("node3", "boot-2", NULL);

    assert_int_equal(cluster.warning_count, 1);
    assert_string_equal(cluster.warnings[0],
                        "node3 lowers the CPU baseline of new VMs from x86-64-v2 to x86-64-v1 (it "
                        "lacks features of it); 1 VMs cannot move there");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(goals_of_a_move_change_until_it_no_longer_reads_them),
        TEST(goals_that_nobody_can_keep_are_refused_by_name),
        TEST(finish_may_leave_pages_behind_and_says_so_and_no_other_policy_may),
        TEST(what_forbids_a_post_copy_by_policy_is_told),
        TEST(a_host_that_cannot_let_guests_wait_takes_no_ordered_post_copy),
        TEST(a_start_is_recorded_before_it_is_ordered),
        TEST(a_start_that_was_refused_leaves_the_vm_stopped),
        TEST(a_resume_that_is_told_as_ended_has_crashed),
        TEST(a_start_that_hangs_is_ended_and_what_it_was_before_is_kept),
        TEST(an_end_of_a_start_that_is_unheard_of_is_final),
        TEST(a_start_whose_end_is_heard_first_is_told_as_one_that_failed),
        TEST(a_resume_that_was_to_end_and_whose_host_is_booted_is_suspended_still),
        TEST(a_start_that_was_done_before_its_end_is_stopped),
        TEST(a_start_of_unknown_fate_is_neither_stopped_nor_started_elsewhere),
        TEST(a_start_that_takes_long_is_said_again_once_and_not_without_end),
        TEST(a_stop_of_a_start_is_said_again_in_its_place),
        TEST(a_start_that_is_done_though_its_stop_was_lost_is_stopped),
        TEST(a_stop_of_a_start_that_meets_a_busy_host_stays_wanted),
        TEST(an_agent_that_cannot_end_a_start_is_not_asked_to),
        TEST(a_start_that_was_to_end_on_an_older_agent_is_said_again_and_then_stopped),
        TEST(bad_specs_are_refused_and_change_nothing),
        TEST(a_name_is_given_once),
        TEST(an_address_that_was_not_given_is_made_and_kept),
        TEST(a_shared_disk_that_is_written_is_one_vms),
        TEST(a_disk_that_only_its_host_has_ties_the_vm_to_it),
        TEST(a_start_takes_disks_only_from_a_stamp_that_the_record_has_outlived),
        TEST(words_are_names_ids_and_unique_prefixes),
        TEST(a_host_that_is_silent_is_suspect_then_down_and_its_vms_unknown),
        TEST(a_move_is_recorded_with_its_job_before_the_target_is_ordered),
        TEST(a_move_is_refused_with_its_reason),
        TEST(a_pressed_power_button_leaves_what_is_wanted_as_it_is),
        TEST(a_vm_of_the_embedded_vmm_is_not_rebooted_from_outside),
        TEST(a_guest_without_an_ear_for_its_button_is_told_by_name),
        TEST(a_vm_with_a_job_is_busy),
        TEST(a_dry_run_changes_nothing),
        TEST(a_move_event_of_a_host_that_has_no_part_in_it_is_ignored),
        TEST(a_vm_that_its_host_does_not_have_any_more_has_crashed),
        TEST(a_vm_that_stands_still_by_itself_is_told_once_with_its_reason),
        TEST(a_vm_that_is_where_it_should_be_is_left_alone),
        TEST(an_unknown_or_superseded_vm_is_warned_of_and_never_killed),
        TEST(what_a_move_left_over_is_cleared_away),
        TEST(a_source_is_not_dropped_while_its_target_may_lack_pages),
        TEST(a_restart_in_post_copy_waits_for_both_sides_and_drops_nobody),
        TEST(a_host_that_was_fenced_by_mistake_keeps_what_serves_a_post_copy),
        TEST(a_late_answer_of_an_earlier_life_is_no_evidence),
        TEST(a_weaker_host_tells_what_it_costs_when_it_comes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
