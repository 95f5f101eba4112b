/* A guest that checks itself is moved from one vm to another within this process. */
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/world.h"
#include "test_vm_support.h"
#include "vmm-core/dirty_tracker.h"
#include "vmm-core/guest_memory.h"

enum { MEMORY_MIB = 256 };

static void save(struct test_vm *test, uint8_t **ret_bytes, size_t *ret_count)
{
    struct fault fault = {0};
    if (vm_save(test->vm, ret_bytes, ret_count, &fault) < 0)
        fail_msg("vm_save: %s", fault.text);
}

static void load_and_resume(struct test_vm *test, const uint8_t *bytes, size_t count,
                            uint64_t paused_ns)
{
    struct fault fault = {0};
    if (vm_load(test->vm, bytes, count, paused_ns, &fault) < 0)
        fail_msg("vm_load: %s", fault.text);
    if (vm_resume(test->vm, &fault) < 0)
        fail_msg("vm_resume: %s", fault.text);
}

static struct test_vm *empty_vm(unsigned vcpus)
{
    struct test_vm *test = test_vm_new(vcpus, MEMORY_MIB);
    struct fault fault = {0};
    if (vm_start(test->vm, &fault) < 0)
        fail_msg("vm_start: %s", fault.text);
    return test;
}

static void expect_whole(struct test_vm *test)
{
    char line[CONSOLE_LINE_MAX];
    test_vm_ask(test, "verify all", "gw verify", line);
    if (strncmp(line, "gw verify ok ", 13) != 0)
        fail_msg("%s", line);
}

/* Guest time: never back, and ahead by no more than it stood still: at least least_ns, at most most_ns. */
static void expect_time_is_true(struct test_vm *test, uint64_t least_ns, uint64_t most_ns)
{
    char line[CONSOLE_LINE_MAX];
    test_vm_ask(test, "stats", "gw stats", line);
    (void)printf("  %s\n", line);
    assert_int_equal(test_vm_number(line, "back_tsc_ns"), 0);
    assert_int_equal(test_vm_number(line, "back_kvmclock_ns"), 0);
    assert_int_equal(test_vm_number(line, "cross_tsc_ns"), 0);
    /* Between vCPUs KVM itself steps by some ns whenever it renews its master clock. */
    assert_in_range(test_vm_number(line, "cross_kvmclock_ns"), 0, 500);
    assert_int_equal(test_vm_number(line, "alive"), test_vm_number(line, "vcpus"));
    /* Other holes of this machine come on top, so only what is far too much is judged. And only by
     * kvmclock: on the software KVM of the test machine ring 3 reads the host's TSC as it is. */
    uint64_t forward_ns = test_vm_number(line, "fwd_kvmclock_ns");
    assert_true(forward_ns >= least_ns / 2);
    if (forward_ns > most_ns + 2 * NS_PER_S)
        fail_msg("guest time went ahead by %llu ms in a pause of %llu ms",
                 (unsigned long long)forward_ns / 1000000, (unsigned long long)most_ns / 1000000);
}

static struct test_vm *boot_writers(unsigned vcpus)
{
    char cmdline[160];
    (void)snprintf(cmdline, sizeof cmdline,
                   "vcpus=%u fill=random fillmb=48 writers=%u ws=32 rate=200", vcpus, vcpus);
    return test_vm_boot(vcpus, MEMORY_MIB, cmdline);
}

/* Until the guest had so much of the processor. */
static void run_for(struct test_vm *test, uint64_t cpu_ns)
{
    uint64_t start_ns = vm_vcpu_cpu_ns(test->vm);
    while (vm_vcpu_cpu_ns(test->vm) - start_ns < cpu_ns)
        (void)sched_yield();
}

/* `told` is whether the target hears of the time between pause and load. */
static void move_stopped(unsigned vcpus, uint64_t extra_pause_ms, bool told)
{
    struct test_vm *source = boot_writers(vcpus);
    struct test_vm *target = empty_vm(vcpus);
    char line[CONSOLE_LINE_MAX];
    test_vm_ask(source, "gap reset", "gw ok", line);
    run_for(source, 20 * NS_PER_MS * vcpus); /* the reset comes after its answer */

    uint64_t pause_ns = world_now_ns();
    vm_pause(source->vm);
    uint64_t paused_ns = world_now_ns();
    test_vm_copy(target, source, NULL);
    uint8_t *bytes = NULL;
    size_t count = 0;
    uint64_t save_ns = world_now_ns();
    save(source, &bytes, &count);
    uint64_t saved_ns = world_now_ns();
    if (extra_pause_ms) {
        const struct timespec pause = {.tv_sec = (time_t)(extra_pause_ms / 1000),
                                       .tv_nsec = (long)(extra_pause_ms % 1000 * NS_PER_MS)};
        (void)nanosleep(&pause, NULL); /* the pause itself is what is tested */
    }
    uint64_t load_ns = world_now_ns();
    struct fault fault = {0};
    if (vm_load(target->vm, bytes, count, told ? load_ns - pause_ns : 0, &fault) < 0)
        fail_msg("vm_load: %s", fault.text);
    uint64_t loaded_ns = world_now_ns();
    if (vm_resume(target->vm, &fault) < 0)
        fail_msg("vm_resume: %s", fault.text);
    uint64_t end_ns = world_now_ns();
    (void)printf(
        "  %u vCPUs: pause %llu us, save %llu us (%zu bytes), load %llu us, resume %llu us\n",
        vcpus, (unsigned long long)(paused_ns - pause_ns) / 1000,
        (unsigned long long)(saved_ns - save_ns) / 1000, count,
        (unsigned long long)(loaded_ns - load_ns) / 1000,
        (unsigned long long)(end_ns - loaded_ns) / 1000);

    /* vm_resume may return late: the vCPUs that it woke run before it does. */
    uint64_t from_ns = told ? pause_ns : load_ns;
    expect_time_is_true(target, loaded_ns - from_ns, end_ns - from_ns);
    expect_whole(target);
    free(bytes);
    source = test_vm_free(source);
    target = test_vm_free(target);
}

static void a_paused_guest_with_one_vcpu_goes_on_elsewhere(void **state)
{
    (void)state;
    move_stopped(1, 0, true);
}

static void a_paused_guest_with_four_vcpus_goes_on_elsewhere(void **state)
{
    (void)state;
    move_stopped(4, 0, true);
}

static void time_stands_still_no_longer_than_the_guest(void **state)
{
    (void)state;
    move_stopped(2, 3000, true);
}

static void a_target_that_is_told_of_no_pause_adds_none(void **state)
{
    (void)state;
    move_stopped(2, 3000, false);
}

static void clear_and_copy(struct test_vm *to, struct test_vm *from, struct dirty_tracker *tracker,
                           const struct bitmap *dirty)
{
    struct fault fault = {0};
    size_t words = bitmap_words(dirty);
    for (size_t i = 0; i < words; i += 8) {
        uint64_t any = 0;
        for (size_t k = 0; k < 8; k++)
            any |= dirty->words[i + k];
        if (any && dirty_tracker_clear(tracker, i * 64, &dirty->words[i], &fault) < 0)
            fail_msg("dirty_tracker_clear: %s", fault.text);
    }
    test_vm_copy(to, from, dirty);
}

static void move_running(unsigned vcpus)
{
    struct test_vm *source = boot_writers(vcpus);
    struct test_vm *target = empty_vm(vcpus);
    struct dirty_tracker *tracker = NULL;
    struct bitmap dirty;
    struct fault fault = {0};
    assert_int_equal(bitmap_init(&dirty, guest_memory_pages(vm_memory(source->vm))), 0);
    if (dirty_tracker_new(&tracker, source->vm, &fault) < 0)
        fail_msg("dirty_tracker_new: %s", fault.text);

    for (int round = 0; round < 6; round++) {
        if (round == 5)
            vm_pause(source->vm);
        bitmap_clear_all(&dirty);
        assert_int_equal(dirty_tracker_collect(tracker, &dirty, &fault), 0);
        (void)printf("  %u vCPUs: round %d, %llu pages dirty\n", vcpus, round,
                     (unsigned long long)bitmap_count(&dirty));
        clear_and_copy(target, source, tracker, &dirty);
    }
    uint8_t *bytes = NULL;
    size_t count = 0;
    save(source, &bytes, &count);
    load_and_resume(target, bytes, count, 0);

    expect_whole(target);
    tracker = dirty_tracker_free(tracker);
    bitmap_deinit(&dirty);
    free(bytes);
    source = test_vm_free(source);
    target = test_vm_free(target);
}

static void a_running_guest_with_one_vcpu_is_copied_in_rounds(void **state)
{
    (void)state;
    move_running(1);
}

static void a_running_guest_with_four_vcpus_is_copied_in_rounds(void **state)
{
    (void)state;
    move_running(4);
}

/* There and back and there again, the same guest; every hop leaves it whole. */
static void a_guest_survives_many_moves(void **state)
{
    (void)state;
    struct test_vm *here = boot_writers(2);
    for (int hop = 0; hop < 6; hop++) {
        struct test_vm *there = empty_vm(2);
        uint64_t pause_ns = world_now_ns();
        vm_pause(here->vm);
        test_vm_copy(there, here, NULL);
        uint8_t *bytes = NULL;
        size_t count = 0;
        save(here, &bytes, &count);
        load_and_resume(there, bytes, count, world_now_ns() - pause_ns);
        free(bytes);
        expect_whole(there);
        here = test_vm_free(here);
        here = there;
    }
    here = test_vm_free(here);
}

static void a_source_that_resumes_goes_on_as_if_nothing_was(void **state)
{
    (void)state;
    struct test_vm *source = boot_writers(2);
    struct fault fault = {0};
    for (int i = 0; i < 50; i++) {
        vm_pause(source->vm);
        vm_pause(source->vm); /* idempotent */
        uint8_t *bytes = NULL;
        size_t count = 0;
        save(source, &bytes, &count);
        free(bytes);
        assert_int_equal(vm_resume(source->vm, &fault), 0);
    }

    expect_time_is_true(source, 0, 0);
    expect_whole(source);
    source = test_vm_free(source);
}

/* What vm_load took in, vm_save gives out again: bit by bit, before the guest runs. */
static void loaded_state_saves_as_the_same_bytes(void **state)
{
    (void)state;
    struct test_vm *source = boot_writers(2);
    struct test_vm *target = empty_vm(2);
    vm_pause(source->vm);
    test_vm_copy(target, source, NULL);
    uint8_t *first = NULL, *second = NULL;
    size_t first_count = 0, second_count = 0;
    save(source, &first, &first_count);
    struct fault fault = {0};
    if (vm_load(target->vm, first, first_count, 0, &fault) < 0)
        fail_msg("vm_load: %s", fault.text);

    save(target, &second, &second_count);

    assert_int_equal(first_count, second_count);
    assert_memory_equal(first, second, first_count);
    free(first);
    free(second);
    source = test_vm_free(source);
    target = test_vm_free(target);
}

int main(void)
{
    (void)test_vm_kvm();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_paused_guest_with_one_vcpu_goes_on_elsewhere),
        cmocka_unit_test(a_paused_guest_with_four_vcpus_goes_on_elsewhere),
        cmocka_unit_test(time_stands_still_no_longer_than_the_guest),
        cmocka_unit_test(a_target_that_is_told_of_no_pause_adds_none),
        cmocka_unit_test(a_running_guest_with_one_vcpu_is_copied_in_rounds),
        cmocka_unit_test(a_running_guest_with_four_vcpus_is_copied_in_rounds),
        cmocka_unit_test(a_guest_survives_many_moves),
        cmocka_unit_test(a_source_that_resumes_goes_on_as_if_nothing_was),
        cmocka_unit_test(loaded_state_saves_as_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
