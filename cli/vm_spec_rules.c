#include "cli/vm_spec_rules.h"

#include <stdio.h>
#include <string.h>

#include "base/own.h"
#include "proto/limits.h"

static const struct vm_spec_rule rules[] = {
    {"hosts.memory", VM_SPEC_BYTES, MIB(64), UINT64_C(1) << 50, {0}, "of a simulated host"},
    {"vms.memory", VM_SPEC_BYTES, MIB(2), UINT64_C(1) << 46, {0}, "of a simulated VM"},
    {"vms.used", VM_SPEC_BYTES, 0, UINT64_C(1) << 46, {0}, "of a simulated VM's memory"},
    {"vms.writes", VM_SPEC_BYTES, 0, UINT64_C(1) << 40, {0}, "of a simulated VM, in a second"},
    {"link", VM_SPEC_BYTES, MIB(1), UINT64_C(1) << 40, {0}, "of a simulated pool, in a second"},
    {"vms", VM_SPEC_PLAIN, 0, 0, {0}, "that godwit up brings up and godwit destroy takes away"},
    {"count", VM_SPEC_PLAIN, 1, 1000, {0}, "that many, named NAME-1, NAME-2 ..."},
    {"image", VM_SPEC_NAME, 0, 0, {0}, "make its first disk from this image"},
    {"version", VM_SPEC_PLAIN, 1, 1, {0}, "of this form"},
    {"name", VM_SPEC_NAME, 0, 0, {0}, "of the VM, unique in the pool"},
    {"host", VM_SPEC_NAME, 0, 0, {0}, "where to start it first; absent: the coordinator chooses"},
    {"cpu", VM_SPEC_PLAIN, 0, 0, {0}, "virtual CPUs"},
    {"cpu.vcpus", VM_SPEC_PLAIN, 1, VCPUS_MAX, {0}, "how many"},
    {"cpu.baseline",
     VM_SPEC_PLAIN,
     0,
     0,
     {0},
     "CPU model like x86-64-v2; absent: the best that every host gives"},
    {"memory", VM_SPEC_PLAIN, 0, 0, {0}, "guest memory"},
    {"memory.size", VM_SPEC_BYTES, VM_MEMORY_MIN, VM_MEMORY_MAX, {0}, "in steps of 2 MiB"},
    {"memory.hugepages", VM_SPEC_PLAIN, 0, 0, {0}, "back it by huge pages"},
    {"kernel", VM_SPEC_PLAIN, 0, 0, {0}, "absolute path on the host that starts the VM"},
    {"initrd", VM_SPEC_PLAIN, 0, 0, {0}, "absolute path on the host that starts the VM"},
    {"cmdline", VM_SPEC_PLAIN, 0, 0, {0}, "the kernel's command line"},
    {"boot",
     VM_SPEC_CHOICE,
     0,
     0,
     {"kernel", "disk"},
     "kernel: the files above; disk: those that the first disk's own /boot names"},
    {"migration", VM_SPEC_PLAIN, 0, 0, {0}, "what a move may do, unless the order says otherwise"},
    {"migration.max_downtime_ms", VM_SPEC_MS, 1, 3600000, {0}, "goal for the pause"},
    {"migration.policy",
     VM_SPEC_CHOICE,
     0,
     0,
     {"gentle", "balanced", "finish"},
     "how much the guest may be disturbed"},
    {"disks", VM_SPEC_PLAIN, 0, 0, {0}, "raw disks, in the order in which the guest sees them"},
    {"disks.name", VM_SPEC_NAME, 0, 0, {0}, "of this VM's disks"},
    {"disks.path", VM_SPEC_PLAIN, 0, 0, {0}, "absolute path of a file or block device"},
    {"disks.store",
     VM_SPEC_PLAIN,
     0,
     0,
     {0},
     "a store's name or the absolute path of a folder, with file"},
    {"disks.pool_store", VM_SPEC_NAME, 0, 0, {0}, "told: the name that store was given by"},
    {"disks.file", VM_SPEC_PLAIN, 0, 0, {0}, "path beneath the store; links are not followed"},
    {"disks.size",
     VM_SPEC_BYTES,
     DISK_BYTES_MIN,
     DISK_BYTES_MAX,
     {0},
     "make the file with this size when it is not there; what was made so goes with vm rm"},
    {"disks.read_only", VM_SPEC_PLAIN, 0, 0, {0}, "the guest cannot write it"},
    {"disks.serial", VM_SPEC_PLAIN, 0, 0, {0}, "what the guest sees; absent: the name"},
    {"disks.cache",
     VM_SPEC_CHOICE,
     0,
     0,
     {"direct", "host"},
     "direct: past the host's page cache; host: through it"},
    {"disks.shared",
     VM_SPEC_PLAIN,
     0,
     0,
     {0},
     "the folder is the same on several hosts, so the VM can move; of a named store: as it is"},
    {"disks.image",
     VM_SPEC_NAME,
     0,
     0,
     {0},
     "make it from this image before the first start; store, file and size may then be absent"},
    {"disks.image_digest",
     VM_SPEC_PLAIN,
     0,
     0,
     {0},
     "SHA-256 of that image; filled in when the VM is created"},
    {"nics", VM_SPEC_PLAIN, 0, 0, {0}, "network cards"},
    {"nics.bridge", VM_SPEC_NAME, 0, 0, {0}, "of that name on every host the VM may run on"},
    {"nics.mac", VM_SPEC_PLAIN, 0, 0, {0}, "absent: made once and kept"},
    {"nics.queues", VM_SPEC_PLAIN, 1, NIC_QUEUES_MAX, {0}, "pairs of queues"},
    {"nics.mtu", VM_SPEC_PLAIN, 576, 65535, {0}, "absent: the bridge's"},
    {"rng", VM_SPEC_PLAIN, 0, 0, {0}, "a source of randomness"},
    {"balloon", VM_SPEC_PLAIN, 0, 0, {0}, "memory that the guest can give back"},
    {"vsock", VM_SPEC_PLAIN, 0, 0, {0}, "a socket between guest and host"},
    {"vsock.cid", VM_SPEC_PLAIN, 3, UINT32_MAX - 1, {0}, "the guest's address; absent: 3"},
    {"vsock.notice_port",
     VM_SPEC_PLAIN,
     1,
     UINT32_MAX - 1,
     {0},
     "where the guest listens for what becomes of it; absent: 1010"},
    {"vsock.notice_ms",
     VM_SPEC_MS,
     0,
     NOTICE_MS_MAX,
     {0},
     "how long a pause waits for its answer; absent: 1000; 0: it is not told"},
    {"console",
     VM_SPEC_CHOICE,
     0,
     0,
     {"serial", "virtio"},
     "which device godwit vm console speaks to"},
    {"cloud_init", VM_SPEC_PLAIN, 0, 0, {0}, "a NoCloud seed, made alike on every host"},
    {"cloud_init.user_data", VM_SPEC_PLAIN, 0, 0, {0}, "the file user-data"},
    {"cloud_init.meta_data",
     VM_SPEC_PLAIN,
     0,
     0,
     {0},
     "the file meta-data; absent: instance-id and local-hostname"},
    {"cloud_init.network_config", VM_SPEC_PLAIN, 0, 0, {0}, "the file network-config"},
    {"backend",
     VM_SPEC_CHOICE,
     0,
     0,
     {"embedded", "libvirt"},
     "who runs it; libvirt only for domains that were adopted"},
    {"domain_xml", VM_SPEC_PLAIN, 0, 0, {0}, "libvirt: the definition that was adopted"},
    {"ha", VM_SPEC_PLAIN, 0, 0, {0}, "what becomes of it when its host is dead"},
    {"ha.restart", VM_SPEC_PLAIN, 0, 0, {0}, "start it elsewhere, once its host is proven dead"},
    {"ha.priority", VM_SPEC_PLAIN, 0, 100, {0}, "the higher the sooner"},
};

const struct vm_spec_rule *vm_spec_rule_find(const char *path)
{
    for (size_t i = 0; i < ARRAY_COUNT(rules); i++) {
        if (strcmp(rules[i].path, path) == 0)
            return &rules[i];
    }
    return NULL;
}

void vm_spec_rule_words(const struct vm_spec_rule *rule, char *ret_words, size_t size)
{
    size_t used = 0;

    for (size_t i = 0; i < VM_SPEC_CHOICES_MAX && rule->choices[i]; i++) {
        bool is_last = i + 1 == VM_SPEC_CHOICES_MAX || !rule->choices[i + 1];
        int n = snprintf(ret_words + used, size - used, "%s%s",
                         i == 0    ? ""
                         : is_last ? " or "
                                   : ", ",
                         rule->choices[i]);
        used += n > 0 && used + (size_t)n < size ? (size_t)n : 0;
    }
}
