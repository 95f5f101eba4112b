#include "coordinator/dr_order.h"

#include <string.h>

#include "base/world.h"
#include "coordinator/dr.h"
#include "coordinator/dr_test.h"
#include "coordinator/words.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum { READY_MS = 60000, TAKE_MS = 120000, COPY_MS_A_GIB = 60000 };

static struct cluster_dr *find(struct coordinator *coordinator, const struct cluster_order *order)
{
    const struct cluster_vm *vm = cluster_vm(&coordinator->cluster, order->vm_id);
    bool is_pair = vm && vm->dr && strcmp(vm->dr->info->protection_id, order->move_id) == 0;
    return is_pair ? vm->dr : NULL;
}

static char *life_of(struct coordinator *coordinator, const char *host)
{
    const struct cluster_host *found = cluster_host(&coordinator->cluster, host);
    return found && found->facts ? found->facts->incarnation : NULL;
}

static void make_in(struct coordinator *coordinator, struct cluster_dr *dr,
                    const struct cluster_order *order, struct dr_order *ret_order)
{
    Godwit__OrderReplicaIn *in = &ret_order->in;
    godwit__order_replica_in__init(in);
    world_random(dr->psk, sizeof dr->psk);
    dr->address[0] = '\0';
    in->vm_id = dr->info->vm_id;
    in->protection_id = dr->info->protection_id;
    in->incarnation = life_of(coordinator, order->host);
    in->spec = dr->vm->spec;
    in->disk_bytes = dr->vm->disk_bytes;
    in->n_disk_bytes = vm_spec_disk_count(dr->vm->spec);
    in->has_psk = in->has_generation = in->has_disks_only = in->has_keep_disks = true;
    in->psk = (ProtobufCBinaryData){.data = dr->psk, .len = sizeof dr->psk};
    in->generation = order->generation;
    in->disks_only = dr->info->disks_only;
    in->keep_disks = dr->info->keep_disks;
    ret_order->message = &in->base;
    ret_order->reply = &godwit__replica_status__descriptor;
    ret_order->method = METHOD_ORDER_REPLICA_IN;
}

static void make_protect(struct coordinator *coordinator, struct cluster_dr *dr,
                         const struct cluster_order *order, struct dr_order *ret_order)
{
    Godwit__OrderProtect *protect = &ret_order->protect;
    godwit__order_protect__init(protect);
    protect->vm_id = dr->info->vm_id;
    protect->protection_id = dr->info->protection_id;
    protect->incarnation = life_of(coordinator, order->host);
    protect->has_generation = protect->has_psk = protect->has_rpo_ms = true;
    protect->has_disks_only = protect->has_bandwidth_bytes_per_s = true;
    protect->generation = order->generation;
    protect->psk = (ProtobufCBinaryData){.data = dr->psk, .len = sizeof dr->psk};
    protect->address = dr->address;
    protect->rpo_ms = dr->info->rpo_ms;
    protect->disks_only = dr->info->disks_only;
    protect->bandwidth_bytes_per_s = dr->info->bandwidth_bytes_per_s;
    ret_order->message = &protect->base;
    ret_order->reply = &godwit__protect_status__descriptor;
    ret_order->method = METHOD_ORDER_PROTECT;
}

static void make_finish(struct cluster_dr *dr, struct dr_order *ret_order)
{
    Godwit__OrderProtectFinish *finish = &ret_order->finish;
    godwit__order_protect_finish__init(finish);
    finish->vm_id = dr->info->vm_id;
    finish->protection_id = dr->info->protection_id;
    finish->has_deadline_ms = true;
    finish->deadline_ms = DR_FINISH_MS;
    ret_order->message = &finish->base;
    ret_order->reply = &godwit__protect_status__descriptor;
    ret_order->method = METHOD_ORDER_PROTECT_FINISH;
    ret_order->timeout_ms = DR_FINISH_MS + READY_MS;
}

static void make_end(struct cluster_dr *dr, struct dr_order *ret_order)
{
    Godwit__OrderProtectEnd *end = &ret_order->end;
    godwit__order_protect_end__init(end);
    end->vm_id = dr->info->vm_id;
    end->protection_id = dr->info->protection_id;
    ret_order->message = &end->base;
    ret_order->reply = &godwit__empty__descriptor;
    ret_order->method = METHOD_ORDER_PROTECT_END;
}

static void make_take(struct cluster_dr *dr, const struct cluster_order *order,
                      struct dr_order *ret_order)
{
    Godwit__OrderReplicaTake *take = &ret_order->take;
    godwit__order_replica_take__init(take);
    take->vm_id = dr->info->vm_id;
    take->protection_id = dr->info->protection_id;
    take->incarnation = dr->vm->own.incarnation;
    take->has_generation = true;
    take->generation = order->generation;
    ret_order->message = &take->base;
    ret_order->reply = &godwit__vm_status__descriptor;
    ret_order->method = METHOD_ORDER_REPLICA_TAKE;
    ret_order->timeout_ms = TAKE_MS;
}

static void make_drop(struct cluster_dr *dr, struct dr_order *ret_order)
{
    Godwit__OrderReplicaDrop *drop = &ret_order->drop;
    godwit__order_replica_drop__init(drop);
    drop->vm_id = dr->info->vm_id;
    drop->protection_id = dr->info->protection_id;
    drop->has_keep_disks = true;
    drop->keep_disks = dr->info->keep_disks;
    ret_order->message = &drop->base;
    ret_order->reply = &godwit__empty__descriptor;
    ret_order->method = METHOD_ORDER_REPLICA_DROP;
}

/* False: that test is over. */
static bool make_copy(struct coordinator *coordinator, struct cluster_dr *dr,
                      const struct cluster_order *order, struct dr_order *ret_order)
{
    Godwit__OrderReplicaCopy *copy = &ret_order->copy;
    const Godwit__DrTest *test = dr->info->test;
    struct cluster_vm *twin = test ? cluster_vm(&coordinator->cluster, test->copy_id) : NULL;
    if (!twin || strcmp(test->nonce, order->nonce) != 0)
        return false;
    godwit__order_replica_copy__init(copy);
    copy->vm_id = dr->info->vm_id;
    copy->protection_id = dr->info->protection_id;
    copy->incarnation = life_of(coordinator, order->host);
    copy->copy_id = test->copy_id;
    copy->spec = twin->spec;
    copy->nonce = test->nonce;
    copy->has_generation = true;
    copy->generation = DR_TEST_GENERATION;
    uint64_t bytes = twin->spec->memory->size;
    for (size_t i = 0; i < twin->spec->n_disks; i++)
        bytes += dr_test_disk_bytes(dr, i);
    ret_order->message = &copy->base;
    ret_order->reply = &godwit__replica_copied__descriptor;
    ret_order->method = METHOD_ORDER_REPLICA_COPY;
    ret_order->timeout_ms = TAKE_MS + (bytes >> 30) * COPY_MS_A_GIB;
    return true;
}

bool dr_order_make(struct coordinator *coordinator, const struct cluster_order *order,
                   struct dr_order *ret_order)
{
    struct cluster_dr *dr = find(coordinator, order);
    if (!dr || (order->kind == ORDER_PROTECT && !dr->address[0]))
        return false;
    ret_order->timeout_ms = READY_MS;
    switch (order->kind) {
    case ORDER_REPLICA_IN:
        make_in(coordinator, dr, order, ret_order);
        return true;
    case ORDER_PROTECT:
        make_protect(coordinator, dr, order, ret_order);
        return true;
    case ORDER_PROTECT_FINISH:
        make_finish(dr, ret_order);
        return true;
    case ORDER_PROTECT_END:
        make_end(dr, ret_order);
        return true;
    case ORDER_REPLICA_TAKE:
        make_take(dr, order, ret_order);
        return true;
    case ORDER_REPLICA_DROP:
        make_drop(dr, ret_order);
        return true;
    case ORDER_REPLICA_COPY:
        return make_copy(coordinator, dr, order, ret_order);
    default:
        return false;
    }
}

void dr_order_sent(struct coordinator *coordinator, const struct cluster_order *order)
{
    struct cluster_dr *dr = find(coordinator, order);
    if (dr && order->kind == ORDER_PROTECT)
        explicit_bzero(dr->psk, sizeof dr->psk);
}

void dr_order_answered(struct coordinator *coordinator, const struct cluster_order *order,
                       const ProtobufCMessage *reply)
{
    struct cluster_dr *dr = find(coordinator, order);
    if (!dr || order->kind != ORDER_REPLICA_IN)
        return;
    const Godwit__ReplicaStatus *status = (const Godwit__ReplicaStatus *)reply;
    bool has_address = status && status->address && status->address[0] &&
                       strlen(status->address) < sizeof dr->address;
    WORDS_COPY(dr->address, has_address ? status->address : "");
    if (!has_address)
        explicit_bzero(dr->psk, sizeof dr->psk);
}
