/* A stream's life:
 *
 *   accepted -> (says CONNECT) -> asked -> (guest answers) -> open -> closing -> gone
 *
 * What must be said to the guest waits as bits of its stream (there is at most one of each kind)
 * and goes out when the guest offers a buffer; data is read from the host's socket only when there
 * is a buffer and credit, straight into it. What the guest sends goes straight to the host's
 * socket; what that does not take waits in the stream's ring, never more than we gave credit for.
 */
#include "vmm-core/dev_virtio_vsock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/io_loop.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/virtio.h"
#include "vmm-core/virtio_bus.h"
#include "vmm-core/virtqueue.h"
#include "vmm-core/vm_inside.h"

enum {
    QUEUE_RECEIVE = 0, /* as the guest sees it */
    QUEUE_SEND = 1,
    QUEUE_EVENT = 2,
    QUEUES = 3,
    CONFIG_BYTES = 8,
    HEADER_BYTES = 44,
    EVENT_BYTES = 4,
    LINE_MAX_BYTES = 32,
    RESETS_MAX = 64, /* for streams that are none; more are forgotten */
    PACKETS_PER_TURN = 64,
    PORT_FIRST = 1 << 30,
    PCI_CLASS_OTHER = 0xff,
};

enum stream_state { STREAM_FREE, STREAM_ACCEPTED, STREAM_ASKED, STREAM_OPEN };

/* What waits to be said to the guest. */
enum { SAY_REQUEST = 1, SAY_RESET = 2, SAY_SHUTDOWN = 4, SAY_CREDIT = 8 };

struct packet {
    uint64_t source_cid, target_cid;
    uint32_t source_port, target_port, bytes;
    uint16_t type, op;
    uint32_t flags, room, forwarded;
};

struct vsock;

struct stream {
    struct vsock *vsock;
    enum stream_state state;
    int fd; /* owned */
    struct io_watch watch;
    uint32_t host_port, guest_port;
    unsigned say;
    bool host_ended;    /* the host's program will write no more */
    bool host_hung_up;  /* it is gone, and what it wrote last is still to be read */
    bool guest_ended;   /* the guest will send no more */
    bool guest_is_deaf; /* the guest will receive no more */
    uint32_t guest_room, guest_forwarded; /* as it said last */
    uint32_t sent;                        /* bytes, to the guest */
    uint32_t received, forwarded;         /* bytes, from the guest; on to the host */
    uint32_t forwarded_told;
    uint32_t held_first, held; /* in `ring` */
    uint8_t ring[VIRTIO_VSOCK_BUFFER_BYTES];
};

struct vsock {
    struct virtio_device *device;
    struct virtio_vsock_guest guest;
    int listener; /* owned; -1: none */
    struct io_watch watch;
    struct io_job look;
    uint32_t next_port;
    struct stream *streams[VIRTIO_VSOCK_STREAMS_MAX]; /* owned; NULL: free */
    struct packet resets[RESETS_MAX];
    unsigned reset_count;
    struct virtqueue_chain chain;
};

static struct vsock *vsock_of(const struct virtio_device *device)
{
    return device->state;
}

static unsigned vsock_instances(const struct machine_shape *shape)
{
    return shape->vsock;
}

/* Packets */

static void put_packet(uint8_t at[static HEADER_BYTES], const struct packet *packet)
{
    bytes_put_u64(at, packet->source_cid);
    bytes_put_u64(at + 8, packet->target_cid);
    bytes_put_u32(at + 16, packet->source_port);
    bytes_put_u32(at + 20, packet->target_port);
    bytes_put_u32(at + 24, packet->bytes);
    bytes_put_u16(at + 28, packet->type);
    bytes_put_u16(at + 30, packet->op);
    bytes_put_u32(at + 32, packet->flags);
    bytes_put_u32(at + 36, packet->room);
    bytes_put_u32(at + 40, packet->forwarded);
}

static struct packet get_packet(const uint8_t at[static HEADER_BYTES])
{
    return (struct packet){
        .source_cid = bytes_get_u64(at),
        .target_cid = bytes_get_u64(at + 8),
        .source_port = bytes_get_u32(at + 16),
        .target_port = bytes_get_u32(at + 20),
        .bytes = bytes_get_u32(at + 24),
        .type = bytes_get_u16(at + 28),
        .op = bytes_get_u16(at + 30),
        .flags = bytes_get_u32(at + 32),
        .room = bytes_get_u32(at + 36),
        .forwarded = bytes_get_u32(at + 40),
    };
}

static struct packet packet_of(struct stream *stream, uint16_t op, uint32_t bytes)
{
    stream->forwarded_told = stream->forwarded;
    return (struct packet){
        .source_cid = VIRTIO_VSOCK_HOST_CID,
        .target_cid = stream->vsock->guest.cid,
        .source_port = stream->host_port,
        .target_port = stream->guest_port,
        .bytes = bytes,
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = op,
        .room = VIRTIO_VSOCK_BUFFER_BYTES,
        .forwarded = stream->forwarded,
    };
}

/* Streams */

static void close_stream(struct stream *stream)
{
    struct vsock *vsock = stream->vsock;
    io_loop_remove(vsock->device->loop, &stream->watch);
    close_p(&stream->fd);
    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS_MAX; i++) {
        if (vsock->streams[i] == stream)
            vsock->streams[i] = NULL;
    }
    free(stream);
}

static void close_all(struct vsock *vsock)
{
    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS_MAX; i++) {
        if (vsock->streams[i])
            close_stream(vsock->streams[i]);
    }
    vsock->reset_count = 0;
}

static uint32_t credit_of(const struct stream *stream)
{
    uint32_t outside = stream->sent - stream->guest_forwarded;
    return outside < stream->guest_room ? stream->guest_room - outside : 0;
}

/* Is there a buffer for the guest to receive into? Asks to be told of the next when not. */
static bool guest_has_buffer(struct vsock *vsock)
{
    struct virtqueue *queue = virtio_device_is_live(vsock->device)
                                  ? virtio_device_queue(vsock->device, QUEUE_RECEIVE)
                                  : NULL;
    return queue && (virtqueue_has_chain(queue) || virtqueue_rearm(queue));
}

static void end_stream(struct stream *stream);

static void update_watch(struct stream *stream, bool has_buffer)
{
    bool reads = stream->state == STREAM_ACCEPTED ||
                 (stream->state == STREAM_OPEN && !stream->host_ended && !stream->guest_is_deaf &&
                  has_buffer && credit_of(stream) > 0);
    uint32_t events = (reads ? (uint32_t)EPOLLIN : 0U) | (stream->held ? (uint32_t)EPOLLOUT : 0U);
    struct io_loop *loop = stream->vsock->device->loop;
    /* The kernel tells of a hang-up whether asked or not: nothing is watched until we can read. */
    if (stream->host_hung_up && !reads)
        io_loop_remove(loop, &stream->watch);
    else if (stream->watch.slot)
        io_loop_modify(loop, &stream->watch, events);
    else if (stream->host_hung_up && io_loop_add(loop, &stream->watch, events, NULL) < 0)
        end_stream(stream);
}

static void update_watches(struct vsock *vsock)
{
    bool has_buffer = guest_has_buffer(vsock);
    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS_MAX; i++) {
        if (vsock->streams[i])
            update_watch(vsock->streams[i], has_buffer);
    }
}

/* To the guest */

static bool break_queue(struct vsock *vsock, struct virtqueue *queue, const char *trouble)
{
    virtqueue_break(queue, trouble);
    virtio_device_needs_reset(vsock->device);
    return false;
}

/* A buffer of the guest's with room for a header and `more` bytes, in vsock->chain. */
static bool take_buffer(struct vsock *vsock, uint32_t more)
{
    struct virtio_device *device = vsock->device;
    struct virtqueue *queue = virtio_device_is_live(device) && !device->draining
                                  ? virtio_device_queue(device, QUEUE_RECEIVE)
                                  : NULL;
    if (!queue)
        return false;
    enum virtqueue_pop popped = virtqueue_pop(queue, &vsock->chain);
    if (popped == VIRTQUEUE_BROKEN)
        virtio_device_needs_reset(device);
    if (popped != VIRTQUEUE_POPPED)
        return false;
    if (vsock->chain.readable || vsock->chain.writable_bytes < HEADER_BYTES + more)
        return break_queue(vsock, queue, "a receive buffer has no room for a packet");
    return true;
}

static void give_buffer(struct vsock *vsock, const struct packet *packet)
{
    uint8_t header[HEADER_BYTES];
    put_packet(header, packet);
    (void)virtqueue_chain_write(&vsock->chain, 0, header, sizeof header);
    virtqueue_push(virtio_device_queue(vsock->device, QUEUE_RECEIVE), &vsock->chain,
                   HEADER_BYTES + packet->bytes);
}

/* The most urgent thing that waits to be said. A stream is gone once its end was told. */
static void say_next(struct stream *stream)
{
    struct vsock *vsock = stream->vsock;
    struct packet packet;
    if (stream->say & SAY_RESET) {
        packet = packet_of(stream, VIRTIO_VSOCK_OP_RST, 0);
    } else if (stream->say & SAY_REQUEST) {
        packet = packet_of(stream, VIRTIO_VSOCK_OP_REQUEST, 0);
        stream->say &= ~(unsigned)SAY_REQUEST;
    } else if (stream->say & SAY_SHUTDOWN) {
        packet = packet_of(stream, VIRTIO_VSOCK_OP_SHUTDOWN, 0);
        packet.flags = VIRTIO_VSOCK_SHUTDOWN_SEND;
        stream->say &= ~(unsigned)SAY_SHUTDOWN;
    } else {
        packet = packet_of(stream, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0);
        stream->say &= ~(unsigned)SAY_CREDIT;
    }
    give_buffer(vsock, &packet);
    if (packet.op == VIRTIO_VSOCK_OP_RST)
        close_stream(stream);
}

/* Everything that waits to be said, as far as there are buffers. */
static void say_all(struct vsock *vsock)
{
    while (vsock->reset_count && take_buffer(vsock, 0))
        give_buffer(vsock, &vsock->resets[--vsock->reset_count]);
    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS_MAX; i++) {
        while (vsock->streams[i] && vsock->streams[i]->say && take_buffer(vsock, 0))
            say_next(vsock->streams[i]);
    }
    update_watches(vsock);
    virtio_device_push_done(vsock->device, QUEUE_RECEIVE);
}

/* Has the guest heard of it? It was accepted only, or offered no buffer since it is to be asked. */
static bool is_unheard_of(const struct stream *stream)
{
    return stream->state == STREAM_ACCEPTED ||
           (stream->state == STREAM_ASKED && (stream->say & SAY_REQUEST));
}

static void end_stream(struct stream *stream)
{
    if (is_unheard_of(stream)) {
        close_stream(stream);
        return;
    }
    stream->say = SAY_RESET;
    stream->host_ended = true;
    stream->host_hung_up = false;
    stream->held = 0;
    io_loop_remove(stream->vsock->device->loop, &stream->watch);
}

/* Parts of vsock->chain behind its header, at most `most` bytes. Returns how many parts. */
static int payload_parts(const struct virtqueue_chain *chain, unsigned first, unsigned count,
                         uint32_t most, struct iovec ret_parts[static VIRTQUEUE_PARTS_MAX])
{
    size_t skip = HEADER_BYTES;
    int parts = 0;
    for (unsigned i = first; i < first + count && most > 0; i++) {
        struct iovec part = chain->parts[i];
        if (skip >= part.iov_len) {
            skip -= part.iov_len;
            continue;
        }
        part.iov_base = (uint8_t *)part.iov_base + skip;
        part.iov_len -= skip;
        skip = 0;
        if (part.iov_len > most)
            part.iov_len = most;
        most -= (uint32_t)part.iov_len;
        ret_parts[parts++] = part;
    }
    return parts;
}

/* One packet of the host's bytes. False: no more for now. */
static bool carry_to_guest(struct stream *stream)
{
    struct vsock *vsock = stream->vsock;
    struct iovec parts[VIRTQUEUE_PARTS_MAX];
    uint32_t credit = credit_of(stream);
    if (credit == 0 || stream->guest_is_deaf || !take_buffer(vsock, 1))
        return false;
    struct virtqueue *queue = virtio_device_queue(vsock->device, QUEUE_RECEIVE);
    int count =
        payload_parts(&vsock->chain, vsock->chain.readable, vsock->chain.writable, credit, parts);
    ssize_t got = readv(stream->fd, parts, count);
    if (got > 0) {
        struct packet packet = packet_of(stream, VIRTIO_VSOCK_OP_RW, (uint32_t)got);
        stream->sent += (uint32_t)got;
        give_buffer(vsock, &packet);
        return true;
    }
    virtqueue_unpop(queue, &vsock->chain);
    if (got == 0) {
        stream->host_ended = true;
        stream->say |= SAY_SHUTDOWN;
        if (stream->guest_ended || stream->host_hung_up)
            end_stream(stream);
    } else if (errno != EAGAIN && errno != EINTR) {
        end_stream(stream);
    }
    return false;
}

/* To the host */

static void note_forwarded(struct stream *stream, size_t bytes)
{
    stream->forwarded += (uint32_t)bytes;
    if (stream->forwarded - stream->forwarded_told >= VIRTIO_VSOCK_BUFFER_BYTES / 2)
        stream->say |= SAY_CREDIT;
}

/* What waited longest first. */
static void carry_held(struct stream *stream)
{
    while (stream->held) {
        uint32_t here = VIRTIO_VSOCK_BUFFER_BYTES - stream->held_first;
        if (here > stream->held)
            here = stream->held;
        ssize_t sent =
            send(stream->fd, stream->ring + stream->held_first, here, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            end_stream(stream);
        if (sent <= 0)
            return;
        stream->held -= (uint32_t)sent;
        stream->held_first = (stream->held_first + (uint32_t)sent) % VIRTIO_VSOCK_BUFFER_BYTES;
        note_forwarded(stream, (size_t)sent);
    }
    if (stream->guest_ended)
        (void)shutdown(stream->fd, SHUT_WR); /* a program that is gone: the next event tells */
}

static void hold(struct stream *stream, const struct virtqueue_chain *chain, uint32_t bytes)
{
    assert(bytes <= VIRTIO_VSOCK_BUFFER_BYTES - stream->held);
    size_t offset = HEADER_BYTES;
    while (bytes > 0) {
        uint32_t at = (stream->held_first + stream->held) % VIRTIO_VSOCK_BUFFER_BYTES;
        uint32_t here =
            VIRTIO_VSOCK_BUFFER_BYTES - at < bytes ? VIRTIO_VSOCK_BUFFER_BYTES - at : bytes;
        size_t got = virtqueue_chain_read(chain, offset, stream->ring + at, here);
        assert(got == here); /* the packet's length was judged */
        offset += here;
        stream->held += here;
        bytes -= here;
    }
}

static void take_data(struct stream *stream, const struct virtqueue_chain *chain, uint32_t bytes)
{
    if (stream->state != STREAM_OPEN || stream->guest_ended ||
        bytes > VIRTIO_VSOCK_BUFFER_BYTES - stream->held) {
        end_stream(stream); /* more than it had credit for, or after its end */
        return;
    }
    stream->received += bytes;
    hold(stream, chain, bytes);
    carry_held(stream);
}

static void open_stream(struct stream *stream)
{
    char answer[LINE_MAX_BYTES];
    int count = snprintf(answer, sizeof answer, "OK %u\n", stream->host_port);
    stream->state = STREAM_OPEN;
    if (send(stream->fd, answer, (size_t)count, MSG_NOSIGNAL | MSG_DONTWAIT) != count)
        end_stream(stream); /* a fresh socket has room: the program is gone */
}

static void take_shutdown(struct stream *stream, uint32_t flags)
{
    stream->guest_is_deaf |= (flags & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0;
    stream->guest_ended |= (flags & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0;
    carry_held(stream);
    bool is_over = stream->guest_ended && (stream->guest_is_deaf || stream->host_ended);
    if (is_over && !(stream->say & SAY_RESET))
        end_stream(stream);
}

static struct stream *find_stream(struct vsock *vsock, const struct packet *packet)
{
    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS_MAX; i++) {
        struct stream *stream = vsock->streams[i];
        if (stream && stream->state != STREAM_ACCEPTED &&
            stream->host_port == packet->target_port && stream->guest_port == packet->source_port)
            return stream;
    }
    return NULL;
}

/* Nobody is there: say so, unless that is what the guest said itself. */
static void refuse(struct vsock *vsock, const struct packet *packet)
{
    if (packet->op == VIRTIO_VSOCK_OP_RST || vsock->reset_count == RESETS_MAX)
        return;
    vsock->resets[vsock->reset_count++] = (struct packet){
        .source_cid = packet->target_cid,
        .target_cid = vsock->guest.cid,
        .source_port = packet->target_port,
        .target_port = packet->source_port,
        .type = packet->type,
        .op = VIRTIO_VSOCK_OP_RST,
    };
}

static void take_packet(struct vsock *vsock, const struct packet *packet,
                        const struct virtqueue_chain *chain)
{
    struct stream *stream = find_stream(vsock, packet);
    if (packet->source_cid != vsock->guest.cid)
        return; /* not its own: nobody's */
    if (!stream || packet->target_cid != VIRTIO_VSOCK_HOST_CID ||
        packet->type != VIRTIO_VSOCK_TYPE_STREAM) {
        refuse(vsock, packet);
        return;
    }
    if (stream->say & SAY_RESET)
        return; /* it ends already */
    stream->guest_room = packet->room;
    stream->guest_forwarded = packet->forwarded;
    switch (packet->op) {
    case VIRTIO_VSOCK_OP_RESPONSE:
        if (stream->state == STREAM_ASKED)
            open_stream(stream);
        else
            end_stream(stream);
        return;
    case VIRTIO_VSOCK_OP_RST:
        close_stream(stream);
        return;
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        take_shutdown(stream, packet->flags);
        return;
    case VIRTIO_VSOCK_OP_RW:
        take_data(stream, chain, packet->bytes);
        return;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        stream->say |= SAY_CREDIT;
        return;
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
        return;
    }
    end_stream(stream);
}

static void take_sent(struct vsock *vsock)
{
    struct virtio_device *device = vsock->device;
    struct virtqueue *queue = virtio_device_queue(device, QUEUE_SEND);
    unsigned packets = 0;
    if (!queue)
        return;
    do {
        enum virtqueue_pop popped = VIRTQUEUE_POPPED;
        while (packets++ < PACKETS_PER_TURN &&
               (popped = virtqueue_pop(queue, &vsock->chain)) == VIRTQUEUE_POPPED) {
            uint8_t header[HEADER_BYTES];
            size_t got = virtqueue_chain_read(&vsock->chain, 0, header, sizeof header);
            struct packet packet = get_packet(header);
            if (got < sizeof header || packet.bytes > vsock->chain.readable_bytes - sizeof header) {
                (void)break_queue(vsock, queue, "a packet is shorter than its header says");
                return;
            }
            take_packet(vsock, &packet, &vsock->chain);
            virtqueue_push(queue, &vsock->chain, 0);
        }
        if (popped == VIRTQUEUE_BROKEN)
            virtio_device_needs_reset(device);
        if (popped != VIRTQUEUE_EMPTY)
            break;
    } while (virtqueue_rearm(queue));
    virtio_device_push_done(device, QUEUE_SEND);
    if (packets > PACKETS_PER_TURN)
        io_loop_post(device->loop, &vsock->look);
}

static void tell_reset(struct vsock *vsock)
{
    struct virtio_device *device = vsock->device;
    struct virtqueue *queue = virtio_device_queue(device, QUEUE_EVENT);
    if (!vsock->guest.reset_due || !queue || device->draining)
        return;
    uint8_t event[EVENT_BYTES];
    bytes_put_u32(event, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
    enum virtqueue_pop popped = virtqueue_pop(queue, &vsock->chain);
    if (popped == VIRTQUEUE_POPPED) {
        size_t wrote = virtqueue_chain_write(&vsock->chain, 0, event, sizeof event);
        virtqueue_push(queue, &vsock->chain, (uint32_t)wrote);
        vsock->guest.reset_due = 0;
        virtio_device_push_done(device, QUEUE_EVENT);
    } else if (popped == VIRTQUEUE_BROKEN) {
        virtio_device_needs_reset(device);
    } else if (virtqueue_rearm(queue)) {
        io_loop_post(device->loop, &vsock->look);
    }
}

static void vsock_notify(struct virtio_device *device, unsigned queue)
{
    struct vsock *vsock = vsock_of(device);
    if (queue == QUEUE_EVENT)
        tell_reset(vsock);
    if (queue == QUEUE_SEND)
        take_sent(vsock);
    if (virtio_device_is_live(device))
        say_all(vsock);
}

static void look(void *data)
{
    struct vsock *vsock = data;
    if (!virtio_device_is_live(vsock->device))
        return;
    tell_reset(vsock);
    if (virtio_device_is_live(vsock->device))
        vsock_notify(vsock->device, QUEUE_SEND);
}

/* From the host */

/* "CONNECT 1234\n": false when it is anything else. */
static bool read_port(const char *line, size_t count, uint32_t *ret_port)
{
    static const char word[] = "CONNECT ";
    size_t at = sizeof word - 1;
    uint64_t port = 0;
    if (count < at + 2 || memcmp(line, word, at) != 0 || line[count - 1] != '\n')
        return false;
    for (; at < count - 1; at++) {
        if (line[at] < '0' || line[at] > '9')
            return false;
        port = port * 10 + (uint64_t)(line[at] - '0');
        if (port > UINT32_MAX)
            return false;
    }
    *ret_port = (uint32_t)port;
    return true;
}

static uint32_t take_port(struct vsock *vsock)
{
    /* Grows, so that what a guest still says about an old stream meets no new one. */
    uint32_t port = PORT_FIRST + vsock->next_port;
    vsock->next_port = (vsock->next_port + 1) % PORT_FIRST;
    return port;
}

static void ask_guest(struct stream *stream)
{
    stream->host_port = take_port(stream->vsock);
    stream->state = STREAM_ASKED;
    stream->say |= SAY_REQUEST;
}

/* The first line and no byte more: what follows is the guest's. */
static void read_line(struct stream *stream)
{
    char line[LINE_MAX_BYTES];
    ssize_t got = recv(stream->fd, line, sizeof line, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    const char *end = got > 0 ? memchr(line, '\n', (size_t)got) : NULL;
    if (!end && got > 0 && got < (ssize_t)sizeof line)
        return; /* the rest is on its way */
    size_t count = end ? (size_t)(end - line) + 1 : 0;
    if (!end || recv(stream->fd, line, count, MSG_DONTWAIT) != (ssize_t)count ||
        !read_port(line, count, &stream->guest_port) ||
        !virtio_device_is_live(stream->vsock->device)) {
        close_stream(stream);
        return;
    }
    ask_guest(stream);
}

static bool holds(const struct vsock *vsock, const struct stream *stream)
{
    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS_MAX; i++) {
        if (vsock->streams[i] == stream)
            return true;
    }
    return false;
}

static void stream_ready(void *data, uint32_t events)
{
    struct stream *stream = data;
    struct vsock *vsock = stream->vsock;
    if ((events & EPOLLIN) && stream->state == STREAM_ACCEPTED) {
        read_line(stream);
    } else if ((events & EPOLLIN) && stream->state == STREAM_OPEN) {
        for (unsigned i = 0; i < PACKETS_PER_TURN && carry_to_guest(stream); i++) {
        }
    } else if ((events & EPOLLHUP) && stream->state == STREAM_OPEN && !stream->host_ended &&
               !stream->guest_is_deaf) {
        stream->host_hung_up = true;
    } else if (events & (EPOLLERR | EPOLLHUP)) {
        end_stream(stream);
    }
    if (holds(vsock, stream) && (events & EPOLLOUT) && stream->held)
        carry_held(stream);
    say_all(vsock);
}

/* Takes fd when it returns a stream; NULL: no memory. */
static struct stream *add_stream(struct vsock *vsock, unsigned place, int fd)
{
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return NULL;
    stream->vsock = vsock;
    stream->state = STREAM_ACCEPTED;
    stream->fd = fd;
    stream->watch = (struct io_watch){
        .fd = fd, .class = IO_WATCH_SOURCE, .ready = stream_ready, .data = stream};
    vsock->streams[place] = stream;
    return stream;
}

static void accept_one(struct vsock *vsock, unsigned place)
{
    int fd = accept4(vsock->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct stream *stream = add_stream(vsock, place, fd);
    if (!stream) {
        (void)close(fd);
        return;
    }
    if (io_loop_add(vsock->device->loop, &stream->watch, EPOLLIN, NULL) < 0)
        close_stream(stream);
}

static unsigned free_place(const struct vsock *vsock)
{
    unsigned place = 0;
    while (place < VIRTIO_VSOCK_STREAMS_MAX && vsock->streams[place])
        place++;
    return place;
}

static void listener_ready(void *data, uint32_t events)
{
    struct vsock *vsock = data;
    (void)events;
    unsigned place = free_place(vsock);
    if (place < VIRTIO_VSOCK_STREAMS_MAX) {
        accept_one(vsock, place);
        return; /* level-triggered: the next comes by itself */
    }
    int fd = accept4(vsock->listener, NULL, NULL, SOCK_CLOEXEC);
    close_p(&fd); /* too many: this one is turned away, or it would be told again and again */
}

int virtio_vsock_attach(struct virtio_device *device, int fd, struct fault *fault)
{
    struct vsock *vsock = vsock_of(device);
    int listens = 0;
    socklen_t bytes = sizeof listens;
    if (vsock->listener >= 0)
        return fault_set(fault, ERR_STATE, "the vsock has its host side already");
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &bytes) < 0 || !listens)
        return fault_set(fault, ERR_INVALID, "the vsock's host side is no listening socket");
    if (fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "setting up the vsock's host side");
    vsock->watch = (struct io_watch){
        .fd = fd, .class = IO_WATCH_SOURCE, .ready = listener_ready, .data = vsock};
    int r = io_loop_add(device->loop, &vsock->watch, EPOLLIN, fault);
    if (r == 0)
        vsock->listener = fd;
    return r;
}

int virtio_vsock_connect(struct virtio_device *device, uint32_t port, int *ret_fd,
                         struct fault *fault)
{
    struct vsock *vsock = vsock_of(device);
    unsigned place = free_place(vsock);
    int fds[2];

    if (!virtio_device_is_live(device))
        return fault_set(fault, ERR_STATE, "the guest has no driver for its vsock");
    if (place == VIRTIO_VSOCK_STREAMS_MAX)
        return fault_set(fault, ERR_LIMIT, "the vsock has its %d streams already",
                         VIRTIO_VSOCK_STREAMS_MAX);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making a pair of sockets");
    struct stream *stream = add_stream(vsock, place, fds[0]);
    int r = stream ? io_loop_add(device->loop, &stream->watch, 0, fault)
                   : fault_set(fault, ERR_NOMEM, "no memory for a stream");
    if (r < 0) {
        if (stream)
            close_stream(stream);
        else
            (void)close(fds[0]);
        (void)close(fds[1]);
        return r;
    }
    stream->guest_port = port;
    ask_guest(stream);
    io_loop_post(device->loop, &vsock->look);
    *ret_fd = fds[1];
    return 0;
}

unsigned virtio_vsock_streams(const struct virtio_device *device)
{
    const struct vsock *vsock = vsock_of(device);
    unsigned count = 0;
    for (unsigned i = 0; i < VIRTIO_VSOCK_STREAMS_MAX; i++)
        count += vsock->streams[i] != NULL;
    return count;
}

/* The device */

static int vsock_create(struct virtio_device *device, const struct vm_config *config,
                        struct fault *fault)
{
    if (config->vsock_cid < VIRTIO_VSOCK_CID_MIN || config->vsock_cid >= UINT32_MAX)
        return fault_set(fault, ERR_INVALID, "a vsock's CID of %llu: %d to %u are possible",
                         (unsigned long long)config->vsock_cid, VIRTIO_VSOCK_CID_MIN,
                         UINT32_MAX - 1);
    struct vsock *vsock = calloc(1, sizeof *vsock);
    if (!vsock)
        return fault_set(fault, ERR_NOMEM, "no memory for a vsock");
    vsock->device = device;
    vsock->guest.cid = config->vsock_cid;
    vsock->listener = -1;
    vsock->look = (struct io_job){.run = look, .data = vsock};
    device->queue_count = QUEUES;
    device->queue_size = 128;
    device->config_bytes = CONFIG_BYTES;
    device->state = vsock;
    return 0;
}

static void vsock_destroy(struct virtio_device *device)
{
    struct vsock *vsock = vsock_of(device);
    if (!vsock)
        return;
    io_loop_cancel(device->loop, &vsock->look);
    close_all(vsock);
    io_loop_remove(device->loop, &vsock->watch);
    close_p(&vsock->listener);
    free(vsock);
    device->state = NULL;
}

static void vsock_config_read(struct virtio_device *device, unsigned offset, uint8_t *bytes,
                              unsigned count)
{
    uint8_t image[CONFIG_BYTES];
    bytes_put_u64(image, vsock_of(device)->guest.cid);
    memcpy(bytes, image + offset, count);
}

static void vsock_reset(struct virtio_device *device)
{
    struct vsock *vsock = vsock_of(device);
    io_loop_cancel(device->loop, &vsock->look);
    close_all(vsock);
    vsock->guest.reset_due = 0;
}

const struct virtio_kind virtio_vsock_kind = {
    .name = "virtio-vsock",
    .id = VIRTIO_ID_VSOCK,
    .pci_class = PCI_CLASS_OTHER,
    .instances = vsock_instances,
    .create = vsock_create,
    .destroy = vsock_destroy,
    .config_read = vsock_config_read,
    .notify = vsock_notify,
    .reset = vsock_reset,
};

/* State */

void virtio_vsock_capture(const struct virtio_device *device, struct virtio_vsock_guest *ret_guest)
{
    *ret_guest = vsock_of(device)->guest;
}

int virtio_vsock_revive(struct virtio_device *device, const struct virtio_vsock_guest *guest,
                        struct fault *fault)
{
    struct vsock *vsock = vsock_of(device);
    if (guest->cid != vsock->guest.cid)
        return fault_set(fault, ERR_CORRUPT, "the guest's CID is %llu, this VM's %llu",
                         (unsigned long long)guest->cid, (unsigned long long)vsock->guest.cid);
    /* Told when the io loop goes on: then every queue is looked at. */
    vsock->guest.reset_due = virtio_device_is_live(device);
    return 0;
}

int virtio_vsock_save(const struct virtio_vsock_guest *guest, uint8_t **ret_bytes,
                      size_t *ret_count)
{
    Godwit__VirtioVsockStateV1 state = GODWIT__VIRTIO_VSOCK_STATE_V1__INIT;
    STATE_PUT(&state, cid, guest->cid);
    STATE_PUT(&state, reset_due, guest->reset_due);
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int virtio_vsock_load(struct virtio_vsock_guest *ret_guest, const uint8_t *bytes, size_t count,
                      struct fault *fault)
{
    struct state_reader reader = {.section = "virtio_vsock", .fault = fault};
    struct virtio_vsock_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__virtio_vsock_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__VirtioVsockStateV1 *in = (const Godwit__VirtioVsockStateV1 *)message;
    STATE_TAKE(&reader, in, cid, guest.cid);
    STATE_TAKE_MAX(&reader, in, reset_due, guest.reset_due, 1);
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

static int capture_row(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    virtio_vsock_capture(virtio_bus_find(&vm->virtio, &virtio_vsock_kind, instance),
                         &vm->guest->vsock);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    (void)instance;
    return virtio_vsock_save(&machine->vsock, ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    (void)instance;
    return virtio_vsock_load(&machine->vsock, bytes, count, fault);
}

static int revive_row(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                      struct fault *fault)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_vsock_revive(virtio_bus_find(&vm->virtio, &virtio_vsock_kind, instance),
                                &machine->vsock, fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

const struct device virtio_vsock_device = {
    .name = "virtio_vsock",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .instances = vsock_instances,
    .capture = capture_row,
    .save = save_row,
    .load = load_row,
    .revive = revive_row,
};
