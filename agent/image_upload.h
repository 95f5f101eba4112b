/* Images that come from an operator, through the coordinator, a part at a time and in order.
 *
 * Flow:   images -> [image_upload] -> image_folder
 * Thread: the loop's; files on a worker, one part of an upload at a time.
 *
 *   begin --> parts --> end: digest right --> published
 *     |         ` one fails: dropped, and the parts that still come are refused
 *     ` again: goes on where it was (the line broke); one that nobody feeds is dropped
 */
#ifndef GODWIT_AGENT_IMAGE_UPLOAD_H
#define GODWIT_AGENT_IMAGE_UPLOAD_H

#include <stdbool.h>

#include "proto/image.pb-c.h"

struct fault;
struct image_uploads;
struct images;
struct rpc_request;

enum { IMAGE_UPLOAD_IDLE_MS = 10 * 60 * 1000, IMAGE_UPLOADS_MAX = 16, IMAGE_UPLOAD_QUEUE_MAX = 32 };

/* `images` is borrowed and must outlive them. */
int image_uploads_new(struct image_uploads **ret_uploads, struct images *images,
                      struct fault *fault);
struct image_uploads *image_uploads_free(struct image_uploads *uploads);
void image_upload_begin(struct image_uploads *uploads, const Godwit__OrderImageBegin *order,
                        struct rpc_request *request);
void image_upload_chunk(struct image_uploads *uploads, const Godwit__ImageChunk *order,
                        struct rpc_request *request);
void image_upload_end(struct image_uploads *uploads, const Godwit__OrderImageEnd *order,
                      struct rpc_request *request);
bool image_upload_is_busy(const struct image_uploads *uploads, const char *digest);

#endif
