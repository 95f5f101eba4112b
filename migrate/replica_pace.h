/* When a protected guest's next checkpoint is cut, and how much work its loss would cost now.
 *
 * Flow:   replicator -> [replica_pace] -> replicator
 * Thread: pure core; the replicator's.
 *
 *      cut n          held n   begin n+1   cut n+1         held n+1
 *       |--- ship -----|           |- rounds -|--- ship ------|
 *       |=========== what a loss just before it costs =========|      <= the goal
 *
 * What is lost with the source is all since the cut of the newest checkpoint that is known to be
 * held; it is greatest just before the next one is. So a period, the rounds before a cut and the time
 * to ship one must together fit the goal. A slower link makes the period shorter until there is nothing left between
 * two; then the goal is missed, and said so. Cuts are never closer than the guest's share of lost
 * work allows.
 */
#ifndef GODWIT_MIGRATE_REPLICA_PACE_H
#define GODWIT_MIGRATE_REPLICA_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct replica_pace {
    uint64_t rpo_ns;        /* the goal */
    unsigned loss_permille; /* of the guest's time that pauses may take */
    uint64_t begun_ns;      /* of the protection */
    uint64_t held_cut_ns;   /* when the newest checkpoint that is held was cut; 0: none is */
    uint64_t cut_ns;        /* of the one under way; 0: none */
    uint64_t last_cut_ns;   /* of any */
    uint64_t begin_ns;      /* when the one whose rounds are under way was begun; 0: none is */
    uint64_t rounds_ns;     /* begin to cut: the larger of the last one and what is usual */
    uint64_t ship_ns;       /* cut to held: the larger of the last one and what is usual */
    uint64_t rounds_usual_ns, ship_usual_ns, pause_usual_ns;
    uint64_t rpo_reached_ns; /* the worst since the last checkpoint but one */
    bool is_missed;          /* the alarm */
    uint64_t missed_count;   /* how often it began */
};

enum { REPLICA_PACE_LOSS_PERMILLE = 100, REPLICA_PACE_PERIOD_MS_MIN = 20 };

/* rpo_ns at least 1 ms; loss_permille 1 to 999, 0: REPLICA_PACE_LOSS_PERMILLE. */
void replica_pace_init(struct replica_pace *pace, uint64_t rpo_ns, unsigned loss_permille,
                       uint64_t now_ns);
/* Pages of the next one are sent while the guest runs. Begun again: it goes on. */
void replica_pace_begin(struct replica_pace *pace, uint64_t now_ns);
/* A checkpoint was cut: the guest stood still from now_ns for pause_ns. */
void replica_pace_cut(struct replica_pace *pace, uint64_t now_ns, uint64_t pause_ns);
/* The one under way is held (now_ns) or lost. */
void replica_pace_held(struct replica_pace *pace, uint64_t now_ns);
void replica_pace_lost(struct replica_pace *pace);
/* Time has passed: raises or ends the alarm. True when that changed. */
bool replica_pace_tick(struct replica_pace *pace, uint64_t now_ns);

/* When the next one is to be begun; not later than now: at once. None is under way. */
uint64_t replica_pace_next_ns(const struct replica_pace *pace);
/* After a cut that came to nothing and for which the guest stood still so long: how long it runs before
 * the next, so that these pauses, too, take no more of its time than any. */
uint64_t replica_pace_again_ns(const struct replica_pace *pace, uint64_t stood_ns);
/* What the loss of the source would cost now: never less than it would. */
uint64_t replica_pace_rpo_ns(const struct replica_pace *pace, uint64_t now_ns);

#endif
