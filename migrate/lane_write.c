#include "migrate/lane_write.h"

#include "net/stream.h"

int lane_write(struct stream *stream, enum failpoint_id point, const uint8_t *bytes, size_t count,
               struct fault *fault)
{
    switch (failpoint(point)) {
    case FAILPOINT_ERROR:
        return failpoint_fail(point, fault);
    case FAILPOINT_DROP:
        return 0;
    case FAILPOINT_TRUNCATE:
        return stream_write(stream, bytes, count / 2, fault);
    case FAILPOINT_DUPLICATE: {
        int r = stream_write(stream, bytes, count, fault);
        if (r < 0)
            return r;
        break;
    }
    case FAILPOINT_NONE:
    case FAILPOINT_KILL:
    case FAILPOINT_DELAY:
        break;
    }
    return stream_write(stream, bytes, count, fault);
}
