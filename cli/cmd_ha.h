/* godwit ha ..., godwit host fence.
 *
 * Flow:   command -> [cmd_ha] -> client
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_HA_H
#define GODWIT_CLI_CMD_HA_H

struct context;

int cmd_ha_status(struct context *context);
int cmd_ha_add(struct context *context);
int cmd_ha_rm(struct context *context);
int cmd_ha_arm(struct context *context);
int cmd_ha_disarm(struct context *context);
int cmd_ha_reserve(struct context *context);
int cmd_ha_fence_agent(struct context *context);
int cmd_host_fence(struct context *context);

#endif
