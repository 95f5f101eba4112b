/* The self-checking guest drives a disk and a network card natively and moves under that load, many
 * times: no block lost or torn, no frame lost or changed, and not one byte of memory that its
 * devices wrote is missing from the dirty set. */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/own.h"
#include "base/world.h"
#include "tests/host/tap_echo.h"
#include "test_vm_support.h"
#include "vmm-core/dirty_tracker.h"
#include "vmm-core/guest_memory.h"

enum {
    MEMORY_MIB = 64,
    DISK_MIB = 8,
    BLOCK_BYTES = 4096,
    ROUNDS = 3,
    PROGRESS = 20,        /* blocks and frames between two moves, at least */
    MOVES = 4,            /* of each ring format */
    SHORT_MOVES = 20,     /* up to so many all is read back after every fourth, else ... */
    READ_BACK_MOVES = 20, /* ... after so many */
};

#define BLOCK_MAGIC UINT64_C(0x6b636f6c62207767)

struct stage {
    int disk_fd;
    struct tap_echo *echo;
    struct test_vm *vm;
    struct bitmap dirty, populated;
    uint64_t moves;
    uint64_t blocks_read, frames_drained; /* compared with what was written and sent, so far */
};

static struct test_vm *new_vm(const struct stage *stage, bool attached)
{
    const struct vm_disk_config disk = {
        .fd = attached ? fcntl(stage->disk_fd, F_DUPFD_CLOEXEC, 0) : -1,
        .bytes = MIB(DISK_MIB),
        .queues = 1,
        .serial = "devices",
    };
    struct vm_nic_config nic = {
        .fds = {attached ? tap_echo_fd(stage->echo, 0) : -1},
        .queue_pairs = 1,
        .mac = {0x52, 0x54, 0x00, 0x67, 0x77, 0x01},
        .mtu = 1500,
    };
    const struct vm_config config = {
        .vcpus = 1,
        .memory_bytes = MIB(MEMORY_MIB),
        .disks = &disk,
        .disk_count = 1,
        .nics = &nic,
        .nic_count = 1,
    };
    return test_vm_new_with(&config);
}

static void stage_begin(struct stage *stage, const char *ring, unsigned irq)
{
    char cmdline[160];
    memset(stage, 0, sizeof *stage);
    stage->disk_fd = memfd_create("disk", MFD_CLOEXEC);
    assert_int_equal(ftruncate(stage->disk_fd, (off_t)MIB(DISK_MIB)), 0);
    stage->echo = tap_echo_new("devices0", 1, true);
    stage->vm = new_vm(stage, true);
    assert_int_equal(bitmap_init(&stage->dirty, MIB(MEMORY_MIB) >> PAGE_SHIFT), 0);
    assert_int_equal(bitmap_init(&stage->populated, MIB(MEMORY_MIB) >> PAGE_SHIFT), 0);
    (void)snprintf(cmdline, sizeof cmdline,
                   "disk=%d nic=1 ring=%s irq=%u writers=1 ws=8 rate=50 poll_us=200", DISK_MIB,
                   ring, irq);
    test_vm_boot_guest(stage->vm, cmdline);
}

static void stage_end(struct stage *stage)
{
    stage->vm = test_vm_free(stage->vm);
    stage->echo = tap_echo_free(stage->echo);
    bitmap_deinit(&stage->dirty);
    bitmap_deinit(&stage->populated);
    (void)close(stage->disk_fd);
}

static void expect_fine(struct stage *stage)
{
    char line[CONSOLE_LINE_MAX];
    test_vm_ask(stage->vm, "disk", "gw disk ", line);
    if (test_vm_number(line, "errors") != 0 || !strstr(line, " device=ok"))
        fail_msg("%s", line);
    test_vm_ask(stage->vm, "nic", "gw nic ", line);
    if (test_vm_number(line, "lost") != 0 || test_vm_number(line, "corrupt") != 0 ||
        test_vm_number(line, "doubled") != 0 || !strstr(line, " device=ok"))
        fail_msg("%s", line);
}

/* Everything at rest, then everything read back: by the guest, and from outside. */
static void expect_whole(struct stage *stage)
{
    char line[CONSOLE_LINE_MAX];
    test_vm_ask(stage->vm, "disk off", "gw ok", line);
    test_vm_ask(stage->vm, "disk flush", "gw ok", line);
    test_vm_ask(stage->vm, "disk verify", "gw diskverify ", line);
    if (strncmp(line, "gw diskverify ok ", 17) != 0)
        fail_msg("after %llu moves: %s", (unsigned long long)stage->moves, line);
    uint64_t blocks = test_vm_number(line, "blocks"), found = 0;
    for (uint64_t i = 0; i < MIB(DISK_MIB) / BLOCK_BYTES; i++) {
        uint8_t head[16];
        assert_int_equal(pread(stage->disk_fd, head, sizeof head, (off_t)(i * BLOCK_BYTES)),
                         sizeof head);
        if (bytes_get_u64(head) == BLOCK_MAGIC && bytes_get_u64(head + 8) == i)
            found++;
    }
    assert_int_equal(found, blocks);
    stage->blocks_read += blocks;
    test_vm_ask(stage->vm, "nic drain", "gw nic ", line);
    assert_int_equal(test_vm_number(line, "busy"), 0);
    assert_int_equal(test_vm_number(line, "echoed"), test_vm_number(line, "sent"));
    stage->frames_drained = test_vm_number(line, "echoed");
    expect_fine(stage);
    test_vm_ask(stage->vm, "verify all", "gw verify", line);
    if (strncmp(line, "gw verify ok ", 13) != 0)
        fail_msg("%s", line);
    test_vm_ask(stage->vm, "disk on", "gw ok", line);
    test_vm_ask(stage->vm, "nic on", "gw ok", line);
}

static void clear_and_copy(struct test_vm *to, struct test_vm *from, struct dirty_tracker *tracker,
                           const struct bitmap *dirty)
{
    struct fault fault = {0};
    for (size_t i = 0; i < bitmap_words(dirty); i += 8) {
        uint64_t any = 0;
        for (size_t k = 0; k < 8; k++)
            any |= dirty->words[i + k];
        if (any && dirty_tracker_clear(tracker, i * 64, &dirty->words[i], &fault) < 0)
            fail_msg("dirty_tracker_clear: %s", fault.text);
    }
    test_vm_copy(to, from, dirty);
}

/* Of the pages that `has` has; looking at one that nobody has would make it. */
static void expect_same(struct stage *stage, struct test_vm *has, struct test_vm *other)
{
    const uint8_t *left = guest_memory_base(vm_memory(has->vm));
    const uint8_t *right = guest_memory_base(vm_memory(other->vm));
    struct fault fault = {0};
    assert_int_equal(guest_memory_populated(vm_memory(has->vm), &stage->populated, &fault), 0);
    for (uint64_t page = bitmap_next_set(&stage->populated, 0); page != BITMAP_NONE;
         page = bitmap_next_set(&stage->populated, page + 1)) {
        if (memcmp(left + (page << PAGE_SHIFT), right + (page << PAGE_SHIFT), PAGE_BYTES) != 0)
            fail_msg("page %llu changed without being in the dirty set", (unsigned long long)page);
    }
}

/* What B18 of the field's bugs lacked: pages that devices wrote behind KVM's back. */
static void expect_equal_memory(struct stage *stage, struct test_vm *a, struct test_vm *b)
{
    expect_same(stage, a, b);
    expect_same(stage, b, a);
}

/* In rounds, under load; the target gets disk and tap only when it runs, as in a real move. */
static void move(struct stage *stage)
{
    struct test_vm *there = new_vm(stage, false);
    struct dirty_tracker *tracker = NULL;
    struct fault fault = {0};
    uint8_t *bytes = NULL;
    size_t count = 0;
    if (vm_start(there->vm, &fault) < 0 || dirty_tracker_new(&tracker, stage->vm->vm, &fault) < 0)
        fail_msg("%s", fault.text);
    uint64_t pause_ns = 0;
    for (int round = 0; round < ROUNDS; round++) {
        if (round == ROUNDS - 1) {
            pause_ns = world_now_ns();
            vm_pause(stage->vm->vm);
        }
        bitmap_clear_all(&stage->dirty);
        assert_int_equal(dirty_tracker_collect(tracker, &stage->dirty, &fault), 0);
        clear_and_copy(there, stage->vm, tracker, &stage->dirty);
    }
    expect_equal_memory(stage, stage->vm, there);
    if (vm_save(stage->vm->vm, &bytes, &count, &fault) < 0 ||
        vm_load(there->vm, bytes, count, world_now_ns() - pause_ns, &fault) < 0 ||
        vm_resume(there->vm, &fault) < 0)
        fail_msg("moving: %s", fault.text);
    int tap = tap_echo_fd(stage->echo, 0);
    int disk = fcntl(stage->disk_fd, F_DUPFD_CLOEXEC, 0);
    if (vm_attach_disk(there->vm, 0, disk, &fault) < 0 ||
        vm_attach_nic(there->vm, 0, &tap, 1, &fault) < 0)
        fail_msg("attaching: %s", fault.text);
    tracker = dirty_tracker_free(tracker);
    free(bytes);
    (void)test_vm_free(stage->vm);
    stage->vm = there;
    stage->moves++;
}

static uint64_t ask_number(struct stage *stage, const char *command, const char *key)
{
    char line[CONSOLE_LINE_MAX], prefix[32];
    (void)snprintf(prefix, sizeof prefix, "gw %s ", command);
    test_vm_ask(stage->vm, command, prefix, line);
    return test_vm_number(line, key);
}

/* GODWIT_TEST_MOVES: so many instead, for a long night. */
static void moves_under_load(const char *ring, unsigned irq, unsigned moves)
{
    const char *wanted = getenv("GODWIT_TEST_MOVES");
    if (wanted)
        moves = (unsigned)strtoul(wanted, NULL, 10);
    unsigned read_back = moves > SHORT_MOVES ? READ_BACK_MOVES : 4;
    struct stage stage;
    uint64_t begun_ns = world_now_ns();
    stage_begin(&stage, ring, irq);
    test_vm_await(stage.vm, "disk", 500);
    test_vm_await(stage.vm, "nic", 500);
    expect_whole(&stage);
    for (unsigned i = 0; i < moves; i++) {
        move(&stage);
        test_vm_await(stage.vm, "disk", PROGRESS);
        test_vm_await(stage.vm, "nic", PROGRESS);
        expect_fine(&stage);
        if (i % read_back == read_back - 1)
            expect_whole(&stage);
    }
    expect_whole(&stage);
    (void)printf("  %s %s: %llu moves in %llu s; %llu blocks written, %llu read back and right; "
                 "%llu frames came back, each once and whole\n",
                 ring, irq ? "by interrupt" : "polled", (unsigned long long)stage.moves,
                 (unsigned long long)((world_now_ns() - begun_ns) / NS_PER_S),
                 (unsigned long long)ask_number(&stage, "disk", "written"),
                 (unsigned long long)stage.blocks_read, (unsigned long long)stage.frames_drained);
    assert_true(ask_number(&stage, "nic", "announces") >= 1);
    assert_true((ask_number(&stage, "nic", "interrupts") > 0) == (irq != 0));
    stage_end(&stage);
}

static void split_rings_by_interrupt_move_under_load(void **state)
{
    (void)state;
    moves_under_load("split", 1, MOVES);
}

static void packed_rings_polled_move_under_load(void **state)
{
    (void)state;
    moves_under_load("packed", 0, MOVES);
}

static void split_rings_with_events_move_under_load(void **state)
{
    (void)state;
    moves_under_load("split+event", 1, MOVES);
}

static void packed_rings_with_events_move_under_load(void **state)
{
    (void)state;
    moves_under_load("packed+event", 1, MOVES);
}

static void a_source_that_resumes_loses_nothing(void **state)
{
    (void)state;
    struct stage stage;
    stage_begin(&stage, "packed+event", 1);
    for (unsigned i = 0; i < 50; i++) {
        struct fault fault = {0};
        uint8_t *bytes = NULL;
        size_t count = 0;
        test_vm_await(stage.vm, "disk", 10);
        vm_pause(stage.vm->vm);
        assert_int_equal(vm_save(stage.vm->vm, &bytes, &count, &fault), 0);
        free(bytes);
        assert_int_equal(vm_resume(stage.vm->vm, &fault), 0);
    }
    test_vm_await(stage.vm, "nic", 100);
    expect_whole(&stage);
    stage_end(&stage);
}

static void a_guest_whose_devices_come_late_waits_for_them(void **state)
{
    (void)state;
    struct stage stage;
    char line[CONSOLE_LINE_MAX];
    struct fault fault = {0};
    stage_begin(&stage, "split", 1);
    struct test_vm *attached = stage.vm;
    stage.vm = new_vm(&stage, false);
    test_vm_boot_guest(stage.vm, "disk=8 nic=1 irq=1");
    test_vm_ask(stage.vm, "disk", "gw disk ", line);
    assert_int_equal(test_vm_number(line, "written"), 0);
    assert_true(test_vm_number(line, "busy") > 0);

    vm_pause(attached->vm);
    int tap = tap_echo_fd(stage.echo, 0);
    int disk = fcntl(stage.disk_fd, F_DUPFD_CLOEXEC, 0);
    assert_int_equal(vm_attach_disk(stage.vm->vm, 0, disk, &fault), 0);
    assert_int_equal(vm_attach_nic(stage.vm->vm, 0, &tap, 1, &fault), 0);

    test_vm_await(stage.vm, "disk", 200);
    test_vm_await(stage.vm, "nic", 200);
    attached = test_vm_free(attached);
    stage_end(&stage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_rings_by_interrupt_move_under_load),
        cmocka_unit_test(packed_rings_polled_move_under_load),
        cmocka_unit_test(split_rings_with_events_move_under_load),
        cmocka_unit_test(packed_rings_with_events_move_under_load),
        cmocka_unit_test(a_source_that_resumes_loses_nothing),
        cmocka_unit_test(a_guest_whose_devices_come_late_waits_for_them),
    };
    (void)close(test_vm_kvm());
    tap_echo_enter_namespace();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
