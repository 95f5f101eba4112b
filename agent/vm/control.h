/* What this process serves on its Unix socket: one table row per METHOD_VM_*.
 *
 * Flow:   agent -> net/rpc -> [control] -> machine; machine's events -> [control] -> every
 * connection Thread: the loop's.
 *
 * Any number of connections, each of a process of our own user (SO_PEERCRED); others are closed
 * before their first message.
 */
#ifndef GODWIT_AGENT_VM_CONTROL_H
#define GODWIT_AGENT_VM_CONTROL_H

struct control;
struct fault;
struct loop;

/* Takes listen_fd when it returns 0. The loop is stopped when the process should end. */
int control_new(struct control **ret_control, struct loop *loop, int listen_fd, const char *vm_id,
                const char *name, struct fault *fault);
struct control *control_free(struct control *control);

#endif
