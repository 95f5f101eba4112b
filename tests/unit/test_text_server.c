#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/loop.h"
#include "net/text_server.h"

static int judge(const char *request)
{
    return text_server_judge(request, strlen(request), "/metrics");
}

static void a_whole_request_for_its_path_is_taken(void **state)
{
    (void)state;
    assert_int_equal(judge("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), 1);
    assert_int_equal(judge("GET /metrics?x=1 HTTP/1.0\r\n\r\n"), 1);
    assert_int_equal(judge("GET /metrics HTTP/1.1\r\nHost:"), 0);
    assert_int_equal(judge("GET /met"), 0);
    assert_int_equal(judge(""), 0);
}

static void anything_else_is_refused(void **state)
{
    (void)state;
    char long_one[TEXT_SERVER_REQUEST_MAX];
    memset(long_one, 'x', sizeof long_one);
    assert_int_equal(judge("GET / HTTP/1.1\r\n\r\n"), ERR_NOT_FOUND);
    assert_int_equal(judge("GET /metricsx HTTP/1.1\r\n\r\n"), ERR_NOT_FOUND);
    assert_int_equal(judge("POST /metrics HTTP/1.1\r\n\r\n"), ERR_INVALID);
    assert_int_equal(judge("\r\n"), ERR_INVALID);
    assert_int_equal(text_server_judge(long_one, sizeof long_one, "/metrics"), ERR_INVALID);
}

static void nothing(void *data, FILE *out)
{
    (void)data;
    (void)out;
}

static void it_listens_on_loopback_only(void **state)
{
    (void)state;
    struct loop *loop = NULL;
    struct text_server *server = NULL;
    assert_int_equal(loop_new(&loop, NULL), 0);
    assert_int_equal(text_server_new(&server, loop, "0.0.0.0:0", "/metrics", nothing, NULL, NULL),
                     ERR_INVALID);
    assert_int_equal(text_server_new(&server, loop, "nonsense", "/metrics", nothing, NULL, NULL),
                     ERR_INVALID);
    assert_int_equal(text_server_new(&server, loop, "127.0.0.1:0", "/metrics", nothing, NULL, NULL),
                     0);
    (void)text_server_free(server);
    (void)loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_request_for_its_path_is_taken),
        cmocka_unit_test(anything_else_is_refused),
        cmocka_unit_test(it_listens_on_loopback_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
