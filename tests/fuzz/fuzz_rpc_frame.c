/* A peer's bytes, in pieces of any size, through the assembler; the first two bytes of the input
 * say how large the pieces and the limit are. What comes out must be what went in. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "net/rpc_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int claim)
{
    if (!claim)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t piece_max = data[0] + 1u;
    uint32_t body_max = data[1] < 128 ? (uint32_t)data[1] << 4 : RPC_BODY_MAX;
    const uint8_t *at = data + 2, *frame_start = at;
    size_t left = size - 2;
    struct rpc_assembler assembler = {0};
    struct fault fault = {0};
    int r = 0;

    while (left > 0 && r >= 0) {
        size_t piece = left < piece_max ? left : piece_max, count = piece;
        const uint8_t *before = at;
        r = rpc_assembler_feed(&assembler, &at, &count, body_max, &fault);
        left -= (size_t)(at - before);
        check((size_t)(at - before) + count == piece);
        check(r == 0 ? count == 0 : 1);
        if (r != RPC_FRAME_E_WHOLE)
            continue;

        const struct rpc_frame *frame = &assembler.frame;
        check(frame->body_bytes <= body_max && frame->fds <= RPC_FDS_MAX);
        check(assembler.body_bytes == frame->body_bytes);
        check((size_t)(at - frame_start) == RPC_HEADER_BYTES + frame->body_bytes);
        uint8_t header[RPC_HEADER_BYTES];
        rpc_frame_put(header, frame);
        check(memcmp(header, frame_start, sizeof header) == 0);
        check(frame->body_bytes == 0 ||
              memcmp(assembler.body, frame_start + RPC_HEADER_BYTES, frame->body_bytes) == 0);
        frame_start = at;
        rpc_assembler_next(&assembler);
    }
    check(r >= 0 || (fault.code == r && fault.text[0]));
    rpc_assembler_deinit(&assembler);
    return 0;
}
