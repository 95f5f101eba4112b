#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "net/announce.h"

static void the_frame_is_a_rarp_request_for_its_own_mac(void **state)
{
    (void)state;
    static const uint8_t mac[ANNOUNCE_MAC_BYTES] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    static const uint8_t wanted[ANNOUNCE_FRAME_BYTES] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x80, 0x35,
        0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x03, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56,
        0x00, 0x00, 0x00, 0x00, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x00, 0x00, 0x00, 0x00,
    };
    uint8_t frame[ANNOUNCE_FRAME_BYTES];

    announce_frame(mac, frame);

    assert_memory_equal(frame, wanted, sizeof wanted);
}

static void an_interface_that_is_none_is_told_by_name(void **state)
{
    (void)state;
    static const uint8_t mac[ANNOUNCE_MAC_BYTES] = {2};
    struct fault fault = {0};

    int r = announce_send("nosuchbridge0", mac, &fault);

    assert_int_equal(r, ERR_NOT_FOUND);
    assert_string_equal(fault.text, "announcing a MAC on 'nosuchbridge0': No such device");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_frame_is_a_rarp_request_for_its_own_mac),
        cmocka_unit_test(an_interface_that_is_none_is_told_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
