#include "migrate/page_guard.h"

#include <assert.h>
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/userfault.h"

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif

int page_guard_open(struct page_guard *guard, uint8_t *base, uint64_t pages, struct fault *fault)
{
    struct uffdio_register watch = {
        .range = {.start = (uintptr_t)base, .len = pages << PAGE_SHIFT},
        .mode = UFFDIO_REGISTER_MODE_WP,
    };
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
    AUTO_FD int fd = userfault_descriptor();

    guard->fd = -1;
    if (fd < 0) {
        int r = fault_set_errno(fault, ERR_UNSUPPORTED, errno,
                                "this host does not let a guest's write wait (userfaultfd), so it "
                                "takes no snapshot of a running guest's memory");
        fault_hint(fault, "sysctl vm.unprivileged_userfaultfd=1");
        return r;
    }
    if (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &watch) < 0 ||
        !(watch.ioctls & UINT64_C(1) << _UFFDIO_WRITEPROTECT))
        return fault_set_errno(fault, ERR_UNSUPPORTED, errno,
                               "this kernel does not protect a guest's memory against writes "
                               "(userfaultfd, Linux 5.19)");
    guard->fd = TAKE_FD(fd);
    guard->base = base;
    guard->pages = pages;
    return 0;
}

void page_guard_close(struct page_guard *guard)
{
    close_p(&guard->fd);
}

/* EAGAIN: the process's memory map is just being changed. */
static int set_mode(struct page_guard *guard, uint64_t first, uint64_t count, uint64_t mode,
                    struct fault *fault)
{
    assert(range_fits(first, count, guard->pages));
    struct uffdio_writeprotect protect = {
        .range = {.start = (uintptr_t)guard->base + (first << PAGE_SHIFT),
                  .len = count << PAGE_SHIFT},
        .mode = mode,
    };
    while (ioctl(guard->fd, UFFDIO_WRITEPROTECT, &protect) < 0) {
        if (errno != EAGAIN)
            return fault_set_errno(fault, err_from_errno(errno), errno,
                                   "protecting guest memory against writes");
        (void)sched_yield();
    }
    return 0;
}

int page_guard_protect(struct page_guard *guard, uint64_t first, uint64_t count,
                       struct fault *fault)
{
    return set_mode(guard, first, count, UFFDIO_WRITEPROTECT_MODE_WP, fault);
}

int page_guard_release(struct page_guard *guard, uint64_t first, uint64_t count,
                       struct fault *fault)
{
    return set_mode(guard, first, count, 0, fault);
}

int page_guard_read(struct page_guard *guard, uint64_t ret_pages[static PAGE_GUARD_READ_MAX],
                    unsigned *ret_count, struct fault *fault)
{
    struct uffd_msg messages[PAGE_GUARD_READ_MAX];
    ssize_t count = read(guard->fd, messages, sizeof messages);

    *ret_count = 0;
    if (count < 0)
        return errno == EAGAIN || errno == EINTR
                   ? 0
                   : fault_set_errno(fault, ERR_IO, errno, "reading which pages are to be written");
    for (size_t i = 0; i < (size_t)count / sizeof messages[0]; i++) {
        if (messages[i].event == UFFD_EVENT_PAGEFAULT)
            ret_pages[(*ret_count)++] =
                (messages[i].arg.pagefault.address - (uintptr_t)guard->base) >> PAGE_SHIFT;
    }
    return 0;
}
