/* Gets a move its lanes: the control lane first, then as many as it is told, one after the other.
 *
 * Flow:   open_lane, accept_lane of the owner -> [lane_opener] -> source, target
 * Thread: its own, because a handshake blocks; the callbacks run on it.
 */
#ifndef GODWIT_MIGRATE_LANE_OPENER_H
#define GODWIT_MIGRATE_LANE_OPENER_H

#include <stdint.h>

struct fault;
struct lane_opener;
struct stream;

struct lane_opener_config {
    /* Give the next stream and its number; `wanted` is what a source asks for. */
    int (*open)(void *data, unsigned wanted, struct stream **ret_stream, unsigned *ret_lane,
                struct fault *fault);
    void (*on_stream)(void *data, unsigned lane, struct stream *stream); /* gives */
    void (*on_failed)(void *data, const struct fault *fault);            /* the last callback */
    void *data;
};

int lane_opener_new(struct lane_opener **ret_opener, const struct lane_opener_config *config,
                    struct fault *fault);
/* Go on to lanes 0 .. lanes-1. Once. */
void lane_opener_go_on(struct lane_opener *opener, unsigned lanes);
/* Joins; whoever waits in `open` must have been interrupted by the caller. */
struct lane_opener *lane_opener_free(struct lane_opener *opener);

#endif
