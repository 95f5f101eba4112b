/* One virtqueue as its device sees it: chains of buffers come out, used ones go back.
 *
 * Flow:   guest's driver -> guest_memory -> [virtqueue] -> virtio devices -> [virtqueue] -> guest
 * Thread: whoever runs the device (the io thread, under the device lock); no KVM in here.
 *
 * Virtio 1.2, split and packed rings, indirect tables, event index. The guest writes the rings
 * while we read them and may mean harm: each field is read exactly once into a local, judged, then
 * used. Whatever the guest must not do leaves the queue broken, its device asks for a reset
 * (NEEDS_RESET), and nothing else happens. Every byte written here or by a device into a chain is
 * marked in guest_memory, so a moving guest's dirty set holds what its devices wrote.
 *
 *   do {
 *       while (virtqueue_pop(queue, chain) == VIRTQUEUE_POPPED) {
 *           ... read chain's readable parts, write its writable ones ...
 *           virtqueue_push(queue, chain, bytes_written);
 *       }
 *   } while (virtqueue_rearm(queue));
 *   if (virtqueue_should_notify(queue))
 *       interrupt the guest
 */
#ifndef GODWIT_VMM_CORE_VIRTQUEUE_H
#define GODWIT_VMM_CORE_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct Godwit__VirtqueueStateV1;
struct guest_memory;
struct state_reader;

enum { VIRTQUEUE_SIZE_MAX = 256, VIRTQUEUE_PARTS_MAX = 256 };

enum virtqueue_pop {
    VIRTQUEUE_EMPTY,
    VIRTQUEUE_POPPED,
    VIRTQUEUE_BROKEN, /* the guest broke the rules, now or before; queue->trouble says how */
};

struct virtqueue_guest {  /* travels */
    uint64_t descriptors; /* guest-physical: split descriptor table, packed descriptor ring */
    uint64_t driver;      /* split available ring, packed driver event suppression */
    uint64_t device;      /* split used ring, packed device event suppression */
    uint16_t size;
    uint16_t next_avail; /* split: free-running; packed: slot */
    uint16_t next_used;
    uint8_t avail_wrap, used_wrap; /* packed: wrap counters; split: 0 */
    uint8_t enabled;
    uint8_t broken;
};

struct virtqueue {
    struct virtqueue_guest guest;

    /* stays: rebuilt by virtqueue_start and virtqueue_revive */
    struct guest_memory *memory;            /* must outlive the queue's use */
    uint8_t *descriptors, *driver, *device; /* host addresses of the rings */
    bool packed, indirect, event_idx;
    uint16_t in_flight;    /* ring slots popped and not yet pushed */
    uint16_t staged;       /* split: entries filled; packed: slots filled */
    uint16_t staged_flags; /* packed: of the first staged slot, written last */
    uint32_t untold;       /* slots given back since the driver's wish was last asked */
    const char *trouble;   /* static words once broken */
};

/* Parts point into guest memory: readable ones first, writable ones behind them. */
struct virtqueue_chain {
    uint16_t id;
    uint16_t slots; /* ring slots it takes */
    uint16_t readable, writable;
    uint32_t readable_bytes, writable_bytes;
    struct iovec parts[VIRTQUEUE_PARTS_MAX];
};

/* Begin at the first slot with the addresses and size in queue->guest, as the driver enabled them.
 * `features` are the negotiated ones (VIRTIO_F_RING_PACKED and VIRTIO_RING_F_* count here). False:
 * rings unaligned, outside of RAM or of a size that is none; the queue is then broken. */
bool virtqueue_start(struct virtqueue *queue, struct guest_memory *memory, uint64_t features);
/* Go on from a loaded guest half. False as above. virtqueue_should_notify then says
 * yes to whatever the driver's event index is: what the source told last is not known.
 */
bool virtqueue_revive(struct virtqueue *queue, const struct virtqueue_guest *guest,
                      struct guest_memory *memory, uint64_t features);
/* To nothing: disabled, no addresses. */
void virtqueue_reset(struct virtqueue *queue);

/* Take the next chain. Only from an enabled queue. */
enum virtqueue_pop virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *ret_chain);
/* Put back the chain popped last, as if it had never been. Of several, the youngest first. */
void virtqueue_unpop(struct virtqueue *queue, const struct virtqueue_chain *chain);

/* Give a chain back, in any order. `bytes_written`: how far from the beginning of its writable
 * parts the device may have written; so far it is marked as written. */
void virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain,
                    uint32_t bytes_written);
/* The same in two steps, for several chains that must show at once: fill each, then flush. */
void virtqueue_fill(struct virtqueue *queue, const struct virtqueue_chain *chain,
                    uint32_t bytes_written);
void virtqueue_flush(struct virtqueue *queue);

/* After pushes: does the driver want an interrupt for them? Ask once, then act on it. */
bool virtqueue_should_notify(struct virtqueue *queue);
/* Nothing left to pop: ask the driver to tell of the next chain. True when one came meanwhile and
 * must be popped now. */
bool virtqueue_rearm(struct virtqueue *queue);
/* Is there a chain to pop? Changes nothing; a broken queue has none. */
bool virtqueue_has_chain(const struct virtqueue *queue);

/* The device found a chain that no honest driver makes. `trouble`: static words. */
void virtqueue_break(struct virtqueue *queue, const char *trouble);

/* Copy from the readable bytes at `offset`; how many there were. */
size_t virtqueue_chain_read(const struct virtqueue_chain *chain, size_t offset, void *ret_bytes,
                            size_t count);
/* Copy into the writable bytes at `offset`; how many fitted. virtqueue_push marks them. */
size_t virtqueue_chain_write(const struct virtqueue_chain *chain, size_t offset, const void *bytes,
                             size_t count);

/* Guest half <-> VirtqueueStateV1, a part of a device's message. Nothing may be in flight.
 * Addresses are judged by virtqueue_revive, with the memory at hand. */
void virtqueue_save(const struct virtqueue_guest *guest, struct Godwit__VirtqueueStateV1 *out);
void virtqueue_load(struct state_reader *reader, const struct Godwit__VirtqueueStateV1 *in,
                    struct virtqueue_guest *ret_guest);

#endif
