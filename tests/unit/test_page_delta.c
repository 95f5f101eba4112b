#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "migrate/page_delta.h"
#include "migrate/region.h"
#include "proto/limits.h"

enum { PAGES = 1024 };

struct scene {
    struct page_delta delta;
    struct region region;
    uint64_t room;
    uint8_t *page;
};

static void scene_init(struct scene *scene, uint64_t room)
{
    *scene = (struct scene){.region = {.name = "ram", .pages = PAGES}, .room = room};
    scene->page = aligned_alloc(64, PAGE_BYTES);
    for (unsigned i = 0; i < PAGE_BYTES; i++)
        scene->page[i] = (uint8_t)(i * 7 + i / 256);
    assert_int_equal(page_delta_init(&scene->delta, &scene->region, &scene->room, NULL), 0);
}

static void scene_deinit(struct scene *scene)
{
    page_delta_deinit(&scene->delta);
    free(scene->page);
}

static void vectors_and_plain_code_take_the_same_lines(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, 1);
    uint64_t one[PAGE_LINES], other[PAGE_LINES];
    for (unsigned turn = 0; turn < 50; turn++) {
        struct page_lines_key key;
        page_lines_draw_key(&key);
        page_lines_take(&key, scene.page, one);
        page_lines_take_plain(&key, scene.page, other);
        assert_memory_equal(one, other, sizeof one);
        memset(scene.page + turn * 80, (int)turn % 2 * 255, 80);
    }
    scene_deinit(&scene);
}

static void every_changed_bit_marks_its_line(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, 1);
    uint64_t before[PAGE_LINES], after[PAGE_LINES];
    for (unsigned fill = 0; fill < 3; fill++) { /* zeros and ones are what products like least */
        if (fill)
            memset(scene.page, fill == 1 ? 0 : 255, PAGE_BYTES);
        page_lines_take(&scene.delta.key, scene.page, before);
        for (unsigned bit = 0; bit < PAGE_BYTES * 8; bit++) {
            scene.page[bit / 8] ^= (uint8_t)(1u << bit % 8);
            page_lines_take(&scene.delta.key, scene.page, after);
            assert_true(page_lines_differ(before, after) == UINT64_C(1) << bit / 512);
            scene.page[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
    scene_deinit(&scene);
}

static void a_page_sent_again_is_a_patch_of_its_changed_lines(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, PAGES);
    uint64_t lines = 0;
    assert_int_equal(page_delta_step(&scene.delta, 700, scene.page, false, &lines),
                     PAGE_DELTA_WHOLE);
    assert_int_equal(page_delta_step(&scene.delta, 700, scene.page, false, &lines),
                     PAGE_DELTA_SAME);
    scene.page[130] ^= 1;
    scene.page[4095] ^= 1;
    assert_int_equal(page_delta_step(&scene.delta, 700, scene.page, false, &lines),
                     PAGE_DELTA_PATCH);
    assert_true(lines == (UINT64_C(1) << 2 | UINT64_C(1) << 63));
    assert_int_equal(page_delta_step(&scene.delta, 700, scene.page, false, &lines),
                     PAGE_DELTA_SAME);
    for (unsigned i = 0; i <= PAGE_PATCH_LINES_MAX; i++)
        scene.page[i * PAGE_LINE_BYTES] ^= 1;
    assert_int_equal(page_delta_step(&scene.delta, 700, scene.page, false, &lines),
                     PAGE_DELTA_WHOLE);
    scene_deinit(&scene);
}

static void a_page_that_is_mostly_zero_is_a_patch_of_nothing(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, PAGES);
    uint64_t lines = 0;
    memset(scene.page, 0, PAGE_BYTES);
    scene.page[64] = 9;
    assert_int_equal(page_delta_step(&scene.delta, 3, scene.page, true, &lines), PAGE_DELTA_PATCH);
    assert_true(lines == 2);
    scene_deinit(&scene);
}

static void a_forgotten_page_goes_whole_and_leaves_its_room(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, 1);
    uint64_t lines = 0;
    (void)page_delta_step(&scene.delta, 1, scene.page, false, &lines);
    assert_int_equal(scene.room, 0);
    (void)page_delta_step(&scene.delta, 2, scene.page, false, &lines);
    assert_false(page_delta_is_known(&scene.delta, 2)); /* no room: as if never seen */
    page_delta_forget(&scene.delta, 1);
    assert_int_equal(scene.room, 1);
    assert_int_equal(page_delta_step(&scene.delta, 1, scene.page, false, &lines), PAGE_DELTA_WHOLE);
    page_delta_forget(&scene.delta, 1);
    page_delta_forget(&scene.delta, 1);
    assert_int_equal(scene.room, 1);
    scene_deinit(&scene);
}

static void the_bulk_is_remembered_only_while_the_wire_is_waited_for(void **state)
{
    (void)state;
    struct page_delta_pace pace = {.policy = PAGE_DELTA_AUTO};
    assert_false(page_delta_pace_wants(&pace, false));
    page_delta_pace_step(&pace, 1000, 0, 0);
    page_delta_pace_step(&pace, 2000, PAGE_DELTA_WINDOW_BYTES, 500);
    assert_true(page_delta_pace_wants(&pace, false));
    page_delta_pace_step(&pace, 3000, PAGE_DELTA_WINDOW_BYTES, 550);
    assert_false(page_delta_pace_wants(&pace, false));
}

static void looks_for_nothing_become_seldom(void **state)
{
    (void)state;
    struct page_delta_pace pace = {.policy = PAGE_DELTA_AUTO};
    unsigned looks = 0;
    for (unsigned i = 0; i < 100000; i++) {
        if (!page_delta_pace_wants(&pace, true))
            continue;
        looks++;
        page_delta_pace_learn(&pace, PAGE_DELTA_WHOLE);
    }
    assert_in_range(looks, 100, 300);
    while (!page_delta_pace_wants(&pace, true))
        continue;
    page_delta_pace_learn(&pace, PAGE_DELTA_PATCH);
    assert_true(page_delta_pace_wants(&pace, true));
    assert_true(page_delta_pace_wants(&pace, true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_and_plain_code_take_the_same_lines),
        cmocka_unit_test(every_changed_bit_marks_its_line),
        cmocka_unit_test(a_page_sent_again_is_a_patch_of_its_changed_lines),
        cmocka_unit_test(a_page_that_is_mostly_zero_is_a_patch_of_nothing),
        cmocka_unit_test(a_forgotten_page_goes_whole_and_leaves_its_room),
        cmocka_unit_test(the_bulk_is_remembered_only_while_the_wire_is_waited_for),
        cmocka_unit_test(looks_for_nothing_become_seldom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
