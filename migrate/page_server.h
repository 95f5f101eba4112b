/* Gives the pages that a switchover left behind: what is asked for first, the rest from there on.
 *
 * Flow:   target's ask -> fault lane -> [page_server] -> fault lane, push lane -> target
 * Thread: two of its own, one a lane; new, go and free by the move's thread; report runs on theirs.
 *
 * The guest stands for good, so a page is read when it is due. A bit of `unsent` is taken by who
 * sends the page. What is asked for goes in any case: what is under way on the push lane may be
 * long in coming. It goes as it is, since somebody waits for it; what is pushed is packed as a
 * round's pages are, outside of the lock.
 */
#ifndef GODWIT_MIGRATE_PAGE_SERVER_H
#define GODWIT_MIGRATE_PAGE_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migrate/page_tuner.h"

struct bitmap;
struct pacer;
struct page_digest;
struct page_server;
struct progress;
struct region;
struct stream;

enum { PAGE_SERVER_LANES = 2 }; /* one for what is asked for, one for the rest */

/* A lane's last word; there always is one. */
struct page_server_report {
    uint64_t cpu_ns;
    struct fault fault;
};

struct page_server_config {
    const struct region *regions; /* these all: borrowed, must outlive it */
    struct page_digest *digests;  /* one a region; 0 of what was not sent */
    struct bitmap *unsent;        /* one a region; atomic, taken from */
    unsigned region_count;
    struct pacer *pacer;
    struct progress *progress;
    enum page_tuner_policy compress; /* of what is pushed */
    bool takes_zstd;                 /* the target */
    void (*report)(void *data, const struct page_server_report *report);
    void *data;
};

/* Takes both streams when it returns 0. Answers from now on. */
int page_server_new(struct page_server **ret_server, const struct page_server_config *config,
                    struct stream *asks, struct stream *pushes, struct fault *fault);
/* Push, too. Once. */
int page_server_go(struct page_server *server, struct fault *fault);
void page_server_interrupt(struct page_server *server); /* any thread */
struct page_server *page_server_free(struct page_server *server);

unsigned page_server_lanes(const struct page_server *server); /* that have to report */
/* What the pages that it sent add to the digest over all. Any thread; complete for what the target
 * says that it has. */
uint64_t page_server_digest(const struct page_server *server);

#endif
