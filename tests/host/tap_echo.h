/* A tap in a network namespace of the test's own, and whoever answers behind it: every frame goes
 * back with its MACs swapped.
 *
 * Flow:   vm -> tap -> [tap_echo] -> tap -> vm
 * Thread: opened and closed by the test; one thread of its own answers.
 */
#ifndef GODWIT_TESTS_HOST_TAP_ECHO_H
#define GODWIT_TESTS_HOST_TAP_ECHO_H

#include <stdbool.h>
#include <stdint.h>

enum { TAP_ECHO_QUEUES_MAX = 8 };

struct tap_echo;

/* Put this process into a network namespace of its own. Ends the program with 77 where that cannot
 * be, or where there are no taps. Before the first thread. */
void tap_echo_enter_namespace(void);

/* A tap of so many queues with an echo behind it, or with nobody when not `answers`. */
struct tap_echo *tap_echo_new(const char *name, unsigned queues, bool answers);
struct tap_echo *tap_echo_free(struct tap_echo *echo);
/* A new descriptor for queue `queue`, the caller's. All of one queue are the same queue. */
int tap_echo_fd(const struct tap_echo *echo, unsigned queue);
/* The packet socket on the tap's other side; only without an echo. */
int tap_echo_socket(const struct tap_echo *echo);
/* Frames echoed so far. */
uint64_t tap_echo_count(const struct tap_echo *echo);

#endif
