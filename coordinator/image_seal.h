/* An image from the disk of a VM that is stopped.
 *
 * Flow:   api -> [image_seal] -> agent_link -> image -> the reply
 * Thread: the loop's.
 *
 * While its host reads the disk the VM has a ticket, so it does not start. The image boots as the
 * VM does.
 */
#ifndef GODWIT_COORDINATOR_IMAGE_SEAL_H
#define GODWIT_COORDINATOR_IMAGE_SEAL_H

#include "coordinator/coordinator.h"

/* Handler, see api.c. */
void image_seal_request(struct peer *peer, struct rpc_request *request, const void *message);

#endif
