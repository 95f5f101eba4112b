#include "coordinator/planner.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "proto/vm_spec.h"

static const Godwit__BaselineFact *find_baseline(const Godwit__HostFacts *facts, const char *name)
{
    for (size_t i = 0; i < facts->n_baselines; i++) {
        if (facts->baselines[i]->name && strcmp(facts->baselines[i]->name, name) == 0)
            return facts->baselines[i];
    }
    return NULL;
}

static bool gives(const Godwit__HostFacts *facts, const char *name)
{
    const Godwit__BaselineFact *fact = find_baseline(facts, name);
    return fact && fact->given;
}

#define MIB_OF(bytes) ((unsigned long long)((bytes) >> 20))

/* The first bridge that the VM's nics need and the host lacks; NULL: none. An agent that tells no
 * vendor is older than the telling of bridges: it is asked before the move begins. */
static const char *missing_bridge(const Godwit__HostFacts *facts, const Godwit__VmSpec *spec)
{
    for (size_t i = 0; spec && facts->cpu_vendor && i < spec->n_nics; i++) {
        bool found = spec->nics[i]->unplugged;
        for (size_t n = 0; !found && n < facts->n_bridges; n++)
            found = strcmp(facts->bridges[n], spec->nics[i]->bridge) == 0;
        if (!found)
            return spec->nics[i]->bridge;
    }
    return NULL;
}

enum gw_code planner_judge(const struct planner_host *host, const struct planner_ask *ask,
                           char *ret_reason, size_t reason_size)
{
    if (ask->not_on && strcmp(ask->not_on, host->name) == 0) {
        (void)snprintf(ret_reason, reason_size, "%s already runs on %s", ask->vm_name, host->name);
        return GW_SAME_HOST;
    }
    if (!host->up || !host->facts) {
        (void)snprintf(ret_reason, reason_size, "the agent of %s does not answer", host->name);
        return GW_HOST_DOWN;
    }
    if (!host->facts->kvm) {
        (void)snprintf(ret_reason, reason_size, "%s has no usable KVM: %s", host->name,
                       host->facts->kvm_missing ? host->facts->kvm_missing : "no reason was told");
        return GW_HOST_KVM;
    }
    if (ask->spec && vm_spec_is_libvirt(ask->spec) &&
        !(host->facts->libvirt && host->facts->libvirt[0])) {
        (void)snprintf(ret_reason, reason_size,
                       "%s drives no libvirt now, and %s is a domain of libvirt", host->name,
                       ask->vm_name);
        return GW_NO_LIBVIRT;
    }
    if (ask->baseline[0] && !gives(host->facts, ask->baseline)) {
        const Godwit__BaselineFact *fact = find_baseline(host->facts, ask->baseline);
        (void)snprintf(ret_reason, reason_size, "%s lacks CPU features of baseline %s: %s",
                       host->name, ask->baseline,
                       fact && fact->missing ? fact->missing : "it does not know this baseline");
        return GW_CPU_COMPAT;
    }
    const char *vendor = host->facts->cpu_vendor;
    if (ask->cpu_vendor && vendor && strcmp(ask->cpu_vendor, vendor) != 0) {
        (void)snprintf(ret_reason, reason_size, "%s has %s CPUs, the guest was started on %s",
                       host->name, vendor, ask->cpu_vendor);
        return GW_CPU_COMPAT;
    }
    const char *bridge = missing_bridge(host->facts, ask->spec);
    if (bridge) {
        (void)snprintf(ret_reason, reason_size, "%s has no bridge %s", host->name, bridge);
        return GW_NO_BRIDGE;
    }
    enum gw_code by_stores =
        ask->stores && ask->spec
            ? ask->stores->judge(ask->stores->data, host->name, ask, ret_reason, reason_size)
            : GW_NONE;
    if (by_stores != GW_NONE)
        return by_stores;
    const char *refused = host->facts->postcopy_refused;
    if (ask->postcopy && refused && refused[0]) {
        (void)snprintf(ret_reason, reason_size, "no post-copy to %s: %s", host->name, refused);
        return GW_NO_POSTCOPY;
    }
    uint64_t need = ask->memory_bytes + PLANNER_OVERHEAD_BYTES;
    uint64_t free = host->memory_free_bytes > host->memory_promised_bytes
                        ? host->memory_free_bytes - host->memory_promised_bytes
                        : 0;
    if (free < need) {
        (void)snprintf(ret_reason, reason_size, "%s has %llu MiB of memory free, %llu are needed",
                       host->name, MIB_OF(free), MIB_OF(need));
        return GW_NO_MEMORY;
    }
    return GW_NONE;
}

static uint64_t free_bytes(const struct planner_host *host)
{
    assert(host->memory_free_bytes >= host->memory_promised_bytes); /* it has been judged fit */
    return host->memory_free_bytes - host->memory_promised_bytes;
}

static bool is_avoided(const struct planner_ask *ask, const char *host)
{
    for (size_t i = 0; i < ask->avoid_count; i++) {
        if (strcmp(ask->avoid[i], host) == 0)
            return true;
    }
    return false;
}

/* Rules and cordons, which are the layout's to know. */
static enum gw_code judge_layout(const struct planner_host *host, uint32_t index,
                                 const struct planner_ask *ask, char *ret_reason,
                                 size_t reason_size)
{
    if (is_avoided(ask, host->name)) {
        (void)snprintf(ret_reason, reason_size, "%s failed before", host->name);
        return GW_TARGET_REFUSED;
    }
    if (!ask->layout)
        return GW_NONE;
    if (ask->layout_vm == LAYOUT_NONE) {
        if (!layout_host(ask->layout, index)->cordoned)
            return GW_NONE;
        (void)snprintf(ret_reason, reason_size, "%s is cordoned", host->name);
        return GW_HOST_CORDONED;
    }
    enum layout_obstacle obstacle = layout_judge(ask->layout, ask->layout_vm, index, NULL);
    if (obstacle != LAYOUT_RULE && obstacle != LAYOUT_CORDONED)
        return GW_NONE; /* judged by the facts already, with their own words */
    return layout_obstacle_words(ask->layout, ask->layout_vm, index, ret_reason, reason_size);
}

static bool costs_less(const struct planner_ask *ask, uint32_t host, uint32_t best)
{
    double delta = layout_delta(ask->layout, ask->layout_vm, host);
    double of_best = layout_delta(ask->layout, ask->layout_vm, best);
    if (delta < of_best - 1e-6 || delta > of_best + 1e-6)
        return delta < of_best;
    return layout_pressure(ask->layout, host, ask->layout_vm) <
           layout_pressure(ask->layout, best, ask->layout_vm);
}

static bool is_better(const struct planner_host *host, const struct planner_host *best)
{
    if (free_bytes(host) != free_bytes(best))
        return free_bytes(host) > free_bytes(best);
    return strcmp(host->name, best->name) < 0;
}

int planner_choose(const struct planner_host *hosts, size_t count, const struct planner_ask *ask,
                   struct problem *problem)
{
    int chosen = -1;
    struct problem found = {0};
    char reason[PROBLEM_HINT_SIZE];
    char fitting[PROBLEM_HINT_SIZE] = "";

    (void)problem_set(&found, GW_NO_HOST_FITS, "no host can run %s now", ask->vm_name);
    for (size_t i = 0; i < count; i++) {
        enum gw_code code = planner_judge(&hosts[i], ask, reason, sizeof reason);
        if (code == GW_NONE)
            code = judge_layout(&hosts[i], (uint32_t)i, ask, reason, sizeof reason);
        bool by_layout = ask->layout && ask->layout_vm != LAYOUT_NONE;
        bool wanted = !ask->only_on || strcmp(ask->only_on, hosts[i].name) == 0;
        if (code == GW_NONE && wanted) {
            if (chosen < 0 || (by_layout ? costs_less(ask, (uint32_t)i, (uint32_t)chosen)
                                         : is_better(&hosts[i], &hosts[chosen])))
                chosen = (int)i;
        } else if (code == GW_NONE) {
            size_t used = strlen(fitting);
            (void)snprintf(fitting + used, sizeof fitting - used, "%s%s", used ? ", " : "",
                           hosts[i].name);
        } else if (ask->only_on && wanted) {
            (void)problem_set(&found, code, "%s cannot run on %s: %s", ask->vm_name, hosts[i].name,
                              reason);
        } else if (!ask->only_on) {
            problem_detail(&found, "%s", reason);
        }
    }
    if (chosen < 0 && problem) {
        *problem = found;
        if (fitting[0])
            problem_hint(problem, "hosts that fit now: %s", fitting);
    }
    return chosen;
}

const char *planner_host_baseline(const Godwit__HostFacts *facts)
{
    for (size_t i = facts ? facts->n_baselines : 0; i-- > 0;) {
        if (facts->baselines[i]->given && facts->baselines[i]->name)
            return facts->baselines[i]->name;
    }
    return NULL;
}

const char *planner_baseline(const struct planner_host *hosts, size_t count)
{
    const Godwit__HostFacts *first = NULL;
    for (size_t i = 0; i < count && !first; i++)
        first = hosts[i].up ? hosts[i].facts : NULL;
    for (size_t n = first ? first->n_baselines : 0; n-- > 0;) {
        const char *name = first->baselines[n]->name;
        bool all = name != NULL;
        for (size_t i = 0; all && i < count; i++)
            all = !hosts[i].up || !hosts[i].facts || gives(hosts[i].facts, name);
        if (all)
            return name;
    }
    return NULL;
}
