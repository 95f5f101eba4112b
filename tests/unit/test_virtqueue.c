#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "tests/support/ring_driver.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/virtqueue.h"

#define PACKED (UINT64_C(1) << VIRTIO_F_RING_PACKED)
#define INDIRECT (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)

enum { AREA = 0x10000, BUFFERS = 0x100000 };

static const uint64_t formats[] = {
    0, PACKED, EVENT, PACKED | EVENT, INDIRECT | EVENT, PACKED | INDIRECT | EVENT};

struct bench {
    struct guest_memory *memory;
    struct ring_driver driver;
    struct virtqueue queue;
    struct virtqueue_chain chain;
    uint64_t features;
};

static void bench_begin(struct bench *bench, uint64_t features, uint16_t size)
{
    struct fault fault = {0};
    memset(bench, 0, sizeof *bench);
    bench->features = features;
    assert_int_equal(guest_memory_new(&bench->memory, MIB(16), false, &fault), 0);
    ring_driver_init(&bench->driver, bench->memory, AREA, size, features, &bench->queue);
    assert_true(virtqueue_start(&bench->queue, bench->memory, features));
}

static void bench_end(struct bench *bench)
{
    bench->memory = guest_memory_free(bench->memory);
}

static enum virtqueue_pop pop(struct bench *bench)
{
    return virtqueue_pop(&bench->queue, &bench->chain);
}

static uint8_t *at(struct bench *bench, uint64_t address)
{
    return guest_memory_at(bench->memory, address, 1);
}

/* A readable part of 3 + 5 bytes and a writable one of 8 + 100. */
static uint16_t offer_request(struct bench *bench, unsigned which)
{
    uint64_t base = BUFFERS + which * UINT64_C(0x4000);
    const struct ring_buffer buffers[] = {{base, 3, false},
                                          {base + 0x1000, 5, false},
                                          {base + 0x1ffc, 8, true},
                                          {base + 0x3000, 100, true}};
    memcpy(at(bench, base), "abc", 3);
    memcpy(at(bench, base + 0x1000), "defgh", 5);
    return ring_driver_offer(&bench->driver, buffers, 4, bench->features & INDIRECT);
}

static void a_chain_comes_out_in_order_and_goes_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        char text[16] = {0};
        uint16_t id = 0;
        uint32_t bytes = 0;
        bench_begin(&bench, formats[i], 8);
        assert_int_equal(pop(&bench), VIRTQUEUE_EMPTY);

        uint16_t offered = offer_request(&bench, 0);
        assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);

        assert_int_equal(bench.chain.readable, 2);
        assert_int_equal(bench.chain.writable, 2);
        assert_int_equal(bench.chain.readable_bytes, 8);
        assert_int_equal(bench.chain.writable_bytes, 108);
        assert_int_equal(virtqueue_chain_read(&bench.chain, 2, text, sizeof text), 6);
        assert_string_equal(text, "cdefgh");
        assert_int_equal(virtqueue_chain_write(&bench.chain, 4, "0123456789", 10), 10);
        assert_false(ring_driver_take(&bench.driver, &id, &bytes));
        virtqueue_push(&bench.queue, &bench.chain, 14);
        assert_true(ring_driver_take(&bench.driver, &id, &bytes));
        assert_int_equal(id, offered);
        assert_int_equal(bytes, 14);
        assert_memory_equal(at(&bench, BUFFERS + 0x2000), "0123", 4);
        assert_memory_equal(at(&bench, BUFFERS + 0x3000), "456789", 6);
        assert_int_equal(pop(&bench), VIRTQUEUE_EMPTY);
        bench_end(&bench);
    }
}

static void rings_go_round_many_times_with_chains_of_all_lengths(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        bench_begin(&bench, formats[i], 16);
        uint32_t random = 7;
        for (unsigned turn = 0; turn < 70000; turn++) {
            random = random * 1664525 + 1013904223;
            unsigned parts = 1 + (random >> 8) % 5;
            struct ring_buffer buffers[5];
            for (unsigned k = 0; k < parts; k++)
                buffers[k] = (struct ring_buffer){BUFFERS + k * 64, k + 1, k >= parts / 2};
            uint16_t offered = ring_driver_offer(&bench.driver, buffers, parts,
                                                 (formats[i] & INDIRECT) && (random >> 16) % 2);
            uint16_t id = 0;
            uint32_t bytes = 0;
            assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
            assert_int_equal(bench.chain.readable, parts / 2);
            assert_int_equal(bench.chain.writable, parts - parts / 2);
            virtqueue_push(&bench.queue, &bench.chain, bench.chain.writable_bytes);
            assert_true(ring_driver_take(&bench.driver, &id, &bytes));
            assert_int_equal(id, offered);
            assert_int_equal(bytes, bench.chain.writable_bytes);
        }
        bench_end(&bench);
    }
}

static void chains_go_back_in_any_order(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        struct virtqueue_chain chains[3];
        uint16_t offered[3];
        bench_begin(&bench, formats[i], 16);
        for (unsigned k = 0; k < 3; k++) {
            offered[k] = offer_request(&bench, k);
            assert_int_equal(virtqueue_pop(&bench.queue, &chains[k]), VIRTQUEUE_POPPED);
        }

        static const unsigned order[] = {2, 0, 1};
        for (unsigned k = 0; k < 3; k++)
            virtqueue_push(&bench.queue, &chains[order[k]], k);

        for (unsigned k = 0; k < 3; k++) {
            uint16_t id = 0;
            uint32_t bytes = 0;
            assert_true(ring_driver_take(&bench.driver, &id, &bytes));
            assert_int_equal(id, offered[order[k]]);
            assert_int_equal(bytes, k);
        }
        assert_int_equal(bench.queue.in_flight, 0);
        bench_end(&bench);
    }
}

static void several_chains_show_at_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        struct virtqueue_chain chains[3];
        uint16_t id = 0;
        uint32_t bytes = 0;
        bench_begin(&bench, formats[i], 16);
        for (unsigned k = 0; k < 3; k++) {
            (void)offer_request(&bench, k);
            assert_int_equal(virtqueue_pop(&bench.queue, &chains[k]), VIRTQUEUE_POPPED);
        }

        for (unsigned k = 0; k < 3; k++) {
            virtqueue_fill(&bench.queue, &chains[k], 1);
            assert_false(ring_driver_take(&bench.driver, &id, &bytes));
        }
        virtqueue_flush(&bench.queue);

        for (unsigned k = 0; k < 3; k++)
            assert_true(ring_driver_take(&bench.driver, &id, &bytes));
        assert_false(ring_driver_take(&bench.driver, &id, &bytes));
        bench_end(&bench);
    }
}

static void a_chain_put_back_comes_out_again(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        bench_begin(&bench, formats[i], 6 + (formats[i] & PACKED ? 0 : 2));
        for (unsigned turn = 0; turn < 20; turn++) {
            uint16_t id = 0;
            uint32_t bytes = 0;
            uint16_t offered = offer_request(&bench, 0);
            assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
            struct virtqueue_guest before = bench.queue.guest;
            virtqueue_unpop(&bench.queue, &bench.chain);
            assert_int_equal(bench.queue.in_flight, 0);
            assert_true(virtqueue_has_chain(&bench.queue));
            assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
            assert_memory_equal(&before, &bench.queue.guest, sizeof before);
            virtqueue_push(&bench.queue, &bench.chain, 0);
            assert_true(ring_driver_take(&bench.driver, &id, &bytes));
            assert_int_equal(id, offered);
        }
        bench_end(&bench);
    }
}

static bool is_marked(struct bitmap *dirty, uint64_t address)
{
    return bitmap_test(dirty, address >> PAGE_SHIFT);
}

static void every_byte_written_is_in_the_dirty_set(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        struct bitmap dirty;
        bench_begin(&bench, formats[i], 8);
        assert_int_equal(bitmap_init(&dirty, guest_memory_pages(bench.memory)), 0);
        (void)offer_request(&bench, 0);
        assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
        guest_memory_take_written(bench.memory, &dirty);
        assert_int_equal(bitmap_count(&dirty), 0);

        virtqueue_push(&bench.queue, &bench.chain, 4);
        guest_memory_take_written(bench.memory, &dirty);
        assert_true(is_marked(&dirty, BUFFERS + 0x1ffc));
        assert_false(is_marked(&dirty, BUFFERS + 0x2000));
        assert_false(is_marked(&dirty, BUFFERS));
        assert_true(is_marked(&dirty, formats[i] & PACKED ? bench.queue.guest.descriptors
                                                          : bench.queue.guest.device));
        assert_int_equal(bitmap_count(&dirty), 2);

        bitmap_clear_all(&dirty);
        (void)virtqueue_rearm(&bench.queue);
        guest_memory_take_written(bench.memory, &dirty);
        bool writes = formats[i] & (PACKED | EVENT);
        assert_int_equal(bitmap_count(&dirty), writes ? 1 : 0);
        assert_true(!writes || is_marked(&dirty, bench.queue.guest.device));

        bitmap_clear_all(&dirty);
        uint16_t id;
        uint32_t bytes;
        assert_true(ring_driver_take(&bench.driver, &id, &bytes));
        (void)offer_request(&bench, 0);
        assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
        virtqueue_push(&bench.queue, &bench.chain, 108);
        guest_memory_take_written(bench.memory, &dirty);
        assert_true(is_marked(&dirty, BUFFERS + 0x1ffc));
        assert_true(is_marked(&dirty, BUFFERS + 0x2000));
        assert_true(is_marked(&dirty, BUFFERS + 0x3000));
        bitmap_deinit(&dirty);
        bench_end(&bench);
    }
}

static void the_driver_is_told_exactly_when_it_asked(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        bench_begin(&bench, formats[i], 8);
        for (unsigned turn = 0; turn < 40; turn++) {
            bool want = turn % 3 != 1;
            uint16_t id;
            uint32_t bytes;
            ring_driver_want_interrupt(&bench.driver, want);
            assert_false(virtqueue_should_notify(&bench.queue));
            (void)offer_request(&bench, 0);
            assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
            virtqueue_push(&bench.queue, &bench.chain, 0);
            bool told = virtqueue_should_notify(&bench.queue);
            assert_true(told == want);
            assert_false(virtqueue_should_notify(&bench.queue));
            assert_true(ring_driver_take(&bench.driver, &id, &bytes));
        }
        bench_end(&bench);
    }
}

static void rearming_tells_what_came_meanwhile(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        bench_begin(&bench, formats[i], 8);
        assert_false(virtqueue_rearm(&bench.queue));
        (void)offer_request(&bench, 0);
        assert_true(virtqueue_rearm(&bench.queue));
        assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
        assert_false(virtqueue_rearm(&bench.queue));
        uint8_t *device = at(&bench, bench.queue.guest.device);
        if (formats[i] == EVENT)
            assert_int_equal(bytes_get_u16(device + 4 + 8 * 8), 1);
        if (formats[i] == (PACKED | EVENT)) {
            assert_int_equal(bytes_get_u16(device), 4 | 1 << 15);
            assert_int_equal(bytes_get_u16(device + 2), VRING_PACKED_EVENT_FLAG_DESC);
        }
        bench_end(&bench);
    }
}

static void refuses_rings_that_cannot_be(void **state)
{
    (void)state;
    static const struct {
        uint64_t descriptors, driver, device;
        uint16_t size;
        bool packed_only_is_fine;
    } bad[] = {
        {AREA + 8, AREA + 0x1000, AREA + 0x2000, 8, false},
        {AREA, AREA + 0x1001, AREA + 0x2000, 8, false},
        {AREA, AREA + 0x1000, AREA + 0x2002, 8, false},
        {MIB(16) - 64, AREA + 0x1000, AREA + 0x2000, 8, false},
        {AREA, MIB(16) - 4, MIB(16), 8, false},
        {AREA, AREA + 0x1000, UINT64_MAX - 3, 8, false},
        {UINT64_MAX - 15, AREA, AREA, 8, false},
        {AREA, AREA + 0x1000, AREA + 0x2000, 0, false},
        {AREA, AREA + 0x1000, AREA + 0x2000, VIRTQUEUE_SIZE_MAX + 1, false},
        {AREA, AREA + 0x1000, AREA + 0x2000, 6, true},
        {AREA, AREA + 0x1000, AREA + 0x2000, UINT16_MAX, false},
    };
    struct bench bench;
    bench_begin(&bench, 0, 8);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        for (unsigned packed = 0; packed < 2; packed++) {
            struct virtqueue queue = {.guest = {.descriptors = bad[i].descriptors,
                                                .driver = bad[i].driver,
                                                .device = bad[i].device,
                                                .size = bad[i].size}};
            bool started = virtqueue_start(&queue, bench.memory, packed ? PACKED : 0);
            assert_true(started == (packed && bad[i].packed_only_is_fine));
            if (started)
                continue;
            assert_non_null(queue.trouble);
            assert_int_equal(queue.guest.broken, 1);
            assert_int_equal(virtqueue_pop(&queue, &bench.chain), VIRTQUEUE_BROKEN);
            assert_false(virtqueue_rearm(&queue));
            assert_false(virtqueue_should_notify(&queue));
        }
    }
    bench_end(&bench);
}

static void put_split(struct bench *bench, unsigned slot, uint64_t address, uint32_t bytes,
                      uint16_t flags, uint16_t next)
{
    uint8_t *to = ring_driver_descriptor(&bench->driver, slot);
    bytes_put_u64(to, address);
    bytes_put_u32(to + 8, bytes);
    bytes_put_u16(to + 12, flags);
    bytes_put_u16(to + 14, next);
}

static void offer_head(struct bench *bench, uint16_t head)
{
    uint8_t *avail = ring_driver_avail(&bench->driver);
    uint16_t index = bytes_get_u16(avail + 2);
    bytes_put_u16(avail + 4 + index % 8 * 2, head);
    bytes_put_u16(avail + 2, (uint16_t)(index + 1));
}

static void assert_breaks(struct bench *bench, const char *words)
{
    struct virtqueue_guest before = bench->queue.guest;

    assert_int_equal(pop(bench), VIRTQUEUE_BROKEN);

    assert_non_null(strstr(bench->queue.trouble, words));
    before.broken = 1;
    assert_memory_equal(&before, &bench->queue.guest, sizeof before);
    assert_int_equal(pop(bench), VIRTQUEUE_BROKEN);
    bench_end(bench);
}

static void a_split_driver_that_breaks_the_rules_breaks_its_queue(void **state)
{
    (void)state;
    struct bench bench;
    enum { NEXT = VRING_DESC_F_NEXT, WRITE = VRING_DESC_F_WRITE, TABLE = VRING_DESC_F_INDIRECT };

    bench_begin(&bench, 0, 8);
    offer_head(&bench, 8);
    assert_breaks(&bench, "beyond its table");

    bench_begin(&bench, 0, 8);
    put_split(&bench, 0, BUFFERS, 4, NEXT, 9);
    offer_head(&bench, 0);
    assert_breaks(&bench, "beyond its table");

    bench_begin(&bench, 0, 8);
    put_split(&bench, 0, BUFFERS, 4, NEXT, 1);
    put_split(&bench, 1, BUFFERS, 4, NEXT, 0);
    offer_head(&bench, 0);
    assert_breaks(&bench, "loop");

    bench_begin(&bench, 0, 8);
    put_split(&bench, 0, BUFFERS, 0, 0, 0);
    offer_head(&bench, 0);
    assert_breaks(&bench, "empty");

    bench_begin(&bench, 0, 8);
    put_split(&bench, 0, MIB(16) - 2, 4, 0, 0);
    offer_head(&bench, 0);
    assert_breaks(&bench, "outside of memory");

    bench_begin(&bench, 0, 8);
    put_split(&bench, 0, BUFFERS, 4, NEXT | WRITE, 1);
    put_split(&bench, 1, BUFFERS, 4, 0, 0);
    offer_head(&bench, 0);
    assert_breaks(&bench, "behind a writable");

    bench_begin(&bench, 0, 8);
    put_split(&bench, 0, BUFFERS, 16, TABLE, 0);
    offer_head(&bench, 0);
    assert_breaks(&bench, "never agreed");

    bench_begin(&bench, INDIRECT, 8);
    put_split(&bench, 0, BUFFERS, 16, TABLE | NEXT, 1);
    offer_head(&bench, 0);
    assert_breaks(&bench, "not the end");

    bench_begin(&bench, INDIRECT, 8);
    put_split(&bench, 0, BUFFERS, 24, TABLE, 0);
    offer_head(&bench, 0);
    assert_breaks(&bench, "odd size");

    bench_begin(&bench, INDIRECT, 8);
    put_split(&bench, 0, MIB(16), 16, TABLE, 0);
    offer_head(&bench, 0);
    assert_breaks(&bench, "table lies outside");

    bench_begin(&bench, INDIRECT, 8);
    put_split(&bench, 0, AREA, 16, TABLE, 0);
    offer_head(&bench, 0);
    assert_breaks(&bench, "ring's own");

    bench_begin(&bench, INDIRECT, 8);
    put_split(&bench, 1, BUFFERS, 16, TABLE, 0);
    put_split(&bench, 0, AREA + 16, 16, TABLE, 0);
    offer_head(&bench, 0);
    assert_breaks(&bench, "holds another");

    bench_begin(&bench, 0, 8);
    bytes_put_u16(ring_driver_avail(&bench.driver) + 2, 9);
    assert_breaks(&bench, "more chains than the ring has");
}

static void an_indirect_table_of_any_length_ends_at_the_limit(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        for (unsigned parts = VIRTQUEUE_PARTS_MAX; parts <= VIRTQUEUE_PARTS_MAX + 1; parts++) {
            struct bench bench;
            bench_begin(&bench, INDIRECT | (packed ? PACKED : 0), 8);
            for (unsigned i = 0; i < parts; i++) {
                uint8_t *entry = at(&bench, BUFFERS + i * 16);
                bytes_put_u64(entry, BUFFERS + MIB(1));
                bytes_put_u32(entry + 8, 1);
                bytes_put_u16(entry + 12, packed || i + 1 == parts ? 0 : VRING_DESC_F_NEXT);
                bytes_put_u16(entry + 14, packed ? 0 : (uint16_t)(i + 1));
            }
            put_split(&bench, 0, BUFFERS, parts * 16, VRING_DESC_F_INDIRECT, 0);
            if (packed) {
                bytes_put_u16(ring_driver_descriptor(&bench.driver, 0) + 12, 0);
                bytes_put_u16(ring_driver_descriptor(&bench.driver, 0) + 14,
                              VRING_DESC_F_INDIRECT | 1 << 7);
            } else {
                offer_head(&bench, 0);
            }
            bool fits = parts <= VIRTQUEUE_PARTS_MAX;
            assert_int_equal(pop(&bench), fits ? VIRTQUEUE_POPPED : VIRTQUEUE_BROKEN);
            if (!fits)
                assert_non_null(strstr(bench.queue.trouble, "more parts"));
            bench_end(&bench);
        }
    }
}

static void offering_a_head_again_and_again_breaks_the_queue(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, 0, 8);
    put_split(&bench, 0, BUFFERS, 4, 0, 0);
    for (unsigned i = 0; i < 8; i++) {
        offer_head(&bench, 0);
        assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
    }
    offer_head(&bench, 0);
    assert_breaks(&bench, "not got back");
}

static void a_packed_driver_that_breaks_the_rules_breaks_its_queue(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, PACKED, 8);
    for (unsigned i = 0; i < 8; i++) {
        uint8_t *to = ring_driver_descriptor(&bench.driver, i);
        bytes_put_u64(to, BUFFERS);
        bytes_put_u32(to + 8, 4);
        bytes_put_u16(to + 14, 1 << 7 | VRING_DESC_F_NEXT);
    }
    assert_breaks(&bench, "loop");

    bench_begin(&bench, PACKED, 8);
    (void)offer_request(&bench, 0);
    bytes_put_u32(ring_driver_descriptor(&bench.driver, 2) + 8, 0);
    assert_breaks(&bench, "empty");

    /* A chain of five slots, where another of four is in flight. */
    bench_begin(&bench, PACKED, 8);
    (void)offer_request(&bench, 0);
    assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
    for (unsigned i = 4; i < 9; i++) {
        uint8_t *to = ring_driver_descriptor(&bench.driver, i % 8);
        bytes_put_u64(to, BUFFERS);
        bytes_put_u32(to + 8, 4);
        bytes_put_u16(to + 14, i == 8 ? 1 << 7 : 1 << 7 | VRING_DESC_F_NEXT);
    }
    assert_breaks(&bench, "not got back");
}

static void a_broken_queue_takes_chains_back_in_silence(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        uint16_t id;
        uint32_t bytes;
        bench_begin(&bench, formats[i], 8);
        (void)offer_request(&bench, 0);
        assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
        virtqueue_break(&bench.queue, "the device says so");

        virtqueue_push(&bench.queue, &bench.chain, 4);

        assert_false(ring_driver_take(&bench.driver, &id, &bytes));
        assert_false(virtqueue_should_notify(&bench.queue));
        assert_int_equal(bench.queue.in_flight, 0);
        assert_string_equal(bench.queue.trouble, "the device says so");
        bench_end(&bench);
    }
}

static int load_bytes(const uint8_t *bytes, size_t count, struct virtqueue_guest *ret_guest,
                      struct fault *fault)
{
    struct state_reader reader = {.section = "queue", .fault = fault};
    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__virtqueue_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    virtqueue_load(&reader, (const Godwit__VirtqueueStateV1 *)message, ret_guest);
    protobuf_c_message_free_unpacked(message, NULL);
    return reader.result;
}

static void its_guest_half_travels_and_the_ring_goes_on(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        struct virtqueue_guest loaded, again;
        struct virtqueue target;
        struct fault fault = {0};
        uint8_t *bytes = NULL, *second = NULL;
        size_t count = 0, second_count = 0;
        uint16_t id = 0;
        uint32_t written = 0;
        bench_begin(&bench, formats[i], 8);
        for (unsigned turn = 0; turn < 3; turn++) {
            (void)offer_request(&bench, 0);
            assert_int_equal(pop(&bench), VIRTQUEUE_POPPED);
            virtqueue_push(&bench.queue, &bench.chain, 0);
            assert_true(ring_driver_take(&bench.driver, &id, &written));
        }
        (void)virtqueue_should_notify(&bench.queue);
        uint16_t waiting = offer_request(&bench, 1);

        Godwit__VirtqueueStateV1 message = GODWIT__VIRTQUEUE_STATE_V1__INIT;
        virtqueue_save(&bench.queue.guest, &message);
        assert_int_equal(state_reader_pack(&message.base, &bytes, &count), 0);
        memset(&loaded, 0xa5, sizeof loaded);
        assert_int_equal(load_bytes(bytes, count, &loaded, &fault), 0);
        godwit__virtqueue_state_v1__init(&message);
        virtqueue_save(&loaded, &message);
        assert_int_equal(state_reader_pack(&message.base, &second, &second_count), 0);
        assert_int_equal(load_bytes(second, second_count, &again, &fault), 0);
        assert_int_equal(count, second_count);
        assert_memory_equal(bytes, second, count);
        assert_memory_equal(&loaded, &again, sizeof again);

        memset(&target, 0xa5, sizeof target);
        assert_true(virtqueue_revive(&target, &loaded, bench.memory, formats[i]));
        assert_int_equal(virtqueue_pop(&target, &bench.chain), VIRTQUEUE_POPPED);
        virtqueue_push(&target, &bench.chain, 0);
        assert_true(virtqueue_should_notify(&target)); /* whatever the source told last */
        assert_true(ring_driver_take(&bench.driver, &id, &written));
        assert_int_equal(id, waiting);
        free(bytes);
        free(second);
        bench_end(&bench);
    }
}

static void refuses_a_position_that_no_quiet_ring_has(void **state)
{
    (void)state;
    struct bench bench;
    struct virtqueue queue;
    bench_begin(&bench, PACKED, 8);
    struct virtqueue_guest guest = bench.queue.guest;
    assert_true(virtqueue_revive(&queue, &guest, bench.memory, PACKED));
    guest.next_avail = 1;
    assert_false(virtqueue_revive(&queue, &guest, bench.memory, PACKED));
    guest.next_used = 1;
    assert_true(virtqueue_revive(&queue, &guest, bench.memory, PACKED));
    guest.next_used = guest.next_avail = 8;
    assert_false(virtqueue_revive(&queue, &guest, bench.memory, PACKED));
    guest.next_used = guest.next_avail = 0;
    guest.used_wrap = 0;
    assert_false(virtqueue_revive(&queue, &guest, bench.memory, PACKED));
    guest.used_wrap = 1;
    guest.device = MIB(16);
    assert_false(virtqueue_revive(&queue, &guest, bench.memory, PACKED));
    guest.enabled = 0;
    assert_true(virtqueue_revive(&queue, &guest, bench.memory, PACKED));
    guest.enabled = guest.broken = 1;
    assert_true(virtqueue_revive(&queue, &guest, bench.memory, PACKED));
    assert_int_equal(virtqueue_pop(&queue, &bench.chain), VIRTQUEUE_BROKEN);
    bench_end(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chain_comes_out_in_order_and_goes_back),
        cmocka_unit_test(rings_go_round_many_times_with_chains_of_all_lengths),
        cmocka_unit_test(chains_go_back_in_any_order),
        cmocka_unit_test(several_chains_show_at_once),
        cmocka_unit_test(a_chain_put_back_comes_out_again),
        cmocka_unit_test(every_byte_written_is_in_the_dirty_set),
        cmocka_unit_test(the_driver_is_told_exactly_when_it_asked),
        cmocka_unit_test(rearming_tells_what_came_meanwhile),
        cmocka_unit_test(refuses_rings_that_cannot_be),
        cmocka_unit_test(a_split_driver_that_breaks_the_rules_breaks_its_queue),
        cmocka_unit_test(an_indirect_table_of_any_length_ends_at_the_limit),
        cmocka_unit_test(offering_a_head_again_and_again_breaks_the_queue),
        cmocka_unit_test(a_packed_driver_that_breaks_the_rules_breaks_its_queue),
        cmocka_unit_test(a_broken_queue_takes_chains_back_in_silence),
        cmocka_unit_test(its_guest_half_travels_and_the_ring_goes_on),
        cmocka_unit_test(refuses_a_position_that_no_quiet_ring_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
