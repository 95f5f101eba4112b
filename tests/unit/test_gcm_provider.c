/* The cipher below the lanes' TLS against OpenSSL's own: the same bytes, the same refusals. Where
 * the processor has no vector AES there is no such cipher, and what is asked is OpenSSL's itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/gcm_provider.h"
#include "net/openssl.h"

enum { TAG = 16, TEXT_MAX = 20000 };

static EVP_CIPHER *ours(void)
{
    EVP_CIPHER *cipher =
        EVP_CIPHER_fetch(gcm_provider_libctx(), "AES-128-GCM", gcm_provider_query());
    assert_non_null(cipher);
    return cipher;
}

static EVP_CIPHER *theirs(void)
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
    assert_non_null(cipher);
    return cipher;
}

struct text {
    uint8_t key[16], iv[12], aad[40];
    size_t aad_count, count, step; /* handed over in pieces of `step`, 0: at once */
    uint8_t bytes[TEXT_MAX];
};

static int run(EVP_CIPHER *cipher, bool seal, const struct text *text, const uint8_t *from,
               uint8_t *to, uint8_t *tag)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0, r;
    assert_int_equal(EVP_CipherInit_ex2(ctx, cipher, NULL, NULL, seal, NULL), 1);
    assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, 12, NULL), 1);
    assert_int_equal(EVP_CipherInit_ex2(ctx, NULL, text->key, NULL, -1, NULL), 1);
    assert_int_equal(EVP_CipherInit_ex2(ctx, NULL, NULL, text->iv, seal, NULL), 1);
    if (!seal)
        assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG, tag), 1);
    if (text->aad_count)
        assert_int_equal(EVP_CipherUpdate(ctx, NULL, &n, text->aad, (int)text->aad_count), 1);
    size_t step = text->step ? text->step : text->count;
    for (size_t at = 0; at < text->count; at += step) {
        size_t part = text->count - at < step ? text->count - at : step;
        assert_int_equal(EVP_CipherUpdate(ctx, to + at, &n, from + at, (int)part), 1);
        assert_int_equal(n, part);
    }
    r = EVP_CipherFinal_ex(ctx, to + text->count, &n);
    assert_int_equal(n, 0);
    if (seal && r == 1)
        assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, tag), 1);
    EVP_CIPHER_CTX_free(ctx);
    return r;
}

static void known_answer_of_the_specification(void **state)
{
    /* McGrew and Viega, "The Galois/Counter Mode of Operation", test case 4. */
    static const uint8_t key[] = {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c,
                                  0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08};
    static const uint8_t iv[] = {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce,
                                 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88};
    static const uint8_t plain[] = {
        0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5, 0xaf, 0xf5, 0x26,
        0x9a, 0x86, 0xa7, 0xa9, 0x53, 0x15, 0x34, 0xf7, 0xda, 0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31,
        0x8a, 0x72, 0x1c, 0x3c, 0x0c, 0x95, 0x95, 0x68, 0x09, 0x53, 0x2f, 0xcf, 0x0e, 0x24, 0x49,
        0xa6, 0xb5, 0x25, 0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d, 0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39};
    static const uint8_t aad[] = {0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed,
                                  0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xab, 0xad, 0xda, 0xd2};
    static const uint8_t sealed_end[] = {0x1b, 0xa3, 0x0b, 0x39, 0x6a, 0x0a,
                                         0xac, 0x97, 0x3d, 0x58, 0xe0, 0x91};
    static const uint8_t tag_wanted[] = {0x5b, 0xc9, 0x4f, 0xbc, 0x32, 0x21, 0xa5, 0xdb,
                                         0x94, 0xfa, 0xe9, 0x5a, 0xe7, 0x12, 0x1a, 0x47};
    (void)state;
    struct text text = {.aad_count = sizeof aad, .count = sizeof plain};
    memcpy(text.key, key, sizeof key);
    memcpy(text.iv, iv, sizeof iv);
    memcpy(text.aad, aad, sizeof aad);
    uint8_t sealed[sizeof plain], tag[TAG];
    EVP_CIPHER *cipher = ours();
    assert_int_equal(run(cipher, true, &text, plain, sealed, tag), 1);
    assert_memory_equal(sealed + sizeof plain - sizeof sealed_end, sealed_end, sizeof sealed_end);
    assert_memory_equal(tag, tag_wanted, TAG);
    EVP_CIPHER_free(cipher);
}

static void seals_and_opens_as_openssl_does(void **state)
{
    (void)state;
    EVP_CIPHER *mine = ours(), *other = theirs();
    struct text *text = calloc(1, sizeof *text);
    uint8_t *a = malloc(TEXT_MAX), *b = malloc(TEXT_MAX), tag_a[TAG], tag_b[TAG];
    srand(7);
    for (unsigned turn = 0; turn < 400; turn++) {
        text->count = turn < 300 ? turn : (size_t)(rand() % TEXT_MAX);
        text->step = turn % 3 == 0 ? (size_t)(1 + rand() % 700) : 0;
        text->aad_count = (size_t)(rand() % (int)sizeof text->aad);
        for (size_t i = 0; i < sizeof text->key; i++)
            text->key[i] = (uint8_t)rand();
        for (size_t i = 0; i < sizeof text->iv; i++)
            text->iv[i] = (uint8_t)rand();
        for (size_t i = 0; i < text->count; i++)
            text->bytes[i] = (uint8_t)rand();
        assert_int_equal(run(mine, true, text, text->bytes, a, tag_a), 1);
        assert_int_equal(run(other, true, text, text->bytes, b, tag_b), 1);
        assert_memory_equal(a, b, text->count);
        assert_memory_equal(tag_a, tag_b, TAG);
        assert_int_equal(run(mine, false, text, b, a, tag_b), 1);
        assert_memory_equal(a, text->bytes, text->count);
        /* in place, as the record layer does it */
        assert_int_equal(run(mine, false, text, b, b, tag_b), 1);
        assert_memory_equal(b, text->bytes, text->count);
    }
    free(b);
    free(a);
    free(text);
    EVP_CIPHER_free(other);
    EVP_CIPHER_free(mine);
}

static void every_flipped_bit_is_refused(void **state)
{
    (void)state;
    EVP_CIPHER *cipher = ours();
    struct text text = {.count = 48, .aad_count = 5};
    uint8_t sealed[48], opened[48], tag[TAG];
    assert_int_equal(run(cipher, true, &text, text.bytes, sealed, tag), 1);
    assert_int_equal(run(cipher, false, &text, sealed, opened, tag), 1);
    for (unsigned bit = 0; bit < 48 * 8; bit++) {
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_not_equal(run(cipher, false, &text, sealed, opened, tag), 1);
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (unsigned bit = 0; bit < TAG * 8; bit++) {
        tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_not_equal(run(cipher, false, &text, sealed, opened, tag), 1);
        tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (unsigned bit = 0; bit < 5 * 8; bit++) {
        text.aad[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_not_equal(run(cipher, false, &text, sealed, opened, tag), 1);
        text.aad[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    EVP_CIPHER_free(cipher);
}

static void a_nonce_seals_one_text_only(void **state)
{
    (void)state;
    if (!gcm_provider_libctx())
        skip();
    EVP_CIPHER *cipher = ours();
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    uint8_t key[16] = {1}, iv[12] = {2}, text[32] = {3}, out[64];
    int n = 0;
    assert_int_equal(EVP_EncryptInit_ex2(ctx, cipher, key, NULL, NULL), 1);
    assert_int_not_equal(EVP_EncryptUpdate(ctx, out, &n, text, sizeof text), 1); /* none at all */
    assert_int_equal(EVP_EncryptInit_ex2(ctx, NULL, NULL, iv, NULL), 1);
    assert_int_equal(EVP_EncryptUpdate(ctx, out, &n, text, sizeof text), 1);
    assert_int_equal(EVP_EncryptFinal_ex(ctx, out + n, &n), 1);
    assert_int_not_equal(EVP_EncryptUpdate(ctx, out, &n, text, sizeof text), 1);
    EVP_CIPHER_CTX_free(ctx);
    EVP_CIPHER_free(cipher);
}

static void opening_without_a_tag_is_refused(void **state)
{
    (void)state;
    EVP_CIPHER *cipher = ours();
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    uint8_t key[16] = {1}, iv[12] = {2}, text[32] = {3}, out[64];
    int n = 0;
    assert_int_equal(EVP_DecryptInit_ex2(ctx, cipher, key, iv, NULL), 1);
    assert_int_equal(EVP_DecryptUpdate(ctx, out, &n, text, sizeof text), 1);
    assert_int_not_equal(EVP_DecryptFinal_ex(ctx, out + n, &n), 1);
    EVP_CIPHER_CTX_free(ctx);
    EVP_CIPHER_free(cipher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answer_of_the_specification),
        cmocka_unit_test(seals_and_opens_as_openssl_does),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(a_nonce_seals_one_text_only),
        cmocka_unit_test(opening_without_a_tag_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
