/* The control lane of one move: sends messages, and reads them on a thread of its own.
 *
 * Flow:   source, target -> [control_lane] -> move_frame -> stream
 * Thread: send by the move's own; the callbacks of reading run on the lane's.
 */
#ifndef GODWIT_MIGRATE_CONTROL_LANE_H
#define GODWIT_MIGRATE_CONTROL_LANE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/migration.pb-c.h"

struct control_lane;
struct fault;
struct stream;

struct control_lane_config {
    void (*on_message)(void *data, Godwit__MoveMessage *message); /* gives */
    void (*on_hot)(void *data); /* the peer is awake for the pause, and so is this lane now */
    void (*on_lost)(void *data, const struct fault *fault); /* once, the last callback */
    void *data;
    bool is_source;               /* which end this is */
    bool (*may_spin)(void *data); /* asked when the pause is near */
};

/* Takes the stream when it returns 0. */
int control_lane_new(struct control_lane **ret_lane, const struct control_lane_config *config,
                     struct stream *stream, struct fault *fault);
struct control_lane *control_lane_free(struct control_lane *lane);
/* May block when the peer does not read: see watch. */
int control_lane_send(struct control_lane *lane, const Godwit__MoveMessage *message,
                      struct fault *fault);
int control_lane_send_hot(struct control_lane *lane, struct fault *fault);
void control_lane_interrupt(struct control_lane *lane); /* any thread */
uint64_t control_lane_cpu_ns(const struct control_lane *lane);
uint64_t control_lane_wire_bytes(const struct control_lane *lane); /* as of the last send */

#endif
