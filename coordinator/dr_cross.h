/* Which of two pools may run a VM that one of them protects by a replica in the other: what each says, and what it may
 * conclude from what it heard.
 *
 * Flow:   peer_dr -> [dr_cross] -> dr_peer
 * Thread: the loop's; pure: no I/O, no clock, nothing of the cluster.
 *
 * The source pool runs the VM, the holder pool holds its replica. The source asks about once a second, the holder answers;
 * all that is said is durable at who says it before it leaves (INV-7), and either may hear it late, twice, or never.
 *
 *   source  PROTECT --asked for n--> FINISH --all is held--> STOP --STOPPED--> HANDED n --it runs there--> AWAY
 *               \--it is lost: nothing runs--------------------------------->/     \--n is returned--> BACK --> PROTECT
 *                      FINISH --fails--> UNDO --> PROTECT, n is refused
 *           PROTECT --unprotect--> END --it is dropped there--> no record     any --it runs there--> AWAY
 *   holder  HOLD --failover--> ASK n --HANDED n--> TAKE --it runs--> AWAY
 *               \--accept-split, no permit is out--> ALONE --> TAKE    TAKE --refused--> HOLD, n is returned
 *                      ASK n --refused, too long, or no word--> HOLD, n is returned
 *
 * What is proven by tests/unit/test_dr_cross.c: without ALONE nothing runs twice; from TAKE on the source starts nothing,
 * whatever was lost, doubled or restarted; what was held is never older than what was handed over.
 *
 * A source that wants to start its VM needs a permit for that generation: a lease that the holder gives in HOLD alone. The
 * source counts it from when it asked, the holder, who counts longer, from when it answered; ALONE waits until the last one
 * is over. The holder keeps the highest generation that it was told or permitted, and takes above it.
 */
#ifndef GODWIT_COORDINATOR_DR_CROSS_H
#define GODWIT_COORDINATOR_DR_CROSS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    DR_CROSS_PERMIT_MS = 8000,  /* as the source counts it */
    DR_CROSS_GUARD_MS = 16000,  /* as the holder does: an order that left in time has arrived or never will */
    DR_CROSS_ASK_MS = 120000,   /* a hand-over that was asked for is given up */
    DR_CROSS_SILENT_MS = 20000, /* the same, when nothing was heard for so long */
};

enum dr_cross_step {
    DR_CROSS_NONE, /* it has no record of it */
    /* the source */
    DR_CROSS_PROTECT,
    DR_CROSS_FINISH,
    DR_CROSS_UNDO,
    DR_CROSS_STOP,
    DR_CROSS_HANDED,
    DR_CROSS_BACK,
    /* the holder */
    DR_CROSS_HOLD,
    DR_CROSS_ASK,
    DR_CROSS_ALONE,
    DR_CROSS_TAKE,
    /* both */
    DR_CROSS_AWAY, /* it runs at the holder */
    DR_CROSS_END,
    DR_CROSS_STEP_COUNT
};

/* As records and messages spell it. */
const char *dr_cross_step_name(enum dr_cross_step step);
/* DR_CROSS_STEP_COUNT: no such step. */
enum dr_cross_step dr_cross_step_from_name(const char *name);

struct dr_cross {
    /* durable */
    enum dr_cross_step step;
    uint64_t generation;  /* the holder's: the highest that it was told or permitted */
    uint64_t hand_no;     /* of the hand-over that was asked for last; the source's: that it took up last */
    uint64_t returned_no; /* the holder's: up to this one it takes by none */
    bool is_alone;        /* the holder's: it took, or is to take, without being handed */
    bool is_heard;        /* the holder's, AWAY: the source has recorded it */
    /* of this coordinator's life only */
    uint64_t permit, permit_until_ns; /* the source's */
    uint64_t granted_ns;              /* the holder's; 0: not in this life */
    uint64_t asked_ns, heard_ns;      /* the holder's: ASK since, and heard last; 0: not in this life */
};

struct dr_cross_word { /* what one says of one VM */
    enum dr_cross_step step;
    uint64_t generation; /* the source's: the highest that it gave out */
    uint64_t hand_no, returned_no;
    uint64_t permit; /* the source's: wanted for this generation, 0: none; the holder's: given */
};

/* What the source's cluster knows. */
enum dr_cross_guest {
    DR_CROSS_GUEST_RUNS,   /* and all but what it wrote just now is held */
    DR_CROSS_GUEST_LOST,   /* proven: nothing runs, and that was nobody's wish */
    DR_CROSS_GUEST_UNSURE, /* anything else */
};

enum dr_cross_news {
    DR_CROSS_NO_NEWS,
    DR_CROSS_NEWS_FINISH,  /* source: its last checkpoint is to be cut */
    DR_CROSS_NEWS_HANDED,  /* source: handed over as it is */
    DR_CROSS_NEWS_REFUSED, /* source: cannot be handed over now; holder: was not */
    DR_CROSS_NEWS_BACK,    /* source: it is to run here again */
    DR_CROSS_NEWS_AWAY,    /* source: it runs there; holder: that is recorded there */
    DR_CROSS_NEWS_TAKE,    /* holder: take it */
    DR_CROSS_NEWS_END,     /* holder: drop it; source: it is dropped, or unknown there */
};

/* ---- the source ---- */
/* The answer to a question that left at `asked_ns`. All but permits is to be kept when there are news. */
enum dr_cross_news dr_cross_source_hear(struct dr_cross *source, const struct dr_cross_word *word,
                                        enum dr_cross_guest guest, uint64_t asked_ns);
bool dr_cross_may_start(const struct dr_cross *source, uint64_t generation, uint64_t now_ns);

/* ---- the holder ---- */
/* Gives the answer, which leaves once `holder` is durable. `*ret_changed`: it has to be kept. */
enum dr_cross_news dr_cross_holder_hear(struct dr_cross *holder, const struct dr_cross_word *word,
                                        uint64_t now_ns, struct dr_cross_word *ret_answer,
                                        bool *ret_changed);
void dr_cross_ask(struct dr_cross *holder, uint64_t now_ns);
void dr_cross_go_alone(struct dr_cross *holder);
/* ALONE: is no permit out? `began_ns`: of this coordinator's life. */
bool dr_cross_may_take(const struct dr_cross *holder, uint64_t began_ns, uint64_t now_ns);
/* ASK, for too long. */
bool dr_cross_is_overdue(const struct dr_cross *holder, uint64_t began_ns, uint64_t now_ns);
/* ASK, ALONE or TAKE came to nothing. */
void dr_cross_return(struct dr_cross *holder);

#endif
