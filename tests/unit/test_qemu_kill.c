#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/backend_libvirt/qemu_kill.h"
#include "base/err.h"

#define VM_ID "c7a5fdbdcdaf9455926ad65c16db1809"
#define UUID "c7a5fdbd-cdaf-9455-926a-d65c16db1809"
#define OTHER "d7a5fdbd-cdaf-9455-926a-d65c16db1809"

static void knows_a_domain_by_the_uuid_among_its_words(void **state)
{
    (void)state;
    static const char right[] = "qemu-system-x86_64\0-name\0guest=a\0-uuid\0" UUID "\0-m\0001";
    static const char other[] = "qemu-system-x86_64\0-name\0-uuid\0-uuid\0" OTHER;
    static const char named[] = "qemu-system-x86_64\0-name\0guest=" UUID "\0" UUID;
    static const char cut[] = "qemu-system-x86_64\0-uuid\0" UUID;

    assert_true(qemu_kill_is_domain(right, sizeof right, UUID));
    assert_false(qemu_kill_is_domain(other, sizeof other, UUID));
    assert_false(qemu_kill_is_domain(named, sizeof named, UUID));
    assert_false(qemu_kill_is_domain(cut, sizeof cut - 1, UUID)); /* no end is seen */
    assert_false(qemu_kill_is_domain("", 0, UUID));
}

/* A process whose words are those of a QEMU of that UUID; returns when it has them. */
static pid_t run_as(const char *uuid)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(ends[1], 1);
        (void)execl("/bin/sh", "qemu-system-x86_64", "-c", "echo; kill -STOP $$", "sh", "-uuid",
                    uuid, (char *)NULL);
        _exit(127);
    }
    char byte;
    (void)close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    (void)close(ends[0]);
    return pid;
}

static void ends_the_domains_process_and_no_other(void **state)
{
    (void)state;
    struct fault fault = {0};
    int status = 0;
    pid_t pid = run_as(OTHER);

    assert_int_equal(qemu_kill(pid, VM_ID, &fault), ERR_STATE);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);

    pid = run_as(UUID);
    assert_int_equal(qemu_kill(pid, VM_ID, &fault), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(qemu_kill(pid, VM_ID, &fault), 0); /* as wanted: it is gone */
    assert_int_equal(qemu_kill(0, VM_ID, &fault), ERR_STATE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_a_domain_by_the_uuid_among_its_words),
        cmocka_unit_test(ends_the_domains_process_and_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
