/* What other threads tell the target's own: the opener, the control lane, the lanes and populate
 * put mail, and the move's thread takes it. Who puts is started here too, with the callbacks that
 * do it.
 */
#include "migrate/target_inside.h"

#include "base/err.h"
#include "base/log.h"
#include "base/failpoint.h"
#include "base/world.h"
#include "migrate/control_lane.h"
#include "migrate/guest.h"
#include "migrate/hot.h"
#include "migrate/lane_opener.h"
#include "migrate/lane_target.h"
#include "migrate/mailbox.h"
#include "migrate/populate.h"
#include "migrate/watch.h"
#include "net/stream.h"
#include "net/tls_lane.h"
#include "proto/limits.h"

/* ---- put by other threads ------------------------------------------------------------------- */

static int accept_lane(void *data, unsigned wanted, struct stream **ret_stream,
                       struct tls_lane_name *ret_name, struct fault *fault)
{
    struct target *target = data;
    int r = failpoint_check(FAILPOINT_TARGET_ACCEPT, fault);
    if (r < 0)
        return r;
    uint64_t ms = wanted == TLS_LANE_CONTROL ? CONNECT_MS_MAX + GREET_MS_MAX : PREPARE_MS_MAX;
    return target->config.accept_lane(target->config.data, ms, ret_stream, ret_name, fault);
}

static void on_stream(void *data, const struct tls_lane_name *name, struct stream *stream)
{
    struct target *target = data;
    struct target_mail mail = {
        .type = MAIL_STREAM, .lane = name->lane, .epoch = name->epoch, .stream = stream};
    if (mailbox_put(target->mailbox, &mail) == MAILBOX_E_CLOSED)
        stream_free(stream);
}

static void on_opener_ended(void *data, const struct fault *fault)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_OPENER_ENDED};
    if (fault)
        mail.fault = *fault;
    (void)mailbox_put(target->mailbox, &mail); /* closed: the move is over anyway */
}

static void on_message(void *data, Godwit__MoveMessage *message)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_MESSAGE, .message = message};
    if (mailbox_put(target->mailbox, &mail) == MAILBOX_E_CLOSED)
        godwit__move_message__free_unpacked(message, NULL);
}

static void on_hot(void *data)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_HOT};
    (void)mailbox_put(target->mailbox, &mail);
}

static bool may_spin(void *data)
{
    (void)data;
    return hot_streams();
}

static void on_lost(void *data, const struct fault *fault)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_LINK_LOST, .fault = *fault};
    (void)mailbox_put(target->mailbox, &mail);
}

static void on_report(void *data, const struct lane_report *report)
{
    struct target *target = data;
    struct target_mail mail = {.type = MAIL_LANE, .report = *report};
    (void)mailbox_put(target->mailbox, &mail);
}

static void on_populated(void *data, const struct fault *fault, uint64_t duration_ns,
                         uint64_t cpu_ns)
{
    struct target *target = data;
    struct target_mail mail = {
        .type = MAIL_POPULATED, .populate_ns = duration_ns, .cpu_ns = cpu_ns};
    if (fault)
        mail.fault = *fault;
    (void)mailbox_put(target->mailbox, &mail);
}

/* ---- who puts it ---------------------------------------------------------------------------- */

int target_mail_accept_lanes(struct target *target, struct fault *fault)
{
    const struct lane_opener_config config = {.open = accept_lane,
                                              .on_stream = on_stream,
                                              .on_ended = on_opener_ended,
                                              .data = target,
                                              .stays = true};
    return lane_opener_new(&target->opener, &config, fault);
}

int target_mail_populate(struct target *target, struct fault *fault)
{
    const struct populate_config config = {
        .regions = target->config.guest->regions,
        .wanted = target->wanted,
        .region_count = target->config.guest->region_count,
        .done = on_populated,
        .data = target,
    };
    return populate_new(&target->populate, &config, fault);
}

/* ---- taken by the move's thread ------------------------------------------------------------- */

int target_mail_use_control(struct target *target, struct stream *stream, struct fault *fault)
{
    const struct control_lane_config config = {

        .on_message = on_message,
        .on_hot = on_hot,
        .on_lost = on_lost,
        .may_spin = may_spin,
        .data = target,
    };
    int r = control_lane_new(&target->control, &config, stream, fault);
    target->control_ended = r < 0;
    return r;
}

static int take_control(struct target *target, struct target_mail *mail, struct fault *fault)
{
    if (target->control)
        return fault_set(fault, ERR_CORRUPT, "a second control lane arrived");
    int r = target_mail_use_control(target, mail->stream, fault);
    if (r < 0)
        return r;
    mail->stream = NULL;
    return 0;
}

static int lane_has_come(struct target *target, struct fault *fault)
{
    bool fetches = target_current_phase(target) == PHASE_POSTCOPY;
    if (target->post_open < target->post_wanted ||
        (!fetches && target->lanes_open < target->lanes_wanted))
        return 0;
    int r = fetches ? target_post_rejoin(target, fault) : 0;
    if (r < 0)
        return r;
    if (target_reconnect_is_away(target))
        target_feed_type(target, TARGET_EVENT_REJOINED);
    else if (target_current_phase(target) == PHASE_PREPARE)
        target_feed_type(target, TARGET_EVENT_LANES_OPEN);
    return 0;
}

static int take_lane(struct target *target, struct target_mail *mail, struct fault *fault)
{
    bool fetches = target_current_phase(target) == PHASE_POSTCOPY; /* then by its two alone */
    unsigned first_post = fetches ? 0 : target->lanes_wanted;
    if (target->post_wanted && mail->lane >= first_post) {
        int r = target_post_take_lane(target, mail->lane - first_post, &mail->stream, fault);
        return r < 0 ? r : lane_has_come(target, fault);
    }
    if (mail->lane >= target->lanes_wanted || target->lanes[mail->lane])
        return fault_set(fault, ERR_CORRUPT, "lane %u arrived, and there are %u", mail->lane,
                         target->lanes_wanted);
    const struct lane_target_config config = {
        .lane = mail->lane,
        .regions = target->config.guest->regions,
        .digests = target->digests,
        .region_count = target->config.guest->region_count,
        .plan = &target->plan,
        .frames_allowed = &target->frames_allowed,
        .may_spin = hot_streams(),
        .progress = &target->progress,
        .before = target->epoch ? &target->marks[mail->lane] : NULL,
        .report = on_report,
        .data = target,
    };
    int r = lane_target_new(&target->lanes[mail->lane], &config, mail->stream, fault);
    if (r < 0)
        return r;
    mail->stream = NULL;
    target->mark_epochs[mail->lane] = target->epoch;
    target->lanes_open++;
    return lane_has_come(target, fault);
}

static void take_stream(struct target *target, struct target_mail *mail)
{
    struct fault fault = {0};
    if (mail->epoch > 0 &&
        (mail->lane == TLS_LANE_CONTROL || mail->epoch != target->epoch || target->resume_awaited ||
         target->hanging_up || target->control_ended || !target_reconnect_is_away(target))) {
        target_reconnect_take_stream(target, mail);
        return;
    }
    int r = mail->lane == TLS_LANE_CONTROL ? take_control(target, mail, &fault)
                                           : take_lane(target, mail, &fault);
    if (r < 0)
        target_feed_fault(target, TARGET_EVENT_FAILED, &fault);
}

static void take_report(struct target *target, const struct lane_report *report)
{
    target->activity++;
    target->digest_sums[report->lane] = report->digest_sum;
    target->lane_cpu_ns[report->lane] = report->cpu_ns;
    if (report->type == LANE_REPORT_FAILED || report->type == LANE_REPORT_LAST)
        target->lanes_ended++;
    bool is_link = report->link_lost || report->fault.code == ERR_CANCELED;
    if (report->type == LANE_REPORT_FAILED) {
        /* The last fence of another lane came: the source's guest stands, and it turns back. */
        if (!target_reconnect_took_end(target) || !is_link)
            target_feed_fault(target,
                              is_link && target->lanes_last == 0 ? TARGET_EVENT_LANE_LOST
                                                                 : TARGET_EVENT_FAILED,
                              &report->fault);
    } else if (target->hanging_up) {
        (void)target_reconnect_took_end(target); /* said before it heard of it */
    } else if (report->type == LANE_REPORT_HOT) {
        target->hot_until_ns = world_now_ns() + LANE_HOT_NS;
    } else if (report->type == LANE_REPORT_LAST && ++target->lanes_last == target->lanes_wanted) {
        enum phase phase = target_current_phase(target);
        if (phase == PHASE_PRECOPY || phase == PHASE_DRAIN)
            target_feed_type(target, TARGET_EVENT_DRAINED);
    }
}

static void take_populated(struct target *target, const struct target_mail *mail)
{
    target->populate_ns = mail->populate_ns;
    target->populate_cpu_ns = mail->cpu_ns;
    struct fault fault = mail->fault;
    if (fault.code) {
        (void)fault_wrap(&fault, fault.code, "giving the guest its memory");
        target_feed_fault(target, TARGET_EVENT_FAILED, &fault);
    } else if (target_current_phase(target) == PHASE_PREPARE) {
        target_feed_type(target, TARGET_EVENT_POPULATED);
    }
}

static void take_hot(struct target *target)
{
    target->hot_until_ns = world_now_ns() + LANE_HOT_NS;
    if (target->hot_answered) /* one answer is owed, whatever a peer sends */
        return;
    target->hot_answered = true;
    struct fault fault = {0};
    watch_arm(target->watch, target_current_deadline(target));
    int r = control_lane_send_hot(target->control, &fault);
    watch_disarm(target->watch);
    if (r < 0)
        target_feed_fault(target, TARGET_EVENT_LINK_LOST, &fault);
}

void target_mail_discard(struct target_mail *mail)
{
    stream_free(mail->stream);
    if (mail->message)
        godwit__move_message__free_unpacked(mail->message, NULL);
}

void target_mail_take(struct target *target, struct target_mail *mail)
{
    switch (mail->type) {
    case MAIL_STREAM:
        take_stream(target, mail);
        break;
    case MAIL_OPENER_ENDED:
        if (mail->fault.code && target_current_phase(target) == PHASE_POSTCOPY)
            log_warn("target", "no lane can come any more: %s vm=%s move=%s", mail->fault.text,
                     target->config.guest->vm_id, target->move_id);
        else if (mail->fault.code)
            target_feed_fault(target, TARGET_EVENT_FAILED, &mail->fault);
        break;
    case MAIL_MESSAGE:
        target_words_take(target, mail);
        break;
    case MAIL_HOT:
        take_hot(target);
        break;
    case MAIL_LINK_LOST:
        target->control_ended = true;
        if (target->next_control) { /* it made room */
            (void)target_reconnect_took_end(target);
            break;
        }
        /* What came was wrong, but our words may still get through. At READY the right to run may
         * yet come by relay. */
        target_feed_fault(target,
                          mail->fault.code == ERR_CORRUPT &&
                                  target_current_phase(target) != PHASE_HANDOVER &&
                                  target_current_phase(target) != PHASE_POSTCOPY
                              ? TARGET_EVENT_FAILED
                              : TARGET_EVENT_LINK_LOST,
                          &mail->fault);
        break;
    case MAIL_LANE:
        take_report(target, &mail->report);
        break;
    case MAIL_POPULATED:
        take_populated(target, mail);
        break;
    case MAIL_FETCH_ENDED:
    case MAIL_FETCH_FAILED:
    case MAIL_FETCH_ALL:
        target_post_take_mail(target, mail);
        break;
    case MAIL_GUEST:
        target_post_take_step(target, mail);
        break;
    }
    target_mail_discard(mail);
}
