/* Streams between a Unix socket and a guest's driver, over the whole way of a chain. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/virtio_vsock.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "tests/support/virtio_machine.h"
#include "vmm-core/dev_virtio_vsock.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

enum {
    RINGS = 0x100000,
    BUFFERS = 0x400000, /* of 4 KiB, for the guest to receive into */
    PACKETS = 0x600000, /* what the guest sends */
    SLOT = 1,
    CID = 42,
    RECEIVE = 0,
    SEND = 1,
    EVENT = 2,
    HEADER = 44,
    ROOM = 16384,
};

static const uint64_t formats[] = {0, VIRTIO_FEATURE(VIRTIO_F_RING_PACKED) |
                                          VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX)};

struct bench {
    struct virtio_machine *machine;
    struct virtio_driver driver;
    struct sockaddr_un address;
    uint32_t forwarded; /* as the guest says */
    unsigned next;      /* buffer to come back: they do in the order in which they were offered */
};

struct packet {
    uint64_t source_cid, target_cid;
    uint32_t source_port, target_port, bytes, flags, room, forwarded;
    uint16_t op;
    const uint8_t *data;
};

static uint8_t *at(struct bench *bench, uint64_t address)
{
    return guest_memory_base(bench->machine->memory) + address;
}

static struct virtio_machine *make_machine(void)
{
    const struct vm_config config = {.vcpus = 1, .vsock_cid = CID};
    return virtio_machine_new(&config);
}

static struct virtio_device *device_of(struct virtio_machine *machine)
{
    return virtio_bus_find(&machine->virtio, &virtio_vsock_kind, 0);
}

static void give_listener(struct bench *bench)
{
    struct fault fault = {0};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t bytes = sizeof(sa_family_t); /* the kernel finds an abstract name */
    bench->address = (struct sockaddr_un){.sun_family = AF_UNIX};
    assert_int_equal(bind(fd, (const struct sockaddr *)&bench->address, bytes), 0);
    assert_int_equal(listen(fd, 128), 0);
    bytes = sizeof bench->address;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&bench->address, &bytes), 0);
    (void)pthread_mutex_lock(&bench->machine->lock);
    int r = virtio_vsock_attach(device_of(bench->machine), fd, &fault);
    (void)pthread_mutex_unlock(&bench->machine->lock);
    if (r < 0)
        fail_msg("%s", fault.text);
}

static void offer_buffer(struct bench *bench, unsigned queue, unsigned index, uint32_t bytes)
{
    const struct ring_buffer buffer = {BUFFERS + queue * 0x80000 + index * 0x1000, bytes, true};
    (void)ring_driver_offer(&bench->driver.rings[queue], &buffer, 1, false);
}

static void bench_begin(struct bench *bench, uint64_t features)
{
    memset(bench, 0, sizeof *bench);
    bench->machine = make_machine();
    virtio_machine_go(bench->machine);
    assert_true(virtio_driver_init(&bench->driver, bench->machine, SLOT, features, RINGS, 32));
    give_listener(bench);
    for (unsigned i = 0; i < 8; i++)
        offer_buffer(bench, RECEIVE, i, 4096);
    offer_buffer(bench, EVENT, 0, 16);
    virtio_driver_kick(&bench->driver, RECEIVE);
    virtio_driver_kick(&bench->driver, EVENT);
}

static void bench_end(struct bench *bench)
{
    bench->machine = virtio_machine_free(bench->machine);
}

static void await_used(struct bench *bench, unsigned queue, uint16_t *ret_id, uint32_t *ret_bytes)
{
    struct ring_driver *ring = &bench->driver.rings[queue];
    while (!ring_driver_take(ring, ret_id, ret_bytes)) {
        ring_driver_want_interrupt(ring, true);
        if (ring_driver_take(ring, ret_id, ret_bytes))
            return;
        virtio_machine_await(bench->machine, virtio_driver_vector(&bench->driver, queue), 1);
    }
}

/* The next packet to the guest; its data holds until the next call. */
static struct packet receive(struct bench *bench)
{
    uint16_t id;
    uint32_t bytes;
    unsigned index = bench->next++ % 8;
    await_used(bench, RECEIVE, &id, &bytes);
    uint8_t *header = at(bench, BUFFERS + index * UINT64_C(0x1000));
    assert_true(bytes >= HEADER);
    struct packet packet = {
        .source_cid = bytes_get_u64(header),
        .target_cid = bytes_get_u64(header + 8),
        .source_port = bytes_get_u32(header + 16),
        .target_port = bytes_get_u32(header + 20),
        .bytes = bytes_get_u32(header + 24),
        .op = bytes_get_u16(header + 30),
        .flags = bytes_get_u32(header + 32),
        .room = bytes_get_u32(header + 36),
        .forwarded = bytes_get_u32(header + 40),
    };
    assert_int_equal(packet.bytes, bytes - HEADER);
    assert_int_equal(bytes_get_u16(header + 28), VIRTIO_VSOCK_TYPE_STREAM);
    static uint8_t data[4096];
    memcpy(data, header + HEADER, packet.bytes);
    packet.data = data;
    offer_buffer(bench, RECEIVE, index, 4096);
    virtio_driver_kick(&bench->driver, RECEIVE);
    return packet;
}

static void send_raw(struct bench *bench, const struct packet *packet, uint32_t real_bytes)
{
    uint8_t *header = at(bench, PACKETS);
    bytes_put_u64(header, packet->source_cid);
    bytes_put_u64(header + 8, packet->target_cid);
    bytes_put_u32(header + 16, packet->source_port);
    bytes_put_u32(header + 20, packet->target_port);
    bytes_put_u32(header + 24, packet->bytes);
    bytes_put_u16(header + 28, VIRTIO_VSOCK_TYPE_STREAM);
    bytes_put_u16(header + 30, packet->op);
    bytes_put_u32(header + 32, packet->flags);
    bytes_put_u32(header + 36, packet->room);
    bytes_put_u32(header + 40, packet->forwarded);
    if (real_bytes)
        memcpy(header + 0x1000, packet->data, real_bytes);
    const struct ring_buffer buffers[] = {{PACKETS, HEADER, false},
                                          {PACKETS + 0x1000, real_bytes, false}};
    (void)ring_driver_offer(&bench->driver.rings[SEND], buffers, real_bytes ? 2 : 1, false);
    virtio_driver_kick(&bench->driver, SEND);
}

/* Answer `to` from its own ends. */
static void answer(struct bench *bench, const struct packet *to, uint16_t op, uint32_t flags,
                   const char *data)
{
    const struct packet packet = {
        .source_cid = CID,
        .target_cid = VIRTIO_VSOCK_HOST_CID,
        .source_port = to->target_port,
        .target_port = to->source_port,
        .bytes = data ? (uint32_t)strlen(data) : 0,
        .op = op,
        .flags = flags,
        .room = ROOM,
        .forwarded = bench->forwarded,
        .data = (const uint8_t *)data,
    };
    uint16_t id;
    uint32_t bytes;
    send_raw(bench, &packet, packet.bytes);
    await_used(bench, SEND, &id, &bytes);
}

static int dial(struct bench *bench, const char *line)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 6);
    assert_int_equal(connect(fd, (const struct sockaddr *)&bench->address, bytes), 0);
    assert_int_equal(write(fd, line, strlen(line)), (ssize_t)strlen(line));
    return fd;
}

static void expect_text(int fd, const char *text)
{
    char got[128] = {0};
    size_t count = 0;
    while (count < strlen(text)) {
        ssize_t r = read(fd, got + count, strlen(text) - count);
        assert_true(r > 0);
        count += (size_t)r;
    }
    assert_string_equal(got, text);
}

static void expect_end(int fd)
{
    char byte;
    assert_true(read(fd, &byte, 1) <= 0); /* end or reset */
    (void)close(fd);
}

/* A stream that is open at both ends; the guest's view of it is `ret_request`. */
static int open_stream(struct bench *bench, struct packet *ret_request)
{
    char line[32];
    int fd = dial(bench, "CONNECT 1234\n");
    *ret_request = receive(bench);
    assert_int_equal(ret_request->op, VIRTIO_VSOCK_OP_REQUEST);
    assert_int_equal(ret_request->source_cid, VIRTIO_VSOCK_HOST_CID);
    assert_int_equal(ret_request->target_cid, CID);
    assert_int_equal(ret_request->target_port, 1234);
    assert_int_equal(ret_request->room, VIRTIO_VSOCK_BUFFER_BYTES);
    answer(bench, ret_request, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL);
    (void)snprintf(line, sizeof line, "OK %u\n", ret_request->source_port);
    expect_text(fd, line);
    return fd;
}

static void a_host_program_talks_with_one_in_the_guest(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct bench bench;
        struct packet request;
        bench_begin(&bench, formats[i]);
        int fd = open_stream(&bench, &request);

        assert_int_equal(write(fd, "hello guest", 11), 11);
        struct packet packet = receive(&bench);
        assert_int_equal(packet.op, VIRTIO_VSOCK_OP_RW);
        assert_memory_equal(packet.data, "hello guest", 11);
        answer(&bench, &request, VIRTIO_VSOCK_OP_RW, 0, "hello host");
        expect_text(fd, "hello host");

        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        packet = receive(&bench);
        assert_int_equal(packet.op, VIRTIO_VSOCK_OP_SHUTDOWN);
        assert_int_equal(packet.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
        answer(&bench, &request, VIRTIO_VSOCK_OP_RW, 0, "last words");
        answer(&bench, &request, VIRTIO_VSOCK_OP_SHUTDOWN,
               VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV, NULL);
        packet = receive(&bench);
        assert_int_equal(packet.op, VIRTIO_VSOCK_OP_RST);
        expect_text(fd, "last words");
        expect_end(fd);
        bench_end(&bench);
    }
}

static int connect_to(struct bench *bench, int *ret_fd, struct fault *fault)
{
    (void)pthread_mutex_lock(&bench->machine->lock);
    int r = virtio_vsock_connect(device_of(bench->machine), 1234, ret_fd, fault);
    (void)pthread_mutex_unlock(&bench->machine->lock);
    return r;
}

static void set_blocking(int fd)
{
    assert_int_equal(fcntl(fd, F_SETFL, O_RDWR), 0);
}

static void this_process_talks_with_a_program_in_the_guest(void **state)
{
    (void)state;
    struct bench bench;
    struct fault fault = {0};
    int fd = -1;
    char line[32];
    bench_begin(&bench, VIRTIO_FEATURE(VIRTIO_F_RING_PACKED));
    if (connect_to(&bench, &fd, &fault) < 0)
        fail_msg("%s", fault.text);
    set_blocking(fd);
    struct packet request = receive(&bench);
    assert_int_equal(request.op, VIRTIO_VSOCK_OP_REQUEST);
    assert_int_equal(request.target_port, 1234);
    answer(&bench, &request, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL);
    (void)snprintf(line, sizeof line, "OK %u\n", request.source_port);
    expect_text(fd, line);

    assert_int_equal(write(fd, "prepare\n", 8), 8);
    struct packet packet = receive(&bench);
    assert_int_equal(packet.op, VIRTIO_VSOCK_OP_RW);
    assert_memory_equal(packet.data, "prepare\n", 8);
    answer(&bench, &request, VIRTIO_VSOCK_OP_RW, 0, "ready\n");
    expect_text(fd, "ready\n");
    (void)close(fd);
    packet = receive(&bench);
    assert_int_equal(packet.op, VIRTIO_VSOCK_OP_SHUTDOWN);
    bench_end(&bench);
}

static void this_process_hears_that_nobody_listens_in_the_guest(void **state)
{
    (void)state;
    struct bench bench;
    struct fault fault = {0};
    int fd = -1;
    bench_begin(&bench, 0);
    assert_int_equal(connect_to(&bench, &fd, &fault), 0);
    set_blocking(fd);
    struct packet request = receive(&bench);
    answer(&bench, &request, VIRTIO_VSOCK_OP_RST, 0, NULL);
    expect_end(fd);
    bench_end(&bench);
}

static void a_guest_without_a_driver_is_not_asked(void **state)
{
    (void)state;
    struct bench bench = {.machine = make_machine()};
    struct fault fault = {0};
    int fd = -1;
    virtio_machine_go(bench.machine);

    assert_int_equal(connect_to(&bench, &fd, &fault), ERR_STATE);

    assert_string_equal(fault.text, "the guest has no driver for its vsock");
    assert_int_equal(fd, -1);
    bench_end(&bench);
}

/* It never offers a buffer, so it never hears of them: none of them may stay. */
static void streams_that_the_guest_never_hears_of_leave_no_trace(void **state)
{
    (void)state;
    struct bench bench;
    struct fault fault = {0};
    memset(&bench, 0, sizeof bench);
    bench.machine = make_machine();
    virtio_machine_go(bench.machine);
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, 0, RINGS, 32));
    int fds[VIRTIO_VSOCK_STREAMS_MAX];
    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS_MAX; i++)
        assert_int_equal(connect_to(&bench, &fds[i], &fault), 0);
    int one_more = -1;
    assert_int_equal(connect_to(&bench, &one_more, &fault), ERR_LIMIT);

    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS_MAX; i++)
        (void)close(fds[i]);

    unsigned left;
    do { /* it comes by the I/O thread */
        (void)pthread_mutex_lock(&bench.machine->lock);
        left = virtio_vsock_streams(device_of(bench.machine));
        (void)pthread_mutex_unlock(&bench.machine->lock);
        (void)sched_yield();
    } while (left);
    bench_end(&bench);
}

static void a_port_where_nobody_listens_closes_the_connection(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, 0);
    int fd = dial(&bench, "CONNECT 99\n");
    struct packet request = receive(&bench);
    answer(&bench, &request, VIRTIO_VSOCK_OP_RST, 0, NULL);
    expect_end(fd);
    bench_end(&bench);
}

static void a_program_that_says_anything_else_is_turned_away(void **state)
{
    (void)state;
    static const char *const lines[] = {"GET / HTTP/1.1\n",
                                        "CONNECT\n",
                                        "CONNECT x\n",
                                        "CONNECT 4294967296\n",
                                        "CONNECT 1111111111111111111111111111111",
                                        "\n"};
    struct bench bench;
    bench_begin(&bench, 0);
    for (size_t i = 0; i < ARRAY_COUNT(lines); i++)
        expect_end(dial(&bench, lines[i]));
    (void)pthread_mutex_lock(&bench.machine->lock);
    assert_int_equal(virtio_vsock_streams(device_of(bench.machine)), 0);
    (void)pthread_mutex_unlock(&bench.machine->lock);
    bench_end(&bench);
}

static void no_more_is_sent_than_the_guest_gave_credit_for(void **state)
{
    (void)state;
    struct bench bench;
    struct packet request, packet;
    static uint8_t big[ROOM + 5000];
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * 7);
    bench_begin(&bench, 0);
    int fd = open_stream(&bench, &request);
    assert_int_equal(write(fd, big, sizeof big), sizeof big);

    size_t got = 0;
    while (got < ROOM) {
        packet = receive(&bench);
        assert_memory_equal(packet.data, big + got, packet.bytes);
        got += packet.bytes;
    }
    assert_int_equal(got, ROOM);
    (void)close(fd); /* what it wrote last still arrives */
    bench.forwarded = ROOM;
    answer(&bench, &request, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL);
    while (got < sizeof big) {
        packet = receive(&bench);
        assert_int_equal(packet.op, VIRTIO_VSOCK_OP_RW);
        assert_memory_equal(packet.data, big + got, packet.bytes);
        got += packet.bytes;
    }
    packet = receive(&bench);
    assert_int_equal(packet.op, VIRTIO_VSOCK_OP_RST);
    bench_end(&bench);
}

static void a_guest_that_sends_beyond_its_credit_loses_the_stream(void **state)
{
    (void)state;
    struct bench bench;
    struct packet request;
    static char words[4001];
    memset(words, 'w', sizeof words - 1);
    bench_begin(&bench, 0);
    int fd = open_stream(&bench, &request);
    /* Nobody reads at the host: the socket fills, then what we hold, then no more is taken. */
    for (unsigned i = 0; i < 400; i++)
        answer(&bench, &request, VIRTIO_VSOCK_OP_RW, 0, words);
    struct packet packet = receive(&bench);
    while (packet.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE)
        packet = receive(&bench);
    assert_int_equal(packet.op, VIRTIO_VSOCK_OP_RST);
    (void)close(fd);
    bench_end(&bench);
}

static void what_a_guest_begins_is_refused(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, 0);
    const struct packet from = {.source_port = 5000, .target_port = 77};
    answer(&bench, &from, VIRTIO_VSOCK_OP_REQUEST, 0, NULL);
    struct packet packet = receive(&bench);
    assert_int_equal(packet.op, VIRTIO_VSOCK_OP_RST);
    assert_int_equal(packet.target_port, 77);
    assert_int_equal(packet.source_port, 5000);
    bench_end(&bench);
}

static void a_packet_shorter_than_it_says_needs_a_reset(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench, 0);
    const struct packet packet = {.source_cid = CID,
                                  .target_cid = VIRTIO_VSOCK_HOST_CID,
                                  .bytes = 100,
                                  .op = VIRTIO_VSOCK_OP_RW,
                                  .data = (const uint8_t *)"short"};
    send_raw(&bench, &packet, 5);
    while (!(virtio_driver_status(&bench.driver) & VIRTIO_STATUS_NEEDS_RESET))
        ; /* it comes by the I/O thread */
    assert_true(virtio_driver_init(&bench.driver, bench.machine, SLOT, 0, RINGS, 32));
    assert_false(virtio_driver_status(&bench.driver) & VIRTIO_STATUS_NEEDS_RESET);
    bench_end(&bench);
}

static void after_a_move_the_guest_hears_that_its_streams_are_gone(void **state)
{
    (void)state;
    struct bench bench;
    struct packet request;
    struct fault fault = {0};
    static struct machine_guest guest;
    bench_begin(&bench, VIRTIO_FEATURE(VIRTIO_F_RING_PACKED));
    int fd = open_stream(&bench, &request);
    virtio_machine_stop(bench.machine);
    assert_int_equal(virtio_machine_save(bench.machine, &guest, &fault), 0);

    struct virtio_machine *target = make_machine();
    memcpy(guest_memory_base(target->memory), guest_memory_base(bench.machine->memory), MIB(16));
    if (virtio_machine_load(target, &guest, &fault) < 0)
        fail_msg("%s", fault.text);
    bench.machine = virtio_machine_free(bench.machine);
    expect_end(fd);
    bench.machine = bench.driver.machine = target;
    for (unsigned i = 0; i < VIRTIO_DRIVER_QUEUES; i++)
        bench.driver.rings[i].memory = target->memory;
    give_listener(&bench);
    virtio_machine_go(target);

    uint16_t id;
    uint32_t bytes;
    await_used(&bench, EVENT, &id, &bytes);
    assert_int_equal(bytes, 4);
    assert_int_equal(bytes_get_u32(at(&bench, BUFFERS + EVENT * 0x80000)),
                     VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
    answer(&bench, &request, VIRTIO_VSOCK_OP_RW, 0, "anybody there?");
    assert_int_equal(receive(&bench).op, VIRTIO_VSOCK_OP_RST);
    (void)close(open_stream(&bench, &request));
    bench_end(&bench);
}

static void another_cid_is_another_machine(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    struct fault fault = {0};
    const struct virtio_vsock_guest guest = {.cid = CID + 1};
    assert_int_equal(virtio_vsock_revive(device_of(machine), &guest, &fault), ERR_CORRUPT);
    assert_string_equal(fault.text, "the guest's CID is 43, this VM's 42");
    machine = virtio_machine_free(machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_host_program_talks_with_one_in_the_guest),
        cmocka_unit_test(this_process_talks_with_a_program_in_the_guest),
        cmocka_unit_test(this_process_hears_that_nobody_listens_in_the_guest),
        cmocka_unit_test(a_guest_without_a_driver_is_not_asked),
        cmocka_unit_test(streams_that_the_guest_never_hears_of_leave_no_trace),
        cmocka_unit_test(a_port_where_nobody_listens_closes_the_connection),
        cmocka_unit_test(a_program_that_says_anything_else_is_turned_away),
        cmocka_unit_test(no_more_is_sent_than_the_guest_gave_credit_for),
        cmocka_unit_test(a_guest_that_sends_beyond_its_credit_loses_the_stream),
        cmocka_unit_test(what_a_guest_begins_is_refused),
        cmocka_unit_test(a_packet_shorter_than_it_says_needs_a_reset),
        cmocka_unit_test(after_a_move_the_guest_hears_that_its_streams_are_gone),
        cmocka_unit_test(another_cid_is_another_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
