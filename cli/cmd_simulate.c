#include "cli/cmd_simulate.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "base/units.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/pool_file.h"
#include "placement/balance.h"
#include "placement/choose.h"
#include "placement/evacuate.h"
#include "proto/gw_code.h"

struct simulation {
    struct context *context;
    const Godwit__PoolFile *pool;
    struct layout *layout;
    struct moves moves;
    struct forecast_link link;
};

static void print_hosts(struct simulation *simulation)
{
    const struct layout *layout = simulation->layout;
    FILE *out = simulation->context->out;
    (void)fprintf(out, "%-20s %6s %6s %8s %10s\n", "HOST", "LOAD", "FULL", "STALL", "FREE");
    for (uint32_t h = 0; h < layout_host_count(layout); h++) {
        const struct layout_host *host = layout_host(layout, h);
        char free_text[UNITS_TEXT_SIZE];
        if (!host->up)
            continue;
        units_print_bytes(layout_free_bytes(layout, h), free_text);
        (void)fprintf(out, "%-20s %5.0f%% %5.0f%% %8.2f %10s%s\n", host->name,
                      100 * layout_host_load(layout, h),
                      100 * layout_pressure(layout, h, LAYOUT_NONE), layout_host_stall(layout, h),
                      free_text, host->cordoned ? "  cordoned" : "");
    }
}

static void print_broken(struct simulation *simulation)
{
    const struct layout *layout = simulation->layout;
    for (uint32_t v = 0; v < layout_vm_count(layout); v++) {
        uint32_t rule = layout_broken_rule(layout, v);
        if (rule != LAYOUT_NONE)
            (void)fprintf(simulation->context->out, "%s breaks rule %s on %s\n",
                          layout_vm(layout, v)->name, layout_rule(layout, rule)->id,
                          layout_host(layout, layout_vm(layout, v)->host)->name);
    }
}

static void print_moves(struct simulation *simulation, const char *arrow)
{
    const struct layout *layout = simulation->layout;
    FILE *out = simulation->context->out;
    for (size_t i = 0; i < simulation->moves.count; i++) {
        const struct move *move = &simulation->moves.moves[i];
        char seconds[UNITS_TEXT_SIZE];
        units_print_duration((uint64_t)(move->forecast.seconds * 1e9), seconds);
        (void)fprintf(out, "%4zu  %s  %s %s %s", i + 1, layout_vm(layout, move->vm)->name,
                      move->from == LAYOUT_NONE ? "-" : layout_host(layout, move->from)->name,
                      arrow, layout_host(layout, move->to)->name);
        bool restarts = move->forecast.seconds <= 0;
        (void)fprintf(out, "  %s\n      because %s\n", restarts ? "starts anew" : seconds,
                      move->reason);
    }
    for (size_t i = 0; i < simulation->moves.blocker_count; i++) {
        const struct blocker *blocker = &simulation->moves.blockers[i];
        (void)fprintf(out, "      %s stays: %s\n", layout_vm(layout, blocker->vm)->name,
                      blocker->reason);
        for (unsigned n = 0; n < blocker->concession_count; n++)
            (void)fprintf(out, "%s%s%s", n == 0 ? "        would do: " : ", or ",
                          blocker->concessions[n], n + 1 == blocker->concession_count ? "\n" : "");
    }
    if (simulation->moves.count > 0 && moves_lower_bound_s(layout, &simulation->moves) > 0) {
        char seconds[UNITS_TEXT_SIZE];
        units_print_duration((uint64_t)(moves_lower_bound_s(layout, &simulation->moves) * 1e9),
                             seconds);
        (void)fprintf(out, "%zu moves, at least %s\n", simulation->moves.count, seconds);
    }
}

static int find_host(const struct simulation *simulation, const char *name, uint32_t *ret_host,
                     struct fault *fault)
{
    *ret_host = layout_find_host(simulation->layout, name);
    if (*ret_host != LAYOUT_NONE)
        return 0;
    return fault_set(fault, ERR_NOT_FOUND, "the file has no host '%.63s'", name);
}

static int evacuate(struct simulation *simulation, uint32_t host, struct fault *fault)
{
    struct layout *layout = simulation->layout;
    AUTO_FREE uint32_t *vms = calloc(layout_vm_count(layout) + 1, sizeof *vms);
    struct evacuate_ask ask = {.vms = vms, .link = simulation->link, .pause_goal_s = 0.1};
    if (!vms)
        return fault_set(fault, ERR_NOMEM, "no memory for a plan");
    layout_cordon(layout, host, true);
    for (uint32_t v = layout_first_vm(layout, host); v != LAYOUT_NONE;
         v = layout_next_vm(layout, v))
        vms[ask.count++] = v;
    return evacuate_plan(layout, &ask, &simulation->moves, fault);
}

/* A dead host gives nothing away: its VMs start anew elsewhere, largest first. */
static int fail(struct simulation *simulation, uint32_t host, struct fault *fault)
{
    layout_set_up(simulation->layout, host, false);
    int r = evacuate(simulation, host, fault);
    for (size_t i = 0; i < simulation->moves.count; i++)
        simulation->moves.moves[i].forecast.seconds = 0;
    return r;
}

static int balance(struct simulation *simulation, struct fault *fault)
{
    struct balance_result result;
    const struct balance_ask ask = {.horizon_s = 1800,
                                    .hysteresis = 2,
                                    .gain_least = 5,
                                    .moves_most = 200,
                                    .link = simulation->link,
                                    .pause_goal_s = 0.1};
    int r = balance_plan(simulation->layout, &ask, &simulation->moves, &result, fault);
    if (r == 0)
        (void)fprintf(simulation->context->out, "%s\n", result.verdict);
    return r;
}

static int repair(struct simulation *simulation, struct fault *fault)
{
    const struct balance_ask ask = {.horizon_s = 1800,
                                    .hysteresis = 1,
                                    .moves_most = 200,
                                    .link = simulation->link,
                                    .pause_goal_s = 0.1};
    return balance_repair(simulation->layout, &ask, &simulation->moves, fault);
}

static int play(struct simulation *simulation, struct fault *fault)
{
    const struct command_line *line = simulation->context->line;
    const char *failed = command_text(line, "fail"), *left = command_text(line, "evacuate");
    uint32_t host = LAYOUT_NONE;
    int r = 0;
    print_broken(simulation);
    if (failed)
        r = find_host(simulation, failed, &host, fault);
    if (r == 0 && failed)
        r = fail(simulation, host, fault);
    if (r == 0 && left)
        r = find_host(simulation, left, &host, fault);
    if (r == 0 && left)
        r = evacuate(simulation, host, fault);
    if (r == 0 && command_flag(line, "repair"))
        r = repair(simulation, fault);
    if (r == 0 && command_flag(line, "balance"))
        r = balance(simulation, fault);
    if (r < 0)
        return r;
    print_moves(simulation, failed ? "=>" : "->");
    print_hosts(simulation);
    return 0;
}

int cmd_simulate(struct context *context)
{
    struct simulation simulation = {.context = context, .link = FORECAST_LINK_UNKNOWN};
    Godwit__PoolFile *pool = NULL;
    struct fault fault = {0};
    const char *path = command_text(context->line, "file");
    int r = path ? pool_file_read(path, &pool, &fault)
                 : fault_set(&fault, ERR_INVALID, "the pool's file is missing: -f pool.yaml");
    if (r == 0)
        r = pool_file_layout(pool, LAYOUT_STALL, &simulation.layout, &fault);
    if (r == 0 && pool->link > 0)
        simulation.link = (struct forecast_link){.bytes_per_s = (double)pool->link, .doubt = 0.2};
    simulation.pool = pool;
    if (r == 0)
        r = play(&simulation, &fault);
    bool something_stays = simulation.moves.blocker_count > 0;
    moves_deinit(&simulation.moves);
    simulation.layout = layout_free(simulation.layout);
    if (pool)
        godwit__pool_file__free_unpacked(pool, NULL);
    if (r < 0)
        return error_print_fault(context, &fault);
    return something_stays ? EXIT_CODE_PARTLY : EXIT_CODE_DONE;
}
