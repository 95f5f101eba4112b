/* A status is one look at a machine whose move's thread sets latches meanwhile: between any two of its locks, here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/vm/machine_inside.h"
#include "agent/vm/move.h"

static struct machine machine;
static unsigned unlocks, latches_at; /* the thread comes after this unlock; 0: never */

bool __wrap_move_is_source(const struct move *move);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);

bool __wrap_move_is_source(const struct move *move)
{
    (void)move;
    return false;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    int r = __real_pthread_mutex_unlock(mutex);

    if (mutex == &machine.latch_mutex && ++unlocks == latches_at)
        machine.record.latch = GODWIT__LATCH__LATCH_TOOK;
    return r;
}

static void look(unsigned at, struct machine_status *ret_status)
{
    machine = (struct machine){
        .config = {.vm_id = "v1", .name = "web"},
        .state = GODWIT__VM_STATE__VM_STATE_INCOMING,
        .move = (struct move *)(uintptr_t)&machine, /* not looked into */
        .last_move_id = "m",
        .record = {.move_generation = 5, .move_id = "m", .latch = GODWIT__LATCH__LATCH_READY},
    };
    assert_int_equal(pthread_mutex_init(&machine.latch_mutex, NULL), 0);
    unlocks = 0;
    latches_at = at;
    machine_status(&machine, ret_status);
    (void)pthread_mutex_destroy(&machine.latch_mutex);
}

static void took_is_never_told_without_what_may_be_missing(void **state)
{
    (void)state;
    struct machine_status status;
    look(0, &status);
    unsigned looks = unlocks;
    assert_true(looks > 0);
    assert_int_equal(status.latch.latch, GODWIT__LATCH__LATCH_READY);
    assert_false(status.vm.in_postcopy);

    for (unsigned at = 1; at <= looks; at++) {
        look(at, &status);
        assert_true(status.latch.latch != GODWIT__LATCH__LATCH_TOOK || status.vm.in_postcopy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(took_is_never_told_without_what_may_be_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
