/* What a guest is told of its own moves, and for how long it is listened to: a pure function of
 * (state, event).
 *
 * Flow:   machine -> notice (shell) -> event -> [notice_core] -> todo bits -> notice (shell)
 * Thread: the loop's; no I/O, no clock: time arrives in the event.
 *
 *   idle --CONNECT--> asking --"OK n"--> told (its line was written) --answer, or its time--> open
 *                        |                  |                                                  |
 *                        +------------------+------ closed, a flood, its time -----------------+-->
 * idle
 *
 * What is told of a pause that is over is told again, NOTICE_TRIES times in all, where the connection
 * ended, or the guest's time for an answer did, before its answer.
 *
 * One line an event (docs/guest-notice.md). The guest is a stranger: nothing that it says or leaves
 * unsaid makes anybody wait longer than wait_ms, and nothing of it is kept but one short line.
 */
#ifndef GODWIT_AGENT_VM_NOTICE_CORE_H
#define GODWIT_AGENT_VM_NOTICE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NOTICE_LINE_SIZE = 256, /* of ours */
    NOTICE_ANSWER_MAX = 64, /* a line of the guest's; who says a longer one is not listened to */
    NOTICE_ANSWERS_BYTES_MAX = 4096, /* of all its lines on one connection */
    NOTICE_TELL_MS = 5000,   /* for what nobody waits for: until the connection is given up */
    NOTICE_LINGER_MS = 1000, /* for its answer to that */
    NOTICE_RETRY_MS = 200,
    NOTICE_TRIES = 3,
};

enum notice_kind { NOTICE_KIND_MOVE, NOTICE_KIND_UPGRADE, NOTICE_KIND_SUSPEND };

enum notice_event_type {
    NOTICE_EVENT_PREPARE,   /* its pause is near: GO follows within wait_ms */
    NOTICE_EVENT_CANCELLED, /* it goes on where it is; nothing is said when it was not told before
                             */
    NOTICE_EVENT_RESUMED,   /* it runs, here */
    NOTICE_EVENT_STOP,      /* the machine goes away */
    NOTICE_EVENT_BYTES,     /* of the connection's */
    NOTICE_EVENT_CLOSED,    /* the connection has ended, or could not begin */
    NOTICE_EVENT_TICK,
    NOTICE_EVENT_COUNT
};

struct notice_event {
    uint64_t now_ns;
    enum notice_event_type type;
    enum notice_kind kind;
    const char *id;   /* of the move, borrowed; NULL: none is told */
    uint64_t wait_ms; /* PREPARE */
    bool has_pause;   /* RESUMED: it is known how long it stood still */
    uint64_t pause_ms;
    const char *host;     /* RESUMED: where it is now, borrowed; NULL: not told */
    const uint8_t *bytes; /* BYTES, borrowed */
    size_t count;
};

/* Carried out lowest bit first. */
enum notice_todo {
    NOTICE_TODO_CLOSE = 1 << 0,
    NOTICE_TODO_CONNECT = 1 << 1, /* anew; CLOSED when it fails */
    NOTICE_TODO_WRITE = 1 << 2,   /* `line` */
    NOTICE_TODO_GO = 1 << 3,      /* who waits for the guest waits no longer */
};

enum notice_phase { NOTICE_IDLE, NOTICE_ASKING, NOTICE_TOLD, NOTICE_OPEN };

struct notice_core {
    enum notice_phase phase;
    enum notice_event_type about; /* what `line` tells */
    char line[NOTICE_LINE_SIZE];  /* with its \n */
    bool is_awaited;              /* GO is owed */
    bool was_told;                /* of a pause that has neither come nor been called off */
    uint64_t until_ns, retry_ns;  /* 0: none */
    unsigned tries;
    char answer[NOTICE_ANSWER_MAX + 1];
    size_t answer_count, answers_bytes;
};

/* Returns NOTICE_TODO_* bits. Any event may come at any time. A zeroed core is idle. */
unsigned notice_core_step(struct notice_core *core, const struct notice_event *event);
/* When it wants to be told of the time; 0: it does not. */
uint64_t notice_core_next_ns(const struct notice_core *core);

#endif
