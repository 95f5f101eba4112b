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

/* A host that offers everything, on which only what a guest may not choose counts. */
static void make_host(struct table *host, const char *vendor)
{
    static const struct {
        uint32_t component, bytes, offset;
    } areas[] = {{2, 256, 576}, {5, 64, 1088}, {6, 512, 1152}, {7, 1024, 1664}};
    memset(host, 0, sizeof *host);
    struct kvm_cpuid_entry2 *identity = &host->entries[host->nent++];
    identity->eax = 0x20;
    memcpy(&identity->ebx, vendor, 4);
    memcpy(&identity->edx, vendor + 4, 4);
    memcpy(&identity->ecx, vendor + 8, 4);
    host->entries[host->nent++] = (struct kvm_cpuid_entry2){
        .function = 1, .eax = 0xfffffff, .ebx = ~0U, .ecx = ~0U, .edx = ~0U};
    for (size_t i = 0; i < sizeof areas / sizeof areas[0]; i++)
        host->entries[host->nent++] = (struct kvm_cpuid_entry2){.function = 0xd,
                                                                .index = areas[i].component,
                                                                .eax = areas[i].bytes,
                                                                .ebx = areas[i].offset,
                                                                .ecx = 7};
}

static void print_table(FILE *out, const char *vendor, const char *baseline, unsigned index,
                        unsigned vcpus)
{
    static struct table host, table;
    make_host(&host, vendor);
    memset(&table, 0, sizeof table);
    table.nent = CPU_MODEL_ENTRIES_MAX;
    assert_int_equal(cpu_model_build(cpu_model_find(baseline), (struct kvm_cpuid2 *)&host, index,
                                     vcpus, (struct kvm_cpuid2 *)&table, NULL),
                     0);
    cpu_model_set_tsc_khz((struct kvm_cpuid2 *)&table, 2000000);
    (void)fprintf(out, "%s %s vCPU %u of %u\n", vendor, baseline, index, vcpus);
    for (uint32_t i = 0; i < table.nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &table.entries[i];
        (void)fprintf(out, "%08x.%u %c %08x %08x %08x %08x\n", entry->function, entry->index,
                      entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX ? 'i' : '-', entry->eax,
                      entry->ebx, entry->ecx, entry->edx);
    }
}

/* GODWIT_GOLDEN_WRITE=1 writes the file when it does not exist yet. */
static void the_processors_of_godwit_1_never_change(void **state)
{
    (void)state;
    static const char *const path = "tests/golden/cpuid_godwit_1.txt";
    static const char *const vendors[] = {"GenuineIntel", "AuthenticAMD"};
    char *text = NULL;
    size_t count = 0;
    FILE *out = open_memstream(&text, &count);
    assert_non_null(out);
    for (size_t v = 0; v < 2; v++) {
        for (size_t i = 0; i < cpu_model_count(); i++) {
            print_table(out, vendors[v], cpu_model_name(cpu_model_at(i)), 0, 1);
            print_table(out, vendors[v], cpu_model_name(cpu_model_at(i)), 5, 6);
        }
    }
    assert_int_equal(fclose(out), 0);

    FILE *file = fopen(path, "r");
    if (!file && getenv("GODWIT_GOLDEN_WRITE")) {
        file = fopen(path, "w");
        assert_non_null(file);
        assert_int_equal(fwrite(text, 1, count, file), count);
    } else {
        static char golden[64 << 10];
        assert_non_null(file);
        size_t golden_count = fread(golden, 1, sizeof golden - 1, file);
        golden[golden_count] = '\0';
        assert_string_equal(text, golden);
    }
    (void)fclose(file);
    free(text);
}

int main(void)
{
    const struct CMUnitTest always[] = {
        cmocka_unit_test(baselines_go_from_weakest_to_strongest),
        cmocka_unit_test(the_processors_of_godwit_1_never_change),
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
