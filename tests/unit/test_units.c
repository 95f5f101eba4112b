#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"

static void reads_sizes_with_their_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {{"0", 0},
                 {"4096", 4096},
                 {"512MiB", MIB(512)},
                 {"1GiB", GIB(1)},
                 {"1.5GiB", GIB(3) / 2},
                 {"512 MiB", MIB(512)},
                 {"0.5KiB", 512},
                 {"17179869183GiB", GIB(17179869183)}};

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint64_t bytes = 1;
        assert_int_equal(units_parse_bytes(cases[i].text, &bytes, NULL), 0);
        assert_int_equal(bytes, cases[i].bytes);
    }
}

static void reads_times_and_rates(void **state)
{
    (void)state;
    uint64_t value;

    assert_int_equal(units_parse_duration("300ms", &value, NULL), 0);
    assert_int_equal(value, 300 * NS_PER_MS);
    assert_int_equal(units_parse_duration("0.1s", &value, NULL), 0);
    assert_int_equal(value, 100 * NS_PER_MS);
    assert_int_equal(units_parse_duration("10m", &value, NULL), 0);
    assert_int_equal(value, 600 * NS_PER_S);
    assert_int_equal(units_parse_duration("0", &value, NULL), 0);
    assert_int_equal(value, 0);
    assert_int_equal(units_parse_rate("500MiB/s", &value, NULL), 0);
    assert_int_equal(value, MIB(500));
    assert_int_equal(units_parse_rate("10Gbit/s", &value, NULL), 0);
    assert_int_equal(value, 1250000000);
}

static void says_what_it_found_and_what_would_fit(void **state)
{
    (void)state;
    static const struct {
        int (*parse)(const char *text, uint64_t *ret_value, struct fault *fault);
        const char *text, *words;
    } cases[] = {
        {units_parse_bytes, "lots", "found 'lots', which is no size; 1GiB or 512MiB would fit"},
        {units_parse_bytes, "", "found '', which is no size; 1GiB or 512MiB would fit"},
        {units_parse_bytes, "-1GiB", "found '-1GiB', which is no size; 1GiB or 512MiB would fit"},
        {units_parse_bytes, "1GB", "found '1GB', which can be read in two ways; write 1GiB"},
        {units_parse_bytes, "2G", "found '2G', which can be read in two ways; write 2GiB"},
        {units_parse_bytes, "1XiB",
         "found '1XiB' with the unknown unit 'XiB'; 1GiB or 512MiB would fit"},
        {units_parse_bytes, "1.5", "found '1.5', a part of a byte; 1GiB or 512MiB would fit"},
        {units_parse_bytes, "17179869184GiB",
         "found '17179869184GiB', which is too large for a size"},
        {units_parse_bytes, "99999999999999999999",
         "found '99999999999999999999', which is no size; 1GiB or 512MiB would fit"},
        {units_parse_duration, "100", "found '100', which can be read in two ways; write 100ms"},
        {units_parse_duration, "soon",
         "found 'soon', which is no time; 300ms, 10s or 5m would fit"},
        {units_parse_rate, "500MiB",
         "found '500MiB', which can be read in two ways; write 500MiB/s"},
        {units_parse_rate, "1Gbps", "found '1Gbps', which can be read in two ways; write 1Gbit/s"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct fault fault = {0};
        uint64_t value = 7;
        assert_int_equal(cases[i].parse(cases[i].text, &value, &fault), ERR_INVALID);
        assert_string_equal(fault.text, cases[i].words);
        assert_int_equal(value, 7);
    }
}

static void counts_stay_in_their_range(void **state)
{
    (void)state;
    struct fault fault = {0};
    uint64_t count;

    assert_int_equal(units_parse_count("16", 1, 16, &count, &fault), 0);
    assert_int_equal(count, 16);
    assert_int_equal(units_parse_count("17", 1, 16, &count, &fault), ERR_INVALID);
    assert_string_equal(fault.text, "found '17'; a whole number from 1 to 16 would fit");
    assert_int_equal(units_parse_count("2.0", 1, 16, &count, &fault), ERR_INVALID);
    assert_int_equal(units_parse_count("2x", 1, 16, &count, &fault), ERR_INVALID);
    assert_int_equal(units_parse_count("0", 1, UINT64_MAX, &count, &fault), ERR_INVALID);
    assert_string_equal(fault.text, "found '0'; a whole number from 1 would fit");
}

static void prints_what_people_read(void **state)
{
    (void)state;
    static const struct {
        void (*print)(uint64_t value, char *ret_text);
        uint64_t value;
        const char *text;
    } cases[] = {
        {units_print_bytes, 0, "0 B"},
        {units_print_bytes, 1023, "1023 B"},
        {units_print_bytes, 1024, "1.0 KiB"},
        {units_print_bytes, MIB(512), "512 MiB"},
        {units_print_bytes, GIB(8), "8.0 GiB"},
        {units_print_bytes, GIB(1) - 1, "1.0 GiB"},
        {units_print_bytes, UINT64_MAX, "16.0 EiB"},
        {units_print_rate, MIB(290), "290 MiB/s"},
        {units_print_rate, GIB(1) + GIB(12) / 100, "1.12 GiB/s"},
        {units_print_duration, 0, "0 s"},
        {units_print_duration, 999, "999 ns"},
        {units_print_duration, 57000, "57 us"},
        {units_print_duration, 999999, "1.0 ms"},
        {units_print_duration, 2400000, "2.4 ms"},
        {units_print_duration, 24 * NS_PER_MS, "24 ms"},
        {units_print_duration, 8300 * NS_PER_MS, "8.3 s"},
        {units_print_duration, 125 * NS_PER_S, "2 m 5 s"},
        {units_print_duration, 900 * NS_PER_S, "15 m"},
        {units_print_duration, 11520 * NS_PER_S, "3 h 12 m"},
        {units_print_duration, 353000 * NS_PER_S, "4 d 2 h"},
        {units_print_count, 0, "0"},
        {units_print_count, 999, "999"},
        {units_print_count, 2097152, "2,097,152"},
        {units_print_count, UINT64_MAX, "18,446,744,073,709,551,615"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char text[UNITS_TEXT_SIZE];
        cases[i].print(cases[i].value, text);
        assert_string_equal(text, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_sizes_with_their_units),
        cmocka_unit_test(reads_times_and_rates),
        cmocka_unit_test(says_what_it_found_and_what_would_fit),
        cmocka_unit_test(counts_stay_in_their_range),
        cmocka_unit_test(prints_what_people_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
