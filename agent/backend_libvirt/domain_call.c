#include "agent/backend_libvirt/domain_call.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"

enum { XML_MAX = 1 << 20, DOMAINS_MAX = 10000 };

/* libvirt's memory is counted in KiB. */
#define KIB(count) ((uint64_t)(count) << 10)

static int code_of(int libvirt_code)
{
    switch (libvirt_code) {
    case VIR_ERR_NO_DOMAIN:
        return ERR_NOT_FOUND;
    case VIR_ERR_OPERATION_INVALID:
    case VIR_ERR_MIGRATE_UNSAFE:
        return ERR_STATE;
    case VIR_ERR_OPERATION_ABORTED:
        return ERR_CANCELED;
    case VIR_ERR_OPERATION_TIMEOUT:
        return ERR_TIMEOUT;
    case VIR_ERR_CPU_INCOMPATIBLE:
        return ERR_CPU_COMPAT;
    case VIR_ERR_NO_MEMORY:
        return ERR_NOMEM;
    case VIR_ERR_AUTH_FAILED:
    case VIR_ERR_ACCESS_DENIED:
        return ERR_DENIED;
    case VIR_ERR_DOM_EXIST:
        return ERR_EXISTS;
    case VIR_ERR_NO_CONNECT:
    case VIR_ERR_RPC:
    case VIR_ERR_SYSTEM_ERROR:
        return ERR_UNREACHABLE;
    case VIR_ERR_CONFIG_UNSUPPORTED:
    case VIR_ERR_NO_SUPPORT:
    case VIR_ERR_OPERATION_UNSUPPORTED:
    case VIR_ERR_ARGUMENT_UNSUPPORTED:
        return ERR_UNSUPPORTED;
    }
    return ERR_IO;
}

int domain_call_fault(struct fault *fault, const char *doing)
{
    const virError *error = virGetLastError();

    return fault_set(fault, error ? code_of(error->code) : ERR_IO, "libvirt, %s: %.300s", doing,
                     error && error->message ? error->message : "it gave no reason");
}

/* ---- looking ---- */
static int32_t read_pid(const char *name)
{
    char path[64 + DOMAIN_NAME_SIZE];
    int pid = 0;

    if (strchr(name, '/'))
        return 0;
    (void)snprintf(path, sizeof path, "/run/libvirt/qemu/%s.pid", name);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%d", &pid) != 1 || pid < 0)
        pid = 0;
    (void)fclose(file); /* only read */
    return pid;
}

static bool look_at(virDomainPtr domain, struct domain_state *ret_state)
{
    struct domain_state state = {.exists = true};
    char uuid[VIR_UUID_STRING_BUFLEN];
    virDomainInfo info = {0};
    int number = 0, reason = 0;
    const char *name = virDomainGetName(domain);

    if (!name || strlen(name) >= sizeof state.name || virDomainGetUUIDString(domain, uuid) < 0 ||
        !virt_view_id(uuid, state.vm_id) || virDomainGetState(domain, &number, &reason, 0) < 0)
        return false;
    (void)snprintf(state.name, sizeof state.name, "%s", name);
    state.sight = virt_view_sight(number, reason);
    if (state.sight == SIGHT_OFF)
        state.how = virt_view_how_shutoff(reason);
    if (virDomainGetInfo(domain, &info) == 0) {
        state.vcpus = info.nrVirtCpu;
        state.memory_bytes = KIB(info.maxMem);
        state.cpu_ns = info.cpuTime;
    }
    int autostart = 0;
    state.persistent = virDomainIsPersistent(domain) == 1;
    state.autostart = virDomainGetAutostart(domain, &autostart) == 0 && autostart;
    if (state.sight != SIGHT_OFF)
        state.pid = read_pid(name);
    *ret_state = state;
    return true;
}

static virDomainPtr find(virConnectPtr connection, struct domain_call *call)
{
    char uuid[37];

    if (!virt_view_uuid(call->vm_id, uuid)) {
        (void)fault_set(&call->fault, ERR_INVALID, "'%.40s' is no domain's id", call->vm_id);
        return NULL;
    }
    virDomainPtr domain = virDomainLookupByUUIDString(connection, uuid);
    if (!domain)
        (void)domain_call_fault(&call->fault, "looking for the domain");
    return domain;
}

/* No such domain is an answer. */
static void look_by_id(virConnectPtr connection, struct domain_call *call)
{
    char uuid[37];
    struct domain_state state = {.sight = SIGHT_OFF};

    if (!virt_view_uuid(call->vm_id, uuid))
        return;
    memcpy(state.vm_id, call->vm_id, sizeof state.vm_id);
    virDomainPtr domain = virDomainLookupByUUIDString(connection, uuid);
    if (!domain) {
        const virError *error = virGetLastError();
        if (!error || error->code != VIR_ERR_NO_DOMAIN)
            state.sight = SIGHT_UNKNOWN;
        call->state = state;
        return;
    }
    if (!look_at(domain, &state)) {
        const virError *error = virGetLastError(); /* it may have gone in between */
        state.sight = error && error->code == VIR_ERR_NO_DOMAIN ? SIGHT_OFF : SIGHT_UNKNOWN;
    }
    (void)virDomainFree(domain);
    call->state = state;
}

static void read_definition(virDomainPtr domain, struct domain_state *state)
{
    char *text = state->persistent ? virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE) : NULL;

    if (text)
        pki_sha256_hex(text, strlen(text), state->definition);
    free(text);
}

void domain_call_list(virConnectPtr connection, struct domain_list *list)
{
    virDomainPtr *domains = NULL;
    int count = virConnectListAllDomains(connection, &domains, 0);

    if (count < 0) {
        (void)domain_call_fault(&list->fault, "listing domains");
        return;
    }
    size_t most = count < DOMAINS_MAX ? (size_t)count : DOMAINS_MAX;
    list->states = calloc(most + 1, sizeof *list->states);
    for (int i = 0; i < count; i++) {
        if (list->states && list->count < most && look_at(domains[i], &list->states[list->count])) {
            read_definition(domains[i], &list->states[list->count]);
            list->count++;
            domain_snapshot_list_add(&list->snapshots, domains[i]);
        }
        (void)virDomainFree(domains[i]);
    }
    free(domains);
    if (!list->states)
        (void)fault_set(&list->fault, ERR_NOMEM, "no memory for the list of domains");
}

struct domain_list *domain_list_free(struct domain_list *list)
{
    if (list) {
        free(list->states);
        domain_snapshot_list_deinit(&list->snapshots);
    }
    free(list);
    return NULL;
}

/* ---- starting ---- */
static bool is_active(virDomainPtr domain)
{
    return virDomainIsActive(domain) == 1;
}

/* Of what failed last: the connection did, or somebody else is at the domain, who may be an earlier call of ours. */
bool domain_call_is_no_word(virConnectPtr connection)
{
    const virError *error = virGetLastError();
    bool is_lost = error && (error->domain == VIR_FROM_RPC || error->domain == VIR_FROM_REMOTE ||
                             error->code == VIR_ERR_OPERATION_TIMEOUT);

    return is_lost || virConnectIsAlive(connection) != 1;
}

static void create(virConnectPtr connection, virDomainPtr domain, struct domain_call *call)
{
    struct fault fault = {0};

    call->was_asked = true;
    if (virDomainCreateWithFlags(domain, call->start_paused ? VIR_DOMAIN_START_PAUSED : 0) == 0)
        return;
    (void)domain_call_fault(&fault, "starting the domain");
    bool is_lost = domain_call_is_no_word(connection);
    int active = virDomainIsActive(domain);
    if (active == 1) /* somebody else may have been quicker: as good */
        return;
    call->fault = fault;
    call->is_lost = is_lost || active < 0 || virConnectIsAlive(connection) != 1;
}

static void restore(virConnectPtr connection, virDomainPtr domain, struct domain_call *call)
{
    struct snapshot_word word = {0};

    if (domain_snapshot_restore(connection, domain, call->snapshot, call->start_paused, &word, &call->fault) < 0) {
        call->was_asked = call->was_asked || word.was_asked;
        call->is_lost = !word.is_no;
    }
}

/* The host may have kept what it was defined as when it ran here before, with disks that a snapshot has made the base of
 * others since. The record's is what it ran as last, wherever that was. */
static int define_over(virConnectPtr connection, virDomainPtr domain, struct domain_call *call)
{
    AUTO_FREE char *has = virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE); /* without secrets, as the record */

    if (has && strcmp(has, call->xml) == 0)
        return 0;
    int snapshots = has ? virDomainSnapshotNum(domain, 0) : -1;
    if (snapshots > 0)
        return fault_set(&call->fault, ERR_REFUSED,
                         "libvirt here has another definition of it than the pool, with %d snapshots that are of that one",
                         snapshots);
    virDomainPtr defined = snapshots == 0 ? virDomainDefineXML(connection, call->xml) : NULL;
    if (!defined) {
        (void)domain_call_fault(&call->fault, "defining the domain as it ran last");
        call->is_lost = domain_call_is_no_word(connection);
        return call->fault.code;
    }
    (void)virDomainFree(defined);
    return 0;
}

static void start_found(virConnectPtr connection, virDomainPtr domain, struct domain_call *call)
{
    int active = virDomainIsActive(domain);

    call->was_asked = call->only_running; /* it was seen running */
    if (active < 0) {
        (void)domain_call_fault(&call->fault, "looking at the domain");
        call->is_lost = true;
    } else if (call->only_running && !active) { /* by hand, and so was its end */
        (void)fault_set(&call->fault, ERR_STATE, "it was seen running, and has ended by now");
    } else if (call->snapshot[0]) {
        restore(connection, domain, call);
    } else if (!active && (!call->may_define_over || !call->xml || define_over(connection, domain, call) == 0)) {
        create(connection, domain, call);
    }
}

static void start(virConnectPtr connection, struct domain_call *call)
{
    char uuid[37];
    virDomainPtr domain =
        virt_view_uuid(call->vm_id, uuid) ? virDomainLookupByUUIDString(connection, uuid) : NULL;
    const virError *error = domain ? NULL : virGetLastError();

    if (!domain && error && error->code != VIR_ERR_NO_DOMAIN) {
        (void)domain_call_fault(&call->fault, "looking for the domain");
        call->was_asked = call->only_running;
        call->is_lost = true;
        return;
    }
    if (!domain && call->only_running) {
        (void)fault_set(&call->fault, ERR_STATE, "it was seen running, and has ended by now");
        return;
    }
    if (!domain && call->may_define && call->xml && !call->snapshot[0]) {
        domain = virDomainDefineXML(connection, call->xml);
        if (!domain) {
            (void)domain_call_fault(&call->fault, "defining the domain");
            call->is_lost = domain_call_is_no_word(connection);
            return;
        }
    }
    if (!domain) {
        (void)domain_call_fault(&call->fault, "looking for the domain");
        return;
    }
    start_found(connection, domain, call);
    (void)virDomainFree(domain);
}

/* ---- simple verbs ---- */
static void suspend(virDomainPtr domain, struct domain_call *call)
{
    if (virDomainSuspend(domain) < 0)
        (void)domain_call_fault(&call->fault, "pausing the domain");
}

static void resume(virDomainPtr domain, struct domain_call *call)
{
    int state = 0, reason = 0;

    if (virDomainResume(domain) < 0 && (virDomainGetState(domain, &state, &reason, 0) < 0 ||
                                        virt_view_sight(state, reason) != SIGHT_RUNNING))
        (void)domain_call_fault(&call->fault, "resuming the domain");
}

static void press_button(virDomainPtr domain, struct domain_call *call)
{
    if (virDomainShutdownFlags(domain, VIR_DOMAIN_SHUTDOWN_DEFAULT) < 0)
        (void)domain_call_fault(&call->fault, "pressing the power button");
}

/* A domain that is off is said to be that at once, also by a destroy, while a start waits for its turn. Pausing takes its turn
 * first, as a start does, and then finds the domain off. */
static void settle(virDomainPtr domain, struct domain_call *call)
{
    if (virDomainSuspend(domain) == 0) {
        call->is_heard = true;
        return;
    }
    const virError *error = virGetLastError();
    call->is_heard = error && error->domain != VIR_FROM_RPC && error->domain != VIR_FROM_REMOTE;
    bool is_off = call->is_heard && error->code == VIR_ERR_OPERATION_INVALID;
    call->is_settled = is_off && virDomainIsActive(domain) == 0;
}

static void destroy(virDomainPtr domain, struct domain_call *call)
{
    call->was_active = is_active(domain);
    if (call->was_active && virDomainDestroyFlags(domain, VIR_DOMAIN_DESTROY_DEFAULT) < 0 &&
        is_active(domain))
        (void)domain_call_fault(&call->fault, "ending the domain");
    else if (call->settles)
        settle(domain, call);
}

/* Only what a move has brought here, where there was no such domain before. */
static void discard(virDomainPtr domain, struct domain_call *call)
{
    destroy(domain, call);
    if (!call->fault.code && virDomainIsPersistent(domain) == 1)
        (void)virDomainUndefineFlags(domain, VIR_DOMAIN_UNDEFINE_KEEP_NVRAM);
}

/* ---- moving ---- */
static void tune(virDomainPtr domain, const struct virt_plan *plan)
{
    /* Both may be refused where a hypervisor knows no such limit; then its own holds. */
    if (plan->downtime_ms)
        (void)virDomainMigrateSetMaxDowntime(domain, plan->downtime_ms, 0);
    if (plan->bandwidth_mib_per_s)
        (void)virDomainMigrateSetMaxSpeed(domain, (unsigned long)plan->bandwidth_mib_per_s, 0);
}

static void migrate(virDomainPtr domain, struct domain_call *call)
{
    virTypedParameterPtr parameters = NULL;
    int count = 0, most = 0;
    const struct virt_plan *plan = &call->plan;

    (void)virDomainMigrateSetMaxDowntime(domain, plan->downtime_ms, 0); /* see tune */
    int r = 0;
    if (call->data_uri[0])
        r = virTypedParamsAddString(&parameters, &count, &most, VIR_MIGRATE_PARAM_URI,
                                    call->data_uri);
    if (r == 0 && plan->bandwidth_mib_per_s)
        r = virTypedParamsAddULLong(&parameters, &count, &most, VIR_MIGRATE_PARAM_BANDWIDTH,
                                    plan->bandwidth_mib_per_s);
    if (r == 0 && plan->connections)
        r = virTypedParamsAddInt(&parameters, &count, &most, VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS,
                                 (int)plan->connections);
    if (r == 0)
        r = virDomainMigrateToURI3(domain, call->libvirt_uri, parameters, (unsigned)count,
                                   (unsigned)plan->flags);
    if (r < 0)
        (void)domain_call_fault(&call->fault, "migrating");
    virTypedParamsFree(parameters, count);
}

void domain_call_read_job(const struct _virTypedParameter *parameters, int count,
                          struct virt_job *ret_job)
{
    const struct {
        const char *name;
        uint64_t *field;
    } fields[] = {
        {VIR_DOMAIN_JOB_TIME_ELAPSED, &ret_job->elapsed_ms},
        {VIR_DOMAIN_JOB_SETUP_TIME, &ret_job->setup_ms},
        {VIR_DOMAIN_JOB_DOWNTIME, &ret_job->downtime_ms},
        {VIR_DOMAIN_JOB_DATA_TOTAL, &ret_job->data_total},
        {VIR_DOMAIN_JOB_DATA_PROCESSED, &ret_job->data_processed},
        {VIR_DOMAIN_JOB_DATA_REMAINING, &ret_job->data_remaining},
        {VIR_DOMAIN_JOB_MEMORY_BPS, &ret_job->memory_bps},
        {VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE, &ret_job->dirty_pages_per_s},
        {VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE, &ret_job->page_bytes},
        {VIR_DOMAIN_JOB_MEMORY_ITERATION, &ret_job->iteration},
        {VIR_DOMAIN_JOB_MEMORY_CONSTANT, &ret_job->zero_pages},
        {VIR_DOMAIN_JOB_MEMORY_NORMAL, &ret_job->normal_pages},
    };

    *ret_job = (struct virt_job){0};
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
        unsigned long long value = 0;
        if (virTypedParamsGetULLong((virTypedParameterPtr)(uintptr_t)parameters, count,
                                    fields[i].name, &value) == 1)
            *fields[i].field = value;
    }
    int throttle = 0;
    if (virTypedParamsGetInt((virTypedParameterPtr)(uintptr_t)parameters, count,
                             VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE, &throttle) == 1 &&
        throttle > 0)
        ret_job->throttle_percent = (uint64_t)throttle;
}

static void read_job(virDomainPtr domain, struct domain_call *call)
{
    virTypedParameterPtr parameters = NULL;
    int type = 0, count = 0;

    if (virDomainGetJobStats(domain, &type, &parameters, &count, 0) < 0) {
        (void)domain_call_fault(&call->fault, "asking for the migration's statistics");
        return;
    }
    if (type == VIR_DOMAIN_JOB_NONE)
        (void)fault_set(&call->fault, ERR_NOT_FOUND, "no migration is under way");
    else
        domain_call_read_job(parameters, count, &call->job);
    virTypedParamsFree(parameters, count);
}

/* ---- could it run here? ---- */
static void check(virConnectPtr connection, struct domain_call *call)
{
    char uuid[37];

    if (!virt_view_uuid(call->vm_id, uuid))
        return;
    virDomainPtr domain = virDomainLookupByUUIDString(connection, uuid);
    if (domain && is_active(domain))
        (void)fault_set(&call->fault, ERR_EXISTS, "libvirt of this host runs the domain already");
    if (domain)
        (void)virDomainFree(domain);
}

static void run_on(virDomainPtr domain, struct domain_call *call)
{
    switch (call->kind) {
    case DOMAIN_CALL_READ:
        call->text = virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE); /* without secrets */
        if (!call->text)
            (void)domain_call_fault(&call->fault, "reading the definition");
        else if (strlen(call->text) > XML_MAX)
            (void)fault_set(&call->fault, ERR_LIMIT, "the definition is larger than %d bytes",
                            XML_MAX);
        return;
    case DOMAIN_CALL_SUSPEND:
        suspend(domain, call);
        return;
    case DOMAIN_CALL_RESUME:
        resume(domain, call);
        return;
    case DOMAIN_CALL_SHUTDOWN:
        press_button(domain, call);
        return;
    case DOMAIN_CALL_REBOOT:
        if (virDomainReboot(domain, VIR_DOMAIN_REBOOT_DEFAULT) < 0)
            (void)domain_call_fault(&call->fault, "asking the guest to reboot");
        return;
    case DOMAIN_CALL_RESET:
        if (virDomainReset(domain, 0) < 0)
            (void)domain_call_fault(&call->fault, "resetting the domain");
        return;
    case DOMAIN_CALL_DESTROY:
        destroy(domain, call);
        return;
    case DOMAIN_CALL_DISCARD:
        discard(domain, call);
        return;
    case DOMAIN_CALL_MIGRATE:
        migrate(domain, call);
        return;
    case DOMAIN_CALL_ABORT_JOB:
        if (virDomainAbortJob(domain) < 0)
            (void)domain_call_fault(&call->fault, "breaking the migration off");
        return;
    case DOMAIN_CALL_TUNE:
        tune(domain, &call->plan);
        return;
    case DOMAIN_CALL_JOB:
        read_job(domain, call);
        return;
    case DOMAIN_CALL_AUTOSTART_OFF:
        if (virDomainSetAutostart(domain, 0) < 0)
            (void)domain_call_fault(&call->fault, "switching autostart off");
        return;
    case DOMAIN_CALL_LOOK:
    case DOMAIN_CALL_START:
    case DOMAIN_CALL_CHECK:
        return; /* by the connection */
    }
}

void domain_call_run(virConnectPtr connection, struct domain_call *call)
{
    virResetLastError();
    if (call->kind == DOMAIN_CALL_START) {
        start(connection, call);
    } else if (call->kind == DOMAIN_CALL_CHECK) {
        check(connection, call);
    } else if (call->kind != DOMAIN_CALL_LOOK) {
        virDomainPtr domain = find(connection, call);
        bool is_ending = call->kind == DOMAIN_CALL_DESTROY || call->kind == DOMAIN_CALL_DISCARD;
        if (domain) {
            run_on(domain, call);
            (void)virDomainFree(domain);
        } else if (is_ending && call->fault.code == ERR_NOT_FOUND) {
            call->fault = (struct fault){0}; /* as wanted */
            call->is_heard = call->is_settled = call->settles;
        }
    }
    if (call->kind != DOMAIN_CALL_JOB && call->kind != DOMAIN_CALL_ABORT_JOB &&
        call->kind != DOMAIN_CALL_TUNE)
        look_by_id(connection, call);
}

struct domain_call *domain_call_free(struct domain_call *call)
{
    if (call)
        free(call->text);
    free(call);
    return NULL;
}
