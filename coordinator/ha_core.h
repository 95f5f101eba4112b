/* Is a host dead, may it be fenced, has it been? What is decided of one host's life.
 *
 * Flow:   cluster_ha -> [ha_core] -> cluster_ha -> agent_link (probes), fence (power)
 * Thread: the loop's; pure. Time arrives in the argument.
 *
 *   WELL -- 4 s of silence --> SUSPECT -- 8 s, nobody reaches it --> FENCING -- confirmed -->
 * FENCED
 *
 *   SUSPECT --> WELL      it is heard again; or a peer reaches it: then it is cut off from us only,
 *                         its VMs run on, and it stays suspect. A connection that has ended is a
 *                         sign of death (6 s), unless it beats on the store (8 s)
 *   FENCED --> QUARANTINE the life that was fenced says hello: it must end what is left of it (R6)
 *   FENCED, QUARANTINE --> WELL   a new incarnation says hello
 *
 * Suspicion is never evidence (R1): only a confirmed fence is, by one of the classes that the host
 * has: F1 eviction (its own agent, reached over the shared storage, has ended the VMs and says so),
 * F2 power (a fence agent switched it off and reads "off" back), F0 an operator's word. A host that
 * beats on the store is evicted first, one that does not has nobody there who could answer: power
 * goes first. The other class follows when the first fails. A host without F1 and F2 that is dead
 * is HELD: an alert, and nothing else.
 *
 * How long a cut-off host that runs on takes to be replaced (F1), in the worst case: 8 s of silence
 * since its last heartbeat, two ticks of 100 ms, 250 ms until its agent reads the word
 * (store_beat), the VMs' end, 100 ms until that is read back, the start: below 9.5 s from the cut.
 */
#ifndef GODWIT_COORDINATOR_HA_CORE_H
#define GODWIT_COORDINATOR_HA_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/id.h"

enum {
    HA_SUSPECT_MS = 4000,
    HA_DECLARE_MS = 8000,
    HA_DECLARE_GONE_MS = 6000, /* when its connection has ended and it does not beat on the store */
    HA_PROBE_EVERY_MS = 1000,
    HA_PROBE_FRESH_MS = 3000,   /* an answer that is older tells nothing of now */
    HA_STORAGE_FRESH_MS = 6000, /* storage heartbeats come every 2 s */
    HA_EVICT_MS = 4000,
    HA_POWER_MS = 35000,
    HA_RETRY_MS = 10000, /* between rounds of fencing that did not succeed */
    HA_BOOT_GRACE_MS = 120000,
    HA_STORM_MS = 30000,
    HA_STORM_PERCENT = 10,
    HA_ARM_MS_DEFAULT = 3600000,
    HA_TRIES_A_HOST = 2,
    HA_TRIES_MAX = 6,
    HA_PRIORITY_DEFAULT = 50,
    HA_STEADY_MS = 60000, /* a VM that ran so long has used up none of its tries */
};

enum ha_phase {
    HA_WELL,
    HA_SUSPECT,
    HA_FENCING,
    HA_FENCED,
    HA_QUARANTINE,
    HA_HELD,
    HA_PHASE_COUNT
};

enum ha_class { HA_CLASS_NONE, HA_CLASS_F1, HA_CLASS_F2, HA_CLASS_F0, HA_CLASS_COUNT };

struct ha_core {
    /* durable: in the fence's row */
    enum ha_phase phase;            /* SUSPECT and HELD are of this coordinator's life only */
    char incarnation[ID_TEXT_SIZE]; /* that was fenced, or is being */
    enum ha_class fenced_by;
    /* of this coordinator's life */
    bool was_heard; /* since this coordinator leads */
    uint64_t suspect_ns, probe_ns, retry_ns;
    uint64_t reached_ns;  /* when a peer last answered that it reaches the host */
    uint64_t missed_ns;   /* when one last answered that it does not */
    uint64_t storage_ns;  /* when its storage heartbeat was last written, by a peer's reading */
    enum ha_class trying; /* which class is being tried, NONE for none */
    bool try_failed;
    uint64_t trying_ns;
    bool was_tried[HA_CLASS_COUNT]; /* in this round of fencing */
    bool is_told;                   /* the alert of HELD or of a brake */
};

struct ha_view {                        /* what the host's row and the pool say, at one instant */
    uint64_t now_ns, seen_ns, began_ns; /* began: when this coordinator began to lead */
    bool link_up;
    bool is_armed;
    bool has_storage, has_power;    /* can be fenced by F1, by F2 */
    unsigned peers_up;              /* other hosts that could be asked */
    bool storm;                     /* too many suspects at once: hold and ask */
    char incarnation[ID_TEXT_SIZE]; /* it runs as, as far as is known */
};

enum {
    HA_TODO_PROBE = 1,   /* ask peers whether they reach it, and how old its storage heartbeat is */
    HA_TODO_EVICT = 2,   /* F1 */
    HA_TODO_POWER = 4,   /* F2 */
    HA_TODO_STORE = 8,   /* before any other of this todo is done */
    HA_TODO_FENCED = 16, /* confirmed: what it ran is lost */
    HA_TODO_HELD = 32,   /* alert: dead, but nothing here can prove it */
    HA_TODO_BRAKE = 64,  /* alert: too many at once */
    HA_TODO_CUT_OFF = 128, /* alert: it lives, but we do not hear it */
    HA_TODO_BACK = 256,    /* it is well again */
};

/* Once a tick. Returns HA_TODO_* bits. */
unsigned ha_core_tick(struct ha_core *core, const struct ha_view *view);

enum ha_hello {
    HA_HELLO_TAKE,       /* go on as with any host */
    HA_HELLO_QUARANTINE, /* it is the life that was fenced: it must end its VMs and take a new one
                          */
};
/* The host says hello as `incarnation`. Adds HA_TODO_STORE, HA_TODO_BACK to *bits. */
enum ha_hello ha_core_hello(struct ha_core *core, const char *incarnation, uint64_t now_ns,
                            unsigned *bits);
/* A peer was asked. `storage_age_ms`: UINT64_MAX when it cannot tell. */
void ha_core_probed(struct ha_core *core, bool reached, uint64_t storage_age_ms, uint64_t now_ns);
/* What became of a try of `class`. Returns HA_TODO_* bits. */
unsigned ha_core_tried(struct ha_core *core, enum ha_class class, bool confirmed);
/* An operator says that the host is down. Returns HA_TODO_* bits; 0: it is not in question. */
unsigned ha_core_confirm_down(struct ha_core *core, const struct ha_view *view);

/* May grants name this life of the host? */
static inline bool ha_core_may_run(const struct ha_core *core)
{
    return core->phase == HA_WELL || core->phase == HA_SUSPECT;
}

const char *ha_phase_name(enum ha_phase phase);     /* "fenced" */
enum ha_phase ha_phase_from_name(const char *name); /* HA_PHASE_COUNT: none */
const char *ha_class_name(enum ha_class class);     /* "F2" */
enum ha_class ha_class_from_name(const char *name);

/* Before try number `tries` (0: the first): how long to wait since the last one ended. */
uint64_t ha_back_off_ns(unsigned tries);

#endif
