#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/own.h"
#include "cli/plan_text.h"
#include "tests/golden/cli_golden.h"

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

static void fill_step(Godwit__PlanStep *step, uint32_t number, const char *vm, const char *state,
                      const char *note)
{
    godwit__plan_step__init(step);
    step->number = number;
    step->kind = text_of("migrate");
    step->vm = text_of(vm);
    step->source = text_of("node1");
    step->target = text_of("node2");
    step->state = text_of(state);
    step->note = text_of(note);
    step->reason = text_of("node2 would be 12 % full with it, load 3 %, 9000 MiB free before");
    step->predicted_ns = UINT64_C(2500000000);
    step->predicted_pause_ns = UINT64_C(12000000);
}

static void a_plan_is_read_as_recorded(void **state)
{
    (void)state;
    Godwit__PlanInfo plan = GODWIT__PLAN_INFO__INIT;
    Godwit__PlanStep steps[4], *list[4];
    Godwit__PlanBlocker blocker = GODWIT__PLAN_BLOCKER__INIT, *blockers[] = {&blocker};
    Godwit__MoveProgress progress = GODWIT__MOVE_PROGRESS__INIT;
    char *concessions[] = {text_of("relax rule web-spread"), text_of("stop dev-3")};
    char *rejected[] = {text_of("node3 is cordoned")}, *rules[] = {text_of("web-spread")};
    fill_step(&steps[0], 1, "web-1", "done", "");
    steps[0].has_total_ns = steps[0].has_pause_ns = true;
    steps[0].total_ns = UINT64_C(2300000000);
    steps[0].pause_ns = UINT64_C(9000000);
    fill_step(&steps[1], 2, "web-2", "running", "node4 instead of node2");
    progress.has_phase = true;
    progress.phase = GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY;
    progress.round = 2;
    progress.round_pages_total = 200;
    progress.round_pages_done = 50;
    progress.wire_bytes_per_s = 200 << 20;
    steps[1].progress = &progress;
    fill_step(&steps[2], 3, "web-3", "waiting",
              "2 moves from node1 fill what carries them (190 MiB/s)");
    steps[2].rejected = rejected;
    steps[2].n_rejected = 1;
    fill_step(&steps[3], 4, "dev-1", "failed", "no room");
    steps[3].kind = text_of("cold");
    for (int i = 0; i < 4; i++)
        list[i] = &steps[i];
    blocker.vm = text_of("web-9");
    blocker.reason = text_of("node2 has web-1, which rule web-spread keeps apart from it");
    blocker.concessions = concessions;
    blocker.n_concessions = 2;
    plan.id = text_of("P4K7Q2A");
    plan.kind = text_of("evacuate");
    plan.host = text_of("node1");
    plan.state = text_of("running");
    plan.steps = list;
    plan.n_steps = 4;
    plan.blockers = blockers;
    plan.n_blockers = 1;
    plan.rules = rules;
    plan.n_rules = 1;
    plan.predicted_ns = UINT64_C(24000000000);
    plan.predicted_high_ns = UINT64_C(31000000000);
    plan.steps_total = 4;
    plan.steps_done = plan.steps_running = plan.steps_failed = 1;
    plan.wire_bytes_per_s = 200 << 20;
    plan.eta_ns = UINT64_C(14000000000);
    AUTO_FREE char *text = NULL;
    size_t size = 0;
    char count[256];

    FILE *file = open_memstream(&text, &size);
    assert_non_null(file);
    plan_text_page(file, &plan, true);
    plan_text_count(&plan, count, sizeof count);
    (void)fprintf(file, "%s\n", count);
    assert_int_equal(fclose(file), 0);

    golden_check("cli_plan.txt", text);
}

static void only_an_ended_plan_is_over(void **state)
{
    (void)state;
    static const struct {
        const char *word;
        bool is_over;
    } states[] = {{"ready", false}, {"running", false}, {"paused", false}, {"canceling", false},
                  {"done", true},   {"partly", true},   {"canceled", true}};
    for (size_t i = 0; i < ARRAY_COUNT(states); i++) {
        Godwit__PlanInfo plan = GODWIT__PLAN_INFO__INIT;
        plan.state = text_of(states[i].word);
        assert_int_equal(plan_text_is_over(&plan), states[i].is_over);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_is_read_as_recorded),
        cmocka_unit_test(only_an_ended_plan_is_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
