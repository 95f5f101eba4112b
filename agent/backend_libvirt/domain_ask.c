#include "agent/backend_libvirt/domain_ask.h"

#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/domain_inside.h"
#include "agent/backend_libvirt/domain_tell.h"
#include "agent/backend_libvirt/hypervisor.h"
#include "base/err.h"
#include "base/own.h"

static struct domain_holder *domain_holder_ref(struct domain *domain)
{
    domain->holder->references++;
    return domain->holder;
}

void domain_holder_unref(struct domain_holder *holder)
{
    if (--holder->references == 0)
        free(holder);
}

void *domain_ask_copy(const ProtobufCMessage *message)
{
    size_t count = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);

    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(message, bytes);
    void *copy = protobuf_c_message_unpack(message->descriptor, NULL, count, bytes);
    explicit_bzero(bytes, count);
    return copy;
}

static void ask_free(struct domain_ask *ask)
{
    free(ask->call.text);
    if (ask->spec)
        godwit__vm_spec__free_unpacked(ask->spec, NULL);
    domain_holder_unref(ask->holder);
    free(ask);
}

static void ask_work(struct _virConnect *connection, void *data)
{
    struct domain_ask *ask = data;

    domain_call_run(connection, &ask->call);
}

static void ask_done(void *data)
{
    struct domain_ask *ask = data;

    if (ask->holder->domain)
        ask->answered(ask->holder->domain, ask);
    ask_free(ask);
}

struct domain_ask *domain_ask_new(struct domain *domain, enum domain_call_kind kind,
                                  struct rpc_request *request,
                                  void (*answered)(struct domain *domain, struct domain_ask *ask))
{
    struct domain_ask *ask = calloc(1, sizeof *ask);

    if (!ask)
        return NULL;
    ask->holder = domain_holder_ref(domain);
    ask->call.kind = kind;
    memcpy(ask->call.vm_id, domain->vm_id, sizeof ask->call.vm_id);
    ask->request = request;
    ask->answered = answered;
    ask->epoch = domain->epoch;
    return ask;
}

/* Takes the ask. On failure its request is answered and `answered` does not come. */
bool domain_ask_send(struct domain *domain, struct domain_ask *ask)
{
    struct fault fault = {0};

    if (!ask)
        return false;
    if (hypervisor_call(domain->config.hypervisor, ask_work, ask_done, ask, &fault) == 0)
        return true;
    domain_tell_refusal(ask->request, &fault);
    ask_free(ask);
    return false;
}
