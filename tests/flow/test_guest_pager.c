/* A guest goes on from its file before its memory is read: every page is what was written, whoever touches it
 * first; and a page that cannot be read is never seen as anything else.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <cmocka.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/own.h"
#include "migrate/guest_file.h"
#include "migrate/guest_index.h"
#include "migrate/guest_pager.h"
#include "migrate/page_faults.h"
#include "storage/guest_label.h"
#include "tests/support/fake_guest.h"

enum { PAGES = 3000, HEAD = 4096 };

static const struct guest_label label = {.vm_id = "vm-1", .nonce = "n0nce", .generation = 7};

struct scene {
    struct fake_guest *from, *to;
    int fd;
    struct guest_pager *pager;
    uint32_t patience_ms;
    struct fault fault;

    pthread_mutex_t mutex; /* guards what was told */
    pthread_cond_t changed;
    unsigned whole, lost, ended; /* one of them */
    struct fault why;
};

static void on_whole(void *data)
{
    struct scene *scene = data;
    pthread_mutex_lock(&scene->mutex);
    scene->whole++;
    scene->ended++;
    pthread_cond_broadcast(&scene->changed);
    pthread_mutex_unlock(&scene->mutex);
}

static void on_lost(void *data, const struct fault *fault)
{
    struct scene *scene = data;
    pthread_mutex_lock(&scene->mutex);
    scene->lost++;
    scene->ended++;
    scene->why = *fault;
    pthread_cond_broadcast(&scene->changed);
    pthread_mutex_unlock(&scene->mutex);
}

static void await(struct scene *scene, const unsigned *count)
{
    pthread_mutex_lock(&scene->mutex);
    while (*count == 0)
        pthread_cond_wait(&scene->changed, &scene->mutex);
    pthread_mutex_unlock(&scene->mutex);
}

static void scene_init_filled(struct scene *scene, enum fake_fill fill)
{
    const struct fake_guest_config from = {.pages = PAGES, .fill = fill, .half = true};
    const struct fake_guest_config to = {.pages = PAGES, .fill = FAKE_FILL_NONE};
    struct page_faults faults = {.fd = -1};
    struct guest_file_counts counts;

    if (page_faults_open(&faults, NULL) < 0)
        skip();
    page_faults_close(&faults);
    *scene = (struct scene){.from = fake_guest_new(&from), .to = fake_guest_new(&to)};
    pthread_mutex_init(&scene->mutex, NULL);
    pthread_cond_init(&scene->changed, NULL);
    scene->fd = memfd_create("guest-file", MFD_CLOEXEC);
    assert_int_equal(guest_file_write(fake_guest_guest(scene->from), &label, scene->fd, NULL, &counts,
                                      &scene->fault),
                     0);
}

static void scene_init(struct scene *scene)
{
    scene_init_filled(scene, FAKE_FILL_MIX);
}

static int begin(struct scene *scene)
{
    const struct guest_pager_config config = {.guest = fake_guest_guest(scene->to),
                                              .expected = &label,
                                              .fd = scene->fd,
                                              .patience_ms = scene->patience_ms,
                                              .whole = on_whole,
                                              .lost = on_lost,
                                              .data = scene};
    return guest_pager_new(&scene->pager, &config, &scene->fault);
}

static void begin_to_run(struct scene *scene)
{
    if (begin(scene) < 0)
        fail_msg("%s", scene->fault.text);
    assert_int_equal(guest_pager_load(scene->pager, &scene->fault), 0);
    assert_int_equal(guest_pager_commit(scene->pager, &scene->fault), 0);
}

static void scene_deinit(struct scene *scene)
{
    scene->pager = guest_pager_free(scene->pager);
    scene->from = fake_guest_free(scene->from);
    scene->to = fake_guest_free(scene->to);
    (void)close(scene->fd);
    pthread_cond_destroy(&scene->changed);
    pthread_mutex_destroy(&scene->mutex);
}

static bool page_is_same(struct scene *scene, uint64_t page)
{
    return memcmp(fake_guest_guest(scene->from)->regions[0].base + page * PAGE_BYTES,
                  fake_guest_guest(scene->to)->regions[0].base + page * PAGE_BYTES, PAGE_BYTES) == 0;
}

static void all_of_it_comes_by_itself(void **state)
{
    (void)state;
    const enum fake_fill fills[] = {FAKE_FILL_ZERO, FAKE_FILL_RANDOM, FAKE_FILL_TEXT, FAKE_FILL_MIX};
    for (size_t i = 0; i < ARRAY_COUNT(fills); i++) {
        struct scene scene;
        struct guest_pager_counts counts;
        scene_init_filled(&scene, fills[i]);
        begin_to_run(&scene);

        guest_pager_run(scene.pager);
        await(&scene, &scene.whole);

        guest_pager_counts(scene.pager, &counts);
        assert_true(counts.pages_left == 0 && counts.faults == 0);
        scene.pager = guest_pager_free(scene.pager);
        assert_true(fake_guest_compare(scene.from, scene.to) == UINT64_MAX);
        assert_true(scene.whole == 1 && scene.lost == 0);
        scene_deinit(&scene);
    }
}

static void who_touches_a_page_gets_what_was_written(void **state)
{
    (void)state;
    struct scene scene;
    struct guest_pager_counts counts;
    scene_init(&scene);
    begin_to_run(&scene);

    /* Backwards, and nobody reads the file but for this. */
    for (uint64_t page = PAGES; page-- > 0;)
        assert_true(page_is_same(&scene, page));

    guest_pager_counts(scene.pager, &counts);
    assert_true(counts.pages_left == 0 && counts.faults > 0 && counts.fault_pages == counts.pages);
    guest_pager_run(scene.pager);
    await(&scene, &scene.whole);
    scene_deinit(&scene);
}

struct toucher {
    struct scene *scene;
    uint64_t random, wrong;
};

static void *touch(void *data)
{
    struct toucher *toucher = data;
    for (unsigned i = 0; i < 4 * PAGES; i++) {
        toucher->random = toucher->random * UINT64_C(6364136223846793005) + 1442695040888963407;
        toucher->wrong += !page_is_same(toucher->scene, (toucher->random >> 33) % PAGES);
    }
    return NULL;
}

static void readers_and_the_pager_go_through_it_at_once(void **state)
{
    (void)state;
    struct scene scene;
    pthread_t threads[3];
    struct toucher touchers[3];
    scene_init(&scene);
    begin_to_run(&scene);

    for (unsigned i = 0; i < 3; i++) {
        touchers[i] = (struct toucher){.scene = &scene, .random = i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, touch, &touchers[i]), 0);
    }
    guest_pager_run(scene.pager);
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(touchers[i].wrong, 0);
    }
    await(&scene, &scene.whole);

    scene.pager = guest_pager_free(scene.pager);
    assert_true(fake_guest_compare(scene.from, scene.to) == UINT64_MAX);
    scene_deinit(&scene);
}

static void what_the_guest_writes_meanwhile_stays(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    begin_to_run(&scene);
    uint8_t *memory = fake_guest_guest(scene.to)->regions[0].base;

    for (uint64_t page = 0; page < PAGES; page += 7)
        memory[page * PAGE_BYTES + 5] = (uint8_t)(page * 3 + 1);
    guest_pager_run(scene.pager);
    await(&scene, &scene.whole);

    for (uint64_t page = 0; page < PAGES; page++) {
        if (page % 7 == 0)
            assert_int_equal(memory[page * PAGE_BYTES + 5], (uint8_t)(page * 3 + 1));
        else
            assert_true(page_is_same(&scene, page));
    }
    scene_deinit(&scene);
}

/* A page that it gives back is zero from then on, and not what the file has. */
static void what_it_gives_back_after_it_was_there_is_zero(void **state)
{
    (void)state;
    struct scene scene;
    scene_init_filled(&scene, FAKE_FILL_RANDOM);
    begin_to_run(&scene);
    struct region *ram = &fake_guest_guest(scene.to)->regions[0];
    static const uint8_t zeros[PAGE_BYTES];

    assert_true(page_is_same(&scene, 3));
    assert_int_equal(ram->ops->discard(ram, 3, 1, &scene.fault), 0);
    assert_memory_equal(ram->base + 3 * PAGE_BYTES, zeros, PAGE_BYTES);
    assert_int_equal(ram->ops->discard(ram, 3, 1, &scene.fault), 0);
    guest_pager_run(scene.pager);
    await(&scene, &scene.whole);

    assert_memory_equal(ram->base + 3 * PAGE_BYTES, zeros, PAGE_BYTES);
    scene_deinit(&scene);
}

/* The first frames begin right behind the head: a byte in the body of one of them. */
static void damage(struct scene *scene, uint64_t at)
{
    uint8_t byte;
    assert_int_equal(pread(scene->fd, &byte, 1, (off_t)at), 1);
    byte ^= 8;
    assert_int_equal(pwrite(scene->fd, &byte, 1, (off_t)at), 1);
}

static void a_damaged_frame_is_told_and_nobody_sees_its_pages(void **state)
{
    (void)state;
    struct scene scene;
    struct guest_pager_counts counts;
    scene_init_filled(&scene, FAKE_FILL_RANDOM);
    damage(&scene, HEAD + 1000);
    begin_to_run(&scene);

    guest_pager_run(scene.pager);
    await(&scene, &scene.lost);

    assert_true(scene.whole == 0 && scene.lost == 1 && scene.why.code == ERR_CORRUPT);
    assert_non_null(strstr(scene.why.text, "is damaged at byte 4096: pages from 0"));
    guest_pager_counts(scene.pager, &counts);
    assert_true(counts.pages_left > 0);
    /* The rest is served, and of the damaged frame nothing was laid. */
    assert_true(page_is_same(&scene, 200));
    uint8_t resident = 1;
    assert_int_equal(mincore(fake_guest_guest(scene.to)->regions[0].base, PAGE_BYTES, &resident), 0);
    assert_int_equal(resident & 1, 0);
    scene_deinit(&scene);
}

static void *read_first_page(void *data)
{
    struct scene *scene = data;
    (void)page_is_same(scene, 0);
    return NULL;
}

static void who_waits_for_a_damaged_page_is_not_let_go(void **state)
{
    (void)state;
    struct scene scene;
    pthread_t thread;
    scene_init_filled(&scene, FAKE_FILL_RANDOM);
    damage(&scene, HEAD + 1000);
    begin_to_run(&scene);

    assert_int_equal(pthread_create(&thread, NULL, read_first_page, &scene), 0);
    await(&scene, &scene.lost);
    assert_true(page_is_same(&scene, 300)); /* asked for later, served */

    assert_int_equal(pthread_tryjoin_np(thread, NULL), EBUSY);
    scene.pager = guest_pager_free(scene.pager); /* as if its guest were ended: now it goes */
    assert_int_equal(pthread_join(thread, NULL), 0);
    scene_deinit(&scene);
}

static void a_read_error_is_told_as_damage_is(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    begin_to_run(&scene);

    assert_int_equal(failpoint_arm("pager.read=error@3", &scene.fault), 0);
    guest_pager_run(scene.pager);
    await(&scene, &scene.lost);

    assert_true(scene.whole == 0 && scene.why.code == ERR_IO);
    assert_int_equal(failpoint_arm("", &scene.fault), 0);
    scene_deinit(&scene);
}

/* The third read fails so often. */
static void arm_errors(unsigned count)
{
    char spec[FAILPOINT_SPEC_MAX] = "";
    struct fault fault = {0};
    for (unsigned i = 0; i < count; i++) {
        size_t at = strlen(spec);
        (void)snprintf(spec + at, sizeof spec - at, "pager.read=error@3\n");
    }
    if (failpoint_arm(spec, &fault) < 0)
        fail_msg("%s", fault.text);
}

static void a_read_that_fails_is_tried_again(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.patience_ms = 3600 * 1000;
    begin_to_run(&scene);

    arm_errors(3);
    guest_pager_run(scene.pager);
    await(&scene, &scene.ended);

    assert_true(scene.whole == 1 && scene.lost == 0);
    assert_int_equal(failpoint_arm("", &scene.fault), 0);
    scene.pager = guest_pager_free(scene.pager);
    assert_true(fake_guest_compare(scene.from, scene.to) == UINT64_MAX);
    scene_deinit(&scene);
}

static void a_read_that_fails_again_and_again_is_told_once(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.patience_ms = 200;
    begin_to_run(&scene);

    arm_errors(FAILPOINT_ARMED_MAX);
    guest_pager_run(scene.pager);
    await(&scene, &scene.ended);

    assert_true(scene.whole == 0 && scene.lost == 1 && scene.why.code == ERR_IO);
    assert_int_equal(failpoint_arm("", &scene.fault), 0);
    scene_deinit(&scene);
}

static void one_that_tries_again_can_be_freed(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.patience_ms = 3600 * 1000;
    begin_to_run(&scene);
    unsigned before = failpoint_hits(FAILPOINT_PAGER_READ);

    arm_errors(FAILPOINT_ARMED_MAX);
    guest_pager_run(scene.pager);
    while (failpoint_hits(FAILPOINT_PAGER_READ) - before < 2)
        (void)sched_yield();
    scene.pager = guest_pager_free(scene.pager);

    assert_true(scene.ended == 0);
    assert_int_equal(failpoint_arm("", &scene.fault), 0);
    scene_deinit(&scene);
}

static struct page_faults watch(struct region *ram)
{
    struct page_faults faults = {.fd = -1};
    struct fault fault = {0};
    if (page_faults_open(&faults, &fault) < 0 ||
        page_faults_watch(&faults, ram->base, ram->pages * PAGE_BYTES, &fault) < 0)
        fail_msg("%s", fault.text);
    return faults;
}

static void a_run_that_ends_early_tells_what_it_laid(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    struct region *ram = &fake_guest_guest(scene.to)->regions[0];
    struct page_faults faults = watch(ram);
    uint8_t *bytes = mmap(NULL, 8 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(bytes != MAP_FAILED);
    memset(bytes, 7, 8 * PAGE_BYTES);
    assert_int_equal(mprotect(bytes + 5 * PAGE_BYTES, 3 * PAGE_BYTES, PROT_NONE), 0);
    unsigned laid = 99;

    assert_true(page_faults_lay_run(&faults, ram->base, bytes, 8, &laid, &scene.fault) < 0);
    assert_int_equal(laid, 5);
    assert_int_equal(page_faults_lay_run(&faults, ram->base + 5 * PAGE_BYTES, bytes, 5, &laid, &scene.fault), 0);
    assert_int_equal(laid, 5);

    assert_true(ram->base[0] == 7 && ram->base[10 * PAGE_BYTES - 1] == 7);
    assert_int_equal(munmap(bytes, 8 * PAGE_BYTES), 0);
    page_faults_close(&faults);
    scene_deinit(&scene);
}

/* A file system in memory that is in no folder, with room for so many pages. -1: this process may not. */
static int make_small_memory(unsigned pages)
{
    char size[32];
    (void)snprintf(size, sizeof size, "%llu", (unsigned long long)pages * PAGE_BYTES);
    AUTO_FD int context = fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (context < 0)
        return -1;
    assert_int_equal(fsconfig(context, FSCONFIG_SET_STRING, "size", size, 0), 0);
    assert_int_equal(fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0), 0);
    return fsmount(context, FSMOUNT_CLOEXEC, 0);
}

static void await_full(int folder_fd)
{
    struct statfs room;
    do {
        (void)sched_yield();
        assert_int_equal(fstatfs(folder_fd, &room), 0);
    } while (room.f_bfree > 0);
}

static void memory_that_runs_out_amid_a_run_is_waited_for(void **state)
{
    (void)state;
    struct scene scene;
    int folder_fd = make_small_memory(PAGES);
    if (folder_fd < 0)
        skip();
    scene_init_filled(&scene, FAKE_FILL_RANDOM);
    struct region *ram = &fake_guest_guest(scene.to)->regions[0];
    int others_fd = openat(folder_fd, "others", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int ram_fd = openat(folder_fd, "ram", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(others_fd >= 0 && ram_fd >= 0 && ftruncate(ram_fd, PAGES * PAGE_BYTES) == 0);
    assert_int_equal(fallocate(others_fd, 0, 0, (PAGES - 101) * PAGE_BYTES), 0);
    assert_true(mmap(ram->base, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                     ram_fd, 0) == ram->base);
    begin_to_run(&scene);

    guest_pager_run(scene.pager);
    await_full(folder_fd);
    assert_int_equal(ftruncate(others_fd, 0), 0);
    await(&scene, &scene.ended);

    if (scene.lost)
        fail_msg("%s", scene.why.text);
    scene.pager = guest_pager_free(scene.pager);
    assert_true(fake_guest_compare(scene.from, scene.to) == UINT64_MAX);
    scene_deinit(&scene);
    (void)close(ram_fd);
    (void)close(others_fd);
    (void)close(folder_fd);
}

static void a_file_that_is_cut_under_it_is_told(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    begin_to_run(&scene);
    assert_int_equal(ftruncate(scene.fd, HEAD + 100), 0);

    guest_pager_run(scene.pager);
    await(&scene, &scene.lost);

    assert_true(scene.whole == 0 && scene.why.code == ERR_CORRUPT);
    scene_deinit(&scene);
}

static void what_is_wrong_is_refused_before_anything_runs(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    struct stat status;
    assert_int_equal(fstat(scene.fd, &status), 0);

    damage(&scene, 40); /* label */
    assert_true(begin(&scene) < 0 && !scene.pager);
    damage(&scene, 40);
    damage(&scene, 1030); /* shape */
    assert_true(begin(&scene) < 0);
    damage(&scene, 1030);
    damage(&scene, (uint64_t)status.st_size - 60); /* index */
    assert_int_equal(begin(&scene), ERR_CORRUPT);
    damage(&scene, (uint64_t)status.st_size - 60);
    assert_int_equal(guest_label_consume(scene.fd, 8, &scene.fault), 0);
    assert_int_equal(begin(&scene), ERR_REFUSED);
    assert_non_null(strstr(scene.fault.text, "consumed by generation 8"));
    assert_false(fake_guest_runs(scene.to));
    scene_deinit(&scene);
}

/* As a version wrote it that knew of no index: the same bytes without it, and their digest. */
static void take_index_out(struct scene *scene)
{
    struct stat status;
    assert_int_equal(fstat(scene->fd, &status), 0);
    size_t size = (size_t)status.st_size;
    uint8_t *bytes = malloc(size);
    assert_non_null(bytes);
    assert_int_equal(pread(scene->fd, bytes, size, 0), size);
    size_t at = bytes_get_u64(bytes + size - 32 - GUEST_INDEX_END_BYTES);
    memmove(bytes + at, bytes + size - 32, 32);
    size = at + 32;
    XXH3_state_t *digest = XXH3_createState();
    assert_non_null(digest);
    (void)XXH3_64bits_reset(digest);
    (void)XXH3_64bits_update(digest, bytes, 512);
    (void)XXH3_64bits_update(digest, bytes + 1024, 512);
    (void)XXH3_64bits_update(digest, bytes + HEAD, size - HEAD - 8);
    bytes_put_u64(bytes + size - 8, XXH3_64bits_digest(digest));
    (void)XXH3_freeState(digest);
    assert_int_equal(ftruncate(scene->fd, (off_t)size), 0);
    assert_int_equal(pwrite(scene->fd, bytes, size, 0), size);
    free(bytes);
}

static void read_as_a_whole(struct scene *scene)
{
    struct guest_file_counts counts;
    assert_true(!scene->pager);
    if (guest_file_read(fake_guest_guest(scene->to), &label, scene->fd, &counts, &scene->fault) < 0)
        fail_msg("%s", scene->fault.text);
    assert_true(fake_guest_compare(scene->from, scene->to) == UINT64_MAX);
}

static void a_file_without_an_index_is_left_to_be_read_as_a_whole(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    take_index_out(&scene);

    assert_int_equal(begin(&scene), ERR_UNSUPPORTED);

    assert_non_null(strstr(scene.fault.text, "before files had an index"));
    read_as_a_whole(&scene);
    scene_deinit(&scene);
}

static void memory_that_cannot_wait_is_left_to_be_read_as_a_whole(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    struct region *ram = &fake_guest_guest(scene.to)->regions[0];
    struct region_ops ops = *ram->ops;
    ops.discard = NULL;
    ram->ops = &ops;

    assert_int_equal(begin(&scene), ERR_UNSUPPORTED);

    read_as_a_whole(&scene);
    scene_deinit(&scene);
}

static void a_load_that_fails_lets_nothing_run(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    const struct fake_guest_config to = {.pages = PAGES, .fill = FAKE_FILL_NONE, .fail_load = true};
    scene.to = fake_guest_free(scene.to);
    scene.to = fake_guest_new(&to);
    assert_int_equal(begin(&scene), 0);

    assert_true(guest_pager_load(scene.pager, &scene.fault) < 0);

    assert_false(fake_guest_runs(scene.to));
    scene_deinit(&scene);
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_it_comes_by_itself),
        cmocka_unit_test(who_touches_a_page_gets_what_was_written),
        cmocka_unit_test(readers_and_the_pager_go_through_it_at_once),
        cmocka_unit_test(what_the_guest_writes_meanwhile_stays),
        cmocka_unit_test(what_it_gives_back_after_it_was_there_is_zero),
        cmocka_unit_test(a_damaged_frame_is_told_and_nobody_sees_its_pages),
        cmocka_unit_test(who_waits_for_a_damaged_page_is_not_let_go),
        cmocka_unit_test(a_read_error_is_told_as_damage_is),
        cmocka_unit_test(a_read_that_fails_is_tried_again),
        cmocka_unit_test(a_read_that_fails_again_and_again_is_told_once),
        cmocka_unit_test(one_that_tries_again_can_be_freed),
        cmocka_unit_test(a_run_that_ends_early_tells_what_it_laid),
        cmocka_unit_test(memory_that_runs_out_amid_a_run_is_waited_for),
        cmocka_unit_test(a_file_that_is_cut_under_it_is_told),
        cmocka_unit_test(what_is_wrong_is_refused_before_anything_runs),
        cmocka_unit_test(a_file_without_an_index_is_left_to_be_read_as_a_whole),
        cmocka_unit_test(memory_that_cannot_wait_is_left_to_be_read_as_a_whole),
        cmocka_unit_test(a_load_that_fails_lets_nothing_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
