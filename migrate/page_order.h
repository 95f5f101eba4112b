/* Which blocks are sent next: those never sent, then cold ones, hot ones last or only in the pause.
 *
 * Flow:   dirty counts of each look at the log -> [page_order] -> source_stream
 * Thread: the move's own; pure.
 *
 * A page that is sent and written again was sent for nothing. How soon that happens is the block's
 * heat: writes to its clean pages a second, over all its clean pages, as the looks have shown. To
 * keep a block clean costs heat * pages a second; the coldest blocks that together cost no more
 * than the lanes carry are worth sending. What is hotter would only take their place.
 */
#ifndef GODWIT_MIGRATE_PAGE_ORDER_H
#define GODWIT_MIGRATE_PAGE_ORDER_H

#include <stdbool.h>
#include <stdint.h>

/* Of what the lanes carry, in percent, may go into keeping sent blocks clean. */
enum { PAGE_ORDER_SHARE_PERCENT = 90 };

struct page_order_block {
    uint32_t dirty, clean; /* pages: dirty at the last look; sent and clean then */
    bool sent;         /* once at least: before, all is dirty and nothing is known of its heat */
    uint64_t since_ns; /* of the last look, or of its sending */
    double writes, watched; /* pages found written, and page-seconds watched for it; both fade */
    double pending;         /* page-seconds before it was sent again */
};

struct page_order {
    struct page_order_block *blocks; /* owned */
    uint32_t *list;                  /* owned: what was chosen, in this order */
    uint32_t count, listed;
    double pages_per_s; /* that the lanes carry; 0: not known yet */
};

/* What a choice is part of. */
struct page_order_choice {
    bool bulk;  /* there were blocks that were never sent: only such were chosen */
    bool whole; /* nothing that is worth sending was left out; in the bulk, no block never sent */
};

int page_order_init(struct page_order *order, uint32_t blocks);
void page_order_deinit(struct page_order *order);

/* The block's dirty pages were sent at `sent_ns`. */
void page_order_sent(struct page_order *order, uint32_t block, uint64_t sent_ns);
/* The log says that so many pages of it are dirty. */
void page_order_look(struct page_order *order, uint32_t block, uint32_t dirty, uint64_t now_ns);
/* The lanes carried so many pages in that time. */
void page_order_learn(struct page_order *order, uint64_t pages, uint64_t duration_ns);
/* Fill the list with blocks of together about `pages_max` dirty pages (at least one block, when any
 * is worth it). `even_hot`: everything is worth sending. */
struct page_order_choice page_order_choose(struct page_order *order, uint64_t pages_max,
                                           bool even_hot);
/* Writes a second to each clean page. */
double page_order_heat(const struct page_order_block *block);

#endif
