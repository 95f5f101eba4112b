/* Linux' userfaultfd, opened by whichever way this process may: faults of the kernel on the memory
 * count too, since KVM and a VM's devices touch it there.
 *
 * Flow:   [userfault] -> agent/host_facts (can this host?), migrate/page_faults, migrate/page_guard (they do)
 * Thread: any.
 */
#ifndef GODWIT_BASE_USERFAULT_H
#define GODWIT_BASE_USERFAULT_H

struct fault;

/* Bare, nothing asked of it yet, closed on exec, not blocking; the caller's. -1 and errno: this host
 * does not let this process. */
int userfault_descriptor(void);

/* Gives a descriptor, closed on exec, that does not block. ERR_UNSUPPORTED: this host does not let
 * this process, with a hint what would. */
int userfault_open(int *ret_fd, struct fault *fault);

#endif
