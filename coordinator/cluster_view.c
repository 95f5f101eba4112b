#include "coordinator/cluster_view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "base/world.h"
#include "coordinator/words.h"
#include "proto/vm_spec.h"
#include "proto/limits.h"

/* protobuf-c knows no const; nobody writes through these. */
static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

enum cluster_host_state cluster_host_state(const struct cluster_host *host, uint64_t now_ns)
{
    uint64_t silent_ms = (now_ns - host->seen_ns) / NS_PER_MS;
    if (silent_ms >= HOST_SUSPECT_MS)
        return HOST_DOWN;
    return host->link_up && silent_ms <= 2 * HEARTBEAT_MS + HEARTBEAT_MS / 2 ? HOST_UP
                                                                             : HOST_SUSPECT;
}

const char *cluster_host_state_word(enum cluster_host_state state)
{
    switch (state) {
    case HOST_UP:
        return "up";
    case HOST_SUSPECT:
        return "suspect";
    case HOST_DOWN:
        return "down";
    }
    return "unknown";
}

static bool owner_is_up(const struct cluster *cluster, const struct cluster_vm *vm, uint64_t now_ns)
{
    const struct cluster_host *host = cluster_host(cluster, vm->own.owner);
    return host && cluster_host_state(host, now_ns) != HOST_DOWN && host->facts;
}

const char *cluster_vm_word(const struct cluster *cluster, const struct cluster_vm *vm,
                            uint64_t now_ns)
{
    switch (vm->own.phase) {
    case OWN_STOPPED:
        return vm->suspended[0] ? "suspended" : vm->crashed ? "crashed" : "stopped";
    case OWN_STARTING:
        return owner_is_up(cluster, vm, now_ns) ? "stopped" : "unknown";
    case OWN_HANDOVER:
        return vm->job && vm->job->core.source.latch == GODWIT__LATCH__LATCH_GAVE &&
                       (vm->job->core.parked || vm->job->core.state == JOB_ATTENTION)
                   ? "held"
                   : "moving";
    case OWN_RECOVERING:
        return own_is_lost(&vm->own) ? "recovering" : "held";
    case OWN_RUN:
        if (vm->job)
            return "moving"; /* it runs at the target; the source is being told */
        if (!owner_is_up(cluster, vm, now_ns))
            return "unknown";
        return vm->state == GODWIT__VM_STATE__VM_STATE_PAUSED ? "paused"
               : vm->state == GODWIT__VM_STATE__VM_STATE_HELD ? "held"
                                                              : "running";
    case OWN_PHASE_COUNT:
        break;
    }
    return "unknown";
}

void cluster_vm_place(const struct cluster *cluster, const struct cluster_vm *vm, uint64_t now_ns,
                      char *ret_text, size_t size)
{
    const char *word = cluster_vm_word(cluster, vm, now_ns);
    if (strcmp(word, "moving") == 0) /* then it runs where the record says */
        word = "running";
    if (vm->own.phase == OWN_STOPPED && !vm->suspended[0])
        (void)snprintf(ret_text, size, "%s", word);
    else if (own_is_lost(&vm->own))
        (void)snprintf(ret_text, size, "recovering: it was on %s", vm->own.owner);
    else if (strcmp(word, "unknown") == 0)
        (void)snprintf(ret_text, size, "unknown: %s does not answer", vm->own.owner);
    else
        (void)snprintf(ret_text, size, "%s on %s", word, vm->own.owner);
}

/* What starts and arrives, by host. */
static void add_promises(const struct cluster *cluster, struct planner_host *hosts)
{
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const struct cluster_vm *vm = cluster->vms[i];
        const char *where = vm->own.phase == OWN_STARTING   ? vm->own.owner
                            : vm->own.phase == OWN_HANDOVER ? vm->own.target
                                                            : NULL;
        const struct cluster_host *host = where ? cluster_host(cluster, where) : NULL;
        if (host)
            hosts[host->index].memory_promised_bytes += vm->spec->memory->size;
    }
    for (size_t i = 0; i < cluster->dr_count; i++) { /* a replica is to become a guest there */
        const struct cluster_dr *dr = cluster->drs[i];
        const struct cluster_host *host = cluster_host(cluster, dr->info->target);
        bool is_taken = strcmp(dr->info->step, "away") == 0 || strcmp(dr->info->step, "take") == 0;
        bool has_memory = dr->info->has_held && !dr->info->disks_only; /* it is no longer free */
        if (host && !is_taken && !has_memory)
            hosts[host->index].memory_promised_bytes += dr->vm->spec->memory->size;
    }
}

struct planner_host *cluster_planner_hosts(const struct cluster *cluster, uint64_t now_ns)
{
    struct planner_host *hosts = calloc(cluster->host_count + 1, sizeof *hosts);
    for (size_t i = 0; hosts && i < cluster->host_count; i++) {
        const struct cluster_host *host = cluster->hosts[i];
        hosts[i] = (struct planner_host){
            .name = host->name,
            .up = host->link_up && cluster_host_state(host, now_ns) != HOST_DOWN &&
                  ha_core_may_run(&host->ha),
            .facts = host->facts,
            .memory_free_bytes = host->memory_free_bytes,
        };
    }
    if (hosts)
        add_promises(cluster, hosts);
    return hosts;
}

void cluster_vm_brief(const struct cluster *cluster, const struct cluster_vm *vm, uint64_t now_ns,
                      Godwit__VmInfo *ret_info)
{
    godwit__vm_info__init(ret_info);
    ret_info->name = vm->spec->name;
    ret_info->state = text_of(cluster_vm_word(cluster, vm, now_ns));
    ret_info->host = vm->own.owner[0] ? text_of(vm->own.owner) : NULL;
    ret_info->has_vcpus = ret_info->has_memory_bytes = true;
    ret_info->vcpus = vm->spec->cpu->vcpus;
    ret_info->memory_bytes = vm->spec->memory->size;
    ret_info->job = vm->job ? vm->job->core.id : NULL;
    ret_info->reason = vm->reason[0] ? text_of(vm->reason) : NULL;
}

void cluster_vm_info(const struct cluster *cluster, const struct cluster_vm *vm, uint64_t now_ns,
                     Godwit__VmInfo *ret_info)
{
    cluster_vm_brief(cluster, vm, now_ns, ret_info);
    ret_info->id = text_of(vm->id);
    ret_info->baseline = vm->spec->cpu->baseline;
    ret_info->has_generation = true;
    ret_info->generation = vm->own.gen;
    ret_info->spec = vm->spec;
    ret_info->backend = text_of(vm_spec_is_libvirt(vm->spec) ? "libvirt" : "embedded");
    ret_info->record_phase = text_of(own_phase_name(vm->own.phase));
    if (vm->own.phase == OWN_STOPPED)
        return;
    ret_info->has_pid = vm->pid != 0;
    ret_info->pid = vm->pid;
    ret_info->has_vcpu_cpu_ns = ret_info->has_memory_populated = true;
    ret_info->vcpu_cpu_ns = vm->vcpu_cpu_ns;
    ret_info->memory_populated = vm->memory_populated;
    ret_info->version = (char *)(uintptr_t)vm->version; /* protobuf-c knows no const */
}

static void fill_error(const struct cluster_job *job, struct cluster_job_message *message)
{
    const struct job_core *core = &job->core;
    (void)problem_set(&message->problem, core->error_code, "%s", core->error_text);
    if (core->error_code == GW_NEEDS_ATTENTION) {
        problem_hint(&message->problem, "start the agent of %s; the job then ends by itself",
                     core->target_host);
    } else if (core->error_code == GW_MEMORY_UNPROVEN) {
        problem_hint(&message->problem, "godwit vm stop %s; godwit vm start %s", job->vm_name,
                     job->vm_name);
    } else if (core->error_code == GW_VM_LOST) {
        problem_hint(&message->problem, "godwit vm start %s", job->vm_name);
    } else if (core->error_code == GW_SOURCE_SILENT) {
        problem_hint(&message->problem, "godwit host show %s", core->source_host);
    } else {
        problem_detail(&message->problem, "%s  %s -> %s", job->vm_name, core->source_host,
                       core->target_host);
        if (core->error_code != GW_MOVE_CANCELED)
            problem_hint(&message->problem, "godwit migrate %s", job->vm_name);
    }
    WORDS_COPY(message->problem.vm_state, message->vm_state);
    problem_to_message(&message->problem, &message->error, message->details);
    message->info.error = &message->error;
}

void cluster_job_info(const struct cluster *cluster, const struct cluster_job *job, uint64_t now_ns,
                      struct cluster_job_message *ret_message)
{
    const struct job_core *core = &job->core;
    Godwit__JobInfo *info = &ret_message->info;

    godwit__job_info__init(info);
    info->id = text_of(core->id);
    info->kind = text_of("migrate");
    info->state = text_of(job_state_name(core->state));
    info->step = text_of(job_step_name(core->step));
    info->vm = text_of(job->vm_name);
    info->vm_id = text_of(core->vm_id);
    info->source = text_of(core->source_host);
    info->target = text_of(core->target_host);
    info->has_created_unix_ms = true;
    info->created_unix_ms = job->created_unix_ms;
    info->has_ended_unix_ms = job->ended_unix_ms != 0;
    info->ended_unix_ms = job->ended_unix_ms;
    info->progress = job->progress;
    info->receipt = job->receipt;
    info->forecast = job->forecast;
    info->goals = job->goals;
    info->has_generation = info->has_vcpus = info->has_memory_bytes = true;
    info->generation = core->generation;
    info->vcpus = job->vcpus;
    info->plan = job->plan_id[0] ? text_of(job->plan_id) : NULL;
    info->reason = job->reason[0] ? text_of(job->reason) : NULL;
    info->memory_bytes = job->memory_bytes;
    for (unsigned i = 0; i < job->note_count; i++)
        ret_message->notes[i] = text_of(job->notes[i]);
    info->notes = ret_message->notes;
    info->n_notes = job->note_count;

    const struct cluster_vm *vm = cluster_vm(cluster, core->vm_id);
    ret_message->vm_state[0] = '\0';
    if (vm)
        cluster_vm_place(cluster, vm, now_ns, ret_message->vm_state, sizeof ret_message->vm_state);
    else
        (void)snprintf(ret_message->vm_state, sizeof ret_message->vm_state, "removed");
    info->vm_state = ret_message->vm_state;
    bool failed = core->state == JOB_FAILED || core->state == JOB_ROLLED_BACK ||
                  core->state == JOB_CANCELED || core->state == JOB_ATTENTION;
    if (failed && core->error_code != GW_NONE)
        fill_error(job, ret_message);
}
