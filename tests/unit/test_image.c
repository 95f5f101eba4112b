#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/own.h"
#include "coordinator/image.h"
#include "coordinator/words.h"
#include "proto/vm_spec.h"

#define DIGEST_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DIGEST_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

struct pool {
    struct cluster cluster;
    struct cluster_todo todo;
    struct problem problem;
};

static const struct cluster_now now = {.ns = 1000000000, .unix_ms = 5000};

static int set_up(void **state)
{
    *state = calloc(1, sizeof(struct pool));
    return *state ? 0 : -1;
}

static int tear_down(void **state)
{
    struct pool *pool = *state;
    cluster_todo_deinit(&pool->todo);
    cluster_deinit(&pool->cluster);
    free(pool);
    return 0;
}

static Godwit__ImageInfo info_of(const char *name, const char *digest)
{
    Godwit__ImageInfo info = GODWIT__IMAGE_INFO__INIT;
    info.name = (char *)(uintptr_t)name; /* only read, as is the next */
    info.digest = (char *)(uintptr_t)digest;
    info.has_size = true;
    info.size = (2 << 20) + 512;
    return info;
}

static int add(struct pool *pool, const char *name, const char *digest)
{
    const Godwit__ImageInfo info = info_of(name, digest);
    struct cluster_image *image = NULL;
    return image_add(&pool->cluster, &info, now, &image, &pool->problem, &pool->todo);
}

static struct cluster_host *add_host(struct pool *pool, const char *name, char *digest)
{
    struct cluster_host *host = cluster_add_host(&pool->cluster, name);
    Godwit__AgentImages images = GODWIT__AGENT_IMAGES__INIT;
    host->facts = calloc(1, sizeof *host->facts);
    godwit__host_facts__init(host->facts);
    host->link_up = true;
    host->seen_ns = now.ns;
    images.digests = &digest;
    images.n_digests = digest ? 1 : 0;
    image_take(host, &images);
    return host;
}

static void refuses_what_is_no_image(void **state)
{
    struct pool *pool = *state;
    Godwit__ImageInfo info = info_of("../x", DIGEST_A);

    assert_int_equal(image_judge(&pool->cluster, &info, &pool->problem), -1);
    info = info_of("x", "../../etc/passwd");
    assert_int_equal(image_judge(&pool->cluster, &info, &pool->problem), -1);
    info = info_of("x", DIGEST_A);
    info.size = 1000;
    assert_int_equal(image_judge(&pool->cluster, &info, &pool->problem), -1);
    info = info_of("x", DIGEST_A);
    info.kernel = (char *)"vmlinuz";
    assert_int_equal(image_judge(&pool->cluster, &info, &pool->problem), -1);
    assert_int_equal(pool->problem.code, GW_IMAGE_INVALID);
    assert_int_equal(image_judge(&pool->cluster, NULL, &pool->problem), -1);
}

static void a_name_stands_for_one_content(void **state)
{
    struct pool *pool = *state;

    assert_int_equal(add(pool, "debian", DIGEST_A), 0);
    assert_int_equal(add(pool, "debian", DIGEST_A), 0);
    assert_int_equal(pool->cluster.image_count, 1);
    assert_int_equal(add(pool, "debian", DIGEST_B), -1);
    assert_int_equal(pool->problem.code, GW_NAME_TAKEN);
    assert_int_equal(add(pool, "twin", DIGEST_A), 0);
    assert_int_equal(pool->cluster.image_count, 2);
    assert_null(image_find(&pool->cluster, "debain", &pool->problem));
    assert_non_null(strstr(pool->problem.hint, "debian"));
}

static Godwit__VmSpec *complete(struct pool *pool, Godwit__DiskSpec *disk, const char *kernel)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    spec.name = (char *)"web";
    spec.kernel = (char *)(uintptr_t)kernel;
    spec.disks = &disk;
    spec.n_disks = 1;
    return image_complete_spec(&pool->cluster, &spec, &pool->problem);
}

static void fills_in_what_a_disk_lacks(void **state)
{
    struct pool *pool = *state;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT;
    struct fault fault = {0};
    disk.name = (char *)"root";
    disk.image = (char *)"debian";
    assert_int_equal(add(pool, "debian", DIGEST_A), 0);

    Godwit__VmSpec *spec = complete(pool, &disk, NULL);

    assert_non_null(spec);
    assert_string_equal(spec->boot, "disk");
    assert_string_equal(spec->disks[0]->image_digest, DIGEST_A);
    assert_string_equal(spec->disks[0]->store, IMAGE_STORE_DEFAULT);
    assert_string_equal(spec->disks[0]->file, "web-root.raw");
    assert_int_equal(spec->disks[0]->size, (2 << 20) + 4096);
    assert_int_equal(vm_spec_judge(spec, &fault), 0);
    godwit__vm_spec__free_unpacked(spec, NULL);
}

static void keeps_what_was_given_and_refuses_a_disk_that_is_too_small(void **state)
{
    struct pool *pool = *state;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT;
    disk.name = (char *)"root";
    disk.image = (char *)"debian";
    disk.store = (char *)"/srv";
    disk.file = (char *)"a.raw";
    disk.has_size = true;
    disk.size = 64 << 20;
    assert_int_equal(add(pool, "debian", DIGEST_A), 0);

    Godwit__VmSpec *spec = complete(pool, &disk, "/boot/vmlinuz");
    assert_non_null(spec);
    assert_string_equal(spec->disks[0]->store, "/srv");
    assert_string_equal(spec->disks[0]->file, "a.raw");
    assert_int_equal(spec->disks[0]->size, 64 << 20);
    assert_true(!spec->boot || !spec->boot[0]);
    godwit__vm_spec__free_unpacked(spec, NULL);

    disk.size = 2 << 20;
    assert_null(complete(pool, &disk, NULL));
    disk.image = (char *)"none";
    assert_null(complete(pool, &disk, NULL));
    assert_int_equal(pool->problem.code, GW_IMAGE_UNKNOWN);
}

static void is_not_removed_while_a_vm_names_it(void **state)
{
    struct pool *pool = *state;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT;
    disk.name = (char *)"root";
    disk.image = (char *)"debian";
    assert_int_equal(add(pool, "debian", DIGEST_A), 0);
    struct cluster_vm *vm = cluster_add_vm(&pool->cluster, "0123");
    vm->spec = complete(pool, &disk, NULL);
    assert_true(image_vm_is_raw(vm));

    assert_int_equal(image_remove(&pool->cluster, "debian", &pool->problem, &pool->todo), -1);
    assert_int_equal(pool->problem.code, GW_IMAGE_IN_USE);
    assert_non_null(strstr(pool->problem.text, "web"));
    cluster_drop_vm(&pool->cluster, vm);
    assert_int_equal(image_remove(&pool->cluster, "debian", &pool->problem, &pool->todo), 0);
    assert_false(image_is_named(&pool->cluster, DIGEST_A));
}

static void an_import_goes_where_the_content_is_else_to_the_first_host(void **state)
{
    struct pool *pool = *state;
    struct cluster_host *second = add_host(pool, "node2", NULL);
    struct cluster_host *first = add_host(pool, "node1", NULL);
    struct cluster_host *third = add_host(pool, "node3", (char *)DIGEST_B);
    struct cluster *cluster = &pool->cluster;

    assert_ptr_equal(image_choose_host(cluster, "", DIGEST_A, now, &pool->problem), first);
    assert_ptr_equal(image_choose_host(cluster, "", DIGEST_B, now, &pool->problem), third);
    assert_ptr_equal(image_choose_host(cluster, "node2", DIGEST_B, now, &pool->problem), second);
    assert_ptr_equal(image_find_host(cluster, DIGEST_B, NULL, now), third);
    assert_null(image_find_host(cluster, DIGEST_B, "node3", now));
    third->link_up = false;
    assert_ptr_equal(image_choose_host(cluster, "", DIGEST_B, now, &pool->problem), first);
    assert_null(image_choose_host(cluster, "node3", DIGEST_B, now, &pool->problem));
    assert_int_equal(pool->problem.code, GW_HOST_DOWN);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(refuses_what_is_no_image),
        CASE(a_name_stands_for_one_content),
        CASE(fills_in_what_a_disk_lacks),
        CASE(keeps_what_was_given_and_refuses_a_disk_that_is_too_small),
        CASE(is_not_removed_while_a_vm_names_it),
        CASE(an_import_goes_where_the_content_is_else_to_the_first_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
