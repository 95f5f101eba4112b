/* A control lane's bytes as a hostile peer would send them. */
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/move_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    Godwit__MoveMessage *message = NULL;
    enum move_frame_type type;
    size_t body = 0;
    struct fault fault;

    if (count >= MOVE_FRAME_HEADER_BYTES && move_frame_get(bytes, &type, &body, &fault) == 0 &&
        body <= count - MOVE_FRAME_HEADER_BYTES)
        (void)move_frame_check(bytes, bytes + MOVE_FRAME_HEADER_BYTES, body, &fault);
    if (count <= MOVE_MESSAGE_MAX && move_frame_decode(bytes, count, &message, &fault) == 0) {
        if (!move_frame_name(message)[0])
            __builtin_trap();
        godwit__move_message__free_unpacked(message, NULL);
    }
    return 0;
}
