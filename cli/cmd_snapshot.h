/* godwit vm snapshot create, ls, show, check, restore, clone, rm.
 *
 * Flow:   command_table -> [cmd_snapshot] -> coordinator
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_SNAPSHOT_H
#define GODWIT_CLI_CMD_SNAPSHOT_H

#include <stdbool.h>

struct context;

int cmd_snapshot_create(struct context *context);
int cmd_snapshot_ls(struct context *context);
int cmd_snapshot_show(struct context *context);
int cmd_snapshot_check(struct context *context);
int cmd_snapshot_restore(struct context *context);
int cmd_snapshot_clone(struct context *context);
int cmd_snapshot_rm(struct context *context);
/* Of `vm rm --with-snapshots`: all of this VM's, once it is stopped, so that none goes for a VM that
 * stays; `and_stop` stops it first, when all of them could go. An exit code. */
int cmd_snapshot_rm_all(struct context *context, const char *vm, bool and_stop);

#endif
