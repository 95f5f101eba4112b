/* Tells that a QEMU will never execute again, the moment it is so: at the end of a move's pause.
 *
 * Flow:   domain -> [qemu_watch] -> kernel (pidfd, task flags);  ended -> domain
 * Thread: the loop's; one thread of its own while it watches.
 *
 * libvirt tells the end of a source only after it has looked again, up to 200 ms later, and the
 * guest stands still meanwhile. A process whose every thread is exiting (PF_EXITING) runs no more
 * guest code and no more of its own, although its memory may still be on its way back.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_QEMU_WATCH_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_QEMU_WATCH_H

#include <stdbool.h>
#include <stdint.h>

struct fault;
struct loop;
struct qemu_watch;

/* Begin to watch process `pid`; `ended` comes once, on the loop. */
int qemu_watch_new(struct qemu_watch **ret_watch, struct loop *loop, int32_t pid,
                   void (*ended)(void *data), void *data, struct fault *fault);
struct qemu_watch *qemu_watch_free(struct qemu_watch *watch);

/* Is every thread of it exiting, or is it gone? */
bool qemu_watch_is_ending(int32_t pid);
/* The flags of a thread's /proc stat line; false: it is none. */
bool qemu_watch_parse_flags(const char *stat, unsigned long *ret_flags);

#endif
