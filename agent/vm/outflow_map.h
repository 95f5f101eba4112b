/* Which pages of an arriving disk wait to go out, and where the next ones are, however large the disk is.
 *
 * Flow:   disk_outflow -> [outflow_map] -> disk_outflow
 * Thread: pure; under its owner's lock.
 *
 * Above the pages' bits lies one bit a word of 64 that is not empty, above those again, up to one word: the next
 * ones are found by way of a few words, not by a walk over all.
 */
#ifndef GODWIT_AGENT_VM_OUTFLOW_MAP_H
#define GODWIT_AGENT_VM_OUTFLOW_MAP_H

#include <stdbool.h>
#include <stdint.h>

enum {
    OUTFLOW_MAP_WORD_PAGES = 64,
    OUTFLOW_MAP_LEVELS_MAX = 9, /* 64 to the power of nine pages are more than there are bytes of any disk */
};

struct outflow_map {
    uint64_t *levels[OUTFLOW_MAP_LEVELS_MAX]; /* owned; the pages first */
    uint64_t words[OUTFLOW_MAP_LEVELS_MAX];
    unsigned count;
    uint64_t looks; /* words that were read so far to find the next ones */
};

/* Returns 0 or ERR_NOMEM; nothing waits. */
int outflow_map_init(struct outflow_map *map, uint64_t pages);
void outflow_map_deinit(struct outflow_map *map);

/* Those of the word's pages wait. Returns how many did not before. A word behind the end: none. */
unsigned outflow_map_add(struct outflow_map *map, uint64_t word, uint64_t pages);
/* The next word, from `from` on and round again, of which some wait; false: none does. */
bool outflow_map_next(struct outflow_map *map, uint64_t from, uint64_t *ret_word);
/* None of that word waits any more. Returns how many did. */
unsigned outflow_map_take(struct outflow_map *map, uint64_t word);

#endif
