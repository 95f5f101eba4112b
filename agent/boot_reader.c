#include "agent/boot_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"

enum { FILES = 4, FIRST_FD = 3, RESULT_SIZE = BOOT_READER_OPTIONS_SIZE + 16 };

static int spawn(const char *program, const int fds[static FILES], pid_t *ret_pid,
                 struct fault *fault)
{
    char *const argv[] = {(char *)"godwit-boot-reader", NULL}, *const no_environment[] = {NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;

    sigemptyset(&none);
    (void)posix_spawn_file_actions_init(&actions); /* these only allocate; spawn tells the rest */
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    for (int fd = 0; fd < FIRST_FD; fd++)
        (void)posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
    for (int i = 0; i < FILES; i++)
        (void)posix_spawn_file_actions_adddup2(&actions, fds[i], FIRST_FD + i);
    int error = posix_spawn(ret_pid, program, &actions, &attributes, argv, no_environment);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attributes);
    if (error)
        return fault_set_errno(fault, err_from_errno(error), error, "starting %s", program);
    return 0;
}

/* Its own limits end it, this one too; then it is reaped. */
static int await_end(pid_t pid, struct fault *fault)
{
    AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd wait = {.fd = pidfd, .events = POLLIN};
    int status = 0;
    bool late = pidfd < 0 || poll(&wait, 1, BOOT_READER_MS_MAX) <= 0;

    if (late)
        (void)kill(pid, SIGKILL); /* our child, not reaped yet: the id is its own */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (late)
        return fault_set(fault, ERR_TIMEOUT, "its boot files were not read in %d s",
                         BOOT_READER_MS_MAX / 1000);
    if (WIFSIGNALED(status))
        return fault_set(fault, ERR_CORRUPT,
                         "the reader of its boot files was ended by signal %d (%s): the disk is "
                         "damaged or hostile",
                         WTERMSIG(status), strsignal(WTERMSIG(status)));
    return 0;
}

static int read_result(int fd, char ret_options[static BOOT_READER_OPTIONS_SIZE],
                       struct fault *fault)
{
    static const char ok[] = "ok ", error[] = "error ";
    char line[RESULT_SIZE + 1];

    ssize_t n = pread(fd, line, sizeof line - 1, 0);
    if (n < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading what the boot reader said");
    line[n] = '\0';
    for (char *at = line; *at; at++) { /* it goes into logs and a kernel's command line */
        if (*at < ' ' || *at > '~')
            *at = '?';
    }
    if (strncmp(line, ok, strlen(ok)) == 0 &&
        strlen(line) - strlen(ok) < BOOT_READER_OPTIONS_SIZE) {
        memcpy(ret_options, line + strlen(ok), strlen(line) - strlen(ok) + 1);
        return 0;
    }
    return fault_set(fault, ERR_INVALID, "%.300s",
                     strncmp(line, error, strlen(error)) == 0 ? line + strlen(error)
                                                              : "the boot reader said nothing");
}

int boot_reader_run(const char *program, int disk_fd, int *ret_kernel_fd, int *ret_initrd_fd,
                    char ret_options[static BOOT_READER_OPTIONS_SIZE], struct fault *fault)
{
    /* Above those that the file actions set, so that none of them hits another. */
    AUTO_FD int disk = fcntl(disk_fd, F_DUPFD_CLOEXEC, 16);
    AUTO_FD int low_kernel = memfd_create("godwit-kernel", MFD_CLOEXEC);
    AUTO_FD int low_initrd = memfd_create("godwit-initrd", MFD_CLOEXEC);
    AUTO_FD int low_result = memfd_create("godwit-boot", MFD_CLOEXEC);
    AUTO_FD int kernel = low_kernel < 0 ? -1 : fcntl(low_kernel, F_DUPFD_CLOEXEC, 16);
    AUTO_FD int initrd = low_initrd < 0 ? -1 : fcntl(low_initrd, F_DUPFD_CLOEXEC, 16);
    AUTO_FD int result = low_result < 0 ? -1 : fcntl(low_result, F_DUPFD_CLOEXEC, 16);
    const int fds[FILES] = {disk, kernel, initrd, result};
    struct stat info;
    pid_t pid;

    if (disk < 0 || kernel < 0 || initrd < 0 || result < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making room for boot files");
    int r = spawn(program, fds, &pid, fault);
    if (r == 0)
        r = await_end(pid, fault);
    if (r == 0)
        r = read_result(result, ret_options, fault);
    if (r < 0)
        return r;
    if (fstat(initrd, &info) == 0 && info.st_size > 0)
        *ret_initrd_fd = TAKE_FD(initrd);
    *ret_kernel_fd = TAKE_FD(kernel);
    return 0;
}
