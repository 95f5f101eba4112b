/* What this host is and has, for the coordinator's plans.
 *
 * Flow:   kernel, vmm-core/cpu_model -> [host_facts] -> agent_link, orders
 * Thread: the loop's.
 *
 * The incarnation names one boot of this host: it is a hash of the kernel's boot id and of a random
 * id that lies in the run folder (tmpfs), made when it is missing. So it changes with a boot,
 * survives the agent, and differs between agents that share a kernel (network namespaces).
 */
#ifndef GODWIT_AGENT_HOST_FACTS_H
#define GODWIT_AGENT_HOST_FACTS_H

#include <stdint.h>

#include "proto/agent.pb-c.h"

struct fault;
struct host_facts;
struct stamp;

int host_facts_new(struct host_facts **ret_facts, const char *name, const char *move_address,
                   const char *run_dir, struct fault *fault);
struct host_facts *host_facts_free(struct host_facts *facts);

const char *host_facts_name(const struct host_facts *facts);
/* What this host stamps disks with, as `generation`. */
void host_facts_stamp(const struct host_facts *facts, uint64_t generation, struct stamp *ret_stamp);
const char *host_facts_incarnation(const struct host_facts *facts);
const char *host_facts_move_address(const struct host_facts *facts);
unsigned host_facts_cpus(const struct host_facts *facts);
/* Read anew and point `ret_message` at our memory; valid until the next call. */
const Godwit__HostFacts *host_facts_read(struct host_facts *facts);
uint64_t host_facts_memory_free(void);
double host_facts_load1(void);
/* Names of its bridges; valid until the next call. */
char **host_facts_bridges(struct host_facts *facts, size_t *ret_count);

/* A new life of this host without a boot: every grant that names the old one is void. */
int host_facts_renew(struct host_facts *facts, struct fault *fault);
void host_facts_set_peer_address(struct host_facts *facts, const char *address);
void host_facts_set_heartbeat_store(struct host_facts *facts, const char *id);

/* Can a VM of this spec run here? ERR_UNSUPPORTED, ERR_CPU_COMPAT, ERR_LIMIT, in words; gives an
 * open /dev/kvm. */
int host_facts_check(const struct host_facts *facts, const Godwit__VmSpec *spec, int *ret_kvm_fd,
                     struct fault *fault);

#endif
