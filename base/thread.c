#include "base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
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

enum { GIVE_WAY_NICE = 5 };

static __thread bool gives_way, is_refused;

/* Becoming more important wants CAP_SYS_NICE or RLIMIT_NICE: tried with the smallest step, which is
 * all that stays when it is refused. */
static bool may_take_back(int nice)
{
    return setpriority(PRIO_PROCESS, 0, nice + 1) == 0 && setpriority(PRIO_PROCESS, 0, nice) == 0;
}

void thread_give_way(void)
{
    int nice = getpriority(PRIO_PROCESS, 0); /* of this thread only, on Linux */
    if (gives_way || is_refused || nice + GIVE_WAY_NICE > 19)
        return;
    is_refused = !may_take_back(nice);
    gives_way = !is_refused && setpriority(PRIO_PROCESS, 0, nice + GIVE_WAY_NICE) == 0;
}

void thread_hurry(void)
{
    if (!gives_way)
        return;
    (void)setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) - GIVE_WAY_NICE);
    gives_way = false;
}

void thread_stand_back(void)
{
    (void)setpriority(PRIO_PROCESS, 0, 19); /* of this thread only; lowering is always allowed */
}
