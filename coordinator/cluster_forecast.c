#include "coordinator/cluster_forecast.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "coordinator/cluster_layout.h"
#include "coordinator/post_policy.h"
#include "coordinator/words.h"
#include "proto/limits.h"

/* A round of less says more of wake-ups than of the link. */
#define RATE_BYTES_LEAST (UINT64_C(4) << 20)
/* A deadline that a policy gives is minutes away: nothing to reckon with. */
enum { BALANCED_PERMILLE = 800, BALANCED_STALLS = 2, FINISH_PERMILLE = 990, FINISH_STALLS = 1 };

static struct cluster_link *find_link(const struct cluster *cluster, const char *source,
                                      const char *target)
{
    for (size_t i = 0; source && target && i < cluster->link_count; i++) {
        struct cluster_link *link = &cluster->links[i];
        if (strcmp(link->source, source) == 0 && strcmp(link->target, target) == 0)
            return link;
    }
    return NULL;
}

/* NULL: no memory, then nothing is learned. Beyond the most the oldest gives way. */
static struct cluster_link *link_of(struct cluster *cluster, const char *source, const char *target)
{
    struct cluster_link *link = find_link(cluster, source, target);
    if (link)
        return link;
    if (!cluster->links)
        cluster->links = calloc(CLUSTER_LINKS_MAX, sizeof *cluster->links);
    if (!cluster->links)
        return NULL;
    if (cluster->link_count == CLUSTER_LINKS_MAX) {
        memmove(cluster->links, cluster->links + 1,
                (CLUSTER_LINKS_MAX - 1) * sizeof *cluster->links);
        cluster->link_count--;
    }
    link = &cluster->links[cluster->link_count++];
    *link = (struct cluster_link){0};
    WORDS_COPY(link->source, source);
    WORDS_COPY(link->target, target);
    return link;
}

/* ---- samples -------------------------------------------------------------------------------- */

int cluster_forecast_sample(struct cluster_vm *vm, const Godwit__VmSample *sample,
                            struct fault *fault)
{
    struct forecast_guest seen = {.populated_bytes = sample->populated_bytes,
                                  .vcpus = vm->spec->cpu->vcpus,
                                  .zero_share = sample->zero_permille / 1000.0};
    if (sample->n_at_ns != sample->n_written_bytes || sample->n_at_ns == 0 ||
        sample->n_at_ns > FORECAST_POINTS_MAX || sample->zero_permille > 1000 ||
        sample->populated_bytes > VM_MEMORY_MAX)
        return fault_set(fault, ERR_CORRUPT, "a sample of %zu points over %llu bytes",
                         sample->n_at_ns, (unsigned long long)sample->populated_bytes);
    for (size_t i = 0; i < sample->n_at_ns; i++) {
        uint64_t at_ns_before = i ? sample->at_ns[i - 1] : 0;
        uint64_t written_before = i ? sample->written_bytes[i - 1] : 0;
        if (sample->at_ns[i] <= at_ns_before || sample->written_bytes[i] < written_before ||
            sample->written_bytes[i] > sample->populated_bytes)
            return fault_set(fault, ERR_CORRUPT, "a sample whose points do not rise");
        seen.writes.seconds[i] = (double)sample->at_ns[i] / 1e9;
        seen.writes.bytes[i] = (double)sample->written_bytes[i];
    }
    seen.writes.count = (unsigned)sample->n_at_ns;
    vm->seen = seen;
    vm->is_sampled = true;
    vm->dirty_bytes_per_s = forecast_written(&seen, 1);
    return 0;
}

/* ---- told ----------------------------------------------------------------------------------- */

static struct forecast_guest guest_of(const struct cluster_vm *vm)
{
    struct forecast_guest guest = vm->seen;
    if (!guest.populated_bytes)
        guest.populated_bytes =
            vm->memory_populated ? vm->memory_populated : vm->spec->memory->size;
    if (!vm->is_sampled)
        guest.dirty_bytes_per_s = vm->dirty_bytes_per_s;
    guest.vcpus = vm->spec->cpu->vcpus;
    return guest;
}

static void take_policy(const char *policy, struct forecast_ask *ask)
{
    if (policy && strcmp(policy, "gentle") == 0)
        return;
    bool finish = policy && strcmp(policy, "finish") == 0;
    ask->throttle_permille_max = finish ? FINISH_PERMILLE : BALANCED_PERMILLE;
    ask->throttle_stalls_min = finish ? FINISH_STALLS : BALANCED_STALLS;
}

/* The target's host has to let it; of an unknown one it is believed. */
static bool may_be_late(const struct cluster *cluster, const struct cluster_vm *vm,
                        const char *target, const Godwit__MoveGoals *goals)
{
    if (!post_policy_is_late(goals, vm->spec))
        return false;
    const char *refused = NULL;
    for (size_t i = 0; target && i < cluster->host_count; i++) {
        const struct cluster_host *host = cluster->hosts[i];
        if (strcmp(host->name, target) == 0 && host->facts)
            refused = host->facts->postcopy_refused;
    }
    return !refused || !refused[0];
}

struct forecast cluster_forecast(const struct cluster *cluster, const struct cluster_vm *vm,
                                 const char *source, const char *target,
                                 const Godwit__MoveGoals *goals)
{
    const struct cluster_link *known = find_link(cluster, source, target);
    struct forecast_link link = known && known->link.bytes_per_s > 0 ? known->link
                                : cluster->link.bytes_per_s > 0      ? cluster->link
                                                                     : FORECAST_LINK_UNKNOWN;
    struct forecast_guest guest = guest_of(vm);
    struct forecast_ask ask = {.pause_goal_s = cluster_layout_pause_goal_s(vm), .vm = vm->record};
    if (known)
        ask.link = known->record;
    take_policy(goals && goals->policy ? goals->policy : NULL, &ask);
    ask.postcopy = goals && goals->postcopy;
    ask.postcopy_late = may_be_late(cluster, vm, target, goals);
    if (goals && goals->downtime_ns_max)
        ask.pause_goal_s = (double)goals->downtime_ns_max / 1e9;
    if (goals && goals->deadline_ms)
        ask.deadline_s = (double)goals->deadline_ms / 1e3;
    if (goals && goals->bandwidth_bytes_per_s)
        ask.bytes_per_s_max = (double)goals->bandwidth_bytes_per_s;
    struct forecast forecast = forecast_ask(&guest, &link, &ask);
    if (ask.deadline_s > 0 && forecast.seconds > ask.deadline_s)
        forecast.converges = false;
    return forecast;
}

static uint64_t ns_of(double seconds)
{
    return seconds > 0 && seconds < 1e9 ? (uint64_t)(seconds * 1e9) : 0;
}

void cluster_forecast_job(const struct cluster *cluster, const struct cluster_vm *vm,
                          struct cluster_job *job)
{
    const struct job_core *core = &job->core;
    struct forecast told =
        cluster_forecast(cluster, vm, core->source_host, core->target_host, job->goals);
    const struct cluster_link *known = find_link(cluster, core->source_host, core->target_host);
    Godwit__MoveForecast message = GODWIT__MOVE_FORECAST__INIT;
#define FILL(field, value) (message.has_##field = true, message.field = (value))
    FILL(total_ns, ns_of(told.seconds));
    FILL(total_high_ns, ns_of(told.seconds_high));
    FILL(pause_ns, ns_of(told.pause_s));
    FILL(pause_high_ns, ns_of(told.pause_s_high));
    FILL(bytes, (uint64_t)told.bytes);
    FILL(rounds, told.rounds);
    FILL(converges, told.converges);
    FILL(postcopy, told.postcopy);
    FILL(throttle_permille, told.throttle_permille);
    FILL(link_bytes_per_s,
         (uint64_t)(known && known->link.bytes_per_s > 0 ? known->link.bytes_per_s
                                                         : cluster->link.bytes_per_s));
    FILL(dirty_bytes_per_s, (uint64_t)vm->dirty_bytes_per_s);
    FILL(sampled, vm->is_sampled);
    FILL(vm_moves, vm->record.moves);
    FILL(link_moves, known ? known->record.moves : 0);
    FILL(model_s, told.model_s);
    FILL(model_pause_s, told.model_pause_s);
#undef FILL
    if (job->forecast)
        godwit__move_forecast__free_unpacked(job->forecast, NULL);
    job->forecast = cluster_message_copy(&message.base); /* without memory: none is told */
}

/* ---- taught --------------------------------------------------------------------------------- */

static void learn_rate(struct forecast_link *link, const Godwit__MoveReceipt *receipt, bool limited)
{
    const Godwit__MoveRound *bulk = receipt->n_rounds ? receipt->rounds[0] : NULL;
    uint64_t data_bytes = bulk ? (bulk->pages - bulk->zero_pages) * PAGE_BYTES : 0;
    if (!limited && bulk && bulk->pages >= bulk->zero_pages && data_bytes >= RATE_BYTES_LEAST &&
        bulk->duration_ns)
        forecast_learn(link, (double)data_bytes / ((double)bulk->duration_ns / 1e9));
    double rounds_s = 0;
    for (size_t i = 0; i + 1 < receipt->n_rounds; i++) /* the last is in the pause */
        rounds_s += (double)receipt->rounds[i]->duration_ns / 1e9;
    double populate_s = (double)receipt->populate_ns / 1e9;
    double populated = (double)receipt->populated_bytes;
    forecast_learn_setup(link,
                         (double)receipt->total_ns / 1e9 - rounds_s -
                             (double)receipt->downtime_ns / 1e9 - populate_s,
                         populate_s > 0 ? populated / populate_s : 0);
}

/* What the move saw of its guest; a sample tells more of its writes, and may be older. */
static void learn_guest(struct cluster_vm *vm, const Godwit__MoveReceipt *receipt)
{
    const Godwit__MoveRound *bulk = receipt->n_rounds ? receipt->rounds[0] : NULL;
    if (!bulk || !bulk->pages || bulk->zero_pages > bulk->pages)
        return;
    vm->seen.populated_bytes = receipt->populated_bytes;
    vm->seen.zero_share = (double)bulk->zero_pages / (double)bulk->pages;
    if (bulk->duration_ns && !vm->is_sampled)
        vm->dirty_bytes_per_s =
            (double)(bulk->dirty_pages_after * PAGE_BYTES) / ((double)bulk->duration_ns / 1e9);
}

void cluster_forecast_learn(struct cluster *cluster, const struct cluster_job *job)
{
    const Godwit__MoveReceipt *receipt = job->receipt;
    if (!receipt || !receipt->moved || !receipt->total_ns)
        return;
    struct cluster_vm *vm = cluster_vm(cluster, job->core.vm_id);
    struct cluster_link *link = link_of(cluster, job->core.source_host, job->core.target_host);
    bool limited = job->goals && job->goals->bandwidth_bytes_per_s;
    double seconds = (double)receipt->total_ns / 1e9, pause_s = (double)receipt->downtime_ns / 1e9;
    learn_rate(&cluster->link, receipt, limited);
    if (link)
        learn_rate(&link->link, receipt, limited);
    if (!vm)
        return;
    learn_guest(vm, receipt);
    struct forecast model =
        cluster_forecast(cluster, vm, job->core.source_host, job->core.target_host, job->goals);
    if (link)
        forecast_record(&link->record, &model, seconds, pause_s);
    forecast_record(&vm->record, &model, seconds, pause_s);
}
