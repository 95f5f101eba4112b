#include "agent/vm_counters.h"

#include <stdlib.h>
#include <string.h>

#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/loop.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "proto/method.h"

enum { LOOK_MS = 10000, ANSWER_MS_MAX = 5000 };

struct told {
    struct told *next;
    char id[VM_ID_SIZE];
    uint64_t generation;         /* that told it: a VM that is started anew counts from zero */
    Godwit__VmCounters *message; /* owned */
};

struct vm_counters {
    struct vm_table *table;
    struct loop_timer *timer;
    struct told *told;
};

struct question {
    struct vm_counters *counters;
    uint64_t generation;
    char id[VM_ID_SIZE];
};

static struct told **find(struct vm_counters *counters, const char *vm_id)
{
    struct told **at = &counters->told;
    while (*at && strcmp((*at)->id, vm_id) != 0)
        at = &(*at)->next;
    return at;
}

static void forget(struct told **at)
{
    struct told *told = *at;
    *at = told->next;
    godwit__vm_counters__free_unpacked(told->message, NULL);
    free(told);
}

static Godwit__VmCounters *copy_of(const Godwit__VmCounters *message)
{
    size_t count = godwit__vm_counters__get_packed_size(message);
    uint8_t *bytes = malloc(count ? count : 1);
    Godwit__VmCounters *copy = NULL;
    if (bytes)
        copy = godwit__vm_counters__unpack(NULL, godwit__vm_counters__pack(message, bytes), bytes);
    free(bytes);
    return copy;
}

static void answered(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct question *question = data;
    struct told **at = find(question->counters, question->id);
    (void)fault; /* it runs on, and is asked again */

    const Godwit__VmCounters *told_now = (const Godwit__VmCounters *)reply;
    if (told_now && told_now->n_disks <= DISKS_MAX + 1 && told_now->n_nics <= NICS_MAX) {
        Godwit__VmCounters *copy = copy_of(told_now);
        struct told *told = copy ? calloc(1, sizeof *told) : NULL;
        if (told) {
            if (*at)
                forget(at);
            memcpy(told->id, question->id, sizeof told->id);
            told->generation = question->generation;
            told->message = copy;
            told->next = *at;
            *at = told;
        } else if (copy) {
            godwit__vm_counters__free_unpacked(copy, NULL);
        }
    }
    free(question);
}

static void ask(struct vm_counters *counters, struct vm_entry *entry)
{
    Godwit__VmAction order = GODWIT__VM_ACTION__INIT;
    struct rpc *rpc = entry->process ? vm_process_rpc(entry->process) : NULL;

    if (!rpc || vm_entry_is_domain(entry) || entry->starting || entry->upgrade || entry->suspending)
        return;
    struct question *question = calloc(1, sizeof *question);
    if (!question)
        return;
    question->counters = counters;
    question->generation = entry->status->generation;
    memcpy(question->id, entry->id, sizeof question->id);
    order.vm_id = entry->id;
    if (rpc_call(rpc, METHOD_VM_COUNTERS, &order.base, &godwit__vm_counters__descriptor,
                 ANSWER_MS_MAX, answered, question, NULL) < 0)
        free(question);
}

static void timer_fired(void *data)
{
    struct vm_counters *counters = data;

    for (struct told **at = &counters->told; *at;) {
        const struct vm_entry *entry = vm_table_find(counters->table, (*at)->id);
        if (!entry || !entry->process)
            forget(at);
        else
            at = &(*at)->next;
    }
    for (struct vm_entry *entry = vm_table_first(counters->table); entry; entry = entry->next)
        ask(counters, entry);
}

int vm_counters_new(struct vm_counters **ret_counters, struct loop *loop, struct vm_table *table,
                    struct fault *fault)
{
    struct vm_counters *counters = calloc(1, sizeof *counters);
    if (!counters)
        return fault_set(fault, ERR_NOMEM, "no memory for what VMs have counted");
    counters->table = table;
    int r = loop_timer_new(&counters->timer, loop, timer_fired, counters, fault);
    if (r < 0) {
        free(counters);
        return r;
    }
    loop_timer_start(counters->timer, LOOK_MS, LOOK_MS);
    *ret_counters = counters;
    return 0;
}

struct vm_counters *vm_counters_free(struct vm_counters *counters)
{
    if (!counters)
        return NULL;
    (void)loop_timer_free(counters->timer);
    while (counters->told)
        forget(&counters->told);
    free(counters);
    return NULL;
}

const Godwit__VmCounters *vm_counters_find(const struct vm_counters *counters,
                                           const struct vm_entry *entry)
{
    for (const struct told *told = counters ? counters->told : NULL; told; told = told->next) {
        if (strcmp(told->id, entry->id) == 0)
            return told->generation == entry->status->generation ? told->message : NULL;
    }
    return NULL;
}
