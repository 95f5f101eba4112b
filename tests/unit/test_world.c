#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/world.h"

static void the_clock_never_goes_back(void **state)
{
    (void)state;
    uint64_t last_ns = world_now_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t now_ns = world_now_ns();
        assert_true(now_ns >= last_ns);
        last_ns = now_ns;
    }
    assert_true(world_now_ms() >= last_ns / NS_PER_MS);
}

static void wall_time_counts_from_1970(void **state)
{
    (void)state;
    assert_true(world_wall_ms() > UINT64_C(1700000000000));
    assert_true(world_wall_ms() < UINT64_C(99000000000000));
}

static void cpu_time_passes_while_we_work(void **state)
{
    (void)state;
    uint64_t process_ns = world_process_cpu_ns(), thread_ns = world_thread_cpu_ns();
    volatile unsigned sink = 0;

    while (world_thread_cpu_ns() - thread_ns < NS_PER_MS)
        sink++;

    assert_true(world_process_cpu_ns() - process_ns >= NS_PER_MS);
}

static void chance_fills_all_it_is_asked_for(void **state)
{
    (void)state;
    static uint8_t a[5000], b[5000]; /* more than getrandom promises at once */

    world_random(a, sizeof a);
    world_random(b, sizeof b);

    assert_memory_not_equal(a, b, sizeof a);
    static const uint8_t nothing[32];
    assert_memory_not_equal(a + sizeof a - 32, nothing, 32);
    world_random(a, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_clock_never_goes_back),
        cmocka_unit_test(wall_time_counts_from_1970),
        cmocka_unit_test(cpu_time_passes_while_we_work),
        cmocka_unit_test(chance_fills_all_it_is_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
