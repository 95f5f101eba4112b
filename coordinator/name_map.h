/* An object by its name, at once: hosts by name, VMs and jobs by id.
 *
 * Flow:   cluster -> [name_map]
 * Thread: its owner's; pure memory.
 *
 * Open addressing, half empty at least; names are unique and borrowed, they must stay where they
 * are as long as they are in it.
 */
#ifndef GODWIT_COORDINATOR_NAME_MAP_H
#define GODWIT_COORDINATOR_NAME_MAP_H

#include <stdbool.h>
#include <stddef.h>

struct name_map_slot {
    const char *name; /* NULL: nothing was ever here; see name_map.c for what was taken out */
    void *object;
};

struct name_map {                /* zeroed: an empty one */
    struct name_map_slot *slots; /* owned */
    size_t room;                 /* a power of two, or 0 */
    size_t count;
    size_t used; /* with those that were taken out */
};

void name_map_deinit(struct name_map *map);
bool name_map_put(struct name_map *map, const char *name, void *object); /* false: no memory */
void *name_map_get(const struct name_map *map, const char *name);        /* NULL: none */
void name_map_remove(struct name_map *map, const char *name);

#endif
