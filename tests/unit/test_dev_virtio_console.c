#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/own.h"
#include "tests/support/virtio_machine.h"
#include "vmm-core/dev_virtio_console.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

enum { RINGS = 0x100000, DATA = 0x200000, SLOT = 1, INPUT = 0, OUTPUT = 1 };

struct bench {
    struct virtio_machine *machine;
    struct virtio_driver driver;
    char text[8192]; /* under the machine's lock */
    size_t count;
};

static void on_serial(void *data, const uint8_t *bytes, size_t count)
{
    struct bench *bench = data;
    assert_true(count <= sizeof bench->text - bench->count);
    memcpy(bench->text + bench->count, bytes, count);
    bench->count += count;
}

static void bench_begin(struct bench *bench, const struct vm_config *wanted)
{
    memset(bench, 0, sizeof *bench);
    struct vm_config config = *wanted;
    config.on_serial = on_serial;
    config.data = bench;
    bench->machine = virtio_machine_new(&config);
    virtio_machine_go(bench->machine);
}

static void bench_end(struct bench *bench)
{
    bench->machine = virtio_machine_free(bench->machine);
}

static uint8_t *at(struct bench *bench, uint64_t address)
{
    return guest_memory_base(bench->machine->memory) + address;
}

static uint32_t await_used(struct bench *bench, unsigned queue)
{
    uint16_t id;
    uint32_t bytes = 0;
    struct ring_driver *ring = &bench->driver.rings[queue];
    while (!ring_driver_take(ring, &id, &bytes)) {
        ring_driver_want_interrupt(ring, true);
        if (ring_driver_take(ring, &id, &bytes))
            break;
        virtio_machine_await(bench->machine, virtio_driver_vector(&bench->driver, queue), 1);
    }
    return bytes;
}

static const struct vm_config with_console = {.vcpus = 1, .console = true};

static void what_the_guest_writes_comes_out_in_order(void **state)
{
    (void)state;
    static const uint64_t formats[] = {0, VIRTIO_FEATURE(VIRTIO_F_RING_PACKED)};
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        bench_begin(&bench, &with_console);
        assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, formats[i], RINGS, 16));
        memset(at(&bench, DATA), 'x', 3000);
        memcpy(at(&bench, DATA + 0x1000), " and out", 8);
        const struct ring_buffer buffers[] = {{DATA, 3000, false}, {DATA + 0x1000, 8, false}};

        (void)ring_driver_offer(&bench.driver.rings[OUTPUT], buffers, 2, false);
        virtio_driver_kick(&bench.driver, OUTPUT);
        assert_int_equal(await_used(&bench, OUTPUT), 0);

        (void)pthread_mutex_lock(&bench.machine->lock);
        assert_int_equal(bench.count, 3008);
        assert_memory_equal(bench.text + 2999, "x and out", 9);
        (void)pthread_mutex_unlock(&bench.machine->lock);
        bench_end(&bench);
    }
}

static size_t give(struct bench *bench, const char *text)
{
    (void)pthread_mutex_lock(&bench->machine->lock);
    size_t taken =
        virtio_console_input(virtio_bus_find(&bench->machine->virtio, &virtio_console_kind, 0),
                             (const uint8_t *)text, strlen(text));
    (void)pthread_mutex_unlock(&bench->machine->lock);
    return taken;
}

static void input_goes_as_far_as_the_guest_has_room(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, &with_console);
    assert_int_equal(give(&bench, "too early"), 0);
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, 0, RINGS, 16));
    assert_int_equal(give(&bench, "no room"), 0);
    const struct ring_buffer small = {DATA, 4, true}, other = {DATA + 0x1000, 4, true};
    (void)ring_driver_offer(&bench.driver.rings[INPUT], &small, 1, false);
    (void)ring_driver_offer(&bench.driver.rings[INPUT], &other, 1, false);

    assert_int_equal(give(&bench, "hello guest"), 8);

    assert_int_equal(await_used(&bench, INPUT), 4);
    assert_int_equal(await_used(&bench, INPUT), 4);
    assert_memory_equal(at(&bench, DATA), "hell", 4);
    assert_memory_equal(at(&bench, DATA + 0x1000), "o gu", 4);

    (void)ring_driver_offer(&bench.driver.rings[INPUT], &small, 1, false);
    (void)ring_driver_offer(&bench.driver.rings[OUTPUT], &(struct ring_buffer){DATA, 1, false}, 1,
                            false);
    virtio_driver_kick(&bench.driver, OUTPUT);
    (void)await_used(&bench, OUTPUT); /* by then the loop runs, and stopping it drains */
    virtio_machine_stop(bench.machine); /* what is typed in a pause would miss the move */
    assert_int_equal(give(&bench, "x"), 0);
    virtio_machine_go(bench.machine);
    while (give(&bench, "y") == 0)
        ; /* the loop goes on by its own thread */
    bench_end(&bench);
}

static void an_emergency_needs_no_driver(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, &with_console);
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, 0, RINGS, 16));
    virtio_driver_set_status(&bench.driver, 0);

    virtio_machine_write(bench.machine, bench.driver.bar + 0x2008, '!', 4);

    assert_int_equal(bench.count, 1);
    assert_int_equal(bench.text[0], '!');
    bench_end(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_guest_writes_comes_out_in_order),
        cmocka_unit_test(input_goes_as_far_as_the_guest_has_room),
        cmocka_unit_test(an_emergency_needs_no_driver),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
