/* The end of the source's move: threads are stopped, tracking ends, the receipt is filled and the
 * owner told. The core has ended before.
 */
#include "migrate/source_inside.h"

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/world.h"
#include "migrate/control_lane.h"
#include "migrate/guest.h"
#include "migrate/lane_opener.h"
#include "migrate/lane_source.h"
#include "migrate/mailbox.h"
#include "migrate/pacer.h"
#include "migrate/progress.h"
#include "migrate/receipt.h"
#include "migrate/watch.h"
#include "net/stream.h"
#include "proto/limits.h"

enum { LAST_WORD_MS = 200 };

/* That the target runs may be known by its agent's word before its own has come, which says what it
 * spent. The guest is released by now; only the receipt waits. */
static void hear_the_target_out(struct source *source)
{
    if (source->core.phase != PHASE_DONE || source->core.link_lost || !source->control)
        return;
    uint64_t until_ns = world_now_ns() + LAST_WORD_MS * NS_PER_MS;
    struct source_mail mail;
    bool hung_up = false;
    while (!source->target_has_started && !hung_up && world_now_ns() < until_ns) {
        if (!mailbox_take(source->mailbox, &mail, until_ns, 0))
            continue;
        hung_up = mail.type == MAIL_LINK_LOST;
        source_mail_take(source, &mail);
    }
}

static void stop_threads(struct source *source)
{
    mailbox_close(source->mailbox);
    if (source->pacer)
        pacer_close(source->pacer);
    if (source->config.interrupt_open && source->opener)
        source->config.interrupt_open(source->config.data);
    for (unsigned i = 0; i < LANES_MAX; i++) {
        if (source->lanes[i])
            lane_source_interrupt(source->lanes[i]);
    }
    source_post_interrupt(source);
    source->opener = lane_opener_free(source->opener);
    source->watch = watch_free(source->watch);
    for (unsigned i = 0; i < LANES_MAX; i++) {
        source->lanes[i] = lane_source_free(source->lanes[i]);
        source->lane_streams[i] = stream_free(source->lane_streams[i]);
    }
    source_post_free(source);
    struct source_mail mail;
    while (mailbox_try_take(source->mailbox, &mail))
        source_mail_discard(&mail);
}

static void stop_tracking(struct source *source, bool goes_on)
{
    struct guest *guest = source->config.guest;
    for (unsigned i = 0; i < guest->region_count; i++) {
        if (source->regions[i].tracking)
            guest->regions[i].ops->track_stop(&guest->regions[i], goes_on);
        source->regions[i].tracking = false;
    }
}

static void finish_receipt(struct source *source, uint64_t control_cpu_ns,
                           uint64_t control_wire_bytes, uint64_t now_ns)
{
    struct receipt *receipt = &source->receipt;
    Godwit__MoveReceipt *to = &receipt->message;
    uint64_t ram_pages = source->config.guest->regions[0].pages;
    uint64_t cpu_ns = control_cpu_ns + world_thread_cpu_ns() + source->before_cpu_ns,
             digest = source->memory_digest;
    for (unsigned i = 0; i < LANES_MAX; i++)
        cpu_ns += source->lane_cpu_ns[i];

    receipt_finish(receipt, &source->core, now_ns);
    to->move_id = source->move_id;
    to->vm_id = (char *)source->config.guest->vm_id;
#define FILL(field, value) (to->has_##field = 1, to->field = (value))
    FILL(memory_bytes, ram_pages * PAGE_BYTES); /* what else travels is no memory of the guest */
    FILL(wire_bytes,
         progress_wire_bytes(&source->progress) + control_wire_bytes + source->before_wire_bytes);
    bool left_behind = source->core.postcopy;
    FILL(lanes, left_behind ? source->lanes_wanted : source->lanes_open);
    FILL(source_cpu_ns, cpu_ns);
    FILL(target_cpu_ns, source->target_cpu_ns);
    FILL(populate_ns, source->populate_ns);
    FILL(predicted_total_ns, source->predicted_total_ns);
    FILL(reconnects, source->core.reconnects);
    FILL(away_ns, source->core.away_all_ns);
    FILL(resent_pages, source->resent_pages);
    FILL(throttled_ns, source->throttled_ns);
    FILL(throttle_permille_peak, source->core.throttle.permille_peak);
    if (source->config.guest->regions[0].shared_id) {
        uint64_t pages = 0;
        for (unsigned i = 0; i < source->config.guest->region_count; i++)
            pages += bitmap_count(&source->regions[i].populated);
        FILL(in_place, true);
        FILL(populated_bytes, pages * PAGE_BYTES);
    } else if (to->moved) {
        FILL(digest_pages, ram_pages);
        FILL(memory_digest, left_behind ? source_post_digest(source) : digest);
        FILL(reread_verified, source->reread);
    }
    if (left_behind)
        FILL(postcopy_reason, source->core.postcopy_reason);
    to->postcopy_refused = source->post_refused;
    if (left_behind && source->core.entered_ns[PHASE_POSTCOPY]) {
        FILL(postcopy_pages, source->post_pages);
        uint64_t until_ns = source->fetched_ns ? source->fetched_ns : now_ns;
        FILL(postcopy_ns, until_ns - source->core.entered_ns[PHASE_POSTCOPY]);
        FILL(faults, source->faults);
        FILL(fault_p50_ns, source->fault_p50_ns);
        FILL(fault_p99_ns, source->fault_p99_ns);
    }
#undef FILL
}

void source_end_finish(struct source *source)
{
    uint64_t ended_ns = world_now_ns();
    uint64_t control_cpu_ns = 0, control_wire_bytes = 0;
    hear_the_target_out(source);
    if (source->control) {
        control_cpu_ns = control_lane_cpu_ns(source->control);
        control_wire_bytes = control_lane_wire_bytes(source->control);
    }
    stop_threads(source);
    source->control = control_lane_free(source->control);
    stop_tracking(source, source->core.phase != PHASE_DONE);
    /* No step can change the core any more: it has ended. */
    finish_receipt(source, control_cpu_ns, control_wire_bytes, ended_ns);
    source_tell_progress(source, world_now_ns());
    source->config.on_ended(source->config.data, source->core.phase, &source->receipt.message,
                            source->core.fault.code ? &source->core.fault : NULL);
}
