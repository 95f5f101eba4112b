#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_found.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_view.h"
#include "coordinator/rows.h"
#include "coordinator/store.h"
#include "proto/limits.h"

#define VM_STATE(name) GODWIT__VM_STATE__VM_STATE_##name

static struct cluster cluster;
static struct cluster_todo todo; /* of the last step */
static struct problem problem;
static uint64_t now_ns, ticket;

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

static struct cluster_now later(void)
{
    now_ns += 10 * NS_PER_MS;
    cluster_todo_deinit(&todo);
    return (struct cluster_now){.ns = now_ns, .unix_ms = 1};
}

static void tell(const char *host, const char *name, Godwit__VmState state)
{
    Godwit__AgentFound found = GODWIT__AGENT_FOUND__INIT;
    Godwit__FoundDomain domain = GODWIT__FOUND_DOMAIN__INIT;
    Godwit__FoundDomain *list[] = {&domain};
    found.libvirt = text_of("9.0.0 QEMU 7.2.22");
    found.domains = list;
    found.n_domains = name != NULL;
    domain.vm_id = text_of("c7a5fdbdcdaf9455926ad65c16db1809");
    domain.name = text_of(name);
    domain.has_state = domain.has_vcpus = domain.has_memory_bytes = true;
    domain.state = state;
    domain.vcpus = 2;
    domain.memory_bytes = MIB(256);
    cluster_found_take(&cluster, cluster_host(&cluster, host), &found, later(), &todo);
}

static int set_up(void **state)
{
    (void)state;
    static const char *const names[] = {"node1", "node2"};
    log_set_level(LOG_ERROR);
    cluster = (struct cluster){0};
    now_ns = NS_PER_S;
    for (int i = 0; i < 2; i++) {
        Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
        Godwit__AgentHello message = GODWIT__AGENT_HELLO__INIT;
        assert_non_null(cluster_host_joined(&cluster, names[i], later(), &todo));
        facts.name = text_of(names[i]);
        facts.incarnation = text_of("boot-1");
        facts.has_kvm = facts.kvm = true;
        facts.has_memory_free_bytes = true;
        facts.memory_free_bytes = GIB(4);
        message.facts = &facts;
        cluster_hello(&cluster, cluster_host(&cluster, names[i]), &message, later(), &todo);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_todo_deinit(&todo);
    cluster_deinit(&cluster);
    return 0;
}

static int adopt(void)
{
    const Godwit__FoundDomain *domain;
    struct cluster_host *host;
    int r = cluster_found_find(&cluster, "db-01", "", &host, &domain, &problem);
    return r != 0 ? r
                  : cluster_found_adopt(&cluster, host, domain, later(), &ticket, &problem, &todo);
}

static void order_succeeds(void)
{
    assert_int_equal(todo.order_count, 1);
    struct cluster_order order = todo.orders[0];
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    struct cluster_result result = {.definite = true, .status = &status};
    status.vm_id = order.vm_id;
    status.has_state = status.has_generation = true;
    status.state = VM_STATE(RUNNING);
    status.generation = order.generation;
    cluster_order_done(&cluster, &order, &result, later(), &todo);
}

static void report(const char *host, Godwit__VmState state, const char *reason)
{
    struct cluster_vm *vm = cluster.vms[0];
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    status.vm_id = vm->id;
    status.has_state = status.has_generation = true;
    status.state = state;
    status.generation = vm->own.gen;
    status.reason = text_of(reason);
    cluster_vm_event(&cluster, cluster_host(&cluster, host), &status, later(), &todo);
}

static bool was_told(const char *words)
{
    for (size_t i = 0; i < todo.put_count; i++) {
        if (todo.puts[i].kind == PUT_EVENT && strstr(todo.puts[i].text, words))
            return true;
    }
    return false;
}

static void shows_what_is_not_the_pools_and_leaves_it_alone(void **state)
{
    (void)state;
    Godwit__VmInfo info;
    tell("node1", "db-01", VM_STATE(RUNNING));

    assert_int_equal(cluster_found_count(&cluster), 1);
    cluster_found_info(&cluster, 0, &info);
    assert_true(info.unadopted);
    assert_string_equal(info.state, "running");
    assert_string_equal(info.backend, "libvirt");
    assert_int_equal(todo.order_count, 0);
    assert_int_equal(cluster.vm_count, 0);
}

static void adopts_a_running_domain_as_a_generation_of_its_own(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(RUNNING));

    assert_int_equal(adopt(), 0);
    order_succeeds();

    assert_int_equal(cluster.vms[0]->own.phase, OWN_RUN);
    assert_int_equal(cluster.vms[0]->own.gen, 1);
    assert_string_equal(cluster.vms[0]->own.owner, "node1");
    assert_int_equal(cluster_found_count(&cluster), 0);
    assert_int_not_equal(adopt(), 0);
    assert_int_equal(problem.code, GW_NAME_TAKEN);
}

static void autostart_of_an_adopted_domain_is_an_alert_and_left_as_it_is(void **state)
{
    (void)state;
    Godwit__FoundDomain domain = GODWIT__FOUND_DOMAIN__INIT;
    domain.vm_id = text_of("c7a5fdbdcdaf9455926ad65c16db1809");
    domain.name = text_of("db-01");
    domain.vcpus = 1;
    domain.memory_bytes = MIB(64);
    domain.has_autostart = domain.autostart = true;

    assert_int_equal(cluster_found_adopt(&cluster, cluster.hosts[0], &domain, later(), &ticket,
                                         &problem, &todo),
                     0);

    assert_true(was_told("alert: db-01 has autostart"));
    assert_int_equal(todo.order_count, 0);
}

/* Adopted and running on node1; node1 says that libvirt starts it at boot, as node2 does of its own
 * definition of it. */
static void tell_autostart(void)
{
    static char *const ids[] = {(char *)(uintptr_t) "c7a5fdbdcdaf9455926ad65c16db1809"};
    Godwit__AgentFound found = GODWIT__AGENT_FOUND__INIT, other = GODWIT__AGENT_FOUND__INIT;
    Godwit__FoundDomain domain = GODWIT__FOUND_DOMAIN__INIT;
    Godwit__FoundDomain *list[] = {&domain};
    found.libvirt = other.libvirt = text_of("9.0.0 QEMU 7.2.22");
    found.autostart = (char **)(uintptr_t)ids;
    found.n_autostart = 1;
    domain.vm_id = ids[0];
    domain.name = text_of("db-01");
    domain.has_state = domain.has_vcpus = domain.has_memory_bytes = true;
    domain.has_autostart = domain.autostart = true;
    domain.state = VM_STATE(STOPPED);
    domain.vcpus = 2;
    domain.memory_bytes = MIB(256);
    other.domains = list;
    other.n_domains = 1;
    cluster_found_take(&cluster, cluster_host(&cluster, "node1"), &found, later(), &todo);
    cluster_found_take(&cluster, cluster_host(&cluster, "node2"), &other, later(), &todo);
}

static size_t orders_to_switch_off(const char *host)
{
    size_t count = 0;
    for (size_t i = 0; i < todo.order_count; i++)
        count += todo.orders[i].kind == ORDER_AUTOSTART_OFF && strcmp(todo.orders[i].host, host) == 0;
    return count;
}

static void autostart_is_switched_off_on_every_host_once_ha_protects_a_domain(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(RUNNING));
    assert_int_equal(adopt(), 0);
    order_succeeds();
    tell_autostart();
    cluster_found_tick(&cluster, later(), &todo);
    assert_int_equal(todo.order_count, 0);

    Godwit__HaSpec *ha = calloc(1, sizeof *ha);
    assert_non_null(ha);
    godwit__ha_spec__init(ha);
    ha->has_restart = ha->restart = true;
    cluster.vms[0]->spec->ha = ha;
    cluster_found_tick(&cluster, later(), &todo);
    assert_int_equal(orders_to_switch_off("node1"), 1);
    assert_int_equal(orders_to_switch_off("node2"), 1);
    struct cluster_order order = todo.orders[1];

    cluster_found_tick(&cluster, later(), &todo);
    assert_int_equal(todo.order_count, 0); /* one is on its way */
    struct cluster_result result = {.definite = true};
    cluster_order_done(&cluster, &order, &result, later(), &todo);
    assert_true(was_told("autostart of db-01 on node2 is switched off"));

    now_ns += 10 * NS_PER_S;
    cluster_found_tick(&cluster, later(), &todo);
    assert_int_equal(orders_to_switch_off("node1"), 1); /* it still says so */
}

static void adopts_a_stopped_domain_without_starting_it(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(STOPPED));

    assert_int_equal(adopt(), 0);

    assert_int_equal(todo.order_count, 0);
    assert_int_equal(cluster.vms[0]->own.phase, OWN_STOPPED);
    assert_string_equal(cluster.vms[0]->own.owner, "node1");
}

static void never_renames_a_domain_to_fit(void **state)
{
    (void)state;
    Godwit__FoundDomain domain = GODWIT__FOUND_DOMAIN__INIT;
    domain.vm_id = text_of("c7a5fdbdcdaf9455926ad65c16db1809");
    domain.name = text_of("my database");
    domain.vcpus = 1;
    domain.memory_bytes = MIB(64);

    assert_int_not_equal(cluster_found_adopt(&cluster, cluster.hosts[0], &domain, later(), &ticket,
                                             &problem, &todo),
                         0);
    assert_int_equal(problem.code, GW_SPEC_INVALID);
    assert_int_equal(cluster.vm_count, 0);
}

static void leaves_out_what_makes_no_sense(void **state)
{
    (void)state;
    tell("node1", "", VM_STATE(RUNNING));
    assert_int_equal(cluster_found_count(&cluster), 0);
}

static void follows_a_start_by_hand(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(STOPPED));
    assert_int_equal(adopt(), 0);

    tell("node1", "db-01", VM_STATE(RUNNING));

    assert_true(was_told("started on node1 outside of the pool"));
    order_succeeds();
    assert_int_equal(cluster.vms[0]->own.phase, OWN_RUN);
    assert_int_equal(cluster.vms[0]->want, WANT_RUNNING);
}

/* What it was found by may be old: the order takes up what runs, and starts nothing. */
static void what_is_found_running_is_taken_up_and_never_started(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(RUNNING));
    assert_int_equal(adopt(), 0);
    const struct cluster_vm *vm = cluster.vms[0];
    assert_int_equal(todo.orders[0].generation, vm->found_gen);
    order_succeeds();

    report("node1", VM_STATE(STOPPED), "stopped outside of the pool");
    tell("node1", "db-01", VM_STATE(RUNNING));
    assert_int_equal(todo.order_count, 1);
    assert_int_equal(todo.orders[0].kind, ORDER_START);
    assert_int_equal(todo.orders[0].generation, vm->found_gen);

    struct cluster_order order = todo.orders[0];
    struct fault ended = {0};
    const struct cluster_result refused = {.definite = true, .fault = &ended};
    (void)fault_set(&ended, ERR_STATE, "it was seen running, and has ended by now");
    cluster_order_done(&cluster, &order, &refused, later(), &todo);
    assert_int_equal(vm->own.phase, OWN_STOPPED);
    assert_string_equal(vm->reason, ended.text);
    assert_int_equal(todo.order_count, 0);

    own_start(&cluster.vms[0]->own, "node1", "boot-1");
    assert_int_not_equal(vm->own.gen, vm->found_gen); /* a start of the pool's own is one */
}

static void keep_all(struct store *store)
{
    struct store_batch *batch = NULL;
    uint64_t last_event = 0;
    assert_int_equal(store_batch_new(&batch, NULL), 0);
    for (size_t i = 0; i < cluster.host_count + 2; i++) {
        struct cluster_put put = {.kind = PUT_HOST};
        if (i < cluster.host_count)
            put.object = cluster.hosts[i];
        else
            put = (struct cluster_put){.kind = i == cluster.host_count ? PUT_VM : PUT_OWN,
                                       .object = cluster.vms[0]};
        rows_put(batch, &cluster, &put, later(), &last_event);
    }
    assert_int_equal(store_commit_now(store, batch, NULL), 0);
    (void)store_batch_free(batch);
}

/* Its first order may have been lost. Said as a plain start it would start what has ended meanwhile. */
static void a_new_coordinator_repeats_the_very_order_that_starts_nothing(void **state)
{
    (void)state;
    struct store *store = NULL;
    uint64_t last_event = 0;
    tell("node1", "db-01", VM_STATE(RUNNING));
    assert_int_equal(adopt(), 0);
    uint64_t generation = cluster.vms[0]->found_gen;
    assert_int_not_equal(generation, 0);
    assert_int_equal(store_open(&store, ":memory:", NULL, NULL), 0);
    keep_all(store);

    cluster_deinit(&cluster);
    assert_int_equal(rows_load(store, &cluster, &last_event, NULL), 0);
    cluster_restart(&cluster, later(), &todo);
    Godwit__AgentHello message = GODWIT__AGENT_HELLO__INIT;
    cluster_hello(&cluster, cluster_host(&cluster, "node1"), &message, later(), &todo);

    assert_int_equal(todo.order_count, 1);
    assert_int_equal(todo.orders[0].kind, ORDER_START);
    assert_int_equal(todo.orders[0].generation, generation);
    assert_int_equal(cluster.vms[0]->found_gen, generation); /* what agent_link makes only_running of */
    (void)store_close(store);
}

static void follows_a_move_by_hand_whichever_host_tells_first(void **state)
{
    (void)state;
    for (int first = 0; first < 2; first++) {
        tell("node1", "db-01", VM_STATE(RUNNING));
        assert_int_equal(adopt(), 0);
        order_succeeds();
        tell("node1", NULL, 0);

        if (first == 0)
            report("node1", VM_STATE(STOPPED), "migrated away outside of the pool");
        tell("node2", "db-01", VM_STATE(RUNNING));
        if (first == 1) {
            assert_int_equal(todo.order_count, 0);
            report("node1", VM_STATE(STOPPED), "migrated away outside of the pool");
            cluster_found_tick(&cluster, later(), &todo);
        }
        order_succeeds();

        assert_string_equal(cluster.vms[0]->own.owner, "node2");
        assert_int_equal(cluster.vms[0]->own.gen, 2);
        (void)tear_down(NULL);
        (void)set_up(NULL);
    }
}

static void two_claims_are_a_conflict_and_nothing_is_stopped(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(RUNNING));
    assert_int_equal(adopt(), 0);
    order_succeeds();

    tell("node2", "db-01", VM_STATE(RUNNING));
    assert_false(was_told("conflict")); /* a move by hand has both for a moment */
    now_ns += 4 * NS_PER_S;
    cluster_found_tick(&cluster, later(), &todo);
    assert_true(was_told("conflict"));
    assert_int_equal(todo.order_count, 0);
    assert_true(cluster.vms[0]->conflict_told);
    now_ns += 4 * NS_PER_S;
    cluster_found_tick(&cluster, later(), &todo);
    assert_false(was_told("conflict")); /* once */

    tell("node2", NULL, 0);
    assert_true(was_told("is over"));
    assert_false(cluster.vms[0]->conflict_told);
}

static void an_arrival_of_somebodys_migration_is_no_claim_yet(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(STOPPED));
    assert_int_equal(adopt(), 0);

    tell("node2", "db-01", VM_STATE(INCOMING));

    assert_int_equal(todo.order_count, 0);
    assert_string_equal(cluster.vms[0]->conflict_host, "");
}

/* ---- what it is defined as ---- */
static void tell_digest_of(const char *host, const char *xml)
{
    Godwit__AgentFound found = GODWIT__AGENT_FOUND__INIT;
    Godwit__DomainDefinition definition = GODWIT__DOMAIN_DEFINITION__INIT;
    Godwit__DomainDefinition *list[] = {&definition};
    char digest[PKI_PIN_SIZE];
    pki_sha256_hex(xml, strlen(xml), digest);
    found.libvirt = text_of("9.0.0 QEMU 7.2.22");
    definition.vm_id = cluster.vms[0]->id;
    definition.digest = digest;
    found.definitions = list;
    found.n_definitions = 1;
    cluster_found_take(&cluster, cluster_host(&cluster, host), &found, later(), &todo);
}

static void definition_is(const char *xml)
{
    assert_int_equal(todo.order_count, 1);
    struct cluster_order order = todo.orders[0];
    Godwit__FoundDomain found = GODWIT__FOUND_DOMAIN__INIT;
    const struct cluster_result result = {.definite = true, .found = &found};
    assert_int_equal(order.kind, ORDER_DEFINITION);
    found.domain_xml = text_of(xml);
    cluster_order_done(&cluster, &order, &result, later(), &todo);
}

static void run_it_as(const char *xml)
{
    struct cluster_vm *vm;
    tell("node1", "db-01", VM_STATE(RUNNING));
    assert_int_equal(adopt(), 0);
    order_succeeds();
    vm = cluster.vms[0];
    vm->spec->domain_xml = strdup(xml);
    assert_non_null(vm->spec->domain_xml);
}

/* An external snapshot of virsh, say: HA would start the file below it. */
static void a_definition_that_is_changed_by_hand_becomes_the_records(void **state)
{
    (void)state;
    run_it_as("<base/>");
    tell_digest_of("node1", "<base/>");
    assert_int_equal(todo.order_count, 0);

    tell_digest_of("node1", "<overlay/>");
    assert_string_equal(todo.orders[0].host, "node1");
    struct cluster_order asked = todo.orders[0];
    tell_digest_of("node1", "<overlay/>");
    assert_int_equal(todo.order_count, 0); /* it was asked just now */
    todo.order_count = 0;
    now_ns += 6 * NS_PER_S;
    tell_digest_of("node1", "<overlay/>"); /* that one was lost */
    definition_is("<overlay/>");

    assert_string_equal(cluster.vms[0]->spec->domain_xml, "<overlay/>");
    assert_true(was_told("the definition of db-01 was changed on node1 outside of the pool"));
    bool is_kept = false;
    for (size_t i = 0; i < todo.put_count; i++)
        is_kept = is_kept || todo.puts[i].kind == PUT_VM;
    assert_true(is_kept);
    Godwit__FoundDomain found = GODWIT__FOUND_DOMAIN__INIT;
    const struct cluster_result late = {.definite = true, .found = &found};
    found.domain_xml = text_of("");
    cluster_order_done(&cluster, &asked, &late, later(), &todo);
    assert_string_equal(cluster.vms[0]->spec->domain_xml, "<overlay/>");
    now_ns += 6 * NS_PER_S;
    tell_digest_of("node1", "<overlay/>");
    assert_int_equal(todo.order_count, 0);
}

static void the_same_in_other_words_of_another_libvirt_is_taken_in_silence(void **state)
{
    (void)state;
    run_it_as("<base/>");

    tell_digest_of("node1", "<base />");
    definition_is("<base />");

    assert_string_equal(cluster.vms[0]->spec->domain_xml, "<base />");
    assert_false(was_told("was changed"));
}

static void only_the_host_that_runs_it_says_what_it_is_defined_as(void **state)
{
    (void)state;
    run_it_as("<base/>");
    tell_digest_of("node2", "<old/>");
    assert_int_equal(todo.order_count, 0);

    tell_digest_of("node1", "<overlay/>");
    struct cluster_order order = todo.orders[0];
    report("node1", VM_STATE(STOPPED), "the guest switched itself off");
    Godwit__FoundDomain found = GODWIT__FOUND_DOMAIN__INIT;
    const struct cluster_result result = {.definite = true, .found = &found};
    found.domain_xml = text_of("<overlay/>");
    cluster_order_done(&cluster, &order, &result, later(), &todo);
    assert_string_equal(cluster.vms[0]->spec->domain_xml, "<base/>"); /* its next start is libvirt's own, there */
}

/* One word of a host: the domain in its list or not, as running there without a definition or not.
 */
static void tell_definition(const char *host, bool is_listed, bool is_undefined)
{
    Godwit__AgentFound found = GODWIT__AGENT_FOUND__INIT;
    Godwit__FoundDomain domain = GODWIT__FOUND_DOMAIN__INIT;
    Godwit__FoundDomain *list[] = {&domain};
    char *undefined[] = {cluster.vms[0]->id};
    found.libvirt = text_of("9.0.0 QEMU 7.2.22");
    found.domains = list;
    found.n_domains = is_listed;
    found.undefined = undefined;
    found.n_undefined = is_undefined;
    domain.vm_id = cluster.vms[0]->id;
    domain.name = text_of("db-01");
    domain.has_state = domain.has_vcpus = domain.has_memory_bytes = true;
    domain.state = VM_STATE(STOPPED);
    domain.vcpus = 2;
    domain.memory_bytes = MIB(256);
    cluster_found_take(&cluster, cluster_host(&cluster, host), &found, later(), &todo);
}

static void tells_once_that_a_running_domain_was_undefined_and_leaves_it_running(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(RUNNING));
    assert_int_equal(adopt(), 0);
    order_succeeds();

    tell_definition("node1", false, true);
    assert_false(was_told("undefined")); /* an arrival is not defined yet for a moment */
    now_ns += 4 * NS_PER_S;
    tell_definition("node2", false, false);
    assert_false(was_told("undefined")); /* what another host has says nothing of it */
    tell_definition("node1", false, true);
    assert_true(was_told("undefined on node1 outside of the pool: it runs on"));
    assert_int_equal(todo.order_count, 0);
    assert_int_equal(cluster.vms[0]->own.phase, OWN_RUN);
    now_ns += 4 * NS_PER_S;
    tell_definition("node1", false, true);
    assert_false(was_told("undefined")); /* once */

    tell_definition("node1", false, false);
    assert_true(was_told("defined on node1 again"));
}

static void tells_that_a_stopped_domain_was_undefined_but_not_while_libvirtd_is_away(void **state)
{
    (void)state;
    Godwit__AgentFound away = GODWIT__AGENT_FOUND__INIT;
    tell("node1", "db-01", VM_STATE(STOPPED));
    assert_int_equal(adopt(), 0);

    for (int i = 0; i < 3; i++) {
        now_ns += 4 * NS_PER_S;
        cluster_found_take(&cluster, cluster_host(&cluster, "node1"), &away, later(), &todo);
        assert_false(was_told("undefined"));
    }
    tell_definition("node1", true, false);
    assert_false(was_told("defined"));
    tell_definition("node1", false, false);
    now_ns += 4 * NS_PER_S;
    tell_definition("node1", false, false);

    assert_true(was_told("it stays stopped, and its next start defines it as it was last"));
    assert_int_equal(cluster.vms[0]->own.phase, OWN_STOPPED);
}

static void a_lost_domain_that_somebody_started_is_followed_and_not_started_twice(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(RUNNING));
    assert_int_equal(adopt(), 0);
    order_succeeds();
    assert_int_equal(cluster_ha_set_reserve(&cluster, 0, &problem, &todo), 0);
    assert_int_equal(cluster_ha_protect(&cluster, "db-01", true, 50, later(), &problem, &todo), 0);
    tell("node1", NULL, 0);
    report("node1", VM_STATE(CRASHED), "its QEMU vanished");
    assert_true(own_is_lost(&cluster.vms[0]->own));
    tell("node2", "db-01", VM_STATE(RUNNING));

    now_ns += 60 * NS_PER_S;
    cluster_tick(&cluster, later(), &todo);

    assert_int_equal(todo.order_count, 1);
    assert_int_equal(todo.orders[0].kind, ORDER_START);
    assert_string_equal(todo.orders[0].host, "node2");
    assert_string_equal(cluster.vms[0]->own.owner, "node2");
    order_succeeds();
    assert_int_equal(cluster.vms[0]->own.phase, OWN_RUN);
}

static void hear(const char *host)
{
    const Godwit__AgentHeartbeat beat = GODWIT__AGENT_HEARTBEAT__INIT;
    struct cluster_host *one = cluster_host(&cluster, host);

    cluster_heartbeat(&cluster, one, &beat, later());
    one->memory_free_bytes = GIB(4);
}

/* libvirt of an agent that died, or somebody, may be starting it there: "runs nowhere" is not known. */
static void what_may_be_starting_or_arriving_somewhere_is_started_nowhere_else(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(RUNNING));
    assert_int_equal(adopt(), 0);
    order_succeeds();
    assert_int_equal(cluster_ha_set_reserve(&cluster, 0, &problem, &todo), 0);
    assert_int_equal(cluster_ha_protect(&cluster, "db-01", true, 50, later(), &problem, &todo), 0);
    tell("node1", NULL, 0);
    report("node1", VM_STATE(CRASHED), "its QEMU vanished");
    assert_true(own_is_lost(&cluster.vms[0]->own));
    tell("node1", "db-01", VM_STATE(INCOMING));
    tell("node2", "db-01", VM_STATE(INCOMING));

    now_ns += 2 * NS_PER_S;
    cluster_tick(&cluster, later(), &todo);
    assert_int_equal(todo.order_count, 0);
    assert_true(was_told("waits to be started again: libvirt of "));
    assert_true(own_is_lost(&cluster.vms[0]->own));

    tell("node1", NULL, 0);
    tell("node2", NULL, 0); /* it never came to run */
    hear("node1");
    hear("node2");
    now_ns += 2 * NS_PER_S;
    cluster_tick(&cluster, later(), &todo);
    assert_int_equal(todo.order_count, 1);
    assert_int_equal(todo.orders[0].kind, ORDER_START);
}

static void nor_by_an_operator(void **state)
{
    (void)state;
    tell("node1", "db-01", VM_STATE(STOPPED));
    assert_int_equal(adopt(), 0);
    tell("node2", "db-01", VM_STATE(INCOMING));

    assert_int_equal(cluster_act(&cluster, "db-01", GODWIT__VM_VERB__VM_VERB_START, false, later(), &ticket,
                                 &problem, &todo),
                     -1);
    assert_int_equal(problem.code, GW_VM_STATE);
    assert_non_null(strstr(problem.text, "libvirt of node2"));
    assert_int_equal(todo.order_count, 0);
    tell("node2", NULL, 0);
    assert_int_equal(cluster_act(&cluster, "db-01", GODWIT__VM_VERB__VM_VERB_START, false, later(), &ticket,
                                 &problem, &todo),
                     0);
    assert_int_equal(todo.order_count, 1);
}

static void a_domain_is_asked_to_reboot_or_reset_where_it_runs(void **state)
{
    (void)state;
    struct cluster_result refused = {.definite = true};
    struct fault fault = {0};
    tell("node1", "db-01", VM_STATE(RUNNING));
    assert_int_equal(adopt(), 0);
    order_succeeds();

    assert_int_equal(cluster_act(&cluster, "db-01", GODWIT__VM_VERB__VM_VERB_REBOOT, false, later(),
                                 &ticket, &problem, &todo),
                     0);
    assert_int_equal(todo.orders[0].kind, ORDER_VM_REBOOT);
    assert_string_equal(todo.orders[0].host, "node1");
    order_succeeds();
    assert_int_equal(todo.answer_count, 1);
    assert_null(todo.answers[0].problem);

    assert_int_equal(cluster_act(&cluster, "db-01", GODWIT__VM_VERB__VM_VERB_RESET, false, later(),
                                 &ticket, &problem, &todo),
                     0);
    struct cluster_order order = todo.orders[0];
    assert_int_equal(order.kind, ORDER_VM_RESET);
    (void)fault_set(&fault, ERR_STATE, "libvirt says no");
    refused.fault = &fault;
    cluster_order_done(&cluster, &order, &refused, later(), &todo);
    assert_int_equal(todo.answers[0].problem->code, GW_ORDER_FAILED);

    report("node1", VM_STATE(PAUSED), "");
    assert_int_not_equal(cluster_act(&cluster, "db-01", GODWIT__VM_VERB__VM_VERB_REBOOT, false,
                                     later(), &ticket, &problem, &todo),
                         0);
    assert_int_equal(problem.code, GW_VM_STATE);
}

static bool is_passed(const void *data, const char *vm_id)
{
    return data && strcmp(data, vm_id) == 0;
}

static void what_a_host_brings_is_adopted_but_what_is_known_passed_over_or_still_arriving(void **state)
{
    (void)state;
    const struct cluster_host *host = cluster_host(&cluster, "node1");
    assert_null(cluster_found_next(&cluster, host, is_passed, NULL)); /* nothing was told yet */
    tell("node1", "db-01", VM_STATE(INCOMING));
    assert_null(cluster_found_next(&cluster, host, is_passed, NULL));
    tell("node1", "db-01", VM_STATE(STOPPED));

    const Godwit__FoundDomain *domain = cluster_found_next(&cluster, host, is_passed, NULL);

    assert_non_null(domain);
    assert_string_equal(domain->name, "db-01");
    assert_null(cluster_found_next(&cluster, host, is_passed, domain->vm_id));
    assert_int_equal(adopt(), 0);
    assert_null(cluster_found_next(&cluster, host, is_passed, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(shows_what_is_not_the_pools_and_leaves_it_alone, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(adopts_a_running_domain_as_a_generation_of_its_own, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(autostart_of_an_adopted_domain_is_an_alert_and_left_as_it_is,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            autostart_is_switched_off_on_every_host_once_ha_protects_a_domain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(adopts_a_stopped_domain_without_starting_it, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(never_renames_a_domain_to_fit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leaves_out_what_makes_no_sense, set_up, tear_down),
        cmocka_unit_test_setup_teardown(follows_a_start_by_hand, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_found_running_is_taken_up_and_never_started, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_new_coordinator_repeats_the_very_order_that_starts_nothing,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(follows_a_move_by_hand_whichever_host_tells_first, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(two_claims_are_a_conflict_and_nothing_is_stopped, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_arrival_of_somebodys_migration_is_no_claim_yet, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            tells_once_that_a_running_domain_was_undefined_and_leaves_it_running, set_up,
            tear_down),
        cmocka_unit_test_setup_teardown(
            tells_that_a_stopped_domain_was_undefined_but_not_while_libvirtd_is_away, set_up,
            tear_down),
        cmocka_unit_test_setup_teardown(
            what_a_host_brings_is_adopted_but_what_is_known_passed_over_or_still_arriving, set_up,
            tear_down),
        cmocka_unit_test_setup_teardown(a_domain_is_asked_to_reboot_or_reset_where_it_runs, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            what_may_be_starting_or_arriving_somewhere_is_started_nowhere_else, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nor_by_an_operator, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_definition_that_is_changed_by_hand_becomes_the_records, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(the_same_in_other_words_of_another_libvirt_is_taken_in_silence, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(only_the_host_that_runs_it_says_what_it_is_defined_as, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_lost_domain_that_somebody_started_is_followed_and_not_started_twice, set_up,
            tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
