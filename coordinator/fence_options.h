/* Which fence agents may be run, with which words: what an operator gives is judged against lists.
 *
 * Flow:   cluster_ha, fence -> [fence_options]
 * Thread: any; pure.
 *
 * An agent is a name without slashes; where agents lie is the coordinator's own affair
 * (--fence-dir). Options are those of the fence-agents project that say where the power is; what is
 * to be done there is never an operator's to say.
 */
#ifndef GODWIT_COORDINATOR_FENCE_OPTIONS_H
#define GODWIT_COORDINATOR_FENCE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

enum { FENCE_INPUT_SIZE = 1024 };

/* `options`: "ip=10.0.0.9,username=fence". When not, ret_reason says why. */
bool fence_options_are_allowed(const char *agent, const char *options, char *ret_reason,
                               size_t size);
/* What the agent reads: one "key=value" a line, and the action. False: they are not allowed. */
bool fence_options_input(const char *agent, const char *options, const char *action,
                         char ret_input[static FENCE_INPUT_SIZE]);

#endif
