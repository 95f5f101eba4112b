/* The serial console of one domain, through libvirt's own stream of it.
 *
 * Flow:   agent/orders <-> domain <-> [domain_console] <-> libvirtd <-> QEMU
 * Thread: the loop's; libvirt's event thread carries bytes between the stream and two rings, under
 *         one mutex that is held for no call but libvirt's own bookkeeping.
 *
 * libvirt gives a console to one reader at a time, so it is opened while somebody looks and closed
 * when nobody does: then `virsh console` has it. What was written before that is not known, unlike
 * with a VM of ours. A stream that ends while somebody looks is opened again.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_CONSOLE_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/vm.pb-c.h"

struct domain_console;
struct fault;
struct hypervisor;
struct loop;
struct rpc_request;

enum { DOMAIN_CONSOLE_VIEWERS_MAX = 16 };

struct domain_console_config {
    struct loop *loop;
    struct hypervisor *hypervisor; /* must outlive it */
    const char *vm_id;             /* copied */
    /* At most CONSOLE_CHUNK_MAX bytes, borrowed. */
    void (*on_output)(void *data, const uint8_t *bytes, size_t count);
    void *data;
};

int domain_console_new(struct domain_console **ret_console,
                       const struct domain_console_config *config, struct fault *fault);
/* Who waits is refused. */
struct domain_console *domain_console_free(struct domain_console *console);

/* A session comes or goes. Takes the request (NULL: nobody waits) and answers it: with the last
 * bytes seen when the console is open, or with why it cannot be. */
void domain_console_attach(struct domain_console *console, const Godwit__ConsoleAttach *attach,
                           struct rpc_request *request);
/* Queue what was typed, also while the console is being opened; returns how many bytes there was
 * room for: none while nobody looks. */
size_t domain_console_input(struct domain_console *console, const uint8_t *bytes, size_t count);

#endif
