#include "migrate/replica_core.h"

#include <assert.h>

#include "base/err.h"

/* ---- the source's ---- */
void replicator_core_init(struct replicator_core *core, uint64_t generation, uint64_t session)
{
    assert(generation && session);
    *core = (struct replicator_core){
        .held = {.generation = generation, .session = session},
        .sent = {.generation = generation, .session = session},
    };
}

static void none_under_way(struct replicator_core *core)
{
    core->sent.seq = 0;
    core->is_cut = core->is_whole = false;
}

int replicator_core_linked(struct replicator_core *core, const struct replica_held *held,
                           enum replicator_owes *ret_owes, struct fault *fault)
{
    assert(!core->is_linked);
    bool is_ours =
        held->id.session == core->held.session && held->id.generation == core->held.generation;
    if (is_ours && held->id.seq > core->last_seq)
        return fault_set(fault, ERR_CORRUPT,
                         "the replica says that it holds checkpoint %llu, of which %llu were begun",
                         (unsigned long long)held->id.seq, (unsigned long long)core->last_seq);
    enum replicator_owes owes = REPLICATOR_OWES_WHOLE;
    if (core->is_cut && replica_id_equal(&held->id, &core->sent) && held->sum == core->sent_sum) {
        core->held = core->sent; /* only its HELD was lost */
        core->held_sum = core->sent_sum;
        owes = REPLICATOR_OWES_NOTHING;
    } else if (core->held.seq && replica_id_equal(&held->id, &core->held) &&
               held->sum == core->held_sum) {
        owes = REPLICATOR_OWES_SENT;
    }
    none_under_way(core);
    core->is_whole = owes == REPLICATOR_OWES_WHOLE;
    core->is_linked = true;
    *ret_owes = owes;
    return 0;
}

struct replica_id replicator_core_begin(struct replicator_core *core)
{
    assert(core->is_linked && core->sent.seq == 0);
    core->sent.seq = ++core->last_seq;
    return core->sent;
}

void replicator_core_cut(struct replicator_core *core, uint64_t sum)
{
    assert(core->sent.seq && !core->is_cut);
    core->sent_sum = sum;
    core->is_cut = true;
}

int replicator_core_held(struct replicator_core *core, const struct replica_id *id,
                         struct fault *fault)
{
    if (!core->is_linked || !core->is_cut || !replica_id_equal(id, &core->sent))
        return fault_set(fault, ERR_CORRUPT,
                         "the replica confirms checkpoint %llu, which is not under way",
                         (unsigned long long)id->seq);
    core->held = core->sent;
    core->held_sum = core->sent_sum;
    none_under_way(core);
    return 0;
}

void replicator_core_unlinked(struct replicator_core *core)
{
    core->is_linked = false;
}

/* ---- the replica's ---- */
void replica_core_init(struct replica_core *core, uint64_t generation_min, bool has_state)
{
    *core = (struct replica_core){.generation_min = generation_min, .has_state = has_state};
}

static int on_hello(struct replica_core *core, const struct replica_frame *frame,
                    struct fault *fault)
{
    if (core->phase != REPLICA_UNLINKED)
        return fault_set(fault, ERR_CORRUPT, "a second greeting on one link");
    if (frame->id.generation == 0 || frame->id.session == 0)
        return fault_set(fault, ERR_CORRUPT, "a greeting without a generation or session");
    core->phase = REPLICA_LINKED;
    core->generation = frame->id.generation;
    core->session = frame->id.session;
    core->next = (struct replica_id){0};
    core->has_asked = false;
    return 0;
}

/* Of a session that is held, only a later one. */
static bool may_begin(const struct replica_core *core, const struct replica_id *id)
{
    const struct replica_id *held = &core->held.id;
    if (held->session == id->session && held->generation == id->generation)
        return id->seq > held->seq;
    return true;
}

static int judge_turn(struct replica_core *core, const struct replica_frame *frame,
                      struct fault *fault)
{
    bool wants_state = core->has_state && core->phase == REPLICA_LINKED;
    if (core->next.seq == 0) {
        if (!may_begin(core, &frame->id))
            return fault_set(fault, ERR_CORRUPT, "checkpoint %llu arrives where %llu is held",
                             (unsigned long long)frame->id.seq,
                             (unsigned long long)core->held.id.seq);
    } else if (frame->id.seq != core->next.seq) {
        return fault_set(fault, ERR_CORRUPT, "checkpoint %llu in the middle of %llu",
                         (unsigned long long)frame->id.seq, (unsigned long long)core->next.seq);
    }
    if (frame->type == REPLICA_FRAME_COMMIT  ? wants_state
        : frame->type == REPLICA_FRAME_STATE ? !wants_state
                                             : core->phase != REPLICA_LINKED)
        return fault_set(fault, ERR_CORRUPT, "a segment of checkpoint %llu out of its turn",
                         (unsigned long long)frame->id.seq);
    return 0;
}

/* Once, and while nothing is arriving: digests are of disks that nobody changes. */
static int on_ask(struct replica_core *core, struct fault *fault)
{
    if (core->has_asked || core->next.seq || core->phase != REPLICA_LINKED)
        return fault_set(fault, ERR_CORRUPT, "a question after disks out of its turn");
    core->has_asked = true;
    return 0;
}

int replica_core_judge(struct replica_core *core, const struct replica_frame *frame,
                       struct fault *fault)
{
    if (core->phase == REPLICA_TAKEN)
        return fault_set(fault, ERR_REFUSED, "the guest was taken over here as generation %llu",
                         (unsigned long long)core->generation_min);
    if (frame->id.generation < core->generation_min)
        return fault_set(fault, ERR_REFUSED, "generation %llu is over: it is %llu by now",
                         (unsigned long long)frame->id.generation,
                         (unsigned long long)core->generation_min);
    if (frame->type == REPLICA_FRAME_HELLO)
        return on_hello(core, frame, fault);
    if (core->phase == REPLICA_UNLINKED)
        return fault_set(fault, ERR_CORRUPT, "a segment before the greeting");
    if (frame->id.generation != core->generation || frame->id.session != core->session)
        return fault_set(fault, ERR_CORRUPT, "a segment of another session on this link");
    if (frame->type == REPLICA_FRAME_REFUSE)
        return 0;
    if (frame->type == REPLICA_FRAME_ASK)
        return on_ask(core, fault);
    int r = judge_turn(core, frame, fault);
    if (r < 0)
        return r;
    core->next = frame->id;
    if (frame->type == REPLICA_FRAME_STATE)
        core->phase = REPLICA_STATED;
    return 0;
}

void replica_core_kept(struct replica_core *core, uint64_t sum)
{
    assert(core->next.seq && core->phase == (core->has_state ? REPLICA_STATED : REPLICA_LINKED));
    core->held = (struct replica_held){.id = core->next, .sum = sum};
    core->generation_min =
        core->next.generation; /* a whole checkpoint, not a greeting, ends older ones */
    core->next = (struct replica_id){0};
    core->phase = REPLICA_LINKED;
}

void replica_core_unlinked(struct replica_core *core)
{
    if (core->phase == REPLICA_TAKEN)
        return;
    core->phase = REPLICA_UNLINKED;
    core->next = (struct replica_id){0};
}

int replica_core_take(struct replica_core *core, uint64_t generation, struct fault *fault)
{
    if (core->phase == REPLICA_TAKEN) {
        if (generation < core->generation_min)
            return fault_set(fault, ERR_STATE, "it was taken as generation %llu",
                             (unsigned long long)core->generation_min);
        core->generation_min = generation;
        return 0;
    }
    if (core->held.id.seq == 0)
        return fault_set(fault, ERR_STATE, "no whole checkpoint is held here yet");
    if (generation <= core->held.id.generation || generation <= core->generation_min)
        return fault_set(fault, ERR_REFUSED, "a failover needs a generation above %llu, not %llu",
                         (unsigned long long)core->generation_min, (unsigned long long)generation);
    core->phase = REPLICA_TAKEN;
    core->generation_min = generation;
    core->next = (struct replica_id){0};
    return 0;
}
