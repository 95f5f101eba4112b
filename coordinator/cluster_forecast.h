/* What moves of this pool will take, by samples of the guests and by what earlier moves taught.
 *
 * Flow:   receipts, samples -> [cluster_forecast] -> dry runs, jobs, plans
 * Thread: the loop's; pure.
 *
 * Every job keeps what was told of it before it began, beside the receipt of what came. The
 * difference is learned per VM and per pair of hosts; a coordinator that starts anew learns it
 * again from the jobs that it finds in its store.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_FORECAST_H
#define GODWIT_COORDINATOR_CLUSTER_FORECAST_H

#include "coordinator/cluster.h"
#include "placement/forecast.h"

enum { CLUSTER_LINKS_MAX = 1024 };

/* A guest was looked at. ERR_CORRUPT: that cannot be; nothing changes then. */
int cluster_forecast_sample(struct cluster_vm *vm, const Godwit__VmSample *sample,
                            struct fault *fault);

/* `goals` may be NULL, and so may the hosts: then what all links have in common. */
struct forecast cluster_forecast(const struct cluster *cluster, const struct cluster_vm *vm,
                                 const char *source, const char *target,
                                 const Godwit__MoveGoals *goals);
/* The same for a job, which keeps it. */
void cluster_forecast_job(const struct cluster *cluster, const struct cluster_vm *vm,
                          struct cluster_job *job);
/* It has ended: what its receipt teaches. Once a job. */
void cluster_forecast_learn(struct cluster *cluster, const struct cluster_job *job);

#endif
