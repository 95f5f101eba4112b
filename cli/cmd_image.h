/* godwit image import, ls, show, copy, seal, export, rm.
 *
 * Flow:   command_table -> [cmd_image] -> client
 * Thread: one.
 */
#ifndef GODWIT_CLI_CMD_IMAGE_H
#define GODWIT_CLI_CMD_IMAGE_H

#include "proto/image.pb-c.h"

struct context;
struct fault;

int cmd_image_import(struct context *context);
int cmd_image_ls(struct context *context);
int cmd_image_show(struct context *context);
int cmd_image_copy(struct context *context);
int cmd_image_export(struct context *context);
int cmd_image_rm(struct context *context);
int cmd_image_seal(struct context *context);
/* Of a stopped VM; `disk` NULL: its first. Gives the answer, for the next. */
int cmd_image_seal_disk(struct context *context, const char *vm, const char *disk,
                        const char *name, Godwit__ImageReply **ret_reply, struct fault *fault);
/* Takes the answer and tells of the image, or why there is none; an exit code. */
int cmd_image_tell(struct context *context, Godwit__ImageReply *reply);

#endif
