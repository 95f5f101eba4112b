/* The small file that outlives a godwit-vm: its latches, and why it ended.
 *
 * Flow:   move, machine -> [latch_file] -> agent's vm_table, after the process died
 * Thread: put from any thread (one mutex); create, open, free, read on the owner's.
 *
 * It lies on tmpfs, so it is exactly as durable as the guest's memory: it survives its process and
 * goes with a boot, and a put is a few stores without a system call, fit for the blackout.
 *
 * Layout, little-endian: two slots of LATCH_FILE_SLOT_BYTES, written in turn, so that a process
 * that dies inside a put leaves the record before it whole. A slot: 0 u32 magic  4 u32 version  8
 * u64 sequence  16 u64 generation held  24 u64 generation of the move 32 move id [40]  72 u8 latch
 * (wire numbers of Latch)  73 u8 ending  80 reason [240] 504 u64 XXH3 of the bytes before
 */
#ifndef GODWIT_AGENT_VM_LATCH_FILE_H
#define GODWIT_AGENT_VM_LATCH_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fault;
struct latch_file;

enum {
    LATCH_FILE_SLOT_BYTES = 512,
    LATCH_FILE_BYTES = 2 * LATCH_FILE_SLOT_BYTES,
    LATCH_FILE_MOVE_ID_SIZE = 40,
    LATCH_FILE_REASON_SIZE = 240,
};

/* Wire numbers: append only. */
enum latch_ending {
    LATCH_ENDING_NONE = 0,      /* the process did not come to tell */
    LATCH_ENDING_POWER_OFF = 1, /* the guest switched itself off */
    LATCH_ENDING_CRASHED = 2,   /* the guest or its machine failed; see reason */
    LATCH_ENDING_GONE = 3,      /* moved away and released, or an incoming VM discarded */
    LATCH_ENDING_QUIT = 4,      /* its agent asked for it */
    LATCH_ENDING_COUNT
};

struct latch_record {
    uint64_t sequence;        /* filled by latch_file_put */
    uint64_t generation;      /* the VM runs as it here, or did; 0 for one that never ran here */
    uint64_t move_generation; /* of the last move, 0: none */
    char move_id[LATCH_FILE_MOVE_ID_SIZE];
    uint8_t latch;  /* Godwit__Latch */
    uint8_t ending; /* enum latch_ending */
    char reason[LATCH_FILE_REASON_SIZE];
};

/* Make (or empty) the file at `path`, its bytes allocated so that no later store can fail. */
int latch_file_create(const char *path, int *ret_fd, struct fault *fault);
/* Map it for writing; takes fd when it returns 0. */
int latch_file_open(struct latch_file **ret_file, int fd, struct fault *fault);
struct latch_file *latch_file_free(struct latch_file *file);

/* When this returns, whoever reads the file sees this record or a later one. */
void latch_file_put(struct latch_file *file, const struct latch_record *record);

/* The newest whole record of the file at `path`. ERR_NOT_FOUND: no file, or nothing put yet;
 * ERR_CORRUPT: bytes, but no slot that is whole. */
int latch_file_read(const char *path, struct latch_record *ret_record, struct fault *fault);

const char *latch_file_latch_name(unsigned latch); /* "GAVE"; "?" for what is none */

#endif
