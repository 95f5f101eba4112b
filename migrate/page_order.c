#include "migrate/page_order.h"

#include <assert.h>
#include <stdlib.h>

#include "base/err.h"

/* Seconds after which what was seen counts half: a guest changes its mind. */
#define HALF_LIFE_S 2.0
/* Every block counts as watched for so long without a write: what was seen once, just after it was
 * sent, may have been a sweep that will not be back for long. */
#define DOUBT_S 0.1

int page_order_init(struct page_order *order, uint32_t blocks)
{
    *order = (struct page_order){.count = blocks};
    order->blocks = calloc(blocks, sizeof *order->blocks);
    order->list = calloc(blocks, sizeof *order->list);
    if (!order->blocks || !order->list) {
        page_order_deinit(order);
        return ERR_NOMEM;
    }
    return 0;
}

void page_order_deinit(struct page_order *order)
{
    free(order->blocks);
    free(order->list);
    order->blocks = NULL;
    order->list = NULL;
}

double page_order_heat(const struct page_order_block *block)
{
    double doubt = DOUBT_S * (block->dirty + block->clean);
    return block->writes > 0 ? block->writes / (block->watched + doubt) : 0;
}

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0;
}

void page_order_sent(struct page_order *order, uint32_t index, uint64_t sent_ns)
{
    assert(index < order->count);
    struct page_order_block *block = &order->blocks[index];
    block->pending += block->clean * seconds(block->since_ns, sent_ns);
    block->clean += block->dirty;
    block->dirty = 0;
    block->since_ns = sent_ns;
    block->sent = true;
}

/* 1 / (1 + s / half life) instead of a power: close enough, and pure arithmetic. */
static double fading(double s)
{
    return 1 / (1 + s / HALF_LIFE_S);
}

void page_order_look(struct page_order *order, uint32_t index, uint32_t dirty, uint64_t now_ns)
{
    assert(index < order->count);
    struct page_order_block *block = &order->blocks[index];
    double s = seconds(block->since_ns, now_ns), fade = fading(s);
    block->writes *= fade;
    block->watched *= fade;
    if (block->sent && block->clean > 0) {
        double watched = block->pending + block->clean * s;
        double fresh = dirty > block->dirty ? dirty - block->dirty : 0;
        /* A page that is written twice between two looks shows once. */
        if (fresh > block->clean)
            fresh = block->clean;
        double share = fresh / block->clean;
        double writes = share < 0.9 ? fresh * (1 + share / 2 + share * share / 3) : fresh * 3;
        block->writes += writes;
        block->watched += watched;
    }
    uint32_t pages = block->dirty + block->clean;
    block->pending = 0;
    block->since_ns = now_ns;
    block->clean = block->sent && pages > dirty ? pages - dirty : 0;
    block->dirty = dirty;
}

void page_order_learn(struct page_order *order, uint64_t pages, uint64_t duration_ns)
{
    if (pages < 256 || duration_ns == 0)
        return; /* mostly latency */
    double rate = (double)pages * 1e9 / (double)duration_ns;
    order->pages_per_s = order->pages_per_s > 0 ? order->pages_per_s * 0.5 + rate * 0.5 : rate;
}

static struct page_order_choice choose_unsent(struct page_order *order, uint64_t pages_max)
{
    uint64_t pages = 0;
    for (uint32_t i = 0; i < order->count; i++) {
        const struct page_order_block *block = &order->blocks[i];
        if (block->sent || block->dirty == 0)
            continue;
        if (pages >= pages_max)
            return (struct page_order_choice){.bulk = true};
        order->list[order->listed++] = i;
        pages += block->dirty;
    }
    return (struct page_order_choice){.bulk = order->listed > 0, .whole = true};
}

static int colder_first(const void *one, const void *other, void *data)
{
    const struct page_order *order = data;
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    double heat_a = page_order_heat(&order->blocks[a]), heat_b = page_order_heat(&order->blocks[b]);
    if (heat_a != heat_b)
        return heat_a < heat_b ? -1 : 1;
    return a < b ? -1 : a > b;
}

struct page_order_choice page_order_choose(struct page_order *order, uint64_t pages_max,
                                           bool even_hot)
{
    order->listed = 0;
    struct page_order_choice unsent = choose_unsent(order, pages_max);
    if (unsent.bulk)
        return unsent;

    /* Blocks that are clean now have to be kept so, too: they are in the sum. */
    uint32_t listed = 0;
    for (uint32_t i = 0; i < order->count; i++) {
        if (order->blocks[i].dirty > 0 || order->blocks[i].writes > 0)
            order->list[listed++] = i;
    }
    qsort_r(order->list, listed, sizeof *order->list, colder_first, order);

    double left = order->pages_per_s * PAGE_ORDER_SHARE_PERCENT / 100;
    uint64_t pages = 0;
    for (uint32_t i = 0; i < listed; i++) {
        const struct page_order_block *block = &order->blocks[order->list[i]];
        left -= page_order_heat(block) * (block->dirty + block->clean);
        if (left < 0 && order->pages_per_s > 0 && !even_hot)
            break;
        if (block->dirty == 0)
            continue;
        if (pages >= pages_max)
            return (struct page_order_choice){.whole = false};
        order->list[order->listed++] = order->list[i]; /* at or before i */
        pages += block->dirty;
    }
    return (struct page_order_choice){.whole = true};
}
