/* A start of a life that was fenced is void, also one whose process is still to be made: nobody could name it. */
#include "agent/quarantine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/host_facts.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "tests/support/agent_folders.h"

static struct agent_folders folders;
static struct loop *loop;
static struct vm_table *table;
static struct vm_entry *entry;
static struct host_facts *facts;
static struct quarantine *quarantine;
static bool is_over;
static struct fault fault;

static void nobody_hears(void *data, struct vm_entry *of)
{
    (void)data;
    (void)of;
}

static void on_over(void *data)
{
    (void)data;
    is_over = true;
}

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    agent_folders_make(&folders);
    assert_int_equal(loop_new(&loop, &fault), 0);
    const struct vm_table_config config = {
        .loop = loop,
        .state_dir = folders.state,
        .run_dir = folders.run,
        .program = "/bin/false",
        .log_level = "error",
        .incarnation = "here",
        .on_vm = nobody_hears,
    };
    is_over = false;
    assert_int_equal(vm_table_new(&table, &config, &fault), 0);
    assert_int_equal(vm_table_add(table, "v1", &entry, &fault), 0);
    assert_int_equal(host_facts_new(&facts, "node1", "127.0.0.1", folders.run, &fault), 0);
    return quarantine_new(&quarantine, loop, table, facts, &fault);
}

static int tear_down(void **state)
{
    (void)state;
    quarantine = quarantine_free(quarantine);
    facts = host_facts_free(facts);
    vm_table_remove(entry);
    table = vm_table_free(table);
    loop = loop_free(loop);
    agent_folders_remove(&folders);
    return 0;
}

/* A few looks of its timer's. */
static void some_turns(void)
{
    for (int i = 0; i < 5 && !is_over; i++)
        loop_turn(loop, true);
}

static void is_waited_for(const Godwit__AgentWelcome *named)
{
    quarantine_begin(quarantine, named, on_over, NULL);
    some_turns();
    assert_false(is_over);

    entry->starting = false; /* it came to nothing */
    while (!is_over)
        loop_turn(loop, true);
}

static void a_start_without_a_process_is_ended_and_waited_for(void **state)
{
    (void)state;
    entry->starting = true; /* its disks are being opened on a worker */

    quarantine_begin(quarantine, NULL, on_over, NULL);
    some_turns();
    assert_true(entry->start_ends);
    is_waited_for(NULL);
}

static void also_where_others_were_named(void **state)
{
    (void)state;
    const Godwit__AgentWelcome named = GODWIT__AGENT_WELCOME__INIT;
    entry->starting = true;

    is_waited_for(&named);

    assert_true(entry->start_ends);
}

/* The next move in here would be refused for it. */
static void a_move_in_is_waited_for_alone(void **state)
{
    (void)state;
    entry->starting = entry->starting_moves_in = true;

    is_waited_for(NULL);

    assert_false(entry->start_ends);
}

static void what_does_not_run_is_not_waited_for(void **state)
{
    (void)state;
    quarantine_begin(quarantine, NULL, on_over, NULL);
    while (!is_over)
        loop_turn(loop, true);
}

int main(void)
{
#define ON_HOST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ON_HOST(a_start_without_a_process_is_ended_and_waited_for),
        ON_HOST(also_where_others_were_named),
        ON_HOST(a_move_in_is_waited_for_alone),
        ON_HOST(what_does_not_run_is_not_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
