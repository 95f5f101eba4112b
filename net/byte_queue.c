#include "net/byte_queue.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

enum { KEEP_MAX = 256 << 10 }; /* an empty queue keeps no more memory than this */

void byte_queue_deinit(struct byte_queue *queue)
{
    free(queue->memory);
    *queue = (struct byte_queue){0};
}

int byte_queue_put(struct byte_queue *queue, const void *bytes, size_t count)
{
    if (count == 0)
        return 0;
    if (count > queue->room - queue->start - queue->count && queue->start > queue->room / 2) {
        /* More than half was sent: moving the rest costs less than what was gained. */
        memmove(queue->memory, queue->memory + queue->start, queue->count);
        queue->start = 0;
    }
    if (count > queue->room - queue->start - queue->count) {
        size_t room = (queue->start + queue->count + count) * 2;
        uint8_t *memory = realloc(queue->memory, room);
        if (!memory)
            return ERR_NOMEM;
        queue->memory = memory;
        queue->room = room;
    }
    memcpy(queue->memory + queue->start + queue->count, bytes, count);
    queue->count += count;
    return 0;
}

void byte_queue_drop(struct byte_queue *queue, size_t count)
{
    assert(count <= queue->count);
    queue->start += count;
    queue->count -= count;
    if (queue->count > 0)
        return;
    queue->start = 0;
    if (queue->room > KEEP_MAX)
        byte_queue_deinit(queue);
}
