#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_layout.h"
#include "coordinator/pool_store.h"
#include "coordinator/words.h"

static struct cluster cluster;
static struct cluster_todo todo;
static struct problem problem;
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

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    cluster = (struct cluster){0};
    now_ns = NS_PER_S;
    join("node1");
    join("node2");
    join("node3");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_todo_deinit(&todo);
    cluster_deinit(&cluster);
    return 0;
}

static int add(const char *name, const char *path, bool shared, const char *host, const char *other)
{
    Godwit__PoolStore given = GODWIT__POOL_STORE__INIT, *draft = NULL;
    struct cluster_store *store;
    char *hosts[] = {(char *)(uintptr_t)host, (char *)(uintptr_t)other};
    given.name = (char *)(uintptr_t)name;
    given.path = (char *)(uintptr_t)path;
    given.has_shared = true;
    given.shared = shared;
    given.hosts = hosts;
    given.n_hosts = other ? 2 : 1;
    if (pool_store_draft(&cluster, &given, later(), &draft, &problem) != 0)
        return -1;
    return pool_store_add(&cluster, draft, later(), &store, &problem, &todo);
}

/* What a look at the host would have found. */
static void seen(const char *name, const char *host, uint64_t free_bytes, uint64_t growth_bytes)
{
    struct cluster_store_place *place =
        pool_store_place(pool_store_find(&cluster, name, NULL), host);
    assert_non_null(place);
    WORDS_COPY(place->state, "ok");
    place->total_bytes = GIB(100);
    place->free_bytes = free_bytes;
    place->growth_bytes = growth_bytes;
    place->seen_ns = now_ns;
}

static void seen_as(const char *name, const char *host, const char *state)
{
    struct cluster_store_place *place =
        pool_store_place(pool_store_find(&cluster, name, NULL), host);
    assert_non_null(place);
    WORDS_COPY(place->state, state);
    WORDS_COPY(place->reason, "there is no folder /srv");
    place->state_ns = now_ns;
}

static int create(const char *name, const char *store, uint64_t size, const char *host)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT, *disks[] = {&disk};
    char id[ID_TEXT_SIZE], file[40];
    uint64_t ticket;
    (void)snprintf(id, sizeof id, "id-%.20s", name);
    (void)snprintf(file, sizeof file, "%.20s.raw", name);
    memory.has_size = true;
    memory.size = MIB(128);
    disk.name = (char *)(uintptr_t) "root";
    disk.store = (char *)(uintptr_t)store;
    disk.file = file;
    disk.has_size = true;
    disk.size = size;
    spec.name = (char *)(uintptr_t)name;
    spec.memory = &memory;
    spec.kernel = (char *)(uintptr_t) "/kernel";
    spec.host = (char *)(uintptr_t)host;
    spec.disks = disks;
    spec.n_disks = 1;
    return cluster_create_vm(&cluster, &spec, id, false, later(), &ticket, &problem, &todo);
}

static void refuses_what_is_no_store(void **state)
{
    (void)state;
    static const char *const paths[] = {"srv", "/", "/srv/", "/srv/../etc", "/srv//x", "/srv/."};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        assert_int_equal(add("fast", paths[i], false, "node1", NULL), -1);
        assert_int_equal(problem.code, GW_STORE_INVALID);
    }
    assert_int_equal(add("../x", "/srv", false, "node1", NULL), -1);
    assert_int_equal(problem.code, GW_STORE_INVALID);
    assert_int_equal(add("fast", "/srv", false, "node1", "node1"), -1);
    assert_string_equal(problem.text, "store fast names node1 twice");
    assert_int_equal(add("fast", "/srv", false, "node9", NULL), -1);
    assert_int_equal(problem.code, GW_HOST_UNKNOWN);
    assert_int_equal(add("fast", "/srv", false, "node", NULL), -1); /* a prefix of three */
    assert_int_equal(cluster.store_count, 0);
    assert_int_equal(add("fast", "/srv/fast", false, "node1", "node2"), 0);
    assert_int_equal(todo.puts[0].kind, PUT_STORE);
    assert_int_equal(add("fast", "/srv/other", false, "node1", NULL), -1);
    assert_int_equal(problem.code, GW_NAME_TAKEN);
    assert_int_equal(add("again", "/srv/fast", false, "node2", NULL), -1);
    assert_string_equal(problem.text, "/srv/fast on node2 is store fast already");
    assert_int_equal(add("third", "/srv/fast", false, "node3", NULL), 0);
}

static void a_disk_by_a_stores_name_has_its_path_and_is_shared_as_it_is(void **state)
{
    (void)state;
    assert_int_equal(add("nfs", "/srv/nfs", true, "node1", "node2"), 0);
    assert_int_equal(create("web", "nsf", GIB(1), ""), -1);
    assert_int_equal(problem.code, GW_STORE_UNKNOWN);
    assert_string_equal(problem.hint, "did you mean 'nfs'?");

    assert_int_equal(create("web", "nfs", GIB(1), ""), 0);

    const Godwit__DiskSpec *disk = cluster.vms[0]->spec->disks[0];
    assert_string_equal(disk->store, "/srv/nfs");
    assert_string_equal(disk->pool_store, "nfs");
    assert_true(disk->shared);
    assert_int_equal(create("old", "/srv/bare", GIB(1), ""), 0); /* by its path, as ever */
    assert_null(cluster.vms[1]->spec->disks[0]->pool_store);
}

static void a_vm_goes_only_where_its_store_is(void **state)
{
    (void)state;
    assert_int_equal(add("fast", "/srv/fast", false, "node2", NULL), 0);
    assert_int_equal(create("web", "fast", GIB(1), "node1"), -1);
    assert_int_equal(problem.code, GW_STORE_UNSEEN);
    assert_string_equal(problem.text,
                        "web cannot run on node1: node1 does not have store fast of disk root");

    assert_int_equal(create("web", "fast", GIB(1), ""), 0);

    assert_string_equal(cluster.vms[0]->own.owner, "node2");
}

static void a_disk_that_would_not_fit_is_refused_by_what_is_promised_already(void **state)
{
    (void)state;
    assert_int_equal(add("fast", "/srv/fast", false, "node1", "node2"), 0);
    seen("fast", "node1", GIB(10), GIB(8));
    seen("fast", "node2", GIB(1), 0);
    assert_int_equal(create("web", "fast", GIB(3), "node1"), -1);
    assert_int_equal(problem.code, GW_STORE_FULL);
    assert_non_null(strstr(problem.text, "has room for 2048 MiB (10240 free, its disks may take "
                                         "8192 of it), 3072 are needed"));
    assert_int_equal(create("web", "fast", GIB(3), ""), -1);
    assert_int_equal(problem.code, GW_NO_HOST_FITS);

    assert_int_equal(create("web", "fast", GIB(2), ""), 0);

    assert_string_equal(cluster.vms[0]->own.owner, "node1");
}

static void a_host_whose_store_was_last_seen_unwell_is_not_chosen(void **state)
{
    (void)state;
    static const char *const unwell[] = {"missing", "other", "read-only", "failed"};
    assert_int_equal(add("nfs", "/srv/nfs", true, "node1", "node2"), 0);
    for (size_t i = 0; i < sizeof unwell / sizeof unwell[0]; i++) {
        seen_as("nfs", "node1", unwell[i]);
        assert_int_equal(create("web", "nfs", GIB(1), "node1"), -1);
        assert_int_equal(problem.code, GW_STORE_UNSEEN);
        assert_non_null(strstr(problem.text, "web cannot run on node1: store nfs on node1 was last "
                                             "seen "));
        assert_non_null(strstr(problem.text, unwell[i]));
        assert_non_null(strstr(problem.text, ": there is no folder /srv"));
    }
    seen_as("nfs", "node1", "missing");

    assert_int_equal(create("web", "nfs", GIB(1), ""), 0);

    assert_string_equal(cluster.vms[0]->own.owner, "node2");
}

static void what_was_seen_long_before_or_by_nobody_refuses_no_host(void **state)
{
    (void)state;
    assert_int_equal(add("nfs", "/srv/nfs", true, "node1", NULL), 0);
    seen_as("nfs", "node1", "unknown");
    assert_int_equal(create("web", "nfs", GIB(1), ""), 0);
    seen_as("nfs", "node1", "missing");
    assert_int_equal(create("late", "nfs", GIB(1), ""), -1);
    now_ns += (POOL_STORE_FRESH_MS + 1000) * NS_PER_MS;
    for (size_t i = 0; i < cluster.host_count; i++)
        cluster.hosts[i]->seen_ns = now_ns; /* they still beat */

    assert_int_equal(create("late", "nfs", GIB(1), ""), 0);
}

static void a_disk_that_is_only_read_may_lie_where_nothing_can_be_written(void **state)
{
    (void)state;
    struct planner_host host = {"node1", true, cluster.hosts[0]->facts, GIB(4), 0};
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT, *disks[] = {&disk};
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    assert_int_equal(add("nfs", "/srv/nfs", true, "node1", NULL), 0);
    seen_as("nfs", "node1", "read-only");
    disk.name = (char *)(uintptr_t) "tools";
    disk.pool_store = (char *)(uintptr_t) "nfs";
    spec.disks = disks;
    spec.n_disks = 1;
    const struct planner_stores stores = pool_store_planner(&cluster, now_ns);
    const struct planner_ask ask = {
        .vm_name = "web", .baseline = "", .spec = &spec, .stores = &stores};
    assert_int_equal(planner_judge(&host, &ask, NULL, 0), GW_STORE_UNSEEN);

    disk.read_only = true;

    assert_int_equal(planner_judge(&host, &ask, NULL, 0), GW_NONE);
}

static void a_layout_bars_the_host_and_names_the_store(void **state)
{
    (void)state;
    struct cluster_layout view = {0};
    char words[LAYOUT_WORDS_SIZE];
    assert_int_equal(add("nfs", "/srv/nfs", true, "node1", "node2"), 0);
    assert_int_equal(create("web", "nfs", GIB(1), "node1"), 0);
    seen_as("nfs", "node2", "missing");
    struct cluster_now now = later();

    assert_int_equal(cluster_layout_new(&view, &cluster, now, LAYOUT_STALL, true, &problem), 0);

    assert_int_equal(layout_obstacle_words(view.layout, 0, 1, words, sizeof words),
                     GW_STORE_UNSEEN);
    assert_string_equal(words,
                        "store nfs on node2 was last seen missing: there is no folder /srv");
    cluster_layout_deinit(&view);
    pool_store_place(cluster.stores[0], "node2")->state_ns = 0;
    assert_int_equal(cluster_layout_new(&view, &cluster, now, LAYOUT_STALL, true, &problem), 0);
    assert_int_not_equal(layout_judge(view.layout, 0, 1, NULL), LAYOUT_BARRED);
    cluster_layout_deinit(&view);
}

static void a_store_with_a_vms_disk_is_not_forgotten(void **state)
{
    (void)state;
    assert_int_equal(add("fast", "/srv/fast", false, "node1", NULL), 0);
    assert_int_equal(add("bare", "/srv/bare", false, "node1", NULL), 0);
    assert_int_equal(create("web", "fast", GIB(1), ""), 0);
    assert_int_equal(create("old", "/srv/bare", GIB(1), "node1"), 0);
    (void)later();
    assert_int_equal(pool_store_remove(&cluster, "fast", &problem, &todo), -1);
    assert_int_equal(problem.code, GW_STORE_IN_USE);
    assert_string_equal(problem.details[0], "web");
    (void)later();
    assert_int_equal(pool_store_remove(&cluster, "bare", &problem, &todo), -1);
    assert_string_equal(problem.details[0], "old");
    cluster_drop_vm(&cluster, cluster.vms[0]);
    (void)later();

    assert_int_equal(pool_store_remove(&cluster, "fast", &problem, &todo), 0);

    assert_int_equal(todo.puts[0].kind, PUT_DELETE_STORE);
    assert_string_equal(todo.puts[0].name, "fast");
    (void)later();
    assert_int_equal(pool_store_remove(&cluster, "fast", &problem, &todo), -1);
    assert_int_equal(problem.code, GW_STORE_UNKNOWN);
}

static void the_file_of_a_disk_is_found_by_name_by_folder_and_by_path(void **state)
{
    (void)state;
    assert_int_equal(add("fast", "/srv/fast", false, "node1", "node2"), 0);
    const struct cluster_store *store = cluster.stores[0];
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT;
    disk.store = (char *)(uintptr_t) "/srv/fast";
    disk.file = (char *)(uintptr_t) "a/b.raw";
    assert_string_equal(pool_store_file(store, "node1", &disk, "node1"), "a/b.raw");
    assert_null(pool_store_file(store, "node1", &disk, "node2")); /* that one has its own */
    disk.store = (char *)(uintptr_t) "/srv/faster";
    assert_null(pool_store_file(store, "node1", &disk, "node1"));
    disk.store = disk.file = NULL;
    disk.path = (char *)(uintptr_t) "/srv/fast/c.raw";
    assert_string_equal(pool_store_file(store, "node1", &disk, "node1"), "c.raw");
    disk.path = (char *)(uintptr_t) "/srv/faster/c.raw";
    assert_null(pool_store_file(store, "node1", &disk, "node1"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(refuses_what_is_no_store),
        TEST(a_disk_by_a_stores_name_has_its_path_and_is_shared_as_it_is),
        TEST(a_vm_goes_only_where_its_store_is),
        TEST(a_disk_that_would_not_fit_is_refused_by_what_is_promised_already),
        TEST(a_host_whose_store_was_last_seen_unwell_is_not_chosen),
        TEST(what_was_seen_long_before_or_by_nobody_refuses_no_host),
        TEST(a_disk_that_is_only_read_may_lie_where_nothing_can_be_written),
        TEST(a_layout_bars_the_host_and_names_the_store),
        TEST(a_store_with_a_vms_disk_is_not_forgotten),
        TEST(the_file_of_a_disk_is_found_by_name_by_folder_and_by_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
