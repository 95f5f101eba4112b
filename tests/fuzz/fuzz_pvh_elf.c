/* A kernel file from anywhere: judged, and when it passes, loaded into a small guest's memory. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/own.h"
#include "vmm-core/boot_pvh.h"
#include "vmm-core/guest_memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static struct guest_memory *memory;
    if (!memory && guest_memory_new(&memory, GUEST_MEMORY_BYTES_MIN, false, NULL) < 0)
        abort();

    AUTO_FD int fd = memfd_create("kernel", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes, count) != (ssize_t)count)
        return 0;
    uint32_t entry = 0, start_info = 0;
    int r = boot_pvh_load(memory, fd, fd, "fuzz", &entry, &start_info, NULL);
    if (r == 0 && !guest_memory_at(memory, entry, 1))
        abort();
    return 0;
}
