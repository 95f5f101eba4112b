/* `godwit demo`: runs scripts/demo of this installation or source tree.
 *
 * Flow:   command_table -> [cmd_demo] -> exec scripts/demo
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_DEMO_H
#define GODWIT_CLI_CMD_DEMO_H

struct context;

int cmd_demo(struct context *context);

#endif
