/* virtio-rng: the host's random numbers for the guest (virtio 1.2, 5.4).
 *
 * Flow:   getrandom -> [dev_virtio_rng] -> virtqueue
 * Thread: under the vm's device lock; io thread.
 *
 * A guest gets at most VIRTIO_RNG_BYTES_PER_TURN in VIRTIO_RNG_TURN_MS: what it asks beyond waits
 * in its queue. Nothing of it is ever in flight, and it has no state of its own: what travels is
 * the transport's.
 */
#ifndef GODWIT_VMM_CORE_DEV_VIRTIO_RNG_H
#define GODWIT_VMM_CORE_DEV_VIRTIO_RNG_H

struct virtio_kind;

enum { VIRTIO_RNG_TURN_MS = 50, VIRTIO_RNG_BYTES_PER_TURN = 16 << 10 };

extern const struct virtio_kind virtio_rng_kind;

#endif
