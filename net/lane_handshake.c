/* OpenSSL speaks over the bare socket here. It never reads ahead, so that not a byte of what
 * follows the handshake stays behind in it, and the lane may put its own buffers in between
 * afterwards.
 *
 * Nobody gets in without the key: there is no certificate, no ticket, no early data, and a source
 * trusts no certificate a target might show.
 */
#include "net/lane_handshake.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "net/gcm_provider.h"
#include "net/openssl.h"
#include "net/tls_lane.h"
#include "proto/limits.h"

enum { IDENTITY_SIZE = TLS_LANE_MOVE_ID_MAX + 24 };

struct handshake {
    const struct tls_lane_config *config;
    char identity[IDENTITY_SIZE]; /* as source: ours; as target: what was asked for */
    struct tls_lane_name name;
    bool is_known; /* as target: the peer named this move and a lane of it */
};

static void free_ssl(SSL **ssl)
{
    SSL_free(*ssl);
}

static void free_bio_method(BIO_METHOD **method)
{
    BIO_meth_free(*method);
}

static void free_ssl_ctx(SSL_CTX **ssl_ctx)
{
    SSL_CTX_free(*ssl_ctx);
}

static SSL_SESSION *session_of(SSL *ssl, const uint8_t *psk)
{
    static const uint8_t aes_128_gcm_sha256[] = {0x13, 0x01};
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, aes_128_gcm_sha256);
    SSL_SESSION *session = SSL_SESSION_new();
    if (!cipher || !session || SSL_SESSION_set1_master_key(session, psk, TLS_LANE_PSK_BYTES) != 1 ||
        SSL_SESSION_set_cipher(session, cipher) != 1 ||
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
        SSL_SESSION_free(session);
        return NULL;
    }
    return session;
}

static int offer_psk(SSL *ssl, const EVP_MD *md, const unsigned char **ret_identity,
                     size_t *ret_count, SSL_SESSION **ret_session)
{
    struct handshake *handshake = SSL_get_app_data(ssl);
    *ret_session = NULL;
    if (md && !EVP_MD_is_a(md, "SHA256"))
        return 1; /* without our key the handshake fails by itself */
    *ret_identity = (const unsigned char *)handshake->identity;
    *ret_count = strlen(handshake->identity);
    *ret_session = session_of(ssl, handshake->config->psk);
    return *ret_session != NULL;
}

/* "/<number>" at *at, written in the one way that there is; moves on behind it. */
static bool parse_number(const char **at, unsigned *ret_number)
{
    const char *digits = *at + 1;
    if (**at != '/')
        return false;
    size_t count = strspn(digits, "0123456789");
    if (count == 0 || count > 5 || (count > 1 && digits[0] == '0'))
        return false;
    *ret_number = (unsigned)strtoul(digits, NULL, 10);
    *at = digits + count;
    return true;
}

/* "<move id>/<lane>" of this move, with a lane that may be, and "/<epoch>" where it is not 0. */
static bool parse_identity(const char *identity, const char *move_id,
                           struct tls_lane_name *ret_name)
{
    size_t length = strlen(move_id);
    struct tls_lane_name name = {0};
    if (strncmp(identity, move_id, length) != 0)
        return false;
    const char *at = identity + length;
    if (!parse_number(&at, &name.lane))
        return false;
    if (*at != '\0' && (!parse_number(&at, &name.epoch) || name.epoch == 0 || *at != '\0'))
        return false;
    if ((name.lane >= LANES_MAX && name.lane != TLS_LANE_CONTROL) || name.epoch > LANE_EPOCH_MAX)
        return false;
    *ret_name = name;
    return true;
}

static void write_identity(struct handshake *handshake)
{
    const struct tls_lane_config *config = handshake->config;
    int count = snprintf(handshake->identity, sizeof handshake->identity, "%s/%u", config->move_id,
                         config->name.lane);
    if (config->name.epoch)
        (void)snprintf(handshake->identity + count, sizeof handshake->identity - (size_t)count,
                       "/%u", config->name.epoch);
}

static int find_psk(SSL *ssl, const unsigned char *identity, size_t count,
                    SSL_SESSION **ret_session)
{
    struct handshake *handshake = SSL_get_app_data(ssl);
    *ret_session = NULL;
    if (count == 0 || count >= sizeof handshake->identity || memchr(identity, '\0', count))
        return 1; /* unknown: there is no certificate to go on with, so it ends */
    memcpy(handshake->identity, identity, count);
    handshake->identity[count] = '\0';
    if (!parse_identity(handshake->identity, handshake->config->move_id, &handshake->name))
        return 1;
    handshake->is_known = true;
    *ret_session = session_of(ssl, handshake->config->psk);
    return *ret_session != NULL;
}

static SSL_CTX *context_new(bool is_source)
{
    SSL_CTX *ssl_ctx = SSL_CTX_new_ex(gcm_provider_libctx(), gcm_provider_query(),
                                      is_source ? TLS_client_method() : TLS_server_method());
    if (!ssl_ctx)
        return NULL;
    if (SSL_CTX_set_min_proto_version(ssl_ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(ssl_ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(ssl_ctx, "TLS_AES_128_GCM_SHA256") != 1 ||
        SSL_CTX_set1_groups_list(ssl_ctx, "X25519:P-256") != 1 ||
        SSL_CTX_set_num_tickets(ssl_ctx, 0) != 1) {
        SSL_CTX_free(ssl_ctx);
        return NULL;
    }
    (void)SSL_CTX_set_session_cache_mode(ssl_ctx, SSL_SESS_CACHE_OFF); /* the old mode */
    (void)SSL_CTX_set_options(ssl_ctx, SSL_OP_NO_TICKET);              /* the new options */
    SSL_CTX_set_read_ahead(ssl_ctx, 0); /* a lane has a buffer of its own */
    /* No certificate is ever good: a target has none to show, and a source trusts none. */
    SSL_CTX_set_verify(ssl_ctx, is_source ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    if (is_source)
        SSL_CTX_set_psk_use_session_callback(ssl_ctx, offer_psk);
    else
        SSL_CTX_set_psk_find_session_callback(ssl_ctx, find_psk);
    return ssl_ctx;
}

/* A peer that hung up is a failure to tell, not a SIGPIPE. */
static int send_quietly(BIO *bio, const char *bytes, int count)
{
    int fd = -1;
    (void)BIO_get_fd(bio, &fd);
    BIO_clear_retry_flags(bio);
    ssize_t sent = send(fd, bytes, (size_t)count, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_write(bio);
    return (int)sent;
}

/* OpenSSL's socket BIO but for its write(2). */
static BIO_METHOD *bio_method_new(void)
{
    const BIO_METHOD *base = BIO_s_socket();
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOCKET, "lane");
    if (!method)
        return NULL;
    if (BIO_meth_set_write(method, send_quietly) != 1 ||
        BIO_meth_set_read(method, BIO_meth_get_read(base)) != 1 ||
        BIO_meth_set_ctrl(method, BIO_meth_get_ctrl(base)) != 1 ||
        BIO_meth_set_create(method, BIO_meth_get_create(base)) != 1 ||
        BIO_meth_set_destroy(method, BIO_meth_get_destroy(base)) != 1) {
        BIO_meth_free(method);
        return NULL;
    }
    return method;
}

static int tell(const struct handshake *handshake, int error, int errno_value, struct fault *fault)
{
    unsigned long why = ERR_peek_last_error();
    int reason = ERR_GET_REASON(why);
    const char *words = why ? ERR_reason_error_string(why) : NULL;
    if (error == SSL_ERROR_SYSCALL && errno_value != 0)
        return fault_set_errno(fault, err_from_errno(errno_value), errno_value,
                               "the TLS handshake");
    if (error == SSL_ERROR_SYSCALL || error == SSL_ERROR_ZERO_RETURN ||
        reason == SSL_R_UNEXPECTED_EOF_WHILE_READING)
        return fault_set(fault, ERR_CLOSED, "the peer closed during the TLS handshake");
    if (!handshake->config->is_source && handshake->identity[0] && !handshake->is_known)
        return fault_set(fault, ERR_DENIED, "the peer is not of this move");
    if (!handshake->config->is_source && handshake->is_known)
        return fault_set(fault, ERR_DENIED, "the peer does not have the key of this move: %s",
                         words ? words : "refused by OpenSSL");
    if (reason > SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256)
        return fault_set(fault, ERR_DENIED, "the peer refused us as not of its move: %s",
                         words ? words : "TLS alert");
    if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED)
        return fault_set(fault, ERR_DENIED, "the peer does not have the key of this move");
    return fault_set(fault, ERR_DENIED, "what the peer sends is no handshake of ours: %s",
                     words ? words : "refused by OpenSSL");
}

static int wait_for(int fd, short events, uint64_t until_ms, struct fault *fault)
{
    uint64_t now_ms = world_now_ms();
    struct pollfd watched = {.fd = fd, .events = events};
    int left_ms = now_ms < until_ms ? (int)(until_ms - now_ms) : 0;
    int ready = poll(&watched, 1, left_ms);
    if (ready < 0 && errno != EINTR)
        return fault_set_errno(fault, ERR_IO, errno, "waiting for the TLS handshake");
    if (ready == 0)
        return fault_set(fault, ERR_TIMEOUT, "the peer did not finish the TLS handshake in time");
    return 0;
}

static int shake_hands(SSL *ssl, const struct handshake *handshake, struct fault *fault)
{
    uint64_t until_ms = world_now_ms() + handshake->config->handshake_ms_max;
    for (;;) {
        ERR_clear_error();
        errno = 0;
        int r = handshake->config->is_source ? SSL_connect(ssl) : SSL_accept(ssl);
        if (r == 1)
            return 0;
        int errno_value = errno, error = SSL_get_error(ssl, r);
        short events = POLLIN;
        if (error == SSL_ERROR_WANT_WRITE)
            events = POLLOUT;
        else if (error != SSL_ERROR_WANT_READ)
            return tell(handshake, error, errno_value, fault);
        r = wait_for(handshake->config->fd, events, until_ms, fault);
        if (r < 0)
            return r;
    }
}

/* What must be true before a byte of the guest goes this way. */
static int check_peer(SSL *ssl, struct fault *fault)
{
    if (SSL_session_reused(ssl) != 1) /* that is how OpenSSL says: the pre-shared key was used */
        return fault_set(fault, ERR_DENIED, "the peer does not have the key of this move");
    if (SSL_has_pending(ssl)) /* it would be lost with the BIO */
        return fault_set(fault, ERR_DENIED, "what the peer sends is no handshake of ours");
    return 0;
}

int lane_handshake(const struct tls_lane_config *config, struct lane_session *ret_session,
                   struct fault *fault)
{
    struct handshake handshake = {.config = config, .name = config->name};
    if (config->is_source)
        write_identity(&handshake);
    ERR_clear_error();
    AUTO(free_ssl_ctx) SSL_CTX *ssl_ctx = context_new(config->is_source);
    AUTO(free_ssl) SSL *ssl = ssl_ctx ? SSL_new(ssl_ctx) : NULL;
    AUTO(free_bio_method) BIO_METHOD *method = bio_method_new(); /* outlives its BIO */
    BIO *bio = ssl && method ? BIO_new(method) : NULL;
    if (!bio)
        return fault_set(fault, ERR_NOMEM, "no memory for the TLS handshake");
    (void)BIO_set_fd(bio, config->fd, BIO_NOCLOSE); /* 1 always */
    SSL_set_bio(ssl, bio, bio);                     /* takes it */
    if (SSL_set_app_data(ssl, &handshake) != 1)
        return fault_set(fault, ERR_NOMEM, "no memory for the TLS handshake");

    int r = shake_hands(ssl, &handshake, fault);
    if (r == 0)
        r = check_peer(ssl, fault);
    ERR_clear_error();
    if (r < 0)
        return r;
    (void)SSL_set_app_data(ssl, NULL);
    *ret_session = (struct lane_session){.name = handshake.name,
                                         .wire_bytes_out = BIO_number_written(bio),
                                         .wire_bytes_in = BIO_number_read(bio)};
    SSL_set_bio(ssl, NULL, NULL); /* its method ends here */
    ret_session->ssl = TAKE(ssl);
    return 0;
}

/* Whatever fails here fails again, with words, where it matters. */
bool lane_handshake_warm(void)
{
    static const uint8_t psk[TLS_LANE_PSK_BYTES];
    const struct tls_lane_config config = {.move_id = "warm", .psk = psk};
    struct handshake source = {.config = &config, .identity = "warm/0"};
    struct handshake target = {.config = &config};
    AUTO(free_ssl_ctx) SSL_CTX *source_ctx = context_new(true);
    AUTO(free_ssl_ctx) SSL_CTX *target_ctx = context_new(false);
    AUTO(free_ssl) SSL *source_ssl = source_ctx ? SSL_new(source_ctx) : NULL;
    AUTO(free_ssl) SSL *target_ssl = target_ctx ? SSL_new(target_ctx) : NULL;
    BIO *source_bio = NULL, *target_bio = NULL;
    bool is_done = false;
    if (source_ssl && target_ssl && SSL_set_app_data(source_ssl, &source) == 1 &&
        SSL_set_app_data(target_ssl, &target) == 1 &&
        BIO_new_bio_pair(&source_bio, 0, &target_bio, 0) == 1) {
        SSL_set_bio(source_ssl, source_bio, source_bio); /* takes it */
        SSL_set_bio(target_ssl, target_bio, target_bio); /* the same */
        uint8_t byte = 0;
        size_t count = 0;
        for (unsigned i = 0; i < 3 && SSL_connect(source_ssl) != 1; i++)
            (void)SSL_accept(target_ssl);
        (void)SSL_accept(target_ssl);
        (void)SSL_write_ex(source_ssl, &byte, 1, &count);
        is_done = SSL_read_ex(target_ssl, &byte, 1, &count) == 1;
    }
    ERR_clear_error();
    return is_done;
}
