/* Is a process that an earlier agent left the godwit-vm of this VM? Asked of the kernel, for the process is silent.
 *
 * Flow:   vm_process -> [vm_proof] -> SIGKILL, or not
 * Thread: any.
 *
 * Its number is no proof: who listened at a socket may have ended, and another process have the number since. The
 * agent that starts a godwit-vm makes the VM's log its standard error, which no other process has; and the pidfd,
 * which was opened before, still names a living process after that was seen, so the number was its all along.
 * Neither touches the process's memory: it may hang in the kernel.
 */
#ifndef GODWIT_AGENT_VM_PROOF_H
#define GODWIT_AGENT_VM_PROOF_H

#include <stdbool.h>

bool vm_proof_holds(int pid, int pidfd, const char *log_path);

#endif
