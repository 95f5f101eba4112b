#include "proto/vm_status.h"

bool vm_status_says_nothing(const Godwit__VmStatus *status)
{
    bool has_state = status->has_state && status->state != GODWIT__VM_STATE__VM_STATE_NONE;

    return !has_state && !status->generation && !(status->latch && status->latch->move_id);
}
