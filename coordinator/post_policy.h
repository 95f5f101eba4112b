/* May the memory of a VM follow it after its move, and who said so?
 *
 * Flow:   goals, spec -> [post_policy] -> cluster_ask, cluster_forecast, rows
 * Thread: any; pure.
 *
 * Post-copy is the one move in which the loss of a host that the VM has left can end it: an operator
 * orders it, or wants the move to end above all (policy finish), which lets rounds be the first try
 * and post-copy the last.
 */
#ifndef GODWIT_COORDINATOR_POST_POLICY_H
#define GODWIT_COORDINATOR_POST_POLICY_H

#include <stdbool.h>

#include "proto/vm.pb-c.h"

/* Why a move with these goals leaves no page behind, in words for an operator; NULL: it may. Goals
 * may be NULL. */
const char *post_policy_refusal(const Godwit__MoveGoals *goals, const Godwit__VmSpec *spec);
/* Does the policy let it do so at last? */
bool post_policy_is_late(const Godwit__MoveGoals *goals, const Godwit__VmSpec *spec);
/* Until its target says otherwise, the source of such a move is needed. */
bool post_policy_may(const Godwit__MoveGoals *goals);

#endif
