/* A disk becomes an image, ordered over a socket pair as an agent's coordinator does. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/host_facts.h"
#include "agent/images.h"
#include "agent/orders.h"
#include "agent/vm_table.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/loop.h"
#include "net/rpc.h"
#include "proto/agent.pb-c.h"
#include "proto/method.h"

enum { BYTES = 1 << 20 };

struct world {
    char path[64], disk[96], snapshots[96], marker[192], folder[96];
    struct loop *loop;
    struct images *images;
    struct rpc *client, *server;
    struct fault fault; /* of the answer */
    char digest[DIGEST_TEXT_SIZE];
    bool is_answered;
    struct orders *orders; /* NULL: no start comes meanwhile */
    const Godwit__OrderVmStart *start;
};

static void on_order(void *data, struct rpc *rpc, struct rpc_request *request,
                     const ProtobufCMessage *message)
{
    struct world *world = data;
    (void)rpc;
    images_seal(world->images, (const Godwit__OrderImageSeal *)message, world->snapshots, request);
    if (world->orders)
        orders_start(world->orders, world->start, NULL);
}

static const struct rpc_method methods[] = {
    {METHOD_ORDER_IMAGE_SEAL, &godwit__order_image_seal__descriptor, on_order},
};
static const struct rpc_service service = {.methods = methods, .method_count = 1};

static void write_file(const char *path, const char *text, off_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(ftruncate(fd, bytes), 0);
    (void)close(fd);
}

static int set_up(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    struct fault fault = {0};
    int fds[2];
    assert_non_null(world);
    (void)snprintf(world->path, sizeof world->path, "/tmp/godwit-seal-XXXXXX");
    assert_non_null(mkdtemp(world->path));
    (void)snprintf(world->disk, sizeof world->disk, "%s/disk", world->path);
    (void)snprintf(world->snapshots, sizeof world->snapshots, "%s/snapshots", world->path);
    (void)snprintf(world->marker, sizeof world->marker, "%s/restoring-vm1", world->snapshots);
    (void)snprintf(world->folder, sizeof world->folder, "%s/images", world->path);
    write_file(world->disk, "what the guest wrote", BYTES);
    assert_int_equal(mkdir(world->snapshots, 0700), 0);
    assert_int_equal(loop_new(&world->loop, &fault), 0);
    assert_int_equal(images_new(&world->images, world->loop, NULL, world->folder, &fault), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(rpc_new_unix(&world->client, world->loop, fds[0], &service, world, &fault), 0);
    assert_int_equal(rpc_new_unix(&world->server, world->loop, fds[1], &service, world, &fault), 0);
    *state = world;
    return 0;
}

static int tear_down(void **state)
{
    struct world *world = *state;
    char image[192], incarnation[96];
    (void)snprintf(image, sizeof image, "%s/%s", world->folder, world->digest);
    (void)snprintf(incarnation, sizeof incarnation, "%s/incarnation", world->path);
    images_stop(world->images);
    world->client = rpc_close(world->client);
    world->server = rpc_close(world->server);
    world->images = images_free(world->images);
    world->loop = loop_free(world->loop);
    (void)unlink(world->marker);
    (void)unlink(world->disk);
    (void)unlink(image);
    (void)unlink(incarnation);
    int r = rmdir(world->folder); /* fails when a draft is left */
    r = rmdir(world->snapshots) < 0 ? -1 : r;
    r = rmdir(world->path) < 0 ? -1 : r;
    free(world);
    return r;
}

static void on_answer(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct world *world = data;
    world->is_answered = true;
    world->fault = fault ? *fault : (struct fault){0};
    if (reply)
        (void)snprintf(world->digest, sizeof world->digest, "%s",
                       ((const Godwit__ImageSealed *)reply)->digest);
}

static void seal(struct world *world, const char *vm_id)
{
    Godwit__OrderImageSeal order = GODWIT__ORDER_IMAGE_SEAL__INIT;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT;
    disk.name = (char *)"root";
    disk.path = world->disk;
    order.vm_id = (char *)(uintptr_t)vm_id; /* only read */
    order.disk = &disk;
    world->is_answered = false;
    assert_int_equal(rpc_call(world->client, METHOD_ORDER_IMAGE_SEAL, &order.base,
                              &godwit__image_sealed__descriptor, 0, on_answer, world, NULL),
                     0);
    while (!world->is_answered)
        (void)loop_turn(world->loop, true);
}

static void a_disk_becomes_an_image_of_its_content(void **state)
{
    struct world *world = *state;
    seal(world, "vm1");
    assert_int_equal(world->fault.code, 0);
    assert_int_equal(strlen(world->digest), DIGEST_TEXT_SIZE - 1);
    assert_true(images_has(world->images, world->digest));
    assert_false(images_are_sealed_for(world->images, "vm1"));
}

static void disks_of_a_restore_that_was_not_finished_become_none(void **state)
{
    struct world *world = *state;
    write_file(world->marker, "0123456789abcdef0123456789abcdef", 32);
    seal(world, "vm1");
    assert_int_equal(world->fault.code, ERR_STATE);
    assert_non_null(strstr(world->fault.text, "a restore from snapshot 0123456789ab was not"));
    assert_string_equal(world->digest, "");
    seal(world, "vm2"); /* another VM's is in nobody's way */
    assert_int_equal(world->fault.code, 0);
    assert_true(images_has(world->images, world->digest));
}

static void a_start_that_comes_meanwhile_is_refused_for_good(void **state)
{
    struct world *world = *state;
    struct vm_table_config config = {.loop = world->loop,
                                     .state_dir = world->path,
                                     .run_dir = world->path,
                                     .program = "/nonexistent",
                                     .log_level = "info",
                                     .incarnation = "1"};
    Godwit__OrderVmStart start = GODWIT__ORDER_VM_START__INIT;
    struct host_facts *facts;
    struct vm_table *table;
    struct fault fault = {0};
    assert_int_equal(vm_table_new(&table, &config, &fault), 0);
    assert_int_equal(host_facts_new(&facts, "node1", "127.0.0.1", world->path, &fault), 0);
    assert_int_equal(orders_new(&world->orders, world->loop, table, facts, "", &fault), 0);
    orders_set_images(world->orders, world->images);
    start.vm_id = (char *)"vm1";
    start.has_generation = true;
    start.generation = 7;
    start.incarnation = (char *)(uintptr_t)host_facts_incarnation(facts); /* only read */
    world->start = &start;

    seal(world, "vm1");

    uint64_t burnt = vm_table_hiwater(table, "vm1");
    bool is_there = vm_table_find(table, "vm1") != NULL;
    orders_stop(world->orders);
    world->orders = orders_free(world->orders);
    (void)vm_table_free(table);
    (void)host_facts_free(facts);
    assert_int_equal(world->fault.code, 0); /* it is not disturbed */
    assert_int_equal(burnt, 7);
    assert_false(is_there);
}

static void an_order_for_no_vm_is_refused(void **state)
{
    struct world *world = *state;
    seal(world, "../vm1");
    assert_int_equal(world->fault.code, ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_disk_becomes_an_image_of_its_content, set_up, tear_down),
        cmocka_unit_test_setup_teardown(disks_of_a_restore_that_was_not_finished_become_none,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_start_that_comes_meanwhile_is_refused_for_good, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_order_for_no_vm_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
