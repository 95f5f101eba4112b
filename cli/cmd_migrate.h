/* `godwit migrate`: move VMs while they run, and stand by until they have.
 *
 * Flow:   command_table -> [cmd_migrate] -> METHOD_MIGRATE -> job_wait
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_MIGRATE_H
#define GODWIT_CLI_CMD_MIGRATE_H

struct context;

int cmd_migrate(struct context *context);
int cmd_vm_disk_move(struct context *context);

#endif
