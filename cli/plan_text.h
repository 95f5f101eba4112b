/* A plan in words: what it will do and why, how it goes, how it ended.
 *
 * Flow:   PlanInfo -> [plan_text] -> plan_wait, cmd_plan -> terminal
 * Thread: any; no state.
 */
#ifndef GODWIT_CLI_PLAN_TEXT_H
#define GODWIT_CLI_PLAN_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "proto/pool.pb-c.h"

/* All of it: steps with reasons, forecasts, states; blockers with concessions; with `why` also the
 * hosts that were not taken. */
void plan_text_page(FILE *out, const Godwit__PlanInfo *plan, bool why);
/* "evacuate of node1   plan P4K7Q2A   12 steps, expect 24 s to 31 s" and what stays. */
void plan_text_header(FILE *out, const Godwit__PlanInfo *plan);
/* "5 of 12 done, 2 under way, 5 wait   212 MiB/s   ETA 14 s" */
void plan_text_count(const Godwit__PlanInfo *plan, char *ret_text, size_t size);
/* "web-3  node1 -> node2   precopy  51 %" or how it ended, or why it waits. */
void plan_text_step(const Godwit__PlanStep *step, char *ret_text, size_t size);
bool plan_text_is_over(const Godwit__PlanInfo *plan);

#endif
