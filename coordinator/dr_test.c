#include "coordinator/dr_test.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_clone.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_peer.h"
#include "coordinator/pool_store.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum { AGAIN_MS = 1000 };

static bool is_given(const char *text)
{
    return text && text[0];
}

static bool is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

bool dr_test_is_copy(const struct cluster_vm *vm)
{
    return is_given(vm->spec->test_of);
}

static bool is_step(const struct cluster_dr *dr, const char *step)
{
    return dr->info->test && is_same(dr->info->test->step, step);
}

bool dr_test_is_open(const struct cluster_dr *dr)
{
    return dr->info->test && !is_step(dr, "over");
}

/* ---- the record ---- */
static char **const *texts_of(Godwit__DrTest *test, char **ret_texts[static 7])
{
    char **texts[] = {&test->copy_id, &test->copy, &test->host, &test->step,
                      &test->nonce,   &test->error, NULL};
    memcpy(ret_texts, texts, sizeof texts);
    return ret_texts;
}

void dr_test_load(Godwit__DrRecord *info)
{
    static const char *const steps[] = {"copy", "start", "watch", "runs", "end", "over"};
    char **texts[7];
    bool known = false;

    if (!info->test)
        return;
    for (size_t i = 0; info->test->step && i < ARRAY_COUNT(steps); i++)
        known = known || is_same(info->test->step, steps[i]);
    if (!known || !is_given(info->test->copy_id)) {
        godwit__dr_test__free_unpacked(info->test, NULL);
        info->test = NULL;
        return;
    }
    for (char **const *at = texts_of(info->test, texts); *at; at++) {
        if (!**at)
            dr_set_text(*at, "");
    }
}

static Godwit__DrTest *renew(struct cluster_dr *dr)
{
    Godwit__DrTest *test = malloc(sizeof *test);
    char **texts[7];

    assert(test); /* control memory is small; without it there is no deciding */
    godwit__dr_test__init(test);
    for (char **const *at = texts_of(test, texts); *at; at++)
        dr_set_text(*at, "");
    if (dr->info->test)
        godwit__dr_test__free_unpacked(dr->info->test, NULL);
    dr->info->test = test;
    return test;
}

static void set_step(struct cluster_dr *dr, const char *step, struct cluster_todo *todo)
{
    dr_set_text(&dr->info->test->step, step);
    dr->test_ns = dr->watch_ns = 0;
    dr_put(dr, todo);
}

static const char *kind_of(const struct cluster_dr *dr)
{
    return dr->info->test->is_drill ? "drill" : "test";
}

static void fail(struct cluster_dr *dr, const char *why, struct cluster_todo *todo)
{
    cluster_todo_event(todo, dr->info->vm_id, "alert: a %s of the replica of %s failed: %.180s",
                       kind_of(dr), dr->info->vm, why);
    dr_set_text(&dr->info->test->error, why);
    set_step(dr, "end", todo);
}

void dr_test_stop(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo)
{
    (void)now;
    if (dr_test_is_open(dr) && !is_step(dr, "end"))
        set_step(dr, "end", todo);
}

/* ---- the copy as a VM ---- */
uint64_t dr_test_disk_bytes(const struct cluster_dr *dr, size_t disk)
{
    const Godwit__ReplicaStatus *in = dr->in;
    bool is_told = disk < DISKS_MAX && dr->vm->disk_bytes[disk]; /* not where its source is silent since a restart */
    return !is_told && in && disk < in->n_disk_bytes ? in->disk_bytes[disk] : pool_store_disk_bytes(dr->vm, disk);
}

/* Of the disks that it writes, as they lie on the replica's host once they have names. */
static int make_spec(const struct cluster_dr *dr, const char *name, Godwit__VmSpec *spec,
                     struct problem *problem)
{
    const struct cluster_vm *vm = dr->vm;
    const struct cluster_clone_ask ask = {.name = name};
    Godwit__SnapshotInfo info = GODWIT__SNAPSHOT_INFO__INIT;
    Godwit__SnapshotDisk disks[DISKS_MAX], *list[DISKS_MAX];
    info.id = info.name = (char *)(uintptr_t) "test"; /* protobuf-c knows no const */
    info.disks = list;
    for (size_t i = 0; i < spec->n_disks && info.n_disks < DISKS_MAX; i++) {
        Godwit__SnapshotDisk *disk = &disks[info.n_disks];
        if (vm->spec->disks[i]->read_only)
            continue;
        godwit__snapshot_disk__init(disk);
        disk->index = (uint32_t)i;
        disk->name = vm->spec->disks[i]->name;
        disk->folder = vm->spec->disks[i]->store;
        disk->file = vm->spec->disks[i]->file;
        list[info.n_disks++] = disk;
    }
    /* Also where it boots: what its guest finds then is to be what a failover would show it, its seed too. */
    if (cluster_clone_make_spec(vm, &info, &ask, false, spec, problem) != 0)
        return -1;
    for (size_t i = 0; i < spec->n_disks; i++) { /* a file that is not there is never made in silence */
        Godwit__DiskSpec *disk = spec->disks[i];
        if (disk->read_only)
            continue;
        disk->has_size = false;
        dr_set_text(&disk->snapshot, "");
    }
    return 0;
}

static struct cluster_vm *find_copy(const struct cluster *cluster, const char *vm_id)
{
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (is_same(cluster->vms[i]->spec->test_of ? cluster->vms[i]->spec->test_of : "", vm_id))
            return cluster->vms[i];
    }
    return NULL;
}

static int create(struct cluster *cluster, struct cluster_dr *dr, const char *name,
                  struct cluster_now now, struct cluster_vm **ret_vm, struct problem *problem,
                  struct cluster_todo *todo)
{
    uint64_t bytes[DISKS_MAX] = {0};
    const struct cluster_start_ask ask = {.only_on = dr->info->target, .landing_bytes = bytes};
    struct cluster_host *host = NULL;
    const size_t puts = todo->put_count, answers = todo->answer_count;
    char id[ID_TEXT_SIZE];
    uint64_t ticket = 0;
    for (size_t i = 0; i < dr->vm->spec->n_disks && i < DISKS_MAX; i++)
        bytes[i] = dr_test_disk_bytes(dr, i);
    Godwit__VmSpec *spec = cluster_message_copy(&dr->vm->spec->base);
    if (!spec)
        return problem_set(problem, GW_INTERNAL, "no memory for VM %s", name);
    cluster_draw_id(cluster, id);
    int r = make_spec(dr, name, spec, problem);
    if (r == 0)
        r = cluster_create_vm(cluster, spec, id, true, now, &ticket, problem, todo);
    godwit__vm_spec__free_unpacked(spec, NULL);
    if (r != 0)
        return -1;
    struct cluster_vm *vm = cluster_vm(cluster, id);
    if (cluster_choose_start(cluster, vm, &ask, now, &host, problem) != 0) {
        cluster_drop_vm(cluster, vm); /* nothing of it was recorded yet */
        todo->put_count = puts;
        todo->answer_count = answers;
        return -1;
    }
    *ret_vm = vm;
    return 0;
}

/* What is put is what it is when all of this is stored. */
static void bind(struct cluster *cluster, struct cluster_dr *dr, struct cluster_vm *vm,
                 const char *nonce)
{
    dr_set_text(&vm->spec->test_of, dr->info->vm_id);
    WORDS_COPY(vm->own.owner, dr->info->target);
    if (!dr->info->disks_only) {
        vm->own.gen = vm->own.hiwater = DR_TEST_GENERATION;
        WORDS_COPY(vm->suspended, nonce);
    }
    vm->ticket = ++cluster->next_ticket; /* nothing else is done to it meanwhile */
}

/* ---- begin ---- */
static int refuse(const struct cluster *cluster, const struct cluster_dr *dr, const char *what,
                  struct cluster_now now, struct problem *problem)
{
    (void)problem_set(problem, GW_DR_STATE, "%s %s", dr->info->vm, what);
    problem_hint(problem, "godwit dr status %s", dr->info->vm);
    cluster_vm_place(cluster, dr->vm, now.ns, problem->vm_state, sizeof problem->vm_state);
    return -1;
}

static int judge(const struct cluster *cluster, const struct cluster_dr *dr,
                 struct cluster_now now, struct problem *problem)
{
    const struct cluster_vm *copy = find_copy(cluster, dr->info->vm_id);
    if (dr_test_is_open(dr) || copy) {
        (void)problem_set(problem, GW_DR_STATE, "%s has a test copy already: %s", dr->info->vm,
                          copy ? copy->spec->name : dr->info->test->copy);
        problem_hint(problem, "godwit dr test %s --end", dr->info->vm);
        return -1;
    }
    if (dr_step_is(dr, "away"))
        return refuse(cluster, dr, "was taken over: it runs from its replica already", now, problem);
    if (!dr_step_is(dr, dr_peer_holds(dr) ? "hold" : "protect"))
        return refuse(cluster, dr, "is just being failed over, or unprotected", now, problem);
    if (!dr->info->has_held)
        return refuse(cluster, dr, "has nothing whole on its target yet", now, problem);
    if (!dr_host_is_up(cluster, dr->info->target, now)) {
        (void)problem_set(problem, GW_HOST_DOWN, "%s, which has the replica of %s, does not answer",
                          dr->info->target, dr->info->vm);
        problem_hint(problem, "godwit host show %s", dr->info->target);
        return -1;
    }
    return 0;
}

static int begin(struct cluster *cluster, struct cluster_dr *dr, const char *name, bool is_drill,
                 struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    char own_name[OWN_HOST_SIZE], nonce[ID_TEXT_SIZE];
    struct cluster_vm *vm = NULL;
    (void)snprintf(own_name, sizeof own_name, "%.*s-%s", ID_NAME_MAX - 6, dr->info->vm,
                   is_drill ? "drill" : "test");
    name = is_given(name) ? name : own_name;
    if (!id_name_is_valid(name))
        return problem_set(problem, GW_USAGE,
                           "'%.80s' is no name for a VM: 1 to %d letters, digits, '.', '_', '-', "
                           "the first a letter or digit",
                           name, ID_NAME_MAX);
    if (judge(cluster, dr, now, problem) != 0 ||
        create(cluster, dr, name, now, &vm, problem, todo) != 0)
        return -1;
    cluster_draw_id(cluster, nonce);
    bind(cluster, dr, vm, nonce);
    Godwit__DrTest *test = renew(dr);
    dr_set_text(&test->copy_id, vm->id);
    dr_set_text(&test->copy, vm->spec->name);
    dr_set_text(&test->host, dr->info->target);
    dr_set_text(&test->nonce, nonce);
    test->has_is_drill = test->has_began_unix_ms = true;
    test->is_drill = is_drill;
    test->began_unix_ms = now.unix_ms;
    if (is_drill) {
        dr->info->has_drilled_unix_ms = true;
        dr->info->drilled_unix_ms = now.unix_ms;
    }
    set_step(dr, "copy", todo);
    struct cluster_order *order =
        cluster_order_vm(dr->vm, dr->info->target, ORDER_REPLICA_COPY, now, todo);
    WORDS_COPY(order->move_id, dr->info->protection_id);
    WORDS_COPY(order->nonce, nonce);
    dr->is_copying = true;
    cluster_todo_event(todo, dr->info->vm_id, "a %s of the replica of %s on %s begins, as %s",
                       kind_of(dr), dr->info->vm, dr->info->target, vm->spec->name);
    return 0;
}

static struct cluster_dr *find(const struct cluster *cluster, const char *word,
                               struct problem *problem)
{
    const struct cluster_vm *vm = cluster_find_vm(cluster, word, problem);
    if (!vm)
        return NULL;
    if (!vm->dr) {
        (void)problem_set(problem, GW_DR_UNPROTECTED, "%s has no replica", vm->spec->name);
        problem_hint(problem, "godwit dr protect %s --to HOST", vm->spec->name);
    }
    return vm->dr;
}

int dr_test_begin(struct cluster *cluster, const Godwit__DrRequest *request,
                  struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    bool is_drill = request->verb == GODWIT__DR_VERB__DR_VERB_DRILL_NOW;
    struct cluster_dr *dr = find(cluster, request->vm ? request->vm : "", problem);
    return dr ? begin(cluster, dr, request->as, is_drill, now, problem, todo) : -1;
}

/* ---- end ---- */
int dr_test_end(struct cluster *cluster, const char *word, struct cluster_now now,
                struct problem *problem, struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_find_vm(cluster, word, problem);
    if (!vm)
        return -1;
    struct cluster_vm *original = dr_test_is_copy(vm) ? cluster_vm(cluster, vm->spec->test_of) : vm;
    struct cluster_dr *dr = original ? original->dr : NULL;
    if (dr && dr_test_is_open(dr)) {
        dr_test_stop(dr, now, todo);
        return 0;
    }
    struct cluster_vm *copy = dr_test_is_copy(vm) ? vm : find_copy(cluster, vm->id);
    uint64_t ticket = 0;
    if (copy) /* nobody remembers it but itself */
        return cluster_act(cluster, copy->id, GODWIT__VM_VERB__VM_VERB_RM, true, now, &ticket,
                           problem, todo);
    (void)problem_set(problem, GW_DR_STATE, "there is no test copy of %s", vm->spec->name);
    problem_hint(problem, "godwit dr test %s", vm->spec->name);
    return -1;
}

/* ---- drills ---- */
/* Could one ever come, by this record? Of what is away within one pool once it has a replica again. */
static int judge_drills(const struct cluster *cluster, const struct cluster_dr *dr,
                        struct cluster_now now, struct problem *problem)
{
    const char *name = dr->info->vm, *peer = dr_peer_name(dr);
    if (dr_step_is(dr, "end"))
        return refuse(cluster, dr,
                      dr_peer_holds(dr) ? "is just being dropped here: there is nothing to drill"
                                        : "is just being unprotected: there is nothing to drill",
                      now, problem);
    if (!dr_peer_holds(dr) || (dr_step_is(dr, "hold") && !dr_peer_is_stale(dr)))
        return 0;
    if (dr_step_is(dr, "away")) {
        (void)problem_set(problem, GW_DR_STATE,
                          "%s was taken over from pool %s and runs here: it has no replica to drill",
                          name, peer);
        problem_hint(problem, "godwit dr unprotect %s, then godwit dr protect %s --to %s", name, name, peer);
    } else if (dr_peer_is_stale(dr)) {
        (void)problem_set(problem, GW_DR_STATE,
                          "what was held of %s is of before, and dropped: it runs on in pool %s", name,
                          peer);
        problem_hint(problem, "in pool %s: godwit dr unprotect %s, then protect it anew", peer, name);
    } else {
        (void)problem_set(problem, GW_VM_BUSY, "%s is just being taken over", name);
        problem_hint(problem, "godwit dr status %s", name);
    }
    cluster_vm_place(cluster, dr->vm, now.ns, problem->vm_state, sizeof problem->vm_state);
    return -1;
}

static void set_drill(struct cluster_dr *dr, uint64_t every_ms, struct cluster_now now,
                      struct cluster_todo *todo)
{
    dr->drill_set_unix_ms = now.unix_ms;
    dr->info->has_drill_every_ms = true;
    dr->info->drill_every_ms = every_ms;
    dr_put(dr, todo);
    if (every_ms)
        cluster_todo_event(todo, dr->info->vm_id, "the replica of %s is drilled every %llu s%s",
                           dr->info->vm, (unsigned long long)(every_ms / 1000),
                           dr_step_is(dr, "away") ? ", once it has one again" : "");
    else
        cluster_todo_event(todo, dr->info->vm_id, "the replica of %s is not drilled any more",
                           dr->info->vm);
}

int dr_test_set_drill(struct cluster *cluster, const Godwit__DrRequest *request,
                      struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    bool has_group = is_given(request->group), has_vm = is_given(request->vm);
    size_t count = 0;
    if (has_group == has_vm)
        return problem_set(problem, GW_USAGE, "a VM, or --group G");
    if (request->drill_every_ms && request->drill_every_ms < DR_DRILL_EVERY_MS_MIN)
        return problem_set(problem, GW_USAGE, "--every of %llu ms, the least is a minute",
                           (unsigned long long)request->drill_every_ms);
    struct cluster_dr *dr = has_vm ? find(cluster, request->vm, problem) : NULL;
    if (has_vm &&
        (!dr || (request->drill_every_ms && judge_drills(cluster, dr, now, problem) != 0)))
        return -1;
    for (size_t i = 0; i < cluster->dr_count; i++) {
        struct cluster_dr *one = cluster->drs[i];
        if (has_vm ? one != dr
                   : !is_same(one->info->group, request->group) || dr_step_is(one, "end"))
            continue;
        set_drill(one, request->drill_every_ms, now, todo);
        count++;
    }
    if (count > 0)
        return 0;
    (void)problem_set(problem, GW_DR_UNPROTECTED, "no VM of a group '%.60s' has a replica",
                      request->group);
    problem_hint(problem, "godwit dr status");
    return -1;
}

/* Another copy on the same target is made, started, watched or taken away: what it needs there is not counted yet,
 * or not given back. One that runs for an operator counts as any VM does. */
static const struct cluster_dr *find_before(const struct cluster *cluster, const struct cluster_dr *dr)
{
    for (size_t i = 0; i < cluster->dr_count; i++) {
        const struct cluster_dr *other = cluster->drs[i];
        if (other != dr && dr_test_is_open(other) && !is_step(other, "runs") &&
            is_same(other->info->test->host, dr->info->target))
            return other;
    }
    return NULL;
}

static uint64_t last_drill(const Godwit__DrRecord *info)
{
    return info->has_drilled_unix_ms ? info->drilled_unix_ms : info->created_unix_ms;
}

static uint64_t passed_ms(struct cluster_now now, uint64_t since_unix_ms)
{
    return now.unix_ms > since_unix_ms ? now.unix_ms - since_unix_ms : 0;
}

bool dr_test_is_due_within(const struct cluster *cluster, struct cluster_now now, uint64_t ms)
{
    for (size_t i = 0; i < cluster->dr_count; i++) {
        const Godwit__DrRecord *info = cluster->drs[i]->info;
        if (info->drill_every_ms && passed_ms(now, last_drill(info)) + ms >= info->drill_every_ms)
            return true;
    }
    return false;
}

/* The time is there, and it could be taken just now; what cannot is tried with the next tick. */
static void drill_by_itself(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                            struct cluster_todo *todo)
{
    const Godwit__DrRecord *info = dr->info;
    struct problem problem = {0};
    if (!info->drill_every_ms || passed_ms(now, last_drill(info)) < info->drill_every_ms ||
        judge(cluster, dr, now, &problem) != 0 || find_before(cluster, dr) ||
        begin(cluster, dr, NULL, true, now, &problem, todo) == 0)
        return;
    /* No room for it, or a name that is taken: told once, and tried when it is due again. */
    dr->info->has_drilled_unix_ms = true;
    dr->info->drilled_unix_ms = now.unix_ms;
    dr_put(dr, todo);
    cluster_todo_event(todo, info->vm_id, "alert: a drill of the replica of %s is not begun: %.180s",
                       info->vm, problem.text);
}

/* One that waits is nobody's failure, but a whole period late it is told: once, and by each coordinator. */
static void tell_overdue(const struct cluster *cluster, struct cluster_dr *dr,
                         struct cluster_now now, struct cluster_todo *todo)
{
    const Godwit__DrRecord *info = dr->info;
    struct problem problem = {0};
    uint64_t last = last_drill(info), every_ms = info->drill_every_ms;
    uint64_t since = last > dr->drill_set_unix_ms ? last : dr->drill_set_unix_ms;
    if (!every_ms || passed_ms(now, since) / 2 < every_ms || dr->overdue_unix_ms == since ||
        dr_step_is(dr, "end") || (dr_peer_holds(dr) && dr_step_is(dr, "away")) ||
        dr_is_settling(cluster, now))
        return;
    const struct cluster_dr *before = find_before(cluster, dr);
    if (judge(cluster, dr, now, &problem) == 0)
        (void)problem_set(&problem, GW_DR_STATE, "the copy of %s goes before",
                          before ? before->info->vm : "another");
    dr->overdue_unix_ms = since;
    cluster_todo_event(todo, info->vm_id,
                       "alert: no drill of the replica of %s for %llu s, with one due every %llu s: %.120s",
                       info->vm, (unsigned long long)(passed_ms(now, last) / 1000),
                       (unsigned long long)(every_ms / 1000), problem.text);
}

/* ---- steps ---- */
void dr_test_copied(struct cluster *cluster, struct cluster_dr *dr,
                    const struct cluster_order *order, const struct cluster_result *result,
                    struct cluster_now now, struct cluster_todo *todo)
{
    Godwit__DrTest *test = dr->info->test;
    const Godwit__ReplicaCopied *copied = result->copied;
    struct problem problem = {0};
    if (!test || !is_same(test->nonce, order->nonce))
        return;
    dr->is_copying = false;
    struct cluster_vm *copy = cluster_vm(cluster, test->copy_id);
    if (copy)
        copy->ticket = 0;
    if (!is_step(dr, "copy") || !copy)
        return; /* the tick sees to what is left */
    if (result->fault || !copied) {
        fail(dr, result->fault ? result->fault->text : "its host answered without a word", todo);
        return;
    }
    test->has_held_unix_ms = test->has_checkpoint = test->has_rpo_ms = true;
    test->has_memory_bytes = test->has_copied_bytes = test->has_reflinks = true;
    test->held_unix_ms = copied->held_unix_ms;
    test->checkpoint = copied->held ? copied->held->seq : 0;
    test->rpo_ms =
        test->began_unix_ms > copied->held_unix_ms ? test->began_unix_ms - copied->held_unix_ms : 0;
    test->memory_bytes = copied->memory_bytes;
    test->copied_bytes = copied->copied_bytes;
    test->reflinks = copied->reflinks;
    set_step(dr, "start", todo);
    if (cluster_start_home(cluster, copy, now, &problem, todo) != 0)
        fail(dr, problem.text, todo);
}

static void step_start(struct cluster_dr *dr, const struct cluster_vm *copy,
                       struct cluster_now now, struct cluster_todo *todo)
{
    Godwit__DrTest *test = dr->info->test;
    if (copy->own.phase == OWN_STOPPED && !copy->ticket) {
        fail(dr, copy->reason[0] ? copy->reason : "its start was not heard of again", todo);
        return;
    }
    if (copy->own.phase != OWN_RUN)
        return;
    test->has_rto_ms = true;
    test->rto_ms = now.unix_ms > test->began_unix_ms ? now.unix_ms - test->began_unix_ms : 0;
    cluster_todo_event(todo, dr->info->vm_id,
                       "a copy of %s, %s, runs on %s from checkpoint %llu: RPO %llu ms, RTO %llu ms",
                       dr->info->vm, test->copy, test->host, (unsigned long long)test->checkpoint,
                       (unsigned long long)test->rpo_ms, (unsigned long long)test->rto_ms);
    set_step(dr, test->is_drill ? "watch" : "runs", todo);
}

/* Its host's word of it, asked anew; a status that is older than the question has not come yet. */
static void step_watch(struct cluster_dr *dr, struct cluster_vm *copy, struct cluster_now now,
                       struct cluster_todo *todo)
{
    Godwit__DrTest *test = dr->info->test;
    if (copy->own.phase != OWN_RUN || copy->state == GODWIT__VM_STATE__VM_STATE_PAUSED) {
        fail(dr, copy->reason[0] ? copy->reason : "its copy did not run on", todo);
        return;
    }
    if (!dr->watch_ns) {
        dr->watch_ns = now.ns;
        dr->watch_vcpu_ns = copy->vcpu_cpu_ns;
    }
    uint64_t ran_ms = (now.ns - dr->watch_ns) / NS_PER_MS;
    bool has_run = copy->vcpu_cpu_ns > dr->watch_vcpu_ns;
    if (ran_ms >= DR_DRILL_WATCH_MS && has_run) {
        test->has_ran_ms = test->has_vcpu_ms = true;
        test->ran_ms = ran_ms;
        test->vcpu_ms = (copy->vcpu_cpu_ns - dr->watch_vcpu_ns) / NS_PER_MS;
        cluster_todo_event(todo, dr->info->vm_id,
                           "a drill of the replica of %s is done: RPO %llu ms, RTO %llu ms, it ran",
                           dr->info->vm, (unsigned long long)test->rpo_ms,
                           (unsigned long long)test->rto_ms);
        set_step(dr, "end", todo);
        return;
    }
    if (ran_ms >= 2 * DR_DRILL_WATCH_MS) {
        fail(dr, "its copy stands still: its vCPUs ran nothing", todo);
        return;
    }
    if (now.ns < dr->test_ns)
        return;
    dr->test_ns = now.ns + AGAIN_MS * NS_PER_MS;
    (void)cluster_order_vm(copy, copy->own.owner, ORDER_STATUS, now, todo);
}

/* The protection ends, and the copy's host is fenced, maybe for good. Its record stays, so that a life that comes back
 * after all is known for what it is. */
static void give_up(struct cluster_dr *dr, const struct cluster_vm *copy, struct cluster_now now,
                    struct cluster_todo *todo)
{
    Godwit__DrTest *test = dr->info->test;
    cluster_todo_event(todo, dr->info->vm_id,
                       "alert: the test copy %s is given up: %s, which has its disks, is fenced; "
                       "godwit vm rm %s --stop forgets it",
                       copy->spec->name, copy->own.owner, copy->spec->name);
    test->has_ended_unix_ms = true;
    test->ended_unix_ms = now.unix_ms;
    set_step(dr, "over", todo);
}

static void step_end(struct cluster *cluster, struct cluster_dr *dr, struct cluster_vm *copy,
                     struct cluster_now now, struct cluster_todo *todo)
{
    struct problem problem = {0};
    uint64_t ticket = 0;
    const struct cluster_host *host = cluster_host(cluster, copy->own.owner);
    bool is_away = host && !dr_host_is_up(cluster, host->name, now); /* with what it has of it */
    if (dr->is_copying || copy->ticket || copy->job)
        return;
    if (is_away && dr_step_is(dr, "end") && dr_host_is_gone(cluster, host->name) && dr_is_down(copy)) {
        give_up(dr, copy, now, todo);
        return;
    }
    if (is_away || now.ns < dr->test_ns)
        return;
    dr->test_ns = now.ns + AGAIN_MS * NS_PER_MS;
    if (cluster_act(cluster, copy->id, GODWIT__VM_VERB__VM_VERB_RM, true, now, &ticket, &problem,
                    todo) == 0 ||
        dr->watch_ns)
        return;
    dr->watch_ns = now.ns; /* told once; what cannot be now can be later */
    cluster_todo_event(todo, dr->info->vm_id, "alert: the test copy %s is not removed yet: %.180s",
                       copy->spec->name, problem.text);
}

static void over(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo)
{
    Godwit__DrTest *test = dr->info->test;
    if (is_step(dr, "copy") || is_step(dr, "start") || is_step(dr, "watch"))
        dr_set_text(&test->error, "its copy was removed meanwhile");
    test->has_ended_unix_ms = true;
    test->ended_unix_ms = now.unix_ms;
    cluster_todo_event(todo, dr->info->vm_id, "the %s of the replica of %s is over: %s is gone",
                       kind_of(dr), dr->info->vm, test->copy);
    set_step(dr, "over", todo);
}

static void step(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                 struct cluster_todo *todo)
{
    if (!dr_test_is_open(dr)) {
        drill_by_itself(cluster, dr, now, todo);
        return;
    }
    if (dr_step_is(dr, "end") && !is_step(dr, "end")) { /* by whomever it ends, another pool's word too */
        dr_test_stop(dr, now, todo);
        return;
    }
    struct cluster_vm *copy = cluster_vm(cluster, dr->info->test->copy_id);
    if (!copy) {
        if (!dr->is_copying) /* its files may still be made, else */
            over(dr, now, todo);
    } else if (is_step(dr, "copy")) {
        if (!dr->is_copying)
            fail(dr, "the coordinator was restarted in the middle of it", todo);
    } else if (is_step(dr, "start")) {
        step_start(dr, copy, now, todo);
    } else if (is_step(dr, "watch")) {
        step_watch(dr, copy, now, todo);
    } else if (is_step(dr, "end")) {
        step_end(cluster, dr, copy, now, todo);
    }
}

bool dr_test_tick(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                  struct cluster_todo *todo)
{
    uint64_t revision = dr->revision;
    step(cluster, dr, now, todo);
    tell_overdue(cluster, dr, now, todo);
    return dr->revision != revision;
}
