/* Standing beside a job until it ends: progress, Ctrl-C, a broken connection, the last word.
 *
 * Flow:   migrate, job watch -> [job_wait] -> METHOD_JOB_WATCH; events -> progress_bar
 * Thread: the command's.
 *
 * Ctrl-C once leaves the job running and says how to come back; twice within 3 s cancels it.
 */
#ifndef GODWIT_CLI_JOB_WAIT_H
#define GODWIT_CLI_JOB_WAIT_H

#include <stdbool.h>

#include "proto/pool.pb-c.h"

struct context;

enum { JOB_WAIT_RECONNECT_MS = 30000, JOB_WAIT_SECOND_CTRL_C_MS = 3000 };

/* Returns the exit code; prints all that is to be said. `progress` is the word of --progress. */
int job_wait(struct context *context, const char *job_id, const char *progress);
/* Print how an ended job ended, with its receipt; the exit code that says so. */
int job_tell_end(struct context *context, const Godwit__JobInfo *job, bool with_phases);
bool job_is_over(const Godwit__JobInfo *job);

#endif
