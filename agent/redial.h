/* Sockets for a move whose lanes were lost: its process asks, this connects and hands them over.
 *
 * Flow:   godwit-vm (MoveEvent.lanes_wanted) -> [redial] -> move_sockets -> godwit-vm (MOVE_LANES)
 * Thread: the loop's.
 *
 * A process may be in its guest's hands, so it is connected to where the coordinator's order said
 * that its move goes, and nowhere else. That is kept in RUN/move, for an agent that was started
 * anew since.
 */
#ifndef GODWIT_AGENT_REDIAL_H
#define GODWIT_AGENT_REDIAL_H

#include "proto/vm.pb-c.h"

struct loop;
struct vm_entry;

/* Where the move of entry->out_move_id goes. */
void redial_remember(struct vm_entry *entry, const char *address);
/* Its process says event->lanes_wanted; it says so again until it is answered. */
void redial_begin(struct loop *loop, struct vm_entry *entry, const Godwit__MoveEvent *event);

#endif
