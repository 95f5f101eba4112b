/* vCPU 0 raises `wanted`; each vCPU sees it between two pages of its writers, says so in
 * `sweep_seen`, and waits until all have: from then on no page changes under the sweep. Chunks are
 * taken from a counter, so a vCPU that is slow (or descheduled) just does fewer of them. A vCPU
 * leaves when `wanted` is over. */
#include "sweep.h"

#include "clock.h"
#include "machine.h"
#include "test_memory.h"
#include "vcpu.h"

enum sweep_what { SWEEP_NOTHING, SWEEP_FILL, SWEEP_VERIFY, SWEEP_VERIFY_ALL };

enum { CHUNK_PAGES = 512 };
#define WAIT_NS_MAX UINT64_C(10000000000) /* without any progress: some vCPU is gone */

static struct {
    /* set before `wanted` is raised, read by all */
    enum sweep_what what;
    enum page_kind kind;
    uint64_t pages;

    /* atomic */
    uint64_t wanted, over; /* sweep numbers */
    uint64_t next_page;
    uint64_t seen_pages, zero_pages, bad_pages, bad_first, table_sum;

    uint64_t written_sum; /* vCPU 0: what the writers of all vCPUs add up to, while they wait */
} sweep;

static void keep_min(uint64_t *min, uint64_t value)
{
    uint64_t old = __atomic_load_n(min, __ATOMIC_RELAXED);

    while (value < old && !__atomic_compare_exchange_n(min, &old, value, true, __ATOMIC_RELAXED,
                                                       __ATOMIC_RELAXED))
        ;
}

static void verify_chunk(struct vcpu *vcpu, uint64_t first, uint64_t end, bool untouched_too)
{
    uint64_t seen = 0, zero = 0, bad = 0, sum = 0;

    for (uint64_t i = first; i < end; i++) {
        struct page_identity identity = test_memory_identity(i);

        sum += test_memory_sum(i);
        if (identity.kind != PAGE_UNTOUCHED)
            seen++;
        else if (untouched_too && ++zero)
            ;
        else
            continue;
        if (!page_content_check(test_memory_page(i), &identity)) {
            bad++;
            keep_min(&sweep.bad_first, i);
        }
        vcpu_beat(vcpu);
    }
    __atomic_add_fetch(&sweep.seen_pages, seen, __ATOMIC_RELAXED);
    __atomic_add_fetch(&sweep.zero_pages, zero, __ATOMIC_RELAXED);
    __atomic_add_fetch(&sweep.bad_pages, bad, __ATOMIC_RELAXED);
    __atomic_add_fetch(&sweep.table_sum, sum, __ATOMIC_RELAXED);
    vcpu_beat(vcpu);
}

static void fill_chunk(struct vcpu *vcpu, uint64_t first, uint64_t end)
{
    for (uint64_t i = first; i < end; i++) {
        test_memory_write(vcpu, i, sweep.kind);
        vcpu_keep_sums(vcpu);
        vcpu_beat(vcpu);
    }
}

static void work(struct vcpu *vcpu)
{
    if (sweep.what == SWEEP_NOTHING)
        return;
    for (;;) {
        uint64_t first = __atomic_fetch_add(&sweep.next_page, CHUNK_PAGES, __ATOMIC_RELAXED);

        if (first >= sweep.pages)
            return;

        uint64_t end = sweep.pages - first < CHUNK_PAGES ? sweep.pages : first + CHUNK_PAGES;

        if (sweep.what == SWEEP_FILL)
            fill_chunk(vcpu, first, end);
        else
            verify_chunk(vcpu, first, end, sweep.what == SWEEP_VERIFY_ALL);
    }
}

static bool all_seen(uint64_t number)
{
    for (uint32_t i = 0; i < vcpu_count(); i++) {
        if (__atomic_load_n(&vcpu_get(i)->sweep_seen, __ATOMIC_ACQUIRE) < number)
            return false;
    }
    return true;
}

static bool all_done(uint64_t number)
{
    for (uint32_t i = 0; i < vcpu_count(); i++) {
        if (__atomic_load_n(&vcpu_get(i)->sweep_done, __ATOMIC_ACQUIRE) < number)
            return false;
    }
    return true;
}

void sweep_help(struct vcpu *vcpu)
{
    uint64_t number = __atomic_load_n(&sweep.wanted, __ATOMIC_ACQUIRE);

    if (number == vcpu->sweep_seen)
        return;
    __atomic_store_n(&vcpu->sweep_seen, number, __ATOMIC_RELEASE);
    while (!all_seen(number)) {
        if (__atomic_load_n(&sweep.over, __ATOMIC_ACQUIRE) >= number)
            return; /* given up */
        vcpu_beat(vcpu);
        machine_pause();
    }
    work(vcpu);
    __atomic_store_n(&vcpu->sweep_done, number, __ATOMIC_RELEASE);
    while (__atomic_load_n(&sweep.over, __ATOMIC_ACQUIRE) < number) {
        vcpu_beat(vcpu);
        machine_pause();
    }
}

/* vCPU 0's own part: like sweep_help(), but it decides when the sweep is over. */
static bool run(enum sweep_what what, uint64_t pages)
{
    struct vcpu *vcpu = vcpu_get(0);
    uint64_t number = sweep.wanted + 1;

    sweep.what = what;
    sweep.pages = pages;
    sweep.next_page = 0;
    sweep.seen_pages = sweep.zero_pages = sweep.bad_pages = sweep.table_sum = 0;
    sweep.bad_first = UINT64_MAX;
    vcpu->sweep_seen = number;
    __atomic_store_n(&sweep.wanted, number, __ATOMIC_RELEASE);

    bool complete = false, worked = false;
    uint64_t begin = vcpu_beat(vcpu), progress = 0;

    while (!complete) {
        uint64_t now = vcpu_beat(vcpu);

        if (!worked && all_seen(number)) {
            work(vcpu);
            vcpu->sweep_done = number;
            worked = true;
        }
        complete = worked && all_done(number);

        uint64_t done = __atomic_load_n(&sweep.seen_pages, __ATOMIC_RELAXED) +
                        __atomic_load_n(&sweep.zero_pages, __ATOMIC_RELAXED) + worked;

        if (done != progress) {
            progress = done;
            begin = vcpu_beat(vcpu);
        } else if (now - begin > clock_ticks(WAIT_NS_MAX)) {
            break;
        }
        machine_pause();
    }
    sweep.written_sum = 0;
    for (uint32_t i = 0; i < vcpu_count(); i++)
        sweep.written_sum += vcpu_get(i)->table_sum; /* once it is over they write again */
    __atomic_store_n(&sweep.over, number, __ATOMIC_RELEASE);
    return complete;
}

void sweep_fill(uint64_t pages, enum page_kind kind)
{
    sweep.kind = kind;
    (void)run(SWEEP_FILL, pages); /* a vCPU that is missing shows in `stats` and in each verify */
}

bool sweep_barrier(void)
{
    return run(SWEEP_NOTHING, 0);
}

struct sweep_report sweep_verify(bool untouched_too)
{
    struct sweep_report report = {0};

    report.complete = run(untouched_too ? SWEEP_VERIFY_ALL : SWEEP_VERIFY, test_memory_pages());
    report.pages = sweep.seen_pages;
    report.zero_pages = sweep.zero_pages;
    report.bad_pages = sweep.bad_pages;
    report.bad_first = sweep.bad_first;
    report.sum_holds = sweep.written_sum == sweep.table_sum;
    report.guest_holds = test_memory_guest_holds();
    return report;
}
