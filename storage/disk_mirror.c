/* One thread copies, in this order: requests that wait for it, then what is known to differ, then what
 * is to be read back. So nothing that it reads can be older than what it has written, and a mirrored
 * write costs the guest one turn of at most RUN_BYTES.
 *
 *      disk: finish --take--> COPYING: bits in `written`
 *                             CLOSING and later: `waiting` --serve: blocks, fsync--> threads' done
 *      thread: bits are cleared, then the block is read (a later write sets them again)
 */
#include "storage/disk_mirror.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "storage/disk.h"
#include "storage/disk_file.h"
#include "storage/disk_threads.h"

enum {
    BLOCK = DISK_MIRROR_BLOCK_BYTES,
    BLOCK_SHIFT = 16,
    PAGES_A_BLOCK = BLOCK / PAGE_BYTES,
    RUN_BLOCKS = 16,
    RUN_BYTES = RUN_BLOCKS * BLOCK,
    HEAT_CLASSES = 4, /* how often a block was found written again: 0, 1, 2, more */
    CLOSE_BYTES = 8 << 20, /* so little is left: end it */
    PASSES_MAX = 12,
    RETRY_MS = 200,
};

static_assert(1 << BLOCK_SHIFT == BLOCK, "blocks are powers of two");
static_assert(PAGES_A_BLOCK <= 64 && 64 % PAGES_A_BLOCK == 0, "a block's bits lie in one word");

struct disk_mirror {
    /* set before start, read by all */
    struct disk_file target;
    int source_fd;
    uint64_t bytes, blocks;
    uint64_t rate_bytes_per_s;
    bool has_thread;
    pthread_t thread;

    struct bitmap written; /* pages; set under the lock, cleared by the thread: atomic */

    /* the thread's */
    struct bitmap todo; /* blocks of this pass */
    uint64_t at;        /* in it */
    unsigned heat_class;
    uint8_t *heat;     /* a block each */
    uint64_t *digests; /* a block each; 0: it is empty at the target */
    uint8_t *run;      /* RUN_BYTES, aligned */
    uint64_t left_before;
    uint64_t due_ns; /* not before, by the rate */
    uint64_t verify_at;

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t changed;
    enum disk_mirror_state state;
    bool decided, is_over, serving;
    struct disk_request *waiting, **waiting_end;
    struct disk_threads *threads; /* whose those are */
    struct disk_mirror_status status;
};

/* Of the clock that the condition waits by. */
static uint64_t clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for it */
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void lock(struct disk_mirror *mirror)
{
    (void)pthread_mutex_lock(&mirror->lock);
}

static void unlock(struct disk_mirror *mirror)
{
    (void)pthread_mutex_unlock(&mirror->lock);
}

/* ---- life ---- */
static void disk_mirror_freep(struct disk_mirror **mirror)
{
    *mirror = disk_mirror_free(*mirror);
}

static int init_memory(struct disk_mirror *mirror, struct fault *fault)
{
    void *run = NULL;

    mirror->heat = calloc(mirror->blocks, sizeof *mirror->heat);
    mirror->digests = calloc(mirror->blocks, sizeof *mirror->digests);
    bool ok = mirror->heat && mirror->digests &&
              bitmap_init(&mirror->written, mirror->blocks * PAGES_A_BLOCK) == 0 &&
              bitmap_init(&mirror->todo, mirror->blocks) == 0 &&
              posix_memalign(&run, PAGE_BYTES, RUN_BYTES) == 0;
    mirror->run = run;
    return ok ? 0 : fault_set(fault, ERR_NOMEM, "no memory to mirror a disk");
}

int disk_mirror_new(struct disk_mirror **ret_mirror, const struct disk_mirror_config *config,
                    struct fault *fault)
{
    AUTO(disk_mirror_freep) struct disk_mirror *mirror = calloc(1, sizeof *mirror);
    if (!mirror)
        return fault_set(fault, ERR_NOMEM, "no memory to mirror a disk");
    assert(config->bytes > 0 && config->bytes % DISK_SECTOR_BYTES == 0);
    mirror->source_fd = mirror->target.fd = -1;
    mirror->bytes = mirror->status.bytes = config->bytes;
    mirror->blocks = (config->bytes + BLOCK - 1) >> BLOCK_SHIFT;
    mirror->rate_bytes_per_s = config->rate_bytes_per_s;
    mirror->waiting_end = &mirror->waiting;
    (void)pthread_mutex_init(&mirror->lock, NULL); /* cannot fail on Linux */
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&mirror->changed, &attributes); /* as above */
    (void)pthread_condattr_destroy(&attributes);
    int r = init_memory(mirror, fault);
    if (r == 0)
        r = disk_file_open(&mirror->target, config->target_fd, false, config->cached, fault);
    if (r < 0)
        return r;
    if (mirror->target.bytes != config->bytes) {
        uint64_t found = mirror->target.bytes;
        mirror->target.fd = -1; /* still the caller's */
        return fault_set(fault, ERR_INVALID, "the target has %llu bytes, the disk %llu",
                         (unsigned long long)found, (unsigned long long)config->bytes);
    }
    mirror->source_fd = config->source_fd;
    bitmap_set_all(&mirror->written); /* the first pass sends all */
    *ret_mirror = TAKE(mirror);
    return 0;
}

struct disk_mirror *disk_mirror_free(struct disk_mirror *mirror)
{
    if (!mirror)
        return NULL;
    if (mirror->has_thread) {
        lock(mirror);
        if (mirror->state <= DISK_MIRROR_PROMISED) /* decided or not: it has no disk any more */
            mirror->state = DISK_MIRROR_OFF;
        (void)pthread_cond_broadcast(&mirror->changed);
        unlock(mirror);
        int r = pthread_join(mirror->thread, NULL);
        assert(r == 0);
        (void)r;
    }
    assert(!mirror->waiting);
    disk_file_close(&mirror->target);
    close_p(&mirror->source_fd);
    bitmap_deinit(&mirror->written);
    bitmap_deinit(&mirror->todo);
    free(mirror->heat);
    free(mirror->digests);
    free(mirror->run);
    (void)pthread_cond_destroy(&mirror->changed);
    (void)pthread_mutex_destroy(&mirror->lock);
    free(mirror);
    return NULL;
}

/* ---- what others ask ---- */
void disk_mirror_status(struct disk_mirror *mirror, struct disk_mirror_status *ret_status)
{
    lock(mirror);
    *ret_status = mirror->status;
    ret_status->state = mirror->state;
    unlock(mirror);
}

static int refuse(const struct disk_mirror *mirror, const char *what, struct fault *fault)
{
    if (mirror->status.fault.code)
        return fault_set(fault, ERR_STATE, "the mirror cannot be %s: %.300s", what,
                         mirror->status.fault.text);
    return fault_set(fault, ERR_STATE, "the mirror cannot be %s in its state %d", what,
                     (int)mirror->state);
}

int disk_mirror_promise(struct disk_mirror *mirror, struct fault *fault)
{
    lock(mirror);
    if (mirror->state == DISK_MIRROR_EQUAL)
        mirror->state = DISK_MIRROR_PROMISED;
    bool is_promised =
        mirror->state == DISK_MIRROR_PROMISED || mirror->state == DISK_MIRROR_SWITCHED;
    int r = is_promised ? 0 : refuse(mirror, "promised", fault);
    unlock(mirror);
    return r;
}

int disk_mirror_decide(struct disk_mirror *mirror, struct fault *fault)
{
    lock(mirror);
    bool may = mirror->state == DISK_MIRROR_PROMISED || mirror->state == DISK_MIRROR_SWITCHED;
    int r = may ? 0 : refuse(mirror, "decided", fault);
    mirror->decided = mirror->decided || may;
    (void)pthread_cond_broadcast(&mirror->changed);
    unlock(mirror);
    return r;
}

int disk_mirror_abort(struct disk_mirror *mirror, struct fault *fault)
{
    lock(mirror);
    int r = mirror->decided ? refuse(mirror, "given up, it was decided", fault) : 0;
    if (r == 0 && mirror->state != DISK_MIRROR_FAILED)
        mirror->state = DISK_MIRROR_OFF;
    (void)pthread_cond_broadcast(&mirror->changed);
    unlock(mirror);
    return r;
}

bool disk_mirror_is_over(struct disk_mirror *mirror)
{
    lock(mirror);
    bool is_over = mirror->is_over || !mirror->has_thread;
    unlock(mirror);
    return is_over;
}

/* ---- the disk's side ---- */
static void note(struct disk_mirror *mirror, const struct disk_request *request)
{
    uint64_t end = (request->offset + request->bytes + PAGE_BYTES - 1) >> PAGE_SHIFT;

    for (uint64_t page = request->offset >> PAGE_SHIFT; page < end; page++)
        bitmap_set_atomic(&mirror->written, page);
}

bool disk_mirror_take(struct disk_mirror *mirror, struct disk_request *request,
                      struct disk_threads *threads)
{
    bool is_taken = false;

    lock(mirror);
    switch (mirror->state) {
    case DISK_MIRROR_COPYING:
        if (request->op != DISK_FLUSH)
            note(mirror, request);
        break;
    case DISK_MIRROR_CLOSING:
    case DISK_MIRROR_EQUAL:
    case DISK_MIRROR_PROMISED:
        request->mirrored = true;
        request->next = NULL;
        *mirror->waiting_end = request;
        mirror->waiting_end = &request->next;
        mirror->threads = threads;
        mirror->status.mirrored++;
        (void)pthread_cond_broadcast(&mirror->changed);
        is_taken = true;
        break;
    case DISK_MIRROR_SWITCHED:
    case DISK_MIRROR_OFF:
    case DISK_MIRROR_FAILED:
    case DISK_MIRROR_STATE_COUNT:
        break;
    }
    unlock(mirror);
    return is_taken;
}

void disk_mirror_give(struct disk_mirror *mirror, struct disk_file *ret_file)
{
    lock(mirror);
    assert(mirror->decided && mirror->state == DISK_MIRROR_PROMISED);
    assert(!mirror->waiting && !mirror->serving); /* nothing is in flight */
    *ret_file = mirror->target;
    mirror->target.fd = -1;
    mirror->state = DISK_MIRROR_SWITCHED;
    (void)pthread_cond_broadcast(&mirror->changed);
    unlock(mirror);
}

/* ---- copying ---- */
static int read_all(int fd, uint8_t *bytes, uint64_t count, uint64_t offset)
{
    while (count > 0) {
        ssize_t n = pread(fd, bytes, count, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO; /* it was cut short by somebody */
        bytes += n;
        count -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int write_all(int fd, const uint8_t *bytes, uint64_t count, uint64_t offset)
{
    while (count > 0) {
        ssize_t n = pwrite(fd, bytes, count, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : ENOSPC;
        bytes += n;
        count -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static bool is_zero(const uint8_t *bytes, uint64_t count)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

static uint64_t digest_of(const uint8_t *bytes, uint64_t count)
{
    uint64_t digest = XXH3_64bits(bytes, count);
    return digest ? digest : 1;
}

static uint64_t bytes_at(const struct disk_mirror *mirror, uint64_t block)
{
    uint64_t first = block << BLOCK_SHIFT;
    return mirror->bytes - first < BLOCK ? mirror->bytes - first : BLOCK;
}

/* Before it is read (INV-5): a write that is done later shows. */
static void clear_written(struct disk_mirror *mirror, uint64_t block)
{
    uint64_t page = block * PAGES_A_BLOCK;
    uint64_t mask = ((UINT64_C(1) << PAGES_A_BLOCK) - 1) << (page % 64);
    (void)__atomic_fetch_and(&mirror->written.words[page / 64], ~mask, __ATOMIC_ACQ_REL);
}

/* Make a block empty at the target that was not. */
static int empty_block(struct disk_mirror *mirror, uint64_t block)
{
    struct disk_request zeroes = {.op = DISK_WRITE_ZEROES,
                                  .may_unmap = true,
                                  .offset = block << BLOCK_SHIFT,
                                  .bytes = bytes_at(mirror, block)};
    if (mirror->digests[block] == 0)
        return 0;
    int error = disk_file_run(&mirror->target, &zeroes);
    if (error == 0)
        mirror->digests[block] = 0;
    return error;
}

static bool is_hole(const struct disk_mirror *mirror, uint64_t offset, uint64_t count)
{
    off_t data = lseek(mirror->source_fd, (off_t)offset, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= offset + count; /* else all is data */
}

static int say(int error, const char *what, struct fault *fault)
{
    if (!error)
        return 0;
    return fault_set_errno(fault, error == ENOSPC ? ERR_LIMIT : ERR_IO, error, "%s", what);
}

/* What was read, to the target: neighbours that hold something in one write. */
static int write_blocks(struct disk_mirror *mirror, uint64_t first, unsigned count,
                        uint64_t *ret_written, struct fault *fault)
{
    unsigned begin = 0;
    int error = 0;

    for (unsigned i = 0; error == 0 && i <= count; i++) {
        uint64_t bytes = i < count ? bytes_at(mirror, first + i) : 0;
        const uint8_t *block = mirror->run + (uint64_t)i * BLOCK;
        bool is_data = i < count && !is_zero(block, bytes);
        if (is_data)
            continue;
        if (i > begin) { /* the data before it */
            uint64_t end = (uint64_t)(i - 1) * BLOCK + bytes_at(mirror, first + i - 1);
            uint64_t run = end - (uint64_t)begin * BLOCK;
            error = write_all(mirror->target.fd, mirror->run + (uint64_t)begin * BLOCK, run,
                              (first + begin) << BLOCK_SHIFT);
            *ret_written += run;
            for (unsigned n = begin; n < i; n++)
                mirror->digests[first + n] = digest_of(mirror->run + (uint64_t)n * BLOCK,
                                                       bytes_at(mirror, first + n));
        }
        if (error == 0 && i < count)
            error = empty_block(mirror, first + i);
        begin = i + 1;
    }
    return say(error, "writing the copy", fault);
}

/* Blocks `first`... as they are at the source now. */
static int copy_blocks(struct disk_mirror *mirror, uint64_t first, unsigned count,
                       struct fault *fault)
{
    uint64_t offset = first << BLOCK_SHIFT, written = 0;
    uint64_t bytes = (uint64_t)(count - 1) * BLOCK + bytes_at(mirror, first + count - 1);
    int error = 0, r = 0;

    assert(count >= 1 && count <= RUN_BLOCKS && first + count <= mirror->blocks);
    for (unsigned i = 0; i < count; i++)
        clear_written(mirror, first + i);
    if (is_hole(mirror, offset, bytes)) {
        for (unsigned i = 0; error == 0 && i < count; i++)
            error = empty_block(mirror, first + i);
        r = say(error, "emptying the copy", fault);
    } else {
        r = say(read_all(mirror->source_fd, mirror->run, bytes, offset),
                "a block of the disk cannot be read", fault);
        if (r == 0)
            r = failpoint_check(FAILPOINT_MIRROR_WRITE, fault);
        if (r == 0)
            r = write_blocks(mirror, first, count, &written, fault);
    }
    lock(mirror);
    mirror->status.copied_bytes += bytes;
    mirror->status.written_bytes += written;
    unlock(mirror);
    return r;
}

/* ---- requests that wait for both files ---- */
static int serve(struct disk_mirror *mirror, const struct disk_request *request,
                 struct fault *fault)
{
    if (request->op == DISK_FLUSH)
        return say(fdatasync(mirror->target.fd) < 0 ? errno : 0, "syncing the copy", fault);
    uint64_t block = request->offset >> BLOCK_SHIFT;
    uint64_t end = (request->offset + request->bytes + BLOCK - 1) >> BLOCK_SHIFT;
    int r = 0;
    while (r == 0 && block < end) {
        unsigned count = end - block < RUN_BLOCKS ? (unsigned)(end - block) : RUN_BLOCKS;
        r = copy_blocks(mirror, block, count, fault);
        block += count;
    }
    return r;
}

static struct disk_request *pop(struct disk_mirror *mirror)
{
    struct disk_request *request = mirror->waiting;
    mirror->waiting = request->next;
    if (!mirror->waiting)
        mirror->waiting_end = &mirror->waiting;
    return request;
}

/* All that wait, with what the source said of them. Under the lock. */
static void release_all(struct disk_mirror *mirror)
{
    while (mirror->waiting)
        disk_threads_put_done(mirror->threads, pop(mirror));
}

static void fail(struct disk_mirror *mirror, const struct fault *fault)
{
    mirror->state = DISK_MIRROR_FAILED;
    mirror->status.fault = *fault;
    mirror->status.waits = false;
}

static void wait_until(struct disk_mirror *mirror, uint64_t ns)
{
    const struct timespec until = {.tv_sec = (time_t)(ns / NS_PER_S),
                                   .tv_nsec = (long)(ns % NS_PER_S)};
    (void)pthread_cond_timedwait(&mirror->changed, &mirror->lock, &until);
}

/* Under the lock, which it leaves while it copies. A failure is told by state: until it was promised
 * the mirror ends and the guest notices nothing; then the request waits, until it is decided. */
static void serve_one(struct disk_mirror *mirror)
{
    struct disk_request *request = pop(mirror);
    struct disk_threads *threads = mirror->threads;

    mirror->serving = true;
    for (;;) {
        struct fault fault = {0};
        unlock(mirror);
        int r = serve(mirror, request, &fault);
        lock(mirror);
        mirror->status.waits = false;
        if (r == 0 || mirror->state == DISK_MIRROR_OFF)
            break;
        if (mirror->state != DISK_MIRROR_PROMISED) {
            fail(mirror, &fault);
            break;
        }
        if (mirror->decided) { /* it is the disk: its failure is the guest's to know */
            request->error = EIO;
            break;
        }
        mirror->status.waits = true;
        mirror->status.fault = fault;
        wait_until(mirror, clock_ns() + RETRY_MS * NS_PER_MS);
    }
    mirror->serving = false;
    disk_threads_put_done(threads, request);
}

/* ---- passes ---- */
/* Blocks that were written since they were read. */
static uint64_t collect(struct disk_mirror *mirror)
{
    uint64_t left = 0;

    bitmap_clear_all(&mirror->todo);
    for (uint64_t block = 0; block < mirror->blocks; block++) {
        uint64_t page = block * PAGES_A_BLOCK;
        uint64_t word = __atomic_load_n(&mirror->written.words[page / 64], __ATOMIC_ACQUIRE);
        uint64_t mask = ((UINT64_C(1) << PAGES_A_BLOCK) - 1) << (page % 64);
        if (!(word & mask))
            continue;
        bitmap_set(&mirror->todo, block);
        left += BLOCK;
        if (mirror->status.passes > 0 && mirror->heat[block] < HEAT_CLASSES - 1)
            mirror->heat[block]++;
    }
    mirror->at = 0;
    mirror->heat_class = 0;
    return left;
}

/* The next run of this pass, the coldest first. */
static bool next_run(struct disk_mirror *mirror, uint64_t *ret_first, unsigned *ret_count)
{
    for (; mirror->heat_class < HEAT_CLASSES; mirror->heat_class++, mirror->at = 0) {
        uint64_t first = bitmap_next_set(&mirror->todo, mirror->at);
        while (first != BITMAP_NONE && mirror->heat[first] != mirror->heat_class)
            first = bitmap_next_set(&mirror->todo, first + 1);
        if (first == BITMAP_NONE)
            continue;
        unsigned count = 0;
        while (count < RUN_BLOCKS && first + count < mirror->blocks &&
               bitmap_test(&mirror->todo, first + count) &&
               mirror->heat[first + count] == mirror->heat_class)
            bitmap_clear(&mirror->todo, first + count++);
        mirror->at = first + count;
        *ret_first = first;
        *ret_count = count;
        return true;
    }
    return false;
}

/* Closing makes every write wait for two, and is bounded: nothing new comes to be copied. So it begins
 * when little is left, or when another pass would not make it less. */
static bool should_close(const struct disk_mirror *mirror, uint64_t left)
{
    return left <= CLOSE_BYTES || mirror->status.passes >= PASSES_MAX ||
           (mirror->status.passes > 1 && left > mirror->left_before - mirror->left_before / 4);
}

/* Under the lock. */
static void end_pass(struct disk_mirror *mirror)
{
    uint64_t left = collect(mirror);

    mirror->status.left_bytes = left;
    if (mirror->state == DISK_MIRROR_COPYING && mirror->status.passes > 0 &&
        should_close(mirror, left))
        mirror->state = DISK_MIRROR_CLOSING; /* no bit is set from here on */
    mirror->left_before = left;
    mirror->status.passes++;
}

/* ---- reading back ---- */
/* The next run at the target that is not known to be empty; false: that was all. */
static int verify_run(struct disk_mirror *mirror, struct fault *fault)
{
    uint64_t first = mirror->verify_at;
    unsigned count = 0;

    while (count < RUN_BLOCKS && first + count < mirror->blocks)
        count++;
    uint64_t offset = first << BLOCK_SHIFT;
    uint64_t bytes = (uint64_t)(count - 1) * BLOCK + bytes_at(mirror, first + count - 1);
    mirror->verify_at = first + count;
    off_t data = lseek(mirror->target.fd, (off_t)offset, SEEK_DATA);
    bool is_empty = data < 0 ? errno == ENXIO : (uint64_t)data >= offset + bytes;
    if (is_empty)
        memset(mirror->run, 0, bytes);
    else if (!mirror->target.direct)
        (void)posix_fadvise(mirror->target.fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
    int r = is_empty ? 0
                     : say(read_all(mirror->target.fd, mirror->run, bytes, offset),
                           "reading the copy back", fault);
    for (unsigned i = 0; r == 0 && i < count; i++) {
        const uint8_t *block = mirror->run + (uint64_t)i * BLOCK;
        uint64_t size = bytes_at(mirror, first + i);
        uint64_t found = is_zero(block, size) ? 0 : digest_of(block, size);
        if (found != mirror->digests[first + i])
            r = fault_set(fault, ERR_CORRUPT,
                          "the copy reads back as something else at byte %llu",
                          (unsigned long long)((first + i) << BLOCK_SHIFT));
    }
    lock(mirror);
    mirror->status.verified_bytes += bytes;
    unlock(mirror);
    return r;
}

/* ---- the thread ---- */
static void pace(struct disk_mirror *mirror, uint64_t bytes)
{
    uint64_t now_ns = clock_ns();

    if (!mirror->rate_bytes_per_s)
        return;
    if (mirror->due_ns < now_ns)
        mirror->due_ns = now_ns;
    mirror->due_ns += bytes * NS_PER_S / mirror->rate_bytes_per_s;
}

static bool is_late(const struct disk_mirror *mirror)
{
    return mirror->due_ns <= clock_ns();
}

/* One turn of what nobody waits for. Under the lock, which it leaves while it works. */
static void copy_some(struct disk_mirror *mirror)
{
    struct fault fault = {0};
    uint64_t first = 0;
    unsigned count = 0;
    int r = 0;

    if (mirror->state == DISK_MIRROR_COPYING && !is_late(mirror)) {
        wait_until(mirror, mirror->due_ns);
        return;
    }
    if (next_run(mirror, &first, &count)) {
        unlock(mirror);
        r = copy_blocks(mirror, first, count, &fault);
        pace(mirror, (uint64_t)count * BLOCK);
        lock(mirror);
        uint64_t bytes = (uint64_t)count * BLOCK;
        mirror->status.left_bytes -=
            bytes < mirror->status.left_bytes ? bytes : mirror->status.left_bytes;
    } else if (mirror->state == DISK_MIRROR_COPYING || mirror->status.left_bytes > 0) {
        end_pass(mirror);
    } else if (mirror->verify_at == 0 && mirror->status.verified_bytes == 0) {
        unlock(mirror); /* what was written is on the medium before it is read back */
        r = say(fdatasync(mirror->target.fd) < 0 ? errno : 0, "syncing the copy", &fault);
        if (r == 0)
            r = verify_run(mirror, &fault);
        lock(mirror);
    } else if (mirror->verify_at < mirror->blocks) {
        unlock(mirror);
        r = verify_run(mirror, &fault);
        lock(mirror);
    } else {
        unlock(mirror);
        r = say(fdatasync(mirror->target.fd) < 0 ? errno : 0, "syncing the copy", &fault);
        lock(mirror);
        if (r == 0 && mirror->state == DISK_MIRROR_CLOSING)
            mirror->state = DISK_MIRROR_EQUAL;
    }
    if (r < 0 && mirror->state != DISK_MIRROR_OFF)
        fail(mirror, &fault);
}

static void *mirror_main(void *data)
{
    struct disk_mirror *mirror = data;

    thread_begin("disk-mirror");
    thread_give_way();
    lock(mirror);
    for (;;) {
        bool is_alive =
            mirror->state <= DISK_MIRROR_PROMISED; /* the rest are ends */
        if (!is_alive)
            break;
        bool is_copying =
            mirror->state == DISK_MIRROR_COPYING || mirror->state == DISK_MIRROR_CLOSING;
        bool is_asked = mirror->waiting != NULL;
        if (is_asked)
            serve_one(mirror);
        if (is_copying && mirror->state < DISK_MIRROR_EQUAL)
            copy_some(mirror); /* in turns: a guest that never stops writing does not hold it up */
        else if (!is_asked)
            (void)pthread_cond_wait(&mirror->changed, &mirror->lock);
    }
    release_all(mirror);
    mirror->is_over = true;
    unlock(mirror);
    return NULL;
}

int disk_mirror_start(struct disk_mirror *mirror, struct fault *fault)
{
    sigset_t all, before; /* signals go to the process's other threads */

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&mirror->thread, NULL, mirror_main, mirror);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        return fault_set_errno(fault, ERR_LIMIT, r, "no thread to mirror a disk");
    mirror->has_thread = true;
    return 0;
}
