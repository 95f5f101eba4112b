#include "coordinator/name_map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { NAMES = 3000 };

static char names[NAMES][16];

static void what_was_put_is_found_and_nothing_else(void **state)
{
    (void)state;
    struct name_map map = {0};
    assert_null(name_map_get(&map, "node1"));

    for (int i = 0; i < NAMES; i++) {
        (void)snprintf(names[i], sizeof names[i], "node%d", i);
        assert_true(name_map_put(&map, names[i], names[i]));
    }

    for (int i = 0; i < NAMES; i++) {
        char asked[16];
        (void)snprintf(asked, sizeof asked, "node%d", i);
        assert_ptr_equal(name_map_get(&map, asked), names[i]);
    }
    assert_null(name_map_get(&map, "node3000"));
    assert_null(name_map_get(&map, ""));
    name_map_deinit(&map);
}

static void those_behind_one_that_was_taken_out_are_still_found(void **state)
{
    (void)state;
    struct name_map map = {0};
    for (int i = 0; i < NAMES; i++) {
        (void)snprintf(names[i], sizeof names[i], "node%d", i);
        assert_true(name_map_put(&map, names[i], names[i]));
    }

    for (int i = 0; i < NAMES; i += 2)
        name_map_remove(&map, names[i]);

    for (int i = 0; i < NAMES; i++)
        assert_ptr_equal(name_map_get(&map, names[i]), i % 2 ? names[i] : NULL);
    assert_int_equal(map.count, NAMES / 2);
    name_map_deinit(&map);
}

static void coming_and_going_for_long_does_not_make_it_grow(void **state)
{
    (void)state;
    struct name_map map = {0};
    for (int round = 0; round < 100 * NAMES; round++) {
        char *name = names[round % NAMES];
        (void)snprintf(name, sizeof names[0], "job%d", round);
        assert_true(name_map_put(&map, name, name));
        name_map_remove(&map, name);
    }
    assert_true(map.room <= 64);
    assert_int_equal(map.count, 0);
    name_map_deinit(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_put_is_found_and_nothing_else),
        cmocka_unit_test(those_behind_one_that_was_taken_out_are_still_found),
        cmocka_unit_test(coming_and_going_for_long_does_not_make_it_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
