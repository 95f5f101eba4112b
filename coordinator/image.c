#include "coordinator/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "coordinator/cluster_view.h"
#include "coordinator/rule.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum { FILE_NAME_SIZE = 2 * ID_NAME_MAX + 8, DISK_STEP = 4096 };

static bool is_given(const char *text)
{
    return text && text[0];
}

/* ---- names ---- */
static struct cluster_image *find(const struct cluster *cluster, const char *name)
{
    for (size_t i = 0; i < cluster->image_count; i++) {
        if (strcmp(cluster->images[i]->info->name, name) == 0)
            return cluster->images[i];
    }
    return NULL;
}

struct cluster_image *image_find(const struct cluster *cluster, const char *name,
                                 struct problem *problem)
{
    struct cluster_image *image = find(cluster, name);
    const char *names[IMAGES_MAX];

    if (image)
        return image;
    (void)problem_set(problem, GW_IMAGE_UNKNOWN, "there is no image '%.80s'", name);
    for (size_t i = 0; i < cluster->image_count; i++)
        names[i] = cluster->images[i]->info->name;
    const char *nearest = id_nearest(name, names, cluster->image_count);
    if (problem && nearest)
        problem_hint(problem, "did you mean '%s'?", nearest);
    else if (problem)
        problem_hint(problem, "godwit image ls");
    return NULL;
}

bool image_is_named(const struct cluster *cluster, const char *digest)
{
    for (size_t i = 0; i < cluster->image_count; i++) {
        if (strcmp(cluster->images[i]->info->digest, digest) == 0)
            return true;
    }
    return false;
}

static int judge_boot(const Godwit__ImageInfo *given, struct problem *problem)
{
    if (is_given(given->kernel) && given->kernel[0] != '/')
        return problem_set(problem, GW_IMAGE_INVALID,
                           "the kernel must be an absolute path on hosts, found '%.120s'",
                           given->kernel);
    if (is_given(given->initrd) && given->initrd[0] != '/')
        return problem_set(problem, GW_IMAGE_INVALID,
                           "the initrd must be an absolute path on hosts, found '%.120s'",
                           given->initrd);
    if (is_given(given->initrd) && !is_given(given->kernel))
        return problem_set(problem, GW_IMAGE_INVALID, "an initrd needs a kernel");
    if (given->cmdline && strlen(given->cmdline) > CMDLINE_MAX)
        return problem_set(problem, GW_IMAGE_INVALID,
                           "the kernel's command line has %zu bytes, possible are %d",
                           strlen(given->cmdline), CMDLINE_MAX);
    return 0;
}

int image_judge(const struct cluster *cluster, const Godwit__ImageInfo *given,
                struct problem *problem)
{
    if (!given || !given->name || !id_name_is_valid(given->name))
        return problem_set(problem, GW_IMAGE_INVALID,
                           "'%.80s' is no name for an image: 1 to %d letters, digits, '.', '_', "
                           "'-', the first a letter or digit",
                           given && given->name ? given->name : "", ID_NAME_MAX);
    if (!vm_spec_digest_is_valid(given->digest))
        return problem_set(problem, GW_IMAGE_INVALID, "image %s: '%.80s' is no SHA-256",
                           given->name, given->digest ? given->digest : "");
    if (given->size < IMAGE_BYTES_MIN || given->size > DISK_BYTES_MAX || given->size % 512 != 0)
        return problem_set(problem, GW_IMAGE_INVALID,
                           "image %s has %llu bytes; %d bytes to 64 TiB in whole sectors of 512 "
                           "would fit",
                           given->name, (unsigned long long)given->size, IMAGE_BYTES_MIN);
    if (judge_boot(given, problem) != 0)
        return -1;
    const struct cluster_image *image = find(cluster, given->name);
    if (image && strcmp(image->info->digest, given->digest) == 0)
        return IMAGE_E_SAME;
    if (image) {
        (void)problem_set(problem, GW_NAME_TAKEN, "there already is an image %s, of other content",
                          given->name);
        problem_hint(problem, "godwit image show %s", given->name);
        return -1;
    }
    if (cluster->image_count == IMAGES_MAX)
        return problem_set(problem, GW_POOL_FULL,
                           "the pool has %d images, which is all it may have", IMAGES_MAX);
    return 0;
}

int image_add(struct cluster *cluster, const Godwit__ImageInfo *given, struct cluster_now now,
              struct cluster_image **ret_image, struct problem *problem, struct cluster_todo *todo)
{
    int r = image_judge(cluster, given, problem);
    if (r < 0)
        return -1;
    if (r == IMAGE_E_SAME) {
        *ret_image = find(cluster, given->name);
        return 0;
    }
    Godwit__ImageInfo stored = *given;
    stored.n_hosts = stored.n_vms = 0;
    stored.has_created_unix_ms = true;
    stored.created_unix_ms = now.unix_ms;
    struct cluster_image *image = cluster_add_image(cluster);
    Godwit__ImageInfo *copy = image ? cluster_message_copy(&stored.base) : NULL;
    if (!copy) {
        if (image)
            cluster_drop_image(cluster, image);
        return problem_set(problem, GW_INTERNAL, "no memory for image %s", given->name);
    }
    image->info = copy;
    struct cluster_put *put = cluster_todo_put(todo, PUT_IMAGE);
    put->object = image;
    put->revision = image->revision++;
    cluster_todo_event(todo, "", "image %s imported, %.12s", copy->name, copy->digest);
    *ret_image = image;
    return 0;
}

static bool vm_names(const struct cluster_vm *vm, const char *name)
{
    for (size_t i = 0; i < vm->spec->n_disks; i++) {
        if (vm_spec_disk_is_clone(vm->spec->disks[i]) &&
            strcmp(vm->spec->disks[i]->image, name) == 0)
            return true;
    }
    return false;
}

int image_remove(struct cluster *cluster, const char *name, struct problem *problem,
                 struct cluster_todo *todo)
{
    struct cluster_image *image = image_find(cluster, name, problem);
    unsigned named = 0;

    if (!image)
        return -1;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (!vm_names(cluster->vms[i], name))
            continue;
        if (named++ == 0)
            (void)problem_set(problem, GW_IMAGE_IN_USE,
                              "image %s is named by the description of %s; disks that were made "
                              "from it are independent, the description is not",
                              name, cluster->vms[i]->spec->name);
        problem_detail(problem, "named by %s", cluster->vms[i]->spec->name);
    }
    if (named > 0) {
        problem_hint(problem, "godwit image show %s", name);
        return -1;
    }
    struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_IMAGE);
    put->revision = image->revision;
    WORDS_COPY(put->name, image->info->name);
    cluster_todo_event(todo, "", "image %s removed", name);
    cluster_drop_image(cluster, image);
    return 0;
}

/* ---- hosts ---- */
void image_take(struct cluster_host *host, const Godwit__AgentImages *images)
{
    Godwit__AgentImages *copy = images->n_digests <= IMAGES_MAX
                                    ? cluster_message_copy(&images->base)
                                    : NULL;
    if (host->images)
        godwit__agent_images__free_unpacked(host->images, NULL);
    host->images = copy;
}

bool image_host_has(const struct cluster_host *host, const char *digest)
{
    for (size_t i = 0; host->images && i < host->images->n_digests; i++) {
        if (strcmp(host->images->digests[i], digest) == 0)
            return true;
    }
    return false;
}

static bool answers(const struct cluster_host *host, struct cluster_now now)
{
    return host->link_up && host->facts && cluster_host_state(host, now.ns) != HOST_DOWN;
}

const struct cluster_host *image_find_host(const struct cluster *cluster, const char *digest,
                                           const char *not_on, struct cluster_now now)
{
    for (size_t i = 0; i < cluster->host_count; i++) {
        const struct cluster_host *host = cluster->hosts[i];
        if (answers(host, now) && image_host_has(host, digest) &&
            !(not_on && strcmp(host->name, not_on) == 0))
            return host;
    }
    return NULL;
}

struct cluster_host *image_choose_host(const struct cluster *cluster, const char *word,
                                       const char *digest, struct cluster_now now,
                                       struct problem *problem)
{
    struct cluster_host *chosen = NULL;

    if (word[0]) {
        chosen = cluster_find_host(cluster, word, problem);
        if (chosen && !answers(chosen, now)) {
            (void)problem_set(problem, GW_HOST_DOWN, "the agent of %s does not answer",
                              chosen->name);
            problem_hint(problem, "godwit host show %s", chosen->name);
            return NULL;
        }
        return chosen;
    }
    for (size_t i = 0; i < cluster->host_count; i++) {
        struct cluster_host *host = cluster->hosts[i];
        if (!answers(host, now) || rule_host_is_cordoned(host))
            continue;
        bool has = image_host_has(host, digest);
        bool chosen_has = chosen && image_host_has(chosen, digest);
        if (!chosen || (has && !chosen_has) ||
            (has == chosen_has && strcmp(host->name, chosen->name) < 0))
            chosen = host;
    }
    if (!chosen) {
        (void)problem_set(problem, GW_NO_HOST_FITS, "no host is up to take the image");
        problem_hint(problem, "godwit host ls");
    }
    return chosen;
}

/* ---- telling ---- */
void image_tell(const struct cluster *cluster, const struct cluster_image *image,
                Godwit__ImageInfo *ret_info)
{
    *ret_info = *image->info;
    ret_info->hosts = calloc(cluster->host_count + 1, sizeof *ret_info->hosts);
    ret_info->vms = calloc(cluster->vm_count + 1, sizeof *ret_info->vms);
    ret_info->n_hosts = ret_info->n_vms = 0;
    for (size_t i = 0; ret_info->hosts && i < cluster->host_count; i++) {
        if (image_host_has(cluster->hosts[i], image->info->digest))
            ret_info->hosts[ret_info->n_hosts++] = cluster->hosts[i]->name;
    }
    for (size_t i = 0; ret_info->vms && i < cluster->vm_count; i++) {
        if (vm_names(cluster->vms[i], image->info->name))
            ret_info->vms[ret_info->n_vms++] = cluster->vms[i]->spec->name;
    }
}

void image_tell_end(Godwit__ImageInfo *info)
{
    free(info->hosts);
    free(info->vms);
}

/* ---- descriptions ---- */
/* Texts of an unpacked message come from malloc. */
static bool set_text(char **field, const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        return false;
    if (*field && *field != (char *)(uintptr_t)protobuf_c_empty_string)
        free(*field);
    *field = copy;
    return true;
}

static int complete_disk(const struct cluster_image *image, const char *vm_name,
                         Godwit__DiskSpec *disk, struct problem *problem)
{
    uint64_t least = (image->info->size + DISK_STEP - 1) / DISK_STEP * DISK_STEP;
    char file[FILE_NAME_SIZE];

    if (least < DISK_BYTES_MIN)
        least = DISK_BYTES_MIN;
    if (disk->has_size && disk->size < least)
        return problem_set(problem, GW_SPEC_INVALID,
                           "%s: disk %s of %llu bytes does not hold image %s, which takes %llu",
                           vm_name, disk->name, (unsigned long long)disk->size, image->info->name,
                           (unsigned long long)least);
    disk->size = disk->has_size ? disk->size : least;
    disk->has_size = true;
    (void)snprintf(file, sizeof file, "%.63s-%.63s.raw", vm_name, disk->name);
    if (!set_text(&disk->image_digest, image->info->digest) ||
        (!is_given(disk->store) && !set_text(&disk->store, IMAGE_STORE_DEFAULT)) ||
        (!is_given(disk->file) && !set_text(&disk->file, file)))
        return problem_set(problem, GW_INTERNAL, "no memory for VM %s", vm_name);
    return 0;
}

/* As its own description says, else as the image does, else from the disk. */
static int complete_boot(const struct cluster_image *image, Godwit__VmSpec *spec,
                         struct problem *problem)
{
    const Godwit__ImageInfo *info = image->info;
    bool ok = true;

    if (is_given(spec->kernel) || is_given(spec->boot))
        return 0;
    if (is_given(info->kernel)) {
        ok = set_text(&spec->kernel, info->kernel);
        if (ok && !is_given(spec->initrd) && is_given(info->initrd))
            ok = set_text(&spec->initrd, info->initrd);
    } else {
        ok = set_text(&spec->boot, "disk");
    }
    if (ok && !is_given(spec->cmdline) && is_given(info->cmdline))
        ok = set_text(&spec->cmdline, info->cmdline);
    return ok ? 0 : problem_set(problem, GW_INTERNAL, "no memory for VM %s", spec->name);
}

static int complete(const struct cluster *cluster, Godwit__VmSpec *spec, struct problem *problem)
{
    if (!is_given(spec->name) || !id_name_is_valid(spec->name))
        return problem_set(problem, GW_SPEC_INVALID, "'%.80s' is no name for a VM",
                           spec->name ? spec->name : "");
    for (size_t i = 0; i < spec->n_disks; i++) {
        Godwit__DiskSpec *disk = spec->disks[i];
        if (!vm_spec_disk_is_clone(disk))
            continue;
        const struct cluster_image *image = image_find(cluster, disk->image, problem);
        if (!image)
            return -1;
        if (!is_given(disk->name) || !id_name_is_valid(disk->name))
            return problem_set(problem, GW_SPEC_INVALID, "%s: disks[%zu] has no name", spec->name,
                               i);
        if (complete_disk(image, spec->name, disk, problem) != 0 ||
            (i == 0 && complete_boot(image, spec, problem) != 0))
            return -1;
    }
    return 0;
}

Godwit__VmSpec *image_complete_spec(const struct cluster *cluster, const Godwit__VmSpec *spec,
                                    struct problem *problem)
{
    Godwit__VmSpec *whole = cluster_message_copy(&spec->base);

    if (!whole) {
        (void)problem_set(problem, GW_INTERNAL, "no memory for a VM");
        return NULL;
    }
    if (complete(cluster, whole, problem) != 0) {
        godwit__vm_spec__free_unpacked(whole, NULL);
        return NULL;
    }
    return whole;
}

bool image_vm_is_raw(const struct cluster_vm *vm)
{
    return vm->own.phase == OWN_STOPPED && vm->own.hiwater == 0 && vm_spec_has_clones(vm->spec);
}
