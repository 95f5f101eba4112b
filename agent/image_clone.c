#include "agent/image_clone.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/image_folder.h"
#include "agent/images.h"
#include "agent/vm_table.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"
#include "storage/clone.h"
#include "storage/share.h"

struct cloning {
    struct image_clones *clones;
    struct cloning *next;
    struct rpc_request *request;
    char vm_id[VM_ID_SIZE];
    Godwit__DiskSpec *disk; /* owned */
    struct image_proof proof;
    struct images_watch watch;
    /* the worker's */
    struct clone clone;
    bool made, is_aside;
    uint64_t ns;
    struct fault fault;
};

struct image_clones {
    struct images *images;
    struct cloning *first;
    atomic_bool canceled;
};

static void cloning_free(struct cloning *cloning)
{
    struct cloning **at = &cloning->clones->first;

    while (*at && *at != cloning)
        at = &(*at)->next;
    if (*at)
        *at = cloning->next;
    images_unwatch(cloning->clones->images, &cloning->watch);
    if (cloning->disk)
        godwit__disk_spec__free_unpacked(cloning->disk, NULL);
    free(cloning);
}

/* ---- on a worker ---- */
static int fill(void *data, int fd, struct fault *fault)
{
    struct cloning *cloning = data;

    atomic_store(&cloning->watch.done, 0);
    return clone_fill(&cloning->clone, fd, fault);
}

static int open_store(const Godwit__DiskSpec *disk, int *ret_fd, struct fault *fault)
{
    int r = strcmp(disk->store, IMAGE_CLONE_STORE) == 0 ? dir_make(disk->store, fault) : 0;

    return r < 0 ? r : share_open(disk->store, ret_fd, fault);
}

static int make(struct cloning *cloning, struct fault *fault)
{
    const Godwit__DiskSpec *disk = cloning->disk;
    int folder_fd = images_folder(cloning->clones->images);
    AUTO_FD int share_fd = -1;
    AUTO_FD int image_fd = -1;

    int r = image_folder_verify(folder_fd, disk->image_digest, &cloning->proof,
                                &cloning->watch.done, &cloning->clones->canceled, fault);
    if (r == ERR_CORRUPT) { /* so that the next time it is fetched from another host */
        struct fault ignored = {0};
        cloning->is_aside = image_folder_set_aside(folder_fd, disk->image_digest, &ignored) == 0;
    }
    if (r == 0)
        r = image_folder_file(folder_fd, disk->image_digest, &image_fd,
                              &cloning->clone.from_bytes, fault);
    if (r == 0 && disk->size < cloning->clone.from_bytes)
        r = fault_set(fault, ERR_INVALID, "%llu bytes do not hold an image of %llu",
                      (unsigned long long)disk->size,
                      (unsigned long long)cloning->clone.from_bytes);
    if (r == 0)
        r = open_store(disk, &share_fd, fault);
    if (r < 0)
        return r;
    cloning->clone.from = image_fd;
    cloning->clone.bytes = disk->size;
    cloning->clone.done = &cloning->watch.done;
    cloning->clone.canceled = &cloning->clones->canceled;
    r = share_make_filled(share_fd, cloning->vm_id, disk->name, disk->file, fill, cloning,
                          &cloning->made, fault);
    if (r < 0)
        (void)share_forget_vm(share_fd, cloning->vm_id, NULL); /* empty folders; else they stay */
    return r;
}

static void work(void *data)
{
    struct cloning *cloning = data;
    uint64_t began_ns = world_now_ns();

    if (make(cloning, &cloning->fault) < 0)
        (void)fault_wrap(&cloning->fault, cloning->fault.code, "disk %s from image %s",
                         cloning->disk->name, cloning->disk->image);
    cloning->ns = world_now_ns() - began_ns;
}

/* ---- on the loop ---- */
static void worked(void *data)
{
    struct cloning *cloning = data;
    struct images *images = cloning->clones->images;
    const Godwit__DiskSpec *disk = cloning->disk;
    Godwit__ImageCloned reply = GODWIT__IMAGE_CLONED__INIT;

    images_work_done(images);
    if (cloning->proof.digest[0])
        images_set_proof(images, &cloning->proof);
    if (cloning->is_aside)
        images_forget(images, disk->image_digest);
    if (cloning->fault.code) {
        (void)rpc_reply_fault(cloning->request, &cloning->fault);
        cloning_free(cloning);
        return;
    }
    const char *how = !cloning->made               ? "kept"
                      : cloning->clone.is_reflink ? "reflink"
                                                  : "copy";
    reply.how = (char *)(uintptr_t)how; /* protobuf-c knows no const */
    reply.has_bytes = reply.has_ns = true;
    reply.bytes = cloning->clone.copied_bytes;
    reply.ns = cloning->ns;
    log_info("image_clone", "disk made vm=%s disk=%s image=%.12s how=%s copied_bytes=%llu ms=%llu",
             cloning->vm_id, disk->name, disk->image_digest, how,
             (unsigned long long)cloning->clone.copied_bytes,
             (unsigned long long)(cloning->ns / NS_PER_MS));
    (void)rpc_reply(cloning->request, &reply.base);
    cloning_free(cloning);
}

static int judge(const Godwit__OrderImageClone *order, struct fault *fault)
{
    const Godwit__DiskSpec *disk = order->disk;
    bool is_whole = order->vm_id && id_name_is_valid(order->vm_id) &&
                    strlen(order->vm_id) < VM_ID_SIZE && disk && disk->name && disk->image &&
                    disk->store && disk->file && vm_spec_digest_is_valid(disk->image_digest);
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__DiskSpec *disks[] = {(Godwit__DiskSpec *)(uintptr_t)disk}; /* only read */

    if (!is_whole)
        return fault_set(fault, ERR_INVALID, "an order to make no disk");
    spec.disks = disks;
    spec.n_disks = 1;
    return vm_spec_judge(&spec, fault);
}

static Godwit__DiskSpec *disk_copy(const Godwit__DiskSpec *disk)
{
    size_t count = godwit__disk_spec__get_packed_size(disk);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);

    if (!bytes)
        return NULL;
    (void)godwit__disk_spec__pack(disk, bytes);
    return godwit__disk_spec__unpack(NULL, count, bytes);
}

static const struct cloning *find(const struct image_clones *clones, const char *vm_id,
                                  const char *disk)
{
    const struct cloning *cloning = clones->first;

    while (cloning && (strcmp(cloning->vm_id, vm_id) != 0 ||
                       (disk && strcmp(cloning->disk->name, disk) != 0)))
        cloning = cloning->next;
    return cloning;
}

bool image_clone_is_busy(const struct image_clones *clones, const char *vm_id)
{
    return find(clones, vm_id, NULL) != NULL;
}

static int cloning_new(struct image_clones *clones, const Godwit__OrderImageClone *order,
                       struct cloning **ret_cloning, struct fault *fault)
{
    struct cloning *cloning = calloc(1, sizeof *cloning);
    if (!cloning)
        return fault_set(fault, ERR_NOMEM, "no memory to make a disk");
    cloning->clones = clones;
    cloning->disk = disk_copy(order->disk);
    if (!cloning->disk) {
        cloning_free(cloning);
        return fault_set(fault, ERR_NOMEM, "no memory to make a disk");
    }
    (void)snprintf(cloning->vm_id, sizeof cloning->vm_id, "%s", order->vm_id);
    const struct image_proof *proof = images_proof(clones->images, order->disk->image_digest);
    if (proof)
        cloning->proof = *proof;
    cloning->watch.number = order->watch;
    cloning->watch.phase = proof ? "clone" : "verify and clone";
    cloning->watch.total = order->disk->size;
    cloning->next = clones->first;
    clones->first = cloning;
    images_watch(clones->images, &cloning->watch);
    *ret_cloning = cloning;
    return 0;
}

void image_clone_begin(struct image_clones *clones, const Godwit__OrderImageClone *order,
                       struct rpc_request *request)
{
    struct cloning *cloning = NULL;
    struct fault fault = {0};

    int r = judge(order, &fault);
    if (r == 0 && find(clones, order->vm_id, order->disk->name))
        r = fault_set(&fault, ERR_BUSY, "disk %s of this VM is just being made",
                      order->disk->name);
    if (r == 0)
        r = cloning_new(clones, order, &cloning, &fault);
    if (r == 0) {
        cloning->request = request;
        if (images_work(clones->images, work, worked, cloning) < 0) {
            cloning_free(cloning);
            r = fault_set(&fault, ERR_BUSY, "no worker to make a disk");
        }
    }
    if (r < 0)
        (void)rpc_reply_fault(request, &fault);
}

/* ---- life ---- */
int image_clones_new(struct image_clones **ret_clones, struct images *images, struct fault *fault)
{
    struct image_clones *clones = calloc(1, sizeof *clones);
    if (!clones)
        return fault_set(fault, ERR_NOMEM, "no memory to make disks");
    clones->images = images;
    *ret_clones = clones;
    return 0;
}

void image_clones_stop(struct image_clones *clones)
{
    if (clones)
        atomic_store(&clones->canceled, true);
}

struct image_clones *image_clones_free(struct image_clones *clones)
{
    free(clones);
    return NULL;
}
