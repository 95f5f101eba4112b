/* A guest that attacks its devices natively (tests/guest/hostile.h) while it moves again and again:
 * nothing but the guest itself may break. What holds at every move, whatever it does: the dirty set
 * names all that changed, its state is saved and loaded, and saves again as the same bytes. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
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
    MEMORY_MIB = 48,
    DISK_MIB = 4,
    ROUNDS = 3,
    MOVES = 12,
    GUESTS_MAX = 40, /* that may break themselves in a case */
    ATTACKS_BETWEEN_MOVES = 400,
    SILENCE_S = 10, /* until a guest that says nothing counts as broken */
};

struct stage {
    bool more; /* balloon and vsock: what they are goes beyond what a test as simple can compare */
    int disk_fd;
    struct tap_echo *echo;
    struct test_vm *vm;
    struct bitmap dirty;
    uint64_t seed, moves, broken, late, attacks;
    uint64_t disk_requests, frames; /* that devices took from what they found */
};

static int listener(void)
{
    const struct sockaddr_un at = {.sun_family = AF_UNIX}; /* the kernel finds it a name */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&at, sizeof at.sun_family), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static void attach(const struct stage *stage, struct test_vm *vm)
{
    struct fault fault = {0};
    int tap = tap_echo_fd(stage->echo, 0);
    int disk = fcntl(stage->disk_fd, F_DUPFD_CLOEXEC, 0);
    if (vm_attach_disk(vm->vm, 0, disk, &fault) < 0 ||
        vm_attach_nic(vm->vm, 0, &tap, 1, &fault) < 0 ||
        (stage->more && vm_attach_vsock(vm->vm, listener(), &fault) < 0))
        fail_msg("attaching: %s", fault.text);
}

static struct test_vm *new_vm(const struct stage *stage)
{
    const struct vm_disk_config disk = {
        .fd = -1, .bytes = MIB(DISK_MIB), .queues = 2, .serial = "hostile"};
    const struct vm_nic_config nic = {
        .fds = {-1}, .queue_pairs = 1, .mac = {0x52, 0x54, 0, 0x67, 0x77, 2}, .mtu = 1500};
    const struct vm_config config = {
        .vcpus = 2,
        .memory_bytes = MIB(MEMORY_MIB),
        .rng = true,
        .balloon = stage->more,
        .vsock_cid = stage->more ? 3 : 0,
        .disks = &disk,
        .disk_count = 1,
        .nics = &nic,
        .nic_count = 1,
    };
    return test_vm_new_with(&config);
}

/* Ask for the number of attacks; false when the guest says nothing any more, or with two mouths.
 * The serial port is what it spares. */
static bool ask_attacks(struct test_vm *vm, uint64_t *ret_attacks)
{
    static const char command[] = "hostile\n";
    char line[CONSOLE_LINE_MAX];
    size_t said = 0;
    uint64_t give_up_ns = world_now_ns() + SILENCE_S * NS_PER_S;
    while (said < sizeof command - 1 && world_now_ns() < give_up_ns)
        said += vm_serial_input(vm->vm, (const uint8_t *)command + said, sizeof command - 1 - said);
    if (!test_vm_hear(vm, "gw hostile ", SILENCE_S, line) || !strstr(line, " attacks="))
        return false;
    *ret_attacks = test_vm_number(line, "attacks");
    return true;
}

static bool attacks_go_on(struct stage *stage)
{
    uint64_t first, now;
    if (!ask_attacks(stage->vm, &first))
        return false;
    uint64_t give_up_ns = world_now_ns() + SILENCE_S * NS_PER_S;
    for (now = first; now < first + ATTACKS_BETWEEN_MOVES;) {
        if (world_now_ns() > give_up_ns || !ask_attacks(stage->vm, &now))
            return false;
    }
    stage->attacks += now - first;
    return true;
}

static struct test_vm *free_and_count(struct stage *stage, struct test_vm *vm)
{
    struct vm_disk_stats disk;
    struct vm_nic_stats nic;
    vm_disk_stats(vm->vm, 0, &disk);
    vm_nic_stats(vm->vm, 0, &nic);
    stage->disk_requests += disk.reads + disk.writes + disk.flushes + disk.refused + disk.errors;
    stage->frames += nic.sent_frames + nic.send_drops;
    return test_vm_free(vm);
}

static void boot(struct stage *stage)
{
    char command[64], line[CONSOLE_LINE_MAX];
    stage->vm = new_vm(stage);
    attach(stage, stage->vm);
    test_vm_boot_guest(stage->vm, "vcpus=2 writers=1 ws=4 rate=20 poll_us=200");
    (void)snprintf(command, sizeof command, "hostile %llu", (unsigned long long)++stage->seed);
    test_vm_ask(stage->vm, command, "gw ok", line);
}

static void stage_begin(struct stage *stage, bool more)
{
    const char *seed = getenv("GODWIT_TEST_SEED");
    *stage = (struct stage){.more = more, .seed = seed ? strtoull(seed, NULL, 10) : 100};
    stage->disk_fd = memfd_create("disk", MFD_CLOEXEC);
    assert_int_equal(ftruncate(stage->disk_fd, (off_t)MIB(DISK_MIB)), 0);
    stage->echo = tap_echo_new("hostile0", 1, true);
    assert_int_equal(bitmap_init(&stage->dirty, MIB(MEMORY_MIB) >> PAGE_SHIFT), 0);
    boot(stage);
}

static void stage_end(struct stage *stage)
{
    stage->vm = free_and_count(stage, stage->vm);
    (void)printf("  %llu moves under %llu attacks; %llu requests of the disk, %llu frames; "
                 "%llu guests broke themselves, %llu moves given up for requests under way\n",
                 (unsigned long long)stage->moves, (unsigned long long)stage->attacks,
                 (unsigned long long)stage->disk_requests, (unsigned long long)stage->frames,
                 (unsigned long long)stage->broken, (unsigned long long)stage->late);
    assert_true(stage->disk_requests + stage->frames > 0); /* attacks came through */
    stage->echo = tap_echo_free(stage->echo);
    bitmap_deinit(&stage->dirty);
    (void)close(stage->disk_fd);
}

static void copy_round(struct stage *stage, struct test_vm *there, struct dirty_tracker *tracker)
{
    struct fault fault = {0};
    bitmap_clear_all(&stage->dirty);
    assert_int_equal(dirty_tracker_collect(tracker, &stage->dirty, &fault), 0);
    for (size_t i = 0; i < bitmap_words(&stage->dirty); i += 8)
        assert_int_equal(dirty_tracker_clear(tracker, i * 64, &stage->dirty.words[i], &fault), 0);
    test_vm_copy(there, stage->vm, &stage->dirty);
}

static void expect_equal_memory(struct test_vm *a, struct test_vm *b)
{
    const uint8_t *left = guest_memory_base(vm_memory(a->vm));
    const uint8_t *right = guest_memory_base(vm_memory(b->vm));
    for (uint64_t page = 0; page < MIB(MEMORY_MIB) >> PAGE_SHIFT; page++) {
        if (memcmp(left + (page << PAGE_SHIFT), right + (page << PAGE_SHIFT), PAGE_BYTES) != 0)
            fail_msg("page %llu changed without being in the dirty set", (unsigned long long)page);
    }
}

static bool has_ended(struct test_vm *vm)
{
    (void)pthread_mutex_lock(&vm->lock);
    bool ended = vm->event >= 0;
    (void)pthread_mutex_unlock(&vm->lock);
    return ended;
}

/* The state goes over, and is the same there. False: not this time, the guest is where it was. */
static bool hand_over(struct stage *stage, struct test_vm *there, uint64_t pause_ns)
{
    struct fault fault = {0};
    uint8_t *bytes = NULL, *again = NULL;
    size_t count = 0, again_count = 0;
    int r = vm_save(stage->vm->vm, &bytes, &count, &fault);
    if (r < 0) { /* it ended itself, or a request of its does not end: named, and no harm done */
        assert_true(has_ended(stage->vm) || r == ERR_TIMEOUT);
        stage->late += !has_ended(stage->vm);
        return false;
    }
    if (vm_load(there->vm, bytes, count, world_now_ns() - pause_ns, &fault) < 0)
        fail_msg("what was saved does not load: %s", fault.text);
    if (vm_save(there->vm, &again, &again_count, &fault) < 0)
        fail_msg("what was loaded does not save: %s", fault.text);
    assert_int_equal(again_count, count);
    if (!stage->more) /* a vsock that has moved owes its guest a reset */
        assert_memory_equal(again, bytes, count);
    free(bytes);
    free(again);
    return true;
}

static void move(struct stage *stage)
{
    struct test_vm *there = new_vm(stage);
    struct dirty_tracker *tracker = NULL;
    struct fault fault = {0};
    if (vm_start(there->vm, &fault) < 0 || dirty_tracker_new(&tracker, stage->vm->vm, &fault) < 0)
        fail_msg("%s", fault.text);
    for (int round = 0; round < ROUNDS - 1; round++)
        copy_round(stage, there, tracker);
    uint64_t pause_ns = world_now_ns();
    vm_pause(stage->vm->vm);
    copy_round(stage, there, tracker);
    if (!stage->more) /* a balloon gives pages back */
        expect_equal_memory(stage->vm, there);
    bool moved = hand_over(stage, there, pause_ns);
    tracker = dirty_tracker_free(tracker);
    struct test_vm *on = moved ? there : stage->vm, *off = moved ? stage->vm : there;
    if (vm_resume(on->vm, &fault) < 0 && !has_ended(on))
        fail_msg("going on: %s", fault.text);
    if (moved)
        attach(stage, on);
    (void)free_and_count(stage, off);
    stage->vm = on;
    stage->moves += moved;
}

static void tell_last_words(const struct stage *stage)
{
    const struct test_vm *vm = stage->vm;
    size_t count = vm->used > 300 ? 300 : vm->used;
    (void)printf("  seed %llu after %llu moves: event %d %s, last words: %.*s\n",
                 (unsigned long long)stage->seed, (unsigned long long)stage->moves, vm->event,
                 vm->event_fault.text, (int)count, vm->text + vm->used - count);
}

/* GODWIT_TEST_MOVES: so many instead, for a long night; GODWIT_TEST_SEED: other attacks;
 * GODWIT_TEST_VERBOSE: how guests ended. */
static void moves_under_attack(bool more)
{
    const char *wanted = getenv("GODWIT_TEST_MOVES");
    uint64_t moves = wanted ? strtoull(wanted, NULL, 10) : MOVES;
    struct stage stage;
    stage_begin(&stage, more);
    while (stage.moves < moves) {
        if (!attacks_go_on(&stage)) { /* its own grave */
            if (getenv("GODWIT_TEST_VERBOSE"))
                tell_last_words(&stage);
            assert_true(++stage.broken <= GUESTS_MAX + moves);
            stage.vm = free_and_count(&stage, stage.vm);
            boot(&stage);
            continue;
        }
        move(&stage);
    }
    assert_true(stage.attacks >= moves * ATTACKS_BETWEEN_MOVES);
    stage_end(&stage);
}

static void a_guest_that_attacks_its_devices_moves_whole(void **state)
{
    (void)state;
    moves_under_attack(false);
}

static void a_guest_that_attacks_balloon_and_vsock_too_breaks_nothing_else(void **state)
{
    (void)state;
    /* A good guest beside it in the same process sees nothing of all this. */
    struct test_vm *neighbour = test_vm_boot(1, MEMORY_MIB, "writers=1 ws=4 rate=20");
    char line[CONSOLE_LINE_MAX];

    moves_under_attack(true);

    test_vm_ask(neighbour, "verify all", "gw verify", line);
    if (strncmp(line, "gw verify ok ", 13) != 0)
        fail_msg("the neighbour: %s", line);
    neighbour = test_vm_free(neighbour);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_guest_that_attacks_its_devices_moves_whole),
        cmocka_unit_test(a_guest_that_attacks_balloon_and_vsock_too_breaks_nothing_else),
    };
    (void)close(test_vm_kvm());
    tap_echo_enter_namespace();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
