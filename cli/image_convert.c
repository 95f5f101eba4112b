#include "cli/image_convert.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"

enum { CHILD_IN = 3, CHILD_OUT = 4, HIGH_FD = 10, WORDS_SIZE = 300 };

static const char program[] = "/usr/bin/qemu-img";

struct converting {
    int in, out;    /* borrowed */
    int talk[2];    /* what the program says */
    pid_t pid;
    int error;      /* of starting it; 0: it runs */
    bool is_caged;  /* it was given no more than it should have */
};

/* ---- the cage, around one thread ---- */
static void allow(int rules, int fd, uint64_t access)
{
    const struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};

    (void)syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

static void allow_path(int rules, const char *path, uint64_t access)
{
    AUTO_FD int fd = open(path, O_PATH | O_CLOEXEC);

    if (fd >= 0) /* else there is nothing to read there */
        allow(rules, fd, access);
}

/* False only where a kernel that has Landlock refuses it. */
static bool close_files_off(const struct converting *converting)
{
    enum { FILES = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_EXECUTE };
    enum { TRUNCATE = 1 << 14, TRUNCATE_ABI = 3 };
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    const uint64_t cut = abi >= TRUNCATE_ABI ? TRUNCATE : 0;
    const struct landlock_ruleset_attr all = {
        .handled_access_fs = ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1) | cut};
    AUTO_FD int rules = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);

    if (rules < 0)
        return errno == ENOSYS || errno == EOPNOTSUPP; /* the rest of the cage stands */
    allow_path(rules, "/usr", FILES | LANDLOCK_ACCESS_FS_READ_DIR);
    allow_path(rules, "/lib", FILES | LANDLOCK_ACCESS_FS_READ_DIR);
    allow_path(rules, "/lib64", FILES | LANDLOCK_ACCESS_FS_READ_DIR);
    allow_path(rules, "/etc/ld.so.cache", LANDLOCK_ACCESS_FS_READ_FILE);
    allow_path(rules, "/dev/null",
                  LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE);
    allow(rules, converting->in, LANDLOCK_ACCESS_FS_READ_FILE);
    allow(rules, converting->out,
          LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | cut);
    return syscall(SYS_landlock_restrict_self, rules, 0) == 0;
}

static bool enter_cage(const struct converting *converting)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return false;
    if (geteuid() == 0 && unshare(CLONE_NEWNET | CLONE_NEWIPC) < 0)
        return false; /* who is not root has Landlock and his own few rights */
    return close_files_off(converting);
}

/* ---- the program ---- */
static int spawn(struct converting *converting)
{
    static char *const words[] = {(char *)"qemu-img", (char *)"convert", (char *)"-f",
                                  (char *)"qcow2",    (char *)"-O",      (char *)"raw",
                                  (char *)"/proc/self/fd/3", (char *)"/proc/self/fd/4", NULL};
    static char *const environment[] = {(char *)"PATH=/usr/bin:/bin", (char *)"LC_ALL=C.UTF-8",
                                        NULL};
    posix_spawn_file_actions_t actions;

    int r = posix_spawn_file_actions_init(&actions);
    if (r != 0)
        return r;
    (void)posix_spawn_file_actions_adddup2(&actions, converting->talk[1], STDOUT_FILENO);
    (void)posix_spawn_file_actions_adddup2(&actions, converting->talk[1], STDERR_FILENO);
    (void)posix_spawn_file_actions_adddup2(&actions, converting->in, CHILD_IN);
    (void)posix_spawn_file_actions_adddup2(&actions, converting->out, CHILD_OUT);
    (void)posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_OUT + 1);
    r = posix_spawn(&converting->pid, program, &actions, NULL, words, environment);
    (void)posix_spawn_file_actions_destroy(&actions);
    return r;
}

static void *start(void *data)
{
    struct converting *converting = data;

    converting->is_caged = enter_cage(converting);
    converting->error = converting->is_caged ? spawn(converting) : EPERM;
    return NULL;
}

/* Its last words, fit for a terminal. */
static void listen_to(int fd, char ret_words[static WORDS_SIZE])
{
    size_t used = 0;

    for (ssize_t n; (n = read(fd, ret_words + used, WORDS_SIZE - 1 - used)) > 0;) {
        used += (size_t)n;
        if (used == WORDS_SIZE - 1)
            used = 0;
    }
    ret_words[used] = '\0';
    for (char *at = ret_words; *at; at++)
        *at = (unsigned char)*at < ' ' || *at == 0x7f ? ' ' : *at;
}

static int run(struct converting *converting, struct fault *fault)
{
    const struct rlimit memory = {.rlim_cur = UINT64_C(4) << 30, .rlim_max = UINT64_C(4) << 30};
    const struct rlimit none = {0};
    char words[WORDS_SIZE];
    pthread_t thread;
    int status;

    int r = pthread_create(&thread, NULL, start, converting);
    if (r == 0) {
        (void)pthread_join(thread, NULL);
        r = converting->error;
    }
    close_p(&converting->talk[1]);
    if (r != 0)
        return fault_set_errno(fault, ERR_IO, r, converting->is_caged
                                                     ? "starting qemu-img"
                                                     : "closing qemu-img off from the rest");
    (void)prlimit(converting->pid, RLIMIT_AS, &memory, NULL);
    (void)prlimit(converting->pid, RLIMIT_CORE, &none, NULL);
    listen_to(converting->talk[0], words);
    if (waitpid(converting->pid, &status, 0) != converting->pid)
        return fault_set_errno(fault, ERR_IO, errno, "waiting for qemu-img");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return fault_set(fault, ERR_CORRUPT, "qemu-img could not convert it: %s",
                         words[0] ? words : "it said nothing");
    return 0;
}

int image_convert_qcow2(int fd, int *ret_fd, struct fault *fault)
{
    const char *folder = getenv("TMPDIR");
    struct converting converting = {0};

    if (access(program, X_OK) < 0) {
        (void)fault_set(fault, ERR_UNSUPPORTED,
                        "it is qcow2, which qemu-img makes raw, and that is not installed here");
        fault_hint(fault, "apt-get install qemu-utils");
        return ERR_UNSUPPORTED;
    }
    AUTO_FD int raw = open(folder && folder[0] ? folder : "/var/tmp",
                           O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (raw < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno,
                               "making a file to convert to (TMPDIR says where)");
    AUTO_FD int in = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD); /* away from the numbers it gets */
    AUTO_FD int out = fcntl(raw, F_DUPFD_CLOEXEC, HIGH_FD);
    if (in < 0 || out < 0 || pipe2(converting.talk, O_CLOEXEC) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "starting qemu-img");
    converting.in = in;
    converting.out = out;
    int r = run(&converting, fault);
    close_p(&converting.talk[0]);
    if (r == 0)
        *ret_fd = TAKE_FD(raw);
    return r;
}
