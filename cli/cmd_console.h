/* `godwit vm console`: a guest's serial line, on a terminal or in a script; it survives a move.
 *
 * Flow:   stdin -> [cmd_console] -> METHOD_VM_CONSOLE_DATA -> guest -> the same -> stdout
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_CONSOLE_H
#define GODWIT_CLI_CMD_CONSOLE_H

struct context;

int cmd_console(struct context *context);

#endif
