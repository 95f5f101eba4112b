/* The 8254 timer, which lives in the kernel.
 *
 * Flow:   KVM -> [pit] -> section "pit" -> [pit] -> KVM
 * Thread: whoever holds the paused vm.
 *
 * A channel's count starts over when it is loaded (KVM takes the load as its beginning), so a
 * periodic tick shifts its phase by up to one period and a one-shot fires late by as much as had
 * passed; neither is lost.
 */
#ifndef GODWIT_VMM_CORE_PIT_H
#define GODWIT_VMM_CORE_PIT_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct fault;

enum { PIT_CHANNELS = 3 };

struct pit_guest {                                       /* travels */
    struct kvm_pit_channel_state channels[PIT_CHANNELS]; /* count_load_time: host's, kept zero */
    uint32_t flags;
};

extern const struct device pit_device;

/* Guest half <-> packed PitStateV1. */
int pit_save(const struct pit_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int pit_load(struct pit_guest *ret_guest, const uint8_t *bytes, size_t count, struct fault *fault);

#endif
