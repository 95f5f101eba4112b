/* The target's part of post-copy: pages that come only after it has taken the guest.
 *
 *      hello:    may this host let a guest wait for a page? refused in words where not
 *      missing:  what is here of those pages is given up; who touches one waits for it
 *      load, resume: on a thread of their own, since they may touch one; this one stays free to
 *                take lanes that come anew
 *      all here: digest over all pages -> fetched -> served
 *
 * A guest that took and whose pages cannot come any more must not take another step: the owner is
 * told (ERR_CORRUPT), and nobody who waits is let go before its process has ended.
 */
#include "migrate/target_inside.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/mailbox.h"
#include "migrate/page_fetch.h"
#include "net/stream.h"

bool target_post_is_on(struct target *target)
{
    pthread_mutex_lock(&target->mutex);
    bool on = target->core.postcopy;
    pthread_mutex_unlock(&target->mutex);
    return on;
}

/* ---- pages ---------------------------------------------------------------------------------- */

static void on_report(void *data, const struct page_fetch_report *report)
{
    struct target *target = data;
    struct target_mail mail = {.type = report->type == PAGE_FETCH_LANE_ENDED ? MAIL_FETCH_ENDED
                                       : report->type == PAGE_FETCH_FAILED   ? MAIL_FETCH_FAILED
                                                                             : MAIL_FETCH_ALL,
                               .fault = report->fault};
    (void)mailbox_put(target->mailbox, &mail);
}

static int init(struct target *target, struct fault *fault)
{
    const struct page_fetch_config config = {
        .regions = target->config.guest->regions,
        .digests = target->digests,
        .region_count = target->config.guest->region_count,
        .plan = &target->plan,
        .progress = &target->progress,
        .report = on_report,
        .data = target,
    };
    assert(!target->fetch);
    int r = page_fetch_new(&target->fetch, &config, fault);
    if (r == 0)
        target->post_wanted = PAGE_FETCH_LANES;
    return r;
}

int target_post_take_hello(struct target *target, const Godwit__MoveHello *hello,
                           struct fault *fault)
{
    if (hello->postcopy)
        return init(target, fault);
    struct fault refused = {0};
    if (hello->postcopy_late && init(target, &refused) < 0)
        (void)snprintf(target->post_refused, sizeof target->post_refused, "%s", refused.text);
    return 0;
}

static int run(struct target *target, struct fault *fault)
{
    int r = page_fetch_run(target->fetch, target->post_streams[0], target->post_streams[1], fault);
    if (r < 0)
        return r;
    target->post_streams[0] = target->post_streams[1] = NULL;
    target->fetch_ended = 0;
    return 0;
}

static int take_missing(struct target *target, const Godwit__MoveMissing *missing,
                        struct fault *fault)
{
    const struct guest *guest = target->config.guest;
    unsigned i = 0;
    while (i < guest->region_count && guest->regions[i].id != missing->region)
        i++;
    if (i == guest->region_count || missing->first_page > guest->regions[i].pages)
        return fault_set(fault, ERR_CORRUPT, "missing pages that are in no region of the plan");
    if (page_fetch_lanes(target->fetch) == 0) {
        int r = run(target, fault);
        if (r < 0)
            return r;
    }
    return page_fetch_miss(target->fetch, i, missing->first_page, missing->bits.data,
                           missing->bits.len, &target->post_sum, fault);
}

void target_post_take_missing(struct target *target, const Godwit__MoveMissing *missing)
{
    struct fault fault = {0};
    target_feed_type(target, TARGET_EVENT_MISSING);
    pthread_mutex_lock(&target->mutex);
    bool in_turn = target->core.postcopy && !target->core.has_state && !target->core.ended;
    pthread_mutex_unlock(&target->mutex);
    if (in_turn && take_missing(target, missing, &fault) < 0)
        target_feed_fault(target, TARGET_EVENT_FAILED, &fault);
}

int target_post_take_lane(struct target *target, unsigned index, struct stream **stream,
                          struct fault *fault)
{
    if (index >= target->post_wanted || target->post_streams[index] ||
        page_fetch_lanes(target->fetch) > 0)
        return fault_set(fault, ERR_CORRUPT, "lane %u of post-copy arrived, and there are %u",
                         index, target->post_wanted);
    target->post_streams[index] = *stream;
    *stream = NULL;
    target->post_open++;
    return 0;
}

int target_post_rejoin(struct target *target, struct fault *fault)
{
    return run(target, fault);
}

void target_post_interrupt(struct target *target)
{
    if (target->fetch)
        page_fetch_interrupt(target->fetch);
}

bool target_post_has_lanes(const struct target *target)
{
    return target->post_open > 0 || (target->fetch && page_fetch_lanes(target->fetch) > 0);
}

bool target_post_has_ended(const struct target *target)
{
    /* one that could not be started for good has its last word, too */
    return !target->fetch || target->fetch_ended >= page_fetch_lanes(target->fetch);
}

void target_post_hang_up(struct target *target)
{
    if (target->fetch)
        page_fetch_hang_up(target->fetch);
    for (unsigned i = 0; i < PAGE_FETCH_LANES; i++)
        target->post_streams[i] = stream_free(target->post_streams[i]);
    target->post_open = target->fetch_ended = 0;
}

void target_post_take_mail(struct target *target, const struct target_mail *mail)
{
    target->activity++;
    if (mail->type == MAIL_FETCH_FAILED) {
        target_feed_fault(target, TARGET_EVENT_GUEST_LOST, &mail->fault);
    } else if (mail->type == MAIL_FETCH_ENDED) { /* whatever ended it: it comes anew */
        target->fetch_ended++;
        if (!target_reconnect_took_end(target))
            target_feed_fault(target, TARGET_EVENT_LANE_LOST, &mail->fault);
    } /* that all are here is looked at after every mail */
}

void target_post_look(struct target *target)
{
    if (!target->fetch || target->fetched_told || page_fetch_left(target->fetch) > 0 ||
        target_current_phase(target) != PHASE_POSTCOPY)
        return;
    target->fetched_told = true;
    target_feed_type(target, TARGET_EVENT_FETCHED);
}

/* ---- the guest's own steps ------------------------------------------------------------------ */

static void *guest_run(void *data)
{
    struct target *target = data;
    const struct guest *guest = target->config.guest;
    struct target_mail mail = {.type = MAIL_GUEST};
    thread_begin("move guest");
    uint64_t begun_ns = world_now_ns();
    int r = target->guest_resumes
                ? guest->ops->resume(guest->owner, &mail.fault)
                : guest->ops->load(guest->owner, target->state->state->machine.data,
                                   target->state->state->machine.len,
                                   target->state->state->paused_ns, &mail.fault);
    if (r < 0 && !mail.fault.code)
        (void)fault_set(&mail.fault, r, "%s", err_name(r));
    mail.populate_ns = world_now_ns() - begun_ns;
    (void)mailbox_put(target->mailbox, &mail);
    return NULL;
}

static void join_guest(struct target *target)
{
    if (target->guest_steps)
        pthread_join(target->guest_thread, NULL);
    target->guest_steps = false;
}

int target_post_step_guest(struct target *target, bool resumes, struct fault *fault)
{
    assert(!target->guest_steps);
    target->guest_resumes = resumes;
    int error = pthread_create(&target->guest_thread, NULL, guest_run, target);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a guest that waits for pages");
    target->guest_steps = true;
    return 0;
}

void target_post_take_step(struct target *target, const struct target_mail *mail)
{
    join_guest(target);
    struct fault fault = mail->fault;
    if (fault.code) {
        if (!target->guest_resumes)
            (void)fault_wrap(&fault, fault.code, "loading the machine");
        target_feed_fault(target,
                          target->guest_resumes ? TARGET_EVENT_GUEST_LOST : TARGET_EVENT_FAILED,
                          &fault);
        return;
    }
    if (target->guest_resumes)
        target->resume_ns = mail->populate_ns;
    else
        target->load_ns = mail->populate_ns;
    target_feed_type(target, target->guest_resumes ? TARGET_EVENT_RESUMED : TARGET_EVENT_LOADED);
}

/* ---- the end -------------------------------------------------------------------------------- */

void target_post_stop(struct target *target)
{
    bool is_lost = target->core.ended_in == PHASE_POSTCOPY; /* DONE: it has every page */
    target_post_hang_up(target);
    if (!target->fetch || is_lost)
        return; /* see above: whoever waits goes on waiting */
    page_fetch_release(target->fetch);
    join_guest(target);
}

void target_post_free(struct target *target)
{
    if (target->fetch)
        page_fetch_release(target->fetch);
    join_guest(target);
    target->fetch = page_fetch_free(target->fetch);
}
