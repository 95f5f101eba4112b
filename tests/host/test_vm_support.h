/* A guest on real KVM for host tests: its console as lines, its commands, copying it by hand.
 *
 * Flow:   host tests -> [test_vm_support] -> vm
 * Thread: the test's; console bytes come from vCPU threads under the console's own lock.
 */
#ifndef GODWIT_TESTS_HOST_TEST_VM_SUPPORT_H
#define GODWIT_TESTS_HOST_TEST_VM_SUPPORT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vmm-core/vm.h"

struct bitmap;

enum { CONSOLE_BYTES_MAX = 1 << 18, CONSOLE_LINE_MAX = 2048 };

struct test_vm {
    struct vm *vm;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char text[CONSOLE_BYTES_MAX]; /* under the lock */
    size_t used, read;            /* under the lock */
    int event;                    /* under the lock; -1 before any */
    struct fault event_fault;     /* under the lock */
};

/* Ends the program with 77 where there is no usable /dev/kvm. */
int test_vm_kvm(void);
/* The verifying guest, built beside the test. */
const char *test_vm_guest_path(void);

struct test_vm *test_vm_new(unsigned vcpus, uint64_t memory_mib);
/* With the vCPUs, memory and devices of `config`; the rest of it is the test's own. */
struct test_vm *test_vm_new_with(const struct vm_config *config);
struct test_vm *test_vm_free(struct test_vm *test);
/* Boots a PVH image made of this 32-bit code, with registers as the convention leaves them. */
struct test_vm *test_vm_boot_code(unsigned vcpus, uint64_t memory_mib, const uint8_t *code,
                                  size_t count);
/* Boots the verifying guest and waits for its "gw ready" line. */
struct test_vm *test_vm_boot(unsigned vcpus, uint64_t memory_mib, const char *cmdline);

/* The same in a vm that test_vm_new_with made. */
void test_vm_boot_guest(struct test_vm *test, const char *cmdline);

/* The next console line that begins with `prefix`; fails the test after 30 s. */
void test_vm_expect(struct test_vm *test, const char *prefix,
                    char ret_line[static CONSOLE_LINE_MAX]);
/* The same, but false after so many seconds: the guest may have good reasons to be silent. */
bool test_vm_hear(struct test_vm *test, const char *prefix, unsigned seconds,
                  char ret_line[static CONSOLE_LINE_MAX]);
/* Wait until the guest has written `text` somewhere behind what was read. */
void test_vm_expect_text(struct test_vm *test, const char *text);
/* Send a command, get its answer "gw <kind>...". */
void test_vm_ask(struct test_vm *test, const char *command, const char *prefix,
                 char ret_line[static CONSOLE_LINE_MAX]);
/* Wait until the guest has written so many more blocks ("disk") or got so many more frames back
 * ("nic"): it says so itself, since a guest that is asked again and again does little else. */
void test_vm_await(struct test_vm *test, const char *device, uint64_t more);
/* The number behind " key=" in a line; fails the test when there is none. */
uint64_t test_vm_number(const char *line, const char *key);
int test_vm_wait_event(struct test_vm *test);

/* Copy the pages that exist in `from` and are set in `wanted` (all of them when NULL). */
void test_vm_copy(struct test_vm *to, struct test_vm *from, const struct bitmap *wanted);

#endif
