/* Sizes, times and rates as people write and read them.
 *
 * Flow:   flags, YAML -> [units] -> numbers -> [units] -> tables, receipts
 * Thread: any; no state.
 *
 * Sizes are in powers of two and say so (KiB, MiB, GiB, TiB); "GB" and "G", which mean two things,
 * are refused with the spelling that fits. Every refusal says what was found and what would fit.
 */
#ifndef GODWIT_BASE_UNITS_H
#define GODWIT_BASE_UNITS_H

#include <stddef.h>
#include <stdint.h>

struct fault;

enum { UNITS_TEXT_SIZE = 32 };

/* "1GiB", "1.5GiB", "512 MiB", "4096" (bytes). */
int units_parse_bytes(const char *text, uint64_t *ret_bytes, struct fault *fault);
/* "300ms", "10m", "1.5s", "2h", "7d"; a number without unit is refused. */
int units_parse_duration(const char *text, uint64_t *ret_ns, struct fault *fault);
/* "500MiB/s", "10Gbit/s"; a size without "/s" is refused. */
int units_parse_rate(const char *text, uint64_t *ret_bytes_per_s, struct fault *fault);
/* A whole decimal number. */
int units_parse_count(const char *text, uint64_t min, uint64_t max, uint64_t *ret_count,
                      struct fault *fault);

/* "512 MiB", "8.0 GiB". */
void units_print_bytes(uint64_t bytes, char ret_text[static UNITS_TEXT_SIZE]);
/* "1.12 GiB/s", "290 MiB/s". */
void units_print_rate(uint64_t bytes_per_s, char ret_text[static UNITS_TEXT_SIZE]);
/* "800 us", "24 ms", "8.3 s", "2 m 5 s", "3 h 12 m", "4 d 2 h". */
void units_print_duration(uint64_t ns, char ret_text[static UNITS_TEXT_SIZE]);
/* "2,097,152". */
void units_print_count(uint64_t count, char ret_text[static UNITS_TEXT_SIZE]);

#endif
