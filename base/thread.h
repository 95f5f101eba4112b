/* What a thread asks of the scheduler.
 *
 * Flow:   lanes, scan threads, populating threads -> [thread] -> kernel
 * Thread: the calling one.
 */
#ifndef GODWIT_BASE_THREAD_H
#define GODWIT_BASE_THREAD_H

/* Run in short turns: the same share of a CPU, but a vCPU that shares it waits half a millisecond for its
 * turn instead of three or more. A wish: kernels before 6.12 do not know it, and nothing depends on it.
 * Source: Linux sched_setattr(2), sched_runtime of SCHED_OTHER (EEVDF slice). */
void thread_take_short_turns(void);

#endif
