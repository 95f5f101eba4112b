/* A guest that means harm, at every register of PCI and virtio and in its rings, also while it
 * moves. The input is a list of what the guest does; honest set-ups among it make the rest go deep.
 *
 * Whatever happens: nothing crashes, every byte that a device changed in guest memory is marked as
 * written (a move would lose it otherwise), and what is saved loads, and saves to the same bytes.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_ids.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/disk.h"
#include "tests/support/fake_disk.h"
#include "tests/support/fake_io_loop.h"
#include "tests/support/ring_driver.h"
#include "vmm-core/dev_virtio_balloon.h"
#include "vmm-core/dev_virtio_blk.h"
#include "vmm-core/dev_virtio_net.h"
#include "vmm-core/dev_virtio_vsock.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/io_loop.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/virtio_bus.h"
#include "vmm-core/virtio_pci.h"
#include "vmm-core/vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

enum {
    PLAY_BYTES = 384 << 10, /* where rings and buffers lie */
    PLAY_PAGES = PLAY_BYTES / PAGE_BYTES,
    RINGS = 0x10000,
    BUFFERS = 0x50000,
    STEPS_MAX = 200,
    QUEUES = 4, /* of a device, at most, that are set up */
    CALLERS_MAX = 4,
    CID = 42,
};

struct input {
    const uint8_t *bytes;
    size_t count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mmio mmio;
static struct pci_bus pci;
static struct virtio_bus virtio;
static struct io_loop *loop;
static struct guest_memory *memory;
static struct disk *disks[2];
static struct bitmap dirty;
static uint8_t shadow[PLAY_BYTES];
static struct ring_driver rings[VIRTIO_FUNCTIONS_MAX][QUEUES];
static int tap; /* its far end */
static struct sockaddr_un vsock_address;
static int callers[CALLERS_MAX]; /* of the vsock; 0: none */
static struct machine_guest saved;

static void must(bool claim)
{
    if (!claim)
        abort();
}

static void on_message(void *data, uint64_t address, uint32_t value)
{
    (void)data;
    (void)value;
    must((address & ~UINT64_C(0xfffff)) == LAYOUT_LAPIC);
}

static bool on_doorbell(void *data, uint64_t address, int fd, bool bind)
{
    (void)data;
    (void)fd;
    (void)bind;
    must(address >= LAYOUT_PCI_MMIO_START && address < LAYOUT_ECAM_START);
    return true;
}

static void on_drain(void *data)
{
    virtio_bus_drain(data);
}

static bool on_is_quiet(void *data)
{
    return virtio_bus_is_quiet(data);
}

static void on_go_on(void *data)
{
    virtio_bus_go_on(data);
}

/* The card's tap is a socket that keeps frames apart, and says yes to whatever a tap is asked. */
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
    (void)fd;
    if (request == TUNGETIFF) {
        va_list arguments;
        va_start(arguments, request);
        struct ifreq *answer = va_arg(arguments, struct ifreq *);
        va_end(arguments);
        answer->ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
    }
    return 0;
}

static void give_nic_its_tap(void)
{
    int pair[2];
    must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    int fds[] = {pair[0], fcntl(pair[0], F_DUPFD_CLOEXEC, 0)};
    tap = pair[1];
    must(virtio_net_attach(virtio_bus_find(&virtio, &virtio_net_kind, 0), fds, 2, NULL) == 0);
}

static void give_vsock_its_listener(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t bytes = sizeof vsock_address;
    vsock_address.sun_family = AF_UNIX;
    must(bind(fd, (const struct sockaddr *)&vsock_address, sizeof(sa_family_t)) == 0);
    must(listen(fd, 16) == 0);
    must(getsockname(fd, (struct sockaddr *)&vsock_address, &bytes) == 0);
    must(virtio_vsock_attach(virtio_bus_find(&virtio, &virtio_vsock_kind, 0), fd, NULL) == 0);
}

static void make_machine(void)
{
    static const struct virtio_pci_host_ops ops = {.message = on_message, .doorbell = on_doorbell};
    static const struct vm_disk_config disk_configs[] = {
        {.fd = -1, .bytes = FAKE_DISK_BYTES, .queues = 2, .serial = "fuzz"},
        {.fd = -1, .bytes = FAKE_DISK_BYTES, .queues = 1, .read_only = true},
    };
    static const struct vm_nic_config nic_configs[] = {
        {.fds = {-1}, .queue_pairs = 2, .mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500}};
    static const struct vm_config config = {.vcpus = 2,
                                            .console = true,
                                            .rng = true,
                                            .balloon = true,
                                            .vsock_cid = CID,
                                            .disks = disk_configs,
                                            .disk_count = 2,
                                            .nics = nic_configs,
                                            .nic_count = 1};
    static const struct machine_shape shape = {.vcpus = 2,
                                               .console = true,
                                               .rng = true,
                                               .balloon = true,
                                               .vsock = true,
                                               .disks = 2,
                                               .nics = 1};
    const struct io_loop_config loop_config = {.lock = &lock,
                                               .data = &virtio,
                                               .drain = on_drain,
                                               .is_quiet = on_is_quiet,
                                               .go_on = on_go_on};
    must(io_loop_new(&loop, &loop_config, NULL) == 0);
    must(guest_memory_new(&memory, MIB(16), false, NULL) == 0);
    must(bitmap_init(&dirty, guest_memory_pages(memory)) == 0);
    pci_bus_init(&pci, &mmio);
    const struct virtio_pci_host host = {.ops = &ops, .memory = memory, .loop = loop};
    must(virtio_bus_init(&virtio, &shape, &host, &config, &pci, NULL) == 0);
    for (unsigned i = 0; i < 2; i++) {
        must(disk_new(&disks[i], -1, &(struct disk_config){.read_only = i == 1}, NULL) == 0);
        must(virtio_blk_attach(virtio_bus_find(&virtio, &virtio_blk_kind, i), disks[i], NULL) == 0);
    }
    give_nic_its_tap();
    give_vsock_its_listener();
}

static uint64_t take(struct input *input, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && input->count; i++, input->count--)
        value = value << 8 | *input->bytes++;
    return value;
}

static void check_marks(void)
{
    const uint8_t *base = guest_memory_base(memory);
    bitmap_clear_all(&dirty);
    guest_memory_take_written(memory, &dirty);
    for (uint64_t page = 0; page < PLAY_PAGES; page++) {
        const uint8_t *now = base + page * PAGE_BYTES;
        uint8_t *then = shadow + page * PAGE_BYTES;
        if (memcmp(now, then, PAGE_BYTES) == 0)
            continue;
        must(bitmap_test(&dirty, page));
        memcpy(then, now, PAGE_BYTES);
    }
}

/* What the guest itself wrote KVM sees: not ours to mark. Devices are checked before it. */
static void guest_wrote(void)
{
    memcpy(shadow, guest_memory_base(memory), PLAY_BYTES);
}

static uint64_t address_of(struct input *input)
{
    uint64_t what = take(input, 1);
    const struct virtio_pci *function = virtio.functions[what / 8 % virtio.count];
    uint64_t offset = take(input, 2);
    switch (what % 8) {
    case 0:
        return LAYOUT_ECAM_START + (offset & 0xffff) + ((what / 8 & 3) << 15);
    case 1:
        return function->function.guest.bars[1] + offset % 0x1010;
    case 2:
        return LAYOUT_PCI_MMIO_START + offset * 4;
    case 3:
        return function->function.guest.bars[0] + VIRTIO_PCI_DEVICE + offset % 70;
    default:
        return function->function.guest.bars[0] + offset % 0x40; /* the richest registers */
    }
}

static unsigned width_of(struct input *input)
{
    static const uint8_t widths[] = {1, 2, 4, 8, 4, 2, 3, 5};
    return widths[take(input, 1) % 8];
}

static void write_register(uint64_t address, uint64_t value, unsigned count)
{
    uint8_t bytes[8];
    bytes_put_u64(bytes, value);
    mmio_write(&mmio, address, bytes, count);
}

static void access_register(struct input *input, bool write)
{
    uint64_t address = address_of(input);
    unsigned count = width_of(input);
    uint8_t bytes[8] = {0};
    if (write)
        write_register(address, take(input, count), count);
    else
        mmio_read(&mmio, address, bytes, count);
}

static void access_port(struct input *input)
{
    uint8_t bytes[4];
    uint64_t what = take(input, 1);
    uint16_t port = (uint16_t)(LAYOUT_PORT_PCI_ADDRESS + what % 8);
    unsigned count = 1U << (what / 8 % 3);
    bytes_put_u32(bytes, (uint32_t)take(input, 4) | (what & 0x80 ? 0x80000000 : 0));
    if (what & 0x40)
        pci_bus_port_write(&pci, port, bytes, count);
    else
        pci_bus_port_read(&pci, port, bytes, count);
}

/* What an honest driver does first. */
static void set_up_device(struct input *input)
{
    unsigned index = (unsigned)take(input, 1) % virtio.count;
    uint64_t choice = take(input, 2);
    struct virtio_pci *function = virtio.functions[index];
    uint64_t config = LAYOUT_ECAM_START + ((uint64_t)(index + 1) << 15);
    write_register(config + 0x10, function->function.bar_places[0], 4);
    write_register(config + 0x14, function->function.bar_places[1], 4);
    write_register(config + PCI_COMMAND, 6, 2);
    write_register(config + function->function.msix_offset + 2, 0x8000, 2);
    uint64_t bar = function->function.guest.bars[0];
    write_register(bar + 0x14, 0, 1);
    fake_io_loop_turn(loop, true); /* a reset may take a while */
    check_marks();
    write_register(bar + 0x14, 3, 1);
    uint64_t features = (function->device.features | VIRTIO_FEATURES_OF_TRANSPORT) &
                        ~(choice & 1 ? VIRTIO_FEATURE(VIRTIO_F_RING_PACKED) : 0) &
                        ~(choice & 2 ? VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX) : 0) &
                        ~(choice & 4 ? VIRTIO_FEATURE(9) : 0);
    for (unsigned i = 0; i < 2; i++) {
        write_register(bar + 8, i, 4);
        write_register(bar + 12, features >> (i * 32) & UINT32_MAX, 4);
    }
    write_register(bar + 0x14, 11, 1);
    for (unsigned i = 0; i < QUEUES && i < function->device.queue_count; i++) {
        struct virtqueue queue;
        uint16_t size = (uint16_t)(1U << (choice >> 4 & 7));
        ring_driver_init(&rings[index][i], memory,
                         RINGS + (uint64_t)(index % 2 * QUEUES + i) * RING_DRIVER_AREA, size,
                         features, &queue);
        write_register(bar + 0x16, i, 2);
        write_register(bar + 0x18, size, 2);
        write_register(bar + 0x1a, i + 1, 2);
        write_register(bar + 0x20, queue.guest.descriptors, 8);
        write_register(bar + 0x28, queue.guest.driver, 8);
        write_register(bar + 0x30, queue.guest.device, 8);
        write_register(bar + 0x1c, 1, 2);
    }
    write_register(bar + 0x14, 15, 1);
    guest_wrote(); /* it cleared its rings */
}

static void shape_vsock(struct input *input, uint8_t *header)
{
    bytes_put_u64(header, CID);
    bytes_put_u64(header + 8, VIRTIO_VSOCK_HOST_CID);
    bytes_put_u32(header + 16, (uint32_t)take(input, 1) % 4);
    bytes_put_u32(header + 20, (1 << 30) + (uint32_t)take(input, 1) % 8);
    bytes_put_u32(header + 24, (uint32_t)take(input, 1) * 4);
    bytes_put_u16(header + 28, 1);
    bytes_put_u16(header + 30, (uint16_t)(take(input, 1) % 9));
    bytes_put_u32(header + 32, (uint32_t)take(input, 1) & 3);
    bytes_put_u32(header + 36, (uint32_t)take(input, 1) << 6);
    bytes_put_u32(header + 40, (uint32_t)take(input, 1));
}

/* What each kind expects first. Returns how many bytes of it. */
static uint32_t shape_header(struct input *input, uint16_t kind, unsigned queue, uint8_t *header)
{
    static const uint8_t types[] = {0, 1, 4, 8, 11, 13, 0, 1};
    memset(header, 0, 44);
    switch (kind) {
    case VIRTIO_ID_BLOCK:
        header[0] = types[take(input, 1) % 8];
        header[8] = (uint8_t)take(input, 1) % 130;
        return 16;
    case VIRTIO_ID_VSOCK:
        shape_vsock(input, header);
        return 44;
    case VIRTIO_ID_BALLOON:
        for (unsigned i = 0; i < 4; i++)
            bytes_put_u32(header + i * 4, (uint32_t)take(input, 1));
        return 16;
    case VIRTIO_ID_NET:
        if (queue % 2 == 1)
            return 12;
        header[0] = (uint8_t)take(input, 1) % 6;
        header[1] = (uint8_t)take(input, 1) % 2;
        header[2] = (uint8_t)take(input, 1) % 3;
        return 2 + (uint32_t)take(input, 1) % 9;
    }
    return 16;
}

/* A request that is nearly right. */
static void offer_request(struct input *input)
{
    unsigned index = (unsigned)take(input, 1) % virtio.count;
    uint64_t choice = take(input, 1);
    unsigned which = choice % QUEUES;
    bool all_writable = choice / QUEUES % 2;
    struct ring_driver *ring = &rings[index][which];
    struct ring_buffer buffers[6];
    unsigned count = 1 + (unsigned)take(input, 1) % 5;
    for (unsigned i = 0; i < count; i++) {
        uint64_t kind = take(input, 1);
        buffers[i].address = BUFFERS + (take(input, 2) & 0xffff) * 4 % (PLAY_BYTES - BUFFERS);
        buffers[i].bytes = kind & 1 ? (uint32_t)(kind / 16 + 1) * 512 : (uint32_t)(kind / 16 + 1);
        buffers[i].is_writable =
            all_writable || (i > 0 && (kind & 2 || buffers[i - 1].is_writable));
    }
    if (ring->size == 0 || ring->free_slots < count)
        return;
    uint8_t *header = guest_memory_at(memory, buffers[0].address, 44);
    if (header && !all_writable) {
        uint32_t bytes =
            shape_header(input, virtio.functions[index]->device.kind->id, which, header);
        if (count > 1)
            buffers[0].bytes = bytes;
    }
    (void)ring_driver_offer(ring, buffers, count, take(input, 1) & 1);
    guest_wrote();
    struct virtio_pci *function = virtio.functions[index];
    write_register(function->function.guest.bars[0] + VIRTIO_PCI_NOTIFY + which * 4, which, 2);
}

static void scribble(struct input *input)
{
    uint64_t at = take(input, 3) % (PLAY_BYTES - 16);
    unsigned count = (unsigned)take(input, 1) % 17;
    for (unsigned i = 0; i < count; i++)
        guest_memory_base(memory)[at + i] = (uint8_t)take(input, 1);
    guest_wrote();
}

static void take_back(struct input *input)
{
    uint16_t id;
    uint32_t bytes;
    struct ring_driver *ring = &rings[take(input, 1) % virtio.count][take(input, 1) % QUEUES];
    if (ring->size)
        (void)ring_driver_take(ring, &id, &bytes);
    guest_wrote();
}

static void check_bytes(const struct virtio_pci_guest *guest)
{
    static struct virtio_pci_guest loaded;
    AUTO_FREE uint8_t *first = NULL;
    AUTO_FREE uint8_t *second = NULL;
    size_t first_count = 0, second_count = 0;
    must(virtio_pci_save(guest, &first, &first_count) == 0);
    memset(&loaded, 0xa5, sizeof loaded);
    must(virtio_pci_load(&loaded, first, first_count, NULL) == 0);
    must(virtio_pci_save(&loaded, &second, &second_count) == 0);
    must(first_count == second_count && memcmp(first, second, first_count) == 0);
}

/* Frames from the network, callers of the vsock, an operator. */
static void outside(struct input *input)
{
    static uint8_t bytes[4096];
    uint64_t what = take(input, 1);
    size_t count = take(input, 2) % sizeof bytes;
    unsigned caller = what / 8 % CALLERS_MAX;
    switch (what % 5) {
    case 0:
        (void)!send(tap, bytes, count, 0); /* a full tap drops, as taps do */
        while (recv(tap, bytes, sizeof bytes, 0) > 0) {
        }
        break;
    case 1:
        if (!callers[caller]) {
            callers[caller] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
            (void)connect(callers[caller], (const struct sockaddr *)&vsock_address,
                          offsetof(struct sockaddr_un, sun_path) + 6);
            (void)!write(callers[caller], "CONNECT 1\n", 10);
        }
        break;
    case 2:
        if (callers[caller])
            (void)!send(callers[caller], bytes, count, MSG_NOSIGNAL);
        break;
    case 3:
        if (callers[caller])
            (void)close(callers[caller]);
        callers[caller] = 0;
        break;
    case 4:
        (void)virtio_balloon_set_target(virtio_bus_find(&virtio, &virtio_balloon_kind, 0),
                                        count << 12, NULL);
        break;
    }
}

static void end_callers(void)
{
    for (unsigned i = 0; i < CALLERS_MAX; i++) {
        if (callers[i])
            (void)close(callers[i]);
        callers[i] = 0;
    }
}

/* To itself: what was saved is a state that this machine can have. */
static void move(void)
{
    must(io_loop_pause(loop, UINT64_MAX));
    check_marks();
    for (unsigned i = 0; i < virtio.count; i++) {
        virtio_pci_capture(virtio.functions[i], &saved.virtio[i]);
        check_bytes(&saved.virtio[i]);
        struct fault fault = {0};
        /* A ring that the guest placed where there is none is the one thing that may not load: it
         * was broken when it was enabled, and says so. */
        must(virtio_pci_revive(virtio.functions[i], &saved.virtio[i], &fault) == 0);
        struct virtio_pci_guest again;
        virtio_pci_capture(virtio.functions[i], &again);
        must(memcmp(&again, &saved.virtio[i], sizeof again) == 0);
    }
    struct virtio_device *nic = virtio_bus_find(&virtio, &virtio_net_kind, 0);
    struct virtio_device *balloon = virtio_bus_find(&virtio, &virtio_balloon_kind, 0);
    struct virtio_device *vsock = virtio_bus_find(&virtio, &virtio_vsock_kind, 0);
    virtio_net_capture(nic, &saved.nics[0]);
    virtio_balloon_capture(balloon, &saved.balloon);
    virtio_vsock_capture(vsock, &saved.vsock);
    must(virtio_net_revive(nic, &saved.nics[0], NULL) == 0);
    virtio_balloon_revive(balloon, &saved.balloon);
    must(virtio_vsock_revive(vsock, &saved.vsock, NULL) == 0);
    pci_bus_capture(&pci, &saved.pci);
    pci_bus_revive(&pci, &saved.pci);
    io_loop_resume(loop);
}

static void step(struct input *input)
{
    switch (take(input, 1) % 16) {
    case 0:
        set_up_device(input);
        break;
    case 1:
    case 2:
        offer_request(input);
        break;
    case 3:
    case 4:
        access_register(input, true);
        break;
    case 5:
        access_register(input, false);
        break;
    case 6:
        access_port(input);
        break;
    case 7:
        scribble(input);
        break;
    case 8:
        take_back(input);
        break;
    case 9:
        move();
        break;
    case 14:
    case 15:
        outside(input);
        break;
    case 10:
        fake_disk_fail_next = (unsigned)take(input, 1) % 3;
        break;
    case 11:
        fake_io_loop_turn(loop, true);
        break;
    default:
        fake_io_loop_turn(loop, false);
        break;
    }
    check_marks();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    if (!loop)
        make_machine();
    struct input input = {.bytes = bytes, .count = count};
    must(io_loop_pause(loop, UINT64_MAX));
    end_callers();
    virtio_bus_reset(&virtio);
    pci_bus_reset(&pci);
    memset(guest_memory_base(memory), 0, PLAY_BYTES);
    memset(rings, 0, sizeof rings);
    fake_disk_fail_next = 0;
    for (unsigned i = 0; i < 2; i++)
        fake_disk_fill(disks[i]);
    guest_wrote();
    io_loop_resume(loop);
    for (unsigned i = 0; i < STEPS_MAX && input.count; i++)
        step(&input);
    return 0;
}
