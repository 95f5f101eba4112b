#include "vmm-core/brake.h"

#include <assert.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "vmm-core/vm_inside.h"

#define PERIOD_NS_MIN (4 * NS_PER_MS)
#define RUN_NS_MIN (400 * NS_PER_US)

enum { STATS_MAX = 256, STAT_NAME_MAX = 64 };

struct brake {
    struct vm *vm; /* borrowed */
    pthread_t thread;
    bool started;
    int stats_fds[VM_VCPUS_MAX];          /* borrowed; -1: KVM does not tell */
    uint64_t stats_at[VM_VCPUS_MAX];      /* where the count of faults lies */
    uint64_t faults_before[VM_VCPUS_MAX]; /* the thread's */

    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t changed;
    unsigned permille;
    bool stopped;
};

struct brake_period brake_plan(unsigned permille)
{
    assert(permille <= BRAKE_PERMILLE_MAX);
    uint64_t period_ns = PERIOD_NS_MIN, run_ns = period_ns * (1000 - permille) / 1000;
    if (run_ns < RUN_NS_MIN) {
        run_ns = RUN_NS_MIN;
        period_ns = run_ns * 1000 / (1000 - permille);
    }
    return (struct brake_period){.held_ns = period_ns - run_ns, .period_ns = period_ns};
}

uint32_t brake_pick(const uint64_t *faults, unsigned vcpus)
{
    assert(vcpus <= VM_VCPUS_MAX);
    uint64_t most = 0;
    uint32_t picked = 0;
    for (unsigned i = 0; i < vcpus; i++)
        most = faults[i] > most ? faults[i] : most;
    for (unsigned i = 0; i < vcpus; i++) {
        if (most == 0 || faults[i] >= (most + 7) / 8)
            picked |= UINT32_C(1) << i;
    }
    return picked;
}

/* ---- what KVM tells of a vCPU ---- */

/* Source: Linux Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD. */
static bool find_faults(int fd, uint64_t *ret_at)
{
    struct kvm_stats_header header;
    if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header ||
        header.name_size > STAT_NAME_MAX || header.num_desc > STATS_MAX)
        return false;
    union {
        struct kvm_stats_desc desc;
        char room[sizeof(struct kvm_stats_desc) + STAT_NAME_MAX];
    } one;
    size_t size = sizeof one.desc + header.name_size;
    for (uint32_t i = 0; i < header.num_desc; i++) {
        if (pread(fd, &one, size, (off_t)(header.desc_offset + i * size)) != (ssize_t)size)
            return false;
        if (strncmp(one.desc.name, "pf_taken", header.name_size) == 0) {
            *ret_at = header.data_offset + one.desc.offset;
            return true;
        }
    }
    return false;
}

static void find_stats(struct brake *brake)
{
    for (unsigned i = 0; i < brake->vm->vcpu_count; i++) {
        int fd = brake->vm->vcpus[i].stats_fd;
        brake->stats_fds[i] = fd >= 0 && find_faults(fd, &brake->stats_at[i]) ? fd : -1;
    }
}

/* Faults of each vCPU since the last look. */
static void count_faults(struct brake *brake, uint64_t *ret_faults)
{
    for (unsigned i = 0; i < brake->vm->vcpu_count; i++) {
        uint64_t now = 0;
        if (brake->stats_fds[i] < 0 || pread(brake->stats_fds[i], &now, sizeof now,
                                             (off_t)brake->stats_at[i]) != (ssize_t)sizeof now)
            now = brake->faults_before[i];
        ret_faults[i] = now - brake->faults_before[i];
        brake->faults_before[i] = now;
    }
}

/* ---- the thread ---- */

static void hold(struct brake *brake, uint64_t held_ns)
{
    struct vm *vm = brake->vm;
    uint64_t faults[VM_VCPUS_MAX];
    count_faults(brake, faults);
    uint32_t picked = brake_pick(faults, vm->vcpu_count);
    uint64_t until_ns = world_now_ns() + held_ns;
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (picked >> i & 1)
            vcpu_hold(&vm->vcpus[i], until_ns);
    }
}

static void wait_locked(struct brake *brake, uint64_t wait_ns)
{
    struct timespec at;
    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    uint64_t at_ns = (uint64_t)at.tv_sec * NS_PER_S + (uint64_t)at.tv_nsec + wait_ns;
    at.tv_sec = (time_t)(at_ns / NS_PER_S);
    at.tv_nsec = (long)(at_ns % NS_PER_S);
    (void)pthread_cond_timedwait(&brake->changed, &brake->mutex, &at);
}

static void *brake_run(void *data)
{
    struct brake *brake = data;
    thread_begin("brake");
    pthread_mutex_lock(&brake->mutex);
    while (!brake->stopped) {
        unsigned permille = brake->permille;
        if (permille == 0) {
            pthread_cond_wait(&brake->changed, &brake->mutex);
            continue;
        }
        pthread_mutex_unlock(&brake->mutex);
        struct brake_period period = brake_plan(permille);
        uint64_t begun_ns = world_now_ns(), now_ns = begun_ns;
        hold(brake, period.held_ns);
        pthread_mutex_lock(&brake->mutex);
        while (!brake->stopped && brake->permille == permille &&
               now_ns - begun_ns < period.period_ns) {
            wait_locked(brake, period.period_ns - (now_ns - begun_ns));
            now_ns = world_now_ns();
        }
    }
    pthread_mutex_unlock(&brake->mutex);
    return NULL;
}

int brake_new(struct brake **ret_brake, struct vm *vm, struct fault *fault)
{
    struct brake *brake = calloc(1, sizeof *brake);
    if (!brake)
        return fault_set(fault, ERR_NOMEM, "no memory for a brake");
    brake->vm = vm;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&brake->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&brake->mutex, NULL);
    find_stats(brake);
    int error = pthread_create(&brake->thread, NULL, brake_run, brake);
    if (error) {
        (void)brake_free(brake);
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a brake");
    }
    brake->started = true;
    *ret_brake = brake;
    return 0;
}

struct brake *brake_free(struct brake *brake)
{
    if (!brake)
        return NULL;
    if (brake->started) {
        pthread_mutex_lock(&brake->mutex);
        brake->stopped = true;
        pthread_cond_signal(&brake->changed);
        pthread_mutex_unlock(&brake->mutex);
        pthread_join(brake->thread, NULL);
    }
    pthread_cond_destroy(&brake->changed);
    pthread_mutex_destroy(&brake->mutex);
    free(brake);
    return NULL;
}

void brake_set(struct brake *brake, unsigned permille)
{
    assert(permille <= BRAKE_PERMILLE_MAX);
    pthread_mutex_lock(&brake->mutex);
    brake->permille = permille;
    pthread_cond_signal(&brake->changed);
    pthread_mutex_unlock(&brake->mutex);
}
