#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/world.h"
#include "migrate/region.h"
#include "migrate/sample.h"

enum { PAGES = 40000, POPULATED = 30000 };

static int populated(struct region *region, struct bitmap *ret_populated, struct fault *fault)
{
    if (region->owner)
        return fault_set(fault, ERR_IO, "the host does not say");
    /* holes between */
    for (uint64_t page = 0; page < region->pages; page++) {
        if (page % 4 != 3)
            bitmap_set(ret_populated, page);
    }
    return 0;
}

static const struct region_ops ops = {.populated = populated};

static struct region make_region(void)
{
    struct region region = {.ops = &ops, .name = "ram", .pages = PAGES};
    region.base = calloc(PAGES, PAGE_BYTES);
    assert_non_null(region.base);
    return region;
}

static void fill(struct region *region, uint64_t page, uint64_t value)
{
    memset(region->base + page * PAGE_BYTES, 0, PAGE_BYTES);
    bytes_put_u64(region->base + page * PAGE_BYTES + 800, value);
}

static void expect_near(uint64_t bytes, uint64_t pages, unsigned percent)
{
    double wanted = (double)pages * PAGE_BYTES, off = wanted * percent / 100;
    if ((double)bytes < wanted - off || (double)bytes > wanted + off)
        print_message("%.0f pages, %llu wanted\n", (double)bytes / PAGE_BYTES,
                      (unsigned long long)pages);
    assert_true((double)bytes >= wanted - off && (double)bytes <= wanted + off);
}

static void it_tells_how_many_pages_were_written_by_when(void **state)
{
    (void)state;
    struct region region = make_region();
    struct sample *sample = NULL;
    for (uint64_t page = 0; page < PAGES / 2; page++)
        fill(&region, page, page + 1);
    assert_int_equal(sample_new(&sample, &region, NS_PER_S, 7, NULL), 0);
    uint64_t begun_ns = world_now_ns();

    /* a contiguous set of 2000 populated pages, then 4000, then nothing more; twice is once */
    for (unsigned look = 0; look < SAMPLE_LOOKS; look++) {
        assert_true(sample_next_ns(sample) > 0);
        uint64_t end = look == 0 ? 2668 : 5336;
        for (uint64_t page = 0; page < end; page++)
            fill(&region, page + 1000, 1000000 + page + look);
        sample_look(sample);
    }
    assert_true(sample_next_ns(sample) == 0);

    struct sample_result result;
    sample_tell(sample, &result);
    assert_int_equal(result.looks, SAMPLE_LOOKS);
    assert_int_equal(result.pages, SAMPLE_PAGES_MAX);
    assert_int_equal(result.populated_bytes, (uint64_t)POPULATED * PAGE_BYTES);
    expect_near(result.written_bytes[0], 2001, 2);
    expect_near(result.written_bytes[1], 4002, 2);
    expect_near(result.written_bytes[4], 4002, 2);
    assert_in_range(result.zero_permille, 490, 510);
    assert_true(result.packed_permille < 100);
    assert_true(result.zstd_permille > 0 && result.zstd_permille < 100);
    assert_true(result.cpu_ns > 0 && result.at_ns[4] <= world_now_ns() - begun_ns + NS_PER_S);
    sample = sample_free(sample);
    free(region.base);
}

static void looks_are_due_at_a_sixteenth_an_eighth_and_so_on(void **state)
{
    (void)state;
    struct region region = make_region();
    struct sample *sample = NULL;
    assert_int_equal(sample_new(&sample, &region, NS_PER_S, 7, NULL), 0);
    uint64_t first_ns = sample_next_ns(sample);

    sample_look(sample);
    assert_int_equal(sample_next_ns(sample) - first_ns, NS_PER_S / 8 - NS_PER_S / 16);
    for (unsigned look = 1; look < SAMPLE_LOOKS - 1; look++)
        sample_look(sample);
    assert_int_equal(sample_next_ns(sample) - first_ns, NS_PER_S - NS_PER_S / 16);

    sample = sample_free(sample);
    free(region.base);
}

static void content_that_does_not_pack_is_told(void **state)
{
    (void)state;
    struct region region = make_region();
    struct sample *sample = NULL;
    struct sample_result result;
    world_random(region.base, (size_t)4000 * PAGE_BYTES);
    for (uint64_t i = 1; i < PAGES / 4000; i++)
        memcpy(region.base + i * 4000 * PAGE_BYTES, region.base, (size_t)4000 * PAGE_BYTES);

    assert_int_equal(sample_new(&sample, &region, NS_PER_S, 1, NULL), 0);
    sample_tell(sample, &result);

    assert_true(result.packed_permille > 980);
    assert_true(result.zstd_permille > 980);
    assert_int_equal(result.zero_permille, 0);
    assert_int_equal(result.looks, 0);
    sample = sample_free(sample);
    free(region.base);
}

static void a_host_that_does_not_say_what_is_populated_is_told_in_its_words(void **state)
{
    (void)state;
    struct region region = {.ops = &ops, .name = "ram", .pages = 512, .owner = &region};
    struct sample *sample = NULL;
    struct fault fault = {0};

    assert_int_equal(sample_new(&sample, &region, NS_PER_S, 1, &fault), ERR_IO);
    assert_non_null(strstr(fault.text, "'ram' have memory: the host does not say"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_tells_how_many_pages_were_written_by_when),
        cmocka_unit_test(looks_are_due_at_a_sixteenth_an_eighth_and_so_on),
        cmocka_unit_test(content_that_does_not_pack_is_told),
        cmocka_unit_test(a_host_that_does_not_say_what_is_populated_is_told_in_its_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
