/* godwit up, diff, destroy: the VMs of a godwit.yaml.
 *
 * Flow:   command_table -> [cmd_up] -> up_file, up_core, client
 * Thread: one.
 */
#ifndef GODWIT_CLI_CMD_UP_H
#define GODWIT_CLI_CMD_UP_H

struct context;

int cmd_up(struct context *context);
int cmd_diff(struct context *context);
int cmd_destroy(struct context *context);

#endif
