/* What one domain is made of: the room's own view of struct domain.
 *
 * Flow:   domain, domain_tell, domain_ask, domain_orders, domain_start share it; nobody else
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_INSIDE_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_INSIDE_H

#include <stddef.h>

#include "agent/backend_libvirt/domain.h"
#include "agent/backend_libvirt/domain_core.h"
#include "agent/backend_libvirt/domain_receipt.h"
#include "agent/backend_libvirt/domain_start.h"

struct domain_console;
struct domain_holder;
struct latch_file;
struct loop_timer;
struct qemu_watch;
struct rpc;

enum { DOMAIN_PSK_BYTES = 32, DOMAIN_TAKERS_MAX = 4 };

struct domain_move {               /* of the shell: what the core need not know */
    Godwit__MoveOut *out;          /* owned; source */
    uint8_t psk[DOMAIN_PSK_BYTES]; /* target; with has_key */
    bool has_key;
    char target_incarnation[64];
    void *line;
    struct domain_receipt figures;
    char libvirt_uri[DOMAIN_URI_SIZE], data_uri[DOMAIN_URI_SIZE];
    bool is_asking_job, is_asking_target, is_transferring, is_final_job;
};

struct domain {
    struct domain_config config;
    struct domain_holder *holder;
    char vm_id[33];
    struct rpc *rpc;
    struct domain_core core;
    struct latch_file *latch;
    struct domain_state state;
    Godwit__VmSpec *spec; /* owned; as the last create gave it */
    uint64_t seq;
    struct loop_timer *timer, *end_timer;
    struct domain_move move;
    unsigned epoch; /* counts starts and ends of migrations: what was seen before one is no news after it */
    unsigned held_bits; /* of a todo that waits for libvirt's last word of a migration */
    bool is_looking, look_again, is_resuming, is_over, is_told_over, was_created;
    bool is_dismissed; /* the agent knows that it is over: nobody asks any more */
    struct qemu_watch *watch;        /* inside the pause of a move away; else NULL */
    struct qemu_watch *kill_watch;   /* of a QEMU that was killed without libvirt; else NULL */
    uint64_t kill_ns, kill_asked_ns; /* when its end was first and last asked for; 0: it was not */
    bool is_killing, is_kill_told;
    struct domain_console *console;
    struct domain_start start;
    struct rpc_request *quit;                      /* that waits for the end */
    struct rpc_request *takers[DOMAIN_TAKERS_MAX]; /* peers that wait for it to run */
    size_t taker_count;
};

/* Is the move that it is in one that brings it here? */
static inline bool domain_is_at_target(const struct domain *domain)
{
    return domain->core.latch >= GODWIT__LATCH__LATCH_IN;
}

#endif
