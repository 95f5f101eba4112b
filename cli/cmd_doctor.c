#include "cli/cmd_doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/config.h"
#include "base/err.h"
#include "base/own.h"
#include "base/paths.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/cmd_version.h"
#include "cli/context.h"
#include "net/pki.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

/* Each check is one line: a mark, what was found, and when it is bad a hint that runs. */
enum verdict { WELL, NOTE, BAD };

enum { DESCRIPTORS_WANTED = 1024, CERTIFICATE_DAYS_WANTED = 30, SEEN_MS_MAX = 10000 };

struct doctor {
    struct context *context;
    unsigned bad;
};

__attribute__((format(printf, 5, 6))) static void say(struct doctor *doctor, enum verdict verdict,
                                                      const char *what, const char *hint,
                                                      const char *format, ...)
{
    static const char *const marks[] = {[WELL] = "✔", [NOTE] = "·", [BAD] = "✖"};
    static const char *const paints[] = {[WELL] = "\033[32m", [NOTE] = "", [BAD] = "\033[31m"};
    static const char *const words[] = {[WELL] = "ok", [NOTE] = "note", [BAD] = "bad"};
    char text[400];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);

    struct context *context = doctor->context;
    doctor->bad += verdict == BAD;
    if (context_is_machine(context)) {
        for (char *at = text; *at; at++) {
            if (*at == '"' || *at == '\\' || (unsigned char)*at < 0x20)
                *at = '\'';
        }
        (void)fprintf(context->out, "{\"check\":\"%s\",\"verdict\":\"%s\",\"text\":\"%s\"}\n", what,
                      words[verdict], text);
        return;
    }
    bool color = context->out_color;
    (void)fprintf(context->out, "%s%s%s %-14s %s\n", color ? paints[verdict] : "", marks[verdict],
                  color ? "\033[0m" : "", what, text);
    if (verdict == BAD && hint)
        (void)fprintf(context->out, "                 hint: %s\n", hint);
}

/* ---- this machine ---- */

static void check_kvm(struct doctor *doctor)
{
    AUTO_FD int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        say(doctor, WELL, "kvm", NULL, "/dev/kvm opens; the agent checks what it can do");
    else if (errno == ENOENT)
        say(doctor, BAD, "kvm", "modprobe kvm_intel || modprobe kvm_amd",
            "there is no /dev/kvm: no virtualization in the CPU or firmware, or no kernel module");
    else if (errno == EACCES)
        say(doctor, BAD, "kvm", "sudo usermod -aG kvm $USER",
            "/dev/kvm is there, but this user may not open it until it is in its group and logs in "
            "anew");
    else
        say(doctor, BAD, "kvm", NULL, "/dev/kvm does not open: %s", strerror(errno));
}

/* The number behind `key` in a file of "Key: 123 kB" lines. */
static bool read_proc(const char *path, const char *key, uint64_t *ret_number)
{
    AUTO_FREE char *line = NULL;
    size_t size = 0, length = strlen(key);
    bool found = false;
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    while (!found && getline(&line, &size, file) > 0) {
        if (strncmp(line, key, length) == 0 && line[length] == ':')
            found = sscanf(line + length + 1, "%" SCNu64, ret_number) == 1;
    }
    (void)fclose(file);
    return found;
}

static void check_memory(struct doctor *doctor)
{
    uint64_t total = 0, room = 0, pages = 0, free_pages = 0;
    char total_text[UNITS_TEXT_SIZE], free_text[UNITS_TEXT_SIZE];
    if (read_proc("/proc/meminfo", "MemTotal", &total) &&
        read_proc("/proc/meminfo", "MemAvailable", &room)) {
        units_print_bytes(total * 1024, total_text);
        units_print_bytes(room * 1024, free_text);
        say(doctor, room * 1024 < MIB(512) ? BAD : WELL, "memory", "free some, or add a host",
            "%s of %s available", free_text, total_text);
    }
    if (!read_proc("/proc/meminfo", "HugePages_Total", &pages) || pages == 0) {
        say(doctor, NOTE, "hugepages", NULL,
            "none are set aside; only VMs with --hugepages ask "
            "for them");
        return;
    }
    (void)read_proc("/proc/meminfo", "HugePages_Free", &free_pages);
    say(doctor, WELL, "hugepages", NULL, "%" PRIu64 " of %" PRIu64 " free", free_pages, pages);
}

static void check_limits(struct doctor *doctor)
{
    struct rlimit files, locked;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        say(doctor, files.rlim_cur < DESCRIPTORS_WANTED ? BAD : WELL, "open files",
            "ulimit -n 65536", "%" PRIu64 " allowed (%d are wanted)", (uint64_t)files.rlim_cur,
            DESCRIPTORS_WANTED);
    if (getrlimit(RLIMIT_MEMLOCK, &locked) != 0)
        return;
    char text[UNITS_TEXT_SIZE] = "without limit";
    if (locked.rlim_cur != RLIM_INFINITY)
        units_print_bytes(locked.rlim_cur, text);
    say(doctor, NOTE, "locked memory", NULL, "%s", text);
}

/* ---- files ---- */

static void check_certificate(struct doctor *doctor, const char *folder, const char *name)
{
    char path[PATH_MAX];
    AUTO_FREE char *pem = NULL;
    uint64_t begin, end;
    struct fault fault = {0};
    if (path_join(path, sizeof path, NULL, "%s/%s", folder, name) < 0 || access(path, R_OK) != 0)
        return;
    if (file_read(path, &pem, NULL, &fault) < 0 ||
        pki_dates(pem, &begin, &end, &fault) < 0) {
        say(doctor, BAD, "certificate", NULL, "%s: %s", path, fault.text);
        return;
    }
    uint64_t now = world_wall_ms() / 1000;
    if (now < begin)
        say(doctor, BAD, "certificate", "timedatectl status",
            "%s is not valid yet: a clock is wrong", path);
    else if (now >= end)
        say(doctor, BAD, "certificate", NULL, "%s has run out", path);
    else
        say(doctor, (end - now) / 86400 < CERTIFICATE_DAYS_WANTED ? BAD : WELL, "certificate", NULL,
            "%s is good for %" PRIu64 " days", path, (end - now) / 86400);
}

static void check_key(struct doctor *doctor, const char *folder, const char *name)
{
    char path[PATH_MAX], hint[PATH_MAX + 16];
    struct stat status;
    if (path_join(path, sizeof path, NULL, "%s/%s", folder, name) < 0 || stat(path, &status) != 0)
        return;
    (void)snprintf(hint, sizeof hint, "chmod 600 %s", path);
    if (status.st_mode & 077)
        say(doctor, BAD, "key", hint, "%s can be read by others", path);
}

static void check_files(struct doctor *doctor, const char *operator_folder)
{
    const char *dir = command_text(doctor->context->line, "dir");
    char agent[PATH_MAX];
    check_certificate(doctor, operator_folder, PATHS_CA_CERTIFICATE);
    check_certificate(doctor, operator_folder, "operator.crt");
    check_key(doctor, operator_folder, "operator.key");
    if (path_join(agent, sizeof agent, NULL, "%s/%s", dir ? dir : PATHS_STATE_DEFAULT,
                  PATHS_AGENT_DIR) < 0)
        return;
    check_certificate(doctor, agent, "host.crt");
    check_key(doctor, agent, "host.key");
}

/* ---- the pool ---- */

static void check_host(struct doctor *doctor, const Godwit__HostInfo *host)
{
    const char *name = host->name ? host->name : "-";
    const char *state = host->state ? host->state : "unknown";
    uint64_t now = world_wall_ms(), seen = host->seen_unix_ms;
    char ago[UNITS_TEXT_SIZE];
    units_print_duration((now > seen ? now - seen : seen - now) / 1000 * NS_PER_S, ago);
    if (strcmp(state, "up") != 0) {
        if (seen)
            say(doctor, BAD, "host", "systemctl status godwit-agent",
                "%s is %s, heard of %s ago; look on that host", name, state, ago);
        else
            say(doctor, BAD, "host", "systemctl status godwit-agent", "%s is %s; look on that host",
                name, state);
        return;
    }
    if (host->facts && host->facts->has_kvm && !host->facts->kvm)
        say(doctor, BAD, "host", NULL, "%s is up, but its KVM lacks %s", name,
            host->facts->kvm_missing ? host->facts->kvm_missing : "something");
    else
        say(doctor, WELL, "host", NULL, "%s is up, %u VMs", name, host->vms);
    /* `seen` is by the coordinator's clock: far from ours means that one of the two is wrong. */
    if (seen && (seen > now + 2000 || now > seen + SEEN_MS_MAX))
        say(doctor, BAD, "clock", "timedatectl status",
            "%s was heard of %s %s by the coordinator's clock: a clock is wrong", name, ago,
            seen > now ? "ahead of now" : "ago");
    if (host->version && strcmp(host->version, cmd_version_text()) != 0)
        say(doctor, BAD, "version", NULL, "%s runs %s, this command is %s", name, host->version,
            cmd_version_text());
}

static void check_hosts(struct doctor *doctor, struct client *client)
{
    Godwit__HostListRequest request = GODWIT__HOST_LIST_REQUEST__INIT;
    Godwit__HostList *list = NULL;
    struct fault fault = {0};
    if (client_call(client, METHOD_HOST_LIST, &request.base, &godwit__host_list__descriptor,
                    CLIENT_CALL_MS, &list, &fault) < 0) {
        say(doctor, BAD, "hosts", NULL, "%s", fault.text);
        return;
    }
    if (list->n_hosts == 0)
        say(doctor, BAD, "hosts", "godwit token create", "the pool has none yet");
    for (size_t i = 0; i < list->n_hosts; i++)
        check_host(doctor, list->hosts[i]);
    godwit__host_list__free_unpacked(list, NULL);
}

static void check_pool(struct doctor *doctor)
{
    Godwit__PoolStatusRequest request = GODWIT__POOL_STATUS_REQUEST__INIT;
    Godwit__PoolStatus *status = NULL;
    struct client *client;
    struct fault fault = {0};
    char folder[PATH_MAX];
    const char *dir = command_text(doctor->context->line, "dir");
    if (client_find_folder(dir, folder, sizeof folder, &fault) < 0) {
        say(doctor, BAD, "pool", fault.hint, "%s", fault.text);
        return;
    }
    check_files(doctor, folder);
    if (client_of(doctor->context, &client, &fault) < 0) {
        say(doctor, BAD, "coordinator", "systemctl status godwit-coordinator", "%s", fault.text);
        return;
    }
    if (client_call(client, METHOD_POOL_STATUS, &request.base, &godwit__pool_status__descriptor,
                    CLIENT_CALL_MS, &status, &fault) < 0) {
        say(doctor, BAD, "coordinator", NULL, "%s", fault.text);
        return;
    }
    bool same = !status->version || strcmp(status->version, cmd_version_text()) == 0;
    say(doctor, same ? WELL : BAD, "coordinator", NULL, "answers at %s, version %s%s",
        client_address(client), status->version ? status->version : "-",
        same ? "" : ", not this command's");
    for (size_t i = 0; i < status->n_warnings; i++)
        say(doctor, BAD, "pool", NULL, "%s", status->warnings[i]);
    godwit__pool_status__free_unpacked(status, NULL);
    check_hosts(doctor, client);
}

int cmd_doctor(struct context *context)
{
    struct doctor doctor = {.context = context};
    check_kvm(&doctor);
    check_memory(&doctor);
    check_limits(&doctor);
    check_pool(&doctor);
    if (!context_is_machine(context))
        (void)fprintf(context->out, doctor.bad ? "\n%u to look at\n" : "\nall is well\n",
                      doctor.bad);
    return doctor.bad ? EXIT_CODE_FAILED : EXIT_CODE_DONE;
}
