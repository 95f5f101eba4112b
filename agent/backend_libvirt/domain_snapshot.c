#include "agent/backend_libvirt/domain_snapshot.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/domain_call.h"
#include "agent/backend_libvirt/virt_view.h"
#include "base/err.h"
#include "base/own.h"

enum { NAMES_TOLD_MAX = 3 };

static void free_domain_p(virDomainPtr *domain)
{
    if (*domain)
        (void)virDomainFree(*domain);
}

static void free_snapshot_p(virDomainSnapshotPtr *snapshot)
{
    if (*snapshot)
        (void)virDomainSnapshotFree(*snapshot);
}

static int find_domain(virConnectPtr connection, const char *vm_id, virDomainPtr *ret_domain,
                       struct fault *fault)
{
    char uuid[37];

    virResetLastError();
    if (!virt_view_uuid(vm_id, uuid))
        return fault_set(fault, ERR_INVALID, "'%.40s' is no domain's id", vm_id);
    *ret_domain = virDomainLookupByUUIDString(connection, uuid);
    return *ret_domain ? 0 : domain_call_fault(fault, "looking for the domain");
}

static bool is_missing(void)
{
    const virError *error = virGetLastError();
    return error && error->code == VIR_ERR_NO_DOMAIN_SNAPSHOT;
}

static int find_snapshot(virDomainPtr domain, const char *name, virDomainSnapshotPtr *ret_snapshot,
                         struct fault *fault)
{
    *ret_snapshot = virDomainSnapshotLookupByName(domain, name, 0);
    if (*ret_snapshot)
        return 0;
    return is_missing() ? fault_set(fault, ERR_NOT_FOUND,
                                    "libvirt has no snapshot %.80s of it any more", name)
                        : domain_call_fault(fault, "looking for the snapshot");
}

static int read_snapshot(virDomainSnapshotPtr snapshot, struct virt_snapshot *ret_snapshot,
                         struct fault *fault)
{
    AUTO_FREE char *xml = virDomainSnapshotGetXMLDesc(snapshot, 0); /* without secrets */

    return xml ? virt_snapshot_read(xml, ret_snapshot, fault)
               : domain_call_fault(fault, "reading the snapshot");
}

/* ---- the list ---- */
static bool add_one(struct domain_snapshot_list *list, virDomainPtr domain,
                    virDomainSnapshotPtr snapshot)
{
    char uuid[VIR_UUID_STRING_BUFLEN];
    const char *name = virDomainGetName(domain);
    struct fault fault = {0};

    if (list->count == DOMAIN_SNAPSHOTS_MAX)
        return false;
    struct virt_snapshot *snapshots =
        realloc(list->snapshots, (list->count + 1) * sizeof *list->snapshots);
    if (!snapshots)
        return false;
    list->snapshots = snapshots;
    struct virt_snapshot *added = &snapshots[list->count];
    if (read_snapshot(snapshot, added, &fault) < 0 || !name ||
        virDomainGetUUIDString(domain, uuid) < 0 || !virt_view_id(uuid, added->vm_id))
        return false;
    (void)snprintf(added->vm_name, sizeof added->vm_name, "%s", name);
    list->count++;
    return true;
}

/* The domain has ended meanwhile, or its hypervisor knows no snapshots. */
static bool has_none(void)
{
    const virError *error = virGetLastError();
    return error && (error->code == VIR_ERR_NO_DOMAIN || error->code == VIR_ERR_NO_SUPPORT);
}

void domain_snapshot_list_add(struct domain_snapshot_list *list, virDomainPtr domain)
{
    virDomainSnapshotPtr *found = NULL;

    int count = virDomainSnapshotNum(domain, 0);
    if (count == 0)
        return; /* as nearly always */
    if (count > 0)
        count = virDomainListAllSnapshots(domain, &found, 0);
    if (count < 0)
        list->is_unknown = list->is_unknown || !has_none();
    for (int i = 0; i < count; i++) {
        if (!add_one(list, domain, found[i]))
            list->left_out++;
        (void)virDomainSnapshotFree(found[i]);
    }
    free(found);
}

void domain_snapshot_list_deinit(struct domain_snapshot_list *list)
{
    free(list->snapshots);
    *list = (struct domain_snapshot_list){0};
}

/* ---- taking ---- */
/* Without a word about its disks libvirt keeps each as the definition says. */
static int judge_definition(virDomainPtr domain, struct fault *fault)
{
    AUTO_FREE char *xml = virDomainGetXMLDesc(domain, 0); /* without secrets */

    return xml ? virt_snapshot_judge_disks(xml, fault)
               : domain_call_fault(fault, "reading the definition");
}

/* The name is a pool's, so nothing in it has to be escaped. */
int domain_snapshot_take(virConnectPtr connection, const char *vm_id, const char *name, bool is_off,
                         struct fault *fault)
{
    AUTO(free_domain_p) virDomainPtr domain = NULL;
    char xml[128 + ID_NAME_MAX];

    if (!id_name_is_valid(name))
        return fault_set(fault, ERR_INVALID, "'%.80s' is no name for a snapshot", name);
    int r = find_domain(connection, vm_id, &domain, fault);
    if (r == 0 && is_off == (virDomainIsActive(domain) == 1)) /* by hand, meanwhile */
        r = fault_set(fault, ERR_STATE,
                      is_off ? "libvirt runs it" : "libvirt does not run it any more");
    if (r == 0)
        r = judge_definition(domain, fault);
    if (r < 0)
        return r;
    (void)snprintf(xml, sizeof xml, "<domainsnapshot><name>%s</name></domainsnapshot>", name);
    virDomainSnapshotPtr snapshot = virDomainSnapshotCreateXML(domain, xml, 0);
    if (!snapshot)
        return domain_call_fault(fault, "taking the snapshot");
    (void)virDomainSnapshotFree(snapshot);
    return 0;
}

/* ---- going back ---- */
/* libvirt from 9.9 on would, and the record's definition would name files that it writes no more. */
static int judge_place(const struct virt_snapshot *snapshot, struct fault *fault)
{
    return snapshot->is_external
               ? fault_set(fault, ERR_UNSUPPORTED,
                           "it is in files beside the disks (external): the domain would write new "
                           "files from then on, and the definition that HA starts elsewhere names "
                           "those of before")
               : 0;
}

int domain_snapshot_check(virConnectPtr connection, const char *vm_id, const char *name,
                          struct fault *fault)
{
    AUTO(free_domain_p) virDomainPtr domain = NULL;
    AUTO(free_snapshot_p) virDomainSnapshotPtr snapshot = NULL;
    struct virt_snapshot seen;

    int r = find_domain(connection, vm_id, &domain, fault);
    if (r == 0)
        r = find_snapshot(domain, name, &snapshot, fault);
    if (r == 0)
        r = read_snapshot(snapshot, &seen, fault);
    if (r == 0)
        r = judge_place(&seen, fault);
    /* It is stopped first, and what is not defined ends with that, snapshots and all. */
    if (r == 0 && virDomainIsPersistent(domain) != 1)
        r = fault_set(fault, ERR_STATE,
                      "libvirt has no definition of it, so its snapshots would go with its end");
    return r;
}

/* Only a revert begins so, and by hand or not: it runs from that snapshot. */
static bool runs_from(virDomainPtr domain, virDomainSnapshotPtr snapshot)
{
    int state = 0, reason = 0;

    if (virDomainGetState(domain, &state, &reason, 0) < 0 ||
        virDomainSnapshotIsCurrent(snapshot, 0) != 1)
        return false;
    return (state == VIR_DOMAIN_RUNNING && reason == VIR_DOMAIN_RUNNING_FROM_SNAPSHOT) ||
           (state == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_FROM_SNAPSHOT);
}

int domain_snapshot_restore(virConnectPtr connection, virDomainPtr domain, const char *name,
                            bool start_paused, struct snapshot_word *ret_word, struct fault *fault)
{
    AUTO(free_snapshot_p) virDomainSnapshotPtr snapshot = NULL;
    struct virt_snapshot seen;

    int r = find_snapshot(domain, name, &snapshot, fault);
    if (r == 0)
        r = read_snapshot(snapshot, &seen, fault);
    if (r == 0)
        r = judge_place(&seen, fault);
    if (r < 0)
        return r;
    if (virDomainIsActive(domain) == 1)
        return runs_from(domain, snapshot)
                   ? 0
                   : fault_set(fault, ERR_STATE,
                               "libvirt runs it again, by somebody's hand: it is not taken back");
    unsigned flags = start_paused                        ? VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED
                     : seen.was_off || !seen.with_memory ? VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING
                                                         : 0; /* as it was then */
    ret_word->was_asked = true;
    if (virDomainRevertToSnapshot(snapshot, flags) == 0)
        return 0;
    r = domain_call_fault(fault, "going back to the snapshot");
    ret_word->is_no = !domain_call_is_no_word(connection); /* now: letting go of the snapshot clears the error */
    return r;
}

/* ---- the rest ---- */
int domain_snapshot_remove(virConnectPtr connection, const char *vm_id, const char *name,
                           struct fault *fault)
{
    AUTO(free_domain_p) virDomainPtr domain = NULL;
    AUTO(free_snapshot_p) virDomainSnapshotPtr snapshot = NULL;

    int r = find_domain(connection, vm_id, &domain, fault);
    if (r == 0)
        r = find_snapshot(domain, name, &snapshot, fault);
    if (r == ERR_NOT_FOUND)
        return 0;
    if (r == 0 && virDomainSnapshotDelete(snapshot, 0) < 0 && !is_missing())
        r = domain_call_fault(fault, "removing the snapshot");
    return r;
}

static void name_some(const struct domain_snapshot_list *list, char *ret_words, size_t size)
{
    size_t used = 0;

    ret_words[0] = 0;
    for (size_t i = 0; i < list->count && i < NAMES_TOLD_MAX && used + 1 < size; i++) {
        int n = snprintf(ret_words + used, size - used, "%s%.40s", i ? ", " : "",
                         list->snapshots[i].name);
        used += n > 0 ? (size_t)n : 0;
    }
    if (list->count > NAMES_TOLD_MAX && used + 1 < size)
        (void)snprintf(ret_words + used, size - used, ", ..");
}

int domain_snapshot_judge_move(virConnectPtr connection, const char *vm_id, struct fault *fault)
{
    AUTO(free_domain_p) virDomainPtr domain = NULL;
    struct domain_snapshot_list list = {0};
    char names[200];

    int r = find_domain(connection, vm_id, &domain, fault);
    int count = r == 0 ? virDomainSnapshotNum(domain, 0) : 0;
    if (r < 0 || count <= 0)
        return r;
    domain_snapshot_list_add(&list, domain);
    name_some(&list, names, sizeof names);
    r = fault_set(fault, ERR_REFUSED,
                  "libvirt moves no domain that has snapshots, for what it knows of them would be "
                  "lost; it has %d: %s",
                  count, names);
    fault_hint(fault, "godwit vm snapshot ls %s", virDomainGetName(domain));
    domain_snapshot_list_deinit(&list);
    return r;
}
