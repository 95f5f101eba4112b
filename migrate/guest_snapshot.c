/* protect all -> settle -> prepare -> [pause: fix, save, capture] -> copy, released block by block
 * -> tail.
 *
 * Pages that the guest wanted to write before their turn come first: while they wait in the keeper
 * they hold room that other writers may need. */
#include "migrate/guest_snapshot.h"

#include <assert.h>
#include <stdlib.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/guest_file_writer.h"
#include "migrate/page_keeper.h"
#include "migrate/region.h"
#include "proto/limits.h"

enum { RAM = 0 };

struct snapshot_job {
    const struct guest_snapshot_config *config;
    struct guest *guest;
    struct region *ram;
    struct page_keeper *keeper; /* NULL: without memory */
    struct guest_file_writer writer;
    struct bitmap populated;
    uint8_t *machine; /* owned */
    size_t machine_bytes;
    uint64_t pause_ns;
    struct guest_snapshot_pause parts;
};

/* The time since `*from_ns`, which becomes now. */
static uint64_t lap(uint64_t *from_ns)
{
    uint64_t now_ns = world_now_ns(), took_ns = now_ns - *from_ns;

    *from_ns = now_ns;
    return took_ns;
}

/* ---- up to the instant ---- */
static int protect(struct snapshot_job *job, struct fault *fault)
{
    if (bitmap_init(&job->populated, job->ram->pages) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    int r = page_keeper_new(&job->keeper, job->ram->base, job->ram->pages, fault);
    if (r == 0)
        r = page_keeper_protect(job->keeper, fault);
    if (r == 0)
        r = job->ram->ops->populated(job->ram, &job->populated, fault);
    return r;
}

static int at_rest(struct snapshot_job *job, uint64_t *lap_ns, struct fault *fault)
{
    struct guest *guest = job->guest;
    int r = 0;

    if (job->keeper)
        r = page_keeper_fix(job->keeper, &job->populated, fault);
    job->parts.protect_ns = lap(lap_ns);
    if (r == 0 && job->keeper) {
        r = guest->ops->save(guest->owner, &job->machine, &job->machine_bytes, fault);
        if (r < 0)
            return fault_wrap(fault, r, "saving the machine");
    }
    job->parts.save_ns = lap(lap_ns);
    if (r == 0 && job->config->capture)
        r = job->config->capture(job->config->data, fault);
    job->parts.capture_ns = lap(lap_ns);
    return r;
}

static int stand_still(struct snapshot_job *job, struct fault *fault)
{
    struct guest *guest = job->guest;
    struct fault words = {0};

    thread_hurry();
    uint64_t begun_ns = world_now_ns(), lap_ns = begun_ns;
    guest->ops->pause(guest->owner);
    job->parts.stop_ns = lap(&lap_ns);
    int r = at_rest(job, &lap_ns, fault);
    int again = guest->was_running ? guest->ops->resume(guest->owner, &words) : 0;
    job->parts.resume_ns = lap(&lap_ns);
    job->pause_ns = lap_ns - begun_ns;
    if (r == 0 && again < 0) {
        *fault = words;
        return fault_wrap(fault, again, "letting the guest run on");
    }
    return r;
}

/* ---- after it ---- */
static int write_kept(struct snapshot_job *job, struct fault *fault)
{
    struct guest_file_writer *writer = &job->writer;
    const uint8_t *bytes;
    uint64_t page = 0;
    int r = 0;

    while (r == 0 && (bytes = page_keeper_take_kept(job->keeper, &page))) {
        guest_file_writer_begin(writer, RAM, page / BLOCK_PAGES * BLOCK_PAGES);
        guest_file_writer_take(writer, (unsigned)(page % BLOCK_PAGES), bytes);
        page_keeper_drop_kept(job->keeper);
        r = guest_file_writer_flush(writer, fault);
    }
    return r;
}

static int write_block(struct snapshot_job *job, uint64_t block, struct fault *fault)
{
    struct guest_file_writer *writer = &job->writer;
    uint64_t left = job->ram->pages - block;
    unsigned count = left < BLOCK_PAGES ? (unsigned)left : BLOCK_PAGES;
    int r = 0;

    guest_file_writer_begin(writer, RAM, block);
    for (unsigned i = 0; r == 0 && i < count; i++) {
        if (!page_keeper_begin_copy(job->keeper, block + i))
            continue;
        guest_file_writer_take(writer, i, job->ram->base + (block + i) * PAGE_BYTES);
        page_keeper_end_copy(job->keeper, block + i);
        if (guest_file_writer_is_full(writer))
            r = guest_file_writer_flush(writer, fault);
    }
    if (r == 0)
        r = guest_file_writer_flush(writer, fault);
    return r < 0 ? r : page_keeper_release(job->keeper, block, count, fault);
}

static int copy_memory(struct snapshot_job *job, struct fault *fault)
{
    int r = 0;

    for (uint64_t block = 0; r == 0 && block < job->ram->pages; block += BLOCK_PAGES) {
        r = guest_file_writer_check(&job->writer, fault);
        if (r == 0)
            r = write_kept(job, fault);
        if (r == 0)
            r = write_block(job, block, fault);
    }
    if (r == 0)
        r = write_kept(job, fault); /* nothing is left to be put aside */
    return r < 0 ? r : page_keeper_check(job->keeper, fault);
}

static int write_rest(struct snapshot_job *job, struct guest_file_counts *ret_counts,
                      struct fault *fault)
{
    int r = 0;

    for (unsigned i = RAM + 1; r == 0 && i < job->guest->region_count; i++) {
        r = guest_file_writer_region(&job->writer, i, fault);
        job->guest->regions[i].ops->track_stop(&job->guest->regions[i], true);
    }
    return r < 0 ? r
                 : guest_file_writer_finish(&job->writer, job->machine, job->machine_bytes,
                                            ret_counts, fault);
}

static int take_with_memory(struct snapshot_job *job, struct guest_snapshot_result *result,
                            struct fault *fault)
{
    const struct guest_snapshot_config *config = job->config;

    int r = protect(job, fault);
    if (r == 0 && config->prepare)
        r = config->prepare(config->data, fault);
    if (r == 0)
        r = page_keeper_settle(job->keeper, fault);
    if (r == 0)
        r = stand_still(job, fault);
    thread_give_way();
    if (r == 0)
        r = copy_memory(job, fault);
    if (job->keeper)
        result->put_aside_pages = page_keeper_counts(job->keeper).put_aside;
    job->keeper = page_keeper_free(job->keeper); /* writes are free again */
    thread_hurry();
    return r < 0 ? r : write_rest(job, &result->file, fault);
}

static int take_without(struct snapshot_job *job, struct fault *fault)
{
    const struct guest_snapshot_config *config = job->config;

    int r = config->prepare ? config->prepare(config->data, fault) : 0;
    return r < 0 ? r : stand_still(job, fault);
}

int guest_snapshot_take(const struct guest_snapshot_config *config,
                        struct guest_snapshot_result *ret_result, struct fault *fault)
{
    struct guest *guest = config->guest;
    struct snapshot_job job = {.config = config, .guest = guest, .ram = &guest->regions[RAM]};
    struct guest_snapshot_result result = {0};
    int r;

    if (config->fd < 0) {
        r = take_without(&job, fault);
    } else {
        r = guest_file_writer_init(&job.writer, guest, config->label, config->fd,
                                   config->is_stopped, fault);
        if (config->hold_memory)
            config->hold_memory(config->data, true);
        if (r == 0)
            r = take_with_memory(&job, &result, fault);
        if (config->hold_memory)
            config->hold_memory(config->data, false);
        guest_file_writer_deinit(&job.writer);
    }
    bitmap_deinit(&job.populated);
    free(job.machine);
    if (r < 0)
        return r;
    result.pause_ns = job.pause_ns;
    result.parts = job.parts;
    *ret_result = result;
    return 0;
}
