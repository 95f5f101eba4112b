/* Replications in one process, source and replica with their own threads: whatever happens to the
 * link, the replica's memory is one whole checkpoint that the source cut, and never an older one
 * than it was told is held.
 *
 * What a checkpoint is, is noted independently of the engine: whenever the guest stands still to be
 * saved its whole memory is summed up, page by page. The replica's memory is summed up the same way
 * whenever a checkpoint is held, between any two links, and at the end. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/page_digest.h"
#include "migrate/replica.h"
#include "migrate/replicator.h"
#include "net/stream.h"
#include "net/tls_lane.h"
#include "storage/guest_label.h"
#include "tests/support/fake_guest.h"
#include "tests/support/pipe_stream.h"

enum { PAGES = 1500, DISK_PAGES = 700, NOTES_MAX = 100000, DISK_ID = 100 };

static const uint8_t psk[TLS_LANE_PSK_BYTES] = {7, 1, 9};

/* A guest of RAM, or of RAM and a disk: two fake guests, stopped as one. */
struct twin {
    struct fake_guest *ram, *disk;
    struct region regions[2];
    struct guest guest;
    struct world *world;
};

struct world {
    struct twin source;
    struct fake_guest *target;
    int disk_fd, journal_fd;
    uint64_t disk_bytes;
    uint64_t generation; /* of the source */
    bool disks_only, by_tls;
    struct replicator *replicator;
    struct replica *replica;
    uint64_t random;
    unsigned faults_left; /* so many links get one */
    enum pipe_fault only_fault;
    uint64_t fault_bytes_max;
    unsigned mangle_every;         /* the replica's thread, with the three after it */
    _Atomic unsigned mangles_left; /* which the test watches */
    unsigned mangled;
    uint64_t silent_ms_max;
    /* What the replica tells of this block of its disk is what the source has there: a lie. Or, of
     * all blocks, something else. */
    int64_t lies_of;
    bool garbles;
    uint8_t lie[REPLICA_BLOCK_DIGEST_BYTES];
    unsigned lied;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    struct stream *waiting; /* for accept */
    struct stream *far;     /* the link that was accepted, until the next accept */
    bool closed, accepting_fails;
    uint64_t notes[NOTES_MAX];
    unsigned note_count;
    struct replica_id replica_held;
    uint64_t replica_note; /* index of what the replica holds */
    bool replica_holds;
    unsigned links, wrong, broken;
    struct replicator_status status;
    bool ended;
    struct fault ended_fault;
};

/* ---- what memory is ---- */
static uint64_t sum_of(const uint8_t *base, uint64_t pages, unsigned id)
{
    static const uint8_t zero[PAGE_BYTES];
    uint64_t sum = 0;
    for (uint64_t page = 0; page < pages; page++) {
        const uint8_t *at = base + page * PAGE_BYTES;
        if (memcmp(at, zero, PAGE_BYTES) != 0)
            sum += page_digest_term(id, page, page_digest_hash(at));
    }
    return sum;
}

static struct region *region_of(struct fake_guest *fake)
{
    return &fake_guest_guest(fake)->regions[0];
}

static uint64_t sum_of_file(int fd, uint64_t pages)
{
    uint8_t *map = mmap(NULL, pages * PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    uint64_t sum = sum_of(map, pages, DISK_ID);
    (void)munmap(map, pages * PAGE_BYTES);
    return sum;
}

static uint64_t sum_of_source(struct world *world)
{
    uint64_t sum = world->disks_only ? 0 : sum_of(region_of(world->source.ram)->base, PAGES, 7);
    if (world->source.disk)
        sum += sum_of(region_of(world->source.disk)->base, DISK_PAGES, DISK_ID);
    return sum;
}

static uint64_t sum_of_replica(struct world *world)
{
    uint64_t sum = world->disks_only ? 0 : sum_of(region_of(world->target)->base, PAGES, 7);
    return world->disk_fd < 0 ? sum : sum + sum_of_file(world->disk_fd, DISK_PAGES);
}

/* ---- the guest ---- */
static void twin_pause(void *owner)
{
    struct twin *twin = owner;
    struct guest *ram = fake_guest_guest(twin->ram);
    ram->ops->pause(ram->owner);
    if (twin->disk)
        fake_guest_stop(twin->disk);
}

static int twin_resume(void *owner, struct fault *fault)
{
    struct twin *twin = owner;
    struct guest *ram = fake_guest_guest(twin->ram);
    int r = ram->ops->resume(ram->owner, fault);
    if (r == 0 && twin->disk)
        r = fake_guest_guest(twin->disk)->ops->resume(twin->disk, fault);
    return r;
}

static int twin_save(void *owner, uint8_t **ret_bytes, size_t *ret_count, struct fault *fault)
{
    struct twin *twin = owner;
    struct world *world = twin->world;
    struct guest *ram = fake_guest_guest(twin->ram);

    int r = ram->ops->save(ram->owner, ret_bytes, ret_count, fault);
    if (r < 0)
        return r;
    uint64_t sum = sum_of_source(world);
    pthread_mutex_lock(&world->lock);
    if (world->note_count < NOTES_MAX)
        world->notes[world->note_count++] = sum;
    pthread_mutex_unlock(&world->lock);
    return 0;
}

static const struct guest_ops twin_ops = {
    .pause = twin_pause, .resume = twin_resume, .save = twin_save};

static void twin_init(struct world *world, const struct fake_guest_config *ram, bool has_disk)
{
    struct twin *twin = &world->source;
    twin->world = world;
    twin->ram = fake_guest_new(ram);
    twin->guest = *fake_guest_guest(twin->ram);
    twin->regions[0] = *region_of(twin->ram);
    if (has_disk) {
        const struct fake_guest_config disk = {.pages = DISK_PAGES,
                                               .fill = FAKE_FILL_MIX,
                                               .half = true,
                                               .writers = 1,
                                               .writer_pages = ram->writer_pages,
                                               .writes_per_ms = 4,
                                               .clears_pages = true,
                                               .running = true};
        twin->disk = fake_guest_new(&disk);
        twin->regions[1] = *region_of(twin->disk);
        twin->regions[1].id = DISK_ID;
        twin->regions[1].name = "disk";
    }
    twin->guest.ops = &twin_ops;
    twin->guest.owner = twin;
    twin->guest.regions = twin->regions;
    twin->guest.region_count = has_disk ? 2 : 1;
}

/* ---- the link ---- */
static uint64_t draw(struct world *world)
{
    uint64_t x = world->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return world->random = x;
}

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

static void tls_pair(struct stream **ret_source, struct stream **ret_replica)
{
    int fds[2];
    struct tls_end ends[2];
    pthread_t thread;

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
        abort();
    *ret_source = ends[0].stream;
    *ret_replica = ends[1].stream;
}

static int open_link(void *data, struct stream **ret_stream, struct fault *fault)
{
    struct world *world = data;
    struct stream *far = NULL;

    pthread_mutex_lock(&world->lock);
    bool closed = world->closed;
    struct pipe_stream_config config = {0};
    if (world->faults_left) {
        world->faults_left--;
        config.fault = world->only_fault ? world->only_fault
                                         : (enum pipe_fault)(PIPE_FAULT_FLIP + draw(world) % 3);
        if (draw(world) % 4 == 0) { /* what the replica says is lost */
            config.fault_back = config.fault;
            config.fault_back_at = 48 + draw(world) % 2000;
            config.fault = PIPE_FAULT_NONE;
        } else {
            config.fault_at = draw(world) % world->fault_bytes_max;
        }
    }
    pthread_mutex_unlock(&world->lock);
    if (closed)
        return fault_set(fault, ERR_UNREACHABLE, "nobody is there");
    if (world->by_tls)
        tls_pair(ret_stream, &far);
    else
        pipe_stream_new(ret_stream, &far, &config);
    pthread_mutex_lock(&world->lock);
    world->links++;
    if (world->waiting)
        (void)stream_free(world->waiting); /* it was never taken */
    world->waiting = far;
    pthread_cond_broadcast(&world->changed);
    pthread_mutex_unlock(&world->lock);
    return 0;
}

static void interrupt_open(void *data)
{
    (void)data;
}

/* The network: both ends find the link gone, whatever they do. */
static void break_link(struct world *world)
{
    pthread_mutex_lock(&world->lock);
    while (!world->far)
        pthread_cond_wait(&world->changed, &world->lock);
    unsigned links = world->links;
    stream_interrupt(world->far);
    while (world->links == links && !world->ended && !world->broken)
        pthread_cond_wait(&world->changed, &world->lock);
    assert_false(world->ended);
    assert_false(world->broken);
    pthread_mutex_unlock(&world->lock);
}

/* The replica's thread, between two links or when one is held: its memory is a checkpoint that was
 * cut, no older than the one before. Only notes; the test's own thread asserts. */
static void check_replica(struct world *world)
{
    uint64_t sum = sum_of_replica(world);
    pthread_mutex_lock(&world->lock);
    unsigned i = world->note_count;
    while (i > 0 && world->notes[i - 1] != sum)
        i--;
    if (i == 0 || (world->replica_holds && i - 1 < world->replica_note))
        world->wrong++;
    else
        world->replica_note = i - 1;
    pthread_mutex_unlock(&world->lock);
}

/* The far end of a link, which takes itself out of the world when it is freed. */
struct watched {
    struct stream stream;
    struct stream *inner;
    struct world *world;
    /* segments that pass, whole, when they are to be mangled */
    uint8_t *bytes, *kept;
    size_t at, count, kept_count;
    struct replica_frame told; /* a head that is held back */
};

/* The body of a HAVE, whose head was held back: changed, and sound again as a segment. */
static int write_lie(struct watched *watched, const void *bytes, size_t count, struct fault *fault)
{
    struct world *world = watched->world;
    uint8_t *body = malloc(count);
    struct replica_frame frame = watched->told;
    struct replica_blocks blocks = {0};

    if (!body)
        abort();
    memcpy(body, bytes, count);
    (void)replica_have_get(body, count, &blocks, fault);
    uint8_t *digests = body + REPLICA_HAVE_HEAD_BYTES;
    for (uint32_t i = 0; i < blocks.count; i++) {
        if (world->garbles)
            digests[i * REPLICA_BLOCK_DIGEST_BYTES + draw(world) % 16] ^= (uint8_t)(1u << draw(world) % 8);
        else if ((int64_t)(blocks.first + i) == world->lies_of)
            memcpy(digests + i * REPLICA_BLOCK_DIGEST_BYTES, world->lie, sizeof world->lie);
        else
            continue;
        world->lied++;
    }
    uint8_t head[REPLICA_FRAME_HEAD_BYTES];
    frame.body_check = replica_frame_check(body, count);
    replica_frame_put(&frame, head);
    int r = stream_write(watched->inner, head, sizeof head, fault);
    if (r == 0)
        r = stream_write(watched->inner, body, count, fault);
    free(body);
    watched->told = (struct replica_frame){0};
    return r;
}

static int watched_write(struct stream *stream, const void *bytes, size_t count,
                         struct fault *fault)
{
    struct watched *watched = (struct watched *)stream;
    const struct world *world = watched->world;

    if (world->lies_of < 0 && !world->garbles)
        return stream_write(watched->inner, bytes, count, fault);
    if (watched->told.body_bytes)
        return write_lie(watched, bytes, count, fault);
    struct replica_frame frame;
    if (count == REPLICA_FRAME_HEAD_BYTES && replica_frame_get(bytes, false, &frame, fault) == 0 &&
        frame.type == REPLICA_FRAME_HAVE) {
        watched->told = frame; /* with its body */
        return 0;
    }
    return stream_write(watched->inner, bytes, count, fault);
}

static int watched_flush(struct stream *stream, struct fault *fault)
{
    return stream_flush(((struct watched *)stream)->inner, fault);
}

enum { SEGMENT_MAX = REPLICA_FRAME_HEAD_BYTES + REPLICA_PAGES_BYTES_MAX + MACHINE_STATE_MAX };

static int next_segment(struct watched *watched, uint8_t *ret_bytes, size_t *ret_count,
                        struct fault *fault)
{
    struct replica_frame frame;
    int r = stream_read(watched->inner, ret_bytes, REPLICA_FRAME_HEAD_BYTES, fault);
    if (r == 0)
        r = replica_frame_get(ret_bytes, true, &frame, fault);
    if (r == 0)
        r = stream_read(watched->inner, ret_bytes + REPLICA_FRAME_HEAD_BYTES, frame.body_bytes,
                        fault);
    *ret_count = r < 0 ? 0 : REPLICA_FRAME_HEAD_BYTES + frame.body_bytes;
    return r;
}

/* A peer that means ill and knows how to make a head: another number, generation or session. */
static void change_head(struct world *world, uint8_t *bytes)
{
    struct replica_frame frame;
    struct fault fault = {0};
    if (replica_frame_get(bytes, true, &frame, &fault) < 0)
        return;
    uint64_t *field = draw(world) % 3 == 0   ? &frame.id.generation
                      : draw(world) % 2 == 0 ? &frame.id.session
                                             : &frame.id.seq;
    *field += draw(world) % 2 ? 1 : UINT64_MAX;
    replica_frame_put(&frame, bytes);
}

/* Drops, doubles, swaps, replays or changes the segment that came. */
static int mangle(struct watched *watched, struct fault *fault)
{
    struct world *world = watched->world;
    size_t more = 0;
    int r = 0;

    /* A COMMIT that never comes is waited for: what is behind it is the next checkpoint's. */
    bool is_awaited =
        watched->bytes[4] == REPLICA_FRAME_COMMIT || watched->bytes[4] == REPLICA_FRAME_ASK;
    world->mangled++;
    switch (is_awaited ? 1 + 2 * (draw(world) % 2) : draw(world) % 5) {
    case 0: /* dropped */
        watched->count = 0;
        return next_segment(watched, watched->bytes, &watched->count, fault);
    case 1: /* doubled */
        memcpy(watched->bytes + watched->count, watched->bytes, watched->count);
        watched->count *= 2;
        return 0;
    case 2: /* swapped with the next */
        r = next_segment(watched, watched->bytes + watched->count, &more, fault);
        if (r == 0) {
            uint8_t *copy = malloc(watched->count);
            if (!copy)
                abort();
            memcpy(copy, watched->bytes, watched->count);
            memmove(watched->bytes, watched->bytes + watched->count, more);
            memcpy(watched->bytes + more, copy, watched->count);
            watched->count += more;
            free(copy);
        }
        return r;
    case 3: /* an older one again, before it */
        memmove(watched->bytes + watched->kept_count, watched->bytes, watched->count);
        memcpy(watched->bytes, watched->kept, watched->kept_count);
        watched->count += watched->kept_count;
        return 0;
    default:
        change_head(world, watched->bytes);
        return 0;
    }
}

static int watched_read(struct stream *stream, void *ret_bytes, size_t count, struct fault *fault)
{
    struct watched *watched = (struct watched *)stream;
    struct world *world = watched->world;
    uint8_t *to = ret_bytes;

    if (!world->mangle_every)
        return stream_read(watched->inner, ret_bytes, count, fault);
    while (count) {
        if (watched->at == watched->count) {
            watched->at = 0;
            int r = next_segment(watched, watched->bytes, &watched->count, fault);
            if (r == 0 && world->mangles_left && draw(world) % world->mangle_every == 0) {
                world->mangles_left--;
                r = mangle(watched, fault);
            } else if (r == 0 && draw(world) % 8 == 0) {
                memcpy(watched->kept, watched->bytes, watched->count);
                watched->kept_count = watched->count;
            }
            if (r < 0)
                return r;
        }
        size_t some = watched->count - watched->at < count ? watched->count - watched->at : count;
        memcpy(to, watched->bytes + watched->at, some);
        watched->at += some;
        to += some;
        count -= some;
    }
    return 0;
}

static void watched_interrupt(struct stream *stream)
{
    stream_interrupt(((struct watched *)stream)->inner);
}

static void watched_set_hot(struct stream *stream, bool hot)
{
    stream_set_hot(((struct watched *)stream)->inner, hot);
}

static void watched_free(struct stream *stream)
{
    struct watched *watched = (struct watched *)stream;
    pthread_mutex_lock(&watched->world->lock);
    if (watched->world->far == stream)
        watched->world->far = NULL;
    pthread_mutex_unlock(&watched->world->lock);
    (void)stream_free(watched->inner);
    free(watched->bytes);
    free(watched->kept);
    free(watched);
}

static const struct stream_ops watched_ops = {
    .write = watched_write,
    .flush = watched_flush,
    .read = watched_read,
    .interrupt = watched_interrupt,
    .set_hot = watched_set_hot,
    .free = watched_free,
};

static struct stream *watched_new(struct world *world, struct stream *inner)
{
    struct watched *watched = calloc(1, sizeof *watched);
    if (!watched)
        abort();
    *watched = (struct watched){.stream = {.ops = &watched_ops}, .inner = inner, .world = world};
    if (world->mangle_every) {
        watched->bytes = malloc(3 * (size_t)SEGMENT_MAX);
        watched->kept = malloc(SEGMENT_MAX);
        if (!watched->bytes || !watched->kept)
            abort();
    }
    pthread_mutex_lock(&world->lock);
    world->far = &watched->stream;
    pthread_cond_broadcast(&world->changed);
    pthread_mutex_unlock(&world->lock);
    return &watched->stream;
}

static int accept_link(void *data, uint64_t timeout_ms, struct stream **ret_stream,
                       struct fault *fault)
{
    struct world *world = data;
    (void)timeout_ms;

    if (world->replica_holds)
        check_replica(world);
    pthread_mutex_lock(&world->lock);
    while (!world->waiting && !world->accepting_fails)
        pthread_cond_wait(&world->changed, &world->lock);
    struct stream *link = TAKE(world->waiting);
    pthread_mutex_unlock(&world->lock);
    if (link)
        link = watched_new(world, link);
    if (!link)
        return fault_set(fault, ERR_CANCELED, "no more");
    *ret_stream = link;
    return 0;
}

static void interrupt_accept(void *data)
{
    struct world *world = data;
    pthread_mutex_lock(&world->lock);
    world->accepting_fails = true;
    pthread_cond_broadcast(&world->changed);
    pthread_mutex_unlock(&world->lock);
}

static void on_held(void *data, const struct replica_id *id)
{
    struct world *world = data;
    if (world->disk_fd < 0) /* its disks are written just after */
        check_replica(world);
    pthread_mutex_lock(&world->lock);
    world->replica_holds = true;
    world->replica_held = *id;
    pthread_cond_broadcast(&world->changed);
    pthread_mutex_unlock(&world->lock);
}

static void on_broken(void *data, const struct fault *fault)
{
    struct world *world = data;
    (void)fault;
    pthread_mutex_lock(&world->lock);
    world->broken++;
    pthread_cond_broadcast(&world->changed);
    pthread_mutex_unlock(&world->lock);
}

static void on_change(void *data, const struct replicator_status *status)
{
    struct world *world = data;
    pthread_mutex_lock(&world->lock);
    world->status = *status;
    pthread_cond_broadcast(&world->changed);
    pthread_mutex_unlock(&world->lock);
}

static void on_ended(void *data, const struct fault *fault)
{
    struct world *world = data;
    pthread_mutex_lock(&world->lock);
    world->ended = true;
    if (fault)
        world->ended_fault = *fault;
    pthread_cond_broadcast(&world->changed);
    pthread_mutex_unlock(&world->lock);
}

/* ---- a world ---- */
struct setting {
    uint64_t writes_per_ms, rpo_ms, copy_bytes_max;
    uint64_t writer_pages;    /* that are written to, of RAM and of a disk; 0: all */
    uint64_t fault_bytes_max; /* 0: 1 MiB */
    unsigned mangle_every;    /* so many segments pass, on average, before one is mangled; 0: all */
    bool has_disk, disks_only, by_tls;
};

static struct replica_disk disk_of(struct world *world)
{
    return (struct replica_disk){
        .region_id = DISK_ID, .bytes = DISK_PAGES * PAGE_BYTES, .fd = world->disk_fd};
}

static void start_replica(struct world *world)
{
    struct fault fault = {0};
    const struct replica_disk disk = disk_of(world);
    const struct replica_config config = {
        .who = "vm-1",
        .regions = world->disks_only ? NULL : region_of(world->target),
        .region_count = world->disks_only ? 0 : 1,
        .disks = &disk,
        .disk_count = world->disk_fd < 0 ? 0 : 1,
        .journal_fd = world->journal_fd,
        .silent_ms_max = world->silent_ms_max,
        .accept_link = accept_link,
        .interrupt_accept = interrupt_accept,
        .on_held = on_held,
        .on_broken = on_broken,
        .data = world,
    };
    world->accepting_fails = false;
    if (replica_new(&world->replica, &config, &fault) < 0 ||
        replica_start(world->replica, &fault) < 0)
        fail_msg("%s", fault.text);
}

static void start_source(struct world *world, const struct setting *setting)
{
    struct fault fault = {0};
    const struct replica_disk disk = disk_of(world);
    const struct replicator_config config = {
        .guest = &world->source.guest,
        .ram_count = world->disks_only ? 0 : 1,
        .disks = &disk,
        .disk_count = world->disk_fd < 0 ? 0 : 1,
        .who = "vm-1",
        .generation = world->generation,
        .rpo_ns = setting->rpo_ms * NS_PER_MS,
        .loss_permille = 900,
        .copy_bytes_max = setting->copy_bytes_max,
        .open_link = open_link,
        .interrupt_open = interrupt_open,
        .on_change = on_change,
        .on_ended = on_ended,
        .data = world,
    };
    if (replicator_new(&world->replicator, &config, &fault) < 0 ||
        replicator_start(world->replicator, &fault) < 0)
        fail_msg("%s", fault.text);
}

static struct world *world_new(const struct setting *setting)
{
    struct world *world = calloc(1, sizeof *world);
    assert_non_null(world);
    const struct fake_guest_config ram = {.pages = PAGES,
                                          .fill = FAKE_FILL_MIX,
                                          .half = true,
                                          .writers = 2,
                                          .writer_pages = setting->writer_pages,
                                          .writes_per_ms = setting->writes_per_ms,
                                          .clears_pages = true,
                                          .running = true};
    const struct fake_guest_config empty = {.pages = PAGES};
    pthread_mutex_init(&world->lock, NULL);
    pthread_cond_init(&world->changed, NULL);
    world->random = 0x9E3779B97F4A7C15u;
    world->generation = 5;
    world->disks_only = setting->disks_only;
    world->mangle_every = setting->mangle_every;
    world->mangles_left = setting->mangle_every ? 60 : 0;
    world->by_tls = setting->by_tls;
    world->disk_fd = world->journal_fd = -1;
    world->lies_of = -1;
    if (setting->has_disk) {
        world->disk_fd = memfd_create("disk", MFD_CLOEXEC);
        world->journal_fd = memfd_create("journal", MFD_CLOEXEC);
        assert_int_equal(ftruncate(world->disk_fd, DISK_PAGES * PAGE_BYTES), 0);
    }
    twin_init(world, &ram, setting->has_disk);
    if (setting->disks_only) { /* the guest's regions that count are its disks */
        world->source.regions[0] = world->source.regions[1];
        world->source.guest.region_count = 1;
    }
    world->target = fake_guest_new(&empty);
    return world;
}

static void world_free(struct world *world)
{
    world->replicator = replicator_free(world->replicator);
    world->replica = replica_free(world->replica);
    (void)stream_free(world->waiting);
    world->source.ram = fake_guest_free(world->source.ram);
    world->source.disk = fake_guest_free(world->source.disk);
    world->target = fake_guest_free(world->target);
    close_p(&world->disk_fd);
    close_p(&world->journal_fd);
    free(world);
}

static uint64_t checkpoints_held(struct world *world)
{
    pthread_mutex_lock(&world->lock);
    uint64_t checkpoints = world->status.checkpoints;
    pthread_mutex_unlock(&world->lock);
    return checkpoints;
}

/* Both ends agree: the source knows of so many held checkpoints. */
static void await_checkpoints(struct world *world, uint64_t count)
{
    pthread_mutex_lock(&world->lock);
    while (world->status.checkpoints < count && !world->ended && !world->broken)
        pthread_cond_wait(&world->changed, &world->lock);
    struct fault fault = world->ended_fault;
    bool ended = world->ended, broken = world->broken != 0;
    pthread_mutex_unlock(&world->lock);
    if (ended || broken)
        fail_msg("ended %d broken %d: %s", ended, broken, fault.text);
}

/* A bit that was flipped where nobody reads it ends no link: then it is cut. */
static void await_links(struct world *world, unsigned links)
{
    enum { HARMLESS_CHECKPOINTS = 300 };

    unsigned seen = 0;
    uint64_t since = 0;

    pthread_mutex_lock(&world->lock);
    while (world->links < links && !world->ended && !world->broken) {
        pthread_cond_wait(&world->changed, &world->lock);
        if (world->links != seen) {
            seen = world->links;
            since = world->status.checkpoints;
        } else if (world->status.checkpoints > since + HARMLESS_CHECKPOINTS) {
            since = world->status.checkpoints;
            pthread_mutex_unlock(&world->lock);
            break_link(world);
            pthread_mutex_lock(&world->lock);
        }
    }
    assert_false(world->ended);
    assert_false(world->broken);
    pthread_mutex_unlock(&world->lock);
}

/* The source dies: what the replica then gives is a checkpoint, no older than the newest known one.
 */
static void take_and_check(struct world *world)
{
    struct replica_taken taken = {0};
    struct fault fault = {0};
    uint64_t acknowledged = world->status.held.seq;

    if (replica_take(world->replica, 6, &taken, &fault) < 0)
        fail_msg("%s", fault.text);
    world->replica = replica_free(world->replica);
    assert_true(taken.id.seq >= acknowledged);
    assert_true(taken.id.generation == 5);
    assert_true((taken.state != NULL) == !world->disks_only);
    check_replica(world);
    assert_int_equal(world->wrong, 0);
    if (taken.state) {
        struct guest *guest = fake_guest_guest(world->target);
        assert_int_equal(
            guest->ops->load(guest->owner, taken.state, taken.state_bytes, taken.stood_ns, &fault),
            0);
    }
    free(taken.state);
}

/* ---- tests ---- */
static void a_replica_follows_a_writing_guest_checkpoint_by_checkpoint(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 20, .rpo_ms = 40};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);

    await_checkpoints(world, 30);
    world->replicator = replicator_free(world->replicator);

    assert_true(fake_guest_runs(world->source.ram));
    assert_false(fake_guest_is_tracked(world->source.ram));
    take_and_check(world);
    world_free(world);
}

/* Is it a checkpoint that was cut? */
static bool is_noted(struct world *world, uint64_t sum)
{
    bool found = false;
    pthread_mutex_lock(&world->lock);
    for (unsigned i = 0; i < world->note_count; i++)
        found = found || world->notes[i] == sum;
    pthread_mutex_unlock(&world->lock);
    return found;
}

static uint64_t sum_of_copy(int memory_fd, const struct guest_label *label, int disk_fd)
{
    const struct fake_guest_config empty = {.pages = PAGES};
    struct fake_guest *fresh = fake_guest_new(&empty);
    struct guest_file_counts counts = {0};
    struct fault fault = {0};
    if (guest_file_read(fake_guest_guest(fresh), label, memory_fd, &counts, &fault) < 0)
        fail_msg("%s", fault.text);
    uint64_t sum = sum_of(region_of(fresh)->base, PAGES, 7) + sum_of_file(disk_fd, DISK_PAGES);
    fresh = fake_guest_free(fresh);
    return sum;
}

/* What a replica writes is written past the fake guest, which has not seen it and would write into what it
 * populates; real memory keeps what it has. */
static int nothing_to_populate(struct region *region, uint64_t first_page, uint64_t pages,
                               struct fault *fault)
{
    (void)region;
    (void)first_page;
    (void)pages;
    (void)fault;
    return 0;
}

static int all_populated(struct region *region, struct bitmap *ret_populated, struct fault *fault)
{
    (void)region;
    (void)fault;
    bitmap_set_all(ret_populated);
    return 0;
}

static void a_copy_of_it_is_a_whole_checkpoint_while_newer_ones_arrive(void **state)
{
    (void)state;
    enum { COPIES = 10, COPIES_MAX = 1000 };
    const struct setting setting = {.writes_per_ms = 40, .rpo_ms = 10, .has_disk = true};
    const struct guest_label label = {.vm_id = "copy", .nonce = "n0nce", .generation = 1};
    struct world *world = world_new(&setting);
    struct replica_copied copied = {0};
    uint64_t put_aside = 0, last = 0;
    struct fault fault = {0};
    struct region_ops ops = *region_of(world->target)->ops;
    ops.populated = all_populated;
    ops.populate = nothing_to_populate;
    region_of(world->target)->ops = &ops;
    start_replica(world);
    AUTO_FD int early = memfd_create("disk", MFD_CLOEXEC);
    struct replica_copy_config config = {.guest = fake_guest_guest(world->target),
                                         .label = &label,
                                         .memory_fd = memfd_create("memory", MFD_CLOEXEC),
                                         .disk_fds = &early,
                                         .disk_count = 1};
    assert_int_equal(replica_make_copy(world->replica, &config, &copied, &fault), ERR_STATE);
    (void)close(config.memory_fd);
    start_source(world, &setting);
    await_checkpoints(world, 2);

    for (unsigned i = 0; i < COPIES || (put_aside == 0 && i < COPIES_MAX); i++) {
        AUTO_FD int memory_fd = memfd_create("memory", MFD_CLOEXEC);
        AUTO_FD int disk_fd = memfd_create("disk", MFD_CLOEXEC);
        assert_int_equal(ftruncate(disk_fd, DISK_PAGES * PAGE_BYTES), 0);
        config.memory_fd = memory_fd;
        config.disk_fds = &disk_fd;
        if (replica_make_copy(world->replica, &config, &copied, &fault) < 0)
            fail_msg("%s", fault.text);
        put_aside += copied.put_aside_pages;
        assert_true(copied.id.seq >= last);
        last = copied.id.seq;
        assert_true(is_noted(world, sum_of_copy(memory_fd, &label, disk_fd)));
    }
    await_checkpoints(world, checkpoints_held(world) + 2); /* nothing of it stays behind */
    world->replicator = replicator_free(world->replicator);

    print_message("%llu pages were put aside\n", (unsigned long long)put_aside);
    assert_true(put_aside > 0);
    take_and_check(world);
    world_free(world);
}

static void over_tls_a_replica_is_a_whole_checkpoint_after_any_of_100_cuts(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 20, .rpo_ms = 20, .by_tls = true};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 1);

    for (unsigned i = 0; i < 100; i++) {
        const struct timespec while_it_works = {.tv_nsec = (long)(draw(world) % 30000000)};
        (void)nanosleep(&while_it_works, NULL); /* chance, not a wait: anywhere in a checkpoint */
        break_link(world);
    }
    await_checkpoints(world, checkpoints_held(world) + 2);
    world->replicator = replicator_free(world->replicator);

    take_and_check(world);
    world_free(world);
}

static void break_links(const struct setting *setting, unsigned faults, enum pipe_fault only)
{
    struct world *world = world_new(setting);
    world->faults_left = faults;
    world->only_fault = only;
    world->fault_bytes_max = setting->fault_bytes_max ? setting->fault_bytes_max : 1 << 20;
    start_replica(world);
    start_source(world, setting);

    await_links(world, faults + 1);
    await_checkpoints(world, checkpoints_held(world) + 3);
    struct replicator_status status;
    replicator_status(world->replicator, &status);
    world->replicator = replicator_free(world->replicator);
    print_message("%u links, %llu checkpoints held, %u noted, %llu pages\n", world->links,
                  (unsigned long long)status.checkpoints, world->note_count,
                  (unsigned long long)status.pages);

    assert_true(fake_guest_runs(world->source.ram));
    take_and_check(world);
    world_free(world);
}

static void what_was_sent_counts_while_the_link_is_up(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 40, .rpo_ms = 20};
    struct world *world = world_new(&setting);
    struct replicator_status before, after;
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 2);
    replicator_status(world->replicator, &before);
    await_checkpoints(world, checkpoints_held(world) + 2);
    replicator_status(world->replicator, &after);
    assert_true(before.links == 1 && after.links == 1);
    assert_true(before.bytes_out > before.pages);
    assert_true(after.bytes_out > before.bytes_out);
    world->replicator = replicator_free(world->replicator);
    take_and_check(world);
    world_free(world);
}

static void flipped_bits_cut_and_dead_links_never_harm_what_is_held(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 40, .rpo_ms = 20};
    break_links(&setting, 60, PIPE_FAULT_NONE);
}

static void segments_dropped_doubled_swapped_replayed_or_forged_harm_nothing(void **state)
{
    (void)state;
    const struct setting setting = {
        .writes_per_ms = 40, .rpo_ms = 20, .has_disk = true, .mangle_every = 30};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);

    pthread_mutex_lock(&world->lock);
    while (world->mangles_left && !world->ended && !world->broken)
        pthread_cond_wait(&world->changed, &world->lock);
    uint64_t checkpoints = world->status.checkpoints;
    pthread_mutex_unlock(&world->lock);
    await_checkpoints(world, checkpoints + 3);
    world->replicator = replicator_free(world->replicator);

    assert_int_equal(world->mangled, 60);
    assert_true(world->links > 10);
    take_and_check(world);
    world_free(world);
}

static void ram_and_disk_are_of_the_same_checkpoint_after_any_cut(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 20, .rpo_ms = 20, .has_disk = true};
    break_links(&setting, 40, PIPE_FAULT_NONE);
}

/* ---- what is read of disks while the guest runs ---- */
static const struct region_ops *disk_ops;
static _Atomic unsigned rounds_of_disk; /* blocks of them */

static int clear_and_count(struct region *region, uint64_t first_page, const uint64_t mask[static 8],
                           struct fault *fault)
{
    rounds_of_disk++;
    return disk_ops->clear(region, first_page, mask, fault);
}

static void a_disk_that_was_written_is_read_before_the_guest_stands_still(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 1, .rpo_ms = 200, .has_disk = true};
    struct world *world = world_new(&setting);
    struct region *disk = &world->source.regions[1];
    struct region_ops counting = *disk->ops;
    disk_ops = disk->ops;
    counting.clear = clear_and_count;
    disk->ops = &counting;
    rounds_of_disk = 0;
    start_replica(world);
    start_source(world, &setting);

    await_checkpoints(world, 2); /* the first is whole, and has rounds for that */
    for (unsigned i = 0; i < 4; i++) {
        unsigned before = rounds_of_disk;
        /* one may have begun before, a machine that is busy may write little until the next */
        for (unsigned tries = 0; tries < 20 && rounds_of_disk == before; tries++)
            await_checkpoints(world, checkpoints_held(world) + 1);
        assert_true(rounds_of_disk > before);
    }

    world->replicator = replicator_free(world->replicator);
    take_and_check(world);
    world_free(world);
}

static void disks_alone_are_a_whole_checkpoint_after_any_cut(void **state)
{
    (void)state;
    const struct setting setting = {.rpo_ms = 20,
                                    .has_disk = true,
                                    .disks_only = true,
                                    .writes_per_ms = 20,
                                    .fault_bytes_max = 200 << 10};
    break_links(&setting, 40, PIPE_FAULT_DIE);
}

static void a_broken_link_catches_up_by_what_was_written_meanwhile(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 1, .rpo_ms = 20, .writer_pages = 24};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 5);

    pthread_mutex_lock(&world->lock);
    uint64_t before = world->status.pages, checkpoints = world->status.checkpoints;
    pthread_mutex_unlock(&world->lock);
    break_link(world);
    await_checkpoints(world, checkpoints + 3);

    /* Each is of 24 pages at most, rounds before it and what was owed too; a whole one is of 500.
     */
    pthread_mutex_lock(&world->lock);
    uint64_t pages = world->status.pages - before;
    uint64_t held = world->status.checkpoints - checkpoints;
    pthread_mutex_unlock(&world->lock);
    assert_true(pages <= (held + 1) * 24);
    world_free(world);
}

static void a_replica_process_that_died_gets_everything_anew(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 20, .rpo_ms = 20};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 5);

    world->replica = replica_free(world->replica);
    const struct fake_guest_config empty = {.pages = PAGES};
    world->target = fake_guest_free(world->target);
    world->target = fake_guest_new(&empty);
    world->replica_holds = false;
    uint64_t checkpoints = checkpoints_held(world);
    start_replica(world);
    await_checkpoints(world, checkpoints + 3);
    world->replicator = replicator_free(world->replicator);

    take_and_check(world);
    world_free(world);
}

static void disks_outlive_their_replica_process_and_catch_up_by_delta(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 20,
                                    .rpo_ms = 20,
                                    .has_disk = true,
                                    .disks_only = true,
                                    .writer_pages = 12};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 5);

    for (unsigned i = 0; i < 5; i++) {
        world->replica = replica_free(world->replica);
        check_replica(world);
        assert_int_equal(world->wrong, 0);
        pthread_mutex_lock(&world->lock);
        uint64_t checkpoints = world->status.checkpoints, before = world->status.pages;
        pthread_mutex_unlock(&world->lock);
        start_replica(world);
        await_checkpoints(world, checkpoints + 2);
        /* Each is of 12 pages at most; a whole one is of more than 200. */
        pthread_mutex_lock(&world->lock);
        uint64_t pages = world->status.pages - before;
        uint64_t held = world->status.checkpoints - checkpoints;
        pthread_mutex_unlock(&world->lock);
        assert_true(pages <= (held + 1) * 12);
    }
    world->replicator = replicator_free(world->replicator);

    take_and_check(world);
    world_free(world);
}

static void an_older_generation_is_refused_and_so_is_another_guest(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 1, .rpo_ms = 20};
    struct world *world = world_new(&setting);
    struct fault fault = {0};
    struct replica_config config = {
        .who = "vm-1",
        .regions = region_of(world->target),
        .region_count = 1,
        .generation_min = 6, /* the source runs as 5 */
        .accept_link = accept_link,
        .interrupt_accept = interrupt_accept,
        .data = world,
    };

    for (unsigned i = 0; i < 2; i++) {
        if (i == 1) {
            config.who = "vm-2";
            config.generation_min = 0;
        }
        world->accepting_fails = false;
        assert_int_equal(replica_new(&world->replica, &config, &fault), 0);
        assert_int_equal(replica_start(world->replica, &fault), 0);
        start_source(world, &setting);
        pthread_mutex_lock(&world->lock);
        while (world->status.trouble.code != ERR_REFUSED)
            pthread_cond_wait(&world->changed, &world->lock);
        pthread_mutex_unlock(&world->lock);
        assert_non_null(strstr(world->status.trouble.text, i == 0 ? "is over" : "a replica of"));
        world->replicator = replicator_free(world->replicator);
        world->replica = replica_free(world->replica);
        world->status = (struct replicator_status){0};
    }
    assert_true(fake_guest_runs(world->source.ram));
    world_free(world);
}

static void await_refusal(struct world *world, const char *words)
{
    pthread_mutex_lock(&world->lock);
    while (world->status.trouble.code != ERR_REFUSED && world->status.checkpoints == 0)
        pthread_cond_wait(&world->changed, &world->lock);
    assert_int_equal(world->status.checkpoints, 0);
    assert_non_null(strstr(world->status.trouble.text, words));
    pthread_mutex_unlock(&world->lock);
}

/* Its RAM went with its process, not the word of whose checkpoint its disks are. */
static void a_replica_that_begins_anew_takes_no_older_source_than_before(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 1, .rpo_ms = 20, .has_disk = true};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 2);
    world->replicator = replicator_free(world->replicator);
    world->replica = replica_free(world->replica);
    world->status = (struct replicator_status){0};
    world->replica_holds = false;

    world->generation = 4;
    start_replica(world);
    start_source(world, &setting);

    await_refusal(world, "is over");
    world_free(world);
}

/* Nor after its disks were found to be something else, and it began anew once more. */
static void a_voided_replica_takes_no_older_source_than_before(void **state)
{
    (void)state;
    const struct setting setting = {
        .writes_per_ms = 1, .rpo_ms = 20, .has_disk = true, .disks_only = true};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 2);
    world->replicator = replicator_free(world->replicator);
    world->replica = replica_free(world->replica);
    world->status = (struct replicator_status){0};
    world->replica_holds = false;
    uint8_t byte;
    assert_int_equal(pread(world->disk_fd, &byte, 1, 5000), 1);
    byte ^= 1;
    assert_int_equal(pwrite(world->disk_fd, &byte, 1, 5000), 1);

    start_replica(world); /* voids it */
    world->replica = replica_free(world->replica);
    world->generation = 4;
    start_replica(world);
    start_source(world, &setting);

    await_refusal(world, "is over");
    world_free(world);
}

static void another_goal_holds_from_now_on(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 5, .rpo_ms = 60 * 60 * 1000};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 1);

    replicator_tune(world->replicator, 20 * NS_PER_MS, 0); /* it waits for the hour to pass */

    await_checkpoints(world, 4);
    world->replicator = replicator_free(world->replicator);
    take_and_check(world);
    world_free(world);
}

/* Whoever holds the guest stops it, and no cut lets it go again. */
static void a_guest_that_is_stopped_between_cuts_stays_stopped_and_is_replicated(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 5, .rpo_ms = 20};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 2);

    for (unsigned i = 0; i < 5; i++) {
        struct guest *guest = &world->source.guest;
        struct fault fault = {0};
        replicator_hold(world->replicator);
        guest->ops->pause(guest->owner);
        guest->was_running = false;
        replicator_release(world->replicator);
        await_checkpoints(world, checkpoints_held(world) + 3);
        assert_false(fake_guest_runs(world->source.ram));
        replicator_hold(world->replicator);
        assert_int_equal(guest->ops->resume(guest->owner, &fault), 0);
        guest->was_running = true;
        replicator_release(world->replicator);
        await_checkpoints(world, checkpoints_held(world) + 1);
    }
    world->replicator = replicator_free(world->replicator);
    assert_true(fake_guest_runs(world->source.ram));
    take_and_check(world);
    world_free(world);
}

static void a_link_that_is_to_end_ends_and_the_next_one_comes(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 5, .rpo_ms = 20};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 2);

    for (unsigned i = 2; i < 6; i++) {
        replica_unlink(world->replica);
        await_links(world, i);
    }

    await_checkpoints(world, checkpoints_held(world) + 1);
    world->replicator = replicator_free(world->replicator);
    take_and_check(world);
    world_free(world);
}

/* ---- a peer that falls silent ---- */
static void a_peer_that_falls_silent_in_a_segment_does_not_hold_the_link(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 1, .rpo_ms = 20};
    struct world *world = world_new(&setting);
    struct stream *mine = NULL, *far = NULL;
    const struct pipe_stream_config config = {0};
    uint8_t head[REPLICA_FRAME_HEAD_BYTES], welcome[REPLICA_WELCOME_BYTES];
    char shape[REPLICA_SHAPE_MAX];
    struct fault fault = {0};
    world->silent_ms_max = 200;
    start_replica(world);
    pipe_stream_new(&mine, &far, &config);
    pthread_mutex_lock(&world->lock);
    world->waiting = far;
    pthread_cond_broadcast(&world->changed);
    pthread_mutex_unlock(&world->lock);
    assert_int_equal(replica_shape("vm-1", region_of(world->target), 1, NULL, 0, shape, &fault), 0);
    struct replica_frame frame = {.type = REPLICA_FRAME_HELLO,
                                  .id = {.generation = 5, .session = 9},
                                  .body_bytes = (uint32_t)strlen(shape),
                                  .body_check = replica_frame_check(shape, strlen(shape))};
    replica_frame_put(&frame, head);
    assert_int_equal(stream_write(mine, head, sizeof head, &fault), 0);
    assert_int_equal(stream_write(mine, shape, strlen(shape), &fault), 0);
    assert_int_equal(stream_flush(mine, &fault), 0);
    assert_int_equal(stream_read(mine, head, sizeof head, &fault), 0);
    assert_int_equal(stream_read(mine, welcome, sizeof welcome, &fault), 0);

    frame = (struct replica_frame){
        .type = REPLICA_FRAME_STATE, .id = {5, 9, 1}, .body_bytes = 1000, .body_check = 1};
    replica_frame_put(&frame, head);
    assert_int_equal(stream_write(mine, head, sizeof head, &fault), 0);
    assert_int_equal(stream_flush(mine, &fault), 0); /* and not a byte of its body */

    start_source(world, &setting);
    await_checkpoints(world, 1);
    world->replicator = replicator_free(world->replicator);
    take_and_check(world);
    (void)stream_free(mine);
    world_free(world);
}

/* ---- disks that lie there already ---- */
static const uint8_t *block_at(struct world *world, uint64_t block)
{
    return region_of(world->source.disk)->base + block * REPLICA_BLOCK_PAGES * PAGE_BYTES;
}

/* What an earlier life of the guest left there: its disk, but for some blocks. */
static void put_old_disk(struct world *world)
{
    uint8_t *map =
        mmap(NULL, DISK_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, world->disk_fd, 0);
    assert_true(map != MAP_FAILED);
    memcpy(map, region_of(world->source.disk)->base, DISK_PAGES * PAGE_BYTES);
    for (unsigned i = 4; i < 20; i += 5)
        memset(map + (size_t)i * REPLICA_BLOCK_PAGES * PAGE_BYTES + 77, 0xEE, 3 * PAGE_BYTES);
    (void)munmap(map, DISK_PAGES * PAGE_BYTES);
}

static uint64_t bytes_kept(struct world *world, uint64_t *ret_bytes_in)
{
    struct replica_status status;
    replica_status(world->replica, &status);
    *ret_bytes_in = status.bytes_in;
    return status.bytes_kept;
}

static void only_blocks_that_differ_travel_to_a_disk_that_lies_there(void **state)
{
    (void)state;
    for (unsigned disks_only = 0; disks_only < 2; disks_only++) {
        const struct setting setting = {.writes_per_ms = 5,
                                        .rpo_ms = 20,
                                        .has_disk = true,
                                        .disks_only = disks_only,
                                        .writer_pages = 16};
        struct world *world = world_new(&setting);
        uint64_t bytes_in = 0;
        put_old_disk(world);
        start_replica(world);
        start_source(world, &setting);
        await_checkpoints(world, 1);

        uint64_t kept = bytes_kept(world, &bytes_in);
        print_message("kept %llu of %d bytes, %llu came\n", (unsigned long long)kept,
                      DISK_PAGES * PAGE_BYTES, (unsigned long long)bytes_in);
        assert_true(kept >= DISK_PAGES / 4 * PAGE_BYTES);
        await_checkpoints(world, 4);
        assert_int_equal(world->links, 1);
        world->replicator = replicator_free(world->replicator);
        take_and_check(world);
        world_free(world);
    }
}

/* Its memory went with its process: that comes anew, its disk does not. */
static void a_replica_process_that_died_is_not_sent_its_disks_again(void **state)
{
    (void)state;
    const struct setting setting = {
        .writes_per_ms = 5, .rpo_ms = 20, .has_disk = true, .writer_pages = 16};
    struct world *world = world_new(&setting);
    uint64_t ignored;
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 3);

    world->replica = replica_free(world->replica);
    const struct fake_guest_config empty = {.pages = PAGES};
    world->target = fake_guest_free(world->target);
    world->target = fake_guest_new(&empty);
    world->replica_holds = false;
    uint64_t checkpoints = checkpoints_held(world);
    start_replica(world);
    await_checkpoints(world, checkpoints + 3);

    assert_true(bytes_kept(world, &ignored) >= DISK_PAGES / 4 * PAGE_BYTES);
    world->replicator = replicator_free(world->replicator);
    take_and_check(world);
    world_free(world);
}

/* A block that has something at the source, and something else at the replica. */
static uint64_t differing_block(struct world *world)
{
    static const uint8_t zero[REPLICA_BLOCK_PAGES * PAGE_BYTES];
    uint64_t block = 4;
    while (memcmp(block_at(world, block), zero, sizeof zero) == 0)
        block += 5;
    assert_true(block < 20);
    return block;
}

static void a_replica_that_lies_about_its_disks_costs_bytes_and_never_the_image(void **state)
{
    (void)state;
    for (unsigned garbles = 0; garbles < 2; garbles++) {
        const struct setting setting = {.writes_per_ms = 5,
                                        .rpo_ms = 20,
                                        .has_disk = true,
                                        .disks_only = true,
                                        .writer_pages = 16};
        struct world *world = world_new(&setting);
        put_old_disk(world);
        uint64_t block = differing_block(world), ignored;
        world->garbles = garbles;
        if (!garbles) {
            world->lies_of = (int64_t)block;
            replica_block_digest(block_at(world, block), REPLICA_BLOCK_PAGES * PAGE_BYTES,
                                 world->lie);
        }
        start_replica(world);
        start_source(world, &setting);

        await_checkpoints(world, 3);
        assert_true(world->lied > 0);
        assert_int_equal(world->links, garbles ? 1 : 2); /* then everything is sent */
        assert_int_equal(bytes_kept(world, &ignored), 0);
        world->replicator = replicator_free(world->replicator);
        take_and_check(world);
        world_free(world);
    }
}

static void a_last_checkpoint_leaves_the_guest_standing_and_loses_nothing(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 20, .rpo_ms = 40, .has_disk = true};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 3);

    replicator_finish(world->replicator, 60000);
    pthread_mutex_lock(&world->lock);
    while (!world->ended)
        pthread_cond_wait(&world->changed, &world->lock);
    pthread_mutex_unlock(&world->lock);
    assert_string_equal(world->ended_fault.text, "");
    assert_false(fake_guest_runs(world->source.ram));
    uint64_t sum = sum_of_source(world);
    world->replicator = replicator_free(world->replicator);

    assert_false(fake_guest_runs(world->source.ram));
    take_and_check(world);
    assert_true(sum_of_replica(world) == sum); /* nothing since */
    world_free(world);
}

static void a_last_checkpoint_that_cannot_arrive_lets_the_guest_run_on(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 20, .rpo_ms = 40};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);
    await_checkpoints(world, 3);

    pthread_mutex_lock(&world->lock);
    world->closed = true;
    pthread_mutex_unlock(&world->lock);
    world->replica = replica_free(world->replica);
    replicator_finish(world->replicator, 200);
    pthread_mutex_lock(&world->lock);
    while (world->status.trouble.code != ERR_UNREACHABLE)
        pthread_cond_wait(&world->changed, &world->lock);
    pthread_mutex_unlock(&world->lock);

    fake_guest_await_writes(world->source.ram, 100);
    assert_true(fake_guest_runs(world->source.ram));
    world->replicator = replicator_free(world->replicator);
    assert_true(fake_guest_runs(world->source.ram));
    world_free(world);
}

static void a_guest_that_writes_more_than_can_be_copied_runs_on_and_says_so(void **state)
{
    (void)state;
    const struct setting setting = {
        .writes_per_ms = 0, .rpo_ms = 20, .copy_bytes_max = 16 * PAGE_BYTES};
    struct world *world = world_new(&setting);
    start_replica(world);
    start_source(world, &setting);

    pthread_mutex_lock(&world->lock);
    while (world->status.trouble.code != ERR_BUSY || !world->status.is_missed)
        pthread_cond_wait(&world->changed, &world->lock);
    pthread_mutex_unlock(&world->lock);

    assert_non_null(strstr(world->status.trouble.text, "no checkpoint"));
    fake_guest_await_writes(world->source.ram, 100);
    world_free(world);
}

static void a_guest_that_cannot_be_saved_runs_on_and_ends_its_replication(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 5, .rpo_ms = 20};
    struct world *world = world_new(&setting);
    world->source.ram = fake_guest_free(world->source.ram);
    const struct fake_guest_config bad = {
        .pages = PAGES, .writers = 1, .running = true, .fail_save = true};
    twin_init(world, &bad, false);
    start_replica(world);
    start_source(world, &setting);

    pthread_mutex_lock(&world->lock);
    while (!world->ended)
        pthread_cond_wait(&world->changed, &world->lock);
    pthread_mutex_unlock(&world->lock);

    assert_non_null(strstr(world->ended_fault.text, "saving the machine"));
    fake_guest_await_writes(world->source.ram, 100);
    assert_true(fake_guest_runs(world->source.ram));
    world_free(world);
}

static void nothing_is_taken_before_there_is_a_whole_checkpoint_nor_twice(void **state)
{
    (void)state;
    const struct setting setting = {.writes_per_ms = 5, .rpo_ms = 20};
    struct world *world = world_new(&setting);
    struct replica_taken taken = {0};
    struct fault fault = {0};
    start_replica(world);

    assert_int_equal(replica_take(world->replica, 6, &taken, &fault), ERR_STATE);
    start_source(world, &setting);
    await_checkpoints(world, 2);
    assert_int_equal(replica_take(world->replica, 5, &taken, &fault), ERR_REFUSED);
    assert_int_equal(replica_take(world->replica, 6, &taken, &fault), 0);
    free(taken.state);
    assert_int_equal(replica_take(world->replica, 7, &taken, &fault), ERR_STATE);
    assert_int_equal(replica_take(world->replica, 6, &taken, &fault), ERR_STATE);
    world_free(world);
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_replica_follows_a_writing_guest_checkpoint_by_checkpoint),
        cmocka_unit_test(a_copy_of_it_is_a_whole_checkpoint_while_newer_ones_arrive),
        cmocka_unit_test(over_tls_a_replica_is_a_whole_checkpoint_after_any_of_100_cuts),
        cmocka_unit_test(what_was_sent_counts_while_the_link_is_up),
        cmocka_unit_test(flipped_bits_cut_and_dead_links_never_harm_what_is_held),
        cmocka_unit_test(segments_dropped_doubled_swapped_replayed_or_forged_harm_nothing),
        cmocka_unit_test(ram_and_disk_are_of_the_same_checkpoint_after_any_cut),
        cmocka_unit_test(a_disk_that_was_written_is_read_before_the_guest_stands_still),
        cmocka_unit_test(disks_alone_are_a_whole_checkpoint_after_any_cut),
        cmocka_unit_test(a_broken_link_catches_up_by_what_was_written_meanwhile),
        cmocka_unit_test(a_replica_process_that_died_gets_everything_anew),
        cmocka_unit_test(disks_outlive_their_replica_process_and_catch_up_by_delta),
        cmocka_unit_test(an_older_generation_is_refused_and_so_is_another_guest),
        cmocka_unit_test(a_replica_that_begins_anew_takes_no_older_source_than_before),
        cmocka_unit_test(a_voided_replica_takes_no_older_source_than_before),
        cmocka_unit_test(another_goal_holds_from_now_on),
        cmocka_unit_test(a_guest_that_is_stopped_between_cuts_stays_stopped_and_is_replicated),
        cmocka_unit_test(a_link_that_is_to_end_ends_and_the_next_one_comes),
        cmocka_unit_test(a_peer_that_falls_silent_in_a_segment_does_not_hold_the_link),
        cmocka_unit_test(only_blocks_that_differ_travel_to_a_disk_that_lies_there),
        cmocka_unit_test(a_replica_process_that_died_is_not_sent_its_disks_again),
        cmocka_unit_test(a_replica_that_lies_about_its_disks_costs_bytes_and_never_the_image),
        cmocka_unit_test(a_last_checkpoint_leaves_the_guest_standing_and_loses_nothing),
        cmocka_unit_test(a_last_checkpoint_that_cannot_arrive_lets_the_guest_run_on),
        cmocka_unit_test(a_guest_that_writes_more_than_can_be_copied_runs_on_and_says_so),
        cmocka_unit_test(a_guest_that_cannot_be_saved_runs_on_and_ends_its_replication),
        cmocka_unit_test(nothing_is_taken_before_there_is_a_whole_checkpoint_nor_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
