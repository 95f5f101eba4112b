/* Who is where and what that costs: hosts, VMs, loads and rules as numbers, changed move by move.
 *
 * Flow:   coordinator, `godwit simulate` -> [layout] <- choose, evacuate, balance
 * Thread: any one; pure. Allocates while it is built, never while it is asked.
 *
 * A move is tried by asking what it would change (two hosts, a few sums), never by counting the
 * pool anew, so a candidate costs some ten nanoseconds whatever the pool's size. What is asked of a
 * state is asked of the state that the plan has reached by then: whoever plans steps makes them
 * here, in their order, and so no rule is broken and no memory is short on the way.
 */
#ifndef GODWIT_PLACEMENT_LAYOUT_H
#define GODWIT_PLACEMENT_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/gw_code.h"

struct fault;
struct layout;

enum {
    LAYOUT_HOSTS_MAX = 16384,
    LAYOUT_VMS_MAX = 131072,
    LAYOUT_RULES_MAX = 4096,
    LAYOUT_BASELINES_MAX = 32,
    LAYOUT_METRICS = 4,
    LAYOUT_WORDS_SIZE = 256,
};
#define LAYOUT_NONE UINT32_MAX /* no host, no rule, any baseline */
/* What a VM needs beside its guest memory: its process, page tables, buffers of a move. */
#define LAYOUT_OVERHEAD_BYTES (UINT64_C(48) << 20)

struct layout_host {
    const char *name;   /* borrowed, as all texts here: must outlive the layout */
    const char *domain; /* of failure; "": one of its own */
    const char *kvm_missing;
    bool up, cordoned, kvm;
    uint32_t baselines; /* bit n: it gives the layout's baseline n */
    double cores;       /* that VMs can have: what others use is taken off */
    uint64_t memory_bytes;
    uint64_t memory_free_bytes; /* measured with its VMs running; promises taken off */
};

struct layout_vm {
    const char *name;
    uint32_t host;     /* LAYOUT_NONE: runs nowhere yet */
    uint32_t baseline; /* LAYOUT_NONE: any */
    uint32_t vcpus;
    double demand; /* cores that it uses and waits for */
    uint64_t memory_bytes, populated_bytes;
    double dirty_bytes_per_s;
    const char *fixed; /* why it cannot be moved now; NULL: it can */
    /* Bit n: host n lacks something else that it needs (a network); borrowed; NULL: none does. */
    const uint8_t *barred;
};

enum layout_rule_kind {                       /* stored by name */
                        LAYOUT_AFFINITY,      /* members on one host */
                        LAYOUT_ANTI_AFFINITY, /* at most `most` members on a host */
                        LAYOUT_PIN,           /* members only on these hosts */
                        LAYOUT_EXCLUDE,       /* members never on these hosts */
                        LAYOUT_SPREAD,        /* at most `most` members in a failure domain */
                        LAYOUT_RULE_KIND_COUNT
};

struct layout_rule {
    const char *id;
    enum layout_rule_kind kind;
    bool hard;
    uint32_t most;         /* 0: as few as can be */
    double weight;         /* soft: stall seconds a second that a breach is worth */
    const uint32_t *vms;   /* copied, as is the next */
    const uint32_t *hosts; /* of pin and exclude */
    uint32_t vm_count, host_count;
};

enum layout_goal {
    LAYOUT_STALL, /* seconds a second that guests wait for CPU or memory */
    LAYOUT_EVEN,  /* sum of standard deviations over hosts: free memory, vCPUs a core, load, use */
};

int layout_new(struct layout **ret_layout, struct fault *fault);
struct layout *layout_free(struct layout *layout);
/* Build: hosts, then VMs, then rules, then seal. Limits and nonsense are failures. */
int layout_add_baseline(struct layout *layout, const char *name, uint32_t *ret_index,
                        struct fault *fault); /* finds one that is known */
int layout_add_host(struct layout *layout, const struct layout_host *host, struct fault *fault);
int layout_add_vm(struct layout *layout, const struct layout_vm *vm, struct fault *fault);
int layout_add_rule(struct layout *layout, const struct layout_rule *rule, struct fault *fault);
/* What was measured after its VMs were known; before the seal. */
void layout_set_free(struct layout *layout, uint32_t host, uint64_t memory_free_bytes);
int layout_seal(struct layout *layout, enum layout_goal goal, struct fault *fault);

uint32_t layout_host_count(const struct layout *layout);
uint32_t layout_vm_count(const struct layout *layout);
uint32_t layout_rule_count(const struct layout *layout);
const struct layout_host *layout_host(const struct layout *layout, uint32_t host);
const struct layout_vm *layout_vm(const struct layout *layout, uint32_t vm); /* .host: by now */
const struct layout_rule *layout_rule(const struct layout *layout, uint32_t rule);
uint32_t layout_origin(const struct layout *layout, uint32_t vm); /* where it was when sealed */
uint32_t layout_find_host(const struct layout *layout, const char *name);
uint32_t layout_find_vm(const struct layout *layout, const char *name);
/* The VMs of a host: first, then next, until LAYOUT_NONE. */
uint32_t layout_first_vm(const struct layout *layout, uint32_t host);
uint32_t layout_next_vm(const struct layout *layout, uint32_t vm);
void layout_cordon(struct layout *layout, uint32_t host, bool cordoned);
void layout_fix(struct layout *layout, uint32_t vm, const char *why); /* it cannot be moved now */
/* For plans about what was not so when the layout was built: a host that is to die or come back, a
 * rule that is to be relaxed. */
void layout_set_up(struct layout *layout, uint32_t host, bool up);
void layout_ignore_rule(struct layout *layout, uint32_t rule, bool ignored);

/* ---- may it? ---- */
enum layout_obstacle {
    LAYOUT_FITS,
    LAYOUT_SAME_HOST,
    LAYOUT_HOST_DOWN,
    LAYOUT_HOST_KVM,
    LAYOUT_CPU_LACKS,
    LAYOUT_BARRED, /* see layout_words_of_bars */
    LAYOUT_CORDONED,
    LAYOUT_RULE,
    LAYOUT_MEMORY,
};
/* Of hard things only. A member of an affinity group may leave its group's host when the group can
 * follow: the others then fit nowhere else. `ret_rule` (may be NULL) names the rule of LAYOUT_RULE.
 */
enum layout_obstacle layout_judge(const struct layout *layout, uint32_t vm, uint32_t host,
                                  uint32_t *ret_rule);
/* Whoever barred hosts says why: a code and a sentence about the host. */
typedef enum gw_code layout_bar_fn(void *data, uint32_t vm, uint32_t host, char *ret_text,
                                   size_t size);
void layout_words_of_bars(struct layout *layout, layout_bar_fn *words, void *data);
/* The same as a sentence about the host, and the code an operator is told. */
enum gw_code layout_obstacle_words(const struct layout *layout, uint32_t vm, uint32_t host,
                                   char *ret_text, size_t size);
/* Which hard rule does the VM break where it is? LAYOUT_NONE: none. */
uint32_t layout_broken_rule(const struct layout *layout, uint32_t vm);
/* Does the VM, where it is, break just this rule, hard or soft? */
bool layout_breaks(const struct layout *layout, uint32_t vm, uint32_t rule);
bool layout_has_company(const struct layout *layout, uint32_t vm); /* of a hard affinity */
/* Bytes of memory that are free for VMs by now, at least 0. */
uint64_t layout_free_bytes(const struct layout *layout, uint32_t host);

/* ---- what would it change? ---- */
void layout_move(struct layout *layout, uint32_t vm, uint32_t host); /* LAYOUT_NONE: it stops */
double layout_score(const struct layout *layout); /* of the goal, soft rules in */
double layout_host_stall(const struct layout *layout, uint32_t host);
double layout_host_load(const struct layout *layout, uint32_t host); /* demand a core */
double layout_delta(const struct layout *layout, uint32_t vm, uint32_t host);
double layout_swap_delta(const struct layout *layout, uint32_t a, uint32_t b);
/* How full the host would be with the VM (LAYOUT_NONE: as it is): the fuller of CPU and memory. */
double layout_pressure(const struct layout *layout, uint32_t host, uint32_t vm);

#endif
