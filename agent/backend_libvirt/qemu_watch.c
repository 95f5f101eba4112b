#include "agent/backend_libvirt/qemu_watch.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/thread.h"

enum { PF_EXITING_FLAG = 4, LOOK_MS = 1, LOOK_LATE_MS = 20, LATE_LOOKS = 2000, STAT_SIZE = 512 };

struct qemu_watch {
    struct loop *loop;
    int32_t pid;
    int pidfd;
    pthread_t thread;
    atomic_bool stop, is_posted;
    void (*ended)(void *data);
    void *data;
    struct word *word; /* on its way to the loop */
};

struct word { /* outlives the watch when that is freed first */
    struct qemu_watch *watch; /* NULL: freed */
};

bool qemu_watch_parse_flags(const char *stat, unsigned long *ret_flags)
{
    const char *at = strrchr(stat, ')'); /* a name may hold anything */
    char state;
    long skipped[5];
    unsigned long flags;

    if (!at || sscanf(at + 1, " %c %ld %ld %ld %ld %ld %lu", &state, &skipped[0], &skipped[1],
                      &skipped[2], &skipped[3], &skipped[4], &flags) != 7)
        return false;
    *ret_flags = flags;
    return true;
}

static bool thread_is_ending(int32_t pid, const char *thread)
{
    char path[64], text[STAT_SIZE];
    unsigned long flags;

    (void)snprintf(path, sizeof path, "/proc/%d/task/%.20s/stat", pid, thread);
    FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT || errno == ESRCH;
    size_t count = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file); /* only read */
    text[count] = 0;
    if (count == 0)
        return true; /* it went between the two */
    return qemu_watch_parse_flags(text, &flags) && (flags & PF_EXITING_FLAG);
}

bool qemu_watch_is_ending(int32_t pid)
{
    char path[64];
    bool all = true;

    (void)snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return errno == ENOENT || errno == ESRCH;
    for (struct dirent *task; all && (task = readdir(tasks));) {
        if (task->d_name[0] != '.')
            all = thread_is_ending(pid, task->d_name);
    }
    (void)closedir(tasks); /* only read */
    return all;
}

static void tell(void *data)
{
    struct word *word = data;
    struct qemu_watch *watch = word->watch;

    free(word);
    if (!watch)
        return;
    watch->word = NULL;
    watch->ended(watch->data);
}

static void *watch_thread(void *data)
{
    struct qemu_watch *watch = data;

    thread_begin("qemu-watch");
    for (unsigned looks = 0; !atomic_load(&watch->stop); looks++) {
        struct pollfd poll_fd = {.fd = watch->pidfd, .events = POLLIN};
        bool is_over = poll(&poll_fd, 1, looks < LATE_LOOKS ? LOOK_MS : LOOK_LATE_MS) == 1;
        /* Twice: a thread that was made while the first look went by shows in the second. */
        if (is_over || (qemu_watch_is_ending(watch->pid) && qemu_watch_is_ending(watch->pid))) {
            /* Unheard without memory: libvirt's own word comes later. */
            atomic_store(&watch->is_posted, loop_post(watch->loop, tell, watch->word) == 0);
            break;
        }
    }
    return NULL;
}

int qemu_watch_new(struct qemu_watch **ret_watch, struct loop *loop, int32_t pid,
                   void (*ended)(void *data), void *data, struct fault *fault)
{
    struct qemu_watch *watch = calloc(1, sizeof *watch);
    struct word *word = calloc(1, sizeof *word);

    if (!watch || !word) {
        free(watch);
        free(word);
        return fault_set(fault, ERR_NOMEM, "no memory to watch a QEMU");
    }
    *watch = (struct qemu_watch){.loop = loop, .pid = pid, .ended = ended, .data = data};
    watch->word = word;
    word->watch = watch;
    watch->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int error = watch->pidfd < 0 ? errno : pthread_create(&watch->thread, NULL, watch_thread, watch);
    if (error) {
        close_p(&watch->pidfd);
        free(word);
        free(watch);
        return fault_set_errno(fault, ERR_IO, error, "watching process %d", pid);
    }
    *ret_watch = watch;
    return 0;
}

struct qemu_watch *qemu_watch_free(struct qemu_watch *watch)
{
    if (!watch)
        return NULL;
    atomic_store(&watch->stop, true);
    (void)pthread_join(watch->thread, NULL); /* within a look */
    if (watch->word && atomic_load(&watch->is_posted))
        watch->word->watch = NULL; /* freed when it arrives */
    else
        free(watch->word);
    close_p(&watch->pidfd);
    free(watch);
    return NULL;
}
