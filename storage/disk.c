/* Two engines behind one door:
 *
 *   read, write, flush   -> disk_uring, or disk_threads where io_uring is not allowed
 *   discard, zeroes      -> disk_threads: the kernel would hand them to threads as well
 *   what io_uring did in part, or would not do now  -> disk_threads, for the rest
 *
 * O_DIRECT wants aligned memory. A guest may give any; such requests go by a buffer of ours.
 */
#include "storage/disk.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/disk_file.h"
#include "storage/disk_mirror.h"
#include "storage/disk_threads.h"
#include "storage/disk_uring.h"

struct disk {
    struct disk_file file;
    int event_fd;
    unsigned in_flight;
    struct bitmap *_Atomic written; /* where changes are noted; NULL: nowhere */
    struct disk_mirror *mirror;     /* borrowed; NULL: none */
    bool is_switching;              /* `held` waits until nothing is in flight */
    struct disk_request *held, **held_end;
    struct disk_uring uring;
    struct disk_threads threads;
};

static void disk_freep(struct disk **disk)
{
    *disk = disk_free(*disk);
}

int disk_new(struct disk **ret_disk, int fd, const struct disk_config *config, struct fault *fault)
{
    AUTO(disk_freep) struct disk *disk = calloc(1, sizeof *disk);
    if (!disk)
        return fault_set(fault, ERR_NOMEM, "no memory for a disk");
    disk->file.fd = -1;
    disk->held_end = &disk->held;
    disk->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (disk->event_fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "opening a disk");
    int r = disk_file_open(&disk->file, fd, config->read_only, config->cached, fault);
    if (r < 0)
        return r;
    if (!config->by_threads)
        (void)disk_uring_init(&disk->uring, &disk->file, disk->event_fd); /* else by threads */
    disk_threads_init(&disk->threads, &disk->file, disk->event_fd,
                      disk->uring.ready ? 1 : DISK_THREADS_MAX);

    *ret_disk = TAKE(disk);
    return 0;
}

struct disk *disk_free(struct disk *disk)
{
    if (!disk)
        return NULL;
    assert(disk->in_flight == 0);
    disk_uring_deinit(&disk->uring);
    disk_threads_deinit(&disk->threads);
    disk_file_close(&disk->file);
    close_p(&disk->event_fd);
    free(disk);
    return NULL;
}

uint64_t disk_bytes(const struct disk *disk)
{
    return disk->file.bytes;
}

bool disk_is_direct(const struct disk *disk)
{
    return disk->file.direct;
}

bool disk_is_by_threads(const struct disk *disk)
{
    return !disk->uring.ready;
}

int disk_event_fd(const struct disk *disk)
{
    return disk->event_fd;
}

void disk_track(struct disk *disk, struct bitmap *written)
{
    atomic_store(&disk->written, written);
}

/* Whatever came of it: also a failed one may have written. */
static void note_written(struct disk *disk, const struct disk_request *request)
{
    struct bitmap *written = atomic_load(&disk->written);

    if (!written || request->op == DISK_READ || request->op == DISK_FLUSH)
        return;
    uint64_t end = (request->offset + request->bytes + PAGE_BYTES - 1) >> PAGE_SHIFT;
    for (uint64_t page = request->offset >> PAGE_SHIFT; page < end; page++)
        bitmap_set_atomic(written, page);
}

static bool is_transfer(const struct disk_request *request)
{
    return request->op == DISK_READ || request->op == DISK_WRITE;
}

static uint64_t bytes_of_parts(const struct disk_request *request)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < request->part_count; i++)
        sum += request->parts[i].iov_len;
    return sum;
}

static bool needs_bounce(const struct disk *disk, const struct disk_request *request)
{
    if (!disk->file.direct || !is_transfer(request))
        return false;
    for (unsigned i = 0; i < request->part_count; i++) {
        const struct iovec *part = &request->parts[i];
        if (((uintptr_t)part->iov_base | part->iov_len) % DISK_SECTOR_BYTES != 0)
            return true;
    }
    return false;
}

static void copy_parts(struct disk_request *request, bool to_bounce)
{
    uint8_t *at = request->bounce;
    for (unsigned i = 0; i < request->part_count; i++) {
        const struct iovec *part = &request->parts[i];
        memcpy(to_bounce ? at : part->iov_base, to_bounce ? part->iov_base : at, part->iov_len);
        at += part->iov_len;
    }
}

static bool make_bounce(struct disk_request *request)
{
    void *bounce = NULL;
    if (posix_memalign(&bounce, PAGE_BYTES, (size_t)request->bytes) != 0)
        return false;
    request->bounce = bounce;
    if (request->op == DISK_WRITE)
        copy_parts(request, true);
    return true;
}

static void begin(struct disk *disk, struct disk_request *request)
{
    disk->in_flight++;
    if (needs_bounce(disk, request) && !make_bounce(request)) {
        request->error = ENOMEM;
        disk_threads_put_done(&disk->threads, request);
    } else if (disk->uring.ready && (is_transfer(request) || request->op == DISK_FLUSH)) {
        disk_uring_put(&disk->uring, request);
    } else {
        disk_threads_put(&disk->threads, request);
    }
}

void disk_submit(struct disk *disk, struct disk_request *request)
{
    assert(request->done);
    assert(request->offset % DISK_SECTOR_BYTES == 0 && request->bytes % DISK_SECTOR_BYTES == 0);
    assert(range_fits(request->offset, request->bytes, disk->file.bytes));
    assert(!disk->file.read_only || request->op == DISK_READ || request->op == DISK_FLUSH);
    assert(!is_transfer(request) ||
           (request->part_count >= 1 && request->part_count <= DISK_PARTS_MAX &&
            request->bytes <= DISK_TRANSFER_MAX && bytes_of_parts(request) == request->bytes));
    request->bounce = NULL;
    request->transferred = 0;
    request->error = 0;
    request->mirrored = false;
    if (!disk->is_switching) {
        begin(disk, request);
        return;
    }
    request->next = NULL;
    *disk->held_end = request;
    disk->held_end = &request->next;
}

/* ---- another file ---- */
void disk_mirror(struct disk *disk, struct disk_mirror *mirror)
{
    assert(!disk->is_switching);
    disk->mirror = mirror;
}

/* Nothing is in flight: neither engine holds the old descriptor. */
static void become_target(struct disk *disk)
{
    struct disk_file old = disk->file;
    struct disk_request *held = TAKE(disk->held);

    assert(disk->in_flight == 0 && disk->is_switching);
    disk_mirror_give(disk->mirror, &disk->file);
    disk_file_close(&old);
    disk->mirror = NULL;
    disk->is_switching = false;
    disk->held_end = &disk->held;
    while (held) {
        struct disk_request *next = held->next;
        begin(disk, held);
        held = next;
    }
    disk_kick(disk);
}

void disk_switch(struct disk *disk)
{
    assert(disk->mirror);
    disk->is_switching = true;
    if (disk->in_flight == 0)
        become_target(disk);
}

void disk_kick(struct disk *disk)
{
    if (disk->uring.ready)
        disk_uring_kick(&disk->uring);
}

static void finish(struct disk *disk, struct disk_request *request)
{
    if (request->bounce && request->op == DISK_READ && request->error == 0)
        copy_parts(request, false);
    free(request->bounce);
    request->bounce = NULL;
    note_written(disk, request);
    if (disk->mirror && !request->mirrored && request->op != DISK_READ &&
        disk_mirror_take(disk->mirror, request, &disk->threads))
        return; /* it comes again, when it is on both */
    assert(disk->in_flight > 0);
    disk->in_flight--;
    request->done(request, request->error);
    if (disk->is_switching && disk->in_flight == 0)
        become_target(disk);
}

/* Done in part, or not now: a thread does the rest. */
static bool is_unfinished(const struct disk_request *request)
{
    if (request->mirrored)
        return false;
    if (request->error == EAGAIN || request->error == EINTR)
        return true;
    return request->error == 0 && is_transfer(request) && request->transferred < request->bytes;
}

static void reap_uring(struct disk *disk)
{
    struct disk_request *request;
    while ((request = disk_uring_take(&disk->uring)) != NULL) {
        if (is_unfinished(request))
            disk_threads_put(&disk->threads, request);
        else
            finish(disk, request);
    }
    disk_uring_kick(&disk->uring); /* there is room again */
}

void disk_reap(struct disk *disk)
{
    uint64_t count;
    ssize_t r = read(disk->event_fd, &count, sizeof count);
    (void)r; /* EAGAIN: it was looked at already */
    if (disk->uring.ready)
        reap_uring(disk);
    struct disk_request *request = disk_threads_take_done(&disk->threads);
    while (request) {
        struct disk_request *next = request->next; /* `done` may submit it again */
        finish(disk, request);
        request = next;
    }
}
