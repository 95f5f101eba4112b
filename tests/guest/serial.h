/* The 16550 at 0x3f8, polled.
 *
 * Flow:   record -> [serial] -> command
 * Thread: vCPU 0; trap_entry() may write from any vCPU, because nothing goes on after it.
 */
#ifndef GUEST_SERIAL_H
#define GUEST_SERIAL_H

#include <stdbool.h>
#include <stdint.h>

/* Called after every port access, which costs an exit: that is how no hole stays unseen, printing
 * or not. */
typedef void (*serial_access_done)(void);

void serial_init(void);
void serial_watch(serial_access_done done);
void serial_write(const char *bytes, uint32_t count);
bool serial_read(char *ret_byte);

#endif
