/* `godwit simulate -f pool.yaml`: what the pool's own planner would do, without a pool.
 *
 * Flow:   command_table -> [cmd_simulate] -> pool_file, placement -> stdout
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_SIMULATE_H
#define GODWIT_CLI_CMD_SIMULATE_H

struct context;

int cmd_simulate(struct context *context);

#endif
