/* Time and chance: the only places where a shell reads a clock or draws a random number.
 *
 * Flow:   kernel -> [world] -> shells -> events of cores
 * Thread: any; no state.
 */
#ifndef GODWIT_BASE_WORLD_H
#define GODWIT_BASE_WORLD_H

#include <stddef.h>
#include <stdint.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

uint64_t world_now_ns(void);        /* CLOCK_BOOTTIME: counts suspend, never steps */
uint64_t world_now_ms(void);        /* the same in milliseconds */
uint64_t world_wall_ms(void);       /* CLOCK_REALTIME since 1970: for people and certificates */
uint64_t world_thread_cpu_ns(void); /* CPU time of the calling thread */
uint64_t world_process_cpu_ns(void); /* CPU time of this process, all threads, user and kernel */

/* Cryptographic chance from the kernel; never fails (it blocks until the pool is seeded). */
void world_random(void *ret_bytes, size_t count);

#endif
