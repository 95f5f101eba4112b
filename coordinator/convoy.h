/* How many moves at once leave or enter a host: as few as still fill what carries them.
 *
 * Flow:   plan_core -> [convoy]
 * Thread: the loop's; pure.
 *
 * What limits moves (a link, the CPUs that seal bytes, memory being populated) is not asked for, it
 * is found: with n moves under way so many bytes of guest memory go a second. One more is tried,
 * and kept only when it carries clearly more; else it would only make every guest's rounds longer.
 * Two are the start, because one prepares and ends while the other copies.
 */
#ifndef GODWIT_COORDINATOR_CONVOY_H
#define GODWIT_COORDINATOR_CONVOY_H

#include <stdbool.h>
#include <stdint.h>

enum { CONVOY_MOST = 8, CONVOY_START = 2 };

struct convoy {
    unsigned limit;                                          /* 0: nothing is known yet */
    double bytes[CONVOY_MOST + 1], seconds[CONVOY_MOST + 1]; /* by moves under way */
    unsigned ended[CONVOY_MOST + 1];
    unsigned most_tried;
    double since_s; /* the limit was changed last */
};

unsigned convoy_limit(const struct convoy *convoy);
/* `seconds` went by with `moves` under way, which carried `bytes`; `ended` of them came to an end.
 */
void convoy_measure(struct convoy *convoy, unsigned moves, double bytes, double seconds,
                    unsigned ended);
/* Bytes a second with `moves` under way; 0: not known yet. */
double convoy_rate(const struct convoy *convoy, unsigned moves);
/* Would a guest that writes so much converge as one of `moves`? True while nothing is known. */
bool convoy_carries(const struct convoy *convoy, double dirty_bytes_per_s, unsigned moves);

#endif
