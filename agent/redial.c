#include "agent/redial.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/move_sockets.h"
#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/config.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/method.h"

enum { CALL_MS_MAX = 5000 };

struct redial {
    struct vm_table *table;
    char vm_id[VM_ID_SIZE], move_id[VM_ID_SIZE];
    unsigned epoch;
};

void redial_remember(struct vm_entry *entry, const char *address)
{
    char path[VM_PATH_SIZE], line[VM_ID_SIZE + MOVE_ADDRESS_SIZE + 1];
    struct fault fault = {0};

    int count = snprintf(line, sizeof line, "%s %s", entry->out_move_id, address);
    int r = count > 0 && (size_t)count < sizeof line
                ? vm_entry_run_path(entry, "move", path, &fault)
                : fault_set(&fault, ERR_LIMIT, "its address is too long");
    if (r == 0)
        r = file_write_atomic(path, 0600, line, (size_t)count, &fault);
    if (r < 0) /* it moves all the same */
        log_warn("redial", "lanes that it loses will not come back vm=%s: %s", entry->id,
                 fault.text);
}

/* "<move id> <address>" as it was kept: the address of this move. */
static int recall(const struct vm_entry *entry, const char *move_id,
                  char ret_address[static MOVE_ADDRESS_SIZE], struct fault *fault)
{
    char path[VM_PATH_SIZE];
    AUTO_FREE char *text = NULL;
    size_t count = 0, length = strlen(move_id);

    int r = vm_entry_run_path(entry, "move", path, fault);
    if (r == 0)
        r = file_read(path, &text, &count, fault);
    if (r < 0)
        return r;
    if (count <= length + 1 || strncmp(text, move_id, length) != 0 || text[length] != ' ' ||
        count - length - 1 >= MOVE_ADDRESS_SIZE)
        return fault_set(fault, ERR_NOT_FOUND, "this host began no such move");
    (void)snprintf(ret_address, MOVE_ADDRESS_SIZE, "%s", text + length + 1);
    return 0;
}

static void replied(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct redial *redial = data;
    struct vm_entry *entry = vm_table_find(redial->table, redial->vm_id);

    if (!reply)
        log_warn("redial", "sockets were not handed over vm=%s: %s", redial->vm_id, fault->text);
    if (entry)
        entry->dialling = false;
    free(redial);
}

static void connected(void *data, const int *fds, size_t count, const struct fault *fault)
{
    struct redial *redial = data;
    struct vm_entry *entry = vm_table_find(redial->table, redial->vm_id);
    struct rpc *rpc = entry && entry->process ? vm_process_rpc(entry->process) : NULL;
    struct fault words = {0};
    Godwit__MoveLanes lanes = GODWIT__MOVE_LANES__INIT;
    Godwit__Fault told = GODWIT__FAULT__INIT;

    lanes.vm_id = redial->vm_id;
    lanes.move_id = redial->move_id;
    lanes.has_epoch = true;
    lanes.epoch = redial->epoch;
    if (fault) {
        told.has_number = true;
        told.number = -fault->code;
        told.text = (char *)fault->text;
        lanes.fault = &told;
    }
    int r = rpc ? rpc_call_fds(rpc, METHOD_VM_MOVE_LANES, &lanes.base, fds, count,
                               &godwit__empty__descriptor, CALL_MS_MAX, replied, redial, &words)
                : fault_set(&words, ERR_NOT_FOUND, "its process is gone");
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]); /* the process has its own, or nobody needs them */
    if (r < 0)
        replied(redial, NULL, &words);
}

static struct redial *redial_new(struct vm_entry *entry, const Godwit__MoveEvent *event)
{
    struct redial *redial = calloc(1, sizeof *redial);
    if (!redial)
        return NULL;
    redial->table = entry->table;
    (void)snprintf(redial->vm_id, sizeof redial->vm_id, "%s", entry->id);
    (void)snprintf(redial->move_id, sizeof redial->move_id, "%s", event->move_id);
    redial->epoch = event->epoch;
    return redial;
}

void redial_begin(struct loop *loop, struct vm_entry *entry, const Godwit__MoveEvent *event)
{
    struct fault fault = {0};
    char address[MOVE_ADDRESS_SIZE];

    if (entry->dialling || !event->move_id || !event->move_id[0] ||
        strlen(event->move_id) >= VM_ID_SIZE || event->lanes_wanted < 2 ||
        event->lanes_wanted > MOVE_SOCKETS_MAX)
        return;
    struct redial *redial = redial_new(entry, event);
    if (!redial)
        return; /* it asks again */
    int r = recall(entry, event->move_id, address, &fault);
    if (r == 0)
        r = move_sockets_connect(loop, address, event->lanes_wanted, connected, redial, &fault);
    if (r < 0) {
        log_warn("redial", "lanes are not opened again vm=%s: %s", entry->id, fault.text);
        free(redial);
        return;
    }
    log_info("redial", "lanes were lost, connecting again vm=%s move=%s epoch=%u", entry->id,
             event->move_id, event->epoch);
    entry->dialling = true;
}
