#include "coordinator/dr_ask.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_peer_ask.h"
#include "coordinator/dr_tell.h"
#include "coordinator/dr_test.h"
#include "coordinator/planner.h"
#include "coordinator/pool_store.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

static const char *word(const char *text)
{
    return text ? text : "";
}

static bool is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static int refuse(const struct cluster *cluster, const struct cluster_vm *vm,
                  struct cluster_now now, struct problem *problem)
{
    cluster_vm_place(cluster, vm, now.ns, problem->vm_state, sizeof problem->vm_state);
    return -1;
}

/* ---- protect ----------------------------------------------------------------------------------
 */

static int judge_request(const Godwit__DrRequest *request, struct problem *problem)
{
    if (request->has_rpo_ms && (request->rpo_ms < DR_RPO_MS_MIN || request->rpo_ms > DR_RPO_MS_MAX))
        return problem_set(problem, GW_USAGE, "--rpo of %llu ms, possible are %d ms to 1 h",
                           (unsigned long long)request->rpo_ms, DR_RPO_MS_MIN);
    if (request->delay_ms > DR_RPO_MS_MAX)
        return problem_set(problem, GW_USAGE, "--delay may be 1 h at most");
    if (word(request->group)[0] && !id_name_is_valid(request->group))
        return problem_set(problem, GW_USAGE,
                           "a group's name is letters, digits, '.', '_' and '-', at most %d",
                           ID_NAME_MAX);
    if ((request->has_order || request->has_delay_ms) && !word(request->group)[0])
        return problem_set(problem, GW_USAGE, "--order and --delay are within a --group");
    return 0;
}

/* What a disk must be so that a copy of it on another host makes sense. */
static int judge_disks(const struct cluster_vm *vm, bool disks_only, struct problem *problem)
{
    unsigned written = 0;
    for (size_t i = 0; i < vm->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = vm->spec->disks[i];
        written += !disk->read_only;
        if (disk->read_only)
            continue;
        if (vm_spec_disk_is_shared(disk))
            return problem_set(problem, GW_DR_STATE,
                               "disk %s of %s lies in a shared store, which the other host would "
                               "write too; HA restarts such a VM: godwit ha add %s",
                               disk->name, vm->spec->name, vm->spec->name);
        if (!word(disk->store)[0]) {
            (void)problem_set(problem, GW_DR_STATE,
                              "disk %s of %s is given by its path; one that is replicated lies in "
                              "a store",
                              disk->name, vm->spec->name);
            problem_hint(problem, "describe it by store: and file: instead of path:");
            return -1;
        }
    }
    if (disks_only && written == 0)
        return problem_set(problem, GW_USAGE, "--disks-only: %s writes no disk", vm->spec->name);
    return 0;
}

/* Could it run there, its disks beside it? */
static int judge_target(const struct cluster *cluster, const struct cluster_vm *vm,
                        const struct cluster_host *target, struct cluster_now now,
                        struct problem *problem)
{
    const struct cluster_host *source = cluster_host(cluster, vm->own.owner);
    const struct planner_stores stores = pool_store_planner(cluster, now.ns);
    const struct planner_ask ask = {
        .vm_name = vm->spec->name,
        .spec = vm->spec,
        .stores = &stores,
        .cpu_vendor = source && source->facts ? source->facts->cpu_vendor : NULL,
        .baseline = vm->spec->cpu->baseline,
        .memory_bytes = vm->spec->memory->size,
        .layout_vm = LAYOUT_NONE,
        .only_on = target->name,
        .landing_bytes = vm->disk_bytes,
    };
    AUTO_FREE struct planner_host *hosts = cluster_planner_hosts(cluster, now.ns);
    if (!hosts)
        return problem_set(problem, GW_INTERNAL, "no memory to look at %s", target->name);
    return planner_choose(hosts, cluster->host_count, &ask, problem) < 0 ? -1 : 0;
}

static int judge_vm(const struct cluster *cluster, const struct cluster_vm *vm,
                    struct cluster_now now, struct problem *problem)
{
    if (cluster_judge_free(cluster, vm, now, problem) != 0)
        return -1;
    if (vm_spec_is_libvirt(vm->spec)) {
        (void)problem_set(problem, GW_DR_STATE,
                          "%s is a libvirt domain; replicas are of godwit-vm's guests",
                          vm->spec->name);
        return refuse(cluster, vm, now, problem);
    }
    if (dr_test_is_copy(vm)) {
        (void)problem_set(problem, GW_DR_STATE, "%s is a test copy: it is not protected itself",
                          vm->spec->name);
        return refuse(cluster, vm, now, problem);
    }
    if (vm->own.phase != OWN_RUN || vm->want != WANT_RUNNING) {
        (void)problem_set(problem, GW_VM_STATE, "%s does not run", vm->spec->name);
        problem_hint(problem, "godwit vm start %s", vm->spec->name);
        return refuse(cluster, vm, now, problem);
    }
    return 0;
}

struct cluster_dr *dr_ask_new_record(struct cluster *cluster, struct cluster_vm *vm,
                                     struct cluster_now now)
{
    struct cluster_dr *dr = cluster_add_dr(cluster, vm);
    Godwit__DrRecord *info = malloc(sizeof *info);
    assert(dr && info); /* control memory is small; without it there is no deciding */
    godwit__dr_record__init(info);
    dr->info = info;
    char **texts[] = {&info->vm_id,      &info->vm,         &info->group,   &info->op,
                      &info->home,       &info->split_host, &info->last_op, &info->last_state,
                      &info->last_error, &info->step,       &info->peer_pool_id,
                      &info->peer_host};
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        dr_set_text(texts[i], "");
    dr_set_text(&info->vm_id, vm->id);
    dr_set_text(&info->vm, vm->spec->name);
    info->has_created_unix_ms = true;
    info->created_unix_ms = now.unix_ms;
    return dr;
}

/* What is not given stays, or is what it is by itself. */
static void fill(Godwit__DrRecord *info, const Godwit__DrRequest *request)
{
    bool is_new = !info->has_rpo_ms;
    info->has_rpo_ms = true;
    if (is_new || request->has_rpo_ms)
        info->rpo_ms = request->has_rpo_ms ? request->rpo_ms : 5000;
    info->has_disks_only = info->has_auto_take = info->has_bandwidth_bytes_per_s = true;
    info->has_order = info->has_delay_ms = true;
    if (is_new || request->has_disks_only)
        info->disks_only = request->disks_only;
    if (is_new || request->has_auto_take)
        info->auto_take = request->auto_take;
    if (is_new || request->has_bandwidth_bytes_per_s)
        info->bandwidth_bytes_per_s = request->bandwidth_bytes_per_s;
    if (request->group) {
        dr_set_text(&info->group, request->group);
        info->order = request->order;
        info->delay_ms = request->delay_ms;
    }
}

int dr_ask_refuse_acting(const struct cluster *cluster, const struct cluster_dr *dr,
                         struct cluster_now now, struct problem *problem)
{
    const char *op = dr->info->last_op;
    (void)problem_set(problem, GW_VM_BUSY, "its %s has %s now",
                      is_same(op, "planned") ? "planned failover" : op, dr->info->vm);
    problem_hint(problem, "godwit dr status %s", dr->info->vm);
    return refuse(cluster, dr->vm, now, problem);
}

int dr_ask_refuse_ending(const struct cluster *cluster, const struct cluster_dr *dr,
                         struct cluster_now now, struct problem *problem)
{
    char reason[CLUSTER_REASON_SIZE];
    dr_tell_ending(cluster, dr, now, reason);
    (void)problem_set(problem, GW_DR_STATE,
                      "the earlier protection of %s is still being ended (%s): say it again then",
                      dr->info->vm, reason);
    problem_hint(problem, "godwit dr status %s", dr->info->vm);
    return refuse(cluster, dr->vm, now, problem);
}

static int protect_again(const struct cluster *cluster, struct cluster_dr *dr,
                         const Godwit__DrRequest *request, const struct cluster_host *target,
                         struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    const char *name = dr->info->vm;
    if (dr_step_is(dr, "end"))
        return dr_ask_refuse_ending(cluster, dr, now, problem);
    if (!dr_step_is(dr, "protect"))
        return dr_ask_refuse_acting(cluster, dr, now, problem);
    if (!is_same(dr->info->target, target->name) ||
        (request->has_disks_only && request->disks_only != dr->info->disks_only)) {
        (void)problem_set(problem, GW_DR_STATE, "%s has a replica on %s already%s", name,
                          dr->info->target, dr->info->disks_only ? ", of its disks" : "");
        problem_hint(problem, "godwit dr unprotect %s", name);
        return refuse(cluster, dr->vm, now, problem);
    }
    fill(dr->info, request);
    dr->in_ready = dr->out_ready = false; /* its source is told */
    dr_put(dr, todo);
    cluster_todo_event(todo, dr->info->vm_id, "the protection of %s has other goals", name);
    return 0;
}

static int judge_across(const Godwit__DrRequest *request, const struct dr_ask_peer *peer,
                        struct problem *problem)
{
    if (word(request->group)[0] || request->auto_take)
        return problem_set(problem, GW_USAGE,
                           "--group, --order, --delay and --auto are within one pool; %s is another",
                           peer->name);
    return judge_request(request, problem);
}

/* Said again: its goals. */
static int protect_there_again(const struct cluster *cluster, struct cluster_dr *dr,
                               const Godwit__DrRequest *request, const struct dr_ask_peer *peer,
                               struct cluster_now now, struct problem *problem,
                               struct cluster_todo *todo)
{
    bool is_it = dr_peer_is_source(dr) && is_same(dr->info->peer_pool_id, peer->pool_id) &&
                 dr_step_is(dr, "protect") &&
                 (!request->has_disks_only || request->disks_only == dr->info->disks_only);
    if (!is_it && dr_peer_is(dr))
        return dr_peer_ask_refuse_protect(cluster, dr, now, problem);
    if (!is_it && dr_step_is(dr, "end"))
        return dr_ask_refuse_ending(cluster, dr, now, problem);
    if (!is_it) {
        (void)problem_set(problem, GW_DR_STATE,
                          dr_step_is(dr, "away") ? "%s was taken over on %s, and files of it are kept for a failback"
                                                 : "%s has a replica on %s already",
                          dr->info->vm, dr->info->target);
        problem_hint(problem, "godwit dr unprotect %s", dr->info->vm);
        return refuse(cluster, dr->vm, now, problem);
    }
    fill(dr->info, request);
    dr->in_ready = dr->out_ready = false; /* both ends are told */
    dr_put(dr, todo);
    cluster_todo_event(todo, dr->info->vm_id, "the protection of %s has other goals", dr->info->vm);
    return 0;
}

int dr_ask_protect_there(struct cluster *cluster, const Godwit__DrRequest *request,
                         const struct dr_ask_peer *peer, struct cluster_now now,
                         struct problem *problem, struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_find_vm(cluster, word(request->vm), problem);
    char target[DR_PEER_NAME_SIZE];
    if (!vm || judge_across(request, peer, problem) != 0)
        return -1;
    if (vm->dr)
        return protect_there_again(cluster, vm->dr, request, peer, now, problem, todo);
    if (judge_vm(cluster, vm, now, problem) != 0 ||
        judge_disks(vm, request->disks_only, problem) != 0)
        return -1;
    if (!peer->is_linked) {
        (void)problem_set(problem, GW_PEER_FAILED, "pool %s does not answer", peer->name);
        problem_hint(problem, "godwit pool peer ls");
        return refuse(cluster, vm, now, problem);
    }
    (void)snprintf(target, sizeof target, "pool:%.63s", peer->name);
    struct cluster_dr *dr = dr_ask_new_record(cluster, vm, now);
    fill(dr->info, request);
    dr_set_text(&dr->info->peer_pool_id, peer->pool_id);
    dr_new_pair(cluster, dr, vm->own.owner, target, false);
    dr->cross = (struct dr_cross){.step = DR_CROSS_PROTECT};
    dr->peer_is_up = true;
    dr_peer_keep(dr, todo);
    cluster_todo_event(todo, vm->id, "%s is protected by a replica in pool %s, goal %llu ms",
                       vm->spec->name, peer->name, (unsigned long long)dr->info->rpo_ms);
    return 0;
}

static int protect(struct cluster *cluster, const Godwit__DrRequest *request,
                   struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_find_vm(cluster, word(request->vm), problem);
    struct cluster_host *target =
        vm ? cluster_find_host(cluster, word(request->to), problem) : NULL;
    if (!target || judge_request(request, problem) != 0)
        return -1;
    if (vm->dr && dr_peer_is(vm->dr))
        return dr_peer_ask_refuse_protect(cluster, vm->dr, now, problem);
    if (vm->dr && !dr_step_is(vm->dr, "away"))
        return protect_again(cluster, vm->dr, request, target, now, problem, todo);
    if (judge_vm(cluster, vm, now, problem) != 0)
        return -1;
    if (is_same(vm->own.owner, target->name)) {
        (void)problem_set(problem, GW_SAME_HOST, "%s runs on %s: its replica lies on another host",
                          vm->spec->name, target->name);
        return refuse(cluster, vm, now, problem);
    }
    if (judge_disks(vm, request->disks_only, problem) != 0 ||
        judge_target(cluster, vm, target, now, problem) != 0)
        return refuse(cluster, vm, now, problem);
    struct cluster_dr *dr = vm->dr ? vm->dr : dr_ask_new_record(cluster, vm, now);
    fill(dr->info, request);
    bool lay_there = is_same(dr->info->home, target->name); /* what it left there is a good start */
    dr_set_text(&dr->info->home, "");
    dr_new_pair(cluster, dr, vm->own.owner, target->name, lay_there);
    dr_set_step(dr, "protect", todo);
    cluster_todo_event(todo, vm->id, "%s is protected by a replica on %s, goal %llu ms",
                       vm->spec->name, target->name, (unsigned long long)dr->info->rpo_ms);
    return 0;
}

/* ---- unprotect --------------------------------------------------------------------------------
 */

static struct cluster_dr *find(const struct cluster *cluster, const char *vm_word,
                               struct problem *problem)
{
    const struct cluster_vm *vm = cluster_find_vm(cluster, vm_word, problem);
    if (!vm)
        return NULL;
    if (!vm->dr) {
        (void)problem_set(problem, GW_DR_UNPROTECTED, "%s has no replica", vm->spec->name);
        problem_hint(problem, "godwit dr protect %s --to HOST", vm->spec->name);
    }
    return vm->dr;
}

static int unprotect(struct cluster *cluster, const Godwit__DrRequest *request,
                     struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    struct cluster_dr *dr = find(cluster, word(request->vm), problem);
    if (!dr)
        return -1;
    if (dr_is_acting(dr->vm))
        return dr_ask_refuse_acting(cluster, dr, now, problem);
    if (dr_step_is(dr, "end"))
        return 0;
    cluster_todo_event(todo, dr->info->vm_id, "the protection of %s ends", dr->info->vm);
    dr->info->has_out_ended = dr->info->has_in_ended = true;
    dr->info->out_ended = dr->info->in_ended = dr_step_is(dr, "away"); /* nothing is replicated */
    if (dr->info->op[0])
        dr_give_up_op(dr, "dr unprotect ended its protection", now, todo);
    if (dr_test_is_open(dr))
        dr_test_stop(dr, now, todo);
    dr_set_step(dr, "end", todo);
    return 0;
}

/* ---- failover, failback -----------------------------------------------------------------------
 */

static int not_now(const struct cluster *cluster, const struct cluster_dr *dr, const char *what,
                   struct cluster_now now, struct problem *problem)
{
    (void)problem_set(problem, GW_DR_STATE, "%s %s", dr->info->vm, what);
    problem_hint(problem, "godwit dr status %s", dr->info->vm);
    return refuse(cluster, dr->vm, now, problem);
}

static int judge_protected(const struct cluster *cluster, const struct cluster_dr *dr,
                           struct cluster_now now, struct problem *problem)
{
    if (cluster_judge_free(cluster, dr->vm, now, problem) != 0)
        return -1;
    if (dr_step_is(dr, "away"))
        return not_now(cluster, dr, "was taken over already: godwit dr failback brings it back",
                       now, problem);
    if (!dr_step_is(dr, "protect"))
        return not_now(cluster, dr, "is just being unprotected", now, problem);
    if (!dr->info->has_held)
        return not_now(cluster, dr, "has nothing whole on its target yet", now, problem);
    if (!dr_host_is_up(cluster, dr->info->target, now)) {
        (void)problem_set(problem, GW_HOST_DOWN, "%s, which has the replica of %s, does not answer",
                          dr->info->target, dr->info->vm);
        problem_hint(problem, "godwit host show %s", dr->info->target);
        return refuse(cluster, dr->vm, now, problem);
    }
    return 0;
}

static int judge_planned(const struct cluster *cluster, const struct cluster_dr *dr,
                         struct cluster_now now, struct problem *problem)
{
    if (dr->vm->own.phase != OWN_RUN || dr->vm->want != WANT_RUNNING)
        return not_now(cluster, dr, "does not run: without --planned what is held is taken", now,
                       problem);
    if (!dr_is_held(cluster, dr, now))
        return not_now(cluster, dr, "has no link to its replica just now", now, problem);
    return 0;
}

/* With the words typed, and its host away. */
static int judge_split(const struct cluster *cluster, const struct cluster_dr *dr,
                       const char *confirm, struct cluster_now now, struct problem *problem)
{
    const struct cluster_vm *vm = dr->vm;
    const struct cluster_host *host = cluster_host(cluster, vm->own.owner);
    if (!host || !is_same(host->name, confirm))
        return problem_set(problem, GW_USAGE,
                           "--yes-the-old-host-is-gone must name %s in full: should it live, %s "
                           "runs twice from now on",
                           vm->own.owner, dr->info->vm);
    if (host->link_up || cluster_host_state(host, now.ns) != HOST_DOWN) {
        (void)problem_set(problem, GW_HOST_ALIVE, "%s is not gone: its agent answers", host->name);
        problem_hint(problem, "godwit dr failover %s --planned", dr->info->vm);
        return refuse(cluster, vm, now, problem);
    }
    if (vm->own.phase != OWN_RUN && vm->own.phase != OWN_STARTING)
        return not_now(cluster, dr, "is held by a move", now, problem);
    const char *gone = dr->info->split_host;
    if (gone[0] && !is_same(gone, host->name)) { /* one at a time is remembered, and ended */
        (void)problem_set(problem, GW_DR_STATE, "%s was given up on %s, and may run there still",
                          dr->info->vm, gone);
        problem_hint(problem, "godwit host fence %s --confirm-down %s", gone, gone);
        return refuse(cluster, vm, now, problem);
    }
    return 0;
}

static int judge_lost(const struct cluster *cluster, const struct cluster_dr *dr,
                      const Godwit__DrRequest *request, struct cluster_now now,
                      struct problem *problem)
{
    const struct cluster_vm *vm = dr->vm;
    const char *name = dr->info->vm, *owner = vm->own.owner;
    if (vm->suspended[0])
        return not_now(cluster, dr, "is suspended into a file of its host", now, problem);
    if (own_is_lost(&vm->own) || dr_will_be_lost(cluster, vm))
        return 0;
    if (vm->own.phase == OWN_STOPPED) {
        bool was_lost = vm->crashed || !dr_host_is_up(cluster, owner, now);
        return was_lost ? 0
                        : not_now(cluster, dr,
                                  "was stopped, and its disks are newer than its "
                                  "replica: godwit vm start",
                                  now, problem);
    }
    if (request->accept_split)
        return judge_split(cluster, dr, word(request->confirm), now, problem);
    (void)problem_set(problem, GW_DR_NOT_FENCED, "%s may run on %s, which is not fenced", name,
                      owner);
    if (dr_host_is_up(cluster, owner, now)) {
        problem_hint(problem, "godwit dr failover %s --planned", name);
    } else {
        problem_detail(problem, "it is down for certain   --confirm-down %s", owner);
        problem_detail(problem,
                       "nobody can tell          --accept-split "
                       "--yes-the-old-host-is-gone %s",
                       owner);
        problem_hint(problem, "godwit dr failover %s --confirm-down %s", name, owner);
    }
    return refuse(cluster, vm, now, problem);
}

static int judge_back(const struct cluster *cluster, const struct cluster_dr *dr,
                      struct cluster_now now, struct problem *problem)
{
    const char *home = dr->info->home;
    if (cluster_judge_free(cluster, dr->vm, now, problem) != 0)
        return -1;
    if (!dr_step_is(dr, "away") && !(dr_step_is(dr, "protect") && dr_returns(dr)))
        return not_now(cluster, dr, "was not taken over: there is nothing to bring back", now, problem);
    if (dr->info->op[0])
        return not_now(cluster, dr, "is on its way back", now, problem);
    if (dr->vm->own.phase != OWN_RUN || dr->vm->want != WANT_RUNNING)
        return not_now(cluster, dr, "does not run, and is brought back while it does", now, problem);
    if (is_same(dr->vm->own.owner, home))
        return not_now(cluster, dr, "runs there already: godwit dr protect", now, problem);
    if (!dr_host_is_up(cluster, home, now)) {
        (void)problem_set(problem, GW_HOST_DOWN, "%s, where %s came from, does not answer", home,
                          dr->info->vm);
        problem_hint(problem, "godwit dr protect %s --to HOST, where it never comes back", dr->info->vm);
        return refuse(cluster, dr->vm, now, problem);
    }
    return judge_target(cluster, dr->vm, cluster_host(cluster, home), now, problem);
}

static int judge_one(const struct cluster *cluster, const struct cluster_dr *dr,
                     const Godwit__DrRequest *request, struct cluster_now now,
                     struct problem *problem)
{
    if (request->verb == GODWIT__DR_VERB__DR_VERB_FAILBACK)
        return judge_back(cluster, dr, now, problem);
    if (judge_protected(cluster, dr, now, problem) != 0)
        return -1;
    return request->planned ? judge_planned(cluster, dr, now, problem)
                            : judge_lost(cluster, dr, request, now, problem);
}

/* Of a group: those that have it to do. */
static bool has_to(const struct cluster_dr *dr, const Godwit__DrRequest *request)
{
    bool is_member = is_same(dr->info->group, request->group) && !dr_step_is(dr, "end") &&
                     !dr_peer_is(dr);
    bool is_back = request->verb == GODWIT__DR_VERB__DR_VERB_FAILBACK;
    return is_member && is_back == (dr_step_is(dr, "away") || dr_returns(dr));
}

static void begin(const struct cluster *cluster, struct cluster_dr *dr,
                  const Godwit__DrRequest *request, struct cluster_now now,
                  struct cluster_todo *todo)
{
    bool is_back = request->verb == GODWIT__DR_VERB__DR_VERB_FAILBACK;
    bool splits = !is_back && request->accept_split && !dr_is_down(dr->vm) &&
                  !dr_will_be_lost(cluster, dr->vm);
    if (splits) /* else what an earlier one gave up is still to be ended */
        dr_set_text(&dr->info->split_host, dr->vm->own.owner);
    dr_begin_op(dr, is_back ? "failback" : request->planned ? "planned" : "failover", now, todo);
}

static int act_group(struct cluster *cluster, const Godwit__DrRequest *request,
                     struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    size_t count = 0;
    for (size_t i = 0; i < cluster->dr_count; i++) {
        if (!has_to(cluster->drs[i], request))
            continue;
        count++;
        if (judge_one(cluster, cluster->drs[i], request, now, problem) != 0) {
            problem_detail(problem, "nothing of group %s was begun", request->group);
            return -1;
        }
    }
    if (count == 0) {
        (void)problem_set(problem, GW_DR_UNPROTECTED, "no VM of a group '%.60s' has that to do",
                          request->group);
        problem_hint(problem, "godwit dr status");
        return -1;
    }
    for (size_t i = 0; i < cluster->dr_count; i++) {
        if (has_to(cluster->drs[i], request))
            begin(cluster, cluster->drs[i], request, now, todo);
    }
    return 0;
}

/* As `godwit host fence HOST --confirm-down HOST` first. */
static int confirm_down(struct cluster *cluster, const Godwit__DrRequest *request,
                        struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    const struct cluster_host *host = cluster_host(cluster, request->confirm);
    if (host && (host->ha.phase == HA_FENCED || host->ha.phase == HA_QUARANTINE))
        return 0;
    return cluster_ha_confirm_down(cluster, request->confirm, request->confirm, now, problem, todo);
}

static int act(struct cluster *cluster, const Godwit__DrRequest *request, struct cluster_now now,
               struct problem *problem, struct cluster_todo *todo)
{
    bool has_group = word(request->group)[0] != '\0', has_vm = word(request->vm)[0] != '\0';
    if (has_group == has_vm)
        return problem_set(problem, GW_USAGE, "a VM, or --group G");
    if (request->planned && (request->accept_split || word(request->confirm)[0]))
        return problem_set(problem, GW_USAGE,
                           "--planned is for a host that lives; the others are for one that does "
                           "not");
    struct cluster_dr *dr = has_vm ? find(cluster, request->vm, problem) : NULL;
    if (has_vm && !dr)
        return -1;
    if (word(request->confirm)[0] && !request->accept_split &&
        confirm_down(cluster, request, now, problem, todo) != 0)
        return -1;
    if (has_group)
        return act_group(cluster, request, now, problem, todo);
    if (judge_one(cluster, dr, request, now, problem) != 0)
        return -1;
    begin(cluster, dr, request, now, todo);
    return 0;
}

/* One across pools is asked otherwise. NULL: it is none, or there is no such VM. */
static struct cluster_dr *find_across(const struct cluster *cluster,
                                      const Godwit__DrRequest *request)
{
    struct problem ignored = {0};
    const struct cluster_vm *vm =
        word(request->vm)[0] ? cluster_find_vm(cluster, request->vm, &ignored) : NULL;
    bool is_asked = request->verb != GODWIT__DR_VERB__DR_VERB_STATUS &&
                    request->verb != GODWIT__DR_VERB__DR_VERB_PROTECT;
    return is_asked && vm && vm->dr && dr_peer_is(vm->dr) ? vm->dr : NULL;
}

int dr_ask(struct cluster *cluster, const Godwit__DrRequest *request, struct cluster_now now,
           struct problem *problem, struct cluster_todo *todo)
{
    struct cluster_dr *across = find_across(cluster, request);
    if (across)
        return dr_peer_ask(cluster, across, request, now, problem, todo);
    switch (request->verb) {
    case GODWIT__DR_VERB__DR_VERB_STATUS:
        return word(request->vm)[0] && !cluster_find_vm(cluster, request->vm, problem) ? -1 : 0;
    case GODWIT__DR_VERB__DR_VERB_PROTECT:
        return protect(cluster, request, now, problem, todo);
    case GODWIT__DR_VERB__DR_VERB_UNPROTECT:
        return unprotect(cluster, request, now, problem, todo);
    case GODWIT__DR_VERB__DR_VERB_TEST:
    case GODWIT__DR_VERB__DR_VERB_DRILL_NOW:
        return dr_test_begin(cluster, request, now, problem, todo);
    case GODWIT__DR_VERB__DR_VERB_TEST_END:
        return dr_test_end(cluster, word(request->vm), now, problem, todo);
    case GODWIT__DR_VERB__DR_VERB_DRILL:
        return dr_test_set_drill(cluster, request, now, problem, todo);
    case GODWIT__DR_VERB__DR_VERB_FAILOVER:
    case GODWIT__DR_VERB__DR_VERB_FAILBACK:
        return act(cluster, request, now, problem, todo);
    case _GODWIT__DR_VERB_IS_INT_SIZE:
    default: /* a number from the wire */
        return problem_set(problem, GW_USAGE,
                           "nothing known can be asked of disaster recovery by verb %d",
                           (int)request->verb);
    }
}
