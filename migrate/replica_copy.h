/* What a replica holds at one instant, copied into files while newer checkpoints become the image.
 *
 * Flow:   replica -> [replica_copy] -> guest_file_writer, disk files
 * Thread: new, fix, run, free on the copy's; before_* on whoever writes the image, any time between fix
 * and free.
 *
 *   fix        under the replica's lock: which pages there are; disks that a file system can clone are
 *   run        page after page, block after block
 *   before_*   who is about to write what is still to be copied copies it first
 *
 * The one that writes the image never waits for more than a block, and a copy that fails fails alone.
 */
#ifndef GODWIT_MIGRATE_REPLICA_COPY_H
#define GODWIT_MIGRATE_REPLICA_COPY_H

#include <stddef.h>
#include <stdint.h>

#include "migrate/replica.h"

struct bitmap;
struct fault;
struct replica_copy;

/* `disks` are the replica's, as many as `config` has files for. All is borrowed. */
int replica_copy_new(struct replica_copy **ret_copy, const struct replica_copy_config *config,
                     const struct replica_disk *disks, unsigned disk_count, struct fault *fault);
struct replica_copy *replica_copy_free(struct replica_copy *copy);

int replica_copy_fix(struct replica_copy *copy, struct fault *fault);
/* `state`: the machine's, unless disks alone are copied. Durable when it returns 0. */
int replica_copy_run(struct replica_copy *copy, const uint8_t *state, size_t state_bytes,
                     struct replica_copied *copied, struct fault *fault);

/* Region as the guest numbers them. */
void replica_copy_before_pages(struct replica_copy *copy, unsigned region,
                               const struct bitmap *pages);
void replica_copy_before_disk(struct replica_copy *copy, unsigned disk, uint64_t offset,
                              size_t count);

#endif
