/* A disk that fails: what a flush lost stays lost, whatever the next one says; what else failed is
 * told, or waits until the guest is resumed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_blk.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/disk.h"
#include "tests/support/fake_disk.h"
#include "tests/support/virtio_machine.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

enum { RINGS = 0x100000, HEADER = 0x200000, STATUS = 0x201000, DATA = 0x300000, SLOT = 1 };

struct bench {
    struct virtio_machine *machine;
    struct virtio_driver driver;
    _Atomic unsigned waits; /* how often it was told */
};

static void note_wait(void *data, unsigned disk, const struct fault *fault)
{
    struct bench *bench = data;
    assert_int_equal(disk, 0);
    assert_int_equal(fault->code, ERR_IO);
    bench->waits++;
}

static void bench_begin_with(struct bench *bench, bool waits_on_error)
{
    const struct vm_disk_config config = {
        .fd = -1, .bytes = FAKE_DISK_BYTES, .queues = 1, .waits_on_error = waits_on_error};
    const struct vm_config vm = {
        .vcpus = 1, .disks = &config, .disk_count = 1, .on_disk_wait = note_wait, .data = bench};
    bench->waits = 0;
    struct disk *disk = NULL;
    struct fault fault = {0};
    bench->machine = virtio_machine_new(&vm);
    assert_int_equal(disk_new(&disk, -1, &(struct disk_config){0}, &fault), 0);
    assert_int_equal(
        virtio_blk_attach(virtio_bus_find(&bench->machine->virtio, &virtio_blk_kind, 0), disk,
                          &fault),
        0);
    virtio_machine_go(bench->machine);
    assert_true(virtio_driver_init(&bench->driver, bench->machine, SLOT,
                                   VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH), RINGS, 64));
}

static void bench_begin(struct bench *bench)
{
    bench_begin_with(bench, false);
}

/* The first sector; it is told of it later. */
static void offer(struct bench *bench, uint32_t type)
{
    uint8_t *base = guest_memory_base(bench->machine->memory);
    memset(base + HEADER, 0, 16);
    bytes_put_u32(base + HEADER, type);
    struct ring_buffer buffers[3] = {{.address = HEADER, .bytes = 16}};
    unsigned count = 1;
    if (type != VIRTIO_BLK_T_FLUSH)
        buffers[count++] = (struct ring_buffer){
            .address = DATA, .bytes = 512, .is_writable = type == VIRTIO_BLK_T_IN};
    buffers[count++] = (struct ring_buffer){.address = STATUS, .bytes = 1, .is_writable = true};
    (void)ring_driver_offer(&bench->driver.rings[0], buffers, count, false);
    base[STATUS] = 0xee;
    virtio_driver_kick(&bench->driver, 0);
}

static uint8_t await(struct bench *bench)
{
    virtio_machine_await(bench->machine, virtio_driver_vector(&bench->driver, 0), 1);
    uint16_t id;
    uint32_t bytes;
    assert_true(ring_driver_take(&bench->driver.rings[0], &id, &bytes));
    return guest_memory_base(bench->machine->memory)[STATUS];
}

static uint8_t run(struct bench *bench, uint32_t type)
{
    offer(bench, type);
    return await(bench);
}

static void a_lost_write_is_told_for_ever_and_does_not_move(void **state)
{
    (void)state;
    struct bench bench;
    struct fault fault = {0};
    AUTO_FREE struct machine_guest *guest = malloc(sizeof *guest);
    bench_begin(&bench);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT), VIRTIO_BLK_S_OK);

    fake_disk_fail_next = 1;
    assert_int_equal(run(&bench, VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_IOERR);

    assert_int_equal(run(&bench, VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_IOERR);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_IN), VIRTIO_BLK_S_OK);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT), VIRTIO_BLK_S_OK);
    virtio_machine_stop(bench.machine);
    assert_int_equal(virtio_machine_save(bench.machine, guest, &fault), ERR_IO);
    assert_non_null(strstr(fault.text, "disk 0: what the guest wrote may not be durable"));
    bench.machine = virtio_machine_free(bench.machine);
}

static void a_flush_of_ours_that_fails_is_told_to_the_guest(void **state)
{
    (void)state;
    struct bench bench;
    struct fault fault = {0};
    AUTO_FREE struct machine_guest *guest = malloc(sizeof *guest);
    bench_begin(&bench);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT), VIRTIO_BLK_S_OK);

    fake_disk_fail_next = 1;
    virtio_machine_stop(bench.machine); /* flushes */

    assert_int_equal(virtio_machine_save(bench.machine, guest, &fault), ERR_IO);
    virtio_machine_go(bench.machine);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_IOERR);
    bench.machine = virtio_machine_free(bench.machine);
}

/* Told so often: its request has failed so often, and waits. */
static void await_waits(struct bench *bench, unsigned count)
{
    while (bench->waits < count)
        ;
    assert_int_equal(bench->waits, count);
}

static struct virtio_device *disk_of(struct bench *bench)
{
    return virtio_bus_find(&bench->machine->virtio, &virtio_blk_kind, 0);
}

static void what_fails_waits_untold_and_is_tried_again_when_the_guest_is_resumed(void **state)
{
    (void)state;
    const uint32_t types[] = {VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_IN};
    for (unsigned i = 0; i < 2; i++) {
        struct bench bench;
        struct fault fault = {0};
        struct vm_disk_stats stats;
        AUTO_FREE struct machine_guest *guest = malloc(sizeof *guest);
        bench_begin_with(&bench, true);

        fake_disk_fail_next = 2;
        offer(&bench, types[i]);
        await_waits(&bench, 1);
        virtio_machine_stop(bench.machine);
        assert_true(virtio_blk_waits(disk_of(&bench)));
        assert_int_equal(virtio_machine_told(bench.machine, virtio_driver_vector(&bench.driver, 0)),
                         0);
        assert_int_equal(virtio_machine_save(bench.machine, guest, &fault), ERR_BUSY);
        assert_non_null(strstr(fault.text, "disk 0: requests of the guest wait"));

        virtio_machine_go(bench.machine); /* and fails once more */
        await_waits(&bench, 2);
        virtio_machine_stop(bench.machine);
        assert_true(virtio_blk_waits(disk_of(&bench)));
        virtio_blk_stats(disk_of(&bench), &stats);
        assert_int_equal(stats.errors, 2);

        virtio_machine_go(bench.machine);
        assert_int_equal(await(&bench), VIRTIO_BLK_S_OK);
        virtio_machine_stop(bench.machine);
        assert_false(virtio_blk_waits(disk_of(&bench)));
        fault = (struct fault){0};
        assert_int_equal(virtio_machine_save(bench.machine, guest, &fault), 0);
        bench.machine = virtio_machine_free(bench.machine);
    }
}

static void a_flush_that_fails_is_told_where_others_wait(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin_with(&bench, true);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT), VIRTIO_BLK_S_OK);

    fake_disk_fail_next = 1;
    assert_int_equal(run(&bench, VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_IOERR);

    assert_int_equal(bench.waits, 0);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_IOERR);
    bench.machine = virtio_machine_free(bench.machine);
}

static void a_driver_that_begins_anew_forgets_what_waits(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin_with(&bench, true);
    fake_disk_fail_next = 1;
    offer(&bench, VIRTIO_BLK_T_OUT);
    await_waits(&bench, 1); /* it runs, as while it is moved */

    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT,
                                   VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH), RINGS, 64));

    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT), VIRTIO_BLK_S_OK);
    virtio_machine_stop(bench.machine);
    assert_false(virtio_blk_waits(disk_of(&bench)));
    bench.machine = virtio_machine_free(bench.machine);
}

static void a_guest_that_ends_leaves_nothing_that_waits(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin_with(&bench, true);
    fake_disk_fail_next = 1;
    offer(&bench, VIRTIO_BLK_T_OUT);
    await_waits(&bench, 1);
    virtio_machine_stop(bench.machine);
    assert_true(virtio_blk_waits(disk_of(&bench)));

    bench.machine = virtio_machine_free(bench.machine); /* leaks are told by the sanitizer */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lost_write_is_told_for_ever_and_does_not_move),
        cmocka_unit_test(a_flush_of_ours_that_fails_is_told_to_the_guest),
        cmocka_unit_test(what_fails_waits_untold_and_is_tried_again_when_the_guest_is_resumed),
        cmocka_unit_test(a_flush_that_fails_is_told_where_others_wait),
        cmocka_unit_test(a_driver_that_begins_anew_forgets_what_waits),
        cmocka_unit_test(a_guest_that_ends_leaves_nothing_that_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
