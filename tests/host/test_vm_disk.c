/* The verifying guest writes numbered blocks to a virtio disk, natively, and is moved between vm
 * objects while it does. GODWIT_TEST_MOVES=N asks for N moves over each ring format. */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "base/world.h"
#include "storage/disk_mirror.h"
#include "test_vm_support.h"
#include "vmm-core/dirty_tracker.h"
#include "vmm-core/guest_memory.h"

enum { MEMORY_MIB = 32, DISK_MIB = 4, DISK_BYTES = DISK_MIB << 20, BLOCK_BYTES = 4096, MOVES = 10 };

#define BLOCK_MAGIC UINT64_C(0x6b636f6c62207767) /* tests/guest/disk.h */

static const char *const rings[] = {"split", "packed", "split+event", "packed+event"};

static unsigned moves_wanted(void)
{
    const char *text = getenv("GODWIT_TEST_MOVES");
    return text ? (unsigned)strtoul(text, NULL, 10) : MOVES;
}

/* On a real file system, so that O_DIRECT and io_uring are what is tested. */
static int make_disk(void)
{
    char path[] = "/var/tmp/godwit-vm-disk-XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
    return fd;
}

/* Opened anew, as another host would. */
static int open_disk(int fd)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR | O_CLOEXEC);
    assert_true(again >= 0);
    return again;
}

static struct test_vm *make_vm(unsigned vcpus, int disk_fd)
{
    const struct vm_disk_config disk = {
        .fd = disk_fd, .bytes = DISK_BYTES, .queues = 1, .serial = "disk-0"};
    const struct vm_config config = {
        .vcpus = vcpus, .memory_bytes = MIB(MEMORY_MIB), .disks = &disk, .disk_count = 1};
    return test_vm_new_with(&config);
}

static struct test_vm *boot(int disk_fd, const char *ring, bool interrupts, const char *more)
{
    struct test_vm *test = make_vm(1, open_disk(disk_fd));
    char cmdline[200];
    (void)snprintf(cmdline, sizeof cmdline, "disk=%d ring=%s irq=%d poll_us=200 %s", DISK_MIB, ring,
                   interrupts, more);
    test_vm_boot_guest(test, cmdline);
    return test;
}

/* Until the guest was told of so many more blocks. */
static void await_blocks(struct test_vm *test, uint64_t more)
{
    char line[CONSOLE_LINE_MAX];
    test_vm_await(test, "disk", more);
    test_vm_ask(test, "disk", "gw disk ", line);
    assert_non_null(strstr(line, "device=ok"));
    assert_int_equal(test_vm_number(line, "errors"), 0);
}

static void expect_disk_is_whole(struct test_vm *test)
{
    char line[CONSOLE_LINE_MAX];
    test_vm_ask(test, "disk flush", "gw ok", line);
    test_vm_ask(test, "disk verify", "gw diskverify", line);
    if (strncmp(line, "gw diskverify ok ", 17) != 0)
        fail_msg("%s", line);
    assert_true(test_vm_number(line, "blocks") > 0);
}

static void a_guest_writes_and_reads_a_disk(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(rings); i++) {
        for (unsigned interrupts = 0; interrupts < 2; interrupts++) {
            int fd = make_disk();
            struct test_vm *test = boot(fd, rings[i], interrupts, "");
            char line[CONSOLE_LINE_MAX];

            await_blocks(test, 1000);

            expect_disk_is_whole(test);
            test_vm_ask(test, "disk", "gw disk ", line);
            assert_true(!interrupts || test_vm_number(line, "interrupts") > 0);
            struct vm_disk_stats stats;
            vm_disk_stats(test->vm, 0, &stats);
            assert_true(stats.writes >= 1000 && stats.reads > 0);
            assert_int_equal(stats.errors + stats.refused, 0);
            test = test_vm_free(test);
            uint8_t block[BLOCK_BYTES];
            assert_int_equal(pread(fd, block, sizeof block, 0), BLOCK_BYTES);
            assert_int_equal(bytes_get_u64(block), BLOCK_MAGIC);
            (void)close(fd);
        }
    }
}

struct cost {
    uint64_t pause_ns, save_ns, load_ns, worst_pause_ns;
    unsigned moves;
};

/* Pause here, memory over, load there, take the disk, go on. */
static struct test_vm *move(struct test_vm *source, int disk_fd, const struct bitmap *wanted,
                            struct test_vm *target, struct cost *cost)
{
    struct fault fault = {0};
    uint8_t *bytes = NULL;
    size_t count = 0;
    uint64_t saving_ns = world_now_ns();
    if (vm_save(source->vm, &bytes, &count, &fault) < 0)
        fail_msg("vm_save: %s", fault.text);
    uint64_t saved_ns = world_now_ns();
    test_vm_copy(target, source, wanted);
    uint64_t loading_ns = world_now_ns();
    if (vm_load(target->vm, bytes, count, 0, &fault) < 0)
        fail_msg("vm_load: %s", fault.text);
    cost->save_ns += saved_ns - saving_ns;
    cost->load_ns += world_now_ns() - loading_ns;
    cost->moves++;
    free(bytes);
    /* The guest may run before its disk is there: what it asks for waits. */
    bool late = cost->moves % 2;
    if (late && vm_resume(target->vm, &fault) < 0)
        fail_msg("vm_resume: %s", fault.text);
    if (vm_attach_disk(target->vm, 0, open_disk(disk_fd), &fault) < 0)
        fail_msg("vm_attach_disk: %s", fault.text);
    if (!late && vm_resume(target->vm, &fault) < 0)
        fail_msg("vm_resume: %s", fault.text);
    (void)test_vm_free(source);
    return target;
}

static void pause_source(struct test_vm *source, struct cost *cost)
{
    uint64_t begin_ns = world_now_ns();
    vm_pause(source->vm);
    uint64_t took_ns = world_now_ns() - begin_ns;
    cost->pause_ns += took_ns;
    if (took_ns > cost->worst_pause_ns)
        cost->worst_pause_ns = took_ns;
}

static struct test_vm *incoming(void)
{
    struct fault fault = {0};
    struct test_vm *target = make_vm(1, -1);
    if (vm_start(target->vm, &fault) < 0)
        fail_msg("vm_start: %s", fault.text);
    return target;
}

static void tell_cost(const char *ring, const struct cost *cost)
{
    (void)printf("  %s: %u moves; pause with drain and flush %llu us (worst %llu), save %llu us, "
                 "load %llu us\n",
                 ring, cost->moves, (unsigned long long)(cost->pause_ns / cost->moves / 1000),
                 (unsigned long long)(cost->worst_pause_ns / 1000),
                 (unsigned long long)(cost->save_ns / cost->moves / 1000),
                 (unsigned long long)(cost->load_ns / cost->moves / 1000));
}

static void a_guest_moves_again_and_again_while_it_writes(void **state)
{
    (void)state;
    unsigned moves = moves_wanted();
    for (size_t i = 0; i < ARRAY_COUNT(rings); i++) {
        int fd = make_disk();
        struct cost cost = {0};
        struct test_vm *test = boot(fd, rings[i], i % 2, "");
        for (unsigned k = 0; k < moves; k++) {
            pause_source(test, &cost);
            test = move(test, fd, NULL, incoming(), &cost);
            await_blocks(test, 1); /* it goes on: nothing that was on its way was lost */
        }
        expect_disk_is_whole(test);
        tell_cost(rings[i], &cost);
        test = test_vm_free(test);
        (void)close(fd);
    }
}

static void copy_dirty(struct test_vm *to, struct test_vm *from, struct dirty_tracker *tracker,
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

/* By the dirty log alone: a page that a disk wrote and nobody marked would be an old one there. */
static void the_dirty_log_holds_what_the_disk_wrote(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(rings); i++) {
        int fd = make_disk();
        struct cost cost = {0};
        struct test_vm *test = boot(fd, rings[i], i % 2 == 0, "");
        for (unsigned k = 0; k < 5; k++) {
            struct test_vm *target = incoming();
            struct dirty_tracker *tracker = NULL;
            struct bitmap dirty;
            struct fault fault = {0};
            assert_int_equal(bitmap_init(&dirty, guest_memory_pages(vm_memory(test->vm))), 0);
            if (dirty_tracker_new(&tracker, test->vm, &fault) < 0)
                fail_msg("dirty_tracker_new: %s", fault.text);
            for (unsigned round = 0; round < 4; round++) {
                bitmap_clear_all(&dirty);
                assert_int_equal(dirty_tracker_collect(tracker, &dirty, &fault), 0);
                copy_dirty(target, test, tracker, &dirty);
                await_blocks(test, 50);
            }
            pause_source(test, &cost);
            bitmap_clear_all(&dirty);
            assert_int_equal(dirty_tracker_collect(tracker, &dirty, &fault), 0);
            tracker = dirty_tracker_free(tracker);
            test = move(test, fd, &dirty, target, &cost);
            await_blocks(test, 50);
            bitmap_deinit(&dirty);
        }
        expect_disk_is_whole(test);
        test = test_vm_free(test);
        (void)close(fd);
    }
}

/* Both memories are compared, page by page, when the last dirty pages were copied. */
static void not_a_page_differs_after_the_last_round(void **state)
{
    (void)state;
    int fd = make_disk();
    struct test_vm *test = boot(fd, "packed+event", true, "");
    struct test_vm *target = incoming();
    struct dirty_tracker *tracker = NULL;
    struct bitmap dirty;
    struct fault fault = {0};
    assert_int_equal(bitmap_init(&dirty, guest_memory_pages(vm_memory(test->vm))), 0);
    assert_int_equal(dirty_tracker_new(&tracker, test->vm, &fault), 0);
    for (unsigned round = 0; round < 20; round++) {
        if (round == 19)
            vm_pause(test->vm);
        else
            await_blocks(test, 20);
        bitmap_clear_all(&dirty);
        assert_int_equal(dirty_tracker_collect(tracker, &dirty, &fault), 0);
        copy_dirty(target, test, tracker, &dirty);
    }

    const uint8_t *here = guest_memory_base(vm_memory(test->vm));
    const uint8_t *there = guest_memory_base(vm_memory(target->vm));
    for (uint64_t page = 0; page < guest_memory_pages(vm_memory(test->vm)); page++)
        assert_memory_equal(here + page * PAGE_BYTES, there + page * PAGE_BYTES, PAGE_BYTES);
    tracker = dirty_tracker_free(tracker);
    bitmap_deinit(&dirty);
    test = test_vm_free(test);
    target = test_vm_free(target);
    (void)close(fd);
}

static void pauses_in_place_lose_nothing(void **state)
{
    (void)state;
    int fd = make_disk();
    struct fault fault = {0};
    struct cost cost = {0};
    struct test_vm *test = boot(fd, "packed+event", true, "");
    for (unsigned i = 0; i < 200; i++) {
        pause_source(test, &cost);
        uint8_t *bytes = NULL;
        size_t count = 0;
        if (vm_save(test->vm, &bytes, &count, &fault) < 0)
            fail_msg("vm_save: %s", fault.text);
        free(bytes);
        assert_int_equal(vm_resume(test->vm, &fault), 0);
    }
    await_blocks(test, 100);
    expect_disk_is_whole(test);
    test = test_vm_free(test);
    (void)close(fd);
}

static void loaded_disks_save_as_the_same_bytes(void **state)
{
    (void)state;
    int fd = make_disk();
    struct fault fault = {0};
    struct test_vm *test = boot(fd, "packed", true, "");
    struct test_vm *target = incoming();
    await_blocks(test, 100);
    vm_pause(test->vm);
    test_vm_copy(target, test, NULL);
    uint8_t *first = NULL, *second = NULL;
    size_t first_count = 0, second_count = 0;
    assert_int_equal(vm_save(test->vm, &first, &first_count, &fault), 0);
    if (vm_load(target->vm, first, first_count, 0, &fault) < 0)
        fail_msg("vm_load: %s", fault.text);

    assert_int_equal(vm_save(target->vm, &second, &second_count, &fault), 0);

    assert_int_equal(first_count, second_count);
    assert_memory_equal(first, second, first_count);
    free(first);
    free(second);
    test = test_vm_free(test);
    target = test_vm_free(target);
    (void)close(fd);
}

static void a_machine_without_the_disk_refuses_the_state(void **state)
{
    (void)state;
    int fd = make_disk();
    struct fault fault = {0};
    struct test_vm *test = boot(fd, "split", false, "");
    struct test_vm *target = test_vm_new(1, MEMORY_MIB);
    assert_int_equal(vm_start(target->vm, &fault), 0);
    vm_pause(test->vm);
    uint8_t *bytes = NULL;
    size_t count = 0;
    assert_int_equal(vm_save(test->vm, &bytes, &count, &fault), 0);

    assert_true(vm_load(target->vm, bytes, count, 0, &fault) < 0);

    assert_non_null(strstr(fault.text, "sections left over"));
    free(bytes);
    test = test_vm_free(test);
    target = test_vm_free(target);
    (void)close(fd);
}

static struct disk_mirror *mirror_disk(struct test_vm *test, int fd, int target_fd)
{
    const struct disk_mirror_config config = {
        .source_fd = open_disk(fd), .target_fd = open_disk(target_fd), .bytes = DISK_BYTES};
    struct disk_mirror_status status = {0};
    struct disk_mirror *mirror = NULL;
    struct fault fault = {0};
    if (disk_mirror_new(&mirror, &config, &fault) < 0 ||
        vm_mirror_disk(test->vm, 0, mirror, &fault) < 0 || disk_mirror_start(mirror, &fault) < 0)
        fail_msg("%s", fault.text);
    while (status.state != DISK_MIRROR_EQUAL) {
        await_blocks(test, 10);
        disk_mirror_status(mirror, &status);
        assert_int_not_equal(status.state, DISK_MIRROR_FAILED);
    }
    return mirror;
}

/* A write of it takes longer than a pause waits. */
static void a_request_that_a_pause_left_behind_can_be_waited_for(void **state)
{
    (void)state;
    int fd = make_disk(), target_fd = make_disk();
    struct fault fault = {0};
    struct test_vm *test = boot(fd, "split", true, "");
    struct disk_mirror *mirror = mirror_disk(test, fd, target_fd);
    unsigned before = failpoint_hits(FAILPOINT_MIRROR_WRITE);
    assert_int_equal(failpoint_arm("mirror.write=delay:5000", &fault), 0);
    while (failpoint_hits(FAILPOINT_MIRROR_WRITE) == before)
        (void)sched_yield();
    uint8_t *bytes = NULL;
    size_t count = 0;

    vm_pause(test->vm);
    assert_int_equal(vm_save(test->vm, &bytes, &count, &fault), ERR_TIMEOUT);
    vm_wait_quiet(test->vm);

    if (vm_save(test->vm, &bytes, &count, &fault) < 0)
        fail_msg("vm_save: %s", fault.text);
    free(bytes);
    assert_int_equal(failpoint_arm("", &fault), 0);
    assert_int_equal(vm_resume(test->vm, &fault), 0);
    await_blocks(test, 100);
    expect_disk_is_whole(test);
    assert_int_equal(disk_mirror_abort(mirror, &fault), 0);
    assert_int_equal(vm_mirror_disk(test->vm, 0, NULL, &fault), 0);
    test = test_vm_free(test);
    (void)disk_mirror_free(mirror);
    (void)close(fd);
    (void)close(target_fd);
}

int main(void)
{
    (void)close(test_vm_kvm());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_guest_writes_and_reads_a_disk),
        cmocka_unit_test(a_guest_moves_again_and_again_while_it_writes),
        cmocka_unit_test(the_dirty_log_holds_what_the_disk_wrote),
        cmocka_unit_test(not_a_page_differs_after_the_last_round),
        cmocka_unit_test(pauses_in_place_lose_nothing),
        cmocka_unit_test(loaded_disks_save_as_the_same_bytes),
        cmocka_unit_test(a_machine_without_the_disk_refuses_the_state),
        cmocka_unit_test(a_request_that_a_pause_left_behind_can_be_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
