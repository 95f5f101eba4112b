/* The brake on real vCPUs: it takes their time, only from those who write, and lets go at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/world.h"
#include "test_vm_support.h"
#include "vmm-core/vm.h"

enum { LOOK_MS = 300 };

static void set_brake(struct test_vm *test, unsigned permille)
{
    struct fault fault = {0};
    if (vm_brake(test->vm, permille, &fault) < 0)
        fail_msg("%s", fault.text);
}

static uint64_t ask(struct test_vm *test, const char *key)
{
    char line[CONSOLE_LINE_MAX];
    test_vm_ask(test, "stats", "gw stats", line);
    return test_vm_number(line, key);
}

static void wait_ms(unsigned ms)
{
    const struct timespec time = {.tv_nsec = (long)ms * 1000000};
    (void)nanosleep(&time, NULL);
}

static void a_braked_guest_gets_little_time_and_then_all_again(void **state)
{
    (void)state;
    struct test_vm *test = test_vm_boot(1, 128, "vcpus=1 writers=1 ws=8");
    assert_int_equal(vm_held_ns(test->vm), 0);

    set_brake(test, 950);
    wait_ms(50); /* the first period has begun */
    uint64_t begun_ns = world_now_ns(), cpu_ns = vm_vcpu_cpu_ns(test->vm);
    wait_ms(LOOK_MS);
    cpu_ns = vm_vcpu_cpu_ns(test->vm) - cpu_ns;
    uint64_t wall_ns = world_now_ns() - begun_ns, held_ns = vm_held_ns(test->vm);
    print_message("at 950 permille: %.0f of %.0f ms, held %.0f ms\n", (double)cpu_ns / 1e6,
                  (double)wall_ns / 1e6, (double)held_ns / 1e6);
    assert_true(cpu_ns < wall_ns / 2); /* a busy machine makes it less, never more */
    assert_true(held_ns > 0);

    set_brake(test, 0);
    char line[CONSOLE_LINE_MAX];
    uint64_t work = ask(test, "work"); /* whoever stood is back */
    held_ns = vm_held_ns(test->vm);
    while (ask(test, "work") == work)
        wait_ms(1);
    assert_int_equal(vm_held_ns(test->vm), held_ns);
    test_vm_ask(test, "writers off", "gw ok", line);
    test_vm_ask(test, "verify", "gw verify ok", line);
    (void)test_vm_free(test);
}

static void a_pause_does_not_wait_for_the_brake(void **state)
{
    (void)state;
    struct test_vm *test = test_vm_boot(2, 128, "vcpus=2 writers=2 ws=8");
    char line[CONSOLE_LINE_MAX];
    set_brake(test, 990);
    for (unsigned i = 0; i < 60; i++) { /* meets every moment of a period */
        struct fault fault = {0};
        const struct timespec some = {.tv_nsec = (long)(i % 40) * 300000};
        (void)nanosleep(&some, NULL);
        vm_pause(test->vm);
        assert_false(vm_is_running(test->vm));
        uint64_t held_ns = vm_held_ns(test->vm);
        const struct timespec moment = {.tv_nsec = 1000000};
        (void)nanosleep(&moment, NULL);
        assert_int_equal(vm_held_ns(test->vm), held_ns); /* who stands at the gate is not held */
        if (vm_resume(test->vm, &fault) < 0)
            fail_msg("%s", fault.text);
    }
    set_brake(test, 0);
    test_vm_ask(test, "writers off", "gw ok", line);
    test_vm_ask(test, "verify", "gw verify ok", line);
    (void)test_vm_free(test);
}

static void a_vm_ends_while_it_is_braked(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        struct test_vm *test = test_vm_boot(2, 128, "vcpus=2 writers=1 ws=8");
        set_brake(test, 990);
        (void)test_vm_free(test);
    }
}

int main(void)
{
    (void)test_vm_kvm();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_braked_guest_gets_little_time_and_then_all_again),
        cmocka_unit_test(a_pause_does_not_wait_for_the_brake),
        cmocka_unit_test(a_vm_ends_while_it_is_braked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
