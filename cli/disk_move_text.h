/* A disk's move as words: how far it is, how it ended.
 *
 * Flow:   JobInfo -> job_wait -> [disk_move_text] -> stderr, stdout
 * Thread: any; no state.
 */
#ifndef GODWIT_CLI_DISK_MOVE_TEXT_H
#define GODWIT_CLI_DISK_MOVE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/pool.pb-c.h"

bool disk_move_text_is(const Godwit__JobInfo *job);
/* "web: disk root, fast:web.raw -> nfs:web-root.raw, copying: 53 %, 3.7 GiB left"; no line end. */
void disk_move_text_progress(const Godwit__JobInfo *job, char *ret_text, size_t size);
/* One line, with its end. */
void disk_move_text_summary(const Godwit__JobInfo *job, char *ret_text, size_t size);

#endif
