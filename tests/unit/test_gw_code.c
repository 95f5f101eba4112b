#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/gw_code.h"

static void is_found_by_label_number_and_name(void **state)
{
    (void)state;
    const struct gw_code_row *row = gw_code_row(GW_CPU_COMPAT);

    assert_string_equal(row->label, "GW-2104");
    assert_string_equal(row->name, "cpu-compat");
    assert_int_equal(row->exit_code, 5);
    assert_ptr_equal(gw_code_find("gw-2104"), row);
    assert_ptr_equal(gw_code_find("2104"), row);
    assert_ptr_equal(gw_code_find("cpu-compat"), row);
    assert_null(gw_code_find("GW-9999"));
    assert_null(gw_code_row(0));
}

static void rows_grow_and_are_whole_sentences(void **state)
{
    (void)state;
    size_t count = 0;
    const struct gw_code_row *rows = gw_code_table(&count);
    for (size_t i = 0; i < count; i++) {
        assert_true(i == 0 || rows[i].code > rows[i - 1].code);
        assert_true(rows[i].exit_code > 0 && rows[i].exit_code <= 11);
        assert_int_equal(rows[i].text[strlen(rows[i].text) - 1], '.');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_found_by_label_number_and_name),
        cmocka_unit_test(rows_grow_and_are_whole_sentences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
