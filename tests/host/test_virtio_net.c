/* Network cards over real taps, without a guest: a driver's rings on one side, a packet socket on
 * the tap's other. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "tests/host/tap_echo.h"
#include "tests/support/virtio_machine.h"
#include "vmm-core/dev_virtio_net.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

enum {
    RINGS = 0x100000,
    RECEIVED = 0x400000,
    SENT = 0x600000,
    COMMANDS = 0x700000,
    SLOT = 1,
    CONTROL = 2, /* with one queue pair */
    FRAME = 200,
    HEADER = VIRTIO_NET_HEADER_BYTES,
};

#define MERGE VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF)
#define PACKED VIRTIO_FEATURE(VIRTIO_F_RING_PACKED)
#define EVENT VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define CONTROLS                                                                                   \
    (VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE) |          \
     VIRTIO_FEATURE(VIRTIO_NET_F_MQ) | VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |          \
     VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO4) |           \
     VIRTIO_FEATURE(VIRTIO_NET_F_STATUS))

static const uint64_t formats[] = {0, PACKED, EVENT | MERGE, PACKED | EVENT | MERGE};

struct bench {
    struct virtio_machine *machine;
    struct virtio_driver driver;
    struct tap_echo *tap;
    unsigned pairs, received;
};

static struct virtio_machine *make_machine(unsigned pairs)
{
    const struct vm_nic_config nic = {
        .fds = {-1}, .queue_pairs = pairs, .mac = {0x52, 0x54, 0, 1, 2, 3}, .mtu = 1500};
    const struct vm_config config = {.vcpus = 1, .nics = &nic, .nic_count = 1};
    return virtio_machine_new(&config);
}

static struct virtio_device *device_of(struct bench *bench)
{
    return virtio_bus_find(&bench->machine->virtio, &virtio_net_kind, 0);
}

static void attach(struct bench *bench)
{
    int fds[TAP_ECHO_QUEUES_MAX];
    struct fault fault = {0};
    for (unsigned i = 0; i < bench->pairs; i++)
        fds[i] = tap_echo_fd(bench->tap, i);
    (void)pthread_mutex_lock(&bench->machine->lock);
    int r = virtio_net_attach(device_of(bench), fds, bench->pairs, &fault);
    (void)pthread_mutex_unlock(&bench->machine->lock);
    if (r < 0)
        fail_msg("%s", fault.text);
}

static void bench_begin(struct bench *bench, uint64_t features, unsigned pairs)
{
    memset(bench, 0, sizeof *bench);
    bench->pairs = pairs;
    bench->tap = tap_echo_new("devnet0", pairs, false);
    bench->machine = make_machine(pairs);
    virtio_machine_go(bench->machine);
    assert_true(virtio_driver_init(&bench->driver, bench->machine, SLOT, features, RINGS, 32));
    attach(bench);
}

static void bench_end(struct bench *bench)
{
    bench->machine = virtio_machine_free(bench->machine);
    bench->tap = tap_echo_free(bench->tap);
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

static void make_frame(uint8_t *frame, size_t bytes, uint8_t seed)
{
    static const uint8_t head[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,
                                   0,    0,    0,    0,    9,    0x88, 0xb5};
    for (size_t i = 0; i < bytes; i++)
        frame[i] = (uint8_t)(seed + i * 3);
    memcpy(frame, head, sizeof head);
}

static void send_frame(struct bench *bench, unsigned queue, size_t bytes, uint8_t seed)
{
    memset(at(bench, SENT), 0, HEADER);
    make_frame(at(bench, SENT + 0x1000), bytes, seed);
    const struct ring_buffer buffers[] = {{SENT, HEADER, false},
                                          {SENT + 0x1000, (uint32_t)bytes, false}};
    (void)ring_driver_offer(&bench->driver.rings[queue], buffers, 2, false);
    virtio_driver_kick(&bench->driver, queue);
}

/* The next frame of ours that left the tap. */
static size_t frame_out(struct bench *bench, uint8_t *ret_frame, size_t size)
{
    for (;;) {
        ssize_t bytes = recv(tap_echo_socket(bench->tap), ret_frame, size, 0);
        assert_true(bytes > 14);
        if (ret_frame[12] == 0x88 && ret_frame[13] == 0xb5)
            return (size_t)bytes;
    }
}

static void frame_in(struct bench *bench, size_t bytes, uint8_t seed)
{
    uint8_t frame[2048];
    make_frame(frame, bytes, seed);
    assert_int_equal(send(tap_echo_socket(bench->tap), frame, bytes, 0), (ssize_t)bytes);
}

static void offer_buffer(struct bench *bench, uint32_t bytes)
{
    const struct ring_buffer buffer = {RECEIVED + bench->received * UINT64_C(0x1000), bytes, true};
    bench->received = (bench->received + 1) % 64;
    (void)ring_driver_offer(&bench->driver.rings[0], &buffer, 1, false);
    virtio_driver_kick(&bench->driver, 0);
}

static struct vm_nic_stats stats_of(struct bench *bench)
{
    struct vm_nic_stats stats;
    (void)pthread_mutex_lock(&bench->machine->lock);
    virtio_net_stats(device_of(bench), &stats);
    (void)pthread_mutex_unlock(&bench->machine->lock);
    return stats;
}

static void frames_go_both_ways_byte_by_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        uint8_t got[2048], wanted[FRAME];
        struct bitmap dirty;
        bench_begin(&bench, formats[i], 1);
        assert_int_equal(bitmap_init(&dirty, MIB(16) >> PAGE_SHIFT), 0);

        send_frame(&bench, 1, FRAME, 5);
        assert_int_equal(frame_out(&bench, got, sizeof got), FRAME);
        make_frame(wanted, FRAME, 5);
        assert_memory_equal(got, wanted, FRAME);
        assert_int_equal(await_used(&bench, 1), 0);

        offer_buffer(&bench, 2048);
        frame_in(&bench, FRAME, 9);
        assert_int_equal(await_used(&bench, 0), FRAME + HEADER);
        make_frame(wanted, FRAME, 9);
        assert_memory_equal(at(&bench, RECEIVED + HEADER), wanted, FRAME);
        assert_int_equal(bytes_get_u16(at(&bench, RECEIVED + 10)), 1);
        guest_memory_take_written(bench.machine->memory, &dirty);
        assert_true(bitmap_test(&dirty, RECEIVED >> PAGE_SHIFT));
        bitmap_deinit(&dirty);
        bench_end(&bench);
    }
}

static void a_frame_takes_as_many_buffers_as_it_needs(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct bench bench;
        uint8_t wanted[1500], got[1500];
        bench_begin(&bench, MERGE | (packed ? PACKED : 0), 1);
        for (unsigned i = 0; i < 4; i++)
            offer_buffer(&bench, 512);
        frame_in(&bench, 1400, 1);

        assert_int_equal(await_used(&bench, 0), 512);
        assert_int_equal(await_used(&bench, 0), 512);
        assert_int_equal(await_used(&bench, 0), 1400 + HEADER - 1024);

        assert_int_equal(bytes_get_u16(at(&bench, RECEIVED + 10)), 3);
        make_frame(wanted, 1400, 1);
        memcpy(got, at(&bench, RECEIVED + HEADER), 500);
        memcpy(got + 500, at(&bench, RECEIVED + 0x1000), 512);
        memcpy(got + 1012, at(&bench, RECEIVED + 0x2000), 388);
        assert_memory_equal(got, wanted, 1400);
        bench_end(&bench);
    }
}

static void a_frame_without_room_is_dropped_and_the_next_comes(void **state)
{
    (void)state;
    static const uint64_t features[] = {0, MERGE, MERGE | PACKED};
    for (size_t i = 0; i < ARRAY_COUNT(features); i++) {
        struct bench bench;
        uint8_t wanted[300];
        bench_begin(&bench, features[i], 1);
        offer_buffer(&bench, 512);
        offer_buffer(&bench, 512);
        frame_in(&bench, 1500, 1); /* three would do */
        frame_in(&bench, 300, 2);

        assert_int_equal(await_used(&bench, 0), 300 + HEADER);

        make_frame(wanted, 300, 2);
        assert_memory_equal(at(&bench, RECEIVED + HEADER), wanted, 300);
        assert_int_equal(stats_of(&bench).receive_drops, 1);
        assert_int_equal(stats_of(&bench).received_frames, 1);
        bench_end(&bench);
    }
}

static void frames_wait_in_the_tap_for_a_buffer(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, EVENT, 1);
    for (unsigned i = 0; i < 20; i++)
        frame_in(&bench, 100 + i, (uint8_t)i);
    for (unsigned i = 0; i < 20; i++) {
        offer_buffer(&bench, 2048);
        assert_int_equal(await_used(&bench, 0), 100 + i + HEADER);
    }
    bench_end(&bench);
}

static void frames_wait_in_their_queue_for_a_tap(void **state)
{
    (void)state;
    struct bench bench = {.pairs = 1};
    uint8_t got[2048];
    bench.tap = tap_echo_new("devnet0", 1, false);
    bench.machine = make_machine(1);
    virtio_machine_go(bench.machine);
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, PACKED, RINGS, 32));
    send_frame(&bench, 1, FRAME, 7);
    uint16_t id;
    uint32_t bytes;
    assert_false(ring_driver_take(&bench.driver.rings[1], &id, &bytes));

    attach(&bench);

    assert_int_equal(frame_out(&bench, got, sizeof got), FRAME);
    (void)await_used(&bench, 1);
    bench_end(&bench);
}

static uint8_t command(struct bench *bench, uint8_t class, uint8_t what, const void *argument,
                       uint32_t bytes)
{
    uint8_t *head = at(bench, COMMANDS);
    head[0] = class;
    head[1] = what;
    if (bytes)
        memcpy(head + 0x100, argument, bytes);
    at(bench, COMMANDS + 0x200)[0] = 0xee;
    struct ring_buffer buffers[3] = {{COMMANDS, 2, false}};
    unsigned count = 1;
    if (bytes)
        buffers[count++] = (struct ring_buffer){COMMANDS + 0x100, bytes, false};
    buffers[count++] = (struct ring_buffer){COMMANDS + 0x200, 1, true};
    (void)ring_driver_offer(&bench->driver.rings[CONTROL], buffers, count, false);
    virtio_driver_kick(&bench->driver, CONTROL);
    assert_int_equal(await_used(bench, CONTROL), 1);
    return at(bench, COMMANDS + 0x200)[0];
}

static void commands_are_carried_out_or_refused(void **state)
{
    (void)state;
    struct bench bench;
    const uint64_t checksums = VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM);
    const uint64_t more = VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO6);
    const uint16_t two = 2;
    bench_begin(&bench, CONTROLS, 1);

    assert_int_equal(command(&bench, 5, 0, &checksums, 8), VIRTIO_NET_OK);
    assert_int_equal(command(&bench, 5, 0, &more, 8), VIRTIO_NET_ERR); /* never agreed on */
    assert_int_equal(command(&bench, 5, 0, &checksums, 4), VIRTIO_NET_ERR);
    assert_int_equal(command(&bench, 4, 0, &two, 2), VIRTIO_NET_ERR); /* it has one pair */
    assert_int_equal(command(&bench, 3, 0, NULL, 0), VIRTIO_NET_OK);
    assert_int_equal(command(&bench, 0, 0, "\1", 1), VIRTIO_NET_ERR);
    assert_int_equal(command(&bench, 77, 7, NULL, 0), VIRTIO_NET_ERR);
    bench_end(&bench);
}

static void several_pairs_take_part_when_the_guest_says_so(void **state)
{
    (void)state;
    struct bench bench;
    uint8_t got[2048];
    bench_begin(&bench, CONTROLS & ~VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ), 2);
    send_frame(&bench, 3, FRAME, 3); /* not in use: waits */
    send_frame(&bench, 1, FRAME + 1, 1);
    assert_int_equal(frame_out(&bench, got, sizeof got), FRAME + 1);
    struct virtio_net_guest guest;
    (void)pthread_mutex_lock(&bench.machine->lock);
    struct fault fault = {0};
    virtio_net_capture(device_of(&bench), &guest);
    guest.active_pairs = 2; /* as if a driver with a control queue had asked */
    assert_int_equal(virtio_net_revive(device_of(&bench), &guest, &fault), 0);
    (void)pthread_mutex_unlock(&bench.machine->lock);
    virtio_driver_kick(&bench.driver, 3);
    assert_int_equal(frame_out(&bench, got, sizeof got), FRAME);
    bench_end(&bench);
}

static void await_needs_reset(struct bench *bench)
{
    while (!(virtio_driver_status(&bench->driver) & VIRTIO_STATUS_NEEDS_RESET))
        ; /* it comes by the I/O thread */
}

static void a_driver_that_breaks_the_rules_starts_over(void **state)
{
    (void)state;
    struct bench bench;
    uint8_t got[2048];
    bench_begin(&bench, CONTROLS, 1);
    const struct ring_buffer stub = {SENT, HEADER - 1, false};
    (void)ring_driver_offer(&bench.driver.rings[1], &stub, 1, false);
    virtio_driver_kick(&bench.driver, 1);
    await_needs_reset(&bench);
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, CONTROLS, RINGS, 32));

    offer_buffer(&bench, HEADER - 1);
    frame_in(&bench, FRAME, 1);
    await_needs_reset(&bench);
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, CONTROLS, RINGS, 32));

    const struct ring_buffer mute = {COMMANDS, 2, false};
    (void)ring_driver_offer(&bench.driver.rings[CONTROL], &mute, 1, false);
    virtio_driver_kick(&bench.driver, CONTROL);
    await_needs_reset(&bench);
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, CONTROLS, RINGS, 32));

    send_frame(&bench, 1, FRAME, 1);
    assert_int_equal(frame_out(&bench, got, sizeof got), FRAME);
    bench_end(&bench);
}

static unsigned status_of(struct bench *bench)
{
    return (unsigned)virtio_machine_read(bench->machine, bench->driver.bar + 0x2006, 2);
}

static void a_moved_guest_is_asked_to_announce_itself_once_it_has_its_tap(void **state)
{
    (void)state;
    struct bench bench;
    struct fault fault = {0};
    static struct machine_guest guest;
    bench_begin(&bench, CONTROLS | PACKED, 1);
    assert_int_equal(status_of(&bench), VIRTIO_NET_S_LINK_UP);
    virtio_machine_stop(bench.machine);
    assert_int_equal(virtio_machine_save(bench.machine, &guest, &fault), 0);
    struct virtio_machine *target = make_machine(1);
    memcpy(guest_memory_base(target->memory), at(&bench, 0), MIB(16));
    if (virtio_machine_load(target, &guest, &fault) < 0)
        fail_msg("%s", fault.text);
    bench.machine = virtio_machine_free(bench.machine);
    bench.machine = bench.driver.machine = target;
    for (unsigned i = 0; i < VIRTIO_DRIVER_QUEUES; i++)
        bench.driver.rings[i].memory = target->memory;
    virtio_machine_go(target);
    assert_int_equal(status_of(&bench), VIRTIO_NET_S_LINK_UP);

    attach(&bench);

    assert_int_equal(status_of(&bench), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    assert_int_equal(command(&bench, 3, 0, NULL, 0), VIRTIO_NET_OK);
    assert_int_equal(status_of(&bench), VIRTIO_NET_S_LINK_UP);
    uint8_t got[2048];
    send_frame(&bench, 1, FRAME, 1);
    assert_int_equal(frame_out(&bench, got, sizeof got), FRAME);
    bench_end(&bench);
}

/* What of a machine goes on in `target`, a machine of another VM with a card of its own. */
static void go_on_as_twin(struct bench *bench, struct virtio_machine *target)
{
    static struct machine_guest guest;
    struct fault fault = {0};
    virtio_machine_stop(bench->machine);
    assert_int_equal(virtio_machine_save(bench->machine, &guest, &fault), 0);
    memcpy(guest_memory_base(target->memory), at(bench, 0), MIB(16));
    if (virtio_machine_load(target, &guest, &fault) < 0)
        fail_msg("%s", fault.text);
    bench->machine = virtio_machine_free(bench->machine);
    bench->machine = bench->driver.machine = target;
    for (unsigned i = 0; i < VIRTIO_DRIVER_QUEUES; i++)
        bench->driver.rings[i].memory = target->memory;
    virtio_machine_go(target);
}

static struct virtio_machine *make_twin(bool unplugged)
{
    const struct vm_nic_config nic = {.fds = {-1},
                                      .queue_pairs = 1,
                                      .mac = {0x52, 0x54, 0, 1, 2, 9},
                                      .mtu = 1500,
                                      .unplugged = unplugged};
    const struct vm_config config = {
        .vcpus = 1, .nics = &nic, .nic_count = 1, .keeps_macs = true};
    return virtio_machine_new(&config);
}

static void a_twin_keeps_its_own_address_and_its_cable_is_out(void **state)
{
    (void)state;
    struct bench bench;
    struct virtio_net_guest guest;
    struct vm_nic_stats stats;
    struct fault fault = {0};
    int null = 0;
    bench_begin(&bench, CONTROLS, 1);
    assert_int_equal(status_of(&bench), VIRTIO_NET_S_LINK_UP);

    go_on_as_twin(&bench, make_twin(true));

    virtio_net_capture(device_of(&bench), &guest);
    assert_int_equal(guest.mac[5], 9);
    assert_int_equal(status_of(&bench), 0);
    assert_int_equal(virtio_net_attach(device_of(&bench), &null, 1, &fault), ERR_STATE);
    send_frame(&bench, 1, FRAME, 1); /* into the air, but its buffers come back */
    (void)await_used(&bench, 1);
    virtio_net_stats(device_of(&bench), &stats);
    assert_true(stats.send_drops == 1 && stats.sent_frames == 0);

    go_on_as_twin(&bench, make_twin(false)); /* a twin of the twin, on a bridge */

    assert_int_equal(status_of(&bench), VIRTIO_NET_S_LINK_UP);
    attach(&bench);
    uint8_t got[2048];
    send_frame(&bench, 1, FRAME, 1);
    assert_int_equal(frame_out(&bench, got, sizeof got), FRAME);
    bench_end(&bench);
}

static void delete_interface(const char *name)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg info;
    } request = {.header = {.nlmsg_len = sizeof request,
                            .nlmsg_type = RTM_DELLINK,
                            .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
                 .info = {.ifi_index = (int)if_nametoindex(name)}};
    uint8_t answer[256];
    AUTO_FD int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    assert_int_equal(send(fd, &request, sizeof request, 0), sizeof request);
    assert_true(recv(fd, answer, sizeof answer, 0) > 0);
}

static void a_tap_that_was_deleted_is_a_cable_pulled_out(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, CONTROLS, 1);
    offer_buffer(&bench, 2048);

    delete_interface("devnet0");

    while (status_of(&bench) & VIRTIO_NET_S_LINK_UP)
        ;                            /* told by the kernel to the I/O thread */
    send_frame(&bench, 1, FRAME, 1); /* waits for ever, harms nobody */
    bench.machine = virtio_machine_free(bench.machine);
    bench.tap = tap_echo_free(bench.tap);
}

static void another_card_is_refused(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct bench bench = {.machine = make_machine(1)};
    struct virtio_net_guest guest;
    virtio_net_capture(device_of(&bench), &guest);
    guest.mac[5]++;
    assert_int_equal(virtio_net_revive(device_of(&bench), &guest, &fault), ERR_CORRUPT);
    assert_string_equal(fault.text, "nic 0 is another one: MAC, MTU or queues differ");
    int null = 0;
    assert_int_equal(virtio_net_attach(device_of(&bench), &null, 1, &fault), ERR_INVALID);
    bench.machine = virtio_machine_free(bench.machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_go_both_ways_byte_by_byte),
        cmocka_unit_test(a_frame_takes_as_many_buffers_as_it_needs),
        cmocka_unit_test(a_frame_without_room_is_dropped_and_the_next_comes),
        cmocka_unit_test(frames_wait_in_the_tap_for_a_buffer),
        cmocka_unit_test(frames_wait_in_their_queue_for_a_tap),
        cmocka_unit_test(commands_are_carried_out_or_refused),
        cmocka_unit_test(several_pairs_take_part_when_the_guest_says_so),
        cmocka_unit_test(a_driver_that_breaks_the_rules_starts_over),
        cmocka_unit_test(a_moved_guest_is_asked_to_announce_itself_once_it_has_its_tap),
        cmocka_unit_test(a_tap_that_was_deleted_is_a_cable_pulled_out),
        cmocka_unit_test(a_twin_keeps_its_own_address_and_its_cable_is_out),
        cmocka_unit_test(another_card_is_refused),
    };
    tap_echo_enter_namespace();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
