#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "cli/build_seal.h"

static enum build_seal_next look(const char *named, const char *probed, bool *ret_has_probe)
{
    Godwit__ImageInfo base = GODWIT__IMAGE_INFO__INIT, image = GODWIT__IMAGE_INFO__INIT,
                      probe = GODWIT__IMAGE_INFO__INIT;
    Godwit__ImageInfo *all[3] = {&base};
    Godwit__ImageList list = GODWIT__IMAGE_LIST__INIT;
    base.name = (char *)"base";
    base.digest = (char *)"aa";
    image.name = (char *)"web";
    image.digest = (char *)(uintptr_t)named; /* only read, as the next */
    probe.name = (char *)"build-web-1";
    probe.digest = (char *)(uintptr_t)probed;
    list.images = all;
    list.n_images = 1;
    if (named)
        all[list.n_images++] = &image;
    if (probed)
        all[list.n_images++] = &probe;
    return build_seal_look(&list, "web", "build-web-1", ret_has_probe);
}

static void an_image_of_the_name_is_ours_only_by_its_content(void **state)
{
    (void)state;
    bool has_probe = true;
    assert_int_equal(look(NULL, NULL, &has_probe), BUILD_SEAL_NAME);
    assert_false(has_probe);
    assert_int_equal(look("bb", NULL, &has_probe), BUILD_SEAL_PROBE);
    assert_false(has_probe);
    assert_int_equal(look("bb", "bb", &has_probe), BUILD_SEAL_OURS);
    assert_true(has_probe);
    assert_int_equal(look("aa", "bb", &has_probe), BUILD_SEAL_OTHERS);
    assert_int_equal(look(NULL, "bb", &has_probe), BUILD_SEAL_NAME); /* removed since */
    assert_true(has_probe);
}

static enum build_seal_answer answer(enum build_seal_next next, const char *error_name)
{
    Godwit__ImageReply reply = GODWIT__IMAGE_REPLY__INIT;
    Godwit__OperatorError error = GODWIT__OPERATOR_ERROR__INIT;
    error.name = (char *)(uintptr_t)error_name;
    reply.error = error_name ? &error : NULL;
    return build_seal_answered(next, 0, &reply);
}

static void a_busy_vm_is_one_whose_first_seal_goes_on(void **state)
{
    (void)state;
    assert_int_equal(answer(BUILD_SEAL_NAME, "vm-busy"), BUILD_SEAL_PAUSE);
    assert_int_equal(answer(BUILD_SEAL_PROBE, "vm-busy"), BUILD_SEAL_PAUSE);
    assert_int_equal(answer(BUILD_SEAL_NAME, "name-taken"), BUILD_SEAL_LOOK);
    assert_int_equal(answer(BUILD_SEAL_PROBE, "name-taken"), BUILD_SEAL_LOOK);
    assert_int_equal(answer(BUILD_SEAL_NAME, "image-failed"), BUILD_SEAL_TOLD);
    assert_int_equal(answer(BUILD_SEAL_PROBE, "image-failed"), BUILD_SEAL_FAILED);
    assert_int_equal(answer(BUILD_SEAL_NAME, "host-down"), BUILD_SEAL_AWAY);
    assert_int_equal(answer(BUILD_SEAL_PROBE, "host-down"), BUILD_SEAL_AWAY);
    assert_int_equal(answer(BUILD_SEAL_NAME, NULL), BUILD_SEAL_TOLD);
    assert_int_equal(answer(BUILD_SEAL_PROBE, NULL), BUILD_SEAL_LOOK);
}

static void a_line_that_broke_again_is_looked_after_again(void **state)
{
    (void)state;
    assert_int_equal(build_seal_answered(BUILD_SEAL_NAME, ERR_CLOSED, NULL), BUILD_SEAL_LOOK);
    assert_int_equal(build_seal_answered(BUILD_SEAL_PROBE, ERR_UNREACHABLE, NULL), BUILD_SEAL_LOOK);
    assert_int_equal(build_seal_answered(BUILD_SEAL_NAME, ERR_NOMEM, NULL), BUILD_SEAL_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_image_of_the_name_is_ours_only_by_its_content),
        cmocka_unit_test(a_busy_vm_is_one_whose_first_seal_goes_on),
        cmocka_unit_test(a_line_that_broke_again_is_looked_after_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
