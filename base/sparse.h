/* A file read in pieces that are either bytes or zeros: holes are not read, zeros are not carried.
 *
 * Flow:   image file -> [sparse] -> cli, agent
 * Thread: any; blocking, no state.
 */
#ifndef GODWIT_BASE_SPARSE_H
#define GODWIT_BASE_SPARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fault;

enum { SPARSE_ZEROS_MAX = 256 << 20 }; /* of one piece: whoever works on it can be stopped after each */

struct sparse_piece { /* exactly one of the two is not 0 */
    size_t count;   /* bytes in the buffer */
    uint64_t zeros; /* that many zeros follow instead */
};

/* What a file of `size` bytes has at `offset` (below size): up to `room` bytes, or a run of zeros, up
 * to SPARSE_ZEROS_MAX (of a longer one the rest is the next piece). A file that is shorter by now is ERR_CORRUPT. */
int sparse_read(int fd, uint64_t offset, uint64_t size, void *buffer, size_t room,
                struct sparse_piece *ret_piece, struct fault *fault);
bool sparse_is_zero(const void *bytes, size_t count);
/* All of them, where pwrite may take less at once. */
int sparse_write(int fd, uint64_t offset, const void *bytes, size_t count, struct fault *fault);

#endif
