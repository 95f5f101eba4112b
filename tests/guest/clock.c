#include "clock.h"

#include "machine.h"

/* The ABI of MSR_KVM_SYSTEM_TIME_NEW. An odd version means KVM is in the middle of writing. */
struct clock_page {
    uint32_t version, pad;
    uint64_t tsc_timestamp;
    uint64_t system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad_end[2];
};

enum { PIT_HZ = 1193182, PIT_CALIBRATE_COUNT = 11932 }; /* 10 ms */

static uint64_t tsc_khz;
static uint64_t ns_per_tick_shift32;
static uint64_t ticks_per_ns_shift32;

static uint64_t khz_of_leaf_15(uint32_t leaf_max)
{
    if (leaf_max < 0x15)
        return 0;

    struct machine_cpuid id = machine_cpuid(0x15, 0);

    if (!id.eax || !id.ebx || !id.ecx)
        return 0;
    return (uint64_t)id.ecx * id.ebx / id.eax / 1000;
}

static uint64_t khz_of_kvmclock(const struct clock_page *page)
{
    const volatile struct clock_page *live = page;
    uint64_t mul = live->tsc_to_system_mul;

    if (!mul)
        return 0;

    int shift = live->tsc_shift;
    uint64_t khz = (UINT64_C(1000000) << 32) / mul;

    return shift < 0 ? khz << -shift : khz >> shift;
}

/* Last resort: PIT channel 2 counts down 10 ms while we watch its output bit. */
static uint64_t khz_of_pit(void)
{
    machine_out8(0x61, (uint8_t)((machine_in8(0x61) & ~2) | 1));
    machine_out8(0x43, 0xb0);
    machine_out8(0x42, PIT_CALIBRATE_COUNT & 0xff);
    machine_out8(0x42, PIT_CALIBRATE_COUNT >> 8);

    uint64_t begin = machine_tsc();

    while (!(machine_in8(0x61) & 0x20)) {
        if (machine_tsc() - begin > UINT64_C(1000000000))
            return 1000000; /* no PIT either: 1 GHz is as good as any */
    }
    return (machine_tsc() - begin) / 10;
}

void clock_init(const struct clock_page *page)
{
    uint32_t leaf_max = machine_cpuid(0, 0).eax;
    struct machine_cpuid kvm = machine_cpuid(0x40000000, 0);

    if (kvm.ebx == 0x4b4d564b && kvm.eax >= 0x40000010 && kvm.eax < 0x40000100)
        tsc_khz = machine_cpuid(0x40000010, 0).eax;
    if (!tsc_khz)
        tsc_khz = khz_of_leaf_15(leaf_max);
    if (!tsc_khz)
        tsc_khz = khz_of_kvmclock(page);
    if (!tsc_khz && leaf_max >= 0x16)
        tsc_khz = (uint64_t)(machine_cpuid(0x16, 0).eax & 0xffff) * 1000;
    if (!tsc_khz)
        tsc_khz = khz_of_pit();
    ns_per_tick_shift32 = (UINT64_C(1000000) << 32) / tsc_khz;
    ticks_per_ns_shift32 = (tsc_khz << 32) / 1000000;
}

uint64_t clock_tsc_khz(void)
{
    return tsc_khz;
}

uint64_t clock_ns(uint64_t ticks)
{
    return machine_mul_shift32(ticks, ns_per_tick_shift32);
}

uint64_t clock_ticks(uint64_t ns)
{
    return machine_mul_shift32(ns, ticks_per_ns_shift32);
}

bool clock_read(const struct clock_page *page, uint64_t *ret_ns, uint64_t *ret_tsc)
{
    const volatile struct clock_page *live = page;
    uint32_t version;
    uint64_t tsc, ns;

    do {
        version = live->version;
        if (!version)
            return false;
        tsc = machine_tsc_ordered();

        uint64_t delta = tsc - live->tsc_timestamp;
        int shift = live->tsc_shift;

        delta = shift < 0 ? delta >> -shift : delta << shift;
        ns = live->system_time + machine_mul_shift32(delta, live->tsc_to_system_mul);
        __asm__ volatile("lfence" ::: "memory");
    } while ((version & 1) || version != live->version);

    *ret_ns = ns;
    *ret_tsc = tsc;
    return true;
}
