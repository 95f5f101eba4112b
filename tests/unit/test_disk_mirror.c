/* A real disk whose requests go on while it is mirrored; by io_uring and by threads, past the page cache
 * and through it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "storage/disk.h"
#include "storage/disk_mirror.h"

enum {
    FILE_BYTES = (8 << 20) + 20480, /* the last block is a part */
    UNIT = 4096,
    UNITS = FILE_BYTES / UNIT,
    DEPTH = 8,
    WAYS = 4,
};

struct slot {
    struct disk_request request;
    struct iovec part;
    uint8_t *bytes;
    bool busy;
    struct scene *scene;
    uint64_t unit;
};

struct scene {
    struct disk *disk;
    struct disk_mirror *mirror;
    int source, target; /* the same files, for looking from outside */
    struct slot slots[DEPTH];
    uint32_t acknowledged[UNITS]; /* the last number that was told to be written; 0: none */
    bool unit_is_busy[UNITS];
    uint32_t number;
    uint64_t chance;
    unsigned errors;
};

static int open_file(uint64_t bytes, int *ret_outside)
{
    char path[] = "/var/tmp/godwit-mirror-XXXXXX"; /* not a tmpfs: those know no O_DIRECT */
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    *ret_outside = open(path, O_RDWR | O_CLOEXEC); /* O_DIRECT belongs to the open file */
    assert_true(*ret_outside >= 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

static void scene_init(struct scene *scene, unsigned way, uint64_t rate)
{
    struct fault fault = {0};
    const struct disk_config config = {.by_threads = way & 1, .cached = way & 2};
    memset(scene, 0, sizeof *scene);
    scene->chance = 88172645463325252u + way;
    int fd = open_file(FILE_BYTES, &scene->source);
    assert_int_equal(disk_new(&scene->disk, fd, &config, &fault), 0);
    const struct disk_mirror_config mirror = {
        .source_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0),
        .target_fd = open_file(FILE_BYTES, &scene->target),
        .bytes = FILE_BYTES,
        .cached = config.cached,
        .rate_bytes_per_s = rate,
    };
    if (disk_mirror_new(&scene->mirror, &mirror, &fault) < 0)
        fail_msg("%s", fault.text);
    for (unsigned i = 0; i < DEPTH; i++) {
        void *bytes = NULL;
        assert_int_equal(posix_memalign(&bytes, UNIT, UNIT), 0);
        scene->slots[i].bytes = bytes;
        scene->slots[i].scene = scene;
    }
}

static void start(struct scene *scene)
{
    struct fault fault = {0};
    disk_mirror(scene->disk, scene->mirror);
    assert_int_equal(disk_mirror_start(scene->mirror, &fault), 0);
}

static uint64_t draw(struct scene *scene, uint64_t below)
{
    scene->chance ^= scene->chance << 13;
    scene->chance ^= scene->chance >> 7;
    scene->chance ^= scene->chance << 17;
    return scene->chance % below;
}

static void written(struct disk_request *request, int error)
{
    struct slot *slot = request->data;
    uint32_t number;
    slot->busy = false;
    if (request->op == DISK_FLUSH)
        return;
    memcpy(&number, slot->bytes, sizeof number);
    slot->scene->errors += error != 0;
    slot->scene->unit_is_busy[slot->unit] = false;
    if (!error)
        slot->scene->acknowledged[slot->unit] = request->op == DISK_WRITE ? number : 0;
}

static void submit_one(struct scene *scene, struct slot *slot)
{
    uint64_t kind = draw(scene, 16);
    slot->unit = draw(scene, 8) ? draw(scene, UNITS / 16) : draw(scene, UNITS); /* some are hot */
    slot->request = (struct disk_request){.op = DISK_FLUSH, .done = written, .data = slot};
    if (kind != 0) {
        if (scene->unit_is_busy[slot->unit])
            return;
        scene->unit_is_busy[slot->unit] = true;
        scene->number++;
        memset(slot->bytes, (int)(scene->number & 0xff), UNIT);
        memcpy(slot->bytes, &scene->number, sizeof scene->number);
        slot->part = (struct iovec){.iov_base = slot->bytes, .iov_len = UNIT};
        slot->request.op = kind == 1 ? DISK_WRITE_ZEROES : DISK_WRITE;
        slot->request.may_unmap = true;
        slot->request.offset = slot->unit * UNIT;
        slot->request.bytes = UNIT;
        slot->request.parts = kind == 1 ? NULL : &slot->part;
        slot->request.part_count = kind == 1 ? 0 : 1;
    }
    slot->busy = true;
    disk_submit(scene->disk, &slot->request);
}

static unsigned busy(const struct scene *scene)
{
    unsigned count = 0;
    for (unsigned i = 0; i < DEPTH; i++)
        count += scene->slots[i].busy;
    return count;
}

static void turn(struct scene *scene, bool writes)
{
    for (unsigned i = 0; writes && i < DEPTH; i++) {
        if (!scene->slots[i].busy)
            submit_one(scene, &scene->slots[i]);
    }
    disk_kick(scene->disk);
    struct pollfd event = {.fd = disk_event_fd(scene->disk), .events = POLLIN};
    (void)poll(&event, 1, 20); /* also to look at the mirror again */
    disk_reap(scene->disk);
}

static void settle(struct scene *scene)
{
    while (busy(scene))
        turn(scene, false);
}

static enum disk_mirror_state state_of(struct scene *scene)
{
    struct disk_mirror_status status;
    disk_mirror_status(scene->mirror, &status);
    return status.state;
}

static void write_until(struct scene *scene, enum disk_mirror_state state)
{
    while (state_of(scene) != state) {
        struct disk_mirror_status status;
        disk_mirror_status(scene->mirror, &status);
        if (status.state == DISK_MIRROR_FAILED)
            fail_msg("%s", status.fault.text);
        turn(scene, true);
    }
}

/* Every write that was told to be done is in the file, whole. */
static void expect_whole(struct scene *scene, int fd)
{
    uint8_t found[UNIT], wanted[UNIT];
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    for (uint64_t unit = 0; unit < UNITS; unit++) {
        assert_int_equal(pread(fd, found, UNIT, (off_t)(unit * UNIT)), UNIT);
        uint32_t number = scene->acknowledged[unit];
        memset(wanted, (int)(number & 0xff), UNIT);
        memcpy(wanted, &number, sizeof number);
        assert_memory_equal(found, wanted, UNIT);
    }
}

static void scene_deinit(struct scene *scene)
{
    struct fault fault = {0};
    if (disk_mirror_abort(scene->mirror, &fault) == 0)
        settle(scene);
    disk_mirror(scene->disk, NULL);
    scene->mirror = disk_mirror_free(scene->mirror);
    settle(scene);
    scene->disk = disk_free(scene->disk);
    close_p(&scene->source);
    close_p(&scene->target);
    for (unsigned i = 0; i < DEPTH; i++)
        free(scene->slots[i].bytes);
}

static void both_hold_every_acknowledged_write_once_they_are_equal(void **state)
{
    (void)state;
    for (unsigned way = 0; way < WAYS; way++) {
        struct scene scene;
        struct fault fault = {0};
        scene_init(&scene, way, 0);
        for (unsigned i = 0; i < 300; i++)
            turn(&scene, true);

        start(&scene);
        write_until(&scene, DISK_MIRROR_EQUAL);
        for (unsigned i = 0; i < 200; i++)
            turn(&scene, true);
        settle(&scene);

        expect_whole(&scene, scene.source);
        expect_whole(&scene, scene.target);
        assert_int_equal(disk_mirror_promise(scene.mirror, &fault), 0);
        for (unsigned i = 0; i < 200; i++)
            turn(&scene, true);
        settle(&scene);
        expect_whole(&scene, scene.source);
        expect_whole(&scene, scene.target);
        assert_int_equal(scene.errors, 0);
        scene_deinit(&scene);
    }
}

static void the_target_alone_is_written_once_it_is_the_disk(void **state)
{
    (void)state;
    for (unsigned way = 0; way < WAYS; way++) {
        struct scene scene;
        struct fault fault = {0};
        struct stat before, after;
        scene_init(&scene, way, 0);
        start(&scene);
        assert_int_equal(disk_mirror_decide(scene.mirror, &fault), ERR_STATE); /* too early */
        write_until(&scene, DISK_MIRROR_EQUAL);
        assert_int_equal(disk_mirror_promise(scene.mirror, &fault), 0);
        assert_int_equal(disk_mirror_decide(scene.mirror, &fault), 0);
        assert_int_equal(disk_mirror_abort(scene.mirror, &fault), ERR_STATE); /* too late */

        settle(&scene);
        for (unsigned i = 0; i < DEPTH; i++)
            submit_one(&scene, &scene.slots[i]);
        disk_kick(scene.disk);
        disk_switch(scene.disk); /* with requests in flight */
        write_until(&scene, DISK_MIRROR_SWITCHED);
        assert_int_equal(fstat(scene.source, &before), 0);
        for (unsigned i = 0; i < 300; i++)
            turn(&scene, true);
        settle(&scene);

        expect_whole(&scene, scene.target);
        assert_int_equal(fstat(scene.source, &after), 0);
        assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
        assert_int_equal(scene.errors, 0);
        scene_deinit(&scene);
    }
}

static void holes_and_zeroes_take_nothing_of_the_target(void **state)
{
    (void)state;
    struct scene scene;
    struct disk_mirror_status status;
    struct stat info;
    static uint8_t zeroes[1 << 20];
    scene_init(&scene, 0, 0);
    assert_int_equal(pwrite(scene.source, "x", 1, 5 << 20), 1);
    assert_int_equal(pwrite(scene.source, zeroes, sizeof zeroes, 1 << 20), (int)sizeof zeroes);
    assert_int_equal(fsync(scene.source), 0);

    start(&scene);
    while (state_of(&scene) != DISK_MIRROR_EQUAL)
        turn(&scene, false);

    disk_mirror_status(scene.mirror, &status);
    assert_int_equal(status.written_bytes, DISK_MIRROR_BLOCK_BYTES);
    assert_int_equal(status.verified_bytes, FILE_BYTES);
    assert_int_equal(fstat(scene.target, &info), 0);
    assert_in_range(info.st_blocks * 512, 1, 4 * DISK_MIRROR_BLOCK_BYTES);
    scene_deinit(&scene);
}

static void given_up_the_source_stays_the_disk(void **state)
{
    (void)state;
    static const enum disk_mirror_state at[] = {DISK_MIRROR_COPYING, DISK_MIRROR_EQUAL};
    for (unsigned way = 0; way < WAYS; way++) {
        for (unsigned i = 0; i < 2; i++) {
            struct scene scene;
            struct fault fault = {0};
            scene_init(&scene, way, i == 0 ? 1 << 20 : 0);
            start(&scene);
            write_until(&scene, at[i]);
            for (unsigned n = 0; n < 50; n++)
                turn(&scene, true);

            assert_int_equal(disk_mirror_abort(scene.mirror, &fault), 0);
            for (unsigned n = 0; n < 50; n++)
                turn(&scene, true);
            settle(&scene);

            expect_whole(&scene, scene.source);
            assert_int_equal(disk_mirror_promise(scene.mirror, &fault), ERR_STATE);
            scene_deinit(&scene);
        }
    }
}

static void a_target_that_fails_before_the_promise_is_nothing_to_the_guest(void **state)
{
    (void)state;
    struct scene scene;
    struct disk_mirror_status status;
    struct fault fault = {0};
    scene_init(&scene, 1, 0);
    for (unsigned i = 0; i < 100; i++)
        turn(&scene, true);
    start(&scene);
    write_until(&scene, DISK_MIRROR_EQUAL);
    assert_int_equal(failpoint_arm("mirror.write=error", &fault), 0);

    while (state_of(&scene) != DISK_MIRROR_FAILED)
        turn(&scene, true);
    for (unsigned i = 0; i < 100; i++)
        turn(&scene, true);
    settle(&scene);

    disk_mirror_status(scene.mirror, &status);
    assert_non_null(strstr(status.fault.text, "mirror.write"));
    assert_int_equal(scene.errors, 0);
    expect_whole(&scene, scene.source);
    assert_int_equal(disk_mirror_promise(scene.mirror, &fault), ERR_STATE);
    assert_int_equal(failpoint_arm("", &fault), 0);
    scene_deinit(&scene);
}

static void a_target_that_fails_behind_the_promise_is_waited_for(void **state)
{
    (void)state;
    struct scene scene;
    struct fault fault = {0};
    scene_init(&scene, 0, 0);
    start(&scene);
    write_until(&scene, DISK_MIRROR_EQUAL);
    assert_int_equal(disk_mirror_promise(scene.mirror, &fault), 0);
    unsigned before = failpoint_hits(FAILPOINT_MIRROR_WRITE);
    assert_int_equal(failpoint_arm("mirror.write=error\nmirror.write=error@2", &fault), 0);

    for (unsigned i = 0; i < 300; i++)
        turn(&scene, true);
    settle(&scene);

    assert_int_equal(failpoint_hits(FAILPOINT_MIRROR_WRITE) - before, 2);
    assert_int_equal(scene.errors, 0);
    expect_whole(&scene, scene.source);
    expect_whole(&scene, scene.target);
    assert_int_equal(failpoint_arm("", &fault), 0);
    scene_deinit(&scene);
}

static void what_reads_back_as_something_else_is_no_copy(void **state)
{
    (void)state;
    struct scene scene;
    struct disk_mirror_status status;
    struct stat info;
    static const uint8_t block[DISK_MIRROR_BLOCK_BYTES] = {7};
    scene_init(&scene, 0, 4 << 20);
    for (unsigned i = 0; i < 3; i++) /* the last of them lies where the pass ends */
        assert_int_equal(pwrite(scene.source, block, sizeof block, (off_t)i * (4 << 20)),
                         (int)sizeof block);
    assert_int_equal(fsync(scene.source), 0);
    start(&scene);
    do { /* the first block has come */
        turn(&scene, false);
        assert_int_equal(fstat(scene.target, &info), 0);
    } while (info.st_blocks == 0);

    assert_int_equal(pwrite(scene.target, "torn", 4, 100), 4);
    assert_int_equal(fsync(scene.target), 0);
    while (state_of(&scene) != DISK_MIRROR_FAILED && state_of(&scene) != DISK_MIRROR_EQUAL)
        turn(&scene, false);

    disk_mirror_status(scene.mirror, &status);
    assert_int_equal(status.fault.code, ERR_CORRUPT);
    assert_non_null(strstr(status.fault.text, "at byte 0"));
    scene_deinit(&scene);
}

static void a_target_of_another_size_is_refused(void **state)
{
    (void)state;
    struct disk_mirror *mirror = NULL;
    struct fault fault = {0};
    int outside, other;
    const struct disk_mirror_config config = {.source_fd = open_file(FILE_BYTES, &outside),
                                              .target_fd = open_file(UNIT, &other),
                                              .bytes = FILE_BYTES};

    assert_int_equal(disk_mirror_new(&mirror, &config, &fault), ERR_INVALID);

    assert_null(mirror);
    assert_int_equal(close(config.source_fd), 0); /* they are still ours */
    assert_int_equal(close(config.target_fd), 0);
    (void)close(outside);
    (void)close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_hold_every_acknowledged_write_once_they_are_equal),
        cmocka_unit_test(the_target_alone_is_written_once_it_is_the_disk),
        cmocka_unit_test(holes_and_zeroes_take_nothing_of_the_target),
        cmocka_unit_test(given_up_the_source_stays_the_disk),
        cmocka_unit_test(a_target_that_fails_before_the_promise_is_nothing_to_the_guest),
        cmocka_unit_test(a_target_that_fails_behind_the_promise_is_waited_for),
        cmocka_unit_test(what_reads_back_as_something_else_is_no_copy),
        cmocka_unit_test(a_target_of_another_size_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
