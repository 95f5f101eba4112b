/* Two kinds of input meet here. Agents report facts: they are believed about their own host only,
 * and only for VMs that the record gives to it (a host's certificate is no right over other hosts'
 * VMs). Operators ask: a request is judged whole before anything is changed.
 *
 * Nothing that is unknown is ever stopped here: absence of knowledge is no evidence (R1, R9). */
#include "coordinator/cluster_core.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/cluster_adopt.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_clone.h"
#include "coordinator/cluster_forecast.h"
#include "coordinator/cluster_definition.h"
#include "coordinator/cluster_found.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_snapshot.h"
#include "coordinator/cluster_unheard.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_tell.h"
#include "coordinator/plan_core.h"
#include "coordinator/planner.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum { START_AGAIN_MS = 5000 };

static bool is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

void cluster_put_own(struct cluster_vm *vm, struct cluster_now now, struct cluster_todo *todo)
{
    vm->own_ns = now.ns;
    struct cluster_put *put = cluster_todo_put(todo, PUT_OWN);
    put->object = vm;
    put->own_revision = vm->own_revision++;
}

static void put_job(struct cluster_job *job, struct cluster_todo *todo)
{
    struct cluster_put *put = cluster_todo_put(todo, PUT_JOB);
    put->object = job;
    put->revision = job->revision++;
}

static void put_host(struct cluster_host *host, struct cluster_todo *todo)
{
    struct cluster_put *put = cluster_todo_put(todo, PUT_HOST);
    put->object = host;
    put->revision = host->revision++;
}

static void set_reason(struct cluster_vm *vm, bool crashed, const char *reason)
{
    vm->crashed = crashed;
    WORDS_COPY(vm->reason, reason);
}

struct cluster_order *cluster_order_vm(const struct cluster_vm *vm, const char *host,
                                       enum cluster_order_kind kind, struct cluster_now now,
                                       struct cluster_todo *todo)
{
    struct cluster_order *order = cluster_todo_order(todo, kind);
    WORDS_COPY(order->host, host);
    WORDS_COPY(order->vm_id, vm->id);
    order->generation = vm->own.gen;
    order->asked_ns = now.ns;
    return order;
}

/* The answer of an operator's order; `problem` NULL: it went well. */
static void answer(struct cluster_vm *vm, uint64_t ticket, const struct problem *problem,
                   struct cluster_todo *todo)
{
    if (ticket == 0)
        return;
    if (vm && vm->ticket == ticket)
        vm->ticket = 0;
    struct cluster_answer *given = cluster_todo_answer(todo);
    given->ticket = ticket;
    WORDS_COPY(given->vm_id, vm ? vm->id : "");
    if (!problem)
        return;
    given->problem = malloc(sizeof *problem);
    assert(given->problem);
    *given->problem = *problem;
}

void cluster_warn(struct cluster *cluster, const char *host, const char *text)
{
    for (unsigned i = 0; i < cluster->warning_count; i++) {
        if (is_same(cluster->warnings[i], text))
            return;
    }
    log_warn("cluster_core", "%s host=%s", text, host);
    if (cluster->warning_count == CLUSTER_WARNINGS_MAX)
        return;
    WORDS_COPY(cluster->warnings[cluster->warning_count], text);
    WORDS_COPY(cluster->warning_hosts[cluster->warning_count], host);
    cluster->warning_count++;
}

void cluster_clear_warnings(struct cluster *cluster, const char *host)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < cluster->warning_count; i++) {
        if (is_same(cluster->warning_hosts[i], host))
            continue;
        if (kept != i) {
            memcpy(cluster->warnings[kept], cluster->warnings[i], sizeof cluster->warnings[kept]);
            memcpy(cluster->warning_hosts[kept], cluster->warning_hosts[i],
                   sizeof cluster->warning_hosts[kept]);
        }
        kept++;
    }
    cluster->warning_count = kept;
}

/* ---- jobs -------------------------------------------------------------------------------------
 */

static void job_order(struct cluster_job *job, bool at_target, enum cluster_order_kind kind,
                      Godwit__MoveVerdictKind verdict, struct cluster_now now,
                      struct cluster_todo *todo)
{
    const struct job_core *core = &job->core;
    struct cluster_order *order = cluster_todo_order(todo, kind);
    WORDS_COPY(order->host, at_target ? core->target_host : core->source_host);
    WORDS_COPY(order->vm_id, core->vm_id);
    WORDS_COPY(order->job_id, core->id);
    WORDS_COPY(order->move_id, core->move_id);
    order->verdict = verdict;
    order->generation = verdict == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME
                            ? core->resume_generation
                            : core->generation;
    order->asked_ns = now.ns;
}

static void carry_out_own(struct cluster *cluster, struct cluster_job *job, struct cluster_vm *vm,
                          enum job_own own, struct cluster_now now, struct cluster_todo *todo)
{
    const struct cluster_host *target = cluster_host(cluster, job->core.target_host);
    switch (own) {
    case JOB_OWN_KEEP:
        return;
    case JOB_OWN_BACK:
        own_back(&vm->own);
        break;
    case JOB_OWN_TAKEN:
        own_taken(&vm->own, target && target->facts && target->facts->incarnation
                                ? target->facts->incarnation
                                : "");
        vm->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
        break;
    case JOB_OWN_RECOVER:
        own_recover(&vm->own);
        job->core.resume_generation = vm->own.gen;
        break;
    case JOB_OWN_RECOVERED:
        own_recovered(&vm->own);
        break;
    case JOB_OWN_RECOVERED_OLD:
        vm->own.gen = job->core.source_generation; /* what its process goes by; hiwater stays */
        own_recovered(&vm->own);
        break;
    case JOB_OWN_ENDED:
        set_reason(vm, false, "the guest ended by itself");
        cluster_ha_end_vm(cluster, vm, false, now, todo);
        return;
    case JOB_OWN_STOP:
        set_reason(vm, true, job->core.error_text);
        cluster_ha_end_vm(cluster, vm, true, now, todo);
        return;
    }
    cluster_put_own(vm, now, todo);
}

static void job_ended(struct cluster *cluster, struct cluster_job *job, struct cluster_vm *vm,
                      struct cluster_now now, struct cluster_todo *todo)
{
    char place[128];
    job->ended_unix_ms = now.unix_ms;
    vm->job = NULL;
    cluster_vm_place(cluster, vm, now.ns, place, sizeof place);
    cluster_todo_event(todo, vm->id, "job %s: move of %s from %s to %s %s; %s%s%s", job->core.id,
                       job->vm_name, job->core.source_host, job->core.target_host,
                       job_state_name(job->core.state), place,
                       job->core.error_code != GW_NONE ? ": " : "", job->core.error_text);
    log_info("job_core", "move ended job=%s vm=%s state=%s place='%s' reason='%s'", job->core.id,
             job->vm_name, job_state_name(job->core.state), place, job->core.error_text);
}

void cluster_job_note(struct cluster_job *job, const char *text)
{
    if (text[0] && job->note_count < CLUSTER_NOTES_MAX)
        WORDS_COPY(job->notes[job->note_count++], text);
}

static void carry_out(struct cluster *cluster, struct cluster_job *job,
                      const struct job_todo *wanted, struct cluster_now now,
                      struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_vm(cluster, job->core.vm_id);
    assert(vm); /* a VM is not removed while a job has it */

    carry_out_own(cluster, job, vm, wanted->own, now, todo);
    if (wanted->bits & JOB_TODO_ALARM) {
        char text[CLUSTER_REASON_SIZE];
        (void)snprintf(text, sizeof text, "%s is held on %s and waits for word of %s", job->vm_name,
                       job->core.source_host, job->core.target_host);
        cluster_job_note(job, text);
        log_error("job_core", "%s job=%s", text, job->core.id);
        cluster_todo_event(todo, vm->id, "alarm: %s (job %s)", text, job->core.id);
    }
    if (wanted->bits & JOB_TODO_ENDED)
        job_ended(cluster, job, vm, now, todo);
    if (wanted->bits & JOB_TODO_STORE)
        put_job(job, todo);
    if (wanted->bits & JOB_TODO_MOVE_IN)
        job_order(job, true, ORDER_MOVE_IN, 0, now, todo);
    if (wanted->bits & JOB_TODO_MOVE_OUT)
        job_order(job, false, ORDER_MOVE_OUT, 0, now, todo);
    if (wanted->target_verdict)
        job_order(job, true, ORDER_VERDICT, wanted->target_verdict, now, todo);
    if (wanted->source_verdict)
        job_order(job, false, ORDER_VERDICT, wanted->source_verdict, now, todo);
    if (wanted->bits & JOB_TODO_ASK_TARGET)
        job_order(job, true, ORDER_STATUS, 0, now, todo);
    if (wanted->bits & JOB_TODO_ASK_SOURCE)
        job_order(job, false, ORDER_STATUS, 0, now, todo);
    if (wanted->bits & JOB_TODO_REPORT)
        cluster_todo_news(todo, job->core.id);
}

void cluster_tune_job(struct cluster_job *job, struct cluster_now now, struct cluster_todo *todo)
{
    put_job(job, todo);
    cluster_todo_news(todo, job->core.id);
    if (job->core.step == JOB_MOVE) /* before, MOVE_OUT carries them */
        job_order(job, false, ORDER_TUNE, 0, now, todo);
}

void cluster_step_job(struct cluster *cluster, struct cluster_job *job,
                      const struct job_event *event, struct cluster_now now,
                      struct cluster_todo *todo)
{
    struct job_todo wanted = {0};
    job_core_step(&job->core, event, &wanted);
    carry_out(cluster, job, &wanted, now, todo);
}

static void job_report(struct cluster *cluster, struct cluster_job *job,
                       const struct job_report *report, struct cluster_now now,
                       struct cluster_todo *todo)
{
    struct job_event event = {.now_ns = now.ns, .type = JOB_EVENT_REPORT, .report = *report};
    cluster_step_job(cluster, job, &event, now, todo);
}

static struct cluster_job *find_job_of_move(const struct cluster *cluster, const char *move_id)
{
    for (size_t i = cluster->job_count; i-- > 0;) {
        if (is_same(cluster->jobs[i]->core.move_id, move_id))
            return cluster->jobs[i];
    }
    return NULL;
}

void cluster_restart(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo)
{
    cluster->began_ns = now.ns;
    for (size_t i = 0; i < cluster->host_count; i++) {
        cluster->hosts[i]->seen_ns = now.ns; /* suspect first: it may be on its way */
        cluster->hosts[i]->link_up = false;
    }
    for (size_t i = 0; i < cluster->job_count; i++) {
        struct cluster_job *job = cluster->jobs[i];
        struct cluster_vm *vm = cluster_vm(cluster, job->core.vm_id);
        if (!job_core_is_active(&job->core))
            cluster_forecast_learn(cluster, job); /* oldest first, as they were learned before */
        if (!job_core_is_active(&job->core) || !vm)
            continue;
        vm->job = job;
        log_info("job_core", "continuing job=%s vm=%s step=%s", job->core.id, job->vm_name,
                 job_step_name(job->core.step));
        struct job_event event = {.now_ns = now.ns, .type = JOB_EVENT_RESTART};
        cluster_step_job(cluster, job, &event, now, todo);
    }
}

/* ---- what agents report -----------------------------------------------------------------------
 */

enum heard { HEARD_EVENT, HEARD_HELLO, HEARD_ANSWER, HEARD_FENCE };

struct status { /* a VmStatus, judged */
    Godwit__VmState state;
    uint64_t generation;
    Godwit__Latch latch;
    uint64_t latch_generation;
    const char *move_id; /* "" when there is no latch */
    const char *reason;  /* "" */
    bool absent, runs;
    bool in_postcopy;
    bool is_lost; /* a part of its memory cannot be read from its file: it stands still */
    const char *nonce; /* of a suspended one; "" */
};

static struct status judge_status(const Godwit__VmStatus *message)
{
    struct status status = {
        .state = message->has_state ? message->state : GODWIT__VM_STATE__VM_STATE_NONE,
        .generation = message->generation,
        .move_id = "",
        .reason = message->reason ? message->reason : "",
        .in_postcopy = message->in_postcopy,
        .is_lost = message->paging_nonce && message->paging_nonce[0] && message->reason &&
                   message->reason[0],
    };
    if (message->latch && message->latch->move_id) {
        status.latch = message->latch->latch;
        status.latch_generation = message->latch->generation;
        status.move_id = message->latch->move_id;
    }
    status.nonce = status.state == GODWIT__VM_STATE__VM_STATE_SUSPENDED && message->suspend_nonce
                       ? message->suspend_nonce
                       : "";
    status.absent = status.state == GODWIT__VM_STATE__VM_STATE_SUSPENDED ||
                    status.state == GODWIT__VM_STATE__VM_STATE_STOPPED ||
                    status.state == GODWIT__VM_STATE__VM_STATE_CRASHED ||
                    status.state == GODWIT__VM_STATE__VM_STATE_GONE;
    status.runs = status.state == GODWIT__VM_STATE__VM_STATE_RUNNING ||
                  status.state == GODWIT__VM_STATE__VM_STATE_PAUSED;
    return status;
}

static void finish_stop(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                        struct cluster_todo *todo)
{
    if (vm->want == WANT_REMOVED) {
        cluster_todo_event(todo, vm->id, "VM %s removed", vm->spec->name);
        struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_VM);
        put->revision = vm->revision;
        put->own_revision = vm->own_revision;
        WORDS_COPY(put->key, vm->id);
        cluster_drop_vm(cluster, vm);
        return;
    }
    own_stop(&vm->own);
    set_reason(vm, false, "");
    vm->suspended[0] = vm->restoring[0] = '\0';
    cluster_put_own(vm, now, todo);
    cluster_todo_event(todo, vm->id, "VM %s stopped on %s", vm->spec->name, vm->own.owner);
}

/* The owner's process is gone and nobody asked for it. */
static void record_ended(struct cluster *cluster, struct cluster_vm *vm, bool crashed,
                         const char *reason, struct cluster_now now, struct cluster_todo *todo)
{
    if (vm->want != WANT_RUNNING) {
        finish_stop(cluster, vm, now, todo);
        return;
    }
    /* It may have gone on from there, unheard, and written its disks: that memory is never to meet them. */
    vm->restoring[0] = '\0';
    set_reason(vm, crashed, reason);
    cluster_ha_end_vm(cluster, vm, crashed, now, todo);
    cluster_todo_event(todo, vm->id, "VM %s %s on %s: %s", vm->spec->name,
                       crashed ? "crashed" : "stopped", vm->own.owner, reason);
    log_warn("cluster_core", "VM %s vm=%s host=%s reason='%s'", crashed ? "crashed" : "stopped",
             vm->spec->name, vm->own.owner, reason);
}

/* It rests in a file of its host, which nobody else can go on from. */
static void record_suspended(struct cluster_vm *vm, const char *nonce, struct cluster_now now,
                             struct cluster_todo *todo)
{
    own_stop(&vm->own);
    set_reason(vm, false, "");
    WORDS_COPY(vm->suspended, nonce);
    cluster_put_own(vm, now, todo);
    cluster_todo_event(todo, vm->id, "VM %s is suspended on %s", vm->spec->name, vm->own.owner);
}

static void record_started(struct cluster_vm *vm, struct cluster_now now, struct cluster_todo *todo)
{
    vm->suspended[0] = vm->restoring[0] = '\0'; /* it went on from there, or booted */
    vm->lazy = false;
    own_started(&vm->own);
    cluster_ha_started(vm, now);
    set_reason(vm, false, "");
    cluster_put_own(vm, now, todo);
    cluster_todo_event(todo, vm->id, "VM %s runs on %s as generation %llu", vm->spec->name,
                       vm->own.owner, (unsigned long long)vm->own.gen);
}

static void verdict_without_job(const struct cluster_vm *vm, const char *host,
                                const struct status *status, Godwit__MoveVerdictKind verdict,
                                struct cluster_now now, struct cluster_todo *todo)
{
    struct cluster_order *order = cluster_order_vm(vm, host, ORDER_VERDICT, now, todo);
    WORDS_COPY(order->move_id, status->move_id);
    order->verdict = verdict;
    order->generation = status->latch_generation;
    log_info("cluster_core", "left over of a move: %s vm=%s host=%s move=%s",
             verdict == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP ? "drop" : "abandon",
             vm->spec->name, host, status->move_id);
}

/* It stands still though nobody asked it to, and why; or runs again. */
static void note_halt(struct cluster_vm *vm, const struct status *status, struct cluster_todo *todo)
{
    char reason[CLUSTER_REASON_SIZE];

    WORDS_COPY(reason, status->state == GODWIT__VM_STATE__VM_STATE_PAUSED ? status->reason : "");
    if (is_same(vm->reason, reason))
        return;
    set_reason(vm, false, reason);
    if (!reason[0])
        return;
    cluster_todo_event(todo, vm->id, "VM %s is paused on %s: %s", vm->spec->name, vm->own.owner,
                       reason);
    log_warn("cluster_core", "VM paused vm=%s host=%s reason='%s'", vm->spec->name, vm->own.owner,
             reason);
}

/* The owner reports its VM under the recorded generation. */
static void reconcile_owner(struct cluster *cluster, struct cluster_host *host,
                            struct cluster_vm *vm, const struct status *status, enum heard heard,
                            struct cluster_now now, struct cluster_todo *todo)
{
    enum own_phase phase = vm->own.phase;
    if (status->nonce[0]) {
        if (phase == OWN_RUN && vm->want == WANT_RUNNING)
            record_suspended(vm, status->nonce, now, todo);
        return;
    }
    if (status->absent) {
        bool crashed = status->state == GODWIT__VM_STATE__VM_STATE_CRASHED;
        if (phase == OWN_STARTING && heard != HEARD_EVENT && !vm->ticket)
            vm->suspended[0] = '\0'; /* it has gone on from there */
        if (phase == OWN_RUN || (phase == OWN_STARTING && heard != HEARD_EVENT && !vm->ticket))
            record_ended(cluster, vm, crashed,
                         status->reason[0] ? status->reason : "the guest ended by itself", now,
                         todo);
        return;
    }
    if (status->is_lost && phase == OWN_RUN && !is_same(vm->reason, status->reason)) {
        set_reason(vm, false, status->reason);
        cluster_todo_event(todo, vm->id, "VM %s stands still for good on %s: %.300s", vm->spec->name,
                           host->name, status->reason);
    }
    if (status->runs && phase == OWN_STARTING) {
        record_started(vm, now, todo);
    } else if (status->runs && phase == OWN_STOPPED && heard != HEARD_EVENT &&
               vm->own.gen == vm->own.hiwater && vm->want == WANT_RUNNING) {
        own_adopt(&vm->own);
        set_reason(vm, false, "");
        cluster_put_own(vm, now, todo);
    } else if (status->state == GODWIT__VM_STATE__VM_STATE_HELD &&
               status->latch == GODWIT__LATCH__LATCH_GAVE && phase == OWN_RUN) {
        /* The target was proven to be out of that move when it was rolled back. */
        struct cluster_job *job = find_job_of_move(cluster, status->move_id);
        if (job && !job_core_is_active(&job->core) && job->core.state != JOB_DONE) {
            struct job_todo wanted = {0};
            own_reopen(&vm->own, job->core.target_host, job->core.move_id);
            cluster_put_own(vm, now, todo);
            job_core_reopen(&job->core, now.ns, &wanted);
            job->core.resume_generation = vm->own.gen;
            job->ended_unix_ms = 0;
            vm->job = job;
            carry_out(cluster, job, &wanted, now, todo);
        }
    }
    if (status->runs && vm->own.phase == OWN_RUN && !vm->job && !dr_is_acting(vm))
        note_halt(vm, status, todo);
    if (vm->want != WANT_RUNNING && status->runs && !vm->ticket && vm->own.phase == OWN_RUN) {
        struct cluster_order *order = cluster_order_vm(vm, host->name, ORDER_STOP, now, todo);
        order->remove = vm->want == WANT_REMOVED; /* what was recorded is carried out */
    }
}

/* Somebody else, or the owner's process of an older generation. */
static void reconcile_other(struct cluster *cluster, struct cluster_host *host,
                            struct cluster_vm *vm, const struct status *status,
                            struct cluster_now now, struct cluster_todo *todo)
{
    if (status->absent)
        return;
    switch (status->latch) {
    case GODWIT__LATCH__LATCH_IN:
    case GODWIT__LATCH__LATCH_READY:
    case GODWIT__LATCH__LATCH_ABANDONED:
        verdict_without_job(vm, host->name, status, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON,
                            now, todo);
        return;
    case GODWIT__LATCH__LATCH_GAVE:
    case GODWIT__LATCH__LATCH_RELEASED:
        /* The record names a newer generation than the one it gave away: its memory is old, but
         * for those pages that the newer one still lacks. */
        if (vm->in_postcopy && status->latch == GODWIT__LATCH__LATCH_GAVE)
            return;
        if (vm->own.gen >= status->latch_generation) {
            verdict_without_job(vm, host->name, status,
                                GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP, now, todo);
            return;
        }
        break;
    case GODWIT__LATCH__LATCH_NONE:
    case GODWIT__LATCH__LATCH_OUT:
    case GODWIT__LATCH__LATCH_ABORTED:
    case GODWIT__LATCH__LATCH_TOOK:
    case _GODWIT__LATCH_IS_INT_SIZE:
        break;
    }
    char text[CLUSTER_REASON_SIZE];
    (void)snprintf(text, sizeof text,
                   "%s has a process of %s as generation %llu; the record says %s %s as %llu",
                   host->name, vm->spec->name, (unsigned long long)status->generation,
                   own_phase_name(vm->own.phase), vm->own.owner, (unsigned long long)vm->own.gen);
    cluster_warn(cluster, host->name, text);
}

static void show_status(struct cluster_vm *vm, const Godwit__VmStatus *message)
{
    vm->state = message->state;
    vm->pid = message->pid;
    vm->memory_populated = message->memory_populated;
    vm->vcpu_cpu_ns = message->vcpu_cpu_ns;
    vm->in_postcopy = message->in_postcopy;
    for (size_t i = 0; i < message->n_disk_bytes && i < ARRAY_COUNT(vm->disk_bytes); i++)
        vm->disk_bytes[i] = message->disk_bytes[i];
    WORDS_COPY(vm->version, message->version ? message->version : "");
}

/* Does the status speak of the move at all, or of an earlier life of the VM on that host? */
static bool absence_is_of_move(const struct job_core *core, bool at_target,
                               const struct status *status, enum heard heard)
{
    return heard != HEARD_EVENT || is_same(status->move_id, core->move_id) ||
           (!at_target && status->generation == core->source_generation);
}

/* A stop of it that was recorded: its host may have heard of the start alone. */
static void say_start_end(struct cluster *cluster, struct cluster_vm *vm, const char *name,
                          struct cluster_now now, struct cluster_todo *todo)
{
    const struct cluster_host *host = cluster_host(cluster, name);
    struct cluster_order *order = cluster_order_vm(vm, name, ORDER_STOP, now, todo);

    order->ends_start = host && host->ends_starts; /* else of what runs by now, as any stop */
}

/* An agent that does not know such a stop would find nothing, which is no evidence: there the start is said, and what
 * runs then is stopped. */
static void say_start_again(struct cluster *cluster, struct cluster_vm *vm,
                            const struct cluster_host *host, struct cluster_now now,
                            struct cluster_todo *todo)
{
    if (cluster_is_restored(cluster, NULL, 0)) /* a life that was fenced may be at it, and who came after is not seen yet */
        vm->start_is_repeated = false;
    else if (vm->want == WANT_STOPPED && !vm_spec_is_libvirt(vm->spec) && host->ends_starts)
        say_start_end(cluster, vm, host->name, now, todo);
    else if (dr_peer_may_start(vm, now)) /* else another pool may have it by now */
        (void)cluster_order_vm(vm, host->name, ORDER_START, now, todo);
    else
        vm->start_is_repeated = false;
}

/* `host` was asked, or listed all it has, and this VM is not there. */
static void take_absence(struct cluster *cluster, struct cluster_host *host, struct cluster_vm *vm,
                         enum heard heard, uint64_t asked_ns, struct cluster_now now,
                         struct cluster_todo *todo)
{
    struct cluster_job *job = vm->job;
    bool at_target = job && is_same(job->core.target_host, host->name);
    if (job && (at_target || is_same(job->core.source_host, host->name))) {
        struct job_report report = {.at_target = at_target, .absent = true, .asked_ns = asked_ns};
        job_report(cluster, job, &report, now, todo);
        return;
    }
    if (job || !is_same(vm->own.owner, host->name))
        return;

    bool fenced = heard == HEARD_FENCE;
    bool rebooted = fenced || (host->facts && host->facts->incarnation && vm->own.incarnation[0] &&
                               !is_same(host->facts->incarnation, vm->own.incarnation));
    char reason[CLUSTER_REASON_SIZE];
    (void)snprintf(reason, sizeof reason, "%s %s", host->name,
                   fenced     ? "died and was fenced"
                   : rebooted ? "was booted anew"
                              : "no longer has its process");
    if (vm->own.phase == OWN_RUN) {
        record_ended(cluster, vm, true, reason, now, todo);
    } else if (vm->own.phase == OWN_STARTING && rebooted && vm->want == WANT_STOPPED) {
        vm->lazy = false;
        vm->restoring[0] = '\0'; /* its disks may have been written; a file tells itself whether it is used */
        set_reason(vm, false, reason);
        cluster_ha_end_vm(cluster, vm, false, now, todo);
        cluster_todo_event(todo, vm->id, "VM %s is not started: it was stopped, and %s", vm->spec->name, reason);
    } else if (vm->own.phase == OWN_STARTING && rebooted) {
        record_ended(cluster, vm, vm->ha_starts || fenced, reason, now,
                     todo); /* a boot voids the grant that was sent */
    } else if (vm->own.phase == OWN_STARTING && heard == HEARD_HELLO && !vm->ticket &&
               !dr_takes(vm)) {
        /* The grant may still be on its way (R7): say it again, it is idempotent. */
        say_start_again(cluster, vm, host, now, todo);
    }
}

/* The target tells twice of taking a guest: its process by the move, its agent by the VM's state.
 * The second may be read before and arrive after; it is of the same life and says nothing new. */
static bool is_echo_of_move(const struct cluster *cluster, const struct cluster_host *host,
                            const struct cluster_vm *vm, const struct status *status,
                            enum heard heard)
{
    if (heard != HEARD_EVENT || status->absent || status->generation >= vm->own.gen ||
        !status->move_id[0] || !is_same(vm->own.owner, host->name))
        return false;
    const struct cluster_job *job = find_job_of_move(cluster, status->move_id);
    bool moved = job && (job->core.state == JOB_DONE || job->core.state == JOB_ATTENTION);
    return moved && is_same(job->core.target_host, host->name) &&
           job->core.generation == vm->own.gen;
}

void cluster_vm_is_gone(struct cluster *cluster, struct cluster_host *host, struct cluster_vm *vm,
                        struct cluster_now now, struct cluster_todo *todo)
{
    take_absence(cluster, host, vm, HEARD_FENCE, now.ns, now, todo);
}

/* ---- a restored state (R10)
 * ----------------------------------------------------------------------
 */

bool cluster_is_restored(const struct cluster *cluster, char *ret_waits, size_t size)
{
    if (ret_waits)
        ret_waits[0] = '\0';
    if (!cluster->settings[SETTING_RESTORED].value[0])
        return false;
    for (size_t i = 0; ret_waits && i < cluster->host_count; i++) {
        const struct cluster_host *host = cluster->hosts[i];
        size_t used = strlen(ret_waits);
        bool is_known = (host->ha.was_heard && !host->unheard) || host->ha.phase == HA_FENCED;
        if (!is_known && used + 1 < size)
            (void)snprintf(ret_waits + used, size - used, "%s%s", used ? ", " : "", host->name);
    }
    return true;
}

/* All hosts have been seen, or are fenced: the pool is itself again. */
static void end_restored(struct cluster *cluster, struct cluster_todo *todo)
{
    char waits[CLUSTER_REASON_SIZE];
    if (!cluster_is_restored(cluster, waits, sizeof waits) || waits[0])
        return;
    struct cluster_setting_row *row = &cluster->settings[SETTING_RESTORED];
    row->value[0] = '\0';
    struct cluster_put *put = cluster_todo_put(todo, PUT_SETTING);
    put->object = row;
    put->revision = row->revision++;
    WORDS_COPY(put->key, "restored_unix_ms");
    cluster_todo_event(todo, "", "all hosts have been seen since the state was restored");
}

static void take_status(struct cluster *cluster, struct cluster_host *host,
                        const Godwit__VmStatus *message, enum heard heard, uint64_t asked_ns,
                        struct cluster_now now, struct cluster_todo *todo)
{
    struct status status = judge_status(message);
    struct cluster_vm *vm = message->vm_id ? cluster_vm(cluster, message->vm_id) : NULL;
    if (!vm) {
        if (!status.absent && message->vm_id) {
            char text[CLUSTER_REASON_SIZE];
            (void)snprintf(text, sizeof text,
                           "%s has a VM that the pool does not know: %.80s %.40s", host->name,
                           message->name ? message->name : "", message->vm_id);
            cluster_warn(cluster, host->name, text);
        }
        return;
    }
    if (heard == HEARD_HELLO && cluster_unheard_is(message))
        return; /* as if it were not listed, and not absent either */
    if (!vm->job && is_echo_of_move(cluster, host, vm, &status, heard))
        return;
    cluster_adopt_running(cluster, host, vm, message, status.runs, now, todo);
    bool is_owner = is_same(vm->own.owner, host->name);
    if (is_owner)
        show_status(vm, message);

    struct cluster_job *job = vm->job;
    bool at_target = job && is_same(job->core.target_host, host->name);
    if (job && (at_target || is_same(job->core.source_host, host->name))) {
        bool ours = is_same(status.move_id, job->core.move_id);
        bool took = ours && at_target && status.latch == GODWIT__LATCH__LATCH_TOOK;
        struct job_report report = {
            .at_target = at_target,
            .latch = ours ? status.latch : GODWIT__LATCH__LATCH_NONE,
            .postcopy = took && status.in_postcopy && job->core.may_postcopy,
            .has_all = took && !status.in_postcopy,
            .absent = status.absent && absence_is_of_move(&job->core, at_target, &status, heard),
            .powered_off = status.state == GODWIT__VM_STATE__VM_STATE_STOPPED,
            .runs = status.runs,
            .generation = status.generation,
            .asked_ns = asked_ns,
        };
        job_report(cluster, job, &report, now, todo);
        if (!is_owner && is_same(vm->own.owner, host->name))
            show_status(vm, message); /* it has become the owner by this word */
        return;
    }
    if (is_owner && status.generation == vm->own.gen)
        reconcile_owner(cluster, host, vm, &status, heard, now, todo);
    else if (is_owner && status.absent && heard != HEARD_EVENT) /* an earlier life's end is told */
        take_absence(cluster, host, vm, heard, asked_ns, now, todo);
    else
        reconcile_other(cluster, host, vm, &status, now, todo);
}

struct cluster_host *cluster_host_joined(struct cluster *cluster, const char *name,
                                         struct cluster_now now, struct cluster_todo *todo)
{
    struct cluster_host *host = cluster_host(cluster, name);
    if (!host) {
        if (cluster->host_count == HOSTS_MAX)
            return NULL;
        host = cluster_add_host(cluster, name);
        if (!host)
            return NULL;
    }
    host->seen_unix_ms = now.unix_ms;
    put_host(host, todo);
    cluster_todo_event(todo, "", "host %s joined", name);
    return host;
}

static void link_changed(struct cluster *cluster, struct cluster_host *host, bool up,
                         struct cluster_now now, struct cluster_todo *todo)
{
    host->link_up = up;
    dr_link_changed(cluster, host, up, now);
    for (size_t i = 0; i < cluster->job_count; i++) {
        struct cluster_job *job = cluster->jobs[i];
        bool at_target = is_same(job->core.target_host, host->name);
        if (!job_core_is_active(&job->core) ||
            !(at_target || is_same(job->core.source_host, host->name)))
            continue;
        struct job_event event = {
            .now_ns = now.ns, .type = JOB_EVENT_LINK, .link = {.at_target = at_target, .up = up}};
        cluster_step_job(cluster, job, &event, now, todo);
    }
}

static const Godwit__BaselineFact *baseline_fact(const struct cluster_host *host, const char *name)
{
    for (size_t i = 0; host->facts && i < host->facts->n_baselines; i++) {
        if (host->facts->baselines[i]->name && is_same(host->facts->baselines[i]->name, name))
            return host->facts->baselines[i];
    }
    return NULL;
}

/* A host that gives less than all others lowers what new VMs get, and takes none of those that were
 * started with more: whoever lets it in should read that at once. Its link counts as down yet. */
static void tell_weaker(struct cluster *cluster, const struct cluster_host *host,
                        struct cluster_now now)
{
    struct planner_host *hosts = cluster_planner_hosts(cluster, now.ns);
    char text[CLUSTER_REASON_SIZE];
    size_t cannot_go = 0;
    if (!hosts)
        return; /* a word less; nothing rests on it */
    for (size_t i = 0; i < cluster->host_count; i++)
        hosts[i].up = hosts[i].up && cluster->hosts[i] != host;
    const char *before = planner_baseline(hosts, cluster->host_count);
    for (size_t i = 0; i < cluster->host_count; i++)
        hosts[i].up = hosts[i].up || cluster->hosts[i] == host;
    const char *after = planner_baseline(hosts, cluster->host_count);
    free(hosts);
    if (!before || (after && is_same(before, after)))
        return;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const Godwit__BaselineFact *fact =
            baseline_fact(host, cluster->vms[i]->spec->cpu->baseline);
        cannot_go += !(fact && fact->given);
    }
    const Godwit__BaselineFact *lost = baseline_fact(host, before);
    (void)snprintf(text, sizeof text,
                   "%s lowers the CPU baseline of new VMs from %s to %s (it lacks %.80s); %zu VMs "
                   "cannot move there",
                   host->name, before, after ? after : "none",
                   lost && lost->missing ? lost->missing : "features of it", cannot_go);
    cluster_warn(cluster, host->name, text);
}

void cluster_hello(struct cluster *cluster, struct cluster_host *host,
                   const Godwit__AgentHello *hello, struct cluster_now now,
                   struct cluster_todo *todo)
{
    Godwit__HostFacts *facts = hello->facts ? cluster_message_copy(&hello->facts->base) : NULL;
    if (facts) {
        if (host->facts)
            godwit__host_facts__free_unpacked(host->facts, NULL);
        host->facts = facts;
        host->memory_free_bytes = facts->memory_free_bytes;
    }
    host->ends_starts = hello->ends_starts;
    host->seen_ns = now.ns;
    host->seen_unix_ms = now.unix_ms;
    put_host(host, todo);
    cluster_unheard_listed(host, hello);
    cluster_clear_warnings(cluster, host->name);
    tell_weaker(cluster, host, now);
    cluster_adopt_starting(cluster, host, hello, now, todo);

    cluster->hellos++;
    for (size_t i = 0; i < hello->n_vms; i++) {
        take_status(cluster, host, hello->vms[i], HEARD_HELLO, 0, now, todo);
        struct cluster_vm *vm =
            hello->vms[i]->vm_id ? cluster_vm(cluster, hello->vms[i]->vm_id) : NULL;
        if (vm)
            vm->listed_in = cluster->hellos;
    }
    for (size_t i = cluster->vm_count; i-- > 0;) { /* backwards: a removed VM may drop out */
        if (cluster->vms[i]->listed_in != cluster->hellos)
            take_absence(cluster, host, cluster->vms[i], HEARD_HELLO, 0, now, todo);
    }
    link_changed(cluster, host, true, now, todo);
}

/* The facts' own copies; without memory they stay as they were. */
static void take_bridges(Godwit__HostFacts *facts, const Godwit__AgentHeartbeat *heartbeat)
{
    char **list = calloc(heartbeat->n_bridges + 1, sizeof *list);
    size_t count = 0;
    while (list && count < heartbeat->n_bridges) {
        list[count] = strdup(heartbeat->bridges[count]);
        if (!list[count])
            break;
        count++;
    }
    if (!list)
        return;
    for (size_t i = 0; i < facts->n_bridges; i++)
        free(facts->bridges[i]);
    free(facts->bridges);
    facts->bridges = list;
    facts->n_bridges = count;
}

/* What an agent says of loads: a number that makes sense, or nothing. */
static double judged(bool has, double value, double most)
{
    return has && value >= 0 && value <= most ? value : 0; /* what is no number fails both */
}

/* The host's own VMs only: of others it knows nothing. */
static void take_loads(struct cluster *cluster, struct cluster_host *host,
                       const Godwit__AgentHeartbeat *heartbeat, struct cluster_now now)
{
    double vms_cores = 0;
    for (size_t i = 0; i < heartbeat->n_vms; i++) {
        const Godwit__VmLoad *load = heartbeat->vms[i];
        struct cluster_vm *vm = load->vm_id ? cluster_vm(cluster, load->vm_id) : NULL;
        if (!vm || vm->own.phase == OWN_STOPPED || !is_same(vm->own.owner, host->name))
            continue;
        double most = vm->spec->cpu->vcpus;
        vm->run_cores = judged(load->has_run_cores, load->run_cores, 1.1 * most);
        vm->wait_cores = judged(load->has_wait_cores, load->wait_cores, 1.1 * most);
        vm->load_ns = now.ns;
        vms_cores += vm->run_cores;
        if (load->has_memory_populated && load->memory_populated <= vm->spec->memory->size)
            vm->memory_populated = load->memory_populated;
    }
    double busy = judged(heartbeat->has_busy_cores, heartbeat->busy_cores, 1e5);
    host->others_cores = busy > vms_cores ? busy - vms_cores : 0;
    host->psi_cpu = judged(heartbeat->has_psi_cpu, heartbeat->psi_cpu, 100);
    host->psi_memory = judged(heartbeat->has_psi_memory, heartbeat->psi_memory, 100);
}

void cluster_heartbeat(struct cluster *cluster, struct cluster_host *host,
                       const Godwit__AgentHeartbeat *heartbeat, struct cluster_now now)
{
    host->seen_ns = now.ns;
    host->seen_unix_ms = now.unix_ms;
    host->ha.was_heard = true;
    if (heartbeat->has_memory_free_bytes)
        host->memory_free_bytes = heartbeat->memory_free_bytes;
    if (heartbeat->tells_bridges && host->facts)
        take_bridges(host->facts, heartbeat);
    if (heartbeat->has_load1 && host->facts) {
        host->facts->has_load1 = true;
        host->facts->load1 = heartbeat->load1;
    }
    take_loads(cluster, host, heartbeat, now);
}

void cluster_link_lost(struct cluster *cluster, struct cluster_host *host, struct cluster_now now,
                       struct cluster_todo *todo)
{
    link_changed(cluster, host, false, now, todo);
}

void cluster_vm_event(struct cluster *cluster, struct cluster_host *host,
                      const Godwit__VmStatus *status, struct cluster_now now,
                      struct cluster_todo *todo)
{
    take_status(cluster, host, status, HEARD_EVENT, 0, now, todo);
}

void cluster_vm_first_word(struct cluster *cluster, struct cluster_host *host,
                           const Godwit__VmStatus *status, struct cluster_now now,
                           struct cluster_todo *todo)
{
    if (cluster_unheard_answered(host, status))
        take_status(cluster, host, status, HEARD_HELLO, 0, now, todo);
}

static void keep_progress(struct cluster_job *job, const Godwit__MoveEvent *event)
{
    if (event->progress && !event->at_target) {
        Godwit__MoveProgress *progress = cluster_message_copy(&event->progress->base);
        if (progress) {
            if (job->progress)
                godwit__move_progress__free_unpacked(job->progress, NULL);
            job->progress = progress;
        }
    }
    if (event->receipt && !job->receipt)
        job->receipt = cluster_message_copy(&event->receipt->base);
}

static bool tells_postcopy(const Godwit__MoveEvent *event)
{
    const Godwit__MovePhase post_copy = GODWIT__MOVE_PHASE__MOVE_PHASE_POST_COPY;
    return (event->progress && event->progress->phase == post_copy) ||
           (event->receipt && event->receipt->ended_in == post_copy);
}

void cluster_move_event(struct cluster *cluster, struct cluster_host *host,
                        const Godwit__MoveEvent *event, struct cluster_now now,
                        struct cluster_todo *todo)
{
    struct cluster_job *job = event->move_id ? find_job_of_move(cluster, event->move_id) : NULL;
    const char *side = !job ? "" : event->at_target ? job->core.target_host : job->core.source_host;
    if (!job || !is_same(side, host->name)) {
        log_debug("cluster_core", "event of a move that is not this host's host=%s", host->name);
        return;
    }
    bool had_receipt = job->receipt != NULL;
    keep_progress(job, event);
    if (!job_core_is_active(&job->core)) {
        if (!had_receipt && job->receipt) { /* a straggler that is worth keeping */
            put_job(job, todo);
            cluster_todo_news(todo, job->core.id);
        }
        return;
    }
    struct job_report report = {
        .at_target = event->at_target,
        .latch = event->has_latch ? event->latch : GODWIT__LATCH__LATCH_NONE,
        .parked =
            event->progress && event->progress->phase == GODWIT__MOVE_PHASE__MOVE_PHASE_PARKED,
        .postcopy = tells_postcopy(event),
        .ended = event->ended,
        .has_receipt = event->receipt != NULL,
        .fault_text = event->fault ? event->fault->text : NULL,
        .fault_code = event->fault ? err_from_number(event->fault->number) : 0,
    };
    cluster_todo_news(todo, job->core.id);
    job_report(cluster, job, &report, now, todo);
}

/* ---- what became of orders --------------------------------------------------------------------
 */

static void place_of(const struct cluster *cluster, const struct cluster_vm *vm,
                     struct cluster_now now, struct problem *problem)
{
    cluster_vm_place(cluster, vm, now.ns, problem->vm_state, sizeof problem->vm_state);
}

/* It was to run before its memory is read, and that could not be. */
static void tell_eager(const struct cluster *cluster, const struct cluster_vm *vm,
                       const struct cluster_order *order, const Godwit__VmStatus *status,
                       struct cluster_todo *todo)
{
    const struct cluster_snapshot *snapshot = cluster_snapshot_to_restore(cluster, vm, order->host);
    bool from_memory = snapshot ? snapshot->info->with_memory : vm->suspended[0] != '\0';

    if (vm->lazy && from_memory && !(status->paging_nonce && status->paging_nonce[0]))
        cluster_todo_event(todo, vm->id,
                           "all memory of VM %s was read on %s before it ran; the log of its process says why",
                           vm->spec->name, order->host);
}

/* It was started, and has ended since: what it has written stays, and it is never told as one that did not run. */
static void start_over(struct cluster *cluster, struct cluster_vm *vm,
                       const struct cluster_order *order, const struct status *status,
                       struct cluster_now now, struct cluster_todo *todo)
{
    struct problem problem;
    bool crashed = status->state != GODWIT__VM_STATE__VM_STATE_STOPPED;
    const char *reason = status->reason[0] ? status->reason : "the guest ended by itself";

    (void)problem_set(&problem, GW_START_FAILED, "%s was started on %s and has crashed: %.300s",
                      vm->spec->name, order->host, reason);
    problem_hint(&problem, "godwit vm show %s", vm->spec->name);
    vm->lazy = false;
    vm->suspended[0] = '\0'; /* it has gone on from there */
    record_ended(cluster, vm, crashed, reason, now, todo);
    vm = cluster_vm(cluster, order->vm_id); /* gone, where its removal was recorded */
    if (vm)
        place_of(cluster, vm, now, &problem);
    answer(vm, order->ticket, crashed ? &problem : NULL, todo);
}

/* Its host will not carry it out. */
static void start_refused(struct cluster *cluster, struct cluster_vm *vm, const char *reason,
                          struct cluster_now now, struct cluster_todo *todo)
{
    vm->lazy = false;
    set_reason(vm, false, reason);
    if (vm->suspended[0] || vm->restoring[0]) { /* nobody else can start it from there */
        own_stop(&vm->own);
        if (!cluster_clone_is_twin(cluster, vm)) /* that starts from there or not at all */
            vm->restoring[0] = '\0'; /* the operator asks again, or starts it otherwise */
        cluster_put_own(vm, now, todo);
    } else {
        cluster_ha_end_vm(cluster, vm, false, now, todo);
    }
}

static void start_done(struct cluster *cluster, struct cluster_vm *vm,
                       const struct cluster_order *order, const struct cluster_result *result,
                       struct cluster_now now, struct cluster_todo *todo)
{
    struct problem problem;
    bool ours = vm->own.phase == OWN_STARTING && vm->own.gen == order->generation;
    vm->start_is_repeated = vm->start_is_repeated && order->ticket; /* then it is still out */
    if (!result->fault && ours && result->status && order->kind == ORDER_START) {
        struct status status = judge_status(result->status);
        if (status.absent && !status.nonce[0] && status.generation == order->generation) {
            show_status(vm, result->status);
            start_over(cluster, vm, order, &status, now, todo);
            return;
        }
    }
    if (!result->fault) {
        if (ours && order->ticket && result->status)
            tell_eager(cluster, vm, order, result->status, todo);
        if (ours)
            record_started(vm, now, todo);
        if (result->status)
            show_status(vm, result->status);
        answer(vm, order->ticket, NULL, todo);
        if (ours && vm->want == WANT_STOPPED) /* it was to end on the way: the order of that may be lost */
            say_start_end(cluster, vm, order->host, now, todo);
        return;
    }
    /* A repeated START (it has no ticket) that never left says nothing of the one before it, which
     * may still be on its way (R7). A refusal does: the agent takes a generation once. A take that
     * is put off is no refusal: an agent that was restarted does not know yet what it has done. */
    bool is_put_off = order->kind == ORDER_REPLICA_TAKE && result->fault->code == ERR_BUSY;
    bool is_final = result->definite && !is_put_off && !(result->never_left && !order->ticket);
    if (ours && is_final) {
        start_refused(cluster, vm, result->fault->text, now, todo);
        cluster_todo_event(todo, vm->id, "VM %s could not be started on %s: %s", vm->spec->name,
                           order->host, result->fault->text);
        (void)problem_set(&problem, GW_START_FAILED, "%s could not be started on %s: %s",
                          vm->spec->name, order->host, result->fault->text);
        problem_hint(&problem, "%s", result->fault->hint);
    } else if (is_final && vm->own.phase == OWN_STOPPED && vm->own.gen == order->generation) {
        (void)problem_set(&problem, GW_START_FAILED, "%s could not be started on %s: %s", vm->spec->name,
                          order->host, result->fault->text); /* a stop of it was answered before */
    } else { /* nobody knows: the record stays STARTING until the agent says */
        (void)problem_set(&problem, GW_HOST_DOWN, "%s gave no answer to the order to start %s: %s",
                          order->host, vm->spec->name, result->fault->text);
        problem_hint(&problem, "godwit vm show %s", vm->spec->name);
    }
    place_of(cluster, vm, now, &problem);
    answer(vm, order->ticket, &problem, todo);
}

/* What it was before the start it is again, also suspended. The start's own answer may come after this one: a refusal is
 * heard a turn later than a success. */
static void start_ended(struct cluster *cluster, struct cluster_vm *vm,
                        const struct cluster_order *order, const struct cluster_result *result,
                        struct cluster_now now, struct cluster_todo *todo)
{
    const struct status status = result->status ? judge_status(result->status) : (struct status){0};
    bool ours = vm->own.gen == order->generation && vm->want == WANT_STOPPED &&
                (vm->own.phase == OWN_STARTING || vm->own.phase == OWN_RUN);
    bool is_it = !result->fault && ours && status.generation == order->generation;
    struct problem problem;

    vm->start_is_repeated = vm->start_is_repeated && order->ticket; /* as a start's own answer */
    if (is_it && status.state == GODWIT__VM_STATE__VM_STATE_GONE && vm->own.phase == OWN_STARTING)
        start_refused(cluster, vm, "it was stopped while it was being started", now, todo);
    else if (is_it && status.absent && !status.nonce[0]) /* it had run by then */
        finish_stop(cluster, vm, now, todo);
    if (vm->own.phase == OWN_STOPPED) {
        answer(vm, order->ticket, NULL, todo);
        return;
    }
    /* A host that is busy has not said no: it is asked again while the start is out. */
    bool is_refused = result->fault && result->definite && result->fault->code != ERR_NOT_FOUND;
    if (is_refused && result->fault->code == ERR_BUSY)
        is_refused = order->ticket && vm->own.phase != OWN_STARTING;
    if (is_refused && ours) {
        vm->want = WANT_RUNNING; /* the agent said no, so it is not carried out later either */
        cluster_put_own(vm, now, todo);
        (void)problem_set(&problem, GW_ORDER_FAILED, "%s could not stop %s: %s", order->host,
                          vm->spec->name, result->fault->text);
    } else {
        (void)problem_set(&problem, result->fault && !result->definite ? GW_HOST_DOWN : GW_VM_BUSY,
                          "%s is still being started on %s; it is stopped as soon as that is known%s%.200s",
                          vm->spec->name, order->host, result->fault ? ": " : "",
                          result->fault ? result->fault->text : "");
    }
    problem_hint(&problem, "godwit vm show %s", vm->spec->name);
    place_of(cluster, vm, now, &problem);
    answer(vm, order->ticket, &problem, todo);
}

static void stop_done(struct cluster *cluster, struct cluster_vm *vm,
                      const struct cluster_order *order, const struct cluster_result *result,
                      struct cluster_now now, struct cluster_todo *todo)
{
    bool is_gone = !result->fault || (result->definite && result->fault->code == ERR_NOT_FOUND);
    bool ours = vm->own.gen == order->generation && vm->want != WANT_RUNNING;
    if (order->ends_start) {
        start_ended(cluster, vm, order, result, now, todo);
        return;
    }
    if (is_gone && ours) {
        bool removed = vm->want == WANT_REMOVED;
        if (order->ticket)
            vm->ticket = 0;
        finish_stop(cluster, vm, now, todo);
        answer(removed ? NULL : vm, order->ticket, NULL, todo);
        return;
    }
    struct problem problem;
    if (result->fault && result->definite) {
        if (ours && !(order->is_late && result->fault->code == ERR_BUSY)) {
            vm->want = WANT_RUNNING; /* the agent said no, so it is not carried out later either */
            if (order->was_lost && vm->own.phase == OWN_STOPPED)
                own_lose(&vm->own);
            cluster_put_own(vm, now, todo);
        }
        (void)problem_set(&problem, GW_ORDER_FAILED, "%s could not stop %s: %s", order->host,
                          vm->spec->name, result->fault->text);
    } else if (result->fault) {
        (void)problem_set(&problem, GW_HOST_DOWN,
                          "%s gave no answer; %s will be stopped when it does: %s", order->host,
                          vm->spec->name, result->fault->text);
    } else {
        (void)problem_set(&problem, GW_VM_STATE, "%s was changed meanwhile", vm->spec->name);
    }
    place_of(cluster, vm, now, &problem);
    answer(vm, order->ticket, &problem, todo);
}

static void pause_done(struct cluster *cluster, struct cluster_vm *vm,
                       const struct cluster_order *order, const struct cluster_result *result,
                       struct cluster_now now, struct cluster_todo *todo)
{
    if (!result->fault) {
        if (result->status && is_same(vm->own.owner, order->host))
            show_status(vm, result->status);
        answer(vm, order->ticket, NULL, todo);
        return;
    }
    struct problem problem;
    (void)problem_set(&problem, result->definite ? GW_ORDER_FAILED : GW_HOST_DOWN,
                      "%s could not be %s on %s: %s", vm->spec->name,
                      order->kind == ORDER_PAUSE ? "paused" : "resumed", order->host,
                      result->fault->text);
    place_of(cluster, vm, now, &problem);
    answer(vm, order->ticket, &problem, todo);
}

/* The record is as it was: the host has the VM before and after. */
static void upgrade_done(struct cluster *cluster, struct cluster_vm *vm,
                         const struct cluster_order *order, const struct cluster_result *result,
                         struct cluster_now now, struct cluster_todo *todo)
{
    struct problem problem;
    const Godwit__VmUpgraded *done = result->upgraded;
    const Godwit__Fault *fault = done ? done->fault : NULL;

    if (done && done->vm && is_same(vm->own.owner, order->host))
        show_status(vm, done->vm);
    if (done && !fault) {
        const Godwit__MoveReceipt *receipt = done->receipt;
        cluster_todo_event(
            todo, vm->id, "VM %s was upgraded on %s from %.30s to %.30s, paused %.1f ms",
            vm->spec->name, order->host, done->version_before ? done->version_before : "?",
            vm->version, receipt ? (double)receipt->downtime_ns / (double)NS_PER_MS : 0);
        answer(vm, order->ticket, NULL, todo);
        if (receipt && order->ticket)
            todo->answers[todo->answer_count - 1].receipt = cluster_message_copy(&receipt->base);
        return;
    }
    if (fault)
        (void)problem_set(&problem, GW_MOVE_ROLLED_BACK, "%s was not upgraded on %s: %.300s",
                          vm->spec->name, order->host, fault->text ? fault->text : "it failed");
    else if (result->definite)
        (void)problem_set(&problem, GW_ORDER_FAILED, "%s was not upgraded on %s: %.300s",
                          vm->spec->name, order->host, result->fault ? result->fault->text : "");
    else
        (void)problem_set(&problem, GW_HOST_DOWN,
                          "%s gave no answer; the upgrade of %s goes on or back by itself: %.200s",
                          order->host, vm->spec->name, result->fault ? result->fault->text : "");
    cluster_todo_event(todo, vm->id, "%.200s", problem.text);
    place_of(cluster, vm, now, &problem);
    answer(vm, order->ticket, &problem, todo);
}

static void suspend_done(struct cluster *cluster, struct cluster_vm *vm,
                         const struct cluster_order *order, const struct cluster_result *result,
                         struct cluster_now now, struct cluster_todo *todo)
{
    struct problem problem;
    const Godwit__VmStatus *status = result->status;
    bool rests = status && status->state == GODWIT__VM_STATE__VM_STATE_SUSPENDED &&
                 status->suspend_nonce && is_same(status->suspend_nonce, order->nonce);

    if (rests) {
        if (vm->own.phase == OWN_RUN && vm->own.gen == order->generation)
            record_suspended(vm, order->nonce, now, todo);
        answer(vm, order->ticket, NULL, todo);
        return;
    }
    (void)problem_set(&problem, result->fault && !result->definite ? GW_HOST_DOWN : GW_ORDER_FAILED,
                      "%s was not suspended on %s: %.300s", vm->spec->name, order->host,
                      result->fault ? result->fault->text : "its process ended");
    place_of(cluster, vm, now, &problem);
    answer(vm, order->ticket, &problem, todo);
}

/* Pressed is all that is known: whether the guest obeys shows when it has ended. */
static void power_button_done(struct cluster *cluster, struct cluster_vm *vm,
                              const struct cluster_order *order,
                              const struct cluster_result *result, struct cluster_now now,
                              struct cluster_todo *todo)
{
    if (!result->fault) {
        answer(vm, order->ticket, NULL, todo);
        return;
    }
    struct problem problem;
    enum gw_code code = !result->definite                        ? GW_HOST_DOWN
                        : result->fault->code == ERR_UNSUPPORTED ? GW_GUEST_DEAF
                                                                 : GW_ORDER_FAILED;
    (void)problem_set(&problem, code, "%s could not be asked on %s to switch itself off: %s",
                      vm->spec->name, order->host, result->fault->text);
    place_of(cluster, vm, now, &problem);
    answer(vm, order->ticket, &problem, todo);
}

static void reboot_done(struct cluster *cluster, struct cluster_vm *vm,
                        const struct cluster_order *order, const struct cluster_result *result,
                        struct cluster_now now, struct cluster_todo *todo)
{
    if (!result->fault) {
        cluster_todo_event(todo, vm->id,
                           order->kind == ORDER_VM_RESET ? "VM %s was reset on %s"
                                                         : "VM %s was asked on %s to "
                                                           "reboot",
                           vm->spec->name, order->host);
        answer(vm, order->ticket, NULL, todo);
        return;
    }
    struct problem problem;
    (void)problem_set(&problem, result->definite ? GW_ORDER_FAILED : GW_HOST_DOWN,
                      "%s could not be %s on %s: %s", vm->spec->name,
                      order->kind == ORDER_VM_RESET ? "reset" : "asked to reboot", order->host,
                      result->fault->text);
    place_of(cluster, vm, now, &problem);
    answer(vm, order->ticket, &problem, todo);
}

static void question_done(struct cluster *cluster, struct cluster_vm *vm,
                          const struct cluster_order *order, const struct cluster_result *result,
                          struct cluster_now now, struct cluster_todo *todo)
{
    struct cluster_host *host = cluster_host(cluster, order->host);
    /* An answer that is older than the record tells of a world that was: the VM may have been
     * started or may have moved there since. Within one job the facts are one-way. */
    bool is_jobs = vm->job && is_same(vm->job->core.id, order->job_id);
    if (!host || (!is_jobs && order->asked_ns < vm->own_ns))
        return;
    if (result->status && result->status->vm_id && is_same(result->status->vm_id, vm->id)) {
        take_status(cluster, host, result->status, HEARD_ANSWER, order->asked_ns, now, todo);
        return;
    }
    if (!result->fault || !result->definite)
        return;
    if (result->fault->code == ERR_NOT_FOUND && order->kind == ORDER_STATUS) {
        take_absence(cluster, host, vm, HEARD_ANSWER, order->asked_ns, now, todo);
    } else if (order->kind == ORDER_VERDICT && is_jobs && result->fault->code == ERR_SUPERSEDED &&
               order->generation == vm->job->core.resume_generation) {
        struct job_event event = {.now_ns = now.ns, .type = JOB_EVENT_RESUME_LOST};
        cluster_step_job(cluster, vm->job, &event, now, todo);
    } else if (order->kind == ORDER_VERDICT && is_jobs) {
        /* Refused, so things are not as we believed: look before saying it again. Also a move that
         * is unknown there: the VM may run and was never told of it. */
        job_order(vm->job, is_same(vm->job->core.target_host, order->host), ORDER_STATUS, 0, now,
                  todo);
    }
}

static void move_order_done(struct cluster *cluster, const struct cluster_order *order,
                            const struct cluster_result *result, struct cluster_now now,
                            struct cluster_todo *todo)
{
    struct cluster_job *job = cluster_job(cluster, order->job_id);
    if (!job || !job_core_is_active(&job->core))
        return;
    struct job_event event = {.now_ns = now.ns};
    if (result->fault) {
        event.type =
            order->kind == ORDER_MOVE_IN ? JOB_EVENT_MOVE_IN_FAILED : JOB_EVENT_MOVE_OUT_FAILED;
        event.failed.fault = result->fault;
        event.failed.definite = result->definite;
    } else if (order->kind == ORDER_MOVE_IN) {
        event.type = JOB_EVENT_ADDRESS;
    } else {
        return; /* the source is at it: events follow */
    }
    cluster_step_job(cluster, job, &event, now, todo);
}

static void tune_done(struct cluster *cluster, const struct cluster_order *order,
                      const struct cluster_result *result)
{
    struct cluster_job *job = cluster_job(cluster, order->job_id);
    if (!job || !result->fault)
        return;
    char text[CLUSTER_REASON_SIZE];
    (void)snprintf(text, sizeof text, "the new goals came too late: %.200s", result->fault->text);
    cluster_job_note(job, text);
}

void cluster_order_done(struct cluster *cluster, const struct cluster_order *order,
                        const struct cluster_result *result, struct cluster_now now,
                        struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_vm(cluster, order->vm_id);
    if (order->about[0]) {
        cluster_ha_order_done(cluster, order, result, now, todo);
        return;
    }
    if (!vm) { /* removed meanwhile */
        answer(NULL, order->ticket, NULL, todo);
        return;
    }
    if (dr_is_order(order->kind))
        dr_order_done(cluster, order, result, now, todo);
    switch (order->kind) {
    case ORDER_START:
    case ORDER_REPLICA_TAKE:
        start_done(cluster, vm, order, result, now, todo);
        break;
    case ORDER_STOP:
        stop_done(cluster, vm, order, result, now, todo);
        break;
    case ORDER_PAUSE:
    case ORDER_RESUME:
        pause_done(cluster, vm, order, result, now, todo);
        break;
    case ORDER_POWER_BUTTON:
        power_button_done(cluster, vm, order, result, now, todo);
        break;
    case ORDER_VM_REBOOT:
    case ORDER_VM_RESET:
        reboot_done(cluster, vm, order, result, now, todo);
        break;
    case ORDER_MOVE_IN:
    case ORDER_MOVE_OUT:
        move_order_done(cluster, order, result, now, todo);
        break;
    case ORDER_STATUS:
    case ORDER_VERDICT:
        question_done(cluster, vm, order, result, now, todo);
        break;
    case ORDER_REBOOT: /* no VM's: it comes back as a new incarnation, or does not */
        break;
    case ORDER_PROBE:
    case ORDER_EVICT:
    case ORDER_FENCE:
        break; /* answered above: they are about a host */
    case ORDER_SUSPEND:
        suspend_done(cluster, vm, order, result, now, todo);
        break;
    case ORDER_UPGRADE:
        upgrade_done(cluster, vm, order, result, now, todo);
        break;
    case ORDER_TUNE:
        tune_done(cluster, order, result);
        break;
    case ORDER_REPLICA_IN:
    case ORDER_PROTECT:
    case ORDER_PROTECT_FINISH:
    case ORDER_PROTECT_END:
    case ORDER_REPLICA_DROP:
    case ORDER_REPLICA_COPY:
    case ORDER_SPLIT_STOP:
        break; /* dr's */
    case ORDER_DEFINITION:
        cluster_definition_done(vm, order, result, todo);
        break;
    case ORDER_AUTOSTART_OFF:
        cluster_found_autostart_done(vm, order, result, todo);
        break;
    }
}

/* A START whose answer was lost is said again until there is one: it is idempotent. */
static void repeat_starts(struct cluster *cluster, struct cluster_now now,
                          struct cluster_todo *todo)
{
    for (size_t i = 0; i < cluster->vm_count; i++) {
        struct cluster_vm *vm = cluster->vms[i];
        if (vm->own.phase != OWN_STARTING || vm->ticket || dr_takes(vm) || vm->start_is_repeated ||
            now.ns - vm->start_ns < START_AGAIN_MS * NS_PER_MS)
            continue;
        const struct cluster_host *host = cluster_host(cluster, vm->own.owner);
        if (!host || !host->link_up)
            continue;
        vm->start_ns = now.ns;
        vm->start_is_repeated = true; /* a host that is slow is not asked without end */
        say_start_again(cluster, vm, host, now, todo);
    }
}

void cluster_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo)
{
    repeat_starts(cluster, now, todo);
    cluster_ask_tick(cluster, now, todo);
    cluster_found_tick(cluster, now, todo);
    end_restored(cluster, todo);
    cluster_ha_tick(cluster, now, todo);
    dr_tick(cluster, now, todo);
    dr_tell_alarms(cluster, now, todo);
    for (size_t i = 0; i < cluster->job_count; i++) {
        struct cluster_job *job = cluster->jobs[i];
        struct job_event event = {.now_ns = now.ns, .type = JOB_EVENT_TICK};
        if (job_core_is_active(&job->core))
            cluster_step_job(cluster, job, &event, now, todo);
    }
    plan_tick(cluster, now, todo);
}
