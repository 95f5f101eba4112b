/* Known patterns in the registers the compiler does not use, for a vCPU's whole life.
 *
 * Flow:   vcpu -> [registers] -> command (stats: fpu=)
 * Thread: each vCPU its own.
 *
 * vector registers 0-13 (XMM, or YMM where AVX is asked for and there), x87 ST0 and ST1, MXCSR and
 * the x87 control word hold constants. XMM15 holds the vCPU's two running sums, so that registers
 * and memory of different moments are told apart: a target that resumes with the last round of
 * memory missing fails here even if its pages agree among themselves.
 */
#ifndef GUEST_REGISTERS_H
#define GUEST_REGISTERS_H

#include <stdbool.h>
#include <stdint.h>

enum { REGISTERS_VECTORS = 14 };

struct registers {
    uint64_t pattern[REGISTERS_VECTORS][4] __attribute__((aligned(32)));
    uint64_t x87[2];
    bool avx;
    const char *bad; /* the first thing that differed, or NULL; then what was held and wanted */
    uint64_t bad_held, bad_wanted;
    uint64_t checks;
};

void registers_load(struct registers *registers, uint32_t vcpu, uint64_t seed,
                    bool use_avx);
void registers_put_sums(uint64_t first, uint64_t second);

/* Sets `bad` for good when anything differs. The sums come before vectors and x87: see above. */
void registers_check(struct registers *registers, uint64_t first, uint64_t second);

#endif
