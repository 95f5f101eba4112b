#include "base/userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

enum { FLAGS = O_CLOEXEC | O_NONBLOCK };

/* Faults of user space alone are given to everybody, and are not enough. An unprivileged process
 * gets more by the device, where its owner allows it. */
int userfault_descriptor(void)
{
    int fd = (int)syscall(SYS_userfaultfd, FLAGS);
    if (fd >= 0 || (errno != EPERM && errno != ENOSYS))
        return fd;
    AUTO_FD int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    return device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, FLAGS);
}

static const char *hint_for(int error)
{
    return error == EACCES ? "give its user /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1"
                           : "sysctl vm.unprivileged_userfaultfd=1";
}

int userfault_open(int *ret_fd, struct fault *fault)
{
    AUTO_FD int fd = userfault_descriptor();
    if (fd < 0) {
        int error = errno;
        int r = fault_set_errno(fault, ERR_UNSUPPORTED, error,
                                "this host does not let a guest wait for a page (userfaultfd), so "
                                "there is no post-copy to it");
        fault_hint(fault, "%s", hint_for(error));
        return r;
    }
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(fd, UFFDIO_API, &api) < 0)
        return fault_set_errno(fault, ERR_UNSUPPORTED, errno,
                               "asking what userfaultfd can do here");
    *ret_fd = TAKE_FD(fd);
    return 0;
}
