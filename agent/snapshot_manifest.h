/* What a snapshot's folder says of itself: a SnapshotInfo with magic, version and digest.
 *
 * Flow:   snapshot_folder -> [snapshot_manifest] -> file;  file -> [snapshot_manifest] -> snapshot_folder
 * Thread: any; pure.
 *
 * u64 magic, u32 version, u32 body bytes, u64 XXH3-64 of the body, packed SnapshotInfo; nothing behind it.
 */
#ifndef GODWIT_AGENT_SNAPSHOT_MANIFEST_H
#define GODWIT_AGENT_SNAPSHOT_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "proto/snapshot.pb-c.h"

struct fault;

enum { SNAPSHOT_MANIFEST_BYTES_MAX = 1 << 16 };

/* Gives malloc'ed bytes. ERR_INVALID: what decode would refuse. */
int snapshot_manifest_encode(const Godwit__SnapshotInfo *info, uint8_t **ret_bytes,
                             size_t *ret_count, struct fault *fault);
/* Gives the message: ids, names and paths in it are fit to be used. */
int snapshot_manifest_decode(const uint8_t *bytes, size_t count, Godwit__SnapshotInfo **ret_info,
                             struct fault *fault);

#endif
