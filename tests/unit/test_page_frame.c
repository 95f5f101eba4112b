#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "proto/page_frame.h"

static const struct page_frame_plan plan = {.regions = {{.id = 7, .pages = 1000}},
                                            .region_count = 1};

static unsigned put(uint8_t *bytes, struct page_frame *frame, unsigned first, unsigned step)
{
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    for (unsigned i = 0; i < frame->count; i++)
        entries[i] =
            (struct page_frame_entry){.page = (uint16_t)(first + i * step), .has_data = i % 2};
    return page_frame_put(frame, entries, bytes);
}

static struct page_frame good_frame(unsigned count)
{
    return (struct page_frame){.type = PAGE_FRAME_PAGES,
                               .codec = PAGE_FRAME_RAW,
                               .count = count,
                               .region = 7,
                               .round = 3,
                               .first_page = 512,
                               .body_bytes = count / 2 * PAGE_BYTES};
}

static int get(const uint8_t *bytes, struct page_frame *frame, struct fault *fault)
{
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    int r = page_frame_get(bytes, frame, fault);
    if (r == 0 && frame->type == PAGE_FRAME_PAGES)
        r = page_frame_get_entries(&plan, bytes, frame, entries, fault);
    return r;
}

static void gives_back_what_was_put(void **state)
{
    (void)state;
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    struct page_frame frame = good_frame(64), got;
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];

    unsigned count = put(bytes, &frame, 3, 5);

    assert_int_equal(count, 32 + 64 * 4);
    assert_int_equal(page_frame_get(bytes, &got, NULL), 0);
    assert_int_equal(page_frame_get_entries(&plan, bytes, &got, entries, NULL), 0);
    assert_int_equal(got.data_count, 32);
    assert_int_equal(got.first_page, 512);
    assert_int_equal(got.round, 3);
    assert_int_equal(entries[63].page, 3 + 63 * 5);
    assert_true(entries[63].has_data);
}

static void refuses_every_flipped_bit_of_the_head(void **state)
{
    (void)state;
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    struct page_frame frame = good_frame(6), got;
    unsigned count = put(bytes, &frame, 3, 5);
    for (unsigned bit = 0; bit < count * 8; bit++) {
        uint8_t broken[PAGE_FRAME_HEAD_MAX] = {0};
        memcpy(broken, bytes, count);
        broken[bit / 8] ^= (uint8_t)(1u << bit % 8);
        struct fault fault = {0};
        assert_int_equal(get(broken, &got, &fault), ERR_CORRUPT);
        assert_true(fault.text[0]);
    }
}

static void refuse(struct page_frame frame, unsigned first, unsigned step, const char *words)
{
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    struct page_frame got;
    struct fault fault = {0};
    (void)put(bytes, &frame, first, step);
    assert_int_equal(get(bytes, &got, &fault), ERR_CORRUPT);
    assert_string_equal(fault.text, words);
}

static void refuses_a_frame_that_leaves_its_region(void **state)
{
    (void)state;
    refuse(good_frame(2), 487, 1, "page frame leaves region 7 at page 1000");
}

static void refuses_what_is_not_of_the_plan(void **state)
{
    (void)state;
    struct page_frame frame = good_frame(2);
    frame.region = 8;
    refuse(frame, 0, 1, "page frame: region 8 is not in the plan");
    frame = good_frame(2);
    frame.first_page = 1024;
    refuse(frame, 0, 1, "page frame: block at page 1024 of a region of 1000");
    frame = good_frame(2);
    frame.first_page = 100;
    refuse(frame, 0, 1, "page frame: block at page 100 of a region of 1000");
    frame = good_frame(2);
    frame.body_bytes = PAGE_BYTES - 1;
    refuse(frame, 0, 1, "page frame: 1 raw pages in a body of 4095 bytes");
    refuse(good_frame(2), 5, 0, "page frame: entries out of order at 1");
}

static void a_fence_carries_its_digest_and_no_page(void **state)
{
    (void)state;
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    struct page_frame fence = {.type = PAGE_FRAME_FENCE_LAST, .round = 9, .digest = UINT64_MAX - 5};
    struct page_frame got;
    assert_int_equal(page_frame_put(&fence, NULL, bytes), 32);
    assert_int_equal(page_frame_get(bytes, &got, NULL), 0);
    assert_true(got.digest == fence.digest);
    assert_int_equal(got.type, PAGE_FRAME_FENCE_LAST);
    fence.region = 7;
    (void)page_frame_put(&fence, NULL, bytes);
    assert_int_equal(page_frame_get(bytes, &got, NULL), ERR_CORRUPT);
}

static void group_sizes_must_fill_the_body_exactly(void **state)
{
    (void)state;
    struct page_frame frame = {.type = PAGE_FRAME_PAGES,
                               .codec = PAGE_FRAME_LZ4,
                               .count = 20,
                               .data_count = 20,
                               .body_bytes = 8 + 300};
    uint32_t sizes[PAGE_FRAME_GROUPS_MAX] = {100, 200}, got[PAGE_FRAME_GROUPS_MAX];
    uint8_t bytes[16];
    page_frame_put_sizes(sizes, 2, bytes);
    assert_int_equal(page_frame_get_sizes(&frame, bytes, got, NULL), 0);
    assert_int_equal(got[1], 200);
    static const uint32_t wrong[][2] = {
        {100, 201}, {100, 199}, {0, 300}, {300, 0}, {UINT32_MAX, 301}};
    for (unsigned i = 0; i < 5; i++) {
        page_frame_put_sizes(wrong[i], 2, bytes);
        assert_int_equal(page_frame_get_sizes(&frame, bytes, got, NULL), ERR_CORRUPT);
    }
    frame.body_bytes = 8 + 4 * PAGE_BYTES + 1 + 100; /* the second group has four pages */
    const uint32_t beyond[] = {100, 4 * PAGE_BYTES + 1};
    page_frame_put_sizes(beyond, 2, bytes);
    assert_int_equal(page_frame_get_sizes(&frame, bytes, got, NULL), ERR_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_back_what_was_put),
        cmocka_unit_test(refuses_every_flipped_bit_of_the_head),
        cmocka_unit_test(refuses_a_frame_that_leaves_its_region),
        cmocka_unit_test(refuses_what_is_not_of_the_plan),
        cmocka_unit_test(a_fence_carries_its_digest_and_no_page),
        cmocka_unit_test(group_sizes_must_fill_the_body_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
