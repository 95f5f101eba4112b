#include "cli/forecast_text.h"

#include <inttypes.h>
#include <string.h>

#include "base/units.h"
#include "base/world.h"
#include "cli/words.h"

static void say_expected(struct words *words, const Godwit__JobInfo *job)
{
    const Godwit__MoveForecast *forecast = job->forecast;
    char total[UNITS_TEXT_SIZE], total_high[UNITS_TEXT_SIZE], bytes[UNITS_TEXT_SIZE];
    char pause[UNITS_TEXT_SIZE], pause_high[UNITS_TEXT_SIZE];
    units_print_duration(forecast->total_ns, total);
    units_print_duration(forecast->total_high_ns, total_high);
    units_print_duration(forecast->pause_ns, pause);
    units_print_duration(forecast->pause_high_ns, pause_high);
    units_print_bytes(forecast->bytes, bytes);
    words_say(words, "  expect %s (19 of 20 below %s), pause %s (below %s), %s in %u round%s\n",
              total, total_high, pause, pause_high, bytes, forecast->rounds,
              forecast->rounds == 1 ? "" : "s");
}

static void say_verdict(struct words *words, const Godwit__JobInfo *job)
{
    const Godwit__MoveForecast *forecast = job->forecast;
    const char *policy =
        job->goals && job->goals->policy && job->goals->policy[0] ? job->goals->policy : "balanced";
    if (forecast->converges && forecast->postcopy && job->goals && job->goals->postcopy)
        words_say(words, "  post-copy: what misses its goal after one pass comes after the guest\n");
    else if (forecast->converges && forecast->postcopy)
        words_say(words,
                  "  post-copy is likely: rounds alone will not reach its goal (%s), so what is left "
                  "comes after the guest; a host lost meanwhile ends the VM (--no-postcopy forbids "
                  "it)\n",
                  policy);
    else if (forecast->converges && forecast->throttle_permille)
        words_say(words, "  will converge with its writers held back to %u %% of their time (%s)\n",
                  (1000 - forecast->throttle_permille) / 10, policy);
    else if (forecast->converges)
        words_say(words, "  will converge\n");
    else
        words_say(
            words,
            "  will NOT reach its goal (%s): it would run on where it is; a policy that holds "
            "back more, a longer --max-downtime or --deadline, or a faster link would let it\n",
            policy);
}

void forecast_text_move(const Godwit__JobInfo *job, char *ret_text, size_t size)
{
    struct words words;
    words_init(&words, ret_text, size);
    const Godwit__MoveForecast *forecast = job->forecast;
    if (!forecast)
        return;
    char writes[UNITS_TEXT_SIZE], link[UNITS_TEXT_SIZE];
    say_expected(&words, job);
    say_verdict(&words, job);
    units_print_rate(forecast->dirty_bytes_per_s, writes);
    units_print_rate(forecast->link_bytes_per_s, link);
    words_say(&words, "  guest writes %s%s, ", writes,
              forecast->sampled ? "" : " (as its last move saw; it was not looked at)");
    if (forecast->link_bytes_per_s)
        words_say(&words, "link carries %s; ", link);
    else
        words_say(&words, "nothing was moved over this link yet; ");
    words_say(&words, "%u move%s of this VM and %u between these hosts are known\n",
              forecast->vm_moves, forecast->vm_moves == 1 ? "" : "s", forecast->link_moves);
}

static void say_points(struct words *words, const Godwit__VmSample *sample)
{
    char text[UNITS_TEXT_SIZE];
    words_say(words, "  %-16s", "within");
    for (size_t i = 0; i < sample->n_at_ns; i++) {
        units_print_duration(sample->at_ns[i], text);
        words_say(words, " %10s", text);
    }
    words_say(words, "\n  %-16s", "it writes");
    for (size_t i = 0; i < sample->n_written_bytes; i++) {
        units_print_bytes(sample->written_bytes[i], text);
        words_say(words, " %10s", text);
    }
    words_say(words, "   of distinct memory\n");
}

void forecast_text_sample(const Godwit__VmDirtyRateReply *reply, char *ret_text, size_t size)
{
    struct words words;
    words_init(&words, ret_text, size);
    const Godwit__VmSample *sample = reply->sample;
    char memory[UNITS_TEXT_SIZE], populated[UNITS_TEXT_SIZE], pages[UNITS_TEXT_SIZE];
    char cpu[UNITS_TEXT_SIZE];
    if (!sample)
        return;
    units_print_bytes(reply->memory_bytes, memory);
    units_print_bytes(sample->populated_bytes, populated);
    units_print_count(sample->pages, pages);
    units_print_duration(sample->cpu_ns, cpu);
    words_say(&words, "%s on %s: %s of memory, %s in use: %u %% of it zero, the rest packs to %u %%",
              words_or_dash(reply->vm), words_or_dash(reply->host), memory, populated,
              sample->zero_permille / 10, sample->packed_permille / 10);
    if (sample->has_zstd_permille) /* an older host does not say */
        words_say(&words, " by LZ4, to %u %% by zstd", sample->zstd_permille / 10);
    words_say(&words, "\n");
    say_points(&words, sample);
    words_say(&words,
              "  seen from %s pages, with %s of a core of the host; the guest was not held\n",
              pages, cpu);
}
