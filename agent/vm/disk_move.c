#include "agent/vm/disk_move.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/vm/backend_set.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/disk_mirror.h"
#include "vmm-core/vm.h"

struct disk_move {
    char id[DISK_MOVE_ID_SIZE];
    unsigned disk;
    Godwit__DiskSpec *after;    /* owned */
    struct disk_mirror *mirror; /* owned; NULL: it came to its end */
    int fd;                     /* the copy, for the set; -1: the set has it */
    struct disk_mirror_status last; /* once the mirror is gone */
    bool is_attached; /* the vm's disk goes by the mirror */
    bool is_decided;
    uint64_t device, inode;
};

static void disk_move_freep(struct disk_move **move)
{
    *move = disk_move_free(*move, NULL);
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

static int duplicate(int fd, int *ret_fd, struct fault *fault)
{
    *ret_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return *ret_fd < 0 ? fault_set_errno(fault, err_from_errno(errno), errno,
                                         "copying a descriptor")
                       : 0;
}

static int open_mirror(struct disk_move *move, const Godwit__VmDiskMove *order,
                       const struct backend_set *set, bool cached, int fd, struct fault *fault)
{
    AUTO_FD int source_fd = -1;
    AUTO_FD int target_fd = -1;

    int r = duplicate(set->disk_fds[move->disk], &source_fd, fault);
    if (r == 0)
        r = duplicate(fd, &target_fd, fault);
    if (r < 0)
        return r;
    const struct disk_mirror_config config = {
        .source_fd = source_fd,
        .target_fd = target_fd,
        .bytes = set->disk_bytes[move->disk],
        .cached = cached,
        .rate_bytes_per_s = order->bandwidth_bytes_per_s,
    };
    r = disk_mirror_new(&move->mirror, &config, fault);
    if (r == 0) {
        (void)TAKE_FD(source_fd);
        (void)TAKE_FD(target_fd);
    }
    return r;
}

int disk_move_new(struct disk_move **ret_move, const Godwit__VmDiskMove *order,
                  const struct backend_set *set, struct vm *vm, bool cached, int fd,
                  struct fault *fault)
{
    AUTO(disk_move_freep) struct disk_move *move = calloc(1, sizeof *move);
    struct stat info;

    if (!move)
        return fault_set(fault, ERR_NOMEM, "no memory to move a disk");
    move->fd = -1;
    move->disk = order->disk;
    if (!order->move_id || strlen(order->move_id) >= sizeof move->id || !order->after)
        return fault_set(fault, ERR_INVALID, "a disk's move without an id, or to nowhere");
    (void)snprintf(move->id, sizeof move->id, "%s", order->move_id);
    move->after = disk_copy(order->after);
    if (!move->after)
        return fault_set(fault, ERR_NOMEM, "no memory to move a disk");
    if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode))
        return fault_set(fault, ERR_INVALID, "a disk moves into a file");
    move->device = info.st_dev;
    move->inode = info.st_ino;
    int r = open_mirror(move, order, set, cached, fd, fault);
    if (r == 0)
        r = vm_mirror_disk(vm, move->disk, move->mirror, fault); /* before anything is copied */
    if (r == 0)
        move->is_attached = true;
    if (r == 0)
        r = disk_mirror_start(move->mirror, fault);
    if (r < 0 && move->is_attached)
        (void)vm_mirror_disk(vm, move->disk, NULL, NULL); /* it was there a moment ago */
    if (r < 0)
        return r;
    move->fd = fd;
    *ret_move = TAKE(move);
    return 0;
}

/* Its requests have been answered: the guest's disk goes on without it. */
static void detach(struct disk_move *move, struct vm *vm)
{
    if (move->is_attached && vm)
        (void)vm_mirror_disk(vm, move->disk, NULL, NULL); /* it was there to be attached */
    move->is_attached = false;
}

/* A mirror whose thread has come to its end is let go of. */
static void look(struct disk_move *move, struct vm *vm)
{
    if (!move->mirror)
        return;
    disk_mirror_status(move->mirror, &move->last);
    if (!disk_mirror_is_over(move->mirror))
        return;
    disk_mirror_status(move->mirror, &move->last);
    if (move->last.state == DISK_MIRROR_SWITCHED)
        move->is_attached = false; /* the disk has let go of it */
    detach(move, vm);
    move->mirror = disk_mirror_free(move->mirror);
}

struct disk_move *disk_move_free(struct disk_move *move, struct vm *vm)
{
    if (!move)
        return NULL;
    if (move->mirror) {
        if (!move->is_decided)
            (void)disk_mirror_abort(move->mirror, NULL); /* failed already: as good */
        detach(move, vm);
    }
    move->mirror = disk_mirror_free(move->mirror);
    if (move->after)
        godwit__disk_spec__free_unpacked(move->after, NULL);
    close_p(&move->fd);
    free(move);
    return NULL;
}

bool disk_move_is(const struct disk_move *move, const char *move_id)
{
    return move && move_id && strcmp(move->id, move_id) == 0;
}

bool disk_move_is_over(struct disk_move *move)
{
    return !move || !move->mirror;
}

unsigned disk_move_disk(const struct disk_move *move)
{
    return move->disk;
}

Godwit__DiskSpec *disk_move_take_after(struct disk_move *move)
{
    return TAKE(move->after);
}

void disk_move_give_after(struct disk_move *move, Godwit__DiskSpec *after)
{
    assert(!move->after);
    move->after = after;
}

int disk_move_promise(struct disk_move *move, struct fault *fault)
{
    if (move->is_decided)
        return 0;
    if (!move->mirror)
        return fault_set(fault, ERR_STATE, "the disk's copy came to its end: %.250s",
                         move->last.fault.text);
    return disk_mirror_promise(move->mirror, fault);
}

int disk_move_settle(struct disk_move *move, struct backend_set *set, struct vm *vm,
                     struct fault *fault)
{
    if (move->is_decided)
        return 0;
    if (!move->mirror)
        return fault_set(fault, ERR_STATE, "the disk's copy came to its end: %.250s",
                         move->last.fault.text);
    int r = disk_mirror_decide(move->mirror, fault);
    if (r < 0)
        return r;
    move->is_decided = true;
    close_p(&set->disk_fds[move->disk]); /* whoever builds the machine anew takes the copy */
    set->disk_fds[move->disk] = TAKE_FD(move->fd);
    return vm_switch_disk(vm, move->disk, fault);
}

int disk_move_undo(struct disk_move *move, struct vm *vm, struct fault *fault)
{
    if (move->is_decided)
        return fault_set(fault, ERR_STATE, "the copy is the disk already");
    int r = move->mirror ? disk_mirror_abort(move->mirror, fault) : 0;
    look(move, vm);
    return r;
}

int disk_move_rebuilt(struct disk_move *move, struct vm *vm, struct fault *fault)
{
    move->is_attached = false;
    if (!move->mirror)
        return 0;
    if (move->is_decided) { /* built around the copy already */
        move->last.state = DISK_MIRROR_SWITCHED;
        move->mirror = disk_mirror_free(move->mirror);
        return 0;
    }
    int r = vm_mirror_disk(vm, move->disk, move->mirror, fault);
    move->is_attached = r == 0;
    return r;
}

static const char *word_of(const struct disk_move *move)
{
    static const char *const words[DISK_MIRROR_STATE_COUNT] = {
        [DISK_MIRROR_COPYING] = "copying",   [DISK_MIRROR_CLOSING] = "closing",
        [DISK_MIRROR_EQUAL] = "equal",       [DISK_MIRROR_PROMISED] = "promised",
        [DISK_MIRROR_SWITCHED] = "settled",  [DISK_MIRROR_OFF] = "off",
        [DISK_MIRROR_FAILED] = "failed",
    };
    bool ends = move->last.state >= DISK_MIRROR_SWITCHED;

    if (move->is_decided && move->last.state != DISK_MIRROR_SWITCHED)
        return "settling";
    if (ends && move->mirror) /* it still lets go of the guest's requests */
        return move->last.state == DISK_MIRROR_SWITCHED ? "settling" : "ending";
    return words[move->last.state];
}

void disk_move_tell(struct disk_move *move, struct vm *vm, struct disk_move_message *ret_message)
{
    struct disk_move_message *message = ret_message;
    Godwit__DiskMoveStatus *status = &message->status;

    look(move, vm);
    godwit__disk_move_status__init(status);
    (void)snprintf(message->state, sizeof message->state, "%s", word_of(move));
    (void)snprintf(message->reason, sizeof message->reason, "%.*s", DISK_MOVE_REASON_SIZE - 1,
                   move->last.fault.text);
    status->state = message->state;
    status->has_bytes = status->has_copied_bytes = status->has_written_bytes = true;
    status->has_left_bytes = status->has_verified_bytes = status->has_passes = true;
    status->has_mirrored = status->has_waits = status->has_device = status->has_inode = true;
    status->bytes = move->last.bytes;
    status->copied_bytes = move->last.copied_bytes;
    status->written_bytes = move->last.written_bytes;
    status->left_bytes = move->last.left_bytes;
    status->verified_bytes = move->last.verified_bytes;
    status->passes = move->last.passes;
    status->mirrored = move->last.mirrored;
    status->waits = move->last.waits;
    status->device = move->device;
    status->inode = move->inode;
    if (message->reason[0])
        status->reason = message->reason;
}

void disk_move_tell_none(struct disk_move_message *ret_message)
{
    godwit__disk_move_status__init(&ret_message->status);
    (void)snprintf(ret_message->state, sizeof ret_message->state, "none");
    ret_message->status.state = ret_message->state;
}
