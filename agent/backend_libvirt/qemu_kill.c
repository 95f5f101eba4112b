#include "agent/backend_libvirt/qemu_kill.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/backend_libvirt/virt_view.h"
#include "base/err.h"
#include "base/own.h"

enum { WORDS_MAX = 256 << 10 };

bool qemu_kill_is_domain(const char *words, size_t count, const char *uuid)
{
    bool is_next = false;

    for (size_t at = 0; at < count;) {
        size_t length = strnlen(words + at, count - at);
        if (length == count - at)
            return false; /* cut off: the last word may be longer */
        if (is_next && strcmp(words + at, uuid) == 0)
            return true;
        is_next = strcmp(words + at, "-uuid") == 0;
        at += length + 1;
    }
    return false;
}

static bool read_words(int32_t pid, char *ret_words, size_t size, size_t *ret_count)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    *ret_count = 0;
    while (*ret_count < size) {
        ssize_t count = read(fd, ret_words + *ret_count, size - *ret_count);
        if (count < 0)
            return false;
        if (count == 0)
            break;
        *ret_count += (size_t)count;
    }
    return true;
}

int qemu_kill(int32_t pid, const char *vm_id, struct fault *fault)
{
    char uuid[37];
    size_t count = 0;
    AUTO_FREE char *words = malloc(WORDS_MAX);

    if (pid <= 0 || !virt_view_uuid(vm_id, uuid))
        return fault_set(fault, ERR_STATE, "the process of the domain's QEMU is not known");
    if (!words)
        return fault_set(fault, ERR_NOMEM, "no memory to look at process %d", pid);
    AUTO_FD int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return errno == ESRCH ? 0
                              : fault_set_errno(fault, ERR_IO, errno, "holding process %d", pid);
    if (!read_words(pid, words, WORDS_MAX, &count) || !qemu_kill_is_domain(words, count, uuid))
        return fault_set(fault, ERR_STATE, "process %d has not shown that it runs the domain", pid);
    if (syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
        return fault_set_errno(fault, ERR_DENIED, errno, "ending process %d", pid);
    return 0;
}
