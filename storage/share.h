/* A folder of disks ("store"): opening and making files strictly beneath it, and asking whether two
 * hosts see the same one.
 *
 * Flow:   agent -> [share] -> the store
 * Thread: any; blocking, for a worker.
 *
 *   STORE/<file>                        disks
 *   STORE/.godwit/<vm>/stamp/           who may write them (stamp.h)
 *   STORE/.godwit/<vm>/made/<disk>      a second name of each disk that was made for this VM
 *   STORE/.godwit/<vm>/made/<disk>.landing   a disk that a move brings, until the VM runs here
 *   STORE/.godwit/<vm>/made/<disk>.replica   a disk of a replica, made for it
 *   STORE/.godwit/<vm>/made/<disk>.replica-lent   one that lay here as the VM's, until the replica is over
 *   STORE/.godwit/<vm>/made/<disk>.replica-journal   beside the first of them
 *   STORE/.godwit/seen-<word>           for a moment: does the other host see it?
 *
 * Whoever writes the store is hostile too: no link is followed and nothing is opened outside
 * (openat2). A disk is deleted only when it is the very file that was made for this VM, which is
 * proven by its second name: the same inode (INV-13 of RELIABILITY).
 */
#ifndef GODWIT_STORAGE_SHARE_H
#define GODWIT_STORAGE_SHARE_H

#include <stdbool.h>
#include <stdint.h>

struct fault;

enum { SHARE_WORD_SIZE = 33 };

/* The folder itself; ERR_NOT_FOUND, ERR_INVALID (no folder) with its path in the words. */
int share_open(const char *store, int *ret_fd, struct fault *fault);
/* The folder of a VM's stamp; made when `make`, else ERR_NOT_FOUND. */
int share_open_stamp(int share_fd, const char *vm_id, bool make, int *ret_fd, struct fault *fault);

/* A file beneath the folder; `flags` as open(2)'s. ERR_NOT_FOUND when it is not there. */
int share_open_file(int share_fd, const char *file, int flags, int *ret_fd, struct fault *fault);
/* Make `file` with `bytes` for disk `name` of this VM unless there is one. */
int share_make_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                    uint64_t bytes, bool *ret_made, struct fault *fault);
/* The same with content that `fill` gives the new, empty file. One that is there already is good
 * only when it was made for this disk of this VM: else ERR_EXISTS, for it holds something else. */
int share_make_filled(int share_fd, const char *vm_id, const char *name, const char *file,
                      int (*fill)(void *data, int fd, struct fault *fault), void *data,
                      bool *ret_made, struct fault *fault);
/* Delete `file` if it was made for this disk of this VM. */
int share_remove_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                      bool *ret_removed, struct fault *fault);
/* A disk that comes with a move: an empty file to write, which has its own name only from `keep`
 * on. One of an earlier move that did not end well is replaced. Refuses when `file` is there:
 * ERR_EXISTS.
 */
int share_land_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                    uint64_t bytes, int *ret_fd, struct fault *fault);
/* Give it its name; again is as good, and so is a disk that never landed. ERR_EXISTS: somebody took the name meanwhile. */
int share_keep_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                    struct fault *fault);
/* The move did not come to its end: delete what landed. */
void share_drop_disk(int share_fd, const char *vm_id, const char *name);
/* The VM has moved away with this disk: delete `file` if it was made for it, else give it the name
 * `file`.moved-`generation`, so that it is neither used nor lost. */
int share_leave_disk(int share_fd, const char *vm_id, const char *name, const char *file,
                     uint64_t generation, struct fault *fault);
/* ---- a replica's ---- */
enum share_replica {
    SHARE_REPLICA_MADE, /* a new, empty file */
    SHARE_REPLICA_FOUND, /* an earlier replica's of this VM */
    SHARE_REPLICA_LENT, /* the VM's own, which lay here: it has lost its name until the replica is over */
};
/* The disk of a replica, to be written: `bytes` long and locked against everybody else (flock), so that
 * nobody writes a file that somebody else uses. One that lies under its own name is taken only when
 * `lend`; else ERR_EXISTS. ERR_REFUSED: somebody else has it. */
int share_open_replica(int share_fd, const char *vm_id, const char *name, const char *file,
                       uint64_t bytes, bool lend, int *ret_fd, enum share_replica *ret_how,
                       struct fault *fault);
/* `anew`: an earlier one is forgotten. */
int share_open_replica_journal(int share_fd, const char *vm_id, const char *name, bool anew,
                               int *ret_fd, struct fault *fault);
/* Could it have its own name now? ERR_EXISTS: that is somebody else's; ERR_NOT_FOUND: it is gone. */
int share_judge_replica(int share_fd, const char *vm_id, const char *name, const char *file,
                        struct fault *fault);
/* The replica is the VM's disk from now on: it gets its own name. Again is as good; ERR_NOT_FOUND:
 * there is neither. ERR_EXISTS: somebody took the name meanwhile. */
int share_keep_replica(int share_fd, const char *vm_id, const char *name, const char *file,
                       struct fault *fault);
/* The replica is over: what was made for it is deleted; what was lent gets the name
 * `file`.replica-`word`, because it may be neither what it was nor whole. */
int share_drop_replica(int share_fd, const char *vm_id, const char *name, const char *file,
                       const char *word, struct fault *fault);
void share_drop_replica_journal(int share_fd, const char *vm_id, const char *name);

/* Is `file` the one that was made for this disk, or came for it? By its second name. */
bool share_is_made(int share_fd, const char *vm_id, const char *name, const char *file);
/* Forget the VM: its stamp and its empty folders. */
int share_forget_vm(int share_fd, const char *vm_id, struct fault *fault);

/* One host writes a word, the other reads it, the first one wipes it. */
int share_word_write(int share_fd, const char word[static SHARE_WORD_SIZE], struct fault *fault);
/* ERR_NOT_FOUND: it is not seen here. */
int share_word_read(int share_fd, const char word[static SHARE_WORD_SIZE], struct fault *fault);
void share_word_wipe(int share_fd, const char word[static SHARE_WORD_SIZE]);

#endif
