#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/handoff.h"

enum { ITEMS = 20000, GIVERS = 2, TAKERS = 2 };

static void gives_in_the_order_of_putting(void **state)
{
    (void)state;
    struct handoff *handoff = NULL;
    int numbers[5] = {0};
    assert_int_equal(handoff_new(&handoff, 3), 0);
    for (int turn = 0; turn < 3; turn++) { /* around the ring */
        for (int i = 0; i < 3; i++) {
            void *item = &numbers[i];
            assert_int_equal(handoff_put(handoff, &item), 0);
            assert_null(item);
        }
        assert_ptr_equal(handoff_take(handoff), &numbers[0]);
        assert_ptr_equal(handoff_try_take(handoff), &numbers[1]);
        assert_ptr_equal(handoff_take(handoff), &numbers[2]);
        assert_null(handoff_try_take(handoff));
    }
    assert_null(handoff_free(handoff, NULL));
}

static void after_closing_what_is_left_is_drained(void **state)
{
    (void)state;
    struct handoff *handoff = NULL;
    int number = 0;
    void *item = &number, *late = &number;
    assert_int_equal(handoff_new(&handoff, 2), 0);
    assert_int_equal(handoff_put(handoff, &item), 0);

    handoff_close(handoff);

    assert_int_equal(handoff_put(handoff, &late), HANDOFF_E_CLOSED);
    assert_ptr_equal(late, &number); /* still the giver's */
    assert_ptr_equal(handoff_take(handoff), &number);
    assert_null(handoff_take(handoff));
    assert_null(handoff_free(handoff, NULL));
}

static int discarded;

static void discard(void *item)
{
    discarded += *(int *)item;
}

static void freeing_discards_what_is_inside(void **state)
{
    (void)state;
    struct handoff *handoff = NULL;
    int numbers[2] = {1, 2};
    assert_int_equal(handoff_new(&handoff, 2), 0);
    for (int i = 0; i < 2; i++) {
        void *item = &numbers[i];
        assert_int_equal(handoff_put(handoff, &item), 0);
    }

    assert_null(handoff_free(handoff, discard));

    assert_int_equal(discarded, 3);
    assert_null(handoff_free(NULL, discard));
}

static atomic_uint_fast64_t sum_given, sum_taken;
static atomic_int taken;

static void *give(void *data)
{
    for (uintptr_t i = 1; i <= ITEMS; i++) {
        void *item = (void *)i;
        atomic_fetch_add(&sum_given, i);
        if (handoff_put(data, &item) != 0)
            atomic_fetch_sub(&sum_given, i);
    }
    return NULL;
}

static void *take(void *data)
{
    void *item;
    while ((item = handoff_take(data))) {
        atomic_fetch_add(&sum_taken, (uintptr_t)item);
        atomic_fetch_add(&taken, 1);
    }
    return NULL;
}

static void *spin(void *data)
{
    while (atomic_load(&taken) < GIVERS * ITEMS) {
        void *item = handoff_try_take(data);
        if (!item) {
            sched_yield();
            continue;
        }
        atomic_fetch_add(&sum_taken, (uintptr_t)item);
        atomic_fetch_add(&taken, 1);
    }
    return NULL;
}

static void every_item_changes_hands_once_among_many_threads(void **state)
{
    (void)state;
    struct handoff *handoff = NULL;
    pthread_t givers[GIVERS], takers[TAKERS], spinner;
    assert_int_equal(handoff_new(&handoff, 4), 0);
    for (int i = 0; i < GIVERS; i++)
        pthread_create(&givers[i], NULL, give, handoff);
    for (int i = 0; i < TAKERS; i++)
        pthread_create(&takers[i], NULL, take, handoff);
    pthread_create(&spinner, NULL, spin, handoff);
    for (int i = 0; i < GIVERS; i++)
        pthread_join(givers[i], NULL);
    handoff_close(handoff);
    for (int i = 0; i < TAKERS; i++)
        pthread_join(takers[i], NULL);
    pthread_join(spinner, NULL);

    assert_int_equal(atomic_load(&taken), GIVERS * ITEMS);
    assert_int_equal(atomic_load(&sum_taken), atomic_load(&sum_given));
    assert_null(handoff_free(handoff, NULL));
}

static void *close_it(void *data)
{
    handoff_close(data);
    return NULL;
}

static void closing_wakes_a_giver_that_waits_for_room(void **state)
{
    (void)state;
    struct handoff *handoff = NULL;
    int number = 0;
    void *first = &number, *second = &number;
    pthread_t closer;
    assert_int_equal(handoff_new(&handoff, 1), 0);
    assert_int_equal(handoff_put(handoff, &first), 0);

    pthread_create(&closer, NULL, close_it, handoff);
    int r = handoff_put(handoff, &second);
    pthread_join(closer, NULL);

    assert_int_equal(r, HANDOFF_E_CLOSED);
    assert_ptr_equal(second, &number);
    assert_null(handoff_free(handoff, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_in_the_order_of_putting),
        cmocka_unit_test(after_closing_what_is_left_is_drained),
        cmocka_unit_test(freeing_discards_what_is_inside),
        cmocka_unit_test(every_item_changes_hands_once_among_many_threads),
        cmocka_unit_test(closing_wakes_a_giver_that_waits_for_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
