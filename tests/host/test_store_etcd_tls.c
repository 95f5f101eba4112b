/* The contract of store.h with a real etcd by TLS, certificates both ways; and who is turned away.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/own.h"
#include "coordinator/store.h"
#include "tests/support/etcd_server.h"
#include "tests/support/store_contract.h"

static struct etcd_server server;
static char place[512];
static unsigned pool;

static const char *where(void)
{
    return place;
}

static int set_up(void **state)
{
    (void)state;
    const char *folder = server.folder;
    (void)snprintf(
        place, sizeof place,
        "etcds://127.0.0.1:1,127.0.0.1:%d/test/%u?ca=%s/ca.pem&cert=%s/client.pem&key=%s/"
        "client.key",
        server.port, ++pool, folder, folder, folder);
    return 0; /* its first member is never there */
}

static int tear_down(void **state)
{
    (void)state;
    return 0;
}

/* `format` has %d for the port and %s for the folder. */
__attribute__((format(printf, 2, 3))) static void expect_refused(int code, const char *format, ...)
{
    struct store *store = NULL;
    struct fault fault = {0};
    char at[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(at, sizeof at, format, args);
    va_end(args);
    int r = store_open(&store, at, NULL, &fault);
    print_message("%s\n", fault.text);
    assert_int_equal(r, code);
    assert_true(fault.text[0]);
}

static void who_shows_no_certificate_is_turned_away(void **state)
{
    (void)state;
    expect_refused(ERR_UNREACHABLE, "etcds://127.0.0.1:%d/test?ca=%s/ca.pem", server.port,
                   server.folder);
    expect_refused(ERR_UNREACHABLE, "etcd://127.0.0.1:%d/test", server.port);
}

static void a_certificate_of_somebody_else_is_worth_nothing(void **state)
{
    (void)state;
    const char *folder = server.folder;
    expect_refused(ERR_UNREACHABLE,
                   "etcds://127.0.0.1:%d/test?ca=%s/ca.pem&cert=%s/other.pem&key=%s/other.key",
                   server.port, folder, folder, folder);
}

static void a_member_whose_signer_is_unknown_is_not_spoken_to(void **state)
{
    (void)state;
    const char *folder = server.folder;
    expect_refused(ERR_UNREACHABLE,
                   "etcds://127.0.0.1:%d/test?ca=%s/other.pem&cert=%s/client.pem&key=%s/client.key",
                   server.port, folder, folder, folder);
    expect_refused(ERR_UNREACHABLE,
                   "etcds://127.0.0.1:%d/test?cert=%s/client.pem&key=%s/client.key", server.port,
                   folder, folder);
}

static void a_member_with_another_name_is_not_spoken_to(void **state)
{
    (void)state;
    const char *folder = server.folder;
    expect_refused(ERR_UNREACHABLE,
                   "etcds://localhost:%d/test?ca=%s/ca.pem&cert=%s/client.pem&key=%s/client.key",
                   server.port, folder, folder, folder);
}

static void words_that_make_no_sense_are_told_before_anybody_is_called(void **state)
{
    (void)state;
    const char *folder = server.folder;
    expect_refused(ERR_INVALID, "etcds://127.0.0.1:1?ca=%s/nobody.pem", folder);
    expect_refused(ERR_INVALID, "etcds://127.0.0.1:1?cert=%s/client.pem", folder);
    expect_refused(ERR_INVALID, "etcds://127.0.0.1:1?cacert=%s/ca.pem", folder);
    expect_refused(ERR_INVALID, "etcds://127.0.0.1:1?ca");
    expect_refused(ERR_INVALID, "etcds://127.0.0.1:1?&");
    expect_refused(ERR_INVALID, "etcds://?ca=%s/ca.pem", folder);
    expect_refused(ERR_INVALID, "etcd://127.0.0.1:1?ca=%s/ca.pem", folder);
}

int main(void)
{
    bool is_there = etcd_server_start(&server, true);
    (void)set_up(NULL);
    if (!is_there || !etcd_server_await(place)) {
        (void)puts("skipped: no etcd by TLS (packages etcd-server, openssl)");
        etcd_server_stop(&server);
        return 77;
    }
    const struct store_contract contract = {.where = where,
                                            .set_up = set_up,
                                            .tear_down = tear_down,
                                            .waits_for_the_dead = true,
                                            .killed_rounds = 2};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_shows_no_certificate_is_turned_away),
        cmocka_unit_test(a_certificate_of_somebody_else_is_worth_nothing),
        cmocka_unit_test(a_member_whose_signer_is_unknown_is_not_spoken_to),
        cmocka_unit_test(a_member_with_another_name_is_not_spoken_to),
        cmocka_unit_test(words_that_make_no_sense_are_told_before_anybody_is_called),
    };
    int r = store_contract_run(&contract) | cmocka_run_group_tests(tests, NULL, NULL);
    etcd_server_stop(&server);
    return r;
}
