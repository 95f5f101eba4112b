/* An image of this host becomes the disk of a VM that has not run yet.
 *
 * Flow:   images -> [image_clone] -> image_folder (is it what its name says?), storage/clone, share
 * Thread: the loop's; files on a worker.
 *
 * The disk gets its name when it is whole and durable. One that was made for this very disk of this
 * VM before is kept as it is, so that the order may be said again; any other file of that name is
 * refused.
 */
#ifndef GODWIT_AGENT_IMAGE_CLONE_H
#define GODWIT_AGENT_IMAGE_CLONE_H

#include <stdbool.h>

#include "proto/image.pb-c.h"

struct fault;
struct image_clones;
struct images;
struct rpc_request;

/* A store that is made when it is missing: where disks go that name none. */
#define IMAGE_CLONE_STORE "/var/lib/godwit/disks"

/* `images` is borrowed and must outlive them. */
int image_clones_new(struct image_clones **ret_clones, struct images *images, struct fault *fault);
void image_clones_stop(struct image_clones *clones); /* copies end soon */
struct image_clones *image_clones_free(struct image_clones *clones);
/* Answers with ImageCloned; ERR_BUSY while this very disk is being made. */
void image_clone_begin(struct image_clones *clones, const Godwit__OrderImageClone *order,
                       struct rpc_request *request);
/* A disk of this VM is being made: it is no time to remove what was made for it. */
bool image_clone_is_busy(const struct image_clones *clones, const char *vm_id);

#endif
