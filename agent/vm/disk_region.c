#include "agent/vm/disk_region.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/vm/disk_outflow.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/config.h"
#include "base/err.h"
#include "base/own.h"
#include "migrate/region.h"
#include "proto/limits.h"
#include "vmm-core/vm.h"

enum { NAME_SIZE = 80, GUARDS_MAX = DISKS_MAX + 1 };

struct disk_region {
    struct vm *vm; /* borrowed; NULL at a target */
    unsigned index, guard;
    char name[NAME_SIZE];
    int fd;
    uint64_t bytes, pages;
    uint8_t *base;
    struct bitmap written; /* atomic: the disk sets bits */
    bool is_tracked;
    struct disk_outflow *outflow; /* a target's: little is left to write out at the end */
};

/* ---- a page that cannot be read or written ---- */
/* Read by the signal's handler, on any thread. A slot is free while its base is NULL. */
static struct guard {
    uint8_t *_Atomic base;
    atomic_size_t bytes;
    atomic_bool failed;
} guards[GUARDS_MAX];

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    uint8_t *at = info->si_addr;
    (void)context;

    for (unsigned i = 0; i < GUARDS_MAX; i++) {
        uint8_t *base = atomic_load(&guards[i].base);
        if (!base || at < base || at >= base + atomic_load(&guards[i].bytes))
            continue;
        void *page = base + ((size_t)(at - base) & ~(size_t)(PAGE_BYTES - 1));
        atomic_store(&guards[i].failed, true);
        if (mmap(page, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                 -1, 0) != MAP_FAILED)
            return;
    }
    (void)signal(number, SIG_DFL); /* nobody's: it comes again and ends the process */
}

static int guard_add(struct disk_region *disk, struct fault *fault)
{
    const struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};

    (void)sigaction(SIGBUS, &action, NULL); /* cannot fail for SIGBUS; again is as good */
    for (unsigned i = 0; i < GUARDS_MAX; i++) {
        if (atomic_load(&guards[i].base))
            continue;
        atomic_store(&guards[i].failed, false);
        atomic_store(&guards[i].bytes, disk->pages << PAGE_SHIFT);
        atomic_store(&guards[i].base, disk->base);
        disk->guard = i;
        return 0;
    }
    return fault_set(fault, ERR_LIMIT, "more than %d disks move at once", GUARDS_MAX);
}

/* ---- life ---- */
static void disk_region_freep(struct disk_region **disk)
{
    *disk = disk_region_free(*disk);
}

int disk_region_new(struct disk_region **ret_disk, struct vm *vm, unsigned index, const char *name,
                    int fd, uint64_t bytes, struct fault *fault)
{
    AUTO(disk_region_freep) struct disk_region *disk = calloc(1, sizeof *disk);
    struct stat info;

    if (!disk)
        return fault_set(fault, ERR_NOMEM, "no memory for a disk's move");
    disk->vm = vm;
    disk->index = index;
    disk->fd = -1;
    disk->bytes = bytes;
    disk->pages = (bytes + PAGE_BYTES - 1) >> PAGE_SHIFT;
    int r = path_join(disk->name, sizeof disk->name, fault, "disk %s", name);
    if (r < 0)
        return r;
    if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode) || (uint64_t)info.st_size < bytes)
        return fault_set(fault, ERR_INVALID, "disk %s: only a whole file can move with its VM",
                         name);
    if (bitmap_init(&disk->written, disk->pages) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for a disk's move");
    void *base = mmap(NULL, disk->pages << PAGE_SHIFT, vm ? PROT_READ : PROT_READ | PROT_WRITE,
                      MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return fault_set_errno(fault, err_from_errno(errno), errno, "disk %s: mapping it", name);
    disk->base = base;
    r = guard_add(disk, fault);
    if (r < 0)
        return r;
    if (!vm && disk_outflow_new(&disk->outflow, fd, disk->pages) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for a disk's move");
    disk->fd = fd;
    *ret_disk = TAKE(disk);
    return 0;
}

static void untrack(struct disk_region *disk)
{
    if (disk->is_tracked)
        (void)vm_track_disk(disk->vm, disk->index, NULL, NULL); /* it was there to be tracked */
    disk->is_tracked = false;
}

struct disk_region *disk_region_free(struct disk_region *disk)
{
    if (!disk)
        return NULL;
    untrack(disk);
    if (disk->outflow)
        disk->fd = -1; /* it has that, too */
    disk->outflow = disk_outflow_free(disk->outflow);
    if (disk->base) {
        if (atomic_load(&guards[disk->guard].base) == disk->base)
            atomic_store(&guards[disk->guard].base, NULL);
        (void)munmap(disk->base, disk->pages << PAGE_SHIFT); /* our own mapping: cannot fail */
    }
    bitmap_deinit(&disk->written);
    close_p(&disk->fd);
    free(disk);
    return NULL;
}

/* ---- the region ---- */
static int on_track_start(struct region *region, struct fault *fault)
{
    struct disk_region *disk = region->owner;

    bitmap_set_all(&disk->written); /* the first collect reports every page */
    int r = vm_track_disk(disk->vm, disk->index, &disk->written, fault);
    disk->is_tracked = r == 0;
    return r;
}

static void on_track_stop(struct region *region, bool goes_on)
{
    (void)goes_on; /* noting what is written costs the guest nothing that it sees */
    untrack(region->owner);
}

static int on_collect(struct region *region, struct bitmap *dirty, struct fault *fault)
{
    struct disk_region *disk = region->owner;

    for (size_t i = 0; i < bitmap_words(&disk->written); i++)
        dirty->words[i] |= __atomic_load_n(&disk->written.words[i], __ATOMIC_ACQUIRE);
    return disk_region_check(disk, fault);
}

static int on_clear(struct region *region, uint64_t first_page, const uint64_t mask[static 8],
                    struct fault *fault)
{
    struct disk_region *disk = region->owner;
    size_t first = first_page / 64, words = bitmap_words(&disk->written);

    for (size_t i = 0; i < BLOCK_PAGES / 64 && first + i < words; i++)
        (void)__atomic_fetch_and(&disk->written.words[first + i], ~mask[i], __ATOMIC_ACQ_REL);
    return disk_region_check(disk, fault); /* a dead medium fails slowly, page after page: no round of it */
}

static int on_clear_many(struct region *region, const struct bitmap *pages, struct fault *fault)
{
    struct disk_region *disk = region->owner;
    (void)fault;

    for (size_t i = 0; i < bitmap_words(&disk->written); i++)
        (void)__atomic_fetch_and(&disk->written.words[i], ~pages->words[i], __ATOMIC_ACQ_REL);
    return 0;
}

/* Where the file has holes nothing was ever written. A file system that knows no holes says that
 * all is data. */
static int on_populated(struct region *region, struct bitmap *ret_populated, struct fault *fault)
{
    struct disk_region *disk = region->owner;
    off_t end = (off_t)disk->bytes, at = 0;

    bitmap_clear_all(ret_populated);
    while (at < end) {
        off_t data = lseek(disk->fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break; /* a hole to the end */
        off_t hole = data < 0 ? -1 : lseek(disk->fd, data, SEEK_HOLE);
        if (hole < 0)
            return fault_set_errno(fault, ERR_IO, errno, "%s: looking for its holes", disk->name);
        if (data >= end)
            break;
        hole = hole < end ? hole : end;
        uint64_t first = (uint64_t)data >> PAGE_SHIFT;
        uint64_t last = ((uint64_t)hole + PAGE_BYTES - 1) >> PAGE_SHIFT;
        bitmap_set_range(ret_populated, first, last - first);
        at = hole;
    }
    return 0;
}

static int on_populate(struct region *region, uint64_t first_page, uint64_t pages,
                       struct fault *fault)
{
    struct disk_region *disk = region->owner;
    uint64_t first = first_page << PAGE_SHIFT, bytes = pages << PAGE_SHIFT;

    assert(range_fits(first_page, pages, disk->pages));
    if (bytes > disk->bytes - first)
        bytes = disk->bytes - first; /* the last page may be a part */
    int r;
    do
        r = fallocate(disk->fd, 0, (off_t)first, (off_t)bytes);
    while (r < 0 && errno == EINTR);
    if (r < 0 && errno != EOPNOTSUPP)
        return fault_set_errno(fault, err_from_errno(errno), errno, "%s: making room for it",
                               disk->name);
    return 0;
}

/* Through the page cache, as the mapping, which a patch is laid over. */
static void on_write(struct region *region, uint64_t first_page, uint64_t pages,
                     const uint8_t *bytes)
{
    struct disk_region *disk = region->owner;
    uint64_t at = first_page << PAGE_SHIFT, left = pages << PAGE_SHIFT;

    assert(range_fits(first_page, pages, disk->pages));
    if (left > disk->bytes - at)
        left = disk->bytes - at; /* the last page may be a part */
    while (left) {
        ssize_t n = pwrite(disk->fd, bytes, left, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EINVAL) { /* it is open for direct writes, and these bytes are not aligned for one */
            memcpy(disk->base + at, bytes, left);
            return;
        }
        if (n <= 0) {
            atomic_store(&guards[disk->guard].failed, true);
            return;
        }
        bytes += n;
        at += (uint64_t)n;
        left -= (uint64_t)n;
    }
}

static void on_placed(struct region *region, uint64_t first_page, const uint64_t mask[static 8])
{
    struct disk_region *disk = region->owner;

    if (disk->outflow)
        disk_outflow_arrived(disk->outflow, first_page, mask);
}

static const struct region_ops disk_region_ops = {
    .track_start = on_track_start,
    .track_stop = on_track_stop,
    .collect = on_collect,
    .clear = on_clear,
    .clear_many = on_clear_many,
    .populated = on_populated,
    .populate = on_populate,
    .placed = on_placed,
    .write = on_write,
};

void disk_region_fill(struct disk_region *disk, unsigned id, struct region *ret_region)
{
    *ret_region = (struct region){
        .ops = &disk_region_ops,
        .owner = disk,
        .name = disk->name,
        .id = id,
        .pages = disk->pages,
        .base = disk->base,
    };
}

int disk_region_check(const struct disk_region *disk, struct fault *fault)
{
    if (!atomic_load(&guards[disk->guard].failed))
        return 0;
    return fault_set(fault, ERR_IO, "%s: %s", disk->name,
                     disk->vm ? "a block of it cannot be read, or somebody cut its file short"
                              : "a block of it cannot be written: no space, or an error of its "
                                "medium");
}

int disk_region_settle(struct disk_region *disk, struct fault *fault)
{
    int r = disk_region_check(disk, fault);
    if (r < 0)
        return r;
    assert(disk->outflow);
    int error = disk_outflow_settle(disk->outflow, DISK_SETTLE_MS_MAX);
    if (error == ETIMEDOUT)
        return fault_set(fault, ERR_TIMEOUT, "%s: its medium did not say within %d s that all is written",
                         disk->name, DISK_SETTLE_MS_MAX / 1000);
    if (error)
        return fault_set_errno(fault, err_from_errno(error), error, "%s: writing it out",
                               disk->name);
    return disk_region_check(disk, fault);
}
