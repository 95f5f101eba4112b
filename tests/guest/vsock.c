#include "vsock.h"

#include "option.h"
#include "record.h"
#include "virtio.h"

enum {
    DEVICE_VSOCK = 19,
    BUFFER_BYTES = 2048,
    BUFFERS = 16,
    HEADER_BYTES = 44,
    EVENT_BYTES = 4,
    LINE_BYTES = 256,
    HOST_CID = 2,
    TYPE_STREAM = 1,
    STEP_TAKES_MAX = 8,
    NOISE_BYTES = 1500,

    OP_REQUEST = 1,
    OP_RESPONSE = 2,
    OP_RST = 3,
    OP_SHUTDOWN = 4,
    OP_RW = 5,
    OP_CREDIT_REQUEST = 7,
    SHUTDOWN_BOTH = 3,
};

static const char *const manners[VSOCK_MANNERS] = {"ready", "silent", "close",
                                                   "flood", "refuse", "deaf"};

static struct {
    bool there;
    struct virtio device;
    struct virtio_ring receive, send, event;
    uint8_t in[BUFFERS][BUFFER_BYTES] __attribute__((aligned(4096)));
    uint8_t out[BUFFERS][BUFFER_BYTES] __attribute__((aligned(4096)));
    bool out_busy[BUFFERS];
    uint8_t events[BUFFERS][EVENT_BYTES];
    uint16_t buffers;
    uint32_t cid, port, host_port; /* of the stream that was asked for last */
    uint32_t received;             /* bytes of it */
    uint32_t credit, sent;         /* what the host has room for, and how much it got */
    char line[LINE_BYTES];
    uint32_t line_length;
    enum vsock_manner manner;
    bool floods;
    struct vsock_numbers numbers;
} vsock;

static void put32(uint8_t *at, uint32_t value)
{
    for (uint32_t i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> i * 8);
}

static uint32_t get32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static int32_t free_buffer(void)
{
    for (uint32_t i = 0; i < vsock.buffers; i++) {
        if (!vsock.out_busy[i])
            return (int32_t)i;
    }
    return -1;
}

/* `bytes` of the buffer behind its header are filled already. */
static void send_packet(uint32_t index, uint16_t op, uint32_t flags, uint32_t bytes)
{
    uint8_t *header = vsock.out[index];

    for (uint32_t i = 0; i < HEADER_BYTES; i++)
        header[i] = 0;
    put32(header, vsock.cid);
    put32(header + 8, HOST_CID);
    put32(header + 16, vsock.port);
    put32(header + 20, vsock.host_port);
    put32(header + 24, bytes);
    header[28] = TYPE_STREAM;
    header[30] = (uint8_t)op;
    put32(header + 32, flags);
    put32(header + 36, BUFFER_BYTES);
    put32(header + 40, vsock.received);
    vsock.sent += bytes;

    struct virtio_part part = {header, HEADER_BYTES + bytes, false};

    vsock.out_busy[index] = true;
    virtio_offer(&vsock.send, (uint16_t)index, &part, 1);
}

static void say(uint16_t op, uint32_t flags, const char *text)
{
    int32_t index = free_buffer();
    uint32_t bytes = 0;

    if (index < 0)
        return; /* the other end waits no longer than it has to */
    for (; text && text[bytes]; bytes++)
        vsock.out[index][HEADER_BYTES + bytes] = (uint8_t)text[bytes];
    send_packet((uint32_t)index, op, flags, bytes);
}

static void flood(void)
{
    int32_t index;

    while (vsock.floods && vsock.credit - vsock.sent >= NOISE_BYTES &&
           vsock.credit - vsock.sent <= UINT32_MAX / 2 && (index = free_buffer()) >= 0) {
        for (uint32_t i = 0; i < NOISE_BYTES; i++)
            vsock.out[index][HEADER_BYTES + i] = i % 40 == 39 ? '\n' : 'x';
        send_packet((uint32_t)index, OP_RW, 0, NOISE_BYTES);
    }
}

static void take_line(void)
{
    struct record record;

    vsock.line[vsock.line_length] = 0;
    vsock.line_length = 0;
    vsock.numbers.lines++;
    record_begin(&record, "notice");
    record_word(&record, vsock.line);
    record_end(&record);
    if (vsock.manner == VSOCK_READY)
        say(OP_RW, 0, "ready\n");
    if (vsock.manner == VSOCK_CLOSE)
        say(OP_SHUTDOWN, SHUTDOWN_BOTH, 0);
    vsock.floods = vsock.manner == VSOCK_FLOOD;
}

static void take_bytes(const uint8_t *bytes, uint32_t count)
{
    vsock.received += count;
    for (uint32_t i = 0; i < count; i++) {
        if (bytes[i] == '\n')
            take_line();
        else if (vsock.line_length < LINE_BYTES - 1)
            vsock.line[vsock.line_length++] = (char)bytes[i];
    }
}

static void take_request(const uint8_t *packet)
{
    bool is_ours = get32(packet + 20) == vsock.port && vsock.manner != VSOCK_REFUSE;

    vsock.numbers.requests++;
    if (vsock.manner == VSOCK_DEAF)
        return;
    vsock.host_port = get32(packet + 16);
    vsock.received = vsock.sent = vsock.line_length = 0;
    vsock.floods = false;
    say(is_ours ? OP_RESPONSE : OP_RST, 0, 0);
}

static void take_packet(const uint8_t *packet, uint32_t bytes)
{
    uint16_t op = (uint16_t)(packet[30] | packet[31] << 8);
    uint32_t payload = get32(packet + 24);

    if (bytes < HEADER_BYTES || payload > bytes - HEADER_BYTES)
        return;
    if (op == OP_REQUEST) {
        take_request(packet);
    } else if (get32(packet + 16) != vsock.host_port) {
        return;
    } else if (op == OP_RW) {
        take_bytes(packet + HEADER_BYTES, payload);
    } else if (op == OP_RST || op == OP_SHUTDOWN) {
        vsock.floods = false;
        if (op == OP_SHUTDOWN)
            say(OP_RST, 0, 0);
    }
    vsock.credit = get32(packet + 36) + get32(packet + 40);
}

static void offer_in(uint16_t index)
{
    struct virtio_part part = {vsock.in[index], BUFFER_BYTES, true};

    virtio_offer(&vsock.receive, index, &part, 1);
}

static void offer_event(uint16_t index)
{
    struct virtio_part part = {vsock.events[index], EVENT_BYTES, true};

    virtio_offer(&vsock.event, index, &part, 1);
}

/* All streams are gone: the guest has moved. */
static void take_event(uint16_t index)
{
    vsock.numbers.resets++;
    vsock.host_port = 0;
    vsock.floods = false;
    offer_event(index);
}

void vsock_step(void)
{
    uint16_t index;
    uint32_t bytes;

    if (!vsock.there)
        return;
    while (virtio_take(&vsock.send, &index, &bytes)) {
        if (index < vsock.buffers)
            vsock.out_busy[index] = false;
    }
    while (virtio_take(&vsock.event, &index, &bytes))
        take_event(index);
    for (uint32_t i = 0; i < STEP_TAKES_MAX && virtio_take(&vsock.receive, &index, &bytes); i++) {
        take_packet(vsock.in[index], bytes);
        offer_in(index);
    }
    flood();
    virtio_kick(&vsock.event);
    virtio_kick(&vsock.receive);
    virtio_kick(&vsock.send);
}

static void complain(const char *what)
{
    struct record record;

    record_begin(&record, "error");
    record_text(&record, "vsock", what);
    record_end(&record);
}

void vsock_init(const struct options *options)
{
    if (!options->vsock_port)
        return;
    if (!virtio_begin(&vsock.device, DEVICE_VSOCK, 0, options->ring_features, 0) ||
        !virtio_add_ring(&vsock.device, &vsock.receive, 0, false) ||
        !virtio_add_ring(&vsock.device, &vsock.send, 1, false) ||
        !virtio_add_ring(&vsock.device, &vsock.event, 2, false)) {
        complain("none");
        return;
    }
    vsock.port = (uint32_t)options->vsock_port;
    vsock.cid = virtio_config_read(&vsock.device, 0, 4);
    vsock.buffers = vsock.receive.requests < BUFFERS ? vsock.receive.requests : BUFFERS;
    virtio_go(&vsock.device);
    for (uint16_t i = 0; i < vsock.buffers; i++) {
        offer_in(i);
        offer_event(i);
    }
    virtio_kick(&vsock.receive);
    virtio_kick(&vsock.event);
    vsock.there = true;
}

bool vsock_is_there(void)
{
    return vsock.there;
}

bool vsock_set_manner(const char *name)
{
    for (uint32_t i = 0; i < VSOCK_MANNERS; i++) {
        if (option_equal(name, manners[i])) {
            vsock.manner = (enum vsock_manner)i;
            return true;
        }
    }
    return false;
}

void vsock_numbers(struct vsock_numbers *ret_numbers)
{
    vsock.numbers.is_well = virtio_is_well(&vsock.device);
    *ret_numbers = vsock.numbers;
}
