#include "agent/host_load.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/vm_table.h"
#include "base/own.h"
#include "base/world.h"

enum { LOAD_VMS_MAX = 1024, LOAD_TEXT_MAX = 4096 };
/* Each reading's share of the average; readings come once a second. */
#define SHARE 0.2

struct vm_load {
    char id[VM_ID_SIZE];
    int32_t pid;
    uint64_t run_ns, wait_ns; /* of all its vCPUs, as read last */
    bool was_read, is_there;
    double run_cores, wait_cores;
    Godwit__VmLoad told;
};

struct host_load {
    struct vm_table *table;
    struct vm_load vms[LOAD_VMS_MAX];
    size_t count;
    Godwit__VmLoad *list[LOAD_VMS_MAX];
    uint64_t read_ns;
    uint64_t busy_ticks; /* of /proc/stat */
    double busy_cores;
    bool was_read;
};

struct host_load *host_load_new(struct vm_table *table)
{
    struct host_load *load = calloc(1, sizeof *load);
    if (load)
        load->table = table;
    return load;
}

struct host_load *host_load_free(struct host_load *load)
{
    free(load);
    return NULL;
}

bool host_load_parse_pressure(const char *text, double *ret_percent)
{
    double percent;
    if (sscanf(text, "some avg10=%lf", &percent) != 1 || percent < 0 || percent > 100)
        return false;
    *ret_percent = percent;
    return true;
}

bool host_load_parse_schedstat(const char *text, uint64_t *ret_run_ns, uint64_t *ret_wait_ns)
{
    unsigned long long run_ns, wait_ns;
    if (sscanf(text, "%llu %llu", &run_ns, &wait_ns) != 2)
        return false;
    *ret_run_ns = run_ns;
    *ret_wait_ns = wait_ns;
    return true;
}

static bool read_text(const char *path, char ret_text[static LOAD_TEXT_MAX])
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, ret_text, LOAD_TEXT_MAX - 1);
    if (n <= 0)
        return false;
    ret_text[n] = '\0';
    return true;
}

bool host_load_is_vcpu(const char *name)
{
    size_t count = strcspn(name, "\n");
    bool ends_so = count > 8 && (strncmp(name + count - 4, "/KVM", 4) == 0 ||
                                 strncmp(name + count - 4, "/TCG", 4) == 0);
    bool is_qemus = ends_so && (strncmp(name, "CPU ", 4) == 0 || strncmp(name, "ALL CPUs/", 9) == 0);
    return is_qemus || strncmp(name, "vcpu", 4) == 0;
}

/* Sums of the threads that are vCPUs; false when the process is gone. */
static bool read_vcpus(int32_t pid, uint64_t *ret_run_ns, uint64_t *ret_wait_ns)
{
    char path[300], text[LOAD_TEXT_MAX];
    (void)snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return false;
    *ret_run_ns = *ret_wait_ns = 0;
    for (const struct dirent *task; (task = readdir(tasks));) {
        uint64_t run_ns, wait_ns;
        if (task->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof path, "/proc/%d/task/%.20s/comm", pid, task->d_name);
        if (!read_text(path, text) || !host_load_is_vcpu(text))
            continue;
        (void)snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", pid, task->d_name);
        if (!read_text(path, text) || !host_load_parse_schedstat(text, &run_ns, &wait_ns))
            continue;
        *ret_run_ns += run_ns;
        *ret_wait_ns += wait_ns;
    }
    (void)closedir(tasks);
    return true;
}

/* A guest's memory is a memfd, a domain's is QEMU's own. */
static uint64_t memory_bytes(int32_t pid, bool is_domain)
{
    char path[64], text[LOAD_TEXT_MAX];
    unsigned long long size, resident, shared;
    (void)snprintf(path, sizeof path, "/proc/%d/statm", pid);
    if (!read_text(path, text) || sscanf(text, "%llu %llu %llu", &size, &resident, &shared) != 3)
        return 0;
    return (is_domain ? resident : shared) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static struct vm_load *find(struct host_load *load, const char *id)
{
    for (size_t i = 0; i < load->count; i++) {
        if (strcmp(load->vms[i].id, id) == 0)
            return &load->vms[i];
    }
    if (load->count == LOAD_VMS_MAX)
        return NULL;
    struct vm_load *vm = &load->vms[load->count++];
    *vm = (struct vm_load){0};
    (void)snprintf(vm->id, sizeof vm->id, "%s", id);
    return vm;
}

static void smooth(double *average, double now, bool is_first)
{
    *average = is_first ? now : *average + SHARE * (now - *average);
}

static void read_vm(struct host_load *load, const struct vm_entry *entry, double seconds)
{
    struct vm_load *vm = find(load, entry->id);
    uint64_t run_ns, wait_ns;
    int32_t pid = entry->status->pid;
    if (!vm || pid <= 0 || !read_vcpus(pid, &run_ns, &wait_ns))
        return;
    bool is_first = !vm->was_read || vm->pid != pid || run_ns < vm->run_ns;
    vm->is_there = true;
    if (!is_first && seconds > 0) {
        bool had_none = vm->run_cores == 0 && vm->wait_cores == 0;
        smooth(&vm->run_cores, (double)(run_ns - vm->run_ns) / 1e9 / seconds, had_none);
        smooth(&vm->wait_cores, (double)(wait_ns - vm->wait_ns) / 1e9 / seconds, had_none);
    }
    vm->pid = pid;
    vm->run_ns = run_ns;
    vm->wait_ns = wait_ns;
    vm->was_read = true;
    if (is_first)
        return; /* a rate takes two readings */
    godwit__vm_load__init(&vm->told);
    vm->told.vm_id = vm->id;
    vm->told.has_run_cores = vm->told.has_wait_cores = vm->told.has_memory_populated = true;
    vm->told.run_cores = vm->run_cores;
    vm->told.wait_cores = vm->wait_cores;
    vm->told.memory_populated = memory_bytes(pid, vm_entry_is_domain(entry));
}

static void forget_gone(struct host_load *load)
{
    size_t kept = 0;
    for (size_t i = 0; i < load->count; i++) {
        if (!load->vms[i].is_there)
            continue;
        if (kept != i)
            load->vms[kept] = load->vms[i];
        kept++;
    }
    load->count = kept;
}

static void read_busy(struct host_load *load, double seconds)
{
    char text[LOAD_TEXT_MAX];
    unsigned long long user, nice, system, idle, iowait, irq, softirq, steal;
    if (!read_text("/proc/stat", text) ||
        sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle,
               &iowait, &irq, &softirq, &steal) != 8)
        return;
    uint64_t ticks = user + nice + system + irq + softirq + steal;
    if (load->was_read && seconds > 0 && ticks >= load->busy_ticks)
        smooth(&load->busy_cores,
               (double)(ticks - load->busy_ticks) / (double)sysconf(_SC_CLK_TCK) / seconds,
               load->busy_cores == 0);
    load->busy_ticks = ticks;
}

static void read_pressure(const char *path, protobuf_c_boolean *has, double *percent)
{
    char text[LOAD_TEXT_MAX];
    *has = read_text(path, text) && host_load_parse_pressure(text, percent);
}

void host_load_read(struct host_load *load, Godwit__AgentHeartbeat *beat)
{
    uint64_t now_ns = world_now_ns();
    double seconds = load->was_read ? (double)(now_ns - load->read_ns) / 1e9 : 0;
    if (load->was_read && seconds < 0.1)
        return;
    for (size_t i = 0; i < load->count; i++)
        load->vms[i].is_there = false;
    for (struct vm_entry *entry = vm_table_first(load->table); entry; entry = entry->next) {
        if (entry->status->state == GODWIT__VM_STATE__VM_STATE_RUNNING)
            read_vm(load, entry, seconds);
    }
    forget_gone(load);
    read_busy(load, seconds);
    beat->has_busy_cores = load->was_read;
    beat->busy_cores = load->busy_cores;
    load->read_ns = now_ns;
    load->was_read = true;
    read_pressure("/proc/pressure/cpu", &beat->has_psi_cpu, &beat->psi_cpu);
    read_pressure("/proc/pressure/memory", &beat->has_psi_memory, &beat->psi_memory);
    for (size_t i = 0; i < load->count; i++) {
        if (load->vms[i].told.vm_id)
            load->list[beat->n_vms++] = &load->vms[i].told;
        load->vms[i].told.vm_id = load->vms[i].told.vm_id ? load->vms[i].id : NULL;
    }
    beat->vms = load->list;
}
