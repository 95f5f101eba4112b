#include "coordinator/admission.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_view.h"
#include "coordinator/planner.h"
#include "coordinator/words.h"

enum { DEAD_MAX = 8 };

struct tenant { /* what HA protects, and where it is */
    const Godwit__VmSpec *spec;
    int host; /* index; -1: nowhere yet */
};

struct picture {
    struct planner_host *hosts; /* owned, as they would be with what is asked */
    size_t host_count;
    struct tenant *tenants; /* owned, the largest first */
    size_t tenant_count;
};

static void picture_deinit(struct picture *picture)
{
    free(picture->hosts);
    free(picture->tenants);
}

static int index_of(const struct cluster *cluster, const char *host)
{
    for (size_t i = 0; i < cluster->host_count; i++) {
        if (strcmp(cluster->hosts[i]->name, host) == 0)
            return (int)i;
    }
    return -1;
}

static int larger_first(const void *a, const void *b)
{
    uint64_t x = ((const struct tenant *)a)->spec->memory->size;
    uint64_t y = ((const struct tenant *)b)->spec->memory->size;
    return x > y ? -1 : x < y;
}

/* Control memory is small; without it there is no judging, so nothing is refused. */
static bool picture_init(struct picture *picture, const struct cluster *cluster,
                         const struct admission_ask *ask, struct cluster_now now)
{
    *picture = (struct picture){.hosts = cluster_planner_hosts(cluster, now.ns),
                                .host_count = cluster->host_count,
                                .tenants = calloc(cluster->vm_count + 1, sizeof *picture->tenants)};
    if (!picture->hosts || !picture->tenants)
        return false;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const struct cluster_vm *vm = cluster->vms[i];
        bool counts =
            vm == ask->vm ? false : cluster_ha_protects(vm) && vm->own.phase != OWN_STOPPED;
        if (counts)
            picture->tenants[picture->tenant_count++] =
                (struct tenant){vm->spec, index_of(cluster, vm->own.owner)};
    }
    const Godwit__VmSpec *spec = ask->spec ? ask->spec : ask->vm ? ask->vm->spec : NULL;
    int host = ask->host               ? index_of(cluster, ask->host)
               : ask->vm && !ask->spec ? index_of(cluster, ask->vm->own.owner)
                                       : -1;
    if (spec && ask->is_protected)
        picture->tenants[picture->tenant_count++] = (struct tenant){spec, host};
    if (spec && ask->host && host >= 0) /* it is to be started there */
        picture->hosts[host].memory_promised_bytes += spec->memory->size;
    qsort(picture->tenants, picture->tenant_count, sizeof *picture->tenants, larger_first);
    return true;
}

static uint64_t free_of(const struct planner_host *host)
{
    return host->memory_free_bytes > host->memory_promised_bytes
               ? host->memory_free_bytes - host->memory_promised_bytes
               : 0;
}

/* Puts it where most is free; false: nowhere. */
static bool place(const struct picture *picture, struct planner_host *hosts,
                  const struct tenant *tenant)
{
    struct planner_host *best = NULL;
    char reason[PROBLEM_HINT_SIZE];
    const struct planner_ask ask = {.vm_name = tenant->spec->name,
                                    .baseline = tenant->spec->cpu && tenant->spec->cpu->baseline
                                                    ? tenant->spec->cpu->baseline
                                                    : "",
                                    .memory_bytes = tenant->spec->memory->size};
    for (size_t i = 0; i < picture->host_count; i++) {
        if (planner_judge(&hosts[i], &ask, reason, sizeof reason) == GW_NONE &&
            (!best || free_of(&hosts[i]) > free_of(best)))
            best = &hosts[i];
    }
    if (best)
        best->memory_promised_bytes += ask.memory_bytes + PLANNER_OVERHEAD_BYTES;
    return best != NULL;
}

/* NULL: all find room; else the first that does not. */
static const struct tenant *survives(const struct picture *picture, const int *dead, unsigned count)
{
    AUTO_FREE struct planner_host *hosts = calloc(picture->host_count + 1, sizeof *hosts);
    if (!hosts)
        return NULL; /* nothing is proven, so nothing is refused */
    memcpy(hosts, picture->hosts, picture->host_count * sizeof *hosts);
    for (unsigned i = 0; i < count; i++)
        hosts[dead[i]].up = false;
    for (size_t i = 0; i < picture->tenant_count; i++) {
        const struct tenant *tenant = &picture->tenants[i];
        bool falls = false;
        for (unsigned n = 0; n < count; n++)
            falls = falls || dead[n] == tenant->host;
        if (falls && !place(picture, hosts, tenant))
            return tenant;
    }
    return NULL;
}

static uint64_t protected_bytes(const struct picture *picture, int host)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < picture->tenant_count; i++)
        bytes += picture->tenants[i].host == host ? picture->tenants[i].spec->memory->size : 0;
    return bytes;
}

/* Beyond two the sets are too many: those that carry most are taken. */
static const struct tenant *worst_of_many(const struct picture *picture, unsigned reserve,
                                          int *ret_dead)
{
    for (unsigned n = 0; n < reserve; n++) {
        int worst = -1;
        for (int i = 0; i < (int)picture->host_count; i++) {
            bool taken = !picture->hosts[i].up;
            for (unsigned m = 0; m < n; m++)
                taken = taken || ret_dead[m] == i;
            if (!taken &&
                (worst < 0 || protected_bytes(picture, i) > protected_bytes(picture, worst)))
                worst = i;
        }
        if (worst < 0)
            return NULL;
        ret_dead[n] = worst;
    }
    return survives(picture, ret_dead, reserve);
}

/* The first set of `reserve` hosts whose death something does not survive. */
static const struct tenant *find_victim(const struct picture *picture, unsigned reserve,
                                        int *ret_dead)
{
    if (reserve == 0 || picture->tenant_count == 0)
        return NULL;
    if (reserve > 2)
        return worst_of_many(picture, reserve < DEAD_MAX ? reserve : DEAD_MAX, ret_dead);
    for (int i = 0; i < (int)picture->host_count; i++) {
        if (!picture->hosts[i].up || (reserve == 1 && protected_bytes(picture, i) == 0))
            continue;
        for (int n = reserve == 2 ? i + 1 : i; n < (int)picture->host_count; n++) {
            if (reserve == 1 && n > i)
                break;
            if (!picture->hosts[n].up)
                continue;
            ret_dead[0] = i;
            ret_dead[1] = n;
            const struct tenant *victim = survives(picture, ret_dead, reserve);
            if (victim)
                return victim;
        }
    }
    return NULL;
}

static const char *victim_of(const struct cluster *cluster, const struct admission_ask *ask,
                             struct cluster_now now, char *ret_hosts, size_t size, char *ret_name,
                             size_t name_size)
{
    struct picture picture;
    int dead[DEAD_MAX] = {0};
    unsigned reserve = cluster_ha_reserve(cluster);
    const struct tenant *victim = NULL;
    if (picture_init(&picture, cluster, ask, now))
        victim = find_victim(&picture, reserve, dead);
    if (victim) {
        words_copy(ret_name, name_size, victim->spec->name);
        ret_hosts[0] = '\0';
        for (unsigned i = 0; i < reserve && i < DEAD_MAX; i++) {
            size_t used = strlen(ret_hosts);
            (void)snprintf(ret_hosts + used, size - used, "%s%s", i ? " and " : "",
                           picture.hosts[dead[i]].name);
        }
    }
    picture_deinit(&picture);
    return victim ? ret_name : NULL;
}

bool admission_holds(const struct cluster *cluster, struct cluster_now now, char *ret_lacks,
                     size_t size)
{
    char hosts[PROBLEM_HINT_SIZE], name[OWN_HOST_SIZE];
    const struct admission_ask nothing = {0};
    ret_lacks[0] = '\0';
    if (!victim_of(cluster, &nothing, now, hosts, sizeof hosts, name, sizeof name))
        return true;
    (void)snprintf(ret_lacks, size, "%s would find no room if %s died", name, hosts);
    return false;
}

int admission_judge(const struct cluster *cluster, const struct admission_ask *ask,
                    struct cluster_now now, struct problem *problem)
{
    char hosts[PROBLEM_HINT_SIZE], name[OWN_HOST_SIZE], lacks[PROBLEM_HINT_SIZE];
    if (!victim_of(cluster, ask, now, hosts, sizeof hosts, name, sizeof name) ||
        !admission_holds(cluster, now, lacks, sizeof lacks))
        return 0;
    (void)problem_set(problem, GW_RESERVE, "%s would find no room any more if %s died", name,
                      hosts);
    problem_detail(problem, "HA keeps room for the death of %u %s", cluster_ha_reserve(cluster),
                   cluster_ha_reserve(cluster) == 1 ? "host" : "hosts");
    problem_hint(problem, "godwit ha reserve 0   (gives that promise up)");
    return -1;
}
