/* Telling a network that a MAC now lives behind this port: what switches must learn after a move.
 *
 * Flow:   agent (a VM has started here) -> [announce] -> the tap's bridge -> switches
 * Thread: any; blocks for no longer than a send.
 *
 * A RARP request, as others send it: it needs no IP address, every switch learns from it and no
 * host answers it. The agent calls this for every NIC of a VM that took its guest here, on the
 * bridge's interface, a few times (networks lose frames too), whether or not the guest announces
 * itself (VIRTIO_NET_F_GUEST_ANNOUNCE). Only the host that runs the VM may: see ARCHITECTURE.md.
 */
#ifndef GODWIT_NET_ANNOUNCE_H
#define GODWIT_NET_ANNOUNCE_H

#include <stdint.h>

struct fault;

enum { ANNOUNCE_MAC_BYTES = 6, ANNOUNCE_FRAME_BYTES = 60 };

/* The frame alone: broadcast, from `mac`, asking for its own address. */
void announce_frame(const uint8_t mac[static ANNOUNCE_MAC_BYTES],
                    uint8_t ret_frame[static ANNOUNCE_FRAME_BYTES]);
/* Send it out of `interface` (a bridge, or whatever the tap is connected to). Needs CAP_NET_RAW. */
int announce_send(const char *interface, const uint8_t mac[static ANNOUNCE_MAC_BYTES],
                  struct fault *fault);

#endif
