#include "agent/snapshots.h"

#include <assert.h>
#include <dirent.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/snapshot_clone.h"
#include "agent/snapshot_folder.h"
#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/rpc.h"
#include "proto/method.h"
#include "proto/vm.pb-c.h"

enum { WRITE_MS_MIN = 60000, WRITE_MS_A_GIB = 30000 };

struct snapshots {
    struct snapshots_config config;
    char root[VM_PATH_SIZE];
    Godwit__SnapshotInfo **infos; /* owned, as is each */
    size_t count;
    Godwit__SnapshotInfo **domain_infos; /* the same of libvirt's; NULL: not known */
    size_t domain_count;
    bool has_domains; /* whether they are known or not */
    struct snapshot_step *clones; /* under way */
    unsigned workers;
    bool stopped;
    atomic_bool canceled; /* read by workers that copy */
};

/* One order under way; its worker has it between two turns of the loop. */
struct snapshot_step {
    struct snapshots *snapshots;
    struct rpc_request *request;
    Godwit__SnapshotInfo *info; /* owned */
    bool is_stopped;            /* take: nothing runs */
    uint64_t memory_bytes, begun_ns;
    struct snapshot_files files;
    /* clone */
    struct snapshot_step *next;
    char clone_id[VM_ID_SIZE];
    Godwit__VmSpec *spec; /* owned */
    struct snapshot_clone_counts counts;
    int (*work)(struct snapshot_step *step, struct fault *fault);
    void (*done)(struct snapshot_step *step); /* frees it or goes on */
    int result;
    struct fault fault;
};

/* ---- the list ---- */
static void info_free(Godwit__SnapshotInfo *info)
{
    if (info)
        godwit__snapshot_info__free_unpacked(info, NULL);
}

static Godwit__SnapshotInfo *info_copy(const Godwit__SnapshotInfo *info)
{
    size_t count = godwit__snapshot_info__get_packed_size(info);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)godwit__snapshot_info__pack(info, bytes);
    return godwit__snapshot_info__unpack(NULL, count, bytes);
}

static int list_add(struct snapshots *snapshots, Godwit__SnapshotInfo *info, struct fault *fault)
{
    Godwit__SnapshotInfo **infos =
        realloc(snapshots->infos, (snapshots->count + 1) * sizeof *infos);
    if (!infos)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    snapshots->infos = infos;
    snapshots->infos[snapshots->count++] = info;
    return 0;
}

static void list_drop(struct snapshots *snapshots, const char *id)
{
    for (size_t i = 0; i < snapshots->count; i++) {
        if (strcmp(snapshots->infos[i]->id, id) != 0)
            continue;
        info_free(snapshots->infos[i]);
        snapshots->infos[i] = snapshots->infos[--snapshots->count];
        return;
    }
}

const Godwit__SnapshotInfo *snapshots_find(const struct snapshots *snapshots, const char *id)
{
    for (size_t i = 0; id && i < snapshots->count; i++) {
        if (strcmp(snapshots->infos[i]->id, id) == 0)
            return snapshots->infos[i];
    }
    for (size_t i = 0; id && i < snapshots->domain_count; i++) {
        if (strcmp(snapshots->domain_infos[i]->id, id) == 0)
            return snapshots->domain_infos[i];
    }
    return NULL;
}

const char *snapshots_root(const struct snapshots *snapshots)
{
    return snapshots->root;
}

void snapshots_tell(struct snapshots *snapshots)
{
    Godwit__AgentSnapshots all = GODWIT__AGENT_SNAPSHOTS__INIT;
    AUTO_FREE Godwit__SnapshotInfo **infos =
        calloc(snapshots->count + snapshots->domain_count + 1, sizeof(Godwit__SnapshotInfo *));

    if (!infos)
        return; /* with the next welcome or change */
    for (size_t i = 0; i < snapshots->count; i++)
        infos[all.n_snapshots++] = snapshots->infos[i];
    for (size_t i = 0; i < snapshots->domain_count; i++)
        infos[all.n_snapshots++] = snapshots->domain_infos[i];
    all.snapshots = infos;
    all.has_domains_known = true;
    all.domains_known = snapshots->domain_infos != NULL;
    snapshots->config.tell(snapshots->config.data, &all);
}

/* ---- libvirt's ---- */
static bool is_same(const Godwit__SnapshotInfo *a, const Godwit__SnapshotInfo *b)
{
    size_t count = godwit__snapshot_info__get_packed_size(a);
    if (count != godwit__snapshot_info__get_packed_size(b))
        return false;
    AUTO_FREE uint8_t *bytes = calloc(2, count + 1);
    if (!bytes)
        return false; /* told once too often */
    (void)godwit__snapshot_info__pack(a, bytes);
    (void)godwit__snapshot_info__pack(b, bytes + count);
    return memcmp(bytes, bytes + count, count) == 0;
}

static bool are_same(const struct snapshots *snapshots, Godwit__SnapshotInfo *const *infos,
                     size_t count)
{
    if (!infos || !snapshots->domain_infos || count != snapshots->domain_count)
        return !infos && !snapshots->domain_infos;
    for (size_t i = 0; i < count; i++) {
        if (!is_same(infos[i], snapshots->domain_infos[i]))
            return false;
    }
    return true;
}

static void drop_domains(struct snapshots *snapshots)
{
    for (size_t i = 0; i < snapshots->domain_count; i++)
        info_free(snapshots->domain_infos[i]);
    free(snapshots->domain_infos);
    snapshots->domain_infos = NULL;
    snapshots->domain_count = 0;
}

void snapshots_await_domains(struct snapshots *snapshots)
{
    snapshots->has_domains = true;
}

int snapshots_judge_absent(const struct snapshots *snapshots, struct fault *fault)
{
    return snapshots->has_domains && !snapshots->domain_infos
               ? fault_set(fault, ERR_UNREACHABLE,
                           "libvirt of this host has not answered yet, or does not any more: "
                           "nothing is known of the snapshots of its domains")
               : 0;
}

void snapshots_set_domains(struct snapshots *snapshots, Godwit__SnapshotInfo *const *infos,
                           size_t count)
{
    if (are_same(snapshots, infos, count))
        return;
    drop_domains(snapshots);
    if (infos)
        snapshots->domain_infos = calloc(count + 1, sizeof(Godwit__SnapshotInfo *));
    for (size_t i = 0; snapshots->domain_infos && i < count; i++) {
        Godwit__SnapshotInfo *copy = info_copy(infos[i]);
        if (!copy) { /* half a list would be a lie */
            drop_domains(snapshots);
            return;
        }
        snapshots->domain_infos[snapshots->domain_count++] = copy;
    }
    snapshots_tell(snapshots);
    if (snapshots->domain_infos && snapshots->config.on_domains_known)
        snapshots->config.on_domains_known(snapshots->config.data);
}

static int read_all(struct snapshots *snapshots, struct fault *fault)
{
    DIR *folder = opendir(snapshots->root);
    int r = 0;

    for (struct dirent *item; r == 0 && folder && (item = readdir(folder));) {
        Godwit__SnapshotInfo *info = NULL;
        struct fault words = {0};
        if (strlen(item->d_name) != ID_TEXT_SIZE - 1)
            continue;
        if (snapshot_folder_load(snapshots->root, item->d_name, &info, &words) < 0) {
            log_warn("snapshots", "left alone: %s", words.text);
            continue;
        }
        r = list_add(snapshots, info, fault);
        if (r < 0)
            info_free(info);
    }
    if (folder)
        (void)closedir(folder); /* only read */
    return r;
}

/* ---- steps ---- */
static void step_free(struct snapshot_step *step)
{
    for (struct snapshot_step **at = &step->snapshots->clones; *at; at = &(*at)->next) {
        if (*at == step) {
            *at = step->next;
            break;
        }
    }
    if (step->spec)
        godwit__vm_spec__free_unpacked(step->spec, NULL);
    snapshot_files_close(&step->files);
    info_free(step->info);
    free(step);
}

static void step_work(void *data)
{
    struct snapshot_step *step = data;

    step->result = step->work(step, &step->fault);
}

static void step_work_done(void *data)
{
    struct snapshot_step *step = data;

    step->snapshots->workers--;
    if (step->snapshots->stopped)
        step_free(step); /* the next agent tidies */
    else
        step->done(step);
}

static int step_begin(struct snapshot_step *step,
                      int (*work)(struct snapshot_step *step, struct fault *fault),
                      void (*done)(struct snapshot_step *step), struct fault *fault)
{
    step->work = work;
    step->done = done;
    step->snapshots->workers++;
    int r = loop_work(step->snapshots->config.loop, step_work, step_work_done, step);
    if (r < 0) {
        step->snapshots->workers--;
        return fault_set(fault, r, "no worker for a snapshot");
    }
    return 0;
}

static int step_new(struct snapshot_step **ret_step, struct snapshots *snapshots,
                    struct rpc_request *request, struct fault *fault)
{
    struct snapshot_step *step = calloc(1, sizeof *step);
    if (!step)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    step->snapshots = snapshots;
    step->request = request;
    step->begun_ns = world_now_ns();
    step->files.memory_fd = -1;
    *ret_step = step;
    return 0;
}

/* ---- take ---- */
static struct vm_entry *entry_of(const struct snapshot_step *step)
{
    return vm_table_find(step->snapshots->config.table, step->info->vm_id);
}

static void free_vm(const struct snapshot_step *step)
{
    struct vm_entry *entry = entry_of(step);

    if (entry)
        entry->snapshotting = false;
}

static int drop_work(struct snapshot_step *step, struct fault *fault)
{
    (void)fault;
    snapshot_files_close(&step->files);
    snapshot_folder_drop(step->snapshots->root, step->info->id);
    return 0;
}

static void dropped(struct snapshot_step *step)
{
    free_vm(step);
    (void)rpc_reply_fault(step->request, &step->fault);
    step_free(step);
}

/* The step's fault is told once what it has left is deleted. */
static void take_failed(struct snapshot_step *step)
{
    struct fault words = {0};

    log_warn("snapshots", "not taken vm=%s name=%s: %s", step->info->vm_id, step->info->name,
             step->fault.text);
    if (step_begin(step, drop_work, dropped, &words) < 0)
        dropped(step); /* the next agent tidies */
}

static int commit_work(struct snapshot_step *step, struct fault *fault)
{
    snapshot_files_close(&step->files);
    return snapshot_folder_commit(step->snapshots->root, step->info, fault);
}

static void committed(struct snapshot_step *step)
{
    Godwit__SnapshotInfo *info = step->info;

    if (step->result == 0)
        step->result = list_add(step->snapshots, info, &step->fault);
    if (step->result < 0) {
        take_failed(step);
        return;
    }
    free_vm(step);
    log_info("snapshots", "taken vm=%s name=%s id=%s pause_us=%llu bytes=%llu disks=%zu",
             info->vm_id, info->name, info->id, (unsigned long long)(info->pause_ns / 1000),
             (unsigned long long)info->memory_bytes, info->n_disks);
    snapshots_tell(step->snapshots);
    (void)rpc_reply(step->request, &info->base);
    step->info = NULL; /* the list's */
    step_free(step);
}

static void commit(struct snapshot_step *step)
{
    step->info->has_took_ns = true;
    step->info->took_ns = world_now_ns() - step->begun_ns;
    step->result = step_begin(step, commit_work, committed, &step->fault);
    if (step->result < 0)
        take_failed(step);
}

static void vm_answered(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct snapshot_step *step = data;
    const Godwit__VmSnapshotted *done = (const Godwit__VmSnapshotted *)reply;
    Godwit__SnapshotInfo *info = step->info;

    if (!done) {
        step->fault = *fault;
        take_failed(step);
        return;
    }
    info->has_generation = info->has_pause_ns = info->has_memory_pages = true;
    info->has_memory_bytes = info->has_put_aside_pages = true;
    info->generation = done->generation;
    info->pause_ns = done->pause_ns;
    info->memory_pages = done->memory_pages;
    info->memory_bytes = done->memory_bytes;
    info->put_aside_pages = done->put_aside_pages;
    commit(step);
}

static int ask_vm(struct snapshot_step *step, struct fault *fault)
{
    Godwit__VmSnapshot order = GODWIT__VM_SNAPSHOT__INIT;
    struct vm_entry *entry = entry_of(step);
    struct rpc *rpc = entry && entry->process ? vm_process_rpc(entry->process) : NULL;
    uint32_t disks[DISKS_MAX];
    int fds[1 + DISKS_MAX];
    size_t count = 0;

    if (!rpc)
        return fault_set(fault, ERR_STATE, "its process has ended");
    if (step->info->with_memory)
        fds[count++] = step->files.memory_fd;
    for (unsigned i = 0; i < step->files.disk_count; i++) {
        disks[i] = step->info->disks[i]->index;
        fds[count++] = step->files.clone_fds[i];
    }
    order.vm_id = step->info->vm_id;
    order.snapshot_id = step->info->id;
    order.has_with_memory = true;
    order.with_memory = step->info->with_memory;
    order.disks = disks;
    order.n_disks = step->files.disk_count;
    return rpc_call_fds(rpc, METHOD_VM_SNAPSHOT, &order.base, fds, count,
                        &godwit__vm_snapshotted__descriptor,
                        WRITE_MS_MIN + (step->memory_bytes >> 30) * WRITE_MS_A_GIB, vm_answered,
                        step, fault);
}

static int begin_work(struct snapshot_step *step, struct fault *fault)
{
    int r = snapshot_folder_begin(step->snapshots->root, step->info, step->memory_bytes,
                                  &step->files, fault);
    return r == 0 && step->is_stopped ? snapshot_folder_clone(&step->files, fault) : r;
}

static void begun(struct snapshot_step *step)
{
    if (step->result == 0 && step->is_stopped) {
        commit(step);
        return;
    }
    if (step->result == 0)
        step->result = ask_vm(step, &step->fault);
    if (step->result < 0)
        take_failed(step);
}

static int fill_info(struct snapshot_step *step, const Godwit__OrderSnapshot *order,
                     const struct vm_entry *entry, struct fault *fault)
{
    Godwit__SnapshotInfo *info = malloc(sizeof *info);
    if (!info)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    godwit__snapshot_info__init(info);
    step->info = info;
    info->id = strdup(order->id);
    info->vm_id = strdup(order->vm_id);
    info->vm_name = strdup(order->spec->name ? order->spec->name : order->vm_id);
    info->name = strdup(order->name);
    info->host = strdup(step->snapshots->config.host);
    if (!info->id || !info->vm_id || !info->vm_name || !info->name || !info->host)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    info->has_created_unix_ms = info->has_with_memory = info->has_was_stopped = true;
    info->created_unix_ms = world_wall_ms();
    info->was_stopped = step->is_stopped = !entry;
    info->with_memory = entry && !order->disks_only;
    int r = snapshot_folder_plan(info, order->spec, fault);
    if (r == 0 && info->n_disks == 0 && !info->with_memory)
        r = fault_set(fault, ERR_INVALID, "%s has no disk that it writes, so there is nothing to keep",
                      info->vm_name);
    if (entry && entry->status->has_memory_populated)
        step->memory_bytes = entry->status->memory_populated;
    return r;
}

int snapshots_take(struct snapshots *snapshots, const Godwit__OrderSnapshot *order,
                   struct vm_entry *entry, struct rpc_request *request, struct fault *fault)
{
    struct snapshot_step *step = NULL;

    if (!request || !order->id || strlen(order->id) != ID_TEXT_SIZE - 1 || !order->name ||
        !id_name_is_valid(order->name) || !order->spec)
        return fault_set(fault, ERR_INVALID, "a snapshot without a fit id, name or spec");
    if (snapshots_find(snapshots, order->id))
        return fault_set(fault, ERR_EXISTS, "snapshot %s is here already", order->id);
    if (snapshots->count >= SNAPSHOTS_A_HOST_MAX)
        return fault_set(fault, ERR_LIMIT, "%d snapshots lie on this host, which is the most",
                         SNAPSHOTS_A_HOST_MAX);
    int r = step_new(&step, snapshots, request, fault);
    if (r < 0)
        return r;
    r = fill_info(step, order, entry, fault);
    if (r == 0)
        r = step_begin(step, begin_work, begun, fault);
    if (r < 0)
        step_free(step);
    else if (entry)
        entry->snapshotting = true;
    return r;
}

/* ---- remove, check ---- */
static int remove_work(struct snapshot_step *step, struct fault *fault)
{
    return snapshot_folder_remove(step->snapshots->root, step->info, fault);
}

static void removed(struct snapshot_step *step)
{
    static const Godwit__Empty empty = GODWIT__EMPTY__INIT;

    if (step->result < 0) {
        (void)rpc_reply_fault(step->request, &step->fault);
    } else {
        log_info("snapshots", "removed vm=%s name=%s id=%s", step->info->vm_id, step->info->name,
                 step->info->id);
        list_drop(step->snapshots, step->info->id);
        snapshots_tell(step->snapshots);
        (void)rpc_reply(step->request, &empty.base);
    }
    step_free(step);
}

static int check_work(struct snapshot_step *step, struct fault *fault)
{
    return snapshot_folder_check(step->snapshots->root, step->info, fault);
}

static void checked(struct snapshot_step *step)
{
    if (step->result < 0)
        (void)rpc_reply_fault(step->request, &step->fault);
    else
        (void)rpc_reply(step->request, &step->info->base);
    step_free(step);
}

static int begin_on(struct snapshots *snapshots, const Godwit__SnapshotInfo *info,
                    struct rpc_request *request,
                    int (*work)(struct snapshot_step *step, struct fault *fault),
                    void (*done)(struct snapshot_step *step), struct fault *fault)
{
    struct snapshot_step *step = NULL;

    int r = request ? step_new(&step, snapshots, request, fault)
                    : fault_set(fault, ERR_INVALID, "nobody waits for the answer");
    if (r < 0)
        return r;
    step->info = info_copy(info);
    r = step->info ? step_begin(step, work, done, fault)
                   : fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    if (r < 0)
        step_free(step);
    return r;
}

int snapshots_remove(struct snapshots *snapshots, const Godwit__OrderSnapshot *order,
                     struct rpc_request *request, struct fault *fault)
{
    static const Godwit__Empty empty = GODWIT__EMPTY__INIT;
    const Godwit__SnapshotInfo *info = snapshots_find(snapshots, order->id);

    for (const struct snapshot_step *clone = snapshots->clones; info && clone; clone = clone->next) {
        if (strcmp(clone->info->id, info->id) == 0)
            return fault_set(fault, ERR_BUSY, "VM %s is just being made from it",
                             clone->spec->name);
    }
    for (const struct vm_entry *entry = vm_table_first(snapshots->config.table); info && entry;
         entry = entry->next) {
        if (vm_entry_is_paging(entry) && strcmp(entry->status->paging_nonce, info->id) == 0)
            return fault_set(fault, ERR_BUSY, "VM %s still reads its memory from it",
                             entry->status->name ? entry->status->name : entry->id);
    }
    if (info)
        return begin_on(snapshots, info, request, remove_work, removed, fault);
    snapshots_tell(snapshots); /* whoever asks believes that it is here */
    int r = snapshots_judge_absent(snapshots, fault);
    if (r == 0 && request)
        (void)rpc_reply(request, &empty.base);
    return r;
}

int snapshots_check(struct snapshots *snapshots, const Godwit__OrderSnapshot *order,
                    struct rpc_request *request, struct fault *fault)
{
    const Godwit__SnapshotInfo *info = snapshots_find(snapshots, order->id);

    int r = info ? 0 : snapshots_judge_absent(snapshots, fault);
    if (r == 0 && !info)
        r = fault_set(fault, ERR_NOT_FOUND, "this host has no snapshot %s",
                      order->id ? order->id : "");
    if (r < 0)
        return r;
    return begin_on(snapshots, info, request, check_work, checked, fault);
}

/* ---- clone ---- */
static int clone_work(struct snapshot_step *step, struct fault *fault)
{
    int r = snapshot_clone_make(step->info, step->spec, step->clone_id, &step->snapshots->canceled,
                                &step->counts, fault);
    return r < 0 ? fault_wrap(fault, r, "disks of %s", step->spec->name) : 0;
}

static void cloned(struct snapshot_step *step)
{
    Godwit__SnapshotCloned reply = GODWIT__SNAPSHOT_CLONED__INIT;

    if (step->result < 0) {
        (void)rpc_reply_fault(step->request, &step->fault);
        step_free(step);
        return;
    }
    reply.has_disks = reply.has_reflinks = reply.has_copied_bytes = reply.has_ns = true;
    reply.disks = step->counts.disks;
    reply.reflinks = step->counts.reflinks;
    reply.copied_bytes = step->counts.copied_bytes;
    reply.ns = world_now_ns() - step->begun_ns;
    log_info("snapshots", "disks made vm=%s snapshot=%s disks=%u reflinks=%u copied_bytes=%llu",
             step->clone_id, step->info->id, reply.disks, reply.reflinks,
             (unsigned long long)reply.copied_bytes);
    (void)rpc_reply(step->request, &reply.base);
    step_free(step);
}

bool snapshots_are_cloned_for(const struct snapshots *snapshots, const char *vm_id)
{
    const struct snapshot_step *step = snapshots ? snapshots->clones : NULL;

    while (step && strcmp(step->clone_id, vm_id) != 0)
        step = step->next;
    return step != NULL;
}

static Godwit__VmSpec *spec_copy(const Godwit__VmSpec *spec)
{
    size_t count = godwit__vm_spec__get_packed_size(spec);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)godwit__vm_spec__pack(spec, bytes);
    return godwit__vm_spec__unpack(NULL, count, bytes);
}

static int begin_clone(struct snapshots *snapshots, const Godwit__SnapshotInfo *info,
                       const Godwit__OrderSnapshotClone *order, struct rpc_request *request,
                       struct fault *fault)
{
    struct snapshot_step *step = NULL;

    int r = step_new(&step, snapshots, request, fault);
    if (r < 0)
        return r;
    (void)snprintf(step->clone_id, sizeof step->clone_id, "%s", order->vm_id);
    step->info = info_copy(info);
    step->spec = spec_copy(order->spec);
    r = step->info && step->spec ? 0 : fault_set(fault, ERR_NOMEM, "no memory for a clone");
    if (r == 0)
        r = step_begin(step, clone_work, cloned, fault);
    if (r < 0) {
        step_free(step);
        return r;
    }
    step->next = snapshots->clones;
    snapshots->clones = step;
    return 0;
}

int snapshots_clone(struct snapshots *snapshots, const Godwit__OrderSnapshotClone *order,
                    struct rpc_request *request, struct fault *fault)
{
    const Godwit__SnapshotInfo *info = snapshots_find(snapshots, order->snapshot_id);

    if (!request || !order->vm_id || !id_name_is_valid(order->vm_id) ||
        strlen(order->vm_id) >= VM_ID_SIZE || !order->spec || !order->spec->name)
        return fault_set(fault, ERR_INVALID, "a clone without its VM");
    if (!info && snapshots_judge_absent(snapshots, fault) < 0)
        return fault->code;
    if (!info)
        return fault_set(fault, ERR_NOT_FOUND, "this host has no snapshot %.12s",
                         order->snapshot_id ? order->snapshot_id : "");
    if (snapshots_are_cloned_for(snapshots, order->vm_id))
        return fault_set(fault, ERR_BUSY, "the disks of %s are just being made",
                         order->spec->name);
    int r = strcmp(order->vm_id, info->vm_id) == 0
                ? fault_set(fault, ERR_INVALID, "%s cannot be its own clone", info->vm_name)
            : info->is_libvirt
                ? fault_set(fault, ERR_UNSUPPORTED, "libvirt makes no domain from a snapshot")
                : snapshot_clone_judge(info, order->spec, fault);
    return r < 0 ? r : begin_clone(snapshots, info, order, request, fault);
}

/* ---- life ---- */
int snapshots_new(struct snapshots **ret_snapshots, const struct snapshots_config *config,
                  struct fault *fault)
{
    struct snapshots *snapshots = calloc(1, sizeof *snapshots);
    if (!snapshots)
        return fault_set(fault, ERR_NOMEM, "no memory for snapshots");
    snapshots->config = *config;
    int r = path_join(snapshots->root, sizeof snapshots->root, fault, "%s/snapshots",
                      config->state_dir);
    if (r == 0) {
        snapshot_folder_tidy(snapshots->root);
        r = read_all(snapshots, fault);
    }
    if (r < 0) {
        (void)snapshots_free(snapshots);
        return r;
    }
    *ret_snapshots = snapshots;
    return 0;
}

void snapshots_stop(struct snapshots *snapshots)
{
    if (!snapshots)
        return;
    snapshots->stopped = true;
    atomic_store(&snapshots->canceled, true);
    while (snapshots->workers)
        loop_turn(snapshots->config.loop, true); /* each holds a pointer to us */
}

struct snapshots *snapshots_free(struct snapshots *snapshots)
{
    for (size_t i = 0; snapshots && i < snapshots->count; i++)
        info_free(snapshots->infos[i]);
    if (snapshots) {
        free(snapshots->infos);
        drop_domains(snapshots);
    }
    free(snapshots);
    return NULL;
}
