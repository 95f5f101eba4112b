/* What the outside asks over the serial line, and the answers.
 *
 * Flow:   serial -> [command] -> sweep, writer, heartbeat -> record -> serial
 * Thread: vCPU 0, a little in each turn of its loop.
 */
#ifndef GUEST_COMMAND_H
#define GUEST_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

struct options;

void command_init(const struct options *options);
void command_step(uint64_t now_tsc);
bool command_is_idle(void);

#endif
