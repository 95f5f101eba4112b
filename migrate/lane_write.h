/* A write on a lane, at a failpoint: whole and once, unless a test wants it otherwise.
 *
 * Flow:   lanes, control lane -> [lane_write] -> stream
 * Thread: the writer's.
 */
#ifndef GODWIT_MIGRATE_LANE_WRITE_H
#define GODWIT_MIGRATE_LANE_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "base/failpoint.h"

struct fault;
struct stream;

int lane_write(struct stream *stream, enum failpoint_id point, const uint8_t *bytes, size_t count,
               struct fault *fault);

#endif
