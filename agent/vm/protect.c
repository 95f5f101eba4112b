/* A note of the replicator's thread holds a reference, so a protect may be freed while notes of it
 * are queued: they then find it closed. What changes all the time (what a loss would cost) is
 * looked at once a second. */
#include "agent/vm/protect.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/replica.h"
#include "migrate/replicator.h"
#include "net/tls_lane.h"
#include "proto/limits.h"

enum {
    ID_SIZE = TLS_LANE_MOVE_ID_MAX + 1,
    ADDRESS_SIZE = 160,
    ASK_MS = 1000,
    SOCKET_MS_MAX = 2 * CONNECT_MS_MAX, /* an attempt's; then the next one */
    TELL_MS = 1000,
    QUIET_TURNS = 5, /* so many looks that show nothing new: told all the same */
    RPO_MS_MIN = 20,
    RPO_MS_MAX = 24 * 60 * 60 * 1000,
};

struct protect {
    atomic_uint refs;
    struct protect_config config;
    char id[ID_SIZE];
    uint64_t generation;
    bool disks_only;

    /* the loop's */
    struct replicator *replicator;
    struct loop_timer *timer;
    bool closed, finished, has_ended;
    unsigned quiet;
    struct replicator_status told; /* the last one */
    char trouble[FAULT_TEXT_MAX];
    Godwit__CheckpointId held;
    void (*finish_done)(void *data, const struct fault *fault);
    void *finish_data;

    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t changed;
    uint8_t psk[TLS_LANE_PSK_BYTES];
    char address[ADDRESS_SIZE];
    unsigned links, wanted; /* asked for since the beginning; the one that is awaited, 0: none */
    int fd;
    struct fault fd_fault; /* why there is none */
    bool has_answer, interrupted;
};

enum note_type { NOTE_LINK, NOTE_ENDED };

struct note {
    struct protect *protect;
    enum note_type type;
    unsigned link;
    bool failed;
    struct fault fault;
};

static struct protect *unref(struct protect *protect)
{
    if (atomic_fetch_sub(&protect->refs, 1) == 1) {
        explicit_bzero(protect->psk, sizeof protect->psk);
        pthread_cond_destroy(&protect->changed);
        pthread_mutex_destroy(&protect->mutex);
        free(protect);
    }
    return NULL;
}

/* ---- telling ---- */
static uint64_t ms_of(uint64_t ns)
{
    return ns / NS_PER_MS;
}

void protect_status(struct protect *protect, Godwit__ProtectStatus *ret_status)
{
    Godwit__ProtectStatus *status = ret_status;
    struct replicator_status now = {0};

    if (protect->replicator)
        replicator_status(protect->replicator, &now);
    godwit__protect_status__init(status);
    status->vm_id = (char *)(uintptr_t)protect->config.vm_id; /* protobuf-c knows no const */
    status->protection_id = protect->id;
    godwit__checkpoint_id__init(&protect->held);
    status->held = &protect->held;
#define SET(message, field, value) ((message)->has_##field = true, (message)->field = (value))
    SET(&protect->held, generation, now.held.generation);
    SET(&protect->held, session, now.held.session);
    SET(&protect->held, seq, now.held.seq);
    SET(status, generation, protect->generation);
    SET(status, rpo_ms, ms_of(now.rpo_ns));
    SET(status, rpo_goal_ms, ms_of(now.rpo_goal_ns));
    SET(status, rpo_worst_ms, ms_of(now.rpo_worst_ns));
    SET(status, pause_us, now.pause_ns / 1000);
    SET(status, pause_all_ms, ms_of(now.pause_all_ns));
    SET(status, ship_ms, ms_of(now.ship_ns));
    SET(status, checkpoints, now.checkpoints);
    SET(status, bytes_out, now.bytes_out);
    SET(status, pages, now.pages);
    SET(status, links, now.links);
    SET(status, missed_count, now.missed_count);
    SET(status, is_linked, now.is_linked);
    SET(status, is_missed, now.is_missed && !protect->finished);
    SET(status, finished, protect->finished);
#undef SET
    (void)snprintf(protect->trouble, sizeof protect->trouble, "%s", now.trouble.text);
    if (now.trouble.code && !protect->finished)
        status->trouble = protect->trouble;
}

static void tell(struct protect *protect)
{
    Godwit__VmProtectEvent event = GODWIT__VM_PROTECT_EVENT__INIT;
    Godwit__ProtectStatus status;

    protect_status(protect, &status);
    event.status = &status;
    protect->quiet = 0;
    protect->config.on_event(protect->config.data, &event);
}

static void answer_finish(struct protect *protect, const struct fault *fault)
{
    void (*done)(void *data, const struct fault *fault) = protect->finish_done;

    protect->finish_done = NULL;
    if (done)
        done(protect->finish_data, fault);
}

/* Its time has passed in vain: the guest runs on. */
static void look_at_finish(struct protect *protect, const struct replicator_status *now)
{
    struct fault fault = {0};

    if (!protect->finish_done || now->is_finishing || protect->finished)
        return;
    (void)fault_set(&fault, ERR_TIMEOUT,
                    "no last checkpoint was held in time, the guest runs on%s%.300s",
                    now->trouble.code ? ": " : "", now->trouble.text);
    answer_finish(protect, &fault);
}

static void timer_fired(void *data)
{
    struct protect *protect = data;
    struct replicator_status now;

    replicator_status(protect->replicator, &now);
    const struct replicator_status *told = &protect->told;
    bool is_new = now.held.seq != told->held.seq || now.is_linked != told->is_linked ||
                  now.is_missed != told->is_missed ||
                  strcmp(now.trouble.text, told->trouble.text) != 0;
    protect->told = now;
    if (is_new || ++protect->quiet >= QUIET_TURNS)
        tell(protect);
    look_at_finish(protect, &now);
}

static void on_ended_note(struct protect *protect, const struct fault *fault)
{
    loop_timer_stop(protect->timer);
    protect->has_ended = true;
    protect->finished = !fault;
    if (!fault)
        tell(protect);
    answer_finish(protect, fault);
    protect->config.on_ended(protect->config.data, fault);
}

static void note_posted(void *data)
{
    struct note *note = data;
    struct protect *protect = note->protect;

    if (!protect->closed && note->type == NOTE_ENDED) {
        on_ended_note(protect, note->failed ? &note->fault : NULL);
    } else if (!protect->closed) {
        Godwit__VmProtectEvent event = GODWIT__VM_PROTECT_EVENT__INIT;
        Godwit__ProtectStatus status;
        char address[ADDRESS_SIZE];
        protect_status(protect, &status);
        pthread_mutex_lock(&protect->mutex);
        memcpy(address, protect->address, sizeof address);
        pthread_mutex_unlock(&protect->mutex);
        event.status = &status;
        event.has_link = true;
        event.link = note->link;
        event.address = address;
        protect->config.on_event(protect->config.data, &event);
    }
    (void)unref(protect);
    free(note);
}

/* The replicator's thread. What must be told waits for memory. */
static void post(struct protect *protect, enum note_type type, unsigned link,
                 const struct fault *fault)
{
    const struct timespec rest = {.tv_nsec = 10000000};
    struct note *note;

    while (!(note = calloc(1, sizeof *note))) {
        if (type == NOTE_LINK)
            return; /* asked again */
        (void)nanosleep(&rest, NULL);
    }
    *note = (struct note){.protect = protect, .type = type, .link = link, .failed = fault != NULL};
    if (fault)
        note->fault = *fault;
    atomic_fetch_add(&protect->refs, 1);
    while (loop_post(protect->config.loop, note_posted, note) < 0)
        (void)nanosleep(&rest, NULL);
}

/* ---- the replicator's thread ---- */
static void on_change(void *data, const struct replicator_status *status)
{
    (void)data; /* looked at by the timer */
    (void)status;
}

static void on_ended(void *data, const struct fault *fault)
{
    post(data, NOTE_ENDED, 0, fault);
}

static void await_answer_locked(struct protect *protect)
{
    struct timespec at;
    int r = 0;

    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ASK_MS / 1000;
    while (!protect->has_answer && !protect->interrupted && r == 0)
        r = pthread_cond_timedwait(&protect->changed, &protect->mutex, &at);
}

/* By way of the agent. */
static int await_socket(struct protect *protect, int *ret_fd, uint8_t ret_psk[TLS_LANE_PSK_BYTES],
                        struct fault *fault)
{
    uint64_t until_ns = world_now_ns() + SOCKET_MS_MAX * NS_PER_MS;
    int r = 0;

    pthread_mutex_lock(&protect->mutex);
    close_p(&protect->fd);
    protect->has_answer = false;
    unsigned link = protect->wanted = ++protect->links;
    while (!protect->has_answer && !protect->interrupted && world_now_ns() < until_ns) {
        pthread_mutex_unlock(&protect->mutex);
        post(protect, NOTE_LINK, link, NULL);
        pthread_mutex_lock(&protect->mutex);
        await_answer_locked(protect);
    }
    protect->wanted = 0;
    if (protect->interrupted) {
        r = fault_set(fault, ERR_CANCELED, "the protection was ended");
    } else if (!protect->has_answer) {
        r = fault_set(fault, ERR_TIMEOUT, "the agent did not connect to the replica's host");
    } else if (protect->fd_fault.code) {
        *fault = protect->fd_fault;
        r = fault->code;
    } else {
        *ret_fd = TAKE_FD(protect->fd);
        memcpy(ret_psk, protect->psk, TLS_LANE_PSK_BYTES);
    }
    pthread_mutex_unlock(&protect->mutex);
    return r;
}

static int open_link(void *data, struct stream **ret_stream, struct fault *fault)
{
    struct protect *protect = data;
    uint8_t psk[TLS_LANE_PSK_BYTES];
    struct tls_lane_name name;
    AUTO_FD int fd = -1;

    int r = await_socket(protect, &fd, psk, fault);
    if (r < 0)
        return r;
    const struct tls_lane_config config = {
        .fd = fd,
        .is_source = true,
        .move_id = protect->id,
        .psk = psk,
        .handshake_ms_max = GREET_MS_MAX,
    };
    r = tls_lane_new(ret_stream, &name, &config, fault);
    explicit_bzero(psk, sizeof psk);
    if (r == 0)
        (void)TAKE_FD(fd);
    return r;
}

static void interrupt_open(void *data)
{
    struct protect *protect = data;

    pthread_mutex_lock(&protect->mutex);
    protect->interrupted = true;
    pthread_cond_broadcast(&protect->changed);
    pthread_mutex_unlock(&protect->mutex);
}

/* ---- the loop's ---- */
static int check_order(const Godwit__OrderProtect *order, struct fault *fault)
{
    if (!order->protection_id || !*order->protection_id ||
        strlen(order->protection_id) >= ID_SIZE || order->psk.len != TLS_LANE_PSK_BYTES ||
        !order->address || !*order->address || strlen(order->address) >= ADDRESS_SIZE)
        return fault_set(fault, ERR_INVALID, "a protection without a fit id, key or address");
    if (order->rpo_ms < RPO_MS_MIN || order->rpo_ms > RPO_MS_MAX)
        return fault_set(fault, ERR_INVALID,
                         "a goal of %llu ms of work that may be lost; it is 20 ms to "
                         "a day",
                         (unsigned long long)order->rpo_ms);
    return 0;
}

static void take_order(struct protect *protect, const Godwit__OrderProtect *order)
{
    pthread_mutex_lock(&protect->mutex);
    memcpy(protect->psk, order->psk.data, TLS_LANE_PSK_BYTES);
    (void)snprintf(protect->address, sizeof protect->address, "%s", order->address);
    pthread_mutex_unlock(&protect->mutex);
}

static int start(struct protect *protect, const Godwit__OrderProtect *order, struct fault *fault)
{
    const struct replicator_config config = {
        .guest = protect->config.guest,
        .ram_count = protect->config.ram_count,
        .disks = protect->config.disks,
        .disk_count = protect->config.disk_count,
        .who = protect->config.who,
        .generation = order->generation,
        .rpo_ns = order->rpo_ms * NS_PER_MS,
        .bytes_per_s_max = order->bandwidth_bytes_per_s,
        .open_link = open_link,
        .interrupt_open = interrupt_open,
        .on_change = on_change,
        .on_ended = on_ended,
        .data = protect,
    };

    int r = replicator_new(&protect->replicator, &config, fault);
    protect->config.disks = NULL; /* copied */
    protect->config.who = NULL;
    return r < 0 ? r : replicator_start(protect->replicator, fault);
}

int protect_new(struct protect **ret_protect, const struct protect_config *config,
                const Godwit__OrderProtect *order, struct fault *fault)
{
    int r = check_order(order, fault);
    if (r < 0)
        return r;
    struct protect *protect = calloc(1, sizeof *protect);
    if (!protect)
        return fault_set(fault, ERR_NOMEM, "no memory for a protection");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&protect->mutex, NULL);
    pthread_cond_init(&protect->changed, &attr);
    pthread_condattr_destroy(&attr);
    atomic_init(&protect->refs, 1);
    protect->config = *config;
    protect->fd = -1;
    protect->generation = order->generation;
    protect->disks_only = order->disks_only;
    (void)snprintf(protect->id, sizeof protect->id, "%s", order->protection_id);
    take_order(protect, order);
    r = loop_timer_new(&protect->timer, config->loop, timer_fired, protect, fault);
    if (r == 0)
        r = start(protect, order, fault);
    if (r < 0) {
        (void)protect_free(protect);
        return r;
    }
    loop_timer_start(protect->timer, TELL_MS, TELL_MS);
    *ret_protect = protect;
    return 0;
}

struct protect *protect_free(struct protect *protect)
{
    if (!protect)
        return NULL;
    protect->closed = true;
    protect->replicator = replicator_free(protect->replicator);
    if (protect->timer)
        (void)loop_timer_free(protect->timer);
    close_p(&protect->fd);
    return unref(protect);
}

bool protect_has_id(const struct protect *protect, const char *protection_id)
{
    return protection_id && strcmp(protect->id, protection_id) == 0;
}

bool protect_is(const struct protect *protect, const Godwit__OrderProtect *order)
{
    return protect_has_id(protect, order->protection_id) &&
           order->generation == protect->generation && order->disks_only == protect->disks_only;
}

int protect_tune(struct protect *protect, const Godwit__OrderProtect *order, struct fault *fault)
{
    int r = check_order(order, fault);
    if (r < 0)
        return r;
    take_order(protect, order);
    replicator_tune(protect->replicator, order->rpo_ms * NS_PER_MS, order->bandwidth_bytes_per_s);
    return 0;
}

bool protect_take_socket(struct protect *protect, unsigned link, int fd, const struct fault *fault)
{
    pthread_mutex_lock(&protect->mutex);
    bool is_awaited = protect->wanted != 0 && protect->wanted == link && !protect->has_answer;
    bool taken = is_awaited && !fault && fd >= 0;
    if (taken || (is_awaited && fault)) {
        protect->fd_fault = fault ? *fault : (struct fault){0};
        protect->fd = taken ? fd : -1;
        protect->has_answer = true;
        pthread_cond_broadcast(&protect->changed);
    }
    pthread_mutex_unlock(&protect->mutex);
    return taken;
}

int protect_finish(struct protect *protect, uint64_t deadline_ms,
                   void (*done)(void *data, const struct fault *fault), void *data,
                   struct fault *fault)
{
    if (protect->finished) {
        done(data, NULL);
        return 0;
    }
    if (protect->has_ended || protect->finish_done)
        return fault_set(fault, protect->has_ended ? ERR_STATE : ERR_BUSY, "%s",
                         protect->has_ended ? "it is not replicated any more"
                                            : "its last checkpoint is on its way");
    protect->finish_done = done;
    protect->finish_data = data;
    replicator_finish(protect->replicator, deadline_ms);
    return 0;
}

void protect_abandon_finish(struct protect *protect, const struct fault *fault)
{
    answer_finish(protect, fault);
}

bool protect_is_finishing(const struct protect *protect)
{
    return protect->finish_done || protect->finished;
}

bool protect_is_finished(const struct protect *protect)
{
    return protect->finished;
}

void protect_hold(struct protect *protect)
{
    replicator_hold(protect->replicator);
}

void protect_release(struct protect *protect)
{
    replicator_release(protect->replicator);
}
