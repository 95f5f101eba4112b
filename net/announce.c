#include "net/announce.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>

#include "base/err.h"
#include "base/own.h"

/* RFC 903 over Ethernet; big endian, as everything on that wire. */
static const uint8_t rarp_head[] = {
    0x80, 0x35, /* ethertype RARP */
    0x00, 0x01, /* hardware: Ethernet */
    0x08, 0x00, /* protocol: IPv4 */
    0x06, 0x04, /* address lengths */
    0x00, 0x03, /* request reverse */
};

enum {
    SOURCE_OFFSET = 6,
    HEAD_OFFSET = 12,
    SENDER_OFFSET = 22,
    TARGET_OFFSET = 32,
};

static_assert(HEAD_OFFSET + sizeof rarp_head == SENDER_OFFSET, "one behind the other");

void announce_frame(const uint8_t mac[static ANNOUNCE_MAC_BYTES],
                    uint8_t ret_frame[static ANNOUNCE_FRAME_BYTES])
{
    memset(ret_frame, 0, ANNOUNCE_FRAME_BYTES); /* no IP addresses, and padding */
    memset(ret_frame, 0xff, ANNOUNCE_MAC_BYTES);
    memcpy(ret_frame + SOURCE_OFFSET, mac, ANNOUNCE_MAC_BYTES);
    memcpy(ret_frame + HEAD_OFFSET, rarp_head, sizeof rarp_head);
    memcpy(ret_frame + SENDER_OFFSET, mac, ANNOUNCE_MAC_BYTES);
    memcpy(ret_frame + TARGET_OFFSET, mac, ANNOUNCE_MAC_BYTES);
}

int announce_send(const char *interface, const uint8_t mac[static ANNOUNCE_MAC_BYTES],
                  struct fault *fault)
{
    uint8_t frame[ANNOUNCE_FRAME_BYTES];
    announce_frame(mac, frame);

    struct sockaddr_ll address = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(ETHERTYPE_REVARP),
        .sll_ifindex = (int)if_nametoindex(interface),
        .sll_halen = ANNOUNCE_MAC_BYTES,
        .sll_addr = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
    };
    if (address.sll_ifindex == 0)
        return fault_set_errno(fault, ERR_NOT_FOUND, errno, "announcing a MAC on '%.32s'",
                               interface);
    AUTO_FD int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno,
                               "opening a socket to announce a MAC on '%.32s'", interface);
    ssize_t sent = sendto(fd, frame, sizeof frame, MSG_DONTWAIT, (const struct sockaddr *)&address,
                          sizeof address);
    if (sent != (ssize_t)sizeof frame)
        return fault_set_errno(fault, err_from_errno(errno), errno, "announcing a MAC on '%.32s'",
                               interface);
    return 0;
}
