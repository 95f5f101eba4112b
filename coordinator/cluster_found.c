#include "coordinator/cluster_found.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_definition.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_view.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum {
    CONFLICT_MS = 3000, /* a move by hand has both hosts for a moment */
    FOLLOW_AGAIN_MS = 5000,
    UNDEFINED_MS = 3000, /* what has just stopped or arrived is in no list for a moment */
    AUTOSTART_AGAIN_MS = 6000, /* longer than an agent's list takes to be new */
    VCPUS_FOUND_MAX = 4096,
};

#define MEMORY_FOUND_MAX (UINT64_C(1) << 46)

/* protobuf-c knows no const; nobody writes through these. */
static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

static bool is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* What an agent says is judged before anything rests on it. */
static bool is_sound(const Godwit__FoundDomain *domain)
{
    return domain->vm_id && id_name_is_valid(domain->vm_id) &&
           strlen(domain->vm_id) < ID_TEXT_SIZE && domain->name && domain->name[0] &&
           domain->vcpus >= 1 && domain->vcpus <= VCPUS_FOUND_MAX && domain->memory_bytes > 0 &&
           domain->memory_bytes <= MEMORY_FOUND_MAX;
}

static bool runs(const Godwit__FoundDomain *domain)
{
    return domain->state == GODWIT__VM_STATE__VM_STATE_RUNNING ||
           domain->state == GODWIT__VM_STATE__VM_STATE_PAUSED;
}

/* Arriving, just being started, or not to be seen: any of it may be a guest that runs by now. */
static bool may_run(const Godwit__FoundDomain *domain)
{
    return domain->state != GODWIT__VM_STATE__VM_STATE_STOPPED;
}

/* ---- what others did by hand ---- */
static void follow(struct cluster_host *host, struct cluster_vm *vm, struct cluster_now now,
                   struct cluster_todo *todo)
{
    const char *incarnation =
        host->facts && host->facts->incarnation ? host->facts->incarnation : "";

    own_start(&vm->own, host->name, incarnation);
    vm->want = WANT_RUNNING;
    vm->crashed = false;
    vm->reason[0] = '\0';
    vm->start_ns = now.ns;
    vm->found_ns = now.ns;
    vm->found_gen = vm->own.gen;
    cluster_put_own(vm, now, todo);
    (void)cluster_order_vm(vm, host->name, ORDER_START, now, todo);
    cluster_todo_event(todo, vm->id, "VM %s was started on %s outside of the pool: it follows",
                       vm->spec->name, host->name);
    log_info("cluster_found", "started outside of the pool vm=%s host=%s generation=%llu",
             vm->spec->name, host->name, (unsigned long long)vm->own.gen);
}

static void begin_conflict(struct cluster_host *host, struct cluster_vm *vm, struct cluster_now now,
                           struct cluster_todo *todo)
{
    if (!is_same(vm->conflict_host, host->name)) {
        WORDS_COPY(vm->conflict_host, host->name);
        vm->conflict_ns = now.ns;
        vm->conflict_told = false;
    }
    if (vm->conflict_told || now.ns - vm->conflict_ns < CONFLICT_MS * NS_PER_MS)
        return;
    vm->conflict_told = true;
    cluster_todo_event(todo, vm->id,
                       "conflict: %s runs on %s too, the record says %s on %s as generation %llu; "
                       "nothing was stopped",
                       vm->spec->name, host->name, own_phase_name(vm->own.phase), vm->own.owner,
                       (unsigned long long)vm->own.gen);
    log_error("cluster_found", "conflict vm=%s host=%s owner=%s", vm->spec->name, host->name,
              vm->own.owner);
}

static void end_conflict(struct cluster_vm *vm, struct cluster_todo *todo)
{
    if (vm->conflict_told)
        cluster_todo_event(todo, vm->id, "the conflict over %s is over: %s no longer runs it",
                           vm->spec->name, vm->conflict_host);
    vm->conflict_host[0] = '\0';
    vm->conflict_told = false;
}

static const Godwit__FoundDomain *found_on(const struct cluster_host *host, const char *vm_id)
{
    for (size_t i = 0; host->found && host->link_up && i < host->found->n_domains; i++) {
        if (is_same(host->found->domains[i]->vm_id, vm_id))
            return host->found->domains[i];
    }
    return NULL;
}

static void reconcile(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                      struct cluster_todo *todo)
{
    bool has_conflict = false;

    for (size_t i = 0; i < cluster->host_count; i++) {
        struct cluster_host *host = cluster->hosts[i];
        const Godwit__FoundDomain *domain = found_on(host, vm->id);
        if (!domain || !runs(domain))
            continue;
        bool is_owner = is_same(vm->own.owner, host->name);
        if (vm->own.phase == OWN_STOPPED && ha_core_may_run(&host->ha)) {
            if (!vm->found_ns || now.ns - vm->found_ns > FOLLOW_AGAIN_MS * NS_PER_MS)
                follow(host, vm, now, todo);
        } else if (!is_owner || vm->own.phase == OWN_STOPPED) {
            begin_conflict(host, vm, now, todo);
            has_conflict = true;
        }
    }
    if (!has_conflict && vm->conflict_host[0])
        end_conflict(vm, todo);
}

/* ---- autostart ---- */
static bool is_in(char *const *ids, size_t count, const char *vm_id)
{
    for (size_t i = 0; i < count; i++) {
        if (is_same(ids[i], vm_id))
            return true;
    }
    return false;
}

static bool has_autostart(const struct cluster_host *host, const char *vm_id)
{
    const Godwit__FoundDomain *domain = found_on(host, vm_id);

    return host->found && host->link_up &&
           ((domain && domain->autostart) ||
            is_in(host->found->autostart, host->found->n_autostart, vm_id));
}

/* What HA protects it starts itself, elsewhere too: a host that boots must not do so beside it. */
static void keep_autostart_off(struct cluster *cluster, struct cluster_vm *vm,
                               struct cluster_now now, struct cluster_todo *todo)
{
    if (vm->autostart_ns && now.ns - vm->autostart_ns < AUTOSTART_AGAIN_MS * NS_PER_MS)
        return;
    for (size_t i = 0; i < cluster->host_count; i++) {
        if (!has_autostart(cluster->hosts[i], vm->id))
            continue;
        vm->autostart_ns = now.ns;
        (void)cluster_order_vm(vm, cluster->hosts[i]->name, ORDER_AUTOSTART_OFF, now, todo);
    }
}

void cluster_found_autostart_done(const struct cluster_vm *vm, const struct cluster_order *order,
                                  const struct cluster_result *result, struct cluster_todo *todo)
{
    if (result->fault) /* told by the log, and tried again as long as the host says so */
        return;
    cluster_todo_event(todo, vm->id,
                       "autostart of %s on %s is switched off: HA starts it, and a host that boots "
                       "must not start a second copy",
                       vm->spec->name, order->host);
}

void cluster_found_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo)
{
    if (cluster_is_restored(cluster, NULL, 0))
        return;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        struct cluster_vm *vm = cluster->vms[i];
        if (vm_spec_is_libvirt(vm->spec) && !vm->job && !vm->ticket)
            reconcile(cluster, vm, now, todo);
        if (vm_spec_is_libvirt(vm->spec) && cluster_ha_protects(vm))
            keep_autostart_off(cluster, vm, now, todo);
    }
}

struct cluster_host *cluster_found_where(struct cluster *cluster, const struct cluster_vm *vm)
{
    for (size_t i = 0; vm_spec_is_libvirt(vm->spec) && i < cluster->host_count; i++) {
        struct cluster_host *host = cluster->hosts[i];
        const Godwit__FoundDomain *domain = found_on(host, vm->id);
        if (domain && runs(domain) && ha_core_may_run(&host->ha))
            return host;
    }
    return NULL;
}

const char *cluster_found_elsewhere(const struct cluster *cluster, const char *vm_id,
                                    const char *host)
{
    for (size_t i = 0; i < cluster->host_count; i++) {
        const struct cluster_host *other = cluster->hosts[i];
        const Godwit__FoundDomain *domain = found_on(other, vm_id);
        if (domain && may_run(domain) && !is_same(other->name, host))
            return other->name;
    }
    return NULL;
}

int cluster_found_judge_start(const struct cluster *cluster, const struct cluster_vm *vm,
                              const char *host, struct problem *problem)
{
    const char *other = vm_spec_is_libvirt(vm->spec) ? cluster_found_elsewhere(cluster, vm->id, host) : NULL;

    if (!other)
        return 0;
    (void)problem_set(problem, GW_VM_STATE,
                      "libvirt of %s runs %s, or is just starting or receiving it, outside of the pool: it is not "
                      "started on %s beside that",
                      other, vm->spec->name, host);
    problem_hint(problem, "virsh -c qemu+ssh://%s/system domstate --reason %s", other, vm->spec->name);
    return -1;
}

/* ---- virsh undefine ---- */
static void judge_definition(struct cluster_host *host, struct cluster_vm *vm,
                             struct cluster_now now, struct cluster_todo *todo)
{
    bool stopped = vm->own.phase == OWN_STOPPED;
    bool is_gone = stopped ? !found_on(host, vm->id)
                           : is_in(host->found->undefined, host->found->n_undefined, vm->id);

    if (!is_gone) {
        if (vm->undefined_told)
            cluster_todo_event(todo, vm->id, "%s is defined on %s again", vm->spec->name,
                               host->name);
        vm->undefined_ns = 0;
        vm->undefined_told = false;
        return;
    }
    if (!vm->undefined_ns)
        vm->undefined_ns = now.ns;
    if (vm->undefined_told || now.ns - vm->undefined_ns < UNDEFINED_MS * NS_PER_MS)
        return;
    vm->undefined_told = true;
    cluster_todo_event(todo, vm->id,
                       "%s was undefined on %s outside of the pool: %s, and its next start defines "
                       "it as it was last; vm rm lets it go",
                       vm->spec->name, host->name, stopped ? "it stays stopped" : "it runs on");
    log_warn("cluster_found", "undefined outside of the pool vm=%s host=%s", vm->spec->name,
             host->name);
}

static void judge_definitions(struct cluster *cluster, struct cluster_host *host,
                              struct cluster_now now, struct cluster_todo *todo)
{
    if (!host->found->libvirt || !host->found->libvirt[0] || cluster_is_restored(cluster, NULL, 0))
        return; /* nothing is known of its domains just now */
    for (size_t i = 0; i < cluster->vm_count; i++) {
        struct cluster_vm *vm = cluster->vms[i];
        bool is_its = vm_spec_is_libvirt(vm->spec) && is_same(vm->own.owner, host->name);
        if (is_its && !vm->job && !vm->ticket &&
            (vm->own.phase == OWN_STOPPED || vm->own.phase == OWN_RUN))
            judge_definition(host, vm, now, todo);
    }
}

static void set_libvirt(struct cluster_host *host, const char *version)
{
    Godwit__HostFacts *facts = host->facts;
    char *copy = version && version[0] ? strdup(version) : NULL;

    if (!facts) {
        free(copy);
        return;
    }
    if (facts->libvirt && facts->libvirt != protobuf_c_empty_string)
        free(facts->libvirt);
    facts->libvirt = copy;
}

void cluster_found_take(struct cluster *cluster, struct cluster_host *host,
                        const Godwit__AgentFound *found, struct cluster_now now,
                        struct cluster_todo *todo)
{
    Godwit__AgentFound *copy = cluster_message_copy(&found->base);
    if (!copy)
        return; /* the next word has it all again */
    size_t kept = 0;
    for (size_t i = 0; i < copy->n_domains; i++) {
        if (is_sound(copy->domains[i])) {
            copy->domains[kept++] = copy->domains[i];
        } else {
            log_warn("cluster_found", "a domain that makes no sense is left out host=%s",
                     host->name);
            godwit__found_domain__free_unpacked(copy->domains[i], NULL);
        }
    }
    copy->n_domains = kept;
    if (host->found)
        godwit__agent_found__free_unpacked(host->found, NULL);
    host->found = copy;
    set_libvirt(host, copy->libvirt);
    judge_definitions(cluster, host, now, todo);
    if (!cluster_is_restored(cluster, NULL, 0))
        cluster_definition_told(cluster, host, copy, now, todo);
    cluster_found_tick(cluster, now, todo);
}

/* ---- adopting ---- */
int cluster_found_find(struct cluster *cluster, const char *word, const char *host_word,
                       struct cluster_host **ret_host, const Godwit__FoundDomain **ret_found,
                       struct problem *problem)
{
    struct cluster_host *only = NULL;
    *ret_host = NULL;
    if (host_word[0] && !(only = cluster_find_host(cluster, host_word, problem)))
        return -1;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const struct cluster_vm *vm = cluster->vms[i];
        if (is_same(vm->spec->name, word) || is_same(vm->id, word)) {
            (void)problem_set(problem, GW_NAME_TAKEN, "the pool has a VM %s already",
                              vm->spec->name);
            problem_hint(problem, "godwit vm show %s", vm->spec->name);
            return -1;
        }
    }
    for (size_t i = 0; i < cluster->host_count; i++) {
        struct cluster_host *host = cluster->hosts[i];
        for (size_t n = 0; host->found && host->link_up && n < host->found->n_domains; n++) {
            const Godwit__FoundDomain *domain = host->found->domains[n];
            if ((only && host != only) ||
                !(is_same(domain->name, word) || is_same(domain->vm_id, word)))
                continue;
            /* Of the same domain on two hosts the one that runs is meant. */
            bool is_same_domain = *ret_host && is_same((*ret_found)->vm_id, domain->vm_id);
            if (*ret_host && !(is_same_domain && runs(*ret_found) != runs(domain)))
                return problem_set(problem, GW_VM_UNKNOWN,
                                   "%s and %s have a domain %.60s each; say which with --host",
                                   (*ret_host)->name, host->name, word);
            if (*ret_host && runs(*ret_found))
                continue;
            *ret_host = host;
            *ret_found = domain;
        }
    }
    if (*ret_host)
        return 0;
    (void)problem_set(problem, GW_VM_UNKNOWN, "no host has a libvirt domain %.60s that could be "
                                              "adopted", word);
    problem_hint(problem, "godwit vm ls");
    return -1;
}

const Godwit__FoundDomain *cluster_found_next(const struct cluster *cluster,
                                              const struct cluster_host *host,
                                              bool (*was_passed)(const void *data,
                                                                 const char *vm_id),
                                              const void *data)
{
    for (size_t i = 0; host->found && i < host->found->n_domains; i++) {
        const Godwit__FoundDomain *domain = host->found->domains[i];
        bool arrives = domain->state == GODWIT__VM_STATE__VM_STATE_INCOMING; /* it is its source's */
        if (!arrives && !cluster_vm(cluster, domain->vm_id) && !was_passed(data, domain->vm_id))
            return domain;
    }
    return NULL;
}

static Godwit__VmSpec *make_spec(const struct cluster_host *host,
                                 const Godwit__FoundDomain *domain)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__CpuSpec cpu = GODWIT__CPU_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    bool knows = host->facts && host->facts->n_baselines > 0 && host->facts->baselines[0]->name;

    spec.has_version = true;
    spec.version = 1;
    spec.name = domain->name;
    spec.backend = text_of("libvirt");
    spec.domain_xml = domain->domain_xml;
    spec.host = text_of(host->name);
    cpu.has_vcpus = true;
    cpu.vcpus = domain->vcpus;
    /* libvirt compares CPUs itself; the weakest baseline keeps ours from doing it a second time. */
    cpu.baseline = knows ? host->facts->baselines[0]->name : text_of("");
    spec.cpu = &cpu;
    memory.has_size = true;
    memory.size = domain->memory_bytes;
    spec.memory = &memory;
    return cluster_message_copy(&spec.base);
}

int cluster_found_adopt(struct cluster *cluster, struct cluster_host *host,
                        const Godwit__FoundDomain *domain, struct cluster_now now,
                        uint64_t *ret_ticket, struct problem *problem, struct cluster_todo *todo)
{
    if (!is_sound(domain) || !id_name_is_valid(domain->name))
        return problem_set(problem, GW_SPEC_INVALID,
                           "'%.80s' is no name for a VM of a pool (1 to %d letters, digits, '.', "
                           "'_', '-'), and a domain is never renamed",
                           domain->name ? domain->name : "", ID_NAME_MAX);
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (is_same(cluster->vms[i]->spec->name, domain->name) ||
            is_same(cluster->vms[i]->id, domain->vm_id))
            return problem_set(problem, GW_NAME_TAKEN, "there already is a VM %s", domain->name);
    }
    if (cluster->vm_count == VMS_MAX)
        return problem_set(problem, GW_POOL_FULL, "the pool has %d VMs, which is all it may have",
                           VMS_MAX);
    Godwit__VmSpec *spec = make_spec(host, domain);
    struct cluster_vm *vm = spec ? cluster_add_vm(cluster, domain->vm_id) : NULL;
    if (!vm) {
        if (spec)
            godwit__vm_spec__free_unpacked(spec, NULL);
        return problem_set(problem, GW_INTERNAL, "no memory for VM %s", domain->name);
    }
    vm->spec = spec;
    struct cluster_put *put = cluster_todo_put(todo, PUT_VM);
    put->object = vm;
    put->revision = vm->revision++;
    cluster_todo_event(todo, vm->id, "domain %s of %s is adopted as it is", spec->name, host->name);
    if (domain->autostart)
        cluster_todo_event(todo, vm->id,
                           "alert: %s has autostart: when %s boots, libvirt starts it there whatever "
                           "the pool says, maybe as a second copy: virsh autostart --disable %s",
                           spec->name, host->name, spec->name);
    vm->ticket = ++cluster->next_ticket;
    *ret_ticket = vm->ticket;
    if (runs(domain)) { /* a start of what runs: the agent takes it as that generation */
        const char *incarnation =
            host->facts && host->facts->incarnation ? host->facts->incarnation : "";
        own_start(&vm->own, host->name, incarnation);
        vm->want = WANT_RUNNING;
        vm->found_gen = vm->own.gen;
        cluster_put_own(vm, now, todo);
        cluster_order_vm(vm, host->name, ORDER_START, now, todo)->ticket = vm->ticket;
        return 0;
    }
    WORDS_COPY(vm->own.owner, host->name); /* where it is defined */
    vm->want = WANT_STOPPED;
    cluster_put_own(vm, now, todo);
    struct cluster_answer *answer = cluster_todo_answer(todo);
    answer->ticket = vm->ticket;
    vm->ticket = 0;
    WORDS_COPY(answer->vm_id, vm->id);
    return 0;
}

/* ---- showing ---- */
static bool is_shown(const struct cluster *cluster, const struct cluster_host *host, size_t n)
{
    return host->link_up && !cluster_vm(cluster, host->found->domains[n]->vm_id);
}

size_t cluster_found_count(const struct cluster *cluster)
{
    size_t count = 0;

    for (size_t i = 0; i < cluster->host_count; i++) {
        const struct cluster_host *host = cluster->hosts[i];
        for (size_t n = 0; host->found && n < host->found->n_domains; n++)
            count += is_shown(cluster, host, n);
    }
    return count;
}

static const char *state_word(Godwit__VmState state)
{
    switch (state) {
    case GODWIT__VM_STATE__VM_STATE_RUNNING:
        return "running";
    case GODWIT__VM_STATE__VM_STATE_PAUSED:
        return "paused";
    case GODWIT__VM_STATE__VM_STATE_INCOMING:
        return "moving";
    default: /* a number from the wire */
        return "stopped";
    }
}

void cluster_found_info(const struct cluster *cluster, size_t index, Godwit__VmInfo *ret_info)
{
    godwit__vm_info__init(ret_info);
    for (size_t i = 0; i < cluster->host_count; i++) {
        const struct cluster_host *host = cluster->hosts[i];
        for (size_t n = 0; host->found && n < host->found->n_domains; n++) {
            const Godwit__FoundDomain *domain = host->found->domains[n];
            if (!is_shown(cluster, host, n) || index-- > 0)
                continue;
            ret_info->name = domain->name;
            ret_info->id = domain->vm_id;
            ret_info->state = text_of(state_word(domain->state));
            ret_info->host = text_of(host->name);
            ret_info->has_vcpus = ret_info->has_memory_bytes = true;
            ret_info->vcpus = domain->vcpus;
            ret_info->memory_bytes = domain->memory_bytes;
            ret_info->backend = text_of("libvirt");
            ret_info->has_unadopted = ret_info->unadopted = true;
            return;
        }
    }
    assert(false); /* the index is below the count */
}
