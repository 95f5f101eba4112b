#include "agent/start_recall.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "agent/start_mark.h"
#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/method.h"

struct recall {
    struct vm_table *table;
    char id[VM_ID_SIZE];
    uint64_t generation;
};

static void mark_free_p(Godwit__VmStatus **mark)
{
    if (*mark)
        godwit__vm_status__free_unpacked(*mark, NULL);
}

static void ended(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    AUTO_FREE struct recall *recall = data;
    struct vm_entry *entry = vm_table_find(recall->table, recall->id);

    if (!entry || !entry->process)
        return; /* the agent ends */
    if (reply) {
        vm_entry_update(entry, (const Godwit__VmStatus *)reply);
        vm_entry_commit(entry); /* its end comes as that of one that ran */
        return;
    }
    log_info("start_recall", "a start of before comes to nothing vm=%s generation=%llu: %s", entry->id,
             (unsigned long long)recall->generation, fault->text);
    vm_table_refuse(recall->table, recall->id, recall->generation);
    vm_entry_discard(entry);
}

static int send_end(struct vm_entry *entry, const Godwit__VmStatus *mark, struct fault *fault)
{
    Godwit__VmCreate order = GODWIT__VM_CREATE__INIT;
    struct recall *recall = calloc(1, sizeof *recall);

    if (!recall)
        return fault_set(fault, ERR_NOMEM, "no memory to end a start");
    recall->table = entry->table;
    memcpy(recall->id, entry->id, sizeof recall->id);
    recall->generation = mark->generation;
    order.vm_id = entry->id;
    order.spec = mark->spec;
    order.has_generation = order.has_may_run = order.has_ends = true;
    order.generation = mark->generation;
    order.may_run = order.ends = true;
    int r = rpc_call(vm_process_rpc(entry->process), METHOD_VM_CREATE, &order.base, &godwit__vm_status__descriptor,
                     0, ended, recall, fault); /* libvirt may be at it for as long as it likes */
    if (r < 0)
        free(recall);
    return r;
}

/* It is spoken for from then on, and was asked for nothing yet. */
static int open_entry(struct vm_entry *entry, const Godwit__VmStatus *mark, struct fault *fault)
{
    int r = vm_entry_begin(entry, fault);

    if (r == 0 && !vm_entry_set_spec(entry, mark->spec))
        r = fault_set(fault, ERR_NOMEM, "no memory for the VM's spec");
    if (r == 0)
        r = vm_entry_open(entry, mark->name ? mark->name : entry->id, fault);
    if (r < 0)
        return r;
    entry->starting = entry->is_recall_unsent = true;
    entry->starting_generation = mark->generation;
    entry->starting_from_file = entry->starting_runs = entry->starting_moves_in = false;
    return 0;
}

bool start_recall_is_due(const struct vm_entry *entry)
{
    return entry->is_recalled && (!vm_entry_is_alive(entry) || (entry->is_recall_unsent && entry->process));
}

int start_recall_end(struct vm_entry *entry, struct fault *fault)
{
    AUTO(mark_free_p) Godwit__VmStatus *mark = start_mark_read(entry);

    assert(start_recall_is_due(entry));
    if (!mark || !mark->spec)
        return fault_set(fault, ERR_CORRUPT, "what libvirt was asked to start is not known any more");
    int r = entry->is_recall_unsent ? 0 : open_entry(entry, mark, fault);
    if (r == 0)
        r = send_end(entry, mark, fault);
    if (r == 0)
        entry->is_recall_unsent = false;
    return r;
}
