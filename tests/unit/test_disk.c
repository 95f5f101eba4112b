/* Every test runs by io_uring and by threads, past the page cache and through it. Where one of them
 * is not to be had, both ways are the same one. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/disk.h"

enum { FILE_BYTES = 8 << 20, WAYS = 4 };

static struct disk_config way(unsigned index)
{
    return (struct disk_config){.by_threads = index & 1, .cached = index & 2};
}

static int make_file(uint64_t bytes)
{
    char path[] = "/var/tmp/godwit-disk-XXXXXX"; /* not a tmpfs: those know no O_DIRECT */
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

struct scene {
    struct disk *disk;
    int fd; /* the same file, for looking from outside */
    unsigned done;
};

static void scene_init(struct scene *scene, unsigned index)
{
    struct fault fault = {0};
    struct disk_config config = way(index);
    int fd = make_file(FILE_BYTES);
    char path[64]; /* opened anew: O_DIRECT belongs to the open file, not to the descriptor */
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    *scene = (struct scene){.fd = open(path, O_RDWR | O_CLOEXEC)};
    assert_true(scene->fd >= 0);
    if (disk_new(&scene->disk, fd, &config, &fault) < 0)
        fail_msg("%s", fault.text);
    assert_int_equal(disk_bytes(scene->disk), FILE_BYTES);
    if (config.by_threads)
        assert_true(disk_is_by_threads(scene->disk));
    if (config.cached)
        assert_false(disk_is_direct(scene->disk));
}

static void scene_deinit(struct scene *scene)
{
    scene->disk = disk_free(scene->disk);
    close_p(&scene->fd);
}

struct order {
    struct disk_request request;
    struct scene *scene;
    int error;
    bool done;
};

static void order_done(struct disk_request *request, int error)
{
    struct order *order = request->data;
    assert_false(order->done);
    order->done = true;
    order->error = error;
    order->scene->done++;
}

static void submit(struct scene *scene, struct order *order)
{
    order->scene = scene;
    order->request.done = order_done;
    order->request.data = order;
    disk_submit(scene->disk, &order->request);
}

static void await(struct scene *scene, unsigned count)
{
    disk_kick(scene->disk);
    while (scene->done < count) {
        struct pollfd wait = {.fd = disk_event_fd(scene->disk), .events = POLLIN};
        assert_int_equal(poll(&wait, 1, -1), 1);
        disk_reap(scene->disk);
    }
    scene->done = 0;
}

static int run(struct scene *scene, enum disk_op op, uint64_t offset, void *at, uint64_t bytes)
{
    struct iovec part = {.iov_base = at, .iov_len = (size_t)bytes};
    struct order order = {.request = {.op = op,
                                      .offset = offset,
                                      .bytes = op == DISK_FLUSH ? 0 : bytes,
                                      .parts = &part,
                                      .part_count = 1}};
    submit(scene, &order);
    await(scene, 1);
    return order.error;
}

static void pattern(uint8_t *bytes, size_t count, unsigned seed)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(seed + i * 31 + i / 509);
}

static void reads_what_was_written(void **state)
{
    (void)state;
    AUTO_FREE uint8_t *out = aligned_alloc(4096, 1 << 20);
    AUTO_FREE uint8_t *in = aligned_alloc(4096, 1 << 20);
    AUTO_FREE uint8_t *seen = malloc(1 << 20);
    for (unsigned i = 0; i < WAYS; i++) {
        struct scene scene;
        scene_init(&scene, i);
        pattern(out, 1 << 20, i);

        assert_int_equal(run(&scene, DISK_WRITE, 3 * 512, out, 1 << 20), 0);
        assert_int_equal(run(&scene, DISK_FLUSH, 0, NULL, 0), 0);
        assert_int_equal(run(&scene, DISK_READ, 3 * 512, in, 1 << 20), 0);

        assert_memory_equal(in, out, 1 << 20);
        assert_int_equal(pread(scene.fd, seen, 1 << 20, 3 * 512), 1 << 20);
        assert_memory_equal(seen, out, 1 << 20);
        scene_deinit(&scene);
    }
}

static void a_tracked_disk_notes_every_page_that_a_request_may_have_changed(void **state)
{
    (void)state;
    AUTO_FREE uint8_t *bytes = aligned_alloc(4096, 64 << 10);
    memset(bytes, 7, 64 << 10);
    for (unsigned i = 0; i < WAYS; i++) {
        struct scene scene;
        struct bitmap written;
        scene_init(&scene, i);
        assert_int_equal(bitmap_init(&written, FILE_BYTES / PAGE_BYTES), 0);
        assert_int_equal(run(&scene, DISK_WRITE, 0, bytes, 4096), 0); /* before: not its matter */
        disk_track(scene.disk, &written);

        assert_int_equal(run(&scene, DISK_READ, 40 * PAGE_BYTES, bytes, 4096), 0);
        assert_int_equal(run(&scene, DISK_FLUSH, 0, NULL, 0), 0);
        assert_int_equal(bitmap_count(&written), 0);
        assert_int_equal(run(&scene, DISK_WRITE, 10 * PAGE_BYTES - 512, bytes, 1024), 0);
        assert_true(bitmap_test(&written, 9) && bitmap_test(&written, 10));
        assert_int_equal(run(&scene, DISK_DISCARD, 20 * PAGE_BYTES, NULL, 2 * PAGE_BYTES), 0);
        assert_true(bitmap_test(&written, 20) && bitmap_test(&written, 21));
        assert_int_equal(run(&scene, DISK_WRITE_ZEROES, 30 * PAGE_BYTES, NULL, 512), 0);
        assert_true(bitmap_test(&written, 30));
        assert_int_equal(bitmap_count(&written), 5);

        disk_track(scene.disk, NULL);
        assert_int_equal(run(&scene, DISK_WRITE, 0, bytes, 4096), 0);
        assert_int_equal(bitmap_count(&written), 5);
        bitmap_deinit(&written);
        scene_deinit(&scene);
    }
}

static void any_alignment_of_memory_will_do(void **state)
{
    (void)state;
    AUTO_FREE uint8_t *memory = aligned_alloc(4096, 64 << 10);
    AUTO_FREE uint8_t *back = aligned_alloc(4096, 64 << 10);
    for (unsigned i = 0; i < WAYS; i++) {
        struct scene scene;
        scene_init(&scene, i);
        pattern(memory, 64 << 10, 7 * i);
        memset(back, 0, 64 << 10);
        struct iovec out[] = {{memory + 1, 100}, {memory + 4099, 411}, {memory + 9000, 513}};
        struct iovec in[] = {{back + 3, 1000}, {back + 2000, 24}};
        struct order write = {
            .request = {
                .op = DISK_WRITE, .offset = 4096, .bytes = 1024, .parts = out, .part_count = 3}};
        struct order read = {
            .request = {
                .op = DISK_READ, .offset = 4096, .bytes = 1024, .parts = in, .part_count = 2}};

        submit(&scene, &write);
        await(&scene, 1);
        submit(&scene, &read);
        await(&scene, 1);

        assert_int_equal(write.error, 0);
        assert_int_equal(read.error, 0);
        uint8_t expected[1024];
        memcpy(expected, out[0].iov_base, 100);
        memcpy(expected + 100, out[1].iov_base, 411);
        memcpy(expected + 511, out[2].iov_base, 513);
        assert_memory_equal(back + 3, expected, 1000);
        assert_memory_equal(back + 2000, expected + 1000, 24);
        assert_int_equal(back[2], 0);
        assert_int_equal(back[2024], 0);
        scene_deinit(&scene);
    }
}

static void more_requests_than_the_ring_holds_all_end(void **state)
{
    (void)state;
    enum { ORDERS = 700 };
    AUTO_FREE struct order *orders = calloc(ORDERS, sizeof *orders);
    AUTO_FREE struct iovec *parts = calloc(ORDERS, sizeof *parts);
    AUTO_FREE uint8_t *memory = aligned_alloc(4096, (size_t)ORDERS * 4096);
    AUTO_FREE uint8_t *seen = malloc((size_t)ORDERS * 4096);
    for (unsigned i = 0; i < WAYS; i++) {
        struct scene scene;
        scene_init(&scene, i);
        memset(orders, 0, ORDERS * sizeof *orders);
        pattern(memory, (size_t)ORDERS * 4096, i);
        for (unsigned k = 0; k < ORDERS; k++) {
            parts[k] = (struct iovec){memory + (size_t)k * 4096, 4096};
            orders[k].request = (struct disk_request){.op = DISK_WRITE,
                                                      .offset = (uint64_t)k * 4096,
                                                      .bytes = 4096,
                                                      .parts = &parts[k],
                                                      .part_count = 1};
            submit(&scene, &orders[k]);
        }

        await(&scene, ORDERS);

        for (unsigned k = 0; k < ORDERS; k++)
            assert_true(orders[k].done && orders[k].error == 0);
        assert_int_equal(pread(scene.fd, seen, (size_t)ORDERS * 4096, 0), ORDERS * 4096);
        assert_memory_equal(seen, memory, (size_t)ORDERS * 4096);
        scene_deinit(&scene);
    }
}

static void discarded_and_zeroed_sectors_read_as_zeroes(void **state)
{
    (void)state;
    AUTO_FREE uint8_t *bytes = aligned_alloc(4096, 64 << 10);
    static const uint8_t zeroes[64 << 10];
    for (unsigned i = 0; i < WAYS; i++) {
        for (unsigned kind = 0; kind < 3; kind++) {
            struct scene scene;
            scene_init(&scene, i);
            pattern(bytes, 64 << 10, 1);
            assert_int_equal(run(&scene, DISK_WRITE, 0, bytes, 64 << 10), 0);
            struct order order = {.request = {.op = kind ? DISK_WRITE_ZEROES : DISK_DISCARD,
                                              .may_unmap = kind == 2,
                                              .offset = 8192,
                                              .bytes = 16384}};

            submit(&scene, &order);
            await(&scene, 1);

            assert_int_equal(order.error, 0);
            assert_int_equal(run(&scene, DISK_READ, 0, bytes, 64 << 10), 0);
            assert_memory_equal(bytes + 8192, zeroes, 16384);
            assert_int_not_equal(bytes[8191], 0);
            assert_int_not_equal(bytes[8192 + 16384 + 1], 0);
            struct stat stat;
            assert_int_equal(fstat(scene.fd, &stat), 0);
            assert_int_equal(stat.st_size, FILE_BYTES);
            scene_deinit(&scene);
        }
    }
}

static void a_file_that_was_cut_short_gives_an_error(void **state)
{
    (void)state;
    AUTO_FREE uint8_t *bytes = aligned_alloc(4096, 8192);
    for (unsigned i = 0; i < WAYS; i++) {
        struct scene scene;
        scene_init(&scene, i);
        assert_int_equal(ftruncate(scene.fd, 1 << 20), 0);

        assert_int_equal(run(&scene, DISK_READ, (1 << 20) - 4096, bytes, 8192), EIO);

        scene_deinit(&scene);
    }
}

static void an_error_of_the_file_reaches_who_asked(void **state)
{
    (void)state;
    AUTO_FREE uint8_t *bytes = aligned_alloc(4096, 4096);
    for (unsigned i = 0; i < WAYS; i++) {
        /* Opened for reading behind our back: what a write then says is the kernel's own error. */
        char path[] = "/var/tmp/godwit-disk-XXXXXX";
        int fd = mkostemp(path, O_CLOEXEC);
        assert_int_equal(ftruncate(fd, 1 << 20), 0);
        struct fault fault = {0};
        struct scene scene = {.fd = -1};
        struct disk_config config = way(i);
        assert_int_equal(disk_new(&scene.disk, fd, &config, &fault), 0);
        int read_only = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(read_only >= 0 && dup2(read_only, fd) == fd);
        (void)close(read_only);
        assert_int_equal(unlink(path), 0);

        assert_int_equal(run(&scene, DISK_WRITE, 0, bytes, 4096), EBADF);

        scene_deinit(&scene);
    }
}

static void refuses_what_is_no_disk(void **state)
{
    (void)state;
    const struct disk_config config = {0};
    struct fault fault = {0};
    struct disk *disk = NULL;

    AUTO_FD int directory = open("/tmp", O_RDONLY | O_CLOEXEC);
    assert_int_equal(disk_new(&disk, directory, &(struct disk_config){.read_only = true}, &fault),
                     ERR_INVALID);
    assert_string_equal(fault.text, "a disk is a regular file or a block device");
    AUTO_FD int empty = make_file(511);
    assert_int_equal(disk_new(&disk, empty, &config, &fault), ERR_INVALID);
    assert_string_equal(fault.text, "a disk is empty");
    AUTO_FD int read_only = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_int_equal(disk_new(&disk, read_only, &config, &fault), ERR_INVALID);
    assert_string_equal(fault.text, "a disk that can be written was opened for reading");
    assert_int_equal(disk_new(&disk, -1, &config, &fault), ERR_INVALID);
    assert_null(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_was_written),
        cmocka_unit_test(a_tracked_disk_notes_every_page_that_a_request_may_have_changed),
        cmocka_unit_test(any_alignment_of_memory_will_do),
        cmocka_unit_test(more_requests_than_the_ring_holds_all_end),
        cmocka_unit_test(discarded_and_zeroed_sectors_read_as_zeroes),
        cmocka_unit_test(a_file_that_was_cut_short_gives_an_error),
        cmocka_unit_test(an_error_of_the_file_reaches_who_asked),
        cmocka_unit_test(refuses_what_is_no_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
