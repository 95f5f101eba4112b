/* A pool that was made with --adopt all takes the libvirt domains that its hosts bring along.
 *
 * Flow:   agent_link (found) -> [adopt_all] -> agent_link (DOMAIN) -> cluster_found_adopt
 * Thread: the loop's.
 *
 * Once a host, when it first tells its domains: each is adopted as `godwit vm adopt` does, one after
 * another, and then the host is remembered as done. What is defined there later, or let go by
 * `vm rm`, is the operator's to adopt. What cannot be adopted is told and left as it is.
 */
#ifndef GODWIT_COORDINATOR_ADOPT_ALL_H
#define GODWIT_COORDINATOR_ADOPT_ALL_H

#include "coordinator/coordinator.h"

/* "all", or "" for what adopts nothing by itself; false: another word. */
bool adopt_all_is_word(const char *word);

/* The host has told its domains, or an adoption there is over. */
void adopt_all_look(struct coordinator *coordinator, const char *host);
void adopt_all_free(struct coordinator *coordinator); /* forgets what is under way */

#endif
