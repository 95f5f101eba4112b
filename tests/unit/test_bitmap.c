/* Each operation is held against the plainest possible model: an array of bools. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bitmap.h"

enum { BITS_MAX = 300 };

static const uint64_t sizes[] = {1, 63, 64, 65, 127, 128, 200, BITS_MAX};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static void expect_model(const struct bitmap *bitmap, const bool *model)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < bitmap->bits; i++) {
        assert_int_equal(bitmap_test(bitmap, i), model[i]);
        count += model[i];
    }
    assert_int_equal(bitmap_count(bitmap), count);
    for (uint64_t from = 0; from <= bitmap->bits; from++) {
        uint64_t set = from, clear = from;
        while (set < bitmap->bits && !model[set])
            set++;
        while (clear < bitmap->bits && model[clear])
            clear++;
        assert_true(bitmap_next_set(bitmap, from) == (set < bitmap->bits ? set : BITMAP_NONE));
        assert_true(bitmap_next_clear(bitmap, from) ==
                    (clear < bitmap->bits ? clear : BITMAP_NONE));
    }
}

static void starts_empty(void **state)
{
    (void)state;
    for (size_t s = 0; s < SIZES; s++) {
        struct bitmap bitmap;
        bool model[BITS_MAX] = {false};
        assert_int_equal(bitmap_init(&bitmap, sizes[s]), 0);
        expect_model(&bitmap, model);
        bitmap_deinit(&bitmap);
        bitmap_deinit(&bitmap);
    }
}

static void all_means_all_and_nothing_behind_the_end(void **state)
{
    (void)state;
    for (size_t s = 0; s < SIZES; s++) {
        struct bitmap bitmap;
        bool model[BITS_MAX];
        assert_int_equal(bitmap_init(&bitmap, sizes[s]), 0);
        bitmap_set_all(&bitmap);
        memset(model, true, sizeof model);
        expect_model(&bitmap, model);
        bitmap_clear_all(&bitmap);
        memset(model, false, sizeof model);
        expect_model(&bitmap, model);
        bitmap_deinit(&bitmap);
    }
}

static void ranges_touch_their_bits_only(void **state)
{
    (void)state;
    struct bitmap bitmap;
    bool model[BITS_MAX] = {false};
    unsigned seed = 1;
    assert_int_equal(bitmap_init(&bitmap, BITS_MAX), 0);
    for (int i = 0; i < 500; i++) {
        uint64_t first = (uint64_t)rand_r(&seed) % (BITS_MAX + 1);
        uint64_t count = (uint64_t)rand_r(&seed) % (BITS_MAX - first + 1);
        bool set = rand_r(&seed) & 1024;
        if (set)
            bitmap_set_range(&bitmap, first, count);
        else
            bitmap_clear_range(&bitmap, first, count);
        for (uint64_t k = first; k < first + count; k++)
            model[k] = set;
        expect_model(&bitmap, model);
    }
    bitmap_deinit(&bitmap);
}

static void single_bits_and_sets_combine(void **state)
{
    (void)state;
    for (size_t s = 0; s < SIZES; s++) {
        struct bitmap a, b, both;
        bool either[BITS_MAX] = {false}, common[BITS_MAX] = {false}, empty[BITS_MAX] = {false};
        assert_int_equal(bitmap_init(&a, sizes[s]), 0);
        assert_int_equal(bitmap_init(&b, sizes[s]), 0);
        assert_int_equal(bitmap_init(&both, sizes[s]), 0);
        for (uint64_t i = 0; i < sizes[s]; i++) {
            if (i % 3 == 0)
                bitmap_set(&a, i);
            if (i % 5 == 0)
                bitmap_set_atomic(&b, i);
            either[i] = i % 3 == 0 || i % 5 == 0;
            common[i] = i % 3 == 0 && i % 5 == 0;
        }
        bitmap_or(&both, &a);
        bitmap_or(&both, &b);
        expect_model(&both, either);
        bitmap_and(&both, &a);
        bitmap_and(&both, &b);
        expect_model(&both, common);

        bitmap_take_atomic(&a, &b);
        expect_model(&a, either);
        expect_model(&b, empty);
        bitmap_clear(&a, 0);
        either[0] = false;
        expect_model(&a, either);
        bitmap_deinit(&a);
        bitmap_deinit(&b);
        bitmap_deinit(&both);
    }
}

enum { RACED_BITS = 1 << 16 };

static void *set_every_bit(void *data)
{
    for (uint64_t i = 0; i < RACED_BITS; i++)
        bitmap_set_atomic(data, (i * 2654435761u) % RACED_BITS);
    return NULL;
}

static void no_bit_is_lost_between_setting_and_taking(void **state)
{
    (void)state;
    struct bitmap from, to;
    pthread_t setter;
    assert_int_equal(bitmap_init(&from, RACED_BITS), 0);
    assert_int_equal(bitmap_init(&to, RACED_BITS), 0);
    pthread_create(&setter, NULL, set_every_bit, &from);
    for (int i = 0; i < 50; i++)
        bitmap_take_atomic(&to, &from);
    pthread_join(setter, NULL);
    bitmap_take_atomic(&to, &from);

    assert_int_equal(bitmap_count(&to), RACED_BITS);
    assert_int_equal(bitmap_count(&from), 0);
    bitmap_deinit(&from);
    bitmap_deinit(&to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_empty),
        cmocka_unit_test(all_means_all_and_nothing_behind_the_end),
        cmocka_unit_test(ranges_touch_their_bits_only),
        cmocka_unit_test(single_bits_and_sets_combine),
        cmocka_unit_test(no_bit_is_lost_between_setting_and_taking),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
