/* Disks and stamps of a VM on two "hosts" that share a folder. Taps need a bridge: see
 * tests/host/test_tap.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/backends.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"

static char store[64];
static Godwit__DiskSpec root = GODWIT__DISK_SPEC__INIT;
static Godwit__DiskSpec *disks[] = {&root};
static Godwit__CloudInitSpec cloud = GODWIT__CLOUD_INIT_SPEC__INIT;
static Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
static struct backends backends;
static struct fault fault;

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    (void)snprintf(store, sizeof store, "/tmp/godwit-backends-XXXXXX");
    assert_non_null(mkdtemp(store));
    root.name = (char *)"root";
    root.store = store;
    root.file = (char *)"root.raw";
    root.has_size = true;
    root.size = MIB(2);
    root.has_shared = root.shared = true;
    spec.name = (char *)"web";
    spec.disks = disks;
    spec.n_disks = 1;
    spec.cloud_init = &cloud;
    fault = (struct fault){0};
    backends = (struct backends){0};
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    backends_close(&backends);
    (void)backends_remove(&spec, "vm1", &fault);
    return rmdir(store); /* fails when a disk, a stamp or a word is left */
}

static struct stamp stamp_of(const char *host, uint64_t generation)
{
    struct stamp stamp = {.generation = generation};
    if (generation) {
        (void)snprintf(stamp.owner, sizeof stamp.owner, "%s", host);
        (void)snprintf(stamp.incarnation, sizeof stamp.incarnation, "boot-%s", host);
    }
    return stamp;
}

static struct backends_ask ask(struct stamp expected, const char *host, uint64_t generation)
{
    return (struct backends_ask){.spec = &spec,
                                 .vm_id = "vm1",
                                 .host = host,
                                 .expected = expected,
                                 .wanted = stamp_of(host, generation)};
}

static void start_on_node1(void)
{
    const struct backends_ask start = ask((struct stamp){0}, "node1", 1);
    assert_int_equal(backends_start(&start, &backends, &fault), 0);
}

static void a_start_takes_the_stamp_makes_the_disk_and_opens_it(void **state)
{
    (void)state;

    start_on_node1();

    assert_int_equal(backends.disk_count, 2);
    assert_int_equal(backends.fd_count, 2);
    assert_int_equal(backends.disk_bytes[0], MIB(2));
    assert_int_equal(fcntl(backends.fds[0], F_GETFL) & O_ACCMODE, O_RDWR);
    struct stamp found, wanted = stamp_of("node1", 1);
    assert_int_equal(backends_read_stamp(&spec, "vm1", &found, &fault), 0);
    assert_true(stamp_is_equal(&found, &wanted));
}

static void a_move_in_is_checked_without_opening_anything(void **state)
{
    (void)state;
    struct backends seen;
    start_on_node1();
    const struct backends_ask check = ask(stamp_of("node1", 1), "node2", 2);

    assert_int_equal(backends_check(&check, &seen, &fault), 0);

    assert_int_equal(seen.fd_count, 0);
    assert_int_equal(seen.disk_count, 2);
    assert_int_equal(seen.disk_bytes[0], MIB(2));
    assert_int_equal(seen.disk_bytes[1], backends.disk_bytes[1]); /* the seed, made here too */
}

static void a_move_in_from_who_does_not_hold_the_disks_is_refused(void **state)
{
    (void)state;
    struct backends seen;
    start_on_node1();
    const struct backends_ask check = ask(stamp_of("node3", 1), "node2", 2);

    assert_int_equal(backends_check(&check, &seen, &fault), ERR_REFUSED);

    assert_non_null(strstr(fault.text, "the disks of web are node1's, as generation 1"));
}

static void after_took_the_disks_are_the_targets_and_never_the_sources_again(void **state)
{
    (void)state;
    struct backends taken;
    start_on_node1();
    const struct backends_ask take = ask(stamp_of("node1", 1), "node2", 2);

    assert_int_equal(backends_take(&take, &taken, &fault), 0);
    assert_int_equal(taken.fd_count, 2);
    backends_close(&taken);

    struct stamp again = stamp_of("node1", 3);
    assert_int_equal(backends_restamp(&spec, "vm1", 1, &again, &fault), BACKENDS_E_LOST);
    assert_non_null(strstr(fault.text, "node2's, as generation 2"));
    assert_int_equal(backends_take(&take, &taken, &fault), 0); /* after its agent's restart */
    backends_close(&taken);
}

static void a_target_that_comes_after_the_source_resumed_gets_nothing(void **state)
{
    (void)state;
    struct backends taken;
    struct stamp resumed = stamp_of("node1", 3);
    start_on_node1();
    const struct backends_ask take = ask(stamp_of("node1", 1), "node2", 2);

    assert_int_equal(backends_restamp(&spec, "vm1", 1, &resumed, &fault), 0);

    assert_int_equal(backends_take(&take, &taken, &fault), BACKENDS_E_LOST);
    assert_int_equal(taken.fd_count, 0);
}

static void a_start_that_expects_another_stamp_changes_nothing(void **state)
{
    (void)state;
    struct backends taken;
    struct stamp found, wanted = stamp_of("node1", 1);
    start_on_node1();
    const struct backends_ask start = ask((struct stamp){0}, "node2", 2);

    assert_int_equal(backends_start(&start, &taken, &fault), BACKENDS_E_LOST);

    assert_int_equal(backends_read_stamp(&spec, "vm1", &found, &fault), 0);
    assert_true(stamp_is_equal(&found, &wanted));
}

static void says_whose_folder_it_is_not(void **state)
{
    (void)state;
    static const char word[] = "0123456789abcdef0123456789abcdef";

    assert_int_equal(backends_read_word(&spec, word, "node2", &fault), ERR_REFUSED);
    assert_non_null(strstr(fault.text, "node2 does not see /tmp/godwit-backends-"));

    assert_int_equal(backends_write_word(&spec, word, &fault), 0);
    assert_int_equal(backends_read_word(&spec, word, "node2", &fault), 0);
    backends_wipe_word(&spec, word);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_start_takes_the_stamp_makes_the_disk_and_opens_it, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_move_in_is_checked_without_opening_anything, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_move_in_from_who_does_not_hold_the_disks_is_refused,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            after_took_the_disks_are_the_targets_and_never_the_sources_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_target_that_comes_after_the_source_resumed_gets_nothing,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_start_that_expects_another_stamp_changes_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(says_whose_folder_it_is_not, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
