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
#include "vmm-core/dev_virtio_rng.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

enum { RINGS = 0x100000, DATA = 0x200000, SLOT = 1 };

struct bench {
    struct virtio_machine *machine;
    struct virtio_driver driver;
};

static void bench_begin(struct bench *bench, const struct vm_config *wanted)
{
    memset(bench, 0, sizeof *bench);
    bench->machine = virtio_machine_new(wanted);
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

static const struct vm_config with_rng = {.vcpus = 1, .rng = true};

static void random_numbers_come_and_differ_and_end_within_a_turn(void **state)
{
    (void)state;
    struct bench bench;
    static uint8_t first[4096];
    bench_begin(&bench, &with_rng);
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT,
                                   VIRTIO_FEATURE(VIRTIO_F_RING_PACKED), RINGS, 16));
    /* Three times what one turn gives: the last of it comes with later turns. */
    for (unsigned i = 0; i < 3 * VIRTIO_RNG_BYTES_PER_TURN / 4096; i++) {
        const struct ring_buffer buffer = {DATA, 4096, true};
        (void)ring_driver_offer(&bench.driver.rings[0], &buffer, 1, false);
        virtio_driver_kick(&bench.driver, 0);
        assert_in_range(await_used(&bench, 0), 1, 4096);
        assert_memory_not_equal(first, at(&bench, DATA), 64);
        memcpy(first, at(&bench, DATA), sizeof first);
    }
    bench_end(&bench);
}

static void a_request_for_random_numbers_without_room_needs_a_reset(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, &with_rng);
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, 0, RINGS, 16));
    const struct ring_buffer buffer = {DATA, 16, false};
    (void)ring_driver_offer(&bench.driver.rings[0], &buffer, 1, false);
    virtio_driver_kick(&bench.driver, 0);
    while (!(virtio_driver_status(&bench.driver) & VIRTIO_STATUS_NEEDS_RESET))
        ; /* it comes by the I/O thread */
    bench_end(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_numbers_come_and_differ_and_end_within_a_turn),
        cmocka_unit_test(a_request_for_random_numbers_without_room_needs_a_reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
