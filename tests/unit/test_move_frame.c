#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "proto/move_frame.h"

static Godwit__MoveMessage transfer_message(Godwit__MoveTransfer *transfer)
{
    godwit__move_transfer__init(transfer);
    transfer->vm_id = "vm";
    transfer->move_id = "move";
    transfer->target_incarnation = "boot";
    transfer->has_generation = transfer->has_state_digest = 1;
    transfer->generation = 8;
    Godwit__MoveMessage message = GODWIT__MOVE_MESSAGE__INIT;
    message.body_case = GODWIT__MOVE_MESSAGE__BODY_TRANSFER;
    message.transfer = transfer;
    return message;
}

static int read_back(const uint8_t *bytes, size_t count, Godwit__MoveMessage **ret_message,
                     struct fault *fault)
{
    enum move_frame_type type;
    size_t body = 0;
    int r = move_frame_get(bytes, &type, &body, fault);
    if (r < 0)
        return r;
    if (body != count - MOVE_FRAME_HEADER_BYTES)
        return fault_set(fault, ERR_CORRUPT, "another length");
    r = move_frame_check(bytes, bytes + MOVE_FRAME_HEADER_BYTES, body, fault);
    return r < 0 ? r : move_frame_decode(bytes + MOVE_FRAME_HEADER_BYTES, body, ret_message, fault);
}

static void gives_back_what_was_sent(void **state)
{
    (void)state;
    Godwit__MoveTransfer transfer;
    Godwit__MoveMessage message = transfer_message(&transfer), *got = NULL;
    uint8_t *bytes = NULL;
    size_t count = 0;
    assert_int_equal(move_frame_encode(&message, &bytes, &count, NULL), 0);

    assert_int_equal(read_back(bytes, count, &got, NULL), 0);

    assert_int_equal(got->transfer->generation, 8);
    assert_string_equal(got->transfer->target_incarnation, "boot");
    godwit__move_message__free_unpacked(got, NULL);
    free(bytes);
}

static void refuses_every_flipped_bit(void **state)
{
    (void)state;
    Godwit__MoveTransfer transfer;
    Godwit__MoveMessage message = transfer_message(&transfer), *got = NULL;
    uint8_t *bytes = NULL;
    size_t count = 0;
    assert_int_equal(move_frame_encode(&message, &bytes, &count, NULL), 0);
    for (size_t bit = 0; bit < count * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(read_back(bytes, count, &got, NULL), ERR_CORRUPT);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(bytes);
}

static void refuses_missing_fields_and_limits_by_name(void **state)
{
    (void)state;
    Godwit__MoveTransfer transfer;
    Godwit__MoveMessage message = transfer_message(&transfer), *got = NULL;
    struct fault fault = {0};
    uint8_t packed[4096];
    transfer.move_id = NULL;
    size_t count = godwit__move_message__pack(&message, packed);
    assert_int_equal(move_frame_decode(packed, count, &got, &fault), ERR_CORRUPT);
    assert_string_equal(fault.text, "control lane: a message without the move's id");

    char longer[200];
    memset(longer, 'x', sizeof longer);
    longer[199] = '\0';
    transfer.move_id = longer;
    count = godwit__move_message__pack(&message, packed);
    assert_int_equal(move_frame_decode(packed, count, &got, &fault), ERR_CORRUPT);
    assert_string_equal(fault.text, "control lane: the move's id is longer than 127");
    assert_int_equal(move_frame_decode(packed, 0, &got, &fault), ERR_CORRUPT);
}

static int pack_and_decode(const Godwit__MoveMessage *message)
{
    uint8_t packed[4096];
    Godwit__MoveMessage *got = NULL;
    size_t count = godwit__move_message__pack(message, packed);
    int r = move_frame_decode(packed, count, &got, NULL);
    if (r == 0)
        godwit__move_message__free_unpacked(got, NULL);
    return r;
}

static void marks_are_whole_and_one_a_lane(void **state)
{
    (void)state;
    Godwit__MoveMark mark = GODWIT__MOVE_MARK__INIT, *marks[LANES_MAX + 1];
    Godwit__MoveResumed resumed = GODWIT__MOVE_RESUMED__INIT;
    Godwit__MoveMessage message = GODWIT__MOVE_MESSAGE__INIT;
    mark.has_epoch = mark.has_round = mark.has_frames = mark.has_running = 1;
    for (unsigned i = 0; i <= LANES_MAX; i++)
        marks[i] = &mark;
    message.body_case = GODWIT__MOVE_MESSAGE__BODY_RESUMED;
    message.resumed = &resumed;
    resumed.marks = marks;

    assert_int_equal(pack_and_decode(&message), ERR_CORRUPT);
    resumed.n_marks = LANES_MAX;
    assert_int_equal(pack_and_decode(&message), 0);
    resumed.n_marks = LANES_MAX + 1;
    assert_int_equal(pack_and_decode(&message), ERR_CORRUPT);
    resumed.n_marks = 1;
    mark.has_running = 0;
    assert_int_equal(pack_and_decode(&message), ERR_CORRUPT);
}

static void a_resume_names_its_move_and_epoch(void **state)
{
    (void)state;
    Godwit__MoveResume resume = GODWIT__MOVE_RESUME__INIT;
    Godwit__MoveMessage message = GODWIT__MOVE_MESSAGE__INIT;
    message.body_case = GODWIT__MOVE_MESSAGE__BODY_RESUME;
    message.resume = &resume;
    resume.has_generation = resume.has_epoch = 1;
    resume.move_id = "move";
    resume.epoch = 1;

    assert_int_equal(pack_and_decode(&message), 0);
    resume.epoch = LANE_EPOCH_MAX + 1;
    assert_int_equal(pack_and_decode(&message), ERR_CORRUPT);
    resume.epoch = 0;
    assert_int_equal(pack_and_decode(&message), ERR_CORRUPT);
    resume.epoch = 1;
    resume.move_id = NULL;
    assert_int_equal(pack_and_decode(&message), ERR_CORRUPT);
}

static void an_empty_frame_is_only_hot(void **state)
{
    (void)state;
    uint8_t bytes[MOVE_FRAME_HEADER_BYTES];
    enum move_frame_type type;
    size_t count = 1;
    move_frame_put_empty(MOVE_FRAME_HOT, bytes);
    assert_int_equal(move_frame_get(bytes, &type, &count, NULL), 0);
    assert_int_equal(type, MOVE_FRAME_HOT);
    assert_int_equal(count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_back_what_was_sent),
        cmocka_unit_test(refuses_every_flipped_bit),
        cmocka_unit_test(refuses_missing_fields_and_limits_by_name),
        cmocka_unit_test(an_empty_frame_is_only_hot),
        cmocka_unit_test(marks_are_whole_and_one_a_lane),
        cmocka_unit_test(a_resume_names_its_move_and_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
