#include "base/bitmap.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

int bitmap_init(struct bitmap *bitmap, uint64_t bits)
{
    assert(bits > 0);
    size_t words = (size_t)((bits + 63) / 64);
    uint64_t *memory = calloc(words, sizeof *memory);
    if (!memory)
        return ERR_NOMEM;

    bitmap->words = memory;
    bitmap->bits = bits;
    return 0;
}

void bitmap_deinit(struct bitmap *bitmap)
{
    free(bitmap->words);
    bitmap->words = NULL;
    bitmap->bits = 0;
}

/* Bits behind the end stay zero always, so that count and next need no special case. */
static void bitmap_trim(struct bitmap *bitmap)
{
    uint64_t tail = bitmap->bits % 64;
    if (tail)
        bitmap->words[bitmap_words(bitmap) - 1] &= (UINT64_C(1) << tail) - 1;
}

void bitmap_set_all(struct bitmap *bitmap)
{
    memset(bitmap->words, 0xff, bitmap_words(bitmap) * sizeof *bitmap->words);
    bitmap_trim(bitmap);
}

void bitmap_clear_all(struct bitmap *bitmap)
{
    memset(bitmap->words, 0, bitmap_words(bitmap) * sizeof *bitmap->words);
}

/* The bits of word `index` that belong to [first, first + count); count > 0. */
static uint64_t range_mask(uint64_t index, uint64_t first, uint64_t last)
{
    uint64_t mask = UINT64_MAX;
    if (index == first / 64)
        mask &= UINT64_MAX << (first % 64);
    if (index == last / 64)
        mask &= UINT64_MAX >> (63 - last % 64);
    return mask;
}

void bitmap_set_range(struct bitmap *bitmap, uint64_t first, uint64_t count)
{
    assert(first <= bitmap->bits && count <= bitmap->bits - first);
    if (count == 0)
        return;
    uint64_t last = first + count - 1;
    for (uint64_t i = first / 64; i <= last / 64; i++)
        bitmap->words[i] |= range_mask(i, first, last);
}

void bitmap_clear_range(struct bitmap *bitmap, uint64_t first, uint64_t count)
{
    assert(first <= bitmap->bits && count <= bitmap->bits - first);
    if (count == 0)
        return;
    uint64_t last = first + count - 1;
    for (uint64_t i = first / 64; i <= last / 64; i++)
        bitmap->words[i] &= ~range_mask(i, first, last);
}

void bitmap_or(struct bitmap *bitmap, const struct bitmap *other)
{
    assert(bitmap->bits == other->bits);
    for (size_t i = 0; i < bitmap_words(bitmap); i++)
        bitmap->words[i] |= other->words[i];
}

void bitmap_and(struct bitmap *bitmap, const struct bitmap *other)
{
    assert(bitmap->bits == other->bits);
    for (size_t i = 0; i < bitmap_words(bitmap); i++)
        bitmap->words[i] &= other->words[i];
}

void bitmap_take_atomic(struct bitmap *bitmap, struct bitmap *from)
{
    assert(bitmap->bits == from->bits);
    for (size_t i = 0; i < bitmap_words(bitmap); i++) {
        if (__atomic_load_n(&from->words[i], __ATOMIC_RELAXED))
            bitmap->words[i] |= __atomic_exchange_n(&from->words[i], 0, __ATOMIC_ACQ_REL);
    }
}

uint64_t bitmap_count(const struct bitmap *bitmap)
{
    uint64_t count = 0;
    for (size_t i = 0; i < bitmap_words(bitmap); i++)
        count += (uint64_t)__builtin_popcountll(bitmap->words[i]);
    return count;
}

uint64_t bitmap_next_set(const struct bitmap *bitmap, uint64_t from)
{
    if (from >= bitmap->bits)
        return BITMAP_NONE;
    size_t words = bitmap_words(bitmap);
    size_t i = (size_t)(from / 64);
    uint64_t word = bitmap->words[i] & (UINT64_MAX << (from % 64));
    while (!word) {
        if (++i == words)
            return BITMAP_NONE;
        word = bitmap->words[i];
    }
    return (uint64_t)i * 64 + (uint64_t)__builtin_ctzll(word);
}

uint64_t bitmap_next_clear(const struct bitmap *bitmap, uint64_t from)
{
    if (from >= bitmap->bits)
        return BITMAP_NONE;
    size_t words = bitmap_words(bitmap);
    size_t i = (size_t)(from / 64);
    uint64_t word = ~bitmap->words[i] & (UINT64_MAX << (from % 64));
    while (!word) {
        if (++i == words)
            return BITMAP_NONE;
        word = ~bitmap->words[i];
    }
    uint64_t bit = (uint64_t)i * 64 + (uint64_t)__builtin_ctzll(word);
    return bit < bitmap->bits ? bit : BITMAP_NONE;
}
