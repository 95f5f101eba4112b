#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <cmocka.h>

#include "base/err.h"
#include "vmm-core/cpu_model.h"

static int kvm_fd = -1;

struct table { /* as struct kvm_cpuid2, with room */
    uint32_t nent, padding;
    struct kvm_cpuid_entry2 entries[CPU_MODEL_ENTRIES_MAX];
};

static void build(struct table *table, const char *name, unsigned index, unsigned vcpus)
{
    struct fault fault = {0};
    memset(table, 0, sizeof *table);
    table->nent = CPU_MODEL_ENTRIES_MAX;
    if (cpu_model_cpuid(cpu_model_find(name), kvm_fd, index, vcpus, (struct kvm_cpuid2 *)table,
                        &fault) < 0)
        fail_msg("%s", fault.text);
}

static const struct kvm_cpuid_entry2 *leaf(const struct table *table, uint32_t function,
                                           uint32_t index)
{
    for (uint32_t i = 0; i < table->nent; i++) {
        if (table->entries[i].function == function && table->entries[i].index == index)
            return &table->entries[i];
    }
    fail_msg("no leaf %#x.%u", function, index);
    return NULL;
}

static void baselines_go_from_weakest_to_strongest(void **state)
{
    (void)state;
    assert_int_equal(cpu_model_count(), 4);
    assert_string_equal(cpu_model_name(cpu_model_at(0)), "x86-64-v1");
    assert_string_equal(cpu_model_name(cpu_model_at(3)), "x86-64-v4");
    assert_ptr_equal(cpu_model_find("x86-64-v2"), cpu_model_at(1));
    assert_null(cpu_model_find("host"));
    assert_null(cpu_model_find(""));
}

static void each_baseline_has_the_features_of_the_psabi(void **state)
{
    (void)state;
    static struct table table;

    build(&table, "x86-64-v1", 0, 1);
    assert_int_equal(leaf(&table, 1, 0)->ecx & 0x10981201, 0);          /* sse3 ... popcnt, avx */
    assert_int_equal(leaf(&table, 1, 0)->edx & 0x07808100, 0x07808100); /* cx8 ... sse2 */
    assert_int_equal(leaf(&table, 0, 0)->eax, 0xb);
    build(&table, "x86-64-v2", 0, 1);
    assert_int_equal(leaf(&table, 1, 0)->ecx & 0x00982201, 0x00982201);
    assert_int_equal(leaf(&table, 1, 0)->ecx & 0x14001000, 0); /* fma, xsave, avx */
    build(&table, "x86-64-v3", 0, 1);
    assert_int_equal(leaf(&table, 1, 0)->ecx & 0x34401000, 0x34401000);
    assert_int_equal(leaf(&table, 7, 0)->ebx, 0x00000128);
    assert_int_equal(leaf(&table, 0xd, 0)->eax, 7);
    assert_in_range(leaf(&table, 0xd, 0)->ecx, 576, 4096); /* places are the host's */
    build(&table, "x86-64-v4", 0, 1);
    assert_int_equal(leaf(&table, 7, 0)->ebx, 0xd0030128u);
    assert_int_equal(leaf(&table, 0xd, 0)->eax, 0xe7);
}

static void vcpus_differ_by_their_number_only(void **state)
{
    (void)state;
    static struct table first, last;
    build(&first, "x86-64-v2", 0, 6);
    build(&last, "x86-64-v2", 5, 6);

    assert_int_equal(first.nent, last.nent);
    assert_int_equal(leaf(&first, 1, 0)->ebx >> 24, 0);
    assert_int_equal(leaf(&last, 1, 0)->ebx >> 24, 5);
    assert_int_equal(leaf(&last, 1, 0)->ebx >> 16 & 0xff, 6);
    assert_int_equal(leaf(&last, 0xb, 1)->eax, 3);
    assert_int_equal(leaf(&last, 0xb, 1)->ebx, 6);
    for (uint32_t i = 0; i < first.nent; i++) {
        const struct kvm_cpuid_entry2 *a = &first.entries[i], *b = &last.entries[i];
        if (a->function != 1 && a->function != 0xb)
            assert_memory_equal(a, b, sizeof *a);
    }
}

static void the_guest_finds_kvms_clock_and_timing(void **state)
{
    (void)state;
    static struct table table;
    build(&table, "x86-64-v1", 0, 1);

    assert_int_equal(leaf(&table, 0x40000000, 0)->eax, 0x40000010);
    assert_int_equal(leaf(&table, 0x40000001, 0)->eax, 0x0100000a);
    assert_int_equal(leaf(&table, 0x40000010, 0)->eax, 0);
    cpu_model_set_tsc_khz((struct kvm_cpuid2 *)&table, 2300000);
    assert_int_equal(leaf(&table, 0x40000010, 0)->eax, 2300000);
}

static void what_the_host_lacks_is_told_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < cpu_model_count(); i++) {
        const struct cpu_model *model = cpu_model_at(i);
        char missing[CPU_MODEL_MISSING_MAX] = "?";
        struct fault fault = {0};

        int r = cpu_model_check_host(model, kvm_fd, missing, sizeof missing, &fault);

        (void)printf("  %s: %s\n", cpu_model_name(model), r < 0 ? fault.text : "fits");
        assert_true(r == 0 || r == ERR_CPU_COMPAT);
        assert_int_equal(r == 0, missing[0] == '\0');
        assert_true(r == 0 || strstr(fault.text, missing) != NULL);
    }
}

static void the_weakest_baseline_fits_every_host(void **state)
{
    (void)state;
    assert_int_equal(cpu_model_check_host(cpu_model_at(0), kvm_fd, NULL, 0, NULL), 0);
    char vendor[CPU_MODEL_VENDOR_SIZE];
    assert_int_equal(cpu_model_host_vendor(kvm_fd, vendor, NULL), 0);
    assert_int_equal(strlen(vendor), 12);
}

int main(void)
{
    const struct CMUnitTest always[] = {
        cmocka_unit_test(baselines_go_from_weakest_to_strongest),
    };
    int failed = cmocka_run_group_tests(always, NULL, NULL);
    kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (failed || kvm_fd < 0) {
        if (kvm_fd < 0)
            (void)printf("the rest skipped: no /dev/kvm here\n");
        return failed;
    }
    const struct CMUnitTest with_kvm[] = {
        cmocka_unit_test(each_baseline_has_the_features_of_the_psabi),
        cmocka_unit_test(vcpus_differ_by_their_number_only),
        cmocka_unit_test(the_guest_finds_kvms_clock_and_timing),
        cmocka_unit_test(what_the_host_lacks_is_told_by_name),
        cmocka_unit_test(the_weakest_baseline_fits_every_host),
    };
    return cmocka_run_group_tests(with_kvm, NULL, NULL);
}
