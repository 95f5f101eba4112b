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
#include "coordinator/disk_move.h"
#include "coordinator/pool_store.h"
#include "coordinator/words.h"

#define VERB(name) GODWIT__DISK_MOVE_VERB__DISK_MOVE_##name

static struct cluster cluster;
static struct cluster_todo todo;
static struct problem problem;
static struct cluster_vm *vm;
static struct cluster_disk_move *move;
static uint64_t now_ns;

static struct cluster_now later(void)
{
    now_ns += 10 * NS_PER_MS;
    cluster_todo_deinit(&todo);
    problem = (struct problem){0};
    return (struct cluster_now){.ns = now_ns, .unix_ms = 1};
}

static void join(const char *name)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT, *baselines[] = {&v1};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello hello = GODWIT__AGENT_HELLO__INIT;
    assert_non_null(cluster_host_joined(&cluster, name, later(), &todo));
    v1.name = (char *)(uintptr_t) "x86-64-v1";
    v1.has_given = v1.given = true;
    facts.name = (char *)(uintptr_t)name;
    facts.incarnation = (char *)(uintptr_t) "boot-1";
    facts.has_kvm = facts.kvm = true;
    facts.has_memory_free_bytes = true;
    facts.memory_free_bytes = GIB(4);
    facts.baselines = baselines;
    facts.n_baselines = 1;
    hello.facts = &facts;
    cluster_hello(&cluster, cluster_host(&cluster, name), &hello, later(), &todo);
}

static void add_store(const char *name, const char *path, const char *host)
{
    Godwit__PoolStore given = GODWIT__POOL_STORE__INIT, *draft = NULL;
    struct cluster_store *store;
    char *hosts[] = {(char *)(uintptr_t)host};
    given.name = (char *)(uintptr_t)name;
    given.path = (char *)(uintptr_t)path;
    given.hosts = hosts;
    given.n_hosts = 1;
    assert_int_equal(pool_store_draft(&cluster, &given, later(), &draft, &problem), 0);
    assert_int_equal(pool_store_add(&cluster, draft, later(), &store, &problem, &todo), 0);
}

static void start_vm(void)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT, *disks[] = {&disk};
    uint64_t ticket;
    memory.has_size = true;
    memory.size = MIB(128);
    disk.name = (char *)(uintptr_t) "root";
    disk.store = (char *)(uintptr_t) "one";
    disk.file = (char *)(uintptr_t) "web.raw";
    disk.has_size = true;
    disk.size = GIB(1);
    spec.name = (char *)(uintptr_t) "web";
    spec.memory = &memory;
    spec.kernel = (char *)(uintptr_t) "/kernel";
    spec.disks = disks;
    spec.n_disks = 1;
    assert_int_equal(cluster_create_vm(&cluster, &spec, "id-web", false, later(), &ticket, &problem,
                                       &todo),
                     0);
    vm = cluster.vms[0];
    struct cluster_order order = todo.orders[0];
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    struct cluster_result result = {.definite = true, .status = &status};
    status.vm_id = order.vm_id;
    status.has_state = status.has_generation = true;
    status.state = GODWIT__VM_STATE__VM_STATE_RUNNING;
    status.generation = vm->own.gen;
    cluster_order_done(&cluster, &order, &result, later(), &todo);
    vm->disk_bytes[0] = GIB(1);
}

static int begin(const char *disk, const char *to)
{
    const struct disk_move_ask ask = {
        .vm = "web", .disk = disk, .to = to, .id = "DABCDEF", .move_id = "m-1"};
    return disk_move_begin(&cluster, &ask, false, later(), &move, &problem, &todo);
}

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    cluster = (struct cluster){0};
    now_ns = NS_PER_S;
    join("node1");
    join("node2");
    add_store("one", "/srv/one", "node1");
    add_store("two", "/srv/two", "node1");
    add_store("far", "/srv/far", "node2");
    start_vm();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_todo_deinit(&todo);
    cluster_deinit(&cluster);
    return 0;
}

static void said(const char *state, bool over)
{
    Godwit__DiskMoveStatus status = GODWIT__DISK_MOVE_STATUS__INIT;
    const struct disk_move_answer answer = {.verb = disk_move_verb(move), .said = &status};
    status.state = (char *)(uintptr_t)state;
    status.has_over = true;
    status.over = over;
    disk_move_answered(&cluster, move, &answer, later(), &todo);
}

static void refused(int code, bool definite)
{
    struct fault fault = {0};
    (void)fault_set(&fault, code, "so it is");
    const struct disk_move_answer answer = {
        .verb = disk_move_verb(move), .fault = &fault, .definite = definite};
    disk_move_answered(&cluster, move, &answer, later(), &todo);
}

static unsigned puts_of(enum cluster_put_kind kind)
{
    unsigned count = 0;
    for (size_t i = 0; i < todo.put_count; i++)
        count += todo.puts[i].kind == kind;
    return count;
}

static void the_record_names_the_copy_in_the_step_that_decides(void **state)
{
    (void)state;
    assert_int_equal(begin("root", "two"), 0);
    assert_int_equal(disk_move_verb(move), VERB(BEGIN));
    said("copying", true);
    said("closing", true);
    assert_int_equal(puts_of(PUT_DISK_MOVE), 0);
    said("equal", true);
    assert_int_equal(disk_move_verb(move), VERB(PROMISE));
    assert_int_equal(puts_of(PUT_DISK_MOVE), 1); /* before the order leaves */
    assert_string_equal(vm->spec->disks[0]->pool_store, "one");
    said("promised", false);
    assert_string_equal(vm->spec->disks[0]->pool_store, "one");

    said("promised", true);

    assert_int_equal(puts_of(PUT_VM), 1); /* one transaction */
    assert_int_equal(puts_of(PUT_DISK_MOVE), 1);
    const Godwit__DiskSpec *disk = vm->spec->disks[0];
    assert_string_equal(disk->pool_store, "two");
    assert_string_equal(disk->store, "/srv/two");
    assert_string_equal(disk->file, "web-root.raw");
    assert_false(disk->has_size); /* never made anew, empty */
    assert_int_equal(disk_move_verb(move), VERB(SETTLE));
    said("settling", false);
    assert_true(disk_move_is_active(move));
    assert_int_equal(disk_move_cancel(&cluster, move, later(), &problem, &todo), -1);
    assert_int_equal(problem.code, GW_JOB_TOO_LATE);
    said("settled", true);
    assert_false(disk_move_is_active(move));
    assert_string_equal(move->info->state, "done");
    assert_null(vm->disk_move);
}

static void what_nobody_knows_is_asked_again(void **state)
{
    (void)state;
    assert_int_equal(begin("root", "two:a.raw"), 0);
    refused(ERR_CLOSED, false);
    refused(ERR_BUSY, true);
    assert_int_equal(disk_move_verb(move), VERB(BEGIN));
    said("equal", true);
    refused(ERR_TIMEOUT, false); /* it may have been promised: it is promised again */
    assert_int_equal(disk_move_verb(move), VERB(PROMISE));
    said("promised", true);
    for (unsigned i = 0; i < 50; i++)
        refused(ERR_TIMEOUT, false);
    assert_int_equal(disk_move_verb(move), VERB(SETTLE)); /* forward only */
    said("none", true);
    assert_string_equal(move->info->state, "done");
}

static void a_copy_that_fails_goes_and_the_disk_stays(void **state)
{
    (void)state;
    static const char *const failures[] = {"failed", "off", "none"};
    for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++) {
        assert_int_equal(begin("root", "two"), 0);
        said("copying", true);
        said(failures[i], true);
        assert_int_equal(disk_move_verb(move), VERB(UNDO));
        said("ending", false);
        assert_true(disk_move_is_active(move));
        said("off", true);
        assert_string_equal(move->info->state, "rolled-back");
        assert_string_equal(vm->spec->disks[0]->pool_store, "one");
        assert_null(vm->disk_move);
    }
    assert_int_equal(begin("root", "two"), 0);
    refused(ERR_EXISTS, true);
    assert_int_equal(disk_move_verb(move), VERB(UNDO));
    said("none", true);
    assert_string_equal(move->info->error, "so it is");
}

static void a_guest_that_ended_meanwhile_keeps_its_disk(void **state)
{
    (void)state;
    assert_int_equal(begin("root", "two"), 0);
    said("equal", true);
    own_stop(&vm->own); /* it crashed between the promise and its answer */

    said("promised", true);

    assert_string_equal(vm->spec->disks[0]->pool_store, "one");
    assert_int_equal(disk_move_verb(move), VERB(UNDO));
}

static void canceled_in_a_promise_it_is_undone_when_that_is_answered(void **state)
{
    (void)state;
    assert_int_equal(begin("root", "two"), 0);
    said("equal", true);
    assert_int_equal(disk_move_cancel(&cluster, move, later(), &problem, &todo), 0);
    assert_int_equal(disk_move_verb(move), VERB(PROMISE));
    said("promised", true);
    assert_int_equal(disk_move_verb(move), VERB(UNDO));
    assert_string_equal(vm->spec->disks[0]->pool_store, "one");
    said("off", true);
    assert_string_equal(move->info->state, "canceled");
}

static void one_thing_at_a_time_is_done_to_a_vm(void **state)
{
    (void)state;
    uint64_t ticket;
    assert_int_equal(begin("root", "two"), 0);
    assert_int_equal(begin("root", "two"), -1);
    assert_int_equal(problem.code, GW_VM_BUSY);
    assert_int_equal(cluster_act(&cluster, "web", GODWIT__VM_VERB__VM_VERB_STOP, false, later(),
                                 &ticket, &problem, &todo),
                     -1);
    assert_int_equal(problem.code, GW_VM_BUSY);
    assert_non_null(strstr(problem.text, "disk root goes to another store"));
}

static void refuses_what_cannot_be(void **state)
{
    (void)state;
    static const struct {
        const char *disk, *to;
        enum gw_code code;
    } cases[] = {
        {"root", "none", GW_STORE_UNKNOWN}, {"boot", "two", GW_USAGE},
        {"root", "one", GW_VM_STATE},       {"root", "far", GW_STORE_UNSEEN},
        {"root", "two:", GW_USAGE},         {"root", "two:../x", GW_SPEC_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(begin(cases[i].disk, cases[i].to), -1);
        assert_int_equal(problem.code, cases[i].code);
        assert_null(vm->disk_move);
    }
    struct cluster_store_place *place =
        pool_store_place(pool_store_find(&cluster, "two", NULL), "node1");
    WORDS_COPY(place->state, "ok");
    place->seen_ns = now_ns;
    place->free_bytes = MIB(512);
    assert_int_equal(begin("root", "two"), -1);
    assert_int_equal(problem.code, GW_STORE_FULL);
    assert_int_equal(cluster.disk_move_count, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(the_record_names_the_copy_in_the_step_that_decides),
        TEST(what_nobody_knows_is_asked_again),
        TEST(a_copy_that_fails_goes_and_the_disk_stays),
        TEST(a_guest_that_ended_meanwhile_keeps_its_disk),
        TEST(canceled_in_a_promise_it_is_undone_when_that_is_answered),
        TEST(one_thing_at_a_time_is_done_to_a_vm),
        TEST(refuses_what_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
