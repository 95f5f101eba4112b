/* The PC's battery clock (MC146818) at ports 0x70 and 0x71 with interrupt 8: time of day in UTC,
 * alarm, periodic and update interrupts, CMOS memory.
 *
 * Flow:   vcpu -> device_table -> [dev_rtc] -> interrupt 8; io_loop (timer) -> [dev_rtc]
 * Thread: vCPU threads and the io thread, under the vm's device lock.
 *
 * It goes with the host's wall clock, whose corrections a guest so sees, plus an offset: what the
 * guest set it to, and after a move what makes it go on from where it stood.
 */
#ifndef GODWIT_VMM_CORE_DEV_RTC_H
#define GODWIT_VMM_CORE_DEV_RTC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/world.h"
#include "vmm-core/io_loop.h"

struct device;
struct fault;
struct vm;

enum {
    RTC_PORT = 0x70, /* index, and data behind it */
    RTC_RAM_BYTES = 128,
    RTC_CENTURY = 0x32, /* where the year's first two digits stand, as the FADT says */
};

#define RTC_NEVER UINT64_MAX
/* Some day in 2200: sums with it stay far from wrapping. */
#define RTC_TIME_NS_MAX (UINT64_C(230) * 366 * 24 * 3600 * NS_PER_S)

struct rtc_guest { /* travels */
    uint8_t index;
    uint8_t ram[RTC_RAM_BYTES]; /* time registers only while the clock is stopped by SET */
    uint64_t time_ns; /* since 1970: up to here it has run, and events are in register C */
};

struct rtc_host {      /* stays */
    int timer_fd;      /* CLOCK_REALTIME: fires when something is due */
    int64_t offset_ns; /* guest's time minus the host's wall clock */
    bool irq_level;    /* what KVM was last told */
    struct io_watch watch;
};

extern const struct device rtc_device;

/* The chip alone, without a vm. */
void rtc_reset(struct rtc_guest *guest, uint64_t time_ns);
/* Go on to `time_ns`; what was due on the way is then in register C. A time before the last is
 * taken as a step of the clock: nothing was due. */
void rtc_advance(struct rtc_guest *guest, uint64_t time_ns);
uint8_t rtc_read(struct rtc_guest *guest, unsigned reg);
/* May set guest->time_ns: the guest set its clock. */
void rtc_write(struct rtc_guest *guest, unsigned reg, uint8_t value);
bool rtc_wants_interrupt(const struct rtc_guest *guest);
/* When rtc_advance must next be called for an interrupt to come in time, or RTC_NEVER. */
uint64_t rtc_next_ns(const struct rtc_guest *guest);

/* Host half: a timer that the io thread watches. */
int rtc_init(struct vm *vm, struct fault *fault);
void rtc_deinit(struct vm *vm);

/* Guest half <-> packed RtcStateV1. */
int rtc_save(const struct rtc_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int rtc_load(struct rtc_guest *ret_guest, const uint8_t *bytes, size_t count, struct fault *fault);

#endif
