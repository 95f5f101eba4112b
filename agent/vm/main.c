/* godwit-vm: one VM, its machine and both ends of its moves. Started by godwit-agent, which it
 * survives; everything it works with comes by its socket (fd 3). Not for hands. */
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/vm/control.h"
#include "agent/vm/sandbox.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "net/tls_lane.h"

enum { CONTROL_FD = 3, FAILPOINTS_FD = 4, CONTROL_BACKLOG = 16 };

static const char *arg_vm_id, *arg_name = "";
static bool arg_failpoints;

static void print_help(FILE *out)
{
    fputs("usage: godwit-vm --vm-id ID [--name NAME] [--log-level LEVEL]   (by godwit-agent only)\n"
          "\n"
          "Runs one virtual machine. A listening Unix socket must be descriptor 3.\n"
          "Orders, disks and sockets come through it; see proto/method.h, METHOD_VM_*.\n"
          "--failpoints: a test's spec is descriptor 4; --list-failpoints names what it may say.\n"
          "\n"
          "To start a VM by hand, use the operator's command:\n"
          "  godwit vm create web-01 --memory 1GiB --vcpus 2 --kernel /boot/vmlinux\n",
          out);
}

static int parse_arguments(int argc, char **argv)
{
    enum { OPTION_VM_ID = 256, OPTION_NAME, OPTION_LOG_LEVEL, OPTION_FAILPOINTS, OPTION_LIST_FAILPOINTS };
    static const struct option options[] = {
        {"vm-id", required_argument, NULL, OPTION_VM_ID},
        {"name", required_argument, NULL, OPTION_NAME},
        {"log-level", required_argument, NULL, OPTION_LOG_LEVEL},
        {"failpoints", no_argument, NULL, OPTION_FAILPOINTS},
        {"list-failpoints", no_argument, NULL, OPTION_LIST_FAILPOINTS},
        {"help", no_argument, NULL, 'h'},
        {0},
    };

    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) >= 0;) {
        switch (c) {
        case OPTION_VM_ID:
            arg_vm_id = optarg;
            break;
        case OPTION_NAME:
            arg_name = optarg;
            break;
        case OPTION_LOG_LEVEL: {
            int level = log_level_from_name(optarg);
            if (level < 0) {
                fprintf(stderr, "godwit-vm: --log-level is error, warn, info or debug\n");
                return 2;
            }
            log_set_level((enum log_level)level);
            break;
        }
        case OPTION_FAILPOINTS:
            arg_failpoints = true;
            break;
        case OPTION_LIST_FAILPOINTS:
            failpoint_print(stdout);
            exit(0);
        case 'h':
            print_help(stdout);
            exit(0);
        default:
            return 2;
        }
    }
    if (!arg_vm_id) {
        print_help(stderr);
        return 2;
    }
    return 0;
}

static int check_control_fd(struct fault *fault)
{
    int listens = 0;
    socklen_t size = sizeof listens;

    if (getsockopt(CONTROL_FD, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || !listens)
        return fault_set(fault, ERR_INVALID,
                         "descriptor %d is no listening socket: godwit-vm is "
                         "started by godwit-agent",
                         CONTROL_FD);
    (void)fcntl(CONTROL_FD, F_SETFD, FD_CLOEXEC); /* cannot fail on an open descriptor */
    /* Listening again makes SO_PEERCRED on the agent's side name this process, not the one that
     * made the socket: an agent that adopts us learns our pid from the kernel. */
    if (listen(CONTROL_FD, CONTROL_BACKLOG) < 0)
        return fault_set(fault, ERR_IO, "listening on the control socket");
    return 0;
}

/* For tests: what may go wrong in this process, as its agent's environment says. */
static int take_failpoints(struct fault *fault)
{
    if (!arg_failpoints)
        return 0;
    (void)fcntl(FAILPOINTS_FD, F_SETFD, FD_CLOEXEC);
    failpoint_set_file(FAILPOINTS_FD);
    return failpoint_reload(fault);
}

static void *warm_run(void *data)
{
    (void)data;
    (void)tls_lane_warm(); /* a wish */
    return NULL;
}

int main(int argc, char **argv)
{
    struct fault fault = {0};
    struct loop *loop = NULL;
    struct control *control = NULL;

    log_set_program("godwit-vm");
    int r = parse_arguments(argc, argv);
    if (r)
        return r;

    (void)setsid(); /* fails when we lead a session already: as good */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    r = check_control_fd(&fault);
    if (r == 0)
        r = sandbox_enter(arg_failpoints ? FAILPOINTS_FD : CONTROL_FD, &fault);
    if (r == 0)
        r = take_failpoints(&fault);
    if (r == 0)
        r = loop_new(&loop, &fault);
    if (r == 0)
        r = control_new(&control, loop, CONTROL_FD, arg_vm_id, arg_name, &fault);
    if (r < 0) {
        log_error("main", "cannot serve vm=%s: %s", arg_vm_id, fault.text);
        return 1;
    }
    /* Beside the making of the guest: no move, in or out, waits for OpenSSL's first steps then. */
    pthread_t warm;
    bool is_warming = pthread_create(&warm, NULL, warm_run, NULL) == 0;
    log_info("main", "ready vm=%s name=%s pid=%d", arg_vm_id, arg_name, (int)getpid());
    loop_run(loop);
    control = control_free(control);
    loop = loop_free(loop);
    if (is_warming)
        (void)pthread_join(warm, NULL);
    log_info("main", "ended vm=%s", arg_vm_id);
    return 0;
}
