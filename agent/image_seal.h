/* The disk of a VM that is stopped becomes an image of this host.
 *
 * Flow:   images -> [image_seal] -> backends (the disk), image_folder
 * Thread: the loop's; files on a worker.
 *
 * It is read twice: for its SHA-256, which is the image's name, and into a draft of that name,
 * which counts only if what came is still the same. Content that is here already is not copied. The
 * disk is only read. That its VM stays stopped meanwhile is the coordinator's to see to; no start
 * of it is taken here either, should the coordinator have forgotten. Disks that a restore wrote only
 * in part are none.
 */
#ifndef GODWIT_AGENT_IMAGE_SEAL_H
#define GODWIT_AGENT_IMAGE_SEAL_H

#include <stdbool.h>

#include "proto/image.pb-c.h"

struct fault;
struct image_seals;
struct images;
struct rpc_request;

/* `images` is borrowed and must outlive them. */
int image_seals_new(struct image_seals **ret_seals, struct images *images, struct fault *fault);
void image_seals_stop(struct image_seals *seals); /* reading ends soon */
struct image_seals *image_seals_free(struct image_seals *seals);
/* Answers with ImageSealed. `snapshots`: their folder here, which must outlive the seals; NULL: none. */
void image_seal_begin(struct image_seals *seals, const Godwit__OrderImageSeal *order,
                      const char *snapshots, struct rpc_request *request);
/* A disk of it is being read just now. */
bool image_seal_is_busy(const struct image_seals *seals, const char *vm_id);

#endif
