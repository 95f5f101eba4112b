#include "net/digest.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "net/openssl.h"

struct digest {
    EVP_MD_CTX *context;
};

struct digest *digest_new(void)
{
    struct digest *digest = calloc(1, sizeof *digest);

    if (!digest)
        return NULL;
    digest->context = EVP_MD_CTX_new();
    if (!digest->context || EVP_DigestInit_ex(digest->context, EVP_sha256(), NULL) != 1)
        return digest_free(digest);
    return digest;
}

struct digest *digest_free(struct digest *digest)
{
    if (!digest)
        return NULL;
    EVP_MD_CTX_free(digest->context);
    free(digest);
    return NULL;
}

void digest_add(struct digest *digest, const void *bytes, size_t count)
{
    int r = EVP_DigestUpdate(digest->context, bytes, count);
    assert(r == 1); /* it allocates nothing */
    (void)r;
}

void digest_add_zeros(struct digest *digest, uint64_t count)
{
    static const uint8_t zeros[KIB(64)];

    for (; count > sizeof zeros; count -= sizeof zeros)
        digest_add(digest, zeros, sizeof zeros);
    digest_add(digest, zeros, (size_t)count);
}

void digest_finish(struct digest *digest, char ret_text[static DIGEST_TEXT_SIZE])
{
    uint8_t bytes[EVP_MAX_MD_SIZE];
    unsigned count = 0;

    int r = EVP_DigestFinal_ex(digest->context, bytes, &count);
    assert(r == 1 && count == (DIGEST_TEXT_SIZE - 1) / 2);
    (void)r;
    for (unsigned i = 0; i < count; i++)
        (void)snprintf(ret_text + 2 * i, 3, "%02x", bytes[i]);
}
