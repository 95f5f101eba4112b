/* `godwit rule ...`, and what hosts are told: cordon, uncordon, label.
 *
 * Flow:   command_table -> [cmd_rule] -> METHOD_RULE_*, METHOD_HOST_SET
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_RULE_H
#define GODWIT_CLI_CMD_RULE_H

struct context;

int cmd_rule_ls(struct context *context);
int cmd_rule_add(struct context *context);
int cmd_rule_rm(struct context *context);
int cmd_host_cordon(struct context *context);
int cmd_host_uncordon(struct context *context);
int cmd_host_label(struct context *context);

#endif
