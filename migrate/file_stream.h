/* A file as a stream: written or read from where it stands to its end, with a digest of all bytes.
 *
 * Flow:   guest_file -> [file_stream] -> file;  file -> [file_stream] -> page_place
 * Thread: its owner's.
 */
#ifndef GODWIT_MIGRATE_FILE_STREAM_H
#define GODWIT_MIGRATE_FILE_STREAM_H

#include <stdint.h>

#include "net/stream.h"

struct fault;

/* `fd` is borrowed and stands at `offset`. */
int file_stream_new(struct stream **ret_stream, int fd, uint64_t offset, struct fault *fault);
/* XXH3-64 of `seed_bytes` and all that was written or read since. */
void file_stream_seed(struct stream *stream, const void *bytes, uint64_t count);
uint64_t file_stream_digest(const struct stream *stream);
uint64_t file_stream_offset(const struct stream *stream);

#endif
