/* The index of a guest's file as a hostile disk would give it, its digest made by whoever knows how: what is believed
 * stays inside of the guest and of the file, and no frame is read as anything but what it names. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migrate/guest.h"
#include "migrate/guest_index.h"
#include "storage/guest_label.h"
#include "storage/guest_seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

enum { HEAD = GUEST_SEAL_HEAD_BYTES, INPUT_MAX = 1 << 20, END_AT_CHECK = 48, END_AT_MAGIC = 56 };

static struct region regions[] = {{.name = "ram", .id = 0, .pages = 1300},
                                  {.name = "files", .id = 1, .pages = 700}};

/* Chance does not make a digest; where there is room for an index, its last words are made to fit. */
static void seal(uint8_t *file, size_t count)
{
    uint8_t *tail = file + count - GUEST_SEAL_TAIL_BYTES, *end = tail - GUEST_INDEX_END_BYTES;
    size_t end_at = (size_t)(end - file);

    bytes_put_u64(tail, GUEST_SEAL_MAGIC);
    bytes_put_u64(end + END_AT_MAGIC, GUEST_INDEX_END_MAGIC);
    uint64_t at = HEAD + bytes_get_u64(end) % (end_at - HEAD + 1);
    if (end_at - at < GUEST_INDEX_HEAD_BYTES)
        return;
    uint64_t frames = (end_at - at - GUEST_INDEX_HEAD_BYTES) / GUEST_INDEX_FRAME_BYTES;
    at = end_at - GUEST_INDEX_HEAD_BYTES - frames * GUEST_INDEX_FRAME_BYTES;
    bytes_put_u64(end, at);
    bytes_put_u64(end + 40, 0);
    bytes_put_u64(file + at, GUEST_INDEX_MAGIC);
    bytes_put_u64(file + at + 8, frames);
    XXH3_state_t *check = XXH3_createState();
    if (!check)
        return;
    (void)XXH3_64bits_reset(check);
    (void)XXH3_64bits_update(check, file, GUEST_LABEL_BYTES);
    (void)XXH3_64bits_update(check, file + GUEST_SEAL_SHAPE_AT, GUEST_SEAL_SHAPE_BYTES);
    (void)XXH3_64bits_update(check, file + at, end_at - at);
    (void)XXH3_64bits_update(check, end, END_AT_CHECK);
    bytes_put_u64(end + END_AT_CHECK, XXH3_64bits_digest(check));
    (void)XXH3_freeState(check);
}

static void judge(const struct guest_index *index, size_t file_bytes)
{
    for (uint64_t i = 0; i < index->count; i++) {
        const struct guest_index_frame *frame = &index->frames[i];
        if (frame->region > 1 || frame->offset < HEAD || frame->bytes == 0 ||
            !range_fits(frame->offset, frame->bytes, file_bytes))
            __builtin_trap();
        for (unsigned k = 0; k < GUEST_INDEX_WORDS * 64; k++) {
            if (frame->mask[k / 64] >> (k % 64) & 1 &&
                !range_fits(frame->first_page + k, 1, regions[frame->region].pages))
                __builtin_trap();
        }
    }
    if (!range_fits(index->machine_at, index->machine_bytes, file_bytes))
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const struct guest guest = {.regions = regions, .region_count = 2};
    static uint8_t file[HEAD + INPUT_MAX];
    static int fd = -1;
    struct guest_index index = {0};
    struct fault fault = {0};

    if (fd < 0 && (fd = memfd_create("fuzz", 0)) < 0)
        return 0;
    if (count < 1 + GUEST_INDEX_END_BYTES + GUEST_SEAL_TAIL_BYTES || count > INPUT_MAX)
        return 0;
    bool sealed = bytes[0] & 1;
    count--;
    memcpy(file + HEAD, bytes + 1, count);
    if (sealed)
        seal(file, HEAD + count);
    if (ftruncate(fd, 0) < 0 || pwrite(fd, file, HEAD + count, 0) < 0)
        return 0;
    if (guest_index_read(&index, fd, file, &guest, &fault) == 0)
        judge(&index, HEAD + count);
    guest_index_deinit(&index);
    return 0;
}
