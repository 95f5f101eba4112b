/* One good 64-bit mixing step (splitmix64's finaliser): pages, sums and choices are made of it.
 *
 * Flow:   page_content, test_memory, writer -> [mix]
 * Thread: any.
 */
#ifndef GUEST_MIX_H
#define GUEST_MIX_H

#include <stdint.h>

static inline uint64_t mix64(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

#endif
