/* A fixed-size set of numbers, kept as 64-bit words; one bit per page.
 *
 * Flow:   dirty_tracker -> [bitmap] -> page_scan
 * Thread: owned by one thread, but for the *_atomic functions, which any thread may call.
 */
#ifndef GODWIT_BASE_BITMAP_H
#define GODWIT_BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bitmap {
    uint64_t *words; /* owned */
    uint64_t bits;
};

#define BITMAP_NONE UINT64_MAX

/* Returns 0 or ERR_NOMEM; all bits start at zero. */
int bitmap_init(struct bitmap *bitmap, uint64_t bits);
void bitmap_deinit(struct bitmap *bitmap);

static inline size_t bitmap_words(const struct bitmap *bitmap)
{
    return (size_t)((bitmap->bits + 63) / 64);
}

static inline bool bitmap_test(const struct bitmap *bitmap, uint64_t bit)
{
    return (bitmap->words[bit / 64] >> (bit % 64)) & 1;
}

static inline void bitmap_set(struct bitmap *bitmap, uint64_t bit)
{
    bitmap->words[bit / 64] |= UINT64_C(1) << (bit % 64);
}

static inline void bitmap_clear(struct bitmap *bitmap, uint64_t bit)
{
    bitmap->words[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
}

static inline void bitmap_set_atomic(struct bitmap *bitmap, uint64_t bit)
{
    __atomic_fetch_or(&bitmap->words[bit / 64], UINT64_C(1) << (bit % 64), __ATOMIC_RELEASE);
}

void bitmap_set_all(struct bitmap *bitmap);
void bitmap_clear_all(struct bitmap *bitmap);
void bitmap_set_range(struct bitmap *bitmap, uint64_t first, uint64_t count);
void bitmap_clear_range(struct bitmap *bitmap, uint64_t first, uint64_t count);
void bitmap_or(struct bitmap *bitmap, const struct bitmap *other);  /* same size */
void bitmap_and(struct bitmap *bitmap, const struct bitmap *other); /* same size */
/* Move the bits of `from` into `bitmap`, leaving `from` empty; `from` may be set meanwhile. */
void bitmap_take_atomic(struct bitmap *bitmap, struct bitmap *from);
uint64_t bitmap_count(const struct bitmap *bitmap);
/* First set / clear bit at or after `from`, BITMAP_NONE when there is none. */
uint64_t bitmap_next_set(const struct bitmap *bitmap, uint64_t from);
uint64_t bitmap_next_clear(const struct bitmap *bitmap, uint64_t from);

#endif
