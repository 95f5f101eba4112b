/* Is a guest's file whole, to the byte? Asked without a machine that it could be loaded into.
 *
 * Flow:   file -> [guest_seal] -> agent
 * Thread: any; blocking, reads all of it.
 *
 * Its layout is migrate/guest_file.h's; of that only what the seal covers is known here: label, shape and
 * all bytes from the end of the head up to the last eight, which are XXH3-64 of them.
 */
#ifndef GODWIT_STORAGE_GUEST_SEAL_H
#define GODWIT_STORAGE_GUEST_SEAL_H

#include <stdint.h>

struct fault;
struct guest_label;

enum {
    GUEST_SEAL_HEAD_BYTES = 4096,
    GUEST_SEAL_SHAPE_AT = 1024,
    GUEST_SEAL_SHAPE_BYTES = 512,
    GUEST_SEAL_TAIL_BYTES = 32,
};

#define GUEST_SEAL_MAGIC UINT64_C(0x3144454c41455347) /* "GSEALED1": the tail's first word */

/* Refuses by name another VM's, another nonce or generation, a consumed one, and damage. */
int guest_seal_check(const struct guest_label *expected, int fd, struct fault *fault);

#endif
