#include "migrate/replica_journal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"

#define HEAD_MAGIC UINT64_C(0x314441454a525747)  /* "GWRJEAD1" */
#define LOG_MAGIC UINT64_C(0x31474f4c4a525747)   /* "GWRJLOG1" */
#define ENTRY_MAGIC UINT64_C(0x3152544e4a525747) /* "GWRJNTR1" */
#define END_MAGIC UINT64_C(0x31444e454a525747)   /* "GWRJEND1" */

enum {
    HEAD_STRIDE = 4096,
    HEAD_DISKS_AT = 88,
    HEAD_DISKS_MAX = DISKS_MAX + 1,
    HEAD_DIGEST_AT = HEAD_DISKS_AT + 8 * HEAD_DISKS_MAX,
    HEAD_BYTES = HEAD_DIGEST_AT + 8,
    LOG_AT = 8192,
    LOG_BYTES = 72,   /* magic, id, base id, counter of the head below, chain */
    ENTRY_BYTES = 48, /* magic, disk, page, has data, digest of the data, chain */
    END_BYTES = 56,   /* magic, entries, sum, disks' sum, has RAM, zero, chain */
};

static_assert(HEAD_BYTES <= 512, "a head is one sector: it is there or it is not");
static_assert(2 * HEAD_STRIDE <= LOG_AT, "heads stand before the log");

struct replica_journal {
    const struct replica_journal_io *io;
    void *owner;
    const uint64_t *disk_bytes;
    unsigned disks;

    struct replica_journal_held held; /* what is held: of the head, or of the log once committed */
    uint64_t counter;                 /* of the newest head */

    bool in_log, is_committed;
    struct replica_id next;
    uint64_t log_end, entries, chain;
    uint64_t log_most;  /* where a log has to end */
    uint64_t file_most; /* how long the file may have become */
};

static uint64_t digest(const void *bytes, size_t count)
{
    return replica_frame_digest(bytes, count);
}

static int fail(struct fault *fault, int error, const char *doing)
{
    return fault_set_errno(fault, error == ENOSPC || error == EDQUOT ? ERR_LIMIT : ERR_IO, error,
                           "%s", doing);
}

static int write_at(struct replica_journal *journal, unsigned file, const void *bytes, size_t count,
                    uint64_t offset, struct fault *fault)
{
    int error = journal->io->write(journal->owner, file, bytes, count, offset);
    return error ? fail(fault, error,
                        file ? "writing a replica's disk" : "writing a replica's journal")
                 : 0;
}

static int read_at(struct replica_journal *journal, unsigned file, void *ret_bytes, size_t count,
                   uint64_t offset, struct fault *fault)
{
    int error = journal->io->read(journal->owner, file, ret_bytes, count, offset);
    return error ? fail(fault, error, "reading a replica's journal") : 0;
}

static int sync_file(struct replica_journal *journal, unsigned file, struct fault *fault)
{
    int error = journal->io->sync(journal->owner, file);
    return error ? fail(fault, error, "making a replica's checkpoint durable") : 0;
}

static int sync_disks(struct replica_journal *journal, struct fault *fault)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < journal->disks; i++)
        r = sync_file(journal, 1 + i, fault);
    return r;
}

static void put_id(uint8_t *at, const struct replica_id *id)
{
    bytes_put_u64(at, id->generation);
    bytes_put_u64(at + 8, id->session);
    bytes_put_u64(at + 16, id->seq);
}

static struct replica_id get_id(const uint8_t *at)
{
    return (struct replica_id){bytes_get_u64(at), bytes_get_u64(at + 8), bytes_get_u64(at + 16)};
}

/* ---- heads ---- */
static int write_head(struct replica_journal *journal, const struct replica_journal_held *held,
                      struct fault *fault)
{
    uint8_t head[HEAD_BYTES] = {0};
    uint64_t counter = journal->counter + 1;

    bytes_put_u64(head, HEAD_MAGIC);
    bytes_put_u64(head + 8, counter);
    put_id(head + 16, &held->held.id);
    bytes_put_u64(head + 40, held->held.sum);
    bytes_put_u64(head + 48, held->disks_sum);
    bytes_put_u64(head + 56, held->has_ram ? 1 : 0);
    bytes_put_u64(head + 64, journal->disks);
    for (unsigned i = 0; i < journal->disks; i++)
        bytes_put_u64(head + HEAD_DISKS_AT + 8 * i, journal->disk_bytes[i]);
    bytes_put_u64(head + HEAD_DIGEST_AT, digest(head, HEAD_DIGEST_AT));
    int r = write_at(journal, 0, head, sizeof head, counter % 2 * HEAD_STRIDE, fault);
    if (r == 0)
        r = sync_file(journal, 0, fault);
    if (r == 0)
        journal->counter = counter;
    return r;
}

/* Is it one? Then *ret_counter tells how new. */
static int judge_head(const struct replica_journal *journal, const uint8_t head[static HEAD_BYTES],
                      uint64_t *ret_counter, struct replica_journal_held *ret_held,
                      struct fault *fault)
{
    *ret_counter = 0;
    if (bytes_get_u64(head) != HEAD_MAGIC ||
        bytes_get_u64(head + HEAD_DIGEST_AT) != digest(head, HEAD_DIGEST_AT))
        return 0; /* none, or one that was being written */
    bool fits = bytes_get_u64(head + 64) == journal->disks;
    for (unsigned i = 0; fits && i < journal->disks; i++)
        fits = bytes_get_u64(head + HEAD_DISKS_AT + 8 * i) == journal->disk_bytes[i];
    if (!fits)
        return fault_set(fault, ERR_CORRUPT, "the replica's journal is of other disks");
    *ret_counter = bytes_get_u64(head + 8);
    *ret_held = (struct replica_journal_held){
        .held = {.id = get_id(head + 16), .sum = bytes_get_u64(head + 40)},
        .disks_sum = bytes_get_u64(head + 48),
        .has_ram = bytes_get_u64(head + 56) == 1,
    };
    return 0;
}

static int read_heads(struct replica_journal *journal, struct fault *fault)
{
    for (unsigned i = 0; i < 2; i++) {
        uint8_t head[HEAD_BYTES];
        struct replica_journal_held held = {0};
        uint64_t counter = 0;
        int r = read_at(journal, 0, head, sizeof head, (uint64_t)i * HEAD_STRIDE, fault);
        if (r == 0)
            r = judge_head(journal, head, &counter, &held, fault);
        if (r < 0)
            return r;
        if (counter > journal->counter) {
            journal->counter = counter;
            journal->held = held;
        }
    }
    return 0;
}

/* ---- the log: encode and judge ---- */
static uint64_t put_log(const struct replica_journal *journal, const struct replica_id *id,
                        uint8_t ret_bytes[static LOG_BYTES])
{
    bytes_put_u64(ret_bytes, LOG_MAGIC);
    put_id(ret_bytes + 8, id);
    put_id(ret_bytes + 32, &journal->held.held.id);
    bytes_put_u64(ret_bytes + 56, journal->counter);
    uint64_t chain = digest(ret_bytes, LOG_BYTES - 8);
    bytes_put_u64(ret_bytes + LOG_BYTES - 8, chain);
    return chain;
}

/* Close bytes whose last 8 are the chain: it covers them and all before. */
static uint64_t link_chain(uint64_t chain, uint8_t *bytes, size_t count)
{
    bytes_put_u64(bytes + count - 8, chain);
    uint64_t next = digest(bytes, count);
    bytes_put_u64(bytes + count - 8, next);
    return next;
}

static bool chain_fits(uint64_t chain, const uint8_t *bytes, size_t count, uint64_t *ret_next)
{
    uint8_t copy[ENTRY_BYTES > END_BYTES ? ENTRY_BYTES : END_BYTES];
    memcpy(copy, bytes, count);
    *ret_next = link_chain(chain, copy, count);
    return *ret_next == bytes_get_u64(bytes + count - 8);
}

/* One walk over a log. */
struct walk {
    uint64_t at, chain, entries;
    bool writes; /* to the disks */
};

static bool page_is_inside(const struct replica_journal *journal, uint64_t disk, uint64_t page)
{
    return disk < journal->disks &&
           page < (journal->disk_bytes[disk] + PAGE_BYTES - 1) / PAGE_BYTES;
}

/* The last page of a disk may be a part. */
static size_t page_bytes(const struct replica_journal *journal, unsigned disk, uint64_t page)
{
    uint64_t left = journal->disk_bytes[disk] - page * PAGE_BYTES;
    return left < PAGE_BYTES ? (size_t)left : PAGE_BYTES;
}

/* *ret_whole is false when the log ends here without an end. */
static int walk_entry(struct replica_journal *journal, struct walk *walk,
                      const uint8_t entry[static ENTRY_BYTES], bool *ret_whole, struct fault *fault)
{
    uint8_t page[PAGE_BYTES] = {0};
    uint64_t disk = bytes_get_u64(entry + 8), number = bytes_get_u64(entry + 16), next;
    bool has_data = bytes_get_u64(entry + 24) == 1;

    *ret_whole = false;
    if (!chain_fits(walk->chain, entry, ENTRY_BYTES, &next) ||
        !page_is_inside(journal, disk, number))
        return 0;
    walk->at += ENTRY_BYTES;
    if (has_data) {
        int r = read_at(journal, 0, page, sizeof page, walk->at, fault);
        if (r < 0)
            return r;
        if (digest(page, sizeof page) != bytes_get_u64(entry + 32))
            return 0;
        walk->at += PAGE_BYTES;
    }
    walk->chain = next;
    walk->entries++;
    *ret_whole = true;
    if (!walk->writes)
        return 0;
    return write_at(journal, 1 + (unsigned)disk, page, page_bytes(journal, (unsigned)disk, number),
                    number * PAGE_BYTES, fault);
}

/* Walks the log from its beginning. *ret_whole: it has an end, and *ret_held is what it makes. */
static int walk_log(struct replica_journal *journal, bool writes, bool *ret_whole,
                    struct replica_journal_held *ret_held, struct fault *fault)
{
    uint8_t bytes[LOG_BYTES], expected[LOG_BYTES];
    struct walk walk = {.at = LOG_AT + LOG_BYTES, .writes = writes};

    *ret_whole = false;
    int r = read_at(journal, 0, bytes, sizeof bytes, LOG_AT, fault);
    if (r < 0)
        return r;
    const struct replica_id id = get_id(bytes + 8);
    walk.chain = put_log(journal, &id, expected);
    if (id.seq == 0 || memcmp(bytes, expected, sizeof bytes) != 0)
        return 0; /* none, or not upon what the disks are */
    for (;;) {
        uint8_t item[ENTRY_BYTES > END_BYTES ? ENTRY_BYTES : END_BYTES];
        r = read_at(journal, 0, item, sizeof item, walk.at, fault);
        if (r < 0)
            return r;
        if (bytes_get_u64(item) == END_MAGIC) {
            uint64_t next;
            *ret_whole = chain_fits(walk.chain, item, END_BYTES, &next) &&
                         bytes_get_u64(item + 8) == walk.entries;
            *ret_held = (struct replica_journal_held){
                .held = {.id = id, .sum = bytes_get_u64(item + 16)},
                .disks_sum = bytes_get_u64(item + 24),
                .has_ram = bytes_get_u64(item + 32) == 1,
            };
            return 0;
        }
        bool goes_on = false;
        if (bytes_get_u64(item) == ENTRY_MAGIC)
            r = walk_entry(journal, &walk, item, &goes_on, fault);
        if (r < 0 || !goes_on)
            return r;
    }
}

/* The log is whole and durable: into the disks, then the head says so. Done again after a crash it
 * comes to the same. */
static int redo(struct replica_journal *journal, const struct replica_journal_held *held,
                struct fault *fault)
{
    struct replica_journal_held walked;
    bool is_whole = false;

    int r = walk_log(journal, true, &is_whole, &walked, fault);
    if (r == 0 && !is_whole)
        r = fault_set(fault, ERR_CORRUPT, "the replica's journal changed while it was read");
    if (r == 0)
        r = sync_disks(journal, fault);
    return r < 0 ? r : write_head(journal, held, fault);
}

/* ---- life ---- */
int replica_journal_new(struct replica_journal **ret_journal, const struct replica_journal_io *io,
                        void *owner, const uint64_t *disk_bytes, unsigned disks,
                        struct fault *fault)
{
    if (disks > HEAD_DISKS_MAX)
        return fault_set(fault, ERR_LIMIT, "%u disks, a replica keeps at most %d", disks,
                         HEAD_DISKS_MAX);
    struct replica_journal *journal = calloc(1, sizeof *journal);
    if (!journal)
        return fault_set(fault, ERR_NOMEM, "no memory for a replica's journal");
    journal->io = io;
    journal->owner = owner;
    journal->disk_bytes = disk_bytes;
    journal->disks = disks;
    journal->file_most = UINT64_MAX; /* until it was cut once */
    journal->log_most = LOG_AT + REPLICA_JOURNAL_KEPT_BYTES;
    for (unsigned i = 0; i < disks; i++)
        journal->log_most +=
            2 * ((disk_bytes[i] + PAGE_BYTES - 1) / PAGE_BYTES) * (ENTRY_BYTES + PAGE_BYTES);

    struct replica_journal_held held = {0};
    bool is_whole = false;
    int r = read_heads(journal, fault);
    if (r == 0 && journal->held.held.id.seq)
        r = walk_log(journal, false, &is_whole, &held, fault);
    if (r == 0 && is_whole) {
        r = redo(journal, &held, fault);
        journal->held = held;
    }
    if (r < 0) {
        (void)replica_journal_free(journal);
        return r;
    }
    *ret_journal = journal;
    return 0;
}

struct replica_journal *replica_journal_free(struct replica_journal *journal)
{
    free(journal);
    return NULL;
}

const struct replica_journal_held *replica_journal_held(const struct replica_journal *journal)
{
    return &journal->held;
}

uint64_t replica_journal_bytes(const struct replica_journal *journal)
{
    return journal->in_log ? journal->log_end - LOG_AT : 0;
}

int replica_journal_void(struct replica_journal *journal, struct fault *fault)
{
    const struct replica_journal_held none = {
        .held.id.generation = journal->held.held.id.generation}; /* older sources stay out */

    assert(!journal->is_committed);
    journal->in_log = false;
    int r = write_head(journal, &none, fault);
    if (r == 0)
        journal->held = none;
    return r;
}

/* ---- the next checkpoint ---- */
/* Nothing in its log is needed. A cut that fails costs space. */
static void cut_down(struct replica_journal *journal)
{
    if (journal->file_most > REPLICA_JOURNAL_KEPT_BYTES && journal->io->cut &&
        journal->io->cut(journal->owner, 0, LOG_AT) == 0)
        journal->file_most = LOG_AT;
}

int replica_journal_begin(struct replica_journal *journal, const struct replica_id *id,
                          struct fault *fault)
{
    uint8_t bytes[LOG_BYTES];

    assert(id->seq && !journal->is_committed);
    cut_down(journal);
    journal->next = *id;
    journal->entries = 0;
    journal->in_log = journal->held.held.id.seq != 0;
    if (!journal->in_log)
        return 0; /* straight to the disks */
    journal->chain = put_log(journal, id, bytes);
    journal->log_end = LOG_AT + LOG_BYTES;
    return write_at(journal, 0, bytes, sizeof bytes, LOG_AT, fault);
}

int replica_journal_add(struct replica_journal *journal, unsigned disk, uint64_t page,
                        const uint8_t *bytes, struct fault *fault)
{
    static const uint8_t zeros[PAGE_BYTES];
    uint8_t entry[ENTRY_BYTES + PAGE_BYTES] = {0};

    assert(journal->next.seq && page_is_inside(journal, disk, page));
    if (!journal->in_log)
        return write_at(journal, 1 + disk, bytes ? bytes : zeros, page_bytes(journal, disk, page),
                        page * PAGE_BYTES, fault);
    bytes_put_u64(entry, ENTRY_MAGIC);
    bytes_put_u64(entry + 8, disk);
    bytes_put_u64(entry + 16, page);
    bytes_put_u64(entry + 24, bytes ? 1 : 0);
    if (bytes) {
        memcpy(entry + ENTRY_BYTES, bytes, PAGE_BYTES);
        bytes_put_u64(entry + 32, digest(bytes, PAGE_BYTES));
    }
    uint64_t next = link_chain(journal->chain, entry, ENTRY_BYTES);
    size_t count = ENTRY_BYTES + (bytes ? PAGE_BYTES : 0);
    if (journal->log_end + count > journal->log_most)
        return fault_set(
            fault, ERR_LIMIT,
            "one checkpoint writes its disks more than twice over: no room in the journal");
    if (journal->log_end + count > journal->file_most)
        journal->file_most = journal->log_end + count;
    int r = write_at(journal, 0, entry, count, journal->log_end, fault);
    if (r < 0)
        return r;
    journal->chain = next;
    journal->log_end += count;
    journal->entries++;
    return 0;
}

static int commit_log(struct replica_journal *journal, const struct replica_journal_held *held,
                      struct fault *fault)
{
    uint8_t end[END_BYTES] = {0};

    bytes_put_u64(end, END_MAGIC);
    bytes_put_u64(end + 8, journal->entries);
    bytes_put_u64(end + 16, held->held.sum);
    bytes_put_u64(end + 24, held->disks_sum);
    bytes_put_u64(end + 32, held->has_ram ? 1 : 0);
    (void)link_chain(journal->chain, end, sizeof end);
    int r = write_at(journal, 0, end, sizeof end, journal->log_end, fault);
    return r < 0 ? r : sync_file(journal, 0, fault);
}

int replica_journal_commit(struct replica_journal *journal, const struct replica_journal_held *held,
                           struct fault *fault)
{
    assert(replica_id_equal(&held->held.id, &journal->next));
    int r;
    if (journal->in_log) {
        r = commit_log(journal, held, fault);
    } else {
        r = sync_disks(journal, fault);
        if (r == 0)
            r = write_head(journal, held, fault);
    }
    if (r < 0)
        return r;
    journal->is_committed = journal->in_log;
    if (!journal->is_committed)
        journal->held = *held;
    journal->next = (struct replica_id){0};
    return 0;
}

int replica_journal_apply(struct replica_journal *journal, struct fault *fault)
{
    struct replica_journal_held held = {0};
    bool is_whole = false;

    if (!journal->is_committed)
        return 0;
    int r = walk_log(journal, false, &is_whole, &held, fault);
    if (r == 0 && !is_whole)
        r = fault_set(fault, ERR_CORRUPT, "the replica's journal is not what was written to it");
    if (r == 0)
        r = redo(journal, &held, fault);
    if (r < 0)
        return r;
    journal->held = held;
    journal->is_committed = journal->in_log = false;
    cut_down(journal);
    return 0;
}

int replica_journal_mend(struct replica_journal *journal, struct fault *fault)
{
    static const uint8_t nothing[LOG_BYTES];

    if (journal->is_committed)
        return replica_journal_apply(journal, fault);
    if (!journal->in_log)
        return fault_set(fault, ERR_STATE, "no whole checkpoint is on these disks");
    int r = write_at(journal, 0, nothing, sizeof nothing, LOG_AT, fault);
    if (r == 0)
        r = sync_file(journal, 0, fault);
    if (r < 0)
        return r;
    journal->in_log = false;
    journal->next = (struct replica_id){0};
    return 0;
}

/* ---- over files ---- */
static int file_read(void *owner, unsigned file, void *ret_bytes, size_t count, uint64_t offset)
{
    const int *fds = owner;
    uint8_t *at = ret_bytes;

    while (count) {
        ssize_t got = pread(fds[file], at, count, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno;
        if (got == 0) {
            memset(at, 0, count);
            return 0;
        }
        at += got;
        offset += (uint64_t)got;
        count -= (size_t)got;
    }
    return 0;
}

static int file_write(void *owner, unsigned file, const void *bytes, size_t count, uint64_t offset)
{
    const int *fds = owner;
    const uint8_t *at = bytes;

    while (count) {
        ssize_t put = pwrite(fds[file], at, count, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return errno;
        at += put;
        offset += (uint64_t)put;
        count -= (size_t)put;
    }
    return 0;
}

static int file_sync(void *owner, unsigned file)
{
    const int *fds = owner;
    return fdatasync(fds[file]) < 0 ? errno : 0;
}

static int file_cut(void *owner, unsigned file, uint64_t bytes)
{
    const int *fds = owner;
    return ftruncate(fds[file], (off_t)bytes) < 0 ? errno : 0;
}

const struct replica_journal_io replica_journal_file_io = {
    .read = file_read, .write = file_write, .sync = file_sync, .cut = file_cut};
