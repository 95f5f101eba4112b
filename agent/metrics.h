/* This host in numbers, as Prometheus reads them. Names are fixed in docs/metrics.md.
 *
 * Flow:   vm_table, host_facts -> [metrics] -> net/text_server
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_METRICS_H
#define GODWIT_AGENT_METRICS_H

#include <stdbool.h>
#include <stdio.h>

struct vm_table;

void metrics_write(struct vm_table *table, bool is_connected, FILE *out);

#endif
