#include "base/world.h"

#include <assert.h>
#include <errno.h>
#include <sys/random.h>
#include <time.h>

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    int r = clock_gettime(clock, &now);
    assert(r == 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t world_now_ns(void)
{
    return clock_ns(CLOCK_BOOTTIME);
}

uint64_t world_now_ms(void)
{
    return world_now_ns() / NS_PER_MS;
}

uint64_t world_wall_ms(void)
{
    return clock_ns(CLOCK_REALTIME) / NS_PER_MS;
}

uint64_t world_thread_cpu_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t world_process_cpu_ns(void)
{
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

void world_random(void *ret_bytes, size_t count)
{
    uint8_t *at = ret_bytes;
    while (count > 0) {
        ssize_t got = getrandom(at, count, 0);
        if (got < 0) {
            assert(errno == EINTR);
            continue;
        }
        at += got;
        count -= (size_t)got;
    }
}
