/* A guest's file as a hostile disk would give it: judged, placed nowhere but inside, never believed.
 * Nobody can make the digest over all of it by chance, so a load that is reached is a bug. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "migrate/guest.h"
#include "migrate/guest_file.h"
#include "proto/page_frame.h"
#include "storage/guest_label.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

enum { PAGES = 700, HEAD = 4096, INPUT_MAX = 1 << 20 };

static const struct guest_label label = {.vm_id = "vm", .nonce = "n", .generation = 3};

static void on_track_stop(struct region *region, bool goes_on)
{
    (void)region;
    (void)goes_on;
}

static int on_populated(struct region *region, struct bitmap *ret_populated, struct fault *fault)
{
    (void)region;
    (void)ret_populated;
    (void)fault;
    return 0;
}

static int on_populate(struct region *region, uint64_t first_page, uint64_t pages,
                       struct fault *fault)
{
    (void)fault;
    if (!range_fits(first_page, pages, region->pages))
        __builtin_trap();
    return 0;
}

static int on_save(void *owner, uint8_t **ret_bytes, size_t *ret_count, struct fault *fault)
{
    (void)owner;
    (void)fault;
    *ret_bytes = calloc(1, 8);
    *ret_count = 8;
    return *ret_bytes ? 0 : ERR_NOMEM;
}

static int on_load(void *owner, const uint8_t *bytes, size_t count, uint64_t paused_ns,
                   struct fault *fault)
{
    (void)owner;
    (void)bytes;
    (void)count;
    (void)paused_ns;
    (void)fault;
    __builtin_trap();
}

/* An attacker knows how to make a frame's check; chance does not. */
static void seal_frames(uint8_t *bytes, size_t count)
{
    size_t at = 0;
    while (at + PAGE_FRAME_HEADER_BYTES <= count && bytes_get_u32(bytes + at) == PAGE_FRAME_MAGIC) {
        uint8_t *head = bytes + at;
        size_t entries = (size_t)bytes_get_u16(head + 6) * PAGE_ENTRY_BYTES;
        uint64_t left = count - at - PAGE_FRAME_HEADER_BYTES;
        if (entries > left)
            return;
        XXH64_hash_t check = XXH3_64bits(head, 28);
        if (entries)
            check = XXH3_64bits_withSeed(head + PAGE_FRAME_HEADER_BYTES, entries, check);
        bytes_put_u32(head + 28, (uint32_t)check);
        if (bytes_get_u32(head + 24) > left - entries)
            return;
        at += PAGE_FRAME_HEADER_BYTES + entries + bytes_get_u32(head + 24);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const struct region_ops region_ops = {
        .track_stop = on_track_stop, .populated = on_populated, .populate = on_populate};
    static const struct guest_ops guest_ops = {.save = on_save, .load = on_load};
    static uint8_t memory[PAGES * PAGE_BYTES], input[INPUT_MAX];
    static int fd = -1;
    struct region region = {
        .ops = &region_ops, .name = "ram", .id = 0, .pages = PAGES, .base = memory};
    struct guest guest = {.ops = &guest_ops,
                          .vm_id = "vm",
                          .name = "vm",
                          .machine = "godwit-1",
                          .baseline = "x86-64-v2",
                          .vcpus = 1,
                          .regions = &region,
                          .region_count = 1};
    struct guest_file_counts counts;
    struct fault fault = {0};

    if (fd < 0 && (fd = memfd_create("fuzz", 0)) < 0)
        return 0;
    if (count < 1 || ftruncate(fd, 0) < 0)
        return 0;
    uint8_t how = bytes[0];
    count = count - 1 < sizeof input ? count - 1 : sizeof input;
    memcpy(input, bytes + 1, count);
    if (how % 4 == 0) { /* all of it is the disk's */
        if (pwrite(fd, input, count, 0) < 0)
            return 0;
    } else { /* a head that fits, and what comes behind it */
        if (guest_file_write(&guest, &label, fd, NULL, &counts, &fault) < 0 ||
            ftruncate(fd, HEAD) < 0)
            return 0;
        if (how % 4 > 1)
            seal_frames(input, count);
        if (pwrite(fd, input, count, HEAD) < 0)
            return 0;
    }
    if (guest_file_read(&guest, &label, fd, &counts, &fault) == 0)
        __builtin_trap();
    return 0;
}
