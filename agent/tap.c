#include "agent/tap.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/err.h"
#include "base/own.h"
#include "net/announce.h"

static_assert(TAP_NAME_SIZE == IFNAMSIZ, "names are the kernel's");

void tap_name(const char *vm_id, const char *host, unsigned nic, char ret_name[static TAP_NAME_SIZE])
{
    unsigned mixed = (unsigned)(XXH3_64bits(host, strlen(host)) & 0xff);

    (void)snprintf(ret_name, TAP_NAME_SIZE, "gw%.9s%x%02x", vm_id, nic & 0xf, mixed);
}

static int open_control(int *ret_fd, struct fault *fault)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "opening a socket");
    *ret_fd = fd;
    return 0;
}

static void name_request(struct ifreq *request, const char *name)
{
    *request = (struct ifreq){0};
    (void)snprintf(request->ifr_name, sizeof request->ifr_name, "%s", name);
}

static bool is_bridge(int control_fd, const char *name)
{
    struct ethtool_drvinfo driver = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq request;

    name_request(&request, name);
    request.ifr_data = (char *)&driver;
    return ioctl(control_fd, SIOCETHTOOL, &request) == 0 && strcmp(driver.driver, "bridge") == 0;
}

int tap_check_bridge(const char *bridge, struct fault *fault)
{
    AUTO_FD int fd = -1;

    int r = open_control(&fd, fault);
    if (r < 0)
        return r;
    if (strlen(bridge) >= TAP_NAME_SIZE || !if_nametoindex(bridge))
        return fault_set(fault, ERR_NOT_FOUND, "this host has no bridge %s", bridge);
    if (!is_bridge(fd, bridge))
        return fault_set(fault, ERR_INVALID, "%s of this host is no bridge", bridge);
    return 0;
}

size_t tap_bridges(char ret_names[static TAP_BRIDGES_MAX][TAP_NAME_SIZE])
{
    struct if_nameindex *list = if_nameindex();
    AUTO_FD int fd = -1;
    size_t count = 0;

    if (list && open_control(&fd, NULL) == 0) {
        for (struct if_nameindex *at = list; at->if_name && count < TAP_BRIDGES_MAX; at++) {
            if (is_bridge(fd, at->if_name))
                (void)snprintf(ret_names[count++], TAP_NAME_SIZE, "%s", at->if_name);
        }
    }
    if (list)
        if_freenameindex(list);
    return count;
}

/* ---- opening ---- */
static int open_queue(const char *name, bool is_first, bool is_only, int *ret_fd,
                      struct fault *fault)
{
    struct ifreq request;
    int header = TAP_HEADER_BYTES;

    AUTO_FD int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return fault_set_errno(fault, ERR_UNSUPPORTED, errno, "opening /dev/net/tun");
    name_request(&request, name);
    request.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                                (is_only ? 0 : IFF_MULTI_QUEUE) | (is_first ? IFF_TUN_EXCL : 0));
    if (ioctl(fd, TUNSETIFF, &request) < 0)
        return fault_set_errno(fault, errno == EBUSY ? ERR_BUSY : err_from_errno(errno), errno,
                               "making the tap %s", name);
    if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "setting the tap %s up", name);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int set_mtu(int control_fd, const char *name, const char *bridge, unsigned mtu,
                   struct fault *fault)
{
    struct ifreq request;

    if (!mtu) {
        name_request(&request, bridge);
        if (ioctl(control_fd, SIOCGIFMTU, &request) < 0)
            return fault_set_errno(fault, ERR_IO, errno, "asking for the MTU of %s", bridge);
        mtu = (unsigned)request.ifr_mtu;
    }
    name_request(&request, name);
    request.ifr_mtu = (int)mtu;
    if (ioctl(control_fd, SIOCSIFMTU, &request) < 0)
        return fault_set_errno(fault, ERR_INVALID, errno, "setting the MTU of %s to %u", name, mtu);
    return 0;
}

static int join(int control_fd, const char *name, const char *bridge, unsigned mtu,
                struct fault *fault)
{
    struct ifreq request;

    int r = set_mtu(control_fd, name, bridge, mtu, fault);
    if (r < 0)
        return r;
    name_request(&request, bridge);
    request.ifr_ifindex = (int)if_nametoindex(name);
    if (ioctl(control_fd, SIOCBRADDIF, &request) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "adding %s to the bridge %s",
                               name, bridge);
    name_request(&request, name);
    if (ioctl(control_fd, SIOCGIFFLAGS, &request) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "switching %s on", name);
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
    if (ioctl(control_fd, SIOCSIFFLAGS, &request) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "switching %s on", name);
    return 0;
}

int tap_open(const char *name, const char *bridge, unsigned mtu, int *ret_fds, unsigned count,
             struct fault *fault)
{
    AUTO_FD int control_fd = -1;
    unsigned opened = 0;

    int r = tap_check_bridge(bridge, fault);
    if (r == 0)
        r = open_control(&control_fd, fault);
    for (; r == 0 && opened < count; opened += r == 0)
        r = open_queue(name, opened == 0, count == 1, &ret_fds[opened], fault);
    if (r == 0)
        r = join(control_fd, name, bridge, mtu, fault);
    if (r == 0)
        return 0;
    while (opened > 0)
        close_p(&ret_fds[--opened]);
    return r;
}

/* ---- announcing ---- */
void tap_announce(int fd, const uint8_t mac[static 6])
{
    uint8_t header[TAP_HEADER_BYTES] = {0}, frame[ANNOUNCE_FRAME_BYTES];
    const struct iovec parts[] = {{.iov_base = header, .iov_len = sizeof header},
                                  {.iov_base = frame, .iov_len = sizeof frame}};

    announce_frame(mac, frame);
    ssize_t n = writev(fd, parts, 2);
    (void)n; /* a hint to the network: the guest's own first frame does the same */
}
