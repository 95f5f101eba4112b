#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include <cmocka.h>

#include "base/bitmap.h"
#include "migrate/pacer.h"
#include "migrate/page_codec.h"
#include "migrate/page_digest.h"
#include "migrate/page_server.h"
#include "migrate/progress.h"
#include "migrate/region.h"
#include "net/stream.h"
#include "proto/page_frame.h"
#include "tests/support/pipe_stream.h"

enum { PAGES = 1200, ASKED = 700 };

/* All of a guest's memory, left behind: every fifth page is zero, the others pack well, or not at all. */
struct scene {
    uint8_t *memory;
    struct region region;
    struct page_digest digest;
    struct bitmap unsent;
    struct progress progress;
    struct pacer *pacer;
    struct page_server *server;
    struct stream *asks, *pushes; /* the target's ends */
    ZSTD_DCtx *zstd;

    struct page_frame frame; /* the last that was read, and its pages */
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    uint8_t body[PAGE_FRAME_BODY_MAX], pages[PAGE_FRAME_PAGES_MAX * PAGE_BYTES];
};

static void on_report(void *data, const struct page_server_report *report)
{
    (void)data;
    (void)report;
}

static void fill(uint8_t *memory, bool packs)
{
    uint32_t x = 1;
    for (size_t page = 0; page < PAGES; page++) {
        for (size_t i = 0; page % 5 != 4 && i < PAGE_BYTES; i++) {
            x = x * 1664525u + 1013904223u;
            memory[page * PAGE_BYTES + i] =
                (uint8_t)(packs ? (uint32_t) "page "[i % 5] + (i % 97 == 0 ? x >> 30 : 0) : x >> 24);
        }
    }
}

static void scene_init(struct scene *scene, enum page_tuner_policy compress, bool packs)
{
    memset(scene, 0, sizeof *scene);
    scene->memory = aligned_alloc(PAGE_BYTES, (size_t)PAGES * PAGE_BYTES);
    memset(scene->memory, 0, (size_t)PAGES * PAGE_BYTES);
    fill(scene->memory, packs);
    scene->region =
        (struct region){.name = "ram", .id = 1, .pages = PAGES, .base = scene->memory};
    assert_int_equal(page_digest_init(&scene->digest, &scene->region, NULL), 0);
    assert_int_equal(bitmap_init(&scene->unsent, PAGES), 0);
    for (unsigned page = 0; page < PAGES; page++)
        bitmap_set(&scene->unsent, page);
    assert_int_equal(pacer_new(&scene->pacer, 0), 0);
    scene->zstd = ZSTD_createDCtx();

    const struct page_server_config config = {.regions = &scene->region,
                                              .digests = &scene->digest,
                                              .unsent = &scene->unsent,
                                              .region_count = 1,
                                              .pacer = scene->pacer,
                                              .progress = &scene->progress,
                                              .compress = compress,
                                              .takes_zstd = true,
                                              .report = on_report};
    struct stream *asks, *pushes;
    pipe_stream_new(&asks, &scene->asks, NULL);
    pipe_stream_new(&pushes, &scene->pushes, NULL);
    assert_int_equal(page_server_new(&scene->server, &config, asks, pushes, NULL), 0);
}

static void scene_deinit(struct scene *scene)
{
    scene->server = page_server_free(scene->server);
    stream_free(scene->asks);
    stream_free(scene->pushes);
    (void)ZSTD_freeDCtx(scene->zstd);
    scene->pacer = pacer_free(scene->pacer);
    bitmap_deinit(&scene->unsent);
    page_digest_deinit(&scene->digest);
    free(scene->memory);
}

/* The next frame, judged and undone as a target does it; its pages are the guest's. */
static void read_frame(struct scene *scene, struct stream *stream)
{
    static const struct page_frame_plan plan = {.regions = {{.id = 1, .pages = PAGES}},
                                                .region_count = 1};
    struct page_frame *frame = &scene->frame;
    uint8_t head[PAGE_FRAME_HEAD_MAX];
    assert_int_equal(stream_read(stream, head, PAGE_FRAME_HEADER_BYTES, NULL), 0);
    assert_int_equal(page_frame_get(head, frame, NULL), 0);
    assert_int_equal(frame->type, PAGE_FRAME_PAGES);
    assert_int_equal(stream_read(stream, head + PAGE_FRAME_HEADER_BYTES,
                                 (size_t)frame->count * PAGE_ENTRY_BYTES, NULL), 0);
    assert_int_equal(page_frame_get_entries(&plan, head, frame, scene->entries, NULL), 0);
    bool is_raw = frame->codec == PAGE_FRAME_RAW;
    if (frame->body_bytes)
        assert_int_equal(stream_read(stream, is_raw ? scene->pages : scene->body, frame->body_bytes, NULL), 0);
    if (!is_raw)
        assert_int_equal(page_codec_decode_pages(frame, scene->zstd, scene->body, scene->pages, NULL), 0);
    const uint8_t *at = scene->pages;
    for (unsigned i = 0; i < frame->count; i++) {
        uint64_t page = frame->first_page + scene->entries[i].page;
        assert_int_equal(scene->entries[i].has_data, page % 5 != 4);
        if (!scene->entries[i].has_data)
            continue;
        assert_memory_equal(at, scene->memory + page * PAGE_BYTES, PAGE_BYTES);
        at += PAGE_BYTES;
    }
}

static uint64_t digest_of_all(const struct scene *scene)
{
    struct page_digest digest;
    uint64_t sum = 0;
    assert_int_equal(page_digest_init(&digest, &scene->region, NULL), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        page_digest_set(&digest, page,
                        page % 5 == 4 ? 0 : page_digest_hash(scene->memory + page * PAGE_BYTES), &sum);
    page_digest_deinit(&digest);
    return sum;
}

static uint64_t pushed_bytes(enum page_tuner_policy compress, bool packs, enum page_frame_codec expect)
{
    struct scene scene;
    scene_init(&scene, compress, packs);
    assert_int_equal(page_server_go(scene.server, NULL), 0);
    for (uint64_t pages = 0; pages < PAGES; pages += scene.frame.count) {
        read_frame(&scene, scene.pushes);
        assert_int_equal(scene.frame.codec, expect);
    }
    uint64_t bytes = scene.pushes->wire_bytes_in;
    assert_int_equal(page_server_digest(scene.server), digest_of_all(&scene));
    assert_int_equal(bitmap_count(&scene.unsent), 0);
    scene_deinit(&scene);
    assert_int_equal(progress_pages(&scene.progress), PAGES); /* what it told is whole */
    assert_int_equal(progress_wire_bytes(&scene.progress), bytes);
    return bytes;
}

static void what_is_pushed_goes_packed_where_that_is_ordered(void **state)
{
    (void)state;
    uint64_t raw = pushed_bytes(PAGE_TUNER_OFF, true, PAGE_FRAME_RAW);
    assert_true(raw > (uint64_t)PAGES / 5 * 4 * PAGE_BYTES);
    assert_true(2 * pushed_bytes(PAGE_TUNER_ALWAYS, true, PAGE_FRAME_LZ4) < raw);
    assert_true(2 * pushed_bytes(PAGE_TUNER_ALWAYS_ZSTD, true, PAGE_FRAME_ZSTD) < raw);
}

static void what_does_not_pack_goes_as_it_is(void **state)
{
    (void)state;
    uint64_t raw = pushed_bytes(PAGE_TUNER_OFF, false, PAGE_FRAME_RAW);
    assert_int_equal(pushed_bytes(PAGE_TUNER_ALWAYS, false, PAGE_FRAME_RAW), raw);
    assert_int_equal(pushed_bytes(PAGE_TUNER_ALWAYS_ZSTD, false, PAGE_FRAME_RAW), raw);
}

static void ask(struct scene *scene, uint64_t page)
{
    const struct page_frame frame = {.type = PAGE_FRAME_ASK, .region = 1, .first_page = page};
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    unsigned count = page_frame_put(&frame, NULL, bytes);
    assert_int_equal(stream_write(scene->asks, bytes, count, NULL), 0);
    assert_int_equal(stream_flush(scene->asks, NULL), 0);
}

/* Its reader would wait for packing and unpacking, too. */
static void what_is_asked_for_goes_as_it_is_and_alone_first(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, PAGE_TUNER_ALWAYS, true);
    ask(&scene, ASKED);
    read_frame(&scene, scene.asks);
    assert_int_equal(scene.frame.codec, PAGE_FRAME_RAW);
    assert_int_equal(scene.frame.count, 1);
    assert_int_equal(scene.frame.first_page + scene.entries[0].page, ASKED);
    read_frame(&scene, scene.asks);
    assert_int_equal(scene.frame.codec, PAGE_FRAME_RAW);
    assert_int_equal(scene.frame.count, 15); /* what lies around it */

    ask(&scene, ASKED); /* again: it goes in any case, and counts once */
    read_frame(&scene, scene.asks);
    assert_int_equal(scene.frame.count, 1);
    assert_int_equal(bitmap_count(&scene.unsent), PAGES - 16);
    scene_deinit(&scene);
}

/* The pushes lane has packed it, and hangs: nobody reads there. */
static void what_is_asked_for_waits_for_no_push(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, PAGE_TUNER_ALWAYS, true);
    assert_int_equal(page_server_go(scene.server, NULL), 0);
    read_frame(&scene, scene.pushes);
    uint64_t taken = scene.frame.first_page + scene.entries[scene.frame.count - 1].page;

    ask(&scene, taken - 1); /* the last one is zero */
    read_frame(&scene, scene.asks);

    assert_int_equal(scene.frame.codec, PAGE_FRAME_RAW);
    assert_int_equal(scene.frame.count, 1);
    assert_int_equal(scene.frame.first_page + scene.entries[0].page, taken - 1);
    scene_deinit(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_pushed_goes_packed_where_that_is_ordered),
        cmocka_unit_test(what_does_not_pack_goes_as_it_is),
        cmocka_unit_test(what_is_asked_for_goes_as_it_is_and_alone_first),
        cmocka_unit_test(what_is_asked_for_waits_for_no_push),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
