/* One move of this process's guest, as source or as target: sockets become lanes, what the move's
 * thread tells becomes events on the loop.
 *
 * Flow:   machine -> [move] -> migrate/source, migrate/target;  net/tls_lane -> [move]
 * Thread: new, verdict, free on the loop's; on_latch on the move's own; the other callbacks on the
 *         loop's.
 *
 * The one-time key lives as long as the move's threads: lanes that are lost in pre-copy are opened
 * again with it. It opens lanes only: each has a secret of its own by (EC)DHE. A stranger that
 * connects to the target's socket is turned away and costs no more than MOVE_HANDSHAKE_MS_MAX.
 */
#ifndef GODWIT_AGENT_VM_MOVE_H
#define GODWIT_AGENT_VM_MOVE_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/phase.h"
#include "proto/vm.pb-c.h"

struct fault;
struct guest;
struct loop;
struct move;

enum { MOVE_HANDSHAKE_MS_MAX = 4000 };

struct move_config {
    struct loop *loop;
    struct guest *guest; /* borrowed, must outlive the move */
    const char *vm_id;   /* borrowed, must outlive the move */
    /* Move's thread: when it returns, the latch is as durable as the guest's memory. */
    void (*on_latch)(void *data, Godwit__Latch latch);
    /* Move's thread: as target_config.on_lost. */
    void (*on_lost)(void *data, const struct fault *fault);
    /* Loop: a latch (has_latch), progress, or a wish for sockets (has_lanes_wanted, answered by
     * move_take_sockets); borrowed. */
    void (*on_event)(void *data, const Godwit__MoveEvent *event);
    /* Loop: the pause of a move out is near; move_noticed answers, or notice_ms_max passes. */
    uint64_t notice_ms_max; /* 0: not wanted */
    void (*on_notice)(void *data);
    /* Loop, once: DONE or ROLLED_BACK. The move may be freed in it. */
    void (*on_ended)(void *data, enum phase phase, const Godwit__MoveEvent *event);
    void *data;
};

/* fds: control, lane 0, lane 1 ... connected; taken when it returns 0. */
int move_new_source(struct move **ret_move, const struct move_config *config,
                    const Godwit__MoveOut *order, const int *fds, size_t fd_count,
                    struct fault *fault);
/* listen_fd is taken when it returns 0. */
int move_new_target(struct move **ret_move, const struct move_config *config,
                    const Godwit__MoveIn *order, int listen_fd, struct fault *fault);
struct move *move_free(struct move *move); /* joins the move's threads */

const char *move_id_of(const struct move *move);
uint64_t move_generation(const struct move *move);
bool move_is_source(const struct move *move);
/* As source_verdict and target_verdict: obeyed where the rules of SWITCHOVER allow it. */
int move_verdict(struct move *move, Godwit__MoveVerdictKind kind, uint64_t generation,
                 const char *reason, struct fault *fault);

/* What on_event asked for by lanes_wanted: the sockets of this epoch, or why there are none. True
 * when the sockets were taken; else nobody awaits them. */
bool move_take_sockets(struct move *move, unsigned epoch, const int *fds, size_t fd_count,
                       const struct fault *fault);

/* As source_noticed; nothing at a target. */
void move_noticed(struct move *move);

/* As source_tune; a target has no goals. */
int move_tune(struct move *move, const Godwit__MoveGoals *goals, struct fault *fault);

#endif
