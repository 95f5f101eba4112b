/* virtio-vsock: streams between host and guest without a network (virtio 1.2, 5.10).
 *
 * Flow:   host program -> Unix socket -> [dev_virtio_vsock] <-> virtqueues <-> guest
 * Thread: under the vm's device lock; io thread.
 *
 * The host's side is one listening Unix socket a VM, given by the agent: who connects to it says
 * "CONNECT PORT\n" and, when somebody in the guest listens on that port, reads "OK HOST_PORT\n" and
 * has a stream; else the connection is closed. This process itself has one by
 * virtio_vsock_connect. Connections that a guest begins are refused: there
 * is nobody on the host for it to reach.
 *
 * Streams do not move. At the target the guest is told by VIRTIO_VSOCK_EVENT_TRANSPORT_RESET that
 * all of them are gone; at the source they end with their process, and go on if the move fails.
 */
#ifndef GODWIT_VMM_CORE_DEV_VIRTIO_VSOCK_H
#define GODWIT_VMM_CORE_DEV_VIRTIO_VSOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct fault;
struct virtio_device;
struct virtio_kind;

enum {
    VIRTIO_VSOCK_STREAMS_MAX = 64,
    VIRTIO_VSOCK_BUFFER_BYTES = 64 << 10, /* what a stream holds for a host program that is slow */
    VIRTIO_VSOCK_HOST_CID = 2,
    VIRTIO_VSOCK_CID_MIN = 3,
};

struct virtio_vsock_guest { /* travels */
    uint64_t cid;
    uint8_t reset_due; /* 0 or 1: the guest was not yet told that its streams are gone */
};

extern const struct virtio_kind virtio_vsock_kind;
extern const struct device virtio_vsock_device;

/* Give it its host side, a listening Unix stream socket; takes it when it returns 0. Under the
 * device lock. */
int virtio_vsock_attach(struct virtio_device *device, int fd, struct fault *fault);
/* A stream to `port` of the guest; gives the host's end, non-blocking. What can be read of it
 * begins with "OK HOST_PORT\n" once somebody in the guest has taken it; when nobody does it ends.
 * ERR_STATE: the guest has no driver yet. Under the device lock. */
int virtio_vsock_connect(struct virtio_device *device, uint32_t port, int *ret_fd,
                         struct fault *fault);
/* Streams that are open or being opened. Under the device lock. */
unsigned virtio_vsock_streams(const struct virtio_device *device);

/* The guest half of a device. */
void virtio_vsock_capture(const struct virtio_device *device, struct virtio_vsock_guest *ret_guest);
int virtio_vsock_revive(struct virtio_device *device, const struct virtio_vsock_guest *guest,
                        struct fault *fault);

/* Guest half <-> packed VirtioVsockStateV1. */
int virtio_vsock_save(const struct virtio_vsock_guest *guest, uint8_t **ret_bytes,
                      size_t *ret_count);
int virtio_vsock_load(struct virtio_vsock_guest *ret_guest, const uint8_t *bytes, size_t count,
                      struct fault *fault);

#endif
