/* What a host and its VMs are busy with: CPUs, pressure, what each guest gets and what it waits
 * for.
 *
 * Flow:   /proc -> [host_load] -> agent_link -> heartbeat
 * Thread: the loop's.
 *
 * A vCPU is a thread; the kernel counts its time on a CPU and its time in the run queue. So what a
 * guest really gets is seen without asking it. Figures are averages since the last reading,
 * smoothed over about ten seconds.
 */
#ifndef GODWIT_AGENT_HOST_LOAD_H
#define GODWIT_AGENT_HOST_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/agent.pb-c.h"

struct host_load;
struct vm_table;

/* NULL: no memory. */
struct host_load *host_load_new(struct vm_table *table);
struct host_load *host_load_free(struct host_load *load);
/* Add to a heartbeat what is known; what it points to is borrowed until the next call. */
void host_load_read(struct host_load *load, Godwit__AgentHeartbeat *beat);

/* "some avg10=1.23 avg60=..." -> 1.23; false when it is not that. */
bool host_load_parse_pressure(const char *text, double *ret_percent);
/* Is a thread of this name a vCPU: a godwit-vm's, or of a QEMU "CPU 0/KVM", or "CPU 0/TCG" or
 * "ALL CPUs/TCG" of one that emulates? */
bool host_load_is_vcpu(const char *name);
/* "584782 1200 7" -> ns on a CPU and ns waiting for one. */
bool host_load_parse_schedstat(const char *text, uint64_t *ret_run_ns, uint64_t *ret_wait_ns);

#endif
