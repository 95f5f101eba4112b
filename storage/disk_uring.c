#include "storage/disk_uring.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "storage/disk.h"
#include "storage/disk_file.h"

bool disk_uring_init(struct disk_uring *uring, const struct disk_file *file, int event_fd)
{
    memset(uring, 0, sizeof *uring);
    uring->file = file;
    uring->waiting_end = &uring->waiting;
    if (io_uring_queue_init(DISK_URING_DEPTH, &uring->ring, 0) < 0)
        return false;
    /* Without it more could be in flight than the completion ring holds. Linux 5.5. */
    if (!(uring->ring.features & IORING_FEAT_NODROP) ||
        io_uring_register_eventfd(&uring->ring, event_fd) < 0) {
        io_uring_queue_exit(&uring->ring);
        return false;
    }
    uring->ready = true;
    return true;
}

void disk_uring_deinit(struct disk_uring *uring)
{
    if (!uring->ready)
        return;
    assert(!uring->waiting);
    io_uring_queue_exit(&uring->ring);
    uring->ready = false;
}

static struct io_uring_sqe *find_room(struct disk_uring *uring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    if (sqe)
        return sqe;
    (void)io_uring_submit(&uring->ring); /* busy: whoever waits is tried again by the next take */
    return io_uring_get_sqe(&uring->ring);
}

static bool prepare(struct disk_uring *uring, struct disk_request *request)
{
    struct io_uring_sqe *sqe = find_room(uring);
    if (!sqe)
        return false;
    int fd = uring->file->fd;
    if (request->op == DISK_FLUSH)
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    else if (request->bounce && request->op == DISK_READ)
        io_uring_prep_read(sqe, fd, request->bounce, (unsigned)request->bytes, request->offset);
    else if (request->bounce)
        io_uring_prep_write(sqe, fd, request->bounce, (unsigned)request->bytes, request->offset);
    else if (request->op == DISK_READ)
        io_uring_prep_readv(sqe, fd, request->parts, request->part_count, request->offset);
    else
        io_uring_prep_writev(sqe, fd, request->parts, request->part_count, request->offset);
    io_uring_sqe_set_data(sqe, request);
    return true;
}

void disk_uring_put(struct disk_uring *uring, struct disk_request *request)
{
    assert(request->op == DISK_READ || request->op == DISK_WRITE || request->op == DISK_FLUSH);
    if (!uring->waiting && prepare(uring, request))
        return;
    request->next = NULL;
    *uring->waiting_end = request;
    uring->waiting_end = &request->next;
}

void disk_uring_kick(struct disk_uring *uring)
{
    while (uring->waiting && prepare(uring, uring->waiting)) {
        uring->waiting = uring->waiting->next;
        if (!uring->waiting)
            uring->waiting_end = &uring->waiting;
    }
    (void)io_uring_submit(&uring->ring); /* busy: tried again by the next kick */
}

struct disk_request *disk_uring_take(struct disk_uring *uring)
{
    struct io_uring_cqe *cqe = NULL;
    if (io_uring_peek_cqe(&uring->ring, &cqe) != 0)
        return NULL;
    struct disk_request *request = io_uring_cqe_get_data(cqe);
    int result = cqe->res;
    io_uring_cqe_seen(&uring->ring, cqe);
    request->error = result < 0 ? -result : 0;
    if (result > 0 && request->op != DISK_FLUSH)
        request->transferred = (uint64_t)result;
    return request;
}
