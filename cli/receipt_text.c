#include "cli/receipt_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/words.h"
#include "proto/phase.h"

enum { WIDTH_MAX = 106, WIDTH_MIN = 60, LINE_SIZE = 256 };

struct page {
    struct words words;
    unsigned width;
    bool color;
    bool failed; /* the phase that is being written did not end well */
};

/* "✔ precopy       3 rounds, ...                7.6 s" */
static void say_phase(struct page *page, const char *name, const char *what, uint64_t ns)
{
    const char *mark = page->failed ? "✖" : "✔";
    const char *paint = !page->color ? "" : page->failed ? "\033[31m" : "\033[32m";
    const char *plain = page->color ? "\033[0m" : "";
    char time[UNITS_TEXT_SIZE] = "";
    if (ns >= 100 * NS_PER_MS)
        (void)snprintf(time, sizeof time, "%.1f s", (double)ns / (double)NS_PER_S);
    else if (ns > 0)
        units_print_duration(ns, time);
    size_t used = 16 + words_width(what);
    words_say(&page->words, "%s%s%s %-13s %s", paint, mark, plain, name, what);
    size_t length = strlen(time);
    if (length && used + 2 + length <= page->width)
        words_say(&page->words, "%*s%s", (int)(page->width - used - length), "", time);
    else if (length)
        words_say(&page->words, "  %s", time);
    words_say(&page->words, "\n");
}

static uint64_t phase_ns(const Godwit__MoveReceipt *receipt, enum phase phase)
{
    uint64_t ns = 0;
    for (size_t i = 0; i < receipt->n_phases; i++) {
        if ((int)receipt->phases[i]->phase == (int)phase)
            ns += receipt->phases[i]->duration_ns;
    }
    return ns;
}

static bool was_in(const Godwit__MoveReceipt *receipt, enum phase phase)
{
    for (size_t i = 0; i < receipt->n_phases; i++) {
        if ((int)receipt->phases[i]->phase == (int)phase)
            return true;
    }
    return false;
}

/* " (", then ", ": before the next codec. */
static void say_gap(struct words *words, unsigned *told)
{
    words_say(words, "%s", (*told)++ ? ", " : " (");
}

/* "(zero 1.9, lz4 3.0 x1.8, patches 0.2 x40)" in GiB or what fits the total. */
static void say_codecs(struct words *words, const Godwit__MoveReceipt *receipt)
{
    uint64_t zero = 0, lz4 = 0, lz4_bytes = 0, zstd = 0, zstd_bytes = 0, patches = 0, patch_bytes = 0;
    for (size_t i = 0; i < receipt->n_rounds; i++) {
        zero += receipt->rounds[i]->zero_pages * PAGE_BYTES;
        lz4 += receipt->rounds[i]->lz4_pages * PAGE_BYTES;
        lz4_bytes += receipt->rounds[i]->lz4_bytes;
        zstd += receipt->rounds[i]->zstd_pages * PAGE_BYTES;
        zstd_bytes += receipt->rounds[i]->zstd_bytes;
        patches += receipt->rounds[i]->patch_pages * PAGE_BYTES;
        patch_bytes += receipt->rounds[i]->patch_bytes;
    }
    char text[UNITS_TEXT_SIZE];
    unsigned told = 0;
    if (zero) {
        units_print_bytes(zero, text);
        say_gap(words, &told);
        words_say(words, "zero %s", text);
    }
    if (lz4) {
        units_print_bytes(lz4, text);
        say_gap(words, &told);
        words_say(words, "lz4 %s", text);
        if (lz4_bytes)
            words_say(words, " x%.1f", (double)lz4 / (double)lz4_bytes);
    }
    if (zstd) {
        units_print_bytes(zstd, text);
        say_gap(words, &told);
        words_say(words, "zstd %s", text);
        if (zstd_bytes)
            words_say(words, " x%.1f", (double)zstd / (double)zstd_bytes);
    }
    if (patches) {
        units_print_bytes(patches, text);
        say_gap(words, &told);
        words_say(words, "patches %s", text);
        if (patch_bytes)
            words_say(words, " x%.0f", (double)patches / (double)patch_bytes);
    }
    if (told)
        words_say(words, ")");
}

static void phase_precopy(struct page *page, const Godwit__MoveReceipt *receipt)
{
    char line[LINE_SIZE] = "", moved[UNITS_TEXT_SIZE], wire[UNITS_TEXT_SIZE];
    struct words words;
    words_init(&words, line, sizeof line);
    uint64_t pages = 0;
    for (size_t i = 0; i < receipt->n_rounds; i++)
        pages += receipt->rounds[i]->pages;
    units_print_bytes(pages * PAGE_BYTES, moved);
    units_print_bytes(receipt->wire_bytes, wire);
    words_say(&words, "%zu %s", receipt->n_rounds, receipt->n_rounds == 1 ? "round" : "rounds");
    if (pages)
        words_say(&words, ", %s moved as %s", moved, wire);
    say_codecs(&words, receipt);
    say_phase(page, "precopy", line, phase_ns(receipt, PHASE_PRECOPY));
}

/* Milliseconds without their unit: the line says it once. */
static void say_ms(struct words *words, const char *name, uint64_t ns, const char *gap)
{
    double ms = (double)ns / (double)NS_PER_MS;
    words_say(words, "%s%s %.*f", gap, name, ms >= 9.95 || ns == 0 ? 0 : 1, ms);
}

static void phase_handover(struct page *page, const Godwit__MoveReceipt *receipt)
{
    char line[LINE_SIZE] = "", down[UNITS_TEXT_SIZE], goal[UNITS_TEXT_SIZE];
    struct words words;
    words_init(&words, line, sizeof line);
    units_print_duration(receipt->downtime_ns, down);
    words_say(&words, "guest paused %s", down);
    if (receipt->downtime_goal_ns) {
        units_print_duration(receipt->downtime_goal_ns, goal);
        words_say(&words, " (goal %s)", goal);
    }
    words_say(&words, ": ");
    say_ms(&words, "pause", receipt->pause_ns, "");
    say_ms(&words, "drain", receipt->drain_ns, ", ");
    say_ms(&words, "state", receipt->state_ns, ", ");
    say_ms(&words, "resume", receipt->resume_ns, ", ");
    words_say(&words, " ms");
    say_phase(page, "handover", line, 0);
}

/* Ordered: the operator knows why. */
static const char *postcopy_why(const Godwit__MoveReceipt *receipt)
{
    switch (receipt->postcopy_reason) {
    case GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_GOAL:
        return "rounds did not come down to its goal: ";
    case GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_DEADLINE:
        return "rounds did not end before its deadline: ";
    case GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_NONE:
    case GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_ORDERED:
    case _GODWIT__MOVE_POSTCOPY_REASON_IS_INT_SIZE:
        break;
    }
    return "";
}

static void phase_postcopy(struct page *page, const Godwit__MoveReceipt *receipt)
{
    char line[LINE_SIZE] = "", bytes[UNITS_TEXT_SIZE], p50[UNITS_TEXT_SIZE], p99[UNITS_TEXT_SIZE];
    struct words words;
    words_init(&words, line, sizeof line);
    units_print_bytes(receipt->postcopy_pages * PAGE_BYTES, bytes);
    units_print_duration(receipt->fault_p50_ns, p50);
    units_print_duration(receipt->fault_p99_ns, p99);
    words_say(&words, "%s%s came after the guest, %llu %s waited for", postcopy_why(receipt), bytes,
              (unsigned long long)receipt->faults, receipt->faults == 1 ? "page was" : "pages were");
    if (receipt->faults)
        words_say(&words, " (half of them %s, 99 %% of them %s at most)", p50, p99);
    say_phase(page, "post-copy", line, receipt->postcopy_ns);
}

static void phase_done(struct page *page, const Godwit__MoveReceipt *receipt)
{
    char line[LINE_SIZE] = "", pages[UNITS_TEXT_SIZE];
    struct words words;
    words_init(&words, line, sizeof line);
    units_print_count(receipt->digest_pages, pages);
    if (receipt->digest_pages)
        words_say(&words, "digests equal on %s pages%s, ", pages,
                  receipt->reread_verified ? " (read anew on both sides)" : "");
    words_say(&words, "source memory freed");
    say_phase(page, "done", line, phase_ns(receipt, PHASE_DONE));
}

static const char *failed_in(const Godwit__MoveReceipt *receipt)
{
    return receipt->has_ended_in ? phase_name((enum phase)receipt->ended_in) : "move";
}

static void write_phases(struct page *page, const Godwit__JobInfo *job)
{
    const Godwit__MoveReceipt *receipt = job->receipt;
    char line[LINE_SIZE];
    bool moved = receipt->moved;
    enum phase last = receipt->has_ended_in ? (enum phase)receipt->ended_in : PHASE_NONE;

    if (moved || (was_in(receipt, PHASE_PREPARE) && last != PHASE_PREPARE)) {
        (void)snprintf(line, sizeof line, "memory and vCPUs held on %s",
                       words_or_dash(job->target));
        say_phase(page, "prepare", line,
                  phase_ns(receipt, PHASE_GREET) + phase_ns(receipt, PHASE_PREPARE));
    }
    if (moved || (was_in(receipt, PHASE_PRECOPY) && last != PHASE_PRECOPY))
        phase_precopy(page, receipt);
    if (moved) {
        phase_handover(page, receipt);
        if (receipt->postcopy_pages)
            phase_postcopy(page, receipt);
        phase_done(page, receipt);
        return;
    }
    if (receipt->postcopy_refused && receipt->postcopy_refused[0]) {
        (void)snprintf(line, sizeof line, "not possible: %.200s", receipt->postcopy_refused);
        say_phase(page, "post-copy", line, 0);
    }
    page->failed = true;
    (void)snprintf(line, sizeof line, "%.200s",
                   receipt->fault && receipt->fault->text ? receipt->fault->text : "it failed");
    say_phase(page, failed_in(receipt), line, 0);
    page->failed = false;
}

static unsigned clamp_width(unsigned width)
{
    return width > WIDTH_MAX ? WIDTH_MAX : width < WIDTH_MIN ? WIDTH_MIN : width;
}

void receipt_text_phases(const Godwit__JobInfo *job, unsigned width, bool color, char *ret_text,
                         size_t size)
{
    struct page page = {.width = clamp_width(width), .color = color};
    words_init(&page.words, ret_text, size);
    if (job->receipt)
        write_phases(&page, job);
}

static void say_downtime(struct words *words, const Godwit__MoveReceipt *receipt)
{
    char down[UNITS_TEXT_SIZE], goal[UNITS_TEXT_SIZE], predicted[UNITS_TEXT_SIZE];
    units_print_duration(receipt->downtime_ns, down);
    words_say(words, "downtime %s (", down);
    if (receipt->downtime_goal_ns) {
        units_print_duration(receipt->downtime_goal_ns, goal);
        words_say(words, "goal %s %s", goal,
                  receipt->downtime_ns <= receipt->downtime_goal_ns ? "met" : "MISSED");
    } else {
        words_say(words, "no goal");
    }
    if (receipt->predicted_downtime_ns) {
        units_print_duration(receipt->predicted_downtime_ns, predicted);
        words_say(words, ", predicted %s", predicted);
    }
    words_say(words, ")");
}

void receipt_text_summary(const Godwit__JobInfo *job, char *ret_text, size_t size)
{
    struct words words;
    words_init(&words, ret_text, size);
    const Godwit__MoveReceipt *receipt = job->receipt;
    if (job->state && strcmp(job->state, "done") == 0) {
        words_say(&words, "%s runs on %s", words_or_dash(job->vm), words_or_dash(job->target));
        if (receipt) {
            char total[UNITS_TEXT_SIZE];
            units_print_duration(receipt->total_ns, total);
            words_say(&words, "; total %s", total);
            if (job->forecast) {
                units_print_duration(job->forecast->total_ns, total);
                words_say(&words, " (forecast %s)", total);
            }
            words_say(&words, ", ");
            say_downtime(&words, receipt);
            words_say(&words, "; godwit job report %s", words_or_dash(job->id));
        }
    } else {
        words_say(&words, "%s did not move: %s", words_or_dash(job->vm), words_or_dash(job->state));
        if (job->vm_state && job->vm_state[0])
            words_say(&words, "; it is %s", job->vm_state);
    }
    words_say(&words, "\n");
}

/* ---- the report ---- */

static void say_time(struct words *words, const char *name, uint64_t unix_ms)
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm utc;
    char text[40];
    if (unix_ms == 0 || !gmtime_r(&seconds, &utc))
        return;
    (void)strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &utc);
    words_say(words, "%-14s %s\n", name, text);
}

static void say_phase_times(struct words *words, const Godwit__MoveReceipt *receipt)
{
    char start[UNITS_TEXT_SIZE], took[UNITS_TEXT_SIZE];
    if (receipt->n_phases == 0)
        return;
    words_say(words, "\n%-12s %10s %10s\n", "PHASE", "BEGAN", "TOOK");
    for (size_t i = 0; i < receipt->n_phases; i++) {
        const Godwit__MovePhaseTime *phase = receipt->phases[i];
        units_print_duration(phase->start_ns, start);
        units_print_duration(phase->duration_ns, took);
        words_say(words, "%-12s %10s %10s\n", phase_name((enum phase)phase->phase), start, took);
    }
}

static void say_rounds(struct words *words, const Godwit__MoveReceipt *receipt)
{
    if (receipt->n_rounds == 0)
        return;
    words_say(words, "\n%-5s %11s %11s %11s %11s %9s %11s %10s %12s\n", "ROUND", "PAGES", "ZERO",
              "RAW", "PACKED", "PATCH", "WIRE", "TOOK", "DIRTY AFTER");
    for (size_t i = 0; i < receipt->n_rounds; i++) {
        const Godwit__MoveRound *round = receipt->rounds[i];
        char wire[UNITS_TEXT_SIZE], took[UNITS_TEXT_SIZE];
        units_print_bytes(round->wire_bytes, wire);
        units_print_duration(round->duration_ns, took);
        words_say(words,
                  "%5" PRIu32 " %11" PRIu64 " %11" PRIu64 " %11" PRIu64 " %11" PRIu64 " %9" PRIu64
                  " %11s %10s %12" PRIu64 "\n",
                  round->number, round->pages, round->zero_pages, round->raw_pages,
                  round->lz4_pages + round->zstd_pages, round->patch_pages, wire, took, round->dirty_pages_after);
    }
}

static void say_bytes(struct words *words, const char *name, uint64_t bytes)
{
    char text[UNITS_TEXT_SIZE], count[UNITS_TEXT_SIZE];
    units_print_bytes(bytes, text);
    units_print_count(bytes, count);
    words_say(words, "%-14s %s (%s bytes)\n", name, text, count);
}

/* What was told before it began, beside what came. */
static void say_forecast(struct words *words, const Godwit__JobInfo *job)
{
    const Godwit__MoveForecast *forecast = job->forecast;
    char told[UNITS_TEXT_SIZE], high[UNITS_TEXT_SIZE], came[UNITS_TEXT_SIZE];
    if (!forecast || !job->receipt->moved)
        return;
    units_print_duration(forecast->total_ns, told);
    units_print_duration(forecast->total_high_ns, high);
    units_print_duration(job->receipt->total_ns, came);
    words_say(words, "%-14s total %s (below %s), came %s", "forecast", told, high, came);
    units_print_duration(forecast->pause_ns, told);
    units_print_duration(forecast->pause_high_ns, high);
    units_print_duration(job->receipt->downtime_ns, came);
    words_say(words, "; pause %s (below %s), came %s\n", told, high, came);
}

static void say_cost(struct words *words, const Godwit__MoveReceipt *receipt)
{
    char text[UNITS_TEXT_SIZE];
    words_say(words, "\n");
    say_bytes(words, "memory", receipt->memory_bytes);
    say_bytes(words, "in use", receipt->populated_bytes);
    say_bytes(words, "on the wire", receipt->wire_bytes);
    words_say(words, "%-14s %u%s%s\n", "lanes", receipt->lanes,
              receipt->cipher && receipt->cipher[0] ? ", " : "",
              receipt->cipher ? receipt->cipher : "");
    if (receipt->reconnects) {
        units_print_duration(receipt->away_ns, text);
        words_say(words, "%-14s %u x, %s away, %" PRIu64 " pages sent again\n", "lanes lost",
                  receipt->reconnects, text, receipt->resent_pages);
    }
    units_print_duration(receipt->source_cpu_ns, text);
    words_say(words, "%-14s source %s", "CPU time", text);
    units_print_duration(receipt->target_cpu_ns, text);
    words_say(words, ", target %s\n", text);
    if (receipt->throttled_ns) {
        units_print_duration(receipt->throttled_ns, text);
        words_say(words, "%-14s %s of its vCPUs' time, at most %u %%\n", "held back", text,
                  receipt->throttle_permille_peak / 10);
    }
    if (receipt->digest_pages) {
        units_print_count(receipt->digest_pages, text);
        words_say(words, "%-14s %016" PRIx64 " over %s pages%s\n", "digest", receipt->memory_digest,
                  text, receipt->reread_verified ? ", read anew on both sides" : "");
    }
}

void receipt_text_report(const Godwit__JobInfo *job, unsigned width, bool color, char *ret_text,
                         size_t size)
{
    struct page page = {.width = clamp_width(width), .color = color};
    words_init(&page.words, ret_text, size);
    struct words *words = &page.words;
    words_say(words, "%-14s %s\n", "job", words_or_dash(job->id));
    words_say(words, "%-14s %s\n", "VM", words_or_dash(job->vm));
    words_say(words, "%-14s %s -> %s\n", "move", words_or_dash(job->source),
              words_or_dash(job->target));
    words_say(words, "%-14s %s\n", "state", words_or_dash(job->state));
    if (job->vm_state && job->vm_state[0])
        words_say(words, "%-14s %s\n", "the VM now", job->vm_state);
    say_time(words, "began", job->created_unix_ms);
    say_time(words, "ended", job->ended_unix_ms);
    for (size_t i = 0; i < job->n_notes; i++)
        words_say(words, "%-14s %s\n", i == 0 ? "notes" : "", job->notes[i]);
    if (job->error && job->error->message)
        words_say(words, "%-14s %s %s\n", "error", words_or_dash(job->error->code),
                  job->error->message);
    if (!job->receipt)
        return;
    words_say(words, "\n");
    write_phases(&page, job);
    say_phase_times(words, job->receipt);
    say_rounds(words, job->receipt);
    say_cost(words, job->receipt);
    say_forecast(words, job);
    char summary[LINE_SIZE * 2];
    receipt_text_summary(job, summary, sizeof summary);
    char *hint = strstr(summary, "; godwit job report");
    if (hint) /* this is the report */
        memcpy(hint, "\n", 2);
    words_say(words, "\n%s", summary);
}
