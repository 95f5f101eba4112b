/* Lists against events: libvirt is a fake whose answers come when the test says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <libvirt/libvirt.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/backend_libvirt/backend_libvirt.h"
#include "agent/backend_libvirt/domain_call.h"
#include "agent/backend_libvirt/hypervisor.h"
#include "agent/vm/latch_file.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"

#define VM_ID "00112233445566778899aabbccddeeff"
#define OTHER_ID "ffeeddccbbaa99887766554433221100"
enum { CALLS_MAX = 16, TURNS_MAX = 100, GENERATION = 3 };

struct call {
    void (*work)(virConnectPtr connection, void *data);
    void (*done)(void *data);
    void *data;
};

static struct call calls[CALLS_MAX];
static size_t call_count;
static struct hypervisor_config libvirt;
static struct domain_state truth; /* of the one domain, as libvirt has it now */
static char snapshot_name[32];    /* of its one snapshot; "": none */
static bool are_snapshots_unknown;
static unsigned snapshots_over;
static struct loop *loop;
static struct backend_libvirt *backend;
static struct fault fault;
static unsigned changes;
static char latch_path[64];

/* ---- the fake ---- */
int __wrap_hypervisor_new(struct hypervisor **ret_hypervisor, const struct hypervisor_config *config,
                          struct fault *ret_fault);
int __wrap_hypervisor_new(struct hypervisor **ret_hypervisor, const struct hypervisor_config *config,
                          struct fault *ret_fault)
{
    (void)ret_fault;
    libvirt = *config;
    *ret_hypervisor = (struct hypervisor *)&libvirt;
    return 0;
}

struct hypervisor *__wrap_hypervisor_free(struct hypervisor *hypervisor);
struct hypervisor *__wrap_hypervisor_free(struct hypervisor *hypervisor)
{
    (void)hypervisor;
    return NULL;
}

void __wrap_hypervisor_start(struct hypervisor *hypervisor);
void __wrap_hypervisor_start(struct hypervisor *hypervisor)
{
    (void)hypervisor;
}

int __wrap_hypervisor_call(struct hypervisor *hypervisor,
                           void (*work)(virConnectPtr connection, void *data),
                           void (*done)(void *data), void *data, struct fault *ret_fault);
int __wrap_hypervisor_call(struct hypervisor *hypervisor,
                           void (*work)(virConnectPtr connection, void *data),
                           void (*done)(void *data), void *data, struct fault *ret_fault)
{
    (void)hypervisor;
    (void)ret_fault;
    assert_true(call_count < CALLS_MAX);
    calls[call_count++] = (struct call){.work = work, .done = done, .data = data};
    return 0;
}

void __wrap_domain_call_list(virConnectPtr connection, struct domain_list *list);
void __wrap_domain_call_list(virConnectPtr connection, struct domain_list *list)
{
    (void)connection;
    list->states = calloc(1, sizeof truth);
    assert_non_null(list->states);
    list->states[0] = truth;
    list->count = 1;
    list->snapshots.is_unknown = are_snapshots_unknown;
    if (!snapshot_name[0])
        return;
    list->snapshots.snapshots = calloc(1, sizeof *list->snapshots.snapshots);
    assert_non_null(list->snapshots.snapshots);
    list->snapshots.count = 1;
    (void)snprintf(list->snapshots.snapshots[0].vm_id, sizeof list->snapshots.snapshots[0].vm_id, VM_ID);
    (void)snprintf(list->snapshots.snapshots[0].name, sizeof list->snapshots.snapshots[0].name, "%s",
                   snapshot_name);
}

int __wrap_domain_snapshot_take(virConnectPtr connection, const char *vm_id, const char *name, bool is_off,
                                struct fault *ret_fault);
int __wrap_domain_snapshot_take(virConnectPtr connection, const char *vm_id, const char *name, bool is_off,
                                struct fault *ret_fault)
{
    (void)connection;
    (void)ret_fault;
    assert_string_equal(vm_id, VM_ID);
    assert_false(is_off);
    (void)snprintf(snapshot_name, sizeof snapshot_name, "%s", name);
    return 0;
}

int __wrap_domain_snapshot_remove(virConnectPtr connection, const char *vm_id, const char *name,
                                  struct fault *ret_fault);
int __wrap_domain_snapshot_remove(virConnectPtr connection, const char *vm_id, const char *name,
                                  struct fault *ret_fault)
{
    (void)connection;
    (void)ret_fault;
    assert_string_equal(vm_id, VM_ID);
    assert_string_equal(name, snapshot_name);
    snapshot_name[0] = 0;
    return 0;
}

void __wrap_domain_call_run(virConnectPtr connection, struct domain_call *call);
void __wrap_domain_call_run(virConnectPtr connection, struct domain_call *call)
{
    (void)connection;
    call->state = truth;
}

/* ---- steps ---- */
/* The oldest call has been to libvirt; its answer is on its way. */
static struct call take_call(void)
{
    assert_true(call_count > 0);
    struct call call = calls[0];
    memmove(calls, calls + 1, --call_count * sizeof calls[0]);
    call.work(NULL, call.data);
    return call;
}

static void answer(struct call call)
{
    call.done(call.data);
}

static void answer_all(void)
{
    while (call_count)
        answer(take_call());
}

static void on_changed(void *data)
{
    (void)data;
    changes++;
}

static void on_snapshot_over(void *data, const char *vm_id)
{
    (void)data;
    assert_string_equal(vm_id, VM_ID);
    snapshots_over++;
}

static void see_truth(enum virt_sight sight)
{
    truth.sight = sight;
    truth.how = sight == SIGHT_OFF ? HOW_SHUTDOWN : HOW_UNKNOWN;
}

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    fault = (struct fault){0};
    call_count = 0;
    changes = 0;
    truth = (struct domain_state){
        .vm_id = VM_ID, .name = "dom", .exists = true, .persistent = true, .vcpus = 1, .memory_bytes = 1};
    see_truth(SIGHT_RUNNING);
    assert_int_equal(loop_new(&loop, &fault), 0);
    const struct backend_libvirt_config config = {
        .loop = loop, .host = "node1", .uri = "", .on_changed = on_changed, .on_snapshot_over = on_snapshot_over};
    snapshot_name[0] = 0;
    are_snapshots_unknown = false;
    snapshots_over = 0;
    assert_int_equal(backend_libvirt_new(&backend, &config, &fault), 0);
    libvirt.on_up(libvirt.data, "9.0.0");
    answer_all();
    assert_true(backend_libvirt_is_known(backend));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    answer_all();
    backend = backend_libvirt_free(backend);
    loop = loop_free(loop);
    (void)unlink(latch_path);
    return 0;
}

/* As an agent that was started anew: the domain is the pool's, and runs. */
static int speak_for_it(void)
{
    struct latch_file *file = NULL;
    const struct latch_record record = {.generation = GENERATION};
    int fd = -1;

    (void)snprintf(latch_path, sizeof latch_path, "/tmp/godwit-latch-%d", (int)getpid());
    assert_int_equal(latch_file_create(latch_path, &fd, &fault), 0);
    assert_int_equal(latch_file_open(&file, fd, &fault), 0);
    latch_file_put(file, &record);
    (void)latch_file_free(file);
    assert_int_equal(backend_libvirt_open(backend, VM_ID, latch_path, true, &fd, &fault), 0);
    answer_all();
    return fd;
}

/* The socket that spoke for it has ended: nothing here speaks for it any more. */
static void await_its_end(int fd)
{
    char bytes[4096];
    ssize_t n = -1;

    for (unsigned i = 0; i < TURNS_MAX && n != 0; i++) {
        loop_turn(loop, true);
        do
            n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        while (n > 0);
    }
    assert_int_equal(n, 0);
    (void)close(fd);
}

static void is_told_as(Godwit__VmState wanted)
{
    const Godwit__AgentFound *found = backend_libvirt_found(backend);

    assert_int_equal(found->n_domains, 1);
    assert_string_equal(found->domains[0]->vm_id, VM_ID);
    assert_int_equal(found->domains[0]->state, wanted);
}

static void is_told_as_running_by_nobody(void)
{
    const Godwit__AgentFound *found = backend_libvirt_found(backend);

    for (size_t i = 0; i < found->n_domains; i++)
        assert_int_not_equal(found->domains[i]->state, GODWIT__VM_STATE__VM_STATE_RUNNING);
}

/* ---- tests ---- */
static void a_list_of_before_its_end_that_comes_after_it_does_not_show_it_as_running(void **state)
{
    (void)state;
    int fd = speak_for_it();
    is_told_as_running_by_nobody(); /* it is spoken for */
    libvirt.on_event(libvirt.data, OTHER_ID, VIR_DOMAIN_EVENT_STARTED, 0);
    struct call late = take_call(); /* a list: it runs */

    see_truth(SIGHT_OFF);
    libvirt.on_event(libvirt.data, VM_ID, VIR_DOMAIN_EVENT_STOPPED,
                     VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN);
    await_its_end(fd);
    is_told_as_running_by_nobody();
    unsigned before = changes;
    answer(late);

    is_told_as_running_by_nobody();
    assert_int_equal(changes, before); /* nothing of it is told */
    answer_all();                      /* another was asked for by itself */
    assert_true(changes > before);
    is_told_as(GODWIT__VM_STATE__VM_STATE_STOPPED);
}

static void a_list_that_came_before_its_end_is_not_told_after_it(void **state)
{
    (void)state;
    int fd = speak_for_it();
    libvirt.on_event(libvirt.data, OTHER_ID, VIR_DOMAIN_EVENT_STARTED, 0);
    answer_all(); /* it runs */

    see_truth(SIGHT_OFF);
    libvirt.on_event(libvirt.data, VM_ID, VIR_DOMAIN_EVENT_STOPPED,
                     VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN);
    await_its_end(fd);

    is_told_as_running_by_nobody();
    answer_all();
    is_told_as(GODWIT__VM_STATE__VM_STATE_STOPPED);
}

static void an_agent_that_begins_meanwhile_does_not_take_it_for_running(void **state)
{
    (void)state;
    int fd = speak_for_it();
    libvirt.on_event(libvirt.data, OTHER_ID, VIR_DOMAIN_EVENT_STARTED, 0);
    struct call late = take_call();
    see_truth(SIGHT_OFF);
    libvirt.on_event(libvirt.data, VM_ID, VIR_DOMAIN_EVENT_STOPPED,
                     VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN);
    await_its_end(fd);
    answer(late);

    assert_int_equal(backend_libvirt_open(backend, VM_ID, latch_path, true, &fd, &fault), 0);
    await_its_end(fd); /* off at once, by what is known of it */
}

static void a_list_that_says_otherwise_is_no_word_about_what_is_spoken_for(void **state)
{
    (void)state;
    int fd = speak_for_it();
    see_truth(SIGHT_OFF);
    libvirt.on_event(libvirt.data, OTHER_ID, VIR_DOMAIN_EVENT_STARTED, 0);
    struct call late = take_call(); /* a list: it is off */
    see_truth(SIGHT_RUNNING);       /* by hand, at once */
    answer(late);
    answer_all(); /* it was looked at, instead */
    for (unsigned i = 0; i < 3; i++)
        loop_turn(loop, false);

    char byte;
    assert_int_equal(backend_libvirt_found(backend)->n_domains, 0);
    assert_int_not_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
    (void)close(fd);
}

static int take(const char *name)
{
    Godwit__OrderSnapshot order = GODWIT__ORDER_SNAPSHOT__INIT;

    order.vm_id = (char *)(uintptr_t)VM_ID; /* only read */
    order.name = (char *)(uintptr_t)name;
    return backend_libvirt_snapshot_take(backend, &order, false, NULL, &fault);
}

static void a_snapshot_that_was_taken_is_told_by_the_list_that_follows_and_one_at_a_time(void **state)
{
    (void)state;
    size_t count = 1;
    assert_non_null(backend_libvirt_snapshots(backend, &count)); /* known: none */
    assert_int_equal(count, 0);
    libvirt.on_event(libvirt.data, OTHER_ID, VIR_DOMAIN_EVENT_STARTED, 0);
    struct call early = take_call(); /* a list that was begun before */

    assert_int_equal(take("one"), 0);
    assert_int_equal(take("two"), ERR_BUSY);
    answer(take_call());
    assert_int_equal(snapshots_over, 1);
    answer(early);
    (void)backend_libvirt_snapshots(backend, &count);
    assert_int_equal(count, 0); /* that one did not know it */
    answer_all();
    Godwit__SnapshotInfo *const *infos = backend_libvirt_snapshots(backend, &count);
    assert_int_equal(count, 1);
    assert_string_equal(infos[0]->name, "one");
    assert_string_equal(infos[0]->host, "node1");
    assert_string_equal(infos[0]->vm_id, VM_ID);

    assert_int_equal(backend_libvirt_snapshot_remove(backend, infos[0], NULL, &fault), 0);
    answer_all();
    (void)backend_libvirt_snapshots(backend, &count);
    assert_int_equal(count, 0);
    assert_int_equal(snapshots_over, 2);
    assert_int_equal(take("three"), 0); /* nothing is in its way any more */
}

static void without_libvirtd_nothing_is_known_of_snapshots_and_who_waits_is_let_go(void **state)
{
    (void)state;
    size_t count = 1;
    assert_int_equal(take("one"), 0);
    struct call late = take_call();
    libvirt.on_down(libvirt.data, "killed");
    assert_null(backend_libvirt_snapshots(backend, &count));
    assert_int_equal(count, 0);
    answer(late);
    assert_int_equal(snapshots_over, 1);
    libvirt.on_up(libvirt.data, "9.0.0");
    answer_all();
    assert_non_null(backend_libvirt_snapshots(backend, &count));
    assert_int_equal(count, 1);
    assert_int_equal(take("two"), 0);
}

static void a_list_without_the_snapshots_of_a_domain_tells_none_and_the_domains_all_the_same(void **state)
{
    (void)state;
    size_t count = 1;
    assert_int_equal(take("one"), 0);
    answer_all();
    (void)backend_libvirt_snapshots(backend, &count);
    assert_int_equal(count, 1);
    are_snapshots_unknown = true;
    libvirt.on_event(libvirt.data, OTHER_ID, VIR_DOMAIN_EVENT_STARTED, 0);
    answer_all();
    assert_null(backend_libvirt_snapshots(backend, &count));
    assert_int_equal(count, 0);
    is_told_as(GODWIT__VM_STATE__VM_STATE_RUNNING);
    are_snapshots_unknown = false;
    libvirt.on_event(libvirt.data, OTHER_ID, VIR_DOMAIN_EVENT_STARTED, 0);
    answer_all();
    assert_non_null(backend_libvirt_snapshots(backend, &count));
    assert_int_equal(count, 1);
}

int main(void)
{
#define LISTED(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        LISTED(a_list_of_before_its_end_that_comes_after_it_does_not_show_it_as_running),
        LISTED(a_list_that_came_before_its_end_is_not_told_after_it),
        LISTED(an_agent_that_begins_meanwhile_does_not_take_it_for_running),
        LISTED(a_list_that_says_otherwise_is_no_word_about_what_is_spoken_for),
        LISTED(a_snapshot_that_was_taken_is_told_by_the_list_that_follows_and_one_at_a_time),
        LISTED(a_list_without_the_snapshots_of_a_domain_tells_none_and_the_domains_all_the_same),
        LISTED(without_libvirtd_nothing_is_known_of_snapshots_and_who_waits_is_let_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
