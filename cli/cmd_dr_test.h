/* godwit dr test, godwit dr drill: copies of VMs started from their replicas, and taken away again.
 *
 * Flow:   command -> [cmd_dr_test] -> client
 * Thread: the command's.
 *
 * The coordinator carries it out; the command asks how it goes until it is there.
 */
#ifndef GODWIT_CLI_CMD_DR_TEST_H
#define GODWIT_CLI_CMD_DR_TEST_H

struct context;

int cmd_dr_test(struct context *context);
int cmd_dr_drill(struct context *context);

#endif
