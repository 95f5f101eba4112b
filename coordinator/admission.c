#include "coordinator/admission.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_layout.h"
#include "coordinator/words.h"
#include "placement/choose.h"
#include "proto/vm_spec.h"

/* Up to this many hosts every pair is tried, beyond the sets are too many. */
enum { DEAD_MAX = 8, PAIRS_HOSTS_MAX = 32 };

struct tenant { /* what HA protects */
    uint32_t vm;
    uint32_t host; /* where it is; LAYOUT_NONE: nowhere yet */
    uint64_t memory_bytes;
};

struct picture { /* the pool as it would be with what is asked */
    struct cluster_layout view;
    struct tenant *tenants; /* owned, the largest first */
    size_t tenant_count;
    struct tenant *fallen; /* owned; all VMs of the hosts that are tried, protected or not */
};

struct outcome { /* the first set of hosts whose death something does not survive */
    uint32_t dead[DEAD_MAX];
    unsigned dead_count;
    uint32_t victim; /* LAYOUT_NONE: all find room */
};

static void picture_deinit(struct picture *picture)
{
    cluster_layout_deinit(&picture->view);
    free(picture->tenants);
    free(picture->fallen);
}

static const struct layout_vm *vm_of(const struct picture *picture, uint32_t vm)
{
    return layout_vm(picture->view.layout, vm);
}

static int larger_first(const void *a, const void *b)
{
    const struct tenant *x = a, *y = b;
    if (x->memory_bytes != y->memory_bytes)
        return x->memory_bytes > y->memory_bytes ? -1 : 1;
    return x->vm < y->vm ? -1 : x->vm > y->vm; /* a judgement is repeatable */
}

/* A VM whose disk is on one host only is lost with it for as long as that host is away: no room
 * elsewhere would help it. */
static bool counts(const struct cluster_vm *vm, const struct admission_ask *ask)
{
    bool is_protected =
        vm == ask->vm ? ask->is_protected : cluster_ha_protects(vm) && vm->own.phase != OWN_STOPPED;
    return is_protected && !vm_spec_tying_disk(vm->spec);
}

static struct tenant tenant_of(const struct layout *layout, uint32_t vm)
{
    const struct layout_vm *of = layout_vm(layout, vm);
    return (struct tenant){.vm = vm, .host = of->host, .memory_bytes = of->memory_bytes};
}

/* Control memory is small; without it there is no judging, so nothing is refused. */
static bool picture_init(struct picture *picture, struct cluster *cluster,
                         const struct admission_ask *ask, struct cluster_now now)
{
    struct problem ignored;
    *picture = (struct picture){.tenants = calloc(cluster->vm_count + 1, sizeof *picture->tenants),
                                .fallen = calloc(cluster->vm_count + 1, sizeof *picture->fallen)};
    if (!picture->tenants || !picture->fallen ||
        cluster_layout_new(&picture->view, cluster, now, LAYOUT_STALL, true, &ignored) != 0)
        return false;
    struct layout *layout = picture->view.layout;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const struct cluster_vm *vm = cluster->vms[i];
        if (vm == ask->vm && ask->host)
            layout_move(layout, (uint32_t)i, cluster_layout_host(cluster, ask->host));
        if (counts(vm, ask))
            picture->tenants[picture->tenant_count++] = tenant_of(layout, (uint32_t)i);
    }
    qsort(picture->tenants, picture->tenant_count, sizeof *picture->tenants, larger_first);
    return true;
}

static bool is_dead(const struct outcome *outcome, uint32_t host)
{
    for (unsigned i = 0; i < outcome->dead_count; i++) {
        if (outcome->dead[i] == host)
            return true;
    }
    return false;
}

/* All of a dead host's VMs are gone, and what is protected is placed anew, one after the other, by
 * the rules. Sets the victim; the layout is as before afterwards. */
static bool survives(struct picture *picture, struct outcome *outcome)
{
    struct layout *layout = picture->view.layout;
    size_t fallen = 0;
    for (unsigned i = 0; i < outcome->dead_count; i++) {
        uint32_t host = outcome->dead[i], vm;
        layout_set_up(layout, host, false);
        while ((vm = layout_first_vm(layout, host)) != LAYOUT_NONE) {
            picture->fallen[fallen++] = tenant_of(layout, vm);
            layout_move(layout, vm, LAYOUT_NONE);
        }
    }
    outcome->victim = LAYOUT_NONE;
    for (size_t i = 0; i < picture->tenant_count && outcome->victim == LAYOUT_NONE; i++) {
        const struct tenant *tenant = &picture->tenants[i];
        if (!is_dead(outcome, tenant->host))
            continue;
        uint32_t to = choose_host(layout, tenant->vm);
        if (to == LAYOUT_NONE)
            outcome->victim = tenant->vm;
        else
            layout_move(layout, tenant->vm, to);
    }
    for (size_t i = fallen; i-- > 0;)
        layout_move(layout, picture->fallen[i].vm, picture->fallen[i].host);
    for (unsigned i = 0; i < outcome->dead_count; i++)
        layout_set_up(layout, outcome->dead[i], true);
    return outcome->victim == LAYOUT_NONE;
}

static uint64_t protected_bytes(const struct picture *picture, uint32_t host)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < picture->tenant_count; i++)
        bytes += picture->tenants[i].host == host ? picture->tenants[i].memory_bytes : 0;
    return bytes;
}

static bool may_die(const struct picture *picture, uint32_t host)
{
    return layout_host(picture->view.layout, host)->up;
}

/* Those that carry most. */
static void worst_of_many(struct picture *picture, unsigned reserve, struct outcome *outcome)
{
    uint32_t count = layout_host_count(picture->view.layout);
    while (outcome->dead_count < reserve) {
        uint32_t worst = LAYOUT_NONE;
        for (uint32_t i = 0; i < count; i++) {
            if (may_die(picture, i) && !is_dead(outcome, i) &&
                (worst == LAYOUT_NONE ||
                 protected_bytes(picture, i) > protected_bytes(picture, worst)))
                worst = i;
        }
        if (worst == LAYOUT_NONE)
            return; /* nobody is left to survive it */
        outcome->dead[outcome->dead_count++] = worst;
    }
    (void)survives(picture, outcome);
}

static void each_alone(struct picture *picture, struct outcome *outcome)
{
    uint32_t count = layout_host_count(picture->view.layout);
    for (uint32_t i = 0; i < count; i++) {
        if (!may_die(picture, i) || protected_bytes(picture, i) == 0)
            continue;
        outcome->dead[0] = i;
        outcome->dead_count = 1;
        if (!survives(picture, outcome))
            return;
    }
}

static void each_pair(struct picture *picture, struct outcome *outcome)
{
    uint32_t count = layout_host_count(picture->view.layout);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t n = i + 1; n < count; n++) {
            if (!may_die(picture, i) || !may_die(picture, n))
                continue;
            outcome->dead[0] = i;
            outcome->dead[1] = n;
            outcome->dead_count = 2;
            if (!survives(picture, outcome))
                return;
        }
    }
}

static struct outcome try_deaths(struct picture *picture, unsigned reserve)
{
    struct outcome outcome = {.victim = LAYOUT_NONE};
    if (reserve == 0 || picture->tenant_count == 0)
        return outcome;
    if (reserve == 1)
        each_alone(picture, &outcome);
    else if (reserve == 2 && layout_host_count(picture->view.layout) <= PAIRS_HOSTS_MAX)
        each_pair(picture, &outcome);
    else
        worst_of_many(picture, reserve < DEAD_MAX ? reserve : DEAD_MAX, &outcome);
    return outcome;
}

/* ret_lacks "": it holds. */
static void judge(struct cluster *cluster, const struct admission_ask *ask, struct cluster_now now,
                  char *ret_lacks, size_t size)
{
    struct picture picture;
    char hosts[PROBLEM_HINT_SIZE] = "";
    struct outcome outcome = {.victim = LAYOUT_NONE};
    unsigned reserve = cluster_ha_reserve(cluster);
    ret_lacks[0] = '\0';
    if (reserve > 0 && picture_init(&picture, cluster, ask, now))
        outcome = try_deaths(&picture, reserve);
    if (outcome.victim != LAYOUT_NONE) {
        for (unsigned i = 0; i < outcome.dead_count; i++) {
            size_t used = strlen(hosts);
            (void)snprintf(hosts + used, sizeof hosts - used, "%s%s", i ? " and " : "",
                           layout_host(picture.view.layout, outcome.dead[i])->name);
        }
        (void)snprintf(ret_lacks, size, "%s would find no room if %s died",
                       vm_of(&picture, outcome.victim)->name, hosts);
    }
    if (reserve > 0)
        picture_deinit(&picture);
}

bool admission_holds(struct cluster *cluster, struct cluster_now now, char *ret_lacks, size_t size)
{
    const struct admission_ask nothing = {0};
    judge(cluster, &nothing, now, ret_lacks, size);
    return ret_lacks[0] == '\0';
}

static int refuse(const struct cluster *cluster, const char *lacks, const char *other,
                  struct problem *problem)
{
    unsigned reserve = cluster_ha_reserve(cluster);
    (void)problem_set(problem, GW_RESERVE, "%s", lacks);
    problem_detail(problem, "HA keeps room for the death of %u %s", reserve,
                   reserve == 1 ? "host" : "hosts");
    problem_hint(problem, "%sgodwit ha reserve 0   (gives that promise up)", other);
    return -1;
}

int admission_judge(struct cluster *cluster, const struct admission_ask *ask,
                    struct cluster_now now, struct problem *problem)
{
    char lacks[PROBLEM_HINT_SIZE], before[PROBLEM_HINT_SIZE];
    judge(cluster, ask, now, lacks, sizeof lacks);
    if (!lacks[0] || !admission_holds(cluster, now, before, sizeof before))
        return 0;
    return refuse(cluster, lacks, "", problem);
}

int admission_judge_changed(struct cluster *cluster, bool held, struct cluster_now now,
                            struct problem *problem)
{
    char lacks[PROBLEM_HINT_SIZE];
    if (!held || admission_holds(cluster, now, lacks, sizeof lacks))
        return 0;
    return refuse(cluster, lacks, "--soft, or: ", problem);
}
