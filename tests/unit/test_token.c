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
#include "proto/limits.h"
#include "proto/token.h"

static char *encoded(void)
{
    static uint8_t secret[TOKEN_SECRET_BYTES] = {1, 2, 3, 0xff, 0xfe};
    Godwit__JoinToken token = GODWIT__JOIN_TOKEN__INIT;
    struct fault fault = {0};
    char *text = NULL;
    token.address = (char *)(uintptr_t) "10.0.0.1:7411";
    token.pin =
        (char *)(uintptr_t) "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    token.id = (char *)(uintptr_t) "abcdef";
    token.has_secret = true;
    token.secret = (ProtobufCBinaryData){.data = secret, .len = sizeof secret};
    assert_int_equal(token_encode(&token, &text, &fault), 0);
    return text;
}

static void comes_back_as_it_was_with_white_space_around(void **state)
{
    (void)state;
    AUTO_FREE char *text = encoded();
    char pasted[TOKEN_TEXT_MAX + 16];
    (void)snprintf(pasted, sizeof pasted, " \n%s \r\n", text);
    Godwit__JoinToken *token = NULL;
    struct fault fault = {0};

    int r = token_decode(pasted, &token, &fault);

    assert_int_equal(r, 0);
    assert_string_equal(token->address, "10.0.0.1:7411");
    assert_string_equal(token->id, "abcdef");
    assert_int_equal(token->secret.len, TOKEN_SECRET_BYTES);
    assert_int_equal(token->secret.data[3], 0xff);
    assert_true(strncmp(text, "gw1.", 4) == 0 && strlen(text) <= TOKEN_TEXT_MAX);
    godwit__join_token__free_unpacked(token, NULL);
}

static void every_cut_is_refused(void **state)
{
    (void)state;
    AUTO_FREE char *text = encoded();
    for (size_t length = strlen(text); length-- > 0;) {
        Godwit__JoinToken *token = NULL;
        struct fault fault = {0};
        text[length] = '\0';

        assert_true(token_decode(text, &token, &fault) < 0);

        assert_null(token);
        assert_true(fault.text[0] != '\0');
    }
}

static void every_changed_letter_is_refused(void **state)
{
    (void)state;
    AUTO_FREE char *text = encoded();
    size_t length = strlen(text);
    for (size_t i = 0; i + 1 < length; i++) { /* the last letter may hold bits of no byte */
        char was = text[i];
        Godwit__JoinToken *token = NULL;
        text[i] = was == 'A' ? 'B' : 'A';

        assert_true(token_decode(text, &token, NULL) < 0);

        text[i] = was;
    }
}

static void assert_refused(const char *text, int code, const char *words)
{
    Godwit__JoinToken *token = NULL;
    struct fault fault = {0};
    assert_int_equal(token_decode(text, &token, &fault), code);
    if (!strstr(fault.text, words))
        fail_msg("'%s' lacks '%s'", fault.text, words);
}

static void says_what_is_wrong(void **state)
{
    (void)state;
    char endless[TOKEN_TEXT_MAX * 3];
    memset(endless, 'A', sizeof endless);
    endless[sizeof endless - 1] = '\0';

    assert_refused("", ERR_INVALID, "empty");
    assert_refused("  \n", ERR_INVALID, "empty");
    assert_refused("hello", ERR_INVALID, "begins with 'gw1.'");
    assert_refused("gw1.", ERR_CORRUPT, "cut off");
    assert_refused("gw1.AAAA*AAA", ERR_INVALID, "place 9");
    assert_refused("gw1.AAAAAAAAAAAA", ERR_CORRUPT, "check sum");
    assert_refused(endless, ERR_LIMIT, "longer than");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_as_it_was_with_white_space_around),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(every_changed_letter_is_refused),
        cmocka_unit_test(says_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
