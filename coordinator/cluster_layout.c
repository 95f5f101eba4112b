#include "coordinator/cluster_layout.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_view.h"
#include "coordinator/pool_store.h"
#include "coordinator/rule.h"
#include "coordinator/words.h"

/* Of a VM whose load nobody has told yet. */
#define DEMAND_UNKNOWN_A_VCPU 0.25
/* What a soft rule's breach is worth: stall seconds a second. */
#define SOFT_WEIGHT 0.02

uint32_t cluster_layout_host(const struct cluster *cluster, const struct cluster_host *host)
{
    (void)cluster;
    return (uint32_t)host->index;
}

uint32_t cluster_layout_vm(const struct cluster *cluster, const struct cluster_vm *vm)
{
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (cluster->vms[i] == vm)
            return (uint32_t)i;
    }
    return LAYOUT_NONE;
}

static int add_host(struct layout *layout, const struct planner_host *seen,
                    const struct cluster_host *host, struct fault *fault)
{
    const Godwit__HostFacts *facts = host->facts;
    const char *domain = rule_host_label(host, "domain");
    double cpus = facts && facts->cpus ? facts->cpus : 1;
    double others = host->others_cores < 0.8 * cpus ? host->others_cores : 0.8 * cpus;
    struct layout_host added = {
        .name = host->name,
        .domain = domain ? domain : "",
        .kvm_missing = facts ? facts->kvm_missing : NULL,
        .up = seen->up && facts,
        .cordoned = rule_host_is_cordoned(host),
        .kvm = facts && facts->kvm,
        .cores = cpus - others,
        .memory_bytes = facts ? facts->memory_bytes : 0,
        .memory_free_bytes = seen->memory_free_bytes > seen->memory_promised_bytes
                                 ? seen->memory_free_bytes - seen->memory_promised_bytes
                                 : 0,
    };
    for (size_t i = 0; facts && i < facts->n_baselines; i++) {
        uint32_t index;
        if (!facts->baselines[i]->given || !facts->baselines[i]->name)
            continue;
        int r = layout_add_baseline(layout, facts->baselines[i]->name, &index, fault);
        if (r < 0)
            return r;
        added.baselines |= 1u << index;
    }
    return layout_add_host(layout, &added, fault);
}

static uint32_t host_named(const struct cluster *cluster, const char *name)
{
    const struct cluster_host *host = cluster_host(cluster, name);
    return host ? (uint32_t)host->index : LAYOUT_NONE;
}

/* ---- what else a VM needs ---------------------------------------------------------------------
 */

static const char *vendor_of(const struct cluster *cluster, const struct cluster_vm *vm)
{
    const struct cluster_host *host =
        vm->own.phase == OWN_STOPPED ? NULL : cluster_host(cluster, vm->own.owner);
    return host && host->facts ? host->facts->cpu_vendor : NULL;
}

/* Where its replica is: there it cannot be beside it. NULL: it has none. */
static const char *replica_of(const struct cluster_vm *vm)
{
    bool has_none = !vm->dr || strcmp(vm->dr->info->step, "away") == 0;
    return has_none ? NULL : vm->dr->info->target;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_nics(const Godwit__VmSpec *a, const Godwit__VmSpec *b)
{
    bool same = a->n_nics == b->n_nics;
    for (size_t i = 0; same && i < a->n_nics; i++)
        same = same_text(a->nics[i]->bridge, b->nics[i]->bridge);
    return same;
}

static bool has_stores_of(const Godwit__VmSpec *spec, const Godwit__VmSpec *other)
{
    bool has = true;
    for (size_t i = 0; has && i < other->n_disks; i++) {
        const char *name = other->disks[i]->pool_store;
        has = !name;
        for (size_t n = 0; !has && n < spec->n_disks; n++)
            has = same_text(spec->disks[n]->pool_store, name) &&
                  spec->disks[n]->read_only == other->disks[i]->read_only;
    }
    return has;
}

static bool same_stores(const Godwit__VmSpec *a, const Godwit__VmSpec *b)
{
    return has_stores_of(a, b) && has_stores_of(b, a);
}

/* Only what the layout does not judge itself: memory, CPU features and being up are its own. */
static enum gw_code judge_bar(const struct planner_host *host,
                              const struct planner_stores *stores, const struct cluster_vm *vm,
                              const char *vendor, char *ret_text, size_t size)
{
    struct planner_host with_room = *host;
    const struct planner_ask ask = {
        .vm_name = vm->spec->name,
        .baseline = "",
        .cpu_vendor = vendor,
        .spec = vm->spec,
        .stores = stores};
    if (replica_of(vm) && strcmp(replica_of(vm), host->name) == 0) {
        (void)snprintf(ret_text, size, "%s has the replica of %s", host->name, vm->spec->name);
        return GW_DR_STATE;
    }
    with_room.memory_free_bytes = UINT64_MAX;
    with_room.memory_promised_bytes = 0;
    return planner_judge(&with_room, &ask, ret_text, size);
}

static enum gw_code say_bar(void *data, uint32_t v, uint32_t h, char *ret_text, size_t size)
{
    const struct cluster_layout *view = data;
    const struct cluster_vm *vm = view->cluster->vms[v];
    const struct planner_stores stores = pool_store_planner(view->cluster, view->now_ns);
    enum gw_code code =
        judge_bar(&view->hosts[h], &stores, vm, vendor_of(view->cluster, vm), ret_text, size);
    return code == GW_NONE ? GW_NO_HOST_FITS : code;
}

static uint8_t *find_bars(struct cluster_layout *view, const struct cluster_vm *vm)
{
    const struct cluster *cluster = view->cluster;
    const char *vendor = vendor_of(cluster, vm);
    char text[CLUSTER_REASON_SIZE];
    const struct planner_stores stores = pool_store_planner(cluster, view->now_ns);
    if (vm->spec->n_nics == 0 && !vendor && !pool_store_is_named(vm->spec) && !replica_of(vm))
        return NULL;
    for (size_t i = 0; i < view->bar_count; i++) {
        if (same_text(view->bars[i].vendor, vendor) &&
            same_text(replica_of(view->bars[i].like), replica_of(vm)) &&
            same_nics(view->bars[i].like->spec, vm->spec) &&
            same_stores(view->bars[i].like->spec, vm->spec))
            return view->bars[i].bits;
    }
    uint8_t *bits =
        view->bar_count < CLUSTER_BARS_MAX ? calloc(cluster->host_count / 8 + 1, 1) : NULL;
    if (!bits)
        return NULL; /* too many kinds: it is found out when its move is to begin */
    for (size_t h = 0; h < cluster->host_count; h++) {
        enum gw_code code = judge_bar(&view->hosts[h], &stores, vm, vendor, text, sizeof text);
        bool is_down = !view->hosts[h].up || !view->hosts[h].facts;
        if (code != GW_NONE && code != GW_HOST_KVM && !is_down)
            bits[h / 8] |= (uint8_t)(1u << h % 8);
    }
    view->bars[view->bar_count++] =
        (struct cluster_bars){.vendor = vendor, .like = vm, .bits = bits};
    return bits;
}

static int add_vm(struct cluster_layout *view, struct cluster *cluster, size_t index,
                  struct cluster_now now, bool waits, struct fault *fault)
{
    struct cluster_vm *vm = cluster->vms[index];
    struct problem problem = {0};
    bool is_stopped = vm->own.phase == OWN_STOPPED;
    bool moves = vm->own.phase == OWN_HANDOVER;
    struct layout_vm added = {
        .name = vm->spec->name,
        .host =
            is_stopped ? LAYOUT_NONE : host_named(cluster, moves ? vm->own.target : vm->own.owner),
        .baseline = LAYOUT_NONE,
        .vcpus = vm->spec->cpu->vcpus,
        .demand = vm->load_ns ? vm->run_cores + vm->wait_cores
                              : DEMAND_UNKNOWN_A_VCPU * vm->spec->cpu->vcpus,
        .memory_bytes = vm->spec->memory->size,
        .populated_bytes = vm->memory_populated ? vm->memory_populated : vm->spec->memory->size,
        .dirty_bytes_per_s = vm->dirty_bytes_per_s,
        .barred = find_bars(view, vm),
    };
    if (!is_stopped && cluster_may_move(cluster, vm, now, &problem) != 0 &&
        !(waits && problem.code == GW_VM_BUSY)) {
        WORDS_COPY(view->fixed[index], problem.text);
        added.fixed = view->fixed[index];
    }
    if (vm->spec->cpu->baseline[0]) {
        int r = layout_add_baseline(view->layout, vm->spec->cpu->baseline, &added.baseline, fault);
        if (r < 0)
            return r;
    }
    return layout_add_vm(view->layout, &added, fault);
}

static int add_rule(struct cluster_layout *view, const struct cluster *cluster,
                    const Godwit__Rule *rule, struct fault *fault)
{
    AUTO_FREE uint32_t *vms = calloc(cluster->vm_count + 1, sizeof *vms);
    AUTO_FREE uint32_t *hosts = calloc(cluster->host_count + 1, sizeof *hosts);
    if (!vms || !hosts)
        return fault_set(fault, ERR_NOMEM, "no memory for rule %s", rule->id);
    struct layout_rule added = {.id = rule->id,
                                .kind = rule_kind_from_name(rule->kind),
                                .hard = !rule->soft,
                                .most = rule->most,
                                .weight = SOFT_WEIGHT,
                                .vms = vms,
                                .hosts = hosts};
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (rule_names_vm(rule, cluster->vms[i]))
            vms[added.vm_count++] = (uint32_t)i;
    }
    for (size_t i = 0; i < cluster->host_count; i++) {
        if (rule_names_host(rule, cluster->hosts[i]))
            hosts[added.host_count++] = (uint32_t)i;
    }
    return layout_add_rule(view->layout, &added, fault);
}

static int fill(struct cluster_layout *view, struct cluster *cluster, struct cluster_now now,
                enum layout_goal goal, bool waits, struct fault *fault)
{
    struct planner_host *seen = cluster_planner_hosts(cluster, now.ns);
    view->cluster = cluster;
    view->now_ns = now.ns;
    view->hosts = seen;
    view->bars = calloc(CLUSTER_BARS_MAX, sizeof *view->bars);
    view->fixed = calloc(cluster->vm_count + 1, sizeof *view->fixed);
    int r = seen && view->fixed && view->bars ? layout_new(&view->layout, fault)
                                              : fault_set(fault, ERR_NOMEM, "no memory for a plan");
    for (size_t i = 0; r == 0 && i < cluster->host_count; i++)
        r = add_host(view->layout, &seen[i], cluster->hosts[i], fault);
    for (size_t i = 0; r == 0 && i < cluster->vm_count; i++)
        r = add_vm(view, cluster, i, now, waits, fault);
    for (size_t i = 0; r == 0 && i < cluster->rule_count; i++)
        r = add_rule(view, cluster, cluster->rules[i]->rule, fault);
    return r < 0 ? r : layout_seal(view->layout, goal, fault);
}

int cluster_layout_new(struct cluster_layout *ret_view, struct cluster *cluster,
                       struct cluster_now now, enum layout_goal goal, bool waits,
                       struct problem *problem)
{
    struct cluster_layout view = {0};
    struct fault fault = {0};
    if (fill(&view, cluster, now, goal, waits, &fault) < 0) {
        cluster_layout_deinit(&view);
        return problem_set(problem, GW_INTERNAL, "%s", fault.text);
    }
    *ret_view = view; /* words are asked for where it lies from now on */
    layout_words_of_bars(view.layout, say_bar, ret_view);
    return 0;
}

void cluster_layout_deinit(struct cluster_layout *view)
{
    view->layout = layout_free(view->layout);
    for (size_t i = 0; i < view->bar_count; i++)
        free(view->bars[i].bits);
    free(view->bars);
    free(view->hosts);
    free(view->fixed);
    *view = (struct cluster_layout){0};
}

double cluster_layout_pause_goal_s(const struct cluster_vm *vm)
{
    uint64_t ms = vm->spec->migration ? vm->spec->migration->max_downtime_ms : 0;
    return ms ? (double)ms / 1e3 : 0.1;
}
