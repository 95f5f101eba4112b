#include "migrate/replica_pace.h"

#include <assert.h>

#include "base/world.h"

void replica_pace_init(struct replica_pace *pace, uint64_t rpo_ns, unsigned loss_permille,
                       uint64_t now_ns)
{
    assert(rpo_ns >= NS_PER_MS && loss_permille < 1000);
    *pace = (struct replica_pace){
        .rpo_ns = rpo_ns,
        .loss_permille = loss_permille ? loss_permille : REPLICA_PACE_LOSS_PERMILLE,
        .begun_ns = now_ns,
    };
}

/* An eighth of what is new: one slow checkpoint does not make the next ones hurry for long. */
static uint64_t smooth(uint64_t usual, uint64_t now)
{
    return usual ? usual - usual / 8 + now / 8 : now;
}

void replica_pace_begin(struct replica_pace *pace, uint64_t now_ns)
{
    if (!pace->begin_ns)
        pace->begin_ns = now_ns;
}

/* Those of a first image, or after a long time without a link, tell little of the next ones. */
static void note_rounds(struct replica_pace *pace, uint64_t now_ns)
{
    uint64_t rounds_ns = pace->begin_ns && now_ns > pace->begin_ns ? now_ns - pace->begin_ns : 0;

    pace->begin_ns = 0;
    if (!pace->held_cut_ns)
        return;
    if (rounds_ns > pace->rpo_ns)
        rounds_ns = pace->rpo_ns;
    pace->rounds_usual_ns = smooth(pace->rounds_usual_ns, rounds_ns);
    pace->rounds_ns = rounds_ns > pace->rounds_usual_ns ? rounds_ns : pace->rounds_usual_ns;
}

void replica_pace_cut(struct replica_pace *pace, uint64_t now_ns, uint64_t pause_ns)
{
    assert(!pace->cut_ns && now_ns > 0);
    note_rounds(pace, now_ns);
    pace->cut_ns = pace->last_cut_ns = now_ns;
    pace->pause_usual_ns = smooth(pace->pause_usual_ns, pause_ns);
}

void replica_pace_held(struct replica_pace *pace, uint64_t now_ns)
{
    assert(pace->cut_ns && now_ns >= pace->cut_ns);
    uint64_t ship_ns = now_ns - pace->cut_ns;
    pace->ship_usual_ns = smooth(pace->ship_usual_ns, ship_ns);
    pace->ship_ns = ship_ns > pace->ship_usual_ns ? ship_ns : pace->ship_usual_ns;
    pace->rpo_reached_ns = replica_pace_rpo_ns(pace, now_ns);
    pace->held_cut_ns = pace->cut_ns;
    pace->cut_ns = 0;
    (void)replica_pace_tick(pace, now_ns); /* told with the checkpoint */
}

void replica_pace_lost(struct replica_pace *pace)
{
    pace->cut_ns = pace->begin_ns = 0;
}

bool replica_pace_tick(struct replica_pace *pace, uint64_t now_ns)
{
    bool was_missed = pace->is_missed;

    pace->is_missed = replica_pace_rpo_ns(pace, now_ns) > pace->rpo_ns;
    if (pace->is_missed && !was_missed)
        pace->missed_count++;
    return pace->is_missed != was_missed;
}

uint64_t replica_pace_next_ns(const struct replica_pace *pace)
{
    assert(!pace->cut_ns);
    if (!pace->held_cut_ns)
        return 0;
    uint64_t goal_ns = pace->rpo_ns - pace->rpo_ns / 8; /* room for what is not usual */
    uint64_t ahead_ns = pace->rounds_ns + pace->ship_ns;
    uint64_t period_ns = goal_ns > ahead_ns ? goal_ns - ahead_ns : 0;
    uint64_t least_ns = pace->pause_usual_ns * 1000 / pace->loss_permille;
    if (least_ns < REPLICA_PACE_PERIOD_MS_MIN * NS_PER_MS)
        least_ns = REPLICA_PACE_PERIOD_MS_MIN * NS_PER_MS;
    return pace->last_cut_ns + (period_ns > least_ns ? period_ns : least_ns);
}

uint64_t replica_pace_again_ns(const struct replica_pace *pace, uint64_t stood_ns)
{
    return stood_ns * 1000 / pace->loss_permille - stood_ns;
}

uint64_t replica_pace_rpo_ns(const struct replica_pace *pace, uint64_t now_ns)
{
    uint64_t since_ns = pace->held_cut_ns ? pace->held_cut_ns : pace->begun_ns;
    return now_ns > since_ns ? now_ns - since_ns : 0;
}
