#include "agent/vm/console.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/vm/console_ring.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/world.h"
#include "proto/limits.h"

enum { INPUT_RETRY_MS = 5, OUTPUT_GATHER_MS = 5 };

struct console {
    struct console_config config;
    int log_fd;
    struct console_ring written; /* all output, for a tail */
    struct console_ring input;   /* typed, not yet taken by the guest */
    struct loop_timer *input_timer, *output_timer;
    bool input_waits;

    pthread_mutex_t mutex;
    struct console_ring pending; /* under the mutex: from vCPU threads, not yet carried on */
    uint64_t lost_bytes;         /* under the mutex */
    bool posted;                 /* under the mutex: the loop knows that bytes wait */
    bool is_carrying;            /* under the mutex: taken from there, maybe not in the log yet */
    pthread_cond_t carried;      /* nothing waits, and nothing is on its way into the log */
};

static_assert((int)CONSOLE_INPUT_MAX <= (int)CONSOLE_RING_BYTES, "the input queue is a ring");

/* ---- output ---- */
static void log_put(struct console *console, const uint8_t *bytes, size_t count)
{
    static const char anew[] = "[godwit: the console log reached 8 MiB and starts anew here]\n";
    struct stat status;

    if (console->log_fd < 0)
        return;
    if (fstat(console->log_fd, &status) == 0 && status.st_size + (off_t)count > CONSOLE_LOG_MAX &&
        ftruncate(console->log_fd, 0) == 0) {
        ssize_t n = write(console->log_fd, anew, sizeof anew - 1);
        (void)n; /* as below */
    }
    ssize_t n = write(console->log_fd, bytes, count);
    (void)n; /* a full disk costs the log its lines, never the guest its run */
}

static void carry(struct console *console, const uint8_t *bytes, size_t count)
{
    log_put(console, bytes, count);
    console_ring_put(&console->written, bytes, count);
    console->config.on_output(console->config.data, bytes, count);
}

void console_flush(struct console *console)
{
    uint8_t bytes[CONSOLE_CHUNK_MAX];
    uint64_t lost_bytes;
    size_t count;

    do {
        pthread_mutex_lock(&console->mutex);
        count = console_ring_take(&console->pending, bytes, sizeof bytes);
        lost_bytes = console->lost_bytes;
        console->lost_bytes = 0;
        console->is_carrying = count > 0 || lost_bytes;
        pthread_mutex_unlock(&console->mutex);

        if (lost_bytes) {
            char text[96];
            int n = snprintf(text, sizeof text, "\n[godwit: %llu console bytes were lost here]\n",
                             (unsigned long long)lost_bytes);
            carry(console, (const uint8_t *)text, (size_t)n);
        }
        if (count)
            carry(console, bytes, count);
    } while (count == sizeof bytes);

    pthread_mutex_lock(&console->mutex);
    console->is_carrying = false;
    pthread_cond_broadcast(&console->carried);
    pthread_mutex_unlock(&console->mutex);
}

static void output_timer_fired(void *data)
{
    struct console *console = data;

    pthread_mutex_lock(&console->mutex);
    console->posted = false;
    pthread_mutex_unlock(&console->mutex);
    console_flush(console);
}

static void output_posted(void *data)
{
    struct console *console = data;

    loop_timer_start(console->output_timer, OUTPUT_GATHER_MS, 0);
}

/* A guest writes byte by byte: one post and a short gathering time a burst, so that neither a busy
 * guest drowns the loop nor an idle one wakes it. */
void console_output(struct console *console, const uint8_t *bytes, size_t count)
{
    pthread_mutex_lock(&console->mutex);
    size_t room = CONSOLE_RING_BYTES - console->pending.count;
    if (count > room)
        console->lost_bytes += count - room;
    console_ring_put(&console->pending, bytes, count);
    bool post = !console->posted;
    console->posted = true;
    pthread_mutex_unlock(&console->mutex);

    if (post && loop_post(console->config.loop, output_posted, console) < 0) {
        pthread_mutex_lock(&console->mutex);
        console->posted = false; /* no memory now: the next byte tries again */
        pthread_mutex_unlock(&console->mutex);
    }
}

static void flush_posted(void *data)
{
    console_flush(data);
}

/* The loop does all writing: its medium may hang, and who asks here may not. */
void console_settle(struct console *console, unsigned ms_max)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(ms_max % 1000) * (long)NS_PER_MS;
    until.tv_sec += ms_max / 1000 + until.tv_nsec / (long)NS_PER_S;
    until.tv_nsec %= (long)NS_PER_S;

    pthread_mutex_lock(&console->mutex);
    bool waits = console->pending.count > 0 || console->is_carrying;
    if (waits && loop_post(console->config.loop, flush_posted, console) < 0)
        waits = false; /* no memory: they come late */
    while (waits && (console->pending.count > 0 || console->is_carrying)) {
        if (pthread_cond_timedwait(&console->carried, &console->mutex, &until) != 0)
            break;
    }
    pthread_mutex_unlock(&console->mutex);
}

size_t console_tail(struct console *console, uint8_t *ret_bytes, size_t size)
{
    return console_ring_tail(&console->written, ret_bytes, size);
}

/* ---- input ---- */
static void input_offer(struct console *console)
{
    uint8_t bytes[256];
    size_t count, taken;

    do {
        /* Look before taking: what the guest refuses keeps its place. */
        size_t start = console->input.start, queued = console->input.count;
        count = console_ring_take(&console->input, bytes, sizeof bytes);
        taken = count ? console->config.give_input(console->config.data, bytes, count) : 0;
        assert(taken <= count);
        console->input.start = (start + taken) % CONSOLE_RING_BYTES;
        console->input.count = queued - taken;
    } while (taken && taken == count);

    if (console->input.count && !console->input_waits)
        loop_timer_start(console->input_timer, INPUT_RETRY_MS, INPUT_RETRY_MS);
    if (!console->input.count && console->input_waits)
        loop_timer_stop(console->input_timer);
    console->input_waits = console->input.count > 0;
}

static void input_timer_fired(void *data)
{
    input_offer(data);
}

size_t console_input(struct console *console, const uint8_t *bytes, size_t count)
{
    size_t room = CONSOLE_INPUT_MAX - console->input.count;
    size_t taken = count < room ? count : room;

    console_ring_put(&console->input, bytes, taken);
    input_offer(console);
    return taken;
}

/* ---- the console ---- */
int console_new(struct console **ret_console, const struct console_config *config,
                struct fault *fault)
{
    struct console *console = calloc(1, sizeof *console);
    if (!console)
        return fault_set(fault, ERR_NOMEM, "no memory for a console");

    console->config = *config;
    console->log_fd = -1;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&console->carried, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&console->mutex, NULL);
    int r = loop_timer_new(&console->input_timer, config->loop, input_timer_fired, console, fault);
    if (r == 0)
        r = loop_timer_new(&console->output_timer, config->loop, output_timer_fired, console,
                           fault);
    if (r < 0) {
        (void)console_free(console);
        return r;
    }
    *ret_console = console;
    return 0;
}

struct console *console_free(struct console *console)
{
    if (console) {
        if (console->input_timer)
            (void)loop_timer_free(console->input_timer);
        if (console->output_timer)
            (void)loop_timer_free(console->output_timer);
        console_set_log(console, -1);
        pthread_mutex_destroy(&console->mutex);
        pthread_cond_destroy(&console->carried);
        free(console);
    }
    return NULL;
}

void console_set_log(struct console *console, int fd)
{
    if (console->log_fd >= 0)
        (void)close(console->log_fd); /* all was written at once: nothing to lose */
    console->log_fd = fd;
}
