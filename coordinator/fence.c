#include "coordinator/fence.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/config.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/cluster_core.h"
#include "coordinator/fence_options.h"
#include "coordinator/words.h"

enum {
    OFF_MS = 20000,
    STATUS_MS = 5000,
    CONFIRM_MS = 10000,
    STATUS_PAUSE_MS = 200,
    STATUS_OFF = 2
};

struct fencing {
    struct coordinator *coordinator;
    struct cluster_order order;
    char program[PATH_MAX];
    char off[FENCE_INPUT_SIZE], status[FENCE_INPUT_SIZE];
    bool confirmed;
    struct fault fault;
};

static int give_input(int fd, const char *input, struct fault *fault)
{
    size_t count = strlen(input);
    while (count > 0) {
        ssize_t n = write(fd, input, count);
        if (n < 0)
            return fault_set_errno(fault, ERR_IO, errno, "speaking to the fence agent");
        input += n;
        count -= (size_t)n;
    }
    return 0;
}

/* -1: it did not end in time and was killed. */
static int wait_for(pid_t pid, uint64_t most_ms)
{
    int status = 0;
    AUTO_FD int watch = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd ready = {.fd = watch, .events = POLLIN};
    if (watch < 0 || poll(&ready, 1, (int)most_ms) <= 0) {
        (void)kill(pid, SIGKILL); /* our own child, not yet reaped */
        (void)waitpid(pid, &status, 0);
        return -1;
    }
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

/* Gives its exit code, or -1 with words. */
static int run(const char *program, const char *input, uint64_t most_ms, struct fault *fault)
{
    static char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL};
    char *arguments[] = {(char *)(uintptr_t)program, NULL};
    int in[2];
    pid_t pid;
    if (pipe2(in, O_CLOEXEC) != 0) {
        (void)fault_set_errno(fault, ERR_IO, errno, "starting %s", program);
        return -1;
    }
    posix_spawn_file_actions_t actions;
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    (void)posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    (void)posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    int error = posix_spawn(&pid, program, &actions, NULL, arguments, environment);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)close(in[0]);
    if (error != 0) {
        (void)close(in[1]);
        (void)fault_set_errno(fault, ERR_IO, error, "starting %s", program);
        return -1;
    }
    int r = give_input(in[1], input, fault);
    (void)close(in[1]);
    int code = wait_for(pid, most_ms);
    if (code < 0)
        (void)fault_set(fault, ERR_TIMEOUT, "%s did not end within %llu ms", program,
                        (unsigned long long)most_ms);
    return r < 0 ? -1 : code;
}

static void fence_work(void *data)
{
    struct fencing *fencing = data;
    uint64_t end_ms = world_now_ms() + CONFIRM_MS;
    int code = run(fencing->program, fencing->off, OFF_MS, &fencing->fault);
    if (code < 0)
        return;
    if (code != 0) { /* it may be off all the same: status decides */
        (void)fault_set(&fencing->fault, ERR_REFUSED, "%s off ended with %d", fencing->program,
                        code);
    }
    do {
        struct fault why = {0};
        code = run(fencing->program, fencing->status, STATUS_MS, &why);
        fencing->confirmed = code == STATUS_OFF;
        if (!fencing->confirmed)
            (void)poll(NULL, 0, STATUS_PAUSE_MS); /* on a worker: power needs its time */
    } while (!fencing->confirmed && world_now_ms() < end_ms);
    if (fencing->confirmed)
        fencing->fault = (struct fault){0};
    else if (fencing->fault.code == 0)
        (void)fault_set(&fencing->fault, ERR_TIMEOUT, "%s does not say that the power is off",
                        fencing->program);
}

static void finish(struct fencing *fencing)
{
    struct coordinator *coordinator = fencing->coordinator;
    struct cluster_result result = {.fault = fencing->fault.code ? &fencing->fault : NULL,
                                    .definite = true,
                                    .confirmed = fencing->confirmed,
                                    .storage_age_ms = UINT64_MAX};
    struct cluster_todo todo = {0};
    coordinator->fencings--;
    if (coordinator->is_active && !coordinator->is_failed) {
        cluster_order_done(&coordinator->cluster, &fencing->order, &result, coordinator_now(),
                           &todo);
        coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    }
    free(fencing);
}

static void fence_done(void *data)
{
    finish(data);
}

void fence_order(struct coordinator *coordinator, const struct cluster_order *order)
{
    const struct cluster_host *host = cluster_host(&coordinator->cluster, order->about);
    struct fencing *fencing = calloc(1, sizeof *fencing);
    assert(fencing); /* control memory is small; without it there is no deciding */
    fencing->coordinator = coordinator;
    fencing->order = *order;
    bool allowed =
        host && fence_options_input(host->fence_agent, host->fence_options, "off", fencing->off) &&
        fence_options_input(host->fence_agent, host->fence_options, "status", fencing->status) &&
        path_join(fencing->program, sizeof fencing->program, NULL, "%s/%s", coordinator->fence_dir,
                  host->fence_agent) == 0;
    coordinator->fencings++;
    if (!allowed)
        (void)fault_set(&fencing->fault, ERR_DENIED, "%s has no fence agent that may be run",
                        order->about);
    else
        log_warn("fence", "switching off host=%s life=%.8s agent=%s", order->about,
                 order->incarnation, host->fence_agent);
    int r = allowed ? loop_work(coordinator->loop, fence_work, fence_done, fencing)
                    : loop_post(coordinator->loop, fence_done, fencing);
    assert(r == 0); /* only without memory for a request */
}
