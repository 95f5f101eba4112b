#include "agent/vm_word.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/vm_table.h"

static Godwit__VmStatus status, room;

/* What an earlier agent knew to run; something is there. */
static struct vm_entry entry_of(bool is_unconfirmed)
{
    godwit__vm_status__init(&status);
    status.vm_id = (char *)(uintptr_t) "v1";
    status.has_state = status.has_generation = true;
    status.state = GODWIT__VM_STATE__VM_STATE_RUNNING;
    status.generation = 5;
    return (struct vm_entry){
        .id = "v1", .status = &status, .unreachable = true, .is_unconfirmed = is_unconfirmed};
}

static void what_has_not_answered_is_listed_as_unknown_whatever_was_known_of_it(void **state)
{
    (void)state;
    struct vm_entry entry = entry_of(true);

    Godwit__VmStatus *word = vm_word_list(&entry, &room);

    assert_ptr_equal(word, &room);
    assert_string_equal(word->vm_id, "v1");
    assert_int_equal(word->state, GODWIT__VM_STATE__VM_STATE_NONE);
    assert_false(word->has_generation || word->latch || word->suspend_nonce);
    status.has_state = false; /* vm.bin was lost: there is something all the same */
    assert_ptr_equal(vm_word_list(&entry, &room), &room);
}

static void what_is_known_is_listed_as_it_is(void **state)
{
    (void)state;
    struct vm_entry entry = entry_of(false);

    assert_ptr_equal(vm_word_list(&entry, &room), &status);
    entry.starting = true; /* its order's answer tells */
    assert_null(vm_word_list(&entry, &room));
    entry = entry_of(true);
    entry.unreachable = false; /* it is gone, and what was known of it is all there is */
    assert_ptr_equal(vm_word_list(&entry, &room), &status);
}

static void the_first_word_after_an_unknown_is_marked_and_no_other(void **state)
{
    (void)state;
    struct vm_entry entry = entry_of(true);
    Godwit__AgentVmEvent event;
    (void)vm_word_list(&entry, &room);

    assert_false(vm_word_event(&entry, &event)); /* it has still not answered */
    entry.is_unconfirmed = false;
    assert_true(vm_word_event(&entry, &event));
    assert_ptr_equal(event.vm, &status);
    assert_true(event.is_first_word);
    assert_true(vm_word_event(&entry, &event));
    assert_false(event.is_first_word);
}

/* An earlier agent began its start, and it goes on alone: it is not known which generation it becomes, if any. */
static void a_process_that_runs_nothing_yet_is_unknown_also_when_it_has_said_so(void **state)
{
    (void)state;
    struct vm_entry entry = entry_of(false);
    Godwit__AgentVmEvent event;
    status.state = GODWIT__VM_STATE__VM_STATE_NONE;
    status.has_generation = false;
    status.generation = 0;

    assert_ptr_equal(vm_word_list(&entry, &room), &room);
    assert_false(vm_word_event(&entry, &event)); /* its first word is what becomes of it */
    status.state = GODWIT__VM_STATE__VM_STATE_RUNNING;
    status.has_generation = true;
    status.generation = 6;
    assert_true(vm_word_event(&entry, &event));
    assert_true(event.is_first_word);
    assert_true(vm_word_event(&entry, &event));
    assert_false(event.is_first_word);
}

static void an_answer_that_says_nothing_is_no_first_word(void **state)
{
    (void)state;
    struct vm_entry entry = entry_of(true);
    Godwit__AgentVmEvent event;
    (void)vm_word_list(&entry, &room);
    entry.is_unconfirmed = false;
    status.state = GODWIT__VM_STATE__VM_STATE_NONE;
    status.generation = 0;

    assert_false(vm_word_event(&entry, &event)); /* it answered, and has nothing to say */
    entry.unreachable = false; /* it ended */
    status.state = GODWIT__VM_STATE__VM_STATE_CRASHED;
    assert_true(vm_word_event(&entry, &event));
    assert_true(event.is_first_word);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_has_not_answered_is_listed_as_unknown_whatever_was_known_of_it),
        cmocka_unit_test(what_is_known_is_listed_as_it_is),
        cmocka_unit_test(the_first_word_after_an_unknown_is_marked_and_no_other),
        cmocka_unit_test(a_process_that_runs_nothing_yet_is_unknown_also_when_it_has_said_so),
        cmocka_unit_test(an_answer_that_says_nothing_is_no_first_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
