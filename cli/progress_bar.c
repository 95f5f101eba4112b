#include "cli/progress_bar.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/json.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/words.h"
#include "proto/phase.h"

enum { BAR_CELLS = 34, BAR_CELLS_MIN = 8, WIDTH_MAX = 106, WIDTH_MIN = 40 };

static const char *const spinner[] = {"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"};

static unsigned clamp_width(unsigned width)
{
    return width > WIDTH_MAX ? WIDTH_MAX : width < WIDTH_MIN ? WIDTH_MIN : width;
}

static enum phase phase_of(const Godwit__JobInfo *job)
{
    return job->progress && job->progress->has_phase ? (enum phase)job->progress->phase
                                                     : PHASE_NONE;
}

void progress_bar_header(const Godwit__JobInfo *job, unsigned width, char *ret_text, size_t size)
{
    char memory[UNITS_TEXT_SIZE], tail[48];
    struct words words;
    words_init(&words, ret_text, size);
    words_say(&words, "%s  %s -> %s", words_or_dash(job->vm), words_or_dash(job->source),
              words_or_dash(job->target));
    const char *gap = "   ";
    if (job->has_memory_bytes) {
        units_print_bytes(job->memory_bytes, memory);
        words_say(&words, "%s%s RAM", gap, memory);
        gap = ", ";
    }
    if (job->has_vcpus) {
        words_say(&words, "%s%u vCPU", gap, job->vcpus);
        gap = ", ";
    }
    if (job->goals && job->goals->policy && job->goals->policy[0])
        words_say(&words, "%spolicy %s", gap, job->goals->policy);
    (void)snprintf(tail, sizeof tail, "job %s", words_or_dash(job->id));
    size_t used = words_width(ret_text), length = strlen(tail);
    width = clamp_width(width);
    int blanks = used + 2 + length <= width ? (int)(width - used - length) : 2;
    words_say(&words, "%*s%s\n", blanks, "", tail);
}

/* How much there is to do is only known round by round: all that was done, and the rest of this. */
static uint64_t expected_bytes(const Godwit__MoveProgress *progress)
{
    uint64_t rest = 0;
    if (progress->round_pages_total > progress->round_pages_done)
        rest = (progress->round_pages_total - progress->round_pages_done) * PAGE_BYTES;
    uint64_t expected = progress->memory_bytes_done + rest;
    if (progress->round <= 1 && expected < progress->memory_bytes_total)
        expected = progress->memory_bytes_total;
    return expected;
}

static unsigned percent_of(const Godwit__MoveProgress *progress)
{
    uint64_t expected = expected_bytes(progress);
    if (progress->phase >= GODWIT__MOVE_PHASE__MOVE_PHASE_DONE &&
        progress->phase != GODWIT__MOVE_PHASE__MOVE_PHASE_POST_COPY)
        return 100;
    if (expected == 0)
        return 0;
    double part = (double)progress->memory_bytes_done / (double)expected * 100;
    return part > 99 ? 99 : (unsigned)part; /* 100 is for what is done */
}

static void say_bar(struct words *words, unsigned percent, unsigned cells)
{
    unsigned halves = percent * cells * 2 / 100;
    for (unsigned i = 0; i < cells; i++) {
        if (halves >= 2 * (i + 1))
            words_say(words, "━");
        else
            words_say(words, "%s", halves > 2 * i ? "╸" : "─");
    }
}

static void say_amounts(struct words *words, const Godwit__MoveProgress *progress)
{
    char done[UNITS_TEXT_SIZE], all[UNITS_TEXT_SIZE], rate[UNITS_TEXT_SIZE], eta[UNITS_TEXT_SIZE];
    units_print_bytes(progress->memory_bytes_done, done);
    units_print_bytes(expected_bytes(progress), all);
    /* "4.4 of ~8.3 GiB": one unit is enough when both have it. */
    char *unit = strchr(done, ' ');
    const char *other = strchr(all, ' ');
    if (unit && other && strcmp(unit, other) == 0)
        *unit = '\0';
    words_say(words, "round %u  %s of ~%s", progress->round ? progress->round : 1, done, all);
    if (progress->wire_bytes_per_s) {
        units_print_rate(progress->wire_bytes_per_s, rate);
        words_say(words, "  %s", rate);
    }
    if (progress->eta_ns) {
        units_print_duration((progress->eta_ns + NS_PER_S - 1) / NS_PER_S * NS_PER_S, eta);
        char *point = strstr(eta, ".0 s"); /* whole seconds are honest enough */
        if (point)
            memcpy(point, " s", 3);
        words_say(words, "  ETA %s", eta);
    }
}

static void say_facts(struct words *words, const Godwit__MoveProgress *progress)
{
    char rate[UNITS_TEXT_SIZE];
    const char *gap = "";
    if (progress->dirty_bytes_per_s || progress->round > 1) { /* before, nobody has looked yet */
        units_print_rate(progress->dirty_bytes_per_s, rate);
        words_say(words, "guest writes %s", rate);
        gap = ", ";
    }
    if (progress->zero_pages && progress->memory_bytes_done) {
        double part =
            (double)progress->zero_pages * PAGE_BYTES * 100 / (double)progress->memory_bytes_done;
        words_say(words, "%szero pages %.0f %%", gap, part > 100 ? 100 : part);
        gap = ", ";
    }
    if (progress->away)
        words_say(words, "%slanes lost, opening them again", gap);
    else if (progress->lanes)
        words_say(words, "%s%u %s, TLS 1.3", gap, progress->lanes,
                  progress->lanes == 1 ? "lane" : "lanes");
    if (progress->reconnects)
        words_say(words, ", lost and back %u x", progress->reconnects);
}

static void say_goal(struct words *words, const Godwit__JobInfo *job)
{
    const Godwit__MoveProgress *progress = job->progress;
    char goal[UNITS_TEXT_SIZE] = "", pause[UNITS_TEXT_SIZE];
    if (job->goals && job->goals->downtime_ns_max)
        units_print_duration(job->goals->downtime_ns_max, goal);
    if (progress->predicted_pause_ns == 0) {
        words_say(words, "waits until the pause fits %s", goal[0] ? goal : "its goal");
        return;
    }
    units_print_duration(progress->predicted_pause_ns, pause);
    if (progress->waiting_for_goal)
        words_say(words, "pause now %s, %s%s: waits until it fits", pause,
                  goal[0] ? "goal " : "more than its goal", goal);
    else
        words_say(words, "pause forecast %s%s%s", pause, goal[0] ? ", goal " : "", goal);
    if (progress->throttle_permille)
        words_say(words, ", its writers are held back %u %%", progress->throttle_permille / 10);
}

/* Why it waits and what can be done: only when a round has shown that it does not fit. */
static bool is_stuck(const Godwit__MoveProgress *progress)
{
    return progress->waiting_for_goal && progress->round > 2;
}

/* Why the guest runs ahead of its memory, where nobody ordered it. */
static const char *postcopy_why(const Godwit__JobInfo *job)
{
    if (phase_of(job) != PHASE_POSTCOPY)
        return "";
    switch (job->progress->postcopy_reason) {
    case GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_GOAL:
        return ": rounds did not come down to its goal, the rest follows";
    case GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_DEADLINE:
        return ": rounds did not end before its deadline, the rest follows";
    case GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_NONE:
    case GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_ORDERED:
    case _GODWIT__MOVE_POSTCOPY_REASON_IS_INT_SIZE:
        break;
    }
    return "";
}

unsigned progress_bar_frame(struct progress_bar *bar, const Godwit__JobInfo *job, char *ret_text,
                            size_t size)
{
    struct words words;
    words_init(&words, ret_text, size);
    const char *spin = spinner[bar->spin % ARRAY_COUNT(spinner)];
    const char *mark = bar->color ? "\033[36m" : "", *plain = bar->color ? "\033[0m" : "";
    const Godwit__MoveProgress *progress = job->progress;
    enum phase phase = phase_of(job);
    unsigned width = clamp_width(bar->width), lines = 1;
    ret_text[0] = '\0';

    if (phase != PHASE_PRECOPY) {
        const char *what =
            phase == PHASE_NONE ? (job->step ? job->step : "queued") : phase_name(phase);
        words_say(&words, "%s%s%s %s%s\n", mark, spin, plain, what, postcopy_why(job));
        return lines;
    }
    unsigned percent = percent_of(progress);
    if (percent > bar->percent)
        bar->percent = percent;

    char amounts[160];
    struct words tail;
    words_init(&tail, amounts, sizeof amounts);
    say_amounts(&tail, progress);
    unsigned taken = 16 + 2 + 5 + 2 + (unsigned)words_width(amounts);
    unsigned cells = taken + BAR_CELLS <= width       ? BAR_CELLS
                     : taken + BAR_CELLS_MIN <= width ? width - taken
                                                      : 0;
    words_say(&words, "%s%s%s %-13s ", mark, spin, plain, phase_name(phase));
    words_say(&words, "%s", mark);
    say_bar(&words, bar->percent, cells);
    words_say(&words, "%s%s%3u %%  ", plain, cells ? "  " : "", bar->percent);
    /* On a narrow terminal the tail is cut: a wrapped line could not be redrawn. */
    unsigned room = width > taken - (unsigned)words_width(amounts) + cells
                        ? width - (taken - (unsigned)words_width(amounts)) - cells
                        : 0;
    words_say(&words, "%.*s\n", (int)room, amounts);

    char facts[200];
    struct words second;
    words_init(&second, facts, sizeof facts);
    say_facts(&second, progress);
    if (facts[0] && second.used > 0) {
        words_say(&words, "  %-13s %.*s\n", "", (int)(width - 16), facts);
        lines++;
    }
    struct words third;
    words_init(&third, facts, sizeof facts);
    say_goal(&third, job);
    words_say(&words, "  %-13s %.*s\n", "handover", (int)(width - 16), facts);
    lines++;
    if (is_stuck(progress)) {
        third.used = 0;
        words_say(&third,
                  "godwit job cancel %s stops it; the guest writes faster than the rest shrinks",
                  words_or_dash(job->id));
        words_say(&words, "  %-13s %.*s\n", "", (int)(width - 16), facts);
        lines++;
    }
    return lines;
}

void progress_bar_plain(const Godwit__JobInfo *job, unsigned percent, char *ret_text, size_t size)
{
    struct words words;
    words_init(&words, ret_text, size);
    enum phase phase = phase_of(job);
    words_say(&words, "%s: %s%s", words_or_dash(job->vm),
              phase == PHASE_NONE ? (job->step ? job->step : "queued") : phase_name(phase),
              postcopy_why(job));
    if (phase == PHASE_PRECOPY) {
        char facts[200] = "";
        words_say(&words, "  %u %%  ", percent);
        say_amounts(&words, job->progress);
        struct words more;
        words_init(&more, facts, sizeof facts);
        say_facts(&more, job->progress);
        if (more.used)
            words_say(&words, "  %s", facts);
        if (job->progress->waiting_for_goal) {
            more.used = 0;
            say_goal(&more, job);
            words_say(&words, "; %s", facts);
        }
    }
    words_say(&words, "\n");
}

/* ---- the screen ---- */

void progress_bar_init(struct progress_bar *bar, enum progress_mode mode, FILE *out, bool color,
                       unsigned width)
{
    *bar = (struct progress_bar){
        .mode = mode, .out = out, .color = color, .width = width, .phase_told = -1};
}

void progress_bar_clear(struct progress_bar *bar)
{
    if (bar->lines_drawn > 0)
        (void)fprintf(bar->out, "\033[%uA\r\033[J", bar->lines_drawn);
    bar->lines_drawn = 0;
    (void)fflush(bar->out);
}

static void tell_header(struct progress_bar *bar, const Godwit__JobInfo *job)
{
    char text[256];
    if (bar->header_told)
        return;
    bar->header_told = true;
    progress_bar_header(job, bar->width, text, sizeof text);
    (void)fputs(text, bar->out);
    for (size_t i = 0; i < job->n_notes; i++)
        (void)fprintf(bar->out, "  %s\n", job->notes[i]);
}

static void draw(struct progress_bar *bar, const Godwit__JobInfo *job, uint64_t now_ms)
{
    if (bar->lines_drawn > 0 && now_ms - bar->told_ms < PROGRESS_REDRAW_MS)
        return;
    char frame[PROGRESS_FRAME_SIZE];
    unsigned lines = progress_bar_frame(bar, job, frame, sizeof frame);
    /* One write, and each line cleared as it is drawn: nothing flickers. */
    char screen[PROGRESS_FRAME_SIZE + 128];
    struct words words;
    words_init(&words, screen, sizeof screen);
    if (bar->lines_drawn > 0)
        words_say(&words, "\033[%uA\r", bar->lines_drawn);
    for (const char *at = frame; *at;) {
        size_t length = strcspn(at, "\n");
        words_say(&words, "%.*s\033[K\n", (int)length, at);
        at += length + (at[length] == '\n');
    }
    words_say(&words, "\033[J");
    (void)fputs(screen, bar->out);
    (void)fflush(bar->out);
    bar->lines_drawn = lines;
    bar->told_ms = now_ms;
    bar->spin++;
}

static void tell(struct progress_bar *bar, const Godwit__JobInfo *job, uint64_t now_ms)
{
    int phase = (int)phase_of(job);
    bool waits = job->progress && is_stuck(job->progress) && !bar->wait_told;
    if (job->progress) {
        unsigned percent = percent_of(job->progress);
        bar->percent = percent > bar->percent ? percent : bar->percent;
    }
    if (phase == PHASE_NONE || phase == PHASE_DONE)
        return; /* the header and the receipt say so */
    if (phase == bar->phase_told && !waits && now_ms - bar->told_ms < PROGRESS_PLAIN_MS)
        return;
    char line[512];
    progress_bar_plain(job, bar->percent, line, sizeof line);
    (void)fputs(line, bar->out);
    (void)fflush(bar->out);
    bar->phase_told = phase;
    bar->wait_told |= waits;
    bar->told_ms = now_ms;
}

static void tell_json(struct progress_bar *bar, const Godwit__JobInfo *job, uint64_t now_ms)
{
    AUTO_FREE char *text = NULL;
    if (now_ms - bar->told_ms < PROGRESS_REDRAW_MS && bar->phase_told == (int)phase_of(job))
        return;
    if (json_print(&job->base, JSON_FORM_COMPACT, &text, NULL) == 0)
        (void)fputs(text, bar->out);
    (void)fflush(bar->out);
    bar->phase_told = (int)phase_of(job);
    bar->told_ms = now_ms;
}

void progress_bar_update(struct progress_bar *bar, const Godwit__JobInfo *job, uint64_t now_ms)
{
    switch (bar->mode) {
    case PROGRESS_LIVE:
        tell_header(bar, job);
        draw(bar, job, now_ms);
        break;
    case PROGRESS_PLAIN:
        tell_header(bar, job);
        tell(bar, job, now_ms);
        break;
    case PROGRESS_JSON:
        tell_json(bar, job, now_ms);
        break;
    case PROGRESS_NONE:
        break;
    }
}
