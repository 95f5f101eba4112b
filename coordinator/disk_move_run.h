/* Disks that move, carried out: orders to agents, their answers, and what operators ask.
 *
 * Flow:   coordinator's tick, api -> [disk_move_run] -> disk_move -> store; agent_link -> agents
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_DISK_MOVE_RUN_H
#define GODWIT_COORDINATOR_DISK_MOVE_RUN_H

#include "coordinator/coordinator.h"

/* Ask every host whose disk's move has nothing under way. */
void disk_move_run_tick(struct coordinator *coordinator);

/* Handler, see api.c; its stores have been looked at. */
void disk_move_run_begin(struct coordinator *coordinator, struct rpc_request *request,
                         const void *message);
/* False: there is no such job of a disk. Else it is answered. */
bool disk_move_run_cancel(struct coordinator *coordinator, struct rpc_request *request,
                          const char *word);

#endif
