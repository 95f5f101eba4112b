/* Does what is dirty come before the switchover, or after it? Asked after every round that is not
 * the last.
 *
 * Flow:   converge, throttle, deadline -> [post_choice] -> source_core
 * Thread: the move's own; pure.
 *
 * An operator may order it: then one pass is made. Where he only wants the move to end (policy
 * finish) it is the last way out: once the writers are held back as far as a guest is held before
 * it, and what is dirty still does not shrink to the goal; or once another round would not end
 * before the deadline.
 */
#ifndef GODWIT_MIGRATE_POST_CHOICE_H
#define GODWIT_MIGRATE_POST_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/converge.h"
#include "proto/migration.pb-c.h"

/* Of their time, before pages are left behind rather than writers held back more: what the policy
 * balanced may take. */
enum { POST_CHOICE_PERMILLE = 800 };

struct post_choice {
    bool ordered; /* after one pass, whatever is left */
    bool allowed; /* where rounds lead nowhere */
    unsigned throttle_permille;     /* that the round was held back by */
    uint64_t bandwidth_bytes_per_s; /* 0: no limit */
    uint64_t left_ns;               /* until the deadline; 0: it has come */
};

/* NONE: another round. `converge` has learned from the last one. */
Godwit__MovePostcopyReason post_choice_make(const struct converge *converge,
                                            const struct post_choice *facts);

#endif
