/* Receiving: a frame is read straight into the first buffer the guest offers, with room behind it
 * for what does not fit; what landed there is copied on into further buffers (mergeable ones), and
 * all of them are shown at once. A frame for which the guest has not offered enough is dropped and
 * counted, as by any card whose ring runs over.
 *
 *   tap readable and a buffer there -> read -> fill ... fill -> flush -> interrupt
 *   tap readable and no buffer      -> the tap is not watched until the guest offers one
 *
 * Sending: written from where it lies. A tap that takes no more leaves the frame in its queue and
 * is watched until it does.
 */
#include "vmm-core/dev_virtio_net.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/io_loop.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/virtio.h"
#include "vmm-core/virtio_bus.h"
#include "vmm-core/virtqueue.h"
#include "vmm-core/vm_inside.h"

enum {
    CONFIG_BYTES = 12,
    CONFIG_STATUS = 6,
    CONFIG_PAIRS = 8,
    CONFIG_MTU = 10,
    HEADER_FLAGS = 0,
    HEADER_BUFFERS = 10,
    FRAME_MAX = VIRTIO_NET_HEADER_BYTES + (64 << 10) + 64,
    MERGED_MAX = 64,      /* buffers of one frame behind the first */
    FRAMES_PER_TURN = 64, /* of one queue, before others get theirs */
    COMMAND_BYTES_MAX = 16,
    PCI_CLASS_NETWORK = 0x02,
};

#define OFFLOADS                                                                                   \
    (VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO4) |           \
     VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO6) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_ECN))
#define FEATURES                                                                                   \
    (OFFLOADS | VIRTIO_FEATURE(VIRTIO_NET_F_CSUM) | VIRTIO_FEATURE(VIRTIO_NET_F_HOST_TSO4) |       \
     VIRTIO_FEATURE(VIRTIO_NET_F_HOST_TSO6) | VIRTIO_FEATURE(VIRTIO_NET_F_HOST_ECN) |              \
     VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | VIRTIO_FEATURE(VIRTIO_NET_F_MAC) |         \
     VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF) | VIRTIO_FEATURE(VIRTIO_NET_F_STATUS) |                \
     VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE))

static_assert((int)VIRTIO_NET_PAIRS_MAX == (int)VM_NIC_QUEUE_PAIRS_MAX, "the door's");
static_assert((int)VIRTIO_NET_MAC_BYTES == (int)VM_MAC_BYTES, "the door's");
static_assert(2 * VIRTIO_NET_PAIRS_MAX + 1 <= VIRTIO_QUEUES_MAX, "each queue has its place");

struct net;

struct net_pair {
    struct net *net;
    unsigned index;
    int fd; /* owned; -1: no tap */
    struct io_watch watch;
    bool attached; /* this queue takes part in the tap */
    bool starved;  /* the guest offers no buffer */
    bool blocked;  /* the tap takes no frame */
};

struct net {
    struct virtio_device *device;
    struct virtio_net_guest guest;
    struct net_pair pairs[VIRTIO_NET_PAIRS_MAX];
    bool has_tap, has_queues; /* the tap has several queues */
    bool unplugged;           /* it has no tap and gets none */
    bool keeps_mac;           /* a guest half that is loaded is a twin's */
    bool announce_due;        /* it moved here, and was not yet asked to announce itself */
    struct io_job look;       /* at queues left before they were empty */
    struct vm_nic_stats stats;
    struct virtqueue_chain chain;
    struct virtqueue_chain merged[MERGED_MAX];
    uint8_t overflow[FRAME_MAX];
};

static unsigned net_instances(const struct machine_shape *shape)
{
    return shape->nics;
}

static struct net *net_of(const struct virtio_device *device)
{
    return device->state;
}

/* The control queue stands behind the pairs that were agreed on. */
static unsigned control_queue(const struct net *net)
{
    return virtio_device_has(net->device, VIRTIO_NET_F_MQ) ? 2U * net->guest.pairs : 2;
}

/* The tap */

static void lose_tap(struct net *net);

static uint32_t watched_events(const struct net_pair *pair)
{
    return (pair->starved ? 0U : (uint32_t)EPOLLIN) | (pair->blocked ? (uint32_t)EPOLLOUT : 0U);
}

static void update_watch(struct net_pair *pair)
{
    if (pair->watch.slot)
        io_loop_modify(pair->net->device->loop, &pair->watch, watched_events(pair));
}

static void watch_pair(struct net_pair *pair, bool watch)
{
    struct io_loop *loop = pair->net->device->loop;
    if (!watch) {
        io_loop_remove(loop, &pair->watch);
    } else if (!pair->watch.slot) {
        pair->watch.fd = pair->fd;
        pair->starved = pair->blocked = false;
        /* A loop that watches too much already leaves a card deaf: told as a lost cable. */
        if (io_loop_add(loop, &pair->watch, watched_events(pair), NULL) < 0)
            lose_tap(pair->net);
    }
}

/* A queue that the guest does not use takes no part, or the tap would give it frames. */
static void attach_pair(struct net_pair *pair, bool attach)
{
    if (!pair->net->has_queues || pair->attached == attach)
        return;
    struct ifreq request = {.ifr_flags = (short)(attach ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE)};
    if (ioctl(pair->fd, TUNSETQUEUE, &request) == 0)
        pair->attached = attach;
}

static unsigned tap_offloads(uint64_t offloads)
{
    static const struct {
        unsigned feature, flag;
    } map[] = {
        {VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM},
        {VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},
        {VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6},
        {VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN},
    };
    unsigned flags = 0;
    for (size_t i = 0; i < ARRAY_COUNT(map); i++)
        flags |= offloads & VIRTIO_FEATURE(map[i].feature) ? map[i].flag : 0;
    /* The kernel knows segments only with checksums. */
    return flags & TUN_F_CSUM ? flags : 0;
}

/* Bring the tap to what the guest half says: as often as that changes. */
static void follow_guest(struct net *net)
{
    if (!net->has_tap)
        return;
    bool live = virtio_device_is_live(net->device);
    unsigned active = live ? net->guest.active_pairs : 0;
    for (unsigned i = 0; i < net->guest.pairs && net->has_tap; i++) {
        struct net_pair *pair = &net->pairs[i];
        if (i >= active)
            watch_pair(pair, false);
        attach_pair(pair, i < active || i == 0);
    }
    (void)ioctl(net->pairs[0].fd, TUNSETOFFLOAD,
                (unsigned long)tap_offloads(live ? net->guest.offloads : 0));
    for (unsigned i = 0; i < active && net->has_tap; i++)
        watch_pair(&net->pairs[i], true);
}

static void close_tap(struct net *net)
{
    for (unsigned i = 0; i < VIRTIO_NET_PAIRS_MAX; i++) {
        struct net_pair *pair = &net->pairs[i];
        if (net->device->loop)
            io_loop_remove(net->device->loop, &pair->watch);
        close_p(&pair->fd);
        pair->fd = -1;
    }
    net->has_tap = false;
}

static void set_link(struct net *net, bool up)
{
    if (net->guest.link_up == up)
        return;
    net->guest.link_up = up;
    virtio_device_config_changed(net->device);
}

/* Somebody deleted it. The guest sees the cable pulled out. */
static void lose_tap(struct net *net)
{
    close_tap(net);
    set_link(net, false);
}

static int check_tap(int fd, bool several, struct fault *fault)
{
    struct ifreq request = {0};
    int header = VIRTIO_NET_HEADER_BYTES, little = 1;
    if (ioctl(fd, TUNGETIFF, &request) < 0)
        return fault_set_errno(fault, ERR_INVALID, errno, "this is no tap");
    int flags = request.ifr_flags;
    if (!(flags & IFF_TAP) || !(flags & IFF_NO_PI) || !(flags & IFF_VNET_HDR))
        return fault_set(fault, ERR_INVALID, "tap '%.15s' has no virtio headers", request.ifr_name);
    if (several && !(flags & IFF_MULTI_QUEUE))
        return fault_set(fault, ERR_INVALID, "tap '%.15s' has only one queue", request.ifr_name);
    if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 || ioctl(fd, TUNSETVNETLE, &little) < 0 ||
        fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "setting up tap '%.15s'", request.ifr_name);
    return 0;
}

static void look_at_all(struct net *net);

/* It moved here, it has its tap again: may it tell the network where it is now. */
static void ask_to_announce(struct net *net)
{
    if (!net->announce_due || !net->has_tap)
        return;
    net->announce_due = false;
    if (!virtio_device_is_live(net->device) ||
        !virtio_device_has(net->device, VIRTIO_NET_F_GUEST_ANNOUNCE))
        return;
    net->guest.announce = 1;
    virtio_device_config_changed(net->device);
}

int virtio_net_attach(struct virtio_device *device, const int *fds, unsigned count,
                      struct fault *fault)
{
    struct net *net = net_of(device);
    if (count != net->guest.pairs)
        return fault_set(fault, ERR_INVALID, "nic %u has %u queue pairs, its tap %u",
                         device->instance, net->guest.pairs, count);
    if (net->has_tap || net->unplugged)
        return fault_set(fault, ERR_STATE, "nic %u %s", device->instance,
                         net->unplugged ? "is unplugged" : "has its tap already");
    for (unsigned i = 0; i < count; i++) {
        int r = check_tap(fds[i], count > 1, fault);
        if (r < 0)
            return fault_wrap(fault, r, "nic %u", device->instance);
    }
    for (unsigned i = 0; i < count; i++) {
        net->pairs[i].fd = fds[i];
        net->pairs[i].attached = true;
    }
    net->has_tap = true;
    net->has_queues = count > 1;
    follow_guest(net);
    ask_to_announce(net);
    io_loop_post(device->loop, &net->look);
    return 0;
}

void virtio_net_set_link(struct virtio_device *device, bool up)
{
    set_link(net_of(device), up);
}

void virtio_net_stats(const struct virtio_device *device, struct vm_nic_stats *ret_stats)
{
    *ret_stats = net_of(device)->stats;
}

/* Receiving */

static bool break_queue(struct net *net, struct virtqueue *queue, const char *trouble)
{
    virtqueue_break(queue, trouble);
    virtio_device_needs_reset(net->device);
    return false;
}

/* A chain that was written into goes back unused: what was written is in the dirty set all the
 * same, for the guest can look. */
static void give_back(struct net *net, struct virtqueue *queue, const struct virtqueue_chain *chain,
                      size_t written)
{
    for (unsigned i = 0; i < chain->writable && written > 0; i++) {
        const struct iovec *part = &chain->parts[chain->readable + i];
        size_t here = written < part->iov_len ? written : part->iov_len;
        guest_memory_mark_host_written(net->device->memory, part->iov_base, here);
        written -= here;
    }
    virtqueue_unpop(queue, chain);
}

/* Copy `bytes` of the overflow into further buffers. Returns how many took it, -1 when the guest
 * has not enough; then none did. */
static int merge_overflow(struct net *net, struct virtqueue *queue, size_t bytes)
{
    size_t done = 0;
    int count = 0;
    while (done < bytes && count < MERGED_MAX) {
        struct virtqueue_chain *chain = &net->merged[count];
        if (virtqueue_pop(queue, chain) != VIRTQUEUE_POPPED)
            break;
        count++;
        done += virtqueue_chain_write(chain, 0, net->overflow + done, bytes - done);
    }
    if (done == bytes)
        return count;
    while (count-- > 0)
        give_back(net, queue, &net->merged[count], net->merged[count].writable_bytes);
    return -1;
}

/* The first chain and what was merged, each with its share of `bytes`, at once. */
static void show_frame(struct net *net, struct virtqueue *queue, size_t bytes, int merged)
{
    uint8_t number[2];
    uint32_t first = net->chain.writable_bytes;
    bytes_put_u16(number, (uint16_t)(1 + merged));
    (void)virtqueue_chain_write(&net->chain, HEADER_BUFFERS, number, sizeof number);
    if (!(net->guest.offloads & VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM)))
        (void)virtqueue_chain_write(&net->chain, HEADER_FLAGS, "", 1);

    virtqueue_fill(queue, &net->chain, bytes < first ? (uint32_t)bytes : first);
    size_t left = bytes < first ? 0 : bytes - first;
    for (int i = 0; i < merged; i++) {
        uint32_t share = net->merged[i].writable_bytes;
        share = left < share ? (uint32_t)left : share;
        virtqueue_fill(queue, &net->merged[i], share);
        left -= share;
    }
    virtqueue_flush(queue);
    net->stats.received_frames++;
    net->stats.received_bytes += bytes - VIRTIO_NET_HEADER_BYTES;
}

static void take_frame(struct net *net, struct virtqueue *queue, size_t bytes)
{
    size_t first = net->chain.writable_bytes;
    int merged = 0;
    if (bytes > first)
        merged = virtio_device_has(net->device, VIRTIO_NET_F_MRG_RXBUF)
                     ? merge_overflow(net, queue, bytes - first)
                     : -1;
    if (merged >= 0 && bytes > VIRTIO_NET_HEADER_BYTES) {
        show_frame(net, queue, bytes, merged);
        return;
    }
    give_back(net, queue, &net->chain, bytes);
    net->stats.receive_drops++;
}

/* One frame into the chain that was popped. False: no more for now. */
static bool receive_frame(struct net_pair *pair, struct virtqueue *queue)
{
    struct net *net = pair->net;
    const struct virtqueue_chain *chain = &net->chain;
    if (chain->readable || chain->writable_bytes < VIRTIO_NET_HEADER_BYTES)
        return break_queue(net, queue, "a receive buffer has no room for a header");

    struct iovec parts[VIRTQUEUE_PARTS_MAX + 1];
    memcpy(parts, chain->parts, chain->writable * sizeof parts[0]);
    parts[chain->writable] =
        (struct iovec){.iov_base = net->overflow, .iov_len = sizeof net->overflow};
    ssize_t bytes = readv(pair->fd, parts, chain->writable + 1);
    if (bytes > 0) {
        take_frame(net, queue, (size_t)bytes);
        return !queue->guest.broken;
    }
    virtqueue_unpop(queue, chain);
    if (bytes == 0 || (errno != EAGAIN && errno != EINTR))
        lose_tap(net);
    return false;
}

static void receive(struct net_pair *pair)
{
    struct net *net = pair->net;
    unsigned number = pair->index * 2;
    struct virtqueue *queue = virtio_device_queue(net->device, number);
    pair->starved = !queue;
    for (unsigned frames = 0; queue && frames < FRAMES_PER_TURN; frames++) {
        enum virtqueue_pop popped = virtqueue_pop(queue, &net->chain);
        if (popped == VIRTQUEUE_EMPTY && virtqueue_rearm(queue))
            continue;
        pair->starved = popped == VIRTQUEUE_EMPTY;
        if (popped == VIRTQUEUE_BROKEN)
            virtio_device_needs_reset(net->device);
        if (popped != VIRTQUEUE_POPPED || !receive_frame(pair, queue))
            break;
    }
    if (queue && queue->guest.broken)
        virtio_device_needs_reset(net->device);
    virtio_device_push_done(net->device, number);
    update_watch(pair);
}

/* Sending */

/* False: the tap takes no more for now. */
static bool send_frame(struct net_pair *pair, struct virtqueue *queue)
{
    struct net *net = pair->net;
    const struct virtqueue_chain *chain = &net->chain;
    if (chain->readable_bytes < VIRTIO_NET_HEADER_BYTES)
        return break_queue(net, queue, "a frame is shorter than its header");

    if (net->unplugged) { /* into the air */
        net->stats.send_drops++;
        virtqueue_push(queue, chain, 0);
        return true;
    }
    ssize_t bytes;
    do {
        bytes = writev(pair->fd, chain->parts, chain->readable);
    } while (bytes < 0 && errno == EINTR);
    if (bytes < 0 && errno == EAGAIN) {
        virtqueue_unpop(queue, chain);
        pair->blocked = true;
        return false;
    }
    bool is_lost = bytes < 0 && (errno == EBADFD || errno == EBADF);
    if (bytes < 0) {
        net->stats.send_drops++; /* a header that means nothing, or a tap that is down */
    } else {
        net->stats.sent_frames++;
        net->stats.sent_bytes += chain->readable_bytes - VIRTIO_NET_HEADER_BYTES;
    }
    virtqueue_push(queue, chain, 0);
    if (is_lost)
        lose_tap(net);
    return !is_lost;
}

static void send_all(struct net_pair *pair)
{
    struct net *net = pair->net;
    unsigned number = pair->index * 2 + 1;
    struct virtqueue *queue = virtio_device_queue(net->device, number);
    if (!queue || !(net->has_tap || net->unplugged) || pair->index >= net->guest.active_pairs)
        return;
    pair->blocked = false;
    unsigned frames = 0;
    do {
        enum virtqueue_pop popped = VIRTQUEUE_POPPED;
        while (frames++ < FRAMES_PER_TURN &&
               (popped = virtqueue_pop(queue, &net->chain)) == VIRTQUEUE_POPPED) {
            if (!send_frame(pair, queue))
                break;
        }
        if (popped == VIRTQUEUE_BROKEN)
            virtio_device_needs_reset(net->device);
        if (popped != VIRTQUEUE_EMPTY)
            break; /* blocked, broken, or others' turn */
    } while (virtqueue_rearm(queue));
    virtio_device_push_done(net->device, number);
    update_watch(pair);
    if (frames > FRAMES_PER_TURN)
        io_loop_post(net->device->loop, &net->look);
}

static void tap_ready(void *data, uint32_t events)
{
    struct net_pair *pair = data;
    if (!virtio_device_is_live(pair->net->device)) {
        watch_pair(pair, false); /* it waits for its reset */
        return;
    }
    if (events & EPOLLOUT)
        send_all(pair);
    if (pair->net->has_tap && virtio_device_is_live(pair->net->device) && (events & EPOLLIN))
        receive(pair);
    else if (pair->net->has_tap && (events & (EPOLLERR | EPOLLHUP)))
        lose_tap(pair->net);
}

static void look_at_all(struct net *net)
{
    for (unsigned i = 0; i < net->guest.active_pairs; i++) {
        if (virtio_device_is_live(net->device))
            send_all(&net->pairs[i]);
    }
}

static void look(void *data)
{
    look_at_all(data);
}

/* Control */

static bool set_pairs(struct net *net, const uint8_t *argument, size_t count)
{
    uint16_t pairs = count == 2 ? bytes_get_u16(argument) : 0;
    if (!virtio_device_has(net->device, VIRTIO_NET_F_MQ) || pairs < 1 || pairs > net->guest.pairs)
        return false;
    net->guest.active_pairs = pairs;
    follow_guest(net);
    io_loop_post(net->device->loop, &net->look);
    return true;
}

static bool set_offloads(struct net *net, const uint8_t *argument, size_t count)
{
    uint64_t offloads = count == 8 ? bytes_get_u64(argument) : UINT64_MAX;
    if (!virtio_device_has(net->device, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) ||
        (offloads & ~(net->device->driver_features & OFFLOADS)) != 0)
        return false;
    net->guest.offloads = offloads;
    follow_guest(net);
    return true;
}

static bool run_command(struct net *net, uint8_t class, uint8_t command, const uint8_t *argument,
                        size_t count)
{
    switch (class << 8 | command) {
    case VIRTIO_NET_CTRL_MQ << 8 | VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET:
        return set_pairs(net, argument, count);
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS << 8 | VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET:
        return set_offloads(net, argument, count);
    case VIRTIO_NET_CTRL_ANNOUNCE << 8 | VIRTIO_NET_CTRL_ANNOUNCE_ACK:
        if (!virtio_device_has(net->device, VIRTIO_NET_F_GUEST_ANNOUNCE) || count != 0)
            return false;
        net->guest.announce = 0;
        return true;
    }
    return false;
}

static void control(struct net *net, unsigned number)
{
    struct virtqueue *queue = virtio_device_queue(net->device, number);
    enum virtqueue_pop popped = VIRTQUEUE_EMPTY;
    if (!queue)
        return;
    do {
        while ((popped = virtqueue_pop(queue, &net->chain)) == VIRTQUEUE_POPPED) {
            uint8_t command[COMMAND_BYTES_MAX];
            size_t count = virtqueue_chain_read(&net->chain, 0, command, sizeof command);
            if (count < 2 || net->chain.writable_bytes < 1) {
                (void)break_queue(net, queue, "a command has no header or no answer");
                return;
            }
            bool fine = net->chain.readable_bytes <= sizeof command &&
                        run_command(net, command[0], command[1], command + 2, count - 2);
            uint8_t answer = fine ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
            (void)virtqueue_chain_write(&net->chain, 0, &answer, 1);
            virtqueue_push(queue, &net->chain, 1);
        }
    } while (popped == VIRTQUEUE_EMPTY && virtqueue_rearm(queue));
    if (popped == VIRTQUEUE_BROKEN)
        virtio_device_needs_reset(net->device);
    virtio_device_push_done(net->device, number);
}

static void net_notify(struct virtio_device *device, unsigned queue)
{
    struct net *net = net_of(device);
    if (queue == control_queue(net)) {
        if (virtio_device_has(device, VIRTIO_NET_F_CTRL_VQ))
            control(net, queue);
        return;
    }
    if (queue / 2 >= net->guest.active_pairs)
        return;
    struct net_pair *pair = &net->pairs[queue / 2];
    if (queue % 2 == 1) {
        send_all(pair);
    } else if (pair->watch.slot && pair->starved) {
        pair->starved = false; /* the tap tells whether there is something */
        update_watch(pair);
    }
}

/* The device */

static void net_freep(struct net **net)
{
    free(*net);
    *net = NULL;
}

static void start_over(struct net *net)
{
    net->guest.active_pairs = 1;
    net->guest.announce = 0;
    net->guest.offloads = 0;
}

static int take_config(struct net *net, const struct vm_nic_config *config, struct fault *fault)
{
    if (config->queue_pairs < 1 || config->queue_pairs > VIRTIO_NET_PAIRS_MAX)
        return fault_set(fault, ERR_INVALID, "nic %u with %u queue pairs: 1 to %d are possible",
                         net->device->instance, config->queue_pairs, VIRTIO_NET_PAIRS_MAX);
    if (config->mtu && config->mtu < VIRTIO_NET_MTU_MIN)
        return fault_set(fault, ERR_INVALID, "nic %u with an MTU of %u: at least %d",
                         net->device->instance, config->mtu, VIRTIO_NET_MTU_MIN);
    if (config->mac[0] & 1)
        return fault_set(fault, ERR_INVALID, "nic %u: a card's MAC is no group's",
                         net->device->instance);
    memcpy(net->guest.mac, config->mac, sizeof net->guest.mac);
    net->guest.mtu = config->mtu;
    net->guest.pairs = (uint16_t)config->queue_pairs;
    net->guest.link_up = !config->unplugged;
    net->unplugged = config->unplugged;
    start_over(net);
    return 0;
}

static int net_create(struct virtio_device *device, const struct vm_config *config,
                      struct fault *fault)
{
    AUTO(net_freep) struct net *net = calloc(1, sizeof *net);
    if (!net)
        return fault_set(fault, ERR_NOMEM, "no memory for a network card");
    net->device = device;
    for (unsigned i = 0; i < VIRTIO_NET_PAIRS_MAX; i++) {
        struct net_pair *pair = &net->pairs[i];
        *pair = (struct net_pair){
            .net = net,
            .index = i,
            .fd = -1,
            .watch = {.class = IO_WATCH_SOURCE, .ready = tap_ready, .data = pair},
        };
    }
    net->look = (struct io_job){.run = look, .data = net};
    net->keeps_mac = config->keeps_macs;
    int r = take_config(net, &config->nics[device->instance], fault);
    if (r < 0)
        return r;
    device->features = FEATURES | (net->guest.mtu ? VIRTIO_FEATURE(VIRTIO_NET_F_MTU) : 0) |
                       (net->guest.pairs > 1 ? VIRTIO_FEATURE(VIRTIO_NET_F_MQ) : 0);
    device->queue_count = 2U * net->guest.pairs + 1;
    device->queue_size = VIRTQUEUE_SIZE_MAX;
    device->config_bytes = CONFIG_BYTES;
    device->state = TAKE(net);
    return 0;
}

static void net_destroy(struct virtio_device *device)
{
    struct net *net = net_of(device);
    if (!net)
        return;
    io_loop_cancel(device->loop, &net->look);
    close_tap(net);
    free(net);
    device->state = NULL;
}

static void net_config_read(struct virtio_device *device, unsigned offset, uint8_t *bytes,
                            unsigned count)
{
    const struct virtio_net_guest *guest = &net_of(device)->guest;
    uint8_t image[CONFIG_BYTES];
    memcpy(image, guest->mac, sizeof guest->mac);
    bytes_put_u16(image + CONFIG_STATUS, (uint16_t)((guest->link_up ? VIRTIO_NET_S_LINK_UP : 0) |
                                                    (guest->announce ? VIRTIO_NET_S_ANNOUNCE : 0)));
    bytes_put_u16(image + CONFIG_PAIRS, guest->pairs);
    bytes_put_u16(image + CONFIG_MTU, guest->mtu);
    memcpy(bytes, image + offset, count);
}

static void net_activate(struct virtio_device *device)
{
    struct net *net = net_of(device);
    start_over(net);
    net->guest.offloads = device->driver_features & OFFLOADS;
    follow_guest(net);
}

static void net_reset(struct virtio_device *device)
{
    struct net *net = net_of(device);
    start_over(net);
    net->announce_due = false;
    follow_guest(net);
}

/* The transport has marked every queue anew: none is known to be empty. */
static void net_go_on(struct virtio_device *device)
{
    struct net *net = net_of(device);
    for (unsigned i = 0; i < net->guest.active_pairs; i++) {
        net->pairs[i].starved = false;
        update_watch(&net->pairs[i]);
    }
}

const struct virtio_kind virtio_net_kind = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .pci_class = PCI_CLASS_NETWORK,
    .instances = net_instances,
    .create = net_create,
    .destroy = net_destroy,
    .config_read = net_config_read,
    .activate = net_activate,
    .notify = net_notify,
    .reset = net_reset,
    .go_on = net_go_on,
};

/* State */

void virtio_net_capture(const struct virtio_device *device, struct virtio_net_guest *ret_guest)
{
    *ret_guest = net_of(device)->guest;
}

int virtio_net_revive(struct virtio_device *device, const struct virtio_net_guest *guest,
                      struct fault *fault)
{
    struct net *net = net_of(device);
    bool is_same = memcmp(guest->mac, net->guest.mac, sizeof guest->mac) == 0;
    if (!(is_same || net->keeps_mac) || guest->mtu != net->guest.mtu ||
        guest->pairs != net->guest.pairs)
        return fault_set(fault, ERR_CORRUPT, "nic %u is another one: MAC, MTU or queues differ",
                         device->instance);
    uint8_t mac[VIRTIO_NET_MAC_BYTES];
    memcpy(mac, net->guest.mac, sizeof mac);
    net->guest = *guest;
    net->announce_due = virtio_device_is_live(device);
    if (net->keeps_mac) {
        memcpy(net->guest.mac, mac, sizeof mac);
        set_link(net, !net->unplugged); /* the twin's cable is not ours */
    }
    follow_guest(net);
    ask_to_announce(net);
    if (net->unplugged)
        io_loop_post(device->loop, &net->look); /* what was about to be sent */
    return 0;
}

/* clang-format off */
#define NET_FIELDS(X)                                                                              \
    X(mtu, UINT16_MAX) X(pairs, VIRTIO_NET_PAIRS_MAX) X(active_pairs, VIRTIO_NET_PAIRS_MAX)        \
    X(link_up, 1) X(announce, 1) X(offloads, OFFLOADS)
/* clang-format on */

int virtio_net_save(const struct virtio_net_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    Godwit__VirtioNetStateV1 state = GODWIT__VIRTIO_NET_STATE_V1__INIT;
    uint8_t mac[VIRTIO_NET_MAC_BYTES];
    memcpy(mac, guest->mac, sizeof mac);
    STATE_PUT(&state, mac, ((ProtobufCBinaryData){.data = mac, .len = sizeof mac}));
#define SAVE_FIELD(field, max) STATE_PUT(&state, field, guest->field);
    NET_FIELDS(SAVE_FIELD)
#undef SAVE_FIELD
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int virtio_net_load(struct virtio_net_guest *ret_guest, const uint8_t *bytes, size_t count,
                    struct fault *fault)
{
    struct state_reader reader = {.section = "virtio_net", .fault = fault};
    struct virtio_net_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__virtio_net_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__VirtioNetStateV1 *in = (const Godwit__VirtioNetStateV1 *)message;
    if (state_reader_check(&reader, in->has_mac && in->mac.len == sizeof guest.mac, "mac",
                           "is missing or no MAC"))
        memcpy(guest.mac, in->mac.data, sizeof guest.mac);
#define LOAD_FIELD(field, max) STATE_TAKE_MAX(&reader, in, field, guest.field, max);
    NET_FIELDS(LOAD_FIELD)
#undef LOAD_FIELD
    (void)state_reader_check(&reader, guest.active_pairs >= 1 && guest.active_pairs <= guest.pairs,
                             "active_pairs", "is none that the card has");
    (void)state_reader_check(&reader, (guest.offloads & ~OFFLOADS) == 0, "offloads",
                             "has bits that are none");
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

static int capture_row(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    virtio_net_capture(virtio_bus_find(&vm->virtio, &virtio_net_kind, instance),
                       &vm->guest->nics[instance]);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    return virtio_net_save(&machine->nics[instance], ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    return virtio_net_load(&machine->nics[instance], bytes, count, fault);
}

static int revive_row(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                      struct fault *fault)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_net_revive(virtio_bus_find(&vm->virtio, &virtio_net_kind, instance),
                              &machine->nics[instance], fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

const struct device virtio_net_device = {
    .name = "virtio_net",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .instances = net_instances,
    .capture = capture_row,
    .save = save_row,
    .load = load_row,
    .revive = revive_row,
};
