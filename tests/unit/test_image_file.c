#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/image_file.h"
#include "cli/transfer_bar.h"

static void tells_raw_from_what_other_programs_made(void **state)
{
    (void)state;
    uint8_t bytes[512] = {0};
    enum image_form form;
    const char *what;
    struct fault fault = {0};

    assert_int_equal(image_file_judge(bytes, sizeof bytes, &form, &what, &fault), 0);
    assert_int_equal(form, IMAGE_RAW);
    assert_int_equal(image_file_judge(bytes, 0, &form, &what, &fault), 0);
    assert_int_equal(form, IMAGE_RAW);
    memcpy(bytes, "KDMV", 4);
    assert_int_equal(image_file_judge(bytes, sizeof bytes, &form, &what, &fault), 0);
    assert_int_equal(form, IMAGE_FOREIGN);
    assert_string_equal(what, "VMDK");
}

static void refuses_a_qcow2_that_names_another_file(void **state)
{
    (void)state;
    uint8_t bytes[512] = "QFI\xfb";
    enum image_form form;
    const char *what;
    struct fault fault = {0};
    bytes[7] = 3;

    assert_int_equal(image_file_judge(bytes, sizeof bytes, &form, &what, &fault), 0);
    assert_int_equal(form, IMAGE_QCOW2);
    bytes[15] = 1; /* a backing file's name stands there */
    assert_int_equal(image_file_judge(bytes, sizeof bytes, &form, &what, &fault), ERR_REFUSED);
    bytes[15] = 0;
    bytes[79] = 4; /* an external data file */
    assert_int_equal(image_file_judge(bytes, sizeof bytes, &form, &what, &fault), ERR_REFUSED);
    bytes[7] = 9;
    assert_int_equal(image_file_judge(bytes, sizeof bytes, &form, &what, &fault), ERR_UNSUPPORTED);
    assert_int_equal(image_file_judge(bytes, 20, &form, &what, &fault), ERR_CORRUPT);
}

static void a_transfer_is_told_with_its_rate_and_what_is_left(void **state)
{
    (void)state;
    struct transfer_bar bar = {.title = "debian12 to node2", .began_ms = 1000};
    char line[TRANSFER_LINE_SIZE];

    transfer_bar_line(&bar, 100 << 20, 300 << 20, 2000, line);

    assert_string_equal(line,
                        "debian12 to node2   33 %  100 MiB of 300 MiB  100 MiB/s  ETA 2.0 s");
    transfer_bar_line(&bar, 0, 0, 1000, line);
    assert_string_equal(line, "debian12 to node2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_raw_from_what_other_programs_made),
        cmocka_unit_test(refuses_a_qcow2_that_names_another_file),
        cmocka_unit_test(a_transfer_is_told_with_its_rate_and_what_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
