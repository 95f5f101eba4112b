/* Places where a test may let something go wrong, by name, and what may be done there.
 *
 * Flow:   a test's spec -> [failpoint] -> migrate, agent/vm, agent/backend_libvirt
 * Thread: any; one mutex, taken only while something is armed.
 *
 * A point costs one load and one branch that is never taken: nothing is armed but by the process's
 * own descriptor that its agent gave it in test mode (`godwit-vm --failpoints`, from the agent's
 * environment GODWIT_FAILPOINTS, which arms the agent's own points too), or by a test that links
 * the room. No message of a peer, of the
 * pool or of a guest comes here.
 *
 * A spec is lines of NAME=ACTION, each with :MILLISECONDS for a delay and @N for the N-th time that
 * the point is reached (1). Each fires once. Where the descriptor can be written, a line "hit NAME
 * ACTION" is put behind the spec before the action is taken; a line whose hit is there is spent.
 */
#ifndef GODWIT_BASE_FAILPOINT_H
#define GODWIT_BASE_FAILPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct fault;

enum failpoint_action {
    FAILPOINT_NONE = 0,
    FAILPOINT_KILL = 1,       /* SIGKILL to this process */
    FAILPOINT_ERROR = 2,      /* the call fails with ERR_IO and the point's name */
    FAILPOINT_DELAY = 4,      /* the thread stands still for a while */
    FAILPOINT_DROP = 8,       /* what was to be done is not done, and nobody is told */
    FAILPOINT_DUPLICATE = 16, /* it is done twice */
    FAILPOINT_TRUNCATE = 32,  /* half of it is done */
};

#define FAILPOINT_ACT (FAILPOINT_KILL | FAILPOINT_DELAY) /* cannot fail, cannot be left out */
#define FAILPOINT_CALL (FAILPOINT_ACT | FAILPOINT_ERROR)
#define FAILPOINT_BYTES (FAILPOINT_CALL | FAILPOINT_DROP | FAILPOINT_DUPLICATE | FAILPOINT_TRUNCATE)

/* Whose guest a kill at the point ends: it is nowhere else, so it ends with its process and is told
 * as crashed. Everywhere else the guest has to live on. */
enum failpoint_kill { FAILPOINT_SPARES, FAILPOINT_ENDS };

/* symbol, name, actions, whether a kill ends the guest */
#define FAILPOINT_TABLE(X)                                                                         \
    /* the control lane's messages, at the end that sends them */                                  \
    X(SOURCE_HELLO, "source.hello", FAILPOINT_BYTES, ENDS)                                         \
    X(SOURCE_EXTENTS, "source.extents", FAILPOINT_BYTES, ENDS)                                     \
    X(SOURCE_EXTENTS_END, "source.extents_end", FAILPOINT_BYTES, ENDS)                             \
    X(SOURCE_HOT, "source.hot", FAILPOINT_BYTES, ENDS)                                             \
    X(SOURCE_STATE, "source.state", FAILPOINT_BYTES, ENDS)                                         \
    X(SOURCE_TRANSFER, "source.transfer", FAILPOINT_BYTES, SPARES)                                 \
    X(SOURCE_ABORT, "source.abort", FAILPOINT_BYTES, ENDS)                                         \
    X(TARGET_WELCOME, "target.welcome", FAILPOINT_BYTES, SPARES)                                   \
    X(TARGET_PREPARED, "target.prepared", FAILPOINT_BYTES, SPARES)                                 \
    X(TARGET_HOT, "target.hot", FAILPOINT_BYTES, SPARES)                                           \
    X(TARGET_READY, "target.ready", FAILPOINT_BYTES, SPARES)                                       \
    X(TARGET_STARTED, "target.started", FAILPOINT_BYTES, ENDS)                                     \
    X(TARGET_ABANDONED, "target.abandoned", FAILPOINT_BYTES, SPARES)                               \
    /* ... and after a lane was lost */                                                            \
    X(SOURCE_LANES_AGAIN, "source.lanes_again", FAILPOINT_BYTES, ENDS)                             \
    X(TARGET_MARKS, "target.marks", FAILPOINT_BYTES, SPARES)                                       \
    /* lanes */                                                                                    \
    X(SOURCE_OPEN, "source.open", FAILPOINT_CALL, ENDS)                                            \
    X(TARGET_ACCEPT, "target.accept", FAILPOINT_CALL, SPARES)                                      \
    X(SOURCE_CLEAR, "source.clear", FAILPOINT_CALL, ENDS)                                          \
    X(SOURCE_FRAME, "source.frame", FAILPOINT_BYTES, ENDS)                                         \
    X(SOURCE_FENCE, "source.fence", FAILPOINT_BYTES, ENDS)                                         \
    X(TARGET_READ, "target.read", FAILPOINT_CALL, SPARES)                                          \
    X(TARGET_PLACE, "target.place", FAILPOINT_CALL, SPARES)                                        \
    X(TARGET_ANSWER, "target.answer", FAILPOINT_BYTES, SPARES)                                     \
    /* post-copy */                                                                                \
    X(TARGET_FAULTS_OPEN, "target.faults_open", FAILPOINT_CALL, SPARES)                            \
    X(SOURCE_MISSING, "source.missing", FAILPOINT_BYTES, ENDS)                                     \
    X(TARGET_GIVE_UP, "target.give_up", FAILPOINT_CALL, SPARES)                                    \
    X(TARGET_ASK, "target.ask", FAILPOINT_BYTES, ENDS)                                             \
    X(SOURCE_ASKED, "source.asked", FAILPOINT_BYTES, ENDS)                                         \
    X(SOURCE_PUSH, "source.push", FAILPOINT_BYTES, ENDS)                                           \
    X(TARGET_LAY, "target.lay", FAILPOINT_CALL, ENDS)                                              \
    X(TARGET_STILL_MISSING, "target.still_missing", FAILPOINT_BYTES, ENDS)                         \
    X(TARGET_FETCHED, "target.fetched", FAILPOINT_BYTES, ENDS)                                     \
    X(SOURCE_SERVED, "source.served", FAILPOINT_BYTES, SPARES)                                     \
    /* memory and machine */                                                                       \
    X(SOURCE_POPULATED, "source.populated", FAILPOINT_CALL, ENDS)                                  \
    X(TARGET_POPULATE, "target.populate", FAILPOINT_CALL, SPARES)                                  \
    X(SOURCE_TRACK, "source.track", FAILPOINT_CALL, ENDS)                                          \
    X(SOURCE_COLLECT, "source.collect", FAILPOINT_CALL, ENDS)                                      \
    X(SOURCE_PAUSE, "source.pause", FAILPOINT_CALL, ENDS)                                          \
    X(SOURCE_SAVE, "source.save", FAILPOINT_CALL | FAILPOINT_TRUNCATE, ENDS)                       \
    X(TARGET_LOAD, "target.load", FAILPOINT_CALL, SPARES)                                          \
    X(TARGET_RESUME, "target.resume", FAILPOINT_ACT, ENDS)                                         \
    X(SOURCE_RESUME, "source.resume", FAILPOINT_ACT, ENDS)                                         \
    /* latches: before and after they are as durable as the guest's memory */                      \
    X(SOURCE_BEFORE_GAVE, "source.before_gave", FAILPOINT_ACT, ENDS)                               \
    X(SOURCE_AFTER_GAVE, "source.after_gave", FAILPOINT_ACT, SPARES)                               \
    X(SOURCE_BEFORE_RELEASED, "source.before_released", FAILPOINT_ACT, SPARES)                     \
    X(SOURCE_BEFORE_ABORTED, "source.before_aborted", FAILPOINT_ACT, ENDS)                         \
    X(TARGET_BEFORE_READY, "target.before_ready", FAILPOINT_ACT, SPARES)                           \
    X(TARGET_BEFORE_TOOK, "target.before_took", FAILPOINT_ACT, SPARES)                             \
    X(TARGET_AFTER_TOOK, "target.after_took", FAILPOINT_ACT, ENDS)                                 \
    X(TARGET_BEFORE_ABANDONED, "target.before_abandoned", FAILPOINT_ACT, SPARES)                   \
    /* the VM's process and its agent */                                                           \
    X(VM_CREATE, "vm.create", FAILPOINT_CALL, SPARES)                                              \
    X(VM_MOVE_OUT, "vm.move_out", FAILPOINT_CALL, ENDS)                                            \
    X(VM_MOVE_IN, "vm.move_in", FAILPOINT_CALL, SPARES)                                            \
    X(VM_CONNECT, "vm.connect", FAILPOINT_CALL, ENDS)                                              \
    X(VM_ACCEPT, "vm.accept", FAILPOINT_ACT | FAILPOINT_DROP, SPARES)                              \
    X(VM_TELL_LATCH, "vm.tell_latch", FAILPOINT_DELAY | FAILPOINT_DROP | FAILPOINT_DUPLICATE,      \
      SPARES)                                                                                      \
    X(VM_TELL_PROGRESS, "vm.tell_progress",                                                        \
      FAILPOINT_DELAY | FAILPOINT_DROP | FAILPOINT_DUPLICATE, SPARES)                              \
    X(VM_TELL_ENDED, "vm.tell_ended", FAILPOINT_DELAY, SPARES)                                     \
    X(VM_EVENT, "vm.event", FAILPOINT_DELAY | FAILPOINT_DROP | FAILPOINT_DUPLICATE, SPARES)        \
    X(VM_SAVE, "vm.save", FAILPOINT_CALL | FAILPOINT_TRUNCATE, ENDS)                               \
    X(VM_LOAD, "vm.load", FAILPOINT_CALL | FAILPOINT_TRUNCATE, SPARES)                             \
    X(VM_LATCH_TORN, "vm.latch_torn", FAILPOINT_KILL, ENDS)                                        \
    /* a guest that runs while its memory still comes out of a file */                            \
    X(PAGER_READ, "pager.read", FAILPOINT_CALL, ENDS)                                              \
    /* a disk that goes to another store */                                                        \
    X(MIRROR_WRITE, "mirror.write", FAILPOINT_CALL, ENDS)                                          \
    /* the agent, where it moves a libvirt domain: its guest is QEMU's, and lives on */            \
    X(DOMAIN_BEFORE_OUT, "domain.before_out", FAILPOINT_ACT, SPARES)                               \
    X(DOMAIN_MIGRATE, "domain.migrate", FAILPOINT_ACT, SPARES)                                     \
    X(DOMAIN_STOPPED, "domain.stopped", FAILPOINT_ACT, SPARES)                                     \
    X(DOMAIN_BEFORE_GAVE, "domain.before_gave", FAILPOINT_ACT, SPARES)                             \
    X(DOMAIN_AFTER_GAVE, "domain.after_gave", FAILPOINT_ACT, SPARES)                               \
    X(DOMAIN_BEFORE_RELEASED, "domain.before_released", FAILPOINT_ACT, SPARES)                     \
    X(DOMAIN_BEFORE_IN, "domain.before_in", FAILPOINT_ACT, SPARES)                                 \
    X(DOMAIN_BEFORE_READY, "domain.before_ready", FAILPOINT_ACT, SPARES)                           \
    X(DOMAIN_BEFORE_TOOK, "domain.before_took", FAILPOINT_ACT, SPARES)                             \
    X(DOMAIN_AFTER_TOOK, "domain.after_took", FAILPOINT_ACT, SPARES)

enum failpoint_id {
#define FAILPOINT_ENUM(symbol, name, actions, kill) FAILPOINT_##symbol,
    FAILPOINT_TABLE(FAILPOINT_ENUM)
#undef FAILPOINT_ENUM
        FAILPOINT_COUNT
};

enum {
    FAILPOINT_ARMED_MAX = 16,
    FAILPOINT_SPEC_MAX = 4096,
    FAILPOINT_DELAY_MS = 50,
    FAILPOINT_DELAY_MS_MAX = 50000
};

/* Arm what the text says, and nothing else; "" disarms. Nothing changes unless it returns 0. */
int failpoint_arm(const char *spec, struct fault *fault);

/* Where the spec stands from now on, and hits go: borrowed for ever. -1: nowhere. */
void failpoint_set_file(int fd);
/* Read the spec anew; without a file nothing happens. */
int failpoint_reload(struct fault *fault);

/* How often something fired at the point in this process. */
unsigned failpoint_hits(enum failpoint_id id);
const char *failpoint_name(enum failpoint_id id);
unsigned failpoint_actions(enum failpoint_id id);
enum failpoint_kill failpoint_killed(enum failpoint_id id);
const char *failpoint_action_name(enum failpoint_action action);
/* One line a point: name, actions, "spares" or "ends". */
void failpoint_print(FILE *out);

/* ---- at the points ---- */

extern bool failpoint_is_armed; /* atomic; false but in tests */

enum failpoint_action failpoint_fire(enum failpoint_id id);

/* What the caller has to do other than usual. A kill and a delay are done here, and an armed delay
 * is NONE to the caller. */
static inline enum failpoint_action failpoint(enum failpoint_id id)
{
    if (__builtin_expect(!__atomic_load_n(&failpoint_is_armed, __ATOMIC_RELAXED), 1))
        return FAILPOINT_NONE;
    return failpoint_fire(id);
}

int failpoint_fail(enum failpoint_id id, struct fault *fault);

/* Where only an error may be told: 0 or ERR_IO. */
static inline int failpoint_check(enum failpoint_id id, struct fault *fault)
{
    return failpoint(id) == FAILPOINT_ERROR ? failpoint_fail(id, fault) : 0;
}

#endif
