/* Gets a move its lanes: the control lane first, then as many as it is told, one after the other.
 *
 * Flow:   open_lane, accept_lane of the owner -> [lane_opener] -> source, target
 * Thread: its own, because a handshake blocks; the callbacks run on it.
 */
#ifndef GODWIT_MIGRATE_LANE_OPENER_H
#define GODWIT_MIGRATE_LANE_OPENER_H

#include <stdbool.h>
#include <stdint.h>

struct fault;
struct lane_opener;
struct stream;
struct tls_lane_name;

enum { LANE_OPENER_ANY = 0xfffe }; /* `wanted` of a lane that may come or not */

struct lane_opener_config {
    /* Give the next stream and its name; `wanted` is the lane that a source asks for. */
    int (*open)(void *data, unsigned wanted, struct stream **ret_stream,
                struct tls_lane_name *ret_name, struct fault *fault);
    void (*on_stream)(void *data, const struct tls_lane_name *name,
                      struct stream *stream); /* gives */
    /* The last callback, always: all are open (NULL), it was stopped (NULL), or one failed. */
    void (*on_ended)(void *data, const struct fault *fault);
    void *data;
    uint64_t delay_ms; /* before the first */
    bool stays;        /* when all have come, takes what comes later until it is stopped */
};

int lane_opener_new(struct lane_opener **ret_opener, const struct lane_opener_config *config,
                    struct fault *fault);
/* Go on to lanes 0 .. lanes-1. Once. */
void lane_opener_go_on(struct lane_opener *opener, unsigned lanes);
/* Make it end when `open` returns next, or at once where it is not in there. */
void lane_opener_stop(struct lane_opener *opener);
/* Joins; whoever waits in `open` must have been interrupted by the caller. */
struct lane_opener *lane_opener_free(struct lane_opener *opener);

#endif
