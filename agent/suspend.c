#include "agent/suspend.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/method.h"

enum { CALL_MS_MAX = 5000, WRITE_MS_MIN = 60000, WRITE_MS_A_GIB = 30000 };

struct suspends {
    struct loop *loop;
    struct vm_table *table;
    struct suspend *first;
    unsigned workers;
    bool stopped;
};

struct suspend {
    struct suspends *suspends;
    struct suspend *next;
    struct rpc_request *request;
    char vm_id[VM_ID_SIZE];
    char from[VM_PATH_SIZE], to[VM_PATH_SIZE], folder[VM_PATH_SIZE];
    struct fault fault;
    int result;
};

static void suspend_free(struct suspend *suspend)
{
    for (struct suspend **at = &suspend->suspends->first; *at; at = &(*at)->next) {
        if (*at == suspend) {
            *at = suspend->next;
            break;
        }
    }
    free(suspend);
}

static void send_end(struct vm_entry *entry, bool keep)
{
    Godwit__VmSuspendEnd order = GODWIT__VM_SUSPEND_END__INIT;
    struct rpc *rpc = entry->process ? vm_process_rpc(entry->process) : NULL;

    order.vm_id = entry->id;
    order.has_keep = true;
    order.keep = keep;
    if (rpc) /* lost with the connection: its status says again that it waits */
        (void)rpc_send_event(rpc, METHOD_VM_SUSPEND_END, &order.base, NULL);
}

/* It runs on. */
static void fail(struct suspend *suspend, const struct fault *fault)
{
    struct vm_entry *entry = vm_table_find(suspend->suspends->table, suspend->vm_id);

    log_warn("suspend", "not suspended vm=%s: %s", suspend->vm_id, fault->text);
    (void)unlink(suspend->from); /* absent is as good */
    if (entry) {
        entry->suspending = false;
        if (entry->process)
            vm_entry_refresh(entry);
    }
    (void)rpc_reply_fault(suspend->request, fault);
    suspend_free(suspend);
}

static int sync_folder(const char *path, struct fault *fault)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "syncing %s", path);
    return 0;
}

static void rename_work(void *data)
{
    struct suspend *suspend = data;

    suspend->result = 0;
    if (rename(suspend->from, suspend->to) < 0)
        suspend->result = fault_set_errno(&suspend->fault, ERR_IO, errno, "renaming %s",
                                          suspend->from);
    else if (sync_folder(suspend->folder, &suspend->fault) < 0) {
        suspend->result = ERR_IO;
        (void)unlink(suspend->to); /* nobody may go on from it: its guest runs on */
    }
}

static void rename_done(void *data)
{
    struct suspend *suspend = data;

    suspend->suspends->workers--;
    if (suspend->suspends->stopped)
        return; /* suspends_free has it; the next agent finds the process waiting */
    struct vm_entry *entry = vm_table_find(suspend->suspends->table, suspend->vm_id);
    if (suspend->result == 0 && entry && entry->process) {
        send_end(entry, true); /* its end answers */
        return;
    }
    if (suspend->result == 0) {
        suspend_free(suspend); /* its end was told, and found the file or not */
        return;
    }
    if (entry)
        send_end(entry, false);
    fail(suspend, &suspend->fault);
}

static void written(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct suspend *suspend = data;
    struct fault words = {0};

    if (!reply) {
        fail(suspend, fault);
        return;
    }
    suspend->suspends->workers++;
    int r = loop_work(suspend->suspends->loop, rename_work, rename_done, suspend);
    if (r < 0) {
        struct vm_entry *entry = vm_table_find(suspend->suspends->table, suspend->vm_id);
        suspend->suspends->workers--;
        if (entry)
            send_end(entry, false);
        (void)fault_set(&words, r, "no worker to keep the guest's file");
        fail(suspend, &words);
    }
}

static int send_suspend(struct suspend *suspend, struct vm_entry *entry,
                        const Godwit__VmSuspend *order, struct fault *fault)
{
    uint64_t gib = entry->status->spec && entry->status->spec->memory
                       ? entry->status->spec->memory->size >> 30
                       : 0;
    AUTO_FD int fd =
        open(suspend->from, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making %s", suspend->from);
    return rpc_call_fds(vm_process_rpc(entry->process), METHOD_VM_SUSPEND, &order->base, &fd, 1,
                        &godwit__vm_status__descriptor, WRITE_MS_MIN + gib * WRITE_MS_A_GIB,
                        written, suspend, fault);
}

int suspend_begin(struct suspends *suspends, struct vm_entry *entry, const Godwit__VmSuspend *order,
                  struct rpc_request *request, struct fault *fault)
{
    if (!request || !order->nonce || !*order->nonce)
        return fault_set(fault, ERR_INVALID, "a suspend without its nonce");
    struct suspend *suspend = calloc(1, sizeof *suspend);
    if (!suspend)
        return fault_set(fault, ERR_NOMEM, "no memory to suspend a VM");
    suspend->suspends = suspends;
    suspend->request = request;
    (void)snprintf(suspend->vm_id, sizeof suspend->vm_id, "%s", entry->id);
    int r = vm_entry_state_path(entry, "suspended.tmp", suspend->from, fault);
    if (r == 0)
        r = vm_entry_state_path(entry, "suspended", suspend->to, fault);
    if (r == 0)
        r = vm_entry_state_path(entry, "", suspend->folder, fault);
    if (r == 0)
        r = send_suspend(suspend, entry, order, fault);
    if (r < 0) {
        free(suspend);
        return r;
    }
    suspend->next = suspends->first;
    suspends->first = suspend;
    entry->suspending = true;
    log_info("suspend", "begins vm=%s", entry->id);
    return 0;
}

void suspend_on_ended(struct suspends *suspends, struct vm_entry *entry)
{
    struct suspend *suspend = suspends->first;

    while (suspend && strcmp(suspend->vm_id, entry->id) != 0)
        suspend = suspend->next;
    entry->suspending = false;
    if (!suspend)
        return;
    if (suspend->request)
        (void)rpc_reply(suspend->request, &entry->status->base);
    suspend->request = NULL;
    if (suspends->workers == 0) /* else its worker still looks at it */
        suspend_free(suspend);
}

void suspend_on_waiting(struct suspends *suspends, struct vm_entry *entry)
{
    char path[VM_PATH_SIZE];
    (void)suspends;

    bool keep = vm_entry_has_file(entry, entry->status->generation, NULL);
    log_warn("suspend", "a VM waits at the end of its suspend: %s vm=%s",
             keep ? "its file is whole, its process ends" : "it runs on", entry->id);
    if (!keep && vm_entry_state_path(entry, "suspended.tmp", path, NULL) == 0)
        (void)unlink(path); /* absent is as good */
    entry->suspending = keep; /* until its end is seen */
    send_end(entry, keep);
}

int suspends_new(struct suspends **ret_suspends, struct loop *loop, struct vm_table *table,
                 struct fault *fault)
{
    struct suspends *suspends = calloc(1, sizeof *suspends);
    if (!suspends)
        return fault_set(fault, ERR_NOMEM, "no memory for suspends");
    suspends->loop = loop;
    suspends->table = table;
    *ret_suspends = suspends;
    return 0;
}

void suspends_stop(struct suspends *suspends)
{
    if (!suspends)
        return;
    suspends->stopped = true;
    while (suspends->workers)
        loop_turn(suspends->loop, true); /* each holds a pointer to one of ours */
}

struct suspends *suspends_free(struct suspends *suspends)
{
    while (suspends && suspends->first)
        suspend_free(suspends->first);
    free(suspends);
    return NULL;
}
