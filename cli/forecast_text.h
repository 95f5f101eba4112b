/* What a move is told to take, and what a guest writes, in an operator's words.
 *
 * Flow:   JobInfo, VmDirtyRateReply -> [forecast_text] -> cmd_migrate, cmd_dirty_rate, receipt_text
 * Thread: any; pure.
 */
#ifndef GODWIT_CLI_FORECAST_TEXT_H
#define GODWIT_CLI_FORECAST_TEXT_H

#include <stddef.h>

#include "proto/pool.pb-c.h"

/* Lines of two spaces and a sentence each; nothing without a forecast. */
void forecast_text_move(const Godwit__JobInfo *job, char *ret_text, size_t size);
void forecast_text_sample(const Godwit__VmDirtyRateReply *reply, char *ret_text, size_t size);

#endif
