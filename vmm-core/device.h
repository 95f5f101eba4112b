/* What a device is to the machine: one row of device_table[].
 *
 * Flow:   vcpu (port I/O), vm (save, load, revive) -> device_table -> [device]
 * Thread: ports on vCPU threads; the rest by whoever holds the paused vm.
 *
 * A row sees its guest half through struct machine_guest and nothing else when it saves and loads,
 * so nothing of the host can slip into a message. Capture brings the guest half up to date, revive
 * builds the host half from a guest half that is const to it.
 */
#ifndef GODWIT_VMM_CORE_DEVICE_H
#define GODWIT_VMM_CORE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fault;
struct machine_guest;
struct machine_shape;
struct vm;

enum { DEVICE_PORT_RANGES_MAX = 3 };

/* Said of every device, never left out. */
enum device_travel {
    DEVICE_TRAVELS = 1,    /* has a section in every machine state */
    DEVICE_STATELESS,      /* nothing that a guest could see differs after a move */
    DEVICE_NOT_MIGRATABLE, /* a machine that has it refuses to be saved */
};

struct device_ports {
    uint16_t first, count; /* count 0: not used */
};

/* One exit's port accesses: `count` times `size` bytes at one port, one behind the other. */
struct device_access {
    uint16_t port;
    uint8_t size; /* 1, 2 or 4 */
    uint32_t count;
    uint8_t *data; /* written by port_in, read by port_out */
};

struct device {
    const char *name; /* of its section */
    enum device_travel travel;
    uint32_t version; /* of <Name>StateV<version> */
    bool per_vcpu;    /* one section for each vCPU */
    /* How many of it a machine has, each with its section; NULL: one, or one for each vCPU. */
    unsigned (*instances)(const struct machine_shape *shape);

    int (*capture)(struct vm *vm, unsigned instance, struct fault *fault);
    int (*save)(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                size_t *ret_count);
    int (*load)(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                size_t count, struct fault *fault);
    int (*revive)(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                  struct fault *fault);

    struct device_ports ports[DEVICE_PORT_RANGES_MAX];
    void (*port_in)(struct vm *vm, const struct device_access *access);
    void (*port_out)(struct vm *vm, const struct device_access *access);
};

#endif
