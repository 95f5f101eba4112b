/* The order of blocks, by itself and in a small model: a guest of 64 blocks whose writers follow a
 * pattern, lanes that carry so many pages a second, and the same converge that decides in a move.
 * Rounds are what the model is held against: they send all that is dirty, block after block. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/world.h"
#include "migrate/converge.h"
#include "migrate/page_order.h"
#include "proto/limits.h"

static void what_was_never_sent_goes_first_in_its_order(void **state)
{
    (void)state;
    struct page_order order;
    assert_int_equal(page_order_init(&order, 6), 0);
    for (uint32_t i = 0; i < 6; i++)
        page_order_look(&order, i, i == 3 ? 0 : 100, 1000);
    struct page_order_choice choice = page_order_choose(&order, 250, false);
    assert_true(choice.bulk && !choice.whole);
    assert_int_equal(order.listed, 3);
    assert_int_equal(order.list[2], 2);
    for (uint32_t i = 0; i < 3; i++) {
        page_order_sent(&order, order.list[i], 2000);
        page_order_look(&order, order.list[i], 50, 3000); /* dirty again, but there is bulk left */
    }
    choice = page_order_choose(&order, 250, false);
    assert_int_equal(order.listed, 2);
    assert_int_equal(order.list[0], 4);
    assert_true(choice.bulk && choice.whole); /* no block is left that was never sent */
    page_order_deinit(&order);
}

static void heat_is_writes_to_a_clean_page_a_second(void **state)
{
    (void)state;
    struct page_order order;
    assert_int_equal(page_order_init(&order, 1), 0);
    page_order_look(&order, 0, 500, 0);
    page_order_sent(&order, 0, NS_PER_S);
    uint64_t now = NS_PER_S;
    for (unsigned i = 0; i < 200; i++) { /* 1 of 100 pages every 10 ms */
        now += 10 * NS_PER_MS;
        page_order_look(&order, 0, 5, now);
        page_order_sent(&order, 0, now);
    }
    double heat = page_order_heat(&order.blocks[0]);
    assert_true(heat > 0.8 && heat < 1.1);
    for (unsigned i = 0; i < 6000; i++) { /* a minute of rest */
        now += 10 * NS_PER_MS;
        page_order_look(&order, 0, 0, now);
    }
    assert_true(page_order_heat(&order.blocks[0]) < heat / 20);
    page_order_deinit(&order);
}

static void cold_blocks_go_before_hot_ones_and_too_hot_ones_not_at_all(void **state)
{
    (void)state;
    struct page_order order;
    assert_int_equal(page_order_init(&order, 3), 0);
    static const uint32_t again[] = {200, 1, 20}; /* of 400 pages in a tenth of a second */
    for (uint32_t i = 0; i < 3; i++) {
        page_order_look(&order, i, 400, 0);
        page_order_sent(&order, i, 0);
        page_order_look(&order, i, again[i], NS_PER_S / 10);
    }
    page_order_learn(&order, 1000, NS_PER_S); /* the hottest alone writes 2500 or so a second */
    struct page_order_choice choice = page_order_choose(&order, 10000, false);
    assert_true(choice.whole);
    assert_int_equal(order.listed, 2);
    assert_int_equal(order.list[0], 1);
    assert_int_equal(order.list[1], 2);
    choice = page_order_choose(&order, 10000, true);
    assert_int_equal(order.listed, 3);
    assert_int_equal(order.list[2], 0);
    choice = page_order_choose(&order, 1, true);
    assert_false(choice.whole);
    assert_int_equal(order.listed, 1);
    page_order_deinit(&order);
}

/* ---- the model ------------------------------------------------------------------------------ */

enum { BLOCKS = 64, MODEL_PAGES = BLOCKS * BLOCK_PAGES, CHUNK = 64 };
enum pattern { UNIFORM, HOTCOLD, SWEEP };

struct model {
    enum pattern pattern;
    uint32_t set; /* pages that are written */
    double writes_per_s, carried_per_s;
    bool dirty[MODEL_PAGES];
    uint32_t block_dirty[BLOCKS], dirty_count;
    double owed; /* writes */
    uint64_t now_ns, random, swept, sent, faults;
};

static uint64_t next_random(struct model *model)
{
    model->random ^= model->random << 13;
    model->random ^= model->random >> 7;
    model->random ^= model->random << 17;
    return model->random;
}

static void model_write(struct model *model)
{
    uint64_t random = next_random(model);
    uint32_t page = (uint32_t)((random >> 16) % model->set);
    if (model->pattern == HOTCOLD && random % 10)
        page %= model->set / 8;
    if (model->pattern == SWEEP)
        page = (uint32_t)(model->swept++ % model->set);
    model->faults += !model->dirty[page];
    model->dirty_count += !model->dirty[page];
    model->block_dirty[page / BLOCK_PAGES] += !model->dirty[page];
    model->dirty[page] = true;
}

static void model_pass(struct model *model, double s)
{
    model->now_ns += (uint64_t)(s * 1e9);
    for (model->owed += s * model->writes_per_s; model->owed >= 1; model->owed--)
        model_write(model);
}

/* Clear a block, then send its pages, while the guest goes on. */
static void model_send_block(struct model *model, uint32_t block)
{
    uint32_t pages = model->block_dirty[block];
    memset(model->dirty + block * BLOCK_PAGES, 0, BLOCK_PAGES);
    model->dirty_count -= pages;
    model->block_dirty[block] = 0;
    model->sent += pages;
    for (; pages > CHUNK; pages -= CHUNK)
        model_pass(model, CHUNK / model->carried_per_s);
    model_pass(model, pages / model->carried_per_s);
}

static void model_init(struct model *model, enum pattern pattern, uint32_t set, double rho)
{
    memset(model, 0, sizeof *model);
    model->pattern = pattern;
    model->set = set;
    model->carried_per_s = 50000;
    model->writes_per_s = rho * model->carried_per_s;
    model->random = 88172645463325252u;
    memset(model->dirty, 1, sizeof model->dirty);
    model->dirty_count = MODEL_PAGES;
    for (uint32_t i = 0; i < BLOCKS; i++)
        model->block_dirty[i] = BLOCK_PAGES;
}

static struct converge_round round_of(const struct model *model, uint64_t sent, uint64_t before,
                                      uint64_t begun_ns)
{
    return (struct converge_round){.pages = model->sent - sent,
                                   .data_pages = model->sent - sent,
                                   .dirty_before = before,
                                   .duration_ns = model->now_ns - begun_ns,
                                   .dirty_pages = model->dirty_count};
}

enum { ROUNDS_ENOUGH = 40 };

static void model_rounds(struct model *model, uint64_t goal_ns)
{
    struct converge converge;
    converge_init(&converge, goal_ns, 1);
    for (unsigned i = 0; i < ROUNDS_ENOUGH; i++) {
        uint64_t sent = model->sent, before = model->dirty_count, begun_ns = model->now_ns;
        for (uint32_t j = 0; j < BLOCKS; j++)
            model_send_block(model, j);
        model_pass(model, 0.0005);
        struct converge_round round = round_of(model, sent, before, begun_ns);
        if (converge_step(&converge, &round) == CONVERGE_PAUSE)
            return;
    }
}

static void model_look(const struct model *model, struct page_order *order)
{
    for (uint32_t i = 0; i < BLOCKS; i++)
        page_order_look(order, i, model->block_dirty[i], model->now_ns);
}

/* As source_stream does it. */
static bool model_stream_round(struct model *model, struct page_order *order, uint64_t before,
                               bool even_hot)
{
    uint64_t sent = model->sent;
    struct page_order_choice choice;
    do {
        uint64_t begun_ns = model->now_ns, window = model->sent;
        choice = page_order_choose(order, 4 * BLOCK_PAGES, even_hot);
        for (uint32_t i = 0; i < order->listed; i++) {
            uint64_t begun = model->now_ns;
            model_send_block(model, order->list[i]);
            page_order_sent(order, order->list[i], begun);
        }
        model_pass(model, 0.0005);
        page_order_learn(order, model->sent - window, model->now_ns - begun_ns);
        model_look(model, order);
    } while (!choice.whole && (choice.bulk || model->sent - sent < before));
    return choice.whole && !choice.bulk;
}

static void model_stream(struct model *model, uint64_t goal_ns)
{
    struct converge converge;
    struct page_order order;
    converge_init(&converge, goal_ns, 1);
    assert_int_equal(page_order_init(&order, BLOCKS), 0);
    model_look(model, &order);
    bool even_hot = false;
    for (unsigned i = 0; i < ROUNDS_ENOUGH; i++) {
        uint64_t sent = model->sent, before = model->dirty_count, begun_ns = model->now_ns;
        even_hot |= model_stream_round(model, &order, before, even_hot);
        struct converge_round round = round_of(model, sent, before, begun_ns);
        if (converge_step(&converge, &round) == CONVERGE_PAUSE)
            break;
    }
    page_order_deinit(&order);
}

struct outcome {
    double sent, left, faults; /* of the stream, of what rounds need */
};

static struct outcome compare(const char *what, enum pattern pattern, uint32_t set, double rho,
                              uint64_t goal_ns)
{
    static struct model rounds, stream;
    model_init(&rounds, pattern, set, rho);
    stream = rounds;
    model_rounds(&rounds, goal_ns);
    model_stream(&stream, goal_ns);
    print_message("%-28s rounds: sent %6llu left %5u faults %6llu  stream: %6llu %5u %6llu\n", what,
                  (unsigned long long)rounds.sent, rounds.dirty_count,
                  (unsigned long long)rounds.faults, (unsigned long long)stream.sent,
                  stream.dirty_count, (unsigned long long)stream.faults);
    return (struct outcome){(double)stream.sent / (double)rounds.sent,
                            (double)(stream.dirty_count + 64) / (double)(rounds.dirty_count + 64),
                            (double)(stream.faults + 64) / (double)(rounds.faults + 64)};
}

enum { SET = 8192 };

static void uniform_writers_are_left_as_few_pages_as_by_rounds(void **state)
{
    (void)state;
    static const double rhos[] = {0.05, 0.3, 0.7, 1.2, 2};
    for (unsigned i = 0; i < 5; i++) {
        struct outcome outcome = compare("uniform", UNIFORM, SET, rhos[i], NS_PER_S);
        assert_true(outcome.sent < 1.03);
        assert_true(outcome.left < 1.15);
    }
}

static void a_hot_part_costs_fewer_pages_and_faults(void **state)
{
    (void)state;
    static const double rhos[] = {0.3, 0.7, 1.2, 2};
    for (unsigned i = 0; i < 4; i++) {
        struct outcome outcome = compare("hot and cold", HOTCOLD, SET, rhos[i], NS_PER_S);
        assert_true(outcome.sent < 1);
        assert_true(outcome.faults < 0.95);
        assert_true(outcome.left < 1.5);
    }
}

static void a_sweep_that_rounds_cannot_follow_leaves_less(void **state)
{
    (void)state;
    struct outcome outcome = compare("sweep that converges", SWEEP, SET, 0.7, NS_PER_S);
    assert_true(outcome.sent < 0.95 && outcome.left < 1.15);
    outcome = compare("sweep that does not", SWEEP, SET, 1.2, NS_PER_S);
    assert_true(outcome.left < 0.6);
    outcome = compare("sweep that does not", SWEEP, SET, 2, NS_PER_S);
    assert_true(outcome.left < 0.8);
}

static void a_goal_out_of_reach_is_tried_for_until_the_end(void **state)
{
    (void)state;
    struct outcome outcome = compare("goal out of reach", UNIFORM, SET, 2, NS_PER_MS);
    assert_true(outcome.left < 1.2); /* all rounds were used; it did not stop halfway */
    assert_true(outcome.sent > 0.8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_never_sent_goes_first_in_its_order),
        cmocka_unit_test(heat_is_writes_to_a_clean_page_a_second),
        cmocka_unit_test(cold_blocks_go_before_hot_ones_and_too_hot_ones_not_at_all),
        cmocka_unit_test(uniform_writers_are_left_as_few_pages_as_by_rounds),
        cmocka_unit_test(a_hot_part_costs_fewer_pages_and_faults),
        cmocka_unit_test(a_sweep_that_rounds_cannot_follow_leaves_less),
        cmocka_unit_test(a_goal_out_of_reach_is_tried_for_until_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
