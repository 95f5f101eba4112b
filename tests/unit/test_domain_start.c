/* What may be said of a domain's start that is to end. The domain is libvirt's test driver's, in this process's memory. */
#include "agent/backend_libvirt/domain_start.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "agent/backend_libvirt/domain_ask.h"
#include "agent/backend_libvirt/domain_call.h"
#include "agent/backend_libvirt/domain_inside.h"
#include "agent/backend_libvirt/hypervisor.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/world.h"
#include "net/rpc.h"
#include "proto/method.h"

enum { GENERATION = 7 };

static virConnectPtr connection;
static virDomainPtr there; /* as libvirt has it */
static struct loop *loop;
static struct hypervisor *hypervisor;
static struct domain *domain;
static struct rpc *agent;
static char vm_id[33], latch_path[64];
static bool is_up, is_closed, is_answered, is_refused;
static Godwit__VmState answered_state;
static struct fault fault;

static void be_silent(void *data, virErrorPtr error)
{
    (void)data;
    (void)error;
}

static bool is_hung; /* libvirtd has no worker for what takes its turn; read by a call, so set while none is under way */

/* The test driver's word on a domain that is off has another number than QEMU's. */
int __real_virDomainSuspend(virDomainPtr suspended);
int __wrap_virDomainSuspend(virDomainPtr suspended);
int __wrap_virDomainSuspend(virDomainPtr suspended)
{
    bool is_off = virDomainIsActive(suspended) == 0;
    int r = __real_virDomainSuspend(suspended);

    if (r < 0 && is_hung)
        virGetLastError()->domain = VIR_FROM_RPC;
    else if (r < 0 && is_off)
        virGetLastError()->code = VIR_ERR_OPERATION_INVALID;
    return r;
}

static void on_up(void *data, const char *version)
{
    (void)data;
    (void)version;
    is_up = true;
}

static void on_down(void *data, const char *why)
{
    (void)data;
    (void)why;
}

static void on_event(void *data, const char *id, int event, int detail)
{
    (void)data;
    if (domain && strcmp(id, vm_id) == 0)
        domain_on_event(domain, event, detail);
}

static void on_job(void *data, const char *id, const struct virt_job *job)
{
    (void)data;
    (void)id;
    (void)job;
}

static void on_closed(void *data, struct domain *closed)
{
    (void)data;
    assert_ptr_equal(closed, domain);
    is_closed = true;
}

static void ignore_state(void *data, struct rpc *rpc, struct rpc_request *request, const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)request;
    (void)message;
}

static void answered(void *data, const ProtobufCMessage *reply, const struct fault *why)
{
    (void)data;
    (void)why;
    is_answered = true;
    is_refused = !reply;
    if (reply)
        answered_state = ((const Godwit__VmStatus *)reply)->state;
}

static void open_domain(void)
{
    static const struct rpc_method methods[] = {
        {METHOD_VM_STATE_EVENT, &godwit__vm_status__descriptor, ignore_state}};
    static const struct rpc_service service = {.methods = methods, .method_count = 1};
    const struct domain_state none = {.sight = SIGHT_OFF};
    const struct domain_config config = {.loop = loop,
                                         .hypervisor = hypervisor,
                                         .vm_id = vm_id,
                                         .latch_path = latch_path,
                                         .on_closed = on_closed};
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    assert_int_equal(domain_new(&domain, &config, fds[0], false, &none, &fault), 0);
    assert_int_equal(rpc_new_unix(&agent, loop, fds[1], &service, NULL, &fault), 0);
}

/* It is off, and an earlier agent asked libvirt for its start: this one wants its end. */
static int set_up(void **state)
{
    (void)state;
    const struct hypervisor_config config = {.uri = "test:///default",
                                             .on_up = on_up,
                                             .on_down = on_down,
                                             .on_event = on_event,
                                             .on_job = on_job};
    struct hypervisor_config mine = config;
    char uuid[VIR_UUID_STRING_BUFLEN];

    log_set_level(LOG_ERROR + 1);
    is_up = is_closed = is_answered = is_refused = is_hung = false;
    (void)snprintf(latch_path, sizeof latch_path, "/tmp/godwit-start-%d", getpid());
    assert_int_equal(loop_new(&loop, &fault), 0);
    mine.loop = loop;
    assert_int_equal(hypervisor_new(&hypervisor, &mine, &fault), 0);
    virSetErrorFunc(NULL, be_silent);
    hypervisor_start(hypervisor);
    while (!is_up)
        loop_turn(loop, true);
    connection = virConnectOpen("test:///default");
    assert_non_null(connection);
    there = virDomainLookupByName(connection, "test");
    assert_non_null(there);
    assert_int_equal(virDomainGetUUIDString(there, uuid), 0);
    assert_true(virt_view_id(uuid, vm_id));
    if (virDomainIsActive(there) == 1)
        assert_int_equal(virDomainDestroy(there), 0);
    open_domain();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    while (domain->is_killing || domain->is_looking)
        loop_turn(loop, true);
    domain = domain_free(domain);
    agent = rpc_close(agent);
    hypervisor = hypervisor_free(hypervisor);
    (void)virDomainFree(there);
    (void)virConnectClose(connection);
    loop = loop_free(loop);
    (void)unlink(latch_path);
    return 0;
}

static void order_its_end(void)
{
    Godwit__VmCreate order = GODWIT__VM_CREATE__INIT;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;

    spec.name = (char *)(uintptr_t)"test";
    order.vm_id = vm_id;
    order.spec = &spec;
    order.has_generation = order.has_may_run = order.has_ends = true;
    order.generation = GENERATION;
    order.may_run = order.ends = true;
    assert_int_equal(rpc_call(agent, METHOD_VM_CREATE, &order.base, &godwit__vm_status__descriptor, 0,
                              answered, NULL, &fault),
                     0);
    while (!domain->kill_asked_ns)
        loop_turn(loop, true);
}

static void one_call_more(void)
{
    while (domain->is_killing)
        loop_turn(loop, true);
    uint64_t before_ns = domain->kill_asked_ns;
    while (!is_answered && (domain->kill_asked_ns == before_ns || domain->is_killing))
        loop_turn(loop, true);
}

static void let_its_turn_be_over(void)
{
    assert_true(domain->start.heard_ns > 0);
    domain->start.heard_ns = 1; /* long ago */
}

static void what_libvirt_may_still_begin_is_not_refused_because_it_is_off(void **state)
{
    (void)state;
    order_its_end();

    one_call_more();
    one_call_more();

    assert_false(is_answered);
    assert_int_equal(virDomainIsActive(there), 0); /* nor was it started */
    let_its_turn_be_over();
    one_call_more();
    while (!is_answered)
        loop_turn(loop, true);
    assert_true(is_refused);
}

/* The lost call may lie before libvirtd all the while, and begin when it goes on. */
static void while_libvirtd_stands_still_no_turn_passes(void **state)
{
    (void)state;
    is_hung = true;
    order_its_end();
    one_call_more();
    domain->start.lost_ns = 1; /* long ago */
    one_call_more();
    while (domain->is_killing)
        loop_turn(loop, true);

    assert_false(is_answered);
    assert_int_equal(domain->start.heard_ns, 0);
    is_hung = false;
    one_call_more();
    one_call_more();
    assert_false(is_answered); /* it goes on: only now */
    let_its_turn_be_over();
    while (!is_answered)
        loop_turn(loop, true);
    assert_true(is_refused);
}

static void an_answer_to_what_was_asked_before_the_loss_is_no_proof_that_it_goes_on(void **state)
{
    (void)state;
    order_its_end();
    domain->start.lost_ns = domain->kill_asked_ns + 1;

    while (domain->is_killing)
        loop_turn(loop, true);

    assert_int_equal(domain->start.heard_ns, 0);
    one_call_more();
    while (domain->is_killing)
        loop_turn(loop, true);
    assert_true(domain->start.heard_ns > domain->start.lost_ns);
}

static void what_it_begins_meanwhile_is_ended_and_told_as_having_run(void **state)
{
    (void)state;
    order_its_end();
    one_call_more();

    assert_int_equal(virDomainCreate(there), 0);
    while (virDomainIsActive(there) == 1)
        loop_turn(loop, true);
    one_call_more();
    assert_false(is_answered); /* there may have been more than one call */
    let_its_turn_be_over();
    while (!is_answered)
        loop_turn(loop, true);

    assert_false(is_refused);
    assert_int_equal(answered_state, GODWIT__VM_STATE__VM_STATE_STOPPED);
    assert_int_equal(domain->core.generation, GENERATION);
    while (!is_closed)
        loop_turn(loop, true);
}

static int32_t ended_process(void)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return pid;
}

/* Libvirt did not end it, so its QEMU was killed: libvirt may still be about to begin what it was asked after that. */
static void the_end_of_a_killed_qemu_is_no_word_on_what_libvirt_may_still_begin(void **state)
{
    (void)state;
    order_its_end();
    one_call_more();
    while (domain->is_killing)
        loop_turn(loop, true);
    domain->state.pid = ended_process(); /* it was seen up meanwhile */
    domain->kill_ns = 1;                 /* long ago */

    domain_kill(domain);
    one_call_more();

    assert_false(domain->is_over);
    assert_false(is_answered);
    let_its_turn_be_over();
    while (!is_answered)
        loop_turn(loop, true);
    assert_false(is_refused);
    while (!is_closed)
        loop_turn(loop, true);
}

static void only_libvirts_own_word_after_its_turn_is_proof(void **state)
{
    (void)state;
    Godwit__VmCreate order = GODWIT__VM_CREATE__INIT;
    const uint64_t late_ns = 100 * NS_PER_S;
    struct domain_start start = {.order = &order, .may_run = true, .heard_ns = 60 * NS_PER_S};
    struct domain_call call = {.state = {.sight = SIGHT_OFF}, .is_settled = true};

    assert_true(domain_start_is_over(&start, &call, late_ns));
    assert_false(domain_start_is_over(&start, &call, start.heard_ns + 30 * NS_PER_S));
    call.is_settled = false;
    assert_false(domain_start_is_over(&start, &call, late_ns)); /* somebody is at it */
    call.is_settled = true;
    call.state.sight = SIGHT_UNKNOWN;
    assert_false(domain_start_is_over(&start, &call, late_ns));
    call.state.sight = SIGHT_PAUSED;
    assert_false(domain_start_is_over(&start, &call, late_ns));
    call.state.sight = SIGHT_OFF;
    start.heard_ns = 0; /* nothing was heard since */
    assert_false(domain_start_is_over(&start, &call, late_ns));
    start.heard_ns = 60 * NS_PER_S;
    start.is_asking = true;
    assert_false(domain_start_is_over(&start, &call, late_ns));
}

int main(void)
{
#define ON_DOMAIN(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ON_DOMAIN(what_libvirt_may_still_begin_is_not_refused_because_it_is_off),
        ON_DOMAIN(while_libvirtd_stands_still_no_turn_passes),
        ON_DOMAIN(an_answer_to_what_was_asked_before_the_loss_is_no_proof_that_it_goes_on),
        ON_DOMAIN(what_it_begins_meanwhile_is_ended_and_told_as_having_run),
        ON_DOMAIN(the_end_of_a_killed_qemu_is_no_word_on_what_libvirt_may_still_begin),
        cmocka_unit_test(only_libvirts_own_word_after_its_turn_is_proof),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
