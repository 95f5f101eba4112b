/* Four baselines, each a set of features by name; a guest's CPUID is built from them and from
 * nothing else, but for two things of the host that cannot be pretended:
 *
 *  - its vendor. Intel and AMD differ in what SYSCALL, SYSENTER and XSAVE do, and a guest chooses
 *    its code by the name it reads. Family, model and stepping are one fixed choice a vendor; a
 *    guest is never moved to the other vendor (vcpu_state checks).
 *  - its TSC frequency, in the hypervisor's timing leaf 0x40000010, filled in by vcpu.
 *
 * x2APIC is in every baseline: KVM gives it on every host, its registers cost fewer exits, and with
 * at most 16 vCPUs no id needs more than the 8 bits that KVM's state of a local APIC has for it.
 *
 * Left out on purpose: virtual-8086 extensions (no 64-bit guest needs them, and emulated processors
 * that hosts are tested on lack them), invariant TSC (kvmclock survives a change of frequency, a
 * guest that trusts the TSC does not), features whose state lives in the kernel's head (steal time,
 * async page faults, PV EOI), the PMU, and every speculation control: they come with later
 * baselines.
 */
#include "vmm-core/cpu_model.h"

#include <assert.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/err.h"
#include "base/own.h"

struct cpu_model {
    const char *name;
    unsigned level; /* of the psABI */
};

static const struct cpu_model models[] = {
    {"x86-64-v1", 1},
    {"x86-64-v2", 2},
    {"x86-64-v3", 3},
    {"x86-64-v4", 4},
};

enum cpuid_register { EAX, EBX, ECX, EDX };

struct feature {
    const char *name;
    uint32_t leaf, subleaf;
    enum cpuid_register reg;
    unsigned bit;
    unsigned level; /* the lowest that has it */
};

enum {
    LEAF_FEATURES = 1,
    LEAF_CACHES = 4,
    LEAF_POWER = 6,
    LEAF_STRUCTURED = 7,
    LEAF_TOPOLOGY = 0xb,
    LEAF_XSAVE = 0xd,
    LEVEL_AVX = 3,
    LEVEL_AVX512 = 4,
};

#define LEAF_KVM UINT32_C(0x40000000)
#define LEAF_KVM_FEATURES UINT32_C(0x40000001)
#define LEAF_KVM_TIMING UINT32_C(0x40000010)
#define LEAF_EXTENDED UINT32_C(0x80000000)
#define LEAF_EXTENDED_FEATURES UINT32_C(0x80000001)
#define LEAF_BRAND UINT32_C(0x80000002)
#define LEAF_L2 UINT32_C(0x80000006)
#define LEAF_SIZES UINT32_C(0x80000008)

static const struct feature features[] = {
    {"fpu", LEAF_FEATURES, 0, EDX, 0, 1},
    {"de", LEAF_FEATURES, 0, EDX, 2, 1},
    {"pse", LEAF_FEATURES, 0, EDX, 3, 1},
    {"tsc", LEAF_FEATURES, 0, EDX, 4, 1},
    {"msr", LEAF_FEATURES, 0, EDX, 5, 1},
    {"pae", LEAF_FEATURES, 0, EDX, 6, 1},
    {"mce", LEAF_FEATURES, 0, EDX, 7, 1},
    {"cx8", LEAF_FEATURES, 0, EDX, 8, 1},
    {"apic", LEAF_FEATURES, 0, EDX, 9, 1},
    {"sep", LEAF_FEATURES, 0, EDX, 11, 1},
    {"mtrr", LEAF_FEATURES, 0, EDX, 12, 1},
    {"pge", LEAF_FEATURES, 0, EDX, 13, 1},
    {"mca", LEAF_FEATURES, 0, EDX, 14, 1},
    {"cmov", LEAF_FEATURES, 0, EDX, 15, 1},
    {"pat", LEAF_FEATURES, 0, EDX, 16, 1},
    {"pse36", LEAF_FEATURES, 0, EDX, 17, 1},
    {"clflush", LEAF_FEATURES, 0, EDX, 19, 1},
    {"mmx", LEAF_FEATURES, 0, EDX, 23, 1},
    {"fxsr", LEAF_FEATURES, 0, EDX, 24, 1},
    {"sse", LEAF_FEATURES, 0, EDX, 25, 1},
    {"sse2", LEAF_FEATURES, 0, EDX, 26, 1},
    {"x2apic", LEAF_FEATURES, 0, ECX, 21, 1},
    {"tsc_deadline", LEAF_FEATURES, 0, ECX, 24, 1},
    {"hypervisor", LEAF_FEATURES, 0, ECX, 31, 1},
    {"arat", LEAF_POWER, 0, EAX, 2, 1},
    {"syscall", LEAF_EXTENDED_FEATURES, 0, EDX, 11, 1},
    {"nx", LEAF_EXTENDED_FEATURES, 0, EDX, 20, 1},
    {"lm", LEAF_EXTENDED_FEATURES, 0, EDX, 29, 1},
    {"kvm_clock", LEAF_KVM_FEATURES, 0, EAX, 3, 1},
    {"kvm_nop_io_delay", LEAF_KVM_FEATURES, 0, EAX, 1, 1},
    {"kvm_clock_stable", LEAF_KVM_FEATURES, 0, EAX, 24, 1},

    {"sse3", LEAF_FEATURES, 0, ECX, 0, 2},
    {"ssse3", LEAF_FEATURES, 0, ECX, 9, 2},
    {"cx16", LEAF_FEATURES, 0, ECX, 13, 2},
    {"sse4_1", LEAF_FEATURES, 0, ECX, 19, 2},
    {"sse4_2", LEAF_FEATURES, 0, ECX, 20, 2},
    {"popcnt", LEAF_FEATURES, 0, ECX, 23, 2},
    {"lahf_lm", LEAF_EXTENDED_FEATURES, 0, ECX, 0, 2},

    {"fma", LEAF_FEATURES, 0, ECX, 12, 3},
    {"movbe", LEAF_FEATURES, 0, ECX, 22, 3},
    {"xsave", LEAF_FEATURES, 0, ECX, 26, 3},
    {"avx", LEAF_FEATURES, 0, ECX, 28, 3},
    {"f16c", LEAF_FEATURES, 0, ECX, 29, 3},
    {"bmi1", LEAF_STRUCTURED, 0, EBX, 3, 3},
    {"avx2", LEAF_STRUCTURED, 0, EBX, 5, 3},
    {"bmi2", LEAF_STRUCTURED, 0, EBX, 8, 3},
    {"lzcnt", LEAF_EXTENDED_FEATURES, 0, ECX, 5, 3},
    {"xcr0_x87", LEAF_XSAVE, 0, EAX, 0, 3},
    {"xcr0_sse", LEAF_XSAVE, 0, EAX, 1, 3},
    {"xcr0_avx", LEAF_XSAVE, 0, EAX, 2, 3},

    {"avx512f", LEAF_STRUCTURED, 0, EBX, 16, 4},
    {"avx512dq", LEAF_STRUCTURED, 0, EBX, 17, 4},
    {"avx512cd", LEAF_STRUCTURED, 0, EBX, 28, 4},
    {"avx512bw", LEAF_STRUCTURED, 0, EBX, 30, 4},
    {"avx512vl", LEAF_STRUCTURED, 0, EBX, 31, 4},
    {"xcr0_opmask", LEAF_XSAVE, 0, EAX, 5, 4},
    {"xcr0_zmm_hi256", LEAF_XSAVE, 0, EAX, 6, 4},
    {"xcr0_hi16_zmm", LEAF_XSAVE, 0, EAX, 7, 4},
};

enum { XSAVE_COMPONENTS_FIRST = 2, XSAVE_COMPONENTS_END = 8, XSAVE_LEGACY_BYTES = 576 };

const struct cpu_model *cpu_model_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(models); i++) {
        if (strcmp(models[i].name, name) == 0)
            return &models[i];
    }
    return NULL;
}

size_t cpu_model_count(void)
{
    return ARRAY_COUNT(models);
}

const struct cpu_model *cpu_model_at(size_t index)
{
    assert(index < ARRAY_COUNT(models));
    return &models[index];
}

const char *cpu_model_name(const struct cpu_model *model)
{
    return model->name;
}

bool cpu_model_has_xsave(const struct cpu_model *model)
{
    return model->level >= LEVEL_AVX;
}

static void free_cpuid(struct kvm_cpuid2 **cpuid)
{
    free(*cpuid);
}

/* Gives what KVM can offer a guest on this host. */
static int host_cpuid(int kvm_fd, struct kvm_cpuid2 **ret_cpuid, struct fault *fault)
{
    enum { HOST_ENTRIES_MAX = 512 };
    AUTO(free_cpuid)
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof *cpuid + HOST_ENTRIES_MAX * sizeof cpuid->entries[0]);
    if (!cpuid)
        return fault_set(fault, ERR_NOMEM, "no memory for the host's CPUID");
    cpuid->nent = HOST_ENTRIES_MAX;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking KVM what CPU it can give a guest");
    *ret_cpuid = TAKE(cpuid);
    return 0;
}

static const struct kvm_cpuid_entry2 *find_entry(const struct kvm_cpuid2 *cpuid, uint32_t leaf,
                                                 uint32_t subleaf)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
        if (entry->function == leaf && entry->index == subleaf)
            return entry;
    }
    return NULL;
}

static const uint32_t *entry_register(const struct kvm_cpuid_entry2 *entry, enum cpuid_register reg)
{
    switch (reg) {
    case EAX:
        return &entry->eax;
    case EBX:
        return &entry->ebx;
    case ECX:
        return &entry->ecx;
    case EDX:
        return &entry->edx;
    }
    return NULL;
}

static bool host_has(const struct kvm_cpuid2 *host, int kvm_fd, const struct feature *feature)
{
    const struct kvm_cpuid_entry2 *entry = find_entry(host, feature->leaf, feature->subleaf);
    if (entry && (*entry_register(entry, feature->reg) >> feature->bit & 1))
        return true;
    /* KVM's own timers, which some kernels tell elsewhere than in CPUID or not at all. */
    if (feature->leaf == LEAF_FEATURES && feature->reg == ECX && feature->bit == 24)
        return ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    /* These two say what KVM is, whatever the host's processor is. Some kernels do not list them.
     */
    bool is_hypervisor =
        feature->leaf == LEAF_FEATURES && feature->reg == ECX && feature->bit == 31;
    return is_hypervisor || feature->leaf == LEAF_POWER;
}

static void append_word(char *text, size_t size, const char *word)
{
    size_t used = strlen(text);
    size_t needed = strlen(word) + (used ? 1 : 0);
    if (used + needed >= size)
        return; /* whole words only: a cut name would name another feature */
    (void)snprintf(text + used, size - used, "%s%s", used ? " " : "", word);
}

int cpu_model_check_host(const struct cpu_model *model, int kvm_fd, char *ret_missing,
                         size_t missing_size, struct fault *fault)
{
    AUTO(free_cpuid) struct kvm_cpuid2 *host = NULL;
    int r = host_cpuid(kvm_fd, &host, fault);
    if (r < 0)
        return r;

    char missing[CPU_MODEL_MISSING_MAX] = "";
    for (size_t i = 0; i < ARRAY_COUNT(features); i++) {
        if (features[i].level <= model->level && !host_has(host, kvm_fd, &features[i]))
            append_word(missing, sizeof missing, features[i].name);
    }
    if (ret_missing && missing_size)
        (void)snprintf(ret_missing, missing_size, "%s", missing);
    if (!missing[0])
        return 0;
    return fault_set(fault, ERR_CPU_COMPAT, "this host cannot give CPU baseline %s: it lacks %s",
                     model->name, missing);
}

int cpu_model_host_vendor(int kvm_fd, char ret_vendor[static CPU_MODEL_VENDOR_SIZE],
                          struct fault *fault)
{
    AUTO(free_cpuid) struct kvm_cpuid2 *host = NULL;
    int r = host_cpuid(kvm_fd, &host, fault);
    if (r < 0)
        return r;
    const struct kvm_cpuid_entry2 *entry = find_entry(host, 0, 0);
    if (!entry)
        return fault_set(fault, ERR_UNSUPPORTED, "KVM does not name the processor's vendor");
    memcpy(ret_vendor, &entry->ebx, 4);
    memcpy(ret_vendor + 4, &entry->edx, 4);
    memcpy(ret_vendor + 8, &entry->ecx, 4);
    ret_vendor[12] = '\0';
    return 0;
}

/* The table under construction. */
struct builder {
    const struct cpu_model *model;
    const struct kvm_cpuid2 *host;
    struct kvm_cpuid2 *cpuid;
    uint32_t room;
    unsigned index, vcpus;
    bool is_intel;
};

/* Leaves whose answer depends on ECX; KVM must be told. */
static bool leaf_has_subleaves(uint32_t leaf)
{
    return leaf == LEAF_CACHES || leaf == LEAF_STRUCTURED || leaf == LEAF_TOPOLOGY ||
           leaf == LEAF_XSAVE;
}

static struct kvm_cpuid_entry2 *add(struct builder *builder, uint32_t leaf, uint32_t subleaf)
{
    assert(builder->cpuid->nent < builder->room);
    struct kvm_cpuid_entry2 *entry = &builder->cpuid->entries[builder->cpuid->nent++];
    *entry = (struct kvm_cpuid_entry2){
        .function = leaf,
        .index = subleaf,
        .flags = leaf_has_subleaves(leaf) ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
    };
    for (size_t i = 0; i < ARRAY_COUNT(features); i++) {
        const struct feature *feature = &features[i];
        if (feature->leaf == leaf && feature->subleaf == subleaf &&
            feature->level <= builder->model->level)
            *(uint32_t *)(uintptr_t)entry_register(entry, feature->reg) |= UINT32_C(1)
                                                                           << feature->bit;
    }
    return entry;
}

static unsigned ceil_log2(unsigned count)
{
    unsigned bits = 0;
    while ((1U << bits) < count)
        bits++;
    return bits;
}

static void add_identity(struct builder *builder)
{
    struct kvm_cpuid_entry2 *vendor = add(builder, 0, 0);
    const struct kvm_cpuid_entry2 *host = find_entry(builder->host, 0, 0);
    vendor->eax = builder->model->level >= LEVEL_AVX ? LEAF_XSAVE : LEAF_TOPOLOGY;
    vendor->ebx = host->ebx;
    vendor->ecx = host->ecx;
    vendor->edx = host->edx;

    struct kvm_cpuid_entry2 *entry = add(builder, LEAF_FEATURES, 0);
    /* Intel 6/85/4 and AMD 23/1/2: widely known signatures, old enough for every host. */
    entry->eax = builder->is_intel ? 0x00050654 : 0x00800f12;
    entry->ebx = builder->index << 24 | builder->vcpus << 16 | 8 << 8; /* clflush: 8 * 8 bytes */
    if (builder->vcpus > 1)
        entry->edx |= 1 << 28; /* several logical processors */
}

struct cache {            /* as leaf 4 tells it */
    uint32_t type, level; /* 1 data, 2 instruction, 3 unified */
    uint32_t ways, sets;
    bool shared; /* by all vCPUs */
};

static void add_caches(struct builder *builder)
{
    static const struct cache caches[] = {
        {1, 1, 8, 64, false},    /* 32 KiB */
        {2, 1, 8, 64, false},    /* 32 KiB */
        {3, 2, 16, 1024, false}, /* 1 MiB */
        {3, 3, 16, 16384, true}, /* 16 MiB */
    };
    if (!builder->is_intel) {
        (void)add(builder, LEAF_CACHES, 0); /* reserved there */
        return;
    }
    uint32_t cores = (1U << ceil_log2(builder->vcpus)) - 1;
    for (uint32_t i = 0; i < ARRAY_COUNT(caches); i++) {
        struct kvm_cpuid_entry2 *entry = add(builder, LEAF_CACHES, i);
        entry->eax = caches[i].type | caches[i].level << 5 | 1 << 8 | cores << 26;
        if (caches[i].shared)
            entry->eax |= cores << 14;
        entry->ebx = 63 | (caches[i].ways - 1) << 22;
        entry->ecx = caches[i].sets - 1;
    }
    (void)add(builder, LEAF_CACHES, (uint32_t)ARRAY_COUNT(caches)); /* ends the list */
}

static void add_topology(struct builder *builder)
{
    struct kvm_cpuid_entry2 *thread = add(builder, LEAF_TOPOLOGY, 0);
    thread->ebx = 1;
    thread->ecx = 0 | 1 << 8;
    thread->edx = builder->index;
    struct kvm_cpuid_entry2 *core = add(builder, LEAF_TOPOLOGY, 1);
    core->eax = ceil_log2(builder->vcpus);
    core->ebx = builder->vcpus;
    core->ecx = 1 | 2 << 8;
    core->edx = builder->index;
    struct kvm_cpuid_entry2 *end = add(builder, LEAF_TOPOLOGY, 2);
    end->ecx = 2;
    end->edx = builder->index;
}

/* Sizes and places of vector state are the hardware's (they differ by vendor), the set of
 * components is the baseline's. */
static void add_xsave(struct builder *builder)
{
    if (!cpu_model_has_xsave(builder->model))
        return;
    uint32_t main_index = builder->cpuid->nent;
    (void)add(builder, LEAF_XSAVE, 0);
    (void)add(builder, LEAF_XSAVE, 1); /* no XSAVEOPT, XSAVEC, XSAVES */
    uint32_t components = builder->cpuid->entries[main_index].eax;
    uint32_t bytes = XSAVE_LEGACY_BYTES;
    for (uint32_t i = XSAVE_COMPONENTS_FIRST; i < XSAVE_COMPONENTS_END; i++) {
        const struct kvm_cpuid_entry2 *host = find_entry(builder->host, LEAF_XSAVE, i);
        if (!(components >> i & 1) || !host)
            continue; /* vm_new has checked the host: none is missing */
        struct kvm_cpuid_entry2 *entry = add(builder, LEAF_XSAVE, i);
        entry->eax = host->eax;
        entry->ebx = host->ebx;
        if (host->ebx + host->eax > bytes)
            bytes = host->ebx + host->eax;
    }
    struct kvm_cpuid_entry2 *main_entry = &builder->cpuid->entries[main_index];
    main_entry->ebx = bytes; /* for the XCR0 of the moment: KVM keeps it up to date */
    main_entry->ecx = bytes;
}

static void add_kvm(struct builder *builder)
{
    struct kvm_cpuid_entry2 *entry = add(builder, LEAF_KVM, 0);
    entry->eax = LEAF_KVM_TIMING;
    memcpy(&entry->ebx, "KVMK", 4);
    memcpy(&entry->ecx, "VMKV", 4);
    memcpy(&entry->edx, "M\0\0\0", 4);
    (void)add(builder, LEAF_KVM_FEATURES, 0);
    struct kvm_cpuid_entry2 *timing = add(builder, LEAF_KVM_TIMING, 0);
    timing->ebx = 1000000; /* KVM's local APIC timer runs at 1 GHz */
}

static void add_brand(struct builder *builder)
{
    char brand[48] = {0};
    (void)snprintf(brand, sizeof brand, "Godwit %s virtual CPU", builder->model->name);
    for (uint32_t i = 0; i < 3; i++) {
        struct kvm_cpuid_entry2 *entry = add(builder, LEAF_BRAND + i, 0);
        memcpy(&entry->eax, brand + 16 * i, 4);
        memcpy(&entry->ebx, brand + 16 * i + 4, 4);
        memcpy(&entry->ecx, brand + 16 * i + 8, 4);
        memcpy(&entry->edx, brand + 16 * i + 12, 4);
    }
}

static void add_extended(struct builder *builder)
{
    struct kvm_cpuid_entry2 *entry = add(builder, LEAF_EXTENDED, 0);
    entry->eax = LEAF_SIZES;
    if (!builder->is_intel) {
        const struct kvm_cpuid_entry2 *host = find_entry(builder->host, 0, 0);
        entry->ebx = host->ebx;
        entry->ecx = host->ecx;
        entry->edx = host->edx;
    }
    struct kvm_cpuid_entry2 *more = add(builder, LEAF_EXTENDED_FEATURES, 0);
    if (!builder->is_intel && builder->vcpus > 1)
        more->ecx |= 1 << 1; /* the several are cores */
    add_brand(builder);
    struct kvm_cpuid_entry2 *l2 = add(builder, LEAF_L2, 0);
    l2->ecx = 1024U << 16 | 8 << 12 | 64; /* 1 MiB, 16-way, lines of 64 bytes */
    struct kvm_cpuid_entry2 *sizes = add(builder, LEAF_SIZES, 0);
    sizes->eax = 48 << 8 | 39; /* virtual, physical: 39 is the least of any 64-bit KVM host */
    if (!builder->is_intel)
        sizes->ecx = ceil_log2(builder->vcpus) << 12 | (builder->vcpus - 1);
}

int cpu_model_build(const struct cpu_model *model, const struct kvm_cpuid2 *host, unsigned index,
                    unsigned vcpus, struct kvm_cpuid2 *cpuid, struct fault *fault)
{
    assert(cpuid->nent >= CPU_MODEL_ENTRIES_MAX);
    assert(index < vcpus);
    const struct kvm_cpuid_entry2 *vendor = find_entry(host, 0, 0);
    if (!vendor)
        return fault_set(fault, ERR_UNSUPPORTED, "KVM does not name the processor's vendor");

    struct builder builder = {
        .model = model,
        .host = host,
        .cpuid = cpuid,
        .room = cpuid->nent,
        .index = index,
        .vcpus = vcpus,
        .is_intel = memcmp(&vendor->ebx, "Genu", 4) == 0,
    };
    cpuid->nent = 0;
    add_identity(&builder);
    add_caches(&builder);
    (void)add(&builder, LEAF_POWER, 0);
    (void)add(&builder, LEAF_STRUCTURED, 0);
    add_topology(&builder);
    add_xsave(&builder);
    add_kvm(&builder);
    add_extended(&builder);
    return 0;
}

int cpu_model_cpuid(const struct cpu_model *model, int kvm_fd, unsigned index, unsigned vcpus,
                    struct kvm_cpuid2 *cpuid, struct fault *fault)
{
    AUTO(free_cpuid) struct kvm_cpuid2 *host = NULL;
    int r = host_cpuid(kvm_fd, &host, fault);
    if (r < 0)
        return r;
    return cpu_model_build(model, host, index, vcpus, cpuid, fault);
}

void cpu_model_set_tsc_khz(struct kvm_cpuid2 *cpuid, uint32_t tsc_khz)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == LEAF_KVM_TIMING)
            cpuid->entries[i].eax = tsc_khz;
    }
}
