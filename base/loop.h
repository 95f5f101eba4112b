/* The one event loop of a process: timers, descriptors, signals, worker threads, posts.
 *
 * Flow:   kernel -> [loop] -> control state of agent, agent/vm, coordinator, cli, net
 * Thread: everything here belongs to the loop's thread, but for loop_post (any thread).
 *
 * A thin door over libuv, so that no other room but net sees it. Objects are made by _new and given
 * back by _free, which may be called inside their own callback; the memory goes when libuv is done.
 */
#ifndef GODWIT_BASE_LOOP_H
#define GODWIT_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct fault;
struct loop;
struct loop_timer;
struct loop_poll;
struct loop_signal;
struct uv_loop_s;

int loop_new(struct loop **ret_loop, struct fault *fault);
/* All objects must have been freed; runs what is left to close. Accepts NULL. */
struct loop *loop_free(struct loop *loop);
void loop_run(struct loop *loop); /* until loop_stop */
/* One turn: waits for at least one event when `wait`. For tests and short-lived commands. */
void loop_turn(struct loop *loop, bool wait);
void loop_stop(struct loop *loop);
struct uv_loop_s *loop_uv(struct loop *loop); /* for net only */

/* Run `function` on the loop's thread, in order of posting. Any thread. Posts still queued at
 * loop_free are dropped. Returns ERR_NOMEM or 0. */
int loop_post(struct loop *loop, void (*function)(void *data), void *data);

/* Run `work` on a worker thread, then `done` on the loop: for SQLite, fsync, name look-up. */
int loop_work(struct loop *loop, void (*work)(void *data), void (*done)(void *data), void *data);

int loop_timer_new(struct loop_timer **ret_timer, struct loop *loop, void (*fired)(void *data),
                   void *data, struct fault *fault);
/* `repeat_ms` 0: once. Starting a started timer sets it anew. */
void loop_timer_start(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms);
void loop_timer_stop(struct loop_timer *timer);
struct loop_timer *loop_timer_free(struct loop_timer *timer);

enum { LOOP_READABLE = 1, LOOP_WRITABLE = 2, LOOP_GONE = 4 };
/* `fd` is borrowed and must outlive the poll. `events` and the callback's word are LOOP_* bits. */
int loop_poll_new(struct loop_poll **ret_poll, struct loop *loop, int fd,
                  void (*ready)(void *data, unsigned events), void *data, struct fault *fault);
void loop_poll_set(struct loop_poll *poll, unsigned events); /* 0: stop watching */
struct loop_poll *loop_poll_free(struct loop_poll *poll);

int loop_signal_new(struct loop_signal **ret_signal, struct loop *loop, int signal_number,
                    void (*caught)(void *data, int signal_number), void *data,
                    struct fault *fault);
struct loop_signal *loop_signal_free(struct loop_signal *signal);

#endif
