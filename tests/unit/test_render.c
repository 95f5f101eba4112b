#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/error_text.h"
#include "cli/render.h"
#include "proto/pool.pb-c.h"
#include "tests/golden/cli_golden.h"

static const struct render_column columns[] = {
    {.field = "name", .head = "NAME"},
    {.field = "state", .head = "STATE"},
    {.field = "memory_free_bytes", .head = "FREE", .unit = RENDER_BYTES},
    {.field = "seen_unix_ms", .head = "SEEN", .unit = RENDER_AGO},
    {.field = "facts.kernel", .head = "KERNEL", .wide = true},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "name"};

enum { HOSTS = 3 };

struct pool {
    Godwit__HostInfo hosts[HOSTS];
    Godwit__HostFacts facts;
    const ProtobufCMessage *rows[HOSTS];
};

static void make_pool(struct pool *pool)
{
    static const char *const names[HOSTS] = {"node2", "node1", "node\x1b[31m"};
    static const char *const states[HOSTS] = {"up", "up", "down"};
    static const uint64_t room[HOSTS] = {MIB(900), GIB(12), GIB(2)};
    *pool = (struct pool){.facts = GODWIT__HOST_FACTS__INIT};
    pool->facts.kernel = (char *)"6.1.0";
    for (size_t i = 0; i < HOSTS; i++) {
        Godwit__HostInfo *host = &pool->hosts[i];
        *host = (Godwit__HostInfo)GODWIT__HOST_INFO__INIT;
        host->name = (char *)names[i];
        host->state = (char *)states[i];
        host->has_memory_free_bytes = i < 2;
        host->memory_free_bytes = room[i];
        host->has_seen_unix_ms = true;
        host->seen_unix_ms = i == 2 ? 1000 : 999500;
        host->facts = i == 0 ? &pool->facts : NULL;
        pool->rows[i] = &host->base;
    }
}

static void prints_every_form_as_recorded(void **state)
{
    (void)state;
    static const enum output_form forms[] = {OUTPUT_TABLE,  OUTPUT_WIDE, OUTPUT_JSON,
                                             OUTPUT_NDJSON, OUTPUT_YAML, OUTPUT_NAME};
    struct pool pool;
    char all[16384] = "";
    make_pool(&pool);
    for (size_t i = 0; i < ARRAY_COUNT(forms); i++) {
        const struct render_options options = {.form = forms[i], .now_unix_ms = 1000000};
        AUTO_FREE char *list = NULL, *page = NULL;
        assert_int_equal(render_list(&options, &view, pool.rows, HOSTS, &list, NULL), 0);
        assert_int_equal(render_page(&options, &view, pool.rows[0], &page, NULL), 0);
        size_t used = strlen(all);
        (void)snprintf(all + used, sizeof all - used, "--- list %zu\n%s--- page %zu\n%s", i, list,
                       i, page);
    }

    golden_check("cli_render.txt", all);
}

static void chooses_and_orders_columns(void **state)
{
    (void)state;
    const struct render_options options = {.columns = "name,facts.kernel,memory_free_bytes",
                                           .sort_by = "-memory_free_bytes"};
    struct pool pool;
    AUTO_FREE char *text = NULL;
    make_pool(&pool);

    assert_int_equal(render_list(&options, &view, pool.rows, 2, &text, NULL), 0);

    assert_string_equal(text, "NAME   KERNEL      FREE\n"
                              "node1  -       12.0 GiB\n"
                              "node2  6.1.0    900 MiB\n");
}

static void refuses_unknown_columns_with_the_nearest(void **state)
{
    (void)state;
    const struct render_options columns_wrong = {.columns = "nmae"};
    const struct render_options order_wrong = {.sort_by = "stat"};
    struct pool pool;
    struct fault fault = {0};
    AUTO_FREE char *text = NULL;
    make_pool(&pool);

    assert_int_equal(render_list(&columns_wrong, &view, pool.rows, 2, &text, &fault), ERR_INVALID);
    assert_string_equal(fault.text, "--columns: there is no column 'nmae'; did you mean 'name'?; "
                                    "there are name, state, memory_free_bytes, seen_unix_ms, "
                                    "facts.kernel");
    assert_int_equal(render_list(&order_wrong, &view, pool.rows, 2, &text, &fault), ERR_INVALID);
    assert_non_null(strstr(fault.text, "--sort-by: there is no column 'stat'"));
}

/* As a reply has it: no list at all. Under UBSan a copy from nowhere ends the command. */
static void prints_no_rows_in_every_form(void **state)
{
    (void)state;
    static const enum output_form forms[] = {OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_NAME};
    static const char *const empty[] = {"", "[]\n", ""};
    for (size_t i = 0; i < ARRAY_COUNT(forms); i++) {
        const struct render_options options = {.form = forms[i]};
        AUTO_FREE char *text = NULL;
        assert_int_equal(render_list(&options, &view, NULL, 0, &text, NULL), 0);
        assert_string_equal(text, empty[i]);
    }
}

static void writes_errors_as_recorded(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    char *details[] = {(char *)"guest uses  avx512vbmi avx512_vnni (baseline Icelake-Server)",
                       (char *)"node3 has   Skylake-Server"};
    Godwit__OperatorError error = GODWIT__OPERATOR_ERROR__INIT;
    error.code = (char *)"GW-2104";
    error.name = (char *)"cpu-compat";
    error.message =
        (char *)"web-07 cannot run on node3: the host lacks CPU features the guest uses";
    error.n_details = 2;
    error.details = details;
    error.vm_state = (char *)"running on node1";
    error.hint = (char *)"godwit migrate web-07 --to node2";
    struct fault fault = {.code = ERR_NOT_FOUND,
                          .text = "there is no VM 'zz' (GW-2102 vm-unknown)",
                          .hint = "godwit vm ls"};
    const struct error_style wide = {.width = 100}, narrow = {.width = 60}, json = {.json = true};

    error_text_write(out, &wide, &error);
    error_text_write(out, &narrow, &error);
    error_text_write(out, &json, &error);
    error_text_write_fault(out, &wide, &fault);
    assert_int_equal(fclose(out), 0);

    assert_int_equal(error_exit_code(&error), 5);
    assert_int_equal(error_exit_code_of_fault(&fault), 3);
    golden_check("cli_error.txt", text);
    free(text);
}

static void every_failure_has_its_exit_code(void **state)
{
    (void)state;
    static const struct {
        int code, exit_code;
    } cases[] = {{ERR_INVALID, 2},  {ERR_NOT_FOUND, 3}, {ERR_DENIED, 4},     {ERR_REFUSED, 5},
                 {ERR_STATE, 5},    {ERR_EXISTS, 5},    {ERR_CPU_COMPAT, 5}, {ERR_ROLLED_BACK, 6},
                 {ERR_DEADLINE, 6}, {ERR_CANCELED, 6},  {ERR_BUSY, 9},       {ERR_UNREACHABLE, 10},
                 {ERR_TIMEOUT, 10}, {ERR_CLOSED, 10},   {ERR_ATTENTION, 11}, {ERR_NOMEM, 1},
                 {ERR_IO, 1},       {ERR_CORRUPT, 1}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const struct fault fault = {.code = cases[i].code, .text = "x"};
        assert_int_equal(error_exit_code_of_fault(&fault), cases[i].exit_code);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prints_every_form_as_recorded),
        cmocka_unit_test(chooses_and_orders_columns),
        cmocka_unit_test(refuses_unknown_columns_with_the_nearest),
        cmocka_unit_test(prints_no_rows_in_every_form),
        cmocka_unit_test(writes_errors_as_recorded),
        cmocka_unit_test(every_failure_has_its_exit_code),
    };
    if (!setlocale(LC_ALL, "C.UTF-8"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
