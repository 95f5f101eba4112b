/* What a disk's descriptor is, and its operations done on the spot.
 *
 * Flow:   disk -> [disk_file] -> kernel
 * Thread: open and close the disk's; run any, several at once.
 */
#ifndef GODWIT_STORAGE_DISK_FILE_H
#define GODWIT_STORAGE_DISK_FILE_H

#include <stdbool.h>
#include <stdint.h>

struct disk_request;
struct fault;

struct disk_file {
    int fd; /* owned */
    bool is_block_device;
    bool direct; /* O_DIRECT: memory and lengths in multiples of a sector */
    bool read_only;
    uint64_t bytes;
};

/* Takes `fd` when it returns 0. */
int disk_file_open(struct disk_file *ret_file, int fd, bool read_only, bool cached,
                   struct fault *fault);
void disk_file_close(struct disk_file *file);

/* The whole request, or what is left of it behind request->transferred. 0 or an errno. */
int disk_file_run(const struct disk_file *file, struct disk_request *request);

#endif
