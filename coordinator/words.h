/* Words in fixed rooms: copied whole, or cut where the room ends (cut words are better than none).
 *
 * Flow:   reasons, names, notes -> [words] -> structs of the cores
 * Thread: any; no state. What must not be cut (ids, names) is judged before it comes here.
 */
#ifndef GODWIT_COORDINATOR_WORDS_H
#define GODWIT_COORDINATOR_WORDS_H

#include <stdint.h>
#include <string.h>

static inline void words_copy(char *to, size_t size, const char *from)
{
    size_t count = strlen(from);
    if (count > size - 1)
        count = size - 1;
    memmove(to, from, count); /* they may be the same */
    to[count] = '\0';
}

/* In place, for a terminal and a log: no control characters, C1 ones (c2 80..9f) included. NULL: nothing to do. */
static inline void words_plain(char *text)
{
    uint8_t *at = (uint8_t *)text;
    for (uint8_t before = 0; at && *at; before = *at++) {
        if (*at < 0x20 || *at == 0x7f)
            *at = ' ';
        else if (before == 0xc2 && *at >= 0x80 && *at <= 0x9f)
            at[-1] = at[0] = '?';
    }
}

#define WORDS_COPY(to, from) words_copy(to, sizeof(to), from)

#endif
