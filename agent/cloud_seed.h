/* The NoCloud seed of a VM: the disk "cidata", made from its description alone.
 *
 * Flow:   VmSpec -> [cloud_seed] -> storage/iso_image -> a sealed memory file
 * Thread: any.
 *
 * It lies in memory and goes with its VM: nothing on disk has to be kept alike or cleaned up.
 */
#ifndef GODWIT_AGENT_CLOUD_SEED_H
#define GODWIT_AGENT_CLOUD_SEED_H

#include <stdint.h>

#include "proto/vm_spec.pb-c.h"

struct fault;

int cloud_seed_open(const Godwit__VmSpec *spec, const char *vm_id, int *ret_fd, uint64_t *ret_bytes,
                    struct fault *fault);

#endif
