/* Machine state and each device's section, as a hostile peer may send them. What loads must save,
 * and what was saved must load to the same bytes. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "vmm-core/device.h"
#include "vmm-core/device_table.h"
#include "vmm-core/machine_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static struct machine_guest machine;

static void must(bool claim)
{
    if (!claim)
        abort();
}

static void fuzz_machine(const uint8_t *bytes, size_t count)
{
    static const struct machine_shape shape = {
        .vcpus = 2, .memory_bytes = 64 << 20, .baseline = "x86-64-v2", .disks = 1};
    memset(&machine, 0xa5, sizeof machine);
    if (machine_state_load(&shape, &machine, bytes, count, NULL) < 0)
        return;
    AUTO_FREE uint8_t *first = NULL;
    AUTO_FREE uint8_t *second = NULL;
    size_t first_count = 0, second_count = 0;
    must(machine_state_save(&shape, &machine, &first, &first_count, NULL) == 0);
    must(machine_state_load(&shape, &machine, first, first_count, NULL) == 0);
    must(machine_state_save(&shape, &machine, &second, &second_count, NULL) == 0);
    must(first_count == second_count && memcmp(first, second, first_count) == 0);
}

static void fuzz_device(const struct device *device, const uint8_t *bytes, size_t count)
{
    if (device->travel != DEVICE_TRAVELS)
        return;
    memset(&machine, 0xa5, sizeof machine);
    if (device->load(&machine, 0, bytes, count, NULL) < 0)
        return;
    AUTO_FREE uint8_t *first = NULL;
    AUTO_FREE uint8_t *second = NULL;
    size_t first_count = 0, second_count = 0;
    must(device->save(&machine, 0, &first, &first_count) == 0);
    must(device->load(&machine, 0, first, first_count, NULL) == 0);
    must(device->save(&machine, 0, &second, &second_count) == 0);
    must(first_count == second_count && memcmp(first, second, first_count) == 0);
}

/* The first byte chooses whose bytes the others are. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    if (count == 0)
        return 0;
    size_t choice = bytes[0] % (device_table_count() + 1);
    if (choice == device_table_count())
        fuzz_machine(bytes + 1, count - 1);
    else
        fuzz_device(device_table_at(choice), bytes + 1, count - 1);
    return 0;
}
