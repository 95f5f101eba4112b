#include "cli/up_file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "cli/vm_spec_file.h"
#include "proto/vm_spec.h"

static bool is_given(const char *text)
{
    return text && text[0];
}

/* Texts of an unpacked message come from malloc. */
static int set_text(char **field, const char *text, struct fault *fault)
{
    char *copy = strdup(text);

    if (!copy)
        return fault_set(fault, ERR_NOMEM, "no memory for the VMs of the file");
    if (*field && *field != (char *)(uintptr_t)protobuf_c_empty_string)
        free(*field);
    *field = copy;
    return 0;
}

/* The same numbers mean the same, so the bytes of one are the other's; what only the file says is
 * left out before. */
static Godwit__VmSpec *spec_of(const Godwit__UpVm *vm)
{
    Godwit__UpVm plain = *vm;
    plain.has_count = false;
    plain.image = NULL;
    size_t count = godwit__up_vm__get_packed_size(&plain);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);

    if (!bytes)
        return NULL;
    (void)godwit__up_vm__pack(&plain, bytes);
    Godwit__VmSpec *spec = godwit__vm_spec__unpack(NULL, count, bytes);
    if (spec) {
        spec->has_version = true;
        spec->version = 1;
    }
    return spec;
}

/* `image: NAME` of the VM: of its first disk, or of one that is put there. */
static int apply_image(Godwit__VmSpec *spec, const char *image, struct fault *fault)
{
    if (!is_given(image))
        return 0;
    if (spec->n_disks > 0 && is_given(spec->disks[0]->image))
        return fault_set(fault, ERR_INVALID,
                         "image: its first disk names an image already; one of the two would fit");
    Godwit__DiskSpec *disk = vm_spec_put_root(spec);
    return disk ? set_text(&disk->image, image, fault)
                : fault_set(fault, ERR_NOMEM, "no memory for the VMs of the file");
}

/* What can be only one VM's. */
static int judge_shared(const Godwit__VmSpec *spec, struct fault *fault)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = spec->disks[i];
        if (!disk->read_only && (is_given(disk->path) || is_given(disk->file)))
            return fault_set(fault, ERR_INVALID,
                             "disks[%zu]: with a count all would write the same file; a disk from "
                             "an image, without file, would fit",
                             i);
    }
    for (size_t i = 0; i < spec->n_nics; i++) {
        if (is_given(spec->nics[i]->mac))
            return fault_set(fault, ERR_INVALID,
                             "nics[%zu].mac: with a count all would have the same; none would fit",
                             i);
    }
    if (spec->vsock && spec->vsock->has_cid)
        return fault_set(fault, ERR_INVALID,
                         "vsock.cid: with a count all would have the same; none would fit");
    return 0;
}

static int add(struct up_file *file, const Godwit__UpVm *vm, uint32_t number, struct fault *fault)
{
    char name[2 * ID_NAME_MAX];
    Godwit__VmSpec *spec = file->count < UP_VMS_MAX ? spec_of(vm) : NULL;

    if (!spec)
        return fault_set(fault, file->count < UP_VMS_MAX ? ERR_NOMEM : ERR_LIMIT,
                         "the file declares more than %zu VMs", file->count);
    file->specs[file->count++] = spec; /* freed with the file from here on */
    int r = apply_image(spec, vm->image, fault);
    if (r == 0 && number > 0) {
        r = judge_shared(spec, fault);
        (void)snprintf(name, sizeof name, "%.80s-%u", spec->name ? spec->name : "", number);
        r = r < 0 ? r : set_text(&spec->name, name, fault);
    }
    if (r == 0)
        r = vm_spec_check(spec, fault);
    for (size_t i = 0; r == 0 && i + 1 < file->count; i++) {
        if (strcmp(file->specs[i]->name, spec->name) == 0)
            r = fault_set(fault, ERR_INVALID, "the name stands in the file twice");
    }
    return r < 0 ? fault_wrap(fault, r, "%.80s", is_given(spec->name) ? spec->name : "a VM") : 0;
}

int up_file_expand(const Godwit__UpFile *file, struct up_file *ret_file, struct fault *fault)
{
    struct up_file found = {.specs = calloc(UP_VMS_MAX, sizeof(Godwit__VmSpec *))};
    int r = found.specs ? 0 : fault_set(fault, ERR_NOMEM, "no memory for the VMs of the file");

    if (r == 0 && file->n_vms == 0)
        r = fault_set(fault, ERR_INVALID, "the file declares no VMs: found no item below 'vms:'");
    for (size_t i = 0; r == 0 && i < file->n_vms; i++) {
        const Godwit__UpVm *vm = file->vms[i];
        if (vm->has_count && (vm->count < 1 || vm->count > UP_COUNT_MAX))
            r = fault_set(fault, ERR_INVALID, "vms[%zu].count: found %u; 1 to %d would fit", i,
                          vm->count, UP_COUNT_MAX);
        for (uint32_t n = vm->has_count ? 1 : 0; r == 0 && n <= (vm->has_count ? vm->count : 0); n++)
            r = add(&found, vm, n, fault);
    }
    if (r < 0) {
        up_file_deinit(&found);
        return r;
    }
    *ret_file = found;
    return 0;
}

static int make_absolute(char **field, struct fault *fault)
{
    char here[PATH_MAX], path[2 * PATH_MAX];

    if (!is_given(*field) || (*field)[0] == '/')
        return 0;
    if (!getcwd(here, sizeof here))
        return fault_set_errno(fault, ERR_IO, errno, "cannot tell the current folder");
    const char *tail = strncmp(*field, "./", 2) == 0 ? *field + 2 : *field;
    (void)snprintf(path, sizeof path, "%s/%s", here, tail);
    return set_text(field, path, fault);
}

int up_file_read(const char *path, struct up_file *ret_file, struct fault *fault)
{
    Godwit__UpFile *bound = NULL;
    struct up_file file = {0};

    int r = vm_spec_file_read_as(path, &godwit__up_file__descriptor, &bound, fault);
    if (r < 0)
        return r;
    r = up_file_expand(bound, &file, fault);
    godwit__up_file__free_unpacked(bound, NULL);
    for (size_t i = 0; r == 0 && i < file.count; i++) {
        r = make_absolute(&file.specs[i]->kernel, fault);
        if (r == 0)
            r = make_absolute(&file.specs[i]->initrd, fault);
    }
    if (r < 0) {
        up_file_deinit(&file);
        return fault_wrap(fault, r, "%.120s", path);
    }
    *ret_file = file;
    return 0;
}

void up_file_deinit(struct up_file *file)
{
    for (size_t i = 0; i < file->count; i++)
        godwit__vm_spec__free_unpacked(file->specs[i], NULL);
    free(file->specs);
    *file = (struct up_file){0};
}
