#include "agent/start_list.h"

#include <stdlib.h>
#include <string.h>

#include "agent/held_orders.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "proto/agent.pb-c.h"

static void add(struct start_list *list, const char *vm_id, uint64_t generation)
{
    Godwit__VmGeneration *start = &list->starts[list->count];

    if (!generation)
        return; /* nobody could take it for anything */
    godwit__vm_generation__init(start);
    start->vm_id = (char *)(uintptr_t)vm_id; /* protobuf-c knows no const */
    start->has_generation = true;
    start->generation = generation;
    list->list[list->count++] = start;
}

/* An entry whose disks are being removed is marked as one that is starting, too. */
static bool is_starting(const struct vm_entry *entry)
{
    return entry->is_recalled || (entry->starting && !entry->starting_moves_in && !entry->remove);
}

static bool is_of(const struct held_order *held, const char *incarnation)
{
    const Godwit__OrderVmStart *order = (const Godwit__OrderVmStart *)held->order;

    return order->base.descriptor == &godwit__order_vm_start__descriptor && order->incarnation &&
           strcmp(order->incarnation, incarnation) == 0;
}

/* It is taken up once what is in its way has come to something. What this host has seen is refused then, or is there. */
static bool will_start(struct vm_table *table, const struct held_order *held, const char *incarnation)
{
    const Godwit__OrderVmStart *order = (const Godwit__OrderVmStart *)held->order;

    return is_of(held, incarnation) && order->generation > vm_table_hiwater(table, held->vm_id);
}

int start_list_make(struct start_list *list, struct vm_table *table, const struct held_orders *held,
                    const struct held_orders *awaits, const char *incarnation, struct fault *fault)
{
    const struct held_order *first = held ? held->first : NULL;
    const struct held_order *first_judged = awaits ? awaits->first : NULL;
    size_t most = vm_table_count(table);

    for (const struct held_order *at = first; at; at = at->next)
        most++;
    for (const struct held_order *at = first_judged; at; at = at->next)
        most++;
    *list = (struct start_list){.starts = calloc(most + 1, sizeof *list->starts),
                                .list = calloc(most + 1, sizeof *list->list)};
    if (!list->starts || !list->list) {
        start_list_deinit(list);
        return fault_set(fault, ERR_NOMEM, "no memory for the list of starts");
    }
    for (const struct vm_entry *entry = vm_table_first(table); entry; entry = entry->next) {
        if (is_starting(entry))
            add(list, entry->id, entry->starting_generation);
    }
    for (const struct held_order *at = first; at; at = at->next) {
        if (will_start(table, at, incarnation))
            add(list, at->vm_id, ((const Godwit__OrderVmStart *)at->order)->generation);
    }
    for (const struct held_order *at = first_judged; at; at = at->next) {
        if (is_of(at, incarnation))
            add(list, at->vm_id, ((const Godwit__OrderVmStart *)at->order)->generation);
    }
    return 0;
}

void start_list_deinit(struct start_list *list)
{
    free(list->starts);
    free(list->list);
    *list = (struct start_list){0};
}
