#include "agent/standby_twin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/standbys.h"
#include "agent/vm_table.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"
#include "storage/share.h"

enum { COPY_MS_MIN = 60000, COPY_MS_A_GIB = 30000 };

struct twin {
    struct standby_twins *twins;
    struct twin *next;
    struct rpc_request *request;
    Godwit__OrderReplicaCopy *order; /* owned copy */
    Godwit__ReplicaCopied *copied;   /* owned; NULL until its process is done */
    bool with_memory;
    char folder[VM_PATH_SIZE], from[VM_PATH_SIZE], to[VM_PATH_SIZE]; /* its memory's */
    unsigned disks[DISKS_MAX]; /* of the spec: those that are made */
    uint64_t bytes[DISKS_MAX];
    unsigned disk_count;
    int fds[1 + DISKS_MAX]; /* with memory: its file, then the disks' */
    size_t fd_count;

    /* a worker's */
    struct fault fault;
    int result;
};

/* ---- life ---- */
static void close_files(struct twin *twin)
{
    while (twin->fd_count)
        close_p(&twin->fds[--twin->fd_count]);
}

static void twin_free(struct twin *twin)
{
    for (struct twin **at = &twin->twins->first; *at; at = &(*at)->next) {
        if (*at == twin) {
            *at = twin->next;
            break;
        }
    }
    close_files(twin);
    if (twin->order)
        godwit__order_replica_copy__free_unpacked(twin->order, NULL);
    if (twin->copied)
        godwit__replica_copied__free_unpacked(twin->copied, NULL);
    free(twin);
}

static void *copy_of(const ProtobufCMessage *message)
{
    size_t count = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(message, bytes);
    return protobuf_c_message_unpack(message->descriptor, NULL, count, bytes);
}

bool standby_twins_make(const struct standby_twins *twins, const char *vm_id)
{
    const struct twin *twin = twins->first;

    while (twin && strcmp(twin->order->copy_id, vm_id) != 0)
        twin = twin->next;
    return twin != NULL;
}

void standby_twins_stop(struct standby_twins *twins)
{
    twins->stopped = true;
    while (twins->workers)
        loop_turn(twins->loop, true); /* each holds a pointer to us */
}

void standby_twins_free(struct standby_twins *twins)
{
    while (twins->first)
        twin_free(twins->first); /* its process goes on; the files are found when the VM is removed */
}

/* The agent ends: what there is stays for the VM's removal. */
static bool is_over(struct twin *twin)
{
    struct fault fault = {0};

    if (!twin->twins->stopped)
        return false;
    (void)fault_set(&fault, ERR_CLOSED, "the agent ended in the middle of it");
    (void)rpc_reply_fault(twin->request, &fault);
    twin_free(twin);
    return true;
}

/* ---- files: a worker's ---- */
static int open_store(const struct twin *twin, unsigned i, const Godwit__DiskSpec **ret_disk,
                      int *ret_fd, struct fault *fault)
{
    const Godwit__DiskSpec *disk = twin->order->spec->disks[twin->disks[i]];

    *ret_disk = disk;
    return share_open(disk->store, ret_fd, fault);
}

static int land_disk(struct twin *twin, unsigned i, struct fault *fault)
{
    const Godwit__DiskSpec *disk;
    AUTO_FD int share_fd = -1;

    int r = open_store(twin, i, &disk, &share_fd, fault);
    if (r == 0)
        r = share_land_disk(share_fd, twin->order->copy_id, disk->name, disk->file, twin->bytes[i],
                            &twin->fds[twin->fd_count], fault);
    twin->fd_count += r == 0;
    return r;
}

static int land_memory(struct twin *twin, struct fault *fault)
{
    int r = dir_make(twin->folder, fault);
    if (r < 0)
        return r;
    int fd = open(twin->from, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making %s", twin->from);
    twin->fds[twin->fd_count++] = fd;
    return 0;
}

static int sync_folder(const char *path, struct fault *fault)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "syncing %s", path);
    return 0;
}

static int keep_all(struct twin *twin, struct fault *fault)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < twin->disk_count; i++) {
        const Godwit__DiskSpec *disk;
        AUTO_FD int share_fd = -1;
        r = open_store(twin, i, &disk, &share_fd, fault);
        if (r == 0)
            r = share_keep_disk(share_fd, twin->order->copy_id, disk->name, disk->file, fault);
    }
    if (r == 0 && twin->with_memory && rename(twin->from, twin->to) < 0)
        r = fault_set_errno(fault, ERR_IO, errno, "renaming %s", twin->from);
    return r == 0 && twin->with_memory ? sync_folder(twin->folder, fault) : r;
}

/* Exactly what was made. */
static void undo(struct twin *twin)
{
    for (unsigned i = 0; i < twin->disk_count; i++) {
        const Godwit__DiskSpec *disk;
        AUTO_FD int share_fd = -1;
        bool removed = false;
        if (open_store(twin, i, &disk, &share_fd, NULL) < 0)
            continue;
        share_drop_disk(share_fd, twin->order->copy_id, disk->name);
        (void)share_remove_disk(share_fd, twin->order->copy_id, disk->name, disk->file, &removed,
                                NULL); /* else the VM's removal does it */
        (void)share_forget_vm(share_fd, twin->order->copy_id, NULL); /* empty folders; else they stay */
    }
    if (!twin->with_memory)
        return;
    (void)unlink(twin->from); /* absent is as good */
    (void)unlink(twin->to);
    (void)rmdir(twin->folder); /* keeps what is not ours */
}

/* ---- steps ---- */
static int work(struct twin *twin, void (*function)(void *data), void (*done)(void *data),
                struct fault *fault)
{
    int r = loop_work(twin->twins->loop, function, done, twin);
    if (r < 0)
        return fault_set(fault, r, "no worker for a test's files");
    twin->twins->workers++;
    return 0;
}

static void undo_work(void *data)
{
    undo(data);
}

static void undone(void *data)
{
    struct twin *twin = data;

    twin->twins->workers--;
    (void)rpc_reply_fault(twin->request, &twin->fault);
    twin_free(twin);
}

/* Told once what it has left is gone. */
static void fail(struct twin *twin, const struct fault *fault)
{
    struct fault words = {0};

    twin->fault = *fault;
    close_files(twin);
    log_warn("standby_twin", "not made vm=%s of=%s: %s", twin->order->copy_id, twin->order->vm_id,
             twin->fault.text);
    if (work(twin, undo_work, undone, &words) < 0) {
        (void)rpc_reply_fault(twin->request, &twin->fault); /* the VM's removal finds the files */
        twin_free(twin);
    }
}

static int tell_table(struct twin *twin, struct fault *fault)
{
    struct vm_entry *entry = NULL;

    if (!twin->with_memory)
        return 0;
    int r = vm_table_add(twin->twins->table, twin->order->copy_id, &entry, fault);
    if (r < 0)
        return r;
    if (!vm_entry_set_spec(entry, twin->order->spec) ||
        !vm_entry_rest(entry, twin->order->generation)) {
        vm_table_remove(entry);
        return fault_set(fault, ERR_IO, "the file of its memory is not what was written");
    }
    vm_entry_journal(entry, "copied");
    return 0;
}

static void keep_work(void *data)
{
    struct twin *twin = data;

    twin->result = keep_all(twin, &twin->fault);
}

static void kept(void *data)
{
    struct twin *twin = data;
    struct fault fault = twin->fault;

    twin->twins->workers--;
    if (is_over(twin))
        return;
    int r = twin->result;
    if (r == 0)
        r = tell_table(twin, &fault);
    if (r < 0) {
        fail(twin, &fault);
        return;
    }
    log_info("standby_twin",
             "made vm=%s of=%s checkpoint=%llu memory_bytes=%llu disks=%u reflinks=%u "
             "copied_bytes=%llu put_aside=%llu",
             twin->order->copy_id, twin->order->vm_id,
             (unsigned long long)(twin->copied->held ? twin->copied->held->seq : 0),
             (unsigned long long)twin->copied->memory_bytes, twin->disk_count,
             twin->copied->reflinks, (unsigned long long)twin->copied->copied_bytes,
             (unsigned long long)twin->copied->put_aside_pages);
    (void)rpc_reply(twin->request, &twin->copied->base);
    twin_free(twin);
}

static void copied(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct twin *twin = data;
    struct fault words = {0};

    if (is_over(twin))
        return;
    if (!reply) {
        fail(twin, fault);
        return;
    }
    close_files(twin);
    twin->copied = copy_of(reply);
    int r = twin->copied ? work(twin, keep_work, kept, &words)
                         : fault_set(&words, ERR_NOMEM, "no memory for a test");
    if (r < 0)
        fail(twin, &words);
}

static void land_work(void *data)
{
    struct twin *twin = data;

    twin->result = twin->with_memory ? land_memory(twin, &twin->fault) : 0;
    for (unsigned i = 0; twin->result == 0 && i < twin->disk_count; i++)
        twin->result = land_disk(twin, i, &twin->fault);
}

static uint64_t copy_ms(const struct twin *twin)
{
    uint64_t bytes = twin->with_memory ? twin->order->spec->memory->size : 0;

    for (unsigned i = 0; i < twin->disk_count; i++)
        bytes += twin->bytes[i];
    return COPY_MS_MIN + (bytes >> 30) * COPY_MS_A_GIB;
}

static void landed(void *data)
{
    struct twin *twin = data;
    const Godwit__OrderReplicaIn *held = NULL;
    struct fault fault = twin->fault;
    struct rpc *rpc = NULL;

    twin->twins->workers--;
    if (is_over(twin))
        return;
    int r = twin->result;
    if (r == 0) /* it may have been taken, or dropped, meanwhile */
        r = standbys_look(twin->twins->standbys, twin->order->vm_id, twin->order->protection_id,
                          &held, &rpc, &fault);
    if (r == 0)
        r = rpc_call_fds(rpc, METHOD_VM_REPLICA_COPY, &twin->order->base, twin->fds, twin->fd_count,
                         &godwit__replica_copied__descriptor, copy_ms(twin), copied, twin, &fault);
    if (r < 0)
        fail(twin, &fault);
}

/* ---- the order ---- */
static bool is_replicated(const Godwit__DiskSpec *disk)
{
    return !disk->read_only && !vm_spec_disk_is_shared(disk);
}

static bool is_given(const char *text)
{
    return text && text[0];
}

/* The same disks are written, and each has a file of its own. */
static int judge_disks(const Godwit__VmSpec *spec, const Godwit__OrderReplicaIn *held,
                       struct fault *fault)
{
    if (spec->n_disks != held->spec->n_disks)
        return fault_set(fault, ERR_REFUSED, "the replica has %zu disks, its copy would have %zu",
                         held->spec->n_disks, spec->n_disks);
    for (size_t i = 0; i < spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = spec->disks[i], *from = held->spec->disks[i];
        if (is_replicated(disk) != is_replicated(from) || strcmp(disk->name, from->name) != 0)
            return fault_set(fault, ERR_REFUSED, "disk %s of the copy is not the replica's %s",
                             disk->name, from->name);
        if (is_replicated(disk) && (!is_given(disk->store) || !is_given(disk->file)))
            return fault_set(fault, ERR_REFUSED, "disk %s of the copy has no place in a store",
                             disk->name);
    }
    return 0;
}

static int judge(struct standby_twins *twins, const Godwit__OrderReplicaCopy *order,
                 const Godwit__OrderReplicaIn **ret_held, struct fault *fault)
{
    struct rpc *rpc = NULL;

    if (!order->vm_id || !order->copy_id || !id_name_is_valid(order->copy_id) ||
        strlen(order->copy_id) >= VM_ID_SIZE || strcmp(order->copy_id, order->vm_id) == 0 ||
        !is_given(order->nonce) || !order->generation || !order->spec || !order->spec->name)
        return fault_set(fault, ERR_INVALID, "a copy of a replica without its VM");
    if (vm_table_find(twins->table, order->copy_id) ||
        vm_table_hiwater(twins->table, order->copy_id) > 0)
        return fault_set(fault, ERR_EXISTS, "VM %s is on this host already", order->spec->name);
    if (standby_twins_make(twins, order->copy_id))
        return fault_set(fault, ERR_BUSY, "%s is just being made", order->spec->name);
    int r = vm_spec_judge(order->spec, fault);
    if (r == 0)
        r = standbys_look(twins->standbys, order->vm_id, order->protection_id, ret_held, &rpc, fault);
    return r < 0 ? r : judge_disks(order->spec, *ret_held, fault);
}

static int twin_new(struct standby_twins *twins, const Godwit__OrderReplicaCopy *order,
                    const Godwit__OrderReplicaIn *held, struct twin **ret_twin,
                    struct fault *fault)
{
    struct twin *twin = calloc(1, sizeof *twin);

    if (!twin || !(twin->order = copy_of(&order->base))) {
        free(twin);
        return fault_set(fault, ERR_NOMEM, "no memory for a test");
    }
    twin->twins = twins;
    twin->with_memory = !held->disks_only;
    for (unsigned i = 0; i < order->spec->n_disks && twin->disk_count < DISKS_MAX; i++) {
        if (!is_replicated(order->spec->disks[i]))
            continue;
        twin->disks[twin->disk_count] = i;
        twin->bytes[twin->disk_count++] = held->disk_bytes[i];
    }
    int r = vm_table_state_path(twins->table, order->copy_id, "", twin->folder, fault);
    if (r == 0)
        r = vm_table_state_path(twins->table, order->copy_id, "suspended.tmp", twin->from, fault);
    if (r == 0)
        r = vm_table_state_path(twins->table, order->copy_id, "suspended", twin->to, fault);
    twin->next = twins->first;
    twins->first = twin;
    if (r < 0)
        twin_free(twin);
    else
        *ret_twin = twin;
    return r;
}

void standby_twin_make(struct standby_twins *twins, const Godwit__OrderReplicaCopy *order,
                       struct rpc_request *request)
{
    const Godwit__OrderReplicaIn *held = NULL;
    struct twin *twin = NULL;
    struct fault fault = {0};

    if (!request)
        return; /* nobody would hear of it */
    int r = judge(twins, order, &held, &fault);
    if (r == 0)
        r = twin_new(twins, order, held, &twin, &fault);
    if (r < 0) {
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    twin->request = request;
    if (work(twin, land_work, landed, &fault) == 0)
        return;
    (void)rpc_reply_fault(request, &fault);
    twin_free(twin);
}
