#include "base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's struct sched_attr, first version: glibc has no declaration for it. */
struct slice_attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

#define SHORT_TURN_NS UINT64_C(500000)

void thread_begin(const char *name)
{
    (void)pthread_setname_np(pthread_self(), name); /* a nicety */
    struct slice_attr attr = {.size = sizeof attr,
                              .policy = SCHED_OTHER,
                              .nice = getpriority(PRIO_PROCESS, 0), /* the call sets this, too */
                              .runtime_ns = SHORT_TURN_NS};
    (void)syscall(SYS_sched_setattr, 0, &attr, 0); /* refused: turns stay as long as they were */
}

void thread_stand_back(void)
{
    (void)setpriority(PRIO_PROCESS, 0, 19); /* of this thread only; lowering is always allowed */
}
