#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"

static void setting_gives_code_and_words(void **state)
{
    (void)state;
    struct fault fault = {.hint = "old"};

    int r = fault_set(&fault, ERR_BUSY, "vm '%s' is moving", "a");

    assert_int_equal(r, ERR_BUSY);
    assert_int_equal(fault.code, ERR_BUSY);
    assert_string_equal(fault.text, "vm 'a' is moving");
    assert_string_equal(fault.hint, "");
}

static void without_a_fault_only_the_code_is_given(void **state)
{
    (void)state;
    assert_int_equal(fault_set(NULL, ERR_IO, "x"), ERR_IO);
    assert_int_equal(fault_set_errno(NULL, ERR_IO, EIO, "x"), ERR_IO);
    assert_int_equal(fault_wrap(NULL, ERR_IO, "x"), ERR_IO);
    fault_hint(NULL, "x");
}

static void wrapping_puts_words_in_front_and_keeps_code_and_hint(void **state)
{
    (void)state;
    struct fault fault = {0};
    fault_set(&fault, ERR_TIMEOUT, "no answer");
    fault_hint(&fault, "godwit vm show %s", "a");

    int r = fault_wrap(&fault, ERR_TIMEOUT, "asking %s", "node2");

    assert_int_equal(r, ERR_TIMEOUT);
    assert_string_equal(fault.text, "asking node2: no answer");
    assert_string_equal(fault.hint, "godwit vm show a");
}

static void wrapping_an_empty_fault_names_the_code(void **state)
{
    (void)state;
    struct fault fault = {0};

    fault_wrap(&fault, ERR_CLOSED, "reading");

    assert_string_equal(fault.text, "reading: closed");
    assert_int_equal(fault.code, ERR_CLOSED);
}

static void a_fault_may_be_told_in_its_own_words(void **state)
{
    (void)state;
    struct fault fault = {0};
    fault_set(&fault, ERR_IO, "disk full");

    fault_set(&fault, ERR_BUSY, "later, as %s", fault.text);
    assert_string_equal(fault.text, "later, as disk full");
    fault_wrap(&fault, ERR_BUSY, "twice %s", fault.text);
    assert_string_equal(fault.text, "twice later, as disk full: later, as disk full");
}

static void words_are_cut_at_the_end_of_the_fault(void **state)
{
    (void)state;
    struct fault fault = {0};
    char words[2000];
    memset(words, 'x', sizeof words - 1);
    words[sizeof words - 1] = '\0';

    fault_set(&fault, ERR_IO, "%s", words);
    assert_int_equal(strlen(fault.text), FAULT_TEXT_MAX - 1);
    fault_set_errno(&fault, ERR_IO, ENOSPC, "%s", words);
    assert_non_null(strstr(fault.text, strerror(ENOSPC))); /* the cause outlives the prologue */
    fault_set(&fault, ERR_IO, "the cause");
    fault_wrap(&fault, ERR_IO, "%s", words);
    assert_non_null(strstr(fault.text, "the cause"));
    fault_hint(&fault, "%s", words);
    assert_int_equal(strlen(fault.hint), FAULT_HINT_MAX - 1);
}

static void errno_words_are_appended(void **state)
{
    (void)state;
    struct fault fault = {0};

    fault_set_errno(&fault, ERR_DENIED, EACCES, "opening %s", "/dev/kvm");

    assert_string_equal(fault.text, "opening /dev/kvm: Permission denied");
}

static void every_code_survives_the_wire(void **state)
{
    (void)state;
    int seen = 0;
#define CHECK(name, number, text, retry)                                                           \
    assert_int_equal(name, -(number));                                                             \
    assert_int_equal(err_from_number(number), name);                                               \
    assert_string_equal(err_name(name), text);                                                     \
    assert_int_equal(err_is_retryable(name), retry);                                               \
    seen++;
    ERR_LIST(CHECK)
#undef CHECK
    assert_true(seen >= 20);
}

static void unknown_codes_are_told_as_such(void **state)
{
    (void)state;
    assert_int_equal(err_from_number(0), ERR_IO);
    assert_int_equal(err_from_number(-3), ERR_IO);
    assert_int_equal(err_from_number(9999), ERR_IO);
    assert_int_equal(err_from_number(INT32_MIN), ERR_IO);
    assert_string_equal(err_name(0), "unknown");
    assert_false(err_is_retryable(0));
}

static void errno_values_become_codes(void **state)
{
    (void)state;
    assert_int_equal(err_from_errno(ENOMEM), ERR_NOMEM);
    assert_int_equal(err_from_errno(ENOENT), ERR_NOT_FOUND);
    assert_int_equal(err_from_errno(ECONNREFUSED), ERR_UNREACHABLE);
    assert_int_equal(err_from_errno(EPIPE), ERR_CLOSED);
    assert_int_equal(err_from_errno(ETIMEDOUT), ERR_TIMEOUT);
    assert_int_equal(err_from_errno(EXDEV), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(setting_gives_code_and_words),
        cmocka_unit_test(without_a_fault_only_the_code_is_given),
        cmocka_unit_test(wrapping_puts_words_in_front_and_keeps_code_and_hint),
        cmocka_unit_test(wrapping_an_empty_fault_names_the_code),
        cmocka_unit_test(a_fault_may_be_told_in_its_own_words),
        cmocka_unit_test(words_are_cut_at_the_end_of_the_fault),
        cmocka_unit_test(errno_words_are_appended),
        cmocka_unit_test(every_code_survives_the_wire),
        cmocka_unit_test(unknown_codes_are_told_as_such),
        cmocka_unit_test(errno_values_become_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
