/* What the coordinator asks of one store: how full it is, its files' sizes, its proof, the word.
 *
 * Flow:   orders -> [store_look] -> storage/share, storage/share_space, on a worker -> the answer
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_STORE_LOOK_H
#define GODWIT_AGENT_STORE_LOOK_H

#include "proto/pool_store.pb-c.h"

struct rpc_request;
struct store_questions;

/* Answer: StoreSeen, or a fault that says what is not there or cannot be done. Counted as one of
 * `questions`' workers. */
void store_look(struct store_questions *questions, const Godwit__OrderStoreLook *order,
                struct rpc_request *request);

#endif
