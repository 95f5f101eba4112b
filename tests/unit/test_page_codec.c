#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include <cmocka.h>

#include "base/err.h"
#include "migrate/page_codec.h"
#include "migrate/page_copy.h"
#include "migrate/page_tuner.h"

static void fill(uint8_t *page, unsigned kind, unsigned seed)
{
    uint32_t x = seed * 2654435761u + 1;
    for (unsigned i = 0; i < PAGE_BYTES; i++) {
        x = x * 1664525u + 1013904223u;
        page[i] = kind == 0 ? (uint8_t)(x >> 24)
                            : (uint8_t)("page "[i % 5] + (i % 97 == 0 ? x >> 30 : 0));
    }
}

static const struct page_frame_plan plan = {.regions = {{.id = 1, .pages = 512}},
                                            .region_count = 1};

/* Of a frame of 50 entries, each tenth of them zero, at once. Nothing comes of sizes that do not fit. */
static void expect_all_pages(struct page_frame *frame, ZSTD_DCtx *zstd, const uint8_t *body, unsigned kind)
{
    uint8_t want[PAGE_BYTES], *pages = malloc(PAGE_FRAME_PAGES_MAX * PAGE_BYTES);
    assert_int_equal(page_codec_decode_pages(frame, zstd, body, pages, NULL), 0);
    for (unsigned i = 0, data = 0; i < 50; i++) {
        if (i % 10 == 9)
            continue;
        fill(want, kind, i);
        assert_memory_equal(pages + (size_t)data++ * PAGE_BYTES, want, PAGE_BYTES);
    }
    uint8_t *spoilt = malloc(frame->body_bytes);
    memcpy(spoilt, body, frame->body_bytes);
    spoilt[0] ^= 1;
    assert_int_equal(page_codec_decode_pages(frame, zstd, spoilt, pages, NULL), ERR_CORRUPT);
    free(spoilt);
    free(pages);
}

static void round_trip(enum page_tuner_policy policy, bool takes_zstd, unsigned kind,
                       enum page_frame_codec expect)
{
    struct page_codec codec;
    uint8_t want[PAGE_BYTES], got[PAGE_FRAME_GROUP_PAGES * PAGE_BYTES];
    assert_int_equal(page_codec_init(&codec, policy, takes_zstd, NULL), 0);
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    page_codec_begin(&codec, 1, 0, 1);
    for (unsigned i = 0; i < 50; i++) { /* a last group that is not full */
        if (i % 10 == 9) {
            page_codec_add_zero(&codec, i * 3);
            continue;
        }
        fill(page_codec_slot(&codec), kind, i);
        page_codec_add_data(&codec, i * 3);
    }

    const uint8_t *bytes = NULL;
    size_t count = page_codec_encode(&codec, NULL, &bytes);

    struct page_frame frame;
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    assert_int_equal(page_frame_get(bytes, &frame, NULL), 0);
    assert_int_equal(page_frame_get_entries(&plan, bytes, &frame, entries, NULL), 0);
    assert_int_equal(frame.codec, expect);
    assert_int_equal(frame.data_count, 45);
    assert_int_equal(count, PAGE_FRAME_HEADER_BYTES + 50 * 4 + frame.body_bytes);
    const uint8_t *body = bytes + PAGE_FRAME_HEADER_BYTES + 50 * 4;
    uint32_t sizes[PAGE_FRAME_GROUPS_MAX] = {0};
    if (expect != PAGE_FRAME_RAW) {
        assert_int_equal(page_frame_get_sizes(&frame, body, sizes, NULL), 0);
        body += page_frame_groups(45) * 4;
    }
    for (unsigned i = 0, data = 0; i < 50; i++) {
        if (i % 10 == 9)
            continue;
        unsigned group = data / 16, in_group = data % 16;
        if (in_group == 0) {
            uint32_t raw = page_frame_group_pages(45, group) * PAGE_BYTES;
            uint32_t packed = expect != PAGE_FRAME_RAW ? sizes[group] : raw;
            assert_int_equal(
                page_codec_decode_group(frame.codec, zstd, body, packed, got, raw, NULL), 0);
            body += packed;
        }
        fill(want, kind, i);
        assert_memory_equal(got + in_group * PAGE_BYTES, want, PAGE_BYTES);
        data++;
    }
    if (expect != PAGE_FRAME_RAW)
        expect_all_pages(&frame, zstd, bytes + PAGE_FRAME_HEADER_BYTES + 50 * 4, kind);
    (void)ZSTD_freeDCtx(zstd);
    page_codec_deinit(&codec);
}

static void pages_come_back_by_every_codec(void **state)
{
    (void)state;
    round_trip(PAGE_TUNER_OFF, true, 1, PAGE_FRAME_RAW);
    round_trip(PAGE_TUNER_ALWAYS, true, 1, PAGE_FRAME_LZ4);
    round_trip(PAGE_TUNER_ALWAYS, true, 0, PAGE_FRAME_RAW); /* nothing gained: sent as it is */
    round_trip(PAGE_TUNER_ALWAYS_ZSTD, true, 1, PAGE_FRAME_ZSTD);
    round_trip(PAGE_TUNER_ALWAYS_ZSTD, true, 0, PAGE_FRAME_RAW);
    round_trip(PAGE_TUNER_ALWAYS_ZSTD, false, 1, PAGE_FRAME_LZ4); /* an older target */
}

/* Pages, zeros and patches in one frame, whatever the codec of the pages. */
static void patches_stand_behind_the_pages(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < 2; kind++) {
        struct page_codec codec;
        uint8_t page[PAGE_BYTES], want[PAGE_BYTES];
        assert_int_equal(page_codec_init(&codec, PAGE_TUNER_ALWAYS, false, NULL), 0);
        page_codec_begin(&codec, 1, 0, 1);
        for (unsigned i = 0; i < 60; i++) {
            fill(page_codec_slot(&codec), kind, i);
            if (i % 3 == 0)
                page_codec_add_data(&codec, i);
            else if (i % 3 == 1)
                page_codec_add_zero(&codec, i);
            else
                page_codec_add_patch(&codec, i, UINT64_C(1) << i % 64 | UINT64_C(1) << 40);
        }
        const uint8_t *bytes = NULL;
        size_t count = page_codec_encode(&codec, NULL, &bytes);

        struct page_frame frame;
        struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
        uint32_t sizes[PAGE_FRAME_GROUPS_MAX];
        assert_int_equal(page_frame_get(bytes, &frame, NULL), 0);
        assert_int_equal(page_frame_get_entries(&plan, bytes, &frame, entries, NULL), 0);
        assert_int_equal(frame.codec, kind == 0 ? PAGE_FRAME_RAW : PAGE_FRAME_LZ4);
        if (kind == 1)
            assert_int_equal(page_frame_get_sizes(&frame, bytes + 32 + 60 * 4, sizes, NULL), 0);
        assert_int_equal(frame.patch_count, 20);
        assert_int_equal(codec.patch_pages, 20);
        const uint8_t *patch = bytes + count - frame.patch_bytes;
        assert_int_equal(page_frame_get_patches(&frame, patch, NULL), 0);
        for (unsigned i = 2; i < 60; i += 3) {
            memset(page, 0, sizeof page);
            patch += page_frame_lay_patch(patch, page);
            fill(want, kind, i);
            assert_memory_equal(page + i * PAGE_LINE_BYTES, want + i * PAGE_LINE_BYTES,
                                PAGE_LINE_BYTES);
            assert_memory_equal(page + 40 * PAGE_LINE_BYTES, want + 40 * PAGE_LINE_BYTES,
                                PAGE_LINE_BYTES);
        }
        assert_ptr_equal(patch, bytes + count);
        page_codec_deinit(&codec);
    }
}

static void a_group_that_gives_another_length_is_refused(void **state)
{
    (void)state;
    uint8_t packed[4 * PAGE_BYTES], raw[4 * PAGE_BYTES] = {0};
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    memset(packed, 0xff, sizeof packed);
    for (unsigned count = 1; count < 64; count++) {
        assert_int_equal(
            page_codec_decode_group(PAGE_FRAME_LZ4, NULL, packed, count, raw, sizeof raw, NULL),
            ERR_CORRUPT);
        assert_int_equal(
            page_codec_decode_group(PAGE_FRAME_ZSTD, zstd, packed, count, raw, sizeof raw, NULL),
            ERR_CORRUPT);
    }
    /* A sound one of another length, shorter and longer, and one that lost its end. */
    for (unsigned pages = 1; pages <= 8; pages++) {
        uint8_t text[8 * PAGE_BYTES];
        for (unsigned i = 0; i < pages; i++)
            fill(text + i * PAGE_BYTES, 1, i);
        size_t count = ZSTD_compress(packed, sizeof packed, text, pages * PAGE_BYTES, 1);
        assert_false(ZSTD_isError(count));
        int r = page_codec_decode_group(PAGE_FRAME_ZSTD, zstd, packed, (uint32_t)count, raw,
                                        sizeof raw, NULL);
        assert_int_equal(r, pages == 4 ? 0 : ERR_CORRUPT);
        r = page_codec_decode_group(PAGE_FRAME_ZSTD, zstd, packed, (uint32_t)count - 1, raw,
                                    sizeof raw, NULL);
        assert_int_equal(r, ERR_CORRUPT);
    }
    (void)ZSTD_freeDCtx(zstd);
}

static void a_copy_says_whether_a_page_is_zero(void **state)
{
    (void)state;
    uint8_t *from = aligned_alloc(64, PAGE_BYTES), *to = aligned_alloc(64, PAGE_BYTES);
    memset(from, 0, PAGE_BYTES);
    assert_false(page_copy(to, from));
    for (unsigned i = 0; i < PAGE_BYTES; i++) {
        from[i] = 1;
        assert_true(page_copy(to, from));
        assert_memory_equal(to, from, PAGE_BYTES);
        from[i] = 0;
    }
    free(from);
    free(to);
}

/* A wire of so many bytes per ns, a CPU that compresses at so many, to so many percent. */
static enum page_mix_arm settle(double wire, const double *cpu, const double *ratio, bool takes_zstd)
{
    struct page_tuner tuner;
    page_tuner_init(&tuner, PAGE_TUNER_AUTO, takes_zstd);
    double now_ns = 1e9, waited_ns = 0;
    uint64_t sent = 0;
    for (unsigned i = 0; i < 20000; i++) {
        double bytes = 262144, cpu_ns = bytes / cpu[tuner.arm];
        double wire_ns = bytes * ratio[tuner.arm] / wire;
        now_ns += cpu_ns + (wire_ns > cpu_ns ? wire_ns - cpu_ns : 0);
        waited_ns += wire_ns > cpu_ns ? wire_ns - cpu_ns : 0;
        sent += (uint64_t)(bytes * ratio[tuner.arm]);
        const struct page_mix_look look = {
            .now_ns = (uint64_t)now_ns, .waited_ns = (uint64_t)waited_ns, .wire_bytes = sent};
        page_tuner_step(&tuner, (uint64_t)bytes, &look);
    }
    return tuner.best;
}

static void compression_is_chosen_only_where_it_pays(void **state)
{
    (void)state;
    static const double cpu[] = {2.5, 0.8, 0.5, 0.3, 0.3};
    static const double text[] = {1, 0.77, 0.64, 0.54, 0.3}, random[] = {1, 1, 1, 1, 1};
    assert_int_equal(settle(5.0, cpu, text, false), PAGE_MIX_RAW);        /* bound by the CPU */
    assert_int_equal(settle(0.12, cpu, text, false), PAGE_MIX_LZ4_TIGHT); /* 1 Gb/s */
    assert_int_equal(settle(0.5, cpu, text, false), PAGE_MIX_LZ4_FAST);
    assert_int_equal(settle(0.12, cpu, random, false), PAGE_MIX_RAW);
    assert_int_equal(settle(5.0, cpu, text, true), PAGE_MIX_RAW);
    assert_int_equal(settle(0.06, cpu, text, true), PAGE_MIX_ZSTD);
    assert_int_equal(settle(0.5, cpu, text, true), PAGE_MIX_LZ4_FAST);
    assert_int_equal(settle(0.12, cpu, random, true), PAGE_MIX_RAW);
}

/* A socket of `room` bytes that wakes its writer only when a third of it is free: memory's pace, then nothing, then
 * memory's pace. */
static double share_of_best(double wire, const double *cpu, const double *ratio, double room)
{
    struct page_tuner tuner;
    page_tuner_init(&tuner, PAGE_TUNER_AUTO, true);
    double now_ns = 1e9, waited_ns = 0, queued = 0, sent = 0, bytes_all = 0, began_ns = now_ns;
    while (bytes_all < 512e6) {
        double bytes = 262144, cpu_ns = bytes / cpu[tuner.arm], packed = bytes * ratio[tuner.arm];
        now_ns += cpu_ns;
        queued -= cpu_ns * wire < queued ? cpu_ns * wire : queued;
        if (queued + packed > room) {
            double wait_ns = (queued + packed - room * 2 / 3) / wire;
            now_ns += wait_ns;
            waited_ns += wait_ns;
            queued = room * 2 / 3 - packed;
        }
        queued += packed;
        sent += packed;
        bytes_all += bytes;
        const struct page_mix_look look = {.now_ns = (uint64_t)now_ns,
                                             .waited_ns = (uint64_t)waited_ns,
                                             .wire_bytes = (uint64_t)sent,
                                             .queued_bytes = (uint64_t)queued};
        page_tuner_step(&tuner, (uint64_t)bytes, &look);
    }
    double best = 0;
    for (unsigned i = 0; i < PAGE_MIX_ARM_COUNT; i++) {
        double rate = wire / ratio[i] < cpu[i] ? wire / ratio[i] : cpu[i];
        best = rate > best ? rate : best;
    }
    return bytes_all / (now_ns - began_ns) / best;
}

static void a_socket_that_takes_megabytes_at_once_does_not_hide_what_the_wire_carries(void **state)
{
    (void)state;
    static const double cpu[] = {2.5, 0.8, 0.7, 0.7, 0.3};
    static const double text[] = {1, 0.5, 0.41, 0.39, 0.195};
    for (double room = 1e6; room < 9e6; room *= 2) {
        double share = share_of_best(0.119, cpu, text, room);
        print_message("a socket of %.0f MB: %.2f of the best\n", room / 1e6, share);
        assert_true(share > 0.9);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_come_back_by_every_codec),
        cmocka_unit_test(patches_stand_behind_the_pages),
        cmocka_unit_test(a_group_that_gives_another_length_is_refused),
        cmocka_unit_test(a_copy_says_whether_a_page_is_zero),
        cmocka_unit_test(compression_is_chosen_only_where_it_pays),
        cmocka_unit_test(a_socket_that_takes_megabytes_at_once_does_not_hide_what_the_wire_carries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
