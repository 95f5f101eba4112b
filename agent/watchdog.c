#include "agent/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/watchdog.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent/watchdog_core.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"

enum { TICK_MS = 500 };

struct watchdog {
    struct watchdog_core core;
    const char *device; /* borrowed */
    int fd;             /* -1: asleep, or it could not be opened */
    bool is_unopened;   /* told, for this time */
    struct loop_timer *timer;
};

/* Also of a file, or a pipe of a test, which know no time of their own. False: not opened. */
static bool wake(struct watchdog *watchdog)
{
    int timeout_s = WATCHDOG_TIMEOUT_S;

    watchdog->fd = open(watchdog->device, O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (watchdog->fd < 0) {
        if (!watchdog->is_unopened)
            log_error("watchdog",
                      "cannot be opened, tried again each second: until then a VM that a kill does "
                      "not end runs on device=%s errno=%d",
                      watchdog->device, errno);
        watchdog->is_unopened = true;
        return false;
    }
    watchdog->is_unopened = false;
    if (ioctl(watchdog->fd, WDIOC_SETTIMEOUT, &timeout_s) == 0)
        log_info("watchdog", "awake device=%s timeout_s=%d", watchdog->device, timeout_s);
    else
        log_info("watchdog", "awake, with its own timeout device=%s", watchdog->device);
    loop_timer_start(watchdog->timer, TICK_MS, TICK_MS);
    return true;
}

static void say(struct watchdog *watchdog, char word)
{
    if (watchdog->fd >= 0 && write(watchdog->fd, &word, 1) != 1)
        log_error("watchdog", "does not hear device=%s errno=%d", watchdog->device, errno);
}

/* 'V' before the close tells the driver that it is meant; with nowayout it resets all the same. */
static void put_to_sleep(struct watchdog *watchdog)
{
    if (watchdog->fd < 0)
        return;
    say(watchdog, 'V');
    close_p(&watchdog->fd);
    loop_timer_stop(watchdog->timer);
    log_info("watchdog", "asleep: every VM that had to end has device=%s", watchdog->device);
}

static void feed(struct watchdog *watchdog, enum watchdog_event_type type)
{
    const struct watchdog_event event = {.now_ns = world_now_ns(), .type = type};
    unsigned todo = watchdog_core_step(&watchdog->core, &event);

    if (todo & WATCHDOG_TODO_WAKE && !wake(watchdog)) {
        feed(watchdog, WATCHDOG_EVENT_UNOPENED);
        return;
    }
    if (todo & WATCHDOG_TODO_PAT)
        say(watchdog, 'p');
    if (todo & WATCHDOG_TODO_LET_GO)
        log_error("watchdog",
                  "a VM that must end has not within %d s: the device resets this host device=%s",
                  WATCHDOG_KILL_MS / 1000, watchdog->device);
    if (todo & WATCHDOG_TODO_SLEEP)
        put_to_sleep(watchdog);
}

static void tick(void *data)
{
    feed(data, WATCHDOG_EVENT_TICK);
}

int watchdog_new(struct watchdog **ret_watchdog, struct loop *loop, const char *device,
                 struct fault *fault)
{
    if (access(device, W_OK) != 0)
        return fault_set(fault, ERR_INVALID, "the watchdog '%.200s' cannot be written", device);
    struct watchdog *watchdog = calloc(1, sizeof *watchdog);
    if (!watchdog)
        return fault_set(fault, ERR_NOMEM, "no memory for a watchdog");
    watchdog->device = device;
    watchdog->fd = -1;
    int r = loop_timer_new(&watchdog->timer, loop, tick, watchdog, fault);
    if (r < 0) {
        free(watchdog);
        return r;
    }
    *ret_watchdog = watchdog;
    return 0;
}

struct watchdog *watchdog_free(struct watchdog *watchdog)
{
    if (!watchdog)
        return NULL;
    (void)loop_timer_free(watchdog->timer);
    close_p(&watchdog->fd); /* without its word: what is not proven stays so */
    free(watchdog);
    return NULL;
}

void watchdog_isolate(struct watchdog *watchdog)
{
    if (watchdog)
        feed(watchdog, WATCHDOG_EVENT_ISOLATE);
}

void watchdog_isolated(struct watchdog *watchdog)
{
    if (watchdog)
        feed(watchdog, WATCHDOG_EVENT_ISOLATED);
}
