/* How full a store is, and whether what is written there can be read again.
 *
 * Flow:   agent -> [share_space] -> the store
 * Thread: any; blocking, for a worker.
 */
#ifndef GODWIT_STORAGE_SHARE_SPACE_H
#define GODWIT_STORAGE_SHARE_SPACE_H

#include <stdbool.h>
#include <stdint.h>

struct fault;

enum { SHARE_FILE_SYSTEM_SIZE = 24 };

struct share_space {
    uint64_t total_bytes;
    uint64_t free_bytes; /* to us: what a file system keeps for root counts as taken, unless we are */
    char file_system[SHARE_FILE_SYSTEM_SIZE];
    bool read_only;
};

int share_space_read(int share_fd, struct share_space *ret_space, struct fault *fault);
/* Write a block, sync it, read it back past the cache where the file system lets us, delete it. */
int share_space_prove(int share_fd, struct fault *fault);
/* Of a file beneath the folder: its length, and what it takes of the medium. Zeroes: there is none. */
int share_space_measure(int share_fd, const char *file, uint64_t *ret_bytes,
                        uint64_t *ret_used_bytes, struct fault *fault);

#endif
