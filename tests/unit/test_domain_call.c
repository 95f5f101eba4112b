/* Calls against libvirt's own test driver: domains in this process's memory, no libvirtd. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "agent/backend_libvirt/domain_call.h"
#include "base/err.h"

static virConnectPtr connection;
static struct domain_call call;

static void be_silent(void *data, virErrorPtr error)
{
    (void)data;
    (void)error;
}

static bool is_held; /* somebody is at the domain, and does not come to an end */

/* The test driver's word on a domain that is off has another number than QEMU's. */
int __real_virDomainSuspend(virDomainPtr suspended);
int __wrap_virDomainSuspend(virDomainPtr suspended);
int __wrap_virDomainSuspend(virDomainPtr suspended)
{
    bool is_off = virDomainIsActive(suspended) == 0;
    int r = __real_virDomainSuspend(suspended);

    if (r < 0 && is_off && !is_held)
        virGetLastError()->code = VIR_ERR_OPERATION_INVALID;
    return r;
}

/* The driver begins with one domain, "test", which runs. */
static int set_up(void **state)
{
    struct domain_list list = {0};
    (void)state;

    virSetErrorFunc(NULL, be_silent);
    connection = virConnectOpen("test:///default");
    if (!connection)
        return -1;
    domain_call_list(connection, &list);
    assert_int_equal(list.count, 1);
    assert_int_equal(list.states[0].sight, SIGHT_RUNNING);
    call = (struct domain_call){0};
    memcpy(call.vm_id, list.states[0].vm_id, sizeof call.vm_id);
    free(list.states);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)virConnectClose(connection);
    return 0;
}

static void run(enum domain_call_kind kind)
{
    call.kind = kind;
    call.fault = (struct fault){0};
    domain_call_run(connection, &call);
}

static void starts_what_is_off_and_takes_up_what_runs(void **state)
{
    (void)state;
    run(DOMAIN_CALL_START); /* runs already: as good */
    assert_int_equal(call.fault.code, 0);
    run(DOMAIN_CALL_DESTROY);
    assert_int_equal(call.state.sight, SIGHT_OFF);
    run(DOMAIN_CALL_START);

    assert_int_equal(call.fault.code, 0);
    assert_int_equal(call.state.sight, SIGHT_RUNNING);
}

static void a_destroy_that_settles_says_what_it_found_and_that_nobody_is_at_it(void **state)
{
    (void)state;
    call.settles = true;
    run(DOMAIN_CALL_DESTROY);
    assert_true(call.was_active);
    assert_true(call.is_heard);
    assert_true(call.is_settled);
    call.is_heard = call.is_settled = false;
    run(DOMAIN_CALL_DESTROY);
    assert_false(call.was_active);
    assert_true(call.is_heard);
    assert_true(call.is_settled);

    is_held = true;
    call.is_heard = call.is_settled = false;
    run(DOMAIN_CALL_DESTROY);
    assert_true(call.is_heard);
    assert_int_equal(call.state.sight, SIGHT_OFF);
    assert_false(call.is_settled); /* that is no proof */
    is_held = call.is_heard = call.settles = false;
    run(DOMAIN_CALL_DESTROY);
    assert_false(call.is_heard);
    assert_false(call.is_settled); /* it was not asked for */
}

/* Somebody started it, the pool follows, and he has ended it before its word came. */
static void what_was_seen_running_and_is_off_by_now_is_not_started(void **state)
{
    (void)state;
    call.only_running = true;
    run(DOMAIN_CALL_START);
    assert_int_equal(call.fault.code, 0);
    assert_int_equal(call.state.sight, SIGHT_RUNNING);
    run(DOMAIN_CALL_DESTROY);

    run(DOMAIN_CALL_START);
    assert_int_equal(call.fault.code, ERR_STATE);
    assert_int_equal(call.state.sight, SIGHT_OFF);
    run(DOMAIN_CALL_LOOK);
    assert_int_equal(call.state.sight, SIGHT_OFF);
}

static void nor_is_it_defined_again(void **state)
{
    (void)state;
    char uuid[37];
    run(DOMAIN_CALL_READ);
    char *xml = call.text;
    assert_non_null(xml);
    run(DOMAIN_CALL_DESTROY);
    assert_true(virt_view_uuid(call.vm_id, uuid));
    virDomainPtr domain = virDomainLookupByUUIDString(connection, uuid);
    assert_int_equal(virDomainUndefine(domain), 0);
    (void)virDomainFree(domain);

    call.xml = xml;
    call.may_define = call.only_running = true;
    run(DOMAIN_CALL_START);
    assert_int_equal(call.fault.code, ERR_STATE);
    assert_false(call.state.exists);
    call.only_running = false;
    run(DOMAIN_CALL_START);
    assert_int_equal(call.fault.code, 0);
    assert_int_equal(call.state.sight, SIGHT_RUNNING);
    free(xml);
}

/* It ran here, then elsewhere, where its definition was changed; and is started here again. */
static void what_the_host_kept_of_it_is_not_started_but_what_the_pool_has(void **state)
{
    (void)state;
    run(DOMAIN_CALL_READ);
    char *xml = call.text;
    call.text = NULL;
    assert_non_null(xml);
    char *memory = strstr(xml, "<currentMemory");
    assert_non_null(memory);
    memory = strpbrk(memory, "0123456789");
    assert_non_null(memory);
    memory[0] = memory[0] == '1' ? '2' : '1';
    run(DOMAIN_CALL_DESTROY);
    call.xml = xml;
    call.may_define = call.may_define_over = true;
    run(DOMAIN_CALL_START);
    assert_int_equal(call.fault.code, 0);
    assert_int_equal(call.state.sight, SIGHT_RUNNING);

    run(DOMAIN_CALL_READ);
    assert_string_equal(call.text, xml);
    free(call.text);
    call.text = NULL;
    free(xml);
}

static void but_not_over_the_snapshots_that_are_of_what_the_host_kept(void **state)
{
    (void)state;
    char uuid[37];
    run(DOMAIN_CALL_DESTROY);
    run(DOMAIN_CALL_READ);
    assert_true(virt_view_uuid(call.vm_id, uuid));
    virDomainPtr domain = virDomainLookupByUUIDString(connection, uuid);
    virDomainSnapshotPtr snapshot =
        virDomainSnapshotCreateXML(domain, "<domainsnapshot><name>s</name></domainsnapshot>", 0);
    assert_non_null(snapshot);
    (void)virDomainSnapshotFree(snapshot);
    (void)virDomainFree(domain);
    call.may_define = call.may_define_over = true;
    call.xml = "<domain/>";
    run(DOMAIN_CALL_START);
    assert_int_equal(call.fault.code, ERR_REFUSED);
    assert_int_equal(call.state.sight, SIGHT_OFF);

    call.xml = call.text; /* the same */
    run(DOMAIN_CALL_START);
    assert_int_equal(call.fault.code, 0);
    assert_int_equal(call.state.sight, SIGHT_RUNNING);
    free(call.text);
    call.text = NULL;
}

/* Nothing of it was libvirt's own no: an earlier call may be at it. */
static void what_is_found_before_libvirt_is_told_to_go_back_is_no_word_of_libvirt(void **state)
{
    (void)state;
    (void)strcpy(call.snapshot, "none");
    run(DOMAIN_CALL_START);
    assert_int_equal(call.fault.code, ERR_NOT_FOUND);
    assert_false(call.was_asked);
    assert_true(call.is_lost);
}

int main(void)
{
#define ON_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ON_TEST(starts_what_is_off_and_takes_up_what_runs),
        ON_TEST(a_destroy_that_settles_says_what_it_found_and_that_nobody_is_at_it),
        ON_TEST(what_was_seen_running_and_is_off_by_now_is_not_started),
        ON_TEST(nor_is_it_defined_again),
        ON_TEST(what_the_host_kept_of_it_is_not_started_but_what_the_pool_has),
        ON_TEST(but_not_over_the_snapshots_that_are_of_what_the_host_kept),
        ON_TEST(what_is_found_before_libvirt_is_told_to_go_back_is_no_word_of_libvirt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
