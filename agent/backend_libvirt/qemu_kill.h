/* Ending a domain's QEMU without its libvirtd.
 *
 * Flow:   domain (a kill while libvirtd does not answer) -> [qemu_kill] -> the kernel
 * Thread: any; does not block.
 *
 * A host that was fenced, or that is cut off and is to give its VMs up, may not run them on only
 * because its libvirtd is gone. The process is named by a file that libvirt wrote, so it is held by
 * a pidfd first and then shown to be the domain's by the UUID among its own words.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_QEMU_KILL_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_QEMU_KILL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fault;

/* 0: SIGKILL is sent, or there is no such process. ERR_STATE: that process is not this domain's. */
int qemu_kill(int32_t pid, const char *vm_id, struct fault *fault);

/* Do the words of a command line, each with its zero, have "-uuid UUID"? */
bool qemu_kill_is_domain(const char *words, size_t count, const char *uuid);

#endif
