#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/id.h"
#include "base/own.h"

static void random_ids_are_32_hex_digits_and_differ(void **state)
{
    (void)state;
    char a[ID_TEXT_SIZE], b[ID_TEXT_SIZE];

    id_random(a);
    id_random(b);

    assert_int_equal(strlen(a), 32);
    assert_int_equal(strspn(a, "0123456789abcdef"), 32);
    assert_string_not_equal(a, b);
}

static void short_ids_avoid_letters_that_look_alike(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        char id[ID_SHORT_SIZE];
        id_random_short('J', id);
        assert_int_equal(id[0], 'J');
        assert_int_equal(strspn(id + 1, "0123456789ABCDEFGHJKMNPQRSTVWXYZ"), ID_SHORT_SIZE - 2);
    }
}

static void names_are_fit_for_files_and_dns(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "Node1", "db-1.site_a", "0"};
    static const char *const bad[] = {"",    ".",   "..",  "-x",  "_x",      ".x",
                                      "a/b", "a b", "a\n", "a:b", "\xc3\xa4"};
    char longest[ID_NAME_MAX + 2];
    memset(longest, 'a', sizeof longest);

    for (size_t i = 0; i < ARRAY_COUNT(good); i++)
        assert_true(id_name_is_valid(good[i]));
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(id_name_is_valid(bad[i]));
    longest[ID_NAME_MAX + 1] = '\0';
    assert_false(id_name_is_valid(longest));
    longest[ID_NAME_MAX] = '\0';
    assert_true(id_name_is_valid(longest));
}

static const char *const words[] = {"evacuate", "migrate", "host", "status"};

static const char *nearest(const char *word)
{
    const char *found = id_nearest(word, words, ARRAY_COUNT(words));
    return found ? found : "";
}

static void a_slip_of_the_finger_finds_the_word_that_was_meant(void **state)
{
    (void)state;
    assert_string_equal(nearest("evacaute"), "evacuate"); /* swapped */
    assert_string_equal(nearest("migrat"), "migrate");    /* left out */
    assert_string_equal(nearest("hosst"), "host");        /* doubled */
    assert_string_equal(nearest("statuz"), "status");     /* wrong */
    assert_string_equal(nearest("evac"), "evacuate");     /* begun */
}

static void a_word_that_is_far_from_all_finds_none(void **state)
{
    (void)state;
    assert_string_equal(nearest(""), "");
    assert_string_equal(nearest("zzz"), "");
    assert_string_equal(nearest("balance"), "");
    assert_null(id_nearest("host", words, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_ids_are_32_hex_digits_and_differ),
        cmocka_unit_test(short_ids_avoid_letters_that_look_alike),
        cmocka_unit_test(names_are_fit_for_files_and_dns),
        cmocka_unit_test(a_slip_of_the_finger_finds_the_word_that_was_meant),
        cmocka_unit_test(a_word_that_is_far_from_all_finds_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
