#include "coordinator/cluster_clone.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_snapshot.h"
#include "coordinator/cluster_view.h"
#include "coordinator/words.h"
#include "proto/vm_spec.h"

enum { FILE_SIZE = 600, DISK_STEP = 4096 };

static bool is_given(const char *text)
{
    return text && text[0];
}

static const struct cluster_snapshot *find_id(const struct cluster *cluster, const char *id)
{
    for (size_t i = 0; id[0] && i < cluster->snapshot_count; i++) {
        if (strcmp(cluster->snapshots[i]->info->id, id) == 0)
            return cluster->snapshots[i];
    }
    return NULL;
}

static const char *origin_id(const struct cluster_vm *vm)
{
    for (size_t i = 0; !vm->restoring[0] && i < vm->spec->n_disks; i++) {
        if (is_given(vm->spec->disks[i]->snapshot))
            return vm->spec->disks[i]->snapshot;
    }
    return vm->restoring;
}

/* ---- what it is like ---- */
static void set_text(char **field, const char *text)
{
    char *copy = text ? strdup(text) : NULL;
    assert(copy || !text); /* control memory is small; without it there is no deciding */
    if (*field && *field != (char *)(uintptr_t)protobuf_c_empty_string)
        free(*field);
    *field = copy;
}

static const Godwit__SnapshotDisk *find_disk(const Godwit__SnapshotInfo *info, size_t index,
                                             const char *name)
{
    for (size_t i = 0; i < info->n_disks; i++) {
        if (info->disks[i]->index == index && info->disks[i]->name &&
            strcmp(info->disks[i]->name, name) == 0)
            return info->disks[i];
    }
    return NULL;
}

/* Beside the disk that it is made from. */
static int place_disk(Godwit__DiskSpec *disk, const Godwit__SnapshotDisk *from,
                      const Godwit__SnapshotInfo *info, const char *name, struct problem *problem)
{
    char file[FILE_SIZE];
    const char *slash = from->file ? strrchr(from->file, '/') : NULL;
    int n = snprintf(file, sizeof file, "%.*s%s-%s.raw",
                     slash ? (int)(slash + 1 - from->file) : 0, from->file ? from->file : "", name,
                     disk->name);
    if (!is_given(from->folder) || n < 0 || (size_t)n >= sizeof file)
        return problem_set(problem, GW_SPEC_INVALID, "%s: no place for disk %s", name, disk->name);
    if (!is_given(disk->store) || strcmp(disk->store, from->folder) != 0) {
        set_text(&disk->pool_store, NULL); /* it has moved to another store since */
        disk->has_shared = disk->shared = false;
    }
    set_text(&disk->store, from->folder);
    set_text(&disk->file, file);
    set_text(&disk->path, NULL);
    set_text(&disk->image, NULL);
    set_text(&disk->image_digest, NULL);
    set_text(&disk->snapshot, info->id);
    disk->has_size = from->bytes >= DISK_BYTES_MIN && from->bytes % DISK_STEP == 0;
    disk->size = disk->has_size ? from->bytes : 0;
    return 0;
}

static void place_nic(Godwit__NicSpec *nic, const char *bridge)
{
    set_text(&nic->mac, NULL); /* made of its id */
    set_text(&nic->bridge, is_given(bridge) ? bridge : NULL);
    nic->has_unplugged = nic->unplugged = !is_given(bridge);
}

/* A guest that goes on has read its seed: that stays what it was, to the byte. One that boots anew is told
 * who it is. */
static void keep_seed(const struct cluster_vm *vm, Godwit__VmSpec *spec)
{
    char meta[VM_SPEC_META_SIZE];
    if (!spec->cloud_init || is_given(spec->cloud_init->meta_data))
        return;
    vm_spec_meta_data(vm->spec, vm->id, meta);
    set_text(&spec->cloud_init->meta_data, meta);
}

int cluster_clone_make_spec(const struct cluster_vm *vm, const Godwit__SnapshotInfo *info,
                            const struct cluster_clone_ask *ask, bool cold, Godwit__VmSpec *spec,
                            struct problem *problem)
{
    if (!cold)
        keep_seed(vm, spec); /* made of the old name */
    set_text(&spec->name, ask->name);
    set_text(&spec->host, NULL);
    if (spec->ha)
        godwit__ha_spec__free_unpacked(spec->ha, NULL);
    spec->ha = NULL; /* it is a copy of what is protected */
    for (size_t i = 0; i < spec->n_disks; i++) {
        Godwit__DiskSpec *disk = spec->disks[i];
        const Godwit__SnapshotDisk *from = find_disk(info, i, disk->name);
        if (disk->read_only)
            continue;
        if (!from)
            return problem_set(problem, GW_VM_STATE, "snapshot %s has no disk %s of %s",
                               info->name, disk->name, vm->spec->name);
        if (place_disk(disk, from, info, spec->name, problem) != 0)
            return -1;
    }
    for (size_t i = 0; i < spec->n_nics; i++)
        place_nic(spec->nics[i], ask->bridge);
    return 0;
}

static int judge_host(const struct cluster *cluster, const char *name, struct cluster_now now,
                      struct problem *problem)
{
    const struct cluster_host *host = cluster_host(cluster, name);
    if (host && host->link_up && host->facts && cluster_host_state(host, now.ns) != HOST_DOWN)
        return 0;
    (void)problem_set(problem, GW_HOST_DOWN, "the agent of %s does not answer", name);
    problem_hint(problem, "godwit host show %s", name);
    return -1;
}

int cluster_clone_judge(struct cluster *cluster, const struct cluster_clone_ask *ask,
                        struct cluster_now now, struct cluster_snapshot **ret_snapshot,
                        Godwit__VmSpec **ret_spec, struct problem *problem)
{
    struct cluster_vm *vm = cluster_find_vm(cluster, ask->vm, problem);
    struct cluster_snapshot *snapshot =
        vm ? cluster_find_snapshot(cluster, vm, ask->snapshot, problem) : NULL;
    if (!snapshot)
        return -1;
    if (snapshot->info->is_libvirt) {
        (void)problem_set(problem, GW_VM_STATE,
                          "snapshot %s of %s is libvirt's, in the domain's own disks: libvirt makes no other domain of "
                          "it",
                          snapshot->info->name, vm->spec->name);
        problem_hint(problem, "godwit vm snapshot restore %s %s", vm->spec->name,
                     snapshot->info->name);
        return -1;
    }
    if (!id_name_is_valid(ask->name))
        return problem_set(problem, GW_USAGE,
                           "'%.80s' is no name for a VM: 1 to %d letters, digits, '.', '_', '-', "
                           "the first a letter or digit",
                           ask->name, ID_NAME_MAX);
    if (judge_host(cluster, snapshot->info->host, now, problem) != 0)
        return -1;
    Godwit__VmSpec *spec = cluster_message_copy(&vm->spec->base);
    if (!spec)
        return problem_set(problem, GW_INTERNAL, "no memory for VM %s", ask->name);
    if (cluster_clone_make_spec(vm, snapshot->info, ask, ask->cold || !snapshot->info->with_memory,
                                spec, problem) != 0) {
        godwit__vm_spec__free_unpacked(spec, NULL);
        return -1;
    }
    *ret_snapshot = snapshot;
    *ret_spec = spec;
    return 0;
}

/* ---- the record ---- */
int cluster_clone_create(struct cluster *cluster, const struct cluster_snapshot *snapshot,
                         const Godwit__VmSpec *spec, bool cold, const char *vm_id,
                         struct cluster_now now, struct cluster_vm **ret_vm,
                         struct problem *problem, struct cluster_todo *todo)
{
    const Godwit__SnapshotInfo *info = snapshot->info;
    const struct cluster_start_ask ask = {.only_on = info->host, .makes_disks = true};
    struct cluster_host *host = NULL;
    uint64_t ticket = 0;
    if (cluster_create_vm(cluster, spec, vm_id, true, now, &ticket, problem, todo) != 0)
        return -1;
    struct cluster_vm *vm = cluster_vm(cluster, vm_id);
    if (cluster_choose_start(cluster, vm, &ask, now, &host, problem) != 0) {
        cluster_drop_vm(cluster, vm); /* nothing of it was recorded yet */
        cluster_todo_deinit(todo);
        return -1;
    }
    /* What is put is what it is when all of this is stored. */
    WORDS_COPY(vm->own.owner, host->name);
    WORDS_COPY(vm->restoring, cold || !info->with_memory ? "" : info->id);
    vm->ticket = ++cluster->next_ticket;
    *ret_vm = vm;
    return 0;
}

bool cluster_clone_is_twin(const struct cluster *cluster, const struct cluster_vm *vm)
{
    const struct cluster_snapshot *origin = find_id(cluster, vm->restoring);
    return origin && strcmp(origin->info->vm_id, vm->id) != 0;
}

bool cluster_clone_is_raw(const struct cluster *cluster, const struct cluster_vm *vm)
{
    if (vm->own.phase != OWN_STOPPED || vm->suspended[0])
        return false;
    return cluster_clone_is_twin(cluster, vm) ||
           (vm->own.hiwater == 0 && origin_id(vm)[0] != '\0');
}

const struct cluster_snapshot *cluster_clone_origin(const struct cluster *cluster,
                                                    const struct cluster_vm *vm,
                                                    struct cluster_now now,
                                                    struct problem *problem)
{
    const struct cluster_snapshot *origin = find_id(cluster, origin_id(vm));
    if (!origin || strcmp(origin->info->host, vm->own.owner) != 0) {
        (void)problem_set(problem, GW_SNAPSHOT_UNKNOWN,
                          "the snapshot that %s was to be made from is not on %s any more",
                          vm->spec->name, vm->own.owner);
        problem_hint(problem, "godwit vm rm %s", vm->spec->name);
        return NULL;
    }
    return judge_host(cluster, vm->own.owner, now, problem) == 0 ? origin : NULL;
}

const char *cluster_clone_waits_for(const struct cluster *cluster, const char *snapshot_id)
{
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const struct cluster_vm *vm = cluster->vms[i];
        bool waits = cluster_clone_is_raw(cluster, vm) || cluster_clone_is_twin(cluster, vm);
        if (waits && strcmp(origin_id(vm), snapshot_id) == 0)
            return vm->spec->name;
    }
    return NULL;
}
