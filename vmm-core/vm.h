/* One guest on /dev/kvm: memory, vCPUs, devices; boots, runs, pauses, saves, loads.
 *
 * Flow:   agent/vm -> [vm] -> vcpu, device_table, guest_memory; migrate <- [vm]
 * Thread: new, boot, load, start, free on the owner's thread; pause, resume, save from one thread
 *         at a time (owner or the scan thread of a migration); serial input from any.
 */
#ifndef GODWIT_VMM_CORE_VM_H
#define GODWIT_VMM_CORE_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bitmap;
struct cpu_model;
struct disk_mirror;
struct fault;
struct guest_memory;
struct vm;

enum {
    VM_VCPUS_MAX = 16,
    VM_CMDLINE_MAX = 4095,
    VM_DISKS_MAX = 16,
    VM_NICS_MAX = 8,
    VM_DISK_QUEUES_MAX = 16,
    VM_NIC_QUEUE_PAIRS_MAX = 8,
    VM_DISK_SERIAL_MAX = 20,
    VM_MAC_BYTES = 6,
};

/* What a guest can do to itself. Called on a vCPU thread; must not block or call back into vm. */
enum vm_event { VM_EVENT_POWER_OFF, VM_EVENT_RESET, VM_EVENT_CRASH };

/* One disk. Everything but the descriptor is part of what the guest sees and equal at both ends of
 * a move. */
struct vm_disk_config {
    int fd;         /* taken by vm_new when it returns 0; -1: comes by vm_attach_disk */
    uint64_t bytes; /* a multiple of 512; 0: as big as what is behind fd, which is there */
    bool read_only;
    unsigned queues;    /* 1 to VM_DISK_QUEUES_MAX; 0: one for each vCPU, at most 4 */
    const char *serial; /* borrowed during vm_new; up to VM_DISK_SERIAL_MAX characters */
    /* The guest is not told of a request that failed: it waits, and is tried again at the next
     * vm_resume. But a flush, which cannot be: what it was for may be gone. */
    bool waits_on_error;
};

/* One network card. A tap of several queues has one descriptor for each queue pair. */
struct vm_nic_config {
    int fds[VM_NIC_QUEUE_PAIRS_MAX]; /* as above: all there or all -1 */
    unsigned queue_pairs;            /* 1 to VM_NIC_QUEUE_PAIRS_MAX */
    uint8_t mac[VM_MAC_BYTES];
    uint16_t mtu; /* told to the guest; 0: not */
    bool unplugged; /* its link is down, it never gets a tap, and what is sent is dropped */
};

struct vm_config {
    int kvm_fd; /* borrowed during vm_new only; an open /dev/kvm */
    unsigned vcpus;
    uint64_t memory_bytes;
    bool huge_pages;
    bool adopts_memory; /* the RAM of a guest that another process of this host still has */
    int memory_fd;      /* its memfd, borrowed during vm_new */
    const struct cpu_model *cpu_model;

    /* Devices, borrowed during vm_new; in the order of their PCI slots. */
    bool console, rng, balloon;
    uint64_t vsock_cid; /* 0: no vsock */
    const struct vm_disk_config *disks;
    unsigned disk_count;
    const struct vm_nic_config *nics;
    unsigned nic_count;
    bool keeps_macs; /* what is loaded is a twin's: each card stays the one that is described here */

    /* The guest's serial port or virtio console wrote. vCPU thread, or I/O thread with the vm's
     * devices locked: take note and return. The bytes are borrowed. */
    void (*on_serial)(void *data, const uint8_t *bytes, size_t count);
    /* `fault` says more for VM_EVENT_CRASH (which exit, on which vCPU); else NULL. */
    void (*on_event)(void *data, enum vm_event event, const struct fault *fault);
    /* A request of a disk failed; the guest was told. I/O thread, with the vm's devices locked:
     * take note and return. */
    void (*on_disk_error)(void *data, unsigned disk, const struct fault *fault);
    /* The same of one that waits, the first of its disk since the last resume: whoever has the vm
     * pauses it. */
    void (*on_disk_wait)(void *data, unsigned disk, const struct fault *fault);
    void *data;
};

struct vm_disk_stats {
    uint64_t reads, read_bytes, writes, written_bytes, flushes;
    uint64_t refused; /* requests that the disk cannot have: beyond its end, unknown */
    uint64_t errors;  /* requests that failed below us */
    int last_errno;
};

struct vm_nic_stats { /* as the guest sees the directions; bytes without virtio headers */
    uint64_t received_frames, received_bytes;
    uint64_t receive_drops; /* the guest had not offered enough room */
    uint64_t sent_frames, sent_bytes;
    uint64_t send_drops; /* the tap would not have them */
};

struct vm_balloon_stats {
    uint64_t target_bytes, actual_bytes;
    uint64_t discarded_pages; /* given back to the host by the balloon, since the VM is here */
    uint64_t reported_pages;  /* the same for pages that the guest reported as free */
    bool told;                /* the guest has told what follows, if not all of it */
    uint64_t free_bytes, total_bytes, available_bytes, cache_bytes;
    uint64_t swapped_in_bytes, swapped_out_bytes, major_faults;
};

/* An empty machine: memory, vCPUs and devices exist, nothing runs, nothing is loaded. */
int vm_new(struct vm **ret_vm, const struct vm_config *config, struct fault *fault);
/* Ends vCPU threads, then frees. */
struct vm *vm_free(struct vm *vm);

struct guest_memory *vm_memory(struct vm *vm); /* borrowed, lives as long as the vm */
unsigned vm_vcpus(const struct vm *vm);

/* Give disk or nic `index`, of which vm_new got no descriptor, its backend. Until then the guest's
 * requests wait in their queues. Takes the descriptors when it returns 0. Any thread but a vCPU's,
 * running or paused. A disk that is smaller than the guest believes, or cannot be written though
 * the guest may, is refused. */
int vm_attach_disk(struct vm *vm, unsigned index, int fd, struct fault *fault);
/* As disk_track (storage/disk.h), of a disk that is attached: pages that the guest wrote. */
int vm_track_disk(struct vm *vm, unsigned index, struct bitmap *written, struct fault *fault);
/* As disk_mirror and disk_switch, of a disk that is attached. */
int vm_mirror_disk(struct vm *vm, unsigned index, struct disk_mirror *mirror, struct fault *fault);
int vm_switch_disk(struct vm *vm, unsigned index, struct fault *fault);
bool vm_disks_wait(struct vm *vm); /* a request of any disk waits for a resume */
void vm_disk_stats(struct vm *vm, unsigned index, struct vm_disk_stats *ret_stats);
int vm_attach_nic(struct vm *vm, unsigned index, const int *fds, unsigned count,
                  struct fault *fault);
void vm_nic_stats(struct vm *vm, unsigned index, struct vm_nic_stats *ret_stats);
/* Plug the cable in or out, as the guest sees it. */
int vm_set_nic_link(struct vm *vm, unsigned index, bool up, struct fault *fault);

/* Load a kernel (a Linux bzImage, or an ELF file with a PVH entry), initrd (fd or -1), command line
 * and the ACPI tables; set up vCPU 0. Bad files give ERR_INVALID with the reason. The fds are
 * borrowed. */
int vm_boot(struct vm *vm, int kernel_fd, int initrd_fd, const char *cmdline, struct fault *fault);

/* Start vCPU threads, in the paused state. Call once, after vm_boot or before vm_load. */
int vm_start(struct vm *vm, struct fault *fault);
/* Let the guest run. After vm_load, guest time goes on from the saved time plus the pause. */
int vm_resume(struct vm *vm, struct fault *fault);
/* Kick all vCPUs at once and wait until none is inside the guest and device emulation is quiet.
 * Idempotent. */
void vm_pause(struct vm *vm);
/* Of one that is paused: until what its devices began has ended, however long that takes, where vm_pause gives up after
 * a while. None of them uses guest memory behind it. */
void vm_wait_quiet(struct vm *vm);
/* The guest runs no further, and never again: for one that waits for memory which nobody can give it. Does not wait:
 * who waits for a page inside the guest stays there. */
void vm_halt(struct vm *vm);
bool vm_is_running(const struct vm *vm);

/* All state that the guest can observe, as one packed MachineStateV1 (proto/device_state.proto), in
 * device-table order. Only while paused. Gives malloc'ed bytes. */
int vm_save(struct vm *vm, uint8_t **ret_bytes, size_t *ret_count, struct fault *fault);

/* Load what vm_save gave, into a vm of the same config after vm_start and before its first
 * vm_resume. Unknown, missing, doubled or left-over sections refuse the whole; on failure the vm
 * is only fit for vm_free. `paused_ns` is how long the guest stood still already when the bytes
 * arrived; the time until vm_resume is added to it. */
int vm_load(struct vm *vm, const uint8_t *bytes, size_t count, uint64_t paused_ns,
            struct fault *fault);

/* Press the power button: a guest that listens switches itself off (VM_EVENT_POWER_OFF), in its own
 * time or never. False when it does not listen; nothing is pressed then. Any thread. */
bool vm_power_button(struct vm *vm);

/* Give the vsock its host side: a listening Unix stream socket, to which host programs connect and
 * say "CONNECT PORT\n" (dev_virtio_vsock.h). Takes it when it returns 0. Any thread but a vCPU's.
 */
int vm_attach_vsock(struct vm *vm, int fd, struct fault *fault);

/* A stream to a port of the guest, as virtio_vsock_connect (dev_virtio_vsock.h): gives the host's
 * end. ERR_NOT_FOUND: the VM has no vsock; ERR_STATE: the guest has no driver for it. Any thread
 * but a vCPU's. */
int vm_connect_vsock(struct vm *vm, uint32_t port, int *ret_fd, struct fault *fault);

/* How many bytes the guest shall lend to the host. ERR_NOT_FOUND when the VM has no balloon. */
int vm_set_balloon(struct vm *vm, uint64_t bytes, struct fault *fault);
/* What the guest told last; `ask`: and have it tell anew, which writes its memory. False when the
 * VM has no balloon. */
bool vm_balloon_stats(struct vm *vm, bool ask, struct vm_balloon_stats *ret_stats);

/* Bytes for the guest's console: its virtio console once it listens there, else its serial port.
 * Returns how many it had room for. Any thread. */
size_t vm_serial_input(struct vm *vm, const uint8_t *bytes, size_t count);

/* Hold writing vCPUs back for so many thousandths of the time (at most 990; 0: no more). Fails only
 * when it is the first time and there is no memory for it. The owner's or the scan thread. */
int vm_brake(struct vm *vm, unsigned permille, struct fault *fault);
/* How long vCPUs were held, added up over all of them. Any thread. */
uint64_t vm_held_ns(const struct vm *vm);

/* CPU time of all vCPU threads so far, in ns. Any thread. */
uint64_t vm_vcpu_cpu_ns(const struct vm *vm);

#endif
