/* The bytes of a guest's file (guest_file.h) in their order: head, frames, fence, machine, index, tail.
 *
 * Flow:   guest_file, snapshot -> [guest_file_writer] -> page_codec -> file_stream -> file
 * Thread: its owner's; blocking.
 */
#ifndef GODWIT_MIGRATE_GUEST_FILE_WRITER_H
#define GODWIT_MIGRATE_GUEST_FILE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/guest_index.h"
#include "migrate/page_codec.h"
#include "storage/guest_seal.h"

struct fault;
struct guest;
struct guest_file_counts;
struct guest_label;
struct stream;

enum {
    GUEST_FILE_HEAD_BYTES = GUEST_SEAL_HEAD_BYTES,
    GUEST_FILE_SHAPE_AT = GUEST_SEAL_SHAPE_AT,
    GUEST_FILE_TAIL_BYTES = GUEST_SEAL_TAIL_BYTES,
    GUEST_FILE_ROUND = 1,
};

#define GUEST_FILE_TAIL_MAGIC GUEST_SEAL_MAGIC

struct guest_file_writer {
    struct guest *guest;    /* borrowed */
    struct stream *stream;  /* owned */
    struct page_codec codec;
    const bool *is_stopped; /* borrowed; may be NULL */
    int fd;                 /* borrowed */
    unsigned region;        /* of the block that is begun */
    uint64_t block;
    struct guest_index_frame frame; /* that is being filled */
    struct guest_index index;
    uint8_t head[GUEST_FILE_HEAD_BYTES];
    uint64_t sum, running, pages, begun_ns;
};

/* Begin the file; its head is written. deinit in any case. */
int guest_file_writer_init(struct guest_file_writer *writer, struct guest *guest,
                           const struct guest_label *label, int fd, const bool *is_stopped,
                           struct fault *fault);
void guest_file_writer_deinit(struct guest_file_writer *writer);
/* Was it told to end? ERR_CANCELED. */
int guest_file_writer_check(const struct guest_file_writer *writer, struct fault *fault);

/* Pages of one 2 MiB block of a region: begin, take each (a copy is made, a page of zeros is left out),
 * flush when it is full and at the end of the block. */
void guest_file_writer_begin(struct guest_file_writer *writer, unsigned region, uint64_t block);
void guest_file_writer_take(struct guest_file_writer *writer, unsigned page_in_block,
                            const uint8_t *bytes);
bool guest_file_writer_is_full(const struct guest_file_writer *writer);
int guest_file_writer_flush(struct guest_file_writer *writer, struct fault *fault);
/* All of a region that stands still. */
int guest_file_writer_region(struct guest_file_writer *writer, unsigned region,
                             struct fault *fault);

/* Fence, machine and tail; then all of it is durable. */
int guest_file_writer_finish(struct guest_file_writer *writer, const uint8_t *machine, size_t count,
                             struct guest_file_counts *ret_counts, struct fault *fault);

/* What the tail's digest covers of the head; the mark in between changes later. */
void guest_file_seed(struct stream *stream, const uint8_t head[static GUEST_FILE_HEAD_BYTES]);

#endif
