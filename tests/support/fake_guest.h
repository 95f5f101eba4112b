/* A guest of plain memory whose writers are threads: dirty tracking in software, faults to order.
 *
 * Flow:   writer threads -> [fake_guest] -> source; target -> [fake_guest]
 * Thread: writers its own; the rest as migrate/guest.h says.
 */
#ifndef GODWIT_TESTS_SUPPORT_FAKE_GUEST_H
#define GODWIT_TESTS_SUPPORT_FAKE_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/guest.h"

struct fake_guest;

enum fake_fill { FAKE_FILL_NONE, FAKE_FILL_ZERO, FAKE_FILL_RANDOM, FAKE_FILL_TEXT, FAKE_FILL_MIX };

struct fake_guest_config {
    uint64_t pages;
    enum fake_fill fill; /* of the first half when `half`, else of all */
    bool half;
    unsigned writers;
    uint64_t writer_pages;  /* that they write to, from page 0 */
    uint64_t writes_per_ms; /* each; 0: as fast as they can */
    bool clears_pages;      /* a third of what it writes are whole pages of zeros */
    bool running;           /* at the start */
    /* Called by "pause", "save", "load", "resume", "populate", "track". */
    void (*hook)(void *data, const char *what);
    void *data;
    /* faults */
    bool fail_save, fail_load, fail_populate, fail_resume, fail_collect, fail_clear;
    uint64_t shared_id; /* of its region, see migrate/region.h; its ops track all the same */
    bool is_written; /* its region has a write of its own, and whoever stores into its base ends by a signal */
    bool miss_write; /* tracking misses one page: the bug that verify_reread must find */
};

struct fake_guest *fake_guest_new(const struct fake_guest_config *config);
struct fake_guest *fake_guest_free(struct fake_guest *fake);
struct guest *fake_guest_guest(struct fake_guest *fake);
void fake_guest_scribble(struct fake_guest *fake, uint64_t page); /* behind everyone's back */
bool fake_guest_runs(struct fake_guest *fake);
bool fake_guest_is_tracked(struct fake_guest *fake);
unsigned fake_guest_throttle(struct fake_guest *fake); /* permille, as it was told last */
uint64_t fake_guest_writes(struct fake_guest *fake);
/* Wait until its writers have written `more` times. */
void fake_guest_await_writes(struct fake_guest *fake, uint64_t more);
/* First page that differs, UINT64_MAX: none. Both paused or nobody writing. */
uint64_t fake_guest_compare(struct fake_guest *one, struct fake_guest *other);
/* First page of a target that holds something and of which its region was not told that it was placed; UINT64_MAX: none.
 * After a move without post-copy. */
uint64_t fake_guest_untold(struct fake_guest *fake);
void fake_guest_stop(struct fake_guest *fake); /* what an operator's pause does */

#endif
