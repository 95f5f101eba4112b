/* Hosts, VMs, records and jobs as rows of the store, and back.
 *
 * Flow:   coordinator -> [rows] -> store, and at start the other way
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_ROWS_H
#define GODWIT_COORDINATOR_ROWS_H

#include "coordinator/cluster.h"

struct fault;
struct store;
struct store_batch;

/* Add what a todo wants to be put. `ret_last_event` counts the events' keys up. */
void rows_put(struct store_batch *batch, const struct cluster *cluster,
              const struct cluster_put *put, struct cluster_now now, uint64_t *last_event);
const char *rows_setting_name(enum cluster_setting setting);
/* Fill an empty cluster. */
int rows_load(struct store *store, struct cluster *cluster, uint64_t *ret_last_event,
              struct fault *fault);

#endif
