#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "migrate/page_codec.h"
#include "migrate/page_digest.h"
#include "migrate/page_fetch.h"
#include "migrate/page_faults.h"
#include "migrate/progress.h"
#include "migrate/region.h"
#include "net/stream.h"
#include "proto/page_frame.h"
#include "tests/support/pipe_stream.h"

enum { PAGES = 64, WANTED = 7 };

/* A guest's memory that is mapped twice: `behind` sees it without a fault. */
struct scene {
    uint8_t *memory, *behind;
    struct region region;
    struct page_digest digest;
    struct page_frame_plan plan;
    struct progress progress;
    struct page_fetch *fetch;
    uint64_t sum;

    pthread_mutex_t mutex; /* guards what was reported */
    pthread_cond_t changed;
    unsigned lanes_ended;
    bool failed, all;
};

static int discard(struct region *region, uint64_t first_page, uint64_t pages, struct fault *fault)
{
    (void)fault;
    uint8_t *at = region->base + first_page * PAGE_BYTES;
    return madvise(at, pages * PAGE_BYTES, MADV_REMOVE) < 0 ? ERR_IO : 0;
}

static void on_report(void *data, const struct page_fetch_report *report)
{
    struct scene *scene = data;
    pthread_mutex_lock(&scene->mutex);
    scene->lanes_ended += report->type == PAGE_FETCH_LANE_ENDED;
    scene->failed |= report->type == PAGE_FETCH_FAILED;
    scene->all |= report->type == PAGE_FETCH_ALL;
    pthread_cond_broadcast(&scene->changed);
    pthread_mutex_unlock(&scene->mutex);
}

static uint8_t *map(int fd)
{
    void *at = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(at != MAP_FAILED);
    return at;
}

/* Of all its pages one is missing. */
static void scene_init(struct scene *scene)
{
    struct page_faults faults = {.fd = -1};
    if (page_faults_open(&faults, NULL) < 0)
        skip();
    page_faults_close(&faults);
    memset(scene, 0, sizeof *scene);
    pthread_mutex_init(&scene->mutex, NULL);
    pthread_cond_init(&scene->changed, NULL);
    int fd = memfd_create("page_fetch", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, PAGES * PAGE_BYTES), 0);
    scene->memory = map(fd);
    scene->behind = map(fd);
    close(fd);
    static const struct region_ops ops = {.discard = discard};
    scene->region = (struct region){
        .ops = &ops, .name = "ram", .id = 1, .pages = PAGES, .base = scene->memory};
    scene->plan.region_count = 1;
    scene->plan.regions[0].id = 1;
    scene->plan.regions[0].pages = PAGES;
    assert_int_equal(page_digest_init(&scene->digest, &scene->region, NULL), 0);
    const struct page_fetch_config config = {.regions = &scene->region,
                                             .digests = &scene->digest,
                                             .region_count = 1,
                                             .plan = &scene->plan,
                                             .progress = &scene->progress,
                                             .report = on_report,
                                             .data = scene};
    assert_int_equal(page_fetch_new(&scene->fetch, &config, NULL), 0);
    uint8_t bits[8] = {1 << WANTED};
    assert_int_equal(page_fetch_miss(scene->fetch, 0, 0, bits, 8, &scene->sum, NULL), 0);
}

static void await_lanes(struct scene *scene, unsigned count)
{
    pthread_mutex_lock(&scene->mutex);
    while (scene->lanes_ended < count)
        pthread_cond_wait(&scene->changed, &scene->mutex);
    pthread_mutex_unlock(&scene->mutex);
}

static void scene_deinit(struct scene *scene)
{
    scene->fetch = page_fetch_free(scene->fetch);
    page_digest_deinit(&scene->digest);
    munmap(scene->memory, PAGES * PAGE_BYTES);
    munmap(scene->behind, PAGES * PAGE_BYTES);
    pthread_cond_destroy(&scene->changed);
    pthread_mutex_destroy(&scene->mutex);
}

static void send_page(struct stream *stream)
{
    static uint8_t body[PAGE_BYTES] = {1, 2, 3};
    const struct page_frame frame = {.type = PAGE_FRAME_PAGES,
                                     .codec = PAGE_FRAME_RAW,
                                     .count = 1,
                                     .data_count = 1,
                                     .region = 1,
                                     .round = 1,
                                     .body_bytes = PAGE_BYTES};
    const struct page_frame_entry entry = {.page = WANTED, .has_data = true};
    uint8_t head[PAGE_FRAME_HEAD_MAX];
    unsigned count = page_frame_put(&frame, &entry, head);
    assert_int_equal(stream_write(stream, head, count, NULL), 0);
    assert_int_equal(stream_write(stream, body, sizeof body, NULL), 0);
    assert_int_equal(stream_flush(stream, NULL), 0);
}

/* Gives the frame of `page` alone, packed, behind its head; borrowed until the codec goes. */
static size_t pack_page(struct page_codec *codec, enum page_tuner_policy policy, unsigned page, const uint8_t **ret_bytes)
{
    assert_int_equal(page_codec_init(codec, policy, true, NULL), 0);
    page_codec_begin(codec, 1, 0, 0);
    memset(page_codec_slot(codec), 5, PAGE_BYTES);
    page_codec_add_data(codec, page);
    size_t count = page_codec_encode(codec, NULL, ret_bytes);
    assert_int_not_equal(codec->frame.codec, PAGE_FRAME_RAW);
    return count;
}

/* `count` of its bytes; 0: all. */
static void send_packed_page(struct stream *stream, enum page_tuner_policy policy, unsigned page, size_t count)
{
    struct page_codec codec;
    const uint8_t *bytes = NULL;
    size_t all = pack_page(&codec, policy, page, &bytes);
    assert_int_equal(stream_write(stream, bytes, count ? count : all, NULL), 0);
    assert_int_equal(stream_flush(stream, NULL), 0);
    page_codec_deinit(&codec);
}

static const enum page_tuner_policy packers[] = {PAGE_TUNER_ALWAYS, PAGE_TUNER_ALWAYS_ZSTD};

static void what_comes_packed_is_laid_as_it_was(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct scene scene;
        scene_init(&scene);
        struct stream *ends[4];
        pipe_stream_new(&ends[0], &ends[1], NULL);
        pipe_stream_new(&ends[2], &ends[3], NULL);
        assert_int_equal(page_fetch_run(scene.fetch, ends[1], ends[3], NULL), 0);

        send_packed_page(ends[i / 2 * 2], packers[i % 2], WANTED, 0); /* on either lane */

        const uint8_t *page = scene.memory + WANTED * PAGE_BYTES; /* waits for it */
        assert_true(page[0] == 5 && page[PAGE_BYTES - 1] == 5);
        stream_free(ends[0]);
        stream_free(ends[2]);
        await_lanes(&scene, 2);
        assert_true(scene.all);
        assert_false(scene.failed);
        scene_deinit(&scene);
    }
}

/* The lane broke in the middle of it, wherever; new ones bring it whole. */
static void half_a_packed_page_is_not_laid_and_comes_again(void **state)
{
    (void)state;
    static const size_t cuts[] = {PAGE_FRAME_HEADER_BYTES - 1, PAGE_FRAME_HEADER_BYTES + 2,
                                  PAGE_FRAME_HEADER_BYTES + PAGE_ENTRY_BYTES + 3,
                                  PAGE_FRAME_HEADER_BYTES + PAGE_ENTRY_BYTES + 9};
    for (unsigned i = 0; i < 8; i++) {
        struct scene scene;
        scene_init(&scene);
        struct stream *ends[4];
        pipe_stream_new(&ends[0], &ends[1], NULL);
        pipe_stream_new(&ends[2], &ends[3], NULL);
        assert_int_equal(page_fetch_run(scene.fetch, ends[1], ends[3], NULL), 0);

        send_packed_page(ends[2], packers[i % 2], WANTED, cuts[i / 2]);
        stream_free(ends[0]);
        stream_free(ends[2]);
        await_lanes(&scene, 2);
        assert_int_equal(page_fetch_left(scene.fetch), 1);
        page_fetch_hang_up(scene.fetch);
        pipe_stream_new(&ends[0], &ends[1], NULL);
        pipe_stream_new(&ends[2], &ends[3], NULL);
        assert_int_equal(page_fetch_run(scene.fetch, ends[1], ends[3], NULL), 0);
        send_packed_page(ends[2], packers[i % 2], WANTED, 0);

        assert_int_equal(scene.memory[WANTED * PAGE_BYTES], 5);
        stream_free(ends[0]);
        stream_free(ends[2]);
        await_lanes(&scene, 4);
        assert_true(scene.all);
        assert_false(scene.failed);
        scene_deinit(&scene);
    }
}

enum lie { LIE_CONTENT, LIE_SIZE_NONE, LIE_SIZE_LESS, LIE_SIZE_MORE, LIE_SIZE_HUGE, LIE_BODY, LIE_COUNT, LIE_PAGE, LIES };

/* By one who knows how to make a frame's head. */
static void send_lie(struct stream *stream, enum page_tuner_policy policy, enum lie lie)
{
    struct page_codec codec;
    const uint8_t *packed = NULL;
    size_t count = pack_page(&codec, policy, WANTED, &packed);
    uint8_t bytes[PAGE_FRAME_HEAD_MAX + PAGE_BYTES];
    assert_true(count <= sizeof bytes - 8);
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes, packed, count);
    struct page_frame frame = codec.frame;
    struct page_frame_entry entries[2] = {codec.entries[0], {.page = WANTED + 1, .has_data = true}};
    page_codec_deinit(&codec);
    uint8_t *size = bytes + PAGE_FRAME_HEADER_BYTES + PAGE_ENTRY_BYTES;
    switch (lie) {
    case LIE_CONTENT:
        memset(size + 4, 0, count - (size_t)(size + 4 - bytes));
        break;
    case LIE_SIZE_NONE:
        bytes_put_u32(size, 0);
        break;
    case LIE_SIZE_LESS:
        bytes_put_u32(size, bytes_get_u32(size) - 1);
        break;
    case LIE_SIZE_MORE:
        bytes_put_u32(size, bytes_get_u32(size) + 1);
        break;
    case LIE_SIZE_HUGE:
        bytes_put_u32(size, UINT32_MAX);
        break;
    case LIE_BODY:
        frame.body_bytes = 4 + PAGE_BYTES + 1; /* more than its pages are */
        break;
    case LIE_COUNT:
        frame.count = frame.data_count = 2; /* of which one came */
        break;
    case LIE_PAGE:
        entries[0].page = PAGES;
        break;
    case LIES:
        break;
    }
    if (lie == LIE_COUNT)
        memmove(size + PAGE_ENTRY_BYTES, size, count - (size_t)(size - bytes));
    unsigned head = page_frame_put(&frame, entries, bytes);
    assert_int_equal(stream_write(stream, bytes, head + (count - (size_t)(size - bytes)), NULL), 0);
    assert_int_equal(stream_flush(stream, NULL), 0);
}

/* Its lane ends, the page is laid by none, and may come by the other. */
static void what_lies_about_itself_is_not_laid(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2 * LIES; i++) {
        struct scene scene;
        scene_init(&scene);
        struct stream *ends[4];
        pipe_stream_new(&ends[0], &ends[1], NULL);
        pipe_stream_new(&ends[2], &ends[3], NULL);
        assert_int_equal(page_fetch_run(scene.fetch, ends[1], ends[3], NULL), 0);

        send_lie(ends[2], packers[i % 2], (enum lie)(i / 2));
        await_lanes(&scene, 1); /* by its own judgement: nobody hung up */

        assert_false(scene.failed);
        assert_int_equal(page_fetch_left(scene.fetch), 1);
        send_page(ends[0]);
        assert_int_equal(scene.memory[WANTED * PAGE_BYTES], 1);
        scene_deinit(&scene);
        stream_free(ends[0]);
        stream_free(ends[2]);
    }
}

/* It cannot be told what its reader saw: zeros, likely. */
static void a_page_that_is_there_before_it_was_laid_is_a_failure(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    struct stream *ends[4];
    pipe_stream_new(&ends[0], &ends[1], NULL);
    pipe_stream_new(&ends[2], &ends[3], NULL);
    scene.behind[WANTED * PAGE_BYTES] = 0; /* as a huge page that was not split */
    assert_int_equal(page_fetch_run(scene.fetch, ends[1], ends[3], NULL), 0);

    send_page(ends[2]);
    await_lanes(&scene, 1);

    assert_true(scene.failed);
    assert_false(scene.all);
    scene_deinit(&scene);
    stream_free(ends[0]);
    stream_free(ends[2]);
}

/* A page that came twice: the guest has given it back meanwhile, and reads zeros. */
static void come_twice(bool packed)
{
    struct scene scene;
    scene_init(&scene);
    struct stream *ends[4];
    pipe_stream_new(&ends[0], &ends[1], NULL);
    pipe_stream_new(&ends[2], &ends[3], NULL);
    assert_int_equal(page_fetch_run(scene.fetch, ends[1], ends[3], NULL), 0);
    send_page(ends[2]);
    assert_int_equal(scene.memory[WANTED * PAGE_BYTES], 1); /* waits for it */
    assert_int_equal(madvise(scene.behind + WANTED * PAGE_BYTES, PAGE_BYTES, MADV_REMOVE), 0);

    if (packed)
        send_packed_page(ends[0], PAGE_TUNER_ALWAYS, WANTED, 0);
    else
        send_page(ends[0]);
    stream_free(ends[0]);
    stream_free(ends[2]);
    await_lanes(&scene, 2);

    assert_int_equal(scene.memory[WANTED * PAGE_BYTES], 0);
    assert_true(scene.all);
    assert_false(scene.failed);
    struct page_fetch_facts facts;
    page_fetch_hang_up(scene.fetch);
    page_fetch_facts(scene.fetch, &facts);
    assert_int_equal(facts.pages, 1);
    scene_deinit(&scene);
}

static void what_comes_a_second_time_is_not_laid_into_a_hole(void **state)
{
    (void)state;
    come_twice(false);
    come_twice(true);
}

/* ---- an ask that nobody takes --------------------------------------------------------------- */

struct deaf {
    struct stream stream; /* first member */
    struct stream *inner; /* owned */
};

static int deaf_write(struct stream *stream, const void *bytes, size_t count, struct fault *fault)
{
    (void)stream;
    (void)bytes;
    (void)count;
    return fault_set(fault, ERR_TIMEOUT, "the peer takes nothing");
}

static int deaf_flush(struct stream *stream, struct fault *fault)
{
    return stream_flush(((struct deaf *)stream)->inner, fault);
}

static int deaf_read(struct stream *stream, void *ret_bytes, size_t count, struct fault *fault)
{
    return stream_read(((struct deaf *)stream)->inner, ret_bytes, count, fault);
}

static void deaf_interrupt(struct stream *stream)
{
    stream_interrupt(((struct deaf *)stream)->inner);
}

static void deaf_set_hot(struct stream *stream, bool hot)
{
    (void)stream;
    (void)hot;
}

static void deaf_free(struct stream *stream)
{
    (void)stream_free(((struct deaf *)stream)->inner);
}

static void *touch_run(void *data)
{
    struct scene *scene = data;
    (void)*(volatile uint8_t *)(scene->memory + WANTED * PAGE_BYTES);
    return NULL;
}

static void an_ask_that_is_not_taken_ends_its_lane(void **state)
{
    (void)state;
    static const struct stream_ops ops = {.write = deaf_write,
                                          .flush = deaf_flush,
                                          .read = deaf_read,
                                          .interrupt = deaf_interrupt,
                                          .set_hot = deaf_set_hot,
                                          .free = deaf_free};
    struct scene scene;
    scene_init(&scene);
    struct stream *ends[4];
    pipe_stream_new(&ends[0], &ends[1], NULL);
    pipe_stream_new(&ends[2], &ends[3], NULL);
    struct deaf deaf = {.stream.ops = &ops, .inner = ends[1]};
    assert_int_equal(page_fetch_run(scene.fetch, &deaf.stream, ends[3], NULL), 0);
    pthread_t toucher;
    assert_int_equal(pthread_create(&toucher, NULL, touch_run, &scene), 0);

    await_lanes(&scene, 1); /* or for ever */

    assert_false(scene.failed);
    page_fetch_hang_up(scene.fetch);
    page_fetch_release(scene.fetch); /* lets the toucher go */
    pthread_join(toucher, NULL);
    scene_deinit(&scene);
    stream_free(ends[0]);
    stream_free(ends[2]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_that_is_there_before_it_was_laid_is_a_failure),
        cmocka_unit_test(what_comes_packed_is_laid_as_it_was),
        cmocka_unit_test(half_a_packed_page_is_not_laid_and_comes_again),
        cmocka_unit_test(what_lies_about_itself_is_not_laid),
        cmocka_unit_test(what_comes_a_second_time_is_not_laid_into_a_hole),
        cmocka_unit_test(an_ask_that_is_not_taken_ends_its_lane),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
