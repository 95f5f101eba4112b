#include "migrate/page_faults.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

enum { FLAGS = O_CLOEXEC | O_NONBLOCK };

/* KVM and the devices touch the memory inside the kernel, so faults of user space alone are not
 * enough. An unprivileged process gets more by the device, where its owner allows it. */
static int open_any(void)
{
    int fd = (int)syscall(SYS_userfaultfd, FLAGS);
    if (fd >= 0 || (errno != EPERM && errno != ENOSYS))
        return fd;
    AUTO_FD int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    return device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, FLAGS);
}

int page_faults_open(struct page_faults *faults, struct fault *fault)
{
    AUTO_FD int fd = open_any();
    if (fd < 0) {
        int r = fault_set_errno(fault, ERR_UNSUPPORTED, errno,
                                "this host does not let a guest wait for a page (userfaultfd), so "
                                "there is no post-copy to it");
        fault_hint(fault, "sysctl vm.unprivileged_userfaultfd=1");
        return r;
    }
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(fd, UFFDIO_API, &api) < 0)
        return fault_set_errno(fault, ERR_UNSUPPORTED, errno,
                               "asking what userfaultfd can do here");
    faults->fd = TAKE_FD(fd);
    return 0;
}

void page_faults_close(struct page_faults *faults)
{
    close_p(&faults->fd);
}

int page_faults_watch(struct page_faults *faults, uint8_t *base, uint64_t bytes,
                      struct fault *fault)
{
    struct uffdio_register watch = {.range = {.start = (uintptr_t)base, .len = bytes},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    const uint64_t wanted = UINT64_C(1) << _UFFDIO_COPY | UINT64_C(1) << _UFFDIO_ZEROPAGE;
    if (ioctl(faults->fd, UFFDIO_REGISTER, &watch) < 0)
        return fault_set_errno(fault, ERR_UNSUPPORTED, errno,
                               "watching %llu MiB of guest memory for missing pages",
                               (unsigned long long)(bytes >> 20));
    if ((watch.ioctls & wanted) != wanted)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "the guest's memory is of a kind whose pages "
                         "cannot be laid one by one");
    return 0;
}

int page_faults_read(struct page_faults *faults,
                     uint64_t ret_addresses[static PAGE_FAULTS_READ_MAX], unsigned *ret_count,
                     struct fault *fault)
{
    struct uffd_msg messages[PAGE_FAULTS_READ_MAX];
    ssize_t count = read(faults->fd, messages, sizeof messages);
    *ret_count = 0;
    if (count < 0)
        return errno == EAGAIN || errno == EINTR
                   ? 0
                   : fault_set_errno(fault, ERR_IO, errno, "reading which pages are waited for");
    for (size_t i = 0; i < (size_t)count / sizeof messages[0]; i++) {
        if (messages[i].event == UFFD_EVENT_PAGEFAULT)
            ret_addresses[(*ret_count)++] = messages[i].arg.pagefault.address & ~UINT64_C(0xfff);
    }
    return 0;
}

static void wake(struct page_faults *faults, uint8_t *page)
{
    struct uffdio_range range = {.start = (uintptr_t)page, .len = PAGE_BYTES};
    (void)ioctl(faults->fd, UFFDIO_WAKE, &range); /* of our own range: cannot fail */
}

static int judge(struct page_faults *faults, uint8_t *page, int error, struct fault *fault)
{
    if (error == EEXIST) {
        wake(faults, page); /* whoever faulted between the laying and now */
        return PAGE_FAULTS_E_THERE;
    }
    return fault_set_errno(fault, err_from_errno(error), error, "laying a page of guest memory");
}

/* EAGAIN: the process's memory map is just being changed. */
int page_faults_lay(struct page_faults *faults, uint8_t *page, const uint8_t *bytes,
                    struct fault *fault)
{
    for (;;) {
        struct uffdio_copy copy = {
            .dst = (uintptr_t)page, .src = (uintptr_t)bytes, .len = PAGE_BYTES};
        if (ioctl(faults->fd, UFFDIO_COPY, &copy) == 0)
            return 0;
        if (errno != EAGAIN)
            return judge(faults, page, errno, fault);
        (void)sched_yield();
    }
}

int page_faults_lay_zero(struct page_faults *faults, uint8_t *page, struct fault *fault)
{
    for (;;) {
        struct uffdio_zeropage zero = {.range = {.start = (uintptr_t)page, .len = PAGE_BYTES}};
        if (ioctl(faults->fd, UFFDIO_ZEROPAGE, &zero) == 0)
            return 0;
        if (errno != EAGAIN)
            return judge(faults, page, errno, fault);
        (void)sched_yield();
    }
}
