/* What waits is found, in the file's order and round again, by way of a few words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "agent/vm/outflow_map.h"
#include "base/bitmap.h"

static void what_was_added_is_found_from_there_on_and_round_again(void **state)
{
    (void)state;
    struct outflow_map map;
    uint64_t word = 0;
    assert_int_equal(outflow_map_init(&map, 1000 * 64 + 1), 0);
    assert_false(outflow_map_next(&map, 0, &word));

    assert_int_equal(outflow_map_add(&map, 7, 5), 2);
    assert_int_equal(outflow_map_add(&map, 7, 7), 1);
    assert_int_equal(outflow_map_add(&map, 1000, 1), 1); /* a part of a word */
    assert_int_equal(outflow_map_add(&map, 1001, 1), 0);  /* behind the end */
    assert_int_equal(outflow_map_add(&map, 8, 0), 0);

    assert_true(outflow_map_next(&map, 7, &word));
    assert_int_equal(word, 7);
    assert_true(outflow_map_next(&map, 8, &word));
    assert_int_equal(word, 1000);
    assert_true(outflow_map_next(&map, 1001, &word));
    assert_int_equal(word, 7);
    assert_int_equal(outflow_map_take(&map, 7), 3);
    assert_int_equal(outflow_map_take(&map, 7), 0);
    assert_true(outflow_map_next(&map, 0, &word));
    assert_int_equal(word, 1000);
    assert_int_equal(outflow_map_take(&map, 1000), 1);
    assert_false(outflow_map_next(&map, 1000, &word));
    outflow_map_deinit(&map);
}

static void disks_of_a_page_or_of_a_power_of_64_have_their_ends(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1, 63, 64, 65, 4096, 4097, 262144, 262145};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct outflow_map map;
        uint64_t last = (sizes[i] - 1) / 64, word = UINT64_MAX;
        assert_int_equal(outflow_map_init(&map, sizes[i]), 0);
        assert_int_equal(outflow_map_add(&map, last, 1), 1);
        assert_true(outflow_map_next(&map, last, &word));
        assert_int_equal(word, last);
        assert_true(outflow_map_next(&map, last + 1, &word));
        assert_int_equal(word, last);
        assert_int_equal(outflow_map_take(&map, last), 1);
        assert_false(outflow_map_next(&map, last, &word));
        outflow_map_deinit(&map);
    }
}

/* Against a plain bitmap, by chance; seeded. */
static void it_finds_what_a_walk_over_all_finds(void **state)
{
    (void)state;
    enum { WORDS = 5000 };
    struct outflow_map map;
    struct bitmap plain;
    unsigned short seed[3] = {1, 2, 3};
    assert_int_equal(outflow_map_init(&map, WORDS * 64), 0);
    assert_int_equal(bitmap_init(&plain, WORDS), 0);

    for (unsigned i = 0; i < 20000; i++) {
        uint64_t at = (uint64_t)nrand48(seed) % WORDS, word = 0;
        bool adds = nrand48(seed) % 2;
        if (adds) {
            bitmap_set(&plain, at);
            (void)outflow_map_add(&map, at, 1 + (uint64_t)nrand48(seed));
        }
        uint64_t wanted = bitmap_next_set(&plain, at);
        wanted = wanted == BITMAP_NONE ? bitmap_next_set(&plain, 0) : wanted;
        assert_int_equal(outflow_map_next(&map, at, &word), wanted != BITMAP_NONE);
        if (wanted == BITMAP_NONE || adds)
            continue;
        assert_int_equal(word, wanted);
        assert_true(outflow_map_take(&map, word) > 0);
        bitmap_clear(&plain, word);
    }
    bitmap_deinit(&plain);
    outflow_map_deinit(&map);
}

/* 2 TiB: a walk over all would be over eight million words, under a lock that lanes wait for. */
static void of_a_large_disk_no_more_is_looked_at_than_of_a_small_one(void **state)
{
    (void)state;
    const uint64_t pages = UINT64_C(1) << 29;
    struct outflow_map map;
    uint64_t word = 0;
    assert_int_equal(outflow_map_init(&map, pages), 0);

    (void)outflow_map_add(&map, 3, 1);
    (void)outflow_map_add(&map, pages / 64 - 1, 1);
    assert_true(outflow_map_next(&map, 4, &word));
    assert_int_equal(word, pages / 64 - 1);
    assert_true(map.looks <= 2 * OUTFLOW_MAP_LEVELS_MAX);
    (void)outflow_map_take(&map, word);
    assert_true(outflow_map_next(&map, 4, &word)); /* round again */
    assert_int_equal(word, 3);
    assert_true(map.looks <= 5 * OUTFLOW_MAP_LEVELS_MAX);
    (void)outflow_map_take(&map, word);
    assert_false(outflow_map_next(&map, 4, &word));
    assert_true(map.looks <= 7 * OUTFLOW_MAP_LEVELS_MAX);
    outflow_map_deinit(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_added_is_found_from_there_on_and_round_again),
        cmocka_unit_test(disks_of_a_page_or_of_a_power_of_64_have_their_ends),
        cmocka_unit_test(it_finds_what_a_walk_over_all_finds),
        cmocka_unit_test(of_a_large_disk_no_more_is_looked_at_than_of_a_small_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
