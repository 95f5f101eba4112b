/* What a VM's description must be to be possible, and what follows from it: pure questions.
 *
 * Flow:   vm_spec.proto -> [vm_spec] -> cli, coordinator, agent, agent/vm
 * Thread: any; no state.
 *
 * A disk that moves lies beneath a `store`, a folder that several hosts see as the same one
 * (`shared: true`). The first writable one of them also holds the VM's stamp (storage/stamp.h). A
 * writable disk that is not shared ties the VM to its host.
 */
#ifndef GODWIT_PROTO_VM_SPEC_H
#define GODWIT_PROTO_VM_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/vm_spec.pb-c.h"

struct fault;

enum {
    VM_SPEC_MAC_BYTES = 6,
    VM_SPEC_MAC_SIZE = 18,
    VM_SPEC_BRIDGE_MAX = 15,
    VM_SPEC_META_SIZE = 256,
};

/* Disks, nics, cloud-init, console, boot: ERR_INVALID names the field, what was found and what
 * would fit. Name, memory and CPUs are judged by who fills them in. */
int vm_spec_judge(const Godwit__VmSpec *spec, struct fault *fault);

bool vm_spec_disk_is_shared(const Godwit__DiskSpec *disk);
/* The store that holds the VM's stamp; NULL: no shared disk is written, it needs none. */
const char *vm_spec_stamp_store(const Godwit__VmSpec *spec);
/* The first disk that ties the VM to its host; NULL: none does. */
const Godwit__DiskSpec *vm_spec_tying_disk(const Godwit__VmSpec *spec);
/* Disks of the machine: the spec's, and the cloud-init seed after them. */
unsigned vm_spec_disk_count(const Godwit__VmSpec *spec);
unsigned vm_spec_nic_queues(const Godwit__NicSpec *nic);
/* Descriptors of its tap, one for each queue; 0: it is unplugged and has none. */
unsigned vm_spec_nic_taps(const Godwit__NicSpec *nic);
/* Does libvirt run it? Then its disks and nics are libvirt's, and not in the description. */
bool vm_spec_is_libvirt(const Godwit__VmSpec *spec);
bool vm_spec_boots_from_disk(const Godwit__VmSpec *spec);
/* A request of it that fails waits, and the guest stands still. */
bool vm_spec_disk_waits(const Godwit__DiskSpec *disk);
/* Is it made from an image? Its place is then filled in by the coordinator where it is not given. */
bool vm_spec_disk_is_clone(const Godwit__DiskSpec *disk);
bool vm_spec_has_clones(const Godwit__VmSpec *spec);
/* It was made with content, from an image or a snapshot: an empty one is no replacement. */
bool vm_spec_disk_is_given_content(const Godwit__DiskSpec *disk);
/* Some disk is made from a snapshot. */
bool vm_spec_is_of_snapshot(const Godwit__VmSpec *spec);
/* meta-data of a cloud-init seed whose description gives none. */
void vm_spec_meta_data(const Godwit__VmSpec *spec, const char *vm_id,
                       char ret_text[static VM_SPEC_META_SIZE]);
/* A disk named root, before all others and otherwise as by default; the spec's own. NULL: no memory. */
Godwit__DiskSpec *vm_spec_put_root(Godwit__VmSpec *spec);
/* 64 lower-case hex digits: also fit for a file's name. NULL is none. */
bool vm_spec_digest_is_valid(const char *text);
/* How long a pause waits for a guest that is told of it; 0: it is not told, or has no vsock. */
uint64_t vm_spec_notice_ms(const Godwit__VmSpec *spec);
uint32_t vm_spec_notice_port(const Godwit__VmSpec *spec);

/* "52:54:00:12:34:56", of one station. */
bool vm_spec_mac_parse(const char *text, uint8_t ret_mac[static VM_SPEC_MAC_BYTES]);
void vm_spec_mac_print(const uint8_t mac[static VM_SPEC_MAC_BYTES],
                       char ret_text[static VM_SPEC_MAC_SIZE]);
/* The address that nic `index` of this VM gets when its description names none: locally
 * administered, the same whoever asks. */
void vm_spec_mac_make(const char *vm_id, unsigned index,
                      uint8_t ret_mac[static VM_SPEC_MAC_BYTES]);

#endif
