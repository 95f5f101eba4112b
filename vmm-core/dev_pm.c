/* Source: ACPI specification 6.3, 4.8.3 (PM1 and timer registers). What we leave out reads as zero:
 * the timer's carry, RTC and sleep button events (the FADT says that they are not there), bus
 * master and global lock bits.
 */
#include "vmm-core/dev_pm.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "base/bytes.h"
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
    STATUS = 0,
    ENABLE = 2,
    CONTROL = 4,
    TIMER = 8,

    /* Timer's carry, global lock, clock's alarm: can be enabled, for Linux complains of an enable
     * bit that does not stick; they never happen. */
    ENABLE_MASK = PM_POWER_BUTTON | 0x0001 | 0x0020 | 0x0400,

    CONTROL_SCI = 0x0001, /* ACPI is on, always */
    CONTROL_SLEEP_TYPE = 0x1c00,
    CONTROL_SLEEP = 0x2000, /* reads as zero */
    CONTROL_KEPT = CONTROL_SCI | CONTROL_SLEEP_TYPE,
    SLEEP_TYPE_OFF = 0, /* as the DSDT's _S5 says */
};

static_assert((int)PM_PORT == (int)LAYOUT_PORT_PM, "the map and the device agree");

void pm_reset(struct pm_guest *guest)
{
    *guest = (struct pm_guest){.control = CONTROL_SCI};
}

void pm_read(const struct pm_guest *guest, unsigned offset, uint8_t *ret_bytes, unsigned count)
{
    uint8_t registers[PM_PORTS + 4] = {0}; /* an access may reach over the end */
    assert(offset < PM_PORTS && count <= 4);
    bytes_put_u16(registers + STATUS, guest->status);
    bytes_put_u16(registers + ENABLE, guest->enable);
    bytes_put_u16(registers + CONTROL, guest->control);
    bytes_put_u32(registers + TIMER,
                  (uint32_t)((unsigned __int128)guest->timer_ns * PM_TIMER_HZ / NS_PER_S));
    memcpy(ret_bytes, registers + offset, count);
}

static uint16_t with_byte(uint16_t value, unsigned byte, uint8_t wanted)
{
    unsigned shift = 8 * byte;
    return (uint16_t)((value & ~(0xffU << shift)) | (unsigned)wanted << shift);
}

static bool write_byte(struct pm_guest *guest, unsigned offset, uint8_t value)
{
    switch (offset) {
    case STATUS:
    case STATUS + 1:
        guest->status &= (uint16_t)~with_byte(0, offset - STATUS, value); /* ones clear */
        return false;
    case ENABLE:
    case ENABLE + 1:
        guest->enable = with_byte(guest->enable, offset - ENABLE, value) & ENABLE_MASK;
        return false;
    case CONTROL:
        guest->control = (with_byte(guest->control, 0, value) & CONTROL_KEPT) | CONTROL_SCI;
        return false;
    case CONTROL + 1: {
        uint16_t control = with_byte(guest->control, 1, value);
        guest->control = (control & CONTROL_KEPT) | CONTROL_SCI;
        return (control & CONTROL_SLEEP) && (control & CONTROL_SLEEP_TYPE) >> 10 == SLEEP_TYPE_OFF;
    }
    default:
        return false;
    }
}

bool pm_write(struct pm_guest *guest, unsigned offset, const uint8_t *bytes, unsigned count)
{
    assert(offset < PM_PORTS);
    bool off = false;
    for (unsigned i = 0; i < count; i++)
        off |= write_byte(guest, offset + i, bytes[i]);
    return off;
}

bool pm_wants_interrupt(const struct pm_guest *guest)
{
    return (guest->status & guest->enable & PM_POWER_BUTTON) != 0;
}

/* clang-format off */
#define PM_FIELDS(X)                                                                               \
    X(status, PM_POWER_BUTTON) X(enable, ENABLE_MASK) X(control, CONTROL_KEPT)                     \
    X(timer_ns, CLOCK_NS_MAX)
/* clang-format on */

int pm_save(const struct pm_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    Godwit__PmStateV1 state = GODWIT__PM_STATE_V1__INIT;
#define SAVE_FIELD(field, max) STATE_PUT(&state, field, guest->field);
    PM_FIELDS(SAVE_FIELD)
#undef SAVE_FIELD
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int pm_load(struct pm_guest *ret_guest, const uint8_t *bytes, size_t count, struct fault *fault)
{
    struct state_reader reader = {.section = "pm", .fault = fault};
    struct pm_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__pm_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__PmStateV1 *in = (const Godwit__PmStateV1 *)message;
#define LOAD_FIELD(field, max) STATE_TAKE_MAX(&reader, in, field, guest.field, max);
    PM_FIELDS(LOAD_FIELD)
#undef LOAD_FIELD
    (void)state_reader_check(&reader, (guest.status & ~PM_POWER_BUTTON) == 0, "status",
                             "has bits that nobody sets");
    (void)state_reader_check(&reader, (guest.enable & ~ENABLE_MASK) == 0, "enable",
                             "has bits that fall");
    (void)state_reader_check(&reader,
                             (guest.control & ~CONTROL_KEPT) == 0 && (guest.control & CONTROL_SCI),
                             "control", "has bits that fall");
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

/* Under the device lock, here and below. */
static void update_interrupt(struct vm *vm)
{
    bool level = pm_wants_interrupt(&vm->pm);
    if (level == vm->pm_host.irq_level)
        return;
    vm->pm_host.irq_level = level;
    vm_set_irq(vm, LAYOUT_GSI_ACPI, level);
}

static void port_in(struct vm *vm, const struct device_access *access)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    for (uint32_t i = 0; i < access->count; i++) {
        vm->pm.timer_ns = world_now_ns() - vm->pm_host.timer_zero_ns;
        pm_read(&vm->pm, access->port - PM_PORT, access->data + i * access->size, access->size);
    }
    (void)pthread_mutex_unlock(&vm->device_lock);
}

static void port_out(struct vm *vm, const struct device_access *access)
{
    bool off = false;
    (void)pthread_mutex_lock(&vm->device_lock);
    for (uint32_t i = 0; i < access->count; i++)
        off |= pm_write(&vm->pm, access->port - PM_PORT, access->data + i * access->size,
                        access->size);
    update_interrupt(vm);
    (void)pthread_mutex_unlock(&vm->device_lock);
    if (off)
        vm_end(vm, VM_EVENT_POWER_OFF, NULL);
}

bool pm_press_button(struct vm *vm)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    bool listens = vm->pm.enable & PM_POWER_BUTTON;
    if (listens)
        vm->pm.status |= PM_POWER_BUTTON;
    update_interrupt(vm);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return listens;
}

static int pm_capture(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)instance;
    (void)fault;
    uint64_t loaded_ns = vm->guest->pm.timer_ns;
    (void)pthread_mutex_lock(&vm->device_lock);
    vm->guest->pm = vm->pm;
    vm->guest->pm.timer_ns = vm->time_due ? loaded_ns /* as loaded: it has not run since */
                                          : vm->stopped.now_ns - vm->pm_host.timer_zero_ns;
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int pm_revive(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                     struct fault *fault)
{
    (void)instance;
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    vm->pm = machine->pm;
    vm->pm_host.timer_zero_ns = vm->loaded.now_ns - vm->paused_ns - machine->pm.timer_ns;
    update_interrupt(vm);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    (void)instance;
    return pm_save(&machine->pm, ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    (void)instance;
    return pm_load(&machine->pm, bytes, count, fault);
}

const struct device pm_device = {
    .name = "pm",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .capture = pm_capture,
    .save = save_row,
    .load = load_row,
    .revive = pm_revive,
    .ports = {{PM_PORT, PM_PORTS}},
    .port_in = port_in,
    .port_out = port_out,
};
