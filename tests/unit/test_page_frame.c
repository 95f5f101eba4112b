#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <xxhash.h>

#include "base/bytes.h"
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
    refuse(frame, 0, 1, "page frame: 1 raw pages and 0 patches in a body of 4095 bytes");
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

/* Entry 0 is a patch, entry 1 a page, and so on; both patches have `lines` lines in `body_bytes`.
 */
static int judge_patches(unsigned lines, unsigned said_lines, uint32_t body_bytes)
{
    static uint8_t bytes[PAGE_FRAME_HEAD_MAX], body[2 * PAGE_PATCH_BYTES_MAX + 512];
    struct page_frame frame = good_frame(4), got;
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    for (unsigned i = 0; i < 4; i++)
        entries[i] = (struct page_frame_entry){(uint16_t)i, i % 2, i % 2 == 0};
    frame.body_bytes = body_bytes;
    (void)page_frame_put(&frame, entries, bytes);
    uint64_t mask = lines < 64 ? (UINT64_C(1) << said_lines) - 1 : UINT64_MAX;
    bytes_put_u64(body, mask);
    bytes_put_u64(body + 8 + (size_t)lines * PAGE_LINE_BYTES, mask);

    int r = get(bytes, &got, NULL);
    if (r < 0)
        return r;
    assert_int_equal(got.patch_count, 2);
    assert_int_equal(got.patch_bytes, body_bytes - 2 * PAGE_BYTES);
    return page_frame_get_patches(&got, body, NULL);
}

static void patches_must_fill_what_is_behind_the_pages(void **state)
{
    (void)state;
    enum { RAW = 2 * PAGE_BYTES, THREE = 2 * (8 + 3 * PAGE_LINE_BYTES) };
    assert_int_equal(judge_patches(3, 3, RAW + THREE), 0);
    assert_int_equal(judge_patches(48, 48, RAW + 2 * PAGE_PATCH_BYTES_MAX), 0);
    assert_int_equal(judge_patches(3, 3, RAW + THREE - 1), ERR_CORRUPT);
    assert_int_equal(judge_patches(3, 3, RAW + THREE + 1), ERR_CORRUPT);
    assert_int_equal(judge_patches(3, 4, RAW + THREE), ERR_CORRUPT);
    assert_int_equal(judge_patches(3, 2, RAW + THREE), ERR_CORRUPT);
    assert_int_equal(judge_patches(3, 0, RAW + THREE), ERR_CORRUPT); /* of nothing: no patch */
    assert_int_equal(judge_patches(49, 49, RAW + 2 * (8 + 49 * PAGE_LINE_BYTES)), ERR_CORRUPT);
    assert_int_equal(judge_patches(3, 3, RAW), ERR_CORRUPT);
}

static void a_page_and_a_patch_at_once_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    struct page_frame frame = good_frame(2), got;
    (void)put(bytes, &frame, 0, 1);
    bytes[PAGE_FRAME_HEADER_BYTES + PAGE_ENTRY_BYTES + 2] |= 2; /* entry 1 has data already */
    XXH64_hash_t check = XXH3_64bits(bytes, 28);
    check = XXH3_64bits_withSeed(bytes + PAGE_FRAME_HEADER_BYTES, 2 * PAGE_ENTRY_BYTES, check);
    bytes_put_u32(bytes + 28, (uint32_t)check);
    struct fault fault = {0};
    assert_int_equal(get(bytes, &got, &fault), ERR_CORRUPT);
    assert_string_equal(fault.text, "page frame: entry 1 is 0x30001");
}

static void a_patch_lays_its_lines_and_no_others(void **state)
{
    (void)state;
    uint8_t from[PAGE_BYTES], to[PAGE_BYTES], patch[PAGE_PATCH_BYTES_MAX];
    memset(from, 1, sizeof from);
    memset(to, 2, sizeof to);
    uint64_t lines = UINT64_C(1) << 63 | 5;
    unsigned count = page_frame_put_patch(from, lines, patch);
    assert_int_equal(count, 8 + 3 * PAGE_LINE_BYTES);
    for (unsigned turn = 0; turn < 2; turn++) { /* twice is as good as once */
        assert_int_equal(page_frame_lay_patch(patch, to), count);
        for (unsigned i = 0; i < PAGE_BYTES; i++)
            assert_int_equal(to[i], lines >> i / PAGE_LINE_BYTES & 1 ? 1 : 2);
    }
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
        cmocka_unit_test(patches_must_fill_what_is_behind_the_pages),
        cmocka_unit_test(a_page_and_a_patch_at_once_is_refused),
        cmocka_unit_test(a_patch_lays_its_lines_and_no_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
