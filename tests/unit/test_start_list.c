#include "agent/start_list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/held_orders.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "proto/agent.pb-c.h"
#include "tests/support/agent_folders.h"

static struct agent_folders folders;
static struct loop *loop;
static struct vm_table *table;
static struct vm_entry *entry;
static struct held_orders held, awaits;
static struct start_list list;
static struct fault fault;

static void nobody_hears(void *data, struct vm_entry *of)
{
    (void)data;
    (void)of;
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
    assert_int_equal(vm_table_new(&table, &config, &fault), 0);
    return vm_table_add(table, "v1", &entry, &fault);
}

static int tear_down(void **state)
{
    (void)state;
    start_list_deinit(&list);
    held_orders_deinit(&held);
    held_orders_deinit(&awaits);
    vm_table_remove(entry);
    table = vm_table_free(table);
    loop = loop_free(loop);
    agent_folders_remove(&folders);
    return 0;
}

static void put_start(struct held_orders *orders, const char *incarnation, uint64_t generation)
{
    Godwit__OrderVmStart order = GODWIT__ORDER_VM_START__INIT;

    order.vm_id = entry->id;
    order.incarnation = (char *)(uintptr_t)incarnation; /* only read */
    order.has_generation = true;
    order.generation = generation;
    assert_int_equal(held_orders_put(orders, "v1", &order.base, NULL, &fault), 0);
}

static size_t listed(void)
{
    start_list_deinit(&list);
    assert_int_equal(start_list_make(&list, table, &held, &awaits, "here", &fault), 0);
    for (size_t i = 0; i < list.count; i++)
        assert_string_equal(list.list[i]->vm_id, "v1");
    return list.count;
}

static void what_is_being_started_is_named_with_its_generation(void **state)
{
    (void)state;
    assert_int_equal(listed(), 0);

    entry->starting = true; /* its process is still to be made, or has no VM yet */
    entry->starting_generation = 7;

    assert_int_equal(listed(), 1);
    assert_true(list.list[0]->has_generation);
    assert_int_equal(list.list[0]->generation, 7);
    entry->starting = false; /* it runs, or came to nothing: HELLO says what it is */
    assert_int_equal(listed(), 0);
}

static void neither_a_move_in_nor_a_removal_is_a_start(void **state)
{
    (void)state;
    entry->starting = true;
    entry->starting_generation = 7;
    entry->starting_moves_in = true;
    assert_int_equal(listed(), 0);

    entry->starting_moves_in = false;
    entry->remove = true;
    assert_int_equal(listed(), 0);
}

static void what_libvirt_may_still_begin_is_named_too(void **state)
{
    (void)state;
    entry->is_recalled = true;
    entry->starting_generation = 7;

    assert_int_equal(listed(), 1);
    assert_int_equal(list.list[0]->generation, 7);
    entry->starting = true; /* it is spoken for, to be ended */
    assert_int_equal(listed(), 1);
}

static void a_start_that_waits_here_is_one_of_these(void **state)
{
    (void)state;
    Godwit__MoveIn move = GODWIT__MOVE_IN__INIT;
    uint8_t key[] = {1, 2, 3};
    move.has_psk = true;
    move.psk = (ProtobufCBinaryData){.data = key, .len = sizeof key};
    assert_int_equal(held_orders_put(&held, "v1", &move.base, NULL, &fault), 0);
    put_start(&held, "here", 7);

    assert_int_equal(listed(), 1);
    assert_int_equal(list.list[0]->generation, 7);
}

/* Its mark has raised what this host has seen, and libvirt may be at it since before this agent. */
static void one_that_waits_for_its_snapshot_is_named_also_where_it_was_begun_before(void **state)
{
    (void)state;
    put_start(&awaits, "here", 7);
    entry->hiwater = 7;

    assert_int_equal(listed(), 1);
    assert_int_equal(list.list[0]->generation, 7);
}

static void one_that_is_going_to_be_refused_is_not(void **state)
{
    (void)state;
    put_start(&held, "a life before", 8);
    put_start(&held, NULL, 8);
    put_start(&awaits, "a life before", 8);
    put_start(&held, "here", 7);
    entry->hiwater = 7;

    assert_int_equal(listed(), 0);
}

int main(void)
{
#define ON_HOST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ON_HOST(what_is_being_started_is_named_with_its_generation),
        ON_HOST(neither_a_move_in_nor_a_removal_is_a_start),
        ON_HOST(what_libvirt_may_still_begin_is_named_too),
        ON_HOST(a_start_that_waits_here_is_one_of_these),
        ON_HOST(one_that_waits_for_its_snapshot_is_named_also_where_it_was_begun_before),
        ON_HOST(one_that_is_going_to_be_refused_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
