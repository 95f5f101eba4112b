/* The source's part of post-copy: what is left behind at the switchover, and how it is given later.
 *
 *      stand by: all that is dirty by then -> missing, while the guest still runs
 *      pause:    what became dirty since   -> missing; the lanes carry what cannot be left behind
 *      state:    asks are answered from now on (a load may touch a page)
 *      transfer: the rest is pushed
 *      fetched:  the target has all, its digest is ours -> released
 *
 * Of a page that is left behind the target gives up what it had, and both digests count zero for it
 * until it has come: so READY compares what is there, FETCHED compares all.
 */
#include "migrate/source_inside.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/mailbox.h"
#include "migrate/page_digest.h"
#include "migrate/page_server.h"
#include "net/stream.h"
#include "proto/move_frame.h"

bool source_post_is_on(struct source *source)
{
    pthread_mutex_lock(&source->mutex);
    bool on = source->core.postcopy;
    pthread_mutex_unlock(&source->mutex);
    return on;
}

int source_post_init(struct source *source, struct fault *fault)
{
    const struct guest *guest = source->config.guest;
    source->unsent = calloc(guest->region_count, sizeof *source->unsent);
    if (!source->unsent)
        return fault_set(fault, ERR_NOMEM, "no memory for what is left behind");
    for (unsigned i = 0; i < guest->region_count; i++) {
        if (bitmap_init(&source->unsent[i], guest->regions[i].pages) < 0)
            return fault_set(fault, ERR_NOMEM, "no memory for what is left behind of region '%s'",
                             guest->regions[i].name);
    }
    return 0;
}

int source_post_take_welcome(struct source *source, const Godwit__MoveWelcome *welcome,
                             struct fault *fault)
{
    bool greets = source_current_phase(source) == PHASE_GREET; /* else the core judges it */
    if (!greets || !source->post_wanted || welcome->takes_postcopy)
        return 0;
    if (source->core.config.postcopy) /* never changes */
        return fault_set(fault, ERR_UNSUPPORTED,
                         "the target's version knows no post-copy: move it without --postcopy");
    const char *why = welcome->postcopy_refused;
    free(source->post_refused);
    source->post_refused = strdup(why && why[0] ? why : "the target's version knows no post-copy");
    source->post_wanted = 0;
    return 0;
}

void source_post_deinit(struct source *source)
{
    for (unsigned i = 0; source->unsent && i < source->config.guest->region_count; i++)
        bitmap_deinit(&source->unsent[i]);
    free(source->unsent);
}

/* ---- what is left behind -------------------------------------------------------------------- */

static bool may_leave(const struct source *source, unsigned region)
{
    const struct region *of = &source->config.guest->regions[region];
    return of->ops->discard && !of->shared_id;
}

/* What is dirty of the regions that may wait goes over to `unsent`, and `fresh` says what is new.
 */
static uint64_t take_dirty(struct source *source, unsigned i, struct bitmap *fresh)
{
    struct bitmap *dirty = &source->regions[i].dirty, *unsent = &source->unsent[i];
    uint64_t pages = 0;
    for (size_t j = 0; j < bitmap_words(dirty); j++) {
        uint64_t word = dirty->words[j] & ~unsent->words[j];
        fresh->words[j] = word;
        unsent->words[j] |= word;
        dirty->words[j] = 0;
        for (; word; word &= word - 1, pages++) {
            uint64_t page = j * 64 + (unsigned)__builtin_ctzll(word);
            page_digest_set(&source->digests[i], page, 0, &source->post_sum);
        }
    }
    return pages;
}

static int leave_region(struct source *source, unsigned i, bool always, struct fault *fault)
{
    AUTO(bitmap_deinit) struct bitmap fresh = {0};
    if (bitmap_init(&fresh, source->unsent[i].bits) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for what is left behind");
    uint64_t pages = take_dirty(source, i, &fresh);
    source->post_pages += pages;
    if (pages || always)
        source_words_send_missing(source, i, &fresh);
    return 0;
}

static int leave_behind(struct source *source, bool always, struct fault *fault)
{
    int r = 0;
    for (unsigned i = 0; i < source->config.guest->region_count && r == 0; i++) {
        if (may_leave(source, i)) {
            r = leave_region(source, i, always, fault);
            always = false;
        }
    }
    return r;
}

/* ---- serving -------------------------------------------------------------------------------- */

static void on_report(void *data, const struct page_server_report *report)
{
    struct source *source = data;
    struct source_mail mail = {
        .type = MAIL_SERVER, .fault = report->fault, .report.cpu_ns = report->cpu_ns};
    (void)mailbox_put(source->mailbox, &mail);
}

static int start_server(struct source *source, struct fault *fault)
{
    const struct page_server_config config = {
        .regions = source->config.guest->regions,
        .digests = source->digests,
        .unsent = source->unsent,
        .region_count = source->config.guest->region_count,
        .pacer = source->pacer,
        .progress = &source->progress,
        .compress = source->takes_packed_postcopy ? source->compress : PAGE_TUNER_OFF,
        .takes_zstd = source->takes_zstd,
        .report = on_report,
        .data = source,
    };
    int r = page_server_new(&source->server, &config, source->post_streams[0],
                            source->post_streams[1], fault);
    if (r == 0)
        source->post_streams[0] = source->post_streams[1] = NULL;
    source->server_ended = 0;
    return r;
}

int source_post_stand_by(struct source *source, struct fault *fault)
{
    return leave_behind(source, true, fault);
}

int source_post_pause(struct source *source, struct fault *fault)
{
    int r = leave_behind(source, false, fault);
    return r < 0 ? r : start_server(source, fault);
}

void source_post_go(struct source *source)
{
    struct fault fault = {0};
    progress_begin_round(&source->progress, source->post_pages, world_now_ns());
    if (page_server_go(source->server, &fault) < 0)
        source_feed_fault(source, SOURCE_EVENT_LANE_LOST, &fault);
}

void source_post_interrupt(struct source *source)
{
    if (source->server)
        page_server_interrupt(source->server);
}

bool source_post_has_ended(const struct source *source)
{
    return !source->server || source->server_ended == page_server_lanes(source->server);
}

void source_post_free(struct source *source)
{
    if (source->server) {
        source->served_sum += page_server_digest(source->server);
        source->server = page_server_free(source->server);
    }
    for (unsigned i = 0; i < PAGE_SERVER_LANES; i++)
        source->post_streams[i] = stream_free(source->post_streams[i]);
    source->post_open = 0;
}

void source_post_take_report(struct source *source, const struct source_mail *mail)
{
    source->server_ended++;
    source->before_cpu_ns += mail->report.cpu_ns;
    if (source_reconnect_took_end(source))
        return;
    source_feed_fault(source, SOURCE_EVENT_LANE_LOST, &mail->fault); /* whatever ended it */
}

/* ---- coming back ---------------------------------------------------------------------------- */

void source_post_forget(struct source *source)
{
    for (unsigned i = 0; source->unsent && i < source->config.guest->region_count; i++)
        bitmap_clear_all(&source->unsent[i]);
}

uint64_t source_post_unsent(const struct source *source)
{
    uint64_t pages = 0;
    for (unsigned i = 0; source->unsent && i < source->config.guest->region_count; i++)
        pages += bitmap_count(&source->unsent[i]);
    return pages;
}

/* What it lacks is what it lost of us: never more than was left behind. */
int source_post_take_missing(struct source *source, const Godwit__MoveMissing *missing,
                             struct fault *fault)
{
    const struct guest *guest = source->config.guest;
    unsigned i = 0;
    while (i < guest->region_count && guest->regions[i].id != missing->region)
        i++;
    size_t words = missing->bits.len / 8;
    if (i == guest->region_count || !may_leave(source, i) ||
        missing->first_page / 64 + words > bitmap_words(&source->unsent[i]))
        return fault_set(fault, ERR_CORRUPT, "the target lacks pages that the guest does not have");
    struct bitmap *unsent = &source->unsent[i];
    for (size_t j = 0; j < words; j++)
        unsent->words[missing->first_page / 64 + j] = bytes_get_u64(missing->bits.data + j * 8);
    uint64_t tail = unsent->bits % 64, last = unsent->words[bitmap_words(unsent) - 1];
    if (tail && last >> tail)
        return fault_set(fault, ERR_CORRUPT, "the target lacks pages behind the guest's last one");
    return 0;
}

int source_post_rejoin(struct source *source, struct fault *fault)
{
    int r = start_server(source, fault);
    return r < 0 ? r : page_server_go(source->server, fault);
}

/* ---- the end -------------------------------------------------------------------------------- */

uint64_t source_post_digest(const struct source *source)
{
    return source->memory_digest + source->served_sum +
           (source->server ? page_server_digest(source->server) : 0);
}

int source_post_take_fetched(struct source *source, const Godwit__MoveFetched *fetched,
                             struct fault *fault)
{
    if (!source_post_is_on(source))
        return fault_set(fault, ERR_CORRUPT, "the target fetched pages, and none was left behind");
    uint64_t digest = source_post_digest(source);
    if (fetched->memory_digest != digest || fetched->pages != source->post_pages)
        return fault_set(fault, ERR_CORRUPT,
                         "the target fetched %llu pages and has digest %016llx, %llu were left "
                         "behind and it should be %016llx",
                         (unsigned long long)fetched->pages,
                         (unsigned long long)fetched->memory_digest,
                         (unsigned long long)source->post_pages, (unsigned long long)digest);
    source->fetched_ns = world_now_ns();
    source->faults = fetched->faults;
    source->fault_p50_ns = fetched->fault_p50_ns;
    source->fault_p99_ns = fetched->fault_p99_ns;
    if (fetched->cpu_ns > source->target_cpu_ns)
        source->target_cpu_ns = fetched->cpu_ns;
    return 0;
}
