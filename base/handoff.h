/* A bounded queue of pointers between two threads: the only way bytes change threads.
 *
 * Flow:   scan thread -> [handoff] -> lane thread
 * Thread: one mutex and two condition variables; any thread may put, take, close.
 */
#ifndef GODWIT_BASE_HANDOFF_H
#define GODWIT_BASE_HANDOFF_H

#include <stdbool.h>
#include <stddef.h>

struct handoff;

enum { HANDOFF_E_CLOSED = 1 };

/* Holds up to `slots` pointers. */
int handoff_new(struct handoff **ret_handoff, size_t slots);
/* What is still inside is handed to `discard` (may be NULL when known to be empty). */
struct handoff *handoff_free(struct handoff *handoff, void (*discard)(void *item));

/* Takes *item when it returns 0 (and NULLs it); waits while full. HANDOFF_E_CLOSED: still yours. */
int handoff_put(struct handoff *handoff, void **item);
/* Gives the oldest; waits while empty. NULL once it is closed and empty. */
void *handoff_take(struct handoff *handoff);
/* Gives the oldest or NULL at once; for a taker that spins inside the pause. */
void *handoff_try_take(struct handoff *handoff);
/* No more puts; takers drain what is left, then get NULL. */
void handoff_close(struct handoff *handoff);

#endif
