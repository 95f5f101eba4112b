#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/own.h"
#include "base/table.h"

static const struct table_column columns[] = {{"NAME", false}, {"FREE", true}, {"STATE", false}};

static void print(const struct table_style *style, char **ret_text)
{
    static const char *const rows[][3] = {{"node1", "8.0 GiB", "up"},
                                          {"n\xc3\xb6"
                                           "de22",
                                           "512 MiB", "down"}};
    struct table *table = NULL;
    assert_int_equal(table_new(&table, columns, 3, style, NULL), 0);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(table_add(table, rows[i], NULL), 0);
    assert_int_equal(table_print(table, ret_text, NULL), 0);
    table_free(table);
}

static void lines_columns_up_without_blanks_at_the_end(void **state)
{
    (void)state;
    const struct table_style style = {0};
    AUTO_FREE char *text = NULL;

    print(&style, &text);

    assert_string_equal(text, "NAME       FREE  STATE\n"
                              "node1   8.0 GiB  up\n"
                              "n\xc3\xb6"
                              "de22  512 MiB  down\n");
}

static void leaves_heads_out(void **state)
{
    (void)state;
    const struct table_style style = {.no_headers = true};
    AUTO_FREE char *text = NULL;

    print(&style, &text);

    assert_null(strstr(text, "NAME"));
    assert_non_null(strstr(text, "node1"));
}

static void prints_nothing_for_no_rows(void **state)
{
    (void)state;
    const struct table_style style = {0};
    struct table *table = NULL;
    AUTO_FREE char *text = NULL;
    assert_int_equal(table_new(&table, columns, 3, &style, NULL), 0);

    assert_int_equal(table_print(table, &text, NULL), 0);

    assert_string_equal(text, "");
    table_free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_columns_up_without_blanks_at_the_end),
        cmocka_unit_test(leaves_heads_out),
        cmocka_unit_test(prints_nothing_for_no_rows),
    };
    if (!setlocale(LC_ALL, "C.UTF-8"))
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
