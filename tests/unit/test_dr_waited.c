/* What is still waited for after a failover or failback was begun. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cli/dr_waited.h"

enum { VMS = 3 };

struct told {
    Godwit__DrInfo infos[VMS], *list[VMS];
    Godwit__DrReply reply;
};

static void tell(struct told *told, const char *vm, const char *state, uint64_t began)
{
    if (told->reply.n_vms == 0) {
        godwit__dr_reply__init(&told->reply);
        told->reply.vms = told->list;
    }
    Godwit__DrInfo *info = &told->infos[told->reply.n_vms];
    godwit__dr_info__init(info);
    info->vm = (char *)(uintptr_t)vm;
    info->last_state = (char *)(uintptr_t)state;
    info->state = (char *)(uintptr_t) "failing-back";
    info->has_began_unix_ms = true;
    info->began_unix_ms = began;
    told->list[told->reply.n_vms++] = info;
}

static void each_is_over_when_it_ended(void **ignored)
{
    (void)ignored;
    struct told begun = {0}, first = {0}, last = {0};
    struct dr_waiteds waiteds;
    tell(&begun, "web", "running", 5);
    tell(&begun, "db", "running", 6);
    tell(&begun, "idle", "done", 1);
    dr_waiteds_init(&waiteds, &begun.reply);
    assert_int_equal(waiteds.count, 2);
    tell(&first, "idle", "done", 1);
    tell(&first, "web", "running", 5);
    tell(&first, "db", "done", 6);
    dr_waiteds_take(&waiteds, &first.reply, NULL);
    assert_int_equal(waiteds.open, 1);
    tell(&last, "web", "running", 9); /* another one, begun by somebody else */
    tell(&last, "db", "done", 6);
    dr_waiteds_take(&waiteds, &last.reply, NULL);
    assert_int_equal(waiteds.open, 0);
    assert_false(waiteds.vms[0].is_gone || waiteds.vms[1].is_gone);
    dr_waiteds_deinit(&waiteds);
}

static void one_whose_protection_was_ended_is_over(void **ignored)
{
    (void)ignored;
    struct told begun = {0}, told = {0};
    struct dr_waiteds waiteds;
    tell(&begun, "web", "running", 5);
    tell(&begun, "db", "running", 6);
    dr_waiteds_init(&waiteds, &begun.reply);
    tell(&told, "db", "running", 6);
    dr_waiteds_take(&waiteds, &told.reply, NULL);
    assert_int_equal(waiteds.open, 1);
    assert_true(waiteds.vms[0].is_over && waiteds.vms[0].is_gone);
    dr_waiteds_take(&waiteds, &told.reply, NULL);
    assert_int_equal(waiteds.open, 1); /* counted once */
    dr_waiteds_deinit(&waiteds);
}

static void a_step_is_told_once(void **ignored)
{
    (void)ignored;
    struct told begun = {0}, told = {0};
    struct dr_waiteds waiteds;
    char text[256] = "";
    FILE *talk = fmemopen(text, sizeof text, "w");
    assert_non_null(talk);
    tell(&begun, "web", "running", 5);
    dr_waiteds_init(&waiteds, &begun.reply);
    tell(&told, "web", "running", 5);
    dr_waiteds_take(&waiteds, &told.reply, talk);
    dr_waiteds_take(&waiteds, &told.reply, talk);
    (void)fclose(talk);
    assert_string_equal(text, "  web  failing-back\n");
    dr_waiteds_deinit(&waiteds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_over_when_it_ended),
        cmocka_unit_test(one_whose_protection_was_ended_is_over),
        cmocka_unit_test(a_step_is_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
