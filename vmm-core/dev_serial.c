#include "vmm-core/dev_serial.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/vm_inside.h"

enum serial_register { /* DLL and DLM stand in for the first two while LCR_DLAB is set */
                       REG_DATA = 0,
                       REG_IER = 1,
                       REG_IIR_FCR = 2,
                       REG_LCR = 3,
                       REG_MCR = 4,
                       REG_LSR = 5,
                       REG_MSR = 6,
                       REG_SCR = 7,
};

enum {
    IER_RECEIVED = 0x01,
    IER_THR_EMPTY = 0x02,
    IER_LINE_STATUS = 0x04,
    IER_MASK = 0x0f,

    IIR_NONE = 0x01,
    IIR_THR_EMPTY = 0x02,
    IIR_RECEIVED = 0x04,
    IIR_LINE_STATUS = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,
    FCR_KEPT = 0xc9, /* enable, DMA mode, trigger level; the clear bits fall back by themselves */

    LCR_DLAB = 0x80,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_MASK = 0x1f,

    LSR_DATA_READY = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_THR_EMPTY = 0x20,
    LSR_IDLE = 0x40,

    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

void serial_reset(struct serial_guest *guest)
{
    *guest = (struct serial_guest){.dll = 12, .mcr = MCR_OUT2, .lcr = 0x03}; /* 9600 8N1 */
}

static unsigned rx_trigger(const struct serial_guest *guest)
{
    static const uint8_t levels[] = {1, 4, 8, 14};
    return levels[guest->fcr >> 6];
}

/* The most urgent reason for an interrupt, as IIR tells it. */
static uint8_t interrupt_reason(const struct serial_guest *guest)
{
    if ((guest->ier & IER_LINE_STATUS) && guest->overrun)
        return IIR_LINE_STATUS;
    if ((guest->ier & IER_RECEIVED) && guest->rx_count) {
        /* Nothing more is on its way, so a FIFO below its trigger level has timed out. */
        bool below = (guest->fcr & FCR_ENABLE) && guest->rx_count < rx_trigger(guest);
        return below ? IIR_TIMEOUT : IIR_RECEIVED;
    }
    if ((guest->ier & IER_THR_EMPTY) && guest->thr_empty_pending)
        return IIR_THR_EMPTY;
    return IIR_NONE;
}

bool serial_wants_interrupt(const struct serial_guest *guest)
{
    return interrupt_reason(guest) != IIR_NONE;
}

size_t serial_receive(struct serial_guest *guest, const uint8_t *bytes, size_t count)
{
    assert(guest->rx_count <= SERIAL_QUEUE_MAX);
    size_t room = (size_t)(SERIAL_QUEUE_MAX - guest->rx_count);
    if (count > room)
        count = room;
    memcpy(guest->rx + guest->rx_count, bytes, count);
    guest->rx_count = (uint16_t)(guest->rx_count + count);
    return count;
}

static uint8_t read_data(struct serial_guest *guest)
{
    if (guest->rx_count == 0)
        return 0;
    uint8_t byte = guest->rx[0];
    guest->rx_count--;
    memmove(guest->rx, guest->rx + 1, guest->rx_count);
    guest->rx[guest->rx_count] = 0; /* behind the end stays zero: equal queues are equal bytes */
    return byte;
}

static uint8_t read_iir(struct serial_guest *guest)
{
    uint8_t reason = interrupt_reason(guest);
    if (reason == IIR_THR_EMPTY)
        guest->thr_empty_pending = 0; /* reading it is the acknowledgement */
    return (uint8_t)(reason | ((guest->fcr & FCR_ENABLE) ? IIR_FIFO : 0));
}

static uint8_t read_lsr(struct serial_guest *guest)
{
    uint8_t lsr = LSR_THR_EMPTY | LSR_IDLE;
    if (guest->rx_count)
        lsr |= LSR_DATA_READY;
    if (guest->overrun)
        lsr |= LSR_OVERRUN;
    guest->overrun = 0;
    return lsr;
}

static uint8_t read_msr(const struct serial_guest *guest)
{
    if (!(guest->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;

    uint8_t msr = 0;
    msr |= guest->mcr & MCR_RTS ? MSR_CTS : 0;
    msr |= guest->mcr & MCR_DTR ? MSR_DSR : 0;
    msr |= guest->mcr & MCR_OUT1 ? MSR_RI : 0;
    msr |= guest->mcr & MCR_OUT2 ? MSR_DCD : 0;
    return msr;
}

uint8_t serial_read(struct serial_guest *guest, unsigned reg)
{
    assert(reg < SERIAL_PORTS);
    bool divisor = guest->lcr & LCR_DLAB;
    switch ((enum serial_register)reg) {
    case REG_DATA:
        return divisor ? guest->dll : read_data(guest);
    case REG_IER:
        return divisor ? guest->dlm : guest->ier;
    case REG_IIR_FCR:
        return read_iir(guest);
    case REG_LCR:
        return guest->lcr;
    case REG_MCR:
        return guest->mcr;
    case REG_LSR:
        return read_lsr(guest);
    case REG_MSR:
        return read_msr(guest);
    case REG_SCR:
        return guest->scr;
    }
    return 0xff;
}

static bool write_data(struct serial_guest *guest, uint8_t value)
{
    guest->thr_empty_pending = 1;
    if (!(guest->mcr & MCR_LOOP))
        return true;
    if (serial_receive(guest, &value, 1) == 0)
        guest->overrun = 1;
    return false;
}

static void write_ier(struct serial_guest *guest, uint8_t value)
{
    if ((value & IER_THR_EMPTY) && !(guest->ier & IER_THR_EMPTY))
        guest->thr_empty_pending = 1;
    guest->ier = value & IER_MASK;
}

static void write_fcr(struct serial_guest *guest, uint8_t value)
{
    if (value & FCR_CLEAR_RX) {
        memset(guest->rx, 0, sizeof guest->rx);
        guest->rx_count = 0;
    }
    guest->fcr = value & FCR_KEPT;
}

bool serial_write(struct serial_guest *guest, unsigned reg, uint8_t value)
{
    assert(reg < SERIAL_PORTS);
    bool divisor = guest->lcr & LCR_DLAB;
    switch ((enum serial_register)reg) {
    case REG_DATA:
        if (!divisor)
            return write_data(guest, value);
        guest->dll = value;
        return false;
    case REG_IER:
        if (divisor)
            guest->dlm = value;
        else
            write_ier(guest, value);
        return false;
    case REG_IIR_FCR:
        write_fcr(guest, value);
        return false;
    case REG_LCR:
        guest->lcr = value;
        return false;
    case REG_MCR:
        guest->mcr = value & MCR_MASK;
        return false;
    case REG_SCR:
        guest->scr = value;
        return false;
    case REG_LSR:
    case REG_MSR:
        return false; /* the chip's test registers: read only here */
    }
    return false;
}

/* clang-format off */
#define SERIAL_FIELDS(X)                                                                           \
    X(ier, IER_MASK) X(fcr, FCR_KEPT) X(lcr, UINT8_MAX) X(mcr, MCR_MASK) X(scr, UINT8_MAX)         \
    X(dll, UINT8_MAX) X(dlm, UINT8_MAX) X(overrun, 1) X(thr_empty_pending, 1)
/* clang-format on */

int serial_save(const struct serial_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    assert(guest->rx_count <= SERIAL_QUEUE_MAX);
    Godwit__SerialStateV1 state = GODWIT__SERIAL_STATE_V1__INIT;
#define SAVE_FIELD(field, max) STATE_PUT(&state, field, guest->field);
    SERIAL_FIELDS(SAVE_FIELD)
#undef SAVE_FIELD
    STATE_PUT(&state, rx,
              ((ProtobufCBinaryData){.data = (uint8_t *)guest->rx, /* read only */
                                     .len = guest->rx_count}));
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int serial_load(struct serial_guest *ret_guest, const uint8_t *bytes, size_t count,
                struct fault *fault)
{
    struct state_reader reader = {.section = "serial", .fault = fault};
    struct serial_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__serial_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__SerialStateV1 *in = (const Godwit__SerialStateV1 *)message;
#define LOAD_FIELD(field, max) STATE_TAKE_MAX(&reader, in, field, guest.field, max);
    SERIAL_FIELDS(LOAD_FIELD)
#undef LOAD_FIELD
    (void)state_reader_check(&reader, (guest.fcr & ~FCR_KEPT) == 0, "fcr", "has bits that fall");
    if (state_reader_check(&reader, in->has_rx && in->rx.len <= SERIAL_QUEUE_MAX, "rx",
                           "is missing or longer than the queue")) {
        if (in->rx.len)
            memcpy(guest.rx, in->rx.data, in->rx.len);
        guest.rx_count = (uint16_t)in->rx.len;
    }
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

/* Under the device lock: KVM hears of changes only, an edge-triggered line needs both edges. */
static void update_interrupt(struct vm *vm)
{
    bool level = serial_wants_interrupt(&vm->serial);
    if (level == vm->serial_host.irq_level)
        return;
    vm->serial_host.irq_level = level;
    vm_set_irq(vm, SERIAL_IRQ, level);
}

static void port_in(struct vm *vm, const struct device_access *access)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    for (uint32_t i = 0; i < access->count; i++)
        access->data[i * access->size] = serial_read(&vm->serial, access->port - SERIAL_PORT);
    update_interrupt(vm);
    (void)pthread_mutex_unlock(&vm->device_lock);
}

/* What one exit sends is gathered in front of `data`, and told in one call outside the lock. */
static void port_out(struct vm *vm, const struct device_access *access)
{
    size_t sent = 0;
    (void)pthread_mutex_lock(&vm->device_lock);
    for (uint32_t i = 0; i < access->count; i++) {
        uint8_t value = access->data[i * access->size];
        if (serial_write(&vm->serial, access->port - SERIAL_PORT, value))
            access->data[sent++] = value;
    }
    update_interrupt(vm);
    (void)pthread_mutex_unlock(&vm->device_lock);

    if (sent && vm->on_serial)
        vm->on_serial(vm->callback_data, access->data, sent);
}

size_t serial_input(struct vm *vm, const uint8_t *bytes, size_t count)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    size_t fitted = serial_receive(&vm->serial, bytes, count);
    update_interrupt(vm);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return fitted;
}

static int serial_capture(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)instance;
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    vm->guest->serial = vm->serial;
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int serial_revive(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                         struct fault *fault)
{
    (void)instance;
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    vm->serial = machine->serial;
    update_interrupt(vm);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    (void)instance;
    return serial_save(&machine->serial, ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    (void)instance;
    return serial_load(&machine->serial, bytes, count, fault);
}

const struct device serial_device = {
    .name = "serial",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .capture = serial_capture,
    .save = save_row,
    .load = load_row,
    .revive = serial_revive,
    .ports = {{SERIAL_PORT, SERIAL_PORTS}},
    .port_in = port_in,
    .port_out = port_out,
};
