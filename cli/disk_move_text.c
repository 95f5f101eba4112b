#include "cli/disk_move_text.h"

#include <string.h>

#include "base/units.h"
#include "cli/words.h"

bool disk_move_text_is(const Godwit__JobInfo *job)
{
    return job->kind && strcmp(job->kind, "disk-move") == 0;
}

static void say_what(struct words *words, const Godwit__JobInfo *job)
{
    words_say(words, "%s: disk %s, %s -> %s", words_or_dash(job->vm),
              words_or_dash(job->disk_name), words_or_dash(job->source),
              words_or_dash(job->target));
}

/* Copying comes again for what is written meanwhile: what is left says how far it is. */
static unsigned percent_of(const Godwit__DiskMoveStatus *disk)
{
    if (!disk->bytes)
        return 0;
    uint64_t left = disk->left_bytes < disk->bytes ? disk->left_bytes : disk->bytes;
    return (unsigned)(100 - left * 100 / disk->bytes);
}

void disk_move_text_progress(const Godwit__JobInfo *job, char *ret_text, size_t size)
{
    const Godwit__DiskMoveStatus *disk = job->disk;
    char left[UNITS_TEXT_SIZE], read[UNITS_TEXT_SIZE];
    struct words words;
    words_init(&words, ret_text, size);
    say_what(&words, job);
    if (!disk || !disk->state) {
        words_say(&words, ": %s", words_or_dash(job->step));
        return;
    }
    units_print_bytes(disk->left_bytes, left);
    units_print_bytes(disk->verified_bytes, read);
    if (disk->waits)
        words_say(&words, ": the guest's writes wait: %s", words_or_dash(disk->reason));
    else if (strcmp(disk->state, "copying") == 0)
        words_say(&words, ": copying, %u %%, pass %u, %s left", percent_of(disk), disk->passes,
                  left);
    else if (strcmp(disk->state, "closing") == 0)
        words_say(&words, ": closing, %s left, %s read back", left, read);
    else
        words_say(&words, ": %s", words_or_dash(job->step));
}

void disk_move_text_summary(const Godwit__JobInfo *job, char *ret_text, size_t size)
{
    char total[UNITS_TEXT_SIZE], copied[UNITS_TEXT_SIZE], written[UNITS_TEXT_SIZE];
    struct words words;
    words_init(&words, ret_text, size);
    if (!job->state || strcmp(job->state, "done") != 0) {
        say_what(&words, job);
        words_say(&words, ": it did not move: %s\n", words_or_dash(job->state));
        return;
    }
    words_say(&words, "disk %s of %s lies in %s", words_or_dash(job->disk_name),
              words_or_dash(job->vm), words_or_dash(job->target));
    if (job->disk && job->ended_unix_ms > job->created_unix_ms) {
        units_print_duration((job->ended_unix_ms - job->created_unix_ms) * 1000000, total);
        units_print_bytes(job->disk->copied_bytes, copied);
        units_print_bytes(job->disk->written_bytes, written);
        words_say(&words, "; total %s, read %s in %u passes, wrote %s, digests equal", total, copied,
                  job->disk->passes, written);
    }
    words_say(&words, "\n");
}
