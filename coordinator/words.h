/* Words in fixed rooms: copied whole, or cut where the room ends (cut words are better than none).
 *
 * Flow:   reasons, names, notes -> [words] -> structs of the cores
 * Thread: any; no state. What must not be cut (ids, names) is judged before it comes here.
 */
#ifndef GODWIT_COORDINATOR_WORDS_H
#define GODWIT_COORDINATOR_WORDS_H

#include <string.h>

static inline void words_copy(char *to, size_t size, const char *from)
{
    size_t count = strlen(from);
    if (count > size - 1)
        count = size - 1;
    memmove(to, from, count); /* they may be the same */
    to[count] = '\0';
}

#define WORDS_COPY(to, from) words_copy(to, sizeof(to), from)

#endif
