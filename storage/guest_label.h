/* Whose guest rests in a file, and whether somebody has gone on from it: the file's first two sectors.
 *
 * Flow:   migrate/guest_file -> [guest_label] -> file;  agent -> [guest_label]: may it be resumed?
 * Thread: any; blocking.
 *
 * Sector 0, little-endian: 0 u64 magic  8 u32 version  16 u64 generation  32 VM id [64]  96 nonce [64]
 * 504 u64 XXH3-64 of the bytes before. Sector 1: zeros while nobody has consumed it; else u64
 * generation and u64 XXH3-64 of it. A mark that is not whole counts as one: somebody began.
 *
 * The rule that makes a guest's file good for one guest: it is marked, durably, before the guest that
 * was loaded from it runs. So a file without a mark means that the guest has not run since.
 */
#ifndef GODWIT_STORAGE_GUEST_LABEL_H
#define GODWIT_STORAGE_GUEST_LABEL_H

#include <stdint.h>

struct fault;

enum { GUEST_LABEL_WORD_SIZE = 64, GUEST_LABEL_BYTES = 512 };

struct guest_label {
    char vm_id[GUEST_LABEL_WORD_SIZE];
    char nonce[GUEST_LABEL_WORD_SIZE]; /* drawn for this file: no two have the same */
    uint64_t generation;               /* that the guest ran as */
};

int guest_label_encode(const struct guest_label *label, uint8_t ret_bytes[static GUEST_LABEL_BYTES],
                       struct fault *fault);
int guest_label_decode(const uint8_t bytes[static GUEST_LABEL_BYTES], struct guest_label *ret_label,
                       struct fault *fault);

/* *ret_consumed_by: the generation that went on from it, UINT64_MAX where the mark is damaged; 0:
 * nobody. */
int guest_label_read(int fd, struct guest_label *ret_label, uint64_t *ret_consumed_by,
                     struct fault *fault);
/* Refuses by name another VM's, another nonce or generation, and a consumed one. */
int guest_label_judge(const struct guest_label *label, uint64_t consumed_by,
                      const struct guest_label *expected, struct fault *fault);
/* When this returns 0 nobody takes it for fresh any more, whatever power does. */
int guest_label_consume(int fd, uint64_t generation, struct fault *fault);

#endif
