/* What libvirt tells of one snapshot of a domain, and how a pool calls it: pure.
 *
 * Flow:   XML of a snapshot -> [virt_snapshot] -> domain_snapshot, backend_libvirt
 * Thread: any; no state.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_VIRT_SNAPSHOT_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_VIRT_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/id.h"
#include "proto/snapshot.pb-c.h"

struct fault;

enum {
    VIRT_SNAPSHOT_XML_MAX = 4 << 20, /* two definitions of the domain are in it */
    VIRT_SNAPSHOT_NAME_SIZE = 256,   /* it is the name of libvirt's file */
    VIRT_SNAPSHOT_DISKS_MAX = 16,
    VIRT_SNAPSHOT_WORD_SIZE = 24,
};

struct virt_snapshot {
    char vm_id[ID_TEXT_SIZE];
    char vm_name[128];
    char name[VIRT_SNAPSHOT_NAME_SIZE]; /* libvirt's */
    uint64_t created_unix_s;
    bool with_memory;
    bool was_off;     /* nothing ran */
    bool was_running; /* and goes on running when it is restored */
    bool is_external; /* disks or memory in files beside: not gone back to */
    char disks[VIRT_SNAPSHOT_DISKS_MAX][VIRT_SNAPSHOT_WORD_SIZE]; /* "vda" */
    size_t disk_count; /* that are kept in it; the first of them are named */
};

/* All but the VM's id and name. ERR_INVALID with words; ret_snapshot is then untouched. */
int virt_snapshot_read(const char *xml, struct virt_snapshot *ret_snapshot, struct fault *fault);

/* ERR_UNSUPPORTED, with words: by its definition this domain's snapshots put other files in the place of
 * a disk. */
int virt_snapshot_judge_disks(const char *domain_xml, struct fault *fault);

/* The pool's id: the same for every look at the same snapshot. */
void virt_snapshot_id(const struct virt_snapshot *snapshot, char ret_id[static ID_TEXT_SIZE]);
/* Its name, or the beginning of its id, where libvirt's is none that a pool could say. */
void virt_snapshot_pool_name(const struct virt_snapshot *snapshot,
                             char ret_name[static ID_NAME_MAX + 1]);
/* As a pool tells it, gives; free it as a message. NULL: no memory. */
Godwit__SnapshotInfo *virt_snapshot_info(const struct virt_snapshot *snapshot, const char *host);

#endif
