#include "registers.h"

#include "boot.h"
#include "machine.h"
#include "mix.h"

/* flush and round modes not the default */
enum { MXCSR_PATTERN = 0x9fc0, X87_CONTROL_PATTERN = 0x027f };

#define EACH_VECTOR(X)                                                                             \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13)

#define LOAD_SSE(n) "movdqa " #n "*32(%0), %%xmm" #n "\n\t"
#define LOAD_AVX(n) "vmovdqa " #n "*32(%0), %%ymm" #n "\n\t"
#define CHECK_SSE(n)                                                                               \
    "movdqa %%xmm" #n ", %%xmm14\n\t"                                                              \
    "pcmpeqd " #n "*32(%2), %%xmm14\n\t"                                                           \
    "pmovmskb %%xmm14, %0\n\t"                                                                     \
    "cmpl $0xffff, %0\n\t"                                                                         \
    "jne 1f\n\t"
#define CHECK_AVX(n)                                                                               \
    "vxorps " #n "*32(%1), %%ymm" #n ", %%ymm14\n\t"                                               \
    "vptest %%ymm14, %%ymm14\n\t"                                                                  \
    "jnz 1f\n\t"

static bool enable_avx(void)
{
    if ((machine_cpuid(1, 0).ecx & 0x14000000) != 0x14000000) /* XSAVE, AVX */
        return false;
    boot_ask_avx();

    uint32_t low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6;
}

void registers_load(struct registers *registers, uint32_t vcpu, uint64_t seed,
                    bool use_avx)
{
    uint32_t mxcsr = MXCSR_PATTERN;
    uint16_t control = X87_CONTROL_PATTERN;

    for (uint32_t i = 0; i < REGISTERS_VECTORS; i++) {
        for (uint32_t word = 0; word < 4; word++)
            registers->pattern[i][word] = mix64(seed + vcpu * 1000 + i * 4 + word + 1);
    }
    registers->x87[0] = mix64(seed + vcpu * 1000 + 900) >> 2; /* 62 bits: exact, and not negative */
    registers->x87[1] = mix64(seed + vcpu * 1000 + 901) >> 2;
    registers->avx = use_avx && enable_avx();
    if (registers->avx)
        __asm__ volatile(EACH_VECTOR(LOAD_AVX)::"r"(registers->pattern) : "memory");
    else
        __asm__ volatile(EACH_VECTOR(LOAD_SSE)::"r"(registers->pattern) : "memory");
    __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
    __asm__ volatile("fninit\n\tfildll %1\n\tfildll %0\n\tfldcw %2" ::"m"(registers->x87[0]),
                     "m"(registers->x87[1]), "m"(control));
    registers_put_sums(0, 0);
}

void registers_put_sums(uint64_t first, uint64_t second)
{
    __asm__ volatile("movq %0, %%xmm15\n\t"
                     "movq %1, %%xmm14\n\t"
                     "punpcklqdq %%xmm14, %%xmm15" ::"r"(first),
                     "r"(second));
}

static bool vectors_hold(const struct registers *registers)
{
    uint32_t scratch;
    uint8_t held = 0;

    /* `held` becomes 1 only when no comparison has jumped over its increment. */
    if (registers->avx)
        __asm__ volatile(EACH_VECTOR(CHECK_AVX) "incb %0\n1:"
                         : "+r"(held)
                         : "r"(registers->pattern)
                         : "memory", "cc");
    else
        __asm__ volatile(EACH_VECTOR(CHECK_SSE) "incb %1\n1:"
                         : "=&r"(scratch), "+r"(held)
                         : "r"(registers->pattern)
                         : "memory", "cc");
    return held == 1;
}

struct x87_state {
    uint64_t top[2];
    uint32_t mxcsr;
    uint16_t control;
};

static struct x87_state x87_read(void)
{
    struct x87_state found;

    __asm__ volatile("stmxcsr %0\n\tfnstcw %1\n\t"
                     "fld %%st(0)\n\tfistpll %2\n\t"
                     "fld %%st(1)\n\tfistpll %3"
                     : "=m"(found.mxcsr), "=m"(found.control), "=m"(found.top[0]),
                       "=m"(found.top[1]));
    return found;
}

static void expect(struct registers *registers, const char *what, uint64_t held, uint64_t wanted)
{
    if (held == wanted || registers->bad)
        return;
    registers->bad_held = held;
    registers->bad_wanted = wanted;
    registers->bad = what;
}

void registers_check(struct registers *registers, uint64_t first, uint64_t second)
{
    uint64_t held_first, held_second;

    __asm__ volatile("movq %%xmm15, %0\n\t"
                     "movdqa %%xmm15, %%xmm14\n\t"
                     "psrldq $8, %%xmm14\n\t"
                     "movq %%xmm14, %1"
                     : "=r"(held_first), "=r"(held_second));

    struct x87_state x87 = x87_read();

    expect(registers, "work_sum", held_first, first);
    expect(registers, "table_sum", held_second, second);
    expect(registers, "vectors", vectors_hold(registers), 1);
    expect(registers, "mxcsr", x87.mxcsr, MXCSR_PATTERN);
    expect(registers, "x87_control", x87.control, X87_CONTROL_PATTERN);
    expect(registers, "x87_st0", x87.top[0], registers->x87[0]);
    expect(registers, "x87_st1", x87.top[1], registers->x87[1]);
    registers->checks++;
}
