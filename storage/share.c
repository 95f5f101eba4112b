/* How a disk is made, so that a crash anywhere leaves nothing that is taken for an operator's:
 *
 *      made/<disk>.new   created, sized, synced
 *           | link              --name is taken--> theirs: used as it is, .new goes
 *      <file>            the same inode
 *           | rename .new -> <disk>
 *      made/<disk>       the proof
 */
#include "storage/share.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "storage/stamp.h"

enum { SHARE_PATH_SIZE = 512 };

static const char own_folder[] = ".godwit";

static int open_beneath(int folder_fd, const char *path, int flags)
{
    const struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };

    return (int)syscall(SYS_openat2, folder_fd, path, &how, sizeof how);
}

static int refuse_open(const char *path, struct fault *fault)
{
    int error = errno;

    if (error == ELOOP || error == EXDEV)
        return fault_set(fault, ERR_DENIED,
                         "%s: a link stands in it or it leads out of the store; a plain path would "
                         "fit",
                         path);
    return fault_set_errno(fault, error == ENOENT ? ERR_NOT_FOUND : err_from_errno(error), error,
                           "opening %s", path);
}

int share_open(const char *store, int *ret_fd, struct fault *fault)
{
    if (store[0] != '/') /* a name is the coordinator's to look up */
        return fault_set(fault, ERR_INVALID, "'%.120s' is no path of a store", store);
    int fd = open(store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fault_set_errno(fault, errno == ENOENT ? ERR_NOT_FOUND : err_from_errno(errno),
                               errno, "opening the store %s", store);
    *ret_fd = fd;
    return 0;
}

/* `names` one beneath the other; missing ones are made when `make`. */
static int walk(int share_fd, const char *const *names, bool make, int *ret_fd, struct fault *fault)
{
    AUTO_FD int fd = open_beneath(share_fd, ".", O_RDONLY | O_DIRECTORY);

    for (; fd >= 0 && *names; names++) {
        int next = open_beneath(fd, *names, O_RDONLY | O_DIRECTORY);
        if (next < 0 && errno == ENOENT && make) {
            if (mkdirat(fd, *names, 0700) == 0)
                (void)fsync(fd); /* a crash makes it again */
            next = open_beneath(fd, *names, O_RDONLY | O_DIRECTORY);
        }
        if (next < 0)
            return refuse_open(*names, fault);
        (void)close(fd);
        fd = next;
    }
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "opening a store");
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int open_part(int share_fd, const char *vm_id, const char *part, bool make, int *ret_fd,
                     struct fault *fault)
{
    const char *const names[] = {own_folder, vm_id, part, NULL};

    if (!id_name_is_valid(vm_id))
        return fault_set(fault, ERR_INVALID, "'%s' is no VM id", vm_id);
    return walk(share_fd, names, make, ret_fd, fault);
}

int share_open_stamp(int share_fd, const char *vm_id, bool make, int *ret_fd, struct fault *fault)
{
    return open_part(share_fd, vm_id, "stamp", make, ret_fd, fault);
}

int share_open_file(int share_fd, const char *file, int flags, int *ret_fd, struct fault *fault)
{
    int fd = open_beneath(share_fd, file, flags | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return refuse_open(file, fault);
    *ret_fd = fd;
    return 0;
}

/* ---- making and removing ---- */
/* The folder that `file` lies in, and its own name there. */
static int open_parent(int share_fd, const char *file, int *ret_fd, const char **ret_name,
                       struct fault *fault)
{
    char folder[SHARE_PATH_SIZE] = ".";
    const char *slash = strrchr(file, '/');

    if (slash) {
        int r = path_join(folder, sizeof folder, fault, "%.*s", (int)(slash - file), file);
        if (r < 0)
            return r;
    }
    int fd = open_beneath(share_fd, folder, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return refuse_open(folder, fault);
    *ret_fd = fd;
    *ret_name = slash ? slash + 1 : file;
    return 0;
}

static bool is_same_file(int fd_a, const char *a, int fd_b, const char *b)
{
    struct stat left, right;

    return fstatat(fd_a, a, &left, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstatat(fd_b, b, &right, AT_SYMLINK_NOFOLLOW) == 0 && left.st_dev == right.st_dev &&
           left.st_ino == right.st_ino;
}

struct filling { /* what a new disk holds: `bytes` of nothing, or what `fill` gives */
    uint64_t bytes;
    int (*fill)(void *data, int fd, struct fault *fault);
    void *data;
};

static int make_draft(int made_fd, const char *draft, const struct filling *filling, int *ret_fd,
                      struct fault *fault)
{
    (void)unlinkat(made_fd, draft, 0); /* of a crash: it has no second name */
    AUTO_FD int fd = openat(made_fd, draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making a disk");
    int r = filling->fill ? filling->fill(filling->data, fd, fault) : 0;
    if (r == 0 && !filling->fill && ftruncate(fd, (off_t)filling->bytes) < 0)
        r = fault_set_errno(fault, err_from_errno(errno), errno, "making a disk of %llu bytes",
                            (unsigned long long)filling->bytes);
    if (r == 0 && fsync(fd) < 0)
        r = fault_set_errno(fault, err_from_errno(errno), errno, "making a disk");
    if (r < 0) {
        (void)unlinkat(made_fd, draft, 0); /* nobody used it */
        return r;
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* The file that was filled, whatever has its draft's name by now, gets the disk's name. -1: errno. */
static int link_draft(int fd, int parent_fd, const char *base)
{
    char self[40];

    (void)snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, self, parent_fd, base, AT_SYMLINK_FOLLOW);
}

/* Somebody's, or ours of an earlier start: an empty disk is used as it is, a filled one must be ours. */
static int judge_found(int parent_fd, const char *base, int made_fd, const char *name,
                       const struct filling *filling, struct fault *fault)
{
    if (!filling->fill || is_same_file(parent_fd, base, made_fd, name))
        return 0;
    return fault_set(fault, ERR_EXISTS, "%s is there already; nothing is written over", base);
}

static int make_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                     const struct filling *filling, bool *ret_made, struct fault *fault)
{
    AUTO_FD int made_fd = -1;
    AUTO_FD int parent_fd = -1;
    AUTO_FD int fd = -1;
    char draft[SHARE_PATH_SIZE];
    const char *base;

    *ret_made = false;
    int r = open_parent(share_fd, file, &parent_fd, &base, fault);
    if (r == 0)
        r = open_part(share_fd, vm_id, "made", true, &made_fd, fault);
    if (r == 0)
        r = path_join(draft, sizeof draft, fault, "%s.new", name);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", name);
    if (is_same_file(parent_fd, base, made_fd, draft)) /* a crash came before the last step */
        return renameat(made_fd, draft, made_fd, name) == 0
                   ? 0
                   : fault_set_errno(fault, ERR_IO, errno, "making disk %s", name);
    if (faccessat(parent_fd, base, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return judge_found(parent_fd, base, made_fd, name, filling, fault);
    r = make_draft(made_fd, draft, filling, &fd, fault);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", name);
    if (link_draft(fd, parent_fd, base) < 0) {
        int error = errno;
        (void)unlinkat(made_fd, draft, 0); /* nobody used it */
        if (error == EEXIST) /* somebody was faster: theirs */
            return judge_found(parent_fd, base, made_fd, name, filling, fault);
        return fault_set_errno(fault, err_from_errno(error), error, "making disk %s as %s", name,
                               file);
    }
    if (renameat(made_fd, draft, made_fd, name) < 0 || fsync(made_fd) < 0 || fsync(parent_fd) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "making disk %s as %s", name, file);
    *ret_made = true;
    return 0;
}

int share_make_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                    uint64_t bytes, bool *ret_made, struct fault *fault)
{
    const struct filling filling = {.bytes = bytes};

    return make_disk(share_fd, vm_id, name, file, &filling, ret_made, fault);
}

int share_make_filled(int share_fd, const char *vm_id, const char *name, const char *file,
                      int (*fill)(void *data, int fd, struct fault *fault), void *data,
                      bool *ret_made, struct fault *fault)
{
    const struct filling filling = {.fill = fill, .data = data};

    return make_disk(share_fd, vm_id, name, file, &filling, ret_made, fault);
}

int share_remove_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                      bool *ret_removed, struct fault *fault)
{
    AUTO_FD int made_fd = -1;
    AUTO_FD int parent_fd = -1;
    const char *base;

    *ret_removed = false;
    int r = open_part(share_fd, vm_id, "made", false, &made_fd, NULL);
    if (r == ERR_NOT_FOUND)
        return 0; /* nothing was made for it */
    if (r == 0)
        r = open_parent(share_fd, file, &parent_fd, &base, fault);
    if (r < 0)
        return r == ERR_NOT_FOUND ? 0 : fault_wrap(fault, r, "removing disk %s", name);
    if (is_same_file(parent_fd, base, made_fd, name)) {
        if (unlinkat(parent_fd, base, 0) < 0)
            return fault_set_errno(fault, err_from_errno(errno), errno, "removing disk %s", name);
        (void)fsync(parent_fd);
        *ret_removed = true;
    }
    (void)unlinkat(made_fd, name, 0); /* the second name: of what we deleted, or alone */
    return 0;
}

/* ---- disks that move ---- */
int share_land_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                    uint64_t bytes, int *ret_fd, struct fault *fault)
{
    AUTO_FD int made_fd = -1;
    AUTO_FD int parent_fd = -1;
    AUTO_FD int fd = -1;
    char landing[SHARE_PATH_SIZE];
    const char *base;

    int r = open_parent(share_fd, file, &parent_fd, &base, fault);
    if (r == 0 && faccessat(parent_fd, base, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        r = fault_set(fault, ERR_EXISTS, "%s is there already; nothing is written over", file);
    if (r == 0)
        r = open_part(share_fd, vm_id, "made", true, &made_fd, fault);
    if (r == 0)
        r = path_join(landing, sizeof landing, fault, "%s.landing", name);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", name);
    (void)unlinkat(made_fd, landing, 0); /* of an earlier move: the VM never ran from it */
    fd = openat(made_fd, landing, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    /* Its name is durable before the first byte comes: the source deletes its own copy later. */
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 || fsync(made_fd) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno,
                               "making room for disk %s of %llu bytes", name,
                               (unsigned long long)bytes);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int share_keep_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                    struct fault *fault)
{
    AUTO_FD int made_fd = -1;
    AUTO_FD int parent_fd = -1;
    char landing[SHARE_PATH_SIZE];
    const char *base;

    int r = open_part(share_fd, vm_id, "made", false, &made_fd, NULL);
    if (r == ERR_NOT_FOUND)
        return 0; /* nothing was ever made for this VM */
    if (r == 0)
        r = open_parent(share_fd, file, &parent_fd, &base, fault);
    if (r == 0)
        r = path_join(landing, sizeof landing, fault, "%s.landing", name);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", name);
    if (linkat(made_fd, landing, parent_fd, base, 0) < 0) {
        int error = errno;
        if (error == ENOENT)
            return 0; /* it was kept before, or none came */
        if (error != EEXIST || !is_same_file(parent_fd, base, made_fd, landing))
            return fault_set_errno(fault, err_from_errno(error), error, "disk %s: naming it %s",
                                   name, file);
    }
    if (renameat(made_fd, landing, made_fd, name) < 0 || fsync(made_fd) < 0 || fsync(parent_fd) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "disk %s: naming it %s", name, file);
    return 0;
}

void share_drop_disk(int share_fd, const char *vm_id, const char *name)
{
    AUTO_FD int made_fd = -1;
    char landing[SHARE_PATH_SIZE];

    if (open_part(share_fd, vm_id, "made", false, &made_fd, NULL) == 0 &&
        path_join(landing, sizeof landing, NULL, "%s.landing", name) == 0)
        (void)unlinkat(made_fd, landing, 0); /* absent is as good */
}

/* ---- a replica's ---- */
/* 1: there is none. */
static int open_found_replica(int made_fd, const char *name, int *ret_fd, struct fault *fault)
{
    int fd = open_beneath(made_fd, name, O_RDWR | O_NOCTTY | O_NONBLOCK);
    struct stat info;

    if (fd < 0)
        return errno == ENOENT ? 1 : refuse_open(name, fault);
    if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode)) {
        (void)close(fd);
        return fault_set(fault, ERR_INVALID, "%s is no plain file", name);
    }
    *ret_fd = fd;
    return 0;
}

static int make_replica(int made_fd, const char *name, int *ret_fd, struct fault *fault)
{
    int fd = openat(made_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making %s", name);
    *ret_fd = fd;
    return 0;
}

/* In the VM's folder of made files, as long as the disk itself has no name. */
struct replica_names {
    char made[SHARE_PATH_SIZE]; /* begun as a replica */
    char lent[SHARE_PATH_SIZE]; /* was the VM's disk here before */
};

static int name_replica(struct replica_names *ret_names, const char *name, struct fault *fault)
{
    int r = path_join(ret_names->made, sizeof ret_names->made, fault, "%s.replica", name);
    if (r == 0)
        r = path_join(ret_names->lent, sizeof ret_names->lent, fault, "%s.replica-lent", name);
    return r;
}

/* The VM's own disk loses its name: while it is half a replica nobody may start from it. */
static int lend_disk(int made_fd, const char *lent, int parent_fd, const char *base, int *ret_fd,
                     struct fault *fault)
{
    AUTO_FD int fd = -1;

    int r = open_found_replica(parent_fd, base, &fd, fault);
    if (r != 0)
        return r < 0 ? r : fault_set(fault, ERR_NOT_FOUND, "%s is gone", base);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return fault_set(fault, ERR_REFUSED, "%s is in use by somebody else", base);
    if (renameat2(parent_fd, base, made_fd, lent, RENAME_NOREPLACE) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "taking %s for a replica", base);
    (void)fsync(parent_fd);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int find_replica(int made_fd, const char *name, int parent_fd, const char *base, bool lend,
                        int *ret_fd, enum share_replica *ret_how, struct fault *fault)
{
    struct replica_names names;

    int r = name_replica(&names, name, fault);
    if (r < 0)
        return r;
    *ret_how = SHARE_REPLICA_FOUND;
    r = open_found_replica(made_fd, names.lent, ret_fd, fault);
    if (r == 1)
        r = open_found_replica(made_fd, names.made, ret_fd, fault);
    if (r != 1)
        return r;
    if (faccessat(parent_fd, base, F_OK, AT_SYMLINK_NOFOLLOW) != 0) {
        *ret_how = SHARE_REPLICA_MADE;
        return make_replica(made_fd, names.made, ret_fd, fault);
    }
    if (!lend)
        return fault_set(fault, ERR_EXISTS, "%s is there already; nothing is written over", base);
    *ret_how = SHARE_REPLICA_LENT;
    return lend_disk(made_fd, names.lent, parent_fd, base, ret_fd, fault);
}

int share_open_replica(int share_fd, const char *vm_id, const char *name, const char *file,
                       uint64_t bytes, bool lend, int *ret_fd, enum share_replica *ret_how,
                       struct fault *fault)
{
    AUTO_FD int made_fd = -1;
    AUTO_FD int parent_fd = -1;
    AUTO_FD int fd = -1;
    struct stat info;
    const char *base;

    int r = open_parent(share_fd, file, &parent_fd, &base, fault);
    if (r == 0)
        r = open_part(share_fd, vm_id, "made", true, &made_fd, fault);
    if (r == 0)
        r = find_replica(made_fd, name, parent_fd, base, lend, &fd, ret_how, fault);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", name);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return fault_set(fault, ERR_REFUSED, "disk %s: %s is in use by somebody else", name, file);
    if (fstat(fd, &info) < 0 || ((uint64_t)info.st_size != bytes && ftruncate(fd, (off_t)bytes) < 0) ||
        fsync(made_fd) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno,
                               "making room for disk %s of %llu bytes", name,
                               (unsigned long long)bytes);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int share_open_replica_journal(int share_fd, const char *vm_id, const char *name, bool anew,
                               int *ret_fd, struct fault *fault)
{
    AUTO_FD int made_fd = -1;
    char journal[SHARE_PATH_SIZE];

    int r = open_part(share_fd, vm_id, "made", true, &made_fd, fault);
    if (r == 0)
        r = path_join(journal, sizeof journal, fault, "%s.replica-journal", name);
    if (r < 0)
        return fault_wrap(fault, r, "the journal of a replica");
    if (anew)
        (void)unlinkat(made_fd, journal, 0); /* absent is as good */
    int fd = openat(made_fd, journal, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || fsync(made_fd) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "the journal of a replica");
    *ret_fd = fd;
    return 0;
}

static int give_name(int made_fd, const char *replica, int parent_fd, const char *base,
                     struct fault *fault)
{
    if (linkat(made_fd, replica, parent_fd, base, 0) < 0 &&
        !(errno == EEXIST && is_same_file(parent_fd, base, made_fd, replica)))
        return fault_set_errno(fault, err_from_errno(errno), errno, "naming a replica's disk %s",
                               base);
    return 0;
}

int share_judge_replica(int share_fd, const char *vm_id, const char *name, const char *file,
                        struct fault *fault)
{
    AUTO_FD int made_fd = -1;
    AUTO_FD int parent_fd = -1;
    struct replica_names names;
    const char *base;

    int r = open_parent(share_fd, file, &parent_fd, &base, fault);
    if (r == 0)
        r = open_part(share_fd, vm_id, "made", false, &made_fd, fault);
    if (r == 0)
        r = name_replica(&names, name, fault);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", name);
    const char *made = names.made, *lent = names.lent;
    const char *replica =
        faccessat(made_fd, lent, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ? lent : made; /* as it is kept */
    bool is_there = faccessat(made_fd, replica, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    bool is_named = faccessat(parent_fd, base, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (is_there && is_named && !is_same_file(parent_fd, base, made_fd, replica))
        r = fault_set(fault, ERR_EXISTS,
                      "%s is somebody else's by now: the replica can have its name once that is moved away",
                      file);
    else if (!is_there && !is_named)
        r = fault_set(fault, ERR_NOT_FOUND, "%s and its replica are gone", base);
    return r < 0 ? fault_wrap(fault, r, "disk %s", name) : 0;
}

int share_keep_replica(int share_fd, const char *vm_id, const char *name, const char *file,
                       struct fault *fault)
{
    AUTO_FD int made_fd = -1;
    AUTO_FD int parent_fd = -1;
    struct replica_names names;
    const char *base;

    int r = open_parent(share_fd, file, &parent_fd, &base, fault);
    if (r == 0)
        r = open_part(share_fd, vm_id, "made", false, &made_fd, fault);
    if (r == 0)
        r = name_replica(&names, name, fault);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", name);
    const char *made = names.made, *lent = names.lent;
    if (faccessat(made_fd, lent, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        r = give_name(made_fd, lent, parent_fd, base, fault);
        if (r == 0 && (fsync(parent_fd) < 0 || unlinkat(made_fd, lent, 0) < 0)) /* it is as it was */
            r = fault_set_errno(fault, ERR_IO, errno, "naming a replica's disk %s", base);
    } else if (faccessat(made_fd, made, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        r = give_name(made_fd, made, parent_fd, base, fault);
        if (r == 0 && renameat(made_fd, made, made_fd, name) < 0)
            r = fault_set_errno(fault, ERR_IO, errno, "naming a replica's disk %s", base);
    } else if (faccessat(parent_fd, base, F_OK, AT_SYMLINK_NOFOLLOW) < 0) {
        r = fault_set(fault, ERR_NOT_FOUND, "%s and its replica are gone", base);
    }
    if (r == 0 && (fsync(made_fd) < 0 || fsync(parent_fd) < 0))
        r = fault_set_errno(fault, ERR_IO, errno, "naming a replica's disk %s", base);
    return r < 0 ? fault_wrap(fault, r, "disk %s", name) : 0;
}

int share_drop_replica(int share_fd, const char *vm_id, const char *name, const char *file,
                       const char *word, struct fault *fault)
{
    AUTO_FD int made_fd = -1;
    AUTO_FD int parent_fd = -1;
    struct replica_names names;
    char aside[SHARE_PATH_SIZE];
    const char *base;

    int r = open_part(share_fd, vm_id, "made", false, &made_fd, NULL);
    if (r == ERR_NOT_FOUND)
        return 0;
    if (r == 0)
        r = open_parent(share_fd, file, &parent_fd, &base, fault);
    if (r == 0)
        r = name_replica(&names, name, fault);
    if (r == 0)
        r = path_join(aside, sizeof aside, fault, "%s.replica-%s", base, word);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", name);
    if (unlinkat(made_fd, names.made, 0) < 0 && errno != ENOENT)
        return fault_set_errno(fault, err_from_errno(errno), errno, "removing the replica of disk %s",
                               name);
    if (renameat2(made_fd, names.lent, parent_fd, aside, RENAME_NOREPLACE) < 0 && errno != ENOENT)
        return fault_set_errno(fault, err_from_errno(errno), errno, "disk %s: putting it aside as %s",
                               name, aside);
    if (!is_same_file(parent_fd, base, made_fd, name))
        (void)unlinkat(made_fd, name, 0); /* the second name of what was put aside, or alone */
    (void)fsync(parent_fd);
    (void)fsync(made_fd);
    return 0;
}

void share_drop_replica_journal(int share_fd, const char *vm_id, const char *name)
{
    AUTO_FD int made_fd = -1;
    char journal[SHARE_PATH_SIZE];

    if (open_part(share_fd, vm_id, "made", false, &made_fd, NULL) == 0 &&
        path_join(journal, sizeof journal, NULL, "%s.replica-journal", name) == 0)
        (void)unlinkat(made_fd, journal, 0); /* absent is as good */
}

bool share_is_made(int share_fd, const char *vm_id, const char *name, const char *file)
{
    AUTO_FD int made_fd = -1;
    AUTO_FD int parent_fd = -1;
    const char *base;

    return open_part(share_fd, vm_id, "made", false, &made_fd, NULL) == 0 &&
           open_parent(share_fd, file, &parent_fd, &base, NULL) == 0 &&
           is_same_file(parent_fd, base, made_fd, name);
}

int share_leave_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                     uint64_t generation, struct fault *fault)
{
    AUTO_FD int parent_fd = -1;
    char aside[SHARE_PATH_SIZE];
    const char *base;
    bool removed;

    int r = share_remove_disk(share_fd, vm_id, name, file, &removed, fault);
    if (r < 0 || removed)
        return r;
    r = open_parent(share_fd, file, &parent_fd, &base, fault);
    if (r == 0)
        r = path_join(aside, sizeof aside, fault, "%s.moved-%llu", base,
                      (unsigned long long)generation);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", name);
    if (renameat2(parent_fd, base, parent_fd, aside, RENAME_NOREPLACE) < 0 && errno != ENOENT)
        return fault_set_errno(fault, err_from_errno(errno), errno, "disk %s: putting %s aside",
                               name, file);
    (void)fsync(parent_fd);
    return 0;
}

int share_forget_vm(int share_fd, const char *vm_id, struct fault *fault)
{
    const char *const names[] = {own_folder, vm_id, NULL};
    AUTO_FD int vm_fd = -1;
    AUTO_FD int stamp_fd = -1;

    if (!id_name_is_valid(vm_id))
        return fault_set(fault, ERR_INVALID, "'%s' is no VM id", vm_id);
    if (walk(share_fd, names, false, &vm_fd, NULL) < 0)
        return 0; /* it has nothing here */
    if (share_open_stamp(share_fd, vm_id, false, &stamp_fd, NULL) == 0) {
        int r = stamp_remove(stamp_fd, fault);
        if (r < 0)
            return r;
    }
    (void)unlinkat(vm_fd, "stamp", AT_REMOVEDIR); /* each keeps what is not ours */
    (void)unlinkat(vm_fd, "made", AT_REMOVEDIR);
    AUTO_FD int own_fd = open_beneath(share_fd, own_folder, O_RDONLY | O_DIRECTORY);
    if (own_fd >= 0)
        (void)unlinkat(own_fd, vm_id, AT_REMOVEDIR);
    (void)unlinkat(share_fd, own_folder, AT_REMOVEDIR);
    return 0;
}

/* ---- is it the same folder? ---- */
static bool word_name(const char *word, char ret_name[static SHARE_PATH_SIZE])
{
    if (strnlen(word, SHARE_WORD_SIZE) != SHARE_WORD_SIZE - 1 || !id_name_is_valid(word))
        return false;
    (void)snprintf(ret_name, SHARE_PATH_SIZE, "seen-%s", word);
    return true;
}

int share_word_write(int share_fd, const char word[static SHARE_WORD_SIZE], struct fault *fault)
{
    const char *const names[] = {own_folder, NULL};
    char name[SHARE_PATH_SIZE];
    AUTO_FD int own_fd = -1;

    if (!word_name(word, name))
        return fault_set(fault, ERR_INVALID, "a word for a store of a wrong form");
    int r = walk(share_fd, names, true, &own_fd, fault);
    if (r < 0)
        return r;
    AUTO_FD int fd = openat(own_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, word, SHARE_WORD_SIZE - 1) != SHARE_WORD_SIZE - 1 || fsync(fd) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "writing into the store");
    (void)fsync(own_fd);
    return 0;
}

int share_word_read(int share_fd, const char word[static SHARE_WORD_SIZE], struct fault *fault)
{
    const char *const names[] = {own_folder, NULL};
    char name[SHARE_PATH_SIZE], found[SHARE_WORD_SIZE];
    AUTO_FD int own_fd = -1;

    if (!word_name(word, name))
        return fault_set(fault, ERR_INVALID, "a word for a store of a wrong form");
    int r = walk(share_fd, names, false, &own_fd, fault);
    if (r < 0)
        return r;
    AUTO_FD int fd = open_beneath(own_fd, name, O_RDONLY);
    if (fd < 0)
        return refuse_open(name, fault);
    if (read(fd, found, sizeof found) != SHARE_WORD_SIZE - 1 ||
        memcmp(found, word, SHARE_WORD_SIZE - 1) != 0)
        return fault_set(fault, ERR_NOT_FOUND, "the word in the store is another one");
    return 0;
}

void share_word_wipe(int share_fd, const char word[static SHARE_WORD_SIZE])
{
    const char *const names[] = {own_folder, NULL};
    char name[SHARE_PATH_SIZE];
    AUTO_FD int own_fd = -1;

    if (!word_name(word, name) || walk(share_fd, names, false, &own_fd, NULL) < 0)
        return;
    (void)unlinkat(own_fd, name, 0);                    /* absent is as good */
    (void)unlinkat(share_fd, own_folder, AT_REMOVEDIR); /* keeps what is there */
}
