/* virtio-console: one port, the guest's console besides its serial port (virtio 1.2, 5.3).
 *
 * Flow:   guest -> [dev_virtio_console] -> on_serial; vm_serial_input -> [dev_virtio_console] ->
 *         guest
 * Thread: under the vm's device lock; output on the io thread, input from any.
 *
 * What the guest writes here goes where its serial port's bytes go. Input is given to whichever of
 * the two the guest listens on: this one as soon as its driver is ready. Only as much is taken as
 * the guest has offered room for, so nothing waits in here and nothing travels but the transport's
 * half.
 */
#ifndef GODWIT_VMM_CORE_DEV_VIRTIO_CONSOLE_H
#define GODWIT_VMM_CORE_DEV_VIRTIO_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct virtio_device;
struct virtio_kind;

extern const struct virtio_kind virtio_console_kind;

/* Does the guest listen here? Under the device lock. */
bool virtio_console_listens(struct virtio_device *device);
/* Returns how many bytes the guest had room for. Under the device lock. */
size_t virtio_console_input(struct virtio_device *device, const uint8_t *bytes, size_t count);

#endif
