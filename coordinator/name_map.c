/* What is taken out leaves a mark, so that those that were put behind it are still found; marks go
 * when the table is made anew. */
#include "coordinator/name_map.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM_MIN = 16 };

static const char taken_out[] = ""; /* its address is the mark */

static size_t hash_of(const char *name)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325);
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * UINT64_C(0x100000001B3);
    return (size_t)(hash ^ hash >> 32);
}

/* Where the name is; where it is not, the first slot that was never used. */
static struct name_map_slot *find(const struct name_map *map, const char *name)
{
    size_t at = hash_of(name) & (map->room - 1);
    for (;; at = (at + 1) & (map->room - 1)) {
        struct name_map_slot *slot = &map->slots[at];
        if (!slot->name || (slot->name != taken_out && strcmp(slot->name, name) == 0))
            return slot;
    }
}

static bool make_room(struct name_map *map)
{
    if (map->used < map->room / 2)
        return true;
    struct name_map bigger = {.room = ROOM_MIN};
    while (bigger.room < (map->count + 1) * 4)
        bigger.room *= 2;
    bigger.slots = calloc(bigger.room, sizeof *bigger.slots);
    if (!bigger.slots)
        return false;
    for (size_t i = 0; i < map->room; i++) {
        const struct name_map_slot *slot = &map->slots[i];
        if (slot->name && slot->name != taken_out)
            *find(&bigger, slot->name) = *slot;
    }
    bigger.count = bigger.used = map->count;
    free(map->slots);
    *map = bigger;
    return true;
}

bool name_map_put(struct name_map *map, const char *name, void *object)
{
    assert(object);
    if (!make_room(map))
        return false;
    struct name_map_slot *slot = find(map, name);
    assert(!slot->name); /* names are unique */
    *slot = (struct name_map_slot){.name = name, .object = object};
    map->count++;
    map->used++;
    return true;
}

void *name_map_get(const struct name_map *map, const char *name)
{
    return map->room ? find(map, name)->object : NULL;
}

void name_map_remove(struct name_map *map, const char *name)
{
    struct name_map_slot *slot = map->room ? find(map, name) : NULL;
    assert(slot && slot->name); /* it is in it */
    *slot = (struct name_map_slot){.name = taken_out};
    map->count--;
}

void name_map_deinit(struct name_map *map)
{
    free(map->slots);
    *map = (struct name_map){0};
}
