/* Who wants to hear of a job, and telling them: at once what matters, progress 10 times a second.
 *
 * Flow:   cluster_core's news -> [watch] -> operator
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_WATCH_H
#define GODWIT_COORDINATOR_WATCH_H

#include "coordinator/coordinator.h"

void watch_add(struct peer *peer, const char *job_id);
void watch_news(struct coordinator *coordinator, const char *job_id);
/* Send what was held back because it came too fast. */
void watch_tick(struct coordinator *coordinator);
void watch_peer_gone(struct peer *peer);

#endif
