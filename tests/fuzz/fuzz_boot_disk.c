/* A disk that a guest wrote, read for what it boots: the recorded one with bytes changed as the
 * input says (three bytes where, one what), so that checks deep inside are reached; or, when the
 * input begins with 'r', the input itself. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/err.h"
#include "storage/boot_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *recorded;
static size_t recorded_bytes;

struct disk {
    const uint8_t *bytes;
    size_t count;
};

static int read_disk(void *data, uint64_t offset, void *bytes, size_t count, struct fault *fault)
{
    const struct disk *disk = data;
    if (offset > disk->count || count > disk->count - offset)
        abort(); /* it was told the size */
    (void)fault;
    memcpy(bytes, disk->bytes + offset, count);
    return 0;
}

static void look_at(const uint8_t *bytes, size_t count)
{
    struct disk disk = {.bytes = bytes, .count = count};
    struct boot_disk found;
    struct fault fault = {0};
    static uint8_t chunk[4096];

    if (boot_disk_open(&found, read_disk, &disk, count, &fault) < 0)
        return;
    for (uint64_t at = 0; at < found.kernel.bytes && at < 1 << 20; at += sizeof chunk) {
        size_t part = found.kernel.bytes - at < sizeof chunk ? (size_t)(found.kernel.bytes - at)
                                                             : sizeof chunk;
        if (ext4_read(&found.fs, &found.kernel, at, chunk, part, &fault) < 0)
            return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fault fault = {0};
    if (size > 0 && data[0] == 'r') {
        look_at(data + 1, size - 1);
        return 0;
    }
    if (!recorded && file_read(GOLDEN_DISK, &recorded, &recorded_bytes, &fault) < 0)
        return 0;
    uint8_t *image = malloc(recorded_bytes);
    if (!image)
        return 0;
    memcpy(image, recorded, recorded_bytes);
    for (size_t i = 0; i + 4 <= size; i += 4) {
        size_t at = data[i] | (size_t)data[i + 1] << 8 | (size_t)data[i + 2] << 16;
        image[at % recorded_bytes] = data[i + 3];
    }
    look_at(image, recorded_bytes);
    free(image);
    return 0;
}
