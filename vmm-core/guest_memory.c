/* One memfd, mapped once at a 2 MiB boundary.
 *
 *   memfd / host     0 ............ 3 GiB ............ end
 *   guest-physical   0 ............ 3 GiB   (hole)   4 GiB ......... end + 1 GiB
 *
 * A memfd rather than anonymous memory because the same pages must be handed to a successor
 * process (upgrade in place) and because SEEK_DATA tells which pages exist without touching one.
 * Its size is sealed: whoever else holds the descriptor cannot make our mapping fault.
 */
#include "vmm-core/guest_memory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_PAGE_BYTES MIB(2)
enum { HUGE_PAGES = 512 };

static_assert(GUEST_MEMORY_HOLE_START % HUGE_PAGE_BYTES == 0,
              "a 2 MiB block never lies on both sides of the hole");

struct guest_memory {
    int fd;
    bool huge_pages;
    bool is_adopted; /* another process has it, too */
    uint64_t bytes, id;
    uint8_t *base;
    struct bitmap written; /* atomic */
    bool is_held; /* atomic */
};

static void guest_memory_freep(struct guest_memory **memory)
{
    *memory = guest_memory_free(*memory);
}

static int memfd_open(uint64_t bytes, bool huge_pages, int *ret_fd, struct fault *fault)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    if (huge_pages)
        flags |= MFD_HUGETLB | MFD_HUGE_2MB;

    AUTO_FD int fd = memfd_create("guest-ram", flags);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno,
                               "creating %s memory for the guest",
                               huge_pages ? "2 MiB huge page" : "shared");
    if (ftruncate(fd, (off_t)bytes) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno,
                               "sizing guest memory to %llu MiB",
                               (unsigned long long)(bytes >> 20));
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "sealing guest memory");

    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* Map `fd` at a multiple of 2 MiB, so that host and guest huge pages fall together. */
static int map_aligned(int fd, uint64_t bytes, bool huge_pages, uint8_t **ret_base,
                       struct fault *fault)
{
    size_t room = (size_t)(bytes + HUGE_PAGE_BYTES);
    uint8_t *space =
        mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED)
        return fault_set_errno(fault, ERR_NOMEM, errno, "finding address space for guest memory");

    uintptr_t start = ((uintptr_t)space + HUGE_PAGE_BYTES - 1) & ~(uintptr_t)(HUGE_PAGE_BYTES - 1);
    size_t before = (size_t)(start - (uintptr_t)space);
    size_t behind = room - before - (size_t)bytes;
    uint8_t *base =
        mmap((void *)start, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (base == MAP_FAILED) {
        int map_errno = errno;
        (void)munmap(space, room); /* our own reservation: cannot fail */
        int r = fault_set_errno(
            fault, err_from_errno(map_errno), map_errno, "mapping %llu MiB of %s guest memory",
            (unsigned long long)(bytes >> 20), huge_pages ? "2 MiB huge page" : "shared");
        if (huge_pages)
            fault_hint(fault, "sysctl vm.nr_hugepages=%llu",
                       (unsigned long long)(bytes / HUGE_PAGE_BYTES));
        return r;
    }
    if (before)
        (void)munmap(space, before); /* as above */
    if (behind)
        (void)munmap(base + bytes, behind); /* as above */

    *ret_base = base;
    return 0;
}

/* Whoever gave it may be a process that its guest has taken over: what is mapped here must neither
 * shrink under us nor be anything but memory of the kind that was asked for. */
static int adopt_fd(int fd, uint64_t bytes, bool huge_pages, int *ret_fd, struct fault *fault)
{
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);
    int wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    if (seals < 0 || fstat(fd, &status) < 0)
        return fault_set_errno(fault, ERR_INVALID, errno, "the guest's memory is no memfd");
    if ((seals & wanted) != wanted || (seals & F_SEAL_WRITE))
        return fault_set(fault, ERR_INVALID, "the guest's memory is not sealed as it should be");
    if ((uint64_t)status.st_size != bytes || ((uint64_t)status.st_blksize == HUGE_PAGE_BYTES) != huge_pages)
        return fault_set(fault, ERR_INVALID,
                         "memory of %lld MiB in pages of %ld KiB was handed over for a guest of %llu "
                         "MiB",
                         (long long)(status.st_size >> 20), (long)(status.st_blksize >> 10),
                         (unsigned long long)(bytes >> 20));
    *ret_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (*ret_fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "keeping the guest's memory");
    return 0;
}

static int memory_new(struct guest_memory **ret_memory, int adopted_fd, uint64_t bytes,
                      bool huge_pages, struct fault *fault)
{
    struct stat status;

    if (bytes < GUEST_MEMORY_BYTES_MIN || bytes > GUEST_MEMORY_BYTES_MAX || bytes % HUGE_PAGE_BYTES)
        return fault_set(fault, ERR_INVALID,
                         "guest memory of %llu bytes: must be a multiple of 2 MiB, %llu MiB to "
                         "%llu GiB",
                         (unsigned long long)bytes,
                         (unsigned long long)(GUEST_MEMORY_BYTES_MIN >> 20),
                         (unsigned long long)(GUEST_MEMORY_BYTES_MAX >> 30));

    AUTO(guest_memory_freep) struct guest_memory *memory = calloc(1, sizeof *memory);
    if (!memory)
        return fault_set(fault, ERR_NOMEM, "no memory for a guest memory");
    memory->fd = -1;
    memory->bytes = bytes;
    memory->huge_pages = huge_pages;

    int r = bitmap_init(&memory->written, bytes >> PAGE_SHIFT);
    if (r < 0)
        return fault_set(fault, r, "no memory for the map of written pages");
    memory->is_adopted = adopted_fd >= 0;
    r = memory->is_adopted ? adopt_fd(adopted_fd, bytes, huge_pages, &memory->fd, fault)
                           : memfd_open(bytes, huge_pages, &memory->fd, fault);
    if (r < 0)
        return r;
    if (fstat(memory->fd, &status) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "looking at guest memory");
    memory->id = status.st_ino ? status.st_ino : UINT64_MAX;
    r = map_aligned(memory->fd, bytes, huge_pages, &memory->base, fault);
    if (r < 0)
        return r;

    /* Both are wishes: a kernel without them loses speed and core dump size, nothing else. */
    (void)madvise(memory->base, (size_t)bytes, MADV_HUGEPAGE);
    (void)madvise(memory->base, (size_t)bytes, MADV_DONTDUMP);

    *ret_memory = TAKE(memory);
    return 0;
}

int guest_memory_new(struct guest_memory **ret_memory, uint64_t bytes, bool huge_pages,
                     struct fault *fault)
{
    return memory_new(ret_memory, -1, bytes, huge_pages, fault);
}

int guest_memory_adopt(struct guest_memory **ret_memory, int fd, uint64_t bytes, bool huge_pages,
                       struct fault *fault)
{
    assert(fd >= 0);
    return memory_new(ret_memory, fd, bytes, huge_pages, fault);
}

uint64_t guest_memory_id(const struct guest_memory *memory)
{
    return memory->id;
}

struct guest_memory *guest_memory_free(struct guest_memory *memory)
{
    if (!memory)
        return NULL;
    if (memory->base)
        (void)munmap(memory->base, (size_t)memory->bytes); /* our own mapping: cannot fail */
    close_p(&memory->fd);
    bitmap_deinit(&memory->written);
    free(memory);
    return NULL;
}

uint64_t guest_memory_pages(const struct guest_memory *memory)
{
    return memory->bytes >> PAGE_SHIFT;
}

uint8_t *guest_memory_base(const struct guest_memory *memory)
{
    return memory->base;
}

int guest_memory_fd(const struct guest_memory *memory)
{
    return memory->fd;
}

unsigned guest_memory_parts(const struct guest_memory *memory,
                            struct guest_memory_part ret_parts[static GUEST_MEMORY_PARTS_MAX])
{
    uint64_t low =
        memory->bytes < GUEST_MEMORY_HOLE_START ? memory->bytes : GUEST_MEMORY_HOLE_START;
    ret_parts[0] = (struct guest_memory_part){.pages = low >> PAGE_SHIFT};
    if (low == memory->bytes)
        return 1;

    ret_parts[1] = (struct guest_memory_part){
        .guest_address = GUEST_MEMORY_HOLE_END,
        .first_page = low >> PAGE_SHIFT,
        .pages = (memory->bytes - low) >> PAGE_SHIFT,
    };
    return 2;
}

/* Offset in the memfd of guest-physical [address, address + count); false when it is not RAM. */
static bool find_offset(const struct guest_memory *memory, uint64_t address, uint64_t count,
                        uint64_t *ret_offset)
{
    struct guest_memory_part parts[GUEST_MEMORY_PARTS_MAX];
    unsigned part_count = guest_memory_parts(memory, parts);
    for (unsigned i = 0; i < part_count; i++) {
        uint64_t bytes = parts[i].pages << PAGE_SHIFT;
        if (address < parts[i].guest_address)
            continue;
        uint64_t inside = address - parts[i].guest_address;
        if (inside < bytes && range_fits(inside, count, bytes)) {
            *ret_offset = (parts[i].first_page << PAGE_SHIFT) + inside;
            return true;
        }
    }
    return false;
}

uint8_t *guest_memory_at(const struct guest_memory *memory, uint64_t address, uint64_t count)
{
    uint64_t offset = 0;
    return find_offset(memory, address, count, &offset) ? memory->base + offset : NULL;
}

void guest_memory_mark_written(struct guest_memory *memory, uint64_t address, uint64_t count)
{
    uint64_t offset = 0;
    bool is_ram = find_offset(memory, address, count, &offset);
    assert(is_ram); /* the writer got its pointer from guest_memory_at */
    guest_memory_mark_host_written(memory, memory->base + offset, count);
}

void guest_memory_mark_host_written(struct guest_memory *memory, const uint8_t *at, uint64_t count)
{
    assert(at >= memory->base);
    uint64_t offset = (uint64_t)(at - memory->base);
    assert(range_fits(offset, count, memory->bytes));
    if (count == 0)
        return;
    uint64_t last = (offset + count - 1) >> PAGE_SHIFT;
    for (uint64_t page = offset >> PAGE_SHIFT; page <= last; page++)
        bitmap_set_atomic(&memory->written, page);
}

void guest_memory_take_written(struct guest_memory *memory, struct bitmap *dirty)
{
    bitmap_take_atomic(dirty, &memory->written);
}

uint64_t guest_memory_discard(struct guest_memory *memory, uint64_t address, uint64_t count)
{
    uint64_t offset = 0;
    if (count == 0 || !find_offset(memory, address, count, &offset))
        return 0;
    return guest_memory_discard_host(memory, memory->base + offset, count);
}

/* What is part of a huge page that cannot be split now, since somebody holds it, is only cleared, and
 * the kernel does not say so. */
static bool is_hole(const struct guest_memory *memory, uint64_t first, uint64_t end)
{
    if (memory->huge_pages)
        return true; /* hugetlbfs calls everything data, and gives whole pages back */
    off_t data = lseek(memory->fd, (off_t)first, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= end;
}

/* Marked behind the hole, not before: a lane that reads the page in between sends what was there,
 * and once more what is there now. */
uint64_t guest_memory_discard_host(struct guest_memory *memory, const uint8_t *at, uint64_t count)
{
    assert(at >= memory->base);
    uint64_t offset = (uint64_t)(at - memory->base);
    assert(range_fits(offset, count, memory->bytes));
    uint64_t unit = memory->huge_pages ? HUGE_PAGE_BYTES : PAGE_BYTES;
    uint64_t first = (offset + unit - 1) / unit * unit;
    uint64_t end = (offset + count) / unit * unit;
    if (first >= end || __atomic_load_n(&memory->is_held, __ATOMIC_ACQUIRE))
        return 0;
    int r;
    do {
        r = fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)first,
                      (off_t)(end - first));
    } while (r < 0 && errno == EINTR);
    if (r < 0)
        return 0;
    guest_memory_mark_host_written(memory, memory->base + first, end - first);
    return is_hole(memory, first, end) ? (end - first) >> PAGE_SHIFT : 0;
}

void guest_memory_hold(struct guest_memory *memory, bool hold)
{
    __atomic_store_n(&memory->is_held, hold, __ATOMIC_RELEASE);
}

int guest_memory_populated(const struct guest_memory *memory, struct bitmap *ret_populated,
                           struct fault *fault)
{
    assert(ret_populated->bits == guest_memory_pages(memory));
    if (memory->huge_pages) {
        /* hugetlbfs calls everything data, touched or not: more than "exactly", never less. */
        bitmap_set_all(ret_populated);
        return 0;
    }

    bitmap_clear_all(ret_populated);
    uint64_t at = 0;
    while (at < memory->bytes) {
        off_t data = lseek(memory->fd, (off_t)at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return 0; /* only holes from here on */
        off_t hole = data < 0 ? -1 : lseek(memory->fd, data, SEEK_HOLE);
        if (data < 0 || hole < 0)
            return fault_set_errno(fault, ERR_IO, errno, "finding populated guest memory");

        uint64_t first = (uint64_t)data >> PAGE_SHIFT;
        uint64_t end = ((uint64_t)hole + PAGE_BYTES - 1) >> PAGE_SHIFT;
        bitmap_set_range(ret_populated, first, end - first);
        at = (uint64_t)hole;
    }
    return 0;
}

/* Back every whole 2 MiB block of the range with one huge page, where the kernel can. A memfd gets
 * none by itself when shmem_enabled is "never"; MADV_COLLAPSE does not ask that setting, only for
 * one page that is there already. Measured: a third of the CPU time of populating 4 KiB pages, and
 * the guest faults 512 times less often afterwards. Whatever fails here is populated in small
 * pages. */
static void populate_huge(struct guest_memory *memory, uint64_t first, uint64_t count)
{
    uint64_t begin = (first + HUGE_PAGES - 1) / HUGE_PAGES * HUGE_PAGES;
    uint64_t end = (first + count) / HUGE_PAGES * HUGE_PAGES;
    if (begin >= end)
        return;
    for (uint64_t page = begin; page < end; page += HUGE_PAGES) {
        if (madvise(guest_memory_page(memory->base, page), PAGE_BYTES, MADV_POPULATE_WRITE) < 0)
            return;
    }
    (void)madvise(guest_memory_page(memory->base, begin), (size_t)((end - begin) << PAGE_SHIFT),
                  MADV_COLLAPSE);
}

int guest_memory_populate(struct guest_memory *memory, uint64_t first, uint64_t count,
                          struct fault *fault)
{
    assert(range_fits(first, count, guest_memory_pages(memory)));
    if (count == 0)
        return 0;
    if (memory->is_adopted && memory->huge_pages)
        return 0; /* few faults, and a page too many would be taken from the pool */
    if (!memory->huge_pages && !memory->is_adopted)
        populate_huge(memory, first, count);

    uint8_t *start = guest_memory_page(memory->base, first);
    /* What is there already is mapped by a read as well, writable, and 16 pages at a time. */
    int advice = memory->is_adopted ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;
    int r;
    do {
        r = madvise(start, (size_t)(count << PAGE_SHIFT), advice);
    } while (r < 0 && errno == EINTR);
    if (r == 0)
        return 0;

    /* EFAULT is what the kernel says where a write would raise SIGBUS: an empty hugetlb pool. */
    int code = errno == ENOMEM || errno == EFAULT ? ERR_NOMEM : ERR_IO;
    return fault_set_errno(fault, code, errno, "the host cannot give %llu MiB to the guest",
                           (unsigned long long)(count >> (20 - PAGE_SHIFT)));
}
