#include "coordinator/disk_move.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_view.h"
#include "coordinator/pool_store.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum { REFUSALS_MAX = 20, MOVES_KEPT = 100, FILE_SIZE = 256 };

static bool is_given(const char *text)
{
    return text && text[0];
}

static char *copy_of(const char *text)
{
    char *copy = strdup(text);
    assert(copy); /* control memory is small; without it there is no deciding */
    return copy;
}

static void set_text(char **field, const char *text)
{
    char *copy = copy_of(text);
    if (*field && *field != (char *)protobuf_c_empty_string)
        free(*field);
    *field = copy;
}

static void clear_text(char **field)
{
    if (*field && *field != (char *)protobuf_c_empty_string)
        free(*field);
    *field = NULL;
}

static bool step_is(const struct cluster_disk_move *move, const char *step)
{
    return strcmp(move->info->step, step) == 0;
}

bool disk_move_is_active(const struct cluster_disk_move *move)
{
    return !step_is(move, "over");
}

void disk_move_drop(struct cluster_disk_move *move)
{
    if (move && move->info)
        godwit__disk_move__free_unpacked(move->info, NULL);
    free(move);
}

struct cluster_disk_move *disk_move_find(const struct cluster *cluster, const char *word)
{
    struct cluster_disk_move *found = NULL;
    size_t length = strlen(word);
    for (size_t i = 0; length > 0 && i < cluster->disk_move_count; i++) {
        struct cluster_disk_move *move = cluster->disk_moves[i];
        if (strcmp(move->info->id, word) == 0)
            return move;
        if (strncmp(move->info->id, word, length) != 0)
            continue;
        if (found)
            return NULL; /* two begin so: not this one's word */
        found = move;
    }
    return found;
}

/* ---- begin ------------------------------------------------------------------------------------
 */

static int judge_vm(const struct cluster *cluster, const struct cluster_vm *vm,
                    struct cluster_now now, struct problem *problem)
{
    const struct cluster_host *host = cluster_host(cluster, vm->own.owner);
    const char *name = vm->spec->name;
    if (vm->job || vm->ticket || vm->disk_move)
        return problem_set(problem, GW_VM_BUSY, "something is done to %s already: %s", name,
                           vm->job         ? vm->job->core.id
                           : vm->disk_move ? vm->disk_move->info->id
                                           : "an order is being carried out");
    if (vm_spec_is_libvirt(vm->spec))
        return problem_set(problem, GW_VM_STATE,
                           "%s is a libvirt domain; virsh blockcopy moves its disks", name);
    if (vm->dr) {
        (void)problem_set(problem, GW_VM_STATE,
                          "%s has a replica on %s, whose disks lie as they lie here", name,
                          vm->dr->info->target);
        problem_hint(problem, "godwit dr unprotect %s", name);
        return -1;
    }
    if (vm->own.phase != OWN_RUN || vm->want != WANT_RUNNING ||
        vm->state == GODWIT__VM_STATE__VM_STATE_HELD || vm->in_postcopy)
        return problem_set(problem, GW_VM_STATE,
                           "%s does not run; a disk moves under a running VM only", name);
    if (!host || !host->link_up || cluster_host_state(host, now.ns) == HOST_DOWN)
        return problem_set(problem, GW_HOST_DOWN, "%s is on %s, whose agent does not answer", name,
                           vm->own.owner);
    return 0;
}

static int find_disk(const struct cluster_vm *vm, const char *name, unsigned *ret_disk,
                     struct problem *problem)
{
    const char *names[DISKS_MAX];
    for (unsigned i = 0; i < vm->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = vm->spec->disks[i];
        names[i] = disk->name;
        if (strcmp(disk->name, name) != 0)
            continue;
        if (disk->read_only)
            return problem_set(problem, GW_VM_STATE,
                               "disk %s of %s is read only; copy its file and describe it anew",
                               name, vm->spec->name);
        if (!vm->disk_bytes[i])
            return problem_set(problem, GW_VM_BUSY, "%s has not told yet how large disk %s is",
                               vm->own.owner, name);
        *ret_disk = i;
        return 0;
    }
    (void)problem_set(problem, GW_USAGE, "%s has no disk '%.80s'", vm->spec->name, name);
    const char *nearest = id_nearest(name, names, vm->spec->n_disks);
    if (nearest)
        problem_hint(problem, "did you mean '%s'?", nearest);
    return -1;
}

#define MIB_OF(bytes) ((unsigned long long)((bytes) >> 20))

static int judge_store(const struct cluster_vm *vm, unsigned disk,
                       const struct cluster_store *store, struct problem *problem)
{
    const Godwit__DiskSpec *old = vm->spec->disks[disk];
    const char *name = store->store->name;
    const struct cluster_store_place *place = pool_store_place(store, vm->own.owner);
    if (!place) {
        (void)problem_set(problem, GW_STORE_UNSEEN,
                          "%s runs on %s, which does not have store %s: a disk moves between stores "
                          "of one host",
                          vm->spec->name, vm->own.owner, name);
        problem_hint(problem, "godwit migrate %s --to %s --with-local-disks", vm->spec->name,
                     store->store->hosts[0]);
        return -1;
    }
    if (is_given(old->store) && strcmp(old->store, store->store->path) == 0)
        return problem_set(problem, GW_VM_STATE, "disk %s of %s lies in store %s already",
                           old->name, vm->spec->name, name);
    if ((place->seen_ns || place->state_ns) && strcmp(place->state, "ok") != 0)
        return problem_set(problem, GW_STORE_UNSEEN, "store %s on %s: %.200s", name, place->host,
                           place->reason);
    if (place->seen_ns && vm->disk_bytes[disk] > pool_store_room(place))
        return problem_set(problem, GW_STORE_FULL,
                           "store %s on %s has room for %llu MiB, disk %s of %s may take %llu",
                           name, place->host, MIB_OF(pool_store_room(place)), old->name,
                           vm->spec->name, MIB_OF(vm->disk_bytes[disk]));
    return 0;
}

/* The VM as it will be described. */
static Godwit__VmSpec *make_after(const struct cluster_vm *vm, unsigned disk,
                                  const struct cluster_store *store, const char *file)
{
    Godwit__VmSpec *after = cluster_message_copy(&vm->spec->base);
    assert(after); /* see copy_of */
    Godwit__DiskSpec *place = after->disks[disk];
    set_text(&place->store, store->store->path);
    set_text(&place->pool_store, store->store->name);
    set_text(&place->file, file);
    clear_text(&place->path);
    clear_text(&place->image); /* as is its size below: it is never to be made anew */
    clear_text(&place->image_digest);
    clear_text(&place->snapshot);
    place->has_shared = place->shared = store->store->shared;
    place->has_size = false; /* it is there: it is never to be made anew, empty */
    place->size = 0;
    return after;
}

static int judge_after(const struct cluster *cluster, const struct cluster_vm *vm, unsigned disk,
                       const Godwit__VmSpec *after, struct problem *problem)
{
    struct fault fault = {0};
    const Godwit__DiskSpec *place = after->disks[disk];
    if (vm_spec_judge(after, &fault) < 0)
        return problem_set(problem, GW_SPEC_INVALID, "%s: %s", vm->spec->name, fault.text);
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const Godwit__VmSpec *other = cluster->vms[i]->spec;
        for (size_t n = 0; n < other->n_disks; n++) {
            const Godwit__DiskSpec *theirs = other->disks[n];
            if (theirs->shared == place->shared && is_given(theirs->store) &&
                strcmp(theirs->store, place->store) == 0 && strcmp(theirs->file, place->file) == 0)
                return problem_set(problem, GW_NAME_TAKEN, "%s in store %s is disk %s of %s",
                                   place->file, place->pool_store, theirs->name, other->name);
        }
    }
    return 0;
}

static void put_move(struct cluster_disk_move *move, struct cluster_todo *todo)
{
    struct cluster_put *put = cluster_todo_put(todo, PUT_DISK_MOVE);
    put->object = move;
    put->revision = move->revision++;
    cluster_todo_news(todo, move->info->id);
}

static void drop_oldest(struct cluster *cluster, struct cluster_todo *todo)
{
    for (size_t i = 0; cluster->disk_move_count > MOVES_KEPT && i < cluster->disk_move_count;) {
        struct cluster_disk_move *move = cluster->disk_moves[i];
        if (disk_move_is_active(move)) {
            i++;
            continue;
        }
        struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_DISK_MOVE);
        put->revision = move->revision;
        WORDS_COPY(put->key, move->info->id);
        cluster_drop_disk_move(cluster, move);
        disk_move_drop(move);
    }
}

static Godwit__DiskMove *make_info(const struct cluster *cluster, const struct cluster_vm *vm,
                                   const struct disk_move_ask *ask, unsigned disk,
                                   Godwit__VmSpec *after, struct cluster_now now)
{
    const struct cluster_host *host = cluster_host(cluster, vm->own.owner);
    Godwit__DiskMove info = GODWIT__DISK_MOVE__INIT;
    static char copy[] = "copy", running[] = "running";
    info.id = (char *)(uintptr_t)ask->id; /* texts are only read */
    info.move_id = (char *)(uintptr_t)ask->move_id;
    info.vm_id = (char *)(uintptr_t)vm->id;
    info.vm = vm->spec->name;
    info.host = (char *)(uintptr_t)vm->own.owner;
    info.has_generation = info.has_disk = info.has_bytes = true;
    info.generation = vm->own.gen;
    info.incarnation = host->facts && host->facts->incarnation ? host->facts->incarnation : NULL;
    info.disk = disk;
    info.disk_name = vm->spec->disks[disk]->name;
    info.bytes = vm->disk_bytes[disk];
    info.before = vm->spec;
    info.after = after;
    info.has_bandwidth_bytes_per_s = ask->bandwidth_bytes_per_s > 0;
    info.bandwidth_bytes_per_s = ask->bandwidth_bytes_per_s;
    info.step = copy;
    info.state = running;
    info.has_created_unix_ms = true;
    info.created_unix_ms = now.unix_ms;
    return cluster_message_copy(&info.base);
}

static int judge_file(const char *vm, const char *disk, const char *colon,
                      char ret_file[static FILE_SIZE], struct problem *problem)
{
    int n = colon ? snprintf(ret_file, FILE_SIZE, "%s", colon + 1)
                  : snprintf(ret_file, FILE_SIZE, "%s-%s.raw", vm, disk);
    if (n <= 0 || n >= FILE_SIZE)
        return problem_set(problem, GW_USAGE, "STORE:FILE wants a file of 1 to %d letters",
                           FILE_SIZE - 1);
    return 0;
}

int disk_move_begin(struct cluster *cluster, const struct disk_move_ask *ask, bool dry_run,
                    struct cluster_now now, struct cluster_disk_move **ret_move,
                    struct problem *problem, struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_find_vm(cluster, ask->vm, problem);
    char name[ID_NAME_MAX + 2], file[FILE_SIZE];
    unsigned disk = 0;
    if (!vm || judge_vm(cluster, vm, now, problem) != 0 ||
        find_disk(vm, ask->disk, &disk, problem) != 0)
        return -1;
    const char *colon = strchr(ask->to, ':');
    size_t length = colon ? (size_t)(colon - ask->to) : strlen(ask->to);
    (void)snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : sizeof name),
                   ask->to);
    const struct cluster_store *store = pool_store_find(cluster, name, problem);
    if (!store || judge_store(vm, disk, store, problem) != 0 ||
        judge_file(vm->spec->name, ask->disk, colon, file, problem) != 0)
        return -1;
    Godwit__VmSpec *after = make_after(vm, disk, store, file);
    struct cluster_disk_move *move = NULL;
    if (judge_after(cluster, vm, disk, after, problem) == 0) {
        move = dry_run ? calloc(1, sizeof *move) : cluster_add_disk_move(cluster);
        assert(move); /* see copy_of */
        move->info = make_info(cluster, vm, ask, disk, after, now);
        assert(move->info);
    }
    godwit__vm_spec__free_unpacked(after, NULL);
    if (!move)
        return -1;
    *ret_move = move;
    if (dry_run)
        return 0;
    vm->disk_move = move;
    put_move(move, todo);
    cluster_todo_event(todo, vm->id, "job %s: disk %s of %s goes to store %s", ask->id, ask->disk,
                       vm->spec->name, name);
    drop_oldest(cluster, todo);
    return 0;
}

struct cluster_disk_move *disk_move_load(struct cluster *cluster, Godwit__DiskMove *info)
{
    static const char *const steps[] = {"copy", "promise", "settle", "undo", "over"};
    bool known = false;
    for (size_t i = 0; info->step && i < ARRAY_COUNT(steps); i++)
        known = known || strcmp(info->step, steps[i]) == 0;
    struct cluster_vm *vm = info->vm_id ? cluster_vm(cluster, info->vm_id) : NULL;
    bool is_active = known && strcmp(info->step, "over") != 0;
    bool ok = known && info->id && info->move_id && info->vm_id && info->vm && info->host &&
              info->state && info->disk_name && info->before && info->after &&
              info->disk < info->before->n_disks && info->disk < info->after->n_disks;
    if (!ok || (is_active && (!vm || info->disk >= vm->spec->n_disks || vm->disk_move)))
        return NULL;
    struct cluster_disk_move *move = cluster_add_disk_move(cluster);
    if (!move)
        return NULL;
    move->info = info;
    if (is_active)
        vm->disk_move = move;
    return move;
}

/* ---- steps ------------------------------------------------------------------------------------
 */

Godwit__DiskMoveVerb disk_move_verb(const struct cluster_disk_move *move)
{
    if (step_is(move, "copy"))
        return GODWIT__DISK_MOVE_VERB__DISK_MOVE_BEGIN; /* and, once it has, how it goes on */
    if (step_is(move, "promise"))
        return GODWIT__DISK_MOVE_VERB__DISK_MOVE_PROMISE;
    return step_is(move, "settle") ? GODWIT__DISK_MOVE_VERB__DISK_MOVE_SETTLE
                                   : GODWIT__DISK_MOVE_VERB__DISK_MOVE_UNDO;
}

static void set_step(struct cluster_disk_move *move, const char *step, struct cluster_todo *todo)
{
    assert(disk_move_is_active(move));
    set_text(&move->info->step, step);
    move->refusals = 0;
    move->next_ns = 0;
    put_move(move, todo);
}

static void note_error(struct cluster_disk_move *move, enum gw_code code, const char *text)
{
    if (is_given(move->info->error))
        return; /* the first is the reason */
    move->info->has_code = true;
    move->info->code = (uint32_t)code;
    set_text(&move->info->error, text);
}

static void end(struct cluster *cluster, struct cluster_disk_move *move, const char *state,
                struct cluster_now now, struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_vm(cluster, move->info->vm_id);
    set_text(&move->info->state, state);
    move->info->has_ended_unix_ms = true;
    move->info->ended_unix_ms = now.unix_ms;
    set_step(move, "over", todo);
    if (vm && vm->disk_move == move)
        vm->disk_move = NULL;
    cluster_todo_event(todo, move->info->vm_id, "job %s: disk %s of %s: %s%s%.120s",
                       move->info->id, move->info->disk_name, move->info->vm, state,
                       is_given(move->info->error) ? ": " : "",
                       is_given(move->info->error) ? move->info->error : "");
}

static void undo(struct cluster_disk_move *move, enum gw_code code, const char *text,
                 struct cluster_todo *todo)
{
    note_error(move, code, text);
    set_step(move, "undo", todo);
}

/* One transaction: the VM is described with the copy, and what was the disk goes. */
static void commit(struct cluster *cluster, struct cluster_disk_move *move,
                   struct cluster_todo *todo)
{
    const Godwit__DiskMove *info = move->info;
    struct cluster_vm *vm = cluster_vm(cluster, info->vm_id);
    bool is_same_run = vm && vm->own.phase == OWN_RUN && vm->own.gen == info->generation &&
                       strcmp(vm->own.owner, info->host) == 0 && info->disk < vm->spec->n_disks;
    if (!is_same_run || info->cancel) {
        undo(move, info->cancel ? GW_MOVE_CANCELED : GW_VM_STATE,
             info->cancel ? "it was canceled" : "the VM does not run there as it did", todo);
        return;
    }
    Godwit__DiskSpec *place = cluster_message_copy(&info->after->disks[info->disk]->base);
    assert(place); /* see copy_of */
    godwit__disk_spec__free_unpacked(vm->spec->disks[info->disk], NULL);
    vm->spec->disks[info->disk] = place;
    struct cluster_put *put = cluster_todo_put(todo, PUT_VM);
    put->object = vm;
    put->revision = vm->revision++;
    set_step(move, "settle", todo);
}

static bool said_is(const struct disk_move_answer *answer, const char *state)
{
    return answer->said && answer->said->state && strcmp(answer->said->state, state) == 0;
}

static const char *why(const struct disk_move_answer *answer)
{
    if (answer->fault)
        return answer->fault->text;
    return is_given(answer->said->reason) ? answer->said->reason : "the VM's process gave it up";
}

/* Before the commit point. */
static void on_copy(struct cluster *cluster, struct cluster_disk_move *move,
                    const struct disk_move_answer *answer, struct cluster_todo *todo)
{
    bool failed = answer->fault || said_is(answer, "failed") || said_is(answer, "off") ||
                  said_is(answer, "none");
    if (move->info->cancel)
        undo(move, GW_MOVE_CANCELED, "it was canceled", todo);
    else if (failed)
        undo(move, GW_MOVE_ROLLED_BACK, why(answer), todo);
    else if (step_is(move, "copy") && said_is(answer, "equal"))
        set_step(move, "promise", todo);
    else if (step_is(move, "promise") && answer->said->over)
        commit(cluster, move, todo);
}

/* Behind a decision, whichever it was. */
static void on_end(struct cluster *cluster, struct cluster_disk_move *move,
                   const struct disk_move_answer *answer, struct cluster_now now,
                   struct cluster_todo *todo)
{
    bool is_undo = step_is(move, "undo");
    if (answer->fault && ++move->refusals < REFUSALS_MAX)
        return; /* again */
    if (answer->fault) {
        char text[CLUSTER_REASON_SIZE];
        (void)snprintf(text, sizeof text, "a file stays: %.200s", answer->fault->text);
        note_error(move, GW_ORDER_FAILED, text);
    } else if (!answer->said->over) {
        return;
    }
    end(cluster, move, !is_undo ? "done" : move->info->cancel ? "canceled" : "rolled-back", now,
        todo);
}

static void keep_said(struct cluster_disk_move *move, const Godwit__DiskMoveStatus *said,
                      struct cluster_todo *todo)
{
    if (!said || !is_given(said->state) || strcmp(said->state, "none") == 0)
        return;
    Godwit__DiskMoveStatus *copy = cluster_message_copy(&said->base);
    assert(copy); /* see copy_of */
    if (move->info->last)
        godwit__disk_move_status__free_unpacked(move->info->last, NULL);
    move->info->last = copy;
    cluster_todo_news(todo, move->info->id);
}

void disk_move_answered(struct cluster *cluster, struct cluster_disk_move *move,
                        const struct disk_move_answer *answer, struct cluster_now now,
                        struct cluster_todo *todo)
{
    keep_said(move, answer->said, todo);
    if (!disk_move_is_active(move) || answer->verb != disk_move_verb(move))
        return; /* it was canceled meanwhile: another order goes out */
    if (answer->fault && (!answer->definite || answer->fault->code == ERR_BUSY)) {
        if (move->info->cancel && (step_is(move, "copy") || step_is(move, "promise")))
            undo(move, GW_MOVE_CANCELED, "it was canceled", todo);
        return; /* nobody knows: the same again */
    }
    if (step_is(move, "copy") || step_is(move, "promise"))
        on_copy(cluster, move, answer, todo);
    else
        on_end(cluster, move, answer, now, todo);
}

int disk_move_cancel(struct cluster *cluster, struct cluster_disk_move *move,
                     struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    (void)cluster;
    (void)now;
    if (!disk_move_is_active(move)) {
        (void)problem_set(problem, GW_JOB_ENDED, "job %s is over: %s", move->info->id,
                          move->info->state);
        return -1;
    }
    if (step_is(move, "settle"))
        return problem_set(problem, GW_JOB_TOO_LATE,
                           "job %s is past its commit point; the disk lies in its new store",
                           move->info->id);
    if (move->info->cancel)
        return 0;
    move->info->has_cancel = move->info->cancel = true;
    if (step_is(move, "copy")) /* else what is under way is awaited */
        undo(move, GW_MOVE_CANCELED, "it was canceled", todo);
    else
        put_move(move, todo);
    return 0;
}

/* ---- told -------------------------------------------------------------------------------------
 */

static void say_place(const Godwit__DiskSpec *disk, char ret_text[static CLUSTER_REASON_SIZE])
{
    const char *store = is_given(disk->pool_store) ? disk->pool_store : disk->store;
    if (is_given(disk->path))
        (void)snprintf(ret_text, CLUSTER_REASON_SIZE, "%.250s", disk->path);
    else
        (void)snprintf(ret_text, CLUSTER_REASON_SIZE, "%.120s:%.120s", store ? store : "",
                       disk->file ? disk->file : "");
}

void disk_move_tell(const struct cluster *cluster, const struct cluster_disk_move *move,
                    uint64_t now_ns, struct disk_move_message *ret_message)
{
    const Godwit__DiskMove *from = move->info;
    Godwit__JobInfo *info = &ret_message->info;
    static char kind[] = "disk-move";
    const struct cluster_vm *vm = cluster_vm(cluster, from->vm_id);
    godwit__job_info__init(info);
    info->id = from->id;
    info->kind = kind;
    info->state = from->state;
    info->step = from->step;
    info->vm = from->vm;
    info->vm_id = from->vm_id;
    say_place(from->before->disks[from->disk], ret_message->source);
    say_place(from->after->disks[from->disk], ret_message->target);
    info->source = ret_message->source;
    info->target = ret_message->target;
    info->has_created_unix_ms = info->has_generation = true;
    info->created_unix_ms = from->created_unix_ms;
    info->has_ended_unix_ms = from->ended_unix_ms != 0;
    info->ended_unix_ms = from->ended_unix_ms;
    info->generation = from->generation;
    info->disk = from->last;
    info->disk_name = from->disk_name;
    ret_message->vm_state[0] = '\0';
    if (vm)
        cluster_vm_place(cluster, vm, now_ns, ret_message->vm_state, sizeof ret_message->vm_state);
    info->vm_state = ret_message->vm_state;
    const struct gw_code_row *row = gw_code_row((int)from->code);
    if (!row || !is_given(from->error))
        return;
    godwit__operator_error__init(&ret_message->error);
    ret_message->error.code = (char *)(uintptr_t)row->label; /* protobuf-c knows no const */
    ret_message->error.name = (char *)(uintptr_t)row->name;
    ret_message->error.message = from->error;
    ret_message->error.vm_state = ret_message->vm_state;
    ret_message->error.has_exit_code = true;
    ret_message->error.exit_code = (uint32_t)row->exit_code;
    info->error = &ret_message->error;
}
