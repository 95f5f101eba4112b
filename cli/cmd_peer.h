/* godwit pool peer invite, add, ls, rm.
 *
 * Flow:   command_table -> [cmd_peer] -> METHOD_POOL_PEER
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_PEER_H
#define GODWIT_CLI_CMD_PEER_H

struct context;

int cmd_peer_invite(struct context *context);
int cmd_peer_add(struct context *context);
int cmd_peer_ls(struct context *context);
int cmd_peer_rm(struct context *context);

#endif
