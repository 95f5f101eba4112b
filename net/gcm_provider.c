/* A cipher of a provider is a table of functions around a context of its own:
 *
 *   newctx -> encrypt_init | decrypt_init (key once, a nonce for each record)
 *          -> update(no output): additional data -> update: text -> final: tag
 *
 * Bytes are handed on as they come, as OpenSSL's own does: what decrypt gave out before `final`
 * agreed is not to be used, and the record layer does not.
 */
#include "net/gcm_provider.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/own.h"
#include "net/openssl.h"

#if defined(GODWIT_IPSEC_MB)

#include <intel-ipsec-mb.h>

enum {
    KEY_BYTES = 16,
    IV_BYTES = 12,
    TAG_BYTES = 16,
    AAD_MAX = 64, /* TLS gives the 5 bytes of a record's header */
    ALIGN = 64,
};

static IMB_MGR *mgr; /* set once; its functions keep no state in it */

struct gcm {
    struct gcm_key_data key; /* first: wants to be aligned */
    struct gcm_context_data state;
    uint8_t iv[IV_BYTES], tag[TAG_BYTES], aad[AAD_MAX];
    size_t aad_count;
    bool is_sealing, has_key, has_iv, has_tag, has_begun;
};

/* ---- the cipher ---- */

static void *gcm_new(void *provider)
{
    (void)provider;
    size_t size = (sizeof(struct gcm) + ALIGN - 1) / ALIGN * ALIGN;
    struct gcm *gcm = aligned_alloc(ALIGN, size);
    if (gcm)
        memset(gcm, 0, size);
    return gcm;
}

static void gcm_free(void *data)
{
    if (data)
        OPENSSL_cleanse(data, sizeof(struct gcm));
    free(data);
}

static int gcm_set_params(void *data, const OSSL_PARAM params[])
{
    struct gcm *gcm = data;
    const OSSL_PARAM *param = OSSL_PARAM_locate_const(params, OSSL_CIPHER_PARAM_AEAD_TAG);
    if (param) {
        /* Without bytes it only asks for a tag of this size. */
        if (param->data_type != OSSL_PARAM_OCTET_STRING || param->data_size != TAG_BYTES ||
            (param->data && gcm->is_sealing))
            return 0;
        if (param->data) {
            memcpy(gcm->tag, param->data, TAG_BYTES);
            gcm->has_tag = true;
        }
    }
    size_t count = 0;
    param = OSSL_PARAM_locate_const(params, OSSL_CIPHER_PARAM_AEAD_IVLEN);
    if (param && (!OSSL_PARAM_get_size_t(param, &count) || count != IV_BYTES))
        return 0;
    param = OSSL_PARAM_locate_const(params, OSSL_CIPHER_PARAM_KEYLEN);
    return !param || (OSSL_PARAM_get_size_t(param, &count) && count == KEY_BYTES);
}

static int gcm_init(struct gcm *gcm, bool is_sealing, const uint8_t *key, size_t key_count,
                    const uint8_t *iv, size_t iv_count, const OSSL_PARAM params[])
{
    gcm->is_sealing = is_sealing;
    gcm->has_begun = false;
    gcm->aad_count = 0;
    if (key) {
        if (key_count != KEY_BYTES)
            return 0;
        IMB_AES128_GCM_PRE(mgr, key, &gcm->key);
        gcm->has_key = true;
    }
    if (iv) {
        if (iv_count != IV_BYTES)
            return 0;
        memcpy(gcm->iv, iv, IV_BYTES);
        gcm->has_iv = true;
        gcm->has_tag = false;
    }
    return gcm_set_params(gcm, params);
}

static int gcm_seal_init(void *data, const unsigned char *key, size_t key_count,
                         const unsigned char *iv, size_t iv_count, const OSSL_PARAM params[])
{
    return gcm_init(data, true, key, key_count, iv, iv_count, params);
}

static int gcm_open_init(void *data, const unsigned char *key, size_t key_count,
                         const unsigned char *iv, size_t iv_count, const OSSL_PARAM params[])
{
    return gcm_init(data, false, key, key_count, iv, iv_count, params);
}

/* The nonce is spent here: another text needs another init. */
static bool begin(struct gcm *gcm)
{
    if (gcm->has_begun)
        return true;
    if (!gcm->has_key || !gcm->has_iv)
        return false;
    IMB_AES128_GCM_INIT(mgr, &gcm->key, &gcm->state, gcm->iv, gcm->aad, gcm->aad_count);
    gcm->has_iv = false;
    gcm->has_begun = true;
    return true;
}

static int gcm_update(void *data, unsigned char *ret_bytes, size_t *ret_count, size_t room,
                      const unsigned char *bytes, size_t count)
{
    struct gcm *gcm = data;
    if (!ret_bytes) {
        if (gcm->has_begun || count > AAD_MAX - gcm->aad_count)
            return 0;
        if (count > 0)
            memcpy(gcm->aad + gcm->aad_count, bytes, count);
        gcm->aad_count += count;
        *ret_count = count;
        return 1;
    }
    if (room < count || !begin(gcm))
        return 0;
    if (count > 0 && gcm->is_sealing)
        IMB_AES128_GCM_ENC_UPDATE(mgr, &gcm->key, &gcm->state, ret_bytes, bytes, count);
    else if (count > 0)
        IMB_AES128_GCM_DEC_UPDATE(mgr, &gcm->key, &gcm->state, ret_bytes, bytes, count);
    *ret_count = count;
    return 1;
}

static int gcm_final(void *data, unsigned char *ret_bytes, size_t *ret_count, size_t room)
{
    struct gcm *gcm = data;
    (void)ret_bytes, (void)room;
    *ret_count = 0;
    if (!begin(gcm))
        return 0;
    gcm->has_begun = false;
    gcm->aad_count = 0;
    if (gcm->is_sealing) {
        IMB_AES128_GCM_ENC_FINALIZE(mgr, &gcm->key, &gcm->state, gcm->tag, TAG_BYTES);
        gcm->has_tag = true;
        return 1;
    }
    uint8_t tag[TAG_BYTES];
    IMB_AES128_GCM_DEC_FINALIZE(mgr, &gcm->key, &gcm->state, tag, TAG_BYTES);
    bool is_right = gcm->has_tag && CRYPTO_memcmp(tag, gcm->tag, TAG_BYTES) == 0;
    gcm->has_tag = false;
    return is_right;
}

static int gcm_get_params(OSSL_PARAM params[])
{
    static const struct {
        const char *name;
        size_t value;
    } sizes[] = {
        {OSSL_CIPHER_PARAM_BLOCK_SIZE, 1},   {OSSL_CIPHER_PARAM_KEYLEN, KEY_BYTES},
        {OSSL_CIPHER_PARAM_IVLEN, IV_BYTES}, {OSSL_CIPHER_PARAM_AEAD, 1},
        {OSSL_CIPHER_PARAM_CUSTOM_IV, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        OSSL_PARAM *param = OSSL_PARAM_locate(params, sizes[i].name);
        bool is_flag = i >= 3;
        if (param && !(is_flag ? OSSL_PARAM_set_int(param, (int)sizes[i].value)
                               : OSSL_PARAM_set_size_t(param, sizes[i].value)))
            return 0;
    }
    OSSL_PARAM *mode = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_MODE);
    return !mode || OSSL_PARAM_set_uint(mode, EVP_CIPH_GCM_MODE);
}

static int gcm_get_state(void *data, OSSL_PARAM params[])
{
    const struct gcm *gcm = data;
    static const struct {
        const char *name;
        size_t value;
    } sizes[] = {{OSSL_CIPHER_PARAM_KEYLEN, KEY_BYTES},
                 {OSSL_CIPHER_PARAM_IVLEN, IV_BYTES},
                 {OSSL_CIPHER_PARAM_AEAD_TAGLEN, TAG_BYTES}};
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        OSSL_PARAM *param = OSSL_PARAM_locate(params, sizes[i].name);
        if (param && !OSSL_PARAM_set_size_t(param, sizes[i].value))
            return 0;
    }
    OSSL_PARAM *tag = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_AEAD_TAG);
    if (!tag)
        return 1;
    return gcm->is_sealing && gcm->has_tag && tag->data_size == TAG_BYTES &&
           OSSL_PARAM_set_octet_string(tag, gcm->tag, TAG_BYTES);
}

static const OSSL_PARAM *gcm_gettable(void *data, void *provider)
{
    static const OSSL_PARAM known[] = {
        OSSL_PARAM_DEFN(OSSL_CIPHER_PARAM_KEYLEN, OSSL_PARAM_UNSIGNED_INTEGER, NULL, 0),
        OSSL_PARAM_DEFN(OSSL_CIPHER_PARAM_IVLEN, OSSL_PARAM_UNSIGNED_INTEGER, NULL, 0),
        OSSL_PARAM_DEFN(OSSL_CIPHER_PARAM_AEAD_TAGLEN, OSSL_PARAM_UNSIGNED_INTEGER, NULL, 0),
        OSSL_PARAM_DEFN(OSSL_CIPHER_PARAM_AEAD_TAG, OSSL_PARAM_OCTET_STRING, NULL, 0),
        OSSL_PARAM_END};
    (void)data, (void)provider;
    return known;
}

static const OSSL_PARAM *gcm_settable(void *data, void *provider)
{
    static const OSSL_PARAM known[] = {
        OSSL_PARAM_DEFN(OSSL_CIPHER_PARAM_KEYLEN, OSSL_PARAM_UNSIGNED_INTEGER, NULL, 0),
        OSSL_PARAM_DEFN(OSSL_CIPHER_PARAM_AEAD_IVLEN, OSSL_PARAM_UNSIGNED_INTEGER, NULL, 0),
        OSSL_PARAM_DEFN(OSSL_CIPHER_PARAM_AEAD_TAG, OSSL_PARAM_OCTET_STRING, NULL, 0),
        OSSL_PARAM_END};
    (void)data, (void)provider;
    return known;
}

static const OSSL_DISPATCH gcm_functions[] = {
    {OSSL_FUNC_CIPHER_NEWCTX, (void (*)(void))gcm_new},
    {OSSL_FUNC_CIPHER_FREECTX, (void (*)(void))gcm_free},
    {OSSL_FUNC_CIPHER_ENCRYPT_INIT, (void (*)(void))gcm_seal_init},
    {OSSL_FUNC_CIPHER_DECRYPT_INIT, (void (*)(void))gcm_open_init},
    {OSSL_FUNC_CIPHER_UPDATE, (void (*)(void))gcm_update},
    {OSSL_FUNC_CIPHER_FINAL, (void (*)(void))gcm_final},
    {OSSL_FUNC_CIPHER_GET_PARAMS, (void (*)(void))gcm_get_params},
    {OSSL_FUNC_CIPHER_GET_CTX_PARAMS, (void (*)(void))gcm_get_state},
    {OSSL_FUNC_CIPHER_SET_CTX_PARAMS, (void (*)(void))gcm_set_params},
    {OSSL_FUNC_CIPHER_GETTABLE_CTX_PARAMS, (void (*)(void))gcm_gettable},
    {OSSL_FUNC_CIPHER_SETTABLE_CTX_PARAMS, (void (*)(void))gcm_settable},
    {0, NULL},
};

/* ---- the provider ---- */

static const OSSL_ALGORITHM *provider_query(void *provider, int operation, int *ret_no_cache)
{
    static const OSSL_ALGORITHM ciphers[] = {
        {"AES-128-GCM:id-aes128-GCM", "provider=godwit", gcm_functions, "AES-GCM with vector AES"},
        {NULL, NULL, NULL, NULL},
    };
    (void)provider;
    *ret_no_cache = 0;
    return operation == OSSL_OP_CIPHER ? ciphers : NULL;
}

static int provider_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *in,
                         const OSSL_DISPATCH **ret_functions, void **ret_provider)
{
    static const OSSL_DISPATCH functions[] = {
        {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))provider_query},
        {0, NULL},
    };
    (void)in;
    *ret_functions = functions;
    *ret_provider = (void *)(uintptr_t)core;
    return 1;
}

/* Does it give what OpenSSL gives? Sizes around the blocks and strides of vector code. */
static bool seal_with(OSSL_LIB_CTX *libctx, const char *query, const uint8_t *text, size_t count,
                      uint8_t *ret_sealed)
{
    static const uint8_t key[KEY_BYTES] = "a key for a test", header[5] = {23, 3, 3, 64, 17};
    const uint8_t iv[IV_BYTES] = {(uint8_t)count, (uint8_t)(count >> 8), 1};
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(libctx, "AES-128-GCM", query);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0, end = 0;
    bool is_done =
        cipher && ctx && EVP_EncryptInit_ex2(ctx, cipher, key, iv, NULL) == 1 &&
        EVP_EncryptUpdate(ctx, NULL, &n, header, sizeof header) == 1 &&
        EVP_EncryptUpdate(ctx, ret_sealed, &n, text, (int)count) == 1 && (size_t)n == count &&
        EVP_EncryptFinal_ex(ctx, ret_sealed + n, &end) == 1 && end == 0 &&
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, ret_sealed + count) == 1;
    EVP_CIPHER_CTX_free(ctx);
    EVP_CIPHER_free(cipher);
    return is_done;
}

static bool gives_the_same(OSSL_LIB_CTX *libctx)
{
    static const size_t counts[] = {1, 15, 16, 17, 255, 256, 257, 1023, 4096, 16385};
    enum { TEXT_MAX = 16385, SEALED_MAX = TEXT_MAX + TAG_BYTES, ROOM = TEXT_MAX + 2 * SEALED_MAX };
    AUTO_FREE uint8_t *bytes = malloc(ROOM);
    if (!bytes)
        return false;
    uint8_t *ours = bytes + TEXT_MAX, *theirs = ours + SEALED_MAX;
    for (size_t i = 0; i < TEXT_MAX; i++)
        bytes[i] = (uint8_t)(i * 31 + i / 256);
    for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
        if (!seal_with(libctx, "provider=godwit", bytes, counts[i], ours) ||
            !seal_with(libctx, "provider=default", bytes, counts[i], theirs) ||
            memcmp(ours, theirs, counts[i] + TAG_BYTES) != 0)
            return false;
    }
    return true;
}

static bool is_faster(void)
{
    static const uint64_t wanted = IMB_FEATURE_VAES | IMB_FEATURE_VPCLMULQDQ;
    return (mgr->features & wanted) == wanted;
}

static OSSL_LIB_CTX *libctx_new(void)
{
    mgr = alloc_mb_mgr(0);
    if (!mgr)
        return NULL;
    IMB_ARCH arch;
    init_mb_mgr_auto(mgr, &arch);
    OSSL_LIB_CTX *libctx = NULL;
    if (imb_get_errno(mgr) == 0 && is_faster())
        libctx = OSSL_LIB_CTX_new();
    if (libctx && OSSL_PROVIDER_load(libctx, "default") &&
        OSSL_PROVIDER_add_builtin(libctx, "godwit", provider_init) == 1 &&
        OSSL_PROVIDER_load(libctx, "godwit") && gives_the_same(libctx))
        return libctx;
    ERR_clear_error();
    OSSL_LIB_CTX_free(libctx);
    free_mb_mgr(mgr);
    mgr = NULL;
    return NULL;
}

#else /* without the library every lane uses OpenSSL's own */

static OSSL_LIB_CTX *libctx_new(void)
{
    return NULL;
}

#endif

static OSSL_LIB_CTX *the_libctx;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_once(void)
{
    the_libctx = libctx_new();
}

OSSL_LIB_CTX *gcm_provider_libctx(void)
{
    (void)pthread_once(&once, make_once); /* 0 always */
    return the_libctx;
}

const char *gcm_provider_query(void)
{
    return gcm_provider_libctx() ? "?provider=godwit" : NULL;
}
