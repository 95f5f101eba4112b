#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/world.h"
#include "vmm-core/gate.h"

enum { THREADS = 4, TURNS = 300 };

struct yard {
    struct gate gate;
    uint32_t inside; /* atomic */
    uint64_t passes; /* atomic */
};

/* A vCPU thread without a vCPU: inside until it sees the gate closed. */
static void *walker(void *data)
{
    struct yard *yard = data;
    uint32_t seen = GATE_NOT_SEEN;
    while (gate_pass(&yard->gate, &seen)) {
        __atomic_add_fetch(&yard->inside, 1, __ATOMIC_ACQ_REL);
        __atomic_add_fetch(&yard->passes, 1, __ATOMIC_ACQ_REL);
        while (gate_order(&yard->gate) == GATE_OPEN)
            __builtin_ia32_pause();
        __atomic_sub_fetch(&yard->inside, 1, __ATOMIC_ACQ_REL);
    }
    return NULL;
}

static void start(struct yard *yard, pthread_t threads[static THREADS])
{
    gate_init(&yard->gate, THREADS);
    gate_close(&yard->gate);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, walker, yard), 0);
    assert_true(gate_wait_parked(&yard->gate, UINT64_MAX));
}

static void end(struct yard *yard, pthread_t threads[static THREADS])
{
    gate_quit(&yard->gate);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static void nobody_is_inside_a_closed_gate(void **state)
{
    (void)state;
    static struct yard yard;
    pthread_t threads[THREADS];
    start(&yard, threads);

    for (int i = 0; i < TURNS; i++) {
        gate_open(&yard.gate);
        /* Now and then long enough for all to pass, mostly at once again. */
        while (i % 10 == 0 && __atomic_load_n(&yard.inside, __ATOMIC_ACQUIRE) < THREADS)
            __builtin_ia32_pause();
        gate_close(&yard.gate);
        assert_true(gate_wait_parked(&yard.gate, UINT64_MAX));
        assert_int_equal(__atomic_load_n(&yard.inside, __ATOMIC_ACQUIRE), 0);
    }

    assert_true(yard.passes >= THREADS * TURNS / 10);
    end(&yard, threads);
}

static void waiting_for_one_who_does_not_come_ends(void **state)
{
    (void)state;
    struct gate gate;
    gate_init(&gate, 1);
    gate_close(&gate);

    assert_false(gate_wait_parked(&gate, NS_PER_MS));
}

static void one_inside_can_end_it_for_all(void **state)
{
    (void)state;
    static struct yard yard;
    pthread_t threads[THREADS];
    start(&yard, threads);
    gate_open(&yard.gate);

    gate_end(&yard.gate);

    assert_int_equal(gate_order(&yard.gate), GATE_ENDED);
    gate_close(&yard.gate);
    assert_true(gate_wait_parked(&yard.gate, UINT64_MAX));
    gate_end(&yard.gate); /* closed already: nothing to end */
    assert_int_equal(gate_order(&yard.gate), GATE_CLOSED);
    end(&yard, threads);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_is_inside_a_closed_gate),
        cmocka_unit_test(waiting_for_one_who_does_not_come_ends),
        cmocka_unit_test(one_inside_can_end_it_for_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
