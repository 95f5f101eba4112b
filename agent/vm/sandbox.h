/* What a godwit-vm gives up before it reads its first byte.
 *
 * Flow:   main -> [sandbox]
 * Thread: the main thread, before any other exists.
 *
 * Done here: no new privileges, no core dumps, not dumpable (no ptrace, no /proc/PID/mem by others
 * of the same user), every descriptor closed but those named. Left out, visibly: the seccomp
 * filters, namespaces and per-VM users of RELIABILITY's plan; they are later work, and nothing
 * here pretends to be them.
 */
#ifndef GODWIT_AGENT_VM_SANDBOX_H
#define GODWIT_AGENT_VM_SANDBOX_H

struct fault;

/* Close every descriptor above `fd_last`; harden the process. */
int sandbox_enter(int fd_last, struct fault *fault);

#endif
