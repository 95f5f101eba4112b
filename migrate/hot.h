/* May this end's threads spin on their sockets inside the pause?
 *
 * Flow:   source, target -> [hot] -> lanes, control lane: stream_set_hot
 * Thread: any; asks the kernel for the number of cores.
 *
 * A spinning stream yields its core between two looks, and spins for 2 ms at most. Measured on 2
 * cores with both ends and the guest on them: pause 1.8-3.9 ms with spinning, 1.8-7.7 ms with
 * sleeping (a wake-up is 0.05-0.1 ms and there are six in a pause); spinning without yielding:
 * 12-20 ms. On one core nobody can be waited for by spinning.
 */
#ifndef GODWIT_MIGRATE_HOT_H
#define GODWIT_MIGRATE_HOT_H

#include <stdbool.h>

bool hot_streams(void);

#endif
