/* The 16 bytes in front of every control message, and putting a message together from pieces.
 *
 * Flow:   conn -> [rpc_frame] -> rpc
 * Thread: any; no state but the caller's.
 *
 *   0      4      5      6        8          16
 *   | body | kind | fds  | method | call id  | body ...
 */
#ifndef GODWIT_NET_RPC_FRAME_H
#define GODWIT_NET_RPC_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"

struct fault;

enum rpc_frame_kind { /* wire numbers, append only */
                      RPC_FRAME_CALL = 1,
                      RPC_FRAME_REPLY = 2,
                      RPC_FRAME_FAULT = 3,
                      RPC_FRAME_EVENT = 4,
                      RPC_FRAME_HELLO =
                          5, /* server's first word: method = newest version, call = oldest */
                      RPC_FRAME_KIND_END,
};

struct rpc_frame {
    uint64_t call;
    uint32_t body_bytes;
    uint16_t method;
    uint8_t kind;
    uint8_t fds; /* the header's flags: how many descriptors came with this frame */
};

void rpc_frame_put(uint8_t at[static RPC_HEADER_BYTES], const struct rpc_frame *frame);
/* ERR_CORRUPT for what no peer of ours would send, ERR_LIMIT for a body above `body_max`. */
int rpc_frame_get(const uint8_t at[static RPC_HEADER_BYTES], uint32_t body_max,
                  struct rpc_frame *ret_frame, struct fault *fault);

struct rpc_assembler {
    uint8_t header[RPC_HEADER_BYTES];
    size_t header_bytes;
    struct rpc_frame frame;
    uint8_t *body; /* owned; NULL for an empty body */
    size_t body_bytes, body_room;
};

enum { RPC_FRAME_E_WHOLE = 1 };

/* Eat from *bytes, moving it and *count on. 0: all eaten, more is needed. RPC_FRAME_E_WHOLE: frame
 * and body are whole; go on after rpc_assembler_next. Negative: the stream is beyond repair. */
int rpc_assembler_feed(struct rpc_assembler *assembler, const uint8_t **bytes, size_t *count,
                       uint32_t body_max, struct fault *fault);
void rpc_assembler_next(struct rpc_assembler *assembler);
void rpc_assembler_deinit(struct rpc_assembler *assembler);

#endif
