#include "agent/held_orders.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "proto/agent.pb-c.h"

static struct held_orders held;
static struct fault fault;

static void hold_start(const char *vm_id, uint64_t generation)
{
    Godwit__OrderVmStart order = GODWIT__ORDER_VM_START__INIT;

    order.has_generation = true;
    order.generation = generation;
    assert_int_equal(held_orders_put(&held, vm_id, &order.base, NULL, &fault), 0);
}

static void hold_move(const char *vm_id)
{
    Godwit__MoveIn order = GODWIT__MOVE_IN__INIT;
    uint8_t key[] = {1, 2, 3};

    order.has_psk = true;
    order.psk = (ProtobufCBinaryData){.data = key, .len = sizeof key};
    assert_int_equal(held_orders_put(&held, vm_id, &order.base, NULL, &fault), 0);
}

static uint64_t generation_of(const struct held_order *order)
{
    assert_ptr_equal(order->order->descriptor, &godwit__order_vm_start__descriptor);
    return ((const Godwit__OrderVmStart *)order->order)->generation;
}

static void orders_are_taken_up_in_the_order_in_which_they_came(void **state)
{
    (void)state;
    hold_start("v1", 5);
    hold_start("v2", 9);
    hold_start("v1", 6);
    hold_move("v1");
    hold_start("v1", 7);

    struct held_order *order = held_orders_take(&held, "v1", NULL);
    assert_int_equal(generation_of(order), 5);
    order = held_order_free(order);
    assert_int_equal(generation_of(order), 6);
    order = held_order_free(order);
    assert_ptr_equal(order->order->descriptor, &godwit__move_in__descriptor);
    assert_int_equal(((const Godwit__MoveIn *)order->order)->psk.len, 3);
    order = held_order_free(order);
    assert_int_equal(generation_of(order), 7);
    assert_null(held_order_free(order));
    assert_false(held_orders_has(&held, "v1", NULL));
    assert_true(held_orders_has(&held, "v2", NULL)); /* another VM's wait for their own */
    held_orders_deinit(&held);
}

static void starts_alone_are_taken_where_a_start_is_what_was_waited_for(void **state)
{
    (void)state;
    hold_move("v1");
    hold_start("v1", 5);
    hold_start("v1", 6);
    assert_true(held_orders_has(&held, "v1", &godwit__order_vm_start__descriptor));

    struct held_order *order = held_orders_take(&held, "v1", &godwit__order_vm_start__descriptor);
    assert_int_equal(generation_of(order), 5);
    order = held_order_free(order);
    assert_int_equal(generation_of(order), 6);
    assert_null(held_order_free(order));
    assert_false(held_orders_has(&held, "v1", &godwit__order_vm_start__descriptor));
    assert_true(held_orders_has(&held, "v1", &godwit__move_in__descriptor));
    held_orders_deinit(&held);
}

/* Whoever takes them up must come to an end. */
static void what_is_kept_again_meanwhile_waits_for_the_next_time(void **state)
{
    (void)state;
    unsigned count = 0;
    hold_move("v1");
    hold_move("v1");

    struct held_order *order = held_orders_take(&held, "v1", NULL);
    while (order) {
        hold_move("v1"); /* what is in its way is there again */
        count++;
        order = held_order_free(order);
    }

    assert_int_equal(count, 2);
    order = held_orders_take(&held, "v1", NULL);
    assert_non_null(order);
    order = held_order_free(order);
    assert_non_null(order);
    assert_null(held_order_free(order));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(orders_are_taken_up_in_the_order_in_which_they_came),
        cmocka_unit_test(starts_alone_are_taken_where_a_start_is_what_was_waited_for),
        cmocka_unit_test(what_is_kept_again_meanwhile_waits_for_the_next_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
