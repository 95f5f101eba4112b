/* What a guest would read, by a reader of our own; the bytes themselves are recorded, because a
 * guest that moves must find the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/bytes.h"
#include "base/config.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/iso_image.h"

enum { SECTOR = 2048 };

static const struct iso_image_file files[] = {
    {"meta-data", "instance-id: i-1\n", 17},
    {"network-config", "version: 2\n", 11},
    {"user-data", "#cloud-config\n", 14},
};

static uint8_t *build(const struct iso_image_file *of, size_t count, size_t *ret_size)
{
    uint8_t *bytes = NULL;
    struct fault fault = {0};
    assert_int_equal(iso_image_build("cidata", of, count, &bytes, ret_size, &fault), 0);
    return bytes;
}

/* The file's text by its Rock Ridge name; NULL: there is none. */
static const uint8_t *find(const uint8_t *image, size_t size, const char *name, uint32_t *ret_count)
{
    uint32_t root = bytes_get_u32(image + 16 * SECTOR + 156 + 2);
    const uint8_t *at = image + (size_t)root * SECTOR;
    const uint8_t *end = at + bytes_get_u32(image + 16 * SECTOR + 156 + 10);
    assert_true((size_t)(end - image) <= size);

    for (; at < end && at[0]; at += at[0]) {
        size_t used = 33u + at[32] + !(at[32] & 1);
        while (used + 4 <= at[0]) {
            const uint8_t *entry = at + used;
            if (memcmp(entry, "NM", 2) == 0 && entry[2] - 5u == strlen(name) &&
                memcmp(entry + 5, name, strlen(name)) == 0) {
                *ret_count = bytes_get_u32(at + 10);
                return image + (size_t)bytes_get_u32(at + 2) * SECTOR;
            }
            assert_true(entry[2] >= 4);
            used += entry[2];
        }
    }
    return NULL;
}

static void holds_every_file_under_its_name(void **state)
{
    (void)state;
    size_t size;
    AUTO_FREE uint8_t *image = build(files, ARRAY_COUNT(files), &size);

    assert_memory_equal(image + 16 * SECTOR, "\1CD001\1", 7);
    assert_memory_equal(image + 16 * SECTOR + 40, "cidata ", 7);
    assert_int_equal(size, (size_t)bytes_get_u32(image + 16 * SECTOR + 80) * SECTOR);
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        uint32_t count = 0;
        const uint8_t *text = find(image, size, files[i].name, &count);
        assert_non_null(text);
        assert_int_equal(count, files[i].count);
        assert_memory_equal(text, files[i].text, count);
    }
    uint32_t count;
    assert_null(find(image, size, "vendor-data", &count));
}

static void lays_long_files_one_behind_the_other(void **state)
{
    (void)state;
    AUTO_FREE char *text = malloc(10000);
    assert_non_null(text);
    memset(text, 'x', 10000);
    const struct iso_image_file big[] = {{"a", text, 10000}, {"b", "short", 5}};
    size_t size;
    AUTO_FREE uint8_t *image = build(big, 2, &size);
    uint32_t count;

    const uint8_t *a = find(image, size, "a", &count);
    assert_memory_equal(a, text, 10000);
    const uint8_t *b = find(image, size, "b", &count);

    assert_int_equal(b - a, 5 * SECTOR);
    assert_memory_equal(b, "short", 5);
    assert_int_equal(size % 4096, 0);
}

static void gives_the_bytes_that_are_recorded(void **state)
{
    (void)state;
    static const char path[] = "tests/golden/cloud_seed_v1.iso";
    size_t size, count;
    AUTO_FREE uint8_t *image = build(files, ARRAY_COUNT(files), &size);
    AUTO_FREE char *recorded = NULL;
    struct fault fault = {0};
    if (getenv("GODWIT_GOLDEN_WRITE"))
        assert_int_equal(file_write_atomic(path, 0644, image, size, &fault), 0);

    assert_int_equal(file_read(path, &recorded, &count, &fault), 0);

    assert_int_equal(count, size);
    assert_memory_equal(recorded, image, size);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds_every_file_under_its_name),
        cmocka_unit_test(lays_long_files_one_behind_the_other),
        cmocka_unit_test(gives_the_bytes_that_are_recorded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
