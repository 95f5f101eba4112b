/* The images of this host: read-only files that are named by the SHA-256 of what they hold.
 *
 * Flow:   images, image_upload, image_fetch, image_clone -> [image_folder] -> files
 * Thread: any; blocking, for a worker. A draft belongs to one at a time.
 *
 *   FOLDER/<digest>          an image, whole: published by rename after its digest was found right
 *   FOLDER/.draft-<digest>   one that is coming; of a killed agent they are deleted at its start
 */
#ifndef GODWIT_AGENT_IMAGE_FOLDER_H
#define GODWIT_AGENT_IMAGE_FOLDER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/digest.h"

struct fault;

struct image_proof { /* that a file's content was found right, and it has not been touched since */
    char digest[DIGEST_TEXT_SIZE]; /* "": none */
    uint64_t inode, size;
    int64_t changed_s, changed_ns; /* ctime: any write, rename or link moves it */
};

/* Makes the folder when it is missing and deletes drafts. */
int image_folder_open(const char *path, int *ret_fd, struct fault *fault);
/* Names of all images; an array to free with image_folder_list_free. */
int image_folder_list(int folder_fd, char ***ret_digests, size_t *ret_count, struct fault *fault);
void image_folder_list_free(char **digests, size_t count);
/* Open for reading, with its size; ERR_NOT_FOUND. */
int image_folder_file(int folder_fd, const char *digest, int *ret_fd, uint64_t *ret_size,
                      struct fault *fault);
/* Read it and compare, unless `proof` says that this was done and the file is as it was then.
 * ERR_CORRUPT: it does not hold what its name says; ERR_BUSY: somebody
 * touched it meanwhile. `done`: bytes so far, for who watches; the
 * answer is ERR_CANCELED when `canceled` becomes true. */
int image_folder_verify(int folder_fd, const char *digest, struct image_proof *proof,
                        atomic_ullong *done, const atomic_bool *canceled, struct fault *fault);
/* SHA-256 of a file of that size; `done` and `canceled` as above. */
int image_folder_sum(int fd, uint64_t size, char ret_digest[static DIGEST_TEXT_SIZE],
                     atomic_ullong *done, const atomic_bool *canceled, struct fault *fault);
/* One that was found damaged is an image no more: its file is .damaged-DIGEST, for who wants to look. */
int image_folder_set_aside(int folder_fd, const char *digest, struct fault *fault);
int image_folder_remove(int folder_fd, const char *digest, struct fault *fault); /* absent: 0 */

/* ---- one that is coming ---- */
struct image_draft {
    int folder_fd; /* borrowed */
    int fd;
    char digest[DIGEST_TEXT_SIZE];
    uint64_t size, offset; /* all before the offset is there */
    struct digest *sum;
};

int image_draft_open(struct image_draft *draft, int folder_fd, const char *digest, uint64_t size,
                     struct fault *fault);
/* The next bytes, or zeros (up to SPARSE_ZEROS_MAX): `offset` is where they belong, which must be the
 * draft's. Nothing is changed by what is refused with ERR_INVALID. */
int image_draft_add(struct image_draft *draft, uint64_t offset, const void *bytes, size_t count,
                    uint64_t zeros, struct fault *fault);
/* All is there: durable, read-only, under its name. ERR_CORRUPT: it is something else;
 * ERR_BUSY: another draft has its name by now. */
int image_draft_publish(struct image_draft *draft, struct fault *fault);
/* Closes it; deletes the file unless it was published. A zeroed draft is fine. */
void image_draft_drop(struct image_draft *draft);

#endif
