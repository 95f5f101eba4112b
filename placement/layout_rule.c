/* What rules and hosts say to a VM's coming: hard rules forbid, soft ones cost. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "placement/layout_inside.h"

static uint32_t slot_of(const struct layout *layout, const struct rule *rule, uint32_t host)
{
    return rule->given.kind == LAYOUT_SPREAD ? layout->hosts[host].domain : host;
}

void layout_count_rules(struct layout *layout, uint32_t v, uint32_t host, int by)
{
    const struct vm *vm = &layout->vms[v];
    for (uint32_t i = 0; i < vm->rule_count; i++) {
        struct rule *rule = &layout->rules[layout->rule_lists[vm->first_rule + i]];
        uint16_t *count = &rule->counts[slot_of(layout, rule, host)];
        *count = (uint16_t)(*count + by);
    }
}

static bool names_host(const struct rule *rule, uint32_t host)
{
    return rule->host_bits[host / 8] & (1u << host % 8);
}

/* Members of an affinity that are neither on `host` nor where `vm` is now (those can follow). */
static uint32_t members_elsewhere(const struct layout *layout, const struct rule *rule, uint32_t vm,
                                  uint32_t host, bool they_follow)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < rule->given.vm_count; i++) {
        uint32_t at = layout->vms[rule->vms[i]].given.host;
        bool follows = they_follow && at == layout->vms[vm].given.host;
        count += rule->vms[i] != vm && at != LAYOUT_NONE && at != host && !follows;
    }
    return count;
}

/* How far over its rule is the VM with all others where they are? 0: it keeps it. */
static uint32_t breach(const struct layout *layout, const struct rule *rule, uint32_t vm,
                       uint32_t host, bool they_follow)
{
    uint32_t at = layout->vms[vm].given.host;
    switch (rule->given.kind) {
    case LAYOUT_AFFINITY:
        return members_elsewhere(layout, rule, vm, host, they_follow);
    case LAYOUT_ANTI_AFFINITY:
    case LAYOUT_SPREAD: {
        uint32_t slot = slot_of(layout, rule, host);
        bool is_in = at != LAYOUT_NONE && slot_of(layout, rule, at) == slot;
        uint32_t count = rule->counts[slot] + !is_in;
        return count > rule->given.most ? count - rule->given.most : 0;
    }
    case LAYOUT_PIN:
        return !names_host(rule, host);
    case LAYOUT_EXCLUDE:
        return names_host(rule, host);
    case LAYOUT_RULE_KIND_COUNT:
        break;
    }
    return 0;
}

double layout_soft_cost_at(const struct layout *layout, uint32_t v, uint32_t host)
{
    const struct vm *vm = &layout->vms[v];
    double cost = 0;
    for (uint32_t i = 0; host != LAYOUT_NONE && i < vm->rule_count; i++) {
        const struct rule *rule = &layout->rules[layout->rule_lists[vm->first_rule + i]];
        if (!rule->given.hard && !rule->is_ignored)
            cost += rule->given.weight * breach(layout, rule, v, host, false);
    }
    return cost;
}

/* Every breach once, so that it changes by just what layout_soft_cost_at says of a move: pairs of
 * an affinity that are apart, and of a slot that is n members too full 1 + 2 + ... + n. */
static double soft_breaches(const struct layout *layout, const struct rule *rule)
{
    double breaches = 0;
    uint32_t slots = rule->given.kind == LAYOUT_SPREAD ? layout->domain_count : layout->host_count;
    if (rule->given.kind == LAYOUT_ANTI_AFFINITY || rule->given.kind == LAYOUT_SPREAD) {
        for (uint32_t i = 0; i < slots; i++) {
            double over = (double)rule->counts[i] - rule->given.most;
            breaches += over > 0 ? over * (over + 1) / 2 : 0;
        }
        return breaches;
    }
    for (uint32_t i = 0; i < rule->given.vm_count; i++) {
        uint32_t host = layout->vms[rule->vms[i]].given.host;
        if (host != LAYOUT_NONE)
            breaches += breach(layout, rule, rule->vms[i], host, false);
    }
    return rule->given.kind == LAYOUT_AFFINITY ? breaches / 2 : breaches;
}

double layout_soft_cost(const struct layout *layout)
{
    double cost = 0;
    for (uint32_t r = 0; r < layout->rule_count; r++) {
        const struct rule *rule = &layout->rules[r];
        if (!rule->given.hard && !rule->is_ignored)
            cost += rule->given.weight * soft_breaches(layout, rule);
    }
    return cost;
}

static uint32_t forbidding_rule(const struct layout *layout, uint32_t v, uint32_t host,
                                bool they_follow)
{
    const struct vm *vm = &layout->vms[v];
    for (uint32_t i = 0; i < vm->rule_count; i++) {
        uint32_t r = layout->rule_lists[vm->first_rule + i];
        const struct rule *rule = &layout->rules[r];
        if (rule->given.hard && !rule->is_ignored && breach(layout, rule, v, host, they_follow) > 0)
            return r;
    }
    return LAYOUT_NONE;
}

uint32_t layout_broken_rule(const struct layout *layout, uint32_t vm)
{
    uint32_t host = layout->vms[vm].given.host;
    return host == LAYOUT_NONE ? LAYOUT_NONE : forbidding_rule(layout, vm, host, false);
}

bool layout_breaks(const struct layout *layout, uint32_t vm, uint32_t rule)
{
    uint32_t host = layout->vms[vm].given.host;
    return host != LAYOUT_NONE && breach(layout, &layout->rules[rule], vm, host, false) > 0;
}

bool layout_has_company(const struct layout *layout, uint32_t v)
{
    const struct vm *vm = &layout->vms[v];
    for (uint32_t i = 0; i < vm->rule_count; i++) {
        const struct rule *rule = &layout->rules[layout->rule_lists[vm->first_rule + i]];
        if (rule->given.hard && !rule->is_ignored && rule->given.kind == LAYOUT_AFFINITY &&
            rule->given.vm_count > 1)
            return true;
    }
    return false;
}

/* Memory for those of its affinity groups that would have to follow. */
static int64_t followers_bytes(const struct layout *layout, uint32_t v, uint32_t host)
{
    const struct vm *vm = &layout->vms[v];
    int64_t bytes = 0;
    for (uint32_t i = 0; vm->given.host != LAYOUT_NONE && i < vm->rule_count; i++) {
        const struct rule *rule = &layout->rules[layout->rule_lists[vm->first_rule + i]];
        if (!rule->given.hard || rule->is_ignored || rule->given.kind != LAYOUT_AFFINITY)
            continue;
        for (uint32_t m = 0; m < rule->given.vm_count; m++) {
            uint32_t other = rule->vms[m];
            if (other != v && layout->vms[other].given.host == vm->given.host)
                bytes += layout_held_bytes(layout, other, host);
        }
    }
    return bytes;
}

enum layout_obstacle layout_judge(const struct layout *layout, uint32_t v, uint32_t h,
                                  uint32_t *ret_rule)
{
    const struct vm *vm = &layout->vms[v];
    const struct host *host = &layout->hosts[h];
    if (vm->given.host == h)
        return LAYOUT_SAME_HOST;
    if (!host->given.up)
        return LAYOUT_HOST_DOWN;
    if (!host->given.kvm)
        return LAYOUT_HOST_KVM;
    if (vm->given.baseline != LAYOUT_NONE && !(host->given.baselines & 1u << vm->given.baseline))
        return LAYOUT_CPU_LACKS;
    if (vm->given.barred && vm->given.barred[h / 8] & 1u << h % 8)
        return LAYOUT_BARRED;
    if (host->given.cordoned)
        return LAYOUT_CORDONED;
    int64_t followers = 0;
    if (vm->rule_count > 0) {
        uint32_t rule = forbidding_rule(layout, v, h, true);
        if (rule != LAYOUT_NONE) {
            if (ret_rule)
                *ret_rule = rule;
            return LAYOUT_RULE;
        }
        followers = followers_bytes(layout, v, h);
    }
    if (host->free < layout_held_bytes(layout, v, h) + followers ||
        host->unpromised < (int64_t)vm->given.memory_bytes + followers)
        return LAYOUT_MEMORY;
    return LAYOUT_FITS;
}

/* ---- words ------------------------------------------------------------------------------------
 */

static const char *other_member(const struct layout *layout, const struct rule *rule, uint32_t vm,
                                uint32_t host)
{
    for (uint32_t i = 0; i < rule->given.vm_count; i++) {
        uint32_t other = rule->vms[i], at = layout->vms[other].given.host;
        if (other != vm && at != LAYOUT_NONE &&
            slot_of(layout, rule, at) == slot_of(layout, rule, host))
            return layout->vms[other].given.name;
    }
    return "another";
}

static void rule_words(const struct layout *layout, const struct rule *rule, uint32_t vm,
                       uint32_t h, char *ret_text, size_t size)
{
    const struct layout_host *host = &layout->hosts[h].given;
    const char *id = rule->given.id;
    switch (rule->given.kind) {
    case LAYOUT_AFFINITY:
        (void)snprintf(ret_text, size, "rule %s keeps %s with VMs that are not on %s", id,
                       layout->vms[vm].given.name, host->name);
        break;
    case LAYOUT_ANTI_AFFINITY:
        (void)snprintf(ret_text, size, "%s has %s, which rule %s keeps apart from it", host->name,
                       other_member(layout, rule, vm, h), id);
        break;
    case LAYOUT_SPREAD:
        (void)snprintf(ret_text, size, "the failure domain '%s' of %s has %u of rule %s already",
                       host->domain[0] ? host->domain : host->name, host->name,
                       rule->counts[layout->hosts[h].domain], id);
        break;
    case LAYOUT_PIN:
        (void)snprintf(ret_text, size, "rule %s allows other hosts than %s only", id, host->name);
        break;
    case LAYOUT_EXCLUDE:
        (void)snprintf(ret_text, size, "rule %s keeps it off %s", id, host->name);
        break;
    case LAYOUT_RULE_KIND_COUNT:
        break;
    }
}

#define MIB_OF(bytes) ((unsigned long long)((bytes) >> 20))

void layout_words_of_bars(struct layout *layout, layout_bar_fn *words, void *data)
{
    layout->bar_words = words;
    layout->bar_data = data;
}

enum gw_code layout_obstacle_words(const struct layout *layout, uint32_t v, uint32_t h,
                                   char *ret_text, size_t size)
{
    const struct layout_host *host = &layout->hosts[h].given;
    const struct layout_vm *vm = &layout->vms[v].given;
    uint32_t rule = LAYOUT_NONE;
    switch (layout_judge(layout, v, h, &rule)) {
    case LAYOUT_FITS:
        (void)snprintf(ret_text, size, "%s fits", host->name);
        return GW_NONE;
    case LAYOUT_SAME_HOST:
        (void)snprintf(ret_text, size, "%s already runs on %s", vm->name, host->name);
        return GW_SAME_HOST;
    case LAYOUT_HOST_DOWN:
        (void)snprintf(ret_text, size, "the agent of %s does not answer", host->name);
        return GW_HOST_DOWN;
    case LAYOUT_HOST_KVM:
        (void)snprintf(ret_text, size, "%s has no usable KVM: %s", host->name,
                       host->kvm_missing ? host->kvm_missing : "no reason was told");
        return GW_HOST_KVM;
    case LAYOUT_CPU_LACKS:
        (void)snprintf(ret_text, size, "%s lacks CPU features of baseline %s", host->name,
                       layout->baselines[vm->baseline]);
        return GW_CPU_COMPAT;
    case LAYOUT_BARRED:
        if (layout->bar_words)
            return layout->bar_words(layout->bar_data, v, h, ret_text, size);
        (void)snprintf(ret_text, size, "%s lacks something that %s needs", host->name, vm->name);
        return GW_NO_HOST_FITS;
    case LAYOUT_CORDONED:
        (void)snprintf(ret_text, size, "%s is cordoned", host->name);
        return GW_HOST_CORDONED;
    case LAYOUT_RULE:
        rule_words(layout, &layout->rules[rule], v, h, ret_text, size);
        return GW_RULE_FORBIDS;
    case LAYOUT_MEMORY:
        (void)snprintf(ret_text, size, "%s has %llu MiB of memory free, %llu are needed",
                       host->name, MIB_OF(layout_free_bytes(layout, h)),
                       MIB_OF(vm->memory_bytes + LAYOUT_OVERHEAD_BYTES));
        return GW_NO_MEMORY;
    }
    return GW_INTERNAL;
}
