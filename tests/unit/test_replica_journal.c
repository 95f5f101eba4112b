/* Power fails at every write and every sync: the disks, once the journal was opened again, are one
 * whole checkpoint, and never an older one than was said to be held. What was not synced is on the
 * medium, or not, or the first half of it is: every writing is judged by chance, with many seeds.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migrate/replica_journal.h"

enum { FILES = 3, FILE_BYTES = 128 << 10, PAGES = 6, WRITES_MAX = 4096, DISKS = 2 };

struct write {
    unsigned file;
    uint64_t offset;
    size_t count;
    uint8_t *bytes;
};

struct medium {
    uint8_t now[FILES][FILE_BYTES], durable[FILES][FILE_BYTES];
    struct write writes[WRITES_MAX]; /* not synced yet, in order */
    unsigned write_count;
    unsigned steps_left; /* until power fails */
    bool is_off;
    unsigned fail_sync; /* EIO at this sync, counted down; 0: never */
    unsigned steps;
    bool skips_sync; /* a mistake: a sync that does nothing */
};

static bool step(struct medium *medium)
{
    medium->steps++;
    if (medium->is_off || medium->steps_left == 0)
        medium->is_off = true;
    else
        medium->steps_left--;
    return !medium->is_off;
}

static int medium_read(void *owner, unsigned file, void *ret_bytes, size_t count, uint64_t offset)
{
    struct medium *medium = owner;
    if (!range_fits(offset, count, FILE_BYTES))
        return EFBIG;
    memcpy(ret_bytes, medium->now[file] + offset, count);
    return 0;
}

static int medium_write(void *owner, unsigned file, const void *bytes, size_t count,
                        uint64_t offset)
{
    struct medium *medium = owner;
    bool is_on = step(medium);
    assert_true(range_fits(offset, count, FILE_BYTES) && medium->write_count < WRITES_MAX);
    struct write *write = &medium->writes[medium->write_count++];
    *write = (struct write){file, offset, count, malloc(count ? count : 1)};
    assert_non_null(write->bytes);
    memcpy(write->bytes, bytes, count);
    memcpy(medium->now[file] + offset, bytes, count);
    return is_on ? 0 : EIO; /* the one that power failed in may still arrive */
}

static int medium_sync(void *owner, unsigned file)
{
    struct medium *medium = owner;
    if (!step(medium))
        return EIO;
    if (medium->fail_sync && --medium->fail_sync == 0)
        return EIO;
    if (medium->skips_sync)
        return 0;
    unsigned kept = 0;
    for (unsigned i = 0; i < medium->write_count; i++) {
        struct write *write = &medium->writes[i];
        if (write->file != file) {
            medium->writes[kept++] = *write;
            continue;
        }
        memcpy(medium->durable[file] + write->offset, write->bytes, write->count);
        free(write->bytes);
    }
    medium->write_count = kept;
    return 0;
}

static const struct replica_journal_io medium_io = {
    .read = medium_read, .write = medium_write, .sync = medium_sync};

/* After the failure: each write that was not synced is there, is not, or its first sectors are. */
static void power_on(struct medium *medium)
{
    for (unsigned i = 0; i < medium->write_count; i++) {
        struct write *write = &medium->writes[i];
        size_t count = rand() % 3 == 0   ? 0
                       : rand() % 2 == 0 ? write->count
                                         : (size_t)rand() % (write->count / 512 + 1) * 512;
        memcpy(medium->durable[write->file] + write->offset, write->bytes,
               count < write->count ? count : write->count);
        free(write->bytes);
    }
    medium->write_count = 0;
    memcpy(medium->now, medium->durable, sizeof medium->now);
    medium->is_off = false;
    medium->steps_left = UINT32_MAX;
}

/* What the disks are at checkpoint k: page p of disk d. Half of the pages change each time. */
static void page_of(uint64_t seq, unsigned disk, unsigned page, uint8_t *ret_bytes)
{
    uint64_t changed = (page + disk) % 2 == 0 ? seq : seq - seq % 2;
    memset(ret_bytes, changed % 5 == 0 ? 0 : (int)(changed * 16 + page * 2 + disk), PAGE_BYTES);
}

static bool disks_are(const struct medium *medium, uint64_t seq)
{
    uint8_t bytes[PAGE_BYTES];
    for (unsigned disk = 0; disk < DISKS; disk++) {
        for (unsigned page = 0; page < PAGES; page++) {
            page_of(seq, disk, page, bytes);
            if (memcmp(medium->now[1 + disk] + (size_t)page * PAGE_BYTES, bytes, PAGE_BYTES) != 0)
                return false;
        }
    }
    return true;
}

static const uint64_t sizes[DISKS] = {PAGES * PAGE_BYTES, PAGES *PAGE_BYTES};

static struct replica_journal *open_journal(struct medium *medium, int *ret_r)
{
    struct replica_journal *journal = NULL;
    struct fault fault = {0};
    *ret_r = replica_journal_new(&journal, &medium_io, medium, sizes, DISKS, &fault);
    return journal;
}

static int add_all(struct replica_journal *journal, uint64_t seq, bool all)
{
    struct fault fault = {0};
    uint8_t bytes[PAGE_BYTES], before[PAGE_BYTES];
    int r = 0;
    for (unsigned disk = 0; disk < DISKS; disk++) {
        for (unsigned page = 0; r == 0 && page < PAGES; page++) {
            page_of(seq, disk, page, bytes);
            page_of(seq - 1, disk, page, before);
            if (!all && memcmp(bytes, before, PAGE_BYTES) == 0)
                continue;
            static const uint8_t zero[PAGE_BYTES];
            bool is_zero = memcmp(bytes, zero, PAGE_BYTES) == 0;
            if (page % 3 == 0) /* it comes twice: the newest counts */
                r = replica_journal_add(journal, disk, page, before, &fault);
            if (r == 0)
                r = replica_journal_add(journal, disk, page, is_zero ? NULL : bytes, &fault);
        }
    }
    return r;
}

/* One checkpoint; *ret_held once it may be told. */
static int checkpoint(struct replica_journal *journal, uint64_t seq, bool all, uint64_t *ret_held)
{
    const struct replica_journal_held held = {.held = {.id = {3, 4, seq}, .sum = seq * 7},
                                              .disks_sum = seq * 9};
    struct fault fault = {0};
    int r = replica_journal_begin(journal, &held.held.id, &fault);
    if (r == 0)
        r = add_all(journal, seq, all);
    if (r == 0)
        r = replica_journal_commit(journal, &held, &fault);
    if (r < 0)
        return r;
    *ret_held = seq;
    return replica_journal_apply(journal, &fault);
}

/* Runs until power fails; gives the newest that was told. */
static uint64_t run(struct medium *medium, uint64_t from, uint64_t checkpoints)
{
    int r;
    uint64_t told = 0;
    struct replica_journal *journal = open_journal(medium, &r);
    for (uint64_t seq = from; r == 0 && seq < from + checkpoints; seq++)
        r = checkpoint(journal, seq, seq == from, &told);
    (void)replica_journal_free(journal);
    return told;
}

/* Opened again, perhaps failing once more in it; what is there must fit. False: it does not. */
static bool recovers(struct medium *medium, uint64_t told)
{
    int r;
    power_on(medium);
    for (unsigned again = (unsigned)rand() % 3; again; again--) {
        medium->steps_left = (unsigned)rand() % 12;
        (void)replica_journal_free(open_journal(medium, &r));
        power_on(medium);
    }
    struct replica_journal *journal = open_journal(medium, &r);
    if (r < 0)
        return false;
    const struct replica_journal_held held = *replica_journal_held(journal);
    uint64_t seq = held.held.id.seq;
    bool fits = seq >= told && (seq == 0 || (disks_are(medium, seq) && held.held.sum == seq * 7 &&
                                             held.disks_sum == seq * 9));
    uint64_t more = 0;
    if (fits && seq) /* and it goes on from there */
        fits = checkpoint(journal, seq + 1, true, &more) == 0 && disks_are(medium, seq + 1);
    (void)replica_journal_free(journal);
    return fits;
}

static void free_medium(struct medium *medium)
{
    for (unsigned i = 0; i < medium->write_count; i++)
        free(medium->writes[i].bytes);
    free(medium);
}

static unsigned wrong_ends(bool skips_sync, unsigned seeds)
{
    unsigned wrong = 0;
    for (unsigned seed = 1; seed <= seeds; seed++) {
        for (unsigned steps = 0; steps < 140; steps += skips_sync ? 3 : 1) {
            struct medium *medium = calloc(1, sizeof *medium);
            assert_non_null(medium);
            srand(seed * 1000 + steps);
            medium->steps_left = steps;
            medium->skips_sync = skips_sync;
            uint64_t told = run(medium, 1, 5);
            wrong += !recovers(medium, told);
            free_medium(medium);
        }
    }
    return wrong;
}

static void after_power_fails_anywhere_the_disks_are_a_whole_checkpoint(void **state)
{
    (void)state;
    assert_int_equal(wrong_ends(false, 12), 0);
}

static void a_medium_that_lies_about_sync_is_found_by_this_test(void **state)
{
    (void)state;
    assert_true(wrong_ends(true, 2) > 0);
}

static void a_sync_that_fails_is_told_and_nothing_is_held_that_is_not(void **state)
{
    (void)state;
    for (unsigned n = 1; n < 20; n++) {
        struct medium *medium = calloc(1, sizeof *medium);
        assert_non_null(medium);
        srand(n);
        medium->steps_left = UINT32_MAX;
        medium->fail_sync = n;
        uint64_t told = run(medium, 1, 5);
        medium->fail_sync = 0;
        assert_true(recovers(medium, told));
        free_medium(medium);
    }
}

static void a_voided_journal_holds_nothing_and_a_log_of_before_fits_nowhere(void **state)
{
    (void)state;
    struct medium *medium = calloc(1, sizeof *medium);
    struct fault fault = {0};
    int r;
    assert_non_null(medium);
    medium->steps_left = UINT32_MAX;
    assert_true(run(medium, 1, 3) == 3);

    struct replica_journal *journal = open_journal(medium, &r);
    assert_true(replica_journal_held(journal)->held.id.seq == 3);
    assert_int_equal(replica_journal_void(journal, &fault), 0);
    (void)replica_journal_free(journal);
    journal = open_journal(medium, &r);
    assert_true(replica_journal_held(journal)->held.id.seq == 0);
    (void)replica_journal_free(journal);
    free_medium(medium);
}

/* Whoever takes what is held after that finds the disks to be it, whatever of the log arrived. */
static void
after_a_commit_that_failed_the_disks_can_be_made_certain_to_be_what_is_held(void **state)
{
    (void)state;
    for (unsigned n = 1; n < 8; n++) {
        struct medium *medium = calloc(1, sizeof *medium);
        struct fault fault = {0};
        uint64_t told = 0;
        int r;
        assert_non_null(medium);
        srand(n);
        medium->steps_left = UINT32_MAX;
        assert_true(run(medium, 1, 3) == 3);
        struct replica_journal *journal = open_journal(medium, &r);
        medium->fail_sync = n;
        r = checkpoint(journal, 4, true, &told);
        medium->fail_sync = 0;
        uint64_t held = told ? 4 : 3;

        if (r < 0)
            assert_int_equal(replica_journal_mend(journal, &fault), 0);
        (void)replica_journal_free(journal);
        assert_true(disks_are(medium, held));
        power_on(medium);
        journal = open_journal(medium, &r);
        assert_int_equal(r, 0);
        assert_true(replica_journal_held(journal)->held.id.seq == held);
        assert_true(disks_are(medium, held));
        (void)replica_journal_free(journal);
        free_medium(medium);
    }
}

/* ---- how long it becomes ---- */
static int no_read(void *owner, unsigned file, void *ret_bytes, size_t count, uint64_t offset)
{
    (void)owner;
    (void)file;
    (void)offset;
    memset(ret_bytes, 0, count);
    return 0;
}

static int note_end(void *owner, unsigned file, const void *bytes, size_t count, uint64_t offset)
{
    uint64_t *end = owner;
    (void)bytes;
    if (file == 0 && offset + count > *end)
        *end = offset + count;
    return 0;
}

static int no_sync(void *owner, unsigned file)
{
    (void)owner;
    (void)file;
    return 0;
}

static int note_cut(void *owner, unsigned file, uint64_t bytes)
{
    uint64_t *end = owner;
    assert_int_equal(file, 0);
    *end = bytes;
    return 0;
}

static void a_journal_has_a_bound_and_is_cut_down_again(void **state)
{
    (void)state;
    static const struct replica_journal_io io = {
        .read = no_read, .write = note_end, .sync = no_sync, .cut = note_cut};
    const uint64_t bytes = PAGES * PAGE_BYTES, most = REPLICA_JOURNAL_KEPT_BYTES + 4 * bytes;
    const struct replica_journal_held held = {.held = {.id = {3, 4, 1}}};
    const struct replica_id next = {3, 4, 2}, after = {3, 4, 3};
    uint8_t page[PAGE_BYTES] = {1};
    struct replica_journal *journal = NULL;
    struct fault fault = {0};
    uint64_t end = 0;
    assert_int_equal(replica_journal_new(&journal, &io, &end, &bytes, 1, &fault), 0);
    assert_int_equal(replica_journal_begin(journal, &held.held.id, &fault), 0);
    assert_int_equal(replica_journal_commit(journal, &held, &fault), 0);

    assert_int_equal(replica_journal_begin(journal, &next, &fault), 0);
    int r = 0;
    for (uint64_t n = 0; r == 0 && n < most / PAGE_BYTES; n++)
        r = replica_journal_add(journal, 0, n % PAGES, page, &fault);
    assert_int_equal(r, ERR_LIMIT);
    assert_true(end > REPLICA_JOURNAL_KEPT_BYTES && end <= most);
    assert_int_equal(replica_journal_begin(journal, &after, &fault), 0);
    assert_true(end < PAGE_BYTES * 4);
    (void)replica_journal_free(journal);
}

static void a_journal_of_other_disks_is_refused(void **state)
{
    (void)state;
    struct medium *medium = calloc(1, sizeof *medium);
    struct replica_journal *journal = NULL;
    struct fault fault = {0};
    const uint64_t others[DISKS] = {PAGES * PAGE_BYTES, 512};
    assert_non_null(medium);
    medium->steps_left = UINT32_MAX;
    (void)run(medium, 1, 2);

    assert_int_equal(replica_journal_new(&journal, &medium_io, medium, others, DISKS, &fault),
                     ERR_CORRUPT);
    assert_int_equal(replica_journal_new(&journal, &medium_io, medium, others, 1, &fault),
                     ERR_CORRUPT);
    free_medium(medium);
}

static void any_damage_to_journal_or_log_is_an_older_checkpoint_or_none(void **state)
{
    (void)state;
    srand(11);
    for (unsigned i = 0; i < 400; i++) {
        struct medium *medium = calloc(1, sizeof *medium);
        int r;
        assert_non_null(medium);
        medium->steps_left = 60 + (unsigned)rand() % 60;
        (void)run(medium, 1, 4);
        power_on(medium);
        for (unsigned n = 0; n < 4; n++)
            medium->now[0][(unsigned)rand() % 40000] ^= (uint8_t)(1 << rand() % 8);
        memcpy(medium->durable, medium->now, sizeof medium->now);
        struct replica_journal *journal = open_journal(medium, &r);
        assert_true(r == 0 || r == ERR_CORRUPT);
        (void)replica_journal_free(journal);
        free_medium(medium);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(after_power_fails_anywhere_the_disks_are_a_whole_checkpoint),
        cmocka_unit_test(a_medium_that_lies_about_sync_is_found_by_this_test),
        cmocka_unit_test(a_sync_that_fails_is_told_and_nothing_is_held_that_is_not),
        cmocka_unit_test(a_voided_journal_holds_nothing_and_a_log_of_before_fits_nowhere),
        cmocka_unit_test(
            after_a_commit_that_failed_the_disks_can_be_made_certain_to_be_what_is_held),
        cmocka_unit_test(a_journal_has_a_bound_and_is_cut_down_again),
        cmocka_unit_test(a_journal_of_other_disks_is_refused),
        cmocka_unit_test(any_damage_to_journal_or_log_is_an_older_checkpoint_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
