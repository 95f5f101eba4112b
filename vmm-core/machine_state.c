#include "vmm-core/machine_state.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/device_table.h"
#include "vmm-core/state_reader.h"

struct section_list {
    Godwit__MachineSection sections[MACHINE_SECTIONS_MAX];
    Godwit__MachineSection *pointers[MACHINE_SECTIONS_MAX];
    size_t count;
};

static_assert(VCPUS_MAX + 2 * VIRTIO_FUNCTIONS_MAX + 16 <= MACHINE_SECTIONS_MAX,
              "every vCPU and device has its section");

static void section_list_freep(struct section_list **list)
{
    if (!*list)
        return;
    for (size_t i = 0; i < (*list)->count; i++)
        free((*list)->sections[i].state.data);
    free(*list);
}

unsigned machine_state_instances(const struct device *device, const struct machine_shape *shape)
{
    if (device->travel != DEVICE_TRAVELS)
        return 0;
    if (device->instances)
        return device->instances(shape);
    return device->per_vcpu ? shape->vcpus : 1;
}

static int add_section(struct section_list *list, const struct device *device, unsigned instance,
                       const struct machine_guest *machine, struct fault *fault)
{
    assert(list->count < MACHINE_SECTIONS_MAX);
    Godwit__MachineSection *section = &list->sections[list->count];
    godwit__machine_section__init(section);
    int r = device->save(machine, instance, &section->state.data, &section->state.len);
    if (r < 0)
        return fault_set(fault, r, "saving section '%s' %u", device->name, instance);

    section->has_state = 1;
    section->name = (char *)device->name; /* packing reads only */
    STATE_PUT(section, instance, instance);
    STATE_PUT(section, version, device->version);
    list->pointers[list->count++] = section;
    return 0;
}

int machine_state_save(const struct machine_shape *shape, const struct machine_guest *machine,
                       uint8_t **ret_bytes, size_t *ret_count, struct fault *fault)
{
    assert(shape->vcpus >= 1 && shape->vcpus <= VCPUS_MAX);
    AUTO(section_list_freep) struct section_list *list = calloc(1, sizeof *list);
    if (!list)
        return fault_set(fault, ERR_NOMEM, "no memory for the machine's state");

    for (size_t i = 0; i < device_table_count(); i++) {
        const struct device *device = device_table_at(i);
        if (device->travel == DEVICE_NOT_MIGRATABLE)
            return fault_set(fault, ERR_UNSUPPORTED, "device '%s' cannot be moved", device->name);
        unsigned instances = machine_state_instances(device, shape);
        for (unsigned k = 0; k < instances; k++) {
            int r = add_section(list, device, k, machine, fault);
            if (r < 0)
                return r;
        }
    }

    Godwit__MachineStateV1 state = GODWIT__MACHINE_STATE_V1__INIT;
    state.machine = (char *)MACHINE_STATE_NAME; /* packing reads only */
    STATE_PUT(&state, vcpus, shape->vcpus);
    STATE_PUT(&state, memory_bytes, shape->memory_bytes);
    state.baseline = (char *)shape->baseline; /* as above */
    state.sections = list->pointers;
    state.n_sections = list->count;
    int r = state_reader_pack(&state.base, ret_bytes, ret_count);
    if (r < 0)
        return fault_set(fault, r, "no memory for the machine's state");
    assert(*ret_count <= MACHINE_STATE_MAX);
    return 0;
}

static int check_text(const char *what, const char *theirs, const char *ours, struct fault *fault)
{
    if (theirs && strcmp(theirs, ours) == 0)
        return 0;
    return fault_set(fault, ERR_CORRUPT, "machine state is for %s '%.64s', this VM's is '%s'", what,
                     theirs ? theirs : "(none)", ours);
}

static int check_number(const char *what, bool present, uint64_t theirs, uint64_t ours,
                        struct fault *fault)
{
    if (present && theirs == ours)
        return 0;
    return fault_set(fault, ERR_CORRUPT, "machine state is for %llu %s, this VM has %llu",
                     (unsigned long long)theirs, what, (unsigned long long)ours);
}

static int check_shape(const struct machine_shape *shape, const Godwit__MachineStateV1 *state,
                       struct fault *fault)
{
    int r = check_text("machine", state->machine, MACHINE_STATE_NAME, fault);
    if (r == 0)
        r = check_text("CPU baseline", state->baseline, shape->baseline, fault);
    if (r == 0)
        r = check_number("vCPUs", state->has_vcpus, state->vcpus, shape->vcpus, fault);
    if (r == 0)
        r = check_number("bytes of memory", state->has_memory_bytes, state->memory_bytes,
                         shape->memory_bytes, fault);
    return r;
}

static int load_section(struct machine_guest *machine, const struct device *device,
                        unsigned instance, const Godwit__MachineSection *section,
                        struct fault *fault)
{
    if (!section)
        return fault_set(fault, ERR_CORRUPT, "machine state ends before section '%s' %u",
                         device->name, instance);
    if (!section->name || strcmp(section->name, device->name) != 0 || !section->has_instance ||
        section->instance != instance)
        return fault_set(
            fault, ERR_CORRUPT, "machine state has section '%.32s' %u where '%s' %u belongs",
            section->name ? section->name : "(none)", section->instance, device->name, instance);
    if (!section->has_version || section->version != device->version)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "section '%s' has version %u, this host reads version %u", device->name,
                         section->version, device->version);
    if (!section->has_state)
        return fault_set(fault, ERR_CORRUPT, "section '%s' %u is empty", device->name, instance);
    return device->load(machine, instance, section->state.data, section->state.len, fault);
}

static int load_sections(const struct machine_shape *shape, struct machine_guest *machine,
                         const Godwit__MachineStateV1 *state, struct fault *fault)
{
    size_t next = 0;
    for (size_t i = 0; i < device_table_count(); i++) {
        const struct device *device = device_table_at(i);
        unsigned instances = machine_state_instances(device, shape);
        for (unsigned k = 0; k < instances; k++, next++) {
            const Godwit__MachineSection *section =
                next < state->n_sections ? state->sections[next] : NULL;
            int r = load_section(machine, device, k, section, fault);
            if (r < 0)
                return r;
        }
    }
    if (next < state->n_sections)
        return fault_set(fault, ERR_CORRUPT,
                         "machine state has %zu sections left over, first '%.32s'",
                         state->n_sections - next,
                         state->sections[next]->name ? state->sections[next]->name : "(none)");
    return 0;
}

int machine_state_load(const struct machine_shape *shape, struct machine_guest *machine,
                       const uint8_t *bytes, size_t count, struct fault *fault)
{
    assert(shape->vcpus >= 1 && shape->vcpus <= VCPUS_MAX);
    struct state_reader reader = {.section = "machine", .fault = fault};
    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__machine_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;

    const Godwit__MachineStateV1 *state = (const Godwit__MachineStateV1 *)message;
    int r = check_shape(shape, state, fault);
    if (r == 0)
        r = load_sections(shape, machine, state, fault);
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    return r;
}
