/* `godwit store ...`: the pool's named stores of disks.
 *
 * Flow:   command_table -> [cmd_store] -> METHOD_STORE_*
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_STORE_H
#define GODWIT_CLI_CMD_STORE_H

struct context;

int cmd_store_ls(struct context *context);
int cmd_store_show(struct context *context);
int cmd_store_add(struct context *context);
int cmd_store_rm(struct context *context);
int cmd_store_check(struct context *context);

#endif
