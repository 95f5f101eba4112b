/* May this end's threads spin on their sockets inside the pause?
 *
 * Flow:   source, target -> [hot] -> lanes, control lane: stream_set_hot
 * Thread: any; asks the kernel for the number of cores.
 *
 * A stream may spin without giving its core away. With fewer cores than spinning threads that is no
 * gain but a disaster: measured on 2 cores with both ends, the pause was 12-20 ms with three
 * readers spinning, 0.33 ms with all of them asleep, and 0.23 ms with spinning that yields. So
 * streams spin only where each of them, and the other end should it be here, can have a core.
 */
#ifndef GODWIT_MIGRATE_HOT_H
#define GODWIT_MIGRATE_HOT_H

#include <stdbool.h>

bool hot_streams(unsigned lanes);

#endif
