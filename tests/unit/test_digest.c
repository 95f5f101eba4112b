#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/digest.h"

static void is_sha_256_whatever_the_pieces(void **state)
{
    (void)state;
    char text[DIGEST_TEXT_SIZE], zeros[DIGEST_TEXT_SIZE], other[DIGEST_TEXT_SIZE];
    struct digest *digest = digest_new();
    static const uint8_t nothing[100000];

    digest_add(digest, "a", 1);
    digest_add(digest, "bc", 2);
    digest_finish(digest, text);
    (void)digest_free(digest);
    digest = digest_new();
    digest_add_zeros(digest, sizeof nothing);
    digest_finish(digest, zeros);
    (void)digest_free(digest);
    digest = digest_new();
    digest_add(digest, nothing, sizeof nothing);
    digest_finish(digest, other);
    (void)digest_free(digest);

    assert_string_equal(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_string_equal(zeros, other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(is_sha_256_whatever_the_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
