#include "migrate/control_lane.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/lane_write.h"
#include "net/stream.h"
#include "proto/move_frame.h"

struct control_lane {
    /* set before start, read by all */
    struct control_lane_config config;
    struct stream *stream; /* owned */
    pthread_t thread;
    bool started;

    uint64_t cpu_ns;     /* atomic; the reading thread's, as of its last message */
    uint64_t wire_bytes; /* the sending thread's */
};

static void control_lane_freep(struct control_lane **lane)
{
    *lane = control_lane_free(*lane);
}

static int read_message(struct control_lane *lane, const uint8_t *header, size_t count,
                        struct fault *fault)
{
    AUTO_FREE uint8_t *bytes = malloc(count);
    if (!bytes)
        return fault_set(fault, ERR_NOMEM, "no memory for a message of %zu bytes", count);
    int r = stream_read(lane->stream, bytes, count, fault);
    if (r < 0)
        return r;
    r = move_frame_check(header, bytes, count, fault);
    if (r < 0)
        return r;
    Godwit__MoveMessage *message = NULL;
    r = move_frame_decode(bytes, count, &message, fault);
    if (r < 0)
        return r;
    lane->config.on_message(lane->config.data, message);
    return 0;
}

static int read_frame(struct control_lane *lane, struct fault *fault)
{
    uint8_t header[MOVE_FRAME_HEADER_BYTES];
    int r = stream_read(lane->stream, header, sizeof header, fault);
    if (r < 0)
        return r;
    enum move_frame_type type;
    size_t count = 0;
    r = move_frame_get(header, &type, &count, fault);
    if (r < 0)
        return r;
    if (type == MOVE_FRAME_HOT) {
        stream_set_hot(lane->stream, lane->config.may_spin(lane->config.data));
        lane->config.on_hot(lane->config.data);
    } else {
        r = read_message(lane, header, count, fault);
    }
    __atomic_store_n(&lane->cpu_ns, world_thread_cpu_ns(), __ATOMIC_RELAXED);
    return r;
}

static void *control_lane_run(void *data)
{
    struct control_lane *lane = data;
    struct fault fault = {0};
    int r = 0;
    thread_begin("control lane");

    while (r == 0)
        r = read_frame(lane, &fault);
    (void)fault_wrap(&fault, r, "control lane");
    lane->config.on_lost(lane->config.data, &fault);
    return NULL;
}

int control_lane_new(struct control_lane **ret_lane, const struct control_lane_config *config,
                     struct stream *stream, struct fault *fault)
{
    AUTO(control_lane_freep) struct control_lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return fault_set(fault, ERR_NOMEM, "no memory for the control lane");
    lane->config = *config;
    lane->stream = stream;
    int error = pthread_create(&lane->thread, NULL, control_lane_run, lane);
    if (error) {
        lane->stream = NULL;
        return fault_set_errno(fault, ERR_NOMEM, error, "starting the control lane");
    }
    lane->started = true;
    *ret_lane = TAKE(lane);
    return 0;
}

struct control_lane *control_lane_free(struct control_lane *lane)
{
    if (!lane)
        return NULL;
    if (lane->started) {
        control_lane_interrupt(lane);
        pthread_join(lane->thread, NULL);
    }
    stream_free(lane->stream);
    free(lane);
    return NULL;
}

static int send_bytes(struct control_lane *lane, enum failpoint_id point, const uint8_t *bytes,
                      size_t count, struct fault *fault)
{
    int r = lane_write(lane->stream, point, bytes, count, fault);
    if (r == 0)
        r = stream_flush(lane->stream, fault);
    if (r < 0)
        return fault_wrap(fault, r, "control lane");
    lane->wire_bytes = lane->stream->wire_bytes_out;
    return 0;
}

static enum failpoint_id failpoint_of(const struct control_lane *lane,
                                      const Godwit__MoveMessage *message)
{
    switch (message->body_case) {
    case GODWIT__MOVE_MESSAGE__BODY_HELLO:
        return FAILPOINT_SOURCE_HELLO;
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS:
        return FAILPOINT_SOURCE_EXTENTS;
    case GODWIT__MOVE_MESSAGE__BODY_EXTENTS_END:
        return FAILPOINT_SOURCE_EXTENTS_END;
    case GODWIT__MOVE_MESSAGE__BODY_STATE:
        return FAILPOINT_SOURCE_STATE;
    case GODWIT__MOVE_MESSAGE__BODY_TRANSFER:
        return FAILPOINT_SOURCE_TRANSFER;
    case GODWIT__MOVE_MESSAGE__BODY_ABORT:
        return FAILPOINT_SOURCE_ABORT;
    case GODWIT__MOVE_MESSAGE__BODY_WELCOME:
        return FAILPOINT_TARGET_WELCOME;
    case GODWIT__MOVE_MESSAGE__BODY_PREPARED:
        return FAILPOINT_TARGET_PREPARED;
    case GODWIT__MOVE_MESSAGE__BODY_READY:
        return FAILPOINT_TARGET_READY;
    case GODWIT__MOVE_MESSAGE__BODY_STARTED:
        return FAILPOINT_TARGET_STARTED;
    case GODWIT__MOVE_MESSAGE__BODY_ABANDONED:
        return FAILPOINT_TARGET_ABANDONED;
    case GODWIT__MOVE_MESSAGE__BODY_RESUME:
        return FAILPOINT_SOURCE_LANES_AGAIN;
    case GODWIT__MOVE_MESSAGE__BODY_RESUMED:
        return FAILPOINT_TARGET_MARKS;
    case GODWIT__MOVE_MESSAGE__BODY_MISSING:
        return lane->config.is_source ? FAILPOINT_SOURCE_MISSING : FAILPOINT_TARGET_STILL_MISSING;
    case GODWIT__MOVE_MESSAGE__BODY_FETCHED:
        return FAILPOINT_TARGET_FETCHED;
    case GODWIT__MOVE_MESSAGE__BODY_SERVED:
        return FAILPOINT_SOURCE_SERVED;
    case GODWIT__MOVE_MESSAGE__BODY__NOT_SET:
    case _GODWIT__MOVE_MESSAGE__BODY__CASE_IS_INT_SIZE:
        break;
    }
    return FAILPOINT_COUNT;
}

int control_lane_send(struct control_lane *lane, const Godwit__MoveMessage *message,
                      struct fault *fault)
{
    AUTO_FREE uint8_t *bytes = NULL;
    size_t count = 0;
    enum failpoint_id point = failpoint_of(lane, message);
    assert(point < FAILPOINT_COUNT);
    int r = move_frame_encode(message, &bytes, &count, fault);
    if (r < 0)
        return r;
    return send_bytes(lane, point, bytes, count, fault);
}

int control_lane_send_hot(struct control_lane *lane, struct fault *fault)
{
    uint8_t bytes[MOVE_FRAME_HEADER_BYTES];
    move_frame_put_empty(MOVE_FRAME_HOT, bytes);
    return send_bytes(lane, lane->config.is_source ? FAILPOINT_SOURCE_HOT : FAILPOINT_TARGET_HOT,
                      bytes, sizeof bytes, fault);
}

void control_lane_interrupt(struct control_lane *lane)
{
    stream_interrupt(lane->stream);
}

uint64_t control_lane_cpu_ns(const struct control_lane *lane)
{
    return __atomic_load_n(&lane->cpu_ns, __ATOMIC_RELAXED);
}

uint64_t control_lane_wire_bytes(const struct control_lane *lane)
{
    return lane->wire_bytes;
}
