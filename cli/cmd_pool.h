/* `godwit pool ...` and `godwit token ...`: making a pool, letting hosts in.
 *
 * Flow:   command_table -> [cmd_pool] -> net/pki, files; METHOD_ENROL, METHOD_POOL_STATUS,
 *         METHOD_TOKEN_CREATE
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_POOL_H
#define GODWIT_CLI_CMD_POOL_H

struct context;

int cmd_pool_init(struct context *context);
int cmd_pool_add_coordinator(struct context *context);
int cmd_pool_backup(struct context *context);
int cmd_pool_join(struct context *context);
int cmd_pool_status(struct context *context);
int cmd_pool_token(struct context *context);

#endif
