/* A pair of streams over memory, with faults to order: what the flow tests use for a network.
 *
 * Flow:   source's lane -> [pipe_stream] -> target's lane
 * Thread: one mutex a pair; each end as net/stream.h says.
 */
#ifndef GODWIT_TESTS_SUPPORT_PIPE_STREAM_H
#define GODWIT_TESTS_SUPPORT_PIPE_STREAM_H

#include <stdint.h>

struct stream;

enum pipe_fault {
    PIPE_FAULT_NONE,
    PIPE_FAULT_FLIP,     /* one bit of byte `at` changes */
    PIPE_FAULT_TRUNCATE, /* the reader finds a clean end after `at` bytes, the writer goes on */
    PIPE_FAULT_DIE,      /* after `at` bytes both ends find the other gone */
    PIPE_FAULT_SWALLOW,  /* what comes after `at` bytes is lost; the writer learns it a buffer later
                          */
    PIPE_FAULT_STALL,    /* after `at` bytes nothing arrives any more and writes block */
};

struct pipe_stream_config {
    uint64_t buffer_bytes; /* each way; 0: 256 KiB */
    uint64_t bytes_per_s;  /* each way; 0: no limit */
    enum pipe_fault fault; /* of the way from the first end to the second */
    uint64_t fault_at;
    enum pipe_fault fault_back; /* of the way back */
    uint64_t fault_back_at;
};

/* Gives both ends; each is freed on its own. */
void pipe_stream_new(struct stream **ret_first, struct stream **ret_second,
                     const struct pipe_stream_config *config);

#endif
