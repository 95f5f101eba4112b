/* Real taps on a real bridge, in a network namespace of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/sockios.h>
#include <unistd.h>

#include "agent/tap.h"
#include "base/err.h"
#include "net/announce.h"

static const uint8_t mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

static int make_bridge(const char *name)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int r = ioctl(fd, SIOCBRADDBR, name);
    (void)snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    request.ifr_flags = IFF_UP;
    if (r == 0)
        r = ioctl(fd, SIOCSIFFLAGS, &request);
    (void)close(fd);
    return r;
}

static void a_tap_joins_its_bridge_and_goes_with_its_last_descriptor(void **state)
{
    (void)state;
    struct fault fault = {0};
    int fds[2] = {-1, -1};
    char name[TAP_NAME_SIZE];
    tap_name("0123456789abcdef", "node1", 0, name);

    int r = tap_open(name, "gwbr0", 0, fds, 2, &fault);

    assert_string_equal(fault.text, "");
    assert_int_equal(r, 0);
    assert_true(if_nametoindex(name) > 0);
    assert_int_equal(tap_open(name, "gwbr0", 0, fds, 2, &fault), ERR_BUSY);
    (void)close(fds[0]);
    assert_true(if_nametoindex(name) > 0);
    (void)close(fds[1]);
    assert_int_equal(if_nametoindex(name), 0);
}

static void refuses_what_is_no_bridge(void **state)
{
    (void)state;
    struct fault fault = {0};
    char names[TAP_BRIDGES_MAX][TAP_NAME_SIZE];

    assert_int_equal(tap_check_bridge("nothing0", &fault), ERR_NOT_FOUND);
    assert_int_equal(tap_check_bridge("lo", &fault), ERR_INVALID);
    assert_int_equal(tap_check_bridge("gwbr0", &fault), 0);
    assert_int_equal(tap_bridges(names), 2);
}

/* Two taps on one bridge: what one announces, the other hears. */
static void the_network_hears_where_an_address_is_now(void **state)
{
    (void)state;
    struct fault fault = {0};
    int here = -1, there = -1;
    uint8_t expected[ANNOUNCE_FRAME_BYTES], heard[256];
    assert_int_equal(tap_open("gwhere", "gwbr0", 1400, &here, 1, &fault), 0);
    assert_int_equal(tap_open("gwthere", "gwbr0", 1400, &there, 1, &fault), 0);
    announce_frame(mac, expected);

    ssize_t n = 0;
    for (int tries = 0; tries < 100; tries++) { /* a port that has just come up drops the first */
        struct pollfd wait = {.fd = there, .events = POLLIN};
        tap_announce(here, mac);
        while (poll(&wait, 1, 50) > 0) {
            n = read(there, heard, sizeof heard);
            if (n == TAP_HEADER_BYTES + ANNOUNCE_FRAME_BYTES && memcmp(heard + 18, mac, 6) == 0)
                goto heard_it;
        }
    }
heard_it:
    assert_int_equal(n, TAP_HEADER_BYTES + ANNOUNCE_FRAME_BYTES);
    assert_memory_equal(heard + TAP_HEADER_BYTES, expected, ANNOUNCE_FRAME_BYTES);
    (void)close(here);
    (void)close(there);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tap_joins_its_bridge_and_goes_with_its_last_descriptor),
        cmocka_unit_test(refuses_what_is_no_bridge),
        cmocka_unit_test(the_network_hears_where_an_address_is_now),
    };
    if (unshare(CLONE_NEWNET) < 0 || access("/dev/net/tun", R_OK | W_OK) < 0 ||
        make_bridge("gwbr0") < 0 || make_bridge("gwbr1") < 0) {
        puts("skipped: no network namespace, tun device or bridge here");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
