/* OpenSSL seals and opens; this file moves bytes between it and the socket, many records at a time:
 *
 *   stream_write -> stage (< 16 KiB) \
 *                                     > SSL_write -> gather -> send
 *   stream_write, whole records -----/
 *
 *   recv -> arrived -> SSL_read -> the reader's buffer
 *
 * Own records under OpenSSL's traffic secrets would save four copies of every byte: measured side
 * by side, this way costs 1.05 to 1.26 times the CPU time. TLS in one well-kept place is worth it.
 *
 * An SSL object allows one thread at a time, a lane two. So `lock` is held across each single call
 * of SSL_write and SSL_read, which is one record or a part of one, and across nothing else: the
 * BIOs behind SSL are the two buffers and never the socket, all of send, recv and poll is done
 * outside. Even SSL_read may want to write (an alert), hence `gather` belongs to the lock, too.
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
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "net/lane_handshake.h"
#include "net/openssl.h"
#include "net/stream.h"
#include "proto/limits.h"

enum {
    RECORD_PLAIN_MAX = 16384,
    RECORD_WIRE_MAX = 5 + RECORD_PLAIN_MAX + 1 + 16, /* header, inner type, tag */
    ROOM_BYTES = RECORD_WIRE_MAX + 256,              /* ... and a KeyUpdate and alerts beside it */
    /* 64 and 256 KiB, and send and recv in the BIOs themselves (one call for each record, one copy
     * less) gave no difference that stood out of the noise of a busy machine. */
    GATHER_BYTES = 128 << 10,
    ARRIVED_BYTES = 128 << 10,
    SOCKET_BUFFER_BYTES = 1 << 20, /* to start with; the kernel makes it larger for long ways */
    SPIN_MS_MAX = 2,               /* a wake-up costs 0.1 ms; longer waits are not worth a core */
};
static_assert(GATHER_BYTES >= ROOM_BYTES, "there is room for a record once all was sent");

struct tls_lane {
    struct stream stream; /* first */
    int fd, alarm;        /* alarm: an eventfd, readable once interrupted */
    char name[24];        /* "lane 2" */
    uint64_t key_records_max;
    BIO_METHOD *bio_method;
    /* atomic */
    atomic_bool is_interrupted, is_hot;

    /* the lock's */
    pthread_mutex_t lock;
    SSL *ssl;
    size_t gather_end, arrived_start, arrived_end;

    /* the writer's */
    bool is_out_broken;
    size_t stage_count, gather_start;
    uint64_t key_records; /* under the present key */
    uint8_t *stage;       /* RECORD_PLAIN_MAX */
    uint8_t *gather;      /* GATHER_BYTES; from gather_end on the lock's */

    /* the reader's */
    bool is_in_broken;
    uint8_t *arrived; /* ARRIVED_BYTES; from arrived_start to arrived_end the lock's */
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
        /* Between two looks somebody else may run: the peer itself, when it shares our cores. */
        (void)sched_yield();
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

/* ---- OpenSSL and its two buffers ---- */

static void lock(struct tls_lane *lane)
{
    int r = pthread_mutex_lock(&lane->lock);
    assert(r == 0);
}

static void unlock(struct tls_lane *lane)
{
    int r = pthread_mutex_unlock(&lane->lock);
    assert(r == 0);
}

static int bio_write(BIO *bio, const char *bytes, size_t count, size_t *ret_written)
{
    struct tls_lane *lane = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (count > GATHER_BYTES - lane->gather_end) {
        BIO_set_retry_write(bio); /* an alert that finds no room; records have it */
        return 0;
    }
    memcpy(lane->gather + lane->gather_end, bytes, count);
    lane->gather_end += count;
    *ret_written = count;
    return 1;
}

static int bio_read(BIO *bio, char *ret_bytes, size_t room, size_t *ret_count)
{
    struct tls_lane *lane = BIO_get_data(bio);
    size_t count = lane->arrived_end - lane->arrived_start;
    BIO_clear_retry_flags(bio);
    if (count == 0) {
        BIO_set_retry_read(bio);
        return 0;
    }
    if (count > room)
        count = room;
    memcpy(ret_bytes, lane->arrived + lane->arrived_start, count);
    lane->arrived_start += count;
    *ret_count = count;
    return 1;
}

static long bio_ctrl(BIO *bio, int what, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return what == BIO_CTRL_FLUSH;
}

static bool put_buffers_behind(struct tls_lane *lane)
{
    lane->bio_method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "lane");
    if (!lane->bio_method || BIO_meth_set_write_ex(lane->bio_method, bio_write) != 1 ||
        BIO_meth_set_read_ex(lane->bio_method, bio_read) != 1 ||
        BIO_meth_set_ctrl(lane->bio_method, bio_ctrl) != 1)
        return false;
    BIO *bio = BIO_new(lane->bio_method);
    if (!bio)
        return false;
    BIO_set_data(bio, lane);
    BIO_set_init(bio, 1);
    SSL_set_bio(lane->ssl, bio, bio); /* takes it */
    return true;
}

/* ---- writing ---- */

static size_t gathered(struct tls_lane *lane)
{
    lock(lane);
    size_t end = lane->gather_end;
    unlock(lane);
    return end;
}

static int push_some(struct tls_lane *lane, size_t end, struct wait *wait, struct fault *fault)
{
    ssize_t sent = send(lane->fd, lane->gather + lane->gather_start, end - lane->gather_start,
                        MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
        lane->gather_start += (size_t)sent;
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

/* Start at the front again, unless a reader's alert came in meanwhile. */
static bool rewind_gather(struct tls_lane *lane)
{
    lock(lane);
    bool is_empty = lane->gather_start == lane->gather_end;
    if (is_empty)
        lane->gather_start = lane->gather_end = 0;
    unlock(lane);
    return is_empty;
}

/* All that is sealed goes to the socket. */
static int push(struct tls_lane *lane, struct fault *fault)
{
    struct wait wait = {0};
    int r = 0;
    do {
        size_t end = gathered(lane);
        while (r == 0 && lane->gather_start < end)
            r = push_some(lane, end, &wait, fault);
    } while (r == 0 && !rewind_gather(lane));
    wait_end(&wait, &lane->stream.wait_out_ns);
    return r;
}

/* SSL_write had all the room it wanted; so it failed because the session is at its end, or because
 * it wants to read first: the peer left a message of the handshake half said. */
static int out_fault(const struct tls_lane *lane, int error, struct fault *fault)
{
    ERR_clear_error();
    if (error == SSL_ERROR_WANT_READ)
        return fault_set(fault, ERR_CORRUPT, "%s brought a TLS message out of its turn",
                         lane->name);
    return fault_set(fault, ERR_CLOSED, "%s is broken", lane->name);
}

/* One record of application data. A KeyUpdate stands before it where one is due, ours or the one
 * that the peer asked for: OpenSSL sends both with the next SSL_write. */
static int seal(struct tls_lane *lane, const void *bytes, size_t count, struct fault *fault)
{
    assert(count > 0 && count <= RECORD_PLAIN_MAX);
    int r = GATHER_BYTES - gathered(lane) < ROOM_BYTES ? push(lane, fault) : 0;
    if (r < 0)
        return r;

    ERR_clear_error();
    bool is_due = lane->key_records >= lane->key_records_max;
    size_t written = 0;
    lock(lane);
    /* The other direction counts for itself. */
    r = is_due ? SSL_key_update(lane->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) : 1;
    if (r == 1)
        r = SSL_write_ex(lane->ssl, bytes, count, &written);
    int error = SSL_get_error(lane->ssl, r);
    unlock(lane);
    if (r != 1)
        return out_fault(lane, error, fault);
    assert(written == count);
    lane->key_records = is_due ? 1 : lane->key_records + 1;
    return 0;
}

static int seal_stage(struct tls_lane *lane, struct fault *fault)
{
    int r = seal(lane, lane->stage, lane->stage_count, fault);
    if (r == 0)
        lane->stage_count = 0;
    return r;
}

static int check_out(const struct tls_lane *lane, struct fault *fault)
{
    if (atomic_load_explicit(&lane->is_interrupted, memory_order_relaxed))
        return fail_interrupted(lane, fault);
    if (lane->is_out_broken)
        return fault_set(fault, ERR_CLOSED, "%s is broken", lane->name);
    return 0;
}

static void stage(struct tls_lane *lane, const uint8_t *bytes, size_t count)
{
    if (count > 0)
        memcpy(lane->stage + lane->stage_count, bytes, count);
    lane->stage_count += count;
}

static int write_all(struct tls_lane *lane, const uint8_t *bytes, size_t count, struct fault *fault)
{
    while (count >= RECORD_PLAIN_MAX - lane->stage_count) {
        size_t part = RECORD_PLAIN_MAX - lane->stage_count;
        int r;
        if (lane->stage_count == 0) {
            r = seal(lane, bytes, part, fault);
        } else {
            stage(lane, bytes, part);
            r = seal_stage(lane, fault);
        }
        if (r < 0)
            return r;
        bytes += part;
        count -= part;
    }
    stage(lane, bytes, count);
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
        r = seal_stage(lane, fault);
    if (r == 0)
        r = push(lane, fault);
    lane->is_out_broken |= r < 0;
    return r;
}

/* ---- reading ---- */

static int receive_some(struct tls_lane *lane, struct wait *wait, size_t *ret_count,
                        struct fault *fault)
{
    ssize_t got = recv(lane->fd, lane->arrived, ARRIVED_BYTES, MSG_DONTWAIT);
    if (got > 0) {
        *ret_count = (size_t)got;
        count_up(&lane->stream.wire_bytes_in, (uint64_t)got);
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

/* SSL_read has taken all that had arrived; wait for more of it. Outside the lock `arrived` is the
 * reader's as long as it is empty. */
static int receive(struct tls_lane *lane, struct fault *fault)
{
    struct wait wait = {0};
    size_t count = 0;
    int r = 0;
    while (r == 0 && count == 0)
        r = receive_some(lane, &wait, &count, fault);
    wait_end(&wait, &lane->stream.wait_in_ns);
    if (r < 0)
        return r;
    lock(lane);
    assert(lane->arrived_start == lane->arrived_end);
    lane->arrived_start = 0;
    lane->arrived_end = count;
    unlock(lane);
    return 0;
}

static int in_fault(const struct tls_lane *lane, int error, struct fault *fault)
{
    int reason = ERR_GET_REASON(ERR_peek_last_error());
    ERR_clear_error();
    if (error == SSL_ERROR_ZERO_RETURN)
        return fault_set(fault, ERR_CLOSED, "the peer closed %s", lane->name);
    if (reason == SSL_R_SSLV3_ALERT_BAD_RECORD_MAC)
        return fault_set(fault, ERR_CORRUPT,
                         "the peer says that the bytes of %s were changed on the way", lane->name);
    if (reason >= SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256)
        return fault_set(fault, ERR_CLOSED, "the peer gave up %s: TLS alert %d", lane->name,
                         reason - SSL_AD_REASON_OFFSET);
    return fault_set(fault, ERR_CORRUPT, "the bytes of %s were changed on the way", lane->name);
}

/* What the next record has, or what is left of the last one; at most one record at a time. */
static int open_some(struct tls_lane *lane, uint8_t *ret_bytes, size_t room, size_t *ret_count,
                     struct fault *fault)
{
    *ret_count = 0;
    lock(lane);
    int r = SSL_read_ex(lane->ssl, ret_bytes, room, ret_count);
    int error = SSL_get_error(lane->ssl, r);
    unlock(lane);
    if (r == 1)
        return 0;
    if (error == SSL_ERROR_WANT_READ)
        return receive(lane, fault);
    return in_fault(lane, error, fault);
}

static int read_all(struct tls_lane *lane, uint8_t *bytes, size_t count, struct fault *fault)
{
    ERR_clear_error();
    while (count > 0) {
        size_t got = 0;
        int r = open_some(lane, bytes, count, &got, fault);
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
 * means that bytes are missing. One that found changed bytes has OpenSSL's alert to send. */
static void say_goodbye(struct tls_lane *lane)
{
    if (!lane->ssl || lane->is_interrupted)
        return;
    if (!lane->is_out_broken && !lane->is_in_broken && lane->stage_count == 0 &&
        lane->gather_end == 0)
        (void)SSL_shutdown(lane->ssl); /* when it fails the end is not clean, and so it looks */
    ERR_clear_error();
    (void)send(lane->fd, lane->gather + lane->gather_start, lane->gather_end - lane->gather_start,
               MSG_DONTWAIT | MSG_NOSIGNAL);
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
    SSL_free(lane->ssl);
    BIO_meth_free(lane->bio_method);
    (void)pthread_mutex_destroy(&lane->lock); /* fails for a locked one only */
    free(lane->stage);
    free(lane->gather);
    free(lane->arrived);
    free(lane);
}

/* Source: Linux tcp(7), SIOCOUTQ. */
static uint64_t lane_queued(struct stream *stream)
{
    const struct tls_lane *lane = (const struct tls_lane *)stream;
    int bytes = 0;
    return ioctl(lane->fd, SIOCOUTQ, &bytes) == 0 && bytes > 0 ? (uint64_t)bytes : 0;
}

static uint64_t lane_round_trip_ns(struct stream *stream)
{
    const struct tls_lane *lane = (const struct tls_lane *)stream;
    struct tcp_info info = {0}; /* the kernel's, which knows more than the C library's */
    socklen_t size = sizeof info;
    if (getsockopt(lane->fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 || info.tcpi_min_rtt == UINT32_MAX)
        return 0;
    return (uint64_t)info.tcpi_min_rtt * NS_PER_US;
}

static const struct stream_ops lane_ops = {
    .write = lane_write,
    .flush = lane_flush,
    .read = lane_read,
    .interrupt = lane_interrupt,
    .set_hot = lane_set_hot,
    .queued = lane_queued,
    .round_trip_ns = lane_round_trip_ns,
    .free = lane_free,
};

static struct tls_lane *lane_alloc(void)
{
    struct tls_lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return NULL;
    lane->stream.ops = &lane_ops;
    lane->stream.cipher = "TLS_AES_128_GCM_SHA256"; /* the only one that is offered and taken */
    lane->fd = -1;
    lane->alarm = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    (void)pthread_mutex_init(&lane->lock, NULL); /* 0 always, on Linux */
    lane->stage = malloc(RECORD_PLAIN_MAX);
    lane->gather = malloc(GATHER_BYTES);
    lane->arrived = malloc(ARRIVED_BYTES);
    if (lane->alarm < 0 || !lane->stage || !lane->gather || !lane->arrived) {
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

static void name_lane(struct tls_lane *lane, const struct tls_lane_name *name)
{
    if (name->lane == TLS_LANE_CONTROL)
        (void)snprintf(lane->name, sizeof lane->name, "the control lane");
    else
        (void)snprintf(lane->name, sizeof lane->name, "lane %u", name->lane);
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

static int use_session(struct tls_lane *lane, const struct lane_session *session,
                       struct fault *fault)
{
    lane->ssl = session->ssl;
    if (!put_buffers_behind(lane))
        return fault_set(fault, ERR_NOMEM, "no memory for a lane");
    lane->stream.wire_bytes_out = session->wire_bytes_out;
    lane->stream.wire_bytes_in = session->wire_bytes_in;
    name_lane(lane, &session->name);
    return 0;
}

static void check_config(const struct tls_lane_config *config)
{
    assert(config->handshake_ms_max > 0 && config->handshake_ms_max < INT_MAX);
    assert(config->move_id[0] && strlen(config->move_id) <= TLS_LANE_MOVE_ID_MAX);
    assert(!config->is_source || config->name.lane < LANES_MAX ||
           config->name.lane == TLS_LANE_CONTROL);
    assert(!config->is_source || config->name.epoch <= LANE_EPOCH_MAX);
}

bool tls_lane_warm(void)
{
    return lane_handshake_warm();
}

int tls_lane_new(struct stream **ret_stream, struct tls_lane_name *ret_name,
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
        name_lane(lane, &config->name);

    struct lane_session session = {0};
    int r = prepare_socket(config->fd, fault);
    if (r == 0)
        r = lane_handshake(config, &session, fault);
    if (r == 0)
        r = use_session(lane, &session, fault);
    if (r < 0)
        return fault_wrap(fault, r, "%s", lane->name);

    lane->fd = config->fd;
    *ret_name = session.name;
    *ret_stream = &TAKE(lane)->stream;
    return 0;
}
