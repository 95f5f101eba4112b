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
#include "net/rpc.h"
#include "proto/method.h"

#define VM_ID "00112233445566778899aabbccddeeff"
#define MOVE_ID "0123456789abcdef"
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
static bool is_down;       /* libvirtd cannot be reached */
static bool loses_starts;  /* what is told of a start is lost on its way */
static bool refuses_starts;
static unsigned starts;    /* that libvirt was told to begin */
static struct rpc *agent;  /* the end of the socket that gives orders */
static bool is_agent_closed;
static unsigned states_told;
static unsigned answers;
static int answered_code;  /* of the last answer; 0: a status */
static uint64_t answered_generation;
static struct {             /* of a move away */
    void (*done)(void *data, const Godwit__PeerMoveReply *reply, const struct fault *words);
    void *data;             /* with done: what the source asks its target now */
    unsigned ends_told;
    uint64_t wire_bytes;    /* of its receipt; 0: it tells none */
    Godwit__VmState state;  /* as the domain said it last */
} move;

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

bool __wrap_hypervisor_is_up(const struct hypervisor *hypervisor);
bool __wrap_hypervisor_is_up(const struct hypervisor *hypervisor)
{
    (void)hypervisor;
    return !is_down;
}

int __wrap_hypervisor_call(struct hypervisor *hypervisor,
                           void (*work)(virConnectPtr connection, void *data),
                           void (*done)(void *data), void *data, struct fault *ret_fault);
int __wrap_hypervisor_call(struct hypervisor *hypervisor,
                           void (*work)(virConnectPtr connection, void *data),
                           void (*done)(void *data), void *data, struct fault *ret_fault)
{
    (void)hypervisor;
    if (is_down)
        return fault_set(ret_fault, ERR_UNREACHABLE, "it is down");
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
    if (call->kind != DOMAIN_CALL_START)
        return;
    starts++;
    call->was_asked = true;
    call->is_lost = loses_starts;
    if (loses_starts) {
        (void)fault_set(&call->fault, ERR_UNREACHABLE, "end of file");
        call->state = (struct domain_state){.sight = SIGHT_UNKNOWN};
    } else if (refuses_starts) {
        (void)fault_set(&call->fault, ERR_IO, "its disk is not there");
    }
}

/* ---- steps ---- */
static void *open_line(void *data, const char *address)
{
    (void)data;
    (void)address;
    return &move;
}

static void ask_over_line(void *line, const Godwit__PeerMove *message,
                          void (*done)(void *data, const Godwit__PeerMoveReply *reply, const struct fault *words),
                          void *data)
{
    (void)line;
    (void)message;
    move.done = done;
    move.data = data;
}

static void *close_line(void *line)
{
    (void)line;
    move.done = NULL;
    return NULL;
}

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
    is_down = loses_starts = refuses_starts = false;
    starts = answers = states_told = 0;
    is_agent_closed = false;
    answered_code = -1;
    answered_generation = 0;
    memset(&move, 0, sizeof move);
    truth = (struct domain_state){
        .vm_id = VM_ID, .name = "dom", .exists = true, .persistent = true, .vcpus = 1, .memory_bytes = 1};
    see_truth(SIGHT_RUNNING);
    assert_int_equal(loop_new(&loop, &fault), 0);
    const struct backend_libvirt_config config = {
        .loop = loop, .host = "node1", .uri = "", .on_changed = on_changed, .on_snapshot_over = on_snapshot_over,
        .line_open = open_line, .line_ask = ask_over_line, .line_close = close_line};
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
    agent = rpc_close(agent);
    for (unsigned i = 0; i < 5; i++)
        loop_turn(loop, false);
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

static void what_is_spoken_for_is_told_with_the_digest_of_its_definition(void **state)
{
    (void)state;
    (void)snprintf(truth.definition, sizeof truth.definition, "abc");
    int fd = speak_for_it();
    libvirt.on_event(libvirt.data, OTHER_ID, VIR_DOMAIN_EVENT_STARTED, 0);
    answer_all();

    const Godwit__AgentFound *found = backend_libvirt_found(backend);
    assert_int_equal(found->n_definitions, 1);
    assert_string_equal(found->definitions[0]->vm_id, VM_ID);
    assert_string_equal(found->definitions[0]->digest, "abc");
    (void)close(fd);
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

/* ---- starts ---- */
static void on_created(void *data, const ProtobufCMessage *reply, const struct fault *words)
{
    (void)data;
    answers++;
    answered_code = reply ? 0 : words->code;
    answered_generation = reply ? ((const Godwit__VmStatus *)reply)->generation : 0;
}

static void on_agent_closed(void *data, struct rpc *rpc, const struct fault *words)
{
    (void)data;
    (void)rpc;
    (void)words;
    is_agent_closed = true;
}

static void on_state(void *data, struct rpc *rpc, struct rpc_request *request, const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)request;
    (void)message;
    states_told++;
}

static void turn(unsigned count)
{
    while (count-- > 0)
        loop_turn(loop, false);
}

/* As an agent that carries out a START. `again`: one before it has asked libvirt for the same. */
static void order_start(bool again)
{
    static const struct rpc_method methods[] = {
        {METHOD_VM_STATE_EVENT, &godwit__vm_status__descriptor, on_state}};
    static const struct rpc_service service = {.methods = methods, .method_count = 1, .on_closed = on_agent_closed};
    Godwit__VmCreate order = GODWIT__VM_CREATE__INIT;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    int fd = -1;

    (void)snprintf(latch_path, sizeof latch_path, "/tmp/godwit-latch-%d", (int)getpid());
    assert_int_equal(backend_libvirt_open(backend, VM_ID, latch_path, false, &fd, &fault), 0);
    assert_int_equal(rpc_new_unix(&agent, loop, fd, &service, NULL, &fault), 0);
    order.vm_id = (char *)(uintptr_t)VM_ID; /* only read */
    order.spec = &spec;
    order.has_generation = order.has_may_run = true;
    order.generation = GENERATION;
    order.may_run = again;
    assert_int_equal(rpc_call(agent, METHOD_VM_CREATE, &order.base, &godwit__vm_status__descriptor, 0,
                              on_created, NULL, &fault),
                     0);
    turn(10);
}

static void await_calls(size_t count)
{
    for (unsigned i = 0; i < TURNS_MAX && call_count < count; i++)
        loop_turn(loop, true);
    assert_true(call_count >= count);
}

static void is_answered(int code)
{
    turn(10);
    assert_int_equal(answers, 1);
    assert_int_equal(answered_code, code);
}

static void a_start_whose_answer_is_lost_is_refused_by_nobody_and_asked_for_once_more(void **state)
{
    (void)state;
    see_truth(SIGHT_OFF);
    loses_starts = true;
    order_start(false);
    answer_all();
    turn(10);
    assert_int_equal(starts, 1);
    assert_int_equal(answers, 0); /* libvirt may be at it */

    is_down = true;
    libvirt.on_down(libvirt.data, "killed");
    turn(10);
    assert_int_equal(answers, 0);
    is_down = loses_starts = false;
    see_truth(SIGHT_RUNNING); /* it was */
    libvirt.on_up(libvirt.data, "9.0.0");
    answer_all();
    await_calls(1);
    answer_all();

    is_answered(0);
    assert_int_equal(answered_generation, GENERATION);
}

static void what_libvirt_refuses_when_it_is_asked_once_more_is_refused(void **state)
{
    (void)state;
    see_truth(SIGHT_OFF);
    loses_starts = true;
    order_start(false);
    answer_all();
    loses_starts = false;
    refuses_starts = true;
    await_calls(1);
    answer_all();

    is_answered(ERR_IO);
    assert_int_equal(starts, 2);
}

static void a_start_that_takes_long_is_waited_for(void **state)
{
    (void)state;
    see_truth(SIGHT_RUNNING);
    order_start(false);
    assert_int_equal(call_count, 1);
    struct call slow = take_call();
    for (unsigned i = 0; i < 6; i++)
        loop_turn(loop, true); /* its ticks */
    assert_int_equal(answers, 0);
    assert_int_equal(starts, 1); /* nor is libvirt asked beside it */
    answer(slow);

    is_answered(0);
}

/* The first call's start is seen, fails, and is over, while the second waits for libvirt's lock: it starts it then. */
static void what_a_lost_call_began_and_lost_is_no_end_while_the_next_call_is_out(void **state)
{
    (void)state;
    see_truth(SIGHT_OFF);
    loses_starts = true;
    order_start(false);
    answer_all();
    loses_starts = false;
    await_calls(1);
    see_truth(SIGHT_RUNNING);
    struct call second = take_call();
    assert_int_equal(starts, 2);
    libvirt.on_event(libvirt.data, VM_ID, VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_BOOTED);
    answer_all(); /* whoever looks sees it */
    libvirt.on_event(libvirt.data, VM_ID, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED);
    for (unsigned i = 0; i < 4 && answers == 0; i++)
        loop_turn(loop, true); /* its ticks */
    turn(10);
    assert_int_equal(answers, 0);
    answer(second);

    is_answered(0);
    assert_int_equal(answered_generation, GENERATION);
    answer_all(); /* and is looked at */
}

static void what_ends_before_its_start_is_answered_is_not_taken_for_running(void **state)
{
    (void)state;
    see_truth(SIGHT_RUNNING);
    order_start(false);
    struct call start = take_call();
    see_truth(SIGHT_OFF);
    libvirt.on_event(libvirt.data, VM_ID, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_CRASHED);
    answer(start);
    is_answered(0);
    answer_all();
    for (unsigned i = 0; i < TURNS_MAX && !is_agent_closed; i++)
        loop_turn(loop, true);
    assert_true(is_agent_closed);
}

/* What is told is kept, and an agent that is started anew would find no latch that goes with it. */
static void a_domain_that_is_seen_starting_up_is_told_as_nothing_and_has_no_latch(void **state)
{
    (void)state;
    struct latch_record record;
    see_truth(SIGHT_PAUSED);
    order_start(false);
    struct call slow = take_call();
    libvirt.on_event(libvirt.data, VM_ID, VIR_DOMAIN_EVENT_RESUMED, 0);
    answer_all(); /* looks and lists */
    turn(10);
    assert_int_equal(states_told, 0);
    bool has_latch = latch_file_read(latch_path, &record, &fault) == 0 && record.generation;
    assert_false(has_latch);
    answer(slow);

    is_answered(0);
    assert_int_equal(latch_file_read(latch_path, &record, &fault), 0);
    assert_int_equal(record.generation, GENERATION);
}

static void a_start_that_libvirtd_was_never_told_of_is_refused_at_once(void **state)
{
    (void)state;
    see_truth(SIGHT_OFF);
    is_down = true;
    order_start(false);

    is_answered(ERR_UNREACHABLE);
    assert_int_equal(starts, 0);
}

static void but_not_where_an_earlier_agent_had_asked_for_it(void **state)
{
    (void)state;
    see_truth(SIGHT_OFF);
    is_down = true;
    libvirt.on_down(libvirt.data, "killed"); /* nor is there a list */
    order_start(true);
    assert_int_equal(answers, 0);

    is_down = false;
    see_truth(SIGHT_RUNNING);
    await_calls(1);
    answer_all();
    is_answered(0);
}

static void what_is_killed_while_its_start_is_open_is_neither_started_again_nor_refused_at_once(void **state)
{
    (void)state;
    see_truth(SIGHT_OFF);
    loses_starts = true;
    order_start(false);
    answer_all();
    loses_starts = false;
    backend_libvirt_kill(backend, VM_ID);
    answer_all();
    turn(10);

    assert_int_equal(answers, 0); /* off as it is, libvirt may be about to carry out the call that was lost */
    assert_int_equal(starts, 1);
    answer_all();
}

/* ---- moves ---- */
static void on_status(void *data, struct rpc *rpc, struct rpc_request *request, const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)request;
    move.state = ((const Godwit__VmStatus *)message)->state;
}

static void on_move(void *data, struct rpc *rpc, struct rpc_request *request, const ProtobufCMessage *message)
{
    const Godwit__MoveEvent *event = (const Godwit__MoveEvent *)message;
    (void)data;
    (void)rpc;
    (void)request;

    if (!event->ended)
        return;
    assert_non_null(event->receipt);
    move.ends_told++;
    move.wire_bytes = event->receipt->wire_bytes;
}

static void on_answered(void *data, const ProtobufCMessage *reply, const struct fault *words)
{
    (void)data;
    (void)words;
    answers++;
    answered_code = reply ? 0 : words->code;
    if (reply && reply->descriptor == &godwit__vm_status__descriptor)
        move.state = ((const Godwit__VmStatus *)reply)->state;
}

static void order(uint16_t method, const ProtobufCMessage *message, const ProtobufCMessageDescriptor *reply)
{
    unsigned before = answers;

    assert_int_equal(rpc_call(agent, method, message, reply, 0, on_answered, NULL, &fault), 0);
    for (unsigned i = 0; i < TURNS_MAX && answers == before; i++)
        loop_turn(loop, true);
    assert_int_equal(answers, before + 1);
    assert_int_equal(answered_code, 0);
}

static void target_answers(Godwit__Latch latch)
{
    Godwit__PeerMoveReply reply = GODWIT__PEER_MOVE_REPLY__INIT;

    assert_non_null(move.done);
    reply.has_latch = true;
    reply.latch = latch;
    reply.libvirt_uri = (char *)(uintptr_t)"qemu+tcp://node2/system"; /* only read */
    move.done(move.data, &reply, NULL);
}

/* Its target runs it, and its QEMU here has ended; libvirt's last word of the migration is to come. */
static void move_away(void)
{
    static const struct rpc_method methods[] = {
        {METHOD_VM_STATE_EVENT, &godwit__vm_status__descriptor, on_status},
        {METHOD_VM_MOVE_EVENT, &godwit__move_event__descriptor, on_move}};
    static const struct rpc_service service = {.methods = methods, .method_count = 2, .on_closed = on_agent_closed};
    static uint8_t key[32];
    Godwit__MoveOut out = GODWIT__MOVE_OUT__INIT;

    assert_int_equal(rpc_new_unix(&agent, loop, speak_for_it(), &service, NULL, &fault), 0);
    out.move_id = (char *)(uintptr_t)MOVE_ID;
    out.address = (char *)(uintptr_t)"node2:7412";
    out.has_generation = out.has_psk = true;
    out.generation = GENERATION + 1;
    out.psk = (ProtobufCBinaryData){.data = key, .len = sizeof key};
    order(METHOD_VM_MOVE_OUT, &out.base, &godwit__empty__descriptor);
    target_answers(GODWIT__LATCH__LATCH_IN);
    assert_int_equal(call_count, 1);
    struct call migration = take_call();
    see_truth(SIGHT_OFF);
    answer(migration);
    answer_all(); /* looks: it is off */
    target_answers(GODWIT__LATCH__LATCH_TOOK);
    turn(10);
}

static void a_coordinator_that_knows_of_the_take_first_does_not_cost_the_receipt_its_figures(void **state)
{
    (void)state;
    const struct virt_job job = {.data_total = 4096, .data_processed = 1234};
    Godwit__MoveVerdict verdict = GODWIT__MOVE_VERDICT__INIT;
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;

    move_away();
    verdict.move_id = (char *)(uintptr_t)MOVE_ID;
    verdict.has_kind = true;
    verdict.kind = GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED;
    order(METHOD_VM_MOVE_VERDICT, &verdict.base, &godwit__vm_status__descriptor);
    if (move.state == GODWIT__VM_STATE__VM_STATE_GONE) /* as an agent does */
        assert_int_equal(rpc_send_event(agent, METHOD_VM_QUIT, &action.base, &fault), 0);
    turn(10);
    libvirt.on_job(libvirt.data, VM_ID, &job);
    for (unsigned i = 0; i < TURNS_MAX && !is_agent_closed; i++)
        loop_turn(loop, true);

    assert_true(is_agent_closed);
    assert_int_equal(move.state, GODWIT__VM_STATE__VM_STATE_GONE);
    assert_int_equal(move.ends_told, 1);
    assert_int_equal(move.wire_bytes, job.data_processed);
}

int main(void)
{
#define LISTED(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        LISTED(a_list_of_before_its_end_that_comes_after_it_does_not_show_it_as_running),
        LISTED(a_list_that_came_before_its_end_is_not_told_after_it),
        LISTED(an_agent_that_begins_meanwhile_does_not_take_it_for_running),
        LISTED(what_is_spoken_for_is_told_with_the_digest_of_its_definition),
        LISTED(a_list_that_says_otherwise_is_no_word_about_what_is_spoken_for),
        LISTED(a_snapshot_that_was_taken_is_told_by_the_list_that_follows_and_one_at_a_time),
        LISTED(a_list_without_the_snapshots_of_a_domain_tells_none_and_the_domains_all_the_same),
        LISTED(a_start_whose_answer_is_lost_is_refused_by_nobody_and_asked_for_once_more),
        LISTED(what_libvirt_refuses_when_it_is_asked_once_more_is_refused),
        LISTED(a_start_that_takes_long_is_waited_for),
        LISTED(what_a_lost_call_began_and_lost_is_no_end_while_the_next_call_is_out),
        LISTED(what_ends_before_its_start_is_answered_is_not_taken_for_running),
        LISTED(a_domain_that_is_seen_starting_up_is_told_as_nothing_and_has_no_latch),
        LISTED(a_start_that_libvirtd_was_never_told_of_is_refused_at_once),
        LISTED(but_not_where_an_earlier_agent_had_asked_for_it),
        LISTED(what_is_killed_while_its_start_is_open_is_neither_started_again_nor_refused_at_once),
        LISTED(a_coordinator_that_knows_of_the_take_first_does_not_cost_the_receipt_its_figures),
        LISTED(without_libvirtd_nothing_is_known_of_snapshots_and_who_waits_is_let_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
