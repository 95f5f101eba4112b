#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/json.h"
#include "base/own.h"
#include "proto/pool.pb-c.h"
#include "proto/vm.pb-c.h"

/* A message with every kind of field that ours have. */
struct sample {
    Godwit__MoveEvent event;
    Godwit__MoveProgress progress;
    Godwit__MoveReceipt receipt;
    Godwit__MoveRound rounds[2];
    Godwit__MoveRound *round_list[2];
};

static void make_sample(struct sample *sample)
{
    *sample = (struct sample){.event = GODWIT__MOVE_EVENT__INIT,
                              .progress = GODWIT__MOVE_PROGRESS__INIT,
                              .receipt = GODWIT__MOVE_RECEIPT__INIT,
                              .rounds = {GODWIT__MOVE_ROUND__INIT, GODWIT__MOVE_ROUND__INIT}};
    sample->event.vm_id = (char *)"a\"b\\c\n\x01\xc3\xa4\xff";
    sample->event.has_at_target = sample->event.at_target = true;
    sample->progress.has_phase = true;
    sample->progress.phase = GODWIT__MOVE_PHASE__MOVE_PHASE_ROLLED_BACK;
    sample->event.progress = &sample->progress;
    sample->event.has_latch = true;
    sample->event.latch = GODWIT__LATCH__LATCH_GAVE;
    sample->event.has_generation = true;
    sample->event.generation = UINT64_MAX;
    for (size_t i = 0; i < 2; i++) {
        sample->rounds[i].has_number = true;
        sample->rounds[i].number = (uint32_t)i + 1;
        sample->round_list[i] = &sample->rounds[i];
    }
    sample->receipt.n_rounds = 2;
    sample->receipt.rounds = sample->round_list;
    sample->event.receipt = &sample->receipt;
}

static void prints_one_line_of_json(void **state)
{
    (void)state;
    struct sample sample;
    make_sample(&sample);
    AUTO_FREE char *text = NULL;

    assert_int_equal(json_print(&sample.event.base, JSON_FORM_COMPACT, &text, NULL), 0);

    assert_string_equal(text,
                        "{\"vm_id\":\"a\\\"b\\\\c\\n\\u0001\xc3\xa4\\ufffd\",\"at_target\":true,"
                        "\"progress\":{\"phase\":\"rolled-back\"},\"latch\":\"gave\",\"receipt\":{"
                        "\"phases\":[],\"rounds\":[{\"number\":1},{\"number\":2}]},"
                        "\"generation\":18446744073709551615}\n");
}

static void prints_json_that_others_read(void **state)
{
    (void)state;
    struct sample sample;
    make_sample(&sample);
    sample.event.has_generation = false; /* larger than jansson's numbers */
    const ProtobufCMessage *two[] = {&sample.event.base, &sample.receipt.base};
    AUTO_FREE char *text = NULL;
    json_error_t error;

    assert_int_equal(json_print_list(two, 2, JSON_FORM_PRETTY, &text, NULL), 0);

    json_t *list = json_loads(text, 0, &error);
    assert_non_null(list);
    assert_int_equal(json_array_size(list), 2);
    assert_true(json_is_true(json_object_get(json_array_get(list, 0), "at_target")));
    json_decref(list);
}

static void prints_yaml(void **state)
{
    (void)state;
    struct sample sample;
    make_sample(&sample);
    sample.event.vm_id = (char *)"true";
    AUTO_FREE char *text = NULL;

    assert_int_equal(json_print(&sample.event.base, JSON_FORM_YAML, &text, NULL), 0);

    assert_string_equal(text, "vm_id: \"true\"\n"
                              "at_target: true\n"
                              "progress:\n"
                              "  phase: rolled-back\n"
                              "latch: gave\n"
                              "receipt:\n"
                              "  phases: []\n"
                              "  rounds:\n"
                              "    - number: 1\n"
                              "    - number: 2\n"
                              "generation: 18446744073709551615\n");
}

static void prints_bytes_as_base64(void **state)
{
    (void)state;
    static const char *const expected[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="};
    for (size_t count = 0; count < ARRAY_COUNT(expected); count++) {
        Godwit__LogsReply reply = GODWIT__LOGS_REPLY__INIT;
        AUTO_FREE char *text = NULL;
        char line[64];
        reply.has_data = true;
        reply.data = (ProtobufCBinaryData){.len = count, .data = (uint8_t *)"foobar"};

        assert_int_equal(json_print(&reply.base, JSON_FORM_COMPACT, &text, NULL), 0);

        (void)snprintf(line, sizeof line, "{\"data\":\"%s\"}\n", expected[count]);
        assert_string_equal(text, line);
    }
}

static void prints_empty_things(void **state)
{
    (void)state;
    Godwit__Empty empty = GODWIT__EMPTY__INIT;
    static const char *const messages[] = {"{}\n", "{}\n", "{}\n"};
    static const char *const lists[] = {"[]\n", "", "[]\n"};
    for (int form = JSON_FORM_PRETTY; form <= JSON_FORM_YAML; form++) {
        AUTO_FREE char *message = NULL, *list = NULL;

        assert_int_equal(json_print(&empty.base, (enum json_form)form, &message, NULL), 0);
        assert_int_equal(json_print_list(NULL, 0, (enum json_form)form, &list, NULL), 0);

        assert_string_equal(message, messages[form]);
        assert_string_equal(list, lists[form]);
    }
}

static void prints_doubles_shortly_and_exactly(void **state)
{
    (void)state;
    Godwit__HostLoad load = GODWIT__HOST_LOAD__INIT;
    AUTO_FREE char *text = NULL;
    load.has_load = true;
    load.load = 0.1;

    assert_int_equal(json_print(&load.base, JSON_FORM_COMPACT, &text, NULL), 0);

    assert_string_equal(text, "{\"load\":0.1}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prints_one_line_of_json),
        cmocka_unit_test(prints_json_that_others_read),
        cmocka_unit_test(prints_yaml),
        cmocka_unit_test(prints_bytes_as_base64),
        cmocka_unit_test(prints_empty_things),
        cmocka_unit_test(prints_doubles_shortly_and_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
