#include "agent/backend_libvirt/domain_needs.h"

#include <libxml/tree.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/virt_xml.h"
#include "base/err.h"
#include "base/own.h"

static int read_disk(const xmlNode *node, struct domain_needs *needs, struct fault *fault)
{
    if (needs->disk_count == DOMAIN_NEEDS_MANY)
        return fault_set(fault, ERR_LIMIT, "the domain has more than %d disks", DOMAIN_NEEDS_MANY);
    struct domain_disk *disk = &needs->disks[needs->disk_count++];
    const xmlNode *source = virt_xml_child(node, "source");
    disk->is_block = virt_xml_has_value(node, "type", "block");
    disk->is_network = !disk->is_block && !virt_xml_has_value(node, "type", "file") &&
                       !virt_xml_has_value(node, "type", "");
    disk->writable =
        !virt_xml_child(node, "readonly") && !virt_xml_has_value(node, "device", "cdrom");
    bool fits = virt_xml_attribute(source, disk->is_block ? "dev" : "file", disk->path,
                                   sizeof disk->path) &&
                virt_xml_attribute(virt_xml_child(node, "target"), "dev", disk->target,
                                   sizeof disk->target);
    return fits ? 0 : fault_set(fault, ERR_LIMIT, "the path of a disk is too long");
}

static int read_link(const xmlNode *node, struct domain_needs *needs, struct fault *fault)
{
    const xmlNode *source = virt_xml_child(node, "source");
    bool is_network = virt_xml_has_value(node, "type", "network");

    if (virt_xml_has_value(node, "type", "hostdev") || virt_xml_has_value(node, "type", "direct")) {
        (void)snprintf(needs->pinned_by, sizeof needs->pinned_by,
                       "an interface on a host's device");
        return 0;
    }
    if (!is_network && !virt_xml_has_value(node, "type", "bridge"))
        return 0; /* user, vhostuser and the like: libvirt judges */
    if (needs->link_count == DOMAIN_NEEDS_MANY)
        return fault_set(fault, ERR_LIMIT, "the domain has more than %d interfaces",
                         DOMAIN_NEEDS_MANY);
    struct domain_link *link = &needs->links[needs->link_count++];
    link->is_network = is_network;
    if (!virt_xml_attribute(source, is_network ? "network" : "bridge", link->name,
                            sizeof link->name))
        return fault_set(fault, ERR_LIMIT, "the name of a network is too long");
    return 0;
}

static int read_devices(const xmlNode *devices, struct domain_needs *needs, struct fault *fault)
{
    int r = virt_xml_content(virt_xml_child(devices, "emulator"), needs->emulator,
                             sizeof needs->emulator)
                ? 0
                : fault_set(fault, ERR_LIMIT, "the path of the emulator is too long");
    for (const xmlNode *node = devices ? devices->children : NULL; r == 0 && node;
         node = node->next) {
        if (virt_xml_is_named(node, "disk"))
            r = read_disk(node, needs, fault);
        else if (virt_xml_is_named(node, "interface"))
            r = read_link(node, needs, fault);
        else if (virt_xml_is_named(node, "hostdev"))
            (void)snprintf(needs->pinned_by, sizeof needs->pinned_by, "a passed-through device");
    }
    return r;
}

/* The CPU as it is compared: only a model and its features say what a host must have. */
static int read_cpu(xmlDoc *doc, xmlNode *cpu, struct domain_needs *needs, struct fault *fault)
{
    if (!cpu || !(virt_xml_has_value(cpu, "mode", "custom") || virt_xml_child(cpu, "model")))
        return 0;
    xmlBuffer *buffer = xmlBufferCreate();
    if (buffer && xmlNodeDump(buffer, doc, cpu, 0, 0) >= 0)
        needs->cpu_xml = strdup((const char *)xmlBufferContent(buffer));
    if (buffer)
        xmlBufferFree(buffer);
    return needs->cpu_xml ? 0 : fault_set(fault, ERR_NOMEM, "no memory for a CPU's description");
}

static int read_root(xmlDoc *doc, struct domain_needs *needs, struct fault *fault)
{
    const xmlNode *root = xmlDocGetRootElement(doc);

    if (!root || !virt_xml_is_named(root, "domain"))
        return fault_set(fault, ERR_INVALID, "the definition is no libvirt domain");
    const xmlNode *type = virt_xml_child(virt_xml_child(root, "os"), "type");
    bool fits = virt_xml_attribute(root, "type", needs->virt_type, sizeof needs->virt_type) &&
                virt_xml_attribute(type, "arch", needs->arch, sizeof needs->arch) &&
                virt_xml_attribute(type, "machine", needs->machine, sizeof needs->machine);
    int r = fits ? 0 : fault_set(fault, ERR_LIMIT, "a word of the definition is too long");
    if (r == 0)
        r = read_devices(virt_xml_child(root, "devices"), needs, fault);
    return r < 0 ? r : read_cpu(doc, virt_xml_child(root, "cpu"), needs, fault);
}

int domain_needs_read(const char *xml, struct domain_needs *ret_needs, struct fault *fault)
{
    AUTO(virt_xml_close_p) xmlDoc *doc = NULL;

    int r = virt_xml_open(&doc, xml, DOMAIN_NEEDS_XML_MAX, "the definition", fault);
    if (r < 0)
        return r;
    struct domain_needs *needs = calloc(1, sizeof *needs);
    if (!needs)
        return fault_set(fault, ERR_NOMEM, "no memory for a domain's needs");
    r = read_root(doc, needs, fault);
    if (r == 0)
        *ret_needs = *needs;
    else
        free(needs->cpu_xml);
    free(needs);
    return r;
}

void domain_needs_deinit(struct domain_needs *needs)
{
    free(needs->cpu_xml);
    needs->cpu_xml = NULL;
}
