#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "net/rpc.h"

enum { BACKLOG = 64 };

static int address_of(const char *path, struct sockaddr_un *ret_address, struct fault *fault)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof address.sun_path)
        return fault_set(fault, ERR_INVALID, "the socket path '%s' has %zu letters, 1 to %zu fit",
                         path, length, sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, length);
    *ret_address = address;
    return 0;
}

/* A socket file whose process is gone answers ECONNREFUSED; only such a one may be replaced. */
static bool is_stale(const struct sockaddr_un *address)
{
    struct stat info;
    if (lstat(address->sun_path, &info) < 0 || !S_ISSOCK(info.st_mode))
        return false;
    AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    return connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 &&
           errno == ECONNREFUSED;
}

int unix_listen(const char *path, int *ret_fd, struct fault *fault)
{
    struct sockaddr_un address;
    int r = address_of(path, &address, fault);
    if (r < 0)
        return r;
    AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fault_set_errno(fault, ERR_IO, errno, "opening a Unix socket");
    /* Linux gives a socket file the mode of the socket, so it is never open to others, not even
     * between bind and a chmod. */
    if (fchmod(fd, 0600) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "guarding the socket %s", path);

    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        if (errno != EADDRINUSE)
            return fault_set_errno(fault, err_from_errno(errno), errno, "listening on %s", path);
        if (!is_stale(&address))
            return fault_set(fault, ERR_EXISTS, "listening on %s: another process is using it",
                             path);
        (void)unlink(path); /* if it fails, bind says why */
        if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
            return fault_set_errno(fault, err_from_errno(errno), errno, "listening on %s", path);
    }
    if (chmod(path, 0600) < 0 || listen(fd, BACKLOG) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "listening on %s", path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int unix_connect(const char *path, int *ret_fd, struct fault *fault)
{
    struct sockaddr_un address;
    int r = address_of(path, &address, fault);
    if (r < 0)
        return r;
    /* Who does not accept, and has a full queue, would be waited for without end. */
    AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fault_set_errno(fault, ERR_IO, errno, "opening a Unix socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "connecting to %s", path);
    (void)fcntl(fd, F_SETFL, 0); /* cannot fail on a socket of ours */
    *ret_fd = TAKE_FD(fd);
    return 0;
}
