#include "vmm-core/pit.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/vm_inside.h"

/* clang-format off */
#define CHANNEL_FIELDS(X)                                                                          \
    X(count) X(latched_count) X(count_latched) X(status_latched) X(status) X(read_state)           \
    X(write_state) X(write_latch) X(rw_mode) X(mode) X(bcd) X(gate)
/* clang-format on */

#define SAVE_FIELD(field) STATE_PUT(out, field, in->field);
#define LOAD_FIELD(field) STATE_TAKE(reader, in, field, out->field);

enum {
    PIT_COUNT_MAX = 65536,
    PIT_MODE_MAX = 5,
    PIT_FLAGS_KNOWN = KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON,
};

static void channel_save(Godwit__PitChannelV1 *out, const struct kvm_pit_channel_state *in)
{
    godwit__pit_channel_v1__init(out);
    CHANNEL_FIELDS(SAVE_FIELD)
}

static void channel_load(struct state_reader *reader, struct kvm_pit_channel_state *out,
                         const Godwit__PitChannelV1 *in)
{
    CHANNEL_FIELDS(LOAD_FIELD)
    (void)state_reader_check(reader, out->count <= PIT_COUNT_MAX, "count", "is above 65536");
    /* The chip takes modes 6 and 7 as 2 and 3, and KVM keeps 0xff before the first command. */
    (void)state_reader_check(reader, out->mode <= PIT_MODE_MAX + 2 || out->mode == UINT8_MAX,
                             "mode", "is unknown");
}

int pit_save(const struct pit_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    Godwit__PitStateV1 state = GODWIT__PIT_STATE_V1__INIT;
    Godwit__PitChannelV1 channels[PIT_CHANNELS];
    Godwit__PitChannelV1 *pointers[PIT_CHANNELS];
    for (size_t i = 0; i < PIT_CHANNELS; i++) {
        channel_save(&channels[i], &guest->channels[i]);
        pointers[i] = &channels[i];
    }
    state.channels = pointers;
    state.n_channels = PIT_CHANNELS;
    STATE_PUT(&state, flags, guest->flags);
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int pit_load(struct pit_guest *ret_guest, const uint8_t *bytes, size_t count, struct fault *fault)
{
    struct state_reader reader = {.section = "pit", .fault = fault};
    struct pit_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__pit_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__PitStateV1 *in = (const Godwit__PitStateV1 *)message;
    if (state_reader_check(&reader, in->n_channels == PIT_CHANNELS, "channels", "are not three")) {
        for (size_t i = 0; i < PIT_CHANNELS; i++)
            channel_load(&reader, &guest.channels[i], in->channels[i]);
    }
    STATE_TAKE_MAX(&reader, in, flags, guest.flags, PIT_FLAGS_KNOWN);
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

static int pit_capture(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)instance;
    struct kvm_pit_state2 state = {0};
    if (ioctl(vm->fd, KVM_GET_PIT2, &state) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading the timer chip");

    struct pit_guest *guest = &vm->guest->pit;
    for (size_t i = 0; i < PIT_CHANNELS; i++) {
        guest->channels[i] = state.channels[i];
        guest->channels[i].count_load_time = 0;
    }
    guest->flags = state.flags;
    return 0;
}

static int pit_revive(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                      struct fault *fault)
{
    (void)instance;
    struct kvm_pit_state2 state = {.flags = machine->pit.flags};
    for (size_t i = 0; i < PIT_CHANNELS; i++)
        state.channels[i] = machine->pit.channels[i];
    if (ioctl(vm->fd, KVM_SET_PIT2, &state) < 0)
        return fault_set_errno(fault, ERR_CORRUPT, errno, "setting the timer chip");
    return 0;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    (void)instance;
    return pit_save(&machine->pit, ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    (void)instance;
    return pit_load(&machine->pit, bytes, count, fault);
}

const struct device pit_device = {
    .name = "pit",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .capture = pit_capture,
    .save = save_row,
    .load = load_row,
    .revive = pit_revive,
};
