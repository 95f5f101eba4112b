#include "base/units.h"

#include <assert.h>
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/world.h"

/* A number is read as whole and thousandths of thousandths: no floating point, so 0.1s is exactly
 * 100 ms and nothing is lost of large sizes. */
enum { FRACTION_DIGITS_MAX = 6, FRACTION_ONE = 1000000 };

struct unit {
    const char *name;
    uint64_t times;
    const char *instead; /* an unclear spelling: what to write; NULL for a clear one */
};

static const struct unit size_units[] = {
    {"", 1, NULL},         {"B", 1, NULL},           {"KiB", KIB(1), NULL}, {"MiB", MIB(1), NULL},
    {"GiB", GIB(1), NULL}, {"TiB", GIB(1024), NULL}, {"K", 0, "KiB"},       {"M", 0, "MiB"},
    {"G", 0, "GiB"},       {"T", 0, "TiB"},          {"KB", 0, "KiB"},      {"MB", 0, "MiB"},
    {"GB", 0, "GiB"},      {"TB", 0, "TiB"},         {"k", 0, "KiB"},       {"kB", 0, "KiB"},
    {"g", 0, "GiB"},       {"m", 0, "MiB"},          {"gb", 0, "GiB"},      {"mb", 0, "MiB"},
    {"gib", 0, "GiB"},     {"mib", 0, "MiB"},        {"kib", 0, "KiB"},     {"Gi", 0, "GiB"},
    {"Mi", 0, "MiB"},      {"Ki", 0, "KiB"},
};

static const struct unit duration_units[] = {
    {"ns", 1, NULL},
    {"us", NS_PER_US, NULL},
    {"ms", NS_PER_MS, NULL},
    {"s", NS_PER_S, NULL},
    {"m", 60 * NS_PER_S, NULL},
    {"h", 3600 * NS_PER_S, NULL},
    {"d", 86400 * NS_PER_S, NULL},
    {"", 0, "ms"},
    {"min", 0, "m"},
    {"sec", 0, "s"},
    {"M", 0, "m"},
};

static const struct unit rate_units[] = {
    {"B/s", 1, NULL},
    {"KiB/s", KIB(1), NULL},
    {"MiB/s", MIB(1), NULL},
    {"GiB/s", GIB(1), NULL},
    {"Mbit/s", 1000000 / 8, NULL},
    {"Gbit/s", 1000000000 / 8, NULL},
    {"", 0, "MiB/s"},
    {"MiB", 0, "MiB/s"},
    {"GiB", 0, "GiB/s"},
    {"M", 0, "MiB/s"},
    {"MB", 0, "MiB/s"},
    {"MB/s", 0, "MiB/s"},
    {"G", 0, "GiB/s"},
    {"GB", 0, "GiB/s"},
    {"GB/s", 0, "GiB/s"},
    {"Mbps", 0, "Mbit/s"},
    {"Gbps", 0, "Gbit/s"},
};

struct measure {
    const char *what; /* "a size" */
    const char *fits; /* "1GiB or 512MiB" */
    const struct unit *units;
    size_t count;
};

static const struct measure size_measure = {"a size", "1GiB or 512MiB", size_units,
                                            sizeof size_units / sizeof size_units[0]};
static const struct measure duration_measure = {"a time", "300ms, 10s or 5m", duration_units,
                                                sizeof duration_units / sizeof duration_units[0]};
static const struct measure rate_measure = {"a rate", "500MiB/s or 10Gbit/s", rate_units,
                                            sizeof rate_units / sizeof rate_units[0]};

static const struct unit *find_unit(const struct measure *measure, const char *name)
{
    for (size_t i = 0; i < measure->count; i++) {
        if (strcmp(measure->units[i].name, name) == 0)
            return &measure->units[i];
    }
    return NULL;
}

/* Digits with at most one point; false when there is no digit or too many. */
static bool take_number(const char **at, uint64_t *ret_whole, uint64_t *ret_fraction)
{
    const char *p = *at;
    uint64_t whole = 0, fraction = 0;
    if (!isdigit((unsigned char)*p))
        return false;
    for (; isdigit((unsigned char)*p); p++) {
        if (__builtin_mul_overflow(whole, 10, &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
            return false;
    }
    if (*p == '.') {
        p++;
        uint64_t weight = FRACTION_ONE;
        int digits = 0;
        for (; isdigit((unsigned char)*p); p++) {
            if (++digits > FRACTION_DIGITS_MAX)
                return false;
            weight /= 10;
            fraction += weight * (uint64_t)(*p - '0');
        }
        if (digits == 0)
            return false;
    }
    *at = p;
    *ret_whole = whole;
    *ret_fraction = fraction;
    return true;
}

static int parse(const struct measure *measure, const char *text, uint64_t *ret_value,
                 struct fault *fault)
{
    uint64_t whole, fraction;
    const char *at = text;
    if (!take_number(&at, &whole, &fraction))
        return fault_set(fault, ERR_INVALID, "found '%.40s', which is no %s; %s would fit", text,
                         measure->what + 2, measure->fits);
    size_t number_count = (size_t)(at - text);
    while (*at == ' ')
        at++;
    const struct unit *unit = find_unit(measure, at);
    if (!unit)
        return fault_set(fault, ERR_INVALID,
                         "found '%.40s' with the unknown unit '%.20s'; %s "
                         "would fit",
                         text, at, measure->fits);
    if (unit->instead)
        return fault_set(fault, ERR_INVALID,
                         "found '%.40s', which can be read in two ways; "
                         "write %.*s%s",
                         text, (int)number_count, text, unit->instead);
    uint64_t value, part;
    if (__builtin_mul_overflow(whole, unit->times, &value) ||
        __builtin_mul_overflow(fraction, unit->times, &part) ||
        __builtin_add_overflow(value, part / FRACTION_ONE, &value))
        return fault_set(fault, ERR_INVALID, "found '%.40s', which is too large for %s", text,
                         measure->what);
    if (part % FRACTION_ONE != 0 && unit->times == 1)
        return fault_set(fault, ERR_INVALID, "found '%.40s', a part of a %s; %s would fit", text,
                         unit->name[0] ? unit->name : "byte", measure->fits);
    *ret_value = value;
    return 0;
}

int units_parse_bytes(const char *text, uint64_t *ret_bytes, struct fault *fault)
{
    return parse(&size_measure, text, ret_bytes, fault);
}

int units_parse_duration(const char *text, uint64_t *ret_ns, struct fault *fault)
{
    if (strcmp(text, "0") == 0) { /* zero is zero in any unit */
        *ret_ns = 0;
        return 0;
    }
    return parse(&duration_measure, text, ret_ns, fault);
}

int units_parse_rate(const char *text, uint64_t *ret_bytes_per_s, struct fault *fault)
{
    if (strcmp(text, "0") == 0) {
        *ret_bytes_per_s = 0;
        return 0;
    }
    return parse(&rate_measure, text, ret_bytes_per_s, fault);
}

int units_parse_count(const char *text, uint64_t min, uint64_t max, uint64_t *ret_count,
                      struct fault *fault)
{
    assert(min <= max);
    uint64_t whole, fraction;
    const char *at = text;
    bool read = take_number(&at, &whole, &fraction);
    bool dotted = strchr(text, '.') != NULL;
    if (!read || dotted || *at != '\0' || whole < min || whole > max) {
        if (max == UINT64_MAX)
            return fault_set(fault, ERR_INVALID,
                             "found '%.40s'; a whole number from %llu would fit", text,
                             (unsigned long long)min);
        if (min == max)
            return fault_set(fault, ERR_INVALID, "found '%.40s'; %llu would fit", text,
                             (unsigned long long)min);
        return fault_set(fault, ERR_INVALID,
                         "found '%.40s'; a whole number from %llu to %llu would fit", text,
                         (unsigned long long)min, (unsigned long long)max);
    }
    *ret_count = whole;
    return 0;
}

static const char *const size_names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

/* The largest unit of which there is at least one, after rounding. */
static double scale(uint64_t bytes, size_t *ret_unit)
{
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1023.5 && unit + 1 < sizeof size_names / sizeof size_names[0]) {
        value /= 1024;
        unit++;
    }
    *ret_unit = unit;
    return value;
}

void units_print_bytes(uint64_t bytes, char ret_text[static UNITS_TEXT_SIZE])
{
    size_t unit;
    double value = scale(bytes, &unit);
    int digits = unit == 0 || value >= (unit >= 3 ? 99.95 : 9.95) ? 0 : 1;
    (void)snprintf(ret_text, UNITS_TEXT_SIZE, "%.*f %s", digits, value, size_names[unit]);
}

void units_print_rate(uint64_t bytes_per_s, char ret_text[static UNITS_TEXT_SIZE])
{
    size_t unit;
    double value = scale(bytes_per_s, &unit);
    int digits = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    (void)snprintf(ret_text, UNITS_TEXT_SIZE, "%.*f %s/s", digits, value, size_names[unit]);
}

/* "2 m 5 s", and "15 m" rather than "15 m 0 s". */
static void print_two(char *ret_text, uint64_t large, const char *large_unit, uint64_t small,
                      const char *small_unit)
{
    if (small == 0)
        (void)snprintf(ret_text, UNITS_TEXT_SIZE, "%llu %s", (unsigned long long)large, large_unit);
    else
        (void)snprintf(ret_text, UNITS_TEXT_SIZE, "%llu %s %llu %s", (unsigned long long)large,
                       large_unit, (unsigned long long)small, small_unit);
}

void units_print_duration(uint64_t ns, char ret_text[static UNITS_TEXT_SIZE])
{
    double ms = (double)ns / (double)NS_PER_MS;
    uint64_t s = ns / NS_PER_S;
    if (ns == 0)
        (void)snprintf(ret_text, UNITS_TEXT_SIZE, "0 s");
    else if (ns < NS_PER_US)
        (void)snprintf(ret_text, UNITS_TEXT_SIZE, "%u ns", (unsigned)ns);
    else if (ms < 0.9995)
        (void)snprintf(ret_text, UNITS_TEXT_SIZE, "%.0f us", ms * 1000);
    else if (ms < 9.95)
        (void)snprintf(ret_text, UNITS_TEXT_SIZE, "%.1f ms", ms);
    else if (ms < 999.5)
        (void)snprintf(ret_text, UNITS_TEXT_SIZE, "%.0f ms", ms);
    else if (ms < 59950)
        (void)snprintf(ret_text, UNITS_TEXT_SIZE, "%.1f s", ms / 1000);
    else if (s < 3600)
        print_two(ret_text, s / 60, "m", s % 60, "s");
    else if (s < 86400)
        print_two(ret_text, s / 3600, "h", s / 60 % 60, "m");
    else
        print_two(ret_text, s / 86400, "d", s / 3600 % 24, "h");
}

void units_print_count(uint64_t count, char ret_text[static UNITS_TEXT_SIZE])
{
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)count);
    size_t used = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            ret_text[used++] = ',';
        ret_text[used++] = digits[i];
    }
    ret_text[used] = '\0';
}
