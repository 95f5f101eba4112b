#include "agent/host_facts.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent/tap.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "base/userfault.h"
#include "net/pki.h"
#include "storage/stamp.h"
#include "vmm-core/cpu_model.h"

enum { FACTS_BASELINES_MAX = 16, FACTS_ID_SIZE = 64 };

struct host_facts {
    char name[ID_NAME_MAX + 1];
    char move_address[128];
    char incarnation[ID_TEXT_SIZE];
    char run_dir[512];
    char peer_address[192], heartbeat_store[ID_TEXT_SIZE]; /* "": none */
    struct utsname uname;
    char kvm_missing[FAULT_TEXT_MAX], postcopy_refused[2 * FAULT_TEXT_MAX];
    char missing[FACTS_BASELINES_MAX][CPU_MODEL_MISSING_MAX];
    Godwit__BaselineFact baselines[FACTS_BASELINES_MAX];
    Godwit__BaselineFact *baseline_list[FACTS_BASELINES_MAX];
    char vendor[16];
    char bridges[TAP_BRIDGES_MAX][TAP_NAME_SIZE];
    char *bridge_list[TAP_BRIDGES_MAX];
    Godwit__HostFacts message;
};

/* ---- the incarnation ---- */
static int first_line(const char *path, char *ret_line, size_t size, struct fault *fault)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fault_set_errno(fault, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "reading %s",
                               path);
    ssize_t n = read(fd, ret_line, size - 1);
    if (n < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading %s", path);
    ret_line[n] = 0;
    ret_line[strcspn(ret_line, "\n")] = 0;
    return 0;
}

static int read_incarnation(struct host_facts *facts, const char *run_dir, struct fault *fault)
{
    char path[512], boot_id[FACTS_ID_SIZE], own_id[FACTS_ID_SIZE], both[2 * FACTS_ID_SIZE];
    char hex[PKI_PIN_SIZE];

    int r = first_line("/proc/sys/kernel/random/boot_id", boot_id, sizeof boot_id, fault);
    if (r < 0)
        return r;
    r = path_join(path, sizeof path, fault, "%s/incarnation", run_dir);
    if (r < 0)
        return r;
    r = first_line(path, own_id, sizeof own_id, fault);
    if (r == ERR_NOT_FOUND || (r == 0 && strlen(own_id) != ID_TEXT_SIZE - 1)) {
        id_random(own_id);
        r = file_write_atomic(path, 0600, own_id, strlen(own_id), fault);
    }
    if (r < 0)
        return fault_wrap(fault, r, "finding out this boot's incarnation");
    int n = snprintf(both, sizeof both, "%s %s", boot_id, own_id);
    pki_sha256_hex(both, (size_t)n, hex);
    memcpy(facts->incarnation, hex, ID_TEXT_SIZE - 1);
    return 0;
}

/* ---- numbers ---- */
static uint64_t meminfo(const char *key)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    unsigned long long kib = 0;

    if (!file)
        return 0;
    while (fgets(line, sizeof line, file)) {
        size_t count = strlen(key);
        if (strncmp(line, key, count) == 0 && line[count] == ':' &&
            sscanf(line + count + 1, "%llu", &kib) == 1)
            break;
    }
    (void)fclose(file); /* only read */
    return kib << 10;
}

uint64_t host_facts_memory_free(void)
{
    return meminfo("MemAvailable");
}

double host_facts_load1(void)
{
    double load = 0;

    return getloadavg(&load, 1) == 1 ? load : 0;
}

unsigned host_facts_cpus(const struct host_facts *facts)
{
    (void)facts;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus > 0 ? (unsigned)cpus : 1;
}

static int open_kvm(int *ret_fd, struct fault *fault)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return fault_set(fault, ERR_UNSUPPORTED, "this host has no /dev/kvm");
    if (fd < 0)
        return fault_set_errno(fault, ERR_UNSUPPORTED, errno, "opening /dev/kvm");
    *ret_fd = fd;
    return 0;
}

static void read_baselines(struct host_facts *facts, int kvm_fd)
{
    size_t count =
        cpu_model_count() < FACTS_BASELINES_MAX ? cpu_model_count() : FACTS_BASELINES_MAX;

    for (size_t i = 0; i < count; i++) {
        const struct cpu_model *model = cpu_model_at(i);
        Godwit__BaselineFact *fact = &facts->baselines[i];
        godwit__baseline_fact__init(fact);
        facts->missing[i][0] = 0;
        fact->name = (char *)cpu_model_name(model);
        fact->has_given = true;
        fact->given = kvm_fd >= 0 && cpu_model_check_host(model, kvm_fd, facts->missing[i],
                                                          CPU_MODEL_MISSING_MAX, NULL) == 0;
        if (facts->missing[i][0])
            fact->missing = facts->missing[i];
        facts->baseline_list[i] = fact;
    }
    facts->message.n_baselines = count;
    facts->message.baselines = facts->baseline_list;
}

/* The letters of CPUID's leaf 0, in the order EBX, EDX, ECX. */
static void read_vendor(struct host_facts *facts)
{
    unsigned leaf, letters[3];

    if (__get_cpuid(0, &leaf, &letters[0], &letters[2], &letters[1])) {
        memcpy(facts->vendor, letters, sizeof letters);
        facts->vendor[sizeof letters] = 0;
    }
}

/* The VM's process is this user's too. */
static void read_postcopy(struct host_facts *facts)
{
    struct fault fault = {0};
    AUTO_FD int fd = -1;

    if (userfault_open(&fd, &fault) == 0)
        return;
    (void)snprintf(facts->postcopy_refused, sizeof facts->postcopy_refused, "%s%s%s", fault.text,
                   fault.hint[0] ? "; " : "", fault.hint);
    facts->message.postcopy_refused = facts->postcopy_refused;
}

char **host_facts_bridges(struct host_facts *facts, size_t *ret_count)
{
    *ret_count = tap_bridges(facts->bridges);
    for (size_t i = 0; i < *ret_count; i++)
        facts->bridge_list[i] = facts->bridges[i];
    return facts->bridge_list;
}

const Godwit__HostFacts *host_facts_read(struct host_facts *facts)
{
    Godwit__HostFacts *message = &facts->message;
    struct fault fault = {0};
    AUTO_FD int kvm_fd = -1;

    godwit__host_facts__init(message);
    message->name = facts->name;
    message->incarnation = facts->incarnation;
    message->version = GODWIT_VERSION;
    message->has_cpus = true;
    message->cpus = host_facts_cpus(facts);
    message->has_memory_bytes = true;
    message->memory_bytes = meminfo("MemTotal");
    message->has_memory_free_bytes = true;
    message->memory_free_bytes = host_facts_memory_free();
    message->kernel = facts->uname.release;
    message->machine_name = facts->uname.nodename;
    message->has_kvm = true;
    message->kvm = open_kvm(&kvm_fd, &fault) == 0;
    (void)snprintf(facts->kvm_missing, sizeof facts->kvm_missing, "%s", fault.text);
    if (!message->kvm)
        message->kvm_missing = facts->kvm_missing;
    read_baselines(facts, kvm_fd);
    read_postcopy(facts);
    message->move_address = facts->move_address;
    message->has_load1 = true;
    message->load1 = host_facts_load1();
    read_vendor(facts);
    if (facts->vendor[0])
        message->cpu_vendor = facts->vendor;
    message->bridges = host_facts_bridges(facts, &message->n_bridges);
    message->peer_address = facts->peer_address[0] ? facts->peer_address : NULL;
    message->heartbeat_store = facts->heartbeat_store[0] ? facts->heartbeat_store : NULL;
    return message;
}

int host_facts_check(const struct host_facts *facts, const Godwit__VmSpec *spec, int *ret_kvm_fd,
                     struct fault *fault)
{
    AUTO_FD int kvm_fd = -1;

    if (!spec || !spec->name || !spec->cpu || !spec->cpu->baseline || !spec->memory)
        return fault_set(fault, ERR_INVALID, "a VM needs a name, cpu and memory");
    const struct cpu_model *model = cpu_model_find(spec->cpu->baseline);
    if (!model)
        return fault_set(fault, ERR_UNSUPPORTED, "%s knows no CPU baseline '%s'", facts->name,
                         spec->cpu->baseline);
    int r = open_kvm(&kvm_fd, fault);
    if (r < 0)
        return fault_wrap(fault, r, "%s cannot run on %s", spec->name, facts->name);
    r = cpu_model_check_host(model, kvm_fd, NULL, 0, fault);
    if (r < 0)
        return fault_wrap(fault, r, "%s cannot run on %s", spec->name, facts->name);
    uint64_t free_bytes = host_facts_memory_free();
    if (spec->memory->size > free_bytes)
        return fault_set(fault, ERR_LIMIT, "%s needs %llu MiB of memory, %s has %llu MiB free",
                         spec->name, (unsigned long long)(spec->memory->size >> 20), facts->name,
                         (unsigned long long)(free_bytes >> 20));
    *ret_kvm_fd = TAKE_FD(kvm_fd);
    return 0;
}

int host_facts_new(struct host_facts **ret_facts, const char *name, const char *move_address,
                   const char *run_dir, struct fault *fault)
{
    struct host_facts *facts = calloc(1, sizeof *facts);
    if (!facts)
        return fault_set(fault, ERR_NOMEM, "no memory for the host's facts");

    (void)snprintf(facts->name, sizeof facts->name, "%s", name);
    (void)snprintf(facts->move_address, sizeof facts->move_address, "%s", move_address);
    (void)snprintf(facts->run_dir, sizeof facts->run_dir, "%s", run_dir);
    (void)uname(&facts->uname); /* cannot fail with a good buffer */
    int r = read_incarnation(facts, run_dir, fault);
    if (r < 0) {
        free(facts);
        return r;
    }
    *ret_facts = facts;
    return 0;
}

struct host_facts *host_facts_free(struct host_facts *facts)
{
    free(facts);
    return NULL;
}

const char *host_facts_name(const struct host_facts *facts)
{
    return facts->name;
}

void host_facts_stamp(const struct host_facts *facts, uint64_t generation, struct stamp *ret_stamp)
{
    *ret_stamp = (struct stamp){.generation = generation};
    (void)snprintf(ret_stamp->owner, sizeof ret_stamp->owner, "%s", facts->name);
    (void)snprintf(ret_stamp->incarnation, sizeof ret_stamp->incarnation, "%s",
                   facts->incarnation);
}

int host_facts_renew(struct host_facts *facts, struct fault *fault)
{
    char path[600], own_id[ID_TEXT_SIZE];

    id_random(own_id);
    int r = path_join(path, sizeof path, fault, "%s/incarnation", facts->run_dir);
    if (r == 0)
        r = file_write_atomic(path, 0600, own_id, strlen(own_id), fault);
    return r < 0 ? r : read_incarnation(facts, facts->run_dir, fault);
}

void host_facts_set_peer_address(struct host_facts *facts, const char *address)
{
    (void)snprintf(facts->peer_address, sizeof facts->peer_address, "%s", address);
}

void host_facts_set_heartbeat_store(struct host_facts *facts, const char *id)
{
    (void)snprintf(facts->heartbeat_store, sizeof facts->heartbeat_store, "%s", id);
}

const char *host_facts_incarnation(const struct host_facts *facts)
{
    return facts->incarnation;
}

const char *host_facts_move_address(const struct host_facts *facts)
{
    return facts->move_address;
}
