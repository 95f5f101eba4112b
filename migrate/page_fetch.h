/* Fetches the pages that a switchover left behind, those first that somebody waits for.
 *
 * Flow:   page_faults -> [page_fetch] -> fault lane -> source -> both lanes -> [page_fetch] -> RAM
 * Thread: its own: one that hears of faults, one a lane that reads and lays pages. None of them
 * ever touches the guest's memory but by page_faults. All calls by the move's thread, but
 *         interrupt; report runs on its threads.
 *
 * `missing` is the truth: a bit goes when its page was laid, so lanes may break at any time and
 * what comes twice is laid once.
 */
#ifndef GODWIT_MIGRATE_PAGE_FETCH_H
#define GODWIT_MIGRATE_PAGE_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct bitmap;
struct page_digest;
struct page_fetch;
struct page_frame_plan;
struct progress;
struct region;
struct stream;

enum { PAGE_FETCH_LANES = 2 };

enum page_fetch_report_type {
    PAGE_FETCH_LANE_ENDED, /* a lane's last word; there always is one. Another may go on. */
    PAGE_FETCH_ALL,        /* every page is here; once */
    PAGE_FETCH_FAILED,     /* with the fault: who waits for a page waits for ever */
};

struct page_fetch_report {
    enum page_fetch_report_type type;
    struct fault fault;
};

struct page_fetch_config {
    const struct region *regions; /* these all: borrowed, must outlive it */
    struct page_digest *digests;
    unsigned region_count;
    const struct page_frame_plan *plan;
    struct progress *progress;
    void (*report)(void *data, const struct page_fetch_report *report);
    void *data;
};

struct page_fetch_facts {
    uint64_t pages, faults, fault_p50_ns, fault_p99_ns, cpu_ns;
    uint64_t digest; /* what the fetched pages add to the sum over all */
};

/* Refuses in words where this host does not let a guest wait for pages. Before memory is given to the
 * regions: they get small pages until release. */
int page_fetch_new(struct page_fetch **ret_fetch, const struct page_fetch_config *config,
                   struct fault *fault);
/* These pages will come later: what is here of them is given up, and who touches one waits. Their
 * digest becomes that of a zero page, `sum` goes along. Judges what it is given. */
int page_fetch_miss(struct page_fetch *fetch, unsigned region, uint64_t first_page,
                    const uint8_t *bits, size_t bytes, uint64_t *sum, struct fault *fault);
/* Read these lanes, ask what is waited for by now. Takes both when it returns 0. */
int page_fetch_run(struct page_fetch *fetch, struct stream *asks, struct stream *pushes,
                   struct fault *fault);
void page_fetch_interrupt(struct page_fetch *fetch); /* any thread, between run and hang_up */
/* After both have reported, or interrupted: frees the lanes. */
void page_fetch_hang_up(struct page_fetch *fetch);
unsigned page_fetch_lanes(const struct page_fetch *fetch); /* that have to report */
uint64_t page_fetch_left(const struct page_fetch *fetch);
/* Borrowed; stands still while no lane runs. */
const struct bitmap *page_fetch_missing(const struct page_fetch *fetch, unsigned region);
void page_fetch_facts(const struct page_fetch *fetch, struct page_fetch_facts *ret_facts);
/* Nobody waits any more: those who do read zeros. For what is whole, or will never run again. */
void page_fetch_release(struct page_fetch *fetch);
struct page_fetch *page_fetch_free(struct page_fetch *fetch);

#endif
