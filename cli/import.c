#include "cli/import.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "proto/limits.h"

enum { QUEUES_MAX = 8, MEMORY_STEP = 2 << 20, MTU_MAX = 65535 };

int import_init(struct import *import, const char *bridges, struct fault *fault)
{
    *import = (struct import){.bridges = bridges};
    Godwit__VmSpec *spec = calloc(1, sizeof *spec);
    Godwit__CpuSpec *cpu = calloc(1, sizeof *cpu);
    Godwit__MemorySpec *memory = calloc(1, sizeof *memory);
    if (!spec || !cpu || !memory) {
        free(spec);
        free(cpu);
        free(memory);
        return fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
    }
    godwit__vm_spec__init(spec);
    godwit__cpu_spec__init(cpu);
    godwit__memory_spec__init(memory);
    spec->has_version = true;
    spec->version = 1;
    spec->cpu = cpu;
    spec->memory = memory;
    import->spec = spec;
    return 0;
}

void import_deinit(struct import *import)
{
    if (import->spec)
        godwit__vm_spec__free_unpacked(import->spec, NULL);
    import->spec = NULL;
}

/* What a file says ends up on a terminal: no control characters. */
static void make_plain(char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
    }
}

__attribute__((format(printf, 2, 0))) static void add_line(struct import_lines *lines,
                                                           const char *format, va_list arguments)
{
    if (lines->count == IMPORT_LINES_MAX) {
        lines->overflow = true;
        return;
    }
    char *line = lines->text[lines->count];
    (void)vsnprintf(line, IMPORT_LINE_SIZE, format, arguments); /* cut where it is too long */
    make_plain(line);
    for (unsigned i = 0; i < lines->count; i++) {
        if (strcmp(lines->text[i], line) == 0)
            return;
    }
    lines->count++;
}

void import_note(struct import *import, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add_line(&import->notes, format, arguments);
    va_end(arguments);
}

void import_obstacle(struct import *import, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add_line(&import->obstacles, format, arguments);
    va_end(arguments);
}

int import_set_text(char **field, const char *text, struct fault *fault)
{
    if (!text || !text[0])
        return 0;
    char *copy = strdup(text);
    if (!copy)
        return fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
    free(*field);
    *field = copy;
    return 0;
}

int import_set_name(struct import *import, const char *name, struct fault *fault)
{
    if (!id_name_is_valid(name)) {
        import_obstacle(import, "the name '%.63s' does not fit: letters, digits and . _ - only",
                        name);
        return 0;
    }
    return import_set_text(&import->spec->name, name, fault);
}

void import_set_memory(struct import *import, uint64_t bytes, bool huge_pages)
{
    Godwit__MemorySpec *memory = import->spec->memory;
    if (bytes > VM_MEMORY_MAX) {
        import_obstacle(import, "%llu MiB of memory: a VM has %llu MiB at most",
                        (unsigned long long)(bytes >> 20),
                        (unsigned long long)(VM_MEMORY_MAX >> 20));
        return;
    }
    if (bytes < VM_MEMORY_MIN) {
        import_obstacle(import, "%llu KiB of memory: a VM has %llu MiB at least",
                        (unsigned long long)(bytes >> 10),
                        (unsigned long long)(VM_MEMORY_MIN >> 20));
        return;
    }
    uint64_t whole = (bytes + MEMORY_STEP - 1) / MEMORY_STEP * MEMORY_STEP;
    if (whole != bytes)
        import_note(import, "memory is rounded up to %llu MiB", (unsigned long long)(whole >> 20));
    memory->has_size = true;
    memory->size = whole;
    if (huge_pages) {
        memory->has_hugepages = true;
        memory->hugepages = true;
    }
}

void import_set_vcpus(struct import *import, uint64_t vcpus)
{
    if (vcpus < 1 || vcpus > VCPUS_MAX) {
        import_obstacle(import, "%llu vCPUs: a VM has 1 to %d", (unsigned long long)vcpus,
                        VCPUS_MAX);
        return;
    }
    import->spec->cpu->has_vcpus = true;
    import->spec->cpu->vcpus = (uint32_t)vcpus;
}

/* Room for one more pointer in a message's list. */
static int grow(void ***list, size_t count, struct fault *fault)
{
    void **grown = reallocarray(*list, count + 1, sizeof **list);
    if (!grown)
        return fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
    *list = grown;
    return 0;
}

int import_add_disk(struct import *import, const struct import_disk *disk, struct fault *fault)
{
    Godwit__VmSpec *spec = import->spec;
    if (!disk->path || disk->path[0] != '/') {
        import_obstacle(import, "disk %.32s: its file or device is not told with a whole path",
                        disk->name);
        return 0;
    }
    if (spec->n_disks == IMPORT_DISKS_MAX) {
        import_obstacle(import, "more than %d disks", IMPORT_DISKS_MAX);
        return 0;
    }
    int r = grow((void ***)&spec->disks, spec->n_disks, fault);
    if (r < 0)
        return r;
    Godwit__DiskSpec *added = calloc(1, sizeof *added);
    if (!added)
        return fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
    godwit__disk_spec__init(added);
    spec->disks[spec->n_disks++] = added;

    char name[24];
    (void)snprintf(name, sizeof name, "disk%zu", spec->n_disks - 1);
    if ((r = import_set_text(&added->name, id_name_is_valid(disk->name) ? disk->name : name,
                             fault)) < 0 ||
        (r = import_set_text(&added->path, disk->path, fault)) < 0 ||
        (r = import_set_text(&added->serial, disk->serial, fault)) < 0 ||
        (r = import_set_text(&added->cache, disk->cache, fault)) < 0)
        return r;
    added->has_read_only = disk->read_only;
    added->read_only = disk->read_only;
    added->has_shared = disk->shared;
    added->shared = disk->shared;
    return 0;
}

/* The bridge of "NETWORK=BRIDGE,..." for a network, malloc'ed; NULL: not named. */
static char *bridge_of(const char *bridges, const char *network)
{
    size_t length = strlen(network);
    for (const char *at = bridges; at && *at;) {
        const char *end = strchrnul(at, ',');
        if (strncmp(at, network, length) == 0 && at[length] == '=' && at + length + 1 < end)
            return strndup(at + length + 1, (size_t)(end - at) - length - 1);
        at = *end ? end + 1 : end;
    }
    return NULL;
}

int import_add_nic(struct import *import, const struct import_nic *nic, struct fault *fault)
{
    Godwit__VmSpec *spec = import->spec;
    const char *network = nic->network ? nic->network : "";
    AUTO_FREE char *mapped = bridge_of(import->bridges, nic->bridge ? nic->bridge : network);
    const char *bridge = mapped ? mapped : nic->bridge;
    if (!bridge || !bridge[0]) {
        import_obstacle(
            import,
            "a network card is on '%.63s', which is no bridge: name one with --bridge %.63s=BRIDGE",
            network[0] ? network : "none", network[0] ? network : "none");
        return 0;
    }
    if (spec->n_nics == IMPORT_NICS_MAX) {
        import_obstacle(import, "more than %d network cards", IMPORT_NICS_MAX);
        return 0;
    }
    int r = grow((void ***)&spec->nics, spec->n_nics, fault);
    if (r < 0)
        return r;
    Godwit__NicSpec *added = calloc(1, sizeof *added);
    if (!added)
        return fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
    godwit__nic_spec__init(added);
    spec->nics[spec->n_nics++] = added;
    if ((r = import_set_text(&added->bridge, bridge, fault)) < 0 ||
        (r = import_set_text(&added->mac, nic->mac, fault)) < 0)
        return r;
    if (nic->queues > 1) {
        added->has_queues = true;
        added->queues = (uint32_t)(nic->queues > QUEUES_MAX ? QUEUES_MAX : nic->queues);
    }
    if (nic->mtu > 0 && nic->mtu <= MTU_MAX) {
        added->has_mtu = true;
        added->mtu = (uint32_t)nic->mtu;
    }
    return 0;
}

void import_finish(struct import *import)
{
    Godwit__VmSpec *spec = import->spec;
    if (!spec->name && import->obstacles.count == 0)
        import_obstacle(import, "it has no name");
    if (!spec->memory->has_size && import->obstacles.count == 0)
        import_obstacle(import, "it does not say how much memory it has");
    if (!spec->cpu->has_vcpus && import->obstacles.count == 0)
        import_set_vcpus(import, 1);
    if (!spec->kernel && !spec->boot && import->obstacles.count == 0)
        import_obstacle(import, "it has neither a kernel nor a disk to boot from");
    if (spec->boot && spec->n_disks == 0 && import->obstacles.count == 0)
        import_obstacle(import, "it boots from a disk and has none");
}
