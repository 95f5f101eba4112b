/* One CA of one level: CA key -> certificates of hosts, coordinators and operators. Every
 * certificate serves both as client and as server, because every process of a pool calls and is
 * called. The subject is for people; what counts is the one URI in the alternative name.
 */
#include "net/pki.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "base/world.h"
#include "net/openssl.h"

enum {
    BACKDATED_S = 3600, /* clocks of a pool may differ; they do not differ by more than this */
    SERIAL_BYTES = 16,
    URI_SIZE = 16 + PKI_NAME_MAX + PKI_ROLE_MAX + PKI_NAME_MAX,
};

static void free_key(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

static void free_certificate(X509 **certificate)
{
    X509_free(*certificate);
}

static void free_request(X509_REQ **request)
{
    X509_REQ_free(*request);
}

static void free_bio(BIO **bio)
{
    BIO_free(*bio);
}

#define AUTO_KEY AUTO(free_key)
#define AUTO_CERTIFICATE AUTO(free_certificate)
#define AUTO_REQUEST AUTO(free_request)
#define AUTO_BIO AUTO(free_bio)

/* OpenSSL's own words for the last failure, and an empty error queue afterwards. */
static int openssl_fault(struct fault *fault, int code, const char *what)
{
    unsigned long error = ERR_peek_last_error();
    const char *reason = error ? ERR_reason_error_string(error) : NULL;
    ERR_clear_error();
    return fault_set(fault, code, "%s: %s", what, reason ? reason : "refused by OpenSSL");
}

static BIO *bio_of(const char *text)
{
    return BIO_new_mem_buf(text, -1);
}

/* malloc'ed copy of what was written, NULL without memory. */
static char *text_of(BIO *bio)
{
    char *bytes = NULL;
    long count = BIO_get_mem_data(bio, &bytes);
    if (count < 0)
        return NULL;
    char *text = malloc((size_t)count + 1);
    if (!text)
        return NULL;
    memcpy(text, bytes, (size_t)count);
    text[count] = '\0';
    return text;
}

/* A PEM text never asks a person for a password. */
static int no_password(char *ret_bytes, int size, int is_write, void *data)
{
    (void)ret_bytes, (void)size, (void)is_write, (void)data;
    return -1;
}

static int read_key(const char *pem, EVP_PKEY **ret_key, struct fault *fault)
{
    AUTO_BIO BIO *bio = bio_of(pem);
    *ret_key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    return *ret_key ? 0 : openssl_fault(fault, ERR_INVALID, "reading a private key");
}

static int read_certificate(const char *pem, X509 **ret_certificate, struct fault *fault)
{
    AUTO_BIO BIO *bio = bio_of(pem);
    *ret_certificate = bio ? PEM_read_bio_X509(bio, NULL, no_password, NULL) : NULL;
    return *ret_certificate ? 0 : openssl_fault(fault, ERR_INVALID, "reading a certificate");
}

static int write_key(EVP_PKEY *key, char **ret_pem, struct fault *fault)
{
    AUTO_BIO BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1)
        return openssl_fault(fault, ERR_IO, "writing a private key");
    *ret_pem = text_of(bio);
    return *ret_pem ? 0 : fault_set(fault, ERR_NOMEM, "no memory for a private key");
}

static int write_certificate(X509 *certificate, char **ret_pem, struct fault *fault)
{
    AUTO_BIO BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || PEM_write_bio_X509(bio, certificate) != 1)
        return openssl_fault(fault, ERR_IO, "writing a certificate");
    *ret_pem = text_of(bio);
    return *ret_pem ? 0 : fault_set(fault, ERR_NOMEM, "no memory for a certificate");
}

static EVP_PKEY *new_key(void)
{
    return EVP_EC_gen("P-256");
}

static bool add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    if (!extension)
        return false;
    bool added = X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return added;
}

static bool set_serial(X509 *certificate)
{
    uint8_t chance[SERIAL_BYTES];
    world_random(chance, sizeof chance);
    chance[0] &= 0x7f; /* positive, and never zero */
    chance[0] |= 0x40;
    BIGNUM *number = BN_bin2bn(chance, sizeof chance, NULL);
    bool set = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
    BN_free(number);
    return set;
}

static bool set_name(X509_NAME *name, const char *pool, const char *common)
{
    return X509_NAME_add_entry_by_txt(name, "O", MBSTRING_UTF8, (const uint8_t *)pool, -1, -1, 0) ==
               1 &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const uint8_t *)common, -1, -1,
                                      0) == 1;
}

static bool set_frame(X509 *certificate, EVP_PKEY *public_key, unsigned days)
{
    return X509_set_version(certificate, X509_VERSION_3) == 1 && set_serial(certificate) &&
           X509_gmtime_adj(X509_getm_notBefore(certificate), -BACKDATED_S) &&
           X509_time_adj_ex(X509_getm_notAfter(certificate), (int)days, 0, NULL) &&
           X509_set_pubkey(certificate, public_key) == 1;
}

int pki_new_ca(const char *pool_id, unsigned days, char **ret_certificate, char **ret_key,
               struct fault *fault)
{
    assert(days > 0 && days < 36600);
    if (!id_name_is_valid(pool_id))
        return fault_set(fault, ERR_INVALID, "'%.64s' is no id for a pool", pool_id);

    AUTO_KEY EVP_PKEY *key = new_key();
    AUTO_CERTIFICATE X509 *ca = X509_new();
    if (!key || !ca || !set_frame(ca, key, days) ||
        !set_name(X509_get_subject_name(ca), pool_id, "Godwit pool CA") ||
        X509_set_issuer_name(ca, X509_get_subject_name(ca)) != 1 ||
        !add_extension(ca, ca, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(ca, ca, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(ca, ca, NID_subject_key_identifier, "hash") ||
        X509_sign(ca, key, EVP_sha256()) == 0)
        return openssl_fault(fault, ERR_IO, "making the pool's CA");

    AUTO_FREE char *certificate = NULL;
    int r = write_certificate(ca, &certificate, fault);
    if (r < 0)
        return r;
    r = write_key(key, ret_key, fault);
    if (r < 0)
        return r;
    *ret_certificate = TAKE(certificate);
    return 0;
}

int pki_new_key(char **ret_key, struct fault *fault)
{
    AUTO_KEY EVP_PKEY *key = new_key();
    if (!key)
        return openssl_fault(fault, ERR_IO, "making a key");
    return write_key(key, ret_key, fault);
}

int pki_new_request(const char *key, char **ret_request, struct fault *fault)
{
    AUTO_KEY EVP_PKEY *pkey = NULL;
    int r = read_key(key, &pkey, fault);
    if (r < 0)
        return r;
    AUTO_REQUEST X509_REQ *request = X509_REQ_new();
    AUTO_BIO BIO *bio = BIO_new(BIO_s_mem());
    if (!request || !bio || X509_REQ_set_version(request, X509_REQ_VERSION_1) != 1 ||
        X509_REQ_set_pubkey(request, pkey) != 1 ||
        X509_REQ_sign(request, pkey, EVP_sha256()) == 0 ||
        PEM_write_bio_X509_REQ(bio, request) != 1)
        return openssl_fault(fault, ERR_IO, "making a certificate request");
    char *text = text_of(bio);
    if (!text)
        return fault_set(fault, ERR_NOMEM, "no memory for a certificate request");
    *ret_request = text;
    return 0;
}

static bool role_is_known(const char *role)
{
    return strcmp(role, "host") == 0 || strcmp(role, "coordinator") == 0 ||
           strcmp(role, "operator") == 0 || strcmp(role, "peer") == 0;
}

static bool identity_is_valid(const struct pki_identity *identity)
{
    return id_name_is_valid(identity->pool) && role_is_known(identity->role) &&
           id_name_is_valid(identity->name);
}

/* Only P-256, as our own keys are: a request may not bring a weak or a costly key into the pool. */
static bool key_is_ours(EVP_PKEY *key)
{
    char group[32] = "";
    return EVP_PKEY_is_a(key, "EC") &&
           EVP_PKEY_get_utf8_string_param(key, "group", group, sizeof group, NULL) == 1 &&
           strcmp(group, "prime256v1") == 0;
}

static int read_request(const char *pem, EVP_PKEY **ret_key, struct fault *fault)
{
    AUTO_BIO BIO *bio = bio_of(pem);
    AUTO_REQUEST X509_REQ *request =
        bio ? PEM_read_bio_X509_REQ(bio, NULL, no_password, NULL) : NULL;
    if (!request)
        return openssl_fault(fault, ERR_INVALID, "reading a certificate request");
    AUTO_KEY EVP_PKEY *key = X509_REQ_get_pubkey(request);
    if (!key || !key_is_ours(key)) {
        ERR_clear_error();
        return fault_set(fault, ERR_INVALID, "a certificate request whose key is not ECDSA P-256");
    }
    if (X509_REQ_verify(request, key) != 1) {
        ERR_clear_error();
        return fault_set(fault, ERR_DENIED,
                         "a certificate request that was not signed with its own key");
    }
    *ret_key = TAKE(key);
    return 0;
}

int pki_sign(const char *ca_certificate, const char *ca_key, const char *request,
             const struct pki_identity *identity, unsigned days, char **ret_certificate,
             struct fault *fault)
{
    assert(days > 0 && days < 36600);
    if (!identity_is_valid(identity))
        return fault_set(fault, ERR_INVALID, "no certificate for '%s' as '%s' of pool '%s'",
                         identity->name, identity->role, identity->pool);

    AUTO_KEY EVP_PKEY *public_key = NULL, *signer = NULL;
    AUTO_CERTIFICATE X509 *ca = NULL;
    int r = read_request(request, &public_key, fault);
    if (r < 0)
        return r;
    r = read_certificate(ca_certificate, &ca, fault);
    if (r < 0)
        return fault_wrap(fault, r, "the pool's CA");
    r = read_key(ca_key, &signer, fault);
    if (r < 0)
        return fault_wrap(fault, r, "the pool's CA");
    if (X509_check_private_key(ca, signer) != 1) {
        ERR_clear_error();
        return fault_set(fault, ERR_INVALID,
                         "the CA's key and its certificate do not belong "
                         "together");
    }

    char uri[URI_SIZE + 8];
    (void)snprintf(uri, sizeof uri, "URI:spiffe://%s/%s/%s", identity->pool, identity->role,
                   identity->name);
    AUTO_CERTIFICATE X509 *certificate = X509_new();
    if (!certificate || !set_frame(certificate, public_key, days) ||
        !set_name(X509_get_subject_name(certificate), identity->pool, identity->name) ||
        X509_set_issuer_name(certificate, X509_get_subject_name(ca)) != 1 ||
        !add_extension(certificate, ca, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(certificate, ca, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(certificate, ca, NID_ext_key_usage, "serverAuth,clientAuth") ||
        !add_extension(certificate, ca, NID_subject_key_identifier, "hash") ||
        !add_extension(certificate, ca, NID_authority_key_identifier, "keyid:always") ||
        !add_extension(certificate, ca, NID_subject_alt_name, uri) ||
        X509_sign(certificate, signer, EVP_sha256()) == 0)
        return openssl_fault(fault, ERR_IO, "signing a certificate");
    return write_certificate(certificate, ret_certificate, fault);
}

int pki_lock_key(const char *key, const char *secret, char **ret_locked, struct fault *fault)
{
    AUTO_KEY EVP_PKEY *plain = NULL;
    int r = read_key(key, &plain, fault);
    if (r < 0)
        return r;
    AUTO_BIO BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || PEM_write_bio_PKCS8PrivateKey(bio, plain, EVP_aes_256_cbc(), secret,
                                              (int)strlen(secret), NULL, NULL) != 1)
        return openssl_fault(fault, ERR_IO, "locking a private key");
    *ret_locked = text_of(bio);
    return *ret_locked ? 0 : fault_set(fault, ERR_NOMEM, "no memory for a private key");
}

static int this_password(char *ret_bytes, int size, int is_write, void *data)
{
    size_t count = strlen(data);
    (void)is_write;
    if (size < 0 || count > (size_t)size)
        return -1;
    memcpy(ret_bytes, data, count);
    return (int)count;
}

int pki_unlock_key(const char *locked, const char *secret, char **ret_key, struct fault *fault)
{
    AUTO_BIO BIO *bio = bio_of(locked);
    AUTO_KEY EVP_PKEY *key =
        bio ? PEM_read_bio_PrivateKey(bio, NULL, this_password, (void *)(uintptr_t)secret) : NULL;
    if (!key)
        return openssl_fault(fault, ERR_DENIED, "opening a locked private key");
    return write_key(key, ret_key, fault);
}

static void hex_of(const uint8_t *bytes, size_t count, char *ret_hex)
{
    for (size_t i = 0; i < count; i++)
        (void)snprintf(ret_hex + 2 * i, 3, "%02x", bytes[i]);
}

int pki_pin(const char *certificate, char ret_pin[static PKI_PIN_SIZE], struct fault *fault)
{
    AUTO_CERTIFICATE X509 *x509 = NULL;
    int r = read_certificate(certificate, &x509, fault);
    if (r < 0)
        return r;
    uint8_t digest[SHA256_DIGEST_LENGTH];
    if (X509_digest(x509, EVP_sha256(), digest, NULL) != 1)
        return openssl_fault(fault, ERR_IO, "hashing a certificate");
    hex_of(digest, sizeof digest, ret_pin);
    return 0;
}

/* The next part of a path up to `end`, judged as a name; NULL when it is none. */
static const char *take_part(const char *from, char end, char *ret_part, size_t room)
{
    const char *stop = strchr(from, end);
    if (!stop || stop == from || (size_t)(stop - from) >= room)
        return NULL;
    memcpy(ret_part, from, (size_t)(stop - from));
    ret_part[stop - from] = '\0';
    return stop + 1;
}

static bool parse_uri(const char *uri, struct pki_identity *ret_identity)
{
    static const char scheme[] = "spiffe://";
    struct pki_identity identity = {0};
    if (strncmp(uri, scheme, sizeof scheme - 1) != 0)
        return false;
    const char *at = uri + sizeof scheme - 1;
    at = take_part(at, '/', identity.pool, sizeof identity.pool);
    at = at ? take_part(at, '/', identity.role, sizeof identity.role) : NULL;
    at = at ? take_part(at, '\0', identity.name, sizeof identity.name) : NULL;
    if (!at || !identity_is_valid(&identity))
        return false;
    *ret_identity = identity;
    return true;
}

static int identity_in(const GENERAL_NAMES *names, struct pki_identity *ret_identity)
{
    int found = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        const ASN1_IA5STRING *uri = name->d.uniformResourceIdentifier;
        int length = ASN1_STRING_length(uri);
        char text[URI_SIZE + 1];
        if (length <= 0 || length > URI_SIZE)
            return 0;
        memcpy(text, ASN1_STRING_get0_data(uri), (size_t)length);
        text[length] = '\0';
        if (strlen(text) != (size_t)length || !parse_uri(text, ret_identity))
            return 0;
        found++;
    }
    return found;
}

int pki_identity_of(const char *certificate, struct pki_identity *ret_identity, struct fault *fault)
{
    AUTO_CERTIFICATE X509 *x509 = NULL;
    int r = read_certificate(certificate, &x509, fault);
    if (r < 0)
        return r;
    GENERAL_NAMES *names = X509_get_ext_d2i(x509, NID_subject_alt_name, NULL, NULL);
    struct pki_identity identity = {0};
    int found = names ? identity_in(names, &identity) : 0;
    GENERAL_NAMES_free(names);
    ERR_clear_error();
    if (found != 1) /* SPIFFE: exactly one URI */
        return fault_set(fault, ERR_DENIED, "a certificate without an identity of a pool");
    *ret_identity = identity;
    return 0;
}

static bool unix_seconds(const ASN1_TIME *time, uint64_t *ret_seconds)
{
    struct tm utc;
    if (ASN1_TIME_to_tm(time, &utc) != 1)
        return false;
    time_t seconds = timegm(&utc);
    *ret_seconds = seconds > 0 ? (uint64_t)seconds : 0;
    return true;
}

int pki_dates(const char *certificate, uint64_t *ret_begin, uint64_t *ret_end, struct fault *fault)
{
    AUTO_CERTIFICATE X509 *x509 = NULL;
    int r = read_certificate(certificate, &x509, fault);
    if (r < 0)
        return r;
    uint64_t begin, end;
    if (!unix_seconds(X509_get0_notBefore(x509), &begin) ||
        !unix_seconds(X509_get0_notAfter(x509), &end))
        return openssl_fault(fault, ERR_CORRUPT, "reading a certificate's dates");
    *ret_begin = begin;
    *ret_end = end;
    return 0;
}

void pki_sha256_hex(const void *bytes, size_t count, char ret_hex[static PKI_PIN_SIZE])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256(bytes, count, digest);
    hex_of(digest, sizeof digest, ret_hex);
}
