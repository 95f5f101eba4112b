/*      LOOK      process: LOOK
 *      BEGIN     process: LOOK --none--> worker: land -> process: BEGIN + fd
 *      PROMISE   process: PROMISE --promised--> worker: name
 *      SETTLE    process: SETTLE --settled, none, or no process--> worker: leave
 *      UNDO      process: UNDO --off, failed, none, or no process--> worker: undo
 * Where the process is not at an end yet, its state is the answer and the coordinator asks again. */
#include "agent/disk_order.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/disk_place.h"
#include "agent/host_facts.h"
#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum { CALL_MS = 5000, STATE_SIZE = 16 };

struct doing {
    struct disk_orders *orders;
    struct rpc_request *request;
    Godwit__OrderDiskMove *order; /* owned copy */
    Godwit__DiskMoveStatus *seen; /* owned; the process's last answer; NULL: it gave none */
    struct disk_place_ask ask;
    int (*work)(const struct disk_place_ask *ask, struct fault *fault);
    int fd; /* that landed */
    bool has_asked; /* BEGIN: the process does not know of it */
    struct fault fault;
};

static void doing_free(struct doing *doing)
{
    close_p(&doing->fd);
    if (doing->order)
        godwit__order_disk_move__free_unpacked(doing->order, NULL);
    if (doing->seen)
        godwit__disk_move_status__free_unpacked(doing->seen, NULL);
    free(doing);
}

static void refuse(struct doing *doing, const struct fault *fault)
{
    (void)rpc_reply_fault(doing->request, fault);
    doing_free(doing);
}

static void answer(struct doing *doing, bool over)
{
    static char none[] = "none";
    Godwit__DiskMoveStatus nothing = GODWIT__DISK_MOVE_STATUS__INIT;
    Godwit__DiskMoveStatus reply;

    nothing.state = none;
    reply = doing->seen ? *doing->seen : nothing;
    reply.has_over = true;
    reply.over = over;
    (void)rpc_reply(doing->request, &reply.base);
    doing_free(doing);
}

/* ---- files ---- */
static void files_work(void *data)
{
    struct doing *doing = data;

    if (doing->work)
        (void)doing->work(&doing->ask, &doing->fault); /* the fault says it */
    else
        (void)disk_place_land(&doing->ask, &doing->fd, &doing->fault);
}

static void ask_process(struct doing *doing, Godwit__DiskMoveVerb verb);

static void files_done(void *data)
{
    struct doing *doing = data;

    doing->orders->workers--;
    if (doing->fault.code)
        refuse(doing, &doing->fault);
    else if (doing->work)
        answer(doing, true);
    else
        ask_process(doing, GODWIT__DISK_MOVE_VERB__DISK_MOVE_BEGIN);
}

/* `work` NULL: land, and then begin. */
static void do_files(struct doing *doing,
                     int (*work)(const struct disk_place_ask *ask, struct fault *fault))
{
    struct fault fault = {0};

    doing->work = work;
    doing->ask.device = doing->seen ? doing->seen->device : 0;
    doing->ask.inode = doing->seen ? doing->seen->inode : 0;
    int r = loop_work(doing->orders->loop, files_work, files_done, doing);
    if (r == 0) {
        doing->orders->workers++;
        return;
    }
    (void)fault_set(&fault, r, "no worker to look at a disk's files");
    refuse(doing, &fault);
}

/* ---- the VM's process ---- */
static bool seen_is(const struct doing *doing, const char *state)
{
    return doing->seen && doing->seen->state && strcmp(doing->seen->state, state) == 0;
}

/* What the process says, or nothing: there is none of this generation. */
static void go_on(struct doing *doing)
{
    bool knows = doing->seen && !seen_is(doing, "none");

    switch (doing->order->verb) {
    case GODWIT__DISK_MOVE_VERB__DISK_MOVE_LOOK:
        answer(doing, false);
        return;
    case GODWIT__DISK_MOVE_VERB__DISK_MOVE_BEGIN:
        if (knows || doing->has_asked)
            answer(doing, knows);
        else
            do_files(doing, NULL);
        return;
    case GODWIT__DISK_MOVE_VERB__DISK_MOVE_PROMISE:
        if (seen_is(doing, "promised"))
            do_files(doing, disk_place_name);
        else
            answer(doing, false);
        return;
    case GODWIT__DISK_MOVE_VERB__DISK_MOVE_SETTLE:
        if (!knows || seen_is(doing, "settled"))
            do_files(doing, disk_place_leave);
        else
            answer(doing, false);
        return;
    case GODWIT__DISK_MOVE_VERB__DISK_MOVE_UNDO:
        if (!knows || seen_is(doing, "off") || seen_is(doing, "failed"))
            do_files(doing, disk_place_undo);
        else
            answer(doing, false);
        return;
    case _GODWIT__DISK_MOVE_VERB_IS_INT_SIZE:
        break;
    }
    struct fault fault = {0};
    (void)fault_set(&fault, ERR_UNSUPPORTED, "this agent cannot do verb %d with a disk",
                    (int)doing->order->verb);
    refuse(doing, &fault);
}

static Godwit__DiskMoveStatus *status_copy(const ProtobufCMessage *message)
{
    size_t count = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(message, bytes);
    return godwit__disk_move_status__unpack(NULL, count, bytes);
}

static void on_told(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct doing *doing = data;
    struct fault words = {0};

    if (!fault) {
        if (doing->seen)
            godwit__disk_move_status__free_unpacked(doing->seen, NULL);
        doing->seen = status_copy(reply);
        if (!doing->seen)
            (void)fault_set(&words, ERR_NOMEM, "no memory for a disk's move");
    } else {
        words = *fault;
    }
    if (words.code)
        refuse(doing, &words);
    else
        go_on(doing);
}

/* A process of the generation that is meant; ERR_NOT_FOUND: there is none. */
static int find_process(const struct doing *doing, struct rpc **ret_rpc, struct fault *fault)
{
    struct vm_entry *entry = vm_table_find(doing->orders->table, doing->order->vm_id);

    if (!entry || !vm_entry_is_alive(entry) ||
        entry->status->generation != doing->order->generation)
        return fault_set(fault, ERR_NOT_FOUND, "%s does not run here as generation %llu",
                         doing->order->before->name,
                         (unsigned long long)doing->order->generation);
    if (!entry->process || !vm_process_rpc(entry->process) || entry->upgrade || entry->suspending)
        return fault_set(fault, ERR_BUSY, "%s: its process cannot be spoken to just now",
                         doing->order->before->name);
    *ret_rpc = vm_process_rpc(entry->process);
    return 0;
}

static void ask_process(struct doing *doing, Godwit__DiskMoveVerb verb)
{
    const Godwit__OrderDiskMove *order = doing->order;
    Godwit__VmDiskMove call = GODWIT__VM_DISK_MOVE__INIT;
    struct fault fault = {0};
    struct rpc *rpc = NULL;

    int r = find_process(doing, &rpc, &fault);
    bool is_end = order->verb == GODWIT__DISK_MOVE_VERB__DISK_MOVE_SETTLE ||
                  order->verb == GODWIT__DISK_MOVE_VERB__DISK_MOVE_UNDO;
    if (r == ERR_NOT_FOUND &&
        (is_end || order->verb == GODWIT__DISK_MOVE_VERB__DISK_MOVE_LOOK)) {
        go_on(doing); /* then only files are left to be seen to */
        return;
    }
    call.vm_id = order->vm_id;
    call.move_id = order->move_id;
    call.has_verb = call.has_generation = call.has_disk = true;
    call.verb = verb;
    call.generation = order->generation;
    call.disk = order->disk;
    call.after = order->after->disks[order->disk];
    call.has_bandwidth_bytes_per_s = order->has_bandwidth_bytes_per_s;
    call.bandwidth_bytes_per_s = order->bandwidth_bytes_per_s;
    if (r == 0)
        r = rpc_call_fds(rpc, METHOD_VM_DISK_MOVE, &call.base, &doing->fd, doing->fd >= 0 ? 1 : 0,
                         &godwit__disk_move_status__descriptor, CALL_MS, on_told, doing, &fault);
    if (r < 0) {
        refuse(doing, &fault);
        return;
    }
    doing->has_asked = verb == GODWIT__DISK_MOVE_VERB__DISK_MOVE_BEGIN;
}

/* ---- the order ---- */
static int judge_place(const Godwit__OrderDiskMove *order, struct fault *fault)
{
    const Godwit__VmSpec *before = order->before, *after = order->after;

    if (!before || !after || !before->name || before->n_disks != after->n_disks ||
        order->disk >= before->n_disks)
        return fault_set(fault, ERR_INVALID, "a disk's move without its VM's description");
    int r = vm_spec_judge(before, fault);
    if (r == 0)
        r = vm_spec_judge(after, fault);
    if (r < 0)
        return r;
    const Godwit__DiskSpec *old = before->disks[order->disk], *disk = after->disks[order->disk];
    if (!disk->store || disk->store[0] != '/' || !disk->file || strcmp(old->name, disk->name) != 0)
        return fault_set(fault, ERR_INVALID, "disk %s is to go into no store", old->name);
    if (old->store && strcmp(old->store, disk->store) == 0)
        return fault_set(fault, ERR_INVALID, "disk %s lies in store %s already", old->name,
                         disk->store);
    if (!order->bytes || order->bytes % 512 != 0)
        return fault_set(fault, ERR_INVALID, "disk %s has no size", old->name);
    return 0;
}

static int judge(const struct disk_orders *orders, const Godwit__OrderDiskMove *order,
                 struct fault *fault)
{
    bool begins = order->verb == GODWIT__DISK_MOVE_VERB__DISK_MOVE_BEGIN ||
                  order->verb == GODWIT__DISK_MOVE_VERB__DISK_MOVE_PROMISE;

    if (!order->vm_id || !id_name_is_valid(order->vm_id) || strlen(order->vm_id) >= VM_ID_SIZE ||
        !order->move_id || !order->generation)
        return fault_set(fault, ERR_INVALID, "a disk's move without its VM");
    if (begins && (!order->incarnation || strcmp(order->incarnation,
                                                 host_facts_incarnation(orders->facts)) != 0))
        return fault_set(fault, ERR_REFUSED, "the order is for another life of this host");
    return judge_place(order, fault);
}

static Godwit__OrderDiskMove *order_copy(const Godwit__OrderDiskMove *order)
{
    size_t count = godwit__order_disk_move__get_packed_size(order);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)godwit__order_disk_move__pack(order, bytes);
    return godwit__order_disk_move__unpack(NULL, count, bytes);
}

void disk_order(struct disk_orders *orders, const Godwit__OrderDiskMove *order,
                struct rpc_request *request)
{
    struct fault fault = {0};
    struct doing *doing = NULL;

    if (!request)
        return; /* nobody waits */
    int r = judge(orders, order, &fault);
    if (r == 0 && !(doing = calloc(1, sizeof *doing)))
        r = fault_set(&fault, ERR_NOMEM, "no memory for a disk's move");
    if (r == 0) {
        doing->orders = orders;
        doing->request = request;
        doing->fd = -1;
        doing->order = order_copy(order);
        if (!doing->order)
            r = fault_set(&fault, ERR_NOMEM, "no memory for a disk's move");
    }
    if (r < 0) {
        (void)rpc_reply_fault(request, &fault);
        if (doing)
            doing_free(doing);
        return;
    }
    doing->ask = (struct disk_place_ask){.vm_id = doing->order->vm_id,
                                         .before = doing->order->before,
                                         .after = doing->order->after,
                                         .disk = doing->order->disk,
                                         .bytes = doing->order->bytes,
                                         .generation = doing->order->generation};
    host_facts_stamp(orders->facts, doing->order->generation, &doing->ask.wanted);
    bool begins = doing->order->verb == GODWIT__DISK_MOVE_VERB__DISK_MOVE_BEGIN;
    ask_process(doing, begins ? GODWIT__DISK_MOVE_VERB__DISK_MOVE_LOOK : doing->order->verb);
}

void disk_orders_wait(struct disk_orders *orders)
{
    while (orders->workers)
        loop_turn(orders->loop, true); /* each holds a pointer to us */
}
