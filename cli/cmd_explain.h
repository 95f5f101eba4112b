/* `godwit explain CODE`: what an error means and where the VM is then.
 *
 * Flow:   proto/gw_code -> [cmd_explain] -> stdout
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_EXPLAIN_H
#define GODWIT_CLI_CMD_EXPLAIN_H

struct context;

int cmd_explain(struct context *context);

#endif
