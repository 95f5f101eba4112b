#include "agent/backends.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/cloud_seed.h"
#include "agent/tap.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "proto/vm_spec.h"
#include "storage/share.h"

static bool is_given(const char *text)
{
    return text && text[0];
}

/* ---- disks ---- */
static int open_disk_file(const Godwit__DiskSpec *disk, int flags, int *ret_fd, struct fault *fault)
{
    AUTO_FD int share_fd = -1;

    if (!is_given(disk->store)) {
        int fd = open(disk->path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (fd < 0)
            return fault_set_errno(fault, errno == ENOENT ? ERR_NOT_FOUND : err_from_errno(errno),
                                   errno, "opening %s", disk->path);
        *ret_fd = fd;
        return 0;
    }
    int r = share_open(disk->store, &share_fd, fault);
    return r < 0 ? r : share_open_file(share_fd, disk->file, flags, ret_fd, fault);
}

static int measure(int fd, uint64_t *ret_bytes, struct fault *fault)
{
    struct stat info;

    if (fstat(fd, &info) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking for its size");
    if (S_ISREG(info.st_mode))
        *ret_bytes = (uint64_t)info.st_size;
    else if (!S_ISBLK(info.st_mode))
        return fault_set(fault, ERR_INVALID, "it is neither a file nor a block device");
    else if (ioctl(fd, BLKGETSIZE64, ret_bytes) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking for its size");
    if (*ret_bytes < 512 || *ret_bytes % 512 != 0)
        return fault_set(fault, ERR_INVALID, "its %llu bytes are no disk: whole sectors of 512",
                         (unsigned long long)*ret_bytes);
    return 0;
}

/* Without O_DIRECT where its file system knows none: a shared disk then depends on the file system
 * to keep two hosts' caches alike, which is said once in the log. */
static int open_disk(const Godwit__DiskSpec *disk, bool for_use, int *ret_fd, uint64_t *ret_bytes,
                     struct fault *fault)
{
    AUTO_FD int fd = -1;
    bool direct = !is_given(disk->cache) || strcmp(disk->cache, "direct") == 0;
    int flags = for_use && !disk->read_only ? O_RDWR : O_RDONLY;

    int r = open_disk_file(disk, flags | (for_use && direct ? O_DIRECT : 0), &fd, fault);
    if (r == ERR_INVALID && for_use && direct) {
        *fault = (struct fault){0};
        log_warn("backends", "no O_DIRECT for disk %s: it goes through the host's cache",
                 disk->name);
        r = open_disk_file(disk, flags, &fd, fault);
    }
    if (r == 0)
        r = measure(fd, ret_bytes, fault);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", disk->name);
    int was = fcntl(fd, F_GETFL);
    if (was < 0 || fcntl(fd, F_SETFL, was & ~O_NONBLOCK) < 0) /* it kept a pipe from hanging us */
        return fault_set_errno(fault, ERR_IO, errno, "disk %s", disk->name);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int make_disks(const struct backends_ask *ask, struct fault *fault)
{
    for (size_t i = 0; i < ask->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = ask->spec->disks[i];
        AUTO_FD int share_fd = -1;
        bool made;
        /* One with content was made before the first start; one that is lost is not replaced by an empty disk. */
        if (!disk->has_size || !disk->size || !is_given(disk->store) ||
            vm_spec_disk_is_given_content(disk))
            continue;
        int r = share_open(disk->store, &share_fd, fault);
        if (r == 0)
            r = share_make_disk(share_fd, ask->vm_id, disk->name, disk->file, disk->size, &made,
                                fault);
        if (r < 0)
            return r;
        if (made)
            log_info("backends", "made disk=%s vm=%s file=%s bytes=%llu", disk->name, ask->vm_id,
                     disk->file, (unsigned long long)disk->size);
    }
    return 0;
}

/* ---- disks that move with their VM ---- */
static bool is_local(const Godwit__DiskSpec *disk)
{
    return !disk->read_only && !vm_spec_disk_is_shared(disk);
}

static int land_disk(const struct backends_ask *ask, size_t index, struct backends *backends,
                     struct fault *fault)
{
    const Godwit__DiskSpec *disk = ask->spec->disks[index];
    AUTO_FD int share_fd = -1;
    AUTO_FD int found_fd = -1;
    int fd = -1;

    if (!is_given(disk->store))
        return fault_set(fault, ERR_REFUSED,
                         "disk %s is given by its path; a disk moves when it lies in a store",
                         disk->name);
    int r = share_open(disk->store, &share_fd, fault);
    if (r == 0 && !ask->landing_bytes) {
        r = share_open_file(share_fd, disk->file, O_RDONLY, &found_fd, fault);
        if (r == ERR_NOT_FOUND) {
            *fault = (struct fault){0};
            return 0;
        }
        r = r < 0 ? r
                  : fault_set(fault, ERR_EXISTS, "%s is there already; nothing is written over",
                              disk->file);
    }
    if (r < 0)
        return fault_wrap(fault, r, "disk %s, store %s", disk->name, disk->store);
    backends->disk_bytes[index] = ask->landing_bytes[index];
    r = share_land_disk(share_fd, ask->vm_id, disk->name, disk->file, ask->landing_bytes[index],
                        &fd, fault);
    if (r == 0)
        backends->fds[backends->fd_count++] = fd;
    return r;
}

static int keep_landed(const struct backends_ask *ask, struct fault *fault)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < ask->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = ask->spec->disks[i];
        AUTO_FD int share_fd = -1;
        if (!is_local(disk) || !is_given(disk->store))
            continue;
        r = share_open(disk->store, &share_fd, fault);
        if (r == 0)
            r = share_keep_disk(share_fd, ask->vm_id, disk->name, disk->file, fault);
    }
    return r;
}

void backends_drop_landed(const Godwit__VmSpec *spec, const char *vm_id)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = spec->disks[i];
        AUTO_FD int share_fd = -1;
        if (is_local(disk) && is_given(disk->store) &&
            share_open(disk->store, &share_fd, NULL) == 0) {
            share_drop_disk(share_fd, vm_id, disk->name);
            if (!vm_spec_stamp_store(spec)) /* its stamp is not ours to remove */
                (void)share_forget_vm(share_fd, vm_id, NULL); /* empty folders; else they stay */
        }
    }
}

void backends_leave(const Godwit__VmSpec *spec, const char *vm_id, uint64_t generation)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = spec->disks[i];
        struct fault fault = {0};
        AUTO_FD int share_fd = -1;
        if (!is_local(disk) || !is_given(disk->store))
            continue;
        int r = share_open(disk->store, &share_fd, &fault);
        if (r == 0)
            r = share_leave_disk(share_fd, vm_id, disk->name, disk->file, generation, &fault);
        if (r == 0 && !vm_spec_stamp_store(spec)) /* its stamp is not ours to remove */
            r = share_forget_vm(share_fd, vm_id, &fault);
        if (r < 0)
            log_error("backends", "the VM moved, its old disk stays vm=%s: %s", vm_id, fault.text);
        else
            log_info("backends", "the disk moved with its VM vm=%s disk=%s file=%s", vm_id,
                     disk->name, disk->file);
    }
}

static int open_disks(const struct backends_ask *ask, bool for_use, struct backends *backends,
                      struct fault *fault)
{
    const Godwit__VmSpec *spec = ask->spec;
    int r = 0;

    for (size_t i = 0; r == 0 && i < spec->n_disks; i++) {
        int fd = -1;
        if (ask->with_local_disks && is_local(spec->disks[i])) {
            r = land_disk(ask, i, backends, fault);
            backends->disk_count += r == 0;
            continue;
        }
        r = open_disk(spec->disks[i], for_use, &fd, &backends->disk_bytes[i], fault);
        if (r == 0 && for_use)
            backends->fds[backends->fd_count++] = fd;
        else if (r == 0)
            (void)close(fd); /* it was only looked at */
        backends->disk_count += r == 0;
    }
    if (r == 0 && spec->cloud_init) {
        int fd = -1;
        r = cloud_seed_open(spec, ask->vm_id, &fd, &backends->disk_bytes[spec->n_disks], fault);
        if (r == 0 && for_use)
            backends->fds[backends->fd_count++] = fd;
        else if (r == 0)
            (void)close(fd);
        backends->disk_count += r == 0;
    }
    return r;
}

/* ---- nics ---- */
static int open_taps(const struct backends_ask *ask, struct backends *backends, struct fault *fault)
{
    for (unsigned i = 0; i < ask->spec->n_nics; i++) {
        const Godwit__NicSpec *nic = ask->spec->nics[i];
        unsigned queues = vm_spec_nic_taps(nic);
        char name[TAP_NAME_SIZE];
        if (queues == 0)
            continue;
        tap_name(ask->vm_id, ask->host, i, name);
        assert(backends->fd_count + queues <= BACKENDS_FDS_MAX);
        int r = tap_open(name, nic->bridge, nic->mtu, backends->fds + backends->fd_count, queues,
                         fault);
        if (r < 0)
            return fault_wrap(fault, r, "nic %u of %s", i, ask->spec->name);
        backends->fd_count += queues;
    }
    return 0;
}

static int check_bridges(const struct backends_ask *ask, struct fault *fault)
{
    for (unsigned i = 0; i < ask->spec->n_nics; i++) {
        if (vm_spec_nic_taps(ask->spec->nics[i]) == 0)
            continue;
        int r = tap_check_bridge(ask->spec->nics[i]->bridge, fault);
        if (r < 0)
            return fault_wrap(fault, r, "nic %u of %s", i, ask->spec->name);
    }
    return 0;
}

/* ---- the stamp ---- */
static int open_stamp(const Godwit__VmSpec *spec, const char *vm_id, bool make, int *ret_fd,
                      struct fault *fault)
{
    AUTO_FD int share_fd = -1;
    const char *store = vm_spec_stamp_store(spec);

    assert(store);
    int r = share_open(store, &share_fd, fault);
    if (r == 0)
        r = share_open_stamp(share_fd, vm_id, make, ret_fd, fault);
    return r < 0 && r != ERR_NOT_FOUND ? fault_wrap(fault, r, "stamp in %s", store) : r;
}

int backends_read_stamp(const Godwit__VmSpec *spec, const char *vm_id, struct stamp *ret_stamp,
                        struct fault *fault)
{
    AUTO_FD int share_fd = -1;
    AUTO_FD int fd = -1;

    *ret_stamp = (struct stamp){0};
    if (!vm_spec_stamp_store(spec))
        return 0;
    int r = share_open(vm_spec_stamp_store(spec), &share_fd, fault);
    if (r < 0)
        return r; /* an absent store is no absent stamp */
    r = share_open_stamp(share_fd, vm_id, false, &fd, fault);
    if (r == ERR_NOT_FOUND) {
        *fault = (struct fault){0};
        return 0;
    }
    return r < 0 ? r : stamp_read(fd, vm_id, ret_stamp, fault);
}

static int lost(const struct backends_ask *ask, const struct stamp *found, struct fault *fault)
{
    (void)fault_set(fault, ERR_REFUSED,
                    "the disks of %s are %.64s's, as generation %llu (wanted from %.64s's, as "
                    "%llu)",
                    ask->spec->name, found->generation ? found->owner : "nobody",
                    (unsigned long long)found->generation,
                    ask->expected.generation ? ask->expected.owner : "nobody",
                    (unsigned long long)ask->expected.generation);
    return BACKENDS_E_LOST;
}

static int take_stamp(const struct backends_ask *ask, struct backends *backends,
                      struct fault *fault)
{
    AUTO_FD int fd = -1;

    if (!vm_spec_stamp_store(ask->spec))
        return 0;
    int r = open_stamp(ask->spec, ask->vm_id, true, &fd, fault);
    if (r == 0)
        r = stamp_swap(fd, ask->vm_id, &ask->expected, &ask->wanted, &backends->found, fault);
    return r == STAMP_E_LOST ? lost(ask, &backends->found, fault) : r;
}

int backends_restamp(const Godwit__VmSpec *spec, const char *vm_id, uint64_t generation,
                     const struct stamp *wanted, struct fault *fault)
{
    struct backends_ask ask = {.spec = spec, .vm_id = vm_id, .wanted = *wanted};
    struct backends backends = {0};

    if (!vm_spec_stamp_store(spec))
        return 0;
    int r = backends_read_stamp(spec, vm_id, &ask.expected, fault);
    if (r < 0)
        return r;
    /* Or by an earlier RESUME, whose verdict did not reach the process. */
    bool is_ours = strcmp(ask.expected.owner, wanted->owner) == 0 &&
                   (ask.expected.generation == generation ||
                    (ask.expected.generation > generation &&
                     strcmp(ask.expected.incarnation, wanted->incarnation) == 0));
    if (!is_ours && !stamp_is_equal(&ask.expected, wanted)) {
        backends.found = ask.expected;
        ask.expected = (struct stamp){.generation = generation};
        (void)snprintf(ask.expected.owner, sizeof ask.expected.owner, "%s", wanted->owner);
        return lost(&ask, &backends.found, fault);
    }
    return take_stamp(&ask, &backends, fault);
}

/* ---- check, start, take ---- */
int backends_check(const struct backends_ask *ask, struct backends *ret_backends,
                   struct fault *fault)
{
    struct stamp found;

    *ret_backends = (struct backends){0};
    int r = open_disks(ask, false, ret_backends, fault);
    if (r == 0)
        r = check_bridges(ask, fault);
    if (r == 0)
        r = backends_read_stamp(ask->spec, ask->vm_id, &found, fault);
    if (r == 0 && vm_spec_stamp_store(ask->spec) && !stamp_is_equal(&found, &ask->expected))
        r = lost(ask, &found, fault) == BACKENDS_E_LOST ? ERR_REFUSED : ERR_IO;
    if (r < 0)
        backends_close(ret_backends);
    return r;
}

static int open_all(const struct backends_ask *ask, struct backends *backends, struct fault *fault)
{
    int r = open_disks(ask, true, backends, fault);
    if (r == 0)
        r = open_taps(ask, backends, fault);
    if (r < 0)
        backends_close(backends);
    return r;
}

int backends_start(const struct backends_ask *ask, struct backends *ret_backends,
                   struct fault *fault)
{
    *ret_backends = (struct backends){0};
    int r = take_stamp(ask, ret_backends, fault);
    if (r == 0) /* it had moved here and died before its disks were attached: these, no new ones */
        r = keep_landed(ask, fault);
    if (r == 0)
        r = make_disks(ask, fault);
    return r != 0 ? r : open_all(ask, ret_backends, fault);
}

int backends_take(const struct backends_ask *ask, struct backends *ret_backends,
                  struct fault *fault)
{
    *ret_backends = (struct backends){0};
    int r = take_stamp(ask, ret_backends, fault);
    if (r == 0)
        r = keep_landed(ask, fault);
    return r != 0 ? r : open_all(ask, ret_backends, fault);
}

void backends_close(struct backends *backends)
{
    for (unsigned i = 0; i < backends->fd_count; i++)
        close_p(&backends->fds[i]);
    backends->fd_count = 0;
}

int backends_open_disk(const Godwit__DiskSpec *disk, int *ret_fd, uint64_t *ret_bytes,
                       struct fault *fault)
{
    int r = open_disk(disk, false, ret_fd, ret_bytes, fault);
    if (r == 0)
        (void)posix_fadvise(*ret_fd, 0, 0, POSIX_FADV_DONTNEED); /* its guest wrote past it */
    return r;
}

int backends_open_boot(const Godwit__VmSpec *spec, int *ret_fd, struct fault *fault)
{
    assert(spec->n_disks > 0);
    int r = open_disk_file(spec->disks[0], O_RDONLY, ret_fd, fault);
    if (r == 0)
        (void)posix_fadvise(*ret_fd, 0, 0, POSIX_FADV_DONTNEED); /* the guest writes past it */
    return r < 0 ? fault_wrap(fault, r, "disk %s", spec->disks[0]->name) : 0;
}

/* ---- removing ---- */
int backends_remove(const Godwit__VmSpec *spec, const char *vm_id, struct fault *fault)
{
    int r = 0;

    for (size_t i = 0; i < spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = spec->disks[i];
        struct fault told = {0};
        AUTO_FD int share_fd = -1;
        bool removed = false;
        if (!is_given(disk->store))
            continue;
        int one = share_open(disk->store, &share_fd, &told);
        if (one == 0) {
            share_drop_disk(share_fd, vm_id, disk->name); /* that never got its name */
            one = share_remove_disk(share_fd, vm_id, disk->name, disk->file, &removed, &told);
        }
        if (one < 0 && r == 0) {
            r = one;
            *fault = told;
        }
        if (removed)
            log_info("backends", "removed disk=%s vm=%s file=%s", disk->name, vm_id, disk->file);
    }
    for (size_t i = 0; r == 0 && i < spec->n_disks; i++) {
        AUTO_FD int share_fd = -1;
        if (is_given(spec->disks[i]->store) &&
            share_open(spec->disks[i]->store, &share_fd, NULL) == 0)
            r = share_forget_vm(share_fd, vm_id, fault);
    }
    return r;
}

/* ---- is it the same folder? ---- */
/* The next shared store after `at` disks, each store once; NULL at the end. */
static const char *next_store(const Godwit__VmSpec *spec, size_t *at)
{
    while (*at < spec->n_disks) {
        const Godwit__DiskSpec *disk = spec->disks[(*at)++];
        bool is_new = vm_spec_disk_is_shared(disk);
        for (size_t i = 0; is_new && i + 1 < *at; i++)
            is_new = !vm_spec_disk_is_shared(spec->disks[i]) ||
                     strcmp(spec->disks[i]->store, disk->store) != 0;
        if (is_new)
            return disk->store;
    }
    return NULL;
}

int backends_write_word(const Godwit__VmSpec *spec, const char *word, struct fault *fault)
{
    const char *store;
    int r = 0;

    for (size_t at = 0; r == 0 && (store = next_store(spec, &at));) {
        AUTO_FD int share_fd = -1;
        r = share_open(store, &share_fd, fault);
        if (r == 0)
            r = share_word_write(share_fd, word, fault);
        if (r < 0)
            (void)fault_wrap(fault, r, "store %s", store);
    }
    return r;
}

int backends_read_word(const Godwit__VmSpec *spec, const char *word, const char *host,
                       struct fault *fault)
{
    const char *store;

    for (size_t at = 0; (store = next_store(spec, &at));) {
        AUTO_FD int share_fd = -1;
        struct fault why = {0};
        int r = share_open(store, &share_fd, &why);
        if (r == 0)
            r = share_word_read(share_fd, word, &why);
        if (r == ERR_NOT_FOUND && share_fd >= 0)
            return fault_set(fault, ERR_REFUSED,
                             "%s does not see %s: it has a folder of that name, but not the one "
                             "that the source writes to",
                             host, store);
        if (r == ERR_NOT_FOUND)
            return fault_set(fault, ERR_REFUSED, "%s does not see %s: there is no such folder",
                             host, store);
        if (r < 0)
            return fault_set(fault, ERR_REFUSED, "%s does not see %s: %.300s", host, store,
                             why.text);
    }
    return 0;
}

void backends_wipe_word(const Godwit__VmSpec *spec, const char *word)
{
    const char *store;

    for (size_t at = 0; (store = next_store(spec, &at));) {
        AUTO_FD int share_fd = -1;
        if (share_open(store, &share_fd, NULL) == 0)
            share_word_wipe(share_fd, word);
    }
}
