#include "agent/image_seal.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backends.h"
#include "agent/image_folder.h"
#include "agent/images.h"
#include "agent/snapshot_folder.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/own.h"
#include "base/sparse.h"
#include "base/world.h"
#include "net/rpc.h"
#include "proto/vm_spec.h"

struct sealing {
    struct sealing *next;
    struct image_seals *seals;
    char vm_id[ID_TEXT_SIZE];
    const char *snapshots; /* borrowed; NULL: none */
    struct rpc_request *request;
    Godwit__DiskSpec *disk; /* owned */
    struct images_watch watch;
    uint64_t begun_ns;
    /* the worker's */
    char digest[DIGEST_TEXT_SIZE];
    uint64_t bytes;
    bool was_here;
    struct fault fault;
};

struct image_seals {
    struct images *images;
    struct sealing *first;
    atomic_bool canceled;
};

static void sealing_free(struct sealing *sealing)
{
    struct sealing **at = &sealing->seals->first;

    while (*at != sealing)
        at = &(*at)->next;
    *at = sealing->next;
    images_unwatch(sealing->seals->images, &sealing->watch);
    if (sealing->disk)
        godwit__disk_spec__free_unpacked(sealing->disk, NULL);
    free(sealing);
}

/* ---- on a worker ---- */
static int take_all(struct sealing *sealing, struct image_draft *draft, int fd, struct fault *fault)
{
    AUTO_FREE uint8_t *buffer = malloc(MIB(1));
    struct sparse_piece piece;
    int r = buffer ? 0 : fault_set(fault, ERR_NOMEM, "no memory to read a disk");

    for (uint64_t at = 0; r == 0 && at < sealing->bytes;) {
        piece = (struct sparse_piece){0};
        if (atomic_load(&sealing->seals->canceled))
            return fault_set(fault, ERR_CANCELED, "it was given up");
        r = sparse_read(fd, at, sealing->bytes, buffer, MIB(1), &piece, fault);
        if (r == 0)
            r = image_draft_add(draft, at, piece.count ? buffer : NULL, piece.count, piece.zeros,
                                fault);
        at += piece.count + piece.zeros;
        atomic_store(&sealing->watch.done, sealing->bytes + at);
    }
    return r < 0 ? r : image_draft_publish(draft, fault);
}

static int keep(struct sealing *sealing, int fd, struct fault *fault)
{
    int folder_fd = images_folder(sealing->seals->images);
    AUTO_FD int here_fd = -1;
    uint64_t here_bytes = 0;
    struct image_draft draft;

    sealing->was_here =
        image_folder_file(folder_fd, sealing->digest, &here_fd, &here_bytes, NULL) == 0;
    if (sealing->was_here)
        return 0;
    int r = image_draft_open(&draft, folder_fd, sealing->digest, sealing->bytes, fault);
    if (r < 0)
        return r;
    r = take_all(sealing, &draft, fd, fault);
    image_draft_drop(&draft);
    return r;
}

static void work(void *data)
{
    struct sealing *sealing = data;
    struct fault *fault = &sealing->fault;
    AUTO_FD int fd = -1;

    int r = sealing->snapshots
                ? snapshot_folder_may_start(sealing->snapshots, sealing->vm_id, NULL, fault)
                : 0;
    if (r == 0)
        r = backends_open_disk(sealing->disk, &fd, &sealing->bytes, fault);
    if (r == 0)
        r = image_folder_sum(fd, sealing->bytes, sealing->digest, &sealing->watch.done,
                             &sealing->seals->canceled, fault);
    if (r == 0)
        r = keep(sealing, fd, fault);
    if (r < 0)
        (void)fault_wrap(fault, r, "disk %s", sealing->disk->name);
}

/* ---- on the loop ---- */
static void worked(void *data)
{
    struct sealing *sealing = data;
    struct images *images = sealing->seals->images;
    Godwit__ImageSealed reply = GODWIT__IMAGE_SEALED__INIT;

    images_work_done(images);
    if (sealing->fault.code) {
        (void)rpc_reply_fault(sealing->request, &sealing->fault);
        sealing_free(sealing);
        return;
    }
    log_info("image_seal", "sealed disk=%s image=%.12s bytes=%llu was_here=%d ms=%llu",
             sealing->disk->name, sealing->digest, (unsigned long long)sealing->bytes,
             sealing->was_here,
             (unsigned long long)((world_now_ns() - sealing->begun_ns) / NS_PER_MS));
    images_added(images, sealing->digest);
    reply.digest = sealing->digest;
    reply.has_size = reply.has_was_here = true;
    reply.size = sealing->bytes;
    reply.was_here = sealing->was_here;
    (void)rpc_reply(sealing->request, &reply.base);
    sealing_free(sealing);
}

static int judge(const Godwit__OrderImageSeal *order, struct fault *fault)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__DiskSpec *disks[] = {order->disk};

    if (!order->disk || !order->disk->name || !order->vm_id ||
        strlen(order->vm_id) >= ID_TEXT_SIZE || !id_name_is_valid(order->vm_id))
        return fault_set(fault, ERR_INVALID, "an order to seal no disk");
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

static int begin(struct image_seals *seals, const Godwit__OrderImageSeal *order,
                 const char *snapshots, struct rpc_request *request, struct fault *fault)
{
    struct sealing *sealing = calloc(1, sizeof *sealing);
    if (!sealing)
        return fault_set(fault, ERR_NOMEM, "no memory to seal a disk");
    sealing->seals = seals;
    sealing->next = seals->first;
    seals->first = sealing;
    memcpy(sealing->vm_id, order->vm_id, strlen(order->vm_id) + 1);
    sealing->snapshots = snapshots;
    sealing->request = request;
    sealing->begun_ns = world_now_ns();
    sealing->disk = disk_copy(order->disk);
    sealing->watch.number = order->watch;
    sealing->watch.phase = "seal";
    sealing->watch.total = 2 * order->bytes; /* as the record has it */
    images_watch(seals->images, &sealing->watch);
    int r = sealing->disk ? 0 : fault_set(fault, ERR_NOMEM, "no memory to seal a disk");
    if (r == 0 && images_work(seals->images, work, worked, sealing) < 0)
        r = fault_set(fault, ERR_BUSY, "no worker to seal a disk");
    if (r < 0)
        sealing_free(sealing);
    return r;
}

void image_seal_begin(struct image_seals *seals, const Godwit__OrderImageSeal *order,
                      const char *snapshots, struct rpc_request *request)
{
    struct fault fault = {0};

    int r = judge(order, &fault);
    if (r == 0)
        r = begin(seals, order, snapshots, request, &fault);
    if (r < 0)
        (void)rpc_reply_fault(request, &fault);
}

bool image_seal_is_busy(const struct image_seals *seals, const char *vm_id)
{
    for (const struct sealing *sealing = seals->first; sealing; sealing = sealing->next) {
        if (strcmp(sealing->vm_id, vm_id) == 0)
            return true;
    }
    return false;
}

/* ---- life ---- */
int image_seals_new(struct image_seals **ret_seals, struct images *images, struct fault *fault)
{
    struct image_seals *seals = calloc(1, sizeof *seals);
    if (!seals)
        return fault_set(fault, ERR_NOMEM, "no memory to seal disks");
    seals->images = images;
    *ret_seals = seals;
    return 0;
}

void image_seals_stop(struct image_seals *seals)
{
    if (seals)
        atomic_store(&seals->canceled, true);
}

struct image_seals *image_seals_free(struct image_seals *seals)
{
    free(seals);
    return NULL;
}
