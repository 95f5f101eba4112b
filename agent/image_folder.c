#include "agent/image_folder.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/config.h"
#include "base/err.h"
#include "base/own.h"
#include "base/sparse.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum { DRAFT_NAME_SIZE = DIGEST_TEXT_SIZE + 8 };

static const char draft_prefix[] = ".draft-";
static const char aside_prefix[] = ".damaged-";

static int judge_digest(const char *digest, struct fault *fault)
{
    return vm_spec_digest_is_valid(digest)
               ? 0
               : fault_set(fault, ERR_INVALID, "'%.80s' is no SHA-256", digest ? digest : "");
}

/* ---- the folder ---- */
/* Calls `each` for every entry; `data` is its own. */
static int walk(int folder_fd, int (*each)(void *data, int folder_fd, const char *name),
                void *data, struct fault *fault)
{
    int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    int r = 0;

    if (!folder) {
        int error = errno;
        close_p(&fd);
        return fault_set_errno(fault, ERR_IO, error, "reading the folder of images");
    }
    for (struct dirent *entry; r == 0 && (entry = readdir(folder));)
        r = each(data, folder_fd, entry->d_name);
    (void)closedir(folder);
    return r < 0 ? fault_set(fault, r, "no memory to list images") : 0;
}

static int drop_draft(void *data, int folder_fd, const char *name)
{
    (void)data;
    if (strncmp(name, draft_prefix, strlen(draft_prefix)) == 0)
        (void)unlinkat(folder_fd, name, 0); /* what stays is taken over by the next of its name */
    return 0;
}

int image_folder_open(const char *path, int *ret_fd, struct fault *fault)
{
    int r = dir_make(path, fault);
    if (r < 0)
        return fault_wrap(fault, r, "the folder of images");
    AUTO_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "opening %s", path);
    r = walk(fd, drop_draft, NULL, fault);
    if (r < 0)
        return r;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

struct listing {
    char **digests;
    size_t count;
};

static int note(void *data, int folder_fd, const char *name)
{
    struct listing *listing = data;
    (void)folder_fd;

    if (!vm_spec_digest_is_valid(name) || listing->count == IMAGES_MAX)
        return 0;
    char **more = reallocarray(listing->digests, listing->count + 1, sizeof *more);
    if (!more)
        return ERR_NOMEM;
    listing->digests = more;
    more[listing->count] = strdup(name);
    if (!more[listing->count])
        return ERR_NOMEM;
    listing->count++;
    return 0;
}

int image_folder_list(int folder_fd, char ***ret_digests, size_t *ret_count, struct fault *fault)
{
    struct listing listing = {0};

    int r = walk(folder_fd, note, &listing, fault);
    if (r < 0) {
        image_folder_list_free(listing.digests, listing.count);
        return r;
    }
    *ret_digests = listing.digests;
    *ret_count = listing.count;
    return 0;
}

void image_folder_list_free(char **digests, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(digests[i]);
    free(digests);
}

int image_folder_file(int folder_fd, const char *digest, int *ret_fd, uint64_t *ret_size,
                      struct fault *fault)
{
    struct stat info;

    int r = judge_digest(digest, fault);
    if (r < 0)
        return r;
    AUTO_FD int fd = openat(folder_fd, digest, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return fault_set(fault, ERR_NOT_FOUND, "this host has no image %.12s", digest);
    if (fd < 0 || fstat(fd, &info) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "opening image %.12s", digest);
    if (!S_ISREG(info.st_mode) || info.st_size <= 0)
        return fault_set(fault, ERR_CORRUPT, "image %.12s is no file with content", digest);
    *ret_fd = TAKE_FD(fd);
    *ret_size = (uint64_t)info.st_size;
    return 0;
}

static int take_proof(int fd, const char *digest, struct image_proof *ret_proof,
                      struct fault *fault)
{
    struct stat info;

    if (fstat(fd, &info) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "looking at image %.12s", digest);
    *ret_proof = (struct image_proof){.inode = info.st_ino,
                                      .size = (uint64_t)info.st_size,
                                      .changed_s = info.st_ctim.tv_sec,
                                      .changed_ns = info.st_ctim.tv_nsec};
    memcpy(ret_proof->digest, digest, DIGEST_TEXT_SIZE);
    return 0;
}

static bool proof_is_equal(const struct image_proof *a, const struct image_proof *b)
{
    return strcmp(a->digest, b->digest) == 0 && a->inode == b->inode && a->size == b->size &&
           a->changed_s == b->changed_s && a->changed_ns == b->changed_ns;
}

int image_folder_sum(int fd, uint64_t size, char ret_digest[static DIGEST_TEXT_SIZE],
                     atomic_ullong *done, const atomic_bool *canceled, struct fault *fault)
{
    AUTO_FREE uint8_t *buffer = malloc(MIB(1));
    struct digest *sum = digest_new();
    struct sparse_piece piece;
    int r = buffer && sum ? 0 : fault_set(fault, ERR_NOMEM, "no memory to read an image");

    for (uint64_t at = 0; r == 0 && at < size; at += piece.count + piece.zeros) {
        piece = (struct sparse_piece){0};
        if (canceled && atomic_load(canceled))
            r = fault_set(fault, ERR_CANCELED, "it was given up");
        else
            r = sparse_read(fd, at, size, buffer, MIB(1), &piece, fault);
        if (r == 0 && piece.count > 0)
            digest_add(sum, buffer, piece.count);
        else if (r == 0)
            digest_add_zeros(sum, piece.zeros);
        if (r == 0 && done)
            atomic_store(done, at + piece.count + piece.zeros);
    }
    if (r == 0)
        digest_finish(sum, ret_digest);
    (void)digest_free(sum);
    return r;
}

int image_folder_verify(int folder_fd, const char *digest, struct image_proof *proof,
                        atomic_ullong *done, const atomic_bool *canceled, struct fault *fault)
{
    AUTO_FD int fd = -1;
    struct image_proof before, after;
    char found[DIGEST_TEXT_SIZE];
    uint64_t size;

    int r = image_folder_file(folder_fd, digest, &fd, &size, fault);
    if (r == 0)
        r = take_proof(fd, digest, &before, fault);
    if (r < 0 || proof_is_equal(&before, proof))
        return r;
    *proof = (struct image_proof){0};
    r = image_folder_sum(fd, size, found, done, canceled, fault);
    if (r == 0)
        r = take_proof(fd, digest, &after, fault);
    if (r < 0)
        return fault_wrap(fault, r, "verifying image %.12s", digest);
    if (strcmp(found, digest) == 0 && !proof_is_equal(&before, &after))
        return fault_set(fault, ERR_BUSY, "image %.12s was touched while it was read", digest);
    if (strcmp(found, digest) != 0)
        return fault_set(fault, ERR_CORRUPT,
                         "image %.12s is damaged: its content has the SHA-256 %.12s...", digest,
                         found);
    *proof = before;
    return 0;
}

int image_folder_set_aside(int folder_fd, const char *digest, struct fault *fault)
{
    char name[sizeof aside_prefix + DIGEST_TEXT_SIZE];

    int r = judge_digest(digest, fault);
    if (r < 0)
        return r;
    (void)snprintf(name, sizeof name, "%s%s", aside_prefix, digest);
    if (renameat(folder_fd, digest, folder_fd, name) < 0 && errno != ENOENT)
        return fault_set_errno(fault, err_from_errno(errno), errno, "putting image %.12s aside",
                               digest);
    (void)fsync(folder_fd); /* after a crash it may be there again, and is found damaged again */
    return 0;
}

int image_folder_remove(int folder_fd, const char *digest, struct fault *fault)
{
    int r = judge_digest(digest, fault);
    if (r < 0)
        return r;
    if (unlinkat(folder_fd, digest, 0) < 0 && errno != ENOENT)
        return fault_set_errno(fault, err_from_errno(errno), errno, "removing image %.12s",
                               digest);
    (void)fsync(folder_fd); /* after a crash it may be there again: as good as before */
    return 0;
}

/* ---- one that is coming ---- */
static void draft_name(const char *digest, char ret_name[static DRAFT_NAME_SIZE])
{
    (void)snprintf(ret_name, DRAFT_NAME_SIZE, "%s%s", draft_prefix, digest);
}

int image_draft_open(struct image_draft *draft, int folder_fd, const char *digest, uint64_t size,
                     struct fault *fault)
{
    char name[DRAFT_NAME_SIZE];

    *draft = (struct image_draft){.folder_fd = folder_fd, .fd = -1, .size = size};
    int r = judge_digest(digest, fault);
    if (r == 0 && (size < IMAGE_BYTES_MIN || size > DISK_BYTES_MAX || size % 512 != 0))
        r = fault_set(fault, ERR_INVALID,
                      "an image of %llu bytes; %llu bytes to 64 TiB in whole sectors of 512 would "
                      "fit",
                      (unsigned long long)size, (unsigned long long)IMAGE_BYTES_MIN);
    if (r < 0)
        return r;
    memcpy(draft->digest, digest, DIGEST_TEXT_SIZE);
    draft_name(digest, name);
    (void)unlinkat(folder_fd, name, 0); /* of one that was given up */
    draft->fd = openat(folder_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (draft->fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making room for image %.12s",
                               digest);
    draft->sum = digest_new();
    if (!draft->sum || ftruncate(draft->fd, (off_t)size) < 0) {
        r = draft->sum ? fault_set_errno(fault, err_from_errno(errno), errno,
                                         "making room for image %.12s", digest)
                       : fault_set(fault, ERR_NOMEM, "no memory for an image");
        image_draft_drop(draft);
    }
    return r;
}

int image_draft_add(struct image_draft *draft, uint64_t offset, const void *bytes, size_t count,
                    uint64_t zeros, struct fault *fault)
{
    if (draft->fd < 0)
        return fault_set(fault, ERR_STATE, "image %.12s is not being taken", draft->digest);
    if (zeros > SPARSE_ZEROS_MAX)
        return fault_set(fault, ERR_INVALID, "image %.12s: %llu zeros at once, %d are possible",
                         draft->digest, (unsigned long long)zeros, SPARSE_ZEROS_MAX);
    if (offset != draft->offset || (count == 0) == (zeros == 0) || count > draft->size - offset ||
        zeros > draft->size - offset)
        return fault_set(fault, ERR_INVALID,
                         "image %.12s: %zu bytes and %llu zeros for byte %llu, while byte %llu of "
                         "%llu is wanted",
                         draft->digest, count, (unsigned long long)zeros,
                         (unsigned long long)offset, (unsigned long long)draft->offset,
                         (unsigned long long)draft->size);
    int r = count ? sparse_write(draft->fd, offset, bytes, count, fault) : 0;
    if (r < 0)
        return fault_wrap(fault, r, "taking image %.12s", draft->digest);
    if (count)
        digest_add(draft->sum, bytes, count);
    else
        digest_add_zeros(draft->sum, zeros);
    draft->offset += count + zeros;
    return 0;
}

static bool is_at(int fd, int folder_fd, const char *name)
{
    struct stat ours, there;

    return fstat(fd, &ours) == 0 && fstatat(folder_fd, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
           ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

int image_draft_publish(struct image_draft *draft, struct fault *fault)
{
    char found[DIGEST_TEXT_SIZE], name[DRAFT_NAME_SIZE];

    if (draft->fd < 0 || draft->offset != draft->size)
        return fault_set(fault, ERR_STATE, "image %.12s: %llu of %llu bytes have come",
                         draft->digest, (unsigned long long)draft->offset,
                         (unsigned long long)draft->size);
    digest_finish(draft->sum, found);
    draft->sum = digest_free(draft->sum);
    if (strcmp(found, draft->digest) != 0)
        return fault_set(fault, ERR_CORRUPT,
                         "what came has the SHA-256 %.12s..., announced was %.12s...", found,
                         draft->digest);
    draft_name(draft->digest, name);
    if (!is_at(draft->fd, draft->folder_fd, name))
        return fault_set(fault, ERR_BUSY, "image %.12s: another took the place of what came",
                         draft->digest);
    if (fchmod(draft->fd, 0400) < 0 || fsync(draft->fd) < 0 ||
        renameat(draft->folder_fd, name, draft->folder_fd, draft->digest) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "publishing image %.12s",
                               draft->digest);
    (void)fsync(draft->folder_fd); /* a crash can lose the name only: it comes again */
    close_p(&draft->fd);
    return 0;
}

void image_draft_drop(struct image_draft *draft)
{
    char name[DRAFT_NAME_SIZE];

    if (draft->digest[0] && draft->fd >= 0) {
        draft_name(draft->digest, name);
        (void)unlinkat(draft->folder_fd, name, 0); /* what stays goes at the agent's next start */
        close_p(&draft->fd);
    }
    draft->sum = digest_free(draft->sum);
    draft->digest[0] = '\0';
}
