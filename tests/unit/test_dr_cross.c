/* Two pools and one VM, by the rules of dr_cross alone: what they say is lost, late or doubled,
 * their coordinators die, their sites lose power, operators say what they like. What must hold is
 * asked after every step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/world.h"
#include "coordinator/dr_cross.h"

enum { SEEDS = 1000, STEPS = 3000, STEP_MS = 250, MAIL_MAX = 64, LATE_MS_MAX = 6000 };

struct mail {
    bool is_used, to_holder;
    uint64_t at_ns, asked_ns;
    struct dr_cross_word word;
};

static struct {
    uint64_t random, now_ns;
    struct mail mail[MAIL_MAX];
    bool is_quiet; /* the network is well, nobody does anything */
    bool line;
    /* the source */
    struct dr_cross source;
    uint64_t gen, source_dead_until_ns, start_ns, end_ns;
    bool runs, is_starting, wants, was_lost;
    uint64_t written;
    /* the holder */
    struct dr_cross holder;
    uint64_t holder_dead_until_ns, holder_began_ns, take_ns, took_as;
    bool there, is_taking, refuses;
    uint64_t held;
    bool was_split;
    unsigned takes, splits, backs, starts, refusals;
} world;

static uint64_t draw(uint64_t below)
{
    world.random ^= world.random << 13;
    world.random ^= world.random >> 7;
    world.random ^= world.random << 17;
    return world.random % below;
}

static bool one_in(uint64_t times)
{
    return draw(times) == 0;
}

static bool is_up(uint64_t dead_until_ns)
{
    return world.now_ns >= dead_until_ns;
}

/* ---- what must hold ---- */

static bool is_taken(void)
{
    return world.holder.step == DR_CROSS_TAKE || world.holder.step == DR_CROSS_AWAY;
}

static void check(void)
{
    if (world.runs && world.there)
        assert_true(world.was_split); /* never two, but by an operator's word */
    if (is_taken() && !world.was_split)
        assert_false(world.runs || world.is_starting);
    if (is_taken())
        assert_true(world.took_as > world.gen || world.was_split);
    assert_true(world.holder.returned_no <= world.holder.hand_no);
    assert_true(world.held <= world.written || world.there);
}

/* ---- the network ---- */

static void post(bool to_holder, const struct dr_cross_word *word, uint64_t asked_ns)
{
    unsigned copies = world.is_quiet ? 1 : one_in(8) ? 2 : 1;
    if (!world.is_quiet && (!world.line || one_in(6)))
        return;
    for (size_t i = 0; i < MAIL_MAX && copies > 0; i++) {
        if (world.mail[i].is_used)
            continue;
        uint64_t late_ms = world.is_quiet ? STEP_MS : one_in(10) ? draw(LATE_MS_MAX) : draw(300);
        world.mail[i] = (struct mail){.is_used = true,
                                      .to_holder = to_holder,
                                      .at_ns = world.now_ns + late_ms * NS_PER_MS,
                                      .asked_ns = asked_ns,
                                      .word = *word};
        copies--;
    }
}

static void ask(void)
{
    bool may_want = !world.runs &&
                    (world.source.step == DR_CROSS_PROTECT || world.source.step == DR_CROSS_BACK);
    struct dr_cross_word word = {.step = world.source.step,
                                 .generation = world.gen,
                                 .hand_no = world.source.hand_no,
                                 .permit = may_want ? world.gen + 1 : 0};
    post(true, &word, world.now_ns);
}

static void take(void)
{
    assert_true(world.holder.step == DR_CROSS_TAKE);
    world.took_as = world.holder.generation + 1;
    world.holder.generation = world.took_as;
    world.is_taking = true;
    world.take_ns = world.now_ns + draw(3000) * NS_PER_MS;
    world.takes++;
    if (!world.holder.is_alone && !world.was_lost)
        assert_int_equal(world.held, world.written); /* planned: nothing is lost */
}

static enum dr_cross_guest guest(void)
{
    if (world.runs && world.line && !one_in(8))
        return DR_CROSS_GUEST_RUNS;
    bool is_down = !world.runs && !world.is_starting;
    return is_down && world.was_lost ? DR_CROSS_GUEST_LOST : DR_CROSS_GUEST_UNSURE;
}

static void deliver(const struct mail *mail)
{
    bool changed = false;
    if (mail->to_holder && is_up(world.holder_dead_until_ns)) {
        struct dr_cross_word answer;
        enum dr_cross_news news =
            dr_cross_holder_hear(&world.holder, &mail->word, world.now_ns, &answer, &changed);
        if (news == DR_CROSS_NEWS_TAKE)
            take();
        world.refusals += news == DR_CROSS_NEWS_REFUSED;
        post(false, &answer, mail->asked_ns);
    } else if (!mail->to_holder && is_up(world.source_dead_until_ns)) {
        enum dr_cross_guest is = guest();
        enum dr_cross_news news =
            dr_cross_source_hear(&world.source, &mail->word, is, mail->asked_ns);
        if (news == DR_CROSS_NEWS_FINISH)
            world.end_ns = world.now_ns + draw(2000) * NS_PER_MS;
        world.backs += news == DR_CROSS_NEWS_BACK;
    }
}

/* ---- the source's pool ---- */

static void start(void)
{
    if (world.runs || world.is_starting || !world.wants ||
        !dr_cross_may_start(&world.source, world.gen + 1, world.now_ns))
        return;
    assert_false(is_taken()); /* the old site starts nothing */
    world.gen++;
    world.is_starting = true;
    world.start_ns = world.now_ns + draw(4000) * NS_PER_MS; /* its order is on its way */
    world.starts++;
}

static void source_tick(void)
{
    enum dr_cross_step step = world.source.step;
    if (!is_up(world.source_dead_until_ns))
        return;
    ask();
    start();
    if (step == DR_CROSS_FINISH && world.now_ns >= world.end_ns) {
        bool is_held = world.runs && (world.is_quiet || (world.line && !one_in(4)));
        if (is_held)
            world.held = world.written;
        world.source.step = is_held ? DR_CROSS_STOP : world.runs ? DR_CROSS_UNDO : DR_CROSS_PROTECT;
        world.end_ns = world.now_ns + draw(1500) * NS_PER_MS;
    } else if (step == DR_CROSS_UNDO && world.now_ns >= world.end_ns) {
        world.source.step = DR_CROSS_PROTECT;
    } else if (step == DR_CROSS_STOP && world.now_ns >= world.end_ns) {
        world.runs = false;
        world.source.step = DR_CROSS_HANDED;
    } else if (step == DR_CROSS_BACK && world.runs) {
        world.source.step = DR_CROSS_PROTECT;
    }
}

/* Agents go on without their coordinator. */
static void source_agents(void)
{
    bool stands = world.source.step == DR_CROSS_FINISH || world.source.step == DR_CROSS_STOP;
    if (world.is_starting && world.now_ns >= world.start_ns) {
        world.is_starting = false;
        world.runs = true;
        world.was_lost = false;
        assert_false(is_taken()); /* an order that left in time has arrived before anybody takes */
    }
    if (world.runs && !stands)
        world.written++;
    if (world.runs && !stands && world.line && !world.there && !one_in(4))
        world.held = world.written;
}

static void source_events(void)
{
    if (one_in(90)) { /* power: the guest and its coordinator */
        world.was_lost = world.was_lost || world.runs || world.is_starting;
        world.runs = world.is_starting = false;
        world.source_dead_until_ns = world.now_ns + draw(40) * NS_PER_S;
        world.source.permit = 0;
    } else if (one_in(60)) { /* an operator stops it, and wants it again after a while */
        world.wants = false;
        world.was_lost = world.was_lost && !world.runs;
        world.runs = world.runs && world.source.step != DR_CROSS_PROTECT;
    } else if (!world.wants && one_in(80)) {
        world.wants = true;
    } else if (one_in(60)) { /* the guest alone */
        world.was_lost = world.was_lost || world.runs;
        world.runs = false;
    } else if (one_in(60)) { /* the coordinator alone */
        world.source_dead_until_ns = world.now_ns + draw(30) * NS_PER_S;
        world.source.permit = 0;
    }
}

/* ---- the holder's pool ---- */

static void holder_tick(void)
{
    if (!is_up(world.holder_dead_until_ns))
        return;
    if (dr_cross_may_take(&world.holder, world.holder_began_ns, world.now_ns)) {
        world.holder.step = DR_CROSS_TAKE;
        world.was_split = true;
        world.splits++;
        take();
    } else if (dr_cross_is_overdue(&world.holder, world.holder_began_ns, world.now_ns)) {
        dr_cross_return(&world.holder);
    } else if (world.is_taking && world.now_ns >= world.take_ns) {
        world.is_taking = false;
        if (world.refuses) {
            dr_cross_return(&world.holder);
            world.was_split = false; /* nothing ran there */
        } else {
            world.holder.step = DR_CROSS_AWAY;
            world.there = true;
        }
    }
}

static void holder_events(void)
{
    bool is_there = is_up(world.holder_dead_until_ns);
    if (is_there && world.holder.step == DR_CROSS_HOLD && one_in(80))
        dr_cross_ask(&world.holder, world.now_ns);
    else if (is_there && !world.line && one_in(200) &&
             (world.holder.step == DR_CROSS_HOLD || world.holder.step == DR_CROSS_ASK))
        dr_cross_go_alone(&world.holder);
    world.refuses = one_in(3);
    if (one_in(100)) {
        world.holder_dead_until_ns = world.now_ns + draw(30) * NS_PER_S;
        world.holder_began_ns = world.holder_dead_until_ns;
        world.holder.granted_ns = world.holder.asked_ns = world.holder.heard_ns = 0;
    }
}

/* ---- a run ---- */

static void step(void)
{
    world.now_ns += STEP_MS * NS_PER_MS;
    if (!world.is_quiet) {
        world.line = world.line ? !one_in(80) : one_in(80);
        source_events();
        holder_events();
    }
    source_agents();
    for (size_t i = 0; i < MAIL_MAX; i++) {
        if (!world.mail[i].is_used || world.mail[i].at_ns > world.now_ns)
            continue;
        struct mail mail = world.mail[i];
        world.mail[i].is_used = false;
        deliver(&mail);
        check();
    }
    source_tick();
    check();
    holder_tick();
    check();
}

static void begin(uint64_t seed)
{
    memset(&world, 0, sizeof world);
    world.random = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    world.now_ns = 1000 * NS_PER_S;
    world.holder_began_ns = world.now_ns;
    world.line = world.runs = world.wants = true;
    world.gen = world.written = 1;
    world.source.step = DR_CROSS_PROTECT;
    world.holder.step = DR_CROSS_HOLD;
}

/* The line is well and everybody lives: it ends in one place, and stands nowhere. */
static void calm_down(uint64_t seed)
{
    world.is_quiet = world.line = world.wants = true;
    world.refuses = false;
    for (unsigned i = 0; i < 4 * (DR_CROSS_ASK_MS / STEP_MS); i++)
        step();
    bool is_away = world.holder.step == DR_CROSS_AWAY;
    if (!is_away && (world.holder.step != DR_CROSS_HOLD || !world.runs))
        fail_msg("seed %llu: holder %s, source %s, runs %d", (unsigned long long)seed,
                 dr_cross_step_name(world.holder.step), dr_cross_step_name(world.source.step),
                 world.runs);
    if (is_away) {
        assert_true(world.there && world.holder.is_heard);
        assert_int_equal(world.source.step, DR_CROSS_AWAY);
    } else {
        assert_int_equal(world.source.step, DR_CROSS_PROTECT);
    }
}

static void nothing_runs_twice_whatever_is_lost_doubled_or_dead(void **state)
{
    (void)state;
    unsigned takes = 0, splits = 0, backs = 0, starts = 0, refusals = 0;

    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        begin(seed);
        for (unsigned i = 0; i < STEPS; i++)
            step();
        calm_down(seed);
        takes += world.takes;
        splits += world.splits;
        backs += world.backs;
        starts += world.starts;
        refusals += world.refusals;
    }

    print_message("%d seeds: %u taken, %u of them alone, %u came back, %u starts, %u refused\n",
                  SEEDS, takes, splits, backs, starts, refusals);
    assert_true(takes > SEEDS && splits > 100 && backs > 50 && starts > SEEDS && refusals > 50);
}

/* ---- the rules one by one ---- */

static const uint64_t T = 1000 * NS_PER_S;

static void a_start_needs_a_permit_for_its_generation_that_is_not_old(void **state)
{
    (void)state;
    struct dr_cross source = {.step = DR_CROSS_PROTECT};
    struct dr_cross_word word = {.step = DR_CROSS_HOLD, .permit = 7};

    assert_false(dr_cross_may_start(&source, 7, T));
    (void)dr_cross_source_hear(&source, &word, DR_CROSS_GUEST_LOST, T);

    assert_true(dr_cross_may_start(&source, 7, T));
    assert_false(dr_cross_may_start(&source, 8, T));
    assert_false(dr_cross_may_start(&source, 7, T + DR_CROSS_PERMIT_MS * NS_PER_MS));
}

static void whoever_took_it_or_knows_nothing_permits_nothing(void **state)
{
    (void)state;
    static const enum dr_cross_step steps[] = {DR_CROSS_NONE, DR_CROSS_ASK,  DR_CROSS_ALONE,
                                               DR_CROSS_TAKE, DR_CROSS_AWAY, DR_CROSS_END};

    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct dr_cross source = {
            .step = DR_CROSS_PROTECT, .permit = 9, .permit_until_ns = T + NS_PER_S};
        struct dr_cross holder = {.step = steps[i]};
        struct dr_cross_word word = {.step = steps[i], .permit = 9}, answer;
        struct dr_cross_word wish = {.step = DR_CROSS_PROTECT, .permit = 9};
        bool changed;

        (void)dr_cross_source_hear(&source, &word, DR_CROSS_GUEST_UNSURE, T);
        assert_false(dr_cross_may_start(&source, 1, T));
        if (steps[i] != DR_CROSS_NONE && steps[i] != DR_CROSS_ALONE && steps[i] != DR_CROSS_ASK) {
            (void)dr_cross_holder_hear(&holder, &wish, T, &answer, &changed);
            assert_int_equal(answer.permit, 0);
        }
    }
}

static void alone_it_is_taken_only_when_no_permit_is_out(void **state)
{
    (void)state;
    struct dr_cross holder = {.step = DR_CROSS_HOLD};
    struct dr_cross_word wish = {.step = DR_CROSS_PROTECT, .generation = 3, .permit = 4}, answer;
    bool changed = false;

    (void)dr_cross_holder_hear(&holder, &wish, T, &answer, &changed);
    assert_true(changed && answer.permit == 4 && holder.generation == 4);
    dr_cross_go_alone(&holder);

    assert_false(dr_cross_may_take(&holder, 0, T + DR_CROSS_PERMIT_MS * NS_PER_MS));
    assert_true(dr_cross_may_take(&holder, 0, T + DR_CROSS_GUARD_MS * NS_PER_MS));
    holder.granted_ns = 0; /* another coordinator, which does not know */
    assert_false(dr_cross_may_take(&holder, T, T + NS_PER_S));
}

static void an_old_hand_over_takes_nothing(void **state)
{
    (void)state;
    struct dr_cross holder = {.step = DR_CROSS_HOLD};
    struct dr_cross_word handed = {.step = DR_CROSS_HANDED, .hand_no = 1}, answer;
    bool changed;
    dr_cross_ask(&holder, T);
    dr_cross_return(&holder);
    dr_cross_ask(&holder, T);

    assert_int_equal(dr_cross_holder_hear(&holder, &handed, T, &answer, &changed),
                     DR_CROSS_NO_NEWS);
    handed.hand_no = 2;
    assert_int_equal(dr_cross_holder_hear(&holder, &handed, T, &answer, &changed),
                     DR_CROSS_NEWS_TAKE);
}

static void a_hand_over_that_was_forgotten_is_returned(void **state)
{
    (void)state;
    struct dr_cross source = {.step = DR_CROSS_HANDED, .hand_no = 3};
    struct dr_cross holder = {.step = DR_CROSS_HOLD};
    struct dr_cross_word word = {.step = source.step, .hand_no = source.hand_no}, answer;
    bool changed = false;

    (void)dr_cross_holder_hear(&holder, &word, T, &answer, &changed);

    assert_true(changed);
    word = (struct dr_cross_word){.step = DR_CROSS_ASK, .hand_no = 3, .returned_no = 2};
    assert_int_equal(dr_cross_source_hear(&source, &word, DR_CROSS_GUEST_LOST, T),
                     DR_CROSS_NO_NEWS);
    assert_int_equal(dr_cross_source_hear(&source, &answer, DR_CROSS_GUEST_LOST, T),
                     DR_CROSS_NEWS_BACK);
    assert_int_equal(source.step, DR_CROSS_BACK);
}

static void a_hand_over_is_given_up_when_nothing_is_heard_or_nothing_comes_of_it(void **state)
{
    (void)state;
    struct dr_cross holder = {.step = DR_CROSS_HOLD};
    struct dr_cross_word finishing = {.step = DR_CROSS_FINISH, .hand_no = 1}, answer;
    bool changed;
    dr_cross_ask(&holder, T);

    assert_false(dr_cross_is_overdue(&holder, 0, T + NS_PER_S));
    assert_true(dr_cross_is_overdue(&holder, 0, T + DR_CROSS_SILENT_MS * NS_PER_MS));
    uint64_t late_ns = T + DR_CROSS_ASK_MS * NS_PER_MS;
    (void)dr_cross_holder_hear(&holder, &finishing, late_ns - NS_PER_S, &answer, &changed);
    assert_false(dr_cross_is_overdue(&holder, 0, late_ns - NS_PER_S));
    assert_true(dr_cross_is_overdue(&holder, 0, late_ns));
}

static void an_unprotection_is_over_when_it_is_dropped_and_not_when_it_was_taken(void **state)
{
    (void)state;
    struct dr_cross source = {.step = DR_CROSS_END};
    struct dr_cross holder = {.step = DR_CROSS_HOLD}, taken = {.step = DR_CROSS_AWAY};
    struct dr_cross_word ending = {.step = DR_CROSS_END}, answer, none = {.step = DR_CROSS_NONE};
    bool changed;

    assert_int_equal(dr_cross_holder_hear(&holder, &ending, T, &answer, &changed),
                     DR_CROSS_NEWS_END);
    assert_int_equal(dr_cross_source_hear(&source, &none, DR_CROSS_GUEST_UNSURE, T),
                     DR_CROSS_NEWS_END);
    assert_int_equal(dr_cross_holder_hear(&taken, &ending, T, &answer, &changed), DR_CROSS_NO_NEWS);
    assert_int_equal(dr_cross_source_hear(&source, &answer, DR_CROSS_GUEST_UNSURE, T),
                     DR_CROSS_NEWS_AWAY);
    assert_int_equal(source.step, DR_CROSS_AWAY);
}

static void steps_are_spelled_one_way(void **state)
{
    (void)state;
    for (unsigned step = 0; step < DR_CROSS_STEP_COUNT; step++)
        assert_int_equal(dr_cross_step_from_name(dr_cross_step_name(step)), step);
    assert_int_equal(dr_cross_step_from_name("nonsense"), DR_CROSS_STEP_COUNT);
    assert_int_equal(dr_cross_step_from_name(NULL), DR_CROSS_STEP_COUNT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_runs_twice_whatever_is_lost_doubled_or_dead),
        cmocka_unit_test(a_start_needs_a_permit_for_its_generation_that_is_not_old),
        cmocka_unit_test(whoever_took_it_or_knows_nothing_permits_nothing),
        cmocka_unit_test(alone_it_is_taken_only_when_no_permit_is_out),
        cmocka_unit_test(an_old_hand_over_takes_nothing),
        cmocka_unit_test(a_hand_over_that_was_forgotten_is_returned),
        cmocka_unit_test(a_hand_over_is_given_up_when_nothing_is_heard_or_nothing_comes_of_it),
        cmocka_unit_test(an_unprotection_is_over_when_it_is_dropped_and_not_when_it_was_taken),
        cmocka_unit_test(steps_are_spelled_one_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
