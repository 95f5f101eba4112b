/* godwit-coordinator: the room's one coordinator. See coordinator.h for how it is made up. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/config.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/paths.h"
#include "coordinator/coordinator.h"
#include "coordinator/fence.h"
#include "coordinator/metrics.h"
#include "net/text_server.h"
#include "proto/gw_code.h"

static const char *arg_store;
static const char *arg_metrics;
static const char *arg_restore;
static const char *arg_fence_dir = FENCE_DIR_DEFAULT;
static const char *arg_directory = PATHS_STATE_DEFAULT "/" PATHS_COORDINATOR_DIR;

static const char help[] =
    "usage: godwit-coordinator [--dir DIR] [--store etcd://...] [--log-level LEVEL]\n"
    "\n"
    "The pool's coordinator: keeps who owns which VM, gives orders to the hosts' agents, serves\n"
    "the command 'godwit'. It may be ended and started at any time: running VMs are not touched "
    "by\n"
    "that, and moves under way go on. One runs in a pool, keeping its state in a file; or several\n"
    "do with an etcd that they share: one of them leads, the others stand by.\n"
    "\n"
    "  --dir DIR          its folder, made by 'godwit pool init'\n"
    "                     (default " PATHS_STATE_DEFAULT "/" PATHS_COORDINATOR_DIR ")\n"
    "  --store URL        etcd://HOST:PORT,HOST:PORT of the etcd; else a file in DIR. By TLS:\n"
    "                     etcds://HOST:PORT,...?ca=FILE&cert=FILE&key=FILE\n"
    "  --metrics ADDR     loopback ADDR:PORT to give metrics at, like 127.0.0.1:9411\n"
    "  --restore FILE     fill an empty state from what 'godwit pool backup' wrote, and end\n"
    "  --fence-dir DIR    where fence agents lie (default " FENCE_DIR_DEFAULT ")\n"
    "  --log-level LEVEL  error, warn, info (default) or debug; the log goes to stderr\n"
    "  --help, --version\n"
    "\n"
    "examples:\n"
    "  godwit pool init --address 10.0.0.1:7411   make a pool on this machine\n"
    "  godwit-coordinator                         run its coordinator\n"
    "  godwit-coordinator --store etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379\n"
    "  godwit-coordinator --dir /tmp/pool/coordinator --log-level debug\n";

static void on_signal(void *data, int signal_number)
{
    log_info("coordinator", "ending signal=%d", signal_number);
    loop_stop(data);
}

/* Two coordinators on one folder would each believe in their own memory. */
static int take_lock(int *ret_fd, struct fault *fault)
{
    char path[PATH_MAX];
    int r = path_join(path, sizeof path, fault, "%s/lock", arg_directory);
    if (r < 0)
        return r;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        r = fault_set_errno(fault, err_from_errno(errno), errno, "cannot open %s", path);
        if (errno == ENOENT)
            fault_hint(fault, "godwit pool init");
        return r;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        r = errno == EWOULDBLOCK
                ? fault_set(fault, ERR_BUSY, "another coordinator runs on %s", arg_directory)
                : fault_set_errno(fault, ERR_IO, errno, "cannot lock %s", path);
        (void)close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static void write_metrics(void *data, FILE *out)
{
    metrics_write(data, out);
}

static int run(struct fault *fault)
{
    struct text_server *metrics = NULL;
    AUTO_FD int lock = -1;
    struct loop *loop = NULL;
    struct loop_signal *term = NULL, *interrupt = NULL;
    struct coordinator *coordinator = NULL;
    int r = take_lock(&lock, fault);
    if (r == 0)
        r = loop_new(&loop, fault);
    if (r == 0 && arg_restore) {
        r = coordinator_restore(loop, arg_directory, arg_store, arg_restore, fault);
        loop = loop_free(loop);
        return r;
    }
    if (r == 0)
        r = loop_signal_new(&term, loop, SIGTERM, on_signal, loop, fault);
    if (r == 0)
        r = loop_signal_new(&interrupt, loop, SIGINT, on_signal, loop, fault);
    if (r == 0)
        r = coordinator_new(&coordinator, loop, arg_directory, arg_store, arg_fence_dir, fault);
    if (r == 0 && arg_metrics)
        r = text_server_new(&metrics, loop, arg_metrics, "/metrics", write_metrics, coordinator,
                            fault);
    if (r == 0) {
        do {
            loop_run(loop);
        } while (coordinator_stood_down(coordinator));
        if (coordinator->is_failed)
            r = fault_set(fault, ERR_IO, "the pool's state cannot be kept");
    }
    /* This order: the coordinator answers and stores over the loop. */
    metrics = text_server_free(metrics);
    coordinator = coordinator_free(coordinator);
    term = loop_signal_free(term);
    interrupt = loop_signal_free(interrupt);
    loop = loop_free(loop);
    return r;
}

static int usage(const char *what, const char *word)
{
    (void)fprintf(stderr, "godwit-coordinator: %s '%s'\ntry: godwit-coordinator --help\n", what,
                  word);
    return EXIT_CODE_USAGE;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"dir", required_argument, NULL, 'd'},
        {"store", required_argument, NULL, 's'},
        {"metrics", required_argument, NULL, 'm'},
        {"restore", required_argument, NULL, 'r'},
        {"fence-dir", required_argument, NULL, 'f'},
        {"log-level", required_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},
        {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (option) {
        case 'd':
            arg_directory = optarg;
            break;
        case 'f':
            arg_fence_dir = optarg;
            break;
        case 'r':
            arg_restore = optarg;
            break;
        case 'm':
            arg_metrics = optarg;
            break;
        case 's':
            arg_store = optarg;
            break;
        case 'l':
            if (log_level_from_name(optarg) < 0)
                return usage("no log level", optarg);
            log_set_level((enum log_level)log_level_from_name(optarg));
            break;
        case 'h':
            (void)fputs(help, stdout);
            return EXIT_CODE_DONE;
        case 'v':
            (void)puts("godwit-coordinator " GODWIT_VERSION);
            return EXIT_CODE_DONE;
        default:
            (void)fputs("try: godwit-coordinator --help\n", stderr);
            return EXIT_CODE_USAGE;
        }
    }
    if (optind < argc)
        return usage("unexpected word", argv[optind]);

    log_set_program("godwit-coordinator");
    (void)umask(077);
    (void)signal(SIGPIPE, SIG_IGN);
    struct fault fault = {0};
    if (run(&fault) < 0) {
        log_error("coordinator", "%s", fault.text);
        if (fault.hint[0])
            log_error("coordinator", "hint: %s", fault.hint);
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_DONE;
}
