#include "base/id.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/world.h"

void id_random(char ret_id[static ID_TEXT_SIZE])
{
    uint8_t chance[16];
    world_random(chance, sizeof chance);
    for (size_t i = 0; i < sizeof chance; i++)
        (void)snprintf(ret_id + 2 * i, 3, "%02x", chance[i]);
}

void id_random_short(char prefix, char ret_id[static ID_SHORT_SIZE])
{
    static const char letters[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"; /* no I L O U */
    uint8_t chance[ID_SHORT_SIZE - 2];
    world_random(chance, sizeof chance);
    ret_id[0] = prefix;
    for (size_t i = 0; i < sizeof chance; i++)
        ret_id[i + 1] = letters[chance[i] % 32];
    ret_id[ID_SHORT_SIZE - 1] = '\0';
}

bool id_name_is_valid(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > ID_NAME_MAX || !isalnum((unsigned char)name[0]))
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)name[i];
        if (!isalnum(c) && c != '.' && c != '_' && c != '-')
            return false;
    }
    return true;
}

enum { WORD_MAX = 40 };

/* Damerau-Levenshtein, optimal string alignment form, over three rows. */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][WORD_MAX + 1];
    size_t la = strlen(a), lb = strlen(b);
    if (la > WORD_MAX || lb > WORD_MAX)
        return SIZE_MAX; /* nobody meant that */

    for (size_t j = 0; j <= lb; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[la % 3][lb];
}

const char *id_nearest(const char *word, const char *const *names, size_t count)
{
    const char *nearest = NULL;
    size_t length = strlen(word);
    size_t best = length / 3 + 1; /* one slip in a short word, more in a long one */
    if (length == 0)
        return NULL;

    for (size_t i = 0; i < count; i++) {
        size_t d = distance(word, names[i]);
        if (d <= best && (!nearest || d < best)) {
            best = d;
            nearest = names[i];
        } else if (!nearest && length >= 3 && strncmp(names[i], word, length) == 0) {
            nearest = names[i];
        }
    }
    return nearest;
}
