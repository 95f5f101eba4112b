/* The content of one file in another: shared by reflink where the file system can, else copied with
 * its holes kept.
 *
 * Flow:   agent, agent/vm -> [clone] -> the store
 * Thread: any; blocking, for a worker.
 */
#ifndef GODWIT_STORAGE_CLONE_H
#define GODWIT_STORAGE_CLONE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct fault;

struct clone {
    int from;                /* open for reading; borrowed */
    uint64_t from_bytes;     /* its size */
    uint64_t bytes;          /* of the new file, not less: zeros follow */
    atomic_ullong *done;     /* how far a copy is, for who watches; NULL: nobody */
    atomic_bool *canceled;   /* asked between two pieces; NULL: never */
    /* told: */
    bool is_reflink;
    uint64_t copied_bytes;
};

/* By reflink only: `to` is what `from` is, blocks shared. 0 or -errno. */
int clone_share(int from, int to);
/* Into `to`, an empty file open for writing. On failure it holds some part. */
int clone_fill(struct clone *clone, int to, struct fault *fault);

#endif
