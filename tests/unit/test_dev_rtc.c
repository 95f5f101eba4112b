#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/world.h"
#include "vmm-core/dev_rtc.h"

enum { A = 10, B = 11, C = 12, D = 13 };
enum { SET = 0x80, PERIODIC = 0x40, ALARM = 0x20, UPDATE = 0x10, BINARY = 4, HOURS_24 = 2 };

/* 2026-11-25 20:59:58 UTC, a Wednesday. */
#define NOW_S UINT64_C(1795640398)

static struct rtc_guest rtc;

static int set_up(void **state)
{
    (void)state;
    rtc_reset(&rtc, NOW_S * NS_PER_S);
    rtc_write(&rtc, A, 0x20); /* no rate: nothing periodic falls due beside what is asked for */
    return 0;
}

static void advance_s(uint64_t seconds)
{
    rtc_advance(&rtc, rtc.time_ns + seconds * NS_PER_S);
}

static void expect_time(unsigned hour, unsigned minute, unsigned second)
{
    assert_int_equal(rtc_read(&rtc, 4), hour);
    assert_int_equal(rtc_read(&rtc, 2), minute);
    assert_int_equal(rtc_read(&rtc, 0), second);
}

static void tells_the_time_in_decimal_digits(void **state)
{
    (void)state;
    expect_time(0x20, 0x59, 0x58);
    assert_int_equal(rtc_read(&rtc, 6), 4);
    assert_int_equal(rtc_read(&rtc, 7), 0x25);
    assert_int_equal(rtc_read(&rtc, 8), 0x11);
    assert_int_equal(rtc_read(&rtc, 9), 0x26);
    assert_int_equal(rtc_read(&rtc, RTC_CENTURY), 0x20);
    assert_int_equal(rtc_read(&rtc, D), 0x80);

    advance_s(2);

    expect_time(0x21, 0x00, 0x00);
}

static void tells_it_in_binary_and_in_twelve_hours_when_asked(void **state)
{
    (void)state;
    rtc_write(&rtc, B, BINARY | HOURS_24);
    expect_time(20, 59, 58);
    rtc_write(&rtc, B, BINARY);
    expect_time(0x80 | 8, 59, 58);
    rtc_write(&rtc, B, 0);
    expect_time(0x80 | 0x08, 0x59, 0x58);
    advance_s(12 * 3600);
    expect_time(0x08, 0x59, 0x58);
    advance_s(4 * 3600);
    expect_time(0x80 | 0x12, 0x59, 0x58);
    advance_s(12 * 3600);
    expect_time(0x12, 0x59, 0x58);
}

static void stands_while_it_is_set_and_goes_on_from_there(void **state)
{
    (void)state;
    rtc_write(&rtc, B, SET | HOURS_24);
    static const uint8_t wanted[][2] = {{0, 0x01}, {2, 0x02}, {4, 0x03},          {7, 0x29},
                                        {8, 0x02}, {9, 0x28}, {RTC_CENTURY, 0x20}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        rtc_write(&rtc, wanted[i][0], wanted[i][1]);
    advance_s(10);
    expect_time(0x03, 0x02, 0x01);

    rtc_write(&rtc, B, HOURS_24);
    advance_s(1);

    expect_time(0x03, 0x02, 0x02);
    assert_int_equal(rtc_read(&rtc, 7), 0x29);
    assert_int_equal(rtc.time_ns / NS_PER_S, 1835406122); /* 2028-02-29 03:02:02 UTC */
}

static void what_is_no_time_leaves_the_clock_where_it_stood(void **state)
{
    (void)state;
    rtc_write(&rtc, B, SET | HOURS_24);
    rtc_write(&rtc, 0, 0x7f);
    rtc_write(&rtc, B, HOURS_24);

    expect_time(0x20, 0x59, 0x58);
}

static void an_update_interrupts_every_second_until_it_is_read(void **state)
{
    (void)state;
    rtc_write(&rtc, B, HOURS_24 | UPDATE);
    assert_int_equal(rtc_next_ns(&rtc), (NOW_S + 1) * NS_PER_S);

    rtc_advance(&rtc, rtc_next_ns(&rtc));

    assert_true(rtc_wants_interrupt(&rtc));
    assert_true(rtc_next_ns(&rtc) == RTC_NEVER);
    assert_int_equal(rtc_read(&rtc, C), 0x80 | UPDATE);
    assert_false(rtc_wants_interrupt(&rtc));
    assert_int_equal(rtc_next_ns(&rtc), (NOW_S + 2) * NS_PER_S);
}

static void an_alarm_rings_at_its_time_also_across_midnight(void **state)
{
    (void)state;
    rtc_write(&rtc, 5, 0x07);
    rtc_write(&rtc, 3, 0x30);
    rtc_write(&rtc, 1, 0x15);
    rtc_write(&rtc, B, HOURS_24 | ALARM);
    uint64_t due_s = NOW_S + 2 + 3 * 3600 + 7 * 3600 + 30 * 60 + 15;
    assert_int_equal(rtc_next_ns(&rtc), due_s * NS_PER_S);

    rtc_advance(&rtc, due_s * NS_PER_S - 1);
    assert_false(rtc_wants_interrupt(&rtc));
    rtc_advance(&rtc, due_s * NS_PER_S);

    assert_true(rtc_wants_interrupt(&rtc));
    assert_int_equal(rtc_read(&rtc, C), 0x80 | ALARM | UPDATE);
    assert_int_equal(rtc_next_ns(&rtc), (due_s + 24 * 3600) * NS_PER_S);
}

static void an_alarm_that_fell_into_a_pause_rings_afterwards(void **state)
{
    (void)state;
    rtc_write(&rtc, 5, 0x21);
    rtc_write(&rtc, 3, 0xff); /* any */
    rtc_write(&rtc, 1, 0x00);
    rtc_write(&rtc, B, HOURS_24 | ALARM);

    advance_s(100);

    assert_true(rtc_wants_interrupt(&rtc));
}

static void an_alarm_of_any_minute_rings_in_the_next(void **state)
{
    (void)state;
    rtc_write(&rtc, 5, 0xc0);
    rtc_write(&rtc, 3, 0xc0);
    rtc_write(&rtc, 1, 0x57);
    rtc_write(&rtc, B, HOURS_24 | ALARM);
    assert_int_equal(rtc_next_ns(&rtc), (NOW_S + 59) * NS_PER_S);
    rtc_write(&rtc, 1, 0xc0);
    assert_int_equal(rtc_next_ns(&rtc), (NOW_S + 1) * NS_PER_S);
}

static void an_alarm_at_no_time_never_rings(void **state)
{
    (void)state;
    rtc_write(&rtc, 5, 0x1a);
    rtc_write(&rtc, B, HOURS_24 | ALARM);

    assert_true(rtc_next_ns(&rtc) == RTC_NEVER);
    advance_s(3 * 24 * 3600);
    assert_false(rtc_wants_interrupt(&rtc));
}

static void a_periodic_interrupt_comes_at_its_rate(void **state)
{
    (void)state;
    rtc_write(&rtc, A, 0x2a); /* 64 Hz */
    rtc_write(&rtc, B, HOURS_24 | PERIODIC);
    uint64_t next_ns = rtc_next_ns(&rtc);
    assert_int_equal(next_ns - rtc.time_ns, NS_PER_S / 64);

    rtc_advance(&rtc, next_ns);

    assert_int_equal(rtc_read(&rtc, C), 0x80 | PERIODIC);
}

static void says_that_it_updates_just_before_the_second(void **state)
{
    (void)state;
    assert_int_equal(rtc_read(&rtc, A), 0x20);
    rtc_advance(&rtc, rtc.time_ns + NS_PER_S - 100 * NS_PER_US);
    assert_int_equal(rtc_read(&rtc, A), 0xa0);
}

static void a_clock_stepped_back_rings_nothing(void **state)
{
    (void)state;
    rtc_write(&rtc, B, HOURS_24 | UPDATE);
    rtc_advance(&rtc, (NOW_S - 1000) * NS_PER_S);

    assert_false(rtc_wants_interrupt(&rtc));
    expect_time(0x20, 0x43, 0x18);
}

static void memory_keeps_what_is_written(void **state)
{
    (void)state;
    for (unsigned reg = 14; reg < RTC_RAM_BYTES; reg++) {
        if (reg == RTC_CENTURY)
            continue;
        rtc_write(&rtc, reg, (uint8_t)(reg * 3));
        assert_int_equal(rtc_read(&rtc, reg), (uint8_t)(reg * 3));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(tells_the_time_in_decimal_digits, set_up),
        cmocka_unit_test_setup(tells_it_in_binary_and_in_twelve_hours_when_asked, set_up),
        cmocka_unit_test_setup(stands_while_it_is_set_and_goes_on_from_there, set_up),
        cmocka_unit_test_setup(what_is_no_time_leaves_the_clock_where_it_stood, set_up),
        cmocka_unit_test_setup(an_update_interrupts_every_second_until_it_is_read, set_up),
        cmocka_unit_test_setup(an_alarm_rings_at_its_time_also_across_midnight, set_up),
        cmocka_unit_test_setup(an_alarm_that_fell_into_a_pause_rings_afterwards, set_up),
        cmocka_unit_test_setup(an_alarm_of_any_minute_rings_in_the_next, set_up),
        cmocka_unit_test_setup(an_alarm_at_no_time_never_rings, set_up),
        cmocka_unit_test_setup(a_periodic_interrupt_comes_at_its_rate, set_up),
        cmocka_unit_test_setup(says_that_it_updates_just_before_the_second, set_up),
        cmocka_unit_test_setup(a_clock_stepped_back_rings_nothing, set_up),
        cmocka_unit_test_setup(memory_keeps_what_is_written, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
