/* `godwit version`.
 *
 * Flow:   command_table -> [cmd_version] -> stdout
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_VERSION_H
#define GODWIT_CLI_CMD_VERSION_H

struct context;

const char *cmd_version_text(void);
int cmd_version(struct context *context);

#endif
