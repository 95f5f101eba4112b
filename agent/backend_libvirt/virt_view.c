#include "agent/backend_libvirt/virt_view.h"

#include <libvirt/libvirt.h>
#include <stdio.h>
#include <string.h>

#include "base/world.h"
#include "proto/limits.h"

enum { DOWNTIME_MS_PRESET = 100, CONNECTIONS_MAX = 8 };

enum virt_sight virt_view_sight(int state, int reason)
{
    switch (state) {
    case VIR_DOMAIN_RUNNING:
    case VIR_DOMAIN_BLOCKED:
    case VIR_DOMAIN_SHUTDOWN: /* asked to end, and not over yet */
        return SIGHT_RUNNING;
    case VIR_DOMAIN_PMSUSPENDED:
    case VIR_DOMAIN_CRASHED: /* kept for a look at it: it has its memory */
        return SIGHT_PAUSED;
    case VIR_DOMAIN_PAUSED:
        return reason == VIR_DOMAIN_PAUSED_MIGRATION || reason == VIR_DOMAIN_PAUSED_STARTING_UP
                   ? SIGHT_MIGRATING
                   : SIGHT_PAUSED;
    case VIR_DOMAIN_SHUTOFF:
        return SIGHT_OFF;
    }
    return SIGHT_UNKNOWN;
}

enum virt_how virt_view_how_stopped(int detail)
{
    switch (detail) {
    case VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN:
        return HOW_SHUTDOWN;
    case VIR_DOMAIN_EVENT_STOPPED_DESTROYED:
        return HOW_DESTROYED;
    case VIR_DOMAIN_EVENT_STOPPED_CRASHED:
        return HOW_CRASHED;
    case VIR_DOMAIN_EVENT_STOPPED_MIGRATED:
        return HOW_MIGRATED;
    case VIR_DOMAIN_EVENT_STOPPED_SAVED:
        return HOW_SAVED;
    case VIR_DOMAIN_EVENT_STOPPED_FAILED:
        return HOW_FAILED;
    }
    return HOW_UNKNOWN;
}

enum virt_how virt_view_how_shutoff(int reason)
{
    switch (reason) {
    case VIR_DOMAIN_SHUTOFF_SHUTDOWN:
        return HOW_SHUTDOWN;
    case VIR_DOMAIN_SHUTOFF_DESTROYED:
        return HOW_DESTROYED;
    case VIR_DOMAIN_SHUTOFF_CRASHED:
        return HOW_CRASHED;
    case VIR_DOMAIN_SHUTOFF_MIGRATED:
        return HOW_MIGRATED;
    case VIR_DOMAIN_SHUTOFF_SAVED:
        return HOW_SAVED;
    case VIR_DOMAIN_SHUTOFF_FAILED:
    case VIR_DOMAIN_SHUTOFF_DAEMON:
        return HOW_FAILED;
    }
    return HOW_UNKNOWN;
}

const char *virt_view_how_words(enum virt_how how)
{
    switch (how) {
    case HOW_UNKNOWN:
        break;
    case HOW_SHUTDOWN:
        return "the guest switched itself off";
    case HOW_DESTROYED:
        return "destroyed outside of the pool";
    case HOW_CRASHED:
        return "the guest or its QEMU crashed";
    case HOW_MIGRATED:
        return "migrated away outside of the pool";
    case HOW_SAVED:
        return "saved to a file outside of the pool";
    case HOW_FAILED:
        return "its QEMU vanished";
    }
    return "libvirt does not run it any more";
}

bool virt_view_event(int event, int detail, enum virt_sight *ret_sight, enum virt_how *ret_how)
{
    *ret_how = HOW_UNKNOWN;
    switch (event) {
    case VIR_DOMAIN_EVENT_STOPPED:
        *ret_sight = SIGHT_OFF;
        *ret_how = virt_view_how_stopped(detail);
        return true;
    case VIR_DOMAIN_EVENT_SUSPENDED:
        *ret_sight = detail == VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED ? SIGHT_MIGRATING : SIGHT_PAUSED;
        return true;
    case VIR_DOMAIN_EVENT_RESUMED:
        *ret_sight = SIGHT_RUNNING;
        return true;
    }
    return false; /* STARTED comes for an incoming domain, too */
}

void virt_view_plan(const Godwit__MoveGoals *goals, bool persistent, bool plain,
                    struct virt_plan *ret_plan)
{
    const char *policy = goals && goals->policy && *goals->policy ? goals->policy : "balanced";
    unsigned lanes = goals ? goals->lanes : 0;

    *ret_plan = (struct virt_plan){.downtime_ms = DOWNTIME_MS_PRESET};
    ret_plan->flags = VIR_MIGRATE_LIVE | VIR_MIGRATE_PEER2PEER | VIR_MIGRATE_PAUSED |
                      VIR_MIGRATE_ABORT_ON_ERROR | VIR_MIGRATE_CHANGE_PROTECTION;
    if (persistent)
        ret_plan->flags |= VIR_MIGRATE_PERSIST_DEST | VIR_MIGRATE_UNDEFINE_SOURCE;
    if (!plain)
        ret_plan->flags |= VIR_MIGRATE_TLS;
    if (strcmp(policy, "gentle") != 0) /* gentle never holds writers back */
        ret_plan->flags |= VIR_MIGRATE_AUTO_CONVERGE;
    if (lanes > 1) {
        ret_plan->flags |= VIR_MIGRATE_PARALLEL;
        ret_plan->connections = lanes < CONNECTIONS_MAX ? lanes : CONNECTIONS_MAX;
    }
    if (goals && goals->bandwidth_bytes_per_s) {
        uint64_t mib = goals->bandwidth_bytes_per_s >> 20;
        ret_plan->bandwidth_mib_per_s = mib ? mib : 1;
    }
    if (goals && goals->downtime_ns_max) {
        uint64_t ms = goals->downtime_ns_max / NS_PER_MS;
        ret_plan->downtime_ms = ms ? ms : 1;
    }
}

void virt_view_progress(const struct virt_job *job, uint64_t elapsed_ns,
                        Godwit__MoveProgress *ret_progress)
{
    uint64_t page = job->page_bytes ? job->page_bytes : PAGE_BYTES;

    ret_progress->has_elapsed_ns = true;
    ret_progress->elapsed_ns = elapsed_ns;
    if (!job->data_total)
        return;
    ret_progress->has_round = true; /* libvirt counts passes over memory from 1 */
    ret_progress->round = job->iteration ? (uint32_t)job->iteration : 1;
    ret_progress->has_round_pages_total = ret_progress->has_round_pages_done = true;
    ret_progress->round_pages_total = job->data_total / page;
    ret_progress->round_pages_done =
        job->data_remaining < job->data_total ? (job->data_total - job->data_remaining) / page : 0;
    ret_progress->has_wire_bytes = ret_progress->has_memory_bytes_done = true;
    ret_progress->wire_bytes = job->data_processed;
    ret_progress->memory_bytes_done =
        job->data_remaining < job->data_total ? job->data_total - job->data_remaining : 0;
    ret_progress->has_memory_bytes_total = true;
    ret_progress->memory_bytes_total = job->data_total;
    ret_progress->has_wire_bytes_per_s = job->memory_bps > 0;
    ret_progress->wire_bytes_per_s = job->memory_bps;
    ret_progress->has_dirty_bytes_per_s = true;
    ret_progress->dirty_bytes_per_s = job->dirty_pages_per_s * page;
    ret_progress->has_zero_pages = true;
    ret_progress->zero_pages = job->zero_pages;
    if (job->memory_bps) {
        ret_progress->has_eta_ns = true;
        ret_progress->eta_ns = job->data_remaining * 1000 / (job->memory_bps / 1000 + 1) * 1000;
    }
    if (job->throttle_percent && job->throttle_percent <= 100) {
        ret_progress->has_throttle_permille = true;
        ret_progress->throttle_permille = (uint32_t)job->throttle_percent * 10;
    }
}

static bool is_hex(char letter)
{
    return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f');
}

bool virt_view_id(const char *uuid, char ret_id[static 33])
{
    char id[33];
    size_t used = 0;

    if (strlen(uuid) != 36)
        return false;
    for (size_t i = 0; i < 36; i++) {
        bool is_dash = i == 8 || i == 13 || i == 18 || i == 23;
        char letter = uuid[i] >= 'A' && uuid[i] <= 'F' ? (char)(uuid[i] + 'a' - 'A') : uuid[i];
        if (is_dash ? letter != '-' : !is_hex(letter))
            return false;
        if (!is_dash)
            id[used++] = letter;
    }
    id[used] = 0;
    memcpy(ret_id, id, sizeof id);
    return true;
}

bool virt_view_uuid(const char *id, char ret_uuid[static 37])
{
    if (strlen(id) != 32)
        return false;
    for (size_t i = 0; i < 32; i++) {
        if (!is_hex(id[i]))
            return false;
    }
    (void)snprintf(ret_uuid, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", id, id + 8, id + 12, id + 16,
                   id + 20);
    return true;
}
