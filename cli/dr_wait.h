/* Waits for failovers and failbacks that were begun: a line for each step of each VM, and what it
 * cost at the end.
 *
 * Flow:   cmd_dr -> [dr_wait] -> client, dr_waited; DrInfo -> lines
 * Thread: the command's.
 *
 * The coordinator is asked; one that is gone is tried again for 30 s: what it has begun goes on
 * from its record.
 */
#ifndef GODWIT_CLI_DR_WAIT_H
#define GODWIT_CLI_DR_WAIT_H

#include "proto/dr.pb-c.h"

struct context;

/* `begun`: as they were answered to the command that began them. Returns an exit code. */
int dr_wait(struct context *context, const Godwit__DrReply *begun);

#endif
