/* One array says of each page of the RAM which frame of the file still holds it: 0, none (it is laid, or zero from
 * the begin). It is looked at and changed under the mutex, together with the laying itself, so that of two
 * threads that have read the same frame one lays each of its pages, and a page that the guest gave back
 * after it was laid is zero and nothing else. A frame is read, undone and compared with its digest before
 * any of it is laid.
 */
#include "migrate/guest_pager.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xxhash.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/guest_file_writer.h"
#include "migrate/guest_index.h"
#include "migrate/guest_shape.h"
#include "migrate/page_codec.h"
#include "migrate/page_digest.h"
#include "migrate/page_faults.h"
#include "migrate/region.h"
#include "proto/limits.h"
#include "proto/page_frame.h"
#include "storage/guest_label.h"

enum {
    NOMEM_WAIT_MS = 10,
    AGAIN_MS_MIN = 100,
    AGAIN_MS_MAX = 4000,
    FRAME_BYTES_MAX = PAGE_FRAME_HEAD_MAX + PAGE_FRAME_BODY_MAX,
    PAGES_BYTES = PAGE_FRAME_PAGES_MAX * PAGE_BYTES,
};

enum { PAGER_E_STOPPED = 1 };

enum pager_stage { STAGE_LOADING, STAGE_RUNNING, STAGE_WHOLE };

/* What one thread needs to read a frame. */
struct pager_reader {
    uint8_t *bytes; /* owned: the frame as it is in the file */
    uint8_t *room;  /* owned: its pages, one behind the other */
    const uint8_t *pages;            /* of the frame that was read: in room or in bytes */
    uint16_t at[PAGE_FRAME_PAGES_MAX]; /* which of the block */
    uint64_t hashes[PAGE_FRAME_PAGES_MAX];
    unsigned count;
    struct ZSTD_DCtx_s *zstd; /* owned */
};

struct guest_pager {
    /* set before start, read by all */
    struct guest_pager_config config;
    struct guest_index index;
    struct page_frame_plan plan;
    struct page_faults faults;
    int fd, stop_fd; /* owned */
    uint8_t *machine; /* owned */
    struct region *ram; /* whose pages come later; all other regions are read at once */
    bool is_kept_small;
    uint64_t begun_ns, bytes;
    pthread_t fault_thread, read_thread;
    bool hears, reads;
    struct pager_reader fault_reader, file_reader; /* each its thread's */

    pthread_mutex_t mutex; /* guards all below; held while a page is laid */
    uint32_t *frame_of; /* owned, mmap'ed; a page's frame, plus 1 */
    enum pager_stage stage;
    pthread_cond_t changed; /* goes, ends */
    bool goes, ends;        /* the thread that reads the rest may begin; is to end */
    bool is_lost, is_told; /* that it reads again */
    struct fault fault; /* why it is lost */
    uint64_t left, sum, fault_pages, whole_ns;

    uint64_t faults_heard; /* atomic */
};

static void guest_pager_freep(struct guest_pager **pager)
{
    *pager = guest_pager_free(*pager);
}

/* ---- one frame --------------------------------------------------------------------------------- */
static int reader_init(struct pager_reader *reader, struct fault *fault)
{
    reader->bytes = aligned_alloc(PAGE_BYTES, (FRAME_BYTES_MAX + PAGE_BYTES) / PAGE_BYTES * PAGE_BYTES);
    reader->room = aligned_alloc(PAGE_BYTES, PAGES_BYTES);
    reader->zstd = ZSTD_createDCtx();
    return reader->bytes && reader->room && reader->zstd
               ? 0
               : fault_set(fault, ERR_NOMEM, "no memory to read a guest's file");
}

static void reader_deinit(struct pager_reader *reader)
{
    (void)ZSTD_freeDCtx(reader->zstd);
    free(reader->room);
    free(reader->bytes);
    *reader = (struct pager_reader){0};
}

static int read_at(int fd, uint64_t at, uint8_t *ret_bytes, size_t count, struct fault *fault)
{
    for (size_t done = 0; done < count;) {
        ssize_t got = pread(fd, ret_bytes + done, count - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fault_set_errno(fault, ERR_IO, errno, "reading the guest's file at %llu MiB",
                                   (unsigned long long)(at >> 20));
        if (got == 0)
            return fault_set(fault, ERR_CORRUPT, "the guest's file ends at %llu bytes, too early",
                             (unsigned long long)(at + done));
        done += (size_t)got;
    }
    return 0;
}

static int damaged(const struct guest_index_frame *frame, struct fault *fault)
{
    return fault_set(fault, ERR_CORRUPT,
                     "the guest's file is damaged at byte %llu: pages from %llu of region %u are not those "
                     "that were written",
                     (unsigned long long)frame->offset, (unsigned long long)frame->first_page,
                     frame->region);
}

/* Exactly the frame that the index names. */
static bool is_the_frame(const struct page_frame *found, const struct page_frame_entry *entries,
                         const struct guest_index_frame *frame)
{
    uint64_t mask[GUEST_INDEX_WORDS] = {0};

    for (unsigned i = 0; i < found->count; i++) {
        if (!entries[i].has_data)
            return false;
        mask[entries[i].page / 64] |= UINT64_C(1) << (entries[i].page % 64);
    }
    return found->region == frame->region && found->first_page == frame->first_page &&
           found->round == GUEST_FILE_ROUND && memcmp(mask, frame->mask, sizeof mask) == 0 &&
           PAGE_FRAME_HEADER_BYTES + (uint64_t)found->count * PAGE_ENTRY_BYTES + found->body_bytes ==
               frame->bytes;
}

static int undo_groups(struct pager_reader *reader, struct page_frame *found, const uint8_t *body,
                       struct fault *fault)
{
    uint32_t sizes[PAGE_FRAME_GROUPS_MAX];
    unsigned groups = page_frame_groups(found->data_count);
    const uint8_t *at = body + (size_t)groups * 4;

    int r = page_frame_get_sizes(found, body, sizes, fault);
    for (unsigned i = 0; r == 0 && i < groups; i++) {
        r = page_codec_decode_group(found->codec, reader->zstd, at, sizes[i],
                                    reader->room + (size_t)i * PAGE_FRAME_GROUP_PAGES * PAGE_BYTES,
                                    page_frame_group_pages(found->data_count, i) * PAGE_BYTES, fault);
        at += sizes[i];
    }
    reader->pages = reader->room;
    return r;
}

/* The frame as it stands in the file, judged as one that a peer sent. */
static int open_frame(struct guest_pager *pager, struct pager_reader *reader,
                      const struct guest_index_frame *frame, struct fault *fault)
{
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    struct page_frame found;

    int r = page_frame_get(reader->bytes, &found, fault);
    if (r < 0)
        return r;
    if (found.type != PAGE_FRAME_PAGES ||
        PAGE_FRAME_HEADER_BYTES + (uint64_t)found.count * PAGE_ENTRY_BYTES > frame->bytes)
        return damaged(frame, fault);
    r = page_frame_get_entries(&pager->plan, reader->bytes, &found, entries, fault);
    if (r < 0)
        return r;
    if (!is_the_frame(&found, entries, frame))
        return damaged(frame, fault);
    const uint8_t *body =
        reader->bytes + PAGE_FRAME_HEADER_BYTES + (size_t)found.count * PAGE_ENTRY_BYTES;
    reader->count = found.count;
    for (unsigned i = 0; i < found.count; i++)
        reader->at[i] = entries[i].page;
    if (found.codec == PAGE_FRAME_RAW)
        reader->pages = body;
    return found.codec == PAGE_FRAME_RAW ? 0 : undo_groups(reader, &found, body, fault);
}

static int read_frame(struct guest_pager *pager, struct pager_reader *reader,
                      const struct guest_index_frame *frame, struct fault *fault)
{
    uint64_t digest = guest_index_digest_begin(frame->region);

    int r = read_at(pager->fd, frame->offset, reader->bytes, frame->bytes, fault);
    if (r < 0)
        return r;
    if (open_frame(pager, reader, frame, fault) < 0) /* whatever it is in detail */
        return damaged(frame, fault);
    for (unsigned i = 0; i < reader->count; i++) {
        reader->hashes[i] = page_digest_hash(reader->pages + (size_t)i * PAGE_BYTES);
        digest = page_digest_fold(digest, frame->first_page + reader->at[i], reader->hashes[i]);
    }
    return digest == frame->digest ? 0 : damaged(frame, fault);
}

/* ---- into the RAM ------------------------------------------------------------------------------ */
/* Nobody goes on with anything but what was written. */
static void lose(struct guest_pager *pager, const struct fault *fault)
{
    pthread_mutex_lock(&pager->mutex);
    bool is_first = !pager->is_lost, runs = pager->stage == STAGE_RUNNING;
    if (is_first)
        pager->fault = *fault;
    pager->is_lost = true;
    if (!runs) /* the guest never runs: what loads it goes on with zeros, to be told */
        page_faults_close(&pager->faults);
    pthread_mutex_unlock(&pager->mutex);
    if (is_first && runs)
        pager->config.lost(pager->config.data, fault);
}

static bool is_lost(struct guest_pager *pager)
{
    pthread_mutex_lock(&pager->mutex);
    bool lost = pager->is_lost;
    pthread_mutex_unlock(&pager->mutex);
    return lost;
}

/* True: it is stopped. */
static bool wait_ms(struct guest_pager *pager, int ms)
{
    struct pollfd stop = {.fd = pager->stop_fd, .events = POLLIN};

    return poll(&stop, 1, ms) > 0;
}

/* ---- a store that fails and comes back ---- */
/* Before the guest runs nothing is lost: it is refused, and its file is as good as before. */
static bool may_read_again(struct guest_pager *pager, const struct fault *fault)
{
    pthread_mutex_lock(&pager->mutex);
    bool may = pager->stage == STAGE_RUNNING && !pager->is_lost && pager->config.patience_ms > 0;
    bool is_first = may && !pager->is_told;
    pager->is_told |= is_first;
    pthread_mutex_unlock(&pager->mutex);
    if (is_first)
        log_warn("pager", "tries again for up to %u ms vm=%s: %s", pager->config.patience_ms,
                 pager->config.guest->vm_id, fault->text);
    return may;
}

/* Nobody has been given anything instead of it. */
static int read_patiently(struct guest_pager *pager, struct pager_reader *reader,
                          const struct guest_index_frame *frame, bool is_waited_for,
                          struct fault *fault)
{
    uint64_t until_ns = 0;

    for (int ms = AGAIN_MS_MIN;; ms = ms < AGAIN_MS_MAX / 2 ? ms * 2 : AGAIN_MS_MAX) {
        int r = is_waited_for ? 0 : failpoint_check(FAILPOINT_PAGER_READ, fault);
        if (r == 0)
            r = read_frame(pager, reader, frame, fault);
        if (r != ERR_IO || !may_read_again(pager, fault) || (until_ns && world_now_ns() >= until_ns))
            return r;
        if (!until_ns) /* the first error may have taken its time */
            until_ns = world_now_ns() + pager->config.patience_ms * NS_PER_MS;
        if (wait_ms(pager, ms))
            return PAGER_E_STOPPED;
        *fault = (struct fault){0};
    }
}

/* Under the mutex: pages of the reader's frame that are still to come, as far as they follow each other. */
static unsigned run_of(const struct guest_pager *pager, const struct pager_reader *reader,
                       uint64_t first_page, uint32_t number, unsigned begin)
{
    unsigned end = begin;

    while (end < reader->count && reader->at[end] - reader->at[begin] == (int)(end - begin) &&
           pager->frame_of[first_page + reader->at[end]] == number)
        end++;
    return end - begin;
}

/* Under the mutex. */
static int lay_locked(struct guest_pager *pager, const struct pager_reader *reader,
                      const struct guest_index_frame *frame, uint32_t number, bool is_waited_for,
                      struct fault *fault)
{
    for (unsigned i = 0, run, laid; i < reader->count; i += run ? run : 1) {
        run = run_of(pager, reader, frame->first_page, number, i);
        if (run == 0)
            continue;
        uint64_t page = frame->first_page + reader->at[i];
        int r = page_faults_lay_run(&pager->faults, pager->ram->base + page * PAGE_BYTES,
                                    reader->pages + (size_t)i * PAGE_BYTES, run, &laid, fault);
        for (unsigned k = 0; k < laid; k++) {
            pager->frame_of[page + k] = 0;
            pager->sum += page_digest_term(frame->region, page + k, reader->hashes[i + k]);
        }
        pager->left -= laid;
        pager->fault_pages += is_waited_for ? laid : 0;
        if (r == PAGE_FAULTS_E_THERE)
            r = fault_set(fault, ERR_STATE, "page %llu of the guest is there before it was laid",
                          (unsigned long long)(page + laid));
        if (r < 0)
            return r;
    }
    return 0;
}

/* Without memory for some of it nothing but waiting is left: those that are laid are not laid again. */
static int bring(struct guest_pager *pager, struct pager_reader *reader, uint32_t number,
                 bool is_waited_for, struct fault *fault)
{
    const struct guest_index_frame *frame = &pager->index.frames[number - 1];

    int r = read_patiently(pager, reader, frame, is_waited_for, fault);
    while (r == 0) {
        pthread_mutex_lock(&pager->mutex);
        r = pager->faults.fd < 0 ? 0
                                 : lay_locked(pager, reader, frame, number, is_waited_for, fault);
        pthread_mutex_unlock(&pager->mutex);
        if (r != ERR_NOMEM)
            return r;
        r = 0;
        if (wait_ms(pager, NOMEM_WAIT_MS))
            return 0;
    }
    return r == PAGER_E_STOPPED ? 0 : r;
}

/* ---- who waits --------------------------------------------------------------------------------- */
/* It is laid, or was never written: zero. Not the answer while its frame is to come. */
static int hear_page(struct guest_pager *pager, uint64_t page, struct fault *fault)
{
    for (;;) {
        pthread_mutex_lock(&pager->mutex);
        uint32_t number = pager->frame_of[page];
        int r = number || pager->faults.fd < 0
                    ? 0
                    : page_faults_lay_zero(&pager->faults, pager->ram->base + page * PAGE_BYTES, fault);
        pthread_mutex_unlock(&pager->mutex);
        if (number)
            return bring(pager, &pager->fault_reader, number, true, fault);
        if (r != ERR_NOMEM)
            return r < 0 ? r : 0;
        if (wait_ms(pager, NOMEM_WAIT_MS))
            return 0;
    }
}

/* One page that is lost does not keep others from those who wait for them: devices come to rest. */
static int hear_all(struct guest_pager *pager, struct fault *fault)
{
    uint64_t addresses[PAGE_FAULTS_READ_MAX];
    struct pollfd polls[2] = {{.fd = pager->faults.fd, .events = POLLIN},
                              {.fd = pager->stop_fd, .events = POLLIN}};
    for (;;) {
        if (poll(polls, 2, -1) < 0 && errno != EINTR)
            return fault_set_errno(fault, ERR_IO, errno, "waiting for faults");
        if (polls[1].revents)
            return 0;
        unsigned count = 0;
        int r = page_faults_read(&pager->faults, addresses, &count, fault);
        if (r < 0)
            return r;
        __atomic_fetch_add(&pager->faults_heard, count, __ATOMIC_RELAXED);
        for (unsigned i = 0; i < count; i++) {
            uint64_t page = (addresses[i] - (uintptr_t)pager->ram->base) / PAGE_BYTES;
            assert(page < pager->ram->pages); /* nothing else is watched */
            struct fault words = {0};
            if (hear_page(pager, page, &words) < 0)
                lose(pager, &words);
        }
        if (pager->faults.fd < 0) /* closed by this thread: the guest never runs */
            return 0;
    }
}

static void *fault_run(void *data)
{
    struct guest_pager *pager = data;
    struct fault fault = {0};

    thread_begin("pager faults");
    thread_hurry(); /* a vCPU waits for it */
    if (hear_all(pager, &fault) < 0)
        lose(pager, &fault);
    return NULL;
}

/* ---- the rest ---------------------------------------------------------------------------------- */
static bool is_stopped(const struct guest_pager *pager)
{
    struct pollfd stop = {.fd = pager->stop_fd, .events = POLLIN};

    return poll(&stop, 1, 0) > 0;
}

/* Of the frame any page that is still to come? Those of other regions are here. */
static bool is_to_come(struct guest_pager *pager, uint32_t number)
{
    const struct guest_index_frame *frame = &pager->index.frames[number - 1];
    bool found = false;

    if (frame->region != pager->ram->id)
        return false;
    pthread_mutex_lock(&pager->mutex);
    for (unsigned i = 0; !found && i < GUEST_INDEX_WORDS; i++) {
        for (uint64_t word = frame->mask[i]; !found && word; word &= word - 1)
            found = pager->frame_of[frame->first_page + i * 64 + (unsigned)__builtin_ctzll(word)] != 0;
    }
    pthread_mutex_unlock(&pager->mutex);
    return found;
}

static int be_whole(struct guest_pager *pager, struct fault *fault)
{
    pthread_mutex_lock(&pager->mutex);
    bool is_whole = pager->left == 0 && pager->sum == pager->index.sum && !pager->is_lost;
    bool has_all = pager->left == 0;
    if (is_whole) {
        pager->stage = STAGE_WHOLE;
        pager->whole_ns = world_now_ns();
    }
    pthread_mutex_unlock(&pager->mutex);
    if (is_whole)
        pager->config.whole(pager->config.data);
    return is_whole || !has_all
               ? 0
               : fault_set(fault, ERR_CORRUPT,
                           "the pages of the guest's file are not those that were written");
}

/* It is there before the guest runs, when it may still be refused. */
static bool wait_to_go(struct guest_pager *pager)
{
    pthread_mutex_lock(&pager->mutex);
    while (!pager->goes && !pager->ends)
        pthread_cond_wait(&pager->changed, &pager->mutex);
    bool goes = !pager->ends;
    pthread_mutex_unlock(&pager->mutex);
    return goes;
}

static void *read_run(void *data)
{
    struct guest_pager *pager = data;
    struct fault fault = {0};
    int r = 0;

    thread_begin("pager");
    if (!wait_to_go(pager))
        return NULL;
    thread_give_way(); /* to the guest that runs already */
    for (uint64_t i = 0; r == 0 && i < pager->index.count; i++) {
        if (is_stopped(pager) || is_lost(pager))
            return NULL;
        uint32_t number = (uint32_t)i + 1;
        if (!is_to_come(pager, number))
            continue;
        r = bring(pager, &pager->file_reader, number, false, &fault);
    }
    if (r == 0)
        r = be_whole(pager, &fault);
    if (r < 0)
        lose(pager, &fault);
    return NULL;
}

/* ---- the begin --------------------------------------------------------------------------------- */
static int judge_file(struct guest_pager *pager, const struct guest_pager_config *config,
                      struct fault *fault)
{
    uint8_t head[GUEST_FILE_HEAD_BYTES];
    struct guest_label label;
    uint64_t consumed_by = 0;

    int r = guest_label_read(config->fd, &label, &consumed_by, fault);
    if (r == 0)
        r = guest_label_judge(&label, consumed_by, config->expected, fault);
    if (r == 0)
        r = read_at(config->fd, 0, head, sizeof head, fault);
    if (r == 0)
        r = guest_shape_judge(head + GUEST_FILE_SHAPE_AT, config->guest, fault);
    if (r == 0)
        r = guest_index_read(&pager->index, config->fd, head, config->guest, fault);
    if (r == GUEST_INDEX_E_NONE)
        r = fault_set(fault, ERR_UNSUPPORTED, "the guest's file is of before files had an index");
    if (r == 0 && pager->index.count >= UINT32_MAX)
        r = fault_set(fault, ERR_UNSUPPORTED, "the guest's file has too many frames");
    return r;
}

/* The RAM is the one whose pages may be missing. */
static int find_ram(struct guest_pager *pager, struct fault *fault)
{
    struct guest *guest = pager->config.guest;

    pager->plan.region_count = guest->region_count;
    for (unsigned i = 0; i < guest->region_count; i++) {
        pager->plan.regions[i].id = guest->regions[i].id;
        pager->plan.regions[i].pages = guest->regions[i].pages;
    }
    pager->ram = &guest->regions[0];
    return pager->ram->ops->discard && !pager->ram->shared_id
               ? 0
               : fault_set(fault, ERR_UNSUPPORTED, "the guest's memory cannot wait for single pages");
}

static int expect_pages(struct guest_pager *pager, struct fault *fault)
{
    void *map = mmap(NULL, pager->ram->pages * sizeof(uint32_t), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return fault_set_errno(fault, ERR_NOMEM, errno, "no room for the places of a guest's pages");
    pager->frame_of = map;
    for (uint64_t n = 0; n < pager->index.count; n++) {
        const struct guest_index_frame *frame = &pager->index.frames[n];
        for (unsigned i = 0; frame->region == pager->ram->id && i < GUEST_INDEX_WORDS; i++) {
            for (uint64_t word = frame->mask[i]; word; word &= word - 1) {
                uint64_t page = frame->first_page + i * 64 + (unsigned)__builtin_ctzll(word);
                if (pager->frame_of[page])
                    return fault_set(fault, ERR_CORRUPT, "page %llu is in the guest's file twice",
                                     (unsigned long long)page);
                pager->frame_of[page] = (uint32_t)n + 1;
                pager->left++;
            }
        }
    }
    return 0;
}

static int read_machine(struct guest_pager *pager, struct fault *fault)
{
    pager->machine = malloc(pager->index.machine_bytes);
    if (!pager->machine)
        return fault_set(fault, ERR_NOMEM, "no memory for the machine's state");
    int r = read_at(pager->fd, pager->index.machine_at, pager->machine, pager->index.machine_bytes,
                    fault);
    if (r < 0)
        return r;
    return XXH3_64bits(pager->machine, pager->index.machine_bytes) == pager->index.machine_digest
               ? 0
               : fault_set(fault, ERR_CORRUPT,
                           "the machine's state in the guest's file is not what was written");
}

static int place_frame(struct guest_pager *pager, const struct guest_index_frame *frame,
                       struct fault *fault)
{
    struct region *region = pager->config.guest->regions;
    struct pager_reader *reader = &pager->file_reader;

    while (region->id != frame->region)
        region++; /* the index was judged: it is there */
    int r = read_frame(pager, reader, frame, fault);
    for (unsigned i = 0; r == 0 && i < reader->count; i++) {
        uint64_t page = frame->first_page + reader->at[i];
        r = region->ops->populate(region, page, 1, fault);
        if (r < 0)
            return r;
        memcpy(region->base + page * PAGE_BYTES, reader->pages + (size_t)i * PAGE_BYTES, PAGE_BYTES);
        pthread_mutex_lock(&pager->mutex);
        pager->sum += page_digest_term(frame->region, page, reader->hashes[i]);
        pthread_mutex_unlock(&pager->mutex);
    }
    return r;
}

/* What the guest was booted from is small, and read by others than the guest. */
static int place_others(struct guest_pager *pager, struct fault *fault)
{
    int r = 0;

    for (uint64_t n = 0; r == 0 && n < pager->index.count; n++) {
        if (pager->index.frames[n].region != pager->ram->id)
            r = place_frame(pager, &pager->index.frames[n], fault);
    }
    return r;
}

/* Small pages while some are missing (see page_fetch.c); later the kernel may make huge ones again. */
static void let_be_huge(struct guest_pager *pager, bool may)
{
    (void)madvise(pager->ram->base, pager->ram->pages * PAGE_BYTES,
                  may ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); /* refused: it knows none */
    pager->is_kept_small = !may;
}

static int start_hearing(struct guest_pager *pager, struct fault *fault)
{
    int r = page_faults_open(&pager->faults, fault);
    if (r < 0) /* for whatever reason: the file is good, and is read as always */
        return fault_wrap(fault, ERR_UNSUPPORTED, "nobody can wait for single pages");
    let_be_huge(pager, false);
    r = page_faults_watch(&pager->faults, pager->ram->base, pager->ram->pages * PAGE_BYTES, fault);
    if (r < 0)
        return r;
    int error = pthread_create(&pager->fault_thread, NULL, fault_run, pager);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting to hear of faults");
    pager->hears = true;
    return 0;
}

static int start_reading(struct guest_pager *pager, struct fault *fault)
{
    int error = pthread_create(&pager->read_thread, NULL, read_run, pager);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "no thread to read a guest's file");
    pager->reads = true;
    return 0;
}

static int begin(struct guest_pager *pager, struct fault *fault)
{
    int r = find_ram(pager, fault);
    if (r == 0)
        r = judge_file(pager, &pager->config, fault);
    if (r < 0)
        return r;
    pager->bytes = pager->index.machine_at + pager->index.machine_bytes;
    pager->fd = fcntl(pager->config.fd, F_DUPFD_CLOEXEC, 3);
    pager->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pager->fd < 0 || pager->stop_fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "reading a guest's file");
    (void)posix_fadvise(pager->fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* a wish */
    r = reader_init(&pager->fault_reader, fault);
    if (r == 0)
        r = reader_init(&pager->file_reader, fault);
    if (r == 0)
        r = expect_pages(pager, fault);
    if (r == 0)
        r = read_machine(pager, fault);
    if (r == 0)
        r = start_hearing(pager, fault); /* last of what may be refused */
    if (r == 0)
        r = place_others(pager, fault);
    return r < 0 ? r : start_reading(pager, fault);
}

int guest_pager_new(struct guest_pager **ret_pager, const struct guest_pager_config *config,
                    struct fault *fault)
{
    struct guest_pager *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        return fault_set(fault, ERR_NOMEM, "no memory to read a guest's file");
    pthread_mutex_init(&fresh->mutex, NULL);
    pthread_cond_init(&fresh->changed, NULL);
    fresh->faults.fd = fresh->fd = fresh->stop_fd = -1;
    fresh->config = *config;
    fresh->begun_ns = world_now_ns();
    AUTO(guest_pager_freep) struct guest_pager *pager = fresh;

    int r = begin(pager, fault);
    if (r < 0)
        return r;
    *ret_pager = TAKE(pager);
    return 0;
}

static int check_lost(struct guest_pager *pager, struct fault *fault)
{
    pthread_mutex_lock(&pager->mutex);
    int r = pager->is_lost ? pager->fault.code : 0;
    if (r < 0)
        *fault = pager->fault;
    pthread_mutex_unlock(&pager->mutex);
    return r;
}

int guest_pager_load(struct guest_pager *pager, struct fault *fault)
{
    struct guest *guest = pager->config.guest;
    struct fault words = {0};

    assert(pager->machine);
    /* Its clocks stood still meanwhile. */
    int r = guest->ops->load(guest->owner, pager->machine, pager->index.machine_bytes, 0, &words);
    free(pager->machine);
    pager->machine = NULL;
    int lost = check_lost(pager, fault); /* it says more: the load may have seen zeros */
    if (lost < 0)
        return lost;
    if (r < 0)
        *fault = words;
    return r;
}

int guest_pager_commit(struct guest_pager *pager, struct fault *fault)
{
    pthread_mutex_lock(&pager->mutex);
    int r = pager->is_lost ? pager->fault.code : 0;
    if (r < 0)
        *fault = pager->fault;
    else
        pager->stage = STAGE_RUNNING;
    pthread_mutex_unlock(&pager->mutex);
    return r;
}

void guest_pager_run(struct guest_pager *pager)
{
    pthread_mutex_lock(&pager->mutex);
    pager->goes = true;
    pthread_cond_signal(&pager->changed);
    pthread_mutex_unlock(&pager->mutex);
}

void guest_pager_counts(const struct guest_pager *pager, struct guest_pager_counts *ret_counts)
{
    struct guest_pager *own = (struct guest_pager *)(uintptr_t)pager; /* for its mutex */

    pthread_mutex_lock(&own->mutex);
    uint64_t until_ns = pager->whole_ns ? pager->whole_ns : world_now_ns();
    *ret_counts = (struct guest_pager_counts){.bytes = pager->bytes,
                                              .pages_left = pager->left,
                                              .fault_pages = pager->fault_pages,
                                              .ns = until_ns - pager->begun_ns};
    pthread_mutex_unlock(&own->mutex);
    for (uint64_t n = 0; n < pager->index.count; n++) {
        for (unsigned i = 0; i < GUEST_INDEX_WORDS; i++)
            ret_counts->pages += (unsigned)__builtin_popcountll(pager->index.frames[n].mask[i]);
    }
    ret_counts->faults = __atomic_load_n(&pager->faults_heard, __ATOMIC_RELAXED);
}

struct guest_pager *guest_pager_free(struct guest_pager *pager)
{
    if (!pager)
        return NULL;
    const uint64_t one = 1;
    if (pager->hears)
        (void)!write(pager->stop_fd, &one, sizeof one); /* it has room: nobody else writes to it */
    pthread_mutex_lock(&pager->mutex);
    pager->ends = true;
    pthread_cond_signal(&pager->changed);
    pthread_mutex_unlock(&pager->mutex);
    if (pager->reads)
        pthread_join(pager->read_thread, NULL);
    if (pager->hears)
        pthread_join(pager->fault_thread, NULL);
    page_faults_close(&pager->faults);
    if (pager->is_kept_small)
        let_be_huge(pager, true);
    if (pager->frame_of)
        (void)munmap(pager->frame_of, pager->ram->pages * sizeof(uint32_t)); /* ours: cannot fail */
    reader_deinit(&pager->fault_reader);
    reader_deinit(&pager->file_reader);
    guest_index_deinit(&pager->index);
    free(pager->machine);
    close_p(&pager->fd);
    close_p(&pager->stop_fd);
    pthread_cond_destroy(&pager->changed);
    pthread_mutex_destroy(&pager->mutex);
    free(pager);
    return NULL;
}
