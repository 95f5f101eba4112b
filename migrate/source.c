/* The shell around source_core: turns what happens into events and carries the todo out.
 *
 *      opener ----- streams ----+
 *      control lane - messages -+-> mailbox -> the move's thread -> core -> todo
 *      lanes ------ reports ----+                    |
 *      verdicts --> core, under the lock             +--> batches -> lanes
 *
 * The move's thread never waits without a deadline: what a lane does it hears of by mail, queues to
 * lanes have room for a whole round, and its own writes on the control lane are watched.
 */
#include "migrate/source.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/control_lane.h"
#include "migrate/guest.h"
#include "migrate/hot.h"
#include "migrate/lane_opener.h"
#include "migrate/lane_source.h"
#include "migrate/mailbox.h"
#include "migrate/pacer.h"
#include "migrate/page_batch.h"
#include "migrate/page_digest.h"
#include "migrate/page_scan.h"
#include "migrate/progress.h"
#include "migrate/receipt.h"
#include "migrate/source_core.h"
#include "migrate/watch.h"
#include "net/stream.h"
#include "net/tls_lane.h"
#include "proto/limits.h"
#include "proto/move_frame.h"

enum {
    MAIL_SLOTS = 64,
    ABORT_MS_MAX = 500, /* to tell the target of a roll-back; it finds out without, too */
    EXTRA_PAGES_MAX = 4096,
    LANES_DEFAULT_MAX = 8,
};
#define DOWNTIME_NS_DEFAULT (100 * NS_PER_MS)
/* Asking which pages are populated may cost this much inside the pause, not more. */
#define POPULATED_NS_MAX (200 * NS_PER_US)

enum source_mail_type {
    MAIL_STREAM,
    MAIL_OPEN_FAILED,
    MAIL_MESSAGE,
    MAIL_HOT,
    MAIL_LINK_LOST,
    MAIL_LANE,
};

struct source_mail {
    enum source_mail_type type;
    unsigned lane;
    struct stream *stream;        /* given */
    Godwit__MoveMessage *message; /* given */
    struct fault fault;
    struct lane_report report;
};

/* The scan thread's view of one region. */
struct source_region {
    struct bitmap dirty;     /* to be sent next */
    struct bitmap populated; /* seen to have memory at any time */
    struct bitmap scratch;
    bool tracking;
    bool exact; /* the log holds only pages that were written: no need to ask for populated */
};

struct source {
    /* set before start, read by all */
    struct source_config config;
    char *move_id, *target_incarnation;
    uint64_t downtime_ns_max, bandwidth_bytes_per_s;
    enum page_tuner_policy compress;
    bool reread;
    unsigned lanes_wanted;
    pthread_t thread;
    bool started;
    struct mailbox *mailbox;
    struct watch *watch;

    pthread_mutex_t mutex; /* guards core and todo */
    struct source_core core;
    unsigned todo;

    /* the move's own thread's */
    struct lane_opener *opener;
    struct control_lane *control;
    struct stream *lane_streams[LANES_MAX];
    struct lane_source *lanes[LANES_MAX];
    struct pacer *pacer;
    unsigned lanes_open;
    struct source_region *regions;
    struct page_digest *digests;
    struct page_batch *batches;
    uint64_t batches_max;
    struct page_batch fences[LANES_MAX];
    struct progress progress;
    struct receipt receipt;

    unsigned round;
    uint64_t round_begun_ns, round_pages;
    unsigned lanes_reported;
    struct lane_report sum; /* of this round's reports */
    uint64_t digest_sums[LANES_MAX];
    uint64_t lane_wire_bytes[LANES_MAX]; /* before this round */
    uint64_t lane_cpu_ns[LANES_MAX];
    bool standing_by, control_hot, saved, drained_told;
    enum phase told_phase;
    uint64_t hot_until_ns, next_progress_ns;

    uint8_t *machine; /* owned, packed */
    size_t machine_bytes;
    uint64_t state_digest, memory_digest;
    uint64_t paused_at_ns;
    uint64_t populated_pages;
    uint64_t predicted_total_ns, populate_ns, target_cpu_ns;
    bool forecast_refined;
    bool finished;
};

static uint64_t total_pages(const struct guest *guest)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < guest->region_count; i++)
        pages += guest->regions[i].pages;
    return pages;
}

/* ---- events in, todo out ------------------------------------------------------------------- */

static void merge_todo(struct source *source, unsigned todo)
{
    /* Once it rolls back, nothing that leads forward may still happen; a GAVE that was decided is
     * latched whatever follows. */
    if (todo & (SOURCE_TODO_LATCH_ABORTED | SOURCE_TODO_LATCH_RELEASED))
        source->todo &= ~(unsigned)SOURCE_TODO_FORWARD;
    source->todo |= todo;
}

static void feed(struct source *source, struct source_event *event)
{
    unsigned todo = 0;
    struct fault fault = {0};

    event->now_ns = world_now_ns();
    pthread_mutex_lock(&source->mutex);
    int r = source_core_step(&source->core, event, &todo, &fault);
    assert(r == 0); /* our own shell never says what may not be */
    merge_todo(source, todo);
    pthread_mutex_unlock(&source->mutex);
}

static void feed_type(struct source *source, enum source_event_type type)
{
    struct source_event event = {.type = type};
    feed(source, &event);
}

static void feed_fault(struct source *source, enum source_event_type type,
                       const struct fault *fault)
{
    struct source_event event = {.type = type, .fault = fault};
    feed(source, &event);
}

static void tick(struct source *source)
{
    struct source_event event = {
        .type = SOURCE_EVENT_TICK,
        .activity = progress_wire_bytes(&source->progress) + progress_pages(&source->progress),
    };
    feed(source, &event);
}

static enum phase current_phase(struct source *source)
{
    pthread_mutex_lock(&source->mutex);
    enum phase phase = source->core.phase;
    pthread_mutex_unlock(&source->mutex);
    return phase;
}

static uint64_t current_deadline(struct source *source)
{
    pthread_mutex_lock(&source->mutex);
    uint64_t deadline_ns = source->core.phase_deadline_ns;
    pthread_mutex_unlock(&source->mutex);
    return deadline_ns;
}

static unsigned take_todo(struct source *source)
{
    pthread_mutex_lock(&source->mutex);
    unsigned bit = source->todo & -source->todo; /* one at a time: the next may be void by then */
    source->todo &= ~bit;
    pthread_mutex_unlock(&source->mutex);
    return bit;
}

static void trace(void *data, const char *line)
{
    struct source *source = data;
    log_debug("source", "%s vm=%s move=%s", line, source->config.guest->vm_id, source->move_id);
}

/* ---- mail from other threads ---------------------------------------------------------------- */

static int open_lane(void *data, unsigned wanted, struct stream **ret_stream, unsigned *ret_lane,
                     struct fault *fault)
{
    struct source *source = data;
    *ret_lane = wanted;
    return source->config.open_lane(source->config.data, wanted, ret_stream, fault);
}

static void on_stream(void *data, unsigned lane, struct stream *stream)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_STREAM, .lane = lane, .stream = stream};
    if (mailbox_put(source->mailbox, &mail) == MAILBOX_E_CLOSED)
        stream_free(stream);
}

static void on_open_failed(void *data, const struct fault *fault)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_OPEN_FAILED, .fault = *fault};
    (void)mailbox_put(source->mailbox, &mail); /* closed: the move is over anyway */
}

static void on_message(void *data, Godwit__MoveMessage *message)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_MESSAGE, .message = message};
    if (mailbox_put(source->mailbox, &mail) == MAILBOX_E_CLOSED)
        godwit__move_message__free_unpacked(message, NULL);
}

static void on_hot(void *data)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_HOT};
    (void)mailbox_put(source->mailbox, &mail);
}

static bool may_spin(void *data)
{
    (void)data;
    return hot_streams();
}

static void on_lost(void *data, const struct fault *fault)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_LINK_LOST, .fault = *fault};
    (void)mailbox_put(source->mailbox, &mail);
}

static void on_report(void *data, const struct lane_report *report)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_LANE, .report = *report};
    (void)mailbox_put(source->mailbox, &mail);
}

static void on_watch_expired(void *data)
{
    struct source *source = data;
    control_lane_interrupt(source->control); /* armed only while there is one */
}

/* ---- the control lane ----------------------------------------------------------------------- */

static void send_message(struct source *source, const Godwit__MoveMessage *message)
{
    struct fault fault = {0};
    uint64_t deadline_ns = current_deadline(source);
    watch_arm(source->watch, deadline_ns ? deadline_ns : world_now_ns() + ABORT_MS_MAX * NS_PER_MS);
    int r = control_lane_send(source->control, message, &fault);
    watch_disarm(source->watch);
    if (r < 0) {
        tick(source); /* a write that the watch broke off failed for the deadline's sake */
        feed_fault(source, SOURCE_EVENT_LINK_LOST, &fault);
    }
}

static void send_hello(struct source *source)
{
    const struct guest *guest = source->config.guest;
    Godwit__MoveRegion regions[REGIONS_MAX], *pointers[REGIONS_MAX];
    for (unsigned i = 0; i < guest->region_count; i++) {
        godwit__move_region__init(&regions[i]);
        regions[i].has_id = regions[i].has_pages = 1;
        regions[i].id = guest->regions[i].id;
        regions[i].pages = guest->regions[i].pages;
        regions[i].name = (char *)guest->regions[i].name;
        pointers[i] = &regions[i];
    }
    Godwit__MoveHello hello = GODWIT__MOVE_HELLO__INIT;
    hello.has_version_min = hello.has_version_max = hello.has_generation = hello.has_lanes =
        hello.has_vcpus = 1;
    hello.version_min = PROTOCOL_VERSION_MIN;
    hello.version_max = PROTOCOL_VERSION;
    hello.move_id = source->move_id;
    hello.vm_id = (char *)guest->vm_id;
    hello.vm_name = (char *)guest->name;
    hello.generation = source->config.generation;
    hello.lanes = source->lanes_wanted;
    hello.regions = pointers;
    hello.n_regions = guest->region_count;
    hello.machine = (char *)guest->machine;
    hello.baseline = (char *)guest->baseline;
    hello.vcpus = guest->vcpus;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_HELLO,
                                   .hello = &hello};
    send_message(source, &message);
}

struct extents {
    uint64_t *first, *pages; /* owned */
    size_t count;
};

static void send_extents_part(struct source *source, unsigned region, struct extents *extents)
{
    Godwit__MoveExtents body = GODWIT__MOVE_EXTENTS__INIT;
    body.has_region = 1;
    body.region = source->config.guest->regions[region].id;
    body.first_page = extents->first;
    body.n_first_page = extents->count;
    body.pages = extents->pages;
    body.n_pages = extents->count;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_EXTENTS,
                                   .extents = &body};
    send_message(source, &message);
    extents->count = 0;
}

static void send_extents(struct source *source, struct extents *extents)
{
    for (unsigned i = 0; i < source->config.guest->region_count; i++) {
        const struct bitmap *populated = &source->regions[i].populated;
        uint64_t page = bitmap_next_set(populated, 0);
        while (page != BITMAP_NONE && current_phase(source) == PHASE_PREPARE) {
            uint64_t end = bitmap_next_clear(populated, page);
            if (end == BITMAP_NONE)
                end = populated->bits;
            extents->first[extents->count] = page;
            extents->pages[extents->count++] = end - page;
            page = bitmap_next_set(populated, end);
            if (extents->count == MOVE_FRAME_EXTENTS_MAX || page == BITMAP_NONE)
                send_extents_part(source, i, extents);
        }
    }
    Godwit__Empty empty = GODWIT__EMPTY__INIT;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_EXTENTS_END,
                                   .extents_end = &empty};
    if (current_phase(source) == PHASE_PREPARE)
        send_message(source, &message);
}

static void send_state(struct source *source)
{
    Godwit__MoveState state = GODWIT__MOVE_STATE__INIT;
    state.has_machine = state.has_paused_ns = state.has_memory_digest = state.has_pages =
        state.has_state_digest = state.has_rounds = state.has_reread = 1;
    state.machine.data = source->machine;
    state.machine.len = source->machine_bytes;
    state.memory_digest = source->memory_digest;
    state.pages = total_pages(source->config.guest);
    state.state_digest = source->state_digest;
    state.rounds = source->round;
    state.reread = source->reread;
    state.paused_ns = world_now_ns() - source->paused_at_ns;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_STATE,
                                   .state = &state};
    send_message(source, &message);
}

static void send_transfer(struct source *source)
{
    Godwit__MoveTransfer transfer = GODWIT__MOVE_TRANSFER__INIT;
    transfer.has_generation = transfer.has_state_digest = 1;
    transfer.vm_id = (char *)source->config.guest->vm_id;
    transfer.move_id = source->move_id;
    transfer.generation = source->config.generation;
    transfer.target_incarnation = source->target_incarnation;
    transfer.state_digest = source->state_digest;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_TRANSFER,
                                   .transfer = &transfer};
    send_message(source, &message);
}

static void send_abort(struct source *source)
{
    if (!source->control)
        return;
    pthread_mutex_lock(&source->mutex);
    struct fault fault = source->core.fault;
    pthread_mutex_unlock(&source->mutex);

    Godwit__Fault words = GODWIT__FAULT__INIT;
    words.has_number = 1;
    words.number = -fault.code;
    words.text = fault.text;
    words.hint = fault.hint;
    Godwit__MoveAbort abort_body = GODWIT__MOVE_ABORT__INIT;
    abort_body.fault = &words;
    Godwit__MoveMessage message = {.base =
                                       PROTOBUF_C_MESSAGE_INIT(&godwit__move_message__descriptor),
                                   .body_case = GODWIT__MOVE_MESSAGE__BODY_ABORT,
                                   .abort = &abort_body};
    send_message(source, &message);
}

/* ---- dirty pages ---------------------------------------------------------------------------- */

/* Learn which pages have memory by now; what once had stays known, since it may have been sent. */
static int learn_populated(struct source *source, unsigned i, struct fault *fault)
{
    struct source_region *region = &source->regions[i];
    struct region *ops = &source->config.guest->regions[i];
    bitmap_clear_all(&region->scratch);
    int r = ops->ops->populated(ops, &region->scratch, fault);
    if (r < 0)
        return fault_wrap(fault, r, "asking which pages of '%s' have memory", ops->name);
    bitmap_or(&region->populated, &region->scratch);
    return 0;
}

static uint64_t count_beyond(const struct bitmap *dirty, const struct bitmap *populated)
{
    uint64_t count = 0;
    for (size_t i = 0; i < bitmap_words(dirty); i++) {
        uint64_t word = dirty->words[i] & ~populated->words[i];
        if (word)
            count += (uint64_t)__builtin_popcountll(word);
    }
    return count;
}

/* Leave in `dirty` only pages that may be read: reading one without memory would give it some. The
 * collect came first, so what was written before it is seen populated now; what is written later is
 * still in the log, since only sending clears. */
static int keep_populated(struct source *source, unsigned i, struct fault *fault)
{
    struct source_region *region = &source->regions[i];
    uint64_t beyond = count_beyond(&region->dirty, &region->populated);
    if (beyond == 0)
        return 0;
    if (region->exact && beyond <= EXTRA_PAGES_MAX) {
        bitmap_or(&region->populated, &region->dirty); /* written, so there */
        return 0;
    }
    int r = learn_populated(source, i, fault);
    if (r < 0)
        return r;
    bitmap_and(&region->dirty, &region->populated);
    return 0;
}

static int collect(struct source *source, uint64_t *ret_pages, struct fault *fault)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < source->config.guest->region_count; i++) {
        struct region *ops = &source->config.guest->regions[i];
        int r = ops->ops->collect(ops, &source->regions[i].dirty, fault);
        if (r < 0)
            return fault_wrap(fault, r, "collecting dirty pages of '%s'", ops->name);
        r = keep_populated(source, i, fault);
        if (r < 0)
            return r;
        pages += bitmap_count(&source->regions[i].dirty);
    }
    *ret_pages = pages;
    return 0;
}

/* Where asking for populated is slow, take all unpopulated pages out of the log while the bulk is
 * on its way: from then on the log names only pages that were written, and the pause need not ask.
 * Cleared first, asked second: what is written before the clear is seen populated, what is written
 * after it is in the log. */
static int make_exact(struct source *source, unsigned i, struct fault *fault)
{
    struct source_region *region = &source->regions[i];
    struct region *ops = &source->config.guest->regions[i];
    size_t words = bitmap_words(&region->populated);

    for (uint64_t first = 0; first < ops->pages; first += BLOCK_PAGES) {
        uint64_t mask[PAGE_BATCH_WORDS] = {0}, any = 0;
        for (unsigned j = 0; j < PAGE_BATCH_WORDS && first / 64 + j < words; j++)
            any |= mask[j] = ~region->populated.words[first / 64 + j];
        uint64_t left = ops->pages - first;
        for (unsigned j = 0; j < PAGE_BATCH_WORDS && left < BLOCK_PAGES; j++) {
            uint64_t end = (uint64_t)(j + 1) * 64;
            if (left < end)
                mask[j] &= left + 64 <= end ? 0 : UINT64_MAX >> (end - left);
        }
        if (!any)
            continue;
        int r = ops->ops->clear(ops, first, mask, fault);
        if (r < 0)
            return r;
    }
    AUTO_FREE uint64_t *copy = calloc(words, sizeof *copy);
    if (!copy)
        return fault_set(fault, ERR_NOMEM, "no memory to compare populated pages");
    memcpy(copy, region->populated.words, words * sizeof *copy);
    int r = learn_populated(source, i, fault);
    if (r < 0)
        return r;
    for (size_t j = 0; j < words; j++)
        region->dirty.words[j] |= region->populated.words[j] & ~copy[j];
    region->exact = true;
    return 0;
}

static unsigned fence_lanes(struct source *source, enum page_batch_type type)
{
    for (unsigned i = 0; i < source->lanes_open; i++) {
        source->fences[i] = (struct page_batch){.type = type};
        lane_source_put(source->lanes[i], &source->fences[i]);
    }
    return source->lanes_open;
}

/* Hand all dirty pages to the lanes, and a fence behind them. */
static void dispatch(struct source *source, uint64_t pages, enum page_batch_type fence)
{
    uint64_t used = 0;
    source->round++;
    source->round_begun_ns = world_now_ns();
    source->round_pages = pages;
    source->lanes_reported = 0;
    source->sum = (struct lane_report){0};
    progress_begin_round(&source->progress, pages);

    for (unsigned i = 0; i < source->config.guest->region_count; i++) {
        struct page_scan scan;
        page_scan_init(&scan, &source->regions[i].dirty, i);
        while (used < source->batches_max && page_scan_next(&scan, &source->batches[used])) {
            struct page_batch *batch = &source->batches[used++];
            unsigned lane = page_scan_lane(i, batch->first_page, source->lanes_open);
            lane_source_put(source->lanes[lane], batch);
        }
        bitmap_clear_all(&source->regions[i].dirty);
    }
    (void)fence_lanes(source, fence);
}

/* ---- todo ----------------------------------------------------------------------------------- */

static void latch(struct source *source, Godwit__Latch latch)
{
    source->config.on_latch(source->config.data, latch);
}

static int open_control(struct source *source, struct fault *fault)
{
    const struct lane_opener_config config = {
        .open = open_lane, .on_stream = on_stream, .on_failed = on_open_failed, .data = source};
    return lane_opener_new(&source->opener, &config, fault);
}

static int prepare(struct source *source, struct fault *fault)
{
    lane_opener_go_on(source->opener, source->lanes_wanted);

    struct extents extents = {0};
    AUTO_FREE uint64_t *first = reallocarray(NULL, MOVE_FRAME_EXTENTS_MAX, sizeof *first);
    AUTO_FREE uint64_t *pages = reallocarray(NULL, MOVE_FRAME_EXTENTS_MAX, sizeof *pages);
    if (!first || !pages)
        return fault_set(fault, ERR_NOMEM, "no memory for the extents");
    extents.first = first;
    extents.pages = pages;
    send_extents(source, &extents);
    return 0;
}

static int start_lanes(struct source *source, struct fault *fault)
{
    for (unsigned i = 0; i < source->lanes_open; i++) {
        const struct lane_source_config config = {
            .lane = i,
            .regions = source->config.guest->regions,
            .digests = source->digests,
            .region_count = source->config.guest->region_count,
            .pacer = source->pacer,
            .may_spin = hot_streams(),
            .progress = &source->progress,
            .compress = source->compress,
            .batches_max = source->batches_max + 4,
            .report = on_report,
            .data = source,
        };
        source->receipt.message.cipher = (char *)source->lane_streams[i]->cipher;
        int r = lane_source_new(&source->lanes[i], &config, source->lane_streams[i], fault);
        if (r < 0)
            return r;
        source->lane_streams[i] = NULL;
    }
    return 0;
}

static int first_round(struct source *source, struct fault *fault)
{
    int r = start_lanes(source, fault);
    if (r < 0)
        return r;
    struct guest *guest = source->config.guest;
    for (unsigned i = 0; i < guest->region_count; i++) {
        r = guest->regions[i].ops->track_start(&guest->regions[i], fault);
        if (r < 0)
            return fault_wrap(fault, r, "tracking dirty pages of '%s'", guest->regions[i].name);
        source->regions[i].tracking = true;
    }
    uint64_t pages = 0, begun_ns = world_now_ns();
    r = collect(source, &pages, fault);
    if (r < 0)
        return r;
    uint64_t collect_ns = world_now_ns() - begun_ns;
    pthread_mutex_lock(&source->mutex);
    source->core.populated_pages = pages;
    source->predicted_total_ns =
        world_now_ns() - source->core.started_ns +
        converge_forecast_ns(&source->core.converge, pages, source->bandwidth_bytes_per_s);
    pthread_mutex_unlock(&source->mutex);
    source->populated_pages = pages;
    dispatch(source, pages, PAGE_BATCH_FENCE);

    for (unsigned i = 0; i < guest->region_count && collect_ns > POPULATED_NS_MAX; i++) {
        if (bitmap_count(&source->regions[i].populated) == guest->regions[i].pages)
            continue;
        r = make_exact(source, i, fault);
        if (r < 0)
            return r;
    }
    return 0;
}

static uint64_t dirty_count(const struct source *source)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < source->config.guest->region_count; i++)
        pages += bitmap_count(&source->regions[i].dirty);
    return pages;
}

static int stand_by(struct source *source, struct fault *fault)
{
    source->standing_by = true;
    source->lanes_reported = 0;
    source->hot_until_ns = world_now_ns() + LANE_HOT_NS;
    (void)fence_lanes(source, PAGE_BATCH_FENCE_HOT);
    watch_arm(source->watch, current_deadline(source));
    int r = control_lane_send_hot(source->control, fault);
    watch_disarm(source->watch);
    return r;
}

static int pause_guest(struct source *source, struct fault *fault)
{
    const struct guest *guest = source->config.guest;
    source->paused_at_ns = world_now_ns();
    source->hot_until_ns = source->paused_at_ns + LANE_HOT_NS;
    guest->ops->pause(guest->owner);

    uint64_t pages = 0;
    int r = collect(source, &pages, fault);
    if (r < 0)
        return r;
    feed_type(source, SOURCE_EVENT_PAUSED);
    return 0;
}

static int drained(struct source *source, struct fault *fault)
{
    if (source->drained_told || !source->saved || source->lanes_reported < source->lanes_open)
        return 0;
    source->drained_told = true;
    uint64_t sum = 0;
    for (unsigned i = 0; i < source->lanes_open; i++)
        sum += source->digest_sums[i];
    source->memory_digest = sum;
    if (source->reread) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        int r = page_digest_reread(source->digests, source->config.guest->regions,
                                   source->config.guest->region_count,
                                   cores > 0 ? (unsigned)cores : 1, &sum, fault);
        if (r < 0)
            return fault_wrap(fault, r, "reading all memory again at the source");
        assert(sum == source->memory_digest); /* every term was equal */
    }
    feed_type(source, SOURCE_EVENT_DRAINED);
    return 0;
}

static int drain(struct source *source, struct fault *fault)
{
    const struct guest *guest = source->config.guest;
    dispatch(source, dirty_count(source), PAGE_BATCH_FENCE_LAST);

    /* Saved while the lanes work. */
    int r = guest->ops->save(guest->owner, &source->machine, &source->machine_bytes, fault);
    if (r < 0)
        return fault_wrap(fault, r, "saving the machine");
    if (source->machine_bytes > MACHINE_STATE_MAX)
        return fault_set(fault, ERR_LIMIT, "a machine state of %zu bytes, at most %d may be",
                         source->machine_bytes, MACHINE_STATE_MAX);
    source->state_digest = XXH3_64bits(source->machine, source->machine_bytes);
    source->saved = true;
    return drained(source, fault);
}

static void resume_guest(struct source *source)
{
    const struct guest *guest = source->config.guest;
    if (!guest->was_running)
        return;
    struct fault fault = {0};
    int r = guest->ops->resume(guest->owner, &fault);
    if (r == 0)
        return;
    pthread_mutex_lock(&source->mutex);
    (void)fault_wrap(&fault, ERR_ATTENTION, "the move was rolled back, but resuming failed");
    source->core.fault = fault;
    pthread_mutex_unlock(&source->mutex);
}

static int carry_out(struct source *source, enum source_todo bit, struct fault *fault)
{
    switch (bit) {
    case SOURCE_TODO_LATCH_OUT:
        latch(source, GODWIT__LATCH__LATCH_OUT);
        return 0;
    case SOURCE_TODO_OPEN_CONTROL:
        return open_control(source, fault);
    case SOURCE_TODO_SEND_HELLO:
        send_hello(source);
        return 0;
    case SOURCE_TODO_PREPARE:
        return prepare(source, fault);
    case SOURCE_TODO_FIRST_ROUND:
        return first_round(source, fault);
    case SOURCE_TODO_ROUND:
        dispatch(source, dirty_count(source), PAGE_BATCH_FENCE);
        return 0;
    case SOURCE_TODO_STAND_BY:
        return stand_by(source, fault);
    case SOURCE_TODO_PAUSE:
        return pause_guest(source, fault);
    case SOURCE_TODO_DRAIN:
        return drain(source, fault);
    case SOURCE_TODO_SEND_STATE:
        send_state(source);
        return 0;
    case SOURCE_TODO_LATCH_GAVE:
        latch(source, GODWIT__LATCH__LATCH_GAVE);
        return 0;
    case SOURCE_TODO_SEND_TRANSFER:
        send_transfer(source);
        return 0;
    case SOURCE_TODO_LATCH_RELEASED:
        latch(source, GODWIT__LATCH__LATCH_RELEASED);
        return 0;
    case SOURCE_TODO_LATCH_ABORTED:
        latch(source, GODWIT__LATCH__LATCH_ABORTED);
        return 0;
    case SOURCE_TODO_RESUME:
        resume_guest(source);
        return 0;
    case SOURCE_TODO_SEND_ABORT:
        send_abort(source);
        return 0;
    case SOURCE_TODO_END:
        source->finished = true;
        return 0;
    }
    assert(false);
    return 0;
}

static void do_todo(struct source *source)
{
    unsigned bit;
    while ((bit = take_todo(source))) {
        struct fault fault = {0};
        if (carry_out(source, (enum source_todo)bit, &fault) < 0)
            feed_fault(source, SOURCE_EVENT_FAILED, &fault);
    }
}

/* ---- what the mail says --------------------------------------------------------------------- */

static void take_stream(struct source *source, const struct source_mail *mail)
{
    if (mail->lane == TLS_LANE_CONTROL) {
        const struct control_lane_config config = {

            .on_message = on_message,
            .on_hot = on_hot,
            .on_lost = on_lost,
            .may_spin = may_spin,
            .data = source,
        };
        struct fault fault = {0};
        int r = control_lane_new(&source->control, &config, mail->stream, &fault);
        if (r < 0) {
            stream_free(mail->stream);
            feed_fault(source, SOURCE_EVENT_FAILED, &fault);
        } else if (current_phase(source) == PHASE_GREET) {
            feed_type(source, SOURCE_EVENT_CONTROL_OPEN);
        }
        return;
    }
    assert(mail->lane < LANES_MAX && !source->lane_streams[mail->lane]);
    source->lane_streams[mail->lane] = mail->stream;
    if (++source->lanes_open == source->lanes_wanted)
        feed_type(source, SOURCE_EVENT_LANES_OPEN);
}

static void copy_fault(const Godwit__Fault *from, struct fault *to)
{
    if (!from) {
        (void)fault_set(to, ERR_ROLLED_BACK, "the target abandoned the move");
        return;
    }
    int code = err_from_number(from->number);
    (void)fault_set(to, code, "the target: %.400s", from->text ? from->text : err_name(code));
    if (from->hint)
        fault_hint(to, "%.150s", from->hint);
}

static void learn_extents_populated(struct source *source, struct source_event *event)
{
    struct fault fault = {0};
    for (unsigned i = 0; i < source->config.guest->region_count; i++) {
        if (learn_populated(source, i, &fault) < 0) {
            event->type = SOURCE_EVENT_FAILED;
            break;
        }
        event->populated_pages += bitmap_count(&source->regions[i].populated);
    }
    event->fault = &fault;
    feed(source, event);
}

static void take_message(struct source *source, const Godwit__MoveMessage *message)
{
    struct source_event event = {0};
    struct fault fault = {0};

    switch (message->body_case) {
    case GODWIT__MOVE_MESSAGE__BODY_WELCOME:
        event.type = SOURCE_EVENT_WELCOME;
        if (message->welcome->version < PROTOCOL_VERSION_MIN ||
            message->welcome->version > PROTOCOL_VERSION) {
            (void)fault_set(&fault, ERR_UNSUPPORTED,
                            "the target speaks version %u, we speak %d to %d",
                            message->welcome->version, PROTOCOL_VERSION_MIN, PROTOCOL_VERSION);
            feed_fault(source, SOURCE_EVENT_FAILED, &fault);
            return;
        }
        learn_extents_populated(source, &event);
        return;
    case GODWIT__MOVE_MESSAGE__BODY_PREPARED:
        source->populate_ns = message->prepared->populate_ns;
        event.type = SOURCE_EVENT_PREPARED;
        break;
    case GODWIT__MOVE_MESSAGE__BODY_READY:
        event.type = SOURCE_EVENT_READY;
        if (current_phase(source) == PHASE_STATE &&
            message->ready->memory_digest != source->memory_digest) {
            (void)fault_set(&fault, ERR_CORRUPT, "the target's memory digest is another");
            feed_fault(source, SOURCE_EVENT_FAILED, &fault);
            return;
        }
        break;
    case GODWIT__MOVE_MESSAGE__BODY_STARTED:
        source->target_cpu_ns = message->started->cpu_ns;
        event.type = SOURCE_EVENT_STARTED;
        break;
    case GODWIT__MOVE_MESSAGE__BODY_ABANDONED:
        copy_fault(message->abandoned->fault, &fault);
        event.type = SOURCE_EVENT_ABANDONED;
        event.fault = &fault;
        break;
    case GODWIT__MOVE_MESSAGE__BODY_HELLO:
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS:
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS_END:
    case GODWIT__MOVE_MESSAGE__BODY_STATE:
    case GODWIT__MOVE_MESSAGE__BODY_TRANSFER:
    case GODWIT__MOVE_MESSAGE__BODY_ABORT:
    case GODWIT__MOVE_MESSAGE__BODY__NOT_SET:
    case _GODWIT__MOVE_MESSAGE__BODY__CASE_IS_INT_SIZE:
        (void)fault_set(&fault, ERR_CORRUPT, "the target sent a source's message: %s",
                        move_frame_name(message));
        feed_fault(source, SOURCE_EVENT_FAILED, &fault);
        return;
    }
    feed(source, &event);
}

static void add_report(struct source *source, const struct lane_report *report)
{
    struct lane_report *sum = &source->sum;
    sum->pages += report->pages;
    sum->zero_pages += report->zero_pages;
    sum->raw_pages += report->raw_pages;
    sum->lz4_pages += report->lz4_pages;
    sum->lz4_bytes += report->lz4_bytes;
    sum->wire_bytes += report->wire_bytes - source->lane_wire_bytes[report->lane];
    if (report->held_back_ns > sum->held_back_ns)
        sum->held_back_ns = report->held_back_ns; /* lanes wait side by side */
    if (report->round_trip_ns &&
        (!sum->round_trip_ns || report->round_trip_ns < sum->round_trip_ns))
        sum->round_trip_ns = report->round_trip_ns;
    source->lane_wire_bytes[report->lane] = report->wire_bytes;
    source->digest_sums[report->lane] = report->digest_sum;
    source->lane_cpu_ns[report->lane] = report->cpu_ns;
    source->lanes_reported++;
}

static void note_round(struct source *source, uint64_t duration_ns, uint64_t dirty_pages)
{
    const struct lane_report *sum = &source->sum;
    Godwit__MoveRound round = GODWIT__MOVE_ROUND__INIT;
#define FILL(field, value) (round.has_##field = 1, round.field = (value))
    FILL(number, source->round);
    FILL(pages, sum->pages);
    FILL(zero_pages, sum->zero_pages);
    FILL(raw_pages, sum->raw_pages);
    FILL(lz4_pages, sum->lz4_pages);
    FILL(lz4_bytes, sum->lz4_bytes);
    FILL(wire_bytes, sum->wire_bytes);
    FILL(duration_ns, duration_ns);
    FILL(dirty_pages_after, dirty_pages);
#undef FILL
    receipt_add_round(&source->receipt, &round);
}

static int round_done(struct source *source, struct fault *fault)
{
    const struct lane_report *sum = &source->sum;
    uint64_t duration_ns = world_now_ns() - source->round_begun_ns, dirty_pages = 0;
    int r = collect(source, &dirty_pages, fault);
    if (r < 0)
        return r;
    note_round(source, duration_ns, dirty_pages);
    struct source_event event = {
        .type = SOURCE_EVENT_ROUND_DONE,
        .round = {.pages = sum->pages,
                  .data_pages = sum->raw_pages + sum->lz4_pages,
                  .duration_ns = duration_ns,
                  .held_back_ns = sum->held_back_ns,
                  .dirty_pages = dirty_pages,
                  .round_trip_ns = sum->round_trip_ns},
    };
    feed(source, &event);
    return 0;
}

static void stood_by(struct source *source)
{
    if (!source->control_hot || source->lanes_reported < source->lanes_open)
        return;
    if (current_phase(source) == PHASE_PRECOPY)
        feed_type(source, SOURCE_EVENT_STOOD_BY);
}

static void take_report(struct source *source, const struct lane_report *report)
{
    struct fault fault = {0};
    if (report->type == LANE_REPORT_FAILED) {
        source->lane_cpu_ns[report->lane] = report->cpu_ns;
        feed_fault(source, SOURCE_EVENT_FAILED, &report->fault);
        return;
    }
    add_report(source, report);
    if (source->lanes_reported < source->lanes_open)
        return;
    enum phase phase = current_phase(source);
    int r = 0;
    if (report->type == LANE_REPORT_FENCE && phase == PHASE_PRECOPY) {
        r = round_done(source, &fault);
    } else if (report->type == LANE_REPORT_HOT) {
        stood_by(source);
    } else if (report->type == LANE_REPORT_LAST && phase == PHASE_DRAIN) {
        note_round(source, world_now_ns() - source->round_begun_ns, 0);
        r = drained(source, &fault);
    }
    if (r < 0)
        feed_fault(source, SOURCE_EVENT_FAILED, &fault);
}

static void discard_mail(struct source_mail *mail)
{
    stream_free(mail->stream);
    if (mail->message)
        godwit__move_message__free_unpacked(mail->message, NULL);
}

static void take_mail(struct source *source, struct source_mail *mail)
{
    switch (mail->type) {
    case MAIL_STREAM:
        take_stream(source, mail);
        mail->stream = NULL;
        break;
    case MAIL_OPEN_FAILED:
        feed_fault(source, SOURCE_EVENT_FAILED, &mail->fault);
        break;
    case MAIL_MESSAGE:
        take_message(source, mail->message);
        break;
    case MAIL_HOT:
        source->control_hot = true;
        if (source->standing_by)
            stood_by(source);
        break;
    case MAIL_LINK_LOST:
        /* What came was wrong, but our words may still get through. */
        feed_fault(source,
                   mail->fault.code == ERR_CORRUPT ? SOURCE_EVENT_FAILED : SOURCE_EVENT_LINK_LOST,
                   &mail->fault);
        break;
    case MAIL_LANE:
        take_report(source, &mail->report);
        break;
    }
    discard_mail(mail);
}

/* ---- telling -------------------------------------------------------------------------------- */

/* Until the bulk round has run for a moment, its cost is a guess: refine the forecast once. */
static void refine_forecast(struct source *source, uint64_t now_ns)
{
    if (source->forecast_refined || source->round != 1 || source->populated_pages == 0)
        return;
    uint64_t done = progress_pages(&source->progress), ran_ns = now_ns - source->round_begun_ns;
    if (done < 1024 || ran_ns < PROGRESS_MS * NS_PER_MS / 2)
        return;
    source->forecast_refined = true;
    uint64_t left = source->populated_pages > done ? source->populated_pages - done : 0;
    pthread_mutex_lock(&source->mutex);
    source->predicted_total_ns = now_ns - source->core.started_ns +
                                 (uint64_t)((double)ran_ns / (double)done * (double)left) +
                                 converge_predict_ns(&source->core.converge, 0);
    pthread_mutex_unlock(&source->mutex);
}

static void tell_progress(struct source *source, uint64_t now_ns)
{
    pthread_mutex_lock(&source->mutex);
    struct converge converge = source->core.converge;
    enum phase phase = source->core.phase;
    uint64_t started_ns = source->core.started_ns;
    pthread_mutex_unlock(&source->mutex);

    const struct progress_facts facts = {
        .now_ns = now_ns,
        .started_ns = started_ns,
        .phase = (Godwit__MovePhase)phase,
        .round = source->round,
        .lanes = source->lanes_open,
        .memory_pages = source->populated_pages,
        .converge = &converge,
        .bandwidth_bytes_per_s = source->bandwidth_bytes_per_s,
    };
    Godwit__MoveProgress message;
    progress_fill(&source->progress, &facts, &message);
    source->told_phase = phase;
    source->next_progress_ns = now_ns + PROGRESS_MS * NS_PER_MS;
    source->config.on_progress(source->config.data, &message);
}

/* Inside the pause nothing is told: it would cost the guest, and there is more to say after it. */
static bool is_quiet(const struct source *source, enum phase phase, uint64_t now_ns)
{
    return phase >= PHASE_PAUSE && phase <= PHASE_HANDOVER && now_ns < source->hot_until_ns;
}

static void turn(struct source *source)
{
    struct source_mail mail;
    uint64_t now_ns = world_now_ns();
    enum phase phase = current_phase(source);
    bool quiet = is_quiet(source, phase, now_ns);
    if (!quiet && (phase != source->told_phase || now_ns >= source->next_progress_ns)) {
        refine_forecast(source, now_ns);
        tell_progress(source, now_ns);
    }

    uint64_t until_ns = quiet ? source->hot_until_ns : source->next_progress_ns;
    uint64_t deadline_ns = current_deadline(source);
    if (deadline_ns && deadline_ns < until_ns)
        until_ns = deadline_ns;
    bool hot = quiet || (source->standing_by && phase == PHASE_PRECOPY);
    if (mailbox_take(source->mailbox, &mail, until_ns, hot ? now_ns + LANE_SPIN_NS : 0))
        take_mail(source, &mail);
    else
        tick(source);
    if (deadline_ns && world_now_ns() >= deadline_ns) /* mail that never ends is no excuse */
        tick(source);
}

/* ---- the end -------------------------------------------------------------------------------- */

static void stop_threads(struct source *source)
{
    mailbox_close(source->mailbox);
    if (source->pacer)
        pacer_close(source->pacer);
    if (source->config.interrupt_open && source->opener)
        source->config.interrupt_open(source->config.data);
    for (unsigned i = 0; i < LANES_MAX; i++) {
        if (source->lanes[i])
            lane_source_interrupt(source->lanes[i]);
    }
    source->opener = lane_opener_free(source->opener);
    source->watch = watch_free(source->watch);
    for (unsigned i = 0; i < LANES_MAX; i++) {
        source->lanes[i] = lane_source_free(source->lanes[i]);
        source->lane_streams[i] = stream_free(source->lane_streams[i]);
    }
    struct source_mail mail;
    while (mailbox_try_take(source->mailbox, &mail))
        discard_mail(&mail);
}

static void stop_tracking(struct source *source)
{
    struct guest *guest = source->config.guest;
    for (unsigned i = 0; i < guest->region_count; i++) {
        if (source->regions[i].tracking)
            guest->regions[i].ops->track_stop(&guest->regions[i]);
        source->regions[i].tracking = false;
    }
}

static void finish_receipt(struct source *source, uint64_t control_cpu_ns,
                           uint64_t control_wire_bytes, uint64_t now_ns)
{
    struct receipt *receipt = &source->receipt;
    Godwit__MoveReceipt *to = &receipt->message;
    uint64_t cpu_ns = control_cpu_ns + world_thread_cpu_ns(), digest = source->memory_digest;
    for (unsigned i = 0; i < LANES_MAX; i++)
        cpu_ns += source->lane_cpu_ns[i];

    receipt_finish(receipt, &source->core, now_ns);
    to->move_id = source->move_id;
    to->vm_id = (char *)source->config.guest->vm_id;
#define FILL(field, value) (to->has_##field = 1, to->field = (value))
    FILL(wire_bytes, progress_wire_bytes(&source->progress) + control_wire_bytes);
    FILL(lanes, source->lanes_open);
    FILL(source_cpu_ns, cpu_ns);
    FILL(target_cpu_ns, source->target_cpu_ns);
    FILL(populate_ns, source->populate_ns);
    FILL(predicted_total_ns, source->predicted_total_ns);
    if (to->moved) {
        FILL(digest_pages, total_pages(source->config.guest));
        FILL(memory_digest, digest);
        FILL(reread_verified, source->reread);
    }
#undef FILL
}

static void finish(struct source *source)
{
    uint64_t ended_ns = world_now_ns();
    uint64_t control_cpu_ns = 0, control_wire_bytes = 0;
    if (source->control) {
        control_cpu_ns = control_lane_cpu_ns(source->control);
        control_wire_bytes = control_lane_wire_bytes(source->control);
    }
    stop_threads(source);
    source->control = control_lane_free(source->control);
    stop_tracking(source);
    /* No step can change the core any more: it has ended. */
    finish_receipt(source, control_cpu_ns, control_wire_bytes, ended_ns);
    tell_progress(source, world_now_ns());
    source->config.on_ended(source->config.data, source->core.phase, &source->receipt.message,
                            source->core.fault.code ? &source->core.fault : NULL);
}

static void *source_run(void *data)
{
    struct source *source = data;
    thread_take_short_turns();
    do_todo(source);
    while (!source->finished) {
        turn(source);
        do_todo(source);
    }
    finish(source);
    return NULL;
}

/* ---- the door ------------------------------------------------------------------------------- */

/* Half the cores, since the guest and the other end need some too; beyond 8 a lane adds little: one
 * carries 1 GB/s and more. With two cores one lane is best (measured: two cost 5 to 10 %). */
static unsigned default_lanes(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned lanes = cores < 2 ? 1 : (unsigned)cores / 2;
    return lanes < LANES_DEFAULT_MAX ? lanes : LANES_DEFAULT_MAX;
}

static int resolve_compress(const char *word, enum page_tuner_policy *ret_policy,
                            struct fault *fault)
{
    if (!word || !word[0] || strcmp(word, "auto") == 0)
        *ret_policy = PAGE_TUNER_AUTO;
    else if (strcmp(word, "off") == 0)
        *ret_policy = PAGE_TUNER_OFF;
    else if (strcmp(word, "lz4") == 0)
        *ret_policy = PAGE_TUNER_ALWAYS;
    else
        return fault_set(fault, ERR_INVALID, "compress '%s': auto, off or lz4", word);
    return 0;
}

static int resolve_policy(const char *word, enum source_policy *ret_policy, struct fault *fault)
{
    if (!word || !word[0] || strcmp(word, "balanced") == 0)
        *ret_policy = SOURCE_POLICY_BALANCED;
    else if (strcmp(word, "gentle") == 0)
        *ret_policy = SOURCE_POLICY_GENTLE;
    else if (strcmp(word, "finish") == 0)
        *ret_policy = SOURCE_POLICY_FINISH;
    else
        return fault_set(fault, ERR_INVALID, "policy '%s': gentle, balanced or finish", word);
    return 0;
}

static int resolve_goals(struct source *source, const Godwit__MoveGoals *goals, struct fault *fault)
{
    const Godwit__MoveGoals none = GODWIT__MOVE_GOALS__INIT;
    if (!goals)
        goals = &none;
    struct source_core_config core = {
        .generation = source->config.generation,
        .downtime_ns_max = goals->downtime_ns_max ? goals->downtime_ns_max : DOWNTIME_NS_DEFAULT,
        .deadline_ms = goals->deadline_ms,
        .vcpus = source->config.guest->vcpus,
        .memory_pages = total_pages(source->config.guest),
        .bandwidth_bytes_per_s = goals->bandwidth_bytes_per_s,
        .reread = goals->verify_reread,
        .trace = trace,
        .trace_data = source,
    };
    int r = resolve_policy(goals->policy, &core.policy, fault);
    if (r == 0)
        r = resolve_compress(goals->compress, &source->compress, fault);
    if (r < 0)
        return r;
    source->downtime_ns_max = core.downtime_ns_max;
    source->bandwidth_bytes_per_s = core.bandwidth_bytes_per_s;
    source->reread = core.reread;
    unsigned lanes = goals->lanes ? goals->lanes : default_lanes();
    if (lanes > source->config.lanes)
        lanes = source->config.lanes;
    if (lanes < 1 || lanes > LANES_MAX)
        return fault_set(fault, ERR_INVALID, "%u lanes, 1 to %d may be", lanes, LANES_MAX);
    source->lanes_wanted = lanes;
    source_core_init(&source->core, &core);
    return 0;
}

static int alloc_regions(struct source *source, struct fault *fault)
{
    const struct guest *guest = source->config.guest;
    if (guest->region_count < 1 || guest->region_count > REGIONS_MAX)
        return fault_set(fault, ERR_INVALID, "%u regions, 1 to %d may be", guest->region_count,
                         REGIONS_MAX);
    source->regions = calloc(guest->region_count, sizeof *source->regions);
    source->digests = calloc(guest->region_count, sizeof *source->digests);
    if (!source->regions || !source->digests)
        return fault_set(fault, ERR_NOMEM, "no memory for %u regions", guest->region_count);
    for (unsigned i = 0; i < guest->region_count; i++) {
        const struct region *region = &guest->regions[i];
        struct source_region *own = &source->regions[i];
        if (bitmap_init(&own->dirty, region->pages) < 0 ||
            bitmap_init(&own->populated, region->pages) < 0 ||
            bitmap_init(&own->scratch, region->pages) < 0)
            return fault_set(fault, ERR_NOMEM, "no memory for the bitmaps of region '%s'",
                             region->name);
        int r = page_digest_init(&source->digests[i], region, fault);
        if (r < 0)
            return r;
        source->batches_max += (region->pages + BLOCK_PAGES - 1) / BLOCK_PAGES;
    }
    source->batches = calloc(source->batches_max, sizeof *source->batches);
    if (!source->batches)
        return fault_set(fault, ERR_NOMEM, "no memory for the batches of a round");
    return 0;
}

static void source_freep(struct source **source)
{
    *source = source_free(*source);
}

int source_new(struct source **ret_source, const struct source_config *config, struct fault *fault)
{
    struct source *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return fault_set(fault, ERR_NOMEM, "no memory for a move");
    pthread_mutex_init(&fresh->mutex, NULL);
    receipt_init(&fresh->receipt);
    AUTO(source_freep) struct source *source = fresh;

    source->config = *config;
    source->config.goals = NULL;
    int r = resolve_goals(source, config->goals, fault);
    if (r == 0)
        r = alloc_regions(source, fault);
    if (r < 0)
        return r;
    source->move_id = strdup(config->move_id);
    source->target_incarnation = strdup(config->target_incarnation);
    source->config.move_id = source->move_id;
    source->config.target_incarnation = source->target_incarnation;
    if (!source->move_id || !source->target_incarnation ||
        pacer_new(&source->pacer, source->bandwidth_bytes_per_s) < 0 ||
        mailbox_new(&source->mailbox, MAIL_SLOTS, sizeof(struct source_mail)) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for a move");
    *ret_source = TAKE(source);
    return 0;
}

int source_start(struct source *source, struct fault *fault)
{
    assert(!source->started);
    int r = watch_new(&source->watch, on_watch_expired, source, fault);
    if (r < 0)
        return r;
    feed_type(source, SOURCE_EVENT_START); /* now, so that a verdict can be given at once */
    int error = pthread_create(&source->thread, NULL, source_run, source);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a move");
    source->started = true;
    return 0;
}

struct source *source_free(struct source *source)
{
    if (!source)
        return NULL;
    if (source->started) {
        /* A move that gave its guest away and is freed all the same may not resume it: its memory
         * is dropped, and the latch says so. */
        if (source_verdict(source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL, 0,
                           "the process ends", NULL) < 0)
            (void)source_verdict(source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP, 0, NULL,
                                 NULL);
        pthread_join(source->thread, NULL);
    }
    source->watch = watch_free(source->watch);
    source->mailbox = mailbox_free(source->mailbox);
    source->pacer = pacer_free(source->pacer);
    for (unsigned i = 0; source->regions && i < source->config.guest->region_count; i++) {
        bitmap_deinit(&source->regions[i].dirty);
        bitmap_deinit(&source->regions[i].populated);
        bitmap_deinit(&source->regions[i].scratch);
    }
    for (unsigned i = 0; source->digests && i < source->config.guest->region_count; i++)
        page_digest_deinit(&source->digests[i]);
    receipt_deinit(&source->receipt);
    pthread_mutex_destroy(&source->mutex);
    free(source->batches);
    free(source->regions);
    free(source->digests);
    free(source->machine);
    free(source->target_incarnation);
    free(source->move_id);
    free(source);
    return NULL;
}

static int verdict_event(Godwit__MoveVerdictKind kind, enum source_event_type *ret_type)
{
    switch (kind) {
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL:
        *ret_type = SOURCE_EVENT_VERDICT_CANCEL;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED:
        *ret_type = SOURCE_EVENT_VERDICT_STARTED;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON:
        *ret_type = SOURCE_EVENT_VERDICT_ABANDONED;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME:
        *ret_type = SOURCE_EVENT_VERDICT_RESUME;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP:
        *ret_type = SOURCE_EVENT_VERDICT_DROP;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE:
    case _GODWIT__MOVE_VERDICT_KIND_IS_INT_SIZE:
        break;
    }
    return ERR_STATE;
}

int source_verdict(struct source *source, Godwit__MoveVerdictKind kind, uint64_t generation,
                   const char *reason, struct fault *fault)
{
    struct source_event event = {.now_ns = world_now_ns(), .generation = generation};
    if (verdict_event(kind, &event.type) < 0)
        return fault_set(fault, ERR_STATE, "this verdict is not for a source");
    struct fault words = {0};
    if (kind == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL) {
        (void)fault_set(&words, ERR_CANCELED, "cancelled%s%s", reason && reason[0] ? ": " : "",
                        reason ? reason : "");
        event.fault = &words;
    }

    unsigned todo = 0;
    pthread_mutex_lock(&source->mutex);
    int r = source_core_step(&source->core, &event, &todo, fault);
    merge_todo(source, todo);
    if (r == 0 && todo)
        watch_hurry(source->watch); /* lives as long as the core has not ended */
    pthread_mutex_unlock(&source->mutex);
    if (r == 0)
        mailbox_poke(source->mailbox);
    return r;
}
