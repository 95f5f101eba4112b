#include "net/rpc_frame.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"

void rpc_frame_put(uint8_t at[static RPC_HEADER_BYTES], const struct rpc_frame *frame)
{
    assert(frame->body_bytes <= RPC_BODY_MAX);
    assert(frame->kind > 0 && frame->kind < RPC_FRAME_KIND_END);
    assert(frame->fds <= RPC_FDS_MAX);
    bytes_put_u32(at, frame->body_bytes);
    at[4] = frame->kind;
    at[5] = frame->fds;
    bytes_put_u16(at + 6, frame->method);
    bytes_put_u64(at + 8, frame->call);
}

int rpc_frame_get(const uint8_t at[static RPC_HEADER_BYTES], uint32_t body_max,
                  struct rpc_frame *ret_frame, struct fault *fault)
{
    struct rpc_frame frame = {
        .body_bytes = bytes_get_u32(at),
        .kind = at[4],
        .fds = at[5],
        .method = bytes_get_u16(at + 6),
        .call = bytes_get_u64(at + 8),
    };

    if (frame.kind == 0 || frame.kind >= RPC_FRAME_KIND_END)
        return fault_set(fault, ERR_CORRUPT, "a message of the unknown kind %u", frame.kind);
    if (frame.body_bytes > body_max)
        return fault_set(fault, ERR_LIMIT, "a message of %u bytes, the limit is %u",
                         frame.body_bytes, body_max);
    if (frame.fds > RPC_FDS_MAX)
        return fault_set(fault, ERR_LIMIT, "a message with %u descriptors, the limit is %d",
                         frame.fds, RPC_FDS_MAX);
    if (frame.fds > 0 && frame.kind != RPC_FRAME_CALL)
        return fault_set(fault, ERR_CORRUPT, "descriptors with a message that is no call");
    if (frame.kind == RPC_FRAME_HELLO && frame.body_bytes > 0)
        return fault_set(fault, ERR_CORRUPT, "a greeting of %u bytes, it has none",
                         frame.body_bytes);
    *ret_frame = frame;
    return 0;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Memory follows the bytes that came, not the size that was promised. */
static int make_room(struct rpc_assembler *assembler, size_t more, struct fault *fault)
{
    size_t need = assembler->body_bytes + more;
    if (need <= assembler->body_room)
        return 0;
    size_t room = assembler->body_room * 2;
    if (room < need)
        room = need;
    if (room > assembler->frame.body_bytes)
        room = assembler->frame.body_bytes;
    assert(room >= need);
    uint8_t *body = realloc(assembler->body, room);
    if (!body)
        return fault_set(fault, ERR_NOMEM, "no memory for a message of %u bytes",
                         assembler->frame.body_bytes);
    assembler->body = body;
    assembler->body_room = room;
    return 0;
}

int rpc_assembler_feed(struct rpc_assembler *assembler, const uint8_t **bytes, size_t *count,
                       uint32_t body_max, struct fault *fault)
{
    if (assembler->header_bytes < RPC_HEADER_BYTES) {
        size_t part = smaller(*count, RPC_HEADER_BYTES - assembler->header_bytes);
        memcpy(assembler->header + assembler->header_bytes, *bytes, part);
        assembler->header_bytes += part;
        *bytes += part;
        *count -= part;
        if (assembler->header_bytes < RPC_HEADER_BYTES)
            return 0;
        int r = rpc_frame_get(assembler->header, body_max, &assembler->frame, fault);
        if (r < 0)
            return r;
    }

    size_t part = smaller(*count, assembler->frame.body_bytes - assembler->body_bytes);
    if (part > 0) {
        int r = make_room(assembler, part, fault);
        if (r < 0)
            return r;
        memcpy(assembler->body + assembler->body_bytes, *bytes, part);
        assembler->body_bytes += part;
        *bytes += part;
        *count -= part;
    }
    return assembler->body_bytes == assembler->frame.body_bytes ? RPC_FRAME_E_WHOLE : 0;
}

void rpc_assembler_next(struct rpc_assembler *assembler)
{
    free(assembler->body);
    *assembler = (struct rpc_assembler){0};
}

void rpc_assembler_deinit(struct rpc_assembler *assembler)
{
    rpc_assembler_next(assembler);
}
