/* A verifying guest on real KVM is replicated from one vm to another within this process, over TLS,
 * and its source dies at chosen or random moments: the replica goes on from a whole checkpoint,
 * every page of it is what the guest itself says it must be, and time goes on.
 *
 * GODWIT_REPLICA_KILLS: how often the source dies (default 5). Printed: what was lost (time between
 * the checkpoint's cut and the death) and how long until the guest answers. */
#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/replica.h"
#include "migrate/replicator.h"
#include "net/stream.h"
#include "net/tls_lane.h"
#include "test_vm_support.h"
#include "vmm-core/dirty_tracker.h"
#include "vmm-core/guest_memory.h"

enum { MEMORY_MIB = 128, RAM_ID = 1, KILLS = 5 };

static const uint8_t psk[TLS_LANE_PSK_BYTES] = {3, 1, 4, 1, 5};

/* One vm as the engine sees it. */
struct port {
    struct test_vm *test;
    struct dirty_tracker *tracker;
    struct region region;
    struct guest guest;
};

struct pair {
    struct port source, target;
    struct replicator *replicator;
    struct replica *replica;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct stream *waiting;
    bool closed;
    struct replicator_status status;
    bool ended;
    struct fault fault;
};

/* ---- a vm as a guest ---- */
static int track_start(struct region *region, struct fault *fault)
{
    struct port *port = region->owner;
    return dirty_tracker_new(&port->tracker, port->test->vm, fault);
}

static void track_stop(struct region *region, bool goes_on)
{
    struct port *port = region->owner;
    (void)goes_on;
    port->tracker = dirty_tracker_free(port->tracker);
}

static int collect(struct region *region, struct bitmap *dirty, struct fault *fault)
{
    struct port *port = region->owner;
    int r = dirty_tracker_collect(port->tracker, dirty, fault);
    if (r == DIRTY_TRACKER_E_LOST) {
        bitmap_set_all(dirty);
        r = 0;
    }
    return r;
}

static int clear(struct region *region, uint64_t first_page, const uint64_t mask[static 8],
                 struct fault *fault)
{
    struct port *port = region->owner;
    return dirty_tracker_clear(port->tracker, first_page, mask, fault);
}

static int clear_many(struct region *region, const struct bitmap *pages, struct fault *fault)
{
    struct port *port = region->owner;
    return dirty_tracker_clear_many(port->tracker, pages, fault);
}

static int populated(struct region *region, struct bitmap *ret_populated, struct fault *fault)
{
    struct port *port = region->owner;
    return guest_memory_populated(vm_memory(port->test->vm), ret_populated, fault);
}

static int populate(struct region *region, uint64_t first_page, uint64_t pages, struct fault *fault)
{
    struct port *port = region->owner;
    return guest_memory_populate(vm_memory(port->test->vm), first_page, pages, fault);
}

static const struct region_ops region_ops = {
    .track_start = track_start,
    .track_stop = track_stop,
    .collect = collect,
    .clear = clear,
    .clear_many = clear_many,
    .populated = populated,
    .populate = populate,
};

static void guest_pause(void *owner)
{
    struct port *port = owner;
    vm_pause(port->test->vm);
}

static int guest_resume(void *owner, struct fault *fault)
{
    struct port *port = owner;
    return vm_resume(port->test->vm, fault);
}

static int guest_save(void *owner, uint8_t **ret_bytes, size_t *ret_count, struct fault *fault)
{
    struct port *port = owner;
    return vm_save(port->test->vm, ret_bytes, ret_count, fault);
}

static const struct guest_ops guest_ops = {
    .pause = guest_pause, .resume = guest_resume, .save = guest_save};

static void port_init(struct port *port, struct test_vm *test)
{
    struct guest_memory *memory = vm_memory(test->vm);
    port->test = test;
    port->region = (struct region){
        .ops = &region_ops,
        .owner = port,
        .name = "ram",
        .id = RAM_ID,
        .pages = guest_memory_pages(memory),
        .base = guest_memory_base(memory),
    };
    port->guest = (struct guest){
        .ops = &guest_ops,
        .owner = port,
        .regions = &port->region,
        .region_count = 1,
        .was_running = true,
    };
}

/* ---- the link ---- */
struct tls_end {
    struct tls_lane_config config;
    struct stream *stream;
    int r;
};

static void *open_tls(void *data)
{
    struct tls_end *end = data;
    struct tls_lane_name name;
    struct fault fault = {0};
    end->r = tls_lane_new(&end->stream, &name, &end->config, &fault);
    return NULL;
}

static void connect_pair(int ret_fds[2])
{
    AUTO_FD int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    ret_fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0 ||
        connect(ret_fds[0], (struct sockaddr *)&address, size) < 0)
        abort();
    ret_fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static int open_link(void *data, struct stream **ret_stream, struct fault *fault)
{
    struct pair *pair = data;
    struct tls_end ends[2];
    pthread_t thread;
    int fds[2];

    connect_pair(fds);
    for (unsigned i = 0; i < 2; i++)
        ends[i] = (struct tls_end){.config = {.fd = fds[i],
                                              .is_source = i == 0,
                                              .move_id = "dr-1",
                                              .psk = psk,
                                              .handshake_ms_max = 20000}};
    pthread_create(&thread, NULL, open_tls, &ends[0]);
    (void)open_tls(&ends[1]);
    pthread_join(thread, NULL);
    if (ends[0].r < 0 || ends[1].r < 0)
        return fault_set(fault, ERR_CLOSED, "no handshake");
    pthread_mutex_lock(&pair->lock);
    pair->waiting = ends[1].stream;
    pthread_cond_broadcast(&pair->changed);
    pthread_mutex_unlock(&pair->lock);
    *ret_stream = ends[0].stream;
    return 0;
}

static void interrupt_open(void *data)
{
    (void)data;
}

static int accept_link(void *data, uint64_t timeout_ms, struct stream **ret_stream,
                       struct fault *fault)
{
    struct pair *pair = data;
    (void)timeout_ms;
    pthread_mutex_lock(&pair->lock);
    while (!pair->waiting && !pair->closed)
        pthread_cond_wait(&pair->changed, &pair->lock);
    struct stream *link = TAKE(pair->waiting);
    pthread_mutex_unlock(&pair->lock);
    if (!link)
        return fault_set(fault, ERR_CANCELED, "no more");
    *ret_stream = link;
    return 0;
}

static void interrupt_accept(void *data)
{
    struct pair *pair = data;
    pthread_mutex_lock(&pair->lock);
    pair->closed = true;
    pthread_cond_broadcast(&pair->changed);
    pthread_mutex_unlock(&pair->lock);
}

static void on_change(void *data, const struct replicator_status *status)
{
    struct pair *pair = data;
    pthread_mutex_lock(&pair->lock);
    pair->status = *status;
    pthread_cond_broadcast(&pair->changed);
    pthread_mutex_unlock(&pair->lock);
}

static void on_ended(void *data, const struct fault *fault)
{
    struct pair *pair = data;
    pthread_mutex_lock(&pair->lock);
    pair->ended = true;
    if (fault)
        pair->fault = *fault;
    pthread_cond_broadcast(&pair->changed);
    pthread_mutex_unlock(&pair->lock);
}

/* ---- a pair ---- */
static struct pair *protect(struct test_vm *running, unsigned vcpus, uint64_t rpo_ms)
{
    struct pair *pair = calloc(1, sizeof *pair);
    struct fault fault = {0};
    assert_non_null(pair);
    pthread_mutex_init(&pair->lock, NULL);
    pthread_cond_init(&pair->changed, NULL);
    struct test_vm *empty = test_vm_new(vcpus, MEMORY_MIB);
    if (vm_start(empty->vm, &fault) < 0)
        fail_msg("%s", fault.text);
    port_init(&pair->source, running);
    port_init(&pair->target, empty);
    const struct replica_config replica = {
        .who = "guest",
        .regions = &pair->target.region,
        .region_count = 1,
        .accept_link = accept_link,
        .interrupt_accept = interrupt_accept,
        .data = pair,
    };
    const struct replicator_config replicator = {
        .guest = &pair->source.guest,
        .ram_count = 1,
        .who = "guest",
        .generation = 1,
        .rpo_ns = rpo_ms * NS_PER_MS,
        .open_link = open_link,
        .interrupt_open = interrupt_open,
        .on_change = on_change,
        .on_ended = on_ended,
        .data = pair,
    };
    if (replica_new(&pair->replica, &replica, &fault) < 0 ||
        replica_start(pair->replica, &fault) < 0 ||
        replicator_new(&pair->replicator, &replicator, &fault) < 0 ||
        replicator_start(pair->replicator, &fault) < 0)
        fail_msg("%s", fault.text);
    return pair;
}

static void await_checkpoints(struct pair *pair, uint64_t count)
{
    pthread_mutex_lock(&pair->lock);
    while (pair->status.checkpoints < count && !pair->ended)
        pthread_cond_wait(&pair->changed, &pair->lock);
    struct fault fault = pair->fault;
    bool ended = pair->ended;
    pthread_mutex_unlock(&pair->lock);
    if (ended)
        fail_msg("it ended: %s", fault.text);
}

/* The guest goes on where its replica is; gives it, and frees all else. */
static struct test_vm *fail_over(struct pair *pair, uint64_t *ret_ready_ns)
{
    struct replica_taken taken = {0};
    struct fault fault = {0};
    char line[CONSOLE_LINE_MAX];

    uint64_t begun_ns = world_now_ns();
    if (replica_take(pair->replica, 2, &taken, &fault) < 0)
        fail_msg("%s", fault.text);
    pair->replica = replica_free(pair->replica);
    struct test_vm *target = pair->target.test;
    if (vm_load(target->vm, taken.state, taken.state_bytes, taken.stood_ns, &fault) < 0 ||
        vm_resume(target->vm, &fault) < 0)
        fail_msg("%s", fault.text);
    free(taken.state);
    test_vm_ask(target, "stats", "gw stats", line);
    *ret_ready_ns = world_now_ns() - begun_ns;
    assert_int_equal(test_vm_number(line, "back_kvmclock_ns"), 0);
    assert_int_equal(test_vm_number(line, "alive"), test_vm_number(line, "vcpus"));
    return target;
}

static void expect_whole(struct test_vm *test)
{
    char line[CONSOLE_LINE_MAX];
    test_vm_ask(test, "verify all", "gw verify", line);
    if (strncmp(line, "gw verify ok ", 13) != 0)
        fail_msg("%s", line);
}

static void pair_free(struct pair *pair)
{
    pair->replicator = replicator_free(pair->replicator);
    pair->replica = replica_free(pair->replica);
    (void)stream_free(pair->waiting);
    free(pair);
}

static unsigned kills(void)
{
    const char *text = getenv("GODWIT_REPLICA_KILLS");
    unsigned long count = text ? strtoul(text, NULL, 10) : 0;
    return count ? (unsigned)count : KILLS;
}

/* ---- tests ---- */
/* The guest that failed over is the next one that is protected: one guest, many deaths. */
static void a_guest_goes_on_from_a_whole_checkpoint_whenever_its_source_dies(void **state)
{
    (void)state;
    struct test_vm *here =
        test_vm_boot(2, MEMORY_MIB, "vcpus=2 fill=random fillmb=48 writers=2 ws=32 rate=5");
    uint64_t worst_rpo_ns = 0, worst_ready_ns = 0;
    srand(1);
    for (unsigned i = 0; i < kills(); i++) {
        struct pair *pair = protect(here, 2, 1000);
        await_checkpoints(pair, 1);
        struct replicator_status status;
        const struct timespec chance = {.tv_sec = rand() % 2, .tv_nsec = rand() % 1000000000};
        (void)nanosleep(&chance, NULL); /* the moment is what is tried */

        replicator_status(pair->replicator, &status);
        uint64_t rpo_ns = status.rpo_ns;
        pair->replicator =
            replicator_free(pair->replicator); /* in the middle of whatever it does */
        vm_pause(here->vm);                    /* dead: nothing is asked of it */
        uint64_t ready_ns = 0;
        struct test_vm *there = fail_over(pair, &ready_ns);

        expect_whole(there);
        print_message(
            "death %u: %llu checkpoints, pause %.1f ms, shipped in %.1f ms, at most %.0f ms "
            "lost, answers after %.0f ms\n",
            i + 1, (unsigned long long)status.checkpoints, (double)status.pause_ns / 1e6,
            (double)status.ship_ns / 1e6, (double)rpo_ns / 1e6, (double)ready_ns / 1e6);
        worst_rpo_ns = rpo_ns > worst_rpo_ns ? rpo_ns : worst_rpo_ns;
        worst_ready_ns = ready_ns > worst_ready_ns ? ready_ns : worst_ready_ns;
        pair_free(pair);
        here = test_vm_free(here);
        here = there;
    }
    print_message("worst of %u: at most %.0f ms lost (goal 1000), answers after %.0f ms\n", kills(),
                  (double)worst_rpo_ns / 1e6, (double)worst_ready_ns / 1e6);
    here = test_vm_free(here);
}

static void a_replicated_guest_runs_on_whole_through_many_checkpoints(void **state)
{
    (void)state;
    struct test_vm *here =
        test_vm_boot(2, MEMORY_MIB, "vcpus=2 fill=random fillmb=48 writers=2 ws=32 rate=50");
    struct pair *pair = protect(here, 2, 60);

    await_checkpoints(pair, 60);
    struct replicator_status status;
    replicator_status(pair->replicator, &status);
    print_message("%llu checkpoints, pauses %.1f ms of each, %.1f MiB, goal missed %llu times\n",
                  (unsigned long long)status.checkpoints,
                  (double)status.pause_all_ns / 1e6 / (double)status.checkpoints,
                  (double)status.pages / 256, (unsigned long long)status.missed_count);
    pair->replicator = replicator_free(pair->replicator);

    expect_whole(here);
    pair_free(pair);
    here = test_vm_free(here);
}

static void a_planned_end_loses_nothing(void **state)
{
    (void)state;
    struct test_vm *here =
        test_vm_boot(1, MEMORY_MIB, "vcpus=1 fill=random fillmb=16 writers=1 ws=8 rate=20");
    struct pair *pair = protect(here, 1, 1000);
    uint64_t ready_ns = 0;
    await_checkpoints(pair, 2);

    replicator_finish(pair->replicator, 60000);
    pthread_mutex_lock(&pair->lock);
    while (!pair->ended)
        pthread_cond_wait(&pair->changed, &pair->lock);
    pthread_mutex_unlock(&pair->lock);
    assert_string_equal(pair->fault.text, "");
    assert_false(vm_is_running(here->vm));
    pair->replicator = replicator_free(pair->replicator);
    const struct region *from = &pair->source.region, *to = &pair->target.region;
    struct replica_status held;
    replica_status(pair->replica, &held);
    assert_true(held.held.seq == pair->status.held.seq);
    for (uint64_t page = 0; page < from->pages; page++) {
        if (memcmp(from->base + page * PAGE_BYTES, to->base + page * PAGE_BYTES, PAGE_BYTES) != 0)
            fail_msg("page %llu differs", (unsigned long long)page);
    }

    struct test_vm *there = fail_over(pair, &ready_ns);
    expect_whole(there);
    pair_free(pair);
    here = test_vm_free(here);
    there = test_vm_free(there);
}

int main(void)
{
    (void)test_vm_kvm();
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_guest_goes_on_from_a_whole_checkpoint_whenever_its_source_dies),
        cmocka_unit_test(a_replicated_guest_runs_on_whole_through_many_checkpoints),
        cmocka_unit_test(a_planned_end_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
