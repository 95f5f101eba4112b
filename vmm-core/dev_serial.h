/* A 16550 serial port at 0x3F8 with interrupt 4: the guest's console.
 *
 * Flow:   guest -> vcpu -> [dev_serial] -> on_serial; vm_serial_input -> [dev_serial] -> guest
 * Thread: vCPU threads and any feeder of input, under the vm's device lock.
 *
 * Sending takes no time, so the transmitter is always empty. Receiving goes into a queue of which
 * the guest sees the first bytes as the chip's FIFO; the whole queue travels.
 */
#ifndef GODWIT_VMM_CORE_DEV_SERIAL_H
#define GODWIT_VMM_CORE_DEV_SERIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct fault;
struct vm;

enum { SERIAL_QUEUE_MAX = 4096, SERIAL_IRQ = 4, SERIAL_PORT = 0x3f8, SERIAL_PORTS = 8 };

struct serial_guest { /* travels */
    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    uint8_t overrun;           /* 0 or 1 */
    uint8_t thr_empty_pending; /* 0 or 1 */
    uint16_t rx_count;
    uint8_t rx[SERIAL_QUEUE_MAX];
};

struct serial_host { /* stays */
    bool irq_level;  /* what KVM was last told */
};

extern const struct device serial_device;

/* The chip alone, without a vm: registers are 0 to 7. */
void serial_reset(struct serial_guest *guest);
uint8_t serial_read(struct serial_guest *guest, unsigned reg);
/* True when `value` leaves through the wire. */
bool serial_write(struct serial_guest *guest, unsigned reg, uint8_t value);
/* Returns how many bytes fitted. */
size_t serial_receive(struct serial_guest *guest, const uint8_t *bytes, size_t count);
bool serial_wants_interrupt(const struct serial_guest *guest);

/* The same with the vm's lock and interrupt line. Any thread. */
size_t serial_input(struct vm *vm, const uint8_t *bytes, size_t count);

/* Guest half <-> packed SerialStateV1. */
int serial_save(const struct serial_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int serial_load(struct serial_guest *ret_guest, const uint8_t *bytes, size_t count,
                struct fault *fault);

#endif
