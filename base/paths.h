/* Where things lie on a host: one place, because cli writes what agent and coordinator read.
 *
 * Flow:   pool init, pool join -> files -> coordinator, agent, cli
 * Thread: constants only.
 *
 *   STATE/coordinator/  pool.json ca.crt ca.key coordinator.crt coordinator.key pool.db
 *   STATE/operator/     operator.json ca.crt operator.crt operator.key
 *   STATE/agent/        agent.json ca.crt host.crt host.key journal  vms/<vm id>/{vm.bin,console.log}
 *                       images/<SHA-256>
 *   RUN/                vms/<vm id>/{control.sock,latch}   (on tmpfs: gone with a boot, as the RAM is)
 *
 * pool.json      pool_id, name, listen, address (of all coordinators), self (of this one)
 * operator.json  pool_id, address
 * agent.json     pool_id, name, coordinator, move_address
 */
#ifndef GODWIT_BASE_PATHS_H
#define GODWIT_BASE_PATHS_H

#define PATHS_STATE_DEFAULT "/var/lib/godwit"
#define PATHS_RUN_DEFAULT "/run/godwit"
#define PATHS_PORT_DEFAULT 7411

#define PATHS_COORDINATOR_DIR "coordinator"
#define PATHS_OPERATOR_DIR "operator"
#define PATHS_AGENT_DIR "agent"

#define PATHS_POOL_CONFIG "pool.json"
#define PATHS_OPERATOR_CONFIG "operator.json"
#define PATHS_AGENT_CONFIG "agent.json"
#define PATHS_CA_CERTIFICATE "ca.crt"
#define PATHS_CA_KEY "ca.key"
#define PATHS_DATABASE "pool.db"

#endif
