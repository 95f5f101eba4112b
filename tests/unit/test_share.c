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

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/share.h"
#include "storage/stamp.h"

static const char word[SHARE_WORD_SIZE] = "0123456789abcdef0123456789abcdef";

struct folder {
    char path[64];
    int fd;
    struct fault fault;
};

static int set_up(void **state)
{
    struct folder *folder = calloc(1, sizeof *folder);
    assert_non_null(folder);
    (void)snprintf(folder->path, sizeof folder->path, "/tmp/godwit-share-XXXXXX");
    assert_non_null(mkdtemp(folder->path));
    assert_int_equal(share_open(folder->path, &folder->fd, &folder->fault), 0);
    *state = folder;
    return 0;
}

static int tear_down(void **state)
{
    struct folder *folder = *state;
    (void)unlinkat(folder->fd, "root.raw", 0);
    (void)unlinkat(folder->fd, "link", 0);
    (void)close(folder->fd);
    int r = rmdir(folder->path); /* fails when .godwit or a disk is left */
    free(folder);
    return r;
}

static bool is_there(struct folder *folder, const char *name)
{
    return faccessat(folder->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void write_file(struct folder *folder, const char *name, const char *text)
{
    int fd = openat(folder->fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    (void)close(fd);
}

static bool make(struct folder *folder)
{
    bool made;
    int r = share_make_disk(folder->fd, "vm1", "root", "root.raw", MIB(4), &made, &folder->fault);
    assert_string_equal(folder->fault.text, "");
    assert_int_equal(r, 0);
    return made;
}

static int land(struct folder *folder)
{
    int fd = -1;
    int r = share_land_disk(folder->fd, "vm1", "root", "root.raw", MIB(4), &fd, &folder->fault);
    if (r == 0) {
        assert_int_equal(write(fd, "moved", 5), 5);
        (void)close(fd);
    }
    return r;
}

static int keep(struct folder *folder)
{
    return share_keep_disk(folder->fd, "vm1", "root", "root.raw", &folder->fault);
}

static bool remove_it(struct folder *folder)
{
    bool removed;
    assert_int_equal(
        share_remove_disk(folder->fd, "vm1", "root", "root.raw", &removed, &folder->fault), 0);
    assert_int_equal(share_forget_vm(folder->fd, "vm1", &folder->fault), 0);
    return removed;
}

static void makes_a_disk_once_and_removes_what_it_made(void **state)
{
    struct folder *folder = *state;
    struct stat info;

    assert_true(make(folder));
    assert_int_equal(fstatat(folder->fd, "root.raw", &info, 0), 0);
    assert_int_equal(info.st_size, MIB(4));
    assert_false(make(folder));

    assert_true(remove_it(folder));
    assert_false(is_there(folder, "root.raw"));
    assert_false(is_there(folder, ".godwit"));
}

static void never_removes_a_disk_that_was_there_before(void **state)
{
    struct folder *folder = *state;
    write_file(folder, "root.raw", "precious");

    assert_false(make(folder));
    assert_false(remove_it(folder));

    assert_true(is_there(folder, "root.raw"));
}

static void never_removes_a_file_that_took_the_place_of_what_it_made(void **state)
{
    struct folder *folder = *state;
    assert_true(make(folder));
    assert_int_equal(unlinkat(folder->fd, "root.raw", 0), 0);
    write_file(folder, "root.raw", "somebody else's");

    assert_false(remove_it(folder));

    assert_true(is_there(folder, "root.raw"));
}

static void goes_on_where_a_crash_came_before_the_last_step(void **state)
{
    struct folder *folder = *state;
    assert_true(make(folder));
    assert_int_equal(
        renameat(folder->fd, ".godwit/vm1/made/root", folder->fd, ".godwit/vm1/made/root.new"), 0);

    (void)make(folder);

    assert_true(remove_it(folder));
    assert_false(is_there(folder, "root.raw"));
}

static void follows_no_link_out_of_the_store(void **state)
{
    struct folder *folder = *state;
    int fd = -1;
    assert_int_equal(symlinkat("/etc/passwd", folder->fd, "link"), 0);

    assert_int_equal(share_open_file(folder->fd, "link", O_RDONLY, &fd, &folder->fault),
                     ERR_DENIED);
    assert_int_equal(share_open_file(folder->fd, "../../etc/passwd", O_RDONLY, &fd, &folder->fault),
                     ERR_DENIED);
    assert_int_equal(share_open_file(folder->fd, "/etc/passwd", O_RDONLY, &fd, &folder->fault),
                     ERR_DENIED);
    assert_int_equal(share_open_file(folder->fd, "nothing", O_RDONLY, &fd, &folder->fault),
                     ERR_NOT_FOUND);
    assert_int_equal(fd, -1);
}

static void a_word_is_seen_only_where_it_was_written(void **state)
{
    struct folder *folder = *state;
    static const char other[SHARE_WORD_SIZE] = "fedcba9876543210fedcba9876543210";

    assert_int_equal(share_word_read(folder->fd, word, &folder->fault), ERR_NOT_FOUND);
    assert_int_equal(share_word_write(folder->fd, word, &folder->fault), 0);
    assert_int_equal(share_word_read(folder->fd, word, &folder->fault), 0);
    assert_int_equal(share_word_read(folder->fd, other, &folder->fault), ERR_NOT_FOUND);
    share_word_wipe(folder->fd, word);

    assert_int_equal(share_word_read(folder->fd, word, &folder->fault), ERR_NOT_FOUND);
    assert_false(is_there(folder, ".godwit"));
}

static void forgets_a_vm_with_its_stamp(void **state)
{
    struct folder *folder = *state;
    struct stamp none = {0}, found,
                 first = {.generation = 1, .owner = "node1", .incarnation = "boot"};
    int stamp_fd = -1;
    assert_int_equal(share_open_stamp(folder->fd, "vm1", false, &stamp_fd, &folder->fault),
                     ERR_NOT_FOUND);
    assert_int_equal(share_open_stamp(folder->fd, "vm1", true, &stamp_fd, &folder->fault), 0);
    assert_int_equal(stamp_swap(stamp_fd, "vm1", &none, &first, &found, &folder->fault), 0);
    (void)close(stamp_fd);

    assert_int_equal(share_forget_vm(folder->fd, "vm1", &folder->fault), 0);

    assert_false(is_there(folder, ".godwit"));
}

static void a_disk_that_lands_has_no_name_until_it_is_kept(void **state)
{
    struct folder *folder = *state;
    char text[6] = "";
    assert_int_equal(land(folder), 0);
    assert_false(is_there(folder, "root.raw"));
    assert_int_equal(land(folder), 0); /* a second move of the VM: the first did not end well */

    assert_int_equal(keep(folder), 0);
    assert_int_equal(keep(folder), 0); /* an agent that died behind the first */

    int fd = openat(folder->fd, "root.raw", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, text, 5), 5);
    (void)close(fd);
    assert_string_equal(text, "moved");
    assert_true(remove_it(folder)); /* it was made for this VM here */
}

static void a_disk_that_is_dropped_leaves_nothing(void **state)
{
    struct folder *folder = *state;
    assert_int_equal(land(folder), 0);
    share_drop_disk(folder->fd, "vm1", "root");
    share_drop_disk(folder->fd, "vm1", "root");
    assert_int_equal(keep(folder), 0); /* nothing to keep */
    assert_false(is_there(folder, "root.raw"));
    assert_int_equal(share_forget_vm(folder->fd, "vm1", &folder->fault), 0);
}

static void nothing_lands_on_a_file_that_is_there(void **state)
{
    struct folder *folder = *state;
    write_file(folder, "root.raw", "precious");
    assert_int_equal(land(folder), ERR_EXISTS);
    assert_string_equal(folder->fault.text,
                        "disk root: root.raw is there already; nothing is written over");
    (void)unlinkat(folder->fd, "root.raw", 0);

    assert_int_equal(land(folder), 0);
    write_file(folder, "root.raw", "precious"); /* somebody was faster than the move */
    assert_int_equal(keep(folder), ERR_EXISTS);
    assert_true(is_there(folder, "root.raw"));
    share_drop_disk(folder->fd, "vm1", "root");
    assert_int_equal(share_forget_vm(folder->fd, "vm1", &folder->fault), 0);
}

static void a_disk_that_left_is_deleted_when_it_was_made_and_put_aside_when_not(void **state)
{
    struct folder *folder = *state;
    assert_true(make(folder));
    assert_int_equal(share_leave_disk(folder->fd, "vm1", "root", "root.raw", 7, &folder->fault), 0);
    assert_false(is_there(folder, "root.raw"));
    assert_false(is_there(folder, "root.raw.moved-7"));

    write_file(folder, "root.raw", "given");
    assert_int_equal(share_leave_disk(folder->fd, "vm1", "root", "root.raw", 8, &folder->fault), 0);
    assert_false(is_there(folder, "root.raw"));
    assert_true(is_there(folder, "root.raw.moved-8"));
    (void)unlinkat(folder->fd, "root.raw.moved-8", 0);
    assert_int_equal(share_forget_vm(folder->fd, "vm1", &folder->fault), 0);
}

static int fill_word(void *data, int fd, struct fault *fault)
{
    (void)fault;
    return write(fd, data, strlen(data)) == (ssize_t)strlen(data) ? 0 : ERR_IO;
}

static int fill_fails(void *data, int fd, struct fault *fault)
{
    (void)data;
    (void)fd;
    return fault_set(fault, ERR_IO, "the medium is full");
}

static void a_filled_disk_is_made_once_and_never_taken_from_somebody_else(void **state)
{
    struct folder *folder = *state;
    struct fault *fault = &folder->fault;
    bool made, removed;

    assert_int_equal(share_make_filled(folder->fd, "vm1", "root", "root.raw", fill_fails, NULL,
                                       &made, fault),
                     ERR_IO);
    assert_false(is_there(folder, "root.raw"));
    assert_int_equal(share_make_filled(folder->fd, "vm1", "root", "root.raw", fill_word,
                                       (char *)"one", &made, fault),
                     0);
    assert_true(made);
    assert_int_equal(share_make_filled(folder->fd, "vm1", "root", "root.raw", fill_word,
                                       (char *)"two", &made, fault),
                     0);
    assert_false(made);
    assert_int_equal(share_make_filled(folder->fd, "vm2", "root", "root.raw", fill_word,
                                       (char *)"three", &made, fault),
                     ERR_EXISTS);
    assert_int_equal(share_forget_vm(folder->fd, "vm2", fault), 0);
    assert_int_equal(share_remove_disk(folder->fd, "vm1", "root", "root.raw", &removed, fault), 0);
    assert_true(removed);
    assert_int_equal(share_forget_vm(folder->fd, "vm1", fault), 0);
}

static int fill_beside_another(void *data, int fd, struct fault *fault)
{
    const struct folder *folder = data; /* where another makes the same disk */
    (void)fault;

    assert_int_equal(write(fd, "whole", 5), 5);
    AUTO_FD int made_fd =
        openat(folder->fd, ".godwit/vm1/made", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(unlinkat(made_fd, "root.new", 0), 0);
    AUTO_FD int other = openat(made_fd, "root.new", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_int_equal(write(other, "ha", 2), 2); /* the other is half done */
    return 0;
}

static void a_draft_that_another_took_the_place_of_becomes_no_disk(void **state)
{
    struct folder *folder = *state;
    bool made;

    assert_true(share_make_filled(folder->fd, "vm1", "root", "root.raw", fill_beside_another,
                                  folder, &made, &folder->fault) < 0);

    assert_false(made);
    assert_false(is_there(folder, "root.raw"));
    (void)unlinkat(folder->fd, ".godwit/vm1/made/root.new", 0);
    assert_int_equal(share_forget_vm(folder->fd, "vm1", &folder->fault), 0);
}

/* ---- a replica's ---- */
static int open_replica(struct folder *folder, bool lend, int *ret_fd, enum share_replica *ret_how)
{
    return share_open_replica(folder->fd, "vm1", "root", "root.raw", MIB(4), lend, ret_fd, ret_how,
                              &folder->fault);
}

static int drop_replica(struct folder *folder)
{
    share_drop_replica_journal(folder->fd, "vm1", "root");
    int r = share_drop_replica(folder->fd, "vm1", "root", "root.raw", "p1", &folder->fault);
    assert_int_equal(share_forget_vm(folder->fd, "vm1", &folder->fault), 0);
    return r;
}

static void a_replica_has_no_name_and_one_writer_until_it_is_kept(void **state)
{
    struct folder *folder = *state;
    enum share_replica how;
    struct stat info;
    int fd = -1, other_fd = -1, journal_fd = -1;

    assert_int_equal(open_replica(folder, false, &fd, &how), 0);
    assert_int_equal(how, SHARE_REPLICA_MADE);
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(info.st_size, MIB(4));
    assert_false(is_there(folder, "root.raw"));
    assert_int_equal(open_replica(folder, false, &other_fd, &how), ERR_REFUSED);
    close_p(&fd);
    assert_int_equal(open_replica(folder, false, &fd, &how), 0);
    assert_int_equal(how, SHARE_REPLICA_FOUND);
    close_p(&fd);
    assert_int_equal(
        share_open_replica_journal(folder->fd, "vm1", "root", true, &journal_fd, &folder->fault), 0);
    close_p(&journal_fd);

    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(share_keep_replica(folder->fd, "vm1", "root", "root.raw", &folder->fault), 0);
    assert_true(share_is_made(folder->fd, "vm1", "root", "root.raw"));
    assert_int_equal(drop_replica(folder), 0); /* it is no replica any more */
    assert_true(is_there(folder, "root.raw"));
    assert_true(remove_it(folder));
}

static void a_disk_that_is_lent_to_a_replica_is_neither_used_nor_lost(void **state)
{
    struct folder *folder = *state;
    enum share_replica how;
    bool removed;
    int fd = -1;
    write_file(folder, "root.raw", "given");

    assert_int_equal(open_replica(folder, false, &fd, &how), ERR_EXISTS);
    folder->fault = (struct fault){0};
    assert_int_equal(open_replica(folder, true, &fd, &how), 0);
    assert_int_equal(how, SHARE_REPLICA_LENT);
    close_p(&fd);
    assert_false(is_there(folder, "root.raw"));
    assert_int_equal(drop_replica(folder), 0);
    assert_true(is_there(folder, "root.raw.replica-p1"));
    assert_int_equal(renameat(folder->fd, "root.raw.replica-p1", folder->fd, "root.raw"), 0);

    /* taken: it is what it was before, an operator's or made for the VM */
    assert_int_equal(open_replica(folder, true, &fd, &how), 0);
    close_p(&fd);
    assert_int_equal(share_keep_replica(folder->fd, "vm1", "root", "root.raw", &folder->fault), 0);
    assert_false(share_is_made(folder->fd, "vm1", "root", "root.raw"));
    assert_int_equal(share_remove_disk(folder->fd, "vm1", "root", "root.raw", &removed, &folder->fault),
                     0);
    assert_false(removed);
    assert_int_equal(unlinkat(folder->fd, "root.raw", 0), 0);
    assert_true(make(folder));
    assert_int_equal(open_replica(folder, true, &fd, &how), 0);
    close_p(&fd);
    assert_int_equal(share_keep_replica(folder->fd, "vm1", "root", "root.raw", &folder->fault), 0);
    assert_true(remove_it(folder));
}

static void a_replica_that_is_dropped_leaves_nothing(void **state)
{
    struct folder *folder = *state;
    enum share_replica how;
    int fd = -1;

    assert_int_equal(drop_replica(folder), 0);
    assert_int_equal(open_replica(folder, true, &fd, &how), 0);
    close_p(&fd);
    assert_int_equal(drop_replica(folder), 0);
    assert_false(is_there(folder, ".godwit"));
    assert_int_equal(share_keep_replica(folder->fd, "vm1", "root", "root.raw", &folder->fault),
                     ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(makes_a_disk_once_and_removes_what_it_made, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(never_removes_a_disk_that_was_there_before, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(never_removes_a_file_that_took_the_place_of_what_it_made,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(goes_on_where_a_crash_came_before_the_last_step, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_disk_that_lands_has_no_name_until_it_is_kept, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_disk_that_is_dropped_leaves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_lands_on_a_file_that_is_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_replica_has_no_name_and_one_writer_until_it_is_kept, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_disk_that_is_lent_to_a_replica_is_neither_used_nor_lost,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_replica_that_is_dropped_leaves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_disk_that_left_is_deleted_when_it_was_made_and_put_aside_when_not, set_up, tear_down),
        cmocka_unit_test_setup_teardown(follows_no_link_out_of_the_store, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_word_is_seen_only_where_it_was_written, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(forgets_a_vm_with_its_stamp, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_filled_disk_is_made_once_and_never_taken_from_somebody_else, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_draft_that_another_took_the_place_of_becomes_no_disk,
                                        set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
