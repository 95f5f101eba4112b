#include "agent/vm/outflow_map.h"

#include <assert.h>
#include <stdlib.h>

#include "base/err.h"

enum { WORD_BITS = OUTFLOW_MAP_WORD_PAGES };

int outflow_map_init(struct outflow_map *map, uint64_t pages)
{
    uint64_t bits = pages;

    assert(pages > 0);
    *map = (struct outflow_map){0};
    do {
        uint64_t words = bits / WORD_BITS + (bits % WORD_BITS != 0);
        assert(map->count < OUTFLOW_MAP_LEVELS_MAX);
        map->levels[map->count] = calloc((size_t)words, sizeof **map->levels);
        if (!map->levels[map->count]) {
            outflow_map_deinit(map);
            return ERR_NOMEM;
        }
        map->words[map->count++] = words;
        bits = words;
    } while (bits > 1 || map->count < 2);
    return 0;
}

void outflow_map_deinit(struct outflow_map *map)
{
    for (unsigned i = 0; i < map->count; i++)
        free(map->levels[i]);
    *map = (struct outflow_map){0};
}

unsigned outflow_map_add(struct outflow_map *map, uint64_t word, uint64_t pages)
{
    if (word >= map->words[0] || !pages)
        return 0;
    uint64_t fresh = pages & ~map->levels[0][word], bit = word;
    map->levels[0][word] |= pages;
    for (unsigned i = 1; i < map->count; i++, bit /= WORD_BITS)
        map->levels[i][bit / WORD_BITS] |= UINT64_C(1) << (bit % WORD_BITS);
    return (unsigned)__builtin_popcountll(fresh);
}

/* Bit `bit` of that level is set: the first word of pages beneath it. */
static uint64_t descend(struct outflow_map *map, unsigned level, uint64_t bit)
{
    while (level > 1) {
        uint64_t beneath = map->levels[--level][bit];
        assert(beneath);
        map->looks++;
        bit = bit * WORD_BITS + (uint64_t)__builtin_ctzll(beneath);
    }
    return bit;
}

static bool find(struct outflow_map *map, uint64_t from, uint64_t *ret_word)
{
    uint64_t bit = from;

    for (unsigned level = 1; level < map->count && bit / WORD_BITS < map->words[level]; level++) {
        uint64_t word = bit / WORD_BITS;
        uint64_t left = map->levels[level][word] & (UINT64_MAX << (bit % WORD_BITS));
        map->looks++;
        if (left) {
            *ret_word = descend(map, level, word * WORD_BITS + (uint64_t)__builtin_ctzll(left));
            return true;
        }
        bit = word + 1;
    }
    return false;
}

bool outflow_map_next(struct outflow_map *map, uint64_t from, uint64_t *ret_word)
{
    return find(map, from, ret_word) || find(map, 0, ret_word);
}

unsigned outflow_map_take(struct outflow_map *map, uint64_t word)
{
    assert(word < map->words[0]);
    unsigned pages = (unsigned)__builtin_popcountll(map->levels[0][word]);
    uint64_t bit = word;

    map->levels[0][word] = 0;
    for (unsigned i = 1; i < map->count; i++, bit /= WORD_BITS) {
        uint64_t *above = &map->levels[i][bit / WORD_BITS];
        *above &= ~(UINT64_C(1) << (bit % WORD_BITS));
        if (*above)
            break;
    }
    return pages;
}
