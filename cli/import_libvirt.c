#include "cli/import_libvirt.h"

#include <errno.h>
#include <inttypes.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/import.h"

enum { VALUE_SIZE = 4096 };

/* ---- reading the tree ---- */

static void doc_free_p(xmlDoc **doc)
{
    if (*doc)
        xmlFreeDoc(*doc);
}

static bool is_named(const xmlNode *node, const char *name)
{
    return node->type == XML_ELEMENT_NODE && strcmp((const char *)node->name, name) == 0;
}

/* Elements of libvirt's own: those of another namespace are QEMU's or an application's. */
static bool is_ours(const xmlNode *node)
{
    return node->type == XML_ELEMENT_NODE && !node->ns;
}

static const xmlNode *child(const xmlNode *parent, const char *name)
{
    for (const xmlNode *node = parent ? parent->children : NULL; node; node = node->next) {
        if (is_ours(node) && is_named(node, name))
            return node;
    }
    return NULL;
}

static const char *copy_value(xmlChar *value, char ret_value[static VALUE_SIZE])
{
    ret_value[0] = '\0';
    if (value && strlen((const char *)value) < VALUE_SIZE)
        memcpy(ret_value, value, strlen((const char *)value) + 1);
    xmlFree(value);
    return ret_value;
}

/* "" when it is not there, or too long to be meant. */
static const char *attribute(const xmlNode *node, const char *name,
                             char ret_value[static VALUE_SIZE])
{
    return copy_value(node ? xmlGetNoNsProp(node, (const xmlChar *)name) : NULL, ret_value);
}

static const char *content(const xmlNode *node, char ret_value[static VALUE_SIZE])
{
    (void)copy_value(node ? xmlNodeGetContent(node) : NULL, ret_value);
    char *end = ret_value + strlen(ret_value);
    while (end > ret_value && strchr(" \t\r\n", end[-1]))
        *--end = '\0';
    size_t skip = strspn(ret_value, " \t\r\n");
    memmove(ret_value, ret_value + skip, strlen(ret_value + skip) + 1);
    return ret_value;
}

static bool number(const char *text, uint64_t *ret_number)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-')
        return false;
    *ret_number = value;
    return true;
}

/* ---- the parts of a domain ---- */

static bool unit_bytes(const char *unit, uint64_t *ret_bytes)
{
    static const struct {
        const char *names; /* separated by | */
        uint64_t bytes;
    } units[] = {
        {"|b|bytes|", 1},
        {"|KB|", 1000},
        {"|k|KiB|", UINT64_C(1) << 10},
        {"|MB|", 1000000},
        {"|M|MiB|", UINT64_C(1) << 20},
        {"|GB|", 1000000000},
        {"|G|GiB|", UINT64_C(1) << 30},
        {"|TB|", 1000000000000},
        {"|T|TiB|", UINT64_C(1) << 40},
    };
    char wanted[16];
    if (snprintf(wanted, sizeof wanted, "|%s|", unit) >= (int)sizeof wanted)
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        if (strstr(units[i].names, wanted)) {
            *ret_bytes = units[i].bytes;
            return true;
        }
    }
    return false;
}

static void read_memory(struct import *import, const xmlNode *domain)
{
    const xmlNode *node = child(domain, "memory");
    char unit[VALUE_SIZE], text[VALUE_SIZE];
    uint64_t count, bytes;
    if (!node)
        return;
    (void)attribute(node, "unit", unit);
    if (!unit_bytes(unit[0] ? unit : "KiB", &bytes) || !number(content(node, text), &count) ||
        count > UINT64_MAX / bytes) {
        import_obstacle(import, "memory: '%.32s %.16s' is no size", text, unit);
        return;
    }
    const xmlNode *backing = child(domain, "memoryBacking");
    import_set_memory(import, count * bytes, child(backing, "hugepages") != NULL);
}

static void read_vcpus(struct import *import, const xmlNode *domain)
{
    char text[VALUE_SIZE], current[VALUE_SIZE];
    const xmlNode *node = child(domain, "vcpu");
    uint64_t count;
    if (!node)
        return;
    (void)attribute(node, "current", current);
    if (!number(current[0] ? current : content(node, text), &count)) {
        import_obstacle(import, "vcpu: '%.32s' is no number", current[0] ? current : text);
        return;
    }
    if (current[0])
        import_note(import, "vCPUs that can be added later are left out: it gets %" PRIu64, count);
    import_set_vcpus(import, count);
}

static int read_boot(struct import *import, const xmlNode *domain, struct fault *fault)
{
    const xmlNode *os = child(domain, "os");
    char text[VALUE_SIZE], machine[VALUE_SIZE];
    const char *type = content(child(os, "type"), text);
    if (type[0] && strcmp(type, "hvm") != 0)
        import_obstacle(import, "os type '%.32s': only hvm", type);
    const char *arch = attribute(child(os, "type"), "arch", machine);
    if (arch[0] && strcmp(arch, "x86_64") != 0)
        import_obstacle(import, "architecture '%.32s': only x86_64", arch);
    if (child(os, "loader") || attribute(os, "firmware", text)[0])
        import_note(import, "there is no firmware: the kernel is loaded directly");

    Godwit__VmSpec *spec = import->spec;
    int r = import_set_text(&spec->kernel, content(child(os, "kernel"), text), fault);
    if (r == 0)
        r = import_set_text(&spec->initrd, content(child(os, "initrd"), text), fault);
    if (r == 0)
        r = import_set_text(&spec->cmdline, content(child(os, "cmdline"), text), fault);
    if (r < 0 || spec->kernel)
        return r;
    for (const xmlNode *node = os ? os->children : NULL; node; node = node->next) {
        if (is_named(node, "boot") && strcmp(attribute(node, "dev", text), "network") == 0)
            import_note(import, "booting from the network is left out");
    }
    import_note(import,
                "kernel, initrd and command line are taken from the first disk's own /boot");
    return import_set_text(&spec->boot, "disk", fault);
}

static void note_cpu(struct import *import, const xmlNode *domain)
{
    if (child(domain, "cpu"))
        import_note(import, "the CPU becomes the best baseline that every host of the pool gives");
    if (child(domain, "cputune") || child(domain, "numatune"))
        import_note(import, "CPU and NUMA pinning is left out");
}

static const char *disk_cache(const char *libvirt_cache)
{
    if (strcmp(libvirt_cache, "none") == 0 || strcmp(libvirt_cache, "directsync") == 0)
        return "direct";
    return libvirt_cache[0] && strcmp(libvirt_cache, "default") != 0 ? "host" : "";
}

static int read_disk(struct import *import, const xmlNode *node, struct fault *fault)
{
    char device[VALUE_SIZE], type[VALUE_SIZE], format[VALUE_SIZE], cache[VALUE_SIZE],
        name[VALUE_SIZE], bus[VALUE_SIZE], path[VALUE_SIZE], serial[VALUE_SIZE];
    const xmlNode *driver = child(node, "driver"), *source = child(node, "source");
    (void)attribute(node, "device", device);
    (void)attribute(node, "type", type);
    (void)attribute(driver, "type", format);
    (void)attribute(driver, "cache", cache);
    (void)attribute(child(node, "target"), "dev", name);
    (void)attribute(child(node, "target"), "bus", bus);
    (void)content(child(node, "serial"), serial);
    bool is_cdrom = strcmp(device, "cdrom") == 0;
    if (strcmp(device, "floppy") == 0 || (is_cdrom && !source)) {
        import_note(import, "the %s drive %.32s is left out", device, name);
        return 0;
    }
    if (strcmp(device, "lun") == 0 || (strcmp(type, "file") != 0 && strcmp(type, "block") != 0)) {
        import_obstacle(import, "disk %.32s: type %.32s; only files and block devices", name,
                        strcmp(device, "lun") == 0 ? "lun" : type);
        return 0;
    }
    (void)attribute(source, strcmp(type, "file") == 0 ? "file" : "dev", path);
    if (format[0] && strcmp(format, "raw") != 0) {
        import_obstacle(import,
                        "disk %.32s is %.16s, only raw: qemu-img convert -O raw %.96s NEW.raw",
                        name, format, path);
        return 0;
    }
    if (child(node, "encryption") || child(source, "encryption")) {
        import_obstacle(import, "disk %.32s is encrypted below the guest", name);
        return 0;
    }
    if (child(node, "backingStore") && child(child(node, "backingStore"), "source")) {
        import_obstacle(import, "disk %.32s has a backing file", name);
        return 0;
    }
    if (bus[0] && strcmp(bus, "virtio") != 0)
        import_note(import,
                    "disk %.32s leaves the %.16s bus for virtio: the guest should find it "
                    "by UUID or label",
                    name, bus);
    const struct import_disk disk = {
        .name = name,
        .path = path,
        .serial = serial,
        .cache = disk_cache(cache),
        .read_only = is_cdrom || child(node, "readonly"),
        .shared = child(node, "shareable"),
    };
    return import_add_disk(import, &disk, fault);
}

static int read_interface(struct import *import, const xmlNode *node, struct fault *fault)
{
    char type[VALUE_SIZE], bridge[VALUE_SIZE], network[VALUE_SIZE], mac[VALUE_SIZE],
        model[VALUE_SIZE], text[VALUE_SIZE];
    const xmlNode *source = child(node, "source");
    (void)attribute(node, "type", type);
    (void)attribute(source, "bridge", bridge);
    (void)attribute(source, "network", network);
    (void)attribute(child(node, "mac"), "address", mac);
    (void)attribute(child(node, "model"), "type", model);
    if (child(node, "vlan") || child(node, "virtualport"))
        import_obstacle(import,
                        "network card %.32s: VLANs and virtual ports are not for the "
                        "embedded VMM",
                        mac);
    if (strcmp(model, "virtio") != 0)
        import_note(import, "network card %.32s becomes a virtio card", mac);

    struct import_nic nic = {.mac = mac};
    if (strcmp(type, "bridge") == 0)
        nic.bridge = bridge;
    else
        nic.network = network[0] ? network : type;
    (void)number(attribute(child(node, "driver"), "queues", text), &nic.queues);
    (void)number(attribute(child(node, "mtu"), "size", text), &nic.mtu);
    return import_add_nic(import, &nic, fault);
}

static int read_vsock(struct import *import, const xmlNode *node, struct fault *fault)
{
    char text[VALUE_SIZE];
    uint64_t cid;
    if (!number(attribute(child(node, "cid"), "address", text), &cid) || cid < 3 ||
        cid >= UINT32_MAX) {
        import_note(import, "a vsock without a fixed address is left out");
        return 0;
    }
    Godwit__VsockSpec *vsock = calloc(1, sizeof *vsock);
    if (!vsock)
        return fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
    godwit__vsock_spec__init(vsock);
    vsock->has_cid = true;
    vsock->cid = (uint32_t)cid;
    if (import->spec->vsock)
        godwit__vsock_spec__free_unpacked(import->spec->vsock, NULL);
    import->spec->vsock = vsock;
    return 0;
}

enum fate { READ, IGNORED, LEFT_OUT, IN_THE_WAY };

/* What becomes of a device that is not read: what nobody misses, what is told, what is needed. */
static const struct {
    const char *name;
    enum fate fate;
} fates[] = {
    {"disk", READ},
    {"interface", READ},
    {"rng", READ},
    {"memballoon", READ},
    {"vsock", READ},
    {"emulator", IGNORED},
    {"controller", IGNORED},
    {"serial", IGNORED},
    {"console", IGNORED},
    {"input", LEFT_OUT},
    {"graphics", LEFT_OUT},
    {"video", LEFT_OUT},
    {"sound", LEFT_OUT},
    {"audio", LEFT_OUT},
    {"channel", LEFT_OUT},
    {"parallel", LEFT_OUT},
    {"redirdev", LEFT_OUT},
    {"redirfilter", LEFT_OUT},
    {"smartcard", LEFT_OUT},
    {"panic", LEFT_OUT},
    {"watchdog", LEFT_OUT},
    {"hub", LEFT_OUT},
    {"hostdev", IN_THE_WAY},
    {"tpm", IN_THE_WAY},
    {"filesystem", IN_THE_WAY},
    {"shmem", IN_THE_WAY},
    {"memory", IN_THE_WAY},
    {"iommu", IN_THE_WAY},
    {"nvram", IN_THE_WAY},
    {"lease", IN_THE_WAY},
    {"crypto", IN_THE_WAY},
};

static int read_device(struct import *import, const xmlNode *node, struct fault *fault)
{
    const char *name = (const char *)node->name;
    char text[VALUE_SIZE];
    if (is_named(node, "disk"))
        return read_disk(import, node, fault);
    if (is_named(node, "interface"))
        return read_interface(import, node, fault);
    if (is_named(node, "vsock"))
        return read_vsock(import, node, fault);
    if (is_named(node, "rng"))
        import->spec->has_rng = import->spec->rng = true;
    if (is_named(node, "memballoon") && strcmp(attribute(node, "model", text), "none") != 0)
        import->spec->has_balloon = import->spec->balloon = true;
    for (size_t i = 0; i < ARRAY_COUNT(fates); i++) {
        if (!is_named(node, fates[i].name))
            continue;
        if (fates[i].fate == LEFT_OUT)
            import_note(import, "device '%.32s' is left out", name);
        else if (fates[i].fate == IN_THE_WAY)
            import_obstacle(import, "device '%.32s' is not for the embedded VMM", name);
        return 0;
    }
    import_obstacle(import, "device '%.32s' is not known", name);
    return 0;
}

static int read_devices(struct import *import, const xmlNode *domain, struct fault *fault)
{
    const xmlNode *devices = child(domain, "devices");
    for (const xmlNode *node = devices ? devices->children : NULL; node; node = node->next) {
        int r = is_ours(node) ? read_device(import, node, fault) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static void read_rest(struct import *import, const xmlNode *domain)
{
    char text[VALUE_SIZE];
    const char *type = attribute(domain, "type", text);
    if (strcmp(type, "kvm") != 0 && strcmp(type, "qemu") != 0)
        import_obstacle(import, "domain type '%.32s': only kvm and qemu", type);
    for (const xmlNode *node = domain->children; node; node = node->next) {
        if (node->type != XML_ELEMENT_NODE)
            continue;
        if (node->ns && is_named(node, "commandline"))
            import_obstacle(import, "it gives QEMU words of its own (qemu:commandline)");
        else if (is_named(node, "launchSecurity"))
            import_obstacle(import, "encrypted guest memory (launchSecurity)");
        else if (is_named(node, "on_crash") && strcmp(content(node, text), "destroy") != 0)
            import_note(import, "on_crash '%.32s' is left out: a crashed VM stands still", text);
    }
}

/* ---- the whole ---- */

static int parse(const char *text, size_t count, xmlDoc **ret_doc, struct fault *fault)
{
    if (count > IMPORT_TEXT_MAX)
        return fault_set(fault, ERR_LIMIT, "%zu bytes are more than a domain has (%d)", count,
                         IMPORT_TEXT_MAX);
    xmlParserCtxt *context = xmlNewParserCtxt();
    if (!context)
        return fault_set(fault, ERR_NOMEM, "no memory to read XML");
    AUTO(doc_free_p)
    xmlDoc *doc = xmlCtxtReadMemory(context, text, (int)count, NULL, NULL,
                                    XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    int r = 0;
    if (!doc) {
        const xmlError *error = xmlCtxtGetLastError(context);
        char words[120] = "not XML";
        if (error && error->message)
            (void)snprintf(words, sizeof words, "%.*s", (int)strcspn(error->message, "\n"),
                           error->message);
        r = fault_set(fault, ERR_INVALID, "line %d: %s", error ? error->line : 0, words);
    } else if (doc->intSubset) {
        r = fault_set(fault, ERR_INVALID, "a document type declaration is not accepted");
    }
    xmlFreeParserCtxt(context);
    if (r == 0)
        *ret_doc = TAKE(doc);
    return r;
}

int import_libvirt(struct import *import, const char *text, size_t count, struct fault *fault)
{
    AUTO(doc_free_p) xmlDoc *doc = NULL;
    int r = parse(text, count, &doc, fault);
    if (r < 0)
        return r;
    const xmlNode *domain = xmlDocGetRootElement(doc);
    if (!domain || !is_named(domain, "domain"))
        return fault_set(fault, ERR_INVALID, "found <%.32s>, a domain begins with <domain>",
                         domain ? (const char *)domain->name : "");
    char name[VALUE_SIZE];
    read_rest(import, domain);
    read_memory(import, domain);
    read_vcpus(import, domain);
    note_cpu(import, domain);
    if ((r = import_set_name(import, content(child(domain, "name"), name), fault)) < 0 ||
        (r = read_boot(import, domain, fault)) < 0 || (r = read_devices(import, domain, fault)) < 0)
        return r;
    import_finish(import);
    return 0;
}
