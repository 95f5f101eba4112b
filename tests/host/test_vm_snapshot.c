/* A guest on real KVM is snapshotted while it writes: what comes out of the file is one instant of it,
 * and it runs on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/guest_snapshot.h"
#include "migrate/region.h"
#include "storage/guest_label.h"
#include "storage/guest_seal.h"
#include "test_vm_support.h"
#include "vmm-core/guest_memory.h"

static const struct guest_label label = {.vm_id = "vm-1", .nonce = "n0nce", .generation = 7};

/* ---- the vm as a guest ---- */
static void on_pause(void *owner)
{
    vm_pause(((struct test_vm *)owner)->vm);
}

static int on_resume(void *owner, struct fault *fault)
{
    return vm_resume(((struct test_vm *)owner)->vm, fault);
}

static int on_save(void *owner, uint8_t **ret_bytes, size_t *ret_count, struct fault *fault)
{
    return vm_save(((struct test_vm *)owner)->vm, ret_bytes, ret_count, fault);
}

static int on_load(void *owner, const uint8_t *bytes, size_t count, uint64_t paused_ns,
                   struct fault *fault)
{
    return vm_load(((struct test_vm *)owner)->vm, bytes, count, paused_ns, fault);
}

static int on_populated(struct region *region, struct bitmap *ret_populated, struct fault *fault)
{
    return guest_memory_populated(vm_memory(((struct test_vm *)region->owner)->vm), ret_populated,
                                  fault);
}

static int on_populate(struct region *region, uint64_t first, uint64_t pages, struct fault *fault)
{
    return guest_memory_populate(vm_memory(((struct test_vm *)region->owner)->vm), first, pages,
                                 fault);
}

static const struct guest_ops guest_ops = {
    .pause = on_pause, .resume = on_resume, .save = on_save, .load = on_load};
static const struct region_ops region_ops = {.populated = on_populated, .populate = on_populate};

struct port {
    struct guest guest;
    struct region ram;
};

static struct guest *guest_of(struct test_vm *test, struct port *port)
{
    struct guest_memory *memory = vm_memory(test->vm);
    *port = (struct port){
        .guest = {.ops = &guest_ops,
                  .owner = test,
                  .vm_id = "vm-1",
                  .name = "one",
                  .machine = "godwit-1",
                  .baseline = "any",
                  .vcpus = vm_vcpus(test->vm),
                  .regions = &port->ram,
                  .region_count = 1,
                  .was_running = true},
        .ram = {.ops = &region_ops,
                .owner = test,
                .name = "ram",
                .pages = guest_memory_pages(memory),
                .base = guest_memory_base(memory)},
    };
    return &port->guest;
}

static void ask_ok(struct test_vm *test, const char *command, const char *answer)
{
    char line[CONSOLE_LINE_MAX];
    test_vm_ask(test, command, answer, line);
}

static int new_file(void)
{
    int fd = memfd_create("snapshot", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static int take(struct test_vm *test, int fd, const bool *is_stopped,
                struct guest_snapshot_result *ret_result, struct fault *fault)
{
    struct port port;
    const struct guest_snapshot_config config = {
        .guest = guest_of(test, &port), .label = &label, .fd = fd, .is_stopped = is_stopped};
    return guest_snapshot_take(&config, ret_result, fault);
}

static void print_result(const char *what, const struct guest_snapshot_result *result)
{
    const struct guest_snapshot_pause *parts = &result->parts;
    double load[1] = {0};
    (void)getloadavg(load, 1);
    print_message("%s: pause %.2f ms (stop %.2f protect %.2f save %.2f resume %.2f), load %.1f, all %.0f ms, "
                  "%llu pages, %llu put aside, file %.0f MiB\n",
                  what, (double)result->pause_ns / 1e6, (double)parts->stop_ns / 1e6,
                  (double)parts->protect_ns / 1e6, (double)parts->save_ns / 1e6,
                  (double)parts->resume_ns / 1e6, load[0], (double)result->file.ns / 1e6,
                  (unsigned long long)result->file.pages,
                  (unsigned long long)result->put_aside_pages,
                  (double)result->file.bytes / 1048576.0);
}

/* Load it into a fresh machine, let it run, and have it verify itself. */
static void expect_whole(int fd, unsigned vcpus, uint64_t memory_mib)
{
    struct test_vm *other = test_vm_new(vcpus, memory_mib);
    struct guest_file_counts counts = {0};
    struct fault fault = {0};
    struct port port;
    if (vm_start(other->vm, &fault) < 0 ||
        guest_file_read(guest_of(other, &port), &label, fd, &counts, &fault) < 0 ||
        vm_resume(other->vm, &fault) < 0)
        fail_msg("%s", fault.text);
    ask_ok(other, "writers off", "gw ok");
    ask_ok(other, "verify all", "gw verify ok");
    ask_ok(other, "stats", "gw stats");
    (void)test_vm_free(other);
}

static void snapshot_of(unsigned vcpus, uint64_t memory_mib, const char *cmdline)
{
    struct test_vm *test = test_vm_boot(vcpus, memory_mib, cmdline);
    struct guest_snapshot_result result = {0};
    struct fault fault = {0};
    int fd = new_file();

    if (take(test, fd, NULL, &result, &fault) < 0)
        fail_msg("%s", fault.text);
    print_result(cmdline, &result);
    assert_true(result.file.pages > 0 && result.pause_ns > 0);
    assert_int_equal(guest_seal_check(&label, fd, &fault), 0);
    expect_whole(fd, vcpus, memory_mib);

    ask_ok(test, "writers off", "gw ok"); /* the original went on, and is whole */
    ask_ok(test, "verify all", "gw verify ok");
    (void)test_vm_free(test);
    (void)close(fd);
}

static void a_snapshot_of_a_writing_guest_is_whole_and_the_guest_runs_on(void **state)
{
    (void)state;
    snapshot_of(1, 128, "vcpus=1 writers=1 ws=32 fill=random fillmb=48");
    snapshot_of(2, 128, "vcpus=2 writers=2 ws=64 rate=500 fill=random fillmb=16");
}

static void one_snapshot_after_the_other_is_taken_and_each_is_its_own_instant(void **state)
{
    (void)state;
    struct test_vm *test =
        test_vm_boot(1, 128, "vcpus=1 writers=1 ws=16 rate=400 fill=random fillmb=16");
    int fds[3];
    for (size_t i = 0; i < 3; i++) {
        struct guest_snapshot_result result = {0};
        struct fault fault = {0};
        fds[i] = new_file();
        if (take(test, fds[i], NULL, &result, &fault) < 0)
            fail_msg("%s", fault.text);
    }
    for (size_t i = 0; i < 3; i++) {
        expect_whole(fds[i], 1, 128);
        (void)close(fds[i]);
    }
    (void)test_vm_free(test);
}

static void a_snapshot_that_is_stopped_or_has_no_room_leaves_the_guest_running(void **state)
{
    (void)state;
    struct test_vm *test = test_vm_boot(1, 128, "vcpus=1 writers=1 ws=32 fill=random fillmb=32");
    struct guest_snapshot_result result = {0};
    struct fault fault = {0};
    const bool stopped = true;
    int fd = new_file();

    assert_int_equal(take(test, fd, &stopped, &result, &fault), ERR_CANCELED);
    assert_true(guest_seal_check(&label, fd, &fault) < 0);
    (void)close(fd);

    fd = memfd_create("small", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0 && ftruncate(fd, 8 << 20) == 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0); /* full at 8 MiB */
    fault = (struct fault){0};
    assert_true(take(test, fd, NULL, &result, &fault) < 0);
    print_message("%s\n", fault.text);
    (void)close(fd);

    ask_ok(test, "writers off", "gw ok");
    ask_ok(test, "verify all", "gw verify ok");
    (void)test_vm_free(test);
}

/* GODWIT_SNAPSHOT_SAMPLES more of the same guest, for their pauses alone. */
static void measure_pauses(const char *cmdline, uint64_t memory_mib)
{
    const char *samples = getenv("GODWIT_SNAPSHOT_SAMPLES");
    struct test_vm *test = test_vm_boot(2, memory_mib, cmdline);
    for (unsigned long i = samples ? strtoul(samples, NULL, 10) : 1; i > 0; i--) {
        struct guest_snapshot_result result = {0};
        struct fault fault = {0};
        int fd = new_file();
        if (take(test, fd, NULL, &result, &fault) < 0)
            fail_msg("%s", fault.text);
        print_result(cmdline, &result);
        (void)close(fd);
    }
    (void)test_vm_free(test);
}

/* Not in the usual run: GODWIT_SNAPSHOT_MIB=2048 measures a guest of that size. */
static void a_large_guest_is_measured_when_asked_for(void **state)
{
    (void)state;
    const char *mib = getenv("GODWIT_SNAPSHOT_MIB");
    if (!mib)
        skip();
    uint64_t memory_mib = strtoull(mib, NULL, 10);
    const char *rates[] = {"rate=0", "rate=50", "rate=400", ""};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        char cmdline[160];
        (void)snprintf(cmdline, sizeof cmdline, "vcpus=2 writers=2 ws=%u %s fill=random fillmb=%u",
                       (unsigned)memory_mib / 2, rates[i], (unsigned)memory_mib * 3 / 8);
        measure_pauses(cmdline, memory_mib);
    }
}

int main(void)
{
    (void)close(test_vm_kvm());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_of_a_writing_guest_is_whole_and_the_guest_runs_on),
        cmocka_unit_test(one_snapshot_after_the_other_is_taken_and_each_is_its_own_instant),
        cmocka_unit_test(a_snapshot_that_is_stopped_or_has_no_room_leaves_the_guest_running),
        cmocka_unit_test(a_large_guest_is_measured_when_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
