/* Disks as a driver sees them, over both ring formats; every chain goes the whole way: guest
 * memory, doorbell, I/O thread, storage, interrupt. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/virtio_blk.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/disk.h"
#include "tests/support/virtio_machine.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

enum {
    DISK_BYTES = 4 << 20,
    RINGS = 0x100000,
    HEADERS = 0x200000, /* 16 bytes each */
    STATUSES = 0x210000,
    DATA = 0x400000,
    SLOT = 1,
};

#define FLUSH VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH)

static const uint64_t formats[] = {
    0,
    VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX) | VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC),
    VIRTIO_FEATURE(VIRTIO_F_RING_PACKED),
    VIRTIO_FEATURE(VIRTIO_F_RING_PACKED) | VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX) |
        VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC),
};

struct bench {
    struct virtio_machine *machine;
    struct virtio_driver driver;
    int fd; /* the disk, from outside */
    uint64_t format;
    uint16_t next; /* header and status in turn */
};

static int make_file(void)
{
    int fd = memfd_create("disk", MFD_CLOEXEC); /* flushes take no time; test_disk has real ones */
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
    return fd;
}

static int open_again(int fd)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR | O_CLOEXEC);
    assert_true(again >= 0);
    return again;
}

static void attach(struct virtio_machine *machine, int fd, bool read_only)
{
    struct fault fault = {0};
    struct disk *disk = NULL;
    const struct disk_config config = {.read_only = read_only};
    assert_int_equal(disk_new(&disk, open_again(fd), &config, &fault), 0);
    (void)pthread_mutex_lock(&machine->lock);
    int r = virtio_blk_attach(virtio_bus_find(&machine->virtio, &virtio_blk_kind, 0), disk, &fault);
    (void)pthread_mutex_unlock(&machine->lock);
    if (r < 0)
        fail_msg("%s", fault.text);
}

static struct virtio_machine *make_machine(bool read_only)
{
    const struct vm_disk_config disk = {.fd = -1,
                                        .bytes = DISK_BYTES,
                                        .read_only = read_only,
                                        .queues = 2,
                                        .serial = "serial-0123456789abc"};
    const struct vm_config config = {.vcpus = 2, .disks = &disk, .disk_count = 1};
    return virtio_machine_new(&config);
}

static void bench_begin(struct bench *bench, uint64_t features, bool read_only)
{
    *bench = (struct bench){.machine = make_machine(read_only), .fd = make_file()};
    attach(bench->machine, bench->fd, read_only);
    virtio_machine_go(bench->machine);
    assert_true(virtio_driver_init(&bench->driver, bench->machine, SLOT, features, RINGS, 64));
    bench->format = features;
}

static void bench_end(struct bench *bench)
{
    bench->machine = virtio_machine_free(bench->machine);
    close_p(&bench->fd);
}

static uint8_t *at(struct bench *bench, uint64_t address)
{
    return guest_memory_base(bench->machine->memory) + address;
}

/* Offer a request; data may be of two parts. Returns where its status will be. */
static uint8_t *offer(struct bench *bench, unsigned queue, uint32_t type, uint64_t sector,
                      struct ring_buffer data, struct ring_buffer more)
{
    unsigned turn = bench->next++ % 256;
    uint8_t *header = at(bench, HEADERS + turn * 16);
    bytes_put_u32(header, type);
    bytes_put_u32(header + 4, 0);
    bytes_put_u64(header + 8, sector);
    uint8_t *status = at(bench, STATUSES + turn);
    *status = 0xee;
    struct ring_buffer buffers[4] = {{.address = HEADERS + turn * 16, .bytes = 16}};
    unsigned count = 1;
    if (data.bytes)
        buffers[count++] = data;
    if (more.bytes)
        buffers[count++] = more;
    buffers[count++] =
        (struct ring_buffer){.address = STATUSES + turn, .bytes = 1, .is_writable = true};
    (void)ring_driver_offer(&bench->driver.rings[queue], buffers, count,
                            bench->format & VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC));
    return status;
}

static void take_used(struct bench *bench, unsigned queue, unsigned count)
{
    uint16_t id;
    uint32_t bytes;
    while (count) {
        if (ring_driver_take(&bench->driver.rings[queue], &id, &bytes)) {
            count--;
            continue;
        }
        ring_driver_want_interrupt(&bench->driver.rings[queue], true);
        if (ring_driver_take(&bench->driver.rings[queue], &id, &bytes))
            count--;
        else
            virtio_machine_await(bench->machine, virtio_driver_vector(&bench->driver, queue), 1);
    }
}

static uint8_t run(struct bench *bench, uint32_t type, uint64_t sector, struct ring_buffer data)
{
    const struct ring_buffer none = {0};
    uint8_t *status = offer(bench, 0, type, sector, data, none);
    virtio_driver_kick(&bench->driver, 0);
    take_used(bench, 0, 1);
    return *status;
}

static struct ring_buffer out(uint64_t address, uint32_t bytes)
{
    return (struct ring_buffer){.address = address, .bytes = bytes};
}

static struct ring_buffer in(uint64_t address, uint32_t bytes)
{
    return (struct ring_buffer){.address = address, .bytes = bytes, .is_writable = true};
}

static void pattern(uint8_t *bytes, size_t count, unsigned seed)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(seed + i * 13 + i / 251);
}

static void a_guest_reads_what_it_wrote_and_so_does_the_file(void **state)
{
    (void)state;
    static uint8_t seen[64 << 10];
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        bench_begin(&bench, formats[i] | FLUSH, false);
        pattern(at(&bench, DATA), 64 << 10, (unsigned)i);

        assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT, 7, out(DATA, 64 << 10)), VIRTIO_BLK_S_OK);
        assert_int_equal(run(&bench, VIRTIO_BLK_T_FLUSH, 0, out(0, 0)), VIRTIO_BLK_S_OK);
        assert_int_equal(run(&bench, VIRTIO_BLK_T_IN, 7, in(DATA + (64 << 10), 64 << 10)),
                         VIRTIO_BLK_S_OK);

        assert_memory_equal(at(&bench, DATA), at(&bench, DATA + (64 << 10)), 64 << 10);
        assert_int_equal(pread(bench.fd, seen, sizeof seen, 7 * 512), sizeof seen);
        assert_memory_equal(seen, at(&bench, DATA), sizeof seen);
        bench_end(&bench);
    }
}

static void both_queues_carry_many_requests_at_once(void **state)
{
    (void)state;
    const struct ring_buffer none = {0};
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        bench_begin(&bench, formats[i] | FLUSH, false);
        pattern(at(&bench, DATA), 1 << 20, (unsigned)i);
        uint8_t *statuses[2][12];
        for (unsigned turn = 0; turn < 20; turn++) {
            for (unsigned k = 0; k < 24; k++)
                statuses[k % 2][k / 2] =
                    offer(&bench, k % 2, VIRTIO_BLK_T_OUT, k * 8, out(DATA + k * 4096, 1024),
                          out(DATA + k * 8192, 3072));
            virtio_driver_kick(&bench.driver, 0);
            virtio_driver_kick(&bench.driver, 1);
            take_used(&bench, 0, 12);
            take_used(&bench, 1, 12);
            for (unsigned k = 0; k < 24; k++)
                assert_int_equal(*statuses[k % 2][k / 2], VIRTIO_BLK_S_OK);
        }
        (void)none;
        uint8_t seen[4096];
        assert_int_equal(pread(bench.fd, seen, sizeof seen, 23 * 4096), sizeof seen);
        assert_memory_equal(seen, at(&bench, DATA + 23 * 4096), 1024);
        assert_memory_equal(seen + 1024, at(&bench, DATA + 23 * 8192), 3072);
        bench_end(&bench);
    }
}

static void what_a_disk_wrote_into_memory_is_marked(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        bench_begin(&bench, formats[i] | FLUSH, false);
        struct bitmap dirty;
        assert_int_equal(bitmap_init(&dirty, guest_memory_pages(bench.machine->memory)), 0);
        guest_memory_take_written(bench.machine->memory, &dirty);
        bitmap_clear_all(&dirty);

        assert_int_equal(run(&bench, VIRTIO_BLK_T_IN, 0, in(DATA + 4096, 8192)), VIRTIO_BLK_S_OK);

        guest_memory_take_written(bench.machine->memory, &dirty);
        assert_true(bitmap_test(&dirty, (DATA >> 12) + 1));
        assert_true(bitmap_test(&dirty, (DATA >> 12) + 2));
        assert_true(bitmap_test(&dirty, STATUSES >> 12));
        assert_false(bitmap_test(&dirty, DATA >> 12));
        assert_false(bitmap_test(&dirty, HEADERS >> 12));
        bitmap_deinit(&dirty);
        bench_end(&bench);
    }
}

static void discard_and_zeroes_empty_a_range(void **state)
{
    (void)state;
    static const uint8_t zeroes[4096];
    uint8_t seen[4096];
    struct bench bench;
    bench_begin(&bench, FLUSH, false);
    pattern(at(&bench, DATA), 64 << 10, 3);
    uint8_t *segment = at(&bench, DATA + 0x20000);
    bytes_put_u64(segment, 8);
    bytes_put_u32(segment + 8, 8);
    for (unsigned kind = 0; kind < 3; kind++) {
        assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT, 0, out(DATA, 64 << 10)), VIRTIO_BLK_S_OK);
        bytes_put_u32(segment + 12, kind == 2);

        uint8_t status = run(&bench, kind ? VIRTIO_BLK_T_WRITE_ZEROES : VIRTIO_BLK_T_DISCARD, 0,
                             out(DATA + 0x20000, 16));

        assert_int_equal(status, VIRTIO_BLK_S_OK);
        assert_int_equal(pread(bench.fd, seen, sizeof seen, 4096), sizeof seen);
        assert_memory_equal(seen, zeroes, sizeof seen);
        assert_int_equal(pread(bench.fd, seen, sizeof seen, 8192), sizeof seen);
        assert_memory_equal(seen, at(&bench, DATA + 8192), sizeof seen);
    }
    bytes_put_u32(segment + 12, 1);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_DISCARD, 0, out(DATA + 0x20000, 16)),
                     VIRTIO_BLK_S_UNSUPP);
    bench_end(&bench);
}

static void tells_its_serial_and_its_size(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, FLUSH, false);

    assert_int_equal(run(&bench, VIRTIO_BLK_T_GET_ID, 0, in(DATA, 20)), VIRTIO_BLK_S_OK);

    assert_memory_equal(at(&bench, DATA), "serial-0123456789abc", 20);
    uint64_t config = bench.driver.bar + 0x2000;
    assert_int_equal(virtio_machine_read(bench.machine, config, 8), DISK_BYTES / 512);
    assert_int_equal(virtio_machine_read(bench.machine, config + 20, 4), 512);
    assert_int_equal(virtio_machine_read(bench.machine, config + 34, 2), 2);
    assert_int_equal(virtio_machine_read(bench.machine, config + 60, 4), 0); /* behind its end */
    bench_end(&bench);
}

static void requests_that_the_disk_cannot_have_are_refused(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, FLUSH, false);
    const uint64_t end = DISK_BYTES / 512;
    uint8_t *segment = at(&bench, DATA + 0x20000);
    memset(segment, 0, 16);

    assert_int_equal(run(&bench, VIRTIO_BLK_T_IN, end, in(DATA, 512)), VIRTIO_BLK_S_IOERR);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_IN, end - 1, in(DATA, 1024)), VIRTIO_BLK_S_IOERR);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT, UINT64_MAX, out(DATA, 512)), VIRTIO_BLK_S_IOERR);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT, UINT64_MAX / 512 + 1, out(DATA, 512)),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_IN, 0, in(DATA, 511)), VIRTIO_BLK_S_IOERR);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT, 0, out(0, 0)), VIRTIO_BLK_S_IOERR);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_DISCARD, 0, out(DATA + 0x20000, 16)),
                     VIRTIO_BLK_S_IOERR); /* no sectors */
    bytes_put_u64(segment, end);
    bytes_put_u32(segment + 8, 1);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_WRITE_ZEROES, 0, out(DATA + 0x20000, 16)),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_DISCARD, 0, out(DATA + 0x20000, 32)),
                     VIRTIO_BLK_S_IOERR); /* two segments */
    assert_int_equal(run(&bench, 77, 0, in(DATA, 512)), VIRTIO_BLK_S_UNSUPP);

    struct vm_disk_stats stats;
    virtio_blk_stats(virtio_bus_find(&bench.machine->virtio, &virtio_blk_kind, 0), &stats);
    assert_int_equal(stats.refused, 10);
    assert_int_equal(stats.reads + stats.writes + stats.errors, 0);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_IN, end - 1, in(DATA, 512)), VIRTIO_BLK_S_OK);
    bench_end(&bench);
}

static void a_read_only_disk_takes_no_writes(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, FLUSH, true);

    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT, 0, out(DATA, 512)), VIRTIO_BLK_S_IOERR);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_WRITE_ZEROES, 0, out(DATA, 16)), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_IN, 0, in(DATA, 512)), VIRTIO_BLK_S_OK);
    bench_end(&bench);
}

static void an_error_below_is_told_and_counted(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, FLUSH, false);
    assert_int_equal(ftruncate(bench.fd, 4096), 0);

    assert_int_equal(run(&bench, VIRTIO_BLK_T_IN, 64, in(DATA, 4096)), VIRTIO_BLK_S_IOERR);

    struct vm_disk_stats stats;
    virtio_machine_stop(bench.machine);
    virtio_blk_stats(virtio_bus_find(&bench.machine->virtio, &virtio_blk_kind, 0), &stats);
    assert_int_equal(stats.errors, 1);
    assert_int_equal(stats.last_errno, EIO);
    bench_end(&bench);
}

static void a_request_without_a_header_asks_for_a_reset_and_no_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        bench_begin(&bench, formats[i] | FLUSH, false);
        const struct ring_buffer short_header[] = {out(HEADERS, 15), in(STATUSES, 1)};
        const struct ring_buffer no_status[] = {out(HEADERS, 16)};
        (void)ring_driver_offer(&bench.driver.rings[0], i % 2 ? short_header : no_status,
                                i % 2 ? 2 : 1, false);

        virtio_driver_kick(&bench.driver, 0);

        while (!(virtio_driver_status(&bench.driver) & VIRTIO_STATUS_NEEDS_RESET))
            ;
        assert_true(
            virtio_driver_init(&bench.driver, bench.machine, SLOT, bench.format, RINGS, 64));
        pattern(at(&bench, DATA), 512, 9);
        assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT, 0, out(DATA, 512)), VIRTIO_BLK_S_OK);
        bench_end(&bench);
    }
}

/* Restarted over and over with requests in flight: memory is the driver's again once the status is
 * zero, so nothing may be written to it afterwards. */
static void a_reset_waits_for_what_is_in_flight(void **state)
{
    (void)state;
    const struct ring_buffer none = {0};
    struct bench bench;
    bench_begin(&bench, FLUSH, false);
    for (unsigned turn = 0; turn < 200; turn++) {
        for (unsigned k = 0; k < 16; k++)
            (void)offer(&bench, 0, VIRTIO_BLK_T_IN, k * 64, in(DATA + k * 32768, 32768), none);
        virtio_driver_kick(&bench.driver, 0);
        assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT,
                                       formats[turn % 4] | FLUSH, RINGS, 64));
        bench.format = formats[turn % 4];
        memset(at(&bench, DATA), 0x5a, 16 * 32768);
        assert_int_equal(run(&bench, VIRTIO_BLK_T_FLUSH, 0, none), VIRTIO_BLK_S_OK);
        for (size_t b = 0; b < 16 * 32768; b += 509)
            assert_int_equal(at(&bench, DATA)[b], 0x5a);
        (void)virtio_machine_told(bench.machine, virtio_driver_vector(&bench.driver, 0));
    }
    bench_end(&bench);
}

static void without_a_backend_requests_wait(void **state)
{
    (void)state;
    const struct ring_buffer none = {0};
    struct bench bench = {.machine = make_machine(false), .fd = make_file(), .format = FLUSH};
    virtio_machine_go(bench.machine);
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, FLUSH, RINGS, 64));
    pattern(at(&bench, DATA), 4096, 5);
    uint8_t *status = offer(&bench, 0, VIRTIO_BLK_T_OUT, 0, out(DATA, 4096), none);
    virtio_driver_kick(&bench.driver, 0);
    virtio_machine_stop(bench.machine); /* whatever was to be done is done */
    assert_int_equal(*status, 0xee);
    virtio_machine_go(bench.machine);

    attach(bench.machine, bench.fd, false);

    take_used(&bench, 0, 1);
    assert_int_equal(*status, VIRTIO_BLK_S_OK);
    bench_end(&bench);
}

static void a_backend_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct bench bench = {.machine = make_machine(false), .fd = make_file()};
    struct virtio_device *device = virtio_bus_find(&bench.machine->virtio, &virtio_blk_kind, 0);
    assert_int_equal(ftruncate(bench.fd, DISK_BYTES - 512), 0);
    struct disk *disk = NULL;
    assert_int_equal(disk_new(&disk, open_again(bench.fd), &(struct disk_config){0}, &fault), 0);

    assert_int_equal(virtio_blk_attach(device, disk, &fault), ERR_INVALID);

    assert_string_equal(fault.text, "disk 0: the guest sees 8192 sectors, there are 8191");
    disk = disk_free(disk);
    assert_int_equal(ftruncate(bench.fd, DISK_BYTES), 0);
    attach(bench.machine, bench.fd, false);
    assert_int_equal(disk_new(&disk, open_again(bench.fd), &(struct disk_config){0}, &fault), 0);
    assert_int_equal(virtio_blk_attach(device, disk, &fault), ERR_STATE);
    disk = disk_free(disk);
    bench_end(&bench);
}

static void a_write_is_durable_before_a_pause_ends(void **state)
{
    (void)state;
    struct bench bench;
    AUTO_FREE struct machine_guest *guest = malloc(sizeof *guest);
    struct fault fault = {0};
    struct vm_disk_stats stats;
    bench_begin(&bench, FLUSH, false);
    struct virtio_device *device = virtio_bus_find(&bench.machine->virtio, &virtio_blk_kind, 0);
    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT, 0, out(DATA, 4096)), VIRTIO_BLK_S_OK);

    virtio_machine_stop(bench.machine);

    virtio_blk_stats(device, &stats);
    assert_int_equal(stats.flushes, 1);
    assert_int_equal(virtio_machine_save(bench.machine, guest, &fault), 0);
    virtio_machine_go(bench.machine);
    virtio_machine_stop(bench.machine);
    virtio_blk_stats(device, &stats);
    assert_int_equal(stats.flushes, 1); /* nothing new, nothing to flush */
    bench_end(&bench);
}

static void a_driver_without_flush_is_told_when_it_is_durable(void **state)
{
    (void)state;
    struct bench bench;
    struct vm_disk_stats stats;
    bench_begin(&bench, 0, false);

    assert_int_equal(run(&bench, VIRTIO_BLK_T_OUT, 0, out(DATA, 4096)), VIRTIO_BLK_S_OK);

    virtio_machine_stop(bench.machine);
    virtio_blk_stats(virtio_bus_find(&bench.machine->virtio, &virtio_blk_kind, 0), &stats);
    assert_int_equal(stats.writes, 1);
    assert_int_equal(stats.flushes, 1);
    bench_end(&bench);
}

/* From machine to machine, the memory carried over, with requests on the way at every stop. */
static void a_disk_moves_under_load(void **state)
{
    (void)state;
    enum { MOVES = 25, HELD = 24 };
    const struct ring_buffer none = {0};
    AUTO_FREE struct machine_guest *guest = malloc(sizeof *guest);
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct fault fault = {0};
        struct bench bench;
        uint8_t *statuses[HELD];
        bench_begin(&bench, formats[i] | FLUSH, false);
        for (unsigned move = 0; move < MOVES; move++) {
            for (unsigned k = 0; k < HELD; k++) {
                uint64_t to = DATA + k * 4096;
                pattern(at(&bench, to), 4096, move * 31 + k);
                statuses[k] = offer(&bench, k % 2, VIRTIO_BLK_T_OUT, k * 8, out(to, 4096), none);
                if (k == move % HELD)
                    virtio_driver_kick(&bench.driver, 0);
            }
            virtio_driver_kick(&bench.driver, 1); /* queue 0 was told of some at most */

            virtio_machine_stop(bench.machine);
            if (virtio_machine_save(bench.machine, guest, &fault) < 0)
                fail_msg("%s", fault.text);
            struct virtio_machine *target = make_machine(false);
            if (virtio_machine_load(target, guest, &fault) < 0)
                fail_msg("%s", fault.text);
            memcpy(guest_memory_base(target->memory), guest_memory_base(bench.machine->memory),
                   MIB(16));
            for (unsigned k = 0; k < HELD; k++)
                statuses[k] = guest_memory_base(target->memory) + (statuses[k] - at(&bench, 0));
            for (unsigned q = 0; q < 2; q++)
                bench.driver.rings[q].memory = target->memory;
            (void)virtio_machine_free(bench.machine);
            bench.machine = bench.driver.machine = target;
            virtio_machine_go(target);
            attach(target, bench.fd, false);

            take_used(&bench, 0, HELD / 2);
            take_used(&bench, 1, HELD / 2);
            for (unsigned k = 0; k < HELD; k++)
                assert_int_equal(*statuses[k], VIRTIO_BLK_S_OK);
            uint8_t seen[4096];
            unsigned k = move % HELD;
            assert_int_equal(pread(bench.fd, seen, sizeof seen, k * 4096), sizeof seen);
            assert_memory_equal(seen, at(&bench, DATA + k * 4096), sizeof seen);
        }
        bench_end(&bench);
    }
}

static void another_disks_state_is_refused(void **state)
{
    (void)state;
    AUTO_FREE struct machine_guest *guest = malloc(sizeof *guest);
    struct fault fault = {0};
    struct bench bench;
    bench_begin(&bench, FLUSH, false);
    virtio_machine_stop(bench.machine);
    assert_int_equal(virtio_machine_save(bench.machine, guest, &fault), 0);
    struct virtio_machine *other = make_machine(true);

    assert_int_equal(virtio_machine_load(other, guest, &fault), ERR_CORRUPT);
    guest->virtio[0].features &=
        ~VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD) & ~VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
    assert_int_equal(virtio_machine_load(other, guest, &fault), ERR_CORRUPT);
    assert_non_null(strstr(fault.text, "is written"));
    other = virtio_machine_free(other);
    bench_end(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_guest_reads_what_it_wrote_and_so_does_the_file),
        cmocka_unit_test(both_queues_carry_many_requests_at_once),
        cmocka_unit_test(what_a_disk_wrote_into_memory_is_marked),
        cmocka_unit_test(discard_and_zeroes_empty_a_range),
        cmocka_unit_test(tells_its_serial_and_its_size),
        cmocka_unit_test(requests_that_the_disk_cannot_have_are_refused),
        cmocka_unit_test(a_read_only_disk_takes_no_writes),
        cmocka_unit_test(an_error_below_is_told_and_counted),
        cmocka_unit_test(a_request_without_a_header_asks_for_a_reset_and_no_more),
        cmocka_unit_test(a_reset_waits_for_what_is_in_flight),
        cmocka_unit_test(without_a_backend_requests_wait),
        cmocka_unit_test(a_backend_that_does_not_fit_is_refused),
        cmocka_unit_test(a_write_is_durable_before_a_pause_ends),
        cmocka_unit_test(a_driver_without_flush_is_told_when_it_is_durable),
        cmocka_unit_test(a_disk_moves_under_load),
        cmocka_unit_test(another_disks_state_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
