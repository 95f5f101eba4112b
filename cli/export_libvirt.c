#include "cli/export_libvirt.h"

#include <inttypes.h>
#include <libxml/tree.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"

enum { TEXT_SIZE = 8192 };

/* Every step adds to a tree; the first one that finds no memory is remembered. */
struct builder {
    bool failed;
};

static xmlNode *add(struct builder *builder, xmlNode *parent, const char *name, const char *text)
{
    xmlNode *node =
        parent ? xmlNewTextChild(parent, NULL, (const xmlChar *)name, (const xmlChar *)text) : NULL;
    builder->failed |= !node;
    return node;
}

__attribute__((format(printf, 4, 5))) static void set(struct builder *builder, xmlNode *node,
                                                      const char *name, const char *format, ...)
{
    char text[TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (!node || n < 0 || n >= TEXT_SIZE ||
        !xmlNewProp(node, (const xmlChar *)name, (const xmlChar *)text))
        builder->failed = true;
}

static void add_os(struct builder *builder, xmlNode *domain, const Godwit__VmSpec *spec)
{
    xmlNode *os = add(builder, domain, "os", NULL);
    xmlNode *type = add(builder, os, "type", "hvm");
    set(builder, type, "arch", "x86_64");
    set(builder, type, "machine", "q35");
    if (spec->kernel && spec->kernel[0]) {
        (void)add(builder, os, "kernel", spec->kernel);
        if (spec->initrd && spec->initrd[0])
            (void)add(builder, os, "initrd", spec->initrd);
        if (spec->cmdline && spec->cmdline[0])
            (void)add(builder, os, "cmdline", spec->cmdline);
    } else {
        set(builder, add(builder, os, "boot", NULL), "dev", "hd");
    }
    xmlNode *features = add(builder, domain, "features", NULL);
    (void)add(builder, features, "acpi", NULL);
    (void)add(builder, features, "apic", NULL);
}

static void add_disk(struct builder *builder, xmlNode *devices, const Godwit__DiskSpec *disk,
                     size_t index)
{
    xmlNode *node = add(builder, devices, "disk", NULL);
    bool is_device = disk->path && strncmp(disk->path, "/dev/", 5) == 0;
    set(builder, node, "type", "%s", is_device ? "block" : "file");
    set(builder, node, "device", "disk");
    xmlNode *driver = add(builder, node, "driver", NULL);
    set(builder, driver, "name", "qemu");
    set(builder, driver, "type", "raw");
    set(builder, driver, "cache", "%s",
        disk->cache && strcmp(disk->cache, "host") == 0 ? "writeback" : "none");
    set(builder, driver, "discard", "unmap");
    xmlNode *source = add(builder, node, "source", NULL);
    if (disk->path && disk->path[0])
        set(builder, source, is_device ? "dev" : "file", "%s", disk->path);
    else
        set(builder, source, "file", "%s/%s", disk->store ? disk->store : "",
            disk->file ? disk->file : "");
    xmlNode *target = add(builder, node, "target", NULL);
    set(builder, target, "dev", "vd%c", (char)('a' + index));
    set(builder, target, "bus", "virtio");
    const char *serial = disk->serial && disk->serial[0] ? disk->serial : disk->name;
    if (serial && serial[0])
        (void)add(builder, node, "serial", serial);
    if (disk->read_only)
        (void)add(builder, node, "readonly", NULL);
}

static void add_nic(struct builder *builder, xmlNode *devices, const Godwit__NicSpec *nic)
{
    xmlNode *node = add(builder, devices, "interface", NULL);
    set(builder, node, "type", nic->unplugged ? "ethernet" : "bridge");
    if (nic->unplugged)
        set(builder, add(builder, node, "link", NULL), "state", "down");
    else
        set(builder, add(builder, node, "source", NULL), "bridge", "%s",
            nic->bridge ? nic->bridge : "");
    if (nic->mac && nic->mac[0])
        set(builder, add(builder, node, "mac", NULL), "address", "%s", nic->mac);
    set(builder, add(builder, node, "model", NULL), "type", "virtio");
    if (nic->queues > 1)
        set(builder, add(builder, node, "driver", NULL), "queues", "%" PRIu32, nic->queues);
    if (nic->mtu)
        set(builder, add(builder, node, "mtu", NULL), "size", "%" PRIu32, nic->mtu);
}

static void add_devices(struct builder *builder, xmlNode *domain, const Godwit__VmSpec *spec)
{
    xmlNode *devices = add(builder, domain, "devices", NULL);
    for (size_t i = 0; i < spec->n_disks; i++)
        add_disk(builder, devices, spec->disks[i], i);
    for (size_t i = 0; i < spec->n_nics; i++)
        add_nic(builder, devices, spec->nics[i]);
    set(builder, add(builder, devices, "serial", NULL), "type", "pty");
    set(builder, add(builder, devices, "console", NULL), "type", "pty");
    set(builder, add(builder, devices, "memballoon", NULL), "model", "%s",
        spec->balloon ? "virtio" : "none");
    if (spec->rng) {
        xmlNode *rng = add(builder, devices, "rng", NULL);
        set(builder, rng, "model", "virtio");
        set(builder, add(builder, rng, "backend", "/dev/urandom"), "model", "random");
    }
    if (spec->vsock && spec->vsock->cid) {
        xmlNode *cid = add(builder, add(builder, devices, "vsock", NULL), "cid", NULL);
        set(builder, cid, "auto", "no");
        set(builder, cid, "address", "%" PRIu32, spec->vsock->cid);
    }
}

static void add_comments(struct builder *builder, xmlDoc *doc, xmlNode *domain,
                         const Godwit__VmSpec *spec)
{
    const char *const words[] = {
        spec->boot && strcmp(spec->boot, "disk") == 0
            ? " boot: disk - the kernel was taken from the first disk; QEMU needs a boot loader in "
              "it "
            : NULL,
        spec->cloud_init ? " cloud_init: its NoCloud seed is no disk of this file " : NULL,
        spec->cpu && spec->cpu->baseline ? " cpu.baseline: choose a libvirt CPU model that fits "
                                         : NULL,
    };
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        xmlNode *comment = words[i] ? xmlNewDocComment(doc, (const xmlChar *)words[i]) : NULL;
        if (comment)
            (void)xmlAddPrevSibling(domain, comment);
        builder->failed |= words[i] && !comment;
    }
}

static void fill(struct builder *builder, xmlDoc *doc, xmlNode *domain, const Godwit__VmSpec *spec)
{
    char number[24];
    add_comments(builder, doc, domain, spec);
    set(builder, domain, "type", "kvm");
    (void)add(builder, domain, "name", spec->name ? spec->name : "");
    (void)snprintf(number, sizeof number, "%" PRIu64, spec->memory ? spec->memory->size >> 10 : 0);
    set(builder, add(builder, domain, "memory", number), "unit", "KiB");
    if (spec->memory && spec->memory->hugepages)
        (void)add(builder, add(builder, domain, "memoryBacking", NULL), "hugepages", NULL);
    (void)snprintf(number, sizeof number, "%" PRIu32, spec->cpu ? spec->cpu->vcpus : 1);
    (void)add(builder, domain, "vcpu", number);
    add_os(builder, domain, spec);
    add_devices(builder, domain, spec);
}

int export_libvirt(const Godwit__VmSpec *spec, char **ret_text, struct fault *fault)
{
    struct builder builder = {0};
    xmlDoc *doc = xmlNewDoc((const xmlChar *)"1.0");
    xmlNode *domain = doc ? xmlNewNode(NULL, (const xmlChar *)"domain") : NULL;
    if (domain)
        (void)xmlDocSetRootElement(doc, domain); /* it had none */
    builder.failed = !domain;
    if (!builder.failed)
        fill(&builder, doc, domain, spec);

    xmlChar *dumped = NULL;
    int count = 0;
    if (!builder.failed)
        xmlDocDumpFormatMemoryEnc(doc, &dumped, &count, "UTF-8", 1);
    xmlFreeDoc(doc);
    char *text = dumped ? strdup((const char *)dumped) : NULL;
    xmlFree(dumped);
    if (!text)
        return fault_set(fault, ERR_NOMEM, "no memory for the XML");
    *ret_text = text;
    return 0;
}
