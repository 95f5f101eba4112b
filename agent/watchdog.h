/* This host's watchdog device: resets the host when VMs that must end cannot be ended.
 *
 * Flow:   quarantine -> [watchdog] -> /dev/watchdog
 * Thread: the loop's.
 *
 * It does what watchdog_core decides. The device is opened only while VMs must end: see there why.
 * A device that cannot be opened then is told as an error and costs nothing else.
 */
#ifndef GODWIT_AGENT_WATCHDOG_H
#define GODWIT_AGENT_WATCHDOG_H

struct fault;
struct loop;
struct watchdog;

/* `device` is borrowed and must outlive the watchdog. ERR_INVALID: it cannot be written. */
int watchdog_new(struct watchdog **ret_watchdog, struct loop *loop, const char *device,
                 struct fault *fault);
/* An isolation that goes on is not called off by the agent's end: the device goes on counting. */
struct watchdog *watchdog_free(struct watchdog *watchdog);

/* Both accept NULL: this host has none. */
void watchdog_isolate(struct watchdog *watchdog);  /* VMs must end; again is the same */
void watchdog_isolated(struct watchdog *watchdog); /* all of them have, provably */

#endif
