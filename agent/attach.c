#include "agent/attach.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/backends.h"
#include "agent/host_facts.h"
#include "agent/tap.h"
#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum { CALL_MS = 5000, ROUNDS = 5, ROUND_MS = 50, LOUD_EVERY = 20 };

static_assert(ATTACH_BACKENDS_MAX >= DISKS_MAX + 1 + NICS_MAX, "every disk and nic has a place");

struct attach { /* all that is under way */
    struct loop *loop;
    struct vm_table *table;
    struct host_facts *facts;
    struct attaching *first;
    unsigned workers;
    bool stopped;
};

struct attaching {
    struct attach *attach;
    struct attaching *next;
    char vm_id[VM_ID_SIZE];
    Godwit__VmSpec *spec; /* owned */
    struct backends_ask ask;
    struct backends backends;
    struct fault fault;
    int result;
    unsigned tries;
    struct loop_timer *timer; /* again, or the next round of announcing */
    int nic_fds[NICS_MAX];    /* copies to announce by */
    uint8_t macs[NICS_MAX][VM_SPEC_MAC_BYTES];
    unsigned nic_count, round;
};

size_t attach_list(const Godwit__VmSpec *spec, const struct backends *backends, unsigned first,
                   Godwit__VmBackend *ret_backends, Godwit__VmBackend **ret_list)
{
    size_t count = 0;
    unsigned fd = first;

    for (unsigned i = 0; i < backends->disk_count + spec->n_nics; i++) {
        Godwit__VmBackend *backend = &ret_backends[count];
        godwit__vm_backend__init(backend);
        bool is_nic = i >= backends->disk_count;
        unsigned index = is_nic ? i - backends->disk_count : i;
        backend->has_is_nic = backend->has_index = true;
        backend->is_nic = is_nic;
        backend->index = index;
        backend->has_fd_first = backend->has_fd_count = true;
        backend->fd_first = fd;
        backend->fd_count = is_nic ? vm_spec_nic_taps(spec->nics[index]) : 1;
        fd += backend->fd_count;
        ret_list[count++] = backend;
    }
    assert(fd - first == backends->fd_count);
    return count;
}

int attach_stamp_read(const Godwit__Stamp *message, struct stamp *ret_stamp, struct fault *fault)
{
    struct stamp stamp = {0};

    if (message && message->generation) {
        if (!message->owner || !message->incarnation || !message->owner[0] ||
            !message->incarnation[0] || strlen(message->owner) >= STAMP_WORD_SIZE ||
            strlen(message->incarnation) >= STAMP_WORD_SIZE)
            return fault_set(fault, ERR_INVALID, "a stamp without its owner");
        stamp.generation = message->generation;
        memcpy(stamp.owner, message->owner, strlen(message->owner));
        memcpy(stamp.incarnation, message->incarnation, strlen(message->incarnation));
    }
    *ret_stamp = stamp;
    return 0;
}

void attach_stamp_write(const struct stamp *stamp, Godwit__Stamp *ret_message)
{
    godwit__stamp__init(ret_message);
    ret_message->has_generation = true;
    ret_message->generation = stamp->generation;
    ret_message->owner = (char *)(uintptr_t)stamp->owner; /* protobuf-c knows no const */
    ret_message->incarnation = (char *)(uintptr_t)stamp->incarnation;
}

/* ---- one attaching ---- */
static void attaching_free(struct attaching *attaching)
{
    for (struct attaching **at = &attaching->attach->first; *at; at = &(*at)->next) {
        if (*at == attaching) {
            *at = attaching->next;
            break;
        }
    }
    backends_close(&attaching->backends);
    for (unsigned i = 0; i < attaching->nic_count; i++)
        close_p(&attaching->nic_fds[i]);
    if (attaching->timer)
        (void)loop_timer_free(attaching->timer);
    if (attaching->spec)
        godwit__vm_spec__free_unpacked(attaching->spec, NULL);
    free(attaching);
}

/* The entry, if it still is the one that wants: its process may have ended meanwhile. */
static struct vm_entry *wanting(struct attaching *attaching)
{
    struct vm_entry *entry = vm_table_find(attaching->attach->table, attaching->vm_id);

    return entry && entry->process && entry->status->wants_backends ? entry : NULL;
}

static void give_up(struct attaching *attaching)
{
    struct vm_entry *entry = vm_table_find(attaching->attach->table, attaching->vm_id);

    if (entry)
        entry->attaching = false;
    attaching_free(attaching);
}

static void work(void *data)
{
    struct attaching *attaching = data;

    attaching->fault = (struct fault){0};
    attaching->result =
        backends_take(&attaching->ask, &attaching->backends, &attaching->fault);
}

static void opened(void *data);

static void again(struct attaching *attaching, const struct fault *fault)
{
    if (attaching->tries++ % LOUD_EVERY == 0)
        log_error("attach", "the guest's disks and nics wait, trying on vm=%s: %s",
                  attaching->vm_id, fault->text);
    backends_close(&attaching->backends);
    loop_timer_start(attaching->timer, ATTACH_AGAIN_MS, 0);
}

static void start_work(struct attaching *attaching)
{
    struct fault fault = {0};

    attaching->attach->workers++;
    if (loop_work(attaching->attach->loop, work, opened, attaching) < 0) {
        attaching->attach->workers--;
        (void)fault_set(&fault, ERR_NOMEM, "no worker to open disks");
        again(attaching, &fault);
    }
}

static void keep_nics(struct attaching *attaching)
{
    const Godwit__VmSpec *spec = attaching->spec;
    unsigned at = attaching->backends.disk_count;

    for (unsigned i = 0; i < spec->n_nics; i++) {
        unsigned taps = vm_spec_nic_taps(spec->nics[i]);
        if (taps == 0)
            continue; /* nobody hears it */
        int fd = fcntl(attaching->backends.fds[at], F_DUPFD_CLOEXEC, 3);
        at += taps;
        if (fd < 0 || !spec->nics[i]->mac ||
            !vm_spec_mac_parse(spec->nics[i]->mac, attaching->macs[attaching->nic_count])) {
            close_p(&fd);
            continue;
        }
        attaching->nic_fds[attaching->nic_count++] = fd;
    }
}

/* Several times, a little later each: a bridge that has just learned of the port drops the first. */
static void announce(struct attaching *attaching)
{
    for (unsigned i = 0; i < attaching->nic_count; i++)
        tap_announce(attaching->nic_fds[i], attaching->macs[i]);
    if (attaching->nic_count == 0 || ++attaching->round == ROUNDS) {
        attaching_free(attaching);
        return;
    }
    loop_timer_start(attaching->timer, (uint64_t)ROUND_MS * attaching->round, 0);
}

static void attached(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct attaching *attaching = data;
    struct vm_entry *entry = wanting(attaching);

    if (!reply) {
        if (entry)
            again(attaching, fault);
        else
            give_up(attaching);
        return;
    }
    log_info("attach", "disks and nics are attached vm=%s disks=%u nics=%zu", attaching->vm_id,
             attaching->backends.disk_count, attaching->spec->n_nics);
    keep_nics(attaching);
    backends_close(&attaching->backends); /* its process has its own */
    if (entry)
        vm_entry_update(entry, (const Godwit__VmStatus *)reply);
    entry = vm_table_find(attaching->attach->table, attaching->vm_id);
    if (entry)
        entry->attaching = false;
    attaching->round = 0;
    announce(attaching);
}

static void kill_loser(struct vm_entry *entry, const struct fault *fault)
{
    struct fault words = {0};

    (void)snprintf(entry->end_reason, sizeof entry->end_reason, "%.190s", fault->text);
    log_error("attach", "another host may write its disks: killing vm=%s: %s", entry->id,
              fault->text);
    if (vm_process_kill(entry->process, &words) < 0)
        log_error("attach", "it could not be killed vm=%s: %s", entry->id, words.text);
}

static void opened(void *data)
{
    struct attaching *attaching = data;
    struct vm_entry *entry = wanting(attaching);
    Godwit__VmAttach order = GODWIT__VM_ATTACH__INIT;
    Godwit__VmBackend backends[ATTACH_BACKENDS_MAX];
    Godwit__VmBackend *list[ATTACH_BACKENDS_MAX];
    struct fault fault = {0};

    attaching->attach->workers--;
    if (attaching->attach->stopped)
        return; /* attach_free has it */
    if (!entry) {
        give_up(attaching);
        return;
    }
    if (attaching->result == BACKENDS_E_LOST) {
        kill_loser(entry, &attaching->fault);
        give_up(attaching);
        return;
    }
    if (attaching->result < 0) {
        again(attaching, &attaching->fault);
        return;
    }
    order.vm_id = attaching->vm_id;
    order.backends = list;
    order.n_backends = attach_list(attaching->spec, &attaching->backends, 0, backends, list);
    struct rpc *rpc = vm_process_rpc(entry->process);
    int r = rpc ? rpc_call_fds(rpc, METHOD_VM_ATTACH, &order.base, attaching->backends.fds,
                               attaching->backends.fd_count, &godwit__vm_status__descriptor,
                               CALL_MS, attached, attaching, &fault)
                : fault_set(&fault, ERR_CLOSED, "its process cannot be spoken to just now");
    if (r < 0)
        again(attaching, &fault);
}

static void timer_fired(void *data)
{
    struct attaching *attaching = data;

    if (attaching->round > 0)
        announce(attaching);
    else if (wanting(attaching))
        start_work(attaching);
    else
        give_up(attaching);
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

static int attaching_new(struct attach *attach, struct vm_entry *entry,
                         struct attaching **ret_attaching, struct fault *fault)
{
    struct attaching *attaching = calloc(1, sizeof *attaching);
    if (!attaching)
        return fault_set(fault, ERR_NOMEM, "no memory to attach disks");
    attaching->attach = attach;
    attaching->next = attach->first;
    attach->first = attaching;
    (void)snprintf(attaching->vm_id, sizeof attaching->vm_id, "%s", entry->id);
    attaching->spec = entry->status->spec ? spec_copy(entry->status->spec) : NULL;
    int r = attaching->spec ? 0 : fault_set(fault, ERR_NOMEM, "no spec to attach disks by");
    if (r == 0)
        r = attach_stamp_read(entry->status->expected_stamp, &attaching->ask.expected, fault);
    if (r == 0)
        r = loop_timer_new(&attaching->timer, attach->loop, timer_fired, attaching, fault);
    if (r < 0) {
        attaching_free(attaching);
        return r;
    }
    attaching->ask.spec = attaching->spec;
    attaching->ask.vm_id = attaching->vm_id;
    attaching->ask.host = host_facts_name(attach->facts);
    host_facts_stamp(attach->facts, entry->status->generation, &attaching->ask.wanted);
    *ret_attaching = attaching;
    return 0;
}

int attach_new(struct attach **ret_attach, struct loop *loop, struct vm_table *table,
               struct host_facts *facts, struct fault *fault)
{
    struct attach *attach = calloc(1, sizeof *attach);
    if (!attach)
        return fault_set(fault, ERR_NOMEM, "no memory to attach disks");
    attach->loop = loop;
    attach->table = table;
    attach->facts = facts;
    *ret_attach = attach;
    return 0;
}

void attach_stop(struct attach *attach)
{
    if (!attach)
        return;
    attach->stopped = true;
    while (attach->workers)
        loop_turn(attach->loop, true); /* each holds a pointer into us */
}

struct attach *attach_free(struct attach *attach)
{
    while (attach && attach->first)
        attaching_free(attach->first);
    free(attach);
    return NULL;
}

void attach_begin(struct attach *attach, struct vm_entry *entry)
{
    struct attaching *attaching = NULL;
    struct fault fault = {0};

    if (entry->attaching || !entry->process || attach->stopped)
        return;
    if (attaching_new(attach, entry, &attaching, &fault) < 0) {
        log_error("attach", "cannot attach yet vm=%s: %s", entry->id, fault.text);
        return; /* the next status of its process begins it again */
    }
    entry->attaching = true;
    start_work(attaching);
}
