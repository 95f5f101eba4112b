/* The pool in numbers, as Prometheus reads them. Names are fixed in docs/metrics.md.
 *
 * Flow:   cluster -> [metrics] -> net/text_server
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_METRICS_H
#define GODWIT_COORDINATOR_METRICS_H

#include <stdio.h>

struct coordinator;

void metrics_write(struct coordinator *coordinator, FILE *out);

#endif
