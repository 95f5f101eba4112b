/* godwit image import, ls, show, copy, export, rm.
 *
 * Flow:   command_table -> [cmd_image] -> client
 * Thread: one.
 */
#ifndef GODWIT_CLI_CMD_IMAGE_H
#define GODWIT_CLI_CMD_IMAGE_H

struct context;

int cmd_image_import(struct context *context);
int cmd_image_ls(struct context *context);
int cmd_image_show(struct context *context);
int cmd_image_copy(struct context *context);
int cmd_image_export(struct context *context);
int cmd_image_rm(struct context *context);

#endif
