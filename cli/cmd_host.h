/* `godwit host ...`: the machines of the pool.
 *
 * Flow:   command_table -> [cmd_host] -> METHOD_HOST_LIST -> render
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_HOST_H
#define GODWIT_CLI_CMD_HOST_H

struct context;

int cmd_host_ls(struct context *context);
int cmd_host_show(struct context *context);

#endif
