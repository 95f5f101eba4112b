/* Frees the move's own thread from a write that the peer does not take (INV-3).
 *
 * Flow:   source, target: arm, write, disarm; [watch] -> stream_interrupt
 * Thread: its own, asleep but for a glance now and then; arming is one store, fit for the pause.
 */
#ifndef GODWIT_MIGRATE_WATCH_H
#define GODWIT_MIGRATE_WATCH_H

#include <stdint.h>

struct fault;
struct watch;

enum { WATCH_GLANCE_MS = 50 };

/* `expired` runs on the watch's thread, once, and must not block. */
int watch_new(struct watch **ret_watch, void (*expired)(void *data), void *data,
              struct fault *fault);
struct watch *watch_free(struct watch *watch); /* joins: `expired` runs no more */
void watch_arm(struct watch *watch, uint64_t deadline_ns);
void watch_disarm(struct watch *watch);
/* Any thread: if it is armed, let it expire at the next glance. */
void watch_hurry(struct watch *watch);

#endif
