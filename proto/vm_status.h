/* What a VmStatus says, the same to who writes it and to who reads it.
 *
 * Flow:   agent/vm_word, coordinator/cluster_unheard -> [vm_status]
 * Thread: any; pure.
 */
#ifndef GODWIT_PROTO_VM_STATUS_H
#define GODWIT_PROTO_VM_STATUS_H

#include <stdbool.h>

#include "proto/vm.pb-c.h"

/* Neither state nor generation nor latch: what it is of may be anything, or become it. */
bool vm_status_says_nothing(const Godwit__VmStatus *status);

#endif
