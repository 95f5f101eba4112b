#include "coordinator/cluster_definition.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_core.h"
#include "proto/vm_spec.h"

enum { ASK_AGAIN_MS = 5000 };

static void digest_of(const char *xml, char ret_digest[static PKI_PIN_SIZE])
{
    pki_sha256_hex(xml, strlen(xml), ret_digest);
}

static bool is_its(const struct cluster_vm *vm, const char *host)
{
    return vm_spec_is_libvirt(vm->spec) && vm->spec->domain_xml && !vm->job &&
           vm->own.phase == OWN_RUN && strcmp(vm->own.owner, host) == 0;
}

static void judge(struct cluster_vm *vm, const struct cluster_host *host, const char *digest,
                  struct cluster_now now, struct cluster_todo *todo)
{
    if (!vm->definition[0])
        digest_of(vm->spec->domain_xml, vm->definition);
    if (strcmp(vm->definition, digest) == 0) {
        vm->definition_gen = vm->own.gen;
        return;
    }
    if (vm->definition_ns && now.ns - vm->definition_ns < ASK_AGAIN_MS * NS_PER_MS)
        return;
    vm->definition_ns = now.ns;
    (void)cluster_order_vm(vm, host->name, ORDER_DEFINITION, now, todo);
}

void cluster_definition_told(struct cluster *cluster, const struct cluster_host *host,
                             const Godwit__AgentFound *found, struct cluster_now now,
                             struct cluster_todo *todo)
{
    for (size_t i = 0; i < found->n_definitions; i++) {
        const Godwit__DomainDefinition *told = found->definitions[i];
        struct cluster_vm *vm = told->vm_id ? cluster_vm(cluster, told->vm_id) : NULL;
        if (vm && told->digest && told->digest[0] && is_its(vm, host->name))
            judge(vm, host, told->digest, now, todo);
    }
}

void cluster_definition_done(struct cluster_vm *vm, const struct cluster_order *order,
                             const struct cluster_result *result, struct cluster_todo *todo)
{
    const char *xml = result->found ? result->found->domain_xml : NULL;

    if (!xml || !xml[0] || !is_its(vm, order->host) || vm->own.gen != order->generation)
        return; /* asked for again as long as the host tells of another one */
    Godwit__VmSpec spec = *vm->spec;
    spec.domain_xml = (char *)(uintptr_t)xml; /* protobuf-c knows no const */
    Godwit__VmSpec *whole = cluster_message_copy(&spec.base);
    if (!whole)
        return;
    godwit__vm_spec__free_unpacked(vm->spec, NULL);
    vm->spec = whole;
    digest_of(xml, vm->definition);
    struct cluster_put *put = cluster_todo_put(todo, PUT_VM);
    put->object = vm;
    put->revision = vm->revision++;
    /* After a start or a move the host's libvirt may only say the same in other words. */
    if (vm->definition_gen == vm->own.gen)
        cluster_todo_event(todo, vm->id,
                           "the definition of %s was changed on %s outside of the pool: HA starts it elsewhere as it is "
                           "defined now",
                           vm->spec->name, order->host);
    vm->definition_gen = vm->own.gen;
    log_info("cluster_definition", "the record follows the host's definition vm=%s host=%s",
             vm->spec->name, order->host);
}
