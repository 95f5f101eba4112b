/* What the two ends of a replication decide: which checkpoint is held, what may come next, what is
 * owed.
 *
 * Flow:   replicator -> [replicator_core] ; replica -> [replica_core]
 * Thread: pure cores; each its shell's own.
 *
 * The source owes what it cleared in its dirty log and does not know to be held. So a checkpoint
 * that may or may not have arrived is owed until the replica names what it holds.
 *
 *      not linked --HELLO--> linked --PAGES*--> --STATE--> --COMMIT--> judged --HELD--> linked
 *          ^-----------------------any trouble: what was arriving is forgotten------------'
 *
 * The replica holds one whole checkpoint or none. What arrives is of the next one only, and changes
 * nothing of what is held until it was judged whole. A generation older than what is held is
 * refused, and once somebody took the guest (failover) everything is.
 */
#ifndef GODWIT_MIGRATE_REPLICA_CORE_H
#define GODWIT_MIGRATE_REPLICA_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/replica_frame.h"

struct fault;

/* ---- the source's ---- */
struct replicator_core {
    struct replica_id held; /* the newest that is known to be held; seq 0: none is */
    uint64_t held_sum;
    uint64_t last_seq;      /* a number is never used twice: the replica may hold what we gave up */
    struct replica_id sent; /* the one under way, from its first page on; seq 0: none */
    uint64_t sent_sum;      /* once it was cut */
    bool is_cut;            /* all of it is known, and it may be held already */
    bool is_whole;          /* it names every page that is not zero */
    bool is_linked;
};

enum replicator_owes {
    REPLICATOR_OWES_NOTHING, /* what was under way is held: only what the log says */
    REPLICATOR_OWES_SENT,    /* all that was sent or copied since the one that is held */
    REPLICATOR_OWES_WHOLE,   /* everything that is not zero */
};

void replicator_core_init(struct replicator_core *core, uint64_t generation, uint64_t session);
/* The replica told what it holds. ERR_CORRUPT: what was never sent. */
int replicator_core_linked(struct replicator_core *core, const struct replica_held *held,
                           enum replicator_owes *ret_owes, struct fault *fault);
/* The next checkpoint begins; gives its id. Linked, none under way. */
struct replica_id replicator_core_begin(struct replicator_core *core);
void replicator_core_cut(struct replicator_core *core, uint64_t sum);
/* ERR_CORRUPT: not what was sent. */
int replicator_core_held(struct replicator_core *core, const struct replica_id *id,
                         struct fault *fault);
/* What was under way stays owed. */
void replicator_core_unlinked(struct replicator_core *core);

/* ---- the replica's ---- */
enum replica_phase {
    REPLICA_UNLINKED,
    REPLICA_LINKED, /* pages may come */
    REPLICA_STATED, /* and the state has */
    REPLICA_TAKEN,  /* a failover took the guest */
};

struct replica_core {
    enum replica_phase phase;
    struct replica_held held;
    struct replica_id next;       /* what is arriving; seq 0: nothing has yet */
    uint64_t generation, session; /* of the link */
    uint64_t generation_min;      /* older ones are refused */
    bool has_asked; /* what the disks are, on this link */
    bool has_state; /* a machine's state belongs to every checkpoint (not: disks only) */
};

void replica_core_init(struct replica_core *core, uint64_t generation_min, bool has_state);
/* Judge a segment by its head alone; a HELLO links. Afterwards its body may be read and staged.
 * ERR_REFUSED: of a generation that is over, or taken; ERR_CORRUPT: out of turn. */
int replica_core_judge(struct replica_core *core, const struct replica_frame *frame,
                       struct fault *fault);
/* The COMMIT that was judged is whole and kept: it is what is held now. */
void replica_core_kept(struct replica_core *core, uint64_t sum);
/* What was arriving is forgotten. */
void replica_core_unlinked(struct replica_core *core);
/* A failover takes what is held, as `generation`. ERR_STATE: nothing is, or it was taken as a newer
 * one; ERR_REFUSED: not a newer generation. The same or a newer one again is 0: whether the first came
 * to its end is the caller's to know. */
int replica_core_take(struct replica_core *core, uint64_t generation, struct fault *fault);

#endif
