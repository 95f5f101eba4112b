/* The machine's instructions that C has no words for.
 *
 * Flow:   every module -> [machine]
 * Thread: any vCPU.
 */
#ifndef GUEST_MACHINE_H
#define GUEST_MACHINE_H

#include <stdint.h>

struct machine_cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline void machine_out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline void machine_out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline void machine_out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline uint8_t machine_in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t machine_in32(uint16_t port)
{
    uint32_t value;

    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void machine_fence(void)
{
    __asm__ volatile("mfence" ::: "memory");
}

static inline void machine_pause(void)
{
    __asm__ volatile("pause" ::: "memory");
}

static inline uint64_t machine_tsc(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}

/* Not read before the loads above it in program order. */
static inline uint64_t machine_tsc_ordered(void)
{
    __asm__ volatile("lfence" ::: "memory");
    return machine_tsc();
}

static inline struct machine_cpuid machine_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct machine_cpuid id;

    __asm__ volatile("cpuid"
                     : "=a"(id.eax), "=b"(id.ebx), "=c"(id.ecx), "=d"(id.edx)
                     : "a"(leaf), "c"(subleaf));
    return id;
}

/* (a * b) >> 32 without losing the top, and without libgcc's 128-bit division. */
static inline uint64_t machine_mul_shift32(uint64_t a, uint64_t b)
{
    return (uint64_t)((unsigned __int128)a * b >> 32);
}

#endif
