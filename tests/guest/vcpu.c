#include "vcpu.h"

#include "boot.h"
#include "clock.h"
#include "command.h"
#include "disk.h"
#include "guest.h"
#include "hostile.h"
#include "machine.h"
#include "nic.h"
#include "record.h"
#include "sweep.h"
#include "vsock.h"
#include "writer.h"

enum {
    VCPU_OFFSET = 4096, /* in the vCPU's area, behind the pvclock page */
    LAPIC_SVR = 0xf0,
    LAPIC_ICR_LOW = 0x300,
    LAPIC_ICR_HIGH = 0x310,
    LAPIC_ICR_PENDING = 1 << 12,
    LAPIC_INIT = 0x4500,
    LAPIC_STARTUP = 0x4600 | BOOT_AP_PAGE >> 12,
    IDLE_PAUSES = 64,
};

#define LAPIC_ADDRESS UINT64_C(0xfee00000)

static uint32_t running = 1; /* atomic */
static enum vcpu_pin pin_all;
static uint64_t pin_seed;

struct vcpu *vcpu_get(uint32_t index)
{
    return (void *)(boot_vcpu_areas + ((uint64_t)index << BOOT_VCPU_AREA_SHIFT) + VCPU_OFFSET);
}

static const struct clock_page *page_of(uint32_t index)
{
    return (const void *)(boot_vcpu_areas + ((uint64_t)index << BOOT_VCPU_AREA_SHIFT) +
                          BOOT_PVCLOCK_OFFSET);
}

static struct vcpu *vcpu_self(void)
{
    struct vcpu *self;

    __asm__ volatile("movq %%gs:%c1, %0" : "=r"(self) : "i"(VCPU_OFFSET));
    return self;
}

uint32_t vcpu_count(void)
{
    return __atomic_load_n(&running, __ATOMIC_ACQUIRE);
}

void vcpu_keep_sums(const struct vcpu *vcpu)
{
    if (vcpu->pinned)
        registers_put_sums(vcpu->pages_written, vcpu->table_sum);
}

uint64_t vcpu_beat(struct vcpu *vcpu)
{
    bool deep;
    uint64_t now = heartbeat_beat(&vcpu->heartbeat, &deep);

    if (deep) {
        if (vcpu->pinned)
            registers_check(&vcpu->registers, vcpu->pages_written, vcpu->table_sum);
        if (vcpu_self() != vcpu)
            vcpu->gs_bad = true;
    }
    return now;
}

bool vcpu_registers_hold(uint32_t vcpus)
{
    for (uint32_t i = 0; i < vcpus; i++) {
        if (vcpu_get(i)->registers.bad || vcpu_get(i)->gs_bad)
            return false;
    }
    return true;
}

static void pin(struct vcpu *vcpu)
{
    if (pin_all == VCPU_PIN_NONE)
        return;
    registers_load(&vcpu->registers, vcpu->index, pin_seed, pin_all == VCPU_PIN_AVX);
    vcpu->pinned = true;
    vcpu_keep_sums(vcpu);
}

static void pause_many(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        machine_pause();
}

void vcpu_enter(uint32_t index)
{
    struct vcpu *vcpu = vcpu_get(index);

    vcpu->self = vcpu;
    vcpu->index = index;
    if (index == 0) {
        guest_init(page_of(0)); /* starts the others and counts them */
    } else {
        pin(vcpu);
        heartbeat_start(&vcpu->heartbeat, page_of(index));
        __atomic_store_n(&vcpu->started, true, __ATOMIC_RELEASE);
    }
    for (;;) {
        uint64_t now = vcpu_beat(vcpu);

        sweep_help(vcpu);
        hostile_step(index);
        if (writer_step_all(vcpu, vcpu_count(), now) == 0)
            pause_many(index == 0 && command_is_idle() ? IDLE_PAUSES : 1);
        if (index == 0) {
            disk_step(now);
            nic_step(now);
            vsock_step();
            command_step(now);
        }
    }
}

static volatile uint32_t *lapic(uint32_t reg)
{
    return (volatile uint32_t *)(LAPIC_ADDRESS + reg);
}

static void lapic_send(uint32_t target, uint32_t what)
{
    *lapic(LAPIC_ICR_HIGH) = target << 24;
    *lapic(LAPIC_ICR_LOW) = what;
    for (uint32_t i = 0; i < 1000 && *lapic(LAPIC_ICR_LOW) & LAPIC_ICR_PENDING; i++)
        machine_pause();
}

static bool wait_started(const struct vcpu *vcpu, uint64_t ns)
{
    uint64_t begin = machine_tsc();

    while (!__atomic_load_n(&vcpu->started, __ATOMIC_ACQUIRE)) {
        if (machine_tsc() - begin > clock_ticks(ns))
            return false;
        machine_pause();
    }
    return true;
}

/* Its own task state: kernel stack and port bitmap are laid out in boot.S. */
static void describe_tss(uint32_t index)
{
    uint64_t base = (uint64_t)boot_tss + (uint64_t)index * BOOT_TSS_BYTES;
    uint64_t limit = BOOT_TSS_LIMIT - (uint64_t)index * BOOT_TSS_BYTES;
    uint64_t *entry = (uint64_t *)(void *)(boot_gdt + BOOT_TSS_SELECTOR + 16 * index);

    entry[1] = base >> 32;
    entry[0] = limit | (base & 0xffffff) << 16 | UINT64_C(0x89) << 40 | (base >> 24 & 0xff) << 56;
}

static bool start_one(uint32_t index)
{
    const struct vcpu *vcpu = vcpu_get(index);

    describe_tss(index);
    boot_vcpu_index = index;
    lapic_send(index, LAPIC_INIT);
    (void)wait_started(vcpu, 200000); /* a little time for INIT; nothing can have started yet */
    for (uint32_t attempt = 0; attempt < 3; attempt++) {
        lapic_send(index, LAPIC_STARTUP);
        /* Ring 0 is emulated here: an AP may need long, and a second SIPI does no harm. */
        if (wait_started(vcpu, 1000000000))
            return true;
    }
    return false;
}

uint32_t vcpu_start_all(uint32_t vcpus, enum vcpu_pin pin_registers, uint64_t seed)
{
    uint32_t started = 1;

    pin_all = pin_registers;
    pin_seed = seed;
    pin(vcpu_get(0));
    heartbeat_start(&vcpu_get(0)->heartbeat, page_of(0));
    vcpu_get(0)->started = true;
    if (vcpus > 1) {
        volatile uint8_t *page = (volatile uint8_t *)BOOT_AP_PAGE;

        for (uint32_t i = 0; i < boot_ap_page_end - boot_ap_page; i++)
            page[i] = boot_ap_page[i];
        *lapic(LAPIC_SVR) = 0x1ff;
    }
    /* In order and without gaps: a number names a vCPU everywhere else. */
    while (started < vcpus && start_one(started))
        started++;
    if (started < vcpus) {
        struct record record;

        record_begin(&record, "error");
        record_number(&record, "vcpu_not_started", started);
        record_end(&record);
    }
    __atomic_store_n(&running, started, __ATOMIC_RELEASE);
    return started;
}
