#include "coordinator/cluster_snapshot.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_clone.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_found.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_test.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum { LIBVIRT_NAME_MAX = 255 }; /* of a snapshot: it is the name of a file */

static bool is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* ---- what hosts tell ---- */
static bool is_sound(const Godwit__SnapshotInfo *info)
{
    return info->id && strlen(info->id) == ID_TEXT_SIZE - 1 && id_name_is_valid(info->id) &&
           info->vm_id && id_name_is_valid(info->vm_id) && info->name &&
           id_name_is_valid(info->name) && info->host &&
           (!info->is_libvirt || (info->libvirt_name && strlen(info->libvirt_name) <= LIBVIRT_NAME_MAX));
}

static struct cluster_snapshot *find_id(const struct cluster *cluster, const char *id)
{
    for (size_t i = 0; i < cluster->snapshot_count; i++) {
        if (is_same(cluster->snapshots[i]->info->id, id))
            return cluster->snapshots[i];
    }
    return NULL;
}

static bool is_told(const Godwit__AgentSnapshots *all, const char *id)
{
    for (size_t i = 0; i < all->n_snapshots; i++) {
        if (is_sound(all->snapshots[i]) && is_same(all->snapshots[i]->id, id))
            return true;
    }
    return false;
}

static const char *vm_name(const struct cluster *cluster, const Godwit__SnapshotInfo *info)
{
    const struct cluster_vm *vm = cluster_vm(cluster, info->vm_id);
    return vm ? vm->spec->name : info->vm_name ? info->vm_name : info->vm_id;
}

static void forget(struct cluster *cluster, struct cluster_snapshot *snapshot,
                   struct cluster_todo *todo)
{
    struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_SNAPSHOT);
    put->revision = snapshot->revision;
    WORDS_COPY(put->key, snapshot->info->id);
    cluster_todo_event(todo, snapshot->info->vm_id, "snapshot %s of %s on %s is gone",
                       snapshot->info->name, vm_name(cluster, snapshot->info),
                       snapshot->info->host);
    cluster_drop_snapshot(cluster, snapshot);
}

static void learn(struct cluster *cluster, const Godwit__SnapshotInfo *info,
                  struct cluster_todo *todo)
{
    struct cluster_snapshot *snapshot = cluster_add_snapshot(cluster, info);
    if (!snapshot)
        return; /* it is told again */
    struct cluster_put *put = cluster_todo_put(todo, PUT_SNAPSHOT);
    put->object = snapshot;
    put->revision = snapshot->revision++;
    cluster_todo_event(todo, info->vm_id, "snapshot %s of %s lies on %s, %s, paused %.1f ms",
                       info->name, vm_name(cluster, info), info->host,
                       info->with_memory ? "disks and memory" : "disks only",
                       (double)info->pause_ns / 1e6);
}

void cluster_snapshots_told(struct cluster *cluster, struct cluster_host *host,
                            const Godwit__AgentSnapshots *all, struct cluster_todo *todo)
{
    for (size_t i = cluster->snapshot_count; i-- > 0;) {
        struct cluster_snapshot *snapshot = cluster->snapshots[i];
        bool is_unsaid = snapshot->info->is_libvirt && !all->domains_known; /* libvirtd is away */
        if (is_same(snapshot->info->host, host->name) && !is_unsaid &&
            !is_told(all, snapshot->info->id))
            forget(cluster, snapshot, todo);
    }
    for (size_t i = 0; i < all->n_snapshots; i++) {
        const Godwit__SnapshotInfo *info = all->snapshots[i];
        if (is_sound(info) && is_same(info->host, host->name) && !find_id(cluster, info->id))
            learn(cluster, info, todo);
    }
}

/* ---- look-up ---- */
size_t cluster_snapshot_count_here(const struct cluster *cluster, const struct cluster_vm *vm)
{
    size_t count = 0;
    for (size_t i = 0; i < cluster->snapshot_count; i++)
        count += is_same(cluster->snapshots[i]->info->vm_id, vm->id) &&
                 is_same(cluster->snapshots[i]->info->host, vm->own.owner);
    return count;
}

size_t cluster_snapshot_count(const struct cluster *cluster, const struct cluster_vm *vm)
{
    size_t count = 0;
    for (size_t i = 0; i < cluster->snapshot_count; i++)
        count += is_same(cluster->snapshots[i]->info->vm_id, vm->id);
    return count;
}

static struct cluster_snapshot *find_of(const struct cluster *cluster, const char *vm_id,
                                        const char *word)
{
    const struct cluster_vm *vm = cluster_vm(cluster, vm_id);
    struct cluster_snapshot *named = NULL, *begins = NULL;
    unsigned count = 0;
    for (size_t i = 0; word[0] && i < cluster->snapshot_count; i++) {
        struct cluster_snapshot *snapshot = cluster->snapshots[i];
        if (!is_same(snapshot->info->vm_id, vm_id))
            continue;
        if (is_same(snapshot->info->name, word) ||
            (snapshot->info->is_libvirt && is_same(snapshot->info->libvirt_name, word))) {
            if (!vm || is_same(snapshot->info->host, vm->own.owner))
                return snapshot;
            if (!named) /* of before a start elsewhere */
                named = snapshot;
        }
        if (strncmp(snapshot->info->id, word, strlen(word)) == 0) {
            begins = snapshot;
            count++;
        }
    }
    return named ? named : count == 1 ? begins : NULL;
}

struct cluster_snapshot *cluster_find_snapshot(const struct cluster *cluster,
                                               const struct cluster_vm *vm, const char *word,
                                               struct problem *problem)
{
    struct cluster_snapshot *found = find_of(cluster, vm->id, word);
    if (!found) {
        (void)problem_set(problem, GW_SNAPSHOT_UNKNOWN, "%s has no snapshot '%.80s'",
                          vm->spec->name, word);
        problem_hint(problem, "godwit vm snapshot ls %s", vm->spec->name);
    }
    return found;
}

const struct cluster_snapshot *cluster_snapshot_to_restore(const struct cluster *cluster,
                                                           const struct cluster_vm *vm,
                                                           const char *host)
{
    const struct cluster_snapshot *found = vm->restoring[0] ? find_id(cluster, vm->restoring) : NULL;
    return found && is_same(found->info->host, host) ? found : NULL;
}

/* ---- what may be done ---- */
static int wrong_state(const struct cluster *cluster, const struct cluster_vm *vm,
                       struct cluster_now now, struct problem *problem, const char *what)
{
    (void)problem_set(problem, GW_VM_STATE, "%s %s", vm->spec->name, what);
    cluster_vm_place(cluster, vm, now.ns, problem->vm_state, sizeof problem->vm_state);
    return -1;
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

static int judge_running(const struct cluster *cluster, const struct cluster_vm *vm,
                         struct cluster_now now, struct problem *problem)
{
    if (vm->own.phase != OWN_RUN)
        return wrong_state(cluster, vm, now, problem, "neither runs nor is stopped just now");
    if (vm->state == GODWIT__VM_STATE__VM_STATE_HELD || vm->in_postcopy)
        return wrong_state(cluster, vm, now, problem, "is held by a move and goes on by itself");
    if (vm->dr && !dr_step_is(vm->dr, "away")) {
        (void)wrong_state(cluster, vm, now, problem,
                          "is replicated to another host: no snapshot is taken of it meanwhile");
        problem_hint(problem, "godwit dr unprotect %s", vm->spec->name);
        return -1;
    }
    return 0;
}

/* Whatever is kept of it would keep it there, and the protection that it belongs to from ending. */
static int judge_copy(const struct cluster *cluster, const struct cluster_vm *vm,
                      struct cluster_now now, struct problem *problem)
{
    if (!dr_test_is_copy(vm))
        return 0;
    (void)wrong_state(cluster, vm, now, problem,
                      "is the test copy of a replica, which is taken away whole: no snapshot is taken of it");
    problem_hint(problem, "godwit dr test %s --end", vm->spec->name);
    return -1;
}

static int judge_stopped(const struct cluster *cluster, const struct cluster_vm *vm,
                         const struct cluster_snapshot_ask *ask, struct cluster_now now,
                         struct problem *problem)
{
    if (vm->suspended[0])
        return wrong_state(cluster, vm, now, problem,
                           "is suspended: resume it, or stop it to give its memory up");
    if (ask->with_memory)
        return wrong_state(cluster, vm, now, problem, "is stopped: there is no memory to keep");
    if (!vm->own.owner[0])
        return wrong_state(cluster, vm, now, problem, "has never run, so no host has its disks");
    return 0;
}

static int make_name(const struct cluster *cluster, const struct cluster_vm *vm, const char *wanted,
                     struct cluster_now now, char ret_name[static OWN_HOST_SIZE],
                     struct problem *problem)
{
    time_t seconds = (time_t)(now.unix_ms / 1000);
    struct tm utc;
    if (wanted && wanted[0] && !id_name_is_valid(wanted))
        return problem_set(problem, GW_USAGE,
                           "a snapshot's name is letters, digits, '.', '_' and '-', at most %d; "
                           "found '%.80s'",
                           ID_NAME_MAX, wanted);
    if (wanted && wanted[0])
        (void)snprintf(ret_name, OWN_HOST_SIZE, "%s", wanted);
    else if (!gmtime_r(&seconds, &utc) ||
             strftime(ret_name, OWN_HOST_SIZE, "at-%Y%m%d-%H%M%S", &utc) == 0)
        return problem_set(problem, GW_INTERNAL, "no name for a snapshot");
    for (size_t i = 0; i < cluster->snapshot_count; i++) {
        const Godwit__SnapshotInfo *info = cluster->snapshots[i]->info;
        if (is_same(info->vm_id, vm->id) && is_same(info->name, ret_name)) {
            (void)problem_set(problem, GW_NAME_TAKEN, "%s has a snapshot %s already",
                              vm->spec->name, ret_name);
            problem_hint(problem, "godwit vm snapshot ls %s", vm->spec->name);
            return -1;
        }
    }
    return 0;
}

int cluster_snapshot_judge_take(struct cluster *cluster, const struct cluster_snapshot_ask *ask,
                                struct cluster_now now, struct cluster_snapshot_order *ret_order,
                                struct problem *problem)
{
    struct cluster_vm *vm = cluster_find_vm(cluster, ask->vm, problem);
    struct cluster_snapshot_order order = {.vm = vm};
    if (!vm || cluster_judge_free(cluster, vm, now, problem) != 0 ||
        judge_copy(cluster, vm, now, problem) != 0)
        return -1;
    if (ask->with_memory && ask->disks_only)
        return problem_set(problem, GW_USAGE, "--ram and --disks-only exclude each other");
    order.is_stopped = vm->own.phase == OWN_STOPPED;
    order.disks_only = ask->disks_only || order.is_stopped;
    /* Its disks would be other files from then on, and the record's definition, which HA starts, the old ones. */
    if (vm_spec_is_libvirt(vm->spec) && order.disks_only && !order.is_stopped)
        return wrong_state(cluster, vm, now, problem,
                           "is a libvirt domain that runs: libvirt would keep its disks by putting others in their "
                           "place, which a pool does not do; stopped or with its memory it is kept in its own");
    int r = order.is_stopped ? judge_stopped(cluster, vm, ask, now, problem)
                             : judge_running(cluster, vm, now, problem);
    if (r == 0)
        r = judge_host(cluster, vm->own.owner, now, problem);
    if (r == 0)
        r = make_name(cluster, vm, ask->name, now, order.name, problem);
    if (r != 0)
        return -1;
    vm->ticket = ++cluster->next_ticket;
    *ret_order = order;
    return 0;
}

int cluster_snapshot_judge_restore(struct cluster *cluster, const char *vm_word, const char *word,
                                   struct cluster_now now, struct cluster_vm **ret_vm,
                                   struct cluster_snapshot **ret_snapshot, struct problem *problem)
{
    struct cluster_vm *vm = cluster_find_vm(cluster, vm_word, problem);
    struct cluster_snapshot *snapshot =
        vm ? cluster_find_snapshot(cluster, vm, word, problem) : NULL;
    if (!snapshot || cluster_judge_free(cluster, vm, now, problem) != 0)
        return -1;
    if (!is_same(snapshot->info->host, vm->own.owner)) {
        (void)problem_set(problem, GW_VM_STATE,
                          "snapshot %s lies on %s, and %s is on %s: it is restored where it lies",
                          snapshot->info->name, snapshot->info->host, vm->spec->name,
                          vm->own.owner[0] ? vm->own.owner : "no host");
        cluster_vm_place(cluster, vm, now.ns, problem->vm_state, sizeof problem->vm_state);
        problem_hint(problem, "godwit migrate %s --to %s", vm->spec->name, snapshot->info->host);
        return -1;
    }
    if (judge_host(cluster, snapshot->info->host, now, problem) != 0)
        return -1;
    *ret_vm = vm;
    *ret_snapshot = snapshot;
    return 0;
}

int cluster_snapshot_restore(struct cluster *cluster, const char *vm_word, const char *word,
                             struct cluster_now now, uint64_t *ret_ticket, struct problem *problem,
                             struct cluster_todo *todo)
{
    struct cluster_vm *vm;
    struct cluster_snapshot *snapshot;
    if (cluster_snapshot_judge_restore(cluster, vm_word, word, now, &vm, &snapshot, problem) != 0)
        return -1;
    if (vm->own.phase != OWN_STOPPED)
        return wrong_state(cluster, vm, now, problem, "is not stopped");
    if (vm->suspended[0])
        return wrong_state(cluster, vm, now, problem,
                           "is suspended; stop it to give its memory up");
    /* In the same transaction as STARTING: whoever repeats the start repeats it from there. */
    WORDS_COPY(vm->restoring, snapshot->info->id);
    if (cluster_start_on(cluster, vm, cluster_host(cluster, snapshot->info->host), now, problem,
                         todo) != 0) {
        vm->restoring[0] = '\0';
        return -1;
    }
    *ret_ticket = vm->ticket;
    cluster_todo_event(todo, vm->id, "VM %s goes back to snapshot %s", vm->spec->name,
                       snapshot->info->name);
    return 0;
}

/* The libvirt of a host that does not run it would write into images that another host's QEMU has open. */
static int judge_images(const struct cluster *cluster, const struct cluster_vm *vm,
                        const Godwit__SnapshotInfo *info, struct cluster_now now,
                        struct problem *problem)
{
    const char *name = vm_name(cluster, info);
    const char *other = info->is_libvirt ? cluster_found_elsewhere(cluster, info->vm_id, info->host) : NULL;

    if (info->is_libvirt && vm && !is_same(vm->own.owner, info->host))
        other = vm->own.owner[0] ? vm->own.owner : "no host";
    if (!other)
        return 0;
    (void)problem_set(problem, GW_VM_STATE,
                      "snapshot %s lies on %s, and %s is on %s: its disks are not changed by the libvirt of "
                      "another host; virsh snapshot-delete --metadata on %s lets that one forget it, and leaves "
                      "the disks as they are",
                      info->name, info->host, name, other, info->host);
    if (vm)
        cluster_vm_place(cluster, vm, now.ns, problem->vm_state, sizeof problem->vm_state);
    problem_hint(problem, "virsh snapshot-delete --metadata %s '%.80s'", name, info->libvirt_name);
    return -1;
}

int cluster_snapshot_judge_remove(struct cluster *cluster, const char *vm_word, const char *word,
                                  struct cluster_now now, struct cluster_snapshot **ret_snapshot,
                                  struct problem *problem)
{
    struct problem unknown;
    struct cluster_vm *vm = cluster_find_vm(cluster, vm_word, &unknown);
    struct cluster_snapshot *snapshot = vm ? cluster_find_snapshot(cluster, vm, word, problem)
                                           : find_of(cluster, vm_word, word);
    if (!vm && !snapshot)
        *problem = unknown;
    if (!snapshot || (vm && cluster_judge_free(cluster, vm, now, problem) != 0))
        return -1;
    if (vm && is_same(vm->restoring, snapshot->info->id))
        return wrong_state(cluster, vm, now, problem, "is being restored from it");
    const char *waits = cluster_clone_waits_for(cluster, snapshot->info->id);
    if (waits) {
        (void)problem_set(problem, GW_VM_BUSY, "VM %s is still to be made from snapshot %s", waits,
                          snapshot->info->name);
        problem_hint(problem, "godwit vm show %s", waits);
        return -1;
    }
    if (judge_images(cluster, vm, snapshot->info, now, problem) != 0 ||
        judge_host(cluster, snapshot->info->host, now, problem) != 0)
        return -1;
    *ret_snapshot = snapshot;
    return 0;
}
