/* This host in numbers, as Prometheus reads them. Names are fixed in docs/metrics.md.
 *
 * Flow:   vm_table, vm_counters, host_facts -> [metrics] -> net/text_server
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_METRICS_H
#define GODWIT_AGENT_METRICS_H

#include <stdbool.h>
#include <stdio.h>

struct vm_counters;
struct vm_table;

/* `counters`: NULL before there are any. */
void metrics_write(struct vm_table *table, const struct vm_counters *counters, bool is_connected,
                   FILE *out);

#endif
