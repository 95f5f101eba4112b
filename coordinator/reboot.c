#include "coordinator/reboot.h"

#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

extern char **environ;

void reboot_host(struct coordinator *coordinator, const char *host)
{
    char *command = coordinator->reboot_command;
    char *const words[] = {command, (char *)(uintptr_t)host, NULL}; /* only read */
    pid_t pid;
    if (!command || !command[0]) {
        log_info("reboot", "reboot this host now; the plan waits for it host=%s", host);
        return;
    }
    posix_spawnattr_t attributes;
    sigset_t none;
    (void)sigemptyset(&none);
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    int error = posix_spawn(&pid, command, NULL, &attributes, words, environ);
    (void)posix_spawnattr_destroy(&attributes);
    if (error)
        log_error("reboot", "cannot run %s for %s: %s", command, host, strerror(error));
    else
        log_info("reboot", "rebooting host=%s pid=%d command=%s", host, (int)pid, command);
    if (coordinator->reboot_pid > 0)
        (void)waitpid(coordinator->reboot_pid, NULL, WNOHANG); /* that of the host before */
    coordinator->reboot_pid = error ? 0 : pid;
}
