#include "agent/backend_libvirt/domain_needs.h"

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"

static void free_doc_p(xmlDoc **doc)
{
    if (*doc)
        xmlFreeDoc(*doc);
}

/* libvirt's own elements: those of another namespace are QEMU's or an application's. */
static bool is_named(const xmlNode *node, const char *name)
{
    return node->type == XML_ELEMENT_NODE && !node->ns && strcmp((const char *)node->name, name) == 0;
}

static xmlNode *child(const xmlNode *parent, const char *name)
{
    for (xmlNode *node = parent ? parent->children : NULL; node; node = node->next) {
        if (is_named(node, name))
            return node;
    }
    return NULL;
}

/* false: it is there and does not fit, so it cannot be judged. */
static bool take(xmlChar *value, char *ret_text, size_t size)
{
    bool fits = !value || strlen((const char *)value) < size;

    ret_text[0] = 0;
    if (value && fits)
        memcpy(ret_text, value, strlen((const char *)value) + 1);
    xmlFree(value);
    return fits;
}

static bool attribute(const xmlNode *node, const char *name, char *ret_text, size_t size)
{
    return take(node ? xmlGetNoNsProp((xmlNode *)(uintptr_t)node, (const xmlChar *)name) : NULL,
                ret_text, size);
}

static bool content(const xmlNode *node, char *ret_text, size_t size)
{
    return take(node ? xmlNodeGetContent(node) : NULL, ret_text, size);
}

static bool has_value(const xmlNode *node, const char *name, const char *value)
{
    char text[DOMAIN_NEEDS_WORD_SIZE];
    return attribute(node, name, text, sizeof text) && strcmp(text, value) == 0;
}

static int read_disk(const xmlNode *node, struct domain_needs *needs, struct fault *fault)
{
    if (needs->disk_count == DOMAIN_NEEDS_MANY)
        return fault_set(fault, ERR_LIMIT, "the domain has more than %d disks", DOMAIN_NEEDS_MANY);
    struct domain_disk *disk = &needs->disks[needs->disk_count++];
    const xmlNode *source = child(node, "source");
    disk->is_block = has_value(node, "type", "block");
    disk->is_network = !disk->is_block && !has_value(node, "type", "file") &&
                       !has_value(node, "type", "");
    disk->writable = !child(node, "readonly") && !has_value(node, "device", "cdrom");
    bool fits = attribute(source, disk->is_block ? "dev" : "file", disk->path, sizeof disk->path) &&
                attribute(child(node, "target"), "dev", disk->target, sizeof disk->target);
    return fits ? 0 : fault_set(fault, ERR_LIMIT, "the path of a disk is too long");
}

static int read_link(const xmlNode *node, struct domain_needs *needs, struct fault *fault)
{
    const xmlNode *source = child(node, "source");
    bool is_network = has_value(node, "type", "network");

    if (has_value(node, "type", "hostdev") || has_value(node, "type", "direct")) {
        (void)snprintf(needs->pinned_by, sizeof needs->pinned_by, "an interface on a host's device");
        return 0;
    }
    if (!is_network && !has_value(node, "type", "bridge"))
        return 0; /* user, vhostuser and the like: libvirt judges */
    if (needs->link_count == DOMAIN_NEEDS_MANY)
        return fault_set(fault, ERR_LIMIT, "the domain has more than %d interfaces",
                         DOMAIN_NEEDS_MANY);
    struct domain_link *link = &needs->links[needs->link_count++];
    link->is_network = is_network;
    if (!attribute(source, is_network ? "network" : "bridge", link->name, sizeof link->name))
        return fault_set(fault, ERR_LIMIT, "the name of a network is too long");
    return 0;
}

static int read_devices(const xmlNode *devices, struct domain_needs *needs, struct fault *fault)
{
    int r = content(child(devices, "emulator"), needs->emulator, sizeof needs->emulator)
                ? 0
                : fault_set(fault, ERR_LIMIT, "the path of the emulator is too long");
    for (const xmlNode *node = devices ? devices->children : NULL; r == 0 && node;
         node = node->next) {
        if (is_named(node, "disk"))
            r = read_disk(node, needs, fault);
        else if (is_named(node, "interface"))
            r = read_link(node, needs, fault);
        else if (is_named(node, "hostdev"))
            (void)snprintf(needs->pinned_by, sizeof needs->pinned_by, "a passed-through device");
    }
    return r;
}

/* The CPU as it is compared: only a model and its features say what a host must have. */
static int read_cpu(xmlDoc *doc, xmlNode *cpu, struct domain_needs *needs, struct fault *fault)
{
    if (!cpu || !(has_value(cpu, "mode", "custom") || child(cpu, "model")))
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

    if (!root || !is_named(root, "domain"))
        return fault_set(fault, ERR_INVALID, "the definition is no libvirt domain");
    const xmlNode *type = child(child(root, "os"), "type");
    bool fits = attribute(root, "type", needs->virt_type, sizeof needs->virt_type) &&
                attribute(type, "arch", needs->arch, sizeof needs->arch) &&
                attribute(type, "machine", needs->machine, sizeof needs->machine);
    int r = fits ? 0 : fault_set(fault, ERR_LIMIT, "a word of the definition is too long");
    if (r == 0)
        r = read_devices(child(root, "devices"), needs, fault);
    return r < 0 ? r : read_cpu(doc, child(root, "cpu"), needs, fault);
}

int domain_needs_read(const char *xml, struct domain_needs *ret_needs, struct fault *fault)
{
    size_t count = xml ? strlen(xml) : 0;
    struct domain_needs *needs;

    if (!count || count > DOMAIN_NEEDS_XML_MAX)
        return fault_set(fault, ERR_INVALID, "the definition has %zu bytes, possible are 1 to %d",
                         count, DOMAIN_NEEDS_XML_MAX);
    AUTO(free_doc_p)
    xmlDoc *doc = xmlReadMemory(xml, (int)count, "domain.xml", NULL,
                                XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    if (!doc)
        return fault_set(fault, ERR_INVALID, "the definition is no XML");
    if (doc->intSubset || doc->extSubset)
        return fault_set(fault, ERR_INVALID, "the definition declares entities of its own");
    needs = calloc(1, sizeof *needs);
    if (!needs)
        return fault_set(fault, ERR_NOMEM, "no memory for a domain's needs");
    int r = read_root(doc, needs, fault);
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
