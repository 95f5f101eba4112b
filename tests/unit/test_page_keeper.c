/* Memory that threads write while it is copied: the copy is the instant of the fix, whatever they do. */
#include <pthread.h>
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
#include "base/err.h"
#include "migrate/page_keeper.h"

/* More than may be put aside: a writer of all of it has to wait for the copy. */
enum { PAGES = PAGE_KEEPER_PUT_ASIDE_MAX + 4096 };

struct scene {
    uint8_t *base, *copy; /* copy[page]: as many as were written before the instant */
    struct bitmap all;
    struct page_keeper *keeper;
    pthread_t writer;
    bool has_writer;
    bool is_stopped, is_held, is_at_rest; /* atomic */
};

static uint64_t *count_of(uint8_t *base, uint64_t page)
{
    return (uint64_t *)(void *)(base + page * PAGE_BYTES);
}

/* All pages, again and again, standing still while it is held. */
static void *write_all(void *data)
{
    struct scene *scene = data;

    for (uint64_t i = 0; !__atomic_load_n(&scene->is_stopped, __ATOMIC_ACQUIRE); i++) {
        while (__atomic_load_n(&scene->is_held, __ATOMIC_ACQUIRE))
            __atomic_store_n(&scene->is_at_rest, true, __ATOMIC_RELEASE);
        __atomic_store_n(&scene->is_at_rest, false, __ATOMIC_RELEASE);
        uint64_t *count = count_of(scene->base, i * 7919 % PAGES);
        __atomic_store_n(count, *count + 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void hold(struct scene *scene, bool held)
{
    __atomic_store_n(&scene->is_held, held, __ATOMIC_RELEASE);
    while (held && !__atomic_load_n(&scene->is_at_rest, __ATOMIC_ACQUIRE))
        (void)0;
    if (!held)
        __atomic_store_n(&scene->is_at_rest, false, __ATOMIC_RELEASE);
}

static int set_up(void **state)
{
    static struct scene scene;
    struct fault fault = {0};
    int fd = memfd_create("memory", MFD_CLOEXEC);

    scene = (struct scene){0};
    assert_true(fd >= 0 && ftruncate(fd, (off_t)PAGES * PAGE_BYTES) == 0);
    scene.base = mmap(NULL, (size_t)PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(scene.base != MAP_FAILED);
    (void)close(fd);
    scene.copy = aligned_alloc(PAGE_BYTES, (size_t)PAGES * PAGE_BYTES);
    assert_non_null(scene.copy);
    for (uint64_t page = 0; page < PAGES; page++)
        *count_of(scene.base, page) = page;
    assert_int_equal(bitmap_init(&scene.all, PAGES), 0);
    bitmap_set_all(&scene.all);
    if (page_keeper_new(&scene.keeper, scene.base, PAGES, &fault) == ERR_UNSUPPORTED) {
        print_message("%s\n", fault.text);
        skip();
    }
    assert_non_null(scene.keeper);
    *state = &scene;
    return 0;
}

static void start_writer(struct scene *scene)
{
    assert_int_equal(pthread_create(&scene->writer, NULL, write_all, scene), 0);
    scene->has_writer = true;
}

static int tear_down(void **state)
{
    struct scene *scene = *state;
    scene->keeper = page_keeper_free(scene->keeper);
    __atomic_store_n(&scene->is_stopped, true, __ATOMIC_RELEASE);
    __atomic_store_n(&scene->is_held, false, __ATOMIC_RELEASE);
    if (scene->has_writer)
        (void)pthread_join(scene->writer, NULL);
    bitmap_deinit(&scene->all);
    (void)munmap(scene->base, (size_t)PAGES * PAGE_BYTES);
    free(scene->copy);
    return 0;
}

static void copy_kept(struct scene *scene, bool *seen)
{
    uint64_t page = 0;
    const uint8_t *bytes;
    while ((bytes = page_keeper_take_kept(scene->keeper, &page))) {
        assert_false(seen[page]);
        seen[page] = true;
        memcpy(scene->copy + page * PAGE_BYTES, bytes, PAGE_BYTES);
        page_keeper_drop_kept(scene->keeper);
    }
}

static void copy_all(struct scene *scene)
{
    static bool seen[PAGES];
    struct fault fault = {0};

    memset(seen, 0, sizeof seen);
    for (uint64_t page = 0; page < PAGES; page++) {
        copy_kept(scene, seen);
        if (!page_keeper_begin_copy(scene->keeper, page))
            continue;
        assert_false(seen[page]);
        seen[page] = true;
        memcpy(scene->copy + page * PAGE_BYTES, scene->base + page * PAGE_BYTES, PAGE_BYTES);
        page_keeper_end_copy(scene->keeper, page);
        if (page % 512 == 511)
            assert_int_equal(page_keeper_release(scene->keeper, page - 511, 512, &fault), 0);
    }
    copy_kept(scene, seen);
    assert_int_equal(page_keeper_check(scene->keeper, &fault), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        assert_true(seen[page]);
}

static void what_is_copied_is_the_instant_of_the_fix(void **state)
{
    struct scene *scene = *state;
    struct fault fault = {0};
    uint64_t *instant = calloc(PAGES, sizeof *instant);
    assert_non_null(instant);

    start_writer(scene);
    assert_int_equal(page_keeper_protect(scene->keeper, &fault), 0);
    assert_int_equal(page_keeper_settle(scene->keeper, &fault), 0);
    hold(scene, true);
    assert_int_equal(page_keeper_fix(scene->keeper, &scene->all, &fault), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        instant[page] = *count_of(scene->base, page);
    hold(scene, false);
    while (page_keeper_counts(scene->keeper).put_aside < PAGE_KEEPER_PUT_ASIDE_MAX)
        (void)usleep(1000); /* as much as there is room for; then the writer waits */
    copy_all(scene);

    for (uint64_t page = 0; page < PAGES; page++)
        assert_int_equal(*count_of(scene->copy, page), instant[page]);
    free(instant);
}

/* Nobody copies, so what may be put aside is full and the writer waits. */
static void a_writer_goes_on_when_the_keeper_is_freed(void **state)
{
    struct scene *scene = *state;
    struct fault fault = {0};

    start_writer(scene);
    assert_int_equal(page_keeper_protect(scene->keeper, &fault), 0);
    hold(scene, true);
    assert_int_equal(page_keeper_fix(scene->keeper, &scene->all, &fault), 0);
    hold(scene, false);
    while (page_keeper_counts(scene->keeper).put_aside < PAGE_KEEPER_PUT_ASIDE_MAX)
        (void)usleep(1000);
    scene->keeper = page_keeper_free(scene->keeper);

    uint64_t before = *count_of(scene->base, PAGES - 1);
    while (*(volatile uint64_t *)count_of(scene->base, PAGES - 1) < before + 2)
        (void)usleep(1000); /* it has been round twice */
}

static void pages_that_are_not_asked_for_are_not_copied_and_may_be_written(void **state)
{
    struct scene *scene = *state;
    struct fault fault = {0};

    bitmap_clear_all(&scene->all);
    bitmap_set(&scene->all, 3);
    assert_int_equal(page_keeper_protect(scene->keeper, &fault), 0);
    assert_int_equal(page_keeper_fix(scene->keeper, &scene->all, &fault), 0);
    (*count_of(scene->base, 5))++;
    (*count_of(scene->base, 3))++;

    uint64_t page = 0;
    const uint8_t *bytes = page_keeper_take_kept(scene->keeper, &page);
    assert_true(bytes && page == 3 && *(const uint64_t *)(const void *)bytes == 3);
    page_keeper_drop_kept(scene->keeper);
    assert_null(page_keeper_take_kept(scene->keeper, &page));
    assert_false(page_keeper_begin_copy(scene->keeper, 3));
    assert_false(page_keeper_begin_copy(scene->keeper, 5));
}

static void a_page_that_was_written_since_it_was_protected_belongs_to_the_instant(void **state)
{
    struct scene *scene = *state;
    struct fault fault = {0};

    bitmap_clear_all(&scene->all);
    assert_int_equal(page_keeper_protect(scene->keeper, &fault), 0);
    (*count_of(scene->base, 7))++; /* it may have had no memory when that was asked */
    assert_int_equal(page_keeper_fix(scene->keeper, &scene->all, &fault), 0);
    (*count_of(scene->base, 7))++;

    uint64_t page = 0;
    const uint8_t *bytes = page_keeper_take_kept(scene->keeper, &page);
    assert_true(bytes && page == 7 && *(const uint64_t *)(const void *)bytes == 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_copied_is_the_instant_of_the_fix, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_writer_goes_on_when_the_keeper_is_freed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            pages_that_are_not_asked_for_are_not_copied_and_may_be_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_page_that_was_written_since_it_was_protected_belongs_to_the_instant, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
