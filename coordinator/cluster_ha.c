#include "coordinator/cluster_ha.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/admission.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_found.h"
#include "coordinator/cluster_unheard.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_test.h"
#include "coordinator/fence_options.h"
#include "coordinator/planner.h"
#include "coordinator/rows.h"
#include "coordinator/words.h"
#include "proto/limits.h"

enum { STARTS_A_TICK = 16, LOST_A_TICK = 32, PROBES_AT_ONCE = 2 };

static bool is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static void put_fence(struct cluster_host *host, struct cluster_todo *todo)
{
    struct cluster_put *put = cluster_todo_put(todo, PUT_FENCE);
    put->object = host;
    put->revision = host->fence_revision++;
}

static void put_setting(struct cluster *cluster, enum cluster_setting setting, const char *value,
                        struct cluster_todo *todo)
{
    struct cluster_setting_row *row = &cluster->settings[setting];
    WORDS_COPY(row->value, value);
    struct cluster_put *put = cluster_todo_put(todo, PUT_SETTING);
    put->object = row;
    put->revision = row->revision++;
    WORDS_COPY(put->key, rows_setting_name(setting));
}

/* ---- views ------------------------------------------------------------------------------------
 */

bool cluster_ha_protects(const struct cluster_vm *vm)
{
    return vm->spec->ha && vm->spec->ha->restart;
}

uint32_t cluster_ha_priority(const struct cluster_vm *vm)
{
    return vm->spec->ha && vm->spec->ha->has_priority ? vm->spec->ha->priority
                                                      : HA_PRIORITY_DEFAULT;
}

bool cluster_ha_is_armed(const struct cluster *cluster, uint64_t now_unix_ms)
{
    const char *until = cluster->settings[SETTING_HA_DISARMED].value;
    if (cluster_is_restored(cluster, NULL, 0))
        return false; /* what it would restart may run */
    return !until[0] || now_unix_ms >= strtoull(until, NULL, 10);
}

unsigned cluster_ha_reserve(const struct cluster *cluster)
{
    const char *value = cluster->settings[SETTING_HA_RESERVE].value;
    return value[0] ? (unsigned)strtoul(value, NULL, 10) : 1;
}

bool cluster_ha_may_run_on(const struct cluster_host *host)
{
    return ha_core_may_run(&host->ha);
}

static bool is_up(const struct cluster_host *host, uint64_t now_ns)
{
    return host->link_up && host->facts && cluster_host_state(host, now_ns) != HOST_DOWN &&
           ha_core_may_run(&host->ha);
}

static const char *store_of(const struct cluster_host *host)
{
    return host->facts && host->facts->heartbeat_store ? host->facts->heartbeat_store : "";
}

/* A host that is up and writes its heartbeats to the same folder; NULL: none. */
static const struct cluster_host *storage_peer(const struct cluster *cluster,
                                               const struct cluster_host *host, uint64_t now_ns)
{
    for (size_t i = 0; store_of(host)[0] && i < cluster->host_count; i++) {
        const struct cluster_host *peer = cluster->hosts[i];
        if (peer != host && is_same(store_of(peer), store_of(host)) &&
            (now_ns == 0 || is_up(peer, now_ns)))
            return peer;
    }
    return NULL;
}

bool cluster_ha_has_storage(const struct cluster *cluster, const struct cluster_host *host)
{
    return storage_peer(cluster, host, 0) != NULL;
}

void cluster_ha_classes(const struct cluster *cluster, const struct cluster_host *host,
                        char *ret_text, size_t size)
{
    bool storage = cluster_ha_has_storage(cluster, host), power = host->fence_agent[0] != '\0';
    (void)snprintf(ret_text, size, "%s%s%s%s", storage ? "F1" : "", storage && power ? " " : "",
                   power ? "F2" : "", storage || power ? "" : "F0");
}

/* ---- hosts ------------------------------------------------------------------------------------
 */

static bool is_in_question(const struct ha_core *core, uint64_t now_ns)
{
    bool counts = core->phase == HA_SUSPECT || core->phase == HA_HELD || core->phase == HA_FENCING;
    return counts && now_ns - core->suspect_ns < HA_STORM_MS * NS_PER_MS;
}

static bool is_storm(const struct cluster *cluster, uint64_t now_ns)
{
    size_t count = 0;
    for (size_t i = 0; i < cluster->host_count; i++)
        count += is_in_question(&cluster->hosts[i]->ha, now_ns);
    return count > 1 + cluster->host_count * HA_STORM_PERCENT / 100;
}

static unsigned count_up(const struct cluster *cluster, uint64_t now_ns)
{
    unsigned count = 0;
    for (size_t i = 0; i < cluster->host_count; i++)
        count += is_up(cluster->hosts[i], now_ns);
    return count;
}

/* `hosts_up`, with it, and `storm` are counted once for all hosts. */
static struct ha_view view_of(const struct cluster *cluster, const struct cluster_host *host,
                              struct cluster_now now, unsigned hosts_up, bool storm)
{
    bool is_asked = host->ha.phase != HA_WELL; /* whether it could be fenced, and how */
    struct ha_view view = {
        .now_ns = now.ns,
        .seen_ns = host->seen_ns,
        .began_ns = cluster->began_ns,
        .link_up = host->link_up,
        .is_armed = cluster_ha_is_armed(cluster, now.unix_ms),
        .has_storage = is_asked && storage_peer(cluster, host, now.ns) != NULL,
        .has_power = host->fence_agent[0] != '\0',
        .peers_up = hosts_up - is_up(host, now.ns),
        .storm = storm,
    };
    if (host->facts && host->facts->incarnation)
        WORDS_COPY(view.incarnation, host->facts->incarnation);
    return view;
}

static struct cluster_order *host_order(const char *host, const struct cluster_host *about,
                                        enum cluster_order_kind kind, struct cluster_now now,
                                        struct cluster_todo *todo)
{
    struct cluster_order *order = cluster_todo_order(todo, kind);
    WORDS_COPY(order->host, host);
    WORDS_COPY(order->about, about->name);
    WORDS_COPY(order->incarnation, about->ha.incarnation);
    order->asked_ns = now.ns;
    return order;
}

/* Two that share its store, if there are such: they can tell of both ways to it. */
static void order_probes(struct cluster *cluster, const struct cluster_host *host,
                         struct cluster_now now, struct cluster_todo *todo)
{
    unsigned asked = 0;
    for (int with_store = 1; with_store >= 0; with_store--) {
        for (size_t i = 0; i < cluster->host_count && asked < PROBES_AT_ONCE; i++) {
            const struct cluster_host *peer = cluster->hosts[i];
            bool shares = store_of(host)[0] && is_same(store_of(peer), store_of(host));
            if (peer == host || !is_up(peer, now.ns) || shares != (with_store == 1))
                continue;
            (void)host_order(peer->name, host, ORDER_PROBE, now, todo);
            asked++;
        }
    }
}

static void alert(struct cluster *cluster, const struct cluster_host *host, unsigned bit,
                  struct cluster_todo *todo)
{
    char text[CLUSTER_REASON_SIZE + 3 * OWN_HOST_SIZE];
    if (bit == HA_TODO_HELD)
        (void)snprintf(text, sizeof text,
                       "%s does not answer and cannot be fenced from here; when it is down for "
                       "certain: godwit host fence %s --confirm-down %s",
                       host->name, host->name, host->name);
    else if (bit == HA_TODO_BRAKE)
        (void)snprintf(text, sizeof text,
                       "%s and others do not answer at once; nothing is fenced, for it may be the "
                       "network: godwit ha status",
                       host->name);
    else
        (void)snprintf(
            text, sizeof text,
            "%s is cut off from the coordinator, but others see it alive; its VMs run on",
            host->name);
    cluster_warn(cluster, host->name, text);
    cluster_todo_event(todo, "", "alert: %s", text);
}

static void forget_word_of(struct cluster *cluster, struct cluster_host *host)
{
    cluster_clear_warnings(cluster, host->name);
}

static void order_fencing(struct cluster *cluster, struct cluster_host *host, unsigned bits,
                          struct cluster_now now, struct cluster_todo *todo)
{
    if (bits & HA_TODO_EVICT) {
        const struct cluster_host *peer = storage_peer(cluster, host, now.ns);
        assert(peer); /* ha_view said so */
        cluster_todo_event(todo, "", "fencing %s (life %.8s): F1, by word on the store over %s",
                           host->name, host->ha.incarnation, peer->name);
        (void)host_order(peer->name, host, ORDER_EVICT, now, todo);
    }
    if (bits & HA_TODO_POWER) {
        cluster_todo_event(todo, "", "fencing %s (life %.8s): F2, %s off", host->name,
                           host->ha.incarnation, host->fence_agent);
        (void)host_order("", host, ORDER_FENCE, now, todo);
    }
}

static void carry_out(struct cluster *cluster, struct cluster_host *host, unsigned bits,
                      struct cluster_now now, struct cluster_todo *todo)
{
    if (bits & HA_TODO_STORE)
        put_fence(host, todo);
    if (bits & HA_TODO_PROBE)
        order_probes(cluster, host, now, todo);
    order_fencing(cluster, host, bits, now, todo);
    for (unsigned bit = HA_TODO_HELD; bit <= HA_TODO_CUT_OFF; bit <<= 1) {
        if (bits & bit)
            alert(cluster, host, bit, todo);
    }
    if (bits & HA_TODO_FENCED) {
        log_warn("cluster_ha", "host is fenced host=%s class=%s life=%.8s", host->name,
                 ha_class_name(host->ha.fenced_by), host->ha.incarnation);
        cluster_todo_event(todo, "", "%s is fenced (%s): what it ran is lost", host->name,
                           ha_class_name(host->ha.fenced_by));
        forget_word_of(cluster, host);
    }
    if (bits & HA_TODO_BACK) {
        cluster_todo_event(todo, "", "%s is back", host->name);
        forget_word_of(cluster, host);
    }
}

/* ---- VMs --------------------------------------------------------------------------------------
 */

void cluster_ha_started(struct cluster_vm *vm, struct cluster_now now)
{
    vm->ha_since_ns = now.ns;
    vm->ha_starts = false;
}

void cluster_ha_end_vm(struct cluster *cluster, struct cluster_vm *vm, bool crashed,
                       struct cluster_now now, struct cluster_todo *todo)
{
    bool was_steady = vm->ha_since_ns && now.ns - vm->ha_since_ns >= HA_STEADY_MS * NS_PER_MS;
    bool wanted = cluster_ha_protects(vm) && vm->want == WANT_RUNNING && (crashed || vm->ha_starts);
    (void)cluster;
    if (was_steady)
        vm->ha_tries = 0;
    vm->ha_starts = false;
    vm->ha_since_ns = 0;
    if (wanted && vm->ha_tries >= HA_TRIES_MAX) {
        cluster_todo_event(todo, vm->id, "alert: VM %s was started %u times in vain and stays down",
                           vm->spec->name, vm->ha_tries);
        wanted = false;
    }
    if (wanted) {
        own_lose(&vm->own);
        vm->ha_next_ns = now.ns + ha_back_off_ns(vm->ha_tries);
    } else {
        own_stop(&vm->own);
    }
    cluster_put_own(vm, now, todo);
}

/* Its records are told that what it ran is gone; some at a time. Those that nothing comes of (a move that knows it, and waits
 * for its other end) cost nothing, or they would keep the others waiting as long as they wait. */
static void lose_all_of(struct cluster *cluster, struct cluster_host *host, unsigned *budget,
                        struct cluster_now now, struct cluster_todo *todo)
{
    for (size_t i = cluster->vm_count; i-- > 0 && *budget > 0;) {
        struct cluster_vm *vm = cluster->vms[i];
        bool named = is_same(vm->own.owner, host->name) || is_same(vm->own.target, host->name);
        bool in_job = vm->job && (is_same(vm->job->core.source_host, host->name) ||
                                  is_same(vm->job->core.target_host, host->name));
        if (in_job || (named && vm->own.phase != OWN_STOPPED && !own_is_lost(&vm->own))) {
            size_t before = todo->put_count;
            if (vm->own.phase == OWN_RUN)
                vm->ha_tries = 0; /* the host's fault, not the VM's */
            cluster_vm_is_gone(cluster, host, vm, now, todo);
            *budget -= todo->put_count > before;
        }
    }
}

static bool is_ready(const struct cluster_vm *vm, struct cluster_now now)
{
    return own_is_lost(&vm->own) && !vm->job && !vm->ticket && now.ns >= vm->ha_next_ns &&
           !dr_is_acting(vm);
}

/* Groups: as long as one of a higher priority is about to start, lower ones wait. */
static uint32_t first_group(const struct cluster *cluster, struct cluster_now now)
{
    uint32_t first = 0;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const struct cluster_vm *vm = cluster->vms[i];
        bool counts = is_ready(vm, now) || (vm->own.phase == OWN_STARTING && vm->ha_starts);
        if (counts && cluster_ha_priority(vm) > first)
            first = cluster_ha_priority(vm);
    }
    return first;
}

static void start_again(struct cluster *cluster, struct cluster_vm *vm, struct cluster_now now,
                        struct cluster_todo *todo)
{
    struct problem problem = {0};
    struct cluster_host *host = NULL;
    int permitted = dr_peer_judge_start(vm, now, &problem);
    bool was_tried_enough = vm->ha_tries > 0 && vm->ha_tries % HA_TRIES_A_HOST == 0;
    const char *not_on = was_tried_enough ? vm->own.owner : NULL;
    host = cluster_found_where(cluster, vm); /* by hand, meanwhile: there it is, and only there */
    int r = permitted != 0 ? permitted
            : host         ? 0
                           : cluster_choose_host(cluster, vm, not_on, now, &host, &problem);
    if (permitted == 0 && r != 0 && not_on)
        r = cluster_choose_host(cluster, vm, NULL, now, &host, &problem);
    if (r == 0)
        r = cluster_found_judge_start(cluster, vm, host->name, &problem);
    if (r == 0 && !dr_lets_start(vm, host->name)) {
        const struct cluster_start_ask there = {.only_on = vm->dr->info->source};
        r = cluster_choose_start(cluster, vm, &there, now, &host, &problem);
        if (r != 0)
            (void)problem_set(&problem, GW_DR_STATE,
                              "its replica on %s is taken by: godwit dr failover %s",
                              vm->dr->info->target, vm->spec->name);
    }
    if (r != 0) { /* no try: it waits for room */
        vm->ha_next_ns = now.ns + NS_PER_S;
        if (!is_same(vm->reason, problem.text)) {
            WORDS_COPY(vm->reason, problem.text);
            cluster_put_own(vm, now, todo);
            cluster_todo_event(todo, vm->id, "VM %s waits to be started again: %s", vm->spec->name,
                               problem.text);
        }
        return;
    }
    vm->ha_tries++;
    vm->ha_starts = true;
    vm->start_ns = now.ns;
    own_restart(&vm->own, host->name,
                host->facts && host->facts->incarnation ? host->facts->incarnation : "");
    cluster_put_own(vm, now, todo);
    cluster_todo_event(todo, vm->id, "VM %s is started again on %s as generation %llu (try %u)",
                       vm->spec->name, host->name, (unsigned long long)vm->own.gen, vm->ha_tries);
    log_warn("cluster_ha", "starting again vm=%s host=%s generation=%llu try=%u", vm->spec->name,
             host->name, (unsigned long long)vm->own.gen, vm->ha_tries);
    (void)cluster_order_vm(vm, host->name, ORDER_START, now, todo);
}

/* What is lost and no longer wanted, or no longer protected, stops: nothing runs. */
static bool is_unwanted(struct cluster_vm *vm)
{
    return own_is_lost(&vm->own) && (vm->want != WANT_RUNNING || !cluster_ha_protects(vm));
}

static void start_lost(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo)
{
    if (!cluster_ha_is_armed(cluster, now.unix_ms))
        return;
    uint32_t first = first_group(cluster, now);
    unsigned started = 0;
    for (size_t i = 0; i < cluster->vm_count && started < STARTS_A_TICK; i++) {
        struct cluster_vm *vm = cluster->vms[i];
        if (is_unwanted(vm)) {
            own_stop(&vm->own);
            cluster_put_own(vm, now, todo);
        } else if (is_ready(vm, now) && cluster_ha_priority(vm) >= first) {
            start_again(cluster, vm, now, todo);
            started++;
        }
    }
}

/* ---- events -----------------------------------------------------------------------------------
 */

static void arm_when_it_is_time(struct cluster *cluster, struct cluster_now now,
                                struct cluster_todo *todo)
{
    if (!cluster->settings[SETTING_HA_DISARMED].value[0] ||
        !cluster_ha_is_armed(cluster, now.unix_ms))
        return;
    put_setting(cluster, SETTING_HA_DISARMED, "", todo);
    cluster_todo_event(todo, "", "HA is armed again: the time it was disarmed for is over");
}

void cluster_ha_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo)
{
    unsigned budget = LOST_A_TICK;
    arm_when_it_is_time(cluster, now, todo);
    bool storm = is_storm(cluster, now.ns);
    unsigned hosts_up = count_up(cluster, now.ns);
    for (size_t i = 0; i < cluster->host_count; i++) {
        struct cluster_host *host = cluster->hosts[i];
        struct ha_view view = view_of(cluster, host, now, hosts_up, storm);
        unsigned bits = ha_core_tick(&host->ha, &view);
        carry_out(cluster, host, bits, now, todo);
        if (host->ha.phase == HA_FENCED || host->ha.phase == HA_QUARANTINE)
            lose_all_of(cluster, host, &budget, now, todo);
    }
    if (budget > 0) /* else there are more, and whoever matters most may be among them: with the next tick */
        start_lost(cluster, now, todo);
}

bool cluster_ha_hello(struct cluster *cluster, struct cluster_host *host,
                      const Godwit__AgentHello *hello, struct cluster_now now,
                      struct cluster_todo *todo)
{
    unsigned bits = 0;
    const char *incarnation =
        hello->facts && hello->facts->incarnation ? hello->facts->incarnation : "";
    enum ha_hello answer = ha_core_hello(&host->ha, incarnation, now.ns, &bits);
    if (answer == HA_HELLO_QUARANTINE)
        cluster_todo_event(todo, "", "%s comes back as the life that was fenced: quarantined",
                           host->name);
    carry_out(cluster, host, bits, now, todo);
    return answer == HA_HELLO_TAKE;
}

bool cluster_ha_superseded(const struct cluster *cluster, const struct cluster_host *host,
                           const Godwit__VmStatus *status)
{
    const struct cluster_vm *vm = status->vm_id ? cluster_vm(cluster, status->vm_id) : NULL;
    if (!vm)
        return false; /* what is not understood is left alone (R9) */
    bool is_unheard = cluster_unheard_is(status); /* it may be what the record has there */
    bool is_held = status->generation == (vm->job ? vm->job->core.source_generation : 0) &&
                   status->state == GODWIT__VM_STATE__VM_STATE_HELD;
    bool serves = vm->job && is_same(vm->job->core.source_host, host->name) &&
                  (is_held || is_unheard) && job_core_needs_source(&vm->job->core);
    if (serves)
        return false; /* post-copy: the guest dies with it */
    bool is_owner = is_same(vm->own.owner, host->name) &&
                    (vm->own.gen == status->generation || is_unheard);
    bool is_held_by_record =
        is_owner && vm->own.phase != OWN_RECOVERING && vm->own.gen == vm->own.hiwater;
    return !is_held_by_record && vm->own.hiwater > status->generation;
}

void cluster_ha_order_done(struct cluster *cluster, const struct cluster_order *order,
                           const struct cluster_result *result, struct cluster_now now,
                           struct cluster_todo *todo)
{
    struct cluster_host *host = cluster_host(cluster, order->about);
    if (!host)
        return;
    if (order->kind == ORDER_PROBE) {
        if (!result->fault) /* a peer that did not answer tells nothing of the host */
            ha_core_probed(&host->ha, result->confirmed, result->storage_age_ms, now.ns);
        return;
    }
    enum ha_class class = order->kind == ORDER_EVICT ? HA_CLASS_F1 : HA_CLASS_F2;
    bool confirmed =
        !result->fault && result->confirmed && is_same(order->incarnation, host->ha.incarnation);
    cluster_todo_event(todo, "", "fencing %s (life %.8s): %s %s%s%s", host->name,
                       order->incarnation, ha_class_name(class),
                       confirmed ? "confirmed" : "not confirmed", result->fault ? ": " : "",
                       result->fault ? result->fault->text : "");
    unsigned bits = ha_core_tried(&host->ha, class, confirmed);
    carry_out(cluster, host, bits, now, todo);
    if (confirmed)
        cluster_ha_tick(cluster, now, todo); /* the clock runs: do not wait for the next tick */
}

/* ---- what operators ask -----------------------------------------------------------------------
 */

int cluster_ha_protect(struct cluster *cluster, const char *word, bool protect, uint32_t priority,
                       struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    struct cluster_vm *vm = cluster_find_vm(cluster, word, problem);
    if (!vm)
        return -1;
    if (priority > 100)
        return problem_set(problem, GW_USAGE, "priority %u, possible are 0 to 100", priority);
    if (protect && dr_test_is_copy(vm))
        return problem_set(problem, GW_VM_STATE, "%s is a test copy: it is not started elsewhere",
                           vm->spec->name);
    Godwit__HaSpec ha = GODWIT__HA_SPEC__INIT;
    Godwit__VmSpec spec = *vm->spec;
    ha.has_restart = ha.has_priority = true;
    ha.restart = protect;
    ha.priority = priority;
    spec.ha = &ha;
    if (protect && vm->own.phase != OWN_STOPPED &&
        admission_judge(cluster, &(struct admission_ask){.vm = vm, .is_protected = true}, now,
                        problem) != 0)
        return -1;
    Godwit__VmSpec *whole = cluster_message_copy(&spec.base);
    if (!whole)
        return problem_set(problem, GW_INTERNAL, "no memory for VM %s", vm->spec->name);
    godwit__vm_spec__free_unpacked(vm->spec, NULL);
    vm->spec = whole;
    struct cluster_put *put = cluster_todo_put(todo, PUT_VM);
    put->object = vm;
    put->revision = vm->revision++;
    cluster_todo_event(todo, vm->id,
                       protect ? "VM %s is protected by HA, priority %u"
                               : "VM %s is no longer protected by HA",
                       vm->spec->name, priority);
    return 0;
}

int cluster_ha_arm(struct cluster *cluster, bool arm, uint64_t for_s, struct cluster_now now,
                   struct problem *problem, struct cluster_todo *todo)
{
    char until[CLUSTER_SETTING_SIZE] = "";
    if (for_s > 7 * 24 * 3600)
        return problem_set(problem, GW_USAGE, "HA can be disarmed for 7 days at most");
    if (!arm)
        (void)snprintf(
            until, sizeof until, "%llu",
            (unsigned long long)(now.unix_ms + (for_s ? for_s * 1000 : HA_ARM_MS_DEFAULT)));
    put_setting(cluster, SETTING_HA_DISARMED, until, todo);
    cluster_todo_event(todo, "", arm ? "HA is armed" : "HA is disarmed until unix ms %s", until);
    for (size_t i = 0; arm && i < cluster->host_count; i++)
        cluster->hosts[i]->ha.is_told = false;
    return 0;
}

int cluster_ha_set_reserve(struct cluster *cluster, uint32_t reserve, struct problem *problem,
                           struct cluster_todo *todo)
{
    char value[CLUSTER_SETTING_SIZE];
    if (reserve > 8)
        return problem_set(problem, GW_USAGE, "a reserve of %u hosts, possible are 0 to 8",
                           reserve);
    (void)snprintf(value, sizeof value, "%u", reserve);
    put_setting(cluster, SETTING_HA_RESERVE, value, todo);
    cluster_todo_event(todo, "", "HA keeps room for the death of %u hosts", reserve);
    return 0;
}

int cluster_ha_set_fence(struct cluster *cluster, const char *word, const char *agent,
                         const char *options, struct problem *problem, struct cluster_todo *todo)
{
    char reason[CLUSTER_REASON_SIZE];
    struct cluster_host *host = cluster_find_host(cluster, word, problem);
    if (!host)
        return -1;
    if (agent[0] && !fence_options_are_allowed(agent, options, reason, sizeof reason))
        return problem_set(problem, GW_USAGE, "%s", reason);
    WORDS_COPY(host->fence_agent, agent);
    WORDS_COPY(host->fence_options, agent[0] ? options : "");
    put_fence(host, todo);
    cluster_todo_event(todo, "", agent[0] ? "%s is fenced by %s" : "%s has no fence agent any more",
                       host->name, agent);
    return 0;
}

int cluster_ha_confirm_down(struct cluster *cluster, const char *word, const char *confirm,
                            struct cluster_now now, struct problem *problem,
                            struct cluster_todo *todo)
{
    struct cluster_host *host = cluster_find_host(cluster, word, problem);
    if (!host)
        return -1;
    if (!is_same(host->name, confirm))
        return problem_set(problem, GW_USAGE,
                           "--confirm-down must name %s in full: a host that is not down and is "
                           "called so will have its VMs running twice",
                           host->name);
    struct ha_view view = view_of(cluster, host, now, count_up(cluster, now.ns), false);
    unsigned bits = ha_core_confirm_down(&host->ha, &view);
    if (bits == 0) {
        (void)problem_set(problem, GW_HOST_ALIVE, "%s is not down: %s", host->name,
                          host->ha.phase == HA_FENCED || host->ha.phase == HA_QUARANTINE
                              ? "it is fenced already"
                              : "its agent answers");
        problem_hint(problem, "godwit ha status");
        return -1;
    }
    carry_out(cluster, host, bits, now, todo);
    cluster_ha_tick(cluster, now, todo);
    return 0;
}
