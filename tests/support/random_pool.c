#include "tests/support/random_pool.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"

static char names[LAYOUT_VMS_MAX][8];

uint64_t random_pool_draw(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed * UINT64_C(0x2545F4914F6CDD1D) >> 20;
}

static double part(uint64_t *seed)
{
    return (double)(random_pool_draw(seed) % 1000000) / 1e6;
}

static void make_names(uint32_t count)
{
    assert(count <= LAYOUT_VMS_MAX);
    for (uint32_t i = 0; i < count; i++)
        (void)snprintf(names[i], sizeof names[i], "%06u", i % 1000000);
}

static void add_hosts(struct layout *layout, const struct random_pool *pool, uint64_t *seed,
                      uint64_t *total_memory, double *total_cores)
{
    static char domains[256][8];
    for (uint32_t h = 0; h < pool->hosts; h++) {
        bool is_big = random_pool_draw(seed) % 4 == 0;
        uint32_t domain = pool->domains ? h % pool->domains : 0;
        (void)snprintf(domains[domain % 256], sizeof domains[0], "d%u", domain % 256);
        struct layout_host host = {.name = names[h],
                                   .domain = pool->domains ? domains[domain % 256] : "",
                                   .up = true,
                                   .kvm = true,
                                   .cores = is_big ? 64 : 32,
                                   .memory_bytes = is_big ? GIB(512) : GIB(256)};
        *total_memory += host.memory_bytes;
        *total_cores += host.cores;
        host.memory_free_bytes = host.memory_bytes; /* set when the VMs are known */
        int r = layout_add_host(layout, &host, NULL);
        assert(r == 0);
    }
}

struct layout *random_pool_new(const struct random_pool *pool, enum layout_goal goal)
{
    uint64_t seed = pool->seed * UINT64_C(0x9E3779B97F4A7C15) | 1, memory = 0;
    double cores = 0;
    struct layout *layout;
    make_names(pool->vms > pool->hosts ? pool->vms : pool->hosts);
    int r = layout_new(&layout, NULL);
    assert(r == 0);
    for (int i = 0; i < 8; i++)
        (void)random_pool_draw(&seed);
    add_hosts(layout, pool, &seed, &memory, &cores);

    double *weights = calloc(pool->vms, sizeof *weights), total = 0, total_load = 0;
    int64_t *free_bytes = calloc(pool->hosts, sizeof *free_bytes);
    double *loads = calloc(pool->vms, sizeof *loads);
    assert(weights && free_bytes && loads);
    for (uint32_t v = 0; v < pool->vms; v++) {
        weights[v] = 1 + (double)(random_pool_draw(&seed) % 8);
        loads[v] = 0.05 + part(&seed) * part(&seed);
        total += weights[v];
        total_load += loads[v];
    }
    for (uint32_t h = 0; h < pool->hosts; h++)
        free_bytes[h] = (int64_t)layout_host(layout, h)->memory_bytes;
    for (uint32_t v = 0; v < pool->vms; v++) {
        uint64_t size =
            (uint64_t)(pool->fill * (double)memory * weights[v] / total) & ~(MIB(2) - 1);
        uint64_t need = size + LAYOUT_OVERHEAD_BYTES;
        uint32_t host = 0;
        bool placed = false;
        for (int i = 0; i < 200 && !placed; i++) {
            double at = part(&seed);
            if (part(&seed) < pool->skew)
                at = at * at;
            host = (uint32_t)(at * pool->hosts);
            placed = free_bytes[host] > (int64_t)need + (int64_t)GIB(2);
        }
        if (placed)
            free_bytes[host] -= (int64_t)need;
        struct layout_vm vm = {.name = names[v],
                               .host = placed ? host : LAYOUT_NONE,
                               .baseline = LAYOUT_NONE,
                               .vcpus = (uint32_t)weights[v] * 2,
                               .demand = pool->load * cores * loads[v] / total_load,
                               .memory_bytes = size,
                               .populated_bytes = size,
                               .dirty_bytes_per_s = 20e6 * part(&seed)};
        r = layout_add_vm(layout, &vm, NULL);
        assert(r == 0);
    }
    for (uint32_t i = 0; i < pool->rules; i++) {
        uint32_t members[3];
        for (int m = 0; m < 3; m++)
            members[m] = (uint32_t)(random_pool_draw(&seed) % pool->vms);
        if (members[0] == members[1] || members[1] == members[2] || members[0] == members[2])
            continue;
        struct layout_rule rule = {.id = names[i],
                                   .kind = LAYOUT_ANTI_AFFINITY,
                                   .hard = true,
                                   .vms = members,
                                   .vm_count = 3};
        r = layout_add_rule(layout, &rule, NULL);
        assert(r == 0);
    }
    for (uint32_t h = 0; h < pool->hosts; h++)
        layout_set_free(layout, h, free_bytes[h] > 0 ? (uint64_t)free_bytes[h] : 0);
    r = layout_seal(layout, goal, NULL);
    assert(r == 0);
    free(weights);
    free(free_bytes);
    free(loads);
    return layout;
}
