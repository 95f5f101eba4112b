/* `godwit plan ...` and every mass operation that makes one: evacuate, restore, reboot, balance.
 *
 * Flow:   command_table -> [cmd_plan] -> METHOD_PLAN_MAKE -> plan_wait, plan_text
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_PLAN_H
#define GODWIT_CLI_CMD_PLAN_H

struct context;

int cmd_host_evacuate(struct context *context);
int cmd_host_restore(struct context *context);
int cmd_pool_reboot(struct context *context);
int cmd_balance(struct context *context);
int cmd_rule_repair(struct context *context);
int cmd_plan_ls(struct context *context);
int cmd_plan_show(struct context *context);
int cmd_plan_run(struct context *context);
int cmd_plan_watch(struct context *context);
int cmd_plan_pause(struct context *context);
int cmd_plan_resume(struct context *context);
int cmd_plan_cancel(struct context *context);
int cmd_plan_rm(struct context *context);

#endif
