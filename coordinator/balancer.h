/* Looking after the pool's balance: when to look, what to do with what was found.
 *
 * Flow:   plan_core's tick -> [balancer] -> plan_make; api tells of it
 * Thread: the loop's; pure but for the reply.
 *
 * off: nobody looks. approve: a plan is made and waits for `godwit plan run`. on: it runs. Never
 * two at once, never while another plan runs, and VMs that were just moved stay (plan_make's
 * cool-down).
 */
#ifndef GODWIT_COORDINATOR_BALANCER_H
#define GODWIT_COORDINATOR_BALANCER_H

#include "coordinator/coordinator.h"

int balancer_set(struct cluster *cluster, const char *word, struct problem *problem,
                 struct cluster_todo *todo);
void balancer_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo);
void balancer_reply(struct coordinator *coordinator, struct rpc_request *request);

#endif
