#include "agent/backend_libvirt/domain_check.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/backend_libvirt/domain_call.h"
#include "agent/backend_libvirt/domain_needs.h"
#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "storage/share.h"

static bool is_word(const char *word)
{
    return word && strlen(word) == SHARE_WORD_SIZE - 1 && id_name_is_valid(word);
}

/* The folder of a disk that has to be the same on both hosts; false: none has to. */
static bool folder_of(const struct domain_disk *disk, char ret_folder[static DOMAIN_NEEDS_PATH_SIZE])
{
    if (!disk->writable || disk->is_block || disk->is_network || disk->path[0] != '/')
        return false;
    memcpy(ret_folder, disk->path, DOMAIN_NEEDS_PATH_SIZE);
    char *slash = strrchr(ret_folder, '/');
    slash[slash == ret_folder] = 0;
    return true;
}

int domain_check_word(const struct domain_needs *needs, const char *word, bool wipe,
                      struct fault *fault)
{
    if (!is_word(word))
        return fault_set(fault, ERR_INVALID, "a word for a folder of a wrong form");
    for (size_t i = 0; i < needs->disk_count; i++) {
        char folder[DOMAIN_NEEDS_PATH_SIZE];
        AUTO_FD int fd = -1;
        if (!folder_of(&needs->disks[i], folder))
            continue;
        int r = share_open(folder, &fd, fault);
        if (wipe && r == 0)
            share_word_wipe(fd, word);
        else if (r == 0)
            r = share_word_write(fd, word, fault);
        if (r < 0 && !wipe)
            return fault_wrap(fault, r, "disk %s", needs->disks[i].target);
    }
    return 0;
}

static int check_disk(const struct domain_disk *disk, const char *word, const char *host,
                      struct fault *fault)
{
    char folder[DOMAIN_NEEDS_PATH_SIZE];
    AUTO_FD int fd = -1;

    if (disk->path[0] == '/' && access(disk->path, F_OK) < 0)
        return fault_set(fault, ERR_REFUSED, "%s does not have %s, the domain's disk %s", host,
                         disk->path, disk->target);
    if (!folder_of(disk, folder))
        return 0;
    int r = share_open(folder, &fd, fault);
    if (r == 0)
        r = share_word_read(fd, word, fault);
    return r < 0 ? fault_set(fault, ERR_REFUSED,
                             "%s has another folder %s than the source: disk %s is not shared", host,
                             folder, disk->target)
                 : 0;
}

static int check_link(virConnectPtr connection, const struct domain_link *link, const char *host,
                      struct fault *fault)
{
    char path[128];

    if (!link->is_network) {
        (void)snprintf(path, sizeof path, "/sys/class/net/%s/bridge", link->name);
        return !strchr(link->name, '/') && access(path, F_OK) == 0
                   ? 0
                   : fault_set(fault, ERR_REFUSED, "%s has no bridge %s", host, link->name);
    }
    virNetworkPtr network = virNetworkLookupByName(connection, link->name);
    bool is_active = network && virNetworkIsActive(network) == 1;
    if (network)
        (void)virNetworkFree(network);
    return is_active ? 0
                     : fault_set(fault, ERR_REFUSED, "%s has no active libvirt network %s", host,
                                 link->name);
}

static const char *or_null(const char *text)
{
    return text[0] ? text : NULL;
}

static int check_machine(virConnectPtr connection, const struct domain_needs *needs,
                         const char *host, struct fault *fault)
{
    char *capabilities = virConnectGetDomainCapabilities(
        connection, or_null(needs->emulator), or_null(needs->arch), or_null(needs->machine),
        or_null(needs->virt_type), 0);
    const virError *error = virGetLastError();

    if (!capabilities)
        return fault_set(fault, ERR_REFUSED, "%s cannot run %s %s with %s: %.200s", host,
                         needs->virt_type, needs->machine, needs->emulator,
                         error && error->message ? error->message : "libvirt gave no reason");
    free(capabilities);
    return 0;
}

static int check_cpu(virConnectPtr connection, const struct domain_needs *needs, const char *host,
                     struct fault *fault)
{
    if (!needs->cpu_xml)
        return 0;
    int result = virConnectCompareHypervisorCPU(
        connection, or_null(needs->emulator), or_null(needs->arch), or_null(needs->machine),
        or_null(needs->virt_type), needs->cpu_xml, VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE);
    if (result == VIR_CPU_COMPARE_IDENTICAL || result == VIR_CPU_COMPARE_SUPERSET)
        return 0;
    const virError *error = virGetLastError();
    if (error && (error->code == VIR_ERR_NO_SUPPORT || error->code == VIR_ERR_OPERATION_UNSUPPORTED))
        return 0; /* this libvirt cannot say; QEMU will */
    return fault_set(fault, ERR_CPU_COMPAT, "%s lacks CPU features of the domain: %.200s", host,
                     error && error->message ? error->message : "its CPU is no superset");
}

/* No other domain may have its name or run under its UUID there. */
static int check_names(virConnectPtr connection, const char *vm_id, const char *name,
                       const char *host, struct fault *fault)
{
    char uuid[37], theirs[VIR_UUID_STRING_BUFLEN] = "";
    int r = 0;

    if (!virt_view_uuid(vm_id, uuid))
        return fault_set(fault, ERR_INVALID, "'%.40s' is no domain's id", vm_id);
    virDomainPtr domain = virDomainLookupByName(connection, name);
    if (domain && virDomainGetUUIDString(domain, theirs) == 0 && strcmp(theirs, uuid) != 0)
        r = fault_set(fault, ERR_EXISTS, "%s has another domain named %s", host, name);
    else if (domain && virDomainIsActive(domain) == 1)
        r = fault_set(fault, ERR_EXISTS, "%s runs a domain %s already", host, name);
    if (domain)
        (void)virDomainFree(domain);
    return r;
}

int domain_check_target(virConnectPtr connection, const struct domain_needs *needs,
                        const char *vm_id, const char *name, const char *word, const char *host,
                        char ret_note[static DOMAIN_CHECK_NOTE_SIZE], struct fault *fault)
{
    virResetLastError();
    int r = is_word(word) ? 0 : fault_set(fault, ERR_INVALID, "a word of a wrong form");
    if (r == 0 && needs->pinned_by[0])
        r = fault_set(fault, ERR_REFUSED, "%s ties the domain to its host", needs->pinned_by);
    if (r == 0)
        r = check_names(connection, vm_id, name, host, fault);
    if (r == 0)
        r = check_machine(connection, needs, host, fault);
    if (r == 0)
        r = check_cpu(connection, needs, host, fault);
    for (size_t i = 0; r == 0 && i < needs->disk_count; i++)
        r = check_disk(&needs->disks[i], word, host, fault);
    for (size_t i = 0; r == 0 && i < needs->link_count; i++)
        r = check_link(connection, &needs->links[i], host, fault);
    if (r == 0)
        (void)snprintf(ret_note, DOMAIN_CHECK_NOTE_SIZE,
                       "%s's libvirt has machine %s, the CPU, %zu disks and %zu networks of it", host,
                       needs->machine[0] ? needs->machine : "type", needs->disk_count,
                       needs->link_count);
    return r;
}
