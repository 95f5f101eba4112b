/* A guest's console: what it wrote goes to a log file, a ring and whoever is attached; what is
 * typed waits until the guest's serial port has room.
 *
 * Flow:   vCPU thread -> [console] -> loop -> log file, ring, connections;  agent -> [console] ->
 * vm Thread: output from vCPU threads (one mutex); all else on the loop's.
 *
 * The log file is kept below CONSOLE_LOG_MAX by starting it anew (truncation), with a line that
 * says so: a log for the last hours, not an archive. When a guest writes faster than the loop can
 * carry, the oldest bytes still waiting are lost and the log says how many.
 */
#ifndef GODWIT_AGENT_VM_CONSOLE_H
#define GODWIT_AGENT_VM_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct console;
struct fault;
struct loop;

enum { CONSOLE_LOG_MAX = 8 << 20, CONSOLE_INPUT_MAX = 64 << 10 };

struct console_config {
    struct loop *loop;
    /* The guest's bytes, on the loop's thread; at most CONSOLE_CHUNK_MAX at once; borrowed. */
    void (*on_output)(void *data, const uint8_t *bytes, size_t count);
    /* Offer input to the guest; returns how many bytes it took. */
    size_t (*give_input)(void *data, const uint8_t *bytes, size_t count);
    void *data;
};

int console_new(struct console **ret_console, const struct console_config *config,
                struct fault *fault);
struct console *console_free(struct console *console);
/* Where output goes from now on: an append-only file; taken. -1: nowhere. */
void console_set_log(struct console *console, int fd);

void console_output(struct console *console, const uint8_t *bytes, size_t count); /* vCPU thread */
/* Carry what waits to log, ring and on_output now (so that a new reader gets it once). */
void console_flush(struct console *console);
/* Wait, at most `ms_max`, until the loop has carried all that was written so far: before another
 * process goes on with this log. Any thread but the loop's; not for a console that is freed meanwhile. */
void console_settle(struct console *console, unsigned ms_max);
/* The last bytes written, at most `size`. */
size_t console_tail(struct console *console, uint8_t *ret_bytes, size_t size);
/* Queue input; returns how many bytes the queue still had room for. */
size_t console_input(struct console *console, const uint8_t *bytes, size_t count);

#endif
