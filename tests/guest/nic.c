/* A window of numbers is on its way. Each has a place in a ring that says whether it is awaited, so
 * that a second echo, a lost frame and one out of order can be told apart. A window that nothing
 * moves for GIVE_UP_NS is given up: its frames count as lost, and an echo that comes later as
 * doubled. */
#include "nic.h"

#include "clock.h"
#include "interrupt.h"
#include "machine.h"
#include "mix.h"
#include "option.h"
#include "record.h"
#include "vcpu.h"
#include "virtio.h"

enum {
    HEADER_BYTES = 12,
    BUFFER_BYTES = 2048,
    BUFFERS = 64,
    WINDOW = 32,
    NUMBERS = 1024, /* places; more than a window, a power of two */
    ETHER_BYTES = 14,
    STAMP_BYTES = 32,
    CONFIG_MAC = 0,
    CONFIG_STATUS = 6,
    CONFIG_PAIRS = 8,
    STATUS_LINK_UP = 1,
    STATUS_ANNOUNCE = 2,
    CONTROL_ANNOUNCE = 3,
    VECTOR = INTERRUPT_VECTOR_FIRST + 4,
    STEP_TAKES_MAX = 16,
    FRAMES_PER_STEP = 4,
};

#define F_MAC (UINT64_C(1) << 5)
#define F_MRG_RXBUF (UINT64_C(1) << 15)
#define F_STATUS (UINT64_C(1) << 16)
#define F_CTRL_VQ (UINT64_C(1) << 17)
#define F_ANNOUNCE (UINT64_C(1) << 21)
#define F_MQ (UINT64_C(1) << 22)
#define GIVE_UP_NS UINT64_C(20000000000) /* beyond any pause of a busy machine */
#define LOOK_NS UINT64_C(50000000) /* each look at the configuration is an exit */

static struct {
    bool there, on;
    struct virtio device;
    struct virtio_ring receive, transmit, control;
    bool has_control;
    uint8_t mac[6];
    uint8_t in[BUFFERS][BUFFER_BYTES] __attribute__((aligned(4096)));
    uint8_t out[BUFFERS][BUFFER_BYTES] __attribute__((aligned(4096)));
    bool out_busy[BUFFERS];
    uint8_t command[2], answer;
    bool command_busy;
    uint16_t buffers;
    uint64_t seed, next, highest;
    uint64_t awaited[NUMBERS]; /* the number that is awaited at its place; 0: none */
    uint32_t window;
    uint64_t interval_ticks, next_tsc, moved_tsc, look_tsc;
    uint64_t seen_interrupts;
    struct nic_numbers numbers;
} nic;

static void put32(uint8_t *at, uint32_t value)
{
    for (uint32_t i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> i * 8);
}

static void put64(uint8_t *at, uint64_t value)
{
    put32(at, (uint32_t)value);
    put32(at + 4, (uint32_t)(value >> 32));
}

static uint32_t get32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t get64(const uint8_t *at)
{
    return get32(at) | (uint64_t)get32(at + 4) << 32;
}

static uint32_t frame_bytes(uint64_t number)
{
    uint64_t spread = NIC_FRAME_MAX - NIC_FRAME_MIN + 1;

    return NIC_FRAME_MIN + (uint32_t)((mix64(number ^ nic.seed) >> 32) * spread >> 32);
}

static uint8_t frame_byte(uint64_t word, uint32_t at)
{
    return (uint8_t)(word >> at % 8 * 8);
}

static uint64_t fill_body(uint8_t *body, uint32_t bytes, uint64_t number)
{
    uint64_t sum = number, word = 0;

    for (uint32_t i = 0; i < bytes; i++) {
        if (i % 8 == 0)
            word = mix64(number << 16 ^ nic.seed ^ i);
        body[i] = frame_byte(word, i);
        sum = (sum << 5 | sum >> 59) ^ body[i];
    }
    return mix64(sum);
}

static uint32_t make_frame(uint8_t *frame, uint64_t number)
{
    uint32_t bytes = frame_bytes(number);
    uint8_t *stamp = frame + ETHER_BYTES;

    for (uint32_t i = 0; i < 6; i++) {
        frame[i] = 0xff;
        frame[6 + i] = nic.mac[i];
    }
    frame[12] = NIC_ETHERTYPE >> 8;
    frame[13] = NIC_ETHERTYPE & 0xff;
    put32(stamp, NIC_MAGIC);
    put32(stamp + 4, bytes);
    put64(stamp + 8, number);
    put64(stamp + 16, nic.seed);
    put64(stamp + 24, fill_body(stamp + STAMP_BYTES, bytes - ETHER_BYTES - STAMP_BYTES, number));
    return bytes;
}

static bool body_holds(const uint8_t *body, uint32_t bytes, uint64_t number, uint64_t want)
{
    uint64_t sum = number, word = 0;

    for (uint32_t i = 0; i < bytes; i++) {
        if (i % 8 == 0)
            word = mix64(number << 16 ^ nic.seed ^ i);
        if (body[i] != frame_byte(word, i))
            return false;
        sum = (sum << 5 | sum >> 59) ^ body[i];
    }
    return mix64(sum) == want;
}

static bool frame_holds(const uint8_t *frame, uint32_t bytes, uint64_t number)
{
    const uint8_t *stamp = frame + ETHER_BYTES;

    return get32(stamp) == NIC_MAGIC && get32(stamp + 4) == bytes &&
           get64(stamp + 16) == nic.seed && bytes == frame_bytes(number) &&
           body_holds(stamp + STAMP_BYTES, bytes - ETHER_BYTES - STAMP_BYTES, number,
                      get64(stamp + 24));
}

static void note_echo(uint64_t number)
{
    uint64_t *place = &nic.awaited[number % NUMBERS];
    uint64_t now = machine_tsc();

    if (*place != number) {
        nic.numbers.doubled++;
        return;
    }
    *place = 0;
    nic.window--;
    nic.numbers.echoed++;
    nic.numbers.reordered += number < nic.highest;
    if (number > nic.highest)
        nic.highest = number;

    uint64_t gap_ns = clock_ns(now - nic.moved_tsc);

    if (gap_ns > nic.numbers.gap_ns)
        nic.numbers.gap_ns = gap_ns;
    nic.moved_tsc = now;
}

static void receive_frame(const uint8_t *frame, uint32_t bytes)
{
    if (bytes < NIC_FRAME_MIN || frame[12] != NIC_ETHERTYPE >> 8 ||
        frame[13] != (NIC_ETHERTYPE & 0xff)) {
        nic.numbers.foreign++;
        return;
    }

    uint64_t number = get64(frame + ETHER_BYTES + 8);

    if (frame_holds(frame, bytes, number))
        note_echo(number);
    else
        nic.numbers.corrupt++;
}

static void offer_buffer(uint16_t index)
{
    struct virtio_part part = {nic.in[index], BUFFER_BYTES, true};

    virtio_offer(&nic.receive, index, &part, 1);
}

static void take_received(uint32_t most)
{
    uint16_t index;
    uint32_t bytes;

    if (nic.receive.vector) {
        uint64_t count = interrupt_count(nic.receive.vector);

        if (count == nic.seen_interrupts)
            return;
        nic.seen_interrupts = count;
        most = UINT32_MAX;
    }
    do {
        while (most && virtio_take(&nic.receive, &index, &bytes)) {
            if (index >= nic.buffers || bytes < HEADER_BYTES || bytes > BUFFER_BYTES) {
                nic.numbers.corrupt++;
                continue;
            }
            receive_frame(nic.in[index] + HEADER_BYTES, bytes - HEADER_BYTES);
            offer_buffer(index);
            most--;
        }
    } while (most && nic.receive.vector && virtio_rearm(&nic.receive));
    virtio_kick(&nic.receive);
}

static void take_sent(void)
{
    uint16_t index;
    uint32_t bytes;

    while (virtio_take(&nic.transmit, &index, &bytes)) {
        if (index < nic.buffers)
            nic.out_busy[index] = false;
    }
}

static void complain(const char *what)
{
    struct record record;

    record_begin(&record, "error");
    record_text(&record, "nic", what);
    record_end(&record);
}

static bool begin_rings(void)
{
    uint32_t pairs =
        nic.device.features & F_MQ ? virtio_config_read(&nic.device, CONFIG_PAIRS, 2) : 1;

    if (!virtio_add_ring(&nic.device, &nic.receive, 0, true) ||
        !virtio_add_ring(&nic.device, &nic.transmit, 1, false))
        return false;
    nic.has_control = nic.device.features & F_CTRL_VQ &&
                      virtio_add_ring(&nic.device, &nic.control, (uint16_t)(2 * pairs), false);
    nic.buffers =
        nic.receive.requests < nic.transmit.requests ? nic.receive.requests : nic.transmit.requests;
    if (nic.buffers > BUFFERS)
        nic.buffers = BUFFERS;
    return true;
}

void nic_init(const struct options *options)
{
    if (!options->nic)
        return;

    uint64_t wanted =
        F_MAC | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_ANNOUNCE | F_MQ | options->ring_features;

    if (!virtio_begin(&nic.device, VIRTIO_DEVICE_NET, 0, wanted,
                      options->use_interrupts ? VECTOR : 0) ||
        !begin_rings()) {
        complain("none");
        return;
    }
    for (uint32_t i = 0; i < 6; i++)
        nic.mac[i] = (uint8_t)virtio_config_read(&nic.device, CONFIG_MAC + i, 1);
    nic.seed = options->seed;
    nic.next = 1;
    virtio_go(&nic.device);
    for (uint16_t i = 0; i < nic.buffers; i++)
        offer_buffer(i);
    virtio_kick(&nic.receive);
    (void)virtio_rearm(&nic.receive);
    nic.there = true;
    nic_set_rate(options->nic_rate);
    nic.on = true;
    nic.look_tsc = nic.moved_tsc = machine_tsc();
}

bool nic_is_there(void)
{
    return nic.there;
}

static int32_t free_buffer(void)
{
    for (uint32_t i = 0; i < nic.buffers; i++) {
        if (!nic.out_busy[i])
            return (int32_t)i;
    }
    return -1;
}

static bool is_due(uint64_t now)
{
    if (!nic.interval_ticks)
        return true;
    if ((int64_t)(now - nic.next_tsc) < 0 && nic.next_tsc - now <= nic.interval_ticks)
        return false;
    nic.next_tsc = now + nic.interval_ticks;
    return true;
}

static bool send_frame(void)
{
    int32_t index = free_buffer();

    if (nic.window >= WINDOW || index < 0)
        return false;

    uint64_t number = nic.next++;
    uint8_t *buffer = nic.out[index];

    for (uint32_t i = 0; i < HEADER_BYTES; i++)
        buffer[i] = 0;

    struct virtio_part part = {buffer, HEADER_BYTES + make_frame(buffer + HEADER_BYTES, number),
                               false};

    if (nic.window++ == 0)
        nic.moved_tsc = machine_tsc();
    nic.awaited[number % NUMBERS] = number;
    nic.out_busy[index] = true;
    virtio_offer(&nic.transmit, (uint16_t)index, &part, 1);
    nic.numbers.sent++;
    return true;
}

static void give_up(uint64_t now)
{
    if (!nic.window || (int64_t)(now - nic.moved_tsc) < 0 ||
        now - nic.moved_tsc < clock_ticks(GIVE_UP_NS))
        return;
    nic.numbers.lost += nic.window;
    nic.window = 0;
    for (uint32_t i = 0; i < NUMBERS; i++)
        nic.awaited[i] = 0;
}

/* Has the device moved and wants us to tell the network where we are now? One frame is enough: what
 * carries our MAC as its source does. */
static void look_for_announce(uint64_t now)
{
    uint16_t request;
    uint32_t bytes;

    if (!nic.has_control || !(nic.device.features & F_ANNOUNCE))
        return;
    while (virtio_take(&nic.control, &request, &bytes)) {
        nic.command_busy = false;
        nic.numbers.announces += nic.answer == 0;
    }
    if ((int64_t)(now - nic.look_tsc) < 0 || now - nic.look_tsc < clock_ticks(LOOK_NS))
        return;
    nic.look_tsc = now;
    if (nic.command_busy || !(virtio_config_read(&nic.device, CONFIG_STATUS, 2) & STATUS_ANNOUNCE))
        return;
    if (send_frame())
        virtio_kick(&nic.transmit);
    nic.command[0] = CONTROL_ANNOUNCE;
    nic.command[1] = 0;
    nic.answer = 0xff;
    nic.command_busy = true;

    const struct virtio_part parts[] = {{nic.command, 2, false}, {&nic.answer, 1, true}};

    virtio_offer(&nic.control, 0, parts, 2);
    virtio_kick(&nic.control);
}

void nic_step(uint64_t now_tsc)
{
    if (!nic.there)
        return;
    take_received(STEP_TAKES_MAX);
    take_sent();
    give_up(now_tsc);
    look_for_announce(now_tsc);
    if (!nic.on || !is_due(now_tsc))
        return;
    for (uint32_t i = 0; i < FRAMES_PER_STEP && send_frame(); i++) {
        if (nic.interval_ticks)
            break;
    }
    virtio_kick(&nic.transmit);
}

void nic_set_on(bool now_on)
{
    nic.on = now_on;
}

void nic_set_rate(uint64_t frames_per_s)
{
    nic.interval_ticks = frames_per_s ? clock_tsc_khz() * 1000 / frames_per_s : 0;
}

void nic_drain(void)
{
    nic.on = false;
    while (nic.window)
        nic_step(vcpu_beat(vcpu_get(0)));
}

void nic_forget_gap(void)
{
    nic.numbers.gap_ns = 0;
}

void nic_numbers(struct nic_numbers *ret_numbers)
{
    *ret_numbers = nic.numbers;
    ret_numbers->on_their_way = nic.window;
    ret_numbers->interrupts = nic.receive.vector ? interrupt_count(nic.receive.vector) : 0;
    ret_numbers->link_up = virtio_config_read(&nic.device, CONFIG_STATUS, 2) & STATUS_LINK_UP;
    ret_numbers->is_well = virtio_is_well(&nic.device);
}
