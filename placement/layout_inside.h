/* What a layout is made of, for the files of this noun.
 *
 * Flow:   layout, layout_rule
 * Thread: any one; pure.
 */
#ifndef GODWIT_PLACEMENT_LAYOUT_INSIDE_H
#define GODWIT_PLACEMENT_LAYOUT_INSIDE_H

#include "placement/layout.h"

struct host {
    struct layout_host given;
    uint32_t first_vm, domain;
    double demand, vcpus, use, stall;
    int64_t free, unpromised; /* memory: measured, and by the sizes of its VMs */
};

struct vm {
    struct layout_vm given;
    uint32_t origin, next, previous;
    uint32_t first_rule, rule_count; /* in rule_lists */
};

struct rule {
    struct layout_rule given;
    uint32_t *vms;
    uint8_t *host_bits;
    uint16_t *counts; /* members: a host, or with LAYOUT_SPREAD a domain */
    bool is_ignored;
};

struct layout {
    enum layout_goal goal;
    bool is_sealed;
    struct host *hosts;
    struct vm *vms;
    struct rule *rules;
    uint32_t *rule_lists;
    uint32_t host_count, host_room, vm_count, vm_room, rule_count, rule_room;
    uint32_t domain_count;
    layout_bar_fn *bar_words;
    void *bar_data;
    const char *baselines[LAYOUT_BASELINES_MAX];
    uint32_t baseline_count;
    double stall; /* of all hosts */
    double sums[LAYOUT_METRICS], squares[LAYOUT_METRICS];
    double counted; /* hosts in the sums */
};

/* What the VM takes of the host's measured memory: what it has where it was, else all it may use.
 */
static inline int64_t layout_held_bytes(const struct layout *layout, uint32_t v, uint32_t host)
{
    const struct vm *vm = &layout->vms[v];
    uint64_t bytes = host == vm->origin ? vm->given.populated_bytes : vm->given.memory_bytes;
    return (int64_t)(bytes + LAYOUT_OVERHEAD_BYTES);
}

void layout_recount(struct layout *layout);
void layout_count_rules(struct layout *layout, uint32_t vm, uint32_t host, int by);
double layout_soft_cost(const struct layout *layout);
double layout_soft_cost_at(const struct layout *layout, uint32_t vm, uint32_t host);

#endif
