#include "cli/plan_text.h"

#include <string.h>

#include "base/json.h"
#include "base/units.h"
#include "cli/words.h"

static bool is(const char *word, const char *other)
{
    return word && strcmp(word, other) == 0;
}

bool plan_text_is_over(const Godwit__PlanInfo *plan)
{
    return is(plan->state, "done") || is(plan->state, "partly") || is(plan->state, "canceled");
}

static void print_span(FILE *out, uint64_t likely_ns, uint64_t high_ns)
{
    char likely[UNITS_TEXT_SIZE], high[UNITS_TEXT_SIZE];
    units_print_duration(likely_ns, likely);
    units_print_duration(high_ns, high);
    (void)fprintf(out, high_ns > likely_ns ? "%s to %s" : "%s", likely, high);
}

void plan_text_header(FILE *out, const Godwit__PlanInfo *plan)
{
    (void)fprintf(out, "%s%s%s   %zu steps", words_or_dash(plan->kind), plan->host ? " of " : "",
                  plan->host ? plan->host : "", plan->n_steps);
    if (plan->predicted_ns) {
        (void)fputs(", expect ", out);
        print_span(out, plan->predicted_ns, plan->predicted_high_ns);
    }
    (void)fprintf(out, "   plan %s\n", words_or_dash(plan->id));
    for (size_t i = 0; i < plan->n_blockers; i++) {
        const Godwit__PlanBlocker *blocker = plan->blockers[i];
        (void)fprintf(out, "  %s stays: %s\n", words_or_dash(blocker->vm),
                      words_or_dash(blocker->reason));
        for (size_t n = 0; n < blocker->n_concessions; n++)
            (void)fprintf(out, "%s%s", n == 0 ? "    would do: " : ", or ",
                          blocker->concessions[n]);
        if (blocker->n_concessions > 0)
            (void)fputc('\n', out);
    }
    for (size_t i = 0; i < plan->n_kept; i++)
        (void)fprintf(out, "  %s stays by choice\n", plan->kept[i]);
    if (plan->verdict && !plan_text_is_over(plan))
        (void)fprintf(out, "  %s\n", plan->verdict);
}

static void say_progress(struct words *words, const Godwit__MoveProgress *progress)
{
    char word[JSON_ENUM_SIZE], rate[UNITS_TEXT_SIZE];
    json_enum_word(&godwit__move_phase__descriptor, (int)progress->phase, word);
    words_say(words, "  %s", word);
    if (progress->round_pages_total > 0 &&
        progress->phase == GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY)
        words_say(words, " round %u %u %%", progress->round ? progress->round : 1,
                  (unsigned)(100 * progress->round_pages_done / progress->round_pages_total));
    if (progress->wire_bytes_per_s) {
        units_print_rate(progress->wire_bytes_per_s, rate);
        words_say(words, "  %s", rate);
    }
}

void plan_text_step(const Godwit__PlanStep *step, char *ret_text, size_t size)
{
    char total[UNITS_TEXT_SIZE], pause[UNITS_TEXT_SIZE];
    struct words words;
    words_init(&words, ret_text, size);
    if (step->vm && step->target)
        words_say(&words, "%s  %s -> %s", step->vm, words_or_dash(step->source), step->target);
    else
        words_say(&words, "%s %s", words_or_dash(step->kind),
                  step->vm ? step->vm : words_or_dash(step->source));
    if (step->vm && !is(step->kind, "migrate"))
        words_say(&words, " (%s)", words_or_dash(step->kind));
    words_say(&words, "  %s", words_or_dash(step->state));
    if (is(step->state, "running") && step->progress)
        say_progress(&words, step->progress);
    if (is(step->state, "done") && step->has_total_ns) {
        units_print_duration(step->total_ns, total);
        words_say(&words, " in %s", total);
        if (step->has_pause_ns) {
            units_print_duration(step->pause_ns, pause);
            words_say(&words, ", paused %s", pause);
        }
    }
    if (step->note && step->note[0])
        words_say(&words, "  (%s)", step->note);
}

void plan_text_count(const Godwit__PlanInfo *plan, char *ret_text, size_t size)
{
    char rate[UNITS_TEXT_SIZE], eta[UNITS_TEXT_SIZE];
    struct words words;
    uint32_t waiting =
        plan->steps_total - plan->steps_done - plan->steps_running - plan->steps_failed;
    words_init(&words, ret_text, size);
    words_say(&words, "%u of %u done", plan->steps_done, plan->steps_total);
    if (plan->steps_running)
        words_say(&words, ", %u under way", plan->steps_running);
    if (waiting)
        words_say(&words, ", %u wait", waiting);
    if (plan->steps_failed)
        words_say(&words, ", %u not done", plan->steps_failed);
    if (plan->wire_bytes_per_s) {
        units_print_rate(plan->wire_bytes_per_s, rate);
        words_say(&words, "   %s", rate);
    }
    if (plan->eta_ns && plan->steps_running) {
        units_print_duration(plan->eta_ns, eta);
        words_say(&words, "   ETA %s", eta);
    }
}

static void print_step(FILE *out, const Godwit__PlanStep *step, bool why)
{
    char text[512], likely[UNITS_TEXT_SIZE], pause[UNITS_TEXT_SIZE];
    plan_text_step(step, text, sizeof text);
    (void)fprintf(out, "%4u  %s\n", step->number, text);
    if (step->reason && step->reason[0])
        (void)fprintf(out, "      because %s\n", step->reason);
    if (step->predicted_ns && step->predicted_pause_ns) {
        units_print_duration(step->predicted_ns, likely);
        units_print_duration(step->predicted_pause_ns, pause);
        (void)fprintf(out, "      expect %s, pause %s\n", likely, pause);
    }
    for (size_t i = 0; why && i < step->n_rejected; i++)
        (void)fprintf(out, "      not: %s\n", step->rejected[i]);
}

void plan_text_page(FILE *out, const Godwit__PlanInfo *plan, bool why)
{
    plan_text_header(out, plan);
    (void)fprintf(out, "  state %s%s%s\n", words_or_dash(plan->state),
                  plan->verdict && plan_text_is_over(plan) ? ": " : "",
                  plan->verdict && plan_text_is_over(plan) ? plan->verdict : "");
    for (size_t i = 0; i < plan->n_rules; i++)
        (void)fprintf(out, "%s%s", i == 0 ? "  leans on rules " : ", ", plan->rules[i]);
    if (plan->n_rules > 0)
        (void)fputc('\n', out);
    for (size_t i = 0; i < plan->n_steps; i++)
        print_step(out, plan->steps[i], why);
}
