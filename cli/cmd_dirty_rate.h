/* `godwit vm dirty-rate VM`: what its guest writes, looked at for a second.
 *
 * Flow:   command_table -> [cmd_dirty_rate] -> METHOD_VM_DIRTY_RATE -> forecast_text
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_DIRTY_RATE_H
#define GODWIT_CLI_CMD_DIRTY_RATE_H

struct context;

int cmd_dirty_rate(struct context *context);

#endif
