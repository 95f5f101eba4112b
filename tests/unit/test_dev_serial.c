#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "vmm-core/dev_serial.h"

static struct serial_guest fresh(void)
{
    struct serial_guest serial;
    memset(&serial, 0xa5, sizeof serial);
    serial_reset(&serial);
    return serial;
}

static void starts_idle_and_ready_to_send(void **state)
{
    (void)state;
    struct serial_guest serial = fresh();

    assert_int_equal(serial_read(&serial, 5), 0x60);
    assert_int_equal(serial_read(&serial, 2), 0x01);
    assert_int_equal(serial_read(&serial, 6), 0xb0);
    assert_false(serial_wants_interrupt(&serial));
}

static void divisor_latch_hides_data_and_interrupt_enable(void **state)
{
    (void)state;
    struct serial_guest serial = fresh();

    assert_false(serial_write(&serial, 3, 0x83));
    assert_false(serial_write(&serial, 0, 0x01));
    assert_false(serial_write(&serial, 1, 0x02));
    assert_int_equal(serial_read(&serial, 0), 0x01);
    assert_int_equal(serial_read(&serial, 1), 0x02);
    (void)serial_write(&serial, 3, 0x03);

    assert_int_equal(serial_read(&serial, 1), 0x00);
    assert_true(serial_write(&serial, 0, 'x'));
}

static void received_bytes_come_out_in_order_and_interrupt(void **state)
{
    (void)state;
    struct serial_guest serial = fresh();
    (void)serial_write(&serial, 2, 0x01);
    (void)serial_write(&serial, 1, 0x01);

    assert_int_equal(serial_receive(&serial, (const uint8_t *)"abc", 3), 3);

    assert_true(serial_wants_interrupt(&serial));
    assert_int_equal(serial_read(&serial, 2), 0xc4);
    assert_int_equal(serial_read(&serial, 5), 0x61);
    assert_int_equal(serial_read(&serial, 0), 'a');
    assert_int_equal(serial_read(&serial, 0), 'b');
    assert_int_equal(serial_read(&serial, 0), 'c');
    assert_int_equal(serial_read(&serial, 0), 0);
    assert_false(serial_wants_interrupt(&serial));
}

static void a_fifo_below_its_trigger_level_times_out(void **state)
{
    (void)state;
    struct serial_guest serial = fresh();
    (void)serial_write(&serial, 2, 0x81);
    (void)serial_write(&serial, 1, 0x01);

    (void)serial_receive(&serial, (const uint8_t *)"abc", 3);

    assert_int_equal(serial_read(&serial, 2), 0xcc);
    (void)serial_receive(&serial, (const uint8_t *)"defgh", 5);
    assert_int_equal(serial_read(&serial, 2), 0xc4);
}

static void an_empty_transmitter_interrupts_until_it_is_told(void **state)
{
    (void)state;
    struct serial_guest serial = fresh();

    (void)serial_write(&serial, 1, 0x02);
    assert_true(serial_wants_interrupt(&serial));
    assert_int_equal(serial_read(&serial, 2), 0x02);
    assert_false(serial_wants_interrupt(&serial));
    assert_int_equal(serial_read(&serial, 2), 0x01);

    assert_true(serial_write(&serial, 0, 'x'));
    assert_true(serial_wants_interrupt(&serial));
}

static void a_full_queue_takes_no_more(void **state)
{
    (void)state;
    struct serial_guest serial = fresh();
    static uint8_t bytes[SERIAL_QUEUE_MAX + 10];
    memset(bytes, 'q', sizeof bytes);

    assert_int_equal(serial_receive(&serial, bytes, sizeof bytes), SERIAL_QUEUE_MAX);
    assert_int_equal(serial_receive(&serial, bytes, 1), 0);
    (void)serial_read(&serial, 0);
    assert_int_equal(serial_receive(&serial, bytes, 2), 1);
}

static void loopback_receives_what_it_sends(void **state)
{
    (void)state;
    struct serial_guest serial = fresh();

    (void)serial_write(&serial, 4, 0x10 | 0x0a);

    assert_int_equal(serial_read(&serial, 6), 0x90); /* RTS is CTS, OUT2 is DCD */
    assert_false(serial_write(&serial, 0, 'z'));
    assert_int_equal(serial_read(&serial, 0), 'z');
}

static void an_overrun_is_told_once(void **state)
{
    (void)state;
    struct serial_guest serial = fresh();
    static uint8_t bytes[SERIAL_QUEUE_MAX];
    (void)serial_receive(&serial, bytes, sizeof bytes);
    (void)serial_write(&serial, 1, 0x04);
    (void)serial_write(&serial, 4, 0x10);

    (void)serial_write(&serial, 0, 'z');

    assert_int_equal(serial_read(&serial, 2), 0x06);
    assert_int_equal(serial_read(&serial, 5) & 0x02, 0x02);
    assert_int_equal(serial_read(&serial, 5) & 0x02, 0x00);
    assert_false(serial_wants_interrupt(&serial));
}

static void clearing_the_fifo_forgets_what_was_received(void **state)
{
    (void)state;
    struct serial_guest serial = fresh();
    (void)serial_receive(&serial, (const uint8_t *)"abc", 3);

    (void)serial_write(&serial, 2, 0x07);

    assert_int_equal(serial_read(&serial, 5), 0x60);
    assert_int_equal(serial_read(&serial, 2), 0xc1);
}

/* Any register traffic leaves a state that saves and loads. */
static void every_reachable_state_travels(void **state)
{
    (void)state;
    struct serial_guest serial = fresh();
    uint32_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        seed = seed * 1664525 + 1013904223;
        uint8_t value = (uint8_t)(seed >> 16);
        switch (seed >> 30) {
        case 0:
            (void)serial_read(&serial, seed >> 8 & 7);
            break;
        case 1:
            (void)serial_receive(&serial, &value, 1);
            break;
        default:
            (void)serial_write(&serial, seed >> 8 & 7, value);
        }
        if (i % 100)
            continue;
        uint8_t *bytes = NULL;
        size_t count = 0;
        struct serial_guest loaded;
        struct fault fault = {0};
        assert_int_equal(serial_save(&serial, &bytes, &count), 0);
        if (serial_load(&loaded, bytes, count, &fault) < 0)
            fail_msg("%s", fault.text);
        assert_memory_equal(loaded.rx, serial.rx, sizeof serial.rx);
        assert_int_equal(loaded.rx_count, serial.rx_count);
        assert_int_equal(serial_wants_interrupt(&loaded), serial_wants_interrupt(&serial));
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_idle_and_ready_to_send),
        cmocka_unit_test(divisor_latch_hides_data_and_interrupt_enable),
        cmocka_unit_test(received_bytes_come_out_in_order_and_interrupt),
        cmocka_unit_test(a_fifo_below_its_trigger_level_times_out),
        cmocka_unit_test(an_empty_transmitter_interrupts_until_it_is_told),
        cmocka_unit_test(a_full_queue_takes_no_more),
        cmocka_unit_test(loopback_receives_what_it_sends),
        cmocka_unit_test(an_overrun_is_told_once),
        cmocka_unit_test(clearing_the_fifo_forgets_what_was_received),
        cmocka_unit_test(every_reachable_state_travels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
