/* Source: Motorola MC146818A data sheet.
 *
 * Nothing ticks. The time registers are made from the clock when they are read, and register C is
 * brought up to date by asking what fell due since it last was: so a clock that stood still during
 * a move, and one that nobody looked at for a week, need no special case.
 */
#include "vmm-core/dev_rtc.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/clock.h"
#include "vmm-core/device.h"
#include "vmm-core/layout.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/vm_inside.h"

enum {
    REG_SECONDS = 0,
    REG_SECONDS_ALARM = 1,
    REG_MINUTES = 2,
    REG_MINUTES_ALARM = 3,
    REG_HOURS = 4,
    REG_HOURS_ALARM = 5,
    REG_WEEKDAY = 6,
    REG_DAY = 7,
    REG_MONTH = 8,
    REG_YEAR = 9,
    REG_A = 10,
    REG_B = 11,
    REG_C = 12,
    REG_D = 13,

    A_UPDATING = 0x80,
    A_RATE = 0x0f,
    A_POWER_ON = 0x26, /* 32,768 Hz crystal, 1,024 interrupts a second if they were on */
    B_SET = 0x80,
    B_PERIODIC = 0x40,
    B_ALARM = 0x20,
    B_UPDATE = 0x10,
    B_BINARY = 0x04,
    B_24_HOURS = 0x02,
    C_PERIODIC = 0x40,
    C_ALARM = 0x20,
    C_UPDATE = 0x10,
    C_EVENTS = C_PERIODIC | C_ALARM | C_UPDATE,
    C_INTERRUPT = 0x80,
    D_VALID = 0x80,

    HOUR_PM = 0x80,
    ALARM_ANY = 0xc0, /* from here on an alarm register means every value */

    DAY_S = 24 * 3600,
    CRYSTAL_HZ = 32768,
};

#define UPDATE_NOTICE_NS (244 * NS_PER_US) /* so long before the second "updating" shows */

static_assert((int)RTC_PORT == (int)LAYOUT_PORT_RTC, "the map and the device agree");

/* ---- numbers in registers ---- */
static uint8_t to_register(const struct rtc_guest *guest, int value)
{
    if (guest->ram[REG_B] & B_BINARY)
        return (uint8_t)value;
    return (uint8_t)(value / 10 << 4 | value % 10);
}

/* -1 for what is no number up to `max`. */
static int from_register(const struct rtc_guest *guest, uint8_t value, int max)
{
    int number = value;
    if (!(guest->ram[REG_B] & B_BINARY)) {
        if ((value & 0x0f) > 9 || value >> 4 > 9)
            return -1;
        number = (value >> 4) * 10 + (value & 0x0f);
    }
    return number <= max ? number : -1;
}

static uint8_t hour_to_register(const struct rtc_guest *guest, int hour)
{
    if (guest->ram[REG_B] & B_24_HOURS)
        return to_register(guest, hour);
    int twelfth = hour % 12 ? hour % 12 : 12;
    return to_register(guest, twelfth) | (hour >= 12 ? HOUR_PM : 0);
}

static int hour_from_register(const struct rtc_guest *guest, uint8_t value)
{
    if (guest->ram[REG_B] & B_24_HOURS)
        return from_register(guest, value, 23);
    int twelfth = from_register(guest, value & (uint8_t)~HOUR_PM, 12);
    if (twelfth < 1)
        return -1;
    return twelfth % 12 + (value & HOUR_PM ? 12 : 0);
}

/* ---- time ---- */
static bool is_time_register(unsigned reg)
{
    return reg == REG_SECONDS || reg == REG_MINUTES || reg == REG_HOURS ||
           (reg >= REG_WEEKDAY && reg <= REG_YEAR) || reg == RTC_CENTURY;
}

static uint8_t time_register(const struct rtc_guest *guest, unsigned reg)
{
    time_t seconds = (time_t)(guest->time_ns / NS_PER_S);
    struct tm tm;
    (void)gmtime_r(&seconds, &tm); /* rtc_load keeps the year within an int */
    switch (reg) {
    case REG_SECONDS:
        return to_register(guest, tm.tm_sec);
    case REG_MINUTES:
        return to_register(guest, tm.tm_min);
    case REG_HOURS:
        return hour_to_register(guest, tm.tm_hour);
    case REG_WEEKDAY:
        return to_register(guest, tm.tm_wday + 1);
    case REG_DAY:
        return to_register(guest, tm.tm_mday);
    case REG_MONTH:
        return to_register(guest, tm.tm_mon + 1);
    case REG_YEAR:
        return to_register(guest, tm.tm_year % 100);
    default:
        return to_register(guest, (tm.tm_year + 1900) / 100);
    }
}

static const uint8_t time_registers[] = {REG_SECONDS, REG_MINUTES, REG_HOURS, REG_WEEKDAY,
                                         REG_DAY,     REG_MONTH,   REG_YEAR,  RTC_CENTURY};

/* The clock stops: its registers hold what they held last. */
static void stop_clock(struct rtc_guest *guest)
{
    for (size_t i = 0; i < ARRAY_COUNT(time_registers); i++)
        guest->ram[time_registers[i]] = time_register(guest, time_registers[i]);
}

/* And goes on from what stands in them. What is no time leaves it where it stopped. */
static void start_clock(struct rtc_guest *guest)
{
    int century = from_register(guest, guest->ram[RTC_CENTURY], 99);
    int year = from_register(guest, guest->ram[REG_YEAR], 99);
    struct tm tm = {
        .tm_sec = from_register(guest, guest->ram[REG_SECONDS], 59),
        .tm_min = from_register(guest, guest->ram[REG_MINUTES], 59),
        .tm_hour = hour_from_register(guest, guest->ram[REG_HOURS]),
        .tm_mday = from_register(guest, guest->ram[REG_DAY], 31),
        .tm_mon = from_register(guest, guest->ram[REG_MONTH], 12) - 1,
        .tm_year = century * 100 + year - 1900,
    };
    bool good = century >= 0 && year >= 0 && tm.tm_sec >= 0 && tm.tm_min >= 0 && tm.tm_hour >= 0 &&
                tm.tm_mday >= 1 && tm.tm_mon >= 0;
    for (size_t i = 0; i < ARRAY_COUNT(time_registers); i++)
        guest->ram[time_registers[i]] = 0;
    time_t seconds = good ? timegm(&tm) : -1;
    if (seconds >= 0 && (uint64_t)seconds <= RTC_TIME_NS_MAX / NS_PER_S)
        guest->time_ns = (uint64_t)seconds * NS_PER_S;
}

/* ---- what falls due ---- */
struct alarm_field {
    int first, last; /* an empty range: never */
};

static struct alarm_field alarm_field(int value, uint8_t raw, int max)
{
    if (raw >= ALARM_ANY)
        return (struct alarm_field){0, max};
    return value < 0 ? (struct alarm_field){1, 0} : (struct alarm_field){value, value};
}

/* The first second of a day, not before `from`, at which the alarm rings; -1: none. */
static int alarm_in_day(const struct rtc_guest *guest, int from)
{
    const uint8_t *ram = guest->ram;
    struct alarm_field hour =
        alarm_field(hour_from_register(guest, ram[REG_HOURS_ALARM]), ram[REG_HOURS_ALARM], 23);
    struct alarm_field minute =
        alarm_field(from_register(guest, ram[REG_MINUTES_ALARM], 59), ram[REG_MINUTES_ALARM], 59);
    struct alarm_field second =
        alarm_field(from_register(guest, ram[REG_SECONDS_ALARM], 59), ram[REG_SECONDS_ALARM], 59);
    if (second.first > second.last || minute.first > minute.last)
        return -1;
    for (int h = hour.first; h <= hour.last; h++) {
        if ((h + 1) * 3600 <= from)
            continue;
        for (int m = minute.first; m <= minute.last; m++) {
            int begin = h * 3600 + m * 60;
            if (begin + second.last < from)
                continue;
            int in_minute = from > begin + second.first ? from - begin : second.first;
            return begin + in_minute;
        }
    }
    return -1;
}

/* The first second behind `after_s` at which the alarm rings. */
static uint64_t next_alarm_s(const struct rtc_guest *guest, uint64_t after_s)
{
    uint64_t from_s = after_s + 1;
    uint64_t day_s = from_s - from_s % DAY_S;
    int found = alarm_in_day(guest, (int)(from_s % DAY_S));
    if (found >= 0)
        return day_s + (uint64_t)found;
    found = alarm_in_day(guest, 0);
    return found >= 0 ? day_s + DAY_S + (uint64_t)found : RTC_NEVER;
}

/* 0: no periodic interrupt is chosen. */
static uint64_t period_ns(const struct rtc_guest *guest)
{
    unsigned rate = guest->ram[REG_A] & A_RATE;
    if (rate == 0)
        return 0;
    if (rate <= 2)
        rate += 7; /* the chip's slow ones */
    return (NS_PER_S << (rate - 1)) / CRYSTAL_HZ;
}

static bool is_stopped(const struct rtc_guest *guest)
{
    return guest->ram[REG_B] & B_SET;
}

void rtc_reset(struct rtc_guest *guest, uint64_t time_ns)
{
    *guest = (struct rtc_guest){.time_ns = time_ns};
    guest->ram[REG_A] = A_POWER_ON;
    guest->ram[REG_B] = B_24_HOURS;
}

void rtc_advance(struct rtc_guest *guest, uint64_t time_ns)
{
    if (is_stopped(guest))
        return;
    uint64_t before_ns = guest->time_ns;
    guest->time_ns = time_ns;
    if (time_ns <= before_ns)
        return;

    uint64_t before_s = before_ns / NS_PER_S;
    uint64_t now_s = time_ns / NS_PER_S;
    uint64_t period = period_ns(guest);
    if (now_s > before_s) {
        guest->ram[REG_C] |= C_UPDATE;
        if (next_alarm_s(guest, before_s) <= now_s)
            guest->ram[REG_C] |= C_ALARM;
    }
    if (period && time_ns / period > before_ns / period)
        guest->ram[REG_C] |= C_PERIODIC;
}

bool rtc_wants_interrupt(const struct rtc_guest *guest)
{
    return (guest->ram[REG_B] & guest->ram[REG_C] & C_EVENTS) != 0;
}

uint64_t rtc_next_ns(const struct rtc_guest *guest)
{
    /* While one interrupt waits to be read there is no second, so a guest sets the pace. */
    if (is_stopped(guest) || rtc_wants_interrupt(guest))
        return RTC_NEVER;
    uint64_t next_ns = RTC_NEVER;
    uint64_t now_s = guest->time_ns / NS_PER_S;
    uint8_t enabled = guest->ram[REG_B];
    uint64_t period = period_ns(guest);
    if ((enabled & B_PERIODIC) && period)
        next_ns = (guest->time_ns / period + 1) * period;
    if ((enabled & B_UPDATE) && (now_s + 1) * NS_PER_S < next_ns)
        next_ns = (now_s + 1) * NS_PER_S;
    if (enabled & B_ALARM) {
        uint64_t alarm_s = next_alarm_s(guest, now_s);
        if (alarm_s != RTC_NEVER && alarm_s * NS_PER_S < next_ns)
            next_ns = alarm_s * NS_PER_S;
    }
    return next_ns;
}

/* ---- registers ---- */
uint8_t rtc_read(struct rtc_guest *guest, unsigned reg)
{
    assert(reg < RTC_RAM_BYTES);
    uint8_t value = guest->ram[reg];
    switch (reg) {
    case REG_A: {
        bool updating =
            !is_stopped(guest) && guest->time_ns % NS_PER_S >= NS_PER_S - UPDATE_NOTICE_NS;
        return value | (updating ? A_UPDATING : 0);
    }
    case REG_C:
        if (rtc_wants_interrupt(guest))
            value |= C_INTERRUPT;
        guest->ram[REG_C] = 0;
        return value;
    case REG_D:
        return D_VALID;
    default:
        return is_time_register(reg) && !is_stopped(guest) ? time_register(guest, reg) : value;
    }
}

static void write_b(struct rtc_guest *guest, uint8_t value)
{
    bool was_stopped = is_stopped(guest);
    if (!was_stopped && (value & B_SET)) {
        stop_clock(guest);
        guest->ram[REG_B] = value & (uint8_t)~B_UPDATE; /* stopping disables it, says the chip */
        return;
    }
    guest->ram[REG_B] = value;
    if (was_stopped && !(value & B_SET))
        start_clock(guest);
}

void rtc_write(struct rtc_guest *guest, unsigned reg, uint8_t value)
{
    assert(reg < RTC_RAM_BYTES);
    switch (reg) {
    case REG_A:
        guest->ram[REG_A] = value & (uint8_t)~A_UPDATING;
        return;
    case REG_B:
        write_b(guest, value);
        return;
    case REG_C:
    case REG_D:
        return; /* read only */
    default:
        break;
    }
    if (is_time_register(reg) && !is_stopped(guest)) {
        stop_clock(guest);
        guest->ram[reg] = value;
        start_clock(guest);
        return;
    }
    guest->ram[reg] = value;
}

/* ---- its message ---- */
int rtc_save(const struct rtc_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    Godwit__RtcStateV1 state = GODWIT__RTC_STATE_V1__INIT;
    STATE_PUT(&state, index, guest->index);
    STATE_PUT(&state, time_ns, guest->time_ns);
    STATE_PUT(&state, ram,
              ((ProtobufCBinaryData){.data = (uint8_t *)guest->ram, /* read only */
                                     .len = RTC_RAM_BYTES}));
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int rtc_load(struct rtc_guest *ret_guest, const uint8_t *bytes, size_t count, struct fault *fault)
{
    struct state_reader reader = {.section = "rtc", .fault = fault};
    struct rtc_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__rtc_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__RtcStateV1 *in = (const Godwit__RtcStateV1 *)message;
    STATE_TAKE_MAX(&reader, in, index, guest.index, RTC_RAM_BYTES - 1);
    STATE_TAKE_MAX(&reader, in, time_ns, guest.time_ns, RTC_TIME_NS_MAX);
    if (state_reader_check(&reader, in->has_ram && in->ram.len == RTC_RAM_BYTES, "ram",
                           "is missing or not 128 bytes long"))
        memcpy(guest.ram, in->ram.data, RTC_RAM_BYTES);
    (void)state_reader_check(&reader, !(guest.ram[REG_A] & A_UPDATING), "ram",
                             "says that it is being updated");
    (void)state_reader_check(&reader, !(guest.ram[REG_C] & ~C_EVENTS), "ram",
                             "has events that there are not");
    (void)state_reader_check(&reader, guest.ram[REG_D] == 0, "ram", "has a register D of its own");
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

/* ---- in a machine; all under the device lock ---- */
static uint64_t wall_ns(void)
{
    return world_wall_ms() * NS_PER_MS;
}

static uint64_t guest_now_ns(const struct vm *vm)
{
    uint64_t now_ns = wall_ns() + (uint64_t)vm->rtc_host.offset_ns; /* wraps as it should */
    return now_ns <= RTC_TIME_NS_MAX ? now_ns : vm->rtc.time_ns;
}

static void follow_time(struct vm *vm)
{
    rtc_advance(&vm->rtc, guest_now_ns(vm));
}

/* What must follow every change: the interrupt line and the timer. */
static void update(struct vm *vm)
{
    bool level = rtc_wants_interrupt(&vm->rtc);
    if (level != vm->rtc_host.irq_level) {
        vm->rtc_host.irq_level = level;
        vm_set_irq(vm, LAYOUT_GSI_RTC, level);
    }
    struct itimerspec when = {0}; /* off */
    uint64_t next_ns = rtc_next_ns(&vm->rtc);
    if (next_ns != RTC_NEVER) {
        uint64_t wall = next_ns - (uint64_t)vm->rtc_host.offset_ns;
        if (wall > RTC_TIME_NS_MAX)
            wall = 1; /* the host's clock stands before 1970 in the guest's eyes: at once */
        /* The wall clock counts in ms: a timer that fires within the same one finds nothing due. */
        wall += NS_PER_MS - 1;
        when.it_value.tv_sec = (time_t)(wall / NS_PER_S);
        when.it_value.tv_nsec = (long)(wall % NS_PER_S);
    }
    int r = timerfd_settime(vm->rtc_host.timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
    assert(r == 0);
}

static void timer_ready(void *data, uint32_t events)
{
    struct vm *vm = data;
    uint64_t count = 0;
    (void)events;
    (void)!read(vm->rtc_host.timer_fd, &count, sizeof count); /* EAGAIN: it was set anew */
    follow_time(vm);
    update(vm);
}

static void port_in(struct vm *vm, const struct device_access *access)
{
    if (access->port == RTC_PORT)
        return; /* the index cannot be read: all ones */
    (void)pthread_mutex_lock(&vm->device_lock);
    for (uint32_t i = 0; i < access->count; i++) {
        follow_time(vm);
        access->data[i * access->size] = rtc_read(&vm->rtc, vm->rtc.index);
    }
    update(vm);
    (void)pthread_mutex_unlock(&vm->device_lock);
}

static void port_out(struct vm *vm, const struct device_access *access)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    for (uint32_t i = 0; i < access->count; i++) {
        uint8_t value = access->data[i * access->size];
        if (access->port == RTC_PORT) {
            vm->rtc.index = value & (RTC_RAM_BYTES - 1); /* bit 7 masks NMIs: there are none */
            continue;
        }
        follow_time(vm);
        bool was_stopped = is_stopped(&vm->rtc);
        uint64_t before_ns = vm->rtc.time_ns;
        rtc_write(&vm->rtc, vm->rtc.index, value);
        if (was_stopped || vm->rtc.time_ns != before_ns)
            vm->rtc_host.offset_ns = (int64_t)(vm->rtc.time_ns - wall_ns());
    }
    update(vm);
    (void)pthread_mutex_unlock(&vm->device_lock);
}

static int rtc_capture(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)instance;
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    if (!vm->time_due) { /* else as loaded: it has not run since */
        uint64_t now_ns = guest_now_ns(vm);
        uint64_t stood_ns = world_now_ns() - vm->stopped.now_ns;
        if (now_ns > stood_ns && now_ns - stood_ns > vm->rtc.time_ns)
            rtc_advance(&vm->rtc, now_ns - stood_ns);
    }
    vm->guest->rtc = vm->rtc;
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

/* Goes on from the saved time plus how long it stood, by whatever the two hosts' clocks differ. */
static int rtc_revive(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                      struct fault *fault)
{
    (void)instance;
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    vm->rtc = machine->rtc;
    uint64_t since_load_ns = world_now_ns() - vm->loaded.now_ns;
    vm->rtc_host.offset_ns = (int64_t)(vm->rtc.time_ns + vm->paused_ns + since_load_ns - wall_ns());
    update(vm);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

int rtc_init(struct vm *vm, struct fault *fault)
{
    vm->rtc_host.timer_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (vm->rtc_host.timer_fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making the clock's timer");
    rtc_reset(&vm->rtc, wall_ns());
    vm->rtc_host.watch = (struct io_watch){
        .fd = vm->rtc_host.timer_fd, .class = IO_WATCH_SOURCE, .ready = timer_ready, .data = vm};
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = io_loop_add(vm->io_loop, &vm->rtc_host.watch, EPOLLIN, fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

void rtc_deinit(struct vm *vm)
{
    if (vm->rtc_host.watch.slot) {
        (void)pthread_mutex_lock(&vm->device_lock);
        io_loop_remove(vm->io_loop, &vm->rtc_host.watch);
        (void)pthread_mutex_unlock(&vm->device_lock);
    }
    close_p(&vm->rtc_host.timer_fd);
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    (void)instance;
    return rtc_save(&machine->rtc, ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    (void)instance;
    return rtc_load(&machine->rtc, bytes, count, fault);
}

const struct device rtc_device = {
    .name = "rtc",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .capture = rtc_capture,
    .save = save_row,
    .load = load_row,
    .revive = rtc_revive,
    .ports = {{RTC_PORT, 2}},
    .port_in = port_in,
    .port_out = port_out,
};
