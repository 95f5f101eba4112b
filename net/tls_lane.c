/* From the caller's bytes to the socket and back, with one pass over them at each end:
 *
 *   stream_write -> stage (< 16 KiB) \
 *                                     > seal -> gather (256 KiB) -> send
 *   stream_write, whole records -----/
 *
 *   recv -> arrived (256 KiB) -> open -> the reader's buffer
 *                                   \--> plain (one record), when the reader wants less
 *
 * The handshake is lane_handshake's; its two secrets make the sealer and the opener.
 *
 * Sockets do not block; who has to wait stands in poll with an eventfd beside the socket, so that a
 * wait is measured and can be interrupted. Inside the pause (hot) it spins first.
 */
#include "net/tls_lane.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "net/lane_handshake.h"
#include "net/openssl.h"
#include "net/stream.h"
#include "net/tls_record.h"
#include "proto/limits.h"

enum {
    GATHER_RECORDS = 16,
    GATHER_BYTES = GATHER_RECORDS * TLS_RECORD_WIRE_MAX,
    ARRIVED_BYTES = 256 << 10,
    SOCKET_BUFFER_BYTES = 1 << 20, /* to start with; the kernel makes it larger for long ways */
    SPIN_MS_MAX = 20,
    SPIN_PAUSES = 16,
    KEY_UPDATE_BYTES = 5,
    ALERT_CLOSE_NOTIFY = 0,
    ALERT_BAD_RECORD_MAC = 20,
};
static_assert(ARRIVED_BYTES >= 4 * TLS_RECORD_WIRE_MAX, "there is always room for a record");

struct tls_lane {
    struct stream stream; /* first */
    int fd, alarm;        /* alarm: an eventfd, readable once interrupted */
    char name[24];        /* "lane 2" */
    uint64_t key_records_max;
    /* atomic */
    atomic_bool is_interrupted, is_hot;
    atomic_bool owes_key_update; /* the peer asked for one */

    /* the writer's */
    struct tls_record sealer;
    bool is_out_broken;
    size_t stage_count, gather_start, gather_count;
    uint8_t *stage;  /* TLS_RECORD_PLAIN_MAX */
    uint8_t *gather; /* GATHER_BYTES */

    /* the reader's */
    struct tls_record opener;
    bool is_in_broken;
    size_t arrived_start, arrived_end, plain_start, plain_end;
    uint8_t *arrived; /* ARRIVED_BYTES */
    uint8_t *plain;   /* TLS_RECORD_BODY_MAX */
};

static struct tls_lane *lane_of(struct stream *stream)
{
    return CONTAINER_OF(stream, struct tls_lane, stream);
}

/* Counters have one writer and may be looked at from other threads. */
static void count_up(uint64_t *counter, uint64_t more)
{
    __atomic_store_n(counter, *counter + more, __ATOMIC_RELAXED);
}

/* ---- waiting ---- */

struct wait {          /* one operation that met a socket which was not ready */
    uint64_t since_ns; /* 0: it did not wait yet */
    uint64_t spun_since_ns, silent_since_ns;
};

static int fail_interrupted(const struct tls_lane *lane, struct fault *fault)
{
    return fault_set(fault, ERR_CANCELED, "%s was interrupted", lane->name);
}

/* Sleep until the socket is ready; `silent_ms` is how long it may stay silent, -1 for ever. */
static int sleep_on(struct tls_lane *lane, short events, int silent_ms, struct fault *fault)
{
    struct pollfd watched[2] = {{.fd = lane->fd, .events = events},
                                {.fd = lane->alarm, .events = POLLIN}};
    int ready = poll(watched, ARRAY_COUNT(watched), silent_ms);
    if (ready < 0 && errno != EINTR)
        return fault_set_errno(fault, ERR_IO, errno, "waiting for %s", lane->name);
    if (ready == 0)
        return fault_set(fault, ERR_TIMEOUT, "the peer of %s took nothing for %d s", lane->name,
                         PEER_SILENT_MS / 1000);
    return 0;
}

/* A reader has no deadline of its own: a live peer may have nothing to say, and a dead one is found
 * by keepalive (tcp_set_options), which makes recv fail. */
static int wait_for(struct tls_lane *lane, struct wait *wait, short events, struct fault *fault)
{
    if (atomic_load_explicit(&lane->is_interrupted, memory_order_relaxed))
        return fail_interrupted(lane, fault);
    uint64_t now_ns = world_now_ns();
    if (wait->since_ns == 0)
        wait->since_ns = wait->spun_since_ns = wait->silent_since_ns = now_ns;
    if (atomic_load_explicit(&lane->is_hot, memory_order_relaxed) &&
        now_ns - wait->spun_since_ns < SPIN_MS_MAX * NS_PER_MS) {
        /* A microsecond between two looks: recv on an empty socket takes its lock from the kernel
         * that wants to fill it. */
        for (int i = 0; i < SPIN_PAUSES; i++)
            __builtin_ia32_pause();
        return 0;
    }
    int silent_ms = -1;
    if (events & POLLOUT) {
        uint64_t silent_for_ms = (now_ns - wait->silent_since_ns) / NS_PER_MS;
        silent_ms = silent_for_ms < PEER_SILENT_MS ? (int)(PEER_SILENT_MS - silent_for_ms) : 0;
    }
    return sleep_on(lane, events, silent_ms, fault);
}

/* Bytes moved: silence and spinning start anew. */
static void wait_moved(struct wait *wait)
{
    if (wait->since_ns)
        wait->spun_since_ns = wait->silent_since_ns = world_now_ns();
}

static void wait_end(const struct wait *wait, uint64_t *counter)
{
    if (wait->since_ns)
        count_up(counter, world_now_ns() - wait->since_ns);
}

static int socket_fault(const struct tls_lane *lane, int errno_value, struct fault *fault)
{
    int code = err_from_errno(errno_value);
    if (code == ERR_TIMEOUT)
        return fault_set(fault, code, "the peer of %s is silent for %d s", lane->name,
                         PEER_SILENT_MS / 1000);
    return fault_set_errno(fault, code, errno_value, "%s broke", lane->name);
}

/* ---- writing ---- */

static int push_some(struct tls_lane *lane, struct wait *wait, struct fault *fault)
{
    ssize_t sent = send(lane->fd, lane->gather + lane->gather_start, lane->gather_count,
                        MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
        lane->gather_start += (size_t)sent;
        lane->gather_count -= (size_t)sent;
        count_up(&lane->stream.wire_bytes_out, (uint64_t)sent);
        wait_moved(wait);
        return 0;
    }
    if (errno == EINTR)
        return 0;
    if (errno == EAGAIN)
        return wait_for(lane, wait, POLLOUT, fault);
    return socket_fault(lane, errno, fault);
}

/* All that is sealed goes to the socket. */
static int push(struct tls_lane *lane, struct fault *fault)
{
    struct wait wait = {0};
    int r = 0;
    while (r == 0 && lane->gather_count > 0)
        r = push_some(lane, &wait, fault);
    wait_end(&wait, &lane->stream.wait_out_ns);
    if (r == 0)
        lane->gather_start = 0;
    return r;
}

static int make_room(struct tls_lane *lane, struct fault *fault)
{
    if (GATHER_BYTES - lane->gather_count >= TLS_RECORD_WIRE_MAX)
        return 0;
    return push(lane, fault);
}

static void seal(struct tls_lane *lane, uint8_t type, const void *head, size_t head_bytes,
                 const void *tail, size_t tail_bytes)
{
    assert(lane->gather_start == 0); /* nothing is sealed while a push is under way */
    lane->gather_count += tls_record_seal(&lane->sealer, type, head, head_bytes, tail, tail_bytes,
                                          lane->gather + lane->gather_count);
}

static int update_key(struct tls_lane *lane, struct fault *fault)
{
    /* KeyUpdate, update_not_requested: the other direction counts for itself. */
    static const uint8_t message[KEY_UPDATE_BYTES] = {24, 0, 0, 1, 0};
    seal(lane, TLS_RECORD_HANDSHAKE, message, sizeof message, NULL, 0);
    if (tls_record_next_key(&lane->sealer) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for the next key of %s", lane->name);
    return make_room(lane, fault);
}

/* One record of application data: what is staged, then `tail`. */
static int seal_data(struct tls_lane *lane, const void *tail, size_t tail_bytes,
                     struct fault *fault)
{
    int r = make_room(lane, fault);
    if (r == 0 && (lane->sealer.sequence >= lane->key_records_max ||
                   atomic_exchange_explicit(&lane->owes_key_update, false, memory_order_relaxed)))
        r = update_key(lane, fault);
    if (r < 0)
        return r;
    seal(lane, TLS_RECORD_DATA, lane->stage, lane->stage_count, tail, tail_bytes);
    lane->stage_count = 0;
    return 0;
}

static int check_out(const struct tls_lane *lane, struct fault *fault)
{
    if (atomic_load_explicit(&lane->is_interrupted, memory_order_relaxed))
        return fail_interrupted(lane, fault);
    if (lane->is_out_broken)
        return fault_set(fault, ERR_CLOSED, "%s is broken", lane->name);
    return 0;
}

static int write_all(struct tls_lane *lane, const uint8_t *bytes, size_t count, struct fault *fault)
{
    while (count >= TLS_RECORD_PLAIN_MAX - lane->stage_count) {
        size_t part = TLS_RECORD_PLAIN_MAX - lane->stage_count;
        int r = seal_data(lane, bytes, part, fault);
        if (r < 0)
            return r;
        bytes += part;
        count -= part;
    }
    if (count > 0)
        memcpy(lane->stage + lane->stage_count, bytes, count);
    lane->stage_count += count;
    return 0;
}

static int lane_write(struct stream *stream, const void *bytes, size_t count, struct fault *fault)
{
    struct tls_lane *lane = lane_of(stream);
    int r = check_out(lane, fault);
    if (r == 0)
        r = write_all(lane, bytes, count, fault);
    lane->is_out_broken |= r < 0;
    return r;
}

static int lane_flush(struct stream *stream, struct fault *fault)
{
    struct tls_lane *lane = lane_of(stream);
    int r = check_out(lane, fault);
    if (r == 0 && lane->stage_count > 0)
        r = seal_data(lane, NULL, 0, fault);
    if (r == 0)
        r = push(lane, fault);
    lane->is_out_broken |= r < 0;
    return r;
}

/* ---- reading ---- */

static int receive_some(struct tls_lane *lane, struct wait *wait, struct fault *fault)
{
    ssize_t got = recv(lane->fd, lane->arrived + lane->arrived_end,
                       ARRIVED_BYTES - lane->arrived_end, MSG_DONTWAIT);
    if (got > 0) {
        lane->arrived_end += (size_t)got;
        count_up(&lane->stream.wire_bytes_in, (uint64_t)got);
        wait_moved(wait);
        return 0;
    }
    if (got == 0)
        return fault_set(fault, ERR_CLOSED, "%s ended without a good-bye", lane->name);
    if (errno == EINTR)
        return 0;
    if (errno == EAGAIN)
        return wait_for(lane, wait, POLLIN, fault);
    return socket_fault(lane, errno, fault);
}

/* Wait until `need` bytes have arrived. */
static int receive(struct tls_lane *lane, size_t need, struct fault *fault)
{
    assert(need <= TLS_RECORD_HEADER_BYTES + TLS_RECORD_BODY_MAX);
    struct wait wait = {0};
    int r = 0;
    while (r == 0 && lane->arrived_end - lane->arrived_start < need) {
        if (lane->arrived_start == lane->arrived_end) {
            lane->arrived_start = lane->arrived_end = 0;
        } else if (ARRIVED_BYTES - lane->arrived_start < need) {
            lane->arrived_end -= lane->arrived_start;
            memmove(lane->arrived, lane->arrived + lane->arrived_start, lane->arrived_end);
            lane->arrived_start = 0;
        }
        r = receive_some(lane, &wait, fault);
    }
    wait_end(&wait, &lane->stream.wait_in_ns);
    return r;
}

static int on_alert(struct tls_lane *lane, const uint8_t *alert, size_t count, struct fault *fault)
{
    if (count == 2 && alert[1] == ALERT_CLOSE_NOTIFY)
        return fault_set(fault, ERR_CLOSED, "the peer closed %s", lane->name);
    if (count == 2 && alert[1] == ALERT_BAD_RECORD_MAC)
        return fault_set(fault, ERR_CORRUPT,
                         "the peer says that the bytes of %s were changed on the way", lane->name);
    return fault_set(fault, ERR_CLOSED, "the peer gave up %s: TLS alert %d", lane->name,
                     count == 2 ? alert[1] : -1);
}

static int on_handshake(struct tls_lane *lane, const uint8_t *message, size_t count,
                        struct fault *fault)
{
    static const uint8_t key_update[KEY_UPDATE_BYTES - 1] = {24, 0, 0, 1};
    if (count != KEY_UPDATE_BYTES || memcmp(message, key_update, sizeof key_update) != 0 ||
        message[4] > 1)
        return fault_set(fault, ERR_CORRUPT, "%s brought a TLS message out of its turn",
                         lane->name);
    if (message[4] == 1)
        atomic_store_explicit(&lane->owes_key_update, true, memory_order_relaxed);
    if (tls_record_next_key(&lane->opener) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for the next key of %s", lane->name);
    return 0;
}

static int receive_record(struct tls_lane *lane, size_t *ret_body, struct fault *fault)
{
    int r = receive(lane, TLS_RECORD_HEADER_BYTES, fault);
    if (r < 0)
        return r;
    size_t body = tls_record_body_bytes(lane->arrived + lane->arrived_start);
    if (body == 0)
        return fault_set(fault, ERR_CORRUPT, "the bytes of %s were changed on the way", lane->name);
    *ret_body = body;
    return receive(lane, TLS_RECORD_HEADER_BYTES + body, fault);
}

/* Open the next record: straight to `ret_bytes` when it surely fits there, else to `plain`.
 * *ret_count says how many of the reader's bytes that brought, which may be none. */
static int open_next(struct tls_lane *lane, uint8_t *ret_bytes, size_t room, size_t *ret_count,
                     struct fault *fault)
{
    size_t body = 0;
    int r = receive_record(lane, &body, fault);
    if (r < 0)
        return r;

    bool is_direct = body - TLS_RECORD_TAIL_BYTES <= room;
    uint8_t *plain = is_direct ? ret_bytes : lane->plain;
    uint8_t type = 0;
    size_t count = 0;
    r = tls_record_open(&lane->opener, lane->arrived + lane->arrived_start, plain, &count, &type);
    lane->arrived_start += TLS_RECORD_HEADER_BYTES + body;
    *ret_count = 0;
    if (r == TLS_RECORD_E_FORGED)
        return fault_set(fault, ERR_CORRUPT, "the bytes of %s were changed on the way", lane->name);
    if (type == TLS_RECORD_ALERT)
        return on_alert(lane, plain, count, fault);
    if (type == TLS_RECORD_HANDSHAKE)
        return on_handshake(lane, plain, count, fault);
    if (type != TLS_RECORD_DATA)
        return fault_set(fault, ERR_CORRUPT, "%s brought a record of type %u", lane->name, type);

    if (is_direct) {
        *ret_count = count;
    } else {
        lane->plain_start = 0;
        lane->plain_end = count;
    }
    return 0;
}

static size_t take_plain(struct tls_lane *lane, uint8_t *ret_bytes, size_t room)
{
    size_t part = lane->plain_end - lane->plain_start;
    if (part > room)
        part = room;
    memcpy(ret_bytes, lane->plain + lane->plain_start, part);
    lane->plain_start += part;
    return part;
}

static int read_all(struct tls_lane *lane, uint8_t *bytes, size_t count, struct fault *fault)
{
    while (count > 0) {
        size_t got = take_plain(lane, bytes, count);
        int r = got == 0 ? open_next(lane, bytes, count, &got, fault) : 0;
        if (r < 0)
            return r;
        bytes += got;
        count -= got;
    }
    return 0;
}

static int lane_read(struct stream *stream, void *ret_bytes, size_t count, struct fault *fault)
{
    struct tls_lane *lane = lane_of(stream);
    if (atomic_load_explicit(&lane->is_interrupted, memory_order_relaxed))
        return fail_interrupted(lane, fault);
    if (lane->is_in_broken)
        return fault_set(fault, ERR_CLOSED, "%s is broken", lane->name);
    int r = read_all(lane, ret_bytes, count, fault);
    lane->is_in_broken |= r < 0;
    return r;
}

/* ---- any thread ---- */

static void lane_interrupt(struct stream *stream)
{
    struct tls_lane *lane = lane_of(stream);
    atomic_store_explicit(&lane->is_interrupted, true, memory_order_relaxed);
    uint64_t one = 1;
    ssize_t written = write(lane->alarm, &one, sizeof one);
    (void)written; /* it fails when the counter is full, and then it is readable anyway */
}

static void lane_set_hot(struct stream *stream, bool hot)
{
    atomic_store_explicit(&lane_of(stream)->is_hot, hot, memory_order_relaxed);
}

/* ---- birth and death ---- */

/* Only a lane that has delivered all it was given says good-bye: to the peer, an end without it
 * means that bytes are missing. */
static void say_goodbye(struct tls_lane *lane)
{
    static const uint8_t alert[2] = {1, ALERT_CLOSE_NOTIFY};
    if (!lane->sealer.cipher || lane->is_out_broken || lane->is_in_broken || lane->is_interrupted ||
        lane->stage_count > 0 || lane->gather_count > 0)
        return;
    seal(lane, TLS_RECORD_ALERT, alert, sizeof alert, NULL, 0);
    (void)send(lane->fd, lane->gather, lane->gather_count, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void lane_free(struct stream *stream)
{
    struct tls_lane *lane = lane_of(stream);
    if (lane->fd >= 0) {
        say_goodbye(lane);
        (void)close(lane->fd); /* what had to arrive was confirmed above us */
    }
    if (lane->alarm >= 0)
        (void)close(lane->alarm);
    tls_record_deinit(&lane->sealer);
    tls_record_deinit(&lane->opener);
    free(lane->stage);
    free(lane->gather);
    free(lane->arrived);
    free(lane->plain);
    free(lane);
}

static const struct stream_ops lane_ops = {
    .write = lane_write,
    .flush = lane_flush,
    .read = lane_read,
    .interrupt = lane_interrupt,
    .set_hot = lane_set_hot,
    .free = lane_free,
};

static struct tls_lane *lane_alloc(void)
{
    struct tls_lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return NULL;
    lane->stream.ops = &lane_ops;
    lane->fd = -1;
    lane->alarm = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lane->stage = malloc(TLS_RECORD_PLAIN_MAX);
    lane->gather = malloc(GATHER_BYTES);
    lane->arrived = malloc(ARRIVED_BYTES);
    lane->plain = malloc(TLS_RECORD_BODY_MAX);
    if (lane->alarm < 0 || !lane->stage || !lane->gather || !lane->arrived || !lane->plain) {
        lane_free(&lane->stream);
        return NULL;
    }
    return lane;
}

static void cleanup_lane(struct tls_lane **lane)
{
    if (*lane)
        lane_free(&(*lane)->stream);
}

/* Larger buffers to start with, then unlocked, so that the kernel may still make them larger. Where
 * it cannot be unlocked (before Linux 5.14) the kernel's own growing is the better half. */
static void widen(int fd)
{
    int unlocked = 0, bytes = SOCKET_BUFFER_BYTES;
    if (setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &unlocked, sizeof unlocked) < 0)
        return;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes); /* speed only */
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    (void)setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &unlocked, sizeof unlocked);
}

static void name_lane(struct tls_lane *lane, unsigned number)
{
    if (number == TLS_LANE_CONTROL)
        (void)snprintf(lane->name, sizeof lane->name, "the control lane");
    else
        (void)snprintf(lane->name, sizeof lane->name, "lane %u", number);
}

static int prepare_socket(int fd, struct fault *fault)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "preparing a lane's socket");
    int r = tcp_set_options(fd, fault);
    if (r == 0)
        widen(fd);
    return r;
}

static int use_keys(struct tls_lane *lane, const struct lane_keys *keys, struct fault *fault)
{
    if (tls_record_init(&lane->sealer, keys->out_secret, true) < 0 ||
        tls_record_init(&lane->opener, keys->in_secret, false) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for the keys");
    lane->stream.wire_bytes_out = keys->wire_bytes_out;
    lane->stream.wire_bytes_in = keys->wire_bytes_in;
    name_lane(lane, keys->lane);
    return 0;
}

static void check_config(const struct tls_lane_config *config)
{
    assert(config->handshake_ms_max > 0 && config->handshake_ms_max < INT_MAX);
    assert(config->move_id[0] && strlen(config->move_id) <= TLS_LANE_MOVE_ID_MAX);
    assert(!config->is_source || config->lane < LANES_MAX || config->lane == TLS_LANE_CONTROL);
}

int tls_lane_new(struct stream **ret_stream, unsigned *ret_lane,
                 const struct tls_lane_config *config, struct fault *fault)
{
    check_config(config);
    AUTO(cleanup_lane) struct tls_lane *lane = lane_alloc();
    if (!lane)
        return fault_set(fault, ERR_NOMEM, "no memory for a lane");
    lane->key_records_max =
        config->key_records_max ? config->key_records_max : TLS_LANE_KEY_RECORDS_MAX;
    (void)snprintf(lane->name, sizeof lane->name, "a new lane");
    if (config->is_source)
        name_lane(lane, config->lane);

    struct lane_keys keys = {0};
    int r = prepare_socket(config->fd, fault);
    if (r == 0)
        r = lane_handshake(config, &keys, fault);
    if (r == 0)
        r = use_keys(lane, &keys, fault);
    OPENSSL_cleanse(keys.out_secret, sizeof keys.out_secret);
    OPENSSL_cleanse(keys.in_secret, sizeof keys.in_secret);
    if (r < 0)
        return fault_wrap(fault, r, "%s", lane->name);

    lane->fd = config->fd;
    *ret_lane = keys.lane;
    *ret_stream = &TAKE(lane)->stream;
    return 0;
}
