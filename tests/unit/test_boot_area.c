#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm-core/boot_area.h"
#include "vmm-core/guest_memory.h"

static void expect_map(uint64_t bytes, const struct boot_area_entry *wanted, unsigned wanted_count)
{
    struct guest_memory *memory = NULL;
    struct boot_area_entry map[BOOT_AREA_MAP_MAX];
    assert_int_equal(guest_memory_new(&memory, bytes, false, NULL), 0);

    unsigned count = boot_area_map(memory, map);

    assert_int_equal(count, wanted_count);
    uint64_t ram = 0;
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(map[i].address, wanted[i].address);
        assert_int_equal(map[i].end, wanted[i].end);
        assert_int_equal(map[i].type, wanted[i].type);
        if (i > 0)
            assert_true(map[i].address >= map[i - 1].end);
        if (map[i].type == BOOT_AREA_RAM) {
            assert_non_null(guest_memory_at(memory, map[i].address, map[i].end - map[i].address));
            ram += map[i].end - map[i].address;
        }
    }
    assert_int_equal(ram, bytes - (0x100000 - 0x9fc00));
    (void)guest_memory_free(memory);
}

/* As the tables in tests/golden: part of machine version godwit-1. */
static void the_map_of_godwit_1_never_changes(void **state)
{
    (void)state;
    static const struct boot_area_entry small[] = {
        {0, 0x9fc00, BOOT_AREA_RAM},
        {0x9fc00, 0x100000, BOOT_AREA_RESERVED},
        {0x100000, 0x4000000, BOOT_AREA_RAM},
        {0xe0000000, 0xe0100000, BOOT_AREA_RESERVED},
    };
    static const struct boot_area_entry large[] = {
        {0, 0x9fc00, BOOT_AREA_RAM},
        {0x9fc00, 0x100000, BOOT_AREA_RESERVED},
        {0x100000, 0xc0000000, BOOT_AREA_RAM},
        {0xe0000000, 0xe0100000, BOOT_AREA_RESERVED},
        {0x100000000, 0x240000000, BOOT_AREA_RAM},
    };
    expect_map(MIB(64), small, sizeof small / sizeof small[0]);
    expect_map(GIB(8), large, sizeof large / sizeof large[0]);
}

static void an_initrd_lies_as_high_as_it_may(void **state)
{
    (void)state;
    struct guest_memory *memory = NULL;
    struct boot_area_initrd initrd;
    char path[] = "/tmp/test_boot_area.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)unlink(path);
    assert_int_equal(ftruncate(fd, 5000), 0);
    assert_int_equal(guest_memory_new(&memory, GIB(8), false, NULL), 0);

    assert_int_equal(boot_area_place_initrd(memory, fd, UINT32_MAX, &initrd, NULL), 0);
    assert_int_equal(initrd.address, 0xc0000000 - 8192);
    assert_int_equal(boot_area_place_initrd(memory, fd, 0x1000001, &initrd, NULL), 0);
    assert_int_equal(initrd.address, 0x1000000 - 8192);
    assert_int_equal(boot_area_place_initrd(memory, fd, 0x100800, &initrd, NULL), ERR_INVALID);
    assert_int_equal(boot_area_place_initrd(memory, -1, 0, &initrd, NULL), 0);
    assert_int_equal(initrd.bytes, 0);

    (void)guest_memory_free(memory);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_map_of_godwit_1_never_changes),
        cmocka_unit_test(an_initrd_lies_as_high_as_it_may),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
