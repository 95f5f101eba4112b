/* `lock` guards what is still to be copied, the memory file's writer and the first failure. It is
 * held while a block of 2 MiB of memory, or of 64 KiB of a disk, is copied; a write to the image
 * holds it for the pages that it is about to change. So every page is copied once, as it was at
 * fix, by one or the other. */
#include "migrate/replica_copy.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "migrate/guest.h"
#include "migrate/guest_file_writer.h"
#include "migrate/region.h"
#include "proto/limits.h"
#include "storage/clone.h"

enum { PIECE_BYTES = 64 << 10, SETTLE_BYTES = 32 << 20 };

struct copied_disk {
    int from, to; /* borrowed */
    uint64_t bytes;
    struct bitmap left; /* pieces that are still to be copied */
    bool is_shared;     /* by its file system, all of it */
};

struct replica_copy {
    struct replica_copy_config config;
    struct copied_disk disks[DISKS_MAX];
    unsigned disk_count;
    bool is_fixed;

    pthread_mutex_t lock; /* guards all below, and `left` of the disks */
    struct guest_file_writer writer;
    struct bitmap left[REGIONS_MAX]; /* pages that are still to be copied */
    uint64_t copied_bytes, put_aside_pages;
    uint8_t *piece;
    int result;
    struct fault fault;
};

static bool has_memory(const struct replica_copy *copy)
{
    return copy->config.memory_fd >= 0;
}

/* ---- life ---- */
static int set_up(struct replica_copy *copy, struct fault *fault)
{
    const struct guest *guest = copy->config.guest;

    copy->piece = aligned_alloc(PAGE_BYTES, PIECE_BYTES);
    if (!copy->piece)
        return fault_set(fault, ERR_NOMEM, "no memory to copy a replica");
    for (unsigned i = 0; i < copy->disk_count; i++) {
        uint64_t pieces = (copy->disks[i].bytes + PIECE_BYTES - 1) / PIECE_BYTES;
        if (bitmap_init(&copy->disks[i].left, pieces) < 0)
            return fault_set(fault, ERR_NOMEM, "no memory to copy disk %u", i);
    }
    for (unsigned i = 0; has_memory(copy) && i < guest->region_count; i++) {
        if (bitmap_init(&copy->left[i], guest->regions[i].pages) < 0)
            return fault_set(fault, ERR_NOMEM, "no memory to copy a replica's memory");
    }
    return 0;
}

int replica_copy_new(struct replica_copy **ret_copy, const struct replica_copy_config *config,
                     const struct replica_disk *disks, unsigned disk_count, struct fault *fault)
{
    if (config->disk_count != disk_count || disk_count > DISKS_MAX ||
        (config->guest && config->guest->region_count > REGIONS_MAX))
        return fault_set(fault, ERR_INVALID, "a copy of %u disks of a replica that has %u",
                         config->disk_count, disk_count);
    struct replica_copy *copy = calloc(1, sizeof *copy);
    if (!copy)
        return fault_set(fault, ERR_NOMEM, "no memory to copy a replica");
    copy->config = *config;
    copy->disk_count = disk_count;
    (void)pthread_mutex_init(&copy->lock, NULL);
    for (unsigned i = 0; i < disk_count; i++)
        copy->disks[i] = (struct copied_disk){
            .from = disks[i].fd, .to = config->disk_fds[i], .bytes = disks[i].bytes};
    int r = set_up(copy, fault);
    if (r == 0 && has_memory(copy)) {
        r = guest_file_writer_init(&copy->writer, config->guest, config->label, config->memory_fd,
                                   NULL, fault);
        if (r == 0)
            guest_file_writer_begin(&copy->writer, 0, 0);
    }
    if (r < 0) {
        (void)replica_copy_free(copy);
        return r;
    }
    *ret_copy = copy;
    return 0;
}

struct replica_copy *replica_copy_free(struct replica_copy *copy)
{
    if (!copy)
        return NULL;
    if (has_memory(copy))
        guest_file_writer_deinit(&copy->writer);
    for (unsigned i = 0; i < REGIONS_MAX; i++)
        bitmap_deinit(&copy->left[i]);
    for (unsigned i = 0; i < copy->disk_count; i++)
        bitmap_deinit(&copy->disks[i].left);
    (void)pthread_mutex_destroy(&copy->lock);
    free(copy->piece);
    free(copy);
    return NULL;
}

/* ---- the instant ---- */
int replica_copy_fix(struct replica_copy *copy, struct fault *fault)
{
    const struct guest *guest = copy->config.guest;
    int r = 0;

    assert(!copy->is_fixed);
    (void)pthread_mutex_lock(&copy->lock); /* nobody has it yet: for who comes later */
    for (unsigned i = 0; r == 0 && has_memory(copy) && i < guest->region_count; i++)
        r = guest->regions[i].ops->populated(&guest->regions[i], &copy->left[i], fault);
    for (unsigned i = 0; r == 0 && i < copy->disk_count; i++) {
        struct copied_disk *disk = &copy->disks[i];
        disk->is_shared = clone_share(disk->from, disk->to) == 0;
        if (!disk->is_shared)
            bitmap_set_all(&disk->left);
    }
    copy->is_fixed = r == 0;
    (void)pthread_mutex_unlock(&copy->lock);
    return r;
}

/* ---- one page, one piece: under the lock ---- */
static void note(struct replica_copy *copy, int r, const struct fault *fault)
{
    if (r == 0 || copy->result < 0)
        return;
    copy->result = r;
    copy->fault = *fault;
}

static int take_page(struct replica_copy *copy, unsigned region, uint64_t page, struct fault *fault)
{
    struct guest_file_writer *writer = &copy->writer;
    uint64_t block = page / BLOCK_PAGES * BLOCK_PAGES;
    int r = 0;

    if (writer->region != region || writer->block != block || guest_file_writer_is_full(writer)) {
        r = guest_file_writer_flush(writer, fault);
        guest_file_writer_begin(writer, region, block);
    }
    if (r < 0)
        return r;
    guest_file_writer_take(writer, (unsigned)(page % BLOCK_PAGES),
                           copy->config.guest->regions[region].base + page * PAGE_BYTES);
    bitmap_clear(&copy->left[region], page);
    return 0;
}

static bool is_zero(const uint8_t *bytes, size_t count)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

static int read_piece(const struct copied_disk *disk, uint64_t at, uint8_t *bytes, size_t count,
                      struct fault *fault)
{
    while (count) {
        ssize_t got = pread(disk->from, bytes, count, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fault_set_errno(fault, ERR_IO, errno, "reading a replica's disk");
        if (got == 0) {
            memset(bytes, 0, count);
            return 0;
        }
        bytes += got;
        at += (uint64_t)got;
        count -= (size_t)got;
    }
    return 0;
}

static int write_piece(const struct copied_disk *disk, uint64_t at, const uint8_t *bytes,
                       size_t count, struct fault *fault)
{
    while (count) {
        ssize_t put = pwrite(disk->to, bytes, count, (off_t)at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fault_set_errno(fault, errno == ENOSPC || errno == EDQUOT ? ERR_LIMIT : ERR_IO,
                                   errno, "writing the copy of a replica's disk");
        bytes += put;
        at += (uint64_t)put;
        count -= (size_t)put;
    }
    return 0;
}

static int copy_piece(struct replica_copy *copy, struct copied_disk *disk, uint64_t piece,
                      struct fault *fault)
{
    uint64_t at = piece * PIECE_BYTES, left = disk->bytes - at;
    size_t count = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;

    int r = read_piece(disk, at, copy->piece, count, fault);
    if (r == 0 && !is_zero(copy->piece, count)) { /* the file has zeros there, and no blocks */
        r = write_piece(disk, at, copy->piece, count, fault);
        copy->copied_bytes += count;
    }
    if (r == 0)
        bitmap_clear(&disk->left, piece);
    return r;
}

/* ---- whoever writes the image ---- */
void replica_copy_before_pages(struct replica_copy *copy, unsigned region,
                               const struct bitmap *pages)
{
    struct fault fault = {0};
    bool takes = false;
    int r = 0;

    if (!has_memory(copy))
        return;
    assert(region < copy->config.guest->region_count);
    (void)pthread_mutex_lock(&copy->lock);
    for (uint64_t page = bitmap_next_set(pages, 0);
         r == 0 && copy->result == 0 && page != BITMAP_NONE;
         page = bitmap_next_set(pages, page + 1)) {
        if (!bitmap_test(&copy->left[region], page))
            continue;
        r = take_page(copy, region, page, &fault);
        copy->put_aside_pages++;
        takes = true;
    }
    if (r == 0 && takes) /* else the writer may be at its end */
        r = guest_file_writer_flush(&copy->writer, &fault);
    note(copy, r, &fault);
    (void)pthread_mutex_unlock(&copy->lock);
}

void replica_copy_before_disk(struct replica_copy *copy, unsigned disk, uint64_t offset,
                              size_t count)
{
    struct fault fault = {0};
    int r = 0;

    assert(disk < copy->disk_count);
    struct copied_disk *copied = &copy->disks[disk];
    if (copied->is_shared || count == 0 || offset >= copied->bytes)
        return;
    uint64_t end = count > copied->bytes - offset ? copied->bytes : offset + count;
    (void)pthread_mutex_lock(&copy->lock);
    for (uint64_t piece = offset / PIECE_BYTES;
         r == 0 && copy->result == 0 && piece * PIECE_BYTES < end; piece++) {
        if (bitmap_test(&copied->left, piece))
            r = copy_piece(copy, copied, piece, &fault);
    }
    note(copy, r, &fault);
    (void)pthread_mutex_unlock(&copy->lock);
}

/* ---- the copy's own thread ---- */
/* Under the lock: may it go on? */
static int check(struct replica_copy *copy, struct fault *fault)
{
    if (copy->result < 0) {
        *fault = copy->fault;
        return copy->result;
    }
    if (copy->config.is_stopped && __atomic_load_n(copy->config.is_stopped, __ATOMIC_RELAXED))
        return fault_set(fault, ERR_CANCELED, "the copy of a replica was stopped");
    return 0;
}

/* What was written goes out while it is little: checkpoints that are being made durable beside it
 * wait behind it, and so does who wants this copy to end. Not under the lock. */
static int settle(int fd, uint64_t *since_bytes, uint64_t more_bytes, struct fault *fault)
{
    *since_bytes += more_bytes;
    if (*since_bytes < SETTLE_BYTES)
        return 0;
    *since_bytes = 0;
    if (fdatasync(fd) < 0)
        return fault_set_errno(fault, errno == ENOSPC || errno == EDQUOT ? ERR_LIMIT : ERR_IO,
                               errno, "making the copy of a replica durable");
    return 0;
}

static int run_block(struct replica_copy *copy, unsigned region, uint64_t *page,
                     struct fault *fault)
{
    (void)pthread_mutex_lock(&copy->lock);
    int r = check(copy, fault);
    *page = bitmap_next_set(&copy->left[region], *page);
    uint64_t end = *page == BITMAP_NONE ? 0 : (*page / BLOCK_PAGES + 1) * BLOCK_PAGES;
    while (r == 0 && *page < end) {
        r = take_page(copy, region, *page, fault);
        *page = bitmap_next_set(&copy->left[region], *page + 1);
    }
    if (r == 0)
        r = guest_file_writer_flush(&copy->writer, fault);
    (void)pthread_mutex_unlock(&copy->lock);
    return r;
}

static int run_memory(struct replica_copy *copy, struct fault *fault)
{
    uint64_t since_bytes = 0;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < copy->config.guest->region_count; i++) {
        for (uint64_t page = 0; r == 0 && page != BITMAP_NONE;) {
            r = run_block(copy, i, &page, fault);
            if (r == 0)
                r = settle(copy->config.memory_fd, &since_bytes, BLOCK_PAGES * PAGE_BYTES, fault);
        }
    }
    return r;
}

/* Where the file has holes nothing is to be copied. */
static int run_piece(struct replica_copy *copy, struct copied_disk *disk, uint64_t *piece,
                     struct fault *fault)
{
    (void)pthread_mutex_lock(&copy->lock);
    int r = check(copy, fault);
    *piece = bitmap_next_set(&disk->left, *piece);
    if (r == 0 && *piece != BITMAP_NONE) {
        off_t data = lseek(disk->from, (off_t)(*piece * PIECE_BYTES), SEEK_DATA);
        uint64_t next = data >= 0        ? (uint64_t)data / PIECE_BYTES
                        : errno == ENXIO ? disk->left.bits
                                         : *piece; /* no holes are known here */
        if (next > *piece) {
            next = next < disk->left.bits ? next : disk->left.bits;
            bitmap_clear_range(&disk->left, *piece, next - *piece);
        } else {
            r = copy_piece(copy, disk, *piece, fault);
        }
    }
    (void)pthread_mutex_unlock(&copy->lock);
    return r;
}

static int run_disk(struct replica_copy *copy, unsigned index, struct fault *fault)
{
    struct copied_disk *disk = &copy->disks[index];
    uint64_t since_bytes = 0;
    int r = 0;

    for (uint64_t piece = 0; r == 0 && !disk->is_shared && piece != BITMAP_NONE;) {
        r = run_piece(copy, disk, &piece, fault);
        if (r == 0)
            r = settle(disk->to, &since_bytes, PIECE_BYTES, fault);
    }
    (void)pthread_mutex_lock(&copy->lock);
    if (r == 0)
        r = check(copy, fault);
    (void)pthread_mutex_unlock(&copy->lock);
    if (r == 0 && fsync(disk->to) < 0)
        r = fault_set_errno(fault, errno == ENOSPC || errno == EDQUOT ? ERR_LIMIT : ERR_IO, errno,
                            "making the copy of a replica's disk durable");
    return r;
}

int replica_copy_run(struct replica_copy *copy, const uint8_t *state, size_t state_bytes,
                     struct replica_copied *copied, struct fault *fault)
{
    int r = 0;

    assert(copy->is_fixed);
    for (unsigned i = 0; r == 0 && i < copy->disk_count; i++) {
        r = run_disk(copy, i, fault);
        copied->reflinks += copy->disks[i].is_shared;
    }
    if (r == 0 && has_memory(copy))
        r = run_memory(copy, fault);
    /* All is copied: whoever writes the image finds nothing to do for us. */
    if (r == 0 && has_memory(copy))
        r = guest_file_writer_finish(&copy->writer, state, state_bytes, &copied->memory, fault);
    copied->copied_bytes = copy->copied_bytes;
    copied->put_aside_pages = copy->put_aside_pages;
    return r;
}
