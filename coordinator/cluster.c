#include "coordinator/cluster.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/own.h"
#include "coordinator/words.h"

/* ---- growing arrays ---------------------------------------------------------------------------
 */

static void *grow(void *array, size_t count, size_t *room, size_t item_bytes)
{
    if (count < *room)
        return array;
    *room = *room ? *room * 2 : 8;
    void *bigger = reallocarray(array, *room, item_bytes);
    assert(bigger); /* see cluster_todo_put */
    return bigger;
}

struct cluster_put *cluster_todo_put(struct cluster_todo *todo, enum cluster_put_kind kind)
{
    todo->puts = grow(todo->puts, todo->put_count, &todo->put_room, sizeof *todo->puts);
    struct cluster_put *put = &todo->puts[todo->put_count++];
    *put = (struct cluster_put){.kind = kind};
    return put;
}

struct cluster_order *cluster_todo_order(struct cluster_todo *todo, enum cluster_order_kind kind)
{
    todo->orders = grow(todo->orders, todo->order_count, &todo->order_room, sizeof *todo->orders);
    struct cluster_order *order = &todo->orders[todo->order_count++];
    *order = (struct cluster_order){.kind = kind};
    return order;
}

struct cluster_answer *cluster_todo_answer(struct cluster_todo *todo)
{
    todo->answers =
        grow(todo->answers, todo->answer_count, &todo->answer_room, sizeof *todo->answers);
    struct cluster_answer *answer = &todo->answers[todo->answer_count++];
    *answer = (struct cluster_answer){0};
    return answer;
}

void cluster_todo_news(struct cluster_todo *todo, const char *job_id)
{
    for (size_t i = 0; i < todo->news_count; i++) {
        if (strcmp(todo->news[i], job_id) == 0)
            return;
    }
    todo->news = grow(todo->news, todo->news_count, &todo->news_room, sizeof *todo->news);
    (void)snprintf(todo->news[todo->news_count++], ID_SHORT_SIZE, "%s", job_id);
}

void cluster_todo_event(struct cluster_todo *todo, const char *vm_id, const char *format, ...)
{
    struct cluster_put *put = cluster_todo_put(todo, PUT_EVENT);
    WORDS_COPY(put->key, vm_id);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(put->text, sizeof put->text, format, args); /* cut words are better than none */
    va_end(args);
}

void cluster_todo_deinit(struct cluster_todo *todo)
{
    for (size_t i = 0; i < todo->answer_count; i++) {
        free(todo->answers[i].problem);
        if (todo->answers[i].receipt)
            godwit__move_receipt__free_unpacked(todo->answers[i].receipt, NULL);
    }
    free(todo->puts);
    free(todo->orders);
    free(todo->answers);
    free(todo->news);
    *todo = (struct cluster_todo){0};
}

/* ---- life -------------------------------------------------------------------------------------
 */

static void host_free(struct cluster_host *host)
{
    if (host->facts)
        godwit__host_facts__free_unpacked(host->facts, NULL);
    if (host->policy)
        godwit__host_policy__free_unpacked(host->policy, NULL);
    if (host->found)
        godwit__agent_found__free_unpacked(host->found, NULL);
    if (host->images)
        godwit__agent_images__free_unpacked(host->images, NULL);
    free(host);
}

static void vm_free(struct cluster_vm *vm)
{
    if (vm->spec)
        godwit__vm_spec__free_unpacked(vm->spec, NULL);
    free(vm);
}

struct cluster_job *cluster_job_free(struct cluster_job *job)
{
    if (!job)
        return NULL;
    if (job->goals)
        godwit__move_goals__free_unpacked(job->goals, NULL);
    if (job->progress)
        godwit__move_progress__free_unpacked(job->progress, NULL);
    if (job->receipt)
        godwit__move_receipt__free_unpacked(job->receipt, NULL);
    if (job->forecast)
        godwit__move_forecast__free_unpacked(job->forecast, NULL);
    free(job);
    return NULL;
}

static void store_free(struct cluster_store *store)
{
    if (store->store)
        godwit__pool_store__free_unpacked(store->store, NULL);
    free(store->places);
    free(store);
}

static void image_free(struct cluster_image *image)
{
    if (image->info)
        godwit__image_info__free_unpacked(image->info, NULL);
    free(image);
}

static void rule_free(struct cluster_rule *rule)
{
    if (rule->rule)
        godwit__rule__free_unpacked(rule->rule, NULL);
    free(rule);
}

static void plan_free(struct cluster_plan *plan)
{
    if (plan->info)
        godwit__plan_info__free_unpacked(plan->info, NULL);
    free(plan->runs);
    free(plan);
}

static void dr_free(struct cluster_dr *dr)
{
    if (dr->info)
        godwit__dr_record__free_unpacked(dr->info, NULL);
    if (dr->out)
        godwit__protect_status__free_unpacked(dr->out, NULL);
    if (dr->in)
        godwit__replica_status__free_unpacked(dr->in, NULL);
    explicit_bzero(dr->psk, sizeof dr->psk);
    free(dr);
}

static void snapshot_free(struct cluster_snapshot *snapshot)
{
    if (snapshot->info)
        godwit__snapshot_info__free_unpacked(snapshot->info, NULL);
    free(snapshot);
}

void cluster_deinit(struct cluster *cluster)
{
    for (size_t i = 0; i < cluster->host_count; i++)
        host_free(cluster->hosts[i]);
    for (size_t i = 0; i < cluster->vm_count; i++)
        vm_free(cluster->vms[i]);
    for (size_t i = 0; i < cluster->job_count; i++)
        (void)cluster_job_free(cluster->jobs[i]);
    for (size_t i = 0; i < cluster->rule_count; i++)
        rule_free(cluster->rules[i]);
    for (size_t i = 0; i < cluster->store_count; i++)
        store_free(cluster->stores[i]);
    free(cluster->stores);
    for (size_t i = 0; i < cluster->image_count; i++)
        image_free(cluster->images[i]);
    for (size_t i = 0; i < cluster->disk_move_count; i++) {
        if (cluster->disk_moves[i]->info)
            godwit__disk_move__free_unpacked(cluster->disk_moves[i]->info, NULL);
        free(cluster->disk_moves[i]);
    }
    free(cluster->disk_moves);
    for (size_t i = 0; i < cluster->dr_count; i++)
        dr_free(cluster->drs[i]);
    free(cluster->drs);
    for (size_t i = 0; i < cluster->plan_count; i++)
        plan_free(cluster->plans[i]);
    for (size_t i = 0; i < cluster->snapshot_count; i++)
        snapshot_free(cluster->snapshots[i]);
    free(cluster->snapshots);
    free(cluster->links);
    free(cluster->rules);
    free(cluster->images);
    free(cluster->plans);
    free(cluster->hosts);
    free(cluster->vms);
    free(cluster->jobs);
    name_map_deinit(&cluster->hosts_by_name);
    name_map_deinit(&cluster->vms_by_id);
    name_map_deinit(&cluster->jobs_by_id);
    *cluster = (struct cluster){0};
}

/* Adds a new zeroed object of `bytes` at the end of an array of pointers. */
static void *add(void ***array, size_t *count, size_t bytes)
{
    void **bigger = reallocarray(*array, *count + 1, sizeof *bigger);
    if (!bigger)
        return NULL;
    *array = bigger;
    void *object = calloc(1, bytes);
    if (object)
        bigger[(*count)++] = object;
    return object;
}

/* One that its map has no memory for is taken out again. */
static void *add_named(struct name_map *map, const char *name, size_t *count, void *object)
{
    if (!object || name_map_put(map, name, object))
        return object;
    (*count)--;
    free(object);
    return NULL;
}

struct cluster_host *cluster_add_host(struct cluster *cluster, const char *name)
{
    struct cluster_host *host = add((void ***)&cluster->hosts, &cluster->host_count, sizeof *host);
    if (host) {
        WORDS_COPY(host->name, name);
        host->index = cluster->host_count - 1;
    }
    return add_named(&cluster->hosts_by_name, host ? host->name : "", &cluster->host_count, host);
}

struct cluster_vm *cluster_add_vm(struct cluster *cluster, const char *id)
{
    struct cluster_vm *vm = add((void ***)&cluster->vms, &cluster->vm_count, sizeof *vm);
    if (vm)
        WORDS_COPY(vm->id, id);
    return add_named(&cluster->vms_by_id, vm ? vm->id : "", &cluster->vm_count, vm);
}

struct cluster_job *cluster_add_job(struct cluster *cluster, const char *id)
{
    struct cluster_job *job = add((void ***)&cluster->jobs, &cluster->job_count, sizeof *job);
    if (job)
        WORDS_COPY(job->core.id, id);
    return add_named(&cluster->jobs_by_id, job ? job->core.id : "", &cluster->job_count, job);
}

struct cluster_rule *cluster_add_rule(struct cluster *cluster)
{
    struct cluster_rule *rule;
    return add((void ***)&cluster->rules, &cluster->rule_count, sizeof *rule);
}

struct cluster_store *cluster_add_store(struct cluster *cluster, Godwit__PoolStore *taken)
{
    struct cluster_store_place *places = calloc(taken->n_hosts + 1, sizeof *places);
    struct cluster_store *store =
        places ? add((void ***)&cluster->stores, &cluster->store_count, sizeof *store) : NULL;
    if (!store) {
        free(places);
        return NULL;
    }
    for (size_t i = 0; i < taken->n_hosts; i++) {
        WORDS_COPY(places[i].host, taken->hosts[i]);
        WORDS_COPY(places[i].state, "unknown");
    }
    store->places = places;
    store->store = taken;
    return store;
}

struct cluster_disk_move *cluster_add_disk_move(struct cluster *cluster)
{
    struct cluster_disk_move *move;
    return add((void ***)&cluster->disk_moves, &cluster->disk_move_count, sizeof *move);
}

struct cluster_dr *cluster_add_dr(struct cluster *cluster, struct cluster_vm *vm)
{
    struct cluster_dr *dr = add((void ***)&cluster->drs, &cluster->dr_count, sizeof *dr);
    assert(!vm->dr);
    if (dr) {
        dr->vm = vm;
        vm->dr = dr;
    }
    return dr;
}

struct cluster_snapshot *cluster_add_snapshot(struct cluster *cluster,
                                              const Godwit__SnapshotInfo *info)
{
    Godwit__SnapshotInfo *copy = cluster_message_copy(&info->base);
    struct cluster_snapshot *snapshot =
        copy ? add((void ***)&cluster->snapshots, &cluster->snapshot_count, sizeof *snapshot) : NULL;
    if (snapshot)
        snapshot->info = copy;
    else if (copy)
        godwit__snapshot_info__free_unpacked(copy, NULL);
    return snapshot;
}

struct cluster_plan *cluster_add_plan(struct cluster *cluster, const char *id)
{
    struct cluster_plan *plan = add((void ***)&cluster->plans, &cluster->plan_count, sizeof *plan);
    if (!plan)
        return NULL;
    WORDS_COPY(plan->id, id);
    plan->info = calloc(1, sizeof *plan->info);
    if (!plan->info) {
        cluster->plan_count--;
        free(plan);
        return NULL;
    }
    godwit__plan_info__init(plan->info);
    return plan;
}

void cluster_plan_ready(struct cluster_plan *plan)
{
    free(plan->runs);
    plan->runs = calloc(plan->info->n_steps + 1, sizeof *plan->runs);
    assert(plan->runs); /* see cluster_todo_put */
}

/* Keeps the order of what is left. */
static void take_out(void **array, size_t *count, const void *object)
{
    size_t at = 0;
    while (at < *count && array[at] != object)
        at++;
    assert(at < *count); /* it is in its cluster */
    memmove(&array[at], &array[at + 1], (*count - at - 1) * sizeof *array);
    (*count)--;
}

void cluster_drop_vm(struct cluster *cluster, struct cluster_vm *vm)
{
    assert(!vm->job && !vm->disk_move && !vm->dr);
    take_out((void **)cluster->vms, &cluster->vm_count, vm);
    name_map_remove(&cluster->vms_by_id, vm->id);
    vm_free(vm);
}

void cluster_drop_job(struct cluster *cluster, struct cluster_job *job)
{
    assert(!job_core_is_active(&job->core));
    take_out((void **)cluster->jobs, &cluster->job_count, job);
    name_map_remove(&cluster->jobs_by_id, job->core.id);
    (void)cluster_job_free(job);
}

void cluster_drop_rule(struct cluster *cluster, struct cluster_rule *rule)
{
    take_out((void **)cluster->rules, &cluster->rule_count, rule);
    rule_free(rule);
}

void cluster_drop_disk_move(struct cluster *cluster, struct cluster_disk_move *move)
{
    take_out((void **)cluster->disk_moves, &cluster->disk_move_count, move);
}

void cluster_drop_dr(struct cluster *cluster, struct cluster_dr *dr)
{
    take_out((void **)cluster->drs, &cluster->dr_count, dr);
    dr->vm->dr = NULL;
    dr_free(dr);
}

void cluster_drop_store(struct cluster *cluster, struct cluster_store *store)
{
    take_out((void **)cluster->stores, &cluster->store_count, store);
    store_free(store);
}

struct cluster_image *cluster_add_image(struct cluster *cluster)
{
    struct cluster_image *image;
    return add((void ***)&cluster->images, &cluster->image_count, sizeof *image);
}

void cluster_drop_image(struct cluster *cluster, struct cluster_image *image)
{
    take_out((void **)cluster->images, &cluster->image_count, image);
    image_free(image);
}

void cluster_drop_snapshot(struct cluster *cluster, struct cluster_snapshot *snapshot)
{
    take_out((void **)cluster->snapshots, &cluster->snapshot_count, snapshot);
    snapshot_free(snapshot);
}

void cluster_drop_plan(struct cluster *cluster, struct cluster_plan *plan)
{
    take_out((void **)cluster->plans, &cluster->plan_count, plan);
    plan_free(plan);
}

/* ---- chance -----------------------------------------------------------------------------------
 */

void cluster_seed(struct cluster *cluster, uint64_t a, uint64_t b)
{
    cluster->chance[0] = a;
    cluster->chance[1] = b | 1; /* never all zero */
}

static uint64_t draw(struct cluster *cluster)
{
    assert(cluster->chance[0] | cluster->chance[1]); /* seeded */
    uint64_t x = cluster->chance[0], y = cluster->chance[1];
    cluster->chance[0] = y;
    x ^= x << 23;
    cluster->chance[1] = x ^ y ^ (x >> 17) ^ (y >> 26);
    return cluster->chance[1] + y;
}

void cluster_draw_id(struct cluster *cluster, char ret_id[static ID_TEXT_SIZE])
{
    uint64_t high = draw(cluster), low = draw(cluster);
    (void)snprintf(ret_id, ID_TEXT_SIZE, "%016llx%016llx", (unsigned long long)high,
                   (unsigned long long)low);
}

void cluster_draw_short(struct cluster *cluster, char prefix, char ret_id[static ID_SHORT_SIZE])
{
    static const char letters[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    bool is_taken = true;
    while (is_taken) {
        uint64_t bits = draw(cluster);
        ret_id[0] = prefix;
        for (int i = 1; i < ID_SHORT_SIZE - 1; i++, bits >>= 5)
            ret_id[i] = letters[bits & 31];
        ret_id[ID_SHORT_SIZE - 1] = '\0';
        is_taken = cluster_job(cluster, ret_id) != NULL;
        for (size_t i = 0; !is_taken && i < cluster->plan_count; i++)
            is_taken = strcmp(cluster->plans[i]->id, ret_id) == 0;
    }
}

void *cluster_message_copy(const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(size + 1);
    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(message, bytes);
    return protobuf_c_message_unpack(message->descriptor, NULL, size, bytes);
}

/* ---- look-up ----------------------------------------------------------------------------------
 */

struct cluster_host *cluster_host(const struct cluster *cluster, const char *name)
{
    return name_map_get(&cluster->hosts_by_name, name);
}

struct cluster_vm *cluster_vm(const struct cluster *cluster, const char *id)
{
    return name_map_get(&cluster->vms_by_id, id);
}

struct cluster_job *cluster_job(const struct cluster *cluster, const char *id)
{
    return name_map_get(&cluster->jobs_by_id, id);
}

/* What a word is searched among: `name` is shown, `id` (may be the same) also matches. */
struct candidate {
    const char *name, *id;
    void *object;
};

struct search {
    const char *noun; /* "host" */
    const char *list; /* the command that lists them */
    enum gw_code unknown;
};

static void *find_among(const struct candidate *candidates, size_t count, const char *word,
                        const struct search *search, struct problem *problem)
{
    size_t length = strlen(word);
    const struct candidate *found = NULL;
    size_t matches = 0;

    for (size_t i = 0; i < count; i++) {
        if (strcmp(candidates[i].name, word) == 0)
            return candidates[i].object; /* an exact name wins over any prefix */
    }
    for (size_t i = 0; length > 0 && i < count; i++) {
        if (strncmp(candidates[i].name, word, length) == 0 ||
            strncasecmp(candidates[i].id, word, length) == 0) {
            found = &candidates[i];
            matches++;
        }
    }
    if (matches == 1)
        return found->object;
    if (matches > 1) {
        (void)problem_set(problem, GW_AMBIGUOUS, "'%s' could mean %zu %ss", word, matches,
                          search->noun);
        for (size_t i = 0; i < count; i++) {
            if (strncmp(candidates[i].name, word, length) == 0 ||
                strncasecmp(candidates[i].id, word, length) == 0)
                problem_detail(problem, "%s  %s", candidates[i].name, candidates[i].id);
        }
        return NULL;
    }
    (void)problem_set(problem, search->unknown, "there is no %s '%.100s'", search->noun, word);
    AUTO_FREE const char **names = calloc(count + 1, sizeof *names);
    for (size_t i = 0; names && i < count; i++)
        names[i] = candidates[i].name;
    const char *nearest = names ? id_nearest(word, names, count) : NULL;
    if (nearest)
        problem_hint(problem, "did you mean '%s'?", nearest);
    else
        problem_hint(problem, "%s", search->list);
    return NULL;
}

struct cluster_host *cluster_find_host(const struct cluster *cluster, const char *word,
                                       struct problem *problem)
{
    static const struct search search = {"host", "godwit host ls", GW_HOST_UNKNOWN};
    AUTO_FREE struct candidate *candidates = calloc(cluster->host_count + 1, sizeof *candidates);
    for (size_t i = 0; candidates && i < cluster->host_count; i++) {
        struct cluster_host *host = cluster->hosts[i];
        candidates[i] = (struct candidate){host->name, host->name, host};
    }
    return find_among(candidates, candidates ? cluster->host_count : 0, word, &search, problem);
}

struct cluster_vm *cluster_find_vm(const struct cluster *cluster, const char *word,
                                   struct problem *problem)
{
    static const struct search search = {"VM", "godwit vm ls", GW_VM_UNKNOWN};
    AUTO_FREE struct candidate *candidates = calloc(cluster->vm_count + 1, sizeof *candidates);
    for (size_t i = 0; candidates && i < cluster->vm_count; i++) {
        struct cluster_vm *vm = cluster->vms[i];
        candidates[i] = (struct candidate){vm->spec->name, vm->id, vm};
    }
    return find_among(candidates, candidates ? cluster->vm_count : 0, word, &search, problem);
}

struct cluster_job *cluster_find_job(const struct cluster *cluster, const char *word,
                                     struct problem *problem)
{
    static const struct search search = {"job", "godwit job ls --all", GW_JOB_UNKNOWN};
    AUTO_FREE struct candidate *candidates = calloc(cluster->job_count + 1, sizeof *candidates);
    for (size_t i = 0; candidates && i < cluster->job_count; i++) {
        struct cluster_job *job = cluster->jobs[i];
        candidates[i] = (struct candidate){job->core.id, job->core.id, job};
    }
    return find_among(candidates, candidates ? cluster->job_count : 0, word, &search, problem);
}

struct cluster_plan *cluster_find_plan(const struct cluster *cluster, const char *word,
                                       struct problem *problem)
{
    static const struct search search = {"plan", "godwit plan ls", GW_PLAN_UNKNOWN};
    AUTO_FREE struct candidate *candidates = calloc(cluster->plan_count + 1, sizeof *candidates);
    for (size_t i = 0; candidates && i < cluster->plan_count; i++) {
        struct cluster_plan *plan = cluster->plans[i];
        candidates[i] = (struct candidate){plan->id, plan->id, plan};
    }
    return find_among(candidates, candidates ? cluster->plan_count : 0, word, &search, problem);
}
