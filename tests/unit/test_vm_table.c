#include "agent/vm_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/vm/latch_file.h"
#include "agent/vm_bin.h"
#include "agent/vm_end.h"
#include "agent/vm_process.h"
#include "base/config.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/method.h"

static char state_dir[64], run_dir[64];
static struct loop *loop;
static bool settled;
static unsigned told;

static void on_vm(void *data, struct vm_entry *entry)
{
    (void)data;
    (void)entry;
    told++;
}

static void on_move(void *data, struct vm_entry *entry, const Godwit__MoveEvent *event)
{
    (void)data;
    (void)entry;
    (void)event;
}

static void on_console(void *data, struct vm_entry *entry, const Godwit__ConsoleData *event)
{
    (void)data;
    (void)entry;
    (void)event;
}

static void on_ended(void *data, struct vm_entry *entry)
{
    (void)data;
    (void)entry;
}

static bool discarded_told, discarded_ran;

static void on_discarded(void *data, struct vm_entry *entry, bool has_run)
{
    (void)data;
    (void)entry;
    discarded_told = true;
    discarded_ran = has_run;
}

static void on_settled(void *data)
{
    (void)data;
    settled = true;
}

static struct vm_table *open_table(void)
{
    struct vm_table *table = NULL;
    struct fault fault = {0};
    const struct vm_table_config config = {
        .loop = loop,
        .state_dir = state_dir,
        .run_dir = run_dir,
        .program = "/bin/false",
        .log_level = "error",
        .incarnation = "here",
        .on_vm = on_vm,
        .on_move = on_move,
        .on_console = on_console,
        .on_ended = on_ended,
        .on_discarded = on_discarded,
        .on_settled = on_settled,
    };
    settled = false;
    assert_int_equal(vm_table_new(&table, &config, &fault), 0);
    return table;
}

static void load(struct vm_table *table)
{
    struct fault fault = {0};

    assert_int_equal(vm_table_load(table, &fault), 0);
    while (!settled)
        loop_turn(loop, true);
}

static int set_up(void **state)
{
    (void)state;
    struct fault fault = {0};
    (void)snprintf(state_dir, sizeof state_dir, "/tmp/godwit-table-s.XXXXXX");
    (void)snprintf(run_dir, sizeof run_dir, "/tmp/godwit-table-r.XXXXXX");
    assert_non_null(mkdtemp(state_dir));
    assert_non_null(mkdtemp(run_dir));
    told = 0;
    return loop_new(&loop, &fault);
}

static int tear_down(void **state)
{
    (void)state;
    char path[128];
    loop = loop_free(loop);
    (void)snprintf(path, sizeof path, "%s/vms", state_dir);
    (void)rmdir(path);
    (void)snprintf(path, sizeof path, "%s/vms", run_dir);
    (void)rmdir(path);
    (void)rmdir(state_dir);
    (void)rmdir(run_dir);
    return 0;
}

static struct vm_entry *add(struct vm_table *table, Godwit__VmState state, uint64_t generation)
{
    struct vm_entry *entry = NULL;
    struct fault fault = {0};
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;

    spec.name = (char *)"db-01";
    assert_int_equal(vm_table_add(table, "v1", &entry, &fault), 0);
    assert_true(vm_entry_set_spec(entry, &spec));
    vm_entry_set(entry, state, generation, "why", true);
    return entry;
}

static void remembers_a_stopped_vm(void **state)
{
    (void)state;
    struct vm_table *table = open_table();
    load(table);
    (void)add(table, GODWIT__VM_STATE__VM_STATE_STOPPED, 5);
    assert_int_equal(told, 1);
    (void)vm_table_free(table);

    table = open_table();
    load(table);

    struct vm_entry *entry = vm_table_find(table, "v1");
    assert_non_null(entry);
    assert_int_equal(entry->status->state, GODWIT__VM_STATE__VM_STATE_STOPPED);
    assert_int_equal(entry->status->generation, 5);
    assert_int_equal(entry->hiwater, 5);
    assert_string_equal(entry->status->reason, "why");
    assert_string_equal(entry->status->spec->name, "db-01");
    vm_table_remove(entry);
    assert_int_equal(vm_table_count(table), 0);
    (void)vm_table_free(table);
}

static void what_ran_before_a_boot_has_crashed(void **state)
{
    (void)state;
    struct vm_table *table = open_table();
    load(table);
    (void)add(table, GODWIT__VM_STATE__VM_STATE_RUNNING, 5);
    (void)vm_table_free(table);

    table = open_table();
    load(table);

    struct vm_entry *entry = vm_table_find(table, "v1");
    assert_non_null(entry);
    assert_int_equal(entry->status->state, GODWIT__VM_STATE__VM_STATE_CRASHED);
    assert_string_equal(entry->status->reason, "the host was started anew");
    vm_table_remove(entry);
    while (vm_table_count(table))
        loop_turn(loop, true);
    (void)vm_table_free(table);
}

static void a_damaged_file_is_left_alone(void **state)
{
    (void)state;
    struct vm_table *table = open_table();
    struct fault fault = {0};
    char path[128];
    load(table);
    (void)add(table, GODWIT__VM_STATE__VM_STATE_STOPPED, 5);
    (void)vm_table_free(table);
    (void)snprintf(path, sizeof path, "%s/vms/v1/vm.bin", state_dir);
    assert_int_equal(file_write_atomic(path, 0600, "damaged", 7, &fault), 0);

    table = open_table();
    load(table);

    assert_null(vm_table_find(table, "v1"));
    assert_int_equal(access(path, F_OK), 0);
    (void)vm_table_free(table);
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/vms/v1", state_dir);
    (void)rmdir(path);
    (void)snprintf(path, sizeof path, "%s/vms/v1", run_dir);
    (void)rmdir(path);
}

/* An agent that is killed while it writes leaves the file it wrote aside. */
static void what_a_killed_agent_wrote_half_is_gone_after_the_next_start(void **state)
{
    (void)state;
    struct vm_table *table = open_table();
    struct fault fault = {0};
    char half[160], foreign[160];
    load(table);
    (void)add(table, GODWIT__VM_STATE__VM_STATE_STOPPED, 5);
    (void)vm_table_free(table);
    (void)snprintf(half, sizeof half, "%s/vms/v1/vm.bin.4711.new", state_dir);
    (void)snprintf(foreign, sizeof foreign, "%s/vms/v1/vm.bin.4711.newer", state_dir);
    assert_int_equal(file_write_atomic(half, 0600, "half", 4, &fault), 0);
    assert_int_equal(file_write_atomic(foreign, 0600, "kept", 4, &fault), 0);

    table = open_table();
    load(table);

    struct vm_entry *entry = vm_table_find(table, "v1");
    assert_non_null(entry);
    assert_int_equal(entry->status->generation, 5);
    assert_int_not_equal(access(half, F_OK), 0);
    assert_int_equal(access(foreign, F_OK), 0); /* nothing that is not its own */
    assert_int_equal(unlink(foreign), 0);
    vm_table_remove(entry);
    (void)vm_table_free(table);
    (void)snprintf(half, sizeof half, "%s/vms/v1", state_dir);
    assert_int_not_equal(access(half, F_OK), 0);
}

static void remembers_generations_of_the_journal(void **state)
{
    (void)state;
    struct vm_table *table = open_table();
    vm_table_note_generation(table, "v1", 9);
    vm_table_note_generation(table, "v1", 8);
    load(table);

    struct vm_entry *entry = add(table, GODWIT__VM_STATE__VM_STATE_STOPPED, 5);

    assert_int_equal(entry->hiwater, 9);
    vm_table_remove(entry);
    while (vm_table_count(table))
        loop_turn(loop, true);
    (void)vm_table_free(table);
}

static void a_generation_that_was_refused_stays_seen(void **state)
{
    (void)state;
    struct vm_table *table = open_table();
    load(table);
    assert_int_equal(vm_table_hiwater(table, "v1"), 0);
    struct vm_entry *entry = add(table, GODWIT__VM_STATE__VM_STATE_STOPPED, 5);

    vm_table_refuse(table, "v1", 7);
    vm_table_refuse(table, "v1", 6); /* an older one changes nothing */
    vm_table_refuse(table, "v2", 3); /* which is not here */

    assert_int_equal(entry->hiwater, 7);
    vm_table_remove(entry);
    while (vm_table_count(table))
        loop_turn(loop, true);
    assert_int_equal(vm_table_hiwater(table, "v1"), 7); /* also when it is gone */
    assert_int_equal(vm_table_hiwater(table, "v2"), 3);
    (void)vm_table_free(table);
}

/* ---- starts that failed ---- */
enum { HAS = 5, STARTS_AS = 7 };

/* Its process ends before it has answered, and left word that it holds `held`. */
static struct vm_entry *lose_a_start(struct vm_table *table, bool from_file, uint64_t held)
{
    struct vm_entry *entry = add(table, GODWIT__VM_STATE__VM_STATE_STOPPED, HAS);
    const struct latch_record record = {.generation = held};
    struct latch_file *file = NULL;
    struct fault fault = {0};
    char path[VM_PATH_SIZE];
    int fd = -1;

    entry->starting = true;
    entry->starting_generation = STARTS_AS;
    entry->starting_from_file = from_file;
    entry->starting_runs = true;
    assert_int_equal(vm_entry_run_path(entry, "latch", path, &fault), 0);
    assert_int_equal(latch_file_create(path, &fd, &fault), 0);
    assert_int_equal(latch_file_open(&file, fd, &fault), 0);
    latch_file_put(file, &record);
    (void)latch_file_free(file);
    assert_int_equal(vm_entry_spawn(entry, "db-01", &fault), 0); /* /bin/false: it ends at once */
    discarded_told = false;
    vm_entry_discard(entry);
    while (!discarded_told)
        loop_turn(loop, true);
    while (entry->saving)
        loop_turn(loop, true);
    assert_false(entry->starting);
    assert_null(entry->process);
    return entry;
}

static void forget(struct vm_table *table, struct vm_entry *entry)
{
    vm_table_remove(entry);
    while (vm_table_count(table))
        loop_turn(loop, true);
    (void)vm_table_free(table);
}

static void a_start_that_was_lost_after_it_may_have_run_has_crashed(void **state)
{
    (void)state;
    for (int boots = 0; boots < 2; boots++) {
        struct vm_table *table = open_table();
        load(table);
        told = 0;

        struct vm_entry *entry = lose_a_start(table, !boots, STARTS_AS);

        assert_true(discarded_ran);
        assert_int_equal(entry->status->state, GODWIT__VM_STATE__VM_STATE_CRASHED);
        assert_int_equal(entry->status->generation, STARTS_AS);
        assert_int_equal(entry->hiwater, STARTS_AS);
        assert_int_equal(told, 2);
        forget(table, entry);
    }
}

static void a_start_that_was_lost_before_anything_ran_is_as_before(void **state)
{
    (void)state;
    for (int boots = 0; boots < 2; boots++) {
        struct vm_table *table = open_table();
        load(table);

        struct vm_entry *entry = lose_a_start(table, !boots, 0);

        assert_false(discarded_ran);
        assert_int_equal(entry->status->state, GODWIT__VM_STATE__VM_STATE_STOPPED);
        assert_int_equal(entry->status->generation, HAS);
        forget(table, entry);
    }
}

/* Else one that moved once, and is just being started, would pass for the target of a move. */
static void a_latch_of_a_move_that_is_over_says_nothing_of_a_process_that_runs_nothing_yet(void **state)
{
    (void)state;
    struct vm_table *table = open_table();
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    Godwit__MoveLatch latch = GODWIT__MOVE_LATCH__INIT;
    load(table);
    struct vm_entry *entry = add(table, GODWIT__VM_STATE__VM_STATE_STOPPED, HAS);
    status.vm_id = (char *)"v1";
    status.has_state = status.has_generation = true;
    status.state = GODWIT__VM_STATE__VM_STATE_STOPPED;
    status.generation = HAS;
    latch.move_id = (char *)"m";
    latch.has_latch = latch.has_generation = true;
    latch.latch = GODWIT__LATCH__LATCH_TOOK;
    latch.generation = HAS;
    status.latch = &latch;
    vm_entry_update(entry, &status);
    status.latch = NULL;
    vm_entry_update(entry, &status);
    assert_non_null(entry->status->latch); /* what a process that is no more left */

    entry->process = (struct vm_process *)(uintptr_t)&latch; /* not spoken to */
    status.state = GODWIT__VM_STATE__VM_STATE_INCOMING;
    status.generation = 0;
    vm_entry_update(entry, &status);
    assert_null(entry->status->latch);

    entry->process = NULL;
    while (entry->saving)
        loop_turn(loop, true);
    forget(table, entry);
}

/* ---- not heard yet ---- */
static struct rpc_request *unanswered[8];
static size_t unanswered_count;

static void stays_silent(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)message;
    assert_true(unanswered_count < ARRAY_COUNT(unanswered));
    unanswered[unanswered_count++] = request;
}

/* Of connections that have ended. */
static void put_away_unanswered(void)
{
    static const struct fault over = {.code = ERR_CLOSED, .text = "over"};
    while (unanswered_count > 0)
        (void)rpc_reply_fault(unanswered[--unanswered_count], &over);
}

/* It latched that it runs the guest; the word that it is over is of a life before. */
static void the_word_of_a_life_before_ends_no_process(void **state)
{
    (void)state;
    static const Godwit__VmState words[] = {GODWIT__VM_STATE__VM_STATE_GONE,
                                            GODWIT__VM_STATE__VM_STATE_STOPPED,
                                            GODWIT__VM_STATE__VM_STATE_CRASHED};
    static const struct rpc_method methods[] = {
        {METHOD_VM_STATUS, &godwit__empty__descriptor, stays_silent},
        {METHOD_VM_QUIT, &godwit__vm_action__descriptor, stays_silent},
    };
    static const struct rpc_service service = {.methods = methods,
                                               .method_count = ARRAY_COUNT(methods)};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        struct fault fault = {0};
        struct vm_process *process = NULL;
        struct rpc *its = NULL;
        int fds[2];
        struct vm_table *table = open_table();
        load(table);
        struct vm_entry *entry = add(table, words[i], HAS);
        const struct vm_process_config config = {
            .loop = loop, .vm_id = "v1", .name = "db-01", .socket_path = "/none", .log_path = "/none"};
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        assert_int_equal(vm_process_open(&process, &config, fds[0], &fault), 0);
        assert_int_equal(rpc_new_unix(&its, loop, fds[1], &service, NULL, &fault), 0);
        vm_entry_adopt_replica(entry, process, NULL, NULL);
        Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
        event.vm_id = (char *)"v1";
        event.move_id = (char *)"m";
        event.has_generation = event.has_latch = true;
        event.generation = HAS + 1;
        event.latch = GODWIT__LATCH__LATCH_TOOK;

        assert_int_equal(rpc_send_event(its, METHOD_VM_MOVE_EVENT, &event.base, &fault), 0);
        while (!entry->status->latch)
            loop_turn(loop, true);
        bool was_ended = entry->quit_sent; /* judged once all is put away */

        Godwit__VmStatus status = GODWIT__VM_STATUS__INIT; /* its own */
        status.vm_id = (char *)"v1";
        status.has_state = status.has_generation = true;
        status.state = words[i];
        status.generation = HAS + 1;
        assert_int_equal(rpc_send_event(its, METHOD_VM_STATE_EVENT, &status.base, &fault), 0);
        while (entry->status->generation == HAS)
            loop_turn(loop, true);
        bool is_ended = entry->quit_sent;

        its = rpc_close(its);
        put_away_unanswered();
        while (entry->process || entry->saving)
            loop_turn(loop, true);
        forget(table, entry);
        assert_false(was_ended);
        assert_true(is_ended);
    }
}

/* ---- ended while no agent looked ---- */
static void leave_latch(struct vm_entry *entry, const struct latch_record *record)
{
    struct latch_file *file = NULL;
    struct fault fault = {0};
    char path[VM_PATH_SIZE];
    int fd = -1;

    assert_int_equal(vm_entry_run_path(entry, "latch", path, &fault), 0);
    assert_int_equal(latch_file_create(path, &fd, &fault), 0);
    assert_int_equal(latch_file_open(&file, fd, &fault), 0);
    latch_file_put(file, record);
    (void)latch_file_free(file);
}

/* vm.bin says that it stopped as HAS; a process after that left this, and no agent has seen it since. */
static struct vm_entry *find_after(struct vm_table **ret_table, const struct latch_record *record)
{
    struct vm_table *table = open_table();
    load(table);
    struct vm_entry *entry = add(table, GODWIT__VM_STATE__VM_STATE_STOPPED, HAS);
    while (entry->saving)
        loop_turn(loop, true);
    assert_int_equal(vm_table_add(table, "v1", &entry, &(struct fault){0}), 0); /* its folder in RUN again */
    leave_latch(entry, record);
    (void)vm_table_free(table);
    *ret_table = open_table();
    load(*ret_table);
    entry = vm_table_find(*ret_table, "v1");
    assert_non_null(entry);
    while (entry->saving)
        loop_turn(loop, true);
    return entry;
}

static void a_process_that_latched_a_newer_generation_had_run(void **state)
{
    (void)state;
    struct vm_table *table;
    const struct latch_record record = {.generation = STARTS_AS};

    struct vm_entry *entry = find_after(&table, &record);

    assert_int_equal(entry->status->state, GODWIT__VM_STATE__VM_STATE_CRASHED);
    assert_int_equal(entry->status->generation, STARTS_AS);
    assert_int_equal(entry->hiwater, STARTS_AS); /* it is never started as that again */
    forget(table, entry);
}

static void a_target_that_took_while_nothing_was_kept_had_taken(void **state)
{
    (void)state;
    struct vm_table *table;
    const struct latch_record record = {.generation = STARTS_AS,
                                        .move_generation = STARTS_AS,
                                        .move_id = "m",
                                        .latch = GODWIT__LATCH__LATCH_TOOK};

    struct vm_entry *entry = find_after(&table, &record);

    assert_int_equal(entry->status->state, GODWIT__VM_STATE__VM_STATE_CRASHED);
    assert_int_equal(entry->status->generation, STARTS_AS);
    assert_int_equal(entry->status->latch->latch, GODWIT__LATCH__LATCH_TOOK); /* else its source might resume */
    forget(table, entry);
}

static void a_target_that_never_took_has_abandoned_its_move(void **state)
{
    (void)state;
    struct vm_table *table;
    const struct latch_record record = {
        .move_generation = STARTS_AS, .move_id = "m", .latch = GODWIT__LATCH__LATCH_READY};

    struct vm_entry *entry = find_after(&table, &record);

    assert_int_equal(entry->status->state, GODWIT__VM_STATE__VM_STATE_GONE);
    assert_int_equal(entry->status->generation, HAS);
    assert_int_equal(entry->status->latch->latch, GODWIT__LATCH__LATCH_ABANDONED);
    forget(table, entry);
}

/* What is known already stays as it was told: an old latch is no news. */
static void a_latch_that_is_no_newer_changes_nothing(void **state)
{
    (void)state;
    static const struct latch_record records[] = {
        {.generation = HAS}, {.generation = HAS - 1}, {.generation = 0}};

    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++) {
        struct vm_table *table;
        struct vm_entry *entry = find_after(&table, &records[i]);
        assert_int_equal(entry->status->state, GODWIT__VM_STATE__VM_STATE_STOPPED);
        assert_int_equal(entry->status->generation, HAS);
        assert_string_equal(entry->status->reason, "why");
        forget(table, entry);
    }
}

static void a_damaged_body_does_not_decode(void **state)
{
    (void)state;
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    Godwit__VmStatus *back = NULL;
    struct fault fault = {0};
    uint8_t *bytes;
    size_t count;
    status.vm_id = (char *)"v1";
    assert_int_equal(vm_bin_encode(&status, &bytes, &count), 0);

    assert_int_equal(vm_bin_decode(bytes, count, &back, &fault), 0);
    godwit__vm_status__free_unpacked(back, NULL);
    bytes[count - 1] ^= 1;
    assert_int_equal(vm_bin_decode(bytes, count, &back, &fault), ERR_CORRUPT);
    assert_int_equal(vm_bin_decode(bytes, count - 1, &back, &fault), ERR_CORRUPT);
    free(bytes);
}

static void an_end_means_what_the_latch_says(void **state)
{
    (void)state;
    static const struct {
        unsigned latch;
        uint64_t generation;
        Godwit__VmState state;
        bool abandons;
    } rows[] = {
        {GODWIT__LATCH__LATCH_NONE, 3, GODWIT__VM_STATE__VM_STATE_CRASHED, false},
        {GODWIT__LATCH__LATCH_OUT, 3, GODWIT__VM_STATE__VM_STATE_CRASHED, false},
        {GODWIT__LATCH__LATCH_ABORTED, 3, GODWIT__VM_STATE__VM_STATE_CRASHED, false},
        {GODWIT__LATCH__LATCH_GAVE, 3, GODWIT__VM_STATE__VM_STATE_GONE, false},
        {GODWIT__LATCH__LATCH_RELEASED, 3, GODWIT__VM_STATE__VM_STATE_GONE, false},
        {GODWIT__LATCH__LATCH_IN, 0, GODWIT__VM_STATE__VM_STATE_GONE, true},
        {GODWIT__LATCH__LATCH_READY, 0, GODWIT__VM_STATE__VM_STATE_GONE, true},
        {GODWIT__LATCH__LATCH_ABANDONED, 0, GODWIT__VM_STATE__VM_STATE_GONE, false},
        {GODWIT__LATCH__LATCH_TOOK, 4, GODWIT__VM_STATE__VM_STATE_CRASHED, false},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct latch_record record = {.latch = (uint8_t)rows[i].latch,
                                            .generation = rows[i].generation,
                                            .move_generation = 4,
                                            .move_id = "m"};
        struct vm_end end;
        vm_end_decide(&record, "killed by signal 9", false, &end);
        assert_int_equal(end.state, rows[i].state);
        assert_int_equal(end.abandons, rows[i].abandons);
        assert_true(end.reason[0] != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(remembers_a_stopped_vm, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_ran_before_a_boot_has_crashed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_damaged_file_is_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            what_a_killed_agent_wrote_half_is_gone_after_the_next_start, set_up, tear_down),
        cmocka_unit_test_setup_teardown(remembers_generations_of_the_journal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_generation_that_was_refused_stays_seen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_start_that_was_lost_after_it_may_have_run_has_crashed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_start_that_was_lost_before_anything_ran_is_as_before, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            a_latch_of_a_move_that_is_over_says_nothing_of_a_process_that_runs_nothing_yet, set_up,
            tear_down),
        cmocka_unit_test_setup_teardown(the_word_of_a_life_before_ends_no_process, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_process_that_latched_a_newer_generation_had_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_target_that_took_while_nothing_was_kept_had_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_target_that_never_took_has_abandoned_its_move, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_latch_that_is_no_newer_changes_nothing, set_up, tear_down),
        cmocka_unit_test(a_damaged_body_does_not_decode),
        cmocka_unit_test(an_end_means_what_the_latch_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
