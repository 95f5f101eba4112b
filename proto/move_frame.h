/* One message on a move's control lane: 12 bytes of header, then the packed message.
 *
 * Flow:   source, target -> [move_frame] -> stream -> [move_frame] -> source, target
 * Thread: any; pure.
 *
 * Little-endian: u32 length of the message, u16 type, u16 check of these (low bits of XXH3-64), u32
 * check of the message. TLS keeps strangers out, the checks find our own mistakes, and a length
 * that is wrong is not waited for. Every message is judged whole before anyone sees it: present
 * fields, lengths, counts, limits.
 */
#ifndef GODWIT_PROTO_MOVE_FRAME_H
#define GODWIT_PROTO_MOVE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/migration.pb-c.h"

struct fault;

enum { MOVE_FRAME_HEADER_BYTES = 12, MOVE_FRAME_EXTENTS_MAX = 64 << 10, MOVE_FRAME_TEXT_MAX = 127 };
enum { MOVE_FRAME_MISSING_MAX = 1 << 20 }; /* bytes of bits in one message: 32 GiB of pages */

/* Wire numbers: append only. */
enum move_frame_type {
    MOVE_FRAME_MESSAGE = 0,
    MOVE_FRAME_HOT = 1, /* empty; the pause is near: do not sleep. The target answers with one */
};

/* Gives malloc'ed bytes: header and message. */
int move_frame_encode(const Godwit__MoveMessage *message, uint8_t **ret_bytes, size_t *ret_count,
                      struct fault *fault);
/* An empty frame of a type other than MESSAGE. */
void move_frame_put_empty(enum move_frame_type type,
                          uint8_t ret_bytes[static MOVE_FRAME_HEADER_BYTES]);
/* Judge a header: *ret_count bytes of message follow, to be judged by check and decode. */
int move_frame_get(const uint8_t bytes[static MOVE_FRAME_HEADER_BYTES],
                   enum move_frame_type *ret_type, size_t *ret_count, struct fault *fault);
/* Do header and message belong together? */
int move_frame_check(const uint8_t header[static MOVE_FRAME_HEADER_BYTES], const uint8_t *bytes,
                     size_t count, struct fault *fault);
/* Gives a message, for godwit__move_message__free_unpacked. */
int move_frame_decode(const uint8_t *bytes, size_t count, Godwit__MoveMessage **ret_message,
                      struct fault *fault);

const char *move_frame_name(const Godwit__MoveMessage *message); /* "hello" */

#endif
