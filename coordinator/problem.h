/* Why an operator's request was refused or failed: a GW code, one sentence, facts, a hint.
 *
 * Flow:   cluster_core, planner, job_core -> [problem] -> OperatorError
 * Thread: lives on its owner's stack or inside a job; fixed size, never allocates.
 */
#ifndef GODWIT_COORDINATOR_PROBLEM_H
#define GODWIT_COORDINATOR_PROBLEM_H

#include <stddef.h>

#include "proto/common.pb-c.h"
#include "proto/gw_code.h"

enum { PROBLEM_TEXT_SIZE = 512, PROBLEM_HINT_SIZE = 192, PROBLEM_DETAILS_MAX = 16 };

struct problem {
    enum gw_code code; /* GW_NONE: there is none */
    char text[PROBLEM_TEXT_SIZE];
    char hint[PROBLEM_HINT_SIZE];
    char vm_state[128];
    char details[PROBLEM_DETAILS_MAX][PROBLEM_HINT_SIZE];
    unsigned detail_count;
};

/* Returns -1 so that `return problem_set(...)` reads well. `problem` may be NULL. */
int problem_set(struct problem *problem, enum gw_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void problem_hint(struct problem *problem, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* What does not fit any more is left out: the first facts are the ones that matter. */
void problem_detail(struct problem *problem, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The wire form; every pointer is borrowed from `problem` and `ret_details` (PROBLEM_DETAILS_MAX).
 */
void problem_to_message(struct problem *problem, Godwit__OperatorError *ret_error,
                        char **ret_details);
void problem_from_message(struct problem *problem, const Godwit__OperatorError *error);

#endif
