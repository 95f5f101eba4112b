/* Segments of a replication: what is put is what is got, and what is not sound is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "proto/replica_frame.h"

static const struct replica_frame commit = {
    .type = REPLICA_FRAME_COMMIT,
    .id = {.generation = 7, .session = UINT64_C(0x1122334455667788), .seq = 9},
    .body_bytes = REPLICA_COMMIT_BYTES,
    .body_check = 5,
};

static void a_head_comes_back_as_it_was(void **state)
{
    (void)state;
    uint8_t bytes[REPLICA_FRAME_HEAD_BYTES];
    struct replica_frame got;
    struct fault fault = {0};

    replica_frame_put(&commit, bytes);
    assert_int_equal(replica_frame_get(bytes, true, &got, &fault), 0);

    assert_true(got.type == commit.type && replica_id_equal(&got.id, &commit.id));
    assert_true(got.body_bytes == commit.body_bytes && got.body_check == commit.body_check);
    assert_int_equal(bytes_get_u32(bytes), 0x31525747); /* as it is written: "GWR1" */
    assert_int_equal(bytes[4], 5);
    assert_true(bytes_get_u64(bytes + 24) == 9);
}

static void any_changed_bit_of_a_head_is_found(void **state)
{
    (void)state;
    uint8_t bytes[REPLICA_FRAME_HEAD_BYTES];
    struct replica_frame got;
    struct fault fault = {0};

    replica_frame_put(&commit, bytes);
    for (unsigned bit = 0; bit < 8 * REPLICA_FRAME_HEAD_BYTES; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_equal(replica_frame_get(bytes, true, &got, &fault), ERR_CORRUPT);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

static int get(struct replica_frame frame, bool from_source)
{
    uint8_t bytes[REPLICA_FRAME_HEAD_BYTES];
    struct replica_frame got;
    struct fault fault = {0};
    replica_frame_put(&frame, bytes);
    return replica_frame_get(bytes, from_source, &got, &fault);
}

static void lengths_numbers_and_directions_are_judged_by_type(void **state)
{
    (void)state;
    struct replica_frame frame = commit;

    assert_int_equal(get(frame, false), ERR_CORRUPT); /* only a source commits */
    frame.body_bytes--;
    assert_int_equal(get(frame, true), ERR_CORRUPT);
    frame = commit;
    frame.id.seq = 0;
    assert_int_equal(get(frame, true), ERR_CORRUPT);
    frame.type = REPLICA_FRAME_PAGES;
    frame.id.seq = 1;
    frame.body_bytes = REPLICA_PAGES_BYTES_MAX + 1;
    assert_int_equal(get(frame, true), ERR_CORRUPT);
    frame.type = REPLICA_FRAME_STATE;
    frame.body_bytes = MACHINE_STATE_MAX + 1;
    assert_int_equal(get(frame, true), ERR_CORRUPT);
    frame.type = REPLICA_FRAME_HELLO;
    frame.body_bytes = 10;
    assert_int_equal(get(frame, true), ERR_CORRUPT); /* with a number */
    frame.id.seq = 0;
    assert_int_equal(get(frame, true), 0);
    frame.type = REPLICA_FRAME_REFUSE;
    assert_int_equal(get(frame, true), 0);
    assert_int_equal(get(frame, false), 0); /* either may go away */
}

static void a_body_must_be_its_heads(void **state)
{
    (void)state;
    uint8_t body[REPLICA_COMMIT_BYTES];
    struct replica_frame frame = commit;
    struct fault fault = {0};

    memset(body, 3, sizeof body);
    frame.body_check = replica_frame_check(body, sizeof body);
    assert_int_equal(replica_frame_judge(&frame, body, &fault), 0);
    body[17] ^= 1;
    assert_int_equal(replica_frame_judge(&frame, body, &fault), ERR_CORRUPT);
}

static void commits_and_what_is_held_come_back_as_they_were(void **state)
{
    (void)state;
    const struct replica_commit said = {1, 2, 3, 4, 5, true};
    const struct replica_welcome welcome = {.held = {{1, 2, 3}, 4}, .tells_blocks = true};
    struct replica_commit commit_got;
    struct replica_welcome got;
    uint8_t commit_bytes[REPLICA_COMMIT_BYTES], bytes[REPLICA_WELCOME_BYTES];
    struct fault fault = {0};

    replica_commit_put(&said, commit_bytes);
    assert_int_equal(replica_commit_get(commit_bytes, &commit_got, &fault), 0);
    assert_true(commit_got.pages == 1 && commit_got.running == 2 && commit_got.sum == 3 &&
                commit_got.state == 4 && commit_got.wall_ms == 5 && commit_got.is_whole);
    commit_bytes[40] = 2;
    assert_int_equal(replica_commit_get(commit_bytes, &commit_got, &fault), ERR_UNSUPPORTED);
    replica_welcome_put(&welcome, bytes);
    assert_int_equal(replica_welcome_get(bytes, &got, &fault), 0);
    assert_true(replica_id_equal(&welcome.held.id, &got.held.id) && got.held.sum == 4 &&
                got.tells_blocks);
    bytes[32] = 2;
    assert_int_equal(replica_welcome_get(bytes, &got, &fault), ERR_UNSUPPORTED);
    bytes[32] = 0;
    memset(bytes + 16, 0, 8); /* a checkpoint without a number */
    assert_int_equal(replica_welcome_get(bytes, &got, &fault), ERR_CORRUPT);
}

static void blocks_come_back_as_they_were_and_fit_their_segment(void **state)
{
    (void)state;
    const struct replica_blocks blocks = {.region = 7, .count = 3, .first = UINT64_C(1) << 40};
    struct replica_blocks got;
    uint8_t have[REPLICA_HAVE_HEAD_BYTES], kept[REPLICA_KEPT_BYTES];
    struct fault fault = {0};

    replica_have_put(&blocks, have);
    assert_int_equal(
        replica_have_get(have, sizeof have + 3 * REPLICA_BLOCK_DIGEST_BYTES, &got, &fault), 0);
    assert_true(got.region == 7 && got.count == 3 && got.first == blocks.first);
    assert_int_equal(
        replica_have_get(have, sizeof have + 2 * REPLICA_BLOCK_DIGEST_BYTES, &got, &fault),
        ERR_CORRUPT);
    replica_kept_put(&blocks, kept);
    assert_int_equal(replica_kept_get(kept, &got, &fault), 0);
    assert_true(got.region == 7 && got.count == 3 && got.first == blocks.first);
    kept[20] = 1;
    assert_int_equal(replica_kept_get(kept, &got, &fault), ERR_CORRUPT);
    memset(kept, 0, sizeof kept); /* none */
    assert_int_equal(replica_kept_get(kept, &got, &fault), ERR_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_comes_back_as_it_was),
        cmocka_unit_test(any_changed_bit_of_a_head_is_found),
        cmocka_unit_test(lengths_numbers_and_directions_are_judged_by_type),
        cmocka_unit_test(a_body_must_be_its_heads),
        cmocka_unit_test(commits_and_what_is_held_come_back_as_they_were),
        cmocka_unit_test(blocks_come_back_as_they_were_and_fit_their_segment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
