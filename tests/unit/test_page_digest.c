#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "migrate/page_digest.h"
#include "migrate/region.h"

static void the_sum_knows_no_order_and_no_past(void **state)
{
    (void)state;
    const struct region region = {
        .pages = 1 << 24, .id = 3, .name = "ram"}; /* 64 GiB: only space */
    struct page_digest one, other;
    uint64_t sum = 0, other_sum = 0;
    assert_int_equal(page_digest_init(&one, &region, NULL), 0);
    assert_int_equal(page_digest_init(&other, &region, NULL), 0);

    for (uint64_t page = 0; page < 1000; page++)
        page_digest_set(&one, page * 7, page * page + 1, &sum);
    for (uint64_t page = 1000; page-- > 0;) {
        page_digest_set(&other, page * 7, 42, &other_sum);
        page_digest_set(&other, page * 7, page * page + 1, &other_sum);
    }

    assert_true(sum == other_sum && sum != 0);
    for (uint64_t page = 0; page < 1000; page++)
        page_digest_set(&one, page * 7, 0, &sum);
    assert_true(sum == 0);
    page_digest_deinit(&one);
    page_digest_deinit(&other);
}

static void swapped_pages_and_regions_show(void **state)
{
    (void)state;
    assert_true(page_digest_term(1, 5, 10) + page_digest_term(1, 6, 20) !=
                page_digest_term(1, 5, 20) + page_digest_term(1, 6, 10));
    assert_true(page_digest_term(1, 5, 10) != page_digest_term(2, 5, 10));
    assert_true(page_digest_fold(page_digest_fold(0, 1, 9), 2, 8) !=
                page_digest_fold(page_digest_fold(0, 2, 8), 1, 9));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sum_knows_no_order_and_no_past),
        cmocka_unit_test(swapped_pages_and_regions_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
