/* Encode and decode of each row stand side by side. A row that does not make sense is ERR_CORRUPT
 * and the coordinator does not start: guessing about ownership is how guests are run twice. */
#include "coordinator/rows.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "coordinator/cluster_view.h"
#include "coordinator/disk_move.h"
#include "coordinator/dr.h"
#include "coordinator/plan.h"
#include "coordinator/pool_store.h"
#include "coordinator/post_policy.h"
#include "coordinator/rule.h"
#include "coordinator/store.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

static void put_message(struct store_batch *batch, const ProtobufCMessage *message)
{
    size_t size = message ? protobuf_c_message_get_packed_size(message) : 0;
    AUTO_FREE uint8_t *bytes = malloc(size + 1);
    assert(bytes); /* control memory is small; without it there is no deciding */
    if (message)
        (void)protobuf_c_message_pack(message, bytes);
    store_batch_blob(batch, bytes, size);
}

static uint64_t number(const struct store_cell *cells, int column)
{
    return (uint64_t)cells[column].number;
}

static const char *text(const struct store_cell *cells, int column)
{
    return cells[column].type == STORE_TEXT ? cells[column].bytes : "";
}

static int bad_row(struct fault *fault, const char *table, const char *key, const char *what)
{
    return fault_set(fault, ERR_CORRUPT, "row '%.80s' of table %s has a bad %s", key, table, what);
}

/* ---- host -------------------------------------------------------------------------------------
 */

static void put_host(struct store_batch *batch, const struct cluster_host *host, uint64_t revision)
{
    store_batch_put(batch, STORE_HOST, host->name, revision);
    store_batch_number(batch, (int64_t)host->seen_unix_ms);
    put_message(batch, host->facts ? &host->facts->base : NULL);
    put_message(batch, host->policy ? &host->policy->base : NULL);
}

static int load_host(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                     struct fault *fault)
{
    if (!id_name_is_valid(key))
        return bad_row(fault, "host", key, "name");
    struct cluster_host *host = cluster_add_host(data, key);
    if (!host)
        return fault_set(fault, ERR_NOMEM, "no memory for host %s", key);
    host->revision = revision;
    host->seen_unix_ms = number(cells, STORE_HOST_SEEN);
    const struct store_cell *facts = &cells[STORE_HOST_FACTS];
    const struct store_cell *policy = &cells[STORE_HOST_POLICY];
    if (policy->count > 0) {
        host->policy =
            godwit__host_policy__unpack(NULL, policy->count, (const uint8_t *)policy->bytes);
        if (!host->policy)
            return bad_row(fault, "host", key, "policy");
    }
    if (facts->count == 0)
        return 0;
    host->facts = godwit__host_facts__unpack(NULL, facts->count, (const uint8_t *)facts->bytes);
    return host->facts ? 0 : bad_row(fault, "host", key, "description");
}

/* ---- VM ---------------------------------------------------------------------------------------
 */

static void put_vm(struct store_batch *batch, const struct cluster_vm *vm, uint64_t revision)
{
    store_batch_put(batch, STORE_VM, vm->id, revision);
    store_batch_text(batch, vm->spec->name);
    put_message(batch, &vm->spec->base);
}

static int load_vm(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                   struct fault *fault)
{
    if (strlen(key) >= ID_TEXT_SIZE)
        return bad_row(fault, "vm", key, "id");
    struct cluster_vm *vm = cluster_add_vm(data, key);
    if (!vm)
        return fault_set(fault, ERR_NOMEM, "no memory for VM %s", key);
    vm->revision = revision;
    const struct store_cell *spec = &cells[STORE_VM_SPEC];
    vm->spec = godwit__vm_spec__unpack(NULL, spec->count, (const uint8_t *)spec->bytes);
    if (!vm->spec || !vm->spec->name || !vm->spec->cpu || !vm->spec->cpu->baseline ||
        !vm->spec->memory)
        return bad_row(fault, "vm", key, "description");
    return 0;
}

/* ---- ownership record -------------------------------------------------------------------------
 */

static void put_own(struct store_batch *batch, const struct cluster_vm *vm, uint64_t revision)
{
    const struct own *own = &vm->own;
    store_batch_put(batch, STORE_OWN, vm->id, revision);
    store_batch_number(batch, (int64_t)own->gen);
    store_batch_number(batch, (int64_t)own->hiwater);
    store_batch_text(batch, own_phase_name(own->phase));
    store_batch_text(batch, own->owner);
    store_batch_text(batch, own->incarnation);
    store_batch_text(batch, own->target);
    store_batch_text(batch, own->move_id);
    store_batch_number(batch, (int64_t)vm->want);
    store_batch_number(batch, vm->crashed);
    store_batch_text(batch, vm->reason);
    store_batch_text(batch, vm->suspended);
    store_batch_text(batch, vm->restoring);
    store_batch_number(batch, (int64_t)vm->found_gen);
}

static int load_own(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                    struct fault *fault)
{
    struct cluster_vm *vm = cluster_vm(data, key);
    if (!vm)
        return bad_row(fault, "own", key, "VM: there is none of that id");
    struct own *own = &vm->own;
    vm->own_revision = revision;
    own->gen = number(cells, STORE_OWN_GEN);
    own->hiwater = number(cells, STORE_OWN_HIWATER);
    own->phase = own_phase_from_name(text(cells, STORE_OWN_PHASE));
    if (own->phase == OWN_PHASE_COUNT || own->gen > own->hiwater)
        return bad_row(fault, "own", key, "phase or generation");
    WORDS_COPY(own->owner, text(cells, STORE_OWN_OWNER));
    WORDS_COPY(own->incarnation, text(cells, STORE_OWN_INCARNATION));
    WORDS_COPY(own->target, text(cells, STORE_OWN_TARGET));
    WORDS_COPY(own->move_id, text(cells, STORE_OWN_MOVE));
    if (number(cells, STORE_OWN_WANT) > WANT_REMOVED)
        return bad_row(fault, "own", key, "want");
    vm->want = (enum cluster_want)number(cells, STORE_OWN_WANT);
    vm->crashed = number(cells, STORE_OWN_CRASHED) != 0;
    WORDS_COPY(vm->reason, text(cells, STORE_OWN_REASON));
    WORDS_COPY(vm->suspended, text(cells, STORE_OWN_SUSPENDED));
    WORDS_COPY(vm->restoring, text(cells, STORE_OWN_RESTORING));
    vm->found_gen = number(cells, STORE_OWN_FOUND_GEN);
    return 0;
}

/* ---- job --------------------------------------------------------------------------------------
 */

static void put_job(struct store_batch *batch, const struct cluster *cluster,
                    const struct cluster_job *job, uint64_t revision, struct cluster_now now)
{
    const struct job_core *core = &job->core;
    store_batch_put(batch, STORE_JOB, core->id, revision);
    store_batch_text(batch, core->vm_id);
    store_batch_text(batch, job_state_name(core->state));
    store_batch_text(batch, job_step_name(core->step));
    store_batch_text(batch, core->move_id);
    store_batch_text(batch, core->source_host);
    store_batch_text(batch, core->target_host);
    store_batch_number(batch, (int64_t)core->source_generation);
    store_batch_number(batch, (int64_t)core->generation);
    store_batch_number(batch, (int64_t)core->resume_generation);
    store_batch_number(batch, core->out_sent);
    store_batch_number(batch, core->cancel);
    store_batch_number(batch, core->source.latch);
    store_batch_number(batch, core->target.latch);
    store_batch_number(batch, core->source.gone);
    store_batch_number(batch, core->target.gone);
    store_batch_number(batch, (int64_t)core->error_code);
    store_batch_text(batch, core->error_text);
    struct cluster_job_message message = {0};
    cluster_job_info(cluster, job, now.ns, &message);
    put_message(batch, &message.info.base);
}

static bool latch_is_known(uint64_t latch)
{
    return protobuf_c_enum_descriptor_get_value(&godwit__latch__descriptor, (int)latch) != NULL;
}

static int load_job_info(struct cluster_job *job, const struct store_cell *cell)
{
    Godwit__JobInfo *info =
        godwit__job_info__unpack(NULL, cell->count, (const uint8_t *)cell->bytes);
    if (!info)
        return -1;
    WORDS_COPY(job->vm_name, info->vm ? info->vm : "");
    WORDS_COPY(job->plan_id, info->plan ? info->plan : "");
    WORDS_COPY(job->reason, info->reason ? info->reason : "");
    job->created_unix_ms = info->created_unix_ms;
    job->ended_unix_ms = info->ended_unix_ms;
    job->vcpus = info->vcpus;
    job->memory_bytes = info->memory_bytes;
    job->goals = TAKE(info->goals);
    job->progress = TAKE(info->progress);
    job->receipt = TAKE(info->receipt);
    job->forecast = TAKE(info->forecast);
    for (size_t i = 0; i < info->n_notes && i < CLUSTER_NOTES_MAX; i++)
        WORDS_COPY(job->notes[job->note_count++], info->notes[i]);
    godwit__job_info__free_unpacked(info, NULL);
    return 0;
}

static int load_job(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                    struct fault *fault)
{
    if (strlen(key) >= ID_SHORT_SIZE)
        return bad_row(fault, "job", key, "id");
    struct cluster_job *job = cluster_add_job(data, key);
    if (!job)
        return fault_set(fault, ERR_NOMEM, "no memory for job %s", key);
    struct job_core *core = &job->core;
    job->revision = revision;
    WORDS_COPY(core->vm_id, text(cells, STORE_JOB_VM));
    core->state = job_state_from_name(text(cells, STORE_JOB_STATE));
    core->step = job_step_from_name(text(cells, STORE_JOB_STEP));
    if (core->state == JOB_STATE_COUNT || core->step == JOB_STEP_COUNT)
        return bad_row(fault, "job", key, "state or step");
    WORDS_COPY(core->move_id, text(cells, STORE_JOB_MOVE));
    WORDS_COPY(core->source_host, text(cells, STORE_JOB_SOURCE));
    WORDS_COPY(core->target_host, text(cells, STORE_JOB_TARGET));
    core->source_generation = number(cells, STORE_JOB_SOURCE_GEN);
    core->generation = number(cells, STORE_JOB_GEN);
    core->resume_generation = number(cells, STORE_JOB_RESUME_GEN);
    core->out_sent = number(cells, STORE_JOB_OUT_SENT) != 0;
    core->cancel = number(cells, STORE_JOB_CANCEL) != 0;
    uint64_t source = number(cells, STORE_JOB_SOURCE_LATCH);
    uint64_t target = number(cells, STORE_JOB_TARGET_LATCH);
    if (!latch_is_known(source) || !latch_is_known(target))
        return bad_row(fault, "job", key, "latch");
    core->source.latch = (Godwit__Latch)source;
    core->target.latch = (Godwit__Latch)target;
    core->source.gone = number(cells, STORE_JOB_SOURCE_GONE) != 0;
    core->target.gone = number(cells, STORE_JOB_TARGET_GONE) != 0;
    uint64_t code = number(cells, STORE_JOB_CODE);
    core->error_code = gw_code_row((int)code) ? (enum gw_code)code : GW_NONE;
    WORDS_COPY(core->error_text, text(cells, STORE_JOB_ERROR));
    if (load_job_info(job, &cells[STORE_JOB_INFO]) != 0)
        return bad_row(fault, "job", key, "description");
    core->may_postcopy = post_policy_may(job->goals);
    if (job_core_is_active(core) && !cluster_vm(data, core->vm_id))
        return bad_row(fault, "job", key, "VM: there is none of that id");
    return 0;
}

/* ---- rule, plan, settings ---------------------------------------------------------------------
 */

static int load_rule(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                     struct fault *fault)
{
    struct cluster_rule *rule = cluster_add_rule(data);
    if (!rule)
        return fault_set(fault, ERR_NOMEM, "no memory for rule %s", key);
    const struct store_cell *cell = &cells[STORE_RULE_RULE];
    rule->revision = revision;
    rule->rule = godwit__rule__unpack(NULL, cell->count, (const uint8_t *)cell->bytes);
    bool ok = rule->rule && rule->rule->id && strcmp(rule->rule->id, key) == 0 &&
              rule->rule->kind && rule_kind_from_name(rule->rule->kind) != LAYOUT_RULE_KIND_COUNT;
    return ok ? 0 : bad_row(fault, "rule", key, "description");
}

static int load_store(void *data, const char *key, uint64_t revision,
                      const struct store_cell *cells, struct fault *fault)
{
    const struct store_cell *cell = &cells[STORE_DISKS_INFO];
    Godwit__PoolStore *info =
        godwit__pool_store__unpack(NULL, cell->count, (const uint8_t *)cell->bytes);
    struct problem problem;
    bool ok = info && pool_store_judge(info, &problem) == 0 && strcmp(info->name, key) == 0;
    struct cluster_store *store = ok ? cluster_add_store(data, info) : NULL;
    if (store) {
        store->revision = revision;
        return 0;
    }
    if (info)
        godwit__pool_store__free_unpacked(info, NULL);
    return ok ? fault_set(fault, ERR_NOMEM, "no memory for store %s", key)
              : bad_row(fault, "disk_store", key, "description");
}

static int load_image(void *data, const char *key, uint64_t revision,
                      const struct store_cell *cells, struct fault *fault)
{
    struct cluster_image *image = cluster_add_image(data);
    if (!image)
        return fault_set(fault, ERR_NOMEM, "no memory for image %s", key);
    const struct store_cell *cell = &cells[STORE_IMAGE_INFO];
    image->revision = revision;
    image->info = godwit__image_info__unpack(NULL, cell->count, (const uint8_t *)cell->bytes);
    bool ok = image->info && image->info->name && strcmp(image->info->name, key) == 0 &&
              vm_spec_digest_is_valid(image->info->digest) && image->info->size > 0;
    return ok ? 0 : bad_row(fault, "image", key, "description");
}

static int load_disk_move(void *data, const char *key, uint64_t revision,
                          const struct store_cell *cells, struct fault *fault)
{
    const struct store_cell *cell = &cells[STORE_DISK_MOVE_INFO];
    Godwit__DiskMove *info =
        godwit__disk_move__unpack(NULL, cell->count, (const uint8_t *)cell->bytes);
    bool ok = info && info->id && strcmp(info->id, key) == 0 && strlen(key) < ID_SHORT_SIZE;
    struct cluster_disk_move *move = ok ? disk_move_load(data, info) : NULL;
    if (move) {
        move->revision = revision;
        return 0;
    }
    if (info)
        godwit__disk_move__free_unpacked(info, NULL);
    return bad_row(fault, "disk_move", key, "description");
}

static int load_dr(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                   struct fault *fault)
{
    const struct store_cell *cell = &cells[STORE_DR_INFO];
    Godwit__DrRecord *info =
        godwit__dr_record__unpack(NULL, cell->count, (const uint8_t *)cell->bytes);
    bool ok = info && info->vm_id && strcmp(info->vm_id, key) == 0;
    struct cluster_dr *dr = ok ? dr_load(data, info) : NULL;
    if (dr) {
        dr->revision = revision;
        return 0;
    }
    if (info)
        godwit__dr_record__free_unpacked(info, NULL);
    return bad_row(fault, "dr", key, "description");
}

static void put_plan(struct store_batch *batch, const struct cluster_plan *plan, uint64_t revision)
{
    store_batch_put(batch, STORE_PLAN, plan->id, revision);
    store_batch_text(batch, plan->info->state);
    put_message(batch, &plan->info->base);
}

static bool plan_is_whole(const struct cluster_plan *plan, const char *key)
{
    const Godwit__PlanInfo *info = plan->info;
    bool ok = info && info->id && strcmp(info->id, key) == 0 && info->kind &&
              plan_state_of(plan) != PLAN_STATE_COUNT && info->n_steps <= PLAN_STEPS_MAX;
    for (size_t i = 0; ok && i < info->n_steps; i++) {
        const Godwit__PlanStep *step = info->steps[i];
        bool of_vm = plan_step_is(step, "migrate") || plan_step_is(step, "cold") ||
                     plan_step_is(step, "stop");
        ok = step->kind && step->source && step->number == i + 1 &&
             plan_step_state_of(step) != STEP_STATE_COUNT && (!of_vm || (step->vm_id && step->vm));
    }
    for (size_t i = 0; ok && i < info->n_blockers; i++)
        ok = info->blockers[i]->vm && info->blockers[i]->reason;
    return ok;
}

static int load_plan(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                     struct fault *fault)
{
    if (strlen(key) >= ID_SHORT_SIZE)
        return bad_row(fault, "plan", key, "id");
    struct cluster_plan *plan = cluster_add_plan(data, key);
    if (!plan)
        return fault_set(fault, ERR_NOMEM, "no memory for plan %s", key);
    const struct store_cell *cell = &cells[STORE_PLAN_INFO];
    plan->revision = revision;
    godwit__plan_info__free_unpacked(plan->info, NULL);
    plan->info = godwit__plan_info__unpack(NULL, cell->count, (const uint8_t *)cell->bytes);
    if (!plan_is_whole(plan, key))
        return bad_row(fault, "plan", key, "description");
    cluster_plan_ready(plan);
    return 0;
}

static const char *const auto_words[] = {
    [AUTO_OFF] = "off", [AUTO_APPROVE] = "approve", [AUTO_ON] = "on"};

static void put_settings(struct store_batch *batch, const struct cluster *cluster,
                         uint64_t revision)
{
    store_batch_put(batch, STORE_SETTING, "balance.auto", revision);
    store_batch_text(batch, auto_words[cluster->auto_balance]);
}

/* ---- fence, setting ---------------------------------------------------------------------------
 */

static void put_fence(struct store_batch *batch, const struct cluster_host *host, uint64_t revision)
{
    enum ha_phase phase = host->ha.phase;
    bool lasts = phase == HA_FENCING || phase == HA_FENCED || phase == HA_QUARANTINE;
    store_batch_put(batch, STORE_FENCE, host->name, revision);
    store_batch_text(batch, host->fence_agent);
    store_batch_text(batch, host->fence_options);
    store_batch_text(batch, ha_phase_name(lasts ? phase : HA_WELL));
    store_batch_text(batch, host->ha.incarnation);
    store_batch_text(batch, ha_class_name(host->ha.fenced_by));
}

static int load_fence(void *data, const char *key, uint64_t revision,
                      const struct store_cell *cells, struct fault *fault)
{
    struct cluster_host *host = cluster_host(data, key);
    if (!host)
        return bad_row(fault, "fence", key, "host: there is none of that name");
    host->fence_revision = revision;
    WORDS_COPY(host->fence_agent, text(cells, STORE_FENCE_AGENT));
    WORDS_COPY(host->fence_options, text(cells, STORE_FENCE_OPTIONS));
    WORDS_COPY(host->ha.incarnation, text(cells, STORE_FENCE_INCARNATION));
    host->ha.phase = ha_phase_from_name(text(cells, STORE_FENCE_PHASE));
    host->ha.fenced_by = ha_class_from_name(text(cells, STORE_FENCE_CLASS));
    if (host->ha.phase == HA_PHASE_COUNT || host->ha.fenced_by == HA_CLASS_COUNT)
        return bad_row(fault, "fence", key, "phase or class");
    return 0;
}

/* ---- snapshot ----------------------------------------------------------------------------------
 */

static void put_snapshot(struct store_batch *batch, const struct cluster_snapshot *snapshot,
                         uint64_t revision)
{
    store_batch_put(batch, STORE_SNAPSHOT, snapshot->info->id, revision);
    put_message(batch, &snapshot->info->base);
}

static int load_snapshot(void *data, const char *key, uint64_t revision,
                         const struct store_cell *cells, struct fault *fault)
{
    const struct store_cell *cell = &cells[STORE_SNAPSHOT_INFO];
    Godwit__SnapshotInfo *info =
        godwit__snapshot_info__unpack(NULL, cell->count, (const uint8_t *)cell->bytes);
    bool fits = info && info->id && strcmp(info->id, key) == 0 && info->vm_id && info->name &&
                info->host;
    struct cluster_snapshot *snapshot = fits ? cluster_add_snapshot(data, info) : NULL;
    if (info)
        godwit__snapshot_info__free_unpacked(info, NULL);
    if (!fits)
        return bad_row(fault, "snapshot", key, "description");
    if (!snapshot)
        return fault_set(fault, ERR_NOMEM, "no memory for snapshot %s", key);
    snapshot->revision = revision;
    return 0;
}

static const char *const setting_names[SETTING_COUNT] = {
    [SETTING_HA_DISARMED] = "ha.disarmed_until_unix_ms",
    [SETTING_HA_RESERVE] = "ha.reserve",
    [SETTING_RESTORED] = "restored_unix_ms",
};

static void put_setting(struct store_batch *batch, const struct cluster_put *put)
{
    const struct cluster_setting_row *row = put->object;
    store_batch_put(batch, STORE_SETTING, put->key, put->revision);
    store_batch_text(batch, row->value);
}

const char *rows_setting_name(enum cluster_setting setting)
{
    assert((unsigned)setting < SETTING_COUNT);
    return setting_names[setting];
}

static int load_setting(void *data, const char *key, uint64_t revision,
                        const struct store_cell *cells, struct fault *fault)
{
    struct cluster *cluster = data;
    for (enum cluster_setting i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(setting_names[i], key) != 0)
            continue;
        cluster->settings[i].revision = revision;
        WORDS_COPY(cluster->settings[i].value, text(cells, STORE_SETTING_VALUE));
    }
    if (strcmp(key, "balance.auto") != 0)
        return 0; /* of somebody else */
    cluster->settings_revision = revision;
    for (enum cluster_auto word = AUTO_OFF; word <= AUTO_ON; word++) {
        if (strcmp(text(cells, STORE_SETTING_VALUE), auto_words[word]) == 0) {
            cluster->auto_balance = word;
            return 0;
        }
    }
    return bad_row(fault, "setting", key, "value");
}

/* ---- event ------------------------------------------------------------------------------------
 */

static void put_event(struct store_batch *batch, const struct cluster_put *put,
                      struct cluster_now now, uint64_t *last_event)
{
    char key[24];
    (void)snprintf(key, sizeof key, "%020llu", (unsigned long long)++*last_event);
    store_batch_put(batch, STORE_EVENT, key, 0);
    store_batch_number(batch, (int64_t)now.unix_ms);
    store_batch_text(batch, put->key);
    store_batch_text(batch, put->text);
}

static int load_event(void *data, const char *key, uint64_t revision,
                      const struct store_cell *cells, struct fault *fault)
{
    (void)revision;
    (void)cells;
    (void)fault;
    *(uint64_t *)data = strtoull(key, NULL, 10); /* rows come in the order of their keys */
    return 0;
}

/* ---- all --------------------------------------------------------------------------------------
 */

void rows_put(struct store_batch *batch, const struct cluster *cluster,
              const struct cluster_put *put, struct cluster_now now, uint64_t *last_event)
{
    switch (put->kind) {
    case PUT_HOST:
        put_host(batch, put->object, put->revision);
        break;
    case PUT_VM:
        put_vm(batch, put->object, put->revision);
        break;
    case PUT_OWN:
        put_own(batch, put->object, put->own_revision);
        break;
    case PUT_JOB:
        put_job(batch, cluster, put->object, put->revision, now);
        break;
    case PUT_DELETE_VM:
        if (put->own_revision > 0)
            store_batch_delete(batch, STORE_OWN, put->key, put->own_revision);
        store_batch_delete(batch, STORE_VM, put->key, put->revision);
        break;
    case PUT_DELETE_JOB:
        store_batch_delete(batch, STORE_JOB, put->key, put->revision);
        break;
    case PUT_FENCE:
        put_fence(batch, put->object, put->revision);
        break;
    case PUT_SNAPSHOT:
        put_snapshot(batch, put->object, put->revision);
        break;
    case PUT_DELETE_SNAPSHOT:
        store_batch_delete(batch, STORE_SNAPSHOT, put->key, put->revision);
        break;
    case PUT_SETTING:
        put_setting(batch, put);
        break;
    case PUT_EVENT:
        put_event(batch, put, now, last_event);
        break;
    case PUT_RULE: {
        const struct cluster_rule *rule = put->object;
        store_batch_put(batch, STORE_RULE, rule->rule->id, put->revision);
        put_message(batch, &rule->rule->base);
        break;
    }
    case PUT_DELETE_RULE:
        store_batch_delete(batch, STORE_RULE, put->name, put->revision);
        break;
    case PUT_STORE: {
        const struct cluster_store *disks = put->object;
        store_batch_put(batch, STORE_DISKS, disks->store->name, put->revision);
        put_message(batch, &disks->store->base);
        break;
    }
    case PUT_DISK_MOVE: {
        const struct cluster_disk_move *move = put->object;
        store_batch_put(batch, STORE_DISK_MOVE, move->info->id, put->revision);
        put_message(batch, &move->info->base);
        break;
    }
    case PUT_DELETE_DISK_MOVE:
        store_batch_delete(batch, STORE_DISK_MOVE, put->key, put->revision);
        break;
    case PUT_DR: {
        const struct cluster_dr *dr = put->object;
        store_batch_put(batch, STORE_DR, dr->info->vm_id, put->revision);
        put_message(batch, &dr->info->base);
        break;
    }
    case PUT_DELETE_DR:
        store_batch_delete(batch, STORE_DR, put->key, put->revision);
        break;
    case PUT_DELETE_STORE:
        store_batch_delete(batch, STORE_DISKS, put->name, put->revision);
        break;
    case PUT_IMAGE: {
        const struct cluster_image *image = put->object;
        store_batch_put(batch, STORE_IMAGE, image->info->name, put->revision);
        put_message(batch, &image->info->base);
        break;
    }
    case PUT_DELETE_IMAGE:
        store_batch_delete(batch, STORE_IMAGE, put->name, put->revision);
        break;
    case PUT_PLAN:
        put_plan(batch, put->object, put->revision);
        break;
    case PUT_DELETE_PLAN:
        store_batch_delete(batch, STORE_PLAN, put->key, put->revision);
        break;
    case PUT_SETTINGS:
        put_settings(batch, cluster, put->revision);
        break;
    }
}

static int by_creation(const void *a, const void *b)
{
    uint64_t x = (*(struct cluster_job *const *)a)->created_unix_ms;
    uint64_t y = (*(struct cluster_job *const *)b)->created_unix_ms;
    return x < y ? -1 : x > y;
}

static int plan_by_creation(const void *a, const void *b)
{
    uint64_t x = (*(struct cluster_plan *const *)a)->info->created_unix_ms;
    uint64_t y = (*(struct cluster_plan *const *)b)->info->created_unix_ms;
    return x < y ? -1 : x > y;
}

int rows_load(struct store *store, struct cluster *cluster, uint64_t *ret_last_event,
              struct fault *fault)
{
    int r = store_load(store, STORE_HOST, load_host, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_VM, load_vm, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_OWN, load_own, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_JOB, load_job, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_RULE, load_rule, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_DISKS, load_store, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_DISK_MOVE, load_disk_move, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_DR, load_dr, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_PLAN, load_plan, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_IMAGE, load_image, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_FENCE, load_fence, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_SETTING, load_setting, cluster, fault);
    if (r == 0)
        r = store_load(store, STORE_SNAPSHOT, load_snapshot, cluster, fault);
    if (r < 0)
        return r;
    if (cluster->plan_count > 1)
        qsort(cluster->plans, cluster->plan_count, sizeof *cluster->plans, plan_by_creation);
    if (cluster->job_count > 1)
        qsort(cluster->jobs, cluster->job_count, sizeof *cluster->jobs, by_creation);
    *ret_last_event = 0;
    return store_load(store, STORE_EVENT, load_event, ret_last_event, fault);
}
