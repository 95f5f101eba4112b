#include "agent/vm/notice_core.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/world.h"

static const char *const kinds[] = {
    [NOTICE_KIND_MOVE] = "move",
    [NOTICE_KIND_UPGRADE] = "upgrade",
    [NOTICE_KIND_SUSPEND] = "suspend",
};

static void write_line(struct notice_core *core, const struct notice_event *event)
{
    static const char *const words[] = {[NOTICE_EVENT_PREPARE] = "prepare",
                                        [NOTICE_EVENT_CANCELLED] = "cancelled",
                                        [NOTICE_EVENT_RESUMED] = "resumed"};
    char id[64] = "", more[128] = "";

    if (event->id)
        (void)snprintf(id, sizeof id, " id=%.40s", event->id);
    if (event->type == NOTICE_EVENT_PREPARE)
        (void)snprintf(more, sizeof more, " deadline_ms=%llu", (unsigned long long)event->wait_ms);
    char pause[40] = "";
    if (event->type == NOTICE_EVENT_RESUMED && event->has_pause)
        (void)snprintf(pause, sizeof pause, " pause_ms=%llu", (unsigned long long)event->pause_ms);
    if (event->type == NOTICE_EVENT_RESUMED && event->host)
        (void)snprintf(more, sizeof more, " host=%.64s", event->host);
    (void)snprintf(core->line, sizeof core->line, "%s kind=%s%s%s%s\n", words[event->type],
                   kinds[event->kind], id, pause, more);
    core->about = event->type;
}

/* Who waits for the guest goes on, if anybody does. */
static unsigned let_go(struct notice_core *core)
{
    unsigned todo = core->is_awaited ? NOTICE_TODO_GO : 0;
    core->is_awaited = false;
    return todo;
}

static unsigned drop(struct notice_core *core)
{
    unsigned todo = core->phase == NOTICE_IDLE ? 0 : NOTICE_TODO_CLOSE;
    core->phase = NOTICE_IDLE;
    core->until_ns = core->retry_ns = 0;
    core->answer_count = core->answers_bytes = 0;
    return todo;
}

static unsigned ask(struct notice_core *core, uint64_t now_ns, uint64_t wait_ms)
{
    unsigned todo = drop(core);
    core->phase = NOTICE_ASKING;
    core->until_ns = now_ns + wait_ms * NS_PER_MS;
    core->tries = 1;
    return todo | NOTICE_TODO_CONNECT;
}

static unsigned tell(struct notice_core *core, uint64_t now_ns)
{
    core->phase = NOTICE_TOLD;
    core->was_told = core->about == NOTICE_EVENT_PREPARE;
    if (!core->is_awaited) /* else its time began when it was asked */
        core->until_ns = now_ns + NOTICE_LINGER_MS * NS_PER_MS;
    return NOTICE_TODO_WRITE;
}

static unsigned on_prepare(struct notice_core *core, const struct notice_event *event)
{
    if (core->is_awaited)
        return 0; /* told twice */
    write_line(core, event);
    core->is_awaited = true;
    core->was_told = false;
    return ask(core, event->now_ns, event->wait_ms);
}

static unsigned on_cancelled(struct notice_core *core, const struct notice_event *event)
{
    unsigned todo = let_go(core);
    if (!core->was_told)
        return core->about == NOTICE_EVENT_PREPARE ? todo | drop(core) : todo;
    write_line(core, event);
    if (core->phase == NOTICE_TOLD || core->phase == NOTICE_OPEN)
        return todo | tell(core, event->now_ns);
    core->was_told = false;
    return todo | ask(core, event->now_ns, NOTICE_TELL_MS);
}

static unsigned on_resumed(struct notice_core *core, const struct notice_event *event)
{
    unsigned todo = let_go(core);
    write_line(core, event);
    core->was_told = false;
    return todo | ask(core, event->now_ns, NOTICE_TELL_MS);
}

static unsigned on_stop(struct notice_core *core)
{
    core->was_told = false;
    return drop(core) | let_go(core);
}

/* The connection is over without its answer: once more for what must be known. A guest that has just
 * heard that all its streams are gone may have taken the new one for one of them, and what came by it
 * is lost with it, whether the other end is told or not. */
static unsigned try_again(struct notice_core *core, uint64_t now_ns)
{
    bool again = (core->phase == NOTICE_ASKING || core->phase == NOTICE_TOLD) &&
                 core->about != NOTICE_EVENT_PREPARE && core->tries < NOTICE_TRIES;
    unsigned tries = core->tries;
    unsigned todo = drop(core);

    if (again) {
        core->retry_ns = now_ns + NOTICE_RETRY_MS * NS_PER_MS;
        core->tries = tries + 1;
    }
    return todo;
}

static unsigned on_closed(struct notice_core *core, const struct notice_event *event)
{
    (void)try_again(core, event->now_ns); /* nothing left to close */
    return let_go(core);
}

static unsigned on_answer(struct notice_core *core, const struct notice_event *event)
{
    const char *answer = core->answer;
    bool is_yes = strcmp(answer, "ready") == 0 || strcmp(answer, "ok") == 0;

    switch (core->phase) {
    case NOTICE_ASKING: /* the device's own word: somebody took the connection */
        return strncmp(answer, "OK ", 3) == 0 ? tell(core, event->now_ns) : 0;
    case NOTICE_TOLD:
        if (!is_yes)
            return 0;
        if (core->about != NOTICE_EVENT_PREPARE)
            return drop(core);
        core->phase = NOTICE_OPEN;
        core->until_ns = 0;
        return let_go(core);
    case NOTICE_IDLE:
    case NOTICE_OPEN:
        break;
    }
    return 0;
}

/* It says more than anybody has to say here. */
static unsigned on_flood(struct notice_core *core)
{
    return drop(core) | let_go(core);
}

static unsigned on_bytes(struct notice_core *core, const struct notice_event *event)
{
    unsigned todo = 0;

    for (size_t i = 0; i < event->count && core->phase != NOTICE_IDLE; i++) {
        char byte = (char)event->bytes[i];
        if (++core->answers_bytes > NOTICE_ANSWERS_BYTES_MAX ||
            (byte != '\n' && core->answer_count == NOTICE_ANSWER_MAX))
            return todo | on_flood(core);
        if (byte != '\n') {
            core->answer[core->answer_count++] = byte;
            continue;
        }
        if (core->answer_count && core->answer[core->answer_count - 1] == '\r')
            core->answer_count--;
        core->answer[core->answer_count] = 0;
        core->answer_count = 0;
        todo |= on_answer(core, event);
    }
    return todo;
}

static unsigned on_tick(struct notice_core *core, const struct notice_event *event)
{
    if (core->retry_ns && event->now_ns >= core->retry_ns) {
        unsigned tries = core->tries;
        unsigned todo = ask(core, event->now_ns, NOTICE_TELL_MS);
        core->tries = tries;
        return todo;
    }
    if (!core->until_ns || event->now_ns < core->until_ns)
        return 0;
    unsigned todo = let_go(core);
    if (core->phase == NOTICE_TOLD && core->about == NOTICE_EVENT_PREPARE) {
        core->phase = NOTICE_OPEN; /* it is slow, and may still hear of a cancel */
        core->until_ns = 0;
        return todo;
    }
    return todo | (core->phase == NOTICE_TOLD ? try_again(core, event->now_ns) : drop(core));
}

unsigned notice_core_step(struct notice_core *core, const struct notice_event *event)
{
    switch (event->type) {
    case NOTICE_EVENT_PREPARE:
        return on_prepare(core, event);
    case NOTICE_EVENT_CANCELLED:
        return on_cancelled(core, event);
    case NOTICE_EVENT_RESUMED:
        return on_resumed(core, event);
    case NOTICE_EVENT_STOP:
        return on_stop(core);
    case NOTICE_EVENT_BYTES:
        return on_bytes(core, event);
    case NOTICE_EVENT_CLOSED:
        return on_closed(core, event);
    case NOTICE_EVENT_TICK:
        return on_tick(core, event);
    case NOTICE_EVENT_COUNT:
        break;
    }
    assert(false);
    return 0;
}

uint64_t notice_core_next_ns(const struct notice_core *core)
{
    if (!core->retry_ns || !core->until_ns)
        return core->retry_ns ? core->retry_ns : core->until_ns;
    return core->retry_ns < core->until_ns ? core->retry_ns : core->until_ns;
}
