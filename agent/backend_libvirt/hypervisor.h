/* The connection to this host's libvirtd: kept up, listened to, and called from threads of its own.
 *
 * Flow:   libvirtd <-> [hypervisor] -> backend_libvirt;  domain_call runs inside its calls
 * Thread: the loop's; work runs on a thread a call, events arrive on libvirt's event thread and are
 *         posted to the loop.
 *
 * libvirt's event loop has a thread of its own and is never mixed with ours. Every call may block
 * for as long as libvirtd likes, a migration for hours: each gets a thread, so that none waits for
 * another, and no worker of the loop's pool is held. A connection that ends is tried again, with
 * growing pauses; calls under way then fail by themselves.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_HYPERVISOR_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_HYPERVISOR_H

#include <stdbool.h>

#include "agent/backend_libvirt/virt_view.h"

struct fault;
struct hypervisor;
struct loop;
struct _virConnect;

struct hypervisor_config {
    struct loop *loop;
    const char *uri;                                 /* must outlive it */
    void (*on_up)(void *data, const char *version);  /* connected: everything may have changed */
    void (*on_down)(void *data, const char *why);    /* once for each on_up */
    void (*on_event)(void *data, const char *vm_id, int event, int detail); /* lifecycle */
    void (*on_job)(void *data, const char *vm_id, const struct virt_job *job); /* it completed */
    void *data;
};

int hypervisor_new(struct hypervisor **ret_hypervisor, const struct hypervisor_config *config,
                   struct fault *fault);
/* Nothing is called back from here on. What a thread inside libvirt still holds is left to the
 * process's end: it cannot be hurried. */
struct hypervisor *hypervisor_free(struct hypervisor *hypervisor);
void hypervisor_start(struct hypervisor *hypervisor);
bool hypervisor_is_up(const struct hypervisor *hypervisor);

/* Run `work` on a thread of its own, then `done` on the loop. ERR_UNREACHABLE: not connected.
 * After hypervisor_free `done` never comes, and what `data` points to is lost. */
int hypervisor_call(struct hypervisor *hypervisor,
                    void (*work)(struct _virConnect *connection, void *data),
                    void (*done)(void *data), void *data, struct fault *fault);

#endif
