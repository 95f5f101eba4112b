/* The first virtio network card: numbered, checksummed frames go out to whoever echoes them, and
 * every one that comes back must be what was sent.
 *
 * Flow:   vcpu loop, command -> [nic] -> virtio
 * Thread: vCPU 0.
 *
 * A frame: the peer's MAC (all ones), ours, ethertype 0x88b5 (local experiments), then, little
 * endian, u32 magic, u32 bytes of the whole frame, u64 number, u64 seed, u64 sum of the rest, then
 * bytes made of number and seed. An echo may change the MACs and nothing else.
 */
#ifndef GUEST_NIC_H
#define GUEST_NIC_H

#include <stdbool.h>
#include <stdint.h>

struct options;

enum { NIC_ETHERTYPE = 0x88b5, NIC_MAGIC = 0x746e7767, NIC_FRAME_MIN = 60, NIC_FRAME_MAX = 1514 };

struct nic_numbers {
    uint64_t sent, echoed;
    uint64_t lost;      /* not back when the window stood still */
    uint64_t corrupt;   /* ours by ethertype, wrong by content */
    uint64_t doubled;   /* came back twice, or after being given up */
    uint64_t reordered; /* came back before one with a lower number */
    uint64_t foreign;   /* anything else received */
    uint64_t gap_ns;    /* longest time between two echoes while frames were on their way */
    uint64_t announces; /* the device asked, and was answered */
    uint64_t interrupts;
    uint32_t on_their_way;
    bool link_up, is_well;
};

/* Nothing without `nic=1` on the command line. */
void nic_init(const struct options *options);
bool nic_is_there(void);
void nic_step(uint64_t now_tsc);
void nic_set_on(bool now_on);
void nic_set_rate(uint64_t frames_per_s);
/* Sends no more, and waits until all came back or nothing comes any more. */
void nic_drain(void);
void nic_forget_gap(void);
void nic_numbers(struct nic_numbers *ret_numbers);

#endif
