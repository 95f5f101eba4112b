#include "coordinator/metrics.h"

#include <string.h>

#include "base/own.h"
#include "base/world.h"
#include "coordinator/admission.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_view.h"
#include "coordinator/coordinator.h"
#include "coordinator/dr_tell.h"

static void head(FILE *out, const char *name, const char *kind, const char *help)
{
    (void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

/* Counts by word: few words, so a walk for each. */
static void by_word(FILE *out, const char *name, const char *label, const char *const *words,
                    size_t count, const char *(*word_of)(const void *object, const void *data),
                    const void *const *objects, size_t object_count, const void *data)
{
    for (size_t i = 0; i < count; i++) {
        unsigned found = 0;
        for (size_t n = 0; n < object_count; n++)
            found += strcmp(word_of(objects[n], data), words[i]) == 0;
        (void)fprintf(out, "%s{%s=\"%s\"} %u\n", name, label, words[i], found);
    }
}

struct view {
    const struct cluster *cluster;
    uint64_t now_ns;
};

static const char *host_word(const void *object, const void *data)
{
    const struct view *view = data;
    return cluster_host_state_word(cluster_host_state(object, view->now_ns));
}

static const char *ha_word(const void *object, const void *data)
{
    (void)data;
    return ha_phase_name(((const struct cluster_host *)object)->ha.phase);
}

static const char *vm_word(const void *object, const void *data)
{
    const struct view *view = data;
    return cluster_vm_word(view->cluster, object, view->now_ns);
}

static const char *job_word(const void *object, const void *data)
{
    (void)data;
    return job_state_name(((const struct cluster_job *)object)->core.state);
}

static void write_hosts(const struct view *view, FILE *out)
{
    static const char *const states[] = {"up", "suspect", "down"};
    static const char *const phases[] = {"well",   "suspect",    "fencing",
                                         "fenced", "quarantine", "held"};
    const struct cluster *cluster = view->cluster;
    const void *const *hosts = (const void *const *)cluster->hosts;
    head(out, "godwit_hosts", "gauge", "Hosts by what is heard of them.");
    by_word(out, "godwit_hosts", "state", states, ARRAY_COUNT(states), host_word, hosts,
            cluster->host_count, view);
    head(out, "godwit_ha_hosts", "gauge", "Hosts by what HA holds of them.");
    by_word(out, "godwit_ha_hosts", "state", phases, ARRAY_COUNT(phases), ha_word, hosts,
            cluster->host_count, view);
    head(out, "godwit_host_memory_free_bytes", "gauge", "Memory that a host has free.");
    for (size_t i = 0; i < cluster->host_count; i++)
        (void)fprintf(out, "godwit_host_memory_free_bytes{host=\"%s\"} %llu\n",
                      cluster->hosts[i]->name,
                      (unsigned long long)cluster->hosts[i]->memory_free_bytes);
}

static void write_vms(const struct view *view, FILE *out)
{
    static const char *const states[] = {"running", "paused",  "stopped",    "moving",
                                         "held",    "crashed", "recovering", "unknown"};
    static const char *const jobs[] = {"running",     "done",     "failed",
                                       "rolled-back", "canceled", "attention"};
    const struct cluster *cluster = view->cluster;
    head(out, "godwit_vms", "gauge", "VMs by state.");
    by_word(out, "godwit_vms", "state", states, ARRAY_COUNT(states), vm_word,
            (const void *const *)cluster->vms, cluster->vm_count, view);
    head(out, "godwit_jobs", "gauge", "Moves that are kept, by state.");
    by_word(out, "godwit_jobs", "state", jobs, ARRAY_COUNT(jobs), job_word,
            (const void *const *)cluster->jobs, cluster->job_count, view);
}

static void write_ha(struct cluster *cluster, struct cluster_now now, FILE *out)
{
    char lacks[PROBLEM_HINT_SIZE];
    head(out, "godwit_ha_armed", "gauge", "1 when HA may fence and start.");
    (void)fprintf(out, "godwit_ha_armed %d\n", cluster_ha_is_armed(cluster, now.unix_ms));
    head(out, "godwit_ha_reserve_holds", "gauge",
         "1 when all protected VMs would find room after the death of the worst hosts.");
    (void)fprintf(out, "godwit_ha_reserve_holds %d\n",
                  admission_holds(cluster, now, lacks, sizeof lacks));
}

static void write_dr(const struct cluster *cluster, struct cluster_now now, FILE *out)
{
    char reason[CLUSTER_REASON_SIZE];
    uint64_t rpo_ms;
    head(out, "godwit_dr_rpo_seconds", "gauge",
         "What the loss of a protected VM's host would cost now; absent: nothing is held.");
    for (size_t i = 0; i < cluster->dr_count; i++) {
        if (dr_rpo_now(cluster, cluster->drs[i], now, &rpo_ms))
            (void)fprintf(out, "godwit_dr_rpo_seconds{vm=\"%s\"} %.3f\n", cluster->drs[i]->info->vm,
                          (double)rpo_ms / 1e3);
    }
    head(out, "godwit_dr_rpo_goal_seconds", "gauge", "The goal of a protected VM.");
    for (size_t i = 0; i < cluster->dr_count; i++)
        (void)fprintf(out, "godwit_dr_rpo_goal_seconds{vm=\"%s\"} %.3f\n",
                      cluster->drs[i]->info->vm, (double)cluster->drs[i]->info->rpo_ms / 1e3);
    head(out, "godwit_dr_protected", "gauge", "1 while a protected VM keeps its goal.");
    for (size_t i = 0; i < cluster->dr_count; i++)
        (void)fprintf(out, "godwit_dr_protected{vm=\"%s\"} %d\n", cluster->drs[i]->info->vm,
                      strcmp(dr_state(cluster, cluster->drs[i], now, reason), "protected") == 0);
}

/* What the last test, or drill, of each replica showed. */
static void write_tests(const struct cluster *cluster, FILE *out)
{
    head(out, "godwit_dr_test_ok", "gauge",
         "1 when the copy of the last test of a replica ran; 0 when it did not.");
    for (size_t i = 0; i < cluster->dr_count; i++) {
        const Godwit__DrTest *test = cluster->drs[i]->info->test;
        if (test && (test->has_rto_ms || test->error[0]))
            (void)fprintf(out, "godwit_dr_test_ok{vm=\"%s\"} %d\n", cluster->drs[i]->info->vm,
                          !test->error[0]);
    }
    head(out, "godwit_dr_test_rpo_seconds", "gauge", "How old what it started from was.");
    for (size_t i = 0; i < cluster->dr_count; i++) {
        const Godwit__DrTest *test = cluster->drs[i]->info->test;
        if (test && test->has_rto_ms)
            (void)fprintf(out, "godwit_dr_test_rpo_seconds{vm=\"%s\"} %.3f\n",
                          cluster->drs[i]->info->vm, (double)test->rpo_ms / 1e3);
    }
    head(out, "godwit_dr_test_rto_seconds", "gauge", "How long it took until it ran.");
    for (size_t i = 0; i < cluster->dr_count; i++) {
        const Godwit__DrTest *test = cluster->drs[i]->info->test;
        if (test && test->has_rto_ms)
            (void)fprintf(out, "godwit_dr_test_rto_seconds{vm=\"%s\"} %.3f\n",
                          cluster->drs[i]->info->vm, (double)test->rto_ms / 1e3);
    }
}

void metrics_write(struct coordinator *coordinator, FILE *out)
{
    struct cluster_now now = coordinator_now();
    const struct view view = {.cluster = &coordinator->cluster, .now_ns = now.ns};
    unsigned agents = 0;
    head(out, "godwit_coordinator_leads", "gauge", "1 when this coordinator leads the pool.");
    (void)fprintf(out, "godwit_coordinator_leads %d\n", coordinator->is_active);
    if (!coordinator->is_active)
        return;
    for (const struct peer *peer = coordinator->peers; peer; peer = peer->next)
        agents += peer->host[0] != '\0';
    head(out, "godwit_agents_connected", "gauge", "Agents with a line to this coordinator.");
    (void)fprintf(out, "godwit_agents_connected %u\n", agents);
    head(out, "godwit_store_commits_waiting", "gauge", "Transactions on their way to the store.");
    (void)fprintf(out, "godwit_store_commits_waiting %u\n", coordinator->commits);
    head(out, "godwit_pool_warnings", "gauge", "Warnings that `godwit status` shows.");
    (void)fprintf(out, "godwit_pool_warnings %u\n", coordinator->cluster.warning_count);
    head(out, "godwit_process_cpu_seconds_total", "counter", "CPU time of the coordinator.");
    (void)fprintf(out, "godwit_process_cpu_seconds_total %.3f\n",
                  (double)world_process_cpu_ns() / 1e9);
    write_hosts(&view, out);
    write_vms(&view, out);
    write_ha(&coordinator->cluster, now, out);
    write_dr(&coordinator->cluster, now, out);
    write_tests(&coordinator->cluster, out);
}
