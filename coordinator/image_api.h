/* What operators ask about images, and disks that are made from them before a VM's first start.
 *
 * Flow:   api -> [image_api] -> image, agent_link -> agents
 * Thread: the loop's.
 *
 * Content only passes through: a part of an upload is handed to the host's agent, and its answer
 * back. A VM with disks from images is recorded first, as stopped and bound to its host; then the
 * images are fetched there where they are missing, the disks are made, and it is started. A host
 * that refuses ends that, and a VM that was just created is removed again; a line that breaks
 * leaves it stopped, and `vm start` goes on.
 */
#ifndef GODWIT_COORDINATOR_IMAGE_API_H
#define GODWIT_COORDINATOR_IMAGE_API_H

#include <stdbool.h>

#include "coordinator/coordinator.h"

/* Handlers, see api.c. */
void image_api_begin(struct peer *peer, struct rpc_request *request, const void *message);
void image_api_chunk(struct peer *peer, struct rpc_request *request, const void *message);
void image_api_end(struct peer *peer, struct rpc_request *request, const void *message);
void image_api_list(struct peer *peer, struct rpc_request *request, const void *message);
void image_api_remove(struct peer *peer, struct rpc_request *request, const void *message);
void image_api_copy(struct peer *peer, struct rpc_request *request, const void *message);
void image_api_read(struct peer *peer, struct rpc_request *request, const void *message);
void image_api_on_images(struct peer *peer, struct rpc_request *request, const void *message);
void image_api_on_progress(struct peer *peer, struct rpc_request *request, const void *message);

/* Of a VM whose description names images; `vm_id` is its id to be. Answers the request. */
void image_api_create(struct coordinator *coordinator, struct rpc_request *request,
                      const Godwit__VmCreateRequest *wanted, const char *vm_id);
/* False: it has no disks that are still to be made, so it starts as any other. */
bool image_api_start(struct coordinator *coordinator, struct rpc_request *request,
                     const char *vm);

#endif
