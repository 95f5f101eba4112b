/* Standing beside a plan until it ends: what runs, what waits and why, Ctrl-C, the last word.
 *
 * Flow:   cmd_plan -> [plan_wait] -> METHOD_PLAN_WATCH; events -> plan_text -> stderr
 * Thread: the command's.
 *
 * Ctrl-C once leaves the plan running and says how to come back; twice within 3 s cancels it.
 */
#ifndef GODWIT_CLI_PLAN_WAIT_H
#define GODWIT_CLI_PLAN_WAIT_H

#include "proto/pool.pb-c.h"

struct context;

/* Returns the exit code; prints all that is to be said. `progress` is the word of --progress. */
int plan_wait(struct context *context, const char *plan_id, const char *progress);
/* Print how it ended; the exit code that says so. */
int plan_tell_over(struct context *context, const Godwit__PlanInfo *plan);

#endif
