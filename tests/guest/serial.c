/* Every access is an exit of 10 to 30 us here, so the state is asked for once per full FIFO, not
 * per byte. */
#include "serial.h"

#include "machine.h"

enum {
    SERIAL_PORT = 0x3f8,
    SERIAL_IER = SERIAL_PORT + 1,
    SERIAL_FCR = SERIAL_PORT + 2,
    SERIAL_LCR = SERIAL_PORT + 3,
    SERIAL_MCR = SERIAL_PORT + 4,
    SERIAL_LSR = SERIAL_PORT + 5,
    SERIAL_LSR_DATA = 0x01,
    SERIAL_LSR_EMPTY = 0x20,
    SERIAL_FIFO_BYTES = 16,
    SERIAL_WAIT_MAX = 100000, /* accesses, some seconds: a host that never drains may not hang us */
};

static serial_access_done access_done;

static uint8_t serial_in(uint16_t port)
{
    uint8_t value = machine_in8(port);

    if (access_done)
        access_done();
    return value;
}

static void serial_out(uint16_t port, uint8_t value)
{
    machine_out8(port, value);
    if (access_done)
        access_done();
}

void serial_init(void)
{
    machine_out8(SERIAL_IER, 0);
    machine_out8(SERIAL_LCR, 0x80);
    machine_out8(SERIAL_PORT, 1); /* 115200 */
    machine_out8(SERIAL_IER, 0);
    machine_out8(SERIAL_LCR, 0x03);
    machine_out8(SERIAL_FCR, 0x01); /* FIFOs on */
    machine_out8(SERIAL_MCR, 0x03);
    /* QEMU asks its other end for more only on a read: without this one, input that came before the
     * FIFO was reset would block the line for good. */
    (void)machine_in8(SERIAL_PORT);
}

void serial_watch(serial_access_done done)
{
    access_done = done;
}

void serial_write(const char *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (i % SERIAL_FIFO_BYTES == 0) {
            for (uint32_t n = 0; n < SERIAL_WAIT_MAX; n++) {
                if (serial_in(SERIAL_LSR) & SERIAL_LSR_EMPTY)
                    break;
            }
        }
        serial_out(SERIAL_PORT, (uint8_t)bytes[i]);
    }
}

bool serial_read(char *ret_byte)
{
    if (!(serial_in(SERIAL_LSR) & SERIAL_LSR_DATA))
        return false;
    *ret_byte = (char)serial_in(SERIAL_PORT);
    return true;
}
