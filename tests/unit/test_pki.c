#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "net/openssl.h"

#include "base/err.h"
#include "base/own.h"
#include "net/pki.h"

static const struct pki_identity node1 = {.pool = "pool-a", .role = "host", .name = "node1"};

struct office {
    char *ca, *ca_key, *key, *request;
};

static int set_up(void **state)
{
    struct office *office = calloc(1, sizeof *office);
    assert_non_null(office);
    assert_int_equal(pki_new_ca("pool-a", 365, &office->ca, &office->ca_key, NULL), 0);
    assert_int_equal(pki_new_key(&office->key, NULL), 0);
    assert_int_equal(pki_new_request(office->key, &office->request, NULL), 0);
    *state = office;
    return 0;
}

static int tear_down(void **state)
{
    struct office *office = *state;
    free(office->ca);
    free(office->ca_key);
    free(office->key);
    free(office->request);
    free(office);
    return 0;
}

static X509 *parse(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    BIO_free(bio);
    assert_non_null(certificate);
    return certificate;
}

static void a_signed_certificate_names_its_identity(void **state)
{
    const struct office *office = *state;
    AUTO_FREE char *certificate = NULL;
    struct pki_identity found;

    assert_int_equal(
        pki_sign(office->ca, office->ca_key, office->request, &node1, 30, &certificate, NULL), 0);
    assert_int_equal(pki_identity_of(certificate, &found, NULL), 0);

    assert_string_equal(found.pool, "pool-a");
    assert_string_equal(found.role, "host");
    assert_string_equal(found.name, "node1");
}

static void a_signed_certificate_verifies_for_both_directions_and_is_no_ca(void **state)
{
    const struct office *office = *state;
    AUTO_FREE char *pem = NULL;
    assert_int_equal(pki_sign(office->ca, office->ca_key, office->request, &node1, 30, &pem, NULL),
                     0);
    X509 *ca = parse(office->ca), *certificate = parse(pem);
    X509_STORE *store = X509_STORE_new();
    X509_STORE_add_cert(store, ca);
    X509_STORE_set_flags(store, X509_V_FLAG_X509_STRICT);
    static const char *const purposes[] = {"ssl_server", "ssl_client"};

    for (size_t i = 0; i < ARRAY_COUNT(purposes); i++) {
        X509_STORE_CTX *check = X509_STORE_CTX_new();
        X509_STORE_CTX_init(check, store, certificate, NULL);
        X509_STORE_CTX_set_default(check, purposes[i]);
        assert_int_equal(X509_verify_cert(check), 1);
        X509_STORE_CTX_free(check);
    }

    assert_int_equal(X509_check_ca(certificate), 0);
    assert_int_equal(X509_check_ca(ca), 1);
    assert_true(X509_cmp_current_time(X509_get0_notBefore(certificate)) < 0);
    assert_true(X509_cmp_current_time(X509_get0_notAfter(certificate)) > 0);
    X509_STORE_free(store);
    X509_free(ca);
    X509_free(certificate);
}

static void identities_that_are_none_are_not_signed(void **state)
{
    const struct office *office = *state;
    static const struct pki_identity bad[] = {
        {.pool = "pool-a", .role = "host", .name = ""},
        {.pool = "pool-a", .role = "host", .name = "a/b"},
        {.pool = "pool-a", .role = "host", .name = "a,URI:spiffe://x"},
        {.pool = "pool-a", .role = "root", .name = "node1"},
        {.pool = "pool-a", .role = "", .name = "node1"},
        {.pool = "pool a", .role = "host", .name = "node1"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        char *certificate = NULL;
        assert_int_equal(
            pki_sign(office->ca, office->ca_key, office->request, &bad[i], 30, &certificate, NULL),
            ERR_INVALID);
        assert_null(certificate);
    }
}

static void a_request_whose_signature_is_wrong_is_refused(void **state)
{
    const struct office *office = *state;
    BIO *bio = BIO_new_mem_buf(office->request, -1);
    X509_REQ *request = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
    EVP_PKEY *other = EVP_EC_gen("P-256");
    X509_REQ_set_pubkey(request, other); /* the signature is by another key */
    BIO *out = BIO_new(BIO_s_mem());
    PEM_write_bio_X509_REQ(out, request);
    BIO_write(out, "", 1);
    char *pem = NULL, *certificate = NULL;
    (void)BIO_get_mem_data(out, &pem);

    int r = pki_sign(office->ca, office->ca_key, pem, &node1, 30, &certificate, NULL);

    assert_int_equal(r, ERR_DENIED);
    assert_null(certificate);
    EVP_PKEY_free(other);
    X509_REQ_free(request);
    BIO_free(bio);
    BIO_free(out);
}

static void a_request_with_a_key_of_another_kind_is_refused(void **state)
{
    const struct office *office = *state;
    EVP_PKEY *rsa = EVP_RSA_gen(2048);
    BIO *out = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(out, rsa, NULL, NULL, 0, NULL, NULL);
    BIO_write(out, "", 1);
    char *key = NULL, *certificate = NULL;
    (void)BIO_get_mem_data(out, &key);
    AUTO_FREE char *request = NULL;
    assert_int_equal(pki_new_request(key, &request, NULL), 0);

    int r = pki_sign(office->ca, office->ca_key, request, &node1, 30, &certificate, NULL);

    assert_int_equal(r, ERR_INVALID);
    EVP_PKEY_free(rsa);
    BIO_free(out);
}

static void garbage_is_refused_everywhere(void **state)
{
    const struct office *office = *state;
    char *text = NULL, pin[PKI_PIN_SIZE];
    struct pki_identity identity;
    struct fault fault = {0};
    assert_int_equal(pki_new_request("no key", &text, &fault), ERR_INVALID);
    assert_int_equal(pki_sign(office->ca, office->ca_key, "no request", &node1, 1, &text, &fault),
                     ERR_INVALID);
    assert_int_equal(pki_sign("no ca", office->ca_key, office->request, &node1, 1, &text, &fault),
                     ERR_INVALID);
    assert_int_equal(pki_sign(office->ca, office->key, office->request, &node1, 1, &text, &fault),
                     ERR_INVALID); /* a key that is not the CA's */
    assert_int_equal(pki_pin("", pin, &fault), ERR_INVALID);
    assert_int_equal(pki_identity_of("", &identity, &fault), ERR_INVALID);
    assert_int_equal(pki_new_ca("bad/pool", 1, &text, &text, &fault), ERR_INVALID);
    assert_null(text);
    assert_int_equal(ERR_peek_error(), 0); /* OpenSSL's queue is left clean */
}

static void a_certificate_tells_from_when_to_when_it_is_good(void **state)
{
    const struct office *office = *state;
    uint64_t begin = 0, end = 0, now = (uint64_t)time(NULL);

    assert_int_equal(pki_dates(office->ca, &begin, &end, NULL), 0);

    assert_true(begin <= now && now < end);
    assert_int_equal(pki_dates("no certificate", &begin, &end, NULL), ERR_INVALID);
}

static void a_ca_has_no_identity(void **state)
{
    const struct office *office = *state;
    struct pki_identity identity;
    assert_int_equal(pki_identity_of(office->ca, &identity, NULL), ERR_DENIED);
}

static void a_pin_is_of_one_certificate(void **state)
{
    const struct office *office = *state;
    AUTO_FREE char *other = NULL, *other_key = NULL;
    char pin[PKI_PIN_SIZE], again[PKI_PIN_SIZE], other_pin[PKI_PIN_SIZE];
    assert_int_equal(pki_new_ca("pool-a", 365, &other, &other_key, NULL), 0);

    assert_int_equal(pki_pin(office->ca, pin, NULL), 0);
    assert_int_equal(pki_pin(office->ca, again, NULL), 0);
    assert_int_equal(pki_pin(other, other_pin, NULL), 0);

    assert_int_equal(strspn(pin, "0123456789abcdef"), PKI_PIN_SIZE - 1);
    assert_string_equal(pin, again);
    assert_string_not_equal(pin, other_pin);
}

static void a_locked_key_opens_with_its_secret_alone(void **state)
{
    (void)state;
    AUTO_FREE char *key = NULL, *locked = NULL, *opened = NULL;
    char *none = NULL;
    assert_int_equal(pki_new_key(&key, NULL), 0);
    assert_int_equal(pki_lock_key(key, "the secret", &locked, NULL), 0);

    assert_int_equal(pki_unlock_key(locked, "the secret", &opened, NULL), 0);

    assert_string_equal(opened, key);
    assert_non_null(strstr(locked, "BEGIN ENCRYPTED PRIVATE KEY"));
    assert_int_equal(pki_unlock_key(locked, "another", &none, NULL), ERR_DENIED);
    assert_int_equal(pki_unlock_key("no key", "the secret", &none, NULL), ERR_DENIED);
    assert_int_equal(pki_lock_key("no key", "the secret", &none, NULL), ERR_INVALID);
    assert_null(none);
}

static void sha256_is_sha256(void **state)
{
    (void)state;
    char hex[PKI_PIN_SIZE];
    pki_sha256_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(a_signed_certificate_names_its_identity),
        test(a_signed_certificate_verifies_for_both_directions_and_is_no_ca),
        test(identities_that_are_none_are_not_signed),
        test(a_request_whose_signature_is_wrong_is_refused),
        test(a_request_with_a_key_of_another_kind_is_refused),
        test(garbage_is_refused_everywhere),
        test(a_certificate_tells_from_when_to_when_it_is_good),
        test(a_ca_has_no_identity),
        test(a_pin_is_of_one_certificate),
        test(a_locked_key_opens_with_its_secret_alone),
        test(sha256_is_sha256),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
