#include "migrate/guest_shape.h"

#include <assert.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migrate/guest.h"
#include "migrate/region.h"

#define SHAPE_MAGIC UINT64_C(0x3145504148535747) /* "GWSHAPE1" */

enum {
    SHAPE_AT_REGIONS = 8,
    SHAPE_AT_VCPUS = 12,
    SHAPE_AT_MACHINE = 16,
    SHAPE_AT_BASELINE = 48,
    SHAPE_AT_REGION = 80,
    SHAPE_WORD = 32,
    REGION_BYTES = 32, /* u32 id, u32 zero, u64 pages, name [16] */
    REGION_NAME = 16,
    SHAPE_AT_DIGEST = GUEST_SHAPE_BYTES - 8,
};

static_assert((int)GUEST_SHAPE_REGIONS_MAX == (SHAPE_AT_DIGEST - SHAPE_AT_REGION) / REGION_BYTES,
              "as many as there is room for");

static int put_word(uint8_t *at, size_t size, const char *word, const char *what,
                    struct fault *fault)
{
    size_t count = strlen(word);
    if (count == 0 || count >= size)
        return fault_set(fault, ERR_INVALID, "a guest's file cannot name its %s '%.80s'", what,
                         word);
    memcpy(at, word, count);
    return 0;
}

int guest_shape_encode(const struct guest *guest, uint8_t ret_shape[static GUEST_SHAPE_BYTES],
                       struct fault *fault)
{
    uint8_t *shape = ret_shape;

    memset(shape, 0, GUEST_SHAPE_BYTES);
    if (guest->region_count < 1 || guest->region_count > GUEST_SHAPE_REGIONS_MAX)
        return fault_set(fault, ERR_INVALID, "%u regions, a file holds 1 to %d",
                         guest->region_count, GUEST_SHAPE_REGIONS_MAX);
    bytes_put_u64(shape, SHAPE_MAGIC);
    bytes_put_u32(shape + SHAPE_AT_REGIONS, guest->region_count);
    bytes_put_u32(shape + SHAPE_AT_VCPUS, guest->vcpus);
    int r = put_word(shape + SHAPE_AT_MACHINE, SHAPE_WORD, guest->machine, "machine", fault);
    if (r == 0)
        r = put_word(shape + SHAPE_AT_BASELINE, SHAPE_WORD, guest->baseline, "baseline", fault);
    for (unsigned i = 0; r == 0 && i < guest->region_count; i++) {
        uint8_t *at = shape + SHAPE_AT_REGION + i * REGION_BYTES;
        bytes_put_u32(at, guest->regions[i].id);
        bytes_put_u64(at + 8, guest->regions[i].pages);
        r = put_word(at + 16, REGION_NAME, guest->regions[i].name, "region", fault);
    }
    bytes_put_u64(shape + SHAPE_AT_DIGEST, XXH3_64bits(shape, SHAPE_AT_DIGEST));
    return r;
}

int guest_shape_judge(const uint8_t shape[static GUEST_SHAPE_BYTES], const struct guest *guest,
                      struct fault *fault)
{
    uint8_t ours[GUEST_SHAPE_BYTES];

    int r = guest_shape_encode(guest, ours, fault);
    if (r < 0)
        return r;
    if (bytes_get_u64(shape + SHAPE_AT_DIGEST) != XXH3_64bits(shape, SHAPE_AT_DIGEST))
        return fault_set(fault, ERR_CORRUPT, "the head of the guest's file is damaged");
    if (memcmp(shape, ours, GUEST_SHAPE_BYTES) != 0)
        return fault_set(fault, ERR_REFUSED,
                         "the guest's file is of another machine than this one: %s, %u vCPUs, %s",
                         guest->machine, guest->vcpus, guest->baseline);
    return 0;
}
