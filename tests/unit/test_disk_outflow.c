/* What arrives goes out and is waited for; the medium is the test's (its calls are wrapped). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/file.h>
#include <unistd.h>

#include "agent/vm/disk_outflow.h"
#include "agent/vm/disk_outflow_core.h"
#include "base/bytes.h"
#include "proto/limits.h"

enum { PAGES = 64 * BLOCK_PAGES };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_shut;       /* waits stand, and flushes */
    unsigned flushes;   /* begun */
    int wait_error;     /* of each wait */
    unsigned writes, waits;
    uint64_t written;   /* pages of all writes' ranges */
    uint8_t seen[PAGES]; /* how often a page was in one */
    bool is_held_done;
} medium = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

int __wrap_sync_file_range(int fd, off64_t offset, off64_t bytes, unsigned flags);
int __wrap_sync_file_range(int fd, off64_t offset, off64_t bytes, unsigned flags)
{
    (void)fd;
    int error = 0;
    (void)pthread_mutex_lock(&medium.lock);
    if (flags & SYNC_FILE_RANGE_WRITE) {
        uint64_t first = (uint64_t)offset / PAGE_BYTES, pages = (uint64_t)bytes / PAGE_BYTES;
        medium.writes++;
        medium.written += pages;
        for (uint64_t page = first; page < first + pages && page < PAGES; page++)
            medium.seen[page]++;
    } else {
        while (medium.is_shut)
            (void)pthread_cond_wait(&medium.changed, &medium.lock);
        medium.waits++;
        error = medium.wait_error;
    }
    (void)pthread_cond_broadcast(&medium.changed);
    (void)pthread_mutex_unlock(&medium.lock);
    errno = error;
    return error ? -1 : 0;
}

int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    (void)fd;
    (void)pthread_mutex_lock(&medium.lock);
    medium.flushes++;
    (void)pthread_cond_broadcast(&medium.changed);
    while (medium.is_shut)
        (void)pthread_cond_wait(&medium.changed, &medium.lock);
    (void)pthread_mutex_unlock(&medium.lock);
    return 0;
}

static void await_written(uint64_t pages)
{
    (void)pthread_mutex_lock(&medium.lock);
    while (medium.written < pages)
        (void)pthread_cond_wait(&medium.changed, &medium.lock);
    (void)pthread_mutex_unlock(&medium.lock);
}

static void set_shut(bool is_shut)
{
    (void)pthread_mutex_lock(&medium.lock);
    medium.is_shut = is_shut;
    (void)pthread_cond_broadcast(&medium.changed);
    (void)pthread_mutex_unlock(&medium.lock);
}

enum { SETTLE_MS = 60000, LITTLE_MS = 10 /* for a medium that never answers: however long */ };

struct scene {
    int fd; /* of the same file, opened for itself */
    struct disk_outflow *outflow;
};

static int set_up(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    char path[] = "/var/tmp/godwit-outflow-XXXXXX";
    assert_non_null(scene);
    int fd = mkstemp(path);
    scene->fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && scene->fd >= 0);
    (void)unlink(path);
    assert_int_equal(flock(fd, LOCK_EX), 0); /* as long as the outflow has it open */
    (void)pthread_mutex_lock(&medium.lock); /* nobody joined the thread of the test before */
    medium.is_shut = medium.is_held_done = false;
    medium.wait_error = 0;
    medium.writes = medium.waits = medium.flushes = 0;
    medium.written = 0;
    memset(medium.seen, 0, sizeof medium.seen);
    (void)pthread_mutex_unlock(&medium.lock);
    assert_int_equal(disk_outflow_new(&scene->outflow, fd, PAGES), 0);
    *state = scene;
    return 0;
}

static int tear_down(void **state)
{
    struct scene *scene = *state;
    scene->outflow = disk_outflow_free(scene->outflow);
    assert_int_equal(flock(scene->fd, LOCK_EX), 0); /* its thread has closed it */
    (void)close(scene->fd);
    free(scene);
    return 0;
}

static const uint64_t whole[8] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX,
                                  UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};

static void everything_that_arrived_goes_out_once(void **state)
{
    struct scene *scene = *state;

    for (uint64_t block = 0; block < PAGES / BLOCK_PAGES; block++)
        disk_outflow_arrived(scene->outflow, block * BLOCK_PAGES, whole);
    await_written(PAGES);

    assert_int_equal(disk_outflow_settle(scene->outflow, SETTLE_MS), 0);
    for (unsigned page = 0; page < PAGES; page++)
        assert_int_equal(medium.seen[page], 1);
}

static void a_few_pages_go_out_too_and_again_when_they_come_again(void **state)
{
    struct scene *scene = *state;
    const uint64_t two[8] = {[3] = 1, [7] = UINT64_C(1) << 63};

    disk_outflow_arrived(scene->outflow, 5 * BLOCK_PAGES, two);
    await_written(128); /* whole words */
    disk_outflow_arrived(scene->outflow, 5 * BLOCK_PAGES, two);
    await_written(256);

    assert_int_equal(medium.seen[5 * BLOCK_PAGES + 3 * 64], 2);
    assert_int_equal(medium.seen[5 * BLOCK_PAGES + 511], 2);
    assert_int_equal(medium.seen[5 * BLOCK_PAGES], 0);
}

static void *bring_all(void *data)
{
    struct scene *scene = data;
    for (uint64_t block = 0; block < PAGES / BLOCK_PAGES; block++)
        disk_outflow_arrived(scene->outflow, block * BLOCK_PAGES, whole);
    (void)pthread_mutex_lock(&medium.lock);
    medium.is_held_done = true;
    (void)pthread_mutex_unlock(&medium.lock);
    return NULL;
}

/* 128 MiB are brought to a medium that ends nothing: a step of 1 MiB goes out, then who brings them is held. */
static void a_medium_that_is_behind_holds_who_brings_more(void **state)
{
    struct scene *scene = *state;
    pthread_t lane;
    set_shut(true);

    assert_int_equal(pthread_create(&lane, NULL, bring_all, scene), 0);
    await_written(DISK_OUTFLOW_STEP_FIRST / PAGE_BYTES);
    (void)pthread_mutex_lock(&medium.lock);
    bool is_held_done = medium.is_held_done;
    uint64_t written = medium.written;
    (void)pthread_mutex_unlock(&medium.lock);
    assert_false(is_held_done);
    assert_true(written <= DISK_OUTFLOW_STEP_FIRST / PAGE_BYTES + 64);
    set_shut(false);

    assert_int_equal(pthread_join(lane, NULL), 0);
    await_written(PAGES);
    assert_int_equal(disk_outflow_settle(scene->outflow, SETTLE_MS), 0);
}

static void an_error_that_a_wait_was_told_of_is_told_at_the_end(void **state)
{
    struct scene *scene = *state;
    (void)pthread_mutex_lock(&medium.lock);
    medium.wait_error = EIO;
    (void)pthread_mutex_unlock(&medium.lock);

    disk_outflow_arrived(scene->outflow, 0, whole);
    (void)pthread_mutex_lock(&medium.lock);
    while (!medium.waits)
        (void)pthread_cond_wait(&medium.changed, &medium.lock);
    medium.wait_error = 0;
    (void)pthread_mutex_unlock(&medium.lock);

    assert_int_equal(disk_outflow_settle(scene->outflow, SETTLE_MS), EIO); /* though fdatasync says yes */
}

/* A free that waited for it would never come back; the test opens the medium after it. */
static void a_medium_that_hangs_in_a_write_holds_up_nobody_who_ends_it(void **state)
{
    struct scene *scene = *state;
    set_shut(true);
    disk_outflow_arrived(scene->outflow, 0, whole);
    await_written(DISK_OUTFLOW_STEP_FIRST / PAGE_BYTES);

    scene->outflow = disk_outflow_free(scene->outflow);

    assert_int_equal(flock(scene->fd, LOCK_EX | LOCK_NB), -1); /* the write that hangs has it yet */
    set_shut(false);
}

static void a_medium_that_hangs_in_a_flush_is_given_up_and_holds_up_nobody(void **state)
{
    struct scene *scene = *state;
    set_shut(true);

    assert_int_equal(disk_outflow_settle(scene->outflow, LITTLE_MS), ETIMEDOUT);
    (void)pthread_mutex_lock(&medium.lock);
    while (!medium.flushes)
        (void)pthread_cond_wait(&medium.changed, &medium.lock);
    (void)pthread_mutex_unlock(&medium.lock);
    scene->outflow = disk_outflow_free(scene->outflow);

    assert_int_equal(flock(scene->fd, LOCK_EX | LOCK_NB), -1);
    set_shut(false);
}

/* And not taken for one that had nothing to write. */
static void a_medium_that_hangs_in_a_write_is_given_up_before_any_flush(void **state)
{
    struct scene *scene = *state;
    set_shut(true);
    disk_outflow_arrived(scene->outflow, 0, whole);
    await_written(DISK_OUTFLOW_STEP_FIRST / PAGE_BYTES);

    assert_int_equal(disk_outflow_settle(scene->outflow, LITTLE_MS), ETIMEDOUT);
    scene->outflow = disk_outflow_free(scene->outflow);
    set_shut(false);
}

static void the_last_block_may_be_a_part(void **state)
{
    struct scene *scene = *state;
    struct disk_outflow *odd = NULL;
    const uint64_t one[8] = {1};

    assert_int_equal(disk_outflow_new(&odd, dup(scene->fd), BLOCK_PAGES + 1), 0);
    disk_outflow_arrived(odd, BLOCK_PAGES, one);
    await_written(64);
    assert_int_equal(disk_outflow_settle(odd, SETTLE_MS), 0);
    assert_null(disk_outflow_free(odd));
    assert_null(disk_outflow_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(everything_that_arrived_goes_out_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_few_pages_go_out_too_and_again_when_they_come_again,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_medium_that_is_behind_holds_who_brings_more, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_error_that_a_wait_was_told_of_is_told_at_the_end, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_medium_that_hangs_in_a_write_holds_up_nobody_who_ends_it,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_medium_that_hangs_in_a_flush_is_given_up_and_holds_up_nobody, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_medium_that_hangs_in_a_write_is_given_up_before_any_flush, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_last_block_may_be_a_part, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
