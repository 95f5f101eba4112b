/* `godwit vm ...`: machines, one by one.
 *
 * Flow:   command_table -> [cmd_vm] -> METHOD_VM_LIST, METHOD_VM_CREATE_IN_POOL, METHOD_VM_ACTION
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_VM_H
#define GODWIT_CLI_CMD_VM_H

#include <stdbool.h>

#include "proto/pool.pb-c.h"

struct context;

int cmd_vm_ls(struct context *context);
int cmd_vm_show(struct context *context);
int cmd_vm_create(struct context *context);
int cmd_vm_start(struct context *context);
int cmd_vm_stop(struct context *context);
int cmd_vm_reboot(struct context *context);
int cmd_vm_pause(struct context *context);
int cmd_vm_suspend(struct context *context);
int cmd_vm_resume(struct context *context);
int cmd_vm_adopt(struct context *context);
int cmd_vm_rm(struct context *context);
int cmd_vm_logs(struct context *context);
int cmd_vm_schema(struct context *context);
/* What became of it: `did` ("is stopped"; NULL: what it is now), or all of it for a program. An exit code. */
int cmd_vm_tell(struct context *context, const Godwit__VmInfo *vm, const char *did);
/* --lazy or --eager: does the guest run before its memory is read? *ret_lazy is for exit code DONE. */
int cmd_vm_read_lazy(struct context *context, bool *ret_lazy);

#endif
