#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_balloon.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "tests/support/virtio_machine.h"
#include "vmm-core/dev_virtio_balloon.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

enum {
    RINGS = 0x100000,
    LISTS = 0x200000,
    DATA = 0x800000,
    SLOT = 1,
    INFLATE = 0,
    DEFLATE = 1,
    STATS = 2,
    REPORTING = 3,
};

#define ALL                                                                                        \
    (VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ) | VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING) |      \
     VIRTIO_FEATURE(VIRTIO_BALLOON_F_PAGE_POISON))

struct bench {
    struct virtio_machine *machine;
    struct virtio_driver driver;
    struct bitmap pages;
};

static void bench_begin(struct bench *bench, uint64_t features)
{
    const struct vm_config config = {.vcpus = 1, .balloon = true};
    memset(bench, 0, sizeof *bench);
    bench->machine = virtio_machine_new(&config);
    virtio_machine_go(bench->machine);
    assert_true(virtio_driver_init(&bench->driver, bench->machine, SLOT, features, RINGS, 16));
    assert_int_equal(bitmap_init(&bench->pages, MIB(16) >> PAGE_SHIFT), 0);
    memset(guest_memory_base(bench->machine->memory) + DATA, 0xd7, MIB(2));
}

static void bench_end(struct bench *bench)
{
    bench->machine = virtio_machine_free(bench->machine);
    bitmap_deinit(&bench->pages);
}

static uint8_t *at(struct bench *bench, uint64_t address)
{
    return guest_memory_base(bench->machine->memory) + address;
}

static struct virtio_device *device_of(struct bench *bench)
{
    return virtio_bus_find(&bench->machine->virtio, &virtio_balloon_kind, 0);
}

static void run(struct bench *bench, unsigned queue, struct ring_buffer buffer)
{
    uint16_t id;
    uint32_t bytes;
    struct ring_driver *ring = &bench->driver.rings[queue];
    (void)ring_driver_offer(ring, &buffer, 1, false);
    virtio_driver_kick(&bench->driver, queue);
    while (!ring_driver_take(ring, &id, &bytes)) {
        ring_driver_want_interrupt(ring, true);
        if (ring_driver_take(ring, &id, &bytes))
            return;
        virtio_machine_await(bench->machine, virtio_driver_vector(&bench->driver, queue), 1);
    }
}

static void lend(struct bench *bench, unsigned queue, const uint32_t *pages, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        bytes_put_u32(at(bench, LISTS + i * UINT64_C(4)), pages[i]);
    run(bench, queue, (struct ring_buffer){LISTS, count * 4, false});
}

static struct vm_balloon_stats stats_of(struct bench *bench)
{
    struct vm_balloon_stats stats;
    (void)pthread_mutex_lock(&bench->machine->lock);
    virtio_balloon_stats(device_of(bench), &stats);
    virtio_balloon_ask(device_of(bench));
    (void)pthread_mutex_unlock(&bench->machine->lock);
    return stats;
}

static bool is_populated(struct bench *bench, uint64_t page)
{
    struct fault fault = {0};
    assert_int_equal(guest_memory_populated(bench->machine->memory, &bench->pages, &fault), 0);
    return bitmap_test(&bench->pages, page);
}

static bool is_marked(struct bench *bench, uint64_t page)
{
    bitmap_clear_all(&bench->pages);
    guest_memory_take_written(bench->machine->memory, &bench->pages);
    return bitmap_test(&bench->pages, page);
}

static void lent_pages_are_gone_read_as_zero_and_are_marked(void **state)
{
    (void)state;
    static const uint32_t pages[] = {0x800, 0x801, 0x803, 0x810, 0x80f};
    struct bench bench;
    bench_begin(&bench, ALL);
    assert_false(is_marked(&bench, 0x800));

    lend(&bench, INFLATE, pages, ARRAY_COUNT(pages));

    for (size_t i = 0; i < ARRAY_COUNT(pages); i++)
        assert_false(is_populated(&bench, pages[i]));
    assert_true(is_populated(&bench, 0x802));
    assert_true(is_marked(&bench, 0x803));
    assert_int_equal(stats_of(&bench).discarded_pages, 5);
    assert_int_equal(*at(&bench, 0x801000), 0);
    assert_int_equal(*at(&bench, 0x802000), 0xd7);
    lend(&bench, DEFLATE, pages, ARRAY_COUNT(pages));
    bench_end(&bench);
}

static void pages_that_are_no_memory_are_nobodys_harm(void **state)
{
    (void)state;
    static const uint32_t pages[] = {0x1000, UINT32_MAX, 0xc0000, 0x800};
    struct bench bench;
    bench_begin(&bench, ALL);

    lend(&bench, INFLATE, pages, ARRAY_COUNT(pages));

    assert_int_equal(stats_of(&bench).discarded_pages, 1);
    assert_false(virtio_driver_status(&bench.driver) & VIRTIO_STATUS_NEEDS_RESET);
    bench_end(&bench);
}

static void reported_pages_are_given_back_and_marked(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, ALL);

    run(&bench, REPORTING, (struct ring_buffer){DATA + 0x10800, 0x20000, true});

    assert_true(is_populated(&bench, 0x810)); /* only a part of it */
    assert_false(is_populated(&bench, 0x811));
    assert_false(is_populated(&bench, 0x82f));
    assert_true(is_populated(&bench, 0x830));
    assert_true(is_marked(&bench, 0x811));
    assert_int_equal(stats_of(&bench).reported_pages, 0x1f);
    bench_end(&bench);
}

static void reporting_comes_third_where_there_are_no_statistics(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING));

    run(&bench, 2, (struct ring_buffer){DATA, 0x1000, true});

    assert_false(is_populated(&bench, 0x800));
    bench_end(&bench);
}

static void a_guest_that_poisons_free_pages_finds_its_poison(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, ALL);
    virtio_machine_write(bench.machine, bench.driver.bar + 0x2000 + 12, 0xaaaaaaaa, 4);

    run(&bench, REPORTING, (struct ring_buffer){DATA, 0x1000, true});

    assert_int_equal(*at(&bench, DATA), 0xd7);
    bench_end(&bench);
}

static void the_guest_hears_of_its_target_and_answers(void **state)
{
    (void)state;
    struct bench bench;
    struct fault fault = {0};
    bench_begin(&bench, ALL);
    uint64_t config = bench.driver.bar + 0x2000;

    assert_int_equal(virtio_balloon_set_target(device_of(&bench), MIB(4), &fault), 0);
    assert_int_equal(virtio_machine_read(bench.machine, config, 4), 1024);
    virtio_machine_write(bench.machine, config + 4, 1000, 4);
    assert_int_equal(stats_of(&bench).actual_bytes, 1000 * 4096);
    assert_int_equal(stats_of(&bench).target_bytes, MIB(4));
    assert_int_equal(virtio_balloon_set_target(device_of(&bench), MIB(16), &fault), ERR_INVALID);
    assert_string_equal(fault.text, "a balloon of 16 MiB in a guest of 16 MiB leaves it none");
    bench_end(&bench);
}

static void statistics_are_asked_for_by_giving_the_buffer_back(void **state)
{
    (void)state;
    struct bench bench;
    uint16_t id;
    uint32_t bytes;
    bench_begin(&bench, ALL);
    struct ring_driver *ring = &bench.driver.rings[STATS];
    for (unsigned turn = 1; turn <= 3; turn++) {
        const struct ring_buffer buffer = {LISTS, 20, false};
        bytes_put_u16(at(&bench, LISTS), VIRTIO_BALLOON_S_MEMFREE);
        bytes_put_u64(at(&bench, LISTS + 2), turn * UINT64_C(1000));
        bytes_put_u16(at(&bench, LISTS + 10), VIRTIO_BALLOON_S_MEMTOT);
        bytes_put_u64(at(&bench, LISTS + 12), 5000);
        (void)ring_driver_offer(ring, &buffer, 1, false);
        ring_driver_want_interrupt(ring, true);
        virtio_driver_kick(&bench.driver, STATS);
        struct vm_balloon_stats stats = stats_of(&bench);
        while (stats.free_bytes != turn * UINT64_C(1000)) {
            /* Either the question came before the look, and the answer with the next buffer, or
             * the look is still to come. */
            if (ring_driver_take(ring, &id, &bytes))
                (void)ring_driver_offer(ring, &buffer, 1, false);
            virtio_driver_kick(&bench.driver, STATS);
            stats = stats_of(&bench);
        }
        assert_int_equal(stats.total_bytes, 5000);
        assert_true(stats.told);
        while (!ring_driver_take(ring, &id, &bytes))
            (void)stats_of(&bench);
    }
    bench_end(&bench);
}

static void target_and_size_travel(void **state)
{
    (void)state;
    struct bench bench;
    struct fault fault = {0};
    static struct machine_guest guest;
    bench_begin(&bench, ALL);
    assert_int_equal(virtio_balloon_set_target(device_of(&bench), MIB(2), &fault), 0);
    virtio_machine_write(bench.machine, bench.driver.bar + 0x2004, 77, 4);
    virtio_machine_stop(bench.machine);
    assert_int_equal(virtio_machine_save(bench.machine, &guest, &fault), 0);
    const struct vm_config config = {.vcpus = 1, .balloon = true};
    struct virtio_machine *target = virtio_machine_new(&config);
    memcpy(guest_memory_base(target->memory), at(&bench, 0), MIB(16));

    assert_int_equal(virtio_machine_load(target, &guest, &fault), 0);

    assert_int_equal(virtio_machine_read(target, bench.driver.bar + 0x2000, 4), 512);
    assert_int_equal(virtio_machine_read(target, bench.driver.bar + 0x2004, 4), 77);
    target = virtio_machine_free(target);
    bench_end(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lent_pages_are_gone_read_as_zero_and_are_marked),
        cmocka_unit_test(pages_that_are_no_memory_are_nobodys_harm),
        cmocka_unit_test(reported_pages_are_given_back_and_marked),
        cmocka_unit_test(reporting_comes_third_where_there_are_no_statistics),
        cmocka_unit_test(a_guest_that_poisons_free_pages_finds_its_poison),
        cmocka_unit_test(the_guest_hears_of_its_target_and_answers),
        cmocka_unit_test(statistics_are_asked_for_by_giving_the_buffer_back),
        cmocka_unit_test(target_and_size_travel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
