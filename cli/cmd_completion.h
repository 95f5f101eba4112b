/* `godwit completion SHELL`.
 *
 * Flow:   command_table -> completion -> [cmd_completion] -> stdout
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_COMPLETION_H
#define GODWIT_CLI_CMD_COMPLETION_H

struct context;

int cmd_completion(struct context *context);

#endif
