#include "agent/vm_word.h"

#include "agent/vm_table.h"
#include "proto/vm_status.h"

bool vm_word_is_unheard(const struct vm_entry *entry)
{
    return entry->is_unconfirmed && vm_entry_is_alive(entry);
}

/* A process that runs nothing yet: who began its start is no more, and it goes on, or ends, by itself. Which generation it
 * becomes it does not say before. An order of ours tells by its answer. */
static bool is_open(const struct vm_entry *entry)
{
    return vm_entry_is_alive(entry) && !entry->starting && vm_status_says_nothing(entry->status);
}

Godwit__VmStatus *vm_word_list(struct vm_entry *entry, Godwit__VmStatus *room)
{
    entry->was_told_unknown = vm_word_is_unheard(entry) || is_open(entry);
    if (entry->was_told_unknown) {
        godwit__vm_status__init(room);
        room->vm_id = entry->id;
        room->name = entry->status->name;
        room->has_state = true;
        room->state = GODWIT__VM_STATE__VM_STATE_NONE;
        return room;
    }
    return entry->status->has_state && !entry->starting ? entry->status : NULL;
}

bool vm_word_event(struct vm_entry *entry, Godwit__AgentVmEvent *ret_event)
{
    if (vm_word_is_unheard(entry) || is_open(entry))
        return false;
    godwit__agent_vm_event__init(ret_event);
    ret_event->vm = entry->status;
    ret_event->has_is_first_word = ret_event->is_first_word = entry->was_told_unknown;
    entry->was_told_unknown = false;
    return true;
}
