/* Disks of a replica and the journal beside them: whatever dies, the disks are one whole
 * checkpoint.
 *
 * Flow:   replica -> [replica_journal] -> journal file, then disk files
 * Thread: its owner's; blocking.
 *
 * The journal file: two heads (sectors 0 and 8, the newer valid one counts) name the checkpoint
 * that the disks are; from 8192 on stands the log of the next one.
 *
 *      add, add, ...   log: pages as they arrive; disks are not touched
 *      commit          log's end, sync                     <- from here on it is held
 *      apply           pages go to the disks, sync, head, sync
 *
 * Opening a journal whose log is whole and was made upon what the head names does the apply again.
 * A log that is not whole is as if it never was. Every entry is chained to the log's own beginning,
 * so what an older log left behind fits nowhere. While nothing is held the disks are written at
 * once: there is nothing to lose.
 */
#ifndef GODWIT_MIGRATE_REPLICA_JOURNAL_H
#define GODWIT_MIGRATE_REPLICA_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/replica_frame.h"

struct fault;
struct replica_journal;

/* File 0 is the journal, 1 + n is disk n. All return 0 or an errno. */
struct replica_journal_io {
    /* Zeros where the file has ended. */
    int (*read)(void *owner, unsigned file, void *ret_bytes, size_t count, uint64_t offset);
    int (*write)(void *owner, unsigned file, const void *bytes, size_t count, uint64_t offset);
    int (*sync)(void *owner, unsigned file);
    /* Make a file no longer than this; NULL: it stays as long as it ever was. */
    int (*cut)(void *owner, unsigned file, uint64_t bytes);
};

/* A journal file that has become longer is cut down when what was in it is on the disks, or nothing. */
enum { REPLICA_JOURNAL_KEPT_BYTES = 64 << 20 };

/* What is in the journal's head. */
struct replica_journal_held {
    struct replica_held held;
    uint64_t disks_sum; /* of the disks' pages alone */
    bool has_ram;       /* the image had RAM, which no journal keeps */
};

/* Reads the heads and applies a whole log. `io` and `disk_bytes` (multiples of 512) are borrowed
 * and must outlive it. ERR_CORRUPT: it is no journal of `disks` disks of these sizes. */
int replica_journal_new(struct replica_journal **ret_journal, const struct replica_journal_io *io,
                        void *owner, const uint64_t *disk_bytes, unsigned disks,
                        struct fault *fault);
struct replica_journal *replica_journal_free(struct replica_journal *journal);

/* held.id.seq 0: nothing; its generation still is the newest that was held. */
const struct replica_journal_held *replica_journal_held(const struct replica_journal *journal);
uint64_t replica_journal_bytes(const struct replica_journal *journal); /* of the log now */

/* Forget that anything is held, but for its generation: the disks are not what the head says. Durable. */
int replica_journal_void(struct replica_journal *journal, struct fault *fault);
/* A log for the next checkpoint begins; one that was not committed is forgotten. */
int replica_journal_begin(struct replica_journal *journal, const struct replica_id *id,
                          struct fault *fault);
/* A page of disk n, NULL: zeros. To the log, or while nothing is held to the disk. ERR_LIMIT: the log
 * would be longer than writing every page twice makes it. */
int replica_journal_add(struct replica_journal *journal, unsigned disk, uint64_t page,
                        const uint8_t *bytes, struct fault *fault);
/* All is there. When it returns 0 this checkpoint is the one that is held, whatever power does. */
int replica_journal_commit(struct replica_journal *journal, const struct replica_journal_held *held,
                           struct fault *fault);
/* Put what was committed into the disks. */
int replica_journal_apply(struct replica_journal *journal, struct fault *fault);
/* After a commit or an apply that failed: make it certain what the disks are. What was committed goes into
 * them; else they stay what is held, and the log that may be whole is taken back. */
int replica_journal_mend(struct replica_journal *journal, struct fault *fault);

/* Over real files: fds[0] is the journal. Borrowed. */
extern const struct replica_journal_io replica_journal_file_io; /* owner: const int *fds */

#endif
