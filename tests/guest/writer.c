/* Page k of writer w is page k * writers + w of the working set: no two writers share a page, so no
 * counter needs a lock, and each pattern covers the whole set however many writers there are.
 *
 * The pace has no memory beyond lag_us (a millisecond): what a hole cost is lost, not caught up, so
 * that the work total tells what a migration took from the guest. */
#include "writer.h"

#include "clock.h"
#include "mix.h"
#include "option.h"
#include "test_memory.h"
#include "vcpu.h"

enum { PAGES_PER_MIB = 256, HOT_PART = 8, HOT_PERCENT = 90 };

static struct writer {
    uint64_t next_tsc, random, position;
} __attribute__((aligned(64))) writers[WRITER_MAX];

static uint32_t count;
static enum page_kind kind;

/* atomic: set by vCPU 0, read by all */
static bool on;
static uint64_t interval_ticks;
static uint64_t working_set_pages;
static enum writer_pattern pattern;
static uint64_t lag_ticks_max;

void writer_init(const struct options *options)
{
    count = (uint32_t)options->writers;
    kind = options->fill == PAGE_TEXT ? PAGE_TEXT : PAGE_RANDOM;
    lag_ticks_max = clock_ticks(options->lag_us * 1000);
    for (uint32_t i = 0; i < count; i++)
        writers[i].random = mix64(options->seed * WRITER_MAX + i);
    writer_set_pattern(options->pattern);
    writer_set_rate(options->rate_mib);
    writer_set_working_set(options->working_set_mib);
}

uint32_t writer_count(void)
{
    return count;
}

bool writer_are_on(void)
{
    return __atomic_load_n(&on, __ATOMIC_RELAXED);
}

void writer_set_on(bool now_on)
{
    __atomic_store_n(&on, now_on && count, __ATOMIC_RELEASE);
}

void writer_set_rate(uint64_t mib_per_s)
{
    uint64_t ticks = 0;

    if (mib_per_s)
        ticks = clock_tsc_khz() * 1000 * count / (mib_per_s * PAGES_PER_MIB);
    __atomic_store_n(&interval_ticks, ticks, __ATOMIC_RELEASE);
}

void writer_set_pattern(enum writer_pattern wanted)
{
    __atomic_store_n(&pattern, wanted, __ATOMIC_RELEASE);
}

void writer_set_working_set(uint64_t mib)
{
    uint64_t pages = mib * PAGES_PER_MIB;

    if (pages > test_memory_pages())
        pages = test_memory_pages();
    __atomic_store_n(&working_set_pages, pages, __ATOMIC_RELEASE);
}

static uint64_t random_below(struct writer *writer, uint64_t end)
{
    writer->random = mix64(writer->random);
    return (uint64_t)((unsigned __int128)writer->random * end >> 64);
}

static uint64_t choose(struct writer *writer, enum writer_pattern how, uint64_t own_pages)
{
    if (how == WRITER_SEQ) {
        writer->position = writer->position + 1 < own_pages ? writer->position + 1 : 0;
        return writer->position;
    }

    uint64_t hot_pages = own_pages / HOT_PART;

    if (how == WRITER_HOTCOLD && hot_pages) {
        if (random_below(writer, 100) < HOT_PERCENT)
            return random_below(writer, hot_pages);
        return hot_pages + random_below(writer, own_pages - hot_pages);
    }
    return random_below(writer, own_pages);
}

static bool due(struct writer *writer, uint64_t now)
{
    uint64_t interval = __atomic_load_n(&interval_ticks, __ATOMIC_RELAXED);

    if (!interval)
        return true;
    if ((int64_t)(now - writer->next_tsc) < 0) {
        /* Far ahead only if the TSC went back or the rate was very low: begin anew. */
        if (writer->next_tsc - now > interval + lag_ticks_max)
            writer->next_tsc = now;
        return false;
    }
    if (now - writer->next_tsc > lag_ticks_max + interval)
        writer->next_tsc = now;
    writer->next_tsc += interval;
    return true;
}

static void write_one(struct vcpu *vcpu, uint32_t number)
{
    struct writer *writer = &writers[number];
    enum writer_pattern how = __atomic_load_n(&pattern, __ATOMIC_RELAXED);
    uint64_t pages = __atomic_load_n(&working_set_pages, __ATOMIC_RELAXED);
    uint64_t own_pages = pages / count;

    if (!own_pages)
        return;

    uint64_t index = choose(writer, how, own_pages) * count + number;

    /* A page that has no stamp yet must be written whole once. */
    if (how == WRITER_SPARSE && (test_memory_identity(index).kind == PAGE_RANDOM ||
                                 test_memory_identity(index).kind == PAGE_TEXT))
        test_memory_write_sparse(vcpu, index);
    else
        test_memory_write(vcpu, index, kind);
    vcpu->pages_written++;
    vcpu_keep_sums(vcpu);
}

uint32_t writer_step_all(struct vcpu *vcpu, uint32_t vcpus, uint64_t now_tsc)
{
    uint32_t wrote = 0;

    if (!writer_are_on())
        return 0;
    /* Writer i lives on vCPU (i + 1) mod vcpus: vCPU 0, which serves the serial line, gets the
     * last. */
    for (uint32_t i = (vcpu->index + vcpus - 1) % vcpus; i < count; i += vcpus) {
        if (!due(&writers[i], now_tsc))
            continue;
        write_one(vcpu, i);
        wrote++;
    }
    return wrote;
}
