/* One thread bound to each CPU. It computes for its share of the time; what it keeps in memory and in vector
 * registers is checked each turn, and time read on this CPU must not lie before time read on another one. */
#define _GNU_SOURCE
#include "load.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

enum { TURN_MS = 40, PAGES = 1024, PAGE_WORDS = 512, SUMS = 8 };

static _Atomic uint64_t newest_ns; /* the latest time that any CPU has read */
static _Atomic unsigned next_cpu;

static bool time_stepped_back(void)
{
    uint64_t seen = newest_ns; /* read first: what is older than our own reading cannot be later */
    uint64_t now = now_ns();
    if (now < seen)
        return true;
    while (seen < now && !atomic_compare_exchange_weak(&newest_ns, &seen, now)) {
    }
    return false;
}

/* The same sums whatever happens to the CPU in between. */
static double compute(void)
{
    double sums[SUMS];
    for (unsigned i = 0; i < SUMS; i++)
        sums[i] = i + 1;
    for (unsigned turn = 0; turn < 400; turn++) {
        for (unsigned i = 0; i < SUMS; i++)
            sums[i] = sums[i] * 1.0000001 + 0.5;
        __asm__ volatile("" : : "r"(sums) : "memory"); /* computed anew at each call */
    }
    double total = 0;
    for (unsigned i = 0; i < SUMS; i++)
        total += sums[i];
    return total;
}

static void bind_to(unsigned cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

static void *run(void *data)
{
    struct cpu_hog *hog = data;
    unsigned cpu = next_cpu++;
    bind_to(cpu);
    uint64_t(*pages)[PAGE_WORDS] = calloc(PAGES, sizeof *pages);
    volatile double wanted = compute();
    for (uint64_t turn = 0;; turn++) {
        uint64_t end = now_ns() + (uint64_t)TURN_MS * 10000 * hog->percent;
        /* A page each turn: what was written a round ago must still be there. */
        uint64_t *page = pages[turn % PAGES];
        uint64_t round = turn / PAGES;
        for (unsigned i = 0; i < PAGE_WORDS; i++) {
            if (round > 0 && page[i] != mix((uint64_t)cpu << 56 ^ (round - 1) << 32 ^
                                            (turn % PAGES) << 10 ^ i))
                hog->bad++;
            page[i] = mix((uint64_t)cpu << 56 ^ round << 32 ^ (turn % PAGES) << 10 ^ i);
        }
        do {
            if (time_stepped_back())
                hog->back++;
            if (compute() != wanted)
                hog->bad++;
        } while (now_ns() < end);
        hog->turns[cpu]++;
        (void)usleep((100 - hog->percent) * TURN_MS * 10);
    }
    return NULL;
}

void cpu_hog_start(struct cpu_hog *hog, unsigned percent)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    hog->percent = percent > 100 ? 100 : percent;
    hog->cpus = cpus > CPUS_MAX ? CPUS_MAX : (unsigned)cpus;
    for (unsigned i = 0; i < hog->cpus; i++)
        start_thread(run, hog);
}
