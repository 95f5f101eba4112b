/* The region, as it lies in memory and travels:
 *
 *   page 0   magic, version, bytes of kernel, bytes of initrd
 *   page 1   the kernel, padded to a page; behind it the initrd
 *
 * It has one size at both ends, with memory behind what is used of it.
 */
#include "agent/vm/boot_files.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "migrate/region.h"
#include "proto/limits.h"

enum {
    FILES_MAGIC = 0x46425747, /* "GWBF" */
    FILES_VERSION = 1,
    FILES_PAGES = BOOT_FILES_BYTES_MAX / PAGE_BYTES,
};

static_assert(BOOT_FILES_BYTES_MAX % (PAGE_BYTES * BLOCK_PAGES) == 0, "whole blocks");

struct boot_files {
    int kernel_fd, initrd_fd;
    uint8_t *base;           /* reserved, not populated */
    bool is_filled;          /* from the descriptors */
    struct bitmap populated; /* atomic; set while a move populates */
    struct bitmap dirty;     /* atomic; of a source */
};

static void boot_files_freep(struct boot_files **files)
{
    *files = boot_files_free(*files);
}

int boot_files_new(struct boot_files **ret_files, int kernel_fd, int initrd_fd, struct fault *fault)
{
    AUTO(boot_files_freep) struct boot_files *files = calloc(1, sizeof *files);
    if (!files || bitmap_init(&files->populated, FILES_PAGES) < 0 ||
        bitmap_init(&files->dirty, FILES_PAGES) < 0) {
        if (files)
            files->kernel_fd = files->initrd_fd = -1;
        return fault_set(fault, ERR_NOMEM, "no memory for the boot files");
    }
    files->kernel_fd = files->initrd_fd = -1;
    void *base = mmap(NULL, BOOT_FILES_BYTES_MAX, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return fault_set_errno(fault, ERR_NOMEM, errno, "finding address space for the boot files");
    files->base = base;
    files->kernel_fd = kernel_fd;
    files->initrd_fd = initrd_fd;
    *ret_files = TAKE(files);
    return 0;
}

struct boot_files *boot_files_free(struct boot_files *files)
{
    if (!files)
        return NULL;
    if (files->base)
        (void)munmap(files->base, BOOT_FILES_BYTES_MAX); /* our own mapping: cannot fail */
    bitmap_deinit(&files->populated);
    bitmap_deinit(&files->dirty);
    close_p(&files->kernel_fd);
    close_p(&files->initrd_fd);
    free(files);
    return NULL;
}

static uint64_t pages_of(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) >> PAGE_SHIFT;
}

/* ---- into memory, at a move's source ---- */
static int file_bytes(int fd, uint64_t *ret_bytes, struct fault *fault)
{
    struct stat status;
    *ret_bytes = 0;
    if (fd < 0)
        return 0;
    if (fstat(fd, &status) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking for the size of a boot file");
    *ret_bytes = (uint64_t)status.st_size;
    return 0;
}

static int read_file(int fd, uint8_t *at, uint64_t bytes, struct fault *fault)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t got = pread(fd, at + done, (size_t)(bytes - done), (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return fault_set_errno(fault, ERR_IO, got < 0 ? errno : ENODATA,
                                   "reading a boot file again");
        done += (uint64_t)got;
    }
    return 0;
}

static int fill(struct boot_files *files, struct fault *fault)
{
    uint64_t kernel = 0, initrd = 0;
    int r = file_bytes(files->kernel_fd, &kernel, fault);
    if (r == 0)
        r = file_bytes(files->initrd_fd, &initrd, fault);
    if (r < 0)
        return r;
    uint64_t room = BOOT_FILES_BYTES_MAX - PAGE_BYTES;
    if (kernel > room || initrd > room - (pages_of(kernel) << PAGE_SHIFT))
        return fault_set(
            fault, ERR_LIMIT, "kernel and initrd are %llu MiB, at most %llu MiB travel with a move",
            (unsigned long long)((kernel + initrd) >> 20), (unsigned long long)(room >> 20));
    r = read_file(files->kernel_fd, files->base + PAGE_BYTES, kernel, fault);
    if (r == 0)
        r = read_file(files->initrd_fd, files->base + ((1 + pages_of(kernel)) << PAGE_SHIFT),
                      initrd, fault);
    if (r < 0)
        return r;
    bytes_put_u32(files->base, FILES_MAGIC);
    bytes_put_u32(files->base + 4, FILES_VERSION);
    bytes_put_u64(files->base + 8, kernel);
    bytes_put_u64(files->base + 16, initrd);
    bitmap_set_range(&files->populated, 0, 1 + pages_of(kernel) + pages_of(initrd));
    return 0;
}

/* Without them the guest moves all the same: it only cannot reset itself afterwards. */
static void fill_once(struct boot_files *files)
{
    struct fault fault = {0};
    if (files->is_filled || files->kernel_fd < 0)
        return;
    files->is_filled = true;
    if (fill(files, &fault) < 0) {
        log_warn("boot_files", "a reset after this move will stop the VM: %s", fault.text);
        memset(files->base, 0, PAGE_BYTES);
    }
}

/* ---- the region ---- */
static int on_track_start(struct region *region, struct fault *fault)
{
    struct boot_files *files = region->owner;
    (void)fault;
    fill_once(files);
    bitmap_set_all(&files->dirty);
    return 0;
}

/* Where there are descriptors the memory was for this move only. */
static void forget(struct boot_files *files)
{
    if (files->kernel_fd < 0)
        return;
    (void)madvise(files->base, BOOT_FILES_BYTES_MAX, MADV_DONTNEED); /* our own mapping */
    bitmap_clear_all(&files->populated);
    files->is_filled = false;
}

static void on_track_stop(struct region *region, bool goes_on)
{
    (void)goes_on; /* nobody writes here */
    forget(region->owner);
}

static int on_collect(struct region *region, struct bitmap *dirty, struct fault *fault)
{
    struct boot_files *files = region->owner;
    (void)fault;
    for (uint64_t i = 0; i < FILES_PAGES / 64; i++)
        dirty->words[i] |= __atomic_load_n(&files->dirty.words[i], __ATOMIC_RELAXED);
    return 0;
}

static int on_clear(struct region *region, uint64_t first_page, const uint64_t mask[static 8],
                    struct fault *fault)
{
    struct boot_files *files = region->owner;
    (void)fault;
    for (uint64_t i = 0; i < BLOCK_PAGES / 64; i++)
        (void)__atomic_fetch_and(&files->dirty.words[first_page / 64 + i], ~mask[i],
                                 __ATOMIC_RELAXED);
    return 0;
}

static int on_clear_many(struct region *region, const struct bitmap *pages, struct fault *fault)
{
    for (uint64_t first = 0; first < FILES_PAGES; first += BLOCK_PAGES)
        (void)on_clear(region, first, pages->words + first / 64, fault); /* cannot fail */
    return 0;
}

static int on_populated(struct region *region, struct bitmap *ret_populated, struct fault *fault)
{
    struct boot_files *files = region->owner;
    (void)fault;
    fill_once(files);
    for (uint64_t i = 0; i < FILES_PAGES / 64; i++)
        ret_populated->words[i] = __atomic_load_n(&files->populated.words[i], __ATOMIC_RELAXED);
    return 0;
}

/* Memory comes by itself when a lane writes; what is known here is what was written. */
static int on_populate(struct region *region, uint64_t first_page, uint64_t pages,
                       struct fault *fault)
{
    struct boot_files *files = region->owner;
    (void)fault;
    assert(range_fits(first_page, pages, FILES_PAGES));
    for (uint64_t page = first_page; page < first_page + pages; page++)
        bitmap_set_atomic(&files->populated, page);
    return 0;
}

static const struct region_ops boot_region_ops = {
    .track_start = on_track_start,
    .track_stop = on_track_stop,
    .collect = on_collect,
    .clear = on_clear,
    .clear_many = on_clear_many,
    .populated = on_populated,
    .populate = on_populate,
};

void boot_files_region(struct boot_files *files, unsigned id, struct region *ret_region)
{
    *ret_region = (struct region){
        .ops = &boot_region_ops,
        .owner = files,
        .name = "boot",
        .id = id,
        .pages = FILES_PAGES,
        .base = files->base,
    };
}

/* ---- and out of it again ---- */
static int file_of(const char *name, const uint8_t *bytes, uint64_t count, int *ret_fd,
                   struct fault *fault)
{
    AUTO_FD int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making a file of the %s",
                               name);
    for (uint64_t done = 0; done < count;) {
        ssize_t put = write(fd, bytes + done, (size_t)(count - done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fault_set_errno(fault, err_from_errno(errno), errno, "making a file of the %s",
                                   name);
        done += (uint64_t)put;
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* What a peer sent: judged before it is used. */
static int take_apart(struct boot_files *files, struct fault *fault)
{
    if (!bitmap_test(&files->populated, 0) || bytes_get_u32(files->base) == 0)
        return fault_set(fault, ERR_NOT_FOUND, "the move brought no kernel with the guest");
    uint64_t kernel = bytes_get_u64(files->base + 8);
    uint64_t initrd = bytes_get_u64(files->base + 16);
    uint64_t room = BOOT_FILES_BYTES_MAX - PAGE_BYTES;
    if (bytes_get_u32(files->base) != FILES_MAGIC ||
        bytes_get_u32(files->base + 4) != FILES_VERSION || kernel == 0 || kernel > room ||
        initrd > room - (pages_of(kernel) << PAGE_SHIFT))
        return fault_set(fault, ERR_CORRUPT, "the boot files that came with the guest are damaged");

    AUTO_FD int kernel_fd = -1;
    AUTO_FD int initrd_fd = -1;
    int r = file_of("kernel", files->base + PAGE_BYTES, kernel, &kernel_fd, fault);
    if (r == 0 && initrd)
        r = file_of("initrd", files->base + ((1 + pages_of(kernel)) << PAGE_SHIFT), initrd,
                    &initrd_fd, fault);
    if (r < 0)
        return r;
    files->kernel_fd = TAKE_FD(kernel_fd);
    files->initrd_fd = TAKE_FD(initrd_fd);
    forget(files);
    return 0;
}

int boot_files_get(struct boot_files *files, int *ret_kernel_fd, int *ret_initrd_fd,
                   struct fault *fault)
{
    if (files->kernel_fd < 0) {
        int r = take_apart(files, fault);
        if (r < 0)
            return r;
    }
    *ret_kernel_fd = files->kernel_fd;
    *ret_initrd_fd = files->initrd_fd;
    return 0;
}
