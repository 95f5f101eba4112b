/* A blocking byte stream of one lane: what is written arrives whole and in order, or not at all.
 *
 * Flow:   lane -> [stream] -> TLS over TCP -> [stream] -> lane
 * Thread: read and write each by one thread at a time (a lane uses one direction per stream in bulk
 *         and the other only for short answers from the same thread); interrupt from any.
 */
#ifndef GODWIT_NET_STREAM_H
#define GODWIT_NET_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fault;
struct stream;

/* A table that an implementation fills; `struct stream` is its first member. */
struct stream_ops {
    int (*write)(struct stream *stream, const void *bytes, size_t count, struct fault *fault);
    int (*flush)(struct stream *stream, struct fault *fault);
    int (*read)(struct stream *stream, void *ret_bytes, size_t count, struct fault *fault);
    void (*interrupt)(struct stream *stream);
    void (*set_hot)(struct stream *stream, bool hot);
    uint64_t (*queued)(struct stream *stream); /* NULL: nothing ever waits on this side */
    uint64_t (*round_trip_ns)(struct stream *stream); /* NULL as queued */
    void (*free)(struct stream *stream);
};

struct stream {
    const struct stream_ops *ops;
    const char *cipher; /* what protects the bytes, by its standard name; constant memory; NULL: none */
    uint64_t wire_bytes_out, wire_bytes_in; /* as counted on the socket, TLS included */
    uint64_t wait_out_ns;                   /* time the writer stood waiting for the socket */
    uint64_t wait_in_ns;                    /* time the reader stood waiting for the socket */
};

/* All of it, or a failure after which the stream is only fit for free. May be held back until
 * stream_flush or until a record's worth has gathered. ERR_CLOSED peer gone, ERR_CANCELED
 * interrupted, ERR_TIMEOUT peer silent, ERR_CORRUPT bytes changed on the way. */
static inline int stream_write(struct stream *stream, const void *bytes, size_t count,
                               struct fault *fault)
{
    return stream->ops->write(stream, bytes, count, fault);
}

static inline int stream_flush(struct stream *stream, struct fault *fault)
{
    return stream->ops->flush(stream, fault);
}

/* Exactly `count` bytes. A clean end in between is ERR_CLOSED as well: truncation is a failure. */
static inline int stream_read(struct stream *stream, void *ret_bytes, size_t count,
                              struct fault *fault)
{
    return stream->ops->read(stream, ret_bytes, count, fault);
}

/* Any thread: whoever reads or writes now or later gets ERR_CANCELED. */
static inline void stream_interrupt(struct stream *stream)
{
    stream->ops->interrupt(stream);
}

/* Inside the pause: read and write spin instead of sleeping (a wake-up costs 50 us and more). */
static inline void stream_set_hot(struct stream *stream, bool hot)
{
    stream->ops->set_hot(stream, hot);
}

/* Bytes that were written, and that the other end is not known to have: they wait in this host's socket, or are on
 * their way. */
static inline uint64_t stream_queued(struct stream *stream)
{
    return stream->ops->queued ? stream->ops->queued(stream) : 0;
}

/* The least that a round trip took: so long what was sent is under way where nothing waits. */
static inline uint64_t stream_round_trip_ns(struct stream *stream)
{
    return stream->ops->round_trip_ns ? stream->ops->round_trip_ns(stream) : 0;
}

/* Does what was written wait where stream_queued sees it? */
static inline bool stream_knows_queued(const struct stream *stream)
{
    return stream->ops->queued != NULL;
}

static inline struct stream *stream_free(struct stream *stream)
{
    if (stream)
        stream->ops->free(stream);
    return NULL;
}

#endif
