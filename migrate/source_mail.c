/* What other threads tell the source's own: the opener, the control lane and the lanes put mail,
 * and the move's thread takes it. Who puts is started here too, with the callbacks that do it.
 */
#include "migrate/source_inside.h"

#include <assert.h>

#include "base/err.h"
#include "base/failpoint.h"
#include "migrate/control_lane.h"
#include "migrate/guest.h"
#include "migrate/hot.h"
#include "migrate/lane_opener.h"
#include "migrate/lane_source.h"
#include "migrate/mailbox.h"
#include "net/stream.h"
#include "net/tls_lane.h"
#include "proto/limits.h"

enum { REDIAL_MS = 250 }; /* between two attempts */

/* ---- put by other threads ------------------------------------------------------------------- */

/* The epoch stands still while an opener lives. */
static int open_lane(void *data, unsigned wanted, struct stream **ret_stream,
                     struct tls_lane_name *ret_name, struct fault *fault)
{
    struct source *source = data;
    *ret_name = (struct tls_lane_name){.lane = wanted, .epoch = source->epoch};
    int r = failpoint_check(FAILPOINT_SOURCE_OPEN, fault);
    if (r < 0)
        return r;
    return source->config.open_lane(source->config.data, wanted, source->epoch, ret_stream, fault);
}

static void on_stream(void *data, const struct tls_lane_name *name, struct stream *stream)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_STREAM, .lane = name->lane, .stream = stream};
    if (mailbox_put(source->mailbox, &mail) == MAILBOX_E_CLOSED)
        stream_free(stream);
}

static void on_opener_ended(void *data, const struct fault *fault)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_OPENER_ENDED};
    if (fault)
        mail.fault = *fault;
    (void)mailbox_put(source->mailbox, &mail); /* closed: the move is over anyway */
}

static void on_message(void *data, Godwit__MoveMessage *message)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_MESSAGE, .message = message};
    if (mailbox_put(source->mailbox, &mail) == MAILBOX_E_CLOSED)
        godwit__move_message__free_unpacked(message, NULL);
}

static void on_hot(void *data)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_HOT};
    (void)mailbox_put(source->mailbox, &mail);
}

static bool may_spin(void *data)
{
    (void)data;
    return hot_streams();
}

static void on_lost(void *data, const struct fault *fault)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_LINK_LOST, .fault = *fault};
    (void)mailbox_put(source->mailbox, &mail);
}

static void on_report(void *data, const struct lane_report *report)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_LANE, .report = *report};
    (void)mailbox_put(source->mailbox, &mail);
}

/* ---- who puts it ---------------------------------------------------------------------------- */

int source_mail_open_control(struct source *source, struct fault *fault)
{
    const struct lane_opener_config config = {
        .open = open_lane,
        .on_stream = on_stream,
        .on_ended = on_opener_ended,
        .delay_ms = source->epoch > 1 ? REDIAL_MS : 0,
        .data = source,
    };
    source->opener_ended = false;
    return lane_opener_new(&source->opener, &config, fault);
}

int source_mail_dial(struct source *source, struct fault *fault)
{
    assert(!source->opener && !source->control);
    if (source->epoch == LANE_EPOCH_MAX)
        return fault_set(fault, ERR_LIMIT, "its lanes were opened anew %d times", LANE_EPOCH_MAX);
    source->epoch++;
    source->resume_sent = false;
    int r = source_mail_open_control(source, fault);
    if (r < 0)
        source->epoch--;
    return r;
}

int source_mail_start_lanes(struct source *source, struct fault *fault)
{
    for (unsigned i = 0; i < source->lanes_open; i++) {
        const struct lane_source_config config = {
            .lane = i,
            .regions = source->config.guest->regions,
            .digests = source->digests,
            .deltas = source->deltas,
            .region_count = source->config.guest->region_count,
            .pacer = source->pacer,
            .may_spin = hot_streams(),
            .progress = &source->progress,
            .compress = source->compress,
            .takes_zstd = source->takes_zstd,
            .delta = source->takes_patches ? source->delta : PAGE_DELTA_OFF,
            .batches_max = source->batches_max + 4,
            .digest_sum = source->digest_sums[i],
            .report = on_report,
            .data = source,
        };
        source->receipt.message.cipher = (char *)source->lane_streams[i]->cipher;
        int r = lane_source_new(&source->lanes[i], &config, source->lane_streams[i], fault);
        if (r < 0)
            return r;
        source->lane_streams[i] = NULL;
    }
    source->batches_epoch = source->epoch;
    source->batches_used = 0;
    return 0;
}

/* ---- taken by the move's thread ------------------------------------------------------------- */

static void take_stream(struct source *source, const struct source_mail *mail)
{
    if (mail->lane == TLS_LANE_CONTROL) {
        const struct control_lane_config config = {
            .is_source = true,
            .on_message = on_message,
            .on_hot = on_hot,
            .on_lost = on_lost,
            .may_spin = may_spin,
            .data = source,
        };
        struct fault fault = {0};
        int r = control_lane_new(&source->control, &config, mail->stream, &fault);
        source->control_ended = r < 0;
        if (r < 0) {
            stream_free(mail->stream);
            source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
        } else if (source_current_phase(source) == PHASE_GREET) {
            source_feed_type(source, SOURCE_EVENT_CONTROL_OPEN);
        } else if (source_reconnect_is_away(source)) {
            source_words_send_resume(source);
        }
        return;
    }
    bool serves = source_current_phase(source) == PHASE_POSTCOPY; /* then with its two alone */
    unsigned first_post = serves ? 0 : source->lanes_wanted;
    if (mail->lane >= first_post) {
        unsigned index = mail->lane - first_post;
        assert(index < source->post_wanted && !source->post_streams[index]);
        source->post_streams[index] = mail->stream;
        source->post_open++;
    } else {
        assert(!source->lane_streams[mail->lane]);
        source->lane_streams[mail->lane] = mail->stream;
        source->lanes_open++;
    }
    if (source->post_open < source->post_wanted ||
        (!serves && source->lanes_open < source->lanes_wanted))
        return;
    if (source->epoch == 0)
        source_feed_type(source, SOURCE_EVENT_LANES_OPEN);
    else
        source_reconnect_rejoin(source);
}

static void take_opener_end(struct source *source, const struct fault *fault)
{
    source->opener_ended = true;
    if (source_reconnect_took_end(source) || !fault->code)
        return;
    source_feed_fault(
        source, source_reconnect_is_away(source) ? SOURCE_EVENT_DIAL_FAILED : SOURCE_EVENT_FAILED,
        fault);
}

static void take_link_lost(struct source *source, const struct fault *fault)
{
    source->control_ended = true;
    if (source_reconnect_took_end(source))
        return;
    /* What came was wrong, but our words may still get through. */
    source_feed_fault(
        source, fault->code == ERR_CORRUPT ? SOURCE_EVENT_FAILED : SOURCE_EVENT_LINK_LOST, fault);
}

void source_mail_discard(struct source_mail *mail)
{
    stream_free(mail->stream);
    if (mail->message)
        godwit__move_message__free_unpacked(mail->message, NULL);
}

void source_mail_take(struct source *source, struct source_mail *mail)
{
    switch (mail->type) {
    case MAIL_STREAM:
        take_stream(source, mail);
        mail->stream = NULL;
        break;
    case MAIL_OPENER_ENDED:
        take_opener_end(source, &mail->fault);
        break;
    case MAIL_MESSAGE:
        source_words_take(source, mail->message);
        break;
    case MAIL_HOT:
        source->control_hot = true;
        if (source->standing_by && !source->hanging_up)
            source_rounds_stood_by(source);
        break;
    case MAIL_LINK_LOST:
        take_link_lost(source, &mail->fault);
        break;
    case MAIL_LANE:
        source_rounds_take_report(source, &mail->report);
        break;
    case MAIL_SERVER:
        source_post_take_report(source, mail);
        break;
    }
    source_mail_discard(mail);
}
