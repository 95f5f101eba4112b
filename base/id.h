/* Names of things: random ids, short job ids, and the rule for names that operators give.
 *
 * Flow:   coordinator, agent, cli -> [id]
 * Thread: any; no state.
 */
#ifndef GODWIT_BASE_ID_H
#define GODWIT_BASE_ID_H

#include <stdbool.h>
#include <stddef.h>

enum {
    ID_TEXT_SIZE = 33,   /* 128 random bits as 32 hex digits, and the end */
    ID_SHORT_SIZE = 8,   /* a job's id: J and 6 letters of Crockford's base 32, and the end */
    ID_NAME_MAX = 63,    /* of hosts and VMs */
};

void id_random(char ret_id[static ID_TEXT_SIZE]);
void id_random_short(char prefix, char ret_id[static ID_SHORT_SIZE]);

/* a-z A-Z 0-9 . _ -, first a letter or digit, 1 to ID_NAME_MAX: fit for a file name and DNS. */
bool id_name_is_valid(const char *name);

/* The entry of `names` (count of them) nearest to `word`, NULL when none is near enough to be
 * meant (Damerau-Levenshtein, at most a third of the letters wrong). */
const char *id_nearest(const char *word, const char *const *names, size_t count);

#endif
