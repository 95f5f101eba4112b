#include "agent/backend_libvirt/virt_snapshot.h"

#include <libxml/tree.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/virt_xml.h"
#include "base/err.h"
#include "base/own.h"
#include "net/pki.h"

static bool is_kept(const xmlNode *node, struct virt_snapshot *snapshot)
{
    bool is_external = virt_xml_has_value(node, "snapshot", "external");

    snapshot->is_external = snapshot->is_external || is_external;
    return is_external || virt_xml_has_value(node, "snapshot", "internal");
}

static void read_disks(const xmlNode *disks, struct virt_snapshot *snapshot)
{
    for (const xmlNode *node = disks ? disks->children : NULL; node; node = node->next) {
        if (!virt_xml_is_named(node, "disk") || !is_kept(node, snapshot))
            continue;
        size_t at = snapshot->disk_count++;
        if (at < VIRT_SNAPSHOT_DISKS_MAX &&
            !virt_xml_attribute(node, "name", snapshot->disks[at], VIRT_SNAPSHOT_WORD_SIZE))
            (void)snprintf(snapshot->disks[at], VIRT_SNAPSHOT_WORD_SIZE, "disk-%zu", at);
    }
}

static int read_root(const xmlNode *root, struct virt_snapshot *snapshot, struct fault *fault)
{
    char text[VIRT_SNAPSHOT_NAME_SIZE];

    if (!root || !virt_xml_is_named(root, "domainsnapshot"))
        return fault_set(fault, ERR_INVALID, "it is no snapshot of libvirt");
    if (!virt_xml_content(virt_xml_child(root, "name"), snapshot->name, sizeof snapshot->name) ||
        !snapshot->name[0])
        return fault_set(fault, ERR_INVALID, "a snapshot without a name of 1 to %d bytes",
                         VIRT_SNAPSHOT_NAME_SIZE - 1);
    if (virt_xml_content(virt_xml_child(root, "creationTime"), text, sizeof text))
        snapshot->created_unix_s = strtoull(text, NULL, 10); /* no number: 0, as an unknown one */
    if (!virt_xml_content(virt_xml_child(root, "state"), text, sizeof text))
        text[0] = 0;
    snapshot->was_off = strcmp(text, "shutoff") == 0 || strcmp(text, "crashed") == 0;
    snapshot->was_running = strcmp(text, "running") == 0;
    const xmlNode *memory = virt_xml_child(root, "memory");
    snapshot->with_memory = memory && is_kept(memory, snapshot);
    read_disks(virt_xml_child(root, "disks"), snapshot);
    return 0;
}

int virt_snapshot_read(const char *xml, struct virt_snapshot *ret_snapshot, struct fault *fault)
{
    AUTO(virt_xml_close_p) xmlDoc *doc = NULL;
    struct virt_snapshot snapshot = {0};

    int r = virt_xml_open(&doc, xml, VIRT_SNAPSHOT_XML_MAX, "the snapshot's description", fault);
    if (r == 0)
        r = read_root(xmlDocGetRootElement(doc), &snapshot, fault);
    if (r == 0)
        *ret_snapshot = snapshot;
    return r;
}

/* ---- the domain's definition ---- */
static int judge_disk(const xmlNode *disk, struct fault *fault)
{
    char name[VIRT_SNAPSHOT_WORD_SIZE];

    if (!virt_xml_has_value(disk, "snapshot", "external"))
        return 0;
    if (!virt_xml_attribute(virt_xml_child(disk, "target"), "dev", name, sizeof name) || !name[0])
        (void)snprintf(name, sizeof name, "a disk");
    return fault_set(fault, ERR_UNSUPPORTED,
                     "its definition says snapshot='external' of %s: libvirt would put a new file "
                     "in the place of that, and the definition that HA starts elsewhere names the "
                     "old one",
                     name);
}

int virt_snapshot_judge_disks(const char *domain_xml, struct fault *fault)
{
    AUTO(virt_xml_close_p) xmlDoc *doc = NULL;

    int r = virt_xml_open(&doc, domain_xml, VIRT_SNAPSHOT_XML_MAX, "the definition", fault);
    const xmlNode *root = r == 0 ? xmlDocGetRootElement(doc) : NULL;
    if (r == 0 && (!root || !virt_xml_is_named(root, "domain")))
        r = fault_set(fault, ERR_INVALID, "it is no domain of libvirt");
    const xmlNode *devices = virt_xml_child(root, "devices");
    for (const xmlNode *node = devices ? devices->children : NULL; r == 0 && node;
         node = node->next) {
        if (virt_xml_is_named(node, "disk"))
            r = judge_disk(node, fault);
    }
    return r;
}

/* ---- as a pool calls it ---- */
/* A snapshot that has another's name came after its end, so it has another time of its beginning.
 */
void virt_snapshot_id(const struct virt_snapshot *snapshot, char ret_id[static ID_TEXT_SIZE])
{
    char words[ID_TEXT_SIZE + VIRT_SNAPSHOT_NAME_SIZE + 32], hex[PKI_PIN_SIZE];

    int count = snprintf(words, sizeof words, "%s/%llu/%s", snapshot->vm_id,
                         (unsigned long long)snapshot->created_unix_s, snapshot->name);
    pki_sha256_hex(words, (size_t)count, hex);
    (void)snprintf(ret_id, ID_TEXT_SIZE, "%.*s", ID_TEXT_SIZE - 1, hex);
}

void virt_snapshot_pool_name(const struct virt_snapshot *snapshot,
                             char ret_name[static ID_NAME_MAX + 1])
{
    char id[ID_TEXT_SIZE];

    virt_snapshot_id(snapshot, id);
    (void)snprintf(ret_name, ID_NAME_MAX + 1, "%.*s",
                   id_name_is_valid(snapshot->name) ? ID_NAME_MAX : 12,
                   id_name_is_valid(snapshot->name) ? snapshot->name : id);
}

static bool add_disks(const struct virt_snapshot *snapshot, Godwit__SnapshotInfo *info)
{
    size_t count = snapshot->disk_count < VIRT_SNAPSHOT_DISKS_MAX ? snapshot->disk_count
                                                                  : VIRT_SNAPSHOT_DISKS_MAX;

    info->disks = calloc(count + 1, sizeof *info->disks);
    for (size_t i = 0; info->disks && i < count; i++) {
        Godwit__SnapshotDisk *disk = malloc(sizeof *disk);
        if (!disk)
            return false;
        godwit__snapshot_disk__init(disk);
        info->disks[info->n_disks++] = disk;
        disk->has_index = true;
        disk->index = (uint32_t)i;
        disk->name = strdup(snapshot->disks[i]);
        if (!disk->name)
            return false;
    }
    return info->disks != NULL;
}

Godwit__SnapshotInfo *virt_snapshot_info(const struct virt_snapshot *snapshot, const char *host)
{
    char id[ID_TEXT_SIZE], name[ID_NAME_MAX + 1];
    Godwit__SnapshotInfo *info = malloc(sizeof *info);

    if (!info)
        return NULL;
    godwit__snapshot_info__init(info);
    virt_snapshot_id(snapshot, id);
    virt_snapshot_pool_name(snapshot, name);
    info->id = strdup(id);
    info->vm_id = strdup(snapshot->vm_id);
    info->vm_name = strdup(snapshot->vm_name);
    info->name = strdup(name);
    info->libvirt_name = strdup(snapshot->name);
    info->host = strdup(host);
    info->has_created_unix_ms = info->has_with_memory = info->has_was_stopped = true;
    info->has_is_libvirt = info->is_libvirt = true;
    info->has_is_external = true;
    info->created_unix_ms = snapshot->created_unix_s * 1000;
    info->with_memory = snapshot->with_memory;
    info->was_stopped = snapshot->was_off;
    info->is_external = snapshot->is_external;
    if (info->id && info->vm_id && info->vm_name && info->name && info->libvirt_name &&
        info->host && add_disks(snapshot, info))
        return info;
    godwit__snapshot_info__free_unpacked(info, NULL);
    return NULL;
}
