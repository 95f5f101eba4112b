/* Reading a device's message from a peer that may be hostile: presence, width, range, nothing else
 * in it.
 *
 * Flow:   section bytes -> [state_reader] -> a device's load
 * Thread: any; lives on its caller's stack.
 *
 * A reader keeps its first complaint, so that a load reads flat: take every field, then ask once.
 *
 *   struct state_reader reader = {.section = "serial", .fault = fault};
 *   STATE_TAKE(&reader, in, lcr, guest.lcr);
 *   ...
 *   if (reader.result < 0)
 *       return reader.result;
 *   *ret_guest = guest;
 */
#ifndef GODWIT_VMM_CORE_STATE_READER_H
#define GODWIT_VMM_CORE_STATE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

struct fault;

struct state_reader {
    const char *section; /* borrowed */
    struct fault *fault; /* borrowed */
    int result;          /* 0, or the first complaint's ERR_* */
};

/* Unpack with a bound on memory, refusing fields this version does not know, at any depth.
 * Gives a message for protobuf_c_message_free_unpacked(message, NULL); NULL after a complaint. */
ProtobufCMessage *state_reader_unpack(struct state_reader *reader,
                                      const ProtobufCMessageDescriptor *descriptor,
                                      const uint8_t *bytes, size_t count);

/* Gives malloc'ed bytes. 0 or ERR_NOMEM. */
int state_reader_pack(const ProtobufCMessage *message, uint8_t **ret_bytes, size_t *ret_count);

/* `value` when it is present and at most `max`; else 0 and a complaint. */
uint64_t state_reader_take(struct state_reader *reader, const char *field, bool present,
                           uint64_t value, uint64_t max);

/* Complain about `field` unless `claim` holds. Returns the claim. */
bool state_reader_check(struct state_reader *reader, bool claim, const char *field,
                        const char *trouble);

/* Take in->field into `target`, an unsigned variable; its width is the range. */
#define STATE_TAKE(reader, in, field, target)                                                      \
    ((target) =                                                                                    \
         (__typeof__(target))state_reader_take((reader), #field, (in)->has_##field, (in)->field,   \
                                               (uint64_t)(__typeof__(target))UINT64_MAX))
#define STATE_TAKE_MAX(reader, in, field, target, max)                                             \
    ((target) = (__typeof__(target))state_reader_take((reader), #field, (in)->has_##field,         \
                                                      (in)->field, (max)))
#define STATE_PUT(out, field, value) ((out)->has_##field = 1, (out)->field = (value))

#endif
