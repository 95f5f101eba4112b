#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/world.h"
#include "vmm-core/dev_pm.h"

enum { STATUS = 0, ENABLE = 2, CONTROL = 4, TIMER = 8, SLEEP = 0x2000 };

static struct pm_guest pm;

static int set_up(void **state)
{
    (void)state;
    pm_reset(&pm);
    return 0;
}

static uint16_t read16(unsigned offset)
{
    uint8_t bytes[2];
    pm_read(&pm, offset, bytes, 2);
    return bytes_get_u16(bytes);
}

static bool write16(unsigned offset, uint16_t value)
{
    uint8_t bytes[2];
    bytes_put_u16(bytes, value);
    return pm_write(&pm, offset, bytes, 2);
}

static void a_pressed_button_interrupts_once_it_is_enabled(void **state)
{
    (void)state;
    pm.status |= PM_POWER_BUTTON;
    assert_false(pm_wants_interrupt(&pm));

    (void)write16(ENABLE, PM_POWER_BUTTON);

    assert_true(pm_wants_interrupt(&pm));
    assert_int_equal(read16(STATUS), PM_POWER_BUTTON);
}

static void a_one_written_to_status_clears_it_and_a_zero_does_not(void **state)
{
    (void)state;
    pm.status |= PM_POWER_BUTTON;
    (void)write16(ENABLE, PM_POWER_BUTTON);

    (void)write16(STATUS, 0xffff & ~PM_POWER_BUTTON);
    assert_true(pm_wants_interrupt(&pm));
    (void)write16(STATUS, PM_POWER_BUTTON);

    assert_false(pm_wants_interrupt(&pm));
    assert_int_equal(read16(STATUS), 0);
}

static void acpi_is_on_and_stays_on(void **state)
{
    (void)state;
    assert_int_equal(read16(CONTROL), 1);

    assert_false(write16(CONTROL, 0x1400));

    assert_int_equal(read16(CONTROL), 0x1401);
}

static void only_sleep_type_zero_switches_off(void **state)
{
    (void)state;
    for (unsigned type = 1; type < 8; type++)
        assert_false(write16(CONTROL, (uint16_t)(SLEEP | type << 10)));
    assert_false(write16(CONTROL, 0));
    assert_true(write16(CONTROL, SLEEP));
    assert_int_equal(read16(CONTROL) & SLEEP, 0);
}

static void a_byte_switches_off_too(void **state)
{
    (void)state;
    uint8_t high = SLEEP >> 8;
    assert_true(pm_write(&pm, CONTROL + 1, &high, 1));
}

static void the_timer_counts_at_its_frequency_and_wraps_at_32_bits(void **state)
{
    (void)state;
    uint8_t bytes[4];

    pm.timer_ns = NS_PER_S;
    pm_read(&pm, TIMER, bytes, 4);
    assert_int_equal(bytes_get_u32(bytes), 3579545);
    pm.timer_ns = UINT64_C(2000) * NS_PER_S;
    pm_read(&pm, TIMER, bytes, 4);
    assert_int_equal(bytes_get_u32(bytes), (uint32_t)(UINT64_C(2000) * 3579545));
}

static void every_access_of_every_size_has_an_answer(void **state)
{
    (void)state;
    for (unsigned offset = 0; offset < PM_PORTS; offset++) {
        for (unsigned size = 1; size <= 4; size *= 2) {
            uint8_t bytes[4] = {0xff, 0xdf, 0xff, 0xdf}; /* all bits but "sleep" */
            (void)pm_write(&pm, offset, bytes, size);
            pm_read(&pm, offset, bytes, size);
        }
    }
    assert_int_equal(pm.status, 0);
    assert_int_equal(read16(ENABLE) & ~0x0521, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_pressed_button_interrupts_once_it_is_enabled, set_up),
        cmocka_unit_test_setup(a_one_written_to_status_clears_it_and_a_zero_does_not, set_up),
        cmocka_unit_test_setup(acpi_is_on_and_stays_on, set_up),
        cmocka_unit_test_setup(only_sleep_type_zero_switches_off, set_up),
        cmocka_unit_test_setup(a_byte_switches_off_too, set_up),
        cmocka_unit_test_setup(the_timer_counts_at_its_frequency_and_wraps_at_32_bits, set_up),
        cmocka_unit_test_setup(every_access_of_every_size_has_an_answer, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
