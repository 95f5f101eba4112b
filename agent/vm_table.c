/* How an entry comes to know of its VM:
 *   vm.bin --> the last status kept --> is a process there? --yes--> VM_STATUS, events --> status
 *                                            | no: it ended while no agent looked
 *                                            `--> latch file --> vm_end_decide --> status
 * A host that was booted anew has no latch files any more: what ran is then known to be gone. */
#include "agent/vm_table.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/journal.h"
#include "agent/start_mark.h"
#include "agent/vm/latch_file.h"
#include "agent/vm_bin.h"
#include "agent/vm_end.h"
#include "agent/vm_process.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/method.h"
#include "storage/guest_label.h"
#include "proto/vm_spec.h"

enum {
    STATUS_MS_MAX = 2000,
    ASK_AGAIN_MS = 1000,
};

struct vm_table {
    struct vm_table_config config;
    struct journal *journal; /* borrowed; may be NULL */
    struct vm_entry *entries;
    size_t count;
    struct loop_timer *ask_timer, *settle_timer;
    size_t unsettled;
    size_t saves; /* under way on workers */
    struct remembered *remembered;
    bool loaded, settled, closing;
};

struct remembered { /* of the journal, also for VMs that have no folder any more */
    struct remembered *next;
    uint64_t generation;
    char id[VM_ID_SIZE];
};

static void ask(struct vm_entry *entry);

static void status_free_p(Godwit__VmStatus **status)
{
    if (*status)
        godwit__vm_status__free_unpacked(*status, NULL);
}

static Godwit__VmStatus *status_copy(const Godwit__VmStatus *status)
{
    size_t count = godwit__vm_status__get_packed_size(status);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)godwit__vm_status__pack(status, bytes);
    return godwit__vm_status__unpack(NULL, count, bytes);
}

/* ---- paths ---- */
static int table_path(const char *dir, const char *id, const char *name,
                      char ret_path[static VM_PATH_SIZE], struct fault *fault)
{
    return path_join(ret_path, VM_PATH_SIZE, fault, "%s/vms/%s%s%s", dir, id, *name ? "/" : "",
                     name);
}

int vm_table_state_path(const struct vm_table *table, const char *vm_id, const char *name,
                        char ret_path[static VM_PATH_SIZE], struct fault *fault)
{
    return table_path(table->config.state_dir, vm_id, name, ret_path, fault);
}

int vm_entry_state_path(const struct vm_entry *entry, const char *name,
                        char ret_path[static VM_PATH_SIZE], struct fault *fault)
{
    return table_path(entry->table->config.state_dir, entry->id, name, ret_path, fault);
}

int vm_entry_run_path(const struct vm_entry *entry, const char *name,
                      char ret_path[static VM_PATH_SIZE], struct fault *fault)
{
    return table_path(entry->table->config.run_dir, entry->id, name, ret_path, fault);
}

static void unlink_run_files(const struct vm_entry *entry)
{
    static const char *const names[] = {"control.sock", "latch",    "move",      "next.sock",
                                        "next.latch",   "old.sock", "lanes.sock", START_MARK_NAME};
    char path[VM_PATH_SIZE];

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (vm_entry_run_path(entry, names[i], path, NULL) == 0)
            (void)unlink(path); /* absent is as good */
    }
    if (vm_entry_run_path(entry, "move", path, NULL) == 0)
        file_write_tidy(path);
    if (vm_entry_run_path(entry, START_MARK_NAME, path, NULL) == 0)
        file_write_tidy(path);
    if (!entry->tidying && vm_entry_run_path(entry, "move-disks", path, NULL) == 0)
        (void)unlink(path); /* absent is as good */
    if (vm_entry_run_path(entry, "", path, NULL) == 0)
        (void)rmdir(path); /* keeps what is not ours */
}

int vm_entry_keep_disks_move(const struct vm_entry *entry, struct fault *fault)
{
    char path[VM_PATH_SIZE];

    int r = vm_entry_run_path(entry, "move-disks", path, fault);
    if (r == 0 && entry->disks_move_id[0])
        return file_write_atomic(path, 0600, entry->disks_move_id, strlen(entry->disks_move_id),
                                 fault);
    if (r == 0)
        (void)unlink(path); /* absent is as good */
    if (r == 0 && vm_entry_run_path(entry, "", path, fault) == 0)
        (void)rmdir(path); /* keeps what is not ours */
    return r;
}

static void recall_disks_move(struct vm_entry *entry)
{
    char path[VM_PATH_SIZE];
    AUTO_FREE char *text = NULL;
    size_t count = 0;

    if (vm_entry_run_path(entry, "move-disks", path, NULL) == 0)
        file_write_tidy(path);
    if (file_read(path, &text, &count, NULL) == 0 && count < sizeof entry->disks_move_id)
        memcpy(entry->disks_move_id, text, count); /* the rest is zero */
}

/* ---- keeping it on disk ---- */
struct save {
    struct vm_table *table;
    char id[VM_ID_SIZE];
    char path[VM_PATH_SIZE];
    uint8_t *bytes;
    size_t count;
    struct fault fault;
};

static void save_start(struct vm_entry *entry);

static void save_work(void *data)
{
    struct save *save = data;

    (void)file_write_atomic(save->path, 0600, save->bytes, save->count, &save->fault);
}

static void save_done(void *data)
{
    struct save *save = data;
    struct vm_entry *entry = vm_table_find(save->table, save->id);

    save->table->saves--;
    if (save->fault.code)
        log_error("vm_table", "cannot keep a VM's status vm=%s: %s", save->id, save->fault.text);
    if (entry) {
        entry->saving = false;
        if (entry->removed)
            vm_table_remove(entry);
        else if (entry->dirty && !save->table->closing)
            save_start(entry);
        else if (!vm_entry_is_alive(entry) && !entry->starting && !entry->is_recalled && !save->fault.code)
            unlink_run_files(entry); /* all that they said is in vm.bin now */
    }
    free(save->bytes);
    free(save);
}

static void save_start(struct vm_entry *entry)
{
    entry->dirty = true;
    if (entry->saving || entry->removed)
        return;
    struct save *save = calloc(1, sizeof *save);
    if (!save)
        return; /* stays dirty: with the next change */
    save->table = entry->table;
    memcpy(save->id, entry->id, sizeof save->id);
    if (vm_entry_state_path(entry, "vm.bin", save->path, NULL) < 0 ||
        vm_bin_encode(entry->status, &save->bytes, &save->count) < 0 ||
        loop_work(entry->table->config.loop, save_work, save_done, save) < 0) {
        free(save->bytes);
        free(save);
        return;
    }
    entry->dirty = false;
    entry->saving = true;
    entry->table->saves++;
}

/* ---- entries ---- */
struct vm_entry *vm_table_first(struct vm_table *table)
{
    return table->entries;
}

struct vm_entry *vm_table_find(struct vm_table *table, const char *vm_id)
{
    for (struct vm_entry *entry = table->entries; entry; entry = entry->next) {
        if (vm_id && strcmp(entry->id, vm_id) == 0)
            return entry;
    }
    return NULL;
}

size_t vm_table_count(const struct vm_table *table)
{
    return table->count;
}

size_t vm_table_running(const struct vm_table *table)
{
    size_t count = 0;

    for (const struct vm_entry *entry = table->entries; entry; entry = entry->next)
        count += entry->process != NULL;
    return count;
}

static void entry_free(struct vm_entry *entry)
{
    (void)vm_process_free(entry->process);
    (void)vm_process_free(entry->next_process);
    if (entry->status)
        godwit__vm_status__free_unpacked(entry->status, NULL);
    if (entry->before)
        godwit__vm_status__free_unpacked(entry->before, NULL);
    free(entry);
}

static int entry_new(struct vm_table *table, const char *vm_id, struct vm_entry **ret_entry,
                     struct fault *fault)
{
    if (!vm_id || !id_name_is_valid(vm_id))
        return fault_set(fault, ERR_INVALID, "'%s' is no VM id", vm_id ? vm_id : "");
    struct vm_entry *entry = calloc(1, sizeof *entry);
    Godwit__VmStatus empty = GODWIT__VM_STATUS__INIT;
    empty.vm_id = (char *)vm_id;
    if (entry)
        entry->status = status_copy(&empty);
    if (!entry || !entry->status) {
        free(entry);
        return fault_set(fault, ERR_NOMEM, "no memory for a VM");
    }
    entry->table = table;
    (void)snprintf(entry->id, sizeof entry->id, "%s", vm_id);
    entry->hiwater = vm_table_hiwater(table, vm_id);
    entry->next = table->entries;
    table->entries = entry;
    table->count++;
    *ret_entry = entry;
    return 0;
}

static void entry_drop(struct vm_entry *entry)
{
    struct vm_table *table = entry->table;

    for (struct vm_entry **at = &table->entries; *at; at = &(*at)->next) {
        if (*at == entry) {
            *at = entry->next;
            table->count--;
            break;
        }
    }
    vm_table_note_generation(table, entry->id, entry->hiwater);
    entry_free(entry);
}

int vm_table_add(struct vm_table *table, const char *vm_id, struct vm_entry **ret_entry,
                 struct fault *fault)
{
    char path[VM_PATH_SIZE];
    struct vm_entry *entry = vm_table_find(table, vm_id);
    int r = 0;

    if (!entry)
        r = entry_new(table, vm_id, &entry, fault);
    if (r < 0)
        return r;
    entry->removed = false; /* wanted again */
    r = vm_entry_state_path(entry, "", path, fault);
    if (r == 0)
        r = dir_make(path, fault);
    if (r == 0)
        r = vm_entry_run_path(entry, "", path, fault);
    if (r == 0)
        r = dir_make(path, fault);
    if (r < 0)
        return r;
    *ret_entry = entry;
    return 0;
}

/* INV-13 of RELIABILITY: exactly the files that this agent made for this VM, by name. */
void vm_table_clear(const struct vm_table *table, const char *vm_id)
{
    static const char *const names[] = {"vm.bin", "console.log", "vm.log", "suspended",
                                        "suspended.tmp"};
    char path[VM_PATH_SIZE];

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (table_path(table->config.state_dir, vm_id, names[i], path, NULL) == 0)
            (void)unlink(path); /* absent is as good */
    }
    if (table_path(table->config.state_dir, vm_id, "", path, NULL) == 0)
        (void)rmdir(path); /* keeps what is not ours */
}

void vm_table_remove(struct vm_entry *entry)
{
    assert(!vm_entry_is_alive(entry));
    if (entry->saving) {
        entry->removed = true; /* when the worker is done with its file */
        return;
    }
    vm_table_clear(entry->table, entry->id);
    unlink_run_files(entry);
    entry_drop(entry);
}

void vm_entry_journal(struct vm_entry *entry, const char *event)
{
    struct journal_entry line = {.generation = entry->status->generation};
    const Godwit__MoveLatch *latch = entry->status->latch;

    (void)snprintf(line.event, sizeof line.event, "%s", event);
    (void)snprintf(line.vm_id, sizeof line.vm_id, "%s", entry->id);
    (void)snprintf(line.incarnation, sizeof line.incarnation, "%s",
                   entry->table->config.incarnation);
    if (latch && latch->move_id) {
        (void)snprintf(line.move_id, sizeof line.move_id, "%s", latch->move_id);
        (void)snprintf(line.latch, sizeof line.latch, "%s", latch_file_latch_name(latch->latch));
        if (strcmp(event, "latch") == 0)
            line.generation = latch->generation;
    }
    if (entry->table->journal)
        journal_put(entry->table->journal, &line);
}

static void set_text(char **text, const char *value)
{
    free(*text);
    *text = value && *value ? strdup(value) : NULL;
}

static void changed(struct vm_entry *entry, bool tell)
{
    struct vm_table *table = entry->table;

    if (entry->status->generation > entry->hiwater)
        entry->hiwater = entry->status->generation;
    save_start(entry);
    if (tell && !entry->quiet)
        table->config.on_vm(table->config.data, entry);
}

void vm_entry_set(struct vm_entry *entry, Godwit__VmState state, uint64_t generation,
                  const char *reason, bool tell)
{
    Godwit__VmStatus *status = entry->status;

    status->has_state = true;
    status->state = state;
    status->has_generation = true;
    status->generation = generation;
    status->has_seq = true;
    status->seq++;
    entry->is_unconfirmed = false;
    set_text(&status->reason, reason);
    if (state != GODWIT__VM_STATE__VM_STATE_SUSPENDED)
        set_text(&status->suspend_nonce, NULL);
    if (!entry->process) {
        status->wants_backends = false;
        status->has_pid = status->has_memory_populated = status->has_vcpu_cpu_ns = false;
        status->pid = 0;
        set_text(&status->paging_nonce, NULL);
    }
    changed(entry, tell);
}

bool vm_entry_set_spec(struct vm_entry *entry, const Godwit__VmSpec *spec)
{
    Godwit__VmStatus bare = *entry->status;
    bare.spec = (Godwit__VmSpec *)spec;
    bare.name = spec->name;
    Godwit__VmStatus *status = status_copy(&bare);
    if (!status)
        return false;
    godwit__vm_status__free_unpacked(entry->status, NULL);
    entry->status = status;
    return true;
}

static bool latch_is_same(const Godwit__MoveLatch *a, const Godwit__MoveLatch *b)
{
    if (!a || !b)
        return a == b;
    return a->latch == b->latch && a->generation == b->generation && a->move_id && b->move_id &&
           strcmp(a->move_id, b->move_id) == 0;
}

static void send_quit(struct vm_entry *entry)
{
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    struct rpc *rpc = vm_process_rpc(entry->process);

    if (entry->quit_sent || !rpc)
        return;
    action.vm_id = entry->id;
    entry->quit_sent = rpc_send_event(rpc, METHOD_VM_QUIT, &action.base, NULL) == 0;
}

static void drop_read_file(const struct vm_entry *entry);

static void update(struct vm_entry *entry, const Godwit__VmStatus *status)
{
    Godwit__VmStatus bare = *status;
    if (!bare.spec)
        bare.spec = entry->status->spec;
    /* Of a process that does not run it yet a latch of before, of a move that is over, says nothing. */
    bool is_fresh = entry->process && !bare.generation && !vm_entry_is_domain(entry);
    if (!bare.latch && !is_fresh)
        bare.latch = entry->status->latch;
    /* What it has not said itself ends nothing that runs: vm.bin's word may be older than the process. */
    bool is_word = !entry->is_unconfirmed;
    /* Its file may be in its place or not: until that is decided it is a VM that stands still. */
    bool waits = entry->process && bare.state == GODWIT__VM_STATE__VM_STATE_SUSPENDED;
    if (waits) {
        bare.state = GODWIT__VM_STATE__VM_STATE_PAUSED;
        bare.suspend_nonce = NULL;
    }
    /* Ended into its file, as an agent before us had said: told when its process has ended, as what
     * it is then, and not as a VM that was stopped. */
    bool rests = entry->process && bare.state == GODWIT__VM_STATE__VM_STATE_STOPPED &&
                 bare.generation && vm_entry_has_file(entry, bare.generation, NULL);
    if (rests) {
        bare.state = GODWIT__VM_STATE__VM_STATE_PAUSED;
        bare.reason = NULL;
        entry->suspending = entry->suspending || is_word;
    }
    Godwit__VmStatus *copy = status_copy(&bare);
    if (!copy) {
        log_error("vm_table", "no memory for a VM's status vm=%s", entry->id);
        return;
    }
    bool state_changed = !entry->status->has_state || entry->status->state != copy->state ||
                         entry->status->generation != copy->generation;
    bool latch_changed = !latch_is_same(entry->status->latch, copy->latch);
    bool post_changed = entry->status->in_postcopy != copy->in_postcopy;
    bool was_paging = vm_entry_is_paging(entry);
    godwit__vm_status__free_unpacked(entry->status, NULL);
    entry->status = copy;
    if (was_paging && !vm_entry_is_paging(entry) && !entry->starting)
        drop_read_file(entry);
    if (latch_changed && copy->latch)
        vm_entry_journal(entry, "latch");
    if (state_changed || latch_changed || post_changed)
        changed(entry, !entry->starting);

    bool over = copy->state == GODWIT__VM_STATE__VM_STATE_STOPPED ||
                copy->state == GODWIT__VM_STATE__VM_STATE_CRASHED ||
                copy->state == GODWIT__VM_STATE__VM_STATE_GONE;
    if (entry->process && copy->wants_backends)
        entry->table->config.on_wants_backends(entry->table->config.data, entry);
    if (waits && is_word && !entry->suspending && entry->table->config.on_suspended)
        entry->table->config.on_suspended(entry->table->config.data, entry);
    if (entry->process && is_word && (over || rests))
        send_quit(entry); /* we know: it need not linger */
}

void vm_entry_update(struct vm_entry *entry, const Godwit__VmStatus *status)
{
    entry->is_unconfirmed = false;
    update(entry, status);
}

/* ---- events of its process ---- */
static void on_state(void *data, const Godwit__VmStatus *status)
{
    struct vm_entry *entry = data;

    /* What a process tells that may have handed its guest over is no word about the VM. */
    if (!entry->upgrade && !entry->suspending && status->vm_id && strcmp(status->vm_id, entry->id) == 0)
        vm_entry_update(entry, status);
}

static void take_latch(struct vm_entry *entry, const Godwit__MoveEvent *event, bool takes)
{
    Godwit__MoveLatch latch = GODWIT__MOVE_LATCH__INIT;
    latch.move_id = event->move_id;
    latch.has_generation = true;
    latch.generation = event->generation;
    latch.has_latch = true;
    latch.latch = event->latch;
    Godwit__VmStatus status = *entry->status;
    status.latch = &latch;
    if (takes) /* what it lacks comes with its next status */
        status.has_in_postcopy = status.in_postcopy = true;
    update(entry, &status); /* the rest of it may still be vm.bin's */
}

static void on_move(void *data, const Godwit__MoveEvent *event)
{
    struct vm_entry *entry = data;

    if (!event->vm_id || strcmp(event->vm_id, entry->id) != 0)
        return;
    if (entry->upgrade) {
        entry->table->config.on_upgrade_move(entry->table->config.data, entry, event);
        return;
    }
    if (event->has_latch && event->move_id)
        take_latch(entry, event,
                   event->latch == GODWIT__LATCH__LATCH_TOOK && !vm_entry_is_domain(entry));
    entry->table->config.on_move(entry->table->config.data, entry, event);
}

static void on_console(void *data, const Godwit__ConsoleData *event)
{
    struct vm_entry *entry = data;

    entry->table->config.on_console(entry->table->config.data, entry, event);
}

static void on_protect(void *data, const Godwit__VmProtectEvent *event)
{
    struct vm_entry *entry = data;

    if (entry->table->config.on_protect)
        entry->table->config.on_protect(entry->table->config.data, entry, event);
}

static void on_lent(void *data, const Godwit__VmLent *lent, struct rpc_request *request)
{
    struct vm_entry *entry = data;
    struct fault fault = {0};

    if (entry->upgrade && lent->vm_id && strcmp(lent->vm_id, entry->id) == 0) {
        entry->table->config.on_upgrade_lent(entry->table->config.data, entry, lent, request);
        return;
    }
    (void)fault_set(&fault, ERR_REFUSED, "nobody asked for it");
    (void)rpc_reply_fault(request, &fault);
}

static void ignore_reply(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    (void)data;
    (void)reply;
    (void)fault;
}

static void on_connected(void *data)
{
    struct vm_entry *entry = data;

    ask(entry);
    for (size_t i = 0; i < entry->session_count; i++) {
        Godwit__ConsoleAttach attach = GODWIT__CONSOLE_ATTACH__INIT;
        attach.vm_id = entry->id;
        attach.has_on = attach.on = true;
        attach.has_session = true;
        attach.session = entry->sessions[i];
        (void)rpc_call(vm_process_rpc(entry->process), METHOD_VM_CONSOLE_ATTACH, &attach.base,
                       &godwit__console_data__descriptor, STATUS_MS_MAX, ignore_reply, NULL, NULL);
    }
}

/* Write ABANDONED into the file of a process that is no more: this move's target never runs. */
bool vm_entry_write_abandoned(struct vm_entry *entry, const char *name, struct latch_record *record)
{
    char path[VM_PATH_SIZE];
    struct latch_file *file = NULL;
    struct fault fault = {0};

    record->latch = GODWIT__LATCH__LATCH_ABANDONED;
    int r = vm_entry_run_path(entry, name, path, &fault);
    if (r == 0) {
        FILE *stream = fopen(path, "r+e");
        int fd = stream ? dup(fileno(stream)) : -1;
        if (stream)
            (void)fclose(stream); /* nothing was written through it */
        r = fd < 0 ? fault_set_errno(&fault, ERR_IO, errno, "opening %s", path)
                   : latch_file_open(&file, fd, &fault);
        if (r < 0 && fd >= 0)
            (void)close(fd); /* still ours */
    }
    if (r < 0) {
        log_error("vm_table", "ABANDONED is not written vm=%s: %s", entry->id, fault.text);
        return false;
    }
    latch_file_put(file, record);
    (void)latch_file_free(file);
    return true;
}

static void tell_abandoned(struct vm_entry *entry, const struct latch_record *record,
                           const char *reason)
{
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    Godwit__Fault fault = GODWIT__FAULT__INIT;

    fault.has_number = true;
    fault.number = -ERR_CLOSED;
    fault.text = (char *)reason;
    event.vm_id = entry->id;
    event.move_id = (char *)record->move_id;
    event.has_at_target = event.at_target = true;
    event.has_latch = true;
    event.latch = GODWIT__LATCH__LATCH_ABANDONED;
    event.has_generation = true;
    event.generation = record->move_generation;
    event.has_ended = event.ended = true;
    event.fault = &fault;
    entry->table->config.on_move(entry->table->config.data, entry, &event);
}

static void take_record_latch(struct vm_entry *entry, const struct latch_record *record)
{
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;

    if (!record->move_generation || !record->move_id[0])
        return;
    event.move_id = (char *)record->move_id;
    event.generation = record->move_generation;
    event.latch = record->latch;
    take_latch(entry, &event, false);
}

/* Of a file of this VM that nobody has gone on from. */
static bool read_label(const struct vm_entry *entry, struct guest_label *ret_label)
{
    char path[VM_PATH_SIZE];
    struct fault fault = {0};
    uint64_t consumed_by = 0;

    if (vm_entry_state_path(entry, "suspended", path, NULL) < 0)
        return false;
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    if (guest_label_read(fd, ret_label, &consumed_by, &fault) < 0) {
        log_error("vm_table", "vm=%s: %s", entry->id, fault.text);
        return false;
    }
    return !consumed_by && strcmp(ret_label->vm_id, entry->id) == 0;
}

bool vm_entry_find_file(const struct vm_entry *entry, const char *nonce, uint64_t *ret_generation)
{
    struct guest_label label;

    if (!read_label(entry, &label) || strcmp(label.nonce, nonce) != 0)
        return false;
    *ret_generation = label.generation;
    return true;
}

bool vm_entry_has_file(const struct vm_entry *entry, uint64_t generation,
                       char ret_nonce[VM_NONCE_SIZE])
{
    struct guest_label label;

    if (!read_label(entry, &label) || label.generation != generation)
        return false;
    if (ret_nonce)
        memcpy(ret_nonce, label.nonce, VM_NONCE_SIZE);
    return true;
}

bool vm_entry_is_paging(const struct vm_entry *entry)
{
    const char *nonce = entry->status->paging_nonce;

    return entry->process && nonce && nonce[0];
}

/* A guest has gone on from it, and has read all of it by now. */
static void drop_read_file(const struct vm_entry *entry)
{
    char path[VM_PATH_SIZE];
    struct fault fault = {0};
    struct guest_label label;
    uint64_t consumed_by = 0;

    if (vm_entry_state_path(entry, "suspended", path, NULL) < 0)
        return;
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || guest_label_read(fd, &label, &consumed_by, &fault) < 0 || !consumed_by)
        return; /* a fresh one is a suspend's that is just being ended */
    if (vm_entry_drop_file(entry, &fault) < 0)
        log_warn("vm_table", "vm=%s: %s", entry->id, fault.text); /* the next start tries again */
}

bool vm_entry_rest(struct vm_entry *entry, uint64_t generation)
{
    char nonce[VM_NONCE_SIZE];

    assert(!vm_entry_is_alive(entry));
    if (!vm_entry_has_file(entry, generation, nonce))
        return false;
    set_text(&entry->status->suspend_nonce, nonce);
    vm_entry_set(entry, GODWIT__VM_STATE__VM_STATE_SUSPENDED, generation, "", true);
    return true;
}

int vm_entry_drop_file(const struct vm_entry *entry, struct fault *fault)
{
    char path[VM_PATH_SIZE];

    int r = vm_entry_state_path(entry, "suspended", path, fault);
    if (r < 0)
        return r;
    if (unlink(path) < 0)
        return errno == ENOENT ? 0 : fault_set_errno(fault, ERR_IO, errno, "removing %s", path);
    r = vm_entry_state_path(entry, "", path, fault);
    AUTO_FD int fd = r == 0 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0 || fsync(fd) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "syncing %s", path);
    return 0;
}

/* Its process is no more; find out what that means, from what it left behind. */
static void process_is_over(struct vm_entry *entry, const char *how)
{
    struct latch_record record = {0};
    struct fault fault = {0};
    struct vm_end end;
    char path[VM_PATH_SIZE];

    int r = vm_entry_run_path(entry, "latch", path, &fault);
    if (r == 0)
        r = latch_file_read(path, &record, &fault);
    if (r < 0) { /* no file: what we were told last has to do */
        if (r != ERR_NOT_FOUND)
            log_error("vm_table", "vm=%s: %s", entry->id, fault.text);
        record.generation = entry->status->generation;
        if (entry->status->latch && entry->status->latch->move_id) {
            (void)snprintf(record.move_id, sizeof record.move_id, "%s",
                           entry->status->latch->move_id);
            record.move_generation = entry->status->latch->generation;
            record.latch = (uint8_t)entry->status->latch->latch;
        }
    }
    vm_end_decide(&record, how, entry->stopping, &end);
    bool abandoned = end.abandons && record.move_id[0] && vm_entry_write_abandoned(entry, "latch", &record);
    entry->quiet = true; /* the state follows: told together */
    take_record_latch(entry, &record);
    entry->quiet = false;
    log_info(
        "vm_table", "a VM's process is over vm=%s state=%s: %s (%s)", entry->id,
        protobuf_c_enum_descriptor_get_value(&godwit__vm_state__descriptor, (int)end.state)->name,
        end.reason, how);
    uint64_t generation = record.generation ? record.generation : entry->status->generation;
    char nonce[VM_NONCE_SIZE];
    if (generation && vm_entry_has_file(entry, generation, nonce)) {
        end.state = GODWIT__VM_STATE__VM_STATE_SUSPENDED;
        end.reason[0] = 0;
        set_text(&entry->status->suspend_nonce, nonce);
    }
    if (abandoned)
        tell_abandoned(entry, &record, end.reason);
    vm_entry_set(entry, end.state, generation, end.reason, true);
    vm_entry_journal(entry, "end");
    entry->session_count = 0; /* the coordinator learns of the end by the state */
}

/* The process that an order had made is no more, and the order failed. */
static void be_as_before(struct vm_entry *entry)
{
    Godwit__VmStatus *before = TAKE(entry->before);

    entry->discard = false;
    entry->starting = entry->is_recalled = false;
    if (!before) {
        vm_table_remove(entry);
        return;
    }
    godwit__vm_status__free_unpacked(entry->status, NULL);
    entry->status = before;
    if (before->state == GODWIT__VM_STATE__VM_STATE_SUSPENDED &&
        !vm_entry_has_file(entry, before->generation, NULL)) {
        vm_entry_set(entry, GODWIT__VM_STATE__VM_STATE_CRASHED, before->generation,
                     "its file is not there any more", true);
        return;
    }
    save_start(entry); /* and its run files go when it is kept */
}

/* Of a start, when its process is no more. A suspended one ran only once its file was consumed; that is durable
 * before. Of a snapshot the file stays as it is, and a boot has none: there the latch was written before it ran. */
static bool may_have_run(const struct vm_entry *entry)
{
    const Godwit__VmStatus *before = entry->before;
    struct latch_record record = {0};
    struct fault fault = {0};
    char path[VM_PATH_SIZE];

    if (!entry->starting_runs)
        return false;
    if (entry->starting_from_file && before && before->state == GODWIT__VM_STATE__VM_STATE_SUSPENDED)
        return !vm_entry_has_file(entry, before->generation, NULL);
    return vm_entry_run_path(entry, "latch", path, &fault) == 0 &&
           latch_file_read(path, &record, &fault) == 0 &&
           record.generation == entry->starting_generation;
}

static void discarded(struct vm_entry *entry, const char *how)
{
    struct vm_table *table = entry->table;
    bool has_run = may_have_run(entry);
    char reason[VM_END_REASON_MAX];

    if (has_run) {
        (void)snprintf(reason, sizeof reason, "it ended right after it %s: %.120s",
                       entry->starting_from_file ? "went on from its file" : "was started", how);
        entry->discard = false;
        vm_entry_commit(entry);
        log_warn("vm_table", "a VM's start failed, and it may have run vm=%s: %s", entry->id, how);
        vm_entry_set(entry, GODWIT__VM_STATE__VM_STATE_CRASHED, entry->starting_generation, reason,
                     true);
        vm_entry_journal(entry, "end");
    }
    if (table->config.on_discarded)
        table->config.on_discarded(table->config.data, entry, has_run);
    if (has_run)
        table->config.on_ended(table->config.data, entry);
    else
        be_as_before(entry);
}

static void on_process_ended(void *data, const char *how)
{
    struct vm_entry *entry = data;
    struct vm_table *table = entry->table;
    char words[VM_END_REASON_MAX];

    (void)snprintf(words, sizeof words, "%s", entry->end_reason[0] ? entry->end_reason : how);
    entry->end_reason[0] = 0;
    entry->process = vm_process_free(entry->process);
    entry->quit_sent = false;
    if (entry->discard)
        discarded(entry, words);
    else if (entry->upgrade)
        table->config.on_upgrade_ended(table->config.data, entry, words);
    else
        vm_entry_ended(entry, words);
}

void vm_entry_ended(struct vm_entry *entry, const char *how)
{
    struct vm_table *table = entry->table;

    process_is_over(entry, how);
    table->config.on_ended(table->config.data, entry);
}

int vm_entry_process_config(struct vm_entry *entry, const char *socket_name,
                            char socket_path[static VM_PATH_SIZE],
                            char log_path[static VM_PATH_SIZE],
                            struct vm_process_config *ret_config, struct fault *fault)
{
    const char *name = entry->status->name ? entry->status->name : entry->id;
    int r = vm_entry_run_path(entry, socket_name, socket_path, fault);
    if (r == 0)
        r = vm_entry_state_path(entry, "vm.log", log_path, fault);
    *ret_config = (struct vm_process_config){
        .loop = entry->table->config.loop,
        .program = entry->table->config.program,
        .log_level = entry->table->config.log_level,
        .vm_id = entry->id,
        .name = name,
        .socket_path = socket_path,
        .log_path = log_path,
        .failpoints_path = entry->table->config.failpoints_path,
    };
    return r;
}

static int process_config(struct vm_entry *entry, const char *name, char socket_path[VM_PATH_SIZE],
                          char log_path[VM_PATH_SIZE], struct vm_process_config *ret_config,
                          struct fault *fault)
{
    int r = vm_entry_process_config(entry, "control.sock", socket_path, log_path, ret_config, fault);
    ret_config->name = name;
    ret_config->on_state = on_state;
    ret_config->on_move = on_move;
    ret_config->on_console = on_console;
    ret_config->on_protect = on_protect;
    ret_config->on_connected = on_connected;
    ret_config->on_lent = on_lent;
    ret_config->on_ended = on_process_ended;
    ret_config->data = entry;
    return r;
}

static void kill_domain(void *data)
{
    struct vm_entry *entry = data;

    entry->table->config.kill_domain(entry->table->config.data, entry);
}

static int open_domain(struct vm_entry *entry, const char *name, bool inherit, struct fault *fault)
{
    char socket_path[VM_PATH_SIZE], log_path[VM_PATH_SIZE];
    struct vm_process_config config;
    AUTO_FD int fd = -1;

    if (!entry->table->config.open_domain)
        return fault_set(fault, ERR_UNSUPPORTED, "this agent does not drive libvirt");
    int r = process_config(entry, name, socket_path, log_path, &config, fault);
    config.kill = kill_domain;
    if (r == 0)
        r = entry->table->config.open_domain(entry->table->config.data, entry, inherit, &fd, fault);
    if (r == 0)
        r = vm_process_open(&entry->process, &config, fd, fault);
    if (r == 0)
        (void)TAKE_FD(fd);
    return r;
}

bool vm_entry_is_domain(const struct vm_entry *entry)
{
    return entry->status->spec && vm_spec_is_libvirt(entry->status->spec);
}

int vm_entry_open(struct vm_entry *entry, const char *name, struct fault *fault)
{
    int r = vm_entry_begin(entry, fault);
    return r < 0 ? r : open_domain(entry, name, false, fault);
}

int vm_entry_inherit(struct vm_entry *entry, struct fault *fault)
{
    char path[VM_PATH_SIZE];
    struct stat info;

    assert(entry->unreachable && !entry->process);
    int r = vm_entry_run_path(entry, "latch", path, fault);
    if (r == 0 && stat(path, &info) < 0) { /* the run folder went with a boot, and it with it */
        entry->unreachable = false;
        process_is_over(entry, "the host was started anew");
        return 0;
    }
    if (r == 0)
        r = open_domain(entry, entry->status->name ? entry->status->name : entry->id, true, fault);
    if (r < 0)
        return r;
    entry->unreachable = false;
    ask(entry);
    log_info("vm_table", "adopted vm=%s name=%s, a domain of libvirt", entry->id,
             entry->status->name ? entry->status->name : "");
    return 0;
}

int vm_entry_begin(struct vm_entry *entry, struct fault *fault)
{
    assert(!vm_entry_is_alive(entry));
    if (entry->status->has_state && !entry->before) {
        entry->before = status_copy(entry->status);
        if (!entry->before)
            return fault_set(fault, ERR_NOMEM, "no memory to start a VM");
    }
    return 0;
}

int vm_entry_spawn(struct vm_entry *entry, const char *name, struct fault *fault)
{
    char socket_path[VM_PATH_SIZE], log_path[VM_PATH_SIZE];
    struct vm_process_config config;

    int r = vm_entry_begin(entry, fault);
    if (r == 0)
        r = process_config(entry, name, socket_path, log_path, &config, fault);
    if (r == 0)
        r = vm_process_start(&entry->process, &config, fault);
    return r;
}

void vm_entry_commit(struct vm_entry *entry)
{
    entry->starting = entry->is_recalled = false;
    if (entry->before)
        godwit__vm_status__free_unpacked(entry->before, NULL);
    entry->before = NULL;
}

void vm_entry_discard(struct vm_entry *entry)
{
    struct fault fault = {0};

    if (!entry->process) {
        be_as_before(entry);
        return;
    }
    entry->discard = true;
    if (vm_process_discard(entry->process, &fault) < 0)
        log_error("vm_table", "a process is left over vm=%s: %s", entry->id, fault.text);
}

bool vm_entry_is_alive(const struct vm_entry *entry)
{
    return entry->process || entry->unreachable || entry->upgrade;
}

static void give_process(struct vm_entry *entry, struct vm_process *process)
{
    char socket_path[VM_PATH_SIZE], log_path[VM_PATH_SIZE];
    struct vm_process_config config;
    struct fault fault = {0};

    int r = process_config(entry, entry->status->name ? entry->status->name : entry->id, socket_path,
                           log_path, &config, &fault);
    assert(r == 0); /* these paths were fit before */
    r = vm_process_give(process, &config, &fault);
    assert(r == 0); /* a few bytes: without them there is no deciding */
    entry->process = process;
    entry->quit_sent = false;
    entry->asking = false;
}

void vm_entry_switch(struct vm_entry *entry, struct vm_process *process)
{
    give_process(entry, process);
    vm_entry_journal(entry, "upgrade");
    if (vm_process_rpc(process))
        on_connected(entry);
}

void vm_entry_adopt_replica(struct vm_entry *entry, struct vm_process *process,
                            const Godwit__VmStatus *status, const char *how)
{
    assert(!vm_entry_is_alive(entry));
    if (!process) {
        vm_entry_ended(entry, how);
        return;
    }
    give_process(entry, process);
    entry->is_unconfirmed = true;
    if (status)
        vm_entry_update(entry, status);
    vm_entry_journal(entry, "take");
    if (vm_process_rpc(process))
        on_connected(entry);
}

void vm_entry_refresh(struct vm_entry *entry)
{
    ask(entry);
}

uint64_t vm_entry_given_as(const struct vm_entry *entry)
{
    const Godwit__MoveLatch *latch = entry->status->latch;
    struct latch_record record = {.generation = entry->status->generation};
    struct fault fault = {0};
    char path[VM_PATH_SIZE];

    if (latch) {
        record.latch = (uint8_t)latch->latch;
        record.move_generation = latch->generation;
    }
    if (vm_entry_run_path(entry, "latch", path, &fault) == 0)
        (void)latch_file_read(path, &record, &fault); /* else what was told */
    bool is_given =
        record.latch == GODWIT__LATCH__LATCH_GAVE && record.generation < record.move_generation;
    return is_given ? record.move_generation : 0;
}

/* ---- adopting ---- */
static void settle_one(struct vm_table *table)
{
    assert(table->unsettled > 0);
    if (--table->unsettled == 0 && table->loaded && !table->settled) {
        table->settled = true;
        loop_timer_stop(table->settle_timer);
        table->config.on_settled(table->config.data);
    }
}

static void settle_timer_fired(void *data)
{
    struct vm_table *table = data;

    if (!table->settled) {
        table->settled = true;
        if (table->unsettled)
            log_warn("vm_table", "%zu VMs have not answered yet: left alone, asked again",
                     table->unsettled);
        table->config.on_settled(table->config.data);
    }
}

struct question {
    struct vm_table *table;
    char id[VM_ID_SIZE];
    const struct vm_process *process; /* that was asked: only compared */
    bool first;
};

static void ask_done(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    AUTO_FREE struct question *question = data;
    struct vm_entry *entry = vm_table_find(question->table, question->id);
    const Godwit__VmStatus *status = (const Godwit__VmStatus *)reply;

    if (entry && entry->process == question->process) {
        entry->asking = false;
        entry->is_silent = !status;
        if (!status || !status->vm_id || strcmp(status->vm_id, entry->id) != 0) {
            log_warn("vm_table", "a VM's process does not answer, it is left alone vm=%s: %s",
                     entry->id, fault ? fault->text : "it speaks of another VM");
        } else {
            bool was_known = !entry->process || vm_process_is_known(entry->process);
            if (entry->process)
                vm_process_set_known(entry->process);
            if (status->name && !entry->status->name)
                entry->status->name = strdup(status->name);
            if (!entry->upgrade) /* else what it says is no word about the VM */
                vm_entry_update(entry, status);
            if (!was_known || entry->was_told_unknown) {
                log_info("vm_table", "adopted vm=%s name=%s pid=%d generation=%llu", entry->id,
                         status->name ? status->name : "", status->pid,
                         (unsigned long long)status->generation);
                vm_entry_journal(entry, "adopt");
                question->table->config.on_vm(question->table->config.data, entry); /* orders may wait for that */
            }
        }
    }
    if (question->first)
        settle_one(question->table);
}

static void ask_as(struct vm_entry *entry, bool first)
{
    Godwit__Empty empty = GODWIT__EMPTY__INIT;
    struct rpc *rpc = entry->process ? vm_process_rpc(entry->process) : NULL;

    if (!rpc || entry->asking)
        return;
    struct question *question = calloc(1, sizeof *question);
    if (!question)
        return;
    question->table = entry->table;
    memcpy(question->id, entry->id, sizeof question->id);
    question->process = entry->process;
    question->first = first;
    if (rpc_call(rpc, METHOD_VM_STATUS, &empty.base, &godwit__vm_status__descriptor, STATUS_MS_MAX,
                 ask_done, question, NULL) < 0) {
        free(question);
        return;
    }
    entry->asking = true;
    entry->table->unsettled += first;
}

static void ask(struct vm_entry *entry)
{
    ask_as(entry, false);
}

static void adopt(struct vm_entry *entry)
{
    char socket_path[VM_PATH_SIZE], log_path[VM_PATH_SIZE];
    struct vm_process_config config;
    struct fault fault = {0};

    int r = process_config(entry, entry->status->name ? entry->status->name : entry->id,
                           socket_path, log_path, &config, &fault);
    if (r == 0)
        r = vm_process_adopt(&entry->process, &config, &fault);
    if (r == 0)
        ask_as(entry, !entry->table->loaded);
    else if (r != ERR_NOT_FOUND && !entry->unreachable)
        log_error("vm_table", "cannot reach a VM's process, it is left alone vm=%s: %s", entry->id,
                  fault.text);
    entry->unreachable = r < 0 && r != ERR_NOT_FOUND;
}

static bool state_means_process(Godwit__VmState state)
{
    return state == GODWIT__VM_STATE__VM_STATE_RUNNING ||
           state == GODWIT__VM_STATE__VM_STATE_PAUSED ||
           state == GODWIT__VM_STATE__VM_STATE_INCOMING || state == GODWIT__VM_STATE__VM_STATE_HELD;
}

/* ---- reading the folders ---- */
static void load_one(struct vm_table *table, const char *id)
{
    struct vm_entry *entry = vm_table_find(table, id);
    char path[VM_PATH_SIZE];
    struct fault fault = {0};
    AUTO_FREE char *bytes = NULL;
    size_t count = 0;

    if (entry && entry->status->has_state)
        return;
    if (!entry && entry_new(table, id, &entry, &fault) < 0) {
        log_warn("vm_table", "a folder that is no VM's is left alone: %s", id);
        return;
    }
    if (vm_entry_state_path(entry, "vm.bin", path, &fault) < 0)
        return;
    file_write_tidy(path); /* an agent before us may have been killed while it wrote */
    int r = file_read(path, &bytes, &count, &fault);
    Godwit__VmStatus *status = NULL;
    if (r == 0)
        r = vm_bin_decode((const uint8_t *)bytes, count, &status, &fault);
    if (r == 0 && strcmp(status->vm_id, id) != 0) {
        godwit__vm_status__free_unpacked(status, NULL);
        r = fault_set(&fault, ERR_CORRUPT, "it is another VM's");
    }
    if (r < 0) {
        if (r != ERR_NOT_FOUND)
            log_error("vm_table", "a VM's file is not understood, it is left alone %s: %s", path,
                      fault.text);
        return;
    }
    godwit__vm_status__free_unpacked(entry->status, NULL);
    entry->status = status;
    if (status->generation > entry->hiwater)
        entry->hiwater = status->generation;
}

static int for_each_folder(struct vm_table *table, const char *dir,
                           void (*function)(struct vm_table *table, const char *id),
                           struct fault *fault)
{
    char path[VM_PATH_SIZE];
    int r = path_join(path, sizeof path, fault, "%s/vms", dir);
    if (r == 0)
        r = dir_make(path, fault);
    if (r < 0)
        return r;
    DIR *folder = opendir(path);
    if (!folder)
        return fault_set_errno(fault, ERR_IO, errno, "reading %s", path);
    for (struct dirent *item; (item = readdir(folder));) {
        if (item->d_name[0] != '.')
            function(table, item->d_name);
    }
    (void)closedir(folder); /* only read */
    return 0;
}

/* A domain that this boot's agents had libvirt start, and of which nothing newer is kept. True: libvirt may still be at
 * it, so nothing is known of it: the pool says its order again. */
static bool recall_start(struct vm_entry *entry)
{
    AUTO(status_free_p) Godwit__VmStatus *mark = start_mark_read(entry);
    struct latch_record record = {0};
    struct fault fault = {0};
    char path[VM_PATH_SIZE];

    if (!mark || strcmp(mark->vm_id, entry->id) != 0 || mark->generation <= entry->status->generation)
        return false;
    entry->starting_generation = mark->generation;
    if (vm_entry_run_path(entry, "latch", path, &fault) < 0 || latch_file_read(path, &record, &fault) < 0)
        return true;
    bool runs = record.generation == mark->generation;
    bool is_old = record.generation > mark->generation || record.move_generation > mark->generation;
    if (!runs && !is_old)
        return true;
    if (!runs && entry->status->has_state)
        return false; /* what came after that start has been kept, or is told by the latch */
    if (!runs) {
        mark->generation = record.generation;
        mark->state = record.generation ? mark->state : GODWIT__VM_STATE__VM_STATE_INCOMING;
    }
    godwit__vm_status__free_unpacked(entry->status, NULL);
    entry->status = TAKE(mark);
    return false;
}

/* By vm.bin it does not run. Did a process after that leave a newer word? One that rests in its file did not go on. */
static bool has_news(const struct vm_entry *entry)
{
    const Godwit__VmStatus *status = entry->status;
    struct latch_record record;
    struct fault fault = {0};
    char path[VM_PATH_SIZE];

    return vm_entry_run_path(entry, "latch", path, &fault) == 0 &&
           latch_file_read(path, &record, &fault) == 0 && vm_end_is_news(&record, status) &&
           !(status->state == GODWIT__VM_STATE__VM_STATE_SUSPENDED &&
             vm_entry_has_file(entry, status->generation, NULL));
}

static bool may_run(const struct vm_entry *entry)
{
    return state_means_process(entry->status->state) || has_news(entry);
}

static void look_for(struct vm_entry *entry)
{
    char path[VM_PATH_SIZE];
    struct stat info;

    entry->is_recalled = !vm_entry_is_alive(entry) && recall_start(entry);
    if (entry->is_recalled)
        return;
    if (vm_entry_is_domain(entry)) { /* until libvirtd is asked: see vm_entry_inherit */
        entry->unreachable = !entry->process && may_run(entry);
        return;
    }
    recall_disks_move(entry);
    if (!entry->upgrade && entry->table->config.on_find)
        entry->table->config.on_find(entry->table->config.data, entry);
    adopt(entry);
    if (entry->upgrade && !entry->process && !entry->unreachable)
        entry->table->config.on_upgrade_ended(entry->table->config.data, entry,
                                              "its process ended while no agent was looking");
    if (vm_entry_is_alive(entry))
        return;
    bool has_latch = vm_entry_run_path(entry, "latch", path, NULL) == 0 && stat(path, &info) == 0;
    if (entry->status->has_state && !may_run(entry))
        return; /* it ended before, and that is known */
    if (has_latch)
        process_is_over(entry, "its process ended while no agent was looking");
    else if (entry->status->has_state)
        process_is_over(entry, "the host was started anew");
}

static void find_out(struct vm_entry *entry)
{
    look_for(entry);
    entry->is_unconfirmed = vm_entry_is_alive(entry);
}

static void ask_timer_fired(void *data)
{
    struct vm_table *table = data;

    for (struct vm_entry *entry = table->entries, *next; entry; entry = next) {
        next = entry->next;
        if (entry->process && !vm_process_is_known(entry->process)) {
            ask(entry);
        } else if (entry->unreachable) {
            bool is_upgraded = entry->upgrade != NULL;
            find_out(entry);
            if (!is_upgraded && !vm_entry_is_alive(entry)) /* else that has told of it */
                table->config.on_ended(table->config.data, entry); /* which may forget it */
        }
    }
}

int vm_table_load(struct vm_table *table, struct fault *fault)
{
    int r = for_each_folder(table, table->config.state_dir, load_one, fault);
    if (r == 0)
        r = for_each_folder(table, table->config.run_dir, load_one, fault);
    if (r < 0)
        return fault_wrap(fault, r, "reading this host's VMs");

    for (struct vm_entry *entry = table->entries; entry; entry = entry->next)
        find_out(entry);
    /* A folder that held nothing of a VM is nothing to tell of; it stays on disk. */
    for (struct vm_entry *entry = table->entries, *next; entry; entry = next) {
        next = entry->next;
        if (!entry->status->has_state && !vm_entry_is_alive(entry) && !entry->saving && !entry->is_recalled)
            entry_drop(entry);
    }
    table->loaded = true;
    loop_timer_start(table->settle_timer, table->unsettled ? VM_ADOPT_MS_MAX : 0, 0);
    loop_timer_start(table->ask_timer, ASK_AGAIN_MS, ASK_AGAIN_MS);
    return 0;
}

void vm_table_set_journal(struct vm_table *table, struct journal *journal)
{
    table->journal = journal;
}

void vm_table_note_generation(struct vm_table *table, const char *vm_id, uint64_t generation)
{
    struct remembered *at = table->remembered;

    while (at && strcmp(at->id, vm_id) != 0)
        at = at->next;
    if (!at) {
        at = calloc(1, sizeof *at);
        if (!at)
            return;
        (void)snprintf(at->id, sizeof at->id, "%s", vm_id);
        at->next = table->remembered;
        table->remembered = at;
    }
    if (generation > at->generation)
        at->generation = generation;
}

uint64_t vm_table_hiwater(struct vm_table *table, const char *vm_id)
{
    const struct vm_entry *entry = vm_table_find(table, vm_id);
    uint64_t hiwater = entry ? entry->hiwater : 0;

    for (const struct remembered *at = table->remembered; at; at = at->next) {
        if (strcmp(at->id, vm_id) == 0 && at->generation > hiwater)
            hiwater = at->generation;
    }
    return hiwater;
}

void vm_table_refuse(struct vm_table *table, const char *vm_id, uint64_t generation)
{
    struct vm_entry *entry = vm_table_find(table, vm_id);
    struct journal_entry line = {.event = "refuse", .generation = generation};

    if (generation <= vm_table_hiwater(table, vm_id))
        return;
    vm_table_note_generation(table, vm_id, generation);
    if (entry)
        entry->hiwater = generation;
    (void)snprintf(line.vm_id, sizeof line.vm_id, "%s", vm_id);
    (void)snprintf(line.incarnation, sizeof line.incarnation, "%s", table->config.incarnation);
    if (table->journal)
        journal_put(table->journal, &line);
}

/* ---- the table ---- */
int vm_table_new(struct vm_table **ret_table, const struct vm_table_config *config,
                 struct fault *fault)
{
    struct vm_table *table = calloc(1, sizeof *table);
    if (!table)
        return fault_set(fault, ERR_NOMEM, "no memory for the table of VMs");
    table->config = *config;
    int r = loop_timer_new(&table->ask_timer, config->loop, ask_timer_fired, table, fault);
    if (r == 0)
        r = loop_timer_new(&table->settle_timer, config->loop, settle_timer_fired, table, fault);
    if (r < 0) {
        (void)vm_table_free(table);
        return r;
    }
    *ret_table = table;
    return 0;
}

struct vm_table *vm_table_free(struct vm_table *table)
{
    if (!table)
        return NULL;
    table->closing = true;
    while (table->saves)
        loop_turn(table->config.loop, true); /* each holds a pointer to us */
    while (table->remembered) {
        struct remembered *at = table->remembered;
        table->remembered = at->next;
        free(at);
    }
    while (table->entries) {
        struct vm_entry *entry = table->entries;
        table->entries = entry->next;
        entry_free(entry);
    }
    table->count = 0;
    if (table->ask_timer)
        (void)loop_timer_free(table->ask_timer);
    if (table->settle_timer)
        (void)loop_timer_free(table->settle_timer);
    free(table);
    return NULL;
}
