/* A kernel file from anywhere, told by its content: judged, and when it passes, loaded into a small
 * guest's memory. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/own.h"
#include "vmm-core/boot.h"
#include "vmm-core/guest_memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static struct guest_memory *memory;
    if (!memory && guest_memory_new(&memory, MIB(32), false, NULL) < 0)
        abort();

    /* Files shorter than a setup header are refused for that: let most inputs be judged further. */
    AUTO_FD int fd = memfd_create("kernel", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes, count) != (ssize_t)count || ftruncate(fd, 0x4000) < 0)
        return 0;
    struct boot_entry entry;
    int r = boot_load(memory, 1, fd, fd, "fuzz", &entry, NULL);
    if (r == 0 &&
        (!guest_memory_at(memory, entry.address, 1) || !guest_memory_at(memory, entry.info, 1)))
        abort();
    return 0;
}
