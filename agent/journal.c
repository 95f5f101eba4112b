#include "agent/journal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"

enum { SUM_DIGITS = 16, PENDING_MAX = 1 << 20 };

struct journal {
    struct loop *loop;
    int fd;
    char *pending; /* lines not yet given to the worker */
    size_t pending_count;
    bool writing;
    bool broken; /* the last write failed, and that was told */
    unsigned bad_lines;
    size_t tail_bytes;
};

struct journal_write {
    struct journal *journal;
    int fd;
    char *bytes;
    size_t count;
    int errno_value;
};

/* ---- the format ---- */
static const char *word(const char *text)
{
    return *text ? text : "-";
}

int journal_entry_encode(const struct journal_entry *entry, char ret_line[static JOURNAL_LINE_MAX])
{
    char text[JOURNAL_LINE_MAX];
    int n = snprintf(text, sizeof text,
                     "%" PRIu64 " %s vm=%s generation=%" PRIu64 " move=%s latch=%s incarnation=%s",
                     entry->unix_ms, word(entry->event), word(entry->vm_id), entry->generation,
                     word(entry->move_id), word(entry->latch), word(entry->incarnation));
    if (n < 0 || n + SUM_DIGITS + 2 >= JOURNAL_LINE_MAX)
        return ERR_LIMIT;
    return snprintf(ret_line, JOURNAL_LINE_MAX, "%016" PRIx64 " %s",
                    (uint64_t)XXH3_64bits(text, (size_t)n), text);
}

static void unword(char *text)
{
    if (strcmp(text, "-") == 0)
        *text = 0;
}

int journal_entry_decode(const char *line, size_t count, struct journal_entry *ret_entry)
{
    struct journal_entry entry = {0};
    char text[JOURNAL_LINE_MAX];
    uint64_t sum;

    if (count <= SUM_DIGITS + 1 || count >= sizeof text || memchr(line, 0, count))
        return ERR_CORRUPT;
    memcpy(text, line, count);
    text[count] = 0;
    if (sscanf(text, "%16" SCNx64, &sum) != 1 || text[SUM_DIGITS] != ' ' ||
        sum != XXH3_64bits(text + SUM_DIGITS + 1, count - SUM_DIGITS - 1))
        return ERR_CORRUPT;
    if (sscanf(text + SUM_DIGITS + 1,
               "%" SCNu64 " %63s vm=%63s generation=%" SCNu64
               " move=%63s latch=%63s incarnation=%63s",
               &entry.unix_ms, entry.event, entry.vm_id, &entry.generation, entry.move_id,
               entry.latch, entry.incarnation) != 7)
        return ERR_CORRUPT;
    unword(entry.event);
    unword(entry.vm_id);
    unword(entry.move_id);
    unword(entry.latch);
    unword(entry.incarnation);
    *ret_entry = entry;
    return 0;
}

/* ---- reading back ---- */
static int read_back(struct journal *journal, const char *path,
                     void (*on_entry)(void *data, const struct journal_entry *entry), void *data,
                     struct fault *fault)
{
    AUTO(free_p) char *text = NULL;
    struct stat status;

    if (fstat(journal->fd, &status) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "looking at %s", path);
    if (status.st_size == 0)
        return 0;
    size_t size = (size_t)status.st_size;
    text = malloc(size);
    if (!text)
        return fault_set(fault, ERR_NOMEM, "no memory to read %s", path);
    ssize_t n = pread(journal->fd, text, size, 0);
    if (n < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading %s", path);
    size = (size_t)n;

    size_t at = 0;
    for (char *end; at < size && (end = memchr(text + at, '\n', size - at));
         at = (size_t)(end - text) + 1) {
        struct journal_entry entry;
        if (journal_entry_decode(text + at, (size_t)(end - text) - at, &entry) == 0)
            on_entry(data, &entry);
        else
            journal->bad_lines++;
    }
    journal->tail_bytes = size - at;
    if (journal->tail_bytes && ftruncate(journal->fd, (off_t)at) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "cutting the torn end off %s", path);
    return 0;
}

static int make_room(struct journal *journal, const char *path, struct fault *fault)
{
    struct stat status;

    if (fstat(journal->fd, &status) < 0 || status.st_size < JOURNAL_BYTES_MAX)
        return 0;
    AUTO_FREE char *old = NULL;
    if (asprintf(&old, "%s.old", path) < 0) {
        old = NULL;
        return fault_set(fault, ERR_NOMEM, "no memory for a path");
    }
    if (rename(path, old) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "setting %s aside", path);
    close_p(&journal->fd);
    journal->fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (journal->fd < 0)
        return fault_set_errno(fault, ERR_IO, errno, "opening %s", path);
    return 0;
}

int journal_new(struct journal **ret_journal, struct loop *loop, const char *path,
                void (*on_entry)(void *data, const struct journal_entry *entry), void *data,
                struct fault *fault)
{
    struct journal *journal = calloc(1, sizeof *journal);
    if (!journal)
        return fault_set(fault, ERR_NOMEM, "no memory for a journal");

    journal->loop = loop;
    journal->fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    int r = 0;
    if (journal->fd < 0)
        r = fault_set_errno(fault, err_from_errno(errno), errno, "opening %s", path);
    if (r == 0)
        r = read_back(journal, path, on_entry, data, fault);
    if (r == 0)
        r = make_room(journal, path, fault);
    if (r < 0) {
        (void)journal_free(journal);
        return r;
    }
    if (journal->bad_lines || journal->tail_bytes)
        log_warn("journal", "%s: %u damaged lines, %zu bytes of a torn end cut off", path,
                 journal->bad_lines, journal->tail_bytes);
    *ret_journal = journal;
    return 0;
}

/* ---- writing ---- */
static void write_work(void *data)
{
    struct journal_write *job = data;
    size_t done = 0;

    while (done < job->count && !job->errno_value) {
        ssize_t n = write(job->fd, job->bytes + done, job->count - done);
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR)
            job->errno_value = errno;
    }
    if (!job->errno_value && fdatasync(job->fd) < 0)
        job->errno_value = errno;
}

static void write_start(struct journal *journal);

static void write_done(void *data)
{
    struct journal_write *job = data;
    struct journal *journal = job->journal;

    if (job->errno_value && !journal->broken)
        log_error("journal", "cannot be written, VMs go on without it: %s",
                  strerror(job->errno_value));
    if (!job->errno_value && journal->broken)
        log_info("journal", "can be written again");
    journal->broken = job->errno_value != 0;
    journal->writing = false;
    free(job->bytes);
    free(job);
    write_start(journal);
}

static void write_start(struct journal *journal)
{
    if (journal->writing || !journal->pending_count)
        return;
    struct journal_write *job = calloc(1, sizeof *job);
    if (!job)
        return; /* with the next entry */
    job->journal = journal;
    job->fd = journal->fd;
    job->bytes = TAKE(journal->pending);
    job->count = journal->pending_count;
    journal->pending_count = 0;
    journal->writing = true;
    if (loop_work(journal->loop, write_work, write_done, job) < 0) {
        write_work(job); /* better late on this thread than never */
        write_done(job);
    }
}

void journal_put(struct journal *journal, const struct journal_entry *entry)
{
    struct journal_entry dated = *entry;
    char line[JOURNAL_LINE_MAX];

    dated.unix_ms = world_wall_ms();
    int count = journal_entry_encode(&dated, line);
    assert(count > 0); /* every word of an entry is bounded */
    line[count++] = '\n';
    if (journal->pending_count + (size_t)count > PENDING_MAX)
        return; /* the disk has been away for thousands of entries, and that was told */
    char *pending = realloc(journal->pending, journal->pending_count + (size_t)count);
    if (!pending) {
        log_error("journal", "no memory for an entry: %.*s", count - 1, line);
        return;
    }
    memcpy(pending + journal->pending_count, line, (size_t)count);
    journal->pending = pending;
    journal->pending_count += (size_t)count;
    write_start(journal);
}

struct journal *journal_free(struct journal *journal)
{
    if (!journal)
        return NULL;
    if (journal->fd >= 0)
        write_start(journal);
    while (journal->writing)
        loop_turn(journal->loop, true); /* in order, and the worker holds a pointer to us */
    free(journal->pending);
    close_p(&journal->fd);
    free(journal);
    return NULL;
}

void journal_damage(const struct journal *journal, unsigned *ret_lines, size_t *ret_tail_bytes)
{
    *ret_lines = journal->bad_lines;
    *ret_tail_bytes = journal->tail_bytes;
}
