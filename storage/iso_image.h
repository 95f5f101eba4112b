/* A read-only disk of a few small files: ISO 9660 with Rock Ridge names, the same bytes whoever
 * makes it.
 *
 * Flow:   agent -> [iso_image] -> a cloud-init seed
 * Thread: any; pure.
 *
 * One flat folder, fixed dates and owners: equal input gives equal bytes, so a guest that moves finds
 * on its new host exactly the disk that it has read from.
 */
#ifndef GODWIT_STORAGE_ISO_IMAGE_H
#define GODWIT_STORAGE_ISO_IMAGE_H

#include <stddef.h>
#include <stdint.h>

struct fault;

enum { ISO_IMAGE_FILES_MAX = 8, ISO_IMAGE_NAME_MAX = 32, ISO_IMAGE_BYTES_MAX = 1 << 20 };

struct iso_image_file {
    const char *name; /* as the guest sees it: "user-data" */
    const char *text;
    size_t count;
};

/* `files` sorted by name. Gives malloc'ed bytes. */
int iso_image_build(const char *label, const struct iso_image_file *files, size_t file_count,
                    uint8_t **ret_bytes, size_t *ret_count, struct fault *fault);

#endif
