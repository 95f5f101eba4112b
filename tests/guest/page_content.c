/* Writing and checking are one piece of code with a constant switched, so they cannot drift apart.
 * The random stream is four interleaved generators: 1 GiB must be checked in well under a second.
 * */
#include "page_content.h"

#include "mix.h"

#define INLINE static inline __attribute__((always_inline))

enum { HEADER_WORDS = 4, STAMP_WORD = 3, TEXT_PICKS = 10 };

/* 64 pieces of 8 bytes; a page of text is a random row of them. */
static const char text_pieces[64 * 8 + 1] __attribute__((aligned(8))) =
    "the migration of a running machine moves its memory while the machine goes on to write it, "
    "so every page may have to be sent again; a round of copying ends when few enough are left, "
    "and then the source stops, the rest crosses, and the target takes up the work where it was. "
    "Whoever measures this from inside sees one hole in time, some work that was lost, and pages "
    "that must be what they were: none stale, none torn, none swapped, and no bit of them flipped "
    "on the way from host to host. That is checked";

static uint64_t content_seed;

INLINE uint64_t put(uint64_t *page, uint32_t word, uint64_t value, bool compare)
{
    if (compare)
        return page[word] ^ value;
    page[word] = value;
    return 0;
}

INLINE uint64_t random_body(uint64_t *page, uint64_t key, bool compare)
{
    const uint64_t step = UINT64_C(0xd1342543de82ef95);
    uint64_t a = key, b = mix64(key), c = mix64(b), d = mix64(c);
    uint64_t differs = 0;

    for (uint32_t i = HEADER_WORDS; i < PAGE_WORDS; i += 4) {
        a = a * step + 1;
        b = b * step + 3;
        c = c * step + 5;
        d = d * step + 7;
        differs |= put(page, i, a ^ a >> 32, compare);
        differs |= put(page, i + 1, b ^ b >> 32, compare);
        differs |= put(page, i + 2, c ^ c >> 32, compare);
        differs |= put(page, i + 3, d ^ d >> 32, compare);
    }
    return differs;
}

INLINE uint64_t text_body(uint64_t *page, uint64_t key, bool compare)
{
    const uint64_t *pieces = (const void *)text_pieces;
    uint64_t differs = 0;

    for (uint32_t i = HEADER_WORDS; i < PAGE_WORDS;) {
        key = mix64(key);
        for (uint32_t pick = 0; pick < TEXT_PICKS && i < PAGE_WORDS; pick++)
            differs |= put(page, i++, pieces[key >> (6 * pick) & 63], compare);
    }
    return differs;
}

INLINE uint64_t zero_body(uint64_t *page, bool compare)
{
    uint64_t differs = 0;

    for (uint32_t i = 0; i < PAGE_WORDS; i += 4) {
        differs |= put(page, i, 0, compare);
        differs |= put(page, i + 1, 0, compare);
        differs |= put(page, i + 2, 0, compare);
        differs |= put(page, i + 3, 0, compare);
    }
    return differs;
}

static uint64_t key_of(const struct page_identity *identity)
{
    return mix64(content_seed ^ mix64(identity->index ^ (uint64_t)identity->kind << 56) ^
                 (uint64_t)identity->body << 24);
}

static uint64_t stamp_of(uint64_t key, uint32_t counter)
{
    return (mix64(key ^ counter) & UINT64_C(0xffffffff00000000)) | counter;
}

INLINE uint64_t whole(uint64_t *page, const struct page_identity *wanted, bool compare)
{
    struct page_identity identity = *wanted;

    if (identity.kind == PAGE_UNTOUCHED || identity.kind == PAGE_ZERO)
        return zero_body(page, compare);
    if (identity.kind == PAGE_DUP) {
        identity.index = 0;
        identity.counter = identity.body = 1;
    }

    uint64_t key = key_of(&identity);
    uint64_t differs = put(page, 0, identity.index | (uint64_t)identity.kind << 56, compare);

    differs |= put(page, 1, identity.body, compare);
    differs |= put(page, 2, key, compare);
    differs |= put(page, STAMP_WORD, stamp_of(key, identity.counter), compare);
    if (identity.kind == PAGE_TEXT)
        return differs | text_body(page, key, compare);
    return differs | random_body(page, key, compare);
}

void page_content_init(uint64_t seed)
{
    content_seed = mix64(seed);
}

void page_content_write(uint64_t *page, const struct page_identity *identity)
{
    whole(page, identity, false);
}

void page_content_stamp(uint64_t *page, const struct page_identity *identity)
{
    page[STAMP_WORD] = stamp_of(key_of(identity), identity->counter);
}

bool page_content_check(const uint64_t *page, const struct page_identity *identity)
{
    return whole((uint64_t *)page, identity, true) == 0; /* comparing does not write */
}

bool page_content_is_zero(const uint64_t *page)
{
    return zero_body((uint64_t *)page, true) == 0;
}

const char *page_content_blame(const uint64_t *page, const struct page_identity *identity)
{
    struct page_identity found = {
        .index = page[0] & ~(UINT64_C(0xff) << 56),
        .kind = (enum page_kind)(page[0] >> 56),
        .body = (uint32_t)page[1],
        .counter = (uint32_t)page[STAMP_WORD],
    };

    if (page_content_is_zero(page))
        return "zero";
    if (identity->kind == PAGE_UNTOUCHED || identity->kind == PAGE_ZERO)
        return "notzero";
    /* A page whole in itself, but another than it should be. */
    if (found.kind >= PAGE_RANDOM && found.kind <= PAGE_DUP && page_content_check(page, &found)) {
        if (found.index != identity->index)
            return "swapped";
        return found.counter < identity->counter ? "stale" : "newer";
    }
    return "torn";
}
