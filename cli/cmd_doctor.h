/* `godwit doctor`: look at this machine and at the pool, and say what to do about what is wrong.
 *
 * Flow:   /proc, /dev/kvm, files, METHOD_POOL_STATUS, METHOD_HOST_LIST -> [cmd_doctor] -> stdout
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_DOCTOR_H
#define GODWIT_CLI_CMD_DOCTOR_H

struct context;

int cmd_doctor(struct context *context);

#endif
