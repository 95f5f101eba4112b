/*      arrived: bits in `waiting` --take_step--> WRITE of each run, WAIT for them, again
 *
 * Bits go before the pages do: what comes meanwhile sets them again and goes out again.
 *
 * A medium may hang, and who waits for it then cannot be called back. So only the thread calls it, nobody waits for
 * the thread without an end, and all that it uses (the descriptor, too) lives until both have let go of it.
 */
#include "agent/vm/disk_outflow.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "agent/vm/disk_outflow_core.h"
#include "agent/vm/outflow_map.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "proto/limits.h"

enum { HOLD_MS = 1000, RUNS_MAX = 64, WORD_BYTES = OUTFLOW_MAP_WORD_PAGES * PAGE_BYTES };

struct run { /* neighbours, words of 64 pages */
    uint64_t word, words;
};

struct step {
    struct run runs[RUNS_MAX];
    unsigned count;
    uint64_t bytes;
};

struct disk_outflow {
    int fd; /* owned */

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t arrived, gone;
    unsigned holders;                       /* its owner, its thread: the last one frees it */
    bool is_ended, is_settling, is_settled; /* nothing more goes out; but one fdatasync; it has been */
    int error; /* errno of the first write that failed */
    struct outflow_map waiting;
    uint64_t at; /* the word where the next step begins */
    struct disk_outflow_core core;
};

/* Of the clock that the conditions wait by. */
static uint64_t clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for it */
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static int wait_until(struct disk_outflow *outflow, pthread_cond_t *what, uint64_t until_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ns / NS_PER_S),
                                   .tv_nsec = (long)(until_ns % NS_PER_S)};
    return until_ns == UINT64_MAX ? pthread_cond_wait(what, &outflow->lock)
                                  : pthread_cond_timedwait(what, &outflow->lock, &until);
}

/* ---- a step ---- */
static void add_word(struct step *step, uint64_t word)
{
    struct run *last = step->count ? &step->runs[step->count - 1] : NULL;

    if (last && last->word + last->words == word)
        last->words++;
    else
        step->runs[step->count++] = (struct run){.word = word, .words = 1};
}

/* The next ones that wait, in the file's order and round again. */
static void take_step(struct disk_outflow *outflow, struct step *ret_step)
{
    uint64_t word;

    ret_step->count = 0;
    ret_step->bytes = 0;
    while (ret_step->bytes < outflow->core.step_bytes && ret_step->count < RUNS_MAX &&
           outflow_map_next(&outflow->waiting, outflow->at, &word)) {
        ret_step->bytes += (uint64_t)outflow_map_take(&outflow->waiting, word) * PAGE_BYTES;
        add_word(ret_step, word);
        outflow->at = word + 1;
    }
}

/* Returns 0 or an errno. A wait tells of a write that failed and forgets it: no later fsync would tell it again. */
static int sync_runs(const struct disk_outflow *outflow, const struct step *step, unsigned how)
{
    int error = 0;

    for (unsigned i = 0; i < step->count; i++) {
        const struct run *run = &step->runs[i];
        if (sync_file_range(outflow->fd, (off_t)(run->word * WORD_BYTES),
                            (off_t)(run->words * WORD_BYTES), how) < 0)
            error = errno;
    }
    return error;
}

/* A disk as large as the host's memory would drive everybody's files out of it, and fresh memory costs more than
 * what was just used. Pages that were written again meanwhile stay. */
static void leave_cache(const struct disk_outflow *outflow, const struct step *step)
{
    for (unsigned i = 0; i < step->count; i++)
        (void)posix_fadvise(outflow->fd, (off_t)(step->runs[i].word * WORD_BYTES),
                            (off_t)(step->runs[i].words * WORD_BYTES), POSIX_FADV_DONTNEED); /* a wish */
}

static void note_error(struct disk_outflow *outflow, int error)
{
    if (error && !outflow->error)
        outflow->error = error;
}

static void do_step(struct disk_outflow *outflow)
{
    struct step step;

    take_step(outflow, &step);
    disk_outflow_core_begun(&outflow->core, step.bytes, clock_ns());
    (void)pthread_cond_broadcast(&outflow->gone);
    (void)pthread_mutex_unlock(&outflow->lock);
    int error = sync_runs(outflow, &step, SYNC_FILE_RANGE_WRITE);
    int wait_error = sync_runs(outflow, &step, SYNC_FILE_RANGE_WAIT_BEFORE);
    leave_cache(outflow, &step);
    (void)pthread_mutex_lock(&outflow->lock);
    note_error(outflow, error);
    note_error(outflow, wait_error);
    disk_outflow_core_ended(&outflow->core, clock_ns());
}

/* All errors that it was told of meanwhile are noted: an fdatasync tells each once. */
static void settle(struct disk_outflow *outflow)
{
    (void)pthread_mutex_unlock(&outflow->lock);
    int error = fdatasync(outflow->fd) < 0 ? errno : 0;
    (void)pthread_mutex_lock(&outflow->lock);
    note_error(outflow, error);
    outflow->is_settled = true;
    (void)pthread_cond_broadcast(&outflow->gone);
}

/* Under the lock, which it leaves. */
static void let_go(struct disk_outflow *outflow)
{
    bool is_last = --outflow->holders == 0;

    (void)pthread_mutex_unlock(&outflow->lock);
    if (!is_last)
        return;
    close_p(&outflow->fd); /* of some file systems that waits for the medium, too */
    outflow_map_deinit(&outflow->waiting);
    (void)pthread_cond_destroy(&outflow->arrived);
    (void)pthread_cond_destroy(&outflow->gone);
    (void)pthread_mutex_destroy(&outflow->lock);
    free(outflow);
}

static void *write_out(void *data)
{
    struct disk_outflow *outflow = data;

    thread_begin("disk out");
    (void)pthread_mutex_lock(&outflow->lock);
    while (!outflow->is_ended) {
        if (disk_outflow_core_is_due(&outflow->core, clock_ns()))
            do_step(outflow);
        else
            (void)wait_until(outflow, &outflow->arrived, disk_outflow_core_due_ns(&outflow->core));
    }
    if (outflow->is_settling)
        settle(outflow);
    while (outflow->holders > 1) /* the descriptor is closed here, wherever that takes long */
        (void)wait_until(outflow, &outflow->arrived, UINT64_MAX);
    let_go(outflow);
    return NULL;
}

/* ---- life ---- */
static int begin_thread(struct disk_outflow *outflow)
{
    pthread_t thread;
    pthread_attr_t attributes;

    outflow->holders = 2;
    (void)pthread_attr_init(&attributes); /* these cannot fail on Linux */
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int error = pthread_create(&thread, &attributes, write_out, outflow);
    (void)pthread_attr_destroy(&attributes);
    if (error)
        outflow->holders = 1;
    return error ? ERR_NOMEM : 0;
}

int disk_outflow_new(struct disk_outflow **ret_outflow, int fd, uint64_t pages)
{
    struct disk_outflow *outflow = calloc(1, sizeof *outflow);
    pthread_condattr_t attributes;

    if (!outflow)
        return ERR_NOMEM;
    outflow->fd = -1;
    outflow->holders = 1;
    disk_outflow_core_init(&outflow->core);
    (void)pthread_mutex_init(&outflow->lock, NULL); /* these cannot fail on Linux */
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&outflow->arrived, &attributes);
    (void)pthread_cond_init(&outflow->gone, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    int r = outflow_map_init(&outflow->waiting, pages);
    if (r == 0) {
        outflow->fd = fd; /* before the thread, which closes it */
        r = begin_thread(outflow);
    }
    if (r < 0) {
        outflow->fd = -1; /* still the caller's */
        (void)disk_outflow_free(outflow);
        return r;
    }
    *ret_outflow = outflow;
    return 0;
}

static void end_locked(struct disk_outflow *outflow)
{
    outflow->is_ended = true;
    (void)pthread_cond_broadcast(&outflow->arrived);
    (void)pthread_cond_broadcast(&outflow->gone);
}

struct disk_outflow *disk_outflow_free(struct disk_outflow *outflow)
{
    if (!outflow)
        return NULL;
    (void)pthread_mutex_lock(&outflow->lock);
    end_locked(outflow);
    let_go(outflow);
    return NULL;
}

int disk_outflow_settle(struct disk_outflow *outflow, unsigned ms_max)
{
    uint64_t until_ns = clock_ns() + ms_max * NS_PER_MS;
    int r = 0;

    (void)pthread_mutex_lock(&outflow->lock);
    outflow->is_settling = true;
    end_locked(outflow);
    while (!outflow->is_settled && r == 0)
        r = wait_until(outflow, &outflow->gone, until_ns);
    int error = outflow->is_settled ? outflow->error : ETIMEDOUT;
    (void)pthread_mutex_unlock(&outflow->lock);
    return error;
}

/* ---- what arrives ---- */
static uint64_t set_waiting(struct disk_outflow *outflow, uint64_t first_page,
                            const uint64_t mask[static 8])
{
    uint64_t first = first_page / OUTFLOW_MAP_WORD_PAGES, pages = 0;

    assert(first_page % OUTFLOW_MAP_WORD_PAGES == 0);
    for (unsigned i = 0; i < BLOCK_PAGES / OUTFLOW_MAP_WORD_PAGES; i++)
        pages += outflow_map_add(&outflow->waiting, first + i, mask[i]);
    return pages;
}

void disk_outflow_arrived(struct disk_outflow *outflow, uint64_t first_page,
                          const uint64_t mask[static 8])
{
    struct disk_outflow_core *core = &outflow->core;

    (void)pthread_mutex_lock(&outflow->lock);
    uint64_t now_ns = clock_ns(), until_ns = now_ns + HOLD_MS * NS_PER_MS;
    disk_outflow_core_arrived(core, set_waiting(outflow, first_page, mask) * PAGE_BYTES, now_ns);
    (void)pthread_cond_signal(&outflow->arrived);
    while (disk_outflow_core_holds(core) && !outflow->is_ended &&
           wait_until(outflow, &outflow->gone, until_ns) != ETIMEDOUT)
        ;
    (void)pthread_mutex_unlock(&outflow->lock);
}
