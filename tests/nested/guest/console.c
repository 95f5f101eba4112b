/* Lines come in on the serial port, one record goes out for each. */
#define _GNU_SOURCE
#include "load.h"

#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

static void tell_stats(const struct block_writer *writer, const struct stream *streams,
                       const struct clock_watch *watch, const struct cpu_hog *hog)
{
    char turns[CPUS_MAX * 24] = "";
    for (unsigned i = 0; i < hog->cpus; i++) {
        size_t used = strlen(turns);
        (void)snprintf(turns + used, sizeof turns - used, "%s%llu", i ? "," : "",
                       (unsigned long long)hog->turns[i]);
    }
    (void)printf(
        "gw stats cpus=%u turns=%s hog_bad=%llu hog_back=%llu clock_turns=%llu clock_back=%llu "
        "clock_step_ms=%llu clock_shift_us=%llu blocks=%llu acked=%llu disk_error=%d "
        "out_sent=%llu out_received=%llu out_bad=%llu out_broken=%d in_sent=%llu in_received=%llu "
        "in_bad=%llu in_broken=%d uptime_ms=%llu\n",
        hog->cpus, turns, (unsigned long long)hog->bad, (unsigned long long)hog->back,
        (unsigned long long)watch->turns, (unsigned long long)watch->back,
        (unsigned long long)watch->step_ns_max / 1000000,
        (unsigned long long)watch->shift_ns_max / 1000, (unsigned long long)writer->next,
        (unsigned long long)writer->acked, writer->error, (unsigned long long)streams[0].sent,
        (unsigned long long)streams[0].received, (unsigned long long)streams[0].bad_at,
        streams[0].broken, (unsigned long long)streams[1].sent,
        (unsigned long long)streams[1].received, (unsigned long long)streams[1].bad_at,
        streams[1].broken, (unsigned long long)now_ns() / 1000000);
}

static void tell_verify(const struct block_writer *writer)
{
    uint64_t checked, wrong = block_writer_verify(writer, &checked);
    (void)printf("gw verify %s checked=%llu wrong=%llu\n", wrong ? "BAD" : "ok",
                 (unsigned long long)checked, (unsigned long long)wrong);
}

/* As distributions do, and more than a nicety: late stable releases of Linux 6.1 break every virtio queue before
 * they power off, and whoever then sends on a queue with a finished packet in it (here a timer of TCP) never
 * returns from virtio_net's start_xmit. The guest hangs, whatever the VMM. */
static void close_network(void)
{
    struct ifreq card = {.ifr_name = "eth0"};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (ioctl(fd, SIOCGIFFLAGS, &card) == 0) {
        card.ifr_flags &= (short)~IFF_UP;
        (void)ioctl(fd, SIOCSIFFLAGS, &card);
    }
    (void)close(fd);
}

static void end(struct block_writer *writer, int how)
{
    if (writer->path) {
        writer->stop = true;
        while (!writer->stopped)
            sleep_ms(10);
    }
    sync();
    bool mounted = writer->path != NULL;
    (void)printf("gw end acked=%llu unmounted=%d\n", (unsigned long long)writer->acked,
                 mounted ? umount("/data") == 0 : 0);
    close_network();
    (void)tcdrain(STDOUT_FILENO);
    (void)reboot(how);
}

void console_run(struct block_writer *writer, struct stream streams[static 2],
                 struct clock_watch *watch, struct cpu_hog *hog)
{
    struct termios raw;
    if (tcgetattr(STDIN_FILENO, &raw) == 0) {
        cfmakeraw(&raw);
        raw.c_iflag |= ICRNL;
        raw.c_oflag |= OPOST | ONLCR;
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    (void)printf("gw ready cpus=%u\n", hog->cpus);
    char line[128];
    for (;;) {
        if (!fgets(line, sizeof line, stdin)) {
            clearerr(stdin);
            sleep_ms(100);
            continue;
        }
        line[strcspn(line, "\r\n")] = '\0';
        if (strcmp(line, "stats") == 0)
            tell_stats(writer, streams, watch, hog);
        else if (strcmp(line, "verify") == 0)
            tell_verify(writer);
        else if (strcmp(line, "poweroff") == 0)
            end(writer, RB_POWER_OFF);
        else if (strcmp(line, "reboot") == 0)
            end(writer, RB_AUTOBOOT);
        else if (line[0])
            (void)printf("gw unknown word: %s\n", line);
    }
}
