/* L: who may write a VM's shared disks, beside the disks themselves.
 *
 * Flow:   agent -> [stamp] -> .godwit/<vm>/stamp/ in the store
 * Thread: any; blocking, for a worker.
 *
 * A stamp is {generation, owner, incarnation}; it changes only by an exact compare-and-swap. On a
 * shared file system the one thing that happens once whoever asks is the making of a name. So every
 * stamp is a ticket, a file that is named by the generation it follows ("after-<n>"), and whoever
 * makes that name has won:
 *
 *      after-0 = {5, node1}    after-5 = {6, node2}    after-6 = {9, node1}      L = {9, node1}
 *
 * A ticket is written whole under a name of its own and then linked to its place, so nobody reads
 * half of one, and a crash leaves either the old stamp or the new one. Generations are never used
 * twice, so "after generation n" is exactly one state of L. Tickets are kept for a while
 * (STAMP_TICKETS_KEPT) and then pruned; one that comes so late that the ticket of its place was
 * pruned finds that later ones exist, and has lost.
 *
 * It decides between hosts that can write the store. It fences nobody: a host that is believed dead
 * has to be fenced by power before another one starts the VM.
 */
#ifndef GODWIT_STORAGE_STAMP_H
#define GODWIT_STORAGE_STAMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fault;

enum {
    STAMP_WORD_SIZE = 64,
    STAMP_TICKET_BYTES = 224,
    STAMP_TICKETS_KEPT = 64,
    STAMP_TICKETS_MAX = 4096, /* in one folder: more is a sign of damage */
    STAMP_NAME_SIZE = 32,
};

/* Positive: L is not what was expected; the swap did not happen and never will. */
enum { STAMP_E_LOST = 1 };

struct stamp {
    uint64_t generation; /* 0: nobody has ever held it */
    char owner[STAMP_WORD_SIZE];       /* the host's name */
    char incarnation[STAMP_WORD_SIZE]; /* of that boot of it */
};

/* ---- pure ---- */
struct stamp_ticket {
    char vm_id[STAMP_WORD_SIZE];
    uint64_t after; /* the generation of the stamp that it follows; 0: the first */
    struct stamp stamp;
};

void stamp_ticket_encode(const struct stamp_ticket *ticket,
                         uint8_t ret_bytes[static STAMP_TICKET_BYTES]);
int stamp_ticket_decode(const uint8_t *bytes, size_t count, struct stamp_ticket *ret_ticket,
                        struct fault *fault);
/* "after-17" <-> 17; false: not a ticket's name. */
void stamp_name_print(uint64_t after, char ret_name[static STAMP_NAME_SIZE]);
bool stamp_name_parse(const char *name, uint64_t *ret_after);

bool stamp_is_equal(const struct stamp *a, const struct stamp *b);
enum stamp_verdict {
    STAMP_VERDICT_SWAP,    /* it is what was expected: try */
    STAMP_VERDICT_IS_OURS, /* it is what we want already: an earlier try had its effect */
    STAMP_VERDICT_LOST,
};
enum stamp_verdict stamp_judge(const struct stamp *found, const struct stamp *expected,
                               const struct stamp *wanted);

/* ---- the folder (an open descriptor of it, borrowed) ---- */
/* A zeroed stamp when there is none yet. */
int stamp_read(int folder_fd, const char *vm_id, struct stamp *ret_stamp, struct fault *fault);
/* L: expected -> wanted. 0: it is `wanted` now. STAMP_E_LOST: it is *ret_found, which is neither.
 * A failure: nobody knows; read it again (the same call may be repeated). */
int stamp_swap(int folder_fd, const char *vm_id, const struct stamp *expected,
               const struct stamp *wanted, struct stamp *ret_found, struct fault *fault);
/* Delete all tickets, and what a crash left of one. Of a VM that is removed. */
int stamp_remove(int folder_fd, struct fault *fault);

#endif
