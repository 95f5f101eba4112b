#include "agent/vm/sandbox.h"

#include <errno.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/err.h"

int sandbox_enter(int fd_last, struct fault *fault)
{
    static const struct rlimit no_core = {0, 0};

    if (close_range((unsigned)fd_last + 1, ~0U, 0) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "closing inherited descriptors");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return fault_set_errno(fault, ERR_DENIED, errno, "giving up new privileges");
    if (setrlimit(RLIMIT_CORE, &no_core) < 0)
        return fault_set_errno(fault, ERR_DENIED, errno, "forbidding core dumps");
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return fault_set_errno(fault, ERR_DENIED, errno, "making the process undumpable");
    return 0;
}
