/* A guest's console: its log, those who are attached, and a second process that goes on with the log. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent/vm/console.h"
#include "agent/vm/console_ring.h"
#include "base/loop.h"

enum { ROOM = 4 * CONSOLE_RING_BYTES };

static struct loop *loop;
static char path[] = "/tmp/godwit-console-XXXXXX";
static char heard[ROOM];
static size_t heard_count;

static void hear(void *data, const uint8_t *bytes, size_t count)
{
    (void)data;
    assert_true(heard_count + count < ROOM);
    memcpy(heard + heard_count, bytes, count);
    heard_count += count;
    heard[heard_count] = 0;
}

static size_t take_nothing(void *data, const uint8_t *bytes, size_t count)
{
    (void)data;
    (void)bytes;
    (void)count;
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    heard_count = 0;
    heard[0] = 0;
    return fd < 0 || close(fd) < 0 || loop_new(&loop, NULL) < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)unlink(path);
    (void)snprintf(path + sizeof path - 7, 7, "XXXXXX");
    loop = loop_free(loop);
    return 0;
}

static struct console *open_console(void)
{
    static const struct console_config no_loop = {.on_output = hear, .give_input = take_nothing};
    struct console_config config = no_loop;
    struct console *console = NULL;
    config.loop = loop;
    assert_int_equal(console_new(&console, &config, NULL), 0);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_true(fd >= 0);
    console_set_log(console, fd);
    return console;
}

static void write_text(struct console *console, const char *text)
{
    console_output(console, (const uint8_t *)text, strlen(text));
}

static void assert_log(const char *text)
{
    static char bytes[ROOM];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, bytes, sizeof bytes - 1);
    assert_true(n >= 0);
    (void)close(fd);
    bytes[n] = 0;
    assert_string_equal(bytes, text);
}

static void what_it_writes_is_logged_and_heard_and_kept(void **state)
{
    (void)state;
    uint8_t tail[64];
    struct console *console = open_console();
    write_text(console, "login: ");
    while (!heard_count)
        loop_turn(loop, true);

    assert_string_equal(heard, "login: ");
    assert_log("login: ");
    assert_int_equal(console_tail(console, tail, sizeof tail), 7);
    assert_memory_equal(tail, "login: ", 7);
    (void)console_free(console);
}

static void *settle(void *data)
{
    console_settle(data, 60000);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC); /* as the next process would */
    (void)!write(fd, "the next\n", 9);
    (void)close(fd);
    return NULL;
}

/* The old process of an upgrade has not carried its last bytes when the next one is to write. */
static void the_next_process_goes_on_where_the_log_was_left(void **state)
{
    (void)state;
    pthread_t thread;
    struct console *old = open_console();
    write_text(old, "half a ");
    console_flush(old);
    write_text(old, "line\n");

    assert_int_equal(pthread_create(&thread, NULL, settle, old), 0);
    while (heard_count < strlen("half a line\n"))
        loop_turn(loop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);

    assert_log("half a line\nthe next\n");
    assert_string_equal(heard, "half a line\n");
    (void)console_free(old);
}

static void a_loop_that_carries_nothing_is_waited_for_no_longer(void **state)
{
    (void)state;
    struct console *console = open_console();
    console_settle(console, 60000); /* nothing waits */
    write_text(console, "late");
    console_settle(console, 1);
    assert_log("");
    while (!heard_count)
        loop_turn(loop, true);
    assert_log("late");
    (void)console_free(console);
}

static void what_nobody_could_carry_in_time_is_counted(void **state)
{
    (void)state;
    static char much[CONSOLE_RING_BYTES + 1];
    struct console *console = open_console();
    memset(much, 'x', sizeof much - 1);
    for (int i = 0; i < 2; i++)
        write_text(console, much);
    console_flush(console);

    assert_non_null(strstr(heard, "[godwit: 65536 console bytes were lost here]"));
    assert_int_equal(strspn(strchr(heard, ']') + 2, "x"), CONSOLE_RING_BYTES);
    (void)console_free(console);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_it_writes_is_logged_and_heard_and_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_next_process_goes_on_where_the_log_was_left, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_loop_that_carries_nothing_is_waited_for_no_longer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_nobody_could_carry_in_time_is_counted, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
