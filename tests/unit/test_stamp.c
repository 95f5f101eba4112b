#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/stamp.h"

enum { RACERS = 3, RACES = 2000 };

struct folder {
    char path[64];
    int fd;
};

static int set_up(void **state)
{
    struct folder *folder = calloc(1, sizeof *folder);
    assert_non_null(folder);
    (void)snprintf(folder->path, sizeof folder->path, "%s/godwit-stamp-XXXXXX",
                   access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(folder->path));
    folder->fd = open(folder->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(folder->fd >= 0);
    *state = folder;
    return 0;
}

static int tear_down(void **state)
{
    struct folder *folder = *state;
    struct fault fault = {0};
    assert_int_equal(stamp_remove(folder->fd, &fault), 0);
    (void)close(folder->fd);
    int r = rmdir(folder->path); /* fails when a draft or a ticket is left */
    free(folder);
    return r;
}

static struct stamp stamp_of(uint64_t generation, const char *owner)
{
    struct stamp stamp = {.generation = generation};
    (void)snprintf(stamp.owner, sizeof stamp.owner, "%s", owner);
    (void)snprintf(stamp.incarnation, sizeof stamp.incarnation, "boot-of-%s", owner);
    return stamp;
}

static int swap(struct folder *folder, struct stamp expected, struct stamp wanted)
{
    struct stamp found;
    struct fault fault = {0};
    int r = stamp_swap(folder->fd, "vm-1", &expected, &wanted, &found, &fault);
    assert_true(r >= 0);
    return r;
}

static struct stamp read_it(struct folder *folder)
{
    struct stamp stamp;
    struct fault fault = {0};
    assert_int_equal(stamp_read(folder->fd, "vm-1", &stamp, &fault), 0);
    return stamp;
}

static unsigned count_entries(struct folder *folder)
{
    unsigned count = 0;
    DIR *dir = opendir(folder->path);
    assert_non_null(dir);
    for (struct dirent *item; (item = readdir(dir));)
        count += item->d_name[0] != '.' || strlen(item->d_name) > 2;
    (void)closedir(dir);
    return count;
}

static void changes_only_from_exactly_what_was_expected(void **state)
{
    struct folder *folder = *state;
    struct stamp none = {0}, five = stamp_of(5, "node1"), six = stamp_of(6, "node2");

    assert_int_equal(swap(folder, five, six), STAMP_E_LOST);
    assert_int_equal(swap(folder, none, five), 0);
    assert_int_equal(swap(folder, stamp_of(5, "node3"), six), STAMP_E_LOST); /* weak_cas */
    assert_int_equal(swap(folder, stamp_of(4, "node1"), six), STAMP_E_LOST);
    assert_int_equal(swap(folder, five, six), 0);

    struct stamp found = read_it(folder);
    assert_true(stamp_is_equal(&found, &six));
    assert_int_equal(swap(folder, five, stamp_of(7, "node3")), STAMP_E_LOST);
}

static void a_repeated_swap_finds_its_own_effect(void **state)
{
    struct folder *folder = *state;
    struct stamp none = {0}, five = stamp_of(5, "node1"), six = stamp_of(6, "node2");

    assert_int_equal(swap(folder, none, five), 0);
    assert_int_equal(swap(folder, five, six), 0);

    assert_int_equal(swap(folder, five, six), 0);
    assert_int_equal(swap(folder, none, five), STAMP_E_LOST);
}

static void never_goes_back_to_an_older_generation(void **state)
{
    struct folder *folder = *state;
    struct stamp none = {0}, five = stamp_of(5, "node1");

    assert_int_equal(swap(folder, none, five), 0);

    assert_int_equal(swap(folder, five, stamp_of(4, "node2")), STAMP_E_LOST);
    assert_int_equal(swap(folder, five, stamp_of(5, "node2")), STAMP_E_LOST);
}

static void keeps_a_bounded_number_of_tickets(void **state)
{
    struct folder *folder = *state;
    struct stamp last = {0};

    for (uint64_t i = 1; i <= STAMP_TICKETS_KEPT + 50; i++) {
        struct stamp next = stamp_of(2 * i, i % 2 ? "node1" : "node2");
        assert_int_equal(swap(folder, last, next), 0);
        last = next;
    }

    struct stamp found = read_it(folder);
    assert_true(stamp_is_equal(&found, &last));
    assert_true(count_entries(folder) <= STAMP_TICKETS_KEPT + 1);
}

/* It had read L, slept while the pool moved on and its place was pruned, and made the name then. */
static void a_ticket_that_comes_too_late_changes_nothing(void **state)
{
    struct folder *folder = *state;
    struct stamp last = {0};
    for (uint64_t i = 1; i <= STAMP_TICKETS_KEPT + 10; i++) {
        struct stamp next = stamp_of(i, "node1");
        assert_int_equal(swap(folder, last, next), 0);
        last = next;
    }
    struct stamp_ticket late = {.vm_id = "vm-1", .after = 1, .stamp = stamp_of(1000, "node9")};
    uint8_t bytes[STAMP_TICKET_BYTES];
    stamp_ticket_encode(&late, bytes);
    int fd = openat(folder->fd, "after-1", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    (void)close(fd);

    struct stamp found = read_it(folder);

    assert_true(stamp_is_equal(&found, &last));
    assert_int_equal(swap(folder, last, stamp_of(2000, "node2")), 0);
}

static void refuses_what_is_damaged_instead_of_guessing(void **state)
{
    struct folder *folder = *state;
    struct stamp none = {0}, five = stamp_of(5, "node1"), found;
    struct fault fault = {0};
    assert_int_equal(swap(folder, none, five), 0);
    int fd = openat(folder->fd, "after-0", O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "x", 1, 30), 1);
    (void)close(fd);

    assert_int_equal(stamp_read(folder->fd, "vm-1", &found, &fault), ERR_CORRUPT);

    struct stamp six = stamp_of(6, "node2");
    assert_int_equal(stamp_swap(folder->fd, "vm-1", &five, &six, &found, &fault), ERR_CORRUPT);
}

static void is_of_one_vm(void **state)
{
    struct folder *folder = *state;
    struct stamp none = {0}, found;
    struct fault fault = {0};
    assert_int_equal(swap(folder, none, stamp_of(5, "node1")), 0);

    assert_int_equal(stamp_read(folder->fd, "vm-2", &found, &fault), ERR_CORRUPT);
}

/* ---- a race ---- */
struct race {
    atomic_ulong hiwater;
    atomic_ulong wins;
    atomic_uint won_after[RACERS * RACES * 2 + 2]; /* by the generation that was followed */
    atomic_uint failures;
};

static void run_racer(struct folder *folder, struct race *race, unsigned number)
{
    char name[16];
    (void)snprintf(name, sizeof name, "node%u", number);
    int fd = open(folder->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (unsigned i = 0; i < RACES; i++) {
        struct stamp expected, found;
        struct fault fault = {0};
        if (stamp_read(fd, "vm-1", &expected, &fault) < 0) {
            atomic_fetch_add(&race->failures, 1);
            continue;
        }
        struct stamp wanted = stamp_of(atomic_fetch_add(&race->hiwater, 1) + 1, name);
        if (wanted.generation <= expected.generation)
            continue;
        int r = stamp_swap(fd, "vm-1", &expected, &wanted, &found, &fault);
        if (r < 0)
            atomic_fetch_add(&race->failures, 1);
        if (r == 0) {
            atomic_fetch_add(&race->won_after[expected.generation], 1);
            atomic_fetch_add(&race->wins, 1);
        }
    }
    (void)close(fd);
}

static void of_racing_hosts_exactly_one_wins_each_time(void **state)
{
    struct folder *folder = *state;
    struct race *race = mmap(NULL, sizeof *race, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(race != MAP_FAILED);
    pid_t pids[RACERS];

    for (unsigned i = 0; i < RACERS; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            run_racer(folder, race, i);
            _exit(0);
        }
    }
    for (unsigned i = 0; i < RACERS; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }

    assert_int_equal(atomic_load(&race->failures), 0);
    assert_true(atomic_load(&race->wins) > RACES / 10);
    uint64_t last = 0, doubled = 0;
    for (size_t i = 0; i < ARRAY_COUNT(race->won_after); i++)
        doubled += atomic_load(&race->won_after[i]) > 1;
    last = read_it(folder).generation;
    assert_int_equal(doubled, 0);
    assert_true(last <= atomic_load(&race->hiwater));
    (void)munmap(race, sizeof *race);
}

/* ---- the format ---- */
static void knows_its_names(void **state)
{
    (void)state;
    static const char *const bad[] = {"after-", "after-01", "after-1x", "before-1", "after--1",
                                      "after-18446744073709551616", ".draft-1"};
    uint64_t after;
    char name[STAMP_NAME_SIZE];

    stamp_name_print(UINT64_MAX, name);

    assert_true(stamp_name_parse(name, &after));
    assert_true(after == UINT64_MAX);
    assert_true(stamp_name_parse("after-0", &after));
    assert_int_equal(after, 0);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(stamp_name_parse(bad[i], &after));
}

static void every_flipped_bit_of_a_ticket_is_found(void **state)
{
    (void)state;
    struct stamp_ticket ticket = {.vm_id = "vm-1", .after = 3, .stamp = stamp_of(4, "node1")}, got;
    uint8_t bytes[STAMP_TICKET_BYTES];
    stamp_ticket_encode(&ticket, bytes);
    assert_int_equal(stamp_ticket_decode(bytes, sizeof bytes, &got, NULL), 0);
    assert_true(stamp_is_equal(&got.stamp, &ticket.stamp));

    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(stamp_ticket_decode(bytes, sizeof bytes, &got, NULL) < 0);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_true(stamp_ticket_decode(bytes, sizeof bytes - 1, &got, NULL) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(changes_only_from_exactly_what_was_expected, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_repeated_swap_finds_its_own_effect, set_up, tear_down),
        cmocka_unit_test_setup_teardown(never_goes_back_to_an_older_generation, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keeps_a_bounded_number_of_tickets, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_ticket_that_comes_too_late_changes_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(refuses_what_is_damaged_instead_of_guessing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(is_of_one_vm, set_up, tear_down),
        cmocka_unit_test_setup_teardown(of_racing_hosts_exactly_one_wins_each_time, set_up,
                                        tear_down),
        cmocka_unit_test(knows_its_names),
        cmocka_unit_test(every_flipped_bit_of_a_ticket_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
