/* Images that come from another host, over a line of the pool's own TLS between the two agents.
 *
 * Flow:   images -> [image_fetch] -> net/rpc -> the other agent's peers -> its images
 * Thread: the loop's; files on a worker.
 *
 * Parts are asked for one after the other; while one is written the next is on its way. Each source
 * is tried in turn: one that breaks off, or whose content turns out to be something else, is left
 * for the next, from the beginning. Whoever wants the same image meanwhile waits for it.
 */
#ifndef GODWIT_AGENT_IMAGE_FETCH_H
#define GODWIT_AGENT_IMAGE_FETCH_H

#include <stdbool.h>

#include "proto/image.pb-c.h"

struct fault;
struct image_fetches;
struct images;
struct rpc_request;

enum { IMAGE_FETCH_PART_MS = 60000, IMAGE_FETCH_SOURCES_MAX = 16, IMAGE_FETCH_WAITERS_MAX = 64 };

/* `images` is borrowed and must outlive them. */
int image_fetches_new(struct image_fetches **ret_fetches, struct images *images,
                      struct fault *fault);
void image_fetches_stop(struct image_fetches *fetches); /* no source is asked any more */
struct image_fetches *image_fetches_free(struct image_fetches *fetches);
/* The image is not here. Answers when it is, with ImageState. */
void image_fetch_begin(struct image_fetches *fetches, const Godwit__OrderImageFetch *order,
                       struct rpc_request *request);
bool image_fetch_is_busy(const struct image_fetches *fetches, const char *digest);

#endif
