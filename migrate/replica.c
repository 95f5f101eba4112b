/* One link at a time:
 *
 *      accept --> HELLO: who, generation --> WELCOME: what is held
 *        ^          PAGES, PAGES, ... STATE   staged
 *        |          COMMIT --> judge --> journal: durable --> RAM --> HELD --> disks
 *        `--------- any failure: what was arriving is forgotten
 *
 * `lock` guards the core and what belongs to the held checkpoint. It is held from COMMIT's
 * judgement until RAM and journal are the new one, and while the journal goes into the disks, so
 * whoever takes the guest finds one or the other. */
#include "migrate/replica.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/region.h"
#include "migrate/replica_copy.h"
#include "migrate/replica_core.h"
#include "migrate/replica_journal.h"
#include "migrate/replica_stage.h"
#include "migrate/watch.h"
#include "net/stream.h"

enum { ACCEPT_MS = 1000, DISKS_OF_REPLICA_MAX = DISKS_MAX + 1 };

struct replica {
    /* set before start, read by all */
    struct replica_config config;
    struct replica_disk disks[DISKS_OF_REPLICA_MAX];
    uint64_t disk_bytes[DISKS_OF_REPLICA_MAX];
    int fds[1 + DISKS_OF_REPLICA_MAX]; /* journal, disks: as its io wants them */
    char shape[REPLICA_SHAPE_MAX];
    pthread_t thread;
    bool started;

    /* the replica's thread */
    struct replica_stage *stage;
    struct replica_journal *journal; /* NULL: no disks */
    struct watch *watch;             /* of the link */
    uint64_t silent_ms_max;
    uint8_t *next_state;
    size_t next_state_bytes;
    bool in_checkpoint;
    uint8_t *block; /* a block of a disk, then a HAVE's body; allocated when it is asked for */

    pthread_mutex_t lock; /* guards all below */
    struct replica_core core;
    struct stream *link; /* to interrupt; NULL: none */
    unsigned unlinks;    /* how often somebody wanted it gone */
    uint8_t *state;
    size_t state_bytes;
    struct replica_status status;
    struct replica_copy *copy; /* of what is held: it sees what changes it first; NULL: none is made */
    bool stopping;
};

int replica_shape(const char *who, const struct region *regions, unsigned region_count,
                  const struct replica_disk *disks, unsigned disk_count,
                  char ret_shape[static REPLICA_SHAPE_MAX], struct fault *fault)
{
    FILE *text = fmemopen(ret_shape, REPLICA_SHAPE_MAX, "w");
    if (!text)
        return fault_set(fault, ERR_NOMEM, "no memory for a replica's shape");
    (void)fprintf(text, "version 2: %s;", who); /* a text that is too long shows in fclose */
    for (unsigned i = 0; i < region_count; i++)
        (void)fprintf(text, " ram %u of %llu pages;", regions[i].id,
                      (unsigned long long)regions[i].pages);
    for (unsigned i = 0; i < disk_count; i++)
        (void)fprintf(text, " disk %u of %llu bytes;", disks[i].region_id,
                      (unsigned long long)disks[i].bytes);
    bool failed = ferror(text) != 0;
    if (fclose(text) != 0 || failed || strnlen(ret_shape, REPLICA_SHAPE_MAX) >= REPLICA_SHAPE_MAX)
        return fault_set(fault, ERR_LIMIT, "too many regions for a replica");
    return 0;
}

/* ---- one segment ---- */
static void arm(struct replica *replica, uint64_t ms)
{
    watch_arm(replica->watch, world_now_ns() + ms * NS_PER_MS);
}

static int send_segment(struct replica *replica, struct stream *link, enum replica_frame_type type,
                        uint64_t seq, const void *body, size_t count, struct fault *fault)
{
    uint8_t head[REPLICA_FRAME_HEAD_BYTES];
    const struct replica_frame frame = {
        .type = type,
        .id = {replica->core.generation, replica->core.session, seq},
        .body_bytes = (uint32_t)count,
        .body_check = replica_frame_check(body, count),
    };
    replica_frame_put(&frame, head);
    int r = stream_write(link, head, sizeof head, fault);
    if (r == 0 && count)
        r = stream_write(link, body, count, fault);
    return r < 0 ? r : stream_flush(link, fault);
}

static int judge(struct replica *replica, const struct replica_frame *frame, struct fault *fault)
{
    (void)pthread_mutex_lock(&replica->lock);
    int r = replica_core_judge(&replica->core, frame, fault);
    replica->status.is_linked = r == 0;
    (void)pthread_mutex_unlock(&replica->lock);
    return r;
}

/* The body of anything but PAGES: gives malloc'ed bytes. */
static int read_body(struct stream *link, const struct replica_frame *frame, uint8_t **ret_body,
                     struct fault *fault)
{
    AUTO_FREE uint8_t *body = malloc(frame->body_bytes + (size_t)1);
    if (!body)
        return fault_set(fault, ERR_NOMEM, "no memory for a segment of %u bytes",
                         frame->body_bytes);
    int r = stream_read(link, body, frame->body_bytes, fault);
    if (r == 0)
        r = replica_frame_judge(frame, body, fault);
    if (r < 0)
        return r;
    body[frame->body_bytes] = 0;
    *ret_body = TAKE(body);
    return 0;
}

/* Is there anything to lose? */
static bool holds(const struct replica *replica)
{
    return replica->core.held.id.seq != 0 ||
           (replica->journal && replica_journal_held(replica->journal)->held.id.seq != 0);
}

static int begin_checkpoint(struct replica *replica, const struct replica_id *id,
                            struct fault *fault)
{
    if (replica->in_checkpoint)
        return 0;
    int r = replica_stage_begin(replica->stage, id, holds(replica), fault);
    replica->in_checkpoint = r == 0;
    return r;
}

static int on_pages(struct replica *replica, struct stream *link, const struct replica_frame *frame,
                    struct fault *fault)
{
    int r = begin_checkpoint(replica, &frame->id, fault);
    return r < 0 ? r : replica_stage_frame(replica->stage, frame->body_bytes, link, fault);
}

static int on_state(struct replica *replica, struct stream *link, const struct replica_frame *frame,
                    struct fault *fault)
{
    uint8_t *body = NULL;
    int r = begin_checkpoint(replica, &frame->id, fault);
    if (r == 0)
        r = read_body(link, frame, &body, fault);
    if (r < 0)
        return r;
    free(replica->next_state);
    replica->next_state = body;
    replica->next_state_bytes = frame->body_bytes;
    return 0;
}

/* ---- a checkpoint ---- */
/* Under the lock. */
static void keep(struct replica *replica, const struct replica_id *id,
                 const struct replica_commit *commit, uint64_t sum)
{
    for (unsigned i = 0; replica->copy && i < replica->config.region_count; i++) {
        const struct bitmap *pages = replica_stage_named(replica->stage, i);
        if (pages)
            replica_copy_before_pages(replica->copy, i, pages);
    }
    replica_stage_apply(replica->stage);
    free(replica->state);
    replica->state = TAKE(replica->next_state);
    replica->state_bytes = replica->next_state_bytes;
    replica_core_kept(&replica->core, sum);
    replica->status.held = *id;
    replica->status.held_wall_ms = commit->wall_ms;
    replica->status.held_ns = world_now_ns();
    replica->status.sum = sum;
    replica->status.checkpoints++;
    replica->status.bytes_kept += replica_stage_kept_pages(replica->stage) * PAGE_BYTES;
}

static int judge_commit(struct replica *replica, const struct replica_frame *frame,
                        const struct replica_commit *commit, struct replica_journal_held *ret_held,
                        struct fault *fault)
{
    uint64_t state = replica->next_state
                         ? replica_frame_digest(replica->next_state, replica->next_state_bytes)
                         : 0;
    if (replica->core.phase == REPLICA_TAKEN)
        return fault_set(fault, ERR_REFUSED, "the guest was taken over here");
    if (state != commit->state)
        return fault_set(fault, ERR_CORRUPT, "the machine's state is not the one that was sent");
    ret_held->held.id = frame->id;
    ret_held->has_ram = replica->config.region_count != 0;
    return replica_stage_judge(replica->stage, commit, ret_held, fault);
}

static void tell_broken(struct replica *replica, const struct fault *fault)
{
    if (replica->config.on_broken)
        replica->config.on_broken(replica->config.data, fault);
}

/* Under the lock. *ret_broken: no more can be kept, whatever comes. */
static int commit(struct replica *replica, const struct replica_frame *frame,
                  const struct replica_commit *said, bool *ret_broken, struct fault *fault)
{
    struct replica_journal_held held = {0};

    int r = judge_commit(replica, frame, said, &held, fault);
    if (r < 0)
        return r;
    if (replica->journal) {
        *ret_broken =
            true; /* a sync that fails may have written or not: only a new reading tells */
        r = replica_journal_commit(replica->journal, &held, fault);
        if (r < 0)
            return r;
        *ret_broken = false;
    }
    keep(replica, &frame->id, said, held.held.sum);
    replica->in_checkpoint = false;
    return 0;
}

/* What the journal holds goes into the disks: not awaited by the source. */
static int settle(struct replica *replica, struct fault *fault)
{
    if (!replica->journal)
        return 0;
    (void)pthread_mutex_lock(&replica->lock);
    int r = replica_journal_apply(replica->journal, fault);
    if (r < 0)
        replica->stopping = replica->status.is_broken = true;
    (void)pthread_mutex_unlock(&replica->lock);
    return r;
}

static int on_commit(struct replica *replica, struct stream *link,
                     const struct replica_frame *frame, struct fault *fault)
{
    AUTO_FREE uint8_t *body = NULL;
    struct replica_commit said;
    bool is_broken = false;

    int r = begin_checkpoint(replica, &frame->id, fault);
    if (r == 0)
        r = read_body(link, frame, &body, fault);
    if (r == 0)
        r = replica_commit_get(body, &said, fault);
    if (r < 0)
        return r;
    watch_disarm(replica->watch); /* from here on it is our own disks that take their time */
    (void)pthread_mutex_lock(&replica->lock);
    r = commit(replica, frame, &said, &is_broken, fault);
    if (is_broken)
        replica->stopping = replica->status.is_broken = true;
    (void)pthread_mutex_unlock(&replica->lock);
    if (r < 0) {
        if (is_broken)
            tell_broken(replica, fault);
        return r;
    }
    struct fault unheard = {0}; /* then the source asks again what is held */
    int told = send_segment(replica, link, REPLICA_FRAME_HELD, frame->id.seq, "", 0, &unheard);
    if (replica->config.on_held)
        replica->config.on_held(replica->config.data, &frame->id);
    r = settle(replica, fault);
    if (r < 0) {
        tell_broken(replica, fault);
        return r;
    }
    if (told < 0)
        *fault = unheard;
    return told;
}

/* ---- a link ---- */
static int on_hello(struct replica *replica, struct stream *link, const struct replica_frame *frame,
                    struct fault *fault)
{
    AUTO_FREE uint8_t *body = NULL;
    uint8_t bytes[REPLICA_WELCOME_BYTES];

    int r = read_body(link, frame, &body, fault);
    if (r < 0)
        return r;
    if (strlen((const char *)body) != frame->body_bytes ||
        strcmp((const char *)body, replica->shape) != 0)
        return fault_set(fault, ERR_REFUSED, "a replica of '%.180s', not of '%.180s'",
                         replica->shape, (const char *)body);
    const struct replica_welcome welcome = {.held = replica->core.held,
                                            .tells_blocks = replica->journal != NULL};
    replica_welcome_put(&welcome, bytes);
    return send_segment(replica, link, REPLICA_FRAME_WELCOME, 0, bytes, sizeof bytes, fault);
}

/* ---- what the disks are ---- */
enum {
    BLOCK_BYTES = REPLICA_BLOCK_PAGES * PAGE_BYTES,
    HAVE_ROOM = (REPLICA_HAVE_HEAD_BYTES + REPLICA_HAVE_BLOCKS_MAX * REPLICA_BLOCK_DIGEST_BYTES + 63) /
                64 * 64,
};

static int send_have(struct replica *replica, struct stream *link,
                     const struct replica_blocks *blocks, struct fault *fault)
{
    uint8_t *body = replica->block + BLOCK_BYTES;

    replica_have_put(blocks, body);
    arm(replica, replica->silent_ms_max);
    int r = send_segment(
        replica, link, REPLICA_FRAME_HAVE, 0, body,
        REPLICA_HAVE_HEAD_BYTES + (size_t)blocks->count * REPLICA_BLOCK_DIGEST_BYTES, fault);
    watch_disarm(replica->watch);
    return r;
}

/* Where the file has holes nothing is: the next block of it that has something. */
static uint64_t skip_hole(int fd, uint64_t block)
{
    off_t data = lseek(fd, (off_t)(block * BLOCK_BYTES), SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? UINT64_MAX
                              : block; /* a hole to the end; or no holes are known here */
    return (uint64_t)data / BLOCK_BYTES;
}

static int read_block(struct replica *replica, unsigned disk, uint64_t block, size_t count,
                      struct fault *fault)
{
    int error = replica_journal_file_io.read(replica->fds, 1 + disk, replica->block, count,
                                             block * BLOCK_BYTES);
    if (error)
        return fault_set_errno(fault, ERR_IO, error, "reading disk %u of a replica", disk);
    memset(replica->block + count, 0, BLOCK_BYTES - count);
    return 0;
}

static int tell_disk(struct replica *replica, struct stream *link, unsigned disk,
                     struct fault *fault)
{
    uint64_t bytes = replica->disk_bytes[disk], all = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    struct replica_blocks blocks = {.region = replica->disks[disk].region_id};
    uint8_t *digests = replica->block + BLOCK_BYTES + REPLICA_HAVE_HEAD_BYTES;
    int r = 0;

    for (uint64_t block = 0; r == 0 && (block = skip_hole(replica->fds[1 + disk], block)) < all;
         block++) {
        uint64_t at = block * BLOCK_BYTES, left = bytes - at;
        size_t count = left < BLOCK_BYTES ? (size_t)left : BLOCK_BYTES;
        unsigned pages = (unsigned)((count + PAGE_BYTES - 1) / PAGE_BYTES);
        if (blocks.count &&
            (blocks.first + blocks.count != block || blocks.count == REPLICA_HAVE_BLOCKS_MAX)) {
            r = send_have(replica, link, &blocks, fault);
            blocks.count = 0;
        }
        if (r == 0)
            r = read_block(replica, disk, block, count, fault);
        if (r < 0)
            break;
        if (!blocks.count)
            blocks.first = block;
        uint8_t *digest = digests + (size_t)blocks.count++ * REPLICA_BLOCK_DIGEST_BYTES;
        if (replica_stage_see(replica->stage, disk, block * REPLICA_BLOCK_PAGES, pages,
                              replica->block, holds(replica)))
            replica_block_digest(replica->block, (size_t)pages * PAGE_BYTES, digest);
        else
            memset(digest, 0, REPLICA_BLOCK_DIGEST_BYTES);
    }
    return r == 0 && blocks.count ? send_have(replica, link, &blocks, fault) : r;
}

static int on_ask(struct replica *replica, struct stream *link, struct fault *fault)
{
    const struct replica_blocks end = {0};

    if (!replica->journal)
        return fault_set(fault, ERR_CORRUPT, "a question after disks, where there are none");
    if (!replica->block) /* aligned as pages of a region are */
        replica->block = aligned_alloc(64, BLOCK_BYTES + HAVE_ROOM);
    if (!replica->block)
        return fault_set(fault, ERR_NOMEM, "no memory to tell what is on disks");
    int r = 0;
    watch_disarm(replica->watch); /* reading takes as long as it does */
    for (unsigned i = 0; r == 0 && i < replica->config.disk_count; i++)
        r = tell_disk(replica, link, i, fault);
    return r < 0 ? r : send_have(replica, link, &end, fault);
}

static int on_kept(struct replica *replica, struct stream *link, const struct replica_frame *frame,
                   struct fault *fault)
{
    AUTO_FREE uint8_t *body = NULL;
    struct replica_blocks blocks;

    int r = begin_checkpoint(replica, &frame->id, fault);
    if (r == 0)
        r = read_body(link, frame, &body, fault);
    if (r == 0)
        r = replica_kept_get(body, &blocks, fault);
    return r < 0 ? r : replica_stage_keep(replica->stage, &blocks, fault);
}

static int on_refuse(struct stream *link, const struct replica_frame *frame, struct fault *fault)
{
    AUTO_FREE uint8_t *body = NULL;
    int r = read_body(link, frame, &body, fault);
    return r < 0 ? r : fault_set(fault, ERR_CLOSED, "the source went away: %.200s", (char *)body);
}

/* Between two checkpoints there is no hurry. */
static int read_head(struct replica *replica, struct stream *link,
                     uint8_t ret_head[static REPLICA_FRAME_HEAD_BYTES], struct fault *fault)
{
    if (replica->in_checkpoint)
        arm(replica, REPLICA_SLOW_TIMES * replica->silent_ms_max);
    int r = stream_read(link, ret_head, 1, fault);
    arm(replica, replica->silent_ms_max);
    return r < 0 ? r : stream_read(link, ret_head + 1, REPLICA_FRAME_HEAD_BYTES - 1, fault);
}

static int take_segment(struct replica *replica, struct stream *link, struct fault *fault)
{
    uint8_t head[REPLICA_FRAME_HEAD_BYTES];
    struct replica_frame frame;

    int r = read_head(replica, link, head, fault);
    if (r == 0)
        r = replica_frame_get(head, true, &frame, fault);
    if (r == 0)
        r = judge(replica, &frame, fault);
    if (r < 0)
        return r;
    (void)pthread_mutex_lock(&replica->lock);
    replica->status.bytes_in += sizeof head + frame.body_bytes;
    replica->status.arriving_pages = replica_stage_pages(replica->stage);
    (void)pthread_mutex_unlock(&replica->lock);
    switch (frame.type) {
    case REPLICA_FRAME_HELLO:
        return on_hello(replica, link, &frame, fault);
    case REPLICA_FRAME_PAGES:
        return on_pages(replica, link, &frame, fault);
    case REPLICA_FRAME_STATE:
        return on_state(replica, link, &frame, fault);
    case REPLICA_FRAME_COMMIT:
        return on_commit(replica, link, &frame, fault);
    case REPLICA_FRAME_REFUSE:
        return on_refuse(link, &frame, fault);
    case REPLICA_FRAME_ASK:
        return on_ask(replica, link, fault);
    case REPLICA_FRAME_KEPT:
        return on_kept(replica, link, &frame, fault);
    case REPLICA_FRAME_WELCOME:
    case REPLICA_FRAME_HELD:
    case REPLICA_FRAME_HAVE:
        break;
    }
    return fault_set(fault, ERR_CORRUPT, "a segment that only a replica sends");
}

static void watch_expired(void *data)
{
    struct replica *replica = data;

    (void)pthread_mutex_lock(&replica->lock);
    if (replica->link)
        stream_interrupt(replica->link);
    (void)pthread_mutex_unlock(&replica->lock);
}

/* Who sent what we do not take is told why: it may be an operator's mistake. */
static void tell_refusal(struct replica *replica, struct stream *link, const struct fault *why)
{
    struct fault ignored = {0};
    size_t count = strnlen(why->text, REPLICA_TEXT_MAX);

    if (why->code == ERR_CLOSED || why->code == ERR_CANCELED || count == 0)
        return;
    (void)send_segment(replica, link, REPLICA_FRAME_REFUSE, 0, why->text, count, &ignored);
}

/* `unlinks`: as it was before the link was accepted. */
static void serve(struct replica *replica, struct stream *link, unsigned unlinks)
{
    struct fault fault = {0};
    int r = 0;

    (void)pthread_mutex_lock(&replica->lock);
    replica->link = link;
    bool goes_on = !replica->stopping && replica->unlinks == unlinks;
    (void)pthread_mutex_unlock(&replica->lock);
    if (goes_on)
        r = watch_new(&replica->watch, watch_expired, replica, &fault);
    while (goes_on && r == 0) {
        r = take_segment(replica, link, &fault);
        watch_disarm(replica->watch);
    }
    tell_refusal(replica, link, &fault);
    (void)pthread_mutex_lock(&replica->lock);
    replica->link = NULL;
    replica_core_unlinked(&replica->core);
    replica->status.is_linked = false;
    replica->in_checkpoint = false;
    (void)pthread_mutex_unlock(&replica->lock);
    replica->watch = watch_free(replica->watch);
}

static void *replica_run(void *data)
{
    struct replica *replica = data;
    thread_begin("replica");

    for (;;) {
        struct stream *link = NULL;
        struct fault fault = {0};
        (void)pthread_mutex_lock(&replica->lock);
        unsigned unlinks = replica->unlinks;
        (void)pthread_mutex_unlock(&replica->lock);
        int r = replica->config.accept_link(replica->config.data, ACCEPT_MS, &link, &fault);
        if (r == 0) {
            serve(replica, link, unlinks);
            (void)stream_free(link);
        }
        (void)pthread_mutex_lock(&replica->lock);
        bool is_over = replica->stopping, cannot = r < 0 && r != ERR_TIMEOUT;
        replica->status.is_deaf |= cannot && !is_over; /* what is held stays good */
        (void)pthread_mutex_unlock(&replica->lock);
        if (is_over)
            return NULL;
        if (cannot) {
            tell_broken(replica, &fault);
            return NULL;
        }
    }
}

/* ---- what a journal was kept of ---- */
static int read_disk(struct replica *replica, unsigned index, struct fault *fault)
{
    uint8_t page[PAGE_BYTES] __attribute__((aligned(64)));
    uint64_t bytes = replica->disk_bytes[index];

    for (uint64_t at = 0; at < bytes; at += PAGE_BYTES) {
        if (at % BLOCK_BYTES == 0) { /* holes are zero, which is what is known of every page */
            uint64_t block = skip_hole(replica->fds[1 + index], at / BLOCK_BYTES);
            if (block >= (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES)
                break;
            at = block * BLOCK_BYTES;
        }
        size_t count = bytes - at < PAGE_BYTES ? (size_t)(bytes - at) : PAGE_BYTES;
        memset(page, 0, sizeof page);
        int error = replica_journal_file_io.read(replica->fds, 1 + index, page, count, at);
        if (error)
            return fault_set_errno(fault, ERR_IO, error, "reading disk %u of a replica", index);
        replica_stage_known(replica->stage, index, at / PAGE_BYTES, page);
    }
    return 0;
}

/* Disks that are not what the journal says are not believed: the next checkpoint comes whole. */
static int find_held(struct replica *replica, struct fault *fault)
{
    const struct replica_journal_held held = *replica_journal_held(replica->journal);
    int r = 0;

    for (unsigned i = 0; r == 0 && i < replica->config.disk_count; i++)
        r = read_disk(replica, i, fault);
    if (held.held.id.generation > replica->core.generation_min)
        replica->core.generation_min = held.held.id.generation; /* whatever else is believed */
    if (r < 0 || held.held.id.seq == 0)
        return r;
    if (replica_stage_sum(replica->stage) != held.disks_sum)
        return replica_journal_void(replica->journal, fault);
    if (held.has_ram || replica->config.region_count)
        return 0; /* its RAM is gone: the disks are kept until there is a whole one again */
    replica->core.held = held.held;
    replica->status.held = held.held.id;
    replica->status.sum = held.held.sum;
    replica->status.held_ns = world_now_ns();
    return 0;
}

/* ---- the journal's files ---- */
static int io_read(void *owner, unsigned file, void *ret_bytes, size_t count, uint64_t offset)
{
    return replica_journal_file_io.read(((struct replica *)owner)->fds, file, ret_bytes, count, offset);
}

/* While a copy is made disks are written under the lock alone: something is held, so a log comes first. */
static int io_write(void *owner, unsigned file, const void *bytes, size_t count, uint64_t offset)
{
    struct replica *replica = owner;

    if (file > 0 && replica->copy)
        replica_copy_before_disk(replica->copy, file - 1, offset, count);
    return replica_journal_file_io.write(replica->fds, file, bytes, count, offset);
}

static int io_sync(void *owner, unsigned file)
{
    return replica_journal_file_io.sync(((struct replica *)owner)->fds, file);
}

static int io_cut(void *owner, unsigned file, uint64_t bytes)
{
    return replica_journal_file_io.cut(((struct replica *)owner)->fds, file, bytes);
}

static const struct replica_journal_io replica_io = {
    .read = io_read, .write = io_write, .sync = io_sync, .cut = io_cut};

static int open_disks(struct replica *replica, const struct replica_config *config,
                      struct fault *fault)
{
    replica->fds[0] = config->journal_fd;
    for (unsigned i = 0; i < config->disk_count; i++) {
        replica->disks[i] = config->disks[i];
        replica->disk_bytes[i] = config->disks[i].bytes;
        replica->fds[1 + i] = config->disks[i].fd;
    }
    return replica_journal_new(&replica->journal, &replica_io, replica, replica->disk_bytes,
                               config->disk_count, fault);
}

/* ---- life ---- */
int replica_new(struct replica **ret_replica, const struct replica_config *config,
                struct fault *fault)
{
    if (config->disk_count > DISKS_OF_REPLICA_MAX)
        return fault_set(fault, ERR_LIMIT, "%u disks, a replica keeps at most %d",
                         config->disk_count, DISKS_OF_REPLICA_MAX);
    struct replica *replica = calloc(1, sizeof *replica);
    if (!replica)
        return fault_set(fault, ERR_NOMEM, "no memory for a replica");
    replica->config = *config;
    replica->silent_ms_max = config->silent_ms_max ? config->silent_ms_max : REPLICA_SILENT_MS_MAX;
    (void)pthread_mutex_init(&replica->lock, NULL);
    replica_core_init(&replica->core, config->generation_min, config->region_count != 0);

    int r = replica_shape(config->who, config->regions, config->region_count, config->disks,
                          config->disk_count, replica->shape, fault);
    if (r == 0 && config->disk_count)
        r = open_disks(replica, config, fault);
    const struct replica_stage_config stage = {
        .regions = config->regions,
        .region_count = config->region_count,
        .disks = replica->disks,
        .disk_count = config->disk_count,
        .journal = replica->journal,
    };
    if (r == 0)
        r = replica_stage_new(&replica->stage, &stage, fault);
    if (r == 0 && replica->journal)
        r = find_held(replica, fault);
    if (r < 0) {
        (void)replica_free(replica);
        return r;
    }
    replica->config.who = NULL; /* the shape has them */
    replica->config.disks = NULL;
    *ret_replica = replica;
    return 0;
}

int replica_start(struct replica *replica, struct fault *fault)
{
    int error = pthread_create(&replica->thread, NULL, replica_run, replica);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a replica");
    replica->started = true;
    return 0;
}

static void stop(struct replica *replica)
{
    (void)pthread_mutex_lock(&replica->lock);
    replica->stopping = true;
    if (replica->link)
        stream_interrupt(replica->link);
    (void)pthread_mutex_unlock(&replica->lock);
    replica->config.interrupt_accept(replica->config.data);
}

struct replica *replica_free(struct replica *replica)
{
    if (!replica)
        return NULL;
    assert(!replica->copy);
    if (replica->started) {
        stop(replica);
        (void)pthread_join(replica->thread, NULL);
    }
    (void)replica_stage_free(replica->stage);
    (void)replica_journal_free(replica->journal);
    free(replica->state);
    free(replica->next_state);
    free(replica->block);
    (void)pthread_mutex_destroy(&replica->lock);
    free(replica);
    return NULL;
}

int replica_take(struct replica *replica, uint64_t generation, struct replica_taken *ret_taken,
                 struct fault *fault)
{
    (void)pthread_mutex_lock(&replica->lock);
    int r = 0;
    /* Not: a take whose disks could not be written, which may be tried again, also as a newer one. */
    if (replica->status.is_taken)
        r = fault_set(fault, ERR_STATE, "it was taken before");
    else if (replica->copy) /* whose memory would be the guest's from now on */
        r = fault_set(fault, ERR_BUSY, "a copy of it is being made");
    if (r == 0 && replica->status.is_broken && replica->core.held.id.seq) {
        r = replica_journal_mend(replica->journal, fault);
        if (r < 0)
            (void)fault_wrap(fault, r, "this replica is broken: its disks are not certain");
    }
    if (r == 0)
        r = replica_core_take(&replica->core, generation, fault);
    if (r == 0 && replica->journal)
        r = replica_journal_apply(replica->journal, fault);
    if (r == 0) {
        replica->status.is_taken = true;
        *ret_taken = (struct replica_taken){
            .id = replica->core.held.id,
            .state = TAKE(replica->state),
            .state_bytes = replica->state_bytes,
            .stood_ns = world_now_ns() - replica->status.held_ns,
        };
    }
    (void)pthread_mutex_unlock(&replica->lock);
    if (r == 0)
        stop(replica);
    return r;
}

/* ---- a copy of what is held ---- */
/* Under the lock: disks, memory and state are one checkpoint, and the copy sees every change of it. */
static int begin_copy(struct replica *replica, struct replica_copy *copy, uint8_t **ret_state,
                      struct replica_copied *copied, struct fault *fault)
{
    AUTO_FREE uint8_t *state = malloc(replica->state_bytes + (size_t)1);

    if (!state)
        return fault_set(fault, ERR_NOMEM, "no memory to copy a replica");
    if (replica->status.is_taken)
        return fault_set(fault, ERR_STATE, "it was taken before");
    if (replica->copy)
        return fault_set(fault, ERR_BUSY, "a copy of it is being made");
    if (replica->status.is_broken)
        return fault_set(fault, ERR_STATE, "this replica is broken: its disks are not certain");
    if (!replica->core.held.id.seq || (replica->config.region_count && !replica->state))
        return fault_set(fault, ERR_STATE, "nothing whole is held yet");
    /* A failure is found again by who settles, and told. */
    int r = replica->journal ? replica_journal_apply(replica->journal, fault) : 0;
    if (r == 0)
        r = replica_copy_fix(copy, fault);
    if (r < 0)
        return r;
    if (replica->state_bytes)
        memcpy(state, replica->state, replica->state_bytes);
    copied->id = replica->core.held.id;
    copied->held_wall_ms = replica->status.held_wall_ms;
    replica->copy = copy;
    *ret_state = TAKE(state);
    return 0;
}

int replica_make_copy(struct replica *replica, const struct replica_copy_config *config,
                      struct replica_copied *ret_copied, struct fault *fault)
{
    struct replica_copied copied = {0};
    struct replica_copy *copy = NULL;
    uint8_t *state = NULL;
    size_t state_bytes = 0;

    if ((config->memory_fd >= 0) != (replica->config.region_count != 0) ||
        (config->guest && config->guest->region_count != replica->config.region_count))
        return fault_set(fault, ERR_INVALID, "a copy that is not of what the replica holds");
    int r = replica_copy_new(&copy, config, replica->disks, replica->config.disk_count, fault);
    if (r < 0)
        return r;
    (void)pthread_mutex_lock(&replica->lock);
    r = begin_copy(replica, copy, &state, &copied, fault);
    state_bytes = replica->state_bytes;
    (void)pthread_mutex_unlock(&replica->lock);
    if (r == 0) {
        r = replica_copy_run(copy, state, state_bytes, &copied, fault);
        (void)pthread_mutex_lock(&replica->lock);
        replica->copy = NULL;
        (void)pthread_mutex_unlock(&replica->lock);
    }
    (void)replica_copy_free(copy);
    free(state);
    if (r == 0)
        *ret_copied = copied;
    return r;
}

void replica_unlink(struct replica *replica)
{
    (void)pthread_mutex_lock(&replica->lock);
    replica->unlinks++;
    if (replica->link)
        stream_interrupt(replica->link);
    (void)pthread_mutex_unlock(&replica->lock);
}

void replica_status(struct replica *replica, struct replica_status *ret_status)
{
    (void)pthread_mutex_lock(&replica->lock);
    *ret_status = replica->status;
    (void)pthread_mutex_unlock(&replica->lock);
}
