/* One round more is played until the pause fits the goal and the set no longer shrinks, which is
 * migrate/converge's rule; unit/forecast holds both to the same decisions.
 *
 * Pages of a round are cleared as they are sent, one after the other: the first is exposed to
 * writes for the whole round, the last not at all. So a round that carries all that the guest
 * writes leaves the mean of what is written over its time; one that carries little of it leaves
 * nearly all.
 */
#include "placement/forecast.h"

#include <math.h>

/* Before a link has told: the target's process, populating, greeting, the receipt. */
#define SETUP_S 0.25
#define PAUSE_FLOOR_S 0.005
#define PAGE_BYTES_F 4096.0
/* A zero page is read and named, not sent: some 16 GB/s. */
#define ZERO_BYTES_PER_S 16e9
/* A round costs this beside its pages: fences, a collect. */
#define ROUND_S 0.001
#define TINY_BYTES (64 * PAGE_BYTES_F)
#define SHRINK 0.85
#define SLOPE 0.5     /* of the set, that a throttled guest is held to */
#define PRESS_PERMILLE 800    /* before a pause that fits and would still be long */
#define PRESS_PAUSE_S 0.008
#define POSTCOPY_PERMILLE 800 /* held back so far, and no further before pages are left behind */
#define WAITS_MOST 40 /* rounds over the goal that are played before we say that it waits */
#define ROUNDS_MOST 200
/* A guest whose pages are tracked loses this part of its work, more when it writes much. */
#define SLOWER_LEAST 0.05
#define SLOWER_MOST 0.35
/* A second of a busy link is worth so much waiting of everybody else on it. */
#define LINK_S 0.02
/* What a single move may miss by, however well its kind is known. */
#define DOUBT_LEAST 0.05
#define DOUBT_FRESH 0.3
#define PAUSE_DOUBT_FRESH_S 0.003
#define NEWS 0.3 /* weight of the newest move */

/* ---- what the guest writes ------------------------------------------------------------------ */

/* Beyond the last point: from one half of the sampled time to the next the increments shrink by the
 * same share, as those of a writer do who comes back to his pages; a sweep's do not shrink. */
static double lead_on(const struct forecast_writes *writes, double seconds)
{
    unsigned last = writes->count - 1;
    double end = writes->bytes[last], half_s = writes->seconds[last] / 2;
    struct forecast_writes sampled = *writes;
    const struct forecast_guest guest = {.populated_bytes = UINT64_MAX, .writes = sampled};
    double half = forecast_written(&guest, half_s);
    double share = half > 0 ? fmin(1, (end - half) / half) : 1;
    double steps = (seconds - writes->seconds[last]) / half_s;
    double increment = end - half;
    if (share > 0.999)
        return end + increment * steps;
    return end + increment * share * (1 - pow(share, steps)) / (1 - share);
}

double forecast_written(const struct forecast_guest *guest, double seconds)
{
    const struct forecast_writes *writes = &guest->writes;
    double most = (double)guest->populated_bytes;
    if (seconds <= 0)
        return 0;
    if (writes->count == 0)
        return fmin(most, guest->dirty_bytes_per_s * seconds);
    unsigned i = 0;
    while (i < writes->count && writes->seconds[i] < seconds)
        i++;
    if (i == writes->count)
        return fmin(most, lead_on(writes, seconds));
    double from_s = i ? writes->seconds[i - 1] : 0, from = i ? writes->bytes[i - 1] : 0;
    double share = (seconds - from_s) / (writes->seconds[i] - from_s);
    return fmin(most, from + share * (writes->bytes[i] - from));
}

/* The mean of what is written over [0, seconds]. */
static double mean_written(const struct forecast_guest *guest, double seconds)
{
    enum { STEPS = 16 };
    double sum = 0;
    for (unsigned i = 0; i < STEPS; i++)
        sum += forecast_written(guest, seconds * (i + 0.5) / STEPS);
    return sum / STEPS;
}

/* What is dirty after a round of `seconds` that carried `carried` bytes of what is written. */
static double left_after(const struct forecast_guest *guest, double carried, double seconds)
{
    if (guest->writes.count == 0) /* a rate is of pages that were dirty after a round already */
        return forecast_written(guest, seconds);
    double all = fmax(forecast_written(guest, 30), 1);
    double share = fmin(1, carried / all);
    return share * mean_written(guest, seconds) + (1 - share) * forecast_written(guest, seconds);
}

/* ---- rounds --------------------------------------------------------------------------------- */

struct play {
    const struct forecast_guest *guest;
    const struct forecast_ask *ask;
    double rate, pause_floor_s;
    double seconds, bytes, left;
    unsigned rounds, stalls, waits, permille;
    bool is_pressed, postcopy;
};

static double round_s(const struct play *play, double data, double zero)
{
    double rate = play->rate;
    if (play->ask->bytes_per_s_max > 0)
        rate = fmin(rate, play->ask->bytes_per_s_max);
    return data / rate + zero / ZERO_BYTES_PER_S + ROUND_S;
}

static double pause_s(const struct play *play)
{
    return play->pause_floor_s + play->left / play->rate; /* the limit does not hold the pause */
}

/* As migrate/throttle: cut in proportion to the slope, once a round, down to what is allowed. */
static void hold_back(struct play *play, double before)
{
    if (play->ask->throttle_permille_max == 0 ||
        (!play->permille && play->stalls < play->ask->throttle_stalls_min))
        return;
    double slope = fmin(1, before > 0 ? play->left / before : 1);
    if (slope <= SLOPE)
        return;
    unsigned permille = 1000 - (unsigned)((1000 - play->permille) * SLOPE / slope);
    unsigned most = play->ask->throttle_permille_max;
    if (play->ask->postcopy_late && most > POSTCOPY_PERMILLE)
        most = POSTCOPY_PERMILLE;
    play->permille = permille < most ? permille : most;
    play->is_pressed = false;
}

/* As migrate/throttle: the goal is reached, and once more writers are slowed for a shorter pause. */
static bool press(struct play *play)
{
    unsigned most = play->ask->throttle_permille_max;
    unsigned permille = most < PRESS_PERMILLE ? most : PRESS_PERMILLE;
    if (pause_s(play) <= PRESS_PAUSE_S || play->permille >= permille)
        return false;
    play->permille = permille;
    play->is_pressed = true;
    return true;
}

/* As migrate/post_choice. */
static bool leaves_pages(const struct play *play, bool fits)
{
    const struct forecast_ask *ask = play->ask;
    if (ask->postcopy)
        return true;
    if (!ask->postcopy_late)
        return false;
    if (!fits && play->stalls > 0 && !play->is_pressed && play->permille >= POSTCOPY_PERMILLE)
        return true;
    return !fits && ask->deadline_s > 0 &&
           play->seconds + round_s(play, play->left, 0) + pause_s(play) >= ask->deadline_s;
}

/* True when the guest would be stopped after this round. */
static bool one_round(struct play *play, double data, double zero)
{
    double before = data + zero;
    double seconds = round_s(play, data, zero);
    double runs = 1 - (double)play->permille / 1000;
    play->seconds += seconds;
    play->bytes += data;
    play->rounds++;
    play->left =
        fmin(left_after(play->guest, before, seconds * runs), (double)play->guest->populated_bytes);
    bool fits = pause_s(play) <= play->ask->pause_goal_s;
    bool shrinks = play->left < before * SHRINK;
    play->stalls = shrinks ? 0 : play->stalls + 1;
    play->waits += !fits && !shrinks;
    bool is_over = fits && (play->left <= TINY_BYTES || !shrinks) && !press(play);
    play->postcopy = !is_over && leaves_pages(play, fits);
    if (!fits && !play->postcopy)
        hold_back(play, before);
    return is_over || play->postcopy;
}

static bool run(struct play *play)
{
    double populated = (double)play->guest->populated_bytes;
    double zero = populated * fmin(fmax(play->guest->zero_share, 0), 1);
    bool stopped = one_round(play, populated - zero, zero);
    while (!stopped && play->rounds < ROUNDS_MOST && play->waits < WAITS_MOST) {
        if (play->ask->deadline_s > 0 && play->seconds > play->ask->deadline_s)
            break;
        stopped = one_round(play, play->left, 0);
    }
    play->bytes += play->left;
    if (play->postcopy) { /* pushed while the guest runs there */
        play->seconds += play->pause_floor_s + round_s(play, play->left, 0);
        play->left = 0;
    } else {
        play->seconds += pause_s(play);
    }
    return stopped;
}

static bool play_at(const struct forecast_guest *guest, const struct forecast_link *link,
                    const struct forecast_ask *ask, double rate, struct forecast *result)
{
    struct play play = {.guest = guest, .ask = ask, .rate = rate, .pause_floor_s = PAUSE_FLOOR_S};
    if (ask->vm.moves > 0) /* its own fixed part is known: it is in what was learned of its pause */
        play.pause_floor_s = fmax(0.0005, PAUSE_FLOOR_S + ask->vm.pause_off_s);
    bool converges = run(&play);
    result->seconds = (link->setup_s > 0 ? link->setup_s : SETUP_S) + play.seconds;
    if (link->populate_bytes_per_s > 0)
        result->seconds += (double)guest->populated_bytes / link->populate_bytes_per_s;
    result->pause_s = pause_s(&play);
    result->bytes = play.bytes;
    result->rounds = play.rounds;
    result->throttle_permille = play.permille;
    result->postcopy = play.postcopy;
    result->model_pause_s = PAUSE_FLOOR_S + play.left / rate;
    return converges;
}

/* The VM's own moves know more than the link's; both know more than nothing. */
static void correct(struct forecast *forecast, const struct forecast_ask *ask, double doubt)
{
    const struct forecast_record *known = ask->vm.moves > 0 ? &ask->vm : &ask->link;
    forecast->model_s = forecast->seconds;
    double pause_doubt_s = PAUSE_DOUBT_FRESH_S;
    if (known->moves > 0) {
        forecast->seconds *= known->factor;
        doubt = fmax(DOUBT_LEAST, known->doubt);
        pause_doubt_s = known->pause_doubt_s;
    }
    if (ask->vm.moves == 0 && ask->link.moves > 0)
        forecast->pause_s = fmax(0.0005, forecast->pause_s + ask->link.pause_off_s);
    /* Misses are kept as their mean size; twice and a half of it holds nineteen of twenty. */
    forecast->seconds_high = fmax(forecast->seconds_high, forecast->seconds * (1 + 2.5 * doubt));
    forecast->pause_s_high =
        fmax(forecast->pause_s_high, forecast->pause_s + fmax(0.001, 2.5 * pause_doubt_s));
}

struct forecast forecast_ask(const struct forecast_guest *guest, const struct forecast_link *link,
                             const struct forecast_ask *ask)
{
    struct forecast likely = {0}, high = {0};
    double rate = fmax(link->bytes_per_s, 1e5);
    double slow = fmax(rate * (1 - fmin(link->doubt, 0.9)), 1e5);
    likely.converges = play_at(guest, link, ask, rate, &likely);
    if (ask->vm.moves == 0 && ask->link.moves == 0) { /* all that is known is the rate's doubt */
        (void)play_at(guest, link, ask, slow, &high);
        likely.seconds_high = high.seconds;
        likely.pause_s_high = fmax(high.pause_s, likely.pause_s * 2);
    }
    correct(&likely, ask, link->doubt);
    double slower = fmin(SLOWER_MOST, SLOWER_LEAST + forecast_written(guest, 1) / rate);
    double lost = guest->vcpus * slower + LINK_S;
    likely.cost_s = guest->vcpus * likely.pause_s + likely.seconds * lost;
    likely.cost_s_high = guest->vcpus * likely.pause_s_high + likely.seconds_high * lost;
    return likely;
}

struct forecast forecast_move(const struct forecast_guest *guest, const struct forecast_link *link,
                              double pause_goal_s)
{
    const struct forecast_ask ask = {.pause_goal_s = pause_goal_s};
    return forecast_ask(guest, link, &ask);
}

/* ---- lessons -------------------------------------------------------------------------------- */

void forecast_learn(struct forecast_link *link, double bytes_per_s)
{
    if (!(bytes_per_s > 0))
        return;
    if (!(link->bytes_per_s > 0)) {
        link->bytes_per_s = bytes_per_s;
        link->doubt = DOUBT_FRESH;
        return;
    }
    double off = fabs(bytes_per_s - link->bytes_per_s) / link->bytes_per_s;
    link->doubt = fmin(0.9, 0.75 * link->doubt + 0.25 * off);
    link->bytes_per_s += 0.25 * (bytes_per_s - link->bytes_per_s);
}

/* By shares, so that one move that took ten times as long does not rule the next ten. */
static double with_news(double known, double news)
{
    return known > 0 ? known * pow(news / known, NEWS) : news;
}

static double clamp(double value, double most)
{
    return fmax(-most, fmin(most, value));
}

void forecast_learn_setup(struct forecast_link *link, double seconds, double populate_bytes_per_s)
{
    if (seconds > 0)
        link->setup_s = with_news(link->setup_s, seconds);
    if (populate_bytes_per_s > 0)
        link->populate_bytes_per_s = with_news(link->populate_bytes_per_s, populate_bytes_per_s);
}

/* What is far beyond what single moves miss by is of that move, not of the next. */
static void record_factor(struct forecast_record *record, double factor)
{
    if (record->moves == 0) {
        record->factor = factor;
        record->doubt = DOUBT_FRESH / 2;
        return;
    }
    double miss = log(factor / record->factor);
    record->factor *= exp(NEWS * clamp(miss, fmax(0.2, 3 * record->doubt)));
    record->doubt += NEWS * (fmin(fabs(miss), 1) - record->doubt);
}

/* The first takes the place of what nobody knew, but for what is beyond all that a fresh doubt
 * spans: a pause that a busy host held up would be told of the next moves too. That is doubt. */
static void record_pause(struct forecast_record *record, double off_s)
{
    bool first = record->moves == 0;
    double doubt_s = first ? PAUSE_DOUBT_FRESH_S : record->pause_doubt_s;
    double miss_s = off_s - record->pause_off_s;
    double step_s = clamp(miss_s, fmax(PAUSE_DOUBT_FRESH_S, 3 * doubt_s));
    double missed_s = fabs(first ? miss_s - step_s : miss_s);
    record->pause_off_s += first ? step_s : NEWS * step_s;
    record->pause_doubt_s = doubt_s + NEWS * (fmin(missed_s, 1) - doubt_s);
    if (first)
        record->pause_doubt_s = fmax(PAUSE_DOUBT_FRESH_S, record->pause_doubt_s);
}

void forecast_record(struct forecast_record *record, const struct forecast *model, double seconds,
                     double pause_s)
{
    if (!(model->model_s > 0) || !(seconds > 0))
        return;
    record_factor(record, fmin(10, fmax(0.1, seconds / model->model_s)));
    record_pause(record, pause_s - model->model_pause_s);
    record->moves++;
}
