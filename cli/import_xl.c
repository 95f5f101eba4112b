/* Two steps: the text becomes settings (name = value), then each setting finds its row in a table.
 *
 *   disk = [ 'phy:/dev/vg/web,xvda,w',  '/srv/d.img,raw,xvdb,rw',  'format=raw, vdev=xvdc,
 * target=/x' ] vif  = [ 'mac=00:16:3e:00:00:01,bridge=xenbr0' ]
 */
#include "cli/import_xl.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/import.h"

enum { NAME_SIZE = 64, VALUE_SIZE = 4096, VALUES_MAX = 32, PARTS_MAX = 16 };

/* One setting, read whole before it is judged. */
struct setting {
    char name[NAME_SIZE];
    bool is_list;
    unsigned count; /* of values; 1 for one that is no list */
    char values[VALUES_MAX][VALUE_SIZE];
};

struct reader {
    const char *at, *end;
    unsigned line;
};

/* ---- text -> settings ---- */

static int refuse(const struct reader *reader, struct fault *fault, const char *what)
{
    return fault_set(fault, ERR_INVALID, "line %u: %s", reader->line, what);
}

/* Spaces and comments; with `lines` line ends too. */
static void skip(struct reader *reader, bool lines)
{
    while (reader->at < reader->end) {
        char c = *reader->at;
        if (c == '#') {
            while (reader->at < reader->end && *reader->at != '\n')
                reader->at++;
            continue;
        }
        if (c != ' ' && c != '\t' && c != '\r' && !(lines && (c == '\n' || c == ';')))
            return;
        reader->line += c == '\n';
        reader->at++;
    }
}

static bool next_is(const struct reader *reader, char c)
{
    return reader->at < reader->end && *reader->at == c;
}

static int read_string(struct reader *reader, char ret_value[static VALUE_SIZE],
                       struct fault *fault)
{
    char quote = *reader->at++;
    size_t used = 0;
    for (; reader->at < reader->end && *reader->at != quote; reader->at++) {
        char c = *reader->at;
        if (c == '\\' && reader->at + 1 < reader->end)
            c = *++reader->at;
        if (c == '\n' || c == '\0')
            return refuse(reader, fault, "a string that does not end on its line");
        if (used + 1 >= VALUE_SIZE)
            return refuse(reader, fault, "a string that is too long");
        ret_value[used++] = c;
    }
    if (!next_is(reader, quote))
        return refuse(reader, fault, "a string that does not end");
    reader->at++;
    ret_value[used] = '\0';
    return 0;
}

/* A string, or a bare word or number. */
static int read_value(struct reader *reader, char ret_value[static VALUE_SIZE], struct fault *fault)
{
    if (next_is(reader, '"') || next_is(reader, '\''))
        return read_string(reader, ret_value, fault);
    size_t used = 0;
    while (reader->at < reader->end && used + 1 < NAME_SIZE &&
           (isalnum((unsigned char)*reader->at) || strchr("_.-", *reader->at)) && *reader->at)
        ret_value[used++] = *reader->at++;
    ret_value[used] = '\0';
    return used ? 0 : refuse(reader, fault, "expected a string, a number or a list");
}

static int read_list(struct reader *reader, struct setting *setting, struct fault *fault)
{
    reader->at++;
    setting->is_list = true;
    for (skip(reader, true); !next_is(reader, ']'); skip(reader, true)) {
        if (reader->at == reader->end)
            return refuse(reader, fault, "a list that does not end");
        if (setting->count == VALUES_MAX)
            return refuse(reader, fault, "a list that is too long");
        int r = read_value(reader, setting->values[setting->count], fault);
        if (r < 0)
            return r;
        setting->count++;
        skip(reader, true);
        if (next_is(reader, ','))
            reader->at++;
        else if (!next_is(reader, ']'))
            return refuse(reader, fault, "expected ',' or ']' in a list");
    }
    reader->at++;
    return 0;
}

static int read_setting(struct reader *reader, struct setting *setting, struct fault *fault)
{
    size_t used = 0;
    setting->is_list = false;
    setting->count = 0;
    while (reader->at < reader->end && used + 1 < NAME_SIZE && *reader->at &&
           (isalnum((unsigned char)*reader->at) || *reader->at == '_'))
        setting->name[used++] = *reader->at++;
    setting->name[used] = '\0';
    skip(reader, false);
    if (!used || !next_is(reader, '='))
        return refuse(reader, fault, "expected NAME = VALUE");
    reader->at++;
    skip(reader, false);
    int r = next_is(reader, '[') ? read_list(reader, setting, fault)
                                 : read_value(reader, setting->values[0], fault);
    if (r < 0)
        return r;
    if (!setting->is_list)
        setting->count = 1;
    skip(reader, false);
    if (reader->at < reader->end && *reader->at != '\n' && *reader->at != ';')
        return refuse(reader, fault,
                      "expected the end of the line: values that compute are not read");
    return 0;
}

/* ---- parts of a value: "a,b,key=value" ---- */

struct parts {
    char text[VALUE_SIZE];
    char *part[PARTS_MAX];
    unsigned count;
};

static void split(const char *value, struct parts *parts)
{
    (void)snprintf(parts->text, sizeof parts->text, "%s", value);
    parts->count = 0;
    for (char *at = parts->text; at && parts->count < PARTS_MAX;) {
        char *comma = strchr(at, ',');
        if (comma)
            *comma = '\0';
        at += strspn(at, " \t");
        for (char *end = at + strlen(at); end > at && (end[-1] == ' ' || end[-1] == '\t');)
            *--end = '\0';
        parts->part[parts->count++] = at;
        at = comma ? comma + 1 : NULL;
    }
}

/* The value of "key=value", NULL when the part has another key. */
static const char *value_of(const char *part, const char *key)
{
    size_t length = strlen(key);
    return strncmp(part, key, length) == 0 && part[length] == '=' ? part + length + 1 : NULL;
}

/* ---- disks ---- */

struct disk {
    const char *target, *format, *vdev, *access;
    bool is_cdrom;
};

/* The older "phy:", "file:", "tap:aio:" in front of a target. */
static const char *strip_prefix(const char *target, const char **format)
{
    static const char *const prefixes[] = {
        "phy:", "file:", "tap:aio:", "tap2:aio:", "aio:", "raw:"};
    for (size_t i = 0; i < ARRAY_COUNT(prefixes); i++) {
        size_t length = strlen(prefixes[i]);
        if (strncmp(target, prefixes[i], length) == 0) {
            *format = "raw";
            return target + length;
        }
    }
    return target;
}

static void take_positional(struct disk *disk, unsigned position, const char *part, bool old_style)
{
    static const unsigned order_of_old[] = {0, 2, 3}; /* target, vdev, access */
    unsigned meaning =
        old_style && position < ARRAY_COUNT(order_of_old) ? order_of_old[position] : position;
    if (meaning == 0)
        disk->target = strip_prefix(part, &disk->format);
    else if (meaning == 1 && part[0])
        disk->format = part;
    else if (meaning == 2)
        disk->vdev = part;
    else if (meaning == 3)
        disk->access = part;
}

static void read_parts(const struct parts *parts, struct disk *disk)
{
    const char *first = parts->part[0];
    bool old_style = strncmp(first, "phy:", 4) == 0 || strncmp(first, "file:", 5) == 0 ||
                     strncmp(first, "tap", 3) == 0;
    unsigned position = 0;
    for (unsigned i = 0; i < parts->count; i++) {
        const char *part = parts->part[i], *value;
        if ((value = value_of(part, "target")))
            disk->target = strip_prefix(value, &disk->format);
        else if ((value = value_of(part, "format")))
            disk->format = value;
        else if ((value = value_of(part, "vdev")))
            disk->vdev = value;
        else if ((value = value_of(part, "access")))
            disk->access = value;
        else if (strcmp(part, "devtype=cdrom") == 0 || strcmp(part, "cdrom") == 0)
            disk->is_cdrom = true;
        else if (!strchr(part, '='))
            take_positional(disk, position++, part, old_style);
    }
    size_t length = disk->vdev ? strlen(disk->vdev) : 0;
    if (length > 6 && strcmp(disk->vdev + length - 6, ":cdrom") == 0)
        disk->is_cdrom = true;
}

static int add_disk(struct import *import, const char *value, struct fault *fault)
{
    struct parts parts;
    struct disk disk = {.format = "raw", .access = "rw"};
    split(value, &parts);
    read_parts(&parts, &disk);
    if (disk.is_cdrom && (!disk.target || !disk.target[0])) {
        import_note(import, "an empty CD drive is left out");
        return 0;
    }
    if (strcmp(disk.format, "raw") != 0) {
        import_obstacle(import,
                        "disk %.32s is %.16s, only raw: qemu-img convert -O raw %.96s NEW.raw",
                        disk.vdev ? disk.vdev : "", disk.format, disk.target ? disk.target : "");
        return 0;
    }
    char name[32];
    (void)snprintf(name, sizeof name, "%.*s", disk.vdev ? (int)strcspn(disk.vdev, ":") : 0,
                   disk.vdev ? disk.vdev : "");
    if (strncmp(name, "xvd", 3) == 0 || strncmp(name, "hd", 2) == 0 || strncmp(name, "sd", 2) == 0)
        import_note(import,
                    "disk %s has another name in the guest (vda, vdb ...): its fstab and root= "
                    "should name it by UUID or label",
                    name);
    const struct import_disk added = {
        .name = name,
        .path = disk.target,
        .read_only =
            disk.is_cdrom || disk.access[0] == 'r' ? strcmp(disk.access, "rw") != 0 : false,
        .shared = strcmp(disk.access, "w!") == 0,
    };
    return import_add_disk(import, &added, fault);
}

static int add_vif(struct import *import, const char *value, struct fault *fault)
{
    struct parts parts;
    struct import_nic nic = {.network = "xen's default bridge"};
    split(value, &parts);
    for (unsigned i = 0; i < parts.count; i++) {
        const char *part = parts.part[i], *found;
        if ((found = value_of(part, "bridge")))
            nic.bridge = found;
        else if ((found = value_of(part, "mac")))
            nic.mac = found;
        else if ((found = value_of(part, "mtu")))
            nic.mtu = strtoull(found, NULL, 10);
        else if (value_of(part, "ip") || value_of(part, "script") || value_of(part, "rate") ||
                 value_of(part, "vifname") || value_of(part, "gatewaydev"))
            import_note(import, "'%.60s' of a network card is left out", part);
    }
    return import_add_nic(import, &nic, fault);
}

/* ---- settings ---- */

struct words { /* that together make the command line */
    char root[VALUE_SIZE], extra[VALUE_SIZE], cmdline[VALUE_SIZE];
    uint64_t memory_mib, maxmem_mib, vcpus, maxvcpus;
};

static bool whole_number(const char *text, uint64_t *ret_number)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end || text[0] == '-')
        return false;
    *ret_number = value;
    return true;
}

static int set_number(struct import *import, const struct setting *setting, uint64_t *field)
{
    if (!whole_number(setting->values[0], field))
        import_obstacle(import, "%s: '%.32s' is no whole number", setting->name,
                        setting->values[0]);
    return 0;
}

static int set_kind(struct import *import, const struct setting *setting)
{
    const char *value = setting->values[0];
    if (strcmp(value, "hvm") == 0 || strcmp(value, "pv") == 0 || strcmp(value, "pvh") == 0 ||
        strcmp(value, "linux") == 0 || strcmp(value, "generic") == 0) {
        import_note(import, "a %s guest becomes a KVM guest: its kernel needs virtio drivers",
                    setting->name[0] == 'b' && strcmp(value, "hvm") != 0 ? "pv" : value);
        return 0;
    }
    import_obstacle(import, "%s '%.32s' is not known", setting->name, value);
    return 0;
}

static int set_bootloader(struct import *import, const char *value, struct fault *fault)
{
    const char *slash = strrchr(value, '/');
    const char *name = slash ? slash + 1 : value;
    if (strcmp(name, "pygrub") != 0) {
        import_obstacle(import, "bootloader '%.60s': only pygrub", value);
        return 0;
    }
    return import_set_text(&import->spec->boot, "disk", fault);
}

static const char *const left_out[] = {
    "vfb",
    "vnc",
    "vnclisten",
    "vncpasswd",
    "vncunused",
    "sdl",
    "spice",
    "stdvga",
    "serial",
    "usb",
    "usbdevice",
    "soundhw",
    "localtime",
    "keymap",
    "cpus",
    "cpu_weight",
    "on_crash",
    "device_model",
    "device_model_version",
    "acpi",
    "apic",
    "pae",
    "nx",
    "hap",
    "viridian",
    "boot",
    "videoram",
    "nographic",
    "uuid",
    "bootargs",
    "bootloader_args",
    "xen_platform_pci",
    "timer_mode",
    "tsc_mode",
    "rtc_timeoffset",
    "shadow_memory",
    "bios",
    "pool",
    "nestedhvm",
    "vga",
    "cap",
    "cpuid",
    "keymaps",
    "monitor",
    "stdio",
    "seclabel",
};

static bool is_left_out(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(left_out); i++) {
        if (strcmp(left_out[i], name) == 0)
            return true;
    }
    return false;
}

static int each_value(struct import *import, const struct setting *setting,
                      int (*add)(struct import *import, const char *value, struct fault *fault),
                      struct fault *fault)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < setting->count; i++)
        r = add(import, setting->values[i], fault);
    return r;
}

static void check_on_event(struct import *import, const struct setting *setting, const char *usual)
{
    if (strcmp(setting->values[0], usual) != 0)
        import_note(import, "%s '%.32s' is left out: it is always '%s'", setting->name,
                    setting->values[0], usual);
}

static int apply(struct import *import, const struct setting *setting, struct words *words,
                 struct fault *fault)
{
    static const char *const alone[] = {"name",   "memory",  "maxmem", "vcpus", "maxvcpus",
                                        "kernel", "ramdisk", "extra",  "root",  "cmdline"};
    const char *name = setting->name, *value = setting->values[0];
    Godwit__VmSpec *spec = import->spec;
    for (size_t i = 0; i < ARRAY_COUNT(alone); i++) {
        if (strcmp(alone[i], name) == 0 && setting->is_list)
            return fault_set(fault, ERR_INVALID, "%s is one value, not a list", name);
    }
    if (setting->count == 0)
        return 0; /* an empty list says nothing */
    if (strcmp(name, "name") == 0)
        return import_set_name(import, value, fault);
    if (strcmp(name, "memory") == 0)
        return set_number(import, setting, &words->memory_mib);
    if (strcmp(name, "maxmem") == 0)
        return set_number(import, setting, &words->maxmem_mib);
    if (strcmp(name, "vcpus") == 0)
        return set_number(import, setting, &words->vcpus);
    if (strcmp(name, "maxvcpus") == 0)
        return set_number(import, setting, &words->maxvcpus);
    if (strcmp(name, "kernel") == 0)
        return import_set_text(&spec->kernel, value, fault);
    if (strcmp(name, "ramdisk") == 0)
        return import_set_text(&spec->initrd, value, fault);
    if (strcmp(name, "root") == 0 || strcmp(name, "extra") == 0 || strcmp(name, "cmdline") == 0) {
        char *field = name[0] == 'r' ? words->root : name[0] == 'e' ? words->extra : words->cmdline;
        memcpy(field, value, VALUE_SIZE);
        return 0;
    }
    if (strcmp(name, "disk") == 0)
        return each_value(import, setting, add_disk, fault);
    if (strcmp(name, "vif") == 0)
        return each_value(import, setting, add_vif, fault);
    if (strcmp(name, "bootloader") == 0)
        return set_bootloader(import, value, fault);
    if (strcmp(name, "builder") == 0 || strcmp(name, "type") == 0)
        return set_kind(import, setting);
    if (strcmp(name, "on_poweroff") == 0)
        check_on_event(import, setting, "destroy");
    else if (strcmp(name, "on_reboot") == 0)
        check_on_event(import, setting, "restart");
    else if (strcmp(name, "pci") == 0 || strcmp(name, "dtdev") == 0 || strcmp(name, "vtpm") == 0 ||
             strcmp(name, "p9") == 0 || strcmp(name, "usbctrl") == 0)
        import_obstacle(import, "'%s' gives the guest a device that is not for the embedded VMM",
                        name);
    else if (is_left_out(name))
        import_note(import, "'%s' is left out", name);
    else
        import_obstacle(import, "'%s' is not known", name);
    return 0;
}

static int conclude(struct import *import, const struct words *words, struct fault *fault)
{
    Godwit__VmSpec *spec = import->spec;
    char line[3 * VALUE_SIZE];
    if (words->memory_mib > UINT64_MAX >> 20)
        import_obstacle(import, "memory: more than there is");
    else if (words->memory_mib)
        import_set_memory(import, words->memory_mib << 20, false);
    if (words->maxmem_mib > words->memory_mib)
        import_note(import, "maxmem is left out: it gets what 'memory' says");
    if (words->vcpus)
        import_set_vcpus(import, words->vcpus);
    if (words->maxvcpus > words->vcpus)
        import_note(import, "maxvcpus is left out: it gets what 'vcpus' says");
    if (words->cmdline[0])
        (void)snprintf(line, sizeof line, "%s%s%s", words->cmdline, words->extra[0] ? " " : "",
                       words->extra);
    else
        (void)snprintf(line, sizeof line, "%s%s%s%s", words->root[0] ? "root=" : "", words->root,
                       words->root[0] && words->extra[0] ? " " : "", words->extra);
    if (spec->boot && spec->kernel) {
        import_note(import, "it names a kernel, so its bootloader is left out");
        free(spec->boot);
        spec->boot = NULL;
    }
    if (!spec->kernel && !spec->boot && spec->n_disks > 0) {
        import_note(import,
                    "kernel, initrd and command line are taken from the first disk's own /boot");
        int r = import_set_text(&spec->boot, "disk", fault);
        if (r < 0)
            return r;
    }
    return import_set_text(&spec->cmdline, line, fault);
}

int import_xl(struct import *import, const char *text, size_t count, struct fault *fault)
{
    if (count > IMPORT_TEXT_MAX)
        return fault_set(fault, ERR_LIMIT, "%zu bytes are more than a domain file has (%d)", count,
                         IMPORT_TEXT_MAX);
    struct reader reader = {.at = text, .end = text + count, .line = 1};
    AUTO_FREE struct setting *setting = calloc(1, sizeof *setting);
    AUTO_FREE struct words *words = calloc(1, sizeof *words);
    if (!setting || !words)
        return fault_set(fault, ERR_NOMEM, "no memory to read the file");
    for (skip(&reader, true); reader.at < reader.end; skip(&reader, true)) {
        int r = read_setting(&reader, setting, fault);
        if (r == 0)
            r = apply(import, setting, words, fault);
        if (r < 0)
            return r;
    }
    int r = conclude(import, words, fault);
    if (r == 0)
        import_finish(import);
    return r;
}
