/* Trust, in three forms:
 *   - a member of a pool: chain to the pool's CA, and an identity of the same pool in it;
 *   - an anonymous client (enrolment): the server lets it in as role "";
 *   - a pin (enrolment, the other way round): the client knows the SHA-256 of the CA from the token
 *     and trusts only a chain whose root has it. Servers send their CA along for that.
 */
#include "net/tls.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "net/openssl.h"
#include "net/rpc.h"

enum { CHAIN_BYTES_MAX = 32 << 10, CHAIN_DEPTH_MAX = 2 };

struct tls_context {
    SSL_CTX *ssl_ctx;
    unsigned refs;
    char pool[PKI_NAME_MAX]; /* our own; "" without a certificate */
    char pin[PKI_PIN_SIZE];  /* "" when a CA is given */
};

struct tls_session {
    SSL *ssl;
    BIO *in, *out; /* the SSL's own */
    struct tls_context *context;
    bool is_server;
};

static void free_bio(BIO **bio)
{
    BIO_free(*bio);
}

static void free_certificate(X509 **certificate)
{
    X509_free(*certificate);
}

static void free_key(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

static const char *last_reason(void)
{
    unsigned long error = ERR_peek_last_error();
    const char *reason = error ? ERR_reason_error_string(error) : NULL;
    return reason ? reason : "refused by OpenSSL";
}

static X509 *certificate_of(const char *pem)
{
    AUTO(free_bio) BIO *bio = BIO_new_mem_buf(pem, -1);
    return bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
}

static int use_ca(struct tls_context *context, const char *pem, struct fault *fault)
{
    AUTO(free_certificate) X509 *ca = certificate_of(pem);
    if (!ca || X509_STORE_add_cert(SSL_CTX_get_cert_store(context->ssl_ctx), ca) != 1)
        return fault_set(fault, ERR_INVALID, "the pool's CA certificate: %s", last_reason());
    return 0;
}

static int use_certificate(struct tls_context *context, const struct tls_identity *identity,
                           struct fault *fault)
{
    struct pki_identity self;
    int r = pki_identity_of(identity->certificate, &self, fault);
    if (r < 0)
        return fault_wrap(fault, r, "our own certificate");
    (void)snprintf(context->pool, sizeof context->pool, "%s", self.pool);

    AUTO(free_certificate) X509 *certificate = certificate_of(identity->certificate);
    AUTO(free_bio) BIO *bio = BIO_new_mem_buf(identity->key, -1);
    AUTO(free_key) EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
    if (!certificate || !key || SSL_CTX_use_certificate(context->ssl_ctx, certificate) != 1 ||
        SSL_CTX_use_PrivateKey(context->ssl_ctx, key) != 1 ||
        SSL_CTX_check_private_key(context->ssl_ctx) != 1)
        return fault_set(fault, ERR_INVALID, "our own certificate and key: %s", last_reason());

    if (identity->ca_certificate) { /* sent along, for those who only know its pin */
        AUTO(free_certificate) X509 *ca = certificate_of(identity->ca_certificate);
        if (!ca || SSL_CTX_add1_chain_cert(context->ssl_ctx, ca) != 1)
            return fault_set(fault, ERR_INVALID, "the pool's CA certificate: %s", last_reason());
    }
    return 0;
}

static X509 *pinned_root(STACK_OF(X509) * chain, const char *pin)
{
    for (int i = 0; i < sk_X509_num(chain); i++) {
        X509 *certificate = sk_X509_value(chain, i);
        uint8_t digest[32];
        char hex[PKI_PIN_SIZE];
        if (X509_digest(certificate, EVP_sha256(), digest, NULL) != 1)
            continue;
        for (size_t k = 0; k < sizeof digest; k++)
            (void)snprintf(hex + 2 * k, 3, "%02x", digest[k]);
        if (strcmp(hex, pin) == 0)
            return certificate;
    }
    return NULL;
}

/* In place of the usual check: the usual check, with the pinned root as the only one trusted. */
static int verify_pinned(X509_STORE_CTX *peer, void *data)
{
    const struct tls_context *context = data;
    X509 *root = pinned_root(X509_STORE_CTX_get0_untrusted(peer), context->pin);
    if (!root) {
        X509_STORE_CTX_set_error(peer, X509_V_ERR_CERT_REJECTED);
        return 0;
    }
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *check = X509_STORE_CTX_new();
    int error = X509_V_ERR_OUT_OF_MEM;
    if (store && check && X509_STORE_add_cert(store, root) == 1 &&
        X509_STORE_CTX_init(check, store, X509_STORE_CTX_get0_cert(peer),
                            X509_STORE_CTX_get0_untrusted(peer)) == 1 &&
        X509_STORE_CTX_set_default(check, "ssl_server") == 1) {
        error = X509_verify_cert(check) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(check);
    }
    X509_STORE_CTX_free(check);
    X509_STORE_free(store);
    X509_STORE_CTX_set_error(peer, error);
    return error == X509_V_OK;
}

static int set_up(struct tls_context *context, const struct tls_identity *identity,
                  struct fault *fault)
{
    SSL_CTX *ssl_ctx = context->ssl_ctx;
    if (SSL_CTX_set_min_proto_version(ssl_ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(ssl_ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set1_groups_list(ssl_ctx, "X25519:P-256") != 1 ||
        SSL_CTX_set_num_tickets(ssl_ctx, 0) != 1)
        return fault_set(fault, ERR_IO, "setting up TLS: %s", last_reason());
    (void)SSL_CTX_set_session_cache_mode(ssl_ctx, SSL_SESS_CACHE_OFF); /* the old mode */
    SSL_CTX_set_max_cert_list(ssl_ctx, CHAIN_BYTES_MAX);
    SSL_CTX_set_verify_depth(ssl_ctx, CHAIN_DEPTH_MAX);
    (void)SSL_CTX_set_mode(ssl_ctx, SSL_MODE_RELEASE_BUFFERS);

    /* As a client, SSL_VERIFY_PEER is all; the other flag speaks of clients without certificate. */
    int verify = SSL_VERIFY_PEER;
    if (!identity->allow_anonymous_peer)
        verify |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    SSL_CTX_set_verify(ssl_ctx, verify, NULL);

    int r = 0;
    if (identity->ca_certificate) {
        r = use_ca(context, identity->ca_certificate, fault);
    } else {
        (void)snprintf(context->pin, sizeof context->pin, "%s", identity->pin);
        SSL_CTX_set_cert_verify_callback(ssl_ctx, verify_pinned, context);
    }
    if (r == 0 && identity->certificate)
        r = use_certificate(context, identity, fault);
    return r;
}

int tls_context_new(struct tls_context **ret_context, const struct tls_identity *identity,
                    struct fault *fault)
{
    if (!identity->ca_certificate && !identity->pin)
        return fault_set(fault, ERR_INVALID, "TLS without a CA and without a pin to trust");
    if (!identity->ca_certificate && strlen(identity->pin) != PKI_PIN_SIZE - 1)
        return fault_set(fault, ERR_INVALID, "a pin has %d hex digits, not %zu", PKI_PIN_SIZE - 1,
                         strlen(identity->pin));
    if (!identity->certificate != !identity->key)
        return fault_set(fault, ERR_INVALID, "a certificate and its key come together");

    ERR_clear_error();
    struct tls_context *context = calloc(1, sizeof *context);
    if (!context)
        return fault_set(fault, ERR_NOMEM, "no memory for TLS");
    context->refs = 1;
    context->ssl_ctx = SSL_CTX_new(TLS_method());
    int r = context->ssl_ctx ? set_up(context, identity, fault)
                             : fault_set(fault, ERR_IO, "setting up TLS: %s", last_reason());
    ERR_clear_error();
    if (r < 0) {
        (void)tls_context_free(context);
        return r;
    }
    *ret_context = context;
    return 0;
}

struct tls_context *tls_context_ref(struct tls_context *context)
{
    assert(context->refs > 0);
    context->refs++;
    return context;
}

struct tls_context *tls_context_free(struct tls_context *context)
{
    if (!context)
        return NULL;
    assert(context->refs > 0);
    if (--context->refs == 0) {
        SSL_CTX_free(context->ssl_ctx);
        free(context);
    }
    return NULL;
}

/* ---- sessions ---- */

int tls_session_new(struct tls_session **ret_session, struct tls_context *context, bool is_server,
                    struct fault *fault)
{
    ERR_clear_error();
    struct tls_session *session = calloc(1, sizeof *session);
    if (!session)
        return fault_set(fault, ERR_NOMEM, "no memory for a TLS connection");
    session->context = tls_context_ref(context);
    session->is_server = is_server;
    session->ssl = SSL_new(context->ssl_ctx);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    if (!session->ssl || !in || !out) {
        BIO_free(in);
        BIO_free(out);
        (void)tls_session_free(session);
        return fault_set(fault, ERR_NOMEM, "no memory for a TLS connection");
    }
    SSL_set_bio(session->ssl, in, out); /* takes both */
    session->in = in;
    session->out = out;
    if (is_server)
        SSL_set_accept_state(session->ssl);
    else
        SSL_set_connect_state(session->ssl);
    *ret_session = session;
    return 0;
}

struct tls_session *tls_session_free(struct tls_session *session)
{
    if (!session)
        return NULL;
    SSL_free(session->ssl);
    (void)tls_context_free(session->context);
    free(session);
    return NULL;
}

int tls_session_feed(struct tls_session *session, const void *bytes, size_t count,
                     struct fault *fault)
{
    assert(count > 0 && count <= INT_MAX);
    if (BIO_write(session->in, bytes, (int)count) != (int)count)
        return fault_set(fault, ERR_NOMEM, "no memory for %zu bytes from the peer", count);
    return 0;
}

/* Why OpenSSL gave up, as an operator needs it. */
static int tell(struct tls_session *session, struct fault *fault)
{
    unsigned long error = ERR_peek_last_error();
    int reason = ERR_GET_REASON(error);
    long verified = SSL_get_verify_result(session->ssl);
    const char *words = last_reason();
    int r;
    if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        r = fault_set(fault, ERR_DENIED, "the peer's certificate is not of this pool: %s",
                      session->context->pin[0] && verified == X509_V_ERR_CERT_REJECTED
                          ? "its CA is not the one that the token names"
                          : X509_verify_cert_error_string(verified));
    } else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
        r = fault_set(fault, ERR_DENIED, "the peer showed no certificate");
    } else if (reason > SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256) {
        r = fault_set(fault, ERR_DENIED, "the peer refused us: %s", words);
    } else {
        r = fault_set(fault, ERR_CORRUPT, "what the peer sends is not TLS as we speak it: %s",
                      words);
    }
    ERR_clear_error();
    return r;
}

int tls_session_handshake(struct tls_session *session, struct fault *fault)
{
    ERR_clear_error();
    int r = SSL_do_handshake(session->ssl);
    if (r == 1)
        return 0;
    int error = SSL_get_error(session->ssl, r);
    if (error == SSL_ERROR_WANT_READ)
        return TLS_E_MORE;
    return tell(session, fault);
}

int tls_session_peer(struct tls_session *session, struct pki_identity *ret_peer,
                     struct fault *fault)
{
    AUTO(free_certificate) X509 *certificate = SSL_get1_peer_certificate(session->ssl);
    if (!certificate) { /* the verify mode let it pass, so this is a wanted guest */
        assert(session->is_server);
        *ret_peer = (struct pki_identity){0};
        return 0;
    }
    AUTO(free_bio) BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || PEM_write_bio_X509(bio, certificate) != 1 || BIO_write(bio, "", 1) != 1)
        return fault_set(fault, ERR_NOMEM, "no memory for the peer's certificate");
    char *pem = NULL;
    (void)BIO_get_mem_data(bio, &pem); /* its length is known by the NUL that we added */

    struct pki_identity peer;
    int r = pki_identity_of(pem, &peer, fault);
    if (r < 0)
        return r;
    if (session->context->pool[0] && strcmp(peer.pool, session->context->pool) != 0)
        return fault_set(fault, ERR_DENIED, "the peer belongs to pool '%s', we to pool '%s'",
                         peer.pool, session->context->pool);
    *ret_peer = peer;
    return 0;
}

int tls_session_read(struct tls_session *session, void *ret_bytes, size_t room, size_t *ret_count,
                     struct fault *fault)
{
    ERR_clear_error();
    int r = SSL_read_ex(session->ssl, ret_bytes, room, ret_count);
    if (r == 1)
        return 0;
    int error = SSL_get_error(session->ssl, r);
    if (error == SSL_ERROR_WANT_READ)
        return TLS_E_MORE;
    if (error == SSL_ERROR_ZERO_RETURN)
        return TLS_E_END;
    return tell(session, fault);
}

int tls_session_write(struct tls_session *session, const void *bytes, size_t count,
                      struct fault *fault)
{
    assert(count > 0);
    ERR_clear_error();
    size_t written = 0;
    if (SSL_write_ex(session->ssl, bytes, count, &written) != 1)
        return tell(session, fault);
    assert(written == count); /* a memory BIO takes all of it */
    return 0;
}

void tls_session_bye(struct tls_session *session)
{
    ERR_clear_error();
    (void)SSL_shutdown(session->ssl); /* politeness only; the peer may be gone */
    ERR_clear_error();
}

size_t tls_session_wire(struct tls_session *session, const uint8_t **ret_bytes)
{
    char *bytes = NULL;
    long count = BIO_get_mem_data(session->out, &bytes);
    *ret_bytes = (const uint8_t *)bytes;
    return count > 0 ? (size_t)count : 0;
}

void tls_session_wire_taken(struct tls_session *session)
{
    (void)BIO_reset(session->out); /* 1 for a memory BIO */
}
