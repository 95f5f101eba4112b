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

/* ---- put by other threads ------------------------------------------------------------------- */

static int open_lane(void *data, unsigned wanted, struct stream **ret_stream, unsigned *ret_lane,
                     struct fault *fault)
{
    struct source *source = data;
    *ret_lane = wanted;
    int r = failpoint_check(FAILPOINT_SOURCE_OPEN, fault);
    if (r < 0)
        return r;
    return source->config.open_lane(source->config.data, wanted, ret_stream, fault);
}

static void on_stream(void *data, unsigned lane, struct stream *stream)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_STREAM, .lane = lane, .stream = stream};
    if (mailbox_put(source->mailbox, &mail) == MAILBOX_E_CLOSED)
        stream_free(stream);
}

static void on_open_failed(void *data, const struct fault *fault)
{
    struct source *source = data;
    struct source_mail mail = {.type = MAIL_OPEN_FAILED, .fault = *fault};
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
        .open = open_lane, .on_stream = on_stream, .on_failed = on_open_failed, .data = source};
    return lane_opener_new(&source->opener, &config, fault);
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
            .delta = source->takes_patches ? source->delta : PAGE_DELTA_OFF,
            .batches_max = source->batches_max + 4,
            .report = on_report,
            .data = source,
        };
        source->receipt.message.cipher = (char *)source->lane_streams[i]->cipher;
        int r = lane_source_new(&source->lanes[i], &config, source->lane_streams[i], fault);
        if (r < 0)
            return r;
        source->lane_streams[i] = NULL;
    }
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
        if (r < 0) {
            stream_free(mail->stream);
            source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
        } else if (source_current_phase(source) == PHASE_GREET) {
            source_feed_type(source, SOURCE_EVENT_CONTROL_OPEN);
        }
        return;
    }
    assert(mail->lane < LANES_MAX && !source->lane_streams[mail->lane]);
    source->lane_streams[mail->lane] = mail->stream;
    if (++source->lanes_open == source->lanes_wanted)
        source_feed_type(source, SOURCE_EVENT_LANES_OPEN);
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
    case MAIL_OPEN_FAILED:
        source_feed_fault(source, SOURCE_EVENT_FAILED, &mail->fault);
        break;
    case MAIL_MESSAGE:
        source_words_take(source, mail->message);
        break;
    case MAIL_HOT:
        source->control_hot = true;
        if (source->standing_by)
            source_rounds_stood_by(source);
        break;
    case MAIL_LINK_LOST:
        /* What came was wrong, but our words may still get through. */
        source_feed_fault(
            source, mail->fault.code == ERR_CORRUPT ? SOURCE_EVENT_FAILED : SOURCE_EVENT_LINK_LOST,
            &mail->fault);
        break;
    case MAIL_LANE:
        source_rounds_take_report(source, &mail->report);
        break;
    }
    source_mail_discard(mail);
}
