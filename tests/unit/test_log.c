#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"

static char caught[1 << 20];
static int real_stderr, file;

static void catch_lines(void)
{
    (void)fflush(stderr);
    real_stderr = dup(STDERR_FILENO);
    file = memfd_create("log", 0);
    assert_true(real_stderr >= 0 && file >= 0);
    assert_int_equal(dup2(file, STDERR_FILENO), STDERR_FILENO);
}

static const char *release_lines(void)
{
    assert_int_equal(dup2(real_stderr, STDERR_FILENO), STDERR_FILENO);
    ssize_t got = pread(file, caught, sizeof caught - 1, 0);
    assert_true(got >= 0);
    caught[got] = '\0';
    (void)close(file);
    (void)close(real_stderr);
    return caught;
}

static void a_line_has_time_level_program_component_and_words(void **state)
{
    (void)state;
    log_set_program("godwit-test");
    catch_lines();

    log_warn("lane", "slow lane vm=%s lane=%d", "a", 2);

    const char *line = release_lines();
    assert_int_equal(strspn(line, "0123456789-T:.Z"), 24);
    assert_string_equal(line + 24, " warn  godwit-test/lane: slow lane vm=a lane=2\n");
}

static void what_is_below_the_level_is_not_written(void **state)
{
    (void)state;
    catch_lines();
    log_debug("x", "quiet");
    log_set_level(LOG_DEBUG);
    log_debug("x", "loud");
    log_set_level(LOG_INFO);

    const char *lines = release_lines();
    assert_null(strstr(lines, "quiet"));
    assert_non_null(strstr(lines, "loud"));
}

static void long_lines_are_cut_and_still_end(void **state)
{
    (void)state;
    char words[5000];
    memset(words, 'x', sizeof words - 1);
    words[sizeof words - 1] = '\0';
    catch_lines();

    log_info("x", "%s", words);
    log_info("x", "next");

    const char *lines = release_lines();
    const char *end = strchr(lines, '\n');
    assert_non_null(end);
    assert_non_null(strstr(end + 1, "next\n"));
}

static void *write_many(void *data)
{
    for (int i = 0; i < 500; i++)
        log_info("x", "%s", (const char *)data);
    return NULL;
}

static void lines_of_many_threads_stay_whole(void **state)
{
    (void)state;
    pthread_t threads[2];
    char a[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", b[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    catch_lines();
    pthread_create(&threads[0], NULL, write_many, a);
    pthread_create(&threads[1], NULL, write_many, b);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);

    char *line = (char *)(uintptr_t)release_lines();
    int count = 0;
    for (char *end; (end = strchr(line, '\n')); line = end + 1, count++) {
        *end = '\0';
        const char *words = strstr(line, "/x: ");
        assert_non_null(words);
        assert_true(strcmp(words + 4, a) == 0 || strcmp(words + 4, b) == 0);
    }
    assert_int_equal(count, 1000);
}

static void levels_have_names(void **state)
{
    (void)state;
    assert_int_equal(log_level_from_name("error"), LOG_ERROR);
    assert_int_equal(log_level_from_name("debug"), LOG_DEBUG);
    assert_int_equal(log_level_from_name("loud"), -1);
    assert_int_equal(log_level_from_name(""), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_time_level_program_component_and_words),
        cmocka_unit_test(what_is_below_the_level_is_not_written),
        cmocka_unit_test(long_lines_are_cut_and_still_end),
        cmocka_unit_test(lines_of_many_threads_stay_whole),
        cmocka_unit_test(levels_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
