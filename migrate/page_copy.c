#include "migrate/page_copy.h"

#include <string.h>

#include "base/bytes.h"

/* GCC's vector types, compiled for three instruction sets and chosen once by the loader. A racing
 * guest write is expected; the sanitizer is told by looking away. */
typedef uint64_t page_copy_lane __attribute__((vector_size(64), aligned(64), may_alias));

#if defined(__SANITIZE_THREAD__) || !defined(__x86_64__) || defined(__clang__)
#define PAGE_COPY_CLONES
#else
#define PAGE_COPY_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

PAGE_COPY_CLONES
__attribute__((no_sanitize("thread"), no_sanitize("address"))) bool page_copy(uint8_t *ret_page,
                                                                              const uint8_t *page)
{
    const page_copy_lane *from = (const page_copy_lane *)(const void *)page;
    page_copy_lane *to = (page_copy_lane *)(void *)ret_page;
    page_copy_lane any = {0};

    for (unsigned i = 0; i < PAGE_BYTES / sizeof *from; i += 4) {
        page_copy_lane a = from[i], b = from[i + 1], c = from[i + 2], d = from[i + 3];
        to[i] = a;
        to[i + 1] = b;
        to[i + 2] = c;
        to[i + 3] = d;
        any |= (a | b) | (c | d);
    }
    uint64_t word = 0;
    for (unsigned i = 0; i < 8; i++)
        word |= any[i];
    return word != 0;
}
