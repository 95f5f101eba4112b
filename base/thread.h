/* What a thread asks of the scheduler.
 *
 * Flow:   lanes, scan threads, populating threads, an ended VM -> [thread] -> kernel
 * Thread: the calling one.
 */
#ifndef GODWIT_BASE_THREAD_H
#define GODWIT_BASE_THREAD_H

/* Begin a thread of a move: `name` (15 characters at most) is for top(1) and traces. Run in short
 * turns: the same share of a CPU, but a vCPU that shares it waits half a millisecond for its turn
 * instead of three or more. A wish: kernels before 6.12 do not know it, and nothing depends on it.
 * Source: Linux sched_setattr(2), sched_runtime of SCHED_OTHER (EEVDF slice). */
void thread_begin(const char *name);

/* From now on guests' vCPUs that want the same CPU come first (nice 5: a third of a vCPU's share).
 * Nothing is done where this process could not take it back. */
void thread_give_way(void);

/* A guest waits for this thread: take back what thread_give_way gave away. */
void thread_hurry(void);

/* Work only when nobody else wants the CPU much (nice 19). For good. */
void thread_stand_back(void);

#endif
