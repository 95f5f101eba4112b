/* Bytes that wait for their socket: in at the back, out at the front.
 *
 * Flow:   conn -> [byte_queue] -> socket
 * Thread: the loop's.
 */
#ifndef GODWIT_NET_BYTE_QUEUE_H
#define GODWIT_NET_BYTE_QUEUE_H

#include <stddef.h>
#include <stdint.h>

struct byte_queue {
    uint8_t *memory; /* owned */
    size_t start, count, room;
};

void byte_queue_deinit(struct byte_queue *queue);
/* Returns 0 or ERR_NOMEM. */
int byte_queue_put(struct byte_queue *queue, const void *bytes, size_t count);
void byte_queue_drop(struct byte_queue *queue, size_t count);

static inline const uint8_t *byte_queue_front(const struct byte_queue *queue)
{
    return queue->memory + queue->start;
}

#endif
