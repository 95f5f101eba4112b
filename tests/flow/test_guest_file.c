/* A guest goes into a file and comes out of it as it was; whatever is wrong with the file is refused
 * before anything of it is believed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "migrate/guest_file.h"
#include "storage/guest_label.h"
#include "tests/support/fake_guest.h"

enum { PAGES = 3000 };

static const struct guest_label label = {.vm_id = "vm-1", .nonce = "n0nce", .generation = 7};

static struct fake_guest *guest_of(enum fake_fill fill, uint64_t pages)
{
    const struct fake_guest_config config = {.pages = pages, .fill = fill, .half = true};
    return fake_guest_new(&config);
}

static int empty_file(void)
{
    int fd = memfd_create("guest-file", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static int written(struct fake_guest *guest, struct guest_file_counts *ret_counts)
{
    struct fault fault = {0};
    int fd = empty_file();
    if (guest_file_write(fake_guest_guest(guest), &label, fd, NULL, ret_counts, &fault) < 0)
        fail_msg("%s", fault.text);
    return fd;
}

static void comes_out_as_it_went_in_and_zero_pages_take_no_room(void **state)
{
    (void)state;
    const enum fake_fill fills[] = {FAKE_FILL_ZERO, FAKE_FILL_RANDOM, FAKE_FILL_TEXT, FAKE_FILL_MIX};
    for (size_t i = 0; i < sizeof fills / sizeof fills[0]; i++) {
        struct fake_guest *one = guest_of(fills[i], PAGES), *other = guest_of(FAKE_FILL_NONE, PAGES);
        struct guest_file_counts wrote = {0}, read = {0};
        struct fault fault = {0};
        int fd = written(one, &wrote);

        assert_int_equal(
            guest_file_read(fake_guest_guest(other), &label, fd, &read, &fault), 0);

        assert_true(fake_guest_compare(one, other) == UINT64_MAX);
        assert_true(wrote.pages == read.pages && wrote.bytes == read.bytes);
        struct stat status;
        assert_int_equal(fstat(fd, &status), 0);
        assert_int_equal(status.st_size, wrote.bytes);
        if (fills[i] == FAKE_FILL_ZERO)
            assert_true(wrote.pages == 0 && wrote.bytes < 64 * 1024);
        else
            assert_true(wrote.pages > 0 && wrote.pages <= PAGES / 2);
        (void)close(fd);
        one = fake_guest_free(one);
        other = fake_guest_free(other);
    }
}

static int read_into_fresh(int fd, const struct guest_label *expected, struct fault *fault)
{
    struct fake_guest *other = guest_of(FAKE_FILL_NONE, PAGES);
    struct guest_file_counts counts = {0};
    *fault = (struct fault){0};
    int r = guest_file_read(fake_guest_guest(other), expected, fd, &counts, fault);
    assert_false(fake_guest_runs(other));
    other = fake_guest_free(other);
    return r;
}

static void another_vm_a_stale_nonce_and_another_generation_are_refused_by_name(void **state)
{
    (void)state;
    struct fake_guest *one = guest_of(FAKE_FILL_MIX, PAGES);
    struct guest_file_counts counts = {0};
    struct fault fault = {0};
    int fd = written(one, &counts);
    struct guest_label other = label;

    (void)snprintf(other.vm_id, sizeof other.vm_id, "vm-2");
    assert_int_equal(read_into_fresh(fd, &other, &fault), ERR_REFUSED);
    assert_non_null(strstr(fault.text, "of VM vm-1, not of vm-2"));
    other = label;
    (void)snprintf(other.nonce, sizeof other.nonce, "older");
    assert_int_equal(read_into_fresh(fd, &other, &fault), ERR_REFUSED);
    assert_non_null(strstr(fault.text, "stale"));
    other = label;
    other.generation = 6;
    assert_int_equal(read_into_fresh(fd, &other, &fault), ERR_REFUSED);
    (void)close(fd);
    one = fake_guest_free(one);
}

static void nobody_goes_on_from_a_consumed_file_nor_from_half_a_mark(void **state)
{
    (void)state;
    struct fake_guest *one = guest_of(FAKE_FILL_MIX, PAGES);
    struct guest_file_counts counts = {0};
    struct guest_label found;
    struct fault fault = {0};
    uint64_t by = 0;
    int fd = written(one, &counts);

    assert_int_equal(guest_label_read(fd, &found, &by, &fault), 0);
    assert_true(by == 0 && found.generation == 7 && strcmp(found.nonce, "n0nce") == 0);
    assert_int_equal(guest_label_consume(fd, 8, &fault), 0);
    assert_int_equal(guest_label_read(fd, &found, &by, &fault), 0);
    assert_true(by == 8);
    assert_int_equal(read_into_fresh(fd, &label, &fault), ERR_REFUSED);
    assert_non_null(strstr(fault.text, "consumed by generation 8"));
    const uint8_t half[8] = {0};
    assert_int_equal(pwrite(fd, half, sizeof half, 512), sizeof half); /* torn: only the digest */
    assert_int_equal(read_into_fresh(fd, &label, &fault), ERR_REFUSED);
    (void)close(fd);
    one = fake_guest_free(one);
}

static void another_machine_is_refused(void **state)
{
    (void)state;
    struct fake_guest *one = guest_of(FAKE_FILL_MIX, PAGES - 1);
    struct guest_file_counts counts = {0};
    struct fault fault = {0};
    int fd = written(one, &counts);

    assert_int_equal(read_into_fresh(fd, &label, &fault), ERR_REFUSED);
    assert_non_null(strstr(fault.text, "of another machine"));
    (void)close(fd);
    one = fake_guest_free(one);
}

/* Every cut, and a flipped bit in every stretch: head, frames, machine, tail. */
static void damage_anywhere_is_found_before_it_is_believed(void **state)
{
    (void)state;
    struct fake_guest *one = guest_of(FAKE_FILL_MIX, PAGES);
    struct guest_file_counts counts = {0};
    struct fault fault = {0};
    int fd = written(one, &counts);
    const uint64_t size = counts.bytes;
    const uint64_t steps = 60;

    for (uint64_t i = 0; i < steps; i++) {
        uint64_t at = i < 16 ? i * 31 : i < steps - 16 ? size / steps * i : size - (steps - i);
        bool is_slack = (at >= 528 && at < 1024) || (at >= 1536 && at < 4096);
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
        uint8_t flipped = byte ^ (uint8_t)(1u << (i % 8));
        assert_int_equal(pwrite(fd, &flipped, 1, (off_t)at), 1);
        int r = read_into_fresh(fd, &label, &fault);
        if (!is_slack && r == 0)
            fail_msg("a flipped bit at %llu was believed", (unsigned long long)at);
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    }
    assert_int_equal(read_into_fresh(fd, &label, &fault), 0); /* whole again */
    for (uint64_t i = 0; i < 24; i++) {
        uint64_t at = i < 8 ? size - 1 - i : size / 24 * i;
        assert_int_equal(ftruncate(fd, (off_t)at), 0);
        assert_true(read_into_fresh(fd, &label, &fault) < 0);
        (void)close(fd);
        fd = written(one, &counts);
    }
    const uint8_t more = 0;
    assert_int_equal(pwrite(fd, &more, 1, (off_t)size), 1);
    assert_int_equal(read_into_fresh(fd, &label, &fault), ERR_CORRUPT);
    (void)close(fd);
    one = fake_guest_free(one);
}

static void a_full_disk_is_said_so(void **state)
{
    (void)state;
    struct fake_guest *one = guest_of(FAKE_FILL_RANDOM, PAGES);
    struct guest_file_counts counts = {0};
    struct fault fault = {0};
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);

    assert_int_equal(
        guest_file_write(fake_guest_guest(one), &label, fd, NULL, &counts, &fault), ERR_LIMIT);

    assert_non_null(strstr(fault.text, "No space left"));
    (void)close(fd);
    one = fake_guest_free(one);
}

static void a_machine_that_cannot_be_saved_or_loaded_fails_it(void **state)
{
    (void)state;
    struct fake_guest_config config = {.pages = PAGES, .fill = FAKE_FILL_MIX, .fail_save = true};
    struct fake_guest *one = fake_guest_new(&config);
    struct guest_file_counts counts = {0};
    struct fault fault = {0};
    int fd = empty_file();

    assert_true(guest_file_write(fake_guest_guest(one), &label, fd, NULL, &counts, &fault) < 0);
    assert_true(read_into_fresh(fd, &label, &fault) < 0); /* a torso */
    (void)close(fd);
    one = fake_guest_free(one);
}

static void a_write_can_be_stopped(void **state)
{
    (void)state;
    struct fake_guest *one = guest_of(FAKE_FILL_RANDOM, PAGES);
    struct guest_file_counts counts = {0};
    struct fault fault = {0};
    const bool stopped = true;
    int fd = empty_file();

    assert_int_equal(
        guest_file_write(fake_guest_guest(one), &label, fd, &stopped, &counts, &fault),
        ERR_CANCELED);
    (void)close(fd);
    one = fake_guest_free(one);
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_out_as_it_went_in_and_zero_pages_take_no_room),
        cmocka_unit_test(another_vm_a_stale_nonce_and_another_generation_are_refused_by_name),
        cmocka_unit_test(nobody_goes_on_from_a_consumed_file_nor_from_half_a_mark),
        cmocka_unit_test(another_machine_is_refused),
        cmocka_unit_test(damage_anywhere_is_found_before_it_is_believed),
        cmocka_unit_test(a_full_disk_is_said_so),
        cmocka_unit_test(a_machine_that_cannot_be_saved_or_loaded_fails_it),
        cmocka_unit_test(a_write_can_be_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
