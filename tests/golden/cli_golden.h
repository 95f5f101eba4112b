/* Texts held against recorded ones: tests/golden/NAME. GODWIT_GOLDEN_WRITE=1 records anew.
 *
 * Flow:   test_* -> [cli_golden] -> tests/golden/cli_*
 * Thread: the test's. Tests run in the source tree's root.
 */
#ifndef GODWIT_TESTS_CLI_GOLDEN_H
#define GODWIT_TESTS_CLI_GOLDEN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cmocka.h must have been included before. */
static inline void golden_check(const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof path, "tests/golden/%s", name);
    FILE *file;
    if (getenv("GODWIT_GOLDEN_WRITE")) {
        file = fopen(path, "we");
        assert_non_null(file);
        (void)fputs(text, file);
        assert_int_equal(fclose(file), 0);
    }
    file = fopen(path, "re");
    assert_non_null(file);
    size_t size = strlen(text) + 65536;
    char *recorded = malloc(size);
    assert_non_null(recorded);
    recorded[fread(recorded, 1, size - 1, file)] = '\0';
    (void)fclose(file);
    assert_string_equal(text, recorded);
    free(recorded);
}

#endif
