/* The file is judged, and its script is run by a real sh, with a file in the console's place: what
 * comes out is read as a build's console is. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/config.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/build_core.h"
#include "cli/build_file.h"
#include "cli/build_script.h"

static char folder[64];

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/gw-build-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const names[] = {"console", "script", "made/deep/hello.txt", "out",
                                        "from.txt"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        (void)unlink(path);
    }
    (void)snprintf(path, sizeof path, "%s/made/deep", folder);
    (void)rmdir(path);
    (void)snprintf(path, sizeof path, "%s/made", folder);
    (void)rmdir(path);
    return rmdir(folder);
}

static Godwit__BuildFile *parse(const char *text)
{
    Godwit__BuildFile *file = NULL;
    struct fault fault = {0};
    if (build_file_parse(text, strlen(text), "build.yaml", folder, &file, &fault) < 0)
        fail_msg("%s", fault.text);
    return file;
}

static void refuse(const char *text, const char *words)
{
    Godwit__BuildFile *file = NULL;
    struct fault fault = {0};
    assert_true(build_file_parse(text, strlen(text), "build.yaml", folder, &file, &fault) < 0);
    if (!strstr(fault.text, words))
        fail_msg("'%s' says '%s', not '%s'", text, fault.text, words);
}

static void what_makes_no_build_is_refused_by_name(void **state)
{
    (void)state;
    refuse("image: a\nsteps: [{run: x}]\n", "name: the file has none");
    refuse("name: a\nsteps: [{run: x}]\n", "image: the file has none");
    refuse("name: a\nimage: a\nsteps: [{run: x}]\n", "not built from itself");
    refuse("name: a\nimage: b\n", "steps: found 0");
    refuse("name: a\nimage: b\nsteps: [{}]\n", "steps[0]: found neither run nor file");
    refuse("name: a\nimage: b\nsteps: [{run: x, file: /y}]\n", "steps[0]: found both");
    refuse("name: a\nimage: b\nsteps: [{run: x, mode: \"0644\"}]\n", "belong to file:");
    refuse("name: a\nimage: b\nsteps: [{file: y, content: z}]\n", "an absolute path");
    refuse("name: a\nimage: b\nsteps: [{file: /y}]\n", "neither content nor from");
    refuse("name: a\nimage: b\nsteps: [{file: /y, content: z, mode: \"9\"}]\n", "steps[0].mode");
    refuse("name: a\nimage: b\nsteps: [{file: /y, from: none.txt}]\n", "steps[0].from");
    refuse("name: a\nimage: b\nsteps: [{file: /y, from: /etc/passwd}]\n", "in the folder of the build file");
    refuse("name: a\nimage: b\nsteps: [{file: /y, from: ../..//etc/passwd}]\n", "in the folder of the build file");
    refuse("name: a\nimage: b\nsteps: [{file: /y, from: .}]\n", "steps[0].from");
    refuse("name: a/b\nimage: b\nsteps: [{run: x}]\n", "name: found 'a/b'");
    refuse("name: a\nimage: b\nstep: []\n", "did you mean 'steps'");
    refuse("name: a\nimage: b\nsize: 1KiB\nsteps: [{run: x}]\n", "build.yaml:3:7: size");
}

static void a_link_leads_a_file_out_of_its_folder_no_more_than_dots(void **state)
{
    (void)state;
    char path[128];
    (void)snprintf(path, sizeof path, "%s/from.txt", folder);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    refuse("name: a\nimage: b\nsteps: [{file: /y, from: from.txt}]\n", "which is /etc/passwd");
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    refuse("name: a\nimage: b\nsteps: [{file: /y, from: pipe}]\n", "no regular file");
    (void)unlink(path);
}

static void steps_are_named_by_what_they_do(void **state)
{
    (void)state;
    char title[BUILD_TITLE_SIZE];
    Godwit__BuildFile *file = parse("name: a\nimage: b\ntimeout_ms: 10m\nsteps:\n"
                                    "  - run: apt-get update\n"
                                    "  - run: |\n      first\n      second\n"
                                    "  - {file: /etc/motd, content: hello}\n");
    assert_int_equal(file->timeout_ms, 600000);
    build_file_title(file->steps[0], title);
    assert_string_equal(title, "apt-get update");
    build_file_title(file->steps[1], title);
    assert_string_equal(title, "first ...");
    build_file_title(file->steps[2], title);
    assert_string_equal(title, "file /etc/motd");
    godwit__build_file__free_unpacked(file, NULL);
}

/* `text` with every `old` as `new`; from malloc. */
static char *replace(char *text, const char *old, const char *new)
{
    size_t room = strlen(text) * 4 + 1024, used = 0;
    char *whole = calloc(1, room), *at = text;
    assert_non_null(whole);
    for (char *found; (found = strstr(at, old)); at = found + strlen(old)) {
        memcpy(whole + used, at, (size_t)(found - at));
        used += (size_t)(found - at);
        memcpy(whole + used, new, strlen(new));
        used += strlen(new);
    }
    memcpy(whole + used, at, strlen(at) + 1);
    free(text);
    return whole;
}

/* In this folder, and without what is done to a machine: "off" ends it there. Gives what it said. */
static char *run_script_with(const Godwit__BuildFile *file, const char *trim, int *ret_status)
{
    char path[128], console[128], *said = NULL;
    struct fault fault = {0};
    char *script = NULL;
    assert_true(file->keep_identity);
    if (build_script_make(file, "t0ken", &script, &fault) < 0)
        fail_msg("%s", fault.text);
    (void)snprintf(console, sizeof console, ">>%s/console", folder);
    script = replace(script, ">/dev/console", console);
    (void)snprintf(path, sizeof path, "%s/work", folder);
    script = replace(script, "/run/godwit-build", path);
    script = replace(script, "dmesg -n 1 2>/dev/null", ":");
    script = replace(script, "fstrim / 2>/dev/null", trim);
    script = replace(script, "fstrim -a 2>/dev/null\nsync\n", "");
    assert_null(strstr(script, "fstrim"));
    script = replace(script, "poweroff || poweroff -f", ":");
    assert_null(strstr(script, "poweroff"));
    script = replace(script, "sleep 60", "kill -9 $$");
    (void)snprintf(path, sizeof path, "%s/script", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0700);
    assert_true(fd >= 0 && write(fd, script, strlen(script)) == (ssize_t)strlen(script));
    (void)close(fd);
    free(script);
    pid_t pid = fork();
    if (pid == 0) {
        (void)execl("/bin/sh", "sh", path, (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0 && waitpid(pid, ret_status, 0) == pid);
    (void)snprintf(path, sizeof path, "%s/console", folder);
    assert_int_equal(file_read(path, &said, NULL, &fault), 0);
    return said;
}

static char *run_script(const Godwit__BuildFile *file)
{
    int status;
    return run_script_with(file, ":", &status);
}

/* How it ends; lines of output are joined by '|'. */
static void hear(const char *said, struct build_core *core, char *ret_output, size_t size)
{
    size_t count = strlen(said), used = 0;
    struct build_todo todo;
    ret_output[0] = '\0';
    for (size_t at = 0; at < count;) {
        at += build_core_take(core, (const uint8_t *)said + at, count - at, &todo);
        if (todo.news == BUILD_NEWS_OUTPUT)
            used +=
                (size_t)snprintf(ret_output + used, size - used, "%u:%s|", todo.step, todo.text);
    }
}

static void the_script_tells_of_each_step_and_makes_its_files(void **state)
{
    (void)state;
    char text[1024], output[4096], path[128], *made = NULL;
    struct build_core core;
    struct fault fault = {0};
    int fd;
    (void)snprintf(path, sizeof path, "%s/from.txt", folder);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0 && write(fd, "of a file\n", 10) == 10);
    (void)close(fd);
    (void)snprintf(
        text, sizeof text,
        "name: a\nimage: b\nkeep_identity: true\nsteps:\n"
        "  - {file: %s/made/deep/hello.txt, content: \"it's $HOME `x` @gw\\n\", mode: \"0640\"}\n"
        "  - {file: %s/out, from: from.txt}\n"
        "  - run: |\n      cat %s/out\n      printf 'no end'\n      echo err >&2\n",
        folder, folder, folder);
    Godwit__BuildFile *file = parse(text);

    char *said = run_script(file);

    build_core_init(&core, "t0ken", 3, 0, 1000);
    hear(said, &core, output, sizeof output);
    if (core.state != BUILD_ENDS)
        fail_msg("state %d: %s\n%s", core.state, core.fault.text, said);
    assert_string_equal(output, "3:of a file|3:no enderr|");
    (void)snprintf(path, sizeof path, "%s/made/deep/hello.txt", folder);
    assert_int_equal(file_read(path, &made, NULL, &fault), 0);
    assert_string_equal(made, "it's $HOME `x` @gw\n");
    free(made);
    free(said);
    godwit__build_file__free_unpacked(file, NULL);
}

static void of_a_line_that_is_written_over_the_last_is_told(void **state)
{
    (void)state;
    char output[4096];
    struct build_core core;
    Godwit__BuildFile *file = parse("name: a\nimage: b\nkeep_identity: true\nsteps:\n"
                                    "  - run: |\n      printf '5%%\\r10%%\\rall\\nof dos\\r\\n\\r\\n'\n");
    char *said = run_script(file);
    build_core_init(&core, "t0ken", 1, 0, 1000);
    hear(said, &core, output, sizeof output);
    assert_string_equal(output, "1:all|1:of dos|1:|");
    free(said);
    godwit__build_file__free_unpacked(file, NULL);
}

static void a_step_that_fails_is_the_last_one(void **state)
{
    (void)state;
    char output[4096];
    struct build_core core;
    Godwit__BuildFile *file = parse("name: a\nimage: b\nkeep_identity: true\nsteps:\n"
                                    "  - run: |\n      echo one\n      (exit 7)\n      echo never\n"
                                    "  - run: echo never\n");
    char *said = run_script(file);
    build_core_init(&core, "t0ken", 2, 0, 1000);
    hear(said, &core, output, sizeof output);
    assert_int_equal(core.state, BUILD_FAILED);
    assert_string_equal(core.fault.text, "step 1 of 2 ended with exit code 7");
    assert_string_equal(output, "1:one|");
    free(said);
    char path[128]; /* a failed one tidies nothing: its machine goes */
    static const char *const left[] = {"work/step", "work/code"};
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, left[i]);
        (void)unlink(path);
    }
    (void)snprintf(path, sizeof path, "%s/work", folder);
    (void)rmdir(path);
    godwit__build_file__free_unpacked(file, NULL);
}

/* Runs two steps, the second of which leaves no exit code; says with which it failed. */
static void lose_code(const char *second)
{
    char text[512], output[4096], path[128];
    struct build_core core;
    (void)snprintf(text, sizeof text,
                   "name: a\nimage: b\nkeep_identity: true\nsteps:\n"
                   "  - run: echo one\n  - run: |\n      echo two\n      %s\n",
                   second);
    Godwit__BuildFile *file = parse(text);
    char *said = run_script(file);
    static const char *const left[] = {"work/step", "work/code"};
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, left[i]);
        (void)unlink(path);
    }
    (void)snprintf(path, sizeof path, "%s/work", folder);
    (void)rmdir(path);
    build_core_init(&core, "t0ken", 2, 0, 1000);
    hear(said, &core, output, sizeof output);
    if (core.state != BUILD_FAILED)
        fail_msg("%s: state %d\n%s", second, core.state, said);
    assert_string_equal(core.fault.text, "step 2 of 2 ended with exit code 255");
    assert_string_equal(output, "1:one|2:two|");
    free(said);
    godwit__build_file__free_unpacked(file, NULL);
}

static void a_step_whose_shell_is_killed_has_not_the_code_of_the_one_before(void **state)
{
    (void)state;
    lose_code("kill -9 $PPID");
}

static void a_step_whose_code_cannot_be_written_has_failed(void **state)
{
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf %s/work", folder);
    lose_code(command);
}

static void a_file_system_that_cannot_be_trimmed_is_told(void **state)
{
    (void)state;
    Godwit__BuildFile *file = parse("name: a\nimage: b\nkeep_identity: true\nsteps: [{run: ':'}]\n");
    int status = 0;
    char *said = run_script_with(file, "false", &status), *trimmed;
    assert_non_null(strstr(said, "@gw t0ken end 1 0\n\n@gw t0ken untrimmed\n\n@gw t0ken done\n"));
    free(said);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/console", folder);
    (void)unlink(path);
    trimmed = run_script(file);
    assert_null(strstr(trimmed, "untrimmed"));
    free(trimmed);
    godwit__build_file__free_unpacked(file, NULL);
}

/* Who ran it would go on and write again what was deleted, until the machine is off. */
static void a_script_that_is_done_waits_for_the_end_of_its_machine(void **state)
{
    (void)state;
    Godwit__BuildFile *file = parse("name: a\nimage: b\nkeep_identity: true\nsteps: [{run: ':'}]\n");
    int status = 0;
    char *said = run_script_with(file, ":", &status);
    assert_non_null(strstr(said, "@gw t0ken done\n"));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* it never came to its end */
    free(said);
    godwit__build_file__free_unpacked(file, NULL);
}

/* What systemd writes when that service stops is gone only when it has stopped before. */
static void the_random_seed_is_deleted_after_its_writer_has_stopped(void **state)
{
    (void)state;
    struct fault fault = {0};
    char *script = NULL;
    Godwit__BuildFile *file = parse("name: a\nimage: b\nsteps: [{run: x}]\n");
    assert_int_equal(build_script_make(file, "t0ken", &script, &fault), 0);
    const char *stop = strstr(script, "\nsystemctl stop systemd-random-seed ");
    const char *remove = strstr(script, " /var/lib/systemd/random-seed\n");
    assert_true(stop && remove && stop < remove);
    free(script);
    godwit__build_file__free_unpacked(file, NULL);
}

static void more_than_a_seed_takes_is_refused(void **state)
{
    (void)state;
    struct fault fault = {0};
    char *script = NULL, *big = malloc(60000);
    assert_non_null(big);
    memset(big, 'x', 59999);
    big[59999] = '\0';
    Godwit__BuildStep step = GODWIT__BUILD_STEP__INIT, *steps[] = {&step};
    Godwit__BuildFile file = GODWIT__BUILD_FILE__INIT;
    step.run = big;
    file.steps = steps;
    file.n_steps = 1;
    assert_int_equal(build_script_make(&file, "t0ken", &script, &fault), ERR_LIMIT);
    step.file = (char *)"/x"; /* and as a file, which is packed twice */
    step.content = big;
    step.run = NULL;
    assert_int_equal(build_script_make(&file, "t0ken", &script, &fault), ERR_LIMIT);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_makes_no_build_is_refused_by_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_link_leads_a_file_out_of_its_folder_no_more_than_dots, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(steps_are_named_by_what_they_do, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_script_tells_of_each_step_and_makes_its_files, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(of_a_line_that_is_written_over_the_last_is_told, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_step_that_fails_is_the_last_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_step_whose_shell_is_killed_has_not_the_code_of_the_one_before, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_step_whose_code_cannot_be_written_has_failed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_file_system_that_cannot_be_trimmed_is_told, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_script_that_is_done_waits_for_the_end_of_its_machine,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_random_seed_is_deleted_after_its_writer_has_stopped,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(more_than_a_seed_takes_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
