/* Who wants to hear of a plan, and telling them: what changed at once, progress 4 times a second.
 *
 * Flow:   plan_core's news -> [plan_watch] -> operator
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_PLAN_WATCH_H
#define GODWIT_COORDINATOR_PLAN_WATCH_H

#include "coordinator/coordinator.h"

void plan_watch_add(struct peer *peer, const char *plan_id);
void plan_watch_news(struct coordinator *coordinator, const char *plan_id);
void plan_watch_tick(struct coordinator *coordinator);
void plan_watch_peer_gone(struct peer *peer);

#endif
