#include "cli/pool_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/vm_spec_file.h"

/* As the coordinator takes it while nobody has told. */
#define LOAD_UNKNOWN_A_VCPU 25
#define SOFT_WEIGHT 0.02

static const char *const kinds[LAYOUT_RULE_KIND_COUNT] = {
    [LAYOUT_AFFINITY] = "affinity", [LAYOUT_ANTI_AFFINITY] = "anti-affinity",
    [LAYOUT_PIN] = "pin",           [LAYOUT_EXCLUDE] = "exclude",
    [LAYOUT_SPREAD] = "spread",
};

int pool_file_parse(const char *text, size_t count, const char *name, Godwit__PoolFile **ret_pool,
                    struct fault *fault)
{
    return vm_spec_file_bind(text, count, name, &godwit__pool_file__descriptor, ret_pool, fault);
}

int pool_file_read(const char *path, Godwit__PoolFile **ret_pool, struct fault *fault)
{
    return vm_spec_file_read_as(path, &godwit__pool_file__descriptor, ret_pool, fault);
}

/* ---- words that name many ---------------------------------------------------------------------
 */

static bool matches(const char *pattern, size_t length, const char *name)
{
    if (length > 0 && pattern[length - 1] == '*')
        return strncmp(pattern, name, length - 1) == 0;
    return strlen(name) == length && strncmp(pattern, name, length) == 0;
}

/* Does one of the words between the commas say yes? */
static bool any_word(const char *words,
                     bool (*says)(const void *object, const char *word, size_t length),
                     const void *object)
{
    for (const char *word = words; word && word[0];) {
        size_t length = strcspn(word, ",");
        if (length > 0 && says(object, word, length))
            return true;
        word += length + (word[length] == ',');
    }
    return false;
}

static bool is_vm(const void *object, const char *word, size_t length)
{
    return matches(word, length, ((const Godwit__PoolFileVm *)object)->name);
}

struct wanted_label {
    const char *text;
    size_t length;
};

static bool is_label(const void *object, const char *word, size_t length)
{
    const struct wanted_label *label = object;
    return length == label->length && strncmp(word, label->text, length) == 0;
}

static bool is_host(const void *object, const char *word, size_t length)
{
    const Godwit__PoolFileHost *host = object;
    const struct wanted_label label = {word, length};
    if (!memchr(word, '=', length))
        return matches(word, length, host->name);
    return any_word(host->labels, is_label, &label);
}

/* ---- building ---------------------------------------------------------------------------------
 */

static int add_host(struct layout *layout, const Godwit__PoolFileHost *host,
                    const Godwit__PoolFile *pool, struct fault *fault)
{
    uint64_t used = 0;
    if (!host->name || !host->name[0] || host->cpus == 0 || host->memory == 0)
        return fault_set(fault, ERR_INVALID, "host '%.63s' needs a name, cpus and memory",
                         host->name ? host->name : "");
    if (layout_find_host(layout, host->name) != LAYOUT_NONE)
        return fault_set(fault, ERR_INVALID, "there are two hosts %.63s", host->name);
    for (size_t i = 0; i < pool->n_vms; i++) {
        const Godwit__PoolFileVm *vm = pool->vms[i];
        if (vm->host && strcmp(vm->host, host->name) == 0)
            used += (vm->has_used ? vm->used : vm->memory) + LAYOUT_OVERHEAD_BYTES;
    }
    if (used > host->memory)
        return fault_set(fault, ERR_INVALID, "%.63s has less memory than its VMs use", host->name);
    struct layout_host added = {.name = host->name,
                                .domain = host->domain ? host->domain : "",
                                .up = true,
                                .kvm = true,
                                .cordoned = host->cordoned,
                                .baselines = UINT32_MAX,
                                .cores = host->cpus,
                                .memory_bytes = host->memory,
                                .memory_free_bytes = host->memory - used};
    if (host->baseline && host->baseline[0]) { /* it gives this and what was named before it */
        uint32_t best;
        int r = layout_add_baseline(layout, host->baseline, &best, fault);
        if (r < 0)
            return r;
        added.baselines = best == 31 ? UINT32_MAX : (1u << (best + 1)) - 1;
    }
    return layout_add_host(layout, &added, fault);
}

static int add_vm(struct layout *layout, const Godwit__PoolFileVm *vm, struct fault *fault)
{
    uint32_t vcpus = vm->has_vcpus ? vm->vcpus : 1;
    if (!vm->name || !vm->name[0] || vm->memory == 0 || vcpus == 0)
        return fault_set(fault, ERR_INVALID, "VM '%.63s' needs a name, vcpus and memory",
                         vm->name ? vm->name : "");
    if (layout_find_vm(layout, vm->name) != LAYOUT_NONE)
        return fault_set(fault, ERR_INVALID, "there are two VMs %.63s", vm->name);
    struct layout_vm added = {
        .name = vm->name,
        .host = vm->host && vm->host[0] ? layout_find_host(layout, vm->host) : LAYOUT_NONE,
        .baseline = LAYOUT_NONE,
        .vcpus = vcpus,
        .demand = (vm->has_load ? vm->load : LOAD_UNKNOWN_A_VCPU * vcpus) / 100.0,
        .memory_bytes = vm->memory,
        .populated_bytes = vm->has_used ? vm->used : vm->memory,
        .dirty_bytes_per_s = (double)vm->writes};
    if (vm->host && vm->host[0] && added.host == LAYOUT_NONE)
        return fault_set(fault, ERR_INVALID, "%.63s is on %.63s, which is no host of the file",
                         vm->name, vm->host);
    if (vm->baseline && vm->baseline[0]) {
        int r = layout_add_baseline(layout, vm->baseline, &added.baseline, fault);
        if (r < 0)
            return r;
    }
    return layout_add_vm(layout, &added, fault);
}

static int add_rule(struct layout *layout, const Godwit__PoolFileRule *rule,
                    const Godwit__PoolFile *pool, struct fault *fault)
{
    AUTO_FREE uint32_t *vms = calloc(pool->n_vms + 1, sizeof *vms);
    AUTO_FREE uint32_t *hosts = calloc(pool->n_hosts + 1, sizeof *hosts);
    if (!vms || !hosts)
        return fault_set(fault, ERR_NOMEM, "no memory for the rules of a pool");
    struct layout_rule added = {.id = rule->id,
                                .kind = LAYOUT_RULE_KIND_COUNT,
                                .hard = !rule->soft,
                                .most = rule->most,
                                .weight = SOFT_WEIGHT,
                                .vms = vms,
                                .hosts = hosts};
    for (enum layout_rule_kind kind = 0; rule->kind && kind < LAYOUT_RULE_KIND_COUNT; kind++) {
        if (strcmp(kinds[kind], rule->kind) == 0)
            added.kind = kind;
    }
    if (!rule->id || !rule->id[0] || added.kind == LAYOUT_RULE_KIND_COUNT)
        return fault_set(fault, ERR_INVALID,
                         "rule '%.63s' needs an id and a kind: affinity, anti-affinity, pin, "
                         "exclude or spread",
                         rule->id ? rule->id : "");
    for (size_t i = 0; i < pool->n_vms; i++) {
        if (any_word(rule->vms, is_vm, pool->vms[i]))
            vms[added.vm_count++] = (uint32_t)i;
    }
    for (size_t i = 0; i < pool->n_hosts; i++) {
        if (any_word(rule->hosts, is_host, pool->hosts[i]))
            hosts[added.host_count++] = (uint32_t)i;
    }
    bool takes_hosts = added.kind == LAYOUT_PIN || added.kind == LAYOUT_EXCLUDE;
    if (added.vm_count == 0 || (takes_hosts && added.host_count == 0))
        return fault_set(fault, ERR_INVALID, "rule %.63s names no %s of the file", rule->id,
                         added.vm_count == 0 ? "VM" : "host");
    return layout_add_rule(layout, &added, fault);
}

int pool_file_layout(const Godwit__PoolFile *pool, enum layout_goal goal,
                     struct layout **ret_layout, struct fault *fault)
{
    struct layout *layout = NULL;
    int r = layout_new(&layout, fault);
    for (size_t i = 0; r == 0 && i < pool->n_hosts; i++)
        r = add_host(layout, pool->hosts[i], pool, fault);
    for (size_t i = 0; r == 0 && i < pool->n_vms; i++)
        r = add_vm(layout, pool->vms[i], fault);
    for (size_t i = 0; r == 0 && i < pool->n_rules; i++)
        r = add_rule(layout, pool->rules[i], pool, fault);
    if (r == 0)
        r = layout_seal(layout, goal, fault);
    if (r < 0)
        layout = layout_free(layout);
    *ret_layout = layout;
    return r;
}
