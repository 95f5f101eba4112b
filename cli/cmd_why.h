/* `godwit why VM`, `godwit why-not VM HOST`: every host, its score, what forbids; the VM's moves.
 *
 * Flow:   command_table -> [cmd_why] -> METHOD_WHY -> render
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_WHY_H
#define GODWIT_CLI_CMD_WHY_H

struct context;

int cmd_why(struct context *context);
int cmd_why_not(struct context *context);

#endif
