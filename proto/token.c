/* The check sum comes first, so that one decode of base64 tells a clipped paste from a forged one;
 * it is no authentication: that is the secret's part, and the pin's. A peer's text is judged step
 * by step, each refusal in the words of the one who pasted it. */
#include "proto/token.h"

#include <assert.h>
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/limits.h"

static const char prefix[] = "gw1.";
static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

enum {
    PREFIX_CHARS = sizeof prefix - 1,
    SUM_BYTES = 4,
    BODY_CHARS_MAX = TOKEN_TEXT_MAX - PREFIX_CHARS,
    BODY_BYTES_MAX = BODY_CHARS_MAX / 4 * 3,
};
static_assert(BODY_BYTES_MAX > SUM_BYTES + TOKEN_SECRET_BYTES, "a token must fit its text");

static uint32_t body_sum(const uint8_t *body, size_t count)
{
    return (uint32_t)XXH3_64bits(body, count);
}

static void base64_put(const uint8_t *bytes, size_t count, char *ret_text)
{
    char *at = ret_text;
    for (size_t i = 0; i < count; i += 3) {
        size_t left = count - i;
        uint32_t bits = (uint32_t)bytes[i] << 16;
        if (left > 1)
            bits |= (uint32_t)bytes[i + 1] << 8;
        if (left > 2)
            bits |= bytes[i + 2];
        *at++ = letters[bits >> 18];
        *at++ = letters[(bits >> 12) & 63];
        if (left > 1)
            *at++ = letters[(bits >> 6) & 63];
        if (left > 2)
            *at++ = letters[bits & 63];
    }
    *at = '\0';
}

/* Returns the number of bytes, or -1 - position of the first letter that is none of ours. */
static int base64_get(const char *text, size_t count, uint8_t *ret_bytes)
{
    uint32_t bits = 0;
    unsigned held = 0;
    int bytes = 0;
    for (size_t i = 0; i < count; i++) {
        const char *at = text[i] ? strchr(letters, text[i]) : NULL;
        if (!at)
            return -1 - (int)i;
        bits = (bits << 6) | (uint32_t)(at - letters);
        held += 6;
        if (held >= 8) {
            held -= 8;
            ret_bytes[bytes++] = (uint8_t)(bits >> held);
        }
    }
    return bytes;
}

int token_encode(const Godwit__JoinToken *token, char **ret_text, struct fault *fault)
{
    size_t packed = godwit__join_token__get_packed_size(token);
    if (packed > BODY_BYTES_MAX - SUM_BYTES)
        return fault_set(fault, ERR_LIMIT, "a join token of %zu bytes does not fit %d letters",
                         packed, TOKEN_TEXT_MAX);

    uint8_t body[BODY_BYTES_MAX];
    size_t written = godwit__join_token__pack(token, body + SUM_BYTES);
    assert(written == packed);
    bytes_put_u32(body, body_sum(body + SUM_BYTES, packed));

    char *text = malloc(TOKEN_TEXT_MAX + 8);
    if (!text)
        return fault_set(fault, ERR_NOMEM, "no memory for a join token");
    memcpy(text, prefix, PREFIX_CHARS);
    base64_put(body, packed + SUM_BYTES, text + PREFIX_CHARS);
    *ret_text = text;
    return 0;
}

static int judge(const Godwit__JoinToken *token, struct fault *fault)
{
    if (!token->address || !token->address[0] || !token->pin || !token->pin[0] || !token->id ||
        !token->id[0] || !token->has_secret)
        return fault_set(fault, ERR_CORRUPT, "the join token lacks its address, pin, id or secret");
    if (token->secret.len != TOKEN_SECRET_BYTES)
        return fault_set(fault, ERR_CORRUPT, "the join token's secret has %zu bytes instead of %d",
                         token->secret.len, TOKEN_SECRET_BYTES);
    return 0;
}

int token_decode(const char *text, Godwit__JoinToken **ret_token, struct fault *fault)
{
    while (isspace((unsigned char)*text))
        text++;
    /* However long the hostile text is, look at no more of it than a token may have. */
    size_t count = strnlen(text, TOKEN_TEXT_MAX + 1);
    bool cut = count > TOKEN_TEXT_MAX;
    while (!cut && count > 0 && isspace((unsigned char)text[count - 1]))
        count--;
    if (count == 0)
        return fault_set(fault, ERR_INVALID, "the join token is empty");
    if (cut)
        return fault_set(fault, ERR_LIMIT, "the join token is longer than %d letters",
                         TOKEN_TEXT_MAX);
    if (count < PREFIX_CHARS || memcmp(text, prefix, PREFIX_CHARS) != 0)
        return fault_set(fault, ERR_INVALID, "a join token begins with '%s', this text does not",
                         prefix);

    uint8_t body[BODY_BYTES_MAX + 3];
    int bytes = base64_get(text + PREFIX_CHARS, count - PREFIX_CHARS, body);
    if (bytes < 0)
        return fault_set(fault, ERR_INVALID,
                         "the join token has a letter at place %d that no token has",
                         PREFIX_CHARS - bytes);
    if (bytes <= SUM_BYTES || (count - PREFIX_CHARS) % 4 == 1)
        return fault_set(fault, ERR_CORRUPT, "the join token is cut off after %zu letters", count);
    size_t packed = (size_t)bytes - SUM_BYTES;
    if (bytes_get_u32(body) != body_sum(body + SUM_BYTES, packed))
        return fault_set(
            fault, ERR_CORRUPT,
            "the join token is damaged or cut off (%zu letters; its check sum differs)", count);

    Godwit__JoinToken *token = godwit__join_token__unpack(NULL, packed, body + SUM_BYTES);
    if (!token)
        return fault_set(fault, ERR_CORRUPT, "the join token's inside is no token");
    int r = judge(token, fault);
    if (r < 0) {
        godwit__join_token__free_unpacked(token, NULL);
        return r;
    }
    *ret_token = token;
    return 0;
}
