#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/image_folder.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/sparse.h"

enum { BYTES = 8192 };

struct place {
    char path[64];
    int fd;
    uint8_t content[BYTES]; /* its second half is zeros */
    char digest[DIGEST_TEXT_SIZE];
    struct fault fault;
};

static int set_up(void **state)
{
    struct place *place = calloc(1, sizeof *place);
    struct digest *sum = digest_new();
    assert_non_null(place);
    (void)snprintf(place->path, sizeof place->path, "/tmp/godwit-images-XXXXXX");
    assert_non_null(mkdtemp(place->path));
    assert_int_equal(image_folder_open(place->path, &place->fd, &place->fault), 0);
    memset(place->content, 5, BYTES / 2);
    digest_add(sum, place->content, BYTES);
    digest_finish(sum, place->digest);
    (void)digest_free(sum);
    *state = place;
    return 0;
}

static int tear_down(void **state)
{
    struct place *place = *state;
    (void)unlinkat(place->fd, place->digest, 0);
    (void)close(place->fd);
    int r = rmdir(place->path); /* fails when a draft is left */
    free(place);
    return r;
}

static size_t count_images(struct place *place)
{
    char **digests;
    size_t count;
    assert_int_equal(image_folder_list(place->fd, &digests, &count, &place->fault), 0);
    image_folder_list_free(digests, count);
    return count;
}

static void take(struct place *place)
{
    struct image_draft draft;
    struct fault *fault = &place->fault;
    assert_int_equal(image_draft_open(&draft, place->fd, place->digest, BYTES, fault), 0);
    assert_int_equal(image_draft_add(&draft, 0, place->content, BYTES / 2, 0, fault), 0);
    assert_int_equal(image_draft_add(&draft, BYTES / 2, NULL, 0, BYTES / 2, fault), 0);
    assert_int_equal(count_images(place), 0);
    assert_int_equal(image_draft_publish(&draft, fault), 0);
    image_draft_drop(&draft);
}

static void publishes_what_came_whole_and_right_read_only(void **state)
{
    struct place *place = *state;
    struct image_proof proof = {0};
    struct stat info;

    take(place);

    assert_int_equal(count_images(place), 1);
    assert_int_equal(fstatat(place->fd, place->digest, &info, 0), 0);
    assert_int_equal(info.st_mode & 0777, 0400);
    assert_int_equal(info.st_size, BYTES);
    assert_int_equal(image_folder_verify(place->fd, place->digest, &proof, NULL, NULL, &place->fault),
                     0);
    assert_string_equal(proof.digest, place->digest);
}

static void refuses_what_is_something_else_and_leaves_nothing(void **state)
{
    struct place *place = *state;
    struct image_draft draft;
    struct fault *fault = &place->fault;
    assert_int_equal(image_draft_open(&draft, place->fd, place->digest, BYTES, fault), 0);
    place->content[0]++;
    assert_int_equal(image_draft_add(&draft, 0, place->content, BYTES, 0, fault), 0);

    assert_int_equal(image_draft_publish(&draft, fault), ERR_CORRUPT);
    image_draft_drop(&draft);

    assert_int_equal(count_images(place), 0);
}

static void refuses_parts_out_of_place(void **state)
{
    struct place *place = *state;
    struct image_draft draft;
    struct fault *fault = &place->fault;
    assert_int_equal(image_draft_open(&draft, place->fd, place->digest, BYTES, fault), 0);

    assert_int_equal(image_draft_add(&draft, 512, place->content, 512, 0, fault), ERR_INVALID);
    assert_int_equal(image_draft_add(&draft, 0, NULL, 0, 0, fault), ERR_INVALID);
    assert_int_equal(image_draft_add(&draft, 0, place->content, 1, 1, fault), ERR_INVALID);
    assert_int_equal(image_draft_add(&draft, 0, NULL, 0, UINT64_MAX, fault), ERR_INVALID);
    assert_int_equal(image_draft_add(&draft, 0, NULL, 0, BYTES + 1, fault), ERR_INVALID);
    assert_int_equal(image_draft_publish(&draft, fault), ERR_STATE);
    image_draft_drop(&draft);
}

static void refuses_more_zeros_at_once_than_a_worker_may_be_kept_with(void **state)
{
    struct place *place = *state;
    struct image_draft draft;
    struct fault *fault = &place->fault;
    assert_int_equal(image_draft_open(&draft, place->fd, place->digest, GIB(1), fault), 0);

    assert_int_equal(image_draft_add(&draft, 0, NULL, 0, SPARSE_ZEROS_MAX + 512ULL, fault),
                     ERR_INVALID);

    assert_int_equal(draft.offset, 0);
    image_draft_drop(&draft);
}

static void publishes_nothing_that_took_its_place(void **state)
{
    struct place *place = *state;
    struct image_draft draft, other;
    struct fault *fault = &place->fault;
    assert_int_equal(image_draft_open(&draft, place->fd, place->digest, BYTES, fault), 0);
    assert_int_equal(image_draft_add(&draft, 0, place->content, BYTES, 0, fault), 0);
    assert_int_equal(image_draft_open(&other, place->fd, place->digest, BYTES, fault), 0);

    assert_int_equal(image_draft_publish(&draft, fault), ERR_BUSY);

    assert_int_equal(count_images(place), 0);
    image_draft_drop(&draft);
    image_draft_drop(&other);
}

static void refuses_names_and_sizes_that_cannot_be(void **state)
{
    struct place *place = *state;
    static const char *const names[] = {
        "", "../x", "abc",
        "ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789",
        "/bcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789"};
    struct image_draft draft;
    AUTO_FD int fd = -1;
    uint64_t size;

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        assert_int_equal(image_draft_open(&draft, place->fd, names[i], BYTES, &place->fault),
                         ERR_INVALID);
        assert_int_equal(image_folder_file(place->fd, names[i], &fd, &size, &place->fault),
                         ERR_INVALID);
        assert_int_equal(image_folder_remove(place->fd, names[i], &place->fault), ERR_INVALID);
    }
    assert_int_equal(image_draft_open(&draft, place->fd, place->digest, 513, &place->fault),
                     ERR_INVALID);
    assert_int_equal(image_draft_open(&draft, place->fd, place->digest, UINT64_MAX, &place->fault),
                     ERR_INVALID);
}

static void finds_damage_though_it_was_right_before(void **state)
{
    struct place *place = *state;
    struct image_proof proof = {0};
    take(place);
    assert_int_equal(image_folder_verify(place->fd, place->digest, &proof, NULL, NULL, &place->fault),
                     0);
    AUTO_FD int fd = openat(place->fd, place->digest, O_RDWR | O_CLOEXEC);
    if (fd < 0) { /* not root: the file is read-only */
        assert_int_equal(fchmodat(place->fd, place->digest, 0600, 0), 0);
        fd = openat(place->fd, place->digest, O_RDWR | O_CLOEXEC);
    }
    assert_int_equal(pwrite(fd, "x", 1, 100), 1);

    assert_int_equal(image_folder_verify(place->fd, place->digest, &proof, NULL, NULL, &place->fault),
                     ERR_CORRUPT);
    assert_int_equal(proof.digest[0], 0);

    assert_int_equal(image_folder_set_aside(place->fd, place->digest, &place->fault), 0);
    assert_int_equal(image_folder_verify(place->fd, place->digest, &proof, NULL, NULL, &place->fault),
                     ERR_NOT_FOUND);
    assert_int_equal(image_folder_set_aside(place->fd, "../x", &place->fault), ERR_INVALID);
    take(place); /* whole again, from elsewhere */
    assert_int_equal(image_folder_verify(place->fd, place->digest, &proof, NULL, NULL, &place->fault),
                     0);
    char aside[16 + DIGEST_TEXT_SIZE];
    (void)snprintf(aside, sizeof aside, ".damaged-%s", place->digest);
    assert_int_equal(unlinkat(place->fd, aside, 0), 0);
}

static void a_link_is_no_image(void **state)
{
    struct place *place = *state;
    AUTO_FD int fd = -1;
    uint64_t size;
    assert_int_equal(symlinkat("/etc/hostname", place->fd, place->digest), 0);

    assert_true(image_folder_file(place->fd, place->digest, &fd, &size, &place->fault) < 0);
}

static void drops_what_a_killed_agent_left(void **state)
{
    struct place *place = *state;
    struct image_draft draft;
    AUTO_FD int again = -1;
    assert_int_equal(image_draft_open(&draft, place->fd, place->digest, BYTES, &place->fault), 0);
    close_p(&draft.fd); /* as the end of its process does */
    draft.sum = digest_free(draft.sum);

    assert_int_equal(image_folder_open(place->path, &again, &place->fault), 0);

    assert_int_equal(count_images(place), 0); /* tear_down sees that nothing is left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(publishes_what_came_whole_and_right_read_only, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(refuses_what_is_something_else_and_leaves_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(refuses_parts_out_of_place, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            refuses_more_zeros_at_once_than_a_worker_may_be_kept_with, set_up, tear_down),
        cmocka_unit_test_setup_teardown(publishes_nothing_that_took_its_place, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_names_and_sizes_that_cannot_be, set_up, tear_down),
        cmocka_unit_test_setup_teardown(finds_damage_though_it_was_right_before, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_link_is_no_image, set_up, tear_down),
        cmocka_unit_test_setup_teardown(drops_what_a_killed_agent_left, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
