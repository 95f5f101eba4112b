#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/bitmap.h"
#include "migrate/page_scan.h"

static void every_dirty_page_comes_once_in_its_block(void **state)
{
    (void)state;
    struct bitmap dirty, seen;
    assert_int_equal(bitmap_init(&dirty, 5000), 0);
    assert_int_equal(bitmap_init(&seen, 5000), 0);
    for (uint64_t page = 3; page < 5000; page = page * 5 / 4 + 1)
        bitmap_set(&dirty, page);
    bitmap_set(&dirty, 4999);

    struct page_scan scan;
    struct page_batch batch;
    page_scan_init(&scan, &dirty, 2);
    while (page_scan_next(&scan, &batch)) {
        assert_int_equal(batch.region, 2);
        assert_int_equal(batch.first_page % BLOCK_PAGES, 0);
        for (unsigned i = 0; i < BLOCK_PAGES; i++) {
            if (batch.mask[i / 64] >> (i % 64) & 1) {
                assert_false(bitmap_test(&seen, batch.first_page + i));
                bitmap_set(&seen, batch.first_page + i);
            }
        }
    }

    assert_memory_equal(seen.words, dirty.words, bitmap_words(&dirty) * 8);
    assert_false(page_scan_next(&scan, &batch));
    bitmap_deinit(&dirty);
    bitmap_deinit(&seen);
}

static void blocks_spread_over_lanes_and_stay_there(void **state)
{
    (void)state;
    unsigned counts[3] = {0};
    for (uint64_t block = 0; block < 3000; block += 2) { /* a stride */
        unsigned lane = page_scan_lane(0, block * BLOCK_PAGES, 3);
        assert_int_equal(lane, page_scan_lane(0, block * BLOCK_PAGES, 3));
        counts[lane]++;
    }
    for (unsigned i = 0; i < 3; i++)
        assert_in_range(counts[i], 400, 600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dirty_page_comes_once_in_its_block),
        cmocka_unit_test(blocks_spread_over_lanes_and_stay_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
