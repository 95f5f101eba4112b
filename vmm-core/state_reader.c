#include "vmm-core/state_reader.h"

#include <assert.h>
#include <stdlib.h>

#include "base/err.h"
#include "proto/limits.h"

/* What one message may take in memory: its bytes once more, its structs and arrays. The worst
 * honest one is a machine of VCPUS_MAX vCPUs. */
enum { STATE_READER_ALLOC_MAX = MACHINE_STATE_MAX + (1 << 20) };

static void *budget_alloc(void *data, size_t bytes)
{
    size_t *left = data;
    if (bytes > *left)
        return NULL;
    *left -= bytes;
    return malloc(bytes ? bytes : 1);
}

static void budget_free(void *data, void *pointer)
{
    (void)data;
    free(pointer);
}

static bool has_unknown(const ProtobufCMessage *message);

static bool field_has_unknown(const ProtobufCMessage *message,
                              const ProtobufCFieldDescriptor *field)
{
    const uint8_t *member = (const uint8_t *)message + field->offset;
    if (field->label != PROTOBUF_C_LABEL_REPEATED) {
        const ProtobufCMessage *child = *(ProtobufCMessage *const *)(const void *)member;
        return child && has_unknown(child);
    }
    size_t count =
        *(const size_t *)(const void *)((const uint8_t *)message + field->quantifier_offset);
    ProtobufCMessage *const *children = *(ProtobufCMessage *const *const *)(const void *)member;
    for (size_t i = 0; i < count; i++) {
        if (has_unknown(children[i]))
            return true;
    }
    return false;
}

/* Depth is bounded by our own message types, which do not nest in themselves. */
static bool has_unknown(const ProtobufCMessage *message)
{
    if (message->n_unknown_fields)
        return true;
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        if (field->type == PROTOBUF_C_TYPE_MESSAGE && field_has_unknown(message, field))
            return true;
    }
    return false;
}

ProtobufCMessage *state_reader_unpack(struct state_reader *reader,
                                      const ProtobufCMessageDescriptor *descriptor,
                                      const uint8_t *bytes, size_t count)
{
    assert(reader->section);
    if (!state_reader_check(reader, count <= MACHINE_STATE_MAX, descriptor->short_name,
                            "is longer than any machine's state"))
        return NULL;

    size_t left = STATE_READER_ALLOC_MAX;
    ProtobufCAllocator allocator = {
        .alloc = budget_alloc, .free = budget_free, .allocator_data = &left};
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, &allocator, count, bytes);
    if (!state_reader_check(reader, message != NULL, descriptor->short_name, "does not parse"))
        return NULL;
    if (!state_reader_check(reader, !has_unknown(message), descriptor->short_name,
                            "has fields that this version does not know")) {
        protobuf_c_message_free_unpacked(message, NULL); /* budget_free is free */
        return NULL;
    }
    return message;
}

int state_reader_pack(const ProtobufCMessage *message, uint8_t **ret_bytes, size_t *ret_count)
{
    size_t count = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return ERR_NOMEM;
    size_t packed = protobuf_c_message_pack(message, bytes);
    assert(packed == count);

    *ret_bytes = bytes;
    *ret_count = count;
    return 0;
}

uint64_t state_reader_take(struct state_reader *reader, const char *field, bool present,
                           uint64_t value, uint64_t max)
{
    if (!state_reader_check(reader, present, field, "is missing"))
        return 0;
    if (value <= max)
        return value;
    if (reader->result == 0)
        reader->result =
            fault_set(reader->fault, ERR_CORRUPT, "%s: %s is %#llx, at most %#llx", reader->section,
                      field, (unsigned long long)value, (unsigned long long)max);
    return 0;
}

bool state_reader_check(struct state_reader *reader, bool claim, const char *field,
                        const char *trouble)
{
    if (!claim && reader->result == 0)
        reader->result =
            fault_set(reader->fault, ERR_CORRUPT, "%s: %s %s", reader->section, field, trouble);
    return claim;
}
