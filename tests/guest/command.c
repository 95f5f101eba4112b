#include "command.h"

#include "clock.h"
#include "disk.h"
#include "heartbeat.h"
#include "hostile.h"
#include "latency.h"
#include "machine.h"
#include "nic.h"
#include "option.h"
#include "power.h"
#include "record.h"
#include "serial.h"
#include "sweep.h"
#include "test_memory.h"
#include "vcpu.h"
#include "vsock.h"
#include "writer.h"

enum {
    LINE_MAX = 120,
    FLIP_WORD = 300,
    TIMELINE_SLOTS = 400,
    TIMELINE_SLOT_MS = 10,
    TIMELINE_PER_RECORD = 50,
};

static struct {
    char line[LINE_MAX];
    uint32_t line_length;
    bool idle;
    uint64_t poll_ticks, poll_next;
    uint64_t tick_ticks, tick_next, tick_number;
    uint64_t stats_tsc, stats_work;
    uint64_t mark_tsc, mark_work;
    uint64_t verifies;
    uint64_t disk_until, nic_until; /* told of when so much is done; 0: nobody waits */
    /* work done by the end of each slot since the mark; 0: nobody looked */
    uint64_t timeline[TIMELINE_SLOTS];
} state;

static uint64_t work_total(void)
{
    uint64_t work = 0;

    for (uint32_t i = 0; i < vcpu_count(); i++)
        work += __atomic_load_n(&vcpu_get(i)->pages_written, __ATOMIC_RELAXED);
    return work;
}

static uint32_t count_alive(void)
{
    uint32_t alive = 0;

    for (uint32_t i = 0; i < vcpu_count(); i++) {
        struct vcpu *vcpu = vcpu_get(i);
        uint64_t beats = __atomic_load_n(&vcpu->heartbeat.beats, __ATOMIC_RELAXED);

        alive += beats != vcpu->beats_at_stats;
        vcpu->beats_at_stats = beats;
    }
    return alive;
}

static void answer(const char *kind)
{
    struct record record;

    record_begin(&record, kind);
    record_end(&record);
}

static void answer_error(const char *why, const char *what)
{
    struct record record;

    record_begin(&record, "error");
    record_text(&record, why, what);
    record_end(&record);
}

static void on_ping(const char *argument)
{
    (void)argument;
    answer("pong");
}

static void on_verify(const char *argument)
{
    bool all = option_equal(argument, "all");

    if (*argument && !all) {
        answer_error("argument", argument);
        return;
    }

    uint64_t begin = machine_tsc();
    struct sweep_report report = sweep_verify(all);
    uint64_t ms = clock_ns(machine_tsc() - begin) / 1000000;
    bool registers = vcpu_registers_hold(vcpu_count());
    bool ok =
        report.complete && !report.bad_pages && report.sum_holds && report.guest_holds && registers;
    struct record record;

    record_begin(&record, "verify");
    record_word(&record, ok ? "ok" : "BAD");
    record_number(&record, "pages", report.pages);
    record_number(&record, "bad", report.bad_pages);
    record_number(&record, "zero", report.zero_pages);
    if (report.bad_pages) {
        struct page_identity identity = test_memory_identity(report.bad_first);
        const uint64_t *page = test_memory_page(report.bad_first);

        record_number(&record, "first", report.bad_first);
        record_text(&record, "why", page_content_blame(page, &identity));
        record_number(&record, "want", identity.counter);
        record_hex(&record, "address", (uint64_t)page);
    }
    record_number(&record, "seq", ++state.verifies);
    record_text(&record, "sum", report.sum_holds ? "ok" : "BAD");
    record_text(&record, "guest", report.guest_holds ? "ok" : "BAD");
    record_text(&record, "fpu", registers ? "ok" : "BAD");
    if (!report.complete)
        record_word(&record, "vcpu_missing");
    record_number(&record, "ms", ms);
    record_end(&record);
}

static void on_stats(const char *argument)
{
    (void)argument;
    struct record record;
    struct heartbeat_total total;
    uint64_t now = machine_tsc(), work = work_total();
    uint64_t ms = clock_ns(now - state.stats_tsc) / 1000000;
    uint32_t vcpus = vcpu_count();

    heartbeat_sum(&total, vcpus);
    record_begin(&record, "stats");
    record_number(&record, "work", work);
    record_number(&record, "rate", ms ? (work - state.stats_work) * 1000 / ms : 0);
    record_number(&record, "ms", ms);
    record_number(&record, "gap_ns", total.gap_ns);
    record_number(&record, "gap_vcpu", total.gap_vcpu);
    record_number(&record, "io_ns", total.io_ns);
    record_number(&record, "p99_ns", total.p99_ns);
    record_number(&record, "p99t_ns", total.p99_time_ns);
    record_number(&record, "back_tsc_ns", total.back_tsc_ns);
    record_number(&record, "cross_tsc_ns", total.back_cross_tsc_ns);
    record_number(&record, "back_kvmclock_ns", total.back_kvmclock_ns);
    record_number(&record, "cross_kvmclock_ns", total.back_cross_kvmclock_ns);
    record_number(&record, "fwd_kvmclock_ns", total.forward_kvmclock_ns);
    record_number(&record, "mark_work", work - state.mark_work);
    record_number(&record, "mark_ms", clock_ns(now - state.mark_tsc) / 1000000);
    record_number(&record, "vcpus", vcpus);
    record_number(&record, "alive", count_alive());
    record_number(&record, "writing", writer_are_on());
    record_text(&record, "fpu", vcpu_registers_hold(vcpus) ? "ok" : "BAD");
    state.stats_tsc = now;
    state.stats_work = work;
    record_end(&record);
}

/* One line per vCPU: who had which hole. */
static void on_vcpus(const char *argument)
{
    (void)argument;
    for (uint32_t i = 0; i < vcpu_count(); i++) {
        const struct vcpu *vcpu = vcpu_get(i);
        struct record record;

        record_begin(&record, "vcpu");
        record_number(&record, "index", i);
        record_number(&record, "work", vcpu->pages_written);
        record_number(&record, "beats", vcpu->heartbeat.beats);
        record_number(&record, "gap_ns", clock_ns(vcpu->heartbeat.gap_ticks_max));
        record_number(&record, "fwd_kvmclock_ns", vcpu->heartbeat.forward_kvmclock_ns_max);
        record_number(&record, "fpu_checks", vcpu->registers.checks);
        record_text(&record, "fpu", vcpu->registers.bad ? vcpu->registers.bad : "ok");
        if (vcpu->registers.bad) {
            record_hex(&record, "held", vcpu->registers.bad_held);
            record_hex(&record, "wanted", vcpu->registers.bad_wanted);
        }
        record_end(&record);
    }
}

/* The longest holes of each vCPU: when they ended, counted from the mark, and how long they were.
 */
static void on_holes(const char *argument)
{
    (void)argument;
    for (uint32_t i = 0; i < vcpu_count(); i++) {
        const struct vcpu *vcpu = vcpu_get(i);
        struct record record;

        record_begin(&record, "holes");
        record_number(&record, "index", i);
        record_number(&record, "now_us", clock_ns(machine_tsc() - state.mark_tsc) / 1000);
        for (uint32_t hole = 0; hole < HEARTBEAT_HOLES; hole++) {
            const struct heartbeat_hole *one = &vcpu->heartbeat.holes[hole];
            uint64_t at_us = one->ticks ? clock_ns(one->end_tsc - state.mark_tsc) / 1000 : 0;

            if (hole == 0)
                record_number(&record, "end_us", at_us);
            else
                record_more(&record, at_us);
        }
        for (uint32_t hole = 0; hole < HEARTBEAT_HOLES; hole++) {
            uint64_t us = clock_ns(vcpu->heartbeat.holes[hole].ticks) / 1000;

            if (hole == 0)
                record_number(&record, "us", us);
            else
                record_more(&record, us);
        }
        record_end(&record);
    }
}

static void mark(void)
{
    state.mark_tsc = machine_tsc();
    state.mark_work = work_total();
    for (uint32_t i = 0; i < TIMELINE_SLOTS; i++)
        state.timeline[i] = 0;
    heartbeat_reset_all();
}

static void on_mark(const char *argument)
{
    (void)argument;
    answer("ok"); /* before: the answer's port accesses are not part of what is measured */
    mark();
}

static void on_gap(const char *argument)
{
    if (!option_equal(argument, "reset")) {
        answer_error("argument", argument);
        return;
    }
    answer("ok");
    heartbeat_reset_all();
}

static void on_timeline(const char *argument)
{
    (void)argument;
    uint64_t before = 0;

    for (uint32_t slot = 0; slot < TIMELINE_SLOTS; slot += TIMELINE_PER_RECORD) {
        struct record record;

        record_begin(&record, "timeline");
        record_number(&record, "slot_ms", TIMELINE_SLOT_MS);
        record_number(&record, "first", slot);
        for (uint32_t i = slot; i < slot + TIMELINE_PER_RECORD; i++) {
            uint64_t until = state.timeline[i] ? state.timeline[i] - 1 : before;

            if (i == slot)
                record_number(&record, "work", until - before);
            else
                record_more(&record, until - before);
            before = until;
        }
        record_end(&record);
    }
}

static void on_writers(const char *argument)
{
    bool on = option_equal(argument, "on");

    if (!on && !option_equal(argument, "off")) {
        answer_error("argument", argument);
        return;
    }
    writer_set_on(on);
    if (sweep_barrier())
        answer("ok");
    else
        answer_error("missing", "vcpu");
}

static bool number_or_error(const char *argument, uint64_t *ret_number)
{
    if (option_number(argument, ret_number))
        return true;
    answer_error("argument", argument);
    return false;
}

static void on_rate(const char *argument)
{
    uint64_t number;

    if (!number_or_error(argument, &number))
        return;
    writer_set_rate(number);
    answer("ok");
}

static void on_ws(const char *argument)
{
    uint64_t number;

    if (!number_or_error(argument, &number))
        return;

    bool on = writer_are_on();

    writer_set_on(false);
    (void)sweep_barrier();
    writer_set_working_set(number);
    writer_set_on(on);
    answer("ok");
}

static void on_pattern(const char *argument)
{
    enum writer_pattern pattern;

    if (!option_pattern(argument, &pattern)) {
        answer_error("argument", argument);
        return;
    }
    writer_set_pattern(pattern);
    answer("ok");
}

/* `stale PAGE`: the page and its table entry as they were one write ago. */
static void on_stale(const char *argument)
{
    uint64_t index;

    if (!number_or_error(argument, &index))
        return;
    if (index < test_memory_pages() && test_memory_roll_back(index))
        answer("ok");
    else
        answer_error("not_written_twice", argument);
}

/* `flip PAGE` damages one bit of a page and again repairs it; `flip fpu` makes a vector register
 * wrong. */
static void on_flip(const char *argument)
{
    uint64_t index;

    if (option_equal(argument, "fpu")) {
        vcpu_get(0)->registers.pattern[3][1] ^= 1;
        answer("ok");
        return;
    }
    if (!number_or_error(argument, &index))
        return;
    if (index >= test_memory_pages()) {
        answer_error("no_page", argument);
        return;
    }
    test_memory_page(index)[FLIP_WORD] ^= UINT64_C(1) << 17;
    answer("ok");
}

static void set_tick(uint64_t ms)
{
    state.tick_ticks = clock_ticks(ms * 1000000);
    state.tick_next = machine_tsc() + state.tick_ticks;
}

static void on_tick(const char *argument)
{
    uint64_t ms;

    if (!number_or_error(argument, &ms))
        return;
    answer("ok");
    set_tick(ms);
}

static void on_spin(const char *argument)
{
    (void)argument;
    state.idle = false;
    answer("ok");
}

static void on_idle(const char *argument)
{
    if (!option_equal(argument, "on") && !option_equal(argument, "off")) {
        answer_error("argument", argument);
        return;
    }
    state.idle = option_equal(argument, "on");
    answer("ok");
}

/* Shows that a fault is reported: vCPU 0 runs no more after it. */
static void on_trap(const char *argument)
{
    (void)argument;
    __builtin_trap();
}

/* Nothing but the argument: a test gives the guest words of its own. */
static void on_say(const char *argument)
{
    char text[LINE_MAX + 1];
    uint32_t count = 0;

    while (argument[count]) {
        text[count] = argument[count];
        count++;
    }
    text[count++] = '\n';
    serial_write(text, count);
}

static void on_poweroff(const char *argument)
{
    (void)argument;
    answer("ok");
    power_off();
}

static void on_reset(const char *argument)
{
    (void)argument;
    answer("ok");
    power_reset();
}

static void report_disk(void)
{
    struct record record;
    struct disk_numbers numbers;

    disk_numbers(&numbers);
    record_begin(&record, "disk");
    record_number(&record, "written", numbers.written);
    record_number(&record, "flushes", numbers.flushes);
    record_number(&record, "read", numbers.read);
    record_number(&record, "errors", numbers.errors);
    record_number(&record, "interrupts", numbers.interrupts);
    record_number(&record, "blocks", numbers.blocks);
    record_number(&record, "busy", numbers.on_their_way);
    record_text(&record, "device", numbers.is_well ? "ok" : "BAD");
    record_end(&record);
}

static void verify_disk(void)
{
    struct record record;
    struct disk_verdict verdict;
    uint64_t begin = machine_tsc();
    bool answered = disk_verify(&verdict);

    record_begin(&record, "diskverify");
    record_word(&record, answered && !verdict.bad ? "ok" : "BAD");
    record_number(&record, "blocks", verdict.blocks);
    record_number(&record, "bad", verdict.bad);
    if (verdict.bad) {
        record_number(&record, "first", verdict.first);
        record_text(&record, "why", verdict.why);
        record_number(&record, "want", verdict.want);
        record_number(&record, "found", verdict.found);
    }
    if (!answered)
        record_word(&record, "no_answer");
    record_number(&record, "ms", clock_ns(machine_tsc() - begin) / 1000000);
    record_end(&record);
}

static void report_latency(void)
{
    struct record record;
    const struct latency *writes = disk_writes(), *flushes = disk_flushes();

    record_begin(&record, "disklatency");
    record_number(&record, "writes", writes->count);
    record_number(&record, "p50_ns", clock_ns(latency_ticks(writes, 500)));
    record_number(&record, "p99_ns", clock_ns(latency_ticks(writes, 990)));
    record_number(&record, "p999_ns", clock_ns(latency_ticks(writes, 999)));
    record_number(&record, "max_ns", clock_ns(writes->ticks_max));
    record_number(&record, "flushes", flushes->count);
    record_number(&record, "flush_p50_ns", clock_ns(latency_ticks(flushes, 500)));
    record_number(&record, "flush_p99_ns", clock_ns(latency_ticks(flushes, 990)));
    record_number(&record, "flush_max_ns", clock_ns(flushes->ticks_max));
    record_end(&record);
}

/* The number behind a word, as in `every 8`. */
static bool word_number(const char *argument, const char *word, uint64_t *ret_number)
{
    while (*word && *argument == *word) {
        argument++;
        word++;
    }
    return !*word && option_number(argument, ret_number);
}

/* `disk seq`, `disk random`, `disk every N`, `disk mark`: false when it is none of them. */
static bool set_disk(const char *argument)
{
    uint64_t writes;

    if (word_number(argument, "every ", &writes))
        disk_set_flush_every(writes);
    else if (option_equal(argument, "seq") || option_equal(argument, "random"))
        disk_set_in_order(option_equal(argument, "seq"));
    else if (option_equal(argument, "mark"))
        disk_mark();
    else
        return false;
    return true;
}

static void await_disk(uint64_t more)
{
    struct disk_numbers numbers;

    disk_numbers(&numbers);
    state.disk_until = numbers.written + more;
}

static void on_disk(const char *argument)
{
    uint64_t rate, more;

    if (!disk_is_there()) {
        answer_error("disk", "none");
    } else if (!*argument) {
        report_disk();
    } else if (option_equal(argument, "verify")) {
        verify_disk();
    } else if (option_equal(argument, "latency")) {
        report_latency();
    } else if (word_number(argument, "await ", &more)) {
        await_disk(more);
    } else if (option_equal(argument, "flush")) {
        answer(disk_flush() ? "ok" : "error");
    } else if (option_equal(argument, "on") || option_equal(argument, "off")) {
        disk_set_on(option_equal(argument, "on"));
        answer("ok");
    } else if (option_number(argument, &rate)) {
        disk_set_rate(rate);
        answer("ok");
    } else if (set_disk(argument)) {
        answer("ok");
    } else {
        answer_error("argument", argument);
    }
}

static void report_nic(void)
{
    struct record record;
    struct nic_numbers numbers;

    nic_numbers(&numbers);
    record_begin(&record, "nic");
    record_number(&record, "sent", numbers.sent);
    record_number(&record, "echoed", numbers.echoed);
    record_number(&record, "lost", numbers.lost);
    record_number(&record, "corrupt", numbers.corrupt);
    record_number(&record, "doubled", numbers.doubled);
    record_number(&record, "reordered", numbers.reordered);
    record_number(&record, "foreign", numbers.foreign);
    record_number(&record, "gap_ns", numbers.gap_ns);
    record_number(&record, "announces", numbers.announces);
    record_number(&record, "interrupts", numbers.interrupts);
    record_number(&record, "busy", numbers.on_their_way);
    record_text(&record, "link", numbers.link_up ? "up" : "down");
    record_text(&record, "device", numbers.is_well ? "ok" : "BAD");
    record_end(&record);
}

static void await_nic(uint64_t more)
{
    struct nic_numbers numbers;

    nic_numbers(&numbers);
    state.nic_until = numbers.echoed + more;
}

/* What is waited for is told of once, when it is there. */
static void report_awaited(void)
{
    if (state.disk_until) {
        struct disk_numbers numbers;

        disk_numbers(&numbers);
        if (numbers.written >= state.disk_until) {
            state.disk_until = 0;
            report_disk();
        }
    }
    if (state.nic_until) {
        struct nic_numbers numbers;

        nic_numbers(&numbers);
        if (numbers.echoed >= state.nic_until) {
            state.nic_until = 0;
            report_nic();
        }
    }
}

static void on_nic(const char *argument)
{
    uint64_t rate, more;

    if (!nic_is_there()) {
        answer_error("nic", "none");
    } else if (!*argument) {
        report_nic();
    } else if (option_equal(argument, "drain")) {
        nic_drain();
        report_nic();
    } else if (word_number(argument, "await ", &more)) {
        await_nic(more);
    } else if (option_equal(argument, "gap")) {
        nic_forget_gap();
        answer("ok");
    } else if (option_equal(argument, "on") || option_equal(argument, "off")) {
        nic_set_on(option_equal(argument, "on"));
        answer("ok");
    } else if (option_number(argument, &rate)) {
        nic_set_rate(rate);
        answer("ok");
    } else {
        answer_error("argument", argument);
    }
}

static void report_vsock(void)
{
    struct record record;
    struct vsock_numbers numbers;

    vsock_numbers(&numbers);
    record_begin(&record, "vsock");
    record_number(&record, "requests", numbers.requests);
    record_number(&record, "lines", numbers.lines);
    record_number(&record, "resets", numbers.resets);
    record_text(&record, "device", numbers.is_well ? "ok" : "BAD");
    record_end(&record);
}

static void on_vsock(const char *argument)
{
    if (!vsock_is_there())
        answer_error("vsock", "none");
    else if (!*argument)
        report_vsock();
    else if (vsock_set_manner(argument))
        answer("ok");
    else
        answer_error("argument", argument);
}

static void on_hostile(const char *argument)
{
    uint64_t seed;

    if (!*argument) {
        struct record record;

        record_begin(&record, "hostile");
        record_number(&record, "attacks", hostile_attacks());
        record_end(&record);
    } else if (option_equal(argument, "off")) {
        hostile_stop();
        answer("ok");
    } else if (option_number(argument, &seed)) {
        hostile_start(seed);
        answer("ok");
    } else {
        answer_error("argument", argument);
    }
}

static const struct {
    const char *name;
    void (*run)(const char *argument);
} commands[] = {
    {"ping", on_ping},         {"verify", on_verify},
    {"stats", on_stats},       {"vcpus", on_vcpus},
    {"mark", on_mark},         {"gap", on_gap},
    {"rate", on_rate},         {"ws", on_ws},
    {"timeline", on_timeline}, {"writers", on_writers},
    {"flip", on_flip},         {"tick", on_tick},
    {"pattern", on_pattern},   {"poweroff", on_poweroff},
    {"spin", on_spin},         {"idle", on_idle},
    {"reset", on_reset},       {"stale", on_stale},
    {"trap", on_trap},         {"disk", on_disk},
    {"nic", on_nic},           {"holes", on_holes},
    {"hostile", on_hostile},   {"vsock", on_vsock},
    {"say", on_say},
};

static void run_line(char *line)
{
    char *argument = line;

    while (*argument && *argument != ' ')
        argument++;
    if (*argument)
        *argument++ = 0;
    for (uint32_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (option_equal(line, commands[i].name)) {
            commands[i].run(argument);
            return;
        }
    }
    answer_error("command", line);
}

static void on_byte(char c)
{
    if (c != '\n' && c != '\r') {
        if (state.line_length < LINE_MAX - 1)
            state.line[state.line_length++] = c;
        return;
    }
    state.line[state.line_length] = 0;
    if (state.line_length)
        run_line(state.line);
    state.line_length = 0;
}

static void print_tick(void)
{
    struct record record;
    struct heartbeat_total total;

    heartbeat_sum(&total, vcpu_count());
    record_begin(&record, "tick");
    record_number(&record, "n", ++state.tick_number);
    record_number(&record, "work", work_total());
    record_number(&record, "gap_ns", total.gap_ns);
    record_end(&record);
}

static void on_serial_access(void)
{
    heartbeat_beat_io(&vcpu_get(0)->heartbeat);
}

void command_init(const struct options *options)
{
    state.idle = options->idle;
    state.poll_ticks = clock_ticks(options->poll_us * 1000);
    state.stats_tsc = machine_tsc();
    if (options->tick_ms)
        set_tick(options->tick_ms);
    mark();
    serial_watch(on_serial_access);
}

bool command_is_idle(void)
{
    return state.idle;
}

static void keep_timeline(uint64_t now)
{
    uint64_t slot = clock_ns(now - state.mark_tsc) / (TIMELINE_SLOT_MS * 1000000);

    if (slot < TIMELINE_SLOTS)
        state.timeline[slot] = work_total() - state.mark_work + 1;
}

void command_step(uint64_t now_tsc)
{
    char byte;

    /* A wrapped difference is a TSC that went back with a migration: go on at once. */
    if (state.poll_next - now_tsc <= state.poll_ticks && state.poll_next > now_tsc)
        return;
    keep_timeline(now_tsc);
    while (serial_read(&byte))
        on_byte(byte);
    if (state.tick_ticks && (int64_t)(now_tsc - state.tick_next) >= 0) {
        state.tick_next = now_tsc + state.tick_ticks;
        print_tick();
    }
    report_awaited();
    state.poll_next = machine_tsc() + state.poll_ticks;
}
