#include "placement/forecast.h"

#include <math.h>

/* Beside the copying: the target's process, populating, greeting, the receipt. */
#define SETUP_S 0.25
#define PAUSE_FLOOR_S 0.005
#define ROUNDS_MOST 30
/* A guest whose pages are tracked loses this part of its work, more when it writes much. */
#define SLOWER_LEAST 0.05
#define SLOWER_MOST 0.35
/* A second of a busy link is worth so much waiting of everybody else on it. */
#define LINK_S 0.02

static bool run(const struct forecast_guest *guest, double rate, double goal_s,
                struct forecast *result)
{
    double memory = (double)guest->populated_bytes, left = memory, sent = 0;
    double rho = guest->dirty_bytes_per_s / rate;
    for (int n = 0; n < ROUNDS_MOST; n++) {
        sent += left;
        left = fmin(memory, left * rho);
        if (PAUSE_FLOOR_S + left / rate <= goal_s && (left <= 1e6 || rho > 0.5))
            break;
        if (left < 4096)
            break;
    }
    result->bytes = sent + left;
    result->seconds = SETUP_S + result->bytes / rate;
    result->pause_s = PAUSE_FLOOR_S + left / rate;
    return result->pause_s <= goal_s;
}

struct forecast forecast_move(const struct forecast_guest *guest, const struct forecast_link *link,
                              double pause_goal_s)
{
    struct forecast likely = {0}, high = {0};
    double rate = fmax(link->bytes_per_s, 1e5);
    double slow = fmax(rate * (1 - fmin(link->doubt, 0.9)), 1e5);
    likely.converges = run(guest, rate, pause_goal_s, &likely);
    (void)run(guest, slow, pause_goal_s, &high);
    likely.seconds_high = high.seconds;
    likely.pause_s_high = fmax(high.pause_s, likely.pause_s * 2);
    double slower = fmin(SLOWER_MOST, SLOWER_LEAST + guest->dirty_bytes_per_s / rate);
    double lost = guest->vcpus * slower + LINK_S;
    likely.cost_s = guest->vcpus * likely.pause_s + likely.seconds * lost;
    likely.cost_s_high = guest->vcpus * likely.pause_s_high + likely.seconds_high * lost;
    return likely;
}

void forecast_learn(struct forecast_link *link, double bytes_per_s)
{
    if (!(bytes_per_s > 0))
        return;
    if (!(link->bytes_per_s > 0)) {
        *link = (struct forecast_link){.bytes_per_s = bytes_per_s, .doubt = 0.3};
        return;
    }
    double off = fabs(bytes_per_s - link->bytes_per_s) / link->bytes_per_s;
    link->doubt = fmin(0.9, 0.75 * link->doubt + 0.25 * off);
    link->bytes_per_s += 0.25 * (bytes_per_s - link->bytes_per_s);
}
