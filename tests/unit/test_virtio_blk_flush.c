/* A disk whose flush fails: what was lost stays lost, whatever the next flush says. */
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
};

static void bench_begin(struct bench *bench)
{
    const struct vm_disk_config config = {.fd = -1, .bytes = FAKE_DISK_BYTES, .queues = 1};
    const struct vm_config vm = {.vcpus = 1, .disks = &config, .disk_count = 1};
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

static uint8_t run(struct bench *bench, uint32_t type)
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
    virtio_driver_kick(&bench->driver, 0);
    virtio_machine_await(bench->machine, virtio_driver_vector(&bench->driver, 0), 1);
    uint16_t id;
    uint32_t bytes;
    assert_true(ring_driver_take(&bench->driver.rings[0], &id, &bytes));
    return base[STATUS];
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lost_write_is_told_for_ever_and_does_not_move),
        cmocka_unit_test(a_flush_of_ours_that_fails_is_told_to_the_guest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
