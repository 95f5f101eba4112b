/* Streaming pre-copy: the log is read every few hundredths of a second, and each time the lanes get
 * what is best sent next (page_order), a window's worth.
 *
 *      window: chosen blocks -> lanes -> fences -> look at the log -> the next choice
 *      round:  windows until as much was sent as was dirty at its start, or until nothing is left
 *              that is worth sending; then the core decides as it does after a round
 *
 * So converge and throttle see rounds, the wire sees many small ones, and hot pages wait. When all
 * that is worth sending is clean, the hot ones come too, as long as that makes the pause shorter.
 * In the bulk windows are longer, since what was never sent has to be sent anyway.
 */
#include "migrate/source_inside.h"

#include <assert.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/lane_source.h"
#include "migrate/page_scan.h"
#include "migrate/progress.h"
#include "proto/limits.h"

#define WINDOW_NS (30 * NS_PER_MS)
#define BULK_WINDOW_NS (200 * NS_PER_MS)
enum {
    WINDOW_ROUND_TRIPS = 20, /* a window waits for one: it may cost a twentieth */
    WINDOW_PAGES_MIN = 4 * BLOCK_PAGES,
    BULK_WINDOW_PAGES_MIN = 32 * BLOCK_PAGES,
};

static uint64_t region_blocks(const struct source *source, unsigned region)
{
    return (source->config.guest->regions[region].pages + BLOCK_PAGES - 1) / BLOCK_PAGES;
}

int source_stream_init(struct source *source, struct fault *fault)
{
    if (page_order_init(&source->stream.order, (uint32_t)source->batches_max) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for the order of %llu blocks",
                         (unsigned long long)source->batches_max);
    return 0;
}

void source_stream_deinit(struct source *source)
{
    page_order_deinit(&source->stream.order);
}

/* ---- looking -------------------------------------------------------------------------------- */

static uint32_t count_block(const struct bitmap *dirty, uint64_t first_page)
{
    size_t word = (size_t)(first_page / 64), end = word + PAGE_BATCH_WORDS;
    if (end > bitmap_words(dirty))
        end = bitmap_words(dirty);
    uint32_t count = 0;
    for (; word < end; word++)
        count += (uint32_t)__builtin_popcountll(dirty->words[word]);
    return count;
}

/* After a collect: tell the order what is dirty in each block. */
static void look(struct source *source, uint64_t now_ns)
{
    uint32_t block = 0;
    for (unsigned i = 0; i < source->config.guest->region_count; i++) {
        for (uint64_t j = 0; j < region_blocks(source, i); j++)
            page_order_look(&source->stream.order, block++,
                            count_block(&source->regions[i].dirty, j * BLOCK_PAGES), now_ns);
    }
}

/* ---- sending -------------------------------------------------------------------------------- */

static uint64_t window_pages(const struct source *source, bool bulk)
{
    const struct source_stream *stream = &source->stream;
    uint64_t ns = bulk ? BULK_WINDOW_NS : WINDOW_NS;
    if (ns < source->sum.round_trip_ns * WINDOW_ROUND_TRIPS)
        ns = source->sum.round_trip_ns * WINDOW_ROUND_TRIPS;
    uint64_t pages = (uint64_t)(stream->order.pages_per_s * (double)ns * 1e-9);
    uint64_t min = bulk ? BULK_WINDOW_PAGES_MIN : WINDOW_PAGES_MIN;
    return pages > min ? pages : min;
}

static void put_block(struct source *source, uint32_t block, uint64_t slot)
{
    unsigned region = 0;
    uint64_t index = block;
    while (index >= region_blocks(source, region))
        index -= region_blocks(source, region++);
    assert(region < source->config.guest->region_count);

    struct bitmap *dirty = &source->regions[region].dirty;
    size_t word = (size_t)index * PAGE_BATCH_WORDS, words = bitmap_words(dirty) - word;
    if (words > PAGE_BATCH_WORDS)
        words = PAGE_BATCH_WORDS;
    struct page_batch *batch = &source->batches[slot];
    *batch = (struct page_batch){
        .type = PAGE_BATCH_PAGES, .region = region, .first_page = index * BLOCK_PAGES};
    memcpy(batch->mask, dirty->words + word, words * sizeof batch->mask[0]);
    memset(dirty->words + word, 0, words * sizeof dirty->words[0]);
    lane_source_put(source->lanes[page_scan_lane(region, batch->first_page, source->lanes_open)],
                    batch);
}

static void send_window(struct source *source)
{
    struct source_stream *stream = &source->stream;
    struct page_order *order = &stream->order;
    struct page_order_choice choice =
        page_order_choose(order, window_pages(source, stream->bulk), stream->even_hot);
    stream->bulk = choice.bulk;
    stream->whole = choice.whole;
    stream->window_pages = 0;
    stream->window_begun_ns = world_now_ns();
    source->lanes_reported = 0;
    for (uint32_t i = 0; i < order->listed; i++) {
        stream->window_pages += order->blocks[order->list[i]].dirty;
        put_block(source, order->list[i], i);
    }
    stream->sent_pages += stream->window_pages;
    source_rounds_fence(source, order->listed, PAGE_BATCH_FENCE);
}

void source_stream_round(struct source *source, uint64_t pages)
{
    struct source_stream *stream = &source->stream;
    source_rounds_begin(source, pages);
    stream->before_pages = pages;
    stream->sent_pages = stream->held_back_ns = 0;
    stream->bulk = source->round == 1;
    look(source, source->round_begun_ns); /* lanes that came back may have left more dirty */
    send_window(source);
}

bool source_stream_window_done(struct source *source, uint64_t dirty_pages)
{
    struct source_stream *stream = &source->stream;
    struct page_order *order = &stream->order;
    uint64_t now_ns = world_now_ns(), took_ns = now_ns - stream->window_begun_ns;
    uint64_t held_back_ns = source->sum.held_back_ns;

    for (uint32_t i = 0; i < order->listed; i++)
        page_order_sent(order, order->list[i], source->batches[i].begun_ns);
    page_order_learn(order, stream->window_pages, took_ns);
    look(source, now_ns);
    stream->held_back_ns += held_back_ns;
    source->sum.held_back_ns = 0;
    if (dirty_pages > 0 && !stream->whole &&
        (stream->bulk || stream->sent_pages < stream->before_pages)) {
        send_window(source);
        return false;
    }
    stream->even_hot |= stream->whole && !stream->bulk;
    source->sum.held_back_ns = stream->held_back_ns;
    return true;
}
