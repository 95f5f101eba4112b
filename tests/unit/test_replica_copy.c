/* A copy of what is held is what was held when it was fixed, whoever writes the image meanwhile, and in
 * whatever order. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "migrate/guest_file.h"
#include "migrate/replica_copy.h"
#include "storage/guest_label.h"
#include "tests/support/fake_guest.h"

enum { PAGES = 2000, DISK_BYTES = 3 * (64 << 10) + 512 };

static const struct guest_label label = {.vm_id = "copy", .nonce = "n0nce", .generation = 1};

struct bench {
    struct fake_guest *held, *before; /* the image, and what it was when the copy was fixed */
    int from, to, memory;
    uint8_t disk[DISK_BYTES]; /* as it was then */
    struct replica_copy *copy;
    struct replica_copied copied;
    bool is_stopped;
};

static int file_of(uint64_t bytes)
{
    int fd = memfd_create("copy", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

static uint8_t *page_of(struct fake_guest *guest, uint64_t page)
{
    return fake_guest_guest(guest)->regions[0].base + page * PAGE_BYTES;
}

/* A disk whose second piece is a hole. */
static void fill_disk(struct bench *bench)
{
    memset(bench->disk, 0, sizeof bench->disk);
    for (size_t i = 0; i < sizeof bench->disk; i++) {
        if (i < 64 << 10 || i >= 128 << 10)
            bench->disk[i] = (uint8_t)(i * 7 + i / 251);
    }
    assert_int_equal(pwrite(bench->from, bench->disk, 64 << 10, 0), 64 << 10);
    assert_int_equal(pwrite(bench->from, bench->disk + (128 << 10), sizeof bench->disk - (128 << 10),
                            128 << 10),
                     sizeof bench->disk - (128 << 10));
}

static struct bench *bench_new(void)
{
    const struct fake_guest_config config = {.pages = PAGES, .fill = FAKE_FILL_MIX, .half = true};
    struct bench *bench = calloc(1, sizeof *bench);
    struct fault fault = {0};
    assert_non_null(bench);
    bench->held = fake_guest_new(&config);
    bench->before = fake_guest_new(&config);
    for (uint64_t page = 0; page < PAGES / 2; page++)
        memcpy(page_of(bench->before, page), page_of(bench->held, page), PAGE_BYTES);
    bench->from = file_of(DISK_BYTES);
    bench->to = file_of(DISK_BYTES);
    bench->memory = file_of(0);
    fill_disk(bench);
    const struct replica_disk disk = {.bytes = DISK_BYTES, .fd = bench->from};
    const struct replica_copy_config copy = {.guest = fake_guest_guest(bench->held),
                                             .label = &label,
                                             .memory_fd = bench->memory,
                                             .disk_fds = &bench->to,
                                             .disk_count = 1,
                                             .is_stopped = &bench->is_stopped};
    assert_int_equal(replica_copy_new(&bench->copy, &copy, &disk, 1, &fault), 0);
    assert_int_equal(replica_copy_fix(bench->copy, &fault), 0);
    return bench;
}

static void bench_free(struct bench *bench)
{
    bench->copy = replica_copy_free(bench->copy);
    bench->held = fake_guest_free(bench->held);
    bench->before = fake_guest_free(bench->before);
    close_p(&bench->from);
    close_p(&bench->to);
    close_p(&bench->memory);
    free(bench);
}

static int run(struct bench *bench, struct fault *fault)
{
    AUTO_FREE uint8_t *state = NULL;
    struct guest *guest = fake_guest_guest(bench->before);
    size_t count = 0;
    assert_int_equal(guest->ops->save(guest->owner, &state, &count, fault), 0);
    return replica_copy_run(bench->copy, state, count, &bench->copied, fault);
}

/* As whoever writes the image does: told first, then written. */
static void write_pages(struct bench *bench, uint64_t first, uint64_t count)
{
    struct bitmap pages = {0};
    assert_int_equal(bitmap_init(&pages, PAGES), 0);
    bitmap_set_range(&pages, first, count);
    replica_copy_before_pages(bench->copy, 0, &pages);
    for (uint64_t page = first; page < first + count; page++)
        memset(page_of(bench->held, page), 0xA5, PAGE_BYTES);
    bitmap_deinit(&pages);
}

static void write_disk(struct bench *bench, uint64_t offset, size_t count)
{
    AUTO_FREE uint8_t *bytes = malloc(count);
    assert_non_null(bytes);
    memset(bytes, 0x5A, count);
    replica_copy_before_disk(bench->copy, 0, offset, count);
    assert_int_equal(pwrite(bench->from, bytes, count, (off_t)offset), (ssize_t)count);
}

static void expect_as_it_was(struct bench *bench)
{
    const struct fake_guest_config config = {.pages = PAGES};
    struct fake_guest *read = fake_guest_new(&config);
    struct guest_file_counts counts = {0};
    struct fault fault = {0};
    uint8_t disk[DISK_BYTES];
    if (guest_file_read(fake_guest_guest(read), &label, bench->memory, &counts, &fault) < 0)
        fail_msg("%s", fault.text);
    assert_true(fake_guest_compare(read, bench->before) == UINT64_MAX);
    assert_int_equal(pread(bench->to, disk, sizeof disk, 0), sizeof disk);
    assert_memory_equal(disk, bench->disk, sizeof disk);
    read = fake_guest_free(read);
}

static void nobody_writes_and_holes_stay_holes(void **state)
{
    (void)state;
    struct bench *bench = bench_new();
    struct fault fault = {0};
    struct stat info;

    assert_int_equal(run(bench, &fault), 0);

    expect_as_it_was(bench);
    assert_int_equal(bench->copied.copied_bytes, DISK_BYTES - (64 << 10));
    assert_int_equal(bench->copied.put_aside_pages, 0);
    assert_int_equal(fstat(bench->to, &info), 0);
    assert_true(info.st_size == DISK_BYTES && info.st_blocks * 512 < DISK_BYTES);
    bench_free(bench);
}

static void what_is_written_before_its_turn_is_copied_as_it_was(void **state)
{
    (void)state;
    struct bench *bench = bench_new();
    struct fault fault = {0};

    write_pages(bench, 3, 600); /* across a block's end */
    write_pages(bench, 500, 300); /* half of it again */
    write_pages(bench, PAGES - 2, 2); /* had no memory: zero then */
    write_disk(bench, (64 << 10) + 100, 200 << 8); /* the hole, and no more */
    write_disk(bench, (192 << 10) + 500, 12);      /* the very end */
    assert_int_equal(run(bench, &fault), 0);

    assert_in_range(bench->copied.put_aside_pages, 600, 797); /* each once */
    expect_as_it_was(bench);
    bench_free(bench);
}

static void what_is_written_after_its_turn_changes_nothing(void **state)
{
    (void)state;
    struct bench *bench = bench_new();
    struct fault fault = {0};

    assert_int_equal(run(bench, &fault), 0);
    write_pages(bench, 0, PAGES);
    write_disk(bench, 0, DISK_BYTES);

    assert_int_equal(bench->copied.put_aside_pages, 0);
    expect_as_it_was(bench);
    bench_free(bench);
}

static void a_copy_that_is_stopped_or_fails_harms_nobody(void **state)
{
    (void)state;
    struct bench *bench = bench_new();
    struct fault fault = {0};
    bench->is_stopped = true;

    assert_int_equal(run(bench, &fault), ERR_CANCELED);
    write_pages(bench, 0, 10); /* goes on all the same */
    bench_free(bench);

    bench = bench_new();
    int read_only = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(read_only >= 0 && dup3(read_only, bench->to, O_CLOEXEC) == bench->to);
    close_p(&read_only);
    write_disk(bench, 0, 4096); /* the failure is the copy's own */
    assert_int_equal(run(bench, &fault), ERR_IO);
    bench_free(bench);
}

static void another_number_of_disks_is_refused(void **state)
{
    (void)state;
    const struct replica_disk disks[2] = {{.bytes = 4096, .fd = -1}, {.bytes = 4096, .fd = -1}};
    const int fd = -1;
    const struct replica_copy_config config = {.memory_fd = -1, .disk_fds = &fd, .disk_count = 1};
    struct replica_copy *copy = NULL;
    struct fault fault = {0};

    assert_int_equal(replica_copy_new(&copy, &config, disks, 2, &fault), ERR_INVALID);
    assert_null(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_writes_and_holes_stay_holes),
        cmocka_unit_test(what_is_written_before_its_turn_is_copied_as_it_was),
        cmocka_unit_test(what_is_written_after_its_turn_changes_nothing),
        cmocka_unit_test(a_copy_that_is_stopped_or_fails_harms_nobody),
        cmocka_unit_test(another_number_of_disks_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
