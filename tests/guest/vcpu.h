/* One virtual processor: starting it, and the loop it stays in for ever.
 *
 * Flow:   boot.S -> vcpu_enter -> [vcpu] loop: heartbeat, registers, sweep, writer, and on vCPU 0
 *         disk, nic, vsock, command
 * Thread: each vCPU its own struct; vCPU 0 reads the others' numbers.
 */
#ifndef GUEST_VCPU_H
#define GUEST_VCPU_H

#include <stdbool.h>
#include <stdint.h>

#include "heartbeat.h"
#include "registers.h"

enum vcpu_pin { VCPU_PIN_NONE, VCPU_PIN_SSE, VCPU_PIN_AVX }; /* the values of `fpu=` */

struct vcpu {
    struct vcpu *self; /* read through GS, to see that its base holds */
    uint32_t index;
    bool started;     /* atomic */
    bool pinned;      /* its registers hold patterns */
    bool gs_bad;
    uint64_t sweep_seen, sweep_done; /* atomic */
    uint64_t pages_written;          /* by writers */
    uint64_t table_sum;              /* see test_memory.h */
    uint64_t beats_at_stats;         /* vCPU 0's */
    struct heartbeat heartbeat;
    struct registers registers;
};

struct vcpu *vcpu_get(uint32_t index);

/* Starts vCPUs 1 to vcpus - 1. Returns how many run then, with this one; reports those that do not.
 * */
uint32_t vcpu_start_all(uint32_t vcpus, enum vcpu_pin pin_registers, uint64_t seed);
uint32_t vcpu_count(void);

/* One beat with its costly checks now and then. Returns the TSC. */
uint64_t vcpu_beat(struct vcpu *vcpu);

/* After every change of `pages_written` or `table_sum`. */
void vcpu_keep_sums(const struct vcpu *vcpu);

bool vcpu_registers_hold(uint32_t vcpus);
__attribute__((noreturn)) void vcpu_enter(uint32_t index);

#endif
