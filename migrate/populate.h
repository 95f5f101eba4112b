/* Gives the target's pages their memory before any of them arrives, with all cores.
 *
 * Flow:   MoveExtents -> bitmap -> [populate] -> region_populate
 * Thread: its own few; done is called once, on the last of them to end.
 */
#ifndef GODWIT_MIGRATE_POPULATE_H
#define GODWIT_MIGRATE_POPULATE_H

#include <stdint.h>

struct bitmap;
struct fault;
struct populate;
struct region;

struct populate_config {
    const struct region *regions; /* borrowed, as the bitmaps */
    const struct bitmap *wanted;  /* one a region */
    unsigned region_count;
    /* `fault` is NULL when every page has its memory. */
    void (*done)(void *data, const struct fault *fault, uint64_t duration_ns, uint64_t cpu_ns);
    void *data;
};

int populate_new(struct populate **ret_populate, const struct populate_config *config,
                 struct fault *fault);
/* Stops early and joins. */
struct populate *populate_free(struct populate *populate);

#endif
