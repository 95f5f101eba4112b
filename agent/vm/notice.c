#include "agent/vm/notice.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"

enum { READ_BYTES = 512, READS_MAX = 8 }; /* a turn; the rest comes by itself */

struct notice {
    struct notice_config config;
    struct notice_core core;
    int fd; /* owned; -1: no connection */
    struct loop_poll *poll;
    struct loop_timer *timer;
};

static void feed(struct notice *notice, struct notice_event *event);

static void hang_up(struct notice *notice)
{
    notice->poll = notice->poll ? loop_poll_free(notice->poll) : NULL;
    close_p(&notice->fd);
}

static void closed(struct notice *notice)
{
    struct notice_event event = {.type = NOTICE_EVENT_CLOSED};

    hang_up(notice);
    feed(notice, &event);
}

static void readable(void *data, unsigned events)
{
    struct notice *notice = data;
    uint8_t bytes[READ_BYTES];
    (void)events;

    for (unsigned i = 0; i < READS_MAX && notice->fd >= 0; i++) {
        ssize_t got = recv(notice->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got <= 0) {
            closed(notice);
            return;
        }
        struct notice_event event = {
            .type = NOTICE_EVENT_BYTES, .bytes = bytes, .count = (size_t)got};
        feed(notice, &event);
    }
}

static bool dial(struct notice *notice)
{
    struct fault fault = {0};

    int r = notice->config.connect(notice->config.data, &notice->fd, &fault);
    if (r == 0)
        r = loop_poll_new(&notice->poll, notice->config.loop, notice->fd, readable, notice, &fault);
    if (r == 0)
        loop_poll_set(notice->poll, LOOP_READABLE | LOOP_GONE);
    else
        log_debug("notice", "the guest is not told: %s", fault.text);
    return r == 0;
}

/* One short line on a fresh socket: it takes it whole, or nobody reads. */
static bool write_line(struct notice *notice)
{
    size_t count = strlen(notice->core.line);

    return notice->fd < 0 || send(notice->fd, notice->core.line, count,
                                  MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)count;
}

static void arm(struct notice *notice)
{
    uint64_t next_ns = notice_core_next_ns(&notice->core), now_ns = world_now_ns();

    if (!next_ns)
        loop_timer_stop(notice->timer);
    else
        loop_timer_start(notice->timer,
                         next_ns > now_ns ? (next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS : 0, 0);
}

static void feed(struct notice *notice, struct notice_event *event)
{
    bool fails = false;

    event->now_ns = world_now_ns();
    unsigned todo = notice_core_step(&notice->core, event);
    if (todo & NOTICE_TODO_CLOSE)
        hang_up(notice);
    if (todo & NOTICE_TODO_CONNECT)
        fails = !dial(notice);
    if (todo & NOTICE_TODO_WRITE)
        fails = !write_line(notice);
    arm(notice);
    if (todo & NOTICE_TODO_GO)
        notice->config.go(notice->config.data);
    if (fails)
        closed(notice);
}

static void timer_fired(void *data)
{
    struct notice_event event = {.type = NOTICE_EVENT_TICK};

    feed(data, &event);
}

int notice_new(struct notice **ret_notice, const struct notice_config *config, struct fault *fault)
{
    struct notice *notice = calloc(1, sizeof *notice);
    if (!notice)
        return fault_set(fault, ERR_NOMEM, "no memory for a notice");
    notice->config = *config;
    notice->fd = -1;
    int r = loop_timer_new(&notice->timer, config->loop, timer_fired, notice, fault);
    if (r < 0) {
        free(notice);
        return r;
    }
    *ret_notice = notice;
    return 0;
}

struct notice *notice_free(struct notice *notice)
{
    if (notice) {
        hang_up(notice);
        (void)loop_timer_free(notice->timer);
        free(notice);
    }
    return NULL;
}

void notice_prepare(struct notice *notice, enum notice_kind kind, const char *id, uint64_t wait_ms)
{
    struct notice_event event = {
        .type = NOTICE_EVENT_PREPARE, .kind = kind, .id = id, .wait_ms = wait_ms};

    feed(notice, &event);
}

void notice_cancelled(struct notice *notice, enum notice_kind kind, const char *id)
{
    struct notice_event event = {.type = NOTICE_EVENT_CANCELLED, .kind = kind, .id = id};

    feed(notice, &event);
}

void notice_resumed(struct notice *notice, enum notice_kind kind, const char *id,
                    const uint64_t *pause_ms, const char *host)
{
    struct notice_event event = {
        .type = NOTICE_EVENT_RESUMED, .kind = kind, .id = id, .has_pause = pause_ms, .host = host};

    if (pause_ms)
        event.pause_ms = *pause_ms;
    feed(notice, &event);
}

void notice_stop(struct notice *notice)
{
    struct notice_event event = {.type = NOTICE_EVENT_STOP};

    feed(notice, &event);
}
