/*   new --> worker: replica_new (disks are read) --> replica_start --> links, one after the other
 *                                                                        |
 *   take --> worker: replica_take, replica_free --> done  <--------------'
 *   copy --> worker: replica_make_copy --> done             a take that comes meanwhile ends it,
 * and is to be sent again
 */
#include "agent/vm/standby.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/region.h"
#include "migrate/replica.h"
#include "net/stream.h"
#include "net/tls_lane.h"
#include "storage/guest_label.h"

enum {
    ID_SIZE = TLS_LANE_MOVE_ID_MAX + 1,
    ADDRESS_SIZE = 160,
    WHO_SIZE = 256,
    TELL_MS = 1000,
    QUIET_TURNS = 5,
};

struct standby {
    struct standby_config config;
    char id[ID_SIZE], who[WHO_SIZE];
    uint64_t generation_min;

    /* the loop's, but while a worker has it */
    struct replica *replica; /* NULL: its disks are read, or it was taken */
    bool is_working, is_opening, is_taken;
    struct loop_timer *timer;
    unsigned quiet;
    struct replica_status now, told;
    Godwit__CheckpointId held;
    char address[ADDRESS_SIZE];
    char reason[FAULT_TEXT_MAX];

    /* a worker's */
    struct fault fault;
    int result;
    uint64_t generation;
    struct replica_taken taken;
    uint64_t stood_ns;
    void (*take_done)(void *data, const struct replica_taken *taken, const struct fault *fault);
    void *take_data;

    /* a copy: the loop's, but while its worker has it */
    bool is_copying;
    bool is_copy_stopped; /* atomic */
    struct guest *guest;  /* of the copy; NULL: disks only */
    struct guest_label label;
    int copy_fds[1 + DISKS_MAX]; /* its memory's, or -1; then its disks' */
    struct replica_copied copied;
    struct fault copy_fault;
    int copy_result;
    void (*copy_done)(void *data, const struct replica_copied *copied, const struct fault *fault);
    void *copy_data;

    int wake_fd; /* eventfd: a waiting accept looks anew */

    pthread_mutex_t mutex; /* guards all below */
    uint8_t psk[TLS_LANE_PSK_BYTES];
    unsigned epoch;         /* of key and socket */
    int listen_fd, next_fd; /* the accepting thread's; the one to use from now on, -1: that one */
    bool closed;
    struct fault broken; /* by the replica's thread */
};

/* ---- links, on the replica's thread ---- */
static void look_anew(struct standby *standby)
{
    uint64_t one = 1;
    ssize_t n = write(standby->wake_fd, &one, sizeof one);
    (void)n; /* a full counter is readable as well */
}

/* The socket and key of now. */
static unsigned begin_accept(struct standby *standby, uint8_t ret_psk[TLS_LANE_PSK_BYTES],
                             bool *ret_closed)
{
    uint64_t ignored;
    ssize_t n = read(standby->wake_fd, &ignored, sizeof ignored);
    (void)n; /* empty is as good */

    pthread_mutex_lock(&standby->mutex);
    if (standby->next_fd >= 0) {
        close_p(&standby->listen_fd);
        standby->listen_fd = TAKE_FD(standby->next_fd);
    }
    memcpy(ret_psk, standby->psk, TLS_LANE_PSK_BYTES);
    unsigned epoch = standby->epoch;
    *ret_closed = standby->closed;
    pthread_mutex_unlock(&standby->mutex);
    return epoch;
}

static bool is_of_now(struct standby *standby, unsigned epoch)
{
    pthread_mutex_lock(&standby->mutex);
    bool same = standby->epoch == epoch;
    pthread_mutex_unlock(&standby->mutex);
    return same;
}

/* 1: nobody came. */
static int accept_socket(struct standby *standby, uint64_t timeout_ms, int *ret_fd,
                         struct fault *fault)
{
    struct pollfd polls[2] = {{.fd = standby->listen_fd, .events = POLLIN},
                              {.fd = standby->wake_fd, .events = POLLIN}};

    int n = poll(polls, 2, (int)timeout_ms);
    if (n < 0 && errno != EINTR)
        return fault_set_errno(fault, ERR_IO, errno, "waiting for the source's link");
    if (n <= 0 || polls[1].revents || !polls[0].revents)
        return 1;
    *ret_fd = accept4(standby->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (*ret_fd < 0)
        return 1; /* it went away in between, or there are no descriptors just now */
    return 0;
}

static int accept_link(void *data, uint64_t timeout_ms, struct stream **ret_stream,
                       struct fault *fault)
{
    struct standby *standby = data;
    uint8_t psk[TLS_LANE_PSK_BYTES];
    AUTO_FD int fd = -1;
    bool closed;

    unsigned epoch = begin_accept(standby, psk, &closed);
    if (closed)
        return fault_set(fault, ERR_CANCELED, "the replica was ended");
    int r = accept_socket(standby, timeout_ms, &fd, fault);
    if (r != 0)
        return r < 0 ? r : fault_set(fault, ERR_TIMEOUT, "no link yet");
    struct fault stranger = {0};
    struct tls_lane_name name;
    const struct tls_lane_config config = {
        .fd = fd,
        .move_id = standby->id,
        .psk = psk,
        .handshake_ms_max = STANDBY_HANDSHAKE_MS_MAX,
    };
    r = tcp_set_options(fd, &stranger);
    if (r == 0)
        r = tls_lane_new(ret_stream, &name, &config, &stranger);
    explicit_bzero(psk, sizeof psk);
    if (r < 0) {
        log_warn("standby", "turned a connection away vm=%s: %s", standby->config.vm_id,
                 stranger.text);
        return fault_set(fault, ERR_TIMEOUT, "no link yet");
    }
    (void)TAKE_FD(fd);
    if (is_of_now(standby, epoch))
        return 0;
    *ret_stream = stream_free(*ret_stream);
    return fault_set(fault, ERR_TIMEOUT, "no link yet");
}

static void interrupt_accept(void *data)
{
    struct standby *standby = data;

    pthread_mutex_lock(&standby->mutex);
    standby->closed = true;
    pthread_mutex_unlock(&standby->mutex);
    look_anew(standby);
}

static void on_broken(void *data, const struct fault *fault)
{
    struct standby *standby = data;

    log_error("standby", "the replica takes nothing more vm=%s: %s", standby->config.vm_id,
              fault->text);
    pthread_mutex_lock(&standby->mutex);
    standby->broken = *fault;
    pthread_mutex_unlock(&standby->mutex);
}

/* ---- telling ---- */
static void look(struct standby *standby)
{
    if (!standby->is_working && standby->replica)
        replica_status(standby->replica, &standby->now);
    if (standby->is_taken)
        standby->now.is_linked = false;
}

static const char *state_of(const struct standby *standby)
{
    if (standby->is_taken)
        return "taken";
    if (standby->reason[0])
        return "broken";
    return standby->now.held.seq ? "holding" : "waiting";
}

void standby_status(struct standby *standby, Godwit__ReplicaStatus *ret_status)
{
    Godwit__ReplicaStatus *status = ret_status;

    look(standby);
    pthread_mutex_lock(&standby->mutex);
    if (standby->broken.code)
        (void)snprintf(standby->reason, sizeof standby->reason, "%s", standby->broken.text);
    pthread_mutex_unlock(&standby->mutex);
    godwit__replica_status__init(status);
    godwit__checkpoint_id__init(&standby->held);
    status->vm_id = (char *)(uintptr_t)standby->config.vm_id; /* protobuf-c knows no const */
    status->protection_id = standby->id;
    status->state = (char *)(uintptr_t)state_of(standby);
    status->held = &standby->held;
    status->address = standby->address;
#define SET(message, field, value) ((message)->has_##field = true, (message)->field = (value))
    SET(&standby->held, generation, standby->now.held.generation);
    SET(&standby->held, session, standby->now.held.session);
    SET(&standby->held, seq, standby->now.held.seq);
    SET(status, held_unix_ms, standby->now.held_wall_ms);
    SET(status, bytes_in, standby->now.bytes_in);
    SET(status, bytes_kept, standby->now.bytes_kept);
    SET(status, arriving_pages, standby->now.arriving_pages);
    SET(status, is_linked, standby->now.is_linked);
    SET(status, checkpoints, standby->now.checkpoints);
    if (standby->is_taken)
        SET(status, stood_ms, standby->stood_ns / NS_PER_MS);
#undef SET
    if (standby->reason[0])
        status->reason = standby->reason;
    else if (standby->is_opening)
        status->reason = (char *)(uintptr_t) "its disks are being read";
}

static void tell(struct standby *standby)
{
    Godwit__ReplicaStatus status;

    standby_status(standby, &status);
    standby->quiet = 0;
    standby->told = standby->now;
    standby->config.on_event(standby->config.data, &status);
}

static void timer_fired(void *data)
{
    struct standby *standby = data;

    look(standby);
    pthread_mutex_lock(&standby->mutex);
    bool breaks = standby->broken.code && !standby->reason[0];
    pthread_mutex_unlock(&standby->mutex);
    if (breaks || standby->now.held.seq != standby->told.held.seq ||
        standby->now.held.session != standby->told.held.session ||
        standby->now.is_linked != standby->told.is_linked || ++standby->quiet >= QUIET_TURNS)
        tell(standby);
}

/* ---- opening ---- */
static void open_work(void *data)
{
    struct standby *standby = data;
    struct replica_disk disks[DISKS_MAX];

    for (unsigned i = 0; i < standby->config.disk_count; i++)
        disks[i] = (struct replica_disk){.region_id = standby->config.disks[i].region_id,
                                         .bytes = standby->config.disks[i].bytes,
                                         .fd = standby->config.disks[i].fd};
    const struct replica_config config = {
        .who = standby->who,
        .regions = standby->config.regions,
        .region_count = standby->config.region_count,
        .disks = disks,
        .disk_count = standby->config.disk_count,
        .journal_fd = standby->config.journal_fd,
        .generation_min = standby->generation_min,
        .accept_link = accept_link,
        .interrupt_accept = interrupt_accept,
        .on_broken = on_broken,
        .data = standby,
    };
    standby->result = replica_new(&standby->replica, &config, &standby->fault);
    if (standby->result == 0)
        standby->result = replica_start(standby->replica, &standby->fault);
}

static void open_done(void *data)
{
    struct standby *standby = data;

    standby->is_working = standby->is_opening = false;
    if (standby->result < 0) {
        log_error("standby", "the replica cannot be opened vm=%s: %s", standby->config.vm_id,
                  standby->fault.text);
        (void)snprintf(standby->reason, sizeof standby->reason, "%s", standby->fault.text);
    } else {
        log_info("standby", "the replica waits for its source vm=%s address=%s",
                 standby->config.vm_id, standby->address);
    }
    tell(standby);
}

/* ---- new, free ---- */
static int name_socket(struct standby *standby, int fd, struct fault *fault)
{
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(fd, (struct sockaddr *)&bound, &size) < 0 ||
        getnameinfo((struct sockaddr *)&bound, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return fault_set(fault, ERR_INVALID, "a replica without its listening socket");
    (void)snprintf(standby->address, sizeof standby->address,
                   bound.ss_family == AF_INET6 ? "[%.100s]:%.16s" : "%.100s:%.16s", host, port);
    return 0;
}

static int set_up(struct standby *standby, const Godwit__OrderReplicaIn *order, struct fault *fault)
{
    if (!order->protection_id || !*order->protection_id ||
        strlen(order->protection_id) >= ID_SIZE || order->psk.len != TLS_LANE_PSK_BYTES ||
        strlen(standby->config.who) >= WHO_SIZE)
        return fault_set(fault, ERR_INVALID, "a replica without a fit id or key");
    (void)snprintf(standby->id, sizeof standby->id, "%s", order->protection_id);
    (void)snprintf(standby->who, sizeof standby->who, "%s", standby->config.who);
    standby->config.who = NULL;
    memcpy(standby->psk, order->psk.data, TLS_LANE_PSK_BYTES);
    standby->generation_min = order->generation;
    standby->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (standby->wake_fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making an eventfd");
    int r = name_socket(standby, standby->config.listen_fd, fault);
    if (r == 0)
        r = loop_timer_new(&standby->timer, standby->config.loop, timer_fired, standby, fault);
    return r;
}

/* Its descriptors are the caller's still. */
static void let_go(struct standby *standby)
{
    standby->config.disk_count = 0;
    standby->config.journal_fd = standby->listen_fd = -1;
    (void)standby_free(standby);
}

int standby_new(struct standby **ret_standby, const struct standby_config *config,
                const Godwit__OrderReplicaIn *order, struct fault *fault)
{
    struct standby *standby = calloc(1, sizeof *standby);
    if (!standby)
        return fault_set(fault, ERR_NOMEM, "no memory for a replica");
    standby->config = *config;
    standby->wake_fd = standby->next_fd = -1;
    standby->listen_fd = config->listen_fd;
    pthread_mutex_init(&standby->mutex, NULL);
    int r = set_up(standby, order, fault);
    if (r == 0) {
        standby->is_working = standby->is_opening = true;
        r = loop_work(config->loop, open_work, open_done, standby);
        standby->is_working = standby->is_opening = r == 0;
        if (r < 0)
            (void)fault_set(fault, r, "no worker to open a replica");
    }
    if (r < 0) {
        let_go(standby);
        return r;
    }
    loop_timer_start(standby->timer, TELL_MS, TELL_MS);
    *ret_standby = standby;
    return 0;
}

static void close_disks(struct standby *standby)
{
    for (unsigned i = 0; i < standby->config.disk_count; i++)
        close_p(&standby->config.disks[i].fd);
    standby->config.disk_count = 0;
    close_p(&standby->config.journal_fd);
}

struct standby *standby_free(struct standby *standby)
{
    if (!standby)
        return NULL;
    standby->take_done = NULL;
    standby->copy_done = NULL;
    __atomic_store_n(&standby->is_copy_stopped, true, __ATOMIC_RELAXED);
    if (standby->timer)
        loop_timer_stop(standby->timer);
    while (standby->is_working || standby->is_copying)
        loop_turn(standby->config.loop, true); /* it holds a pointer to us */
    standby->replica = replica_free(standby->replica);
    if (standby->timer)
        (void)loop_timer_free(standby->timer);
    close_disks(standby);
    close_p(&standby->listen_fd);
    close_p(&standby->next_fd);
    close_p(&standby->wake_fd);
    free(standby->taken.state);
    explicit_bzero(standby->psk, sizeof standby->psk);
    pthread_mutex_destroy(&standby->mutex);
    free(standby);
    return NULL;
}

bool standby_has_id(const struct standby *standby, const char *protection_id)
{
    return protection_id && strcmp(standby->id, protection_id) == 0;
}

int standby_listen(struct standby *standby, const ProtobufCBinaryData *psk, int listen_fd,
                   struct fault *fault)
{
    if (standby->is_taken)
        return fault_set(fault, ERR_STATE, "it was taken before");
    if (psk->len != TLS_LANE_PSK_BYTES)
        return fault_set(fault, ERR_INVALID, "a replica without a fit key");
    int r = name_socket(standby, listen_fd, fault);
    if (r < 0)
        return r;
    pthread_mutex_lock(&standby->mutex);
    close_p(&standby->next_fd);
    standby->next_fd = listen_fd;
    memcpy(standby->psk, psk->data, TLS_LANE_PSK_BYTES);
    standby->epoch++;
    pthread_mutex_unlock(&standby->mutex);
    look_anew(standby);
    if (!standby->is_working && standby->replica)
        replica_unlink(standby->replica);
    return 0;
}

/* ---- taking ---- */
static void take_work(void *data)
{
    struct standby *standby = data;

    standby->result =
        replica_take(standby->replica, standby->generation, &standby->taken, &standby->fault);
    if (standby->result < 0)
        return;
    standby->replica = replica_free(standby->replica);
    close_disks(standby); /* whoever opens them finds all of it */
}

static void take_done(void *data)
{
    struct standby *standby = data;
    void (*done)(void *data, const struct replica_taken *taken, const struct fault *fault) =
        standby->take_done;
    struct replica_taken taken = standby->taken;

    standby->is_working = false;
    standby->take_done = NULL;
    if (standby->result == 0) {
        standby->is_taken = true;
        standby->stood_ns = taken.stood_ns;
    }
    if (!done)
        return; /* freed: it waits for us */
    standby->taken.state = NULL;
    done(standby->take_data, standby->result < 0 ? NULL : &taken,
         standby->result < 0 ? &standby->fault : NULL);
}

static int begin_take(struct standby *standby, struct fault *fault)
{
    int r = loop_work(standby->config.loop, take_work, take_done, standby);
    if (r < 0) {
        standby->is_working = false;
        standby->take_done = NULL;
        return fault_set(fault, r, "no worker to take a replica");
    }
    return 0;
}

int standby_take(struct standby *standby, uint64_t generation,
                 void (*done)(void *data, const struct replica_taken *taken,
                              const struct fault *fault),
                 void *data, struct fault *fault)
{
    if (standby->is_taken)
        return fault_set(fault, ERR_STATE, "it was taken before");
    if (standby->is_working)
        return fault_set(fault, ERR_BUSY, "%s",
                         standby->is_opening ? "its disks are being read" : "it is being taken");
    if (!standby->replica)
        return fault_set(fault, ERR_STATE, "the replica could not be opened: %.300s",
                         standby->reason);
    if (standby->is_copying) { /* nobody copies what is about to run; it may be inside an fsync */
        __atomic_store_n(&standby->is_copy_stopped, true, __ATOMIC_RELAXED);
        return fault_set(fault, ERR_BUSY, "a copy of it is being made, which ends now");
    }
    look(standby);
    standby->generation = generation;
    standby->fault = (struct fault){0};
    standby->take_done = done;
    standby->take_data = data;
    standby->is_working = true;
    return begin_take(standby, fault);
}

/* ---- a copy of what is held ---- */
static void copy_work(void *data)
{
    struct standby *standby = data;
    const struct replica_copy_config config = {
        .guest = standby->guest,
        .label = &standby->label,
        .memory_fd = standby->copy_fds[0],
        .disk_fds = standby->copy_fds + 1,
        .disk_count = standby->config.disk_count,
        .is_stopped = &standby->is_copy_stopped,
    };

    standby->copy_result =
        replica_make_copy(standby->replica, &config, &standby->copied, &standby->copy_fault);
}

static void close_copy(struct standby *standby)
{
    for (size_t i = 0; i < ARRAY_COUNT(standby->copy_fds); i++)
        close_p(&standby->copy_fds[i]);
}

static void copy_done(void *data)
{
    struct standby *standby = data;
    void (*done)(void *data, const struct replica_copied *copied, const struct fault *fault) =
        standby->copy_done;
    struct replica_copied copied = standby->copied;
    struct fault fault = standby->copy_fault;
    int r = standby->copy_result;

    standby->is_copying = false;
    standby->copy_done = NULL;
    close_copy(standby);
    if (done)
        done(standby->copy_data, r < 0 ? NULL : &copied, r < 0 ? &fault : NULL);
}

int standby_copy(struct standby *standby, struct guest *guest, const struct guest_label *label,
                 const int *fds, size_t fd_count,
                 void (*done)(void *data, const struct replica_copied *copied,
                              const struct fault *fault),
                 void *data, struct fault *fault)
{
    size_t memory = guest != NULL;

    if (standby->is_taken)
        return fault_set(fault, ERR_STATE, "it was taken before");
    if (standby->is_working || standby->is_copying)
        return fault_set(fault, ERR_BUSY, "%s",
                         standby->is_copying   ? "a copy of it is being made"
                         : standby->is_opening ? "its disks are being read"
                                               : "it is being taken");
    if (!standby->replica)
        return fault_set(fault, ERR_STATE, "the replica could not be opened: %.300s",
                         standby->reason);
    if (fd_count != memory + standby->config.disk_count)
        return fault_set(fault, ERR_INVALID, "a copy of %u disks into %zu files",
                         standby->config.disk_count, fd_count);
    standby->guest = guest;
    standby->label = *label;
    for (size_t i = 0; i < ARRAY_COUNT(standby->copy_fds); i++)
        standby->copy_fds[i] = -1;
    for (size_t i = 0; i < fd_count; i++)
        standby->copy_fds[1 - memory + i] = fds[i];
    standby->copied = (struct replica_copied){0};
    standby->copy_fault = (struct fault){0};
    __atomic_store_n(&standby->is_copy_stopped, false, __ATOMIC_RELAXED);
    int r = loop_work(standby->config.loop, copy_work, copy_done, standby);
    if (r < 0)
        return fault_set(fault, r, "no worker to copy a replica");
    standby->is_copying = true;
    standby->copy_done = done;
    standby->copy_data = data;
    return 0;
}
