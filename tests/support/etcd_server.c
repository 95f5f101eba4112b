#include "tests/support/etcd_server.h"

#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/world.h"
#include "coordinator/store.h"

static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int bound = bind(fd, (struct sockaddr *)&address, size);
    int named = getsockname(fd, (struct sockaddr *)&address, &size);
    (void)close(fd);
    return bound == 0 && named == 0 ? ntohs(address.sin_port) : 0;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    (void)type;
    (void)at;
    return remove(path);
}

static void be_quiet(void)
{
    int quiet = open("/dev/null", O_WRONLY);
    (void)dup2(quiet, 1);
    (void)dup2(quiet, 2);
}

static bool make_certificates(const struct etcd_server *server)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        be_quiet();
        (void)execl("/bin/sh", "sh", ETCD_CERTIFICATES, server->folder, NULL);
        _exit(127);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

bool etcd_server_start(struct etcd_server *server, bool by_tls)
{
    char client[64], peer[64], cluster[80], data[96], ca[96], certificate[96], key[96];
    *server = (struct etcd_server){.folder = "/tmp/godwit-etcd-XXXXXX"};
    if (access("/usr/bin/etcd", X_OK) != 0 || !mkdtemp(server->folder))
        return false;
    if (by_tls && !make_certificates(server))
        return false;
    server->port = free_port();
    (void)snprintf(client, sizeof client, "http%s://127.0.0.1:%d", by_tls ? "s" : "", server->port);
    (void)snprintf(peer, sizeof peer, "http://127.0.0.1:%d", free_port());
    (void)snprintf(cluster, sizeof cluster, "default=%s", peer);
    (void)snprintf(data, sizeof data, "%s/data", server->folder);
    (void)snprintf(ca, sizeof ca, "%s/ca.pem", server->folder);
    (void)snprintf(certificate, sizeof certificate, "%s/server.pem", server->folder);
    (void)snprintf(key, sizeof key, "%s/server.key", server->folder);
    const char *words[24] = {"etcd", "--data-dir",
                             data,   "--listen-client-urls",
                             client, "--advertise-client-urls",
                             client, "--listen-peer-urls",
                             peer,   "--initial-advertise-peer-urls",
                             peer,   "--initial-cluster",
                             cluster};
    const char *const by_certificates[] = {
        "--client-cert-auth", "--trusted-ca-file", ca, "--cert-file",
        certificate,          "--key-file",        key};
    if (by_tls)
        memcpy(words + 13, by_certificates, sizeof by_certificates);
    server->pid = fork();
    if (server->pid == 0) {
        be_quiet();
        (void)execvp("etcd", (char **)(uintptr_t)words);
        _exit(127);
    }
    return server->pid > 0;
}

bool etcd_server_await(const char *place)
{
    struct store *store = NULL;
    for (uint64_t end_ms = world_now_ms() + 60000; world_now_ms() < end_ms;) {
        if (store_open(&store, place, NULL, NULL) == 0) {
            (void)store_close(store);
            return true;
        }
        (void)poll(NULL, 0, 50); /* it tells nobody when it is ready */
    }
    return false;
}

void etcd_server_stop(struct etcd_server *server)
{
    if (server->pid > 0) {
        (void)kill(server->pid, SIGKILL);
        (void)waitpid(server->pid, NULL, 0);
    }
    server->pid = 0;
    (void)nftw(server->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
