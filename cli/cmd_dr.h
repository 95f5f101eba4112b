/* godwit dr ...: replicas of VMs on other hosts, and taking them.
 *
 * Flow:   command -> [cmd_dr] -> client, dr_wait
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_DR_H
#define GODWIT_CLI_CMD_DR_H

struct context;

int cmd_dr_protect(struct context *context);
int cmd_dr_unprotect(struct context *context);
int cmd_dr_status(struct context *context);
int cmd_dr_failover(struct context *context);
int cmd_dr_failback(struct context *context);

#endif
