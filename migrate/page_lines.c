/* Of a line's eight words w and the key's k:
 *
 *      sum over j of lo32(w_j ^ k_j) * hi32(w_j ^ k_j)   +   odd * sum over j of w_j
 *
 * The products are XXH3's step. Alone they miss a change beside a half that is zero; the second sum
 * sees it: no change within one half of one word can cancel out, since `odd` is odd in both halves.
 */
#include "migrate/page_lines.h"

#include <string.h>

#include "base/bytes.h"
#include "base/world.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { LINE_WORDS = 8 };

void page_lines_draw_key(struct page_lines_key *ret_key)
{
    world_random(ret_key, sizeof *ret_key);
    ret_key->odd |= UINT64_C(0x100000001);
}

void page_lines_take_plain(const struct page_lines_key *key, const uint8_t *page,
                           uint64_t ret_lines[static PAGE_LINES])
{
    for (unsigned i = 0; i < PAGE_LINES; i++) {
        uint64_t words[LINE_WORDS], products = 0, sum = 0;
        memcpy(words, page + (size_t)i * sizeof words, sizeof words);
        for (unsigned j = 0; j < LINE_WORDS; j++) {
            uint64_t x = words[j] ^ key->words[j];
            products += (x & UINT32_MAX) * (x >> 32);
            sum += words[j];
        }
        ret_lines[i] = products + key->odd * sum;
    }
}

#if defined(__x86_64__)

#define AVX2 __attribute__((target("avx2")))

/* Four sums of four words each, a line's two halves already added up. */
AVX2 static inline __m256i add_across(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i ab = _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    __m256i cd = _mm256_add_epi64(_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
    return _mm256_add_epi64(_mm256_permute2x128_si256(ab, cd, 0x20),
                            _mm256_permute2x128_si256(ab, cd, 0x31));
}

AVX2 static inline __m256i multiply(__m256i a, __m256i b)
{
    __m256i cross = _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(a, 32), b),
                                     _mm256_mul_epu32(a, _mm256_srli_epi64(b, 32)));
    return _mm256_add_epi64(_mm256_mul_epu32(a, b), _mm256_slli_epi64(cross, 32));
}

AVX2 static void take_avx2(const struct page_lines_key *key, const uint8_t *page,
                           uint64_t *ret_lines)
{
    const __m256i *at = (const __m256i *)(const void *)page;
    const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)key->words);
    const __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(key->words + 4));
    const __m256i odd = _mm256_set1_epi64x((long long)key->odd);

    for (unsigned i = 0; i < PAGE_LINES; i += 4, at += 8) {
        __m256i products[4], sums[4];
        for (unsigned j = 0; j < 4; j++) {
            __m256i a = _mm256_load_si256(at + 2 * (size_t)j);
            __m256i b = _mm256_load_si256(at + 2 * (size_t)j + 1);
            __m256i x = _mm256_xor_si256(a, low), y = _mm256_xor_si256(b, high);
            products[j] = _mm256_add_epi64(_mm256_mul_epu32(x, _mm256_srli_epi64(x, 32)),
                                           _mm256_mul_epu32(y, _mm256_srli_epi64(y, 32)));
            sums[j] = _mm256_add_epi64(a, b);
        }
        __m256i product = add_across(products[0], products[1], products[2], products[3]);
        __m256i sum = add_across(sums[0], sums[1], sums[2], sums[3]);
        _mm256_storeu_si256((__m256i *)(void *)(ret_lines + i),
                            _mm256_add_epi64(product, multiply(odd, sum)));
    }
}

#endif

void page_lines_take(const struct page_lines_key *key, const uint8_t *page,
                     uint64_t ret_lines[static PAGE_LINES])
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        take_avx2(key, page, ret_lines);
        return;
    }
#endif
    page_lines_take_plain(key, page, ret_lines);
}

uint64_t page_lines_differ(const uint64_t one[static PAGE_LINES],
                           const uint64_t other[static PAGE_LINES])
{
    uint64_t differ = 0;
    for (unsigned i = 0; i < PAGE_LINES; i++)
        differ |= (uint64_t)(one[i] != other[i]) << i;
    return differ;
}
