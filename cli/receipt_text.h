/* What a move did, in a few lines: every phase, the downtime in its parts, the proof.
 *
 * Flow:   JobInfo with its MoveReceipt -> [receipt_text] -> migrate, job watch, job report
 * Thread: any; pure.
 */
#ifndef GODWIT_CLI_RECEIPT_TEXT_H
#define GODWIT_CLI_RECEIPT_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/pool.pb-c.h"

enum { RECEIPT_TEXT_SIZE = 8192 };

/* The marked lines, one a phase; "" without a receipt. */
void receipt_text_phases(const Godwit__JobInfo *job, unsigned width, bool color, char *ret_text,
                         size_t size);
/* "db-01 runs on node2; total 8.3 s, downtime 24 ms (goal 100 ms met, predicted 31); ..." */
void receipt_text_summary(const Godwit__JobInfo *job, char *ret_text, size_t size);
/* The page of `godwit job report`: phases, rounds, parts of the pause, costs. */
void receipt_text_report(const Godwit__JobInfo *job, unsigned width, bool color, char *ret_text,
                         size_t size);

#endif
