/* The planner's time by the size of the pool, and its plans beside a greedy one-move descent on the
 * score that Ganeti's hbal publishes, on the same generated pools.
 *
 *      bench_planner [--svg FILE] [--quick]
 *
 * The score is the one of hbal's manual page, of those parts that a pool on shared storage has: the
 * sum of the standard deviations over hosts of free memory (a part of all), vCPUs a core, CPU load
 * and use. The descent is the one described there: the best single move of all, again and again,
 * until none helps or, below a score of 0.1, none brings 0.01. It is written here anew, apart from
 * the planner.
 */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "placement/balance.h"
#include "placement/choose.h"
#include "placement/evacuate.h"
#include "tests/support/random_pool.h"

enum { GROWTH_MAX = 8 };

/* Of one core's time: others may share the machine. */
static uint64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static double seconds_since(uint64_t began_ns)
{
    return (double)(now_ns() - began_ns) / 1e9;
}

static const struct forecast_link link_rate = {.bytes_per_s = 1.1e9, .doubt = 0.2};

/* ---- growth -----------------------------------------------------------------------------------
 */

struct growth {
    uint32_t hosts, vms;
    double place_us, place_us_max, evacuate_s, balance_s;
    size_t evacuated, moves;
    double before, after, ns_per_candidate;
};

static void time_placing(struct layout *layout, struct growth *growth)
{
    enum { TIMES = 200 };
    double total = 0;
    for (uint32_t i = 0; i < TIMES; i++) {
        uint64_t began_ns = now_ns();
        (void)choose_host(layout, i * 37 % layout_vm_count(layout));
        double us = seconds_since(began_ns) * 1e6;
        total += us;
        growth->place_us_max = fmax(growth->place_us_max, us);
    }
    growth->place_us = total / TIMES;
}

static void time_evacuating(struct layout *layout, struct growth *growth)
{
    static uint32_t vms[LAYOUT_VMS_MAX];
    struct moves moves = {0};
    struct evacuate_ask ask = {.vms = vms, .link = link_rate, .pause_goal_s = 0.1};
    for (uint32_t v = layout_first_vm(layout, 1); v != LAYOUT_NONE; v = layout_next_vm(layout, v))
        vms[ask.count++] = v;
    layout_cordon(layout, 1, true);
    uint64_t began_ns = now_ns();
    int r = evacuate_plan(layout, &ask, &moves, NULL);
    growth->evacuate_s = seconds_since(began_ns);
    assert(r == 0);
    growth->evacuated = moves.count;
    moves_deinit(&moves);
}

static struct growth grow_to(uint32_t hosts, uint32_t vms)
{
    struct growth growth = {.hosts = hosts, .vms = vms};
    const struct random_pool pool = {.seed = 42,
                                     .hosts = hosts,
                                     .vms = vms,
                                     .domains = 20,
                                     .fill = 0.6,
                                     .load = 0.65,
                                     .skew = 0.35,
                                     .rules = vms / 100};
    struct layout *layout = random_pool_new(&pool, LAYOUT_STALL);
    time_placing(layout, &growth);
    time_evacuating(layout, &growth);
    layout = layout_free(layout);

    layout = random_pool_new(&pool, LAYOUT_STALL);
    const struct balance_ask ask = {.horizon_s = 1800,
                                    .hysteresis = 2,
                                    .gain_least = 1,
                                    .moves_most = 4096,
                                    .link = link_rate,
                                    .pause_goal_s = 0.1};
    struct moves moves = {0};
    struct balance_result result;
    uint64_t began_ns = now_ns();
    int r = balance_plan(layout, &ask, &moves, &result, NULL);
    assert(r == 0);
    growth.balance_s = seconds_since(began_ns);
    growth.moves = moves.count;
    growth.before = result.before;
    growth.after = result.after;
    growth.ns_per_candidate =
        result.candidates ? growth.balance_s * 1e9 / (double)result.candidates : 0;
    moves_deinit(&moves);
    layout = layout_free(layout);
    return growth;
}

static void print_growth(const struct growth *growth)
{
    printf(
        "%6u %7u  %8.1f %8.1f  %9.3f (%3zu)  %9.3f (%4zu moves, %.0f -> %.1f, %.0f ns/candidate)\n",
        growth->hosts, growth->vms, growth->place_us, growth->place_us_max,
        1e3 * growth->evacuate_s, growth->evacuated, 1e3 * growth->balance_s, growth->moves,
        growth->before, growth->after, growth->ns_per_candidate);
    fflush(stdout);
}

/* ---- beside hbal ------------------------------------------------------------------------------
 */

static uint32_t greedy(struct layout *layout)
{
    uint32_t made = 0;
    for (;;) {
        double score = layout_score(layout), best = 0;
        uint32_t best_vm = LAYOUT_NONE, best_to = LAYOUT_NONE;
        if (score < 1e-9)
            return made;
        for (uint32_t v = 0; v < layout_vm_count(layout); v++) {
            for (uint32_t h = 0;
                 layout_vm(layout, v)->host != LAYOUT_NONE && h < layout_host_count(layout); h++) {
                if (h == layout_vm(layout, v)->host)
                    continue;
                double delta = layout_delta(layout, v, h);
                if (delta < best && layout_judge(layout, v, h, NULL) == LAYOUT_FITS) {
                    best = delta;
                    best_vm = v;
                    best_to = h;
                }
            }
        }
        if (best_vm == LAYOUT_NONE || best > -1e-9 || (score < 0.1 && best > -0.01))
            return made;
        layout_move(layout, best_vm, best_to);
        made++;
    }
}

struct tally {
    unsigned pools, worse, longer, better, shorter;
    double score_sum, greedy_sum, moves_sum, greedy_moves_sum;
};

static void beside(uint64_t seed, struct tally *tally, bool tell)
{
    const struct random_pool pool = {.seed = seed,
                                     .hosts = 8 + (uint32_t)(seed * 5 % 33),
                                     .vms = 60 + (uint32_t)(seed * 29 % 300),
                                     .fill = 0.45 + 0.05 * (double)(seed % 9),
                                     .load = 0.4 + 0.05 * (double)(seed % 7),
                                     .skew = 0.25 * (double)(seed % 5),
                                     .rules = (uint32_t)(seed % 4) * 5};
    struct layout *theirs = random_pool_new(&pool, LAYOUT_EVEN);
    struct layout *ours = random_pool_new(&pool, LAYOUT_EVEN);
    double before = layout_score(theirs);
    uint64_t began_ns = now_ns();
    uint32_t greedy_moves = greedy(theirs);
    double greedy_s = seconds_since(began_ns), greedy_score = layout_score(theirs);

    const struct balance_ask ask = {.hysteresis = 1,
                                    .gain_least = 0.01,
                                    .even_enough = 0.1,
                                    .moves_most = 4096,
                                    .is_budgeted = true,
                                    .link = link_rate,
                                    .pause_goal_s = 0.1};
    struct moves moves = {0};
    struct balance_result result;
    began_ns = now_ns();
    int r = balance_plan(ours, &ask, &moves, &result, NULL);
    assert(r == 0);
    double ours_s = seconds_since(began_ns);
    if (tell)
        printf("%5llu %6u %5u  %8.4f   %8.4f in %4u (%6.3f s)   %8.4f in %4zu (%6.3f s)\n",
               (unsigned long long)seed, pool.hosts, pool.vms, before, greedy_score, greedy_moves,
               greedy_s, result.after, moves.count, ours_s);
    fflush(stdout);
    tally->pools++;
    tally->worse += result.after > greedy_score + 1e-9;
    tally->longer += moves.count > greedy_moves;
    tally->better += result.after < greedy_score - 1e-9;
    tally->shorter += moves.count < greedy_moves;
    tally->score_sum += result.after;
    tally->greedy_sum += greedy_score;
    tally->moves_sum += (double)moves.count;
    tally->greedy_moves_sum += greedy_moves;
    moves_deinit(&moves);
    theirs = layout_free(theirs);
    ours = layout_free(ours);
}

/* ---- the plot ---------------------------------------------------------------------------------
 */

static double x_of(double vms)
{
    return 70 + (log10(vms) - 2) / 3 * 480;
}

static double y_of(double seconds)
{
    return 330 - (log10(fmax(seconds, 1e-6)) + 6) / 7 * 290;
}

static void plot_line(FILE *file, const struct growth *growth, size_t count, int which,
                      const char *color, const char *name)
{
    fprintf(file, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", color);
    double x = 0, y = 0;
    for (size_t i = 0; i < count; i++) {
        double seconds = which == 0   ? growth[i].place_us / 1e6
                         : which == 1 ? growth[i].evacuate_s
                                      : growth[i].balance_s;
        x = x_of(growth[i].vms);
        y = y_of(seconds);
        fprintf(file, "%.1f,%.1f ", x, y);
    }
    fprintf(file, "\"/>\n<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">%s</text>\n", x + 6, y + 4, color,
            name);
}

static int plot(const char *path, const struct growth *growth, size_t count)
{
    static const char *const ticks[] = {"1 us",  "10 us",  "100 us", "1 ms",
                                        "10 ms", "100 ms", "1 s",    "10 s"};
    FILE *file = fopen(path, "we");
    if (!file)
        return -1;
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"680\" height=\"380\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n"
            "<rect width=\"680\" height=\"380\" fill=\"white\"/>\n"
            "<text x=\"70\" y=\"20\">Planner: seconds by VMs in the pool (10 a host), one core"
            "</text>\n");
    for (int i = 0; i < 8; i++) {
        double y = y_of(pow(10, i - 6));
        fprintf(file,
                "<line x1=\"70\" x2=\"550\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>"
                "<text x=\"62\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                y, y, y + 4, ticks[i]);
    }
    for (int i = 2; i <= 5; i++)
        fprintf(file, "<text x=\"%.1f\" y=\"352\" text-anchor=\"middle\">%.0f</text>\n",
                x_of(pow(10, i)), pow(10, i));
    plot_line(file, growth, count, 2, "#b5452c", "balance the pool");
    plot_line(file, growth, count, 1, "#2c6fb5", "evacuate a host");
    plot_line(file, growth, count, 0, "#3a8a3a", "place one VM");
    fprintf(file, "</svg>\n");
    return fclose(file);
}

int main(int argc, char **argv)
{
    const char *svg = NULL;
    bool quick = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--svg") == 0 && i + 1 < argc)
            svg = argv[++i];
        else if (strcmp(argv[i], "--quick") == 0)
            quick = true;
        else
            return fprintf(stderr, "usage: bench_planner [--svg FILE] [--quick]\n"), 2;
    }
    printf(" hosts     VMs   place us  (most)  evacuate ms        balance ms\n");
    static const uint32_t sizes[] = {10, 30, 100, 300, 1000, 3000, 10000};
    struct growth growth[GROWTH_MAX];
    size_t count = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !(quick && sizes[i] > 1000); i++) {
        growth[count] = grow_to(sizes[i], sizes[i] * 10);
        print_growth(&growth[count++]);
    }
    if (svg && plot(svg, growth, count) != 0)
        return fprintf(stderr, "cannot write %s\n", svg), 1;

    printf("\n seed  hosts   VMs    before     one-move descent                planner\n");
    struct tally tally = {0};
    for (uint64_t seed = 1; seed <= (quick ? 12u : 60u); seed++)
        beside(seed, &tally, seed <= 20);
    printf("%u pools: never worse: %s (%u worse), never longer: %s (%u longer); better on %u, "
           "shorter on %u\nmean score %.4f against %.4f, mean moves %.1f against %.1f\n",
           tally.pools, tally.worse ? "NO" : "yes", tally.worse, tally.longer ? "NO" : "yes",
           tally.longer, tally.better, tally.shorter, tally.score_sum / tally.pools,
           tally.greedy_sum / tally.pools, tally.moves_sum / tally.pools,
           tally.greedy_moves_sum / tally.pools);
    return tally.worse || tally.longer;
}
