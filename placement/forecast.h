/* What one move will take and cost, before it begins: seconds, pause, bytes, what its guest and
 * others lose.
 *
 * Flow:   samples, receipts -> [forecast] -> dry runs, evacuate, balance, plans
 * Thread: any; pure.
 *
 * Rounds are played as migrate/converge will play them, on a guest that writes as it was sampled:
 * not at a rate, but so many distinct bytes within so much time, since a page that is written twice
 * is sent once. What the model does not know (how fast this link is, how long this VM's state
 * takes, how it errs on this guest) is learned from moves that were made: see forecast_learn and
 * forecast_record. Every figure comes with the high end of what it may be: who decides by gain
 * against cost decides by the high end.
 */
#ifndef GODWIT_PLACEMENT_FORECAST_H
#define GODWIT_PLACEMENT_FORECAST_H

#include <stdbool.h>
#include <stdint.h>

enum { FORECAST_POINTS_MAX = 8 };

struct forecast_link {
    double bytes_per_s;          /* guest memory that is not zero, that one move carries */
    double doubt;                /* 0.2: the true rate may be a fifth off */
    double setup_s;              /* beside copying: processes, greeting, the end; 0: unknown */
    double populate_bytes_per_s; /* memory that the target makes ready for it; 0: in the setup */
};
/* Nothing has been measured yet: a gigabit, give or take its half. */
#define FORECAST_LINK_UNKNOWN ((struct forecast_link){.bytes_per_s = 110e6, .doubt = 0.5})

/* What moves taught about one VM, or about one link: how far what came was from what was told.
 * Zeroed: nothing yet. */
struct forecast_record {
    unsigned moves;
    double factor;      /* of the total time */
    double doubt;       /* by how much single moves miss, as a share of the total */
    double pause_off_s; /* of the pause */
    double pause_doubt_s;
};

/* Distinct bytes that the guest wrote within so much time: a few points, both columns rising. */
struct forecast_writes {
    unsigned count; /* 0: not sampled */
    double seconds[FORECAST_POINTS_MAX], bytes[FORECAST_POINTS_MAX];
};

struct forecast_guest {
    uint64_t populated_bytes;
    double dirty_bytes_per_s; /* where `writes` was not sampled */
    uint32_t vcpus;
    struct forecast_writes writes;
    double zero_share; /* of what is populated: costs a look, no wire */
};

struct forecast_ask {
    double pause_goal_s;
    double deadline_s;              /* 0: none that matters here */
    double bytes_per_s_max;         /* 0: no limit */
    unsigned throttle_permille_max; /* that the policy may hold writers back */
    unsigned throttle_stalls_min;   /* rounds without shrinking before it does */
    bool postcopy_late;  /* pages may be left behind where rounds lead nowhere */
    bool postcopy;       /* after one pass */
    struct forecast_record vm, link;
};

struct forecast {
    bool converges; /* else it ends at its deadline and rolls back */
    bool postcopy;  /* pages would be left behind, and follow */
    double seconds, seconds_high;
    double pause_s, pause_s_high;
    double bytes; /* guest memory sent, resent pages counted again */
    unsigned rounds;
    unsigned throttle_permille; /* that it takes to converge */
    double model_s,
        model_pause_s;          /* before records corrected them: what the next lesson is about */
    double cost_s, cost_s_high; /* stall seconds: the pause, the slower guest, the link's use */
};

/* Distinct bytes that it writes within `seconds`, beyond the sampled time as the points lead on. */
double forecast_written(const struct forecast_guest *guest, double seconds);

/* With all that is known. */
struct forecast forecast_ask(const struct forecast_guest *guest, const struct forecast_link *link,
                             const struct forecast_ask *ask);
/* Where only a goal is known. */
struct forecast forecast_move(const struct forecast_guest *guest, const struct forecast_link *link,
                              double pause_goal_s);

/* Measured anew: an average that forgets, and how far single moves are from it. */
void forecast_learn(struct forecast_link *link, double bytes_per_s);
void forecast_learn_setup(struct forecast_link *link, double seconds, double populate_bytes_per_s);
/* A move came to its end: `model` is what is forecast for it with what its link has taught by now,
 * so that what the link learned of it is not learned here once more. */
void forecast_record(struct forecast_record *record, const struct forecast *model, double seconds,
                     double pause_s);

#endif
