/* The target's part when lanes are lost in pre-copy: it ends what is left of them, keeps what they
 * brought, and waits for the source to come anew.
 *
 *      a lane breaks -> hang up -> no lane's thread is left, their sockets are closed: the source
 * sees it control lane of a later epoch -> the old one ends -> resume -> resumed, with the marks ->
 * lanes
 *
 * The old control lane is read until then: what the source says there last (an abort, or a state:
 * then it was already in the pause) still counts.
 */
#include "migrate/target_inside.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "migrate/control_lane.h"
#include "migrate/guest.h"
#include "net/stream.h"
#include "net/tls_lane.h"

bool target_reconnect_is_away(struct target *target)
{
    pthread_mutex_lock(&target->mutex);
    bool away = target->core.away && !target->core.ended;
    pthread_mutex_unlock(&target->mutex);
    return away;
}

static void free_lanes(struct target *target)
{
    for (unsigned i = 0; i < LANES_MAX; i++) {
        if (!target->lanes[i])
            continue;
        target->before_cpu_ns += target->lane_cpu_ns[i];
        target->lane_cpu_ns[i] = 0;
        lane_target_mark(target->lanes[i], &target->marks[i]);
        target->lanes[i] = lane_target_free(target->lanes[i]);
    }
    target->lanes_open = target->lanes_ended = target->lanes_last = 0;
    target_post_hang_up(target);
}

static void free_control(struct target *target)
{
    if (target->control)
        target->before_cpu_ns += control_lane_cpu_ns(target->control);
    target->control = control_lane_free(target->control);
}

/* With the old lanes gone and the old control lane silent the next one is read. */
static void use_next_control(struct target *target)
{
    struct fault fault = {0};
    if (target->hanging_up || !target->next_control)
        return;
    if (target->control && !target->control_ended) {
        control_lane_interrupt(target->control);
        return;
    }
    free_control(target);
    target->epoch = target->next_epoch;
    target->resume_awaited = true;
    target->hot_answered = false;
    target->hot_until_ns = 0;
    int r = target_mail_use_control(target, target->next_control, &fault);
    if (r < 0) {
        target->next_control = stream_free(target->next_control); /* the source sees it */
        target_feed_fault(target, TARGET_EVENT_FAILED, &fault);
        return;
    }
    target->next_control = NULL;
}

bool target_reconnect_took_end(struct target *target)
{
    bool expected = target->hanging_up || target->next_control;
    if (target->hanging_up && target->lanes_ended == target->lanes_open &&
        target_post_has_ended(target)) {
        free_lanes(target);
        target->hanging_up = false;
    }
    use_next_control(target);
    return expected;
}

void target_reconnect_hang_up(struct target *target)
{
    for (unsigned i = 0; i < LANES_MAX; i++) {
        if (target->lanes[i])
            lane_target_interrupt(target->lanes[i]);
    }
    target_post_interrupt(target);
    /* A source that waits for our word there has to see it: that it has ended, or, in post-copy
     * without a lane that would tell, that it ends now. */
    if (target->control_ended)
        free_control(target);
    else if (target->control && target_current_phase(target) == PHASE_POSTCOPY &&
             !target_post_has_lanes(target))
        control_lane_interrupt(target->control);
    target->hanging_up = true;
    (void)target_reconnect_took_end(target);
}

/* Only who holds the move's key gets here. What does not fit is a stream of an attempt that the
 * source has given up. */
void target_reconnect_take_stream(struct target *target, struct target_mail *mail)
{
    enum phase phase = target_current_phase(target);
    if (mail->lane != TLS_LANE_CONTROL || mail->epoch <= target->epoch ||
        mail->epoch <= target->next_epoch ||
        (phase != PHASE_PRECOPY && phase != PHASE_POSTCOPY)) {
        log_debug("target", "a lane of epoch %u is not awaited vm=%s move=%s", mail->epoch,
                  target->config.guest->vm_id, target->move_id);
        return; /* it is freed with the mail */
    }
    stream_free(target->next_control);
    target->next_control = mail->stream;
    target->next_epoch = mail->epoch;
    mail->stream = NULL;
    struct fault fault = {0};
    (void)fault_set(&fault, ERR_CLOSED, "the source came anew");
    target_feed_fault(target, TARGET_EVENT_LANE_LOST, &fault);
}

void target_reconnect_take_resume(struct target *target, const Godwit__MoveResume *resume)
{
    struct fault fault = {0};
    int r = 0;
    if (!target_reconnect_is_away(target) || !target->resume_awaited)
        r = fault_set(&fault, ERR_CORRUPT, "the source said 'resume' out of turn");
    else if (strcmp(resume->move_id, target->move_id) != 0 ||
             resume->generation != target->config.generation || resume->epoch != target->epoch)
        r = fault_set(&fault, ERR_REFUSED,
                      "move '%.40s', generation %llu, epoch %u is not the one "
                      "awaited",
                      resume->move_id, (unsigned long long)resume->generation, resume->epoch);
    if (r < 0) {
        target_feed_fault(target, TARGET_EVENT_FAILED, &fault);
        return;
    }
    target->resume_awaited = false;
    target_words_send_resumed(target);
}
