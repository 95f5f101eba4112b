#include "migrate/page_server.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/bitmap.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/pacer.h"
#include "migrate/page_codec.h"
#include "migrate/page_copy.h"
#include "migrate/page_digest.h"
#include "migrate/progress.h"
#include "migrate/region.h"
#include "net/stream.h"
#include "proto/page_frame.h"

/* 64 KiB around what is asked for: the next touch is likely there. */
enum { AROUND_PAGES = 16 };

struct server_lane {
    struct page_server *server;
    struct stream *stream; /* owned */
    pthread_t thread;
    bool started;

    /* the lane's own */
    struct page_codec codec; /* holds the frame that is being filled */
    unsigned region;
    uint64_t zero_pages, taken_pages, wire_bytes, held_back_ns;

    uint64_t sum; /* atomic: written by the lane, read by all */
};

struct page_server {
    /* set before start, read by all */
    struct page_server_config config;
    struct server_lane asks, pushes;

    pthread_mutex_t mutex; /* who takes a page also adds it to its sum */
    uint64_t goes_on; /* atomic: region and page behind what was asked for last */
};

enum { REGION_SHIFT = 48 };

static void page_server_freep(struct page_server **server)
{
    *server = page_server_free(*server);
}

/* ---- one frame ------------------------------------------------------------------------------ */

static void begin_frame(struct server_lane *lane, unsigned region, uint64_t page)
{
    lane->region = region;
    lane->zero_pages = lane->taken_pages = 0;
    page_codec_begin(&lane->codec, lane->server->config.regions[region].id,
                     page / BLOCK_PAGES * BLOCK_PAGES, 0);
}

/* Under the server's mutex. */
static bool take_bit(struct server_lane *lane, uint64_t page)
{
    struct bitmap *unsent = &lane->server->config.unsent[lane->region];
    uint64_t bit = UINT64_C(1) << (page % 64);
    return __atomic_fetch_and(&unsent->words[page / 64], ~bit, __ATOMIC_ACQ_REL) & bit;
}

/* What the frame's next entry is. Returns its digest. */
static uint64_t copy_page(struct server_lane *lane, uint64_t page, bool *ret_has_data)
{
    uint8_t *slot = page_codec_slot(&lane->codec);
    unsigned in_block = (unsigned)(page % BLOCK_PAGES);
    *ret_has_data =
        page_copy(slot, lane->server->config.regions[lane->region].base + page * PAGE_BYTES);
    if (!*ret_has_data) {
        page_codec_add_zero(&lane->codec, in_block);
        return 0;
    }
    uint64_t hash = page_digest_hash(slot);
    page_codec_add_data(&lane->codec, in_block);
    return hash;
}

/* A page is taken and added to the digest under one lock: the other lane may answer it meanwhile as
 * one that is not its own, and what the target then says of its digest has to find it in ours. */
static void add_page(struct server_lane *lane, uint64_t page, bool even_if_taken)
{
    struct page_server *server = lane->server;
    bool has_data = false;
    pthread_mutex_lock(&server->mutex);
    bool is_ours = take_bit(lane, page);
    if (is_ours) {
        uint64_t sum = lane->sum, hash = copy_page(lane, page, &has_data);
        page_digest_set(&server->config.digests[lane->region], page, hash, &sum);
        __atomic_store_n(&lane->sum, sum, __ATOMIC_RELEASE);
        lane->taken_pages++;
        lane->zero_pages += !has_data;
    }
    pthread_mutex_unlock(&server->mutex);
    if (!is_ours && even_if_taken)
        (void)copy_page(lane, page, &has_data);
}

/* As lane_write does it, but what is truncated is a head: no page may be laid of it. */
static int write_at_point(struct server_lane *lane, enum failpoint_id point, const uint8_t *bytes,
                          size_t count, struct fault *fault)
{
    uint8_t nothing[PAGE_FRAME_HEADER_BYTES / 2] = {0};
    int r = 0;
    switch (failpoint(point)) {
    case FAILPOINT_ERROR:
        return failpoint_fail(point, fault);
    case FAILPOINT_DROP:
        return 0;
    case FAILPOINT_TRUNCATE: /* what follows makes no frame */
        r = stream_write(lane->stream, nothing, sizeof nothing, fault);
        return r < 0 ? r : stream_flush(lane->stream, fault);
    case FAILPOINT_DUPLICATE:
        r = stream_write(lane->stream, bytes, count, fault);
        break;
    case FAILPOINT_NONE:
    case FAILPOINT_KILL:
    case FAILPOINT_DELAY:
        break;
    }
    if (r == 0)
        r = stream_write(lane->stream, bytes, count, fault);
    return r < 0 ? r : stream_flush(lane->stream, fault);
}

static int write_frame(struct server_lane *lane, const uint8_t *bytes, size_t count,
                       struct fault *fault)
{
    bool asks = lane == &lane->server->asks;
    int r = write_at_point(lane, asks ? FAILPOINT_SOURCE_ASKED : FAILPOINT_SOURCE_PUSH, bytes, count,
                           fault);
    uint64_t wire = lane->stream->wire_bytes_out;
    progress_add(lane->server->config.progress, lane->taken_pages, lane->zero_pages,
                 wire - lane->wire_bytes);
    lane->wire_bytes = wire;
    return r;
}

/* ---- what is asked for ---------------------------------------------------------------------- */

static int read_ask(struct server_lane *lane, unsigned *ret_region, uint64_t *ret_page,
                    struct fault *fault)
{
    const struct page_server_config *config = &lane->server->config;
    uint8_t bytes[PAGE_FRAME_HEADER_BYTES];
    int r = stream_read(lane->stream, bytes, sizeof bytes, fault);
    if (r < 0)
        return r;
    struct page_frame ask;
    r = page_frame_get(bytes, &ask, fault);
    if (r < 0)
        return r;
    unsigned region = 0;
    while (region < config->region_count && config->regions[region].id != ask.region)
        region++;
    if (ask.type != PAGE_FRAME_ASK || region == config->region_count ||
        ask.first_page >= config->regions[region].pages)
        return fault_set(fault, ERR_CORRUPT, "the target asks for what is no page of the guest");
    *ret_region = region;
    *ret_page = ask.first_page;
    return 0;
}

/* As it is: whoever waits for it does not wait for packing, too. */
static int write_answer(struct server_lane *lane, struct fault *fault)
{
    const uint8_t *bytes = NULL;
    size_t count = page_codec_encode(&lane->codec, NULL, &bytes);
    return count ? write_frame(lane, bytes, count, fault) : 0;
}

/* The page alone first, so that who waits for it goes on; then what lies around it. Neither waits
 * for the bandwidth limit, but what they take of it is the pushes' loss. */
static int answer(struct server_lane *lane, unsigned region, uint64_t page, struct fault *fault)
{
    const struct region *of = &lane->server->config.regions[region];
    begin_frame(lane, region, page);
    add_page(lane, page, true);
    uint64_t alone = lane->codec.frame.data_count;
    int r = write_answer(lane, fault);
    if (r < 0)
        return r;
    uint64_t first = page / AROUND_PAGES * AROUND_PAGES, end = first + AROUND_PAGES;
    if (end > of->pages)
        end = of->pages;
    begin_frame(lane, region, page);
    for (uint64_t near = first; near < end; near++)
        add_page(lane, near, false);
    uint64_t goes_on = (uint64_t)region << REGION_SHIFT | end;
    __atomic_store_n(&lane->server->goes_on, goes_on, __ATOMIC_RELAXED);
    pacer_charge(lane->server->config.pacer,
                 (alone + (uint64_t)lane->codec.frame.data_count) * PAGE_BYTES);
    return write_answer(lane, fault);
}

static int answer_all(struct server_lane *lane, struct fault *fault)
{
    int r = 0;
    while (r == 0) {
        unsigned region = 0;
        uint64_t page = 0;
        r = read_ask(lane, &region, &page, fault);
        if (r == 0)
            r = answer(lane, region, page, fault);
    }
    return r;
}

/* ---- the rest ------------------------------------------------------------------------------- */

/* As bitmap_next_set, of bits that the other lane takes meanwhile. */
static uint64_t next_unsent(const struct bitmap *unsent, uint64_t from)
{
    uint64_t skip = UINT64_MAX << (from % 64);
    for (size_t i = (size_t)(from / 64); i < bitmap_words(unsent); i++, skip = UINT64_MAX) {
        uint64_t word = __atomic_load_n(&unsent->words[i], __ATOMIC_RELAXED) & skip;
        if (word)
            return i * 64 + (unsigned)__builtin_ctzll(word);
    }
    return BITMAP_NONE;
}

/* The next page that was not sent, from there on and round to there again. */
static bool find_unsent(const struct page_server_config *config, unsigned *region, uint64_t *page)
{
    for (unsigned i = 0; i <= config->region_count; i++) {
        if (*page < config->unsent[*region].bits) {
            uint64_t next = next_unsent(&config->unsent[*region], *page);
            if (next != BITMAP_NONE) {
                *page = next;
                return true;
            }
        }
        *region = (*region + 1) % config->region_count;
        *page = 0;
    }
    return false;
}

/* Packed outside of the server's lock: who asks waits for none of it. */
static int write_push(struct server_lane *lane, struct fault *fault)
{
    struct page_codec *codec = &lane->codec;
    struct pacer *pacer = lane->server->config.pacer;
    const uint8_t *bytes = NULL;
    struct page_mix_road road;
    bool sees = page_codec_look_ahead(codec, lane->stream, pacer, &road);
    size_t count = page_codec_encode(codec, sees ? &road : NULL, &bytes);
    if (count == 0)
        return 0;
    uint64_t waited_ns = 0;
    if (pacer_wait(pacer, count, &waited_ns) == PACER_E_CLOSED)
        return fault_set(fault, ERR_CANCELED, "the move was stopped");
    lane->held_back_ns += waited_ns;
    int r = write_frame(lane, bytes, count, fault);
    if (r == 0)
        page_codec_sent(codec, lane->stream, lane->held_back_ns);
    return r;
}

static int push_some(struct server_lane *lane, unsigned region, uint64_t *page, struct fault *fault)
{
    const struct page_server_config *config = &lane->server->config;
    uint64_t end = *page / BLOCK_PAGES * BLOCK_PAGES + BLOCK_PAGES;
    if (end > config->regions[region].pages)
        end = config->regions[region].pages;
    begin_frame(lane, region, *page);
    while (*page < end && lane->codec.frame.count < PAGE_FRAME_PAGES_MAX) {
        add_page(lane, *page, false);
        (*page)++;
    }
    return write_push(lane, fault);
}

static int push_all(struct server_lane *lane, struct fault *fault)
{
    struct page_server *server = lane->server;
    unsigned region = 0;
    uint64_t page = 0, told = 0;
    while (find_unsent(&server->config, &region, &page)) {
        uint64_t goes_on = __atomic_load_n(&server->goes_on, __ATOMIC_RELAXED);
        if (goes_on != told) {
            told = goes_on;
            region = (unsigned)(goes_on >> REGION_SHIFT);
            page = goes_on & ((UINT64_C(1) << REGION_SHIFT) - 1);
            continue;
        }
        int r = push_some(lane, region, &page, fault);
        if (r < 0)
            return r;
    }
    uint8_t nothing; /* nobody writes here: it says when the lane ends */
    int r = stream_read(lane->stream, &nothing, 1, fault);
    return r < 0 ? r
                 : fault_set(fault, ERR_CORRUPT, "the target wrote on a lane that it only reads");
}

/* ---- threads -------------------------------------------------------------------------------- */

static void *lane_run(void *data)
{
    struct server_lane *lane = data;
    struct page_server *server = lane->server;
    bool asks = lane == &server->asks;
    struct page_server_report report = {0};
    thread_begin(asks ? "post asks" : "post pushes");

    int r = asks ? answer_all(lane, &report.fault) : push_all(lane, &report.fault);
    assert(r < 0);
    (void)fault_wrap(&report.fault, r, "post-copy's lane of %s", asks ? "faults" : "pushes");
    report.cpu_ns = world_thread_cpu_ns();
    server->config.report(server->config.data, &report);
    return NULL;
}

static int start_lane(struct server_lane *lane, enum page_tuner_policy compress, bool takes_zstd,
                      struct fault *fault)
{
    int r = page_codec_init(&lane->codec, compress, takes_zstd, fault);
    if (r < 0)
        return r;
    lane->codec.tuner.mixes = stream_knows_queued(lane->stream);
    int error = pthread_create(&lane->thread, NULL, lane_run, lane);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a lane of post-copy");
    lane->started = true;
    return 0;
}

int page_server_new(struct page_server **ret_server, const struct page_server_config *config,
                    struct stream *asks, struct stream *pushes, struct fault *fault)
{
    struct page_server *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return fault_set(fault, ERR_NOMEM, "no memory to serve pages");
    pthread_mutex_init(&fresh->mutex, NULL);
    AUTO(page_server_freep) struct page_server *server = fresh;
    server->config = *config;
    server->asks.server = server->pushes.server = server;
    server->asks.stream = asks;
    server->pushes.stream = pushes;
    int r = start_lane(&server->asks, PAGE_TUNER_OFF, false, fault);
    if (r < 0) {
        server->asks.stream = server->pushes.stream = NULL; /* still the caller's */
        return r;
    }
    *ret_server = TAKE(server);
    return 0;
}

int page_server_go(struct page_server *server, struct fault *fault)
{
    assert(!server->pushes.started);
    return start_lane(&server->pushes, server->config.compress, server->config.takes_zstd, fault);
}

void page_server_interrupt(struct page_server *server)
{
    stream_interrupt(server->asks.stream);
    stream_interrupt(server->pushes.stream);
}

static void end_lane(struct server_lane *lane)
{
    if (lane->started)
        pthread_join(lane->thread, NULL);
    stream_free(lane->stream);
    page_codec_deinit(&lane->codec);
}

struct page_server *page_server_free(struct page_server *server)
{
    if (!server)
        return NULL;
    if (server->asks.started)
        page_server_interrupt(server);
    end_lane(&server->asks);
    end_lane(&server->pushes);
    pthread_mutex_destroy(&server->mutex);
    free(server);
    return NULL;
}

unsigned page_server_lanes(const struct page_server *server)
{
    return (unsigned)server->asks.started + (unsigned)server->pushes.started;
}

uint64_t page_server_digest(const struct page_server *server)
{
    return __atomic_load_n(&server->asks.sum, __ATOMIC_ACQUIRE) +
           __atomic_load_n(&server->pushes.sum, __ATOMIC_ACQUIRE);
}
