/* What is measured of one move of a domain, and the receipt that it ends with.
 *
 * Flow:   domain -> [domain_receipt] -> MoveEvent
 * Thread: the loop's; pure. Times are of the monotonic clock; 0: that has not been.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_RECEIPT_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_RECEIPT_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/backend_libvirt/virt_view.h"
#include "proto/migration.pb-c.h"

struct domain_receipt {
    uint64_t order_ns, greeted_ns, stopped_ns, off_ns, taken_ns, resume_ns;
    uint64_t memory_bytes;
    struct virt_plan plan;
    struct virt_job job; /* as libvirt told last */
    bool peer_plain;     /* memory travels without TLS */
    uint32_t throttle_peak;
};

enum { DOMAIN_RECEIPT_ROUNDS_MAX = 64, DOMAIN_RECEIPT_PHASES_MAX = 6 };

struct domain_receipt_told { /* the message and what it points to */
    Godwit__MoveReceipt message;
    Godwit__MoveRound rounds[DOMAIN_RECEIPT_ROUNDS_MAX];
    Godwit__MoveRound *round_list[DOMAIN_RECEIPT_ROUNDS_MAX];
    Godwit__MovePhaseTime times[DOMAIN_RECEIPT_PHASES_MAX];
    Godwit__MovePhaseTime *list[DOMAIN_RECEIPT_PHASES_MAX];
};

/* `ended_in`: the phase it broke off in, when it did not move. Ids are the caller's to add. */
void domain_receipt_fill(const struct domain_receipt *receipt, bool moved,
                         Godwit__MovePhase ended_in, uint64_t now_ns,
                         struct domain_receipt_told *ret_told);

#endif
