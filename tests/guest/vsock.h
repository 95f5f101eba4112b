/* The virtio vsock: listens on one port, tells on the serial line what is said there, and answers
 * as it is told to.
 *
 * Flow:   vcpu loop, command -> [vsock] -> virtio
 * Thread: vCPU 0.
 */
#ifndef GUEST_VSOCK_H
#define GUEST_VSOCK_H

#include <stdbool.h>
#include <stdint.h>

struct options;

enum vsock_manner {
    VSOCK_READY,  /* answers each line by "ready" */
    VSOCK_SILENT, /* takes connections and says nothing */
    VSOCK_CLOSE,  /* hangs up after each line */
    VSOCK_FLOOD,  /* answers each line by as much noise as it has credit for */
    VSOCK_REFUSE, /* nobody listens */
    VSOCK_DEAF,   /* takes no connection, refuses none */
    VSOCK_MANNERS
};

struct vsock_numbers {
    uint64_t requests, lines, resets; /* asked for; heard; transport resets */
    bool is_well;
};

/* Nothing without `vsock=PORT` on the command line. */
void vsock_init(const struct options *options);
bool vsock_is_there(void);
void vsock_step(void);
/* "ready", "silent", "close", "flood", "refuse", "deaf"; false: no such manner. */
bool vsock_set_manner(const char *name);
void vsock_numbers(struct vsock_numbers *ret_numbers);

#endif
