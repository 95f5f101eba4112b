#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/own.h"
#include "base/world.h"
#include "cli/receipt_text.h"
#include "cli/words.h"
#include "proto/phase.h"
#include "tests/golden/cli_golden.h"

enum { ROUNDS = 3, PHASES = 7 };

struct move {
    Godwit__JobInfo job;
    Godwit__MoveReceipt receipt;
    Godwit__MoveRound rounds[ROUNDS], *round_list[ROUNDS];
    Godwit__MovePhaseTime phases[PHASES], *phase_list[PHASES];
    Godwit__Fault fault;
    Godwit__OperatorError error;
};

static void make_rounds(struct move *move)
{
    static const uint64_t pages[ROUNDS] = {2097152, 61440, 1200};
    for (size_t i = 0; i < ROUNDS; i++) {
        Godwit__MoveRound *round = &move->rounds[i];
        *round = (Godwit__MoveRound)GODWIT__MOVE_ROUND__INIT;
        round->number = (uint32_t)i + 1;
        round->pages = pages[i];
        round->zero_pages = pages[i] / 4;
        round->lz4_pages = pages[i] / 2;
        round->lz4_bytes = pages[i] / 2 * 2275;
        round->raw_pages = pages[i] - pages[i] / 4 - pages[i] / 2;
        round->wire_bytes = pages[i] * 2400;
        round->duration_ns = pages[i] * 3600;
        round->dirty_pages_after = i + 1 < ROUNDS ? pages[i + 1] : 0;
        move->round_list[i] = round;
    }
    move->receipt.n_rounds = ROUNDS;
    move->receipt.rounds = move->round_list;
}

static void make_phases(struct move *move, size_t count)
{
    static const uint64_t ms[PHASES] = {10, 490, 7600, 2, 15, 4, 3};
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        move->phases[i] = (Godwit__MovePhaseTime)GODWIT__MOVE_PHASE_TIME__INIT;
        move->phases[i].phase = (Godwit__MovePhase)(PHASE_GREET + i);
        move->phases[i].start_ns = at;
        move->phases[i].duration_ns = ms[i] * NS_PER_MS;
        at += ms[i] * NS_PER_MS;
        move->phase_list[i] = &move->phases[i];
    }
    move->receipt.n_phases = count;
    move->receipt.phases = move->phase_list;
}

static void make_moved(struct move *move)
{
    *move = (struct move){.job = GODWIT__JOB_INFO__INIT,
                          .receipt = GODWIT__MOVE_RECEIPT__INIT,
                          .fault = GODWIT__FAULT__INIT,
                          .error = GODWIT__OPERATOR_ERROR__INIT};
    move->job.id = (char *)"J4K7Q2A";
    move->job.vm = (char *)"db-01";
    move->job.source = (char *)"node1";
    move->job.target = (char *)"node2";
    move->job.state = (char *)"done";
    move->job.vm_state = (char *)"running on node2";
    move->job.created_unix_ms = 1795449600000;
    move->job.ended_unix_ms = 1795449608300;
    move->job.receipt = &move->receipt;
    move->receipt.moved = true;
    move->receipt.total_ns = 8300 * NS_PER_MS;
    move->receipt.downtime_ns = 24 * NS_PER_MS;
    move->receipt.predicted_downtime_ns = 31 * NS_PER_MS;
    move->receipt.downtime_goal_ns = 100 * NS_PER_MS;
    move->receipt.pause_ns = 2 * NS_PER_MS;
    move->receipt.drain_ns = 15 * NS_PER_MS;
    move->receipt.state_ns = 4 * NS_PER_MS;
    move->receipt.resume_ns = 3 * NS_PER_MS;
    move->receipt.wire_bytes = 5261334938;
    move->receipt.memory_bytes = move->receipt.populated_bytes = GIB(8);
    move->receipt.digest_pages = 2097152;
    move->receipt.memory_digest = 0x0123456789abcdef;
    move->receipt.lanes = 4;
    move->receipt.cipher = (char *)"TLS_AES_128_GCM_SHA256";
    move->receipt.source_cpu_ns = 6100 * NS_PER_MS;
    move->receipt.target_cpu_ns = 5200 * NS_PER_MS;
    make_rounds(move);
    make_phases(move, PHASES);
}

static void make_failed(struct move *move)
{
    make_moved(move);
    move->job.state = (char *)"rolled-back";
    move->job.vm_state = (char *)"running on node1";
    move->receipt.moved = false;
    move->receipt.has_ended_in = true;
    move->receipt.ended_in = GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY;
    move->fault.text = (char *)"the connection to node2 broke in round 2";
    move->receipt.fault = &move->fault;
    move->error.code = (char *)"GW-2201";
    move->error.message = (char *)"the move of db-01 failed";
    move->job.error = &move->error;
    make_phases(move, 3);
}

static void receipts_are_as_recorded(void **state)
{
    (void)state;
    static void (*const makers[])(struct move * move) = {make_moved, make_failed};
    char all[32768] = "", text[16384];
    for (size_t i = 0; i < ARRAY_COUNT(makers); i++) {
        struct move move;
        struct words words = {.text = all, .size = sizeof all, .used = strlen(all)};
        makers[i](&move);
        receipt_text_phases(&move.job, 92, false, text, sizeof text);
        words_say(&words, "--- phases\n%s", text);
        receipt_text_summary(&move.job, text, sizeof text);
        words_say(&words, "--- summary\n%s", text);
        receipt_text_report(&move.job, 92, false, text, sizeof text);
        words_say(&words, "--- report\n%s", text);
    }

    golden_check("cli_receipt.txt", all);
}

static void a_missed_goal_is_said_loudly(void **state)
{
    (void)state;
    struct move move;
    char text[1024];
    make_moved(&move);
    move.receipt.downtime_ns = 101 * NS_PER_MS;

    receipt_text_summary(&move.job, text, sizeof text);

    assert_non_null(strstr(text, "goal 100 ms MISSED"));
}

static void a_report_tells_of_lanes_that_were_lost(void **state)
{
    (void)state;
    struct move move;
    char text[16384];
    make_moved(&move);
    receipt_text_report(&move.job, 92, false, text, sizeof text);
    assert_null(strstr(text, "lanes lost"));
    move.receipt.reconnects = 2;
    move.receipt.away_ns = 1500 * NS_PER_MS;
    move.receipt.resent_pages = 4608;

    receipt_text_report(&move.job, 92, false, text, sizeof text);

    assert_non_null(strstr(text, "lanes lost     2 x, 1.5 s away, 4608 pages sent again\n"));
}

static void a_job_without_receipt_prints_no_phases(void **state)
{
    (void)state;
    struct move move;
    char text[4096] = "x";
    make_failed(&move);
    move.job.receipt = NULL;

    receipt_text_phases(&move.job, 92, false, text, sizeof text);
    assert_string_equal(text, "");
    receipt_text_report(&move.job, 92, false, text, sizeof text);
    assert_non_null(strstr(text, "GW-2201 the move of db-01 failed"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(receipts_are_as_recorded),
        cmocka_unit_test(a_missed_goal_is_said_loudly),
        cmocka_unit_test(a_report_tells_of_lanes_that_were_lost),
        cmocka_unit_test(a_job_without_receipt_prints_no_phases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
