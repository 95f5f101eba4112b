/* Sums a host: demand in cores, vCPUs, memory by two measures. Memory that was measured as free
 * grows by what a leaving VM has populated and shrinks by the whole size of a coming one; beside
 * it, the sizes of all VMs of a host stay below its memory, so that guests can populate what they
 * have.
 *
 * LAYOUT_EVEN keeps the sum and the sum of squares of each metric over all hosts that are up: a
 * standard deviation after a move of two hosts' values is then a few multiplications. */
#include "placement/layout.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "placement/layout_inside.h"

/* Below this load a vCPU hardly ever waits; above 1 what is missing is missing. */
#define LOAD_FREE 0.6
#define MEMORY_FREE 0.85

static double cpu_stall(double demand, double cores)
{
    double load = demand / cores;
    if (load <= LOAD_FREE)
        return 0;
    if (load <= 1)
        return cores * (load - LOAD_FREE) * (load - LOAD_FREE) / (2 * (1 - LOAD_FREE));
    return cores * ((1 - LOAD_FREE) / 2 + load - 1);
}

/* Reclaim and refaults: told as cores' worth of waiting once little is left. */
static double memory_stall(double used, double cores)
{
    return used <= MEMORY_FREE ? 0 : cores * 4 * (used - MEMORY_FREE) * (used - MEMORY_FREE);
}

struct change { /* of one host's sums */
    double demand, vcpus, use;
    int64_t free, unpromised;
};

static double stall_of(const struct host *host, const struct change *change)
{
    if (!host->given.up)
        return 0;
    double total = (double)host->given.memory_bytes;
    double left = (double)(host->free + change->free);
    return cpu_stall(host->demand + change->demand, host->given.cores) +
           (total > 0 ? memory_stall(1 - left / total, host->given.cores) : 0);
}

static void metrics_of(const struct host *host, const struct change *change,
                       double ret_metrics[LAYOUT_METRICS])
{
    double total = (double)host->given.memory_bytes;
    ret_metrics[0] = total > 0 ? (double)(host->free + change->free) / total : 0;
    ret_metrics[1] = (host->vcpus + change->vcpus) / host->given.cores;
    ret_metrics[2] = (host->demand + change->demand) / host->given.cores;
    ret_metrics[3] = (host->use + change->use) / host->given.cores;
}

static double deviation(double sum, double squares, double count)
{
    double mean = sum / count, variance = squares / count - mean * mean;
    return variance > 0 ? sqrt(variance) : 0;
}

/* ---- building ---------------------------------------------------------------------------------
 */

int layout_new(struct layout **ret_layout, struct fault *fault)
{
    *ret_layout = calloc(1, sizeof **ret_layout);
    return *ret_layout ? 0 : fault_set(fault, ERR_NOMEM, "no memory for the layout of the pool");
}

struct layout *layout_free(struct layout *layout)
{
    if (!layout)
        return NULL;
    for (uint32_t i = 0; i < layout->rule_count; i++) {
        free(layout->rules[i].vms);
        free(layout->rules[i].host_bits);
        free(layout->rules[i].counts);
    }
    free(layout->hosts);
    free(layout->vms);
    free(layout->rules);
    free(layout->rule_lists);
    free(layout);
    return NULL;
}

static int grow(void **array, uint32_t count, uint32_t *room, uint32_t most, size_t bytes,
                const char *noun, struct fault *fault)
{
    if (count == most)
        return fault_set(fault, ERR_LIMIT, "a layout has %u %s at most", most, noun);
    if (count < *room)
        return 0;
    uint32_t bigger = *room ? *room * 2 : 64;
    void *moved = reallocarray(*array, bigger, bytes);
    if (!moved)
        return fault_set(fault, ERR_NOMEM, "no memory for %u %s", bigger, noun);
    *array = moved;
    *room = bigger;
    return 0;
}

int layout_add_baseline(struct layout *layout, const char *name, uint32_t *ret_index,
                        struct fault *fault)
{
    for (uint32_t i = 0; i < layout->baseline_count; i++) {
        if (strcmp(layout->baselines[i], name) == 0) {
            *ret_index = i;
            return 0;
        }
    }
    if (layout->baseline_count == LAYOUT_BASELINES_MAX)
        return fault_set(fault, ERR_LIMIT, "a layout has %d CPU baselines at most",
                         LAYOUT_BASELINES_MAX);
    *ret_index = layout->baseline_count;
    layout->baselines[layout->baseline_count++] = name;
    return 0;
}

int layout_add_host(struct layout *layout, const struct layout_host *host, struct fault *fault)
{
    int r = grow((void **)&layout->hosts, layout->host_count, &layout->host_room, LAYOUT_HOSTS_MAX,
                 sizeof *layout->hosts, "hosts", fault);
    if (r < 0)
        return r;
    struct host *added = &layout->hosts[layout->host_count++];
    *added = (struct host){.given = *host, .first_vm = LAYOUT_NONE};
    if (!(added->given.cores >= 0.01)) /* nothing is divided by nothing */
        added->given.cores = 0.01;
    if (!added->given.domain)
        added->given.domain = "";
    return 0;
}

int layout_add_vm(struct layout *layout, const struct layout_vm *vm, struct fault *fault)
{
    if (vm->host != LAYOUT_NONE && vm->host >= layout->host_count)
        return fault_set(fault, ERR_INVALID, "%s is on a host that is not in the layout", vm->name);
    int r = grow((void **)&layout->vms, layout->vm_count, &layout->vm_room, LAYOUT_VMS_MAX,
                 sizeof *layout->vms, "VMs", fault);
    if (r < 0)
        return r;
    struct vm *added = &layout->vms[layout->vm_count++];
    *added = (struct vm){.given = *vm, .origin = vm->host};
    if (added->given.populated_bytes > added->given.memory_bytes)
        added->given.populated_bytes = added->given.memory_bytes;
    return 0;
}

int layout_add_rule(struct layout *layout, const struct layout_rule *given, struct fault *fault)
{
    int r = grow((void **)&layout->rules, layout->rule_count, &layout->rule_room, LAYOUT_RULES_MAX,
                 sizeof *layout->rules, "rules", fault);
    if (r < 0)
        return r;
    struct rule rule = {.given = *given};
    rule.vms = calloc(given->vm_count + 1, sizeof *rule.vms);
    rule.host_bits = calloc(layout->host_count / 8 + 1, 1);
    rule.counts = calloc(layout->host_count + 1, sizeof *rule.counts);
    bool ok = rule.vms && rule.host_bits && rule.counts;
    for (uint32_t i = 0; ok && i < given->vm_count; i++)
        ok = (rule.vms[i] = given->vms[i]) < layout->vm_count;
    for (uint32_t i = 0; ok && i < given->host_count; i++) {
        ok = given->hosts[i] < layout->host_count;
        if (ok)
            rule.host_bits[given->hosts[i] / 8] |= (uint8_t)(1u << given->hosts[i] % 8);
    }
    if (!ok) {
        free(rule.vms);
        free(rule.host_bits);
        free(rule.counts);
        return fault_set(fault, ERR_INVALID, "rule %s names what is not in the layout", given->id);
    }
    rule.given.vms = rule.vms;
    rule.given.hosts = NULL;
    layout->rules[layout->rule_count++] = rule;
    return 0;
}

void layout_set_free(struct layout *layout, uint32_t host, uint64_t memory_free_bytes)
{
    assert(!layout->is_sealed && host < layout->host_count);
    layout->hosts[host].given.memory_free_bytes = memory_free_bytes;
}

static void find_domains(struct layout *layout)
{
    for (uint32_t h = 0; h < layout->host_count; h++) {
        struct host *host = &layout->hosts[h];
        uint32_t found = LAYOUT_NONE;
        /* Few domains have many hosts: the last ones are looked at first. */
        for (uint32_t i = h; host->given.domain[0] && i-- > 0 && found == LAYOUT_NONE;) {
            if (strcmp(layout->hosts[i].given.domain, host->given.domain) == 0)
                found = layout->hosts[i].domain;
        }
        host->domain = found == LAYOUT_NONE ? layout->domain_count++ : found;
    }
}

/* The rules of each VM lie in one array, each VM knows where its own begin. */
static int list_rules(struct layout *layout, struct fault *fault)
{
    size_t total = 0;
    for (uint32_t r = 0; r < layout->rule_count; r++) {
        for (uint32_t i = 0; i < layout->rules[r].given.vm_count; i++)
            layout->vms[layout->rules[r].vms[i]].rule_count++;
        total += layout->rules[r].given.vm_count;
    }
    layout->rule_lists = calloc(total + 1, sizeof *layout->rule_lists);
    if (!layout->rule_lists)
        return fault_set(fault, ERR_NOMEM, "no memory for the rules of the pool");
    uint32_t next = 0;
    for (uint32_t v = 0; v < layout->vm_count; v++) {
        layout->vms[v].first_rule = next;
        next += layout->vms[v].rule_count;
        layout->vms[v].rule_count = 0;
    }
    for (uint32_t r = 0; r < layout->rule_count; r++) {
        for (uint32_t i = 0; i < layout->rules[r].given.vm_count; i++) {
            struct vm *vm = &layout->vms[layout->rules[r].vms[i]];
            layout->rule_lists[vm->first_rule + vm->rule_count++] = r;
        }
    }
    return 0;
}

static uint32_t domains_up(const struct layout *layout)
{
    uint32_t count = 0;
    for (uint32_t h = 0; h < layout->host_count; h++) {
        bool is_new = layout->hosts[h].given.up;
        for (uint32_t i = 0; is_new && i < h && layout->domain_count < layout->host_count; i++)
            is_new =
                !layout->hosts[i].given.up || layout->hosts[i].domain != layout->hosts[h].domain;
        count += is_new;
    }
    return count;
}

static void set_mosts(struct layout *layout)
{
    uint32_t domains = LAYOUT_NONE;
    for (uint32_t r = 0; r < layout->rule_count; r++) {
        struct rule *rule = &layout->rules[r];
        if (rule->given.most == 0 && rule->given.kind == LAYOUT_SPREAD) {
            if (domains == LAYOUT_NONE)
                domains = domains_up(layout);
            rule->given.most = domains ? (rule->given.vm_count + domains - 1) / domains : 1;
        }
        if (rule->given.most == 0)
            rule->given.most = 1;
    }
}

int layout_seal(struct layout *layout, enum layout_goal goal, struct fault *fault)
{
    assert(!layout->is_sealed);
    layout->goal = goal;
    find_domains(layout);
    int r = list_rules(layout, fault);
    if (r < 0)
        return r;
    set_mosts(layout);
    for (uint32_t h = 0; h < layout->host_count; h++) {
        struct host *host = &layout->hosts[h];
        host->free = (int64_t)host->given.memory_free_bytes;
        host->unpromised = (int64_t)host->given.memory_bytes;
    }
    for (uint32_t v = 0; v < layout->vm_count; v++) {
        uint32_t at = layout->vms[v].given.host;
        layout->vms[v].given.host = LAYOUT_NONE;
        if (at == LAYOUT_NONE)
            continue;
        /* What it has populated is in the measured free memory already. */
        layout->hosts[at].free += layout_held_bytes(layout, v, at);
        layout_move(layout, v, at);
    }
    layout->is_sealed = true;
    layout_recount(layout);
    return 0;
}

void layout_recount(struct layout *layout)
{
    const struct change none = {0};
    layout->counted = 0;
    layout->stall = 0;
    memset(layout->sums, 0, sizeof layout->sums);
    memset(layout->squares, 0, sizeof layout->squares);
    for (uint32_t h = 0; h < layout->host_count; h++) {
        struct host *host = &layout->hosts[h];
        double metrics[LAYOUT_METRICS];
        host->stall = stall_of(host, &none);
        if (!host->given.up)
            continue;
        layout->stall += host->stall;
        layout->counted++;
        metrics_of(host, &none, metrics);
        for (int i = 0; i < LAYOUT_METRICS; i++) {
            layout->sums[i] += metrics[i];
            layout->squares[i] += metrics[i] * metrics[i];
        }
    }
}

/* ---- look-up ----------------------------------------------------------------------------------
 */

uint32_t layout_host_count(const struct layout *layout)
{
    return layout->host_count;
}

uint32_t layout_vm_count(const struct layout *layout)
{
    return layout->vm_count;
}

uint32_t layout_rule_count(const struct layout *layout)
{
    return layout->rule_count;
}

const struct layout_host *layout_host(const struct layout *layout, uint32_t host)
{
    assert(host < layout->host_count);
    return &layout->hosts[host].given;
}

const struct layout_vm *layout_vm(const struct layout *layout, uint32_t vm)
{
    assert(vm < layout->vm_count);
    return &layout->vms[vm].given;
}

const struct layout_rule *layout_rule(const struct layout *layout, uint32_t rule)
{
    assert(rule < layout->rule_count);
    return &layout->rules[rule].given;
}

uint32_t layout_origin(const struct layout *layout, uint32_t vm)
{
    return layout->vms[vm].origin;
}

uint32_t layout_find_host(const struct layout *layout, const char *name)
{
    for (uint32_t h = 0; h < layout->host_count; h++) {
        if (strcmp(layout->hosts[h].given.name, name) == 0)
            return h;
    }
    return LAYOUT_NONE;
}

uint32_t layout_find_vm(const struct layout *layout, const char *name)
{
    for (uint32_t v = 0; v < layout->vm_count; v++) {
        if (strcmp(layout->vms[v].given.name, name) == 0)
            return v;
    }
    return LAYOUT_NONE;
}

uint32_t layout_first_vm(const struct layout *layout, uint32_t host)
{
    return layout->hosts[host].first_vm;
}

uint32_t layout_next_vm(const struct layout *layout, uint32_t vm)
{
    return layout->vms[vm].next;
}

void layout_cordon(struct layout *layout, uint32_t host, bool cordoned)
{
    layout->hosts[host].given.cordoned = cordoned;
}

void layout_fix(struct layout *layout, uint32_t vm, const char *why)
{
    layout->vms[vm].given.fixed = why;
}

void layout_set_up(struct layout *layout, uint32_t host, bool up)
{
    layout->hosts[host].given.up = up;
    layout_recount(layout);
}

void layout_ignore_rule(struct layout *layout, uint32_t rule, bool ignored)
{
    layout->rules[rule].is_ignored = ignored;
}

uint64_t layout_free_bytes(const struct layout *layout, uint32_t host)
{
    const struct host *at = &layout->hosts[host];
    int64_t least = at->free < at->unpromised ? at->free : at->unpromised;
    return least > 0 ? (uint64_t)least : 0;
}

/* ---- changing ---------------------------------------------------------------------------------
 */

static struct change arrival(const struct layout *layout, uint32_t v, uint32_t host)
{
    const struct layout_vm *vm = &layout->vms[v].given;
    return (struct change){.demand = vm->demand,
                           .vcpus = vm->vcpus,
                           .use = vm->vcpus ? vm->demand / vm->vcpus : 0,
                           .free = -layout_held_bytes(layout, v, host),
                           .unpromised = -(int64_t)vm->memory_bytes};
}

static struct change minus(struct change change)
{
    return (struct change){.demand = -change.demand,
                           .vcpus = -change.vcpus,
                           .use = -change.use,
                           .free = -change.free,
                           .unpromised = -change.unpromised};
}

static struct change plus(struct change a, struct change b)
{
    return (struct change){.demand = a.demand + b.demand,
                           .vcpus = a.vcpus + b.vcpus,
                           .use = a.use + b.use,
                           .free = a.free + b.free,
                           .unpromised = a.unpromised + b.unpromised};
}

static void count_in(struct layout *layout, uint32_t h, struct change change)
{
    const struct change none = {0};
    struct host *host = &layout->hosts[h];
    double before[LAYOUT_METRICS], after[LAYOUT_METRICS];
    metrics_of(host, &none, before);
    host->demand += change.demand;
    host->vcpus += change.vcpus;
    host->use += change.use;
    host->free += change.free;
    host->unpromised += change.unpromised;
    if (!layout->is_sealed)
        return;
    double stall = stall_of(host, &none);
    layout->stall += stall - host->stall;
    host->stall = stall;
    if (!host->given.up)
        return;
    metrics_of(host, &none, after);
    for (int i = 0; i < LAYOUT_METRICS; i++) {
        layout->sums[i] += after[i] - before[i];
        layout->squares[i] += after[i] * after[i] - before[i] * before[i];
    }
}

static void unlink_vm(struct layout *layout, uint32_t v)
{
    struct vm *vm = &layout->vms[v];
    if (vm->previous == LAYOUT_NONE)
        layout->hosts[vm->given.host].first_vm = vm->next;
    else
        layout->vms[vm->previous].next = vm->next;
    if (vm->next != LAYOUT_NONE)
        layout->vms[vm->next].previous = vm->previous;
}

static void link_vm(struct layout *layout, uint32_t v, uint32_t h)
{
    struct vm *vm = &layout->vms[v];
    vm->previous = LAYOUT_NONE;
    vm->next = layout->hosts[h].first_vm;
    if (vm->next != LAYOUT_NONE)
        layout->vms[vm->next].previous = v;
    layout->hosts[h].first_vm = v;
}

void layout_move(struct layout *layout, uint32_t v, uint32_t to)
{
    struct vm *vm = &layout->vms[v];
    uint32_t from = vm->given.host;
    if (from == to)
        return;
    if (from != LAYOUT_NONE) {
        unlink_vm(layout, v);
        count_in(layout, from, minus(arrival(layout, v, from)));
        layout_count_rules(layout, v, from, -1);
    }
    vm->given.host = to;
    if (to != LAYOUT_NONE) {
        link_vm(layout, v, to);
        count_in(layout, to, arrival(layout, v, to));
        layout_count_rules(layout, v, to, 1);
    }
}

/* ---- scores -----------------------------------------------------------------------------------
 */

double layout_score(const struct layout *layout)
{
    double score = layout_soft_cost(layout);
    if (layout->goal == LAYOUT_STALL)
        return score + layout->stall;
    for (int i = 0; layout->counted > 0 && i < LAYOUT_METRICS; i++)
        score += deviation(layout->sums[i], layout->squares[i], layout->counted);
    return score;
}

double layout_host_stall(const struct layout *layout, uint32_t host)
{
    return layout->hosts[host].stall;
}

double layout_host_load(const struct layout *layout, uint32_t host)
{
    return layout->hosts[host].demand / layout->hosts[host].given.cores;
}

/* `a` and `b` are hosts or LAYOUT_NONE. */
static double goal_delta(const struct layout *layout, uint32_t a, struct change of_a, uint32_t b,
                         struct change of_b)
{
    const struct change none = {0};
    const struct host *hosts[2] = {a == LAYOUT_NONE ? NULL : &layout->hosts[a],
                                   b == LAYOUT_NONE ? NULL : &layout->hosts[b]};
    const struct change *changes[2] = {&of_a, &of_b};
    double delta = 0;
    if (layout->goal == LAYOUT_STALL) {
        for (int i = 0; i < 2; i++)
            delta += hosts[i] ? stall_of(hosts[i], changes[i]) - hosts[i]->stall : 0;
        return delta;
    }
    double sums[LAYOUT_METRICS] = {0}, squares[LAYOUT_METRICS] = {0};
    for (int n = 0; n < 2; n++) {
        double before[LAYOUT_METRICS], after[LAYOUT_METRICS];
        if (!hosts[n] || !hosts[n]->given.up)
            continue;
        metrics_of(hosts[n], &none, before);
        metrics_of(hosts[n], changes[n], after);
        for (int i = 0; i < LAYOUT_METRICS; i++) {
            sums[i] += after[i] - before[i];
            squares[i] += after[i] * after[i] - before[i] * before[i];
        }
    }
    for (int i = 0; layout->counted > 0 && i < LAYOUT_METRICS; i++)
        delta +=
            deviation(layout->sums[i] + sums[i], layout->squares[i] + squares[i], layout->counted) -
            deviation(layout->sums[i], layout->squares[i], layout->counted);
    return delta;
}

double layout_delta(const struct layout *layout, uint32_t vm, uint32_t to)
{
    uint32_t from = layout->vms[vm].given.host;
    struct change none = {0};
    if (from == to)
        return 0;
    double delta =
        goal_delta(layout, from, from == LAYOUT_NONE ? none : minus(arrival(layout, vm, from)), to,
                   to == LAYOUT_NONE ? none : arrival(layout, vm, to));
    if (layout->vms[vm].rule_count > 0)
        delta += layout_soft_cost_at(layout, vm, to) - layout_soft_cost_at(layout, vm, from);
    return delta;
}

double layout_swap_delta(const struct layout *layout, uint32_t a, uint32_t b)
{
    uint32_t of_a = layout->vms[a].given.host, of_b = layout->vms[b].given.host;
    assert(of_a != of_b && of_a != LAYOUT_NONE && of_b != LAYOUT_NONE);
    double delta =
        goal_delta(layout, of_a, plus(minus(arrival(layout, a, of_a)), arrival(layout, b, of_a)),
                   of_b, plus(minus(arrival(layout, b, of_b)), arrival(layout, a, of_b)));
    if (layout->vms[a].rule_count > 0)
        delta += layout_soft_cost_at(layout, a, of_b) - layout_soft_cost_at(layout, a, of_a);
    if (layout->vms[b].rule_count > 0)
        delta += layout_soft_cost_at(layout, b, of_a) - layout_soft_cost_at(layout, b, of_b);
    return delta;
}

double layout_pressure(const struct layout *layout, uint32_t h, uint32_t vm)
{
    const struct host *host = &layout->hosts[h];
    struct change change = {0};
    if (vm != LAYOUT_NONE)
        change = arrival(layout, vm, h);
    double load = (host->demand + change.demand) / host->given.cores;
    double total = (double)host->given.memory_bytes;
    int64_t least = host->free + change.free;
    if (host->unpromised + change.unpromised < least)
        least = host->unpromised + change.unpromised;
    double used = total > 0 ? 1 - (double)least / total : 1;
    return load > used ? load : used;
}
