#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/image_convert.h"
#include "cli/image_file.h"

enum { BYTES = 3 << 20 };

struct folder {
    char path[64], raw[96], qcow2[96];
    uint8_t *content;
};

static void qemu_img(const char *const *words)
{
    static char *const environment[] = {(char *)"PATH=/usr/bin", NULL};
    pid_t pid;
    int status;

    assert_int_equal(posix_spawn(&pid, "/usr/bin/qemu-img", NULL, NULL,
                                 (char *const *)(uintptr_t)words, environment),
                     0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int set_up(void **state)
{
    struct folder *folder = calloc(1, sizeof *folder);
    *state = folder;
    if (access("/usr/bin/qemu-img", X_OK) < 0)
        return 0; /* each test skips itself */
    (void)snprintf(folder->path, sizeof folder->path, "/var/tmp/godwit-convert-XXXXXX");
    assert_non_null(mkdtemp(folder->path));
    (void)snprintf(folder->raw, sizeof folder->raw, "%s/a.raw", folder->path);
    (void)snprintf(folder->qcow2, sizeof folder->qcow2, "%s/a.qcow2", folder->path);
    folder->content = malloc(BYTES);
    for (size_t i = 0; i < BYTES; i++)
        folder->content[i] = (uint8_t)(i * 2654435761u >> 13);
    int fd = open(folder->raw, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, folder->content, BYTES), BYTES);
    assert_int_equal(ftruncate(fd, 8 << 20), 0);
    (void)close(fd);
    return 0;
}

static int tear_down(void **state)
{
    struct folder *folder = *state;
    (void)unlink(folder->raw);
    (void)unlink(folder->qcow2);
    int r = folder->path[0] ? rmdir(folder->path) : 0;
    free(folder->content);
    free(folder);
    return r;
}

static void need_qemu_img(const struct folder *folder)
{
    if (!folder->path[0])
        skip();
}

static void a_qcow2_is_imported_as_what_it_holds(void **state)
{
    struct folder *folder = *state;
    AUTO_FD int fd = -1;
    uint64_t size;
    struct fault fault = {0};
    need_qemu_img(folder);
    const char *const words[] = {"qemu-img",  "convert",     "-O", "qcow2", "-c",
                                 folder->raw, folder->qcow2, NULL};
    qemu_img(words);

    assert_int_equal(image_file_open(folder->qcow2, "auto", &fd, &size, &fault), 0);

    uint8_t *found = malloc(BYTES);
    assert_int_equal(size, 8 << 20);
    assert_int_equal(pread(fd, found, BYTES, 0), BYTES);
    assert_memory_equal(found, folder->content, BYTES);
    assert_int_equal(pread(fd, found, 1, (8 << 20) - 1), 1);
    assert_int_equal(found[0], 0);
    free(found);
}

static void a_backing_file_is_refused_and_out_of_reach_besides(void **state)
{
    struct folder *folder = *state;
    AUTO_FD int fd = -1;
    AUTO_FD int raw = -1;
    uint64_t size;
    struct fault fault = {0};
    need_qemu_img(folder);
    const char *const words[] = {"qemu-img", "create",    "-q",          "-f", "qcow2", "-F", "raw",
                                 "-b",       folder->raw, folder->qcow2, NULL};
    qemu_img(words);

    assert_int_equal(image_file_open(folder->qcow2, "auto", &fd, &size, &fault), ERR_REFUSED);
    assert_non_null(strstr(fault.text, "backing file"));
    fd = open(folder->qcow2, O_RDONLY | O_CLOEXEC);
    int r = image_convert_qcow2(fd, &raw, &fault); /* as if the first bytes had not been looked at */
    assert_int_equal(r, ERR_CORRUPT);
    assert_non_null(strstr(fault.text, "Permission denied"));
}

static void what_is_no_qcow2_inside_is_told(void **state)
{
    struct folder *folder = *state;
    AUTO_FD int fd = -1;
    uint64_t size;
    struct fault fault = {0};
    uint8_t bytes[1024] = "QFI\xfb";
    need_qemu_img(folder);
    bytes[7] = 3;
    int out = open(folder->qcow2, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(out, bytes, sizeof bytes), sizeof bytes);
    (void)close(out);

    assert_int_equal(image_file_open(folder->qcow2, "auto", &fd, &size, &fault), ERR_CORRUPT);
    assert_non_null(strstr(fault.text, "qemu-img could not convert it"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_qcow2_is_imported_as_what_it_holds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_backing_file_is_refused_and_out_of_reach_besides, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_no_qcow2_inside_is_told, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
