/* Named CPU baselines: what a guest may see, and whether this host can give it.
 *
 * Flow:   host CPUID, KVM's supported CPUID -> [cpu_model] -> vcpu, agent's host facts
 * Thread: any; tables are constant.
 *
 * Levels are those of the x86-64 psABI (x86-64-v1 to -v4), with the paravirtual KVM leaves (clock)
 * added. A guest's CPUID is a function of the baseline, the vCPU number, the processor's vendor and
 * its TSC frequency: the last two cannot be pretended (cpu_model.c says why), so a guest keeps
 * them.
 */
#ifndef GODWIT_VMM_CORE_CPU_MODEL_H
#define GODWIT_VMM_CORE_CPU_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cpu_model;
struct fault;
struct kvm_cpuid2;

enum { CPU_MODEL_MISSING_MAX = 512, CPU_MODEL_ENTRIES_MAX = 64, CPU_MODEL_VENDOR_SIZE = 13 };

/* NULL for a name that is no baseline. Constant memory. */
const struct cpu_model *cpu_model_find(const char *name);
size_t cpu_model_count(void);
const struct cpu_model *cpu_model_at(size_t index); /* weakest first */
const char *cpu_model_name(const struct cpu_model *model);
bool cpu_model_has_xsave(const struct cpu_model *model);

/* Can this host's KVM give `model`? 0, or ERR_CPU_COMPAT with the missing features by name in
 * the fault's text and, space-separated, in ret_missing (may be NULL). */
int cpu_model_check_host(const struct cpu_model *model, int kvm_fd, char *ret_missing,
                         size_t missing_size, struct fault *fault);

/* Fill `cpuid` (room for cpuid->nent entries, at least CPU_MODEL_ENTRIES_MAX) with what vCPU
 * `index` of `vcpus` sees. */
int cpu_model_cpuid(const struct cpu_model *model, int kvm_fd, unsigned index, unsigned vcpus,
                    struct kvm_cpuid2 *cpuid, struct fault *fault);
/* The same from what the host's KVM offers: of it only the vendor and the places of vector state
 * count. Part of the machine version. */
int cpu_model_build(const struct cpu_model *model, const struct kvm_cpuid2 *host, unsigned index,
                    unsigned vcpus, struct kvm_cpuid2 *cpuid, struct fault *fault);
/* Fill the timing leaf of a table that cpu_model_cpuid made. */
void cpu_model_set_tsc_khz(struct kvm_cpuid2 *cpuid, uint32_t tsc_khz);

/* "GenuineIntel", "AuthenticAMD": guests move between hosts of one vendor only. */
int cpu_model_host_vendor(int kvm_fd, char ret_vendor[static CPU_MODEL_VENDOR_SIZE],
                          struct fault *fault);

#endif
