/* Lanes over loopback TCP: against each other, against OpenSSL itself at the other end, and through
 * a proxy that changes what passes. Threads only record; the test's own thread asserts. */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/openssl.h"

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "net/stream.h"
#include "net/tls_lane.h"
#include "proto/limits.h"

enum { SOURCE, TARGET, HANDSHAKE_MS = 5000, BULK = 8 << 20 };
enum { /* of TLS 1.3 with AES-GCM */
       RECORD_HEADER_BYTES = 5,
       RECORD_TAIL_BYTES = 1 + 16, /* inner type, tag */
       RECORD_WIRE_MAX = RECORD_HEADER_BYTES + 16384 + RECORD_TAIL_BYTES,
};

static const uint8_t psk[TLS_LANE_PSK_BYTES] = {1, 2, 3, 4};
static const uint8_t other_psk[TLS_LANE_PSK_BYTES] = {1, 2, 3, 5};

/* ---- sockets and ends ---- */

static void connect_pair(int ret_fds[2])
{
    AUTO_FD int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    ret_fds[SOURCE] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    assert_int_equal(connect(ret_fds[SOURCE], (struct sockaddr *)&address, size), 0);
    ret_fds[TARGET] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(ret_fds[TARGET] >= 0);
}

struct end {
    struct tls_lane_config config;
    struct stream *stream;
    struct tls_lane_name name;
    int result;
    struct fault fault;
};

static void *open_end(void *data)
{
    struct end *end = data;
    end->result = tls_lane_new(&end->stream, &end->name, &end->config, &end->fault);
    if (end->result < 0)
        (void)close(end->config.fd);
    return NULL;
}

static void open_ends(struct end ends[2])
{
    pthread_t source;
    pthread_create(&source, NULL, open_end, &ends[SOURCE]);
    (void)open_end(&ends[TARGET]);
    pthread_join(source, NULL);
}

static void configure(struct end ends[2], const int fds[2])
{
    for (int i = 0; i < 2; i++)
        ends[i] = (struct end){.config = {.fd = fds[i],
                                          .is_source = i == SOURCE,
                                          .move_id = "move-1",
                                          .name = {.lane = 2},
                                          .psk = psk,
                                          .handshake_ms_max = HANDSHAKE_MS}};
}

static void configure_pair(struct end ends[2])
{
    int fds[2];
    connect_pair(fds);
    configure(ends, fds);
}

static void open_pair(struct end ends[2])
{
    configure_pair(ends);
    open_ends(ends);
    assert_int_equal(ends[SOURCE].result, 0);
    assert_int_equal(ends[TARGET].result, 0);
}

static void free_pair(struct end ends[2])
{
    for (int i = 0; i < 2; i++)
        ends[i].stream = stream_free(ends[i].stream);
}

/* ---- bulk work in a thread ---- */

static uint8_t byte_at(size_t position)
{
    return (uint8_t)(position * 2654435761u >> 13);
}

struct job {
    pthread_t thread;
    struct stream *stream;
    size_t bytes, piece_max;
    bool reads, is_hot;
    int result;
    bool differs;
    struct fault fault;
    atomic_int tid;
};

static void *run_job(void *data)
{
    struct job *job = data;
    uint8_t *piece = malloc(job->piece_max);
    unsigned seed = job->reads ? 7 : 8;
    atomic_store(&job->tid, (int)syscall(SYS_gettid));
    if (job->is_hot)
        stream_set_hot(job->stream, true);
    for (size_t done = 0; done < job->bytes && job->result == 0;) {
        size_t count = (size_t)rand_r(&seed) % job->piece_max + 1;
        if (count > job->bytes - done)
            count = job->bytes - done;
        for (size_t i = 0; i < count && !job->reads; i++)
            piece[i] = byte_at(done + i);
        job->result = job->reads ? stream_read(job->stream, piece, count, &job->fault)
                                 : stream_write(job->stream, piece, count, &job->fault);
        for (size_t i = 0; i < count && job->reads && job->result == 0; i++)
            job->differs |= piece[i] != byte_at(done + i);
        done += count;
    }
    if (!job->reads && job->result == 0)
        job->result = stream_flush(job->stream, &job->fault);
    free(piece);
    return NULL;
}

static void start_job(struct job *job, struct stream *stream, bool reads, size_t bytes,
                      size_t piece_max)
{
    job->stream = stream;
    job->reads = reads;
    job->bytes = bytes;
    job->piece_max = piece_max;
    pthread_create(&job->thread, NULL, run_job, job);
}

static void join_well(struct job *job)
{
    pthread_join(job->thread, NULL);
    if (job->result != 0)
        print_error("%s\n", job->fault.text);
    assert_int_equal(job->result, 0);
    assert_false(job->differs);
}

static void await_asleep(const struct job *job)
{
    char path[64], text[256] = "";
    while (atomic_load(&job->tid) == 0)
        sched_yield();
    (void)snprintf(path, sizeof path, "/proc/self/task/%d/syscall", atomic_load(&job->tid));
    char poll_call[16];
    (void)snprintf(poll_call, sizeof poll_call, "%d ", SYS_poll);
    while (strncmp(text, poll_call, strlen(poll_call)) != 0) {
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        if (!fgets(text, sizeof text, file))
            text[0] = '\0';
        (void)fclose(file);
        sched_yield();
    }
}

/* ---- what it carries ---- */

static void *warm_up(void *data)
{
    bool *is_warm = data;
    *is_warm = tls_lane_warm();
    return NULL;
}

static void warming_up_ends_well_beside_a_lane_that_opens(void **state)
{
    (void)state;
    struct end ends[2];
    bool is_warm = false;
    pthread_t warm;
    assert_int_equal(pthread_create(&warm, NULL, warm_up, &is_warm), 0);
    open_pair(ends);
    pthread_join(warm, NULL);
    assert_true(is_warm);
    free_pair(ends);
}

static void carries_pieces_of_all_sizes_in_order(void **state)
{
    (void)state;
    static const size_t piece_max[] = {1, 100, 16384, 70000, 1 << 20};
    for (size_t i = 0; i < ARRAY_COUNT(piece_max); i++) {
        struct end ends[2];
        struct job writer = {0}, reader = {0};
        open_pair(ends);
        size_t bytes = piece_max[i] == 1 ? 50000 : BULK;

        start_job(&reader, ends[TARGET].stream, true, bytes, piece_max[i]);
        start_job(&writer, ends[SOURCE].stream, false, bytes, piece_max[i]);

        join_well(&writer);
        join_well(&reader);
        free_pair(ends);
    }
}

static void carries_both_directions_at_once(void **state)
{
    (void)state;
    struct end ends[2];
    struct job jobs[4] = {0};
    open_pair(ends);

    for (size_t i = 0; i < 4; i++)
        start_job(&jobs[i], ends[i / 2].stream, i % 2 == 0, BULK, 300000);

    for (size_t i = 0; i < 4; i++)
        join_well(&jobs[i]);
    free_pair(ends);
}

static void carries_while_hot(void **state)
{
    (void)state;
    struct end ends[2];
    struct job jobs[2] = {{.is_hot = true}, {.is_hot = true}};
    open_pair(ends);

    start_job(&jobs[0], ends[TARGET].stream, true, BULK, 100000);
    start_job(&jobs[1], ends[SOURCE].stream, false, BULK, 100000);

    join_well(&jobs[1]);
    join_well(&jobs[0]);
    free_pair(ends);
}

static void small_writes_fill_whole_records_and_all_is_counted(void **state)
{
    (void)state;
    struct end ends[2];
    struct job reader = {0};
    open_pair(ends);
    uint64_t out_before = ends[SOURCE].stream->wire_bytes_out;
    uint64_t in_before = ends[TARGET].stream->wire_bytes_in;
    uint8_t piece[64] = {0};

    start_job(&reader, ends[TARGET].stream, true, 16384 * 8, 1000);
    for (size_t done = 0; done < 16384 * 8; done += sizeof piece) {
        for (size_t i = 0; i < sizeof piece; i++)
            piece[i] = byte_at(done + i);
        assert_int_equal(stream_write(ends[SOURCE].stream, piece, sizeof piece, NULL), 0);
    }
    assert_int_equal(stream_flush(ends[SOURCE].stream, NULL), 0);
    join_well(&reader);

    assert_int_equal(ends[SOURCE].stream->wire_bytes_out - out_before, 8 * RECORD_WIRE_MAX);
    assert_int_equal(ends[TARGET].stream->wire_bytes_in - in_before, 8 * RECORD_WIRE_MAX);
    assert_true(out_before > 100); /* the handshake counts */
    free_pair(ends);
}

static void a_wait_for_the_peer_is_measured(void **state)
{
    (void)state;
    struct end ends[2];
    struct job reader = {0};
    open_pair(ends);
    uint8_t byte = byte_at(0);

    start_job(&reader, ends[TARGET].stream, true, 1, 1);
    await_asleep(&reader);
    assert_int_equal(stream_write(ends[SOURCE].stream, &byte, 1, NULL), 0);
    assert_int_equal(stream_flush(ends[SOURCE].stream, NULL), 0);
    join_well(&reader);

    assert_true(ends[TARGET].stream->wait_in_ns > 0);
    assert_int_equal(ends[SOURCE].stream->wait_in_ns, 0);
    free_pair(ends);
}

/* Its peer reads nothing: what was written and sleeps waits in the sockets. */
static void what_waits_in_the_socket_is_told(void **state)
{
    (void)state;
    struct end ends[2];
    struct job writer = {0};
    open_pair(ends);
    assert_true(stream_knows_queued(ends[SOURCE].stream));
    start_job(&writer, ends[SOURCE].stream, false, 256 << 20, 1 << 20);
    await_asleep(&writer);

    assert_true(stream_queued(ends[SOURCE].stream) > 64 << 10);
    uint64_t round_trip_ns = stream_round_trip_ns(ends[SOURCE].stream);
    assert_true(round_trip_ns > 0 && round_trip_ns < 10 * NS_PER_S);

    stream_interrupt(ends[SOURCE].stream);
    pthread_join(writer.thread, NULL);
    free_pair(ends);
}

static void the_key_changes_after_so_many_records(void **state)
{
    (void)state;
    struct end ends[2];
    struct job writer = {0}, reader = {0};
    configure_pair(ends);
    ends[SOURCE].config.key_records_max = 3;
    open_ends(ends);
    assert_int_equal(ends[SOURCE].result, 0);
    uint64_t before = ends[SOURCE].stream->wire_bytes_out;

    start_job(&reader, ends[TARGET].stream, true, 16384 * 30, 50000);
    start_job(&writer, ends[SOURCE].stream, false, 16384 * 30, 50000);

    join_well(&writer);
    join_well(&reader);
    assert_int_equal(ends[SOURCE].stream->wire_bytes_out - before,
                     30 * RECORD_WIRE_MAX + 9 * (RECORD_HEADER_BYTES + 5 + RECORD_TAIL_BYTES));
    free_pair(ends);
}

/* ---- who may come ---- */

static void the_target_learns_which_lane_it_is(void **state)
{
    (void)state;
    static const struct tls_lane_name names[] = {
        {0, 0}, {LANES_MAX - 1, 0},  {TLS_LANE_CONTROL, 0},
        {0, 1}, {LANES_MAX - 1, 12}, {TLS_LANE_CONTROL, LANE_EPOCH_MAX}};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        struct end ends[2];
        configure_pair(ends);
        ends[SOURCE].config.name = names[i];
        ends[TARGET].config.name = (struct tls_lane_name){0};

        open_ends(ends);

        assert_int_equal(ends[TARGET].result, 0);
        assert_int_equal(ends[TARGET].name.lane, names[i].lane);
        assert_int_equal(ends[TARGET].name.epoch, names[i].epoch);
        assert_int_equal(ends[SOURCE].name.lane, names[i].lane);
        free_pair(ends);
    }
}

static void expect_both_denied(struct end ends[2])
{
    open_ends(ends);
    assert_int_equal(ends[SOURCE].result, ERR_DENIED);
    assert_int_equal(ends[TARGET].result, ERR_DENIED);
    assert_null(ends[SOURCE].stream);
    assert_null(ends[TARGET].stream);
}

static void another_key_does_not_get_in(void **state)
{
    (void)state;
    struct end ends[2];
    configure_pair(ends);
    ends[SOURCE].config.psk = other_psk;

    expect_both_denied(ends);
}

static void another_move_does_not_get_in(void **state)
{
    (void)state;
    static const char *const moves[] = {"move-2", "move-", "move-11"};
    for (size_t i = 0; i < ARRAY_COUNT(moves); i++) {
        struct end ends[2];
        configure_pair(ends);
        ends[SOURCE].config.move_id = moves[i];

        expect_both_denied(ends);
        assert_non_null(strstr(ends[TARGET].fault.text, "not of this move"));
    }
}

/* ---- OpenSSL itself at the other end ---- */

struct openssl_end {
    SSL_CTX *ssl_ctx;
    SSL *ssl;
    const char *identity;
};

static SSL_SESSION *openssl_session(SSL *ssl)
{
    static const uint8_t id[] = {0x13, 0x01};
    SSL_SESSION *session = SSL_SESSION_new();
    SSL_SESSION_set1_master_key(session, psk, sizeof psk);
    SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, id));
    SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION);
    return session;
}

static int openssl_use(SSL *ssl, const EVP_MD *md, const unsigned char **ret_identity,
                       size_t *ret_count, SSL_SESSION **ret_session)
{
    (void)md;
    const struct openssl_end *end = SSL_get_app_data(ssl);
    *ret_identity = (const unsigned char *)end->identity;
    *ret_count = strlen(end->identity);
    *ret_session = openssl_session(ssl);
    return 1;
}

static int openssl_find(SSL *ssl, const unsigned char *identity, size_t count,
                        SSL_SESSION **ret_session)
{
    *ret_session = count == 8 && memcmp(identity, "move-1/2", 8) == 0 ? openssl_session(ssl) : NULL;
    return 1;
}

static void openssl_open(struct openssl_end *end, int fd, bool is_source, const char *identity)
{
    end->identity = identity;
    end->ssl_ctx = SSL_CTX_new(TLS_method());
    SSL_CTX_set_min_proto_version(end->ssl_ctx, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(end->ssl_ctx, "TLS_AES_128_GCM_SHA256");
    SSL_CTX_set_block_padding(end->ssl_ctx, 512); /* we do not pad, others may */
    if (identity)
        SSL_CTX_set_psk_use_session_callback(end->ssl_ctx, openssl_use);
    SSL_CTX_set_psk_find_session_callback(end->ssl_ctx, openssl_find);
    SSL_CTX_set_num_tickets(end->ssl_ctx, 0);
    end->ssl = SSL_new(end->ssl_ctx);
    SSL_set_fd(end->ssl, fd);
    SSL_set_app_data(end->ssl, end);
    if (is_source)
        SSL_set_connect_state(end->ssl);
    else
        SSL_set_accept_state(end->ssl);
}

static void openssl_close(struct openssl_end *end)
{
    SSL_free(end->ssl);
    SSL_CTX_free(end->ssl_ctx);
}

static void converse_with_openssl(bool lane_is_source)
{
    struct end ends[2];
    struct openssl_end peer = {0};
    pthread_t thread;
    configure_pair(ends);
    struct end *lane = &ends[lane_is_source ? SOURCE : TARGET];
    AUTO_FD int peer_fd = ends[lane_is_source ? TARGET : SOURCE].config.fd;
    lane->config.key_records_max = 2;
    openssl_open(&peer, peer_fd, !lane_is_source, "move-1/2");
    pthread_create(&thread, NULL, open_end, lane);
    assert_int_equal(SSL_do_handshake(peer.ssl), 1);
    pthread_join(thread, NULL);
    assert_int_equal(lane->result, 0);

    for (int round = 0; round < 4; round++) {
        struct job writer = {0}, reader = {0};
        enum { BYTES = 100000 };
        static uint8_t bytes[BYTES];
        size_t count = 0;
        start_job(&writer, lane->stream, false, BYTES, 5000);
        for (size_t done = 0; done < BYTES; done += count) {
            assert_int_equal(SSL_read_ex(peer.ssl, bytes + done, BYTES - done, &count), 1);
            for (size_t i = 0; i < count; i++)
                assert_int_equal(bytes[done + i], byte_at(done + i));
        }
        join_well(&writer);

        /* The lane must answer a request with a KeyUpdate of its own, in the next round. */
        if (round > 0)
            assert_int_equal(SSL_key_update(peer.ssl, round == 1 ? SSL_KEY_UPDATE_REQUESTED
                                                                 : SSL_KEY_UPDATE_NOT_REQUESTED),
                             1);
        start_job(&reader, lane->stream, true, BYTES, 30000);
        assert_int_equal(SSL_write_ex(peer.ssl, bytes, BYTES, &count), 1);
        join_well(&reader);
    }

    lane->stream = stream_free(lane->stream);
    uint8_t byte;
    assert_int_equal(SSL_read(peer.ssl, &byte, 1), 0);
    assert_int_equal(SSL_get_error(peer.ssl, 0), SSL_ERROR_ZERO_RETURN); /* close_notify came */
    openssl_close(&peer);
}

static void speaks_the_tls_of_openssl_as_source(void **state)
{
    (void)state;
    converse_with_openssl(true);
}

static void speaks_the_tls_of_openssl_as_target(void **state)
{
    (void)state;
    converse_with_openssl(false);
}

static void refuse_openssl_source(const char *identity)
{
    struct end ends[2];
    struct openssl_end peer = {0};
    pthread_t thread;
    configure_pair(ends);
    AUTO_FD int peer_fd = ends[SOURCE].config.fd;
    openssl_open(&peer, peer_fd, true, identity);
    pthread_create(&thread, NULL, open_end, &ends[TARGET]);
    assert_int_not_equal(SSL_do_handshake(peer.ssl), 1);
    pthread_join(thread, NULL);

    assert_int_equal(ends[TARGET].result, ERR_DENIED);
    openssl_close(&peer);
}

static void a_lane_number_out_of_range_does_not_get_in(void **state)
{
    (void)state;
    static const char *const identities[] = {
        "move-1/16",      "move-1/256",   "move-1/02",   "move-1/",
        "move-1/2x",      "move-1",       "move-1/-1",   "",
        "move-1/2/",      "move-1/2/0",   "move-1/2/01", "move-1/2/-1",
        "move-1/2/10000", "move-1/2/1/1", "move-1/2/1x"};
    for (size_t i = 0; i + 1 < ARRAY_COUNT(identities); i++)
        refuse_openssl_source(identities[i]);
}

static void a_client_without_any_key_does_not_get_in(void **state)
{
    (void)state;
    refuse_openssl_source(NULL);
}

/* A target with a certificate of its own instead of the key. */
static void a_certificate_does_not_replace_the_key(void **state)
{
    (void)state;
    struct end ends[2];
    pthread_t thread;
    configure_pair(ends);
    AUTO_FD int peer_fd = ends[TARGET].config.fd;
    struct openssl_end peer = {0};
    openssl_open(&peer, peer_fd, false, NULL);
    SSL_set_psk_find_session_callback(peer.ssl, NULL);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    X509_set_version(certificate, X509_VERSION_3);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_sign(certificate, key, EVP_sha256());
    assert_int_equal(SSL_use_certificate(peer.ssl, certificate), 1);
    assert_int_equal(SSL_use_PrivateKey(peer.ssl, key), 1);
    X509_free(certificate);
    EVP_PKEY_free(key);

    pthread_create(&thread, NULL, open_end, &ends[SOURCE]);
    assert_int_not_equal(SSL_do_handshake(peer.ssl), 1);
    pthread_join(thread, NULL);

    assert_int_equal(ends[SOURCE].result, ERR_DENIED);
    openssl_close(&peer);
}

static void a_peer_that_says_nothing_is_given_up(void **state)
{
    (void)state;
    struct end ends[2];
    configure_pair(ends);
    AUTO_FD int peer_fd = ends[SOURCE].config.fd;
    (void)peer_fd;
    ends[TARGET].config.handshake_ms_max = 50;

    (void)open_end(&ends[TARGET]);

    assert_int_equal(ends[TARGET].result, ERR_TIMEOUT);
}

static void a_peer_that_hangs_up_in_the_handshake_is_told_as_closed(void **state)
{
    (void)state;
    struct end ends[2];
    configure_pair(ends);
    (void)close(ends[SOURCE].config.fd);

    (void)open_end(&ends[TARGET]);

    assert_int_equal(ends[TARGET].result, ERR_CLOSED);
}

/* The first write after the reset would be a SIGPIPE, if it were a write(2). */
static void a_reset_in_the_handshake_kills_nobody(void **state)
{
    (void)state;
    struct end ends[2];
    configure_pair(ends);
    assert_int_equal(write(ends[SOURCE].config.fd, "x", 1), 1);
    (void)close(ends[TARGET].config.fd); /* with a byte unread: a reset */

    (void)open_end(&ends[SOURCE]);

    assert_int_equal(ends[SOURCE].result, ERR_CLOSED);
}

static void what_is_no_tls_is_refused(void **state)
{
    (void)state;
    struct end ends[2];
    configure_pair(ends);
    AUTO_FD int peer_fd = ends[SOURCE].config.fd;
    assert_int_equal(write(peer_fd, "GET / HTTP/1.0\r\n\r\n", 18), 18);

    (void)open_end(&ends[TARGET]);

    assert_int_equal(ends[TARGET].result, ERR_DENIED);
}

/* ---- a proxy in between ---- */

enum meddling { FLIP, DOUBLE, CUT, SWALLOW };

struct proxy {
    pthread_t threads[2];
    int source_fd, target_fd; /* the proxy's ends */
    enum meddling meddling;
    atomic_size_t at; /* of the bytes from the source; SIZE_MAX: not yet */
};

static bool send_all(int fd, const uint8_t *bytes, size_t count)
{
    while (count > 0) {
        ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        bytes += sent;
        count -= (size_t)sent;
    }
    return true;
}

static void *pass_forth(void *data)
{
    struct proxy *proxy = data;
    static _Thread_local uint8_t bytes[16 << 10];
    ssize_t got;
    while ((got = recv(proxy->source_fd, bytes, sizeof bytes, 0)) > 0) {
        size_t count = (size_t)got, at = atomic_load(&proxy->at);
        if (at == SIZE_MAX) {
            if (!send_all(proxy->target_fd, bytes, count))
                break;
            continue;
        }
        if (at < count && proxy->meddling == FLIP)
            bytes[at] ^= 1;
        if (at < count && proxy->meddling == CUT) {
            (void)send_all(proxy->target_fd, bytes, at);
            break;
        }
        if (at < count && proxy->meddling == SWALLOW) {
            memmove(bytes + at, bytes + at + 1, count - at - 1);
            count--;
        }
        bool passed = send_all(proxy->target_fd, bytes, count);
        if (at < count && proxy->meddling == DOUBLE)
            passed = send_all(proxy->target_fd, bytes, count);
        if (!passed)
            break;
        atomic_store(&proxy->at, at < count ? SIZE_MAX : at - count);
    }
    (void)shutdown(proxy->target_fd, SHUT_WR);
    return NULL;
}

static void *pass_back(void *data)
{
    struct proxy *proxy = data;
    uint8_t bytes[4096];
    ssize_t got;
    while ((got = recv(proxy->target_fd, bytes, sizeof bytes, 0)) > 0) {
        if (!send_all(proxy->source_fd, bytes, (size_t)got))
            break;
    }
    (void)shutdown(proxy->source_fd, SHUT_RDWR);
    return NULL;
}

/* The job of the target after the proxy has meddled with byte `at` of what the source writes. */
static void meddle(enum meddling meddling, size_t at, struct job *reader)
{
    struct end ends[2];
    struct proxy proxy = {.meddling = meddling};
    struct job writer = {0};
    int to_source[2], to_target[2];
    connect_pair(to_source);
    connect_pair(to_target);
    configure(ends, (int[2]){to_source[0], to_target[1]});
    proxy.source_fd = to_source[1];
    proxy.target_fd = to_target[0];
    atomic_store(&proxy.at, SIZE_MAX);
    pthread_create(&proxy.threads[0], NULL, pass_forth, &proxy);
    pthread_create(&proxy.threads[1], NULL, pass_back, &proxy);
    open_ends(ends);
    assert_int_equal(ends[TARGET].result, 0);

    atomic_store(&proxy.at, at);
    start_job(&reader[0], ends[TARGET].stream, true, BULK / 8, 30000);
    start_job(&writer, ends[SOURCE].stream, false, BULK / 8, 30000);
    pthread_join(reader->thread, NULL);
    ends[TARGET].stream = stream_free(ends[TARGET].stream);
    pthread_join(writer.thread, NULL);
    free_pair(ends);

    (void)shutdown(proxy.source_fd, SHUT_RDWR);
    (void)shutdown(proxy.target_fd, SHUT_RDWR);
    pthread_join(proxy.threads[0], NULL);
    pthread_join(proxy.threads[1], NULL);
    (void)close(proxy.source_fd);
    (void)close(proxy.target_fd);
}

static void a_single_changed_bit_is_found(void **state)
{
    (void)state;
    static const size_t places[] = {0, 1, 3, 4, 5, 1000, 16405, 16406, 50000, 100000};
    for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
        struct job reader = {0};

        meddle(FLIP, places[i], &reader);

        /* A longer length in the last record's header waits for bytes that never come. */
        assert_int_equal(reader.result, ERR_CORRUPT);
        assert_false(reader.differs); /* nothing changed was ever given out as read */
        assert_string_equal(reader.fault.text, "the bytes of lane 2 were changed on the way");
    }
}

static void the_peer_is_told_of_changed_bytes(void **state)
{
    (void)state;
    static const uint8_t forged[RECORD_HEADER_BYTES + 32] = {23, 3, 3, 0, 32};
    struct end ends[2];
    struct fault fault = {0};
    uint8_t byte;
    open_pair(ends);
    assert_int_equal(write(ends[SOURCE].config.fd, forged, sizeof forged), sizeof forged);

    assert_int_equal(stream_read(ends[TARGET].stream, &byte, 1, &fault), ERR_CORRUPT);
    ends[TARGET].stream = stream_free(ends[TARGET].stream);

    assert_int_equal(stream_read(ends[SOURCE].stream, &byte, 1, &fault), ERR_CORRUPT);
    assert_string_equal(fault.text,
                        "the peer says that the bytes of lane 2 were changed on the way");
    free_pair(ends);
}

static void bytes_sent_twice_or_left_out_are_found(void **state)
{
    (void)state;
    struct job twice = {0}, less = {0};

    meddle(DOUBLE, 20000, &twice);
    meddle(SWALLOW, 20000, &less);

    assert_int_equal(twice.result, ERR_CORRUPT);
    assert_int_equal(less.result, ERR_CORRUPT);
    assert_false(twice.differs || less.differs);
}

static void truncation_is_a_failure_within_a_record_and_between_two(void **state)
{
    (void)state;
    static const size_t places[] = {0, 2, 5000, 2 * RECORD_WIRE_MAX};
    for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
        struct job reader = {0};

        meddle(CUT, places[i], &reader);

        assert_int_equal(reader.result, ERR_CLOSED);
        assert_non_null(strstr(reader.fault.text, "without a good-bye"));
    }
}

/* ---- ends ---- */

static void a_clean_end_within_a_read_is_told_as_closed(void **state)
{
    (void)state;
    struct end ends[2];
    uint8_t bytes[2] = {0};
    struct fault fault = {0};
    open_pair(ends);
    assert_int_equal(stream_write(ends[SOURCE].stream, bytes, 1, &fault), 0);
    assert_int_equal(stream_flush(ends[SOURCE].stream, &fault), 0);
    ends[SOURCE].stream = stream_free(ends[SOURCE].stream);

    int r = stream_read(ends[TARGET].stream, bytes, 2, &fault);

    assert_int_equal(r, ERR_CLOSED);
    assert_string_equal(fault.text, "the peer closed lane 2");
    assert_int_equal(stream_read(ends[TARGET].stream, bytes, 1, &fault), ERR_CLOSED);
    free_pair(ends);
}

static void an_end_with_bytes_held_back_is_no_clean_end(void **state)
{
    (void)state;
    struct end ends[2];
    uint8_t byte = 0;
    struct fault fault = {0};
    open_pair(ends);
    assert_int_equal(stream_write(ends[SOURCE].stream, &byte, 1, &fault), 0);
    ends[SOURCE].stream = stream_free(ends[SOURCE].stream);

    int r = stream_read(ends[TARGET].stream, &byte, 1, &fault);

    assert_int_equal(r, ERR_CLOSED);
    assert_non_null(strstr(fault.text, "without a good-bye"));
    free_pair(ends);
}

static void writing_to_a_peer_that_went_fails(void **state)
{
    (void)state;
    struct end ends[2];
    struct job writer = {0};
    open_pair(ends);
    ends[TARGET].stream = stream_free(ends[TARGET].stream);

    start_job(&writer, ends[SOURCE].stream, false, 64 << 20, 1 << 20);
    pthread_join(writer.thread, NULL);

    assert_int_equal(writer.result, ERR_CLOSED);
    assert_int_equal(stream_flush(ends[SOURCE].stream, NULL), ERR_CLOSED);
    free_pair(ends);
}

static void an_interrupt_ends_a_blocked_read(void **state)
{
    (void)state;
    struct end ends[2];
    struct job reader = {0};
    open_pair(ends);
    start_job(&reader, ends[TARGET].stream, true, 1, 1);
    await_asleep(&reader);

    stream_interrupt(ends[TARGET].stream);
    pthread_join(reader.thread, NULL);

    assert_int_equal(reader.result, ERR_CANCELED);
    uint8_t byte = 0;
    assert_int_equal(stream_read(ends[TARGET].stream, &byte, 1, NULL), ERR_CANCELED);
    assert_int_equal(stream_write(ends[TARGET].stream, &byte, 1, NULL), ERR_CANCELED);
    assert_int_equal(stream_flush(ends[TARGET].stream, NULL), ERR_CANCELED);
    free_pair(ends);
}

static void an_interrupt_ends_a_blocked_write(void **state)
{
    (void)state;
    struct end ends[2];
    struct job writer = {0};
    open_pair(ends);
    start_job(&writer, ends[SOURCE].stream, false, 256 << 20, 1 << 20);
    await_asleep(&writer);

    stream_interrupt(ends[SOURCE].stream);
    stream_interrupt(ends[SOURCE].stream);
    pthread_join(writer.thread, NULL);

    assert_int_equal(writer.result, ERR_CANCELED);
    free_pair(ends);
}

static void an_interrupt_ends_a_spinning_read(void **state)
{
    (void)state;
    struct end ends[2];
    struct job reader = {.is_hot = true};
    open_pair(ends);
    start_job(&reader, ends[TARGET].stream, true, 1, 1);
    while (atomic_load(&reader.tid) == 0)
        sched_yield();

    stream_interrupt(ends[TARGET].stream);
    pthread_join(reader.thread, NULL);

    assert_int_equal(reader.result, ERR_CANCELED);
    free_pair(ends);
}

static void a_hot_reader_goes_to_sleep_when_nothing_comes(void **state)
{
    (void)state;
    struct end ends[2];
    struct job reader = {.is_hot = true};
    open_pair(ends);
    uint8_t byte = byte_at(0);

    start_job(&reader, ends[TARGET].stream, true, 1, 1);
    await_asleep(&reader);
    assert_int_equal(stream_write(ends[SOURCE].stream, &byte, 1, NULL), 0);
    assert_int_equal(stream_flush(ends[SOURCE].stream, NULL), 0);

    join_well(&reader);
    assert_true(ends[TARGET].stream->wait_in_ns >= 2 * NS_PER_MS); /* it spun first */
    free_pair(ends);
}

static void a_peer_that_takes_nothing_is_given_up(void **state)
{
    (void)state;
    struct end ends[2];
    struct job writer = {0};
    open_pair(ends);

    start_job(&writer, ends[SOURCE].stream, false, 256 << 20, 1 << 20);
    pthread_join(writer.thread, NULL); /* PEER_SILENT_MS */

    assert_int_equal(writer.result, ERR_TIMEOUT);
    assert_true(ends[SOURCE].stream->wait_out_ns >= (PEER_SILENT_MS / 2) * NS_PER_MS);
    free_pair(ends);
}

static void freeing_nothing_is_fine(void **state)
{
    (void)state;
    assert_null(stream_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warming_up_ends_well_beside_a_lane_that_opens),
        cmocka_unit_test(carries_pieces_of_all_sizes_in_order),
        cmocka_unit_test(carries_both_directions_at_once),
        cmocka_unit_test(carries_while_hot),
        cmocka_unit_test(small_writes_fill_whole_records_and_all_is_counted),
        cmocka_unit_test(a_wait_for_the_peer_is_measured),
        cmocka_unit_test(what_waits_in_the_socket_is_told),
        cmocka_unit_test(the_key_changes_after_so_many_records),
        cmocka_unit_test(the_target_learns_which_lane_it_is),
        cmocka_unit_test(another_key_does_not_get_in),
        cmocka_unit_test(another_move_does_not_get_in),
        cmocka_unit_test(speaks_the_tls_of_openssl_as_source),
        cmocka_unit_test(speaks_the_tls_of_openssl_as_target),
        cmocka_unit_test(a_lane_number_out_of_range_does_not_get_in),
        cmocka_unit_test(a_client_without_any_key_does_not_get_in),
        cmocka_unit_test(a_certificate_does_not_replace_the_key),
        cmocka_unit_test(a_peer_that_says_nothing_is_given_up),
        cmocka_unit_test(a_peer_that_hangs_up_in_the_handshake_is_told_as_closed),
        cmocka_unit_test(a_reset_in_the_handshake_kills_nobody),
        cmocka_unit_test(what_is_no_tls_is_refused),
        cmocka_unit_test(a_single_changed_bit_is_found),
        cmocka_unit_test(the_peer_is_told_of_changed_bytes),
        cmocka_unit_test(bytes_sent_twice_or_left_out_are_found),
        cmocka_unit_test(truncation_is_a_failure_within_a_record_and_between_two),
        cmocka_unit_test(a_clean_end_within_a_read_is_told_as_closed),
        cmocka_unit_test(an_end_with_bytes_held_back_is_no_clean_end),
        cmocka_unit_test(writing_to_a_peer_that_went_fails),
        cmocka_unit_test(an_interrupt_ends_a_blocked_read),
        cmocka_unit_test(an_interrupt_ends_a_blocked_write),
        cmocka_unit_test(an_interrupt_ends_a_spinning_read),
        cmocka_unit_test(a_hot_reader_goes_to_sleep_when_nothing_comes),
        cmocka_unit_test(a_peer_that_takes_nothing_is_given_up),
        cmocka_unit_test(freeing_nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
