#include "net/fdpass.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union control { /* aligned as struct cmsghdr wants it */
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(sizeof(int) * RPC_FDS_MAX)];
};

ssize_t fdpass_send(int fd, const void *bytes, size_t count, const int *fds, size_t fd_count)
{
    assert(count > 0);
    assert(fd_count <= RPC_FDS_MAX);
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    union control control = {0};
    if (fd_count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(head), fds, sizeof(int) * fd_count);
    }
    ssize_t sent;
    do {
        sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

static size_t collect_fds(struct msghdr *message, int ret_fds[static RPC_FDS_MAX])
{
    size_t count = 0;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        size_t more = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < more; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + i * sizeof fd, sizeof fd);
            assert(count < RPC_FDS_MAX); /* the control buffer holds no more */
            ret_fds[count++] = fd;
        }
    }
    return count;
}

ssize_t fdpass_receive(int fd, void *ret_bytes, size_t room, int ret_fds[static RPC_FDS_MAX],
                       size_t *ret_fd_count)
{
    struct iovec part = {.iov_base = ret_bytes, .iov_len = room};
    union control control;
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t got;
    do {
        got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;

    size_t count = collect_fds(&message, ret_fds);
    if (message.msg_flags & MSG_CTRUNC) {
        for (size_t i = 0; i < count; i++)
            (void)close(ret_fds[i]); /* not ours to keep */
        return -EMSGSIZE;
    }
    *ret_fd_count = count;
    return got;
}
