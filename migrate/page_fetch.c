/* A fault's way: the kernel tells its address; a page that is missing is asked for once on the
 * fault lane (`asked`), and laid by whichever lane brings it. A page that was never missing (nobody
 * had it, or the guest gave it back) is zero, and laid here at once.
 */
#include "migrate/page_fetch.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/lane_write.h"
#include "migrate/page_codec.h"
#include "migrate/page_digest.h"
#include "migrate/page_faults.h"
#include "migrate/progress.h"
#include "migrate/region.h"
#include "net/stream.h"
#include "proto/page_frame.h"

enum {
    WAITS_MAX = 1024,    /* faults whose time is taken at once */
    SPAN_PER_OCTAVE = 8, /* of the histogram: a step is a twelfth */
    SPANS = 48 * SPAN_PER_OCTAVE,
    NOMEM_WAIT_MS = 10,
};

struct fetch_region {
    struct bitmap missing; /* atomic */
    struct bitmap asked;   /* under the mutex */
    bool watched;
};

struct fetch_lane {
    struct page_fetch *fetch;
    struct stream *stream; /* owned */
    pthread_t thread;
    bool started;
    uint8_t *body, *packed;   /* owned */
    struct ZSTD_DCtx_s *zstd; /* owned */
    uint64_t sum, pages, wire_bytes,
        cpu_ns; /* the lane's own until it is joined; sum, pages atomic */
    bool is_lost; /* a page cannot be laid, whoever brings it */
};

/* Since when a page is waited for. A collision loses a sample, nothing else. */
struct fetch_wait {
    uint64_t page, since_ns; /* atomic; page: region and page, plus 1 */
};

struct page_fetch {
    /* set before start, read by all */
    struct page_fetch_config config;
    struct page_faults faults;
    int stop_fd; /* owned */
    bool is_kept_small;
    pthread_t thread;
    bool started;

    struct fetch_region *regions;
    uint64_t left;         /* atomic */
    uint64_t faults_heard; /* atomic */
    bool all_told;         /* atomic */
    uint64_t cpu_ns;       /* the thread's, once joined */
    struct fetch_wait waits[WAITS_MAX];
    uint64_t spans[SPANS]; /* atomic */

    /* One page at a time is looked up in `missing`, laid and taken out of it. Otherwise: (a) both
     * lanes bring a page, one lays it, the guest gives it back, and the other lays an old one into
     * the hole; (b) a page is laid, given back and touched again before its bit goes: the fault
     * asks for a page that nobody lays any more. */
    pthread_mutex_t lay_mutex;
    pthread_mutex_t mutex; /* guards asked, and who may write on the lane of asks */
    bool may_ask;

    struct fetch_lane asks, pushes;
    uint64_t before_sum, before_pages, before_cpu_ns; /* of lanes that have ended */
};

static void page_fetch_freep(struct page_fetch **fetch)
{
    *fetch = page_fetch_free(*fetch);
}

static void report(struct page_fetch *fetch, enum page_fetch_report_type type,
                   const struct fault *fault)
{
    struct page_fetch_report report = {.type = type};
    if (fault)
        report.fault = *fault;
    fetch->config.report(fetch->config.data, &report);
}

/* ---- how long a fault takes ----------------------------------------------------------------- */

static uint64_t wait_key(unsigned region, uint64_t page)
{
    return ((uint64_t)region << 48 | page) + 1;
}

static struct fetch_wait *wait_slot(struct page_fetch *fetch, uint64_t key)
{
    return &fetch->waits[key * UINT64_C(0x9E3779B97F4A7C15) >> 54];
}

static_assert(WAITS_MAX == 1 << 10, "a slot is the upper ten bits of a product");

static void note_fault(struct page_fetch *fetch, unsigned region, uint64_t page)
{
    uint64_t key = wait_key(region, page);
    struct fetch_wait *wait = wait_slot(fetch, key);
    __atomic_fetch_add(&fetch->faults_heard, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&wait->since_ns, world_now_ns(), __ATOMIC_RELAXED);
    __atomic_store_n(&wait->page, key, __ATOMIC_RELEASE);
}

static unsigned span_of(uint64_t ns)
{
    if (ns < SPAN_PER_OCTAVE)
        return 0;
    unsigned octave = 63 - (unsigned)__builtin_clzll(ns);
    unsigned span = octave * SPAN_PER_OCTAVE + (unsigned)(ns >> (octave - 3) & 7);
    return span < SPANS ? span : SPANS - 1;
}

static uint64_t span_end(unsigned span)
{
    return (UINT64_C(9) + span % SPAN_PER_OCTAVE) << (span / SPAN_PER_OCTAVE) >> 3;
}

static void note_laid(struct page_fetch *fetch, unsigned region, uint64_t page)
{
    uint64_t key = wait_key(region, page);
    struct fetch_wait *wait = wait_slot(fetch, key);
    if (__atomic_load_n(&wait->page, __ATOMIC_ACQUIRE) != key)
        return;
    uint64_t since_ns = __atomic_load_n(&wait->since_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&wait->page, 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&fetch->spans[span_of(world_now_ns() - since_ns)], 1, __ATOMIC_RELAXED);
}

static uint64_t percentile(const struct page_fetch *fetch, unsigned percent)
{
    uint64_t all = 0, seen = 0;
    for (unsigned i = 0; i < SPANS; i++)
        all += __atomic_load_n(&fetch->spans[i], __ATOMIC_RELAXED);
    for (unsigned i = 0; i < SPANS; i++) {
        seen += __atomic_load_n(&fetch->spans[i], __ATOMIC_RELAXED);
        if (all && seen * 100 >= all * percent)
            return span_end(i);
    }
    return 0;
}

/* ---- pages in ------------------------------------------------------------------------------- */

static bool is_missing(const struct page_fetch *fetch, unsigned index, uint64_t page)
{
    const struct bitmap *missing = &fetch->regions[index].missing;
    return __atomic_load_n(&missing->words[page / 64], __ATOMIC_ACQUIRE) >> (page % 64) & 1;
}

/* Under lay_mutex. No memory for it now: it comes again, by a new lane. */
static int lay_locked(struct fetch_lane *lane, unsigned index, uint64_t page, const uint8_t *bytes,
                      struct fault *fault)
{
    struct page_fetch *fetch = lane->fetch;
    uint8_t *at = fetch->config.regions[index].base + page * PAGE_BYTES;
    int r = bytes ? page_faults_lay(&fetch->faults, at, bytes, fault)
                  : page_faults_lay_zero(&fetch->faults, at, fault);
    if (r == PAGE_FAULTS_E_THERE)
        r = fault_set(fault, ERR_STATE, "page %llu of region '%s' is there before it was laid",
                      (unsigned long long)page, fetch->config.regions[index].name);
    lane->is_lost = r < 0 && r != ERR_NOMEM;
    if (r == 0)
        __atomic_fetch_and(&fetch->regions[index].missing.words[page / 64],
                           ~(UINT64_C(1) << (page % 64)), __ATOMIC_RELEASE);
    return r;
}

static int lay(struct fetch_lane *lane, unsigned index, uint64_t page, const uint8_t *bytes,
               struct fault *fault)
{
    struct page_fetch *fetch = lane->fetch;
    uint64_t hash = bytes ? page_digest_hash(bytes) : 0;
    pthread_mutex_lock(&fetch->lay_mutex);
    bool is_first = is_missing(fetch, index, page); /* else: came twice, or was never wanted */
    int r = is_first ? lay_locked(lane, index, page, bytes, fault) : 0;
    pthread_mutex_unlock(&fetch->lay_mutex);
    if (r < 0 || !is_first)
        return r;
    uint64_t sum = lane->sum;
    page_digest_set(&fetch->config.digests[index], page, hash, &sum);
    __atomic_store_n(&lane->sum, sum, __ATOMIC_RELAXED);
    __atomic_store_n(&lane->pages, lane->pages + 1, __ATOMIC_RELAXED);
    note_laid(fetch, index, page);
    if (__atomic_sub_fetch(&fetch->left, 1, __ATOMIC_ACQ_REL) == 0 &&
        !__atomic_exchange_n(&fetch->all_told, true, __ATOMIC_RELAXED))
        report(fetch, PAGE_FETCH_ALL, NULL);
    return 0;
}

static int read_head(struct fetch_lane *lane, struct page_frame *ret_frame,
                     struct page_frame_entry entries[static PAGE_FRAME_PAGES_MAX],
                     struct fault *fault)
{
    const struct page_fetch_config *config = &lane->fetch->config;
    uint8_t head[PAGE_FRAME_HEAD_MAX];
    int r = stream_read(lane->stream, head, PAGE_FRAME_HEADER_BYTES, fault);
    if (r < 0)
        return r;
    r = page_frame_get(head, ret_frame, fault);
    if (r < 0)
        return r;
    if (ret_frame->type != PAGE_FRAME_PAGES)
        return fault_set(fault, ERR_CORRUPT, "a frame that has no place in post-copy");
    r = stream_read(lane->stream, head + PAGE_FRAME_HEADER_BYTES,
                    (size_t)ret_frame->count * PAGE_ENTRY_BYTES, fault);
    if (r < 0)
        return r;
    r = page_frame_get_entries(config->plan, head, ret_frame, entries, fault);
    if (r == 0 && ret_frame->patch_count)
        r = fault_set(fault, ERR_CORRUPT, "a patch of a page that is not there");
    return r;
}

/* The frame's data pages, one after the other. */
static int read_body(struct fetch_lane *lane, struct page_frame *frame, struct fault *fault)
{
    bool is_packed = frame->codec != PAGE_FRAME_RAW;
    assert(is_packed || frame->body_bytes == frame->data_count * PAGE_BYTES);
    int r = 0;
    if (frame->body_bytes)
        r = stream_read(lane->stream, is_packed ? lane->packed : lane->body, frame->body_bytes, fault);
    return r == 0 && is_packed
               ? page_codec_decode_pages(frame, lane->zstd, lane->packed, lane->body, fault)
               : r;
}

static int read_frame(struct fetch_lane *lane, struct fault *fault)
{
    struct page_fetch *fetch = lane->fetch;
    struct page_frame frame;
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    int r = read_head(lane, &frame, entries, fault);
    if (r < 0)
        return r;
    r = failpoint_check(FAILPOINT_TARGET_LAY, fault);
    if (r < 0)
        return r;
    r = read_body(lane, &frame, fault);
    if (r < 0)
        return r;
    unsigned index = 0;
    while (fetch->config.regions[index].id != frame.region)
        index++; /* the plan has it */
    if (!fetch->regions[index].watched)
        return fault_set(fault, ERR_CORRUPT, "pages of region '%s', of which none is missing",
                         fetch->config.regions[index].name);
    const uint8_t *bytes = lane->body;
    uint64_t zero_pages = 0, pages = lane->pages;
    for (unsigned i = 0; i < frame.count && r == 0; i++) {
        bool has_data = entries[i].has_data;
        zero_pages += !has_data;
        r = lay(lane, index, frame.first_page + entries[i].page, has_data ? bytes : NULL, fault);
        bytes += has_data ? PAGE_BYTES : 0;
    }
    uint64_t wire = lane->stream->wire_bytes_in;
    progress_add(fetch->config.progress, lane->pages - pages, zero_pages, wire - lane->wire_bytes);
    lane->wire_bytes = wire;
    return r;
}

static void *lane_run(void *data)
{
    struct fetch_lane *lane = data;
    struct fault fault = {0};
    thread_begin(lane == &lane->fetch->asks ? "post asks" : "post pushes");
    int r = 0;
    while (r == 0)
        r = read_frame(lane, &fault);
    (void)fault_wrap(&fault, r, "post-copy's lane of %s",
                     lane == &lane->fetch->asks ? "faults" : "pushes");
    lane->cpu_ns = world_thread_cpu_ns();
    if (lane->is_lost)
        report(lane->fetch, PAGE_FETCH_FAILED, &fault);
    report(lane->fetch, PAGE_FETCH_LANE_ENDED, &fault);
    return NULL;
}

/* ---- faults out ----------------------------------------------------------------------------- */

/* Under the mutex. A lane that breaks is told of by its reader, who may hear nothing of an ask that
 * did not get through; what was asked is asked again. */
static void ask_locked(struct page_fetch *fetch, unsigned region, uint64_t page)
{
    struct fault fault = {0};
    const struct page_frame ask = {
        .type = PAGE_FRAME_ASK, .region = fetch->config.regions[region].id, .first_page = page};
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    unsigned count = page_frame_put(&ask, NULL, bytes);
    int r = lane_write(fetch->asks.stream, FAILPOINT_TARGET_ASK, bytes, count, &fault);
    if (r == 0)
        r = stream_flush(fetch->asks.stream, &fault);
    fetch->may_ask = r == 0;
    if (r < 0)
        stream_interrupt(fetch->asks.stream);
}

static void want(struct page_fetch *fetch, unsigned region, uint64_t page)
{
    note_fault(fetch, region, page);
    pthread_mutex_lock(&fetch->mutex);
    bool is_new = !bitmap_test(&fetch->regions[region].asked, page);
    bitmap_set(&fetch->regions[region].asked, page);
    if (is_new && fetch->may_ask)
        ask_locked(fetch, region, page);
    pthread_mutex_unlock(&fetch->mutex);
}

/* Nobody lays it between the look and what follows from it. Without memory for a page of zeros its
 * reader waits a little longer. */
static int hear_page(struct page_fetch *fetch, unsigned index, uint64_t page, struct fault *fault)
{
    uint8_t *at = fetch->config.regions[index].base + page * PAGE_BYTES;
    struct pollfd stop = {.fd = fetch->stop_fd, .events = POLLIN};
    for (;;) {
        pthread_mutex_lock(&fetch->lay_mutex);
        bool comes = is_missing(fetch, index, page);
        int r = comes ? 0 : page_faults_lay_zero(&fetch->faults, at, fault);
        pthread_mutex_unlock(&fetch->lay_mutex);
        if (comes)
            want(fetch, index, page);
        if (r != ERR_NOMEM)
            return r < 0 ? r : 0;
        if (poll(&stop, 1, NOMEM_WAIT_MS) > 0)
            return 0;
    }
}

static int hear(struct page_fetch *fetch, uint64_t address, struct fault *fault)
{
    for (unsigned i = 0; i < fetch->config.region_count; i++) {
        const struct region *region = &fetch->config.regions[i];
        uint64_t base = (uintptr_t)region->base;
        if (!fetch->regions[i].watched || address < base ||
            address - base >= region->pages * PAGE_BYTES)
            continue;
        return hear_page(fetch, i, (address - base) / PAGE_BYTES, fault);
    }
    return 0;
}

static int hear_all(struct page_fetch *fetch, struct fault *fault)
{
    uint64_t addresses[PAGE_FAULTS_READ_MAX];
    struct pollfd polls[2] = {{.fd = fetch->faults.fd, .events = POLLIN},
                              {.fd = fetch->stop_fd, .events = POLLIN}};
    for (;;) {
        if (poll(polls, 2, -1) < 0 && errno != EINTR)
            return fault_set_errno(fault, ERR_IO, errno, "waiting for faults");
        if (polls[1].revents)
            return 0;
        unsigned count = 0;
        int r = page_faults_read(&fetch->faults, addresses, &count, fault);
        for (unsigned i = 0; i < count && r == 0; i++)
            r = hear(fetch, addresses[i], fault);
        if (r < 0)
            return r;
    }
}

static void *fault_run(void *data)
{
    struct page_fetch *fetch = data;
    struct fault fault = {0};
    thread_begin("post faults");
    thread_hurry(); /* a vCPU waits for it */
    int r = hear_all(fetch, &fault);
    fetch->cpu_ns = world_thread_cpu_ns();
    if (r < 0)
        report(fetch, PAGE_FETCH_FAILED, &fault);
    return NULL;
}

static void stop_hearing(struct page_fetch *fetch)
{
    uint64_t one = 1;
    if (!fetch->started)
        return;
    ssize_t n = write(fetch->stop_fd, &one, sizeof one);
    (void)n; /* a full counter is readable as well */
    pthread_join(fetch->thread, NULL);
    fetch->started = false;
}

/* ---- the door ------------------------------------------------------------------------------- */

/* A huge page that cannot be split where a part of it is given up keeps that part, cleared: its
 * reader would get zeros and nobody hear of a fault. So there are none until all are here. */
static void let_be_huge(struct page_fetch *fetch, bool may)
{
    for (unsigned i = 0; i < fetch->config.region_count; i++) {
        const struct region *region = &fetch->config.regions[i];
        if (region->ops->discard && !region->shared_id)
            (void)madvise(region->base, region->pages * PAGE_BYTES,
                          may ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); /* refused: it knows none */
    }
    fetch->is_kept_small = !may;
}

int page_fetch_new(struct page_fetch **ret_fetch, const struct page_fetch_config *config,
                   struct fault *fault)
{
    struct page_fetch *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return fault_set(fault, ERR_NOMEM, "no memory for post-copy");
    pthread_mutex_init(&fresh->mutex, NULL);
    pthread_mutex_init(&fresh->lay_mutex, NULL);
    fresh->faults.fd = fresh->stop_fd = -1;
    AUTO(page_fetch_freep) struct page_fetch *fetch = fresh;

    fetch->config = *config;
    fetch->asks.fetch = fetch->pushes.fetch = fetch;
    fetch->regions = calloc(config->region_count, sizeof *fetch->regions);
    if (!fetch->regions)
        return fault_set(fault, ERR_NOMEM, "no memory for post-copy");
    for (unsigned i = 0; i < config->region_count; i++) {
        if (!config->regions[i].ops->discard)
            continue; /* of this one nothing is left behind */
        if (bitmap_init(&fetch->regions[i].missing, config->regions[i].pages) < 0 ||
            bitmap_init(&fetch->regions[i].asked, config->regions[i].pages) < 0)
            return fault_set(fault, ERR_NOMEM, "no memory for the missing pages of region '%s'",
                             config->regions[i].name);
    }
    fetch->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fetch->stop_fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making an eventfd");
    int r = page_faults_open(&fetch->faults, fault);
    if (r < 0)
        return r;
    let_be_huge(fetch, false);
    *ret_fetch = TAKE(fetch);
    return 0;
}

static int watch_region(struct page_fetch *fetch, unsigned index, struct fault *fault)
{
    const struct region *region = &fetch->config.regions[index];
    int r = page_faults_watch(&fetch->faults, region->base, region->pages * PAGE_BYTES, fault);
    if (r < 0)
        return r;
    fetch->regions[index].watched = true;
    if (fetch->started)
        return 0;
    int error = pthread_create(&fetch->thread, NULL, fault_run, fetch);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting to hear of faults");
    fetch->started = true;
    return 0;
}

static int miss_run(struct page_fetch *fetch, unsigned index, uint64_t first, uint64_t pages,
                    uint64_t *sum, struct fault *fault)
{
    int r = failpoint_check(FAILPOINT_TARGET_GIVE_UP, fault);
    if (r < 0)
        return r;
    struct region *region = (struct region *)&fetch->config.regions[index];
    struct page_digest *digest = &fetch->config.digests[index];
    for (uint64_t page = first; page < first + pages; page++) {
        page_digest_set(digest, page, 0, sum);
        bitmap_set_atomic(&fetch->regions[index].missing, page); /* faults are heard by now */
    }
    return region->ops->discard(region, first, pages, fault);
}

int page_fetch_miss(struct page_fetch *fetch, unsigned region, uint64_t first_page,
                    const uint8_t *bits, size_t bytes, uint64_t *sum, struct fault *fault)
{
    const struct region *of = &fetch->config.regions[region];
    struct bitmap *missing = &fetch->regions[region].missing;
    assert(first_page % 64 == 0 && bytes % 8 == 0);
    if (!of->ops->discard || of->shared_id)
        return fault_set(fault, ERR_CORRUPT, "missing pages of region '%s', which has none",
                         of->name);
    AUTO(bitmap_deinit) struct bitmap fresh = {0};
    if (bitmap_init(&fresh, of->pages) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for missing pages");
    for (size_t i = 0; i < bytes / 8; i++) {
        uint64_t word = bytes_get_u64(bits + i * 8), first = first_page + i * 64;
        if (!word)
            continue;
        uint64_t last = first + 63 - (unsigned)__builtin_clzll(word);
        if (last >= of->pages || last < first)
            return fault_set(fault, ERR_CORRUPT, "missing page %llu leaves region '%s'",
                             (unsigned long long)last, of->name);
        fresh.words[first / 64] = word & ~missing->words[first / 64];
    }
    int r = fetch->regions[region].watched ? 0 : watch_region(fetch, region, fault);
    uint64_t page = bitmap_next_set(&fresh, 0);
    while (r == 0 && page != BITMAP_NONE) {
        uint64_t end = bitmap_next_clear(&fresh, page);
        if (end == BITMAP_NONE)
            end = of->pages;
        __atomic_fetch_add(&fetch->left, end - page, __ATOMIC_RELAXED);
        r = miss_run(fetch, region, page, end - page, sum, fault);
        page = bitmap_next_set(&fresh, end);
    }
    return r;
}

static int start_lane(struct fetch_lane *lane, struct stream *stream, struct fault *fault)
{
    lane->sum = lane->pages = lane->wire_bytes = lane->cpu_ns = 0;
    lane->is_lost = false;
    if (!lane->body)
        lane->body = aligned_alloc(PAGE_BYTES, (size_t)PAGE_FRAME_PAGES_MAX * PAGE_BYTES);
    if (!lane->packed)
        lane->packed = malloc(PAGE_FRAME_BODY_MAX); /* touched only where something is packed */
    if (!lane->zstd)
        lane->zstd = ZSTD_createDCtx();
    if (!lane->body || !lane->packed || !lane->zstd)
        return fault_set(fault, ERR_NOMEM, "no memory for a lane of post-copy");
    lane->stream = stream;
    int error = pthread_create(&lane->thread, NULL, lane_run, lane);
    if (error) {
        lane->stream = NULL;
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a lane of post-copy");
    }
    lane->started = true;
    return 0;
}

static void ask_again(struct page_fetch *fetch)
{
    pthread_mutex_lock(&fetch->mutex);
    fetch->may_ask = true;
    for (unsigned i = 0; i < fetch->config.region_count; i++) {
        struct fetch_region *region = &fetch->regions[i];
        if (!region->watched)
            continue;
        uint64_t page = bitmap_next_set(&region->asked, 0);
        for (; page != BITMAP_NONE && fetch->may_ask;
             page = page + 1 < region->asked.bits ? bitmap_next_set(&region->asked, page + 1)
                                                  : BITMAP_NONE) {
            uint64_t word = __atomic_load_n(&region->missing.words[page / 64], __ATOMIC_RELAXED);
            if (word >> (page % 64) & 1)
                ask_locked(fetch, i, page);
        }
    }
    pthread_mutex_unlock(&fetch->mutex);
}

/* What it laid counts. */
static void join_lane(struct page_fetch *fetch, struct fetch_lane *lane)
{
    if (!lane->started)
        return;
    pthread_join(lane->thread, NULL);
    lane->started = false;
    fetch->before_sum += lane->sum;
    fetch->before_pages += lane->pages;
    fetch->before_cpu_ns += lane->cpu_ns;
    lane->sum = lane->pages = lane->cpu_ns = 0;
}

int page_fetch_run(struct page_fetch *fetch, struct stream *asks, struct stream *pushes,
                   struct fault *fault)
{
    assert(!fetch->asks.started && !fetch->pushes.started);
    int r = start_lane(&fetch->pushes, pushes, fault);
    if (r == 0)
        r = start_lane(&fetch->asks, asks, fault);
    if (r < 0) {
        stream_interrupt(pushes);
        join_lane(fetch, &fetch->pushes);
        fetch->pushes.stream = NULL; /* both still the caller's */
        return r;
    }
    ask_again(fetch);
    return 0;
}

void page_fetch_interrupt(struct page_fetch *fetch)
{
    if (fetch->asks.stream)
        stream_interrupt(fetch->asks.stream);
    if (fetch->pushes.stream)
        stream_interrupt(fetch->pushes.stream);
}

static void end_lane(struct page_fetch *fetch, struct fetch_lane *lane)
{
    join_lane(fetch, lane);
    lane->stream = stream_free(lane->stream);
}

void page_fetch_hang_up(struct page_fetch *fetch)
{
    page_fetch_interrupt(fetch); /* an ask that hangs, too */
    pthread_mutex_lock(&fetch->mutex);
    fetch->may_ask = false;
    pthread_mutex_unlock(&fetch->mutex);
    end_lane(fetch, &fetch->asks);
    end_lane(fetch, &fetch->pushes);
}

unsigned page_fetch_lanes(const struct page_fetch *fetch)
{
    return (unsigned)fetch->asks.started + (unsigned)fetch->pushes.started;
}

uint64_t page_fetch_left(const struct page_fetch *fetch)
{
    return __atomic_load_n(&fetch->left, __ATOMIC_ACQUIRE);
}

const struct bitmap *page_fetch_missing(const struct page_fetch *fetch, unsigned region)
{
    return &fetch->regions[region].missing;
}

void page_fetch_facts(const struct page_fetch *fetch, struct page_fetch_facts *ret_facts)
{
    *ret_facts = (struct page_fetch_facts){
        .pages = fetch->before_pages + __atomic_load_n(&fetch->asks.pages, __ATOMIC_RELAXED) +
                 __atomic_load_n(&fetch->pushes.pages, __ATOMIC_RELAXED),
        .digest = fetch->before_sum + __atomic_load_n(&fetch->asks.sum, __ATOMIC_RELAXED) +
                  __atomic_load_n(&fetch->pushes.sum, __ATOMIC_RELAXED),
        .faults = __atomic_load_n(&fetch->faults_heard, __ATOMIC_RELAXED),
        .fault_p50_ns = percentile(fetch, 50),
        .fault_p99_ns = percentile(fetch, 99),
        .cpu_ns = fetch->before_cpu_ns,
    };
}

void page_fetch_release(struct page_fetch *fetch)
{
    stop_hearing(fetch);
    page_faults_close(&fetch->faults);
    if (fetch->is_kept_small)
        let_be_huge(fetch, true);
}

static void free_rooms(struct fetch_lane *lane)
{
    (void)ZSTD_freeDCtx(lane->zstd);
    free(lane->packed);
    free(lane->body);
}

struct page_fetch *page_fetch_free(struct page_fetch *fetch)
{
    if (!fetch)
        return NULL;
    page_fetch_hang_up(fetch);
    page_fetch_release(fetch);
    for (unsigned i = 0; fetch->regions && i < fetch->config.region_count; i++) {
        bitmap_deinit(&fetch->regions[i].missing);
        bitmap_deinit(&fetch->regions[i].asked);
    }
    free_rooms(&fetch->asks);
    free_rooms(&fetch->pushes);
    free(fetch->regions);
    close_p(&fetch->stop_fd);
    pthread_mutex_destroy(&fetch->mutex);
    pthread_mutex_destroy(&fetch->lay_mutex);
    free(fetch);
    return NULL;
}
