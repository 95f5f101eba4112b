/* How far a build is, by what its guest says on the console: pure.
 *
 * Flow:   console bytes, the VM's state, time -> [build_core] -> cmd_build
 * Thread: any; no clock, no I/O.
 *
 *   BOOTS --hello--> STEPS --begin N, end N 0 ...--> STEPS --done--> ENDS --the VM is off--> OVER
 *     ` time, an end before its time, a crash, a step's exit code, a step that there is not: FAILED
 *
 * A console that was attached again begins with what it said before, of which the oldest may be
 * missing: words that come twice are passed over, a later word tells what the missing ones were
 * (the guest goes on only after a step that went well), and lines of output that did not come are
 * told as missing. A line that was torn is no word.
 */
#ifndef GODWIT_CLI_BUILD_CORE_H
#define GODWIT_CLI_BUILD_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { BUILD_LINE_MAX = 4096, BUILD_TOKEN_SIZE = 33 };

enum build_state { BUILD_BOOTS, BUILD_STEPS, BUILD_ENDS, BUILD_OVER, BUILD_FAILED };

enum build_news {
    BUILD_NEWS_NONE,
    BUILD_NEWS_HELLO,  /* the guest has begun */
    BUILD_NEWS_BEGIN,  /* step `step` */
    BUILD_NEWS_OUTPUT, /* `text`, of the step that runs; `lost` lines before it did not come */
    BUILD_NEWS_END,    /* step `step` went well */
    BUILD_NEWS_UNTRIMMED, /* its free blocks may hold what was deleted */
    BUILD_NEWS_DONE,   /* it is about to switch itself off */
    BUILD_NEWS_OVER,   /* it is off: the disk can be sealed */
    BUILD_NEWS_FAILED, /* `core.fault` says why */
};

struct build_todo {
    enum build_news news;
    unsigned step;
    uint64_t lost;
    const char *text; /* borrowed until the next call */
};

struct build_core {
    enum build_state state;
    char token[BUILD_TOKEN_SIZE];
    unsigned steps, step; /* step: that runs, or ran last; 0: none yet */
    bool is_in_step, is_untrimmed;
    uint64_t lines; /* of its output */
    uint64_t begun_ms, limit_ms;
    char line[BUILD_LINE_MAX];
    size_t line_used;
    struct fault fault;
};

/* `token`: 1 to BUILD_TOKEN_SIZE - 1 letters. */
void build_core_init(struct build_core *core, const char *token, unsigned steps, uint64_t now_ms,
                     uint64_t limit_ms);
/* Takes bytes until one of them makes news; gives how many it took. */
size_t build_core_take(struct build_core *core, const uint8_t *bytes, size_t count,
                       struct build_todo *ret_todo);
/* What comes next is no continuation of what came: the line that was begun is given up. */
void build_core_attached(struct build_core *core);
/* The VM is off, or (`is_crash`) crashed or gone, when not all that it wrote may be on its disk; `reason`
 * in words. */
void build_core_ended(struct build_core *core, bool is_crash, const char *reason,
                      struct build_todo *ret_todo);
void build_core_tick(struct build_core *core, uint64_t now_ms, struct build_todo *ret_todo);

#endif
