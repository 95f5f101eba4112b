/* The orders of dr as messages: what is asked of both ends of a replication.
 *
 * Flow:   agent_link -> [dr_order] -> agent
 * Thread: the loop's.
 *
 * The key of a pair is drawn when its target is asked to listen and wiped when its source has it;
 * it is never stored or logged. Whoever asks again draws anew.
 */
#ifndef GODWIT_COORDINATOR_DR_ORDER_H
#define GODWIT_COORDINATOR_DR_ORDER_H

#include "coordinator/coordinator.h"

struct dr_order { /* borrows from the cluster until it is sent */
    union {
        Godwit__OrderReplicaIn in;
        Godwit__OrderProtect protect;
        Godwit__OrderProtectFinish finish;
        Godwit__OrderProtectEnd end;
        Godwit__OrderReplicaTake take;
        Godwit__OrderReplicaDrop drop;
        Godwit__OrderReplicaCopy copy;
    };
    const ProtobufCMessage *message;
    const ProtobufCMessageDescriptor *reply;
    uint16_t method;
    uint64_t timeout_ms;
};

/* False: its protection is no more, or needs an answer that this life has not heard. */
bool dr_order_make(struct coordinator *coordinator, const struct cluster_order *order,
                   struct dr_order *ret_order);
/* It is out, or was answered (reply NULL: with a fault): keys and addresses follow. */
void dr_order_sent(struct coordinator *coordinator, const struct cluster_order *order);
void dr_order_answered(struct coordinator *coordinator, const struct cluster_order *order,
                       const ProtobufCMessage *reply);

#endif
