#include "coordinator/dr_peer_tell.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/world.h"
#include "coordinator/dr.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_tell.h"

enum { SILENT_MS = 6000 };

static const char *say(char ret_reason[static CLUSTER_REASON_SIZE], const char *state,
                       const char *format, ...) __attribute__((format(printf, 3, 4)));
static const char *say(char ret_reason[static CLUSTER_REASON_SIZE], const char *state,
                       const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(ret_reason, CLUSTER_REASON_SIZE, format, arguments);
    va_end(arguments);
    return state;
}

bool dr_peer_tell_is_silent(const struct cluster_dr *dr, struct cluster_now now)
{
    return !dr->peer_is_up || !dr->peer_ns || now.ns - dr->peer_ns > SILENT_MS * NS_PER_MS;
}

static const char *state_of_holder(const struct cluster *cluster, const struct cluster_dr *dr,
                                   struct cluster_now now, char *ret_reason)
{
    const char *peer = dr_peer_name(dr);
    const Godwit__DrRecord *info = dr->info;
    if (dr_step_is(dr, "away"))
        return say(ret_reason, "away", "it runs here; pool %s %s", peer,
                   info->is_heard ? "knows, and starts nothing" : "has not heard of it yet");
    if (dr_step_is(dr, "end")) {
        dr_tell_ending(cluster, dr, now, ret_reason);
        return "ending";
    }
    if (dr_step_is(dr, "ask"))
        return say(ret_reason, "failing-over", "pool %s hands it over", peer);
    if (dr_step_is(dr, "alone"))
        return say(ret_reason, "queued", "until nothing that pool %s was permitted can come", peer);
    if (!dr_step_is(dr, "hold"))
        return say(ret_reason, "failing-over", "step %.20s", info->step);
    if (!dr_host_is_up(cluster, info->target, now))
        return say(ret_reason, "late", "%.60s does not answer", info->target);
    if (dr_peer_tell_is_silent(dr, now))
        return info->has_held ? say(ret_reason, "late", "pool %s does not answer", peer)
                              : say(ret_reason, "waiting", "pool %s does not answer", peer);
    if (!info->has_held)
        return say(ret_reason, "syncing", "%.180s", dr->trouble);
    if (!dr->out)
        return say(ret_reason, "held", "for pool %s, which replicates nothing just now", peer);
    if (dr->out->is_missed || !dr->out->is_linked)
        return say(ret_reason, "late", "%s", dr->out->is_linked ? "its goal is missed" : "no link");
    return say(ret_reason, "held", "for pool %s", peer);
}

/* While its step is protect. */
static const char *state_of_source(const struct cluster *cluster, const struct cluster_dr *dr,
                                   struct cluster_now now, char *ret_reason)
{
    const struct cluster_vm *vm = dr->vm;
    const Godwit__ProtectStatus *out = dr->out;
    const char *peer = dr_peer_name(dr);
    const char *trouble = out && out->trouble && out->trouble[0] ? out->trouble : dr->trouble;
    if (!dr->peer_is_up)
        return say(ret_reason, "late", "pool %s does not answer: once stopped it does not start",
                   peer);
    if (dr->peer_ns && dr->peer_step == DR_CROSS_NONE && dr->info->peer_host[0])
        return say(ret_reason, "late", "pool %s knows nothing of it: see that it does not run there",
                   peer);
    if (own_is_lost(&vm->own) || (vm->own.phase == OWN_STOPPED && vm->crashed))
        return say(ret_reason, dr->info->has_held ? "lost" : "waiting",
                   "in pool %s: godwit dr failover", peer);
    if (vm->own.phase != OWN_RUN || vm->job)
        return say(ret_reason, "waiting", "it %s", vm->job ? "moves" : "does not run");
    if (!dr_host_is_up(cluster, dr->info->source, now))
        return say(ret_reason, "late", "%.60s does not answer", dr->info->source);
    if (!dr->info->has_held)
        return say(ret_reason, "syncing", "%.180s", trouble);
    if (!out || out->ended || !dr->out_ready)
        return say(ret_reason, "late", "%.180s", trouble[0] ? trouble : "its ends are asked");
    if (out->is_missed || !out->is_linked)
        return say(ret_reason, "late", "%.180s",
                   trouble[0]       ? trouble
                   : out->is_linked ? "its goal is missed"
                                    : "no link");
    return say(ret_reason, "protected", "%s", "");
}

void dr_peer_tell_ending(const struct cluster_dr *dr, char ret_reason[static CLUSTER_REASON_SIZE])
{
    bool is_unknown = dr->peer_ns && dr->peer_step == DR_CROSS_NONE && dr_is_down(dr->vm);
    (void)say(ret_reason, "ending",
              !dr->peer_is_up ? "pool %s is told once it answers"
              : is_unknown
                  ? "pool %s knows nothing of it: where it does not run there, dr unprotect --force"
                  : "pool %s is told",
              dr_peer_name(dr));
}

const char *dr_peer_tell_state(const struct cluster *cluster, const struct cluster_dr *dr,
                               struct cluster_now now, char ret_reason[static CLUSTER_REASON_SIZE])
{
    const char *peer = dr_peer_name(dr);
    if (dr_peer_holds(dr))
        return state_of_holder(cluster, dr, now, ret_reason);
    if (dr_peer_is_conflict(dr))
        return say(ret_reason, "conflict",
                   "pool %s took it over, and it runs here too: end one of the two", peer);
    if (dr_step_is(dr, "away"))
        return say(ret_reason, "away", "it runs in pool %s; what is here stays down", peer);
    if (dr_step_is(dr, "handed"))
        return say(ret_reason, "handed", "pool %s may take it: it does not start here", peer);
    if (dr_step_is(dr, "end")) {
        dr_tell_ending(cluster, dr, now, ret_reason);
        return "ending";
    }
    if (!dr_step_is(dr, "protect"))
        return say(ret_reason, "failing-over", "step %.20s", dr->info->step);
    return state_of_source(cluster, dr, now, ret_reason);
}
