/* What the coordinator asks of a host's stores before a start or a move, and after a VM's end.
 *
 * Flow:   orders -> [store_question] -> backends, on a worker -> the answer
 * Thread: the loop's.
 *
 * Each question carries the VM's description: the host need not know the VM. Nothing here opens a
 * disk for writing or makes a tap.
 */
#ifndef GODWIT_AGENT_STORE_QUESTION_H
#define GODWIT_AGENT_STORE_QUESTION_H

#include "proto/agent.pb-c.h"

struct host_facts;
struct look;
struct loop;
struct rpc_request;

struct store_questions { /* of one agent, and how many are on workers */
    struct loop *loop;
    struct host_facts *facts;
    unsigned workers;
    struct look *looks; /* store_look's, on workers */
};

/* What stands beside the VM's disks. Answer: Stamp. */
void store_question_stamp(struct store_questions *questions, const Godwit__OrderStampRead *order,
                          struct rpc_request *request);
/* Write the word into every shared store, or wipe it. Answer: Empty. */
void store_question_word(struct store_questions *questions, const Godwit__OrderStoreWord *order,
                         struct rpc_request *request);
/* Would this host find all that the VM needs? Answer: MoveChecked, or a fault that names what. */
void store_question_move(struct store_questions *questions, const Godwit__OrderMoveCheck *order,
                         struct rpc_request *request);
/* Delete what was made for a VM that this host does not know (any more): a start that failed may have
 * left its stamp and disks. Answer: VmStatus, stopped. */
void store_question_remove(struct store_questions *questions, const Godwit__OrderVmStop *order,
                           struct rpc_request *request);

/* Until no worker has one. */
void store_questions_wait(struct store_questions *questions);

#endif
