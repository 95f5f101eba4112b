#include "test_vm_support.h"

#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/own.h"
#include "vmm-core/cpu_model.h"
#include "vmm-core/guest_memory.h"

enum { ANSWER_S_MAX = 60, TEST_EXIT_SKIP = 77 };

int test_vm_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
        (void)printf("skipped: no /dev/kvm here\n");
        exit(TEST_EXIT_SKIP);
    }
    return fd;
}

const char *test_vm_guest_path(void)
{
    const char *path = getenv("GODWIT_TEST_GUEST");
    return path ? path : GUEST_ELF;
}

static void on_serial(void *data, const uint8_t *bytes, size_t count)
{
    struct test_vm *test = data;
    (void)pthread_mutex_lock(&test->lock);
    if (count > CONSOLE_BYTES_MAX - test->used) { /* what was read is not asked for again */
        memmove(test->text, test->text + test->read, test->used - test->read);
        test->used -= test->read;
        test->read = 0;
    }
    assert(count <= CONSOLE_BYTES_MAX - test->used);
    memcpy(test->text + test->used, bytes, count);
    test->used += count;
    (void)pthread_cond_broadcast(&test->changed);
    (void)pthread_mutex_unlock(&test->lock);
}

static void on_event(void *data, enum vm_event event, const struct fault *fault)
{
    struct test_vm *test = data;
    (void)pthread_mutex_lock(&test->lock);
    test->event = (int)event;
    if (fault)
        test->event_fault = *fault;
    (void)pthread_cond_broadcast(&test->changed);
    (void)pthread_mutex_unlock(&test->lock);
}

struct test_vm *test_vm_new(unsigned vcpus, uint64_t memory_mib)
{
    const struct vm_config config = {.vcpus = vcpus, .memory_bytes = MIB(memory_mib)};
    return test_vm_new_with(&config);
}

struct test_vm *test_vm_new_with(const struct vm_config *wanted)
{
    struct test_vm *test = calloc(1, sizeof *test);
    assert_non_null(test);
    (void)pthread_mutex_init(&test->lock, NULL);
    (void)pthread_cond_init(&test->changed, NULL);
    test->event = -1;

    int kvm_fd = test_vm_kvm();
    struct vm_config config = *wanted;
    config.kvm_fd = kvm_fd;
    config.cpu_model = cpu_model_at(0);
    config.on_serial = on_serial;
    config.on_event = on_event;
    config.data = test;
    struct fault fault = {0};
    int r = vm_new(&test->vm, &config, &fault);
    (void)close(kvm_fd);
    if (r < 0)
        fail_msg("vm_new: %s", fault.text);
    return test;
}

struct test_vm *test_vm_free(struct test_vm *test)
{
    if (!test)
        return NULL;
    test->vm = vm_free(test->vm);
    (void)pthread_cond_destroy(&test->changed);
    (void)pthread_mutex_destroy(&test->lock);
    free(test);
    return NULL;
}

static int code_image(const uint8_t *code, size_t count)
{
    struct {
        Elf64_Ehdr header;
        Elf64_Phdr segments[2];
        uint8_t note[20];
    } front = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                   .e_type = ET_EXEC,
                   .e_machine = EM_X86_64,
                   .e_phoff = sizeof(Elf64_Ehdr),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = 2},
        .segments = {{.p_type = PT_LOAD,
                      .p_offset = PAGE_BYTES,
                      .p_paddr = MIB(1),
                      .p_filesz = count,
                      .p_memsz = count},
                     {.p_type = PT_NOTE,
                      .p_filesz = sizeof front.note,
                      .p_offset = offsetof(__typeof__(front), note),
                      .p_align = 4}},
    };
    bytes_put_u32(front.note, 4);
    bytes_put_u32(front.note + 4, 4);
    bytes_put_u32(front.note + 8, 18);
    memcpy(front.note + 12, "Xen", 4);
    bytes_put_u32(front.note + 16, (uint32_t)MIB(1));
    int fd = memfd_create("image", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &front, sizeof front, 0), (ssize_t)sizeof front);
    assert_int_equal(pwrite(fd, code, count, PAGE_BYTES), (ssize_t)count);
    return fd;
}

static void boot(struct test_vm *test, int kernel_fd, const char *cmdline)
{
    struct fault fault = {0};
    if (vm_boot(test->vm, kernel_fd, -1, cmdline, &fault) < 0 || vm_start(test->vm, &fault) < 0 ||
        vm_resume(test->vm, &fault) < 0)
        fail_msg("booting the guest: %s", fault.text);
    (void)close(kernel_fd);
}

struct test_vm *test_vm_boot_code(unsigned vcpus, uint64_t memory_mib, const uint8_t *code,
                                  size_t count)
{
    struct test_vm *test = test_vm_new(vcpus, memory_mib);
    boot(test, code_image(code, count), "");
    return test;
}

struct test_vm *test_vm_boot(unsigned vcpus, uint64_t memory_mib, const char *cmdline)
{
    struct test_vm *test = test_vm_new(vcpus, memory_mib);
    test_vm_boot_guest(test, cmdline);
    return test;
}

void test_vm_boot_guest(struct test_vm *test, const char *cmdline)
{
    int kernel_fd = open(test_vm_guest_path(), O_RDONLY | O_CLOEXEC);
    assert_true(kernel_fd >= 0);
    boot(test, kernel_fd, cmdline);

    char line[CONSOLE_LINE_MAX];
    test_vm_expect(test, "gw ready", line);
}

static struct timespec deadline(unsigned seconds)
{
    struct timespec at;
    (void)clock_gettime(CLOCK_REALTIME, &at);
    at.tv_sec += seconds;
    return at;
}

/* Under the lock: take one whole line, if there is one. */
static bool take_line(struct test_vm *test, char ret_line[static CONSOLE_LINE_MAX])
{
    const char *start = test->text + test->read;
    const char *end = memchr(start, '\n', test->used - test->read);
    if (!end)
        return false;
    size_t count = (size_t)(end - start);
    assert(count < CONSOLE_LINE_MAX);
    memcpy(ret_line, start, count);
    ret_line[count] = '\0';
    test->read += count + 1;
    return true;
}

bool test_vm_hear(struct test_vm *test, const char *prefix, unsigned seconds,
                  char ret_line[static CONSOLE_LINE_MAX])
{
    struct timespec until = deadline(seconds);
    bool found = false;
    int r = 0;
    (void)pthread_mutex_lock(&test->lock);
    while (!found && r != ETIMEDOUT) {
        while (!found && take_line(test, ret_line))
            found = strncmp(ret_line, prefix, strlen(prefix)) == 0;
        if (!found)
            r = pthread_cond_timedwait(&test->changed, &test->lock, &until);
    }
    (void)pthread_mutex_unlock(&test->lock);
    return found;
}

void test_vm_expect(struct test_vm *test, const char *prefix,
                    char ret_line[static CONSOLE_LINE_MAX])
{
    if (!test_vm_hear(test, prefix, ANSWER_S_MAX, ret_line))
        fail_msg("no '%s' from the guest; event %d %s; console: %.*s", prefix, test->event,
                 test->event_fault.text, (int)test->used, test->text);
}

void test_vm_expect_text(struct test_vm *test, const char *text)
{
    struct timespec until = deadline(ANSWER_S_MAX);
    size_t count = strlen(text);
    (void)pthread_mutex_lock(&test->lock);
    for (;;) {
        const char *at = memmem(test->text + test->read, test->used - test->read, text, count);
        if (at) {
            test->read = (size_t)(at - test->text) + count;
            break;
        }
        if (pthread_cond_timedwait(&test->changed, &test->lock, &until) == ETIMEDOUT) {
            (void)pthread_mutex_unlock(&test->lock);
            fail_msg("no '%s' from the guest; event %d %s; console: %.*s", text, test->event,
                     test->event_fault.text, (int)test->used, test->text);
        }
    }
    (void)pthread_mutex_unlock(&test->lock);
}

void test_vm_ask(struct test_vm *test, const char *command, const char *prefix,
                 char ret_line[static CONSOLE_LINE_MAX])
{
    char text[CONSOLE_LINE_MAX];
    int count = snprintf(text, sizeof text, "%s\n", command);
    assert_int_equal(vm_serial_input(test->vm, (const uint8_t *)text, (size_t)count), count);
    test_vm_expect(test, prefix, ret_line);
}

void test_vm_await(struct test_vm *test, const char *device, uint64_t more)
{
    char line[CONSOLE_LINE_MAX], command[64], prefix[32];
    (void)snprintf(command, sizeof command, "%s await %llu", device, (unsigned long long)more);
    (void)snprintf(prefix, sizeof prefix, "gw %s ", device);
    test_vm_ask(test, command, prefix, line);
}

uint64_t test_vm_number(const char *line, const char *key)
{
    char word[64];
    (void)snprintf(word, sizeof word, " %s=", key);
    const char *at = strstr(line, word);
    if (!at)
        fail_msg("no %s in '%s'", key, line);
    return strtoull(at + strlen(word), NULL, 10);
}

int test_vm_wait_event(struct test_vm *test)
{
    struct timespec until = deadline(ANSWER_S_MAX);
    (void)pthread_mutex_lock(&test->lock);
    while (test->event < 0) {
        if (pthread_cond_timedwait(&test->changed, &test->lock, &until) == ETIMEDOUT)
            break;
    }
    int event = test->event;
    (void)pthread_mutex_unlock(&test->lock);
    return event;
}

void test_vm_copy(struct test_vm *to, struct test_vm *from, const struct bitmap *wanted)
{
    struct guest_memory *source = vm_memory(from->vm);
    struct guest_memory *target = vm_memory(to->vm);
    struct bitmap pages;
    struct fault fault = {0};
    assert_int_equal(bitmap_init(&pages, guest_memory_pages(source)), 0);
    if (guest_memory_populated(source, &pages, &fault) < 0)
        fail_msg("%s", fault.text);
    if (wanted)
        bitmap_and(&pages, wanted);
    for (uint64_t page = bitmap_next_set(&pages, 0); page != BITMAP_NONE;
         page = bitmap_next_set(&pages, page + 1))
        memcpy(guest_memory_page(guest_memory_base(target), page),
               guest_memory_page(guest_memory_base(source), page), PAGE_BYTES);
    bitmap_deinit(&pages);
}
