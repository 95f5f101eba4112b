/* The life of a note: made on the move's thread, posted, read on the loop. Each holds a reference,
 * so a move may be freed while notes of it are still queued: they then find it closed. */
#include "agent/vm/move.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/source.h"
#include "migrate/target.h"
#include "net/tls_lane.h"
#include "proto/limits.h"

enum {
    MOVE_ID_SIZE = 40,
    ASK_MS = 1000,
    SOCKETS_MS_MAX = 2 * CONNECT_MS_MAX, /* an attempt's; then the next one */
};

struct move {
    atomic_uint refs;
    struct move_config config;
    char id[MOVE_ID_SIZE];
    uint64_t generation;
    struct source *source; /* one of the two */
    struct target *target;
    bool closed; /* loop: notes are void from now on */

    /* the move's thread, once started */
    uint8_t psk[TLS_LANE_PSK_BYTES];
    unsigned lanes;
    int listen_fd; /* target */

    pthread_mutex_t mutex;  /* source: guards all below */
    pthread_cond_t changed; /* the opener waits for sockets of its epoch */
    int fds[LANES_MAX + 1]; /* control and lanes; -1 when taken */
    unsigned fds_epoch;     /* that they are of */
    unsigned wanted_epoch;  /* that sockets are awaited for; 0: none */
    struct fault fds_fault; /* why there are none */
    bool has_answer, open_interrupted;

    int cancel_fd; /* eventfd: ends a waiting accept, now and later; any thread */
};

enum move_note_type { NOTE_LATCH, NOTE_PROGRESS, NOTE_LANES, NOTE_GUEST, NOTE_ENDED };

struct move_note {
    struct move *move;
    enum move_note_type type;
    enum phase phase;
    size_t count;
    uint8_t bytes[]; /* packed MoveEvent */
};

static struct move *move_unref(struct move *move)
{
    if (atomic_fetch_sub(&move->refs, 1) == 1) {
        explicit_bzero(move->psk, sizeof move->psk);
        pthread_cond_destroy(&move->changed);
        pthread_mutex_destroy(&move->mutex);
        free(move);
    }
    return NULL;
}

/* ---- notes: move's thread -> loop ---- */
static void note_posted(void *data)
{
    struct move_note *note = data;
    struct move *move = note->move;

    if (!move->closed) {
        Godwit__MoveEvent *event = godwit__move_event__unpack(NULL, note->count, note->bytes);
        if (!event) {
            log_error("move", "no memory to tell of a move vm=%s move=%s", move->config.vm_id,
                      move->id);
            Godwit__MoveEvent bare = GODWIT__MOVE_EVENT__INIT;
            if (note->type == NOTE_ENDED) /* this one must not be lost */
                move->config.on_ended(move->config.data, note->phase, &bare);
        } else if (note->type == NOTE_ENDED) {
            move->config.on_ended(move->config.data, note->phase, event);
        } else if (note->type == NOTE_GUEST) {
            move->config.on_notice(move->config.data);
        } else {
            move->config.on_event(move->config.data, event);
        }
        if (event)
            godwit__move_event__free_unpacked(event, NULL);
    }
    (void)move_unref(move);
    free(note);
}

static enum failpoint_id failpoint_of(enum move_note_type type)
{
    switch (type) {
    case NOTE_LATCH:
        return FAILPOINT_VM_TELL_LATCH;
    case NOTE_PROGRESS:
    case NOTE_LANES: /* both are told again */
    case NOTE_GUEST: /* and this one has an end by itself */
        return FAILPOINT_VM_TELL_PROGRESS;
    case NOTE_ENDED:
        break;
    }
    return FAILPOINT_VM_TELL_ENDED;
}

static void note_post_once(struct move *move, enum move_note_type type, enum phase phase,
                           Godwit__MoveEvent *event)
{
    event->vm_id = (char *)move->config.vm_id;
    event->move_id = move->id;
    event->has_at_target = true;
    event->at_target = move->target != NULL;
    event->has_generation = true;
    event->generation = move->generation;

    size_t count = godwit__move_event__get_packed_size(event);
    size_t size = sizeof(struct move_note) + count;
    struct move_note *note = malloc(size);
    /* What must be told waits for memory; what is told again does not. */
    bool is_repeated = type == NOTE_PROGRESS || type == NOTE_LANES || type == NOTE_GUEST;
    while (!note && !is_repeated) {
        (void)poll(NULL, 0, 10);
        note = malloc(size);
    }
    if (!note)
        return;
    note->move = move;
    note->type = type;
    note->phase = phase;
    note->count = godwit__move_event__pack(event, note->bytes);
    atomic_fetch_add(&move->refs, 1);
    while (loop_post(move->config.loop, note_posted, note) < 0) {
        if (is_repeated) {
            free(note);
            (void)move_unref(move);
            return;
        }
        (void)poll(NULL, 0, 10);
    }
}

static void note_post(struct move *move, enum move_note_type type, enum phase phase,
                      Godwit__MoveEvent *event)
{
    enum failpoint_action wrong = failpoint(failpoint_of(type));

    if (wrong == FAILPOINT_DROP)
        return;
    if (wrong == FAILPOINT_DUPLICATE)
        note_post_once(move, type, phase, event);
    note_post_once(move, type, phase, event);
}

static void wipe_psk(struct move *move)
{
    explicit_bzero(move->psk, sizeof move->psk);
}

static void on_latch(void *data, Godwit__Latch latch)
{
    struct move *move = data;

    move->config.on_latch(move->config.data, latch);
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    event.has_latch = true;
    event.latch = latch;
    note_post(move, NOTE_LATCH, PHASE_NONE, &event);
}

static void on_progress(void *data, const Godwit__MoveProgress *progress)
{
    struct move *move = data;

    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    event.progress = (Godwit__MoveProgress *)progress;
    note_post(move, NOTE_PROGRESS, PHASE_NONE, &event);
}

static void on_notice(void *data)
{
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    note_post(data, NOTE_GUEST, PHASE_NONE, &event);
}

static void post_ended(struct move *move, enum phase phase, const Godwit__MoveReceipt *receipt,
                       const struct fault *fault)
{
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    Godwit__Fault told = GODWIT__FAULT__INIT;

    assert(phase_is_final(phase));
    wipe_psk(move);
    event.has_ended = true;
    event.ended = true;
    event.receipt = (Godwit__MoveReceipt *)receipt;
    if (fault && fault->code) {
        told.has_number = true;
        told.number = -fault->code;
        told.text = (char *)fault->text;
        told.hint = (char *)fault->hint;
        event.fault = &told;
    }
    note_post(move, NOTE_ENDED, phase, &event);
}

static void on_source_ended(void *data, enum phase phase, const Godwit__MoveReceipt *receipt,
                            const struct fault *fault)
{
    post_ended(data, phase, receipt, fault);
}

static void on_lost(void *data, const struct fault *fault)
{
    struct move *move = data;
    move->config.on_lost(move->config.data, fault);
}

static void on_target_ended(void *data, enum phase phase, const struct fault *fault)
{
    post_ended(data, phase, NULL, fault);
}

/* ---- lanes ---- */
static void close_sockets(struct move *move)
{
    for (size_t i = 0; i < ARRAY_COUNT(move->fds); i++)
        close_p(&move->fds[i]);
}

/* This process opens nothing itself: its agent connects and hands the sockets over. Asked again and
 * again, since an agent may be just coming back. */
static void ask_for_sockets(struct move *move, unsigned epoch)
{
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    event.has_lanes_wanted = event.has_epoch = true;
    event.lanes_wanted = move->lanes + 1;
    event.epoch = epoch;
    note_post(move, NOTE_LANES, PHASE_NONE, &event);
}

static bool await_answer_locked(struct move *move, uint64_t until_ns)
{
    struct timespec at;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &at);
    uint64_t now_ns = world_now_ns();
    uint64_t at_ns = (uint64_t)at.tv_sec * NS_PER_S + (uint64_t)at.tv_nsec +
                     (until_ns > now_ns ? until_ns - now_ns : 0);
    at.tv_sec = (time_t)(at_ns / NS_PER_S);
    at.tv_nsec = (long)(at_ns % NS_PER_S);
    while (!move->has_answer && !move->open_interrupted && r == 0)
        r = pthread_cond_timedwait(&move->changed, &move->mutex, &at);
    return move->has_answer || move->open_interrupted;
}

/* The sockets of a later epoch, by way of the agent. */
static int await_sockets(struct move *move, unsigned epoch, struct fault *fault)
{
    uint64_t until_ns = world_now_ns() + SOCKETS_MS_MAX * NS_PER_MS;
    int r = 0;

    pthread_mutex_lock(&move->mutex);
    close_sockets(move);
    move->has_answer = false;
    move->wanted_epoch = epoch;
    for (;;) {
        pthread_mutex_unlock(&move->mutex);
        ask_for_sockets(move, epoch);
        pthread_mutex_lock(&move->mutex);
        if (await_answer_locked(move, world_now_ns() + ASK_MS * NS_PER_MS) ||
            world_now_ns() >= until_ns)
            break;
    }
    move->wanted_epoch = 0;
    if (move->open_interrupted) {
        r = fault_set(fault, ERR_CANCELED, "the move was ended");
    } else if (!move->has_answer) {
        r = fault_set(fault, ERR_TIMEOUT, "the agent did not connect again");
    } else if (move->fds_fault.code) {
        *fault = move->fds_fault;
        r = fault->code;
    } else {
        move->fds_epoch = epoch;
    }
    pthread_mutex_unlock(&move->mutex);
    return r;
}

static int take_socket(struct move *move, unsigned lane, unsigned epoch, int *ret_fd,
                       struct fault *fault)
{
    unsigned slot = lane == TLS_LANE_CONTROL ? 0 : lane + 1;

    pthread_mutex_lock(&move->mutex);
    int fd = move->fds_epoch == epoch ? TAKE_FD(move->fds[slot]) : -1;
    pthread_mutex_unlock(&move->mutex);
    if (fd < 0)
        return fault_set(fault, ERR_STATE, "lane %u of this move was opened before", lane);
    *ret_fd = fd;
    return 0;
}

static int open_lane(void *data, unsigned lane, unsigned epoch, struct stream **ret_stream,
                     struct fault *fault)
{
    struct move *move = data;
    AUTO_FD int fd = -1;
    int r = 0;

    assert(lane == TLS_LANE_CONTROL || lane < move->lanes);
    r = failpoint_check(FAILPOINT_VM_CONNECT, fault);
    if (r == 0 && epoch > 0 && lane == TLS_LANE_CONTROL)
        r = await_sockets(move, epoch, fault);
    if (r == 0)
        r = take_socket(move, lane, epoch, &fd, fault);
    if (r < 0)
        return r;
    const struct tls_lane_config config = {
        .fd = fd,
        .is_source = true,
        .move_id = move->id,
        .name = {.lane = lane, .epoch = epoch},
        .psk = move->psk,
        .handshake_ms_max = GREET_MS_MAX,
    };
    struct tls_lane_name name;
    r = tls_lane_new(ret_stream, &name, &config, fault);
    if (r == 0)
        (void)TAKE_FD(fd);
    return r;
}

static void interrupt_open(void *data)
{
    struct move *move = data;

    pthread_mutex_lock(&move->mutex);
    move->open_interrupted = true;
    pthread_cond_broadcast(&move->changed);
    pthread_mutex_unlock(&move->mutex);
}

/* Wait for a connection, or for interrupt_accept. */
static int accept_socket(struct move *move, uint64_t until_ms, int *ret_fd, struct fault *fault)
{
    struct pollfd polls[2] = {{.fd = move->listen_fd, .events = POLLIN},
                              {.fd = move->cancel_fd, .events = POLLIN}};

    for (;;) {
        uint64_t now_ms = world_now_ms();
        if (now_ms >= until_ms)
            return fault_set(fault, ERR_TIMEOUT, "the source did not connect in time");
        uint64_t wait_ms = until_ms - now_ms;
        int n = poll(polls, 2, wait_ms < 60000 ? (int)wait_ms : 60000);
        if (n < 0 && errno != EINTR)
            return fault_set_errno(fault, ERR_IO, errno, "waiting for the source's lanes");
        if (n > 0 && polls[1].revents)
            return fault_set(fault, ERR_CANCELED, "the move was ended");
        if (n > 0 && polls[0].revents) {
            int fd = accept4(move->listen_fd, NULL, NULL, SOCK_CLOEXEC);
            if (fd >= 0) {
                *ret_fd = fd;
                return 0;
            }
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
                return fault_set_errno(fault, ERR_NOMEM, errno, "accepting a lane");
            /* the peer went away in between: the next one */
        }
    }
}

static int accept_lane(void *data, uint64_t timeout_ms, struct stream **ret_stream,
                       struct tls_lane_name *ret_name, struct fault *fault)
{
    struct move *move = data;
    uint64_t until_ms = world_now_ms() + timeout_ms;

    for (;;) {
        AUTO_FD int fd = -1;
        int r = accept_socket(move, until_ms, &fd, fault);
        if (r < 0)
            return r;
        if (failpoint(FAILPOINT_VM_ACCEPT) == FAILPOINT_DROP)
            continue;
        struct fault stranger = {0};
        r = tcp_set_options(fd, &stranger);
        if (r == 0) {
            const struct tls_lane_config config = {
                .fd = fd,
                .move_id = move->id,
                .psk = move->psk,
                .handshake_ms_max = MOVE_HANDSHAKE_MS_MAX,
            };
            r = tls_lane_new(ret_stream, ret_name, &config, &stranger);
        }
        if (r == 0) {
            (void)TAKE_FD(fd);
            return 0;
        }
        log_warn("move", "turned a connection away vm=%s move=%s: %s", move->config.vm_id, move->id,
                 stranger.text);
    }
}

static void interrupt_accept(void *data)
{
    struct move *move = data;
    uint64_t one = 1;
    ssize_t n = write(move->cancel_fd, &one, sizeof one);
    (void)n; /* a full counter is readable as well */
}

/* ---- the move ---- */
static int move_alloc(struct move **ret_move, const struct move_config *config, const char *move_id,
                      uint64_t generation, const ProtobufCBinaryData *psk, struct fault *fault)
{
    if (!move_id || !*move_id || strlen(move_id) >= MOVE_ID_SIZE)
        return fault_set(fault, ERR_INVALID, "a move without a fit id");
    if (psk->len != TLS_LANE_PSK_BYTES)
        return fault_set(fault, ERR_INVALID, "a move's key has %d bytes, this one has %zu",
                         TLS_LANE_PSK_BYTES, psk->len);
    struct move *move = calloc(1, sizeof *move);
    if (!move)
        return fault_set(fault, ERR_NOMEM, "no memory for a move");

    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&move->mutex, NULL);
    pthread_cond_init(&move->changed, &attr);
    pthread_condattr_destroy(&attr);
    atomic_init(&move->refs, 1);
    move->config = *config;
    move->generation = generation;
    memcpy(move->id, move_id, strlen(move_id));
    memcpy(move->psk, psk->data, TLS_LANE_PSK_BYTES);
    for (size_t i = 0; i < ARRAY_COUNT(move->fds); i++)
        move->fds[i] = -1;
    move->listen_fd = -1;
    move->cancel_fd = -1;
    *ret_move = move;
    return 0;
}

int move_new_source(struct move **ret_move, const struct move_config *config,
                    const Godwit__MoveOut *order, const int *fds, size_t fd_count,
                    struct fault *fault)
{
    struct move *move;

    if (fd_count < 2 || fd_count > LANES_MAX + 1)
        return fault_set(fault, ERR_INVALID,
                         "a move out wants a control lane and 1 to %d lanes, got %zu", LANES_MAX,
                         fd_count);
    int r = move_alloc(&move, config, order->move_id, order->generation, &order->psk, fault);
    if (r < 0)
        return r;

    move->lanes = (unsigned)fd_count - 1;
    const struct source_config source = {
        .guest = config->guest,
        .move_id = move->id,
        .generation = order->generation,
        .target_incarnation = order->target_incarnation ? order->target_incarnation : "",
        .goals = order->goals,
        .lanes = move->lanes,
        .notice_ms_max = config->notice_ms_max,
        .on_notice = on_notice,
        .open_lane = open_lane,
        .on_latch = on_latch,
        .on_progress = on_progress,
        .on_ended = on_source_ended,
        .data = move,
        .interrupt_open = interrupt_open,
    };
    for (size_t i = 0; i < fd_count; i++)
        move->fds[i] = fds[i];
    r = source_new(&move->source, &source, fault);
    if (r == 0)
        r = source_start(move->source, fault);
    if (r < 0) {
        for (size_t i = 0; i < fd_count; i++)
            move->fds[i] = -1; /* still the caller's */
        (void)move_free(move);
        return r;
    }
    *ret_move = move;
    return 0;
}

int move_new_target(struct move **ret_move, const struct move_config *config,
                    const Godwit__MoveIn *order, int listen_fd, struct fault *fault)
{
    struct move *move;
    int r = move_alloc(&move, config, order->move_id, order->generation, &order->psk, fault);
    if (r < 0)
        return r;

    move->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (move->cancel_fd < 0) {
        r = fault_set_errno(fault, err_from_errno(errno), errno, "making an eventfd");
        (void)move_free(move);
        return r;
    }
    const struct target_config target = {
        .guest = config->guest,
        .move_id = move->id,
        .generation = order->generation,
        .incarnation = order->target_incarnation ? order->target_incarnation : "",
        .accept_lane = accept_lane,
        .interrupt_accept = interrupt_accept,
        .on_latch = on_latch,
        .on_progress = on_progress,
        .on_lost = on_lost,
        .on_ended = on_target_ended,
        .data = move,
    };
    move->listen_fd = listen_fd;
    r = target_new(&move->target, &target, fault);
    if (r == 0)
        r = target_start(move->target, fault);
    if (r < 0) {
        move->listen_fd = -1; /* still the caller's */
        (void)move_free(move);
        return r;
    }
    *ret_move = move;
    return 0;
}

struct move *move_free(struct move *move)
{
    if (!move)
        return NULL;
    move->closed = true;
    move->source = source_free(move->source);
    move->target = target_free(move->target);
    close_sockets(move);
    close_p(&move->listen_fd);
    close_p(&move->cancel_fd);
    return move_unref(move);
}

bool move_take_sockets(struct move *move, unsigned epoch, const int *fds, size_t fd_count,
                       const struct fault *fault)
{
    bool taken = false;

    pthread_mutex_lock(&move->mutex);
    bool is_awaited = move->wanted_epoch != 0 && move->wanted_epoch == epoch && !move->has_answer;
    if (is_awaited && (fault || fd_count == move->lanes + 1)) {
        move->fds_fault = fault ? *fault : (struct fault){0};
        for (size_t i = 0; !fault && i < fd_count; i++)
            move->fds[i] = fds[i];
        taken = !fault;
        move->has_answer = true;
        pthread_cond_broadcast(&move->changed);
    }
    pthread_mutex_unlock(&move->mutex);
    return taken;
}

const char *move_id_of(const struct move *move)
{
    return move->id;
}

uint64_t move_generation(const struct move *move)
{
    return move->generation;
}

bool move_is_source(const struct move *move)
{
    return move->source != NULL;
}

int move_verdict(struct move *move, Godwit__MoveVerdictKind kind, uint64_t generation,
                 const char *reason, struct fault *fault)
{
    if (move->source)
        return source_verdict(move->source, kind, generation, reason, fault);
    return target_verdict(move->target, kind, generation, reason, fault);
}

void move_noticed(struct move *move)
{
    if (move->source)
        source_noticed(move->source);
}

int move_tune(struct move *move, const Godwit__MoveGoals *goals, struct fault *fault)
{
    if (!move->source)
        return fault_set(fault, ERR_STATE, "the goals of a move are its source's");
    return source_tune(move->source, goals, fault);
}
