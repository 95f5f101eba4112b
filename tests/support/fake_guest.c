#include "tests/support/fake_guest.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/world.h"
#include "proto/limits.h"

enum { MISSED_PAGE = 3, WRITERS_MAX = 4, STATE_BYTES = 4096 };

struct fake_guest {
    struct fake_guest_config config;
    struct guest guest;
    struct region region;
    uint8_t *memory;
    uint8_t *read_only;      /* the same memory, where the config says is_written */
    struct bitmap populated; /* atomic sets */
    struct bitmap placed;    /* the same: what it was told of, a target's */
    struct bitmap dirty;     /* the log; atomic sets, cleared under the block's nothing: atomic */
    bool tracking;           /* atomic */

    pthread_mutex_t mutex; /* guards running, stopping, still */
    pthread_cond_t changed;
    bool running, stopping;
    unsigned still;    /* writers that stand */
    bool want_still;   /* atomic: a glance for writers */
    uint64_t writes;   /* atomic */
    unsigned throttle; /* atomic: permille */
    uint64_t held_ns;  /* atomic */
    uint64_t fence;    /* atomic */
    pthread_t threads[WRITERS_MAX];
    uint8_t state[STATE_BYTES];
};

struct fake_writer {
    struct fake_guest *fake;
    uint64_t random;
};

static uint64_t next_random(uint64_t *random)
{
    uint64_t x = *random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *random = x;
}

__attribute__((no_sanitize("thread"))) static void write_word(uint8_t *at, uint64_t value)
{
    *(volatile uint64_t *)(void *)at = value; /* as a guest does: racing with whoever copies */
}

__attribute__((no_sanitize("thread"))) static void clear_words(uint8_t *at, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i += 8)
        *(volatile uint64_t *)(void *)(at + i) = 0;
}

static void clear_bits_atomic(struct bitmap *bitmap, uint64_t word, uint64_t bits)
{
    __atomic_fetch_and(&bitmap->words[word], ~bits, __ATOMIC_SEQ_CST);
}

/* Memory first, then the log: as with KVM, where the write faults, is logged, and only then goes
 * on, the collect that sees no bit must see the old memory copied or the bit later. Marking after
 * the write keeps that: clear, copy; a write not in the copy marks after the clear. */
static void guest_write(struct fake_guest *fake, uint64_t page, uint64_t offset, uint64_t value)
{
    bitmap_set_atomic(&fake->populated, page);
    write_word(fake->memory + page * PAGE_BYTES + offset, value);
    (void)__atomic_fetch_add(&fake->fence, 0, __ATOMIC_SEQ_CST); /* the write before the look */
    if (fake->config.miss_write && page == MISSED_PAGE)
        return;
    if (__atomic_load_n(&fake->tracking, __ATOMIC_SEQ_CST))
        __atomic_fetch_or(&fake->dirty.words[page / 64], UINT64_C(1) << (page % 64),
                          __ATOMIC_SEQ_CST);
}

static bool stand_still(struct fake_guest *fake)
{
    pthread_mutex_lock(&fake->mutex);
    fake->still++;
    pthread_cond_broadcast(&fake->changed);
    while (!fake->running && !fake->stopping)
        pthread_cond_wait(&fake->changed, &fake->mutex);
    fake->still--;
    bool stopping = fake->stopping;
    pthread_mutex_unlock(&fake->mutex);
    return !stopping;
}

/* What the brake of a real VM does: stand for a share of the time. */
static void stand_throttled(struct fake_guest *fake, uint64_t *ran_ns)
{
    unsigned permille = __atomic_load_n(&fake->throttle, __ATOMIC_ACQUIRE);
    uint64_t now_ns = world_now_ns();
    if (permille) {
        uint64_t hold_ns = (now_ns - *ran_ns) * permille / (1000 - permille);
        if (hold_ns > 60 * NS_PER_MS)
            hold_ns = 60 * NS_PER_MS;
        const struct timespec rest = {.tv_nsec = (long)hold_ns};
        (void)nanosleep(&rest, NULL);
        __atomic_fetch_add(&fake->held_ns, hold_ns, __ATOMIC_RELAXED);
    }
    *ran_ns = world_now_ns();
}

static void *write_run(void *data)
{
    struct fake_writer *writer = data;
    struct fake_guest *fake = writer->fake;
    uint64_t random = writer->random, batch = 0, ran_ns = world_now_ns();
    free(writer);

    if (!stand_still(fake))
        return NULL;
    for (;;) {
        if (__atomic_load_n(&fake->want_still, __ATOMIC_ACQUIRE) && !stand_still(fake))
            return NULL;
        uint64_t r = next_random(&random);
        uint64_t page = r % fake->config.writer_pages;
        if (fake->config.clears_pages && r % 3 == 0) {
            clear_words(fake->memory + page * PAGE_BYTES + 8, PAGE_BYTES - 8);
            guest_write(fake, page, 0, 0);
        } else {
            guest_write(fake, page, (r >> 40) % 512 * 8, r % 5 ? r : 0);
        }
        if (__atomic_add_fetch(&fake->writes, 1, __ATOMIC_RELEASE) % 16 == 0)
            stand_throttled(fake, &ran_ns);
        if (fake->config.writes_per_ms && ++batch >= fake->config.writes_per_ms) {
            batch = 0;
            const struct timespec rest = {.tv_nsec = 1000000};
            (void)nanosleep(&rest, NULL); /* the guest's own pace */
        }
    }
}

static void call_hook(struct fake_guest *fake, const char *what)
{
    if (fake->config.hook)
        fake->config.hook(fake->config.data, what);
}

void fake_guest_scribble(struct fake_guest *fake, uint64_t page)
{
    write_word(fake->memory + page * PAGE_BYTES + 80, UINT64_C(0xDEADBEEF));
    bitmap_set_atomic(&fake->populated, page);
}

/* ---- region ---- */

static int fake_track_start(struct region *region, struct fault *fault)
{
    (void)fault;
    struct fake_guest *fake = region->owner;
    call_hook(fake, "track");
    for (size_t i = 0; i < bitmap_words(&fake->dirty); i++)
        __atomic_store_n(&fake->dirty.words[i], UINT64_MAX, __ATOMIC_SEQ_CST);
    __atomic_store_n(&fake->tracking, true, __ATOMIC_SEQ_CST);
    return 0;
}

static void fake_track_stop(struct region *region, bool goes_on)
{
    struct fake_guest *fake = region->owner;
    if (goes_on)
        __atomic_store_n(&fake->tracking, false, __ATOMIC_SEQ_CST);
}

static int fake_collect(struct region *region, struct bitmap *dirty, struct fault *fault)
{
    struct fake_guest *fake = region->owner;
    if (fake->config.fail_collect)
        return fault_set(fault, ERR_IO, "the log cannot be read");
    for (size_t i = 0; i < bitmap_words(dirty); i++)
        dirty->words[i] |= __atomic_load_n(&fake->dirty.words[i], __ATOMIC_SEQ_CST);
    uint64_t tail = dirty->bits % 64;
    if (tail)
        dirty->words[bitmap_words(dirty) - 1] &= (UINT64_C(1) << tail) - 1;
    return 0;
}

static int fake_clear(struct region *region, uint64_t first_page, const uint64_t mask[static 8],
                      struct fault *fault)
{
    struct fake_guest *fake = region->owner;
    if (fake->config.fail_clear)
        return fault_set(fault, ERR_IO, "the log cannot be cleared");
    for (unsigned i = 0; i < 8; i++) {
        if (mask[i])
            clear_bits_atomic(&fake->dirty, first_page / 64 + i, mask[i]);
    }
    return 0;
}

static int fake_clear_many(struct region *region, const struct bitmap *pages, struct fault *fault)
{
    struct fake_guest *fake = region->owner;
    if (fake->config.fail_clear)
        return fault_set(fault, ERR_IO, "the log cannot be cleared");
    for (size_t i = 0; i < bitmap_words(pages); i++)
        clear_bits_atomic(&fake->dirty, i, pages->words[i]);
    return 0;
}

static int fake_populated(struct region *region, struct bitmap *ret_populated, struct fault *fault)
{
    (void)fault;
    struct fake_guest *fake = region->owner;
    for (size_t i = 0; i < bitmap_words(ret_populated); i++)
        ret_populated->words[i] = __atomic_load_n(&fake->populated.words[i], __ATOMIC_ACQUIRE);
    return 0;
}

static int fake_populate(struct region *region, uint64_t first_page, uint64_t pages,
                         struct fault *fault)
{
    struct fake_guest *fake = region->owner;
    call_hook(fake, "populate");
    if (fake->config.fail_populate)
        return fault_set(fault, ERR_NOMEM, "this host has no memory for %llu pages",
                         (unsigned long long)pages);
    for (uint64_t page = first_page; page < first_page + pages; page++) {
        bitmap_set_atomic(&fake->populated, page);
        write_word(fake->memory + page * PAGE_BYTES, 0);
    }
    return 0;
}

/* Never freed of its bit in `populated`: what is there at the end is compared. */
static int fake_discard(struct region *region, uint64_t first_page, uint64_t pages,
                        struct fault *fault)
{
    struct fake_guest *fake = region->owner;
    if (madvise(fake->memory + first_page * PAGE_BYTES, pages * PAGE_BYTES, MADV_DONTNEED) < 0)
        return fault_set(fault, ERR_IO, "pages cannot be given up");
    return 0;
}

static void fake_placed(struct region *region, uint64_t first_page, const uint64_t mask[static 8])
{
    struct fake_guest *fake = region->owner;
    assert(first_page % BLOCK_PAGES == 0);
    for (uint64_t i = 0; i < BLOCK_PAGES; i++) {
        if (mask[i / 64] >> (i % 64) & 1) {
            assert(first_page + i < region->pages);
            bitmap_set_atomic(&fake->placed, first_page + i);
        }
    }
}

static void fake_write(struct region *region, uint64_t first_page, uint64_t pages,
                       const uint8_t *bytes)
{
    struct fake_guest *fake = region->owner;
    assert(pages > 0 && first_page + pages <= region->pages);
    memcpy(fake->memory + first_page * PAGE_BYTES, bytes, pages * PAGE_BYTES);
}

#define TRACKED_OPS                                                                                \
    .track_start = fake_track_start, .track_stop = fake_track_stop, .collect = fake_collect,       \
    .clear = fake_clear, .clear_many = fake_clear_many, .populated = fake_populated,               \
    .populate = fake_populate, .discard = fake_discard, .placed = fake_placed

static const struct region_ops region_ops = {TRACKED_OPS};
static const struct region_ops written_ops = {TRACKED_OPS, .write = fake_write};

/* ---- guest ---- */

static void fake_pause(void *owner)
{
    struct fake_guest *fake = owner;
    call_hook(fake, "pause");
    pthread_mutex_lock(&fake->mutex);
    fake->running = false;
    __atomic_store_n(&fake->want_still, true, __ATOMIC_RELEASE);
    while (fake->still < fake->config.writers)
        pthread_cond_wait(&fake->changed, &fake->mutex);
    pthread_mutex_unlock(&fake->mutex);
    if (fake->config.miss_write) /* the last write of all is one that tracking misses */
        write_word(fake->memory + MISSED_PAGE * PAGE_BYTES, ~UINT64_C(0));
}

static int fake_throttle(void *owner, unsigned permille, uint64_t *ret_held_ns, struct fault *fault)
{
    (void)fault;
    struct fake_guest *fake = owner;
    __atomic_store_n(&fake->throttle, permille, __ATOMIC_RELEASE);
    *ret_held_ns = __atomic_load_n(&fake->held_ns, __ATOMIC_RELAXED);
    return 0;
}

static int fake_resume(void *owner, struct fault *fault)
{
    struct fake_guest *fake = owner;
    call_hook(fake, "resume");
    if (fake->config.fail_resume)
        return fault_set(fault, ERR_IO, "a vCPU does not start");
    pthread_mutex_lock(&fake->mutex);
    fake->running = true;
    __atomic_store_n(&fake->want_still, false, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->mutex);
    return 0;
}

static int fake_save(void *owner, uint8_t **ret_bytes, size_t *ret_count, struct fault *fault)
{
    struct fake_guest *fake = owner;
    assert(!fake_guest_runs(fake));
    call_hook(fake, "save");
    if (fake->config.fail_save)
        return fault_set(fault, ERR_IO, "vCPU 0 cannot be read");
    uint8_t *bytes = malloc(STATE_BYTES);
    assert(bytes);
    memcpy(bytes, fake->state, STATE_BYTES);
    *ret_bytes = bytes;
    *ret_count = STATE_BYTES;
    return 0;
}

static int fake_load(void *owner, const uint8_t *bytes, size_t count, uint64_t paused_ns,
                     struct fault *fault)
{
    (void)paused_ns;
    struct fake_guest *fake = owner;
    call_hook(fake, "load");
    if (fake->config.fail_load || count != STATE_BYTES)
        return fault_set(fault, ERR_UNSUPPORTED, "the machine's state does not fit");
    memcpy(fake->state, bytes, STATE_BYTES);
    return 0;
}

static const struct guest_ops guest_ops = {.pause = fake_pause,
                                           .resume = fake_resume,
                                           .throttle = fake_throttle,
                                           .save = fake_save,
                                           .load = fake_load};

static void fill_page(uint8_t *page, enum fake_fill fill, uint64_t *random, uint64_t number)
{
    static const char words[] = "the quick brown fox jumps over the lazy dog and lives to tell it ";
    if (fill == FAKE_FILL_MIX)
        fill = number / 16 % 3 == 0   ? FAKE_FILL_RANDOM
               : number / 16 % 3 == 1 ? FAKE_FILL_TEXT
                                      : FAKE_FILL_ZERO;
    if (fill == FAKE_FILL_RANDOM) {
        for (unsigned i = 0; i < PAGE_BYTES; i += 8) {
            uint64_t r = next_random(random);
            memcpy(page + i, &r, 8);
        }
    } else if (fill == FAKE_FILL_TEXT) {
        for (unsigned i = 0; i < PAGE_BYTES; i += 64) {
            memcpy(page + i, words, 64);
            uint64_t r = next_random(random);
            memcpy(page + i + 24, &r, 8);
        }
    } else {
        memset(page, 0, PAGE_BYTES);
    }
}

static void map_memory(struct fake_guest *fake, size_t bytes)
{
    int fd = fake->config.is_written ? memfd_create("fake", MFD_CLOEXEC) : -1;
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;

    assert(!fake->config.is_written || (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0));
    fake->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    assert(fake->memory != MAP_FAILED);
    if (fd < 0)
        return;
    fake->read_only = mmap(NULL, bytes, PROT_READ, flags, fd, 0);
    assert(fake->read_only != MAP_FAILED);
    (void)close(fd); /* both hold it */
}

struct fake_guest *fake_guest_new(const struct fake_guest_config *config)
{
    struct fake_guest *fake = calloc(1, sizeof *fake);
    assert(fake && config->writers <= WRITERS_MAX);
    fake->config = *config;
    if (fake->config.writer_pages == 0)
        fake->config.writer_pages = config->pages;
    map_memory(fake, config->pages * PAGE_BYTES);
    int r = bitmap_init(&fake->populated, config->pages);
    assert(r == 0);
    r = bitmap_init(&fake->dirty, config->pages);
    assert(r == 0);
    r = bitmap_init(&fake->placed, config->pages);
    assert(r == 0);
    pthread_mutex_init(&fake->mutex, NULL);
    pthread_cond_init(&fake->changed, NULL);

    uint64_t random = 88172645463325252u;
    uint64_t filled = config->fill == FAKE_FILL_NONE ? 0
                      : config->half                 ? config->pages / 2
                                                     : config->pages;
    for (uint64_t page = 0; page < filled; page++) {
        fill_page(fake->memory + page * PAGE_BYTES, config->fill, &random, page);
        bitmap_set(&fake->populated, page);
    }
    for (unsigned i = 0; i < STATE_BYTES; i++)
        fake->state[i] = config->running ? (uint8_t)(i * 7) : 0xA5;

    fake->region = (struct region){.ops = config->is_written ? &written_ops : &region_ops,
                                   .owner = fake,
                                   .name = "ram",
                                   .id = 7,
                                   .pages = config->pages,
                                   .shared_id = config->shared_id,
                                   .base = config->is_written ? fake->read_only : fake->memory};
    fake->guest = (struct guest){.ops = &guest_ops,
                                 .owner = fake,
                                 .vm_id = "vm-1",
                                 .name = "web1",
                                 .machine = "godwit-1",
                                 .baseline = "x86-64-v2",
                                 .vcpus = 1,
                                 .regions = &fake->region,
                                 .region_count = 1,
                                 .was_running = config->running};
    fake->running = config->running;
    fake->want_still = !config->running;
    for (unsigned i = 0; i < config->writers; i++) {
        struct fake_writer *writer = malloc(sizeof *writer);
        assert(writer);
        *writer = (struct fake_writer){.fake = fake, .random = 0x9E3779B97F4A7C15u * (i + 1)};
        r = pthread_create(&fake->threads[i], NULL, write_run, writer);
        assert(r == 0);
    }
    return fake;
}

struct fake_guest *fake_guest_free(struct fake_guest *fake)
{
    if (!fake)
        return NULL;
    pthread_mutex_lock(&fake->mutex);
    fake->stopping = true;
    fake->running = false;
    __atomic_store_n(&fake->want_still, true, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->mutex);
    for (unsigned i = 0; i < fake->config.writers; i++)
        pthread_join(fake->threads[i], NULL);
    pthread_cond_destroy(&fake->changed);
    pthread_mutex_destroy(&fake->mutex);
    bitmap_deinit(&fake->populated);
    bitmap_deinit(&fake->placed);
    bitmap_deinit(&fake->dirty);
    (void)munmap(fake->memory, fake->config.pages * PAGE_BYTES);
    if (fake->read_only)
        (void)munmap(fake->read_only, fake->config.pages * PAGE_BYTES);
    free(fake);
    return NULL;
}

struct guest *fake_guest_guest(struct fake_guest *fake)
{
    return &fake->guest;
}

bool fake_guest_runs(struct fake_guest *fake)
{
    pthread_mutex_lock(&fake->mutex);
    bool running = fake->running;
    pthread_mutex_unlock(&fake->mutex);
    return running;
}

bool fake_guest_is_tracked(struct fake_guest *fake)
{
    return __atomic_load_n(&fake->tracking, __ATOMIC_SEQ_CST);
}

uint64_t fake_guest_writes(struct fake_guest *fake)
{
    return __atomic_load_n(&fake->writes, __ATOMIC_ACQUIRE);
}

void fake_guest_await_writes(struct fake_guest *fake, uint64_t more)
{
    uint64_t until = fake_guest_writes(fake) + more;
    while (fake_guest_writes(fake) < until)
        sched_yield();
}

uint64_t fake_guest_compare(struct fake_guest *one, struct fake_guest *other)
{
    assert(one->config.pages == other->config.pages);
    for (uint64_t page = 0; page < one->config.pages; page++) {
        if (!bitmap_test(&one->populated, page) && !bitmap_test(&other->populated, page))
            continue; /* zero, and touching it would make it there */
        if (memcmp(one->memory + page * PAGE_BYTES, other->memory + page * PAGE_BYTES, PAGE_BYTES))
            return page;
    }
    return UINT64_MAX;
}

uint64_t fake_guest_untold(struct fake_guest *fake)
{
    static const uint8_t zeros[PAGE_BYTES];
    for (uint64_t page = 0; page < fake->config.pages; page++) {
        if (bitmap_test(&fake->populated, page) && !bitmap_test(&fake->placed, page) &&
            memcmp(fake->memory + page * PAGE_BYTES, zeros, PAGE_BYTES))
            return page;
    }
    return UINT64_MAX;
}

void fake_guest_stop(struct fake_guest *fake)
{
    fake_pause(fake);
}

unsigned fake_guest_throttle(struct fake_guest *fake)
{
    return __atomic_load_n(&fake->throttle, __ATOMIC_ACQUIRE);
}
