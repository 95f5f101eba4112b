#include "migrate/file_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/err.h"
#include "base/world.h"

enum { BUFFER_BYTES = 1 << 20 };

struct file_stream {
    struct stream stream; /* first */
    int fd;
    uint64_t offset;           /* of what the owner has put or got */
    uint64_t file_at;          /* of what the file has given or taken */
    uint8_t *buffer;           /* owned */
    size_t buffered, taken;    /* writing: bytes that wait; reading: bytes there, and handed on */
    XXH3_state_t *digest;      /* owned */
};

static struct file_stream *file_of(struct stream *stream)
{
    return (struct file_stream *)(void *)stream;
}

static int write_all(struct file_stream *file, const uint8_t *bytes, size_t count,
                     struct fault *fault)
{
    uint64_t begun_ns = world_now_ns();

    while (count > 0) {
        ssize_t put = pwrite(file->fd, bytes, count, (off_t)file->file_at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return fault_set_errno(fault, errno == ENOSPC || errno == EDQUOT ? ERR_LIMIT : ERR_IO,
                                   errno, "writing the guest's file at %llu MiB",
                                   (unsigned long long)(file->file_at >> 20));
        bytes += put;
        count -= (size_t)put;
        file->file_at += (uint64_t)put;
        file->stream.wire_bytes_out += (uint64_t)put;
    }
    file->stream.wait_out_ns += world_now_ns() - begun_ns;
    return 0;
}

static int on_flush(struct stream *stream, struct fault *fault)
{
    struct file_stream *file = file_of(stream);

    int r = write_all(file, file->buffer, file->buffered, fault);
    file->buffered = 0;
    return r;
}

static int on_write(struct stream *stream, const void *bytes, size_t count, struct fault *fault)
{
    struct file_stream *file = file_of(stream);
    int r = 0;

    (void)XXH3_64bits_update(file->digest, bytes, count);
    file->offset += count;
    if (count > BUFFER_BYTES - file->buffered)
        r = on_flush(stream, fault);
    if (r == 0 && count > BUFFER_BYTES)
        return write_all(file, bytes, count, fault);
    if (r == 0) {
        memcpy(file->buffer + file->buffered, bytes, count);
        file->buffered += count;
    }
    return r;
}

static int refill(struct file_stream *file, struct fault *fault)
{
    ssize_t got;
    do {
        got = pread(file->fd, file->buffer, BUFFER_BYTES, (off_t)file->file_at);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading the guest's file");
    if (got == 0)
        return fault_set(fault, ERR_CORRUPT, "the guest's file ends at %llu bytes, too early",
                         (unsigned long long)file->file_at);
    file->file_at += (uint64_t)got;
    file->buffered = (size_t)got;
    file->taken = 0;
    return 0;
}

static int on_read(struct stream *stream, void *ret_bytes, size_t count, struct fault *fault)
{
    struct file_stream *file = file_of(stream);
    uint8_t *to = ret_bytes;

    for (size_t left = count; left > 0;) {
        if (file->taken == file->buffered) {
            int r = refill(file, fault);
            if (r < 0)
                return r;
        }
        size_t here = file->buffered - file->taken;
        if (here > left)
            here = left;
        memcpy(to, file->buffer + file->taken, here);
        file->taken += here;
        to += here;
        left -= here;
    }
    (void)XXH3_64bits_update(file->digest, ret_bytes, count);
    file->offset += count;
    return 0;
}

static void on_interrupt(struct stream *stream)
{
    (void)stream; /* a file does not wait for a peer */
}

static void on_set_hot(struct stream *stream, bool hot)
{
    (void)stream;
    (void)hot;
}

static void on_free(struct stream *stream)
{
    struct file_stream *file = file_of(stream);

    (void)XXH3_freeState(file->digest);
    free(file->buffer);
    free(file);
}

static const struct stream_ops file_stream_ops = {
    .write = on_write,
    .flush = on_flush,
    .read = on_read,
    .interrupt = on_interrupt,
    .set_hot = on_set_hot,
    .free = on_free,
};

int file_stream_new(struct stream **ret_stream, int fd, uint64_t offset, struct fault *fault)
{
    struct file_stream *file = calloc(1, sizeof *file);
    if (!file)
        return fault_set(fault, ERR_NOMEM, "no memory for a guest's file");
    file->stream.ops = &file_stream_ops;
    file->fd = fd;
    file->offset = file->file_at = offset;
    file->buffer = malloc(BUFFER_BYTES);
    file->digest = XXH3_createState();
    if (!file->buffer || !file->digest) {
        on_free(&file->stream);
        return fault_set(fault, ERR_NOMEM, "no memory for a guest's file");
    }
    (void)XXH3_64bits_reset(file->digest);
    *ret_stream = &file->stream;
    return 0;
}

void file_stream_seed(struct stream *stream, const void *bytes, uint64_t count)
{
    (void)XXH3_64bits_update(file_of(stream)->digest, bytes, count);
}

uint64_t file_stream_digest(const struct stream *stream)
{
    const struct file_stream *file = (const struct file_stream *)(const void *)stream;
    return XXH3_64bits_digest(file->digest);
}

uint64_t file_stream_offset(const struct stream *stream)
{
    const struct file_stream *file = (const struct file_stream *)(const void *)stream;
    return file->offset;
}
