#include "migrate/page_faults.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "base/userfault.h"

int page_faults_open(struct page_faults *faults, struct fault *fault)
{
    int r = failpoint_check(FAILPOINT_TARGET_FAULTS_OPEN, fault);
    return r < 0 ? r : userfault_open(&faults->fd, fault);
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

/* EAGAIN: the process's memory map is just being changed, or whatever else ended it after some of them. */
int page_faults_lay_run(struct page_faults *faults, uint8_t *first, const uint8_t *bytes,
                        unsigned pages, unsigned *ret_laid, struct fault *fault)
{
    for (*ret_laid = 0; *ret_laid < pages;) {
        uint64_t at = (uint64_t)*ret_laid * PAGE_BYTES;
        struct uffdio_copy copy = {.dst = (uintptr_t)first + at,
                                   .src = (uintptr_t)bytes + at,
                                   .len = (uint64_t)pages * PAGE_BYTES - at};
        if (ioctl(faults->fd, UFFDIO_COPY, &copy) == 0) {
            *ret_laid = pages;
            return 0;
        }
        if (errno != EAGAIN)
            return judge(faults, first + at, errno, fault);
        if (copy.copy > 0)
            *ret_laid += (unsigned)((uint64_t)copy.copy / PAGE_BYTES);
        else
            (void)sched_yield();
    }
    return 0;
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
