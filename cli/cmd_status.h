/* `godwit status`: the whole pool on one screen.
 *
 * Flow:   command_table -> [cmd_status] -> METHOD_POOL_STATUS, lists of hosts, VMs, jobs
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_STATUS_H
#define GODWIT_CLI_CMD_STATUS_H

struct context;

int cmd_status(struct context *context);

#endif
