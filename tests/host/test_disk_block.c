/* A block device as a disk: a loop device, by io_uring and by threads. */
#include <fcntl.h>
#include <linux/loop.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/own.h"
#include "storage/disk.h"

enum { DEVICE_BYTES = 4 << 20, TEST_EXIT_SKIP = 77 };

struct device {
    int control, backing, fd;
    int number;
};

/* False where there are no loop devices for us. */
static bool device_open(struct device *device)
{
    char path[64] = "/var/tmp/godwit-block-XXXXXX";
    *device = (struct device){.control = open("/dev/loop-control", O_RDWR | O_CLOEXEC),
                              .backing = mkostemp(path, O_CLOEXEC),
                              .fd = -1};
    assert_true(device->backing >= 0);
    (void)unlink(path);
    assert_int_equal(ftruncate(device->backing, DEVICE_BYTES), 0);
    device->number = device->control < 0 ? -1 : ioctl(device->control, LOOP_CTL_GET_FREE);
    if (device->number < 0)
        return false;
    (void)snprintf(path, sizeof path, "/dev/loop%d", device->number);
    device->fd = open(path, O_RDWR | O_CLOEXEC);
    return device->fd >= 0 && ioctl(device->fd, LOOP_SET_FD, device->backing) == 0;
}

static void device_close(struct device *device)
{
    if (device->fd >= 0)
        (void)ioctl(device->fd, LOOP_CLR_FD, 0); /* not ours: it says so */
    close_p(&device->fd);
    close_p(&device->backing);
    close_p(&device->control);
}

static void on_done(struct disk_request *request, int error)
{
    *(int *)request->data = error;
}

static int run(struct disk *disk, enum disk_op op, uint64_t offset, void *at, uint64_t bytes)
{
    int error = -1;
    struct iovec part = {.iov_base = at, .iov_len = (size_t)bytes};
    struct disk_request request = {.op = op,
                                   .offset = offset,
                                   .bytes = bytes,
                                   .parts = &part,
                                   .part_count = 1,
                                   .done = on_done,
                                   .data = &error};
    disk_submit(disk, &request);
    disk_kick(disk);
    while (error < 0) {
        struct pollfd wait = {.fd = disk_event_fd(disk), .events = POLLIN};
        assert_int_equal(poll(&wait, 1, -1), 1);
        disk_reap(disk);
    }
    return error;
}

static void a_block_device_is_a_disk(void **state)
{
    (void)state;
    AUTO_FREE uint8_t *out = aligned_alloc(4096, 1 << 20);
    AUTO_FREE uint8_t *in = aligned_alloc(4096, 1 << 20);
    static const uint8_t zeroes[64 << 10];
    for (unsigned way = 0; way < 4; way++) {
        const struct disk_config config = {.by_threads = way & 1, .cached = way & 2};
        struct device device;
        struct disk *disk = NULL;
        struct fault fault = {0};
        if (!device_open(&device)) {
            device_close(&device);
            (void)printf("skipped: no loop device here\n");
            exit(TEST_EXIT_SKIP);
        }
        if (disk_new(&disk, dup(device.fd), &config, &fault) < 0)
            fail_msg("%s", fault.text);
        assert_int_equal(disk_bytes(disk), DEVICE_BYTES);
        for (size_t i = 0; i < 1 << 20; i++)
            out[i] = (uint8_t)(i * 7 + way + 1);

        assert_int_equal(run(disk, DISK_WRITE, 512, out, 1 << 20), 0);
        assert_int_equal(run(disk, DISK_FLUSH, 0, NULL, 0), 0);
        assert_int_equal(run(disk, DISK_READ, 512, in, 1 << 20), 0);
        assert_memory_equal(in, out, 1 << 20);
        assert_int_equal(run(disk, DISK_WRITE_ZEROES, 64 << 10, NULL, 64 << 10), 0);
        assert_int_equal(run(disk, DISK_READ, 64 << 10, in, 64 << 10), 0);
        assert_memory_equal(in, zeroes, 64 << 10);
        assert_int_equal(run(disk, DISK_DISCARD, 256 << 10, NULL, 64 << 10), 0);
        assert_int_equal(run(disk, DISK_READ, 320 << 10, in, 4096), 0);
        assert_memory_equal(in, out + (320 << 10) - 512, 4096); /* its neighbours stay */

        disk = disk_free(disk);
        device_close(&device);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_block_device_is_a_disk)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
