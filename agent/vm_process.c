#include "agent/vm_process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/vm_proof.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/method.h"

enum { CONTROL_FD = 3, FAILPOINTS_FD = 4, RECONNECT_MS = 200, LAST_WORDS_MS = 1000 };

struct vm_process {
    struct vm_process_config config; /* its strings are void after new, but these: */
    char *vm_id, *socket_path, *log_path;
    int pid, pidfd;
    struct loop_poll *watch;
    struct loop_timer *timer;      /* reconnect, or waiting for the last words */
    struct loop_timer *hang_timer; /* killed when it fires */
    struct rpc *rpc;
    bool known;
    bool is_open_end; /* no process: a socket that speaks for one */
    bool dead;
    char how[VM_PROCESS_HOW_SIZE];
};

static int process_connect(struct vm_process *process, struct fault *fault);

static int pidfd_of(int pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* ---- its end ---- */
static void tell_ended(struct vm_process *process)
{
    loop_timer_stop(process->timer);
    loop_timer_stop(process->hang_timer);
    process->config.on_ended(process->config.data, process->how);
}

static void reap(struct vm_process *process)
{
    siginfo_t info = {0};

    (void)snprintf(process->how, sizeof process->how, "its process ended");
    if (waitid((idtype_t)P_PIDFD, (id_t)process->pidfd, &info, WEXITED | WNOHANG) < 0 ||
        !info.si_pid)
        return; /* not our child: an agent before us started it */
    if (info.si_code == CLD_EXITED)
        (void)snprintf(process->how, sizeof process->how, "its process ended with exit code %d",
                       info.si_status);
    else
        (void)snprintf(process->how, sizeof process->how,
                       "its process was killed by signal %d (%s)", info.si_status,
                       strsignal(info.si_status));
}

static void on_pidfd(void *data, unsigned events)
{
    struct vm_process *process = data;
    (void)events;

    process->dead = true;
    reap(process);
    process->watch = loop_poll_free(process->watch);
    if (process->rpc)
        loop_timer_start(process->timer, LAST_WORDS_MS, 0); /* on_closed comes first, normally */
    else
        tell_ended(process);
}

static int watch_start(struct vm_process *process, struct fault *fault)
{
    process->pidfd = pidfd_of(process->pid);
    if (process->pidfd < 0)
        return fault_set_errno(fault, errno == ESRCH ? ERR_NOT_FOUND : ERR_IO, errno,
                               "watching process %d", process->pid);
    int r = loop_poll_new(&process->watch, process->config.loop, process->pidfd, on_pidfd, process,
                          fault);
    if (r == 0)
        loop_poll_set(process->watch, LOOP_READABLE);
    return r;
}

static void timer_fired(void *data)
{
    struct vm_process *process = data;
    struct fault fault = {0};

    if (process->dead) {
        process->rpc = rpc_close(process->rpc);
        tell_ended(process);
        return;
    }
    if (process_connect(process, &fault) < 0) {
        log_debug("vm_process", "not connected yet vm=%s: %s", process->vm_id, fault.text);
        loop_timer_start(process->timer, RECONNECT_MS, 0);
        return;
    }
    process->config.on_connected(process->config.data);
}

static void hang_timer_fired(void *data)
{
    struct vm_process *process = data;
    struct fault fault = {0};

    if (process->dead)
        return;
    log_warn("vm_process", "a VM's process did not end by itself: killed vm=%s", process->vm_id);
    if (vm_process_kill(process, &fault) < 0)
        log_error("vm_process", "vm=%s: %s", process->vm_id, fault.text);
}

/* ---- talking ---- */
static void handle_state(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    struct vm_process *process = data;
    (void)rpc;
    (void)request;
    process->config.on_state(process->config.data, (const Godwit__VmStatus *)message);
}

static void handle_move(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    struct vm_process *process = data;
    (void)rpc;
    (void)request;
    process->config.on_move(process->config.data, (const Godwit__MoveEvent *)message);
}

static void handle_console(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    struct vm_process *process = data;
    (void)rpc;
    (void)request;
    process->config.on_console(process->config.data, (const Godwit__ConsoleData *)message);
}

static void handle_protect(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    struct vm_process *process = data;
    (void)rpc;
    (void)request;
    if (process->config.on_protect)
        process->config.on_protect(process->config.data, (const Godwit__VmProtectEvent *)message);
}

static void handle_replica(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    struct vm_process *process = data;
    (void)rpc;
    (void)request;
    if (process->config.on_replica)
        process->config.on_replica(process->config.data, (const Godwit__ReplicaStatus *)message);
}

static void handle_lent(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    struct vm_process *process = data;
    struct fault fault = {0};
    (void)rpc;
    if (!request)
        return;
    if (process->config.on_lent) {
        process->config.on_lent(process->config.data, (const Godwit__VmLent *)message, request);
        return;
    }
    (void)fault_set(&fault, ERR_REFUSED, "nobody asked for it");
    (void)rpc_reply_fault(request, &fault);
}

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct vm_process *process = data;

    log_debug("vm_process", "connection ended vm=%s: %s", process->vm_id, fault ? fault->text : "");
    (void)rpc_close(rpc);
    process->rpc = NULL;
    if (process->is_open_end && !process->dead) {
        process->dead = true;
        (void)snprintf(process->how, sizeof process->how, "its domain ended");
    }
    if (process->dead)
        tell_ended(process);
    else
        loop_timer_start(process->timer, RECONNECT_MS, 0);
}

static const struct rpc_method process_methods[] = {
    {METHOD_VM_STATE_EVENT, &godwit__vm_status__descriptor, handle_state},
    {METHOD_VM_MOVE_EVENT, &godwit__move_event__descriptor, handle_move},
    {METHOD_VM_CONSOLE_OUTPUT, &godwit__console_data__descriptor, handle_console},
    {METHOD_VM_PROTECT_EVENT, &godwit__vm_protect_event__descriptor, handle_protect},
    {METHOD_VM_REPLICA_EVENT, &godwit__replica_status__descriptor, handle_replica},
    {METHOD_VM_LENT, &godwit__vm_lent__descriptor, handle_lent},
};

static const struct rpc_service process_service = {
    .methods = process_methods,
    .method_count = ARRAY_COUNT(process_methods),
    .on_closed = on_closed,
};

static int process_connect(struct vm_process *process, struct fault *fault)
{
    AUTO_FD int fd = -1;

    int r = unix_connect(process->socket_path, &fd, fault);
    if (r == 0)
        r = rpc_new_unix(&process->rpc, process->config.loop, fd, &process_service, process, fault);
    if (r == 0)
        (void)TAKE_FD(fd);
    return r;
}

/* ---- starting ---- */
static int spawn(struct vm_process *process, const struct vm_process_config *config, int listen_fd,
                 struct fault *fault)
{
    char *const argv[] = {"godwit-vm",
                          "--vm-id",
                          (char *)config->vm_id,
                          "--name",
                          (char *)config->name,
                          "--log-level",
                          (char *)config->log_level,
                          config->failpoints_path ? "--failpoints" : NULL,
                          NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;

    AUTO_FD int log_fd = open(config->log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log_fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "opening %s", config->log_path);
    AUTO_FD int failpoints_low_fd = -1;
    AUTO_FD int failpoints_fd = -1;
    if (config->failpoints_path) {
        failpoints_low_fd = open(config->failpoints_path, O_RDWR | O_APPEND | O_CLOEXEC);
        failpoints_fd = fcntl(failpoints_low_fd, F_DUPFD_CLOEXEC, 10);
        if (failpoints_fd < 0)
            return fault_set_errno(fault, err_from_errno(errno), errno, "opening %s",
                                   config->failpoints_path);
    }
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGTERM);
    sigaddset(&defaults, SIGINT);
    sigaddset(&defaults, SIGCHLD);
    (void)posix_spawn_file_actions_init(&actions); /* these only allocate; spawn tells the rest */
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setsigdefault(&attributes, &defaults);
    (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    (void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    (void)posix_spawn_file_actions_adddup2(&actions, log_fd, 1);
    (void)posix_spawn_file_actions_adddup2(&actions, log_fd, 2);
    (void)posix_spawn_file_actions_adddup2(&actions, listen_fd, CONTROL_FD);
    if (failpoints_fd >= 0)
        (void)posix_spawn_file_actions_adddup2(&actions, failpoints_fd, FAILPOINTS_FD);
    int error = posix_spawn(&process->pid, config->program, &actions, &attributes, argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attributes);
    if (error)
        return fault_set_errno(fault, err_from_errno(error), error, "starting %s", config->program);
    return 0;
}

static int process_alloc(struct vm_process **ret_process, const struct vm_process_config *config,
                         struct fault *fault)
{
    struct vm_process *process = calloc(1, sizeof *process);
    if (!process)
        return fault_set(fault, ERR_NOMEM, "no memory for a VM's process");
    process->config = *config;
    process->pidfd = -1;
    process->vm_id = strdup(config->vm_id);
    process->socket_path = strdup(config->socket_path);
    process->log_path = strdup(config->log_path);
    int r = process->vm_id && process->socket_path && process->log_path
                ? 0
                : fault_set(fault, ERR_NOMEM, "no memory for a VM's process");
    if (r == 0)
        r = loop_timer_new(&process->timer, config->loop, timer_fired, process, fault);
    if (r == 0)
        r = loop_timer_new(&process->hang_timer, config->loop, hang_timer_fired, process, fault);
    if (r < 0) {
        (void)vm_process_free(process);
        return r;
    }
    *ret_process = process;
    return 0;
}

int vm_process_start(struct vm_process **ret_process, const struct vm_process_config *config,
                     struct fault *fault)
{
    struct vm_process *process;
    AUTO_FD int low_fd = -1;
    AUTO_FD int listen_fd = -1;

    int r = process_alloc(&process, config, fault);
    if (r < 0)
        return r;
    r = unix_listen(config->socket_path, &low_fd, fault);
    /* Above the descriptors that the file actions set, so that none of them hits it. */
    if (r == 0 && (listen_fd = fcntl(low_fd, F_DUPFD_CLOEXEC, 10)) < 0)
        r = fault_set_errno(fault, err_from_errno(errno), errno, "passing a socket on");
    if (r == 0)
        r = spawn(process, config, listen_fd, fault);
    if (r == 0) {
        process->known = true;
        r = watch_start(process, fault);
        if (r == 0)
            r = process_connect(process, fault);
        if (r < 0) { /* nothing runs in it yet */
            (void)kill(process->pid, SIGKILL);
            (void)waitpid(process->pid, NULL, 0);
        }
    }
    if (r < 0) {
        (void)vm_process_free(process);
        return fault_wrap(fault, r, "starting a process for %s", config->name);
    }
    *ret_process = process;
    return 0;
}

int vm_process_adopt(struct vm_process **ret_process, const struct vm_process_config *config,
                     struct fault *fault)
{
    struct vm_process *process;
    unsigned uid;

    int r = process_alloc(&process, config, fault);
    if (r < 0)
        return r;
    AUTO_FD int fd = -1;
    r = unix_connect(process->socket_path, &fd, fault);
    if (r < 0) {
        if (r == ERR_UNREACHABLE) /* refused: nobody listens, which proves that it ended */
            r = ERR_NOT_FOUND;
        (void)vm_process_free(process);
        return r;
    }
    r = rpc_new_unix(&process->rpc, config->loop, fd, &process_service, process, fault);
    if (r == 0) {
        (void)TAKE_FD(fd);
        /* The kernel's word, not the process's: see godwit-vm's main. */
        if (sscanf(rpc_peer(process->rpc)->name, "%u:%d", &uid, &process->pid) != 2 ||
            process->pid <= 0)
            r = fault_set(fault, ERR_STATE, "who serves %s is not to be seen", config->socket_path);
    }
    if (r == 0)
        r = watch_start(process, fault);
    if (r == ERR_NOT_FOUND) /* somebody listens, as who made the socket: an agent that is no more. Asked again. */
        r = fault_set(fault, ERR_STATE, "who serves %s has not said so yet", config->socket_path);
    if (r < 0) {
        (void)vm_process_free(process);
        return r;
    }
    *ret_process = process;
    return 0;
}

int vm_process_open(struct vm_process **ret_process, const struct vm_process_config *config, int fd,
                    struct fault *fault)
{
    struct vm_process *process;

    int r = process_alloc(&process, config, fault);
    if (r < 0)
        return r;
    process->is_open_end = process->known = true;
    r = rpc_new_unix(&process->rpc, config->loop, fd, &process_service, process, fault);
    if (r < 0) {
        (void)vm_process_free(process);
        return r;
    }
    *ret_process = process;
    return 0;
}

int vm_process_discard(struct vm_process *process, struct fault *fault)
{
    if (!process->is_open_end)
        return vm_process_kill(process, fault);
    process->rpc = rpc_close(process->rpc);
    process->dead = true;
    (void)snprintf(process->how, sizeof process->how, "it was let go");
    loop_timer_start(process->timer, 0, 0);
    return 0;
}

struct vm_process *vm_process_free(struct vm_process *process)
{
    if (!process)
        return NULL;
    (void)rpc_close(process->rpc);
    if (process->watch)
        (void)loop_poll_free(process->watch);
    if (process->timer)
        (void)loop_timer_free(process->timer);
    if (process->hang_timer)
        (void)loop_timer_free(process->hang_timer);
    close_p(&process->pidfd);
    free(process->vm_id);
    free(process->socket_path);
    free(process->log_path);
    free(process);
    return NULL;
}

int vm_process_give(struct vm_process *process, const struct vm_process_config *config,
                    struct fault *fault)
{
    char *socket_path = strdup(config->socket_path), *log_path = strdup(config->log_path);
    if (!socket_path || !log_path) {
        free(socket_path);
        free(log_path);
        return fault_set(fault, ERR_NOMEM, "no memory for a VM's process");
    }
    free(process->socket_path);
    free(process->log_path);
    process->socket_path = socket_path;
    process->log_path = log_path;
    process->config = *config;
    return 0;
}

struct rpc *vm_process_rpc(struct vm_process *process)
{
    return process->rpc;
}

int vm_process_pid(const struct vm_process *process)
{
    return process->pid;
}

int vm_process_kill(struct vm_process *process, struct fault *fault)
{
    if (process->is_open_end) {
        process->config.kill(process->config.data);
        return 0;
    }
    if (!vm_process_is_proven(process))
        return fault_set(fault, ERR_STATE, "process %d has not shown that it runs VM %s",
                         process->pid, process->vm_id);
    if (syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
        return fault_set_errno(fault, ERR_DENIED, errno, "ending process %d", process->pid);
    return 0;
}

void vm_process_kill_after(struct vm_process *process, uint64_t ms)
{
    loop_timer_start(process->hang_timer, ms, 0);
}

void vm_process_set_known(struct vm_process *process)
{
    process->known = true;
}

bool vm_process_is_known(const struct vm_process *process)
{
    return process->known;
}

bool vm_process_is_proven(const struct vm_process *process)
{
    return process->is_open_end || process->known ||
           vm_proof_holds(process->pid, process->pidfd, process->log_path);
}
