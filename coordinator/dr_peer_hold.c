#include "coordinator/dr_peer_hold.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_ask.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_tell.h"
#include "coordinator/dr_test.h"
#include "coordinator/planner.h"
#include "coordinator/pool_store.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum { DISK_BYTES_SLACK = 1 }; /* the seed of cloud-init lies after the disks */

static const char *word(const char *text)
{
    return text ? text : "";
}

static void spec_freep(Godwit__VmSpec **spec)
{
    if (*spec)
        godwit__vm_spec__free_unpacked(*spec, NULL);
}

static int judge_wanted(const Godwit__PeerDrHold *wanted, struct problem *problem)
{
    const Godwit__VmSpec *spec = wanted->spec;
    struct fault fault = {0};
    if (!id_name_is_valid(word(wanted->vm_id)) || strlen(wanted->vm_id) >= ID_TEXT_SIZE ||
        !id_name_is_valid(word(wanted->protection_id)) ||
        strlen(wanted->protection_id) >= ID_TEXT_SIZE || !wanted->link_no || !wanted->generation ||
        wanted->generation > DR_PEER_NUMBER_MAX)
        return problem_set(problem, GW_USAGE, "the request to hold a replica lacks a part");
    if (!spec || !id_name_is_valid(word(spec->name)) || !spec->memory || !spec->memory->size ||
        !spec->cpu || vm_spec_is_libvirt(spec) || spec->test_of)
        return problem_set(problem, GW_SPEC_INVALID,
                           "what the other pool describes is no VM of "
                           "which a replica could be held");
    if (vm_spec_judge(spec, &fault) < 0)
        return problem_set(problem, GW_SPEC_INVALID, "%.300s", fault.text);
    if (wanted->n_disk_bytes != vm_spec_disk_count(spec) ||
        wanted->n_disk_bytes > DISKS_MAX + DISK_BYTES_SLACK)
        return problem_set(problem, GW_SPEC_INVALID, "%s has %u disks, and sizes of %zu were told",
                           spec->name, vm_spec_disk_count(spec), wanted->n_disk_bytes);
    for (size_t i = 0; i < spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = spec->disks[i];
        if (!word(disk->store)[0] || word(disk->path)[0])
            return problem_set(problem, GW_SPEC_INVALID,
                               "disk %.40s of %s is given by a path, which another pool may not "
                               "name here",
                               word(disk->name), spec->name);
        if (disk->read_only || disk->shared) /* nothing of them would come with the replica */
            return problem_set(problem, GW_SPEC_INVALID,
                               "disk %.40s of %s is %s: what a peer pool is to hold comes whole with the replica",
                               word(disk->name), spec->name, disk->read_only ? "read-only" : "shared");
    }
    return 0;
}

static bool lies_beneath(const char *path, const char *folder)
{
    size_t count = strlen(folder);
    while (count > 1 && folder[count - 1] == '/')
        count--;
    return count > 1 && strncmp(path, folder, count) == 0 && path[count] == '/' &&
           !strstr(path, "/../") && !strstr(path, "/./");
}

/* A file of our hosts' that the guest would be given to read. */
static bool may_name(const struct cluster *cluster, const char *path)
{
    for (size_t i = 0; i < cluster->store_count; i++) {
        if (lies_beneath(path, cluster->stores[i]->store->path))
            return true;
    }
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const struct cluster_vm *vm = cluster->vms[i];
        bool is_own = (!vm->dr || !dr_peer_holds(vm->dr)) && !dr_test_is_copy(vm);
        if (is_own && (strcmp(path, word(vm->spec->kernel)) == 0 ||
                       strcmp(path, word(vm->spec->initrd)) == 0))
            return true;
    }
    return false;
}

/* Another pool names stores of ours and what lies in them, and nothing else of our hosts. */
static int judge_places(const struct cluster *cluster, const Godwit__VmSpec *spec,
                        struct problem *problem)
{
    const char *const files[] = {word(spec->kernel), word(spec->initrd)};
    for (size_t i = 0; i < spec->n_disks; i++) {
        if (!word(spec->disks[i]->pool_store)[0]) {
            (void)problem_set(problem, GW_SPEC_INVALID,
                              "disk %.40s of %s lies in a folder that is no store of the other pool",
                              word(spec->disks[i]->name), spec->name);
            problem_hint(problem, "give its folder a name in both pools: godwit store add");
            return -1;
        }
        if (vm_spec_disk_is_shared(spec->disks[i])) /* as the store is here */
            return problem_set(problem, GW_SPEC_INVALID,
                               "disk %.40s of %s lies in a store that hosts of the other pool share",
                               word(spec->disks[i]->name), spec->name);
    }
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        if (files[i][0] && !may_name(cluster, files[i])) {
            (void)problem_set(problem, GW_SPEC_INVALID,
                              "%.160s is in no store of the other pool, and none of its own VMs starts from it", files[i]);
            problem_hint(problem, "there: godwit store add boot %.160s", "FOLDER");
            return -1;
        }
    }
    return 0;
}

/* A store that has a name there has it here, wherever it lies. */
static int resolve(const struct cluster *cluster, const Godwit__VmSpec *given,
                   Godwit__VmSpec **ret_spec, struct problem *problem)
{
    AUTO(spec_freep) Godwit__VmSpec *copy = cluster_message_copy(&given->base);
    if (!copy)
        return problem_set(problem, GW_INTERNAL, "no memory for VM %s", given->name);
    for (size_t i = 0; i < copy->n_disks; i++) {
        Godwit__DiskSpec *disk = copy->disks[i];
        dr_set_text(&disk->image, ""); /* it was made from that there; here it comes with the replica */
        dr_set_text(&disk->image_digest, "");
        dr_set_text(&disk->snapshot, "");
        if (!word(disk->pool_store)[0])
            continue;
        dr_set_text(&disk->store, disk->pool_store);
        dr_set_text(&disk->pool_store, "");
    }
    return pool_store_resolve(cluster, copy, ret_spec, problem);
}

static int choose(struct cluster *cluster, const Godwit__VmSpec *spec,
                  const Godwit__PeerDrHold *wanted, struct cluster_now now,
                  struct cluster_host **ret_host, struct problem *problem)
{
    const struct planner_stores stores = pool_store_planner(cluster, now.ns);
    const struct planner_ask ask = {
        .vm_name = spec->name,
        .spec = spec,
        .stores = &stores,
        .cpu_vendor = word(wanted->cpu_vendor)[0] ? wanted->cpu_vendor : NULL,
        .baseline = spec->cpu->baseline,
        .memory_bytes = spec->memory->size,
        .layout_vm = LAYOUT_NONE,
        .landing_bytes = wanted->disk_bytes,
    };
    AUTO_FREE struct planner_host *hosts = cluster_planner_hosts(cluster, now.ns);
    if (!hosts)
        return problem_set(problem, GW_INTERNAL, "no memory to choose a host");
    int chosen = planner_choose(hosts, cluster->host_count, &ask, problem);
    if (chosen < 0)
        return -1;
    *ret_host = cluster->hosts[chosen];
    return 0;
}

static int judge_new(struct cluster *cluster, const Godwit__VmSpec *spec, struct problem *problem)
{
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (strcmp(cluster->vms[i]->spec->name, spec->name) == 0)
            return problem_set(problem, GW_NAME_TAKEN, "there already is a VM %s in the other pool",
                               spec->name);
    }
    if (cluster->vm_count == VMS_MAX)
        return problem_set(problem, GW_POOL_FULL, "the pool has %d VMs, which is all it may have",
                           VMS_MAX);
    return cluster_judge_alone(cluster, spec, problem);
}

static struct cluster_dr *make(struct cluster *cluster, Godwit__VmSpec *spec,
                               const struct cluster_host *host, const char *peer_pool_id,
                               const char *peer_name, const Godwit__PeerDrHold *wanted,
                               struct cluster_now now, struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_add_vm(cluster, wanted->vm_id);
    char source[DR_PEER_NAME_SIZE];
    assert(vm); /* control memory is small; without it there is no deciding */
    vm->spec = spec;
    vm->want = WANT_STOPPED;
    vm->own.gen = vm->own.hiwater = wanted->generation;
    WORDS_COPY(vm->own.owner, host->name);
    struct cluster_put *put = cluster_todo_put(todo, PUT_VM);
    put->object = vm;
    put->revision = vm->revision++;
    cluster_put_own(vm, now, todo);
    struct cluster_dr *dr = dr_ask_new_record(cluster, vm, now);
    Godwit__DrRecord *info = dr->info;
    (void)snprintf(source, sizeof source, "pool:%.63s", peer_name);
    dr_set_text(&info->peer_pool_id, peer_pool_id);
    dr_set_text(&info->peer_host, host->name);
    dr_set_text(&info->protection_id, wanted->protection_id);
    dr_set_text(&info->source, source);
    dr_set_text(&info->target, host->name);
    info->has_peer_holds = info->peer_holds = true;
    info->has_generation = info->has_disks_only = info->has_rpo_ms = true;
    info->generation = wanted->generation;
    info->disks_only = wanted->disks_only;
    info->rpo_ms = wanted->rpo_ms;
    dr->cross = (struct dr_cross){.step = DR_CROSS_HOLD, .generation = wanted->generation};
    cluster_todo_event(todo, vm->id, "a replica of %s is held on %s for pool %s", spec->name,
                       host->name, peer_name);
    return dr;
}

/* What is there of it is none of what is asked for: whose, and who ends it. The other pool tells its operator so, and asks
 * again by itself. */
static int refuse_other(const struct cluster *cluster, const struct cluster_vm *vm,
                        const char *peer_pool_id, struct cluster_now now, struct problem *problem)
{
    const struct cluster_dr *dr = vm->dr;
    const char *name = vm->spec->name;
    char reason[CLUSTER_REASON_SIZE];
    bool holds = dr && dr_peer_holds(dr);
    if (!holds)
        return problem_set(problem, GW_DR_STATE,
                           "%.60s is a VM of the other pool already: %sgodwit vm rm %.60s there, where it is the "
                           "old one",
                           name, dr ? "godwit dr unprotect --force and " : "", name);
    if (strcmp(dr->info->peer_pool_id, peer_pool_id) != 0)
        return problem_set(problem, GW_DR_STATE, "the other pool holds %.60s for a third one", name);
    if (dr_step_is(dr, "end")) {
        dr_tell_ending(cluster, dr, now, reason);
        return problem_set(problem, GW_DR_STATE,
                           "the other pool still ends the earlier protection of %.60s (%s); this one begins "
                           "then by itself",
                           name, reason);
    }
    if (dr_step_is(dr, "hold"))
        return problem_set(problem, GW_DR_STATE,
                           "the other pool still holds %.60s by an earlier protection, on %.60s: godwit dr "
                           "unprotect %.60s --force there drops it, then this one begins by itself",
                           name, dr->info->target, name);
    return problem_set(problem, GW_DR_STATE,
                       "the other pool took %.60s over by an earlier protection: see that it runs in one pool "
                       "only",
                       name);
}

static int find_or_make(struct cluster *cluster, const char *peer_pool_id, const char *peer_name,
                        const Godwit__PeerDrHold *wanted, struct cluster_now now,
                        struct cluster_dr **ret_dr, struct problem *problem,
                        struct cluster_todo *todo)
{
    const struct cluster_vm *vm = cluster_vm(cluster, wanted->vm_id);
    struct cluster_dr *dr = vm ? vm->dr : NULL;
    struct cluster_host *host = NULL;
    AUTO(spec_freep) Godwit__VmSpec *spec = NULL;
    bool is_it = dr && dr_peer_holds(dr) && strcmp(dr->info->peer_pool_id, peer_pool_id) == 0 &&
                 strcmp(dr->info->protection_id, wanted->protection_id) == 0;
    *ret_dr = dr;
    if (is_it)
        return dr_step_is(dr, "hold")
                   ? 0
                   : problem_set(problem, GW_DR_STATE, "the other pool is just taking %s over",
                                 vm->spec->name);
    if (vm)
        return refuse_other(cluster, vm, peer_pool_id, now, problem);
    if (!wanted->is_new) /* it was dropped there by an operator's word */
        return problem_set(problem, GW_DR_UNPROTECTED,
                           "the other pool holds no replica of it any more");
    if (resolve(cluster, wanted->spec, &spec, problem) != 0 ||
        judge_places(cluster, spec, problem) != 0 || judge_new(cluster, spec, problem) != 0 ||
        choose(cluster, spec, wanted, now, &host, problem) != 0)
        return -1;
    *ret_dr = make(cluster, spec, host, peer_pool_id, peer_name, wanted, now, todo);
    spec = NULL; /* the VM's */
    dr_peer_keep(*ret_dr, todo);
    return 0;
}

int dr_peer_hold(struct cluster *cluster, const char *peer_pool_id, const char *peer_name,
                 const Godwit__PeerDrHold *wanted, struct cluster_now now,
                 Godwit__PeerDrHeld *ret_held, struct problem *problem, struct cluster_todo *todo)
{
    struct cluster_dr *dr = NULL;
    if (judge_wanted(wanted, problem) != 0 ||
        find_or_make(cluster, peer_pool_id, peer_name, wanted, now, &dr, problem, todo) != 0)
        return -1;
    Godwit__DrRecord *info = dr->info;
    if (info->is_stale ||
        (info->take_generation && wanted->generation <= info->take_generation))
        return problem_set(
            problem, GW_DR_STATE,
            "a failover of it did not come through: godwit dr unprotect, and protect "
            "it anew");
    if (!dr_host_is_up(cluster, info->target, now))
        return problem_set(problem, GW_HOST_DOWN, "%s, which has the replica, does not answer",
                           info->target);
    for (size_t i = 0; i < wanted->n_disk_bytes && i < ARRAY_COUNT(dr->vm->disk_bytes); i++)
        dr->vm->disk_bytes[i] = wanted->disk_bytes[i];
    if (info->generation != wanted->generation || info->rpo_ms != wanted->rpo_ms) {
        info->generation = wanted->generation;
        info->rpo_ms = wanted->rpo_ms;
        dr->link_no = 0;
        dr_put(dr, todo);
    }
    if (dr->link_no != wanted->link_no) {
        dr->link_no = wanted->link_no;
        dr_ask_anew(dr);
        dr->address[0] = '\0';
    }
    godwit__peer_dr_held__init(ret_held);
    ret_held->host = info->target;
    ret_held->has_is_ready = true;
    ret_held->is_ready = dr->in_ready && dr->address[0];
    if (!ret_held->is_ready)
        return dr->trouble[0] && !dr->is_asked && !dr->in_ready
                   ? problem_set(problem, GW_DR_STATE, "%.60s: %.180s", info->target, dr->trouble)
                   : 0;
    ret_held->address = dr->address;
    ret_held->has_psk = true;
    ret_held->psk = (ProtobufCBinaryData){.data = dr->psk, .len = sizeof dr->psk};
    return 0;
}
