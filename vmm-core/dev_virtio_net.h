/* virtio-net: a network card of the guest over a tap (virtio 1.2, 5.1).
 *
 * Flow:   virtio_pci -> [dev_virtio_net] -> tap; tap -> [dev_virtio_net] -> virtqueue
 * Thread: under the vm's device lock; frames on the io thread, configuration on vCPU threads.
 *
 * A queue pair is one queue of the tap. Frames go both ways with their virtio header and without a
 * copy, so checksum and segmentation offloads are the kernel's. Nothing is ever in flight between
 * two calls: a frame that cannot go out stays in its queue, one that cannot come in stays in the
 * tap. Without a tap (an incoming guest that is not ours yet) the guest's frames wait.
 *
 * An unplugged card has its link down, and drops what is sent. A machine that is loaded from a twin's
 * state (vm_config.keeps_macs) keeps its own address and cable: a guest that runs goes on with the
 * address that its driver has read, until it reads it again.
 *
 * After a move the guest is asked to announce itself (VIRTIO_NET_F_GUEST_ANNOUNCE) as soon as it
 * has its tap; guests that cannot are announced by the agent (net/announce.h).
 */
#ifndef GODWIT_VMM_CORE_DEV_VIRTIO_NET_H
#define GODWIT_VMM_CORE_DEV_VIRTIO_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct fault;
struct virtio_device;
struct virtio_kind;
struct vm_nic_stats;

enum {
    VIRTIO_NET_MAC_BYTES = 6,
    VIRTIO_NET_HEADER_BYTES = 12,
    VIRTIO_NET_PAIRS_MAX = 8,
    VIRTIO_NET_MTU_MIN = 68,
    VIRTIO_NET_MTU_MAX = 65535,
};

struct virtio_net_guest { /* travels */
    uint8_t mac[VIRTIO_NET_MAC_BYTES];
    uint16_t mtu; /* 0: not told */
    uint16_t pairs, active_pairs;
    uint8_t link_up;   /* 0 or 1 */
    uint8_t announce;  /* 0 or 1: the guest was asked and has not answered */
    uint64_t offloads; /* of what the guest receives, as VIRTIO_NET_F_GUEST_* */
};

extern const struct virtio_kind virtio_net_kind;
extern const struct device virtio_net_device;

/* Give it its tap: as many descriptors as queue pairs, each of a tap with IFF_VNET_HDR and
 * IFF_NO_PI. Takes them when it returns 0. Under the device lock. */
int virtio_net_attach(struct virtio_device *device, const int *fds, unsigned count,
                      struct fault *fault);
/* What the guest sees of the cable. Under the device lock. */
void virtio_net_set_link(struct virtio_device *device, bool up);
void virtio_net_stats(const struct virtio_device *device, struct vm_nic_stats *ret_stats);

/* The guest half of a device. */
void virtio_net_capture(const struct virtio_device *device, struct virtio_net_guest *ret_guest);
/* Refuses a guest half that is another card's, but for the address of a twin's. */
int virtio_net_revive(struct virtio_device *device, const struct virtio_net_guest *guest,
                      struct fault *fault);

/* Guest half <-> packed VirtioNetStateV1. */
int virtio_net_save(const struct virtio_net_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int virtio_net_load(struct virtio_net_guest *ret_guest, const uint8_t *bytes, size_t count,
                    struct fault *fault);

#endif
