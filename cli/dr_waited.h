/* Which failovers and failbacks are still waited for, by what the coordinator last told.
 *
 * Flow:   dr_wait -> [dr_waited] -> lines to the operator
 * Thread: the command's; pure but for those lines.
 *
 * Over is one that did not end as "running", one that another has replaced, and one whose VM is in
 * no reply any more: its protection was ended, and nothing will ever be told of it.
 */
#ifndef GODWIT_CLI_DR_WAITED_H
#define GODWIT_CLI_DR_WAITED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/id.h"
#include "proto/dr.pb-c.h"

struct dr_waited { /* one VM */
    char vm[ID_NAME_MAX + 1], told[256];
    uint64_t began_unix_ms;
    bool is_over, is_gone; /* gone: with its protection */
};

struct dr_waiteds {
    struct dr_waited *vms; /* owned */
    size_t count, open;
};

/* `begun`: those that run. Without memory nothing is waited for. */
void dr_waiteds_init(struct dr_waiteds *waiteds, const Godwit__DrReply *begun);
void dr_waiteds_deinit(struct dr_waiteds *waiteds);
/* A whole status; `talk` gets a line for each step that is new, NULL: none. */
void dr_waiteds_take(struct dr_waiteds *waiteds, const Godwit__DrReply *reply, FILE *talk);
struct dr_waited *dr_waiteds_find(const struct dr_waiteds *waiteds, const Godwit__DrInfo *info);

#endif
