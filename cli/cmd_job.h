/* `godwit job ...`: what is under way, what was, and how it went.
 *
 * Flow:   command_table -> [cmd_job] -> METHOD_JOB_LIST, METHOD_JOB_CANCEL, job_wait, receipt_text
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_JOB_H
#define GODWIT_CLI_CMD_JOB_H

struct context;

int cmd_job_ls(struct context *context);
int cmd_job_show(struct context *context);
int cmd_job_watch(struct context *context);
int cmd_job_set(struct context *context);
int cmd_job_cancel(struct context *context);
int cmd_job_report(struct context *context);

#endif
