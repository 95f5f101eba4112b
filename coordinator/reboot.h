/* Rebooting a host by the command that the pool is configured with.
 *
 * Flow:   plan_core's order -> coordinator -> [reboot] -> a program of the operator's
 * Thread: the loop's.
 *
 * pool.json's "reboot_command" is the path of a program; it gets the host's name as its one word
 * and is not waited for: the host has rebooted when its agent says hello as a new incarnation.
 * Without one the plan waits for whoever reboots it.
 */
#ifndef GODWIT_COORDINATOR_REBOOT_H
#define GODWIT_COORDINATOR_REBOOT_H

#include "coordinator/coordinator.h"

void reboot_host(struct coordinator *coordinator, const char *host);

#endif
