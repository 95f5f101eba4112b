#include "coordinator/post_policy.h"

#include <stddef.h>
#include <string.h>

#include "proto/limits.h"
#include "proto/vm_spec.h"

static bool is_word(const char *word, const char *wanted)
{
    return word && strcmp(word, wanted) == 0;
}

const char *post_policy_refusal(const Godwit__MoveGoals *goals, const Godwit__VmSpec *spec)
{
    if (vm_spec_is_libvirt(spec))
        return "a domain of libvirt moves without it";
    if (spec->memory && spec->memory->hugepages)
        return "its memory is of the 2 MiB page pool";
    if (goals && goals->postcopy)
        return NULL; /* today's word outweighs the description's */
    if (goals && goals->no_postcopy)
        return "--no-postcopy";
    if (spec->migration && is_word(spec->migration->postcopy, "never"))
        return "its description says postcopy: never";
    if (goals && goals->with_local_disks)
        return "local disks move with it";
    if (goals && goals->verify_reread)
        return "--verify reads all memory in the pause";
    if (goals && goals->lanes > LANES_MAX - 2)
        return "its streams leave none for it";
    return NULL;
}

bool post_policy_is_late(const Godwit__MoveGoals *goals, const Godwit__VmSpec *spec)
{
    return goals && !goals->postcopy && is_word(goals->policy, "finish") &&
           !post_policy_refusal(goals, spec);
}

bool post_policy_may(const Godwit__MoveGoals *goals)
{
    return goals && (goals->postcopy || goals->postcopy_late);
}
