#include "coordinator/cluster_ask.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/admission.h"
#include "coordinator/cluster_forecast.h"
#include "coordinator/cluster_found.h"
#include "coordinator/cluster_snapshot.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_layout.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_test.h"
#include "coordinator/planner.h"
#include "coordinator/pool_store.h"
#include "coordinator/post_policy.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum { REMOVE_AGAIN_MS = 5000 };

static void add_place(const struct cluster *cluster, const struct cluster_vm *vm,
                      struct cluster_now now, struct problem *problem)
{
    cluster_vm_place(cluster, vm, now.ns, problem->vm_state, sizeof problem->vm_state);
}

static bool host_answers(const struct cluster *cluster, const char *name, struct cluster_now now)
{
    const struct cluster_host *host = cluster_host(cluster, name);
    return host && host->link_up && host->facts && cluster_host_state(host, now.ns) != HOST_DOWN;
}

/* ---- what a VM may be -------------------------------------------------------------------------
 */

static int judge_spec(const Godwit__VmSpec *spec, struct problem *problem)
{
    const char *name = spec->name ? spec->name : "";
    if (vm_spec_is_libvirt(spec) || (spec->domain_xml && spec->domain_xml[0]))
        return problem_set(problem, GW_SPEC_INVALID,
                           "%.80s: domains of libvirt are defined by virsh and then adopted: "
                           "godwit vm adopt",
                           name);
    if (spec->has_version && spec->version != 1)
        return problem_set(problem, GW_SPEC_INVALID,
                           "version %u of VM descriptions is not known (known: 1)", spec->version);
    if (!id_name_is_valid(name))
        return problem_set(problem, GW_SPEC_INVALID,
                           "'%.80s' is no name for a VM: 1 to %d letters, digits, '.', '_', '-', "
                           "the first a letter or digit",
                           name, ID_NAME_MAX);
    uint32_t vcpus = spec->cpu && spec->cpu->has_vcpus ? spec->cpu->vcpus : 1;
    if (vcpus < 1 || vcpus > VCPUS_MAX)
        return problem_set(problem, GW_SPEC_INVALID, "%s: %u vCPUs, possible are 1 to %d", name,
                           vcpus, VCPUS_MAX);
    uint64_t size = spec->memory && spec->memory->has_size ? spec->memory->size : 0;
    if (size < VM_MEMORY_MIN || size > VM_MEMORY_MAX || size % MIB(2) != 0)
        return problem_set(problem, GW_SPEC_INVALID,
                           "%s: %llu bytes of memory, possible are 16 MiB to 64 GiB in steps of "
                           "2 MiB",
                           name, (unsigned long long)size);
    if (!vm_spec_boots_from_disk(spec) && (!spec->kernel || spec->kernel[0] != '/'))
        return problem_set(problem, GW_SPEC_INVALID,
                           "%s: the kernel must be an absolute path on the host, found '%.120s'",
                           name, spec->kernel ? spec->kernel : "");
    if (spec->initrd && spec->initrd[0] && spec->initrd[0] != '/')
        return problem_set(problem, GW_SPEC_INVALID,
                           "%s: the initrd must be an absolute path on the host, found '%.120s'",
                           name, spec->initrd);
    if (spec->cmdline && strlen(spec->cmdline) > CMDLINE_MAX)
        return problem_set(problem, GW_SPEC_INVALID,
                           "%s: the kernel's command line has %zu bytes, possible are %d", name,
                           strlen(spec->cmdline), CMDLINE_MAX);
    struct fault fault = {0};
    if (vm_spec_judge(spec, &fault) < 0)
        return problem_set(problem, GW_SPEC_INVALID, "%s: %s", name, fault.text);
    return 0;
}

static bool is_same_disk(const Godwit__DiskSpec *a, const Godwit__DiskSpec *b)
{
    return vm_spec_disk_is_shared(a) && vm_spec_disk_is_shared(b) &&
           strcmp(a->store, b->store) == 0 && strcmp(a->file, b->file) == 0;
}

/* What only one VM of the pool may have: a disk that it writes beneath a shared store, a nic's
 * address. */
static int judge_beside(const Godwit__VmSpec *spec, const Godwit__VmSpec *other,
                        struct problem *problem)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        for (size_t n = 0; n < other->n_disks; n++) {
            const Godwit__DiskSpec *disk = spec->disks[i], *theirs = other->disks[n];
            if (is_same_disk(disk, theirs) && !(disk->read_only && theirs->read_only))
                return problem_set(problem, GW_SPEC_INVALID,
                                   "%s: disk %s is disk %s of %s already (%.120s in %.120s)",
                                   spec->name, disk->name, theirs->name, other->name, disk->file,
                                   disk->store);
        }
    }
    for (size_t i = 0; i < spec->n_nics; i++) {
        for (size_t n = 0; n < other->n_nics; n++) {
            if (spec->nics[i]->mac && other->nics[n]->mac &&
                strcmp(spec->nics[i]->mac, other->nics[n]->mac) == 0)
                return problem_set(problem, GW_SPEC_INVALID, "%s: %s has a nic with %s already",
                                   spec->name, other->name, spec->nics[i]->mac);
        }
    }
    return 0;
}

int cluster_judge_alone(const struct cluster *cluster, const Godwit__VmSpec *spec,
                        struct problem *problem)
{
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (judge_beside(spec, cluster->vms[i]->spec, problem) != 0)
            return -1;
    }
    return 0;
}

static const char *const policies[] = {"gentle", "balanced", "finish"};
static const char *const compressions[] = {"auto", "off", "lz4", "zstd"};
static const char *const deltas[] = {"auto", "off", "always"};
static const char *const modes[] = {"auto", "rounds", "stream"};

static int judge_postcopy_word(const char *word, struct problem *problem)
{
    if (!word || !word[0] || strcmp(word, "allowed") == 0 || strcmp(word, "never") == 0)
        return 0;
    return problem_set(problem, GW_SPEC_INVALID,
                       "'%.60s' says nothing of post-copy; known are allowed, never", word);
}

static int judge_word(const char *word, const char *const *words, size_t count, const char *what,
                      enum gw_code code, struct problem *problem)
{
    if (!word || !word[0])
        return 0;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(word, words[i]) == 0)
            return 0;
    }
    (void)problem_set(problem, code, "'%.60s' is no %s; known are %s, %s, %s", word, what, words[0],
                      words[1], words[2]);
    const char *nearest = id_nearest(word, words, count);
    if (nearest)
        problem_hint(problem, "did you mean '%s'?", nearest);
    return -1;
}

static bool baseline_is_known(const struct cluster *cluster, const char *name)
{
    size_t heard_of = 0;
    for (size_t i = 0; i < cluster->host_count; i++) {
        const Godwit__HostFacts *facts = cluster->hosts[i]->facts;
        for (size_t n = 0; facts && n < facts->n_baselines; n++, heard_of++) {
            if (facts->baselines[n]->name && strcmp(facts->baselines[n]->name, name) == 0)
                return true;
        }
    }
    return heard_of == 0; /* no host has told yet: the planner will say so */
}

/* Addresses in one spelling; those that were not given are made of the VM's id and kept. */
static bool complete_nics(Godwit__VmSpec *spec, const char *vm_id)
{
    for (unsigned i = 0; i < spec->n_nics; i++) {
        Godwit__NicSpec *nic = spec->nics[i];
        uint8_t mac[VM_SPEC_MAC_BYTES];
        char text[VM_SPEC_MAC_SIZE];
        if (!nic->mac || !vm_spec_mac_parse(nic->mac, mac))
            vm_spec_mac_make(vm_id, i, mac);
        vm_spec_mac_print(mac, text);
        char *copy = strdup(text);
        if (!copy)
            return false;
        if (nic->mac && nic->mac != protobuf_c_empty_string)
            free(nic->mac);
        nic->mac = copy;
    }
    return true;
}

/* A copy with every part present, so that the rest of the coordinator need not ask. */
static Godwit__VmSpec *complete_spec(const Godwit__VmSpec *given, const char *baseline,
                                     const char *vm_id)
{
    Godwit__CpuSpec cpu = GODWIT__CPU_SPEC__INIT;
    Godwit__VmSpec spec = *given;
    if (given->cpu)
        cpu = *given->cpu;
    cpu.vcpus = cpu.has_vcpus ? cpu.vcpus : 1;
    cpu.has_vcpus = true;
    cpu.baseline = (char *)(uintptr_t)baseline; /* protobuf-c knows no const */
    spec.cpu = &cpu;
    spec.has_version = true;
    spec.version = 1;
    spec.test_of = NULL; /* ours to say, and a copy of a copy is none */
    Godwit__VmSpec *whole = cluster_message_copy(&spec.base);
    if (whole && !complete_nics(whole, vm_id)) {
        godwit__vm_spec__free_unpacked(whole, NULL);
        return NULL;
    }
    return whole;
}

/* ---- create -----------------------------------------------------------------------------------
 */

/* Hosts are judged by their facts, then by rules and cordons of the layout; the cheapest wins. */
static int choose_host(struct cluster *cluster, const struct planner_ask *given,
                       struct cluster_now now, struct cluster_host **ret_host,
                       struct problem *problem)
{
    AUTO_FREE struct planner_host *hosts = cluster_planner_hosts(cluster, now.ns);
    struct cluster_layout view = {0};
    struct problem other = {0};
    struct planner_ask ask = *given;
    const struct planner_stores stores = pool_store_planner(cluster, now.ns);
    if (!hosts)
        return problem_set(problem, GW_INTERNAL, "no memory to choose a host");
    if (cluster_layout_new(&view, cluster, now, LAYOUT_STALL, true, problem ? problem : &other) !=
        0)
        return -1;
    ask.layout = view.layout;
    ask.stores = &stores;
    ask.layout_vm = layout_find_vm(view.layout, ask.vm_name);
    int chosen = planner_choose(hosts, cluster->host_count, &ask, problem);
    cluster_layout_deinit(&view);
    if (chosen < 0)
        return -1;
    *ret_host = cluster->hosts[chosen];
    return 0;
}

int cluster_choose_host(struct cluster *cluster, const struct cluster_vm *vm, const char *not_on,
                        struct cluster_now now, struct cluster_host **ret_host,
                        struct problem *problem)
{
    bool is_tied = vm_spec_tying_disk(vm->spec) != NULL; /* its disk is there and nowhere else */
    const struct planner_ask ask = {.vm_name = vm->spec->name,
                                    .spec = vm->spec,
                                    .baseline = vm->spec->cpu->baseline,
                                    .memory_bytes = vm->spec->memory->size,
                                    .not_on = is_tied ? NULL : not_on,
                                    .only_on = is_tied ? vm->own.owner : NULL};
    return choose_host(cluster, &ask, now, ret_host, problem);
}

/* Would it take the room that HA keeps? */
static int judge_reserve(struct cluster *cluster, const struct cluster_vm *vm,
                         const struct cluster_host *host, struct cluster_now now,
                         struct problem *problem)
{
    const struct admission_ask ask = {
        .vm = vm, .host = host, .is_protected = cluster_ha_protects(vm)};
    return admission_judge(cluster, &ask, now, problem);
}

static void begin_start(struct cluster *cluster, struct cluster_vm *vm,
                        const struct cluster_host *host, struct cluster_now now,
                        struct cluster_todo *todo)
{
    own_start(&vm->own, host->name,
              host->facts && host->facts->incarnation ? host->facts->incarnation : "");
    vm->want = WANT_RUNNING;
    vm->crashed = false;
    vm->reason[0] = '\0';
    vm->state = GODWIT__VM_STATE__VM_STATE_NONE;
    vm->pid = 0;
    vm->ticket = ++cluster->next_ticket;
    cluster_put_own(vm, now, todo);
    struct cluster_order *order = cluster_order_vm(vm, host->name, ORDER_START, now, todo);
    order->ticket = vm->ticket;
}

static int find_baseline(const struct cluster *cluster, const Godwit__VmSpec *spec,
                         const struct cluster_host *only, struct cluster_now now,
                         const char **ret_baseline, struct problem *problem)
{
    const char *wanted = spec->cpu ? spec->cpu->baseline : NULL;
    if (wanted && wanted[0]) {
        if (!baseline_is_known(cluster, wanted)) {
            (void)problem_set(problem, GW_SPEC_INVALID, "%s: no host knows a CPU baseline '%.60s'",
                              spec->name, wanted);
            problem_hint(problem, "godwit host show --all");
            return -1;
        }
        *ret_baseline = wanted;
        return 0;
    }
    AUTO_FREE struct planner_host *hosts = cluster_planner_hosts(cluster, now.ns);
    if (!hosts)
        return problem_set(problem, GW_INTERNAL, "no memory to choose a baseline");
    *ret_baseline = planner_baseline(hosts, cluster->host_count);
    if (!*ret_baseline)
        *ret_baseline = only ? planner_host_baseline(only->facts) : NULL;
    if (*ret_baseline)
        return 0;
    (void)problem_set(problem, GW_NO_HOST_FITS,
                      "no CPU baseline is given by every host that is up (%zu in the pool)",
                      cluster->host_count);
    problem_hint(problem, "godwit host ls");
    return -1;
}

static void spec_freep(Godwit__VmSpec **spec)
{
    if (*spec)
        godwit__vm_spec__free_unpacked(*spec, NULL);
}

int cluster_create_vm(struct cluster *cluster, const Godwit__VmSpec *given, const char *vm_id,
                      bool no_start, struct cluster_now now, uint64_t *ret_ticket,
                      struct problem *problem, struct cluster_todo *todo)
{
    AUTO(spec_freep) Godwit__VmSpec *spec = NULL;
    if (judge_spec(given, problem) != 0 ||
        pool_store_resolve(cluster, given, &spec, problem) != 0 || judge_spec(spec, problem) != 0)
        return -1;
    if (spec->migration && judge_word(spec->migration->policy, policies, ARRAY_COUNT(policies),
                                      "policy", GW_SPEC_INVALID, problem) != 0)
        return -1;
    if (spec->migration && judge_postcopy_word(spec->migration->postcopy, problem) != 0)
        return -1;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (strcmp(cluster->vms[i]->spec->name, spec->name) == 0) {
            (void)problem_set(problem, GW_NAME_TAKEN, "there already is a VM %s", spec->name);
            add_place(cluster, cluster->vms[i], now, problem);
            problem_hint(problem, "godwit vm show %s", spec->name);
            return -1;
        }
    }
    if (cluster->vm_count == VMS_MAX)
        return problem_set(problem, GW_POOL_FULL, "the pool has %d VMs, which is all it may have",
                           VMS_MAX);

    struct cluster_host *host = NULL;
    const char *baseline = NULL;
    if (spec->host && spec->host[0] && !(host = cluster_find_host(cluster, spec->host, problem)))
        return -1;
    if (find_baseline(cluster, spec, host, now, &baseline, problem) != 0)
        return -1;
    struct planner_ask ask = {.vm_name = spec->name,
                              .spec = spec,
                              .baseline = baseline,
                              .memory_bytes = spec->memory->size,
                              .makes_disks = true,
                              .only_on = host ? host->name : NULL};
    if (!no_start && choose_host(cluster, &ask, now, &host, problem) != 0)
        return -1;

    Godwit__VmSpec *whole = complete_spec(spec, baseline, vm_id);
    if (whole && cluster_judge_alone(cluster, whole, problem) != 0) {
        godwit__vm_spec__free_unpacked(whole, NULL);
        return -1;
    }
    struct cluster_vm *vm = whole ? cluster_add_vm(cluster, vm_id) : NULL;
    if (!vm) {
        if (whole)
            godwit__vm_spec__free_unpacked(whole, NULL);
        return problem_set(problem, GW_INTERNAL, "no memory for VM %s", spec->name);
    }
    vm->spec = whole;
    if (!no_start && judge_reserve(cluster, vm, host, now, problem) != 0) {
        cluster_drop_vm(cluster, vm);
        return -1;
    }
    struct cluster_put *put = cluster_todo_put(todo, PUT_VM);
    put->object = vm;
    put->revision = vm->revision++;
    cluster_todo_event(todo, vm->id, "VM %s created", spec->name);
    if (no_start) {
        cluster_put_own(vm, now, todo);
        struct cluster_answer *answer = cluster_todo_answer(todo);
        answer->ticket = *ret_ticket = ++cluster->next_ticket;
        WORDS_COPY(answer->vm_id, vm->id);
        return 0;
    }
    begin_start(cluster, vm, host, now, todo);
    *ret_ticket = vm->ticket;
    return 0;
}

/* ---- start, stop, pause, resume, rm -----------------------------------------------------------
 */

int cluster_judge_free(const struct cluster *cluster, const struct cluster_vm *vm,
                       struct cluster_now now, struct problem *problem)
{
    if (vm->job) {
        (void)problem_set(problem, GW_VM_BUSY, "job %s has %s now: it moves from %s to %s",
                          vm->job->core.id, vm->spec->name, vm->job->core.source_host,
                          vm->job->core.target_host);
        problem_hint(problem, "godwit job watch %s", vm->job->core.id);
    } else if (vm->disk_move) {
        (void)problem_set(problem, GW_VM_BUSY, "job %s has %s now: disk %s goes to another store",
                          vm->disk_move->info->id, vm->spec->name,
                          vm->disk_move->info->disk_name);
        problem_hint(problem, "godwit job watch %s", vm->disk_move->info->id);
    } else if (vm->dr && dr_peer_holds(vm->dr) &&
               (dr_step_is(vm->dr, "hold") || dr_step_is(vm->dr, "end"))) {
        (void)problem_set(problem, GW_VM_BUSY, "%s is a replica that is held for pool %s",
                          vm->spec->name, dr_peer_name(vm->dr));
        problem_hint(problem, "godwit dr status %s", vm->spec->name);
    } else if (dr_is_acting(vm)) {
        (void)problem_set(problem, GW_VM_BUSY, "its %s has %s now", vm->dr->info->last_op,
                          vm->spec->name);
        problem_hint(problem, "godwit dr status %s", vm->spec->name);
    } else if (vm->ticket) {
        (void)problem_set(problem, GW_VM_BUSY, "another order for %s is being carried out",
                          vm->spec->name);
        problem_hint(problem, "godwit vm show %s", vm->spec->name);
    } else {
        return 0;
    }
    add_place(cluster, vm, now, problem);
    return -1;
}

static int judge_owner_answers(const struct cluster *cluster, const struct cluster_vm *vm,
                               struct cluster_now now, struct problem *problem)
{
    if (host_answers(cluster, vm->own.owner, now))
        return 0;
    (void)problem_set(problem, GW_HOST_DOWN, "%s is on %s, whose agent does not answer",
                      vm->spec->name, vm->own.owner);
    add_place(cluster, vm, now, problem);
    problem_hint(problem, "godwit host show %s", vm->own.owner);
    return -1;
}

static int wrong_state(const struct cluster *cluster, const struct cluster_vm *vm, const char *what,
                       const char *hint_verb, struct cluster_now now, struct problem *problem)
{
    (void)problem_set(problem, GW_VM_STATE, "%s %s", vm->spec->name, what);
    add_place(cluster, vm, now, problem);
    if (hint_verb)
        problem_hint(problem, "godwit vm %s %s", hint_verb, vm->spec->name);
    return -1;
}

static int act_start(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                     struct problem *problem, struct cluster_todo *todo)
{
    if (vm->own.phase == OWN_STARTING)
        return wrong_state(cluster, vm, "is being started; its host has not answered yet", "show",
                           now, problem);
    if (vm->suspended[0])
        return wrong_state(cluster, vm, "is suspended; stop it to give its memory up", "resume",
                           now, problem);
    if (own_is_lost(&vm->own))
        return wrong_state(cluster, vm, "is about to be started again by HA", "show", now, problem);
    if (vm->own.phase != OWN_STOPPED)
        return wrong_state(cluster, vm, "is not stopped", NULL, now, problem);

    if (dr_peer_judge_start(vm, now, problem) != 0) {
        add_place(cluster, vm, now, problem);
        return -1;
    }

    struct planner_ask ask = {.vm_name = vm->spec->name,
                              .spec = vm->spec,
                              .baseline = vm->spec->cpu->baseline,
                              .memory_bytes = vm->spec->memory->size};
    struct cluster_host *host = NULL;
    const char *given = vm->spec->host && vm->spec->host[0] ? vm->spec->host : NULL;
    const char *home = vm->own.owner[0] ? vm->own.owner : given;
    if (home && cluster_host(cluster, home)) {
        ask.only_on = home; /* it knows the kernel's path; another only when it cannot */
        const Godwit__DiskSpec *tying = vm_spec_tying_disk(vm->spec);
        bool is_defined_there =
            vm_spec_is_libvirt(vm->spec); /* a start elsewhere takes HA's proof */
        int r = choose_host(cluster, &ask, now, &host, tying || is_defined_there ? problem : NULL);
        if (r != 0 && is_defined_there) {
            add_place(cluster, vm, now, problem);
            return -1;
        }
        if (r != 0 && tying) { /* its disk is there and nowhere else */
            if (problem)
                problem_detail(problem, "disk %s of %s is on %s only", tying->name, vm->spec->name,
                               home);
            add_place(cluster, vm, now, problem);
            return -1;
        }
        ask.only_on = NULL;
    }
    if (!host && choose_host(cluster, &ask, now, &host, problem) != 0) {
        add_place(cluster, vm, now, problem);
        return -1;
    }
    if (cluster_found_judge_start(cluster, vm, host->name, problem) != 0 ||
        judge_reserve(cluster, vm, host, now, problem) != 0) {
        add_place(cluster, vm, now, problem);
        return -1;
    }
    begin_start(cluster, vm, host, now, todo);
    return 0;
}

int cluster_choose_start(struct cluster *cluster, const struct cluster_vm *vm,
                         const struct cluster_start_ask *start, struct cluster_now now,
                         struct cluster_host **ret_host, struct problem *problem)
{
    const struct planner_ask ask = {.vm_name = vm->spec->name,
                                    .spec = vm->spec,
                                    .baseline = vm->spec->cpu->baseline,
                                    .memory_bytes = vm->spec->memory->size,
                                    .makes_disks = start->makes_disks,
                                    .landing_bytes = start->landing_bytes,
                                    .not_on = start->not_on,
                                    .only_on = start->only_on,
                                    .avoid = start->avoid,
                                    .avoid_count = start->avoid_count};
    return choose_host(cluster, &ask, now, ret_host, problem);
}

int cluster_start_on(struct cluster *cluster, struct cluster_vm *vm,
                     const struct cluster_host *host, struct cluster_now now,
                     struct problem *problem, struct cluster_todo *todo)
{
    const struct cluster_start_ask ask = {.only_on = host->name};
    struct cluster_host *chosen = NULL;
    if (vm->own.phase != OWN_STOPPED)
        return wrong_state(cluster, vm, "is not stopped", NULL, now, problem);
    if (dr_peer_judge_start(vm, now, problem) != 0 ||
        cluster_choose_start(cluster, vm, &ask, now, &chosen, problem) != 0 ||
        cluster_found_judge_start(cluster, vm, host->name, problem) != 0)
        return -1;
    begin_start(cluster, vm, chosen, now, todo);
    return 0;
}

/* It is lost with its host and waits to be started again: nothing runs that would have to end. */
static void stop_lost(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                      uint64_t *ret_ticket, struct cluster_todo *todo)
{
    vm->want = WANT_STOPPED;
    own_stop(&vm->own);
    cluster_put_own(vm, now, todo);
    cluster_todo_event(todo, vm->id, "VM %s is not started again: it was stopped", vm->spec->name);
    struct cluster_answer *answer = cluster_todo_answer(todo);
    answer->ticket = *ret_ticket = ++cluster->next_ticket;
    WORDS_COPY(answer->vm_id, vm->id);
}

static int act_stop(struct cluster *cluster, struct cluster_vm *vm, enum cluster_want want,
                    struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    if (judge_owner_answers(cluster, vm, now, problem) != 0)
        return -1;
    if (vm->own.phase == OWN_STARTING) { /* "not found" would be no evidence: START is out (R7) */
        (void)problem_set(problem, GW_VM_BUSY, "%s is being started; %s has not answered yet",
                          vm->spec->name, vm->own.owner);
        add_place(cluster, vm, now, problem);
        problem_hint(problem, vm_spec_is_libvirt(vm->spec) ? "godwit vm show %s" : "godwit vm stop --force %s",
                     vm->spec->name);
        return -1;
    }
    vm->want = want;
    vm->ticket = ++cluster->next_ticket;
    cluster_put_own(vm, now, todo);
    struct cluster_order *order = cluster_order_vm(vm, vm->own.owner, ORDER_STOP, now, todo);
    order->ticket = vm->ticket;
    order->remove = want == WANT_REMOVED;
    return 0;
}

/* A start that hangs has an operator's ticket, and is ended all the same. What becomes of it is told by its own
 * answer: "not found" is no evidence while it is on its way. */
static bool may_end_start(const struct cluster_vm *vm)
{
    return vm->own.phase == OWN_STARTING && !vm_spec_is_libvirt(vm->spec) && !vm->job &&
           !vm->disk_move && !dr_is_acting(vm) && !dr_takes(vm);
}

static int end_start(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                     uint64_t *ret_ticket, struct problem *problem, struct cluster_todo *todo)
{
    const struct cluster_host *host = cluster_host(cluster, vm->own.owner);

    if (judge_owner_answers(cluster, vm, now, problem) != 0)
        return -1;
    if (!host || !host->ends_starts) {
        (void)problem_set(problem, GW_VM_BUSY,
                          "%s is being started on %s, whose agent is of a version that cannot end a start; it can be "
                          "stopped when it runs",
                          vm->spec->name, vm->own.owner);
        add_place(cluster, vm, now, problem);
        problem_hint(problem, "godwit vm show %s", vm->spec->name);
        return -1;
    }
    vm->want = WANT_STOPPED;
    cluster_put_own(vm, now, todo);
    struct cluster_order *order = cluster_order_vm(vm, vm->own.owner, ORDER_STOP, now, todo);
    order->ticket = *ret_ticket = ++cluster->next_ticket;
    order->ends_start = true;
    return 0;
}

/* Where its file is, or its snapshot, and nowhere else. */
int cluster_start_home(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                       struct problem *problem, struct cluster_todo *todo)
{
    struct planner_ask ask = {.vm_name = vm->spec->name,
                              .spec = vm->spec,
                              .baseline = vm->spec->cpu->baseline,
                              .memory_bytes = vm->spec->memory->size,
                              .only_on = vm->own.owner};
    struct cluster_host *host = NULL;
    if (judge_owner_answers(cluster, vm, now, problem) != 0)
        return -1;
    if (dr_peer_judge_start(vm, now, problem) != 0 ||
        choose_host(cluster, &ask, now, &host, problem) != 0 ||
        judge_reserve(cluster, vm, host, now, problem) != 0) {
        add_place(cluster, vm, now, problem);
        return -1;
    }
    begin_start(cluster, vm, host, now, todo);
    return 0;
}

/* What godwit-vm does by itself, and a domain of libvirt does by other means. */
static int judge_embedded(struct cluster *cluster, const struct cluster_vm *vm, const char *other,
                          struct cluster_now now, struct problem *problem)
{
    if (!vm_spec_is_libvirt(vm->spec))
        return 0;
    char words[80];
    (void)snprintf(words, sizeof words, "is a libvirt domain; %s", other);
    return wrong_state(cluster, vm, words, NULL, now, problem);
}

static int act_suspend(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                       struct problem *problem, struct cluster_todo *todo)
{
    if (judge_embedded(cluster, vm, "virsh managedsave puts it into a file", now, problem) != 0)
        return -1;
    if (vm->own.phase == OWN_STOPPED)
        return wrong_state(cluster, vm, vm->suspended[0] ? "is suspended already" : "is stopped",
                           NULL, now, problem);
    if (vm->own.phase != OWN_RUN)
        return wrong_state(cluster, vm, "is not running", "show", now, problem);
    if (judge_owner_answers(cluster, vm, now, problem) != 0)
        return -1;
    if (vm->state == GODWIT__VM_STATE__VM_STATE_HELD)
        return wrong_state(cluster, vm, "is held by a move and goes on by itself", "show", now,
                           problem);
    vm->ticket = ++cluster->next_ticket;
    struct cluster_order *order = cluster_order_vm(vm, vm->own.owner, ORDER_SUSPEND, now, todo);
    order->ticket = vm->ticket;
    cluster_draw_id(cluster, order->nonce);
    return 0;
}

static int act_pause(struct cluster *cluster, struct cluster_vm *vm, bool pause,
                     struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    if (!pause && vm->own.phase == OWN_STOPPED && vm->suspended[0])
        return cluster_start_home(cluster, vm, now, problem, todo);
    if (vm->own.phase != OWN_RUN)
        return wrong_state(cluster, vm, "is not running", "start", now, problem);
    if (judge_owner_answers(cluster, vm, now, problem) != 0)
        return -1;
    bool is_paused = vm->state == GODWIT__VM_STATE__VM_STATE_PAUSED;
    if (vm->state == GODWIT__VM_STATE__VM_STATE_HELD)
        return wrong_state(cluster, vm, "is held by a move and goes on by itself", "show", now,
                           problem);
    if (pause == is_paused)
        return wrong_state(cluster, vm, pause ? "is paused already" : "is not paused", NULL, now,
                           problem);
    vm->ticket = ++cluster->next_ticket;
    struct cluster_order *order =
        cluster_order_vm(vm, vm->own.owner, pause ? ORDER_PAUSE : ORDER_RESUME, now, todo);
    order->ticket = vm->ticket;
    return 0;
}

/* What the operator wants of the VM stays as it is: the guest may refuse, or take an hour. */
static int act_power_button(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                            struct problem *problem, struct cluster_todo *todo)
{
    if (vm->own.phase == OWN_STOPPED)
        return wrong_state(cluster, vm, "is stopped already", NULL, now, problem);
    if (vm->own.phase != OWN_RUN)
        return wrong_state(cluster, vm, "is not running", "show", now, problem);
    if (judge_owner_answers(cluster, vm, now, problem) != 0)
        return -1;
    vm->ticket = ++cluster->next_ticket;
    struct cluster_order *order =
        cluster_order_vm(vm, vm->own.owner, ORDER_POWER_BUTTON, now, todo);
    order->ticket = vm->ticket;
    return 0;
}

static int act_reboot(struct cluster *cluster, struct cluster_vm *vm, bool reset,
                      struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    if (!vm_spec_is_libvirt(vm->spec))
        return wrong_state(cluster, vm,
                           "is rebooted by its guest only, or by vm stop and vm start: it is no "
                           "domain of libvirt",
                           NULL, now, problem);
    if (vm->own.phase != OWN_RUN)
        return wrong_state(cluster, vm, "is not running", "start", now, problem);
    if (judge_owner_answers(cluster, vm, now, problem) != 0)
        return -1;
    if (vm->state == GODWIT__VM_STATE__VM_STATE_PAUSED && !reset)
        return wrong_state(cluster, vm, "is paused: its guest hears nothing", "resume", now,
                           problem);
    vm->ticket = ++cluster->next_ticket;
    struct cluster_order *order =
        cluster_order_vm(vm, vm->own.owner, reset ? ORDER_VM_RESET : ORDER_VM_REBOOT, now, todo);
    order->ticket = vm->ticket;
    return 0;
}

static int act_upgrade(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                       struct problem *problem, struct cluster_todo *todo)
{
    if (judge_embedded(cluster, vm, "a new QEMU comes with its next start or move", now, problem) !=
        0)
        return -1;
    if (vm->own.phase == OWN_STOPPED)
        return wrong_state(cluster, vm, "is stopped; its next start takes what is installed", NULL,
                           now, problem);
    if (vm->own.phase != OWN_RUN)
        return wrong_state(cluster, vm, "is not running", "show", now, problem);
    if (judge_owner_answers(cluster, vm, now, problem) != 0)
        return -1;
    if (vm->state == GODWIT__VM_STATE__VM_STATE_HELD)
        return wrong_state(cluster, vm, "is held by a move and goes on by itself", "show", now,
                           problem);
    vm->ticket = ++cluster->next_ticket;
    struct cluster_order *order = cluster_order_vm(vm, vm->own.owner, ORDER_UPGRADE, now, todo);
    order->ticket = vm->ticket;
    return 0;
}

/* Its host makes it before it is ever started: that it is STOPPED is no evidence that nothing is being made. */
static int judge_copy_rm(const struct cluster *cluster, const struct cluster_vm *vm,
                         struct cluster_now now, struct problem *problem)
{
    if (!dr_test_is_copy(vm) || host_answers(cluster, vm->own.owner, now) ||
        dr_host_is_gone(cluster, vm->own.owner))
        return 0;
    const struct cluster_vm *original = cluster_vm(cluster, vm->spec->test_of);
    (void)problem_set(problem, GW_HOST_DOWN,
                      "%s is a test copy on %s, which does not answer and may be making it still",
                      vm->spec->name, vm->own.owner);
    add_place(cluster, vm, now, problem);
    if (original && original->dr && dr_test_is_open(original->dr)) /* done when its host is back */
        problem_hint(problem, "godwit dr test %s --end", vm->spec->name);
    else
        problem_hint(problem, "godwit host show %s", vm->own.owner);
    return -1;
}

static int act_rm(struct cluster *cluster, struct cluster_vm *vm, bool and_stop,
                  struct cluster_now now, uint64_t *ret_ticket, struct problem *problem,
                  struct cluster_todo *todo)
{
    if (vm->own.phase != OWN_STOPPED && !and_stop)
        return wrong_state(cluster, vm, "is not stopped", "stop", now, problem);
    size_t snapshots = cluster_snapshot_count(cluster, vm);
    if (vm->dr) {
        (void)problem_set(problem, GW_VM_STATE, "%s has a replica on %s", vm->spec->name,
                          vm->dr->info->target);
        add_place(cluster, vm, now, problem);
        problem_hint(problem, "godwit dr unprotect %s", vm->spec->name);
        return -1;
    }
    if (snapshots > 0 && !vm_spec_is_libvirt(vm->spec)) { /* a domain's stay with it, libvirt's */
        (void)problem_set(problem, GW_VM_STATE, "%s has %zu snapshots, which nobody could use then",
                          vm->spec->name, snapshots);
        add_place(cluster, vm, now, problem);
        problem_hint(problem, "godwit vm rm %s --with-snapshots", vm->spec->name);
        return -1;
    }
    /* Nothing of a lost one runs. What follows records it as it is then, or takes the record away. */
    bool was_lost = own_is_lost(&vm->own);
    if (was_lost)
        own_stop(&vm->own);
    if (vm->own.phase != OWN_STOPPED || host_answers(cluster, vm->own.owner, now)) {
        int r = act_stop(cluster, vm, WANT_REMOVED, now, problem, todo);
        if (r == 0)
            todo->orders[todo->order_count - 1].was_lost = was_lost;
        else if (was_lost)
            own_lose(&vm->own);
        *ret_ticket = vm->ticket;
        return r;
    }
    /* It never ran, or its host is away: STOPPED is recorded on evidence only, so nothing runs. */
    cluster_todo_event(todo, vm->id, "VM %s removed", vm->spec->name);
    for (size_t i = 0; vm->own.owner[0] && i < vm->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = vm->spec->disks[i];
        if (!disk->read_only && disk->file && disk->file[0])
            cluster_todo_event(todo, vm->id, "%s does not answer: disk %.40s of %s stays there, %.100s/%.80s",
                               vm->own.owner, disk->name, vm->spec->name,
                               disk->store ? disk->store : "", disk->file);
    }
    struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_VM);
    put->revision = vm->revision;
    put->own_revision = vm->own_revision;
    WORDS_COPY(put->key, vm->id);
    cluster_drop_vm(cluster, vm);
    struct cluster_answer *answer = cluster_todo_answer(todo);
    answer->ticket = *ret_ticket = ++cluster->next_ticket;
    return 0;
}

int cluster_remove_made(struct cluster *cluster, struct cluster_vm *vm, bool has_disks,
                        struct cluster_now now, uint64_t *ret_ticket, struct problem *problem,
                        struct cluster_todo *todo)
{
    if (!has_disks || vm->own.phase != OWN_STOPPED || host_answers(cluster, vm->own.owner, now))
        return cluster_act(cluster, vm->id, GODWIT__VM_VERB__VM_VERB_RM, false, now, ret_ticket,
                           problem, todo);
    vm->want = WANT_REMOVED;
    (void)snprintf(vm->reason, sizeof vm->reason,
                   "not made whole: it is removed with its disks once %.64s is back", vm->own.owner);
    cluster_put_own(vm, now, todo);
    cluster_todo_event(todo, vm->id, "VM %s was not made whole and %s does not answer: it is removed with its "
                                     "disks once that is back",
                       vm->spec->name, vm->own.owner);
    return CLUSTER_REMOVED_LATER;
}

/* A removal whose host went away before it was done: its record is all that knows of its disks. */
static void remove_later(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                         struct cluster_todo *todo)
{
    if (vm->want != WANT_REMOVED || vm->own.phase != OWN_STOPPED || vm->ticket || vm->job || vm->dr ||
        vm->disk_move || !host_answers(cluster, vm->own.owner, now) ||
        (vm->remove_ns && now.ns - vm->remove_ns < REMOVE_AGAIN_MS * NS_PER_MS))
        return;
    if (cluster_snapshot_count(cluster, vm) > 0 && !vm_spec_is_libvirt(vm->spec)) {
        WORDS_COPY(vm->reason, "it is removed once its snapshots are: nobody could use them then");
        return;
    }
    vm->remove_ns = now.ns;
    vm->ticket = ++cluster->next_ticket; /* nothing else is done to it meanwhile */
    struct cluster_order *order = cluster_order_vm(vm, vm->own.owner, ORDER_STOP, now, todo);
    order->ticket = vm->ticket;
    order->remove = order->is_late = true;
}

void cluster_ask_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo)
{
    for (size_t i = 0; i < cluster->vm_count && !cluster_is_restored(cluster, NULL, 0); i++)
        remove_later(cluster, cluster->vms[i], now, todo);
}

int cluster_act(struct cluster *cluster, const char *word, Godwit__VmVerb verb, bool and_stop,
                struct cluster_now now, uint64_t *ret_ticket, struct problem *problem,
                struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_find_vm(cluster, word, problem);
    if (vm && verb == GODWIT__VM_VERB__VM_VERB_STOP && may_end_start(vm))
        return end_start(cluster, vm, now, ret_ticket, problem, todo);
    if (!vm || cluster_judge_free(cluster, vm, now, problem) != 0)
        return -1;
    if (verb == GODWIT__VM_VERB__VM_VERB_RM && judge_copy_rm(cluster, vm, now, problem) != 0)
        return -1;
    int r = -1;
    if (own_is_lost(&vm->own) && verb == GODWIT__VM_VERB__VM_VERB_STOP) {
        stop_lost(cluster, vm, now, ret_ticket, todo);
        return 0;
    }
    switch (verb) {
    case GODWIT__VM_VERB__VM_VERB_START:
        r = act_start(cluster, vm, now, problem, todo);
        break;
    case GODWIT__VM_VERB__VM_VERB_STOP:
        r = vm->own.phase == OWN_STOPPED && !vm->suspended[0]
                ? wrong_state(cluster, vm, "is stopped already", NULL, now, problem)
                : act_stop(cluster, vm, WANT_STOPPED, now, problem, todo);
        break;
    case GODWIT__VM_VERB__VM_VERB_PAUSE:
    case GODWIT__VM_VERB__VM_VERB_RESUME:
        r = act_pause(cluster, vm, verb == GODWIT__VM_VERB__VM_VERB_PAUSE, now, problem, todo);
        break;
    case GODWIT__VM_VERB__VM_VERB_POWER_BUTTON:
        r = act_power_button(cluster, vm, now, problem, todo);
        break;
    case GODWIT__VM_VERB__VM_VERB_REBOOT:
    case GODWIT__VM_VERB__VM_VERB_RESET:
        r = act_reboot(cluster, vm, verb == GODWIT__VM_VERB__VM_VERB_RESET, now, problem, todo);
        break;
    case GODWIT__VM_VERB__VM_VERB_SUSPEND:
        r = act_suspend(cluster, vm, now, problem, todo);
        break;
    case GODWIT__VM_VERB__VM_VERB_UPGRADE:
        r = act_upgrade(cluster, vm, now, problem, todo);
        break;
    case GODWIT__VM_VERB__VM_VERB_RM:
        return act_rm(cluster, vm, and_stop, now, ret_ticket, problem, todo);
    case GODWIT__VM_VERB__VM_VERB_RESTORE: /* cluster_snapshot's */
    case _GODWIT__VM_VERB_IS_INT_SIZE:
    default: /* a number from the wire */
        return problem_set(problem, GW_USAGE, "nothing known can be done to a VM by verb %d",
                           (int)verb);
    }
    if (r == 0)
        *ret_ticket = vm->ticket;
    return r;
}

/* ---- migrate ----------------------------------------------------------------------------------
 */

static int judge_local_disks(struct cluster *cluster, const struct cluster_vm *vm,
                             bool with_local_disks, struct cluster_now now, struct problem *problem)
{
    const Godwit__DiskSpec *tying = vm_spec_tying_disk(vm->spec);
    if (!tying)
        return 0;
    const Godwit__DiskSpec *bare = NULL; /* given by its path */
    bool is_measured = true;
    for (size_t i = 0; i < vm->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = vm->spec->disks[i];
        bool moves = !disk->read_only && !vm_spec_disk_is_shared(disk);
        if (moves && !(disk->store && disk->store[0]))
            bare = disk;
        is_measured = is_measured && (!moves || vm->disk_bytes[i]);
    }
    if (with_local_disks && !bare && is_measured)
        return 0;
    if (with_local_disks && !bare) {
        (void)problem_set(problem, GW_VM_BUSY, "%s has not told yet how large the disks of %s are",
                          vm->own.owner, vm->spec->name);
    } else if (with_local_disks) {
        (void)problem_set(problem, GW_DISK_NOT_SHARED,
                          "disk %s of %s is given by its path; with its VM a disk moves when it "
                          "lies in a store",
                          bare->name, vm->spec->name);
        problem_hint(problem, "describe it by store: and file: instead of path:");
    } else {
        (void)problem_set(problem, GW_DISK_NOT_SHARED, "%s writes disk %s, which only %s has",
                          vm->spec->name, tying->name, vm->own.owner);
        problem_hint(problem, bare ? "put it into a store that both hosts see, with shared: true"
                                   : "--with-local-disks moves its disks too");
    }
    add_place(cluster, vm, now, problem);
    return -1;
}

/* Its source is asked as well (preflight): this is what is known before, for plans too. */
static int judge_domain(const struct cluster *cluster, const struct cluster_vm *vm,
                        struct problem *problem)
{
    size_t count = vm_spec_is_libvirt(vm->spec) ? cluster_snapshot_count_here(cluster, vm) : 0;
    if (count == 0)
        return 0;
    (void)problem_set(problem, GW_VM_STATE,
                      "libvirt moves no domain that has snapshots, for what it knows of them would be lost; %s has "
                      "%zu on %s",
                      vm->spec->name, count, vm->own.owner);
    problem_hint(problem, "godwit vm snapshot ls %s", vm->spec->name);
    return -1;
}

static int judge_movable(struct cluster *cluster, struct cluster_vm *vm, bool with_local_disks,
                         struct cluster_now now, struct problem *problem)
{
    if (cluster_judge_free(cluster, vm, now, problem) != 0)
        return -1;
    if (vm->own.phase == OWN_STOPPED)
        return wrong_state(cluster, vm, "is stopped; only a running VM can move", "start", now,
                           problem);
    if (vm->own.phase != OWN_RUN)
        return wrong_state(cluster, vm, "is being started; its host has not answered yet", "show",
                           now, problem);
    if (vm->want != WANT_RUNNING)
        return wrong_state(cluster, vm, "is being stopped", "show", now, problem);
    if (judge_owner_answers(cluster, vm, now, problem) != 0)
        return -1;
    if (vm->state == GODWIT__VM_STATE__VM_STATE_HELD)
        return wrong_state(cluster, vm, "is held by an earlier move", "show", now, problem);
    if (judge_domain(cluster, vm, problem) != 0)
        return -1;
    return judge_local_disks(cluster, vm, with_local_disks, now, problem);
}

int cluster_may_move(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                     struct problem *problem)
{
    return judge_movable(cluster, vm, false, now, problem);
}

static int judge_goals(const Godwit__MoveGoals *goals, struct problem *problem)
{
    if (!goals)
        return 0;
    if (judge_word(goals->policy, policies, ARRAY_COUNT(policies), "policy", GW_USAGE, problem) ||
        judge_word(goals->compress, compressions, ARRAY_COUNT(compressions), "compression",
                   GW_USAGE, problem) ||
        judge_word(goals->delta, deltas, ARRAY_COUNT(deltas), "way with deltas", GW_USAGE,
                   problem) ||
        judge_word(goals->mode, modes, ARRAY_COUNT(modes), "mode", GW_USAGE, problem))
        return -1;
    if (goals->postcopy && (goals->verify_reread || goals->with_local_disks)) {
        (void)problem_set(problem, GW_USAGE,
                          "--postcopy goes without %s; the VM stays as it is",
                          goals->verify_reread ? "--verify" : "--with-local-disks");
        problem_hint(problem,
                     "instead of --postcopy, --policy finish slows a guest that writes too fast");
        return -1;
    }
    if (goals->postcopy && goals->no_postcopy)
        return problem_set(problem, GW_USAGE, "--postcopy and --no-postcopy exclude each other");
    if (goals->postcopy && goals->lanes > LANES_MAX - 2)
        return problem_set(problem, GW_USAGE,
                           "%u lanes, beside a post-copy's own two %d are possible", goals->lanes,
                           LANES_MAX - 2);
    if (goals->away_ms_max > AWAY_MS_LONGEST)
        return problem_set(problem, GW_USAGE, "lost connections may stay away for %d s at most",
                           AWAY_MS_LONGEST / 1000);
    if (goals->lanes > LANES_MAX)
        return problem_set(problem, GW_USAGE, "%u lanes, possible are 1 to %d", goals->lanes,
                           LANES_MAX);
    return 0;
}

/* What a VM has that excludes what was ordered. */
static int judge_postcopy(const Godwit__MoveGoals *goals, const Godwit__VmSpec *spec,
                          struct problem *problem)
{
    const char *refusal = goals && goals->postcopy ? post_policy_refusal(goals, spec) : NULL;
    if (!refusal)
        return 0;
    (void)problem_set(problem, GW_NO_POSTCOPY, "no post-copy of %s: %s", spec->name, refusal);
    problem_hint(problem, "it moves without --postcopy");
    return -1;
}

static int choose_target(struct cluster *cluster, struct cluster_vm *vm,
                         const struct cluster_move_ask *move, struct cluster_now now,
                         struct cluster_host **ret_host, struct problem *problem)
{
    const char *to = move->to;
    struct cluster_host *wanted = NULL;
    if (to && to[0] && strcmp(to, "auto") != 0) {
        wanted = cluster_find_host(cluster, to, problem);
        if (!wanted)
            return -1;
    }
    const struct cluster_host *source = cluster_host(cluster, vm->own.owner);
    struct planner_ask ask = {
        .vm_name = vm->spec->name,
        .spec = vm->spec,
        .cpu_vendor = source && source->facts ? source->facts->cpu_vendor : NULL,
        .baseline = vm->spec->cpu->baseline,
        .memory_bytes = vm->spec->memory->size,
        .postcopy = move->goals && move->goals->postcopy,
        .not_on = vm->own.owner,
        .only_on = wanted ? wanted->name : NULL,
        .avoid = move->avoid,
        .avoid_count = move->avoid_count,
        .landing_bytes =
            move->goals && move->goals->with_local_disks ? vm->disk_bytes : NULL,
    };
    if (choose_host(cluster, &ask, now, ret_host, problem) == 0)
        return 0;
    if (!problem)
        return -1;
    if (problem->code == GW_SAME_HOST)
        (void)snprintf(problem->text, sizeof problem->text, "%s already runs on %s", vm->spec->name,
                       vm->own.owner);
    problem_detail(problem, "guest uses  %llu MiB of memory, CPU baseline %s",
                   (unsigned long long)(vm->spec->memory->size >> 20), vm->spec->cpu->baseline);
    return -1;
}

/* Its replica is there: what would arrive are the files that it writes. */
static int judge_replica(const struct cluster_vm *vm, const struct cluster_host *target,
                         struct problem *problem)
{
    const struct cluster_dr *dr = vm->dr;
    if (!dr || dr_step_is(dr, "away") || strcmp(dr->info->target, target->name) != 0)
        return 0;
    (void)problem_set(problem, GW_DR_STATE, "%s has the replica of %s", target->name,
                      vm->spec->name);
    problem_hint(problem, "godwit dr failover %s --planned", vm->spec->name);
    return -1;
}

/* What the order does not say comes from the VM's own description. */
static Godwit__MoveGoals *complete_goals(const Godwit__MoveGoals *given, const Godwit__VmSpec *spec)
{
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    if (given)
        goals = *given;
    const Godwit__MigrationSpec *migration = spec->migration;
    if (!goals.downtime_ns_max && migration && migration->max_downtime_ms) {
        goals.has_downtime_ns_max = true;
        goals.downtime_ns_max = migration->max_downtime_ms * NS_PER_MS;
    }
    if ((!goals.policy || !goals.policy[0]) && migration)
        goals.policy = migration->policy;
    goals.has_postcopy_late = true; /* nobody else's to say */
    goals.postcopy_late = post_policy_is_late(&goals, spec);
    return cluster_message_copy(&goals.base);
}

/* Only where somebody may count on it, or has to know what he risks. */
static void note_postcopy(struct cluster_job *job, const Godwit__VmSpec *spec,
                          const struct cluster_host *target)
{
    const Godwit__MoveGoals *goals = job->goals;
    char *note = job->notes[job->note_count];
    size_t size = sizeof job->notes[0];
    const char *refusal = post_policy_refusal(goals, spec);
    const char *of_host = target->facts ? target->facts->postcopy_refused : NULL;
    if (!goals->policy || strcmp(goals->policy, "finish") != 0 || goals->postcopy ||
        job->note_count == CLUSTER_NOTES_MAX)
        return;
    if (refusal)
        (void)snprintf(note, size, "policy finish without post-copy: %s", refusal);
    else if (of_host && of_host[0])
        (void)snprintf(note, size, "policy finish without post-copy: %s: %.150s", target->name,
                       of_host);
    else
        (void)snprintf(note, size,
                       "policy finish: if rounds lead nowhere its memory follows after the guest "
                       "(post-copy); a host lost meanwhile ends the VM; --no-postcopy forbids it");
    job->note_count++;
}

static void fill_job(struct cluster_job *job, const struct cluster_vm *vm,
                     const struct cluster_host *target, const struct cluster_move_ask *ask,
                     struct cluster_now now)
{
    struct job_core *core = &job->core;
    job_core_init(core, now.ns);
    WORDS_COPY(core->id, ask->job_id);
    WORDS_COPY(core->move_id, ask->move_id);
    WORDS_COPY(core->vm_id, vm->id);
    WORDS_COPY(core->source_host, vm->own.owner);
    WORDS_COPY(core->target_host, target->name);
    core->source_generation = vm->own.gen;
    core->generation = vm->own.hiwater + 1;
    WORDS_COPY(job->vm_name, vm->spec->name);
    WORDS_COPY(job->plan_id, ask->plan_id ? ask->plan_id : "");
    WORDS_COPY(job->reason, ask->reason ? ask->reason : "");
    job->created_unix_ms = now.unix_ms;
    job->vcpus = vm->spec->cpu->vcpus;
    job->memory_bytes = vm->spec->memory->size;
    (void)snprintf(job->notes[job->note_count++], sizeof job->notes[0],
                   "%s gives %s and has %llu MiB of memory free", target->name,
                   vm->spec->cpu->baseline, (unsigned long long)(target->memory_free_bytes >> 20));
}

static void drop_oldest_jobs(struct cluster *cluster, struct cluster_todo *todo)
{
    for (size_t i = 0; cluster->job_count > CLUSTER_JOBS_KEPT && i < cluster->job_count;) {
        struct cluster_job *job = cluster->jobs[i];
        if (job_core_is_active(&job->core)) {
            i++;
            continue;
        }
        struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_JOB);
        put->revision = job->revision;
        WORDS_COPY(put->key, job->core.id);
        cluster_drop_job(cluster, job);
    }
}

static void note_snapshots(const struct cluster *cluster, const struct cluster_vm *vm,
                           struct cluster_job *job)
{
    size_t count = cluster_snapshot_count(cluster, vm);
    char words[CLUSTER_REASON_SIZE];
    if (count == 0)
        return;
    (void)snprintf(words, sizeof words,
                   "its %zu snapshots stay where they lie: each is restored when %s is back on "
                   "that host",
                   count, vm->spec->name);
    cluster_job_note(job, words);
}

int cluster_migrate(struct cluster *cluster, const struct cluster_move_ask *ask,
                    struct cluster_now now, struct cluster_job **ret_job, struct problem *problem,
                    struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_find_vm(cluster, ask->vm, problem);
    struct cluster_host *target = NULL;
    if (!vm)
        return -1;
    bool with_local_disks = ask->goals && ask->goals->with_local_disks;
    if (judge_goals(ask->goals, problem) != 0 ||
        judge_movable(cluster, vm, with_local_disks, now, problem) != 0 ||
        judge_postcopy(ask->goals, vm->spec, problem) != 0 ||
        choose_target(cluster, vm, ask, now, &target, problem) != 0 ||
        judge_replica(vm, target, problem) != 0) {
        add_place(cluster, vm, now, problem);
        return -1;
    }

    Godwit__MoveGoals *goals = complete_goals(ask->goals, vm->spec);
    struct cluster_job *job = !goals         ? NULL
                              : ask->dry_run ? calloc(1, sizeof *job)
                                             : cluster_add_job(cluster, ask->job_id);
    if (!job) {
        if (goals)
            godwit__move_goals__free_unpacked(goals, NULL);
        return problem_set(problem, GW_INTERNAL, "no memory for a job");
    }
    job->goals = goals;
    job->core.may_postcopy = post_policy_may(goals);
    fill_job(job, vm, target, ask, now);
    note_postcopy(job, vm->spec, target);
    cluster_forecast_job(cluster, vm, job);
    note_snapshots(cluster, vm, job);
    *ret_job = job;
    if (ask->dry_run)
        return 0;

    /* One transaction: the record's hand-over and the job that will end it. */
    own_hand_over(&vm->own, target->name, ask->move_id);
    assert(vm->own.hiwater == job->core.generation);
    vm->job = job;
    cluster_put_own(vm, now, todo);
    cluster_todo_event(todo, vm->id, "job %s: move of %s from %s to %s begins", job->core.id,
                       job->vm_name, job->core.source_host, job->core.target_host);
    struct job_event event = {.now_ns = now.ns, .type = JOB_EVENT_BEGIN};
    cluster_step_job(cluster, job, &event, now, todo);
    drop_oldest_jobs(cluster, todo);
    return 0;
}

static Godwit__MoveGoals *merge_goals(const Godwit__MoveGoals *old, const Godwit__MoveGoals *given)
{
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    if (old)
        goals = *old;
    if (given->has_downtime_ns_max) {
        goals.has_downtime_ns_max = true;
        goals.downtime_ns_max = given->downtime_ns_max;
    }
    if (given->has_deadline_ms) {
        goals.has_deadline_ms = true;
        goals.deadline_ms = given->deadline_ms;
    }
    if (given->has_bandwidth_bytes_per_s) {
        goals.has_bandwidth_bytes_per_s = true;
        goals.bandwidth_bytes_per_s = given->bandwidth_bytes_per_s;
    }
    if (given->policy && given->policy[0])
        goals.policy = given->policy;
    return cluster_message_copy(&goals.base);
}

int cluster_set_goals(struct cluster *cluster, const char *word, const Godwit__MoveGoals *goals,
                      struct cluster_now now, struct cluster_job **ret_job, struct problem *problem,
                      struct cluster_todo *todo)
{
    struct cluster_job *job = cluster_find_job(cluster, word, problem);
    if (!job || judge_goals(goals, problem) != 0)
        return -1;
    if (!job_core_is_active(&job->core)) {
        (void)problem_set(problem, GW_JOB_ENDED, "job %s is over: %s", job->core.id,
                          job_state_name(job->core.state));
        problem_hint(problem, "godwit job report %s", job->core.id);
        return -1;
    }
    if (job->core.step != JOB_PREPARE && job->core.step != JOB_MOVE) {
        (void)problem_set(problem, GW_JOB_TOO_LATE, "job %s no longer reads its goals",
                          job->core.id);
        problem_hint(problem, "godwit job watch %s", job->core.id);
        return -1;
    }
    Godwit__MoveGoals *merged = merge_goals(job->goals, goals);
    if (!merged)
        return problem_set(problem, GW_INTERNAL, "no memory for goals");
    if (job->goals)
        godwit__move_goals__free_unpacked(job->goals, NULL);
    job->goals = merged;
    *ret_job = job;
    cluster_todo_event(todo, job->core.vm_id, "job %s: other goals", job->core.id);
    cluster_tune_job(job, now, todo);
    return 0;
}

int cluster_cancel(struct cluster *cluster, const char *word, struct cluster_now now,
                   struct cluster_job **ret_job, struct problem *problem, struct cluster_todo *todo)
{
    struct cluster_job *job = cluster_find_job(cluster, word, problem);
    if (!job)
        return -1;
    const struct cluster_vm *vm = cluster_vm(cluster, job->core.vm_id);
    if (!job_core_is_active(&job->core)) {
        (void)problem_set(problem, GW_JOB_ENDED, "job %s is over: %s", job->core.id,
                          job_state_name(job->core.state));
        problem_hint(problem, "godwit job report %s", job->core.id);
    } else if (job_core_is_past_commit(&job->core)) {
        (void)problem_set(problem, GW_JOB_TOO_LATE,
                          "job %s is past its commit point; %s goes on to %s", job->core.id,
                          job->vm_name, job->core.target_host);
        problem_hint(problem, "godwit job watch %s", job->core.id);
    } else {
        *ret_job = job;
        struct job_event event = {.now_ns = now.ns, .type = JOB_EVENT_CANCEL};
        cluster_step_job(cluster, job, &event, now, todo);
        return 0;
    }
    if (vm)
        add_place(cluster, vm, now, problem);
    return -1;
}
