/* What an agent that is started anew makes of a domain's start that libvirt was asked for before. */
#include "agent/start_mark.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "agent/vm/latch_file.h"
#include "agent/vm_table.h"
#include "agent/vm_word.h"
#include "base/err.h"
#include "base/loop.h"
#include "tests/support/agent_folders.h"

enum { GENERATION = 5 };

static struct agent_folders folders;
static struct loop *loop;
static struct vm_table *table;
static bool settled;
static unsigned told;
static struct fault fault;

static void on_vm(void *data, struct vm_entry *entry)
{
    (void)data;
    (void)entry;
    told++;
}

static void on_ended(void *data, struct vm_entry *entry)
{
    (void)data;
    (void)entry;
}

static void on_settled(void *data)
{
    (void)data;
    settled = true;
}

static void begin_agent(void)
{
    const struct vm_table_config config = {
        .loop = loop,
        .state_dir = folders.state,
        .run_dir = folders.run,
        .program = "/bin/false",
        .log_level = "error",
        .incarnation = "here",
        .on_vm = on_vm,
        .on_ended = on_ended,
        .on_settled = on_settled,
    };
    settled = false;
    told = 0;
    assert_int_equal(vm_table_new(&table, &config, &fault), 0);
    assert_int_equal(vm_table_load(table, &fault), 0);
    while (!settled)
        loop_turn(loop, true);
}

static void end_agent(void)
{
    (void)vm_table_free(table);
    table = NULL;
}

static int set_up(void **state)
{
    (void)state;
    agent_folders_make(&folders);
    fault = (struct fault){0};
    int r = loop_new(&loop, &fault);
    begin_agent();
    return r;
}

static int tear_down(void **state)
{
    struct vm_entry *entry = NULL;
    (void)state;

    assert_int_equal(vm_table_add(table, "v1", &entry, &fault), 0);
    entry->unreachable = false;
    vm_table_remove(entry); /* with its files */
    while (vm_table_count(table))
        loop_turn(loop, true);
    end_agent();
    loop = loop_free(loop);
    agent_folders_remove(&folders);
    return 0;
}

/* The mark of the start; and the latch, which says since when it runs as what. */
static void ask_and_latch(const struct latch_record *record)
{
    struct vm_entry *entry = NULL;
    struct latch_file *file = NULL;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    char path[VM_PATH_SIZE];
    int fd = -1;

    spec.name = (char *)(uintptr_t)"dom"; /* only read */
    spec.backend = (char *)(uintptr_t)"libvirt";
    assert_int_equal(vm_table_add(table, "v1", &entry, &fault), 0);
    assert_int_equal(start_mark_generation(entry), 0);
    assert_int_equal(start_mark_keep(entry, &spec, GENERATION, &fault), 0);
    assert_int_equal(start_mark_generation(entry), GENERATION);
    assert_int_equal(vm_entry_run_path(entry, "latch", path, &fault), 0);
    assert_int_equal(latch_file_create(path, &fd, &fault), 0);
    assert_int_equal(latch_file_open(&file, fd, &fault), 0);
    if (record->generation || record->move_generation)
        latch_file_put(file, record);
    (void)latch_file_free(file);
    end_agent();
}

static void ask_for_start(uint64_t latched)
{
    const struct latch_record record = {.generation = latched};

    ask_and_latch(&record);
}

static void a_start_that_libvirt_may_still_be_at_is_told_as_nothing(void **state)
{
    (void)state;
    ask_for_start(0);
    begin_agent();

    struct vm_entry *entry = vm_table_find(table, "v1");
    Godwit__VmStatus room;
    assert_int_equal(told, 0);
    assert_non_null(entry);
    assert_null(vm_word_list(entry, &room)); /* the pool orders it again */
    assert_true(entry->is_recalled); /* and no life of this host is over meanwhile */
    assert_false(vm_entry_is_alive(entry));
    assert_int_equal(vm_table_add(table, "v1", &entry, &fault), 0);
    assert_int_equal(entry->hiwater, 0);
    assert_int_equal(start_mark_generation(entry), GENERATION);
}

static void one_that_was_told_as_running_is_libvirts_to_tell_of(void **state)
{
    (void)state;
    ask_for_start(GENERATION);
    begin_agent();

    const struct vm_entry *entry = vm_table_find(table, "v1");
    assert_non_null(entry);
    assert_int_equal(told, 0); /* never as one that crashed */
    assert_true(entry->unreachable);
    assert_true(vm_entry_is_domain(entry));
    assert_int_equal(entry->status->state, GODWIT__VM_STATE__VM_STATE_RUNNING);
    assert_int_equal(entry->status->generation, GENERATION);
}

static void what_is_kept_of_it_since_stands(void **state)
{
    (void)state;
    struct vm_entry *entry = NULL;
    ask_for_start(GENERATION);
    begin_agent();
    assert_int_equal(vm_table_add(table, "v1", &entry, &fault), 0);
    entry->unreachable = false;
    vm_entry_set(entry, GODWIT__VM_STATE__VM_STATE_STOPPED, GENERATION, "why", true);
    end_agent();
    begin_agent();

    entry = vm_table_find(table, "v1");
    assert_non_null(entry);
    assert_false(entry->unreachable);
    assert_int_equal(entry->status->state, GODWIT__VM_STATE__VM_STATE_STOPPED);
}

/* The mark of a start that was refused outlived it; a move came after. */
static void a_mark_that_is_older_than_the_latch_hides_nothing(void **state)
{
    (void)state;
    static const struct latch_record records[] = {
        {.move_generation = GENERATION + 1, .move_id = "m", .latch = GODWIT__LATCH__LATCH_IN},
        {.generation = GENERATION + 3,
         .move_generation = GENERATION + 3,
         .move_id = "m",
         .latch = GODWIT__LATCH__LATCH_TOOK},
    };

    for (int kept = 0; kept < 4; kept++) {
        const struct latch_record *record = &records[kept / 2];
        struct vm_entry *entry = NULL;
        ask_and_latch(record);
        begin_agent();
        if (kept % 2) { /* the move in was kept; what it became was not */
            Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
            spec.name = (char *)(uintptr_t)"dom";
            spec.backend = (char *)(uintptr_t)"libvirt";
            assert_int_equal(vm_table_add(table, "v1", &entry, &fault), 0);
            assert_true(vm_entry_set_spec(entry, &spec));
            entry->unreachable = true;
            vm_entry_set(entry, GODWIT__VM_STATE__VM_STATE_INCOMING, 0, "", true);
            end_agent();
            begin_agent();
        }

        entry = vm_table_find(table, "v1");
        assert_non_null(entry);
        assert_true(vm_entry_is_alive(entry));
        assert_true(vm_entry_is_domain(entry));
        entry->unreachable = false;
        vm_table_remove(entry);
        while (vm_table_count(table))
            loop_turn(loop, true);
    }
}

static void a_dropped_mark_is_there_no_more(void **state)
{
    (void)state;
    ask_for_start(0);
    begin_agent();
    struct vm_entry *entry = NULL;
    assert_int_equal(vm_table_add(table, "v1", &entry, &fault), 0);

    start_mark_drop(entry);
    start_mark_drop(entry); /* none is as good */

    assert_int_equal(start_mark_generation(entry), 0);
}

int main(void)
{
#define ON_TABLE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ON_TABLE(a_start_that_libvirt_may_still_be_at_is_told_as_nothing),
        ON_TABLE(one_that_was_told_as_running_is_libvirts_to_tell_of),
        ON_TABLE(what_is_kept_of_it_since_stands),
        ON_TABLE(a_mark_that_is_older_than_the_latch_hides_nothing),
        ON_TABLE(a_dropped_mark_is_there_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
