/* The two 8259s and the IOAPIC, which live in the kernel.
 *
 * Flow:   KVM -> [irqchip] -> section "irqchip" -> [irqchip] -> KVM
 * Thread: whoever holds the paused vm.
 */
#ifndef GODWIT_VMM_CORE_IRQCHIP_H
#define GODWIT_VMM_CORE_IRQCHIP_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct fault;

struct irqchip_guest { /* travels */
    struct kvm_pic_state pic_master, pic_slave;
    struct kvm_ioapic_state ioapic;
};

extern const struct device irqchip_device;

/* Guest half <-> packed IrqchipStateV1. */
int irqchip_save(const struct irqchip_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int irqchip_load(struct irqchip_guest *ret_guest, const uint8_t *bytes, size_t count,
                 struct fault *fault);

#endif
