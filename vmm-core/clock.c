#include "vmm-core/clock.h"

#include <assert.h>
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/vm_inside.h"


uint64_t clock_ticks(uint64_t ns, uint32_t tsc_khz)
{
    return (uint64_t)((unsigned __int128)ns * tsc_khz / 1000000);
}

int clock_read(struct vm *vm, struct clock_instant *ret_instant, struct fault *fault)
{
    struct kvm_clock_data data = {0};
    if (ioctl(vm->fd, KVM_GET_CLOCK, &data) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading the guest's clock");

    /* With KVM_CLOCK_HOST_TSC the kernel names the tick at which `clock` was true. Without it the
     * two are some hundred ns apart, the TSC later: ahead by less than the pause, never back. */
    bool exact = data.flags & KVM_CLOCK_HOST_TSC;
    uint64_t host_tsc = __rdtsc();
    *ret_instant = (struct clock_instant){
        .now_ns = world_now_ns(),
        .host_tsc = vm_tsc_in_guest_ticks(vm, exact ? data.host_tsc : host_tsc),
        .clock_ns = data.clock,
    };
    return 0;
}

int clock_save(const struct clock_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    Godwit__ClockStateV1 state = GODWIT__CLOCK_STATE_V1__INIT;
    STATE_PUT(&state, clock_ns, guest->clock_ns);
    STATE_PUT(&state, tsc_khz, guest->tsc_khz);
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int clock_load(struct clock_guest *ret_guest, const uint8_t *bytes, size_t count,
               struct fault *fault)
{
    struct state_reader reader = {.section = "clock", .fault = fault};
    struct clock_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__clock_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__ClockStateV1 *in = (const Godwit__ClockStateV1 *)message;
    STATE_TAKE_MAX(&reader, in, clock_ns, guest.clock_ns, CLOCK_NS_MAX);
    STATE_TAKE(&reader, in, tsc_khz, guest.tsc_khz);
    (void)state_reader_check(&reader, guest.tsc_khz > 0, "tsc_khz", "is zero");
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

static int clock_capture(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)instance;
    (void)fault;
    if (vm->time_due)
        return 0; /* as loaded: it has not run since */
    vm->guest->clock.clock_ns = vm->stopped.clock_ns;
    vm->guest->clock.tsc_khz = vm->tsc_khz;
    return 0;
}

/* Behind the vCPUs in the table: KVM takes the clock as one with the TSCs only when they agree. */
static int clock_revive(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                        struct fault *fault)
{
    (void)instance;
    uint64_t since_load_ns = world_now_ns() - vm->loaded.now_ns;
    struct kvm_clock_data data = {
        .clock = machine->clock.clock_ns + vm->paused_ns + since_load_ns,
    };
    if (ioctl(vm->fd, KVM_SET_CLOCK, &data) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "setting the guest's clock");
    return 0;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    (void)instance;
    return clock_save(&machine->clock, ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    (void)instance;
    return clock_load(&machine->clock, bytes, count, fault);
}

const struct device clock_device = {
    .name = "clock",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .capture = clock_capture,
    .save = save_row,
    .load = load_row,
    .revive = clock_revive,
};
