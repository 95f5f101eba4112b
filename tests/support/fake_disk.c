/* The door of storage/disk.h over a piece of memory, without threads: a request moves its bytes
 * when it is reaped. Linked before the real one, it takes its place. */
#include "tests/support/fake_disk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "storage/disk.h"

struct disk {
    uint8_t bytes[FAKE_DISK_BYTES];
    int event_fd;
    bool read_only;
    struct disk_request *first, **last;
};

unsigned fake_disk_fail_next;

int disk_new(struct disk **ret_disk, int fd, const struct disk_config *config, struct fault *fault)
{
    (void)fd;
    struct disk *disk = calloc(1, sizeof *disk);
    if (!disk)
        return fault_set(fault, ERR_NOMEM, "no memory");
    disk->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    disk->read_only = config->read_only;
    disk->last = &disk->first;
    *ret_disk = disk;
    return 0;
}

struct disk *disk_free(struct disk *disk)
{
    if (!disk)
        return NULL;
    assert(!disk->first);
    (void)close(disk->event_fd);
    free(disk);
    return NULL;
}

uint64_t disk_bytes(const struct disk *disk)
{
    return sizeof disk->bytes;
}

bool disk_is_direct(const struct disk *disk)
{
    (void)disk;
    return false;
}

bool disk_is_by_threads(const struct disk *disk)
{
    (void)disk;
    return true;
}

int disk_event_fd(const struct disk *disk)
{
    return disk->event_fd;
}

void disk_submit(struct disk *disk, struct disk_request *request)
{
    assert(range_fits(request->offset, request->bytes, sizeof disk->bytes));
    assert(request->offset % DISK_SECTOR_BYTES == 0 && request->bytes % DISK_SECTOR_BYTES == 0);
    assert(!disk->read_only || request->op == DISK_READ || request->op == DISK_FLUSH);
    request->next = NULL;
    *disk->last = request;
    disk->last = &request->next;
    uint64_t one = 1;
    ssize_t written = write(disk->event_fd, &one, sizeof one);
    assert(written == sizeof one);
    (void)written;
}

void disk_kick(struct disk *disk)
{
    (void)disk;
}

void fake_disk_fill(struct disk *disk)
{
    for (size_t i = 0; i < sizeof disk->bytes; i++)
        disk->bytes[i] = (uint8_t)(i % 255 + 1);
}

static void move_bytes(struct disk *disk, const struct disk_request *request)
{
    uint64_t sum = 0;
    uint8_t *at = disk->bytes + request->offset;
    for (unsigned i = 0; i < request->part_count; i++) {
        const struct iovec *part = &request->parts[i];
        sum += part->iov_len;
        assert(sum <= request->bytes);
        memmove(request->op == DISK_READ ? part->iov_base : at,
                request->op == DISK_READ ? at : part->iov_base, part->iov_len);
        at += part->iov_len;
    }
    assert(sum == request->bytes);
}

static int carry_out(struct disk *disk, const struct disk_request *request)
{
    if (request->op == DISK_READ || request->op == DISK_WRITE)
        move_bytes(disk, request);
    else if (request->op != DISK_FLUSH)
        memset(disk->bytes + request->offset, 0, request->bytes);
    if (fake_disk_fail_next == 0)
        return 0;
    fake_disk_fail_next--;
    return EIO; /* when all of it was moved: the worst for whoever forgets to mark it */
}

void disk_reap(struct disk *disk)
{
    uint64_t count;
    ssize_t r = read(disk->event_fd, &count, sizeof count);
    (void)r;
    struct disk_request *request = disk->first;
    disk->first = NULL;
    disk->last = &disk->first;
    while (request) {
        struct disk_request *next = request->next; /* `done` may submit it again */
        request->done(request, carry_out(disk, request));
        request = next;
    }
}

void disk_mirror(struct disk *disk, struct disk_mirror *mirror)
{
    (void)disk;
    (void)mirror;
}

void disk_switch(struct disk *disk)
{
    (void)disk;
}

void disk_track(struct disk *disk, struct bitmap *written)
{
    (void)disk;
    (void)written; /* what it holds is looked at directly */
}
