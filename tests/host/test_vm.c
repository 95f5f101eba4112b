/* One vm on real KVM with guests of a few instructions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/world.h"
#include "test_vm_support.h"
#include "vmm-core/cpu_model.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/vm_inside.h"

#define CODE(name, text)                                                                           \
    __asm__(".pushsection .rodata\n.code32\n" #name ":\n" text "\n" #name "_end:\n.code64\n"       \
            ".popsection\n");                                                                      \
    extern const uint8_t name[], name##_end[]

CODE(code_power_off, "mov $0x605, %dx; mov $0x20, %al; out %al, %dx; 1: hlt; jmp 1b");
CODE(code_reset_keyboard, "in $0x64, %al; test $2, %al; jnz code_reset_keyboard;"
                          "mov $0xfe, %al; out %al, $0x64; 1: hlt; jmp 1b");
CODE(code_reset_control, "mov $0xcf9, %dx; mov $6, %al; out %al, %dx; 1: hlt; jmp 1b");
CODE(code_triple_fault, "lidt 1f - code_triple_fault + 0x100000; ud2; 1: .long 0, 0");
/* Prints what lies at places where nothing is: all ones everywhere is "ok". */
CODE(code_nothing_there,
     "mov 0xd0000000, %eax; inc %eax; jnz 2f;"
     "movl $5, 0xd0000000;"
     "mov $0x1234, %dx; in %dx, %eax; inc %eax; jnz 2f;"
     "in %dx, %al; inc %al; jnz 2f; out %al, %dx;"
     "mov $0x3f8, %dx; mov $'o', %al; out %al, %dx; mov $'k', %al; out %al, %dx;"
     "2: mov $0x605, %dx; mov $0x20, %al; out %al, %dx; 1: hlt; jmp 1b");
/* All bytes of one instruction arrive in one call. */
CODE(code_string,
     "mov $0x100000 + 3f - code_string, %esi; mov $12, %ecx; mov $0x3f8, %dx; rep outsb;"
     "mov $0x605, %dx; mov $0x20, %al; out %al, %dx; 1: hlt; jmp 1b; 3: .ascii \"hello world\\n\"");
/* Counts in memory at 2 MiB, for ever. */
CODE(code_count, "1: incl 0x200000; jmp 1b");
/* Every byte received, told apart by polling, comes back. */
CODE(code_echo, "1: mov $0x3fd, %dx; in %dx, %al; test $1, %al; jz 1b;"
                "mov $0x3f8, %dx; in %dx, %al; out %al, %dx; jmp 1b");
/* Every byte received goes up by one in memory before it comes back: port I/O half done shows. */
CODE(code_tally,
     "mov $0x3f8, %dx; mov $'a', %al; 1: incl 0x200000; out %al, %dx; incl 0x200004; jmp 1b");

static struct test_vm *boot(const uint8_t *code, const uint8_t *end)
{
    return test_vm_boot_code(1, 16, code, (size_t)(end - code));
}

static void a_guest_ends_itself_in_the_ways_a_pc_has(void **state)
{
    (void)state;
    const struct {
        const uint8_t *code, *end;
        enum vm_event event;
    } rows[] = {
        {code_power_off, code_power_off_end, VM_EVENT_POWER_OFF},
        {code_reset_keyboard, code_reset_keyboard_end, VM_EVENT_RESET},
        {code_reset_control, code_reset_control_end, VM_EVENT_RESET},
        {code_triple_fault, code_triple_fault_end, VM_EVENT_RESET},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct test_vm *test = boot(rows[i].code, rows[i].end);
        struct fault fault = {0};
        uint8_t *bytes = NULL;
        size_t count = 0;

        assert_int_equal(test_vm_wait_event(test), rows[i].event);

        assert_false(vm_is_running(test->vm));
        vm_pause(test->vm);
        assert_int_equal(vm_resume(test->vm, &fault), ERR_STATE);
        assert_int_equal(vm_save(test->vm, &bytes, &count, &fault), ERR_STATE);
        test = test_vm_free(test);
    }
}

static void where_nothing_is_all_bits_are_one(void **state)
{
    (void)state;
    struct test_vm *test = boot(code_nothing_there, code_nothing_there_end);

    assert_int_equal(test_vm_wait_event(test), VM_EVENT_POWER_OFF);

    assert_int_equal(test->used, 2);
    assert_memory_equal(test->text, "ok", 2);
    test = test_vm_free(test);
}

static void a_string_of_output_arrives_whole(void **state)
{
    (void)state;
    struct test_vm *test = boot(code_string, code_string_end);

    assert_int_equal(test_vm_wait_event(test), VM_EVENT_POWER_OFF);

    assert_int_equal(test->used, 12);
    assert_memory_equal(test->text, "hello world\n", 12);
    test = test_vm_free(test);
}

static void input_reaches_the_guest_in_order(void **state)
{
    (void)state;
    struct test_vm *test = boot(code_echo, code_echo_end);
    static const char text[] = "the quick brown fox jumps over the lazy dog";

    assert_int_equal(vm_serial_input(test->vm, (const uint8_t *)text, strlen(text)), strlen(text));

    test_vm_expect_text(test, text);
    test = test_vm_free(test);
}

static void a_paused_guest_stands_still_and_goes_on(void **state)
{
    (void)state;
    struct test_vm *test = boot(code_count, code_count_end);
    const uint8_t *counter = guest_memory_at(vm_memory(test->vm), MIB(2), 4);
    struct fault fault = {0};
    uint32_t before = 0;
    for (int i = 0; i < 100; i++) {
        uint64_t start_ns = world_now_ns();
        while (bytes_get_u32(counter) == before && world_now_ns() - start_ns < 10 * NS_PER_S)
            ; /* until it went on */
        assert_int_not_equal(bytes_get_u32(counter), before);

        vm_pause(test->vm);
        assert_false(vm_is_running(test->vm));
        before = bytes_get_u32(counter);
        uint64_t pause_ns = world_now_ns();
        while (world_now_ns() - pause_ns < NS_PER_MS / 2)
            assert_int_equal(bytes_get_u32(counter), before);
        assert_int_equal(vm_resume(test->vm, &fault), 0);
        assert_true(vm_is_running(test->vm));
    }
    assert_true(vm_vcpu_cpu_ns(test->vm) > 0);
    test = test_vm_free(test);
}

/* An instruction that left for port I/O is whole when the vm stands: the two counters around it
 * and the bytes seen agree with where the instruction pointer is. */
static void no_instruction_is_half_done_in_a_pause(void **state)
{
    (void)state;
    struct test_vm *test = boot(code_tally, code_tally_end);
    const uint8_t *counters = guest_memory_at(vm_memory(test->vm), MIB(2), 8);
    struct fault fault = {0};
    for (int i = 0; i < 200; i++) {
        vm_pause(test->vm);
        uint8_t *bytes = NULL;
        size_t count = 0;
        assert_int_equal(vm_save(test->vm, &bytes, &count, &fault), 0);
        free(bytes);
        uint64_t rip = test->vm->guest->vcpus[0].regs.rip - MIB(1);
        /* mov dx 4, mov al 2, inc 6, out 1, inc 6, jmp 2 */
        uint32_t sent = (uint32_t)test->used;
        uint32_t first = bytes_get_u32(counters), second = bytes_get_u32(counters + 4);
        if (rip == 12) { /* before the out */
            assert_int_equal(first, sent + 1);
            assert_int_equal(second, sent);
        } else if (rip == 13) { /* behind it */
            assert_int_equal(first, sent);
            assert_int_equal(second, sent - 1);
        }
        if (test->used > CONSOLE_BYTES_MAX / 2)
            break;
        assert_int_equal(vm_resume(test->vm, &fault), 0);
    }
    test = test_vm_free(test);
}

static void a_vm_that_never_ran_can_be_freed_at_every_stage(void **state)
{
    (void)state;
    struct fault fault = {0};
    assert_null(vm_free(NULL));
    struct test_vm *test = test_vm_new(4, 16);
    test = test_vm_free(test);
    test = test_vm_new(4, 16);
    vm_pause(test->vm);
    assert_int_equal(vm_resume(test->vm, &fault), ERR_STATE);
    assert_int_equal(vm_start(test->vm, &fault), 0);
    assert_int_equal(vm_vcpus(test->vm), 4);
    test = test_vm_free(test);
}

static void refuses_shapes_that_no_vm_has(void **state)
{
    (void)state;
    struct vm_config config = {
        .kvm_fd = test_vm_kvm(), .vcpus = 0, .memory_bytes = MIB(16), .cpu_model = cpu_model_at(0)};
    struct vm *vm = NULL;
    struct fault fault = {0};

    assert_int_equal(vm_new(&vm, &config, &fault), ERR_INVALID);
    config.vcpus = 17;
    assert_int_equal(vm_new(&vm, &config, &fault), ERR_INVALID);
    config.vcpus = 1;
    config.memory_bytes = MIB(16) + 1;
    assert_int_equal(vm_new(&vm, &config, &fault), ERR_INVALID);
    config.memory_bytes = MIB(16);
    int kvm_fd = config.kvm_fd;
    config.kvm_fd = STDERR_FILENO;
    assert_int_equal(vm_new(&vm, &config, &fault), ERR_UNSUPPORTED);
    (void)close(kvm_fd);
}

static void only_its_own_state_loads(void **state)
{
    (void)state;
    struct test_vm *source = boot(code_count, code_count_end);
    uint8_t *bytes = NULL;
    size_t count = 0;
    struct fault fault = {0};
    assert_int_equal(vm_save(source->vm, &bytes, &count, &fault), ERR_STATE);
    vm_pause(source->vm);
    assert_int_equal(vm_save(source->vm, &bytes, &count, &fault), 0);
    assert_int_equal(vm_load(source->vm, bytes, count, 0, &fault), ERR_STATE);

    struct test_vm *target = test_vm_new(2, 16);
    assert_int_equal(vm_load(target->vm, bytes, count, 0, &fault), ERR_STATE);
    assert_int_equal(vm_start(target->vm, &fault), 0);
    assert_int_equal(vm_load(target->vm, bytes, count, 0, &fault), ERR_CORRUPT);
    assert_non_null(strstr(fault.text, "1 vCPUs, this VM has 2"));
    assert_int_equal(vm_load(target->vm, bytes, count / 2, 0, &fault), ERR_CORRUPT);
    assert_int_equal(vm_load(target->vm, bytes, count, UINT64_MAX, &fault), ERR_INVALID);
    free(bytes);
    source = test_vm_free(source);
    target = test_vm_free(target);
}

/* The same state as from a host whose TSC runs at another frequency. */
static void with_tsc_khz(const uint8_t *bytes, size_t count, uint32_t tsc_khz, uint8_t **ret_bytes,
                         size_t *ret_count)
{
    const struct machine_shape shape = {
        .vcpus = 1, .memory_bytes = MIB(16), .baseline = cpu_model_name(cpu_model_at(0))};
    struct machine_guest *machine = calloc(1, sizeof *machine);
    assert_non_null(machine);
    assert_int_equal(machine_state_load(&shape, machine, bytes, count, NULL), 0);
    machine->clock.tsc_khz = tsc_khz;
    assert_int_equal(machine_state_save(&shape, machine, ret_bytes, ret_count, NULL), 0);
    free(machine);
}

static void a_guest_keeps_its_tsc_frequency_or_stays(void **state)
{
    (void)state;
    struct test_vm *source = boot(code_count, code_count_end);
    uint8_t *bytes = NULL, *near = NULL, *far = NULL, *again = NULL;
    size_t count = 0, near_count = 0, far_count = 0, again_count = 0;
    struct fault fault = {0};
    vm_pause(source->vm);
    assert_int_equal(vm_save(source->vm, &bytes, &count, &fault), 0);
    uint32_t khz = source->vm->tsc_khz;
    with_tsc_khz(bytes, count, khz + khz / 10000, &near, &near_count);
    with_tsc_khz(bytes, count, khz / 2, &far, &far_count);

    struct test_vm *target = test_vm_new(1, 16);
    assert_int_equal(vm_start(target->vm, &fault), 0);
    if (vm_load(target->vm, near, near_count, 0, &fault) < 0)
        fail_msg("%s", fault.text);
    assert_int_equal(vm_save(target->vm, &again, &again_count, &fault), 0);
    assert_int_equal(again_count, near_count);
    assert_memory_equal(again, near, near_count);
    target = test_vm_free(target);

    target = test_vm_new(1, 16);
    assert_int_equal(vm_start(target->vm, &fault), 0);
    int r = vm_load(target->vm, far, far_count, 0, &fault);
    assert_true(r == 0 || r == ERR_CPU_COMPAT); /* by what KVM can do here */
    (void)printf("  half the frequency: %s\n", r < 0 ? fault.text : "scaled");
    target = test_vm_free(target);
    source = test_vm_free(source);
    free(bytes);
    free(near);
    free(far);
    free(again);
}

/* Before Linux 5.16 the offset is not told; the TSC register is used instead. */
static void time_goes_on_without_the_offset_attribute(void **state)
{
    (void)state;
    struct test_vm *source = boot(code_count, code_count_end);
    struct fault fault = {0};
    uint8_t *bytes = NULL;
    size_t count = 0;
    vm_pause(source->vm);
    source->vm->has_tsc_offset = false;
    assert_int_equal(vm_save(source->vm, &bytes, &count, &fault), 0);
    struct test_vm *target = test_vm_new(1, 16);
    target->vm->has_tsc_offset = false;
    assert_int_equal(vm_start(target->vm, &fault), 0);

    if (vm_load(target->vm, bytes, count, 0, &fault) < 0)
        fail_msg("%s", fault.text);

    assert_int_equal(vm_resume(target->vm, &fault), 0);
    free(bytes);
    source = test_vm_free(source);
    target = test_vm_free(target);
}

/* Bytes a peer has tampered with reach KVM: it may refuse or take them, the guest may crash, the
 * host goes on. */
static void a_tampered_state_hurts_only_its_guest(void **state)
{
    (void)state;
    struct test_vm *source = boot(code_count, code_count_end);
    uint8_t *bytes = NULL;
    size_t count = 0;
    struct fault fault = {0};
    vm_pause(source->vm);
    assert_int_equal(vm_save(source->vm, &bytes, &count, &fault), 0);

    int loaded = 0;
    for (size_t i = 0; i < 60; i++) {
        struct test_vm *target = test_vm_new(1, 16);
        assert_int_equal(vm_start(target->vm, &fault), 0);
        size_t at = (i * 7919) % count;
        bytes[at] ^= (uint8_t)(1 << i % 8);
        if (vm_load(target->vm, bytes, count, 0, &fault) == 0 &&
            vm_resume(target->vm, &fault) == 0) {
            loaded++;
            uint64_t start_ns = world_now_ns();
            while (world_now_ns() - start_ns < 2 * NS_PER_MS)
                ; /* let it run into whatever it runs into */
            vm_pause(target->vm);
        }
        bytes[at] ^= (uint8_t)(1 << i % 8);
        target = test_vm_free(target);
    }
    (void)printf("  %d of 60 tampered states were taken\n", loaded);
    free(bytes);
    source = test_vm_free(source);
}

int main(void)
{
    (void)close(test_vm_kvm());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_guest_ends_itself_in_the_ways_a_pc_has),
        cmocka_unit_test(where_nothing_is_all_bits_are_one),
        cmocka_unit_test(a_string_of_output_arrives_whole),
        cmocka_unit_test(input_reaches_the_guest_in_order),
        cmocka_unit_test(a_paused_guest_stands_still_and_goes_on),
        cmocka_unit_test(no_instruction_is_half_done_in_a_pause),
        cmocka_unit_test(a_vm_that_never_ran_can_be_freed_at_every_stage),
        cmocka_unit_test(refuses_shapes_that_no_vm_has),
        cmocka_unit_test(only_its_own_state_loads),
        cmocka_unit_test(a_guest_keeps_its_tsc_frequency_or_stays),
        cmocka_unit_test(time_goes_on_without_the_offset_attribute),
        cmocka_unit_test(a_tampered_state_hurts_only_its_guest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
