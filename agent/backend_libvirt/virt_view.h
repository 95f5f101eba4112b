/* What libvirt's numbers mean to a pool, and what a pool's words mean to libvirt: pure translations.
 *
 * Flow:   domain_call, hypervisor -> [virt_view] -> domain_core;  goals of a move -> [virt_view] -> flags
 * Thread: any; no state.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_VIRT_VIEW_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_VIRT_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/migration.pb-c.h"

enum virt_sight {
    SIGHT_UNKNOWN,   /* libvirtd does not say */
    SIGHT_OFF,       /* no process, or no such domain */
    SIGHT_RUNNING,
    SIGHT_PAUSED,    /* whole, and standing still */
    SIGHT_MIGRATING, /* stands still inside libvirt's own migration: incoming, or just leaving */
};

enum virt_how { /* why a domain is off */
    HOW_UNKNOWN,
    HOW_SHUTDOWN,  /* the guest switched itself off */
    HOW_DESTROYED, /* by somebody's destroy */
    HOW_CRASHED,   /* guest or QEMU */
    HOW_MIGRATED,
    HOW_SAVED,
    HOW_FAILED, /* QEMU vanished */
};

struct virt_job { /* a migration's statistics, as libvirt gives them; 0: not told */
    uint64_t elapsed_ms, setup_ms, downtime_ms;
    uint64_t data_total, data_processed, data_remaining;
    uint64_t memory_bps, dirty_pages_per_s, page_bytes, iteration;
    uint64_t zero_pages, normal_pages, throttle_percent;
};

struct virt_plan { /* of one migration */
    unsigned long flags;
    uint64_t bandwidth_mib_per_s; /* 0: no limit */
    uint64_t downtime_ms;
    unsigned connections; /* 0: one, plain stream */
};

enum virt_sight virt_view_sight(int state, int reason);
enum virt_how virt_view_how_stopped(int event_detail); /* of VIR_DOMAIN_EVENT_STOPPED */
enum virt_how virt_view_how_shutoff(int reason);       /* of VIR_DOMAIN_SHUTOFF */
const char *virt_view_how_words(enum virt_how how);    /* "the guest switched itself off" */
/* What of a lifecycle event is certain without asking; false: ask. */
bool virt_view_event(int event, int detail, enum virt_sight *ret_sight, enum virt_how *ret_how);

/* Goals (may be NULL) as flags and parameters. The target stays paused until it has our word. */
void virt_view_plan(const Godwit__MoveGoals *goals, bool persistent, bool plain,
                    struct virt_plan *ret_plan);
/* Statistics as progress of a move; ret_progress is initialised by the caller. */
void virt_view_progress(const struct virt_job *job, uint64_t elapsed_ns,
                        Godwit__MoveProgress *ret_progress);

/* A UUID in libvirt's spelling as a VM's id, 32 hex digits, and back; false: it is none. */
bool virt_view_id(const char *uuid, char ret_id[static 33]);
bool virt_view_uuid(const char *id, char ret_uuid[static 37]);

#endif
