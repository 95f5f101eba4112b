/* See fake_io_loop.c. */
#ifndef GODWIT_TESTS_SUPPORT_FAKE_IO_LOOP_H
#define GODWIT_TESTS_SUPPORT_FAKE_IO_LOOP_H

#include <stdbool.h>

struct io_loop;

/* Call what is ready: completions, or sources and jobs. Nothing while the loop is paused. */
void fake_io_loop_turn(struct io_loop *loop, bool completions);

#endif
