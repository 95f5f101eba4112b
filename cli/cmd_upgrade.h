/* `godwit vm upgrade`, `godwit host upgrade`: VMs go to a fresh process where they are.
 *
 * Flow:   command_table -> [cmd_upgrade] -> METHOD_VM_LIST, METHOD_VM_ACTION
 * Thread: the command's.
 *
 * One after the other: each is paused for milliseconds, and a trouble shows before it has met all. A
 * VM that is not upgraded runs on as it is; the others still get their turn.
 */
#ifndef GODWIT_CLI_CMD_UPGRADE_H
#define GODWIT_CLI_CMD_UPGRADE_H

struct context;

int cmd_vm_upgrade(struct context *context);
int cmd_host_upgrade(struct context *context);

#endif
